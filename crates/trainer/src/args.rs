//! The command line, as it is typed. What it means is decided in the commands' own modules.

use crate::model::{Model, parse_model};
use crate::values::{data_kind, device, parse_study, seeds, table};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use pointwise_data::TestSplit;
use pointwise_engine::{DeviceChoice, EngineKind, Precision};
use pointwise_onnx::OPSETS;
use pointwise_process::List;
use pointwise_recipe::{
    Augment, DataKind, EarlyStopping, Ema, Lookahead, Normalise, Optimizer, ParameterGroup, Recipe, Schedule,
    TestTimeAugmentation, Warmup,
};
use pointwise_runs::RunConfig;
use pointwise_study::{Shard, Study, TRAIN_SEVERAL};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

/// Train, evaluate and summarise small convolutional networks, among them those of a CIFAR-10 study of pointwise convolutions.
#[derive(Debug, Parser)]
#[command(name = "trainer", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Log to stderr what is done and decided; -vv also logs each checkpoint, -vvv each step [default: RUST_LOG].
    #[arg(long, short, action = ArgAction::Count, global = true)]
    pub(crate) verbose: u8,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 to 5 verdicts on a study (see `reproduce --help`), 6 another process is at work on \
     the run, 130 interrupted (train --resume continues).";

const REPRODUCE_EXIT_CODES: &str = "\
Exit codes: 0 reproduced (with --quick: parameter counts and ratios are as published), 1 failed, 2 wrong usage, 3 different from \
what was published, 4 not comparable with it, 5 undecided (one or two seeds, or runs that could not have detected a difference that \
matters), 6 another process is at work on a run (which it will finish), 130 interrupted. The same command continues where an \
interruption or a failure stopped; finished runs are not repeated. A study without published figures has no verdict: 0, 1, 2, 6 or \
130; nor has a shard, where 0 means that its runs are finished, or a submission, where 0 means that Slurm accepted it.";

