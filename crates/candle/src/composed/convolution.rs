use super::geometry::Placement;
use super::sampling::strided;
use candle_core::{Result, Tensor, bail};

/// A convolution without its bias: `(N, C, H, W)` and a weight `(C', C / groups, k, l)` to `(N, C', H', W')`.
///
/// candle's own where that is right; otherwise a sum of matrix products, one for each pixel of the kernel.
///
/// # Errors
/// When the shapes do not fit together, or the device fails.
pub fn conv2d(x: &Tensor, weight: &Tensor, placement: &Placement) -> Result<Tensor> {
    let Placement { stride, padding, dilation, groups } = *placement;
    let (n, channels, height, width) = x.dims4()?;
    let (outputs, inputs, kernel_rows, kernel_columns) = weight.dims4()?;
    if groups == 0 || inputs * groups != channels || outputs % groups != 0 {
        bail!("a weight of shape {:?} does not fit {channels} channels in {groups} groups", weight.shape())
    }
    let kernel = [kernel_rows, kernel_columns];
    let [rows, columns] = placement.output([height, width], kernel)?;
    let square = [kernel, padding, dilation].iter().all(|[rows, columns]| rows == columns);
    if square && stride == [1, 1] && groups == 1 {
        return x.conv2d(weight, padding[0], 1, dilation[0], 1);
    }
    let x = x.pad_with_zeros(2, padding[0], padding[0])?.pad_with_zeros(3, padding[1], padding[1])?;
    let mut sum: Option<Tensor> = None;
    for row in 0..kernel[0] {
        let band = strided(&x, 2, row * dilation[0], stride[0], rows)?;
        for column in 0..kernel[1] {
            let pixels = strided(&band, 3, column * dilation[1], stride[1], columns)?.contiguous()?;
            let pixels = pixels.reshape((n, groups, inputs, rows * columns))?;
            let tap = weight.narrow(2, row, 1)?.narrow(3, column, 1)?.contiguous()?;
            let tap = tap.reshape((1, groups, outputs / groups, inputs))?;
            let product = if inputs == 1 {
                // (1, G, O, 1) times (N, G, 1, P): no sum over inputs.
                tap.broadcast_mul(&pixels)?
            } else {
                tap.broadcast_matmul(&pixels)?
            };
            sum = Some(match sum {
                None => product,
                Some(sum) => (sum + product)?,
            });
        }
    }
    match sum {
        Some(sum) => sum.reshape((n, outputs, rows, columns)),
        None => bail!("the kernel is empty"),
    }
}
