//! Numeric kernels for training convolutional networks on a CPU, on plain `f32` slices: no tensor type, no graph.
//!
//! * [`Convolution`]: forward and both gradients, for any kernel, stride, padding and groups, by Winograd's minimal filtering, as a matrix
//!   product over pixels or gathered patches, or channel by channel, as [`Method::choose`] decides; [`Epilogue`]: BatchNorm's scale and
//!   shift, an [`Activation`] and 2x2 maximum pooling in one pass each way.
//! * [`image_moments`] and [`BatchStatistics`]: BatchNorm's statistics, safe against cancellation.
//! * [`activation`], [`elementwise`], [`max_pool`], [`avg_pool`], [`global_average`]: the layers between convolutions, on single images;
//!   [`copy_channels`], [`subsample`] and layout conversions.
//! * [`softmax_cross_entropy`]; [`l2_norm`] and [`scale_all`], for gradient clipping; the optimizers [`adam`], [`adamw`] and [`sgd`]; a
//!   moving [`average`].
//!
//! Maps are channels-last, `(rows, columns, channels)`, with the channels [`padded`] with zeros to a multiple of 16. Every result is the
//! same, bit for bit, for every number of threads; the threads are those of the current rayon pool. Instructions are chosen at run time:
//! AVX-512, AVX2 with FMA, or plain Rust ([`Isa`]).
//!
//! A convolution and its gradients, for two images:
//!
//! ```
//! use pointwise_kernels::{ConvShape, Convolution, InputGradient, Isa, Weights, Workspace};
//!
//! let shape = ConvShape::square([8, 8], [16, 32], 3, 1);
//! let convolution = Convolution::new(Isa::detect(), shape);
//! let mut weights = vec![0.0; convolution.weight_len()];
//! convolution.import_weight(&vec![0.01; shape.weight_len()], &mut weights);
//!
//! let mut workspace = Workspace::new([convolution.need(2)]);
//! let mut output = vec![0.0; 2 * shape.output_len()];
//! let ones = |_image: usize, pixels: &mut [f32]| pixels.fill(1.0);
//! convolution.forward(Weights::Plain(&weights), 2, &ones, &mut output, &|_, _| (), &mut workspace);
//! // In the middle of the map, nine taps of sixteen channels.
//! assert!((output[(4 * 8 + 4) * 32] - 1.44).abs() < 1e-4);
//!
//! let mut dx = vec![0.0; 2 * shape.input_len()];
//! let mut dw = vec![0.0; convolution.weight_len()];
//! let input_gradient = InputGradient { values: &mut dx, add: false, finished: &|_, _| () };
//! convolution.backward(&weights, 2, &ones, &ones, Some(input_gradient), &mut dw, &mut workspace);
//! ```
//!
//! The fields of [`ConvShape`] select other kinds, such as a depthwise convolution that halves its map, rounding up:
//!
//! ```
//! use pointwise_kernels::{ConvShape, Method};
//!
//! let shape = ConvShape { stride: [2, 2], groups: 96, ..ConvShape::square([7, 9], [96, 96], 3, 1) };
//! assert_eq!(shape.output_map(), (4, 5));
//! assert_eq!(Method::choose(&shape).to_string(), "depthwise 3x3");
//! ```

pub mod activation;
mod algorithm;
mod convolution;
mod depthwise;
mod direct;
pub mod elementwise;
mod epilogue;
mod fused;
mod gemm;
mod im2col;
mod loss;
mod maps;
mod memory;
mod norm;
mod optimizer;
mod parallel;
mod patches;
mod peak;
mod pointwise;
mod pool;
mod shape;
mod simd;
mod special;
mod sums;
mod team;
mod transforms;
mod winograd;
mod workspace;

pub use activation::Activation;
pub use algorithm::{GradientSink, InputGradient, Sink, Source, Weights};
pub use convolution::{Convolution, Method};
pub use epilogue::{Affine, Epilogue, EpilogueShape, GradientAffine};
pub use fused::{FusedConvolution, FusedCost, FusedMethod, FusedParameters, FusedShape, PackedShape};
pub use loss::softmax_cross_entropy;
pub use maps::{
    ChannelRun, Subsampling, copy_channels, global_average, global_average_adjoint, subsample,
    subsample_adjoint, to_channels_last, to_planar,
};
pub use memory::{Buffer, EndingAllocator, OutOfMemory, share_arena};
pub use norm::{BatchStatistics, MOMENT_ROWS, image_moments};
pub use optimizer::{AdamStep, SgdStep, adam, adamw, average, l2_norm, scale_all, sgd};
pub use peak::peak_gflops;
pub use pool::{PoolShape, avg_pool, avg_pool_backward, max_pool, max_pool_backward};
pub use shape::{ConvShape, padded};
pub use simd::Isa;
pub use team::Team;
pub use workspace::{Workspace, WorkspaceNeed};
