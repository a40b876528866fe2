//! A description with everything that follows from it: paths, shapes and which node reads which.

use crate::entry::{Branch, Entry, Part};
use crate::error::NetworkError;
use crate::initial::Initial;
use crate::layer::{Layer, MAX_SIZE, MAX_VALUES};
use crate::network::Network;
use std::collections::BTreeSet;

/// The largest number of nodes: a repetition of repetitions asks for more than memory in a few bytes.
const MAX_NODES: usize = 10_000;

/// What a [`Node`] does.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// The image, as it is given to the network; only the first node.
    Input,
    /// A layer of one input.
    Layer(Layer),
    /// Sum of inputs of one shape.
    Sum,
    /// Inputs one after the other along the channels.
    Concat,
    /// Product of inputs; those of one pixel multiply every pixel of the others.
    Multiply,
}

/// A value of the network: what makes it, of which others.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// PyTorch's path of the layer, such as `layer1.0.conv1`. A composition has the path of the sequence that it stands in, with
    /// its kind.
    pub path: String,
    /// What it does.
    pub operation: Operation,
    /// Places of the nodes that it reads, each before its own.
    pub inputs: Vec<usize>,
    /// Shape for one image: `[channels, rows, columns]` or `[features]`.
    pub output: Vec<usize>,
}

/// A trainable parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// PyTorch's name, such as `features.0.weight`.
    pub name: String,
    /// PyTorch's shape: `(out, in / groups, rows, columns)`, `(out, in)` or `(channels)`.
    pub shape: Vec<usize>,
    /// How it begins.
    pub initial: Initial,
}

/// A value that belongs to the state but is not trained: BatchNorm's running statistics.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistic {
    /// PyTorch's name, such as `features.1.running_mean`.
    pub name: String,
    /// Number of channels.
    pub channels: usize,
    /// Value before the first step.
    pub initial: f32,
}

/// A row of the layer table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSummary {
    /// PyTorch's path of the layer.
    pub path: String,
    /// The layer in words.
    pub layer: String,
    /// Shape of its output for one image.
    pub output: Vec<usize>,
    /// Number of trainable values.
    pub parameters: usize,
    /// Multiply-accumulates for one image.
    pub macs: usize,
}

/// The nodes of a network in an order in which they can be computed; the last one is its output.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// Node 0 is the image.
    pub nodes: Vec<Node>,
    parameters: Vec<Parameter>,
}

impl Network {
    /// Everything that follows from the description.
    ///
    /// # Errors
    /// [`NetworkError`], naming the first layer, composition or rule that does not fit.
    pub fn graph(&self) -> Result<Graph, NetworkError> {
        Graph::new(self)
    }
}

impl Graph {
    fn new(network: &Network) -> Result<Self, NetworkError> {
        let mut builder = Builder { network, nodes: Vec::new(), paths: BTreeSet::new() };
        let input = network.input.to_vec();
        if input.iter().any(|side| !(1..=MAX_SIZE).contains(side))
            || input.iter().product::<usize>() > MAX_VALUES
        {
            return Err(NetworkError::Input { network: network.name.clone(), input });
        }
        builder.nodes.push(Node {
            path: "input".to_owned(),
            operation: Operation::Input,
            inputs: Vec::new(),
            output: input,
        });
        builder.sequence(&network.layers, "", 0)?;
        let output = &builder.nodes[builder.nodes.len() - 1].output;
        if output.len() != 1 {
            return Err(NetworkError::Output { network: network.name.clone(), output: output.clone() });
        }
        let mut graph = Self { nodes: builder.nodes, parameters: Vec::new() };
        graph.parameters = graph.named_parameters(network)?;
        Ok(graph)
    }

    /// The layers with the shapes that they read, in order.
    pub fn layers(&self) -> impl Iterator<Item = (&Node, &Layer, &[usize])> {
        self.nodes.iter().filter_map(|node| match &node.operation {
            Operation::Layer(layer) => Some((node, layer, self.nodes[node.inputs[0]].output.as_slice())),
            _ => None,
        })
    }

