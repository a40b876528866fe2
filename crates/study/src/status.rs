//! The progress of a study's runs, from their folders.

use std::fs;
use std::path::{Path, PathBuf};

use pointwise_runs::{Run, holds_run};
use serde::Serialize;

use crate::plan::{Job, runs_folder};
use crate::{Plan, Result};

/// The progress of a run.
#[derive(Serialize, Clone, Debug, PartialEq)]
pub struct RunStatus {
    /// Its arm, if known.
    pub network: Option<String>,
    /// Its seed, if known.
    pub seed: Option<u64>,
    /// `waiting` without a folder, `broken`, or the name of an [`Activity`](pointwise_runs::Activity).
    pub state: &'static str,
    /// Epochs done.
    pub epoch: u32,
    /// Epochs to do, if known.
    pub epochs: Option<u32>,
    /// After the last whole epoch, a fraction; on the images that choose the best epoch, until the run is finished.
    pub accuracy: Option<f64>,
    /// Time of its last update, RFC 3339 UTC.
    pub updated: Option<String>,
    /// What a scheduler says about a run that is not finished; see [`add_queue`](crate::add_queue).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Why a broken run cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its folder.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// The progress of each run of a plan, followed by other runs of its study's networks in its folder that the plan does not request.
#[must_use]
pub fn status(plan: &Plan) -> Vec<RunStatus> {
    let jobs = plan.jobs();
    let asked = jobs.iter().map(|job| described(plan, job));
    let others = folders(&plan.out).into_iter().filter(|folder| jobs.iter().all(|job| job.folder != *folder));
    asked.chain(others.map(|folder| of_folder(folder, None, None))).collect()
}

/// The finished runs in a plan's folder that are of its study's networks, and how many of those that [`status`] lists are not finished.
///
/// # Errors
/// If one cannot be read.
pub fn finished(plan: &Plan) -> Result<(Vec<Run>, usize)> {
    let there = folders(&plan.out).into_iter().map(Run::read).collect::<Result<Vec<_>, _>>()?;
    let waiting = plan.jobs().iter().filter(|job| !holds_run(&job.folder)).count();
    let (mut runs, others): (Vec<Run>, Vec<Run>) = there.into_iter().partition(Run::is_finished);
    runs.retain(|run| plan.study.arm(&run.config.model).is_some());
    Ok((runs, others.len() + waiting))
}

/// The run folders in a study's folder, by their names.
fn folders(out: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(runs_folder(out)).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|folder| holds_run(folder)).collect();
    folders.sort();
    folders
}

fn described(plan: &Plan, job: &Job) -> RunStatus {
    if !holds_run(&job.folder) {
        return RunStatus {
            network: Some(job.name.clone()),
            seed: Some(job.seed),
            state: "waiting",
            epoch: 0,
            epochs: Some(plan.arms[job.arm].recipe.epochs),
            accuracy: None,
            updated: None,
            queue: None,
            error: None,
            folder: job.folder.clone(),
        };
    }
    of_folder(job.folder.clone(), Some(&job.name), Some(job.seed))
}

/// An existing run; what it does not say is as given.
fn of_folder(folder: PathBuf, network: Option<&str>, seed: Option<u64>) -> RunStatus {
    match Run::read(&folder) {
        Ok(run) => {
            let last = run.epochs().last();
            let accuracy = last.and_then(|epoch| epoch.val_acc.or(epoch.test_acc));
            RunStatus {
                state: run.activity().name(),
                epoch: last.map_or(0, |epoch| epoch.epoch),
                epochs: Some(run.config.recipe.epochs),
                accuracy: run.result.as_ref().map(|result| result.final_acc).or(accuracy),
                updated: Some(match &run.progress {
                    Some(progress) => progress.updated.clone(),
                    None => run.environment.started.clone(),
                }),
                network: Some(run.config.model),
                seed: Some(run.config.seed),
                queue: None,
                error: None,
                folder,
            }
        }
        Err(error) => RunStatus {
            network: network.map(str::to_owned),
            seed,
            state: "broken",
            epoch: 0,
            epochs: None,
            accuracy: None,
            updated: None,
            queue: None,
            error: Some(error.to_string()),
            folder,
        },
    }
}
