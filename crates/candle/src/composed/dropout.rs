use candle_core::{Result, Tensor};
use pointwise_random::Dropout;
use rayon::prelude::*;

/// Factors that a task draws.
const RUN: usize = 1 << 12;

/// Zeroes elements with probability `dropout.p` and scales the others by `1 / (1 - p)`; any shape.
///
/// # Errors
/// candle's, when the device fails.
pub fn dropout(x: &Tensor, dropout: Dropout) -> Result<Tensor> {
    if dropout.p == 0.0 {
        return Ok(x.clone());
    }
    let mut factors = vec![0.0; x.elem_count()];
    factors.par_chunks_mut(RUN).enumerate().for_each(|(i, factors)| dropout.factors(i * RUN, factors));
    x.mul(&Tensor::from_vec(factors, x.shape(), x.device())?.to_dtype(x.dtype())?)
}
