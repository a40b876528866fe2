//! The training loop.

use crate::resume::Epoch;
use crate::views::evaluate_views;
use crate::writer::Writer;
use crate::{ResumePoint, Splits, TrainingError};
use pointwise_data::{
    BatchSettings, Batches, Images, Normalisation, evaluation_batches, training_batches, training_order,
};
use pointwise_engine::{
    Array, Batch, BegunEpoch, Engine, EngineError, ResidentEpoch, ResidentImages, ResidentSet, Totals,
};
use pointwise_recipe::{Augment, Flip, PaddingMode, Rate, Span, TestTimeAugmentation};
use pointwise_runs::{
    Analysis, Checkpoint, EpochRecord, Progress, Record, Run, RunConfig, RunFolder, RunResult, State,
    StepRecord, peak_memory, timestamp,
};
use pointwise_weights::checkpoint::{self, Best, Meta, Position};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// `progress.json` is renewed at most this often, for those who watch a run.
const PROGRESS_PERIOD: Duration = Duration::from_secs(2);

/// What is trained, and on which images.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// The resolved configuration.
    pub config: &'a RunConfig,
    /// The images.
    pub splits: &'a Splits,
    /// Set from outside to end the run early: after the current step, with a checkpoint to resume from.
    pub stop: &'a AtomicBool,
}

/// Follows a run as it goes: for displays.
pub trait Observer {
    /// A training step is done.
    fn step(&mut self, progress: &StepProgress);
    /// An evaluation is under way: images done, of how many.
    fn evaluating(&mut self, done: usize, total: usize);
    /// An epoch is done, and its record and checkpoints are being written.
    fn epoch(&mut self, epoch: &FinishedEpoch<'_>);

    /// The final parameters are evaluated and the result is about to be written. An observer that analyses them returns the
    /// analysis, which becomes part of the run.
    ///
    /// # Errors
    /// [`TrainingError`] of the analysis.
    fn last(&mut self, last: &mut Last<'_>) -> Result<Option<Analysis>, TrainingError> {
        let _ = last;
        Ok(None)
    }
}

/// An epoch that is done.
pub struct FinishedEpoch<'a> {
    /// What the run records of it.
    pub record: &'a EpochRecord,
    engine: &'a dyn Engine,
}

impl FinishedEpoch<'_> {
    /// The parameters after it, by PyTorch's names.
    ///
    /// # Errors
    /// The engine's.
    pub fn parameters(&self) -> Result<BTreeMap<String, Array>, TrainingError> {
        Ok(self.engine.snapshot(false)?.state()?.parameters)
    }
}

/// The final parameters and the test images.
pub struct Last<'a> {
    engine: &'a mut dyn Engine,
    /// The test images.
    pub images: &'a Arc<Images>,
    normalisation: &'a Normalisation,
    batch_size: usize,
    stop: &'a AtomicBool,
}

impl Last<'_> {
    /// The logits of the test images, `(N, classes)` row by row; `None` if the run is told to stop meanwhile. Changes nothing.
    ///
    /// # Errors
    /// The engine's.
    pub fn logits(&mut self) -> Result<Option<Vec<f32>>, TrainingError> {
        let mut logits = Vec::new();
        let mut prepared = evaluation_batches(self.images, self.batch_size, self.normalisation)?;
        while let Some(batch) = prepared.next() {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            logits.extend(self.engine.logits(&batch.images)?);
            prepared.recycle(batch);
        }
        Ok(Some(logits))
    }

    /// The final parameters and statistics.
    ///
    /// # Errors
    /// The engine's.
    pub fn state(&self) -> Result<pointwise_engine::State, TrainingError> {
        Ok(self.engine.snapshot(false)?.state()?)
    }
}

