//! 3x3 convolutions of stride 1 by Winograd's minimal filtering, with the exact adjoint for both gradients.
//!
//! With `V = B' x B` for every tile of the input, `U = G w G'` and, at each of the `(m + 2)^2` places ("frequencies") of a tile, the
//! matrix product `M = V U` over the channels, the output is `y = A' M A`. Backward, `M' = A dy A'` serves both gradients:
//! `dU = V' M'` and `dw = G' dU G`; `dV = M' U'` and `dx = B dV B'`. `V` is recomputed in the backward pass: from the input in cache, that
//! is cheaper than reading `V`, two to four times its size, from memory.
//!
//! `V`, `M'` and `dV` lie as `[frequency][tile][channel]`. Sixteen floats of padding at the end of each long row, and frequency strides
//! that are not multiples of 4 KiB, keep the writes of a transform out of each other's cache sets. `M` lies as
//! `[tile][frequency][channel]`, a block of channels at a time: a product writes it and the output transform reads it while it is in the L2
//! cache.

use crate::algorithm::{Algorithm, Backward, InputGradient, Output, Source, Weights};
use crate::gemm::{Finish, Keep, PANEL, Product, TransposedProduct, transpose_panels};
use crate::memory::{Buffer, Shared};
use crate::parallel::{for_each, for_each_task};
use crate::shape::{ConvShape, padded};
use crate::simd::{Isa, Kernel, Simd};
use crate::sums::{partial_len, sum_over_groups};
use crate::transforms::Tile;
use crate::workspace::{Workspace, WorkspaceNeed, aligned, carve};
use std::marker::PhantomData;
use std::ops::Range;

/// Floats of `V` and of a block of `M` that a thread works on in the forward pass: they stay in the L2 cache.
const FORWARD_FLOATS: usize = 192 << 10;

/// Floats of transformed weights beyond which every group of images reads them from the L3 cache...
const LARGE_WEIGHTS: usize = 1 << 20;

/// ...and the least number of tiles that a group then has, so that the products take longer than the reading.
const FORWARD_TILES: usize = 64;

/// Tiles that a thread takes through the backward pass at once on its own, if an image has no more; part of the summation order.
const OWN_TILES: usize = 64;

/// Most floats of transformed weights with which it does so: they, and their gradient...
const OWN_WEIGHTS: usize = 40 << 10;

/// ...stay in the L2 cache with this many floats of `V` and `M'`.
const OWN_FLOATS: usize = 160 << 10;

/// Target for `V`, `M'` and `dV` of the images that all threads share in the backward pass, in floats: about the L3 cache.
const BACKWARD_FLOATS: usize = 4 << 20;

pub(crate) struct Winograd<const M: usize, const A: usize, T> {
    isa: Isa,
    shape: ConvShape,
    /// Padded channels.
    inputs: usize,
    outputs: usize,
    /// Tiles of an image, down and across.
    down: usize,
    across: usize,
    /// Channels of `M` that the forward pass computes and transforms back before the next ones.
    block: usize,
    /// Floats between frequencies of weights.
    weight_stride: usize,
    tile: PhantomData<T>,
}

/// Floats between frequencies of `rows` rows of `row` floats.
pub(crate) fn frequency_stride(rows: usize, row: usize) -> usize {
    let floats = aligned(rows * row);
    // 4 KiB are 1024 floats.
    if (floats + 32) % 1024 < 64 { floats + 48 } else { floats }
}

/// The most that [`frequency_stride`] can be for this many rows or fewer.
pub(crate) const fn largest_stride(rows: usize, row: usize) -> usize {
    aligned(rows * row) + 48
}

/// Floats between rows of tiles. Short rows are contiguous: the next ones fill what one row leaves free in a few cache sets.
pub(crate) const fn row(channels: usize) -> usize {
    if channels <= 2 * PANEL { channels } else { channels + PANEL }
}

impl<const M: usize, const A: usize, T: Tile<M, A>> Winograd<M, A, T> {
    pub(crate) fn new(isa: Isa, shape: ConvShape) -> Self {
        let (inputs, outputs) = (padded(shape.in_channels), padded(shape.out_channels));
        let weight_stride = frequency_stride(inputs, outputs);
        let (down, across) = shape.output_map();
        Self {
            isa,
            shape,
            inputs,
            outputs,
            down: down.div_ceil(M),
            across: across.div_ceil(M),
            // Few input channels make short products, which should be wider.
            block: if inputs <= 64 { 4 * PANEL } else { 2 * PANEL },
            weight_stride,
            tile: PhantomData,
        }
    }

    fn tiles(&self) -> usize {
        self.down * self.across
    }

    /// Images that a thread processes at once in the forward pass.
    fn forward_images(&self) -> usize {
        let image = self.tiles() * (A * A * row(self.inputs) + self.block_row());
        let large = A * A * self.weight_stride > LARGE_WEIGHTS;
        let least = if large { FORWARD_TILES / self.tiles() } else { 1 };
        (FORWARD_FLOATS / image).max(least).max(1)
    }

