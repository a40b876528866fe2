//! Resuming what was changed or damaged in between: refused in a sentence with a way out, before anything in the folder changes.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_tests::{fail, metrics, run, succeed};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const TRAIN: [&str; 13] = [
    "train",
    "--model",
    "alexnet",
    "--data",
    "synthetic",
    "--limit-train",
    "12",
    "--limit-test",
    "4",
    "--batch-size",
    "4",
    "--epochs",
    "2",
];

/// A run in a folder, with more options.
fn start(folder: &Path, more: &[&str]) -> PathBuf {
    let run = folder.join("run");
    let path = run.to_str().unwrap();
    succeed(TRAIN.iter().chain(&["--quiet", "--log-every", "1", "--run-dir", path]).chain(more));
    run
}

fn resume(run: &Path) -> [&str; 4] {
    ["train", "--resume", "--run-dir", run.to_str().unwrap()]
}

/// The files of a run with their content.
fn files(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let folders = [run.to_owned(), run.join("checkpoints")];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{from}: {text}");
    fs::write(file, text.replacen(from, to, 1)).unwrap();
}

/// Changes what a checkpoint says about itself.
fn edit_meta(file: &Path, edit: impl FnOnce(&mut Value)) {
    let bytes = fs::read(file).unwrap();
    let (length, rest) = bytes.split_first_chunk().unwrap();
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    let meta = &mut header["__metadata__"]["pointwise"];
    let mut own: Value = serde_json::from_str(meta.as_str().unwrap()).unwrap();
    edit(&mut own);
    *meta = own.to_string().into();
    let mut header = header.to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let length = (header.len() as u64).to_le_bytes();
    fs::write(file, [&length[..], &header, data].concat()).unwrap();
}

