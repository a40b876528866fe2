//! Descriptions and inputs that several tests share.

#![allow(dead_code, reason = "each program takes what it needs")]

use pointwise_engine::{DeviceChoice, DeviceName, EngineKind, Settings, State, create};
use pointwise_network::{
    AdaptiveAvgPool2d, AvgPool2d, BatchNorm2d, Branch, Conv2d, Dropout, Entry, Flatten, Layer, Linear,
    MaxPool2d, Network, PadChannels, Part, Relu, Scale, Sigmoid, Silu, Subsample, Tanh,
};
use pointwise_random::{Purpose, Stream, below};
use pointwise_recipe::Recipe;
use pointwise_study::Study;

/// The engines of every build; or `cuda`, in a build with that feature where a GPU can be opened, such as an emulator's.
pub(crate) fn engines() -> Vec<EngineKind> {
    if cfg!(feature = "cuda") && has_gpu() {
        return vec![EngineKind::Cuda];
    }
    vec![EngineKind::Reference, EngineKind::Cpu]
}

/// Whether a GPU can be opened, such as the emulator's; if not, it says so on stderr.
pub(crate) fn has_gpu() -> bool {
    let found = DeviceChoice::Only(DeviceName::Cuda(0)).resolve();
    if let Err(error) = &found {
        // If libraries are named, they must be tested.
        assert!(std::env::var_os("POINTWISE_CUDA_LIBRARIES").is_none(), "{error}");
        eprintln!("not on a GPU: {error}");
    }
    found.is_ok()
}

/// The published study.
pub(crate) fn study() -> Study {
    Study::by_name("pointwise").unwrap()
}

/// The recipe of the published study.
pub(crate) fn study_recipe() -> Recipe {
    study().recipe
}

/// Settings by the published study's recipe, on the CPU.
pub(crate) fn study_settings() -> Settings {
    Settings::new(study_recipe())
}

/// These settings on an engine's device.
pub(crate) fn device_settings(kind: EngineKind) -> Settings {
    let device = if kind == EngineKind::Cuda { DeviceName::Cuda(0) } else { DeviceName::Cpu };
    // A GPU gives the same bits only on request.
    Settings { device, deterministic: true, ..study_settings() }
}

/// A network of one sequence, `features`, which need not end in a vector.
pub(crate) fn network(name: &str, input: [usize; 3], layers: Vec<Layer>) -> Network {
    let features = Entry::sequential(layers.into_iter().map(Entry::from)).named("features");
    let flatten = Entry::from(Flatten {}).named("flatten");
    Network::new(name, input, [features, flatten])
}

pub(crate) fn conv(out_channels: usize, kernel: usize, padding: usize) -> Layer {
    Conv2d::new(out_channels, kernel).padding(padding).into()
}

pub(crate) fn norm() -> Layer {
    BatchNorm2d::default().into()
}

pub(crate) fn linear(out_features: usize) -> Layer {
    Linear::new(out_features).into()
}

pub(crate) fn relu() -> Layer {
    Relu {}.into()
}

pub(crate) fn pool() -> Layer {
    MaxPool2d::new(2).into()
}

pub(crate) fn dropout(p: f64) -> Layer {
    Dropout { p }.into()
}

pub(crate) fn average() -> Layer {
    AdaptiveAvgPool2d::default().into()
}

pub(crate) fn flatten() -> Layer {
    Flatten {}.into()
}

/// Small enough for finite differences: every kind of layer of the published networks once.
pub(crate) fn tiny(p: f64) -> Network {
    let mut network =
        network("tiny", [2, 6, 6], vec![conv(4, 3, 1), norm(), relu(), pool(), conv(3, 1, 1), norm()]);
    let classifier = [dropout(p), linear(5), relu(), linear(4)];
    network.layers.push(Entry::sequential(classifier.map(Entry::from)).named("classifier"));
    network
}

/// Descriptions that no published network has: ragged channels, other orders of layers, blocks without a convolution, without a norm.
pub(crate) fn odd_networks() -> Vec<Network> {
    vec![
        tiny(0.25),
        network(
            "ragged channels",
            [17, 10, 9],
            vec![conv(20, 3, 1), norm(), relu(), conv(33, 3, 1), norm(), flatten(), linear(3)],
        ),
        network(
            "without norms",
            [3, 8, 8],
            vec![conv(18, 5, 2), relu(), pool(), conv(17, 3, 1), relu(), conv(5, 1, 1), average()],
        ),
        network(
            "norm first, odd pool, padded pointwise pairs",
            [16, 7, 7],
            vec![
                norm(),
                conv(24, 1, 1),
                norm(),
                conv(16, 1, 1),
                norm(),
                relu(),
                pool(),
                pool(),
                flatten(),
                linear(5),
            ],
        ),
        network(
            "pool before ReLU, dropout of maps, im2col inside",
            [3, 12, 12],
            vec![
                conv(16, 3, 1),
                pool(),
                relu(),
                norm(),
                dropout(0.2),
                conv(20, 2, 0),
                relu(),
                dropout(0.1),
                average(),
                conv(6, 1, 0),
                flatten(),
                relu(),
                linear(6),
            ],
        ),
        network("one linear layer", [1, 1, 40], vec![flatten(), linear(7)]),
    ]
}

