//! The run folder: what a training run writes to disk, and how it is written and read back.
//!
//! | file | content | written |
//! |---|---|---|
//! | `config.toml` | [`RunConfig`]: everything that decides the numbers | at the start, last: it makes the folder a run |
//! | `environment.json` | [`Environment`]: machine, software, data | at the start and at every resume |
//! | `metrics.jsonl` | one [`Record`] a line | appended during the run |
//! | `progress.json` | [`Progress`]: how far the run is | replaced regularly |
//! | `checkpoints/best.safetensors`, `checkpoints/last.safetensors` | opaque bytes here | replaced |
//! | `checkpoints/ema.safetensors` | averaged weights, if the recipe averages; opaque bytes here | replaced |
//! | `analysis.json` | [`Analysis`]: mistakes and filters of the final parameters | once, before the result |
//! | `result.json` | [`RunResult`] | once; its existence means that the run is finished |
//! | `run.lock` | nothing; the writer holds an OS lock on it | at the start |
//!
//! [`RunFolder`] is the only writer of a folder; [`Run`] reads a folder at any time, without waiting.
//!
//! **Architecture invariant:** no file of a run is ever half written, except the last line of `metrics.jsonl`, which readers
//! ignore and a resume cuts off. This crate does not use tensors.

mod analysis;
mod config;
mod duration;
mod environment;
mod error;
mod files;
mod folder;
mod record;
mod run;

pub use analysis::{Analysis, Filters, Mistake, Sheet};
pub use config::{DatasetConfig, Difference, RunConfig};
pub use duration::duration;
pub use environment::{
    Environment, operating_system, peak_memory, processor_name, threads_of_environment, timestamp,
};
pub use error::Error;
pub use files::{is_temporary, replace_file, sweep_old_files};
pub use folder::{Checkpoint, RunFolder, holds_run};
pub use record::{EpochRecord, Progress, Record, RunResult, State, StepRecord};
pub use run::{Activity, Run};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