#[test]
fn a_configuration_that_was_edited_is_refused_by_its_key() {
    let temp = tempfile::tempdir().unwrap();
    let run = start(temp.path(), &["--max-steps", "2"]);
    let config = run.join("config.toml");
    let original = fs::read_to_string(&config).unwrap();
    for (from, to, said) in [
        ("batch-size = 4", "batch-size = 8", "batch-size = 8, but the run was trained with 4"),
        ("lr = 0.001", "lr = 0.01", "optimizer.Adam.lr = 0.01, but the run was trained with 0.001"),
        (
            "weight_decay = 0.0005",
            "weight_decay = 0.0",
            "optimizer.Adam.weight_decay = 0, but the run was trained with 0.0005",
        ),
        ("\nseed = 42", "\nseed = 43", "seed = 43, but the run was trained with 42"),
        ("data-seed = 42", "data-seed = 7", "data-seed = 7, but"),
        ("dropout = 0.5", "dropout = 0.25", "dropout = 0.25, but"),
        ("augment = \"crop-flip\"", "augment = \"none\"", "augment = none, but"),
        ("shuffle = true", "shuffle = false", "shuffle = false, but"),
        ("val-split = 0", "val-split = 3", "val-split = 3, but"),
        ("limit-train = 12", "limit-train = 11", "limit-train = 11, but"),
        ("limit-test = 4\n", "", "limit-test = none, but the run was trained with 4"),
        ("model = \"alexnet\"", "model = \"nin\"", "model = nin, but the run was trained with alexnet"),
        ("engine = \"cpu\"", "engine = \"reference\"", "engine = reference, but"),
        // Values that no option takes are refused as such.
        ("batch-size = 4", "batch-size = 0", "batch-size is 0, not a whole number from 1 to 65536"),
        ("epochs = 2", "epochs = 4294967295", "epochs is 4294967295"),
        ("epochs = 2\n", "", "missing field `epochs`"),
        ("lr = 0.001", "lr = nan", "lr is nan"),
        ("lr = 0.001", "lr = \"fast\"", "invalid type: string \"fast\""),
        ("augment = \"crop-flip\"", "augment = \"blur\"", "there is no augmentation `blur`"),
        ("data = \"synthetic\"", "data = \"cats\"", "unknown variant `cats`"),
        ("log-every = 1", "log-every = 1\ncolour = 1", "unknown field `colour`"),
        ("lr = 0.001", "lr = 0.001, colour = 1", "colour"),
        ("mean = [0.4914", "mean = [0.5914", "dataset.mean = [0.5914"),
    ] {
        fs::write(&config, &original).unwrap();
        edit(&config, from, to);
        let before = files(&run);
        let message = fail(1, resume(&run));
        assert!(message.contains(said) && message.contains("config.toml"), "{to}: {message}");
        assert!(files(&run) == before, "{to}: a file has changed");
    }
    // `compare` and `runs` read the same file.
    edit(&config, "batch-size = 4", "batch-size = 0");
    for command in ["compare", "report"] {
        let output = pointwise_tests::run([command, run.to_str().unwrap()]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
    assert!(succeed(["runs", temp.path().to_str().unwrap()]).contains("broken"));
    // Keys that may change, and keys that affect no number.
    fs::write(&config, "threads = 1\n".to_owned() + &original).unwrap();
    edit(&config, "epochs = 2", "epochs = 3");
    succeed(resume(&run));
    assert_eq!(metrics(&run).iter().filter(|record| record["kind"] == "epoch").count(), 3);
    // Nor of a finished run.
    edit(&config, "lr = 0.001", "lr = 0.01");
    let message = fail(1, resume(&run));
    assert!(message.contains("optimizer.Adam.lr = 0.01, but"), "{message}");
}

#[test]
fn a_checkpoint_of_an_earlier_version_is_resumed_and_its_steps_are_counted() {
    let temp = tempfile::tempdir().unwrap();
    let run = start(temp.path(), &["--max-steps", "4"]);
    let last = run.join("checkpoints/last.safetensors");
    edit_meta(&last, |meta| {
        let meta = meta.as_object_mut().unwrap();
        assert!(meta.remove("run").is_some() && meta.remove("crc32c").is_some());
    });
    let config = run.join("config.toml");
    edit(&config, "batch-size = 4", "batch-size = 2");
    let message = fail(1, resume(&run));
    assert!(
        message.contains("step 4, batch 1 of epoch 2, is not a position in epochs of 6 batches"),
        "{message}"
    );
    edit(&config, "batch-size = 2", "batch-size = 4");
    edit(&config, "\nseed = 42", "\nseed = 41");
    let message = fail(1, resume(&run));
    assert!(message.contains("seed = 41, but the run was trained with 42"), "{message}");
    edit(&config, "\nseed = 41", "\nseed = 42");
    succeed(resume(&run));
}

#[test]
fn a_damaged_run_is_refused_with_a_way_on() {
    let temp = tempfile::tempdir().unwrap();
    let run = start(temp.path(), &["--max-steps", "4"]);
    let [best, last] = ["best", "last"].map(|name| run.join(format!("checkpoints/{name}.safetensors")));
    let other = temp.path().join("other");
    let path = other.to_str().unwrap();
    succeed(
        ["train", "--model", "nin", "--data", "synthetic", "--limit-train", "4", "--limit-test", "4"]
            .into_iter()
            .chain(["--max-steps", "1", "--quiet", "--run-dir", path]),
    );
    let bytes = fs::read(&last).unwrap();
    let refused = |what: &str, words: &[&str]| {
        let before = files(&run);
        let message = fail(1, resume(&run));
        for word in words {
            assert!(message.contains(word), "{what}: {message}");
        }
        assert!(files(&run) == before, "{what}: a file has changed");
    };
    let way_on = "with --init in another --run-dir";
    fs::write(&last, &bytes[..bytes.len() - 1]).unwrap();
    refused("cut by a byte", &["last.safetensors", "cut short", "best.safetensors", way_on]);
    fs::write(&last, b"").unwrap();
    refused("empty", &["last.safetensors", "it is empty", way_on]);
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 0x10;
    fs::write(&last, &flipped).unwrap();
    refused("a flipped bit", &["its tensors are not those that were written", way_on]);
    fs::copy(&best, &last).unwrap();
    refused("the best one as the last", &["does not say where its run stood"]);
    fs::copy(other.join("checkpoints/last.safetensors"), &last).unwrap();
    refused("another network's", &["model = alexnet, but the run was trained with nin"]);
    fs::write(&last, &bytes).unwrap();
    for (key, value) in [("epoch", 4_000_000_000u64), ("epoch", 0), ("step", u64::MAX)] {
        edit_meta(&last, |meta| meta[key] = value.into());
        refused(key, &["is not a position in epochs of 3 batches"]);
        fs::write(&last, &bytes).unwrap();
    }
    edit_meta(&last, |meta| meta["position"]["batch"] = u64::MAX.into());
    refused("batch", &["is not a position in epochs of 3 batches"]);
    fs::remove_file(&last).unwrap();
    refused("no last one", &["last.safetensors is missing", "--init", "best.safetensors"]);
    fs::write(&last, &bytes).unwrap();

    let lines = run.join("metrics.jsonl");
    let whole = fs::read_to_string(&lines).unwrap();
    fs::write(&lines, format!("garbage\n{whole}")).unwrap();
    refused("a line of garbage", &["metrics.jsonl, line 1, is not a record"]);
    fs::write(&lines, &whole).unwrap();
    let progress = run.join("progress.json");
    let told = fs::read(&progress).unwrap();
    fs::write(&progress, b"{\"epoch\":").unwrap();
    refused("progress", &["progress.json is not valid"]);
    fs::write(&progress, told).unwrap();

    // A copy of the folder is a run of its own.
    let copy = temp.path().join("copy");
    fs::create_dir_all(copy.join("checkpoints")).unwrap();
    for (path, bytes) in files(&run) {
        fs::write(copy.join(path.strip_prefix(&run).unwrap()), bytes).unwrap();
    }
    // The last line may be cut.
    fs::write(copy.join("metrics.jsonl"), format!("{whole}{{\"kind\":\"st")).unwrap();
    succeed(resume(&copy));
    succeed(resume(&run));
    assert_eq!(metrics(&run), metrics(&copy));
}

#[test]
fn a_run_that_lost_its_checkpoint_before_the_first_one_starts_again() {
    let temp = tempfile::tempdir().unwrap();
    let run = start(temp.path(), &["--max-steps", "2"]);
    fs::remove_file(run.join("checkpoints/last.safetensors")).unwrap();
    succeed(resume(&run));
    assert_eq!(metrics(&run).len(), 8);
}

#[test]
fn a_limit_at_the_end_of_an_epoch_tells_the_loss_of_its_last_batch() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    let paths = ["--log-every", "1", "--max-steps", "3", "--run-dir", run.to_str().unwrap()];
    let stdout = succeed(TRAIN.iter().chain(&paths));
    let loss = metrics(&run)[2]["loss"].as_f64().unwrap();
    assert!(stdout.contains(&format!("Stopped after step 3 (loss {loss:.4})")), "{stdout}");
}

#[test]
fn a_run_of_a_gpu_leads_on_without_one() {
    let temp = tempfile::tempdir().unwrap();
    let run = start(temp.path(), &["--max-steps", "2"]);
    let last = run.join("checkpoints/last.safetensors");
    edit(
        &run.join("config.toml"),
        "engine = \"cpu\"\ndevice = \"cpu\"",
        "engine = \"cuda\"\ndevice = \"cuda:99\"",
    );
    edit_meta(&last, |meta| {
        meta["config"]["engine"] = "cuda".into();
        meta["config"]["device"] = "cuda:99".into();
    });
    let before = files(&run);
    for more in
        [&[][..], &["--device", "cpu"], &["--engine", "cpu", "--device", "cpu"], &["--device", "cuda:99"]]
    {
        let message = fail(1, resume(&run).iter().chain(more));
        let path = last.to_str().unwrap();
        assert!(message.contains(&format!("--init {path} in another --run-dir")), "{more:?}: {message}");
        assert!(!message.contains("use `--device cpu`"), "{more:?}: {message}");
        assert!(files(&run) == before, "{more:?}: a file has changed");
    }
    // The advice works.
    let other = temp.path().join("other");
    let paths = ["--init", last.to_str().unwrap(), "--run-dir", other.to_str().unwrap()];
    succeed(TRAIN.iter().chain(&["--max-steps", "1", "--quiet"]).chain(&paths));
}

#[test]
fn a_loss_that_is_not_finite_names_a_way_that_is_open() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("run");
    let path = target.to_str().unwrap();
    let message = fail(1, TRAIN.iter().chain(&["--lr", "1e18", "--quiet", "--run-dir", path]));
    assert!(message.contains("a smaller --lr, in another --run-dir"), "{message}");
    let message = fail(1, resume(&target).iter().chain(&["--lr", "0.001"]));
    assert!(message.contains("another --run-dir"), "{message}");
    // Weights that lead to it, evaluated alone.
    assert!(!run(["runs", temp.path().to_str().unwrap()]).stdout.is_empty());
}
