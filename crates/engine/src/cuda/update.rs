//! What follows the gradients: clipping, the optimizer's step, the moving average, slow weights.

use super::driver::{Buffer, Gpu, Kernel};
use super::launch::{
    Address, ClipGradients, GradientNorm, Grid, Group, Lookahead, OptimizerConstants, SetRate, StepConstants,
    SwapAverage, Update as UpdatePass,
};
use super::memory::F32;
use super::plan::{Plan, width};
use crate::engine::{NO_AVERAGE, NO_SLOW_WEIGHTS, check_rate, check_share};
use crate::error::EngineError;
use crate::optimizer::Step;
use crate::settings::Settings;
use pointwise_kernels::AdamStep;
use pointwise_recipe::{Group as RecipeGroup, Optimizer, Rate, Recipe};

/// The recipe's part of a step, and what it keeps in GPU memory.
#[derive(Debug)]
pub(super) struct Update {
    optimizer: Optimizer,
    /// The optimizer's buffers, in the order of [`Optimizer::buffers`]; laid out as the parameters.
    pub(super) buffers: Vec<Buffer>,
    groups: Groups,
    clip: Option<Clip>,
    pub(super) average: Option<Average>,
    rate: Rate,
    /// The value of `rate` in GPU memory.
    device_rate: Option<Rate>,
    step: Kernel<UpdatePass>,
    set_rate: Kernel<SetRate>,
    gradient_squares: Kernel<GradientNorm>,
    clip_gradients: Kernel<ClipGradients>,
    swap_average: Kernel<SwapAverage>,
    lookahead: Kernel<Lookahead>,
}

#[derive(Debug)]
struct Groups {
    own: Vec<RecipeGroup>,
    /// [`Group`] of each.
    groups: Buffer,
    /// Which of them are frozen, according to GPU memory.
    frozen: Vec<bool>,
    /// [`StepConstants`] of each, which every step recomputes.
    constants: Buffer,
    /// See [`Plan::groups`].
    of_fours: Option<Buffer>,
}

#[derive(Debug)]
struct Clip {
    most: f64,
    /// Sums of squares.
    partials: Buffer,
}

/// The moving average or the slow weights, laid out as the originals.
#[derive(Debug)]
pub(super) struct Average {
    /// The decay of the moving average, which every step updates; `None` for slow weights.
    decay: Option<f64>,
    pub(super) parameters: Buffer,
    pub(super) statistics: Buffer,
    /// Whether it is swapped with the trained values.
    pub(super) is_used: bool,
}

/// What else a step reads and changes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trained {
    pub(super) values: Address,
    pub(super) copies: Address,
    pub(super) weight_gradients: Address,
    pub(super) vector_gradients: Address,
    pub(super) statistics: Address,
    pub(super) control: Address,
    pub(super) weights: usize,
    pub(super) length: usize,
    pub(super) statistics_length: usize,
}

impl Update {
    pub(super) fn new(gpu: &Gpu, plan: &Plan, settings: &Settings) -> Result<Self, EngineError> {
        let Settings { recipe, precision, .. } = settings;
        let of = |f32: &'static str, bf16: &'static str| if width(*precision) == F32 { f32 } else { bf16 };
        let step = match recipe.optimizer {
            Optimizer::Adam(_) => of("adam_f32", "adam_bf16"),
            Optimizer::AdamW(_) => of("adamw_f32", "adamw_bf16"),
            Optimizer::Sgd(_) => of("sgd_f32", "sgd_bf16"),
        };
        let arena = |_| gpu.allocate(plan.parameters() * F32);
        let clip = |most| {
            let partials = gpu.allocate(GradientNorm::blocks(plan.parameters()) * size_of::<f64>())?;
            Ok::<_, EngineError>(Clip { most, partials })
        };
        let average = || {
            let statistics = gpu.allocate(plan.statistics() * F32)?;
            let decay = recipe.ema.map(|ema| ema.decay);
            Ok::<_, EngineError>(Average { decay, parameters: arena(())?, statistics, is_used: false })
        };
        Ok(Self {
            optimizer: recipe.optimizer.clone(),
            buffers: recipe.optimizer.buffers().iter().map(|_| arena(())).collect::<Result<_, _>>()?,
            groups: Groups::new(gpu, plan, recipe)?,
            clip: recipe.clip_norm.map(clip).transpose()?,
            average: recipe.averages().then(average).transpose()?,
            rate: Rate::new(recipe.optimizer.lr()),
            device_rate: None,
            step: gpu.kernel(step)?,
            set_rate: gpu.kernel("set_rate")?,
            gradient_squares: gpu.kernel(of("gradient_squares_f32", "gradient_squares_bf16"))?,
            clip_gradients: gpu.kernel("clip_gradients")?,
            swap_average: gpu.kernel("swap_average")?,
            lookahead: gpu.kernel("lookahead")?,
        })
    }