/// Where a run is.
#[derive(Debug, Clone, Copy)]
pub struct StepProgress {
    /// The epoch, from 1.
    pub epoch: u32,
    /// Batches of the epoch done.
    pub batch: usize,
    /// Batches of the epoch: the last one may have fewer than the others.
    pub batches: usize,
    /// Steps of the run done.
    pub step: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Images in the newest batch.
    pub images: usize,
    /// Its mean loss, on the steps that are recorded.
    pub loss: Option<f64>,
    /// The epoch's training accuracy so far, a fraction, on the steps that are recorded.
    pub accuracy: Option<f64>,
}

/// How a call of [`fit`] ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All epochs are done.
    Finished(RunResult),
    /// Stopped from outside, with a checkpoint after this many steps.
    Interrupted {
        /// Steps of the run done.
        step: u64,
    },
    /// `max_steps` are done, with a checkpoint.
    StepLimit {
        /// Steps of the run done.
        step: u64,
        /// Mean loss of the newest batch, in nats.
        last_loss: f64,
    },
}

/// How the training batches of a run are made.
#[must_use]
pub fn batch_settings(config: &RunConfig, normalisation: &Normalisation) -> BatchSettings {
    BatchSettings {
        seed: config.seed,
        batch_size: config.recipe.batch_size as usize,
        drop_last: config.recipe.drop_last,
        shuffle: config.recipe.shuffle,
        augment: config.recipe.augment,
        normalisation: normalisation.clone(),
    }
}

/// Trains until the end, an interruption or an error, from the beginning or from the position whose state the engine was given.
/// The files get the same bytes, except for measured seconds, as in a run that was never stopped.
///
/// Everything has been written when it returns. Until then the files may be behind, by a checkpoint at most.
///
/// # Errors
/// [`TrainingError`]: the engine's (a loss that is not finite, among others), the run folder's, or a damaged checkpoint's.
pub fn fit(
    job: Job<'_>,
    from: Option<ResumePoint>,
    engine: &mut dyn Engine,
    run: &mut RunFolder,
    observer: &mut dyn Observer,
) -> Result<Outcome, TrainingError> {
    let (outcome, failed) = std::thread::scope(|scope| {
        let mut session = Session::begin(job, from, engine, run, observer, scope)?;
        let outcome = session.run();
        let failed = session.progress(State::Failed);
        // A write error comes first: it concerns something that was given to the writer before the loop ended.
        Ok::<_, TrainingError>((session.writer.finish().and(outcome), failed))
    })?;
    if outcome.is_err() {
        // The error of the training matters more than one of writing the progress.
        let _ = run.write_progress(&failed);
    }
    outcome
}

