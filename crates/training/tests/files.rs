//! The files of a run while a thread writes them: wherever the thread is slow or fails, they are those of a run that waits for each write.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

mod common;

use common::resume_or_create;
use pointwise_data::{Images, Normalisation};
use pointwise_engine::{Array, Average, Batch, Engine, EngineError, OptimizerState, Snapshot, State, Totals};
use pointwise_recipe::{Adam, Augment, Ema, Rate, Recipe};
use pointwise_runs::{Checkpoint, Record, Run, RunConfig, State as Activity};
use pointwise_training::{FinishedEpoch, Job, Observer, Outcome, Splits, StepProgress, TrainingError, fit};
use pointwise_weights::checkpoint;
use std::collections::BTreeMap;
use std::fs;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const EPOCHS: u32 = 4;
const BATCHES: u64 = 3;
/// Of the eight test images, those predicted correctly after each epoch: the third epoch is not better than the second.
const CORRECT: [u64; 4] = [2, 4, 3, 5];
/// A test that waits for something longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Counts steps, for threads that wait for them.
#[derive(Default)]
struct Steps {
    taken: Mutex<u64>,
    more: Condvar,
}

impl Steps {
    fn take(&self) {
        *self.taken.lock().unwrap() += 1;
        self.more.notify_all();
    }

    /// Waits on the writer's thread until training has taken `steps`, which never happens if training waits for the writer.
    fn wait_for(&self, steps: u64) {
        let taken = self.taken.lock().unwrap();
        let taken = self.more.wait_timeout_while(taken, PATIENCE, |taken| *taken < steps).unwrap().0;
        assert!(*taken >= steps, "training waits for the writer");
    }
}

/// Called on the writer's thread when a copy becomes a state, with the number of steps after which the copy was taken.
type Hook = Arc<dyn Fn(u64) -> Result<(), EngineError> + Send + Sync>;

/// An engine whose parameters count its steps.
struct Counter {
    step: u64,
    ema: bool,
    totals: Totals,
    /// The steps of this engine.
    steps: Arc<Steps>,
    /// Called before each step with the number of steps taken.
    before: Box<dyn FnMut(u64) -> Result<(), EngineError>>,
    hook: Hook,
}

impl Counter {
    fn new(config: &RunConfig) -> Self {
        Self {
            step: 0,
            ema: config.recipe.ema.is_some(),
            totals: Totals::default(),
            steps: Arc::default(),
            before: Box::new(|_| Ok(())),
            hook: Arc::new(|_| Ok(())),
        }
    }
}

/// The state after that many steps.
fn state(step: u64, ema: bool) -> State {
    let arrays = |name: &str, scale: f32| {
        let values = (0..6).map(|i| scale * (step as f32 + i as f32 / 8.0)).collect();
        BTreeMap::from([(name.to_owned(), Array { shape: vec![2, 3], values })])
    };
    let begun = step > 0;
    State {
        parameters: arrays("a.weight", 1.0),
        statistics: arrays("a.running_mean", -1.0),
        batches_tracked: BTreeMap::from([("a.num_batches_tracked".to_owned(), step as i64)]),
        optimizer: begun.then(|| OptimizerState {
            buffers: BTreeMap::from([("exp_avg".to_owned(), arrays("a.weight", 0.5))]),
            step,
        }),
        average: (ema && begun).then(|| Average {
            parameters: arrays("a.weight", 0.25),
            statistics: arrays("a.running_mean", 0.125),
        }),
    }
}

struct Copied {
    state: State,
    step: u64,
    hook: Hook,
}

impl Snapshot for Copied {
    fn state(self: Box<Self>) -> Result<State, EngineError> {
        (self.hook)(self.step)?;
        Ok(self.state)
    }
}

impl Engine for Counter {
    fn train_step(&mut self, batch: Batch<'_>) -> Result<(), EngineError> {
        (self.before)(self.step)?;
        self.step += 1;
        self.totals.add(1.0 / self.step as f64, 0, batch.labels.len() as u64);
        self.steps.take();
        Ok(())
    }

