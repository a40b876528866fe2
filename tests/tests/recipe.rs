//! Recipes through the real binary: from files, typed, resumed, and invalid.

use pointwise_tests::{checkpoint, fail, metrics, succeed};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// A bit of everything.
const RECIPE: &str = r#"
epochs = 3
batch-size = 16
optimizer = { SGD = { lr = 0.05, momentum = 0.9, nesterov = true, weight_decay = 5e-4 } }
schedule = "CosineAnnealingLR"
warmup = { steps = 3, start_factor = 0.1 }
parameter-groups = [{ names = "fc*", lr_factor = 2.0 }, { max_dims = 1, weight_decay = 0.0 }]
label-smoothing = 0.1
clip-norm = 0.5
ema = { decay = 0.8 }
augment = { crop = 3, padding_mode = "reflect", flip = "alternating", cutout = 5 }
normalise = "measured"
"#;

const DATA: [&str; 10] = [
    "--data",
    "synthetic",
    "--limit-train",
    "60",
    "--limit-test",
    "20",
    "--model",
    "lenet",
    "--log-every",
    "1",
];

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

fn train(run: &Path, more: &[&str]) -> String {
    let line = ["train", "--run-dir", text(run)];
    succeed(line.iter().chain(&DATA).chain(more))
}

fn result(run: &Path) -> Value {
    serde_json::from_slice(&fs::read(run.join("result.json")).expect("the run is finished")).expect("JSON")
}

#[test]
fn a_recipe_comes_from_a_file_from_the_command_line_or_from_another_run() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    let file = path("recipe.toml");
    fs::write(&file, RECIPE).unwrap();
    train(&path("file"), &["--config", text(&file)]);
    let whole = path("file/config.toml");

    let mut typed: Vec<String> = Vec::new();
    for line in RECIPE.trim().lines() {
        let (key, value) = line.split_once(" = ").unwrap();
        typed.extend([format!("--{key}"), value.trim_matches('"').to_owned()]);
    }
    train(&path("typed"), &typed.iter().map(String::as_str).collect::<Vec<_>>());
    succeed(["train", "--config", text(&whole), "--run-dir", text(&path("again"))]);
    for other in ["typed", "again"] {
        let configs = ["file", other].map(|run| fs::read_to_string(path(run).join("config.toml")).unwrap());
        assert_eq!(configs[0], configs[1], "{other}");
        for name in ["best", "last", "ema"] {
            assert!(checkpoint(&path("file"), name) == checkpoint(&path(other), name), "{other}: {name}");
        }
        assert_eq!(metrics(&path("file")), metrics(&path(other)), "{other}");
    }

    // Typed options override the file, also a part of one of its keys.
    train(&path("other"), &["--config", text(&whole), "--lr", "0.25", "--label-smoothing", "0"]);
    let config = fs::read_to_string(path("other/config.toml")).unwrap();
    let expected =
        "optimizer = { SGD = { lr = 0.25, momentum = 0.9, weight_decay = 0.0005, nesterov = true } }\n";
    assert!(config.contains(expected) && config.contains("label-smoothing = 0.0\n"), "{config}");
    let said = succeed(["compare", text(&path("file")), text(&path("other"))]);
    let keys = ["label-smoothing", "optimizer.SGD.lr"];
    assert!(keys.iter().all(|key| said.contains(key)) && !said.contains("clip-norm"), "{said}");

    // The recipe alone, whole, which is a recipe file again.
    let whole = succeed(["recipe", "--config", text(&file)]);
    fs::write(&file, &whole).unwrap();
    assert_eq!(succeed(["recipe", "--config", text(&file)]), whole);
    assert!(
        whole.contains("shuffle = true\n") && whole.contains("schedule = \"CosineAnnealingLR\"\n")
            || whole.contains("CosineAnnealingLR = {"),
        "{whole}"
    );
    assert!(succeed(["recipe"]).contains("optimizer = { Adam = { lr = 0.001,"));
    let schema: Value = serde_json::from_str(&succeed(["recipe", "--schema"])).unwrap();
    assert!(schema["properties"]["clip-norm"].is_object(), "{schema}");
}