/// Compositions and kinds of layers beyond those of the published networks, each network of several.
pub(crate) fn graph_networks() -> Vec<Network> {
    let texts = [
        // Residual blocks with and without a projection; a network whose first stage has two readers.
        r#"
        name = "residual"
        input = [3, 9, 7]
        layers = [
            { name = "conv1", Conv2d = { out_channels = 20, kernel_size = 3, padding = 1, bias = false } },
            { name = "bn1", BatchNorm2d = {} }, "ReLU",
            { name = "layer1", Sequential = [{ repeat = 2, Sequential = [
                { Sum = [[
                    { name = "conv1", Conv2d = { out_channels = 20, kernel_size = 3, padding = 1, bias = false } },
                    { name = "bn1", BatchNorm2d = {} }, "ReLU",
                    { name = "conv2", Conv2d = { out_channels = 20, kernel_size = 3, padding = 1, bias = false } },
                    { name = "bn2", BatchNorm2d = {} },
                ], []] }, "ReLU",
            ] }] },
            { name = "layer2", Sequential = [
                { Sum = [[
                    { name = "conv1", Conv2d = { out_channels = 36, kernel_size = 3, padding = 1, stride = 2 } },
                    { name = "bn1", BatchNorm2d = {} },
                ], [
                    { name = "shortcut", Sequential = [
                        { Conv2d = { out_channels = 36, kernel_size = 1, stride = 2, bias = false } }, "BatchNorm2d",
                    ] },
                ]] }, "ReLU",
            ] },
            { name = "optionA", Sum = [[
                { name = "conv", Conv2d = { out_channels = 40, kernel_size = 3, padding = 1, stride = 2 } },
            ], [{ Subsample = { stride = 2 } }, { PadChannels = { before = 1, after = 3 } }]] },
            "AdaptiveAvgPool2d", "Flatten", { name = "fc", Linear = { out_features = 5 } },
        ]"#,
        // Dense blocks, sums of the input itself, a sum twice of the same, pools of other sizes.
        r#"
        name = "dense"
        input = [5, 8, 8]
        layers = [
            { name = "twice", Sum = [[], [], [{ Conv2d = { out_channels = 5, kernel_size = [3, 1], padding = [1, 0] } }]] },
            { name = "dense", Sequential = [{ repeat = 3, Sequential = [{ Concat = [[], [
                { name = "bn1", BatchNorm2d = { eps = 1e-3, momentum = 0.3 } }, "ReLU",
                { name = "conv1", Conv2d = { out_channels = 12, kernel_size = 1, bias = false } },
                { name = "bn2", BatchNorm2d = { weight = false } }, "SiLU",
                { name = "conv2", Conv2d = { out_channels = 7, kernel_size = 3, padding = 1, bias = false } },
            ]] }] }] },
            { AvgPool2d = { kernel_size = 2 } },
            { name = "same", Sum = [[], []] },
            { name = "b", Concat = [
                [{ MaxPool2d = { kernel_size = 3, stride = 1, padding = 1 } }, { name = "a", Conv2d = { out_channels = 4, kernel_size = 1 } }],
                [{ AvgPool2d = { kernel_size = 3, stride = 1, padding = 1, count_include_pad = false } }],
                { name = "c", Conv2d = { out_channels = 6, kernel_size = 5, padding = 2 } },
            ] },
            "GELU", { MaxPool2d = { kernel_size = 2 } }, { Scale = { factor = 0.5 } },
            "Flatten", { Dropout = { p = 0.3 } }, { Linear = { out_features = 6, bias = false } },
        ]"#,
        // Depthwise and grouped convolutions, squeeze and excitation, every other activation, norms without parameters.
        r#"
        name = "squeeze"
        input = [3, 10, 11]
        layers = [
            { Conv2d = { out_channels = 24, kernel_size = 3, stride = 2, padding = 1, bias = false } },
            "BatchNorm2d", "ReLU6",
            { Conv2d = { out_channels = 24, kernel_size = 3, padding = 1, groups = 24, bias = false } },
            { BatchNorm2d = { weight = false, bias = false } }, "SiLU",
            { name = "se", Multiply = [[], [
                "AdaptiveAvgPool2d", { name = "fc1", Conv2d = { out_channels = 6, kernel_size = 1 } }, "Tanh",
                { name = "fc2", Conv2d = { out_channels = 24, kernel_size = 1 } }, "Sigmoid",
            ]] },
            { Conv2d = { out_channels = 30, kernel_size = 3, padding = 1, groups = 3, stride = [2, 1] } },
            { LeakyReLU = { negative_slope = 0.2 } },
            { Conv2d = { out_channels = 60, kernel_size = 2, groups = 30 } }, { GELU = { approximate = "tanh" } },
            { name = "gate", Multiply = [
                { name = "a", Conv2d = { out_channels = 8, kernel_size = 1 } },
                [{ name = "b", Conv2d = { out_channels = 8, kernel_size = 1 } }, "Sigmoid"],
            ] },
            { BatchNorm2d = { bias = false } },
            "Flatten", { Linear = { out_features = 4 } }, "Sigmoid",
            { name = "out", Concat = [[{ name = "x", Linear = { out_features = 3 } }], []] },
        ]"#,
        // Sums of sums in either order, groups of whole vectors, products of three, windows that overlap and that leave gaps.
        r#"
        name = "nested"
        input = [4, 9, 12]
        layers = [
            { name = "stem", Conv2d = { out_channels = 16, kernel_size = [2, 3], stride = [1, 2], padding = [0, 1] } },
            { MaxPool2d = { kernel_size = [3, 2], stride = [2, 1], padding = [1, 0] } },
            { name = "outer", Sum = [
                [{ name = "a", Conv2d = { out_channels = 16, kernel_size = 1, padding = [0, 0] } }],
                { name = "in", Sequential = [
                    { Sum = [[{ name = "b", Conv2d = { out_channels = 16, kernel_size = 1 } }], [{ Scale = { factor = -0.5 } }]] },
                    "ReLU",
                ] },
                { name = "group", Sequential = [
                    { Conv2d = { out_channels = 32, kernel_size = 3, padding = 1, groups = 2 } }, "ReLU6",
                    { Conv2d = { out_channels = 16, kernel_size = 1, groups = 2, bias = false } },
                ] },
            ] },
            { name = "gates", Multiply = [
                ["AdaptiveAvgPool2d", { name = "g", Conv2d = { out_channels = 16, kernel_size = 1 } }, "Sigmoid"],
                [{ name = "m", Conv2d = { out_channels = 16, kernel_size = 3, padding = 1, groups = 16, stride = 1 } }, "Tanh"],
                [],
            ] },
            { Conv2d = { out_channels = 10, kernel_size = 1, stride = 2, padding = [1, 0] } }, "BatchNorm2d", "ReLU",
            { MaxPool2d = { kernel_size = 2 } },
            { AvgPool2d = { kernel_size = [1, 2], stride = [2, 1], padding = [0, 1] } },
            "Flatten", { Linear = { out_features = 5 } },
        ]"#,
    ];
    texts.map(|text| Network::from_toml(text).unwrap()).into()
}