    fn evaluate(&mut self, batch: Batch<'_>) -> Result<(), EngineError> {
        let correct = CORRECT[(self.step / BATCHES) as usize - 1];
        let is_first = self.totals.samples == 0;
        self.totals.add(0.5, if is_first { correct } else { 0 }, batch.labels.len() as u64);
        Ok(())
    }

    fn set_rate(&mut self, _: Rate) -> Result<(), EngineError> {
        Ok(())
    }

    fn use_average(&mut self, _: bool) -> Result<(), EngineError> {
        Ok(())
    }

    fn logits(&mut self, _: &[f32]) -> Result<Vec<f32>, EngineError> {
        Ok(Vec::new())
    }

    fn totals(&mut self) -> Result<Totals, EngineError> {
        Ok(self.totals)
    }

    fn set_totals(&mut self, totals: Totals) -> Result<(), EngineError> {
        self.totals = totals;
        Ok(())
    }

    fn snapshot(&self, optimizer: bool) -> Result<Box<dyn Snapshot>, EngineError> {
        let mut state = state(self.step, self.ema);
        if !optimizer {
            (state.optimizer, state.average) = (None, None);
        }
        Ok(Box::new(Copied { state, step: self.step, hook: self.hook.clone() }))
    }

    fn load_state(&mut self, loaded: &State) -> Result<(), EngineError> {
        self.step = loaded.optimizer.as_ref().map_or(0, |optimizer| optimizer.step);
        assert_eq!(*loaded, state(self.step, self.ema));
        Ok(())
    }
}

struct Nobody;