#[test]
fn all_of_it_resumes_to_the_same_bytes_on_other_threads() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    let file = path("recipe.toml");
    fs::write(&file, RECIPE).unwrap();
    train(&path("whole"), &["--config", text(&file), "--threads", "2"]);
    // 4 steps an epoch: within the warm-up, within an epoch, at the end of one.
    let parts = path("parts");
    train(&parts, &["--config", text(&file), "--max-steps", "2", "--threads", "1"]);
    fs::remove_file(&file).unwrap();
    for (steps, threads) in [("7", "3"), ("8", "5"), ("1000", "1")] {
        succeed(["train", "--resume", "--run-dir", text(&parts), "--max-steps", steps, "--threads", threads]);
    }
    for name in ["best", "last", "ema"] {
        assert!(checkpoint(&path("whole"), name) == checkpoint(&parts, name), "{name}");
    }
    let lines = metrics(&path("whole"));
    assert_eq!(lines, metrics(&parts));
    let norms: Vec<f64> = lines.iter().filter_map(|line| line["gradient_norm"].as_f64()).collect();
    assert!(norms.len() == 12 && norms.iter().all(|norm| *norm > 0.0), "{norms:?}");
    assert!(lines.iter().filter(|line| line["kind"] == "epoch").all(|line| line["ema_acc"].is_f64()));

    // The averaged weights are ordinary weights, and reach the accuracy that the run reports.
    let ema = path("whole/checkpoints/ema.safetensors");
    let figures: Value =
        serde_json::from_str(&succeed(["eval", "--checkpoint", text(&ema), "--limit", "20", "--json"]))
            .unwrap();
    let result = result(&path("whole"));
    assert_eq!(figures["accuracy"], result["ema_test_acc"]);
    assert!((figures["loss"].as_f64().unwrap() - result["ema_test_loss"].as_f64().unwrap()).abs() < 1e-6);
    assert_ne!(result["ema_test_loss"], result["final_loss"]);

    // A schedule over the whole training cannot be stretched afterwards.
    let resumed = ["train", "--resume", "--run-dir", text(&parts), "--epochs", "4"];
    let message = fail(1, resumed);
    assert!(message.contains("epochs 3, not 4"), "{message}");
    // Nor can a run be continued by another recipe.
    for (option, value, said) in [
        ("--optimizer", "Adam", "optimizer"),
        ("--clip-norm", "1", "clip-norm 0.5, not 1"),
        ("--warmup", "{ steps = 4 }", "warmup.steps 3, not 4"),
        ("--augment", "none", "augment"),
    ] {
        let message = fail(1, ["train", "--resume", "--run-dir", text(&parts), option, value]);
        assert!(message.contains(said), "{option}: {message}");
    }
}

/// Sixty images make three whole batches of sixteen.
const CUT: [&str; 12] = [
    "--batch-size",
    "16",
    "--epochs",
    "3",
    "--last-epoch",
    "0.5",
    "--drop-last",
    "true",
    "--test-time-augmentation",
    "{ flip = true, translate = 2 }",
    "--parameter-groups",
    "[{ names = \"conv1*\", frozen_after = 1 }]",
];

/// Trains whole and in parts, and compares the two.
fn whole_and_parts(folder: &Path, options: &[&str]) -> Value {
    let [whole, parts] = ["whole", "parts"].map(|name| folder.join(name));
    train(&whole, options);
    let first: Vec<&str> = options.iter().chain(&["--max-steps", "2", "--threads", "1"]).copied().collect();
    train(&parts, &first);
    for steps in ["4", "7", "1000"] {
        succeed(["train", "--resume", "--run-dir", text(&parts), "--max-steps", steps, "--threads", "3"]);
    }
    for name in ["best", "last"] {
        assert!(checkpoint(&whole, name) == checkpoint(&parts, name), "{name}");
    }
    assert_eq!(metrics(&whole), metrics(&parts));
    let [found, again] = [&whole, &parts].map(|run| result(run));
    for key in ["final_loss", "tta_test_acc", "tta_test_loss", "steps"] {
        assert_eq!(found[key], again[key], "{key}");
    }
    found
}

#[test]
fn a_training_ends_within_an_epoch_and_is_tested_on_views() {
    let temp = tempfile::tempdir().unwrap();
    let found = whole_and_parts(temp.path(), &CUT);
    assert_eq!((found["epochs"].as_u64(), found["steps"].as_u64()), (Some(3), Some(8)), "{found}");
    assert!(found["tta_test_loss"].is_f64() && found["tta_test_loss"] != found["final_loss"], "{found}");
    let whole = temp.path().join("whole");
    let lines = metrics(&whole);
    let ends: Vec<u64> =
        lines.iter().filter(|it| it["kind"] == "epoch").filter_map(|it| it["step"].as_u64()).collect();
    assert_eq!(ends, [3, 6, 8]);
    let said = succeed(["train", "--resume", "--run-dir", text(&whole)]);
    assert!(
        said.contains("Final LENET Test Accuracy") && said.contains("Final LENET TTA Test Accuracy"),
        "{said}"
    );
    let said = succeed(["compare", text(&whole), text(&temp.path().join("parts"))]);
    assert!(said.contains("TTA test accuracy %"), "{said}");

    // It can be neither extended nor continued with other options.
    for (option, value, said) in [
        ("--epochs", "4", "epochs 3, not 4"),
        ("--last-epoch", "1", "last-epoch 0.5, not 1"),
        ("--drop-last", "false", "drop-last true, not false"),
    ] {
        let message = fail(1, ["train", "--resume", "--run-dir", text(&whole), option, value]);
        assert!(message.contains(said), "{option}: {message}");
    }

    let none = temp.path().join("none");
    for (option, value, said) in [
        (
            "--batch-size",
            "61",
            "60 training images are fewer than the batch-size 61; give a batch-size of at most 60",
        ),
        (
            "--test-time-augmentation",
            "{ translate = 32 }",
            "images of 32 x 32 pixels can be moved by at most 31, since the pixels that come in are mirrored",
        ),
        ("--parameter-groups", "[{ names = \"conv9*\", frozen_after = 1 }]", "parameter group 1"),
    ] {
        let line = ["train", "--run-dir", text(&none), "--drop-last", "true", option, value];
        let message = fail(1, line.iter().chain(&DATA));
        assert!(message.contains(said), "{option}: {message}");
        assert!(!none.exists(), "{option}");
    }
}

