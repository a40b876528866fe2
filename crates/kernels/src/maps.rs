//! Layouts and averages of single images.

use crate::convolution::padded;

/// `(C, pixels)` to `(pixels, padded(C))`, zeros beyond the channels.
///
/// # Panics
/// When a slice has another length, here as below.
pub fn to_channels_last(planar: &[f32], channels: usize, image: &mut [f32]) {
    let stride = padded(channels);
    let pixels = image.len() / stride;
    assert!(planar.len() == channels * pixels && image.len() == stride * pixels);
    for (pixel, target) in image.chunks_exact_mut(stride).enumerate() {
        for (channel, x) in target.iter_mut().enumerate() {
            *x = if channel < channels { planar[channel * pixels + pixel] } else { 0.0 };
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
/// When the image is empty or no whole number of pixels.
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
