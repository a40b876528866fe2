//! The engine: a plan's buffers, and the steps that run over them.

use super::gpu::{
    Buffer, Choice, Convolution2d, ConvolutionShape, DATA, DNN_WORKSPACE, FILTER, FORWARD, Gpu, Graph,
    Kernel, Operands, Product, Read, dnn_version,
};
use super::launch::{
    Address, Apply, Assemble, ChannelsPass, Chunks, Coefficients, Control, DropoutPass, ElementsPass,
    Evaluation, Gradient, Grid, Grouped, GroupedFilter, Import, LossRows, LossTotal, MapPass, Merge, Moments,
    MultiplyPass, Normalise, PoolPass, Reduce, Tiles,
};
use super::plan::{Block, Convolution, Floor, Kind, Method, Node, Plan, ROWS, width, windows};
use super::update::{Trained, Update};
use crate::batch::{Batch, Totals, check_batch};
use crate::engine::{AVERAGE_IN_USE, Engine};
use crate::error::EngineError;
use crate::gradients::Flow;
use crate::places::{RunningStatistics, export_statistics, import_statistics};
use crate::resident::{BegunEpoch, ResidentEpoch, ResidentImages, ResidentSet, check_images};
use crate::settings::Settings;
use crate::stage::{Map, Source, Window};
use crate::state::{Array, Average, OptimizerState, State};
use pointwise_network::Network;
use pointwise_recipe::{DeviceName, EngineKind, Precision, Rate};
use std::collections::{BTreeMap, BTreeSet};
use std::mem::offset_of;
use std::ops::Range;

const F32: usize = size_of::<f32>();

/// See the [module](super).
#[derive(Debug)]
pub struct Cuda {
    network: Network,
    settings: Settings,
    classes: usize,
    plan: Plan,
    arenas: Arenas,
    update: Update,
    /// Has room for the largest batch so far.
    room: Option<Room>,
    sets: Vec<Set>,
    /// For each node and batch size.
    convolutions: Vec<BTreeMap<usize, Convolution2d>>,
    /// Recorded steps, and those that were taken once: NVIDIA's libraries do not like to be recorded at their first call.
    graphs: BTreeMap<Step, Graph>,
    taken: BTreeSet<Step>,
    /// Why steps are not recorded, where they cannot be.
    unrecorded: Option<String>,
    /// For each BatchNorm's path.
    batches_tracked: BTreeMap<String, i64>,
    /// `offset` as it lies in the GPU's memory.
    offset: Option<u32>,
    kernels: Kernels,
    // Last, so that it is dropped last.
    gpu: Gpu,
}

/// Running statistics and batches tracked, by name.
type Statistics = (BTreeMap<String, Array>, BTreeMap<String, i64>);

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Train,
    /// As `Train`, without the optimizer.
    Differentiate,
    Evaluate,
    /// As `Evaluate`, without labels.
    Infer,
}

impl Mode {
    fn trains(self) -> bool {
        matches!(self, Self::Train | Self::Differentiate)
    }
}

/// Where a step's images are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// In the staging buffer.
    Staged,
    /// In a resident set, in the order of an epoch or as they lie, with a margin for crops or, below zero, none.
    Set { index: usize, ordered: bool, margin: i32 },
}

/// Steps of one kind run the same kernels on the same addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Step {
    mode: Mode,
    from: Origin,
    n: usize,
}

/// What lives as long as the engine.
#[derive(Debug)]
struct Arenas {
    /// Weights, then three rows of vectors.
    values: Buffer,
    /// The weights as the products read them, where that is not `values`.
    copies: Option<Buffer>,
    /// In the type of the products.
    weight_gradients: Buffer,
    vector_gradients: Buffer,
    /// A row of running means, a row of running variances.
    statistics: Buffer,
    /// Rows of what BatchNorm is made with: see [`Row`].
    affine: Buffer,
    /// For each channel, its BatchNorm's eps in `f64`; and 1 where that BatchNorm has no weight, else 0.
    eps: Buffer,
    units: Buffer,
    control: Buffer,
    /// Of the convolutions: as large as the algorithm that wants most.
    workspace: Buffer,
}

/// Rows of `Arenas::affine`.
#[derive(Debug, Clone, Copy)]
enum Row {
    Scale,
    Shift,
    Center,
    Root,
    A,
    B,
    C,
}

const AFFINE_ROWS: usize = 7;

/// What is allocated for batches of a size.
#[derive(Debug)]
struct Room {
    batch: usize,
    /// Images as they come from the host, `(N, C, H, W)` f32.
    staged: Buffer,
    labels: Buffer,
    input: Buffer,
    /// For each node: the convolution's results, and the output.
    results: Vec<Option<Buffer>>,
    outputs: Vec<Buffer>,
    /// Gradients of outputs, as the plan's schedule has them, and one on the way from one to another.
    gradients: Vec<Buffer>,
    scratch: Buffer,
    partials: Buffer,
}

/// Images that stay.
#[derive(Debug)]
struct Set {
    len: usize,
    images: Buffer,
    labels: Buffer,
    values: Buffer,
    order: Buffer,
    margin: i32,
    /// How many epochs have begun; `order` holds the last one's.
    epochs: u64,
}

#[derive(Debug)]
struct Kernels {
    assemble: Kernel<Assemble>,
    import: Kernel<Import>,
    moments: Kernel<Moments>,
    normalise: Kernel<Normalise>,
    evaluation: Kernel<Evaluation>,
    apply: Kernel<Apply>,
    reduce: Kernel<Reduce>,
    coefficients: Kernel<Coefficients>,
    gradient: Kernel<Gradient>,
    average: Kernel<MapPass>,
    spread: Kernel<MapPass>,
    flatten: Kernel<MapPass>,
    unflatten: Kernel<MapPass>,
    dropout: Kernel<DropoutPass>,
    loss_rows: Kernel<LossRows>,
    loss_total: Kernel<LossTotal>,
    /// For activations other than ReLU.
    apply_other: Kernel<Apply>,
    reduce_other: Kernel<Reduce>,
    gradient_other: Kernel<Gradient>,
    sum: Kernel<ElementsPass>,
    mask: Kernel<ElementsPass>,
    scale: Kernel<ElementsPass>,
    multiply: Kernel<MultiplyPass>,
    gate: Kernel<MultiplyPass>,
    channels: Kernel<ChannelsPass>,
    max_pool: Kernel<PoolPass>,
    max_pool_back: Kernel<PoolPass>,
    average_pool: Kernel<PoolPass>,
    average_pool_back: Kernel<PoolPass>,
    grouped: Kernel<Grouped>,
    grouped_data: Kernel<Grouped>,
    grouped_filter: Kernel<GroupedFilter>,
    merge: Kernel<Merge>,
}

