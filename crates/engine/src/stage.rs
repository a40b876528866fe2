//! What a batch of training must be for the stages of a network.

use crate::error::EngineError;
use pointwise_network::{BlockLayers, Stage, StageKind};

/// Refuses a batch on which a BatchNorm has no variance.
pub(crate) fn check_training(stages: &[Stage], images: usize) -> Result<(), EngineError> {
    for stage in stages {
        if let StageKind::Block(BlockLayers { norm: Some(norm), .. }) = &stage.kind
            && images * norm.pixels < 2
        {
            return Err(EngineError::Batch(format!(
                "BatchNorm at {} needs more than one value for each channel; give it a larger batch",
                stage.name
            )));
        }
    }
    Ok(())
}
