//! Convolutions of stride 1 over batches of channels-last images, forward and both gradients.

use crate::gemm::PANEL;
use crate::im2col::Im2col;
use crate::memory::{Buffer, OutOfMemory};
use crate::pointwise::Pointwise;
use crate::simd::Isa;
use crate::transforms::{F2, F3, F4, F5};
use crate::winograd::Winograd;
use std::fmt;

/// Channels as they are stored: the next multiple of 16, the ones beyond `channels` always zero.
///
/// Every vector width divides 16, so that no kernel has a ragged end.
#[must_use]
pub const fn padded(channels: usize) -> usize {
    channels.next_multiple_of(PANEL)
}

/// A square convolution of stride 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Rows of the input map.
    pub height: usize,
    /// Columns of the input map.
    pub width: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Rows and columns of zeros on each side.
    pub padding: usize,
}

impl ConvShape {
    /// Floats of one input image: `(height, width, padded(in_channels))`.
    #[must_use]
    pub const fn input_len(&self) -> usize {
        self.height * self.width * padded(self.in_channels)
    }

    /// Rows and columns that are stored of the output.
    ///
    /// Of a padded pointwise convolution that is the part without the border: there every product is with zero, and the result is
    /// the bias alone.
    #[must_use]
    pub const fn stored_map(&self) -> (usize, usize) {
        let grow = if self.kernel == 1 { 0 } else { 2 * self.padding };
        (self.height + grow + 1 - self.kernel, self.width + grow + 1 - self.kernel)
    }

    /// Width of the border that is not stored: see [`ConvShape::stored_map`].
    #[must_use]
    pub const fn border(&self) -> usize {
        if self.kernel == 1 { self.padding } else { 0 }
    }

    /// Floats of one stored output image: `(rows, columns, padded(out_channels))`.
    #[must_use]
    pub const fn output_len(&self) -> usize {
        let (height, width) = self.stored_map();
        height * width * padded(self.out_channels)
    }

    /// Values of the weight in PyTorch's layout, `(out, in, kernel, kernel)`.
    #[must_use]
    pub const fn weight_len(&self) -> usize {
        self.out_channels * self.in_channels * self.kernel * self.kernel
    }
}

/// Writes the image of that number into a slice of `(rows, columns, padded channels)` floats, all of them.
///
/// Images are asked for one by one, by the thread that needs them, so that whatever makes one (BatchNorm, ReLU and pooling of the
/// layer before) happens while it is in that thread's cache, and needs no memory of its own.
pub type Source<'a> = &'a (dyn Fn(usize, &mut [f32]) + Sync);

/// Is told of each image of a result once it is complete and still in cache.
pub type Sink<'a> = &'a (dyn Fn(usize, &[f32]) + Sync);

/// Where the gradient with respect to the input goes.
pub struct InputGradient<'a> {
    /// One image after the other, as the input.
    pub values: &'a mut [f32],
    /// Called for each finished image.
    pub finished: Sink<'a>,
}

impl fmt::Debug for InputGradient<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InputGradient").field("len", &self.values.len()).finish_non_exhaustive()
    }
}

/// Memory for what lives no longer than one call, shared by all convolutions of a network.
#[derive(Debug)]
pub struct Workspace {
    pub(crate) shared: Buffer,
    pub(crate) workers: Vec<Buffer>,
}

impl Workspace {
    /// Room for every one of `needs`, with as many workers as the current rayon pool has threads.
    ///
    /// # Panics
    /// When there is not as much memory: see [`Workspace::try_new`].
    #[must_use]
    pub fn new(needs: impl IntoIterator<Item = WorkspaceNeed>) -> Self {
        Self::try_new(needs).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`Workspace::new`].
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn try_new(needs: impl IntoIterator<Item = WorkspaceNeed>) -> Result<Self, OutOfMemory> {
        let need = WorkspaceNeed::largest(needs);
        let worker = |_| Buffer::try_new(need.worker);
        let workers = (0..rayon::current_num_threads()).map(worker).collect::<Result<_, _>>()?;
        Ok(Self { shared: Buffer::try_new(need.shared)?, workers })
    }

    /// Bytes that a workspace for every one of `needs` takes.
    #[must_use]
    pub fn bytes_of(needs: impl IntoIterator<Item = WorkspaceNeed>) -> usize {
        let need = WorkspaceNeed::largest(needs);
        let workers = rayon::current_num_threads().saturating_mul(Buffer::bytes_of(need.worker));
        workers.saturating_add(Buffer::bytes_of(need.shared))
    }

    fn check(&self, need: WorkspaceNeed) {
        let worker = self.workers.iter().map(|worker| worker.len()).min().unwrap_or(0);
        assert!(
            self.shared.len() >= need.shared && worker >= need.worker,
            "the workspace was not made for this convolution and so many images"
        );
    }
}

/// Floats of [`Workspace`] that a call takes.
#[derive(Debug, Clone, Copy, Default)]
pub struct WorkspaceNeed {
    pub(crate) shared: usize,
    pub(crate) worker: usize,
}

