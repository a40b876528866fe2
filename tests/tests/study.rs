//! Whole studies through the real binary: existing runs are judged, missing ones are trained, and obstacles are reported in one sentence.

#![cfg(unix)]

use pointwise_runs::{Activity, Run, RunFolder};
use pointwise_tests::training::{Training, activity, send, wait_until};
use pointwise_tests::{checkpoint, command, fail, run as run_trainer, succeed};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

#[path = "../../crates/study/src/testing.rs"]
mod testing;

/// A linear network on a few synthetic images: a run takes a moment.
const SMALL: &str = r#"
name = "small"
title = "A small study"

[data]
kind = "synthetic"
limit-train = 16
limit-test = 8

[recipe]
epochs = 2
batch-size = 4
optimizer = { SGD = { lr = 0.01 } }
augment = "none"

[grid]
seeds = [1, 2]

[[networks]]
network = { name = "linear", input = [3, 8, 8], layers = ["Flatten", { Linear = { out_features = 4 } }] }
"#;

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

/// Writes a study into a folder.
fn study(folder: &Path, content: &str) -> PathBuf {
    let path = folder.join("study-file.toml");
    fs::write(&path, content).expect("the folder can be written");
    path
}

fn write(folder: &Path, run: &Run) {
    let mut writer = RunFolder::create(folder, &run.config, &run.environment).expect("a run folder");
    for record in &run.records {
        writer.append(record).expect("a record");
    }
    writer.finish(run.result.as_ref().expect("a result")).expect("a result");
}

/// Finished runs of the published study with the seeds 42 to 44, each modified by `change`, where `reproduce --out` finds them.
fn published_runs(out: &Path, change: impl Fn(&mut Run)) {
    for network in ["alexnet_plain", "alexnet", "nin"] {
        for seed in 42..=44 {
            let mut run = testing::run(network, seed, 60.0);
            change(&mut run);
            write(&out.join(format!("runs/{network}-seed{seed}")), &run);
        }
    }
}

fn seen(output: &Output) -> (Option<i32>, &str, &str) {
    let text = |bytes| std::str::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn runs_that_are_there_are_judged_and_not_repeated() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("study");
    published_runs(&out, |_| {});
    let line = ["reproduce", "--seeds", "42,43,44", "--out", text(&out)];
    let output = run_trainer(line);
    let (code, stdout, stderr) = seen(&output);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("\nReproduced: ") && stdout.contains("study/report.html"), "{stdout}");
    assert!(stdout.contains("nin             1,485,386  1,485,386      3     74.27 \u{b1} 0.50"), "{stdout}");
    assert_eq!(stderr, "9 of 9 runs are finished already\n");
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("nin-seed44"));
    assert!(out.join("report.md").exists());
    let first = fs::read(out.join("study.json")).unwrap();

    // Quiet: only the result, and the same one.
    let output = run_trainer(line.iter().chain(&["--quiet"]));
    assert_eq!(seen(&output), (Some(0), stdout, ""));
    // The folder alone is enough.
    let output = run_trainer(["study", "report", text(&out)]);
    assert_eq!(seen(&output), (Some(0), stdout, ""));
    assert_eq!(fs::read(out.join("study.json")).unwrap(), first);
    let status = succeed(["study", "status", text(&out)]);
    assert!(status.ends_with("9 runs: 9 finished\n") && status.contains("alexnet_plain"), "{status}");
    let page = temp.path().join("page.html");
    let runs = [42, 43, 44].map(|seed| out.join(format!("runs/nin-seed{seed}")));
    let report = ["report", "--out", text(&page)].into_iter().chain(runs.iter().map(|run| text(run)));
    succeed(report);
    assert!(fs::read_to_string(&page).unwrap().contains("Pointwise") || page.exists());
}

