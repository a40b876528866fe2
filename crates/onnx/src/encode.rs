//! A model of a network and its weights.

use crate::error::OnnxError;
use crate::fold::{BatchNormValues, Folded, Folds};
use crate::layer::{self, Emitted};
use crate::model::{Attribute, Constant, Element, GraphParts, Operator, model, value_info};
use crate::names::Names;
use crate::{OPSETS, Options, Preprocessing};
use pointwise_network::{BatchNorm2d, Conv2d, Graph, Layer, Linear, Network, Node, Operation};
use pointwise_weights::State;
use std::collections::BTreeMap;

/// The model of a network with these weights, as the bytes of a file. Equal arguments give equal bytes.
///
/// # Errors
/// [`OnnxError`]: the description does not fit together, the weights are not the network's, an option is out of range, or the model
/// would be larger than a file of the format may be.
pub fn encode(network: &Network, state: &State, options: &Options) -> Result<Vec<u8>, OnnxError> {
    // A size in a protobuf message is a signed 32-bit number.
    const LIMIT: usize = i32::MAX as usize;
    if !OPSETS.contains(&options.opset) {
        return Err(OnnxError::Opset(options.opset));
    }
    state.check(network)?;
    let graph = network.graph()?;
    if let Some(preprocessing) = &options.preprocessing {
        preprocessing.check(network.input[0])?;
    }
    let folds = if options.fold { Folds::all(&graph) } else { Folds::none(&graph) };
    let mut builder = Builder::new(&graph, state);
    let mut values = vec![builder.input(&graph.nodes[0], options.preprocessing.as_ref())];
    let last = builder.last(&folds);
    for (at, node) in graph.nodes.iter().enumerate().skip(1) {
        builder.wanted = node.path.clone();
        if at == last {
            builder.promised(LOGITS);
        }
        let inputs: Vec<String> = node.inputs.iter().map(|input| values[*input].clone()).collect();
        values.push(builder.node(node, inputs, folds.norms_of(at), folds.is_folded(at)));
    }
    if options.softmax {
        builder.promised(PROBABILITIES);
        let softmax = Operator::new("Softmax").with("axis", Attribute::Int(1));
        let logits = values.pop().unwrap_or_default();
        builder.operator(&softmax, vec![logits], &[graph.classes()]);
    }
    let parts = builder.finish(graph.classes(), if options.softmax { PROBABILITIES } else { LOGITS });
    let graph = parts.message(&network.name, &network.about);
    let bytes = model(graph, options.opset, &options.metadata).into_bytes();
    if bytes.len() > LIMIT {
        return Err(OnnxError::TooLarge { bytes: bytes.len(), limit: LIMIT });
    }
    Ok(bytes)
}

const INPUT: &str = "input";
const IMAGE: &str = "image";
const LOGITS: &str = "logits";
const PROBABILITIES: &str = "probabilities";

impl Preprocessing {
    fn check(&self, channels: usize) -> Result<(), OnnxError> {
        let refuse = |reason: &str| Err(OnnxError::Preprocessing { channels, reason: reason.to_owned() });
        if self.mean.len() != channels || self.std.len() != channels {
            return refuse("give a mean and a deviation for each channel");
        }
        if !self.mean.iter().all(|mean| mean.is_finite()) {
            return refuse("give finite means");
        }
        if !self.std.iter().all(|std| *std > 0.0 && std.is_finite()) {
            return refuse("give deviations above 0");
        }
        Ok(())
    }
}

/// A model under construction.
struct Builder<'a> {
    graph: &'a Graph,
    state: &'a State,
    names: Names,
    parts: GraphParts,
    /// The wanted name of the next layer's output.
    wanted: String,
    /// Shapes of the values between input and output, by name.
    shapes: BTreeMap<String, Vec<usize>>,
}

impl<'a> Builder<'a> {
    fn new(graph: &'a Graph, state: &'a State) -> Self {
        let mut names = Names::default();
        let weights = state.parameters.keys().chain(state.statistics.keys());
        weights.for_each(|name| names.reserve(name));
        // Reserved for the inputs and outputs that a model promises.
        [INPUT, IMAGE, LOGITS, PROBABILITIES].into_iter().for_each(|name| names.reserve(name));
        let (parts, shapes) = (GraphParts::default(), BTreeMap::new());
        Self { graph, state, names, parts, wanted: String::new(), shapes }
    }

    /// The node that computes the logits: the last one with an operator of its own.
    fn last(&self, folds: &Folds) -> usize {
        let mut last = self.graph.nodes.len() - 1;
        while folds.is_folded(last) || is_dropout(&self.graph.nodes[last]) {
            last = self.graph.nodes[last].inputs[0];
        }
        last
    }

    /// Gives the next output a name that was reserved for it.
    fn promised(&mut self, name: &str) {
        self.names.release(name);
        name.clone_into(&mut self.wanted);
    }

