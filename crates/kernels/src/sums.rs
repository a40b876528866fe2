//! Gradients of weights, summed over the images of a batch in an order that depends only on their number.

use crate::gemm::PANEL;
use crate::memory::Shared;
use crate::parallel::for_each_task;
use std::ops::{Range, RangeInclusive};

/// Images of a group: the weights' gradients are summed within groups first, then over the groups; part of the summation order. Methods for
/// small weights, whose sums are cheap to keep separate, have their own group size, so that small batches keep all threads busy.
pub(crate) const GROUP: usize = 6;

/// Groups whose sums are kept separate at once: as many as keep the threads busy, no more for larger batches, and fewer for large weights.
/// The sums are added up in the groups' order either way.
const GROUPS_AT_ONCE: RangeInclusive<usize> = 8..=64;

/// Floats of the sums of these groups, within the limits of [`GROUPS_AT_ONCE`].
const FLOATS_AT_ONCE: usize = 4 << 20;

fn groups_at_once(weight_len: usize) -> usize {
    (FLOATS_AT_ONCE / weight_len.max(1)).clamp(*GROUPS_AT_ONCE.start(), *GROUPS_AT_ONCE.end())
}

/// Floats for the sums of the groups, of `group` images each, of a batch.
pub(crate) fn partial_len(batch: usize, group: usize, weight_len: usize) -> usize {
    batch.div_ceil(group).min(groups_at_once(weight_len)) * weight_len
}

/// Sets `sum` to the sum over groups of `group` of `images`, in order. `fill` writes the sums of the groups `first..` one after the other
/// into a slice, which `partial` has room for: see [`partial_len`].
pub(crate) fn sum_over_groups(
    images: usize,
    group: usize,
    partial: &mut [f32],
    sum: &mut [f32],
    mut fill: impl FnMut(Range<usize>, &mut [f32]),
) {
    let groups = images.div_ceil(group);
    let at_once = groups_at_once(sum.len());
    for first in (0..groups).step_by(at_once) {
        let now = first..groups.min(first + at_once);
        let partial = &mut partial[..now.len() * sum.len()];
        fill(now, partial);
        add_groups(partial, sum, first == 0);
    }
}

/// Adds the groups' parts to `sum`, one after the other in their order; the very first replaces it.
fn add_groups(partial: &[f32], sum: &mut [f32], from_first: bool) {
    let len = sum.len();
    let target = Shared::new(sum);
    const RUN: usize = 4096;
    for_each_task(len.div_ceil(RUN), |task| {
        let range = task * RUN..len.min((task + 1) * RUN);
        // SAFETY: every run belongs to one task.
        let target = unsafe { target.part(range.clone()) };
        if from_first {
            target.copy_from_slice(&partial[range.clone()]);
        }
        for group in partial.chunks_exact(len).skip(usize::from(from_first)) {
            for (sum, x) in target.iter_mut().zip(&group[range.clone()]) {
                *sum += x;
            }
        }
    });
}

/// Zeroes the columns of a gradient's last panel that belong to none of the `outputs`: they hold a product with zero, or a NaN.
pub(crate) fn clear_columns(outputs: usize, last_panel: &mut [f32]) {
    let used = outputs % PANEL;
    if used > 0 {
        for row in last_panel.chunks_exact_mut(PANEL) {
            row[used..].fill(0.0);
        }
    }
}