impl Observer for Nobody {
    fn step(&mut self, _: &StepProgress) {}
    fn evaluating(&mut self, _: usize, _: usize) {}
    fn epoch(&mut self, _: &FinishedEpoch<'_>) {}
}

fn config(ema: bool) -> RunConfig {
    let recipe = Recipe::new(EPOCHS, 4, Adam::default());
    let recipe = Recipe { ema: ema.then_some(Ema { decay: 0.5 }), augment: Augment::NONE, ..recipe };
    RunConfig { log_every: NonZeroU32::MIN, ..RunConfig::new("counter", recipe) }
}

fn splits() -> Splits {
    let images = |n: u16| {
        let labels = (0..n).map(|i| i % 2).collect();
        Arc::new(Images::new([1, 2, 2], 2, vec![7; 4 * usize::from(n)], labels).unwrap())
    };
    // The last batch of an epoch is a short one.
    let normalisation = Normalisation { mean: vec![0.5], std: vec![0.25] };
    Splits { train: images(10), validation: None, test: images(8), normalisation }
}

/// Trains in a folder, from where its run stands.
fn train(
    folder: &Path,
    config: &RunConfig,
    engine: &mut Counter,
    stop: &AtomicBool,
) -> Result<Outcome, TrainingError> {
    let splits = splits();
    let (mut run, from) = resume_or_create(folder, config, &splits, engine).unwrap();
    fit(Job { config, splits: &splits, stop }, from, engine, &mut run, &mut Nobody)
}

fn finish(folder: &Path, config: &RunConfig, engine: &mut Counter) {
    let outcome = train(folder, config, engine, &AtomicBool::new(false)).unwrap();
    assert!(matches!(outcome, Outcome::Finished(_)), "{outcome:?}");
}

/// Everything that a run leaves, except for measured times.
#[derive(Debug, PartialEq)]
struct Left {
    records: Vec<Record>,
    checkpoints: BTreeMap<&'static str, Vec<u8>>,
    progress: String,
    result: String,
    files: Vec<String>,
}

fn left(folder: &Path) -> Left {
    let Run { mut records, progress, result, .. } = Run::read(folder).unwrap();
    for record in &mut records {
        match record {
            Record::Step(step) => step.seconds = 0.0,
            Record::Epoch(epoch) => {
                (epoch.train_seconds, epoch.eval_seconds, epoch.seconds) = (0.0, 0.0, 0.0);
            }
        }
    }
    let mut checkpoints = BTreeMap::new();
    for which in [Checkpoint::Best, Checkpoint::Last, Checkpoint::Ema] {
        if let Ok(bytes) = fs::read(folder.join(which.file_name())) {
            checkpoints.insert(which.file_name(), bytes);
        }
    }
    let mut files: Vec<String> = [folder.to_owned(), folder.join("checkpoints")]
        .iter()
        .flat_map(|folder| fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort_unstable();
    let progress = progress.map(|all| (all.epoch, all.step, all.steps, all.state));
    let result = result.map(|all| (all.final_acc, all.best_acc, all.best_epoch, all.ema_test_acc, all.steps));
    Left { records, checkpoints, progress: format!("{progress:?}"), result: format!("{result:?}"), files }
}

/// What distinguishes one moment of a run from another: its lines, and the steps of its checkpoints.
fn glance(folder: &Path) -> String {
    let records = Run::read(folder).unwrap().records;
    let mut words: Vec<String> = records
        .iter()
        .map(|record| match record {
            Record::Step(record) => record.step.to_string(),
            Record::Epoch(record) => format!("epoch {}", record.epoch),
        })
        .collect();
    for (name, which) in [("best", Checkpoint::Best), ("ema", Checkpoint::Ema), ("last", Checkpoint::Last)] {
        if let Some(meta) = checkpoint::read_meta(&folder.join(which.file_name())) {
            words.push(format!("{name} of {}", meta.step));
        }
    }
    words.join(", ")
}

/// Makes training wait at the beginning of each epoch until everything of the one before is written.
fn wait_for_files(folder: &Path) -> Box<dyn FnMut(u64) -> Result<(), EngineError>> {
    let last = folder.join(Checkpoint::Last.file_name());
    Box::new(move |step| {
        let began = Instant::now();
        while step > 0
            && step.is_multiple_of(BATCHES)
            && checkpoint::read_meta(&last).is_none_or(|meta| meta.step < step)
        {
            assert!(began.elapsed() < PATIENCE, "the checkpoint of step {step} is not written");
            std::thread::yield_now();
        }
        Ok(())
    })
}

/// A copy of a run's folder as it is, and as a kill would leave it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("checkpoints")).unwrap();
    for folder in ["", "checkpoints"] {
        for entry in fs::read_dir(from.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() && !path.ends_with("run.lock") {
                fs::copy(&path, to.join(path.strip_prefix(from).unwrap())).unwrap();
            }
        }
    }
}

#[test]
fn a_slow_writer_changes_neither_order_nor_bytes() {
    for ema in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let config = config(ema);
        let [in_line, at_once, slow] = ["in-line", "at-once", "slow"].map(|name| temp.path().join(name));
        let mut engine = Counter::new(&config);
        engine.before = wait_for_files(&in_line);
        finish(&in_line, &config, &mut engine);
        finish(&at_once, &config, &mut Counter::new(&config));

        // Each checkpoint is begun when the next epoch has been trained; before that, the state of the run is noted.
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut engine = Counter::new(&config);
        engine.hook = {
            let (steps, seen, slow) = (engine.steps.clone(), seen.clone(), slow.clone());
            Arc::new(move |step| {
                steps.wait_for((step + BATCHES).min(u64::from(EPOCHS) * BATCHES));
                seen.lock().unwrap().push(glance(&slow));
                copy(&slow, &slow.with_extension(step.to_string()));
                Ok(())
            })
        };
        finish(&slow, &config, &mut engine);
        let averages = |step| if ema { format!("ema of {step}, ") } else { String::new() };
        let lines = ["1, 2, 3", "epoch 1, 4, 5, 6", "epoch 2, 7, 8, 9", "epoch 3, 10, 11, 12"];
        assert_eq!(
            *seen.lock().unwrap(),
            [
                lines[0].to_owned(),
                format!("{}, best of 3, {}last of 3", lines[..2].join(", "), averages(3)),
                format!("{}, best of 6, {}last of 6", lines[..3].join(", "), averages(6)),
                format!("{}, best of 6, {}last of 9", lines[..4].join(", "), averages(9)),
            ]
        );

        let expected = left(&in_line);
        assert!(expected.result.contains("0.625") && expected.progress.contains("Finished"), "{expected:?}");
        assert_eq!(left(&at_once), expected);
        assert_eq!(left(&slow), expected);
        let read = |which: Checkpoint| checkpoint::read(&slow.join(which.file_name())).unwrap().0;
        let last = state(12, ema);
        assert_eq!(read(Checkpoint::Last), last);
        // The last epoch is the best.
        assert_eq!(read(Checkpoint::Best), State { optimizer: None, average: None, ..last.clone() });
        if let Some(Average { parameters, statistics }) = last.average {
            let averaged = State { parameters, statistics, optimizer: None, average: None, ..last };
            assert_eq!(read(Checkpoint::Ema), averaged);
        }

        // A kill at any of these moments loses the epoch that is being written, and changes nothing in the end.
        for step in [3, 6, 9, 12] {
            let killed = slow.with_extension(step.to_string());
            let mut engine = Counter::new(&config);
            finish(&killed, &config, &mut engine);
            assert_eq!(*engine.steps.taken.lock().unwrap(), 12 + BATCHES - step);
            assert_eq!(left(&killed), expected, "killed at step {step}");
        }
    }
}

