//! `trainer bench`: times whole steps of an engine, without data, augmentation or files around them.
//!
//! `cargo xtask bench` runs this next to programs that use other libraries, take the same options and print the same line of JSON.

use crate::args::{BenchArgs, Phase};
use crate::eval::engine_and_settings;
use crate::{print, threads};
use anyhow::bail;
use pointwise_engine::cpu::{Cpu, LayerTime, peak_gflops};
#[cfg(feature = "cuda")]
use pointwise_engine::cuda::{self, Cuda};
use pointwise_engine::memory::{lacking, shown};
use pointwise_engine::{
    Batch, BegunEpoch, Engine, EngineError, EngineKind, ResidentEpoch, ResidentImages, ResidentSet, Settings,
    create,
};
use pointwise_inference::{Images, Isa, Model, Options, StepTime};
use pointwise_network::Network;
use pointwise_random::{Purpose, Stream, below, unit_f32};
use pointwise_recipe::Precision;
use pointwise_runs::peak_memory;
use pointwise_weights::State;
use serde::Serialize;
use std::fmt::Write;
use std::time::Instant;

/// Batches used in turn, so that no step sees the images of the one before.
const BATCHES: u32 = 4;

/// What is measured, and on what.
#[derive(Debug, Serialize)]
struct Row {
    /// The name in records.
    contender: &'static str,
    version: &'static str,
    model: String,
    phase: &'static str,
    precision: &'static str,
    /// Images in a batch.
    batch: u32,
    /// Computing threads.
    threads: usize,
    /// Steps before the clock started.
    warmup: u32,
    /// Of each step; of an asynchronous engine, the mean of each group of steps.
    seconds: Vec<f64>,
    /// Steps in a group.
    group: u32,
    /// The largest resident set of the process; null where the system does not report it.
    peak_memory_bytes: Option<u64>,
    detail: String,
    /// Number of trainable values.
    parameters: usize,
    /// Multiply-accumulates of one forward pass of one image.
    macs_per_image: usize,
    /// Peak rate of this many threads, on registers alone, or of a GPU in a large product; null where the engine does not report it.
    peak_gflops: Option<f64>,
    /// Of a GPU's memory, read and written together, in 10^9 bytes a second; null elsewhere.
    bandwidth_gb: Option<f64>,
    floor: Option<Floor>,
    /// Times of the engine's parts, averaged over the steps; null where the engine does not measure them.
    layers: Option<Vec<LayerRow>>,
}

/// The least that a step can take on a GPU.
#[derive(Debug, Clone, Copy, Serialize)]
struct Floor {
    /// 10^9 floating-point operations.
    gflop: f64,
    /// 10^9 bytes that the plan's passes read and write.
    gbytes: f64,
    /// At the rates that the card reaches.
    seconds: f64,
}

/// A part of the engine's plan.
#[derive(Debug, Serialize)]
struct LayerRow {
    path: String,
    method: String,
    forward_seconds: f64,
    backward_seconds: Option<f64>,
    /// Of a step, by the definition of the convolution, in 10^9 floating-point operations; null for anything but a convolution.
    gflop: Option<f64>,
}

/// An engine, by what it can report beyond the `Engine` trait.
enum Subject {
    Cpu(Box<Cpu>),
    #[cfg(feature = "cuda")]
    Cuda(Box<Cuda>),
    Other(Box<dyn Engine>),
}

impl Subject {
    fn new(kind: EngineKind, network: &Network, settings: &Settings) -> Result<Self, EngineError> {
        Ok(match kind {
            EngineKind::Cpu => Self::Cpu(Box::new(Cpu::new(network, settings)?)),
            #[cfg(feature = "cuda")]
            EngineKind::Cuda => Self::Cuda(Box::new(Cuda::new(network, settings)?)),
            _ => Self::Other(create(kind, network, settings)?),
        })
    }

    fn engine(&mut self) -> &mut dyn Engine {
        match self {
            Self::Cpu(cpu) => cpu.as_mut(),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.as_mut(),
            Self::Other(engine) => engine.as_mut(),
        }
    }

