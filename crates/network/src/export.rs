//! A network for programs in other languages: the resolved graph as JSON.
//!
//! Readers need not derive anything: repetitions are written out, defaults filled in, and every node has the shapes of its output and
//! parameters. A layer's arguments are those of its class in PyTorch, including those that follow from its input (`in_channels`), with the
//! differences that [`Layer`] documents; sizes along rows and columns are always two numbers.
//!
//! ```json
//! {
//!   "name": "tiny", "input": [3, 32, 32], "classes": 10, "parameters": 5738, "macs": 43520,
//!   "nodes": [
//!     { "path": "input", "kind": "Input", "arguments": {}, "inputs": [], "parameters": {}, "output": [3, 32, 32] },
//!     { "path": "conv1", "kind": "Conv2d",
//!       "arguments": { "in_channels": 3, "out_channels": 8, "kernel_size": [5, 5], "stride": [4, 4], "padding": [2, 2],
//!                      "groups": 1, "bias": true },
//!       "inputs": [0], "parameters": { "weight": [8, 3, 5, 5], "bias": [8] }, "output": [8, 8, 8] },
//!     ...
//!   ]
//! }
//! ```

use crate::error::NetworkError;
use crate::graph::{Node, Operation};
use crate::layer::{
    AdaptiveAvgPool2d, AvgPool2d, BatchNorm2d, Conv2d, Dropout, Flatten, Gelu, Layer, LeakyRelu, Linear,
    MaxPool2d, PadChannels, Pair, Relu, Relu6, Scale, Sigmoid, Silu, Subsample, Tanh,
};
use crate::network::Network;
use serde_json::{Map, Value, json};

impl Network {
    /// The network with everything that follows from its description, as JSON for programs in other languages: its `name`, the shape
    /// of its `input`, its numbers of `classes`, `parameters` and multiply-accumulates (`macs`), and its `nodes` in an order in which
    /// they can be computed. The last one is the output.
    ///
    /// A node has its `path`, its `kind` (a class of PyTorch or one of ours, or `Input`, `Sum`, `Concat`, `Multiply`), the `arguments` of that
    /// class, the indices of its `inputs` among the nodes, the shapes of its `parameters` by PyTorch's names, and that of its `output` for one
    /// image.
    ///
    /// # Errors
    /// [`NetworkError`], if the description does not fit together.
    pub fn to_json(&self) -> Result<Value, NetworkError> {
        let graph = self.graph()?;
        let nodes: Vec<Value> = graph.nodes.iter().map(|node| written(node, &graph.nodes)).collect();
        Ok(json!({
            "name": self.name,
            "input": self.input,
            "classes": graph.classes(),
            "parameters": graph.parameter_count(),
            "macs": graph.macs(),
            "nodes": nodes,
        }))
    }
}

fn written(node: &Node, nodes: &[Node]) -> Value {
    let (kind, arguments, parameters) = match &node.operation {
        Operation::Input => ("Input", json!({}), Map::new()),
        Operation::Sum => ("Sum", json!({}), Map::new()),
        Operation::Concat => ("Concat", json!({}), Map::new()),
        Operation::Multiply => ("Multiply", json!({}), Map::new()),
        Operation::Layer(layer) => {
            let input = &nodes[node.inputs[0]].output;
            let parameters = layer.kind().parameters(input).into_iter();
            let shapes = parameters.map(|own| (own.name.to_owned(), json!(own.shape))).collect();
            (layer.class(), arguments(layer, input), shapes)
        }
    };
    json!({
        "path": node.path,
        "kind": kind,
        "arguments": arguments,
        "inputs": node.inputs,
        "parameters": parameters,
        "output": node.output,
    })
}

