//! What the Rust peers of `cargo xtask bench` share, so that they differ in nothing but the library under test: the options, the
//! networks as data, the images, the timing and the line of JSON.
//!
//! A peer is a program that implements [`Peer`] and calls [`run`]. It is handed its batches before the clock starts, and may
//! keep them in any form it likes. What is timed is a whole step: in training forward, loss, gradients and optimizer, in
//! evaluation forward and loss; in both the loss and the number of correct predictions are read back, because the study's
//! training loop shows them.

use anyhow::{Context, bail, ensure};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use std::process::ExitCode;
use std::time::Instant;

/// The optimizer's learning rate in the study.
pub const LEARNING_RATE: f64 = 1e-3;
/// The optimizer's weight decay in the study.
pub const WEIGHT_DECAY: f64 = 5e-4;
/// Classes of the dataset.
pub const CLASSES: usize = 10;
/// Shape of an image: channels, height, width.
pub const IMAGE: [usize; 3] = [3, 32, 32];

/// Batches that take turns, so that no step sees the images of the one before.
const BATCHES: usize = 4;

/// Times whole steps of one network on random images.
#[derive(Debug, Parser)]
#[command(max_term_width = 100)]
struct Arguments {
    /// The network.
    #[arg(long, value_enum)]
    model: Model,
    /// What a step is.
    #[arg(long, value_enum, default_value = "train")]
    phase: Phase,
    /// Images in a batch.
    #[arg(long, value_name = "N", default_value_t = 126, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Steps before the clock starts.
    #[arg(long, value_name = "N", default_value_t = 2)]
    warmup: u32,
    /// Steps to time.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Computing threads [default: the number of processors].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Print one line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// The study's networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[value(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Model {
    /// Plain features, three linear layers.
    AlexnetPlain,
    /// The same features, a pointwise convolution and a global average.
    Alexnet,
    /// Pointwise convolutions between the 3x3 ones.
    Nin,
}

/// What a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Forward in training mode, loss, gradients, optimizer.
    Train,
    /// Forward in evaluation mode, loss.
    Eval,
}

/// A layer; strides are 1 but for the pool's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Layer {
    /// Square convolution with bias and zero padding.
    Conv2d {
        /// Channels of the input.
        input: usize,
        /// Channels of the output.
        output: usize,
        /// Side of the kernel.
        kernel: usize,
        /// Rows and columns of zeros on each side.
        padding: usize,
    },
    /// Batch normalisation of this many channels, eps 1e-5, momentum 0.1.
    BatchNorm2d(usize),
    /// `max(x, 0)`.
    Relu,
    /// Maximum over 2x2 windows, stride 2.
    MaxPool2d,
    /// Mean of each channel's map; `(N, C, H, W)` to `(N, C)`.
    GlobalAveragePool,
    /// `(N, C, H, W)` to `(N, C * H * W)`.
    Flatten,
    /// Dropout with this probability.
    Dropout(f64),
    /// Fully connected layer with bias.
    Linear {
        /// Length of the input.
        input: usize,
        /// Length of the output.
        output: usize,
    },
}

impl Model {
    /// Trainable parameters of the published network.
    #[must_use]
    pub fn parameters(self) -> usize {
        match self {
            Self::AlexnetPlain => 6_979_146,
            Self::Alexnet => 2_256_458,
            Self::Nin => 1_485_386,
        }
    }

    /// The layers in order.
    #[must_use]
    pub fn layers(self) -> Vec<Layer> {
        let mut layers = Vec::new();
        match self {
            Self::AlexnetPlain | Self::Alexnet => {
                for (input, output, pool) in
                    [(3, 64, true), (64, 192, true), (192, 384, false), (384, 256, false), (256, 256, true)]
                {
                    layers.push(Layer::Conv2d { input, output, kernel: 3, padding: 1 });
                    layers.extend([Layer::BatchNorm2d(output), Layer::Relu]);
                    layers.extend(pool.then_some(Layer::MaxPool2d));
                }
            }
            Self::Nin => {
                for (input, output, kernel, ends_block) in [
                    (3, 64, 3, true),
                    (64, 128, 3, false),
                    (128, 128, 1, false),
                    (128, 192, 1, true),
                    (192, 256, 3, false),
                    (256, 256, 1, false),
                    (256, 384, 1, true),
                    (384, 256, 1, false),
                    (256, 256, 3, false),
                    (256, 256, 1, true),
                ] {
                    // The pointwise convolutions pad as well: that is the published network.
                    layers.push(Layer::Conv2d { input, output, kernel, padding: 1 });
                    layers.push(Layer::BatchNorm2d(output));
                    if ends_block {
                        layers.extend([Layer::Relu, Layer::MaxPool2d]);
                    }
                }
            }
        }
        match self {
            Self::AlexnetPlain => layers.extend([
                Layer::Flatten,
                Layer::Dropout(0.5),
                Layer::Linear { input: 4096, output: 1024 },
                Layer::Relu,
                Layer::Dropout(0.5),
                Layer::Linear { input: 1024, output: 512 },
                Layer::Relu,
                Layer::Linear { input: 512, output: CLASSES },
            ]),
            Self::Alexnet | Self::Nin => layers.extend([
                Layer::Conv2d { input: 256, output: CLASSES, kernel: 1, padding: 0 },
                Layer::GlobalAveragePool,
            ]),
        }
        layers
    }
}

