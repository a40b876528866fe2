//! Whole studies of ours on a GPU, timed from the start of the first program to the end of the last.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, ensure};
use pointwise_process::note;

use super::{
    network::Network,
    plan::{Plan, StudyPlan},
    question::Precision,
    record::{NetworkTime, Record, StudyTime},
};

/// Fills in the studies, and has the record saved after each. One that fails loses only its row: the steps are already timed.
///
/// # Errors
/// If the record cannot be saved.
pub(super) fn run(
    plan: &Plan,
    networks: &[Network],
    trainer: &Path,
    record: &mut Record,
    keep: impl Fn(&mut Record) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for round in 1..=plan.study.times {
        for &precision in &plan.precisions {
            match study(plan, networks, trainer, round, precision) {
                Ok(study) => {
                    note!("study {round} of {}: {precision}: {:.2} s", plan.study.times, study.seconds);
                    record.studies.push(study);
                }
                Err(error) => {
                    note!("error: {error:#}");
                    record.failures.push(format!("study {round}: {error}"));
                }
            }
            keep(record)?;
        }
    }
    Ok(())
}

fn study(
    plan: &Plan,
    networks: &[Network],
    trainer: &Path,
    round: u32,
    precision: Precision,
) -> anyhow::Result<StudyTime> {
    let runs = tempfile::tempdir().context("no folder can be made for the runs of a study")?;
    let mut times = Vec::new();
    let start = Instant::now();
    for (number, network) in networks.iter().enumerate() {
        let start = Instant::now();
        train(plan, trainer, precision, &network.asked, &runs.path().join(number.to_string()))
            .with_context(|| format!("a study in {precision} failed on {}", network.name))?;
        times.push(NetworkTime { model: network.name.clone(), seconds: start.elapsed().as_secs_f64() });
    }
    let seconds = start.elapsed().as_secs_f64();
    let StudyPlan { epochs, data_dir, .. } = &plan.study;
    Ok(StudyTime {
        round,
        precision,
        epochs: *epochs,
        synthetic: data_dir.is_none(),
        networks: times,
        seconds,
    })
}

fn train(plan: &Plan, trainer: &Path, precision: Precision, model: &str, run: &Path) -> anyhow::Result<()> {
    let mut command = Command::new(trainer);
    command.args(["train", "--quiet", "--model", model, "--device", plan.device.name()]);
    command.args(["--engine", &plan.engine, "--precision", precision.name()]);
    command.args(["--epochs", &plan.study.epochs.to_string(), "--batch-size", &plan.batch.to_string()]);
    match &plan.study.data_dir {
        Some(folder) => command.arg("--data-dir").arg(folder),
        None => command.args(["--data", "synthetic"]),
    };
    let status = command.arg("--run-dir").arg(run).stdout(Stdio::null()).status();
    let status = status.context("the trainer cannot be started")?;
    ensure!(status.success(), "see the trainer's message above ({status})");
    Ok(())
}
