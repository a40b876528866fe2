//! What the kernels take, field for field as in `kernels.cu`, and how their work is shared out. Nothing here needs a GPU.

/// Threads of a block; `THREADS` in `kernels.cu`.
pub(super) const THREADS: u32 = 256;

/// Channels of a block of the kernels that merge partial sums; each is summed by eight threads.
pub(super) const MERGED_CHANNELS: u32 = 32;

/// An address in the GPU's memory; 0 where a kernel may do without.
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

    /// Eight threads for each channel.
    pub(super) fn merging(channels: u32) -> Self {
        let blocks = [channels.div_ceil(MERGED_CHANNELS), 1];
        Self { blocks, threads: [MERGED_CHANNELS, THREADS / MERGED_CHANNELS] }
    }
}

/// What changes from step to step, in the GPU's memory.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Control {
    pub(super) loss_sum: f64,
    pub(super) correct: u64,
    pub(super) samples: u64,
    pub(super) last_loss: f64,
    pub(super) step: u64,
    pub(super) bad_loss: f64,
    pub(super) bad_step: u64,
    pub(super) bad: u32,
    pub(super) offset: u32,
    pub(super) epoch: u32,
    pub(super) rate: f32,
    pub(super) inverse_root: f32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Assemble {
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
pub(super) struct Import {
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

/// About as many blocks as are on a large GPU at a time.
const BLOCKS_AT_ONCE: usize = 384;

/// Rows that a thread sums at least, so that the merging stays the smaller part.
const ROWS_OF_A_THREAD: usize = 8;

impl Tiles {
    /// Of `rows` rows of `channels` channels, `lane` of them in a vector.
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

    /// Threads side by side: of 32, 16 and 8 (or less, where all fit) what leaves the fewest idle, of equals the most.
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
pub(super) struct Moments {
    pub(super) y: Address,
    pub(super) partials: Address,
    pub(super) tiles: Tiles,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Normalise {
    pub(super) partials: Address,
    pub(super) weight: Address,
    pub(super) bias: Address,
    pub(super) convolution_bias: Address,
    pub(super) running_mean: Address,
    pub(super) running_var: Address,
    pub(super) scale: Address,
    pub(super) shift: Address,
    pub(super) center: Address,
    pub(super) root: Address,
    pub(super) zeros: f64,
    pub(super) eps: f64,
    pub(super) momentum: f64,
    pub(super) tiles: Tiles,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Evaluation {
    pub(super) weight: Address,
    pub(super) bias: Address,
    pub(super) convolution_bias: Address,
    pub(super) running_mean: Address,
    pub(super) running_var: Address,
    pub(super) scale: Address,
    pub(super) shift: Address,
    pub(super) eps: f64,
    pub(super) channels: u32,
}

/// A map of `h` x `w` results inside a border of zeros, and the output that is made of it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) n: u32,
    pub(super) h: u32,
    pub(super) w: u32,
    pub(super) border: u32,
    pub(super) height: u32,
    pub(super) width: u32,
    pub(super) out_height: u32,
    pub(super) out_width: u32,
    pub(super) channels: u32,
    pub(super) relu: u32,
    pub(super) pool: u32,
}

impl Shape {
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
pub(super) struct Apply {
    pub(super) y: Address,
    pub(super) out: Address,
    pub(super) scale: Address,
    pub(super) shift: Address,
    pub(super) shape: Shape,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Reduce {
    pub(super) y: Address,
    pub(super) gradient: Address,
    pub(super) scale: Address,
    pub(super) shift: Address,
    pub(super) center: Address,
    pub(super) partials: Address,
    pub(super) tiles: Tiles,
    pub(super) shape: Shape,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Coefficients {
    pub(super) partials: Address,
    pub(super) weight: Address,
    pub(super) root: Address,
    pub(super) a: Address,
    pub(super) b: Address,
    pub(super) c: Address,
    pub(super) weight_gradient: Address,
    pub(super) bias_gradient: Address,
    pub(super) count: f64,
    pub(super) tiles: Tiles,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Gradient {
    pub(super) y: Address,
    pub(super) gradient: Address,
    pub(super) out: Address,
    pub(super) scale: Address,
    pub(super) shift: Address,
    pub(super) center: Address,
    pub(super) a: Address,
    pub(super) b: Address,
    pub(super) c: Address,
    pub(super) shape: Shape,
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
pub(super) struct Loss {
    pub(super) logits: Address,
    pub(super) labels: Address,
    pub(super) gradient: Address,
    pub(super) control: Address,
    pub(super) lr: f64,
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) n: u32,
    pub(super) classes: u32,
    pub(super) padded: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct AdamPass {
    pub(super) values: Address,
    pub(super) first: Address,
    pub(super) second: Address,
    pub(super) weight_gradients: Address,
    pub(super) vector_gradients: Address,
    pub(super) copies: Address,
    pub(super) control: Address,
    pub(super) weight_decay: f32,
    pub(super) first_rate: f32,
    pub(super) second_decay: f32,
    pub(super) second_rate: f32,
    pub(super) eps: f32,
    pub(super) weights: u32,
    pub(super) length: u32,
    pub(super) n: u32,
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
    fn windows_cover_an_odd_map() {
        let shape = Shape {
            n: 2,
            h: 7,
            w: 5,
            border: 1,
            height: 9,
            width: 7,
            out_height: 4,
            out_width: 3,
            channels: 4,
            relu: 1,
            pool: 1,
        };
        assert_eq!((shape.windows(), shape.outputs(), shape.results(), shape.count()), (40, 24, 70, 126));
    }
}
