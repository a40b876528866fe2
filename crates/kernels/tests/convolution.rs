//! Every convolution method, on every instruction set of this machine, against the obvious loops in `f64`.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_kernels::{ConvShape, Convolution, InputGradient, Isa, Method, Workspace, padded};
use pointwise_random::{Purpose, Stream};

/// Largest error over the largest exact value: of a sum of products in `f32` in any order, with hundreds of terms.
const DIRECT: f64 = 3e-6;

/// The same for Winograd by tile size, outputs and gradients alike: what the transforms amplify.
fn tolerance(method: Method) -> f64 {
    match method {
        Method::Winograd(2) => 4e-6,
        Method::Winograd(3) => 8e-6,
        Method::Winograd(4) => 1.2e-5,
        Method::Winograd(5) => 4e-5,
        _ => DIRECT,
    }
}

fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut stream = Stream::new(seed, Purpose::Synthetic, 0);
    (0..len).map(|_| stream.word() as f32 / (1u64 << 31) as f32 - 1.0).collect()
}

struct Case {
    shape: ConvShape,
    images: usize,
    /// `(N, H, W, C)` without padded channels.
    x: Vec<f32>,
    w: Vec<f32>,
    dy: Vec<f32>,
}

struct Exact {
    y: Vec<f64>,
    dx: Vec<f64>,
    dw: Vec<f64>,
}

impl Case {
    fn new(images: usize, shape: ConvShape) -> Self {
        let (height, width) = shape.stored_map();
        let pixels = shape.height * shape.width;
        Self {
            shape,
            images,
            x: uniform(1, images * pixels * shape.in_channels),
            w: uniform(2, shape.weight_len()),
            dy: uniform(3, images * height * width * shape.out_channels),
        }
    }

    /// The definition, in `f64`.
    fn exact(&self) -> Exact {
        let ConvShape { height, width, in_channels, out_channels, kernel, padding } = self.shape;
        let (rows, columns) = self.shape.stored_map();
        let padding = if kernel == 1 { 0 } else { padding };
        let mut exact =
            Exact { y: vec![0.0; self.dy.len()], dx: vec![0.0; self.x.len()], dw: vec![0.0; self.w.len()] };
        for n in 0..self.images {
            for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
                for (i, j) in (0..kernel).flat_map(|i| (0..kernel).map(move |j| (i, j))) {
                    let (y, x) = (row + i, column + j);
                    if !(padding..height + padding).contains(&y) || !(padding..width + padding).contains(&x) {
                        continue;
                    }
                    let from = ((n * height + y - padding) * width + x - padding) * in_channels;
                    let to = ((n * rows + row) * columns + column) * out_channels;
                    for out in 0..out_channels {
                        for input in 0..in_channels {
                            let weight = ((out * in_channels + input) * kernel + i) * kernel + j;
                            let (x, w) = (f64::from(self.x[from + input]), f64::from(self.w[weight]));
                            let dy = f64::from(self.dy[to + out]);
                            exact.y[to + out] += x * w;
                            exact.dx[from + input] += dy * w;
                            exact.dw[weight] += dy * x;
                        }
                    }
                }
            }
        }
        exact
    }

    fn source<'a>(&self, values: &'a [f32], channels: usize) -> impl Fn(usize, &mut [f32]) + Sync + use<'a> {
        let stride = padded(channels);
        let len = values.len() / self.images;
        move |image, target| {
            target.fill(0.0);
            let pixels = values[image * len..(image + 1) * len].chunks_exact(channels);
            for (target, pixel) in target.chunks_exact_mut(stride).zip(pixels) {
                target[..channels].copy_from_slice(pixel);
            }
        }
    }

    /// Outputs and gradients of a method, without padded channels, with the bits of everything.
    fn compute(&self, isa: Isa, method: Method) -> [Vec<f32>; 3] {
        let shape = self.shape;
        let mut convolution = Convolution::with_method(isa, shape, method);
        let mut weights = vec![f32::NAN; convolution.weight_len()];
        convolution.import_weight(&self.w, &mut weights);
        assert_eq!(convolution.export_weight(&weights), self.w);
        convolution.load(&weights);
        let mut workspace = Workspace::new([convolution.need(self.images)]);
        let (x, dy) = (self.source(&self.x, shape.in_channels), self.source(&self.dy, shape.out_channels));
        // Whatever was in the outputs before does not matter.
        let mut y = vec![f32::NAN; self.images * shape.output_len()];
        let seen = std::sync::Mutex::new(Vec::new());
        let finished = |image: usize, _: &[f32]| seen.lock().unwrap().push(image);
        convolution.forward(&weights, self.images, &x, &mut y, &finished, &mut workspace);
        let mut dx = vec![f32::NAN; self.images * shape.input_len()];
        let mut dw = vec![f32::NAN; convolution.weight_len()];
        let gradient = InputGradient { values: &mut dx, finished: &finished };
        convolution.backward(&weights, self.images, &x, &dy, Some(gradient), &mut dw, &mut workspace);
        let mut without = vec![f32::NAN; convolution.weight_len()];
        convolution.backward(&weights, self.images, &x, &dy, None, &mut without, &mut workspace);
        assert_eq!(dw, without, "the weights' gradient does not depend on the input's");
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        let expected: Vec<usize> = (0..self.images).flat_map(|image| [image, image]).collect();
        assert_eq!(seen, expected, "every image is finished once in each direction");
        [strip(&y, shape.out_channels), strip(&dx, shape.in_channels), convolution.export_weight(&dw)]
    }
}

