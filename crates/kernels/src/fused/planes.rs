//! Convolutions from few channels to few, as sums over the taps for vectors of pixels.
//!
//! A product's vectors hold output channels, padded to sixteen: with six, padding is most of the work. Here a vector holds pixels of a row,
//! read from the planes of a packed image, and each output channel has its own vectors.

use super::finish::FinishMap;
use super::packed::{MOST_ROWS, PackedShape};
use super::pass::{Fused, Pass, Rows, parts};
use super::shape::{Constants, FusedShape};
use crate::gemm::PANEL;
use crate::shape::{ConvShape, padded};
use crate::simd::{Isa, Kernel, Simd};
use crate::team::Team;
use crate::workspace::{Workspace, WorkspaceNeed, aligned};
use std::ops::Range;

/// Most output channels: with more, products of padded vectors are as fast.
const MOST_OUTPUTS: usize = 8;

/// Floats of unfinished results that a thread works on.
const PIECE_FLOATS: usize = 64 << 10;

pub(super) struct FusedPlanes {
    isa: Isa,
    shape: FusedShape,
    packed: PackedShape,
    /// The weights of each tap of each input channel, of [`FusedPlanes::lanes`] output channels.
    weights: Vec<f32>,
    /// Padded channels of the output.
    outputs: usize,
    constants: Constants,
}

impl FusedPlanes {
    /// Whether this method can compute a convolution.
    pub(super) fn computes(conv: &ConvShape) -> bool {
        conv.groups == 1
            && conv.taps() > 1
            && conv.stride == [1, 1]
            && conv.in_channels < PANEL
            && conv.out_channels <= MOST_OUTPUTS
    }

    /// Output channels that are computed: a pair of them at a time is compiled.
    pub(super) fn lanes(conv: &ConvShape) -> usize {
        conv.out_channels.next_multiple_of(2)
    }

    pub(super) fn new(
        isa: Isa,
        shape: FusedShape,
        packed: PackedShape,
        weight: &[f32],
        constants: Constants,
    ) -> Self {
        let conv = shape.convolution;
        let (lanes, len) = (Self::lanes(&conv), conv.in_channels * conv.taps());
        let mut weights = vec![0.0; len * lanes];
        for (out, filter) in weight.chunks_exact(len).enumerate() {
            for (at, value) in filter.iter().enumerate() {
                weights[at * lanes + out] = *value;
            }
        }
        Self { isa, shape, packed, weights, outputs: padded(conv.out_channels), constants }
    }

    fn image_parts(&self, images: usize, threads: usize) -> usize {
        let (rows, _) = self.shape.output_map();
        let results = self.shape.convolution.stored_pixels() * self.outputs;
        parts(images, threads, results.div_ceil(PIECE_FLOATS), rows)
    }

    /// The sums of some rows of the convolution's map, `(rows, columns, channels)`.
    fn sums(&self, image: &[f32], rows: Range<usize>, results: &mut [f32]) {
        let conv = &self.shape.convolution;
        let (_, columns) = conv.stored_map();
        assert!(image.len() >= self.packed.len() && results.len() >= rows.len() * columns * self.outputs);
        assert_eq!(self.weights.len(), conv.in_channels * conv.taps() * Self::lanes(conv));
        match Self::lanes(conv) {
            2 => self.isa.run(Sums::<2> { planes: self, image, rows, results }),
            4 => self.isa.run(Sums::<4> { planes: self, image, rows, results }),
            6 => self.isa.run(Sums::<6> { planes: self, image, rows, results }),
            _ => self.isa.run(Sums::<8> { planes: self, image, rows, results }),
        }
    }
}

struct Sums<'a, const OUTPUTS: usize> {
    planes: &'a FusedPlanes,
    image: &'a [f32],
    rows: Range<usize>,
    results: &'a mut [f32],
}

impl<const OUTPUTS: usize> Kernel for Sums<'_, OUTPUTS> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // As many sums as leave registers for a row of pixels and a weight.
        match (S::WIDTH, OUTPUTS) {
            (16, 2 | 4 | 6) => self.blocks::<S, MOST_ROWS>(simd),
            (16, _) | (_, 2 | 4 | 6) => self.blocks::<S, 2>(simd),
            _ => self.blocks::<S, 1>(simd),
        }
    }
}

