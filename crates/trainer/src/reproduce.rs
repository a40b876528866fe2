//! `trainer reproduce`: plan, train, judge. Processes of this program do the training, see `pointwise_study::train`.

use crate::End;
use crate::args::{Cli, ReproduceArgs};
use crate::data::Images;
use crate::model::Model;
use crate::{print, report, slurm};
use anyhow::{Context, bail};
use clap::CommandFactory;
use clap::error::ErrorKind;
use pointwise_engine::{DeviceChoice, DeviceName};
use pointwise_process::{List, Stop, note, tail};
use pointwise_recipe::DataKind;
use pointwise_study::{Display, Error, Options, Plan, Study, train};
use std::path::Path;
use std::process::Command;

pub(crate) fn run(args: ReproduceArgs) -> anyhow::Result<End> {
    let (quiet, data_dir) = (args.quiet, args.data_dir.clone());
    let plan = plan(&args)?;
    // Existing runs are checked first: nothing is trained for hours next to a run that will not fit.
    let existing = plan.existing()?;
    if let Some(folder) = data_dir.as_deref().filter(|folder| !folder.exists()) {
        bail!("{} does not exist: give the folder of the images with --data-dir", folder.display());
    }
    if !plan.quick {
        check_fits(&plan, data_dir.as_deref())?;
    }
    let program = std::env::current_exe().context("the path of this program is not known")?;
    let array = match args.slurm.slurm {
        true => slurm::array(&args, &plan, &existing, &program)?,
        false => None,
    };
    if args.slurm.dry_run {
        return match array {
            Some(array) => slurm::show(&array),
            None => bail!("there is nothing to submit: all runs are finished"),
        };
    }
    plan.write()?;
    let stop = Stop::watch().context("signals cannot be watched")?;
    let done = existing.iter().flatten().filter(|run| run.is_finished()).count();
    if done > 0 && !quiet {
        note!("{done} of {} runs are finished already", existing.len());
    }
    // Synthetic images are drawn; and each task of a scheduler would read other images once more.
    if plan.data.kind != DataKind::Synthetic
        && args.shard.is_none()
        && done < existing.len()
        && !look_at_data(&stop, &program, &plan, data_dir.as_deref(), quiet)?
    {
        return Ok(interrupted());
    }
    if let Some(array) = array {
        return slurm::submit(&array);
    }
    let mut display = Display::new(quiet);
    let runs = train(&plan, &program, existing, &stop, &mut display)?;
    drop(display);
    match (runs, args.shard) {
        (Some(runs), Some(shard)) => {
            print(&format!(
                "shard {shard} of the study {}: its runs are finished ({})",
                plan.study.name,
                runs.len()
            ))?;
            Ok(End::Done)
        }
        (Some(runs), None) => report::conclude(&plan.study, &runs, &plan.out),
        (None, _) => Ok(interrupted()),
    }
}

/// The plan of the command line. A network that the study does not have ends the program, as any invalid value does.
fn plan(args: &ReproduceArgs) -> anyhow::Result<Plan> {
    let study = args.study.clone().map_or_else(Study::first_shipped, Ok)?;
    let options = Options {
        seeds: args.seeds.clone().map(|List(seeds)| seeds),
        arms: args.models.clone().map(|List(names)| names),
        quick: args.quick,
        epochs: args.epochs,
        data_dir: args.data_dir.clone(),
        engine: args.engine,
        device: args.device.clone(),
        precision: args.precision,
        deterministic: args.deterministic,
        on_gpu: is_on_gpu(args.device.as_deref()),
        threads: args.threads,
        jobs: args.jobs.unwrap_or(0),
        out: args.out.clone(),
        shard: args.shard,
    };
    Plan::new(study, options).map_err(|error| match error {
        Error::UnknownArm { .. } => Cli::command().error(ErrorKind::InvalidValue, error).exit(),
        error => error.into(),
    })
}

/// Whether runs on the device of this name compute on a GPU. The trainer refuses one that cannot be used.
fn is_on_gpu(device: Option<&str>) -> bool {
    let choice = device.map_or(Ok(DeviceChoice::Auto), str::parse);
    matches!(choice.and_then(DeviceChoice::resolve), Ok(DeviceName::Cuda(_)))
}

/// Refuses networks that do not fit the images, as far as that is known before the images are read.
fn check_fits(plan: &Plan, data_dir: Option<&Path>) -> anyhow::Result<()> {
    for arm in &plan.arms {
        let spec = Images::of_study(&plan.data, data_dir, &arm.network)?.spec()?;
        Model::of_arm(arm).for_data(&spec)?;
    }
    Ok(())
}

/// Reads the images once before anything is trained; if no folder is named, that downloads them if necessary. Returns false if it was
/// interrupted.
fn look_at_data(
    stop: &Stop,
    program: &Path,
    plan: &Plan,
    data_dir: Option<&Path>,
    quiet: bool,
) -> anyhow::Result<bool> {
    let data = &plan.data;
    let mut command = Command::new(program);
    command.args(["data", "stats", "--data", data.kind.name()]);
    if let Some(folder) = data_dir.or(data.dir.as_deref()) {
        command.arg("--data-dir").arg(folder);
    }
    if let Some(split) = &data.test_split {
        command.args(["--test-split", split]);
    }
    if let Some(seed) = data.data_seed {
        command.args(["--data-seed", &seed.to_string()]);
    }
    if let Some(arm) = plan.arms.iter().find(|arm| !arm.is_shipped) {
        command.arg("--model").arg(plan.network_path(arm));
    }
    // Its stdout is progress here, where the result is the study's; it must not fail because nobody reads it.
    let mut said = tempfile::tempfile().context("a temporary file cannot be created")?;
    let kept = || said.try_clone().context("a temporary file cannot be used");
    command.stdout(kept()?);
    if quiet {
        command.stderr(kept()?);
    }
    let failed = || format!("{} cannot be run", program.display());
    let status = command.spawn().and_then(|mut child| stop.wait_for(&mut child)).with_context(failed)?;
    if stop.requested() || status.code() == Some(pointwise_study::INTERRUPTED.into()) {
        return Ok(false);
    }
    let said = tail(&mut said);
    if !said.is_empty() && quiet != status.success() {
        note!("{}", said.trim_end());
    }
    if !status.success() {
        bail!(
            "there are no images to train on: give the folder that holds them with --data-dir DIR, or add --quick, which needs no data"
        );
    }
    Ok(true)
}

fn interrupted() -> End {
    note!("interrupted: the same command continues where this one stopped");
    End::Interrupted
}