#[test]
fn a_stop_waits_for_what_is_being_written() {
    let temp = tempfile::tempdir().unwrap();
    let config = config(true);
    let [whole, stopped] = ["whole", "stopped"].map(|name| temp.path().join(name));
    finish(&whole, &config, &mut Counter::new(&config));
    // While the checkpoint of the epoch before has not been begun.
    for (stop_at, glanced) in [
        (4, "1, 2, 3, epoch 1, 4, 5, best of 3, ema of 3, last of 5"),
        (8, "1, 2, 3, epoch 1, 4, 5, 6, epoch 2, 7, 8, 9, best of 6, ema of 6, last of 9"),
    ] {
        let stop = Arc::new(AtomicBool::new(false));
        let mut engine = Counter::new(&config);
        // The steps of an earlier part count, too.
        *engine.steps.taken.lock().unwrap() = Run::read(&stopped).map_or(0, |run| run.progress.unwrap().step);
        engine.hook = {
            let (steps, epoch_end) = (engine.steps.clone(), stop_at / BATCHES * BATCHES);
            Arc::new(move |step| {
                if step == epoch_end {
                    steps.wait_for(stop_at + 1);
                }
                Ok(())
            })
        };
        engine.before = {
            let stop = stop.clone();
            Box::new(move |step| {
                stop.store(step == stop_at, Ordering::Relaxed);
                Ok(())
            })
        };
        let outcome = train(&stopped, &config, &mut engine, &stop).unwrap();
        assert_eq!(outcome, Outcome::Interrupted { step: stop_at + 1 });
        assert_eq!(glance(&stopped), glanced);
        assert_eq!(Run::read(&stopped).unwrap().progress.unwrap().state, Activity::Interrupted);
    }
    finish(&stopped, &config, &mut Counter::new(&config));
    assert_eq!(left(&stopped), left(&whole));
}

