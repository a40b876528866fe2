//! How a network is trained, as data.
//!
//! A [`Recipe`] says all of it: [`Optimizer`], [`Schedule`] and [`Warmup`], [`ParameterGroup`]s, the loss's smoothing, clipping, averaging,
//! [`Augment`] and [`Normalise`]. It is read from TOML, with PyTorch's names where PyTorch has one, and computes only what follows from it: the
//! learning rate of a step, the group of a parameter.
//!
//! Other choices by name are here too: the data set ([`DataKind`]), and engine, device and precision ([`EngineKind`], [`DeviceName`],
//! [`Precision`]).
//!
//! ```
//! use pointwise_recipe::{Recipe, Span};
//!
//! # fn main() -> Result<(), pointwise_recipe::RecipeError> {
//! let recipe = Recipe::from_toml(
//!     r#"
//!     epochs = 20
//!     batch-size = 128
//!     optimizer = { SGD = { lr = 0.1, momentum = 0.9, nesterov = true, weight_decay = 5e-4 } }
//!     schedule = "CosineAnnealingLR"
//!     warmup = { epochs = 1, start_factor = 0.1 }
//!     parameter-groups = [{ max_dims = 1, weight_decay = 0.0 }]
//!     label-smoothing = 0.1
//!     "#,
//! )?;
//! let span = Span::of_epochs(391, recipe.epochs);
//! assert!((recipe.rate(0, span).lr - 0.01).abs() < 1e-12);
//! assert!((recipe.rate(391, span).lr - 0.1).abs() < 1e-12);
//! # Ok(())
//! # }
//! ```

mod augment;
mod compute;
mod data;
mod error;
mod file;
mod group;
mod lookahead;
mod named;
mod normalise;
mod optimizer;
mod pair;
mod recipe;
mod schedule;
mod views;

pub use augment::{Augment, Flip, PaddingMode};
pub use compute::{DeviceName, EngineKind, Precision};
pub use data::DataKind;
pub use error::{RecipeError, line_and_column, one_line};
pub use group::{Group, ParameterGroup};
pub use lookahead::Lookahead;
pub use normalise::Normalise;
pub use optimizer::{Adam, AdamW, Optimizer, Sgd};
pub use recipe::{EarlyStopping, Ema, Recipe};
pub use schedule::{
    Anneal, ConstantLr, CosineAnnealingLr, MultiStepLr, OneCycleLr, PiecewiseLinear, Rate, Schedule, Span,
    Unit, Warmup,
};
pub use views::{TestTimeAugmentation, View};
