//! Convolutions as matrix products: over the pixels of a map, over patches, or over the rows of a packed image.

use super::finish::FinishMap;
use super::packed::PackedShape;
use super::pass::{Fused, Pass, Rows, pairs_len, parts, share};
use super::shape::{Constants, FusedShape};
use crate::gemm::{Finish, FinishedProduct, KeepFar, PAIR, PANEL};
use crate::memory::{Buffer, Shared};
use crate::parallel::for_each_task;
use crate::patches::Patches;
use crate::shape::padded;
use crate::simd::Isa;
use crate::team::Team;
use crate::workspace::{Workspace, WorkspaceNeed, aligned, carve};
use std::ops::Range;

/// Floats of patches, and of unfinished results, that a thread works on: together half of an L2 cache.
const PIECE_FLOATS: usize = 64 << 10;

/// Floats of a left side whose products all threads share by columns: they stay in the L3 cache.
const SHARED_FLOATS: usize = 1 << 20;

/// Most rows of a product over the pixels of a map.
const ROWS: usize = 192;

pub(super) struct FusedProduct {
    isa: Isa,
    shape: FusedShape,
    left: Left,
    /// Length of the sums, and its division into runs.
    k: usize,
    runs: usize,
    /// Padded channels of the output.
    outputs: usize,
    weights: Buffer,
    constants: Constants,
}

/// The left side, which the weights are multiplied with.
enum Left {
    /// Pixels of the map as it is.
    Pixels,
    Patches(Patches),
    Packed(PackedShape),
}

impl FusedProduct {
    pub(super) fn new(
        isa: Isa,
        shape: FusedShape,
        is_packed: bool,
        weight: &[f32],
        constants: Constants,
    ) -> Self {
        let conv = shape.convolution;
        let is_pixels =
            conv.kernel == [1, 1] && conv.padding == [0, 0] && conv.stride == [1, 1] && conv.groups == 1;
        let (left, inputs, runs) = match () {
            () if is_packed => (Left::Packed(PackedShape::pixels(&conv)), conv.in_channels, conv.kernel[0]),
            () if is_pixels => (Left::Pixels, conv.in_channels, 1),
            () => (Left::Patches(Patches::new(isa, conv)), conv.group_inputs(), 1),
        };
        let k = conv.taps() * inputs;
        let (group_inputs, group_outputs) = (conv.group_inputs(), conv.group_outputs());
        let group_len = pairs_len(k, group_outputs);
        let mut weights = Buffer::new(conv.groups * group_len);
        let (pairs, taps) = (group_outputs.div_ceil(PAIR), conv.taps());
        let target = Shared::new(&mut weights);
        for_each_task(conv.groups * pairs, |task| {
            let (group, pair) = (task / pairs, task % pairs);
            let first = group * group_outputs + pair * PAIR;
            let count = PAIR.min(group_outputs - pair * PAIR);
            let filter_len = group_inputs * taps;
            let filters = &weight[first * filter_len..(first + count) * filter_len];
            // SAFETY: every task has its own pair of panels.
            let panel = unsafe { target.part(task * k * PAIR..(task + 1) * k * PAIR) };
            for input in 0..group_inputs {
                for tap in 0..taps {
                    let row = &mut panel[(tap * inputs + input) * PAIR..][..count];
                    let values = filters[input * taps + tap..].iter().step_by(filter_len);
                    row.iter_mut().zip(values).for_each(|(own, weight)| *own = *weight);
                }
            }
        });
        Self { isa, shape, left, k, runs, outputs: padded(conv.out_channels), weights, constants }
    }

    /// Pixels of the convolution's map.
    fn pixels(&self) -> usize {
        self.shape.convolution.stored_pixels()
    }

    /// Floats between the rows of the left side, where they are gathered.
    fn left_stride(&self) -> usize {
        match &self.left {
            Left::Pixels => padded(self.k),
            Left::Patches(patches) => patches.stride(),
            Left::Packed(_) => 0,
        }
    }

