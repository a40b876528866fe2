//! `cargo xtask bench`: whole training steps and evaluation batches of our engine, compared with other libraries.
//!
//! All contenders get the same networks, batch and number of threads. Each measurement is a new process; on a GPU PyTorch is one process for all
//! rounds. The networks are those of the trainer, which describes them to the others. A round runs every contender once on each network, phase
//! and precision; rounds differ in the order. Only figures of the same round are compared, minutes apart at most, so that a machine that slows
//! down slows both sides of a ratio.

mod cells;
mod contender;
mod gpu;
mod inference;
mod network;
mod plan;
mod question;
mod record;
mod server;
mod study;
mod summary;
mod table;
#[cfg(test)]
mod testing;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use pointwise_process::{List, Stop, note};
use pointwise_recipe::{Adam, EngineKind, Optimizer};
use pointwise_runs::{RunConfig, operating_system, processor_name, replace_file, timestamp};
use pointwise_study::Study;

use crate::{
    End,
    origin::Origin,
    print,
    trainer::{build, program, workspace_root},
};
use contender::{Answer, Entrant, PEER_FLAGS, Places, build_peers, enter};
use network::{Network, Networks, shown};
use plan::{Plan, StudyPlan, order};
use question::{Contender, Device, Phase, Precision, Question, Rates, contenders, phases, precisions};
use record::{Entered, Entry, FOLDER, Lacking, Record, newest};
pub(crate) use summary::median;
use summary::{bandwidth_gb, peak_gflops};
use table::{file_name, layer_tables, markdown, markers, replace_part};

const AFTER: &str = "\
Contenders on the CPU: pointwise, pytorch, pytorch-channels-last, candle, burn; on a GPU: pointwise, pytorch-graph (images and augmentation \
on the GPU, channels_last, a CUDA graph of the whole step), pytorch-notebook (a DataLoader with four workers), and, if --only \
names it, pytorch-compile (the graph of what torch.compile makes, which takes minutes to start). Contenders that are not installed are \
left out, with a note on how to install them; those named by --only must be installed. A contender whose library lacks an operation of a \
network is left out of that network, with a note that names it. candle takes seconds a step, so it gets one \
warm-up and one timed step a round. Exit codes: 0 done, 1 failed (also if a contender failed on the way; the record has the \
rest), 2 wrong usage.";

