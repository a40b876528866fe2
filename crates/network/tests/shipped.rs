//! The networks that come with the program, compared with published figures and with PyTorch's modules.

use pointwise_network::{Fan, Graph, Initial, Kaiming, Layer, Network, Nonlinearity, Relu, Rule, Whitening};
use std::fmt::Write as _;
use std::path::Path;

/// The expected figures of a network.
struct Expected {
    name: &'static str,
    /// The published number of parameters.
    parameters: usize,
    /// Multiply-accumulates, as hooks on the convolutions and linear layers of PyTorch's module counted them.
    macs: usize,
    /// The same from the tables of the paper: convolutions and linear layers, summed over the stages.
    worked_out: usize,
    /// Number of entries of the `state_dict` without `num_batches_tracked`, and [`digest`] of their names and shapes, from PyTorch.
    state: (usize, u64),
    /// Names of parameters and statistics with their shapes: the first and the last, shortcuts, BatchNorm's statistics.
    names: &'static [(&'static str, &'static [usize])],
    /// Modules with the shapes of their outputs: the boundaries of stages.
    outputs: &'static [(&'static str, &'static [usize])],
}

/// Products of a convolution with a square kernel and a square output map; `in_channels` are those that one output reads.
const fn conv(in_channels: usize, out_channels: usize, kernel: usize, side: usize) -> usize {
    in_channels * out_channels * kernel * kernel * side * side
}

/// Products of a stage of residual blocks of two 3x3 convolutions, the first of which may take fewer channels.
const fn residual(in_channels: usize, channels: usize, blocks: usize, side: usize) -> usize {
    conv(in_channels, channels, 3, side) + (2 * blocks - 1) * conv(channels, channels, 3, side)
}

/// Products of the two layers of a squeeze and excitation, reduction 16, in two blocks.
const fn excitation(channels: usize) -> usize {
    2 * 2 * channels * (channels / 16)
}

/// The three projections of a CIFAR ResNet-18.
const PROJECTIONS: usize = conv(64, 128, 1, 16) + conv(128, 256, 1, 8) + conv(256, 512, 1, 4);

const RESNET18: usize = conv(3, 64, 3, 32)
    + residual(64, 64, 2, 32)
    + residual(64, 128, 2, 16)
    + residual(128, 256, 2, 8)
    + residual(256, 512, 2, 4)
    + PROJECTIONS
    + 512 * 10;

/// Blocks of MobileNetV2: expansion, channels in and out, side in and out, and whether there is a convolution in the shortcut.
const fn inverted(expansion: usize, channels: [usize; 2], sides: [usize; 2], shortcut: bool) -> usize {
    let inner = expansion * channels[0];
    let products = conv(channels[0], inner, 1, sides[0])
        + conv(1, inner, 3, sides[1])
        + conv(inner, channels[1], 1, sides[1]);
    if shortcut { products + conv(channels[0], channels[1], 1, sides[1]) } else { products }
}

/// A dense block of 16 bottlenecks and, where one follows, the transition that halves its channels.
const fn dense(channels: usize, side: usize, transition: bool) -> usize {
    let mut products = 16 * conv(48, 12, 3, side);
    let mut layer = 0;
    while layer < 16 {
        products += conv(channels + 12 * layer, 48, 1, side);
        layer += 1;
    }
    let last = channels + 12 * 16;
    if transition { products + conv(last, last / 2, 1, side) } else { products }
}

/// An inception module: channels in, then those of the paper's table, `#1x1`, `#3x3 reduce`, `#3x3`, `#5x5 reduce`, `#5x5`, `pool proj`.
const fn inception(channels: usize, table: [usize; 6], side: usize) -> usize {
    let [c1, r3, c3, r5, c5, pool] = table;
    conv(channels, c1 + r3 + r5 + pool, 1, side)
        + conv(r3, c3, 3, side)
        + conv(r5, c5, 3, side)
        + conv(c5, c5, 3, side)
}

