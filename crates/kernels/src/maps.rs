//! Layouts and averages of single images.

use crate::shape::padded;

/// `(C, pixels)` to `(pixels, padded(C))`, zeros beyond the channels.
///
/// # Panics
/// When a slice has the wrong length, here and below.
pub fn to_channels_last(planar: &[f32], channels: usize, image: &mut [f32]) {
    let stride = padded(channels);
    let pixels = image.len() / stride;
    assert!(planar.len() == channels * pixels && image.len() == stride * pixels);
    image.fill(0.0);
    for (channel, plane) in planar.chunks_exact(pixels.max(1)).enumerate() {
        for (x, pixel) in plane.iter().zip(image.chunks_exact_mut(stride)) {
            pixel[channel] = *x;
        }
    }
}

/// `(pixels, padded(C))` to `(C, pixels)`: the inverse of [`to_channels_last`].
///
/// # Panics
/// As [`to_channels_last`].
pub fn to_planar(image: &[f32], channels: usize, planar: &mut [f32]) {
    let stride = padded(channels);
    let pixels = image.len() / stride;
    assert!(planar.len() == channels * pixels && image.len() == stride * pixels);
    for (channel, plane) in planar.chunks_exact_mut(pixels).enumerate() {
        for (x, pixel) in plane.iter_mut().zip(image.chunks_exact(stride)) {
            *x = pixel[channel];
        }
    }
}

/// The mean of each channel over the pixels.
///
/// # Panics
/// When the image is empty or not a whole number of pixels.
pub fn global_average(image: &[f32], mean: &mut [f32]) {
    let channels = mean.len();
    assert!(!image.is_empty() && image.len().is_multiple_of(channels));
    mean.fill(0.0);
    for pixel in image.chunks_exact(channels) {
        for (mean, x) in mean.iter_mut().zip(pixel) {
            *mean += x;
        }
    }
    let share = 1.0 / (image.len() / channels) as f32;
    for mean in mean {
        *mean *= share;
    }
}

/// The adjoint of [`global_average`].
///
/// # Panics
/// As [`global_average`].
pub fn global_average_adjoint(mean: &[f32], image: &mut [f32]) {
    let channels = mean.len();
    assert!(!image.is_empty() && image.len().is_multiple_of(channels));
    let share = 1.0 / (image.len() / channels) as f32;
    for pixel in image.chunks_exact_mut(channels) {
        for (x, mean) in pixel.iter_mut().zip(mean) {
            *x = mean * share;
        }
    }
}

/// Every `stride`-th pixel of an image, starting with the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subsampling {
    /// Rows of the image.
    pub height: usize,
    /// Columns of the image.
    pub width: usize,
    /// Padded channels.
    pub channels: usize,
    /// Rows and columns from a pixel to the next one.
    pub stride: [usize; 2],
}

impl Subsampling {
    /// Rows and columns of the result.
    ///
    /// # Panics
    /// When a stride is zero, here and below.
    #[must_use]
    pub const fn output_map(&self) -> (usize, usize) {
        (self.height.div_ceil(self.stride[0]), self.width.div_ceil(self.stride[1]))
    }

    /// Floats of the image.
    #[must_use]
    pub const fn input_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Floats of the result.
    ///
    /// # Panics
    /// As [`Subsampling::output_map`].
    #[must_use]
    pub const fn output_len(&self) -> usize {
        let (height, width) = self.output_map();
        height * width * self.channels
    }

    /// The offset of each remaining pixel in the image, in order.
    fn offsets(&self) -> impl Iterator<Item = usize> {
        let Self { height, width, channels, stride } = *self;
        let rows = (0..height).step_by(stride[0]);
        rows.flat_map(move |y| (0..width).step_by(stride[1]).map(move |x| (y * width + x) * channels))
    }
}

/// `y[i, j] = x[stride i, stride j]`.
///
/// # Panics
/// When there are no channels, or a slice's length does not match the shape.
pub fn subsample(shape: Subsampling, x: &[f32], y: &mut [f32]) {
    assert!(x.len() == shape.input_len() && y.len() == shape.output_len());
    for (at, pixel) in shape.offsets().zip(y.chunks_exact_mut(shape.channels)) {
        pixel.copy_from_slice(&x[at..][..shape.channels]);
    }
}

/// The adjoint of [`subsample`]: zeros between the pixels.
///
/// # Panics
/// As [`subsample`].
pub fn subsample_adjoint(shape: Subsampling, y: &[f32], x: &mut [f32]) {
    assert!(x.len() == shape.input_len() && y.len() == shape.output_len());
    x.fill(0.0);
    for (at, pixel) in shape.offsets().zip(y.chunks_exact(shape.channels)) {
        x[at..][..shape.channels].copy_from_slice(pixel);
    }
}

/// Where a run of channels lies in an image `(pixels, padded(channels))`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelRun {
    /// Channels of the image, without padding.
    pub channels: usize,
    /// The first of the run.
    pub first: usize,
}

impl ChannelRun {
    /// The run of all channels, or one that begins with the first.
    #[must_use]
    pub const fn whole(channels: usize) -> Self {
        Self { channels, first: 0 }
    }

    fn check(self, count: usize, image: &[f32]) -> usize {
        assert!(
            self.first + count <= self.channels,
            "{count} channels from {} of {}",
            self.first,
            self.channels
        );
        assert!(self.channels > 0 && image.len().is_multiple_of(padded(self.channels)));
        image.len() / padded(self.channels)
    }
}

/// Copies `count` channels of every pixel: into a wider image for a concatenation, out of one in its backward pass. Other channels of the
/// target stay as they are; its padded ones become zero.
///
/// # Panics
/// When the images differ in pixels, or a run reaches beyond the channels of its image.
pub fn copy_channels(count: usize, source: &[f32], from: ChannelRun, target: &mut [f32], to: ChannelRun) {
    assert_eq!(from.check(count, source), to.check(count, target));
    let pixels = source.chunks_exact(padded(from.channels));
    for (source, target) in pixels.zip(target.chunks_exact_mut(padded(to.channels))) {
        target[to.first..][..count].copy_from_slice(&source[from.first..][..count]);
        target[to.channels..].fill(0.0);
    }
}
