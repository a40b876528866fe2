//! Depthwise convolutions, where every channel is convolved alone: vectors of channels, a pixel at a time.
//!
//! They read and write more than they compute, so each image is processed while it is in cache. A *pass* computes one map from another: the
//! output from the input, or the input's gradient from the output's. Along each axis, every position of the target sums a run of neighbours
//! in the source, each times one tap; in the gradient of a strided convolution, every other tap or fewer. At the edge of the map the run is
//! shorter: nothing is ever multiplied with the padding.

use crate::algorithm::{Algorithm, Backward, Output, Source, Weights};
use crate::elementwise::add_assign;
use crate::gemm::{Finish, Keep, PANEL};
use crate::memory::Shared;
use crate::parallel::for_each;
use crate::shape::{ConvShape, padded};
use crate::simd::{Isa, Kernel, Simd};
use crate::sums::{GROUP, partial_len, sum_over_groups};
use crate::workspace::{Workspace, WorkspaceNeed, aligned, carve};
use std::ops::Range;

/// Channels of a map that are computed before the next ones.
const CHANNEL_BLOCK: usize = 4 * PANEL;

pub(crate) struct Depthwise {
    isa: Isa,
    shape: ConvShape,
    channels: usize,
    output: Pass,
    input_gradient: Pass,
}

impl Depthwise {
    pub(crate) fn new(isa: Isa, shape: ConvShape) -> Self {
        let channels = padded(shape.in_channels);
        let (rows, columns) = shape.stored_map();
        let padding = shape.stored_padding();
        let axis = |axis: usize, size, outputs| Axis {
            kernel: shape.kernel[axis],
            stride: shape.stride[axis],
            padding: padding[axis],
            size,
            outputs,
        };
        let (down, across) = (axis(0, shape.height, rows), axis(1, shape.width, columns));
        let output = Pass {
            channels,
            kernel: shape.kernel,
            columns,
            source: [shape.height, shape.width],
            step: 1,
            source_step: shape.stride[1],
            tap_step: [1, 1],
            rows: forward(down),
            runs: runs(&forward(across), 1),
        };
        let input_gradient = Pass {
            channels,
            kernel: shape.kernel,
            columns: shape.width,
            source: [rows, columns],
            step: shape.stride[1],
            source_step: 1,
            tap_step: [-(shape.stride[0] as isize), -(shape.stride[1] as isize)],
            rows: adjoint(down),
            runs: runs(&adjoint(across), shape.stride[1]),
        };
        Self { isa, shape, channels, output, input_gradient }
    }

    /// The pass that computes the output.
    pub(crate) fn output(&self) -> &Pass {
        &self.output
    }

    /// Parts of a worker's memory: image, gradient of the output.
    fn parts(&self) -> [usize; 2] {
        [aligned(self.shape.input_len()), aligned(self.shape.output_len())]
    }
}

/// What one position of the target sums along an axis: the sources `source..source + taps`, times the taps `tap`, `tap + tap_step`, ...
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reach {
    source: usize,
    tap: usize,
    taps: usize,
}

impl Reach {
    /// From pairs of a source and a tap, with consecutive sources in order.
    fn of(mut pairs: impl Iterator<Item = (usize, usize)>) -> Self {
        match pairs.next() {
            Some((source, tap)) => Self { source, tap, taps: 1 + pairs.count() },
            None => Self { source: 0, tap: 0, taps: 0 },
        }
    }
}

/// A convolution along one axis, of an input of `size`.
#[derive(Debug, Clone, Copy)]
struct Axis {
    kernel: usize,
    stride: usize,
    padding: usize,
    size: usize,
    outputs: usize,
}

/// For each output, the inputs that it sums.
fn forward(Axis { kernel, stride, padding, size, outputs }: Axis) -> Vec<Reach> {
    let input =
        |output: usize, tap: usize| (output * stride + tap).checked_sub(padding).filter(|at| *at < size);
    (0..outputs)
        .map(|output| Reach::of((0..kernel).filter_map(|tap| Some((input(output, tap)?, tap)))))
        .collect()
}

