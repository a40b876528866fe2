//! Convolutions over batches of channels-last images, forward and both gradients.

use crate::algorithm::{Algorithm, Backward, InputGradient, Output, Sink, Source, Weights};
use crate::depthwise::Depthwise;
use crate::direct::Direct;
use crate::gemm::PANEL;
use crate::im2col::Im2col;
use crate::patches::Patches;
use crate::pointwise::Pointwise;
use crate::shape::ConvShape;
use crate::simd::Isa;
use crate::transforms::{F2, F3, F4, F5};
use crate::winograd::Winograd;
use crate::workspace::{Workspace, WorkspaceNeed};
use std::fmt;

use crate::shape::padded;

/// How a convolution is computed.
///
/// A NaN in the input or in a gradient propagates as the definition says; groups are never merged with zeros between them, which would
/// spread it across groups. There are three exceptions. Winograd spreads a NaN to the other outputs of its tiles. Patches and packed images
/// contain the padding's zeros, so a NaN in the gradient at the edge of the map reaches all taps of its output channel's weights. And with
/// a single group, the padding channels, zero otherwise, may be NaN together with the rest of their pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Winograd's minimal filtering with tiles of this many outputs per side, 2 to 5; for kernel 3, stride 1, the same padding on all
    /// sides, one group.
    ///
    /// The transforms amplify rounding. Against `f64`, with 96 input channels, outputs and both gradients have at most this relative error
    /// (root mean square): 4e-7 for 2, 1.3e-6 for 3, 2.5e-6 for 4, 4e-6 for 5; a direct sum in `f32` has 3.3e-7.
    Winograd(usize),
    /// A matrix product over the pixels; for kernel 1 and one group, with stride 1 and the same padding on all sides, or any stride and no
    /// padding: the product then runs over the sampled pixels alone.
    Pointwise,
    /// A matrix product over patches read directly from a packed copy of the image; for fewer than 16 input channels, any kernel, stride
    /// and padding with one group.
    Direct,
    /// A matrix product over patches gathered a channel at a time; for any kernel, stride and padding with one group.
    Im2col,
    /// A matrix product over patches gathered a pixel at a time, with all its channels; for any kernel, stride and padding with one group.
    Im2colByPixel,
    /// [`Method::Im2colByPixel`] for one group after the other; for any convolution.
    ///
    /// A group's outputs are padded to a multiple of 16, so that smaller groups are no faster than groups of 16.
    GroupedIm2col,
    /// Sums over the taps of a kernel of this many rows and columns, for vectors of channels; if each output channel sees only the input
    /// channel with its own index.
    Depthwise([usize; 2]),
}

impl Method {
    /// The method for a shape.
    ///
    /// Kernel 1 is a plain matrix product; with a stride, one over the sampled pixels. With kernel 3, stride 1 and the same padding on all
    /// sides, Winograd takes `(m + 2)^2` products for each tile of `m x m` outputs and input channel instead of `9 m^2`: the size with the
    /// fewest over the whole map wins, 4 on maps of 8 and 16, 5 on 10. Between sizes within a fifth of each other the smaller one, which
    /// rounds better and transforms less, wins: 3 on 9. The transforms do not get cheaper with few channels: below 16 input channels,
    /// patches are cheaper.
    ///
    /// Every other convolution of one group gathers patches. From 16 channels on, copying pixel by pixel pays off; below, most of each copy
    /// would be padding, and whole rows of one channel are copied instead. With up to 32 outputs, that copy takes longer than the product,
    /// so patches are read directly from the image; with more, the product dominates either way.
    ///
    /// A depthwise convolution has too little arithmetic for a matrix product: it is summed tap by tap. All other groups are gathered
    /// and multiplied one after the other.
    ///
    /// # Panics
    /// When the shape is invalid: see [`ConvShape::is_valid`].
    #[must_use]
    pub fn choose(shape: &ConvShape) -> Self {
        assert!(shape.is_valid(), "no such convolution: {shape:?}");
        if shape.groups > 1 {
            return if is_depthwise(shape) { Self::Depthwise(shape.kernel) } else { Self::GroupedIm2col };
        }
        if is_product(shape) {
            return Self::Pointwise;
        }
        if is_winograd(shape) && shape.in_channels >= PANEL {
            let (height, width) = shape.output_map();
            let products = |m: usize| height.div_ceil(m) * width.div_ceil(m) * (m + 2) * (m + 2);
            let mut best = 2;
            for m in 3..=5 {
                if products(m) * 6 < products(best) * 5 {
                    best = m;
                }
            }
            return Self::Winograd(best);
        }
        match shape.in_channels < PANEL {
            true if shape.out_channels <= DIRECT_OUTPUTS => Self::Direct,
            true => Self::Im2col,
            false => Self::Im2colByPixel,
        }
    }

