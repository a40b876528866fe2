//! A run folder's life: created, written, killed, resumed, read.

use std::fs;

use pointwise_recipe::{Adam, Recipe};
use pointwise_runs::{
    Checkpoint, Environment, EpochRecord, Error, Progress, Record, Run, RunConfig, RunFolder, RunResult,
    State, StepRecord, holds_run, timestamp,
};
use tempfile::TempDir;

fn config() -> RunConfig {
    RunConfig::new("nin", Recipe::new(2, 32, Adam::default()))
}

fn environment() -> Environment {
    Environment {
        pointwise: "0.1.0".into(),
        candle: None,
        rustc: None,
        commit: None,
        processor: "a processor".into(),
        accelerator: None,
        cores: 2,
        threads: 2,
        os: "linux x86_64".into(),
        started: timestamp(),
        data_source: "synthetic".into(),
        data_fingerprint: "ab".into(),
        data_synthetic: true,
        train_images: 504,
        validation_images: 0,
        test_images: 252,
        parameters: 1_485_386,
        macs_per_image: 1,
    }
}

fn step(epoch: u32, step: u64) -> Record {
    Record::Step(StepRecord { epoch, step, loss: 0.1 + 0.2, gradient_norm: None, seconds: 1.0 })
}

fn epoch(epoch: u32, step: u64) -> Record {
    Record::Epoch(EpochRecord {
        epoch,
        step,
        train_loss: 1.0,
        train_acc: 0.5,
        test_loss: Some(1.0),
        test_acc: Some(0.5),
        val_loss: None,
        val_acc: None,
        ema_loss: None,
        ema_acc: None,
        best_acc: 0.5,
        best_epoch: 1,
        train_seconds: 1.0,
        eval_seconds: 1.0,
        seconds: 2.0,
    })
}

fn result() -> RunResult {
    RunResult {
        final_loss: 1.0,
        final_acc: 0.5,
        best_acc: 0.5,
        best_epoch: 1,
        best_test_acc: Some(0.5),
        best_test_loss: Some(1.0),
        ema_test_acc: None,
        ema_test_loss: None,
        tta_test_acc: None,
        tta_test_loss: None,
        stopped_early: false,
        epochs: 2,
        steps: 4,
        seconds: 4.0,
        train_seconds: 2.0,
        eval_seconds: 2.0,
        peak_memory_bytes: Some(1),
    }
}

/// A folder with two epochs of two steps, and the path.
fn written() -> (TempDir, RunFolder) {
    let parent = tempfile::tempdir().expect("a folder");
    let mut folder =
        RunFolder::create(parent.path().join("deep/run"), &config(), &environment()).expect("a run");
    for record in [step(1, 1), step(1, 2), epoch(1, 2), step(2, 3), step(2, 4), epoch(2, 4)] {
        folder.append(&record).expect("a line");
    }
    (parent, folder)
}

#[test]
fn what_is_written_is_read_while_the_writer_is_at_work() {
    let (_parent, mut folder) = written();
    let run = Run::read(folder.path()).unwrap();
    assert_eq!(run.config, config());
    assert_eq!(run.environment, folder.environment().unwrap());
    assert_eq!(run.records.len(), 6);
    assert_eq!(run.records[0], step(1, 1), "to the bit");
    assert_eq!((run.epochs().count(), run.steps().count()), (2, 4));
    assert_eq!((run.progress, run.result), (None, None));

    let progress = Progress {
        epoch: 2,
        epochs: 2,
        step: 4,
        steps: 4,
        seconds: 4.0,
        images_per_second: f64::NAN,
        state: State::Finished,
        updated: timestamp(),
    };
    folder.write_progress(&progress).unwrap();
    assert!(!Run::read(folder.path()).unwrap().is_finished());
    folder.finish(&result()).unwrap();
    let run = Run::read(folder.path()).unwrap();
    assert_eq!(run.progress.unwrap(), Progress { images_per_second: 0.0, ..progress });
    assert_eq!(run.result.unwrap(), result());
    assert_eq!(folder.result().unwrap(), Some(result()));
}

#[test]
fn a_second_writer_is_refused_until_the_first_is_gone() {
    let (_parent, folder) = written();
    let path = folder.path().to_owned();
    assert!(matches!(RunFolder::resume(&path), Err(Error::InUse { .. })));
    assert!(matches!(RunFolder::create(&path, &config(), &environment()), Err(Error::InUse { .. })));
    drop(folder);
    assert_eq!(RunFolder::resume(&path).unwrap().1, config());
}

