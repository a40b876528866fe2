//! A description with everything that follows from it: paths, shapes and the inputs of each node.

use crate::entry::{Branch, Entry, Part};
use crate::error::NetworkError;
use crate::initial::Initial;
use crate::layer::Layer;
use crate::limits::{MAX_DEPTH, MAX_NAME, MAX_PARTS, MAX_SIZE, MAX_VALUES};
use crate::network::Network;
use serde::Serialize;
use std::collections::BTreeSet;

/// What a [`Node`] does.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// The input image; only the first node.
    Input,
    /// A layer of one input.
    Layer(Layer),
    /// Sum of inputs of equal shape.
    Sum,
    /// Inputs, concatenated along the channels.
    Concat,
    /// Product of inputs; those of one pixel multiply every pixel of the others.
    Multiply,
}

/// A value of the network: what computes it, and from which others.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// PyTorch's path of the layer, such as `layer1.0.conv1`. A composition has the path of the sequence around it, with its kind.
    pub path: String,
    /// What it does.
    pub operation: Operation,
    /// Indices of the nodes that it reads, all lower than its own.
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
    /// Its initial values.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
        let mut builder = Builder { network, nodes: Vec::new(), paths: BTreeSet::new(), parts: 0, depth: 0 };
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

    /// The layers with their input shapes, in order.
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
                    initial = Initial::by_rule(rule.rule, &own.shape, groups)
                        .and_then(|initial| match initial {
                            Initial::Whitening { .. } if node.inputs != [0] => {
                                Err("it is for a convolution that reads the images".to_owned())
                            }
                            Initial::Whitening { .. }
                                if own.shape[2] > input[1] || own.shape[3] > input[2] =>
                            {
                                Err("its kernel is larger than the images".to_owned())
                            }
                            initial => Ok(initial),
                        })
                        .map_err(|reason| NetworkError::Rule {
                            network: network.name.clone(),
                            parameter: name.clone(),
                            reason,
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

    /// The table of layers: shapes, parameters, multiply-accumulates. The input image has no row.
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
    /// Layers, sequences, compositions and branches so far.
    parts: usize,
    /// Sequences and compositions around the current entry.
    depth: usize,
}

impl Builder<'_> {
    /// Appends the entries after node `input` and returns the index of the last node.
    fn sequence(&mut self, entries: &[Entry], scope: &str, input: usize) -> Result<usize, NetworkError> {
        let mut at = input;
        let mut index = 0;
        for entry in entries {
            self.check_entry(entry, scope, index)?;
            for _ in 0..entry.repeat {
                self.count()?;
                let composition = matches!(entry.part, Part::Sum(_) | Part::Concat(_) | Part::Multiply(_));
                // A composition without a name is not a module: it takes no index, and its contents have the path around it.
                let path = if composition && entry.name.is_none() {
                    scope.to_owned()
                } else {
                    index += 1;
                    place(entry, scope, index - 1)
                };
                self.enter(&path)?;
                at = match &entry.part {
                    Part::Layer(layer) => self.layer(layer, path, at)?,
                    Part::Sequential(entries) => self.sequence(entries, &path, at)?,
                    Part::Sum(branches) => self.compose(Operation::Sum, "sum", branches, &path, at)?,
                    Part::Concat(branches) => {
                        self.compose(Operation::Concat, "concat", branches, &path, at)?
                    }
                    Part::Multiply(branches) => {
                        self.compose(Operation::Multiply, "multiply", branches, &path, at)?
                    }
                };
                self.depth -= 1;
            }
        }
        Ok(at)
    }

    fn check_entry(&self, entry: &Entry, scope: &str, index: usize) -> Result<(), NetworkError> {
        let network = || self.network.name.clone();
        if let Some(name) = &entry.name {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
            if !(1..=MAX_NAME).contains(&name.len()) || !name.chars().all(plain) {
                return Err(NetworkError::Name { network: network(), name: name.clone() });
            }
            if entry.repeat > 1 {
                return Err(NetworkError::RepeatedName { network: network(), path: join(scope, name) });
            }
        }
        if !(1..=MAX_PARTS).contains(&entry.repeat) {
            let (path, repeat) = (place(entry, scope, index), entry.repeat);
            return Err(NetworkError::Repeat { network: network(), path, repeat });
        }
        Ok(())
    }

    /// Counts one more part.
    fn count(&mut self) -> Result<(), NetworkError> {
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return Err(NetworkError::TooLarge { network: self.network.name.clone(), limit: MAX_PARTS });
        }
        Ok(())
    }

    /// Goes one step deeper.
    fn enter(&mut self, path: &str) -> Result<(), NetworkError> {
        self.depth += 1;
        // A layer lies one step deeper than the innermost sequence.
        if self.depth > MAX_DEPTH + 1 {
            let (network, path) = (self.network.name.clone(), path.to_owned());
            return Err(NetworkError::TooDeep { network, path, limit: MAX_DEPTH });
        }
        Ok(())
    }

    fn push(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn layer(&mut self, layer: &Layer, path: String, input: usize) -> Result<usize, NetworkError> {
        let shape = &self.nodes[input].output;
        let output = checked(layer, shape).map_err(|reason| NetworkError::Layer {
            network: self.network.name.clone(),
            path: path.clone(),
            layer: layer.kind().describe(&[]),
            input: shape.clone(),
            reason,
        })?;
        if !layer.kind().parameters(shape).is_empty() && !self.paths.insert(path.clone()) {
            return Err(NetworkError::SamePath { network: self.network.name.clone(), path });
        }
        let operation = Operation::Layer(layer.clone());
        Ok(self.push(Node { path, operation, inputs: vec![input], output }))
    }

    fn compose(
        &mut self,
        operation: Operation,
        kind: &str,
        branches: &[Branch],
        scope: &str,
        input: usize,
    ) -> Result<usize, NetworkError> {
        let mut inputs = Vec::new();
        for Branch(entries) in branches {
            self.count()?;
            inputs.push(self.sequence(entries, scope, input)?);
        }
        let shapes: Vec<Vec<usize>> = inputs.iter().map(|input| self.nodes[*input].output.clone()).collect();
        let path = join(scope, kind);
        let output = composed(&operation, &shapes).map_err(|reason| NetworkError::Composition {
            network: self.network.name.clone(),
            path: path.clone(),
            shapes,
            reason,
        })?;
        Ok(self.push(Node { path, operation, inputs, output }))
    }
}