/// Evaluates the engine on images in order, leaving its totals set to the result; `None` if `stop` was set meanwhile.
///
/// # Errors
/// The engine's.
pub fn evaluate(
    engine: &mut dyn Engine,
    images: &Arc<Images>,
    normalisation: &Normalisation,
    batch_size: usize,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Option<Totals>, TrainingError> {
    let feed = evaluation_feed(images, reside(engine, images, normalisation)?, normalisation, batch_size)?;
    evaluate_on(engine, images, feed, stop, observer)
}

/// The images in order, where the engine has them or from a thread that prepares them.
fn evaluation_feed(
    images: &Arc<Images>,
    resident: Option<ResidentSet>,
    normalisation: &Normalisation,
    batch_size: usize,
) -> Result<Feed<ResidentSet>, TrainingError> {
    Ok(match resident {
        Some(source) => Feed::Resident { source, batch_size, len: images.len() },
        None => Feed::Prepared(evaluation_batches(images, batch_size, normalisation)?),
    })
}

fn evaluate_on(
    engine: &mut dyn Engine,
    images: &Arc<Images>,
    mut feed: Feed<ResidentSet>,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Option<Totals>, TrainingError> {
    engine.set_totals(Totals::default())?;
    let (mut done, mut batch) = (0, 0);
    while done < images.len() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        done += feed.evaluate(engine, batch)?;
        batch += 1;
        observer.evaluating(done, images.len());
    }
    Ok(Some(engine.totals()?))
}

/// Gives images to an engine that keeps them on its device.
fn reside(
    engine: &mut dyn Engine,
    images: &Images,
    normalisation: &Normalisation,
) -> Result<Option<ResidentSet>, EngineError> {
    engine.reside(ResidentImages {
        images: images.pixels(),
        labels: images.labels(),
        values: normalisation.table().as_flattened(),
    })
}

/// How an engine that keeps the images augments them: `Some` of the padding before a random crop, with a random flip, or `Some(None)`
/// for no augmentation; `None` for one that it cannot do.
fn resident_margin(augment: Augment) -> Option<Option<u32>> {
    match augment {
        Augment::NONE => Some(None),
        Augment { crop, padding_mode: PaddingMode::Zeros, flip: Flip::Random, cutout: 0 } => Some(Some(crop)),
        _ => None,
    }
}

/// Where the batches of an epoch come from.
enum Feed<S> {
    /// The engine has the images.
    Resident { source: S, batch_size: usize, len: usize },
    /// A thread prepares them.
    Prepared(Batches),
}

impl Feed<BegunEpoch> {
    /// Trains on a batch of the epoch; gives its number of images.
    fn train(&mut self, engine: &mut dyn Engine, batch: usize) -> Result<usize, EngineError> {
        self.step(
            engine,
            batch,
            |engine, epoch, range| engine.train_resident(epoch, range),
            |engine, batch| engine.train_step(batch),
        )
    }
}

impl Feed<ResidentSet> {
    /// Evaluates a batch; gives its number of images.
    fn evaluate(&mut self, engine: &mut dyn Engine, batch: usize) -> Result<usize, EngineError> {
        self.step(
            engine,
            batch,
            |engine, set, range| engine.evaluate_resident(set, range),
            |engine, batch| engine.evaluate(batch),
        )
    }
}

impl<S: Copy> Feed<S> {
    fn step(
        &mut self,
        engine: &mut dyn Engine,
        batch: usize,
        resident: impl FnOnce(&mut dyn Engine, S, Range<usize>) -> Result<(), EngineError>,
        prepared: impl FnOnce(&mut dyn Engine, Batch<'_>) -> Result<(), EngineError>,
    ) -> Result<usize, EngineError> {
        match self {
            Self::Resident { source, batch_size, len } => {
                let range = batch * *batch_size..((batch + 1) * *batch_size).min(*len);
                let images = range.len();
                resident(engine, *source, range)?;
                Ok(images)
            }
            Self::Prepared(batches) => {
                let Some(batch) = batches.next() else {
                    return Err(EngineError::Batch("there are no images left".to_owned()));
                };
                prepared(engine, Batch { images: &batch.images, labels: &batch.labels })?;
                let images = batch.labels.len();
                batches.recycle(batch);
                Ok(images)
            }
        }
    }
}

/// The position of the loop: what a checkpoint holds in addition to the engine's state.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    epoch: u32,
    batch: usize,
    step: u64,
    /// Of the epoch's training so far.
    totals: Totals,
    best: Option<Best>,
}

/// An epoch's results. With a validation split, the test set is not used before the end of the run.
struct Scores {
    validation: Option<Totals>,
    test: Option<Totals>,
    /// Of the averaged weights, on the same images.
    average: Option<Totals>,
    train_seconds: f64,
}

/// The images that the engine keeps.
struct Resident {
    train: Option<ResidentSet>,
    validation: Option<ResidentSet>,
    test: Option<ResidentSet>,
}

/// What is written for an epoch in addition to the state to resume from.
struct EpochFiles {
    record: EpochRecord,
    /// Of the weights that are kept.
    meta: Meta,
    is_best: bool,
    has_average: bool,
}

struct Session<'a> {
    job: Job<'a>,
    settings: BatchSettings,
    span: Span,
    /// The rate that the engine was given last.
    rate: Option<Rate>,
    resident: Resident,
    engine: &'a mut dyn Engine,
    /// The run folder.
    folder: PathBuf,
    writer: Writer<'a>,
    observer: &'a mut dyn Observer,
    at: Cursor,
    /// Of the newest batch, also when its epoch is over and the totals are those of the next one.
    last_loss: f64,
    clock: Clock,
}

