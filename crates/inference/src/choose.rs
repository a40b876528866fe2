//! The choice of a method for each convolution.
//!
//! Winograd's larger tiles need fewer products but more weights. Many images share one read of the weights; for a single image, reading
//! them can take longer than computing, especially once all weights together no longer fit into the cache. So the cost of a byte depends on
//! all choices: several prices are tried, each convolution takes its cheapest method at that price, and the plan that is fastest overall
//! wins. The figures need not match this machine: they only decide between close plans.

use pointwise_kernels::{ConvShape, FusedMethod};

/// Multiply-accumulates per second and thread.
const MACS: f64 = 48e9;

/// Bytes of weights that stay in the last-level cache from one call to the next.
const CACHE: f64 = 10e6;

/// Bytes per second from there, for all threads...
const CACHE_RATE: f64 = 60e9;

/// ...and from memory.
const MEMORY_RATE: f64 = 10e9;

/// The fraction of the reading that does not overlap with arithmetic.
const EXPOSED: f64 = 0.6;

/// Seconds to read the weights, for each pass over them.
fn reading(bytes: f64) -> f64 {
    EXPOSED * (bytes.min(CACHE) / CACHE_RATE + (bytes - CACHE).max(0.0) / MEMORY_RATE)
}

/// Seconds of a convolution of `images` images by the method that is best for it alone.
pub(crate) fn seconds(shape: &ConvShape, images: usize, threads: usize) -> f64 {
    let of = |method: FusedMethod| {
        let cost = method.cost(shape, images);
        cost.macs / (MACS * threads as f64) + reading(cost.weight_bytes)
    };
    FusedMethod::candidates(shape).into_iter().map(of).fold(f64::INFINITY, f64::min)
}

/// A method for each convolution, for `images` images at once.
pub(crate) fn methods(shapes: &[ConvShape], images: usize, threads: usize) -> Vec<FusedMethod> {
    let candidates: Vec<_> = shapes
        .iter()
        .map(|shape| {
            let costed =
                FusedMethod::candidates(shape).into_iter().map(|method| (method, method.cost(shape, images)));
            costed.collect::<Vec<_>>()
        })
        .collect();
    let rate = MACS * threads as f64;
    let plan = |price: f64| {
        let cheapest = candidates.iter().filter_map(|of| {
            let priced = of
                .iter()
                .map(|(method, cost)| (cost.macs / rate + price * cost.weight_bytes, (*method, *cost)));
            priced.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, choice)| choice)
        });
        let chosen: Vec<_> = cheapest.collect();
        let macs: f64 = chosen.iter().map(|(_, cost)| cost.macs).sum();
        let bytes: f64 = chosen.iter().map(|(_, cost)| cost.weight_bytes).sum();
        (macs / rate + reading(bytes), chosen)
    };
    // From zero to twice the cost of memory.
    let prices = (0..=16).map(|step| f64::from(step) / 8.0 / MEMORY_RATE);
    let best = prices.map(plan).min_by(|(a, _), (b, _)| a.total_cmp(b));
    best.map(|(_, chosen)| chosen.into_iter().map(|(method, _)| method).collect()).unwrap_or_default()
}
