//! Weights for other programs. Whether PyTorch, ONNX Runtime and candle-onnx read them, CI checks with `tests/pytorch/load_export.py` and
//! `tests/onnx/check.py`.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use candle_core::{DType, Device, Tensor, pickle, safetensors};
use pointwise_tests::{command, fail, succeed};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// A finished run of two steps in a folder.
fn run(folder: &Path, more: &[&str]) -> PathBuf {
    let run = folder.join("run");
    let path = run.to_str().unwrap();
    succeed(
        ["train", "--model", "alexnet", "--data", "synthetic", "--limit-train", "8", "--limit-test", "4"]
            .into_iter()
            .chain(["--batch-size", "4", "--epochs", "1", "--quiet", "--run-dir", path])
            .chain(more.iter().copied()),
    );
    run
}

fn export(weights: &Path, format: &str, out: &Path, more: &[&str]) -> Vec<String> {
    let words = ["export", weights.to_str().unwrap(), "--format", format, "--out", out.to_str().unwrap()];
    words.iter().chain(more).map(|word| (*word).to_owned()).collect()
}

/// Names with types, shapes and values.
fn contents(tensors: &HashMap<String, Tensor>) -> BTreeMap<String, (DType, Vec<usize>, Vec<f64>)> {
    let values =
        |tensor: &Tensor| tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    let entry = |(name, tensor): (&String, &Tensor)| {
        (name.clone(), (tensor.dtype(), tensor.dims().to_vec(), values(tensor)))
    };
    tensors.iter().map(entry).collect()
}

#[test]
fn pytorch_and_safetensors_hold_what_the_checkpoint_holds() {
    let temp = tempfile::tempdir().unwrap();
    let run = run(temp.path(), &[]);
    let checkpoint = run.join("checkpoints/last.safetensors");
    let (pt, st) = (temp.path().join("weights.pt"), temp.path().join("weights.safetensors"));
    assert_eq!(succeed(export(&checkpoint, "pytorch", &pt, &[])).trim(), pt.to_str().unwrap());
    succeed(export(&checkpoint, "safetensors", &st, &[]));
    let read = |path: &Path| safetensors::load(path, &Device::Cpu).unwrap();
    let mut expected = contents(&read(&checkpoint));
    let count = expected.len();
    expected.retain(|name, _| !name.starts_with("optimizer."));
    assert!(expected.len() < count && expected.contains_key("features.1.num_batches_tracked"));
    let pickled: HashMap<String, Tensor> = pickle::read_all(&pt).unwrap().into_iter().collect();
    assert!(contents(&pickled) == expected);
    assert!(contents(&read(&st)) == expected);
    // A file that names its run can be used as it is; it says nothing about this machine.
    let evaluated = |file: &Path| {
        succeed(["eval", "--checkpoint", file.to_str().unwrap(), "--data", "synthetic", "--limit", "8"])
    };
    assert_eq!(evaluated(&st), evaluated(&checkpoint));
    let header = String::from_utf8_lossy(&fs::read(&st).unwrap()).into_owned();
    assert!(header.contains("pointwise") && !header.contains(temp.path().to_str().unwrap()));
}

#[test]
fn a_state_dict_becomes_one_again() {
    let temp = tempfile::tempdir().unwrap();
    let run = run(temp.path(), &[]);
    // As PyTorch before 0.4.1 wrote it: without batch counts, and without the network's name.
    let mut tensors = safetensors::load(run.join("checkpoints/best.safetensors"), &Device::Cpu).unwrap();
    let all = contents(&tensors);
    tensors.retain(|name, _| !name.ends_with("num_batches_tracked"));
    let bare = temp.path().join("bare.safetensors");
    safetensors::save(&tensors, &bare).unwrap();
    let out = temp.path().join("out.safetensors");
    let message = fail(1, export(&bare, "safetensors", &out, &[]));
    assert!(message.contains("does not name its network, but the weights fit `alexnet`"), "{message}");
    succeed(export(&bare, "safetensors", &out, &["--model", "alexnet"]));
    let written = contents(&safetensors::load(&out, &Device::Cpu).unwrap());
    assert!(written.keys().eq(all.keys()), "{:?}", written.keys());
    assert_eq!(written["features.1.num_batches_tracked"], (DType::I64, vec![], vec![0.0]));
    let onnx = temp.path().join("model.onnx");
    let message = fail(1, export(&bare, "onnx", &onnx, &["--model", "alexnet", "--preprocess"]));
    assert!(message.contains("does not say by which mean and deviation"), "{message}");
    let message = fail(1, export(&bare, "hub", &temp.path().join("hub"), &["--model", "alexnet"]));
    assert!(message.contains("is not a checkpoint in a run folder"), "{message}");
    assert!(!onnx.exists() && !temp.path().join("hub").exists());
}

#[test]
fn nothing_is_overwritten_and_no_option_is_ignored() {
    let temp = tempfile::tempdir().unwrap();
    let run = run(temp.path(), &[]);
    let checkpoint = run.join("checkpoints/best.safetensors");
    let before = fs::read(&checkpoint).unwrap();
    let message = fail(1, export(&run, "pytorch", &checkpoint, &[]));
    assert!(message.contains("exists already: give another name, or remove it"), "{message}");
    let message = fail(1, export(&run, "hub", &run, &[]));
    assert!(message.contains("is a folder that is not empty"), "{message}");
    let message = fail(1, export(&run, "hub", &checkpoint, &[]));
    assert!(message.contains("is a file: give a folder"), "{message}");
    assert!(fs::read(&checkpoint).unwrap() == before);
    let out = temp.path().join("out");
    for option in [&["--fold"][..], &["--preprocess"], &["--softmax"], &["--opset", "22"]] {
        let message = fail(2, export(&run, "pytorch", &out, option));
        assert!(message.contains("is an option of --format onnx"), "{message}");
    }
    fail(2, export(&run, "onnx", &out, &["--opset", "19"]));
    fail(2, export(&run, "tflite", &out, &[]));
    let missing = temp.path().join("missing/out.onnx");
    let message = fail(1, export(&run, "onnx", &missing, &[]));
    assert!(message.contains("missing"), "{message}");
    assert!(!out.exists());
}

