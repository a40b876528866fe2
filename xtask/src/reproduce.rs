//! `cargo xtask reproduce`: train, collect, judge.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};
use pointwise_process::note;
use pointwise_recipe::{EngineKind, Precision, Recipe};
use pointwise_report::{NetworkFacts, Page, Study, Verdict};
use pointwise_runs::{Run, RunConfig, replace_file};

use crate::{
    End,
    display::Display,
    list::List,
    plan::{Plan, QUICK, device, program, published, study_models},
    print,
    runner::{tail, train},
    trainer::{Stop, build, summary},
};

const EXIT_CODES: &str = "\
Exit codes: 0 reproduced (with --quick: parameter counts and ratios are as published), 1 failed, 2 wrong usage, 3 different from \
the published study, 4 not comparable with it, 5 undecided (one or two seeds, or runs that could not have told a difference that \
matters), 130 interrupted. The same command continues where an interruption or a failure \
stopped; runs that are finished are not repeated. An ablation has no verdict: 0, 1, 2 or 130.";

/// The options, as typed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// A small study on synthetic images, without a download: shows that everything works, and checks counts and ratios.
    #[arg(long)]
    quick: bool,
    /// Train a family of networks beside each other instead, without a verdict, in a folder of its own.
    #[arg(long, value_enum, value_name = "FAMILY")]
    ablation: Option<Ablation>,
    /// Seeds, separated by commas; three or more measure the spread [default: 42; with --ablation, but not with --quick:
    /// 42,43,44].
    #[arg(long, value_name = "LIST")]
    seeds: Option<List<u64>>,
    /// Networks, separated by commas; a verdict needs all three [default: alexnet_plain,alexnet,nin; with --ablation: the family].
    #[arg(long, value_name = "LIST")]
    models: Option<List<String>>,
    /// Passes over the training images; other than 10 is not comparable [default: 10; with --quick: 5].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(Recipe::MAX_EPOCHS)))]
    epochs: Option<u32>,
    /// Folder with CIFAR-10 [default: the trainer's, filled by a download].
    #[arg(long, value_name = "DIR", conflicts_with = "quick")]
    data_dir: Option<PathBuf>,
    /// Folder for runs and report [default: study; with --ablation: study-ablation; with --quick: -quick after that].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The trainer's engine [default: the trainer's].
    #[arg(long, value_name = "ENGINE")]
    engine: Option<EngineKind>,
    /// The trainer's device [default: the trainer's].
    #[arg(long, value_name = "DEVICE", value_parser = device)]
    device: Option<String>,
    /// The trainer's precision [default: the trainer's].
    #[arg(long, value_name = "PRECISION")]
    precision: Option<Precision>,
    /// Computing threads, of all runs together [default: the trainer's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(RunConfig::MAX_THREADS)))]
    threads: Option<u32>,
    /// Runs at once, which share the computing threads: for a GPU that one run does not fill. Figures are the same for any number.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    jobs: u32,
    /// Show no progress; the result and errors are printed nevertheless.
    #[arg(long, short)]
    quiet: bool,
    /// Use this trainer instead of building one.
    #[arg(long, value_name = "PATH")]
    trainer: Option<PathBuf>,
    /// Features to build the trainer with, separated by commas.
    #[arg(long, value_name = "LIST", conflicts_with = "trainer")]
    features: Option<String>,
}

/// Networks that belong together beside the study's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Ablation {
    /// `alexnet`, `nin`, and variations of `nin`'s pointwise layers: padding, ReLU, reduction.
    Pointwise,
}

impl Ablation {
    /// As the trainer calls the family.
    fn name(self) -> &'static str {
        match self {
            Self::Pointwise => "pointwise",
        }
    }
}

/// The networks are the ones asked for; where none are named, the study's, or none yet of an ablation.
fn resolve(args: &Args) -> anyhow::Result<Plan> {
    let published = published()?;
    let ablation = args.ablation.is_some();
    let epochs = if args.quick { QUICK.epochs } else { published.recipe.epochs };
    let out = match (ablation, args.quick) {
        (false, false) => "study",
        (false, true) => "study-quick",
        (true, false) => "study-ablation",
        (true, true) => "study-ablation-quick",
    };
    let seeds = if ablation && !args.quick { vec![42, 43, 44] } else { vec![42] };
    Ok(Plan {
        ablation,
        models: match (ablation, &args.models) {
            (true, models) => models.clone().map_or_else(Vec::new, |list| list.0),
            (false, models) => study_models(models.as_ref(), &published),
        },
        seeds: args.seeds.clone().map_or(seeds, |list| list.0),
        quick: args.quick,
        epochs: args.epochs.unwrap_or(epochs),
        data_dir: args.data_dir.clone(),
        engine: args.engine,
        device: args.device.clone(),
        precision: args.precision,
        threads: args.threads,
        jobs: args.jobs,
        out: args.out.clone().unwrap_or_else(|| out.into()),
    })
}

/// The runs of the plan that are there already, finished or not.
fn existing(plan: &Plan) -> anyhow::Result<Vec<Option<Run>>> {
    let published = published()?;
    plan.jobs().iter().map(|job| plan.existing(job, &published)).collect()
}

