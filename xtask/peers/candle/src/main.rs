//! The study's networks as somebody writes them in candle today, timed for `cargo xtask bench`: layers, loss and optimizer are
//! candle-nn's own, with its default features.
//!
//! candle-nn has no Adam with coupled weight decay; AdamW is the nearest, and does the same amount of work.

use anyhow::Context;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::{
    AdamW, BatchNorm, BatchNormConfig, Conv2d, Conv2dConfig, Dropout, Linear, Module, ModuleT, Optimizer,
    ParamsAdamW, VarBuilder, VarMap, batch_norm, conv2d, linear, loss::cross_entropy,
};
use peer_harness::{Batch, IMAGE, LEARNING_RATE, Layer, Model, Outcome, Peer, Phase, WEIGHT_DECAY};
use std::process::ExitCode;

enum Part {
    Conv(Conv2d),
    BatchNorm(BatchNorm),
    Relu,
    MaxPool,
    GlobalAverage,
    Flatten,
    Dropout(Dropout),
    Linear(Linear),
}

impl Part {
    fn new(layer: Layer, builder: VarBuilder<'_>) -> candle_core::Result<Self> {
        Ok(match layer {
            Layer::Conv2d { input, output, kernel, padding } => {
                let config = Conv2dConfig { padding, ..Conv2dConfig::default() };
                Self::Conv(conv2d(input, output, kernel, config, builder)?)
            }
            // Its defaults are the study's: eps 1e-5, momentum 0.1.
            Layer::BatchNorm2d(channels) => {
                Self::BatchNorm(batch_norm(channels, BatchNormConfig::default(), builder)?)
            }
            Layer::Relu => Self::Relu,
            Layer::MaxPool2d => Self::MaxPool,
            Layer::GlobalAveragePool => Self::GlobalAverage,
            Layer::Flatten => Self::Flatten,
            Layer::Dropout(p) => Self::Dropout(Dropout::new(p as f32)),
            Layer::Linear { input, output } => Self::Linear(linear(input, output, builder)?),
        })
    }

    fn forward(&self, x: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        match self {
            Self::Conv(conv) => conv.forward(x),
            Self::BatchNorm(norm) => norm.forward_t(x, train),
            Self::Relu => x.relu(),
            Self::MaxPool => x.max_pool2d(2),
            Self::GlobalAverage => x.mean((2, 3)),
            Self::Flatten => x.flatten_from(1),
            Self::Dropout(dropout) => dropout.forward(x, train),
            Self::Linear(linear) => linear.forward(x),
        }
    }
}

struct Candle {
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

    fn new(model: Model, phase: Phase, batches: &[Batch]) -> anyhow::Result<Self> {
        let variables = VarMap::new();
        let builder = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let parts = model
            .layers()
            .into_iter()
            .enumerate()
            .map(|(index, layer)| Part::new(layer, builder.pp(index)))
            .collect::<candle_core::Result<_>>()?;
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
                let config =
                    ParamsAdamW { lr: LEARNING_RATE, weight_decay: WEIGHT_DECAY, ..ParamsAdamW::default() };
                Some(AdamW::new(trained, config)?)
            }
            Phase::Eval => None,
        };
        let batches = batches
            .iter()
            .map(|batch| {
                let [channels, height, width] = IMAGE;
                let shape = (batch.labels.len(), channels, height, width);
                let labels: Vec<u32> = batch.labels.iter().map(|label| u32::from(*label)).collect();
                let images = Tensor::from_slice(&batch.images, shape, &Device::Cpu)?;
                Ok((images, Tensor::new(labels, &Device::Cpu)?))
            })
            .collect::<candle_core::Result<_>>()?;
        Ok(Self { parts, optimizer, parameters, batches })
    }

    fn parameters(&self) -> usize {
        self.parameters
    }

    fn step(&mut self, batch: usize) -> anyhow::Result<Outcome> {
        let (images, labels) = &self.batches[batch];
        let train = self.optimizer.is_some();
        let mut x = images.clone();
        for part in &self.parts {
            x = part.forward(&x, train)?;
        }
        let loss = cross_entropy(&x, labels)?;
        if let Some(optimizer) = &mut self.optimizer {
            optimizer.backward_step(&loss)?;
        }
        let correct = x.argmax(D::Minus1)?.eq(labels)?.to_dtype(DType::F32)?.sum_all()?;
        Ok(Outcome { loss: loss.to_scalar::<f32>()?.into(), correct: correct.to_scalar::<f32>()? as u64 })
    }
}

fn main() -> ExitCode {
    peer_harness::run::<Candle>()
}
