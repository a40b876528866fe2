use candle_core::{Result, Tensor};
use pointwise_candle::composed::relu;
use pointwise_network::Activation;

/// The activation, element by element, any shape, with PyTorch's gradients at the kinks. NaN stays NaN.
pub(crate) fn activation(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Relu => relu(x),
        Activation::Relu6 => {
            let six = x.ones_like()?.affine(6.0, 0.0)?;
            x.ge(6f32)?.where_cond(&six, &relu(x)?)
        }
        Activation::LeakyRelu { negative_slope } => x.gt(0f32)?.where_cond(x, &(x * negative_slope)?),
        Activation::Gelu => {
            let normal = ((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)?;
            (x * 0.5)?.mul(&normal)
        }
        Activation::GeluTanh => {
            let cubic = (x + (x.sqr()?.mul(x)? * 0.044_715)?)?;
            let tanh = (cubic * (2.0 / std::f64::consts::PI).sqrt())?.tanh()?;
            (x * 0.5)?.mul(&(tanh + 1.0)?)
        }
        Activation::Silu => x.mul(&candle_nn::ops::sigmoid(x)?),
        Activation::Sigmoid => candle_nn::ops::sigmoid(x),
        Activation::Tanh => x.tanh(),
    }
}
