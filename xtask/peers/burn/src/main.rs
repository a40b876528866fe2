//! Networks in burn, written as its documentation does, timed for `cargo xtask bench`.
//!
//! # Which backend
//! burn 0.22.1 is the newest release. Of its backends for a CPU this program uses `flex`, with all of its optional speed: SIMD,
//! threads, AVX-512 products. Measured roughly on two Zen 4 cores that other work shared:
//!
//! * `flex`: a training step of `alexnet`, batch 126, in 1.4 s; in batches of 16 in 0.23 s.
//! * `ndarray`, which burn calls deprecated: batches of 16 in 10.8 s, nearly fifty times as long, and a BLAS would not help, because
//!   its convolutions do not use one.
//! * `cpu`, which compiles its kernels with LLVM: could not be measured. Its build fetches LLVM from a place outside of the package
//!   registry, which was out of reach.
//! * `candle`: not available for this release of burn. Its kernels are those of the peer candle anyway.
//! * `tch`: PyTorch's library, and so PyTorch, which is measured by itself.
//!
//! Link-time optimisation and a single codegen unit changed nothing that could be told from noise.

use anyhow::{Context, bail};
use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::pool::{
    AdaptiveAvgPool2d, AdaptiveAvgPool2dConfig, AvgPool2d, AvgPool2dConfig, MaxPool2d, MaxPool2dConfig,
};
use burn::nn::{BatchNorm, BatchNormConfig, Dropout, DropoutConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor, TensorData, activation, s};
use peer_harness::{
    Adam, Approximation, Batch, Graph, Lacks, Node, Operation, Outcome, Peer, Phase,
};
use std::process::ExitCode;

/// A layer that burn has as a module; the others are functions.
#[derive(Module, Debug)]
enum Part {
    Conv(Conv2d),
    BatchNorm(BatchNorm),
    MaxPool(MaxPool2d),
    AvgPool(AvgPool2d),
    GlobalAverage(AdaptiveAvgPool2d),
    Dropout(Dropout),
    Linear(Linear),
}

#[derive(Module, Debug)]
struct Network {
    /// One for each node.
    parts: Vec<Option<Part>>,
}

/// The value of a node: burn's tensors have their number of dimensions in their type.
#[derive(Clone)]
enum Value {
    Maps(Tensor<4>),
    Vectors(Tensor<2>),
}

/// What is the same for maps and vectors.
macro_rules! on_either {
    ($value:expr, $tensor:ident => $result:expr) => {
        match $value {
            Value::Maps($tensor) => Value::Maps($result),
            Value::Vectors($tensor) => Value::Vectors($result),
        }
    };
}

impl Value {
    fn maps(self) -> anyhow::Result<Tensor<4>> {
        match self {
            Self::Maps(maps) => Ok(maps),
            Self::Vectors(_) => bail!("a layer of maps got vectors"),
        }
    }

    fn vectors(self) -> anyhow::Result<Tensor<2>> {
        match self {
            Self::Vectors(vectors) => Ok(vectors),
            Self::Maps(_) => bail!("a layer of vectors got maps"),
        }
    }

    fn and(
        self,
        other: Self,
        of_maps: fn(Tensor<4>, Tensor<4>) -> Tensor<4>,
        of_vectors: fn(Tensor<2>, Tensor<2>) -> Tensor<2>,
    ) -> anyhow::Result<Self> {
        Ok(match self {
            Self::Maps(maps) => Self::Maps(of_maps(maps, other.maps()?)),
            Self::Vectors(vectors) => Self::Vectors(of_vectors(vectors, other.vectors()?)),
        })
    }
}

