//! What the engine `cuda` asks of a GPU on first contact. The answers to a question are JSON lines on stdout, each printed as soon as it is
//! known: a later failure loses none.
//!
//! ```text
//! first_contact ground|clock|layers|distances|timeline|speed [--small]
//! ```
//!
//! * `ground`: the GPU, and the files of NVIDIA's libraries in this process.
//! * `clock`: the time of opening, of the first steps and of the first replay, cold and warm.
//! * `layers`: tries every algorithm that cuDNN lists for each layer and direction, with both ways of choosing.
//! * `distances`: loss and gradients of a first step compared with the engine `cpu`, and the losses of the steps that follow.
//! * `timeline`: a step's kernels and library calls one by one, and the same step recorded.
//! * `speed`: recorded steps of each network alone, and of three engines on three threads.
//!
//! The networks, the batch and the recipe are the published study's; `--small` takes one network and four images, for an emulated GPU.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Barrier;
use std::time::Instant;

use pointwise_engine::cpu::Cpu;
use pointwise_engine::cuda::Cuda;
use pointwise_engine::{
    Batch, DeviceChoice, DeviceName, Engine, Precision, ResidentEpoch, ResidentImages, Settings, accelerator,
};
use pointwise_network::Network;
use pointwise_random::{Purpose, Stream, below, unit_f32};
use pointwise_recipe::Recipe;
use pointwise_study::Study;
use serde_json::{Value, json};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// In order of use: training uses TF32 and bf16.
const PRECISIONS: [Precision; 3] = [Precision::Bf16, Precision::Tf32, Precision::F32];

const GPU: DeviceName = DeviceName::Cuda(0);

/// The subject of the questions.
struct Subject {
    networks: Vec<Network>,
    recipe: Recipe,
    /// Images in a batch.
    batch: usize,
    /// Steps after the first one when losses are compared.
    following: usize,
    /// Timed steps.
    steps: usize,
}

impl Subject {
    fn new(small: bool) -> Outcome<Self> {
        let study = Study::first_shipped()?;
        let mut networks: Vec<Network> = study.arms.into_iter().map(|arm| arm.network).collect();
        let batch = study.recipe.batch_size as usize;
        Ok(if small {
            networks.retain(|network| network.name == "alexnet");
            Self { networks, recipe: study.recipe, batch: 4, following: 1, steps: 2 }
        } else {
            Self { networks, recipe: study.recipe, batch, following: 9, steps: 400 }
        })
    }

    fn settings(&self, precision: Precision) -> Settings {
        Settings { device: GPU, precision, ..Settings::new(self.recipe.clone()) }
    }

    fn engine(&self, network: &Network, precision: Precision) -> Outcome<Cuda> {
        Ok(Cuda::new(network, &self.settings(precision))?)
    }

