//! A description turned into candle-nn modules.

use crate::activation::activation;
use candle_core::{Result, Tensor};
use candle_nn::{BatchNorm, Linear, Module, ModuleT, VarBuilder};
use pointwise_candle::composed::{self, Placement, Windows};
use pointwise_network::{
    Activation, AvgPool2d, BatchNorm2d, Conv2d, Graph, Layer, MaxPool2d, Node, Operation, Pair,
};
use pointwise_random::Dropout;
use std::sync::atomic::{AtomicU64, Ordering};

/// A network in candle-nn: `(N, C, H, W)` f32 images, normalised, to `(N, classes)` f32 logits.
#[derive(Debug)]
pub struct Model {
    nodes: Vec<ModelNode>,
    seed: u64,
    /// Steps taken through [`ModuleT`], which does not say which step it is.
    steps: AtomicU64,
}

#[derive(Debug)]
struct ModelNode {
    module: ModuleKind,
    inputs: Vec<usize>,
}

#[derive(Debug)]
enum ModuleKind {
    Input,
    Conv2d { layer: Conv2d, weight: Tensor, bias: Option<Tensor> },
    BatchNorm(BatchNorm),
    Activation(Activation),
    MaxPool2d(MaxPool2d),
    AvgPool2d(AvgPool2d),
    GlobalAvgPool,
    Dropout { p: f64, layer: u32 },
    Linear(Linear),
    Flatten,
    Scale(f64),
    Subsample(Pair),
    PadChannels { before: usize, after: usize },
    Sum,
    Concat,
    Multiply,
}

impl ModuleKind {
    /// The module of a node that reads `inputs` of these shapes; `dropouts` counts the dropout layers so far.
    fn new(graph: &Graph, node: &Node, vb: &VarBuilder<'_>, dropouts: &mut u32) -> Result<Self> {
        let layer = match &node.operation {
            Operation::Input => return Ok(Self::Input),
            Operation::Sum => return Ok(Self::Sum),
            Operation::Concat => return Ok(Self::Concat),
            Operation::Multiply => return Ok(Self::Multiply),
            Operation::Layer(layer) => layer,
        };
        let input = graph.nodes[node.inputs[0]].output.as_slice();
        let vb = vb.pp(&node.path);
        if let Some(activation) = layer.activation() {
            return Ok(Self::Activation(activation));
        }
        Ok(match layer {
            Layer::Conv2d(layer) => {
                let Pair([rows, columns]) = layer.kernel_size;
                let shape = (layer.out_channels, input[0] / layer.groups, rows, columns);
                let bias = layer.bias.then(|| vb.get(layer.out_channels, "bias")).transpose()?;
                Self::Conv2d { weight: vb.get(shape, "weight")?, bias, layer: layer.clone() }
            }
            Layer::Linear(layer) => {
                let bias = layer.bias.then(|| vb.get(layer.out_features, "bias")).transpose()?;
                Self::Linear(Linear::new(vb.get((layer.out_features, input[0]), "weight")?, bias))
            }
            Layer::BatchNorm2d(layer) => Self::BatchNorm(batch_norm(layer, input[0], &vb)?),
            Layer::MaxPool2d(layer) => Self::MaxPool2d(layer.clone()),
            Layer::AvgPool2d(layer) => Self::AvgPool2d(layer.clone()),
            Layer::AdaptiveAvgPool2d(_) => Self::GlobalAvgPool,
            Layer::Dropout(layer) => {
                *dropouts += 1;
                Self::Dropout { p: layer.p, layer: *dropouts - 1 }
            }
            Layer::Flatten(_) => Self::Flatten,
            Layer::Scale(layer) => Self::Scale(layer.factor),
            Layer::Subsample(layer) => Self::Subsample(layer.stride),
            Layer::PadChannels(layer) => Self::PadChannels { before: layer.before, after: layer.after },
            Layer::Relu(_)
            | Layer::Relu6(_)
            | Layer::LeakyRelu(_)
            | Layer::Gelu(_)
            | Layer::Silu(_)
            | Layer::Sigmoid(_)
            | Layer::Tanh(_) => candle_core::bail!("{} is not an activation", layer.class()),
        })
    }

    fn forward(&self, inputs: &[&Tensor], step: Option<u64>, seed: u64) -> Result<Tensor> {
        let x = inputs[0];
        match self {
            Self::Input => Ok(x.clone()),
            Self::Conv2d { layer, weight, bias } => {
                let placement = Placement {
                    stride: layer.stride.0,
                    padding: layer.padding.0,
                    dilation: [1, 1],
                    groups: layer.groups,
                };
                let y = composed::conv2d(x, weight, &placement)?;
                match bias {
                    Some(bias) => y.broadcast_add(&bias.reshape((1, (), 1, 1))?),
                    None => Ok(y),
                }
            }
            Self::BatchNorm(norm) => norm.forward_t(x, step.is_some()),
            Self::Activation(kind) => activation(x, *kind),
            Self::MaxPool2d(layer) => {
                composed::max_pool2d(x, &windows(layer.kernel_size, layer.stride(), layer.padding))
            }
            Self::AvgPool2d(layer) => {
                let windows = windows(layer.kernel_size, layer.stride(), layer.padding);
                composed::avg_pool2d(x, &windows, layer.count_include_pad)
            }
            Self::GlobalAvgPool => x.mean_keepdim((2, 3)),
            Self::Dropout { p, layer } => match step {
                Some(step) => composed::dropout(x, Dropout { p: *p, seed, step, layer: *layer }),
                None => Ok(x.clone()),
            },
            Self::Linear(linear) => linear.forward(x),
            Self::Flatten => x.flatten_from(1),
            Self::Scale(factor) => x.affine(*factor, 0.0),
            Self::Subsample(Pair(stride)) => composed::subsample(x, *stride),
            Self::PadChannels { before, after } => x.pad_with_zeros(1, *before, *after),
            Self::Sum => inputs[1..].iter().try_fold(x.clone(), |sum, input| &sum + *input),
            Self::Concat => Tensor::cat(inputs, 1),
            Self::Multiply => {
                inputs[1..].iter().try_fold(x.clone(), |product, input| product.broadcast_mul(input))
            }
        }
    }
}

