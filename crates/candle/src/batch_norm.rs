//! The BatchNorm layer.

use crate::elements::{Elements, elements, native, sum, sum_by_lanes};
use candle_core::{CpuStorage, CustomOp3, Layout, ModuleT, Result, Shape, Tensor, Var, bail};
use candle_nn::{BatchNormConfig, VarBuilder};
use pointwise_kernels::{BatchStatistics, MOMENT_ROWS};
use rayon::prelude::*;
use std::ops::Deref;

/// BatchNorm (Ioffe and Szegedy 2015, arXiv:1502.03167), as [`candle_nn::BatchNorm`], which it [derefs](Deref) to.
///
/// `(N, C, ...)` to the same shape. In f32 on the CPU it takes one pass over the images for mean and variance, safe against cancellation, and one to
/// normalise, where candle takes a dozen; likewise backward. Second-order gradients are not supported there.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    layer: candle_nn::BatchNorm,
    remove_mean: bool,
}

impl BatchNorm {
    /// With running statistics, a weight and a bias, each `(C)`, and the momentum of [`BatchNormConfig`]'s default.
    ///
    /// # Errors
    /// As [`candle_nn::BatchNorm::new`].
    pub fn new(
        num_features: usize,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: f64,
    ) -> Result<Self> {
        candle_nn::BatchNorm::new(num_features, running_mean, running_var, weight, bias, eps).map(Self::from)
    }

    /// As [`BatchNorm::new`], without weight and bias.
    ///
    /// # Errors
    /// As [`candle_nn::BatchNorm::new_no_bias`].
    pub fn new_no_bias(
        num_features: usize,
        running_mean: Tensor,
        running_var: Tensor,
        eps: f64,
    ) -> Result<Self> {
        candle_nn::BatchNorm::new_no_bias(num_features, running_mean, running_var, eps).map(Self::from)
    }

    /// As [`BatchNorm::new`], with a momentum.
    ///
    /// # Errors
    /// As [`candle_nn::BatchNorm::new_with_momentum`].
    pub fn new_with_momentum(
        num_features: usize,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: f64,
        momentum: f64,
    ) -> Result<Self> {
        candle_nn::BatchNorm::new_with_momentum(
            num_features,
            running_mean,
            running_var,
            weight,
            bias,
            eps,
            momentum,
        )
        .map(Self::from)
    }

    /// As [`BatchNorm::new`], with a momentum and without weight and bias.
    ///
    /// # Errors
    /// As [`candle_nn::BatchNorm::new_no_bias_with_momentum`].
    pub fn new_no_bias_with_momentum(
        num_features: usize,
        running_mean: Tensor,
        running_var: Tensor,
        eps: f64,
        momentum: f64,
    ) -> Result<Self> {
        candle_nn::BatchNorm::new_no_bias_with_momentum(
            num_features,
            running_mean,
            running_var,
            eps,
            momentum,
        )
        .map(Self::from)
    }

    /// Normalises with the batch statistics and updates the running ones.
    ///
    /// # Errors
    /// When the number of channels is not the layer's, a channel has only one value, or the device fails.
    pub fn forward_train(&self, x: &Tensor) -> Result<Tensor> {
        let count = x.elem_count() / x.dims().get(1).copied().unwrap_or(1).max(1);
        if count < 2 {
            bail!(
                "BatchNorm needs more than one value per channel in training, not a batch of shape {:?}",
                x.shape()
            )
        }
        if !self.remove_mean || !self.serves(x) {
            return self.layer.forward_train(x);
        }
        let x = x.contiguous()?;
        let statistics = batch_statistics(&x)?;
        let unbiased = statistics.count / (statistics.count - 1.0);
        let variance: Vec<f64> = statistics.variance.iter().map(|variance| variance * unbiased).collect();
        self.move_on(self.running_mean(), &statistics.mean)?;
        self.move_on(self.running_var(), &variance)?;
        self.normalise(&x, statistics.mean, &statistics.variance, Some(statistics.count))
    }

    fn forward_eval(&self, x: &Tensor) -> Result<Tensor> {
        if !self.serves(x) {
            return self.layer.forward_t(x, false);
        }
        let read = |running: &Tensor| {
            Ok::<_, candle_core::Error>(
                Elements::of(running)?.iter().copied().map(f64::from).collect::<Vec<_>>(),
            )
        };
        let (mean, variance) = (read(self.running_mean())?, read(self.running_var())?);
        self.normalise(&x.contiguous()?, mean, &variance, None)
    }

