//! Convolutions for inference: with fixed weights, and everything that follows them applied before a result leaves the cache.
//!
//! A [`FusedConvolution`] stores its weights in the layout in which it reads them. It divides the work of one image among the threads of a
//! [`Team`]: by rows if the map is large, by channels if the weights are, so that each weight is read by one thread only.

mod depthwise;
mod finish;
mod packed;
mod pass;
mod planes;
mod product;
mod shape;
mod winograd;

use crate::gemm::PANEL;
use crate::shape::{ConvShape, padded};
use crate::simd::Isa;
use crate::team::Team;
use crate::transforms::{F2, F3, F4, F5};
use crate::workspace::{Workspace, WorkspaceNeed};
use planes::FusedPlanes;
use std::fmt;
use winograd::FusedWinograd;

pub use packed::PackedShape;
pub use shape::{FusedParameters, FusedShape};

use pass::{Fused, Pass};
use shape::Constants;

/// How a [`FusedConvolution`] is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FusedMethod {
    /// As [`Method::Winograd`](crate::Method::Winograd), with tiles of this many rows and columns of outputs: 2 to 5 of both, or 2 rows of
    /// 4.
    Winograd([usize; 2]),
    /// A matrix product over the pixels of a 1x1 convolution of stride 1, or over patches gathered from the map.
    Product,
    /// A matrix product over runs of a packed image ([`PackedShape`]), for fewer than 16 input channels.
    Packed,
    /// Sums over the taps for vectors of pixels, of an image in planes ([`PackedShape`]); for fewer than 16 input and at most 8 output
    /// channels.
    Planes,
    /// Sums over the taps, if each output channel sees only the input channel with its own index.
    Depthwise,
}

impl fmt::Display for FusedMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Winograd([m, n]) => write!(f, "Winograd F({m}x{n}, 3x3)"),
            Self::Product => f.write_str("matrix product"),
            Self::Packed => f.write_str("product of packed rows"),
            Self::Planes => f.write_str("sums over planes"),
            Self::Depthwise => f.write_str("depthwise"),
        }
    }
}

/// The estimated cost of a method.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FusedCost {
    /// Multiply-accumulates and anything else that takes as long as one, padded channels included.
    pub macs: f64,
    /// Bytes of the weights, as they are read.
    pub weight_bytes: f64,
}

impl FusedMethod {
    /// The methods that can compute a shape and pay off for some number of images.
    ///
    /// # Panics
    /// When the shape is invalid: see [`ConvShape::is_valid`].
    #[must_use]
    pub fn candidates(shape: &ConvShape) -> Vec<Self> {
        assert!(shape.is_valid(), "no such convolution: {shape:?}");
        if shape.groups > 1 {
            let depthwise = shape.groups == shape.in_channels && shape.groups == shape.out_channels;
            return vec![if depthwise { Self::Depthwise } else { Self::Product }];
        }
        if shape.in_channels < PANEL && shape.taps() > 1 {
            let is_narrow = FusedPlanes::computes(shape);
            return [Self::Packed].into_iter().chain(is_narrow.then_some(Self::Planes)).collect();
        }
        let mut methods = vec![Self::Product];
        if shape.is_plain() && shape.kernel[0] == 3 {
            methods.extend((2..=5).map(|m| Self::Winograd([m, m])).chain([Self::Winograd([2, 4])]));
        }
        methods
    }

    /// The packed layout of the method's input, if it is not a map.
    #[must_use]
    pub fn packed(self, shape: &ConvShape) -> Option<PackedShape> {
        match self {
            Self::Packed => Some(PackedShape::pixels(shape)),
            Self::Planes => Some(PackedShape::planes(shape)),
            _ => None,
        }
    }

    /// The cost of the convolution of `images` images by this method.
    #[must_use]
    pub fn cost(self, shape: &ConvShape, images: usize) -> FusedCost {
        let (rows, columns) = shape.stored_map();
        let (inputs, outputs) = (padded(shape.in_channels), padded(shape.out_channels));
        let n = images as f64;
        let (macs, weights) = match self {
            Self::Winograd([down, across]) => {
                let tiles = (n * (rows.div_ceil(down) * columns.div_ceil(across)) as f64).max(MIN_ROWS);
                let frequencies = ((down + 2) * (across + 2)) as f64;
                let weights = frequencies * (inputs * outputs) as f64;
                // The transforms cost time per value, and do not process sixteen values per cycle.
                let transforms = frequencies * tiles * (TRANSFORM * (inputs + outputs) as f64);
                (tiles * weights + transforms, weights)
            }
            Self::Product | Self::Packed => {
                let inputs = shape.group_inputs();
                let outputs = shape.groups * padded(shape.group_outputs());
                let weights = (shape.taps() * inputs * outputs) as f64;
                let gathered =
                    if shape.taps() > 1 { TRANSFORM * (shape.taps() * inputs) as f64 } else { 0.0 };
                let pixels = n * (rows * columns) as f64;
                (pixels.max(MIN_ROWS) * weights + pixels * gathered, weights)
            }
            Self::Planes => {
                let weights = (shape.taps() * shape.in_channels * FusedPlanes::lanes(shape)) as f64;
                let pixels = n * (rows * columns.next_multiple_of(PANEL)) as f64;
                (pixels * (weights + TRANSFORM * FusedPlanes::lanes(shape) as f64), weights)
            }
            Self::Depthwise => {
                let weights = (shape.taps() * outputs) as f64;
                (n * (rows * columns) as f64 * weights * 2.0, weights)
            }
        };
        FusedCost { macs, weight_bytes: 4.0 * weights }
    }
}

