//! Creates an engine of a given kind.

#[cfg(feature = "cuda")]
use crate::cuda;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::settings::Settings;
use crate::{cpu, reference};
use pointwise_network::Network;
use pointwise_recipe::{EngineKind, Precision};

/// Creates an engine with the network's initial values.
///
/// # Errors
/// [`EngineError::Network`] when the description is inconsistent, [`EngineError::Recipe`] when a value of the recipe is out of range or one
/// of its groups matches no parameter, [`EngineError::Unavailable`] when this build has no such engine, [`EngineError::Unsupported`] when
/// it does not support the settings, [`EngineError::Device`] when the device fails.
pub fn create(
    kind: EngineKind,
    network: &Network,
    settings: &Settings,
) -> Result<Box<dyn Engine>, EngineError> {
    if kind != EngineKind::Cuda && settings.precision != Precision::F32 {
        return Err(EngineError::Unsupported {
            engine: kind,
            what: format!("in {}", settings.precision),
            fix: "leave --precision out, or use `--engine cuda`".to_owned(),
        });
    }
    match kind {
        EngineKind::Reference => Ok(Box::new(reference::Reference::new(network, settings)?)),
        EngineKind::Cpu => Ok(Box::new(cpu::Cpu::new(network, settings)?)),
        #[cfg(feature = "cuda")]
        EngineKind::Cuda => Ok(Box::new(cuda::Cuda::new(network, settings)?)),
        #[cfg(not(feature = "cuda"))]
        EngineKind::Cuda => Err(EngineError::Unavailable(kind)),
    }
}
