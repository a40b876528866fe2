//! `cargo xtask reproduce` passes its arguments on, tested with a stand-in for the trainer.

#![cfg(unix)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, OnceLock, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

/// A program in a folder.
fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a program");
    path
}

/// A program that is started has the default action for each signal that this process handles, even where the tests run in the
/// background of a shell, which ignores Ctrl-C. In this process each signal keeps its default action.
fn xtask(arguments: &[&str]) -> Command {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
    static WATCHED: OnceLock<()> = OnceLock::new();
    WATCHED.get_or_init(|| {
        for signal in [SIGHUP, SIGINT, SIGTERM, SIGUSR1] {
            let always = Arc::new(AtomicBool::new(true));
            signal_hook::flag::register_conditional_default(signal, always).expect("signals can be handled");
        }
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("reproduce").args(arguments);
    command
}

/// Exit code, stdout, stderr.
fn seen(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn arguments_and_the_exit_code_are_handed_on() {
    let temp = tempfile::tempdir().unwrap();
    let trainer = script(temp.path(), "trainer", "for word; do echo \"[$word]\"; done; exit 4");
    let ours = ["--trainer", trainer.to_str().unwrap()];
    let line = |words: &[&str]| seen(xtask(&[&ours[..], words].concat()).output().unwrap());
    let (code, stdout, stderr) = line(&["--quick", "a b.toml", "--seeds", "1,2", "-q", "--help"]);
    assert_eq!(
        (code, stdout.as_str(), stderr.as_str()),
        (Some(4), "[reproduce]\n[--quick]\n[a b.toml]\n[--seeds]\n[1,2]\n[-q]\n[--help]\n", "")
    );
    let (_, stdout, _) = line(&["--ablation", "pointwise", "--jobs=3"]);
    assert_eq!(stdout, "[reproduce]\n[pointwise-ablation]\n[--jobs=3]\n");

    for words in [&["--ablation", "depth"][..], &["--features", "cuda"], &["--features"]] {
        let (code, stdout, stderr) = line(words);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{words:?}: {stderr}");
    }
    let (code, _, stderr) = seen(xtask(&["--trainer", "no/such"]).output().unwrap());
    assert!(code == Some(1) && stderr.contains("no/such is not a file"), "{stderr}");
}

#[test]
fn the_trainer_takes_the_place_of_this_process() {
    let temp = tempfile::tempdir().unwrap();
    let text = "trap 'exit 130' TERM USR1 HUP; echo $$ >\"$0.pid\"; while :; do sleep 0.05; done";
    let trainer = script(temp.path(), "trainer", text);
    let pid = temp.path().join("trainer.pid");
    for signal in ["-TERM", "-USR1", "-HUP"] {
        let mut child = xtask(&["--trainer", trainer.to_str().unwrap()]).spawn().unwrap();
        let id = format!("{}\n", child.id());
        wait_until("it is the trainer", || fs::read_to_string(&pid).is_ok_and(|text| text == id));
        let sent = Command::new("kill").args([signal, id.trim()]).status();
        assert!(sent.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(130), "{signal}");
        fs::remove_file(&pid).unwrap();
    }
}

/// Cargo is the slowest of the programs.
#[test]
fn a_signal_ends_the_build_too() {
    let temp = tempfile::tempdir().unwrap();
    let cargo = script(temp.path(), "cargo", "touch \"$0.building\"\nexec sleep 600");
    let building = temp.path().join("cargo.building");
    for signal in ["-TERM", "-HUP"] {
        let mut command = xtask(&["--quick"]);
        command.env("CARGO", &cargo).current_dir(temp.path()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        wait_until("cargo builds", || building.exists());
        fs::remove_file(&building).unwrap();
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        let (code, _, stderr) = seen(child.wait_with_output().unwrap());
        assert!(code == Some(130) && stderr.contains("interrupted: the same command continues"), "{stderr}");
    }
}
