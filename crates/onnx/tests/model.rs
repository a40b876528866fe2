//! The contents of a model, read by protobuf's field numbers. ONNX Runtime checks its results in CI.
#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_network::Network;
use pointwise_onnx::{OPSETS, OnnxError, Options, Preprocessing, encode};
use pointwise_protobuf::{Field, fields};
use pointwise_weights::State;
use std::collections::{BTreeMap, BTreeSet};

fn bytes(message: &[u8], number: u32) -> Vec<&[u8]> {
    let fields = fields(message).unwrap().into_iter().filter(|(field, _)| *field == number);
    fields
        .map(|(_, value)| if let Field::Bytes(bytes) = value { bytes } else { panic!("{value:?}") })
        .collect()
}

fn text(message: &[u8], number: u32) -> Vec<String> {
    bytes(message, number).into_iter().map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).collect()
}

fn numbers(message: &[u8], number: u32) -> Vec<u64> {
    let fields = fields(message).unwrap().into_iter().filter(|(field, _)| *field == number);
    fields.map(|(_, value)| if let Field::Int(value) = value { value } else { panic!("{value:?}") }).collect()
}

/// `op: inputs -> output`.
fn nodes(graph: &[u8]) -> Vec<String> {
    let node = |node: &&[u8]| {
        format!("{}: {} -> {}", text(node, 4)[0], text(node, 1).join(" "), text(node, 2).join(" "))
    };
    bytes(graph, 1).iter().map(node).collect()
}

/// Names and shapes of what a list of `ValueInfoProto` declares; the open dimension is 0.
fn shapes(graph: &[u8], number: u32) -> BTreeMap<String, Vec<u64>> {
    let shape = |value: &[u8]| {
        let tensor = bytes(bytes(value, 2)[0], 1)[0];
        let dimensions = bytes(bytes(tensor, 2)[0], 1);
        let side = |dimension: &&[u8]| match numbers(dimension, 1)[..] {
            [side] => side,
            _ => {
                assert_eq!(text(dimension, 2), ["batch"]);
                0
            }
        };
        (text(value, 1)[0].clone(), dimensions.iter().map(side).collect())
    };
    bytes(graph, number).into_iter().map(shape).collect()
}

fn made(toml: &str, options: &Options) -> Vec<u8> {
    let network = Network::from_toml(toml).unwrap();
    let state = State::initial(&network.graph().unwrap(), 1);
    encode(&network, &state, options).unwrap_or_else(|error| panic!("{error}"))
}

fn graph(model: &[u8]) -> &[u8] {
    bytes(model, 7)[0]
}

const TINY: &str = r#"
    name = "tiny"
    about = "A test."
    input = [3, 8, 6]
    layers = [
        { name = "conv", Conv2d = { out_channels = 4, kernel_size = 3, padding = 1, bias = false } },
        { name = "bn", BatchNorm2d = { weight = false } },
        { Sum = [["SiLU"], [], ["ReLU6"]] },
        "AdaptiveAvgPool2d",
        "Flatten",
        { name = "logits", Linear = { out_features = 5, bias = false } },
        { Scale = { factor = 0.5 } },
        "Dropout",
    ]
"#;

#[test]
fn names_and_shapes_are_those_of_the_network() {
    let model = made(TINY, &Options::default());
    assert_eq!((numbers(&model, 1), text(&model, 2)), (vec![14], vec!["pointwise".to_owned()]));
    assert_eq!(numbers(bytes(&model, 8)[0], 2), [28]);
    let graph = graph(&model);
    assert_eq!((text(graph, 2), text(graph, 10)), (vec!["tiny".to_owned()], vec!["A test.".to_owned()]));
    assert_eq!(
        nodes(graph),
        [
            "Conv: input conv.weight -> conv",
            "BatchNormalization: conv bn.weight bn.bias bn.running_mean bn.running_var -> bn",
            "Sigmoid: bn -> 0.sigmoid",
            "Mul: bn 0.sigmoid -> 0",
            "Clip: bn 0.min 0.max -> 0_2",
            "Add: 0 bn -> sum.1",
            "Add: sum.1 0_2 -> sum",
            "AveragePool: sum -> 2",
            "Flatten: 2 -> 3",
            // `logits` is the output's, and the weights keep PyTorch's name.
            "Gemm: 3 logits.weight logits.bias -> logits_2",
            "Mul: logits_2 logits.factor -> logits",
        ]
    );
    assert_eq!(shapes(graph, 11), BTreeMap::from([("input".to_owned(), vec![0, 3, 8, 6])]));
    assert_eq!(shapes(graph, 12), BTreeMap::from([("logits".to_owned(), vec![0, 5])]));
    let inner = shapes(graph, 13);
    assert_eq!(
        (&inner["conv"][..], &inner["2"][..], &inner["3"][..]),
        (&[0, 4, 8, 6][..], &[0, 4, 1, 1][..], &[0, 4][..])
    );
    assert_eq!(inner.len(), nodes(graph).len() - 1);
    // Dimensions and bytes of the constants.
    for constant in bytes(graph, 5) {
        let (name, values) = (&text(constant, 8)[0], bytes(constant, 9)[0].len() as u64 / 4);
        assert_eq!(numbers(constant, 1).iter().product::<u64>(), values, "{name}");
    }
}