    fn named_parameters(&self, network: &Network) -> Result<Vec<Parameter>, NetworkError> {
        let mut used = vec![false; network.initial.len()];
        let mut parameters = Vec::new();
        for (node, layer, input) in self.layers() {
            for own in layer.kind().parameters(input) {
                let name = format!("{}.{}", node.path, own.name);
                let mut initial = own.initial;
                for (rule, used) in network.initial.iter().zip(&mut used) {
                    if !rule.matches(layer.class(), own.name, &node.path) {
                        continue;
                    }
                    *used = true;
                    let groups = match layer {
                        Layer::Conv2d(convolution) => convolution.groups,
                        _ => 1,
                    };
                    initial = Initial::by_rule(rule.rule, &own.shape, groups).map_err(|reason| {
                        NetworkError::Rule { network: network.name.clone(), parameter: name.clone(), reason }
                    })?;
                }
                parameters.push(Parameter { name, shape: own.shape, initial });
            }
        }
        if let Some(place) = used.iter().position(|used| !used) {
            return Err(NetworkError::UnusedRule { network: network.name.clone(), rule: place + 1 });
        }
        parameters.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(parameters)
    }

    /// The trainable parameters, sorted by name.
    #[must_use]
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// BatchNorm's running statistics, sorted by name.
    #[must_use]
    pub fn statistics(&self) -> Vec<Statistic> {
        let mut statistics = Vec::new();
        for (node, layer, input) in self.layers() {
            if matches!(layer, Layer::BatchNorm2d(_)) {
                for (name, initial) in [("running_mean", 0.0), ("running_var", 1.0)] {
                    let name = format!("{}.{name}", node.path);
                    statistics.push(Statistic { name, channels: input[0], initial });
                }
            }
        }
        statistics.sort_by(|a, b| a.name.cmp(&b.name));
        statistics
    }

    /// The table of layers: shapes, parameters, multiply-accumulates. The image is not among them.
    #[must_use]
    pub fn table(&self) -> Vec<LayerSummary> {
        let summary = |node: &Node| {
            let (layer, parameters, macs) = match &node.operation {
                Operation::Layer(layer) => {
                    let input = &self.nodes[node.inputs[0]].output;
                    let parameters = layer.kind().parameters(input);
                    (
                        layer.kind().describe(input),
                        parameters.iter().map(|own| own.shape.iter().product::<usize>()).sum(),
                        layer.kind().macs(input, &node.output),
                    )
                }
                Operation::Input => ("input".to_owned(), 0, 0),
                Operation::Sum => (format!("Sum of {}", node.inputs.len()), 0, 0),
                Operation::Concat => (format!("Concat of {}", node.inputs.len()), 0, 0),
                Operation::Multiply => (format!("Multiply of {}", node.inputs.len()), 0, 0),
            };
            LayerSummary { path: node.path.clone(), layer, output: node.output.clone(), parameters, macs }
        };
        self.nodes[1..].iter().map(summary).collect()
    }

    /// Number of trainable values; BatchNorm's running statistics are not trained.
    #[must_use]
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(|own| own.shape.iter().product::<usize>()).sum()
    }

    /// Multiply-accumulates of one forward pass of one image.
    #[must_use]
    pub fn macs(&self) -> usize {
        self.layers()
            .map(|(node, layer, input)| layer.kind().macs(input, &node.output))
            .fold(0, usize::saturating_add)
    }

    /// Number of classes: the length of the output.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.output().output[0]
    }

    /// The last node.
    #[must_use]
    pub fn output(&self) -> &Node {
        &self.nodes[self.nodes.len() - 1]
    }
}

struct Builder<'a> {
    network: &'a Network,
    nodes: Vec<Node>,
    /// Paths of layers that have parameters.
    paths: BTreeSet<String>,
}

