//! The reference engine: candle autograd over candle-nn modules.
//!
//! Every operation is candle's own where that is right, and a composition of candle operations (`pointwise_models::ops`) where
//! it is not. It runs on every device that candle has, allocates as it goes and keeps the whole graph of a step: it is there to
//! be believed, not to be fast.

use crate::{
    Array, Batch, Engine, EngineError, Moments, Settings, State, Totals, check_batch, count_correct,
};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::loss::cross_entropy;
use pointwise_models::{Model, Network, ParameterStore};
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
        let classes = network.classes()?;
        let device = settings.device.open()?;
        let store = ParameterStore::initialised(network, settings.seed, &device)?;
        let model = Model::new(network, store.var_builder(&device), settings.seed)?;
        let zeros = || zeros_like(store.trainable());
        let batches_tracked = store
            .statistics()
            .keys()
            .filter_map(|name| name.strip_suffix("running_mean"))
            .map(|path| (format!("{path}num_batches_tracked"), 0))
            .collect();
        Ok(Self {
            network: network.clone(),
            classes,
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

#[cfg(test)]
mod tests {
    use super::*;
    use pointwise_models::{Layer, Section};

    /// Small enough for finite differences: every kind of layer once.
    fn tiny(dropout: f64) -> Network {
        let layers = vec![
            Layer::Conv2d { in_channels: 2, out_channels: 4, kernel: 3, padding: 1 },
            Layer::BatchNorm2d { channels: 4 },
            Layer::Relu,
            Layer::MaxPool2d,
            Layer::Conv2d { in_channels: 4, out_channels: 3, kernel: 1, padding: 1 },
            Layer::BatchNorm2d { channels: 3 },
        ];
        let classifier = vec![
            Layer::Dropout { p: dropout },
            Layer::Linear { in_features: 3 * 25, out_features: 5 },
            Layer::Relu,
            Layer::Linear { in_features: 5, out_features: 4 },
        ];
        Network {
            name: "tiny".to_owned(),
            input: [2, 6, 6],
            sections: vec![
                Section { name: "features".to_owned(), flatten_input: false, layers },
                Section { name: "classifier".to_owned(), flatten_input: true, layers: classifier },
            ],
        }
    }

    fn images(n: usize) -> Vec<f32> {
        (0..n * 72).map(|i| ((i * 7919) % 1013) as f32 / 506.0 - 1.0).collect()
    }

    fn engine(network: &Network) -> Reference {
        Reference::new(network, &Settings::default()).unwrap()
    }

    #[test]
    fn gradients_are_finite_differences() {
        // Central differences of an f32 loss: the error is the rounding of the loss over the step, about 1e-7 / 1e-3, plus the
        // curvature's share.
        const STEP: f32 = 1e-3;
        const TOLERANCE: f64 = 2e-3;
        let network = tiny(0.0);
        let images = images(4);
        let batch = Batch { images: &images, labels: &[0, 1, 2, 3] };
        let mut engine = engine(&network);
        let state = engine.state().unwrap();
        let (_, gradients) = engine.gradients(batch).unwrap();
        let mut checked = 0;
        for (name, gradient) in &gradients {
            for place in [0, gradient.values.len() / 2, gradient.values.len() - 1] {
                let mut loss_at = |delta: f32| {
                    let mut moved = state.clone();
                    moved.parameters.get_mut(name).unwrap().values[place] += delta;
                    engine.load_state(&moved).unwrap();
                    engine.gradients(batch).unwrap().0
                };
                let difference = (loss_at(STEP) - loss_at(-STEP)) / (2.0 * f64::from(STEP));
                let got = f64::from(gradient.values[place]);
                assert!(
                    (got - difference).abs() < TOLERANCE,
                    "{name}[{place}]: gradient {got}, difference {difference}"
                );
                checked += usize::from(got.abs() > TOLERANCE);
            }
        }
        assert!(checked > 10, "only {checked} gradients are larger than the tolerance");
    }

    #[test]
    fn training_lowers_the_loss_and_evaluation_changes_nothing() {
        let network = tiny(0.5);
        let images = images(8);
        let batch = Batch { images: &images, labels: &[0, 1, 2, 3, 3, 2, 1, 0] };
        let mut engine = engine(&network);
        engine.train_step(batch).unwrap();
        let first = engine.totals().unwrap();
        assert_eq!(first.samples, 8);
        for _ in 0..60 {
            engine.train_step(batch).unwrap();
        }
        let last = engine.totals().unwrap();
        assert!(last.last_loss < 0.9 * first.last_loss, "{} after {}", last.last_loss, first.last_loss);
        let state = engine.state().unwrap();
        assert_eq!(state.moments.as_ref().unwrap().step, 61);
        assert!(state.batches_tracked.values().all(|tracked| *tracked == 61));
        engine.set_totals(Totals::default()).unwrap();
        engine.evaluate(batch).unwrap();
        assert_eq!(state, engine.state().unwrap());
        let logits = engine.logits(&images).unwrap();
        assert_eq!(engine.totals().unwrap().correct, count_correct(&logits, batch.labels, 4));
    }

    #[test]
    fn a_loaded_state_goes_on_to_the_same_bits() {
        let network = tiny(0.5);
        let images = images(8);
        let batch = Batch { images: &images, labels: &[0, 1, 2, 3, 3, 2, 1, 0] };
        let mut whole = engine(&network);
        for _ in 0..3 {
            whole.train_step(batch).unwrap();
        }
        let middle = whole.state().unwrap();
        for _ in 0..3 {
            whole.train_step(batch).unwrap();
        }
        let mut resumed = engine(&network);
        resumed.load_state(&middle).unwrap();
        for _ in 0..3 {
            resumed.train_step(batch).unwrap();
        }
        assert_eq!(whole.state().unwrap(), resumed.state().unwrap());
    }

    #[test]
    fn a_state_of_another_network_is_refused_and_changes_nothing() {
        let mut engine = engine(&tiny(0.0));
        let before = engine.state().unwrap();
        type Break = fn(&mut State);
        let breakages: [(&str, Break); 5] = [
            ("`features.0.bias` is missing", |s| drop(s.parameters.remove("features.0.bias"))),
            ("the network has no `extra`", |s| {
                let array = s.parameters["features.0.bias"].clone();
                s.parameters.insert("extra".to_owned(), array);
            }),
            ("`features.1.running_var` has shape [5], not [4]", |s| {
                s.statistics.get_mut("features.1.running_var").unwrap().shape = vec![5];
            }),
            ("`features.0.bias` has 3 values, not 4", |s| {
                s.parameters.get_mut("features.0.bias").unwrap().values.pop();
            }),
            ("the network has no `features.9.num_batches_tracked`", |s| {
                s.batches_tracked.insert("features.9.num_batches_tracked".to_owned(), 1);
            }),
        ];
        for (expected, break_it) in breakages {
            let mut state = before.clone();
            break_it(&mut state);
            let error = engine.load_state(&state).unwrap_err().to_string();
            assert_eq!(error, format!("the state is not one of `tiny`: {expected}"));
            assert_eq!(engine.state().unwrap(), before);
        }
    }

    #[test]
    fn a_loss_that_is_not_finite_stops() {
        let mut engine = engine(&tiny(0.0));
        let mut images = images(2);
        images[0] = f32::NAN;
        let error = engine.train_step(Batch { images: &images, labels: &[0, 1] }).unwrap_err();
        assert!(matches!(error, EngineError::NotFinite { step: 1, .. }), "{error}");
    }
}
