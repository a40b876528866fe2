//! The training loop, its metrics, and checkpoints that a run is resumed from to the same bits.
//!
//! [`fit`] is the recipe, to be read from top to bottom. It takes the configuration, the images and an engine, and leaves
//! everything that a run is judged by in a run folder (crate `pointwise-runs`): metrics as they come, the `best` and the `last`
//! [checkpoint](pointwise_weights::checkpoint), and the result.
//!
//! A separate thread writes the files, in order, so that training does not wait for the disk.
//!
//! The optimizer and the loss are part of an engine's step: see `pointwise-engine`.

mod error;
mod fit;
mod initial;
mod pytorch;
mod resume;
mod splits;
mod views;
mod writer;

pub use error::TrainingError;
pub use fit::{FinishedEpoch, Job, Last, Observer, Outcome, StepProgress, batch_settings, evaluate, fit};
pub use initial::state_from_images;
pub use pytorch::read_weights;
pub use resume::{ResumePoint, check_configuration};
pub use splits::Splits;
