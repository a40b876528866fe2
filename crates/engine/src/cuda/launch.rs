//! The kernels' arguments, field for field as in `kernels/`, and how their work is divided. Nothing here needs a GPU.

use pointwise_network::Activation;

/// Threads of a block; `THREADS` in `kernels/common.cuh`.
pub(super) const THREADS: u32 = 256;

/// Channels of a block of the kernels that merge BatchNorm's sums; each is merged by 32 threads.
const MERGED_CHANNELS: u32 = 8;

/// Weights of a block of the kernel that sums a gradient of weights; each is summed by eight threads.
const FILTER_WEIGHTS: u32 = 32;

/// An address in the GPU's memory; 0 for an optional one that is missing.
pub(super) type Address = u64;

/// Blocks and their threads, in x and y.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) blocks: [u32; 2],
    pub(super) threads: [u32; 2],
}

impl Grid {
    /// A thread for each of `len` elements.
    pub(super) fn linear(len: usize) -> Self {
        Self { blocks: [len.div_ceil(THREADS as usize) as u32, 1], threads: [THREADS, 1] }
    }

    /// 32 threads for each channel.
    pub(super) fn merging(channels: u32) -> Self {
        let blocks = [channels.div_ceil(MERGED_CHANNELS), 1];
        Self { blocks, threads: [MERGED_CHANNELS, THREADS / MERGED_CHANNELS] }
    }
}

/// What changes from step to step, in GPU memory.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Control {
    pub(super) loss_sum: f64,
    pub(super) correct: u64,
    pub(super) samples: u64,
    pub(super) last_loss: f64,
    pub(super) gradient_norm: f64,
    pub(super) step: u64,
    pub(super) lr: f64,
    pub(super) momentum: f64,
    pub(super) bad_value: f64,
    pub(super) bad_step: u64,
    pub(super) bad: u32,
    pub(super) offset: u32,
    pub(super) epoch: u32,
    pub(super) clip: f32,
    pub(super) first: u32,
}

