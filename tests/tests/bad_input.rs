//! Wrong input ends in one sentence and a non-zero exit, and leaves nothing half written.

use pointwise_tests::{RECORD, fail, succeed, write_binary_layout};
use std::fs;
use std::path::Path;

fn train(data: &Path, run: &Path, more: &[&str]) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "train",
        "--model",
        "alexnet",
        "--epochs",
        "2",
        "--batch-size",
        "4",
        "--limit-train",
        "4",
        "--limit-test",
        "4",
    ]
    .iter()
    .chain(more)
    .map(|word| (*word).to_owned())
    .collect();
    arguments.extend(["--data-dir".to_owned(), data.display().to_string()]);
    arguments.extend(["--run-dir".to_owned(), run.display().to_string()]);
    arguments
}

/// A data folder with a fault, and words that the message must contain.
struct Case {
    name: &'static str,
    damage: fn(&Path),
    words: &'static [&'static str],
}

#[test]
fn damaged_data() {
    let cases = [
        Case {
            name: "a truncated batch",
            damage: |folder| {
                let path = folder.join("data_batch_3.bin");
                let bytes = fs::read(&path).unwrap();
                fs::write(path, &bytes[..bytes.len() - 100]).unwrap();
            },
            words: &["data_batch_3.bin", "3073"],
        },
        Case {
            name: "an empty batch",
            damage: |folder| fs::write(folder.join("test_batch.bin"), b"").unwrap(),
            words: &["test_batch.bin"],
        },
        Case {
            name: "a label of 10",
            damage: |folder| {
                let path = folder.join("data_batch_2.bin");
                let mut bytes = fs::read(&path).unwrap();
                bytes[2 * RECORD] = 10;
                fs::write(path, bytes).unwrap();
            },
            words: &["data_batch_2.bin", "label", "10"],
        },
        Case {
            name: "a missing batch",
            damage: |folder| fs::remove_file(folder.join("data_batch_4.bin")).unwrap(),
            words: &["data_batch_4.bin"],
        },
        Case {
            name: "no data at all",
            damage: |folder| {
                for entry in fs::read_dir(folder).unwrap() {
                    fs::remove_file(entry.unwrap().path()).unwrap();
                }
            },
            words: &["--data-dir"],
        },
        Case {
            name: "an archive that is not the official one",
            damage: |folder| {
                for entry in fs::read_dir(folder).unwrap() {
                    fs::remove_file(entry.unwrap().path()).unwrap();
                }
                fs::write(folder.join("cifar-10-binary.tar.gz"), vec![0; 1000]).unwrap();
            },
            words: &["cifar-10-binary.tar.gz", "1000"],
        },
    ];
    for Case { name, damage, words } in cases {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("data");
        fs::create_dir(&data).unwrap();
        write_binary_layout(&data, 3);
        damage(&data);
        let run = temp.path().join("run");
        let message = fail(1, train(&data, &run, &[]));
        for word in words {
            assert!(message.contains(word), "{name}: {message}");
        }
        assert!(!run.exists(), "{name}: a run was begun");
    }
}

#[test]
fn wrong_options() {
    let temp = tempfile::tempdir().unwrap();
    let (data, run) = (temp.path().join("data"), temp.path().join("run"));
    fs::create_dir(&data).unwrap();
    write_binary_layout(&data, 3);
    for (option, value) in [
        ("--lr", "NaN"),
        ("--lr", "-1"),
        ("--epochs", "0"),
        ("--batch-size", "0"),
        ("--dropout", "1"),
        ("--augment", "blur"),
        ("--engine", "torch"),
        ("--precision", "f16"),
        ("--device", "tpu"),
        ("--threads", "0"),
        ("--seed", "-1"),
        ("--limit-train", "0"),
    ] {
        // clap's `--epochs 0 --epochs 1` is an error of its own, so the default options stay out.
        let message = fail(2, ["train", "--model", "nin", option, value, "--run-dir", run.to_str().unwrap()]);
        assert!(message.contains(value) && message.contains(option), "{message}");
    }
    let message = fail(2, ["train", "--model", "vgg"]);
    assert!(message.contains("vgg"), "{message}");
    let message = fail(1, ["train"]);
    assert!(message.contains("--model"), "{message}");
    for (more, words) in [
        (&["--val-split", "4"][..], &["--val-split 4", "4 training images"][..]),
        (&["--engine", "cuda"], &["cuda", "--engine cpu"]),
        (&["--precision", "bf16"], &["bf16", "--engine cuda"]),
        (&["--device", "cuda:0"], &["cuda:0", "--device cpu"]),
        (&["--init", "missing.safetensors"], &["missing.safetensors"]),
        (&["--data", "huggingface"], &["huggingface"]),
    ] {
        let message = fail(1, train(&data, &run, more));
        for word in words {
            assert!(message.contains(word), "{more:?}: {message}");
        }
        assert!(!run.exists(), "{more:?}: a run was begun");
    }
}

#[test]
fn folders_that_cannot_hold_a_run() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    fs::create_dir(&data).unwrap();
    write_binary_layout(&data, 3);
    let file = temp.path().join("file");
    fs::write(&file, b"mine").unwrap();
    for run in [file.clone(), file.join("below")] {
        let message = fail(1, train(&data, &run, &[]));
        assert!(message.contains("file"), "{message}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    // Not even root may write there.
    #[cfg(target_os = "linux")]
    {
        let message = fail(1, train(&data, Path::new("/proc/pointwise"), &[]));
        assert!(message.contains("/proc/pointwise"), "{message}");
    }
}

#[test]
fn damaged_checkpoints() {
    let temp = tempfile::tempdir().unwrap();
    let (data, run) = (temp.path().join("data"), temp.path().join("run"));
    fs::create_dir(&data).unwrap();
    write_binary_layout(&data, 3);
    succeed(train(&data, &run, &["--max-steps", "1"]));
    let best = run.join("checkpoints/best.safetensors");
    let last = run.join("checkpoints/last.safetensors");
    let eval = |file: &Path, more: &[&str]| {
        let mut arguments = vec!["eval".to_owned(), "--checkpoint".to_owned(), file.display().to_string()];
        arguments.extend(["--data-dir".to_owned(), data.display().to_string()]);
        arguments.extend(more.iter().map(|word| (*word).to_owned()));
        arguments
    };
    succeed(eval(&best, &[]));
    let message = fail(1, eval(&best, &["--model", "nin"]));
    assert!(message.contains("holds weights of `alexnet`, not of `nin`"), "{message}");

    let bytes = fs::read(&last).unwrap();
    let broken = temp.path().join("broken.safetensors");
    for damaged in [&bytes[..bytes.len() / 2], &bytes[..3], b""] {
        fs::write(&broken, damaged).unwrap();
        let message = fail(1, eval(&broken, &[]));
        assert!(message.contains("broken.safetensors"), "{message}");
    }
    // A resume from a damaged checkpoint stops, too, and leaves the metrics alone.
    fs::write(&last, &bytes[..bytes.len() / 2]).unwrap();
    let before = fs::read(run.join("metrics.jsonl")).unwrap();
    let message = fail(1, ["train", "--resume", "--run-dir", run.to_str().unwrap()]);
    assert!(message.contains("last.safetensors"), "{message}");
    assert_eq!(before, fs::read(run.join("metrics.jsonl")).unwrap());
}
