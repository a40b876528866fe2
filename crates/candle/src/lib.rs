//! Layers and optimizers for [candle](candle_core): candle-nn's names and signatures, fast on the CPU, with the right gradients.
//!
//! An existing program changes its `use` lines; `docs/candle.md` says which, and what it gains. Variables have the same names, shapes and initial
//! values, so that weights can be exchanged.
//!
//! | here | in place of | what changes |
//! |---|---|---|
//! | [`Conv2d`], [`conv2d`], [`conv2d_no_bias`] | candle-nn's | several times faster; gradients with strides on all maps |
//! | [`MaxPool2d`] | [`Tensor::max_pool2d`](candle_core::Tensor::max_pool2d) | the whole gradient instead of a quarter; windows that overlap |
//! | [`AvgPool2d`] | [`Tensor::avg_pool2d`](candle_core::Tensor::avg_pool2d) | windows that overlap |
//! | [`BatchNorm`], [`batch_norm`] | candle-nn's | one pass for the statistics, one to normalise |
//! | [`Dropout`] | candle-nn's | masks that a seed determines |
//! | [`Sgd`] | candle-nn's `SGD` | momentum; state that saves and loads |
//! | [`Adam`], [`AdamW`] | candle-nn's `AdamW` | one pass per parameter; state that saves and loads |
//!
//! All of this holds in f32 on the CPU. On other devices and in other types the layers are candle's own where those are right, and [`composed`] of
//! candle's operations where they are not.
//!
//! ```
//! use candle_core::{DType, Device, ModuleT, Result, Tensor};
//! use candle_nn::{Linear, Optimizer, VarBuilder, VarMap, linear, loss};
//! use pointwise_candle::{AdamW, BatchNorm, Conv2d, MaxPool2d, ParamsAdamW, batch_norm, conv2d};
//!
//! struct Net {
//!     conv: Conv2d,
//!     norm: BatchNorm,
//!     head: Linear,
//! }
//!
//! impl Net {
//!     fn new(vb: VarBuilder<'_>) -> Result<Self> {
//!         let conv = conv2d(3, 16, 3, Default::default(), vb.pp("conv"))?;
//!         let norm = batch_norm(16, 1e-5, vb.pp("norm"))?;
//!         Ok(Self { conv, norm, head: linear(16 * 3 * 3, 10, vb.pp("head"))? })
//!     }
//!
//!     fn forward(&self, images: &Tensor, train: bool) -> Result<Tensor> {
//!         let y = images.apply(&self.conv)?.apply_t(&self.norm, train)?.relu()?;
//!         y.apply(&MaxPool2d::new(2))?.flatten_from(1)?.apply(&self.head)
//!     }
//! }
//!
//! # fn main() -> Result<()> {
//! let variables = VarMap::new();
//! let net = Net::new(VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu))?;
//! let mut optimizer = AdamW::new(variables.all_vars(), ParamsAdamW::default())?;
//! let images = Tensor::randn(0f32, 1.0, (4, 3, 8, 8), &Device::Cpu)?;
//! let labels = Tensor::new(&[1u32, 7, 0, 3], &Device::Cpu)?;
//! optimizer.backward_step(&loss::cross_entropy(&net.forward(&images, true)?, &labels)?)?;
//! # Ok(())
//! # }
//! ```

mod batch_norm;
pub mod composed;
mod conv2d;
mod convolution;
mod dropout;
mod elements;
mod lattice;
mod optimizer;
mod pool;

pub use batch_norm::{BatchNorm, batch_norm};
pub use candle_nn::{BatchNormConfig, Conv2dConfig, ParamsAdamW};
pub use conv2d::{Conv2d, conv2d, conv2d_no_bias};
pub use dropout::Dropout;
pub use optimizer::{Adam, AdamW, ParamsAdam, ParamsSgd, Rule, Sgd, Stateful};
pub use pool::{AvgPool2d, MaxPool2d};