#[test]
fn the_verdict_is_the_exit_code() {
    let temp = tempfile::tempdir().unwrap();
    let reproduce = |out: &Path, more: &[&str]| {
        let output = run_trainer(["reproduce", "--out", text(out)].iter().chain(more));
        let (code, stdout, stderr) = seen(&output);
        (code, format!("{stdout}{stderr}"))
    };
    let all = ["--seeds", "42,43,44"];
    let out = temp.path().join("different");
    published_runs(&out, |run| run.result.as_mut().expect("a result").final_acc -= 0.1);
    let (code, said) = reproduce(&out, &all);
    assert!(code == Some(3) && said.contains("Different: "), "{said}");
    let judged = run_trainer(["study", "report", text(&out)]);
    assert_eq!(judged.status.code(), Some(3));

    let out = temp.path().join("good");
    published_runs(&out, |_| {});
    let (code, said) = reproduce(&out, &["--seeds", "42"]);
    assert!(code == Some(5) && said.contains("Undecided: ") && said.contains("too few seeds"), "{said}");
    let (code, said) = reproduce(&out, &["--epochs", "2"]);
    assert!(code == Some(1) && said.contains("has epochs 10, not 2 as requested"), "{said}");
    let (code, said) = reproduce(&out, &[&all[..], &["--models", "nin"]].concat());
    assert!(code == Some(4) && said.contains("Not comparable: "), "{said}");

    let out = temp.path().join("short");
    published_runs(&out, |run| {
        run.config.recipe.epochs = 2;
        run.result.as_mut().expect("a result").epochs = 2;
    });
    let (code, said) = reproduce(&out, &[&all[..], &["--epochs", "2"]].concat());
    assert!(code == Some(4) && said.contains("Not comparable: "), "{said}");
}

#[test]
fn readers_that_have_gone_and_full_disks_are_no_panic() {
    let deserted = || {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        writer
    };
    let full = || fs::File::options().write(true).open("/dev/full").expect("a full device");
    let temp = tempfile::tempdir().unwrap();
    let [good, different] = ["good", "different"].map(|name| temp.path().join(name));
    published_runs(&good, |_| {});
    published_runs(&different, |run| run.result.as_mut().expect("a result").final_acc -= 0.1);
    let reproduce = |out: &Path| command(["reproduce", "--seeds", "42,43,44", "--out", text(out)]);
    for (out, expected) in [(&good, 0), (&different, 3)] {
        let (gone, none): (Stdio, Stdio) = (deserted().into(), deserted().into());
        let status = reproduce(out).stdout(gone).stderr(none).status().unwrap();
        assert_eq!(status.code(), Some(expected), "the verdict is the exit code");
        let status = reproduce(out).stdout(deserted()).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(expected));
        assert!(out.join("report.md").exists());
    }
    let output = reproduce(&good).stdout(full()).stderr(Stdio::piped()).output().unwrap();
    let (code, _, stderr) = seen(&output);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("error: stdout cannot be written: No space left on device"), "{stderr}");
}

#[test]
fn a_study_without_published_figures_has_a_table_and_no_verdict() {
    let temp = tempfile::tempdir().unwrap();
    let out = temp.path().join("out");
    let nin = testing::run("nin", 42, 60.0);
    write(&out.join("runs/nin-seed42"), &nin);
    let mut other = nin.clone();
    (other.config.model, other.environment.parameters) = ("nin-r2".into(), 1_037_962);
    write(&out.join("runs/nin-r2-seed42"), &other);
    let line =
        ["reproduce", "pointwise-ablation", "--models", "nin,nin-r2", "--seeds", "42", "--out", text(&out)];
    let output = run_trainer(line);
    let (code, stdout, stderr) = seen(&output);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("\nnin-r2 ") && stdout.contains("there is no verdict"), "{stdout}");
    // The folder belongs to that study.
    let message = fail(1, ["reproduce", "--out", text(&out)]);
    assert!(message.contains("holds the study `pointwise-ablation`, not `pointwise`"), "{message}");
}