    /// Adds the network's input and returns the name of the value that the first layers read.
    fn input(&mut self, node: &Node, preprocessing: Option<&Preprocessing>) -> String {
        let shape = &node.output[..];
        let Some(Preprocessing { mean, std }) = preprocessing else {
            self.parts.input = value_info(INPUT, Element::F32, shape);
            return INPUT.to_owned();
        };
        let [channels, rows, columns] = [0, 1, 2].map(|axis| shape[axis]);
        let pixels = [rows, columns, channels];
        self.parts.input = value_info(IMAGE, Element::U8, &pixels);
        let mut image = |operator: Operator,
                         result: &str,
                         constants: &[(&str, &[f32], &[usize])],
                         input: String,
                         shape: &[usize]| {
            self.wanted = format!("{IMAGE}.{result}");
            let mut inputs = vec![input];
            for (name, values, shape) in constants {
                inputs.push(self.constant(&format!("{IMAGE}.{name}"), &Constant::Floats(values), shape));
            }
            self.operator(&operator, inputs, shape)
        };
        let per_channel = [channels, 1, 1];
        let cast = Operator::new("Cast").with("to", Attribute::Int(Element::F32 as u64));
        let transpose = Operator::new("Transpose").with("perm", Attribute::Ints(vec![0, 3, 1, 2]));
        let float = image(cast, "float", &[], IMAGE.to_owned(), &pixels);
        let planes = image(transpose, "planes", &[], float, shape);
        // In the order of training and with the same rounding.
        let scaled = image(Operator::new("Div"), "scaled", &[("range", &[255.0], &[])], planes, shape);
        let centred = image(Operator::new("Sub"), "centred", &[("mean", mean, &per_channel)], scaled, shape);
        image(Operator::new("Div"), "normalised", &[("std", std, &per_channel)], centred, shape)
    }

    /// Adds a node of the graph and returns the name of its output.
    fn node(&mut self, node: &Node, inputs: Vec<String>, norms: &[usize], is_folded: bool) -> String {
        let shape = &node.output[..];
        let read = || inputs[0].clone();
        match &node.operation {
            Operation::Input => unreachable!("only the first node is the input"),
            Operation::Sum => self.chain("Add", node, inputs),
            Operation::Multiply => self.chain("Mul", node, inputs),
            Operation::Concat => {
                self.operator(&Operator::new("Concat").with("axis", Attribute::Int(1)), inputs, shape)
            }
            // At inference it does nothing.
            Operation::Layer(Layer::Dropout(_)) => read(),
            Operation::Layer(Layer::BatchNorm2d(_)) if is_folded => read(),
            Operation::Layer(Layer::BatchNorm2d(layer)) => self.batch_norm(node, layer, read()),
            Operation::Layer(Layer::Conv2d(layer)) => self.convolution(node, layer, read(), norms),
            Operation::Layer(Layer::Linear(layer)) => self.linear(node, layer, read()),
            Operation::Layer(layer) => {
                let input = &self.graph.nodes[node.inputs[0]].output;
                self.emit(layer::operators(layer, input), read(), shape)
            }
        }
    }

    /// Adds the operators of a layer without weights.
    fn emit(&mut self, Emitted { steps, gate }: Emitted, input: String, shape: &[usize]) -> String {
        let mut value = input.clone();
        let wanted = self.wanted.clone();
        let last = steps.len() - 1;
        for (at, (operator, constants)) in steps.into_iter().enumerate() {
            let mut inputs = vec![value];
            if at == last && gate {
                inputs.insert(0, input.clone());
            }
            for (name, constant) in constants {
                let (constant, shape) = constant.view();
                inputs.push(self.constant(&format!("{wanted}.{name}"), &constant, &shape));
            }
            self.wanted = if at == last {
                wanted.clone()
            } else {
                format!("{wanted}.{}", operator.kind.to_lowercase())
            };
            value = self.operator(&operator, inputs, shape);
        }
        value
    }

    /// Chains an operator of two inputs over all inputs, from the first: more runtimes support it than one of many inputs.
    fn chain(&mut self, kind: &'static str, node: &Node, inputs: Vec<String>) -> String {
        let wanted = self.wanted.clone();
        let last = inputs.len() - 1;
        let graph = self.graph;
        let mut shape = graph.nodes[node.inputs[0]].output.clone();
        let mut value = String::new();
        for (at, (input, of)) in inputs.into_iter().zip(&node.inputs).enumerate() {
            if at == 0 {
                value = input;
                continue;
            }
            // Products of single pixels stay single pixels until a map follows.
            shape.iter_mut().zip(&graph.nodes[*of].output).for_each(|(side, other)| *side = *other.max(side));
            self.wanted = if at == last { wanted.clone() } else { format!("{wanted}.{at}") };
            value = self.operator(&Operator::new(kind), vec![value, input], &shape);
        }
        value
    }