impl Kernels {
    fn load(gpu: &Gpu, precision: Precision) -> Result<Self, EngineError> {
        let of = |f32: &'static str, bf16: &'static str| if width(precision) == F32 { f32 } else { bf16 };
        Ok(Self {
            assemble: gpu.kernel(of("assemble_f32", "assemble_bf16"))?,
            import: gpu.kernel(of("import_f32", "import_bf16"))?,
            moments: gpu.kernel(of("moments_f32", "moments_bf16"))?,
            normalise: gpu.kernel("normalise")?,
            evaluation: gpu.kernel("evaluation")?,
            apply: gpu.kernel(of("apply_f32", "apply_bf16"))?,
            reduce: gpu.kernel(of("reduce_f32", "reduce_bf16"))?,
            coefficients: gpu.kernel("coefficients")?,
            gradient: gpu.kernel(of("gradient_f32", "gradient_bf16"))?,
            average: gpu.kernel(of("average_f32", "average_bf16"))?,
            spread: gpu.kernel(of("spread_f32", "spread_bf16"))?,
            flatten: gpu.kernel(of("flatten_f32", "flatten_bf16"))?,
            unflatten: gpu.kernel(of("unflatten_f32", "unflatten_bf16"))?,
            dropout: gpu.kernel(of("dropout_f32", "dropout_bf16"))?,
            loss_rows: gpu.kernel(of("loss_rows_f32", "loss_rows_bf16"))?,
            loss_total: gpu.kernel("loss_total")?,
            apply_other: gpu.kernel(of("apply_other_f32", "apply_other_bf16"))?,
            reduce_other: gpu.kernel(of("reduce_other_f32", "reduce_other_bf16"))?,
            gradient_other: gpu.kernel(of("gradient_other_f32", "gradient_other_bf16"))?,
            sum: gpu.kernel(of("sum_f32", "sum_bf16"))?,
            mask: gpu.kernel(of("mask_f32", "mask_bf16"))?,
            scale: gpu.kernel(of("scale_f32", "scale_bf16"))?,
            multiply: gpu.kernel(of("multiply_f32", "multiply_bf16"))?,
            gate: gpu.kernel(of("gate_f32", "gate_bf16"))?,
            channels: gpu.kernel(of("channels_f32", "channels_bf16"))?,
            max_pool: gpu.kernel(of("max_pool_f32", "max_pool_bf16"))?,
            max_pool_back: gpu.kernel(of("max_pool_back_f32", "max_pool_back_bf16"))?,
            average_pool: gpu.kernel(of("average_pool_f32", "average_pool_bf16"))?,
            average_pool_back: gpu.kernel(of("average_pool_back_f32", "average_pool_back_bf16"))?,
            grouped: gpu.kernel(of("grouped_f32", "grouped_bf16"))?,
            grouped_data: gpu.kernel(of("grouped_data_f32", "grouped_data_bf16"))?,
            grouped_filter: gpu.kernel(of("grouped_filter_f32", "grouped_filter_bf16"))?,
            merge: gpu.kernel(of("merge_f32", "merge_bf16"))?,
        })
    }
}

impl Cuda {
    /// Makes an engine with the network's initial values.
    ///
    /// # Errors
    /// [`EngineError::Network`]; [`EngineError::Recipe`]; [`EngineError::Unsupported`] when the settings name another device than a GPU;
    /// [`EngineError::DeviceUnavailable`] when the GPU or a library of NVIDIA's cannot be used.
    pub fn new(network: &Network, settings: &Settings) -> Result<Self, EngineError> {
        let DeviceName::Cuda(ordinal) = settings.device else {
            return Err(EngineError::Unsupported {
                engine: EngineKind::Cuda,
                what: "on the CPU".to_owned(),
                fix: "use `--device cuda`, or `--engine cpu`".to_owned(),
            });
        };
        let graph = network.graph()?;
        settings.check(&graph)?;
        let classes = graph.classes();
        let plan = Plan::new(&graph, settings.precision);
        let unavailable = |error| match error {
            EngineError::Device(reason) => {
                EngineError::DeviceUnavailable { device: settings.device.to_string(), reason }
            }
            other => other,
        };
        let gpu = Gpu::open(ordinal, settings.precision).map_err(unavailable)?;
        let kernels = Kernels::load(&gpu, settings.precision)?;
        let arenas = Arenas::new(&gpu, &plan, settings.precision)?;
        let update = Update::new(&gpu, &plan, settings)?;
        gpu.upload(&arenas.control, 0, &[Control { gradient_norm: f64::NAN, ..Control::default() }])?;
        let mut engine = Self {
            network: network.clone(),
            settings: settings.clone(),
            classes,
            arenas,
            update,
            room: None,
            sets: Vec::new(),
            convolutions: plan.nodes.iter().map(|_| BTreeMap::new()).collect(),
            graphs: BTreeMap::new(),
            taken: BTreeSet::new(),
            unrecorded: None,
            batches_tracked: BTreeMap::new(),
            offset: None,
            kernels,
            plan,
            gpu,
        };
        engine.load_state(&State::initial(&graph, settings.seed))?;
        Ok(engine)
    }

    /// The card, the libraries, and how steps are started, in words.
    #[must_use]
    pub fn description(&self) -> String {
        let graphs = match &self.unrecorded {
            None => "CUDA graph".to_owned(),
            Some(reason) => format!("without CUDA graphs ({reason})"),
        };
        format!("{}, {}, cuDNN {}, {graphs}", self.gpu.name(), self.settings.precision, dnn_version())
    }

    /// The least that a step on `batch` images computes and moves.
    #[must_use]
    pub fn floor(&self, batch: usize, training: bool) -> Floor {
        self.plan.floor(batch, training, self.update.traffic())
    }

    /// Loss, and the gradient of every parameter by name, of one batch in training mode, without taking the step.
    ///
    /// BatchNorm's running statistics are updated, as by every forward pass in training mode.
    ///
    /// # Errors
    /// As [`Engine::train_step`].
    pub fn gradients(&mut self, batch: Batch<'_>) -> Result<(f64, BTreeMap<String, Array>), EngineError> {
        let n = check_batch(batch, self.network.input, self.classes)?;
        let before = self.control()?;
        self.stage(batch.images, batch.labels, n, true)?;
        self.run(Step { mode: Mode::Differentiate, from: Origin::Staged, n })?;
        self.count_batch();
        let after = self.control()?;
        self.gpu.upload(&self.arenas.control, 0, &[before])?;
        self.offset = Some(before.offset);
        check_finite(&after)?;
        let weights = self.plan.weights;
        let mut gradients = match &self.arenas.copies {
            None => self.gpu.download(&self.arenas.weight_gradients, 0, weights)?,
            Some(_) => {
                let halves: Vec<u16> = self.gpu.download(&self.arenas.weight_gradients, 0, weights)?;
                halves.into_iter().map(from_bf16).collect()
            }
        };
        gradients.extend(self.gpu.download::<f32>(
            &self.arenas.vector_gradients,
            0,
            ROWS * self.plan.channels,
        )?);
        Ok((after.last_loss, self.plan.export(&gradients)))
    }

    fn check_trainable(&self) -> Result<(), EngineError> {
        match &self.update.average {
            Some(average) if average.is_used => Err(AVERAGE_IN_USE),
            _ => Ok(()),
        }
    }

    /// What a step changes.
    fn trained(&self) -> Trained {
        let Self { plan, arenas, .. } = self;
        Trained {
            values: arenas.values.address(),
            copies: arenas.copies.as_ref().map_or(0, Buffer::address),
            weight_gradients: arenas.weight_gradients.address(),
            vector_gradients: arenas.vector_gradients.address(),
            statistics: arenas.statistics.address(),
            control: arenas.control.address(),
            weights: plan.weights,
            length: plan.parameters(),
            statistics_length: plan.statistics(),
        }
    }

    /// Numbers laid out as the parameters, by name.
    fn export(&self, arena: &Buffer) -> Result<BTreeMap<String, Array>, EngineError> {
        Ok(self.plan.export(&self.gpu.download(arena, 0, self.plan.parameters())?))
    }

    /// Running statistics and batches tracked, by name.
    fn export_statistics(&self, statistics: &Buffer) -> Result<Statistics, EngineError> {
        let rows: Vec<f32> = self.gpu.download(statistics, 0, self.plan.statistics())?;
        let norms = self.plan.norms().map(|(norm, at)| {
            let row = |row: usize| {
                let start = row * self.plan.channels + at;
                rows[start..start + norm.channels].to_vec()
            };
            let batches_tracked = self.batches_tracked.get(&norm.path).copied().unwrap_or(0);
            RunningStatistics { path: &norm.path, mean: row(0), variance: row(1), batches_tracked }
        });
        Ok(export_statistics(norms))
    }

    /// The inverse of [`Cuda::export_statistics`], for arrays that were checked.
    fn import_statistics(
        &self,
        statistics: &BTreeMap<String, Array>,
        tracked: &BTreeMap<String, i64>,
    ) -> (Vec<f32>, BTreeMap<String, i64>) {
        let (mut rows, mut batches_tracked) = (vec![0.0; self.plan.statistics()], BTreeMap::new());
        for (norm, at) in self.plan.norms() {
            let (mean, variance, tracked) = import_statistics(&norm.path, statistics, tracked);
            for (row, values) in [mean, variance].into_iter().enumerate() {
                let start = row * self.plan.channels + at;
                rows[start..start + norm.channels].copy_from_slice(values);
            }
            batches_tracked.insert(norm.path.clone(), tracked);
        }
        (rows, batches_tracked)
    }

