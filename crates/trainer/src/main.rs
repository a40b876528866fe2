//! `trainer`: trains, evaluates and summarises the networks of the study.
//!
//! Results go to stdout and to files, progress and messages to stderr. Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted.

mod analysis;
mod args;
mod bench;
mod compare;
mod data;
mod display;
mod environment;
mod eval;
mod options;
mod predict;
mod report;
mod runs;
mod summary;
mod tensorboard;
mod train;
mod watch;

use anyhow::Context;
use args::{Cli, Command, Compute};
use clap::{CommandFactory, Parser};
use log::LevelFilter;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const FAILED: u8 = 1;
const INTERRUPTED: u8 = 130;

/// How a command ended, if not with an error.
enum End {
    Done,
    Interrupted,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(End::Done) => ExitCode::SUCCESS,
        Ok(End::Interrupted) => ExitCode::from(INTERRUPTED),
        // Whoever read our output has enough of it.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<End> {
    start_log(cli.verbose);
    match cli.command {
        Command::Train(args) => train::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Predict(args) => predict::run(&args),
        Command::Runs(args) => runs::run(&args).map(|()| End::Done),
        Command::Compare(args) => compare::run(&args).map(|()| End::Done),
        Command::Report(args) => report::run(&args).map(|()| End::Done),
        Command::Watch(args) => watch::run(&args),
        Command::Summary(args) => summary::run(&args).map(|()| End::Done),
        Command::Bench(args) => bench::run(&args).map(|()| End::Done),
        Command::Data(args) => data::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "trainer", &mut script);
            io::stdout().write_all(&script)?;
            Ok(End::Done)
        }
    }
}

/// What is told on stderr beside progress: of our own crates as much as `--verbose` asks for, else what `RUST_LOG` says.
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

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Writes lines to stdout; unlike `println!`, a closed pipe is an error and no panic.
fn print(lines: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(lines.as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// A flag that Ctrl-C, or a request to terminate, sets; the second one ends the process at once.
fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
        eprintln!("\nstopping after the step in hand (once more to stop at once)");
    })
    .context("signals cannot be handled")?;
    Ok(stop)
}

/// Sets the number of computing threads; without the option, `RAYON_NUM_THREADS` or the number of processors decides.
fn set_threads(compute: &Compute) -> anyhow::Result<()> {
    if let Some(threads) = compute.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads as usize)
            .build_global()
            .context("the computing threads cannot be started")?;
    }
    Ok(())
}