#[test]
fn an_error_of_the_writer_ends_the_run() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("run");
    let checkpoints = folder.join("checkpoints");
    let gone: Hook = Arc::new(move |_| {
        fs::remove_dir(&checkpoints).unwrap();
        Ok(())
    });
    let refused: Hook = Arc::new(|_| Err(EngineError::Batch("it cannot be read".to_owned())));
    let panicking: Hook = Arc::new(|_| panic!("a bug"));
    for (hook, expected) in [
        (gone, "run/checkpoints/best.safetensors cannot be written ("),
        (refused, "it cannot be read"),
        (panicking, "the thread that writes the run's files has panicked (a bug); "),
    ] {
        // It may be noticed at the next checkpoint or earlier, or at the end.
        for epochs in [EPOCHS, 1] {
            let mut config = config(false);
            config.recipe.epochs = epochs;
            let mut engine = Counter::new(&config);
            engine.hook = hook.clone();
            let error =
                train(&folder, &config, &mut engine, &AtomicBool::new(false)).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
            assert!(engine.step <= 2 * BATCHES, "{expected}: {}", engine.step);
            let run = Run::read(&folder).unwrap();
            assert_eq!(run.progress.unwrap().state, Activity::Failed);
            // Nothing after the failure.
            assert_eq!(glance(&folder), "1, 2, 3", "{expected}");
            assert!(run.result.is_none());
            fs::remove_dir_all(&folder).unwrap();
        }
    }
}

/// No later task would reveal the failure.
#[test]
fn a_pause_whose_checkpoint_fails_is_an_error() {
    let temp = tempfile::tempdir().unwrap();
    let config = RunConfig { max_steps: NonZeroU64::new(2), ..config(false) };
    let mut engine = Counter::new(&config);
    engine.hook = Arc::new(|_| Err(EngineError::Batch("it cannot be read".to_owned())));
    let error = train(&temp.path().join("run"), &config, &mut engine, &AtomicBool::new(false)).unwrap_err();
    assert!(error.to_string().contains("it cannot be read"), "{error}");
}

#[test]
fn of_two_errors_the_first_in_order_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let config = config(false);
    for (hook_fails, told, glanced) in [
        (true, "the first checkpoint", "1, 2, 3"),
        // What was given before is written.
        (false, "the fifth step", "1, 2, 3, epoch 1, 4, best of 3, last of 3"),
    ] {
        let folder = temp.path().join(hook_fails.to_string());
        let mut engine = Counter::new(&config);
        engine.before = Box::new(|step| match step {
            4 => Err(EngineError::Batch("the fifth step".to_owned())),
            _ => Ok(()),
        });
        engine.hook = {
            let steps = engine.steps.clone();
            Arc::new(move |_| {
                steps.wait_for(BATCHES + 1);
                match hook_fails {
                    true => Err(EngineError::Batch("the first checkpoint".to_owned())),
                    false => Ok(()),
                }
            })
        };
        let error = train(&folder, &config, &mut engine, &AtomicBool::new(false)).unwrap_err().to_string();
        assert!(error.contains(told), "{told}: {error}");
        assert_eq!(glance(&folder), glanced);
        assert_eq!(Run::read(&folder).unwrap().progress.unwrap().state, Activity::Failed);
    }
}

#[test]
fn a_state_without_what_a_checkpoint_holds_is_refused() {
    let meta = checkpoint::Meta {
        model: "counter".to_owned(),
        dropout: 0.0,
        seed: 1,
        epoch: 1,
        step: 3,
        best: None,
        position: None,
        run: None,
        imported: None,
        crc32c: None,
    };
    let refused = |which, state: &State| {
        checkpoint::encode(Path::new("file"), which, state, &meta).unwrap_err().to_string()
    };
    let error = refused(Checkpoint::Ema, &state(3, false));
    assert!(error.contains("file is not a usable weights file: there are no averages"), "{error}");
    let mut short = state(3, true);
    short.parameters.values_mut().for_each(|array| array.values.truncate(5));
    let error = refused(Checkpoint::Best, &short);
    assert!(error.contains("`a.weight` has 20 bytes, too many or too few for [2, 3]"), "{error}");
    let mut short = state(3, true);
    let average = short.average.as_mut().unwrap();
    average.parameters.values_mut().for_each(|array| array.values.truncate(5));
    let error = refused(Checkpoint::Last, &short);
    assert!(error.contains("`average.a.weight` has 20 bytes"), "{error}");
}
