//! Images of few channels surrounded by zeros, without padding channels.

use crate::gemm::PANEL;
use crate::shape::{ConvShape, padded};

/// The most rows of outputs that are summed at once over planes: the registers must hold their vectors.
pub(super) const MOST_ROWS: usize = 4;

/// An image of few channels as a convolution reads it, with the zeros of the convolution's padding around the map: pixel by pixel, `(rows,
/// columns, channels)`, or plane by plane, `(channels, rows, columns)`.
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
    /// For an image in planes, the rows and columns of each plane, including what vectors read beyond the map.
    planes: Option<[usize; 2]>,
}

impl PackedShape {
    /// The input of a convolution, pixel by pixel.
    pub(super) const fn pixels(shape: &ConvShape) -> Self {
        Self {
            height: shape.height,
            width: shape.width,
            channels: shape.in_channels,
            padding: shape.stored_padding(),
            planes: None,
        }
    }

    /// The input of a convolution, plane by plane.
    pub(super) const fn planes(shape: &ConvShape) -> Self {
        let (rows, columns) = shape.stored_map();
        let rows = rows + shape.kernel[0] - 1 + MOST_ROWS - 1;
        let columns = columns.next_multiple_of(PANEL) + shape.kernel[1] - 1;
        Self { planes: Some([rows, columns]), ..Self::pixels(shape) }
    }

    /// Floats of a packed image.
    #[must_use]
    pub const fn len(&self) -> usize {
        let len = match self.planes {
            Some(_) => self.channels * self.plane(),
            None => (self.height + 2 * self.padding[0]) * self.row_len(),
        };
        len.next_multiple_of(PANEL)
    }

    /// Never.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Floats of a row.
    pub(super) const fn row_len(&self) -> usize {
        match self.planes {
            Some([_, columns]) => columns,
            None => (self.width + 2 * self.padding[1]) * self.channels,
        }
    }

    /// Floats from a channel of a pixel to the next one.
    pub(super) const fn plane(&self) -> usize {
        match self.planes {
            Some([rows, columns]) => rows * columns,
            None => 1,
        }
    }

    /// Writes an image; `value` returns the value of a channel at a pixel, `row * width + column`.
    ///
    /// # Panics
    /// When the target has the wrong length, here and below.
    pub fn write(&self, packed: &mut [f32], value: impl Fn(usize, usize) -> f32) {
        assert_eq!(packed.len(), self.len());
        packed.fill(0.0);
        let [above, left] = self.padding;
        if self.planes.is_some() {
            for (channel, plane) in packed.chunks_exact_mut(self.plane()).take(self.channels).enumerate() {
                let rows = plane.chunks_exact_mut(self.row_len()).skip(above).take(self.height);
                for (row, target) in rows.enumerate() {
                    for (column, x) in target[left..left + self.width].iter_mut().enumerate() {
                        *x = value(channel, row * self.width + column);
                    }
                }
            }
            return;
        }
        let first = left * self.channels;
        let rows = packed.chunks_exact_mut(self.row_len()).skip(above).take(self.height);
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