    /// Every network in every precision.
    fn all(&self) -> impl Iterator<Item = (&Network, Precision)> {
        self.networks.iter().flat_map(|network| PRECISIONS.map(|precision| (network, precision)))
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (question, small) = match words.as_slice() {
        [question] => (*question, false),
        [question, "--small"] => (*question, true),
        _ => ("", false),
    };
    let answer = match question {
        "ground" => ground,
        "clock" => clock,
        "layers" => layers,
        "distances" => distances,
        "timeline" => timeline,
        "speed" => speed,
        _ => {
            eprintln!("usage: first_contact ground|clock|layers|distances|timeline|speed [--small]");
            return ExitCode::from(2);
        }
    };
    match Subject::new(small).and_then(|subject| answer(&subject)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes a line.
fn say(part: &str, what: &str, facts: Value) -> Outcome {
    let mut line = json!({ "part": part, "what": what });
    if let (Value::Object(line), Value::Object(facts)) = (&mut line, facts) {
        line.extend(facts);
    }
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    Ok(stdout.flush()?)
}

/// Milliseconds, and the result.
fn timed<T>(work: impl FnOnce() -> Outcome<T>) -> Outcome<(f64, T)> {
    let start = Instant::now();
    let value = work()?;
    Ok((1e3 * start.elapsed().as_secs_f64(), value))
}

fn ground(subject: &Subject) -> Outcome {
    DeviceChoice::Only(GPU).resolve()?;
    say("ground", "card", json!({ "name": accelerator(GPU) }))?;
    let network = &subject.networks[0];
    let mut engine = subject.engine(network, Precision::Bf16)?;
    let images = Images::new(network, 2, 0);
    engine.train_step(images.batch())?;
    engine.totals()?;
    say("ground", "engine", json!({ "description": engine.description() }))?;
    for path in mapped()? {
        say("ground", "mapped", json!({ "path": path }))?;
    }
    Ok(())
}

/// The files of NVIDIA's libraries that this process has loaded; where links are named by version, their targets.
fn mapped() -> Outcome<Vec<String>> {
    let libraries =
        ["libcuda.", "libcublas", "libcudnn", "libnvrtc", "libcurand", "libcudart", "libnvJitLink"];
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let mut paths: Vec<String> = maps
        .lines()
        .filter_map(|line| line.find('/').map(|at| line[at..].to_owned()))
        .filter(|path| {
            let name = path.rsplit('/').next().unwrap_or_default();
            libraries.iter().any(|library| name.starts_with(library))
        })
        .collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}

fn clock(subject: &Subject) -> Outcome {
    let network = &subject.networks[0];
    for turn in ["cold", "warm"] {
        let ms = timed(|| Ok(DeviceChoice::Only(GPU).resolve()?))?.0;
        say("clock", "looking for the GPU", json!({ "turn": turn, "ms": ms }))?;
        let (ms, mut engine) = timed(|| subject.engine(network, Precision::Bf16))?;
        for (step, seconds) in engine.opening() {
            say("clock", step, json!({ "turn": turn, "ms": 1e3 * seconds }))?;
        }
        say("clock", "the engine in all", json!({ "turn": turn, "ms": ms }))?;
        let mut resident = Resident::new(&mut engine, network, subject.batch, 5)?;
        for what in ["first step", "second step, recorded", "first replay", "second replay"] {
            let ms = timed(|| resident.steps(&mut engine, 1))?.0;
            say("clock", what, json!({ "turn": turn, "ms": ms }))?;
        }
        let facts =
            json!({ "turn": turn, "description": engine.description(), "nodes": engine.graph_nodes() });
        say("clock", "graph", facts)?;
        let ms = timed(|| {
            drop(engine);
            Ok(())
        })?
        .0;
        say("clock", "the end", json!({ "turn": turn, "ms": ms }))?;
    }
    Ok(())
}

fn layers(subject: &Subject) -> Outcome {
    for (network, precision) in subject.all() {
        let mut engine = subject.engine(network, precision)?;
        // Whether an algorithm was chosen, for each layer, direction and way of choosing.
        let mut chosen = BTreeMap::new();
        for found in engine.survey(subject.batch)? {
            let key = format!("{} {} {}", found.layer, found.tried.direction, found.choice);
            *chosen.entry(key).or_insert(false) |= found.tried.chosen;
            let facts = json!({
                "model": network.name,
                "precision": precision.name(),
                "layer": found.layer,
                "direction": found.tried.direction,
                "choice": found.choice,
                "algorithm": found.tried.algorithm,
                "math": found.tried.math,
                "status": found.tried.status,
                "workspace": found.tried.workspace,
                "deterministic": found.tried.deterministic,
                "can_be_used": found.tried.can_be_used,
                "us": found.tried.seconds.map(|seconds| 1e6 * seconds),
                "chosen": found.tried.chosen,
            });
            say("layers", "algorithm", facts)?;
        }
        // Our own kernels stand in.
        for (key, _) in chosen.iter().filter(|(_, chosen)| !**chosen) {
            let facts = json!({ "model": network.name, "precision": precision.name(), "direction": key });
            say("layers", "no algorithm", facts)?;
        }
    }
    Ok(())
}

fn distances(subject: &Subject) -> Outcome {
    for network in &subject.networks {
        let batches: Vec<Images> = (0..=subject.following)
            .map(|number| Images::new(network, subject.batch, number as u32))
            .collect();
        let settings = Settings::new(subject.recipe.clone());
        let mut cpu = Cpu::new(network, &settings)?;
        let initial = cpu.state()?;
        let (expected_loss, expected) = cpu.gradients(batches[0].batch())?;
        let expected_losses = losses(&mut cpu, &batches)?;
        for precision in PRECISIONS {
            let mut engine = subject.engine(network, precision)?;
            engine.load_state(&initial)?;
            let (loss, gradients) = engine.gradients(batches[0].batch())?;
            let mut apart: Vec<(f64, &str)> = expected
                .iter()
                .map(|(name, expected)| {
                    let got = gradients.get(name).map_or(&[][..], |array| array.values.as_slice());
                    (distance(got, &expected.values), name.as_str())
                })
                .collect();
            apart.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (worst, name) = apart.last().copied().unwrap_or((0.0, ""));
            let median = apart.get(apart.len() / 2).map_or(0.0, |(distance, _)| *distance);
            let losses = losses(&mut engine, &batches)?;
            let share = |(a, b): (&f64, &f64)| ((a - b) / b).abs();
            let later: Vec<f64> = losses.iter().zip(&expected_losses).map(share).collect();
            let facts = json!({
                "model": network.name,
                "precision": precision.name(),
                "loss": ((loss - expected_loss) / expected_loss).abs(),
                "worst": worst,
                "name": name,
                "median": median,
                "losses": later,
            });
            say("distances", "distance", facts)?;
        }
    }
    Ok(())
}

/// The root of the sum of squares of the differences over that of what is expected; infinite if one is missing.
fn distance(got: &[f32], expected: &[f32]) -> f64 {
    if got.len() != expected.len() {
        return f64::INFINITY;
    }
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    difference / norm(&mut expected.iter().map(|value| f64::from(*value))).max(f64::MIN_POSITIVE)
}

/// The losses of a step on each batch.
fn losses(engine: &mut dyn Engine, batches: &[Images]) -> Outcome<Vec<f64>> {
    let mut losses = Vec::new();
    for images in batches {
        engine.train_step(images.batch())?;
        losses.push(engine.totals()?.last_loss);
    }
    Ok(losses)
}

fn timeline(subject: &Subject) -> Outcome {
    for (network, precision) in subject.all() {
        let mut engine = subject.engine(network, precision)?;
        let images = Images::new(network, subject.batch, 0);
        let spans = engine.timeline(images.batch())?;
        let mut kinds: BTreeMap<&str, (u32, usize, f64)> = BTreeMap::new();
        for span in &spans {
            let (count, bytes, seconds) = kinds.entry(&span.name).or_default();
            (*count, *bytes, *seconds) = (*count + 1, *bytes + span.bytes, *seconds + span.seconds);
        }
        let all: f64 = spans.iter().map(|span| span.seconds).sum();
        let bytes: usize = spans.iter().map(|span| span.bytes).sum();
        let (model, precision) = (&network.name, precision.name());
        let spans: Vec<Value> =
            spans.iter().map(|span| json!([span.layer, span.name, span.bytes, 1e6 * span.seconds])).collect();
        say(
            "timeline",
            "spans",
            json!({ "model": model, "precision": precision, "layer, call, bytes, us": spans }),
        )?;
        let mut kinds: Vec<_> = kinds.into_iter().collect();
        kinds.sort_by(|(_, (.., a)), (_, (.., b))| b.total_cmp(a));
        for (kind, (count, bytes, seconds)) in kinds {
            let facts = json!({
                "model": model,
                "precision": precision,
                "kind": kind,
                "count": count,
                "us": 1e6 * seconds,
                "mb": bytes as f64 / 1e6,
                "gb_per_s": bytes as f64 / 1e9 / seconds,
                "share": seconds / all,
            });
            say("timeline", "kind", facts)?;
        }
        let mut resident = Resident::new(&mut engine, network, subject.batch, GROUP)?;
        let seconds = resident.replay(&mut engine, subject.steps)?;
        let facts = json!({
            "model": model,
            "precision": precision,
            "sum_us": 1e6 * all,
            "sum_mb": bytes as f64 / 1e6,
            "replay_us": 1e6 * seconds,
            "nodes": engine.graph_nodes(),
        });
        say("timeline", "step", facts)?;
    }
    Ok(())
}

fn speed(subject: &Subject) -> Outcome {
    let mut alone = BTreeMap::new();
    for precision in PRECISIONS {
        for network in &subject.networks {
            let mut engine = subject.engine(network, precision)?;
            let mut resident = Resident::new(&mut engine, network, subject.batch, GROUP)?;
            let seconds = resident.replay(&mut engine, subject.steps)?;
            let floor = engine.floor(subject.batch, true);
            let facts = json!({
                "model": network.name,
                "precision": precision.name(),
                "ms": 1e3 * seconds,
                "tflops": floor.operations / seconds / 1e12,
                "gb_per_second": floor.bytes / seconds / 1e9,
                "description": engine.description(),
            });
            say("speed", "replay", facts)?;
            alone.insert((network.name.clone(), precision.name()), seconds);
        }
    }
    for precision in PRECISIONS {
        let networks: Vec<&Network> = subject.networks.iter().cycle().take(3).collect();
        let barrier = Barrier::new(networks.len());
        let together = std::thread::scope(|scope| {
            let threads: Vec<_> = networks
                .iter()
                .map(|network| scope.spawn(|| beside_others(subject, network, precision, &barrier)))
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Outcome<f64>>| {
                thread.join().unwrap_or_else(|_| Err("a thread panicked".into()))
            };
            threads.into_iter().map(join).collect::<Outcome<Vec<f64>>>()
        })?;
        let one_by_one: f64 =
            networks.iter().map(|network| alone[&(network.name.clone(), precision.name())]).sum();
        let longest = together.iter().copied().fold(0.0, f64::max);
        let facts = json!({
            "precision": precision.name(),
            "ms": together.iter().map(|seconds| 1e3 * seconds).collect::<Vec<_>>(),
            "one_by_one_ms": 1e3 * one_by_one,
            "faster": one_by_one / longest,
        });
        say("speed", "three engines at once", facts)?;
    }
    Ok(())
}

/// Seconds of a step while the other threads take theirs.
fn beside_others(
    subject: &Subject,
    network: &Network,
    precision: Precision,
    barrier: &Barrier,
) -> Outcome<f64> {
    let prepare = || {
        let mut engine = subject.engine(network, precision)?;
        let mut resident = Resident::new(&mut engine, network, subject.batch, GROUP)?;
        resident.steps(&mut engine, before_the_clock(subject.steps))?;
        Ok((engine, resident))
    };
    // No thread waits for one that failed.
    let prepared: Outcome<(Cuda, Resident)> = prepare();
    barrier.wait();
    let (mut engine, mut resident) = prepared?;
    let (ms, ()) = timed(|| resident.steps(&mut engine, subject.steps))?;
    Ok(ms / 1e3 / subject.steps as f64)
}

/// Steps of an epoch of [`Resident`] images, which are taken without waiting in between.
const GROUP: usize = 20;

/// Steps before `count` timed ones: the first two record the step, and an idle GPU takes a while to reach its clock.
fn before_the_clock(count: usize) -> usize {
    3 + count / 10
}

/// Images on the GPU, and steps on them.
struct Resident {
    set: pointwise_engine::ResidentSet,
    order: Vec<u32>,
    batch: usize,
    epoch: u32,
}

impl Resident {
    /// Images for `group` steps.
    fn new(engine: &mut Cuda, network: &Network, batch: usize, group: usize) -> Outcome<Self> {
        let n = batch * group;
        let [channels, height, width] = network.input;
        let mut words = Stream::new(1, Purpose::Synthetic, 0);
        let images: Vec<u8> =
            (0..n * channels * height * width).map(|_| (words.word() >> 24) as u8).collect();
        let labels: Vec<u16> = (0..n).map(|_| below(words.word(), 10) as u16).collect();
        // Mean 0 and standard deviation 1.
        let values: Vec<f32> =
            (0..channels * 256).map(|i| ((i % 256) as f32 / 255.0 - 0.5) * 12_f32.sqrt()).collect();
        let images = ResidentImages { images: &images, labels: &labels, values: &values };
        let set = engine.reside(images)?.ok_or("the engine keeps no images")?;
        Ok(Self { set, order: (0..n as u32).collect(), batch, epoch: 0 })
    }

    /// Takes steps and waits for them.
    fn steps(&mut self, engine: &mut Cuda, mut count: usize) -> Outcome {
        while count > 0 {
            self.epoch += 1;
            let epoch = ResidentEpoch { epoch: self.epoch, order: &self.order, margin: Some(4) };
            let begun = engine.begin_epoch(self.set, epoch)?;
            let group = count.min(self.order.len() / self.batch);
            for step in 0..group {
                engine.train_resident(begun, step * self.batch..(step + 1) * self.batch)?;
            }
            count -= group;
        }
        engine.totals()?;
        Ok(())
    }

    /// Seconds of a recorded step, of `count`.
    fn replay(&mut self, engine: &mut Cuda, count: usize) -> Outcome<f64> {
        self.steps(engine, before_the_clock(count))?;
        let (ms, ()) = timed(|| self.steps(engine, count))?;
        Ok(ms / 1e3 / count as f64)
    }
}

/// A batch with mean 0 and standard deviation 1 that depends only on its number.
struct Images {
    values: Vec<f32>,
    labels: Vec<u16>,
}

impl Images {
    fn new(network: &Network, n: usize, number: u32) -> Self {
        let mut words = Stream::new(2, Purpose::Synthetic, number);
        let values = n * network.input.iter().product::<usize>();
        let values = (0..values).map(|_| (unit_f32(words.word()) - 0.5) * 12_f32.sqrt()).collect();
        let labels = (0..n).map(|_| below(words.word(), 10) as u16).collect();
        Self { values, labels }
    }

    fn batch(&self) -> Batch<'_> {
        Batch { images: &self.values, labels: &self.labels }
    }
}