    /// The moving average, and its decay.
    fn moving_average(&self) -> Option<(&Average, f64)> {
        let average = self.average.as_ref()?;
        Some((average, average.decay?))
    }

    /// The least floats that a step reads or writes per parameter: value and gradient, and the state kept for it.
    pub(super) fn traffic(&self) -> usize {
        3 + 2 * (self.buffers.len() + usize::from(self.moving_average().is_some()))
    }

    pub(super) fn set_rate(&mut self, rate: Rate) -> Result<(), EngineError> {
        check_rate(rate)?;
        self.rate = rate;
        Ok(())
    }

    /// Copies the rate to the GPU if a different one is there. Nothing waits for it, and no recorded step contains it.
    pub(super) fn renew_rate(&mut self, gpu: &Gpu, control: Address) -> Result<(), EngineError> {
        if self.device_rate == Some(self.rate) {
            return Ok(());
        }
        let (lr, momentum) = match self.constants() {
            Step::Adam(step) | Step::AdamW(step) => (step.lr, step.beta1),
            Step::Sgd(step) => (step.lr, step.momentum),
        };
        gpu.launch(&self.set_rate, Grid::linear(1), SetRate { control, lr, momentum })?;
        self.groups.renew(gpu, self.rate)?;
        self.device_rate = Some(self.rate);
        Ok(())
    }

    /// The constants of a group that changes nothing.
    fn constants(&self) -> Step {
        Step::new(
            &self.optimizer,
            self.rate,
            RecipeGroup { lr_factor: 1.0, weight_decay: 0.0, frozen_after: None },
            1,
        )
    }

    /// The optimizer's number in the kernels, and its constants that do not depend on the rate.
    pub(super) fn optimizer(&self) -> (u32, OptimizerConstants) {
        let adam = |step: AdamStep| OptimizerConstants {
            second_beta: step.beta2,
            second_decay: step.beta2 as f32,
            second_rate: (1.0 - step.beta2) as f32,
            eps: step.eps() as f32,
            nesterov: 0,
        };
        match self.constants() {
            Step::Adam(step) => (0, adam(step)),
            Step::AdamW(step) => (1, adam(step)),
            Step::Sgd(step) => {
                let nesterov = u32::from(step.nesterov);
                (2, OptimizerConstants { nesterov, ..OptimizerConstants::default() })
            }
        }
    }

    /// Addresses of the groups and of their constants, and how many there are.
    pub(super) fn groups(&self) -> (Address, Address, usize) {
        (self.groups.groups.address(), self.groups.constants.address(), self.groups.own.len())
    }

    /// Clips the gradients, takes the optimizer's step on `n` images, and advances to the next.
    pub(super) fn enqueue(&self, gpu: &Gpu, on: Trained, n: usize) -> Result<(), EngineError> {
        if let Some(Clip { most, partials }) = &self.clip {
            let blocks = GradientNorm::blocks(on.length) as u32;
            let pass = GradientNorm {
                weight_gradients: on.weight_gradients,
                vector_gradients: on.vector_gradients,
                partials: partials.address(),
                control: on.control,
                most: *most,
                weights: on.weights as u32,
                length: on.length as u32,
                blocks,
            };
            gpu.launch(&self.gradient_squares, Grid { blocks: [blocks, 1], ..Grid::linear(1) }, pass)?;
            gpu.launch(&self.clip_gradients, Grid::linear(1), ClipGradients(pass))?;
        }
        let buffer = |index: usize| self.buffers.get(index).map_or(0, Buffer::address);
        let (average, decay) = self.moving_average().unzip();
        let (from_average, average_share) = lerp(decay.unwrap_or_default());
        let length = on.length + average.map_or(0, |_| on.statistics_length);
        gpu.launch(
            &self.step,
            Grid::linear(length.div_ceil(4).max(1)),
            UpdatePass {
                values: on.values,
                first: buffer(0),
                second: buffer(1),
                weight_gradients: on.weight_gradients,
                vector_gradients: on.vector_gradients,
                copies: on.copies,
                statistics: on.statistics,
                average: average.map_or(0, |average| average.parameters.address()),
                average_statistics: average.map_or(0, |average| average.statistics.address()),
                control: on.control,
                constants: self.groups.constants.address(),
                groups: self.groups.of_fours.as_ref().map_or(0, Buffer::address),
                optimizer: self.optimizer().1,
                average_share,
                from_average,
                weights: on.weights as u32,
                length: on.length as u32,
                statistics_length: on.statistics_length as u32,
                n: n as u32,
            },
        )
    }

