//! Training of the runs of a study, several at once: trainers are started, followed by their files, and stopped.

use std::{
    collections::VecDeque,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use pointwise_report::NetworkFacts;
use pointwise_runs::{Run, holds_run, threads_of_environment};

use crate::{
    display::{Display, Row, Stage},
    plan::{Job, Plan, estimate, macs, schedule, share},
    trainer::Stop,
};

/// How often it is looked whether a trainer has ended, and for a signal.
const PERIOD: Duration = Duration::from_millis(50);
/// How often the files of the runs are read.
const LOOK_PERIOD: Duration = Duration::from_millis(500);
/// So much of what a trainer said last is kept for a message.
const TAIL: u64 = 4096;

/// Trains every job whose run is not finished, `plan.jobs` at once, and gives the runs of all jobs; `None` if it was interrupted.
///
/// A run that fails does not stop those that go on beside it, but none is started after it.
///
/// # Errors
/// If a run fails: what it said, and what has become of the others.
pub(crate) fn train(
    plan: &Plan,
    trainer: &Path,
    jobs: &[Job],
    existing: Vec<Option<Run>>,
    facts: &[NetworkFacts],
    stop: &Stop,
    display: &mut Display,
) -> anyhow::Result<Option<Vec<Run>>> {
    let mut rows: Vec<Row> = Vec::with_capacity(jobs.len());
    let mut finished = Vec::new();
    let mut waiting = VecDeque::new();
    for (index, (job, run)) in jobs.iter().zip(existing).enumerate() {
        let mut row = Row::waiting(job.name(), plan.epochs);
        match run {
            Some(run) if run.is_finished() => {
                row.read(&run);
                finished.push(run);
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
        return Ok(Some(finished));
    }
    let places = Places::of(plan)?;
    let mut session =
        Session { plan, trainer, jobs, facts, places, rows, finished, waiting, active: Vec::new() };
    session.run(stop, display)
}

/// How many runs go on at once, and on how many threads in all.
struct Places {
    runs: usize,
    threads: u32,
}

impl Places {
    fn of(plan: &Plan) -> anyhow::Result<Self> {
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
    facts: &'a [NetworkFacts],
    places: Places,
    /// One for each job.
    rows: Vec<Row>,
    finished: Vec<Run>,
    /// Indices of jobs.
    waiting: VecDeque<usize>,
    active: Vec<Trainer>,
}

impl Session<'_> {
    fn run(&mut self, stop: &Stop, display: &mut Display) -> anyhow::Result<Option<Vec<Run>>> {
        if self.plan.jobs as usize > self.places.runs {
            let Places { runs, threads } = self.places;
            display.note(&format!(
                "{runs} runs at once instead of {}: there are {threads} computing threads",
                self.plan.jobs
            ));
        }
        let (mut failures, mut interrupted) = (Vec::new(), false);
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
                let Some(status) =
                    self.active[index].child.try_wait().context("a trainer cannot be waited for")?
                else {
                    index += 1;
                    continue;
                };
                let mut trainer = self.active.swap_remove(index);
                let job = &self.jobs[trainer.job];
                if interrupted || status.code() == Some(130) {
                    self.rows[trainer.job].stage = Stage::Interrupted;
                    if !interrupted {
                        interrupted = true;
                        self.stop_all(display);
                    }
                } else if let Err(reason) = self.take(trainer.job, status.success()) {
                    self.rows[trainer.job].stage = Stage::Failed;
                    let (name, seed, said) = (&job.model, job.seed, trainer.said());
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
                self.plan.out.join("runs").display()
            );
            bail!("{}; {others}", failures.join("; "));
        }
        Ok(Some(std::mem::take(&mut self.finished)))
    }

    /// Fills the free places.
    fn start(&mut self, display: &mut Display) -> anyhow::Result<()> {
        while self.active.len() < self.places.runs
            && let Some(job) = self.waiting.pop_front()
        {
            let used: u32 = self.active.iter().map(|trainer| trainer.threads).sum();
            let free_places = self.places.runs - self.active.len();
            let threads =
                share(self.places.threads.saturating_sub(used), free_places, self.waiting.len() + 1);
            let mut command = Command::new(self.trainer);
            command.args(self.plan.train_arguments(&self.jobs[job])).arg("--quiet");
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
        self.finished.push(run);
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
            let weight = macs(&job.model, self.facts).unwrap_or(1.0);
            done += weight * row.share;
            all += weight;
        }
        done / all
    }

    /// Until the last run ends; `None` while nothing tells.
    fn seconds_left(&self) -> Option<f64> {
        let mut known: Vec<(&str, f64)> = self
            .finished
            .iter()
            .filter_map(|run| Some((run.config.model.as_str(), run.result.as_ref()?.seconds)))
            .collect();
        let under_way = |trainer: &Trainer| self.rows[trainer.job].seconds_left;
        known.extend(self.active.iter().filter_map(|trainer| {
            let whole = self.rows[trainer.job].seconds + under_way(trainer)?;
            Some((self.jobs[trainer.job].model.as_str(), whole))
        }));
        // An unfinished run has some seconds behind it.
        let expected = |job: usize| {
            let whole = estimate(&self.jobs[job].model, &known, self.facts)?;
            Some((whole - self.rows[job].seconds).max(0.0))
        };
        let running: Option<Vec<f64>> =
            self.active.iter().map(|trainer| under_way(trainer).or_else(|| expected(trainer.job))).collect();
        let waiting: Option<Vec<f64>> = self.waiting.iter().map(|job| expected(*job)).collect();
        Some(schedule(&running?, &waiting?, self.places.runs))
    }
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
    fn start(job: usize, threads: u32, mut command: Command) -> anyhow::Result<Self> {
        let stderr = tempfile::tempfile().context("a temporary file cannot be made")?;
        let kept = stderr.try_clone().context("a temporary file cannot be used")?;
        command.stdout(Stdio::null()).stderr(kept);
        pointwise_process::tie(&mut command);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let name = command.get_program().to_owned();
        let child =
            command.spawn().with_context(|| format!("{} cannot be started", Path::new(&name).display()))?;
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

/// The end of a file; nothing of one that cannot be read.
pub(crate) fn tail(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file.metadata().and_then(|about| {
        file.seek(SeekFrom::Start(about.len().saturating_sub(TAIL)))?;
        file.read_to_end(&mut bytes)
    });
    read.map_or(String::new(), |_| String::from_utf8_lossy(&bytes).into_owned())
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