impl<const OUTPUTS: usize> Sums<'_, OUTPUTS> {
    #[inline(always)]
    fn blocks<S: Simd, const ROWS: usize>(self, simd: S) {
        let Self { planes, image, rows, results } = self;
        let (_, columns) = planes.shape.convolution.stored_map();
        for first in rows.clone().step_by(ROWS) {
            for column in (0..columns).step_by(S::WIDTH) {
                // SAFETY: `FusedPlanes::sums` checked image and weights. The packed image has rows and columns beyond the map for
                // what a block reads over its edges.
                let sums = unsafe { Self::block::<S, ROWS>(simd, planes, image.as_ptr(), first, column) };
                for (row, sums) in (first..rows.end).zip(&sums) {
                    let at = ((row - rows.start) * columns + column) * planes.outputs;
                    let pixels = results[at..].chunks_exact_mut(planes.outputs);
                    for (pixel, values) in pixels.zip(sums).take(S::WIDTH.min(columns - column)) {
                        pixel[..OUTPUTS].copy_from_slice(values);
                    }
                }
            }
        }
    }

    /// The sums of a vector of pixels in each of some rows, by row and pixel.
    ///
    /// # Safety
    /// `image` is a packed image of the planes' shape, and row and column are of the map.
    #[inline(always)]
    unsafe fn block<S: Simd, const ROWS: usize>(
        simd: S,
        planes: &FusedPlanes,
        image: *const f32,
        row: usize,
        column: usize,
    ) -> [[[f32; OUTPUTS]; PANEL]; ROWS] {
        let conv = &planes.shape.convolution;
        let (plane, stride) = (planes.packed.plane(), planes.packed.row_len());
        let mut sums = [[simd.zero(); ROWS]; OUTPUTS];
        let mut weights = planes.weights.as_ptr();
        for input in 0..conv.in_channels {
            for i in 0..conv.kernel[0] {
                for j in 0..conv.kernel[1] {
                    // SAFETY: the caller's; the weights are as many as these loops take.
                    unsafe {
                        let x = image.add(input * plane + (row + i) * stride + column + j);
                        let x: [S::V; ROWS] = std::array::from_fn(|row| simd.load(x.add(row * stride)));
                        for (output, sums) in sums.iter_mut().enumerate() {
                            let weight = simd.splat(*weights.add(output));
                            for (sum, x) in sums.iter_mut().zip(x) {
                                *sum = simd.mul_add(weight, x, *sum);
                            }
                        }
                        weights = weights.add(OUTPUTS);
                    }
                }
            }
        }
        let mut vectors = [[[0.0; PANEL]; ROWS]; OUTPUTS];
        for (vectors, sums) in vectors.iter_mut().zip(sums) {
            for (vector, sum) in vectors.iter_mut().zip(sums) {
                // SAFETY: a vector is no longer than a panel.
                unsafe { simd.store(vector.as_mut_ptr(), sum) };
            }
        }
        std::array::from_fn(|row| {
            std::array::from_fn(|pixel| std::array::from_fn(|output| vectors[output][row][pixel]))
        })
    }
}

impl Fused for FusedPlanes {
    fn need(&self, images: usize, _: usize) -> WorkspaceNeed {
        let (rows, _) = self.shape.output_map();
        let most = rows.div_ceil(self.image_parts(images.max(1), 1));
        let stored = (if self.shape.pool { 2 } else { 1 }) * most;
        let (_, columns) = self.shape.convolution.stored_map();
        WorkspaceNeed { shared: 0, worker: aligned(stored * columns * self.outputs) }
    }

    fn run(&self, team: &mut Team<'_>, pass: Pass<'_>, workspace: &mut Workspace) {
        let parts = self.image_parts(pass.images, team.threads());
        let (_, columns) = self.shape.convolution.stored_map();
        pass.for_each_rows(&self.shape, team, &mut workspace.workers, parts, |memory, task| {
            let Rows { image, rows, addend, target } = task;
            let stored = self.shape.stored_rows(&rows);
            let results = &mut memory[..stored.len() * columns * self.outputs];
            self.sums(image, stored, results);
            if let Some(addend) = addend {
                // There is an addend only if the map is the output.
                results.iter_mut().zip(addend).for_each(|(sum, x)| *sum += x);
            }
            FinishMap::run_rows(self.isa, &self.shape, &self.constants, results, rows, target);
        });
    }
}