    /// Forgets the times so far.
    fn restart(&mut self) {
        if let Self::Cpu(cpu) = self {
            cpu.take_times();
        }
    }

    fn layers(&mut self, phase: Phase, batch: u32, steps: u32) -> Option<Vec<LayerRow>> {
        let Self::Cpu(cpu) = self else { return None };
        let (steps, passes) = (f64::from(steps), if phase == Phase::Train { 3.0 } else { 1.0 });
        let times = cpu.take_times().into_iter();
        let row = |time: LayerTime| LayerRow {
            path: time.name,
            method: time.method,
            forward_seconds: time.forward / steps,
            backward_seconds: (phase == Phase::Train).then_some(time.backward / steps),
            gflop: (time.macs > 0).then(|| 2.0 * passes * time.macs as f64 * f64::from(batch) / 1e9),
        };
        Some(times.filter(|time| time.forward + time.backward > 0.0).map(row).collect())
    }

    /// The peak rates of the device, and the least that a step can take there.
    fn limits(&self, settings: &Settings, args: &BenchArgs, batch: u32) -> Result<Limits, EngineError> {
        let told = Limits { peak_gflops: args.peak_gflops, bandwidth_gb: args.bandwidth_gb, floor: None };
        Ok(match self {
            // All threads at once: they share the processor's peak rate.
            Self::Cpu(cpu) => {
                let isa = cpu.isa();
                let measured = || rayon::broadcast(|_| peak_gflops(isa)).into_iter().sum();
                Limits { peak_gflops: Some(args.peak_gflops.unwrap_or_else(measured)), ..told }
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(engine) => {
                let peak = match told.peak_gflops {
                    Some(peak) => peak,
                    None => 1e3 * cuda::peak_tflops(settings.device, settings.precision)?,
                };
                let bandwidth = match told.bandwidth_gb {
                    Some(bandwidth) => bandwidth,
                    None => cuda::bandwidth(settings.device)? / 1e9,
                };
                let floor = engine.floor(batch as usize, args.phase == Phase::Train);
                let (gflop, gbytes) = (floor.operations / 1e9, floor.bytes / 1e9);
                let seconds = (gflop / peak).max(gbytes / bandwidth);
                Limits {
                    peak_gflops: Some(peak),
                    bandwidth_gb: Some(bandwidth),
                    floor: Some(Floor { gflop, gbytes, seconds }),
                }
            }
            Self::Other(_) => {
                let _ = (settings, batch);
                told
            }
        })
    }

    fn detail(&self, kind: EngineKind, settings: &Settings) -> String {
        match self {
            Self::Cpu(cpu) => format!("engine {kind}, {}", cpu.isa()),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => format!("engine {kind} on {}, {}", settings.device, cuda.description()),
            Self::Other(_) => format!("engine {kind} on {}", settings.device),
        }
    }
}

#[derive(Debug)]
struct Limits {
    peak_gflops: Option<f64>,
    bandwidth_gb: Option<f64>,
    floor: Option<Floor>,
}

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    threads::start(args.compute.threads)?;
    if args.phase == Phase::Infer {
        return infer(args);
    }
    let (kind, settings) = engine_and_settings(&args.compute)?;
    let batch = args.batch.unwrap_or(settings.recipe.batch_size);
    let network = args.model.network().clone();
    let graph = network.graph()?;
    let classes = graph.classes().min(65_536) as u32;
    let mut subject = Subject::new(kind, &network, &settings)?;
    let images = images_bytes(batch, &network);
    subject.engine().prepare(batch as usize, args.phase == Phase::Train, images)?;
    let Timed { seconds, losses, group } =
        match ResidentBatches::new(subject.engine(), batch, &network, classes)? {
            Some(batches) => batches.time(subject.engine(), args)?,
            None => time(&mut subject, args, batch, &network, classes)?,
        };
    // Before the limits are measured, which is not part of a step.
    let peak_memory_bytes = peak_memory();
    let layers = subject.layers(args.phase, batch, args.steps);
    let detail = subject.detail(kind, &settings);
    let Limits { peak_gflops, bandwidth_gb, floor } = subject.limits(&settings, args, batch)?;
    let row = Row {
        contender: "pointwise",
        version: env!("CARGO_PKG_VERSION"),
        model: network.name.clone(),
        phase: args.phase.name(),
        precision: settings.precision.name(),
        batch,
        threads: rayon::current_num_threads(),
        warmup: args.warmup,
        seconds,
        group,
        peak_memory_bytes,
        detail,
        parameters: graph.parameter_count(),
        macs_per_image: graph.macs(),
        peak_gflops,
        bandwidth_gb,
        floor,
        layers,
    };
    Ok(print(&if args.json { serde_json::to_string(&row)? } else { table(&row, &losses) })?)
}