fn join(scope: &str, step: &str) -> String {
    if scope.is_empty() { step.to_owned() } else { format!("{scope}.{step}") }
}

/// The path of an entry: by its name, or by its index without one.
fn place(entry: &Entry, scope: &str, index: usize) -> String {
    match &entry.name {
        Some(name) => join(scope, name),
        None => join(scope, &index.to_string()),
    }
}

/// The output shape of a layer, if its output and parameters are not too large.
fn checked(layer: &Layer, input: &[usize]) -> Result<Vec<usize>, String> {
    let output = layer.kind().output(input)?;
    within("output", &output)?;
    for parameter in layer.kind().parameters(input) {
        within(parameter.name, &parameter.shape)?;
    }
    Ok(output)
}

fn within(what: &str, shape: &[usize]) -> Result<(), String> {
    match shape.iter().try_fold(1usize, |product, side| product.checked_mul(*side)) {
        Some(values) if values <= MAX_VALUES => Ok(()),
        _ => Err(format!("its {what} of shape {shape:?} has more than {MAX_VALUES} values; make it smaller")),
    }
}

/// The output shape of a composition with inputs of these shapes.
fn composed(operation: &Operation, shapes: &[Vec<usize>]) -> Result<Vec<usize>, String> {
    let [first, others @ ..] = shapes else {
        return Err("give two or more, [] for the identity".to_owned());
    };
    if others.is_empty() {
        return Err("give it another branch, [] for the identity".to_owned());
    }
    let output = match operation {
        Operation::Sum if others.iter().all(|shape| shape == first) => first.clone(),
        Operation::Sum => return Err("a Sum takes branches of one shape".to_owned()),
        Operation::Concat if others.iter().all(|shape| shape[1..] == first[1..]) => {
            let channels = shapes.iter().map(|shape| shape[0]).sum();
            [&[channels], &first[1..]].concat()
        }
        Operation::Concat => return Err("a Concat takes maps of one size, or vectors".to_owned()),
        Operation::Multiply => {
            let largest = shapes.iter().max_by_key(|shape| shape.iter().product::<usize>()).unwrap_or(first);
            let gate = [&largest[..1], &[1, 1][..largest.len() - 1]].concat();
            if !shapes.iter().all(|shape| *shape == *largest || *shape == gate) {
                let expected =
                    "a Multiply takes branches of one shape, and single pixels of as many channels";
                return Err(expected.to_owned());
            }
            largest.clone()
        }
        Operation::Input | Operation::Layer(_) => unreachable!("only compositions are composed"),
    };
    within("output", &output)?;
    Ok(output)
}
