//! Training of the runs of a study, several at once: trainers are started, followed through their files, and stopped.

use std::{
    collections::VecDeque,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use pointwise_process::Stop;
use pointwise_runs::{Run, holds_run, threads_of_environment};

use crate::{
    Error, Job, Plan, Result,
    display::{Display, Row, Stage},
    plan::{estimate, runs_folder, schedule, share},
    trainers::{Ended, Trainers},
};

/// The exit code of a trainer that was asked to stop and can continue.
pub const INTERRUPTED: u8 = 130;
/// The exit code of a trainer whose run is in use by another process.
pub const IN_USE: u8 = 6;

/// How often ended trainers and signals are checked for.
const PERIOD: Duration = Duration::from_millis(50);
/// How often the files of the runs are read.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// Trains every job of a plan whose run is not finished, several at once, with the program `trainer`, and returns the runs of all jobs; `None`
/// if it was interrupted. `existing` is [`Plan::existing`].
///
/// A run that fails does not stop other running ones, but no more are started after it. A run that another process is working on is left to that
/// process.
///
/// # Errors
/// [`Error::Failed`] if a run fails; else [`Error::InUse`] if one is left to another process.
pub fn train(
    plan: &Plan,
    trainer: &Path,
    existing: Vec<Option<Run>>,
    stop: &Stop,
    display: &mut Display,
) -> Result<Option<Vec<Run>>> {
    let jobs = plan.jobs();
    let mut rows: Vec<Row> = Vec::with_capacity(jobs.len());
    let mut finished = Vec::new();
    let mut waiting = VecDeque::new();
    for (index, (job, run)) in jobs.iter().zip(existing).enumerate() {
        let mut row = Row::waiting(job.title(), plan.arms[job.arm].recipe.epochs);
        match run {
            Some(run) if run.is_finished() => {
                row.read(&run);
                finished.push((index, run));
            }
            run => {
                if let Some(run) = &run {
                    row.read(run);
                }
                waiting.push_back(index);
            }
        }
        rows.push(row);
    }
    if waiting.is_empty() {
        return Ok(Some(finished.into_iter().map(|(_, run)| run).collect()));
    }
    let places = Places::of(plan)?;
    let weights = plan.weights();
    let trainers = Trainers::of(plan, trainer);
    let mut session =
        Session { plan, trainers, jobs: &jobs, weights, places, rows, finished, waiting, active: Vec::new() };
    let outcome = session.run(stop, display)?;
    session.trainers.finish(stop)?;
    outcome
}

/// How many runs are trained at once, and on how many threads in all.
struct Places {
    runs: usize,
    threads: u32,
}

impl Places {
    fn of(plan: &Plan) -> Result<Self> {
        let of_machine = || thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let threads = match plan.threads {
            Some(threads) => threads,
            None => threads_of_environment()?.unwrap_or_else(of_machine),
        };
        // Runs in one process share its threads, of which they need few.
        let runs = if plan.in_one_process { plan.jobs } else { plan.jobs.min(threads) };
        Ok(Self { runs: runs as usize, threads })
    }
}

struct Session<'a> {
    plan: &'a Plan,
    trainers: Trainers<'a>,
    jobs: &'a [Job],
    /// Of each arm.
    weights: Vec<f64>,
    places: Places,
    /// One for each job.
    rows: Vec<Row>,
    /// With the indices of their jobs.
    finished: Vec<(usize, Run)>,
    /// Indices of jobs.
    waiting: VecDeque<usize>,
    active: Vec<Active>,
}

/// A run under way.
struct Active {
    job: usize,
    /// Its share of the computing threads, where it has a process of its own.
    threads: u32,
}

