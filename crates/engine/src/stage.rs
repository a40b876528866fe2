//! What a network's stages require of a training batch.

use crate::error::EngineError;
use pointwise_network::{Stage, norm_of_one_value};

/// Rejects a batch on which a BatchNorm has no variance.
pub(crate) fn check_training(stages: &[Stage], images: usize) -> Result<(), EngineError> {
    match norm_of_one_value(stages, images) {
        Some(path) => Err(EngineError::Batch(format!(
            "BatchNorm at {path} needs more than one value for each channel; give it a larger batch"
        ))),
        None => Ok(()),
    }
}