    /// Whether the operation below can compute it; candle reports what is wrong with other shapes.
    fn serves(&self, x: &Tensor) -> bool {
        let parameters = self.weight_and_bias().map_or(vec![], |(weight, bias)| vec![weight, bias]);
        let all = [x, self.running_mean(), self.running_var()].into_iter().chain(parameters);
        x.rank() >= 2 && x.dims()[1] == self.running_mean().elem_count() && native(all)
    }

    fn move_on(&self, running: &Tensor, new: &[f64]) -> Result<()> {
        let momentum = self.momentum();
        let moved: Vec<f32> = Elements::of(running)?
            .iter()
            .zip(new)
            .map(|(old, new)| (f64::from(*old) * (1.0 - momentum) + new * momentum) as f32)
            .collect();
        Var::from_tensor(running)?.set(&Tensor::from_vec(moved, running.shape(), running.device())?)
    }

    fn normalise(&self, x: &Tensor, mean: Vec<f64>, variance: &[f64], count: Option<f64>) -> Result<Tensor> {
        let eps = self.eps();
        let op = Normalise {
            mean,
            inv_std: variance.iter().map(|variance| 1.0 / (variance + eps).sqrt()).collect(),
            count,
        };
        match self.weight_and_bias() {
            Some((weight, bias)) => x.apply_op3(&weight.contiguous()?, &bias.contiguous()?, op),
            None => {
                let zeros = self.running_mean().detach().zeros_like()?;
                x.apply_op3(&zeros.ones_like()?, &zeros, op)
            }
        }
    }
}

impl From<candle_nn::BatchNorm> for BatchNorm {
    /// Takes a layer that subtracts the mean, as all do unless their [`BatchNormConfig`] says otherwise: make those with [`batch_norm`].
    fn from(layer: candle_nn::BatchNorm) -> Self {
        Self { layer, remove_mean: true }
    }
}

impl Deref for BatchNorm {
    type Target = candle_nn::BatchNorm;

    fn deref(&self) -> &candle_nn::BatchNorm {
        &self.layer
    }
}

impl ModuleT for BatchNorm {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        if train { self.forward_train(x) } else { self.forward_eval(x) }
    }
}

/// A BatchNorm, its variables `weight`, `bias`, `running_mean` and `running_var` as [`candle_nn::batch_norm()`] makes them.
///
/// # Errors
/// When `vb` lacks a variable or has one of another shape, or a value of the configuration is out of its range.
pub fn batch_norm(
    num_features: usize,
    config: impl Into<BatchNormConfig>,
    vb: VarBuilder<'_>,
) -> Result<BatchNorm> {
    let config = config.into();
    let layer = candle_nn::batch_norm(num_features, config, vb)?;
    Ok(BatchNorm { layer, remove_mean: config.remove_mean })
}

/// Mean and variance of each channel of `(N, C, ...)`, in one pass.
fn batch_statistics(x: &Tensor) -> Result<BatchStatistics> {
    let channels = x.dim(1)?;
    let pixels: usize = x.dims()[2..].iter().product();
    let x = Elements::of(x)?;
    let mut moments = vec![0.0; x.len() / pixels * MOMENT_ROWS];
    let rows = moments.par_chunks_exact_mut(MOMENT_ROWS * channels);
    x.par_chunks_exact(channels * pixels).zip(rows).for_each(|(image, moments)| {
        let (pivots, sums) = moments.split_at_mut(channels);
        let (sums, squares) = sums.split_at_mut(channels);
        for (channel, plane) in image.chunks_exact(pixels).enumerate() {
            let pivot = plane[0];
            pivots[channel] = pivot;
            sums[channel] = sum_by_lanes(plane, plane, |x, _| x - pivot) as f32;
            squares[channel] = sum_by_lanes(plane, plane, |x, _| (x - pivot) * (x - pivot)) as f32;
        }
    });
    Ok(BatchStatistics::merge(channels, pixels, 0, moments.chunks_exact(MOMENT_ROWS * channels)))
}

/// `(x - mean) * inv_std * weight + bias` of each channel of `(N, C, ...)`.
#[derive(Debug)]
struct Normalise {
    mean: Vec<f64>,
    inv_std: Vec<f64>,
    /// Number of values that each channel's statistics were computed from; `None` for statistics that do not depend on `x`.
    count: Option<f64>,
}

impl Normalise {
    /// What is subtracted from a channel's values, and the rest of the mean: one f32 would round a mean far from zero too coarsely for the distances
    /// from it.
    fn center(&self, channel: usize) -> (f32, f64) {
        let center = self.mean[channel] as f32;
        (center, self.mean[channel] - f64::from(center))
    }