#[test]
fn weights_return_to_their_average_in_parts_as_in_one() {
    let temp = tempfile::tempdir().unwrap();
    let lookahead = ["--lookahead", "{ every = 3, decay = 0.9, power = 2 }"];
    let options: Vec<&str> = CUT.iter().chain(&lookahead).copied().collect();
    let found = whole_and_parts(temp.path(), &options);
    let plain = temp.path().join("plain");
    train(&plain, &CUT);
    assert_ne!(found["final_loss"], result(&plain)["final_loss"]);
    let message =
        fail(1, ["train", "--resume", "--run-dir", text(&temp.path().join("whole")), "--epochs", "4"]);
    assert!(message.contains("epochs 3, not 4"), "{message}");
}

#[test]
fn a_training_that_no_longer_improves_stops() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    // A rate so small that nothing changes: no epoch is better than the first.
    let recipe = ["--lr", "1e-12", "--epochs", "9", "--val-split", "20", "--batch-size", "20"];
    let stopping = ["--early-stopping", "{ patience = 3 }"];
    let line: Vec<&str> = recipe.iter().chain(&stopping).copied().collect();
    train(&run, &line);
    let found = result(&run);
    assert_eq!((found["epochs"].as_u64(), found["best_epoch"].as_u64()), (Some(4), Some(1)), "{found}");
    assert_eq!(found["stopped_early"], true);
    // It stays finished, however often it is resumed.
    let said = succeed(["train", "--resume", "--run-dir", text(&run)]);
    assert!(said.contains("Final LENET Test Accuracy"), "{said}");
    assert_eq!(result(&run), found);
    let listed = succeed(["runs", text(temp.path())]);
    assert!(listed.contains("finished"), "{listed}");

    // In two parts it stops after the same epoch.
    let parts = temp.path().join("parts");
    let first: Vec<&str> = line.iter().chain(&["--max-steps", "5"]).copied().collect();
    train(&parts, &first);
    succeed(["train", "--resume", "--run-dir", text(&parts)]);
    assert_eq!(metrics(&parts), metrics(&run));

    // Without held-out images the test set would decide.
    let none = temp.path().join("none");
    let line = ["train", "--run-dir", text(&none)];
    let message = fail(1, line.iter().chain(&DATA).chain(&stopping));
    assert!(message.contains("--val-split"), "{message}");
    assert!(!none.exists());
}

#[test]
fn what_is_wrong_with_a_recipe_is_said_before_anything_is_written() {
    let temp = tempfile::tempdir().unwrap();
    let (file, run) = (temp.path().join("recipe.toml"), temp.path().join("run"));
    for (from, to, code, said) in [
        ("SGD = {", "Lion = {", 1, &["optimizer", "Lion", "Adam, AdamW, SGD"][..]),
        ("momentum = 0.9", "momentum = 1.5", 1, &["optimizer.SGD.momentum is 1.5"]),
        ("momentum = 0.9", "mass = 0.9", 1, &["mass"]),
        ("\"CosineAnnealingLR\"", "\"ReduceLROnPlateau\"", 1, &["ReduceLROnPlateau", "OneCycleLR"]),
        ("steps = 3", "steps = 3, epochs = 1", 1, &["warmup"]),
        ("names = \"fc*\"", "names = \"head*\"", 1, &["parameter group 1", "names"]),
        ("clip-norm = 0.5", "clip-norm = 0", 1, &["clip-norm"]),
        ("decay = 0.8", "decay = 1.0", 1, &["ema.decay is 1"]),
        ("crop = 3", "crop = 40", 1, &["32"]),
        ("\"measured\"", "{ mean = [0.5, 0.5], std = [1, 1] }", 1, &["normalise.mean"]),
        ("\"measured\"", "{ mean = [0.5], std = [0] }", 1, &["normalise.std"]),
        ("epochs = 3", "epochs = 3\nepochs = 4", 1, &["recipe.toml", "line"]),
        ("label-smoothing = 0.1", "label_smoothing = 0.1", 1, &["it is called `label-smoothing`"]),
    ] {
        let changed = RECIPE.replacen(from, to, 1);
        assert_ne!(changed, RECIPE, "{from}");
        fs::write(&file, changed).unwrap();
        let line = ["train", "--config", text(&file), "--run-dir", text(&run)];
        let message = fail(code, line.iter().chain(&DATA));
        assert!(said.iter().all(|words| message.contains(words)), "{to}: {message}");
        assert!(!run.exists(), "{to}");
    }
}
