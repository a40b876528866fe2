//! The engine: its state, its steps, and their order.

use super::blas::Blas;
use super::dnn::{Choice, Dnn, Tried, dnn_version};
use super::driver::{Buffer, Gpu, Graph, Span};
use super::functions::Kernels;
use super::launch::Control;
use super::memory::{Arenas, F32, Room, Set};
use super::pass::{Libraries, Mode, Origin, Pass, Step};
use super::plan::{Floor, Plan, ROWS, width};
use super::snapshot::{Copied, Spare};
use super::tune::{Convolutions, Site};
use super::update::{Trained, Update};
use crate::batch::{Batch, Totals, check_batch};
use crate::engine::{AVERAGE_IN_USE, Engine, Snapshot};
use crate::error::EngineError;
use crate::places::import_statistics;
use crate::resident::{BegunEpoch, ResidentEpoch, ResidentImages, ResidentSet, check_images};
use crate::settings::Settings;
use pointwise_network::Network;
use pointwise_recipe::{DeviceName, EngineKind, Precision, Rate};
use pointwise_weights::{Array, State};
use std::collections::{BTreeMap, BTreeSet};
use std::mem::offset_of;
use std::ops::Range;
use std::sync::Arc;

/// See the [module](super).
#[derive(Debug)]
pub struct Cuda {
    network: Network,
    settings: Settings,
    classes: usize,
    /// Shared with snapshots of the state.
    plan: Arc<Plan>,
    spare: Spare,
    arenas: Arenas,
    update: Update,
    /// The buffers, large enough for the largest batch so far.
    room: Option<Room>,
    sets: Vec<Set>,
    convolutions: Convolutions,
    /// Recorded steps, and those that were taken once: NVIDIA's libraries should not be recorded at their first call.
    graphs: BTreeMap<Step, Graph>,
    taken: BTreeSet<Step>,
    /// Why steps cannot be recorded, if so.
    unrecorded: Option<String>,
    /// For each BatchNorm's path.
    batches_tracked: BTreeMap<String, i64>,
    /// The value of `offset` in GPU memory.
    offset: Option<u32>,
    kernels: Kernels,
    // The fields below are dropped last, in this order.
    main: Libraries,
    side: Libraries,
    gpu: Gpu,
}

impl Cuda {
    /// Creates an engine with the network's initial values.
    ///
    /// # Errors
    /// [`EngineError::Network`]; [`EngineError::Recipe`]; [`EngineError::Unsupported`] when the settings name a device other than a GPU;
    /// [`EngineError::DeviceUnavailable`] when the GPU or an NVIDIA library cannot be used.
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
        let plan = Arc::new(Plan::new(&graph, settings.precision));
        let unavailable = |error: EngineError| error.of_device(settings.device);
        let gpu = Gpu::open(ordinal).map_err(unavailable)?;
        let [main, side] = [gpu.stream, gpu.side].map(|stream| {
            let blas = gpu.opening("cuBLAS", || Blas::new(&gpu, stream, settings.precision))?;
            let dnn = gpu.opening("cuDNN", || Dnn::new(&gpu, stream, settings.precision))?;
            Ok(Libraries { blas, dnn })
        });
        let (main, side) = (main.map_err(unavailable)?, side.map_err(unavailable)?);
        let kernels = gpu.opening("names of kernels", || Kernels::load(&gpu, settings.precision))?;
        let (arenas, update, convolutions) = gpu.opening("memory", || {
            Ok((
                Arenas::new(&gpu, &plan, settings.precision)?,
                Update::new(&gpu, &plan, settings)?,
                Convolutions::new(&gpu, &plan, settings)?,
            ))
        })?;
        gpu.upload(&arenas.control, 0, &[Control { gradient_norm: f64::NAN, ..Control::default() }])?;
        let mut engine = Self {
            network: network.clone(),
            settings: settings.clone(),
            classes,
            arenas,
            update,
            room: None,
            sets: Vec::new(),
            convolutions,
            graphs: BTreeMap::new(),
            taken: BTreeSet::new(),
            unrecorded: None,
            batches_tracked: BTreeMap::new(),
            offset: None,
            kernels,
            plan,
            spare: Spare::default(),
            main,
            side,
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
        let version = dnn_version().map_or_else(|| "(no version)".to_owned(), |version| version.to_string());
        format!("{}, {}, cuDNN {version}, {graphs}", self.gpu.name(), self.settings.precision)
    }

