//! What every method implements, and how work is shared out.

use crate::gemm::PAIR;
use crate::team::Team;
use crate::workspace::{Workspace, WorkspaceNeed};
use std::ops::Range;

/// What every method of a fused convolution implements; slices have been checked.
pub(super) trait Fused: Send + Sync {
    /// For up to so many images and threads.
    fn need(&self, images: usize, threads: usize) -> WorkspaceNeed;
    fn run(&self, team: &mut Team<'_>, pass: Pass<'_>, workspace: &mut Workspace);
}

/// The images of a call.
pub(super) struct Pass<'a> {
    pub(super) images: usize,
    pub(super) input: &'a [f32],
    pub(super) addend: Option<&'a [f32]>,
    pub(super) output: &'a mut [f32],
}

/// Floats of a `K x N` matrix in pairs of panels.
pub(super) fn pairs_len(k: usize, n: usize) -> usize {
    k * n.next_multiple_of(PAIR)
}

/// The part of `units` that belongs to a share.
pub(super) fn share(units: usize, shares: usize, share: usize) -> Range<usize> {
    share * units / shares..(share + 1) * units / shares
}

/// In how many parts each of `images` images goes, of at most `most`: at least `least`, and so many that the threads have equal shares,
/// where that is possible.
pub(super) fn parts(images: usize, threads: usize, least: usize, most: usize) -> usize {
    let least = least.clamp(1, most.max(1));
    let fair = |parts: &usize| (images * parts).is_multiple_of(threads);
    // Many parts are fair enough.
    if images * least >= 8 * threads {
        return least;
    }
    (least..=most).take(2 * threads).find(fair).unwrap_or(least)
}