    fn control(&self) -> Result<Control, EngineError> {
        self.gpu.make_current()?;
        let control: Vec<Control> = self.gpu.download(&self.arenas.control, 0, 1)?;
        Ok(control[0])
    }

    /// Brings a batch to the GPU.
    fn stage(&mut self, images: &[f32], labels: &[u16], n: usize, training: bool) -> Result<(), EngineError> {
        self.plan.check(n, training)?;
        self.gpu.make_current()?;
        self.reserve(n)?;
        let Some(room) = &self.room else { return Ok(()) };
        self.gpu.upload(&room.staged, 0, images)?;
        self.gpu.upload(&room.labels, 0, labels)
    }

    fn count_batch(&mut self) {
        for tracked in self.batches_tracked.values_mut() {
            *tracked += 1;
        }
    }

    /// Makes room for a batch; does nothing when there is room.
    fn reserve(&mut self, batch: usize) -> Result<(), EngineError> {
        if self.room.as_ref().is_some_and(|room| room.batch >= batch) {
            return Ok(());
        }
        // Recorded steps know the old addresses.
        self.graphs.clear();
        self.gpu.wait()?;
        self.room = None;
        self.room = Some(Room::new(&self.gpu, &self.plan, self.settings.precision, batch)?);
        Ok(())
    }

    /// Takes a step: from its record, or, the first time, call by call.
    fn run(&mut self, step: Step) -> Result<(), EngineError> {
        self.gpu.make_current()?;
        if step.mode == Mode::Train {
            self.update.renew_rate(&self.gpu, self.arenas.control.address())?;
        }
        if let Some(graph) = self.graphs.get(&step) {
            return self.gpu.replay(graph);
        }
        self.reserve(step.n)?;
        self.choose_algorithms(step)?;
        if self.taken.insert(step) || self.unrecorded.is_some() {
            return self.enqueue(step);
        }
        match self.gpu.capture(|| self.enqueue(step)) {
            Ok(graph) => {
                self.gpu.replay(&graph)?;
                self.graphs.insert(step, graph);
                Ok(())
            }
            Err(error) => {
                self.unrecorded = Some(error.to_string());
                self.enqueue(step)
            }
        }
    }

    /// Sees to it that the next step's first image is `place`.
    fn seek(&mut self, place: usize) -> Result<(), EngineError> {
        let place = place as u32;
        if self.offset != Some(place) {
            self.gpu.make_current()?;
            self.gpu.upload(&self.arenas.control, offset_of!(Control, offset), &[place])?;
            self.offset = Some(place);
        }
        Ok(())
    }

    /// A step on the images in `range` of a set.
    fn run_resident(
        &mut self,
        set: ResidentSet,
        epoch: Option<BegunEpoch>,
        range: Range<usize>,
    ) -> Result<(), EngineError> {
        let mode = if epoch.is_some() { Mode::Train } else { Mode::Evaluate };
        let resident = self.set(set)?;
        if range.is_empty() || range.end > resident.len {
            return Err(EngineError::Batch(format!(
                "images {} to {} are not among the {} that the GPU keeps",
                range.start, range.end, resident.len
            )));
        }
        if epoch.is_some_and(|epoch| epoch.count != resident.epochs) {
            return Err(EngineError::Batch(
                "another epoch has begun on these images: take what its begin_epoch gave".to_owned(),
            ));
        }
        let (ordered, margin) = if mode.trains() { (true, resident.margin) } else { (false, -1) };
        let n = range.len();
        self.plan.check(n, mode.trains())?;
        self.seek(range.start)?;
        self.run(Step { mode, from: Origin::Set { index: set.0, ordered, margin }, n })?;
        self.advance(n);
        Ok(())
    }

    /// The step advanced the place on the GPU.
    fn advance(&mut self, n: usize) {
        self.offset = self.offset.map(|offset| offset.wrapping_add(n as u32));
    }

    fn set(&self, set: ResidentSet) -> Result<&Set, EngineError> {
        self.sets.get(set.0).ok_or_else(|| EngineError::Batch("the engine keeps no such images".to_owned()))
    }

    /// Chooses what of a step's convolutions is not chosen yet.
    fn choose_algorithms(&mut self, step: Step) -> Result<(), EngineError> {
        let Self { plan, arenas, room, convolutions, gpu, settings, .. } = self;
        let Some(room) = room else { return Ok(()) };
        let choice = if settings.deterministic { Choice::Deterministic } else { Choice::Measured };
        let mut scratch = None;
        let mut needed = 0;
        for (at, (node, chosen)) in plan.nodes.iter().zip(convolutions).enumerate() {
            let Kind::Block(block) = &node.kind else { continue };
            let Some(convolution) = block.convolution.filter(|own| own.method == Method::Library) else {
                continue;
            };
            let mut own = match chosen.remove(&step.n) {
                Some(own) => own,
                None => {
                    let mut own = Convolution2d::new(gpu, shape(node, convolution, block.results, step.n))?;
                    if choice == Choice::Measured
                        && let Some((_, larger)) = chosen.range(step.n..).next()
                    {
                        // What cuDNN cannot use here stays open, and is chosen below.
                        own.adopt(gpu, larger);
                    }
                    own
                }
            };
            let [forward, data, filter] = own.asked();
            let gradients = room.gradients_around(plan, at, block).filter(|_| step.mode.trains());
            let [data, filter] = match gradients {
                Some((_, into)) => [!data && into.is_some(), !filter],
                None => [false, false],
            };
            if choice == Choice::Measured && scratch.is_none() && (!forward || data || filter) {
                scratch = Some(gpu.allocate(DNN_WORKSPACE)?);
            }
            let workspace = scratch.as_ref().unwrap_or(&arenas.workspace);
            let x = room.source(node.sources[0]);
            let w = arenas.weight(convolution.weight);
            if !forward {
                let at = Operands { x, w, y: room.results_of(plan, at) };
                own.choose_forward(gpu, choice, at, workspace)?;
            }
            if let Some((y, Some(x))) = gradients
                && data
            {
                own.choose_data(gpu, choice, Operands { x, w, y }, workspace)?;
            }
            if let Some((y, _)) = gradients
                && filter
            {
                let w = arenas.weight_gradient(convolution.weight);
                own.choose_filter(gpu, choice, Operands { x, w, y }, workspace)?;
            }
            needed = own.workspace().max(needed);
            chosen.insert(step.n, own);
        }
        if needed > self.arenas.workspace.bytes() {
            // Recorded steps know the old address.
            self.graphs.clear();
            self.gpu.wait()?;
            self.arenas.workspace = self.gpu.allocate(needed)?;
        }
        Ok(())
    }

    /// Starts everything that a step does.
    fn enqueue(&self, step: Step) -> Result<(), EngineError> {
        let Some(room) = &self.room else { return Ok(()) };
        let pass = Pass { engine: self, room, n: step.n };
        pass.load(step.from)?;
        pass.forward(step.mode.trains())?;
        match step.mode {
            Mode::Infer => Ok(()),
            Mode::Evaluate => pass.loss(false),
            Mode::Differentiate => {
                pass.loss(true)?;
                pass.backward()
            }
            Mode::Train => {
                pass.loss(true)?;
                pass.backward()?;
                self.update.enqueue(&self.gpu, self.trained(), step.n)
            }
        }
    }
}

/// The error of a loss or a norm that was not finite.
fn check_finite(control: &Control) -> Result<(), EngineError> {
    match control.bad_quantity() {
        None => Ok(()),
        Some(quantity) => {
            Err(EngineError::NotFinite { step: control.bad_step, quantity, value: control.bad_value })
        }
    }
}

