//! Dividing parameters among threads.

use crate::gemm::PANEL;
use crate::memory::Shared;
use crate::parallel::for_each_task;

/// Floats that a task takes.
pub(super) const RUN: usize = 1 << 14;

/// Divides slices among the threads: `body` gets the same run of all of them, a multiple of 16 floats long.
///
/// # Panics
/// When the slices differ in length, or the length is not a multiple of 16.
pub(super) fn for_each_run<const N: usize>(
    targets: [&mut [f32]; N],
    source: &[f32],
    body: impl Fn([&mut [f32]; N], &[f32]) + Sync,
) {
    let len = source.len();
    assert!(targets.iter().all(|target| target.len() == len) && len.is_multiple_of(PANEL));
    let targets = targets.map(Shared::new);
    for_each_task(len.div_ceil(RUN), |task| {
        let range = task * RUN..len.min((task + 1) * RUN);
        // SAFETY: every run belongs to one task.
        let own = targets.each_ref().map(|target| unsafe { target.part(range.clone()) });
        body(own, &source[range]);
    });
}