    /// Floats of a tile's block of `M`.
    fn block_row(&self) -> usize {
        A * A * self.block
    }

    /// Images that are processed at once in the backward pass; part of the summation order, so it depends only on the shape.
    fn backward_images(&self) -> usize {
        let image = A * A * self.tiles() * (2 * row(self.inputs) + row(self.outputs));
        // Every group updates all sums of the weights' gradient: large gradients need larger groups.
        (BACKWARD_FLOATS.max(3 * A * A * self.weight_stride) / image).max(1)
    }

    /// Images that a thread takes through the backward pass on its own.
    fn own_images(&self) -> usize {
        (OWN_TILES / self.tiles()).max(1)
    }

    /// Whether the backward pass is divided by images only, so that `V`, `M'` and `dV` never leave a thread's L2 cache. With larger
    /// weights, all threads share a group instead, which reads the weights less often.
    fn is_by_thread(&self) -> bool {
        let image = A * A * self.tiles() * (row(self.inputs) + row(self.outputs));
        A * A * self.weight_stride <= OWN_WEIGHTS && self.own_images() * image <= OWN_FLOATS
    }

    /// The geometry of the input images.
    fn input_map(&self, stride: usize) -> Map {
        let ConvShape { height, width, padding, .. } = self.shape;
        self.map([height, width], padding[0], self.inputs, stride)
    }

    /// The geometry of the output images.
    fn output_map(&self, stride: usize) -> Map {
        let (height, width) = self.shape.output_map();
        self.map([height, width], 0, self.outputs, stride)
    }

    fn map(&self, [height, width]: [usize; 2], padding: usize, channels: usize, stride: usize) -> Map {
        let (down, across) = (self.down, self.across);
        Map { height, width, padding, channels, down, across, row: row(channels), stride }
    }

    /// `U` from the weights, or `U'` from the transposed weights: the transform is the same at every place of a filter.
    fn transform_weights(&self, weights: &[f32], transformed: &mut [f32]) {
        let filters = self.inputs * self.outputs;
        let target = Shared::new(transformed);
        // A task is a run of filters, a whole number of vectors of any width.
        const RUN: usize = 4096;
        for_each_task(filters.div_ceil(RUN), |task| {
            let from = task * RUN;
            let len = RUN.min(filters - from);
            for tap in 0..9 {
                assert!(tap * filters + from + len <= weights.len());
            }
            assert!(weights.len() == 9 * filters);
            let kernel = FilterTransform::<M, A, T, M, A, T> {
                weights: weights[from..].as_ptr(),
                filters,
                transformed: target.at(from),
                stride: self.weight_stride,
                len,
                tile: PhantomData,
            };
            target.at((A * A - 1) * self.weight_stride + from + len);
            self.isa.run(kernel);
        });
    }
}

/// One side's images and their tiles.
#[derive(Clone, Copy)]
pub(crate) struct Map {
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Rows and columns of zeros around an image, within the tiles.
    pub(crate) padding: usize,
    pub(crate) channels: usize,
    pub(crate) down: usize,
    pub(crate) across: usize,
    /// Floats between tiles, and between frequencies.
    pub(crate) row: usize,
    pub(crate) stride: usize,
}

impl Map {
    /// Offset of a pixel of an image; `None` outside of it. The position is relative to the first row and column of the padding.
    #[inline(always)]
    fn pixel(&self, y: usize, x: usize) -> Option<usize> {
        let (y, x) = (y.checked_sub(self.padding)?, x.checked_sub(self.padding)?);
        (y < self.height && x < self.width).then(|| (y * self.width + x) * self.channels)
    }
}

impl<const M: usize, const A: usize, T: Tile<M, A>> Algorithm for Winograd<M, A, T> {
    fn weight_len(&self) -> usize {
        9 * self.inputs * self.outputs
    }

    /// `[tap][out / 16][in][16]`
    fn weight_index(&self, out: usize, input: usize, tap: usize) -> usize {
        tap * self.inputs * self.outputs + (out / PANEL * self.inputs + input) * PANEL + out % PANEL
    }

    fn panel_rows(&self) -> usize {
        self.inputs
    }

    fn need(&self, batch: usize) -> WorkspaceNeed {
        let (forward, backward) = (self.forward_images().min(batch), self.backward_images().min(batch));
        let stride = |images: usize, channels: usize| largest_stride(images * self.tiles(), row(channels));
        let (input, output) = (aligned(self.shape.input_len()), aligned(self.shape.output_len()));
        let strides = [stride(backward, self.inputs), stride(backward, self.outputs)];
        let worker = input
            + (A * A * stride(forward, self.inputs) + forward * self.tiles() * self.block_row()).max(output);
        // More is shared than the transformed weights, which the forward pass keeps there.
        if self.is_by_thread() {
            let own = self.own_parts(self.own_maps()).iter().sum();
            return WorkspaceNeed { shared: self.own_shared(batch).iter().sum(), worker: worker.max(own) };
        }
        WorkspaceNeed { shared: self.backward_parts(backward == batch, strides).iter().sum(), worker }
    }

