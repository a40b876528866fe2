//! The runs of a study, with a stand-in for the trainer.

#![cfg(unix)]

mod common;

use std::fs;

use common::Fake;
use pointwise_recipe::Recipe;
use pointwise_study::{Error, Options, Plan, Study, finished, status, study_in};
use toml::Table;

#[test]
fn every_run_is_trained_once_and_what_is_missing_later() {
    let fake = Fake::new();
    let plan = fake.plan("study", Options::default());
    let runs = fake.train(&plan).unwrap().unwrap();
    assert_eq!(runs.len(), 9);
    let calls = fake.lines("calls");
    let out = fake.path("study").display().to_string();
    assert_eq!(calls.len(), 9);
    assert_eq!(
        calls[8],
        format!(
            "train --resume --quiet --config {out}/configs/nin.toml --seed 44 --run-dir {out}/runs/nin-seed44"
        ),
        "one process a run"
    );
    // As many threads as the trainer takes by itself: only the environment may say how many.
    let threads = std::env::var("RAYON_NUM_THREADS").unwrap_or_else(|_| "none".to_owned());
    assert_eq!(fake.lines("threads")[0], format!("+{threads}"));

    // Again: nothing is trained, and the runs are the same, in the same order.
    assert_eq!(fake.train(&plan).unwrap().unwrap(), runs);
    assert!(fake.lines("calls").is_empty());

    // One less: only that one is trained.
    fs::remove_dir_all(fake.path("study/runs/alexnet-seed43")).unwrap();
    assert_eq!(fake.train(&plan).unwrap().unwrap(), runs);
    let calls = fake.lines("calls");
    assert!(calls.len() == 1 && calls[0].contains("alexnet.toml --seed 43"), "{calls:?}");
}

#[test]
fn the_folder_of_a_study_says_what_it_is_and_how_it_is_trained() {
    let fake = Fake::new();
    let plan = fake.plan("study", Options::default());
    plan.write().unwrap();
    let study = study_in(&plan.out).unwrap().unwrap();
    assert_eq!(study, Study { seeds: vec![42, 43, 44], ..Study::by_name("pointwise").unwrap() });
    let config = |name: &str| fs::read_to_string(fake.path("study/configs").join(name)).unwrap();
    let text = config("nin.toml");
    let (top, recipe) = text.split_once("\n[recipe]\n").unwrap();
    assert_eq!(top, "model = \"nin\"\ndata = \"cifar10\"\nval-split = 0\ndata-seed = 42\n");
    assert_eq!(Recipe::from_toml(recipe).unwrap(), study.recipe);

    // Existing files are not written again.
    let modified = || fs::metadata(fake.path("study/configs/nin.toml")).unwrap().modified().unwrap();
    let before = modified();
    plan.write().unwrap();
    assert_eq!(modified(), before);

    let quick = fake.plan("quick", Options { quick: true, seeds: None, ..Options::default() });
    quick.write().unwrap();
    let table: Table = fs::read_to_string(fake.path("quick/configs/nin.toml")).unwrap().parse().unwrap();
    let number = |key: &str| table[key].as_integer();
    assert_eq!(
        (table["data"].as_str(), number("limit-train"), number("limit-test")),
        (Some("synthetic"), Some(2016), Some(504))
    );
    assert_eq!(table["recipe"]["epochs"].as_integer(), Some(5));

    // Another study's folder stays its own.
    let other = Study { name: "other".into(), ..study };
    let error =
        Plan::new(other, Options { out: Some(plan.out.clone()), ..Options::default() }).unwrap().write();
    let error = error.unwrap_err().to_string();
    assert!(error.ends_with("holds the study `pointwise`, not `other`: choose another --out"), "{error}");
}

