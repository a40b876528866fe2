//! Everything but the convolutions against the obvious loops in `f64`, on every instruction set of this machine.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

mod common;

use common::{FEW_ROUNDINGS, close, coarse, dot, uniform};
use pointwise_kernels::{
    Activation, Affine, BatchStatistics, Epilogue, EpilogueShape, GradientAffine, Isa, MOMENT_ROWS,
    global_average, global_average_adjoint, image_moments, padded, softmax_cross_entropy, to_channels_last,
    to_planar,
};
/// The definition of an epilogue on the whole map with its border: output, and for each output the pixel that it came from, if any
/// gradient goes back there.
fn naive_epilogue(shape: &EpilogueShape, scale: &[f32], shift: &[f32], y: &[f32]) -> Vec<(f64, usize, bool)> {
    let (height, width) = shape.map();
    let (rows, columns) = shape.output_map();
    let c = shape.channels;
    let side = if shape.pool { 2 } else { 1 };
    let mut output = Vec::new();
    for row in 0..rows {
        for column in 0..columns {
            for channel in 0..c {
                let mut best: Option<(f64, usize)> = None;
                for i in 0..side {
                    for j in 0..side {
                        let (y_at, x_at) = (side * row + i, side * column + j);
                        let inside = (shape.border..height - shape.border).contains(&y_at)
                            && (shape.border..width - shape.border).contains(&x_at);
                        let at = y_at * width + x_at;
                        let value = if inside {
                            let inner = (y_at - shape.border) * shape.width + x_at - shape.border;
                            f64::from(y[inner * c + channel])
                        } else {
                            0.0
                        };
                        let value = value * f64::from(scale[channel]) + f64::from(shift[channel]);
                        if best.is_none_or(|(best, _)| value > best) || value.is_nan() {
                            best = Some((value, at * c + channel));
                        }
                    }
                }
                let (value, at) = best.unwrap();
                let passes = shape.activation == Activation::Identity || value > 0.0 || value.is_nan();
                output.push((if passes { value } else { 0.0 }, at, passes));
            }
        }
    }
    output
}

#[test]
fn epilogues_are_their_definition_with_its_gradient() {
    epilogues_are_their_definition(|_| ());
}

/// Wherever one lies in its window, alone or with others.
#[test]
fn not_a_number_passes_epilogues_and_takes_the_gradient() {
    epilogues_are_their_definition(|y| {
        let len = y.len();
        for (value, u) in y.iter_mut().zip(uniform(21, len)) {
            if u > 0.4 {
                *value = f32::NAN;
            }
        }
    });
}