impl Session<'_> {
    /// The outer result is about the means of training, the inner one about the runs.
    fn run(&mut self, stop: &Stop, display: &mut Display) -> Result<Result<Option<Vec<Run>>>> {
        if self.plan.in_one_process && !matches!(display, Display::Quiet) {
            display.note(&format!("{} runs at once, on threads of one process", self.places.runs));
        }
        if self.plan.jobs as usize > self.places.runs {
            let Places { runs, threads } = self.places;
            display.note(&format!(
                "{runs} runs at once instead of {}: there are {threads} computing threads",
                self.plan.jobs
            ));
        }
        let (mut failures, mut in_use, mut interrupted) = (Vec::new(), Vec::new(), false);
        let mut looked: Option<Instant> = None;
        loop {
            if stop.requested() && !interrupted {
                interrupted = true;
                self.stop_all(display);
            }
            if stop.at_once() {
                self.trainers.kill();
            }
            if !interrupted && failures.is_empty() {
                self.start(display)?;
            }
            if self.active.is_empty() {
                break;
            }
            let ended = self.trainers.ended()?;
            self.active.retain(|active| ended.iter().all(|ended| ended.job != active.job));
            for Ended { job: index, code, status, said } in ended {
                let job = &self.jobs[index];
                if interrupted || code == Some(INTERRUPTED.into()) {
                    self.rows[index].stage = Stage::Interrupted;
                    if !interrupted {
                        interrupted = true;
                        self.stop_all(display);
                    }
                } else if code == Some(IN_USE.into()) {
                    self.rows[index].stage = Stage::InUse;
                    in_use.push(job.title());
                } else if let Err(reason) = self.take(index, code == Some(0)) {
                    self.rows[index].stage = Stage::Failed;
                    let (name, seed) = (&job.name, job.seed);
                    let message =
                        format!("the run of {name} with seed {seed} failed ({status}{reason}): {said}");
                    if !self.active.is_empty() {
                        display.note(&format!(
                            "{message}\nthe other runs continue to their end, and no more are started"
                        ));
                    }
                    failures.push(message);
                }
                looked = None;
            }
            if looked.is_none_or(|when| when.elapsed() >= LOOK_PERIOD) {
                looked = Some(Instant::now());
                self.look();
                display.show(&self.rows, self.share(), self.seconds_left());
            }
            thread::sleep(PERIOD);
        }
        if interrupted {
            return Ok(Ok(None));
        }
        if !failures.is_empty() {
            let others = format!(
                "{} of {} runs are finished, {} were not started; the run folders in {} keep what was done, and the same command \
                 continues",
                self.finished.len(),
                self.jobs.len(),
                self.waiting.len(),
                runs_folder(&self.plan.out).display()
            );
            return Ok(Err(Error::Failed(format!("{}; {others}", failures.join("; ")))));
        }
        if !in_use.is_empty() {
            return Ok(Err(Error::InUse(format!(
                "other processes are at work on {}; {} of {} runs are finished, and the same command continues once those have ended",
                in_use.join(" and "),
                self.finished.len(),
                self.jobs.len()
            ))));
        }
        let mut finished = std::mem::take(&mut self.finished);
        finished.sort_by_key(|(job, _)| *job);
        Ok(Ok(Some(finished.into_iter().map(|(_, run)| run).collect())))
    }

    /// Starts runs in the free places.
    fn start(&mut self, display: &mut Display) -> Result<()> {
        while self.active.len() < self.places.runs
            && let Some(job) = self.waiting.pop_front()
        {
            let used: u32 = self.active.iter().map(|active| active.threads).sum();
            let free_places = self.places.runs - self.active.len();
            let share = share(self.places.threads.saturating_sub(used), free_places, self.waiting.len() + 1);
            let threads = match (self.plan.in_one_process, self.plan.jobs) {
                (true, _) => Some(self.places.threads),
                (false, 1) => None,
                (false, _) => Some(share),
            };
            self.trainers.start(job, self.plan.train_arguments(&self.jobs[job]), threads)?;
            self.active.push(Active { job, threads: share });
            self.rows[job].stage = Stage::Running;
            let number = self.jobs.len() - self.waiting.len();
            display.started(number, self.jobs.len(), &self.rows[job], self.seconds_left());
        }
        Ok(())
    }

    /// Adds a run that has ended to the finished ones; an error is a part of a sentence, or empty.
    fn take(&mut self, job: usize, success: bool) -> Result<(), String> {
        if !success {
            return Err(String::new());
        }
        let run = Run::read(&self.jobs[job].folder).map_err(|error| format!(", {error}"))?;
        if !run.is_finished() {
            return Err(", without a result".to_owned());
        }
        self.rows[job].read(&run);
        self.finished.push((job, run));
        Ok(())
    }

    /// Reads the progress of the active runs. One that does not exist yet, or is just being written, is read again next time.
    fn look(&mut self) {
        for active in &self.active {
            let folder = &self.jobs[active.job].folder;
            if holds_run(folder)
                && let Ok(run) = Run::read(folder)
                && !run.is_finished()
            {
                self.rows[active.job].read(&run);
            }
        }
    }

    /// Asks all runs to write a checkpoint and stop.
    fn stop_all(&mut self, display: &Display) {
        if !self.active.is_empty() {
            display.note("stopping all runs after the current step (a second Ctrl-C stops at once)");
        }
        self.trainers.stop();
    }

    /// The fraction of all work, by multiply-accumulates, that is done.
    fn share(&self) -> f64 {
        let (mut done, mut all) = (0.0, 0.0);
        for (job, row) in self.jobs.iter().zip(&self.rows) {
            let weight = self.weights[job.arm];
            done += weight * row.share;
            all += weight;
        }
        done / all
    }

    /// Until the last run ends; `None` while unknown.
    fn seconds_left(&self) -> Option<f64> {
        let mut known: Vec<(usize, f64)> = self
            .finished
            .iter()
            .filter_map(|(job, run)| Some((self.jobs[*job].arm, run.result.as_ref()?.seconds)))
            .collect();
        let under_way = |active: &Active| self.rows[active.job].seconds_left;
        known.extend(self.active.iter().filter_map(|active| {
            let whole = self.rows[active.job].seconds + under_way(active)?;
            Some((self.jobs[active.job].arm, whole))
        }));
        // An unfinished run may already have some seconds.
        let expected = |job: usize| {
            let whole = estimate(self.jobs[job].arm, &known, &self.weights)?;
            Some((whole - self.rows[job].seconds).max(0.0))
        };
        let running: Option<Vec<f64>> =
            self.active.iter().map(|active| under_way(active).or_else(|| expected(active.job))).collect();
        let waiting: Option<Vec<f64>> = self.waiting.iter().map(|job| expected(*job)).collect();
        Some(schedule(&running?, &waiting?, self.places.runs))
    }
}