/// The options, as typed.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// The device that takes the steps.
    #[arg(long, value_enum, default_value = "cpu")]
    device: Device,
    /// Time inference instead: from images to logits, against onnxruntime, openvino, pytorch and candle, on the CPU. The same command continues
    /// an interrupted record.
    #[arg(long, conflicts_with_all = ["steps", "phases", "precisions", "engine", "studies", "data_dir", "peak_gflops", "bandwidth_gb", "layers"])]
    inference: bool,
    /// Computing threads of every contender [default: 2; for inference 1 and 2].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(RunConfig::MAX_THREADS)))]
    threads: Option<u32>,
    /// How often every contender runs on each network and phase [default: 5; for inference 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Timed steps of a contender in a round, after two that are not timed; on a GPU groups of steps, after ten [default: 4; on a
    /// GPU 20].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    /// Images in a batch [default: the study's; for inference 1, 8 and 126].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: Option<u32>,
    /// Networks, separated by commas: names that `trainer summary` lists, or TOML files [default: the study's; for inference all that come with
    /// the program].
    #[arg(long, value_name = "LIST")]
    models: Option<List<String>>,
    /// train, eval or both, separated by commas [default: train,eval].
    #[arg(long, value_name = "LIST", value_parser = phases)]
    phases: Option<List<Phase>>,
    /// On a GPU: f32, tf32, bf16, separated by commas, in the order in which they are timed [default: tf32,bf16,f32].
    #[arg(long, value_name = "LIST", value_parser = precisions)]
    precisions: Option<List<Precision>>,
    /// Contenders, separated by commas; they must be installed [default: those that are installed].
    #[arg(long, value_name = "LIST", value_parser = contenders)]
    only: Option<List<Contender>>,
    /// The trainer's engine [default: cpu; on a GPU cuda].
    #[arg(long, value_name = "ENGINE")]
    engine: Option<EngineKind>,
    /// On a GPU: how often a whole study of ours, every network for the published number of epochs, is timed in each precision
    /// [default: 1].
    #[arg(long, value_name = "N")]
    studies: Option<u32>,
    /// Folder with CIFAR-10 for the whole studies [default: random images].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// On a GPU: the rate of its large matrix products in 10^9 operations a second, for every precision [default: measured once in each].
    #[arg(long, value_name = "RATE")]
    peak_gflops: Option<f64>,
    /// On a GPU: the bandwidth of its memory in 10^9 bytes read and written a second [default: measured once].
    #[arg(long, value_name = "RATE")]
    bandwidth_gb: Option<f64>,
    /// Use this trainer instead of building one.
    #[arg(long, value_name = "PATH")]
    trainer: Option<PathBuf>,
    /// A Python that has PyTorch [default: the variable POINTWISE_PYTHON, or the one in target/torch].
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Write the record here [default: data/benchmarks/DATE-PROCESSOR-Nthreads.json, DATE-CARD.json].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Build the peers written in Rust, candle and burn, instead: it takes minutes and some hundred crates.
    #[arg(long, group = "instead")]
    build_peers: bool,
    /// Print a record as the table of docs/benchmarks.md instead [default: the newest of --device].
    #[arg(long, value_name = "RECORD", num_args = 0..=1, group = "instead")]
    table: Option<Option<PathBuf>>,
    /// Print a record's times of our layers instead [default: the newest].
    #[arg(long, value_name = "RECORD", num_args = 0..=1, group = "instead")]
    layers: Option<Option<PathBuf>>,
    /// Put a record's table into docs/benchmarks.md instead [default: the newest of --device, and of the CPU also the records that the page names].
    #[arg(long, value_name = "RECORD", num_args = 0..=1, group = "instead")]
    update_docs: Option<Option<PathBuf>>,
}

impl Plan {
    fn resolve(args: &Args) -> anyhow::Result<Self> {
        let Study { recipe, arms, .. } = Study::first_shipped().context("the study cannot be read")?;
        let device = args.device;
        let on_gpu = device == Device::Cuda;
        for (given, option) in [
            (args.precisions.is_some(), "--precisions"),
            (args.studies.is_some(), "--studies"),
            (args.data_dir.is_some(), "--data-dir"),
            (args.peak_gflops.is_some(), "--peak-gflops"),
            (args.bandwidth_gb.is_some(), "--bandwidth-gb"),
        ] {
            if given && !on_gpu {
                bail!("{option} is for a GPU: add --device cuda, or leave it out");
            }
        }
        let contenders = args.only.clone().map_or_else(|| Contender::usual(device), |list| list.0);
        if let Some(other) = contenders.iter().find(|contender| !Contender::on(device).contains(contender)) {
            let known: Vec<&str> = Contender::on(device).iter().map(|contender| contender.name()).collect();
            bail!("{other} cannot be timed on --device {}: choose from {}", device.name(), known.join(", "));
        }
        // The usual precision comes first, so that an interrupted record has it.
        let usual = [Precision::Tf32, Precision::Bf16, Precision::F32];
        let precisions = args.precisions.clone().map_or_else(|| usual.into(), |list| list.0);
        Ok(Self {
            device,
            threads: args.threads.unwrap_or(2),
            rounds: args.rounds.unwrap_or(5),
            steps: args.steps.unwrap_or(if on_gpu { 20 } else { 4 }),
            batch: args.batch.unwrap_or(recipe.batch_size),
            adam: usual_adam(recipe.optimizer)?,
            models: match &args.models {
                Some(List(models)) => models.clone(),
                None => arms.into_iter().map(|arm| arm.name).collect(),
            },
            phases: args.phases.clone().map_or_else(|| Phase::ALL.into(), |list| list.0),
            precisions: if on_gpu { precisions } else { Vec::new() },
            by_name: args.only.is_some(),
            rates: Rates { peak_gflops: args.peak_gflops, bandwidth_gb: args.bandwidth_gb },
            engine: args.engine.map_or(device.name(), EngineKind::name).to_owned(),
            study: StudyPlan {
                times: match on_gpu && contenders.contains(&Contender::Pointwise) {
                    true => args.studies.unwrap_or(1),
                    false => 0,
                },
                epochs: recipe.epochs,
                data_dir: args.data_dir.clone(),
            },
            contenders,
        })
    }