/// Of maps of small whole numbers that `damage` changes.
fn epilogues_are_their_definition(damage: impl Fn(&mut [f32])) {
    let channels = 32;
    // Powers of two and small whole numbers: exact, so that ties are ties on both sides.
    let scale: Vec<f32> = (0..channels).map(|c| [1.0, -0.5, 2.0, 0.0][c % 4]).collect();
    let shift: Vec<f32> = (0..channels).map(|c| [0.0, 0.5, -1.0][c % 3]).collect();
    let center = coarse(9, channels);
    let [a, b, c] = [11, 12, 13].map(|seed| uniform(seed, channels));
    for isa in Isa::available() {
        for (height, width, border) in [(1, 1, 0), (2, 2, 0), (4, 6, 0), (5, 7, 0), (3, 4, 1), (2, 3, 2)] {
            let (identity, relu) = (Activation::Identity, Activation::Relu);
            for (activation, pool) in [(identity, false), (relu, false), (identity, true), (relu, true)] {
                let shape = EpilogueShape { height, width, channels, border, activation, pool };
                let what = format!("{shape:?} on {isa}");
                let epilogue = Epilogue::new(isa, shape);
                let affine = Affine { scale: &scale, shift: &shift };
                let mut y = coarse(1, shape.input_len());
                damage(&mut y);
                let expected = naive_epilogue(&shape, &scale, &shift, &y);
                let mut output = vec![f32::NAN; shape.output_len()];
                epilogue.apply(affine, &y, &mut output);
                let values: Vec<f64> = expected.iter().map(|(value, _, _)| *value).collect();
                close(&what, &output, &values, 0.0);

                // dz on the whole map, by the definition.
                let gradient = uniform(2, shape.output_len());
                let (rows, columns) = shape.map();
                let mut dz = vec![0.0; rows * columns * channels];
                for ((_, at, passes), gradient) in expected.iter().zip(&gradient) {
                    if *passes {
                        dz[*at] += f64::from(*gradient);
                    }
                }
                let mut sums = vec![0.0; 2 * channels];
                let mut dy = vec![0.0; shape.input_len()];
                for (pixel, dz) in dz.chunks_exact(channels).enumerate() {
                    let (row, column) = (pixel / columns, pixel % columns);
                    let inside = (border..rows - border).contains(&row)
                        && (border..columns - border).contains(&column);
                    let inner =
                        if inside { ((row - border) * width + column - border) * channels } else { 0 };
                    for channel in 0..channels {
                        let y = if inside { f64::from(y[inner + channel]) } else { 0.0 };
                        sums[channel] += dz[channel];
                        // A NaN that no output came from takes no part.
                        if dz[channel] != 0.0 {
                            sums[channels + channel] += dz[channel] * (y - f64::from(center[channel]));
                        }
                        if inside {
                            dy[inner + channel] = f64::from(a[channel]) * dz[channel]
                                + f64::from(b[channel]) * y
                                + f64::from(c[channel]);
                        }
                    }
                }
                let mut got = vec![0.0; 2 * channels];
                epilogue.reduce(affine, &center, &y, &gradient, &mut got);
                close(&what, &got, &sums, FEW_ROUNDINGS * 4.0);
                let mut got = vec![f32::NAN; shape.input_len()];
                let back = GradientAffine { a: &a, b: &b, c: &c };
                epilogue.backward(affine, back, &y, &gradient, &mut got);
                close(&what, &got, &dy, FEW_ROUNDINGS);
            }
        }
    }
}

#[test]
fn not_a_number_passes_relu() {
    let shape = EpilogueShape {
        height: 1,
        width: 1,
        channels: 16,
        border: 0,
        activation: Activation::Relu,
        pool: false,
    };
    for isa in Isa::available() {
        let (scale, shift) = ([1.0; 16], [0.0; 16]);
        let mut output = [0.0; 16];
        Epilogue::new(isa, shape).apply(
            Affine { scale: &scale, shift: &shift },
            &[f32::NAN; 16],
            &mut output,
        );
        assert!(output.iter().all(|x| x.is_nan()), "{isa}: {output:?}");
    }
}

#[test]
fn variance_survives_a_mean_far_from_zero() {
    // Of values around 10,000 with a spread of about one, squares minus the squared mean would keep no digit in f32.
    let (channels, pixels, images) = (16, 100, 5);
    for offset in [0.0f32, 1.0, 1e4, -3e5] {
        for border in [0, 44] {
            let batch: Vec<f32> =
                uniform(5, images * pixels * channels).into_iter().map(|x| offset + x).collect();
            for isa in Isa::available() {
                let moments: Vec<Vec<f32>> = batch
                    .chunks_exact(pixels * channels)
                    .map(|image| {
                        let mut moments = vec![f32::NAN; MOMENT_ROWS * channels];
                        image_moments(isa, channels, image, &mut moments);
                        moments
                    })
                    .collect();
                let statistics =
                    BatchStatistics::merge(channels, pixels, border, moments.iter().map(Vec::as_slice));
                let n = (images * (pixels + border)) as f64;
                assert_eq!(statistics.count, n);
                for channel in 0..channels {
                    let values = || batch.iter().skip(channel).step_by(channels).map(|x| f64::from(*x));
                    let mean = values().sum::<f64>() / n;
                    let zeros = (images * border) as f64 * mean * mean;
                    let variance = (values().map(|x| (x - mean).powi(2)).sum::<f64>() + zeros) / n;
                    let got = (statistics.mean[channel], statistics.variance[channel]);
                    assert!((got.0 - mean).abs() <= 1e-6 * mean.abs().max(1.0), "{offset}: {got:?} {mean}");
                    assert!((got.1 / variance - 1.0).abs() < 1e-5, "{offset} on {isa}: {got:?}, {variance}");
                }
            }
        }
    }
}

