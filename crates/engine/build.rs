//! With the feature `cuda`: compiles the kernels of the engine `cuda`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The kernels, one file per subject, and the file that includes them all.
const FOLDER: &str = "src/cuda/kernels";
const SOURCE: &str = "src/cuda/kernels/kernels.cu";

/// Machine code for A100, H100 and similar GPUs, and PTX that the driver compiles for later ones.
const TARGETS: [&str; 3] =
    ["arch=compute_80,code=sm_80", "arch=compute_90,code=sm_90", "arch=compute_90,code=compute_90"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo:rerun-if-changed={FOLDER}");
    for variable in ["NVCC", "CUDA_HOME"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("kernels.fatbin");
    if let Err(reason) = compile(&out) {
        eprintln!("{reason}");
        std::process::exit(1);
    }
}

fn compile(out: &Path) -> Result<(), String> {
    let nvcc = nvcc();
    let mut command = Command::new(&nvcc);
    command.args(["-O3", "-fatbin", "-o"]).arg(out).arg(SOURCE);
    for target in TARGETS {
        command.args(["-gencode", target]);
    }
    let status = command.status().map_err(|error| {
        format!("{} cannot be started ({error}): install CUDA, or set NVCC or CUDA_HOME", nvcc.display())
    })?;
    if !status.success() {
        return Err(format!("{} could not compile {SOURCE}", nvcc.display()));
    }
    match fs::metadata(out) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{} wrote no output: {error}", nvcc.display())),
    }
}

/// `NVCC`, that of `CUDA_HOME`, or the one on the path.
fn nvcc() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    match env::var_os("CUDA_HOME") {
        Some(home) => Path::new(&home).join("bin/nvcc"),
        None => "nvcc".into(),
    }
}