    /// Whether the threads divide the columns: if the weights are larger than the left side.
    fn is_by_columns(&self) -> bool {
        let is_whole = self.shape.convolution.groups == 1 && !matches!(self.left, Left::Packed(_));
        is_whole && self.outputs > 2 * self.pixels() && self.outputs >= 2 * PAIR
    }

    /// Whether the results of all pixels are one product without anything around it.
    fn is_plain(&self) -> bool {
        self.shape.is_direct() && matches!(self.left, Left::Pixels)
    }

    /// Stored rows whose patches are gathered at once.
    fn piece_rows(&self) -> usize {
        let (rows, columns) = self.shape.convolution.stored_map();
        match &self.left {
            Left::Patches(_) => (PIECE_FLOATS / (columns * self.left_stride())).clamp(1, rows),
            _ => rows,
        }
    }

    /// Into how many parts an image is cut by rows of the output.
    fn image_parts(&self, images: usize, threads: usize) -> usize {
        let (rows, _) = self.shape.output_map();
        let results = if self.shape.is_direct() { 0 } else { self.pixels() * self.outputs };
        parts(images, threads, results.div_ceil(PIECE_FLOATS), rows)
    }

    /// Parts of a worker's memory: patches, results, results of a group.
    fn worker_parts(&self, images: usize, threads: usize) -> [usize; 3] {
        let (_, columns) = self.shape.convolution.stored_map();
        let (rows, _) = self.shape.output_map();
        let most = rows.div_ceil(self.image_parts(images, threads));
        let stored = (if self.shape.pool { 2 } else { 1 }) * most;
        let piece = self.piece_rows() * columns;
        let is_grouped = self.shape.convolution.groups > 1;
        [
            if matches!(self.left, Left::Patches(_)) { aligned(piece * self.left_stride()) } else { 0 },
            if self.shape.is_direct() { 0 } else { aligned(stored * columns * self.outputs) },
            if is_grouped { aligned(piece * padded(self.shape.convolution.group_outputs())) } else { 0 },
        ]
    }

    /// Images whose left sides are gathered before their products.
    fn shared_images(&self, images: usize) -> usize {
        match self.left {
            Left::Pixels => images,
            _ => (SHARED_FLOATS / (self.pixels() * self.left_stride())).clamp(1, images.max(1)),
        }
    }

    /// Columns of a task, where columns are shared.
    fn block(&self, threads: usize) -> usize {
        let pairs = self.outputs.div_ceil(PAIR);
        if pairs.is_multiple_of(2 * threads) || pairs >= 8 * threads { 2 * PAIR } else { PAIR }
    }

    /// The product of some rows of the left side, with the weights starting at a column of a group.
    fn product<F: Finish>(
        &self,
        m: usize,
        left: (&[f32], usize),
        weights: Range<usize>,
        (c, ldc): (*mut f32, usize),
        finish: F,
    ) {
        let (a, lda) = left;
        assert!(m == 0 || a.len() >= (m - 1) * lda + self.k);
        let product = FinishedProduct {
            m,
            n: weights.len(),
            runs: 1,
            run: self.k,
            a: a.as_ptr(),
            a_run: 0,
            lda,
            b: self.weights[weights.start * self.k..].as_ptr(),
            c,
            ldc,
            finish,
        };
        // SAFETY: the left side was checked; the caller gives the place of so many rows and columns, and their finish.
        unsafe { product.run_on(self.isa) };
    }

