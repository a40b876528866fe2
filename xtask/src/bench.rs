//! `cargo xtask bench`: whole training steps and evaluation batches of our engine beside other libraries.
//!
//! Everybody gets the same networks, batch and number of threads, and is a process of its own each time. A round runs every
//! contender once on each network and phase; rounds differ in the order. What is compared is what ran within the same round,
//! minutes apart at most, so that a machine that slows down slows both sides of a ratio.

mod contender;
mod record;
mod summary;
mod table;
#[cfg(test)]
mod testing;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, bail};
use pointwise_runs::{operating_system, processor_name, replace_file, timestamp};

use crate::{
    End,
    list::List,
    plan::{program, published},
    print,
    trainer::{build, workspace_manifest},
};
use contender::{Contender, Entrant, PEER_FLAGS, Phase, Places, Question, build_peers, enter};
use record::{Entered, Entry, FOLDER, Record, newest};
use summary::median;
use table::{file_name, layer_tables, markdown, replace_part};

const AFTER: &str = "\
Contenders: pointwise, pytorch, pytorch-channels-last, candle, burn. Those that are not installed are left out, and it is said \
how they are; named by --only they must be there. candle takes seconds a step and is given one warm-up and one timed step a \
round. Exit codes: 0 done, 1 failed (also if a contender failed on the way; the record has the rest), 2 wrong usage.";

/// The options, as typed.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// Computing threads of every contender.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// How often every contender runs on each network and phase.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Timed steps of a process, after two that are not timed.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Images in a batch [default: the study's 126].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: Option<u32>,
    /// Networks, separated by commas [default: all].
    #[arg(long, value_name = "LIST")]
    models: Option<List<String>>,
    /// train, eval or both, separated by commas [default: train,eval].
    #[arg(long, value_name = "LIST")]
    phases: Option<List<Phase>>,
    /// Contenders, separated by commas; they must be there [default: all that are there].
    #[arg(long, value_name = "LIST")]
    only: Option<List<Contender>>,
    /// The trainer's engine.
    #[arg(long, value_name = "ENGINE", default_value = "cpu")]
    engine: String,
    /// Use this trainer instead of building one.
    #[arg(long, value_name = "PATH")]
    trainer: Option<PathBuf>,
    /// A Python that has PyTorch [default: the variable POINTWISE_PYTHON, or the one in target/torch].
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// Write the record here [default: data/benchmarks/DATE-PROCESSOR-Nthreads.json].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Build the peers written in Rust, candle and burn, instead: minutes, and some hundred crates.
    #[arg(long, group = "instead")]
    build_peers: bool,
    /// Print a record as the README's table instead [default: the newest].
    #[arg(long, value_name = "RECORD", num_args = 0..=1, group = "instead")]
    table: Option<Option<PathBuf>>,
    /// Print a record's times of our layers instead [default: the newest].
    #[arg(long, value_name = "RECORD", num_args = 0..=1, group = "instead")]
    layers: Option<Option<PathBuf>>,
    /// Put a record's table into README.md instead [default: the newest].
    #[arg(long, value_name = "RECORD", num_args = 0..=1, group = "instead")]
    update_readme: Option<Option<PathBuf>>,
}

/// The options of a measurement, resolved.
#[derive(Clone, Debug)]
struct Plan {
    threads: u32,
    rounds: u32,
    steps: u32,
    batch: u32,
    models: Vec<String>,
    phases: Vec<Phase>,
    contenders: Vec<Contender>,
    /// Whether the contenders were named.
    by_name: bool,
    engine: String,
}

impl Plan {
    fn resolve(args: &Args) -> anyhow::Result<Self> {
        let published = published()?;
        let all = || published.networks.iter().map(|network| network.name.clone()).collect();
        Ok(Self {
            threads: args.threads,
            rounds: args.rounds,
            steps: args.steps,
            batch: args.batch.unwrap_or(published.recipe.batch_size),
            models: args.models.clone().map_or_else(all, |list| list.0),
            phases: args.phases.clone().map_or_else(|| Phase::ALL.into(), |list| list.0),
            contenders: args.only.clone().map_or_else(|| Contender::ALL.into(), |list| list.0),
            by_name: args.only.is_some(),
            engine: args.engine.clone(),
        })
    }

