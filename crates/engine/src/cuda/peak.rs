//! The measured peak performance of the GPU.

use super::blas::{Blas, Product, Read};
use super::driver::Gpu;
use super::plan::width;
use crate::error::EngineError;
use pointwise_recipe::{DeviceName, Precision};

/// Rows and columns of the matrices.
const SIDE: usize = 8192;

/// Bytes that are copied at a time: far more than any cache.
const COPIED: usize = 1 << 30;

/// How often something is measured; the fastest counts.
const TRIALS: usize = 5;

fn open(device: DeviceName) -> Result<Gpu, EngineError> {
    match device {
        DeviceName::Cuda(ordinal) => Gpu::open(ordinal),
        DeviceName::Cpu => Err(EngineError::Device("the CPU is not a GPU".to_owned())),
    }
}

/// The fastest of some trials, in seconds, after a warm-up.
fn fastest(gpu: &Gpu, work: impl Fn() -> Result<(), EngineError>) -> Result<f64, EngineError> {
    work()?;
    let mut best = f64::INFINITY;
    for _ in 0..TRIALS {
        best = best.min(gpu.time(&work)?);
    }
    Ok(best)
}

/// 10^12 floating-point operations per second of a product of two 8192 x 8192 matrices by cuBLAS.
///
/// # Errors
/// [`EngineError::Device`] when there is no GPU, or not enough memory.
pub fn peak_tflops(device: DeviceName, precision: Precision) -> Result<f64, EngineError> {
    product_tflops(device, precision, SIDE)
}

fn product_tflops(device: DeviceName, precision: Precision, side: usize) -> Result<f64, EngineError> {
    let gpu = open(device)?;
    let matrix = || gpu.allocate(side * side * width(precision));
    let (a, b, c) = (matrix()?, matrix()?, matrix()?);
    // Zeros would cost the GPU less power than other values, and let it run faster.
    let words = side * side * width(precision) / size_of::<u32>();
    let noise: Vec<u32> =
        (0..words as u32).map(|i| 0x3f80_3f80 + (i.wrapping_mul(0x9e37_79b9) & 0x007f_007f)).collect();
    for matrix in [&a, &b] {
        gpu.upload(matrix, 0, &noise)?;
    }
    let product = Product {
        a: (a.address(), Read::AsIs),
        b: (b.address(), Read::AsIs),
        c: c.address(),
        rows: side,
        columns: side,
        depth: side,
    };
    let blas = Blas::new(&gpu, gpu.stream, precision)?;
    let seconds = fastest(&gpu, || blas.product(&gpu, &product))?;
    Ok(2.0 * (side as f64).powi(3) / seconds / 1e12)
}

/// Bytes per second that the GPU's memory reads and writes together in a copy of 1 GiB.
///
/// # Errors
/// As [`peak_tflops`].
pub fn bandwidth(device: DeviceName) -> Result<f64, EngineError> {
    copy_rate(device, COPIED)
}

fn copy_rate(device: DeviceName, bytes: usize) -> Result<f64, EngineError> {
    let gpu = open(device)?;
    let (from, to) = (gpu.allocate(bytes)?, gpu.allocate(bytes)?);
    let seconds = fastest(&gpu, || gpu.copy(&from, &to))?;
    Ok(2.0 * bytes as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_positive_where_there_is_a_gpu() {
        let device = DeviceName::Cuda(0);
        if crate::device::open(device).is_err() {
            return;
        }
        for precision in Precision::ALL {
            assert!(product_tflops(device, precision, 64).unwrap() > 0.0, "{precision}");
        }
        assert!(copy_rate(device, 1 << 16).unwrap() > 0.0);
        assert!(peak_tflops(DeviceName::Cpu, Precision::F32).is_err());
    }
}