#[test]
fn a_run_is_not_overwritten() {
    let (_parent, folder) = written();
    let path = folder.path().to_owned();
    drop(folder);
    let before = fs::read(path.join("metrics.jsonl")).unwrap();
    let error = RunFolder::create(&path, &config(), &environment()).unwrap_err().to_string();
    assert!(error.contains("--resume") && error.contains("--run-dir"), "{error}");
    assert_eq!(fs::read(path.join("metrics.jsonl")).unwrap(), before);

    // Without the configuration it is not a run, but still someone's numbers.
    fs::remove_file(path.join("config.toml")).unwrap();
    let error = RunFolder::create(&path, &config(), &environment()).unwrap_err().to_string();
    assert!(error.contains("holds metrics.jsonl"), "{error}");
}

#[test]
fn unfit_paths_are_refused_in_one_sentence() {
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    let create = |path| RunFolder::create(path, &config(), &environment()).unwrap_err();
    assert!(matches!(create(file.clone()), Error::NotAFolder { .. }));
    assert!(matches!(create(file.join("below")), Error::NotWritable { .. }));
    assert!(matches!(RunFolder::resume(&file), Err(Error::NotAFolder { .. })));
    assert!(matches!(RunFolder::resume(parent.path()), Err(Error::NotARun { .. })));
    assert!(matches!(Run::read(parent.path()), Err(Error::NotARun { .. })));
    assert!(!parent.path().join("run.lock").exists(), "a check leaves no trace");
}

#[test]
fn a_kill_while_creating_leaves_what_create_takes() {
    // What the steps of `create` leave, in their order, up to the one that makes it a run.
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path();
    for file in
        ["run.lock", ".environment.json.abc.tmp", "environment.json", "metrics.jsonl", ".config.toml.abc.tmp"]
    {
        fs::write(path.join(file), "").unwrap();
        assert!(!holds_run(path));
    }
    let folder = RunFolder::create(path, &config(), &environment()).unwrap();
    assert!(holds_run(path));
    assert_eq!(folder.environment().unwrap().parameters, 1_485_386);
    let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["checkpoints", "config.toml", "environment.json", "metrics.jsonl", "run.lock"]);
}

