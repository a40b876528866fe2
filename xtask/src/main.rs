//! `cargo xtask`: runs the study and the project's checks.
//!
//! **Architecture invariant:** xtask never links the tensor library. It spawns `trainer` and reads run folders, so that it
//! compiles in seconds.

// They panic if the reader is gone.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod architecture;
mod bench;
mod ci;
mod circles;
mod inventory;
mod origin;
mod reproduce;
#[cfg(target_os = "linux")]
mod torture;
mod trainer;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pointwise_process::note;

/// Runs the study and the project's checks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Repeat the study: train the networks with several seeds and compare them with the published figures.
    Reproduce(Box<reproduce::Args>),
    /// Time whole training steps and evaluation batches against other libraries.
    Bench(Box<bench::Args>),
    /// Check which crates depend on which, and that every dependency and every `unsafe` is accounted for.
    Architecture,
    /// Check everything that must hold: formatting, lints, documentation, tests, the README's commands, the optional features.
    Ci(ci::Args),
    /// Kill trainings and studies at random moments, or repeat the quick study for long, and check that nothing is different afterwards.
    #[cfg(target_os = "linux")]
    Torture(torture::Args),
}

/// How a task ended, if not with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Good,
    /// A check found something wrong.
    Bad,
    Interrupted,
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        Self::from(match end {
            End::Good => 0,
            End::Bad => 1,
            // 2 is clap's, for wrong usage.
            End::Interrupted => 130,
        })
    }
}

fn main() -> ExitCode {
    let cli: Cli = match pointwise_process::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let end = match cli.task {
        Task::Reproduce(args) => reproduce::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Architecture => architecture::run(),
        Task::Ci(args) => ci::run(&args),
        #[cfg(target_os = "linux")]
        Task::Torture(args) => torture::run(&args),
    };
    match end {
        Ok(end) => end.into(),
        Err(error) => {
            note!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Writes a result to stdout. A reader that closes the pipe early is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match pointwise_process::print(text) {
        Err(error) if !error.is_reader_gone() => Err(error.into()),
        _ => Ok(()),
    }
}