    /// Swaps the averages with the trained values, or back.
    pub(super) fn use_average(&mut self, gpu: &Gpu, of: Trained, on: bool) -> Result<(), EngineError> {
        let average = self.average.as_mut().filter(|average| average.decay.is_some()).ok_or(NO_AVERAGE)?;
        if average.is_used == on {
            return Ok(());
        }
        gpu.launch(
            &self.swap_average,
            Grid::linear(of.length + of.statistics_length),
            SwapAverage {
                values: of.values,
                average: average.parameters.address(),
                statistics: of.statistics,
                average_statistics: average.statistics.address(),
                copies: of.copies,
                weights: of.weights as u32,
                length: of.length as u32,
                statistics_length: of.statistics_length as u32,
            },
        )?;
        average.is_used = on;
        Ok(())
    }

    /// Averages the trained values into the slow weights, and sets them to the result.
    pub(super) fn lookahead(&self, gpu: &Gpu, of: Trained, decay: f64) -> Result<(), EngineError> {
        let slow = self.average.as_ref().filter(|slow| slow.decay.is_none()).ok_or(NO_SLOW_WEIGHTS)?;
        check_share(decay)?;
        let (from_slow, share) = lerp(decay);
        gpu.launch(
            &self.lookahead,
            Grid::linear(of.length + of.statistics_length),
            Lookahead {
                values: of.values,
                slow: slow.parameters.address(),
                statistics: of.statistics,
                slow_statistics: slow.statistics.address(),
                copies: of.copies,
                control: of.control,
                share,
                from_slow,
                weights: of.weights as u32,
                length: of.length as u32,
                statistics_length: of.statistics_length as u32,
            },
        )
    }
}

/// Whether the average interpolates from its own end, the nearer one, and the weight of the other end.
fn lerp(decay: f64) -> (u32, f32) {
    match decay > 0.5 {
        true => (1, (1.0 - decay) as f32),
        false => (0, decay as f32),
    }
}

impl Groups {
    fn new(gpu: &Gpu, plan: &Plan, recipe: &Recipe) -> Result<Self, EngineError> {
        let (own, of_fours) = plan.groups(recipe);
        let upload = |fours: Vec<u32>| {
            let buffer = gpu.allocate(size_of_val(&*fours))?;
            gpu.upload(&buffer, 0, &fours)?;
            Ok::<_, EngineError>(buffer)
        };
        let mut made = Self {
            groups: gpu.allocate(own.len() * size_of::<Group>())?,
            constants: gpu.allocate(own.len() * size_of::<StepConstants>())?,
            of_fours: of_fours.map(upload).transpose()?,
            frozen: Vec::new(),
            own,
        };
        made.renew(gpu, Rate::new(recipe.optimizer.lr()))?;
        Ok(made)
    }

    /// Copies the groups to the GPU if other groups are frozen there.
    fn renew(&mut self, gpu: &Gpu, rate: Rate) -> Result<(), EngineError> {
        let frozen: Vec<bool> = self.own.iter().map(|group| group.is_frozen(rate)).collect();
        if self.frozen == frozen {
            return Ok(());
        }
        let groups = self.own.iter().zip(&frozen).map(|(own, frozen)| Group {
            lr_factor: if *frozen { -1.0 } else { own.lr_factor },
            weight_decay: own.weight_decay,
        });
        gpu.upload(&self.groups, 0, &groups.collect::<Vec<Group>>())?;
        self.frozen = frozen;
        Ok(())
    }
}