/// A network drawn at random, of smooth layers only: without a kink that rounding could decide, engines agree closely or are wrong.
pub(crate) fn drawn_network(seed: u64) -> Network {
    let mut draw = Draw { words: Stream::new(seed, Purpose::Synthetic, 1), names: 0 };
    let input = [1 + draw.below(20), 4 + draw.below(6), 4 + draw.below(6)];
    let mut entries = Vec::new();
    for _ in 0..3 + draw.below(5) {
        let shape = shape_behind(input, &entries);
        entries.push(draw.entry(&shape, 2));
    }
    entries.push(AdaptiveAvgPool2d::default().into());
    entries.push(Flatten {}.into());
    entries.push(Entry::from(Linear::new(2 + draw.below(9))).named("last"));
    Network::new(&format!("drawn {seed}"), input, entries)
}

/// The shape after a sequence.
fn shape_behind(input: [usize; 3], entries: &[Entry]) -> [usize; 3] {
    let flat = entries.iter().cloned().chain([Flatten {}.into()]);
    let graph = Network::new("part", input, flat).graph().unwrap();
    graph.nodes[graph.nodes.len() - 2].output.clone().try_into().unwrap()
}

struct Draw {
    words: Stream,
    /// Names given so far: every layer has its own, so that none collide.
    names: usize,
}

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        below(self.words.word(), bound as u32) as usize
    }

    fn named(&mut self, layer: impl Into<Layer>) -> Entry {
        self.names += 1;
        Entry::from(layer).named(&format!("n{}", self.names))
    }

    /// A step after a map of this shape, with compositions nested at most `depth` deep.
    fn entry(&mut self, shape: &[usize; 3], depth: usize) -> Entry {
        let [channels, height, width] = *shape;
        let least = height.min(width);
        match self.below(if depth > 0 { 15 } else { 9 }) {
            0 | 1 => {
                let (kernel, padding) = [(1, 0), (3, 1), (5, 2), (3, 2)][self.below(4)];
                let stride = [1 + self.below(2), 1 + self.below(2)];
                let out_channels = 1 + self.below(30);
                let bias = self.below(2) == 0;
                self.named(Conv2d::new(out_channels, kernel).padding(padding).stride(stride).bias(bias))
            }
            2 => {
                // Depthwise, or in two groups if possible.
                let groups = if channels % 2 == 0 && self.below(2) == 0 { 2 } else { channels };
                self.named(Conv2d::new(2 * channels, 3).padding(1).groups(groups))
            }
            3 => self.named(Conv2d::new(channels, 3).padding(1).groups(channels).bias(false)),
            4 => {
                let bias = self.below(2) == 0;
                self.named(BatchNorm2d { bias, ..BatchNorm2d::default() })
            }
            5 => Silu {}.into(),
            6 => Tanh {}.into(),
            7 if least >= 3 => {
                let count_include_pad = self.below(2) == 0;
                let stride = Some((1 + self.below(2)).into());
                AvgPool2d { stride, padding: 1.into(), count_include_pad, ..AvgPool2d::new(3) }.into()
            }
            8 if least >= 2 => Subsample { stride: [1, 2].into() }.into(),
            7 | 8 => Scale { factor: 0.7 }.into(),
            9 => PadChannels { before: self.below(3), after: self.below(20) }.into(),
            10 | 11 => {
                let [first, second] = [self.same(shape, depth - 1), self.same(shape, depth - 1)];
                let empty = Branch::default();
                let branches = match self.below(3) {
                    0 => vec![first, empty],
                    1 => vec![empty.clone(), first, empty],
                    _ => vec![first, second],
                };
                Entry::new(Part::Sum(branches))
            }
            12 | 13 => {
                let mut branch = self.same(shape, depth - 1);
                let out_channels = 1 + self.below(20);
                branch.0.push(self.named(Conv2d::new(out_channels, 1)));
                let branches = if self.below(2) == 0 {
                    vec![branch, Branch::default()]
                } else {
                    vec![Branch::default(), branch]
                };
                Entry::new(Part::Concat(branches))
            }
            _ => {
                let gate = [
                    AdaptiveAvgPool2d::default().into(),
                    self.named(Conv2d::new(channels, 1)),
                    Sigmoid {}.into(),
                ];
                let other = if self.below(2) == 0 { Branch::from(gate) } else { self.same(shape, depth - 1) };
                Entry::new(Part::Multiply(vec![Branch::default(), other]))
            }
        }
    }

    /// A branch that keeps the shape.
    fn same(&mut self, shape: &[usize; 3], depth: usize) -> Branch {
        let mut entries = Vec::new();
        for _ in 0..1 + self.below(3) {
            let entry = self.entry(shape, depth);
            let mut longer = entries.clone();
            longer.push(entry);
            if shape_behind(*shape, &longer) == *shape {
                entries = longer;
            }
        }
        entries.push(self.named(Conv2d::new(shape[0], 3).padding(1)));
        Branch(entries)
    }
}

pub(crate) fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut stream = Stream::new(seed, Purpose::Synthetic, 0);
    (0..len).map(|_| stream.word() as f32 / (1u64 << 31) as f32 - 1.0).collect()
}

pub(crate) fn images(network: &Network, n: usize) -> Vec<f32> {
    uniform(77 + n as u64, n * network.input.iter().product::<usize>())
}

pub(crate) fn labels(network: &Network, n: usize) -> Vec<u16> {
    (0..n).map(|i| (i * 5 % network.graph().unwrap().classes()) as u16).collect()
}

/// Perturbed initial values: with biases of zero, BatchNorm gives the border of a padded pointwise convolution and the map inside the same
/// mean, and rounding would decide which of two equal values a pool takes.
pub(crate) fn moved_state(network: &Network) -> State {
    let mut state = create(EngineKind::Reference, network, &study_settings()).unwrap().state().unwrap();
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
