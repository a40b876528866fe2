//! The CPU kernels as candle operations: plain candle code gets the fast convolution, and a maximum pool with the right gradient.
//!
//! ```
//! use candle_core::{Device, Tensor, Var};
//! use pointwise_engine::ops::{Conv2d, max_pool2d};
//!
//! # fn main() -> candle_core::Result<()> {
//! let images = Tensor::randn(0f32, 1.0, (4, 16, 8, 8), &Device::Cpu)?;
//! let weight = Var::randn(0f32, 0.1, (32, 16, 3, 3), &Device::Cpu)?;
//! let convolution = Conv2d::new(1);
//! let y = max_pool2d(&convolution.forward(&images, &weight)?)?;
//! assert_eq!(y.dims(), [4, 32, 4, 4]);
//! let gradients = y.sqr()?.sum_all()?.backward()?;
//! assert_eq!(gradients.get(&weight).map(Tensor::dims), Some(&[32, 16, 3, 3][..]));
//! # Ok(())
//! # }
//! ```

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};
use pointwise_kernels::{
    ConvShape, Convolution, InputGradient, Isa, Weights, Workspace, padded, to_channels_last, to_planar,
};
use rayon::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

/// A convolution of stride 1 without bias, on the CPU in f32: candle's `conv2d` in other words, several times faster.
///
/// It keeps its plan and its buffers between calls of the same shape, so make one for each layer and keep it. Gradients of gradients
/// are not supported.
#[derive(Debug, Clone, Default)]
pub struct Conv2d {
    padding: usize,
    plan: Arc<Mutex<Option<Plan>>>,
}

#[derive(Debug)]
struct Plan {
    batch: usize,
    convolution: Convolution,
    weights: Vec<f32>,
    workspace: Workspace,
}

impl Conv2d {
    /// A convolution with that many rows and columns of zeros on every side.
    #[must_use]
    pub fn new(padding: usize) -> Self {
        Self { padding, plan: Arc::default() }
    }

    /// `(N, C, H, W)` images and a weight `(C', C, k, k)` to `(N, C', H + 2p - k + 1, W + 2p - k + 1)`.
    ///
    /// # Errors
    /// When the shapes do not fit together, or a tensor is not f32 on the CPU.
    pub fn forward(&self, images: &Tensor, weight: &Tensor) -> Result<Tensor> {
        self.shape(images.shape(), weight.shape())?;
        images.contiguous()?.apply_op2(&weight.contiguous()?, self.clone())
    }

    /// Number of images, and the convolution.
    fn shape(&self, images: &Shape, weight: &Shape) -> Result<(usize, ConvShape)> {
        let (n, in_channels, height, width) = images.dims4()?;
        let (out_channels, inputs, kernel, columns) = weight.dims4()?;
        if inputs != in_channels || kernel != columns || kernel == 0 {
            bail!("a weight of shape {weight:?} does not fit images of shape {images:?}")
        }
        if height.min(width) + 2 * self.padding < kernel {
            bail!(
                "a kernel of side {kernel} is larger than images of {height}x{width} with padding {}",
                self.padding
            )
        }
        Ok((n, ConvShape::square([height, width], [in_channels, out_channels], kernel, self.padding)))
    }

    /// Runs `work` on the plan for a shape, made anew when the shape has changed.
    fn with_plan<T>(&self, n: usize, shape: ConvShape, work: impl FnOnce(&mut Plan) -> T) -> T {
        // A plan is replaced as a whole: one that a panic left behind is as good as any.
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = plan.as_ref().is_some_and(|plan| plan.batch >= n && *plan.convolution.shape() == shape);
        if !fits {
            *plan = None;
        }
        work(plan.get_or_insert_with(|| {
            let convolution = Convolution::new(Isa::detect(), shape);
            let workspace = Workspace::new([convolution.need(n)]);
            let weights = vec![0.0; convolution.weight_len()];
            Plan { batch: n, convolution, weights, workspace }
        }))
    }
}

/// The elements of a contiguous f32 tensor on the CPU.
fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&storage.as_slice::<f32>()?[from..to]),
        None => bail!("a contiguous tensor is needed"),
    }
}

