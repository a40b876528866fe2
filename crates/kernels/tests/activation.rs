//! Activations against their formulas in `f64`, alone and in an epilogue, on every instruction set of this machine.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

mod common;

use common::{FEW_ROUNDINGS, clear_padding, close, coarse, uniform};
use pointwise_kernels::{Activation, Affine, Epilogue, EpilogueShape, GradientAffine, Isa, activation};

const ALL: [Activation; 10] = [
    Activation::Identity,
    Activation::Relu,
    Activation::Relu6,
    Activation::LeakyRelu { negative_slope: 0.01 },
    Activation::LeakyRelu { negative_slope: -0.5 },
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Silu,
    Activation::Sigmoid,
    Activation::Tanh,
];

/// The probability below `x` of the normal distribution, and its density: by its series, in the tail by its continued fraction.
fn normal(x: f64) -> (f64, f64) {
    let density = (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
    let a = x.abs();
    let tail = if a < 3.0 {
        let (mut sum, mut term) = (a, a);
        for k in 1..60 {
            term *= a * a / f64::from(2 * k + 1);
            sum += term;
        }
        0.5 - density * sum
    } else {
        density / (1..80).rev().fold(a, |below, k| a + f64::from(k) / below)
    };
    (if x > 0.0 { 1.0 - tail } else { tail }, density)
}

/// A value, its derivative, and the size of the largest summand of the derivative.
fn definition(activation: Activation, x: f64) -> (f64, f64, f64) {
    let logistic = |x: f64| {
        let (this, other) = (1.0 / (1.0 + (-x).exp()), 1.0 / (1.0 + x.exp()));
        (this, this * other)
    };
    match activation {
        Activation::Identity => (x, 1.0, 1.0),
        _ if x.is_nan() => (x, if activation == Activation::Relu { 1.0 } else { x }, 1.0),
        Activation::Relu => (x.max(0.0), f64::from(x > 0.0), 1.0),
        Activation::Relu6 => (x.clamp(0.0, 6.0), f64::from(x > 0.0 && x < 6.0), 1.0),
        Activation::LeakyRelu { negative_slope } => {
            let slope = if x > 0.0 { 1.0 } else { f64::from(negative_slope) };
            (x * slope, slope, slope.abs())
        }
        Activation::Gelu => {
            let (below, density) = normal(x);
            (x * below, below + x * density, below.max((x * density).abs()))
        }
        Activation::GeluTanh => {
            let root = (8.0 / std::f64::consts::PI).sqrt();
            let (value, slope) = logistic(root * (x + 0.044715 * x.powi(3)));
            let second = slope * root * (x + 3.0 * 0.044715 * x.powi(3));
            (x * value, value + second, value.max(second.abs()))
        }
        Activation::Silu => {
            let (value, slope) = logistic(x);
            (x * value, value + x * slope, value.max((x * slope).abs()))
        }
        Activation::Sigmoid => {
            let (value, slope) = logistic(x);
            (value, slope, slope)
        }
        Activation::Tanh => {
            let slope = 1.0 / (x.cosh() * x.cosh());
            (x.tanh(), slope, slope)
        }
    }
}

#[test]
fn the_definitions_here_have_their_own_derivatives() {
    for activation in ALL {
        for i in -4000..4000 {
            // Between the kinks.
            let x = (f64::from(i) + 0.5) / 400.0;
            const STEP: f64 = 1e-5;
            let value = |x| definition(activation, x).0;
            let difference = (value(x + STEP) - value(x - STEP)) / (2.0 * STEP);
            let (_, slope, _) = definition(activation, x);
            assert!((slope - difference).abs() < 1e-8, "{activation:?} at {x}: {slope}, {difference}");
        }
    }
}

/// Floats of every size, and the range in which the functions bend more densely.
fn sweep() -> Vec<f32> {
    let mut x: Vec<f32> = (0..1 << 16).map(|i| f32::from_bits(i << 16)).collect();
    x.extend((0..1 << 16).map(|i| -20.0 + i as f32 * (40.0 / (1 << 16) as f32)));
    x.extend([
        1e-45,
        -1e-45,
        1e-30,
        -1e-30,
        6.0,
        6.0f32.next_down(),
        0.625,
        -0.625,
        100.0,
        -100.0,
        14.5,
        -14.5,
    ]);
    x.resize(x.len().next_multiple_of(16), 0.0);
    x
}

/// The allowed error of a value or a derivative, relative to its size: a few units in the last place, 6e-8 each.
fn tolerance(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Identity | Activation::Relu | Activation::Relu6 => 0.0,
        Activation::LeakyRelu { .. } => 6e-8,
        // The argument of the exponential carries its own rounding error.
        Activation::GeluTanh if x < 0.0 => 3e-7 + 2e-7 * 1.6 * (-x + 0.045 * (-x).powi(3)),
        _ => 4e-7,
    }
}