    fn transformed_len(&self) -> Option<usize> {
        Some(A * A * self.weight_stride)
    }

    fn transform(&self, weights: &[f32], transformed: &mut [f32]) {
        self.transform_weights(weights, transformed);
    }

    fn forward(
        &self,
        weights: Weights<'_>,
        images: usize,
        source: Source<'_>,
        output: Output<'_>,
        workspace: &mut Workspace,
    ) {
        let transformed = match weights {
            Weights::Transformed(transformed) => transformed,
            Weights::Plain(weights) => {
                let transformed = &mut workspace.shared[..A * A * self.weight_stride];
                self.transform_weights(weights, transformed);
                transformed
            }
        };
        let mut group = self.forward_images().min(images);
        // Smaller groups rather than idle threads; the groups do not affect the results.
        group = group.min(images.div_ceil(workspace.workers.len())).max(1);
        let groups = images.div_ceil(group);
        let group = images.div_ceil(groups);
        let tiles = self.tiles();
        let v_stride = frequency_stride(group * tiles, row(self.inputs));
        let input = self.input_map(v_stride);
        let result = self.output_map(0);
        let image_len = self.shape.input_len();
        let output_len = self.shape.output_len();
        let values = Shared::new(output.values);
        for_each(groups, &mut workspace.workers, |memory, task| {
            let first = task * group;
            let count = group.min(images - first);
            let [image, v, m] =
                carve(memory, [aligned(image_len), A * A * v_stride, group * tiles * self.block_row()]);
            let (v, m) = (Shared::new(v), Shared::new(m));
            for i in 0..count {
                source(first + i, &mut image[..image_len]);
                self.isa.run(InputTransform::<M, A, T, M, A, T>::new(
                    &image[..image_len],
                    input,
                    v,
                    i * tiles,
                ));
            }
            for column in (0..self.outputs).step_by(self.block) {
                let columns = self.block.min(self.outputs - column);
                for frequency in 0..A * A {
                    let product = Product::<false> {
                        m: count * tiles,
                        n: columns,
                        k: self.inputs,
                        a: v.at(frequency * v_stride),
                        lda: input.row,
                        b: transformed[frequency * self.weight_stride + column * self.inputs..].as_ptr(),
                        ldb: PANEL,
                        b_panel: self.inputs * PANEL,
                        c: m.at(frequency * self.block),
                        ldc: self.block_row(),
                        c_panel: PANEL,
                        accumulate: false,
                    };
                    // SAFETY: the strides hold `group` images of tiles; `m` is this worker's.
                    unsafe { product.run_on(self.isa) };
                }
                for i in 0..count {
                    let at = (first + i) * output_len;
                    // SAFETY: every image belongs to one task.
                    let image = unsafe { values.part(at..at + output_len) };
                    let tile = A * A * self.block;
                    let back = OutputTransform::<M, A, T, M, A, T, Keep> {
                        map: result,
                        rows: 0..self.down,
                        // SAFETY: `m` is this worker's, and the products have been written.
                        m: unsafe { m.part(i * tiles * tile..(i + 1) * tiles * tile) },
                        block: self.block,
                        channels: columns,
                        target: image[column..].as_mut_ptr(),
                        pixel: self.outputs,
                        finish: Keep,
                        tile: PhantomData,
                    };
                    // SAFETY: the pixels of the image.
                    unsafe { back.run_on(self.isa) };
                }
            }
            for i in 0..count {
                let at = (first + i) * output_len;
                // SAFETY: every image belongs to one task.
                (output.finished)(first + i, unsafe { values.part(at..at + output_len) });
            }
        });
    }

