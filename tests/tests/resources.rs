//! Threads and memory that are not there are refused in a sentence.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_tests::{command, trainer};
use std::process::{Command, Output, Stdio};

const TRAIN: [&str; 12] = [
    "train",
    "--model",
    "alexnet",
    "--data",
    "synthetic",
    "--limit-train",
    "8",
    "--limit-test",
    "4",
    "--epochs",
    "1",
    "--quiet",
];

/// `trainer` with so many KiB of address space, and `RAYON_NUM_THREADS`.
fn limited(kibibytes: u32, threads: &str, arguments: &[&str]) -> Output {
    Command::new("sh")
        .args(["-c", "ulimit -v \"$0\" && exec \"$@\"", &kibibytes.to_string()])
        .arg(trainer())
        .args(arguments)
        .env_remove("CIFAR10_DIR")
        .env("RAYON_NUM_THREADS", threads)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// The one message of a program that failed by itself.
fn refusal(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{:?}: {stderr}", output.status);
    assert!(!stderr.contains("panicked"), "{stderr}");
    let messages: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(messages.len(), 1, "{stderr}");
    messages[0].to_owned()
}

#[test]
fn numbers_of_threads_that_the_option_does_not_take_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    let train: Vec<&str> = TRAIN.into_iter().chain(["--run-dir", run.to_str().unwrap()]).collect();
    for (value, arguments) in [
        ("5000", &train[..]),
        ("1025", &["summary"]),
        ("-1", &["data", "stats", "--data", "synthetic"]),
        ("many", &["bench", "--model", "nin"]),
        ("2.5", &["eval", "--checkpoint", run.to_str().unwrap()]),
        ("99999999999999999999", &train),
    ] {
        let output = command(arguments).env("RAYON_NUM_THREADS", value).output().unwrap();
        if arguments[0] == "eval" {
            // There is nothing to evaluate, which is said first.
            refusal(&output);
            continue;
        }
        let message = refusal(&output);
        assert!(message.contains(value) && message.contains("RAYON_NUM_THREADS"), "{message}");
        assert!(message.contains("from 1 to 1024"), "{message}");
        assert!(!run.exists());
    }
    for value in ["", "0", "1"] {
        assert!(command(["summary"]).env("RAYON_NUM_THREADS", value).output().unwrap().status.success());
    }
}

#[test]
fn threads_that_have_no_room_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    let train: Vec<&str> = TRAIN.into_iter().chain(["--run-dir", run.to_str().unwrap()]).collect();
    for threads in ["300", "900", "1000"] {
        let message = refusal(&limited(600_000, threads, &train));
        assert!(message.contains(&format!("{threads} computing threads cannot be started")), "{message}");
        assert!(message.contains("give fewer with --threads or RAYON_NUM_THREADS"), "{message}");
    }
    assert!(!run.exists());
}

#[test]
fn memory_that_is_not_there_is_refused_and_never_an_abort() {
    let temp = tempfile::tempdir().unwrap();
    let (mut refused, mut done) = (0, 0);
    for kibibytes in [120_000, 160_000, 200_000, 250_000, 300_000, 350_000, 420_000, 500_000, 4_000_000] {
        let run = temp.path().join(kibibytes.to_string());
        let train: Vec<&str> = TRAIN.into_iter().chain(["--run-dir", run.to_str().unwrap()]).collect();
        let output = limited(kibibytes, "2", &train);
        if output.status.success() {
            done += 1;
            continue;
        }
        refused += 1;
        let message = refusal(&output);
        assert!(message.contains("MiB"), "{kibibytes}: {message}");
    }
    assert!(refused >= 2 && done >= 1, "{refused} refused, {done} done");
}

#[test]
fn a_batch_that_does_not_fit_names_what_it_takes_and_the_option() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    let more = ["--limit-train", "4000", "--batch-size", "65536", "--run-dir", run.to_str().unwrap()];
    for engine in ["cpu", "reference"] {
        let mut train: Vec<&str> =
            TRAIN.iter().copied().filter(|word| !["--limit-train", "8"].contains(word)).collect();
        train.extend(more);
        train.extend(["--engine", engine]);
        let message = refusal(&limited(1_500_000, "2", &train));
        assert!(message.contains("in batches of 4000 "), "{message}");
        assert!(
            message.contains("ulimit -v") && message.contains("give a smaller --batch-size"),
            "{message}"
        );
        // Before the run begins.
        assert!(!run.exists());
        let bench = ["bench", "--model", "nin", "--batch", "65536", "--engine", engine];
        let message = refusal(&limited(1_500_000, "2", &bench));
        assert!(message.contains("in batches of 65536 ") && message.contains("GiB"), "{message}");
    }
}
