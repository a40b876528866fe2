//! Images of few channels, side by side: between zeros, without channels that pad pixels.

use crate::gemm::PANEL;
use crate::shape::{ConvShape, padded};

/// An image of few channels as a product reads patches out of it: `(rows, columns, channels)`, no channel padded, with the zeros of a
/// convolution's padding around the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedShape {
    /// Rows of the image.
    pub height: usize,
    /// Columns of the image.
    pub width: usize,
    /// Channels.
    pub channels: usize,
    /// Rows of zeros above and below, columns of zeros left and right.
    pub padding: [usize; 2],
}

impl PackedShape {
    /// The packed input of a convolution.
    #[must_use]
    pub const fn of(shape: &ConvShape) -> Self {
        Self {
            height: shape.height,
            width: shape.width,
            channels: shape.in_channels,
            padding: shape.stored_padding(),
        }
    }

    /// Floats of a packed image.
    #[must_use]
    pub const fn len(&self) -> usize {
        ((self.height + 2 * self.padding[0]) * self.row_len()).next_multiple_of(PANEL)
    }

    /// Never.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Floats of a row.
    pub(super) const fn row_len(&self) -> usize {
        (self.width + 2 * self.padding[1]) * self.channels
    }

    /// Writes an image, of which `value` gives the values: of a channel at a pixel, `row * width + column`.
    ///
    /// # Panics
    /// When the target has another length, here as below.
    pub fn write(&self, packed: &mut [f32], value: impl Fn(usize, usize) -> f32) {
        assert_eq!(packed.len(), self.len());
        packed.fill(0.0);
        let first = self.padding[1] * self.channels;
        let rows = packed.chunks_exact_mut(self.row_len()).skip(self.padding[0]).take(self.height);
        for (row, target) in rows.enumerate() {
            let target = &mut target[first..first + self.width * self.channels];
            for (column, pixel) in target.chunks_exact_mut(self.channels).enumerate() {
                for (channel, x) in pixel.iter_mut().enumerate() {
                    *x = value(channel, row * self.width + column);
                }
            }
        }
    }

    /// Packs a channels-last map, `(rows, columns, padded(channels))`.
    ///
    /// # Panics
    /// As [`PackedShape::write`].
    pub fn pack(&self, map: &[f32], packed: &mut [f32]) {
        let stride = padded(self.channels);
        assert_eq!(map.len(), self.height * self.width * stride);
        self.write(packed, |channel, pixel| map[pixel * stride + channel]);
    }
}
