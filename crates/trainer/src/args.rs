//! The command line, as it is typed. What it means is decided in the commands' own modules.

use crate::model::{Family, Model, parse_model};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use pointwise_engine::{DeviceChoice, EngineKind, Precision};
use pointwise_runs::RunConfig;
use std::path::PathBuf;

/// Train, evaluate and summarise the networks of a CIFAR-10 study of pointwise convolutions.
#[derive(Debug, Parser)]
#[command(name = "trainer", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Tell on stderr what is done and decided; -vv also of each checkpoint, -vvv of each step [default: RUST_LOG].
    #[arg(long, short, action = ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (train --resume continues).";

// The bounds are those of a run's configuration, in the type that clap wants.
const MAX_SEED: u64 = RunConfig::MAX_SEED;
const MAX_EPOCHS: i64 = RunConfig::MAX_EPOCHS as i64;
const MAX_BATCH_SIZE: i64 = RunConfig::MAX_BATCH_SIZE as i64;
const MAX_THREADS: i64 = RunConfig::MAX_THREADS as i64;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a network; every default is the study's.
    Train(Box<TrainArgs>),
    /// Evaluate a checkpoint, or a PyTorch state_dict saved as safetensors.
    Eval(EvalArgs),
    /// Name what is on images of any size: png, jpg or webp.
    Predict(PredictArgs),
    /// List the runs in a folder with their state.
    Runs(RunsArgs),
    /// Show how runs differ: configuration, results, curves.
    Compare(CompareArgs),
    /// Write a page about runs that a browser shows: results, curves, costs, mistakes.
    Report(ReportArgs),
    /// Follow a run of another process until it ends.
    Watch(WatchArgs),
    /// Show the layers of the networks with shapes, parameters and multiply-accumulates.
    Summary(SummaryArgs),
    /// Time whole training steps or evaluation batches on random images in memory.
    Bench(BenchArgs),
    /// Fetch, check and describe the data.
    Data(DataArgs),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// Take options from this TOML file, such as a run's config.toml: a key for each option; what is typed wins.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The network: one that `summary` lists, or a TOML file that describes one [required, but with --resume].
    #[arg(long, value_name = "NAME|FILE", value_parser = parse_model)]
    pub(crate) model: Option<Model>,
    /// Folder for the run [default: runs/MODEL-seedSEED].
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Go on with the run in the run folder, or start it when there is none.
    #[arg(long)]
    pub(crate) resume: bool,
    /// Passes over the training images [default: 10].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=MAX_EPOCHS))]
    pub(crate) epochs: Option<u32>,
    /// Images in a batch [default: 126].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=MAX_BATCH_SIZE))]
    pub(crate) batch_size: Option<u32>,
    /// Learning rate of Adam [default: 0.001].
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = positive)]
    pub(crate) lr: Option<f64>,
    /// Factor of the L2 penalty, coupled [default: 0.0005].
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true, value_parser = not_negative)]
    pub(crate) weight_decay: Option<f64>,
    /// Probability of every dropout, for networks that have dropout [default: what their description says].
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = probability)]
    pub(crate) dropout: Option<f64>,
    /// Seed of initial values, order, augmentation, dropout and validation split [default: 42].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(..=MAX_SEED))]
    pub(crate) seed: Option<u64>,
    /// Hold N training images out, choose the best epoch by them, and leave the test set for the end [default: 0].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) val_split: Option<u32>,
    /// Augmentation of the training images [default: crop-flip].
    #[arg(long, value_enum)]
    pub(crate) augment: Option<Augment>,
    /// Whether every epoch has an order of its own [default: true].
    #[arg(long, value_name = "true|false")]
    pub(crate) shuffle: Option<bool>,
    /// Start from these weights: a checkpoint, a run folder's best one, or a PyTorch state_dict saved as safetensors.
    #[arg(long, value_name = "FILE")]
    pub(crate) init: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) data: DataSource,
    /// Train on the first N images only.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit_train: Option<u32>,
    /// Test on the first N images only.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit_test: Option<u32>,
    /// Stop after N steps of the run, with a checkpoint; --resume continues.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(1..=MAX_SEED))]
    pub(crate) max_steps: Option<u64>,
    /// Record the loss of every Nth step [default: 10].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) log_every: Option<u32>,
    /// Save a checkpoint at least every N seconds, and after every epoch.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) checkpoint_every: u64,
    /// Write event files for TensorBoard into the run's folder `tensorboard`.
    #[arg(long)]
    pub(crate) tensorboard: bool,
    /// Show no progress; results and errors are printed nevertheless.
    #[arg(long, short)]
    pub(crate) quiet: bool,
    #[command(flatten)]
    pub(crate) compute: Compute,
}

