//! Threads that stand by for the duration of a pass, for work divided into pieces of microseconds.
//!
//! A thread that has to be woken comes too late for a layer that takes 20 microseconds. Here the helpers are requested once, spin between
//! the pieces, and are released at the end. A late helper joins in the remaining work; nothing waits for a helper that has not started.

use crate::memory::{Buffer, Shared as SharedSlice};
use std::cell::UnsafeCell;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// How often a waiting thread polls before it starts to yield the processor between polls: some ten microseconds.
const SPINS: usize = 1000;

/// The threads of a pass: the one that creates the team, and helpers.
pub struct Team<'a> {
    shared: &'a Shared,
    /// Jobs so far.
    jobs: usize,
}

impl fmt::Debug for Team<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Team({} threads)", self.shared.threads)
    }
}

/// `body(worker, task)`.
type Body<'a> = dyn Fn(usize, usize) + Sync + 'a;

#[derive(Clone, Copy)]
struct Job {
    body: *const Body<'static>,
    tasks: usize,
}

struct Shared {
    threads: usize,
    /// The number of the job that can be joined; 0 for none.
    open: AtomicUsize,
    /// Helpers that may be looking at the job.
    active: AtomicUsize,
    /// The next task.
    next: AtomicUsize,
    /// Written while no job is open and no helper is active.
    job: UnsafeCell<Option<Job>>,
    ended: AtomicBool,
}

// SAFETY: `job` is read by helpers between joining and leaving, and written outside of that; its body is `Sync`.
unsafe impl Sync for Shared {}

impl<'a> Team<'a> {
    /// Calls `body` with a team of `threads`; the current rayon pool lends the helpers, as many as it has.
    pub fn gather<R>(threads: usize, body: impl FnOnce(&mut Team<'_>) -> R) -> R {
        let shared = Shared {
            threads: threads.clamp(1, rayon::current_num_threads()),
            open: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            ended: AtomicBool::new(false),
        };
        let shared = &shared;
        if shared.threads == 1 {
            return body(&mut Team { shared, jobs: 0 });
        }
        rayon::in_place_scope(|scope| {
            for worker in 1..shared.threads {
                scope.spawn(move |_| shared.help(worker));
            }
            // Whether the body returns or panics.
            let _end = OnDrop(|| shared.ended.store(true, Ordering::Release));
            body(&mut Team { shared, jobs: 0 })
        })
    }

    /// Threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// Runs `body(worker, task)` for every task in `0..tasks`; a worker is one thread, a number below [`Team::threads`].
    pub fn for_each(&mut self, tasks: usize, body: impl Fn(usize, usize) + Sync) {
        let shared = self.shared;
        if shared.threads == 1 || tasks <= 1 {
            (0..tasks).for_each(|task| body(0, task));
            return;
        }
        self.jobs += 1;
        let body: &Body<'_> = &body;
        // SAFETY: nobody is active, and before this function ends, however it does, nobody is again: the body lives until then.
        unsafe {
            let body = std::mem::transmute::<*const Body<'_>, *const Body<'static>>(body);
            *shared.job.get() = Some(Job { body, tasks });
        }
        shared.next.store(0, Ordering::Relaxed);
        shared.open.store(self.jobs, Ordering::SeqCst);
        let _close = OnDrop(|| {
            shared.open.store(0, Ordering::SeqCst);
            let mut spins = 0;
            // A helper that joins later finds the job closed: both sides write before they read.
            while shared.active.load(Ordering::SeqCst) != 0 {
                pause(&mut spins);
            }
        });
        shared.work(0, body, tasks);
    }

    /// Passes each whole run of `len` floats of `values` to one call of `body(run, floats)`.
    pub fn for_each_run(&mut self, values: &mut [f32], len: usize, body: impl Fn(usize, &mut [f32]) + Sync) {
        let runs = values.len() / len.max(1);
        let values = SharedSlice::new(values);
        self.for_each(runs, |_, run| {
            // SAFETY: every task has its own run.
            body(run, unsafe { values.part(run * len..(run + 1) * len) });
        });
    }

    /// As [`Team::for_each`], with a buffer for each worker.
    pub(crate) fn for_each_with(
        &mut self,
        buffers: &mut [Buffer],
        tasks: usize,
        body: impl Fn(&mut [f32], usize) + Sync,
    ) {
        assert!(buffers.len() >= self.threads(), "a buffer for each thread");
        struct Buffers(*mut Buffer);
        // SAFETY: each worker takes its own.
        unsafe impl Sync for Buffers {}
        let buffers = Buffers(buffers.as_mut_ptr());
        let buffers = &buffers;
        self.for_each(tasks, move |worker, task| {
            // SAFETY: workers are below the number of threads, and each is one thread.
            body(unsafe { &mut *buffers.0.add(worker) }, task);
        });
    }
}

impl Shared {
    fn work(&self, worker: usize, body: &Body<'_>, tasks: usize) {
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                break;
            }
            body(worker, task);
        }
    }

    fn help(&self, worker: usize) {
        let mut seen = 0;
        loop {
            let mut spins = 0;
            let number = loop {
                if self.ended.load(Ordering::Acquire) {
                    return;
                }
                let number = self.open.load(Ordering::SeqCst);
                if number != 0 && number != seen {
                    break number;
                }
                pause(&mut spins);
            };
            seen = number;
            self.active.fetch_add(1, Ordering::SeqCst);
            let _leave = OnDrop(|| {
                self.active.fetch_sub(1, Ordering::SeqCst);
            });
            if self.open.load(Ordering::SeqCst) == number {
                // SAFETY: the job is open, and is not closed for good before this helper leaves.
                let job = unsafe { *self.job.get() };
                if let Some(Job { body, tasks }) = job {
                    // SAFETY: as above.
                    self.work(worker, unsafe { &*body }, tasks);
                }
            }
        }
    }
}

fn pause(spins: &mut usize) {
    *spins += 1;
    if *spins < SPINS {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_task_is_done_once_before_the_call_returns() {
        for threads in [1, 2, 3, 8] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let done: Vec<AtomicU64> = (0..50).map(|_| AtomicU64::new(0)).collect();
            let gather = || {
                Team::gather(threads, |team| {
                    assert!((1..=threads).contains(&team.threads()));
                    for round in 0..200u64 {
                        for tasks in [0, 1, 2, 50] {
                            team.for_each(tasks, |worker, task| {
                                assert!(worker < threads);
                                done[task].fetch_add(round, Ordering::Relaxed);
                            });
                        }
                        let sum: u64 = done.iter().map(|count| count.load(Ordering::Relaxed)).sum();
                        assert_eq!(sum, 53 * round * (round + 1) / 2);
                    }
                });
            };
            pool.install(gather);
            // And from a thread outside the pool.
            for count in &done {
                count.store(0, Ordering::Relaxed);
            }
            gather();
        }
    }

    #[test]
    fn a_panic_of_a_task_reaches_the_caller() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        for bad in [0, 7, 19] {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.install(|| Team::gather(3, |team| team.for_each(20, |_, task| assert_ne!(task, bad))));
            }));
            assert!(caught.is_err(), "{bad}");
        }
    }
}
