//! The CPU engine: a network compiled into a plan of fused blocks over `pointwise-kernels`.
//!
//! A block is a convolution (or a linear layer, treated as one) and what follows it: BatchNorm or a bias, an activation, 2x2 maximum
//! pooling. Only the convolution's raw result is stored. The readers of a block's output (the next convolution's forward pass and
//! gradients) request one image at a time; scale, shift, ReLU and pooling are applied on the fly, in the reading thread's cache. In the
//! backward pass, the sums for BatchNorm's gradient are accumulated as each image is finished, and the gradient itself is computed on the
//! fly for the convolution. All buffers are allocated once, at the first batch of a size.
//!
//! **Invariant:** the results do not depend on the number of threads. Sums over images follow the images' order; sums of a weight's
//! gradient run over groups of images whose size depends only on shapes.

mod block;

mod layer;
mod memory;
mod parameters;
mod plan;

use crate::batch::{Batch, Totals, check_batch, count_correct};
use crate::engine::{AVERAGE_IN_USE, Engine, NO_AVERAGE, NO_SLOW_WEIGHTS, Snapshot, check_rate, check_share};
use crate::error::{EngineError, finite};
use crate::memory::lacking;
use crate::optimizer::Step;
use crate::places::Arenas;
use crate::settings::Settings;
use parameters::Parameters;
use plan::Plan;
use pointwise_kernels::{Isa, softmax_cross_entropy};
use pointwise_network::Network;
use pointwise_recipe::{Ema, Rate, Recipe};
use pointwise_weights::{Array, State};
use std::collections::BTreeMap;
use std::time::Instant;

pub use memory::Memory;
pub use plan::LayerTime;
pub use pointwise_kernels::peak_gflops;

/// See the [module](self).
#[derive(Debug)]
pub struct Cpu {
    network: Network,
    settings: Settings,
    isa: Isa,
    classes: usize,
    parameters: Parameters,
    plan: Plan,
    rate: Rate,
    averaging: Option<Averaging>,
    step: u64,
    totals: Totals,
    optimizer_seconds: f64,
}

/// What the moving average, or the slow weights of `lookahead`, need besides [`Parameters`].
#[derive(Debug)]
struct Averaging {
    /// `None` for `lookahead`.
    ema: Option<Ema>,
    /// The averaged statistics; the trained ones while the plan holds the averaged ones.
    statistics: BTreeMap<String, Array>,
    /// Whether plan and parameters are swapped with the averages.
    is_used: bool,
}

impl Averaging {
    /// Averages the trained statistics in.
    fn take_statistics(&mut self, trained: &BTreeMap<String, Array>, decay: f64) {
        for (average, trained) in self.statistics.values_mut().zip(trained.values()) {
            for (average, trained) in average.values.iter_mut().zip(&trained.values) {
                *average = (decay * f64::from(*average) + (1.0 - decay) * f64::from(*trained)) as f32;
            }
        }
    }
}

/// The memory for training a network by a recipe on batches of `batch` images on this machine, with the current rayon pool; allocates
/// nothing.
///
/// # Errors
/// [`EngineError::Network`].
pub fn training_memory(network: &Network, recipe: &Recipe, batch: usize) -> Result<Memory, EngineError> {
    let mut parameters = Parameters::new(recipe);
    let plan = Plan::new(&network.graph()?, Isa::detect(), 0, &mut parameters);
    Ok(plan.memory(batch, parameters.bytes()))
}

impl Cpu {
    /// Creates an engine with the network's initial values, for this machine's best instruction set and the current rayon pool.
    ///
    /// # Errors
    /// [`EngineError::Network`]; [`EngineError::Recipe`]; [`EngineError::DeviceUnavailable`] when the settings name a device other than the
    /// CPU; [`EngineError::Memory`] when there is not enough memory for a single image.
    pub fn new(network: &Network, settings: &Settings) -> Result<Self, EngineError> {
        Self::with_isa(network, settings, Isa::detect())
    }

