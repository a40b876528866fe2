//! Winograd's minimal filtering in inference.

use super::finish::FinishMap;
use super::pass::{Fused, Pass, parts, share};
use super::shape::{Constants, FusedShape};
use crate::gemm::{Finish, FinishedProduct, Keep, KeepFar, PAIR};
use crate::memory::{Buffer, Shared};
use crate::parallel::for_each_task;
use crate::shape::padded;
use crate::simd::Isa;
use crate::team::Team;
use crate::transforms::Tile;
use crate::winograd::{
    FilterTransform, InputTransform, Map, OutputTransform, frequency_stride, largest_stride, row,
};
use crate::workspace::{Workspace, WorkspaceNeed, aligned, carve};
use std::marker::PhantomData;
use std::ops::Range;

/// Floats of `V` and of a block of `M` that a thread works on by itself: they stay in the L2 cache.
const OWN_FLOATS: usize = 160 << 10;

/// Floats of `V` that all threads share: they stay in the L3 cache.
const SHARED_FLOATS: usize = 1 << 20;

/// Tiles of a product over a shared `V`, if an image has no more.
const SHARED_TILES: usize = 48;

/// Channels that are computed and transformed back before the next ones, where a thread has all of them.
const BLOCK: usize = 2 * PAIR;

pub(super) struct FusedWinograd<const M: usize, const A: usize, T, const N: usize, const B: usize, U> {
    isa: Isa,
    shape: FusedShape,
    /// Padded channels.
    inputs: usize,
    outputs: usize,
    /// Tiles of an image, down and across.
    down: usize,
    across: usize,
    /// `[pair of panels][frequency][in][32]`
    weights: Buffer,
    constants: Constants,
    tile: PhantomData<(T, U)>,
}

/// The scope of a task: rows of the output of some images, and the rows of tiles under them.
struct Piece {
    images: Range<usize>,
    rows: Range<usize>,
    tiles: Range<usize>,
}

