//! Convolutions of any kind by gathering patches of whole pixels: `[pixel][tap][channel]`, a copy of runs of channels.
//!
//! Groups are computed one after the other, each from its own channels. Merging them into one weight with zeros between the groups would
//! take more products, and a NaN in one group would reach the others through those zeros. A group's outputs are padded to a panel of their
//! own; if they are not whole panels, they go through scratch memory on their way to and from the map.
//!
//! A piece of work, whose patches stay in the L2 cache, is a few images or some rows of one. The choice depends only on the shape, as it is
//! part of the summation order.

use crate::algorithm::{Algorithm, Backward, Output, Source, Weights};
use crate::gemm::{PANEL, Product, TransposedProduct, transpose_panels};
use crate::memory::Shared;
use crate::parallel::for_each;
use crate::shape::{ConvShape, padded};
use crate::simd::{Isa, Kernel, Simd};
use crate::sums::{GROUP, clear_columns, partial_len, sum_over_groups};
use crate::workspace::{Workspace, WorkspaceNeed, aligned, carve};
use std::borrow::Cow;
use std::ops::Range;

/// Floats of the patches of a piece: half of an L2 cache of one megabyte.
const PIECE_FLOATS: usize = 128 << 10;

/// The least pixels of a piece, if whole images are that small: smaller pieces read large weights too often.
const PIECE_PIXELS: usize = 96;

/// Rows of the weights' gradient that one product computes: that many columns of the patches stay in the L2 cache while it runs.
const ROWS: usize = 384;

pub(crate) struct Patches {
    isa: Isa,
    shape: ConvShape,
    /// Padded channels of the maps.
    inputs: usize,
    outputs: usize,
    /// Channels of a group's outputs, padded.
    columns: usize,
    /// Values of a patch, `(tap, in)`, and their padded number.
    patch: usize,
    patch_rows: usize,
    /// Floats between patches: an odd number of cache lines, so that a column of patches is in every cache set.
    patch_stride: usize,
    /// Images of a piece; if it is a single one, `rows` rows of its output.
    images: usize,
    rows: usize,
}

impl Patches {
    pub(crate) fn new(isa: Isa, shape: ConvShape) -> Self {
        let patch = shape.taps() * shape.group_inputs();
        let patch_rows = padded(patch);
        let patch_stride = ((patch_rows / PANEL) | 1) * PANEL;
        let (rows, columns) = shape.stored_map();
        let image = rows * columns * patch_stride;
        let least = PIECE_PIXELS.div_ceil(rows * columns);
        Self {
            isa,
            shape,
            inputs: padded(shape.in_channels),
            outputs: padded(shape.out_channels),
            columns: padded(shape.group_outputs()),
            patch,
            patch_rows,
            patch_stride,
            images: (PIECE_FLOATS / image).max(least).clamp(1, GROUP),
            rows: (PIECE_FLOATS / (columns * patch_stride))
                .max(PIECE_PIXELS.div_ceil(columns))
                .clamp(1, rows),
        }
    }

    /// Floats between patches.
    pub(crate) fn stride(&self) -> usize {
        self.patch_stride
    }

    /// Floats of the weights of a group.
    fn group_len(&self) -> usize {
        self.columns * self.patch_rows
    }

    /// Whether a group's outputs can be read and written where they are in the map.
    fn in_place(&self) -> bool {
        self.shape.groups == 1 || self.shape.group_outputs() == self.columns
    }

    /// The rows of each piece of `images` images.
    fn pieces(&self, images: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (rows, _) = self.shape.stored_map();
        let step = if images == 1 { self.rows } else { rows };
        (0..rows).step_by(step).map(move |row| row..rows.min(row + step))
    }

    /// Most pixels of a piece.
    fn piece_pixels(&self) -> usize {
        let (rows, columns) = self.shape.stored_map();
        columns * (self.images * rows).max(self.rows)
    }

    /// Parts of a worker's memory: images, their gradients, patches, outputs of a group.
    fn parts(&self) -> [usize; 4] {
        [
            aligned(self.images * self.shape.input_len()),
            aligned(self.images * self.shape.output_len()),
            aligned(self.piece_pixels() * self.patch_stride),
            if self.in_place() { 0 } else { aligned(self.piece_pixels() * self.columns) },
        ]
    }

