//! Convolutions for inference by every method, on every instruction set of this machine and several numbers of threads, against the obvious
//! loops in `f64`.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

mod common;

use common::{clear_padding, uniform};
use pointwise_kernels::{
    Activation, ConvShape, FusedConvolution, FusedMethod, FusedParameters, FusedShape, Isa, Team, Workspace,
    padded,
};

/// Largest error over the largest exact value, by what a method amplifies: see `tests/convolution.rs`.
fn tolerance(method: FusedMethod) -> f64 {
    match method {
        FusedMethod::Winograd([_, 2]) => 4e-6,
        FusedMethod::Winograd([_, 3]) => 8e-6,
        FusedMethod::Winograd([_, 4]) => 1.2e-5,
        FusedMethod::Winograd(_) => 4e-5,
        _ => 3e-6,
    }
}

struct Case {
    shape: FusedShape,
    images: usize,
    x: Vec<f32>,
    addend: Option<Vec<f32>>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    rings: Vec<Vec<f32>>,
}

impl Case {
    fn new(images: usize, shape: FusedShape) -> Self {
        let conv = shape.convolution;
        let mut x = uniform(1, images * conv.input_len());
        clear_padding(conv.in_channels, &mut x);
        let mut addend = uniform(2, images * shape.output_len());
        clear_padding(conv.out_channels, &mut addend);
        Self {
            shape,
            images,
            x,
            addend: shape.is_direct().then_some(addend),
            weight: uniform(3, conv.weight_len()),
            bias: uniform(4, conv.out_channels),
            rings: (0..shape.border).map(|ring| uniform(5 + ring as u64, conv.out_channels)).collect(),
        }
    }

    /// The activation's input at a position of the bordered map.
    fn value(&self, image: usize, row: usize, column: usize, out: usize) -> f64 {
        let ConvShape { height, width, in_channels, out_channels, kernel, stride, padding, groups } =
            self.shape.convolution;
        let (rows, columns) = self.shape.convolution.stored_map();
        let border = self.shape.border;
        let edge = [row, column, rows + 2 * border - 1 - row, columns + 2 * border - 1 - column];
        let ring = edge.into_iter().min().unwrap();
        if ring < border {
            return f64::from(self.rings[ring][out]);
        }
        let (row, column) = (row - border, column - border);
        let (inputs, outputs) = (in_channels / groups, out_channels / groups);
        let mut sum = f64::from(self.bias[out]);
        for i in 0..kernel[0] {
            for j in 0..kernel[1] {
                let (y, x) = (row * stride[0] + i, column * stride[1] + j);
                if y < padding[0] || x < padding[1] || y - padding[0] >= height || x - padding[1] >= width {
                    continue;
                }
                let pixel = (y - padding[0]) * width + x - padding[1];
                for input in 0..inputs {
                    let channel = out / outputs * inputs + input;
                    let at = (image * height * width + pixel) * padded(in_channels) + channel;
                    let tap = ((out * inputs + input) * kernel[0] + i) * kernel[1] + j;
                    sum += f64::from(self.x[at]) * f64::from(self.weight[tap]);
                }
            }
        }
        sum
    }

    fn exact(&self) -> Vec<f64> {
        let (rows, columns) = self.shape.output_map();
        let channels = self.shape.convolution.out_channels;
        let mut y = vec![0.0; self.images * self.shape.output_len()];
        for (pixel, y) in y.chunks_exact_mut(padded(channels)).enumerate() {
            let (image, row, column) = (pixel / (rows * columns), pixel / columns % rows, pixel % columns);
            for (out, y) in y[..channels].iter_mut().enumerate() {
                let mut z = if self.shape.pool {
                    let window = [(0, 0), (0, 1), (1, 0), (1, 1)];
                    let values = window.map(|(i, j)| self.value(image, 2 * row + i, 2 * column + j, out));
                    values.into_iter().fold(f64::NEG_INFINITY, f64::max)
                } else {
                    self.value(image, row, column, out)
                };
                if let Some(addend) = &self.addend {
                    z += f64::from(addend[pixel * padded(channels) + out]);
                }
                *y = match self.shape.activation {
                    Activation::Identity => z,
                    Activation::Relu => z.max(0.0),
                    Activation::Relu6 => z.clamp(0.0, 6.0),
                    Activation::Sigmoid => 1.0 / (1.0 + (-z).exp()),
                    other => panic!("{other:?} has no twin here"),
                };
            }
        }
        y
    }