/// The sides of a convolution for a batch.
fn shape(node: &Node, convolution: Convolution, results: Map, n: usize) -> ConvolutionShape {
    let (input, window) = (node.inputs[0], convolution.window);
    ConvolutionShape {
        n,
        height: input.height,
        width: input.width,
        in_channels: convolution.in_channels,
        out_height: results.height,
        out_width: results.width,
        out_channels: convolution.out_channels,
        kernel: window.kernel,
        stride: window.stride,
        padding: window.padding,
        groups: convolution.groups,
    }
}

/// What is added to the zeros that lie in the place of weights that a BatchNorm may lack.
fn unit(has_weight: bool) -> f32 {
    if has_weight { 0.0 } else { 1.0 }
}

impl Arenas {
    fn new(gpu: &Gpu, plan: &Plan, precision: Precision) -> Result<Self, EngineError> {
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
            workspace: gpu.allocate(0)?,
        })
    }

    /// A weight as the products read it.
    fn weight(&self, index: usize) -> Address {
        match &self.copies {
            Some(copies) => copies.at(index, size_of::<u16>()),
            None => self.values.at(index, F32),
        }
    }

    fn weight_gradient(&self, index: usize) -> Address {
        self.weight_gradients.at(index, if self.copies.is_some() { size_of::<u16>() } else { F32 })
    }
}

impl Room {
    fn new(gpu: &Gpu, plan: &Plan, precision: Precision, batch: usize) -> Result<Self, EngineError> {
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
            // A smaller batch can need more: it is shared out in smaller pieces.
            partials: gpu.allocate((1..=batch).map(|n| plan.partials(n)).max().unwrap_or(0) * F32)?,
        })
    }

    fn source(&self, source: Source) -> Address {
        match source {
            Source::Stage(before) => self.outputs[before].address(),
            Source::Images => self.input.address(),
        }
    }

    /// What a block's output is made of: the convolution's results, or the input.
    fn results_of(&self, plan: &Plan, node: usize) -> Address {
        match &self.results[node] {
            Some(results) => results.address(),
            None => self.source(plan.nodes[node].sources[0]),
        }
    }

    /// Where the gradients of a convolution's results and, if it is wanted, of its input lie; `None` where there are none.
    fn gradients_around(
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

    /// Where a gradient flows to; `None` where it need not be computed.
    fn target(&self, flow: Flow) -> Option<Address> {
        match flow {
            Flow::None | Flow::Share { .. } => None,
            Flow::Write { into, .. } | Flow::Add { into, .. } => Some(self.gradients[into].address()),
        }
    }

    fn logits(&self) -> &Buffer {
        self.outputs.last().unwrap_or(&self.input)
    }
}

/// One pass of `n` images through the network.
#[derive(Debug, Clone, Copy)]
struct Pass<'a> {
    engine: &'a Cuda,
    room: &'a Room,
    n: usize,
}