impl<'a> Session<'a> {
    fn begin(
        job: Job<'a>,
        from: Option<ResumePoint>,
        engine: &'a mut dyn Engine,
        run: &'a mut RunFolder,
        observer: &'a mut dyn Observer,
        scope: &'a Scope<'a, '_>,
    ) -> Result<Self, TrainingError> {
        let config = job.config;
        let normalisation = &job.splits.normalisation;
        let settings = batch_settings(config, normalisation);
        let mut at = Cursor { epoch: 1, batch: 0, step: 0, totals: Totals::default(), best: None };
        if let Some(ResumePoint { epoch, step, best, position }) = from {
            at = Cursor { epoch, batch: position.batch, step, totals: totals_at(&position), best };
            if at.epoch > config.recipe.epochs + 1 {
                return Err(TrainingError::Configuration(format!(
                    "the run has completed {} epochs; give --epochs {} or more",
                    at.epoch - 1,
                    at.epoch - 1
                )));
            }
            log::info!("resuming from step {}, batch {} of epoch {}", at.step, at.batch, at.epoch);
        }
        let resident = Resident {
            train: match resident_margin(settings.augment) {
                Some(_) => reside(engine, &job.splits.train, normalisation)?,
                None => None,
            },
            validation: job
                .splits
                .validation
                .as_ref()
                .map(|images| reside(engine, images, normalisation))
                .transpose()?
                .flatten(),
            test: reside(engine, &job.splits.test, normalisation)?,
        };
        // Steps after the checkpoint will be taken, and recorded, again.
        run.rewind(at.step, at.epoch - 1)?;
        let clock = Clock::begin(run, at.step)?;
        let span = config.recipe.span(job.splits.train.len());
        let last_loss = at.totals.last_loss;
        let folder = run.path().to_owned();
        let writer = Writer::start(scope, run)?;
        Ok(Self {
            job,
            settings,
            span,
            rate: None,
            resident,
            engine,
            folder,
            writer,
            observer,
            at,
            last_loss,
            clock,
        })
    }

    fn run(&mut self) -> Result<Outcome, TrainingError> {
        // The state recorded before no longer holds.
        self.show(State::Running)?;
        while self.at.epoch <= self.job.config.recipe.epochs && !self.is_stale() {
            if !self.train_epoch()? {
                return self.pause();
            }
            let Some(scores) = self.evaluate_epoch()? else { return self.pause() };
            self.record_epoch(&scores)?;
        }
        self.finish()
    }

    /// Trains to the end of the epoch; false if it was stopped before.
    fn train_epoch(&mut self) -> Result<bool, TrainingError> {
        self.engine.set_totals(self.at.totals)?;
        let mut feed = self.feed()?;
        while self.at.batch < self.batches() {
            if self.stopped() || self.job.config.max_steps.is_some_and(|limit| self.at.step >= limit.get()) {
                break;
            }
            self.set_rate()?;
            let images = feed.train(self.engine, self.at.batch)?;
            self.at.batch += 1;
            self.at.step += 1;
            self.look_ahead()?;
            self.after_step(images)?;
        }
        self.at.totals = self.engine.totals()?;
        if self.at.totals.samples > 0 {
            self.last_loss = self.at.totals.last_loss;
        }
        Ok(self.at.batch == self.batches())
    }

    /// Number of batches of the current epoch.
    fn batches(&self) -> usize {
        Epoch::new(&self.job.config.recipe, self.span, self.at.epoch).batches as usize
    }

    /// Averages the weights, if the recipe does so after the step just taken.
    fn look_ahead(&mut self) -> Result<(), EngineError> {
        let lookahead = self.job.config.recipe.lookahead;
        match lookahead.and_then(|lookahead| lookahead.decay_after(self.at.step, self.span)) {
            Some(decay) => self.engine.lookahead(decay),
            None => Ok(()),
        }
    }