    /// Seconds that each part of opening took.
    #[must_use]
    pub fn opening(&self) -> Vec<(&'static str, f64)> {
        self.gpu.opening_seconds()
    }

    /// The number of graph nodes of each recorded step.
    #[must_use]
    pub fn graph_nodes(&self) -> Vec<usize> {
        self.graphs.values().filter_map(Graph::nodes).collect()
    }

    /// Tries every algorithm that cuDNN lists for a training step on `n` images, by layer and direction.
    ///
    /// # Errors
    /// [`EngineError::Batch`] for a batch that cannot be trained on; [`EngineError::Device`].
    pub fn survey(&mut self, n: usize) -> Result<Vec<Surveyed>, EngineError> {
        self.plan.check(n, true)?;
        self.gpu.make_current()?;
        self.reserve(n)?;
        self.choose_algorithms(Step { mode: Mode::Differentiate, from: Origin::Staged, n })?;
        let Self { gpu, main: Libraries { dnn, .. }, plan, arenas, room, convolutions, .. } = self;
        let Some(room) = room else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for choice in [Choice::Measured, Choice::Deterministic] {
            let tried = convolutions.survey(Site { gpu, dnn, plan, arenas, room }, n, choice)?;
            let choice = if choice == Choice::Measured { "measured" } else { "deterministic" };
            all.extend(tried.into_iter().map(|(layer, tried)| Surveyed { layer, choice, tried }));
        }
        Ok(all)
    }

    /// Every kernel and library call of a training step on the batch, run in order, one at a time. The state stays unchanged.
    ///
    /// # Errors
    /// As [`Engine::train_step`].
    pub fn timeline(&mut self, batch: Batch<'_>) -> Result<Vec<Span>, EngineError> {
        self.check_trainable()?;
        let (state, before) = (self.state()?, self.control()?);
        // Run once beforehand, so that everything is loaded.
        self.gradients(batch)?;
        let step = Step { mode: Mode::Train, from: Origin::Staged, n: batch.labels.len() };
        let element = match self.settings.precision {
            Precision::F32 | Precision::Tf32 => size_of::<f32>(),
            Precision::Bf16 => size_of::<u16>(),
        };
        let timed = self.gpu.time_each(element, || self.enqueue(step))?;
        self.load_state(&state)?;
        self.gpu.upload(&self.arenas.control, 0, &[before])?;
        self.offset = Some(before.offset);
        Ok(timed)
    }

    /// The least that a step on `batch` images computes and moves.
    #[must_use]
    pub fn floor(&self, batch: usize, training: bool) -> Floor {
        self.plan.floor(batch, training, self.update.traffic())
    }

    /// The loss of one batch in training mode and the gradient of every parameter by name, without taking the step.
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

    /// Rows of running means and variances, and batches tracked, from checked arrays.
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

    /// Copies a batch to the GPU.
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

    /// Allocates buffers for a batch unless they are large enough.
    fn reserve(&mut self, batch: usize) -> Result<(), EngineError> {
        if self.room.as_ref().is_some_and(|room| room.batch >= batch) {
            return Ok(());
        }
        self.forget_records()?;
        self.room = None;
        self.room = Some(Room::new(&self.gpu, &self.plan, self.settings.precision, batch)?);
        Ok(())
    }

    /// Drops the recorded steps: they contain addresses that are going to change.
    fn forget_records(&mut self) -> Result<(), EngineError> {
        // A graph must not be destroyed while it runs.
        self.gpu.wait()?;
        self.graphs.clear();
        Ok(())
    }

