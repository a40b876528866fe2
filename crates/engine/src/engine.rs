//! The interface of every engine.

use crate::batch::{Batch, Totals};
use crate::error::EngineError;
use crate::resident::{BegunEpoch, ResidentEpoch, ResidentImages, ResidentSet};
use pointwise_recipe::Rate;
use pointwise_weights::State;
use std::ops::Range;

/// Trains and evaluates one network on one device.
pub trait Engine {
    /// One step: forward in training mode, cross-entropy, gradients, the optimizer, the moving average. Adds to the totals.
    ///
    /// # Errors
    /// [`EngineError::Batch`] for a batch that does not fit; [`EngineError::NotFinite`] when the loss, or with `clip_norm` the
    /// norm of the gradients, is NaN or infinite, which leaves the parameters unchanged (an asynchronous engine may report it only at the
    /// next [`Engine::totals`]); [`EngineError::Average`] when averaged weights are in use; [`EngineError::MissingGradient`];
    /// [`EngineError::Device`].
    fn train_step(&mut self, batch: Batch<'_>) -> Result<(), EngineError>;

    /// Sets the learning rate and momentum of the following steps, until the next call. Initially they are the optimizer's own.
    ///
    /// # Errors
    /// [`EngineError::Rate`] for a learning rate that is negative or not finite, or a momentum outside `[0, 1)`.
    fn set_rate(&mut self, rate: Rate) -> Result<(), EngineError>;

    /// Whether evaluation and logits use the averaged weights and statistics instead of the trained ones. Before the first step both are
    /// equal. The state is the same either way.
    ///
    /// # Errors
    /// [`EngineError::Average`] when the recipe has no `ema`.
    fn use_average(&mut self, on: bool) -> Result<(), EngineError>;

    /// Averages the trained weights and BatchNorm's statistics into the slow ones of the recipe's `lookahead`, which keep the fraction
    /// `decay` in `[0, 1]` of their old values, and sets the trained ones to the result. Before the first call the slow weights are those
    /// that training began with. An asynchronous engine changes nothing after a value that was not finite.
    ///
    /// # Errors
    /// [`EngineError::Average`] when the recipe has no `lookahead`, or for a `decay` out of range; [`EngineError::Device`].
    fn lookahead(&mut self, decay: f64) -> Result<(), EngineError> {
        let _ = decay;
        Err(NO_SLOW_WEIGHTS)
    }

    /// Forward in evaluation mode; the loss is the plain cross-entropy. Adds to the totals and changes nothing else.
    ///
    /// # Errors
    /// As [`Engine::train_step`].
    fn evaluate(&mut self, batch: Batch<'_>) -> Result<(), EngineError>;

    /// Logits in evaluation mode, `(N, classes)` row by row, of `(N, C, H, W)` normalised images. Changes nothing.
    ///
    /// # Errors
    /// [`EngineError::Batch`], [`EngineError::Device`].
    fn logits(&mut self, images: &[f32]) -> Result<Vec<f32>, EngineError>;

    /// The sums so far; waits for the device.
    ///
    /// # Errors
    /// [`EngineError::NotFinite`], [`EngineError::Device`].
    fn totals(&mut self) -> Result<Totals, EngineError>;

    /// Sets the sums: to zero before an epoch or an evaluation, to a checkpoint's when one is resumed.
    ///
    /// # Errors
    /// [`EngineError::Device`].
    fn set_totals(&mut self, totals: Totals) -> Result<(), EngineError>;

    /// Everything that the next step depends on except its rate, by PyTorch's names.
    ///
    /// # Errors
    /// [`EngineError::Device`].
    fn state(&self) -> Result<State, EngineError> {
        self.snapshot(true)?.state()
    }

    /// A copy of the current state, which another thread can convert to PyTorch's names and layouts while training continues. Without
    /// `optimizer`, it leaves out what evaluation does not need: the optimizer's state and the averages.
    ///
    /// # Errors
    /// [`EngineError::Device`].
    fn snapshot(&self, optimizer: bool) -> Result<Box<dyn Snapshot>, EngineError>;

    /// Replaces everything that [`Engine::state`] returns. A state without the optimizer's starts a new training run and a new average,
    /// which the next step sets; slow weights start as the state's weights.
    ///
    /// # Errors
    /// [`EngineError::Weights`] when a name or a shape is not the network's, [`EngineError::OtherRecipe`] when the recipe has another
    /// optimizer, or only one of state and recipe has averages; then nothing has changed.
    fn load_state(&mut self, state: &State) -> Result<(), EngineError>;

    /// Allocates memory for batches of up to `batch` images, for training or for evaluation alone, and leaves `beside` bytes for what the
    /// caller allocates meanwhile. Without this call, the first batch allocates it.
    ///
    /// # Errors
    /// [`EngineError::Memory`] when that needs more memory than is available; then nothing has changed.
    fn prepare(&mut self, batch: usize, training: bool, beside: u64) -> Result<(), EngineError> {
        let _ = (batch, training, beside);
        Ok(())
    }

    /// Keeps images on the device, so that whole epochs need none from the host. `None` if the engine does not support it: then the other
    /// methods for resident images return errors.
    ///
    /// # Errors
    /// [`EngineError::Batch`] for images that do not fit; [`EngineError::Device`].
    fn reside(&mut self, images: ResidentImages<'_>) -> Result<Option<ResidentSet>, EngineError> {
        let _ = images;
        Ok(None)
    }

    /// Sets the order and augmentation of a training epoch's images, and returns the epoch for [`Engine::train_resident`], valid until the
    /// next epoch of the set begins.
    ///
    /// # Errors
    /// [`EngineError::Batch`] for an order that is not a permutation; [`EngineError::Device`].
    fn begin_epoch(&mut self, set: ResidentSet, epoch: ResidentEpoch<'_>) -> Result<BegunEpoch, EngineError> {
        let _ = (set, epoch);
        Err(not_resident())
    }

    /// [`Engine::train_step`] on the images in `range` of the epoch's order.
    ///
    /// # Errors
    /// As [`Engine::train_step`]; [`EngineError::Batch`] when another epoch has begun since.
    fn train_resident(&mut self, epoch: BegunEpoch, range: Range<usize>) -> Result<(), EngineError> {
        let _ = (epoch, range);
        Err(not_resident())
    }

    /// [`Engine::evaluate`] on the images in `range` in stored order, normalised but not augmented.
    ///
    /// # Errors
    /// As [`Engine::evaluate`].
    fn evaluate_resident(&mut self, set: ResidentSet, range: Range<usize>) -> Result<(), EngineError> {
        let _ = (set, range);
        Err(not_resident())
    }
}

/// A copy of an engine's state.
pub trait Snapshot: Send {
    /// The state by PyTorch's names.
    ///
    /// # Errors
    /// [`EngineError::Device`].
    fn state(self: Box<Self>) -> Result<State, EngineError>;
}

/// Rejects a learning rate or momentum out of range.
pub(crate) fn check_rate(rate: Rate) -> Result<(), EngineError> {
    let refuse = |name, value| Err(EngineError::Rate { name, value });
    match rate {
        Rate { lr, .. } if !(lr >= 0.0 && lr.is_finite()) => refuse("learning rate", lr),
        Rate { momentum: Some(momentum), .. } if !(0.0..1.0).contains(&momentum) => {
            refuse("momentum", momentum)
        }
        _ => Ok(()),
    }
}

/// The error of an engine whose recipe has no `ema`.
pub(crate) const NO_AVERAGE: EngineError =
    EngineError::Average("there are no averaged weights: give the recipe an `ema`");

/// The error of an engine whose recipe has no `lookahead`.
pub(crate) const NO_SLOW_WEIGHTS: EngineError =
    EngineError::Average("there are no slow weights: give the recipe a `lookahead`");

/// Rejects a fraction of the slow weights out of range.
pub(crate) fn check_share(decay: f64) -> Result<(), EngineError> {
    match decay {
        0.0..=1.0 => Ok(()),
        _ => Err(EngineError::Average("the kept fraction of the slow weights must be from 0 to 1")),
    }
}

/// The error of a step while the averaged weights are in use.
pub(crate) const AVERAGE_IN_USE: EngineError =
    EngineError::Average("the averaged weights are in use: switch back to the trained ones to train");

fn not_resident() -> EngineError {
    EngineError::Batch("this engine keeps no images".to_owned())
}