#[test]
fn cross_entropy_is_the_definition_with_its_gradient() {
    let (classes, stride) = (10, 16);
    let labels = [3, 0, 9, 9];
    let mut logits = vec![f32::NAN; labels.len() * stride];
    for (row, values) in logits.chunks_exact_mut(stride).zip(uniform(7, 40).chunks_exact(classes)) {
        for (logit, value) in row.iter_mut().zip(values) {
            *logit = 30.0 * value;
        }
    }
    // Far beyond what exp can take.
    logits[0] = 1000.0;
    for smoothing in [0.0, 0.1, 0.9] {
        let loss = |logits: &[f32]| {
            let rows = logits.chunks_exact(stride).zip(labels);
            rows.map(|(row, label)| {
                let largest = row[..classes].iter().fold(f64::MIN, |a, b| a.max(f64::from(*b)));
                let sum: f64 = row[..classes].iter().map(|x| (f64::from(*x) - largest).exp()).sum();
                let target = |class: usize| {
                    let own = if class == usize::from(label) { 1.0 - smoothing } else { 0.0 };
                    own + smoothing / classes as f64
                };
                let log_p = |class: usize| f64::from(row[class]) - largest - sum.ln();
                (0..classes).map(|class| -target(class) * log_p(class)).sum::<f64>()
            })
            .sum::<f64>()
                / labels.len() as f64
        };
        let mut gradient = vec![f32::NAN; logits.len()];
        let got = softmax_cross_entropy(&logits, stride, classes, &labels, smoothing, Some(&mut gradient));
        assert!((got - loss(&logits)).abs() < 1e-12 * got, "{smoothing}: {got}");
        assert_eq!(softmax_cross_entropy(&logits, stride, classes, &labels, smoothing, None), got);
        for at in 0..logits.len() {
            if at % stride >= classes {
                assert_eq!(gradient[at], 0.0);
                continue;
            }
            // A step that f32 holds exactly, of a loss in f64.
            const STEP: f32 = 1.0 / 64.0;
            let moved = |delta: f32| {
                let mut moved = logits.clone();
                moved[at] += delta;
                (loss(&moved), f64::from(moved[at]))
            };
            let ((up, high), (down, low)) = (moved(STEP), moved(-STEP));
            let difference = (up - down) / (high - low);
            let got = f64::from(gradient[at]);
            assert!((got - difference).abs() < 1e-4, "{smoothing} at {at}: {got}, {difference}");
        }
    }
}

#[test]
fn an_impossible_class_costs_nothing_without_smoothing() {
    let logits = [1.0, f32::NEG_INFINITY];
    let mut gradient = [f32::NAN; 2];
    assert_eq!(softmax_cross_entropy(&logits, 2, 2, &[0], 0.0, Some(&mut gradient)), 0.0);
    assert_eq!(gradient, [0.0; 2]);
    assert_eq!(softmax_cross_entropy(&logits, 2, 2, &[0], 0.1, None), f64::INFINITY);
}

#[test]
fn layouts_and_averages_with_their_adjoints() {
    for (channels, pixels) in [(1, 1), (3, 35), (16, 4), (20, 9)] {
        let planar = uniform(1, channels * pixels);
        let mut image = vec![f32::NAN; padded(channels) * pixels];
        to_channels_last(&planar, channels, &mut image);
        for (pixel, values) in image.chunks_exact(padded(channels)).enumerate() {
            for (channel, value) in values.iter().enumerate() {
                let expected = if channel < channels.min(values.len()) && channel < channels {
                    planar[channel * pixels + pixel]
                } else {
                    0.0
                };
                assert_eq!(*value, expected);
            }
        }
        let mut back = vec![f32::NAN; planar.len()];
        to_planar(&image, channels, &mut back);
        assert_eq!(back, planar);

        let mut mean = vec![f32::NAN; padded(channels)];
        global_average(&image, &mut mean);
        for channel in 0..channels {
            let sum: f64 = (0..pixels).map(|pixel| f64::from(planar[channel * pixels + pixel])).sum();
            assert!((f64::from(mean[channel]) - sum / pixels as f64).abs() < FEW_ROUNDINGS);
        }
        // <Ax, y> = <x, A'y>
        let y = uniform(2, padded(channels));
        let mut adjoint = vec![f32::NAN; image.len()];
        global_average_adjoint(&y, &mut adjoint);
        assert!((dot(&mean, &y) - dot(&image, &adjoint)).abs() < FEW_ROUNDINGS * channels as f64);
    }
}
