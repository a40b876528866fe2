//! Training of the runs of a study, several at once: trainers are started, followed by their files, and stopped.

use std::{
    collections::VecDeque,
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use pointwise_process::{Stop, tail};
use pointwise_runs::{Run, holds_run, threads_of_environment};

use crate::{
    Error, Job, Plan, Result, SlurmJob,
    display::{Display, Row, Stage},
    plan::{estimate, runs_folder, schedule, share},
};

/// The exit code of a trainer that was asked to stop, and can continue.
pub const INTERRUPTED: u8 = 130;
/// The exit code of a trainer whose run another process is at work on.
pub const IN_USE: u8 = 6;

/// How often it is looked whether a trainer has ended, and for a signal.
const PERIOD: Duration = Duration::from_millis(50);
/// How often the files of the runs are read.
const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// Trains every job of a plan whose run is not finished, several at once, with that program `trainer`, and gives the runs of all jobs;
/// `None` if it was interrupted. `existing` is [`Plan::existing`].
///
/// A run that fails does not stop those that go on beside it, but none is started after it. One that another process is at work on is
/// left to that.
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
    let mut session =
        Session { plan, trainer, jobs: &jobs, weights, places, rows, finished, waiting, active: Vec::new() };
    session.run(stop, display)
}

/// How many runs go on at once, and on how many threads in all.
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
        Ok(Self { runs: plan.jobs.min(threads) as usize, threads })
    }
}

struct Session<'a> {
    plan: &'a Plan,
    trainer: &'a Path,
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
    active: Vec<Trainer>,
}