/// For each input, the outputs that it contributes to, in ascending order; so the taps descend.
fn adjoint(Axis { kernel, stride, padding, size, outputs }: Axis) -> Vec<Reach> {
    let output = |input: usize, tap: usize| {
        let at = (input + padding).checked_sub(tap)?;
        (at % stride == 0 && at / stride < outputs).then_some(at / stride)
    };
    (0..size)
        .map(|input| Reach::of((0..kernel).rev().filter_map(|tap| Some((output(input, tap)?, tap)))))
        .collect()
}

/// `count` columns of the target with the same taps, and the first one's reach. Targets and sources are the pass's steps apart.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: usize,
    count: usize,
    reach: Reach,
}

/// Joins columns into runs, so that a row except for its ends is one run for each phase of the step.
fn runs(columns: &[Reach], step: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for phase in 0..step.min(columns.len()) {
        let mut last: Option<Run> = None;
        for first in (phase..columns.len()).step_by(step) {
            let reach = columns[first];
            if let Some(run) = &mut last {
                // The same taps of the next column are those of the next sources.
                if (reach.tap, reach.taps) == (run.reach.tap, run.reach.taps) {
                    run.count += 1;
                    continue;
                }
            }
            runs.extend(last.replace(Run { first, count: 1, reach }));
        }
        runs.extend(last);
    }
    runs
}

/// How one map is computed from another.
pub(crate) struct Pass {
    channels: usize,
    kernel: [usize; 2],
    /// Columns of the target, and rows and columns of the source.
    columns: usize,
    source: [usize; 2],
    /// Columns between neighbours of a run, in the target and in the source.
    step: usize,
    source_step: usize,
    /// From one tap of a reach to the next.
    tap_step: [isize; 2],
    rows: Vec<Reach>,
    runs: Vec<Run>,
}

impl Pass {
    fn target_len(&self) -> usize {
        self.rows.len() * self.columns * self.channels
    }

    fn source_len(&self) -> usize {
        self.source[0] * self.source[1] * self.channels
    }

    fn weight_len(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.channels
    }
}

impl Algorithm for Depthwise {
    fn weight_len(&self) -> usize {
        self.channels * self.shape.taps()
    }

    /// `[out / 16][tap][16]`
    fn weight_index(&self, out: usize, _: usize, tap: usize) -> usize {
        (out / PANEL * self.shape.taps() + tap) * PANEL + out % PANEL
    }

    fn panel_rows(&self) -> usize {
        self.shape.taps()
    }

    fn need(&self, batch: usize) -> WorkspaceNeed {
        WorkspaceNeed {
            shared: partial_len(batch, GROUP, self.weight_len()),
            worker: self.parts().iter().sum(),
        }
    }

    fn forward(
        &self,
        weights: Weights<'_>,
        images: usize,
        source: Source<'_>,
        output: Output<'_>,
        workspace: &mut Workspace,
    ) {
        let weights = weights.values();
        let (input_len, output_len) = (self.shape.input_len(), self.shape.output_len());
        let values = Shared::new(output.values);
        for_each(images, &mut workspace.workers, |memory, image| {
            let [input, _] = carve(memory, self.parts());
            let input = &mut input[..input_len];
            source(image, input);
            // SAFETY: every image belongs to one task.
            let target = unsafe { values.part(image * output_len..(image + 1) * output_len) };
            self.isa.run(MapKernel::new(&self.output, weights, input, target));
            (output.finished)(image, target);
        });
    }

    fn backward(&self, weights: &[f32], gradient: Backward<'_>, workspace: &mut Workspace) {
        let Backward { images, input, output_gradient, input_gradient, weight_gradient } = gradient;
        let [partial] = carve(&mut workspace.shared, [partial_len(images, GROUP, self.weight_len())]);
        let workers = &mut workspace.workers;
        let (input_len, output_len) = (self.shape.input_len(), self.shape.output_len());
        let add = input_gradient.as_ref().is_some_and(|gradient| gradient.add);
        let input_gradient = input_gradient.map(|gradient| (Shared::new(gradient.values), gradient.finished));
        sum_over_groups(images, GROUP, partial, weight_gradient, |groups, partial| {
            let partial = Shared::new(partial);
            for_each(groups.len(), workers, |memory, slot| {
                let group = groups.start + slot;
                let [image, gradient] = carve(memory, self.parts());
                let (image, gradient) = (&mut image[..input_len], &mut gradient[..output_len]);
                // SAFETY: every group has its own sums.
                let sums = unsafe { partial.part(slot * self.weight_len()..(slot + 1) * self.weight_len()) };
                sums.fill(0.0);
                for i in group * GROUP..images.min((group + 1) * GROUP) {
                    output_gradient(i, gradient);
                    input(i, image);
                    self.isa.run(WeightKernel::new(&self.output, image, gradient, sums));
                    if let Some((values, finished)) = &input_gradient {
                        // SAFETY: every image belongs to one task.
                        let target = unsafe { values.part(i * input_len..(i + 1) * input_len) };
                        if add {
                            self.isa.run(MapKernel::new(&self.input_gradient, weights, gradient, image));
                            add_assign(self.isa, target, image);
                        } else {
                            self.isa.run(MapKernel::new(&self.input_gradient, weights, gradient, target));
                        }
                        finished(i, target);
                    }
                }
            });
        });
    }
}

