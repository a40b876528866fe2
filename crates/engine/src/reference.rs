//! The reference engine: candle autograd over candle-nn modules.
//!
//! Every operation is candle's own where that is correct, and a composition of candle operations (`pointwise_candle::composed`) where it is
//! not. It runs on every device that candle supports, allocates as it goes and keeps the whole graph of a step: it is written to be
//! trusted, not to be fast.

use crate::batch::{Batch, Totals, check_batch, count_correct};
use crate::device::open;
use crate::engine::{AVERAGE_IN_USE, Engine, NO_AVERAGE, NO_SLOW_WEIGHTS, Snapshot, check_rate, check_share};
use crate::error::{EngineError, finite};
use crate::memory::lacking;
use crate::optimizer::{Step, clip_factor};
use crate::places::Buffers;
use crate::settings::Settings;
use crate::stage::check_training;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::loss::cross_entropy;
use candle_nn::ops::log_softmax;
use pointwise_models::{Model, ParameterStore};
use pointwise_network::{Network, Stage, stages};
use pointwise_recipe::{DeviceName, Ema, Rate};
use pointwise_weights::{Array, Average, OptimizerState, State};
use std::collections::BTreeMap;

/// See the [module](self).
#[derive(Debug)]
pub struct Reference {
    network: Network,
    stages: Vec<Stage>,
    classes: usize,
    device: Device,
    settings: Settings,
    store: ParameterStore,
    model: Model,
    rate: Rate,
    /// The optimizer's buffers, in the order of [`Optimizer::buffers`](pointwise_recipe::Optimizer::buffers).
    buffers: Vec<BTreeMap<String, Var>>,
    /// With `ema` or `lookahead`.
    average: Option<Averaging>,
    step: u64,
    batches_tracked: BTreeMap<String, i64>,
    totals: Totals,
}

/// Averaged weights and statistics, or the slow ones of `lookahead`.
#[derive(Debug)]
struct Averaging {
    /// `None` for `lookahead`.
    ema: Option<Ema>,
    average: Copies,
    /// The trained values, while the modules hold the averaged ones.
    trained: Option<Copies>,
}

/// Independent copies of the parameters and statistics.
#[derive(Debug, Clone)]
struct Copies {
    parameters: BTreeMap<String, Tensor>,
    statistics: BTreeMap<String, Tensor>,
}

impl Copies {
    fn of(store: &ParameterStore) -> Result<Self, EngineError> {
        Ok(Self { parameters: copies(store.trainable())?, statistics: copies(store.statistics())? })
    }

    fn restore(&self, store: &ParameterStore) -> Result<(), EngineError> {
        for (vars, values) in [(store.trainable(), &self.parameters), (store.statistics(), &self.statistics)]
        {
            for (name, var) in vars {
                var.set(&values[name])?;
            }
        }
        Ok(())
    }

    fn loaded(average: &Average, device: &Device) -> Result<Self, EngineError> {
        let tensors = |arrays: &BTreeMap<String, Array>| {
            arrays
                .iter()
                .map(|(name, array)| Ok((name.clone(), tensor(array, device)?)))
                .collect::<Result<_, EngineError>>()
        };
        Ok(Self { parameters: tensors(&average.parameters)?, statistics: tensors(&average.statistics)? })
    }

    fn arrays(&self) -> Result<Average, EngineError> {
        Ok(Average {
            parameters: arrays(self.parameters.iter())?,
            statistics: arrays(self.statistics.iter())?,
        })
    }
}

/// The state as tensors of the engine that no longer change.
struct Tensors {
    trained: Copies,
    batches_tracked: BTreeMap<String, i64>,
    /// The buffers by PyTorch's names, and the steps taken.
    optimizer: Option<(Buffers<BTreeMap<String, Tensor>>, u64)>,
    average: Option<Copies>,
}

impl Snapshot for Tensors {
    fn state(self: Box<Self>) -> Result<State, EngineError> {
        let Self { trained, batches_tracked, optimizer, average } = *self;
        let Average { parameters, statistics } = trained.arrays()?;
        let optimizer = optimizer.map(|(buffers, step)| {
            let buffers =
                buffers.iter().map(|(name, tensors)| Ok(((*name).to_owned(), arrays(tensors.iter())?)));
            Ok::<_, EngineError>(OptimizerState {
                buffers: buffers.collect::<Result<_, EngineError>>()?,
                step,
            })
        });
        Ok(State {
            parameters,
            statistics,
            batches_tracked,
            optimizer: optimizer.transpose()?,
            average: average.map(|average| average.arrays()).transpose()?,
        })
    }
}

