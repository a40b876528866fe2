//! Stopping: which signals request it, which are ignored, and that no training survives its parent.

#![cfg(unix)]

use pointwise_process::tie;
use pointwise_runs::Activity;
use pointwise_tests::training::{Training, activity, endless, send, wait_until};
use pointwise_tests::{binary, clean, command, succeed, trainer};
use std::path::Path;
use std::process::{Command, Stdio};

fn assert_stopped_softly(training: Training, folder: &Path, why: &str) {
    let (code, said) = training.end();
    assert_eq!(code, Some(130), "{why}: {said}");
    assert!(said.contains("interrupted after step"), "{why}: {said}");
    assert_eq!(said.matches("a second Ctrl-C stops at once").count(), 1, "{why}: {said}");
    assert!(folder.join("checkpoints/last.safetensors").is_file(), "{why}");
    assert_eq!(activity(folder), Activity::Interrupted, "{why}");
}

/// As `timeout` sends it to its child and then to the group, and batch systems again and again.
#[test]
fn requests_to_stop_leave_a_checkpoint_however_often_they_come() {
    let temp = tempfile::tempdir().unwrap();
    for name in ["TERM", "HUP", "USR1", "USR2", "XCPU", "INT"] {
        let folder = temp.path().join(name);
        let mut training = Training::start(&folder);
        training.advance(1);
        training.signal(name, 3);
        assert_stopped_softly(training, &folder, name);
    }
    // A follower of such a run is told, and the run continues.
    let folder = temp.path().join("TERM");
    let watched = command(["watch".as_ref(), folder.as_os_str()]).output().unwrap();
    assert_eq!(watched.status.code(), Some(130), "{watched:?}");
    let more = ["--resume", "--max-steps", "1"].map(str::to_owned);
    let stdout = succeed(endless(&folder).into_iter().chain(more));
    assert!(stdout.starts_with("Stopped after step "), "{stdout}");
}

/// `nohup` ignores SIGHUP, a script SIGINT for what it runs in the background.
#[cfg(target_os = "linux")]
#[test]
fn a_signal_that_is_ignored_at_the_start_stays_ignored() {
    let temp = tempfile::tempdir().unwrap();
    let names = ["HUP", "INT", "TERM", "USR1", "USR2", "XCPU"];
    for last in ["USR2", "INT"] {
        let folder = temp.path().join(last);
        let ignored: Vec<&str> = names.into_iter().filter(|name| *name != last).collect();
        let script = format!("trap '' {}; exec \"$0\" \"$@\"", ignored.join(" "));
        let mut shell = clean(Command::new("sh"), ["-c", &script]);
        shell.arg(trainer()).args(endless(&folder));
        let mut training = Training::of(shell, &folder);
        training.advance(1);
        for name in ignored {
            training.signal(name, 2);
            training.advance(2);
        }
        assert_eq!(activity(&folder), Activity::Running);
        training.signal(last, 1);
        assert_stopped_softly(training, &folder, last);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_second_interrupt_does_not_wait_for_a_disk_that_hangs() {
    use std::{fs, thread, time::Duration};

    let temp = tempfile::tempdir().unwrap();
    let (folder, hang) = (temp.path().join("run"), temp.path().join("hang"));
    let library = pointwise_tests::preloaded(
        temp.path(),
        "#include <stdlib.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n\
         int fsync(int f) { while (access(getenv(\"HANG\"), F_OK) == 0) usleep(1000); return syscall(SYS_fsync, f); }",
    );
    let mut slow = command(endless(&folder));
    slow.env("LD_PRELOAD", library).env("HANG", &hang);
    let mut training = Training::of(slow, &folder);
    training.advance(1);
    fs::write(&hang, "").unwrap();
    training.signal("INT", 1);
    training.hear("a second Ctrl-C stops at once");
    // Other requests are as patient as the first one.
    training.signal("TERM", 2);
    // Two interrupts in a moment count as one.
    thread::sleep(Duration::from_millis(500));
    assert!(training.child.try_wait().unwrap().is_none(), "it should wait for the disk");
    training.signal("INT", 1);
    let (code, said) = training.end();
    assert_eq!(code, Some(130), "{said}");
    assert!(!said.contains("interrupted after step"), "{said}");
    assert!(!folder.join("checkpoints/last.safetensors").exists());
    assert_eq!(activity(&folder), Activity::Stale);
}

#[test]
fn a_training_that_is_tied_to_its_parent_stops_with_it() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("run");
    let mut tied = command(endless(&folder));
    tie(&mut tied);
    let mut training = Training::of(tied, &folder);
    training.advance(3);
    // As the system does for a parent that ends in any way.
    drop(training.child.stdin.take());
    assert_stopped_softly(training, &folder, "the parent");
}

#[test]
fn no_signal_to_the_study_leaves_a_trainer_alone() {
    let temp = tempfile::tempdir().unwrap();
    let xtask = binary("xtask");
    for (name, code) in [("HUP", Some(130)), ("USR1", Some(130)), ("TERM", Some(130)), ("KILL", None)] {
        let out = temp.path().join(name);
        let folder = out.join("runs/nin-seed42");
        let mut study = clean(Command::new(&xtask), ["reproduce", "--quick", "--models", "nin", "--trainer"]);
        study.arg(trainer()).arg("--out").arg(&out).stdout(Stdio::null()).stderr(Stdio::null());
        let mut study = study.spawn().unwrap();
        wait_until("the run has begun", || folder.join("config.toml").is_file());
        send(study.id(), name, 1);
        assert_eq!(study.wait().unwrap().code(), code, "{name}");
        // A trainer holds the lock of its run until it ends.
        wait_until("the trainer has ended", || activity(&folder) != Activity::Running);
        assert_eq!(activity(&folder), Activity::Interrupted, "{name}");
    }
}