    /// The command that asks for this plan, without the paths of this machine.
    fn command(&self) -> String {
        let Self { threads, rounds, steps, batch, engine, .. } = self;
        let models = self.models.join(",");
        let phases: Vec<&str> = self.phases.iter().map(|phase| phase.name()).collect();
        let phases = phases.join(",");
        let mut command = format!(
            "cargo xtask bench --threads {threads} --rounds {rounds} --steps {steps} --batch {batch} --models {models} \
             --phases {phases} --engine {engine}"
        );
        if self.by_name {
            let only: Vec<&str> = self.contenders.iter().map(|contender| contender.name()).collect();
            command += &format!(" --only {}", only.join(","));
        }
        command
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<End> {
    let named = |path: &Option<PathBuf>| match path {
        Some(path) => Ok(path.clone()),
        None => newest(&root().join(FOLDER)),
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
    } else if let Some(path) = &args.update_readme {
        update_readme(&named(path)?)?;
    } else if args.build_peers {
        build_peers(&Plan::resolve(args)?.contenders, &root())?;
    } else {
        return measure(args);
    }
    Ok(End::Good)
}

/// The folder of the workspace.
fn root() -> PathBuf {
    let manifest = workspace_manifest();
    let folder = manifest.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    folder.canonicalize().unwrap_or(folder)
}

fn update_readme(record: &Path) -> anyhow::Result<()> {
    let part = markdown(&Record::read(record)?, &file_name(record));
    let path = root().join("README.md");
    let before = std::fs::read_to_string(&path).context("README.md cannot be read")?;
    replace_file(&path, replace_part(&before, &part)?.as_bytes())?;
    eprintln!("README.md shows {}", file_name(record));
    Ok(())
}

fn measure(args: &Args) -> anyhow::Result<End> {
    let plan = Plan::resolve(args)?;
    let root = root();
    // Of the tree that is built, not of the one that has the record in it.
    let (commit, dirty) = commit(&root);
    let trainer = match &args.trainer {
        Some(path) => program(path)?,
        None if plan.contenders.contains(&Contender::Pointwise) => build(None)?,
        None => PathBuf::new(),
    };
    let python = args.python.clone().or_else(|| {
        let named = std::env::var_os("POINTWISE_PYTHON").filter(|path| !path.is_empty());
        named.map(PathBuf::from)
    });
    let places = Places { root: root.clone(), trainer, engine: plan.engine.clone(), python };
    let (entrants, skipped) = enter(&plan.contenders, plan.by_name, &places)?;
    for skipped in &skipped {
        eprintln!("{} is left out: {}", skipped.contender, skipped.reason);
    }

    let mut record = Record {
        command: plan.command(),
        commit,
        dirty,
        started: timestamp(),
        processor: processor_name(),
        os: operating_system(),
        cores: std::thread::available_parallelism().map_or(1, usize::from) as u32,
        threads: plan.threads,
        batch: plan.batch,
        rounds: plan.rounds,
        rustc: rustc(),
        peer_flags: PEER_FLAGS.to_owned(),
        contenders: Vec::new(),
        skipped,
        failures: Vec::new(),
        rows: Vec::new(),
    };
    run_rounds(&plan, &entrants, &mut record)?;
    record.contenders = entered(&plan, &record);

    let path = args.out.clone().unwrap_or_else(|| root.join(FOLDER).join(record.file_name()));
    record.write(&path)?;
    print(&format!("{}\n{}", markdown(&record, &file_name(&path)), layer_tables(&record)))?;
    eprintln!("the record is {}", path.display());
    Ok(if record.failures.is_empty() { End::Good } else { End::Bad })
}

/// Fills in rows and failures.
///
/// # Errors
/// If our own engine fails: there is nothing to compare with then.
fn run_rounds(plan: &Plan, entrants: &[Entrant], record: &mut Record) -> anyhow::Result<()> {
    for round in 1..=plan.rounds {
        for model in &plan.models {
            for &phase in &plan.phases {
                let &Plan { batch, threads, steps, .. } = plan;
                let question = Question { model, phase, batch, threads, steps };
                for (place, index) in (1..).zip(order(entrants.len(), round)) {
                    let entrant = &entrants[index];
                    let row = match entrant.measure(&question) {
                        Ok(row) => row,
                        Err(error) if entrant.contender == Contender::Pointwise => return Err(error),
                        Err(error) => {
                            eprintln!("error: {error:#}");
                            record.failures.push(format!("round {round}: {error}"));
                            continue;
                        }
                    };
                    let step = median(row.seconds.iter().copied()).unwrap_or(f64::NAN);
                    eprintln!(
                        "round {round} of {}: {model}, {phase}, {}: {:.1} ms",
                        plan.rounds,
                        entrant.contender,
                        1e3 * step
                    );
                    record.rows.push(Entry { round, place, row });
                }
            }
        }
    }
    Ok(())
}

/// The order of a round: each round begins one contender further on, so that nobody always runs first, or on a machine that
/// the slowest has warmed up.
fn order(contenders: usize, round: u32) -> impl Iterator<Item = usize> {
    (0..contenders).map(move |place| (place + round as usize - 1) % contenders)
}

/// Those that left rows.
fn entered(plan: &Plan, record: &Record) -> Vec<Entered> {
    let of = |&contender: &Contender| {
        let row = &record.rows.iter().find(|entry| entry.row.contender == contender)?.row;
        let (warmup, steps) = contender.steps(plan.steps);
        let (version, detail) = (row.version.clone(), row.detail.clone());
        Some(Entered { contender, version, detail, warmup, steps })
    };
    plan.contenders.iter().filter_map(of).collect()
}

/// The commit of the checkout, and whether there are changes on top of it.
fn commit(root: &Path) -> (Option<String>, bool) {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changes = git(&["status", "--porcelain"]);
    (git(&["rev-parse", "HEAD"]), changes.is_none_or(|changes| !changes.is_empty()))
}

fn rustc() -> Option<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
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
            threads: 2,
            rounds: 5,
            steps: 4,
            batch: 126,
            models: vec!["nin".into(), "alexnet".into()],
            phases: Phase::ALL.into(),
            contenders: vec![Contender::Pointwise, Contender::PytorchChannelsLast],
            by_name: true,
            engine: "cpu".into(),
        };
        let command = "cargo xtask bench --threads 2 --rounds 5 --steps 4 --batch 126 --models nin,alexnet \
                       --phases train,eval --engine cpu";
        assert_eq!(plan.command(), format!("{command} --only pointwise,pytorch-channels-last"));
        assert_eq!(Plan { by_name: false, ..plan }.command(), command);
    }
}
