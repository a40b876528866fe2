use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{
    Analysis, Environment, EpochRecord, Error, Progress, Record, Result, RunConfig, RunResult, State,
    StepRecord,
    analysis::read_analysis,
    files::{read, read_json, read_json_if_exists},
    folder::{
        ANALYSIS, ENVIRONMENT, MAX_METRICS, METRICS, PROGRESS, RESULT, Writer, complete_lines, holds_run,
        parse_line, read_config, writer,
    },
};

/// An active run renews its progress every few seconds, except during an evaluation, which can take minutes.
const SILENCE: Duration = Duration::from_secs(300);

/// The state of a run, as far as its folder shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// A process is at work on it.
    Running,
    /// It has a result.
    Finished,
    /// It stopped on request and can be resumed.
    Interrupted,
    /// It stopped at `max-steps` and can be resumed.
    Limited,
    /// It stopped with an error.
    Failed,
    /// Its process was killed before it could record that; it can be resumed.
    Stale,
}

impl Activity {
    /// In one word, lower-case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Interrupted => "interrupted",
            Self::Limited => "limited",
            Self::Failed => "failed",
            Self::Stale => "stale",
        }
    }
}

/// A run as found on disk, under way or finished. Reading never disturbs the writer.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The run folder.
    pub path: PathBuf,
    /// How the run was configured.
    pub config: RunConfig,
    /// Where it took place, or was last resumed.
    pub environment: Environment,
    /// The complete lines of `metrics.jsonl`, in order.
    pub records: Vec<Record>,
    /// How far it is, once it has recorded that.
    pub progress: Option<Progress>,
    /// The outcome; `None` until the run is finished.
    pub result: Option<RunResult>,
}

impl Run {
    /// Reads a run folder. An unterminated last line of `metrics.jsonl` is being written, or was torn by a kill: it is
    /// ignored.
    ///
    /// # Errors
    /// [`Error::NotARun`] if there is no `config.toml`, [`Error::MalformedLine`] or [`Error::Malformed`] naming what cannot
    /// be understood, [`Error::Read`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if !holds_run(path) {
            return Err(Error::NotARun { path: path.into() });
        }
        // The result first: once it exists, the metrics that are read afterwards are complete.
        let result = read_json_if_exists(&path.join(RESULT))?;
        Ok(Self {
            path: path.into(),
            config: read_config(path)?,
            environment: read_json(&path.join(ENVIRONMENT))?,
            records: read_records(&path.join(METRICS))?,
            progress: read_json_if_exists(&path.join(PROGRESS))?,
            result,
        })
    }

    /// The state of the run. The lock that a writer holds shows whether a process is at work on it; on a file system without locks, a
    /// run counts as running if it wrote anything in the last five minutes.
    pub fn activity(&self) -> Activity {
        if self.is_finished() {
            return Activity::Finished;
        }
        let running = match writer(&self.path) {
            Writer::AtWork => true,
            Writer::None => false,
            Writer::Unknown => {
                let progress = self.progress.as_ref().map(|progress| (progress.state, &*progress.updated));
                seems_at_work(&self.environment.started, progress, SystemTime::now())
            }
        };
        if running {
            return Activity::Running;
        }
        match self.progress.as_ref().map(|progress| progress.state) {
            Some(State::Interrupted) => Activity::Interrupted,
            Some(State::Limited) => Activity::Limited,
            Some(State::Failed) => Activity::Failed,
            Some(State::Running | State::Finished) | None => Activity::Stale,
        }
    }

    /// The analysis of the final parameters, read from the folder by this call; `None` if there is none, as for a run that is not
    /// finished or of an earlier version.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming what cannot be understood, [`Error::Read`].
    pub fn analysis(&self) -> Result<Option<Analysis>> {
        read_analysis(&self.path.join(ANALYSIS))
    }

    /// Whether the run has a result.
    pub fn is_finished(&self) -> bool {
        self.result.is_some()
    }

    /// The epoch records, in order.
    pub fn epochs(&self) -> impl Iterator<Item = &EpochRecord> {
        self.records.iter().filter_map(|record| match record {
            Record::Epoch(epoch) => Some(epoch),
            Record::Step(_) => None,
        })
    }

    /// The step records, in order.
    pub fn steps(&self) -> impl Iterator<Item = &StepRecord> {
        self.records.iter().filter_map(|record| match record {
            Record::Step(step) => Some(step),
            Record::Epoch(_) => None,
        })
    }
}

/// Whether a run was under way at its last sign of activity, and that was recent. Times are in the form of
/// [`timestamp`](crate::timestamp).
fn seems_at_work(started: &str, progress: Option<(State, &str)>, now: SystemTime) -> bool {
    // The progress may date from before the last resume.
    let last = match progress.filter(|(_, updated)| *updated >= started) {
        Some((State::Running, updated)) => updated,
        Some(_) => return false,
        None => started,
    };
    // A time in the future comes from another machine's clock.
    humantime::parse_rfc3339(last).is_ok_and(|last| now.duration_since(last).unwrap_or_default() < SILENCE)
}

fn read_records(path: &Path) -> Result<Vec<Record>> {
    let bytes = read(path, MAX_METRICS)?;
    complete_lines(&bytes).enumerate().map(|(index, line)| parse_line(path, index, line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_lock_a_run_is_at_work_that_was_heard_of_lately() {
        let (noon, later) = ("2026-01-31T12:00:00Z", "2026-01-31T12:30:00Z");
        let at = |time: &str| humantime::parse_rfc3339(time).unwrap();
        let (soon, late) = (Duration::from_secs(60), Duration::from_secs(600));
        for (started, progress, now, expected) in [
            (noon, None, at(noon) + soon, true),
            (noon, None, at(noon) + late, false),
            (noon, Some((State::Running, later)), at(later) + soon, true),
            (noon, Some((State::Running, later)), at(later) + late, false),
            (noon, Some((State::Interrupted, later)), at(later) + soon, false),
            // It was resumed, and has recorded nothing since.
            (later, Some((State::Interrupted, noon)), at(later) + soon, true),
            (later, Some((State::Running, noon)), at(later) + late, false),
            // The clock of the machine that trains is ahead.
            (later, None, at(noon), true),
            ("soon", None, at(noon), false),
        ] {
            assert_eq!(seems_at_work(started, progress, now), expected, "{started} {progress:?} {now:?}");
        }
    }
}