impl WorkspaceNeed {
    fn largest(needs: impl IntoIterator<Item = Self>) -> Self {
        needs.into_iter().fold(Self::default(), |a, b| Self {
            shared: a.shared.max(b.shared),
            worker: a.worker.max(b.worker),
        })
    }
}

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Winograd's minimal filtering with tiles of that many outputs a side, 2 to 5; for kernel 3, padding 1.
    ///
    /// The transforms amplify rounding. Against `f64`, with 96 input channels, outputs and both gradients are off by at most this
    /// share (root mean square): 4e-7 for 2, 1.3e-6 for 3, 2.5e-6 for 4, 4e-6 for 5; a direct sum in `f32` by 3e-7.
    Winograd(usize),
    /// A matrix product over the pixels; for kernel 1, any padding.
    Pointwise,
    /// A matrix product over gathered patches; for any kernel and padding.
    Im2col,
}

impl Method {
    /// The method for a shape.
    ///
    /// Kernel 1 is a matrix product as it stands. With kernel 3 and padding 1, Winograd takes `(m + 2)^2` products for each tile of
    /// `m x m` outputs and input channel instead of `9 m^2`: the size with the fewest over the whole map wins, 4 on maps of 8 and
    /// 16, 5 on 10. Between sizes within a fifth of each other the smaller wins, which rounds better and transforms less: 3 on 9.
    /// The transforms cost the same however few channels there are; below 16 input channels, patches are cheaper.
    #[must_use]
    pub fn choose(shape: &ConvShape) -> Self {
        match (shape.kernel, shape.padding) {
            (1, _) => Self::Pointwise,
            (3, 1) if shape.in_channels >= PANEL => {
                let products =
                    |m: usize| shape.height.div_ceil(m) * shape.width.div_ceil(m) * (m + 2) * (m + 2);
                let mut best = 2;
                for m in 3..=5 {
                    if products(m) * 6 < products(best) * 5 {
                        best = m;
                    }
                }
                Self::Winograd(best)
            }
            _ => Self::Im2col,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Winograd(m) => write!(f, "Winograd F({m}x{m}, 3x3)"),
            Self::Pointwise => f.write_str("matrix product"),
            Self::Im2col => f.write_str("im2col"),
        }
    }
}

/// A convolution planned for a shape, with what it keeps between calls.
///
/// Weights and their gradients are slices of [`Convolution::weight_len`] floats in the method's own layout, which
/// [`Convolution::import_weight`] and [`Convolution::export_weight`] translate from and to PyTorch's. An optimizer that works element
/// by element needs no translation.
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

/// What each method implements; all slices are of the sizes that [`Convolution`] has checked.
pub(crate) trait Algorithm: Send + Sync {
    fn weight_len(&self) -> usize;
    /// Place of `(out, in, tap)` in the method's layout.
    fn weight_index(&self, out: usize, input: usize, tap: usize) -> usize;
    /// Rows of a panel: the layout is `[...][out / 16][rows][16]`.
    fn panel_rows(&self) -> usize;
    fn need(&self, batch: usize) -> WorkspaceNeed;
    fn bytes(&self) -> usize;
    /// Allocates what is kept between calls.
    fn reserve(&mut self) -> Result<(), OutOfMemory> {
        Ok(())
    }
    /// Prepares what the forward pass takes from the weights.
    fn load(&mut self, weights: &[f32]);
    fn forward(
        &self,
        weights: &[f32],
        images: usize,
        source: Source<'_>,
        output: Output<'_>,
        workspace: &mut Workspace,
    );
    fn backward(&self, weights: &[f32], gradient: Backward<'_>, workspace: &mut Workspace);
}

/// Where a forward pass writes.
pub(crate) struct Output<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) finished: Sink<'a>,
}

/// What a backward pass reads and writes.
pub(crate) struct Backward<'a> {
    pub(crate) images: usize,
    pub(crate) input: Source<'a>,
    pub(crate) output_gradient: Source<'a>,
    pub(crate) input_gradient: Option<InputGradient<'a>>,
    pub(crate) weight_gradient: &'a mut [f32],
}

impl Convolution {
    /// Plans a convolution by [`Method::choose`].
    #[must_use]
    pub fn new(isa: Isa, shape: ConvShape) -> Self {
        Self::with_method(isa, shape, Method::choose(&shape))
    }