    /// The command for this plan, without the paths of this machine.
    fn command(&self) -> String {
        let Self { threads, rounds, steps, batch, engine, .. } = self;
        let models: Vec<String> = self.models.iter().map(|model| shown(model)).collect();
        let models = models.join(",");
        let phases: Vec<&str> = self.phases.iter().map(|phase| phase.name()).collect();
        let phases = phases.join(",");
        let device = if self.device == Device::Cpu { "" } else { "--device cuda " };
        let mut command = format!(
            "cargo xtask bench {device}--threads {threads} --rounds {rounds} --steps {steps} --batch {batch} --models {models} \
             --phases {phases} --engine {engine}"
        );
        if self.device == Device::Cuda {
            let precisions: Vec<&str> = self.precisions.iter().map(|precision| precision.name()).collect();
            command += &format!(" --precisions {} --studies {}", precisions.join(","), self.study.times);
            if self.study.data_dir.is_some() {
                command += " --data-dir DIR";
            }
            for (option, rate) in
                [("--peak-gflops", self.rates.peak_gflops), ("--bandwidth-gb", self.rates.bandwidth_gb)]
            {
                command += &rate.map_or(String::new(), |rate| format!(" {option} {rate}"));
            }
        }
        if self.by_name {
            let only: Vec<&str> = self.contenders.iter().map(|contender| contender.name()).collect();
            command += &format!(" --only {}", only.join(","));
        }
        command
    }
}

impl inference::Plan {
    fn resolve(args: &Args) -> anyhow::Result<Self> {
        if args.device != Device::Cpu {
            bail!("inference is timed on the CPU: leave --device out");
        }
        let contenders = args.only.clone().map_or_else(|| Self::CONTENDERS.into(), |list| list.0);
        if let Some(other) = contenders.iter().find(|contender| !Self::CONTENDERS.contains(contender)) {
            let known: Vec<&str> = Self::CONTENDERS.iter().map(|contender| contender.name()).collect();
            bail!("{other} is not timed in inference: choose from {}", known.join(", "));
        }
        let Study { recipe, arms, .. } = Study::first_shipped().context("the study cannot be read")?;
        let study: Vec<String> = arms.into_iter().map(|arm| arm.name).collect();
        let others = OTHER_NETWORKS.iter().map(|name| (*name).to_owned());
        Ok(Self {
            threads: args.threads.map_or_else(|| Self::THREADS.into(), |threads| vec![threads]),
            batches: args.batch.map_or_else(|| Self::BATCHES.into(), |batch| vec![batch]),
            rounds: args.rounds.unwrap_or(3),
            models: match &args.models {
                Some(List(models)) => models.clone(),
                None => study.into_iter().chain(others).collect(),
            },
            contenders,
            by_name: args.only.is_some(),
            adam: usual_adam(recipe.optimizer)?,
        })
    }
}

/// The networks that come with the program and are not in the study.
const OTHER_NETWORKS: [&str; 10] = [
    "vgg16",
    "resnet18",
    "resnet20",
    "senet18",
    "mobilenetv2",
    "googlenet",
    "densenet_bc_100_12",
    "lenet",
    "keras_cnn",
    "airbench94",
];

pub(crate) fn run(args: &Args) -> anyhow::Result<End> {
    if args.inference {
        return run_inference(args);
    }
    let named = |path: &Option<PathBuf>| match path {
        Some(path) => Ok(path.clone()),
        None => newest(&root().join(FOLDER), args.device)?.with_context(|| {
            let device = if args.device == Device::Cpu { "" } else { " --device cuda" };
            format!("there is no such record in {FOLDER}: `cargo xtask bench{device}` makes one")
        }),
    };
    if let Some(path) = &args.table {
        let path = named(path)?;
        print(&markdown(&Record::read(&path)?, &file_name(&path)))?;
    } else if let Some(path) = &args.layers {
        let path = named(path)?;
        let text = layer_tables(&Record::read(&path)?);
        if text.is_empty() {
            bail!("{} has no times of layers: its engine did not take them", path.display());
        }
        print(&text)?;
    } else if let Some(path) = &args.update_docs {
        update_docs(&named(path)?)?;
        if path.is_none() && args.device == Device::Cpu {
            update_named()?;
        }
    } else if args.build_peers {
        build_peers(&Plan::resolve(args)?.contenders, &root())?;
    } else {
        return measure(args);
    }
    Ok(End::Good)
}

