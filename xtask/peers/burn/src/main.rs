//! The study's networks in burn, as its documentation has networks written, timed for `cargo xtask bench`.
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
//! * `candle`: there is none for this release of burn. Its kernels are those of the peer candle anyway.
//! * `tch`: PyTorch's library, and so PyTorch, which is measured by itself.
//!
//! Link-time optimisation and a single codegen unit changed nothing that could be told from noise.

use anyhow::bail;
use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::nn::pool::{AdaptiveAvgPool2d, AdaptiveAvgPool2dConfig, MaxPool2d, MaxPool2dConfig};
use burn::nn::{
    BatchNorm, BatchNormConfig, Dropout, DropoutConfig, Linear, LinearConfig, PaddingConfig2d, Relu,
};
use burn::optim::decay::WeightDecayConfig;
use burn::optim::{AdamConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Int, Tensor, TensorData};
use peer_harness::{Batch, IMAGE, LEARNING_RATE, Layer, Model, Outcome, Peer, Phase, WEIGHT_DECAY};
use std::process::ExitCode;

#[derive(Module, Debug)]
enum Part {
    Conv(Conv2d),
    BatchNorm(BatchNorm),
    Relu(Relu),
    MaxPool(MaxPool2d),
    GlobalAverage(AdaptiveAvgPool2d),
    Dropout(Dropout),
    Linear(Linear),
}

#[derive(Module, Debug)]
struct Network {
    maps: Vec<Part>,
    vectors: Vec<Part>,
}

impl Network {
    fn new(layers: &[Layer], device: &Device) -> Self {
        let mut network = Self { maps: Vec::new(), vectors: Vec::new() };
        let mut flat = false;
        for layer in layers {
            let part = match *layer {
                Layer::Conv2d { input, output, kernel, padding } => Part::Conv(
                    Conv2dConfig::new([input, output], [kernel, kernel])
                        .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
                        .init(device),
                ),
                Layer::BatchNorm2d(channels) => Part::BatchNorm(BatchNormConfig::new(channels).init(device)),
                Layer::Relu => Part::Relu(Relu::new()),
                Layer::MaxPool2d => Part::MaxPool(MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init()),
                Layer::GlobalAveragePool => Part::GlobalAverage(AdaptiveAvgPool2dConfig::new([1, 1]).init()),
                Layer::Dropout(p) => Part::Dropout(DropoutConfig::new(p).init()),
                Layer::Linear { input, output } => {
                    Part::Linear(LinearConfig::new(input, output).init(device))
                }
                Layer::Flatten => {
                    flat = true;
                    continue;
                }
            };
            if flat { network.vectors.push(part) } else { network.maps.push(part) }
        }
        network
    }

    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let maps = self.maps.iter().fold(images, |x, part| match part {
            Part::Conv(conv) => conv.forward(x),
            Part::BatchNorm(norm) => norm.forward(x),
            Part::Relu(relu) => relu.forward(x),
            Part::MaxPool(pool) => pool.forward(x),
            Part::GlobalAverage(pool) => pool.forward(x),
            Part::Dropout(dropout) => dropout.forward(x),
            Part::Linear(_) => unreachable!("linear layers stand behind the flattening"),
        });
        self.vectors.iter().fold(maps.flatten(1, 3), |x, part| match part {
            Part::Relu(relu) => relu.forward(x),
            Part::Dropout(dropout) => dropout.forward(x),
            Part::Linear(linear) => linear.forward(x),
            _ => unreachable!("layers of maps stand before the flattening"),
        })
    }
}

struct Burn {
    device: Device,
    /// `None` only within a step, which consumes the network and gives a new one.
    network: Option<Network>,
    optimizer: Option<ModuleOptimizer>,
    loss: CrossEntropyLoss,
    batches: Vec<(Tensor<4>, Tensor<1, Int>)>,
    parameters: usize,
}

/// Counts trainable values; burn's own count has BatchNorm's running statistics in it.
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

    fn new(model: Model, phase: Phase, batches: &[Batch]) -> anyhow::Result<Self> {
        let plain = Device::flex();
        let training = plain.clone().autodiff();
        let network = Network::new(&model.layers(), &training);
        let mut trainable = Trainable(0);
        network.visit(&mut trainable);
        let (device, network, optimizer) = match phase {
            Phase::Train => {
                let adam = AdamConfig::new()
                    .with_epsilon(1e-8)
                    .with_weight_decay(Some(WeightDecayConfig::new(WEIGHT_DECAY as f32)));
                (training, network, Some(adam.init()))
            }
            Phase::Eval => (plain, network.valid(), None),
        };
        let batches = batches
            .iter()
            .map(|batch| {
                let [channels, height, width] = IMAGE;
                let images =
                    TensorData::new(batch.images.clone(), [batch.labels.len(), channels, height, width]);
                let labels: Vec<i32> = batch.labels.iter().map(|label| i32::from(*label)).collect();
                let labels = TensorData::new(labels, [batch.labels.len()]);
                (Tensor::from_data(images, &device), Tensor::from_data(labels, &device))
            })
            .collect();
        let loss = CrossEntropyLossConfig::new().init(&device);
        Ok(Self { device, network: Some(network), optimizer, loss, batches, parameters: trainable.0 })
    }

    fn parameters(&self) -> usize {
        self.parameters
    }

    fn step(&mut self, batch: usize) -> anyhow::Result<Outcome> {
        let (images, labels) = self.batches[batch].clone();
        let Some(network) = self.network.take() else { bail!("a step failed before this one") };
        let logits = network.forward(images);
        let loss = self.loss.forward(logits.clone(), labels.clone());
        let network = match &mut self.optimizer {
            Some(optimizer) => {
                let gradients = GradientsParams::from_grads(loss.backward(), &network);
                optimizer.step(LEARNING_RATE, network, gradients)
            }
            None => network,
        };
        let n = labels.dims()[0];
        let correct = logits.argmax(1).reshape([n]).equal(labels).int().sum();
        let outcome =
            Outcome { loss: loss.into_scalar::<f32>().into(), correct: correct.into_scalar::<i64>() as u64 };
        self.network = Some(network);
        // A backend that works behind our back has to finish the optimizer's part of the step, too.
        self.device.sync()?;
        Ok(outcome)
    }
}

fn main() -> ExitCode {
    peer_harness::run::<Burn>()
}
