use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

/// A second interrupt is an impatient user's only this long after the first. Two at once are one request that came twice: from `timeout -s INT`,
/// which signals its child and then the whole group, or from a wrapper that passes on what the terminal has already sent.
const ONE_REQUEST: Duration = Duration::from_millis(300);

#[cfg(unix)]
use signal_hook::consts::SIGUSR1;
/// No such signal exists here.
#[cfg(not(unix))]
const SIGUSR1: i32 = 64;

/// A signal that asks this process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The signal's number. This process did not ignore it when it started, so neither does a child that inherited that.
    pub signal: i32,
    /// Whether it was the second Ctrl-C: the process must end without waiting for anything.
    pub at_once: bool,
}

/// From now on, passes signals that would end this process to `act`, on a separate thread.
///
/// These are SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU, which batch systems send before they kill, except those that were ignored when
/// the process started (where the system reports them, as Linux does): `nohup` ignores SIGHUP, and a shell without job control ignores SIGINT for
/// what it runs in the background.
///
/// # Errors
/// If the operating system refuses.
pub fn watch(mut act: impl FnMut(Request) + Send + 'static) -> io::Result<()> {
    system::watch(move |request: Request| {
        REQUESTED.fetch_or(bit(request.signal), Ordering::Relaxed);
        act(request);
    })
}

/// The requests so far: bit 0 is signal 1.
static REQUESTED: AtomicU64 = AtomicU64::new(0);

/// Whether this process was asked to end because its time is nearly up, and not to terminate: SIGUSR1, which batch systems send for that, is the only
/// request so far.
pub fn time_is_up() -> bool {
    cfg!(unix) && REQUESTED.load(Ordering::Relaxed) == bit(SIGUSR1)
}

/// The bit of a signal in the set of requests.
fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Tells a second interrupt from the first one.
#[derive(Debug, Default)]
struct Interrupts {
    first: Option<Instant>,
}

impl Interrupts {
    /// Whether an interrupt at this time is a second one.
    fn is_second(&mut self, at: Instant) -> bool {
        at.duration_since(*self.first.get_or_insert(at)) >= ONE_REQUEST
    }
}

#[cfg(unix)]
mod system {
    use super::{Instant, Interrupts, Request, io, thread};
    use signal_hook::{
        consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXCPU, SIGXFSZ},
        flag,
        iterator::Signals,
    };
    use std::sync::{Arc, atomic::AtomicBool};

    const REQUESTS: [i32; 6] = [SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU];

    pub(super) fn watch(mut act: impl FnMut(Request) + Send + 'static) -> io::Result<()> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = ignored(&status);
        let mut signals = Signals::new(REQUESTS.into_iter().filter(|signal| !contains(ignored, *signal)))?;
        // A write beyond `ulimit -f` is then an error that names the file, instead of a silent end.
        flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut interrupts = Interrupts::default();
            for signal in signals.forever() {
                let at_once = signal == SIGINT && interrupts.is_second(Instant::now());
                act(Request { signal, at_once });
            }
        })?;
        Ok(())
    }

    /// The set of ignored signals in `/proc/PID/status`.
    fn ignored(status: &str) -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
    }

    /// Bit 0 is signal 1.
    fn contains(set: u64, signal: i32) -> bool {
        set >> (signal - 1) & 1 == 1
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_system_tells_which_signals_are_ignored() {
            let set = ignored("Name:\ttrainer\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001003\n");
            let found: Vec<i32> = (1..=64).filter(|signal| contains(set, *signal)).collect();
            assert_eq!(found, [SIGHUP, SIGINT, 13]);
            for status in ["", "SigIgn:", "SigIgn:\tx\n"] {
                assert_eq!(ignored(status), 0, "{status:?}");
            }
        }
    }
}

#[cfg(not(unix))]
mod system {
    use super::{Instant, Interrupts, Request, io, thread};
    use signal_hook::consts::{SIGINT, SIGTERM};
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        time::Duration,
    };

    const PERIOD: Duration = Duration::from_millis(100);

    pub(super) fn watch(mut act: impl FnMut(Request) + Send + 'static) -> io::Result<()> {
        let signals = [SIGINT, SIGTERM].map(|signal| (signal, Arc::new(AtomicBool::new(false))));
        for (signal, flag) in &signals {
            signal_hook::flag::register(*signal, Arc::clone(flag))?;
        }
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut interrupts = Interrupts::default();
            loop {
                for (signal, flag) in &signals {
                    if flag.swap(false, Ordering::Relaxed) {
                        let at_once = *signal == SIGINT && interrupts.is_second(Instant::now());
                        act(Request { signal: *signal, at_once });
                    }
                }
                thread::sleep(PERIOD);
            }
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_interrupts_at_once_are_one_request() {
        let start = Instant::now();
        let mut interrupts = Interrupts::default();
        assert!(!interrupts.is_second(start));
        assert!(!interrupts.is_second(start + ONE_REQUEST / 2));
        assert!(interrupts.is_second(start + ONE_REQUEST));
        assert!(interrupts.is_second(start + 2 * ONE_REQUEST));
    }
}
