//! The engine on an NVIDIA GPU: a network compiled into a plan of cuDNN convolutions, cuBLAS products and our own kernels.
//!
//! A block is a convolution (or a linear layer, treated as one) and what follows it: BatchNorm or a bias, an activation, 2x2 maximum
//! pooling. Each block keeps the convolution's raw result, without bias, and its output; the pool's choice in each window is recomputed in
//! the backward pass. Other pools, sums, products and concatenations are stages of their own. A whole step is recorded as a CUDA graph the
//! second time it is taken, and only replayed from then on: what changes from step to step (the position in the order of images, the
//! learning rate, Adam's corrections, the dropout counter) lies in GPU memory and is advanced there.
//!
//! * Convolutions are cuDNN's, channels last, except for those below. For each layer, direction and batch size an algorithm is chosen once:
//!   the fastest of the first few that cuDNN proposes, measured; or with `deterministic` the first that gives the same bits every time. A
//!   batch smaller than a measured one reuses its choice where cuDNN allows that.
//! * 1x1 convolutions of stride 1 and linear layers are matrix products of cuBLAS. For a padded 1x1 convolution, only the inner map is
//!   computed and kept: in the border every product is zero.
//! * Depthwise convolutions, groups that do not begin with whole vectors of channels, and what cuDNN has no algorithm for are computed
//!   by kernels of our own.
//! * Sums (BatchNorm's, the loss, the norm of the gradients) are computed in an order that depends only on the shapes: no atomic additions.
//!
//! With `deterministic`, the same seed gives the same bits on the same kind of GPU with the same libraries. Without it, another process may
//! choose other cuDNN algorithms, including ones that add in no fixed order.

#![cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "without a GPU the plans are only tested"))]

#[cfg(feature = "cuda")]
mod backward;
#[cfg(feature = "cuda")]
mod blas;
#[cfg(feature = "cuda")]
mod choices;
#[cfg(feature = "cuda")]
mod dnn;
#[cfg(feature = "cuda")]
mod driver;
#[cfg(feature = "cuda")]
mod engine;
#[cfg(feature = "cuda")]
mod forward;
#[cfg(feature = "cuda")]
mod functions;
mod launch;
#[cfg(feature = "cuda")]
mod memory;
#[cfg(feature = "cuda")]
mod pass;
#[cfg(feature = "cuda")]
mod peak;
mod plan;
#[cfg(feature = "cuda")]
mod snapshot;
#[cfg(feature = "cuda")]
mod traffic;
#[cfg(feature = "cuda")]
mod tune;
#[cfg(feature = "cuda")]
mod update;

#[cfg(feature = "cuda")]
pub use dnn::Tried;
#[cfg(feature = "cuda")]
pub(crate) use dnn::look_for;
#[cfg(feature = "cuda")]
pub use driver::Span;
#[cfg(feature = "cuda")]
pub(crate) use driver::card_name;
#[cfg(feature = "cuda")]
pub use engine::{Cuda, Surveyed};
#[cfg(feature = "cuda")]
pub use peak::{bandwidth, peak_tflops};
pub use plan::Floor;