/// Two recipes and two seeds: four runs, which have different names, are continued after a kill, and are judged by their folder.
#[test]
fn a_grid_is_trained_killed_and_continued() {
    let temp = tempfile::tempdir().unwrap();
    let vary = "\n[[grid.vary]]\nkey = \"recipe.optimizer.SGD.lr\"\nlabel = \"lr\"\nvalues = [0.01, 0.1]\n";
    let file = study(temp.path(), &(SMALL.to_owned() + vary));
    let [whole, parts] = ["whole", "parts"].map(|name| temp.path().join(name));
    let plan = succeed(["study", "show", "--plan", text(&file)]);
    assert!(plan.ends_with("4 runs: 2 networks, seeds 1, 2\n"), "{plan}");
    let names = ["linear-lr0.01", "linear-lr0.1"];
    assert!(names.iter().all(|name| plan.contains(&format!("\n{name} "))), "{plan}");

    let stdout = succeed(["reproduce", text(&file), "--quiet", "--out", text(&whole)]);
    assert!(stdout.contains("there is no verdict"), "{stdout}");
    let runs: Vec<PathBuf> = names
        .iter()
        .flat_map(|name| [1, 2].map(|seed| PathBuf::from(format!("runs/{name}-seed{seed}"))))
        .collect();
    let weights = |run: &Path| checkpoint(&whole.join(run), "last");
    assert!(weights(&runs[0]) != weights(&runs[1]) && weights(&runs[0]) != weights(&runs[2]));

    // Half of it, then the file changes: the existing runs are not those of the new file.
    succeed([
        "reproduce",
        text(&file),
        "--quiet",
        "--out",
        text(&parts),
        "--models",
        names[0],
        "--seeds",
        "2",
    ]);
    let status = succeed(["study", "status", text(&file), "--out", text(&parts), "--json"]);
    assert!(
        status.matches("\"finished\"").count() == 1 && status.matches("\"waiting\"").count() == 1,
        "of seed 2: {status}"
    );
    fs::write(&file, (SMALL.to_owned() + vary).replace("epochs = 2", "epochs = 3")).unwrap();
    let message = fail(1, ["reproduce", text(&file), "--out", text(&parts)]);
    assert!(message.contains("linear-lr0.01-seed2 has epochs 2, not 3"), "{message}");
    fs::write(&file, SMALL.to_owned() + vary).unwrap();

    // The rest, two at once; to the same bytes.
    succeed(["reproduce", text(&file), "--quiet", "--out", text(&parts), "--jobs", "2"]);
    for run in &runs {
        assert!(weights(run) == checkpoint(&parts.join(run), "last"), "{}", run.display());
    }
    let one = succeed(["report", text(&whole.join(&runs[0])), "--out", text(&temp.path().join("page.html"))]);
    assert!(one.ends_with("page.html\n"));
}

/// Whatever ends the study, each run ends with a checkpoint, and the same command continues.
#[test]
fn an_interrupted_study_continues() {
    let temp = tempfile::tempdir().unwrap();
    let file = study(temp.path(), &SMALL.replace("epochs = 2", "epochs = 1000000"));
    let short = study(
        &{
            let folder = temp.path().join("short");
            fs::create_dir(&folder).unwrap();
            folder
        },
        SMALL,
    );
    for (name, code) in [("USR1", Some(130)), ("TERM", Some(130)), ("KILL", None)] {
        let out = temp.path().join(name);
        let folder = out.join("runs/linear-seed1");
        let mut child = command(["reproduce", text(&file), "--seeds", "1", "--out", text(&out)])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        wait_until("the run has begun", || {
            folder.join("metrics.jsonl").metadata().is_ok_and(|file| file.len() > 0)
        });
        let status = succeed(["study", "status", text(&out)]);
        assert!(status.ends_with("1 runs: 1 running\n"), "{status}");
        send(child.id(), name, 1);
        let status = child.wait().unwrap();
        assert_eq!(status.code(), code, "{name}");
        // A trainer holds the lock of its run until it ends.
        wait_until("the trainer has ended", || activity(&folder) != Activity::Running);
        assert_eq!(activity(&folder), Activity::Interrupted, "{name}");
        // It cannot be judged, and another length is another study.
        let message = fail(1, ["study", "report", text(&out)]);
        assert!(message.contains("there is no finished run of the study `small`"), "{message}");
        let message = fail(1, ["reproduce", text(&short), "--seeds", "1", "--out", text(&out)]);
        assert!(message.contains("has epochs 1000000, not 2"), "{message}");
    }
}

