//! Work shared among the threads of the current rayon pool.
//!
//! **Invariant:** what a task computes never depends on which worker runs it, nor on how many there are. That, and a summation order fixed
//! by shapes alone, is why every thread count gives the same bits.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs `body(worker, task)` for every task in `0..tasks`, with at most one thread for each worker.
///
/// A worker holds scratch memory; whichever is free takes the next task.
pub(crate) fn for_each<W: Send>(tasks: usize, workers: &mut [W], body: impl Fn(&mut W, usize) + Sync) {
    let count = workers.len().min(tasks).min(rayon::current_num_threads());
    let next = AtomicUsize::new(0);
    let run = |worker: &mut W| {
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                break;
            }
            body(worker, task);
        }
    };
    match workers[..count].split_first_mut() {
        None => {}
        Some((first, [])) => run(first),
        Some((first, others)) => {
            let run = &run;
            rayon::scope(|scope| {
                for worker in others {
                    scope.spawn(move |_| run(worker));
                }
                run(first);
            });
        }
    }
}

/// As [`for_each`], for tasks that need no scratch memory.
pub(crate) fn for_each_task(tasks: usize, body: impl Fn(usize) + Sync) {
    let mut workers = vec![(); rayon::current_num_threads()];
    for_each(tasks, &mut workers, |(), task| body(task));
}