    /// Takes a step: by replaying its recording or, the first time, call by call.
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
        // Code in this process that is not ours can spoil a recording: one more try.
        let recorded =
            self.gpu.capture(|| self.enqueue(step)).or_else(|_| self.gpu.capture(|| self.enqueue(step)));
        match recorded {
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

    /// Makes `place` the next step's first image.
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
                "another epoch has begun on these images: use what its begin_epoch returned".to_owned(),
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

    /// Follows the step, which advanced the place on the GPU.
    fn advance(&mut self, n: usize) {
        self.offset = self.offset.map(|offset| offset.wrapping_add(n as u32));
    }

    fn set(&self, set: ResidentSet) -> Result<&Set, EngineError> {
        self.sets.get(set.0).ok_or_else(|| EngineError::Batch("the engine keeps no such images".to_owned()))
    }

    /// Chooses the algorithms of a step's convolutions that have none yet.
    fn choose_algorithms(&mut self, step: Step) -> Result<(), EngineError> {
        let choice = if self.settings.deterministic { Choice::Deterministic } else { Choice::Measured };
        let Self { gpu, main: Libraries { dnn, .. }, plan, arenas, room, convolutions, .. } = self;
        let Some(room) = room else { return Ok(()) };
        let site = Site { gpu, dnn, plan, arenas, room };
        let needed = convolutions.choose(site, step.n, step.mode.trains(), choice)?;
        if needed > self.convolutions.workspaces[0].bytes() {
            self.forget_records()?;
            for workspace in &mut self.convolutions.workspaces {
                *workspace = self.gpu.allocate(needed)?;
            }
        }
        Ok(())
    }

    /// Starts everything that a step does.
    fn enqueue(&self, step: Step) -> Result<(), EngineError> {
        let Self { gpu, main, side, kernels, plan, settings, arenas, update, sets, convolutions, .. } = self;
        let Some(room) = &self.room else { return Ok(()) };
        let (n, classes) = (step.n, self.classes);
        let pass = Pass {
            gpu,
            main,
            side,
            kernels,
            plan,
            settings,
            arenas,
            update,
            sets,
            convolutions,
            room,
            n,
            classes,
        };
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
                gpu.enter("optimizer");
                update.enqueue(gpu, self.trained(), n)
            }
        }
    }
}

/// An algorithm of cuDNN tried for a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Surveyed {
    /// The layer's name.
    pub layer: String,
    /// `measured` or `deterministic`: how an algorithm is chosen.
    pub choice: &'static str,
    /// The result.
    pub tried: Tried,
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

    fn lookahead(&mut self, decay: f64) -> Result<(), EngineError> {
        self.gpu.make_current()?;
        self.update.lookahead(&self.gpu, self.trained(), decay)
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

    fn snapshot(&self, optimizer: bool) -> Result<Box<dyn Snapshot>, EngineError> {
        self.gpu.make_current()?;
        let Self { gpu, plan, arenas, update, spare, .. } = self;
        let mut copied = Copied::start(gpu, plan, arenas, update, spare, optimizer)?;
        // Waits for the copies, too.
        let step = self.control()?.step;
        copied.batches_tracked.clone_from(&self.batches_tracked);
        let names = self.settings.recipe.optimizer.buffers();
        copied.optimizer = (optimizer && step > 0).then_some((names, step));
        Ok(Box::new(copied))
    }

    fn load_state(&mut self, state: &State) -> Result<(), EngineError> {
        state.check(&self.network)?;
        self.settings.check_state(state)?;
        let control = Control {
            step: state.optimizer.as_ref().map_or(0, |optimizer| optimizer.step),
            bad: 0,
            ..self.control()?
        };
        let (rows, batches_tracked) = self.import_statistics(&state.statistics, &state.batches_tracked);
        // Without averages in the state, they start as the trained values.
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
            if std::mem::replace(&mut average.is_used, false) {
                self.use_average(true)?;
            }
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
                        "the order of an epoch contains {place} twice, or it is not below {len}"
                    )));
                }
            }
        }
        if epoch.order.len() != len {
            return Err(EngineError::Batch(format!(
                "the order of an epoch has {} entries for {len} images",
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

/// Rounds to the nearest, ties to even.
fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return 0x7fff;
    }
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

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