/// One process trains a run; any other that needs it gets a separate exit code.
#[test]
fn a_run_in_use_has_an_exit_code() {
    let temp = tempfile::tempdir().unwrap();
    let (file, out) =
        (study(temp.path(), &SMALL.replace("epochs = 2", "epochs = 1000000")), temp.path().join("out"));
    let folder = out.join("runs/linear-seed1");
    let line = ["reproduce", text(&file), "--seeds", "1", "--out", text(&out)];
    let mut first = Training::of(command(line), &folder);
    first.advance(1);
    let message = fail(6, line);
    assert!(message.contains("other processes are at work on linear, seed 1"), "{message}");
    let message = fail(6, ["train", "--resume", "--run-dir", text(&folder)]);
    assert!(message.contains("is in use by another process"), "{message}");
    first.signal("TERM", 1);
    assert_eq!(first.end().0, Some(130));
}

#[test]
fn what_stands_in_the_way_is_said_before_anything_is_trained() {
    let temp = tempfile::tempdir().unwrap();
    let reproduce = |code: i32, words: &[&str]| {
        let output = command(["reproduce"].iter().chain(words)).current_dir(temp.path()).output().unwrap();
        let (found, stdout, stderr) = seen(&output);
        assert_eq!((found, stdout), (Some(code), ""), "{words:?}: {stderr}");
        assert!(!temp.path().join("study/runs/nin-seed42").exists());
        stderr.to_owned()
    };
    let said = reproduce(1, &["--data-dir", "no/such"]);
    assert!(said.contains("no/such does not exist"), "{said}");
    fs::create_dir(temp.path().join("empty")).unwrap();
    let said = reproduce(1, &["--data-dir", "empty"]);
    assert!(said.contains("--quick") && said.contains("--data-dir"), "{said}");
    let said = reproduce(2, &["--models", "vgg"]);
    assert!(
        said.contains("`vgg` is not a network of the study: choose from alexnet_plain, alexnet, nin"),
        "{said}"
    );
    let said = reproduce(2, &["pointwise-ablaton"]);
    assert!(said.contains("there is no study `pointwise-ablaton`"), "{said}");
    let said = reproduce(2, &["no/such.toml"]);
    assert!(said.contains("no/such.toml"), "{said}");
    for (from, to, words) in [
        ("epochs = 2", "epoch = 2", &["line 11", "epoch"][..]),
        ("title", "titel", &["titel"]),
        ("[grid]", "[[published]]\nnetwork = \"nobody\"\n[grid]", &["nobody"]),
        ("out_features = 4", "out_features = 0", &["0"]),
    ] {
        let wrong = SMALL.replace(from, to);
        assert_ne!(wrong, SMALL, "{from}");
        let file = study(temp.path(), &wrong);
        let said = reproduce(2, &[text(&file)]);
        assert!(
            said.contains("study-file.toml") && words.iter().all(|word| said.contains(word)),
            "{to}: {said}"
        );
    }
}

#[test]
fn studies_are_listed_and_shown() {
    let temp = tempfile::tempdir().unwrap();
    let list = succeed(["study", "list"]);
    assert!(list.lines().any(|line| line.starts_with("pointwise ") && line.contains(" yes ")), "{list}");
    assert!(
        list.lines().any(|line| line.starts_with("pointwise-ablation ") && line.contains(" no ")),
        "{list}"
    );
    let json: serde_json::Value = serde_json::from_str(&succeed(["study", "list", "--json"])).unwrap();
    assert_eq!((&json[0]["name"], &json[0]["runs"]), (&"pointwise".into(), &3.into()));
    // The output is a valid study.
    let file = study(temp.path(), &succeed(["study", "show", "keras-cnn"]));
    assert_eq!(
        succeed(["study", "show", text(&file), "--plan"]),
        succeed(["study", "show", "keras-cnn", "--plan"])
    );
    let schema = succeed(["study", "show", "--schema"]);
    assert!(schema.contains("\"networks\"") && schema.contains("additionalProperties"), "{schema}");
    let networks = succeed(["summary", "--study", "pointwise"]);
    assert_eq!(networks.lines().count(), 4, "{networks}");
    let status = command(["study", "status"]).current_dir(temp.path()).output().unwrap();
    assert!(String::from_utf8(status.stdout).unwrap().ends_with("3 runs: 3 waiting\n"));
    let message = fail(1, ["study", "status", text(temp.path())]);
    assert!(message.contains("it has no study.toml"), "{message}");
}

