//! Convolutions of few input channels, as products that read the patches directly from the image.
//!
//! An image is packed once: without padding channels, but with the zeros that pad its map. The pixels of a row of the kernel are then
//! contiguous, a *run* of `columns of the kernel * channels` floats, and the same run of the next output begins `stride * channels` floats
//! later. A [`RunProduct`] takes one run after the other, as its rows in the forward pass and as its columns for the weights' gradient, so
//! that nothing is gathered. The gradient of the input is a product of its own, whose runs are then added into a packed image.

use crate::algorithm::{Algorithm, Backward, Output, Source, Weights};
use crate::gemm::{PANEL, Product, RunProduct};
use crate::memory::Shared;
use crate::parallel::for_each;
use crate::shape::{ConvShape, padded};
use crate::simd::{Isa, Kernel, Simd};
use crate::sums::{clear_columns, partial_len, sum_over_groups};
use crate::workspace::{Workspace, WorkspaceNeed, aligned, carve};
use std::ops::Range;

/// Images of a group: the weights' gradients are summed within groups first, then over the groups.
const GROUP: usize = 2;

/// Floats of the output's gradient that one product of the weights' gradient reads, if a row has no more: half of an L1 cache of 32 KiB, in
/// which they stay for all rows of the kernel. It is part of the summation order.
const GRADIENT_BLOCK: usize = 4 << 10;

/// Floats of runs that are computed before they are added to the input's gradient, if a row has no more.
const RUNS_BLOCK: usize = 16 << 10;

pub(crate) struct Direct {
    isa: Isa,
    shape: ConvShape,
    /// Padded channels of the output.
    outputs: usize,
    /// Floats of a run, and of a patch.
    run: usize,
    patch: usize,
}

impl Direct {
    pub(crate) fn new(isa: Isa, shape: ConvShape) -> Self {
        Self {
            isa,
            shape,
            outputs: padded(shape.out_channels),
            run: shape.kernel[1] * shape.in_channels,
            patch: shape.taps() * shape.in_channels,
        }
    }

    /// Floats of a row of a packed image.
    fn row_len(&self) -> usize {
        (self.shape.width + 2 * self.shape.stored_padding()[1]) * self.shape.in_channels
    }

    /// Floats of a packed image. Pixels are read and written by whole vectors, which reach beyond the last one.
    fn packed_len(&self) -> usize {
        (self.shape.height + 2 * self.shape.stored_padding()[0]) * self.row_len() + PANEL
    }

    /// Floats between the patches of neighbouring outputs of a row.
    fn step(&self) -> usize {
        self.shape.stride[1] * self.shape.in_channels
    }

    /// Where the patches of a row of outputs begin in a packed image.
    fn row_start(&self, row: usize) -> usize {
        row * self.shape.stride[0] * self.row_len()
    }

    /// Floats of the runs of an output, each padded.
    fn padded_patch(&self) -> usize {
        self.shape.kernel[0] * padded(self.run)
    }

    /// The rows of outputs in blocks of `floats` floats, if an output has `each`.
    fn blocks(&self, floats: usize, each: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (rows, columns) = self.shape.stored_map();
        let step = (floats / (columns * each)).clamp(1, rows);
        (0..rows).step_by(step).map(move |row| row..rows.min(row + step))
    }

    fn runs_len(&self) -> usize {
        let (_, columns) = self.shape.stored_map();
        let each = self.padded_patch();
        self.blocks(RUNS_BLOCK, each).next().map_or(0, |rows| rows.len() * columns * each)
    }

    /// Parts of a worker's memory: image, packed image, gradient of the output, runs, packed gradient of the input.
    fn parts(&self) -> [usize; 5] {
        [
            aligned(self.shape.input_len()),
            aligned(self.packed_len()),
            aligned(self.shape.output_len()),
            aligned(self.runs_len()),
            aligned(self.packed_len()),
        ]
    }

    fn pack(&self, image: &[f32], packed: &mut [f32]) {
        self.isa.run(Pack { plan: self, image, packed: &mut packed[..self.packed_len()] });
    }

    /// The weights as `[row of the kernel, place in a padded run][out]`, in panels of the former.
    fn transpose(&self, weights: &[f32], transposed: &mut [f32]) {
        transposed.fill(0.0);
        for (panel, weights) in weights.chunks_exact(self.patch * PANEL).enumerate() {
            for (at, row) in weights.chunks_exact(PANEL).enumerate() {
                let column = at / self.run * padded(self.run) + at % self.run;
                let first = (column / PANEL * self.outputs + panel * PANEL) * PANEL + column % PANEL;
                for (to, weight) in transposed[first..].iter_mut().step_by(PANEL).zip(row) {
                    *to = *weight;
                }
            }
        }
    }