#[test]
fn an_onnx_model_says_what_it_is() {
    let temp = tempfile::tempdir().unwrap();
    let run = run(temp.path(), &[]);
    let (out, again) = (temp.path().join("model.onnx"), temp.path().join("again.onnx"));
    let options = ["--fold", "--preprocess", "--softmax"];
    succeed(export(&run, "onnx", &out, &options));
    succeed(export(&run.join("checkpoints/best.safetensors"), "onnx", &again, &options));
    let bytes = fs::read(&out).unwrap();
    assert!(bytes == fs::read(&again).unwrap());
    let text = String::from_utf8_lossy(&bytes);
    for expected in
        ["classes", "[\"disc\",", "normalisation", "\"seed\":42", "weights_sha256", "probabilities"]
    {
        assert!(text.contains(expected), "{expected}");
    }
    assert!(!text.contains("running_mean") && !text.contains(temp.path().to_str().unwrap()));
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn a_folder_for_the_hub_has_the_numbers_of_its_run() {
    let temp = tempfile::tempdir().unwrap();
    let run = run(temp.path(), &[]);
    let hub = temp.path().join("models/hub");
    succeed(export(&run, "hub", &hub, &[]));
    let mut names: Vec<String> =
        fs::read_dir(&hub).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["README.md", "config.json", "model.safetensors", "network.toml"]);
    let (config, result) = (json(&hub.join("config.json")), json(&run.join("result.json")));
    assert_eq!(config["test_accuracy"], result["best_test_acc"]);
    assert_eq!(config["id2label"]["0"], "disc");
    assert_eq!(config["label2id"]["half disc"], 9);
    let card = fs::read_to_string(hub.join("README.md")).unwrap();
    let accuracy = format!(
        "| accuracy on the test images | {:.2} % |",
        100.0 * result["best_test_acc"].as_f64().unwrap()
    );
    for expected in ["---\nlibrary_name:", &accuracy, "2,256,458", "The images are synthetic", "epochs = 1"] {
        assert!(card.contains(expected), "{expected}: {card}");
    }
    assert!(!card.contains("## The study"), "{card}");
    // Each value of the header is JSON, and so YAML.
    for line in card.split("---\n").nth(1).unwrap().lines() {
        let (_, value) = line.split_once(": ").unwrap();
        assert!(value.starts_with(['[', '"']) && serde_json::from_str::<Value>(value).is_ok(), "{line}");
    }
    // The folder alone is enough to use the weights.
    let weights = hub.join("model.safetensors");
    succeed(["eval", "--checkpoint", weights.to_str().unwrap(), "--data", "synthetic", "--limit", "8"]);
    let described = succeed(["summary", "--model", hub.join("network.toml").to_str().unwrap()]);
    assert!(described.contains("2,256,458"), "{described}");

    // Weights of another epoch than the result's.
    let other = temp.path().join("other");
    let (last, best) = (run.join("checkpoints/last.safetensors"), run.join("checkpoints/best.safetensors"));
    succeed(export(&last, "hub", &other, &[]));
    assert_eq!(json(&other.join("config.json"))["test_accuracy"], result["final_acc"]);
    let text = fs::read_to_string(run.join("result.json")).unwrap();
    fs::write(run.join("result.json"), text.replace("\"best_epoch\": 1", "\"best_epoch\": 7")).unwrap();
    let message = fail(1, export(&best, "hub", &temp.path().join("third"), &[]));
    assert!(message.contains("is not of epoch 7 of `alexnet` with seed 42"), "{message}");
    fs::remove_file(run.join("result.json")).unwrap();
    let message = fail(1, export(&best, "hub", &temp.path().join("third"), &[]));
    assert!(message.contains("without a result"), "{message}");
}

#[test]
fn a_run_of_a_study_has_its_verdict() {
    let temp = tempfile::tempdir().unwrap();
    let study = r#"
        name = "small"
        title = "A small study"
        [data]
        kind = "synthetic"
        limit-train = 20
        limit-test = 10
        [recipe]
        epochs = 1
        batch-size = 10
        optimizer = { Adam = { lr = 0.001 } }
        [grid]
        seeds = [1, 2]
        [[networks]]
        network = "lenet"
        [[networks]]
        network = "keras_cnn"
    "#;
    let file = temp.path().join("small.toml");
    fs::write(&file, study).unwrap();
    let out = temp.path().join("study");
    let done =
        command(["reproduce", file.to_str().unwrap(), "--out", out.to_str().unwrap()]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let hub = temp.path().join("hub");
    succeed(export(&out.join("runs/lenet-seed2"), "hub", &hub, &[]));
    let card = fs::read_to_string(hub.join("README.md")).unwrap();
    assert!(card.contains("The run is one of 4 of a study: A small study."), "{card}");
    assert!(card.contains("> 2 networks side by side, 4 runs"), "{card}");
}
