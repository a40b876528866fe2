//! What a batch of training must be for the stages of a network.

use crate::error::EngineError;
use pointwise_network::{BlockLayers, Stage, StageKind};

/// Refuses a batch on which a BatchNorm has no variance.
pub(crate) fn check_training(stages: &[Stage], images: usize) -> Result<(), EngineError> {
    for stage in stages {
        if let StageKind::Block(BlockLayers { norm: Some(norm), .. }) = &stage.kind
            && images * norm.pixels < 2
        {
            return Err(norm_of_one_value(&stage.name));
        }
    }
    Ok(())
}

/// What is said of a BatchNorm with one value of each channel.
pub(crate) fn norm_of_one_value(path: &str) -> EngineError {
    EngineError::Batch(format!(
        "BatchNorm at {path} needs more than one value for each channel; give it a larger batch"
    ))
}
