//! Runs that share a process, as those of a study on a GPU do; here on the CPU, where the program does the same.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_process::Stop;
use pointwise_runs::{Activity, Run, RunFolder};
use pointwise_study::{Answer, Display, Error, Options, Order, Plan, Study, TRAIN_SEVERAL, train};
use pointwise_tests::training::{activity, send, wait_until};
use pointwise_tests::{checkpoint, command, metrics, succeed, trainer};
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// Linear networks on a few synthetic images, with five rates: a run takes a moment.
const STUDY: &str = r#"
name = "rates"
title = "Rates"

[data]
kind = "synthetic"
limit-train = 16
limit-test = 8

[recipe]
epochs = 3
batch-size = 4
optimizer = { SGD = { lr = 0.01 } }
augment = "none"

[grid]
seeds = [1]

[[grid.vary]]
key = "recipe.optimizer.SGD.lr"
label = "lr"
values = [0.01, 0.02, 0.03, 0.04, 1e38]

[[networks]]
network = { name = "linear", input = [3, 8, 8], layers = ["Flatten", { Linear = { out_features = 4 } }] }
"#;

/// Runs of these arms, at once in one process.
fn plan(out: &Path, arms: &[&str]) -> Plan {
    let study = Study::from_toml(STUDY, out).unwrap();
    let options = Options {
        arms: Some(arms.iter().map(|arm| format!("linear-lr{arm}")).collect()),
        device: Some("cpu".to_owned()),
        on_gpu: true,
        out: Some(out.to_owned()),
        ..Options::default()
    };
    let plan = Plan::new(study, options).unwrap();
    plan.write().unwrap();
    plan
}