    /// As [`Cpu::new`], for a given instruction set.
    ///
    /// # Errors
    /// As [`Cpu::new`].
    pub fn with_isa(network: &Network, settings: &Settings, isa: Isa) -> Result<Self, EngineError> {
        if settings.device != crate::DeviceName::Cpu {
            return Err(EngineError::DeviceUnavailable {
                device: settings.device.to_string(),
                reason: "the engine `cpu` runs only on the CPU".to_owned(),
            });
        }
        let graph = network.graph()?;
        settings.check(&graph)?;
        let recipe = &settings.recipe;
        let mut parameters = Parameters::new(recipe);
        let plan = Plan::new(&graph, isa, settings.seed, &mut parameters);
        parameters.set_groups(plan.ranges().map(|(name, dims, range)| (range, recipe.group(name, dims))));
        let memory = |batch| plan.memory(batch, parameters.bytes());
        // Not for training yet, but with the initial values in addition to the parameters.
        let initial = (parameters.bytes() / parameters.arenas()) as u64;
        require(memory, parameters.arenas(), &network.name, 0, 1, false, initial)?;
        parameters.allocate()?;
        let mut engine = Self {
            network: network.clone(),
            settings: settings.clone(),
            isa,
            classes: graph.classes(),
            parameters,
            plan,
            rate: Rate::new(recipe.optimizer.lr()),
            averaging: recipe.averages().then(|| Averaging {
                ema: recipe.ema,
                statistics: BTreeMap::new(),
                is_used: false,
            }),
            step: 0,
            totals: Totals::default(),
            optimizer_seconds: 0.0,
        };
        engine.load_state(&State::initial(&graph, settings.seed))?;
        Ok(engine)
    }

    /// The instruction set in use.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The memory for training on batches of `batch` images.
    #[must_use]
    pub fn memory(&self, batch: usize) -> Memory {
        self.plan.memory(batch, self.parameters.bytes())
    }

    /// Allocates memory for a batch, if there is enough for it and for `beside` bytes more.
    fn reserve(&mut self, batch: usize, training: bool, beside: u64) -> Result<(), EngineError> {
        if batch <= self.plan.batch() {
            return Ok(());
        }
        let held = match self.plan.batch() {
            0 => self.parameters.bytes(),
            batch => self.memory(batch).total(),
        };
        let arenas = self.parameters.arenas();
        require(|batch| self.memory(batch), arenas, &self.network.name, held, batch, training, beside)?;
        Ok(self.plan.reserve(batch)?)
    }

    /// Seconds spent in each part of the plan since the last call, in order; the last is the optimizer.
    pub fn take_times(&mut self) -> Vec<LayerTime> {
        let mut times = self.plan.take_times();
        times.push(LayerTime {
            name: "optimizer".to_owned(),
            method: self.settings.recipe.optimizer.class().to_owned(),
            forward: 0.0,
            backward: std::mem::take(&mut self.optimizer_seconds),
            macs: 0,
        });
        times
    }

    /// The loss of one batch in training mode and the gradient of every parameter by name, without taking the step.
    ///
    /// BatchNorm's running statistics are updated, as by every forward pass in training mode.
    ///
    /// # Errors
    /// As [`Engine::train_step`].
    pub fn gradients(&mut self, batch: Batch<'_>) -> Result<(f64, BTreeMap<String, Array>), EngineError> {
        let (loss, _) = self.forward_backward(batch)?;
        Ok((loss, self.plan.export()(&self.parameters.gradients)))
    }

    /// Returns the mean loss and the number of correct images; leaves the gradients in the arena.
    fn forward_backward(&mut self, batch: Batch<'_>) -> Result<(f64, u64), EngineError> {
        let n = check_batch(batch, self.network.input, self.classes)?;
        self.plan.check_training(n)?;
        self.reserve(n, true, 0)?;
        let Self { plan, parameters, step, classes, settings, .. } = self;
        let smoothing = settings.recipe.label_smoothing;
        // On a thread of the pool, so that it works instead of sleeping while it waits for the others.
        rayon::scope(|_| {
            plan.forward_train(parameters, batch.images, n, *step);
            let stride = plan.logit_stride();
            let (logits, gradient) = plan.logits_and_gradient(n);
            let loss =
                softmax_cross_entropy(logits, stride, *classes, batch.labels, smoothing, Some(gradient));
            let correct = count_correct(&dense(logits, stride, *classes), batch.labels, *classes);
            finite("loss", loss, *step + 1)?;
            plan.backward(parameters, batch.images, n);
            Ok((loss, correct))
        })
    }

    fn forward_evaluate(&mut self, images: &[f32]) -> Result<Vec<f32>, EngineError> {
        let n = images.len() / self.network.input.iter().product::<usize>();
        self.reserve(n, false, 0)?;
        let Self { plan, parameters, classes, .. } = self;
        Ok(rayon::scope(|_| {
            plan.forward_evaluate(parameters, images, n);
            let stride = plan.logit_stride();
            dense(plan.logits_and_gradient(n).0, stride, *classes)
        }))
    }
}

