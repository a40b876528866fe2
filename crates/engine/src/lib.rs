//! "One step of this network on this device".
//!
//! An [`Engine`] owns the parameters, BatchNorm's statistics and the optimizer's state of one network, and takes training and
//! evaluation steps on batches that the caller prepares. What a step is made of is the [`Recipe`](pointwise_recipe::Recipe)'s in its
//! [`Settings`]; the rate is told before a step ([`Engine::set_rate`]). It keeps its own running [`Totals`], so that a step needs no answer
//! from the device: an engine whose step is a graph of kernels on preallocated buffers reads them back only when asked.
//!
//! The [`reference`](mod@reference) engine is candle autograd over the candle-nn modules of `pointwise-models`, on any candle device: slow,
//! obvious, and what every other engine is compared with.
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