const NETWORKS: [Expected; 10] = [
    Expected {
        name: "lenet",
        parameters: 62_006,
        macs: 651_720,
        worked_out: conv(3, 6, 5, 28) + conv(6, 16, 5, 10) + 400 * 120 + 120 * 84 + 84 * 10,
        state: (10, 0x1930_1fcf_458d_0014),
        names: &[
            ("conv1.bias", &[6]),
            ("conv2.weight", &[16, 6, 5, 5]),
            ("fc1.weight", &[120, 400]),
            ("fc3.weight", &[10, 84]),
        ],
        outputs: &[
            ("conv1", &[6, 28, 28]),
            ("2", &[6, 14, 14]),
            ("conv2", &[16, 10, 10]),
            ("5", &[16, 5, 5]),
            ("fc2", &[84]),
        ],
    },
    Expected {
        name: "vgg16",
        parameters: 14_728_266,
        macs: 313_201_664,
        worked_out: conv(3, 64, 3, 32)
            + conv(64, 64, 3, 32)
            + conv(64, 128, 3, 16)
            + conv(128, 128, 3, 16)
            + conv(128, 256, 3, 8)
            + 2 * conv(256, 256, 3, 8)
            + conv(256, 512, 3, 4)
            + 2 * conv(512, 512, 3, 4)
            + 3 * conv(512, 512, 3, 2)
            + 512 * 10,
        state: (80, 0x4640_caf1_f61e_9336),
        names: &[
            ("classifier.bias", &[10]),
            ("features.0.weight", &[64, 3, 3, 3]),
            ("features.1.running_mean", &[64]),
            ("features.7.weight", &[128, 64, 3, 3]),
            ("features.40.bias", &[512]),
            ("features.41.running_var", &[512]),
            ("features.8.weight", &[128]),
        ],
        outputs: &[
            ("features.6", &[64, 16, 16]),
            ("features.13", &[128, 8, 8]),
            ("features.23", &[256, 4, 4]),
            ("features.33", &[512, 2, 2]),
            ("features.44", &[512, 1, 1]),
        ],
    },
    Expected {
        name: "resnet20",
        parameters: 269_722,
        macs: 40_551_040,
        worked_out: conv(3, 16, 3, 32)
            + residual(16, 16, 3, 32)
            + residual(16, 32, 3, 16)
            + residual(32, 64, 3, 8)
            + 64 * 10,
        state: (97, 0x4123_f9d6_77cc_f642),
        names: &[
            ("bn1.bias", &[16]),
            ("conv1.weight", &[16, 3, 3, 3]),
            ("layer1.0.bn1.running_mean", &[16]),
            ("layer2.0.conv1.weight", &[32, 16, 3, 3]),
            ("layer3.2.conv2.weight", &[64, 64, 3, 3]),
            ("linear.weight", &[10, 64]),
        ],
        outputs: &[
            ("bn1", &[16, 32, 32]),
            ("layer1", &[16, 32, 32]),
            ("layer2.0.shortcut", &[32, 16, 16]),
            ("layer2", &[32, 16, 16]),
            ("layer3", &[64, 8, 8]),
        ],
    },
    Expected {
        name: "resnet18",
        parameters: 11_173_962,
        macs: 555_422_720,
        worked_out: RESNET18,
        state: (102, 0x96b1_7513_2d3f_aaee),
        names: &[
            ("bn1.bias", &[64]),
            ("layer2.0.shortcut.0.weight", &[128, 64, 1, 1]),
            ("layer2.0.shortcut.1.running_var", &[128]),
            ("layer4.1.bn2.weight", &[512]),
            ("linear.weight", &[10, 512]),
        ],
        outputs: &[
            ("layer1", &[64, 32, 32]),
            ("layer2.0.shortcut", &[128, 16, 16]),
            ("layer2", &[128, 16, 16]),
            ("layer3", &[256, 8, 8]),
            ("layer4", &[512, 4, 4]),
        ],
    },
    Expected {
        name: "mobilenetv2",
        parameters: 2_296_922,
        macs: 91_154_944,
        worked_out: conv(3, 32, 3, 32)
            + inverted(1, [32, 16], [32, 32], true)
            + inverted(6, [16, 24], [32, 32], true)
            + inverted(6, [24, 24], [32, 32], false)
            + inverted(6, [24, 32], [32, 16], false)
            + 2 * inverted(6, [32, 32], [16, 16], false)
            + inverted(6, [32, 64], [16, 8], false)
            + 3 * inverted(6, [64, 64], [8, 8], false)
            + inverted(6, [64, 96], [8, 8], true)
            + 2 * inverted(6, [96, 96], [8, 8], false)
            + inverted(6, [96, 160], [8, 4], false)
            + 2 * inverted(6, [160, 160], [4, 4], false)
            + inverted(6, [160, 320], [4, 4], true)
            + conv(320, 1280, 1, 4)
            + 1280 * 10,
        state: (287, 0x9335_5d9e_ab78_c2dd),
        names: &[
            ("bn1.bias", &[32]),
            ("layers.0.conv2.weight", &[32, 1, 3, 3]),
            ("layers.0.shortcut.0.weight", &[16, 32, 1, 1]),
            ("layers.10.shortcut.1.running_mean", &[96]),
            ("layers.16.conv3.weight", &[320, 960, 1, 1]),
            ("layers.16.shortcut.1.weight", &[320]),
            ("linear.weight", &[10, 1280]),
        ],
        outputs: &[
            ("layers.0", &[16, 32, 32]),
            ("layers.2", &[24, 32, 32]),
            ("layers.5", &[32, 16, 16]),
            ("layers.9", &[64, 8, 8]),
            ("layers.12", &[96, 8, 8]),
            ("layers.15", &[160, 4, 4]),
            ("layers", &[320, 4, 4]),
        ],
    },
    Expected {
        name: "densenet_bc_100_12",
        parameters: 769_162,
        macs: 287_929_692,
        worked_out: conv(3, 24, 3, 32)
            + dense(24, 32, true)
            + dense(108, 16, true)
            + dense(150, 8, false)
            + 342 * 10,
        state: (497, 0xe718_b718_59ab_009c),
        names: &[
            ("bn1.bias", &[342]),
            ("conv1.weight", &[24, 3, 3, 3]),
            ("dense1.15.bn1.running_mean", &[204]),
            ("dense3.15.conv1.weight", &[48, 330, 1, 1]),
            ("fc.weight", &[10, 342]),
            ("trans1.conv1.weight", &[108, 216, 1, 1]),
            ("trans2.conv1.weight", &[150, 300, 1, 1]),
        ],
        outputs: &[
            ("dense1", &[216, 32, 32]),
            ("trans1", &[108, 16, 16]),
            ("dense2", &[300, 16, 16]),
            ("trans2", &[150, 8, 8]),
            ("dense3", &[342, 8, 8]),
        ],
    },
    Expected {
        name: "senet18",
        parameters: 11_260_354,
        macs: 555_509_760,
        worked_out: RESNET18 + excitation(64) + excitation(128) + excitation(256) + excitation(512),
        state: (122, 0x38ab_1094_643b_833b),
        names: &[
            ("bn1.bias", &[64]),
            ("layer1.0.fc1.weight", &[4, 64, 1, 1]),
            ("layer2.0.bn1.running_mean", &[64]),
            ("layer2.0.shortcut.0.weight", &[128, 64, 1, 1]),
            ("layer4.1.fc2.bias", &[512]),
            ("linear.weight", &[10, 512]),
        ],
        outputs: &[
            ("layer1", &[64, 32, 32]),
            ("layer2.0.shortcut", &[128, 16, 16]),
            ("layer2", &[128, 16, 16]),
            ("layer3", &[256, 8, 8]),
            ("layer4", &[512, 4, 4]),
        ],
    },
    Expected {
        name: "airbench94",
        // The state_dict of its code without the weights of BatchNorm, which are not trained.
        parameters: 1_971_640,
        macs: 118_147_360,
        worked_out: conv(3, 24, 2, 31)
            + conv(24, 64, 3, 31)
            + conv(64, 64, 3, 15)
            + conv(64, 256, 3, 15)
            + conv(256, 256, 3, 7)
            + conv(256, 256, 3, 7)
            + conv(256, 256, 3, 3)
            + 256 * 10,
        state: (27, 0x9e22_e059_7491_83fd),
        names: &[
            ("0.bias", &[24]),
            ("0.weight", &[24, 3, 2, 2]),
            ("2.norm1.running_var", &[64]),
            ("3.conv1.weight", &[256, 64, 3, 3]),
            ("7.weight", &[10, 256]),
        ],
        outputs: &[
            ("0", &[24, 31, 31]),
            ("2.pool", &[64, 15, 15]),
            ("2", &[64, 15, 15]),
            ("3", &[256, 7, 7]),
            ("4", &[256, 3, 3]),
        ],
    },
    Expected {
        name: "googlenet",
        parameters: 6_166_250,
        macs: 1_521_756_160,
        worked_out: conv(3, 192, 3, 32)
            + inception(192, [64, 96, 128, 16, 32, 32], 32)
            + inception(256, [128, 128, 192, 32, 96, 64], 32)
            + inception(480, [192, 96, 208, 16, 48, 64], 16)
            + inception(512, [160, 112, 224, 24, 64, 64], 16)
            + inception(512, [128, 128, 256, 24, 64, 64], 16)
            + inception(512, [112, 144, 288, 32, 64, 64], 16)
            + inception(528, [256, 160, 320, 32, 128, 128], 16)
            + inception(832, [256, 160, 320, 32, 128, 128], 8)
            + inception(832, [384, 192, 384, 48, 128, 128], 8)
            + 1024 * 10,
        state: (386, 0x73b5_533e_5552_cda6),
        names: &[
            ("a3.b1.0.bias", &[64]),
            ("a3.b3.7.running_var", &[32]),
            ("b5.b4.1.weight", &[128, 832, 1, 1]),
            ("pre_layers.1.weight", &[192]),
        ],
        outputs: &[
            ("pre_layers", &[192, 32, 32]),
            ("a3", &[256, 32, 32]),
            ("b3", &[480, 32, 32]),
            ("a4", &[512, 16, 16]),
            ("e4", &[832, 16, 16]),
            ("a5", &[832, 8, 8]),
            ("b5", &[1024, 8, 8]),
            ("avgpool", &[1024, 1, 1]),
        ],
    },
    Expected {
        name: "keras_cnn",
        // As printed by `model.summary()` in the tutorial.
        parameters: 896 + 18_496 + 36_928 + 65_600 + 650,
        macs: 4_548_608,
        worked_out: conv(3, 32, 3, 30) + conv(32, 64, 3, 13) + conv(64, 64, 3, 4) + 1024 * 64 + 64 * 10,
        state: (10, 0xdf8c_60c5_6e33_b8e5),
        names: &[("conv2d.bias", &[32]), ("conv2d_1.weight", &[64, 32, 3, 3]), ("dense_1.weight", &[10, 64])],
        outputs: &[
            ("conv2d", &[32, 30, 30]),
            ("2", &[32, 15, 15]),
            ("conv2d_1", &[64, 13, 13]),
            ("5", &[64, 6, 6]),
            ("conv2d_2", &[64, 4, 4]),
            ("dense", &[64]),
        ],
    },
];