    /// Adds the gradient of the weights of an image to `sums`, or writes it there.
    fn add_weight_gradient(&self, packed: &[f32], gradients: &[f32], sums: &mut [f32], accumulate: bool) {
        let (_, columns) = self.shape.stored_map();
        for rows in self.blocks(GRADIENT_BLOCK, PANEL) {
            let gradients = &gradients[rows.start * columns * self.outputs..];
            for i in 0..self.shape.kernel[0] {
                let product = RunProduct::<true> {
                    m: self.run,
                    n: self.outputs,
                    runs: rows.len(),
                    run: columns,
                    a: packed[self.row_start(rows.start) + i * self.row_len()..].as_ptr(),
                    a_run: self.row_start(1),
                    lda: self.step(),
                    b: gradients.as_ptr(),
                    ldb: self.outputs,
                    b_panel: PANEL,
                    c: sums[i * self.run * PANEL..].as_mut_ptr(),
                    ldc: PANEL,
                    c_panel: self.patch * PANEL,
                    accumulate: accumulate || rows.start > 0,
                };
                // SAFETY: rows of the packed image and of the gradient, and a run of the weights' rows.
                unsafe { product.run_on(self.isa) };
            }
        }
    }

    /// The packed gradient of an image, via `runs`.
    fn input_gradient(&self, transposed: &[f32], gradients: &[f32], runs: &mut [f32], packed: &mut [f32]) {
        let (_, columns) = self.shape.stored_map();
        let each = self.padded_patch();
        let packed = &mut packed[..self.packed_len()];
        packed.fill(0.0);
        for rows in self.blocks(RUNS_BLOCK, each) {
            let product = Product::<false> {
                m: rows.len() * columns,
                n: each,
                k: self.outputs,
                a: gradients[rows.start * columns * self.outputs..].as_ptr(),
                lda: self.outputs,
                b: transposed.as_ptr(),
                ldb: PANEL,
                b_panel: self.outputs * PANEL,
                c: runs.as_mut_ptr(),
                ldc: each,
                c_panel: PANEL,
                accumulate: false,
            };
            // SAFETY: rows of the gradient, and as many of runs.
            unsafe { product.run_on(self.isa) };
            self.isa.run(AddRuns { plan: self, runs, rows, packed });
        }
    }
}

impl Algorithm for Direct {
    fn weight_len(&self) -> usize {
        self.patch * self.outputs
    }

    /// `[out / 16][tap, in][16]`
    fn weight_index(&self, out: usize, input: usize, tap: usize) -> usize {
        (out / PANEL * self.patch + tap * self.shape.in_channels + input) * PANEL + out % PANEL
    }

    fn panel_rows(&self) -> usize {
        self.patch
    }

    fn need(&self, batch: usize) -> WorkspaceNeed {
        WorkspaceNeed {
            shared: self.padded_patch() * self.outputs + partial_len(batch, GROUP, self.weight_len()),
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
        let (_, columns) = self.shape.stored_map();
        let values = Shared::new(output.values);
        for_each(images, &mut workspace.workers, |memory, image| {
            let [input, packed, ..] = carve(memory, self.parts());
            source(image, &mut input[..input_len]);
            self.pack(&input[..input_len], packed);
            // SAFETY: every image belongs to one task.
            let target = unsafe { values.part(image * output_len..(image + 1) * output_len) };
            for (row, target) in target.chunks_exact_mut(columns * self.outputs).enumerate() {
                let product = RunProduct::<false> {
                    m: columns,
                    n: self.outputs,
                    runs: self.shape.kernel[0],
                    run: self.run,
                    a: packed[self.row_start(row)..].as_ptr(),
                    a_run: self.row_len(),
                    lda: self.step(),
                    b: weights.as_ptr(),
                    ldb: PANEL,
                    b_panel: self.patch * PANEL,
                    c: target.as_mut_ptr(),
                    ldc: self.outputs,
                    c_panel: PANEL,
                    accumulate: false,
                };
                // SAFETY: the rows of the packed image under a row of outputs.
                unsafe { product.run_on(self.isa) };
            }
            (output.finished)(image, target);
        });
    }

    fn backward(&self, weights: &[f32], gradient: Backward<'_>, workspace: &mut Workspace) {
        let Backward { images, input, output_gradient, input_gradient, weight_gradient } = gradient;
        let lengths = [self.padded_patch() * self.outputs, partial_len(images, GROUP, self.weight_len())];
        let [transposed, partial] = carve(&mut workspace.shared, lengths);
        if input_gradient.is_some() {
            self.transpose(weights, transposed);
        }
        let transposed = &*transposed;
        let workers = &mut workspace.workers;
        let (input_len, output_len) = (self.shape.input_len(), self.shape.output_len());
        let add = input_gradient.as_ref().is_some_and(|gradient| gradient.add);
        let input_gradient = input_gradient.map(|gradient| (Shared::new(gradient.values), gradient.finished));
        sum_over_groups(images, GROUP, partial, weight_gradient, |groups, partial| {
            let partial = Shared::new(partial);
            for_each(groups.len(), workers, |memory, slot| {
                let first = (groups.start + slot) * GROUP;
                let [image, packed, gradients, runs, packed_gradient] = carve(memory, self.parts());
                let (image, gradients) = (&mut image[..input_len], &mut gradients[..output_len]);
                // SAFETY: every group has its own sums.
                let sums = unsafe { partial.part(slot * self.weight_len()..(slot + 1) * self.weight_len()) };
                for i in first..images.min(first + GROUP) {
                    input(i, image);
                    self.pack(image, packed);
                    output_gradient(i, gradients);
                    self.add_weight_gradient(packed, gradients, sums, i > first);
                    if let Some((values, finished)) = &input_gradient {
                        // SAFETY: every image belongs to one task.
                        let target = unsafe { values.part(i * input_len..(i + 1) * input_len) };
                        self.input_gradient(transposed, gradients, runs, packed_gradient);
                        self.isa.run(Unpack { plan: self, packed: packed_gradient, image: target, add });
                        finished(i, target);
                    }
                }
            });
        });
        let last_panel = self.weight_len() - self.patch * PANEL;
        clear_columns(self.shape.out_channels, &mut weight_gradient[last_panel..]);
    }
}

/// One for the first `len` of a panel's floats, zero for the others.
fn mask(len: usize) -> [f32; PANEL] {
    std::array::from_fn(|at| f32::from(u8::from(at < len)))
}

/// Copies the pixels of an image contiguously, between the zeros of the padding.
struct Pack<'a> {
    plan: &'a Direct,
    image: &'a [f32],
    packed: &'a mut [f32],
}