/// Networks of the program by name, others by a file; each arm with its own recipe; held-out images and early stopping only where given.
#[test]
fn arms_of_all_kinds_are_told_to_the_trainer() {
    let text = r#"
name = "kinds"
title = "Kinds of arms"
[data]
kind = "folder"
dir = "my images"
test-split = "0.20"
val-split = 8
limit-train = 100
[recipe]
epochs = 3
batch-size = 8
optimizer = { SGD = { lr = 0.1 } }
early-stopping = { patience = 2 }
[[networks]]
network = "alexnet_plain"
dropout = 0.2
[[networks]]
network = { name = "mine", input = [3, 8, 8], layers = ["Flatten", { Linear = { out_features = 4 } }] }
[[grid.vary]]
key = "recipe.optimizer.SGD.lr"
values = [0.1, 0.2]
"#;
    let folder = tempfile::tempdir().unwrap();
    let study = Study::from_toml(text, folder.path()).unwrap();
    let names: Vec<&str> = study.arms.iter().map(|arm| arm.name.as_str()).collect();
    assert_eq!(names, ["alexnet_plain-lr0.1", "alexnet_plain-lr0.2", "mine-lr0.1", "mine-lr0.2"]);
    let out = folder.path().join("out");
    let plan = |quick| {
        Plan::new(study.clone(), Options { quick, out: Some(out.clone()), ..Options::default() }).unwrap()
    };
    plan(false).write().unwrap();
    let config = |name: &str| -> Table {
        fs::read_to_string(out.join("configs").join(name)).unwrap().parse().unwrap()
    };
    let table = config("mine-lr0.2.toml");
    let model = table["model"].as_str().unwrap();
    assert_eq!(model, out.join("networks/mine-lr0.2.toml").to_str().unwrap());
    assert!(fs::read_to_string(model).unwrap().contains("name = \"mine-lr0.2\""));
    assert_eq!(table["data-dir"].as_str(), folder.path().join("my images").to_str());
    assert_eq!((table["test-split"].as_str(), table["val-split"].as_integer()), (Some("0.20"), Some(8)));
    assert_eq!(table["recipe"]["optimizer"]["SGD"]["lr"].as_float(), Some(0.2));
    assert_eq!(table["recipe"]["early-stopping"]["patience"].as_integer(), Some(2));

    // Quick: synthetic images, none of them held out, and all networks take the same ones.
    let quick = plan(true);
    quick.write().unwrap();
    let table = config("mine-lr0.2.toml");
    assert_eq!((table["val-split"].as_integer(), table["recipe"].get("early-stopping")), (Some(0), None));
    assert!(!table.contains_key("data-dir") && !table.contains_key("test-split"));
    assert_eq!(quick.seeds, [42]);
}

#[test]
fn a_network_of_the_program_takes_the_images_of_the_others_in_a_quick_study() {
    let text = r#"
name = "mixed"
title = "Mixed"
[data]
kind = "folder"
dir = "images"
[recipe]
epochs = 1
batch-size = 8
optimizer = "Adam"
[[networks]]
network = "lenet"
[[networks]]
network = { name = "mine", input = [1, 28, 28], layers = ["Flatten", { Linear = { out_features = 4 } }] }
"#;
    let study = Study::from_toml(text, ".".as_ref()).unwrap();
    let full = Plan::new(study.clone(), Options::default()).unwrap();
    assert!(full.arms[0].is_shipped);
    let quick = Plan::new(study, Options { quick: true, ..Options::default() }).unwrap();
    let lenet = &quick.arms[0];
    assert_eq!((lenet.is_shipped, lenet.network.input), (false, [1, 28, 28]));
    assert_eq!(lenet.network.graph().unwrap().classes(), 4);
}

#[test]
fn runs_of_something_else_are_named() {
    let fake = Fake::new();
    fake.train(&fake.plan("study", Options::default())).unwrap();
    let refused = |options: Options| fake.plan("study", options).existing().unwrap_err().to_string();
    let message = refused(Options { epochs: Some(3), ..Options::default() });
    assert!(
        message.contains("alexnet_plain-seed42 has epochs 10, not 3 as requested: choose another --out"),
        "{message}"
    );
    let message = refused(Options { quick: true, ..Options::default() });
    assert!(message.contains("has data cifar10, not synthetic"), "{message}");

    // Another description under the same name.
    let mut plan = fake.plan("study", Options::default());
    let network = &mut plan.arms[2].network;
    *network = network.clone().with_classes(7);
    let message = plan.existing().unwrap_err().to_string();
    assert!(message.contains("nin-seed42 is of another network `nin`"), "{message}");
}

#[test]
fn a_failure_and_an_interruption_of_the_trainer_are_passed_on() {
    let fake = Fake::new();
    let options = || Options { arms: Some(vec!["nin".into()]), seeds: Some(vec![43]), ..Options::default() };
    fake.put("train-exit", "1");
    let error = fake.train(&fake.plan("study", options())).unwrap_err();
    assert!(
        matches!(&error, Error::Failed(text) if text.contains("the run of nin with seed 43 failed")),
        "{error}"
    );
    fake.put("train-exit", "130");
    assert_eq!(fake.train(&fake.plan("study", Options::default())).unwrap(), None);
    assert_eq!(fake.lines("calls").len(), 1, "no run is started after an interruption");
}

