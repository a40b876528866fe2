//! The messages of `onnx.proto` that our models use, with their field numbers.

use pointwise_protobuf::Message;

/// The dimension that is left open.
pub(crate) const BATCH: &str = "batch";

/// An attribute of a node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Attribute {
    Int(u64),
    Ints(Vec<u64>),
    Float(f32),
    Text(&'static str),
}

impl Attribute {
    /// Two sizes.
    pub(crate) fn pair(pair: [usize; 2]) -> Self {
        Self::Ints(pair.map(|size| size as u64).to_vec())
    }

    /// `AttributeProto`.
    fn message(&self, name: &str) -> Message {
        let mut message = Message::default();
        message.string(1, name);
        // `type` says which of the fields is meant.
        let kind = match self {
            Self::Float(value) => {
                message.float(2, *value);
                1
            }
            Self::Int(value) => {
                message.int(3, *value);
                2
            }
            Self::Text(text) => {
                message.string(4, text);
                3
            }
            Self::Ints(values) => {
                values.iter().for_each(|value| message.int(8, *value));
                7
            }
        };
        message.int(20, kind);
        message
    }
}

/// An operator of ONNX with its attributes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Operator {
    pub(crate) kind: &'static str,
    pub(crate) attributes: Vec<(&'static str, Attribute)>,
}

impl Operator {
    pub(crate) fn new(kind: &'static str) -> Self {
        Self { kind, attributes: Vec::new() }
    }

    pub(crate) fn with(mut self, name: &'static str, attribute: Attribute) -> Self {
        self.attributes.push((name, attribute));
        self
    }

    /// `NodeProto`.
    pub(crate) fn message(&self, inputs: &[String], output: &str) -> Message {
        let mut message = Message::default();
        inputs.iter().for_each(|input| message.string(1, input));
        message.string(2, output);
        message.string(3, output);
        message.string(4, self.kind);
        for (name, attribute) in &self.attributes {
            message.message(5, &attribute.message(name));
        }
        message
    }
}

/// The type of the elements of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    F32 = 1,
    U8 = 2,
    I64 = 7,
}

/// Values stored in the model.
#[derive(Debug)]
pub(crate) enum Constant<'a> {
    Floats(&'a [f32]),
    Ints(&'a [u64]),
}

impl Constant<'_> {
    /// `TensorProto`.
    pub(crate) fn message(&self, name: &str, shape: &[usize]) -> Message {
        let mut message = Message::default();
        shape.iter().for_each(|side| message.int(1, *side as u64));
        let element = match self {
            Self::Floats(_) => Element::F32,
            Self::Ints(_) => Element::I64,
        };
        message.int(2, element as u64);
        message.string(8, name);
        match self {
            Self::Floats(values) => message.raw_floats(9, values),
            Self::Ints(values) => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                message.bytes(9, &bytes);
            }
        }
        message
    }
}

/// `ValueInfoProto` of a value for any number of images, with this shape for each.
pub(crate) fn value_info(name: &str, element: Element, shape: &[usize]) -> Message {
    let mut dimensions = Message::default();
    let mut batch = Message::default();
    batch.string(2, BATCH);
    dimensions.message(1, &batch);
    for side in shape {
        let mut dimension = Message::default();
        dimension.int(1, *side as u64);
        dimensions.message(1, &dimension);
    }
    let mut tensor = Message::default();
    tensor.int(1, element as u64);
    tensor.message(2, &dimensions);
    let mut kind = Message::default();
    kind.message(1, &tensor);
    let mut message = Message::default();
    message.string(1, name);
    message.message(2, &kind);
    message
}

/// The parts of `GraphProto`, in the order in which they were added.
#[derive(Debug, Default)]
pub(crate) struct GraphParts {
    pub(crate) nodes: Vec<Message>,
    pub(crate) constants: Vec<Message>,
    pub(crate) input: Message,
    pub(crate) output: Message,
    /// Shapes of the values between input and output.
    pub(crate) values: Vec<Message>,
}

impl GraphParts {
    /// `GraphProto`. Each part is dropped as soon as it has been added, because weights are large.
    pub(crate) fn message(self, name: &str, about: &str) -> Message {
        let mut message = Message::default();
        self.nodes.into_iter().for_each(|node| message.message(1, &node));
        message.string(2, name);
        self.constants.into_iter().for_each(|constant| message.message(5, &constant));
        if !about.is_empty() {
            message.string(10, about);
        }
        message.message(11, &self.input);
        message.message(12, &self.output);
        self.values.into_iter().for_each(|value| message.message(13, &value));
        message
    }
}

/// The version of the file format that was released with an operator set.
fn ir_version(opset: u32) -> u64 {
    match opset {
        ..=20 => 9,
        21..=22 => 10,
        23 => 11,
        24 => 12,
        25..=27 => 13,
        28.. => 14,
    }
}

/// `ModelProto`.
pub(crate) fn model<'a>(
    graph: Message,
    opset: u32,
    metadata: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Message {
    let mut message = Message::default();
    message.int(1, ir_version(opset));
    message.string(2, "pointwise");
    message.string(3, env!("CARGO_PKG_VERSION"));
    message.message(7, &graph);
    drop(graph);
    // For ONNX's own domain, whose name is empty.
    let mut operators = Message::default();
    operators.string(1, "");
    operators.int(2, opset.into());
    message.message(8, &operators);
    for (key, value) in metadata {
        let mut entry = Message::default();
        entry.string(1, key);
        entry.string(2, value);
        message.message(14, &entry);
    }
    message
}