    fn backward(&self, weights: &[f32], gradient: Backward<'_>, workspace: &mut Workspace) {
        if self.is_by_thread() {
            return self.backward_by_thread(weights, gradient, workspace);
        }
        let Backward { images, input, output_gradient, mut input_gradient, weight_gradient } = gradient;
        let tiles = self.tiles();
        let group = self.backward_images().min(images).max(1);
        // Even groups: 126 images in groups of at most 40 are 4 of 32, not 3 of 40 and one of 6.
        let group = images.div_ceil(images.div_ceil(group).max(1)).max(1);
        let is_single = group >= images;
        let v_stride = frequency_stride(group * tiles, row(self.inputs));
        let m_stride = frequency_stride(group * tiles, row(self.outputs));
        let (map, gradient_map) = (self.input_map(v_stride), self.output_map(m_stride));
        let (input_len, output_len) = (self.shape.input_len(), self.shape.output_len());
        let parts = self.backward_parts(is_single, [v_stride, m_stride]);
        let [products, transformed, m, rest] = carve(&mut workspace.shared, parts);
        let workers = &mut workspace.workers;
        if input_gradient.is_some() && !is_single {
            self.transform_transposed(weights, rest, transformed);
        }
        let transformed = &*transformed;
        let m = Shared::new(m);
        let group_of =
            |first: usize| TileGroup { rows: group.min(images - first) * tiles, map, gradient_map };
        let into_images =
            |first: usize, dv: Shared<'_>, gradient: &mut InputGradient<'_>, workers: &mut [Buffer]| {
                let values = Shared::new(gradient.values);
                for_each(group.min(images - first), workers, |_, i| {
                    let at = (first + i) * input_len;
                    // SAFETY: every image belongs to one task.
                    let image = unsafe { values.part(at..at + input_len) };
                    if !gradient.add {
                        image.fill(0.0);
                    }
                    self.isa.run(InputAdjoint::<M, A, T>::new(dv, map, i * tiles, image));
                    (gradient.finished)(first + i, image);
                });
            };
        // Shares of the columns, so that every thread has work; they do not affect the results.
        let shares = (4 * workers.len()).div_ceil(A * A);
        let (v, dv) = rest.split_at_mut(A * A * v_stride);
        let (v, dv) = (Shared::new(v), Shared::new(dv));
        let sums = Shared::new(products);
        for first in (0..images).step_by(group) {
            let now = group_of(first);
            for_each(group.min(images - first), workers, |memory, i| {
                let [image, gradient] = carve(memory, [aligned(input_len), output_len]);
                output_gradient(first + i, gradient);
                let transform = GradientTransform::<M, A, T>::new(gradient, gradient_map, m, i * tiles);
                // Each image has its own tiles.
                self.isa.run(transform);
                input(first + i, &mut image[..input_len]);
                self.isa.run(InputTransform::<M, A, T, M, A, T>::new(&image[..input_len], map, v, i * tiles));
            });
            for_each_task(A * A * shares, |task| {
                let share = (task % shares, shares);
                self.weight_product(now, task / shares, share, [v, m], sums, first > 0);
                if input_gradient.is_some() && !is_single {
                    self.input_product(now, task / shares, share, m, transformed, dv);
                }
            });
            if let Some(gradient) = input_gradient.as_mut().filter(|_| !is_single) {
                into_images(first, dv, gradient, workers);
            }
        }
        self.weight_gradient(sums, weight_gradient);
        if let Some(gradient) = input_gradient.as_mut().filter(|_| is_single) {
            // `V` and the products with it have been read.
            self.transform_transposed(weights, rest, products);
            let (transformed, dv) = (&*products, Shared::new(rest));
            for_each_task(A * A * shares, |task| {
                let share = (task % shares, shares);
                self.input_product(group_of(0), task / shares, share, m, transformed, dv);
            });
            into_images(0, dv, gradient, workers);
        }
    }
}

/// The tiles of some images, on both sides of the convolution.
#[derive(Clone, Copy)]
struct TileGroup {
    /// Number of tiles.
    rows: usize,
    map: Map,
    gradient_map: Map,
}

/// The part of a side's channels that belongs to share `.0` of `.1`, in whole panels.
fn shared_channels(channels: usize, share: (usize, usize)) -> Range<usize> {
    let panels = channels / PANEL;
    share.0 * panels / share.1 * PANEL..(share.0 + 1) * panels / share.1 * PANEL
}

impl<const M: usize, const A: usize, T: Tile<M, A>> Winograd<M, A, T> {
    /// Floats of what the threads share in the backward pass, for these strides between the frequencies of `V` and of `M'`: the products
    /// `V' M'`, `U'`, `M'`, and `V` with `dV`, whose memory temporarily holds the transposed weights.
    ///
    /// If all images are one group, `dV` is computed last, and `U'` and `dV` reuse the memory of the products and of `V`: with large
    /// weights on small maps, that halves the memory.
    fn backward_parts(&self, is_single: bool, [v_stride, m_stride]: [usize; 2]) -> [usize; 4] {
        let transformed = A * A * self.weight_stride;
        let v = A * A * v_stride;
        let weights = aligned(self.weight_len());
        match is_single {
            true => [transformed, 0, A * A * m_stride, v.max(weights)],
            false => [transformed, transformed, A * A * m_stride, (2 * v).max(weights)],
        }
    }

    /// The tiles of the images that a thread processes on its own, on both sides.
    fn own_maps(&self) -> [Map; 2] {
        let tiles = self.own_images() * self.tiles();
        let stride = |channels: usize| frequency_stride(tiles, row(channels));
        [self.input_map(stride(self.inputs)), self.output_map(stride(self.outputs))]
    }

    /// Floats of what the threads share: `U'`, the transposed weights, and the weights' gradients of groups of images.
    fn own_shared(&self, images: usize) -> [usize; 3] {
        let weights = self.weight_len();
        [A * A * self.weight_stride, weights, partial_len(images, self.own_images(), weights)]
    }