/// A product of fewer rows takes as long as one of this many.
const MIN_ROWS: f64 = 4.0;

/// Multiply-accumulates that take as long as the transform of a value at one frequency.
const TRANSFORM: f64 = 8.0;

/// A convolution for inference, planned for a shape, with its weights.
pub struct FusedConvolution {
    shape: FusedShape,
    method: FusedMethod,
    input_len: usize,
    fused: Box<dyn Fused>,
}

impl fmt::Debug for FusedConvolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FusedConvolution({:?}, {})", self.shape, self.method)
    }
}

impl FusedConvolution {
    /// A convolution by one of its [`FusedMethod::candidates`].
    ///
    /// # Panics
    /// When the method cannot compute the shape, the shape's convolution has a border of its own, or a slice's length does not match the
    /// shape.
    #[must_use]
    pub fn new(isa: Isa, shape: FusedShape, method: FusedMethod, parameters: FusedParameters<'_>) -> Self {
        let conv = shape.convolution;
        assert!(FusedMethod::candidates(&conv).contains(&method), "{method} does not compute {conv:?}");
        assert!(conv.border() == 0 && parameters.rings.len() == shape.border, "a value for each ring");
        assert_eq!(parameters.weight.len(), conv.weight_len());
        assert!(parameters.rings.iter().all(|ring| ring.len() == conv.out_channels));
        assert_eq!(parameters.bias.len(), conv.out_channels);
        let constants = Constants::new(parameters);
        let weight = parameters.weight;
        let fused: Box<dyn Fused> = match method {
            FusedMethod::Winograd([2, 4]) => {
                Box::new(FusedWinograd::<2, 4, F2, 4, 6, F4>::new(isa, shape, weight, constants))
            }
            FusedMethod::Winograd([2, _]) => {
                Box::new(FusedWinograd::<2, 4, F2, 2, 4, F2>::new(isa, shape, weight, constants))
            }
            FusedMethod::Winograd([3, _]) => {
                Box::new(FusedWinograd::<3, 5, F3, 3, 5, F3>::new(isa, shape, weight, constants))
            }
            FusedMethod::Winograd([4, _]) => {
                Box::new(FusedWinograd::<4, 6, F4, 4, 6, F4>::new(isa, shape, weight, constants))
            }
            FusedMethod::Winograd(_) => {
                Box::new(FusedWinograd::<5, 7, F5, 5, 7, F5>::new(isa, shape, weight, constants))
            }
            FusedMethod::Product | FusedMethod::Packed => {
                let is_packed = method == FusedMethod::Packed;
                Box::new(product::FusedProduct::new(isa, shape, is_packed, weight, constants))
            }
            FusedMethod::Planes => {
                let packed = PackedShape::planes(&conv);
                Box::new(FusedPlanes::new(isa, shape, packed, weight, constants))
            }
            FusedMethod::Depthwise => Box::new(depthwise::FusedDepthwise::new(isa, shape, weight, constants)),
        };
        let input_len = method.packed(&conv).map_or(conv.input_len(), |packed| packed.len());
        Self { shape, method, input_len, fused }
    }

    /// The shape.
    #[must_use]
    pub fn shape(&self) -> &FusedShape {
        &self.shape
    }

    /// How it is computed.
    #[must_use]
    pub fn method(&self) -> FusedMethod {
        self.method
    }

    /// Floats of an image of the input: a channels-last map, or an image that is packed as [`FusedMethod::packed`] says.
    #[must_use]
    pub fn input_len(&self) -> usize {
        self.input_len
    }

    /// Workspace for calls with up to `images` images on up to `threads` threads.
    #[must_use]
    pub fn need(&self, images: usize, threads: usize) -> WorkspaceNeed {
        self.fused.need(images, threads)
    }

    /// Computes the output of some images. An `addend`, laid out as the output, is added before the activation.
    ///
    /// # Panics
    /// When a slice is too short for the shape and the number of images, the workspace is smaller than [`FusedConvolution::need`], or there
    /// is an addend and the shape is not [`FusedShape::is_direct`].
    pub fn run(
        &self,
        team: &mut Team<'_>,
        images: usize,
        input: &[f32],
        addend: Option<&[f32]>,
        output: &mut [f32],
        workspace: &mut Workspace,
    ) {
        workspace.check(self.need(images, team.threads()));
        assert!(addend.is_none() || self.shape.is_direct(), "nothing can be added to {:?}", self.shape);
        let len = images * self.shape.output_len();
        let pass = Pass {
            images,
            input: &input[..images * self.input_len],
            addend: addend.map(|addend| &addend[..len]),
            output: &mut output[..len],
        };
        self.fused.run(team, pass, workspace);
    }
}