#[test]
fn a_product_of_single_pixels_is_a_single_pixel() {
    let toml = r#"
        name = "gated"
        input = [3, 8, 6]
        layers = [{ Multiply = [["AdaptiveAvgPool2d"], ["AdaptiveAvgPool2d", "Sigmoid"], [], ["ReLU"]] }, "Flatten"]
    "#;
    let model = made(toml, &Options::default());
    let shapes = shapes(graph(&model), 13);
    let of = ["multiply.1", "multiply.2", "multiply"].map(|name| &shapes[name][..]);
    assert_eq!(of, [&[0, 3, 1, 1][..], &[0, 3, 8, 6], &[0, 3, 8, 6]]);
}

#[test]
fn options_add_what_they_say() {
    let metadata = BTreeMap::from([("classes".to_owned(), "[\"a\"]".to_owned())]);
    let preprocessing = Some(Preprocessing { mean: vec![0.5; 3], std: vec![0.25; 3] });
    let options = Options { opset: 22, fold: true, preprocessing, softmax: true, metadata };
    let model = made(TINY, &options);
    assert_eq!((numbers(&model, 1), numbers(bytes(&model, 8)[0], 2)), (vec![10], vec![22]));
    let entry = bytes(&model, 14)[0];
    assert_eq!((text(entry, 1), text(entry, 2)), (vec!["classes".to_owned()], vec!["[\"a\"]".to_owned()]));
    let graph = graph(&model);
    let nodes = nodes(graph);
    assert_eq!(
        nodes[..6],
        [
            "Cast: image -> image.float",
            "Transpose: image.float -> image.planes",
            "Div: image.planes image.range -> image.scaled",
            "Sub: image.scaled image.mean -> image.centred",
            "Div: image.centred image.std -> image.normalised",
            "Conv: image.normalised conv.weight conv.bias -> conv",
        ]
    );
    assert_eq!(nodes[6], "Sigmoid: conv -> 0.sigmoid");
    assert_eq!(nodes[nodes.len() - 1], "Softmax: logits -> probabilities");
    assert_eq!(shapes(graph, 11), BTreeMap::from([("image".to_owned(), vec![0, 8, 6, 3])]));
    assert_eq!(shapes(graph, 12), BTreeMap::from([("probabilities".to_owned(), vec![0, 5])]));
    assert_eq!(model, made(TINY, &options), "equal arguments give equal bytes");
}

#[test]
fn every_shipped_network_is_a_graph_in_order() {
    for name in Network::shipped() {
        let network = Network::by_name(name).unwrap();
        let state = State::initial(&network.graph().unwrap(), 1);
        for fold in [false, true] {
            let model = encode(&network, &state, &Options { fold, ..Options::default() }).unwrap();
            let graph = graph(&model);
            let mut known = BTreeSet::from(["input".to_owned()]);
            for constant in bytes(graph, 5) {
                assert!(known.insert(text(constant, 8)[0].clone()), "{name}: a constant twice");
            }
            for node in bytes(graph, 1) {
                for input in text(node, 1) {
                    assert!(known.contains(&input), "{name}: {input} is read before it is computed");
                }
                assert!(known.insert(text(node, 2)[0].clone()), "{name}: a value twice");
            }
            assert!(known.contains("logits"), "{name}");
            let norms = nodes(graph).iter().filter(|node| node.starts_with("BatchNormalization")).count();
            // Those of DenseNet and of SE blocks come before the convolution, and in airbench94 a pool comes between.
            let kept = ["densenet_bc_100_12", "senet18", "airbench94"].contains(&name);
            assert_eq!(norms > 0, network_has_norms(&network) && (!fold || kept), "{name}");
        }
    }
}

fn network_has_norms(network: &Network) -> bool {
    !network.graph().unwrap().statistics().is_empty()
}

#[test]
fn what_cannot_be_written_is_said() {
    let network = Network::from_toml(TINY).unwrap();
    let state = State::initial(&network.graph().unwrap(), 1);
    let message =
        |state: &State, options: Options| encode(&network, state, &options).unwrap_err().to_string();
    for opset in [OPSETS.start() - 1, OPSETS.end() + 1] {
        let text = message(&state, Options { opset, ..Options::default() });
        assert_eq!(text, format!("operator set {opset} cannot be written; give one from 20 to 28"));
    }
    for (mean, std, expected) in [
        (vec![0.5], vec![0.5], "give a mean and a deviation for each channel"),
        (vec![f32::NAN; 3], vec![0.5; 3], "give finite means"),
        (vec![0.5; 3], vec![0.0; 3], "give deviations above 0"),
    ] {
        let preprocessing = Some(Preprocessing { mean, std });
        let text = message(&state, Options { preprocessing, ..Options::default() });
        assert!(text.ends_with(expected), "{text}");
    }
    let mut state = state;
    state.parameters.remove("conv.weight");
    let error = encode(&network, &state, &Options::default()).unwrap_err();
    assert!(matches!(error, OnnxError::Weights(_)), "{error:?}");
    assert!(error.to_string().contains("`conv.weight` is missing"), "{error}");
}
