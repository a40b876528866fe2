//! Networks for other languages, as [`Network::to_json`] writes them.

use pointwise_network::{Layer, Network};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The arguments of each class: those of PyTorch's constructor that it takes; our own classes have their own.
const ARGUMENTS: [(&str, &[&str]); 18] = [
    ("Conv2d", &["bias", "groups", "in_channels", "kernel_size", "out_channels", "padding", "stride"]),
    ("Linear", &["bias", "in_features", "out_features"]),
    ("BatchNorm2d", &["bias", "eps", "momentum", "num_features", "weight"]),
    ("ReLU", &[]),
    ("ReLU6", &[]),
    ("LeakyReLU", &["negative_slope"]),
    ("GELU", &["approximate"]),
    ("SiLU", &[]),
    ("Sigmoid", &[]),
    ("Tanh", &[]),
    ("MaxPool2d", &["kernel_size", "padding", "stride"]),
    ("AvgPool2d", &["count_include_pad", "kernel_size", "padding", "stride"]),
    ("AdaptiveAvgPool2d", &["output_size"]),
    ("Dropout", &["p"]),
    ("Flatten", &[]),
    ("Scale", &["factor"]),
    ("Subsample", &["stride"]),
    ("PadChannels", &["after", "before"]),
];

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().expect("an object")
}

fn sizes(value: &Value) -> Vec<usize> {
    let sizes = value.as_array().expect("an array").iter();
    sizes.map(|size| size.as_u64().expect("a whole number") as usize).collect()
}

/// Checks every node of a network: kind, arguments, shapes and inputs. Returns the number of nodes of each kind.
fn check(network: &Network) -> BTreeMap<String, usize> {
    let graph = network.graph().expect("a graph");
    let json = network.to_json().expect("JSON");
    assert_eq!(json["name"], network.name);
    assert_eq!(sizes(&json["input"]), network.input);
    let nodes = json["nodes"].as_array().expect("nodes");
    assert_eq!(nodes.len(), graph.nodes.len());
    assert_eq!(
        sizes(&nodes[nodes.len() - 1]["output"]),
        [json["classes"].as_u64().expect("classes") as usize]
    );
    let mut kinds = BTreeMap::new();
    let mut shapes = BTreeMap::new();
    for (place, node) in nodes.iter().enumerate() {
        let kind = node["kind"].as_str().expect("a kind");
        *kinds.entry(kind.to_owned()).or_default() += 1;
        let expected: &[&str] = match ARGUMENTS.iter().find(|(class, _)| *class == kind) {
            Some((_, arguments)) => arguments,
            None => {
                assert!(["Input", "Sum", "Concat", "Multiply"].contains(&kind), "{kind}");
                &[]
            }
        };
        let arguments = object(&node["arguments"]);
        assert!(arguments.keys().eq(expected.iter()), "{}: {kind} {arguments:?}", network.name);
        for argument in ["kernel_size", "stride", "padding", "output_size"] {
            assert!(
                arguments.get(argument).is_none_or(|pair| sizes(pair).len() == 2),
                "{kind} {arguments:?}"
            );
        }
        assert!(sizes(&node["inputs"]).iter().all(|input| *input < place), "{node}");
        let path = node["path"].as_str().expect("a path");
        for (name, shape) in object(&node["parameters"]) {
            shapes.insert(format!("{path}.{name}"), sizes(shape));
        }
    }
    // Every parameter by its name, and no others.
    let parameters = graph.parameters().iter().map(|own| (own.name.clone(), own.shape.clone()));
    assert!(
        shapes.iter().map(|(name, shape)| (name.clone(), shape.clone())).eq(parameters),
        "{}",
        network.name
    );
    let count: usize = shapes.values().map(|shape| shape.iter().product::<usize>()).sum();
    assert_eq!(json["parameters"].as_u64(), Some(count as u64), "{}", network.name);
    assert_eq!(json["macs"].as_u64(), Some(graph.macs() as u64), "{}", network.name);
    kinds
}

#[test]
fn every_shipped_network_is_written_with_all_arguments() {
    let mut kinds = BTreeMap::new();
    for name in Network::shipped() {
        for (kind, count) in check(&Network::by_name(name).expect(name)) {
            *kinds.entry(kind).or_insert(0) += count;
        }
    }
    for kind in ["Conv2d", "Linear", "AvgPool2d", "Subsample", "PadChannels", "Sum", "Concat", "Multiply"] {
        assert!(kinds.contains_key(kind), "{kind} in {kinds:?}");
    }
}

/// No shipped network has all of them.
#[test]
fn every_class_is_written() {
    let toml = r#"
        name = "all"
        input = [3, 8, 8]
        layers = [
            { Conv2d = { out_channels = 4, kernel_size = 1 } }, "BatchNorm2d", "ReLU", "ReLU6", "LeakyReLU", "GELU",
            { GELU = { approximate = "tanh" } }, "SiLU", "Sigmoid", "Tanh", { MaxPool2d = { kernel_size = 2 } },
            { AvgPool2d = { kernel_size = 3, stride = 1, padding = 1, count_include_pad = false } }, "Dropout",
            { Scale = { factor = 0.5 } }, { Subsample = { stride = [2, 1] } }, { PadChannels = { after = 2 } },
            { Multiply = [[], "AdaptiveAvgPool2d"] }, { Concat = [[], []] }, "AdaptiveAvgPool2d", "Flatten",
            { Linear = { out_features = 2, bias = false } },
        ]
    "#;
    let kinds = check(&Network::from_toml(toml).expect("a network"));
    let missing: Vec<&str> =
        Layer::CLASSES.iter().copied().filter(|class| !kinds.contains_key(*class)).collect();
    assert_eq!(missing, [""; 0]);
    assert!(ARGUMENTS.iter().map(|(class, _)| class).eq(Layer::CLASSES));
}
