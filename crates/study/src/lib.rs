//! A study as data: what is trained, how often, and what was published about it.
//!
//! [`Study`] is read from a TOML file. It names its networks and its recipe, and may vary parts of both; each combination is an [`Arm`]. An arm
//! is run once for each seed. What was published about the arms is compared with the runs: figures ([`Published`]), which of them decide
//! ([`Primary`]), and the conclusion that was drawn ([`Claim`]).
//!
//! **Architecture invariant:** nothing here knows a study, a network or a data set by its name, except the list of the studies that come with
//! the program (`shipped.rs`).

// For `testing.rs`, which is shared with tests outside of this crate.
#[cfg(test)]
extern crate self as pointwise_study;

mod arm;
mod bounded;
mod claim;
mod display;
mod effect;
mod error;
mod file;
mod number;
mod plan;
mod published;
mod read;
mod reader;
mod requeue;
mod runner;
mod shard;
mod shipped;
mod slurm;
mod status;
mod study;
#[cfg(test)]
mod testing;
mod text;
mod trainers;
mod vary;
mod write;

pub use arm::Arm;
pub use claim::{Claim, ClaimKind, Quantity};
pub use display::Display;
pub use effect::Effect;
pub use error::{Error, Result};
pub use plan::{Job, Options, Plan, default_out};
pub use published::{Curves, Metric, Primary, Published, PublishedFigure};
pub use requeue::SlurmJob;
pub use runner::{IN_USE, INTERRUPTED, train};
pub use shard::Shard;
pub use slurm::{JobArray, Queue, QueuedTask, add_queue, shards};
pub use status::{RunStatus, finished, status};
pub use study::{DataSource, Source, Study};
pub use trainers::{Answer, Order, TRAIN_SEVERAL};
pub use write::study_in;