    fn check(&self) {
        let exact = self.exact();
        let conv = self.shape.convolution;
        // The rounding is that of the sums, whatever an activation makes of them.
        let terms = conv.weight_len() / conv.out_channels;
        let largest = exact.iter().fold((terms as f64).sqrt(), |a, b| a.max(b.abs()));
        for method in FusedMethod::candidates(&conv) {
            let mut first: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                for threads in [1, 2, 3] {
                    let what = format!("{:?} of {} by {method} on {isa}", self.shape, self.images);
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let y = pool.install(|| self.run(isa, method, threads));
                    for (at, (y, exact)) in y.iter().zip(&exact).enumerate() {
                        let error = (f64::from(*y) - exact).abs();
                        assert!(
                            error <= tolerance(method) * largest.max(1.0),
                            "{what}: {y} at {at}, not {exact}"
                        );
                    }
                    if threads == 1 {
                        first = Some(y);
                    } else {
                        assert_eq!(first.as_ref(), Some(&y), "{what} with {threads} threads");
                    }
                }
            }
        }
    }

    fn run(&self, isa: Isa, method: FusedMethod, threads: usize) -> Vec<f32> {
        let Self { weight, bias, rings, .. } = self;
        let conv = self.shape.convolution;
        let fused = FusedConvolution::new(isa, self.shape, method, FusedParameters { weight, bias, rings });
        let input = if let Some(packed) = method.packed(&conv) {
            let mut images = vec![f32::NAN; self.images * packed.len()];
            for (image, map) in
                images.chunks_exact_mut(packed.len()).zip(self.x.chunks_exact(conv.input_len()))
            {
                packed.pack(map, image);
            }
            images
        } else {
            self.x.clone()
        };
        let mut workspace = Workspace::new([fused.need(self.images, threads)]);
        let mut y = vec![f32::NAN; self.images * self.shape.output_len()];
        Team::gather(threads, |team| {
            fused.run(team, self.images, &input, self.addend.as_deref(), &mut y, &mut workspace);
        });
        y
    }
}

fn plain(convolution: ConvShape) -> FusedShape {
    FusedShape { convolution, border: 0, activation: Activation::Relu, pool: false }
}

#[test]
fn maps_of_every_size_and_what_follows() {
    for (number, (map, channels)) in [
        ([1, 1], [16, 20]),
        ([2, 2], [40, 96]),
        ([4, 4], [17, 64]),
        ([5, 7], [32, 33]),
        ([8, 8], [64, 130]),
        ([9, 10], [16, 16]),
        ([17, 16], [20, 24]),
    ]
    .into_iter()
    .enumerate()
    {
        for (images, kernel) in [(1, 3), (2, 3), (5, 3), (1, 1), (7, 1)] {
            let conv = ConvShape::square(map, channels, kernel, if kernel == 3 { 1 } else { 0 });
            let activation =
                [Activation::Relu, Activation::Identity, Activation::Relu6][(number + images) % 3];
            Case::new(images, FusedShape { activation, ..plain(conv) }).check();
            if map[0] > 1 {
                Case::new(images, FusedShape { pool: true, ..plain(conv) }).check();
            }
        }
        let conv = ConvShape::square(map, channels, 3, 1);
        for border in [1, 2] {
            for pool in [false, true] {
                let activation = if border == 1 { Activation::Sigmoid } else { Activation::Relu };
                Case::new(2, FusedShape { convolution: conv, border, activation, pool }).check();
            }
        }
    }
}

#[test]
fn many_images_go_in_pieces() {
    for (map, channels, images) in [([8, 8], [64, 96], 60), ([32, 32], [48, 32], 2), ([4, 4], [96, 200], 70)]
    {
        Case::new(images, plain(ConvShape::square(map, channels, 3, 1))).check();
    }
}

#[test]
fn other_kernels_strides_and_groups() {
    let base = ConvShape::square([11, 12], [24, 40], 3, 1);
    for conv in [
        ConvShape { stride: [2, 2], ..base },
        ConvShape { kernel: [1, 1], padding: [0, 0], stride: [2, 2], ..base },
        ConvShape { kernel: [5, 2], padding: [2, 0], stride: [1, 2], ..base },
        ConvShape { groups: 4, ..base },
        ConvShape { groups: 8, out_channels: 128, stride: [2, 1], ..base },
        ConvShape { groups: 24, out_channels: 24, ..base },
        ConvShape { groups: 24, out_channels: 24, stride: [2, 2], kernel: [5, 5], padding: [2, 2], ..base },
        ConvShape { in_channels: 3, ..base },
        ConvShape { in_channels: 1, out_channels: 6, kernel: [5, 5], padding: [0, 0], ..base },
        ConvShape { in_channels: 6, stride: [2, 3], kernel: [3, 5], padding: [0, 2], ..base },
        ConvShape { in_channels: 6, kernel: [1, 1], padding: [0, 0], ..base },
        ConvShape { in_channels: 3, out_channels: 6, kernel: [5, 5], padding: [0, 0], width: 33, ..base },
        ConvShape { in_channels: 15, out_channels: 8, kernel: [3, 2], padding: [1, 0], ..base },
        ConvShape { in_channels: 2, out_channels: 1, kernel: [2, 5], padding: [1, 2], width: 17, ..base },
        ConvShape { in_channels: 1, out_channels: 3, kernel: [7, 7], padding: [3, 3], height: 5, ..base },
    ] {
        for images in [1, 3] {
            Case::new(images, plain(conv)).check();
            Case::new(images, FusedShape { pool: true, ..plain(conv) }).check();
            let border = FusedShape { border: 1, activation: Activation::Sigmoid, ..plain(conv) };
            Case::new(images, border).check();
        }
    }
}