/// An error unless the memory for a batch and `beside` bytes more is available; `held` bytes of it are already allocated. `arenas` is
/// [`Parameters::arenas`].
fn require(
    memory: impl Fn(usize) -> Memory,
    arenas: usize,
    network: &str,
    held: usize,
    batch: usize,
    training: bool,
    beside: u64,
) -> Result<(), EngineError> {
    // What the rest of the program needs.
    const PROGRAM: usize = 32 << 20;
    let need = |batch: usize| {
        let memory = memory(batch);
        let share = memory.parameters / arenas;
        let whole = memory.total().saturating_add(PROGRAM);
        // Writing a checkpoint holds two more copies of everything but the gradients; without training, gradients are never written to.
        let used = if training { whole.saturating_add(2 * (arenas - 1) * share) } else { whole - share };
        (used.saturating_sub(held) as u64).saturating_add(beside)
    };
    let Some(available) = lacking(need(batch)) else { return Ok(()) };
    let threads = rayon::current_num_threads();
    Err(EngineError::Memory {
        what: format!("`{network}` in batches of {batch} on {threads} threads"),
        need: need(batch),
        available,
        fix: if batch > 1 && need(1) - beside <= available.bytes {
            "give a smaller --batch-size"
        } else if threads > 1 {
            "give fewer --threads, free memory or raise the limit"
        } else {
            "free memory or raise the limit"
        },
    })
}

/// The first `classes` of each row.
fn dense(logits: &[f32], stride: usize, classes: usize) -> Vec<f32> {
    logits.chunks_exact(stride).flat_map(|row| &row[..classes]).copied().collect()
}

impl Engine for Cpu {
    fn train_step(&mut self, batch: Batch<'_>) -> Result<(), EngineError> {
        if self.averaging.as_ref().is_some_and(|averaging| averaging.is_used) {
            return Err(AVERAGE_IN_USE);
        }
        let (loss, correct) = self.forward_backward(batch)?;
        let start = Instant::now();
        let Self { isa, settings: Settings { recipe, .. }, parameters, plan, averaging, rate, .. } = self;
        let step = self.step + 1;
        let norm = rayon::scope(|_| {
            let norm = match recipe.clip_norm {
                Some(most) => {
                    let norm = finite("gradient norm", parameters.gradient_norm(*isa), step)?;
                    parameters.clip(*isa, norm, most);
                    Some(norm)
                }
                None => None,
            };
            parameters.step(*isa, |group| {
                (!group.is_frozen(*rate)).then(|| Step::new(&recipe.optimizer, *rate, group, step))
            });
            if let Some((averaging, ema)) = averaging.as_mut().and_then(|it| it.ema.map(|ema| (it, ema))) {
                let trained = plan.statistics().0;
                parameters.take_average(*isa, ema.decay, step == 1);
                match step {
                    1 => averaging.statistics = trained,
                    _ => averaging.take_statistics(&trained, ema.decay),
                }
            }
            Ok::<_, EngineError>(norm)
        })?;
        plan.weights_changed();
        self.step = step;
        self.totals.add(loss, correct, batch.labels.len() as u64);
        self.totals.last_gradient_norm = norm;
        self.optimizer_seconds += start.elapsed().as_secs_f64();
        Ok(())
    }

    fn set_rate(&mut self, rate: Rate) -> Result<(), EngineError> {
        check_rate(rate)?;
        self.rate = rate;
        Ok(())
    }

    fn use_average(&mut self, on: bool) -> Result<(), EngineError> {
        let (Some(averaging), Some(average)) = (&mut self.averaging, &mut self.parameters.average) else {
            return Err(NO_AVERAGE);
        };
        if averaging.ema.is_none() {
            return Err(NO_AVERAGE);
        }
        if averaging.is_used != on {
            std::mem::swap(&mut self.parameters.values, average);
            let (statistics, batches_tracked) = self.plan.statistics();
            let others = std::mem::replace(&mut averaging.statistics, statistics);
            self.plan.set_statistics(&others, &batches_tracked);
            self.plan.weights_changed();
            averaging.is_used = on;
        }
        Ok(())
    }