impl Part {
    fn new(node: &Node, device: &Device) -> anyhow::Result<Option<Self>> {
        let explicit = |[rows, columns]: [usize; 2]| PaddingConfig2d::Explicit(rows, columns, rows, columns);
        Ok(Some(match node.operation {
            Operation::Conv2d { in_channels, out_channels, kernel_size, stride, padding, groups, bias } => {
                let config = Conv2dConfig::new([in_channels, out_channels], kernel_size)
                    .with_stride(stride)
                    .with_padding(explicit(padding))
                    .with_groups(groups)
                    .with_bias(bias);
                Self::Conv(config.init(device))
            }
            Operation::BatchNorm2d { num_features, eps, momentum, weight, bias } => {
                if !weight || !bias {
                    return Err(Lacks::new("it has no BatchNorm without weight or bias", node).into());
                }
                let config = BatchNormConfig::new(num_features).with_epsilon(eps).with_momentum(momentum);
                Self::BatchNorm(config.init(device))
            }
            Operation::MaxPool2d { kernel_size, stride, padding } => {
                let config = MaxPool2dConfig::new(kernel_size).with_strides(stride);
                Self::MaxPool(config.with_padding(explicit(padding)).init())
            }
            Operation::AvgPool2d { kernel_size, stride, padding, count_include_pad } => {
                let config = AvgPool2dConfig::new(kernel_size).with_strides(stride);
                let config = config.with_padding(explicit(padding)).with_count_include_pad(count_include_pad);
                Self::AvgPool(config.init())
            }
            Operation::AdaptiveAvgPool2d { output_size } => {
                Self::GlobalAverage(AdaptiveAvgPool2dConfig::new(output_size).init())
            }
            Operation::Dropout { p } => Self::Dropout(DropoutConfig::new(p).init()),
            Operation::Linear { in_features, out_features, bias } => {
                Self::Linear(LinearConfig::new(in_features, out_features).with_bias(bias).init(device))
            }
            _ => return Ok(None),
        }))
    }

    fn forward(&self, x: Value) -> anyhow::Result<Value> {
        Ok(match self {
            Self::Conv(conv) => Value::Maps(conv.forward(x.maps()?)),
            Self::BatchNorm(norm) => Value::Maps(norm.forward(x.maps()?)),
            Self::MaxPool(pool) => Value::Maps(pool.forward(x.maps()?)),
            Self::AvgPool(pool) => Value::Maps(pool.forward(x.maps()?)),
            Self::GlobalAverage(pool) => Value::Maps(pool.forward(x.maps()?)),
            Self::Dropout(dropout) => on_either!(x, x => dropout.forward(x)),
            Self::Linear(linear) => Value::Vectors(linear.forward(x.vectors()?)),
        })
    }
}

/// Operations that burn has as functions.
fn function(operation: &Operation, mut inputs: Vec<Value>) -> anyhow::Result<Value> {
    let joins = matches!(operation, Operation::Sum {} | Operation::Multiply {} | Operation::Concat {});
    if let (Operation::Concat {}, Value::Maps(_)) = (operation, &inputs[0]) {
        let maps = inputs.into_iter().map(Value::maps).collect::<anyhow::Result<_>>()?;
        return Ok(Value::Maps(Tensor::cat(maps, 1)));
    }
    if let (Operation::Concat {}, Value::Vectors(_)) = (operation, &inputs[0]) {
        let vectors = inputs.into_iter().map(Value::vectors).collect::<anyhow::Result<_>>()?;
        return Ok(Value::Vectors(Tensor::cat(vectors, 1)));
    }
    let others = if joins { inputs.split_off(1) } else { Vec::new() };
    let x = inputs.pop().context("a node reads nothing")?;
    Ok(match *operation {
        Operation::Sum {} => {
            others.into_iter().try_fold(x, |sum, other| sum.and(other, Tensor::add, Tensor::add))?
        }
        Operation::Multiply {} => {
            others.into_iter().try_fold(x, |product, other| product.and(other, Tensor::mul, Tensor::mul))?
        }
        Operation::Relu {} => on_either!(x, x => activation::relu(x)),
        Operation::Relu6 {} => on_either!(x, x => activation::relu6(x)),
        Operation::LeakyRelu { negative_slope } => {
            on_either!(x, x => activation::leaky_relu(x, negative_slope))
        }
        Operation::Gelu { approximate: Approximation::None } => on_either!(x, x => activation::gelu(x)),
        Operation::Gelu { approximate: Approximation::Tanh } => {
            on_either!(x, x => activation::gelu_approximate(x))
        }
        Operation::Silu {} => on_either!(x, x => activation::silu(x)),
        Operation::Sigmoid {} => on_either!(x, x => activation::sigmoid(x)),
        Operation::Tanh {} => on_either!(x, x => activation::tanh(x)),
        Operation::Flatten {} => match x {
            Value::Maps(maps) => Value::Vectors(maps.flatten(1, 3)),
            vectors @ Value::Vectors(_) => vectors,
        },
        Operation::Scale { factor } => on_either!(x, x => x.mul_scalar(factor)),
        Operation::Subsample { stride: [rows, columns] } => {
            Value::Maps(x.maps()?.slice(s![.., .., ..;rows as isize, ..;columns as isize]))
        }
        Operation::PadChannels { before, after } => {
            let maps = x.maps()?;
            let [n, _, rows, columns] = maps.dims();
            let zeros = |channels: usize| {
                (channels > 0).then(|| Tensor::zeros([n, channels, rows, columns], &maps.device()))
            };
            let (before, after) = (zeros(before), zeros(after));
            let parts = before.into_iter().chain([maps]).chain(after);
            Value::Maps(Tensor::cat(parts.collect(), 1))
        }
        ref other => bail!("{other:?} is no function"),
    })
}

