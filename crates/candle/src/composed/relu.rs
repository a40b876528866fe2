use candle_core::{Result, Tensor};

/// `max(x, 0)`, any shape; the gradient where `x <= 0` is zero. NaN stays NaN.
///
/// # Errors
/// candle's, when the device fails.
pub fn relu(x: &Tensor) -> Result<Tensor> {
    x.le(0f32)?.where_cond(&x.zeros_like()?, x)
}