impl Builder<'_> {
    /// Appends the entries behind node `input` and gives the place of the last node.
    fn sequence(&mut self, entries: &[Entry], scope: &str, input: usize) -> Result<usize, NetworkError> {
        let mut at = input;
        let mut index = 0;
        for entry in entries {
            let place = match &entry.name {
                Some(name) => join(scope, name),
                None => join(scope, &index.to_string()),
            };
            self.check_entry(entry, &place)?;
            for _ in 0..entry.repeat {
                // A composition without a name is no module: it takes no number, and what is in it lies where it stands.
                let (path, inner) = match (&entry.name, &entry.part) {
                    (None, Part::Sum(_) | Part::Concat(_) | Part::Multiply(_)) => {
                        (scope.to_owned(), scope.to_owned())
                    }
                    (None, _) => {
                        let path = join(scope, &index.to_string());
                        index += 1;
                        (path.clone(), path)
                    }
                    (Some(name), _) => {
                        index += 1;
                        (join(scope, name), join(scope, name))
                    }
                };
                at = match &entry.part {
                    Part::Layer(layer) => self.layer(layer, path, at)?,
                    Part::Sequential(entries) => self.sequence(entries, &inner, at)?,
                    Part::Sum(branches) => self.compose(Operation::Sum, "sum", branches, &inner, at)?,
                    Part::Concat(branches) => {
                        self.compose(Operation::Concat, "concat", branches, &inner, at)?
                    }
                    Part::Multiply(branches) => {
                        self.compose(Operation::Multiply, "multiply", branches, &inner, at)?
                    }
                };
            }
        }
        Ok(at)
    }

    fn check_entry(&self, entry: &Entry, path: &str) -> Result<(), NetworkError> {
        let network = || self.network.name.clone();
        if let Some(name) = &entry.name {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if name.is_empty() || !name.chars().all(plain) {
                return Err(NetworkError::Name { network: network(), name: name.clone() });
            }
            if entry.repeat > 1 {
                return Err(NetworkError::RepeatedName { network: network(), path: path.to_owned() });
            }
        }
        if entry.repeat == 0 || entry.repeat > MAX_NODES {
            let (path, repeat) = (path.to_owned(), entry.repeat);
            return Err(NetworkError::Repeat { network: network(), path, repeat });
        }
        Ok(())
    }

    fn push(&mut self, node: Node) -> Result<usize, NetworkError> {
        if self.nodes.len() >= MAX_NODES {
            return Err(NetworkError::TooLarge { network: self.network.name.clone(), nodes: MAX_NODES });
        }
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    fn layer(&mut self, layer: &Layer, path: String, input: usize) -> Result<usize, NetworkError> {
        let shape = &self.nodes[input].output;
        let output = layer.kind().output(shape).and_then(within).map_err(|reason| NetworkError::Layer {
            network: self.network.name.clone(),
            path: path.clone(),
            layer: layer.kind().describe(&[]),
            input: shape.clone(),
            reason,
        })?;
        if !layer.kind().parameters(shape).is_empty() && !self.paths.insert(path.clone()) {
            return Err(NetworkError::SamePath { network: self.network.name.clone(), path });
        }
        self.push(Node { path, operation: Operation::Layer(layer.clone()), inputs: vec![input], output })
    }

    fn compose(
        &mut self,
        operation: Operation,
        kind: &str,
        branches: &[Branch],
        scope: &str,
        input: usize,
    ) -> Result<usize, NetworkError> {
        let inputs = branches
            .iter()
            .map(|branch| self.sequence(&branch.0, scope, input))
            .collect::<Result<Vec<_>, _>>()?;
        let shapes: Vec<Vec<usize>> = inputs.iter().map(|input| self.nodes[*input].output.clone()).collect();
        let path = join(scope, kind);
        let output =
            composed(&operation, &shapes).and_then(within).map_err(|reason| NetworkError::Composition {
                network: self.network.name.clone(),
                path: path.clone(),
                shapes,
                reason,
            })?;
        self.push(Node { path, operation, inputs, output })
    }
}

fn join(scope: &str, step: &str) -> String {
    if scope.is_empty() { step.to_owned() } else { format!("{scope}.{step}") }
}

fn within(output: Vec<usize>) -> Result<Vec<usize>, String> {
    match output.iter().try_fold(1usize, |product, side| product.checked_mul(*side)) {
        Some(values) if values <= MAX_VALUES => Ok(output),
        _ => Err(format!("its output of shape {output:?} has more than {MAX_VALUES} values")),
    }
}

/// The shape of a composition of inputs of these shapes.
fn composed(operation: &Operation, shapes: &[Vec<usize>]) -> Result<Vec<usize>, String> {
    let [first, others @ ..] = shapes else { return Err("it has no branches".to_owned()) };
    if others.is_empty() {
        return Err("it has a single branch; give it another, [] for the identity".to_owned());
    }
    match operation {
        Operation::Sum if others.iter().all(|shape| shape == first) => Ok(first.clone()),
        Operation::Sum => Err("branches of a Sum have one shape".to_owned()),
        Operation::Concat if others.iter().all(|shape| shape[1..] == first[1..]) => {
            let channels = shapes.iter().map(|shape| shape[0]).sum();
            Ok([&[channels], &first[1..]].concat())
        }
        Operation::Concat => Err("branches of a Concat differ in their channels alone".to_owned()),
        Operation::Multiply => {
            let largest = shapes.iter().max_by_key(|shape| shape.iter().product::<usize>()).unwrap_or(first);
            let gate = [&largest[..1], &[1, 1][..largest.len() - 1]].concat();
            if shapes.iter().all(|shape| *shape == *largest || *shape == gate) {
                Ok(largest.clone())
            } else {
                Err("branches of a Multiply have one shape, or one pixel of as many channels".to_owned())
            }
        }
        Operation::Input | Operation::Layer(_) => unreachable!("compositions alone are composed"),
    }
}