    fn lookahead(&mut self, decay: f64) -> Result<(), EngineError> {
        let Self { isa, parameters, plan, averaging, .. } = self;
        let Some(averaging) = averaging.as_mut().filter(|averaging| averaging.ema.is_none()) else {
            return Err(NO_SLOW_WEIGHTS);
        };
        check_share(decay)?;
        let start = Instant::now();
        rayon::scope(|_| parameters.lookahead(*isa, decay));
        let (trained, batches_tracked) = plan.statistics();
        averaging.take_statistics(&trained, decay);
        plan.set_statistics(&averaging.statistics, &batches_tracked);
        plan.weights_changed();
        self.optimizer_seconds += start.elapsed().as_secs_f64();
        Ok(())
    }

    fn evaluate(&mut self, batch: Batch<'_>) -> Result<(), EngineError> {
        let n = check_batch(batch, self.network.input, self.classes)?;
        let logits = self.forward_evaluate(batch.images)?;
        let loss = softmax_cross_entropy(&logits, self.classes, self.classes, batch.labels, 0.0, None);
        finite("loss", loss, self.step)?;
        self.totals.add(loss, count_correct(&logits, batch.labels, self.classes), n as u64);
        Ok(())
    }

    fn logits(&mut self, images: &[f32]) -> Result<Vec<f32>, EngineError> {
        let image: usize = self.network.input.iter().product();
        if images.is_empty() || !images.len().is_multiple_of(image) {
            return Err(EngineError::Batch(format!(
                "{} values are not a whole number of images of {image}",
                images.len()
            )));
        }
        self.forward_evaluate(images)
    }

    fn prepare(&mut self, batch: usize, training: bool, beside: u64) -> Result<(), EngineError> {
        self.reserve(batch, training, beside)
    }

    fn totals(&mut self) -> Result<Totals, EngineError> {
        Ok(self.totals)
    }

    fn set_totals(&mut self, totals: Totals) -> Result<(), EngineError> {
        self.totals = totals;
        Ok(())
    }

    fn snapshot(&self, optimizer: bool) -> Result<Box<dyn Snapshot>, EngineError> {
        let (mut statistics, batches_tracked) = self.plan.statistics();
        let Parameters { values, buffers, average, .. } = &self.parameters;
        let mut parameters: &[f32] = values;
        let mut averages = None;
        if let (Some(averaging), Some(average)) = (&self.averaging, average) {
            let mut averaged: (&[f32], _) = (average, averaging.statistics.clone());
            if averaging.is_used {
                std::mem::swap(&mut parameters, &mut averaged.0);
                std::mem::swap(&mut statistics, &mut averaged.1);
            }
            averages = Some(averaged);
        }
        let whole = optimizer && self.step > 0;
        let names = self.settings.recipe.optimizer.buffers().iter();
        let buffers = || names.zip(buffers).map(|(name, values)| (*name, values.to_vec())).collect();
        Ok(Box::new(Arenas {
            export: self.plan.export(),
            parameters: parameters.to_vec(),
            statistics,
            batches_tracked,
            optimizer: whole.then(|| (buffers(), self.step)),
            average: averages.filter(|_| whole).map(|(values, statistics)| (values.to_vec(), statistics)),
        }))
    }

    fn load_state(&mut self, state: &State) -> Result<(), EngineError> {
        state.check(&self.network)?;
        self.settings.check_state(state)?;
        let Self { plan, parameters: Parameters { values, buffers, average, .. }, averaging, .. } = self;
        plan.import(values, &state.parameters);
        plan.set_statistics(&state.statistics, &state.batches_tracked);
        match &state.optimizer {
            Some(optimizer) => {
                for (name, buffer) in self.settings.recipe.optimizer.buffers().iter().zip(buffers) {
                    plan.import(buffer, &optimizer.buffers[*name]);
                }
                self.step = optimizer.step;
            }
            None => {
                buffers.iter_mut().for_each(|buffer| buffer.fill(0.0));
                self.step = 0;
            }
        }
        if let (Some(averaging), Some(average)) = (averaging, average) {
            let loaded = state.average.as_ref();
            plan.import(average, loaded.map_or(&state.parameters, |average| &average.parameters));
            loaded
                .map_or(&state.statistics, |average| &average.statistics)
                .clone_into(&mut averaging.statistics);
            if std::mem::replace(&mut averaging.is_used, false) {
                self.use_average(true)?;
            }
        }
        self.plan.weights_changed();
        Ok(())
    }
}
