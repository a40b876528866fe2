//! `cargo xtask reproduce`: train, collect, judge.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};
use pointwise_report::{NetworkFacts, Study, Verdict, duration};
use pointwise_runs::Run;

use crate::{
    End,
    list::List,
    plan::{Job, Plan, QUICK, estimate, program, published},
    print,
    trainer::{Stop, build, summary},
};

const EXIT_CODES: &str = "\
Exit codes: 0 reproduced (with --quick: parameter counts and ratios are as published), 1 failed, 2 wrong usage, 3 different from \
the published study, 4 not comparable with it, 130 interrupted. The same command goes on where an interruption or a failure \
stopped; runs that are finished are not repeated.";

/// The options, as typed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// A small study on synthetic images, without a download: shows that everything works, and checks counts and ratios.
    #[arg(long)]
    quick: bool,
    /// Seeds, separated by commas; three or more measure the spread [default: 42].
    #[arg(long, value_name = "LIST")]
    seeds: Option<List<u64>>,
    /// Networks, separated by commas; a verdict needs all three [default: alexnet_plain,alexnet,nin].
    #[arg(long, value_name = "LIST")]
    models: Option<List<String>>,
    /// Passes over the training images; other than 10 is not comparable [default: 10; with --quick: 5].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    epochs: Option<u32>,
    /// Folder with CIFAR-10 [default: the trainer's, filled by a download].
    #[arg(long, value_name = "DIR", conflicts_with = "quick")]
    data_dir: Option<PathBuf>,
    /// Folder for runs and report [default: study; with --quick: study-quick].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The trainer's engine [default: the trainer's].
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,
    /// The trainer's device [default: the trainer's].
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// The trainer's precision [default: the trainer's].
    #[arg(long, value_name = "PRECISION")]
    precision: Option<String>,
    /// Computing threads [default: the trainer's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    threads: Option<u32>,
    /// Use this trainer instead of building one.
    #[arg(long, value_name = "PATH")]
    trainer: Option<PathBuf>,
    /// Features to build the trainer with, separated by commas.
    #[arg(long, value_name = "LIST", conflicts_with = "trainer")]
    features: Option<String>,
}

fn resolve(args: &Args) -> anyhow::Result<Plan> {
    let published = published()?;
    let all = || published.networks.iter().map(|network| network.name.clone()).collect();
    let (epochs, out) = match args.quick {
        true => (QUICK.epochs, "study-quick"),
        false => (published.recipe.epochs, "study"),
    };
    Ok(Plan {
        models: args.models.clone().map_or_else(all, |list| list.0),
        seeds: args.seeds.clone().map_or_else(|| vec![42], |list| list.0),
        quick: args.quick,
        epochs: args.epochs.unwrap_or(epochs),
        data_dir: args.data_dir.clone(),
        engine: args.engine.clone(),
        device: args.device.clone(),
        precision: args.precision.clone(),
        threads: args.threads,
        out: args.out.clone().unwrap_or_else(|| out.into()),
    })
}