/// The parameters and statistics with their shapes, sorted by name.
fn state(graph: &Graph) -> Vec<(String, Vec<usize>)> {
    let parameters = graph.parameters().iter().map(|own| (own.name.clone(), own.shape.clone()));
    let statistics = graph.statistics().into_iter().map(|own| (own.name, vec![own.channels]));
    let mut state: Vec<_> = parameters.chain(statistics).collect();
    state.sort();
    state
}

/// FNV-1a of a line `name [shape]` for each entry. In Python, of
/// `"".join(f"{name} {list(value.shape)}\n" for name, value in sorted(state_dict.items()) if "num_batches" not in name)`.
fn digest(state: &[(String, Vec<usize>)]) -> u64 {
    let mut lines = String::new();
    for (name, shape) in state {
        let _ = writeln!(lines, "{name} {shape:?}");
    }
    lines
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn by_name(name: &str) -> (Network, Graph) {
    let network = Network::by_name(name).expect(name);
    let graph = network.graph().expect(name);
    (network, graph)
}

#[test]
fn networks_are_the_published_ones() {
    for expected in &NETWORKS {
        let name = expected.name;
        let (network, graph) = by_name(name);
        assert_eq!(graph.parameter_count(), expected.parameters, "{name}");
        assert_eq!((graph.macs(), expected.worked_out), (expected.macs, expected.macs), "{name}");
        assert_eq!((network.input, graph.classes()), ([3, 32, 32], 10), "{name}");

        let state = state(&graph);
        for (parameter, shape) in expected.names {
            let found = state.iter().find(|(own, _)| own == parameter);
            assert_eq!(found.map(|(_, shape)| shape.as_slice()), Some(*shape), "{name}: {parameter}");
        }
        let ends = [&state[0], &state[state.len() - 1]].map(|(own, _)| own.as_str());
        assert_eq!(ends, [expected.names[0].0, expected.names[expected.names.len() - 1].0], "{name}");
        assert_eq!((state.len(), digest(&state)), expected.state, "{name}: {:#x}", digest(&state));

        for (module, shape) in expected.outputs {
            let within = format!("{module}.");
            let last =
                graph.nodes.iter().rfind(|node| node.path == *module || node.path.starts_with(&within));
            assert_eq!(last.map(|node| node.output.as_slice()), Some(*shape), "{name}: {module}");
        }
        let table = graph.table();
        assert_eq!(table.iter().map(|row| row.macs).sum::<usize>(), expected.macs, "{name}");
        assert_eq!(table.iter().map(|row| row.parameters).sum::<usize>(), expected.parameters, "{name}");
        assert_eq!(table.len() + 1, graph.nodes.len(), "{name}");
    }
}

#[test]
fn every_file_is_what_its_name_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/networks");
    let mut files: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    files.sort();
    let mut shipped: Vec<&str> = Network::shipped().collect();
    for name in &shipped {
        let text = Network::shipped_toml(name).unwrap();
        let network = Network::from_toml(text).unwrap();
        assert_eq!(network.name, *name);
        assert_eq!(network, Network::by_name(name).unwrap());
        assert_eq!(Network::from_toml(&network.to_toml()), Ok(network.clone()), "{name}");
        let file = std::fs::read_to_string(folder.join(format!("{name}.toml"))).unwrap();
        assert_eq!(file, text, "{name}");
        // The description states the right number.
        let count = network.graph().unwrap().parameter_count().to_string();
        let about: String = network.about.chars().filter(|c| *c != ',').collect();
        assert!(about.contains(&format!(": {count} parameters.")), "{name}: {about}");
    }
    shipped.sort_unstable();
    assert_eq!(shipped, files);
    let error = Network::by_name("resnet\n21").unwrap_err().to_string();
    assert!(
        error.starts_with(
            r"there is no model `resnet\n21`; the models are alexnet_plain, alexnet, nin, lenet, "
        ),
        "{error}"
    );
}