    /// Whether the method can compute a valid shape.
    fn computes(self, shape: &ConvShape) -> bool {
        match self {
            Self::Winograd(m) => (2..=5).contains(&m) && is_winograd(shape),
            Self::Pointwise => is_product(shape),
            Self::Direct => shape.groups == 1 && shape.in_channels < PANEL,
            Self::Im2col | Self::Im2colByPixel => shape.groups == 1,
            Self::GroupedIm2col => true,
            Self::Depthwise(kernel) => is_depthwise(shape) && kernel == shape.kernel,
        }
    }
}

/// The most outputs for which [`Method::choose`] takes [`Method::Direct`].
const DIRECT_OUTPUTS: usize = 32;

fn is_winograd(shape: &ConvShape) -> bool {
    shape.is_plain() && shape.kernel[0] == 3 && shape.groups == 1
}

fn is_product(shape: &ConvShape) -> bool {
    shape.kernel == [1, 1] && shape.stored_padding() == [0, 0] && shape.groups == 1
}

fn is_depthwise(shape: &ConvShape) -> bool {
    shape.groups == shape.in_channels && shape.groups == shape.out_channels
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Winograd(m) => write!(f, "Winograd F({m}x{m}, 3x3)"),
            Self::Pointwise => f.write_str("matrix product"),
            Self::Direct => f.write_str("direct"),
            Self::Im2col => f.write_str("im2col"),
            Self::Im2colByPixel => f.write_str("im2col by pixel"),
            Self::GroupedIm2col => f.write_str("grouped im2col"),
            Self::Depthwise([rows, columns]) => write!(f, "depthwise {rows}x{columns}"),
        }
    }
}

/// A convolution planned for a shape.
///
/// Weights and their gradients are slices of [`Convolution::weight_len`] floats in the method's own layout, which
/// [`Convolution::import_weight`] and [`Convolution::export_weight`] convert from and to PyTorch's. An element-wise optimizer needs no
/// conversion.
pub struct Convolution {
    shape: ConvShape,
    method: Method,
    algorithm: Box<dyn Algorithm>,
}

impl fmt::Debug for Convolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Convolution({:?}, {})", self.shape, self.method)
    }
}

impl Convolution {
    /// Plans a convolution by [`Method::choose`].
    ///
    /// # Panics
    /// When the shape is invalid: see [`ConvShape::is_valid`].
    #[must_use]
    pub fn new(isa: Isa, shape: ConvShape) -> Self {
        Self::with_method(isa, shape, Method::choose(&shape))
    }

    /// Plans a convolution by a method that fits its shape.
    ///
    /// # Panics
    /// When the shape is invalid ([`ConvShape::is_valid`]), or the method cannot compute it.
    #[must_use]
    pub fn with_method(isa: Isa, shape: ConvShape, method: Method) -> Self {
        assert!(shape.is_valid(), "no such convolution: {shape:?}");
        assert!(method.computes(&shape), "{method} does not compute {shape:?}");
        let algorithm: Box<dyn Algorithm> = match method {
            Method::Winograd(2) => Box::new(Winograd::<2, 4, F2>::new(isa, shape)),
            Method::Winograd(3) => Box::new(Winograd::<3, 5, F3>::new(isa, shape)),
            Method::Winograd(4) => Box::new(Winograd::<4, 6, F4>::new(isa, shape)),
            Method::Winograd(_) => Box::new(Winograd::<5, 7, F5>::new(isa, shape)),
            Method::Pointwise => Box::new(Pointwise::new(isa, shape)),
            Method::Direct => Box::new(Direct::new(isa, shape)),
            Method::Im2col => Box::new(Im2col::new(isa, shape)),
            Method::Im2colByPixel | Method::GroupedIm2col => Box::new(Patches::new(isa, shape)),
            Method::Depthwise(_) => Box::new(Depthwise::new(isa, shape)),
        };
        Self { shape, method, algorithm }
    }

    /// The shape.
    #[must_use]
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// How it is computed.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// Floats of the weight in the method's layout.
    #[must_use]
    pub fn weight_len(&self) -> usize {
        self.algorithm.weight_len()
    }

    /// From PyTorch's layout, `(out, in / groups, rows, columns)`; the padding becomes zero.
    ///
    /// # Panics
    /// When a slice's length does not match the shape.
    pub fn import_weight(&self, weight: &[f32], own: &mut [f32]) {
        assert_eq!((weight.len(), own.len()), (self.shape.weight_len(), self.weight_len()));
        own.fill(0.0);
        self.each_weight(|theirs, ours| own[ours] = weight[theirs]);
    }

    /// To PyTorch's layout, `(out, in / groups, rows, columns)`.
    ///
    /// # Panics
    /// When the slice's length is not [`Convolution::weight_len`].
    #[must_use]
    pub fn export_weight(&self, own: &[f32]) -> Vec<f32> {
        assert_eq!(own.len(), self.weight_len());
        let mut weight = vec![0.0; self.shape.weight_len()];
        self.each_weight(|theirs, ours| weight[theirs] = own[ours]);
        weight
    }