fn run_inference(args: &Args) -> anyhow::Result<End> {
    let named = |path: &Option<PathBuf>| match path {
        Some(path) => Ok(path.clone()),
        None => inference::newest(&root().join(inference::FOLDER))?.with_context(|| {
            format!("there is no record in {}: `cargo xtask bench --inference` makes one", inference::FOLDER)
        }),
    };
    let shown =
        |path: &Path| anyhow::Ok(inference::markdown(&inference::Record::read(path)?, &file_name(path)));
    if let Some(path) = &args.table {
        print(&shown(&named(path)?)?)?;
        return Ok(End::Good);
    }
    if let Some(path) = &args.update_docs {
        let path = named(path)?;
        put_into_page(table::INFERENCE_MARKERS, &shown(&path)?, &file_name(&path))?;
        return Ok(End::Good);
    }
    let plan = inference::Plan::resolve(args)?;
    if args.build_peers {
        build_peers(&plan.contenders, &root())?;
        return Ok(End::Good);
    }
    let root = root();
    let trainer = match &args.trainer {
        Some(path) => program(path)?,
        None => build(None, &Stop::default())?,
    };
    let networks = Networks::ask(&trainer, &plan.models)?;
    let places = Places {
        root: root.clone(),
        trainer,
        engine: Device::Cpu.name().to_owned(),
        device: Device::Cpu,
        python: named_python(args),
        inference: true,
    };
    let (entrants, skipped) = enter(&plan.contenders, plan.by_name, &places)?;
    for skipped in &skipped {
        note!("{} is left out: {}", skipped.contender, skipped.reason);
    }
    let (record, path) =
        inference::measure(&plan, &root, &networks, &entrants, skipped, args.out.as_deref())?;
    print(&inference::markdown(&record, &file_name(&path)))?;
    note!("the record is {}", path.display());
    Ok(if record.failed() { End::Bad } else { End::Good })
}

/// The Python that was named.
fn named_python(args: &Args) -> Option<PathBuf> {
    args.python.clone().or_else(|| {
        let named = std::env::var_os("POINTWISE_PYTHON").filter(|path| !path.is_empty());
        named.map(PathBuf::from)
    })
}

/// The study's optimizer, if every contender has it: Adam with the usual betas and epsilon, which are the default everywhere or can be set.
fn usual_adam(optimizer: Optimizer) -> anyhow::Result<Adam> {
    match optimizer {
        Optimizer::Adam(adam)
            if Adam { lr: adam.lr, weight_decay: adam.weight_decay, ..Adam::default() } == adam =>
        {
            Ok(adam)
        }
        other => bail!(
            "the other libraries take steps by Adam with its usual betas and eps, not by the study's {other:?}"
        ),
    }
}

/// The folder of the workspace.
fn root() -> PathBuf {
    let folder = workspace_root();
    folder.canonicalize().unwrap_or(folder)
}

fn update_docs(record: &Path) -> anyhow::Result<()> {
    let name = file_name(record);
    let record = Record::read(record)?;
    put_into_page(markers(record.device()), &markdown(&record, &name), &name)
}

/// Shows again the records that the page names.
fn update_named() -> anyhow::Result<()> {
    let page = std::fs::read_to_string(root().join(table::PAGE))
        .with_context(|| format!("{} cannot be read", table::PAGE))?;
    for name in table::named(&page) {
        let record = Record::read(&root().join(FOLDER).join(name))?;
        let [start, end] = table::markers_of(name);
        put_into_page([&start, &end], &table::short(&record, name)?, name)?;
    }
    Ok(())
}