    /// Gives the engine the rate of the next step, if it differs from the last one.
    fn set_rate(&mut self) -> Result<(), EngineError> {
        let rate = self.job.config.recipe.rate(self.at.step, self.span);
        if self.rate != Some(rate) {
            self.engine.set_rate(rate)?;
            self.rate = Some(rate);
        }
        Ok(())
    }

    /// Whether early stopping ends the training: too many epochs have passed without a better one.
    fn is_stale(&self) -> bool {
        match (self.job.config.recipe.early_stopping, self.at.best) {
            (Some(stopping), Some(best)) => self.at.epoch - 1 - best.epoch >= stopping.patience,
            _ => false,
        }
    }

    /// The epoch's batches from the current one on.
    fn feed(&mut self) -> Result<Feed<BegunEpoch>, TrainingError> {
        let (images, settings, Cursor { epoch, batch, .. }) =
            (&self.job.splits.train, &self.settings, self.at);
        let (Some(set), Some(margin)) = (self.resident.train, resident_margin(settings.augment)) else {
            return Ok(Feed::Prepared(training_batches(images, settings, epoch, batch)?));
        };
        let order = training_order(images.len(), settings, epoch);
        let source = self.engine.begin_epoch(set, ResidentEpoch { epoch, order: &order, margin })?;
        Ok(Feed::Resident { source, batch_size: settings.batch_size, len: images.len() })
    }

    /// Records, shows and saves what is due.
    fn after_step(&mut self, images: usize) -> Result<(), TrainingError> {
        let Cursor { epoch, batch, step, .. } = self.at;
        let (mut loss, mut accuracy) = (None, None);
        if step.is_multiple_of(u64::from(self.job.config.log_every.get())) {
            let totals = self.engine.totals()?;
            let last_loss = totals.last_loss;
            (loss, accuracy) = (Some(last_loss), Some(totals.accuracy()));
            let seconds = self.clock.seconds();
            let gradient_norm = totals.last_gradient_norm;
            let record = StepRecord { epoch, step, loss: last_loss, gradient_norm, seconds };
            self.writer.give(move |run| Ok(run.append(&Record::Step(record))?))?;
        }
        if self.clock.progress_due() {
            self.show(State::Running)?;
        }
        if self.clock.checkpoint_due(self.job.config.checkpoint_every) {
            self.at.totals = self.engine.totals()?;
            self.save(None)?;
        }
        log::trace!("step {step} done: batch {batch} of {} of epoch {epoch}", self.batches());
        let (batches, steps) = (self.batches(), self.span.steps);
        self.observer.step(&StepProgress { epoch, batch, batches, step, steps, images, loss, accuracy });
        Ok(())
    }

    /// Without a validation split the test set chooses the best epoch, as the study does; with one, the test set is left for the
    /// end. `None` if it was stopped before the end.
    fn evaluate_epoch(&mut self) -> Result<Option<Scores>, TrainingError> {
        let train_seconds = self.clock.since_epoch();
        let splits = self.job.splits;
        let (images, resident) = match &splits.validation {
            Some(images) => (images, self.resident.validation),
            None => (&splits.test, self.resident.test),
        };
        let Some(totals) = self.evaluate(images, resident)? else { return Ok(None) };
        let average = match self.job.config.recipe.ema {
            Some(_) => match self.evaluate_average(images, resident)? {
                None => return Ok(None),
                average => average,
            },
            None => None,
        };
        let (validation, test) = match splits.validation {
            Some(_) => (Some(totals), None),
            None => (None, Some(totals)),
        };
        Ok(Some(Scores { validation, test, average, train_seconds }))
    }

    /// As [`Session::evaluate`], with averaged weights.
    fn evaluate_average(
        &mut self,
        images: &Arc<Images>,
        resident: Option<ResidentSet>,
    ) -> Result<Option<Totals>, TrainingError> {
        self.engine.use_average(true)?;
        let totals = self.evaluate(images, resident);
        self.engine.use_average(false)?;
        totals
    }

