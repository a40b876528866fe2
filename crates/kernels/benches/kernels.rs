//! Single kernels, at the shapes of the study with its batch of 126, on the threads of the rayon pool:
//! `RAYON_NUM_THREADS=1 cargo bench -p pointwise-kernels`.
//!
//! Throughput is in floating-point operations of the method itself: for a Winograd convolution the products, not the transforms.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pointwise_kernels::{
    Activation, AdamStep, Affine, ConvShape, Convolution, Epilogue, EpilogueShape, InputGradient, Isa,
    Method, Weights, Workspace, adam, peak_gflops,
};
use std::hint::black_box;

const BATCH: usize = 126;

const fn square(side: usize, channels: [usize; 2], kernel: usize) -> ConvShape {
    ConvShape::square([side; 2], channels, kernel, kernel / 2)
}

const fn depthwise(side: usize, channels: usize, stride: usize) -> ConvShape {
    ConvShape { stride: [stride; 2], groups: channels, ..square(side, [channels; 2], 3) }
}

/// Each method and size once.
const CONVOLUTIONS: [ConvShape; 16] = [
    square(32, [3, 64], 3),
    ConvShape::square([14, 14], [6, 16], 5, 0),
    square(16, [64, 192], 3),
    square(8, [192, 384], 3),
    square(10, [192, 256], 3),
    square(9, [256, 256], 3),
    square(12, [256, 384], 1),
    square(1, [4096, 1024], 1),
    ConvShape { stride: [2, 2], ..square(32, [64, 128], 3) },
    ConvShape { stride: [2, 2], ..square(16, [128, 256], 3) },
    ConvShape { stride: [2, 2], ..square(8, [256, 512], 3) },
    ConvShape { stride: [2, 2], ..square(32, [64, 128], 1) },
    ConvShape { groups: 32, ..square(16, [256, 256], 3) },
    depthwise(32, 96, 1),
    depthwise(32, 96, 2),
    depthwise(8, 384, 1),
];

/// Floating-point operations of the products of one pass.
fn operations(shape: &ConvShape, method: Method) -> u64 {
    let products = match method {
        Method::Winograd(m) => {
            let tiles = shape.height.div_ceil(m) * shape.width.div_ceil(m);
            tiles * (m + 2) * (m + 2) * shape.in_channels * shape.out_channels
        }
        _ => {
            let (rows, columns) = shape.stored_map();
            rows * columns * shape.weight_len()
        }
    };
    2 * (BATCH * products) as u64
}

fn convolutions(criterion: &mut Criterion) {
    let isa = Isa::detect();
    eprintln!("{isa}, {:.0} GF/s on registers", peak_gflops(isa));
    let mut group = criterion.benchmark_group("convolution");
    group.sample_size(20);
    for shape in CONVOLUTIONS {
        let convolution = Convolution::new(isa, shape);
        let ConvShape { height, width, in_channels, out_channels, stride, .. } = shape;
        let step = if stride == [1, 1] { String::new() } else { format!(" stride {}", stride[0]) };
        let name = format!("{height}x{width} {in_channels}-{out_channels}{step} {}", convolution.method());
        let mut weights = vec![0.0; convolution.weight_len()];
        convolution.import_weight(&vec![0.01; shape.weight_len()], &mut weights);
        let mut workspace = Workspace::new([convolution.need(BATCH)]);
        let fill = |_: usize, pixels: &mut [f32]| pixels.fill(0.5);
        let mut y = vec![0.0; BATCH * shape.output_len()];
        let mut dx = vec![0.0; BATCH * shape.input_len()];
        let mut dw = vec![0.0; convolution.weight_len()];
        let operations = operations(&shape, convolution.method());
        group.throughput(Throughput::Elements(operations));
        group.bench_function(BenchmarkId::new("forward", &name), |bencher| {
            bencher.iter(|| {
                convolution.forward(
                    Weights::Plain(&weights),
                    BATCH,
                    &fill,
                    black_box(&mut y),
                    &|_, _| (),
                    &mut workspace,
                );
            });
        });
        group.throughput(Throughput::Elements(2 * operations));
        group.bench_function(BenchmarkId::new("both gradients", &name), |bencher| {
            bencher.iter(|| {
                let gradient = InputGradient { values: black_box(&mut dx), add: false, finished: &|_, _| () };
                convolution.backward(&weights, BATCH, &fill, &fill, Some(gradient), &mut dw, &mut workspace);
            });
        });
    }
}

fn rest(criterion: &mut Criterion) {
    let isa = Isa::detect();
    let shape = EpilogueShape {
        height: 16,
        width: 16,
        channels: 192,
        border: 0,
        activation: Activation::Relu,
        pool: true,
    };
    let epilogue = Epilogue::new(isa, shape);
    let (scale, shift) = (vec![1.0; 192], vec![0.1; 192]);
    let y = vec![0.5; shape.input_len()];
    let mut output = vec![0.0; shape.output_len()];
    let mut group = criterion.benchmark_group("one image of 16x16x192");
    group.throughput(Throughput::Bytes(4 * shape.input_len() as u64));
    group.bench_function("scale, shift, ReLU and pool", |bencher| {
        let affine = Affine { scale: &scale, shift: &shift };
        bencher.iter(|| epilogue.apply(affine, black_box(&y), &mut output));
    });
    group.finish();

    let len = 1 << 20;
    let mut group = criterion.benchmark_group("adam");
    group.throughput(Throughput::Elements(len as u64));
    let (mut p, mut m, mut v) = (vec![0.1; len], vec![0.0; len], vec![0.0; len]);
    let gradients = vec![0.01; len];
    let step = AdamStep { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 5e-4, step: 1 };
    group.bench_function("a million parameters", |bencher| {
        bencher.iter(|| adam(isa, step, black_box(&mut p), &gradients, &mut m, &mut v));
    });
}

criterion_group!(benches, convolutions, rest);
criterion_main!(benches);
