//! Convolutions with the CPU kernels, as a candle operation.

use crate::composed::Placement;
use crate::elements::{Elements, elements, sum};
use crate::lattice::Lattice;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Error, Layout, Result, Shape, Tensor, bail};
use pointwise_kernels::{ConvShape, Convolution, InputGradient, Isa, Weights, Workspace};
use rayon::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

/// Images convolved at once: more would save no time per image, and take memory for their maps.
const IMAGES: usize = 128;

/// A convolution of f32 tensors on the CPU, with or without a bias.
///
/// It keeps its plan and its buffers for the next call of the same shape.
#[derive(Debug, Clone)]
pub(crate) struct ConvolutionOp {
    placement: Placement,
    plan: Arc<Mutex<Option<Plan>>>,
}

/// Built once for calls of one shape with up to `images` images at once.
#[derive(Debug)]
struct Plan {
    images: usize,
    convolution: Convolution,
    weights: Vec<f32>,
    workspace: Workspace,
    /// Outputs, or gradients of the images, in the kernels' layout.
    stored: Vec<f32>,
}

/// The shape of a call.
///
/// A dilated convolution is computed as one without dilation for each phase of the padded input, a phase being a set of pixels whose distances are
/// multiples of the dilation. An image then has `phases` maps.
#[derive(Debug, Clone, Copy)]
struct Call {
    images: usize,
    phases: [usize; 2],
    shape: ConvShape,
    /// Rows and columns of the images and of the output.
    input: [usize; 2],
    output: [usize; 2],
    padding: [usize; 2],
}

impl Call {
    fn phases(&self) -> usize {
        self.phases[0] * self.phases[1]
    }

    /// Floats of an image and of its output, planar.
    fn planar(&self) -> [usize; 2] {
        let [input, output] = [self.input, self.output].map(|[rows, columns]| rows * columns);
        [input * self.shape.in_channels, output * self.shape.out_channels]
    }

    fn lattice(
        &self,
        channels: usize,
        map: (usize, usize),
        planar: [usize; 2],
        offset: [isize; 2],
    ) -> Lattice {
        Lattice { channels, map: [map.0, map.1], planar, step: self.phases, offset }
    }

    /// Where the kernels' input for a phase lies in an image.
    fn input_of(&self, phase: usize) -> Lattice {
        let phase = [phase / self.phases[1], phase % self.phases[1]];
        // Without dilation the kernels pad.
        let padding = if self.phases == [1, 1] { [0, 0] } else { self.padding };
        let offset = [0, 1].map(|axis| phase[axis] as isize - padding[axis] as isize);
        let ConvShape { height, width, in_channels, .. } = self.shape;
        self.lattice(in_channels, (height, width), self.input, offset)
    }

    /// Where the kernels' output for a phase lies in the output.
    fn output_of(&self, phase: usize) -> Lattice {
        let border = self.shape.border() as isize;
        let offset = [(phase / self.phases[1]) as isize + border, (phase % self.phases[1]) as isize + border];
        self.lattice(self.shape.out_channels, self.shape.stored_map(), self.output, offset)
    }
}

impl ConvolutionOp {
    pub(crate) fn new(placement: Placement) -> Self {
        Self { placement, plan: Arc::default() }
    }

    pub(crate) fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Whether the kernels can compute it: a dilated convolution only with stride 1.
    pub(crate) fn serves(placement: &Placement) -> bool {
        placement.dilation == [1, 1] || placement.stride == [1, 1]
    }

    /// `(N, C, H, W)` images, a weight `(C', C / groups, k, l)` and a bias `(C')` to `(N, C', H', W')`.
    pub(crate) fn apply(&self, images: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (images, weight) = (images.contiguous()?, weight.contiguous()?);
        match bias {
            Some(bias) => images.apply_op3(&weight, &bias.contiguous()?, self.clone()),
            None => images.apply_op2(&weight, self.clone()),
        }
    }

