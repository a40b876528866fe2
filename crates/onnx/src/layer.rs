//! Layers as ONNX operators.

use crate::model::{Attribute, Constant, Operator};
use pointwise_network::{
    Activation, AvgPool2d, Conv2d, Layer, MaxPool2d, PadChannels, Pair, Scale, Subsample,
};

/// A layer without weights: a chain of operators, with the constants that they also read.
#[derive(Debug, PartialEq)]
pub(crate) struct Emitted {
    /// The operators.
    pub(crate) steps: Vec<(Operator, Vec<(&'static str, Own)>)>,
    /// Whether the last one also reads the layer's input, as its first input.
    pub(crate) gate: bool,
}

/// A constant with its shape.
#[derive(Debug, PartialEq)]
pub(crate) enum Own {
    Float(f32),
    Ints(Vec<u64>),
}

impl Own {
    /// The values and their shape, which is empty for a single number.
    pub(crate) fn view(&self) -> (Constant<'_>, Vec<usize>) {
        match self {
            Self::Float(value) => (Constant::Floats(std::slice::from_ref(value)), Vec::new()),
            Self::Ints(values) => (Constant::Ints(values), vec![values.len()]),
        }
    }
}

impl From<Operator> for Emitted {
    fn from(operator: Operator) -> Self {
        Self { steps: vec![(operator, Vec::new())], gate: false }
    }
}

/// An operator that reads constants after its input.
fn with_constants<const N: usize>(kind: &'static str, constants: [(&'static str, Own); N]) -> Emitted {
    Emitted { steps: vec![(Operator::new(kind), constants.into())], gate: false }
}

/// The operators of a layer with this input shape.
///
/// # Panics
/// For the kinds of layers that have weights or do nothing.
pub(crate) fn operators(layer: &Layer, input: &[usize]) -> Emitted {
    if let Some(activation) = layer.activation() {
        return self::activation(activation);
    }
    let sizes = |values: &[usize]| Own::Ints(values.iter().map(|value| *value as u64).collect());
    match layer {
        Layer::MaxPool2d(pool @ MaxPool2d { kernel_size, stride: _, padding }) => {
            windows("MaxPool", *kernel_size, pool.stride(), *padding).into()
        }
        Layer::AvgPool2d(pool @ AvgPool2d { kernel_size, stride: _, padding, count_include_pad }) => {
            let average = windows("AveragePool", *kernel_size, pool.stride(), *padding);
            match (*padding, *count_include_pad) {
                (Pair::ZERO, _) | (_, false) => average.into(),
                _ => average.with("count_include_pad", Attribute::Int(1)).into(),
            }
        }
        // Its size is known, and more readers support this operator than GlobalAveragePool.
        Layer::AdaptiveAvgPool2d(_) => {
            windows("AveragePool", Pair([input[1], input[2]]), Pair::ONE, Pair::ZERO).into()
        }
        Layer::Flatten(_) => Operator::new("Flatten").with("axis", Attribute::Int(1)).into(),
        Layer::Scale(Scale { factor }) => with_constants("Mul", [("factor", Own::Float(*factor as f32))]),
        Layer::Subsample(Subsample { stride: Pair(stride) }) => with_constants(
            "Slice",
            [
                ("starts", Own::Ints(vec![0, 0])),
                ("ends", sizes(&input[1..])),
                ("axes", Own::Ints(vec![2, 3])),
                ("steps", sizes(stride)),
            ],
        ),
        Layer::PadChannels(PadChannels { before, after }) => {
            with_constants("Pad", [("pads", sizes(&[0, *before, 0, 0, 0, *after, 0, 0]))])
        }
        Layer::Conv2d(_) | Layer::Linear(_) | Layer::BatchNorm2d(_) | Layer::Dropout(_) => {
            unreachable!("{} has weights or does nothing", layer.class())
        }
        Layer::Relu(_)
        | Layer::Relu6(_)
        | Layer::LeakyRelu(_)
        | Layer::Gelu(_)
        | Layer::Silu(_)
        | Layer::Sigmoid(_)
        | Layer::Tanh(_) => unreachable!("{} is an activation", layer.class()),
    }
}

fn activation(activation: Activation) -> Emitted {
    match activation {
        Activation::Relu => Operator::new("Relu").into(),
        Activation::Relu6 => with_constants("Clip", [("min", Own::Float(0.0)), ("max", Own::Float(6.0))]),
        Activation::LeakyRelu { negative_slope } => {
            Operator::new("LeakyRelu").with("alpha", Attribute::Float(negative_slope as f32)).into()
        }
        Activation::Gelu => Operator::new("Gelu").into(),
        Activation::GeluTanh => Operator::new("Gelu").with("approximate", Attribute::Text("tanh")).into(),
        // The operator Swish is newer than most runtimes.
        Activation::Silu => Emitted {
            steps: vec![(Operator::new("Sigmoid"), Vec::new()), (Operator::new("Mul"), Vec::new())],
            gate: true,
        },
        Activation::Sigmoid => Operator::new("Sigmoid").into(),
        Activation::Tanh => Operator::new("Tanh").into(),
    }
}

pub(crate) fn convolution(layer: &Conv2d) -> Operator {
    let Conv2d { out_channels: _, kernel_size, stride, padding, groups, bias: _ } = layer;
    let operator = windows("Conv", *kernel_size, *stride, *padding);
    match groups {
        1 => operator,
        groups => operator.with("group", Attribute::Int(*groups as u64)),
    }
}

/// An operator over windows; attributes that are left out have their defaults.
fn windows(kind: &'static str, Pair(kernel): Pair, Pair(stride): Pair, Pair(padding): Pair) -> Operator {
    let operator = Operator::new(kind)
        .with("kernel_shape", Attribute::pair(kernel))
        .with("strides", Attribute::pair(stride));
    if padding == [0, 0] {
        return operator;
    }
    // At the start of both axes, then at their end.
    let [rows, columns] = padding.map(|size| size as u64);
    operator.with("pads", Attribute::Ints(vec![rows, columns, rows, columns]))
}