/// PyTorch's defaults, except for the three implementations that draw their own.
#[test]
fn initial_values_are_those_of_the_implementations() {
    let initial = |graph: &Graph, name: &str| {
        graph.parameters().iter().find(|own| own.name == name).map(|own| own.initial).unwrap()
    };
    let std = |fan: f64| Initial::Normal { std: (2.0 / fan).sqrt() as f32 };
    let (network, graph) = by_name("resnet20");
    let he = Rule::KaimingNormal(Kaiming::default());
    assert!(network.initial.iter().all(|rule| rule.rule == he));
    assert_eq!(initial(&graph, "layer2.0.conv1.weight"), std(9.0 * 16.0));
    assert_eq!(initial(&graph, "linear.weight"), std(64.0));
    assert_eq!(initial(&graph, "linear.bias"), Initial::fan_in_uniform(64));

    let (network, graph) = by_name("densenet_bc_100_12");
    let kaiming = Kaiming { a: 0.0, mode: Fan::FanOut, nonlinearity: Nonlinearity::Relu };
    assert_eq!(network.initial[0].rule, Rule::KaimingNormal(kaiming));
    assert_eq!(initial(&graph, "dense2.3.conv2.weight"), std(9.0 * 12.0));
    assert_eq!(initial(&graph, "trans1.conv1.weight"), std(108.0));
    assert_eq!(initial(&graph, "bn1.weight"), Initial::Constant(1.0));
    assert_eq!(initial(&graph, "fc.weight"), Initial::fan_in_uniform(342));
    assert_eq!(initial(&graph, "fc.bias"), Initial::Constant(0.0));

    // Keras' defaults: `glorot_uniform` and `zeros`.
    let (_, graph) = by_name("keras_cnn");
    let uniform = |fans: f64| Initial::Uniform { bound: (6.0 / fans).sqrt() as f32 };
    assert_eq!(initial(&graph, "conv2d_1.weight"), uniform(9.0 * (32.0 + 64.0)));
    assert_eq!(initial(&graph, "dense.weight"), uniform(1024.0 + 64.0));
    assert_eq!(initial(&graph, "dense_1.bias"), Initial::Constant(0.0));

    let (_, graph) = by_name("airbench94");
    let bound = |values: f32| 1.0 / values.sqrt();
    let of = Whitening { eps: 5e-4, images: 5000 };
    assert_eq!(initial(&graph, "0.weight"), Initial::Whitening { of, bound: bound(12.0) });
    assert_eq!(initial(&graph, "0.bias"), Initial::Constant(0.0));
    assert_eq!(initial(&graph, "3.conv1.weight"), Initial::PartialDirac { bound: bound(576.0) });
    assert_eq!(initial(&graph, "7.weight"), Initial::fan_in_uniform(256));

    let own = ["resnet20", "densenet_bc_100_12", "airbench94", "keras_cnn"];
    for name in Network::shipped().filter(|name| !own.contains(name)) {
        assert!(by_name(name).0.initial.is_empty(), "{name}");
    }
}

