//! Puts a Slurm job whose time is up back into the queue, to continue.

use std::{process::Command, time::Duration};

use crate::{
    Error, Result,
    bounded::{Answer, answer},
};

/// The job is killed soon: `--signal=B:USR1@60` leaves a minute, part of which the checkpoint has used.
const LIMIT: Duration = Duration::from_secs(20);

/// How often a job may go back into the queue. A run that makes no progress between two starts would do so forever, and take a node each time;
/// one that needs more than a hundred time limits should have longer ones.
const MAX_RESTARTS: u32 = 100;

/// The Slurm job, or task of a job array, that this process runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlurmJob {
    id: String,
    restarts: u32,
}

impl SlurmJob {
    /// The variable that makes a process part of a job: a program without it in its environment does not know about its parent's job.
    pub const VARIABLE: &str = "SLURM_JOB_ID";

    /// The job of this process; `None` outside of one.
    #[must_use]
    pub fn current() -> Option<Self> {
        Self::of(|name| std::env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let job = variable(Self::VARIABLE)?;
        // The last task of an array has the array's own job id, which would name all of them.
        let task = variable("SLURM_ARRAY_JOB_ID").zip(variable("SLURM_ARRAY_TASK_ID"));
        let id = task.map_or(job, |(array, task)| format!("{array}_{task}"));
        let restarts = variable("SLURM_RESTART_COUNT").and_then(|count| count.parse().ok()).unwrap_or(0);
        Some(Self { id, restarts })
    }

    /// `JOB`, or `ARRAY_TASK`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Puts the job back into the queue, which ends this process soon.
    ///
    /// # Errors
    /// [`Error::Scheduler`] if Slurm refuses or does not answer, or if this was done too often.
    pub fn requeue(&self) -> Result<()> {
        if self.restarts >= MAX_RESTARTS {
            return Err(Error::Scheduler(format!(
                "job {} was started again {} times already; submit it again, with a longer --time",
                self.id, self.restarts
            )));
        }
        let Answer { status, stderr, .. } =
            answer(Command::new("scontrol").args(["requeue", &self.id]), LIMIT)?;
        // Without an exit code it was killed: by Slurm, which ends a job's processes as soon as it is in the queue again.
        match status.code() {
            Some(0) | None => Ok(()),
            Some(_) => {
                Err(Error::Scheduler(format!("`scontrol requeue {}` was refused ({stderr})", self.id)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(variables: &[(&str, &str)]) -> Option<SlurmJob> {
        SlurmJob::of(|name| {
            variables.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_job_is_known_by_its_variables() {
        let array = [("SLURM_ARRAY_JOB_ID", "7"), ("SLURM_ARRAY_TASK_ID", "3")];
        assert_eq!(job(&[]), None);
        // A parent's variables, without the job's own.
        assert_eq!(job(&array), None);
        let alone = job(&[(SlurmJob::VARIABLE, "9")]).unwrap();
        assert_eq!((alone.id(), alone.restarts), ("9", 0));
        let task = job(&[array[0], array[1], ("SLURM_JOB_ID", "9"), ("SLURM_RESTART_COUNT", "2")]).unwrap();
        assert_eq!((task.id(), task.restarts), ("7_3", 2));
    }

    #[test]
    fn a_job_does_not_start_again_forever() {
        let often = SlurmJob { id: "7_3".to_owned(), restarts: MAX_RESTARTS };
        let error = often.requeue().unwrap_err().to_string();
        assert_eq!(
            error,
            "job 7_3 was started again 100 times already; submit it again, with a longer --time"
        );
    }
}