/// A program in `folder` that adds its arguments to `calls` and then runs the script, in which `$TRAINER` is the trainer.
fn program(folder: &Path, script: &str) -> PathBuf {
    let path = folder.join("program");
    let (calls, trainer) = (folder.join("calls"), trainer());
    let head = format!("#!/bin/sh\necho \"$*\" >> '{}'\nTRAINER='{}'\n", calls.display(), trainer.display());
    fs::write(&path, head + script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn run_folder(out: &Path, arm: &str) -> PathBuf {
    out.join(format!("runs/linear-lr{arm}-seed1"))
}

fn trained(plan: &Plan, program: &Path) -> Result<Option<Vec<Run>>, Error> {
    train(plan, program, plan.existing()?, &Stop::default(), &mut Display::new(true))
}

#[test]
fn a_study_in_one_process_comes_to_the_bytes_of_one_in_many() {
    let temp = tempfile::tempdir().unwrap();
    let program = program(temp.path(), "exec \"$TRAINER\" \"$@\"\n");
    let arms = ["0.01", "0.02", "0.03", "0.04"];
    let together = temp.path().join("together");
    let runs = trained(&plan(&together, &arms), &program).unwrap().unwrap();
    assert_eq!(fs::read_to_string(temp.path().join("calls")).unwrap(), "train-several\n");
    let rates: Vec<&str> = runs.iter().map(|run| &run.config.model[9..]).collect();
    assert_eq!(rates, arms, "in the order of the arms");

    let (file, alone) = (temp.path().join("rates.toml"), temp.path().join("alone"));
    fs::write(&file, STUDY).unwrap();
    let models = arms.map(|arm| format!("linear-lr{arm}")).join(",");
    let line =
        ["reproduce", file.to_str().unwrap(), "--device", "cpu", "--models", &models, "--quiet", "--out"];
    succeed(line.iter().map(OsString::from).chain([alone.clone().into()]));
    for arm in arms {
        let [alone, together] = [&alone, &together].map(|out| run_folder(out, arm));
        for which in ["best", "last"] {
            assert!(checkpoint(&alone, which) == checkpoint(&together, which), "{arm} {which}");
        }
        assert_eq!(metrics(&alone), metrics(&together), "{arm}");
        for file in ["config.toml", "analysis.json"] {
            let read = |run: &Path| fs::read_to_string(run.join(file)).unwrap();
            assert_eq!(read(&alone), read(&together), "{arm} {file}");
        }
    }
    let fingerprints = runs.iter().map(|run| &run.environment.data_fingerprint);
    assert_eq!(fingerprints.collect::<std::collections::HashSet<_>>().len(), 1);
}

#[test]
fn a_run_that_fails_or_is_in_use_leaves_the_others_alone() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    // A run that another process is working on.
    let used = plan(&out, &["0.02"]);
    let arguments = used.train_arguments(&used.jobs()[0]).into_iter();
    succeed(arguments.chain(["--max-steps", "1"].map(OsString::from)));
    let (held, _) = RunFolder::resume(run_folder(&out, "0.02")).unwrap();
    let is_finished = |arm: &str| run_folder(&out, arm).join("result.json").exists();

    let error = trained(&plan(&out, &["0.01", "0.02", "0.03"]), trainer()).unwrap_err();
    let said = "other processes are at work on linear-lr0.02, seed 1; 2 of 3 runs are finished, and the same command \
                continues once those have ended";
    assert!(matches!(&error, Error::InUse(message) if message == said), "{error}");
    assert_eq!(["0.01", "0.02", "0.03"].map(is_finished), [true, false, true]);

    drop(held);
    let error = trained(&plan(&out, &["1e38", "0.02", "0.04"]), trainer()).unwrap_err().to_string();
    assert!(
        error.starts_with("the run of linear-lr1e38 with seed 1 failed (exit status: 1): ")
            && error.contains("training has diverged")
            && error.contains("; 2 of 3 runs are finished, 0 were not started; "),
        "{error}"
    );
    assert_eq!(["0.02", "0.04"].map(is_finished), [true, true]);
    assert_eq!(activity(&run_folder(&out, "1e38")), Activity::Failed);
}

/// Whatever ends the process ends all its runs, and the study says so at once.
#[test]
fn the_end_of_the_process_is_an_error_of_each_run() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    for (script, status) in [
        ("read order; echo 'error: no memory' >&2; kill -9 $$\n", "signal: 9 (SIGKILL)"),
        ("exec true\n", "exit status: 0, "),
    ] {
        let program = program(temp.path(), script);
        let error = trained(&plan(&out, &["0.01", "0.02"]), &program).unwrap_err().to_string();
        for arm in ["0.01", "0.02"] {
            let said = format!("the run of linear-lr{arm} with seed 1 failed ({status}");
            assert!(error.contains(&said), "{error}");
        }
        assert_eq!(error.contains("no memory"), script.contains("no memory"), "{error}");
    }
    // The same command continues.
    assert_eq!(trained(&plan(&out, &["0.01", "0.02"]), trainer()).unwrap().unwrap().len(), 2);
}

/// The images are loaded for the first run that needs them, whichever that is, and for one that needs others.
#[test]
fn equal_images_are_loaded_once() {
    let temp = tempfile::tempdir().unwrap();
    let order = |run: usize, images: &str| {
        let line = "train --quiet --model lenet --data synthetic --limit-test 4 --batch-size 4 --max-steps 1 --device cpu";
        let words = line.split_whitespace().chain(["--limit-train", images]).map(OsString::from);
        let own = ["--run-dir".into(), temp.path().join(run.to_string()).into()];
        words.chain(own).collect::<Vec<OsString>>()
    };
    let mut several = Several::start(&[order(0, "16"), order(1, "16")]);
    assert_eq!(several.codes(2), [0, 0]);
    several.order(2, order(2, "12"));
    assert_eq!(several.codes(1), [0]);
    drop(several.0.stdin.take());
    let mut said = String::new();
    several.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said.matches("data: ").count(), 2, "{said}");
    let images =
        [0, 1, 2].map(|run| Run::read(temp.path().join(run.to_string())).unwrap().environment.train_images);
    assert_eq!(images, [16, 16, 12]);
}

/// A trainer of several runs, which trains those that it is ordered to.
struct Several(Child);