    /// Parts of a worker's memory: an image of either side, `V`, later replaced by `dV`, `M'`, and `V' M'`.
    fn own_parts(&self, [map, gradient_map]: [Map; 2]) -> [usize; 4] {
        [
            aligned(self.shape.input_len().max(self.shape.output_len())),
            A * A * map.stride,
            A * A * gradient_map.stride,
            A * A * self.weight_stride,
        ]
    }

    /// See [`Winograd::is_by_thread`].
    fn backward_by_thread(&self, weights: &[f32], gradient: Backward<'_>, workspace: &mut Workspace) {
        let Backward { images, input, output_gradient, input_gradient, weight_gradient } = gradient;
        let [transformed, transposed, partial] = carve(&mut workspace.shared, self.own_shared(images));
        if input_gradient.is_some() {
            self.transform_transposed(weights, transposed, transformed);
        }
        let transformed = &*transformed;
        let workers = &mut workspace.workers;
        let (tiles, group) = (self.tiles(), self.own_images());
        let (input_len, output_len) = (self.shape.input_len(), self.shape.output_len());
        let [map, gradient_map] = self.own_maps();
        let add = input_gradient.as_ref().is_some_and(|gradient| gradient.add);
        let input_gradient = input_gradient.map(|gradient| (Shared::new(gradient.values), gradient.finished));
        sum_over_groups(images, group, partial, weight_gradient, |groups, partial| {
            let partial = Shared::new(partial);
            for_each(groups.len(), workers, |memory, slot| {
                let first = (groups.start + slot) * group;
                let count = group.min(images - first);
                let [image, v, m, products] = carve(memory, self.own_parts([map, gradient_map]));
                let (v, m, products) = (Shared::new(v), Shared::new(m), Shared::new(products));
                for i in 0..count {
                    let gradient = &mut image[..output_len];
                    output_gradient(first + i, gradient);
                    self.isa.run(GradientTransform::<M, A, T>::new(gradient, gradient_map, m, i * tiles));
                    let image = &mut image[..input_len];
                    input(first + i, image);
                    self.isa.run(InputTransform::<M, A, T, M, A, T>::new(image, map, v, i * tiles));
                }
                let now = TileGroup { rows: count * tiles, map, gradient_map };
                for frequency in 0..A * A {
                    self.weight_product(now, frequency, (0, 1), [v, m], products, false);
                    if input_gradient.is_some() {
                        self.input_product(now, frequency, (0, 1), m, transformed, v);
                    }
                }
                // SAFETY: every group of images has its own sums.
                let sums = unsafe { partial.part(slot * self.weight_len()..(slot + 1) * self.weight_len()) };
                self.weight_gradient(products, sums);
                let Some((values, finished)) = &input_gradient else { return };
                for i in 0..count {
                    let at = (first + i) * input_len;
                    // SAFETY: every image belongs to one task.
                    let image = unsafe { values.part(at..at + input_len) };
                    if !add {
                        image.fill(0.0);
                    }
                    self.isa.run(InputAdjoint::<M, A, T>::new(v, map, i * tiles, image));
                    finished(first + i, image);
                }
            });
        });
    }

    /// `U'`; `memory` is room for the transposed weights.
    fn transform_transposed(&self, weights: &[f32], memory: &mut [f32], transformed: &mut [f32]) {
        let transposed = &mut memory[..self.weight_len()];
        transpose_panels(9, self.inputs, self.outputs, weights, transposed);
        self.transform_weights(transposed, transformed);
    }

