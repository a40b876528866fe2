//! Studies on a cluster, with stand-ins for Slurm's programs: what is submitted, what a task does, and when its job goes back into the
//! queue. `tests/slurm` uses a real cluster.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_tests::training::{Training, endless, send, wait_until};
use pointwise_tests::{clean, command, succeed};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Two runs of a linear network.
fn study(folder: &Path, epochs: u32) -> PathBuf {
    let path = folder.join("mine.toml");
    let text = format!(
        r#"
name = "small"
title = "A small study"

[data]
kind = "synthetic"
limit-train = 16
limit-test = 8

[recipe]
epochs = {epochs}
batch-size = 4
optimizer = {{ SGD = {{ lr = 0.01 }} }}

[grid]
seeds = [1, 2]

[[networks]]
network = {{ name = "linear", input = [3, 8, 8], layers = ["Flatten", {{ Linear = {{ out_features = 4 }} }}] }}
"#
    );
    fs::write(&path, text).unwrap();
    path
}

/// Replaces a program by a shell script.
fn stand_in(folder: &Path, name: &str, script: &str) {
    fs::create_dir_all(folder).unwrap();
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// With the stand-ins first in the path.
fn with_path(mut command: Command, folder: &Path) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(folders).unwrap());
    command
}

fn seen(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The calls that a stand-in recorded.
fn calls(log: &Path) -> Vec<String> {
    fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn a_training_whose_time_is_up_puts_its_job_back_into_the_queue() {
    let temp = tempfile::tempdir().unwrap();
    let (programs, log) = (temp.path().join("bin"), temp.path().join("log"));
    let write = format!("echo \"$@\" >> '{}'", log.display());
    let refuse = "echo 'scontrol: error: Access/permission denied' >&2; exit 1";
    for (name, signals, job, script, says, expected) in [
        ("alone", "USR1", &[("SLURM_JOB_ID", "9")][..], "", "job 9 is back in the queue", Some("requeue 9")),
        (
            "task",
            "USR1",
            &[("SLURM_JOB_ID", "9"), ("SLURM_ARRAY_JOB_ID", "7"), ("SLURM_ARRAY_TASK_ID", "3")],
            "",
            "job 7_3 is back in the queue",
            Some("requeue 7_3"),
        ),
        (
            "refused",
            "USR1",
            &[("SLURM_JOB_ID", "9")],
            refuse,
            "`scontrol requeue 9` was refused (Access/permission denied); submit it again to continue",
            Some("requeue 9"),
        ),
        (
            "often",
            "USR1",
            &[("SLURM_JOB_ID", "9"), ("SLURM_RESTART_COUNT", "100")],
            "",
            "started again 100 times already",
            None,
        ),
        // Otherwise `scancel` would not end a job.
        ("terminated", "TERM", &[("SLURM_JOB_ID", "9")], "", "interrupted after step", None),
        ("no job", "USR1", &[], "", "interrupted after step", None),
    ] {
        let folder = temp.path().join(name);
        let _ = fs::remove_file(&log);
        stand_in(&programs, "scontrol", &format!("{write}\n{script}"));
        let mut training = with_path(command(endless(&folder)), &programs);
        training.envs(job.iter().copied());
        let mut training = Training::of(training, &folder);
        training.advance(1);
        training.signal(signals, 1);
        let (code, said) = training.end();
        assert_eq!(code, Some(130), "{name}: {said}");
        assert!(said.contains(says), "{name}: {said}");
        assert_eq!(calls(&log), expected.into_iter().collect::<Vec<_>>(), "{name}: {said}");
    }
}

/// Whichever process gets the signal: some clusters signal the first process of a job, others all.
#[cfg(target_os = "linux")]
#[test]
fn a_shard_puts_its_job_back_once_and_leaves_runs_in_use_alone() {
    let temp = tempfile::tempdir().unwrap();
    let (programs, log, out) = (temp.path().join("bin"), temp.path().join("log"), temp.path().join("out"));
    stand_in(&programs, "scontrol", &format!("echo \"$@\" >> '{}'", log.display()));
    let words = |shard: &str| {
        let study = study(temp.path(), 100_000);
        let line = ["reproduce", study.to_str().unwrap(), "--out", out.to_str().unwrap(), "--shard", shard];
        with_path(command(line), &programs)
    };
    let mut first = words("1/2");
    first.env("SLURM_JOB_ID", "9").stderr(Stdio::null());
    let mut first = first.spawn().unwrap();
    wait_until("the run has begun", || out.join("runs/linear-seed2/metrics.jsonl").is_file());
    let (code, _, stderr) = seen(&words("1/2").output().unwrap());
    assert_eq!(code, Some(6), "{stderr}");
    assert!(stderr.contains("other processes are at work on linear, seed 2"), "{stderr}");

    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", first.id())).unwrap();
    let child: u32 = children.split_whitespace().next().unwrap().parse().unwrap();
    send(child, "USR1", 1);
    send(first.id(), "USR1", 1);
    assert_eq!(first.wait().unwrap().code(), Some(130));
    assert_eq!(calls(&log), ["requeue 9"]);
    assert!(out.join("runs/linear-seed2/checkpoints/last.safetensors").is_file());
    assert!(!out.join("runs/linear-seed1").exists());
}

#[test]
fn shards_train_a_study_together() {
    let temp = tempfile::tempdir().unwrap();
    let (study, out) = (study(temp.path(), 2), temp.path().join("out"));
    let line = ["reproduce", study.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let with = |shard: &str| command(line.into_iter().chain(["--shard", shard]));
    let (code, stdout, stderr) = seen(&with("0/2").output().unwrap());
    assert_eq!(
        (code, stdout.as_str()),
        (Some(0), "shard 0/2 of the study small: its runs are finished (1)\n"),
        "{stderr}"
    );
    assert!(out.join("runs/linear-seed1/result.json").is_file() && !out.join("runs/linear-seed2").exists());
    let (code, stdout, stderr) = seen(&with("/2").env("JOB_COMPLETION_INDEX", "1").output().unwrap());
    assert_eq!(
        (code, stdout.as_str()),
        (Some(0), "shard 1/2 of the study small: its runs are finished (1)\n"),
        "{stderr}"
    );
    assert!(out.join("runs/linear-seed2/result.json").is_file() && !out.join("report.html").exists());
    // A shard with nothing to do.
    let (code, stdout, _) = seen(&with("2/3").output().unwrap());
    assert_eq!(
        (code, stdout.as_str()),
        (Some(0), "shard 2/3 of the study small: its runs are finished (0)\n")
    );
    let (code, _, stderr) = seen(&with("2/2").output().unwrap());
    assert!(code == Some(2) && stderr.contains("there is no part 2 of 2"), "{stderr}");
    succeed(line);
    assert!(out.join("report.html").is_file());
}

#[test]
fn a_study_is_submitted_as_far_as_it_is_missing() {
    let temp = tempfile::tempdir().unwrap();
    let (programs, log) = (temp.path().join("bin"), temp.path().join("log"));
    // Characters that a shell would interpret.
    let out = temp.path().join("it's 100% of \"it\"");
    stand_in(&programs, "scontrol", "echo 'MaxArraySize = 1001'");
    stand_in(&programs, "sbatch", &format!("printf '%s\\n' \"$@\" > '{}'; echo 77", log.display()));
    stand_in(&programs, "squeue", "echo '1|PENDING||Priority'");
    let file = study(temp.path(), 2);
    let call = |more: &[&str]| {
        let line = ["reproduce", file.to_str().unwrap(), "--out", out.to_str().unwrap(), "--slurm"];
        with_path(command(line.iter().chain(more)), &programs)
    };

    let (code, stdout, stderr) = seen(&call(&["--dry-run", "--partition", "short"]).output().unwrap());
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.starts_with("#!/bin/bash\n"), "{stdout}");
    assert!(stdout.lines().last().unwrap().starts_with("sbatch --parsable "), "{stdout}");
    assert!(stdout.contains("--partition=short"), "{stdout}");
    assert!(!out.exists() && !log.exists());

    let options = [
        "--throttle",
        "3",
        "--time",
        "1:00",
        "--sbatch=--exclude=w7",
        "--preamble",
        "echo before",
        "--epochs",
        "3",
    ];
    let (code, stdout, stderr) = seen(&call(&options).output().unwrap());
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.starts_with("job array 77 with 2 of 2 tasks, for "), "{stdout}");
    let arguments = calls(&log);
    for argument in ["--array=0-1%3", "--time=1:00", "--exclude=w7", "--signal=B:USR1@60", "--requeue"] {
        assert!(arguments.iter().any(|given| given == argument), "{argument}: {arguments:?}");
    }
    assert!(out.join("slurm/log").is_dir());
    assert_eq!(fs::read_to_string(out.join("slurm/id")).unwrap(), "77\n");
    assert_eq!(fs::read_to_string(out.join("slurm/tasks")).unwrap(), "0 linear-seed1\n1 linear-seed2\n");

    // The script is what a task runs.
    let mut bash = clean(Command::new("bash"), [arguments.last().unwrap()]);
    bash.env("SLURM_ARRAY_TASK_ID", "0").env("SLURM_ARRAY_JOB_ID", "77").env("SLURM_CPUS_PER_TASK", "1");
    let (code, stdout, stderr) = seen(&bash.output().unwrap());
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.starts_with("before\n") && stdout.contains("task 77_0 on "), "{stdout}");
    assert!(stdout.ends_with("shard 0/2 of the study small: its runs are finished (1)\n"), "{stdout}");
    let environment = fs::read_to_string(out.join("runs/linear-seed1/environment.json")).unwrap();
    assert!(environment.contains("\"threads\": 1"), "{environment}");
    assert!(fs::read_to_string(out.join("runs/linear-seed1/config.toml")).unwrap().contains("epochs = 3"));

    let status =
        with_path(command(["study".as_ref(), "status".as_ref(), out.as_os_str()]), &programs).output();
    let (_, stdout, stderr) = seen(&status.unwrap());
    let queued = |line: &&str| line.ends_with("pending (Priority)");
    assert_eq!(stdout.lines().filter(queued).count(), 1, "{stdout}{stderr}");

    // Not while that array waits.
    let (code, _, stderr) = seen(&call(&["--epochs", "3"]).output().unwrap());
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("job array 77 is at work on this study (tasks that wait or run: 1)")
            && stderr.contains("scancel 77"),
        "{stderr}"
    );
    stand_in(&programs, "squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1");
    let (code, stdout, stderr) = seen(&call(&["--epochs", "3"]).output().unwrap());
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.starts_with("job array 77 with 1 of 2 tasks, for "), "{stdout}");
    assert!(calls(&log).iter().any(|given| given == "--array=1%256"), "{:?}", calls(&log));

    stand_in(&programs, "sbatch", "echo 'sbatch: error: Invalid partition specified: x' >&2; exit 1");
    let (code, _, stderr) = seen(&call(&["--epochs", "3", "--partition", "x"]).output().unwrap());
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("sbatch did not take the job array (Invalid partition specified: x)"),
        "{stderr}"
    );
}

#[test]
fn without_slurm_nothing_is_submitted() {
    let temp = tempfile::tempdir().unwrap();
    let (study, out) = (study(temp.path(), 2), temp.path().join("out"));
    let mut line = command(["reproduce", study.to_str().unwrap(), "--out", out.to_str().unwrap(), "--slurm"]);
    let (code, _, stderr) = seen(&line.env("PATH", temp.path()).output().unwrap());
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("error: `sbatch` was not found"), "{stderr}");
    assert!(!out.join("slurm/id").exists());
    let (code, _, stderr) = seen(&command(["reproduce", "--dry-run"]).output().unwrap());
    assert!(code == Some(2) && stderr.contains("--slurm"), "{stderr}");
}