// The bounds are those of a run's configuration, in the type that clap wants.
const MAX_SEED: u64 = RunConfig::MAX_SEED;
const MAX_EPOCHS: i64 = Recipe::MAX_EPOCHS as i64;
const MAX_BATCH_SIZE: i64 = Recipe::MAX_BATCH_SIZE as i64;
const MAX_THREADS: i64 = RunConfig::MAX_THREADS as i64;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a network; every default is the study's, which `recipe` prints.
    Train(Box<TrainArgs>),
    /// Train the runs listed on stdin, each on a thread: how `reproduce` trains on a GPU.
    #[command(name = TRAIN_SEVERAL, hide = true)]
    TrainSeveral,
    /// Evaluate a checkpoint, or a PyTorch state_dict.
    Eval(EvalArgs),
    /// Make a checkpoint from the weights of another program, such as PyTorch.
    Import(ImportArgs),
    /// Classify images of any size: png, jpg or webp.
    Predict(PredictArgs),
    /// Write weights for other programs: PyTorch, ONNX runtimes, the Hugging Face Hub.
    Export(ExportArgs),
    /// List the runs in a folder with their state.
    Runs(RunsArgs),
    /// Show how runs differ: configuration, results, curves.
    Compare(CompareArgs),
    /// Write an HTML page about runs: results, curves, costs, mistakes.
    Report(ReportArgs),
    /// Reproduce a study: train its networks with its seeds, and compare them with what was published.
    Reproduce(Box<ReproduceArgs>),
    /// List studies, show one, show the progress of its runs, and judge them.
    Study(StudyArgs),
    /// Follow a run of another process until it ends.
    Watch(WatchArgs),
    /// Show the layers of the networks with shapes, parameters and multiply-accumulates.
    Summary(SummaryArgs),
    /// Show how `train` trains: the study's recipe, or the recipe as a file changes it.
    Recipe(RecipeArgs),
    /// Time whole training steps or evaluation batches on random images in memory.
    Bench(BenchArgs),
    /// Fetch, check and describe the data.
    Data(DataArgs),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write manual pages, one for each command, into a folder.
    Manual {
        /// The folder, created if necessary.
        folder: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TrainArgs {
    /// Take options from this TOML file, such as a recipe or a run's config.toml: a key for each option; the command line wins.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// The network: one that `summary` lists, or a TOML file that describes one [required, except with --resume].
    #[arg(long, value_name = "NAME|FILE", value_parser = parse_model)]
    pub(crate) model: Option<Model>,
    /// Folder for the run [default: runs/MODEL-seedSEED].
    #[arg(long, value_name = "DIR")]
    pub(crate) run_dir: Option<PathBuf>,
    /// Continue the run in the run folder, or start one if there is none.
    #[arg(long)]
    pub(crate) resume: bool,
    /// Passes over the training images [default: the study's].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=MAX_EPOCHS))]
    pub(crate) epochs: Option<u32>,
    /// Share of the last epoch's batches to train on [default: the study's].
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, value_parser = positive)]
    pub(crate) last_epoch: Option<f64>,
    /// Images in a batch [default: the study's].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=MAX_BATCH_SIZE))]
    pub(crate) batch_size: Option<u32>,
    /// Whether an epoch drops its last batch if that is smaller [default: the study's].
    #[arg(long, value_name = "true|false")]
    pub(crate) drop_last: Option<bool>,
    /// Optimizer: Adam, AdamW or SGD, or a table such as '{ SGD = { lr = 0.1, momentum = 0.9 } }' [default: the study's].
    #[arg(long, value_name = "NAME|TABLE", value_parser = table::<Optimizer>)]
    pub(crate) optimizer: Option<Optimizer>,
    /// Learning rate, in place of the optimizer's own.
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = positive)]
    pub(crate) lr: Option<f64>,
    /// Weight decay, in place of the optimizer's own.
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true, value_parser = not_negative)]
    pub(crate) weight_decay: Option<f64>,
    /// Learning rate from step to step: constant, MultiStepLR, CosineAnnealingLR, OneCycleLR or PiecewiseLinear, or a table such as
    /// '{ MultiStepLR = { milestones = [60, 80] } }' [default: the study's].
    #[arg(long, value_name = "NAME|TABLE", value_parser = table::<Schedule>)]
    pub(crate) schedule: Option<Schedule>,
    /// Warmup before the schedule: a table such as '{ epochs = 5, start_factor = 0.01 }' or '{ steps = 500 }'.
    #[arg(long, value_name = "TABLE", value_parser = table::<Warmup>)]
    pub(crate) warmup: Option<Warmup>,
    /// Parameters with a learning rate or weight decay of their own: '[{ max_dims = 1, weight_decay = 0 }]' for biases and norms.
    #[arg(long, value_name = "ARRAY", value_parser = table::<ParameterGroups>)]
    pub(crate) parameter_groups: Option<ParameterGroups>,
    /// Label smoothing: the share of a label that is spread evenly over all classes [default: the study's].
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, value_parser = probability)]
    pub(crate) label_smoothing: Option<f64>,
    /// Clip gradients to this norm, that of all gradients together [default: the study's].
    #[arg(long, value_name = "NORM", allow_negative_numbers = true, value_parser = positive)]
    pub(crate) clip_norm: Option<f64>,
    /// Keep a moving average of the weights, evaluate it and save it: '{ decay = 0.999 }' [default: the study's].
    #[arg(long, value_name = "TABLE", value_parser = table::<Ema>)]
    pub(crate) ema: Option<Ema>,
    /// Every few steps, return to an average of the weights: '{ every = 5, decay = 0.5 }' [default: the study's].
    #[arg(long, value_name = "TABLE", value_parser = table::<Lookahead>)]
    pub(crate) lookahead: Option<Lookahead>,
    /// With --val-split, stop after a number of epochs without a better one: '{ patience = 5 }' [default: the study's].
    #[arg(long, value_name = "TABLE", value_parser = table::<EarlyStopping>)]
    pub(crate) early_stopping: Option<EarlyStopping>,
    /// Probability of every dropout layer, for networks with dropout [default: what their description says].
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = probability)]
    pub(crate) dropout: Option<f64>,
    /// Seed of initial values, order, augmentation, dropout and validation split [default: the study's first].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(..=MAX_SEED))]
    pub(crate) seed: Option<u64>,
    /// Hold out N training images, choose the best epoch by them, and leave the test set for the end [default: the study's].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) val_split: Option<u32>,
    /// Augmentation of the training images: crop-flip, none, or a table such as '{ crop = 4, padding_mode = "reflect", flip =
    /// "alternating", cutout = 8 }' [default: the study's].
    #[arg(long, value_name = "NAME|TABLE", value_parser = table::<Augment>)]
    pub(crate) augment: Option<Augment>,
    /// Whether every epoch has its own order of the images [default: the study's].
    #[arg(long, value_name = "true|false")]
    pub(crate) shuffle: Option<bool>,
    /// Mean and standard deviation to normalise pixels by: dataset (the usual ones of the data set), measured, or a table such as
    /// '{ mean = [0.5], std = [0.5] }' [default: the study's].
    #[arg(long, value_name = "NAME|TABLE", value_parser = table::<Normalise>)]
    pub(crate) normalise: Option<Normalise>,
    /// Test the final weights on several views of each image as well: '{ flip = true, translate = 1 }' [default: the study's].
    #[arg(long, value_name = "TABLE", value_parser = table::<TestTimeAugmentation>)]
    pub(crate) test_time_augmentation: Option<TestTimeAugmentation>,
    /// Start from these weights: a checkpoint, a run folder's best one, or a PyTorch state_dict.
    #[arg(long, value_name = "FILE")]
    pub(crate) init: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) data: DataSource,
    /// Train on the first N images only.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = count)]
    pub(crate) limit_train: Option<NonZeroU32>,
    /// Test on the first N images only.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = count)]
    pub(crate) limit_test: Option<NonZeroU32>,
    /// Stop after N steps of the run, with a checkpoint; --resume continues.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = steps)]
    pub(crate) max_steps: Option<NonZeroU64>,
    /// Record the loss of every Nth step [default: 10].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = count)]
    pub(crate) log_every: Option<NonZeroU32>,
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
    /// Images in a batch [default: the study's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_BATCH_SIZE))]
    pub(crate) batch_size: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) compute: Compute,
}

