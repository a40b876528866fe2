use candle_core::{Result, Tensor};

/// Every `stride`-th of `len` rows (dimension 2) or columns (3) from `start` on.
pub(super) fn strided(
    x: &Tensor,
    dimension: usize,
    start: usize,
    stride: usize,
    len: usize,
) -> Result<Tensor> {
    if stride == 1 {
        return x.narrow(dimension, start, len);
    }
    let places: Vec<u32> = (0..len).map(|i| (start + i * stride) as u32).collect();
    x.contiguous()?.index_select(&Tensor::from_vec(places, len, x.device())?, dimension)
}

/// Every `stride`-th pixel of `(N, C, H, W)`, from the first.
///
/// # Errors
/// When `x` does not have four dimensions, or the device fails.
pub fn subsample(x: &Tensor, [rows, columns]: [usize; 2]) -> Result<Tensor> {
    let (_, _, h, w) = x.dims4()?;
    strided(&strided(x, 2, 0, rows, h.div_ceil(rows))?, 3, 0, columns, w.div_ceil(columns))
}
