//! Descriptions and inputs that several tests share.

use pointwise_engine::{EngineKind, Settings, State, create};
use pointwise_models::{Layer, Network, Section};
use pointwise_random::{Purpose, Stream};

pub(crate) fn network(name: &str, input: [usize; 3], layers: Vec<Layer>) -> Network {
    let section = Section { name: "features".to_owned(), flatten_input: false, layers };
    Network { name: name.to_owned(), input, sections: vec![section] }
}

pub(crate) fn conv(in_channels: usize, out_channels: usize, kernel: usize, padding: usize) -> Layer {
    Layer::Conv2d { in_channels, out_channels, kernel, padding }
}

pub(crate) fn norm(channels: usize) -> Layer {
    Layer::BatchNorm2d { channels }
}

pub(crate) fn linear(in_features: usize, out_features: usize) -> Layer {
    Layer::Linear { in_features, out_features }
}

/// Small enough for finite differences: every kind of layer once.
pub(crate) fn tiny(dropout: f64) -> Network {
    let mut network = network(
        "tiny",
        [2, 6, 6],
        vec![conv(2, 4, 3, 1), norm(4), Layer::Relu, Layer::MaxPool2d, conv(4, 3, 1, 1), norm(3)],
    );
    network.sections.push(Section {
        name: "classifier".to_owned(),
        flatten_input: true,
        layers: vec![Layer::Dropout { p: dropout }, linear(3 * 25, 5), Layer::Relu, linear(5, 4)],
    });
    network
}

/// Descriptions that no published network has: ragged channels, other orders of layers, blocks without a convolution, without a norm.
pub(crate) fn odd_networks() -> Vec<Network> {
    use Layer::{Dropout, Flatten, GlobalAvgPool, MaxPool2d, Relu};
    vec![
        tiny(0.25),
        network(
            "ragged channels",
            [17, 10, 9],
            vec![
                conv(17, 20, 3, 1),
                norm(20),
                Relu,
                conv(20, 33, 3, 1),
                norm(33),
                Flatten,
                linear(33 * 90, 3),
            ],
        ),
        network(
            "without norms",
            [3, 8, 8],
            vec![
                conv(3, 18, 5, 2),
                Relu,
                MaxPool2d,
                conv(18, 17, 3, 1),
                Relu,
                conv(17, 5, 1, 1),
                GlobalAvgPool,
                Flatten,
            ],
        ),
        network(
            "norm first, odd pool, padded pointwise pairs",
            [16, 7, 7],
            vec![
                norm(16),
                conv(16, 24, 1, 1),
                norm(24),
                conv(24, 16, 1, 1),
                norm(16),
                Relu,
                MaxPool2d,
                MaxPool2d,
                Flatten,
                linear(64, 5),
            ],
        ),
        network(
            "pool before ReLU, dropout of maps, im2col inside",
            [3, 12, 12],
            vec![
                conv(3, 16, 3, 1),
                MaxPool2d,
                Relu,
                norm(16),
                Dropout { p: 0.2 },
                conv(16, 20, 2, 0),
                Relu,
                Dropout { p: 0.1 },
                GlobalAvgPool,
                conv(20, 6, 1, 0),
                Flatten,
                Relu,
                linear(6, 6),
            ],
        ),
        network("one linear layer", [1, 1, 40], vec![Flatten, linear(40, 7)]),
    ]
}

pub(crate) fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut stream = Stream::new(seed, Purpose::Synthetic, 0);
    (0..len).map(|_| stream.word() as f32 / (1u64 << 31) as f32 - 1.0).collect()
}

pub(crate) fn images(network: &Network, n: usize) -> Vec<f32> {
    uniform(77 + n as u64, n * network.input.iter().product::<usize>())
}

pub(crate) fn labels(network: &Network, n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 5 % network.classes().unwrap()) as u8).collect()
}

/// Initial values, moved: with biases of zero, BatchNorm gives the border of a padded pointwise convolution and the map inside the
/// same mean, and which of two equal values a pool takes would be left to rounding.
pub(crate) fn moved_state(network: &Network) -> State {
    let mut state = create(EngineKind::Reference, network, &Settings::default()).unwrap().state().unwrap();
    for (seed, array) in (1..).zip(state.parameters.values_mut()) {
        let moves = uniform(seed, array.values.len());
        for (value, u) in array.values.iter_mut().zip(moves) {
            *value += 0.1 * u;
        }
    }
    state
}

/// The largest distance over the largest value, at least `floor`: a gradient of rounding noise counts as zero.
pub(crate) fn distance(a: &[f32], b: &[f32], floor: f32) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(floor, |largest, x| largest.max(x.abs()));
    a.iter().zip(b).fold(0.0, |worst: f32, (a, b)| {
        let distance = (a - b).abs() / largest;
        if distance.is_nan() { f32::INFINITY } else { worst.max(distance) }
    })
}
