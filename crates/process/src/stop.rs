use std::{
    io,
    process::{Child, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use signal_hook::consts::SIGINT;

use crate::{watch, watch_parent};

/// Time that a program has to end after a Ctrl-C from the terminal.
const GRACE: Duration = Duration::from_secs(5);
/// Time between checks whether a program has ended.
const PERIOD: Duration = Duration::from_millis(50);
/// In place of a signal's number: the process that we are tied to has ended.
const PARENT: i32 = -1;

/// Requests to stop, for a program that starts others.
#[derive(Debug, Default)]
pub struct Stop {
    /// The first signal; 0 before.
    signal: Arc<AtomicI32>,
    at_once: Arc<AtomicBool>,
}

impl Stop {
    /// From now on, neither a signal nor the end of the process that it is [tied](crate::tie) to ends this process: they are requests.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn watch() -> io::Result<Self> {
        let stop = Self::default();
        let (first, at_once) = (Arc::clone(&stop.signal), Arc::clone(&stop.at_once));
        watch(move |request| {
            // Later requests add nothing.
            let _ = first.compare_exchange(0, request.signal, Ordering::Relaxed, Ordering::Relaxed);
            at_once.fetch_or(request.at_once, Ordering::Relaxed);
        })?;
        let first = Arc::clone(&stop.signal);
        watch_parent(move || {
            let _ = first.compare_exchange(0, PARENT, Ordering::Relaxed, Ordering::Relaxed);
        })?;
        Ok(stop)
    }

    /// Whether there was a request.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.signal.load(Ordering::Relaxed) != 0
    }

    /// Whether to end without waiting for anything: after a second Ctrl-C.
    #[must_use]
    pub fn at_once(&self) -> bool {
        self.at_once.load(Ordering::Relaxed)
    }

    /// Waits for a program that shares our terminal, and ends it if we are to stop. A Ctrl-C from the terminal reaches it too: it then has a little
    /// time to end by itself.
    ///
    /// # Errors
    /// If the operating system cannot wait for it.
    pub fn wait_for(&self, child: &mut Child) -> io::Result<ExitStatus> {
        let mut since: Option<Instant> = None;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if self.requested() {
                let time = since.get_or_insert_with(Instant::now).elapsed();
                let grace =
                    if self.signal.load(Ordering::Relaxed) == SIGINT { GRACE } else { Duration::ZERO };
                if time >= grace || self.at_once() {
                    child.kill()?;
                    return child.wait();
                }
            }
            thread::sleep(PERIOD);
        }
    }
}
