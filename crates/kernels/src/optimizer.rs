//! Steps of optimizers over parameters that lie side by side, a file an optimizer.
//!
//! Every element is computed by itself, in PyTorch's order of operations. Where parameter, gradient and state are zero they stay
//! zero, which keeps padding what it is.

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
