use super::geometry::Windows;
use super::sampling::strided;
use candle_core::{Result, Tensor, bail};

/// Each pixel of the windows in row-major order, as a map with a pixel for each window; `x` is padded with `value`.
fn pixels(x: &Tensor, windows: &Windows, value: f32) -> Result<Vec<Tensor>> {
    let (_, _, height, width) = x.dims4()?;
    let [rows, columns] = windows.output([height, width])?;
    let Windows { kernel, stride, padding } = *windows;
    let x = &pad(x, padding, value)?;
    let mut pixels = Vec::new();
    for row in 0..kernel[0] {
        let band = strided(x, 2, row, stride[0], rows)?;
        for column in 0..kernel[1] {
            pixels.push(strided(&band, 3, column, stride[1], columns)?.contiguous()?);
        }
    }
    Ok(pixels)
}

/// `x` with rows and columns of `value` around it.
fn pad(x: &Tensor, [rows, columns]: [usize; 2], value: f32) -> Result<Tensor> {
    let mut x = x.clone();
    for (dimension, width) in [(2, rows), (3, columns)] {
        if width > 0 {
            let mut shape = x.dims().to_vec();
            shape[dimension] = width;
            let side = Tensor::full(value, shape, x.device())?.to_dtype(x.dtype())?;
            x = Tensor::cat(&[&side, &x, &side], dimension)?;
        }
    }
    Ok(x)
}

/// Maximum over windows: `(N, C, H, W)` to `(N, C, H', W')`; what no window covers is dropped.
///
/// The gradient goes to the first maximum of a window in row-major order, as in PyTorch; a NaN counts as the maximum wherever it lies, and of several
/// NaNs the last takes the gradient.
///
/// # Errors
/// When `x` does not have four dimensions or is smaller than a window.
pub fn max_pool2d(x: &Tensor, windows: &Windows) -> Result<Tensor> {
    let mut best: Option<Tensor> = None;
    for candidate in pixels(x, windows, f32::NEG_INFINITY)? {
        best = Some(match best {
            None => candidate,
            // Strictly greater, so that of equal values the first one stays; a NaN alone differs from itself.
            Some(best) => {
                let replaces = (candidate.gt(&best)? + candidate.ne(&candidate)?)?;
                replaces.where_cond(&candidate, &best)?
            }
        });
    }
    match best {
        Some(best) => Ok(best),
        None => bail!("the window is empty"),
    }
}

/// Mean over windows: `(N, C, H, W)` to `(N, C, H', W')`; what no window covers is dropped. The mean is over the pixels of the map in a window or,
/// with `count_include_pad`, over the whole window with its padding of zeros.
///
/// # Errors
/// When `x` does not have four dimensions or is smaller than a window.
pub fn avg_pool2d(x: &Tensor, windows: &Windows, count_include_pad: bool) -> Result<Tensor> {
    let sum = |x: &Tensor| -> Result<Tensor> {
        let mut pixels = pixels(x, windows, 0.0)?.into_iter();
        let Some(first) = pixels.next() else { bail!("the window is empty") };
        pixels.try_fold(first, |sum, pixel| sum + pixel)
    };
    if count_include_pad || windows.padding == [0, 0] {
        return sum(x)? / (windows.kernel[0] * windows.kernel[1]) as f64;
    }
    let (_, _, height, width) = x.dims4()?;
    let counts = sum(&Tensor::ones((1, 1, height, width), x.dtype(), x.device())?)?;
    sum(x)?.broadcast_div(&counts)
}
