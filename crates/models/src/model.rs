//! A description turned into candle-nn modules.

use crate::network::{BATCH_NORM_EPS, BATCH_NORM_MOMENTUM, Layer, Network, PlacedLayer};
use crate::ops;
use candle_core::{Result, Tensor};
use candle_nn::{
    BatchNorm, BatchNormConfig, Conv2d, Conv2dConfig, Linear, Module, ModuleT, VarBuilder, batch_norm,
    conv2d, linear,
};
use pointwise_random::Dropout;
use std::sync::atomic::{AtomicU64, Ordering};

/// A network in candle-nn: `(N, C, H, W)` f32 images, normalised, to `(N, classes)` f32 logits.
#[derive(Debug)]
pub struct Model {
    stages: Vec<Stage>,
    seed: u64,
    /// Steps taken through [`ModuleT`], which does not say which step it is.
    steps: AtomicU64,
}

#[derive(Debug)]
enum Stage {
    Conv2d(Conv2d),
    BatchNorm(BatchNorm),
    Relu,
    MaxPool2d,
    Dropout { p: f64, layer: u32 },
    Linear(Linear),
    GlobalAvgPool,
    Flatten,
}

impl Model {
    /// Builds the modules with the variables of `vb`; `seed` is the dropout's.
    ///
    /// # Errors
    /// When the description does not fit together, or `vb` lacks a variable or has one of another shape.
    pub fn new(network: &Network, vb: VarBuilder<'_>, seed: u64) -> Result<Self> {
        let mut dropouts = 0;
        let stages = network
            .layers()
            .map_err(candle_core::Error::wrap)?
            .into_iter()
            .map(|PlacedLayer { path, layer, .. }| {
                let vb = vb.pp(path);
                Ok(match layer {
                    Layer::Conv2d { in_channels, out_channels, kernel, padding } => {
                        let config = Conv2dConfig { padding, ..Default::default() };
                        Stage::Conv2d(conv2d(in_channels, out_channels, kernel, config, vb)?)
                    }
                    Layer::BatchNorm2d { channels } => {
                        let config = BatchNormConfig {
                            eps: BATCH_NORM_EPS,
                            momentum: BATCH_NORM_MOMENTUM,
                            ..Default::default()
                        };
                        Stage::BatchNorm(batch_norm(channels, config, vb)?)
                    }
                    Layer::Relu => Stage::Relu,
                    Layer::MaxPool2d => Stage::MaxPool2d,
                    Layer::Dropout { p } => {
                        dropouts += 1;
                        Stage::Dropout { p, layer: dropouts - 1 }
                    }
                    Layer::Linear { in_features, out_features } => {
                        Stage::Linear(linear(in_features, out_features, vb)?)
                    }
                    Layer::GlobalAvgPool => Stage::GlobalAvgPool,
                    Layer::Flatten => Stage::Flatten,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { stages, seed, steps: AtomicU64::new(0) })
    }

    /// Logits in training mode: BatchNorm takes the batch's statistics and updates its running ones, dropout draws the mask of
    /// `step` (from 0).
    ///
    /// # Errors
    /// When the images have another shape than the description's input, or the device fails.
    pub fn forward_train(&self, images: &Tensor, step: u64) -> Result<Tensor> {
        self.forward(images, Some(step))
    }

    /// Logits in evaluation mode: BatchNorm takes its running statistics, dropout does nothing.
    ///
    /// # Errors
    /// As [`Model::forward_train`].
    pub fn forward_eval(&self, images: &Tensor) -> Result<Tensor> {
        self.forward(images, None)
    }

    fn forward(&self, images: &Tensor, step: Option<u64>) -> Result<Tensor> {
        let mut x = images.clone();
        for stage in &self.stages {
            x = match stage {
                Stage::Conv2d(conv) => conv.forward(&x)?,
                Stage::BatchNorm(norm) => norm.forward_t(&x, step.is_some())?,
                Stage::Relu => ops::relu(&x)?,
                Stage::MaxPool2d => ops::max_pool2d(&x)?,
                Stage::Dropout { p, layer } => match step {
                    Some(step) => ops::dropout(&x, Dropout { p: *p, seed: self.seed, step, layer: *layer })?,
                    None => x,
                },
                Stage::Linear(linear) => linear.forward(&x)?,
                Stage::GlobalAvgPool => x.mean_keepdim((2, 3))?,
                Stage::Flatten => x.flatten_from(1)?,
            };
        }
        Ok(x)
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

    fn logits(model: &Model, images: &Tensor, step: u64) -> Vec<f32> {
        model.forward_train(images, step).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn every_network_gives_ten_logits() {
        for name in Network::NAMES {
            let network = Network::by_name(name, 0.5).unwrap();
            let store = ParameterStore::initialised(&network, 1, &Device::Cpu).unwrap();
            let model = Model::new(&network, store.var_builder(&Device::Cpu), 1).unwrap();
            let images = Tensor::ones((2, 3, 32, 32), DType::F32, &Device::Cpu).unwrap();
            assert_eq!(model.forward_eval(&images).unwrap().dims(), [2, 10], "{name}");
        }
    }

    #[test]
    fn training_moves_the_stores_statistics_and_draws_a_mask_for_each_step() {
        let network = Network::alexnet_plain(0.5);
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