fn put_into_page(markers: [&str; 2], part: &str, name: &str) -> anyhow::Result<()> {
    let path = root().join(table::PAGE);
    let before = std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", table::PAGE))?;
    replace_file(&path, replace_part(&before, markers, part)?.as_bytes())?;
    note!("{} shows {name}", table::PAGE);
    Ok(())
}

fn measure(args: &Args) -> anyhow::Result<End> {
    let plan = Plan::resolve(args)?;
    let root = root();
    // Of the tree that is built, before the record is added to it.
    let origin = Origin::of(&root)?;
    let features = (plan.device == Device::Cuda).then_some("cuda");
    let trainer = match &args.trainer {
        Some(path) => program(path)?,
        // Even if it is not timed itself: it knows the networks.
        None => build(features, &Stop::default())?,
    };
    let networks = Networks::ask(&trainer, &plan.models)?;
    let places = Places {
        root: root.clone(),
        trainer,
        engine: plan.engine.clone(),
        device: plan.device,
        python: named_python(args),
        inference: false,
    };
    let (entrants, skipped) = enter(&plan.contenders, plan.by_name, &places)?;
    for skipped in &skipped {
        note!("{} is left out: {}", skipped.contender, skipped.reason);
    }

    let mut record = Record {
        command: plan.command(),
        commit: origin.commit,
        dirty: origin.dirty,
        started: timestamp(),
        processor: processor_name(),
        card: (plan.device == Device::Cuda).then(gpu::card),
        os: operating_system(),
        cores: std::thread::available_parallelism().map_or(1, usize::from) as u32,
        threads: plan.threads,
        batch: plan.batch,
        rounds: plan.rounds,
        unfinished: true,
        rustc: origin.rustc,
        peer_flags: PEER_FLAGS.to_owned(),
        contenders: Vec::new(),
        skipped,
        lacking: Vec::new(),
        failures: Vec::new(),
        rows: Vec::new(),
        studies: Vec::new(),
    };
    let path = args.out.clone().unwrap_or_else(|| root.join(FOLDER).join(record.file_name()));
    // After each row, so that an interruption costs only the current measurement.
    let keep = |record: &mut Record| {
        record.contenders = entered(&plan, record);
        record.write(&path)
    };
    run_rounds(&plan, &networks.list, &entrants, &mut record, keep)?;
    drop(entrants);
    study::run(&plan, &networks.list, &places.trainer, &mut record, keep)?;
    record.unfinished = false;
    keep(&mut record)?;
    print(&format!("{}\n{}", markdown(&record, &file_name(&path)), layer_tables(&record)))?;
    note!("the record is {}", path.display());
    Ok(if record.failures.is_empty() { End::Good } else { End::Bad })
}

/// Fills in rows and failures, and has the record saved after each.
///
/// # Errors
/// If our own engine fails before it has a row, since there is then nothing to compare with, or if the record cannot be saved.
fn run_rounds(
    plan: &Plan,
    networks: &[Network],
    entrants: &[Entrant],
    record: &mut Record,
    keep: impl Fn(&mut Record) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let heats = heats(plan, entrants);
    for round in 1..=plan.rounds {
        for (heat, network, phase) in heats.iter().flat_map(|heat| {
            let phases = move |network| plan.phases.iter().map(move |&phase| (heat, network, phase));
            networks.iter().flat_map(phases)
        }) {
            let model = &network.name;
            for (place, index) in (1..).zip(order(heat.entrants.len(), round)) {
                let (entrant, precision) = (heat.entrants[index], heat.precision);
                let contender = entrant.contender;
                if record.lacking.iter().any(|lacking| lacking.is_of(contender, model)) {
                    continue;
                }
                let Plan { adam, .. } = plan;
                let &Plan { device, batch, threads, steps, .. } = plan;
                let rates = match device {
                    Device::Cpu => Rates::default(),
                    Device::Cuda => Rates {
                        peak_gflops: plan.rates.peak_gflops.or_else(|| peak_gflops(record, precision)),
                        bandwidth_gb: plan.rates.bandwidth_gb.or_else(|| bandwidth_gb(record)),
                    },
                };
                let question =
                    Question { device, network, phase, precision, batch, adam, threads, steps, rates };
                match entrant.measure(&question) {
                    Ok(Answer::Row(row)) => {
                        let step = median(row.seconds.iter().copied()).unwrap_or(f64::NAN);
                        let of = precision.map_or(String::new(), |precision| format!(", {precision}"));
                        note!(
                            "round {round} of {}: {model}, {phase}, {contender}{of}: {} ms",
                            plan.rounds,
                            match plan.device {
                                Device::Cpu => format!("{:.1}", 1e3 * step),
                                Device::Cuda => format!("{:.3}", 1e3 * step),
                            }
                        );
                        record.rows.push(Entry { round, place, row: *row });
                    }
                    Ok(Answer::Lacks(reason)) => {
                        note!("{contender} is left out of {model}: {reason}");
                        record.lacking.push(Lacking { contender, model: model.clone(), reason });
                    }
                    Err(error)
                        if contender == Contender::Pointwise
                            && !record.rows.iter().any(|entry| entry.row.contender == contender) =>
                    {
                        return Err(error);
                    }
                    Err(error) => {
                        note!("error: {error:#}");
                        record.failures.push(format!("round {round}: {error}"));
                    }
                }
                keep(record)?;
            }
        }
    }
    Ok(())
}