    fn evaluate(
        &mut self,
        images: &Arc<Images>,
        resident: Option<ResidentSet>,
    ) -> Result<Option<Totals>, TrainingError> {
        let feed = evaluation_feed(images, resident, &self.settings.normalisation, self.settings.batch_size)?;
        evaluate_on(self.engine, images, feed, self.job.stop, self.observer)
    }

    /// The totals on the test set by the mean over views; `None` if it was stopped before the end.
    fn evaluate_views(&mut self, views: TestTimeAugmentation) -> Result<Option<Totals>, TrainingError> {
        let (images, BatchSettings { batch_size, normalisation, .. }) =
            (&self.job.splits.test, &self.settings);
        evaluate_views(
            self.engine,
            images,
            normalisation,
            *batch_size,
            views,
            self.job.stop,
            |done, total| {
                self.observer.evaluating(done, total);
            },
        )
    }

    fn record_epoch(&mut self, scores: &Scores) -> Result<(), TrainingError> {
        let chooser = scores.validation.or(scores.test).unwrap_or_default();
        let best = match self.at.best {
            Some(best) if best.accuracy >= chooser.accuracy() => best,
            _ => Best { epoch: self.at.epoch, accuracy: chooser.accuracy(), loss: chooser.loss() },
        };
        self.at.best = Some(best);
        let record = EpochRecord {
            epoch: self.at.epoch,
            step: self.at.step,
            train_loss: self.at.totals.loss(),
            train_acc: self.at.totals.accuracy(),
            test_loss: scores.test.map(|totals| totals.loss()),
            test_acc: scores.test.map(|totals| totals.accuracy()),
            val_loss: scores.validation.map(|totals| totals.loss()),
            val_acc: scores.validation.map(|totals| totals.accuracy()),
            ema_loss: scores.average.map(|totals| totals.loss()),
            ema_acc: scores.average.map(|totals| totals.accuracy()),
            best_acc: best.accuracy,
            best_epoch: best.epoch,
            train_seconds: scores.train_seconds,
            eval_seconds: self.clock.since_epoch() - scores.train_seconds,
            seconds: self.clock.seconds(),
        };
        let files = EpochFiles {
            record: record.clone(),
            meta: self.meta(None),
            is_best: best.epoch == self.at.epoch,
            has_average: self.job.config.recipe.ema.is_some(),
        };
        self.clock.next_epoch();
        self.at = Cursor { epoch: self.at.epoch + 1, batch: 0, totals: Totals::default(), ..self.at };
        self.save(Some(files))?;
        self.observer.epoch(&FinishedEpoch { record: &record, engine: self.engine });
        Ok(())
    }

    /// Leaves a checkpoint of a run that may be resumed later.
    fn pause(&mut self) -> Result<Outcome, TrainingError> {
        self.save(None)?;
        let step = self.at.step;
        let (state, outcome) = if self.stopped() {
            (State::Interrupted, Outcome::Interrupted { step })
        } else {
            (State::Limited, Outcome::StepLimit { step, last_loss: self.last_loss })
        };
        self.show(state)?;
        Ok(outcome)
    }

