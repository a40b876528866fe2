//! Networks as one would write them in candle, timed for `cargo xtask bench`: layers, loss and optimizer are candle-nn's own, with
//! its default features.
//!
//! candle-nn has no Adam with coupled weight decay; AdamW is the nearest, and does the same amount of work.

use anyhow::Context;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::{
    AdamW, BatchNorm, BatchNormConfig, Conv2d, Conv2dConfig, Dropout, Init, Linear, Module, ModuleT,
    Optimizer, ParamsAdamW, VarBuilder, VarMap, batch_norm, init::DEFAULT_KAIMING_NORMAL, linear_b,
    loss::cross_entropy, ops,
};
use peer_harness::{
    Adam, Approximation, Batch, Graph, Lacks, Node, Operation, Outcome, Peer, Phase,
};
use std::process::ExitCode;

/// What a node computes: a layer of candle-nn, or an operation that takes one line in a candle forward pass.
enum Part {
    Conv(Conv2d),
    BatchNorm(BatchNorm),
    Dropout(Dropout),
    Linear(Linear),
    Line(Operation),
}

impl Part {
    fn new(node: &Node, phase: Phase, builder: VarBuilder<'_>) -> anyhow::Result<Self> {
        Ok(match node.operation {
            Operation::Conv2d { in_channels, out_channels, kernel_size, stride, padding, groups, bias } => {
                if stride[0] != stride[1] || padding[0] != padding[1] {
                    let what =
                        "its convolutions know one stride and one padding for rows and columns, not two";
                    return Err(Lacks::new(what, node).into());
                }
                let config = Conv2dConfig {
                    padding: padding[0],
                    stride: stride[0],
                    groups,
                    ..Conv2dConfig::default()
                };
                let inputs = in_channels / groups * kernel_size[0] * kernel_size[1];
                let shape = (out_channels, in_channels / groups, kernel_size[0], kernel_size[1]);
                // As `candle_nn::conv2d`, whose kernels are square.
                let weight = builder.get_with_hints(shape, "weight", DEFAULT_KAIMING_NORMAL)?;
                let bound = 1.0 / (inputs as f64).sqrt();
                let uniform = Init::Uniform { lo: -bound, up: bound };
                let bias = bias.then(|| builder.get_with_hints(out_channels, "bias", uniform)).transpose()?;
                Self::Conv(Conv2d::new(weight, bias, config))
            }
            Operation::BatchNorm2d { num_features, eps, momentum, weight, bias } => {
                if weight != bias {
                    let what = "its BatchNorm has weight and bias or neither, not one of them";
                    return Err(Lacks::new(what, node).into());
                }
                let config = BatchNormConfig { eps, momentum, affine: weight, ..BatchNormConfig::default() };
                Self::BatchNorm(batch_norm(num_features, config, builder)?)
            }
            Operation::Linear { in_features, out_features, bias } => {
                Self::Linear(linear_b(in_features, out_features, bias, builder)?)
            }
            Operation::Dropout { p } => Self::Dropout(Dropout::new(p as f32)),
            Operation::MaxPool2d { kernel_size, stride, padding }
            | Operation::AvgPool2d { kernel_size, stride, padding, .. } => {
                if padding != [0, 0] {
                    return Err(Lacks::new("its pools have no padding", node).into());
                }
                if phase == Phase::Train && kernel_size != stride {
                    let what = "its pools have no gradients for overlapping windows";
                    return Err(Lacks::new(what, node).into());
                }
                Self::Line(node.operation.clone())
            }
            _ => Self::Line(node.operation.clone()),
        })
    }

    fn forward(&self, inputs: &[Tensor], train: bool) -> candle_core::Result<Tensor> {
        let x = &inputs[0];
        match self {
            Self::Conv(conv) => conv.forward(x),
            Self::BatchNorm(norm) => norm.forward_t(x, train),
            Self::Dropout(dropout) => dropout.forward(x, train),
            Self::Linear(linear) => linear.forward(x),
            Self::Line(operation) => line(operation, inputs),
        }
    }
}