#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    /// The weights file, or a run folder, for the weights of its best epoch.
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: PathBuf,
    /// The network, when the weights file does not say: one that `summary` lists, or a TOML file that describes one.
    #[arg(long, value_name = "NAME|FILE", value_parser = parse_model)]
    pub(crate) model: Option<Model>,
    /// Which images.
    #[arg(long, value_enum, default_value = "test")]
    pub(crate) split: Split,
    #[command(flatten)]
    pub(crate) data: DataSource,
    /// The first N images only.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// Images in a batch.
    #[arg(long, value_name = "N", default_value_t = 126, value_parser = clap::value_parser!(u32).range(1..=MAX_BATCH_SIZE))]
    pub(crate) batch_size: u32,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) compute: Compute,
}

/// Images that cannot be read are named on stderr; the others are predicted nevertheless, and the exit code is 1.
#[derive(Debug, Args)]
pub(crate) struct PredictArgs {
    /// The weights file, or a run folder, for the weights of its best epoch.
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: PathBuf,
    /// The network, when the weights file does not say: one that `summary` lists, or a TOML file that describes one.
    #[arg(long, value_name = "NAME|FILE", value_parser = parse_model)]
    pub(crate) model: Option<Model>,
    /// The images; each is resized to 32 x 32 pixels, and transparency is left out.
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) compute: Compute,
}

/// A run is running, finished, limited (stopped at --max-steps), interrupted, failed, stale (killed) or broken; --resume continues all
/// but finished and broken ones.
#[derive(Debug, Args)]
pub(crate) struct RunsArgs {
    /// Folder to look in, up to three levels deep.
    #[arg(value_name = "DIR", default_value = "runs")]
    pub(crate) folder: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Run folders.
    #[arg(value_name = "RUN_DIR", required = true, num_args = 1..)]
    pub(crate) runs: Vec<PathBuf>,
    /// Print the curves as CSV: a line for each run and epoch.
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The runs are of one study: the same images and configuration, other networks and seeds.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Run folders.
    #[arg(value_name = "RUN_DIR", required = true, num_args = 1..)]
    pub(crate) runs: Vec<PathBuf>,
    /// The page.
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The run folder.
    #[arg(value_name = "RUN_DIR")]
    pub(crate) run: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct SummaryArgs {
    /// The layers of one network: one that the list has, or a TOML file that describes one.
    #[arg(long, value_name = "NAME|FILE", value_parser = parse_model)]
    pub(crate) model: Option<Model>,
    /// Print the network as a TOML file, to start one's own from.
    #[arg(long, requires = "model", conflicts_with = "json")]
    pub(crate) toml: bool,
    /// Print the network as JSON for programs in other languages: each node with its arguments, inputs and shapes.
    #[arg(long, requires = "model", conflicts_with_all = ["json", "toml"])]
    pub(crate) graph: bool,
    /// List the networks of a family only.
    #[arg(long, value_enum, conflicts_with = "model")]
    pub(crate) family: Option<Family>,
    /// Print the JSON Schema of a file that describes a network, for editors.
    #[arg(long, exclusive = true)]
    pub(crate) schema: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// The network: one that `summary` lists, or a TOML file that describes one.
    #[arg(long, value_name = "NAME|FILE", value_parser = parse_model)]
    pub(crate) model: Model,
    /// What a step is.
    #[arg(long, value_enum, default_value = "train")]
    pub(crate) phase: Phase,
    /// Images in a batch.
    #[arg(long, value_name = "N", default_value_t = 126, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=MAX_BATCH_SIZE))]
    pub(crate) batch: u32,
    /// Steps before the clock starts.
    #[arg(long, value_name = "N", default_value_t = 2, allow_negative_numbers = true)]
    pub(crate) warmup: u32,
    /// Steps to time.
    #[arg(long, value_name = "N", default_value_t = 5, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) steps: u32,
    /// Print one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) compute: Compute,
}

#[derive(Debug, Args)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    pub(crate) command: DataCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum DataCommand {
    /// Make sure that all of CIFAR-10 is there: download what the folder lacks.
    Fetch {
        /// Where it is to be [default: the variable CIFAR10_DIR, or a folder in the user's cache].
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Read every file and check its records and labels.
    Verify {
        /// Where the data is [default: the variable CIFAR10_DIR, or a folder in the user's cache].
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Count the classes, and measure mean and standard deviation of the channels.
    Stats(DataSource),
}

/// Where images come from.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataSource {
    /// The dataset [default: cifar10].
    #[arg(long, value_enum)]
    pub(crate) data: Option<DataKind>,
    /// Folder with CIFAR-10: binary files, the official archive, or train/ and test/ with a folder of images for each class
    /// [default: the variable CIFAR10_DIR, or a folder in the user's cache, filled by a download].
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Seed of the synthetic images [default: 42].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(..=MAX_SEED))]
    pub(crate) data_seed: Option<u64>,
}

