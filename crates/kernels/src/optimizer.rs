//! Optimizer steps over contiguous parameters, one file per optimizer.
//!
//! Every element is computed independently, in PyTorch's order of operations. Where parameter, gradient and state are zero they stay zero,
//! which keeps padding zero.

mod adam;
mod adamw;
mod average;
mod clip;
mod runs;
mod sgd;

pub use adam::{AdamStep, adam};
pub use adamw::adamw;
pub use average::average;
pub use clip::{l2_norm, scale_all};
pub use sgd::{SgdStep, sgd};
