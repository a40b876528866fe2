//! What the Rust peers of `cargo xtask bench` share, so that they differ in nothing but the library under test: the options, the
//! networks as `trainer summary --graph` prints them ([`Graph`]), the images, the timing and the line of JSON.
//!
//! A peer is a program that implements [`Peer`] and calls [`run`]. It gets its batches before the clock starts, and may keep them in any form.
//! The time is that of a whole step: in training forward, loss, gradients and optimizer, in evaluation forward and loss; in both the loss and the
//! number of correct predictions are read back, because the study's training loop shows them.
//!
//! A library that lacks an operation of the network is not a failure: the peer returns [`Lacks`], and ends with exit code 3 and that sentence.

mod graph;

pub use graph::{Approximation, Graph, Node, Operation};

use anyhow::{Context, bail, ensure};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// The exit code of a peer whose library lacks an operation of the network.
const LACKS: u8 = 3;

/// Batches used in turn, so that no step sees the images of the one before.
const BATCHES: usize = 4;

/// Times whole steps of one network on random images.
#[derive(Debug, Parser)]
#[command(max_term_width = 100)]
struct Arguments {
    /// The network, as `trainer summary --graph` prints it.
    #[arg(long, value_name = "FILE")]
    graph: PathBuf,
    /// What a step is.
    #[arg(long, value_enum, default_value = "train")]
    phase: Phase,
    /// Images in a batch.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
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
    #[command(flatten)]
    adam: Adam,
    /// Print one line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Adam with the usual betas and epsilon.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Adam {
    /// The optimizer's learning rate.
    #[arg(long, value_name = "RATE")]
    pub lr: f64,
    /// The optimizer's weight decay, added to the gradient if the library can.
    #[arg(long, value_name = "FACTOR")]
    pub weight_decay: f64,
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

/// Images and labels in host memory.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `(N, channels, rows, columns)`, uniform in `[-1.7, 1.7)`: mean and deviation of normalised images.
    pub images: Vec<f32>,
    /// `N` classes.
    pub labels: Vec<u8>,
}

impl Batch {
    /// The same images for the same arguments.
    fn random(graph: &Graph, size: usize, seed: u64) -> Self {
        let mut state = seed;
        let mut word = || {
            // SplitMix64 (Steele, Lea and Flood 2014).
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        let values = size * graph.input.iter().product::<usize>();
        let images = (0..values).map(|_| ((word() >> 40) as f32 / (1 << 24) as f32 - 0.5) * 3.4).collect();
        // A label is a byte.
        let classes = graph.classes.min(256) as u64;
        let labels = (0..size).map(|_| (word() % classes) as u8).collect();
        Self { images, labels }
    }
}

/// The result of a step.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Mean loss of the batch, in nats.
    pub loss: f64,
    /// Images whose largest logit is the label's.
    pub correct: u64,
}

/// What a library lacks to express a network, in a sentence that names the layer.
#[derive(Debug)]
pub struct Lacks(String);

impl Lacks {
    /// Lacking that, for this node.
    #[must_use]
    pub fn new(what: &str, node: &Node) -> Self {
        Self(format!("{what}, which `{}` needs", node.path))
    }
}

impl fmt::Display for Lacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Lacks {}

/// A library under test.
pub trait Peer: Sized {
    /// Its name in records.
    const CONTENDER: &'static str;

    /// The library's version.
    fn version() -> Option<String>;

    /// What else a reader needs to judge the figures.
    fn detail() -> String;

    /// Makes the network with its initial values, and takes ownership of the batches.
    ///
    /// # Errors
    /// [`Lacks`], and when the library fails.
    fn new(graph: &Graph, phase: Phase, adam: Adam, batches: &[Batch]) -> anyhow::Result<Self>;

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
    model: String,
    parameters: usize,
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
            if error.is::<Lacks>() { ExitCode::from(LACKS) } else { ExitCode::FAILURE }
        }
    }
}

fn time<P: Peer>(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { phase, batch, warmup, steps, adam, json, .. } = *arguments;
    let threads = set_threads(arguments.threads)?;
    let graph = Graph::read(&arguments.graph)?;
    let batches = (0..BATCHES as u64).map(|seed| Batch::random(&graph, batch as usize, seed));
    let batches: Vec<Batch> = batches.collect();
    let mut peer = P::new(&graph, phase, adam, &batches)?;
    let (parameters, described) = (peer.parameters(), graph.parameters);
    ensure!(
        parameters == described,
        "the network has {parameters} parameters where its description has {described}"
    );
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
        model: graph.name,
        parameters,
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

/// Tells rayon, and libraries that read the same variables, how many threads to use.
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

/// The largest resident set of this process so far, in bytes, if the system reports it (Linux).
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