impl Pass<'_> {
    fn start<P: Copy>(&self, kernel: &Kernel<P>, grid: Grid, parameters: P) -> Result<(), EngineError> {
        self.engine.gpu.launch(kernel, grid, parameters)
    }

    fn lane(&self) -> usize {
        self.engine.plan.lane
    }

    fn affine(&self, row: Row, block: &Block) -> Address {
        self.engine.arenas.affine.at(row as usize * self.engine.plan.channels + block.at, F32)
    }

    /// A running statistic: row 0 are means, row 1 variances.
    fn statistic(&self, row: usize, block: &Block) -> Address {
        self.engine.arenas.statistics.at(row * self.engine.plan.channels + block.at, F32)
    }

    /// A vector of parameters; `start` is that of its row.
    fn vector(&self, start: usize, block: &Block) -> Address {
        self.engine.arenas.values.at(start + block.at, F32)
    }

    fn vector_gradient(&self, start: usize, block: &Block) -> Address {
        self.engine.arenas.vector_gradients.at(start - self.engine.plan.weights + block.at, F32)
    }

    /// Images to the network's input, labels beside them.
    fn load(&self, from: Origin) -> Result<(), EngineError> {
        let Cuda { plan, kernels, arenas, sets, settings, .. } = self.engine;
        let (input, padded) = (plan.input, plan.padded(plan.input.channels) as u32);
        let grid = Grid::linear(self.n * input.pixels());
        let out = self.room.input.address();
        match from {
            Origin::Staged => self.start(
                &kernels.import,
                grid,
                Import {
                    images: self.room.staged.address(),
                    out,
                    n: self.n as u32,
                    channels: input.channels as u32,
                    pixels: input.pixels() as u32,
                    padded,
                },
            ),
            Origin::Set { index, ordered, margin } => {
                let set = &sets[index];
                self.start(
                    &kernels.assemble,
                    grid,
                    Assemble {
                        images: set.images.address(),
                        labels: set.labels.address(),
                        order: if ordered { set.order.address() } else { 0 },
                        values: set.values.address(),
                        control: arenas.control.address(),
                        out,
                        out_labels: self.room.labels.address(),
                        seed: settings.seed,
                        n: self.n as u32,
                        channels: input.channels as u32,
                        height: input.height as u32,
                        width: input.width as u32,
                        padded,
                        margin,
                    },
                )
            }
        }
    }

    fn forward(&self, training: bool) -> Result<(), EngineError> {
        let Cuda { plan, kernels, .. } = self.engine;
        if !training && plan.norms().next().is_some() {
            self.evaluation()?;
        }
        for (at, node) in plan.nodes.iter().enumerate() {
            let (from, to) = (self.room.source(node.sources[0]), self.room.outputs[at].address());
            match node.kind {
                Kind::Block(ref block) => self.block(at, node, block, training)?,
                Kind::Average => {
                    let vectors = self.n * plan.padded(node.output.channels) / self.lane();
                    self.start(&kernels.average, Grid::linear(vectors), self.map_pass(from, to, node))?;
                }
                Kind::Flatten => {
                    let grid = Grid::linear(self.n * plan.len(node.output));
                    self.start(&kernels.flatten, grid, self.map_pass(from, to, node))?;
                }
                Kind::Dropout { p, layer } => {
                    self.dropout(from, to, node, if training { p } else { 0.0 }, layer)?;
                }
                Kind::MaxPool(window) => {
                    self.pool(&kernels.max_pool, node, window, true, [from, 0, to])?;
                }
                Kind::AveragePool { window, include_padding } => {
                    self.pool(&kernels.average_pool, node, window, include_padding, [from, 0, to])?;
                }
                Kind::Scale(factor) => self.scale(from, to, node, factor)?,
                Kind::PadChannels { before } => {
                    let (map, to_map) = (node.inputs[0], node.output);
                    let span = plan.padded(to_map.channels);
                    self.channels((from, map, 0), (to, to_map, 0), [before, map.channels, span])?;
                }
                Kind::Sum { relu } => self.sum(node, to, relu)?,
                Kind::Concat => self.concat(node, to)?,
                Kind::Multiply => {
                    let factors = self.factors(node, None);
                    self.product(node, &factors, to)?;
                }
            }
        }
        Ok(())
    }

    /// A pool or its gradient, for each vector of what it makes; the addresses are those of the input, the gradient, and what is made.
    fn pool(
        &self,
        kernel: &Kernel<PoolPass>,
        node: &Node,
        window: Window,
        include_padding: bool,
        [x, gradient, out]: [Address; 3],
    ) -> Result<(), EngineError> {
        let windows = windows(window, self.n, node.inputs[0], node.output);
        let padded = self.engine.plan.padded(node.output.channels);
        let pixels = if gradient == 0 { windows.outputs() } else { windows.inputs() };
        let grid = Grid::linear(pixels * padded / self.lane());
        let include_padding = u32::from(include_padding);
        self.start(
            kernel,
            grid,
            PoolPass { x, gradient, out, windows, padded: padded as u32, include_padding },
        )
    }

    fn scale(&self, a: Address, out: Address, node: &Node, factor: f32) -> Result<(), EngineError> {
        let vectors = self.vectors(node.output);
        let pass = ElementsPass { a, b: 0, out, factor, vectors: vectors as u32, relu: 0 };
        self.start(&self.engine.kernels.scale, Grid::linear(vectors), pass)
    }

    /// Vectors of a map of the batch.
    fn vectors(&self, map: Map) -> usize {
        self.n * self.engine.plan.len(map) / self.lane()
    }

    /// `out = a + b` for maps of that shape, or `out = a` without a `b`.
    fn add(&self, map: Map, [a, b]: [Address; 2], out: Address, relu: bool) -> Result<(), EngineError> {
        let vectors = self.vectors(map);
        let pass = ElementsPass { a, b, out, factor: 1.0, vectors: vectors as u32, relu: u32::from(relu) };
        self.start(&self.engine.kernels.sum, Grid::linear(vectors), pass)
    }

    /// The sum of a node's inputs, two at a time.
    fn sum(&self, node: &Node, out: Address, relu: bool) -> Result<(), EngineError> {
        let inputs: Vec<Address> = node.sources.iter().map(|source| self.room.source(*source)).collect();
        let [first, others @ ..] = &inputs[..] else { return Ok(()) };
        let mut so_far = *first;
        for (which, other) in others.iter().enumerate() {
            let last = which + 1 == others.len();
            self.add(node.output, [so_far, *other], out, relu && last)?;
            so_far = out;
        }
        Ok(())
    }

    /// Copies channels between maps of the same pixels, each from its channel on; `[before, channels, span]` as in the kernel.
    fn channels(
        &self,
        (from, from_map, from_first): (Address, Map, usize),
        (to, to_map, to_first): (Address, Map, usize),
        [before, channels, span]: [usize; 3],
    ) -> Result<(), EngineError> {
        let Cuda { plan, kernels, .. } = self.engine;
        let pixels = self.n * to_map.pixels();
        self.start(
            &kernels.channels,
            Grid::linear(pixels * span.div_ceil(self.lane())),
            ChannelsPass {
                from,
                to,
                pixels: pixels as u32,
                from_padded: plan.padded(from_map.channels) as u32,
                from_first: from_first as u32,
                to_padded: plan.padded(to_map.channels) as u32,
                to_first: to_first as u32,
                before: before as u32,
                channels: channels as u32,
                span: span as u32,
            },
        )
    }

    fn concat(&self, node: &Node, to: Address) -> Result<(), EngineError> {
        let padded = self.engine.plan.padded(node.output.channels);
        let mut first = 0;
        for (which, (source, map)) in node.sources.iter().zip(&node.inputs).enumerate() {
            // The last one makes the padding, too.
            let last = which + 1 == node.inputs.len();
            let span = if last { padded - first } else { map.channels };
            let from = (self.room.source(*source), *map, 0);
            self.channels(from, (to, node.output, first), [0, map.channels, span])?;
            first += map.channels;
        }
        Ok(())
    }

    /// Inputs of a product, all but one if one is left out, and whether each is one pixel that stands for all.
    fn factors(&self, node: &Node, left_out: Option<usize>) -> Vec<(Address, bool)> {
        let all = node.sources.iter().zip(&node.inputs).enumerate();
        all.filter(|(which, _)| Some(*which) != left_out)
            .map(|(_, (source, map))| (self.room.source(*source), *map != node.output))
            .collect()
    }

    /// The product of factors, two at a time.
    fn product(&self, node: &Node, factors: &[(Address, bool)], out: Address) -> Result<(), EngineError> {
        let [first, others @ ..] = factors else { return Ok(()) };
        let mut so_far = *first;
        for other in others {
            self.multiply(node.output, so_far, *other, out)?;
            so_far = (out, false);
        }
        Ok(())
    }

    fn multiply(
        &self,
        map: Map,
        a: (Address, bool),
        b: (Address, bool),
        out: Address,
    ) -> Result<(), EngineError> {
        let grid = Grid::linear(self.vectors(map));
        self.start(&self.engine.kernels.multiply, grid, self.multiply_pass(map, a, b, out))
    }

    fn multiply_pass(
        &self,
        map: Map,
        (a, a_is_gate): (Address, bool),
        (b, b_is_gate): (Address, bool),
        out: Address,
    ) -> MultiplyPass {
        MultiplyPass {
            a,
            b,
            out,
            n: self.n as u32,
            pixels: map.pixels() as u32,
            padded: self.engine.plan.padded(map.channels) as u32,
            a_is_gate: u32::from(a_is_gate),
            b_is_gate: u32::from(b_is_gate),
        }
    }

    /// Scale and shift of every block from the running statistics.
    fn evaluation(&self) -> Result<(), EngineError> {
        let Cuda { plan, kernels, arenas, .. } = self.engine;
        let (values, channels) = (&arenas.values, plan.channels);
        self.start(
            &kernels.evaluation,
            Grid::linear(channels),
            Evaluation {
                weight: values.at(plan.norm_weights(), F32),
                bias: values.at(plan.norm_biases(), F32),
                convolution_bias: values.at(plan.biases(), F32),
                running_mean: arenas.statistics.address(),
                running_var: arenas.statistics.at(channels, F32),
                scale: arenas.affine.at(Row::Scale as usize * channels, F32),
                shift: arenas.affine.at(Row::Shift as usize * channels, F32),
                eps: arenas.eps.address(),
                units: arenas.units.address(),
                channels: channels as u32,
            },
        )
    }

    fn block(&self, at: usize, node: &Node, block: &Block, training: bool) -> Result<(), EngineError> {
        let Cuda { plan, kernels, .. } = self.engine;
        let shape = block.shape(self.n, self.lane());
        let y = self.room.results_of(plan, at);
        if let Some(convolution) = block.convolution {
            self.convolve(at, node, convolution, block.results)?;
        }
        if let Some(norm) = block.norm.as_ref().filter(|_| training) {
            let (tiles, grid) = Tiles::new(shape.results(), shape.channels as usize, self.lane());
            let partials = self.room.partials.address();
            self.start(&kernels.moments, grid, Moments { y, partials, tiles })?;
            let convolution_bias = if block.has_bias() { self.vector(plan.biases(), block) } else { 0 };
            self.start(
                &kernels.normalise,
                Grid::merging(shape.channels),
                Normalise {
                    partials,
                    weight: self.vector(plan.norm_weights(), block),
                    bias: self.vector(plan.norm_biases(), block),
                    convolution_bias,
                    running_mean: self.statistic(0, block),
                    running_var: self.statistic(1, block),
                    scale: self.affine(Row::Scale, block),
                    shift: self.affine(Row::Shift, block),
                    center: self.affine(Row::Center, block),
                    root: self.affine(Row::Root, block),
                    zeros: (shape.count() - shape.results()) as f64,
                    eps: norm.eps,
                    momentum: norm.momentum,
                    unit: unit(norm.weight),
                    tiles,
                },
            )?;
        }
        let (scale, shift) = self.scale_and_shift(block);
        let out = self.room.outputs[at].address();
        debug_assert_eq!(shape.outputs() * shape.channels as usize, self.n * plan.len(node.output));
        let grid = Grid::linear(shape.outputs() * shape.channels as usize / self.lane());
        let kernel = if shape.other() { &kernels.apply_other } else { &kernels.apply };
        self.start(kernel, grid, Apply { y, out, scale, shift, shape })
    }

    /// What a block's results are multiplied by and what is added; nothing at address 0.
    fn scale_and_shift(&self, block: &Block) -> (Address, Address) {
        if block.norm.is_some() {
            (self.affine(Row::Scale, block), self.affine(Row::Shift, block))
        } else if block.has_bias() {
            (0, self.vector(self.engine.plan.biases(), block))
        } else {
            (0, 0)
        }
    }

    fn convolve(
        &self,
        at: usize,
        node: &Node,
        convolution: Convolution,
        results: Map,
    ) -> Result<(), EngineError> {
        let Cuda { gpu, arenas, plan, kernels, .. } = self.engine;
        let (x, w) = (self.room.source(node.sources[0]), arenas.weight(convolution.weight));
        let y = self.room.results_of(plan, at);
        match convolution.method {
            Method::Product => gpu.product(&Product {
                a: (x, Read::AsIs),
                b: (w, Read::Transposed),
                c: y,
                rows: self.n * results.pixels(),
                columns: convolution.out_channels,
                depth: convolution.in_channels,
            }),
            Method::Library if self.convolution(at)?.has(FORWARD) => {
                self.convolution(at)?.forward(gpu, Operands { x, w, y }, &arenas.workspace)
            }
            _ => {
                let grid = Grid::linear(self.vectors(results));
                self.start(&kernels.grouped, grid, self.grouped(node, convolution, results, [x, w, 0, y]))
            }
        }
    }

    /// A convolution by kernels of our own; the addresses are those of the input, the weights, the gradient of the results, and what is
    /// made of two of them.
    fn grouped(
        &self,
        node: &Node,
        convolution: Convolution,
        results: Map,
        [x, w, y, out]: [Address; 4],
    ) -> Grouped {
        Grouped {
            x,
            w,
            y,
            out,
            windows: windows(convolution.window, self.n, node.inputs[0], results),
            in_padded: convolution.in_channels as u32,
            out_padded: convolution.out_channels as u32,
            in_group: convolution.in_group as u32,
            out_group: convolution.out_group as u32,
            outputs: convolution.outputs as u32,
            depthwise: u32::from(convolution.method == Method::Depthwise),
        }
    }

    fn convolution(&self, at: usize) -> Result<&Convolution2d, EngineError> {
        let prepared = self.engine.convolutions[at].get(&self.n);
        prepared.ok_or_else(|| EngineError::Device("a convolution was not prepared".to_owned()))
    }

    fn map_pass(&self, from: Address, to: Address, node: &Node) -> MapPass {
        let plan = &self.engine.plan;
        let input = node.inputs[0];
        MapPass {
            from,
            to,
            n: self.n as u32,
            pixels: input.pixels() as u32,
            channels: input.channels as u32,
            padded: plan.padded(input.channels) as u32,
            vector: plan.len(node.output) as u32,
        }
    }

    fn dropout(
        &self,
        from: Address,
        to: Address,
        node: &Node,
        p: f64,
        layer: u32,
    ) -> Result<(), EngineError> {
        let Cuda { plan, kernels, arenas, settings, .. } = self.engine;
        let map = node.output;
        let grid = Grid::linear(self.n * plan.len(map) / self.lane());
        self.start(
            &kernels.dropout,
            grid,
            DropoutPass {
                from,
                to,
                control: arenas.control.address(),
                seed: settings.seed,
                layer,
                threshold: p as f32,
                scale: (1.0 / (1.0 - p)) as f32,
                n: self.n as u32,
                pixels: map.pixels() as u32,
                channels: map.channels as u32,
                padded: plan.padded(map.channels) as u32,
            },
        )
    }

    /// Adds the batch to the totals; in training also makes the logits' gradient.
    fn loss(&self, training: bool) -> Result<(), EngineError> {
        let Cuda { plan, kernels, arenas, settings, classes, update, .. } = self.engine;
        let rows = self.room.partials.address();
        self.start(
            &kernels.loss_rows,
            LossRows::grid(self.n, *classes),
            LossRows {
                logits: self.room.logits().address(),
                labels: self.room.labels.address(),
                gradient: if training { self.room.gradients[0].address() } else { 0 },
                rows,
                smoothing: if training { settings.recipe.label_smoothing } else { 0.0 },
                n: self.n as u32,
                classes: *classes as u32,
                padded: plan.len(plan.output()) as u32,
            },
        )?;
        let (groups, constants, group_count) = update.groups();
        let (kind, optimizer) = update.optimizer();
        self.start(
            &kernels.loss_total,
            Grid::linear(1),
            LossTotal {
                rows,
                control: arenas.control.address(),
                groups: if training { groups } else { 0 },
                constants,
                optimizer,
                kind,
                group_count: group_count as u32,
                n: self.n as u32,
            },
        )
    }

    /// Gradients of every parameter, from the logits' gradient.
    fn backward(&self) -> Result<(), EngineError> {
        let plan = &self.engine.plan;
        for (at, node) in plan.nodes.iter().enumerate().rev() {
            let gradients = &plan.schedule.stages[at];
            let Some(own) = gradients.output else { continue };
            let mut gradient = self.room.gradients[own].address();
            match &node.kind {
                Kind::Block(block) => self.block_backward(at, node, block, gradient)?,
                Kind::Sum { relu: true } => {
                    let a = gradient;
                    if let Some(copy) = gradients.copy {
                        gradient = self.room.gradients[copy].address();
                    }
                    let vectors = self.vectors(node.output);
                    let pass = ElementsPass {
                        a,
                        b: self.room.outputs[at].address(),
                        out: gradient,
                        factor: 1.0,
                        vectors: vectors as u32,
                        relu: 0,
                    };
                    self.start(&self.engine.kernels.mask, Grid::linear(vectors), pass)?;
                }
                _ => {}
            }
            for (which, flow) in gradients.inputs.iter().enumerate() {
                let map = node.inputs[which];
                let (into, from) = match *flow {
                    Flow::None | Flow::Share { .. } => continue,
                    Flow::Write { into, .. } => (into, None),
                    Flow::Add { into, from, .. } => (into, Some(self.room.gradients[from].address())),
                };
                let into = self.room.gradients[into].address();
                match (&node.kind, from) {
                    // Its share of each input is the gradient itself.
                    (Kind::Sum { .. }, from) => {
                        self.add(map, [gradient, from.unwrap_or(0)], into, false)?;
                        continue;
                    }
                    // Its share has been written above.
                    (Kind::Block(_), _) => {}
                    _ => self.layer_backward(at, node, which, gradient, into)?,
                }
                if let Some(from) = from {
                    self.add(map, [into, from], into, false)?;
                }
            }
        }
        Ok(())
    }

    /// Writes the share of a layer's gradient in the gradient of one of its inputs.
    fn layer_backward(
        &self,
        at: usize,
        node: &Node,
        which: usize,
        gradient: Address,
        into: Address,
    ) -> Result<(), EngineError> {
        let Cuda { plan, kernels, .. } = self.engine;
        let map = node.inputs[which];
        let x = self.room.source(node.sources[which]);
        match node.kind {
            Kind::Average => {
                let grid = Grid::linear(self.vectors(map));
                self.start(&kernels.spread, grid, self.map_pass(gradient, into, node))
            }
            Kind::Flatten => {
                let grid = Grid::linear(self.n * plan.len(map));
                self.start(&kernels.unflatten, grid, self.map_pass(gradient, into, node))
            }
            Kind::Dropout { p, layer } => self.dropout(gradient, into, node, p, layer),
            Kind::MaxPool(window) => {
                self.pool(&kernels.max_pool_back, node, window, true, [x, gradient, into])
            }
            Kind::AveragePool { window, include_padding } => {
                let addresses = [x, gradient, into];
                self.pool(&kernels.average_pool_back, node, window, include_padding, addresses)
            }
            Kind::Scale(factor) => self.scale(gradient, into, node, factor),
            Kind::PadChannels { before } => {
                let span = plan.padded(map.channels);
                self.channels((gradient, node.output, before), (into, map, 0), [0, map.channels, span])
            }
            Kind::Concat => {
                let first = node.inputs[..which].iter().map(|map| map.channels).sum();
                let span = plan.padded(map.channels);
                self.channels((gradient, node.output, first), (into, map, 0), [0, map.channels, span])
            }
            Kind::Multiply => {
                let mut others = self.factors(node, Some(which));
                if others.len() > 1 {
                    let product = self.room.scratch.address();
                    self.product(node, &others, product)?;
                    others = vec![(product, false)];
                }
                let whole = (gradient, false);
                if map == node.output {
                    return self.multiply(map, whole, others[0], into);
                }
                let pass = self.multiply_pass(node.output, whole, others[0], into);
                self.start(&kernels.gate, Grid::linear(self.vectors(map)), pass)
            }
            Kind::Block(_) | Kind::Sum { .. } => {
                Err(EngineError::Device(format!("{} has a gradient of its own at {at}", node.name)))
            }
        }
    }

    /// Gradients of a block's parameters and, where it is wanted, of its input, from that of its output.
    fn block_backward(
        &self,
        at: usize,
        node: &Node,
        block: &Block,
        gradient: Address,
    ) -> Result<(), EngineError> {
        let Cuda { plan, kernels, gpu, arenas, .. } = self.engine;
        let shape = block.shape(self.n, self.lane());
        let y = self.room.results_of(plan, at);
        let (scale, shift) = self.scale_and_shift(block);
        let normed = |row| if block.norm.is_some() { self.affine(row, block) } else { 0 };
        let center = normed(Row::Center);
        if block.sums_gradient() {
            let (tiles, grid) = Tiles::new(shape.outputs(), shape.channels as usize, self.lane());
            let partials = self.room.partials.address();
            let kernel = if shape.other() { &kernels.reduce_other } else { &kernels.reduce };
            self.start(kernel, grid, Reduce { y, gradient, scale, shift, center, partials, tiles, shape })?;
            let to = |has: bool, start: usize| if has { self.vector_gradient(start, block) } else { 0 };
            let (weight, unit, weight_gradient, bias_gradient) = match &block.norm {
                Some(norm) => (
                    self.vector(plan.norm_weights(), block),
                    unit(norm.weight),
                    to(norm.weight, plan.norm_weights()),
                    to(norm.bias, plan.norm_biases()),
                ),
                None => (0, 0.0, 0, to(true, plan.biases())),
            };
            self.start(
                &kernels.coefficients,
                Grid::merging(shape.channels),
                Coefficients {
                    partials,
                    weight,
                    root: normed(Row::Root),
                    a: normed(Row::A),
                    b: normed(Row::B),
                    c: normed(Row::C),
                    weight_gradient,
                    bias_gradient,
                    count: shape.count() as f64,
                    unit,
                    tiles,
                },
            )?;
        }
        let wanted = self.room.target(plan.schedule.stages[at].inputs[0]);
        let pass = |out| {
            let [a, b, c] = [Row::A, Row::B, Row::C].map(normed);
            let grid = Grid::linear(shape.windows() * shape.channels as usize / self.lane());
            let kernel = if shape.other() { &kernels.gradient_other } else { &kernels.gradient };
            self.start(kernel, grid, Gradient { y, gradient, out, scale, shift, center, a, b, c, shape })
        };
        let Some(convolution) = block.convolution else {
            return wanted.map_or(Ok(()), pass);
        };
        let mut dy = gradient;
        if block.changes_gradient() {
            dy = self.room.scratch.address();
            pass(dy)?;
        }
        let x = self.room.source(node.sources[0]);
        let (w, dw) = (arenas.weight(convolution.weight), arenas.weight_gradient(convolution.weight));
        let Convolution { in_channels, out_channels, .. } = convolution;
        if convolution.method == Method::Product {
            gpu.product(&Product {
                a: (dy, Read::Transposed),
                b: (x, Read::AsIs),
                c: dw,
                rows: out_channels,
                columns: in_channels,
                depth: shape.results(),
            })?;
            return wanted.map_or(Ok(()), |dx| {
                gpu.product(&Product {
                    a: (dy, Read::AsIs),
                    b: (w, Read::AsIs),
                    c: dx,
                    rows: shape.results(),
                    columns: in_channels,
                    depth: out_channels,
                })
            });
        }
        let by_library = |direction| match convolution.method {
            Method::Library => self.convolution(at).map(|own| own.has(direction).then_some(own)),
            _ => Ok(None),
        };
        let own = |operands| self.grouped(node, convolution, block.results, operands);
        match by_library(FILTER)? {
            Some(operation) => {
                operation.filter(gpu, Operands { x, w: dw, y: dy }, &arenas.workspace)?;
            }
            None => self.grouped_filter(convolution, own([x, 0, dy, 0]), dw)?,
        }
        let Some(dx) = wanted else { return Ok(()) };
        match by_library(DATA)? {
            Some(operation) => operation.data(gpu, Operands { x: dx, w, y: dy }, &arenas.workspace),
            None => {
                let grid = Grid::linear(self.vectors(node.inputs[0]));
                self.start(&kernels.grouped_data, grid, own([0, w, dy, dx]))
            }
        }
    }

    /// The gradient of a convolution's weights by kernels of our own.
    fn grouped_filter(
        &self,
        convolution: Convolution,
        pass: Grouped,
        out: Address,
    ) -> Result<(), EngineError> {
        let kernels = &self.engine.kernels;
        let (weights, partials) = (convolution.len(), self.room.partials.address());
        let (Chunks { chunk, chunks }, grid) = Chunks::new(weights, pass.windows.outputs());
        let weights = weights as u32;
        self.start(
            &kernels.grouped_filter,
            grid,
            GroupedFilter { convolution: pass, partials, weights, chunk },
        )?;
        let grid = Grid::linear(weights as usize);
        self.start(&kernels.merge, grid, Merge { partials, out, weights, chunks })
    }
}