pub(crate) fn run(args: &Args) -> anyhow::Result<End> {
    let mut plan = resolve(args)?;
    // What is there is looked at first: nothing is built, or trained for hours, beside a run that will not fit.
    existing(&plan)?;
    if let Some(folder) = plan.data_dir.as_deref().filter(|folder| !folder.exists()) {
        bail!("{} does not exist: give a folder that holds CIFAR-10 to --data-dir", folder.display());
    }
    fs::create_dir_all(plan.out.join("runs"))
        .with_context(|| format!("{} cannot be created, choose another --out", plan.out.display()))?;

    let stop = Stop::watch()?;
    let trainer = match &args.trainer {
        Some(path) => program(path),
        None => build(args.features.as_deref(), &stop),
    };
    // A program that was interrupted with us fails; that is not its fault.
    if stop.requested() {
        return Ok(interrupted());
    }
    let trainer = trainer?;
    let mut facts = summary(&trainer, args.ablation.map_or("study", Ablation::name))?;
    if plan.models.is_empty() {
        plan.models = facts.iter().map(|facts| facts.model.clone()).collect();
    }
    if let Some(model) = plan.models.iter().find(|model| !facts.iter().any(|facts| facts.model == **model)) {
        let known: Vec<&str> = facts.iter().map(|facts| facts.model.as_str()).collect();
        bail!("the trainer does not know the network {model} here: choose from {}", known.join(", "));
    }
    if plan.ablation {
        facts.retain(|facts| plan.models.contains(&facts.model));
    }

    let (jobs, existing) = (plan.jobs(), existing(&plan)?);
    let done = existing.iter().flatten().filter(|run| run.is_finished()).count();
    let mut display = Display::new(args.quiet);
    if done > 0 && !args.quiet {
        note!("{done} of {} runs are finished already", jobs.len());
    }
    if !plan.quick && done < jobs.len() {
        let end = look_at_data(&stop, &trainer, plan.data_dir.as_deref(), args.quiet)?;
        if end != End::Good {
            return Ok(end);
        }
    }
    let runs = train(&plan, &trainer, &jobs, existing, &facts, &stop, &mut display)?;
    drop(display);
    match runs {
        Some(runs) => conclude(&plan, &runs, &facts),
        None => Ok(interrupted()),
    }
}

/// Reads the images once before anything is trained; where no folder is named, that downloads them if need be.
fn look_at_data(stop: &Stop, trainer: &Path, data_dir: Option<&Path>, quiet: bool) -> anyhow::Result<End> {
    let mut command = Command::new(trainer);
    command.args(["data", "stats"]);
    if let Some(folder) = data_dir {
        command.arg("--data-dir").arg(folder);
    }
    // What it prints on stdout is progress here, where the result is the study's; it must not fail because nobody reads that.
    let mut said = tempfile::tempfile().context("a temporary file cannot be made")?;
    let kept = || said.try_clone().context("a temporary file cannot be used");
    command.stdout(kept()?);
    if quiet {
        command.stderr(kept()?);
    }
    let failed = || format!("{} cannot be run", trainer.display());
    let status = command.spawn().and_then(|mut child| stop.wait_for(&mut child)).with_context(failed)?;
    if stop.requested() || status.code() == Some(130) {
        return Ok(interrupted());
    }
    let said = tail(&mut said);
    if !said.is_empty() && quiet != status.success() {
        note!("{}", said.trim_end());
    }
    if !status.success() {
        bail!(
            "there is no CIFAR-10 to train on: give the folder that holds it by --data-dir DIR, or run `cargo xtask reproduce \
             --quick`, which needs no data"
        );
    }
    Ok(End::Good)
}

fn interrupted() -> End {
    note!("interrupted: the same command continues where this one stopped");
    End::Interrupted
}

fn conclude(plan: &Plan, runs: &[Run], facts: &[NetworkFacts]) -> anyhow::Result<End> {
    let study = if plan.ablation { Study::ablation(runs, facts)? } else { Study::new(runs, facts)? };
    study.write(&plan.out)?;
    let page = plan.out.join("report.html");
    replace_file(&page, Page::read(&study, runs, facts)?.html().as_bytes())?;
    let text = plan.out.join("report.md");
    let text = format!(
        "\n{}\n{}\n\n{} (for a browser) and {}\n",
        study.to_table(),
        study.headline(),
        page.display(),
        text.display()
    );
    print(&text)?;
    Ok(end_of(plan.quick, &study))
}

/// A quick study cannot be compared; what it can show is that counts and ratios are as published.
fn end_of(quick: bool, study: &Study) -> End {
    match &study.verdict {
        Verdict::NotJudged => End::Good,
        _ if quick => {
            if study.counts_as_published {
                End::Good
            } else {
                End::Different
            }
        }
        Verdict::Reproduced => End::Good,
        Verdict::Different { .. } => End::Different,
        Verdict::NotComparable { .. } => End::NotComparable,
        Verdict::Undecided { .. } => End::Undecided,
    }
}
