//! Networks as `trainer summary --graph` prints them.

use anyhow::{Context, ensure};
use serde::Deserialize;
use std::fs;
use std::path::Path;

/// A network: its nodes in an order in which they can be computed. The first is the image, the last the output.
#[derive(Debug, Clone, Deserialize)]
pub struct Graph {
    /// Its name.
    pub name: String,
    /// Channels, rows and columns of an image.
    pub input: [usize; 3],
    /// Length of the output.
    pub classes: usize,
    /// Number of trainable values.
    pub parameters: usize,
    /// Nodes.
    pub nodes: Vec<Node>,
}

/// A value of the network: the operation that computes it, and its inputs.
#[derive(Debug, Clone, Deserialize)]
pub struct Node {
    /// The path of its parameters, by PyTorch's names.
    pub path: String,
    /// Indices of the nodes that it reads.
    pub inputs: Vec<usize>,
    /// Shape for one image.
    pub output: Vec<usize>,
    /// What it does.
    #[serde(flatten)]
    pub operation: Operation,
}

/// What a node does. Layers are PyTorch's of the same name, with its arguments.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", content = "arguments")]
#[expect(missing_docs, reason = "PyTorch's documentation of the class has the arguments")]
pub enum Operation {
    /// The image.
    Input {},
    /// Sum of inputs of one shape.
    Sum {},
    /// Inputs concatenated along the channels.
    Concat {},
    /// Product of inputs; those of one pixel are broadcast over the others.
    Multiply {},
    Conv2d {
        in_channels: usize,
        out_channels: usize,
        kernel_size: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
        groups: usize,
        bias: bool,
    },
    Linear {
        in_features: usize,
        out_features: usize,
        bias: bool,
    },
    BatchNorm2d {
        num_features: usize,
        eps: f64,
        momentum: f64,
        /// Whether each channel is scaled by a trained weight.
        weight: bool,
        /// Whether a trained bias is added to each channel.
        bias: bool,
    },
    #[serde(rename = "ReLU")]
    Relu {},
    #[serde(rename = "ReLU6")]
    Relu6 {},
    #[serde(rename = "LeakyReLU")]
    LeakyRelu {
        negative_slope: f64,
    },
    #[serde(rename = "GELU")]
    Gelu {
        approximate: Approximation,
    },
    #[serde(rename = "SiLU")]
    Silu {},
    Sigmoid {},
    Tanh {},
    MaxPool2d {
        kernel_size: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
    },
    AvgPool2d {
        kernel_size: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
        count_include_pad: bool,
    },
    AdaptiveAvgPool2d {
        /// 1 and 1.
        output_size: [usize; 2],
    },
    Dropout {
        p: f64,
    },
    Flatten {},
    /// Multiplies by a constant.
    Scale {
        factor: f64,
    },
    /// Every `stride`-th pixel, from the first.
    Subsample {
        stride: [usize; 2],
    },
    /// Channels of zeros before and after the others.
    PadChannels {
        before: usize,
        after: usize,
    },
}

/// How GELU is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Approximation {
    /// By the error function.
    None,
    /// By a hyperbolic tangent.
    Tanh,
}

impl Graph {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, or is not a graph of nodes that each read earlier ones.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let graph: Self =
            serde_json::from_slice(&text).with_context(|| format!("{} is no graph", path.display()))?;
        for (place, node) in graph.nodes.iter().enumerate() {
            let reads_earlier = node.inputs.iter().all(|input| *input < place);
            ensure!(reads_earlier, "{} reads a node that does not come before it", node.path);
            let is_input = matches!(node.operation, Operation::Input {});
            ensure!(is_input == (place == 0), "the image is not the first node alone");
            ensure!(is_input == node.inputs.is_empty(), "{} reads nothing", node.path);
        }
        ensure!(graph.nodes.len() > 1, "the network has no layers");
        Ok(graph)
    }

    /// Computes one node after the other, and returns the last one's value. `compute` gets the index of a node and its inputs; the last reader of
    /// a value gets the value itself and not a clone, so that a library that overwrites unshared values can do so.
    ///
    /// # Errors
    /// The first error of `compute`.
    pub fn walk<T: Clone, E>(
        &self,
        image: T,
        mut compute: impl FnMut(usize, Vec<T>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut readers = vec![0_usize; self.nodes.len()];
        for input in self.nodes.iter().flat_map(|node| &node.inputs) {
            readers[*input] += 1;
        }
        let mut last = image;
        let mut values: Vec<Option<T>> = vec![None; self.nodes.len()];
        for (place, node) in self.nodes.iter().enumerate().skip(1) {
            // Values without readers are not kept, except the last one, which is returned.
            if readers[place - 1] > 0 {
                values[place - 1] = Some(last);
            }
            let inputs = node.inputs.iter().filter_map(|input| {
                readers[*input] -= 1;
                if readers[*input] == 0 { values[*input].take() } else { values[*input].clone() }
            });
            last = compute(place, inputs.collect())?;
        }
        Ok(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{
        "name": "tiny", "input": [3, 8, 8], "classes": 4, "parameters": 4, "macs": 0,
        "nodes": [
            {"path": "input", "kind": "Input", "arguments": {}, "inputs": [], "parameters": {}, "output": [3, 8, 8]},
            {"path": "0", "kind": "GELU", "arguments": {"approximate": "tanh"}, "inputs": [0], "parameters": {}, "output": [3, 8, 8]},
            {"path": "1", "kind": "Scale", "arguments": {"factor": 2}, "inputs": [1], "parameters": {}, "output": [3, 8, 8]},
            {"path": "sum", "kind": "Sum", "arguments": {}, "inputs": [2, 0, 1], "parameters": {}, "output": [3, 8, 8]}
        ]
    }"#;

    fn read(text: &str) -> anyhow::Result<Graph> {
        let path =
            std::env::temp_dir().join(format!("peer-harness-{}-{}.json", std::process::id(), text.len()));
        fs::write(&path, text).unwrap();
        let graph = Graph::read(&path);
        fs::remove_file(path).unwrap();
        graph
    }

    #[test]
    fn a_graph_is_read_and_walked() {
        let graph = read(TEXT).unwrap();
        assert_eq!((graph.name.as_str(), graph.nodes.len()), ("tiny", 4));
        assert_eq!(graph.nodes[1].operation, Operation::Gelu { approximate: Approximation::Tanh });
        assert_eq!(graph.nodes[2].operation, Operation::Scale { factor: 2.0 });
        let mut seen = Vec::new();
        let last = graph.walk("image".to_owned(), |place, inputs| {
            seen.push(inputs.join("+"));
            Ok::<_, ()>(place.to_string())
        });
        assert_eq!(
            (last.unwrap().as_str(), seen),
            ("3", ["image", "1", "2+image+1"].map(str::to_owned).into())
        );
    }

    #[test]
    fn what_is_no_graph_is_refused() {
        for (from, to, says) in [
            ("GELU", "ELU", "is no graph"),
            ("\"inputs\": [0]", "\"inputs\": [1]", "0 reads a node that does not come before it"),
            ("\"inputs\": [0]", "\"inputs\": []", "0 reads nothing"),
            ("\"kind\": \"Sum\"", "\"kind\": \"Input\"", "the image is not the first node alone"),
        ] {
            let error = read(&TEXT.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(says), "{from}: {error}");
        }
    }
}