impl Several {
    fn start(orders: &[Vec<OsString>]) -> Self {
        let mut command = command([TRAIN_SEVERAL]);
        command
            .env("RUST_LOG", "trainer=info")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut several = Self(command.spawn().unwrap());
        for (run, arguments) in orders.iter().enumerate() {
            several.order(run, arguments.clone());
        }
        several
    }

    fn order(&mut self, run: usize, arguments: Vec<OsString>) {
        let order = serde_json::to_string(&Order { run, arguments }).unwrap();
        writeln!(self.0.stdin.as_mut().unwrap(), "{order}").unwrap();
    }

    /// The exit codes of its runs, once all have ended.
    fn codes(&mut self, runs: usize) -> Vec<u8> {
        let stdout = BufReader::new(self.0.stdout.as_mut().unwrap());
        let answers = stdout.lines().filter_map(|line| serde_json::from_str::<Answer>(&line.unwrap()).ok());
        answers.take(runs).map(|answer| answer.code).collect()
    }
}

impl Drop for Several {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whichever way it is asked to stop, each run stops with a checkpoint, from which it continues to the same bytes as one that was never stopped.
#[test]
fn all_runs_stop_with_a_checkpoint_and_continue() {
    let temp = tempfile::tempdir().unwrap();
    let network = temp.path().join("linear.toml");
    let text =
        "name = \"linear\"\ninput = [3, 8, 8]\nlayers = [\"Flatten\", { Linear = { out_features = 4 } }]\n";
    fs::write(&network, text).unwrap();
    let arguments = |folder: &Path, seed: usize, more: &[&str]| -> Vec<OsString> {
        let line = "train --resume --quiet --data synthetic --limit-train 16 --limit-test 4 --batch-size 4 --epochs 1000000 \
                    --device cpu --log-every 1";
        let words = line.split_whitespace().chain(more.iter().copied()).map(OsString::from);
        let seed = seed.to_string().into();
        let own = [
            "--seed".into(),
            seed,
            "--model".into(),
            network.clone().into(),
            "--run-dir".into(),
            folder.into(),
        ];
        words.chain(own).collect()
    };
    for signal in [None, Some("TERM"), Some("USR1"), Some("INT")] {
        let case = signal.unwrap_or("end");
        let folders = [0, 1].map(|seed| temp.path().join(format!("{case}-{seed}")));
        let orders = |more: &[&str]| -> Vec<Vec<OsString>> {
            folders.iter().enumerate().map(|(seed, folder)| arguments(folder, seed, more)).collect()
        };
        let mut several = Several::start(&orders(&[]));
        let begun = |run: &PathBuf| run.join("metrics.jsonl").metadata().is_ok_and(|file| file.len() > 0);
        wait_until("both runs have begun", || folders.iter().all(begun));
        match signal {
            Some(signal) => send(several.0.id(), signal, 1),
            None => drop(several.0.stdin.take()),
        }
        assert_eq!(several.codes(2), [130, 130], "{case}");
        drop(several.0.stdin.take());
        assert_eq!(several.0.wait().unwrap().code(), Some(0), "{case}");
        for folder in &folders {
            assert_eq!(activity(folder), Activity::Interrupted, "{case}");
        }

        // Together, a hundred steps beyond the more advanced one; and alone from the beginning.
        let step = |folder: &PathBuf| Run::read(folder).unwrap().progress.unwrap().step;
        let steps = (folders.iter().map(step).max().unwrap() + 100).to_string();
        let more = ["--max-steps", steps.as_str()];
        let mut several = Several::start(&orders(&more));
        assert_eq!(several.codes(2), [0, 0], "{case}");
        for (seed, folder) in folders.iter().enumerate() {
            let alone = temp.path().join(format!("{case}-{seed}-alone"));
            succeed(arguments(&alone, seed, &more));
            assert!(checkpoint(&alone, "last") == checkpoint(folder, "last"), "{case} {seed}");
            assert_eq!(metrics(&alone), metrics(folder), "{case} {seed}");
        }
    }
}