    fn call(&self, images: &Shape, weight: &Shape) -> Result<Call> {
        let (n, in_channels, height, width) = images.dims4()?;
        let (out_channels, inputs, rows, columns) = weight.dims4()?;
        let Placement { stride, padding, dilation, groups } = self.placement;
        let (input, kernel) = ([height, width], [rows, columns]);
        if groups == 0 || inputs * groups != in_channels || out_channels % groups != 0 {
            bail!("a weight of shape {weight:?} does not fit images of shape {images:?} in {groups} groups")
        }
        let output = self.placement.output(input, kernel)?;
        let shape = match dilation {
            [1, 1] => ConvShape { height, width, in_channels, out_channels, kernel, stride, padding, groups },
            dilation => {
                let side = |axis: usize| (input[axis] + 2 * padding[axis]).div_ceil(dilation[axis]);
                let (height, width) = (side(0), side(1));
                let padding = [0, 0];
                ConvShape { height, width, in_channels, out_channels, kernel, stride, padding, groups }
            }
        };
        if !shape.is_valid() {
            bail!("images of shape {images:?} cannot be convolved with a weight of shape {weight:?}")
        }
        Ok(Call { images: n, phases: dilation, shape, input, output, padding })
    }

    /// A plan for a call: the kept one if it fits. It is taken out, so that calls on several threads do not wait for each other.
    fn take_plan(&self, call: &Call) -> Result<Plan> {
        // For the kernels, each phase of an image is an image.
        let images = call.images.clamp(1, IMAGES.div_ceil(call.phases())) * call.phases();
        let kept = self.plan.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(plan) =
            kept.filter(|plan| plan.images >= images && *plan.convolution.shape() == call.shape)
        {
            return Ok(plan);
        }
        let convolution = Convolution::new(Isa::detect(), call.shape);
        let workspace = Workspace::try_new([convolution.need(images)]).map_err(Error::wrap)?;
        let weights = vec![0.0; convolution.weight_len()];
        Ok(Plan { images, convolution, weights, workspace, stored: Vec::new() })
    }

