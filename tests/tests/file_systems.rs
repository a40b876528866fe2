//! File systems and clocks with missing features.

#![cfg(target_os = "linux")]

use pointwise_runs::{Activity, Run};
use pointwise_tests::training::{Training, activity, endless, send};
use pointwise_tests::{command, preloaded};
use std::fs;
use std::path::Path;
use std::process::Output;

const SHORT: &str = "train --model alexnet --data synthetic --limit-train 8 --limit-test 4 --batch-size 4 --epochs 2 --resume --run-dir";

/// Trains with a preloaded library.
fn train(folder: &Path, library: &Path) -> Output {
    command(SHORT.split(' '))
        .arg(folder)
        .env("LD_PRELOAD", library)
        .output()
        .expect("the program can be started")
}

/// The messages of a training that succeeded.
fn finished(folder: &Path, output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(activity(folder), Activity::Finished, "{said}");
    said
}

#[test]
fn a_file_system_without_locks_is_trained_on_with_one_warning() {
    let temp = tempfile::tempdir().unwrap();
    for (error, words) in [
        ("ENOSYS", "Function not implemented"),
        ("EOPNOTSUPP", "not supported"),
        ("ENOLCK", "No locks available"),
        ("EINVAL", "Invalid argument"),
        ("EPERM", "not permitted"),
    ] {
        let library = preloaded(
            temp.path(),
            &format!("#include <errno.h>\nint flock(int f, int o) {{ errno = {error}; return -1; }}"),
        );
        let folder = temp.path().join(error);
        let said = finished(&folder, &train(&folder, &library));
        assert_eq!(said.matches("warning:").count(), 1, "{error}: {said}");
        assert!(said.contains("has no locks (") && said.contains(words), "{error}: {said}");
    }
}

/// Without locks, the age of its last sign of life tells whether a run is alive.
#[test]
fn a_run_without_locks_is_followed_and_resumed() {
    let temp = tempfile::tempdir().unwrap();
    let library =
        preloaded(temp.path(), "#include <errno.h>\nint flock(int f, int o) { errno = ENOLCK; return -1; }");
    let runs = || {
        let output = command(["runs"]).arg(temp.path()).env("LD_PRELOAD", &library).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let folder = temp.path().join("run");
    let start = |more: &[&str]| {
        let mut unlocked = command(endless(&folder));
        unlocked.args(more).env("LD_PRELOAD", &library);
        Training::of(unlocked, &folder)
    };
    let mut training = start(&[]);
    training.advance(1);
    assert!(runs().contains(" running "), "{}", runs());
    training.signal("TERM", 1);
    assert_eq!(training.end().0, Some(130));
    assert!(runs().contains(" interrupted "), "{}", runs());
    let mut training = start(&["--resume"]);
    training.advance(1);
    send(training.child.id(), "KILL", 1);
    assert_eq!(training.end().0, None);
    // Only locks show a kill at once.
    assert!(runs().contains(" running "), "{}", runs());
    assert_eq!(activity(&folder), Activity::Stale);
}

#[test]
fn a_file_system_that_cannot_flush_is_trained_on() {
    let temp = tempfile::tempdir().unwrap();
    for error in ["EINVAL", "ENOSYS", "EOPNOTSUPP"] {
        let refuse = |name: &str| format!("int {name}(int f) {{ errno = {error}; return -1; }}\n");
        let source = format!("#include <errno.h>\n{}{}", refuse("fsync"), refuse("fdatasync"));
        let folder = temp.path().join(error);
        finished(&folder, &train(&folder, &preloaded(temp.path(), &source)));
    }
}

#[test]
fn a_full_disk_is_named_and_costs_nothing_but_the_new_checkpoint() {
    let temp = tempfile::tempdir().unwrap();
    let room = temp.path().join("room");
    // Large writes are those of checkpoints.
    let library = preloaded(
        temp.path(),
        "#include <errno.h>\n#include <stdlib.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n\
         ssize_t write(int f, const void *p, size_t n) {\n\
         if (n > 1000000 && access(getenv(\"ROOM\"), F_OK) != 0) { errno = ENOSPC; return -1; }\n\
         return syscall(SYS_write, f, p, n); }",
    );
    let folder = temp.path().join("run");
    let attempt = || {
        let mut command = command(SHORT.split(' '));
        command.arg(&folder).env("LD_PRELOAD", &library).env("ROOM", &room).output().unwrap()
    };
    let output = attempt();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{said}");
    assert!(said.contains("best.safetensors cannot be written (No space left on device"), "{said}");
    assert!(said.contains("check free space"), "{said}");
    assert_eq!(activity(&folder), Activity::Failed);
    assert_eq!(
        fs::read_dir(folder.join("checkpoints")).unwrap().count(),
        0,
        "no part of a checkpoint is left"
    );
    fs::write(&room, "").unwrap();
    finished(&folder, &attempt());
}

#[test]
fn a_limit_on_file_sizes_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("run");
    // In blocks of 512 or 1024 bytes: a checkpoint is larger, all other files are smaller.
    let mut shell = pointwise_tests::clean(
        std::process::Command::new("sh"),
        ["-c", "ulimit -f 1000; exec \"$0\" \"$@\""],
    );
    let output = shell.arg(pointwise_tests::trainer()).args(SHORT.split(' ')).arg(&folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot be written (File too large") && said.contains("ulimit -f"), "{said}");
}

#[test]
fn a_folder_that_goes_away_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("run");
    let mut training = Training::start(&folder);
    training.advance(1);
    fs::rename(&folder, temp.path().join("elsewhere")).unwrap();
    // At its next checkpoint or sign of life.
    let (code, said) = training.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("cannot be written (No such file or directory"), "{said}");
    assert!(said.contains("its folder is gone"), "{said}");
}

#[test]
fn a_clock_before_1970_is_no_panic() {
    let temp = tempfile::tempdir().unwrap();
    let library = preloaded(
        temp.path(),
        "#include <time.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n\
         int clock_gettime(clockid_t c, struct timespec *t) { int r = syscall(SYS_clock_gettime, c, t);\n\
         if (c == CLOCK_REALTIME) t->tv_sec = -86400; return r; }",
    );
    let folder = temp.path().join("run");
    let mut old = command(SHORT.split(' '));
    let output = old.arg(&folder).arg("--tensorboard").env("LD_PRELOAD", &library).output().unwrap();
    finished(&folder, &output);
    let started = Run::read(&folder).unwrap().environment.started;
    assert_eq!(started, "1970-01-01T00:00:00Z");
}