/// Bytes of the images of all batches.
fn images_bytes(batch: u32, network: &Network) -> u64 {
    let values = network
        .input
        .iter()
        .fold(u64::from(BATCHES * size_of::<f32>() as u32), |all, side| all.saturating_mul(*side as u64));
    values.saturating_mul(u64::from(batch))
}

/// Times a compiled model with initial weights.
fn infer(args: &BenchArgs) -> anyhow::Result<()> {
    let network = args.model.network();
    let graph = network.graph()?;
    let batch = args.batch.unwrap_or(1);
    let isa = Isa::detect();
    let options = Options { batch: batch as usize, isa, ..Options::default() };
    // The initial weights, and the model's own form of them.
    let weights = 3 * (graph.parameter_count() * size_of::<f32>()) as u64;
    let need = weights.saturating_add(images_bytes(batch, network));
    if let Some(available) = lacking(need) {
        bail!(
            "`{}` and {BATCHES} batches of {batch} images take {} of memory, and {available}: {}",
            network.name,
            shown(need),
            if batch > 1 { "give a smaller --batch" } else { "free memory or raise the limit" }
        );
    }
    let mut model = Model::new(network, &State::initial(&graph, 0), &options)?;
    let batches: Vec<_> = (0..BATCHES).map(|number| RandomBatch::new(batch, network, 1, number)).collect();
    let mut seconds = Vec::new();
    for step in 0..args.warmup + args.steps {
        let images = &batches[step as usize % batches.len()].images;
        if step == args.warmup {
            model.take_times();
        }
        let start = Instant::now();
        let logits = model.logits(Images::Normalised(images))?;
        let elapsed = start.elapsed().as_secs_f64();
        if let Some(value) = logits.iter().find(|value| !value.is_finite()) {
            bail!("step {step} gave a logit of {value}");
        }
        if step >= args.warmup {
            seconds.push(elapsed);
        }
    }
    let peak_memory_bytes = peak_memory();
    let layer = |time: StepTime| LayerRow {
        path: time.name,
        method: time.method,
        forward_seconds: time.seconds / f64::from(args.steps),
        backward_seconds: None,
        gflop: None,
    };
    let row = Row {
        contender: "pointwise",
        version: env!("CARGO_PKG_VERSION"),
        model: network.name.clone(),
        phase: args.phase.name(),
        precision: Precision::F32.name(),
        batch,
        threads: rayon::current_num_threads(),
        warmup: args.warmup,
        seconds,
        group: 1,
        peak_memory_bytes,
        detail: format!("compiled for the batch, {isa}"),
        parameters: graph.parameter_count(),
        macs_per_image: graph.macs(),
        peak_gflops: None,
        bandwidth_gb: None,
        floor: None,
        layers: Some(model.take_times().into_iter().map(layer).collect()),
    };
    Ok(print(&if args.json { serde_json::to_string(&row)? } else { infer_table(&row) })?)
}

