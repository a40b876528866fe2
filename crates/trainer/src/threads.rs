//! The computing threads.

use anyhow::{anyhow, bail};
use pointwise_engine::memory;
use pointwise_runs::{RunConfig, threads_of_environment};
use std::fmt::Display;

/// Address space of a thread: its stack, as large as the standard library makes it, and what lies around it.
const THREAD_BYTES: u64 = (2 << 20) + (256 << 10);

/// Address space for everything else that a command does at least.
const REST_BYTES: u64 = 32 << 20;

/// Starts the computing threads: as many as the option says, else the variable `RAYON_NUM_THREADS`, else the number of processors.
///
/// # Errors
/// If the variable holds no such number, or the system has no room for that many.
pub(crate) fn start(option: Option<u32>) -> anyhow::Result<()> {
    let of_machine = || std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    let threads = match option {
        Some(threads) => threads,
        None => threads_of_environment()?.unwrap_or_else(of_machine).min(RunConfig::MAX_THREADS),
    };
    let refused = |cause: &str| {
        anyhow!(
            "{threads} computing threads cannot be started ({cause}): give fewer with --threads or RAYON_NUM_THREADS"
        )
    };
    // Where the address space ends in the middle of a thread's start, the standard library aborts.
    if let Some(left) = memory::address_space()
        && left < u64::from(threads) * THREAD_BYTES + REST_BYTES
    {
        bail!(refused(&format!("the limit of address space, ulimit -v, leaves {}", memory::shown(left))));
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads as usize)
        .build_global()
        .map_err(|error| refused(&cause(&error)))
}

/// Why a thread was not started: what the system says, and how much address space a limit leaves.
pub(crate) fn cause(error: &dyn Display) -> String {
    match memory::address_space() {
        Some(left) => {
            format!("{error}; the limit of address space, ulimit -v, leaves {}", memory::shown(left))
        }
        None => error.to_string(),
    }
}