/// Images and labels in host memory.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `(N, 3, 32, 32)`, uniform in `[-1.7, 1.7)`: mean and deviation of normalised images.
    pub images: Vec<f32>,
    /// `N` classes.
    pub labels: Vec<u8>,
}

impl Batch {
    /// The same images for the same arguments.
    fn random(size: usize, seed: u64) -> Self {
        let mut state = seed;
        let mut word = || {
            // SplitMix64 (Steele, Lea and Flood 2014).
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        let values = size * IMAGE.iter().product::<usize>();
        let images = (0..values).map(|_| ((word() >> 40) as f32 / (1 << 24) as f32 - 0.5) * 3.4).collect();
        let labels = (0..size).map(|_| (word() % CLASSES as u64) as u8).collect();
        Self { images, labels }
    }
}

/// What a step tells.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Mean loss of the batch, in nats.
    pub loss: f64,
    /// Images whose largest logit is the label's.
    pub correct: u64,
}

/// A library under test.
pub trait Peer: Sized {
    /// Its name in records.
    const CONTENDER: &'static str;

    /// The library's version.
    fn version() -> Option<String>;

    /// What else a reader must know to judge the figures.
    fn detail() -> String;

    /// Makes the network with its initial values and takes the batches over.
    ///
    /// # Errors
    /// When the library fails.
    fn new(model: Model, phase: Phase, batches: &[Batch]) -> anyhow::Result<Self>;

    /// Number of trainable values.
    fn parameters(&self) -> usize;

    /// One whole step on the batch of this number. All of its work is done on return.
    ///
    /// # Errors
    /// When the library fails.
    fn step(&mut self, batch: usize) -> anyhow::Result<Outcome>;
}

/// What a peer prints with `--json`, in one line.
#[derive(Debug, Serialize)]
struct Row {
    contender: &'static str,
    version: Option<String>,
    model: Model,
    phase: Phase,
    batch: u32,
    threads: u32,
    warmup: u32,
    seconds: Vec<f64>,
    peak_memory_bytes: Option<u64>,
    detail: String,
}

/// The whole program of a peer.
#[must_use]
pub fn run<P: Peer>() -> ExitCode {
    match time::<P>(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn time<P: Peer>(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { model, phase, batch, warmup, steps, json, .. } = *arguments;
    let threads = set_threads(arguments.threads)?;
    let batches: Vec<Batch> = (0..BATCHES as u64).map(|seed| Batch::random(batch as usize, seed)).collect();
    let mut peer = P::new(model, phase, &batches)?;
    let (found, published) = (peer.parameters(), model.parameters());
    ensure!(found == published, "the network has {found} parameters where the published one has {published}");
    let (mut seconds, mut losses) = (Vec::new(), Vec::new());
    for step in 0..warmup + steps {
        let start = Instant::now();
        let outcome = peer.step(step as usize % BATCHES)?;
        let elapsed = start.elapsed().as_secs_f64();
        if !outcome.loss.is_finite() || outcome.correct > u64::from(batch) {
            bail!("step {step} gave a loss of {} and {} correct of {batch}", outcome.loss, outcome.correct);
        }
        if step >= warmup {
            seconds.push(elapsed);
            losses.push(outcome.loss);
        }
    }
    let row = Row {
        contender: P::CONTENDER,
        version: P::version(),
        model,
        phase,
        batch,
        threads,
        warmup,
        seconds,
        peak_memory_bytes: peak_memory(),
        detail: P::detail(),
    };
    if json {
        println!("{}", serde_json::to_string(&row)?);
    } else {
        println!("{} {}: {}", row.contender, row.version.as_deref().unwrap_or("-"), row.detail);
        for (step, (seconds, loss)) in row.seconds.iter().zip(losses).enumerate() {
            let rate = f64::from(batch) / seconds;
            println!("step {:>3} {:>10.1} ms {rate:>8.0} images/s   loss {loss:.4}", step + 1, 1e3 * seconds);
        }
    }
    Ok(())
}

/// Tells rayon, and what asks the same variables, how many threads to use.
fn set_threads(asked: Option<u32>) -> anyhow::Result<u32> {
    let threads = match asked {
        Some(threads) => threads,
        None => {
            std::thread::available_parallelism().context("the number of processors is unknown")?.get() as u32
        }
    };
    // SAFETY: this is the program's first act; no other thread exists that could read the environment.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", threads.to_string()) };
    Ok(threads)
}

/// The largest resident set of this process so far, in bytes, where the system tells (Linux).
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// The version of a package in the text of a `Cargo.lock`.
#[must_use]
pub fn locked_version(lock: &str, package: &str) -> Option<String> {
    let mut lines = lock.lines().skip_while(|line| *line != format!("name = \"{package}\""));
    let version = lines.nth(1)?.strip_prefix("version = ")?;
    Some(version.trim_matches('"').to_owned())
}