/// The parts with their times, and the median of the whole.
fn infer_table(row: &Row) -> String {
    let mut text = format!(
        "{} {}, {}, batch {}, {} threads, {}",
        row.model, row.phase, row.detail, row.batch, row.threads, row.version
    );
    for layer in row.layers.iter().flatten() {
        let milliseconds = 1e3 * layer.forward_seconds;
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{milliseconds:>9.3} ms  {:<34} {}", layer.method, layer.path);
    }
    let mut seconds = row.seconds.clone();
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let _ = write!(text, "\n{:>9.3} ms  {:.0} images/s", 1e3 * median, f64::from(row.batch) / median);
    text
}

/// Times of the steps, and their losses.
struct Timed {
    seconds: Vec<f64>,
    losses: Vec<f64>,
    group: u32,
}

/// Times steps on batches from host memory, and waits for each.
fn time(
    subject: &mut Subject,
    args: &BenchArgs,
    batch: u32,
    network: &Network,
    classes: u32,
) -> Result<Timed, EngineError> {
    let batches: Vec<_> =
        (0..BATCHES).map(|number| RandomBatch::new(batch, network, classes, number)).collect();
    let (mut seconds, mut losses) = (Vec::new(), Vec::new());
    for step in 0..u64::from(args.warmup) + u64::from(args.steps) {
        let batch = &batches[step as usize % batches.len()];
        if step == u64::from(args.warmup) {
            subject.restart();
        }
        let start = Instant::now();
        let loss = take(subject.engine(), args.phase, batch.view())?;
        let elapsed = start.elapsed().as_secs_f64();
        if step >= u64::from(args.warmup) {
            seconds.push(elapsed);
            losses.push(loss);
        }
    }
    Ok(Timed { seconds, losses, group: 1 })
}

/// Images that an engine keeps on its device: enough for a group of steps, which it takes without waiting in between.
struct ResidentBatches {
    set: ResidentSet,
    epoch: BegunEpoch,
    batch: u32,
    group: u32,
}

impl ResidentBatches {
    /// `None` for an engine that keeps no images.
    fn new(
        engine: &mut dyn Engine,
        batch: u32,
        network: &Network,
        classes: u32,
    ) -> Result<Option<Self>, EngineError> {
        // As many images as the study has, unless a batch is larger; few enough that a group does not take long.
        let group = (50_000 / batch).clamp(1, 20);
        let mut words = Stream::new(0, Purpose::Synthetic, 0);
        let n = group * batch;
        let [channels, height, width] = network.input;
        let images: Vec<u8> =
            (0..n as usize * channels * height * width).map(|_| (words.word() >> 24) as u8).collect();
        let labels: Vec<u16> = (0..n).map(|_| below(words.word(), classes) as u16).collect();
        // As in `RandomBatch`: mean 0 and standard deviation 1.
        let values: Vec<f32> =
            (0..channels * 256).map(|i| ((i % 256) as f32 / 255.0 - 0.5) * 12_f32.sqrt()).collect();
        let images = ResidentImages { images: &images, labels: &labels, values: &values };
        let Some(set) = engine.reside(images)? else { return Ok(None) };
        let order: Vec<u32> = (0..n).collect();
        let epoch = engine.begin_epoch(set, ResidentEpoch { epoch: 1, order: &order, margin: Some(4) })?;
        Ok(Some(Self { set, epoch, batch, group }))
    }

    fn time(&self, engine: &mut dyn Engine, args: &BenchArgs) -> Result<Timed, EngineError> {
        let (mut seconds, mut losses) = (Vec::new(), Vec::new());
        // The first group records the step.
        let warmup = args.warmup.max(1);
        for turn in 0..u64::from(warmup) + u64::from(args.steps) {
            let start = Instant::now();
            for step in 0..self.group as usize {
                let batch = self.batch as usize;
                let range = step * batch..(step + 1) * batch;
                match args.phase {
                    Phase::Train => engine.train_resident(self.epoch, range)?,
                    Phase::Eval | Phase::Infer => engine.evaluate_resident(self.set, range)?,
                }
            }
            let loss = engine.totals()?.last_loss;
            if turn >= u64::from(warmup) {
                seconds.push(start.elapsed().as_secs_f64() / f64::from(self.group));
                losses.push(loss);
            }
        }
        Ok(Timed { seconds, losses, group: self.group })
    }
}