impl Engine for Cuda {
    fn train_step(&mut self, batch: Batch<'_>) -> Result<(), EngineError> {
        self.check_trainable()?;
        let n = check_batch(batch, self.network.input, self.classes)?;
        self.stage(batch.images, batch.labels, n, true)?;
        self.run(Step { mode: Mode::Train, from: Origin::Staged, n })?;
        self.advance(n);
        self.count_batch();
        Ok(())
    }

    fn set_rate(&mut self, rate: Rate) -> Result<(), EngineError> {
        self.update.set_rate(rate)
    }

    fn use_average(&mut self, on: bool) -> Result<(), EngineError> {
        self.gpu.make_current()?;
        let trained = self.trained();
        self.update.use_average(&self.gpu, trained, on)
    }

    fn evaluate(&mut self, batch: Batch<'_>) -> Result<(), EngineError> {
        let n = check_batch(batch, self.network.input, self.classes)?;
        self.stage(batch.images, batch.labels, n, false)?;
        self.run(Step { mode: Mode::Evaluate, from: Origin::Staged, n })?;
        self.advance(n);
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
        let n = images.len() / image;
        self.stage(images, &[], n, false)?;
        self.run(Step { mode: Mode::Infer, from: Origin::Staged, n })?;
        let Some(room) = &self.room else { return Ok(Vec::new()) };
        let stride = self.plan.len(self.plan.output());
        let rows: Vec<f32> = if width(self.settings.precision) == F32 {
            self.gpu.download(room.logits(), 0, n * stride)?
        } else {
            let halves: Vec<u16> = self.gpu.download(room.logits(), 0, n * stride)?;
            halves.into_iter().map(from_bf16).collect()
        };
        Ok(rows.chunks_exact(stride).flat_map(|row| &row[..self.classes]).copied().collect())
    }

