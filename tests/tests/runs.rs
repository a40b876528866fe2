//! Whole runs of the real binary: what they leave, and that stopping, killing and threads leave no trace in it.

use pointwise_tests::{checkpoint, command, fail, metrics, run, succeed};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A short training: 2 epochs of 3 steps on synthetic images, with dropout, shuffling and augmentation; reproducible to the byte on a GPU as on
/// the CPU.
const SHORT: [&str; 16] = [
    "train",
    "--data",
    "synthetic",
    "--limit-train",
    "10",
    "--limit-test",
    "6",
    "--batch-size",
    "4",
    "--epochs",
    "2",
    "--log-every",
    "1",
    "--seed",
    "7",
    "--deterministic",
];

fn short(model: &str, folder: &Path, more: &[&str]) -> Vec<String> {
    let mut arguments: Vec<String> = SHORT.iter().chain(more).map(|word| (*word).to_owned()).collect();
    arguments.extend(["--model".to_owned(), model.to_owned()]);
    arguments.extend(["--run-dir".to_owned(), folder.display().to_string()]);
    arguments
}

fn assert_same_run(a: &Path, b: &Path) {
    assert_eq!(metrics(a), metrics(b));
    for name in ["best", "last"] {
        assert!(checkpoint(a, name) == checkpoint(b, name), "{name}.safetensors differs");
    }
    let analysis = |run: &Path| fs::read(run.join("analysis.json")).ok();
    assert!(analysis(a) == analysis(b), "analysis.json differs");
}