impl Network {
    fn new(graph: &Graph, device: &Device) -> anyhow::Result<Self> {
        let parts = graph.nodes.iter().map(|node| Part::new(node, device));
        Ok(Self { parts: parts.collect::<anyhow::Result<_>>()? })
    }

    fn forward(&self, graph: &Graph, images: Tensor<4>) -> anyhow::Result<Tensor<2>> {
        let compute = |place: usize, mut inputs: Vec<Value>| match &self.parts[place] {
            Some(part) => part.forward(inputs.pop().context("a layer reads nothing")?),
            None => function(&graph.nodes[place].operation, inputs),
        };
        graph.walk(Value::Maps(images), compute)?.vectors()
    }
}

struct Burn {
    graph: Graph,
    device: Device,
    /// `None` only within a step, which consumes the network and returns a new one.
    network: Option<Network>,
    optimizer: Option<ModuleOptimizer>,
    lr: f64,
    loss: CrossEntropyLoss,
    batches: Vec<(Tensor<4>, Tensor<1, Int>)>,
    parameters: usize,
}

/// Counts trainable values; burn's own count includes BatchNorm's running statistics.
struct Trainable(usize);

impl ModuleVisitor for Trainable {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if param.is_require_grad() {
            self.0 += param.lazy_shape().num_elements();
        }
    }
}

impl Peer for Burn {
    const CONTENDER: &'static str = "burn";

    fn version() -> Option<String> {
        peer_harness::locked_version(include_str!("../Cargo.lock"), "burn")
    }

    fn detail() -> String {
        "backend flex, autodiff, Adam".to_owned()
    }

    fn new(graph: &Graph, phase: Phase, adam: Adam, batches: &[Batch]) -> anyhow::Result<Self> {
        let plain = Device::flex();
        let training = plain.clone().autodiff();
        let network = Network::new(graph, &training)?;
        let mut trainable = Trainable(0);
        network.visit(&mut trainable);
        let (device, network, optimizer) = match phase {
            Phase::Train => {
                let config = AdamConfig::new()
                    .with_epsilon(1e-8)
                    .with_weight_decay(Some(WeightDecayConfig::new(adam.weight_decay as f32)));
                (training, network, Some(config.init()))
            }
            Phase::Eval => (plain, network.valid(), None),
        };
        let batches = batches
            .iter()
            .map(|batch| {
                let [channels, height, width] = graph.input;
                let images =
                    TensorData::new(batch.images.clone(), [batch.labels.len(), channels, height, width]);
                let labels: Vec<i32> = batch.labels.iter().map(|label| i32::from(*label)).collect();
                let labels = TensorData::new(labels, [batch.labels.len()]);
                (Tensor::from_data(images, &device), Tensor::from_data(labels, &device))
            })
            .collect();
        let loss = CrossEntropyLossConfig::new().init(&device);
        let (graph, network, parameters) = (graph.clone(), Some(network), trainable.0);
        Ok(Self { graph, device, network, optimizer, lr: adam.lr, loss, batches, parameters })
    }

    fn parameters(&self) -> usize {
        self.parameters
    }

    fn step(&mut self, batch: usize) -> anyhow::Result<Outcome> {
        let (images, labels) = self.batches[batch].clone();
        let Some(network) = self.network.take() else { bail!("a step failed before this one") };
        let logits = network.forward(&self.graph, images)?;
        let loss = self.loss.forward(logits.clone(), labels.clone());
        let network = match &mut self.optimizer {
            Some(optimizer) => {
                let gradients = GradientsParams::from_grads(loss.backward(), &network);
                optimizer.step(self.lr, network, gradients)
            }
            None => network,
        };
        let n = labels.dims()[0];
        let correct = logits.argmax(1).reshape([n]).equal(labels).int().sum();
        let outcome =
            Outcome { loss: loss.into_scalar::<f32>().into(), correct: correct.into_scalar::<i64>() as u64 };
        self.network = Some(network);
        // An asynchronous backend must also finish the optimizer's part of the step.
        self.device.sync()?;
        Ok(outcome)
    }
}

fn main() -> ExitCode {
    peer_harness::run::<Burn>()
}