/// The checkpoint names its network, so that `eval`, `predict` and `train --init` need nothing else. Nothing in the file is executed.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Weights from elsewhere: a PyTorch state_dict as torch.save writes it (.pt, .pth), alone or in a checkpoint, or as safetensors.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The network: one that `summary` lists, or a TOML file that describes one.
    #[arg(long, visible_alias = "model", value_name = "NAME|FILE", value_parser = parse_model)]
    pub(crate) network: Model,
    /// The checkpoint to write.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
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
    /// The images; each is resized to 32 x 32 pixels, and transparency is ignored.
    #[arg(value_name = "IMAGE", required = true)]
    pub(crate) images: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) compute: Compute,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The weights file, or a run folder, for the weights of its best epoch.
    #[arg(value_name = "CHECKPOINT")]
    pub(crate) checkpoint: PathBuf,
    /// What to write.
    #[arg(long, value_enum)]
    pub(crate) format: Format,
    /// The file, or with --format hub the folder, which must not exist yet.
    #[arg(long, value_name = "PATH")]
    pub(crate) out: PathBuf,
    /// The network, when the weights file does not say: one that `summary` lists, or a TOML file that describes one.
    #[arg(long, value_name = "NAME|FILE", value_parser = parse_model)]
    pub(crate) model: Option<Model>,
    /// onnx: fold BatchNorm into the convolution before it.
    #[arg(long)]
    pub(crate) fold: bool,
    /// onnx: take images as files have them, u8 of shape (batch, rows, columns, channels), and normalise them in the model.
    #[arg(long)]
    pub(crate) preprocess: bool,
    /// onnx: output probabilities.
    #[arg(long)]
    pub(crate) softmax: bool,
    /// onnx: version of the operator set, 20 to 28; older runtimes need an older one [default: 28].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(*OPSETS.start() as i64..=*OPSETS.end() as i64))]
    pub(crate) opset: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A file for torch.load, whose content load_state_dict takes.
    Pytorch,
    /// The same as safetensors, without what only training needs.
    Safetensors,
    /// A model for ONNX Runtime, OpenVINO and others.
    Onnx,
    /// A folder for the Hugging Face Hub, from a finished run: weights, configuration, network and model card.
    Hub,
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

