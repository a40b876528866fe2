//! Pools, arithmetic on images, subsampling and runs of channels against the obvious loops, on every instruction set of this machine.

mod common;

use common::{FEW_ROUNDINGS, clear_padding, close, coarse, dot, uniform};
use pointwise_kernels::{
    ChannelRun, Isa, PoolShape, Subsampling, avg_pool, avg_pool_backward, copy_channels, elementwise,
    max_pool, max_pool_backward, padded, subsample, subsample_adjoint,
};

/// Sides around the windows, windows that overlap, leave gaps and hang over the edges.
fn pools() -> Vec<PoolShape> {
    let mut shapes = Vec::new();
    let windows: [([usize; 2], [usize; 2], [usize; 2]); 9] = [
        ([1, 1], [1, 1], [0, 0]),
        ([2, 2], [2, 2], [0, 0]),
        ([2, 2], [2, 2], [1, 1]),
        ([3, 3], [1, 1], [1, 1]),
        ([3, 3], [2, 2], [1, 1]),
        ([3, 3], [2, 2], [0, 0]),
        ([2, 3], [3, 1], [1, 0]),
        ([1, 2], [2, 3], [0, 1]),
        ([5, 4], [2, 3], [2, 2]),
    ];
    for (height, width) in [(1, 1), (2, 3), (4, 4), (5, 7), (8, 3)] {
        for (kernel, stride, padding) in windows {
            if kernel[0] <= height + 2 * padding[0] && kernel[1] <= width + 2 * padding[1] {
                let channels = if height == 4 { 48 } else { 16 };
                shapes.push(PoolShape { height, width, channels, kernel, stride, padding });
            }
        }
    }
    shapes
}

/// The pixels of the window of each output, as offsets of a channel; the outputs in row-major order, a channel at a time.
fn naive_windows(shape: &PoolShape) -> Vec<Vec<usize>> {
    let side = |len: usize, axis: usize| {
        (len + 2 * shape.padding[axis] - shape.kernel[axis]) / shape.stride[axis] + 1
    };
    let (rows, columns) = (side(shape.height, 0), side(shape.width, 1));
    assert_eq!(shape.output_map(), (rows, columns));
    let mut windows = Vec::new();
    for row in 0..rows {
        for column in 0..columns {
            for channel in 0..shape.channels {
                let mut window = Vec::new();
                for i in 0..shape.kernel[0] {
                    for j in 0..shape.kernel[1] {
                        let y = (row * shape.stride[0] + i).checked_sub(shape.padding[0]);
                        let x = (column * shape.stride[1] + j).checked_sub(shape.padding[1]);
                        if let (Some(y), Some(x)) = (y, x)
                            && y < shape.height
                            && x < shape.width
                        {
                            window.push((y * shape.width + x) * shape.channels + channel);
                        }
                    }
                }
                windows.push(window);
            }
        }
    }
    windows
}

/// Values with ties and zeros, among them infinities and NaNs if asked.
fn damaged(seed: u64, len: usize, damage: bool) -> Vec<f32> {
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let values = coarse(seed, len).into_iter().zip(uniform(seed + 1, len)).enumerate();
    values.map(|(at, (x, u))| if damage && u > 0.4 { special[at % 3] } else { x }).collect()
}

#[test]
fn maximum_pools_are_their_definition_with_its_gradient() {
    for shape in pools() {
        let windows = naive_windows(&shape);
        for damage in [false, true] {
            let x = damaged(1, shape.input_len(), damage);
            let gradient = uniform(3, shape.output_len());
            let mut values = Vec::new();
            let mut expected = vec![0.0f32; x.len()];
            for (window, gradient) in windows.iter().zip(&gradient) {
                let mut best = window[0];
                for at in &window[1..] {
                    if x[*at] > x[best] || x[*at].is_nan() {
                        best = *at;
                    }
                }
                values.push(f64::from(x[best]));
                expected[best] += gradient;
            }
            for isa in Isa::available() {
                let what = format!("{shape:?} on {isa}");
                let mut y = vec![-7.0; shape.output_len()];
                max_pool(isa, shape, &x, &mut y);
                close(&what, &y, &values, 0.0);
                let mut dx = vec![f32::NAN; x.len()];
                max_pool_backward(isa, shape, &x, &gradient, &mut dx);
                // The same order of sums: the same bits.
                assert_eq!(dx, expected, "{what}");
            }
        }
    }
}