    /// The last evaluation and the result.
    fn finish(&mut self) -> Result<Outcome, TrainingError> {
        let splits = self.job.splits;
        let Some(last) = self.evaluate(&splits.test, self.resident.test)? else { return self.pause() };
        let average = match self.job.config.recipe.ema {
            Some(_) => match self.evaluate_average(&splits.test, self.resident.test)? {
                None => return self.pause(),
                average => average,
            },
            None => None,
        };
        let views = match self.job.config.recipe.test_time_augmentation {
            Some(views) => match self.evaluate_views(views)? {
                None => return self.pause(),
                totals => totals,
            },
            None => None,
        };
        let analysis = self.observer.last(&mut Last {
            engine: self.engine,
            images: &splits.test,
            normalisation: &splits.normalisation,
            batch_size: self.settings.batch_size,
            stop: self.job.stop,
        })?;
        // An analysis that was cut short is repeated when the run is resumed.
        if self.stopped() {
            return self.pause();
        }
        if let Some(analysis) = analysis {
            self.writer.give(move |run| Ok(run.write_analysis(&analysis)?))?;
        }
        let Some(best) = self.at.best else {
            return Err(TrainingError::Configuration("the run has completed no epoch".to_owned()));
        };
        // The rest reads files of the run.
        self.writer.flush()?;
        // What the best epoch's weights reach on the test set: known already when the test set chose them.
        let (best_test_loss, best_test_acc) = if splits.validation.is_none() {
            (best.loss, best.accuracy)
        } else {
            let last_state = self.engine.state()?;
            let (state, _) = checkpoint::read(&self.folder.join(Checkpoint::Best.file_name()))?;
            self.engine.load_state(&state)?;
            let Some(totals) = self.evaluate(&splits.test, self.resident.test)? else {
                self.engine.load_state(&last_state)?;
                return self.pause();
            };
            (totals.loss(), totals.accuracy())
        };
        let (train_seconds, eval_seconds) = self.clock.sums(&self.folder)?;
        let result = RunResult {
            final_loss: last.loss(),
            final_acc: last.accuracy(),
            best_acc: best.accuracy,
            best_epoch: best.epoch,
            best_test_acc: Some(best_test_acc),
            best_test_loss: Some(best_test_loss),
            ema_test_acc: average.map(|totals| totals.accuracy()),
            ema_test_loss: average.map(|totals| totals.loss()),
            tta_test_acc: views.map(|totals| totals.accuracy()),
            tta_test_loss: views.map(|totals| totals.loss()),
            stopped_early: self.at.epoch <= self.job.config.recipe.epochs,
            epochs: self.at.epoch - 1,
            steps: self.at.step,
            seconds: self.clock.seconds(),
            train_seconds,
            eval_seconds,
            peak_memory_bytes: peak_memory(),
        };
        self.show(State::Finished)?;
        let written = result.clone();
        self.writer.give(move |run| Ok(run.finish(&written)?))?;
        Ok(Outcome::Finished(result))
    }

    fn stopped(&self) -> bool {
        self.job.stop.load(Ordering::Relaxed)
    }

    fn meta(&self, position: Option<Position>) -> Meta {
        Meta {
            model: self.job.config.model.clone(),
            dropout: self.job.config.dropout,
            seed: self.job.config.seed,
            epoch: self.at.epoch,
            step: self.at.step,
            best: self.at.best,
            position,
            run: Some(RunConfig { max_steps: None, ..self.job.config.deciding() }),
            imported: None,
            crc32c: None,
        }
    }

    /// Gives the writer a checkpoint to resume from, after the files of a finished epoch if there is one.
    fn save(&mut self, epoch: Option<EpochFiles>) -> Result<(), TrainingError> {
        self.writer.wait_for_checkpoint()?;
        let snapshot = self.engine.snapshot(true)?;
        let meta = self.meta(Some(position_at(self.at.batch, &self.at.totals)));
        let progress = self.progress(State::Running);
        self.writer.give_checkpoint(move |run| {
            let state = snapshot.state()?;
            if let Some(EpochFiles { record, meta, is_best, has_average }) = epoch {
                if is_best {
                    write(run, Checkpoint::Best, &state, &meta)?;
                }
                if has_average {
                    write(run, Checkpoint::Ema, &state, &meta)?;
                }
                run.append(&Record::Epoch(record))?;
            }
            // Before the checkpoint: it records how many seconds the checkpoint's steps took.
            run.write_progress(&progress)?;
            write(run, Checkpoint::Last, &state, &meta)
        })?;
        self.clock.shown();
        self.clock.saved();
        Ok(())
    }

    fn show(&mut self, state: State) -> Result<(), TrainingError> {
        let progress = self.progress(state);
        self.writer.give(move |run| Ok(run.write_progress(&progress)?))?;
        self.clock.shown();
        Ok(())
    }