#[test]
fn a_run_prints_the_studys_lines_and_leaves_its_records() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("run");
    let stdout = succeed(short("alexnet", &folder, &[]));
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 3, "{stdout}");
    assert!(
        lines[0].starts_with("Epoch 01/02 | Train Loss ") && lines[1].starts_with("Epoch 02/02 | "),
        "{stdout}"
    );
    assert!(lines[0].contains("% | Val Loss ") && lines[0].contains("% | Best Val Acc "), "{stdout}");
    assert!(lines[2].starts_with("Final ALEXNET Test Accuracy: "), "{stdout}");

    let records = metrics(&folder);
    let kinds: Vec<&str> = records.iter().map(|record| record["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["step", "step", "step", "epoch", "step", "step", "step", "epoch"]);
    for epoch in [&records[3], &records[7]] {
        for key in ["train_loss", "test_loss"] {
            assert!(epoch[key].as_f64().unwrap() > 0.0, "{epoch}");
        }
        for key in ["train_acc", "test_acc", "best_acc"] {
            assert!((0.0..=1.0).contains(&epoch[key].as_f64().unwrap()), "{epoch}");
        }
    }
    // The epoch's loss weighs the steps' by their sizes: 4, 4 and the short batch of 2.
    let losses: Vec<f64> = records[..3].iter().map(|record| record["loss"].as_f64().unwrap()).collect();
    let mean = (4.0 * losses[0] + 4.0 * losses[1] + 2.0 * losses[2]) / 10.0;
    assert!((records[3]["train_loss"].as_f64().unwrap() - mean).abs() < 1e-12, "{records:?}");
    for file in ["analysis.json", "config.toml", "environment.json", "progress.json", "result.json"] {
        assert!(folder.join(file).is_file(), "{file}");
    }

    // The same weights give the same figures again.
    let best = folder.join("checkpoints/best.safetensors");
    let json = succeed([
        "eval",
        "--checkpoint",
        best.to_str().unwrap(),
        "--data",
        "synthetic",
        "--limit",
        "6",
        "--batch-size",
        "4",
        "--json",
    ]);
    let figures: serde_json::Value = serde_json::from_str(&json).unwrap();
    let best_acc = records[7]["best_acc"].as_f64().unwrap();
    assert_eq!(figures["accuracy"].as_f64().unwrap(), best_acc);

    // A second run is refused, and the first one stays as it was.
    let before = checkpoint(&folder, "last");
    let message = fail(1, short("alexnet", &folder, &[]));
    assert!(message.contains("already holds a run") && message.contains("--resume"), "{message}");
    assert!(before == checkpoint(&folder, "last"));

    // Resuming a finished run prints its result and changes nothing; other options are refused.
    let again = succeed(short("alexnet", &folder, &["--resume"]));
    assert_eq!(again.lines().next(), lines.last().copied());
    let message = fail(1, short("alexnet", &folder, &["--resume", "--lr", "0.5"]));
    assert!(message.contains("lr 0.001, not 0.5"), "{message}");
    let message = fail(1, short("nin", &folder, &["--resume"]));
    assert!(message.contains("model alexnet, not nin"), "{message}");
    assert!(before == checkpoint(&folder, "last"));
}

#[test]
fn a_run_killed_again_and_again_ends_with_the_same_bytes() {
    let temp = tempfile::tempdir().unwrap();
    let (whole, killed) = (temp.path().join("whole"), temp.path().join("killed"));
    let frequent = ["--checkpoint-every", "0"];
    succeed(short("alexnet_plain", &whole, &frequent));
    let mut kills = 0;
    loop {
        let mut child = command(short("alexnet_plain", &killed, &[&frequent[..], &["--resume"]].concat()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Let it get one or two records further each time.
        let lines = |folder: &Path| {
            fs::read_to_string(folder.join("metrics.jsonl")).unwrap_or_default().lines().count()
        };
        let target = lines(&killed) + 1 + kills % 2;
        let began = Instant::now();
        let finished = loop {
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success());
                break true;
            }
            if lines(&killed) >= target {
                break false;
            }
            assert!(began.elapsed() < Duration::from_secs(300), "no progress");
            std::thread::sleep(Duration::from_millis(1));
        };
        if finished {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        assert!(kills < 50, "no progress");
    }
    assert!(kills >= 3, "only {kills} kills");
    assert_same_run(&whole, &killed);
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_says_so_and_goes_on() {
    let temp = tempfile::tempdir().unwrap();
    let (whole, stopped) = (temp.path().join("whole"), temp.path().join("stopped"));
    succeed(short("alexnet", &whole, &[]));
    let child = command(short("alexnet", &stopped, &[]))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while fs::read_to_string(stopped.join("metrics.jsonl")).unwrap_or_default().lines().count() < 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let status = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("interrupted after step") && stderr.contains("--resume"), "{stderr}");
    succeed(short("alexnet", &stopped, &["--resume"]));
    assert_same_run(&whole, &stopped);
}

#[test]
fn a_step_limit_and_more_epochs_lead_to_the_same_bytes() {
    let temp = tempfile::tempdir().unwrap();
    let (whole, pieces) = (temp.path().join("whole"), temp.path().join("pieces"));
    succeed(short("nin", &whole, &["--val-split", "3"]));
    let stdout = succeed(short("nin", &pieces, &["--val-split", "3", "--max-steps", "1"]));
    assert!(stdout.starts_with("Stopped after step 1 (loss "), "{stdout}");
    assert!(!pieces.join("result.json").exists());
    // One epoch, finished; then one more. Options of the run need not be repeated.
    let folder = pieces.to_str().unwrap();
    let message = fail(1, ["train", "--resume", "--run-dir", folder, "--val-split", "4"]);
    assert!(message.contains("val-split 3, not 4"), "{message}");
    succeed(["train", "--resume", "--run-dir", folder, "--max-steps", "2"]);
    succeed(["train", "--resume", "--run-dir", folder]);
    assert_same_run(&whole, &pieces);
    let records = metrics(&whole);
    let epoch = records.iter().find(|record| record["kind"] == "epoch").unwrap();
    assert!(
        epoch["val_acc"].is_number() && epoch["val_loss"].is_number() && epoch["test_acc"].is_null(),
        "{epoch}"
    );
    succeed(["train", "--resume", "--run-dir", folder, "--epochs", "3"]);
    assert_eq!(metrics(&pieces).iter().filter(|record| record["kind"] == "epoch").count(), 3);
    let message = fail(1, ["train", "--resume", "--run-dir", folder, "--epochs", "1"]);
    assert!(message.contains("has completed 3 epochs"), "{message}");
}

/// The engines that guarantee equal bytes for every number of threads.
#[test]
fn the_number_of_threads_leaves_no_trace() {
    let temp = tempfile::tempdir().unwrap();
    for model in ["alexnet_plain", "alexnet", "nin"] {
        let one = temp.path().join(format!("{model}-1"));
        succeed(short(model, &one, &["--threads", "1"]));
        for threads in ["2", "3"] {
            let other = temp.path().join(format!("{model}-{threads}"));
            succeed(short(model, &other, &["--threads", threads]));
            assert_same_run(&one, &other);
        }
    }
}

#[test]
fn weights_go_from_one_run_into_another() {
    let temp = tempfile::tempdir().unwrap();
    let (first, second) = (temp.path().join("first"), temp.path().join("second"));
    succeed(short("alexnet", &first, &["--max-steps", "3"]));
    let last = first.join("checkpoints/last.safetensors");
    let last = last.to_str().unwrap();
    succeed(short("alexnet", &second, &["--init", last, "--max-steps", "1"]));
    let loss = |folder: &Path| metrics(folder)[0]["loss"].as_f64().unwrap();
    assert_ne!(loss(&first), loss(&second));
    let message = fail(1, short("nin", &temp.path().join("third"), &["--init", last]));
    assert!(message.contains("holds weights of `alexnet`, not of `nin`"), "{message}");
    assert!(!temp.path().join("third").exists());
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let mut child = command(["summary"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(run(["completions", "bash"]).status.success());
    let folder = tempfile::tempdir().unwrap();
    let manual = folder.path().join("man1");
    assert!(run(["manual", manual.to_str().unwrap()]).status.success());
    let page = std::fs::read_to_string(manual.join("trainer-reproduce.1")).unwrap();
    assert!(page.starts_with(".") && page.contains("\\-\\-seeds"), "{page}");
    assert!(!manual.join("trainer-train-several.1").exists());
}
