//! From a convolution's results in scratch memory to the output: border, bias, activation, pool.

use super::shape::{Constants, FusedShape};
use crate::activation::{Function, with_function};
use crate::shape::padded;
use crate::simd::{Isa, Kernel, Simd};
use std::ops::Range;

/// Some rows of the output of an image, of some channels.
pub(super) struct FinishMap<'a> {
    pub(super) shape: &'a FusedShape,
    pub(super) constants: &'a Constants,
    /// The stored rows under them, `(rows, columns, block)`.
    pub(super) results: &'a [f32],
    pub(super) block: usize,
    pub(super) rows: Range<usize>,
    /// Whole panels.
    pub(super) channels: Range<usize>,
    /// The first pixel of the rows, and floats from pixel to pixel.
    pub(super) target: *mut f32,
    pub(super) pixel: usize,
}

impl<'a> FinishMap<'a> {
    /// Finishes all channels of some rows, of results in the same layout.
    pub(super) fn run_rows(
        isa: Isa,
        shape: &'a FusedShape,
        constants: &'a Constants,
        results: &'a [f32],
        rows: Range<usize>,
        target: &mut [f32],
    ) {
        let (_, columns) = shape.output_map();
        let outputs = padded(shape.convolution.out_channels);
        assert!(target.len() >= rows.len() * columns * outputs);
        let target = target.as_mut_ptr();
        let map = Self {
            shape,
            constants,
            results,
            block: outputs,
            rows,
            channels: 0..outputs,
            target,
            pixel: outputs,
        };
        // SAFETY: the rows of the output, which are as long, and nobody else's.
        unsafe { map.run_on(isa) };
    }

    /// # Safety
    /// The pixels of the rows, from the first of the channels on, lie behind `target`, and nobody else touches these channels.
    pub(super) unsafe fn run_on(self, isa: Isa) {
        let (_, columns) = self.shape.convolution.stored_map();
        let stored = self.shape.stored_rows(&self.rows);
        assert!(self.results.len() >= stored.len() * columns * self.block);
        assert!(self.channels.len() <= self.block && self.channels.end <= self.constants.bias.len());
        let Self { shape, constants, results, block, rows, channels, target, pixel } = self;
        let first = stored.start;
        let activation = shape.activation;
        with_function!(activation, |function| {
            let map =
                Map { shape, constants, results, first, block, rows, channels, target, pixel, function };
            if shape.pool { isa.run(Pooled(map)) } else { isa.run(Plain(map)) }
        });
    }
}

struct Map<'a, F> {
    shape: &'a FusedShape,
    constants: &'a Constants,
    results: &'a [f32],
    /// The first stored row of the results.
    first: usize,
    block: usize,
    rows: Range<usize>,
    channels: Range<usize>,
    target: *mut f32,
    pixel: usize,
    function: F,
}

struct Plain<'a, F>(Map<'a, F>);
struct Pooled<'a, F>(Map<'a, F>);

impl<F: Function> Kernel for Plain<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.0.windows::<S, 1>(simd);
    }
}

impl<F: Function> Kernel for Pooled<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        self.0.windows::<S, 4>(simd);
    }
}

impl<F: Function> Map<'_, F> {
    /// Where the value of a pixel of the bordered map begins, and what is added to it.
    #[inline(always)]
    fn place(&self, row: usize, column: usize) -> (*const f32, *const f32) {
        let (rows, columns) = self.shape.convolution.stored_map();
        let border = self.shape.border;
        let inside = |at: usize, len: usize| at.checked_sub(border).filter(|at| *at < len);
        match (inside(row, rows), inside(column, columns)) {
            (Some(y), Some(x)) => {
                let at = ((y - self.first) * columns + x) * self.block;
                (self.results[at..].as_ptr(), self.constants.bias[self.channels.start..].as_ptr())
            }
            _ => {
                let edge = |at: usize, len: usize| at.min(len + 2 * border - 1 - at);
                let ring = &self.constants.rings[edge(row, rows).min(edge(column, columns))];
                (ring[self.channels.start..].as_ptr(), self.constants.zeros[self.channels.start..].as_ptr())
            }
        }
    }

    #[inline(always)]
    fn windows<S: Simd, const WINDOW: usize>(self, simd: S) {
        let (_, columns) = self.shape.output_map();
        let mut target = self.target;
        // Some activations map a padding channel to something other than zero.
        let channels = self.shape.convolution.out_channels.saturating_sub(self.channels.start);
        for row in self.rows.clone() {
            for column in 0..columns {
                let places: [_; WINDOW] = std::array::from_fn(|i| match WINDOW {
                    1 => self.place(row, column),
                    _ => self.place(2 * row + i / 2, 2 * column + i % 2),
                });
                for channel in (0..self.channels.len()).step_by(S::WIDTH) {
                    // SAFETY: results and constants were checked in `run_on`, the target is the caller's promise.
                    unsafe {
                        let value = |(results, bias): (*const f32, *const f32)| {
                            let z = simd.add(simd.load(results.add(channel)), simd.load(bias.add(channel)));
                            if F::AFTER_MAXIMUM { z } else { self.function.value(simd, z) }
                        };
                        let mut best = value(places[0]);
                        for place in &places[1..] {
                            let other = value(*place);
                            best = simd.if_greater_or_nan(other, best, other, best);
                        }
                        if F::AFTER_MAXIMUM {
                            best = self.function.value(simd, best);
                        }
                        simd.store(target.add(channel), best);
                    }
                }
                for channel in channels..self.channels.len() {
                    // SAFETY: as above.
                    unsafe { target.add(channel).write(0.0) };
                }
                // SAFETY: one pixel further, at most the end.
                target = target.wrapping_add(self.pixel);
            }
        }
    }
}