    /// Plans a convolution by a method that fits its kernel.
    ///
    /// # Panics
    /// When the method cannot compute the shape, or the kernel is larger than the padded map.
    #[must_use]
    pub fn with_method(isa: Isa, shape: ConvShape, method: Method) -> Self {
        let ConvShape { height, width, kernel, padding, .. } = shape;
        assert!(
            kernel > 0 && height > 0 && width > 0 && height.min(width) + 2 * padding >= kernel,
            "no such convolution: {shape:?}"
        );
        let algorithm: Box<dyn Algorithm> = match (method, kernel, padding) {
            (Method::Winograd(2), 3, 1) => Box::new(Winograd::<2, 4, F2>::new(isa, shape)),
            (Method::Winograd(3), 3, 1) => Box::new(Winograd::<3, 5, F3>::new(isa, shape)),
            (Method::Winograd(4), 3, 1) => Box::new(Winograd::<4, 6, F4>::new(isa, shape)),
            (Method::Winograd(5), 3, 1) => Box::new(Winograd::<5, 7, F5>::new(isa, shape)),
            (Method::Pointwise, 1, _) => Box::new(Pointwise::new(isa, shape)),
            (Method::Im2col, _, _) => Box::new(Im2col::new(isa, shape)),
            _ => panic!("{method} does not compute {shape:?}"),
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

    /// From PyTorch's layout, `(out, in, kernel, kernel)`; what is beyond the channels becomes zero.
    ///
    /// # Panics
    /// When a slice has another length than the shape says.
    pub fn import_weight(&self, weight: &[f32], own: &mut [f32]) {
        assert_eq!((weight.len(), own.len()), (self.shape.weight_len(), self.weight_len()));
        own.fill(0.0);
        self.each_weight(|theirs, ours| own[ours] = weight[theirs]);
    }

    /// To PyTorch's layout, `(out, in, kernel, kernel)`.
    ///
    /// # Panics
    /// When the slice has another length than [`Convolution::weight_len`].
    #[must_use]
    pub fn export_weight(&self, own: &[f32]) -> Vec<f32> {
        assert_eq!(own.len(), self.weight_len());
        let mut weight = vec![0.0; self.shape.weight_len()];
        self.each_weight(|theirs, ours| weight[theirs] = own[ours]);
        weight
    }

    fn each_weight(&self, mut visit: impl FnMut(usize, usize)) {
        let taps = self.shape.kernel * self.shape.kernel;
        for out in 0..self.shape.out_channels {
            for input in 0..self.shape.in_channels {
                for tap in 0..taps {
                    let theirs = (out * self.shape.in_channels + input) * taps + tap;
                    visit(theirs, self.algorithm.weight_index(out, input, tap));
                }
            }
        }
    }

    /// `scaled = scale * weights`, a factor for each padded output channel.
    ///
    /// # Panics
    /// When a slice has another length than the shape says.
    pub fn scale_outputs(&self, weights: &[f32], scale: &[f32], scaled: &mut [f32]) {
        assert_eq!((weights.len(), scaled.len()), (self.weight_len(), self.weight_len()));
        assert_eq!(scale.len(), padded(self.shape.out_channels));
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

    /// Bytes that the plan keeps between calls.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.algorithm.bytes()
    }

    /// Allocates what the plan keeps between calls, which otherwise the first [`Convolution::load`] does.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn reserve(&mut self) -> Result<(), OutOfMemory> {
        self.algorithm.reserve()
    }

    /// Takes over weights: to be called before [`Convolution::forward`] whenever they have changed.
    ///
    /// # Panics
    /// When the slice has another length than [`Convolution::weight_len`].
    pub fn load(&mut self, weights: &[f32]) {
        assert_eq!(weights.len(), self.weight_len(), "floats of weights");
        self.algorithm.load(weights);
    }

    /// `output = weights * input` without bias, for the weights last given to [`Convolution::load`]; `finished` is told of each
    /// image.
    ///
    /// # Panics
    /// When a slice is shorter than the shape and the number of images say, or the workspace has no room for [`Convolution::need`].
    pub fn forward(
        &self,
        weights: &[f32],
        images: usize,
        source: Source<'_>,
        output: &mut [f32],
        finished: Sink<'_>,
        workspace: &mut Workspace,
    ) {
        assert_eq!(weights.len(), self.weight_len(), "floats of weights");
        workspace.check(self.need(images));
        let values = &mut output[..images * self.shape.output_len()];
        self.algorithm.forward(weights, images, source, Output { values, finished }, workspace);
    }

    /// Gradients of `sum(output * output_gradient)`: with respect to the weights into `weight_gradient`, and with respect to the input
    /// where it is asked for.
    ///
    /// `output_gradient` gives images of the stored map, with zeros beyond the channels.
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
        let input_gradient = input_gradient.map(|InputGradient { values, finished }| InputGradient {
            values: &mut values[..images * self.shape.input_len()],
            finished,
        });
        let gradient = Backward { images, input, output_gradient, input_gradient, weight_gradient };
        self.algorithm.backward(weights, gradient, workspace);
    }
}

/// Cuts `slice` into consecutive parts of these lengths.
pub(crate) fn carve<const N: usize>(mut slice: &mut [f32], lengths: [usize; N]) -> [&mut [f32]; N] {
    lengths.map(|length| {
        let (part, rest) = std::mem::take(&mut slice).split_at_mut(length);
        slice = rest;
        part
    })
}

/// Rounds a length up to whole cache lines, so that carved parts begin on one.
pub(crate) const fn aligned(len: usize) -> usize {
    len.next_multiple_of(16)
}