    fn progress(&self, state: State) -> Progress {
        let steps = self.span.steps;
        let epochs = self.job.config.recipe.epochs;
        Progress {
            epoch: self.at.epoch.min(epochs),
            epochs,
            step: self.at.step,
            steps: self.job.config.max_steps.map_or(steps, |limit| limit.get().min(steps)),
            seconds: self.clock.seconds(),
            images_per_second: self.clock.rate(self.at.step) * self.settings.batch_size as f64,
            state,
            updated: timestamp(),
        }
    }
}

/// Writes a checkpoint of a state.
fn write(
    run: &mut RunFolder,
    which: Checkpoint,
    state: &pointwise_engine::State,
    meta: &Meta,
) -> Result<(), TrainingError> {
    let path = run.checkpoint_path(which);
    run.write_checkpoint(which, &checkpoint::encode(&path, which, state, meta)?)?;
    log::debug!("wrote {} after step {} in epoch {}", path.display(), meta.step, meta.epoch);
    Ok(())
}

/// Seconds of the run, those before an interruption included.
#[derive(Debug)]
struct Clock {
    started: Instant,
    /// Seconds and steps of the run before this process.
    seconds_before: f64,
    steps_before: u64,
    /// When the epoch began, in seconds of the run.
    epoch_began: f64,
    last_saved: Instant,
    last_shown: Instant,
}

impl Clock {
    fn begin(run: &RunFolder, step: u64) -> Result<Self, TrainingError> {
        let past = Run::read(run.path())?;
        let recorded = match past.records.last() {
            Some(Record::Step(record)) => record.seconds,
            Some(Record::Epoch(record)) => record.seconds,
            None => 0.0,
        };
        let seconds_before = match &past.progress {
            Some(progress) if progress.step == step => progress.seconds.max(recorded),
            _ => recorded,
        };
        let epoch_began = past.epochs().last().map_or(0.0, |epoch| epoch.seconds);
        let now = Instant::now();
        Ok(Self {
            started: now,
            seconds_before,
            steps_before: step,
            epoch_began,
            last_saved: now,
            last_shown: now,
        })
    }

    fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    /// Steps a second in this process; 0 before the first.
    fn rate(&self, step: u64) -> f64 {
        (step - self.steps_before) as f64 / self.started.elapsed().as_secs_f64()
    }

    fn since_epoch(&self) -> f64 {
        self.seconds() - self.epoch_began
    }

    fn next_epoch(&mut self) {
        self.epoch_began = self.seconds();
    }

    fn checkpoint_due(&self, period: Option<u64>) -> bool {
        period.is_some_and(|seconds| self.last_saved.elapsed() >= Duration::from_secs(seconds))
    }

    fn saved(&mut self) {
        self.last_saved = Instant::now();
    }

    fn progress_due(&self) -> bool {
        self.last_shown.elapsed() >= PROGRESS_PERIOD
    }

    fn shown(&mut self) {
        self.last_shown = Instant::now();
    }

    /// Seconds of all epochs' training and evaluation.
    fn sums(&self, run: &Path) -> Result<(f64, f64), TrainingError> {
        let past = Run::read(run)?;
        Ok(past.epochs().fold((0.0, 0.0), |(train, eval), epoch| {
            (train + epoch.train_seconds, eval + epoch.eval_seconds)
        }))
    }
}

/// The place in an epoch after `batch` batches, with its totals.
fn position_at(batch: usize, totals: &Totals) -> Position {
    Position {
        batch,
        loss_sum: totals.loss_sum,
        correct: totals.correct,
        samples: totals.samples,
        last_loss: totals.last_loss,
        last_gradient_norm: totals.last_gradient_norm,
    }
}

/// The totals of the epoch at a place, to set an engine to.
fn totals_at(position: &Position) -> Totals {
    Totals {
        loss_sum: position.loss_sum,
        correct: position.correct,
        samples: position.samples,
        last_loss: position.last_loss,
        last_gradient_norm: position.last_gradient_norm,
    }
}
