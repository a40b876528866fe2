use candle_core::{Result, bail};

/// How a convolution's kernel lies over its input. Pairs are of rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// Pixels of the input from one output to the next.
    pub stride: [usize; 2],
    /// Rows and columns of zeros on each side of the input.
    pub padding: [usize; 2],
    /// Pixels of the input from one tap of the kernel to the next.
    pub dilation: [usize; 2],
    /// Groups that the input and output channels are split into.
    pub groups: usize,
}

impl Placement {
    /// Rows and columns of the output of a kernel on a map.
    ///
    /// # Errors
    /// When a stride, a dilation or the kernel is zero, or the kernel is larger than the padded map.
    pub fn output(&self, map: [usize; 2], kernel: [usize; 2]) -> Result<[usize; 2]> {
        let Self { stride, padding, dilation, groups } = *self;
        if groups == 0 || [stride, dilation, kernel].iter().flatten().any(|side| *side == 0) {
            bail!(
                "a kernel of {kernel:?}, stride {stride:?}, dilation {dilation:?} and {groups} groups must all be above 0"
            )
        }
        let mut output = [0; 2];
        for axis in 0..2 {
            let (padded, covered) = (map[axis] + 2 * padding[axis], dilation[axis] * (kernel[axis] - 1) + 1);
            if padded < covered {
                bail!(
                    "a kernel of {}x{} with dilation {dilation:?} is larger than a map of {}x{} with padding {padding:?}",
                    kernel[0],
                    kernel[1],
                    map[0],
                    map[1]
                )
            }
            output[axis] = (padded - covered) / stride[axis] + 1;
        }
        Ok(output)
    }
}

/// The windows of a pool. Pairs are of rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Sides of a window.
    pub kernel: [usize; 2],
    /// Rows and columns from one window to the next.
    pub stride: [usize; 2],
    /// How far windows extend over each edge; at most half their side, so that each has a pixel.
    pub padding: [usize; 2],
}

impl Windows {
    /// Rows and columns of the output on a map; what no window covers is dropped.
    ///
    /// # Errors
    /// When a stride or a side is zero, the padding is more than half a window, or a window is larger than the padded map.
    pub fn output(&self, map: [usize; 2]) -> Result<[usize; 2]> {
        let Self { kernel, stride, padding } = *self;
        let mut output = [0; 2];
        for axis in 0..2 {
            if kernel[axis] == 0 || stride[axis] == 0 || 2 * padding[axis] > kernel[axis] {
                bail!(
                    "a pool cannot have windows of {kernel:?} with stride {stride:?} and padding {padding:?}: the first two must be \
                     above 0, and the padding at most half a window"
                )
            }
            let padded = map[axis] + 2 * padding[axis];
            if padded < kernel[axis] {
                bail!(
                    "a window of {}x{} is larger than a map of {}x{} with padding {padding:?}",
                    kernel[0],
                    kernel[1],
                    map[0],
                    map[1]
                )
            }
            output[axis] = (padded - kernel[axis]) / stride[axis] + 1;
        }
        Ok(output)
    }
}
