use crate::memory::{Available, shown};
use pointwise_network::NetworkError;
use pointwise_recipe::{DeviceName, EngineKind, RecipeError};
use pointwise_weights::WeightsError;

/// Why an engine failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The engine is not part of this build.
    #[error("the engine `{0}` is not part of this build (it needs the feature `cuda`); use `--engine cpu`")]
    Unavailable(EngineKind),
    /// The engine does not support the settings.
    #[error("the engine `{engine}` does not compute {what}; {fix}")]
    Unsupported {
        /// The engine.
        engine: EngineKind,
        /// The unsupported request, such as `in bf16`.
        what: String,
        /// What to do instead.
        fix: String,
    },
    /// No device has this name.
    #[error("there is no device `{0}`; the devices are auto, cpu, cuda and cuda:N")]
    UnknownDevice(String),
    /// The device cannot be used.
    #[error("the device {device} cannot be used: {reason}; use `--device cpu`")]
    DeviceUnavailable {
        /// The requested device.
        device: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// The network description is inconsistent.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A value of the recipe is out of range, or a parameter group matches nothing.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A batch has the wrong size or an unknown label.
    #[error("a batch does not fit the network: {0}")]
    Batch(String),
    /// The loss, or the norm of the gradients, is NaN or infinite.
    #[error(
        "the {quantity} of step {step} is {value}: training has diverged; start again with a smaller --lr, in another --run-dir"
    )]
    NotFinite {
        /// The step, from 1.
        step: u64,
        /// `loss` or `gradient norm`.
        quantity: &'static str,
        /// Its value.
        value: f64,
    },
    /// A learning rate or momentum out of range.
    #[error("the {name} of a step cannot be {value}")]
    Rate {
        /// `learning rate` or `momentum`.
        name: &'static str,
        /// Its value.
        value: f64,
    },
    /// Averaged weights are requested or in use where they cannot be.
    #[error("{0}")]
    Average(&'static str),
    /// Automatic differentiation gave a parameter no gradient.
    #[error("the parameter `{0}` received no gradient")]
    MissingGradient(String),
    /// A state does not fit the network.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A state comes from training with another recipe.
    #[error("the state comes from another recipe: {0}")]
    OtherRecipe(String),
    /// The engine needs more memory than is available.
    #[error("{what} takes {} of memory, and {available}: {fix}", shown(*.need))]
    Memory {
        /// What needs the memory.
        what: String,
        /// Bytes needed.
        need: u64,
        /// The memory available.
        available: Available,
        /// How to fix it.
        fix: &'static str,
    },
    /// The system refused an allocation.
    #[error("{0}: give a smaller --batch-size or free memory")]
    Allocation(#[from] pointwise_kernels::OutOfMemory),
    /// The tensor library or the device failed.
    #[error("the tensor library failed: {0}")]
    Device(String),
}

impl EngineError {
    /// Turns an error while detecting or opening a device into the reason why it is unavailable.
    pub(crate) fn of_device(self, device: DeviceName) -> Self {
        match self {
            Self::Device(reason) => Self::DeviceUnavailable { device: device.to_string(), reason },
            other => other,
        }
    }
}

impl From<candle_core::Error> for EngineError {
    /// Keeps the message and drops the backtrace that candle prints with it.
    fn from(error: candle_core::Error) -> Self {
        Self::Device(message(&error))
    }
}

/// Returns the loss or gradient norm of a step (from 1) if it is finite.
pub(crate) fn finite(quantity: &'static str, value: f64, step: u64) -> Result<f64, EngineError> {
    if value.is_finite() { Ok(value) } else { Err(EngineError::NotFinite { step, quantity, value }) }
}

/// candle's message without its backtrace.
pub(crate) fn message(error: &candle_core::Error) -> String {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => message(inner),
        candle_core::Error::Context { inner, context } => format!("{context}: {}", message(inner)),
        candle_core::Error::WithPath { inner, path } => format!("{}: {}", path.display(), message(inner)),
        other => other.to_string(),
    }
}