/// A network of the ablation: `nin`, with blocks of one 3x3 convolution and two pointwise ones, between it and `alexnet`.
///
/// All have the output channels of the convolutions of `alexnet`: 64, 192, 384 and finally 256. Where `alexnet` has a 3x3 convolution alone,
/// they have one of at most 256 channels and leave the depth to pointwise layers:
///
/// | block | `alexnet` | `nin-...`; `r` is the reduction |
/// |---|---|---|
/// | 1 | 3->64 3x3 | 3->64 3x3 |
/// | 2 | 64->192 3x3 | 64->128 3x3, 128->128/r 1x1, 128/r->192 1x1 |
/// | 3 | 192->384 3x3 | 192->256 3x3, 256->256/r 1x1, 256/r->384 1x1 |
/// | 4 | 384->256 3x3, 256->256 3x3 | 384->256/r 1x1, 256/r->256 3x3, 256->256 1x1 |
struct Variation {
    name: &'static str,
    /// Whether pointwise layers pad by one, as published.
    padding: bool,
    /// Whether every convolution is followed by a ReLU; as published, only the last one of a block is.
    relu: bool,
    /// The divisor of the channels of the first pointwise layer of a block; 1 as published.
    reduction: usize,
}

const VARIATIONS: [Variation; 12] = [
    Variation { name: "nin", padding: true, relu: false, reduction: 1 },
    Variation { name: "nin-r2", padding: true, relu: false, reduction: 2 },
    Variation { name: "nin-r4", padding: true, relu: false, reduction: 4 },
    Variation { name: "nin-relu", padding: true, relu: true, reduction: 1 },
    Variation { name: "nin-relu-r2", padding: true, relu: true, reduction: 2 },
    Variation { name: "nin-relu-r4", padding: true, relu: true, reduction: 4 },
    Variation { name: "nin-nopad", padding: false, relu: false, reduction: 1 },
    Variation { name: "nin-nopad-r2", padding: false, relu: false, reduction: 2 },
    Variation { name: "nin-nopad-r4", padding: false, relu: false, reduction: 4 },
    Variation { name: "nin-nopad-relu", padding: false, relu: true, reduction: 1 },
    Variation { name: "nin-nopad-relu-r2", padding: false, relu: true, reduction: 2 },
    Variation { name: "nin-nopad-relu-r4", padding: false, relu: true, reduction: 4 },
];