    fn totals(&mut self) -> Result<Totals, EngineError> {
        let control = self.control()?;
        check_finite(&control)?;
        let Control { loss_sum, correct, samples, last_loss, gradient_norm, .. } = control;
        let last_gradient_norm = (!gradient_norm.is_nan()).then_some(gradient_norm);
        Ok(Totals { loss_sum, correct, samples, last_loss, last_gradient_norm })
    }

    fn set_totals(&mut self, totals: Totals) -> Result<(), EngineError> {
        let Totals { loss_sum, correct, samples, last_loss, last_gradient_norm } = totals;
        let gradient_norm = last_gradient_norm.unwrap_or(f64::NAN);
        let before = self.control()?;
        let control = Control { loss_sum, correct, samples, last_loss, gradient_norm, bad: 0, ..before };
        self.gpu.upload(&self.arenas.control, 0, &[control])?;
        self.offset = Some(control.offset);
        Ok(())
    }

    fn state(&self) -> Result<State, EngineError> {
        let step = self.control()?.step;
        let Self { arenas, update: Update { buffers, average, .. }, .. } = self;
        let (mut parameters, mut statistics) = (&arenas.values, &arenas.statistics);
        let averages = average.as_ref().map(|average| {
            let mut places = (&average.parameters, &average.statistics);
            if average.is_used {
                std::mem::swap(&mut parameters, &mut places.0);
                std::mem::swap(&mut statistics, &mut places.1);
            }
            places
        });
        let parameters = self.export(parameters)?;
        let (statistics, batches_tracked) = self.export_statistics(statistics)?;
        let (mut optimizer, mut average) = (None, None);
        if step > 0 {
            let names = self.settings.recipe.optimizer.buffers();
            let buffers = names
                .iter()
                .zip(buffers)
                .map(|(name, buffer)| Ok::<_, EngineError>(((*name).to_owned(), self.export(buffer)?)));
            optimizer = Some(OptimizerState { buffers: buffers.collect::<Result<_, _>>()?, step });
            if let Some((parameters, statistics)) = averages {
                let statistics = self.export_statistics(statistics)?.0;
                average = Some(Average { parameters: self.export(parameters)?, statistics });
            }
        }
        Ok(State { parameters, statistics, batches_tracked, optimizer, average })
    }