#[test]
fn a_run_in_use_is_left_to_whoever_uses_it() {
    let fake = Fake::new();
    fake.put("in-use", "alexnet_plain-seed42");
    let error = fake.train(&fake.plan("study", Options::default())).unwrap_err();
    let text = "other processes are at work on alexnet_plain, seed 42; 8 of 9 runs are finished, and the same command \
                continues once those have ended";
    assert!(matches!(&error, Error::InUse(message) if message == text), "{error}");
    // Together with a failure it is a failure.
    fake.put("fails", "alexnet_plain-seed43");
    let error = fake.train(&fake.plan("other", Options::default())).unwrap_err();
    assert!(matches!(&error, Error::Failed(_)), "{error}");
}

#[test]
fn runs_at_once_share_the_threads_and_come_to_the_same() {
    let fake = Fake::new();
    let one = fake.train(&fake.plan("study", Options { threads: Some(4), ..Options::default() })).unwrap();
    assert!(fake.lines("calls")[0].ends_with(" --threads 4"));
    fake.put("together", "3");
    let options = Options { jobs: 3, threads: Some(4), ..Options::default() };
    let three = fake.train(&fake.plan("other", options)).unwrap();
    assert!(fake.lines("calls").iter().all(|call| !call.contains("--threads")), "not into the configuration");
    assert_eq!(most(&fake.lines("threads")), (3, 4), "three at once, on all four threads");
    let configs = |runs: Option<Vec<pointwise_runs::Run>>| -> Vec<_> {
        runs.unwrap().into_iter().map(|run| (run.config, run.records)).collect()
    };
    assert!(configs(one) == configs(three), "in the same order");

    // No more runs than threads.
    fake.put("together", "2");
    let options = Options { jobs: 3, threads: Some(2), arms: Some(vec!["nin".into()]), ..Options::default() };
    fake.train(&fake.plan("third", options)).unwrap();
    assert_eq!(most(&fake.lines("threads")), (2, 2));
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
fn a_failed_run_names_itself_and_those_beside_it_are_finished() {
    let fake = Fake::new();
    fake.put("together", "2");
    fake.put("fails", "alexnet_plain-seed42");
    let options = Options { jobs: 2, threads: Some(2), ..Options::default() };
    let error = fake.train(&fake.plan("study", options)).unwrap_err().to_string();
    assert!(
        error
            .contains("alexnet_plain with seed 42 failed (exit status: 1): the loss of step 7 is not finite"),
        "{error}"
    );
    assert!(error.contains("1 of 9 runs are finished, 7 were not started"), "{error}");
    assert!(fake.path("study/runs/alexnet_plain-seed43/result.json").exists());
    assert_eq!(fake.lines("calls").len(), 2);
}

#[test]
fn the_state_of_a_study_is_that_of_its_folders() {
    let fake = Fake::new();
    let plan = fake.plan("study", Options { arms: Some(vec!["nin".into()]), ..Options::default() });
    let states = |plan: &Plan| -> Vec<(&str, Option<u64>)> {
        status(plan).into_iter().map(|run| (run.state, run.seed)).collect()
    };
    assert_eq!(states(&plan), [("waiting", Some(42)), ("waiting", Some(43)), ("waiting", Some(44))]);
    fake.train(&plan).unwrap();
    fs::remove_file(plan.out.join("runs/nin-seed43/result.json")).unwrap();
    fs::write(plan.out.join("runs/nin-seed44/environment.json"), "{").unwrap();
    // Killed, and broken. A run that is no longer requested is listed nevertheless.
    let plan = fake.plan(
        "study",
        Options { seeds: Some(vec![43, 44, 45]), arms: Some(vec!["nin".into()]), ..Options::default() },
    );
    assert_eq!(
        states(&plan),
        [("stale", Some(43)), ("broken", Some(44)), ("waiting", Some(45)), ("finished", Some(42))]
    );
    let last = &status(&plan)[3];
    assert_eq!((last.epoch, last.epochs), (10, Some(10)));
    assert!((last.accuracy.unwrap() - 0.7377).abs() < 1e-9, "{last:?}");
    fs::remove_dir_all(plan.out.join("runs/nin-seed44")).unwrap();
    let (runs, missing) = finished(&plan).unwrap();
    assert_eq!((runs.len(), missing), (1, status(&plan).len() - 1));
}
