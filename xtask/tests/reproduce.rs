//! `cargo xtask reproduce` with a stand-in for the trainer.

#![cfg(unix)]

use std::{
    fs,
    num::NonZeroU32,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, OnceLock, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

use pointwise_recipe::DataKind;
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
        self.command(options).output().expect("xtask runs")
    }

    fn command(&self, options: &[&str]) -> Command {
        for file in ["calls", "threads"] {
            let _ = fs::remove_file(self.path(file));
        }
        let seeds: &[&str] = if options.contains(&"--seeds") || options.contains(&"--quick") {
            &[]
        } else {
            &["--seeds", "42,43,44"]
        };
        let mut command = clean(Command::new(env!("CARGO_BIN_EXE_xtask")));
        command
            .args(["reproduce", "--trainer", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake-trainer.sh")])
            .args(seeds)
            .args(options)
            .env("FAKE", self.0.path())
            .env_remove("RAYON_NUM_THREADS")
            .current_dir(self.0.path());
        command
    }

    /// The lines of a file that the stand-in writes.
    fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.path(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// The calls of the trainer in the newest run.
    fn calls(&self) -> Vec<String> {
        self.lines("calls")
    }
}

/// A program that is started has the default action for each signal that this process handles, even where the tests run in the
/// background of a shell, which ignores Ctrl-C. In this process each does what it always does.
fn clean(command: Command) -> Command {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
    static WATCHED: OnceLock<()> = OnceLock::new();
    WATCHED.get_or_init(|| {
        for signal in [SIGHUP, SIGINT, SIGTERM, SIGUSR1] {
            let always = Arc::new(AtomicBool::new(true));
            signal_hook::flag::register_conditional_default(signal, always).expect("signals can be handled");
        }
    });
    command
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
    assert_eq!(
        (calls.len(), calls[0].as_str(), calls[1].as_str()),
        (11, "summary --json --family study", "data stats")
    );
    assert_eq!(
        calls[10], "train --resume --model nin --seed 44 --run-dir study/runs/nin-seed44 --epochs 10 --quiet",
        "one process a run"
    );
    assert!(stderr.contains("run 1 of 9: alexnet_plain, seed 42\n"), "nothing is known at first: {stderr}");
    assert!(
        stderr.contains("run 8 of 9: nin, seed 43 (about 2 min 00 s to the end of the last run)"),
        "{stderr}"
    );
    assert!(
        stderr.contains("nin, seed 44: finished, epoch 10/10, accuracy 74.77 %, took 1 min 00 s\n"),
        "{stderr}"
    );
    assert!(!stderr.contains('\u{1b}'), "no bars and colours in a pipe: {stderr}");
    assert!(
        stderr.contains("looked at the data") && !stdout.contains("looked at the data"),
        "stdout is for the result"
    );
    assert_eq!(fake.lines("threads")[0], "+none", "the trainer's own");
    let first = fs::read(fake.path("study/study.json")).unwrap();

    // Quiet: the result only.
    let (code, quiet, stderr) = seen(fake.run(&["--quiet", "--out", "quiet"]));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(quiet.replace("quiet/", "study/"), stdout);

    // Again: nothing is trained, and the report is the same.
    let (code, _, stderr) = seen(fake.run(&[]));
    assert_eq!((code, fake.calls()), (0, vec!["summary --json --family study".to_owned()]));
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
        code == 3 && stdout.contains("Different: the published final test accuracy of alexnet_plain"),
        "{stdout}"
    );

    let good = Fake::new(|_| {});
    let (code, stdout, _) = seen(good.run(&["--seeds", "42"]));
    assert!(code == 5 && stdout.contains("Undecided: ") && stdout.contains("too few seeds"), "{stdout}");

    let short = Fake::new(|run| {
        run.config.recipe.epochs = 2;
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
    run.config.data = DataKind::Synthetic;
    run.config.recipe.epochs = 5;
    run.config.limit_train = NonZeroU32::new(2016);
    run.config.limit_test = NonZeroU32::new(504);
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
         --data synthetic --limit-train 2016 --limit-test 504 --quiet"
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
    let (code, _, stderr) = seen(fake.run(&["--data-dir", "no/such"]));
    assert!(code == 1 && stderr.contains("no/such does not exist") && fake.calls().is_empty(), "{stderr}");

    write(&fake.path("study/runs/nin-seed44"), &{
        let mut run = testing::run("nin", 44, 60.0);
        run.config.recipe.epochs = 3;
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
    assert!(code == 130 && stderr.contains("the same command continues"), "{stderr}");
    assert_eq!(fake.calls().len(), 3, "no run is tried after an interruption");
    assert!(!fake.path("study/report.md").exists());
}

#[test]
fn runs_at_once_share_the_threads_and_come_to_the_same() {
    let fake = Fake::new(|_| {});
    let (code, ..) = seen(fake.run(&["--threads", "4"]));
    assert_eq!((code, fake.calls()[2].contains(" --threads 4 ")), (0, true));
    fake.put("together", "3");
    let (code, _, stderr) = seen(fake.run(&["--jobs", "3", "--threads", "4", "--out", "other"]));
    assert_eq!(code, 0, "{stderr}");
    assert!(fake.calls()[2..].iter().all(|call| !call.contains("--threads")), "not into the configuration");
    assert_eq!(most(&fake.lines("threads")), (3, 4), "three at once, on all four threads");
    for file in ["study.json", "report.md"] {
        let [one, three] = ["study", "other"].map(|out| fs::read(fake.path(out).join(file)).unwrap());
        assert!(one == three, "{file} differs");
    }

    // No more runs than threads.
    fake.put("together", "2");
    let (code, _, stderr) =
        seen(fake.run(&["--jobs", "3", "--threads", "2", "--out", "third", "--models", "nin"]));
    assert!(stderr.contains("2 runs at once instead of 3: there are 2 computing threads\n"), "{stderr}");
    assert_eq!((code, most(&fake.lines("threads"))), (4, (2, 2)), "{stderr}");
}

/// Most runs and most threads at once, from the starts and ends of runs.
fn most(lines: &[String]) -> (i32, i32) {
    let (mut runs, mut threads, mut most) = (0, 0, (0, 0));
    for line in lines {
        let change: i32 = line.parse().expect("signed threads");
        (runs, threads) = (runs + change.signum(), threads + change);
        most = (most.0.max(runs), most.1.max(threads));
    }
    assert_eq!((runs, threads), (0, 0), "every run has ended");
    most
}

#[test]
fn a_signal_stops_all_runs_and_a_second_interrupt_at_once() {
    let fake = Fake::new(|_| {});
    fake.put("hang", "");
    for (signal, stubborn) in
        [("-INT", false), ("-TERM", false), ("-HUP", false), ("-USR1", false), ("-TERM", true)]
    {
        let _ = fs::remove_file(fake.path("stopped"));
        if stubborn {
            fake.put("stubborn", "");
        }
        let mut child = fake
            .command(&["--jobs", "2", "--threads", "2"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("xtask runs");
        // The stand-in is ready for a signal before it says that it has started.
        wait_until("two runs have started", || fake.lines("threads").len() == 2);
        let id = child.id().to_string();
        let send = |signal: &str| {
            let sent = Command::new("kill").args([signal, &id]).stderr(Stdio::null()).status();
            assert!(sent.expect("kill runs").success() || stubborn);
        };
        send(signal);
        if stubborn {
            // However often it comes, such a request waits for the runs.
            for _ in 0..4 {
                thread::sleep(Duration::from_millis(100));
                send(signal);
            }
            assert!(child.try_wait().expect("a child").is_none());
            wait_until("xtask ends", || {
                send("-INT");
                child.try_wait().expect("a child").is_some()
            });
        }
        let (code, _, stderr) = seen(child.wait_with_output().expect("xtask ends"));
        assert_eq!(code, 130, "{signal}: {stderr}");
        assert!(stderr.contains("stopping all runs after the step in hand"), "{signal}: {stderr}");
        assert!(stderr.contains("interrupted: the same command continues"), "{signal}: {stderr}");
        let mut stopped = fake.lines("stopped");
        stopped.sort();
        let asked: &[&str] = if stubborn { &[] } else { &["alexnet_plain-seed42", "alexnet_plain-seed43"] };
        assert_eq!(stopped, asked, "{signal}");
        assert_eq!(fake.calls().len(), 4, "{signal}: no run is started after the signal");
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Cargo is the program that takes longest.
#[test]
fn a_signal_ends_the_build_too() {
    let fake = Fake::new(|_| {});
    fake.put("cargo", "#!/bin/sh\ntouch \"$FAKE/building\"\nexec sleep 600\n");
    fs::set_permissions(fake.path("cargo"), fs::Permissions::from_mode(0o755)).expect("a program");
    for signal in ["-TERM", "-HUP"] {
        let mut command = clean(Command::new(env!("CARGO_BIN_EXE_xtask")));
        command.args(["reproduce", "--quick"]).env("CARGO", fake.path("cargo")).env("FAKE", fake.0.path());
        command.current_dir(fake.0.path()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().expect("xtask runs");
        wait_until("cargo builds", || fake.path("building").exists());
        fs::remove_file(fake.path("building")).expect("written by cargo");
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
        let (code, _, stderr) = seen(child.wait_with_output().expect("xtask ends"));
        assert!(code == 130 && stderr.contains("interrupted: the same command continues"), "{stderr}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn readers_that_have_gone_and_full_disks_are_no_panic() {
    let fake = Fake::new(|_| {});
    let deserted = || {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        writer
    };
    let full = || fs::File::options().write(true).open("/dev/full").expect("a full device");
    type Change = fn(&mut Run);
    let verdicts: [(Change, i32); 2] =
        [(|_| {}, 0), (|run| run.result.as_mut().expect("a result").final_acc -= 0.1, 3)];
    for (change, expected) in verdicts {
        let fake = Fake::new(change);
        for (name, stdout, stderr) in
            [("1", Stdio::from(deserted()), Stdio::from(deserted())), ("2", deserted().into(), full().into())]
        {
            let output = fake.command(&["--out", name]).stdout(stdout).stderr(stderr).output();
            assert_eq!(
                output.expect("xtask runs").status.code(),
                Some(expected),
                "the verdict is the exit code"
            );
            assert!(fake.path(name).join("report.md").exists());
        }
    }
    let output = fake.command(&[]).stdout(full()).output().expect("xtask runs");
    let (code, _, stderr) = seen(output);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("error: stdout cannot be written: No space left on device"), "{stderr}");
    assert!(fake.path("study/report.md").exists());
}

#[test]
fn a_failed_run_names_itself_and_those_beside_it_are_finished() {
    let fake = Fake::new(|_| {});
    fake.put("together", "2");
    fake.put("fails", "alexnet_plain-seed42");
    let (code, _, stderr) = seen(fake.run(&["--jobs", "2", "--threads", "2"]));
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr
            .contains("alexnet_plain with seed 42 failed (exit status: 1): the loss of step 7 is not finite"),
        "{stderr}"
    );
    assert!(stderr.contains("1 of 9 runs are finished, 7 were not started"), "{stderr}");
    assert!(fake.path("study/runs/alexnet_plain-seed43/result.json").exists());
    assert_eq!(fake.calls().len(), 4);
    assert!(!fake.path("study/report.md").exists());
}

#[test]
fn an_ablation_has_a_table_and_no_verdict() {
    let fake = Fake::new(|_| {});
    fake.put(
        "summary.json",
        r#"[{"model":"nin","parameters":1485386,"macs":172456448},{"model":"nin-r2","parameters":1037962,"macs":122665472}]"#,
    );
    for seed in 42..=44 {
        let mut run = testing::run("nin", seed, 60.0);
        (run.config.model, run.environment.parameters) = ("nin-r2".into(), 1_037_962);
        write(&fake.path(&format!("runs/nin-r2-seed{seed}")), &run);
    }
    let (code, stdout, stderr) = seen(fake.run(&["--ablation", "pointwise"]));
    assert_eq!((code, fake.calls()[0].as_str()), (0, "summary --json --family pointwise"), "{stderr}");
    assert_eq!(fake_runs(&fake.path("study-ablation")), 6);
    assert!(stdout.contains("\nnin-r2       3     74.27 ± 0.50  0.7516 ± 0.0050   1,037,962"), "{stdout}");
    assert!(stdout.contains("2 networks beside each other, 6 runs; there is no verdict.\n"), "{stdout}");
    assert!(
        fs::read_to_string(fake.path("study-ablation/report.md")).unwrap().contains("## Accuracy and cost")
    );

    // A part of the family; and what is none of it.
    let part = ["--ablation", "pointwise", "--models", "nin-r2", "--out", "part"];
    let (code, stdout, _) = seen(fake.run(&part));
    assert!(code == 0 && stdout.contains("1 networks beside each other, 3 runs"), "{stdout}");
    let (code, _, stderr) = seen(fake.run(&["--ablation", "pointwise", "--models", "vgg"]));
    assert!(
        code == 1 && stderr.contains("does not know the network vgg here: choose from nin, nin-r2"),
        "{stderr}"
    );
}

#[test]
fn wrong_usage_is_told_from_failure() {
    let fake = Fake::new(|_| {});
    let cases: [&[&str]; 20] = [
        // What the trainer would refuse after the build.
        &["--seeds", "9223372036854775808"],
        &["--seeds", "1.5"],
        &["--epochs", "1000001"],
        &["--threads", "1025"],
        &["--engine", "torch"],
        &["--device", "gpu"],
        &["--device", "cuda:x"],
        &["--precision", "f16"],
        &["--models", "nin-r2"],
        &["--jobs", "0"],
        &["--ablation", "depth"],
        &["--models", "nin,nin"],
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