impl<const M: usize, const A: usize, T: Tile<M, A>, const N: usize, const B: usize, U: Tile<N, B>>
    FusedWinograd<M, A, T, N, B, U>
{
    pub(super) fn new(isa: Isa, shape: FusedShape, weight: &[f32], constants: Constants) -> Self {
        let conv = shape.convolution;
        let (inputs, outputs) = (padded(conv.in_channels), padded(conv.out_channels));
        let pairs = outputs.div_ceil(PAIR);
        let panel = inputs * PAIR;
        let mut weights = Buffer::new(A * B * pairs * panel);
        let target = Shared::new(&mut weights);
        for_each_task(pairs, |pair| {
            // `[tap][in][32]`
            let mut plain = vec![0.0; 9 * panel];
            let columns = weight.chunks_exact(9 * conv.in_channels).skip(pair * PAIR).take(PAIR);
            for (column, filters) in columns.enumerate() {
                for (input, filter) in filters.chunks_exact(9).enumerate() {
                    for (tap, weight) in filter.iter().enumerate() {
                        plain[(tap * inputs + input) * PAIR + column] = *weight;
                    }
                }
            }
            let len = A * B * panel;
            // SAFETY: every task has its own pair of panels.
            let transformed = unsafe { target.part(pair * len..(pair + 1) * len) };
            isa.run(FilterTransform::<M, A, T, N, B, U> {
                weights: plain.as_ptr(),
                filters: panel,
                transformed: transformed.as_mut_ptr(),
                stride: panel,
                len: panel,
                tile: PhantomData,
            });
        });
        let (rows, columns) = conv.stored_map();
        Self {
            isa,
            shape,
            inputs,
            outputs,
            down: rows.div_ceil(M),
            across: columns.div_ceil(N),
            weights,
            constants,
            tile: PhantomData,
        }
    }

    fn tiles(&self) -> usize {
        self.down * self.across
    }

    /// Floats of `V` of an image.
    fn v_image(&self) -> usize {
        A * B * self.tiles() * row(self.inputs)
    }

    /// Rows of the output after which an image can be cut: those that share their tiles with no others.
    fn unit(&self) -> usize {
        let (rows, _) = self.shape.output_map();
        match (self.shape.border, self.shape.pool) {
            (0, false) => M,
            (0, true) => {
                if M.is_multiple_of(2) {
                    M / 2
                } else {
                    M
                }
            }
            _ => rows,
        }
    }

    fn units(&self) -> usize {
        self.shape.output_map().0.div_ceil(self.unit())
    }

    /// Whether the threads divide the channels and share one `V`: if the weights are larger than `V`.
    fn is_by_columns(&self) -> bool {
        let weights = A * B * self.inputs * self.outputs;
        (weights > 2 * self.v_image() || self.units() == 1) && self.outputs >= 2 * PAIR
    }

    /// Floats of `V` and of a block of `M` of an image.
    fn piece_image(&self) -> usize {
        self.v_image() + A * B * self.tiles() * BLOCK.min(self.outputs.next_multiple_of(PAIR))
    }

    /// Images of a task, or parts of an image, if tasks cover all channels.
    fn pieces(&self, images: usize, threads: usize) -> (usize, usize) {
        let image = self.piece_image();
        let several = (OWN_FLOATS / image).min(images.div_ceil(threads)).max(1);
        if several > 1 {
            return (images.div_ceil(images.div_ceil(several).next_multiple_of(threads)), 1);
        }
        (1, parts(images, threads, image.div_ceil(OWN_FLOATS), self.units()))
    }

    /// Images whose `V` the threads share.
    fn shared_images(&self, images: usize) -> usize {
        let most = (SHARED_FLOATS / self.v_image()).clamp(1, images.max(1));
        images.div_ceil(images.div_ceil(most).max(1)).max(1)
    }

    /// Images of a product over a shared `V`.
    fn product_images(&self) -> usize {
        (SHARED_TILES / self.tiles()).max(1)
    }

    /// Channels of a task, if the threads divide them.
    fn block(&self, threads: usize) -> usize {
        let pairs = self.outputs.div_ceil(PAIR);
        if pairs.is_multiple_of(2 * threads) || pairs >= 8 * threads { BLOCK } else { PAIR }
    }

    fn input_map(&self, stride: usize) -> Map {
        let conv = &self.shape.convolution;
        Map {
            height: conv.height,
            width: conv.width,
            padding: conv.padding[0],
            channels: self.inputs,
            down: self.down,
            across: self.across,
            row: row(self.inputs),
            stride,
        }
    }

    fn output_map(&self) -> Map {
        let (height, width) = self.shape.convolution.stored_map();
        let (down, across) = (self.down, self.across);
        Map { height, width, padding: 0, channels: self.outputs, down, across, row: 0, stride: 0 }
    }

    /// Floats of the results of a piece, before they are finished.
    fn results_len(&self, tile_rows: usize, block: usize) -> usize {
        let (_, columns) = self.shape.convolution.stored_map();
        if self.shape.is_direct() { 0 } else { aligned(tile_rows * M * columns * block) }
    }

    /// `M` of some channels from the products of this many tiles, which begin at `v`.
    fn products(
        &self,
        tiles: usize,
        v: &[f32],
        stride: usize,
        channels: &Range<usize>,
        m: &mut [f32],
        block: usize,
    ) {
        let panel = self.inputs * PAIR;
        assert!(m.len() >= tiles * A * B * block && channels.len() <= block);
        assert!(v.len() >= (A * B - 1) * stride + (tiles - 1) * row(self.inputs) + self.inputs);
        for (offset, channel) in channels.clone().step_by(PAIR).enumerate() {
            let weights = &self.weights[channel / PAIR * A * B * panel..][..A * B * panel];
            for (frequency, weights) in weights.chunks_exact(panel).enumerate() {
                let product = FinishedProduct {
                    m: tiles,
                    n: PAIR.min(channels.end - channel),
                    runs: 1,
                    run: self.inputs,
                    a: v[frequency * stride..].as_ptr(),
                    a_run: 0,
                    lda: row(self.inputs),
                    b: weights.as_ptr(),
                    c: m[frequency * block + offset * PAIR..].as_mut_ptr(),
                    ldc: A * B * block,
                    finish: KeepFar,
                };
                // SAFETY: the tiles of `V` and `M` were checked above.
                unsafe { product.run_on(self.isa) };
            }
        }
    }

    /// The output of a piece, of some channels, from its `M`.
    fn finish(
        &self,
        piece: &Piece,
        channels: &Range<usize>,
        (m, block): (&[f32], usize),
        results: &mut [f32],
        addend: Option<&[f32]>,
        output: Shared<'_>,
    ) {
        let map = self.output_map();
        let (_, columns) = self.shape.output_map();
        let tiles = piece.tiles.len() * self.across * A * B * block;
        for (number, image) in piece.images.clone().enumerate() {
            let m = &m[number * tiles..(number + 1) * tiles];
            let at =
                image * self.shape.output_len() + piece.rows.start * columns * self.outputs + channels.start;
            let end = image * self.shape.output_len() + piece.rows.end * columns * self.outputs;
            assert!(end <= output.len());
            if self.shape.is_direct() {
                let finish = self.constants.clamp(self.shape.activation, channels.start, addend, at);
                self.back(map, piece, channels.len(), (m, block), (output.at(at), self.outputs), finish);
                continue;
            }
            self.back(map, piece, channels.len(), (m, block), (results.as_mut_ptr(), block), Keep);
            let finish = FinishMap {
                shape: &self.shape,
                constants: &self.constants,
                results,
                block,
                rows: piece.rows.clone(),
                channels: channels.clone(),
                target: output.at(at),
                pixel: self.outputs,
            };
            // SAFETY: every task has its own rows or channels of the output.
            unsafe { finish.run_on(self.isa) };
        }
    }

    fn back<F: Finish>(
        &self,
        map: Map,
        piece: &Piece,
        channels: usize,
        (m, block): (&[f32], usize),
        (target, pixel): (*mut f32, usize),
        finish: F,
    ) {
        let rows = piece.tiles.clone();
        let transform = OutputTransform::<M, A, T, N, B, U, F> {
            map,
            rows,
            m,
            block,
            channels,
            target,
            pixel,
            finish,
            tile: PhantomData,
        };
        // SAFETY: rows of the piece in the output, or results, which have room for them.
        unsafe { transform.run_on(self.isa) };
    }

    /// Tasks of all channels: some images each, or a part of one.
    fn run_pieces(&self, team: &mut Team<'_>, pass: Pass<'_>, workspace: &mut Workspace) {
        let Pass { images, input, addend, output } = pass;
        let (several, parts) = self.pieces(images, team.threads());
        let (rows, _) = self.shape.output_map();
        let image_len = self.shape.convolution.input_len();
        let lengths = self.piece_parts(several, parts);
        let output = Shared::new(output);
        team.for_each_with(&mut workspace.workers, images.div_ceil(several) * parts, |memory, task| {
            let first = task / parts * several;
            let units = share(self.units(), parts, task % parts);
            let unit = self.unit();
            let rows = units.start * unit..rows.min(units.end * unit);
            let stored = self.shape.stored_rows(&rows);
            let piece = Piece {
                images: first..images.min(first + several),
                rows,
                tiles: stored.start / M..stored.end.div_ceil(M),
            };
            let image_tiles = piece.tiles.len() * self.across;
            let tiles = piece.images.len() * image_tiles;
            let stride = frequency_stride(tiles, row(self.inputs));
            let [v, m, results] = carve(memory, lengths);
            let map = self.input_map(stride);
            {
                let v = Shared::new(v);
                for (number, image) in piece.images.clone().enumerate() {
                    let image = &input[image * image_len..(image + 1) * image_len];
                    let at = number * image_tiles;
                    self.isa.run(InputTransform::<M, A, T, N, B, U>::of_rows(
                        image,
                        map,
                        piece.tiles.clone(),
                        v,
                        at,
                    ));
                }
            }
            for channel in (0..self.outputs).step_by(BLOCK) {
                let channels = channel..self.outputs.min(channel + BLOCK);
                self.products(tiles, v, stride, &channels, m, BLOCK);
                self.finish(&piece, &channels, (m, BLOCK), results, addend, output);
            }
        });
    }

    /// Parts of a worker's memory: `V`, `M`, results.
    fn piece_parts(&self, images: usize, parts: usize) -> [usize; 3] {
        let tile_rows = match parts {
            1 => self.down,
            _ => {
                let scale = if self.shape.pool { 2 } else { 1 };
                (self.units().div_ceil(parts) * self.unit() * scale).div_ceil(M).min(self.down)
            }
        };
        let tiles = images * tile_rows * self.across;
        [
            A * B * largest_stride(tiles, row(self.inputs)),
            tiles * A * B * BLOCK,
            self.results_len(tile_rows, BLOCK),
        ]
    }

    /// Tasks of some channels of all images.
    fn run_columns(&self, team: &mut Team<'_>, pass: Pass<'_>, workspace: &mut Workspace) {
        let Pass { images, input, addend, output } = pass;
        let image_len = self.shape.convolution.input_len();
        let (rows, _) = self.shape.output_map();
        let block = self.block(team.threads());
        let lengths = self.column_parts(block);
        let output = Shared::new(output);
        let group = self.shared_images(images);
        for first in (0..images).step_by(group) {
            let count = group.min(images - first);
            let stride = frequency_stride(count * self.tiles(), row(self.inputs));
            let map = self.input_map(stride);
            {
                let v = Shared::new(&mut workspace.shared[..A * B * stride]);
                team.for_each(count * self.down, |_, task| {
                    let (number, down) = (task / self.down, task % self.down);
                    let image = &input[(first + number) * image_len..(first + number + 1) * image_len];
                    let at = number * self.tiles() + down * self.across;
                    self.isa.run(InputTransform::<M, A, T, N, B, U>::of_rows(
                        image,
                        map,
                        down..down + 1,
                        v,
                        at,
                    ));
                });
            }
            let v = &workspace.shared[..A * B * stride];
            team.for_each_with(&mut workspace.workers, self.outputs.div_ceil(block), |memory, task| {
                let channels = task * block..self.outputs.min((task + 1) * block);
                let [m, results] = carve(memory, lengths);
                for number in (0..count).step_by(self.product_images()) {
                    let several = self.product_images().min(count - number);
                    let v = &v[number * self.tiles() * row(self.inputs)..];
                    self.products(several * self.tiles(), v, stride, &channels, m, block);
                    let images = first + number..first + number + several;
                    let piece = Piece { images, rows: 0..rows, tiles: 0..self.down };
                    self.finish(&piece, &channels, (m, block), results, addend, output);
                }
            });
        }
    }

    fn column_parts(&self, block: usize) -> [usize; 2] {
        [self.product_images() * self.tiles() * A * B * block, self.results_len(self.down, block)]
    }
}

