//! The reference engine: candle autograd over candle-nn modules.
//!
//! Every operation is candle's own where that is right, and a composition of candle operations (`pointwise_models::ops`) where
//! it is not. It runs on every device that candle has, allocates as it goes and keeps the whole graph of a step: it is there to
//! be believed, not to be fast.

use crate::batch::{Batch, Totals, check_batch, count_correct};
use crate::device::DeviceName;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::memory::lacking;
use crate::settings::Settings;
use crate::state::{Array, Moments, State};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::loss::cross_entropy;
use pointwise_models::{Model, ParameterStore};
use pointwise_network::Network;
use std::collections::BTreeMap;

/// See the [module](self).
#[derive(Debug)]
pub struct Reference {
    network: Network,
    classes: usize,
    device: Device,
    settings: Settings,
    store: ParameterStore,
    model: Model,
    first: BTreeMap<String, Var>,
    second: BTreeMap<String, Var>,
    step: u64,
    batches_tracked: BTreeMap<String, i64>,
    totals: Totals,
}

impl Reference {
    /// Makes an engine with the network's initial values.
    ///
    /// # Errors
    /// [`EngineError::Network`], [`EngineError::DeviceUnavailable`], [`EngineError::Device`].
    pub fn new(network: &Network, settings: &Settings) -> Result<Self, EngineError> {
        let graph = network.graph()?;
        let device = settings.device.open()?;
        let store = ParameterStore::initialised(&graph, settings.seed, &device)?;
        let model = Model::new(&graph, store.var_builder(&device), settings.seed)?;
        let zeros = || zeros_like(store.trainable());
        let batches_tracked = store
            .statistics()
            .keys()
            .filter_map(|name| name.strip_suffix("running_mean"))
            .map(|path| (format!("{path}num_batches_tracked"), 0))
            .collect();
        Ok(Self {
            network: network.clone(),
            classes: graph.classes(),
            device,
            settings: settings.clone(),
            first: zeros()?,
            second: zeros()?,
            store,
            model,
            step: 0,
            batches_tracked,
            totals: Totals::default(),
        })
    }

    /// Images as `(N, C, H, W)` f32 and labels as `(N)` u32, on the device.
    fn tensors(&self, batch: Batch<'_>) -> Result<(Tensor, Tensor), EngineError> {
        check_batch(batch, self.network.input, self.classes)?;
        let labels: Vec<u32> = batch.labels.iter().map(|label| u32::from(*label)).collect();
        Ok((self.images(batch.images)?, Tensor::from_vec(labels, batch.labels.len(), &self.device)?))
    }

    fn images(&self, images: &[f32]) -> Result<Tensor, EngineError> {
        let [channels, height, width] = self.network.input;
        let image = channels * height * width;
        if images.is_empty() || !images.len().is_multiple_of(image) {
            return Err(EngineError::Batch(format!(
                "{} values are not a whole number of images of {image}",
                images.len()
            )));
        }
        let shape = (images.len() / image, channels, height, width);
        Ok(Tensor::from_slice(images, shape, &self.device)?)
    }

    /// Adds a batch to the totals; refuses a loss that is not finite.
    fn add(&mut self, loss: &Tensor, logits: &Tensor, labels: &[u8], step: u64) -> Result<(), EngineError> {
        let loss = f64::from(loss.to_scalar::<f32>()?);
        if !loss.is_finite() {
            return Err(EngineError::NotFinite { step, loss });
        }
        let correct = count_correct(&host(logits)?, labels, self.classes);
        self.totals.add(loss, correct, labels.len() as u64);
        Ok(())
    }

    /// Loss, and the gradient of every parameter by name, of one batch in training mode, without taking the step.
    ///
    /// BatchNorm's running statistics are updated, as by every forward pass in training mode.
    ///
    /// # Errors
    /// As [`Engine::train_step`].
    pub fn gradients(&mut self, batch: Batch<'_>) -> Result<(f64, BTreeMap<String, Array>), EngineError> {
        let (_, loss, gradients) = self.forward_backward(batch)?;
        let gradients = gradients
            .into_iter()
            .map(|(name, gradient)| Ok((name, array(&gradient)?)))
            .collect::<Result<_, EngineError>>()?;
        Ok((f64::from(loss.to_scalar::<f32>()?), gradients))
    }

    /// Logits in training mode with the dropout of the coming step; BatchNorm's running statistics are updated.
    ///
    /// # Errors
    /// [`EngineError::Batch`], [`EngineError::Device`].
    pub fn training_logits(&mut self, images: &[f32]) -> Result<Vec<f32>, EngineError> {
        let logits = self.model.forward_train(&self.images(images)?, self.step)?;
        host(&logits)
    }