    /// Rows of the output of an image.
    fn rows(
        &self,
        image: &[f32],
        rows: Range<usize>,
        addend: Option<&[f32]>,
        target: &mut [f32],
        parts: [&mut [f32]; 3],
    ) {
        let conv = &self.shape.convolution;
        let [patches, results, group_results] = parts;
        let (_, columns) = conv.stored_map();
        let stored = self.shape.stored_rows(&rows);
        let is_direct = self.shape.is_direct();
        let row_len = columns * self.outputs;
        for first in stored.clone().step_by(self.piece_rows()) {
            let piece = first..stored.end.min(first + self.piece_rows());
            let at = (first - stored.start) * row_len;
            let pixels = piece.len() * columns;
            match &self.left {
                Left::Packed(packed) => {
                    for row in piece {
                        let at = (row - stored.start) * row_len;
                        let a = &image[row * conv.stride[0] * packed.row_len()..];
                        assert!(a.len() >= (self.runs - 1) * packed.row_len() + packed.row_len());
                        let c = if is_direct {
                            &mut target[at..][..row_len]
                        } else {
                            &mut results[at..][..row_len]
                        };
                        let product = |c: *mut f32| FinishedProduct {
                            m: columns,
                            n: self.outputs,
                            runs: self.runs,
                            run: self.k / self.runs,
                            a: a.as_ptr(),
                            a_run: packed.row_len(),
                            lda: conv.stride[1] * conv.in_channels,
                            b: self.weights.as_ptr(),
                            c,
                            ldc: self.outputs,
                            finish: KeepFar,
                        };
                        let product = product(c.as_mut_ptr());
                        // SAFETY: the rows of the packed image under a row of outputs, and that row.
                        unsafe {
                            if is_direct {
                                let clamp = self.constants.clamp(self.shape.activation, 0, addend, at);
                                product.with(clamp).run_on(self.isa);
                            } else {
                                product.run_on(self.isa);
                            }
                        }
                    }
                }
                Left::Pixels | Left::Patches(_) => {
                    for group in 0..conv.groups {
                        let left = match &self.left {
                            Left::Patches(plan) => {
                                plan.gather(image, group, &piece, patches);
                                (&*patches, self.left_stride())
                            }
                            _ => (&image[first * columns * self.left_stride()..], self.left_stride()),
                        };
                        if conv.groups > 1 {
                            let (count, from) = (conv.group_outputs(), group * conv.group_outputs());
                            let wide = padded(count);
                            let weights = group * count.next_multiple_of(PAIR);
                            let c = (group_results.as_mut_ptr(), wide);
                            self.product(pixels, left, weights..weights + wide, c, KeepFar);
                            let targets = results[at..].chunks_exact_mut(self.outputs);
                            for (target, values) in targets.zip(group_results.chunks_exact(wide)).take(pixels)
                            {
                                target[from..from + count].copy_from_slice(&values[..count]);
                            }
                        } else if is_direct {
                            let clamp = self.constants.clamp(self.shape.activation, 0, addend, at);
                            let c = (target[at..][..pixels * self.outputs].as_mut_ptr(), self.outputs);
                            self.product(pixels, left, 0..self.outputs, c, clamp);
                        } else {
                            let c = (results[at..][..pixels * self.outputs].as_mut_ptr(), self.outputs);
                            self.product(pixels, left, 0..self.outputs, c, KeepFar);
                        }
                    }
                }
            }
        }
        if !is_direct {
            if conv.groups > 1 {
                for pixel in results[..stored.len() * row_len].chunks_exact_mut(self.outputs) {
                    pixel[conv.out_channels..].fill(0.0);
                }
            }
            FinishMap::run_rows(self.isa, &self.shape, &self.constants, results, rows, target);
        }
    }

    fn run_rows(&self, team: &mut Team<'_>, pass: Pass<'_>, workspace: &mut Workspace) {
        let parts = self.image_parts(pass.images, team.threads());
        let lengths = self.worker_parts(pass.images, team.threads());
        pass.for_each_rows(&self.shape, team, &mut workspace.workers, parts, |memory, task| {
            let Rows { image, rows, addend, target } = task;
            self.rows(image, rows, addend, target, carve(memory, lengths));
        });
    }

    /// All pixels of all images as rows of one product, of which each task takes some.
    fn run_plain(&self, team: &mut Team<'_>, pass: Pass<'_>) {
        let Pass { images, input, addend, output } = pass;
        let rows = images * self.pixels();
        let threads = team.threads();
        let tasks = rows.div_ceil(ROWS).next_multiple_of(threads).min(rows.div_ceil(PANEL / 4));
        let values = Shared::new(output);
        team.for_each(tasks, |_, task| {
            let rows = share(rows, tasks, task);
            let at = rows.start * self.outputs;
            // SAFETY: every task has its own rows.
            let target = unsafe { values.part(at..rows.end * self.outputs) };
            let clamp = self.constants.clamp(self.shape.activation, 0, addend, at);
            let c = (target.as_mut_ptr(), self.outputs);
            let left = (&input[rows.start * self.left_stride()..], self.left_stride());
            self.product(rows.len(), left, 0..self.outputs, c, clamp);
        });
    }

