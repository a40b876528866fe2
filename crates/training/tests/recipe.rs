//! The parts of a recipe that are the loop's: how many steps an epoch has, when weights are averaged, and the views of a test image.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

mod common;

use common::resume_or_create;
use pointwise_data::{Images, Normalisation};
use pointwise_engine::{Array, Batch, Engine, EngineError, OptimizerState, Snapshot, State, Totals};
use pointwise_recipe::{
    Adam, Augment, CosineAnnealingLr, Lookahead, Rate, Recipe, Schedule, TestTimeAugmentation,
};
use pointwise_runs::{Checkpoint, Record, Run, RunConfig, RunFolder, RunResult};
use pointwise_training::{
    FinishedEpoch, Job, Observer, Outcome, Splits, StepProgress, TrainingError, check_configuration, fit,
};
use std::collections::BTreeMap;
use std::fs;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const PIXELS: usize = 9;
const CLASSES: usize = 2;

/// An engine whose weights are sums of the images of each class, so that every step leaves its mark.
#[derive(Default)]
struct Sums {
    weights: Vec<f32>,
    slow: Vec<f32>,
    step: u64,
    totals: Totals,
    /// Steps after which weights were averaged, and the decays.
    averaged: Vec<(u64, f64)>,
    /// A flag that is set after this many batches of logits.
    stop_after: Option<(usize, Arc<AtomicBool>)>,
}

impl Sums {
    fn new() -> Self {
        let weights: Vec<f32> = (0..CLASSES * PIXELS).map(|i| (i * 7 % 5) as f32 / 8.0).collect();
        Self { slow: weights.clone(), weights, ..Self::default() }
    }
}

fn logits_by(weights: &[f32], image: &[f32]) -> Vec<f32> {
    let class = |row: &[f32]| row.iter().zip(image).map(|(w, x)| (w * x) * (w * x)).sum::<f32>().sqrt();
    weights.chunks(PIXELS).map(class).collect()
}

struct Copied(State);

impl Snapshot for Copied {
    fn state(self: Box<Self>) -> Result<State, EngineError> {
        Ok(self.0)
    }
}

fn arrays(values: &[f32]) -> BTreeMap<String, Array> {
    let array = Array { shape: vec![CLASSES, PIXELS], values: values.to_vec() };
    BTreeMap::from([("a.weight".to_owned(), array)])
}

impl Engine for Sums {
    fn train_step(&mut self, batch: Batch<'_>) -> Result<(), EngineError> {
        for (image, label) in batch.images.chunks(PIXELS).zip(batch.labels) {
            for (weight, value) in self.weights[usize::from(*label) * PIXELS..].iter_mut().zip(image) {
                *weight += value / 64.0;
            }
        }
        self.step += 1;
        let loss = f64::from(self.weights.iter().sum::<f32>());
        self.totals.add(loss, 1, batch.labels.len() as u64);
        Ok(())
    }

    fn evaluate(&mut self, batch: Batch<'_>) -> Result<(), EngineError> {
        let loss = f64::from(self.weights.iter().sum::<f32>());
        self.totals.add(loss, self.step % 2, batch.labels.len() as u64);
        Ok(())
    }

    fn set_rate(&mut self, _: Rate) -> Result<(), EngineError> {
        Ok(())
    }

    fn use_average(&mut self, _: bool) -> Result<(), EngineError> {
        Ok(())
    }

    fn lookahead(&mut self, decay: f64) -> Result<(), EngineError> {
        for (slow, weight) in self.slow.iter_mut().zip(&mut self.weights) {
            *slow = decay as f32 * *slow + (1.0 - decay as f32) * *weight;
            *weight = *slow;
        }
        self.averaged.push((self.step, decay));
        Ok(())
    }

    fn logits(&mut self, images: &[f32]) -> Result<Vec<f32>, EngineError> {
        if let Some((left, stop)) = &mut self.stop_after {
            *left -= 1;
            stop.store(*left == 0, Ordering::Relaxed);
        }
        Ok(images.chunks(PIXELS).flat_map(|image| logits_by(&self.weights, image)).collect())
    }

    fn totals(&mut self) -> Result<Totals, EngineError> {
        Ok(self.totals)
    }

    fn set_totals(&mut self, totals: Totals) -> Result<(), EngineError> {
        self.totals = totals;
        Ok(())
    }

    fn snapshot(&self, optimizer: bool) -> Result<Box<dyn Snapshot>, EngineError> {
        let buffers = BTreeMap::from([("slow".to_owned(), arrays(&self.slow))]);
        Ok(Box::new(Copied(State {
            parameters: arrays(&self.weights),
            statistics: BTreeMap::new(),
            batches_tracked: BTreeMap::new(),
            optimizer: (optimizer && self.step > 0).then_some(OptimizerState { buffers, step: self.step }),
            average: None,
        })))
    }