/// One step from images in host memory to totals in host memory, so that an asynchronous engine has finished. Returns the loss.
fn take(engine: &mut dyn Engine, phase: Phase, batch: Batch<'_>) -> Result<f64, EngineError> {
    match phase {
        Phase::Train => engine.train_step(batch)?,
        Phase::Eval | Phase::Infer => engine.evaluate(batch)?,
    }
    Ok(engine.totals()?.last_loss)
}

/// Images and labels that depend only on the batch's number.
struct RandomBatch {
    images: Vec<f32>,
    labels: Vec<u16>,
}

impl RandomBatch {
    fn new(size: u32, network: &Network, classes: u32, number: u32) -> Self {
        let mut words = Stream::new(0, Purpose::Synthetic, number);
        let values = size as usize * network.input.iter().product::<usize>();
        // Uniform, with mean 0 and standard deviation 1 like normalised images.
        let images = (0..values).map(|_| (unit_f32(words.word()) - 0.5) * 12_f32.sqrt()).collect();
        let labels = (0..size).map(|_| below(words.word(), classes) as u16).collect();
        Self { images, labels }
    }

    fn view(&self) -> Batch<'_> {
        Batch { images: &self.images, labels: &self.labels }
    }
}

fn table(row: &Row, losses: &[f64]) -> String {
    let mut text = format!(
        "{} {}, {}, batch {}, {} threads, {}",
        row.model, row.phase, row.detail, row.batch, row.threads, row.version
    );
    for (step, (seconds, loss)) in row.seconds.iter().zip(losses).enumerate() {
        let rate = f64::from(row.batch) / seconds;
        // Writing to a string cannot fail.
        let (step, milliseconds) = (step + 1, 1e3 * seconds);
        let _ =
            write!(text, "\nstep {step:>3} {milliseconds:>10.1} ms {rate:>8.0} images/s   loss {loss:.4}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_normalised_repeatable_and_different() {
        let network = Network::by_name("nin").unwrap();
        let batch = RandomBatch::new(32, &network, 10, 0);
        assert_eq!((batch.images.len(), batch.labels.len()), (32 * 3 * 32 * 32, 32));
        assert!(batch.labels.iter().all(|label| *label < 10));
        let n = batch.images.len() as f64;
        let mean = batch.images.iter().map(|value| f64::from(*value)).sum::<f64>() / n;
        let variance = batch.images.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / n;
        // Five standard errors of 98,304 uniform values: 1 / sqrt(n), and sqrt(0.8 / n).
        assert!(mean.abs() < 0.016 && (variance - 1.0).abs() < 0.0143, "{mean} {variance}");
        assert_eq!(RandomBatch::new(32, &network, 10, 0).images, batch.images);
        assert_ne!(RandomBatch::new(32, &network, 10, 1).images, batch.images);
    }

    #[test]
    fn the_table_has_a_line_for_each_step() {
        let row = Row {
            contender: "pointwise",
            version: "0.1.0",
            model: "nin".to_owned(),
            phase: "eval",
            precision: "f32",
            batch: 126,
            threads: 2,
            warmup: 1,
            seconds: vec![0.5, 0.25],
            group: 1,
            peak_memory_bytes: None,
            detail: "engine cpu on cpu".to_owned(),
            parameters: 1,
            macs_per_image: 1,
            peak_gflops: None,
            bandwidth_gb: None,
            floor: None,
            layers: None,
        };
        assert_eq!(
            table(&row, &[2.3, 2.25]),
            "nin eval, engine cpu on cpu, batch 126, 2 threads, 0.1.0\n\
             step   1      500.0 ms      252 images/s   loss 2.3000\n\
             step   2      250.0 ms      504 images/s   loss 2.2500"
        );
    }
}
