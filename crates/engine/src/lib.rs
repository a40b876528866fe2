//! One training or evaluation step of a network on a device.
//!
//! An [`Engine`] owns the parameters, BatchNorm's statistics and the optimizer's state of one network, and takes training and
//! evaluation steps on batches that the caller prepares. The [`Recipe`](pointwise_recipe::Recipe) in its [`Settings`] defines a step;
//! [`Engine::set_rate`] sets the learning rate of the next ones. It keeps its own running [`Totals`], so a step does not wait for the
//! device: an engine whose step is a graph of kernels on preallocated buffers reads them back only when asked.
//!
//! The [`reference`](mod@reference) engine is candle autograd over the candle-nn modules of `pointwise-models`, on any candle device: slow,
//! obvious, and the baseline for every other engine.
//!
//! ```no_run
//! use pointwise_engine::{Batch, Engine, EngineKind, Settings, create};
//! use pointwise_network::Network;
//! use pointwise_recipe::{Adam, Recipe};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings::new(Recipe::new(10, 128, Adam::default()));
//! let mut engine = create(EngineKind::Reference, &Network::by_name("nin")?, &settings)?;
//! let images = vec![0.0; 2 * 3 * 32 * 32];
//! engine.train_step(Batch { images: &images, labels: &[3, 8] })?;
//! println!("loss {}", engine.totals()?.last_loss);
//! # Ok(())
//! # }
//! ```

mod accelerator;
mod batch;
mod codes;
pub mod cpu;
mod create;
#[cfg(any(feature = "cuda", test))]
pub mod cuda;
mod device;
mod engine;

mod error;
mod gradients;
pub mod memory;
pub mod optimizer;
mod places;
pub mod reference;
mod resident;
mod settings;
mod stage;

pub use accelerator::accelerator;
pub use batch::{Batch, Totals, count_correct};
pub use create::create;
pub use device::DeviceChoice;
pub use engine::{Engine, Snapshot};
pub use error::EngineError;
pub use pointwise_recipe::{DeviceName, EngineKind, Precision};
pub use pointwise_weights::{Array, Average, OptimizerState, State};
pub use resident::{BegunEpoch, ResidentEpoch, ResidentImages, ResidentSet};
pub use settings::Settings;
