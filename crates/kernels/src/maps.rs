//! Layouts, averages and dropout of single images.

use crate::convolution::padded;
use pointwise_random::{Purpose, block, unit_f32};

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

/// Where a dropout mask is used: the same place draws the same mask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability of zero, in `[0, 1)`.
    pub p: f64,
    /// Seed of the run.
    pub seed: u64,
    /// Training step, from 0.
    pub step: u64,
    /// Number of the dropout layer in its network, from 0.
    pub layer: u32,
}

impl Dropout {
    /// The factors, 0 or `1 / (1 - p)`, of the elements from number `first` on, counted through the batch in `(N, C, H, W)` order.
    ///
    /// Element `i` is kept when word `i % 4` of block `layer << 32 | i / 4` of stream `step`, as a number in `[0, 1)`, is at least
    /// `p`.
    pub fn factors(&self, first: usize, factors: &mut [f32]) {
        let scale = (1.0 / (1.0 - self.p)) as f32;
        let threshold = self.p as f32;
        let factor = |word: u32| if unit_f32(word) >= threshold { scale } else { 0.0 };
        let words = |group: usize| {
            let index = u64::from(self.layer) << 32 | group as u64;
            block(self.seed, Purpose::Dropout, self.step as u32, index)
        };
        let head = (first.next_multiple_of(4) - first).min(factors.len());
        let (begin, rest) = factors.split_at_mut(head);
        for (i, target) in begin.iter_mut().enumerate() {
            *target = factor(words(first / 4)[(first + i) % 4]);
        }
        for (i, targets) in rest.chunks_mut(4).enumerate() {
            for (target, word) in targets.iter_mut().zip(words((first + head) / 4 + i)) {
                *target = factor(word);
            }
        }
    }
}