    fn scales(&self, weight: &[f32]) -> Vec<f32> {
        self.inv_std
            .iter()
            .zip(weight)
            .map(|(inv_std, weight)| (inv_std * f64::from(*weight)) as f32)
            .collect()
    }

    /// For each channel, the sums of `dy` and of `dy * (x - mean)` over images and pixels.
    fn gradient_sums(&self, x: &[f32], dy: &[f32], pixels: usize) -> [Vec<f64>; 2] {
        let channels = self.mean.len();
        let planes: Vec<[f64; 2]> = x
            .par_chunks_exact(pixels)
            .zip(dy.par_chunks_exact(pixels))
            .enumerate()
            .map(|(plane, (x, dy))| {
                let (center, beyond) = self.center(plane % channels);
                let gradient = sum(dy);
                [gradient, sum_by_lanes(x, dy, |x, dy| (x - center) * dy) - beyond * gradient]
            })
            .collect();
        let mut sums = [vec![0.0; channels], vec![0.0; channels]];
        for (plane, parts) in planes.iter().enumerate() {
            for (sums, part) in sums.iter_mut().zip(parts) {
                sums[plane % channels] += part;
            }
        }
        sums
    }
}

impl CustomOp3 for Normalise {
    fn name(&self) -> &'static str {
        "pointwise-batch-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = elements(x, x_layout)?;
        let (weight, bias) = (elements(weight, weight_layout)?, elements(bias, bias_layout)?);
        let (channels, scales) = (self.mean.len(), self.scales(weight));
        let mut y = vec![0.0; x.len()];
        let pixels = x_layout.dims()[2..].iter().product::<usize>().max(1);
        y.par_chunks_exact_mut(pixels).zip(x.par_chunks_exact(pixels)).enumerate().for_each(
            |(plane, (y, x))| {
                let channel = plane % channels;
                let ((center, beyond), scale) = (self.center(channel), scales[channel]);
                let shift = (f64::from(bias[channel]) - beyond * f64::from(scale)) as f32;
                y.iter_mut().zip(x).for_each(|(y, x)| *y = (x - center) * scale + shift);
            },
        );
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let (values, dy, weights) = (Elements::of(x)?, Elements::of(&gradient)?, Elements::of(weight)?);
        let channels = self.mean.len();
        let pixels = x.dims()[2..].iter().product::<usize>().max(1);
        let [sums, products] = self.gradient_sums(&values, &dy, pixels);
        let vector = |values: Vec<f64>| {
            let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
            Tensor::from_vec(values, channels, x.device())
        };
        let dw = products.iter().zip(&self.inv_std).map(|(product, inv_std)| product * inv_std).collect();
        let dx = if x.track_op() {
            let scales = self.scales(&weights);
            // What the statistics' own gradients add, for each pixel: `slope * (x - mean) + level`.
            let [slopes, levels]: [Vec<f32>; 2] = match self.count {
                None => [vec![0.0; channels], vec![0.0; channels]],
                Some(count) => {
                    let scale = |channel: usize| -f64::from(scales[channel]) / count;
                    let slope = |channel: usize| {
                        scale(channel) * products[channel] * self.inv_std[channel] * self.inv_std[channel]
                    };
                    let level = |channel: usize| scale(channel) * sums[channel];
                    [
                        (0..channels).map(|channel| slope(channel) as f32).collect(),
                        (0..channels).map(|channel| level(channel) as f32).collect(),
                    ]
                }
            };
            let mut dx = vec![0.0; values.len()];
            let planes = dx.par_chunks_exact_mut(pixels).zip(values.par_chunks_exact(pixels));
            planes.zip(dy.par_chunks_exact(pixels)).enumerate().for_each(|(plane, ((dx, x), dy))| {
                let channel = plane % channels;
                let ((center, beyond), scale) = (self.center(channel), scales[channel]);
                let slope = slopes[channel];
                let level = (f64::from(levels[channel]) - f64::from(slope) * beyond) as f32;
                for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
                    *dx = scale * dy + (slope * (x - center) + level);
                }
            });
            Some(Tensor::from_vec(dx, x.shape(), x.device())?)
        } else {
            None
        };
        let wanted =
            |parameter: &Tensor, values: Vec<f64>| parameter.track_op().then(|| vector(values)).transpose();
        Ok((dx, wanted(weight, dw)?, wanted(bias, sums)?))
    }
}