/// Drops padded channels, which must be zero.
fn strip(values: &[f32], channels: usize) -> Vec<f32> {
    values
        .chunks_exact(padded(channels))
        .flat_map(|pixel| {
            assert!(pixel[channels..].iter().all(|x| *x == 0.0), "padded channels are not zero: {pixel:?}");
            pixel[..channels].to_vec()
        })
        .collect()
}

/// Largest error over the largest exact value, and its place.
fn error(got: &[f32], exact: &[f64]) -> (f64, usize) {
    assert_eq!(got.len(), exact.len());
    let largest = exact.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
    let mut worst = (0.0, 0);
    for (at, (got, exact)) in got.iter().zip(exact).enumerate() {
        let error = (f64::from(*got) - exact).abs() / largest;
        if error.is_nan() || error > worst.0 {
            worst = (error, at);
        }
    }
    worst
}

fn check(case: &Case, methods: &[Method], failures: &mut Vec<String>) {
    let exact = case.exact();
    for isa in Isa::available() {
        for method in methods {
            let results = case.compute(isa, *method);
            for ((name, got), exact) in
                ["y", "dx", "dw"].into_iter().zip(&results).zip([&exact.y, &exact.dx, &exact.dw])
            {
                let (worst, at) = error(got, exact);
                if worst.is_nan() || worst > tolerance(*method) {
                    failures.push(format!(
                        "{:?} x{} {method} on {isa}: {name}[{at}] is {}, not {}: error {worst:.1e}",
                        case.shape, case.images, got[at], exact[at]
                    ));
                }
            }
        }
    }
}

fn shape(map: (usize, usize), channels: (usize, usize), kernel: usize, padding: usize) -> ConvShape {
    ConvShape {
        height: map.0,
        width: map.1,
        in_channels: channels.0,
        out_channels: channels.1,
        kernel,
        padding,
    }
}

