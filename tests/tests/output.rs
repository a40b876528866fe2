//! Readers that go away, and disks that are full: lost progress is no error, a lost result is.

#![cfg(target_os = "linux")]

use pointwise_runs::Activity;
use pointwise_tests::training::{Training, activity, wait_until};
use pointwise_tests::{checkpoint, command, succeed, write_binary_layout};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

const SHORT: &str = "train --model alexnet --data synthetic --limit-train 8 --limit-test 4 --batch-size 4 --epochs 2 --run-dir";

fn short(folder: &Path) -> Vec<String> {
    SHORT.split(' ').map(str::to_owned).chain([folder.display().to_string()]).collect()
}

/// A pipe without a reader.
fn deserted() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe can be made");
    drop(reader);
    writer.into()
}

/// A disk without room.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").expect("there is a full device").into()
}

/// Exit code, and the output that could be read.
fn end(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("the program can be started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_training_goes_on_whoever_reads_of_it() {
    type Stream = fn() -> Stdio;
    let temp = tempfile::tempdir().unwrap();
    let cases: [(&str, Stream, Stream, i32); 5] = [
        ("nobody reads", deserted, deserted, 0),
        ("nobody reads the progress", Stdio::piped, deserted, 0),
        ("no room for the progress", Stdio::piped, full, 0),
        // The result is in the run's folder, but it could not be printed.
        ("no room for the result", full, Stdio::piped, 1),
        ("no room", full, full, 1),
    ];
    for (name, stdout, stderr, expected) in cases {
        let folder = temp.path().join(name);
        let (code, _, said) = end(command(short(&folder)).arg("-v").stdout(stdout()).stderr(stderr()));
        assert_eq!(code, Some(expected), "{name}: {said}");
        assert!(!said.contains("panicked"), "{name}: {said}");
        assert_eq!(activity(&folder), Activity::Finished, "{name}");
        assert!(!checkpoint(&folder, "last").is_empty(), "{name}");
        if name == "no room for the result" {
            assert!(said.contains("error: stdout cannot be written: No space left on device"), "{said}");
        }
    }
}

#[test]
fn an_interruption_is_told_to_nobody() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("run");
    let mut training = Training::start(&folder);
    training.advance(1);
    training.forget();
    training.signal("INT", 1);
    assert_eq!(training.end().0, Some(130));
    assert_eq!(activity(&folder), Activity::Interrupted);
}

/// Commands that print a result, some of which also report a broken input.
#[test]
fn every_command_ends_in_order_where_nobody_reads() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("run");
    succeed(short(&folder));
    fs::create_dir(temp.path().join("data")).unwrap();
    write_binary_layout(&temp.path().join("data"), 10);
    // Six whole files, with holes instead of images: there is nothing to fetch.
    fs::create_dir(temp.path().join("whole")).unwrap();
    for name in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
    {
        let file = fs::File::create(temp.path().join(format!("whole/{name}.bin"))).unwrap();
        file.set_len(10_000 * 3073).unwrap();
    }
    fs::create_dir(temp.path().join("broken")).unwrap();
    fs::write(temp.path().join("broken/config.toml"), "x").unwrap();
    let [run, runs] = [&folder, &temp.path().to_owned()].map(|path| path.display().to_string());
    let (best, page) = (format!("{run}/checkpoints/best.safetensors"), format!("{runs}/page.html"));
    let [data, whole] = ["data", "whole"].map(|name| format!("{runs}/{name}"));
    let cases: [(&[&str], i32); 15] = [
        (&["summary"], 0),
        (&["summary", "--json"], 0),
        (&["completions", "bash"], 0),
        (&["--help"], 0),
        (&["--version"], 0),
        (&["runs", &runs], 0),
        (&["compare", &run, &run], 0),
        (&["report", &run, "--out", &page], 0),
        (&["watch", &run], 0),
        (&["eval", "--checkpoint", &best, "--data", "synthetic", "--limit", "4"], 0),
        (&["data", "stats", "--data-dir", &data], 0),
        (&["data", "verify", "--data-dir", &data], 0),
        (&["data", "fetch", "--data-dir", &whole], 0),
        (&["bench", "--model", "nin", "--batch", "1", "--steps", "1", "--warmup", "0"], 0),
        // Failures stay failures.
        (&["predict", "--checkpoint", &best, "no.png"], 1),
    ];
    for (arguments, expected) in cases {
        for (stdout, stderr) in [(deserted(), deserted()), (deserted(), full())] {
            let (code, ..) = end(command(arguments).stdout(stdout).stderr(stderr));
            assert_eq!(code, Some(expected), "nobody reads {arguments:?}");
        }
        let (code, stdout, _) = end(command(arguments).stderr(full()));
        assert_eq!((code, stdout.is_empty()), (Some(expected), expected == 1), "{arguments:?}");
        let (code, _, said) = end(command(arguments).stdout(full()));
        assert_eq!(code, Some(1), "no room for {arguments:?}: {said}");
        assert!(!said.contains("panicked"), "{said}");
        assert!(expected == 1 || said.contains("error: stdout cannot be written: No space"), "{said}");
    }
    // Usage goes to stderr, and the exit code says so as well.
    for stream in [deserted(), full()] {
        assert_eq!(end(command(["train", "--colour"]).stderr(stream)).0, Some(2));
    }
}

#[test]
fn watching_ends_when_nobody_reads() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("run");
    let mut training = Training::start(&folder);
    training.advance(1);
    for (stream, expected) in [(deserted(), 0), (full(), 1)] {
        let mut watch = command(["watch".as_ref(), folder.as_os_str()]);
        let mut watch = watch.stdout(stream).stderr(Stdio::null()).spawn().unwrap();
        let mut code = None;
        wait_until("watching ends", || {
            code = watch.try_wait().unwrap().and_then(|status| status.code());
            code.is_some()
        });
        assert_eq!(code, Some(expected));
    }
    training.advance(1);
}

/// A terminal, a pipe and a file may be closed from the start.
#[test]
fn closed_streams_are_no_reason_to_stop() {
    let temp = tempfile::tempdir().unwrap();
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let folder = temp.path().join(closed);
        let script = format!("exec \"$0\" \"$@\" {closed}");
        let mut shell = pointwise_tests::clean(Command::new("sh"), ["-c", &script]);
        shell.arg(pointwise_tests::trainer()).args(short(&folder)).env_remove("TERM");
        let (code, _, said) = end(&mut shell);
        assert_eq!((code, activity(&folder)), (Some(0), Activity::Finished), "{closed}: {said}");
    }
}