impl CustomOp2 for Conv2d {
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
        let (n, shape) = self.shape(images_layout.shape(), weight_layout.shape())?;
        let (images, weight) = (elements(images, images_layout)?, elements(weight, weight_layout)?);
        let image = shape.in_channels * shape.height * shape.width;
        let stored = self.with_plan(n, shape, |plan| {
            let Plan { convolution, weights, workspace, .. } = plan;
            convolution.import_weight(weight, weights);
            let source = |i: usize, target: &mut [f32]| {
                to_channels_last(&images[i * image..(i + 1) * image], shape.in_channels, target);
            };
            let mut stored = vec![0.0; n * shape.output_len()];
            convolution.forward(Weights::Plain(weights), n, &source, &mut stored, &|_, _| (), workspace);
            stored
        });
        let map = OutputMap::new(&shape);
        let mut output = vec![0.0; n * map.len()];
        output
            .par_chunks_exact_mut(map.len())
            .zip(stored.par_chunks_exact(shape.output_len()))
            .for_each(|(output, stored)| map.expand(stored, output));
        Ok((CpuStorage::F32(output), (n, shape.out_channels, map.height, map.width).into()))
    }

    fn bwd(
        &self,
        images: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (n, shape) = self.shape(images.shape(), weight.shape())?;
        let [x, w, dy] = [images, weight, gradient].map(|tensor| tensor.flatten_all()?.to_vec1::<f32>());
        let (x, w, dy) = (x?, w?, dy?);
        let map = OutputMap::new(&shape);
        let image = shape.in_channels * shape.height * shape.width;
        let source = |i: usize, target: &mut [f32]| {
            to_channels_last(&x[i * image..(i + 1) * image], shape.in_channels, target);
        };
        let output_gradient =
            |i: usize, target: &mut [f32]| map.shrink(&dy[i * map.len()..(i + 1) * map.len()], target);
        let (dx, dw) = self.with_plan(n, shape, |plan| {
            let Plan { convolution, weights, workspace, .. } = plan;
            convolution.import_weight(&w, weights);
            let mut dx = vec![0.0; n * shape.input_len()];
            let mut dw = vec![0.0; weights.len()];
            let input_gradient = InputGradient { values: &mut dx, add: false, finished: &|_, _| () };
            let wanted = Some(input_gradient);
            convolution.backward(weights, n, &source, &output_gradient, wanted, &mut dw, workspace);
            (dx, convolution.export_weight(&dw))
        });
        let mut planar = vec![0.0; n * image];
        planar
            .par_chunks_exact_mut(image)
            .zip(dx.par_chunks_exact(shape.input_len()))
            .for_each(|(planar, dx)| to_planar(dx, shape.in_channels, planar));
        let dx = Tensor::from_vec(planar, images.shape(), images.device())?;
        let dw = Tensor::from_vec(dw, weight.shape(), weight.device())?;
        Ok((Some(dx), Some(dw)))
    }
}

/// A whole output map around the part that the kernels store.
struct OutputMap {
    channels: usize,
    border: usize,
    height: usize,
    width: usize,
}

impl OutputMap {
    fn new(shape: &ConvShape) -> Self {
        let (height, width) = shape.stored_map();
        let border = shape.border();
        Self { channels: shape.out_channels, border, height: height + 2 * border, width: width + 2 * border }
    }

    fn len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Visits `(place in the planar map, place in the stored one)`.
    fn each(&self, mut visit: impl FnMut(usize, usize)) {
        let columns = self.width - 2 * self.border;
        for channel in 0..self.channels {
            for row in 0..self.height - 2 * self.border {
                for column in 0..columns {
                    let planar =
                        (channel * self.height + row + self.border) * self.width + column + self.border;
                    visit(planar, (row * columns + column) * padded(self.channels) + channel);
                }
            }
        }
    }

    fn expand(&self, stored: &[f32], planar: &mut [f32]) {
        self.each(|to, from| planar[to] = stored[from]);
    }

    fn shrink(&self, planar: &[f32], stored: &mut [f32]) {
        stored.fill(0.0);
        self.each(|from, to| stored[to] = planar[from]);
    }
}

/// Maximum over 2x2 windows with stride 2: `(N, C, H, W)` to `(N, C, H / 2, W / 2)`, on the CPU in f32; an odd last row or column is
/// dropped.
///
/// The gradient goes to the first maximum of a window in row-major order, or to its last NaN, as in PyTorch; candle's own passes a
/// quarter of it. Gradients of gradients are not supported.
///
/// # Errors
/// When `x` does not have four dimensions, is smaller than a window, or is not f32 on the CPU.
pub fn max_pool2d(x: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    if height < 2 || width < 2 {
        bail!("max_pool2d needs maps of at least 2x2, not {height}x{width}")
    }
    x.contiguous()?.apply_op1(MaxPool2d)
}

struct MaxPool2d;

/// The places of a window's elements in a plane, in row-major order.
fn window(width: usize, row: usize, column: usize) -> [usize; 4] {
    let corner = 2 * row * width + 2 * column;
    [corner, corner + 1, corner + width, corner + width + 1]
}

/// The first maximum of a window, or its last NaN.
fn maximum(plane: &[f32], places: [usize; 4]) -> usize {
    let mut best = places[0];
    for place in &places[1..] {
        if plane[*place] > plane[best] || plane[*place].is_nan() {
            best = *place;
        }
    }
    best
}