    fn run_columns(&self, team: &mut Team<'_>, pass: Pass<'_>, workspace: &mut Workspace) {
        let Pass { images, input, addend, output } = pass;
        let (image_len, output_len) = (input.len() / images, self.shape.output_len());
        let (pixels, stride) = (self.pixels(), self.left_stride());
        let (rows, _) = self.shape.output_map();
        let (stored, _) = self.shape.convolution.stored_map();
        let block = self.block(team.threads());
        let is_direct = self.shape.is_direct();
        let values = Shared::new(output);
        let group = self.shared_images(images);
        for first in (0..images).step_by(group) {
            let count = group.min(images - first);
            let inputs = &input[first * image_len..(first + count) * image_len];
            let left = match &self.left {
                Left::Patches(plan) => {
                    let left = Shared::new(&mut workspace.shared[..count * pixels * stride]);
                    team.for_each(count * stored, |_, task| {
                        let (image, row) = (task / stored, task % stored);
                        let len = pixels / stored * stride;
                        // SAFETY: every task has its own row of patches.
                        let patches = unsafe { left.part(task * len..(task + 1) * len) };
                        let image = &inputs[image * image_len..(image + 1) * image_len];
                        plan.gather(image, 0, &(row..row + 1), patches);
                    });
                    &workspace.shared[..count * pixels * stride]
                }
                _ => inputs,
            };
            let tasks = self.outputs.div_ceil(block);
            team.for_each_with(&mut workspace.workers, tasks, |memory, task| {
                let channels = task * block..self.outputs.min((task + 1) * block);
                let at = first * output_len + channels.start;
                if is_direct {
                    let clamp = self.constants.clamp(self.shape.activation, channels.start, addend, at);
                    let c = (values.at(at), self.outputs);
                    self.product(count * pixels, (left, stride), channels, c, clamp);
                    return;
                }
                for image in 0..count {
                    let results = &mut memory[..pixels * block];
                    let c = (results.as_mut_ptr(), block);
                    self.product(
                        pixels,
                        (&left[image * pixels * stride..], stride),
                        channels.clone(),
                        c,
                        KeepFar,
                    );
                    let finish = FinishMap {
                        shape: &self.shape,
                        constants: &self.constants,
                        results,
                        block,
                        rows: 0..rows,
                        channels: channels.clone(),
                        target: values.at(at + image * output_len),
                        pixel: self.outputs,
                    };
                    // SAFETY: every task has its own channels.
                    unsafe { finish.run_on(self.isa) };
                }
            });
        }
    }
}

impl Fused for FusedProduct {
    fn need(&self, images: usize, threads: usize) -> WorkspaceNeed {
        if self.is_by_columns() {
            let shared = match &self.left {
                Left::Patches(_) => self.shared_images(images) * self.pixels() * self.left_stride(),
                _ => 0,
            };
            let worker = if self.shape.is_direct() { 0 } else { self.pixels() * self.block(threads) };
            return WorkspaceNeed { shared, worker };
        }
        // Fewer images are cut into more parts, which need less memory.
        let worker = self.worker_parts(images.max(1), 1).iter().sum();
        WorkspaceNeed { shared: 0, worker }
    }

    fn run(&self, team: &mut Team<'_>, pass: Pass<'_>, workspace: &mut Workspace) {
        if pass.images == 0 {
        } else if self.is_by_columns() {
            self.run_columns(team, pass, workspace);
        } else if self.is_plain() {
            self.run_plain(team, pass);
        } else {
            self.run_rows(team, pass, workspace);
        }
    }
}