#[test]
fn values_and_gradients_are_their_formulas() {
    /// Where a result is subnormal it has no more digits than this.
    const SMALLEST: f64 = 3e-45;
    let x = sweep();
    let gradient = vec![1.0; x.len()];
    for activation in ALL {
        let expected: Vec<_> = x.iter().map(|x| definition(activation, f64::from(*x))).collect();
        for isa in Isa::available() {
            let (mut y, mut dx) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
            activation::forward(isa, activation, 16, &x, &mut y);
            activation::backward(isa, activation, 16, &x, &gradient, &mut dx);
            for (at, x) in x.iter().enumerate() {
                let what = format!("{activation:?} of {x} on {isa}");
                let (value, slope, size) = expected[at];
                if x.is_nan() {
                    assert!(y[at].is_nan(), "{what}: {}", y[at]);
                    continue;
                }
                let allowed = tolerance(activation, f64::from(*x));
                // A factor of x, at most its cube, multiplies the error of a subnormal number.
                let smallest = SMALLEST * f64::from(x.abs()).powi(3).clamp(1.0, 2000.0);
                // What f32 holds of the value: infinite above its range.
                let value = if (value as f32).is_infinite() { f64::from(value as f32) } else { value };
                let same = f64::from(y[at]) == value || (y[at].is_nan() && value.is_nan());
                let error = (f64::from(y[at]) - value).abs();
                assert!(same || error <= allowed * value.abs() + smallest, "{what}: {} for {value}", y[at]);
                if x.is_finite() {
                    let error = (f64::from(dx[at]) - slope).abs();
                    assert!(
                        error <= allowed * size + smallest,
                        "derivative of {what}: {} for {slope}",
                        dx[at]
                    );
                }
            }
        }
    }
}

#[test]
fn kinks_signs_and_ends_are_those_of_pytorch() {
    let leaky = Activation::LeakyRelu { negative_slope: 0.25 };
    let nan = f32::NAN;
    let infinity = f32::INFINITY;
    // Activation, input, output, gradient of a gradient of 3.
    let table = [
        (Activation::Relu, 0.0, 0.0, 0.0),
        (Activation::Relu, nan, nan, 3.0),
        (Activation::Relu, -infinity, 0.0, 0.0),
        (Activation::Relu6, 0.0, 0.0, 0.0),
        (Activation::Relu6, 6.0, 6.0, 0.0),
        (Activation::Relu6, 6.0f32.next_down(), 6.0f32.next_down(), 3.0),
        (Activation::Relu6, infinity, 6.0, 0.0),
        (Activation::Relu6, -infinity, 0.0, 0.0),
        (Activation::Relu6, nan, nan, 3.0),
        (leaky, 0.0, 0.0, 0.75),
        (leaky, -4.0, -1.0, 0.75),
        (leaky, -infinity, -infinity, 0.75),
        (leaky, nan, nan, 0.75),
        (Activation::Sigmoid, 0.0, 0.5, 0.75),
        (Activation::Sigmoid, infinity, 1.0, 0.0),
        (Activation::Sigmoid, -infinity, 0.0, 0.0),
        (Activation::Sigmoid, nan, nan, nan),
        (Activation::Tanh, 100.0, 1.0, 0.0),
        (Activation::Tanh, -100.0, -1.0, 0.0),
        (Activation::Tanh, -infinity, -1.0, 0.0),
        (Activation::Tanh, -0.0, -0.0, 3.0),
        (Activation::Tanh, nan, nan, nan),
        (Activation::Gelu, -100.0, -0.0, 0.0),
        (Activation::Gelu, 100.0, 100.0, 3.0),
        (Activation::Gelu, f32::MAX, f32::MAX, 3.0),
        (Activation::Gelu, infinity, infinity, nan),
        (Activation::Gelu, -infinity, nan, nan),
        (Activation::Gelu, nan, nan, nan),
        (Activation::GeluTanh, -100.0, -0.0, 0.0),
        (Activation::GeluTanh, f32::MAX, f32::MAX, 3.0),
        (Activation::GeluTanh, f32::MIN, -0.0, 0.0),
        (Activation::GeluTanh, -infinity, nan, 0.0),
        (Activation::GeluTanh, nan, nan, nan),
        (Activation::Silu, -200.0, -0.0, 0.0),
        (Activation::Silu, f32::MAX, f32::MAX, 3.0),
        (Activation::Silu, -infinity, nan, nan),
        (Activation::Silu, -0.0, -0.0, 1.5),
        (Activation::Silu, nan, nan, nan),
    ];
    let same = |a: f32, b: f32| (a.is_nan() && b.is_nan()) || a.to_bits() == b.to_bits();
    for isa in Isa::available() {
        for (activation, x, value, slope) in table {
            let what = format!("{activation:?} of {x} on {isa}");
            let (mut y, mut dx) = ([7.0; 16], [7.0; 16]);
            activation::forward(isa, activation, 16, &[x; 16], &mut y);
            assert!(y.iter().all(|y| same(*y, value)), "{what}: {y:?}");
            activation::backward(isa, activation, 16, &[x; 16], &[3.0; 16], &mut dx);
            assert!(dx.iter().all(|dx| same(dx.abs(), slope)), "derivative of {what}: {dx:?}");
        }
    }
}

