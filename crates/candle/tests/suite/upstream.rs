//! What `docs/upstream/max-pool-gradient.md` says about candle's maximum pool: once candle has fixed it, these tests fail, and the report and
//! [`MaxPool2d`]'s workaround on other devices can go.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use crate::common::{host, values};
use candle_core::{Device, Module, Result, Tensor, Var};
use pointwise_candle::MaxPool2d;

/// The gradient that the report proposes, in candle's operations: a window's maxima share its gradient equally.
fn proposed(arg: &Tensor, node: &Tensor, grad: &Tensor, kernel: (usize, usize)) -> Result<Tensor> {
    let (_, _, h, w) = arg.dims4()?;
    let (_, _, h_out, w_out) = node.dims4()?;
    let (h_in, w_in) = (h_out * kernel.0, w_out * kernel.1);
    let covered = arg.narrow(2, 0, h_in)?.narrow(3, 0, w_in)?;
    let mask = covered.eq(&node.upsample_nearest2d(h_in, w_in)?)?.to_dtype(arg.dtype())?;
    let count = (mask.avg_pool2d_with_stride(kernel, kernel)? * (kernel.0 * kernel.1) as f64)?;
    let grad_arg = ((grad / count)?.upsample_nearest2d(h_in, w_in)? * mask)?;
    grad_arg.pad_with_zeros(2, 0, h - h_in)?.pad_with_zeros(3, 0, w - w_in)
}

fn candles(x: &Var) -> Vec<f64> {
    let gradients = x.max_pool2d(2).unwrap().sum_all().unwrap().backward().unwrap();
    host(gradients.get(x).unwrap())
}

#[test]
fn candle_passes_a_quarter_of_the_gradient() {
    let x = Var::new(&[[[[1f32, 2.], [4., 3.]]]], &Device::Cpu).unwrap();
    assert_eq!(candles(&x), [0.0, 0.0, 0.25, 0.0]);
    // Each of four equal maxima gets all of it.
    let equal = Var::new(&[[[[1f32, 1.], [1., 1.]]]], &Device::Cpu).unwrap();
    assert_eq!(candles(&equal), [1.0; 4]);
    // A column beyond the last window takes part.
    let odd = Var::new(&[[[[1f32, 2., 5.], [4., 3., 4.]]]], &Device::Cpu).unwrap();
    assert_eq!(candles(&odd), [0.0, 0.0, 0.0, 0.25, 0.0, 0.25]);
}

#[test]
fn the_proposed_gradient_is_right() {
    for (shape, kernel) in [([1, 1, 2, 2], (2, 2)), ([2, 3, 7, 8], (2, 2)), ([1, 2, 9, 7], (3, 2))] {
        let x = values("pool", &shape);
        let y = x.max_pool2d(kernel).unwrap();
        let factor = values("factor", y.dims());
        let proposed = proposed(&x, &y, &factor, kernel).unwrap();
        let right = MaxPool2d::new(kernel).forward(&x).unwrap();
        let gradients = (right * factor.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(host(&proposed), host(gradients.get(&x).unwrap()), "{shape:?}");
    }
    // Equal maxima share.
    let equal = Var::new(&[[[[1f32, 1.], [1., 1.]]]], &Device::Cpu).unwrap();
    let y = equal.max_pool2d(2).unwrap();
    assert_eq!(host(&proposed(&equal, &y, &y, (2, 2)).unwrap()), [0.25; 4]);
}
