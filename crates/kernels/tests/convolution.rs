//! Every convolution method, on every instruction set of this machine, against the obvious loops in `f64`.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_kernels::{ConvShape, Convolution, InputGradient, Isa, Method, Weights, Workspace, padded};
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
        let ConvShape { height, width, in_channels, out_channels, kernel, stride, groups, .. } = self.shape;
        let (rows, columns) = self.shape.stored_map();
        let padding = if self.shape.border() > 0 { [0, 0] } else { self.shape.padding };
        let (inputs, outputs) = (in_channels / groups, out_channels / groups);
        let mut exact =
            Exact { y: vec![0.0; self.dy.len()], dx: vec![0.0; self.x.len()], dw: vec![0.0; self.w.len()] };
        for n in 0..self.images {
            for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
                for (i, j) in (0..kernel[0]).flat_map(|i| (0..kernel[1]).map(move |j| (i, j))) {
                    let (y, x) = (row * stride[0] + i, column * stride[1] + j);
                    if !(padding[0]..height + padding[0]).contains(&y)
                        || !(padding[1]..width + padding[1]).contains(&x)
                    {
                        continue;
                    }
                    let from = ((n * height + y - padding[0]) * width + x - padding[1]) * in_channels;
                    let to = ((n * rows + row) * columns + column) * out_channels;
                    for out in 0..out_channels {
                        let from = from + out / outputs * inputs;
                        for input in 0..inputs {
                            let weight = ((out * inputs + input) * kernel[0] + i) * kernel[1] + j;
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

    fn has_nan(&self) -> bool {
        self.x.iter().chain(&self.dy).any(|x| x.is_nan())
    }

    fn check_scale(&self, convolution: &Convolution, weights: &[f32]) {
        let mut scale = uniform(4, padded(self.shape.out_channels));
        scale[self.shape.out_channels..].fill(0.0);
        let mut scaled = vec![f32::NAN; weights.len()];
        convolution.scale_outputs(weights, &scale, &mut scaled);
        let row = self.w.len() / self.shape.out_channels;
        let expected =
            self.w.chunks_exact(row).zip(scale).flat_map(|(row, by)| row.iter().map(move |w| w * by));
        assert_eq!(convolution.export_weight(&scaled), expected.collect::<Vec<_>>());
        assert!(scaled.iter().zip(weights).all(|(scaled, weight)| *weight != 0.0 || *scaled == 0.0));
    }

    /// The input's gradient can be added to another.
    fn check_added(
        &self,
        convolution: &Convolution,
        weights: &[f32],
        gradient: &[f32],
        workspace: &mut Workspace,
    ) {
        let shape = self.shape;
        let (x, dy) = (self.source(&self.x, shape.in_channels), self.source(&self.dy, shape.out_channels));
        let mut dw = vec![f32::NAN; weights.len()];
        let before: Vec<f32> = uniform(5, gradient.len());
        let mut values = before.clone();
        let sum = InputGradient { values: &mut values, add: true, finished: &|_, _| () };
        convolution.backward(weights, self.images, &x, &dy, Some(sum), &mut dw, workspace);
        let largest = gradient.iter().fold(1.0, |a: f32, b| a.max(b.abs()));
        for ((sum, before), gradient) in values.iter().zip(before).zip(gradient) {
            let expected = before + gradient;
            let same = (sum - expected).abs() <= 1e-6 * largest || sum.is_nan() && expected.is_nan();
            assert!(same, "{shape:?} {}: {sum} is not {before} + {gradient}", convolution.method());
        }
    }

    /// Outputs and gradients of a method, without padded channels, with the bits of everything.
    fn compute(&self, isa: Isa, method: Method) -> [Vec<f32>; 3] {
        self.compute_with(isa, method, strip)
    }

    /// As [`Case::compute`], with a function that drops the padded channels of a map.
    fn compute_with(
        &self,
        isa: Isa,
        method: Method,
        strip: impl Fn(&[f32], usize) -> Vec<f32>,
    ) -> [Vec<f32>; 3] {
        let shape = self.shape;
        let convolution = Convolution::with_method(isa, shape, method);
        let mut weights = vec![f32::NAN; convolution.weight_len()];
        convolution.import_weight(&self.w, &mut weights);
        assert_eq!(convolution.export_weight(&weights), self.w);
        self.check_scale(&convolution, &weights);
        let mut workspace = dirty_workspace(&convolution, self.images);
        let (x, dy) = (self.source(&self.x, shape.in_channels), self.source(&self.dy, shape.out_channels));
        // Whatever was in the outputs before does not matter.
        let mut y = vec![f32::NAN; self.images * shape.output_len()];
        let seen = std::sync::Mutex::new(Vec::new());
        let finished = |image: usize, _: &[f32]| seen.lock().unwrap().push(image);
        convolution.forward(Weights::Plain(&weights), self.images, &x, &mut y, &finished, &mut workspace);
        let mut transformed =
            vec![f32::NAN; convolution.transformed_len().unwrap_or(convolution.weight_len())];
        convolution.transform(&weights, &mut transformed);
        let (form, mut again) = (Weights::Transformed(&transformed), vec![f32::NAN; y.len()]);
        convolution.forward(form, self.images, &x, &mut again, &|_, _| (), &mut workspace);
        assert!(same_bits(&y, &again), "transformed weights change nothing");
        let mut dx = vec![f32::NAN; self.images * shape.input_len()];
        let mut dw = vec![f32::NAN; convolution.weight_len()];
        let finished = |image: usize, _: &mut [f32]| seen.lock().unwrap().push(image);
        let gradient = InputGradient { values: &mut dx, add: false, finished: &finished };
        convolution.backward(&weights, self.images, &x, &dy, Some(gradient), &mut dw, &mut workspace);
        self.check_added(&convolution, &weights, &dx, &mut workspace);
        let mut without = vec![f32::NAN; convolution.weight_len()];
        convolution.backward(&weights, self.images, &x, &dy, None, &mut without, &mut workspace);
        assert!(same_bits(&dw, &without), "the weights' gradient does not depend on the input's");
        // An optimizer works on the whole layout: entries that represent no weight must stay zero.
        let mut again = vec![f32::NAN; convolution.weight_len()];
        convolution.import_weight(&convolution.export_weight(&dw), &mut again);
        let older = matches!(method, Method::Winograd(_) | Method::Pointwise | Method::Im2col);
        let same = dw.iter().zip(&again).all(|(a, b)| a == b || a.is_nan() && b.is_nan());
        assert!(same || older && self.has_nan(), "{method}: a gradient where there is no weight");
        let mut seen = seen.into_inner().unwrap();
        seen.sort_unstable();
        let expected: Vec<usize> = (0..self.images).flat_map(|image| [image, image]).collect();
        assert_eq!(seen, expected, "every image is finished once in each direction");
        [strip(&y, shape.out_channels), strip(&dx, shape.in_channels), convolution.export_weight(&dw)]
    }
}

fn drop_padded(values: &[f32], channels: usize) -> Vec<f32> {
    values.chunks_exact(padded(channels)).flat_map(|pixel| pixel[..channels].to_vec()).collect()
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

/// A workspace full of NaN, as another convolution may leave it.
fn dirty_workspace(convolution: &Convolution, images: usize) -> Workspace {
    let need = convolution.need(images);
    let floats = Workspace::bytes_of([need]) / size_of::<f32>();
    // Its sums fill the part that is shared, its image the part of a worker.
    let shape = ConvShape { groups: floats, ..ConvShape::square([1, 1], [floats; 2], 1, 0) };
    let other = Convolution::with_method(Isa::portable(), shape, Method::Depthwise([1, 1]));
    let mut workspace = Workspace::new([need, other.need(1)]);
    let nan = |_: usize, image: &mut [f32]| image.fill(f32::NAN);
    let mut gradient = vec![0.0; other.weight_len()];
    other.backward(&vec![0.0; other.weight_len()], 1, &nan, &nan, None, &mut gradient, &mut workspace);
    workspace
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
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

#[test]
fn winograd_and_im2col_are_the_definition() {
    let methods = [2, 3, 4, 5]
        .map(Method::Winograd)
        .into_iter()
        .chain([Method::Im2col, Method::Im2colByPixel])
        .collect::<Vec<_>>();
    let mut failures = Vec::new();
    for (images, map, channels, padding) in [
        (1, [1, 1], [1, 1], 1),
        (2, [4, 4], [16, 16], 1),
        (3, [5, 7], [17, 33], 1),
        (1, [8, 8], [48, 16], 1),
        (5, [9, 9], [3, 50], 1),
        (13, [10, 10], [20, 40], 1),
        (2, [2, 13], [300, 5], 1),
        (2, [3, 3], [16, 16], 0),
        (2, [15, 6], [32, 48], 0),
        (2, [9, 11], [17, 70], 0),
        (2, [1, 5], [33, 16], 2),
        (3, [7, 4], [16, 20], 3),
    ] {
        check(&Case::new(images, ConvShape::square(map, channels, 3, padding)), &methods, &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn pointwise_and_im2col_are_the_definition() {
    let mut failures = Vec::new();
    for (images, map, channels, padding) in [
        (1, [1, 1], [1, 1], 0),
        (7, [1, 1], [300, 37], 0),
        (130, [1, 1], [17, 530], 0),
        (2, [4, 4], [16, 16], 1),
        (13, [5, 7], [17, 33], 2),
        (3, [18, 18], [20, 10], 0),
        // More groups of images than have separate sums at once.
        (400, [2, 2], [17, 16], 0),
    ] {
        let case = Case::new(images, ConvShape::square(map, channels, 1, padding));
        check(&case, &[Method::Pointwise, Method::Im2col, Method::Im2colByPixel], &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn im2col_takes_any_kernel_and_padding() {
    let mut failures = Vec::new();
    for (map, kernel, padding) in
        [([6, 5], 5, 2), ([7, 7], 3, 0), ([4, 9], 2, 1), ([3, 3], 3, 4), ([5, 5], 5, 0)]
    {
        let case = Case::new(8, ConvShape::square(map, [5, 18], kernel, padding));
        check(&case, &[Method::Im2col, Method::Im2colByPixel], &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Every method that can compute a shape, and the chosen one.
fn methods(shape: &ConvShape) -> Vec<Method> {
    let chosen = Method::choose(shape);
    let general = [Method::GroupedIm2col, Method::Im2col, Method::Im2colByPixel, Method::Direct];
    let general = &general[..match shape.groups {
        1 if shape.in_channels < 16 => 4,
        1 => 3,
        _ => 1,
    }];
    general.iter().copied().filter(|method| *method != chosen).chain([chosen]).collect()
}

const fn geometry(map: [usize; 2], kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2]) -> ConvShape {
    ConvShape { kernel, stride, padding, ..ConvShape::square(map, [1, 1], 1, 0) }
}

/// Maps, kernels, strides, paddings: rectangles, more padding than the kernel needs, strides larger than it covers, and maps that the
/// stride does not fit.
const GEOMETRIES: [ConvShape; 17] = [
    geometry([8, 8], [3, 3], [2, 2], [1, 1]),
    geometry([7, 9], [3, 3], [2, 2], [1, 1]),
    geometry([6, 11], [3, 3], [3, 3], [1, 1]),
    geometry([9, 6], [3, 3], [1, 2], [1, 1]),
    geometry([9, 6], [3, 3], [2, 1], [0, 1]),
    geometry([5, 9], [1, 7], [1, 1], [0, 3]),
    geometry([9, 5], [7, 1], [1, 1], [3, 0]),
    geometry([9, 8], [3, 5], [1, 1], [1, 2]),
    geometry([9, 10], [5, 5], [2, 3], [2, 2]),
    geometry([11, 12], [7, 7], [2, 2], [3, 3]),
    geometry([8, 7], [1, 1], [2, 2], [0, 0]),
    geometry([7, 8], [1, 1], [3, 2], [0, 0]),
    geometry([5, 7], [1, 1], [2, 2], [1, 1]),
    geometry([5, 7], [1, 1], [1, 1], [1, 0]),
    geometry([3, 4], [3, 3], [1, 1], [4, 5]),
    geometry([2, 3], [3, 2], [3, 3], [2, 3]),
    geometry([2, 2], [1, 1], [2, 2], [0, 0]),
];

#[test]
fn any_kernel_stride_and_padding_is_the_definition() {
    let mut failures = Vec::new();
    let channels = [[1, 16], [3, 24], [15, 17], [16, 40], [17, 3], [24, 15], [40, 1]];
    for (at, geometry) in GEOMETRIES.into_iter().enumerate() {
        for [in_channels, out_channels] in
            [channels[at % channels.len()], channels[(at + 3) % channels.len()]]
        {
            let shape = ConvShape { in_channels, out_channels, ..geometry };
            // Two groups of images, the second one not full.
            check(&Case::new(8, shape), &methods(&shape), &mut failures);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn depthwise_is_the_definition() {
    let mut failures = Vec::new();
    let channels = [16, 17, 96, 2];
    for (at, geometry) in GEOMETRIES.into_iter().enumerate() {
        for groups in [channels[at % channels.len()], channels[(at + 1) % channels.len()]] {
            let shape = ConvShape { in_channels: groups, out_channels: groups, groups, ..geometry };
            assert_eq!(Method::choose(&shape), Method::Depthwise(shape.kernel));
            check(&Case::new(8, shape), &methods(&shape), &mut failures);
        }
    }
    // One channel, a row as long as every block of columns together, and a padded 1x1 kernel, of which the inner map is stored.
    for (map, channels, kernel, padding) in
        [([4, 4], 1, 3, 1), ([3, 19], 16, 3, 1), ([2, 33], 20, 5, 2), ([5, 4], 18, 1, 2)]
    {
        let shape = ConvShape { groups: channels, ..ConvShape::square(map, [channels; 2], kernel, padding) };
        check(&Case::new(3, shape), &[Method::Depthwise([kernel; 2])], &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn groups_are_the_definition() {
    let mut failures = Vec::new();
    for (at, (groups, [in_channels, out_channels])) in [
        (2, [32, 32]),
        (2, [16, 48]),
        (2, [6, 34]),
        (3, [3, 9]),
        (3, [51, 24]),
        (4, [16, 16]),
        (4, [64, 128]),
        (5, [40, 80]),
        (5, [80, 5]),
        (32, [64, 128]),
        // A multiplier of two, and the reverse.
        (17, [17, 34]),
        (32, [32, 64]),
        (16, [32, 16]),
    ]
    .into_iter()
    .enumerate()
    {
        for offset in [0, 5, 11] {
            let geometry = GEOMETRIES[(at + offset) % GEOMETRIES.len()];
            let shape = ConvShape { in_channels, out_channels, groups, ..geometry };
            assert_eq!(Method::choose(&shape), Method::GroupedIm2col);
            check(&Case::new(8, shape), &[Method::GroupedIm2col], &mut failures);
        }
        let shape = ConvShape { groups, ..ConvShape::square([6, 5], [in_channels, out_channels], 1, 1) };
        check(&Case::new(2, shape), &[Method::GroupedIm2col], &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Runs of the kernel's rows around whole panels, outputs around them, maps of several blocks of rows and tiles of several heights.
#[test]
fn direct_is_the_definition() {
    let mut failures = Vec::new();
    for (images, in_channels, out_channels, geometry) in [
        // More groups of images than have separate sums at once.
        (130, 1, 6, geometry([5, 5], [5, 5], [1, 1], [0, 0])),
        (3, 3, 6, geometry([32, 32], [5, 5], [1, 1], [0, 0])),
        (2, 6, 16, geometry([14, 14], [5, 5], [1, 1], [0, 0])),
        (2, 15, 17, geometry([31, 33], [3, 3], [2, 1], [1, 1])),
        (1, 5, 33, geometry([29, 30], [3, 3], [1, 1], [1, 1])),
        (5, 8, 15, geometry([7, 40], [3, 2], [1, 1], [1, 1])),
        (1, 11, 32, geometry([3, 300], [3, 3], [1, 2], [1, 0])),
    ] {
        let shape = ConvShape { in_channels, out_channels, ..geometry };
        check(&Case::new(images, shape), &[Method::Direct], &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Maps that are gathered in pieces of some rows, and weights of several blocks.
#[test]
fn large_patches_are_the_definition() {
    let mut failures = Vec::new();
    for (images, in_channels, out_channels, geometry) in [
        (7, 48, 20, geometry([31, 32], [3, 3], [1, 2], [1, 1])),
        (2, 64, 17, geometry([21, 30], [5, 5], [1, 1], [2, 2])),
        (9, 130, 33, geometry([8, 8], [3, 3], [2, 2], [1, 1])),
    ] {
        let shape = ConvShape { in_channels, out_channels, ..geometry };
        check(&Case::new(images, shape), &[Method::Im2colByPixel], &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn each_shape_has_its_method() {
    let of = |map: [usize; 2], channels: [usize; 2], kernel, stride: usize, padding, groups| {
        let shape =
            ConvShape { stride: [stride; 2], groups, ..ConvShape::square(map, channels, kernel, padding) };
        Method::choose(&shape).to_string()
    };
    assert_eq!(of([32, 32], [3, 64], 3, 1, 1, 1), "im2col");
    assert_eq!(of([32, 32], [3, 64], 7, 2, 3, 1), "im2col");
    assert_eq!(of([32, 32], [3, 33], 3, 1, 1, 1), "im2col");
    assert_eq!(of([32, 32], [3, 32], 3, 1, 1, 1), "direct");
    assert_eq!(of([14, 14], [6, 16], 5, 1, 0, 1), "direct");
    assert_eq!(of([16, 16], [64, 64], 3, 1, 1, 1), "Winograd F(4x4, 3x3)");
    assert_eq!(of([15, 15], [32, 64], 3, 1, 0, 1), "Winograd F(5x5, 3x3)");
    assert_eq!(of([32, 32], [64, 128], 3, 2, 1, 1), "im2col by pixel");
    assert_eq!(of([16, 16], [64, 64], 1, 1, 1, 1), "matrix product");
    assert_eq!(of([32, 32], [64, 128], 1, 2, 0, 1), "matrix product");
    assert_eq!(of([32, 32], [64, 128], 1, 2, 1, 1), "im2col by pixel");
    assert_eq!(of([32, 32], [96, 96], 3, 2, 1, 96), "depthwise 3x3");
    assert_eq!(of([32, 32], [96, 192], 3, 1, 1, 96), "grouped im2col");
}

#[test]
fn what_cannot_be_computed_is_refused() {
    let good = ConvShape::square([8, 8], [32, 32], 3, 1);
    for (shape, method) in [
        (ConvShape { groups: 3, ..good }, Method::GroupedIm2col),
        (ConvShape { kernel: [3, 11], ..good }, Method::Im2col),
        (ConvShape { stride: [0, 1], ..good }, Method::Im2col),
        (ConvShape { stride: [2, 2], ..good }, Method::Winograd(4)),
        (ConvShape { padding: [1, 0], ..good }, Method::Winograd(4)),
        (good, Method::Winograd(6)),
        (good, Method::Pointwise),
        (good, Method::Direct),
        (ConvShape { groups: 4, ..good }, Method::Direct),
        (ConvShape { kernel: [1, 1], stride: [2, 2], ..good }, Method::Pointwise),
        (ConvShape { groups: 2, ..good }, Method::Im2col),
        (ConvShape { groups: 2, ..good }, Method::Im2colByPixel),
        (ConvShape { groups: 16, ..good }, Method::Depthwise([3, 3])),
        (ConvShape { groups: 32, ..good }, Method::Depthwise([5, 5])),
    ] {
        let panic = std::panic::catch_unwind(|| Convolution::with_method(Isa::portable(), shape, method));
        let message = panic.map(|_| ()).unwrap_err().downcast::<String>().unwrap();
        let expected = if shape.is_valid() { "does not compute" } else { "no such convolution" };
        assert!(message.contains(expected), "{message}");
    }
}

/// Shapes that have a method each, or a way through one.
fn samples() -> Vec<(ConvShape, Method)> {
    let square = ConvShape::square;
    [
        square([10, 9], [33, 17], 3, 1),
        square([10, 9], [50, 70], 3, 1),
        square([10, 9], [33, 17], 1, 1),
        square([1, 1], [33, 50], 1, 0),
        square([10, 9], [3, 17], 3, 1),
        square([10, 9], [3, 47], 3, 1),
        ConvShape { stride: [2, 2], ..square([10, 9], [33, 17], 1, 0) },
        ConvShape { stride: [2, 2], ..square([11, 12], [3, 17], 7, 3) },
        ConvShape { stride: [2, 2], ..square([11, 12], [3, 47], 7, 3) },
        square([12, 11], [6, 16], 5, 0),
        ConvShape { stride: [2, 2], ..square([10, 9], [33, 17], 3, 1) },
        ConvShape { kernel: [3, 5], stride: [1, 2], ..square([17, 18], [40, 24], 3, 1) },
        ConvShape { groups: 40, ..square([10, 9], [40, 40], 3, 1) },
        ConvShape { groups: 40, stride: [2, 2], ..square([10, 9], [40, 40], 3, 1) },
        ConvShape { groups: 40, stride: [2, 3], ..square([10, 9], [40, 40], 5, 2) },
        ConvShape { groups: 2, ..square([10, 9], [32, 64], 3, 1) },
        ConvShape { groups: 5, stride: [2, 2], ..square([10, 9], [40, 20], 3, 1) },
    ]
    .into_iter()
    .map(|shape| (shape, Method::choose(&shape)))
    .collect()
}

#[test]
fn threads_change_no_bit() {
    for (shape, method) in samples() {
        let case = Case::new(13, shape);
        let mut results = [1, 2, 3, 5].into_iter().map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| case.compute(Isa::detect(), method))
        });
        let first = results.next().unwrap();
        assert!(results.all(|result| result == first), "{shape:?} {method}");
    }
}

/// A NaN in one place of the input, or of the output's gradient, reaches what the definition lets it reach, and nothing else.
#[test]
fn a_nan_reaches_no_more_than_it_should() {
    for (shape, method) in samples().into_iter().filter(|(_, method)| !matches!(method, Method::Winograd(_)))
    {
        for (in_x, at) in [(true, 7), (true, 123), (false, 95)] {
            let mut case = Case::new(2, shape);
            let values = if in_x { &mut case.x } else { &mut case.dy };
            let len = values.len();
            values[at % len] = f32::NAN;
            // Patches hold the zeros of the padding: a NaN at the edge of the map reaches the taps that are outside there, too.
            let row = shape.weight_len() / shape.out_channels;
            let patches = !in_x && !matches!(method, Method::Depthwise(_));
            let may = |name: &str, weight: usize| {
                name == "dw" && patches && weight / row == at % len % shape.out_channels
            };
            let exact = case.exact();
            for isa in Isa::available() {
                let results = case.compute_with(isa, method, drop_padded);
                for ((name, got), exact) in
                    ["y", "dx", "dw"].into_iter().zip(&results).zip([&exact.y, &exact.dx, &exact.dw])
                {
                    let same = got.iter().zip(exact).enumerate().all(|(at, (got, exact))| {
                        got.is_nan() == exact.is_nan() || got.is_nan() && may(name, at)
                    });
                    assert!(same, "{shape:?} {method} on {isa}: NaN at {at} in x: {in_x}: {name}");
                }
            }
        }
    }
}

#[test]
fn the_workspace_of_a_convolution_is_bounded_for_any_batch() {
    for (kernel, channels, groups, method) in [
        (1, 64, 1, Method::Pointwise),
        (3, 6, 1, Method::Direct),
        (3, 64, 1, Method::Im2col),
        (3, 64, 1, Method::Im2colByPixel),
        (3, 64, 4, Method::GroupedIm2col),
        (3, 64, 64, Method::Depthwise([3, 3])),
        (3, 64, 1, Method::Winograd(4)),
        (3, 16, 1, Method::Winograd(4)),
    ] {
        let shape = ConvShape { groups, ..ConvShape::square([8, 8], [channels; 2], kernel, kernel / 2) };
        let convolution = Convolution::with_method(Isa::portable(), shape, method);
        let bytes = |batch| Workspace::bytes_of([convolution.need(batch)]);
        assert_eq!(bytes(2000), bytes(1 << 20), "{method}");
    }
}

/// Root of the mean squared error over the root of the mean square.
fn relative_rms(got: &[f32], exact: &[f64]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let error = squares(&mut got.iter().zip(exact).map(|(got, exact)| f64::from(*got) - exact));
    (error / squares(&mut exact.iter().copied())).sqrt()
}

/// The figures in the documentation of `Method::Winograd`, checked from both sides: a bound that nothing comes near says nothing.
#[test]
fn the_error_of_each_method_is_as_documented() {
    let case = Case::new(2, ConvShape::square([20, 20], [96, 48], 3, 1));
    let exact = case.exact();
    let mut failures = Vec::new();
    for (method, documented) in [
        (Method::Im2col, [3e-7, 3e-7, 3e-7]),
        (Method::Im2colByPixel, [3.3e-7, 3.3e-7, 3.3e-7]),
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
    // For dot products of tens of thousands of values, over the product of their lengths.
    const TOLERANCE: f64 = 1e-6;
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    let winograd = [2, 3, 4, 5].map(|m| (ConvShape::square([10, 9], [33, 17], 3, 1), Method::Winograd(m)));
    for (shape, method) in samples().into_iter().chain(winograd) {
        let case = Case::new(8, shape);
        for isa in Isa::available() {
            let [y, dx, dw] = case.compute(isa, method);
            let scale = (dot(&y, &y) * dot(&case.dy, &case.dy)).sqrt();
            let forward = dot(&y, &case.dy);
            for (name, backward) in [("dx", dot(&case.x, &dx)), ("dw", dot(&case.w, &dw))] {
                let error = (forward - backward).abs() / scale;
                assert!(error < TOLERANCE, "{shape:?} {method} on {isa}: {name} {forward} {backward}");
            }
        }
    }
}

/// AVX2 and AVX-512 round alike: both fuse, and neither the width of a vector nor the height of a tile changes the order of a sum. So does
/// NEON, but only a training run can show it, because no processor has both.
#[test]
fn wider_vectors_change_no_bit() {
    let fused: Vec<Isa> = Isa::available().into_iter().filter(|isa| *isa != Isa::portable()).collect();
    let winograd = (ConvShape::square([10, 10], [40, 72], 3, 1), Method::Winograd(4));
    for (shape, method) in samples().into_iter().chain([winograd]) {
        let case = Case::new(7, shape);
        let results: Vec<_> = fused.iter().map(|isa| case.compute(*isa, method)).collect();
        for pair in results.windows(2) {
            assert!(pair[0] == pair[1], "{fused:?} {shape:?} {method}");
        }
    }
}
