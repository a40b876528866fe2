//! The buffers of an engine: what it trains, what a batch needs, and resident images.

use super::driver::{Buffer, Gpu};
use super::launch::{Address, Control};
use super::plan::{Block, Kind, Node, Plan, ROWS, width};
use crate::error::EngineError;
use crate::gradients::Flow;
use pointwise_network::Source;
use pointwise_recipe::Precision;

pub(super) const F32: usize = size_of::<f32>();

/// What lives as long as the engine.
#[derive(Debug)]
pub(super) struct Arenas {
    /// Weights, then three rows of vectors.
    pub(super) values: Buffer,
    /// The weights as the products read them, if that is not `values`.
    pub(super) copies: Option<Buffer>,
    /// In the type of the products.
    pub(super) weight_gradients: Buffer,
    pub(super) vector_gradients: Buffer,
    /// A row of running means, a row of running variances.
    pub(super) statistics: Buffer,
    /// Rows of BatchNorm's factors: see [`Row`].
    pub(super) affine: Buffer,
    /// For each channel, its BatchNorm's eps in `f64`; and 1 where that BatchNorm has no weight, else 0.
    pub(super) eps: Buffer,
    pub(super) units: Buffer,
    pub(super) control: Buffer,
}

/// Rows of `Arenas::affine`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Row {
    Scale,
    Shift,
    Mean,
    InvStd,
    A,
    B,
    C,
}

pub(super) const AFFINE_ROWS: usize = 7;

/// What is allocated for batches up to a size.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) batch: usize,
    /// Images as they come from the host, `(N, C, H, W)` f32.
    pub(super) staged: Buffer,
    pub(super) labels: Buffer,
    pub(super) input: Buffer,
    /// For each node: the convolution's results, and the output.
    pub(super) results: Vec<Option<Buffer>>,
    pub(super) outputs: Vec<Buffer>,
    /// Gradients of outputs, as in the plan's schedule, and one for intermediate gradients.
    pub(super) gradients: Vec<Buffer>,
    pub(super) scratch: Buffer,
    pub(super) partials: Buffer,
}

/// Resident images.
#[derive(Debug)]
pub(super) struct Set {
    pub(super) len: usize,
    pub(super) images: Buffer,
    pub(super) labels: Buffer,
    pub(super) values: Buffer,
    pub(super) order: Buffer,
    pub(super) margin: i32,
    /// How many epochs have begun; `order` holds the last one's.
    pub(super) epochs: u64,
}

/// What is added to the zeros that stand in for the weights of a BatchNorm without them.
pub(super) fn unit(has_weight: bool) -> f32 {
    if has_weight { 0.0 } else { 1.0 }
}

impl Arenas {
    pub(super) fn new(gpu: &Gpu, plan: &Plan, precision: Precision) -> Result<Self, EngineError> {
        let floats = |len: usize| gpu.allocate(len * F32);
        let own_copies = width(precision) != F32;
        let (mut eps, mut units) = (vec![1.0f64; plan.channels], vec![0.0f32; plan.channels]);
        for (norm, at) in plan.norms() {
            let own = at..at + norm.channels;
            eps[own.clone()].fill(norm.eps);
            units[own].fill(unit(norm.weight));
        }
        let kept = (gpu.allocate(size_of_val(&*eps))?, gpu.allocate(size_of_val(&*units))?);
        gpu.upload(&kept.0, 0, &eps)?;
        gpu.upload(&kept.1, 0, &units)?;
        Ok(Self {
            values: floats(plan.parameters())?,
            copies: own_copies.then(|| gpu.allocate(plan.weights * width(precision))).transpose()?,
            weight_gradients: gpu.allocate(plan.weights * width(precision))?,
            vector_gradients: floats(ROWS * plan.channels)?,
            statistics: floats(plan.statistics())?,
            affine: floats(AFFINE_ROWS * plan.channels)?,
            eps: kept.0,
            units: kept.1,
            control: gpu.allocate(size_of::<Control>())?,
        })
    }

    /// A weight as the products read it.
    pub(super) fn weight(&self, index: usize) -> Address {
        match &self.copies {
            Some(copies) => copies.at(index, size_of::<u16>()),
            None => self.values.at(index, F32),
        }
    }

    pub(super) fn weight_gradient(&self, index: usize) -> Address {
        self.weight_gradients.at(index, if self.copies.is_some() { size_of::<u16>() } else { F32 })
    }
}

impl Room {
    pub(super) fn new(
        gpu: &Gpu,
        plan: &Plan,
        precision: Precision,
        batch: usize,
    ) -> Result<Self, EngineError> {
        let numbers = |len: usize| gpu.allocate(batch * len * width(precision));
        let results = |node: &Node| match &node.kind {
            Kind::Block(Block { convolution: Some(_), results, .. }) => numbers(plan.len(*results)).map(Some),
            _ => Ok(None),
        };
        let input = plan.input;
        Ok(Self {
            batch,
            staged: gpu.allocate(batch * input.pixels() * input.channels * F32)?,
            labels: gpu.allocate(batch * size_of::<u16>())?,
            input: numbers(plan.len(input))?,
            results: plan.nodes.iter().map(results).collect::<Result<_, _>>()?,
            outputs: plan
                .nodes
                .iter()
                .map(|node| numbers(plan.len(node.output)))
                .collect::<Result<_, _>>()?,
            gradients: plan.schedule.buffers.iter().map(|len| numbers(*len)).collect::<Result<_, _>>()?,
            scratch: numbers(plan.scratch())?,
            // A smaller batch can need more: it is divided into smaller pieces.
            partials: gpu.allocate((1..=batch).map(|n| plan.partials(n)).max().unwrap_or(0) * F32)?,
        })
    }

    pub(super) fn source(&self, source: Source) -> Address {
        match source {
            Source::Stage(before) => self.outputs[before].address(),
            Source::Images => self.input.address(),
        }
    }

    /// What a block's output is computed from: the convolution's results, or the input.
    pub(super) fn results_of(&self, plan: &Plan, node: usize) -> Address {
        match &self.results[node] {
            Some(results) => results.address(),
            None => self.source(plan.nodes[node].sources[0]),
        }
    }

    /// Where the gradients of a convolution's results and, if requested, of its input lie; `None` if there are none.
    pub(super) fn gradients_around(
        &self,
        plan: &Plan,
        node: usize,
        block: &Block,
    ) -> Option<(Address, Option<Address>)> {
        let gradients = &plan.schedule.stages[node];
        let own = &self.gradients[gradients.output?];
        let results = if block.changes_gradient() { &self.scratch } else { own };
        Some((results.address(), self.target(gradients.inputs[0])))
    }

    /// Where a gradient flows to; `None` if it need not be computed.
    pub(super) fn target(&self, flow: Flow) -> Option<Address> {
        match flow {
            Flow::None | Flow::Share { .. } => None,
            Flow::Write { into, .. } | Flow::Add { into, .. } => Some(self.gradients[into].address()),
        }
    }

    pub(super) fn logits(&self) -> &Buffer {
        self.outputs.last().unwrap_or(&self.input)
    }
}