fn line(operation: &Operation, inputs: &[Tensor]) -> candle_core::Result<Tensor> {
    let x = &inputs[0];
    match *operation {
        Operation::Sum {} => inputs[1..].iter().try_fold(x.clone(), |sum, other| sum + other),
        Operation::Multiply {} => {
            inputs[1..].iter().try_fold(x.clone(), |product, other| product.broadcast_mul(other))
        }
        Operation::Concat {} => Tensor::cat(inputs, 1),
        Operation::Relu {} => x.relu(),
        Operation::Relu6 {} => x.clamp(0f64, 6f64),
        Operation::LeakyRelu { negative_slope } => ops::leaky_relu(x, negative_slope),
        Operation::Gelu { approximate: Approximation::None } => x.gelu_erf(),
        Operation::Gelu { approximate: Approximation::Tanh } => x.gelu(),
        Operation::Silu {} => x.silu(),
        Operation::Sigmoid {} => ops::sigmoid(x),
        Operation::Tanh {} => x.tanh(),
        Operation::MaxPool2d { kernel_size: [rows, columns], stride, .. } => {
            x.max_pool2d_with_stride((rows, columns), (stride[0], stride[1]))
        }
        Operation::AvgPool2d { kernel_size: [rows, columns], stride, .. } => {
            x.avg_pool2d_with_stride((rows, columns), (stride[0], stride[1]))
        }
        Operation::AdaptiveAvgPool2d { .. } => x.mean_keepdim((2, 3)),
        Operation::Flatten {} => x.flatten_from(1),
        Operation::Scale { factor } => x * factor,
        Operation::Subsample { stride } => {
            let mut x = x.clone();
            for (axis, stride) in [(2, stride[0]), (3, stride[1])] {
                let places = Tensor::arange_step(0u32, x.dim(axis)? as u32, stride as u32, x.device())?;
                x = x.index_select(&places, axis)?;
            }
            Ok(x)
        }
        Operation::PadChannels { before, after } => x.pad_with_zeros(1, before, after),
        Operation::Input {}
        | Operation::Conv2d { .. }
        | Operation::BatchNorm2d { .. }
        | Operation::Linear { .. }
        | Operation::Dropout { .. } => unreachable!("the image is given, and layers are parts of their own"),
    }
}

struct Candle {
    graph: Graph,
    /// One for each node.
    parts: Vec<Part>,
    optimizer: Option<AdamW>,
    parameters: usize,
    batches: Vec<(Tensor, Tensor)>,
}

impl Peer for Candle {
    const CONTENDER: &'static str = "candle";

    fn version() -> Option<String> {
        peer_harness::locked_version(include_str!("../Cargo.lock"), "candle-core")
    }

    fn detail() -> String {
        "candle-nn with default features, AdamW".to_owned()
    }

    fn new(graph: &Graph, phase: Phase, adam: Adam, batches: &[Batch]) -> anyhow::Result<Self> {
        let variables = VarMap::new();
        let builder = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let part = |node: &Node| Part::new(node, phase, builder.pp(&node.path));
        let parts = graph.nodes.iter().map(part).collect::<anyhow::Result<_>>()?;
        // The map holds BatchNorm's running statistics as well, which are not trained.
        let trained: Vec<_> = {
            let variables = variables.data().lock().ok().context("the variables are poisoned")?;
            variables
                .iter()
                .filter(|(name, _)| !name.contains("running_"))
                .map(|(_, variable)| variable.clone())
                .collect()
        };
        let parameters = trained.iter().map(|variable| variable.elem_count()).sum();
        let optimizer = match phase {
            Phase::Train => {
                let Adam { lr, weight_decay } = adam;
                let config = ParamsAdamW { lr, weight_decay, ..ParamsAdamW::default() };
                Some(AdamW::new(trained, config)?)
            }
            Phase::Eval => None,
        };
        let batches = batches
            .iter()
            .map(|batch| {
                let [channels, height, width] = graph.input;
                let shape = (batch.labels.len(), channels, height, width);
                let labels: Vec<u32> = batch.labels.iter().map(|label| u32::from(*label)).collect();
                let images = Tensor::from_slice(&batch.images, shape, &Device::Cpu)?;
                Ok((images, Tensor::new(labels, &Device::Cpu)?))
            })
            .collect::<candle_core::Result<_>>()?;
        Ok(Self { graph: graph.clone(), parts, optimizer, parameters, batches })
    }

    fn parameters(&self) -> usize {
        self.parameters
    }

    fn step(&mut self, batch: usize) -> anyhow::Result<Outcome> {
        let (images, labels) = &self.batches[batch];
        let train = self.optimizer.is_some();
        let forward = |place: usize, inputs: Vec<Tensor>| self.parts[place].forward(&inputs, train);
        let logits = self.graph.walk(images.clone(), forward)?;
        let loss = cross_entropy(&logits, labels)?;
        if let Some(optimizer) = &mut self.optimizer {
            optimizer.backward_step(&loss)?;
        }
        let correct = logits.argmax(D::Minus1)?.eq(labels)?.to_dtype(DType::F32)?.sum_all()?;
        Ok(Outcome { loss: loss.to_scalar::<f32>()?.into(), correct: correct.to_scalar::<f32>()? as u64 })
    }
}

fn main() -> ExitCode {
    peer_harness::run::<Candle>()
}
