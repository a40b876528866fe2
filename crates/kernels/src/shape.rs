//! The shape of a convolution: sizes of maps, channels and kernels.

use crate::gemm::PANEL;

/// Channels as stored: the next multiple of 16; those beyond `channels` are always zero.
///
/// Every vector width divides 16, so no kernel has a remainder.
#[must_use]
pub const fn padded(channels: usize) -> usize {
    channels.next_multiple_of(PANEL)
}

/// A two-dimensional convolution without dilation. Pairs are of rows and columns, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Rows of the input map.
    pub height: usize,
    /// Columns of the input map.
    pub width: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Pixels of the input from one output to the next, down and across.
    pub stride: [usize; 2],
    /// Rows of zeros above and below the map, and columns of zeros left and right of it.
    pub padding: [usize; 2],
    /// Groups that the channels of both sides are split into: a group of outputs sees only the group of inputs with the same index.
    pub groups: usize,
}

impl ConvShape {
    /// A convolution with a square kernel, stride 1, the same padding on all sides, and every output seeing every input.
    ///
    /// `map` is rows and columns, `channels` those of the input and of the output.
    #[must_use]
    pub const fn square(map: [usize; 2], channels: [usize; 2], kernel: usize, padding: usize) -> Self {
        Self {
            height: map[0],
            width: map[1],
            in_channels: channels[0],
            out_channels: channels[1],
            kernel: [kernel; 2],
            stride: [1; 2],
            padding: [padding; 2],
            groups: 1,
        }
    }

    /// Whether the shape is valid: no size except the padding is zero, the groups divide the channels of both sides, and the kernel is no
    /// larger than the padded map.
    #[must_use]
    pub const fn is_valid(&self) -> bool {
        let Self { height, width, in_channels, out_channels, kernel, stride, padding, groups } = *self;
        height > 0
            && width > 0
            && in_channels > 0
            && out_channels > 0
            && kernel[0] > 0
            && kernel[1] > 0
            && stride[0] > 0
            && stride[1] > 0
            && groups > 0
            && in_channels.is_multiple_of(groups)
            && out_channels.is_multiple_of(groups)
            && height + 2 * padding[0] >= kernel[0]
            && width + 2 * padding[1] >= kernel[1]
    }

    /// Floats of one input image: `(height, width, padded(in_channels))`.
    #[must_use]
    pub const fn input_len(&self) -> usize {
        self.height * self.width * padded(self.in_channels)
    }

    /// Rows and columns of the output, with the border that may not be stored: see [`ConvShape::stored_map`].
    ///
    /// Along each axis that is `(size + 2 * padding - kernel) / stride + 1`, rounded down.
    #[must_use]
    pub const fn output_map(&self) -> (usize, usize) {
        self.map_with(self.padding)
    }

    /// Rows and columns of the output that are stored.
    ///
    /// For a padded pointwise convolution, that is the part without the border, where every product is zero and the result is just the
    /// bias. This holds for a 1x1 kernel with stride 1 and the same padding on all sides; every other output is stored completely.
    #[must_use]
    pub const fn stored_map(&self) -> (usize, usize) {
        self.map_with(self.stored_padding())
    }

    /// Width of the border that is not stored: see [`ConvShape::stored_map`].
    #[must_use]
    pub const fn border(&self) -> usize {
        if self.is_plain() && self.kernel[0] == 1 { self.padding[0] } else { 0 }
    }

    /// Floats of one stored output image: `(rows, columns, padded(out_channels))`.
    #[must_use]
    pub const fn output_len(&self) -> usize {
        let (height, width) = self.stored_map();
        height * width * padded(self.out_channels)
    }

    /// Values of the weight in PyTorch's layout, `(out, in / groups, rows, columns)`.
    #[must_use]
    pub const fn weight_len(&self) -> usize {
        self.out_channels * self.group_inputs() * self.taps()
    }

