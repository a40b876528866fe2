//! A study on an NVIDIA GPU, or on the emulator of `tests/cuda`: its runs are trained at once in one process. Without either, nothing is
//! tested here. How runs share a process is tested without a GPU in `tests/tests/several.rs`.
#![cfg(all(feature = "cuda", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_engine::{DeviceChoice, DeviceName};
use pointwise_tests::training::{send, wait_until};
use pointwise_tests::{checkpoint, clean, metrics};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Three networks, each with different kernels and algorithms.
const STUDY: &str = r#"
name = "three"
title = "Three networks"

[data]
kind = "synthetic"
limit-train = 24
limit-test = 8

[recipe]
epochs = 12
batch-size = 6
optimizer = { Adam = { lr = 0.001 } }
augment = "crop-flip"

[grid]
seeds = [1]

[[networks]]
network = { name = "wide", input = [3, 8, 8], layers = [{ Conv2d = { out_channels = 16, kernel_size = 3, padding = 1 } }, "BatchNorm2d", "ReLU", "Flatten", { Linear = { out_features = 4 } }] }

[[networks]]
network = { name = "deep", input = [3, 8, 8], layers = [{ Conv2d = { out_channels = 8, kernel_size = 3, padding = 1 } }, "ReLU", { Conv2d = { out_channels = 8, kernel_size = 3, padding = 1 } }, "ReLU", "Flatten", { Linear = { out_features = 4 } }] }

[[networks]]
network = { name = "linear", input = [3, 8, 8], layers = ["Flatten", { Linear = { out_features = 4 } }] }
"#;

/// The program that cargo built for this test, or the one of a bundle.
fn trainer(words: &[&str]) -> Command {
    let program = std::env::var_os("POINTWISE_TRAINER").filter(|path| !path.is_empty());
    let program = program.unwrap_or_else(|| OsString::from(env!("CARGO_BIN_EXE_trainer")));
    clean(Command::new(program), words)
}

/// Whether there is a GPU; reports on stderr if there is none.
fn has_gpu() -> bool {
    let found = DeviceChoice::Only(DeviceName::Cuda(0)).resolve();
    if let Err(error) = &found {
        assert!(std::env::var_os("POINTWISE_CUDA_LIBRARIES").is_none(), "{error}");
        eprintln!("skipped: {error}");
    }
    found.is_ok()
}

/// The arguments of the processes that a process has started.
fn children(process: u32) -> Vec<String> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace() {
            let line = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).skip(1).map(String::from_utf8_lossy).collect();
            found.push(words.join(" ").trim().to_owned());
        }
    }
    found
}

fn runs(out: &Path) -> [PathBuf; 3] {
    ["wide", "deep", "linear"].map(|network| out.join(format!("runs/{network}-seed1")))
}

#[test]
fn runs_at_once_are_threads_of_one_process_and_come_to_the_same() {
    if !has_gpu() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("three.toml");
    fs::write(&file, STUDY).unwrap();
    let [alone, together] = ["alone", "together"].map(|name| temp.path().join(name));
    let study = |out: &Path, more: &[&str]| {
        let line = ["reproduce", file.to_str().unwrap(), "--deterministic", "--out", out.to_str().unwrap()];
        let mut command = trainer(&[&line[..], more].concat());
        // Nothing of what was measured before on this machine, and nothing of ours for later.
        command.env("XDG_CACHE_HOME", temp.path());
        command
    };
    let output = study(&alone, &["--jobs", "1"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("one process"), "{said}");

    // Interrupted as soon as all three are under way, then continued.
    let child = study(&together, &[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = |run: &PathBuf| run.join("metrics.jsonl").metadata().is_ok_and(|file| file.len() > 0);
    wait_until("three runs have begun", || runs(&together).iter().all(begun));
    assert_eq!(children(child.id()), ["train-several"]);
    send(child.id(), "TERM", 1);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.starts_with("3 runs at once, on threads of one process\n"), "{said}");
    let output = study(&together, &["--quiet"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (alone, together) in runs(&alone).iter().zip(runs(&together)) {
        let name = together.display();
        assert!(fs::read_to_string(together.join("config.toml")).unwrap().contains("device = \"cuda:0\""));
        assert!(
            ["best", "last"].iter().all(|which| checkpoint(alone, which) == checkpoint(&together, which)),
            "{name}"
        );
        assert_eq!(metrics(alone), metrics(&together), "{name}");
        let analysis = |run: &Path| fs::read(run.join("analysis.json")).unwrap();
        assert!(analysis(alone) == analysis(&together), "{name}");
    }
}

#[test]
fn a_run_that_fails_on_a_gpu_leaves_the_others_alone() {
    if !has_gpu() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("three.toml");
    let vary =
        "\n[[grid.vary]]\nkey = \"recipe.optimizer.Adam.lr\"\nlabel = \"lr\"\nvalues = [0.001, 1e38]\n";
    fs::write(&file, STUDY.replace("epochs = 12", "epochs = 2") + vary).unwrap();
    let out = temp.path().join("out");
    let names = "wide-lr0.001,wide-lr1e38,linear-lr0.001";
    let line = ["reproduce", file.to_str().unwrap(), "--out", out.to_str().unwrap(), "--models", names];
    let output = trainer(&line).env("XDG_CACHE_HOME", temp.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("with seed 1 failed (exit status: 1): ") && said.contains("training has diverged"),
        "{said}"
    );
    for name in ["wide-lr0.001", "linear-lr0.001"] {
        assert!(out.join(format!("runs/{name}-seed1/result.json")).exists(), "{name}: {said}");
    }
}