/// Computes a map.
pub(crate) struct MapKernel<'a, F = Keep> {
    pass: &'a Pass,
    weights: &'a [f32],
    source: &'a [f32],
    /// Rows of the target; it has no others.
    rows: Range<usize>,
    target: &'a mut [f32],
    finish: F,
}

impl<'a> MapKernel<'a> {
    fn new(pass: &'a Pass, weights: &'a [f32], source: &'a [f32], target: &'a mut [f32]) -> Self {
        MapKernel::of_rows(pass, weights, source, 0..pass.rows.len(), target, Keep)
    }
}

impl<'a, F: Finish> MapKernel<'a, F> {
    pub(crate) fn of_rows(
        pass: &'a Pass,
        weights: &'a [f32],
        source: &'a [f32],
        rows: Range<usize>,
        target: &'a mut [f32],
        finish: F,
    ) -> Self {
        assert_eq!((weights.len(), source.len()), (pass.weight_len(), pass.source_len()));
        assert!(rows.end <= pass.rows.len() && target.len() == rows.len() * pass.columns * pass.channels);
        Self { pass, weights, source, rows, target, finish }
    }
}

impl<F: Finish> Kernel for MapKernel<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Pass { channels, kernel, columns, source, step, source_step, tap_step, ref rows, ref runs } =
            *self.pass;
        // With this many channels, the rows that a row of outputs reads stay in the L1 cache until the next row of outputs reads them
        // again.
        let blocks = (0..channels).step_by(CHANNEL_BLOCK);
        let rows = &rows[self.rows.clone()];
        for (block, (row, down)) in
            blocks.flat_map(|block| rows.iter().enumerate().map(move |row| (block, row)))
        {
            for channel in (block..channels.min(block + CHANNEL_BLOCK)).step_by(S::WIDTH) {
                let panel = channel / PANEL * kernel[0] * kernel[1] * PANEL + channel % PANEL;
                for run in runs {
                    let across = run.reach;
                    let from = (down.source * source[1] + across.source) * channels + channel;
                    let tap = down.tap * kernel[1] + across.tap;
                    let to = (row * columns + run.first) * channels + channel;
                    // SAFETY: a place of the target.
                    let finish = unsafe { self.finish.at(to, channel) };
                    let line = Line {
                        rows: down.taps,
                        source: self.source[from..].as_ptr(),
                        source_row: source[1] * channels,
                        source_step: source_step * channels,
                        channels,
                        weights: self.weights[panel + tap * PANEL..].as_ptr(),
                        weight_row: tap_step[0] * (kernel[1] * PANEL) as isize,
                        weight_step: tap_step[1] * PANEL as isize,
                        target: self.target[to..].as_mut_ptr(),
                        step: step * channels,
                        finish,
                    };
                    // SAFETY: a reach lies inside the source and the kernel, a run inside the target, as their makers have it; the
                    // lengths were compared in `new`; `channels` is a multiple of every width.
                    unsafe {
                        match across.taps {
                            1 => line.run::<S, 1>(1, run.count, simd),
                            2 => line.run::<S, 2>(2, run.count, simd),
                            3 => line.run::<S, 3>(3, run.count, simd),
                            taps => line.run::<S, 0>(taps, run.count, simd),
                        }
                    }
                }
            }
        }
    }
}