/// What computes.
#[derive(Debug, Args)]
pub(crate) struct Compute {
    /// Engine: reference, cpu or cuda [default: the fastest on the device].
    #[arg(long, value_name = "ENGINE")]
    pub(crate) engine: Option<EngineKind>,
    /// Device: auto, cpu, cuda or cuda:N [default: auto].
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<DeviceChoice>,
    /// Numbers of convolutions and linear layers: f32, or on the engine cuda tf32 or bf16 [default: f32].
    #[arg(long, value_name = "PRECISION")]
    pub(crate) precision: Option<Precision>,
    /// Give the same bits every time on the same kind of GPU, where that costs speed; on the CPU it costs nothing.
    #[arg(long)]
    pub(crate) deterministic: bool,
    /// Computing threads [default: RAYON_NUM_THREADS, or the number of processors].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=MAX_THREADS))]
    pub(crate) threads: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Augment {
    /// Random crop after 4 pixels of black padding, and random horizontal flip.
    CropFlip,
    /// The images as they are.
    None,
}

impl Augment {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CropFlip => "crop-flip",
            Self::None => "none",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DataKind {
    /// CIFAR-10 from a folder, or downloaded once.
    Cifar10,
    /// Ten drawn classes, made on the spot: no download.
    Synthetic,
    /// CIFAR-10 from the Hugging Face Hub (needs a build with the feature `huggingface`).
    Huggingface,
}

impl DataKind {
    pub(crate) const ALL: [Self; 3] = [Self::Cifar10, Self::Synthetic, Self::Huggingface];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar10",
            Self::Synthetic => "synthetic",
            Self::Huggingface => "huggingface",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Split {
    Test,
    Train,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Phase {
    /// Forward in training mode, loss, gradients, optimizer.
    Train,
    /// Forward in evaluation mode, loss.
    Eval,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Eval => "eval",
        }
    }
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, "a number above 0", |value| value > 0.0 && value.is_finite())
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, "a number from 0 up", |value| value >= 0.0 && value.is_finite())
}

fn probability(text: &str) -> Result<f64, String> {
    number(text, "a number from 0 to below 1", |value| (0.0..1.0).contains(&value))
}

fn number(text: &str, what: &str, is_good: impl Fn(f64) -> bool) -> Result<f64, String> {
    text.parse().ok().filter(|value| is_good(*value)).ok_or_else(|| format!("give {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_runs_configuration_knows_the_same_names() {
        assert_eq!(DataKind::ALL.map(DataKind::name), RunConfig::DATA);
        assert_eq!([Augment::CropFlip, Augment::None].map(Augment::name), RunConfig::AUGMENT);
        assert_eq!(EngineKind::ALL.map(EngineKind::name), RunConfig::ENGINES);
        assert_eq!(Precision::ALL.map(Precision::name), RunConfig::PRECISIONS);
        for kind in DataKind::ALL {
            assert_eq!(kind.to_possible_value().unwrap().get_name(), kind.name());
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let bad: [&[&str]; 10] = [
            &["--lr", "NaN"],
            &["--lr", "0"],
            &["--lr", "inf"],
            &["--weight-decay", "-1"],
            &["--dropout", "1"],
            &["--epochs", "0"],
            &["--batch-size", "0"],
            &["--log-every", "0"],
            &["--model", "vgg"],
            &["--engine", "torch"],
        ];
        for options in bad {
            let line = ["trainer", "train"].iter().chain(options);
            let error = Cli::try_parse_from(line).expect_err("must be refused");
            assert_eq!(error.exit_code(), 2, "{options:?}");
        }
        let bad: [&[&str]; 6] = [
            &[],
            &["--model", "nin", "--batch", "0"],
            &["--model", "nin", "--steps", "0"],
            &["--model", "nin", "--warmup", "-1"],
            &["--model", "nin", "--phase", "test"],
            &["--model", "nin", "--threads", "0"],
        ];
        for options in bad {
            let line = ["trainer", "bench"].iter().chain(options);
            let error = Cli::try_parse_from(line).expect_err("must be refused");
            assert_eq!(error.exit_code(), 2, "{options:?}");
        }
    }
}