    fn each_weight(&self, mut visit: impl FnMut(usize, usize)) {
        let (inputs, taps) = (self.shape.group_inputs(), self.shape.taps());
        for out in 0..self.shape.out_channels {
            for input in 0..inputs {
                for tap in 0..taps {
                    let theirs = (out * inputs + input) * taps + tap;
                    visit(theirs, self.algorithm.weight_index(out, input, tap));
                }
            }
        }
    }

    /// `scaled = scale * weights`, a factor for each padded output channel.
    ///
    /// # Panics
    /// When a slice's length does not match the shape.
    pub fn scale_outputs(&self, weights: &[f32], scale: &[f32], scaled: &mut [f32]) {
        assert_eq!((weights.len(), scaled.len()), (self.weight_len(), self.weight_len()));
        assert_eq!(scale.len(), padded(self.shape.out_channels));
        let scale = self.algorithm.spread(scale);
        let rows = self.algorithm.panel_rows();
        let panels = weights.chunks_exact(rows * PANEL).zip(scaled.chunks_exact_mut(rows * PANEL));
        for ((weights, scaled), scale) in panels.zip(scale.chunks_exact(PANEL).cycle()) {
            for (weights, scaled) in weights.chunks_exact(PANEL).zip(scaled.chunks_exact_mut(PANEL)) {
                for ((scaled, weight), scale) in scaled.iter_mut().zip(weights).zip(scale) {
                    *scaled = weight * scale;
                }
            }
        }
    }

    /// Workspace for calls with up to `batch` images.
    #[must_use]
    pub fn need(&self, batch: usize) -> WorkspaceNeed {
        self.algorithm.need(batch)
    }

    /// Floats of the weights as [`Convolution::forward`] reads them; `None` if it reads them unchanged.
    #[must_use]
    pub fn transformed_len(&self) -> Option<usize> {
        self.algorithm.transformed_len()
    }

    /// Converts weights to [`Weights::Transformed`]; a plain copy if the method reads them unchanged.
    ///
    /// # Panics
    /// When a slice's length is not [`Convolution::weight_len`], or [`Convolution::transformed_len`] if there is one.
    pub fn transform(&self, weights: &[f32], transformed: &mut [f32]) {
        assert_eq!(weights.len(), self.weight_len(), "floats of weights");
        assert_eq!(
            transformed.len(),
            self.len_of(&Weights::Transformed(weights)),
            "floats of transformed weights"
        );
        self.algorithm.transform(weights, transformed);
    }

    fn len_of(&self, weights: &Weights<'_>) -> usize {
        match weights {
            Weights::Plain(_) => self.weight_len(),
            Weights::Transformed(_) => self.transformed_len().unwrap_or(self.weight_len()),
        }
    }

    /// `output = weights * input` without bias; `finished` is called for each image.
    ///
    /// # Panics
    /// When a slice is too short for the shape and the number of images, or the workspace is smaller than [`Convolution::need`].
    pub fn forward(
        &self,
        weights: Weights<'_>,
        images: usize,
        source: Source<'_>,
        output: &mut [f32],
        finished: Sink<'_>,
        workspace: &mut Workspace,
    ) {
        assert_eq!(weights.values().len(), self.len_of(&weights), "floats of weights");
        workspace.check(self.need(images));
        let values = &mut output[..images * self.shape.output_len()];
        self.algorithm.forward(weights, images, source, Output { values, finished }, workspace);
    }

    /// Gradients of `sum(output * output_gradient)`: with respect to the weights into `weight_gradient`, and, if requested, with respect to
    /// the input.
    ///
    /// `output_gradient` provides images of the stored map, with zeros in the padding channels.
    ///
    /// # Panics
    /// As [`Convolution::forward`].
    #[expect(clippy::too_many_arguments, reason = "the operands of a gradient")]
    pub fn backward(
        &self,
        weights: &[f32],
        images: usize,
        input: Source<'_>,
        output_gradient: Source<'_>,
        input_gradient: Option<InputGradient<'_>>,
        weight_gradient: &mut [f32],
        workspace: &mut Workspace,
    ) {
        assert_eq!(weights.len(), self.weight_len(), "floats of weights");
        assert_eq!(weight_gradient.len(), self.weight_len(), "floats of the weights' gradient");
        workspace.check(self.need(images));
        let input_gradient = input_gradient.map(|InputGradient { values, add, finished }| InputGradient {
            values: &mut values[..images * self.shape.input_len()],
            add,
            finished,
        });
        let gradient = Backward { images, input, output_gradient, input_gradient, weight_gradient };
        self.algorithm.backward(weights, gradient, workspace);
    }
}