    fn keep_plan(&self, plan: Plan) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = Some(plan);
    }

    fn forward(
        &self,
        [images, weight]: [(&CpuStorage, &Layout); 2],
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let call = self.call(images.1.shape(), weight.1.shape())?;
        let (x, weight) = (elements(images.0, images.1)?, elements(weight.0, weight.1)?);
        let bias = bias.map(|(storage, layout)| elements(storage, layout)).transpose()?;
        if bias.is_some_and(|bias| bias.len() != call.shape.out_channels) {
            bail!(
                "a bias of {} values does not fit {} channels",
                bias.map_or(0, <[f32]>::len),
                call.shape.out_channels
            )
        }
        let [image, map] = call.planar();
        let stored_len = call.shape.output_len();
        let pixels = call.output[0] * call.output[1];
        let mut output = vec![0.0; call.images * map];
        let mut plan = self.take_plan(&call)?;
        let Plan { images, convolution, weights, workspace, stored } = &mut plan;
        convolution.import_weight(weight, weights);
        let at_once = *images / call.phases();
        for (x, output) in x.chunks(at_once * image).zip(output.chunks_mut(at_once * map)) {
            let maps = x.len() / image * call.phases();
            let source = |i: usize, target: &mut [f32]| {
                let (i, phase) = (i / call.phases(), i % call.phases());
                call.input_of(phase).gather(&x[i * image..(i + 1) * image], target);
            };
            stored.resize(stored.len().max(maps * stored_len), 0.0);
            let results = &mut stored[..maps * stored_len];
            convolution.forward(Weights::Plain(weights), maps, &source, results, &|_, _| (), workspace);
            let by_image = results.par_chunks_exact(call.phases() * stored_len);
            output.par_chunks_exact_mut(map).zip(by_image).for_each(|(output, results)| {
                for (phase, result) in results.chunks_exact(stored_len).enumerate() {
                    call.output_of(phase).scatter(result, output);
                }
                for (plane, bias) in output.chunks_exact_mut(pixels).zip(bias.into_iter().flatten()) {
                    plane.iter_mut().for_each(|y| *y += bias);
                }
            });
        }
        self.keep_plan(plan);
        let [rows, columns] = call.output;
        Ok((CpuStorage::F32(output), (call.images, call.shape.out_channels, rows, columns).into()))
    }

    /// Gradients with respect to the images, where they are `wanted`, and to the weight.
    fn backward(
        &self,
        images: &Tensor,
        weight: &Tensor,
        gradient: &Tensor,
        wanted: bool,
    ) -> Result<(Option<Tensor>, Tensor)> {
        let call = self.call(images.shape(), weight.shape())?;
        let (x, w, dy) = (Elements::of(images)?, Elements::of(weight)?, Elements::of(gradient)?);
        let [image, map] = call.planar();
        let input_len = call.shape.input_len();
        let mut dx = vec![0.0; if wanted { x.len() } else { 0 }];
        let mut plan = self.take_plan(&call)?;
        let Plan { images: most, convolution, weights, workspace, stored } = &mut plan;
        convolution.import_weight(&w, weights);
        let (mut dw, mut part) = (vec![0.0; weights.len()], Vec::new());
        let at_once = *most / call.phases();
        for first in (0..call.images).step_by(at_once) {
            let images = at_once.min(call.images - first);
            let maps = images * call.phases();
            let source = |i: usize, target: &mut [f32]| {
                let (i, phase) = (first + i / call.phases(), i % call.phases());
                call.input_of(phase).gather(&x[i * image..(i + 1) * image], target);
            };
            let output_gradient = |i: usize, target: &mut [f32]| {
                let (i, phase) = (first + i / call.phases(), i % call.phases());
                call.output_of(phase).gather(&dy[i * map..(i + 1) * map], target);
            };
            stored.resize(stored.len().max(if wanted { maps * input_len } else { 0 }), 0.0);
            let input_gradient = wanted.then(|| InputGradient {
                values: &mut stored[..maps * input_len],
                add: false,
                finished: &|_, _| (),
            });
            let target = if first == 0 { &mut dw } else { &mut part };
            target.resize(weights.len(), 0.0);
            convolution.backward(weights, maps, &source, &output_gradient, input_gradient, target, workspace);
            if first > 0 {
                dw.iter_mut().zip(&part).for_each(|(sum, part)| *sum += part);
            }
            if wanted {
                let by_image = stored[..maps * input_len].par_chunks_exact(call.phases() * input_len);
                let dx = dx[first * image..(first + images) * image].par_chunks_exact_mut(image);
                dx.zip(by_image).for_each(|(dx, gradients)| {
                    for (phase, gradient) in gradients.chunks_exact(input_len).enumerate() {
                        call.input_of(phase).scatter(gradient, dx);
                    }
                });
            }
        }
        let dw = convolution.export_weight(&dw);
        self.keep_plan(plan);
        let dx = wanted.then(|| Tensor::from_vec(dx, images.shape(), images.device())).transpose()?;
        Ok((dx, Tensor::from_vec(dw, weight.shape(), weight.device())?))
    }
}

/// The sum of each channel over images and pixels.
fn bias_gradient(gradient: &Tensor) -> Result<Tensor> {
    let (_, channels, rows, columns) = gradient.dims4()?;
    let dy = Elements::of(gradient)?;
    let planes: Vec<f64> = dy.par_chunks_exact(rows * columns).map(sum).collect();
    let mut sums = vec![0.0; channels];
    for image in planes.chunks_exact(channels) {
        sums.iter_mut().zip(image).for_each(|(sum, plane)| *sum += plane);
    }
    let sums: Vec<f32> = sums.into_iter().map(|sum| sum as f32).collect();
    Tensor::from_vec(sums, channels, gradient.device())
}

impl CustomOp2 for ConvolutionOp {
    fn name(&self) -> &'static str {
        "pointwise-conv2d"
    }

    fn cpu_fwd(
        &self,
        images: &CpuStorage,
        images_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward([(images, images_layout), (weight, weight_layout)], None)
    }

    fn bwd(
        &self,
        images: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = self.backward(images, weight, &gradient.contiguous()?, images.track_op())?;
        Ok((dx, Some(dw)))
    }
}

impl CustomOp3 for ConvolutionOp {
    fn name(&self) -> &'static str {
        "pointwise-conv2d"
    }

    fn cpu_fwd(
        &self,
        images: &CpuStorage,
        images_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward([(images, images_layout), (weight, weight_layout)], Some((bias, bias_layout)))
    }

    fn bwd(
        &self,
        images: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let (dx, dw) = self.backward(images, weight, &gradient, images.track_op())?;
        Ok((dx, Some(dw), Some(bias_gradient(&gradient)?)))
    }
}