#[test]
fn padding_is_no_maximum() {
    let shape =
        PoolShape { height: 2, width: 2, channels: 16, kernel: [3, 3], stride: [1, 1], padding: [1, 1] };
    for isa in Isa::available() {
        for x in [-5.0, f32::NEG_INFINITY] {
            let mut y = vec![0.0; shape.output_len()];
            max_pool(isa, shape, &vec![x; shape.input_len()], &mut y);
            assert!(y.iter().all(|y| *y == x), "{isa}: {y:?}");
        }
    }
}

#[test]
fn average_pools_are_their_definition_with_its_adjoint() {
    for shape in pools() {
        let windows = naive_windows(&shape);
        for count_include_pad in [false, true] {
            let x = uniform(1, shape.input_len());
            let count = |window: &[usize]| {
                if count_include_pad { shape.kernel[0] * shape.kernel[1] } else { window.len() }
            };
            let mean = |window: &Vec<usize>| {
                window.iter().map(|at| f64::from(x[*at])).sum::<f64>() / count(window) as f64
            };
            let values: Vec<f64> = windows.iter().map(mean).collect();
            let gradient = uniform(2, shape.output_len());
            let mut expected = vec![0.0; x.len()];
            for (window, gradient) in windows.iter().zip(&gradient) {
                for at in window {
                    expected[*at] += f64::from(*gradient) / count(window) as f64;
                }
            }
            for isa in Isa::available() {
                let what = format!("{shape:?}, {count_include_pad} on {isa}");
                let (mut y, mut dx) = (vec![f32::NAN; shape.output_len()], vec![f32::NAN; x.len()]);
                avg_pool(isa, shape, count_include_pad, &x, &mut y);
                close(&what, &y, &values, FEW_ROUNDINGS);
                avg_pool_backward(isa, shape, count_include_pad, &gradient, &mut dx);
                close(&what, &dx, &expected, FEW_ROUNDINGS);
                // <Ax, y> = <x, A'y>
                assert!((dot(&y, &gradient) - dot(&x, &dx)).abs() < 1e-5, "{what}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "PoolShape")]
fn a_window_in_the_padding_alone_is_refused() {
    let shape =
        PoolShape { height: 4, width: 4, channels: 16, kernel: [3, 3], stride: [1, 1], padding: [2, 2] };
    max_pool(Isa::portable(), shape, &vec![0.0; shape.input_len()], &mut vec![0.0; shape.output_len()]);
}

#[test]
fn sums_products_and_masks_are_their_formulas() {
    for isa in Isa::available() {
        for len in [0, 16, 32, 240] {
            let [a, b, gradient] = [1, 2, 3].map(|seed| uniform(seed, len));
            let pairs = |f: fn(f32, f32) -> f32, a: &[f32], b: &[f32]| -> Vec<f32> {
                a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect()
            };
            let mut sum = a.clone();
            elementwise::add_assign(isa, &mut sum, &b);
            assert_eq!(sum, pairs(|a, b| a + b, &a, &b));

            let [mut y, mut da, mut db] = [(); 3].map(|()| vec![f32::NAN; len]);
            elementwise::multiply(isa, &a, &b, &mut y);
            assert_eq!(y, pairs(|a, b| a * b, &a, &b));
            // The gradients of a product are products, too.
            elementwise::multiply(isa, &gradient, &b, &mut da);
            elementwise::multiply(isa, &gradient, &a, &mut db);
            assert_eq!(da, pairs(|g, b| g * b, &gradient, &b));
            assert_eq!(db, pairs(|g, a| g * a, &gradient, &a));

            elementwise::scale(isa, -0.3, &a, &mut y);
            assert_eq!(y, pairs(|a, _| a * -0.3, &a, &a));

            let output = damaged(5, len, true);
            let mut masked = gradient.clone();
            elementwise::relu_mask(isa, &output, &mut masked);
            let mask = |g: f32, o: f32| if o > 0.0 || o.is_nan() { g } else { 0.0 };
            assert_eq!(masked, pairs(mask, &gradient, &output));
        }
    }
}

#[test]
fn subsampling_takes_every_so_manyeth_pixel_and_its_adjoint_puts_it_back() {
    for (height, width, stride) in
        [(1, 1, [1, 1]), (1, 1, [2, 2]), (4, 6, [2, 2]), (5, 7, [2, 3]), (3, 9, [4, 1])]
    {
        let channels = 32;
        let shape = Subsampling { height, width, channels, stride };
        let x = uniform(1, shape.input_len());
        let gradient = uniform(2, shape.output_len());
        let (mut y, mut dx) = (vec![f32::NAN; gradient.len()], vec![f32::NAN; x.len()]);
        subsample(shape, &x, &mut y);
        subsample_adjoint(shape, &gradient, &mut dx);
        let mut outputs = 0;
        for at in 0..height * width {
            let (row, column) = (at / width, at % width);
            let (got, dx) = (&x[at * channels..][..channels], &dx[at * channels..][..channels]);
            if row % stride[0] == 0 && column % stride[1] == 0 {
                assert_eq!(got, &y[outputs * channels..][..channels], "{shape:?}");
                assert_eq!(dx, &gradient[outputs * channels..][..channels], "{shape:?}");
                outputs += 1;
            } else {
                assert!(dx.iter().all(|x| *x == 0.0), "{shape:?}");
            }
        }
        assert_eq!(outputs * channels, shape.output_len());
    }
}

#[test]
fn a_concatenation_is_taken_apart_again() {
    let pixels = 6;
    for widths in [vec![16, 32], vec![3, 13, 20], vec![1], vec![17, 1, 1, 30]] {
        let total: usize = widths.iter().sum();
        let parts: Vec<Vec<f32>> = (1..)
            .zip(&widths)
            .map(|(seed, channels)| {
                let mut part = uniform(seed, pixels * padded(*channels));
                clear_padding(*channels, &mut part);
                part
            })
            .collect();
        let mut all = vec![f32::NAN; pixels * padded(total)];
        let mut first = 0;
        for (part, channels) in parts.iter().zip(&widths) {
            let to = ChannelRun { channels: total, first };
            copy_channels(*channels, part, ChannelRun::whole(*channels), &mut all, to);
            first += channels;
        }
        for (pixel, got) in all.chunks_exact(padded(total)).enumerate() {
            let mut expected: Vec<f32> = parts
                .iter()
                .zip(&widths)
                .flat_map(|(part, channels)| &part[pixel * padded(*channels)..][..*channels])
                .copied()
                .collect();
            expected.resize(padded(total), 0.0);
            assert_eq!(got, expected);
        }
        let mut first = 0;
        for (part, channels) in parts.iter().zip(&widths) {
            let from = ChannelRun { channels: total, first };
            let mut got = vec![f32::NAN; part.len()];
            copy_channels(*channels, &all, from, &mut got, ChannelRun::whole(*channels));
            assert_eq!(&got, part);
            first += channels;
        }
    }
}

#[test]
#[should_panic(expected = "4 channels from 17 of 20")]
fn channels_beyond_the_last_are_refused() {
    let to = ChannelRun { channels: 20, first: 17 };
    copy_channels(4, &[0.0; 16], ChannelRun::whole(4), &mut [0.0; 32], to);
}