    fn load_state(&mut self, state: &State) -> Result<(), EngineError> {
        self.weights.clone_from(&state.parameters["a.weight"].values);
        if let Some(optimizer) = &state.optimizer {
            self.slow.clone_from(&optimizer.buffers["slow"]["a.weight"].values);
            self.step = optimizer.step;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Steps(Vec<StepProgress>);

impl Observer for Steps {
    fn step(&mut self, at: &StepProgress) {
        self.0.push(*at);
    }
    fn evaluating(&mut self, done: usize, total: usize) {
        assert!(done <= total);
    }
    fn epoch(&mut self, _: &FinishedEpoch<'_>) {}
}

fn recipe() -> Recipe {
    Recipe { augment: Augment::NONE, ..Recipe::new(3, 4, Adam::default()) }
}

fn config(recipe: Recipe) -> RunConfig {
    RunConfig { log_every: NonZeroU32::MIN, ..RunConfig::new("sums", recipe) }
}

/// Ten images to train on and five to test on, no two of which are alike.
fn splits() -> Splits {
    let images = |n: usize, seed: usize| {
        let pixels = (0..n * PIXELS).map(|i| ((i + seed) * 149 % 256) as u8).collect();
        let labels = (0..n).map(|i| (i * 5 % 3 % 2) as u16).collect();
        Arc::new(Images::new([1, 3, 3], CLASSES, pixels, labels).unwrap())
    };
    let normalisation = Normalisation { mean: vec![0.5], std: vec![0.25] };
    Splits { train: images(10, 1), validation: None, test: images(5, 77), normalisation }
}

/// Trains from where the run in a folder stands.
fn train(
    folder: &Path,
    config: &RunConfig,
    engine: &mut Sums,
    steps: &mut Steps,
) -> Result<Outcome, TrainingError> {
    let splits = splits();
    let (mut run, from) = resume_or_create(folder, config, &splits, engine)?;
    let stop = engine.stop_after.as_ref().map_or_else(Arc::default, |(_, stop)| stop.clone());
    fit(Job { config, splits: &splits, stop: &stop }, from, engine, &mut run, steps)
}

fn finish(folder: &Path, config: &RunConfig, engine: &mut Sums) -> (RunResult, Vec<StepProgress>) {
    let mut steps = Steps::default();
    match train(folder, config, engine, &mut steps).unwrap() {
        Outcome::Finished(result) => (result, steps.0),
        other => panic!("{other:?}"),
    }
}

/// What a run leaves, except for measured times.
fn left(folder: &Path) -> (Vec<Record>, Vec<Vec<u8>>, RunResult) {
    let Run { mut records, result, .. } = Run::read(folder).unwrap();
    for record in &mut records {
        match record {
            Record::Step(step) => step.seconds = 0.0,
            Record::Epoch(epoch) => {
                (epoch.train_seconds, epoch.eval_seconds, epoch.seconds) = (0.0, 0.0, 0.0);
            }
        }
    }
    let checkpoints = [Checkpoint::Best, Checkpoint::Last]
        .map(|which| fs::read(folder.join(which.file_name())).unwrap())
        .to_vec();
    let result = RunResult {
        seconds: 0.0,
        train_seconds: 0.0,
        eval_seconds: 0.0,
        peak_memory_bytes: None,
        ..result.unwrap()
    };
    (records, checkpoints, result)
}

#[test]
fn epochs_have_whole_batches_and_the_last_one_a_share_of_them() {
    let temp = tempfile::tempdir().unwrap();
    // Images of each batch, epoch by epoch.
    for (drop_last, last_epoch, expected) in [
        (false, None, &[&[4, 4, 2][..], &[4, 4, 2], &[4, 4, 2]]),
        (true, None, &[&[4, 4], &[4, 4], &[4, 4]]),
        (true, Some(0.5), &[&[4, 4], &[4, 4], &[4]]),
        (false, Some(0.5), &[&[4, 4, 2], &[4, 4, 2], &[4, 4]]),
        (false, Some(0.01), &[&[4, 4, 2], &[4, 4, 2], &[4]]),
        (false, Some(1.0), &[&[4, 4, 2], &[4, 4, 2], &[4, 4, 2]]),
    ] {
        let name = format!("{drop_last}-{last_epoch:?}");
        let folder = temp.path().join(&name);
        let config = config(Recipe { drop_last, last_epoch, ..recipe() });
        let (result, steps) = finish(&folder, &config, &mut Sums::new());
        let total = expected.iter().map(|epoch| epoch.len() as u64).sum::<u64>();
        assert_eq!((result.steps, result.epochs, result.stopped_early), (total, 3, false), "{name}");
        let mut at = steps.iter();
        let mut step = 0;
        for (epoch, batches) in (1..).zip(expected) {
            for (batch, images) in (1..).zip(*batches) {
                step += 1;
                let StepProgress { loss, accuracy, .. } = *at.as_slice().first().unwrap();
                assert!(loss.is_some() && accuracy.is_some());
                let (batches, images, steps) = (batches.len(), *images, total);
                assert_eq!(
                    *at.next().map(|at| format!("{at:?}")).unwrap(),
                    format!(
                        "{:?}",
                        StepProgress { epoch, batch, batches, step, steps, images, loss, accuracy }
                    )
                );
            }
        }
        assert!(at.next().is_none(), "{name}");
        let run = Run::read(&folder).unwrap();
        let ends: Vec<u64> = run.epochs().map(|epoch| epoch.step).collect();
        let [one, two] = [expected[0].len() as u64, expected[1].len() as u64];
        assert_eq!(ends, [one, one + two, total], "{name}");
        let progress = run.progress.unwrap();
        assert_eq!((progress.step, progress.steps, progress.epoch), (total, total, 3), "{name}");
    }
}

#[test]
fn weights_are_averaged_after_steps_and_after_the_last_one() {
    let temp = tempfile::tempdir().unwrap();
    let lookahead = Some(Lookahead { every: 3, decay: 0.5, power: 1.0 });
    let mut engine = Sums::new();
    let config = config(Recipe { lookahead, last_epoch: Some(0.5), ..recipe() });
    finish(temp.path(), &config, &mut engine);
    assert_eq!(engine.averaged, [(3, 0.5 * (3.0 / 8.0)), (6, 0.5 * (6.0 / 8.0)), (8, 1.0)]);
    // What is evaluated and saved is what is averaged.
    assert_eq!(engine.weights, engine.slow);
    let records = Run::read(temp.path()).unwrap().records;
    let loss = f64::from(engine.weights.iter().sum::<f32>());
    let Some(Record::Epoch(last)) = records.last() else { panic!("{records:?}") };
    assert_eq!(last.test_loss, Some(loss));
}

#[test]
fn all_of_it_resumes_at_any_step_to_the_same_bytes() {
    let temp = tempfile::tempdir().unwrap();
    let recipe = Recipe {
        lookahead: Some(Lookahead { every: 2, decay: 0.75, power: 2.0 }),
        test_time_augmentation: Some(TestTimeAugmentation { flip: true, translate: 1 }),
        ..recipe()
    };
    for (drop_last, last_epoch) in [(true, Some(0.5)), (false, Some(0.6)), (true, None)] {
        let config = config(Recipe { drop_last, last_epoch, ..recipe.clone() });
        let folder = |name: &str| temp.path().join(format!("{drop_last}-{last_epoch:?}-{name}"));
        let whole = folder("whole");
        let steps = finish(&whole, &config, &mut Sums::new()).0.steps;
        for middle in 1..=steps {
            let parts = folder(&middle.to_string());
            let limited = RunConfig { max_steps: NonZeroU64::new(middle), ..config.clone() };
            let first = train(&parts, &limited, &mut Sums::new(), &mut Steps::default()).unwrap();
            match first {
                Outcome::StepLimit { step, .. } => assert_eq!(step, middle),
                // The limit is that of the training.
                Outcome::Finished(_) => assert_eq!(middle, steps),
                Outcome::Interrupted { .. } => panic!("{first:?}"),
            }
            finish(&parts, &config, &mut Sums::new());
            assert!(left(&parts) == left(&whole), "{drop_last}, {last_epoch:?}, after step {middle}");
        }
    }
}

#[test]
fn a_training_whose_steps_depend_on_its_length_is_not_made_longer() {
    let temp = tempfile::tempdir().unwrap();
    let cosine = Schedule::Cosine(CosineAnnealingLr::default());
    for (name, changed, is_refused) in [
        ("plain", recipe(), false),
        ("drop-last", Recipe { drop_last: true, ..recipe() }, false),
        ("cut", Recipe { last_epoch: Some(0.5), ..recipe() }, true),
        ("lookahead", Recipe { lookahead: Some(Lookahead::default()), ..recipe() }, true),
        ("schedule", Recipe { schedule: cosine, ..recipe() }, true),
    ] {
        let folder = temp.path().join(name);
        let short = config(changed);
        finish(&folder, &short, &mut Sums::new());
        let mut long = short.clone();
        long.recipe.epochs = 4;
        let checked = check_configuration(&RunFolder::resume(&folder).unwrap().0, &long);
        let trained = train(&folder, &long, &mut Sums::new(), &mut Steps::default());
        if is_refused {
            for error in [checked.unwrap_err(), trained.unwrap_err()] {
                let said = "says epochs = 4, but the run was trained with 3 until here";
                assert!(error.to_string().contains(said), "{name}: {error}");
            }
        } else {
            checked.unwrap();
            assert!(matches!(trained.unwrap(), Outcome::Finished(result) if result.epochs == 4), "{name}");
        }
    }
}

/// The mean over views by hand: indices of pixels, and sums in f64.
#[test]
fn views_are_tested_with_the_final_weights() {
    let temp = tempfile::tempdir().unwrap();
    let splits = splits();
    let mut accuracies = Vec::new();
    for (flip, translate) in [(true, 0), (false, 1), (true, 1), (true, 2)] {
        let views = Some(TestTimeAugmentation { flip, translate });
        let folder = temp.path().join(format!("{flip}-{translate}"));
        let mut engine = Sums::new();
        let config = config(Recipe { test_time_augmentation: views, ..recipe() });
        let (result, _) = finish(&folder, &config, &mut engine);
        let shift = translate as i64;
        let mut shown: Vec<(i64, bool, f64)> = match shift {
            0 => vec![(0, false, 1.0)],
            _ => vec![(0, false, 0.5), (-shift, false, 0.25), (shift, false, 0.25)],
        };
        if flip {
            shown = shown.iter().flat_map(|v| [(v.0, false, v.2 / 2.0), (v.0, true, v.2 / 2.0)]).collect();
        }
        let (mut loss, mut correct) = (0.0, 0);
        for image in 0..splits.test.len() {
            let pixels = splits.test.image(image);
            let label = usize::from(splits.test.labels()[image]);
            let mut mean = [0.0; CLASSES];
            for (shift, flip, weight) in &shown {
                // -2 -1 | 0 1 2 | 3 4 show 2 1 | 0 1 2 | 1 0.
                let source = |at: i64| [2, 1, 0, 1, 2, 1, 0][(at + shift + 2) as usize];
                let view: Vec<f32> = (0..3i64)
                    .flat_map(|y| (0..3i64).map(move |x| (y, x)))
                    .map(|(y, x)| {
                        let x = if *flip { 2 - x } else { x };
                        (f32::from(pixels[source(y) * 3 + source(x)]) / 255.0 - 0.5) / 0.25
                    })
                    .collect();
                for (mean, logit) in mean.iter_mut().zip(logits_by(&engine.weights, &view)) {
                    *mean += weight * f64::from(logit);
                }
            }
            loss += (mean[0].exp() + mean[1].exp()).ln() - mean[label];
            correct += usize::from(mean[label] > mean[1 - label]);
        }
        let found = (result.tta_test_loss.unwrap(), result.tta_test_acc.unwrap());
        assert!((found.0 - loss / 5.0).abs() < 1e-9, "{flip}, {translate}: {found:?}, not {}", loss / 5.0);
        assert_eq!(found.1, correct as f64 / 5.0);
        accuracies.push(found);
    }
    // Each view counts.
    accuracies.dedup();
    assert_eq!(accuracies.len(), 4, "{accuracies:?}");

    let plain = finish(&temp.path().join("plain"), &config(recipe()), &mut Sums::new()).0;
    assert_eq!((plain.tta_test_acc, plain.tta_test_loss), (None, None));
}

#[test]
fn a_stop_among_the_views_is_a_pause() {
    let temp = tempfile::tempdir().unwrap();
    let views = Some(TestTimeAugmentation { flip: true, translate: 1 });
    let config = config(Recipe { test_time_augmentation: views, ..recipe() });
    let [whole, parts] = ["whole", "parts"].map(|name| temp.path().join(name));
    finish(&whole, &config, &mut Sums::new());
    let mut engine = Sums { stop_after: Some((5, Arc::default())), ..Sums::new() };
    let outcome = train(&parts, &config, &mut engine, &mut Steps::default()).unwrap();
    assert_eq!(outcome, Outcome::Interrupted { step: 9 });
    assert!(Run::read(&parts).unwrap().result.is_none());
    finish(&parts, &config, &mut Sums::new());
    assert!(left(&parts) == left(&whole));
}

#[test]
fn images_that_fill_no_batch_are_refused() {
    let splits = splits();
    let recipe = Recipe { drop_last: true, batch_size: 11, ..recipe() };
    assert_eq!(
        splits.check(&recipe).unwrap_err().to_string(),
        "with drop-last no batch is left to train on, since 10 training images are fewer than the batch-size 11; give a batch-size \
         of at most 10, or drop-last = false"
    );
    splits.check(&Recipe { batch_size: 10, ..recipe.clone() }).unwrap();
    splits.check(&Recipe { drop_last: false, ..recipe }).unwrap();
}