#[test]
fn rewinding_keeps_lines_byte_for_byte() {
    let (_parent, folder) = written();
    let path = folder.path().to_owned();
    drop(folder);
    let metrics = path.join("metrics.jsonl");
    // JSON in a spelling that we do not write, and a line torn in the middle.
    let text =
        fs::read_to_string(&metrics).unwrap().replace(r#""step":1,"#, r#""step": 1,"#) + r#"{"kind":"st"#;
    fs::write(&metrics, &text).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();

    let (mut folder, _) = RunFolder::resume(&path).unwrap();
    assert_eq!(fs::read_to_string(&metrics).unwrap(), lines[..6].concat(), "the torn line goes at once");
    folder.rewind(3, 1).unwrap();
    assert_eq!(fs::read_to_string(&metrics).unwrap(), lines[..4].concat());
    folder.append(&step(2, 4)).unwrap();
    folder.append(&epoch(2, 4)).unwrap();
    assert_eq!(fs::read_to_string(&metrics).unwrap(), lines[..6].concat(), "as if undisturbed");
    folder.rewind(0, 0).unwrap();
    assert_eq!(fs::read_to_string(&metrics).unwrap(), "");
}

#[test]
fn an_unterminated_line_is_ignored_and_a_malformed_one_is_named() {
    let (_parent, folder) = written();
    let metrics = folder.path().join("metrics.jsonl");
    let text = fs::read_to_string(&metrics).unwrap();
    // Complete but for its line feed: more of it may follow.
    fs::write(&metrics, text.trim_end()).unwrap();
    assert_eq!(Run::read(folder.path()).unwrap().records.len(), 5);
    fs::write(&metrics, text.replacen(r#""kind":"epoch""#, r#""kind":"era""#, 1)).unwrap();
    let error = Run::read(folder.path()).unwrap_err().to_string();
    assert!(error.contains("metrics.jsonl, line 3, is not a record"), "{error}");
}

#[test]
fn a_number_that_is_none_is_not_recorded() {
    let (_parent, mut folder) = written();
    let before = fs::read(folder.path().join("metrics.jsonl")).unwrap();
    let record =
        Record::Step(StepRecord { epoch: 1, step: 1, loss: f64::NAN, gradient_norm: None, seconds: 0.0 });
    assert!(matches!(folder.append(&record), Err(Error::NotFinite { name: "loss", .. })));
    assert_eq!(fs::read(folder.path().join("metrics.jsonl")).unwrap(), before);
    assert!(folder.finish(&RunResult { final_acc: f64::INFINITY, ..result() }).is_err());
    assert!(!Run::read(folder.path()).unwrap().is_finished());
}

#[test]
fn checkpoints_are_replaced() {
    let (_parent, mut folder) = written();
    for bytes in [b"first".as_slice(), b"second"] {
        folder.write_checkpoint(Checkpoint::Last, bytes).unwrap();
        assert_eq!(fs::read(folder.checkpoint_path(Checkpoint::Last)).unwrap(), bytes);
    }
    assert!(!folder.checkpoint_path(Checkpoint::Best).exists());
    assert!(folder.path().join("checkpoints/last.safetensors").exists());
}

#[test]
fn a_finished_run_can_be_opened_for_more_epochs() {
    let (_parent, mut folder) = written();
    folder.finish(&result()).unwrap();
    let longer = RunConfig { recipe: Recipe { epochs: 3, ..config().recipe }, ..config() };
    let elsewhere = Environment { cores: 64, ..environment() };
    folder.reopen(&longer, &elsewhere).unwrap();
    let run = Run::read(folder.path()).unwrap();
    assert_eq!((run.config, run.environment.cores, run.result), (longer, 64, None));
    assert_eq!(run.records.len(), 6);
    folder.reopen(&config(), &elsewhere).unwrap();
}

/// Reading them would never end, or take all memory.
#[test]
fn files_that_are_none_are_refused_at_once() {
    for name in ["config.toml", "environment.json", "metrics.jsonl", "progress.json", "result.json"] {
        let (_parent, mut folder) = written();
        folder.finish(&result()).unwrap();
        let path = folder.path().join(name);
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let refused = || {
            let error = Run::read(folder.path()).unwrap_err().to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
            error
        };
        assert!(refused().contains("is not valid (it has more than "), "{}", refused());
        // `holds_run` ignores a configuration that is not a file.
        #[cfg(unix)]
        if name != "config.toml" {
            fs::remove_file(&path).unwrap();
            assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
            assert!(refused().contains("is not valid (it is not a file)"), "{}", refused());
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"\xe4\n").unwrap();
        refused();
    }
}

/// Parsers quote what they find.
#[test]
fn an_error_is_a_line_of_bounded_length_whatever_stands_in_a_file() {
    let long = "x".repeat(1 << 20);
    for (name, text) in [
        ("config.toml", "[".repeat(1 << 20)),
        ("config.toml", format!("{long} = 1\n")),
        ("config.toml", format!("model = \"{long}\\u0000")),
        ("metrics.jsonl", format!("{{\"kind\":\"{long}\\n\"}}\n")),
        ("environment.json", format!("{{\"cores\":\"{long}\\n\"}}")),
        ("progress.json", format!("{{\"state\":\"{long}\\n\"}}")),
        ("analysis.json", format!("{{\"{long}\\n\":1}}")),
    ] {
        let (_parent, folder) = written();
        fs::write(folder.path().join(name), text).unwrap();
        let read = Run::read(folder.path()).and_then(|run| run.analysis());
        let error = read.unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
        assert!(error.len() < 1500 && !error.contains(char::is_control), "{name}: {} bytes", error.len());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_may_have_any_name() {
    use std::os::unix::ffi::OsStrExt;
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    let mut folder = RunFolder::create(&path, &config(), &environment()).unwrap();
    folder.append(&step(1, 1)).unwrap();
    assert_eq!(Run::read(&path).unwrap().records.len(), 1);
    fs::write(path.join("metrics.jsonl"), "{}\n").unwrap();
    let error = Run::read(&path).unwrap_err().to_string();
    assert!(error.contains("metrics.jsonl, line 1, is not a record"), "{error}");
}