    /// A square kernel with stride 1 and the same padding on all sides.
    pub(crate) const fn is_plain(&self) -> bool {
        self.kernel[0] == self.kernel[1]
            && self.stride[0] == 1
            && self.stride[1] == 1
            && self.padding[0] == self.padding[1]
    }

    /// The padding that gives the stored map.
    pub(crate) const fn stored_padding(&self) -> [usize; 2] {
        if self.border() > 0 { [0; 2] } else { self.padding }
    }

    /// Taps of the kernel.
    pub(crate) const fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Channels of the input that an output sees.
    pub(crate) const fn group_inputs(&self) -> usize {
        self.in_channels / self.groups
    }

    /// Output channels of a group.
    pub(crate) const fn group_outputs(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Pixels of the output that are stored.
    pub(crate) const fn stored_pixels(&self) -> usize {
        let (height, width) = self.stored_map();
        height * width
    }

    const fn map_with(&self, padding: [usize; 2]) -> (usize, usize) {
        (
            (self.height + 2 * padding[0] - self.kernel[0]) / self.stride[0] + 1,
            (self.width + 2 * padding[1] - self.kernel[1]) / self.stride[1] + 1,
        )
    }
}

/// The range `first..end` of the `outputs` along one axis for which this tap of the kernel lies inside an input of `size`: output `o` reads
/// the input at `o * stride + tap - padding`.
pub(crate) fn inside(
    size: usize,
    outputs: usize,
    stride: usize,
    padding: usize,
    tap: usize,
) -> std::ops::Range<usize> {
    let first = padding.saturating_sub(tap).div_ceil(stride).min(outputs);
    let end = (size + padding).saturating_sub(tap).div_ceil(stride).clamp(first, outputs);
    first..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_map_is_rounded_down_and_stored_without_a_border_of_zeros() {
        let shape = |kernel, stride, padding| ConvShape {
            kernel,
            stride,
            padding,
            ..ConvShape::square([9, 14], [6, 4], 1, 0)
        };
        for (shape, whole, stored, border) in [
            (shape([3, 3], [2, 2], [1, 1]), (5, 7), (5, 7), 0),
            (shape([1, 7], [1, 3], [0, 2]), (9, 4), (9, 4), 0),
            (shape([1, 1], [1, 1], [2, 2]), (13, 18), (9, 14), 2),
            (shape([1, 1], [2, 2], [1, 1]), (6, 8), (6, 8), 0),
            (shape([1, 1], [1, 1], [1, 0]), (11, 14), (11, 14), 0),
        ] {
            assert_eq!((shape.output_map(), shape.stored_map(), shape.border()), (whole, stored, border));
        }
    }

    #[test]
    fn impossible_convolutions_are_told_apart() {
        let good = ConvShape { groups: 2, ..ConvShape::square([3, 3], [4, 6], 3, 0) };
        assert!(good.is_valid());
        for bad in [
            ConvShape { groups: 0, ..good },
            ConvShape { groups: 3, ..good },
            ConvShape { groups: 4, ..good },
            ConvShape { height: 2, ..good },
            ConvShape { width: 0, ..good },
            ConvShape { in_channels: 0, ..good },
            ConvShape { out_channels: 0, ..good },
            ConvShape { stride: [1, 0], ..good },
            ConvShape { kernel: [0, 1], ..good },
        ] {
            assert!(!bad.is_valid(), "{bad:?}");
        }
    }

    #[test]
    fn outputs_inside_are_those_whose_place_is() {
        for (size, stride, padding, kernel) in
            [(5, 1, 1, 3), (5, 2, 1, 3), (6, 3, 4, 3), (1, 2, 3, 7), (4, 3, 0, 1)]
        {
            let outputs = (size + 2 * padding - kernel) / stride + 1;
            for tap in 0..kernel {
                let expected: Vec<usize> = (0..outputs)
                    .filter(|output| (padding..size + padding).contains(&(output * stride + tap)))
                    .collect();
                let got: Vec<usize> = inside(size, outputs, stride, padding, tap).collect();
                assert_eq!(got, expected, "{size} {stride} {padding} {tap}");
            }
        }
    }
}
