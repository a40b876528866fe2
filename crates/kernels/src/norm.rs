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
/// When the image is empty or not a whole number of pixels, or `moments` has the wrong length.
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
        let (image, moments) = (self.image, self.moments.as_mut_ptr());
        let mut channel = 0;
        while channel < channels {
            let vectors = ((channels - channel) / S::WIDTH).min(4);
            // SAFETY: `vectors` vectors of channels from `channel` on, in each pixel and in each row of moments.
            unsafe {
                match vectors {
                    4 => vectors_moments::<S, 4>(simd, channels, channel, image, moments),
                    3 => vectors_moments::<S, 3>(simd, channels, channel, image, moments),
                    2 => vectors_moments::<S, 2>(simd, channels, channel, image, moments),
                    _ => vectors_moments::<S, 1>(simd, channels, channel, image, moments),
                }
            }
            channel += vectors * S::WIDTH;
        }
    }
}

/// The moments of some vectors of channels, from `channel` on. Their sums stay in registers: in memory, each pixel would wait for the
/// previous one's sums to be written and read back.
///
/// # Safety
/// `N` vectors from `channel` on are inside `channels`, which `image` has in each pixel, and `moments` three times.
#[inline(always)]
unsafe fn vectors_moments<S: Simd, const N: usize>(
    simd: S,
    channels: usize,
    channel: usize,
    image: &[f32],
    moments: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe {
        let load = |pixel: &[f32]| -> [S::V; N] {
            std::array::from_fn(|v| simd.load(pixel.as_ptr().add(channel + v * S::WIDTH)))
        };
        let pivots = load(image);
        let (mut sums, mut squares) = ([simd.zero(); N], [simd.zero(); N]);
        for pixel in image.chunks_exact(channels).skip(1) {
            let y = load(pixel);
            for v in 0..N {
                let distance = simd.sub(y[v], pivots[v]);
                sums[v] = simd.add(sums[v], distance);
                squares[v] = simd.mul_add(distance, distance, squares[v]);
            }
        }
        for (row, values) in [pivots, sums, squares].into_iter().enumerate() {
            for (v, value) in values.into_iter().enumerate() {
                simd.store(moments.add(row * channels + channel + v * S::WIDTH), value);
            }
        }
    }
}

/// Mean and biased variance of each channel over a batch.
#[derive(Debug, Clone, Default)]
pub struct BatchStatistics {
    /// Values per channel, border included.
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