/// By the formulas of a convolution with bias and BatchNorm, over maps worked out by hand, and as the resulting numbers.
#[test]
fn parameters_and_macs_of_every_variation_of_nin() {
    // r, parameters with and without padding; MACs with padding, without.
    let expected = [
        (1, 1_485_386, 172_456_448, 81_995_776),
        (2, 1_037_962, 122_665_472, 66_004_992),
        (4, 814_250, 97_769_984, 58_009_600),
    ];
    for variation in VARIATIONS {
        let (_, graph) = by_name(variation.name);
        let &(r, parameters, padded, plain) =
            expected.iter().find(|row| row.0 == variation.reduction).unwrap();
        let macs = if variation.padding { padded } else { plain };
        // Sides of the output maps of the 3x3 convolutions, then of the two pointwise ones.
        let sides = match variation.padding {
            true => [[16, 18, 20], [10, 12, 14], [9, 9, 11], [5, 5, 5]],
            false => [[16, 16, 16], [8, 8, 8], [4, 4, 4], [2, 2, 2]],
        };
        // In channels, out channels, kernel, side of the output.
        let convolutions = [
            (3, 64, 3, 32),
            (64, 128, 3, sides[0][0]),
            (128, 128 / r, 1, sides[0][1]),
            (128 / r, 192, 1, sides[0][2]),
            (192, 256, 3, sides[1][0]),
            (256, 256 / r, 1, sides[1][1]),
            (256 / r, 384, 1, sides[1][2]),
            (384, 256 / r, 1, sides[2][0]),
            (256 / r, 256, 3, sides[2][1]),
            (256, 256, 1, sides[2][2]),
        ];
        let (mut count, mut products) = (10 * 257, 10 * 256 * sides[3][0] * sides[3][0]);
        for (c_in, c_out, k, side) in convolutions {
            // Weights and bias; BatchNorm's weight and bias.
            count += c_out * (c_in * k * k + 1) + 2 * c_out;
            products += side * side * c_out * c_in * k * k;
        }
        let found = (graph.parameter_count(), graph.macs());
        assert_eq!(found, (count, products), "{}", variation.name);
        assert_eq!(found, (parameters, macs), "{}", variation.name);
    }
}

