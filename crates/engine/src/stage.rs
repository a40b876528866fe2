//! The stages of a network, and what a batch of training must be for them.

use crate::error::EngineError;
#[cfg(feature = "cuda")]
pub(crate) use pointwise_network::ConvolutionLayer;
pub(crate) use pointwise_network::{
    BlockLayers, Map, NormLayer, Role, Source, Stage, StageKind, Window, stages,
};

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