    fn load_state(&mut self, state: &State) -> Result<(), EngineError> {
        state.check(&self.network)?;
        state.check_recipe(&self.settings.recipe)?;
        let control = Control {
            step: state.optimizer.as_ref().map_or(0, |optimizer| optimizer.step),
            bad: 0,
            ..self.control()?
        };
        let (rows, batches_tracked) = self.import_statistics(&state.statistics, &state.batches_tracked);
        // Averages are those of the trained values where there are none.
        let averages = match &state.average {
            Some(average) => (
                self.plan.import(&average.parameters),
                self.import_statistics(&average.statistics, &state.batches_tracked).0,
            ),
            None => (self.plan.import(&state.parameters), rows.clone()),
        };
        let Self { gpu, plan, arenas, update, .. } = self;
        let values = plan.import(&state.parameters);
        gpu.upload(&arenas.values, 0, &values)?;
        if let Some(copies) = &arenas.copies {
            let halves: Vec<u16> = values[..plan.weights].iter().copied().map(to_bf16).collect();
            gpu.upload(copies, 0, &halves)?;
        }
        for (name, buffer) in self.settings.recipe.optimizer.buffers().iter().zip(&update.buffers) {
            match &state.optimizer {
                Some(optimizer) => gpu.upload(buffer, 0, &plan.import(&optimizer.buffers[*name]))?,
                None => gpu.clear(buffer)?,
            }
        }
        gpu.upload(&arenas.statistics, 0, &rows)?;
        gpu.upload(&arenas.control, 0, &[control])?;
        self.batches_tracked = batches_tracked;
        self.offset = Some(control.offset);
        if let Some(average) = &mut update.average {
            gpu.upload(&average.parameters, 0, &averages.0)?;
            gpu.upload(&average.statistics, 0, &averages.1)?;
            let was_used = std::mem::replace(&mut average.is_used, false);
            self.use_average(was_used)?;
        }
        Ok(())
    }

    fn reside(&mut self, images: ResidentImages<'_>) -> Result<Option<ResidentSet>, EngineError> {
        let len = check_images(images, self.network.input, self.classes)?;
        let gpu = &self.gpu;
        gpu.make_current()?;
        let set = Set {
            len,
            images: gpu.allocate(images.images.len())?,
            labels: gpu.allocate(len * size_of::<u16>())?,
            values: gpu.allocate(size_of_val(images.values))?,
            order: gpu.allocate(len * size_of::<u32>())?,
            margin: -1,
            epochs: 0,
        };
        gpu.upload(&set.images, 0, images.images)?;
        gpu.upload(&set.labels, 0, images.labels)?;
        gpu.upload(&set.values, 0, images.values)?;
        self.sets.push(set);
        Ok(Some(ResidentSet(self.sets.len() - 1)))
    }

    fn begin_epoch(&mut self, set: ResidentSet, epoch: ResidentEpoch<'_>) -> Result<BegunEpoch, EngineError> {
        let len = self.set(set)?.len;
        let mut seen = vec![false; len];
        for &place in epoch.order {
            match seen.get_mut(place as usize) {
                Some(seen) if !*seen => *seen = true,
                _ => {
                    return Err(EngineError::Batch(format!(
                        "the order of an epoch has {place} twice, or beyond {len}"
                    )));
                }
            }
        }
        if epoch.order.len() != len {
            return Err(EngineError::Batch(format!(
                "the order of an epoch has {} places, the images are {len}",
                epoch.order.len()
            )));
        }
        let margin = epoch.margin.map_or(Ok(-1), i32::try_from);
        let margin =
            margin.map_err(|_| EngineError::Batch("the margin of a crop is too large".to_owned()))?;
        self.gpu.make_current()?;
        let resident = &mut self.sets[set.0];
        resident.margin = margin;
        self.gpu.upload(&resident.order, 0, epoch.order)?;
        resident.epochs += 1;
        let begun = BegunEpoch { set, count: resident.epochs };
        self.gpu.upload(&self.arenas.control, offset_of!(Control, epoch), &[epoch.epoch])?;
        Ok(begun)
    }

    fn train_resident(&mut self, epoch: BegunEpoch, range: Range<usize>) -> Result<(), EngineError> {
        self.check_trainable()?;
        self.run_resident(epoch.set, Some(epoch), range)?;
        self.count_batch();
        Ok(())
    }

    fn evaluate_resident(&mut self, set: ResidentSet, range: Range<usize>) -> Result<(), EngineError> {
        self.run_resident(set, None, range)
    }
}

fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// To the nearest, of two equally near to the even one.
fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return 0x7fff;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::super::launch::{
        GradientNorm, Group, RowLoss, SetRate, Sizes, StepConstants, SwapAverage, Update as UpdatePass,
    };
    use super::*;

    #[test]
    fn structures_are_as_large_as_in_the_kernels() {
        if crate::device::open(DeviceName::Cuda(0)).is_err() {
            return;
        }
        let gpu = Gpu::open(0, Precision::F32).unwrap();
        let expected = [
            size_of::<Control>(),
            size_of::<SetRate>(),
            size_of::<Assemble>(),
            size_of::<Import>(),
            size_of::<Moments>(),
            size_of::<Normalise>(),
            size_of::<Evaluation>(),
            size_of::<Apply>(),
            size_of::<Reduce>(),
            size_of::<Coefficients>(),
            size_of::<Gradient>(),
            size_of::<MapPass>(),
            size_of::<DropoutPass>(),
            size_of::<LossRows>(),
            size_of::<LossTotal>(),
            size_of::<RowLoss>(),
            size_of::<Group>(),
            size_of::<StepConstants>(),
            size_of::<GradientNorm>(),
            size_of::<UpdatePass>(),
            size_of::<ElementsPass>(),
            size_of::<MultiplyPass>(),
            size_of::<ChannelsPass>(),
            size_of::<PoolPass>(),
            size_of::<Grouped>(),
            size_of::<GroupedFilter>(),
            size_of::<Merge>(),
            size_of::<SwapAverage>(),
        ];
        let buffer = gpu.allocate(expected.len() * size_of::<u32>()).unwrap();
        let kernel = gpu.kernel("sizes").unwrap();
        gpu.launch(&kernel, Grid::linear(1), Sizes { sizes: buffer.address() }).unwrap();
        let sizes: Vec<u32> = gpu.download(&buffer, 0, expected.len()).unwrap();
        assert_eq!(sizes, expected.map(|size| size as u32));
    }

    #[test]
    fn bf16_rounds_to_even_and_keeps_what_is_no_number() {
        for (x, expected) in [
            (0.0, 0x0000),
            (-1.0, 0xbf80),
            // Halfway between 1 and the next: to even, down; between the next two: up.
            (1.0 + 1.0 / 256.0, 0x3f80),
            (1.0 + 3.0 / 256.0, 0x3f82),
            (f32::INFINITY, 0x7f80),
            // Beyond the largest.
            (f32::MAX, 0x7f80),
        ] {
            assert_eq!(to_bf16(x), expected, "{x}");
        }
        assert!(from_bf16(to_bf16(f32::NAN)).is_nan());
        for bits in [0x0001, 0x3f80, 0xc123] {
            assert_eq!(to_bf16(from_bf16(bits)), bits);
        }
    }
}