    /// A share of the columns of `V' M'` at a frequency.
    fn weight_product(
        &self,
        group: TileGroup,
        frequency: usize,
        share: (usize, usize),
        [v, m]: [Shared<'_>; 2],
        sums: Shared<'_>,
        accumulate: bool,
    ) {
        let TileGroup { rows, map, gradient_map } = group;
        let columns = shared_channels(self.outputs, share);
        let product = TransposedProduct {
            m: self.inputs,
            n: columns.len(),
            k: rows,
            a: v.at(frequency * map.stride),
            lda: map.row,
            b: m.at(frequency * gradient_map.stride + columns.start),
            ldb: gradient_map.row,
            c: sums.at(frequency * self.weight_stride + columns.start * self.inputs),
            c_panel: self.inputs * PANEL,
            accumulate,
        };
        // SAFETY: `v` and `m` hold the group's tiles and are only read now; each task has its own columns of the sums.
        unsafe { product.run_on(self.isa) };
    }

    /// A share of the columns of `dV = M' U'` at a frequency.
    fn input_product(
        &self,
        group: TileGroup,
        frequency: usize,
        share: (usize, usize),
        m: Shared<'_>,
        transformed: &[f32],
        dv: Shared<'_>,
    ) {
        let TileGroup { rows, map, gradient_map } = group;
        let columns = shared_channels(self.inputs, share);
        let product = Product::<false> {
            m: rows,
            n: columns.len(),
            k: self.outputs,
            a: m.at(frequency * gradient_map.stride),
            lda: gradient_map.row,
            b: transformed[frequency * self.weight_stride + columns.start * self.outputs..].as_ptr(),
            ldb: PANEL,
            b_panel: self.outputs * PANEL,
            c: dv.at(frequency * map.stride + columns.start),
            ldc: map.row,
            c_panel: PANEL,
            accumulate: false,
        };
        // SAFETY: as in `weight_product`, for the columns of `dv`.
        unsafe { product.run_on(self.isa) };
    }

    /// `dw` from the products.
    fn weight_gradient(&self, products: Shared<'_>, gradient: &mut [f32]) {
        let filters = self.inputs * self.outputs;
        let target = Shared::new(gradient);
        const RUN: usize = 4096;
        for_each_task(filters.div_ceil(RUN), |task| {
            let from = task * RUN;
            let len = RUN.min(filters - from);
            target.at(8 * filters + from + len);
            products.at((A * A - 1) * self.weight_stride + from + len);
            self.isa.run(FilterAdjoint::<M, A, T> {
                products: products.at(from),
                stride: self.weight_stride,
                gradient: target.at(from),
                filters,
                len,
                tile: PhantomData,
            });
        });
    }
}

/// `V = B' x B` of one image's tiles, of `M` rows and `N` columns.
pub(crate) struct InputTransform<'a, const M: usize, const A: usize, T, const N: usize, const B: usize, U> {
    image: &'a [f32],
    map: Map,
    /// Rows of tiles.
    rows: Range<usize>,
    v: *mut f32,
    tile: PhantomData<(T, U)>,
}

impl<'a, const M: usize, const A: usize, T: Tile<M, A>, const N: usize, const B: usize, U: Tile<N, B>>
    InputTransform<'a, M, A, T, N, B, U>
{
    /// The image's tiles begin at row `at` of `v`.
    fn new(image: &'a [f32], map: Map, v: Shared<'_>, at: usize) -> Self {
        Self::of_rows(image, map, 0..map.down, v, at)
    }

    /// Some rows of tiles, which begin at row `at` of `v`.
    pub(crate) fn of_rows(image: &'a [f32], map: Map, rows: Range<usize>, v: Shared<'_>, at: usize) -> Self {
        assert_eq!(image.len(), map.height * map.width * map.channels);
        assert!(rows.end <= map.down);
        check_tiles(A * B, &map, rows.len(), v.len(), at);
        Self { image, map, rows, v: v.at(at * map.row), tile: PhantomData }
    }
}

/// The last tile of this many rows at its last frequency lies inside `len` floats.
fn check_tiles(frequencies: usize, map: &Map, rows: usize, len: usize, at: usize) {
    let tiles = at + rows * map.across;
    assert!(tiles * map.row <= map.stride && frequencies * map.stride <= len);
}

/// Zeros in place of pixels outside the image.
static OUTSIDE: [f32; PANEL] = [0.0; PANEL];

