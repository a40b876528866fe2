//! The quick study again and again: rounds must become neither slower nor larger.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use pointwise_process::{Stop, note};
use pointwise_runs::Run;
use serde::{Deserialize, Serialize};

use super::record::Recorder;
use crate::{End, bench::median, print};

/// The share by which memory may grow, from the median of the first third of the rounds to that of the last.
const MEMORY: f64 = 0.01;
/// The same for time: growth beyond that, and beyond chance differences between rounds, is drift.
const TIME: f64 = 0.05;
/// Fewer rounds say nothing: there are at least this many, however long they take.
const ROUNDS: usize = 6;

/// One study.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Round {
    /// From 1.
    round: u32,
    seconds: f64,
    /// The largest of its trainings.
    peak_memory_bytes: u64,
    /// Of each of its trainings, by name.
    trainings: Vec<(String, f64, u64)>,
}

/// The result of all rounds.
#[derive(Debug, Serialize, PartialEq)]
struct Drift {
    rounds: usize,
    minutes: f64,
    /// Medians of the first and the last third.
    seconds: [f64; 2],
    peak_memory_bytes: [u64; 2],
    /// By how much two thirds may differ by chance, as a share.
    noise: f64,
    seconds_drift: f64,
    memory_drift: f64,
}

pub(super) fn run(
    trainer: &Path,
    folder: &Path,
    minutes: u32,
    stop: &Stop,
    record: &Recorder<'_>,
) -> anyhow::Result<End> {
    let (start, length) = (Instant::now(), Duration::from_secs(60 * u64::from(minutes)));
    let mut rounds: Vec<Round> = Vec::new();
    while start.elapsed() < length || rounds.len() < ROUNDS {
        let Some(round) = round(trainer, &folder.join("study"), rounds.len() as u32 + 1, stop)? else {
            return Ok(End::Interrupted);
        };
        record.write(&round)?;
        rounds.push(round);
    }
    let drift = drift(&rounds, start.elapsed());
    record.write(&drift)?;
    print(&format!(
        "{} rounds in {:.0} minutes: {:.2} s, then {:.2} s ({:+.1} %, of which {:.1} % may be chance); {:.1} MB, then {:.1} MB ({:+.2} %)\n",
        drift.rounds,
        drift.minutes,
        drift.seconds[0],
        drift.seconds[1],
        100.0 * drift.seconds_drift,
        100.0 * drift.noise,
        drift.peak_memory_bytes[0] as f64 / 1e6,
        drift.peak_memory_bytes[1] as f64 / 1e6,
        100.0 * drift.memory_drift
    ))?;
    let complaints = complaints(&drift);
    for complaint in &complaints {
        note!("error: {complaint}");
    }
    Ok(if complaints.is_empty() { End::Good } else { End::Bad })
}

/// Runs one study from its start to its report; `None` if it was interrupted.
fn round(trainer: &Path, out: &Path, number: u32, stop: &Stop) -> anyhow::Result<Option<Round>> {
    let start = Instant::now();
    let mut command = Command::new(trainer);
    command
        .args(["reproduce", "--quick", "--quiet", "--out"])
        .arg(out)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("{} cannot be started", trainer.display()))?;
    let status = stop.wait_for(&mut child).context("the study cannot be waited for")?;
    if stop.requested() {
        return Ok(None);
    }
    if !status.success() {
        bail!("the study of round {number} ended with {status}");
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut trainings = Vec::new();
    let runs = out.join("runs");
    for entry in fs::read_dir(&runs).with_context(|| format!("{} cannot be read", runs.display()))? {
        let entry = entry.with_context(|| format!("{} cannot be read", runs.display()))?;
        let run = Run::read(entry.path())?;
        let result = run.result.with_context(|| format!("{} has no result", entry.path().display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        trainings.push((name, result.seconds, result.peak_memory_bytes.unwrap_or(0)));
    }
    trainings.sort_by(|a, b| a.0.cmp(&b.0));
    let peak_memory_bytes = trainings.iter().map(|training| training.2).max().unwrap_or(0);
    fs::remove_dir_all(out).context("the study of a round cannot be removed")?;
    Ok(Some(Round { round: number, seconds, peak_memory_bytes, trainings }))
}

fn drift(rounds: &[Round], time: Duration) -> Drift {
    let third = rounds.len() / 3;
    let (first, last) = (&rounds[..third], &rounds[rounds.len() - third..]);
    let seconds = |rounds: &[Round]| middle(rounds.iter().map(|round| round.seconds));
    let memory = |rounds: &[Round]| middle(rounds.iter().map(|round| round.peak_memory_bytes as f64));
    let all = seconds(rounds);
    // The median of n differs by chance by 1.25 standard deviations over the root of n, and a standard deviation is 1.48 median deviations, even
    // if a few rounds are disturbed; the difference of two medians varies by the root of two more. Three times that is hardly chance.
    let deviation = middle(rounds.iter().map(|round| (round.seconds - all).abs()));
    let noise = 3.0 * 2.0_f64.sqrt() * 1.25 * 1.48 * deviation / (third as f64).sqrt() / all;
    let (seconds, memory) = ([seconds(first), seconds(last)], [memory(first), memory(last)]);
    Drift {
        rounds: rounds.len(),
        minutes: time.as_secs_f64() / 60.0,
        seconds,
        peak_memory_bytes: memory.map(|bytes| bytes as u64),
        noise,
        seconds_drift: seconds[1] / seconds[0] - 1.0,
        memory_drift: memory[1] / memory[0] - 1.0,
    }
}

fn complaints(drift: &Drift) -> Vec<String> {
    let mut complaints = Vec::new();
    if drift.seconds_drift > TIME.max(drift.noise) {
        complaints.push(format!(
            "a round takes {:.1} % longer at the end: look at `seconds` of the rounds in the record",
            100.0 * drift.seconds_drift
        ));
    }
    // Also if it is not known.
    if drift.memory_drift.is_nan() || drift.memory_drift > MEMORY {
        complaints.push(format!(
            "a round takes {:.2} % more memory at the end: look at `peak_memory_bytes` of the rounds in the record",
            100.0 * drift.memory_drift
        ));
    }
    complaints
}

/// The median; NaN if there are no values.
fn middle(values: impl Iterator<Item = f64>) -> f64 {
    median(values).unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds with a total drift of this much, and some noise.
    fn found(seconds: f64, memory: f64) -> Vec<String> {
        let rounds: Vec<Round> = (0..30)
            .map(|number| {
                let share = f64::from(number) / 29.0;
                let noise = [0.0, 0.3, -0.2, 0.1, -0.3, 2.0][number as usize % 6];
                Round {
                    round: number + 1,
                    seconds: 20.0 * (1.0 + seconds * share) + noise,
                    peak_memory_bytes: (1e8 * (1.0 + memory * share)) as u64,
                    trainings: Vec::new(),
                }
            })
            .collect();
        complaints(&drift(&rounds, Duration::from_secs(600)))
    }

    #[test]
    fn a_drift_is_told_from_noise() {
        assert_eq!(found(0.0, 0.0), Vec::<String>::new());
        assert_eq!(found(0.02, 0.01), Vec::<String>::new());
        assert_eq!(found(-0.5, -0.5), Vec::<String>::new());
        let both = found(0.2, 0.03);
        assert_eq!(both.len(), 2);
        assert!(both[0].contains("longer at the end") && both[1].contains("2.0"), "{both:?}");
    }
}