impl CustomOp1 for MaxPool2d {
    fn name(&self) -> &'static str {
        "pointwise-max-pool2d"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, c, height, width) = layout.shape().dims4()?;
        let x = elements(storage, layout)?;
        let (rows, columns) = (height / 2, width / 2);
        let mut y = vec![0.0; n * c * rows * columns];
        y.par_chunks_exact_mut(rows * columns).zip(x.par_chunks_exact(height * width)).for_each(
            |(y, plane)| {
                for (at, y) in y.iter_mut().enumerate() {
                    *y = plane[maximum(plane, window(width, at / columns, at % columns))];
                }
            },
        );
        Ok((CpuStorage::F32(y), (n, c, rows, columns).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        if x.dtype() != DType::F32 {
            bail!("max_pool2d needs f32, not {:?}", x.dtype())
        }
        let (_, _, height, width) = x.dims4()?;
        let (rows, columns) = (height / 2, width / 2);
        let values = x.flatten_all()?.to_vec1::<f32>()?;
        let dy = gradient.flatten_all()?.to_vec1::<f32>()?;
        let mut dx = vec![0.0; values.len()];
        dx.par_chunks_exact_mut(height * width)
            .zip(values.par_chunks_exact(height * width))
            .zip(dy.par_chunks_exact(rows * columns))
            .for_each(|((dx, plane), dy)| {
                for (at, dy) in dy.iter().enumerate() {
                    dx[maximum(plane, window(width, at / columns, at % columns))] = *dy;
                }
            });
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn var(seed: f32, shape: &[usize]) -> Var {
        let len: usize = shape.iter().product();
        let values: Vec<f32> =
            (0..len).map(|i| ((i as f32 * 12.9898 + seed).sin() * 437.5).fract()).collect();
        Var::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn host(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn assert_close(what: &str, got: &Tensor, expected: &Tensor) {
        // Winograd's rounding on sums of a few hundred products, over the largest value.
        const TOLERANCE: f32 = 2e-5;
        assert_eq!(got.dims(), expected.dims(), "{what}");
        let (got, expected) = (host(got), host(expected));
        let largest = expected.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        for (at, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert!((got - expected).abs() <= TOLERANCE * largest, "{what}: {got} at {at}, not {expected}");
        }
    }

    #[test]
    fn convolutions_are_candles_with_its_gradients() {
        for (shape, weight, padding) in [
            ([3, 20, 9, 7], [33, 20, 3, 3], 1),
            ([2, 16, 5, 5], [10, 16, 1, 1], 0),
            ([2, 5, 4, 6], [18, 5, 1, 1], 1),
            ([1, 3, 8, 8], [4, 3, 5, 5], 2),
        ] {
            let (x, w) = (var(1.0, &shape), var(2.0, &weight));
            let convolution = Conv2d::new(padding);
            // Twice, with more images the second time: plans are kept and grown.
            for images in [1, shape[0]] {
                let x = Var::from_tensor(&x.narrow(0, 0, images).unwrap().contiguous().unwrap()).unwrap();
                let ours = convolution.forward(&x, &w).unwrap();
                let theirs = x.conv2d(&w, padding, 1, 1, 1).unwrap();
                assert_close("y", &ours, &theirs);
                let factor = var(3.0, theirs.dims());
                let gradients =
                    |y: &Tensor| (y * factor.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
                let (ours, theirs) = (gradients(&ours), gradients(&theirs));
                assert_close("dx", ours.get(&x).unwrap(), theirs.get(&x).unwrap());
                assert_close("dw", ours.get(&w).unwrap(), theirs.get(&w).unwrap());
            }
        }
    }

    #[test]
    fn convolutions_refuse_what_does_not_fit() {
        let convolution = Conv2d::new(0);
        let x = var(1.0, &[2, 3, 4, 4]);
        for (weight, word) in [
            (vec![8, 4, 3, 3], "does not fit"),
            (vec![8, 3, 3, 2], "does not fit"),
            (vec![8, 3, 5, 5], "larger than images"),
        ] {
            let error = convolution.forward(&x, &var(2.0, &weight)).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn the_pool_sends_its_gradient_to_the_first_maximum() {
        let x = Var::from_vec(vec![1f32, 3.0, 3.0, 2.0, 0.0, 0.0, 0.0, 0.0, 9.0], (1, 1, 3, 3), &Device::Cpu)
            .unwrap();
        let y = max_pool2d(&x).unwrap();
        assert_eq!(host(&y), [3.0]);
        let gradients = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(host(gradients.get(&x).unwrap()), [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        // As the composition of candle operations that the models use, on maps with many ties.
        let x =
            Var::from_tensor(&(var(5.0, &[2, 3, 6, 8]).as_tensor() * 3.0).unwrap().round().unwrap()).unwrap();
        let (ours, theirs) = (
            max_pool2d(&x).unwrap(),
            pointwise_models::ops::max_pool2d(&x, &pointwise_network::MaxPool2d::new(2)).unwrap(),
        );
        assert_eq!(host(&ours), host(&theirs));
        let gradient =
            |y: &Tensor| host(y.sqr().unwrap().sum_all().unwrap().backward().unwrap().get(&x).unwrap());
        assert_eq!(gradient(&ours), gradient(&theirs));
        assert!(max_pool2d(&var(1.0, &[1, 1, 1, 4])).is_err());
        let x = Var::from_vec(vec![f32::NAN, 5.0, f32::NAN, 9.0], (1, 1, 2, 2), &Device::Cpu).unwrap();
        let y = max_pool2d(&x).unwrap();
        assert!(host(&y)[0].is_nan());
        let gradients = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(host(gradients.get(&x).unwrap()), [0.0, 0.0, 1.0, 0.0]);
    }
}