/// A run of a row for one vector of channels.
#[derive(Clone, Copy)]
struct Line<F> {
    rows: usize,
    source: *const f32,
    /// Floats from row to row, and from one place of the run to the next.
    source_row: usize,
    source_step: usize,
    channels: usize,
    weights: *const f32,
    weight_row: isize,
    weight_step: isize,
    target: *mut f32,
    step: usize,
    /// The finish of what begins at `target`.
    finish: F,
}

impl<F: Finish> Line<F> {
    /// Computes `count` positions with `taps` taps across, a compile-time constant if `TAPS` is not 0.
    ///
    /// # Safety
    /// The pointers reach as far as sizes and steps say.
    #[inline(always)]
    unsafe fn run<S: Simd, const TAPS: usize>(mut self, taps: usize, mut count: usize, simd: S) {
        // SAFETY: blocks that together are `count` places.
        unsafe {
            while count >= 8 {
                self.block::<S, TAPS, 8>(taps, simd);
                self.source = self.source.add(8 * self.source_step);
                self.target = self.target.add(8 * self.step);
                self.finish = self.finish.at(8 * self.step, 0);
                count -= 8;
            }
            if count >= 4 {
                self.block::<S, TAPS, 4>(taps, simd);
                self.source = self.source.add(4 * self.source_step);
                self.target = self.target.add(4 * self.step);
                self.finish = self.finish.at(4 * self.step, 0);
                count -= 4;
            }
            if count >= 2 {
                self.block::<S, TAPS, 2>(taps, simd);
                self.source = self.source.add(2 * self.source_step);
                self.target = self.target.add(2 * self.step);
                self.finish = self.finish.at(2 * self.step, 0);
                count -= 2;
            }
            if count == 1 {
                self.block::<S, TAPS, 1>(taps, simd);
            }
        }
    }

    /// `PLACES` sums in registers; a tap is loaded once for all of them.
    #[inline(always)]
    unsafe fn block<S: Simd, const TAPS: usize, const PLACES: usize>(self, taps: usize, simd: S) {
        let mut sums = [simd.zero(); PLACES];
        // SAFETY: the caller's.
        unsafe {
            for i in 0..self.rows {
                let source = self.source.add(i * self.source_row);
                let weights = self.weights.offset(i as isize * self.weight_row);
                for j in 0..if TAPS == 0 { taps } else { TAPS } {
                    let weight = simd.load(weights.offset(j as isize * self.weight_step));
                    for (place, sum) in sums.iter_mut().enumerate() {
                        let x = simd.load(source.add(place * self.source_step + j * self.channels));
                        *sum = simd.mul_add(x, weight, *sum);
                    }
                }
            }
            for (place, sum) in sums.into_iter().enumerate() {
                let at = place * self.step;
                simd.store(self.target.add(at), self.finish.value(simd, at, 0, sum));
            }
        }
    }
}

/// Adds one image's part to the gradient of the weights. The products of each run of a row are summed before they are added to
/// the rest, which rounds better than one long sum.
struct WeightKernel<'a> {
    /// From the input to the output.
    pass: &'a Pass,
    input: &'a [f32],
    gradient: &'a [f32],
    sums: &'a mut [f32],
}

impl<'a> WeightKernel<'a> {
    fn new(pass: &'a Pass, input: &'a [f32], gradient: &'a [f32], sums: &'a mut [f32]) -> Self {
        assert_eq!(
            (sums.len(), input.len(), gradient.len()),
            (pass.weight_len(), pass.source_len(), pass.target_len())
        );
        Self { pass, input, gradient, sums }
    }
}