impl<const M: usize, const A: usize, T: Tile<M, A>, const N: usize, const B: usize, U: Tile<N, B>> Fused
    for FusedWinograd<M, A, T, N, B, U>
{
    fn need(&self, images: usize, threads: usize) -> WorkspaceNeed {
        if self.is_by_columns() {
            let tiles = self.shared_images(images) * self.tiles();
            let worker = self.column_parts(BLOCK).iter().sum();
            return WorkspaceNeed { shared: A * B * largest_stride(tiles, row(self.inputs)), worker };
        }
        let (several, _) = self.pieces(images.max(1), threads);
        // Fewer images may go in fewer parts, but not in fewer than this.
        let least = self.piece_image().div_ceil(OWN_FLOATS).clamp(1, self.units());
        let needs =
            [self.piece_parts(several, if several > 1 { 1 } else { least }), self.piece_parts(1, least)];
        let worker = needs.iter().map(|parts| parts.iter().sum()).max().unwrap_or(0);
        WorkspaceNeed { shared: 0, worker }
    }

    fn run(&self, team: &mut Team<'_>, pass: Pass<'_>, workspace: &mut Workspace) {
        if pass.images == 0 {
        } else if self.is_by_columns() {
            self.run_columns(team, pass, workspace);
        } else {
            self.run_pieces(team, pass, workspace);
        }
    }
}
