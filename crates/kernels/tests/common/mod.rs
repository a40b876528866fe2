//! Numbers and comparisons that several test programs need.

#![allow(dead_code, reason = "each program takes what it needs")]

use pointwise_random::{Purpose, Stream};

/// A handful of roundings of `f32`.
pub(crate) const FEW_ROUNDINGS: f64 = 1e-6;

/// Values from -1 to 1.
pub(crate) fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut stream = Stream::new(seed, Purpose::Synthetic, 0);
    (0..len).map(|_| stream.word() as f32 / (1u64 << 31) as f32 - 1.0).collect()
}

/// Values with many ties and zeros.
pub(crate) fn coarse(seed: u64, len: usize) -> Vec<f32> {
    uniform(seed, len).into_iter().map(|x| (2.0 * x).round()).collect()
}

/// Zeroes the padded channels of an image.
pub(crate) fn clear_padding(channels: usize, image: &mut [f32]) {
    for pixel in image.chunks_exact_mut(channels.next_multiple_of(16)) {
        pixel[channels..].fill(0.0);
    }
}

/// Differences up to `tolerance`, relative to what is above 1. Infinities and NaNs must be the same.
pub(crate) fn close(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let allowed = tolerance * expected.abs().max(1.0);
        let got = f64::from(*got);
        if got == *expected || (got.is_nan() && expected.is_nan()) {
            continue;
        }
        assert!((got - expected).abs() <= allowed, "{what}: {got} at {at}, not {expected}");
    }
}

/// The inner product.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