/// All arguments of a layer that reads this shape. Every field is named, so that a new one cannot be forgotten.
fn arguments(layer: &Layer, input: &[usize]) -> Value {
    match layer {
        Layer::Conv2d(Conv2d { out_channels, kernel_size, stride, padding, groups, bias }) => json!({
            "in_channels": input[0],
            "out_channels": out_channels,
            "kernel_size": kernel_size.0,
            "stride": stride.0,
            "padding": padding.0,
            "groups": groups,
            "bias": bias,
        }),
        Layer::Linear(Linear { out_features, bias }) => {
            json!({ "in_features": input[0], "out_features": out_features, "bias": bias })
        }
        Layer::BatchNorm2d(BatchNorm2d { eps, momentum, weight, bias }) => json!({
            "num_features": input[0],
            "eps": eps,
            "momentum": momentum,
            "weight": weight,
            "bias": bias,
        }),
        Layer::MaxPool2d(pool @ MaxPool2d { kernel_size, stride: _, padding }) => {
            json!({ "kernel_size": kernel_size.0, "stride": pool.stride().0, "padding": padding.0 })
        }
        Layer::AvgPool2d(pool @ AvgPool2d { kernel_size, stride: _, padding, count_include_pad }) => json!({
            "kernel_size": kernel_size.0,
            "stride": pool.stride().0,
            "padding": padding.0,
            "count_include_pad": count_include_pad,
        }),
        Layer::AdaptiveAvgPool2d(AdaptiveAvgPool2d { output_size }) => {
            json!({ "output_size": output_size.0 })
        }
        Layer::LeakyRelu(LeakyRelu { negative_slope }) => json!({ "negative_slope": negative_slope }),
        Layer::Gelu(Gelu { approximate }) => json!({ "approximate": approximate }),
        Layer::Dropout(Dropout { p }) => json!({ "p": p }),
        Layer::Scale(Scale { factor }) => json!({ "factor": factor }),
        Layer::Subsample(Subsample { stride: Pair(stride) }) => json!({ "stride": stride }),
        Layer::PadChannels(PadChannels { before, after }) => json!({ "before": before, "after": after }),
        Layer::Relu(Relu {})
        | Layer::Relu6(Relu6 {})
        | Layer::Silu(Silu {})
        | Layer::Sigmoid(Sigmoid {})
        | Layer::Tanh(Tanh {})
        | Layer::Flatten(Flatten {}) => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The complete JSON of a small network with a shortcut.
    #[test]
    fn a_network_is_written_with_all_that_follows() {
        let toml = r#"
            name = "tiny"
            input = [3, 8, 8]
            layers = [
                { name = "conv1", Conv2d = { out_channels = 4, kernel_size = [3, 1], stride = 2, padding = [1, 0], bias = false } },
                { Sum = [
                    [{ name = "bn1", BatchNorm2d = { eps = 0.5, weight = false } }, "ReLU"],
                    [],
                ] },
                { MaxPool2d = { kernel_size = 2 } },
                "Flatten",
                { name = "fc", Linear = { out_features = 5 } },
            ]
        "#;
        let node = |path: &str,
                    kind: &str,
                    arguments: Value,
                    inputs: &[usize],
                    parameters: Value,
                    output: &[usize]| {
            json!({
                "path": path, "kind": kind, "arguments": arguments, "inputs": inputs, "parameters": parameters,
                "output": output,
            })
        };
        let none = || json!({});
        let convolution = json!({
            "in_channels": 3, "out_channels": 4, "kernel_size": [3, 1], "stride": [2, 2], "padding": [1, 0], "groups": 1,
            "bias": false,
        });
        let norm = json!({ "num_features": 4, "eps": 0.5, "momentum": 0.1, "weight": false, "bias": true });
        let pool = json!({ "kernel_size": [2, 2], "stride": [2, 2], "padding": [0, 0] });
        let linear = json!({ "in_features": 16, "out_features": 5, "bias": true });
        let expected = json!({
            "name": "tiny",
            "input": [3, 8, 8],
            "classes": 5,
            // 4 x 3 x 3, 4, and 16 x 5 with 5.
            "parameters": 36 + 4 + 85,
            "macs": 36 * 16 + 80,
            "nodes": [
                node("input", "Input", none(), &[], none(), &[3, 8, 8]),
                node("conv1", "Conv2d", convolution, &[0], json!({ "weight": [4, 3, 3, 1] }), &[4, 4, 4]),
                node("bn1", "BatchNorm2d", norm, &[1], json!({ "bias": [4] }), &[4, 4, 4]),
                node("1", "ReLU", none(), &[2], none(), &[4, 4, 4]),
                node("sum", "Sum", none(), &[3, 1], none(), &[4, 4, 4]),
                node("1", "MaxPool2d", pool, &[4], none(), &[4, 2, 2]),
                node("2", "Flatten", none(), &[5], none(), &[16]),
                node("fc", "Linear", linear, &[6], json!({ "weight": [5, 16], "bias": [5] }), &[5]),
            ],
        });
        assert_eq!(Network::from_toml(toml).unwrap().to_json().unwrap(), expected);
    }
}
