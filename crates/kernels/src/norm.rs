//! BatchNorm's statistics and gradients (Ioffe and Szegedy 2015, arXiv:1502.03167), from sums over images.
//!
//! The variance is never a difference of two large numbers: each image sums its distances from a value of its own (its first
//! pixel), and the images are merged by the formula of Chan, Golub and LeVeque (1979) in `f64`. However far the mean lies from
//! zero, the error stays that of the distances.

use crate::simd::{Isa, Kernel, Simd};

/// Rows of floats that [`image_moments`] fills.
pub const MOMENT_ROWS: usize = 3;

/// Fills `moments`, three rows of `channels`: the pivot (the first pixel), the sum of distances from it, the sum of their squares.
///
/// # Panics
/// When the image is empty or no whole number of pixels, or `moments` has another length.
pub fn image_moments(isa: Isa, channels: usize, image: &[f32], moments: &mut [f32]) {
    assert!(channels.is_multiple_of(16) && !image.is_empty() && image.len().is_multiple_of(channels));
    assert_eq!(moments.len(), MOMENT_ROWS * channels);
    isa.run(ImageMoments { channels, image, moments });
}

struct ImageMoments<'a> {
    channels: usize,
    image: &'a [f32],
    moments: &'a mut [f32],
}

impl Kernel for ImageMoments<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let channels = self.channels;
        let (pivots, sums) = self.moments.split_at_mut(channels);
        pivots.copy_from_slice(&self.image[..channels]);
        sums.fill(0.0);
        let (pivots, sums) = (pivots.as_ptr(), sums.as_mut_ptr());
        for pixel in self.image.chunks_exact(channels).skip(1) {
            for channel in (0..channels).step_by(S::WIDTH) {
                // SAFETY: `channels` floats in each row, a multiple of 16.
                unsafe {
                    let y = simd.load(pixel.as_ptr().add(channel));
                    let distance = simd.sub(y, simd.load(pivots.add(channel)));
                    let (first, second) = (sums.add(channel), sums.add(channels + channel));
                    simd.store(first, simd.add(simd.load(first), distance));
                    simd.store(second, simd.mul_add(distance, distance, simd.load(second)));
                }
            }
        }
    }
}

/// Mean and biased variance of each channel over a batch.
#[derive(Debug, Clone, Default)]
pub struct BatchStatistics {
    /// Values that each channel has, border included.
    pub count: f64,
    /// Mean of each padded channel.
    pub mean: Vec<f64>,
    /// Sum of squared distances from the mean over `count`.
    pub variance: Vec<f64>,
}

impl BatchStatistics {
    /// Merges the [`image_moments`] of images of `pixels` pixels, each with `border` further values that are zero.
    pub fn merge<'a>(
        channels: usize,
        pixels: usize,
        border: usize,
        images: impl IntoIterator<Item = &'a [f32]>,
    ) -> Self {
        let mut count = 0.0;
        let (mut mean, mut squares) = (vec![0.0; channels], vec![0.0; channels]);
        let n = pixels as f64;
        let mut zeros = 0.0;
        for moments in images {
            let total = count + n;
            for channel in 0..channels {
                let [pivot, sum, square] = [0, 1, 2].map(|row| f64::from(moments[row * channels + channel]));
                let distance = pivot + sum / n - mean[channel];
                squares[channel] += (square - sum * sum / n) + distance * distance * (count * n / total);
                mean[channel] += distance * (n / total);
            }
            count = total;
            zeros += border as f64;
        }
        if zeros > 0.0 {
            let total = count + zeros;
            for channel in 0..channels {
                squares[channel] += mean[channel] * mean[channel] * (count * zeros / total);
                mean[channel] -= mean[channel] * (zeros / total);
            }
            count = total;
        }
        // Rounding can leave a trace below zero. (`f64::max` would turn a NaN into zero.)
        let variance = squares.into_iter().map(|x: f64| if x < 0.0 { 0.0 } else { x / count }).collect();
        Self { count, mean, variance }
    }
}
