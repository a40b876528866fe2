//! Shared helpers of the tests of the real binary.

#[cfg(doctest)]
mod samples;
#[cfg(unix)]
pub mod training;

use pointwise_process::outside_cargo;
use pointwise_runs::Run;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
#[cfg(unix)]
use std::sync::{Arc, atomic::AtomicBool};

/// A record of the binary layout: a label and 3 x 32 x 32 bytes.
pub const RECORD: usize = 3073;

/// The `trainer` binary of this checkout, brought up to date once for each test process, or the one that the variable `POINTWISE_TRAINER` names,
/// because a bundle is tested without a checkout.
///
/// # Panics
/// When the build fails.
pub fn trainer() -> &'static Path {
    static TRAINER: OnceLock<PathBuf> = OnceLock::new();
    TRAINER.get_or_init(|| {
        let named = std::env::var_os("POINTWISE_TRAINER").filter(|path| !path.is_empty());
        named.map_or_else(|| binary("trainer"), PathBuf::from)
    })
}

/// The committed runs of the study `pointwise`, sorted by their folders.
///
/// # Panics
/// When one cannot be read.
#[must_use]
pub fn committed_runs() -> Vec<Run> {
    let entries =
        fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../data/study/runs")).expect("the runs are there");
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder").path()).collect();
    folders.sort();
    folders.iter().map(|folder| Run::read(folder).expect("a whole run")).collect()
}

/// A binary of this checkout, brought up to date once for each test process.
///
/// Cargo does not build binaries of other packages for a test, and an existing one may be older than the code.
///
/// # Panics
/// When the build fails.
pub fn binary(name: &str) -> PathBuf {
    static MESSAGES: OnceLock<Vec<Value>> = OnceLock::new();
    let messages = MESSAGES.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        outside_cargo(&mut command);
        let output = command
            // With an example among the targets, the features are those of the tests, and nothing is built for others.
            .args(["build", "--workspace", "--bins", "--examples"])
            .arg("--message-format=json-render-diagnostics")
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo can be started");
        assert!(output.status.success(), "the build of the binaries failed");
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    });
    let executable = |message: &Value| message["executable"].as_str().map(PathBuf::from);
    let named = messages.iter().filter(|message| message["target"]["name"] == name);
    named.into_iter().find_map(executable).expect("cargo names the executable")
}

/// `trainer` with arguments, in an environment without the user's variables.
pub fn command<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Command {
    clean(Command::new(trainer()), arguments)
}

/// As [`command`], for any program, such as a shell that starts the trainer.
pub fn clean<I: AsRef<OsStr>>(mut command: Command, arguments: impl IntoIterator<Item = I>) -> Command {
    #[cfg(unix)]
    watch_signals();
    command
        .args(arguments)
        .env_remove("CIFAR10_DIR")
        .env_remove("RAYON_NUM_THREADS")
        .env_remove("RUST_LOG")
        // The tests themselves may run in a job.
        .env_remove("SLURM_JOB_ID")
        // A backtrace requested by the user is not part of a message.
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null());
    command
}

/// A program that is started has the default action for each signal that this process handles, even where the tests run in the
/// background of a shell, which ignores Ctrl-C. In this process each signal keeps its default action.
#[cfg(unix)]
fn watch_signals() {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU};
    static WATCHED: OnceLock<()> = OnceLock::new();
    WATCHED.get_or_init(|| {
        for signal in [SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU] {
            let always = Arc::new(AtomicBool::new(true));
            signal_hook::flag::register_conditional_default(signal, always).expect("signals can be handled");
        }
    });
}

/// Builds a library of a few C functions that replace the system's in a program started with it in `LD_PRELOAD`: so a test simulates unusual file
/// systems and clocks.
///
/// # Panics
/// When there is no C compiler, or it fails.
#[cfg(target_os = "linux")]
pub fn preloaded(folder: &Path, source: &str) -> PathBuf {
    let (code, library) = (folder.join("preloaded.c"), folder.join("preloaded.so"));
    fs::write(&code, format!("#define _GNU_SOURCE\n{source}")).expect("the folder can be written");
    let compiler = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&code).status();
    assert!(compiler.expect("a C compiler can be started").success(), "{source}");
    library
}

/// Runs `trainer` to its end.
///
/// # Panics
/// When it cannot be started.
pub fn run<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Output {
    command(arguments).output().expect("trainer can be started")
}

/// Runs `trainer`, which must succeed, and returns its stdout.
///
/// # Panics
/// When it fails.
pub fn succeed<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("stdout is UTF-8")
}

/// Runs `trainer`, which must fail with `code` and one error message and without a panic; returns the message.
///
/// # Panics
/// When it succeeds, panics or prints not exactly one message.
pub fn fail<I: AsRef<OsStr>>(code: i32, arguments: impl IntoIterator<Item = I>) -> String {
    let output = run(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let messages: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(messages.len(), 1, "{stderr}");
    messages[0].to_owned()
}

/// Writes files in CIFAR-10's binary layout, with `records` made-up records each.
///
/// # Panics
/// When the folder cannot be written.
pub fn write_binary_layout(folder: &Path, records: usize) {
    for (file, name) in
        ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
            .iter()
            .enumerate()
    {
        let mut bytes = Vec::with_capacity(records * RECORD);
        for record in 0..records {
            let label = (file + record) % 10;
            bytes.push(label as u8);
            bytes.extend((1..RECORD).map(|place| (place * (label + 3) + 41 * record + file) as u8));
        }
        fs::write(folder.join(format!("{name}.bin")), bytes).expect("the folder can be written");
    }
}

/// The lines of a run's metrics, without the measured seconds, the only difference between equal runs.
///
/// # Panics
/// When there are none, or they are not JSON.
pub fn metrics(run: &Path) -> Vec<Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("the run has metrics");
    text.lines()
        .map(|line| {
            let mut line: Value = serde_json::from_str(line).expect("a line is JSON");
            line.as_object_mut().expect("a line is an object").retain(|key, _| !key.ends_with("seconds"));
            line
        })
        .collect()
}

/// The bytes of a run's checkpoint, `best` or `last`.
///
/// # Panics
/// When there is none.
pub fn checkpoint(run: &Path, name: &str) -> Vec<u8> {
    fs::read(run.join(format!("checkpoints/{name}.safetensors"))).expect("the run has the checkpoint")
}
