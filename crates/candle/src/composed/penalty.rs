use candle_core::{Result, Tensor};

/// The gradient with that of an L2 penalty.
pub(super) fn with_decay(gradient: &Tensor, value: &Tensor, weight_decay: f64) -> Result<Tensor> {
    if weight_decay == 0.0 { Ok(gradient.clone()) } else { gradient + (value * weight_decay)? }
}
