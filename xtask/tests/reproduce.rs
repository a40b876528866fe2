//! `cargo xtask reproduce` with a stand-in for the trainer.

#![cfg(unix)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use pointwise_report::Published;
use pointwise_runs::{Run, RunFolder};
use tempfile::TempDir;

#[path = "../src/testing.rs"]
mod testing;

/// A folder with what the stand-in needs, and `study` for the results.
struct Fake(TempDir);

impl Fake {
    /// With runs of all networks and the seeds 42 to 44, each as `change` makes it.
    fn new(change: impl Fn(&mut Run)) -> Self {
        let fake = Self(tempfile::tempdir().expect("a folder"));
        let published = Published::load().expect("the published figures");
        let facts: Vec<String> = published
            .networks
            .iter()
            .map(|network| {
                // The trainer says more than is needed.
                let (name, count) = (&network.name, network.parameters);
                format!(r#"{{"model":"{name}","parameters":{count},"macs":100,"layers":[]}}"#)
            })
            .collect();
        fake.put("summary.json", &format!("[{}]", facts.join(",")));
        for network in &published.networks {
            for seed in 42..=44 {
                let mut run = testing::run(&network.name, seed, 60.0);
                change(&mut run);
                write(&fake.path(&format!("runs/{}-seed{seed}", network.name)), &run);
            }
        }
        fake
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }

    /// With three seeds, so that there is a spread; unless the options say otherwise.
    fn run(&self, options: &[&str]) -> Output {
        let _ = fs::remove_file(self.path("calls"));
        let seeds: &[&str] = if options.contains(&"--seeds") || options.contains(&"--quick") {
            &[]
        } else {
            &["--seeds", "42,43,44"]
        };
        Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(["reproduce", "--trainer", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake-trainer.sh")])
            .args(seeds)
            .args(options)
            .env("FAKE", self.0.path())
            .current_dir(self.0.path())
            .output()
            .expect("xtask runs")
    }

    /// The calls of the trainer in the newest run.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }
}

fn write(folder: &Path, run: &Run) {
    let mut writer = RunFolder::create(folder, &run.config, &run.environment).expect("a run folder");
    for record in &run.records {
        writer.append(record).expect("a record");
    }
    if let Some(result) = &run.result {
        writer.finish(result).expect("a result");
    }
}

/// Exit code, stdout, stderr.
fn seen(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("an exit code"), text(output.stdout), text(output.stderr))
}

#[test]
fn a_study_is_trained_once_and_judged() {
    let fake = Fake::new(|_| {});
    let (code, stdout, stderr) = seen(fake.run(&[]));
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("\nReproduced: ") && stdout.contains("study/report.html"), "{stdout}");
    let page = fs::read_to_string(fake.path("study/report.html")).unwrap();
    assert!(page.contains("The published results hold up") && page.contains("nin-seed44"));
    assert!(fake.path("study/report.md").exists());
    assert!(stdout.contains("nin             1,485,386  1,485,386      3     74.27 ± 0.50"), "{stdout}");
    let calls = fake.calls();
    assert_eq!((calls.len(), calls[0].as_str(), calls[1].as_str()), (11, "summary --json", "data stats"));
    assert_eq!(
        calls[10], "train --resume --model nin --seed 44 --run-dir study/runs/nin-seed44 --epochs 10",
        "one process a run"
    );
    assert!(stderr.contains("run 1 of 9: alexnet_plain, seed 42\n"), "nothing is known at first: {stderr}");
    assert!(
        stderr.contains("run 8 of 9: nin, seed 43 (about 2 min 00 s to the end of the last run)"),
        "{stderr}"
    );
    assert!(
        stderr.contains("looked at the data") && !stdout.contains("looked at the data"),
        "stdout is for the result"
    );
    let first = fs::read(fake.path("study/study.json")).unwrap();

    // Again: nothing is trained, and the report is the same.
    let (code, _, stderr) = seen(fake.run(&[]));
    assert_eq!((code, fake.calls()), (0, vec!["summary --json".to_owned()]));
    assert!(stderr.contains("9 of 9 runs are finished already"), "{stderr}");
    assert_eq!(fs::read(fake.path("study/study.json")).unwrap(), first);

    // One less: only that one is trained.
    fs::remove_dir_all(fake.path("study/runs/alexnet-seed43")).unwrap();
    let (code, ..) = seen(fake.run(&[]));
    assert_eq!((code, fake.calls().len()), (0, 3));
    assert!(fake.calls()[2].contains("--model alexnet --seed 43"));
}

#[test]
fn the_verdict_is_the_exit_code() {
    let different = Fake::new(|run| run.result.as_mut().expect("a result").final_acc -= 0.1);
    let (code, stdout, _) = seen(different.run(&[]));
    assert!(
        code == 3 && stdout.contains("Different: the published test accuracy of alexnet_plain"),
        "{stdout}"
    );

    let short = Fake::new(|run| {
        run.config.epochs = 2;
        run.result.as_mut().expect("a result").epochs = 2;
    });
    let (code, stdout, _) = seen(short.run(&["--epochs", "2"]));
    assert!(code == 4 && stdout.contains("Not comparable: epochs 2 instead of 10"), "{stdout}");
    let (code, ..) = seen(short.run(&["--epochs", "2", "--models", "nin", "--out", "other"]));
    assert_eq!((code, fake_runs(&short.path("other"))), (4, 3));
}

fn fake_runs(out: &Path) -> usize {
    fs::read_dir(out.join("runs")).map_or(0, Iterator::count)
}

fn quick(run: &mut Run) {
    run.config.data = "synthetic".into();
    run.config.epochs = 5;
    run.config.limit_train = Some(2016);
    run.config.limit_test = Some(504);
    run.result.as_mut().expect("a result").epochs = 5;
    run.environment.data_synthetic = true;
    (run.environment.train_images, run.environment.test_images) = (2016, 504);
    run.records.truncate(5);
}

#[test]
fn a_quick_study_needs_no_data_and_checks_the_counts() {
    let fake = Fake::new(quick);
    fake.put("data-exit", "1");
    let (code, stdout, stderr) = seen(fake.run(&["--quick"]));
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.contains(
            "The parameter counts and their ratios are as published; the accuracies are of synthetic images"
        ),
        "{stdout}"
    );
    assert_eq!(
        fake.calls()[1],
        "train --resume --model alexnet_plain --seed 42 --run-dir study-quick/runs/alexnet_plain-seed42 --epochs 5 \
         --data synthetic --limit-train 2016 --limit-test 504"
    );