/// Contenders that are compared, and so run one after the other.
#[derive(Debug)]
struct Heat<'a> {
    precision: Option<Precision>,
    entrants: Vec<&'a Entrant>,
}

/// One for each precision, in the order given, and one for contenders whose precision cannot be chosen.
fn heats<'a>(plan: &Plan, entrants: &'a [Entrant]) -> Vec<Heat<'a>> {
    let heat = |precision| {
        let takes = |entrant: &&Entrant| entrant.contender.precisions(&plan.precisions).contains(&precision);
        Heat { precision, entrants: entrants.iter().filter(takes).collect() }
    };
    plan.precisions.iter().copied().map(Some).chain([None]).map(heat).collect()
}

/// The contenders that have rows.
fn entered(plan: &Plan, record: &Record) -> Vec<Entered> {
    let of = |&contender: &Contender| {
        let row = &record.rows.iter().find(|entry| entry.row.contender == contender)?.row;
        let (warmup, steps) = contender.steps(plan.steps, plan.device);
        let (version, detail) = (row.version.clone(), row.detail.clone());
        Some(Entered { contender, version, detail, warmup, steps })
    };
    plan.contenders.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contender_runs_once_a_round_and_takes_every_place() {
        let rounds: Vec<Vec<usize>> = (1..=4).map(|round| order(3, round).collect()).collect();
        assert_eq!(rounds, [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]);
        assert_eq!(order(0, 1).count(), 0);
    }

    #[test]
    fn the_command_repeats_the_plan_and_names_no_paths() {
        let plan = Plan {
            device: Device::Cpu,
            threads: 2,
            rounds: 5,
            steps: 4,
            batch: 126,
            adam: Adam::default(),
            models: vec!["nin".into(), "a folder/alexnet.toml".into()],
            phases: Phase::ALL.into(),
            precisions: Vec::new(),
            study: StudyPlan { times: 0, epochs: 10, data_dir: Some("a folder".into()) },
            contenders: vec![Contender::Pointwise, Contender::PytorchChannelsLast],
            by_name: true,
            rates: Rates { peak_gflops: Some(5e5), bandwidth_gb: None },
            engine: "cpu".into(),
        };
        let command = "cargo xtask bench --threads 2 --rounds 5 --steps 4 --batch 126 --models nin,alexnet.toml \
                       --phases train,eval --engine cpu";
        assert_eq!(plan.command(), format!("{command} --only pointwise,pytorch-channels-last"));
        assert_eq!(Plan { by_name: false, ..plan.clone() }.command(), command);
        let gpu = Plan {
            device: Device::Cuda,
            engine: "cuda".into(),
            precisions: Precision::ALL.into(),
            by_name: false,
            ..plan
        };
        let command = "cargo xtask bench --device cuda --threads 2 --rounds 5 --steps 4 --batch 126 --models nin,alexnet.toml \
                       --phases train,eval --engine cuda --precisions f32,tf32,bf16 --studies 0 --data-dir DIR --peak-gflops 500000";
        assert_eq!(gpu.command(), command);
    }
}