impl<const M: usize, const A: usize, T: Tile<M, A>, const N: usize, const B: usize, U: Tile<N, B>> Kernel
    for InputTransform<'_, M, A, T, N, B, U>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let map = self.map;
        for ty in self.rows.clone() {
            for tx in 0..map.across {
                // For each pixel of the tile, a pointer to its channels and the step to the next ones: zero outside the image.
                let mut pixels = [[(OUTSIDE.as_ptr(), 0); B]; A];
                for (i, pixels) in pixels.iter_mut().enumerate() {
                    for (j, pixel) in pixels.iter_mut().enumerate() {
                        if let Some(at) = map.pixel(ty * M + i, tx * N + j) {
                            *pixel = (self.image[at..].as_ptr(), 1);
                        }
                    }
                }
                // SAFETY: pixels inside the image, tiles checked in `new`, channels a multiple of 16.
                unsafe {
                    let target = self.v.add(((ty - self.rows.start) * map.across + tx) * map.row);
                    for channel in (0..map.channels).step_by(S::WIDTH) {
                        let mut half = [[simd.zero(); B]; A];
                        for j in 0..B {
                            let mut column = [simd.zero(); A];
                            for i in 0..A {
                                let (pixel, step) = pixels[i][j];
                                column[i] = simd.load(pixel.add(step * channel));
                            }
                            let column = T::input(simd, column);
                            for i in 0..A {
                                half[i][j] = column[i];
                            }
                        }
                        for (i, row) in half.into_iter().enumerate() {
                            for (j, x) in U::input(simd, row).into_iter().enumerate() {
                                simd.store(target.add((i * B + j) * map.stride + channel), x);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `y = A' M A` of some rows of one image's tiles, of some channels.
pub(crate) struct OutputTransform<'a, const M: usize, const A: usize, T, const N: usize, const B: usize, U, F>
{
    pub(crate) map: Map,
    /// Rows of tiles.
    pub(crate) rows: Range<usize>,
    /// `[tile][frequency][block]`
    pub(crate) m: &'a [f32],
    pub(crate) block: usize,
    /// Channels, no more than a block.
    pub(crate) channels: usize,
    /// The first pixel of the first row, and floats from pixel to pixel.
    pub(crate) target: *mut f32,
    pub(crate) pixel: usize,
    /// The finish of what begins at `target`.
    pub(crate) finish: F,
    pub(crate) tile: PhantomData<(T, U)>,
}

impl<const M: usize, const A: usize, T: Tile<M, A>, const N: usize, const B: usize, U: Tile<N, B>, F: Finish>
    OutputTransform<'_, M, A, T, N, B, U, F>
{
    /// # Safety
    /// The pixels of the rows lie behind `target`, and nobody else touches their channels.
    pub(crate) unsafe fn run_on(self, isa: Isa) {
        assert!(self.channels <= self.block && self.rows.end <= self.map.down);
        assert!(self.rows.len() * self.map.across * A * B * self.block <= self.m.len());
        isa.run(self);
    }
}

impl<const M: usize, const A: usize, T: Tile<M, A>, const N: usize, const B: usize, U: Tile<N, B>, F: Finish>
    Kernel for OutputTransform<'_, M, A, T, N, B, U, F>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { map, block, pixel, .. } = self;
        for ty in self.rows.clone() {
            for tx in 0..map.across {
                let (rows, columns) = (M.min(map.height - ty * M), N.min(map.width - tx * N));
                // SAFETY: tiles and channels checked in `run_on`, pixels clipped to the image.
                unsafe {
                    let down = ty - self.rows.start;
                    let source = self.m.as_ptr().add((down * map.across + tx) * A * B * block);
                    let corner = (down * M * map.width + tx * N) * pixel;
                    let (target, finish) = (self.target.add(corner), self.finish.at(corner, 0));
                    for channel in (0..self.channels).step_by(S::WIDTH) {
                        let mut half = [[simd.zero(); B]; M];
                        for j in 0..B {
                            let mut column = [simd.zero(); A];
                            for (i, x) in column.iter_mut().enumerate() {
                                *x = simd.load(source.add((i * B + j) * block + channel));
                            }
                            let column = T::output(simd, column);
                            for i in 0..M {
                                half[i][j] = column[i];
                            }
                        }
                        for (i, row) in half.into_iter().enumerate() {
                            let row = U::output(simd, row);
                            if i < rows {
                                for (j, x) in row.into_iter().enumerate() {
                                    if j < columns {
                                        let at = (i * map.width + j) * pixel + channel;
                                        simd.store(target.add(at), finish.value(simd, at, channel, x));
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `M' = A dy A'` of one image's tiles: the adjoint of [`OutputTransform`].
struct GradientTransform<'a, const M: usize, const A: usize, T> {
    image: &'a [f32],
    map: Map,
    m: *mut f32,
    tile: PhantomData<T>,
}

impl<'a, const M: usize, const A: usize, T: Tile<M, A>> GradientTransform<'a, M, A, T> {
    fn new(image: &'a [f32], map: Map, m: Shared<'_>, at: usize) -> Self {
        assert_eq!(image.len(), map.height * map.width * map.channels);
        check_tiles(A * A, &map, map.down, m.len(), at);
        Self { image, map, m: m.at(at * map.row), tile: PhantomData }
    }
}

impl<const M: usize, const A: usize, T: Tile<M, A>> Kernel for GradientTransform<'_, M, A, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let map = self.map;
        for ty in 0..map.down {
            for tx in 0..map.across {
                let mut pixels = [[(OUTSIDE.as_ptr(), 0); M]; M];
                for (i, pixels) in pixels.iter_mut().enumerate() {
                    for (j, pixel) in pixels.iter_mut().enumerate() {
                        if let Some(at) = map.pixel(ty * M + i, tx * M + j) {
                            *pixel = (self.image[at..].as_ptr(), 1);
                        }
                    }
                }
                // SAFETY: as in `InputTransform`.
                unsafe {
                    let target = self.m.add((ty * map.across + tx) * map.row);
                    for channel in (0..map.channels).step_by(S::WIDTH) {
                        let mut half = [[simd.zero(); M]; A];
                        for j in 0..M {
                            let mut column = [simd.zero(); M];
                            for i in 0..M {
                                let (pixel, step) = pixels[i][j];
                                column[i] = simd.load(pixel.add(step * channel));
                            }
                            let column = T::output_adjoint(simd, column);
                            for i in 0..A {
                                half[i][j] = column[i];
                            }
                        }
                        for (i, row) in half.into_iter().enumerate() {
                            for (j, x) in T::output_adjoint(simd, row).into_iter().enumerate() {
                                simd.store(target.add((i * A + j) * map.stride + channel), x);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `dx += B dV B'` of one image's tiles, which overlap: the adjoint of [`InputTransform`].
struct InputAdjoint<'a, const M: usize, const A: usize, T> {
    dv: *const f32,
    map: Map,
    image: &'a mut [f32],
    tile: PhantomData<T>,
}

impl<'a, const M: usize, const A: usize, T: Tile<M, A>> InputAdjoint<'a, M, A, T> {
    fn new(dv: Shared<'_>, map: Map, at: usize, image: &'a mut [f32]) -> Self {
        assert_eq!(image.len(), map.height * map.width * map.channels);
        check_tiles(A * A, &map, map.down, dv.len(), at);
        Self { dv: dv.at(at * map.row), map, image, tile: PhantomData }
    }
}

impl<const M: usize, const A: usize, T: Tile<M, A>> Kernel for InputAdjoint<'_, M, A, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let map = self.map;
        let image = self.image.as_mut_ptr();
        for ty in 0..map.down {
            for tx in 0..map.across {
                let mut pixels = [[None; A]; A];
                for (i, pixels) in pixels.iter_mut().enumerate() {
                    for (j, pixel) in pixels.iter_mut().enumerate() {
                        *pixel = map.pixel(ty * M + i, tx * M + j);
                    }
                }
                // SAFETY: tiles checked in `new`, pixels inside the image.
                unsafe {
                    let source = self.dv.add((ty * map.across + tx) * map.row);
                    for channel in (0..map.channels).step_by(S::WIDTH) {
                        let mut half = [[simd.zero(); A]; A];
                        for j in 0..A {
                            let mut column = [simd.zero(); A];
                            for (i, x) in column.iter_mut().enumerate() {
                                *x = simd.load(source.add((i * A + j) * map.stride + channel));
                            }
                            let column = T::input_adjoint(simd, column);
                            for i in 0..A {
                                half[i][j] = column[i];
                            }
                        }
                        for (i, row) in half.into_iter().enumerate() {
                            let row = T::input_adjoint(simd, row);
                            for (j, x) in row.into_iter().enumerate() {
                                if let Some(at) = pixels[i][j] {
                                    let target = image.add(at + channel);
                                    simd.store(target, simd.add(simd.load(target), x));
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `U = G w G'` for a run of filters.
pub(crate) struct FilterTransform<const M: usize, const A: usize, T, const N: usize, const B: usize, U> {
    pub(crate) weights: *const f32,
    /// Floats between taps.
    pub(crate) filters: usize,
    pub(crate) transformed: *mut f32,
    pub(crate) stride: usize,
    pub(crate) len: usize,
    pub(crate) tile: PhantomData<(T, U)>,
}

impl<const M: usize, const A: usize, T: Tile<M, A>, const N: usize, const B: usize, U: Tile<N, B>> Kernel
    for FilterTransform<M, A, T, N, B, U>
{
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for at in (0..self.len).step_by(S::WIDTH) {
            // SAFETY: the caller has checked nine taps and A B frequencies of `len` floats.
            unsafe {
                let mut half = [[simd.zero(); 3]; A];
                for j in 0..3 {
                    let mut column = [simd.zero(); 3];
                    for (i, x) in column.iter_mut().enumerate() {
                        *x = simd.load(self.weights.add((i * 3 + j) * self.filters + at));
                    }
                    let column = T::filter(simd, column);
                    for i in 0..A {
                        half[i][j] = column[i];
                    }
                }
                for (i, row) in half.into_iter().enumerate() {
                    for (j, x) in U::filter(simd, row).into_iter().enumerate() {
                        simd.store(self.transformed.add((i * B + j) * self.stride + at), x);
                    }
                }
            }
        }
    }
}

/// `dw = G' dU G` for a run of filters: the adjoint of [`FilterTransform`].
struct FilterAdjoint<const M: usize, const A: usize, T> {
    products: *const f32,
    stride: usize,
    gradient: *mut f32,
    filters: usize,
    len: usize,
    tile: PhantomData<T>,
}

impl<const M: usize, const A: usize, T: Tile<M, A>> Kernel for FilterAdjoint<M, A, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for at in (0..self.len).step_by(S::WIDTH) {
            // SAFETY: as in `FilterTransform`.
            unsafe {
                let mut half = [[simd.zero(); A]; 3];
                for j in 0..A {
                    let mut column = [simd.zero(); A];
                    for (i, x) in column.iter_mut().enumerate() {
                        *x = simd.load(self.products.add((i * A + j) * self.stride + at));
                    }
                    let column = T::filter_adjoint(simd, column);
                    for i in 0..3 {
                        half[i][j] = column[i];
                    }
                }
                for (i, row) in half.into_iter().enumerate() {
                    for (j, x) in T::filter_adjoint(simd, row).into_iter().enumerate() {
                        simd.store(self.gradient.add((i * 3 + j) * self.filters + at), x);
                    }
                }
            }
        }
    }
}
