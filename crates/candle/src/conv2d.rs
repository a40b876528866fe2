//! The convolution layer.

use crate::composed::{Placement, conv2d as composed_conv2d};
use crate::convolution::ConvolutionOp;
use crate::elements::native;
use candle_core::{Module, Result, Tensor};
use candle_nn::{BatchNorm, Conv2dConfig, VarBuilder};
use std::ops::Deref;

/// A two-dimensional convolution, as [`candle_nn::Conv2d`], which it [derefs](Deref) to: any kernel, stride, padding, dilation and groups, with or
/// without a bias.
///
/// `(N, C, H, W)` images to `(N, C', H', W')`. In f32 on the CPU the kernels compute it, several times faster than candle's. Its gradients are right
/// everywhere, also where candle's fail (with a stride on some maps that are not square). Second-order gradients are not supported in f32 on the CPU.
///
/// A layer keeps its buffers between calls, and shares them with its clones.
#[derive(Debug, Clone)]
pub struct Conv2d {
    layer: candle_nn::Conv2d,
    op: ConvolutionOp,
}

impl Conv2d {
    /// A convolution with a weight `(C', C / groups, k, l)` and a bias `(C')`.
    #[must_use]
    pub fn new(weight: Tensor, bias: Option<Tensor>, config: Conv2dConfig) -> Self {
        candle_nn::Conv2d::new(weight, bias, config).into()
    }

    /// Folds the scale and shift of the BatchNorm that follows into weight and bias: the result computes what both do in evaluation.
    ///
    /// # Errors
    /// As [`candle_nn::Conv2d::absorb_bn`].
    pub fn absorb_bn(&self, norm: &BatchNorm) -> Result<Self> {
        self.layer.absorb_bn(norm).map(Self::from)
    }
}

impl From<candle_nn::Conv2d> for Conv2d {
    fn from(layer: candle_nn::Conv2d) -> Self {
        let Conv2dConfig { padding, stride, dilation, groups, .. } = *layer.config();
        let placement =
            Placement { stride: [stride; 2], padding: [padding; 2], dilation: [dilation; 2], groups };
        Self { layer, op: ConvolutionOp::new(placement) }
    }
}

impl Deref for Conv2d {
    type Target = candle_nn::Conv2d;

    fn deref(&self) -> &candle_nn::Conv2d {
        &self.layer
    }
}

impl Module for Conv2d {
    fn forward(&self, images: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.weight(), self.bias());
        let placement = self.op.placement();
        if ConvolutionOp::serves(placement) && native([images, weight].into_iter().chain(bias)) {
            return self.op.apply(images, weight, bias);
        }
        if candle_differentiates(images, weight, placement)? {
            return self.layer.forward(images);
        }
        let y = composed_conv2d(images, weight, placement)?;
        match bias {
            Some(bias) => y.broadcast_add(&bias.reshape((1, (), 1, 1))?),
            None => Ok(y),
        }
    }
}

/// Whether candle's gradient of the images has their shape: candle adds the pixels that the last stride leaves over, but counts them by the rows
/// alone.
fn candle_differentiates(images: &Tensor, weight: &Tensor, placement: &Placement) -> Result<bool> {
    let (_, _, height, width) = images.dims4()?;
    let (_, _, rows, columns) = weight.dims4()?;
    placement.output([height, width], [rows, columns])?;
    let left = |axis: usize, side: usize, kernel: usize| {
        (side + 2 * placement.padding[axis] - placement.dilation[axis] * (kernel - 1) - 1)
            % placement.stride[axis]
    };
    Ok(left(0, height, rows) == left(1, width, columns))
}

/// A convolution with a bias, its variables `weight` and `bias` as [`candle_nn::conv2d`] makes them.
///
/// # Errors
/// When `vb` lacks a variable or has one of another shape.
pub fn conv2d(
    in_channels: usize,
    out_channels: usize,
    kernel_size: usize,
    config: Conv2dConfig,
    vb: VarBuilder<'_>,
) -> Result<Conv2d> {
    candle_nn::conv2d(in_channels, out_channels, kernel_size, config, vb).map(Conv2d::from)
}

/// A convolution without a bias, its variable `weight` as [`candle_nn::conv2d_no_bias`] makes it.
///
/// # Errors
/// As [`conv2d`].
pub fn conv2d_no_bias(
    in_channels: usize,
    out_channels: usize,
    kernel_size: usize,
    config: Conv2dConfig,
    vb: VarBuilder<'_>,
) -> Result<Conv2d> {
    candle_nn::conv2d_no_bias(in_channels, out_channels, kernel_size, config, vb).map(Conv2d::from)
}