    fn forward_backward(
        &mut self,
        batch: Batch<'_>,
    ) -> Result<(Tensor, Tensor, BTreeMap<String, Tensor>), EngineError> {
        let (images, labels) = self.tensors(batch)?;
        let logits = self.model.forward_train(&images, self.step)?;
        for tracked in self.batches_tracked.values_mut() {
            *tracked += 1;
        }
        let loss = cross_entropy(&logits, &labels)?;
        let mut all = loss.backward()?;
        let gradients = self
            .store
            .trainable()
            .iter()
            .map(|(name, parameter)| match all.remove(parameter) {
                Some(gradient) => Ok((name.clone(), gradient)),
                None => Err(EngineError::MissingGradient(name.clone())),
            })
            .collect::<Result<_, EngineError>>()?;
        Ok((logits, loss, gradients))
    }
}

impl Engine for Reference {
    fn train_step(&mut self, batch: Batch<'_>) -> Result<(), EngineError> {
        let (logits, loss, gradients) = self.forward_backward(batch)?;
        self.add(&loss, &logits, batch.labels, self.step + 1)?;
        self.step += 1;
        for (name, parameter) in self.store.trainable() {
            let (first, second) = (&self.first[name], &self.second[name]);
            self.settings.adam.update(parameter, &gradients[name], first, second, self.step)?;
        }
        Ok(())
    }

    fn evaluate(&mut self, batch: Batch<'_>) -> Result<(), EngineError> {
        let (images, labels) = self.tensors(batch)?;
        let logits = self.model.forward_eval(&images)?.detach();
        let loss = cross_entropy(&logits, &labels)?;
        self.add(&loss, &logits, batch.labels, self.step)
    }

    fn logits(&mut self, images: &[f32]) -> Result<Vec<f32>, EngineError> {
        let logits = self.model.forward_eval(&self.images(images)?)?;
        host(&logits)
    }

    fn prepare(&mut self, batch: usize, training: bool) -> Result<(), EngineError> {
        if self.settings.device != DeviceName::Cpu {
            return Ok(());
        }
        // At the least: the results of all layers lie there at once, and their gradients.
        let graph = self.network.graph()?;
        let values: usize = graph.nodes[1..].iter().map(|node| node.output.iter().product::<usize>()).sum();
        let floats = if training { 2 * values } else { values };
        let need = batch.saturating_mul(floats).saturating_mul(size_of::<f32>()) as u64;
        match lacking(need) {
            Some(available) => Err(EngineError::Memory {
                what: format!("`{}` in batches of {batch}", self.network.name),
                need,
                available,
                fix: "give a smaller --batch-size, or use `--engine cpu`",
            }),
            None => Ok(()),
        }
    }

    fn totals(&mut self) -> Result<Totals, EngineError> {
        Ok(self.totals)
    }

    fn set_totals(&mut self, totals: Totals) -> Result<(), EngineError> {
        self.totals = totals;
        Ok(())
    }

    fn state(&self) -> Result<State, EngineError> {
        Ok(State {
            parameters: arrays(self.store.trainable())?,
            statistics: arrays(self.store.statistics())?,
            batches_tracked: self.batches_tracked.clone(),
            moments: match self.step {
                0 => None,
                step => Some(Moments { first: arrays(&self.first)?, second: arrays(&self.second)?, step }),
            },
        })
    }

    fn load_state(&mut self, state: &State) -> Result<(), EngineError> {
        state.check(&self.network)?;
        set(self.store.trainable(), &state.parameters)?;
        set(self.store.statistics(), &state.statistics)?;
        for (name, tracked) in &mut self.batches_tracked {
            *tracked = state.batches_tracked.get(name).copied().unwrap_or(0);
        }
        match &state.moments {
            Some(moments) => {
                set(&self.first, &moments.first)?;
                set(&self.second, &moments.second)?;
                self.step = moments.step;
            }
            None => {
                self.first = zeros_like(self.store.trainable())?;
                self.second = zeros_like(self.store.trainable())?;
                self.step = 0;
            }
        }
        Ok(())
    }
}

fn zeros_like(vars: &BTreeMap<String, Var>) -> Result<BTreeMap<String, Var>, EngineError> {
    vars.iter()
        .map(|(name, var)| Ok((name.clone(), Var::zeros(var.shape(), DType::F32, var.device())?)))
        .collect()
}

fn host(tensor: &Tensor) -> Result<Vec<f32>, EngineError> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

fn array(tensor: &Tensor) -> Result<Array, EngineError> {
    Ok(Array { shape: tensor.dims().to_vec(), values: host(tensor)? })
}

pub(crate) fn arrays(vars: &BTreeMap<String, Var>) -> Result<BTreeMap<String, Array>, EngineError> {
    vars.iter().map(|(name, var)| Ok((name.clone(), array(var.as_tensor())?))).collect()
}

/// Sets variables from arrays that [`State::check`] has passed.
fn set(vars: &BTreeMap<String, Var>, arrays: &BTreeMap<String, Array>) -> Result<(), EngineError> {
    for (name, var) in vars {
        let array = &arrays[name];
        var.set(&Tensor::from_slice(&array.values, array.shape.as_slice(), var.device())?)?;
    }
    Ok(())
}