#[test]
fn instruction_sets_with_fused_products_agree_to_the_bit() {
    let x = sweep();
    let gradient = uniform(1, x.len());
    let fused: Vec<Isa> = Isa::available().into_iter().filter(|isa| *isa != Isa::portable()).collect();
    let bits = |x: &[f32]| -> Vec<Option<u32>> {
        x.iter().map(|x| if x.is_nan() { None } else { Some(x.to_bits()) }).collect()
    };
    for activation in ALL {
        let results: Vec<_> = fused
            .iter()
            .map(|isa| {
                let (mut y, mut dx) = (vec![0.0; x.len()], vec![0.0; x.len()]);
                activation::forward(*isa, activation, 16, &x, &mut y);
                activation::backward(*isa, activation, 16, &x, &gradient, &mut dx);
                (bits(&y), bits(&dx))
            })
            .collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{activation:?}");
    }
}

#[test]
fn padded_channels_stay_zero() {
    for isa in Isa::available() {
        for activation in ALL {
            for channels in [1usize, 15, 16, 20, 33] {
                let padded = channels.next_multiple_of(16);
                let [mut x, mut gradient] = [1, 2].map(|seed| uniform(seed, 6 * padded));
                clear_padding(channels, &mut x);
                clear_padding(channels, &mut gradient);
                let (mut y, mut dx) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
                activation::forward(isa, activation, channels, &x, &mut y);
                activation::backward(isa, activation, channels, &x, &gradient, &mut dx);
                for image in [y, dx] {
                    for pixel in image.chunks_exact(padded) {
                        assert!(pixel[channels..].iter().all(|x| *x == 0.0), "{activation:?}: {pixel:?}");
                        assert!(
                            pixel[..channels].iter().any(|x| *x != 0.0) || channels == 1,
                            "{activation:?}"
                        );
                    }
                }
            }
        }
    }
}

/// An output of an epilogue by the definition.
struct Place {
    value: f64,
    /// The float of the whole map, with its border, that it came from.
    at: usize,
    slope: f64,
}

