//! What every method implements, and how work is divided.

use super::shape::FusedShape;
use crate::gemm::PAIR;
use crate::memory::{Buffer, Shared};
use crate::shape::padded;
use crate::team::Team;
use crate::workspace::{Workspace, WorkspaceNeed};
use std::ops::Range;

/// What every method of a fused convolution implements; slices have been checked.
pub(super) trait Fused: Send + Sync {
    /// The workspace for up to this many images and threads.
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

/// Some rows of the output of an image, a task.
pub(super) struct Rows<'a> {
    /// The whole image of the input.
    pub(super) image: &'a [f32],
    pub(super) rows: Range<usize>,
    /// The addend of these rows, laid out as the target.
    pub(super) addend: Option<&'a [f32]>,
    pub(super) target: &'a mut [f32],
}

impl Pass<'_> {
    /// Gives each thread of the team rows of the output, each image cut into this many parts, and its own memory.
    pub(super) fn for_each_rows(
        self,
        shape: &FusedShape,
        team: &mut Team<'_>,
        workers: &mut [Buffer],
        parts: usize,
        task: impl Fn(&mut [f32], Rows<'_>) + Sync,
    ) {
        let Self { images, input, addend, output } = self;
        if images == 0 {
            return;
        }
        let (rows, columns) = shape.output_map();
        let row_len = columns * padded(shape.convolution.out_channels);
        let (image_len, output_len) = (input.len() / images, shape.output_len());
        let values = Shared::new(output);
        team.for_each_with(workers, images * parts, |memory, number| {
            let (image, rows) = (number / parts, share(rows, parts, number % parts));
            let range = image * output_len + rows.start * row_len..image * output_len + rows.end * row_len;
            // SAFETY: every task has its own rows.
            let target = unsafe { values.part(range.clone()) };
            let addend = addend.map(|addend| &addend[range]);
            let image = &input[image * image_len..(image + 1) * image_len];
            task(memory, Rows { image, rows, addend, target });
        });
    }
}

/// Floats of a `K x N` matrix in pairs of panels.
pub(super) fn pairs_len(k: usize, n: usize) -> usize {
    k * n.next_multiple_of(PAIR)
}

/// The part of `units` that belongs to a share.
pub(super) fn share(units: usize, shares: usize, share: usize) -> Range<usize> {
    share * units / shares..(share + 1) * units / shares
}

/// How many parts each of `images` images is cut into: at least `least`, at most `most`, and enough to give the threads equal shares if
/// possible.
pub(super) fn parts(images: usize, threads: usize, least: usize, most: usize) -> usize {
    let least = least.clamp(1, most.max(1));
    let fair = |parts: &usize| (images * parts).is_multiple_of(threads);
    // Many parts are balanced enough.
    if images * least >= 8 * threads {
        return least;
    }
    (least..=most).take(2 * threads).find(fair).unwrap_or(least)
}
