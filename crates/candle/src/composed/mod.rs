//! Operations that candle 0.11.1 lacks or computes differently from PyTorch, on any candle device and in any of its float types.
//!
//! * [`max_pool2d`]: candle passes a quarter of the gradient through a 2x2 window with one maximum, and does not support overlapping windows.
//! * [`avg_pool2d`]: candle has no gradient for overlapping windows.
//! * [`relu`]: candle's gradient at zero is one, PyTorch's is zero.
//! * [`dropout`]: candle's masks come from a generator that cannot be seeded on the CPU.
//! * [`conv2d`]: candle has only square strides and paddings, and its gradients of strided convolutions fail on some shapes.
//! * [`sgd`], [`adam`], [`adamw`]: candle has no momentum, and no optimizer whose state can be accessed.
//!
//! Each is composed of candle operations whose gradients are right, so that autograd works through them. The layers of this crate fall back on them
//! where the CPU kernels do not apply; networks that must be obviously right are built from them alone.

mod adam;
mod adamw;
mod convolution;
mod dropout;
mod geometry;
mod penalty;
mod pool;
mod relu;
mod sampling;
mod sgd;

pub use adam::adam;
pub use adamw::adamw;
pub use convolution::conv2d;
pub use dropout::dropout;
pub use geometry::{Placement, Windows};
pub use pool::{avg_pool2d, max_pool2d};
pub use relu::relu;
pub use sampling::subsample;
pub use sgd::sgd;

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor, Var};
    use pointwise_random::{Dropout, Purpose, block};

    const SQUARES: Windows = Windows { kernel: [2, 2], stride: [2, 2], padding: [0, 0] };

    fn var(values: &[f32], shape: &[usize]) -> Var {
        Var::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()
    }

    /// Gradient of `sum(f(x) * weights)` with respect to `x`.
    fn gradient(x: &Var, y: &Tensor, weights: &[f32]) -> Vec<f32> {
        let weights = Tensor::from_slice(weights, y.shape(), &Device::Cpu).unwrap();
        let grads = (y * weights).unwrap().sum_all().unwrap().backward().unwrap();
        grads.get(x).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The obvious loop: values and the place of the first maximum of each window.
    fn naive_pool(x: &[f32], planes: usize, h: usize, w: usize) -> Vec<(f32, usize)> {
        let mut out = Vec::new();
        for plane in 0..planes {
            for row in 0..h / 2 {
                for column in 0..w / 2 {
                    let mut best = plane * h * w + 2 * row * w + 2 * column;
                    for (dy, dx) in [(0, 1), (1, 0), (1, 1)] {
                        let place = plane * h * w + (2 * row + dy) * w + 2 * column + dx;
                        if x[place] > x[best] {
                            best = place;
                        }
                    }
                    out.push((x[best], best));
                }
            }
        }
        out
    }

    #[test]
    fn max_pool_is_the_naive_loop_with_its_gradient() {
        for (n, c, h, w) in [(1, 1, 2, 2), (2, 3, 4, 6), (1, 2, 9, 9), (3, 1, 5, 7), (2, 2, 3, 2)] {
            let len = n * c * h * w;
            // Few distinct values, so that ties are common.
            let values: Vec<f32> =
                (0..len).map(|i| (block(1, Purpose::Augment, 0, i as u64)[0] % 5) as f32 - 2.0).collect();
            let x = var(&values, &[n, c, h, w]);
            let y = max_pool2d(&x, &SQUARES).unwrap();
            assert_eq!(y.dims(), [n, c, h / 2, w / 2]);
            let naive = naive_pool(&values, n * c, h, w);
            let expected: Vec<f32> = naive.iter().map(|(value, _)| *value).collect();
            assert_eq!(y.flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected, "{n}x{c}x{h}x{w}");
            let weights: Vec<f32> = (0..naive.len()).map(|i| i as f32 + 1.0).collect();
            let mut expected = vec![0.0; len];
            for ((_, place), weight) in naive.iter().zip(&weights) {
                expected[*place] += weight;
            }
            assert_eq!(gradient(&x, &y, &weights), expected, "{n}x{c}x{h}x{w}");
        }
    }

    #[test]
    fn max_pool_passes_a_nan_from_anywhere_and_its_gradient_to_the_last() {
        let nan = f32::NAN;
        for (window, taken) in [
            ([nan, 1.0, 2.0, 3.0], 0),
            ([1.0, nan, 2.0, 3.0], 1),
            ([1.0, 5.0, nan, 3.0], 2),
            ([1.0, 5.0, 2.0, nan], 3),
            ([nan, 5.0, nan, 3.0], 2),
            ([nan, nan, nan, nan], 3),
            ([f32::INFINITY, nan, 0.0, 0.0], 1),
        ] {
            let x = var(&window, &[1, 1, 2, 2]);
            let y = max_pool2d(&x, &SQUARES).unwrap();
            assert!(y.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0].is_nan(), "{window:?}");
            let mut expected = [0.0; 4];
            expected[taken] = 2.0;
            assert_eq!(gradient(&x, &y, &[2.0]), expected, "{window:?}");
        }
    }

    #[test]
    fn max_pool_refuses_less_than_a_window() {
        assert!(max_pool2d(&var(&[1.0, 2.0], &[1, 1, 1, 2]), &SQUARES).is_err());
    }

    /// `F.max_pool2d(x, 3, stride=2, padding=1)` and `F.avg_pool2d` likewise, of `arange(25)` as a 5x5 map.
    #[test]
    fn windows_overlap_and_hang_over_the_edge() {
        let values: Vec<f32> = (0u8..25).map(f32::from).collect();
        let x = var(&values, &[1, 1, 5, 5]);
        let windows = Windows { kernel: [3, 3], stride: [2, 2], padding: [1, 1] };
        let y = max_pool2d(&x, &windows).unwrap();
        assert_eq!(
            y.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            [6.0, 8.0, 9.0, 16.0, 18.0, 19.0, 21.0, 23.0, 24.0]
        );
        let corner = |count_include_pad| {
            let y = avg_pool2d(&x, &windows, count_include_pad).unwrap().flatten_all().unwrap();
            y.to_vec1::<f32>().unwrap()[0]
        };
        assert!((corner(true) - 12.0 / 9.0).abs() < 1e-6);
        assert!((corner(false) - 3.0).abs() < 1e-6);
    }

    #[test]
    fn relu_has_no_gradient_at_zero() {
        let x = var(&[-1.0, -0.0, 0.0, 2.0], &[4]);
        let y = relu(&x).unwrap();
        assert_eq!(y.to_vec1::<f32>().unwrap(), [0.0, 0.0, 0.0, 2.0]);
        assert_eq!(gradient(&x, &y, &[1.0, 1.0, 1.0, 3.0]), [0.0, 0.0, 0.0, 3.0]);
        assert!(relu(&var(&[f32::NAN], &[1])).unwrap().to_vec1::<f32>().unwrap()[0].is_nan());
    }

    #[test]
    fn dropout_scales_values_and_gradients_alike() {
        let place = Dropout { p: 0.5, seed: 1, step: 0, layer: 0 };
        let x = var(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]);
        let y = dropout(&x, place).unwrap();
        let mut factors = [f32::NAN; 6];
        place.factors(0, &mut factors);
        let expected: Vec<f32> = factors.iter().enumerate().map(|(i, m)| m * (i as f32 + 1.0)).collect();
        assert_eq!(y.flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);
        assert_eq!(gradient(&x, &y, &[1.0; 6]), factors);
    }
}