    let other = Fake::new(|run| {
        quick(run);
        if run.config.model == "nin" {
            run.environment.parameters = 7;
        }
    });
    let facts = fs::read_to_string(other.path("summary.json")).unwrap();
    other.put("summary.json", &facts.replace("1485386", "7"));
    let (code, stdout, _) = seen(other.run(&["--quick"]));
    assert!(code == 3 && stdout.contains("The parameter counts are not all as published"), "{stdout}");
}

#[test]
fn what_stands_in_the_way_is_said_before_anything_is_trained() {
    let fake = Fake::new(|_| {});
    fake.put("data-exit", "1");
    let (code, _, stderr) = seen(fake.run(&[]));
    assert!(code == 1 && stderr.contains("--quick") && stderr.contains("--data-dir"), "{stderr}");
    assert_eq!(fake.calls().len(), 2);

    write(&fake.path("study/runs/nin-seed44"), &{
        let mut run = testing::run("nin", 44, 60.0);
        run.config.epochs = 3;
        run.result = None;
        run
    });
    let (code, _, stderr) = seen(fake.run(&[]));
    assert!(code == 1 && stderr.contains("nin-seed44 has epochs 3, not 10 as asked now"), "{stderr}");
    assert!(stderr.contains("--out") && fake.calls().is_empty(), "{stderr}");
}

#[test]
fn a_failure_and_an_interruption_of_the_trainer_are_passed_on() {
    let fake = Fake::new(|_| {});
    fake.put("train-exit", "1");
    let (code, _, stderr) = seen(fake.run(&["--models", "nin", "--seeds", "43"]));
    assert!(code == 1 && stderr.contains("the run of nin with seed 43 failed"), "{stderr}");
    fake.put("train-exit", "130");
    let (code, _, stderr) = seen(fake.run(&[]));
    assert!(code == 130 && stderr.contains("the same command goes on"), "{stderr}");
    assert_eq!(fake.calls().len(), 3, "no run is tried after an interruption");
    assert!(!fake.path("study/report.md").exists());
}

#[test]
fn wrong_usage_is_told_from_failure() {
    let fake = Fake::new(|_| {});
    let cases: [&[&str]; 8] = [
        &["--models", "vgg"],
        &["--seeds", ""],
        &["--seeds", "42,42"],
        &["--epochs", "0"],
        &["--threads", "0"],
        &["--quick", "--data-dir", "x"],
        &["--features", "cuda"],
        &["--colour"],
    ];
    for options in cases {
        let (code, _, stderr) = seen(fake.run(options));
        assert_eq!(code, 2, "{options:?}: {stderr}");
        assert!(fake.calls().is_empty());
    }
}