#[test]
fn winograd_and_im2col_are_the_definition() {
    let methods = [2, 3, 4, 5].map(Method::Winograd).into_iter().chain([Method::Im2col]).collect::<Vec<_>>();
    let mut failures = Vec::new();
    for (images, map, channels) in [
        (1, (1, 1), (1, 1)),
        (2, (4, 4), (16, 16)),
        (3, (5, 7), (17, 33)),
        (1, (8, 8), (48, 16)),
        (5, (9, 9), (3, 50)),
        (13, (10, 10), (20, 40)),
        (2, (2, 13), (300, 5)),
    ] {
        check(&Case::new(images, shape(map, channels, 3, 1)), &methods, &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn pointwise_and_im2col_are_the_definition() {
    let mut failures = Vec::new();
    for (images, map, channels, padding) in [
        (1, (1, 1), (1, 1), 0),
        (7, (1, 1), (300, 37), 0),
        (130, (1, 1), (17, 530), 0),
        (2, (4, 4), (16, 16), 1),
        (13, (5, 7), (17, 33), 2),
        (3, (18, 18), (20, 10), 0),
        // More groups of images than have sums of their own at once.
        (400, (2, 2), (17, 16), 0),
    ] {
        let case = Case::new(images, shape(map, channels, 1, padding));
        check(&case, &[Method::Pointwise, Method::Im2col], &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn im2col_takes_any_kernel_and_padding() {
    let mut failures = Vec::new();
    for (map, kernel, padding) in
        [((6, 5), 5, 2), ((7, 7), 3, 0), ((4, 9), 2, 1), ((3, 3), 3, 4), ((5, 5), 5, 0)]
    {
        let case = Case::new(8, shape(map, (5, 18), kernel, padding));
        check(&case, &[Method::Im2col], &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_workspace_of_a_convolution_is_bounded_for_any_batch() {
    for (kernel, method) in [(1, Method::Pointwise), (3, Method::Im2col), (3, Method::Winograd(4))] {
        let shape = shape((8, 8), (64, 64), kernel, kernel / 2);
        let convolution = Convolution::with_method(Isa::portable(), shape, method);
        let bytes = |batch| Workspace::bytes_of([convolution.need(batch)]);
        assert_eq!(bytes(1000), bytes(1 << 20), "{method}");
    }
}

/// Root of the mean squared error over the root of the mean square.
fn relative_rms(got: &[f32], exact: &[f64]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let error = squares(&mut got.iter().zip(exact).map(|(got, exact)| f64::from(*got) - exact));
    (error / squares(&mut exact.iter().copied())).sqrt()
}

/// The figures in the documentation of `Method::Winograd`, held from both sides: a bound that nothing comes near says nothing.
#[test]
fn the_error_of_each_method_is_as_documented() {
    let case = Case::new(2, shape((20, 20), (96, 48), 3, 1));
    let exact = case.exact();
    let mut failures = Vec::new();
    for (method, documented) in [
        (Method::Im2col, [3e-7, 3e-7, 3e-7]),
        (Method::Winograd(2), [4e-7, 4e-7, 4e-7]),
        (Method::Winograd(3), [1.3e-6, 1.3e-6, 1.3e-6]),
        (Method::Winograd(4), [2.5e-6, 2.5e-6, 2.5e-6]),
        (Method::Winograd(5), [4e-6, 4e-6, 4e-6]),
    ] {
        for isa in Isa::available() {
            let results = case.compute(isa, method);
            let exact = [&exact.y, &exact.dx, &exact.dw];
            for (((name, got), exact), documented) in
                ["y", "dx", "dw"].into_iter().zip(&results).zip(exact).zip(documented)
            {
                let error = relative_rms(got, exact);
                println!("{method} on {isa}: {name} {error:.2e}");
                if !(documented / 4.0..=documented).contains(&error) {
                    failures.push(format!(
                        "{method} on {isa}: {name} is {error:.2e} off, documented {documented:.1e}"
                    ));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// `<A x, dy> = <x, A' dy>` and `<A w, dy> = <w, A' dy>`: forward and backward belong together, whatever either computes.
#[test]
fn gradients_are_adjoints() {
    // Of dot products of tens of thousands of values, over the product of their lengths.
    const TOLERANCE: f64 = 1e-6;
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    for (shape, methods) in [
        (shape((10, 9), (33, 17), 3, 1), &[2, 3, 4, 5].map(Method::Winograd)[..]),
        (shape((10, 9), (33, 17), 1, 1), &[Method::Pointwise]),
        (shape((10, 9), (3, 17), 3, 1), &[Method::Im2col]),
    ] {
        let case = Case::new(8, shape);
        for isa in Isa::available() {
            for method in methods {
                let [y, dx, dw] = case.compute(isa, *method);
                let scale = (dot(&y, &y) * dot(&case.dy, &case.dy)).sqrt();
                let forward = dot(&y, &case.dy);
                for (name, backward) in [("dx", dot(&case.x, &dx)), ("dw", dot(&case.w, &dw))] {
                    let error = (forward - backward).abs() / scale;
                    assert!(error < TOLERANCE, "{method} on {isa}: {name} {forward} {backward}");
                }
            }
        }
    }
}

/// AVX2 and AVX-512 round alike: both fuse, and neither the width of a vector nor the height of a tile changes the order of a sum.
#[test]
fn wider_vectors_change_no_bit() {
    let fused: Vec<Isa> = Isa::available().into_iter().filter(|isa| *isa != Isa::portable()).collect();
    let case = Case::new(7, shape((10, 10), (40, 72), 3, 1));
    let results: Vec<_> = fused.iter().map(|isa| case.compute(*isa, Method::Winograd(4))).collect();
    for pair in results.windows(2) {
        assert!(pair[0] == pair[1], "{fused:?}");
    }
}