    /// Calls `visit(place in the image, place in the patch, length)` for each run of channels that the patch of an output and its group
    /// takes from an image, and with no place in the image for what lies outside it.
    #[inline(always)]
    fn runs(
        &self,
        group: usize,
        row: usize,
        column: usize,
        mut visit: impl FnMut(Option<usize>, usize, usize),
    ) {
        let ConvShape { height, width, kernel, stride, .. } = self.shape;
        let padding = self.shape.stored_padding();
        let channels = self.shape.group_inputs();
        // Columns of the kernel that are inside the image.
        let x = column * stride[1];
        let first = padding[1].saturating_sub(x).min(kernel[1]);
        let end = (width + padding[1]).saturating_sub(x).clamp(first, kernel[1]);
        for i in 0..kernel[0] {
            let y = row * stride[0] + i;
            let at = i * kernel[1] * channels;
            if first == end || !(padding[0]..height + padding[0]).contains(&y) {
                visit(None, at, kernel[1] * channels);
                continue;
            }
            visit(None, at, first * channels);
            let pixel = (y - padding[0]) * width + x + first - padding[1];
            let from = pixel * self.inputs + group * channels;
            if channels == self.inputs {
                visit(Some(from), at + first * channels, (end - first) * channels);
            } else {
                for j in first..end {
                    visit(Some(from + (j - first) * self.inputs), at + j * channels, channels);
                }
            }
            visit(None, at + end * channels, (kernel[1] - end) * channels);
        }
    }

    /// Gathers the patches of a group for these rows of the outputs of `images`.
    pub(crate) fn gather(&self, images: &[f32], group: usize, rows: &Range<usize>, patches: &mut [f32]) {
        let (_, columns) = self.shape.stored_map();
        let mut patches = patches.chunks_exact_mut(self.patch_stride);
        for image in images.chunks_exact(self.shape.input_len()) {
            for row in rows.clone() {
                for (column, patch) in patches.by_ref().take(columns).enumerate() {
                    self.runs(group, row, column, |from, to, len| {
                        let target = &mut patch[to..to + len];
                        match from {
                            Some(from) => target.copy_from_slice(&image[from..from + len]),
                            None => target.fill(0.0),
                        }
                    });
                }
            }
        }
    }

    /// Copies the outputs of a group out of the pixels of a map into rows of their own, padded by zeros.
    fn take_group(&self, map: &[f32], group: usize, rows: &mut [f32]) {
        let outputs = self.shape.group_outputs();
        for (row, pixel) in rows.chunks_exact_mut(self.columns).zip(map.chunks_exact(self.outputs)) {
            row[..outputs].copy_from_slice(&pixel[group * outputs..(group + 1) * outputs]);
            row[outputs..].fill(0.0);
        }
    }

    /// The inverse of [`Patches::take_group`].
    fn put_group(&self, rows: &[f32], group: usize, map: &mut [f32]) {
        let outputs = self.shape.group_outputs();
        for (row, pixel) in rows.chunks_exact(self.columns).zip(map.chunks_exact_mut(self.outputs)) {
            pixel[group * outputs..(group + 1) * outputs].copy_from_slice(&row[..outputs]);
        }
    }

    /// Zeroes the rows of a gradient that are beyond a patch: no product writes them.
    fn clear_rows(&self, sums: &mut [f32]) {
        for panel in sums.chunks_exact_mut(self.patch_rows * PANEL) {
            panel[self.patch * PANEL..].fill(0.0);
        }
    }
}

impl Algorithm for Patches {
    fn weight_len(&self) -> usize {
        self.shape.groups * self.group_len()
    }

    /// `[group][out / 16][tap, in][16]`
    fn weight_index(&self, out: usize, input: usize, tap: usize) -> usize {
        let (group, out) = (out / self.shape.group_outputs(), out % self.shape.group_outputs());
        let row = tap * self.shape.group_inputs() + input;
        group * self.group_len() + (out / PANEL * self.patch_rows + row) * PANEL + out % PANEL
    }

    fn panel_rows(&self) -> usize {
        self.patch_rows
    }

