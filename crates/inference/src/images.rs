//! Input images.

use crate::error::InferenceError;

/// Images of the network's shape, one after the other.
#[derive(Debug, Clone, Copy)]
pub enum Images<'a> {
    /// `(N, C, H, W)`, normalised as in training.
    Normalised(&'a [f32]),
    /// Bytes, as in image files.
    Bytes {
        /// The bytes of all images.
        pixels: &'a [u8],
        /// The order of an image's values.
        layout: Layout,
        /// For each channel, the normalised value of each byte: [`byte_values`].
        values: &'a [[f32; 256]],
    },
}

/// The order of the bytes of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `(C, H, W)`, as in CIFAR-10.
    Planar,
    /// `(H, W, C)`, as image decoders return them.
    Interleaved,
}

/// For each channel, the normalised value of each byte: `(byte / 255 - mean) / std`.
#[must_use]
pub fn byte_values(mean: &[f64], std: &[f64]) -> Vec<[f32; 256]> {
    let value = |byte: usize, mean: f64, std: f64| ((byte as f64 / 255.0 - mean) / std) as f32;
    mean.iter().zip(std).map(|(mean, std)| std::array::from_fn(|byte| value(byte, *mean, *std))).collect()
}

impl<'a> Images<'a> {
    /// How many images of a given shape these are.
    pub(crate) fn count(&self, shape: [usize; 3]) -> Result<usize, InferenceError> {
        let values = match self {
            Self::Normalised(values) => values.len(),
            Self::Bytes { pixels, values, .. } => {
                if values.len() != shape[0] {
                    return Err(InferenceError::Table { tables: values.len(), channels: shape[0] });
                }
                pixels.len()
            }
        };
        let image = shape.iter().product();
        if values % image != 0 {
            return Err(InferenceError::Images { values, image, shape });
        }
        Ok(values / image)
    }

    /// Calls `visit` with a function that returns an image's value for a channel and pixel.
    pub(crate) fn with_values(&self, image: usize, shape: [usize; 3], visit: impl Visit) {
        let [channels, height, width] = shape;
        let (pixels, len) = (height * width, channels * height * width);
        match *self {
            Self::Normalised(values) => {
                let values = &values[image * len..(image + 1) * len];
                visit.visit(|channel, pixel| values[channel * pixels + pixel]);
            }
            Self::Bytes { pixels: bytes, layout, values } => {
                let bytes = &bytes[image * len..(image + 1) * len];
                let value = |channel: usize, at: usize| values[channel][usize::from(bytes[at])];
                match layout {
                    Layout::Planar => visit.visit(|channel, pixel| value(channel, channel * pixels + pixel)),
                    Layout::Interleaved => {
                        visit.visit(|channel, pixel| value(channel, pixel * channels + channel));
                    }
                }
            }
        }
    }
}

/// An operation on the values of an image, compiled for each kind of values.
pub(crate) trait Visit {
    fn visit(self, value: impl Fn(usize, usize) -> f32);
}