fn windows(kernel: Pair, stride: Pair, padding: Pair) -> Windows {
    Windows { kernel: kernel.0, stride: stride.0, padding: padding.0 }
}

/// Adds a weight of ones or a bias of zeros if the layer lacks it: candle has both or neither.
fn batch_norm(layer: &BatchNorm2d, channels: usize, vb: &VarBuilder<'_>) -> Result<BatchNorm> {
    let (mean, variance) = (vb.get(channels, "running_mean")?, vb.get(channels, "running_var")?);
    let weight = if layer.weight { vb.get(channels, "weight")? } else { mean.ones_like()? };
    let bias = if layer.bias { vb.get(channels, "bias")? } else { mean.zeros_like()? };
    BatchNorm::new_with_momentum(channels, mean, variance, weight, bias, layer.eps, layer.momentum)
}

impl Model {
    /// Builds the modules with the variables of `vb`; `seed` is that of dropout.
    ///
    /// # Errors
    /// When `vb` lacks a variable or has one of another shape.
    pub fn new(graph: &Graph, vb: VarBuilder<'_>, seed: u64) -> Result<Self> {
        let mut dropouts = 0;
        let nodes = graph
            .nodes
            .iter()
            .map(|node| {
                let module = ModuleKind::new(graph, node, &vb, &mut dropouts)?;
                Ok(ModelNode { module, inputs: node.inputs.clone() })
            })
            .collect::<Result<_>>()?;
        Ok(Self { nodes, seed, steps: AtomicU64::new(0) })
    }

    /// Logits in training mode: BatchNorm uses the batch statistics and updates its running ones, dropout draws the mask of `step` (from 0).
    ///
    /// # Errors
    /// When the images have another shape than the description's input, or the device fails.
    pub fn forward_train(&self, images: &Tensor, step: u64) -> Result<Tensor> {
        self.forward(images, Some(step))
    }

    /// Logits in evaluation mode: BatchNorm uses its running statistics, dropout does nothing.
    ///
    /// # Errors
    /// As [`Model::forward_train`].
    pub fn forward_eval(&self, images: &Tensor) -> Result<Tensor> {
        self.forward(images, None)
    }

    fn forward(&self, images: &Tensor, step: Option<u64>) -> Result<Tensor> {
        let mut values: Vec<Tensor> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let value = match node.module {
                ModuleKind::Input => images.clone(),
                _ => {
                    let inputs: Vec<&Tensor> = node.inputs.iter().map(|input| &values[*input]).collect();
                    node.module.forward(&inputs, step, self.seed)?
                }
            };
            values.push(value);
        }
        match values.pop() {
            Some(logits) => Ok(logits),
            None => candle_core::bail!("the network has no input"),
        }
    }
}

impl ModuleT for Model {
    /// In training mode, every call counts as the next step.
    fn forward_t(&self, images: &Tensor, train: bool) -> Result<Tensor> {
        let step = train.then(|| self.steps.fetch_add(1, Ordering::Relaxed));
        self.forward(images, step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ParameterStore;
    use candle_core::{DType, Device};
    use pointwise_network::Network;

    fn logits(model: &Model, images: &Tensor, step: u64) -> Vec<f32> {
        model.forward_train(images, step).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn every_network_gives_ten_logits() {
        for name in ["alexnet_plain", "alexnet", "nin"] {
            let network = Network::by_name(name).unwrap().graph().unwrap();
            let store = ParameterStore::initialised(&network, 1, &Device::Cpu).unwrap();
            let model = Model::new(&network, store.var_builder(&Device::Cpu), 1).unwrap();
            let images = Tensor::ones((2, 3, 32, 32), DType::F32, &Device::Cpu).unwrap();
            assert_eq!(model.forward_eval(&images).unwrap().dims(), [2, 10], "{name}");
        }
    }

    #[test]
    fn training_moves_the_stores_statistics_and_draws_a_mask_for_each_step() {
        let network = Network::by_name("alexnet_plain").unwrap().graph().unwrap();
        let store = ParameterStore::initialised(&network, 1, &Device::Cpu).unwrap();
        let model = Model::new(&network, store.var_builder(&Device::Cpu), 1).unwrap();
        let images = Tensor::arange(0f32, 2.0 * 3072.0, &Device::Cpu).unwrap();
        let images = (images / 3072.0).unwrap().reshape((2, 3, 32, 32)).unwrap();
        let before = store.statistics()["features.1.running_mean"].to_vec1::<f32>().unwrap();
        let first = logits(&model, &images, 0);
        assert_ne!(before, store.statistics()["features.1.running_mean"].to_vec1::<f32>().unwrap());
        assert_eq!(first, logits(&model, &images, 0));
        assert_ne!(first, logits(&model, &images, 1));
    }
}