#[derive(Debug, Args)]
#[command(after_help = REPRODUCE_EXIT_CODES)]
pub(crate) struct ReproduceArgs {
    /// The study: one that `study list` names, or a TOML file that describes one [default: pointwise].
    #[arg(value_name = "NAME|FILE", value_parser = parse_study)]
    pub(crate) study: Option<Study>,
    /// A small study on synthetic images, without a download: shows that everything works, and checks counts and ratios.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Seeds, separated by commas; three or more measure the spread [default: the study's; with --quick: the first one].
    #[arg(long, value_name = "LIST", value_parser = seeds)]
    pub(crate) seeds: Option<List<u64>>,
    /// Networks, separated by commas; a verdict needs all [default: the study's].
    #[arg(long, value_name = "LIST")]
    pub(crate) models: Option<List<String>>,
    /// Passes over the training images; a number other than the study's is not comparable [default: the study's; with --quick: 5].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_EPOCHS))]
    pub(crate) epochs: Option<u32>,
    /// Folder with the images [default: the study's, or the one that a download fills].
    #[arg(long, value_name = "DIR", conflicts_with = "quick")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Folder for runs and report [default: study; for another study: study-NAME; --quick appends -quick].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Engine: reference, cpu or cuda [default: the fastest on the device].
    #[arg(long, value_name = "ENGINE")]
    pub(crate) engine: Option<EngineKind>,
    /// Device: auto, cpu, cuda or cuda:N [default: auto].
    #[arg(long, value_name = "DEVICE", value_parser = device)]
    pub(crate) device: Option<String>,
    /// Number format of convolutions and linear layers: f32, or on the engine cuda tf32 or bf16 [default: f32].
    #[arg(long, value_name = "PRECISION")]
    pub(crate) precision: Option<Precision>,
    /// Give the same bits every time on the same kind of GPU, even where that costs speed; on the CPU it costs nothing.
    #[arg(long)]
    pub(crate) deterministic: bool,
    /// Computing threads, for all runs together [default: RAYON_NUM_THREADS, or the number of processors].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_THREADS))]
    pub(crate) threads: Option<u32>,
    /// Runs at once, which share the computing threads; on a GPU they share one process, as one run does not fill the GPU. Figures do
    /// not depend on this number [default: 3 on a GPU, 1 on the CPU].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) jobs: Option<u32>,
    /// Show no progress; the result and errors are printed nevertheless.
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Train a part of the runs and judge nothing, for a scheduler that starts N tasks: every Nth run from run I on, counted from 0.
    /// With /N, I is taken from Slurm's SLURM_ARRAY_TASK_ID or Kubernetes' JOB_COMPLETION_INDEX.
    #[arg(long, value_name = "I/N", conflicts_with = "slurm")]
    pub(crate) shard: Option<Shard>,
    #[command(flatten)]
    pub(crate) slurm: SlurmArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Slurm")]
pub(crate) struct SlurmArgs {
    /// Submit the unfinished runs as one job array, instead of training them here: one task for each run. All nodes must share the
    /// folder of --out.
    #[arg(long)]
    pub(crate) slurm: bool,
    /// Print the job script and the command that submits it, and do nothing else.
    #[arg(long, requires = "slurm")]
    pub(crate) dry_run: bool,
    /// Tasks at once.
    #[arg(long, value_name = "N", requires = "slurm", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) throttle: u32,
    /// Tasks to divide the runs among [default: one for each run, up to the largest array that Slurm allows].
    #[arg(long, value_name = "N", requires = "slurm", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) tasks: Option<u32>,
    /// Where to run: this option and the next ones are those of sbatch.
    #[arg(long, value_name = "NAME", requires = "slurm")]
    pub(crate) partition: Option<String>,
    /// Whom to charge.
    #[arg(long, value_name = "NAME", requires = "slurm")]
    pub(crate) account: Option<String>,
    /// Quality of service.
    #[arg(long, value_name = "NAME", requires = "slurm")]
    pub(crate) qos: Option<String>,
    /// Time limit of a task, such as 4:00:00; a run need not fit into it.
    #[arg(long, value_name = "TIME", requires = "slurm")]
    pub(crate) time: Option<String>,
    /// Processors of a task, and so its threads, unless --threads or RAYON_NUM_THREADS says otherwise.
    #[arg(long, value_name = "N", requires = "slurm")]
    pub(crate) cpus_per_task: Option<String>,
    /// Generic resources of a task, such as gpu:1.
    #[arg(long, value_name = "LIST", requires = "slurm")]
    pub(crate) gres: Option<String>,
    /// Memory of a task, such as 2G.
    #[arg(long, value_name = "SIZE", requires = "slurm")]
    pub(crate) mem: Option<String>,
    /// Features of a node.
    #[arg(long, value_name = "LIST", requires = "slurm")]
    pub(crate) constraint: Option<String>,
    /// Any other option of sbatch, such as --sbatch=--exclude=node7; may be repeated.
    #[arg(long, value_name = "OPTION", requires = "slurm", allow_hyphen_values = true)]
    pub(crate) sbatch: Vec<String>,
    /// A line of the job script before the trainer starts, such as 'module load cuda'; may be repeated.
    #[arg(long, value_name = "LINE", requires = "slurm", allow_hyphen_values = true)]
    pub(crate) preamble: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StudyArgs {
    #[command(subcommand)]
    pub(crate) command: StudyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StudyCommand {
    /// List the studies that come with the program.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the file of a study, as a start for your own.
    Show {
        /// The study: one that `study list` names, or a TOML file that describes one [default: pointwise].
        #[arg(value_name = "NAME|FILE")]
        study: Option<String>,
        /// Print the networks, seeds and runs instead.
        #[arg(long)]
        plan: bool,
        /// Print the JSON Schema of a study's file, for editors.
        #[arg(long, exclusive = true)]
        schema: bool,
    },
    /// Show the state of a study's runs: waiting, or as `runs` lists them.
    Status {
        /// The study, or its folder [default: pointwise].
        #[arg(value_name = "NAME|FILE|DIR")]
        study: Option<String>,
        /// The folder of its runs [default: as for `reproduce`].
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Judge the finished runs of a study as they are, and write study.json, report.md and report.html; exit codes as for `reproduce`.
    #[command(after_help = REPRODUCE_EXIT_CODES)]
    Report {
        /// The study, or its folder [default: pointwise].
        #[arg(value_name = "NAME|FILE|DIR")]
        study: Option<String>,
        /// The folder of its runs [default: as for `reproduce`].
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// The runs belong to one study: the same images and configuration, different networks and seeds.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Run folders.
    #[arg(value_name = "RUN_DIR", required = true, num_args = 1..)]
    pub(crate) runs: Vec<PathBuf>,
    /// The page.
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub(crate) out: PathBuf,
    /// The study of the runs: one that `study list` names, or a TOML file that describes one [default: the study.toml next to the
    /// runs' folder, or a study that comes with the program and has all their networks, or none].
    #[arg(long, value_name = "NAME|FILE", value_parser = parse_study)]
    pub(crate) study: Option<Study>,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// The run folder.
    #[arg(value_name = "RUN_DIR")]
    pub(crate) run: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct SummaryArgs {
    /// The layers of one network: one in the list, or a TOML file that describes one.
    #[arg(long, value_name = "NAME|FILE", value_parser = parse_model)]
    pub(crate) model: Option<Model>,
    /// Print the network as a TOML file, as a start for your own.
    #[arg(long, requires = "model", conflicts_with = "json")]
    pub(crate) toml: bool,
    /// Print the network as JSON for programs in other languages: each node with its arguments, inputs and shapes.
    #[arg(long, requires = "model", conflicts_with_all = ["json", "toml"])]
    pub(crate) graph: bool,
    /// List only the networks of a study: one that `study list` names, or a TOML file that describes one.
    #[arg(long, value_name = "NAME|FILE", value_parser = parse_study, conflicts_with = "model")]
    pub(crate) study: Option<Study>,
    /// Print the JSON Schema of a file that describes a network, for editors.
    #[arg(long, exclusive = true)]
    pub(crate) schema: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The output is a TOML file, a start for your own.
#[derive(Debug, Args)]
pub(crate) struct RecipeArgs {
    /// The options of this TOML file, as `train --config` takes them.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print the JSON Schema of a whole recipe, for editors.
    #[arg(long, exclusive = true)]
    pub(crate) schema: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// The network: one that `summary` lists, or a TOML file that describes one.
    #[arg(long, value_name = "NAME|FILE", value_parser = parse_model)]
    pub(crate) model: Model,
    /// What a step is.
    #[arg(long, value_enum, default_value = "train")]
    pub(crate) phase: Phase,
    /// Images in a batch [default: the study's].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=MAX_BATCH_SIZE))]
    pub(crate) batch: Option<u32>,
    /// Steps before the clock starts.
    #[arg(long, value_name = "N", default_value_t = 2, allow_negative_numbers = true)]
    pub(crate) warmup: u32,
    /// Steps to time.
    #[arg(long, value_name = "N", default_value_t = 5, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) steps: u32,
    /// 10^9 operations a second that the device reaches in this precision [default: measured].
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = positive)]
    pub(crate) peak_gflops: Option<f64>,
    /// 10^9 bytes a second that a GPU's memory reads and writes [default: measured].
    #[arg(long, value_name = "RATE", allow_negative_numbers = true, value_parser = positive)]
    pub(crate) bandwidth_gb: Option<f64>,
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
    /// Complete a published data set: download what the folder lacks.
    Fetch {
        /// The data set [default: cifar10].
        #[arg(long, value_parser = data_kind())]
        data: Option<DataKind>,
        /// Folder for it [default: for CIFAR-10 the variable CIFAR10_DIR, or a folder in the user's cache].
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Read every file and check its contents.
    Verify(DataSource),
    /// Count the classes, and measure mean and standard deviation of the channels.
    Stats {
        #[command(flatten)]
        source: DataSource,
        /// Prepare a folder's images, or synthetic ones, for this network: one that `summary` lists, or a TOML file that describes one
        /// [default: 3x32x32, and ten synthetic classes].
        #[arg(long, value_name = "NAME|FILE", value_parser = parse_model)]
        model: Option<Model>,
    },
}

/// Where images come from.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataSource {
    /// The data set [default: cifar10].
    #[arg(long, value_parser = data_kind())]
    pub(crate) data: Option<DataKind>,
    /// Folder with the data set, as its authors publish it, or for `--data folder` train/ and test/ with a folder of images for each class
    /// [default: for CIFAR-10 the variable CIFAR10_DIR, or a folder in the user's cache, filled by a download].
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Split this number or share of the images off for testing, from a folder that has no test images.
    #[arg(long, value_name = "N|SHARE")]
    pub(crate) test_split: Option<TestSplit>,
    /// Seed of the synthetic images, and of --test-split [default: 42].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(..=MAX_SEED))]
    pub(crate) data_seed: Option<u64>,
}

/// What computes, and how.
#[derive(Debug, Args)]
pub(crate) struct Compute {
    /// Engine: reference, cpu or cuda [default: the fastest on the device].
    #[arg(long, value_name = "ENGINE")]
    pub(crate) engine: Option<EngineKind>,
    /// Device: auto, cpu, cuda or cuda:N [default: auto].
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<DeviceChoice>,
    /// Number format of convolutions and linear layers: f32, or on the engine cuda tf32 or bf16 [default: f32].
    #[arg(long, value_name = "PRECISION")]
    pub(crate) precision: Option<Precision>,
    /// Give the same bits every time on the same kind of GPU, even where that costs speed; on the CPU it costs nothing.
    #[arg(long)]
    pub(crate) deterministic: bool,
    /// Computing threads [default: RAYON_NUM_THREADS, or the number of processors].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..=MAX_THREADS))]
    pub(crate) threads: Option<u32>,
}

/// An array of tables, in a file and on a command line.
pub(crate) type ParameterGroups = Vec<ParameterGroup>;

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
    /// Logits of images in memory, as `predict` computes them, without an engine.
    Infer,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Eval => "eval",
            Self::Infer => "infer",
        }
    }
}

fn count(text: &str) -> Result<NonZeroU32, String> {
    text.parse().map_err(|_| format!("give a whole number from 1 to {}", u32::MAX))
}

fn steps(text: &str) -> Result<NonZeroU64, String> {
    let steps = text.parse().ok().filter(|steps: &NonZeroU64| steps.get() <= MAX_SEED);
    steps.ok_or_else(|| format!("give a whole number from 1 to {MAX_SEED}"))
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
    fn numbers_out_of_range_are_refused() {
        let bad: [&[&str]; 20] = [
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
            &["--data", "cats"],
            &["--optimizer", "Lion"],
            &["--optimizer", "{ SGD = { rate = 1 } }"],
            &["--schedule", "{ MultiStepLR = {} }"],
            &["--augment", "flip"],
            &["--normalise", "{ mean = 1 }"],
            &["--ema", "0.9"],
            &["--parameter-groups", "{}"],
            &["--label-smoothing", "1"],
            &["--test-split", "1.5"],
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

    #[test]
    fn a_study_takes_what_its_runs_take() {
        let code = |command: &str, option: &str, value: &str| {
            let line = match command {
                "train" => vec!["trainer", "train", "--model", "nin", option, value],
                _ => vec!["trainer", command, option, value],
            };
            Cli::try_parse_from(line).map_or_else(|error| error.exit_code(), |_| 0)
        };
        let engines = EngineKind::ALL.map(|engine| ("--engine", engine.name()));
        let precisions = Precision::ALL.map(|precision| ("--precision", precision.name()));
        let others = [
            ("--seed", "9223372036854775807"),
            ("--seed", "9223372036854775808"),
            ("--epochs", "1000000"),
            ("--epochs", "1000001"),
            ("--epochs", "0"),
            ("--threads", "1024"),
            ("--threads", "1025"),
            ("--threads", "0"),
            ("--engine", "torch"),
            ("--precision", "f16"),
            ("--device", "cuda:0"),
            ("--device", "cuda:x"),
            ("--device", "auto"),
            ("--device", "gpu"),
        ];
        for (option, value) in engines.into_iter().chain(precisions).chain(others) {
            let of_study = if option == "--seed" { "--seeds" } else { option };
            assert_eq!(code("reproduce", of_study, value), code("train", option, value), "{option} {value}");
        }
        assert_eq!([code("train", "--epochs", "0"), code("train", "--device", "auto")], [2, 0]);
        for (option, value) in [
            ("--seeds", ""),
            ("--seeds", "1.5"),
            ("--seeds", "42,42"),
            ("--models", "nin,nin"),
            ("--jobs", "0"),
            ("--colour", "red"),
            ("--quick", "--data-dir=x"),
        ] {
            assert_eq!(code("reproduce", option, value), 2, "{option} {value}");
        }
    }
}