impl Averaging {
    /// Averages the trained values in, like `torch.lerp`: from the nearer end, so that equal values stay the same.
    fn take(&mut self, store: &ParameterStore, decay: f64) -> Result<(), EngineError> {
        let Copies { mut parameters, mut statistics } = Copies::of(store)?;
        let olds = self.average.parameters.iter().chain(&self.average.statistics);
        let news = parameters.iter_mut().chain(&mut statistics);
        for ((_, old), (_, new)) in olds.zip(news) {
            *new = match decay > 0.5 {
                true => (old + ((&*new - old)? * (1.0 - decay))?)?,
                false => (&*new + ((old - &*new)? * decay)?)?,
            };
        }
        self.average = Copies { parameters, statistics };
        Ok(())
    }
}

impl Reference {
    /// Creates an engine with the network's initial values.
    ///
    /// # Errors
    /// [`EngineError::Network`], [`EngineError::Recipe`], [`EngineError::DeviceUnavailable`], [`EngineError::Device`].
    pub fn new(network: &Network, settings: &Settings) -> Result<Self, EngineError> {
        let graph = network.graph()?;
        settings.check(&graph)?;
        let recipe = &settings.recipe;
        let device = open(settings.device)?;
        if settings.device == DeviceName::Cpu {
            // While the initial values are generated, they are in memory twice.
            let copies = 1 + copies_of_parameters(settings);
            let need = copies.saturating_mul(graph.parameter_count()).saturating_mul(size_of::<f32>()) as u64;
            if let Some(available) = lacking(need) {
                let what = format!("the state of `{}`", network.name);
                let fix = "free memory or raise the limit";
                return Err(EngineError::Memory { what, need, available, fix });
            }
        }
        let store = ParameterStore::initialised(&graph, settings.seed, &device)?;
        let model = Model::new(&graph, store.var_builder(&device), settings.seed)?;
        let buffers = zeros_for(recipe.optimizer.buffers(), store.trainable())?;
        let averaging = || {
            Ok::<_, EngineError>(Averaging { ema: recipe.ema, average: Copies::of(&store)?, trained: None })
        };
        let batches_tracked = store
            .statistics()
            .keys()
            .filter_map(|name| name.strip_suffix("running_mean"))
            .map(|path| (format!("{path}num_batches_tracked"), 0))
            .collect();
        Ok(Self {
            network: network.clone(),
            stages: stages(&graph),
            classes: graph.classes(),
            device,
            settings: settings.clone(),
            rate: Rate::new(recipe.optimizer.lr()),
            buffers,
            average: recipe.averages().then(averaging).transpose()?,
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

    /// The batch's loss as a number.
    fn finite_loss(loss: &Tensor, step: u64) -> Result<f64, EngineError> {
        let loss = f64::from(loss.to_scalar::<f32>()?);
        finite("loss", loss, step)
    }

    /// Adds a batch to the totals.
    fn add(&mut self, loss: f64, logits: &Tensor, labels: &[u16]) -> Result<(), EngineError> {
        let correct = count_correct(&host(logits)?, labels, self.classes);
        self.totals.add(loss, correct, labels.len() as u64);
        Ok(())
    }

    /// The loss of one batch in training mode and the gradient of every parameter by name, without taking the step.
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

    /// Logits in training mode with the dropout of the next step; BatchNorm's running statistics are updated.
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
        check_training(&self.stages, batch.labels.len())?;
        let logits = self.model.forward_train(&images, self.step)?;
        for tracked in self.batches_tracked.values_mut() {
            *tracked += 1;
        }
        let loss = smoothed_cross_entropy(&logits, &labels, self.settings.recipe.label_smoothing)?;
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
        if self.average.as_ref().is_some_and(|average| average.trained.is_some()) {
            return Err(AVERAGE_IN_USE);
        }
        let step = self.step + 1;
        let (logits, loss, mut gradients) = self.forward_backward(batch)?;
        let loss = Self::finite_loss(&loss, step)?;
        let recipe = &self.settings.recipe;
        let norm = match recipe.clip_norm {
            Some(most) => Some(finite("gradient norm", clip(&mut gradients, most)?, step)?),
            None => None,
        };
        for (name, parameter) in self.store.trainable() {
            let group = recipe.group(name, parameter.dims().len());
            if group.is_frozen(self.rate) {
                continue;
            }
            let buffers: Vec<&Var> = self.buffers.iter().map(|buffer| &buffer[name]).collect();
            let constants = Step::new(&recipe.optimizer, self.rate, group, step);
            constants.update(parameter, &gradients[name], &buffers)?;
        }
        self.step = step;
        if let Some((average, ema)) = self.average.as_mut().and_then(|it| it.ema.map(|ema| (it, ema))) {
            match step {
                1 => average.average = Copies::of(&self.store)?,
                _ => average.take(&self.store, ema.decay)?,
            }
        }
        self.add(loss, &logits, batch.labels)?;
        self.totals.last_gradient_norm = norm;
        Ok(())
    }

    fn set_rate(&mut self, rate: Rate) -> Result<(), EngineError> {
        check_rate(rate)?;
        self.rate = rate;
        Ok(())
    }

    fn use_average(&mut self, on: bool) -> Result<(), EngineError> {
        let averaging = self.average.as_mut().filter(|averaging| averaging.ema.is_some());
        let Averaging { average, trained, .. } = averaging.ok_or(NO_AVERAGE)?;
        match (on, &trained) {
            (true, None) => {
                *trained = Some(Copies::of(&self.store)?);
                average.restore(&self.store)
            }
            (false, Some(copies)) => {
                copies.restore(&self.store)?;
                *trained = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn lookahead(&mut self, decay: f64) -> Result<(), EngineError> {
        let slow = self.average.as_mut().filter(|averaging| averaging.ema.is_none());
        let slow = slow.ok_or(NO_SLOW_WEIGHTS)?;
        check_share(decay)?;
        slow.take(&self.store, decay)?;
        slow.average.restore(&self.store)
    }

    fn evaluate(&mut self, batch: Batch<'_>) -> Result<(), EngineError> {
        let (images, labels) = self.tensors(batch)?;
        let logits = self.model.forward_eval(&images)?.detach();
        let loss = Self::finite_loss(&cross_entropy(&logits, &labels)?, self.step)?;
        self.add(loss, &logits, batch.labels)
    }

    fn logits(&mut self, images: &[f32]) -> Result<Vec<f32>, EngineError> {
        let logits = self.model.forward_eval(&self.images(images)?)?;
        host(&logits)
    }

    fn prepare(&mut self, batch: usize, training: bool, beside: u64) -> Result<(), EngineError> {
        if self.settings.device != DeviceName::Cpu {
            return Ok(());
        }
        // A lower bound: the outputs of all layers and their gradients at once; the parameters' gradients and the optimizer's results; and
        // two copies of the state while a checkpoint is written.
        let graph = self.network.graph()?;
        let values: usize = graph.nodes[1..].iter().map(|node| node.output.iter().product::<usize>()).sum();
        let floats = if training { 2 * values } else { values };
        let copies = if training { 2 + 2 * copies_of_parameters(&self.settings) } else { 0 };
        let floats =
            batch.saturating_mul(floats).saturating_add(copies.saturating_mul(graph.parameter_count()));
        let need = (floats.saturating_mul(size_of::<f32>()) as u64).saturating_add(beside);
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

    fn snapshot(&self, optimizer: bool) -> Result<Box<dyn Snapshot>, EngineError> {
        let trained = self.average.as_ref().and_then(|average| average.trained.clone());
        let whole = optimizer && self.step > 0;
        let names = self.settings.recipe.optimizer.buffers().iter();
        let buffers = || {
            names
                .zip(&self.buffers)
                .map(|(name, vars)| Ok((*name, copies(vars)?)))
                .collect::<Result<_, EngineError>>()
        };
        Ok(Box::new(Tensors {
            trained: trained.map_or_else(|| Copies::of(&self.store), Ok)?,
            batches_tracked: self.batches_tracked.clone(),
            optimizer: match whole {
                true => Some((buffers()?, self.step)),
                false => None,
            },
            average: self.average.as_ref().filter(|_| whole).map(|averaging| averaging.average.clone()),
        }))
    }

    fn load_state(&mut self, state: &State) -> Result<(), EngineError> {
        state.check(&self.network)?;
        self.settings.check_state(state)?;
        set(self.store.trainable(), &state.parameters)?;
        set(self.store.statistics(), &state.statistics)?;
        for (name, tracked) in &mut self.batches_tracked {
            *tracked = state.batches_tracked.get(name).copied().unwrap_or(0);
        }
        let names = self.settings.recipe.optimizer.buffers();
        match &state.optimizer {
            Some(OptimizerState { buffers, step }) => {
                for (name, vars) in names.iter().zip(&self.buffers) {
                    set(vars, &buffers[*name])?;
                }
                self.step = *step;
            }
            None => {
                self.buffers = zeros_for(names, self.store.trainable())?;
                self.step = 0;
            }
        }
        if let Some(Averaging { average, trained, .. }) = &mut self.average {
            let loaded = Copies::of(&self.store)?;
            let in_use = trained.is_some();
            *average = match &state.average {
                Some(average) => Copies::loaded(average, &self.device)?,
                None => loaded.clone(),
            };
            if in_use {
                average.restore(&self.store)?;
                *trained = Some(loaded);
            }
        }
        Ok(())
    }
}

/// The loss of training: see [`pointwise_kernels::softmax_cross_entropy`].
fn smoothed_cross_entropy(logits: &Tensor, labels: &Tensor, smoothing: f64) -> Result<Tensor, EngineError> {
    let loss = cross_entropy(logits, labels)?;
    if smoothing == 0.0 {
        return Ok(loss);
    }
    let mean = log_softmax(logits, 1)?.mean_all()?.neg()?;
    Ok(((loss * (1.0 - smoothing))? + (mean * smoothing)?)?)
}

/// Scales gradients down so that their norm is at most `most`, as `torch.nn.utils.clip_grad_norm_`; returns the norm before clipping. A
/// norm that is not finite changes nothing.
fn clip(gradients: &mut BTreeMap<String, Tensor>, most: f64) -> Result<f64, EngineError> {
    let mut squares = 0.0;
    for gradient in gradients.values() {
        squares += gradient.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
    }
    let norm = squares.sqrt();
    let factor = clip_factor(norm, most);
    if factor < 1.0 {
        for gradient in gradients.values_mut() {
            *gradient = (&*gradient * factor)?;
        }
    }
    Ok(norm)
}

/// How many times a state holds the values of all parameters: themselves, the optimizer's buffers, an average.
fn copies_of_parameters(settings: &Settings) -> usize {
    1 + settings.recipe.optimizer.buffers().len() + usize::from(settings.recipe.averages())
}

/// Zeros in the shapes of all variables, for each of the buffers.
fn zeros_for(
    buffers: &[&str],
    vars: &BTreeMap<String, Var>,
) -> Result<Vec<BTreeMap<String, Var>>, EngineError> {
    let zeros = |var: &Var| Var::zeros(var.shape(), DType::F32, var.device());
    let all = || vars.iter().map(|(name, var)| Ok((name.clone(), zeros(var)?))).collect();
    buffers.iter().map(|_| all()).collect()
}

fn host(tensor: &Tensor) -> Result<Vec<f32>, EngineError> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

fn array(tensor: &Tensor) -> Result<Array, EngineError> {
    Ok(Array { shape: tensor.dims().to_vec(), values: host(tensor)? })
}

fn copies(vars: &BTreeMap<String, Var>) -> Result<BTreeMap<String, Tensor>, EngineError> {
    vars.iter().map(|(name, var)| Ok((name.clone(), var.copy()?.detach()))).collect()
}

fn tensor(array: &Array, device: &Device) -> Result<Tensor, EngineError> {
    Ok(Tensor::from_slice(&array.values, array.shape.as_slice(), device)?)
}

fn arrays<'a>(
    all: impl Iterator<Item = (&'a String, &'a Tensor)>,
) -> Result<BTreeMap<String, Array>, EngineError> {
    all.map(|(name, tensor)| Ok((name.clone(), array(tensor)?))).collect()
}

/// Sets variables from arrays that passed [`State::check`].
fn set(vars: &BTreeMap<String, Var>, arrays: &BTreeMap<String, Array>) -> Result<(), EngineError> {
    for (name, var) in vars {
        var.set(&tensor(&arrays[name], var.device())?)?;
    }
    Ok(())
}