impl Kernel for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let ConvShape { height, width, in_channels, .. } = self.plan.shape;
        let [above, left] = self.plan.shape.stored_padding();
        let row_len = self.plan.row_len();
        assert!(self.image.len() == height * width * PANEL && self.packed.len() == self.plan.packed_len());
        self.packed[..above * row_len].fill(0.0);
        for row in 0..height {
            let start = (above + row) * row_len;
            let first = start + left * in_channels;
            let end = first + width * in_channels;
            self.packed[start..first].fill(0.0);
            // A pixel's last vector reaches into the next ones, which are written after it.
            for column in 0..width {
                for lane in (0..PANEL).step_by(S::WIDTH) {
                    // SAFETY: a pixel of the image; the packed image ends with a panel to spare.
                    unsafe {
                        let x = simd.load(self.image.as_ptr().add((row * width + column) * PANEL + lane));
                        simd.store(self.packed.as_mut_ptr().add(first + column * in_channels + lane), x);
                    }
                }
            }
            self.packed[end..start + row_len].fill(0.0);
        }
        self.packed[(above + height) * row_len..].fill(0.0);
    }
}

/// The adjoint of [`Pack`], added to the image or replacing it.
struct Unpack<'a> {
    plan: &'a Direct,
    packed: &'a [f32],
    image: &'a mut [f32],
    add: bool,
}

impl Kernel for Unpack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let ConvShape { height, width, in_channels, .. } = self.plan.shape;
        let [above, left] = self.plan.shape.stored_padding();
        let row_len = self.plan.row_len();
        assert!(self.image.len() == height * width * PANEL && self.packed.len() >= self.plan.packed_len());
        let mask = mask(in_channels);
        for row in 0..height {
            let first = (above + row) * row_len + left * in_channels;
            for column in 0..width {
                for lane in (0..PANEL).step_by(S::WIDTH) {
                    // SAFETY: as in `Pack`.
                    unsafe {
                        let x = simd.load(self.packed.as_ptr().add(first + column * in_channels + lane));
                        let x =
                            simd.if_greater(simd.load(mask.as_ptr().add(lane)), simd.zero(), x, simd.zero());
                        let to = self.image.as_mut_ptr().add((row * width + column) * PANEL + lane);
                        simd.store(to, if self.add { simd.add(simd.load(to), x) } else { x });
                    }
                }
            }
        }
    }
}

/// Adds the runs of some rows of outputs to the packed image that they would be read from.
struct AddRuns<'a> {
    plan: &'a Direct,
    runs: &'a [f32],
    rows: Range<usize>,
    packed: &'a mut [f32],
}

impl Kernel for AddRuns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { plan, runs, rows, packed } = self;
        let (_, columns) = plan.shape.stored_map();
        let (row_len, step, padded_run) = (plan.row_len(), plan.step(), padded(plan.run));
        assert!(
            runs.len() >= rows.len() * columns * plan.padded_patch() && packed.len() == plan.packed_len()
        );
        // The floats beyond a run are products with zero, or NaN, and belong to other pixels.
        let last = padded_run - PANEL;
        let mask = mask(plan.run - last);
        let mut from = runs.as_ptr();
        for row in rows {
            for column in 0..columns {
                for i in 0..plan.shape.kernel[0] {
                    let to = plan.row_start(row) + i * row_len + column * step;
                    for lane in (0..padded_run).step_by(S::WIDTH) {
                        // SAFETY: a run of an output; the packed image ends with a panel to spare.
                        unsafe {
                            let mut x = simd.load(from.add(lane));
                            if lane >= last {
                                let used = simd.load(mask.as_ptr().add(lane - last));
                                x = simd.if_greater(used, simd.zero(), x, simd.zero());
                            }
                            let to = packed.as_mut_ptr().add(to + lane);
                            simd.store(to, simd.add(simd.load(to), x));
                        }
                    }
                    // SAFETY: at most the end of the runs.
                    from = unsafe { from.add(padded_run) };
                }
            }
        }
    }
}