impl Kernel for WeightKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Pass { channels, kernel, columns, source, source_step, ref rows, ref runs, .. } = *self.pass;
        for (row, down) in rows.iter().enumerate() {
            for channel in (0..channels).step_by(S::WIDTH) {
                let panel = channel / PANEL * kernel[0] * kernel[1] * PANEL + channel % PANEL;
                for run in runs {
                    let across = run.reach;
                    let at = (row * columns + run.first) * channels + channel;
                    // Three taps by three at a time: as many sums as the registers of AVX2 hold.
                    for i in (0..down.taps).step_by(3) {
                        for j in (0..across.taps).step_by(3) {
                            let from =
                                ((down.source + i) * source[1] + across.source + j) * channels + channel;
                            let tap = (down.tap + i) * kernel[1] + across.tap + j;
                            let taps = Taps {
                                count: run.count,
                                input: self.input[from..].as_ptr(),
                                input_row: source[1] * channels,
                                input_step: source_step * channels,
                                channels,
                                gradient: self.gradient[at..].as_ptr(),
                                sums: self.sums[panel + tap * PANEL..].as_mut_ptr(),
                                sums_row: kernel[1] * PANEL,
                            };
                            // SAFETY: as in `MapKernel`.
                            unsafe {
                                match (down.taps - i, across.taps - j) {
                                    (1, 1) => taps.run::<S, 1, 1>(simd),
                                    (1, 2) => taps.run::<S, 1, 2>(simd),
                                    (1, _) => taps.run::<S, 1, 3>(simd),
                                    (2, 1) => taps.run::<S, 2, 1>(simd),
                                    (2, 2) => taps.run::<S, 2, 2>(simd),
                                    (2, _) => taps.run::<S, 2, 3>(simd),
                                    (_, 1) => taps.run::<S, 3, 1>(simd),
                                    (_, 2) => taps.run::<S, 3, 2>(simd),
                                    (_, _) => taps.run::<S, 3, 3>(simd),
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Some taps of the weights' gradient, over a run of a row for one vector of channels.
#[derive(Clone, Copy)]
struct Taps {
    count: usize,
    input: *const f32,
    input_row: usize,
    input_step: usize,
    channels: usize,
    gradient: *const f32,
    sums: *mut f32,
    sums_row: usize,
}

impl Taps {
    /// # Safety
    /// The pointers reach as far as sizes and steps say.
    #[inline(always)]
    unsafe fn run<S: Simd, const ROWS: usize, const COLUMNS: usize>(self, simd: S) {
        let mut sums = [[simd.zero(); COLUMNS]; ROWS];
        // SAFETY: the caller's.
        unsafe {
            for place in 0..self.count {
                let gradient = simd.load(self.gradient.add(place * self.channels));
                let input = self.input.add(place * self.input_step);
                for (i, sums) in sums.iter_mut().enumerate() {
                    for (j, sum) in sums.iter_mut().enumerate() {
                        let x = simd.load(input.add(i * self.input_row + j * self.channels));
                        *sum = simd.mul_add(x, gradient, *sum);
                    }
                }
            }
            for (i, sums) in sums.into_iter().enumerate() {
                for (j, sum) in sums.into_iter().enumerate() {
                    let at = self.sums.add(i * self.sums_row + j * PANEL);
                    simd.store(at, simd.add(simd.load(at), sum));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pair of an input and an output connected by a tap appears once in each direction.
    #[test]
    fn both_directions_have_the_same_pairs() {
        for (kernel, stride, padding, size) in
            [(3, 1, 1, 8), (3, 2, 1, 9), (3, 2, 1, 8), (5, 3, 7, 4), (2, 3, 0, 9)]
        {
            let outputs = (size + 2 * padding - kernel) / stride + 1;
            let axis = Axis { kernel, stride, padding, size, outputs };
            let mut expected = Vec::new();
            for (output, tap) in (0..outputs).flat_map(|o| (0..kernel).map(move |tap| (o, tap))) {
                if (padding..size + padding).contains(&(output * stride + tap)) {
                    expected.push((output * stride + tap - padding, output, tap));
                }
            }
            let pairs = |columns: &[Reach], step, source_step, tap_step: isize| {
                let mut pairs = Vec::new();
                for run in runs(columns, step) {
                    for (place, t) in (0..run.count).flat_map(|p| (0..run.reach.taps).map(move |t| (p, t))) {
                        let tap = run.reach.tap as isize + t as isize * tap_step;
                        let source = run.reach.source + place * source_step + t;
                        pairs.push((source, run.first + place * step, tap as usize));
                    }
                }
                pairs
            };
            let mut there = pairs(&forward(axis), 1, stride, 1);
            let mut back = pairs(&adjoint(axis), stride, 1, -(stride as isize));
            for pair in &mut back {
                (pair.0, pair.1) = (pair.1, pair.0);
            }
            expected.sort_unstable();
            there.sort_unstable();
            back.sort_unstable();
            assert_eq!(there, expected, "{axis:?}");
            assert_eq!(back, expected, "{axis:?}");
        }
    }
}