/// Pictures of two classes that differ in colour.
fn pictures(folder: &Path) {
    for (class, red) in [("apples", 200), ("pears", 40)] {
        let folder = folder.join(class);
        fs::create_dir_all(&folder).expect("the folder can be written");
        for number in 0..20_u32 {
            let picture = image::RgbImage::from_fn(12 + number, 14, |x, y| {
                let noise = ((x * 7 + y * 13 + number * 29) % 32) as u8;
                image::Rgb([red + noise, 100 + noise, 200 - red / 2 + noise])
            });
            picture.save(folder.join(format!("{number}.png"))).expect("the folder can be written");
        }
    }
}

/// Networks, images and published figures that the program does not ship.
#[test]
fn a_study_of_ones_own_has_a_verdict_and_a_page() {
    let content = r#"
name = "fruit"
title = "Apples and pears"
question = "Does colour tell apples from pears?"
conclusion = "It does."

[source]
title = "On fruit"
author = "A. Grower"
year = 2020

[data]
kind = "folder"
dir = "pictures"
test-split = 0.25

[recipe]
epochs = 30
batch-size = 10
optimizer = { Adam = { lr = 0.05 } }
augment = "none"
normalise = "measured"

[grid]
seeds = [1, 2, 3]

[[networks]]
network = "networks/colour.toml"

[[primary]]
metric = "test-acc"
margin = 20.0
reason = "a pear taken for an apple"

[[published]]
network = "colour"
parameters = 8
runs = 5
figures = [{ metric = "test-acc", value = "99.0", deviation = 1.0 }]
"#;
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("my study");
    fs::create_dir_all(folder.join("networks")).unwrap();
    pictures(&folder.join("pictures/train"));
    let network = r#"
name = "colour"
input = [3, 8, 8]
layers = ["AdaptiveAvgPool2d", "Flatten", { name = "fc", Linear = { out_features = 2 } }]
"#;
    fs::write(folder.join("networks/colour.toml"), network).unwrap();
    let file = study(&folder, content);
    let reproduce = |file: &Path, more: &[&str]| {
        let line = ["reproduce", text(file)];
        let output = command(line.iter().chain(more)).current_dir(temp.path()).output().unwrap();
        let (code, stdout, stderr) = seen(&output);
        (code, stdout.to_owned(), stderr.to_owned())
    };
    let (code, stdout, stderr) = reproduce(&file, &["--quiet"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.contains("Reproduced: ") && stdout.contains("study-fruit/report.html"), "{stdout}");
    let out = temp.path().join("study-fruit");
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    for words in ["Apples and pears", "A. Grower", "apples", "colour"] {
        assert!(page.contains(words), "{words}");
    }

    // The study's files may be removed: the folder is complete, and can be used from anywhere.
    fs::rename(&file, folder.join("away")).unwrap();
    fs::rename(folder.join("networks"), folder.join("gone")).unwrap();
    let copy = out.join("study.toml");
    assert_eq!(reproduce(&copy, &["--quiet", "--out", text(&out)]).0, Some(0));
    assert_eq!(run_trainer(["study", "report", text(&out)]).status.code(), Some(0));
    let wrong = fs::read_to_string(&copy).unwrap().replace("99.0", "20.0");
    fs::write(&copy, wrong).unwrap();
    let output = run_trainer(["study", "report", text(&out)]);
    let (code, stdout, _) = seen(&output);
    assert!(code == Some(3) && stdout.contains("Different: "), "{stdout}");

    // In a moment and without the pictures.
    let (code, stdout, _) = reproduce(&copy, &["--quick", "--quiet", "--epochs", "1"]);
    assert_eq!(code, Some(0), "{stdout}");
    assert!(temp.path().join("study-fruit-quick/report.html").exists());

    // Networks that do not fit these pictures are refused before anything is read or trained.
    fs::create_dir(folder.join("networks")).unwrap();
    let other = network.replace("out_features = 2", "out_features = 3");
    fs::write(folder.join("networks/colour.toml"), other).unwrap();
    let file = study(&folder, &content.replace("parameters = 8", "parameters = 12"));
    let (code, _, stderr) = reproduce(&file, &["--out", "other"]);
    assert!(code == Some(1) && stderr.contains("2 classes: give its last layer 2 outputs"), "{stderr}");
    assert!(!temp.path().join("other/runs/colour-seed1").exists());
}