impl Control {
    /// The quantity that was not finite according to `bad`; `None` if all were finite.
    pub(super) fn bad_quantity(&self) -> Option<&'static str> {
        match self.bad {
            0 => None,
            1 => Some("loss"),
            _ => Some("gradient norm"),
        }
    }
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct SetRate {
    pub(super) control: Address,
    pub(super) lr: f64,
    pub(super) momentum: f64,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct GatherAugmentBatch {
    pub(super) images: Address,
    pub(super) labels: Address,
    pub(super) order: Address,
    pub(super) values: Address,
    pub(super) control: Address,
    pub(super) out: Address,
    pub(super) out_labels: Address,
    pub(super) seed: u64,
    pub(super) n: u32,
    pub(super) channels: u32,
    pub(super) height: u32,
    pub(super) width: u32,
    pub(super) padded: u32,
    pub(super) margin: i32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct NchwToNhwc {
    pub(super) images: Address,
    pub(super) out: Address,
    pub(super) n: u32,
    pub(super) channels: u32,
    pub(super) pixels: u32,
    pub(super) padded: u32,
}

/// How a matrix of rows and vectors of channels is summed: a block of threads takes `chunk` rows of some of the vectors.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiles {
    pub(super) rows: u32,
    pub(super) chunk: u32,
    pub(super) blocks: u32,
    pub(super) vectors: u32,
    pub(super) channels: u32,
}

/// About as many blocks as run on a large GPU at a time.
const BLOCKS_AT_ONCE: usize = 384;

/// The least rows that a thread sums, so that merging stays the smaller part.
const ROWS_OF_A_THREAD: usize = 8;

impl Tiles {
    /// For `rows` rows of `channels` channels, `lane` of them in a vector.
    pub(super) fn new(rows: usize, channels: usize, lane: usize) -> (Self, Grid) {
        let vectors = channels / lane;
        let columns = Self::columns(vectors);
        let (tall, across) = (THREADS as usize / columns, vectors.div_ceil(columns));
        let shared = rows.div_ceil((BLOCKS_AT_ONCE / across).max(1));
        let chunk = shared.max(tall * ROWS_OF_A_THREAD).next_multiple_of(tall);
        let blocks = rows.div_ceil(chunk);
        let tiles = Self {
            rows: rows as u32,
            chunk: chunk as u32,
            blocks: blocks as u32,
            vectors: vectors as u32,
            channels: channels as u32,
        };
        (tiles, Grid { blocks: [blocks as u32, across as u32], threads: [columns as u32, tall as u32] })
    }

    /// Threads across: of 32, 16 and 8 (or fewer, if all fit), the number that leaves the fewest idle; the largest among equals.
    fn columns(vectors: usize) -> usize {
        let most = vectors.next_power_of_two().min(32);
        let idle = |columns: usize| vectors.next_multiple_of(columns) - vectors;
        [most, 16, 8]
            .into_iter()
            .filter(|columns| *columns <= most)
            .fold(most, |best, columns| if idle(columns) < idle(best) { columns } else { best })
    }

    /// Floats of two sums of each block and channel.
    pub(super) fn partials(&self) -> usize {
        2 * self.blocks as usize * self.channels as usize
    }
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchMoments {
    pub(super) y: Address,
    pub(super) partials: Address,
    pub(super) tiles: Tiles,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct BnFinalize {
    pub(super) partials: Address,
    pub(super) weight: Address,
    pub(super) bias: Address,
    pub(super) convolution_bias: Address,
    pub(super) running_mean: Address,
    pub(super) running_var: Address,
    pub(super) scale: Address,
    pub(super) shift: Address,
    pub(super) mean: Address,
    pub(super) inv_std: Address,
    pub(super) zeros: f64,
    pub(super) eps: f64,
    pub(super) momentum: f64,
    pub(super) unit: f32,
    pub(super) tiles: Tiles,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct BnEvalScaleShift {
    pub(super) weight: Address,
    pub(super) bias: Address,
    pub(super) convolution_bias: Address,
    pub(super) running_mean: Address,
    pub(super) running_var: Address,
    pub(super) scale: Address,
    pub(super) shift: Address,
    pub(super) eps: Address,
    pub(super) units: Address,
    pub(super) channels: u32,
}

/// A map of `h` x `w` results inside a border of zeros, and the output computed from it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct BlockShape {
    pub(super) n: u32,
    pub(super) h: u32,
    pub(super) w: u32,
    pub(super) border: u32,
    pub(super) height: u32,
    pub(super) width: u32,
    pub(super) out_height: u32,
    pub(super) out_width: u32,
    pub(super) channels: u32,
    pub(super) activation: u32,
    pub(super) pool: u32,
    pub(super) real: u32,
    pub(super) slope: f32,
}

/// The number of an activation in the kernels, and its slope.
pub(super) fn activation(activation: Option<Activation>) -> (u32, f32) {
    match activation {
        None => (0, 0.0),
        Some(Activation::Relu) => (RELU, 0.0),
        Some(Activation::Relu6) => (2, 0.0),
        Some(Activation::LeakyRelu { negative_slope }) => (3, negative_slope as f32),
        Some(Activation::Gelu) => (4, 0.0),
        Some(Activation::GeluTanh) => (5, 0.0),
        Some(Activation::Silu) => (6, 0.0),
        Some(Activation::Sigmoid) => (7, 0.0),
        Some(Activation::Tanh) => (8, 0.0),
    }
}

const RELU: u32 = 1;

impl BlockShape {
    /// Whether the activation is one other than ReLU, after which there is no pool.
    pub(super) fn has_other_activation(&self) -> bool {
        self.activation > RELU
    }

    /// Windows of the map, those of a last odd row or column included.
    pub(super) fn windows(&self) -> usize {
        let side = if self.pool == 0 { 1 } else { 2 };
        self.n as usize * self.height.div_ceil(side) as usize * self.width.div_ceil(side) as usize
    }

    /// Pixels of all outputs.
    pub(super) fn outputs(&self) -> usize {
        self.n as usize * self.out_height as usize * self.out_width as usize
    }

    /// Pixels of all results.
    pub(super) fn results(&self) -> usize {
        self.n as usize * self.h as usize * self.w as usize
    }

    /// Values of a channel, those of the border included.
    pub(super) fn count(&self) -> usize {
        self.n as usize * self.height as usize * self.width as usize
    }
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct BnActForward {
    pub(super) y: Address,
    pub(super) out: Address,
    pub(super) scale: Address,
    pub(super) shift: Address,
    pub(super) shape: BlockShape,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct BnBackwardReduce {
    pub(super) y: Address,
    pub(super) gradient: Address,
    pub(super) scale: Address,
    pub(super) shift: Address,
    pub(super) mean: Address,
    pub(super) partials: Address,
    pub(super) tiles: Tiles,
    pub(super) shape: BlockShape,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct BnBackwardCoefficients {
    pub(super) partials: Address,
    pub(super) weight: Address,
    pub(super) inv_std: Address,
    pub(super) a: Address,
    pub(super) b: Address,
    pub(super) c: Address,
    pub(super) weight_gradient: Address,
    pub(super) bias_gradient: Address,
    pub(super) count: f64,
    pub(super) unit: f32,
    pub(super) tiles: Tiles,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct BnActBackward {
    pub(super) y: Address,
    pub(super) gradient: Address,
    pub(super) out: Address,
    pub(super) scale: Address,
    pub(super) shift: Address,
    pub(super) mean: Address,
    pub(super) a: Address,
    pub(super) b: Address,
    pub(super) c: Address,
    pub(super) shape: BlockShape,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct MapPass {
    pub(super) from: Address,
    pub(super) to: Address,
    pub(super) n: u32,
    pub(super) pixels: u32,
    pub(super) channels: u32,
    pub(super) padded: u32,
    pub(super) vector: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct DropoutPass {
    pub(super) from: Address,
    pub(super) to: Address,
    pub(super) control: Address,
    pub(super) seed: u64,
    pub(super) layer: u32,
    pub(super) threshold: f32,
    pub(super) scale: f32,
    pub(super) n: u32,
    pub(super) pixels: u32,
    pub(super) channels: u32,
    pub(super) padded: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct CrossEntropyRows {
    pub(super) logits: Address,
    pub(super) labels: Address,
    pub(super) gradient: Address,
    pub(super) rows: Address,
    pub(super) smoothing: f64,
    pub(super) n: u32,
    pub(super) classes: u32,
    pub(super) padded: u32,
}

impl CrossEntropyRows {
    /// Threads across share a row, with about four or more classes each.
    pub(super) fn grid(n: usize, classes: usize) -> Grid {
        let across = classes.div_ceil(4).next_power_of_two().min(THREADS as usize) as u32;
        let tall = THREADS / across;
        Grid { blocks: [(n as u32).div_ceil(tall), 1], threads: [across, tall] }
    }
}

/// The loss's result for an image.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RowLoss {
    pub(super) loss: f64,
    pub(super) correct: u32,
}

/// A group of parameters. The factor of a frozen group is negative.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Group {
    pub(super) lr_factor: f64,
    pub(super) weight_decay: f64,
}

/// What a step does to the parameters of a group.
#[repr(C, align(16))]
#[derive(Debug, Clone, Copy)]
pub(super) struct StepConstants {
    pub(super) rate: f32,
    pub(super) decay: f32,
    pub(super) momentum: f32,
    pub(super) inverse_root: f32,
}

/// What an optimizer keeps from step to step.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OptimizerConstants {
    pub(super) second_beta: f64,
    pub(super) second_decay: f32,
    pub(super) second_rate: f32,
    pub(super) eps: f32,
    pub(super) nesterov: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct CrossEntropyTotal {
    pub(super) rows: Address,
    pub(super) control: Address,
    pub(super) groups: Address,
    pub(super) constants: Address,
    pub(super) optimizer: OptimizerConstants,
    pub(super) kind: u32,
    pub(super) group_count: u32,
    pub(super) n: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct GradientNorm {
    pub(super) weight_gradients: Address,
    pub(super) vector_gradients: Address,
    pub(super) partials: Address,
    pub(super) control: Address,
    pub(super) most: f64,
    pub(super) weights: u32,
    pub(super) length: u32,
    pub(super) blocks: u32,
}

/// The arguments of the kernel that computes a factor from the sums of [`GradientNorm`].
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub(super) struct ClipGradients(pub(super) GradientNorm);

impl GradientNorm {
    /// Blocks that divide the gradients of `parameters` values, four per thread.
    pub(super) fn blocks(parameters: usize) -> usize {
        parameters.div_ceil(4 * THREADS as usize).clamp(1, BLOCKS_AT_ONCE)
    }
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Update {
    pub(super) values: Address,
    pub(super) first: Address,
    pub(super) second: Address,
    pub(super) weight_gradients: Address,
    pub(super) vector_gradients: Address,
    pub(super) copies: Address,
    pub(super) statistics: Address,
    pub(super) average: Address,
    pub(super) average_statistics: Address,
    pub(super) control: Address,
    pub(super) constants: Address,
    pub(super) groups: Address,
    pub(super) optimizer: OptimizerConstants,
    pub(super) average_share: f32,
    pub(super) from_average: u32,
    pub(super) weights: u32,
    pub(super) length: u32,
    pub(super) statistics_length: u32,
    pub(super) n: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct SwapAverage {
    pub(super) values: Address,
    pub(super) average: Address,
    pub(super) statistics: Address,
    pub(super) average_statistics: Address,
    pub(super) copies: Address,
    pub(super) weights: u32,
    pub(super) length: u32,
    pub(super) statistics_length: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Lookahead {
    pub(super) values: Address,
    pub(super) slow: Address,
    pub(super) statistics: Address,
    pub(super) slow_statistics: Address,
    pub(super) copies: Address,
    pub(super) control: Address,
    pub(super) share: f32,
    pub(super) from_slow: u32,
    pub(super) weights: u32,
    pub(super) length: u32,
    pub(super) statistics_length: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct ElementsPass {
    pub(super) a: Address,
    pub(super) b: Address,
    pub(super) out: Address,
    pub(super) factor: f32,
    pub(super) vectors: u32,
    pub(super) relu: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct MultiplyPass {
    pub(super) a: Address,
    pub(super) b: Address,
    pub(super) out: Address,
    pub(super) n: u32,
    pub(super) pixels: u32,
    pub(super) padded: u32,
    pub(super) a_is_gate: u32,
    pub(super) b_is_gate: u32,
}

/// A product whose `out` is a gate's gradient.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub(super) struct GateBackward(pub(super) MultiplyPass);

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct CopyChannels {
    pub(super) from: Address,
    pub(super) to: Address,
    pub(super) pixels: u32,
    pub(super) from_padded: u32,
    pub(super) from_first: u32,
    pub(super) to_padded: u32,
    pub(super) to_first: u32,
    pub(super) before: u32,
    pub(super) channels: u32,
    pub(super) span: u32,
}

/// Windows over a map, rows first.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Windows {
    pub(super) n: u32,
    pub(super) height: u32,
    pub(super) width: u32,
    pub(super) out_height: u32,
    pub(super) out_width: u32,
    pub(super) kernel: [u32; 2],
    pub(super) stride: [u32; 2],
    pub(super) padding: [u32; 2],
}

impl Windows {
    /// Pixels of all outputs.
    pub(super) fn outputs(&self) -> usize {
        self.n as usize * self.out_height as usize * self.out_width as usize
    }

    /// Pixels of all inputs.
    pub(super) fn inputs(&self) -> usize {
        self.n as usize * self.height as usize * self.width as usize
    }
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolPass {
    pub(super) x: Address,
    pub(super) gradient: Address,
    pub(super) out: Address,
    pub(super) windows: Windows,
    pub(super) padded: u32,
    pub(super) include_padding: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct GroupedConv {
    pub(super) x: Address,
    pub(super) w: Address,
    pub(super) y: Address,
    pub(super) out: Address,
    pub(super) windows: Windows,
    pub(super) in_padded: u32,
    pub(super) out_padded: u32,
    pub(super) in_group: u32,
    pub(super) out_group: u32,
    pub(super) outputs: u32,
    pub(super) depthwise: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct GroupedConvFilter {
    pub(super) convolution: GroupedConv,
    pub(super) partials: Address,
    pub(super) weights: u32,
    pub(super) chunk: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct MergeFilterPartials {
    pub(super) partials: Address,
    pub(super) out: Address,
    pub(super) weights: u32,
    pub(super) chunks: u32,
}

/// How the sums of a weight gradient over pixels are divided: 32 weights and `chunk` pixels to a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunks {
    pub(super) chunk: u32,
    pub(super) chunks: u32,
}

impl Chunks {
    /// The least pixels of a block, so that merging stays the smaller part.
    const LEAST: usize = 64;

    pub(super) fn new(weights: usize, pixels: usize) -> (Self, Grid) {
        let across = weights.div_ceil(FILTER_WEIGHTS as usize);
        let chunk = pixels.div_ceil((BLOCKS_AT_ONCE / across).max(1)).max(Self::LEAST);
        let chunks = Self { chunk: chunk as u32, chunks: pixels.div_ceil(chunk) as u32 };
        let threads = [FILTER_WEIGHTS, THREADS / FILTER_WEIGHTS];
        (chunks, Grid { blocks: [across as u32, chunks.chunks], threads })
    }
}

/// For the test that compares these structures with the kernels'.
#[cfg(test)]
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) sizes: Address,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_and_vector_is_summed_once() {
        for rows in [1, 2, 7, 8, 63, 64, 65, 126 * 1024, 104 * 81, 12] {
            for (channels, lane) in
                [(4, 4), (12, 4), (64, 4), (192, 4), (384, 4), (36, 4), (16, 8), (192, 8), (1024, 8)]
            {
                let (tiles, grid) = Tiles::new(rows, channels, lane);
                let case = format!("{rows} x {channels} by {lane}: {tiles:?} {grid:?}");
                assert_eq!(grid.threads[0] * grid.threads[1], THREADS, "{case}");
                // The sums are halved until one is left.
                assert!(grid.threads[0].is_power_of_two(), "{case}");
                assert_eq!(grid.blocks[0], tiles.blocks, "{case}");
                assert!(tiles.blocks * tiles.chunk >= tiles.rows, "{case}");
                // No block without a row: its count would be negative.
                assert!((tiles.blocks - 1) * tiles.chunk < tiles.rows, "{case}");
                assert!(grid.blocks[1] * grid.threads[0] >= tiles.vectors, "{case}");
                assert!((grid.blocks[1] - 1) * grid.threads[0] < tiles.vectors, "{case}");
                assert_eq!(tiles.partials(), 2 * tiles.blocks as usize * channels);
            }
        }
    }

    #[test]
    fn threads_side_by_side_waste_little() {
        let columns = |vectors| Tiles::columns(vectors);
        // Channels 64, 192, 256 and 384 in f32; 64 and 192 in bf16; ten classes.
        assert_eq!([16, 48, 64, 96, 8, 24, 3].map(columns), [16, 16, 32, 32, 8, 8, 4]);
    }

    #[test]
    fn every_pixel_is_in_one_chunk() {
        for weights in [1, 9, 32, 33, 24 * 9, 1 << 20] {
            for pixels in [1, 63, 64, 65, 126 * 1024] {
                let (Chunks { chunk, chunks }, grid) = Chunks::new(weights, pixels);
                assert!((chunks - 1) * chunk < pixels as u32 && pixels as u32 <= chunks * chunk);
                assert!(grid.blocks[0] as usize * 32 >= weights && grid.blocks[1] <= BLOCKS_AT_ONCE as u32);
            }
        }
    }

    #[test]
    fn every_row_of_the_loss_has_its_threads() {
        for classes in [1, 2, 4, 5, 10, 100, 1000, 1024, 1025, 1 << 16] {
            for n in [1, 2, 63, 64, 65, 126, 1 << 16] {
                let Grid { blocks: [blocks, 1], threads: [across, tall] } =
                    CrossEntropyRows::grid(n, classes)
                else {
                    panic!("{classes} classes take a second dimension");
                };
                let case = format!("{n} x {classes}: {blocks} blocks of {across} x {tall}");
                assert!(across.is_power_of_two() && across * tall == THREADS, "{case}");
                // A thread without a class would have no largest one.
                assert!(across as usize <= classes, "{case}");
                assert!((blocks * tall) as usize >= n && ((blocks - 1) * tall) < n as u32, "{case}");
            }
        }
    }

    #[test]
    fn windows_cover_an_odd_map() {
        let shape = BlockShape {
            n: 2,
            h: 7,
            w: 5,
            border: 1,
            height: 9,
            width: 7,
            out_height: 4,
            out_width: 3,
            channels: 4,
            activation: 1,
            pool: 1,
            real: 3,
            slope: 0.0,
        };
        assert_eq!((shape.windows(), shape.outputs(), shape.results(), shape.count()), (40, 24, 70, 126));
    }
}
