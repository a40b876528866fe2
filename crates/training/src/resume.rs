//! Where an interrupted run stands, and whether it can be continued from there.

use crate::{Splits, TrainingError};
use pointwise_engine::Engine;
use pointwise_recipe::{Recipe, Span};
use pointwise_runs::{Checkpoint, RunConfig, RunFolder};
use pointwise_weights::WeightsError;
use pointwise_weights::checkpoint::{self, Best, Meta, Position};
use std::path::Path;

/// The steps of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Epoch {
    /// Steps of the run before it.
    pub(crate) begins: u64,
    /// Steps in it.
    pub(crate) batches: u64,
}

impl Epoch {
    /// Epoch `epoch`, from 1, of a training of that span. The epoch after the last one begins where that ends.
    pub(crate) fn new(recipe: &Recipe, span: Span, epoch: u32) -> Self {
        let begins = u64::from(epoch.saturating_sub(1)).saturating_mul(span.steps_per_epoch);
        let batches = span.steps_per_epoch;
        match recipe.last_epoch {
            Some(_) if epoch >= recipe.epochs => {
                let begins = begins.min(span.steps);
                Self { begins, batches: batches.min(span.steps - begins) }
            }
            _ => Self { begins, batches },
        }
    }
}

/// Where a run stands, by its `last` checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct ResumePoint {
    pub(crate) epoch: u32,
    pub(crate) step: u64,
    pub(crate) best: Option<Best>,
    pub(crate) position: Position,
}

impl ResumePoint {
    /// Reads the `last` checkpoint into the engine; `None` if the run has none yet. Changes nothing in the folder.
    ///
    /// # Errors
    /// That of a damaged checkpoint; that of [`check_configuration`]; [`WeightsError::Checkpoint`] if its position is not one of this run;
    /// the engine's for the state of another network.
    pub fn load(
        run: &RunFolder,
        config: &RunConfig,
        splits: &Splits,
        engine: &mut dyn Engine,
    ) -> Result<Option<Self>, TrainingError> {
        let path = run.checkpoint_path(Checkpoint::Last);
        if !path.exists() {
            return Ok(None);
        }
        let (state, meta) = checkpoint::read(&path).map_err(|error| with_fix(run.path(), error))?;
        let damaged =
            |reason: String| with_fix(run.path(), WeightsError::Checkpoint { path: path.clone(), reason });
        let position = meta.as_ref().and_then(|meta| meta.position);
        let (Some(meta), Some(position)) = (meta, position) else {
            return Err(damaged("it does not say where its run stood".to_owned()));
        };
        same_configuration(run.path(), &meta, config)?;
        let Meta { epoch, step, best, .. } = meta;
        let span = config.recipe.span(splits.train.len());
        let Epoch { begins, batches } = Epoch::new(&config.recipe, span, epoch);
        let batch = position.batch as u64;
        let is_place = epoch > 0 && batch <= batches && step.checked_sub(begins) == Some(batch);
        if !is_place {
            let last = match config.recipe.last_epoch {
                Some(_) => {
                    format!(
                        ", the last one of {}",
                        Epoch::new(&config.recipe, span, config.recipe.epochs).batches
                    )
                }
                None => String::new(),
            };
            return Err(damaged(format!(
                "step {step}, batch {batch} of epoch {epoch}, is not a position in epochs of {} batches{last}",
                span.steps_per_epoch
            )));
        }
        if step > 0 && state.optimizer.is_none() {
            return Err(damaged("it lacks the optimizer's state".to_owned()));
        }
        engine.load_state(&state).map_err(|error| damaged(error.to_string()))?;
        Ok(Some(Self { epoch, step, best, position }))
    }
}

/// Checks that a run's configuration is still the one that its `last` checkpoint was trained with. A missing or damaged checkpoint is
/// ignored.
///
/// # Errors
/// [`TrainingError::Configuration`] naming the first key that is not.
pub fn check_configuration(run: &RunFolder, config: &RunConfig) -> Result<(), TrainingError> {
    match checkpoint::read_meta(&run.checkpoint_path(Checkpoint::Last)) {
        Some(meta) => same_configuration(run.path(), &meta, config),
        None => Ok(()),
    }
}

fn same_configuration(run: &Path, meta: &Meta, config: &RunConfig) -> Result<(), TrainingError> {
    let Some(difference) = meta.difference(config) else { return Ok(()) };
    Err(TrainingError::Configuration(format!(
        "{} says {} = {}, but the run was trained with {} until here: restore that key, or start from its weights with --init {} in \
         another --run-dir",
        run.join("config.toml").display(),
        difference.name,
        difference.theirs,
        difference.ours,
        run.join(Checkpoint::Last.file_name()).display()
    )))
}

/// The error of a damaged `last` checkpoint, with the fix.
fn with_fix(run: &Path, error: WeightsError) -> TrainingError {
    let best = run.join(Checkpoint::Best.file_name());
    match error {
        WeightsError::Checkpoint { path, reason } => {
            let way = if best.exists() {
                format!(
                    "restore it from a copy, or start from {} with --init in another --run-dir",
                    best.display()
                )
            } else {
                "restore it from a copy, or start again in another --run-dir".to_owned()
            };
            WeightsError::Checkpoint { path, reason: format!("{reason}; {way}") }.into()
        }
        other => other.into(),
    }
}
