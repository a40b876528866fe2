//! `trainer`: trains, evaluates and summarises the networks of the study.
//!
//! Results go to stdout and to files, progress and messages to stderr. Exit codes: 0 done, 1 failed, 2 usage, 3 to 5 verdicts on a study,
//! 6 in use by another process, 130 interrupted.

// They panic when the reader is gone.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod analysis;
mod args;
mod bench;
mod compare;
mod data;
mod display;
mod environment;
mod eval;
mod export;
mod import;
mod model;
mod options;
mod predict;
mod recipe;
mod report;
mod reproduce;
mod runs;
mod several;
mod slurm;
mod study;
mod summary;
mod tensorboard;
mod threads;
mod train;
mod values;
mod watch;

use anyhow::{Context, anyhow};
use args::{Cli, Command};
use clap::CommandFactory;
use log::LevelFilter;
use pointwise_engine::memory::{EndingAllocator, address_space, share_arena};
use pointwise_process::{OutputError, Request, note};
use pointwise_study::{IN_USE, INTERRUPTED};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use train::Host;

/// Reports in one sentence that memory is exhausted.
#[global_allocator]
static ALLOCATOR: EndingAllocator = EndingAllocator;

const FAILED: u8 = 1;

/// How a command ended, if not with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    /// The figures of a study are not the published ones.
    Different,
    /// The runs are not of the published experiment.
    NotComparable,
    /// The runs could not have detected a difference that matters.
    Undecided,
    Interrupted,
}

/// The exit code for an outcome.
fn exit_code(outcome: &anyhow::Result<End>) -> u8 {
    match outcome {
        Ok(End::Done) => 0,
        // 2 is clap's, for usage.
        Ok(End::Different) => 3,
        Ok(End::NotComparable) => 4,
        Ok(End::Undecided) => 5,
        Ok(End::Interrupted) => INTERRUPTED,
        // The reader of our output has closed it.
        Err(error) if is_reader_gone(error) => 0,
        Err(error) if is_in_use(error) => IN_USE,
        Err(_) => FAILED,
    }
}

fn main() -> ExitCode {
    if address_space().is_some() {
        share_arena();
    }
    match pointwise_process::parse().map(run) {
        Ok(outcome) => {
            if let Err(error) = &outcome
                && !is_reader_gone(error)
            {
                note!("error: {error:#}");
            }
            exit_code(&outcome).into()
        }
        Err(code) => code,
    }
}

fn run(cli: Cli) -> anyhow::Result<End> {
    start_log(cli.verbose);
    match cli.command {
        Command::Train(args) => {
            train::run(&args, std::env::args_os().collect(), Host::Own).inspect(slurm::requeue)
        }
        Command::TrainSeveral => several::run(),
        Command::Eval(args) => eval::run(&args),
        Command::Export(args) => export::run(&args).map(|()| End::Done),
        Command::Import(args) => import::run(&args),
        Command::Predict(args) => predict::run(&args),
        Command::Runs(args) => runs::run(&args).map(|()| End::Done),
        Command::Compare(args) => compare::run(&args).map(|()| End::Done),
        Command::Report(args) => report::run(&args).map(|()| End::Done),
        Command::Reproduce(args) => reproduce::run(*args).inspect(slurm::requeue),
        Command::Study(args) => study::run(args.command),
        Command::Watch(args) => watch::run(&args),
        Command::Summary(args) => {
            threads::start(None)?;
            summary::run(&args).map(|()| End::Done)
        }
        Command::Recipe(args) => recipe::run(&args).map(|()| End::Done),
        Command::Bench(args) => bench::run(&args).map(|()| End::Done),
        Command::Data(args) => {
            threads::start(None)?;
            data::run(&args)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "trainer", &mut script);
            pointwise_process::print(&String::from_utf8_lossy(&script))?;
            Ok(End::Done)
        }
        Command::Manual { folder } => {
            std::fs::create_dir_all(&folder)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), &folder))
                .with_context(|| format!("{}: manual pages cannot be written", folder.display()))?;
            Ok(End::Done)
        }
    }
}

/// Starts the log on stderr: for our own crates at the level of `--verbose`, else as `RUST_LOG` says.
fn start_log(verbose: u8) {
    let mut log = env_logger::Builder::new();
    log.filter_level(LevelFilter::Warn);
    let level = match verbose {
        0 => None,
        1 => Some(LevelFilter::Info),
        2 => Some(LevelFilter::Debug),
        _ => Some(LevelFilter::Trace),
    };
    match level {
        Some(level) => log.filter_module("trainer", level).filter_module("pointwise", level),
        None => log.parse_default_env(),
    };
    log.init();
}

fn is_reader_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(OutputError::is_reader_gone)
}

/// Whether another process is using what the command needs for itself.
fn is_in_use(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(pointwise_runs::Error::InUse { .. }))
        || matches!(error.downcast_ref(), Some(pointwise_study::Error::InUse(_)))
}

/// Writes lines of a result to stdout; unlike with `println!`, a closed pipe is an error, not a panic.
fn print(lines: &str) -> Result<(), OutputError> {
    pointwise_process::print(&format!("{lines}\n"))
}

/// A flag that is set by Ctrl-C, another request to terminate, or the end of a process that we are tied to; a second Ctrl-C ends the
/// process at once.
fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = signal_flag()?;
    let flag = Arc::clone(&stop);
    pointwise_process::watch_parent(move || request(&flag))
        .context("the end of the parent cannot be waited for")?;
    Ok(stop)
}

/// As [`stop_flag`], but without watching another process.
fn signal_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    pointwise_process::watch(move |Request { at_once, .. }| {
        if at_once {
            std::process::exit(INTERRUPTED.into());
        }
        request(&flag);
    })
    .map_err(|error| anyhow!("signals cannot be handled ({}): raise the limit", threads::cause(&error)))?;
    Ok(stop)
}

fn request(stop: &AtomicBool) {
    if !stop.swap(true, Ordering::Relaxed) {
        note!("\nstopping (a second Ctrl-C stops at once)");
    }
}