/// On the whole map with its border: the first maximum of the activated values.
fn naive_epilogue(shape: &EpilogueShape, scale: &[f32], shift: &[f32], y: &[f32]) -> Vec<Place> {
    let (height, width) = shape.map();
    let (rows, columns) = shape.output_map();
    let c = shape.padded_channels();
    let side = if shape.pool { 2 } else { 1 };
    let mut output = Vec::new();
    for row in 0..rows {
        for column in 0..columns {
            for channel in 0..c {
                let mut best: Option<Place> = None;
                for (i, j) in (0..side * side).map(|i| (i / side, i % side)) {
                    let (y_at, x_at) = (side * row + i, side * column + j);
                    let inside = (shape.border..height - shape.border).contains(&y_at)
                        && (shape.border..width - shape.border).contains(&x_at);
                    let inner = || ((y_at - shape.border) * shape.width + x_at - shape.border) * c + channel;
                    let stored = if inside { f64::from(y[inner()]) } else { 0.0 };
                    let z = stored * f64::from(scale[channel]) + f64::from(shift[channel]);
                    let (value, slope, _) = definition(shape.activation, z);
                    if best.as_ref().is_none_or(|best| value > best.value) || value.is_nan() {
                        best = Some(Place { value, at: (y_at * width + x_at) * c + channel, slope });
                    }
                }
                let mut best = best.unwrap();
                if channel >= shape.channels {
                    best.value = 0.0;
                }
                output.push(best);
            }
        }
    }
    output
}

#[test]
fn epilogues_take_any_activation() {
    let channels = 20;
    let padded = 32;
    // Sums that are exact, so that ties are ties on both sides; ReLU6 saturates at many of them.
    let clear = |mut x: Vec<f32>| {
        clear_padding(channels, &mut x);
        x
    };
    let scale = clear((0..padded).map(|c| [1.0, -0.5, 4.0, 0.0, -3.0][c % 5]).collect());
    let shift = clear((0..padded).map(|c| [0.0, 0.5, -1.0][c % 3]).collect());
    let center = clear(coarse(9, padded));
    let [a, b, c] = [11, 12, 13].map(|seed| clear(uniform(seed, padded)));
    for isa in Isa::available() {
        for (height, width, border) in [(1, 1, 0), (4, 6, 0), (5, 7, 0), (3, 4, 1), (2, 3, 2)] {
            for (activation, pool) in
                ALL.into_iter().flat_map(|activation| [(activation, false), (activation, true)])
            {
                let shape = EpilogueShape { height, width, channels, border, activation, pool };
                let what = format!("{shape:?} on {isa}");
                let epilogue = Epilogue::new(isa, shape);
                let affine = Affine { scale: &scale, shift: &shift };
                let y = clear(coarse(1, shape.input_len()));
                let expected = naive_epilogue(&shape, &scale, &shift, &y);
                let mut output = vec![f32::NAN; shape.output_len()];
                epilogue.apply(affine, &y, &mut output);
                let values: Vec<f64> = expected.iter().map(|place| place.value).collect();
                close(&what, &output, &values, 4e-7);

                let gradient = clear(uniform(2, shape.output_len()));
                let (rows, columns) = shape.map();
                let mut dz = vec![0.0; rows * columns * padded];
                for (place, gradient) in expected.iter().zip(&gradient) {
                    dz[place.at] += place.slope * f64::from(*gradient);
                }
                let mut sums = vec![0.0; 2 * padded];
                let mut dy = vec![0.0; shape.input_len()];
                for (pixel, dz) in dz.chunks_exact(padded).enumerate() {
                    let (row, column) = (pixel / columns, pixel % columns);
                    let inside = (border..rows - border).contains(&row)
                        && (border..columns - border).contains(&column);
                    let inner = if inside { ((row - border) * width + column - border) * padded } else { 0 };
                    for channel in 0..padded {
                        let y = if inside { f64::from(y[inner + channel]) } else { 0.0 };
                        sums[channel] += dz[channel];
                        sums[padded + channel] += dz[channel] * (y - f64::from(center[channel]));
                        if inside {
                            dy[inner + channel] = f64::from(a[channel]) * dz[channel]
                                + f64::from(b[channel]) * y
                                + f64::from(c[channel]);
                        }
                    }
                }
                let mut got = vec![0.0; 2 * padded];
                epilogue.reduce(affine, &center, &y, &gradient, &mut got);
                close(&what, &got, &sums, FEW_ROUNDINGS * 4.0);
                let mut got = vec![f32::NAN; shape.input_len()];
                epilogue.backward(affine, GradientAffine { a: &a, b: &b, c: &c }, &y, &gradient, &mut got);
                close(&what, &got, &dy, FEW_ROUNDINGS);
                assert!(got.chunks_exact(padded).all(|pixel| pixel[channels..].iter().all(|x| *x == 0.0)));
            }
        }
    }
}