impl Session<'_> {
    fn run(&mut self, stop: &Stop, display: &mut Display) -> Result<Option<Vec<Run>>> {
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
                self.kill_all();
            }
            if !interrupted && failures.is_empty() {
                self.start(display)?;
            }
            if self.active.is_empty() {
                break;
            }
            let mut index = 0;
            while index < self.active.len() {
                let waited = self.active[index].child.try_wait();
                let Some(status) = waited.map_err(|cause| system("a trainer cannot be waited for", cause))?
                else {
                    index += 1;
                    continue;
                };
                let mut trainer = self.active.swap_remove(index);
                let job = &self.jobs[trainer.job];
                if interrupted || status.code() == Some(INTERRUPTED.into()) {
                    self.rows[trainer.job].stage = Stage::Interrupted;
                    if !interrupted {
                        interrupted = true;
                        self.stop_all(display);
                    }
                } else if status.code() == Some(IN_USE.into()) {
                    self.rows[trainer.job].stage = Stage::InUse;
                    in_use.push(job.title());
                } else if let Err(reason) = self.take(trainer.job, status.success()) {
                    self.rows[trainer.job].stage = Stage::Failed;
                    let (name, seed, said) = (&job.name, job.seed, trainer.said());
                    let message =
                        format!("the run of {name} with seed {seed} failed ({status}{reason}): {said}");
                    if !self.active.is_empty() {
                        display.note(&format!(
                            "{message}\nthe other runs under way go on to their end, none is started after them"
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
            return Ok(None);
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
            return Err(Error::Failed(format!("{}; {others}", failures.join("; "))));
        }
        if !in_use.is_empty() {
            return Err(Error::InUse(format!(
                "other processes are at work on {}; {} of {} runs are finished, and the same command continues once those have ended",
                in_use.join(" and "),
                self.finished.len(),
                self.jobs.len()
            )));
        }
        let mut finished = std::mem::take(&mut self.finished);
        finished.sort_by_key(|(job, _)| *job);
        Ok(Some(finished.into_iter().map(|(_, run)| run).collect()))
    }

    /// Fills the free places.
    fn start(&mut self, display: &mut Display) -> Result<()> {
        while self.active.len() < self.places.runs
            && let Some(job) = self.waiting.pop_front()
        {
            let used: u32 = self.active.iter().map(|trainer| trainer.threads).sum();
            let free_places = self.places.runs - self.active.len();
            let threads =
                share(self.places.threads.saturating_sub(used), free_places, self.waiting.len() + 1);
            let mut command = Command::new(self.trainer);
            command.args(self.plan.train_arguments(&self.jobs[job]));
            // A Slurm job that this is a part of is ours to put back into the queue.
            command.env_remove(SlurmJob::VARIABLE);
            if self.plan.jobs > 1 {
                command.env("RAYON_NUM_THREADS", threads.to_string());
            }
            self.active.push(Trainer::start(job, threads, command)?);
            self.rows[job].stage = Stage::Running;
            let number = self.jobs.len() - self.waiting.len();
            display.started(number, self.jobs.len(), &self.rows[job], self.seconds_left());
        }
        Ok(())
    }

    /// Takes a run that has ended into the finished ones; an error is a part of a sentence, or empty.
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

    /// Reads how far the runs under way are. One that is not there yet, or just being written, is looked at again next time.
    fn look(&mut self) {
        for trainer in &self.active {
            let folder = &self.jobs[trainer.job].folder;
            if holds_run(folder)
                && let Ok(run) = Run::read(folder)
                && !run.is_finished()
            {
                self.rows[trainer.job].read(&run);
            }
        }
    }

    /// Asks all runs for a checkpoint and an end.
    fn stop_all(&mut self, display: &Display) {
        if !self.active.is_empty() {
            display.note("stopping all runs after the step in hand (a second Ctrl-C stops at once)");
        }
        for trainer in &mut self.active {
            trainer.stop();
        }
    }

    /// A run survives a kill at any moment.
    fn kill_all(&mut self) {
        for trainer in &mut self.active {
            // One that has just ended cannot be killed, and need not.
            let _ = trainer.child.kill();
        }
    }

    /// Of all work, by multiply-accumulates, the fraction that is done.
    fn share(&self) -> f64 {
        let (mut done, mut all) = (0.0, 0.0);
        for (job, row) in self.jobs.iter().zip(&self.rows) {
            let weight = self.weights[job.arm];
            done += weight * row.share;
            all += weight;
        }
        done / all
    }

    /// Until the last run ends; `None` while nothing tells.
    fn seconds_left(&self) -> Option<f64> {
        let mut known: Vec<(usize, f64)> = self
            .finished
            .iter()
            .filter_map(|(job, run)| Some((self.jobs[*job].arm, run.result.as_ref()?.seconds)))
            .collect();
        let under_way = |trainer: &Trainer| self.rows[trainer.job].seconds_left;
        known.extend(self.active.iter().filter_map(|trainer| {
            let whole = self.rows[trainer.job].seconds + under_way(trainer)?;
            Some((self.jobs[trainer.job].arm, whole))
        }));
        // An unfinished run has some seconds behind it.
        let expected = |job: usize| {
            let whole = estimate(self.jobs[job].arm, &known, &self.weights)?;
            Some((whole - self.rows[job].seconds).max(0.0))
        };
        let running: Option<Vec<f64>> =
            self.active.iter().map(|trainer| under_way(trainer).or_else(|| expected(trainer.job))).collect();
        let waiting: Option<Vec<f64>> = self.waiting.iter().map(|job| expected(*job)).collect();
        Some(schedule(&running?, &waiting?, self.places.runs))
    }
}

fn system(what: &str, cause: std::io::Error) -> Error {
    Error::System { what: what.to_owned(), cause }
}

/// A trainer at work. It is ended with us, whatever ends us.
struct Trainer {
    job: usize,
    threads: u32,
    child: Child,
    /// A file without a name: what it says is of interest only if it fails.
    stderr: File,
}

impl Trainer {
    /// Starts it in a process group of its own, so that a Ctrl-C reaches us alone; and tied to us, so that it stops when we end in a way
    /// that leaves us no time to ask it.
    fn start(job: usize, threads: u32, mut command: Command) -> Result<Self> {
        let temporary = tempfile::tempfile().and_then(|file| Ok((file.try_clone()?, file)));
        let (kept, stderr) = temporary.map_err(|cause| system("a temporary file cannot be made", cause))?;
        command.stdout(Stdio::null()).stderr(kept);
        pointwise_process::tie(&mut command);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let name = command.get_program().to_owned();
        let failed = |cause| system(&format!("{} cannot be started", Path::new(&name).display()), cause);
        let child = command.spawn().map_err(failed)?;
        Ok(Self { job, threads, child, stderr })
    }

    /// Asks for a checkpoint and an end, as our own end would.
    fn stop(&mut self) {
        drop(self.child.stdin.take());
    }

    /// The end of what it said, without the word `error`.
    fn said(&mut self) -> String {
        let text = tail(&mut self.stderr);
        match text.trim() {
            "" => "it said nothing".to_owned(),
            text => text.strip_prefix("error: ").unwrap_or(text).to_owned(),
        }
    }
}

impl Drop for Trainer {
    fn drop(&mut self) {
        // Only after an error of ours is it still at work.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