pub(crate) fn run(args: &Args) -> anyhow::Result<End> {
    let plan = resolve(args)?;
    let recipe = published()?.recipe;
    // What is there is looked at first: nothing is trained for hours beside a run that will not fit.
    let jobs = plan.jobs();
    let mut existing = Vec::with_capacity(jobs.len());
    for job in &jobs {
        existing.push(plan.existing(job, &recipe)?);
    }
    fs::create_dir_all(plan.out.join("runs"))
        .with_context(|| format!("{} cannot be created, choose another --out", plan.out.display()))?;

    let stop = Stop::watch()?;
    let trainer = match &args.trainer {
        Some(path) => program(path),
        None => build(args.features.as_deref()),
    };
    // A program that was interrupted with us fails; that is not its fault.
    if stop.requested() {
        return Ok(interrupted());
    }
    let trainer = trainer?;
    let facts = summary(&trainer)?;
    if let Some(model) = plan.models.iter().find(|model| !facts.iter().any(|facts| facts.model == **model)) {
        bail!("the trainer does not know the network {model}: build it from this workspace");
    }

    let mut runs: Vec<Run> = existing.iter().flatten().filter(|run| run.is_finished()).cloned().collect();
    let todo: Vec<(&Job, f64)> = jobs
        .iter()
        .zip(&existing)
        .filter(|(_, run)| !run.as_ref().is_some_and(Run::is_finished))
        .map(|(job, run)| (job, run.as_ref().map_or(0.0, seconds_done)))
        .collect();
    if !runs.is_empty() {
        eprintln!("{} of {} runs are finished already", runs.len(), jobs.len());
    }
    if !plan.quick && !todo.is_empty() {
        let end = look_at_data(&stop, &trainer, plan.data_dir.as_deref())?;
        if end != End::Good {
            return Ok(end);
        }
    }
    for (index, (job, _)) in todo.iter().enumerate() {
        let number = jobs.len() - todo.len() + index + 1;
        eprintln!("\n{}", header(number, jobs.len(), &todo[index..], &runs, &facts));
        let status = stop.wait_for(Command::new(&trainer).args(plan.train_arguments(job)))?;
        if stop.requested() || status.code() == Some(130) {
            return Ok(interrupted());
        }
        let folder = job.folder.display();
        if !status.success() {
            bail!(
                "the run of {} with seed {} failed ({status}): see its message above; {folder} has what it did, and the same \
                 command goes on",
                job.model,
                job.seed
            );
        }
        let run = Run::read(&job.folder)?;
        if !run.is_finished() {
            bail!(
                "the trainer ended without an error, but the run in {folder} has no result: give the same command again"
            );
        }
        runs.push(run);
    }
    conclude(&plan, &runs, &facts)
}

/// Which run, of how many, and how long it and those after it will take, where the finished ones tell.
fn header(
    number: usize,
    of: usize,
    todo: &[(&Job, f64)],
    finished: &[Run],
    facts: &[NetworkFacts],
) -> String {
    let job = todo[0].0;
    let rest: Option<f64> =
        todo.iter().map(|(job, done)| Some((estimate(&job.model, finished, facts)? - done).max(0.0))).sum();
    let rest = rest.map_or(String::new(), |seconds| {
        format!(" (about {} to the end of the last run)", duration(seconds))
    });
    format!("run {number} of {of}: {}, seed {}{rest}", job.model, job.seed)
}

/// Seconds that an unfinished run has behind it.
fn seconds_done(run: &Run) -> f64 {
    run.progress.as_ref().map_or(0.0, |progress| progress.seconds)
}

/// Reads the images once before anything is trained; where no folder is named, that downloads them if need be.
fn look_at_data(stop: &Stop, trainer: &Path, data_dir: Option<&Path>) -> anyhow::Result<End> {
    let mut command = Command::new(trainer);
    command.args(["data", "stats"]);
    if let Some(folder) = data_dir {
        command.arg("--data-dir").arg(folder);
    }
    // What it prints on stdout is progress here, where the result is the study's.
    command.stdout(io::stderr());
    let status = stop.wait_for(&mut command)?;
    if stop.requested() || status.code() == Some(130) {
        return Ok(interrupted());
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
    eprintln!("interrupted: the same command goes on where this one stopped");
    End::Interrupted
}

fn conclude(plan: &Plan, runs: &[Run], facts: &[NetworkFacts]) -> anyhow::Result<End> {
    let study = Study::new(runs, facts)?;
    study.write(&plan.out)?;
    let files = ["study.md", "study.json"].map(|file| plan.out.join(file).display().to_string());
    let text = format!("\n{}\n{}\n\n{} and {}\n", study.to_table(), study.headline(), files[0], files[1]);
    print(&text)?;
    Ok(end_of(plan.quick, &study))
}

/// A quick study cannot be compared; what it can show is that counts and ratios are as published.
fn end_of(quick: bool, study: &Study) -> End {
    match &study.verdict {
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
    }
}