    fn spread<'a>(&self, outputs: &'a [f32]) -> Cow<'a, [f32]> {
        if self.in_place() {
            return Cow::Borrowed(outputs);
        }
        let mut columns = vec![0.0; self.shape.groups * self.columns];
        let groups = outputs.chunks_exact(self.shape.group_outputs());
        for (columns, outputs) in columns.chunks_exact_mut(self.columns).zip(groups) {
            columns[..outputs.len()].copy_from_slice(outputs);
        }
        Cow::Owned(columns)
    }

    fn need(&self, batch: usize) -> WorkspaceNeed {
        WorkspaceNeed {
            shared: self.weight_len() + partial_len(batch, GROUP, self.weight_len()),
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
        // Fewer images at once rather than idle threads; their number does not affect the results.
        let run = self.images.min(images.div_ceil(workspace.workers.len())).max(1);
        let values = Shared::new(output.values);
        for_each(images.div_ceil(run), &mut workspace.workers, |memory, task| {
            let [inputs, _, patches, group_rows] = carve(memory, self.parts());
            let first = task * run;
            let count = run.min(images - first);
            let inputs = &mut inputs[..count * input_len];
            for (i, image) in inputs.chunks_exact_mut(input_len).enumerate() {
                source(first + i, image);
            }
            // SAFETY: every image belongs to one task.
            let target = unsafe { values.part(first * output_len..(first + count) * output_len) };
            if !self.in_place() {
                for pixel in target.chunks_exact_mut(self.outputs) {
                    pixel[self.shape.out_channels..].fill(0.0);
                }
            }
            for rows in self.pieces(count) {
                let pixels = count * rows.len() * columns;
                let target = &mut target[rows.start * columns * self.outputs..][..pixels * self.outputs];
                for group in 0..self.shape.groups {
                    self.gather(inputs, group, &rows, patches);
                    let (c, ldc) = if self.in_place() {
                        (target[group * self.columns..].as_mut_ptr(), self.outputs)
                    } else {
                        (group_rows.as_mut_ptr(), self.columns)
                    };
                    let product = Product::<false> {
                        m: pixels,
                        n: self.columns,
                        k: self.patch,
                        a: patches.as_ptr(),
                        lda: self.patch_stride,
                        b: weights[group * self.group_len()..].as_ptr(),
                        ldb: PANEL,
                        b_panel: self.patch_rows * PANEL,
                        c,
                        ldc,
                        c_panel: PANEL,
                        accumulate: false,
                    };
                    // SAFETY: as many patches as pixels; the group's columns of the map, or rows that are this worker's.
                    unsafe { product.run_on(self.isa) };
                    if !self.in_place() {
                        self.put_group(&group_rows[..pixels * self.columns], group, target);
                    }
                }
            }
            for (i, image) in target.chunks_exact(output_len).enumerate() {
                (output.finished)(first + i, image);
            }
        });
    }

    fn backward(&self, weights: &[f32], gradient: Backward<'_>, workspace: &mut Workspace) {
        let Backward { images, input, output_gradient, input_gradient, weight_gradient } = gradient;
        let [turned, partial] =
            carve(&mut workspace.shared, [self.weight_len(), partial_len(images, GROUP, self.weight_len())]);
        if input_gradient.is_some() {
            transpose_panels(self.shape.groups, self.patch_rows, self.columns, weights, turned);
        }
        let turned = &*turned;
        let workers = &mut workspace.workers;
        let (input_len, output_len) = (self.shape.input_len(), self.shape.output_len());
        let (_, columns) = self.shape.stored_map();
        let add = input_gradient.as_ref().is_some_and(|gradient| gradient.add);
        let input_gradient = input_gradient.map(|gradient| (Shared::new(gradient.values), gradient.finished));
        sum_over_groups(images, GROUP, partial, weight_gradient, |groups, partial| {
            let partial = Shared::new(partial);
            for_each(groups.len(), workers, |memory, slot| {
                let start = (groups.start + slot) * GROUP;
                let end = images.min(start + GROUP);
                let [inputs, gradients, patches, group_rows] = carve(memory, self.parts());
                // SAFETY: every group of images has its own sums.
                let sums = unsafe { partial.part(slot * self.weight_len()..(slot + 1) * self.weight_len()) };
                self.clear_rows(sums);
                for first in (start..end).step_by(self.images) {
                    let count = self.images.min(end - first);
                    let inputs = &mut inputs[..count * input_len];
                    for i in 0..count {
                        output_gradient(first + i, &mut gradients[i * output_len..(i + 1) * output_len]);
                        input(first + i, &mut inputs[i * input_len..(i + 1) * input_len]);
                    }
                    let mut target = input_gradient.as_ref().map(|(values, _)| {
                        // SAFETY: every image belongs to one task.
                        let target = unsafe { values.part(first * input_len..(first + count) * input_len) };
                        if !add {
                            target.fill(0.0);
                        }
                        target
                    });
                    for rows in self.pieces(count) {
                        let pixels = count * rows.len() * columns;
                        let gradients =
                            &gradients[rows.start * columns * self.outputs..][..pixels * self.outputs];
                        for group in 0..self.shape.groups {
                            self.gather(inputs, group, &rows, patches);
                            let (dy, dy_row) = if self.in_place() {
                                (gradients[group * self.columns..].as_ptr(), self.outputs)
                            } else {
                                let group_rows = &mut group_rows[..pixels * self.columns];
                                self.take_group(gradients, group, group_rows);
                                (group_rows.as_ptr(), self.columns)
                            };
                            let sums = &mut sums[group * self.group_len()..][..self.group_len()];
                            for row in (0..self.patch).step_by(ROWS) {
                                let product = TransposedProduct {
                                    m: ROWS.min(self.patch - row),
                                    n: self.columns,
                                    k: pixels,
                                    a: patches[row..].as_ptr(),
                                    lda: self.patch_stride,
                                    b: dy,
                                    ldb: dy_row,
                                    c: sums[row * PANEL..].as_mut_ptr(),
                                    c_panel: self.patch_rows * PANEL,
                                    accumulate: first > start || rows.start > 0,
                                };
                                // SAFETY: as many patches as pixels of the gradient; rows of this group's sums.
                                unsafe { product.run_on(self.isa) };
                            }
                            let Some(target) = &mut target else { continue };
                            let product = Product::<false> {
                                m: pixels,
                                n: self.patch_rows,
                                k: self.columns,
                                a: dy,
                                lda: dy_row,
                                b: turned[group * self.group_len()..].as_ptr(),
                                ldb: PANEL,
                                b_panel: self.columns * PANEL,
                                c: patches.as_mut_ptr(),
                                ldc: self.patch_stride,
                                c_panel: PANEL,
                                accumulate: false,
                            };
                            // SAFETY: as many patches as pixels of the gradient.
                            unsafe { product.run_on(self.isa) };
                            let rows = rows.clone();
                            self.isa.run(Scatter { plan: self, patches, group, rows, images: target });
                        }
                    }
                    if let (Some(target), Some((_, finished))) = (target, &input_gradient) {
                        for (i, image) in target.chunks_exact_mut(input_len).enumerate() {
                            finished(first + i, image);
                        }
                    }
                }
            });
        });
        let last_panel = self.group_len() - self.patch_rows * PANEL;
        for group in weight_gradient.chunks_exact_mut(self.group_len()) {
            clear_columns(self.shape.group_outputs(), &mut group[last_panel..]);
        }
    }
}

/// Adds the patches of a group back to the images that they would be gathered from: the adjoint of [`Patches::gather`].
struct Scatter<'a> {
    plan: &'a Patches,
    patches: &'a [f32],
    group: usize,
    rows: Range<usize>,
    images: &'a mut [f32],
}

impl Kernel for Scatter<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (_, columns) = self.plan.shape.stored_map();
        let mut patches = self.patches.chunks_exact(self.plan.patch_stride);
        for image in self.images.chunks_exact_mut(self.plan.shape.input_len()) {
            for row in self.rows.clone() {
                for (column, patch) in patches.by_ref().take(columns).enumerate() {
                    self.plan.runs(self.group, row, column, |to, from, len| {
                        if let Some(to) = to {
                            for (x, value) in image[to..to + len].iter_mut().zip(&patch[from..from + len]) {
                                *x += value;
                            }
                        }
                    });
                }
            }
        }
    }
}