/// Layer by layer: padding, ReLUs, pools and channels are where the name says.
#[test]
fn names_of_variations_say_what_they_are() {
    let published: Vec<Layer> = by_name("nin").1.layers().map(|(_, layer, _)| layer.clone()).collect();
    for variation in VARIATIONS {
        let Variation { name, padding, relu, reduction } = variation;
        let spelt = format!(
            "nin{}{}{}",
            if padding { "" } else { "-nopad" },
            if relu { "-relu" } else { "" },
            if reduction == 1 { String::new() } else { format!("-r{reduction}") }
        );
        assert_eq!(spelt, name);
        // The published network, changed as the name says.
        let mut expected = Vec::new();
        let (mut pointwise, mut norms) = (0, 0);
        for (at, layer) in published.iter().enumerate() {
            expected.push(match layer.clone() {
                Layer::Conv2d(mut convolution) if convolution.kernel_size == 1.into() && norms < 10 => {
                    pointwise += 1;
                    // The first of the two in blocks 2, 3 and 4.
                    convolution.out_channels /= if pointwise % 2 == 1 { reduction } else { 1 };
                    convolution.padding(usize::from(padding)).into()
                }
                layer => layer,
            });
            let is_norm = matches!(layer, Layer::BatchNorm2d(_));
            norms += usize::from(is_norm);
            if relu && is_norm && !matches!(published.get(at + 1), Some(Layer::Relu(_))) {
                expected.push(Relu {}.into());
            }
        }
        let found: Vec<Layer> = by_name(name).1.layers().map(|(_, layer, _)| layer.clone()).collect();
        assert_eq!(found, expected, "{name}");
    }
}