    fn convolution(&mut self, node: &Node, layer: &Conv2d, input: String, norms: &[usize]) -> String {
        let (weight, shape) = self.parameter(node, "weight");
        let bias = layer.bias.then(|| self.parameter(node, "bias").0);
        let mut inputs = vec![input];
        let outputs = [layer.out_channels];
        if norms.is_empty() {
            inputs.push(self.weights(node, "weight", weight, shape));
            inputs.extend(bias.map(|bias| self.weights(node, "bias", bias, &outputs)));
        } else {
            let mut folded = Folded::new(weight, bias, layer.out_channels);
            for norm in norms {
                let norm = &self.graph.nodes[*norm];
                if let Operation::Layer(Layer::BatchNorm2d(layer)) = &norm.operation {
                    folded.batch_norm(layer, self.batch_norm_values(norm, layer));
                }
            }
            let [weight, bias] = folded.rounded();
            inputs.push(self.weights(node, "weight", &weight, shape));
            inputs.push(self.weights(node, "bias", &bias, &outputs));
        }
        self.operator(&layer::convolution(layer), inputs, &node.output)
    }

    fn linear(&mut self, node: &Node, layer: &Linear, input: String) -> String {
        let (weight, shape) = self.parameter(node, "weight");
        let weight = self.weights(node, "weight", weight, shape);
        // ONNX allows a missing bias, but readers expect one nevertheless.
        let zeros = vec![0.0; layer.out_features];
        let bias = if layer.bias { self.parameter(node, "bias").0 } else { &zeros };
        let bias = self.weights(node, "bias", bias, &[layer.out_features]);
        let product = Operator::new("Gemm").with("transB", Attribute::Int(1));
        self.operator(&product, vec![input, weight, bias], &node.output)
    }

    fn batch_norm(&mut self, node: &Node, layer: &BatchNorm2d, input: String) -> String {
        let values = self.batch_norm_values(node, layer);
        let channels = [node.output[0]];
        let (ones, zeros) = (vec![1.0; channels[0]], vec![0.0; channels[0]]);
        let mut inputs = vec![input];
        for (name, values) in [
            ("weight", values.weight.unwrap_or(&ones)),
            ("bias", values.bias.unwrap_or(&zeros)),
            ("running_mean", values.running_mean),
            ("running_var", values.running_var),
        ] {
            inputs.push(self.weights(node, name, values, &channels));
        }
        let operator =
            Operator::new("BatchNormalization").with("epsilon", Attribute::Float(layer.eps as f32));
        self.operator(&operator, inputs, &node.output)
    }

    fn batch_norm_values(&self, node: &Node, layer: &BatchNorm2d) -> BatchNormValues<'a> {
        let state = self.state;
        let statistic = |name: &str| &state.statistics[&format!("{}.{name}", node.path)].values[..];
        BatchNormValues {
            weight: layer.weight.then(|| self.parameter(node, "weight").0),
            bias: layer.bias.then(|| self.parameter(node, "bias").0),
            running_mean: statistic("running_mean"),
            running_var: statistic("running_var"),
        }
    }

    /// Values and shape of a parameter, whose presence [`State::check`] has verified.
    fn parameter(&self, node: &Node, name: &str) -> (&'a [f32], &'a [usize]) {
        let state = self.state;
        let array = &state.parameters[&format!("{}.{name}", node.path)];
        (&array.values, &array.shape)
    }

    /// Weights of a layer under PyTorch's name.
    fn weights(&mut self, node: &Node, name: &str, values: &[f32], shape: &[usize]) -> String {
        let name = format!("{}.{name}", node.path);
        let is_own = self.state.parameters.contains_key(&name) || self.state.statistics.contains_key(&name);
        // The names of the network's own weights are already reserved.
        let name = if is_own { name } else { self.names.unique(&name) };
        self.parts.constants.push(Constant::Floats(values).message(&name, shape));
        name
    }

    fn constant(&mut self, wanted: &str, values: &Constant<'_>, shape: &[usize]) -> String {
        let name = self.names.unique(wanted);
        self.parts.constants.push(values.message(&name, shape));
        name
    }

    /// Appends an operator and gives its output the wanted name.
    fn operator(&mut self, operator: &Operator, inputs: Vec<String>, shape: &[usize]) -> String {
        let name = self.names.unique(&self.wanted);
        self.parts.nodes.push(operator.message(&inputs, &name));
        self.shapes.insert(name.clone(), shape.to_vec());
        name
    }

    fn finish(mut self, classes: usize, output: &str) -> GraphParts {
        self.shapes.remove(output);
        self.parts.output = value_info(output, Element::F32, &[classes]);
        self.parts
            .values
            .extend(self.shapes.iter().map(|(name, shape)| value_info(name, Element::F32, shape)));
        self.parts
    }
}

fn is_dropout(node: &Node) -> bool {
    matches!(node.operation, Operation::Layer(Layer::Dropout(_)))
}
