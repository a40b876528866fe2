//! Generated tensors, and comparisons.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use candle_core::{DType, Device, Tensor, Var};

/// Values in (-1, 1) that are all different, determined by a name.
pub(crate) fn values(name: &str, shape: &[usize]) -> Var {
    let seed: f64 = name.bytes().fold(0.5, |seed, byte| (seed * 31.0 + f64::from(byte)) % 97.0);
    let len: usize = shape.iter().product();
    let values: Vec<f64> = (0..len)
        .map(|i| 2.0 * ((i as f64 * 12.9898 + seed).sin() * 43758.547).rem_euclid(1.0) - 1.0)
        .collect();
    Var::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The same values in another type, as a separate variable.
pub(crate) fn in_type(var: &Var, dtype: DType) -> Var {
    Var::from_tensor(&var.as_detached_tensor().to_dtype(dtype).unwrap()).unwrap()
}

pub(crate) fn host(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// `sum(y * factor)` with factors that are all different.
pub(crate) fn weighted_sum(y: &Tensor) -> Tensor {
    let factor = in_type(&values("factor", y.dims()), y.dtype());
    (y * factor.as_tensor()).unwrap().sum_all().unwrap()
}

/// Fails with the worst element if it differs by more than this share of the largest.
pub(crate) fn assert_close(what: &str, got: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), expected.dims(), "{what}");
    let (got, expected) = (host(got), host(expected));
    let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    let worst = (0..got.len()).max_by(|a, b| {
        let error = |i: &usize| (got[*i] - expected[*i]).abs();
        error(a).total_cmp(&error(b))
    });
    if let Some(at) = worst {
        let (got, expected) = (got[at], expected[at]);
        assert!((got - expected).abs() <= tolerance * largest, "{what}: {got} at {at}, not {expected}");
    }
}
