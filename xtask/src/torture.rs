//! `cargo xtask torture`: small trainings and studies are killed at random moments and continued until they are finished, and their files must
//! then equal those of undisturbed ones, byte for byte; or the quick study is repeated for long, and must become neither slower nor larger.
//!
//! A moment is drawn in one of two ways: either uniformly, or within a particular phase of the process, as its files show: chance alone would
//! hardly hit the short phases.

mod compare;
mod draws;
mod endurance;
mod phase;
mod processes;
mod record;
mod workload;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use pointwise_process::{Stop, note};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use self::{
    compare::{Files, broken, differences, files, left_over, level},
    draws::Draws,
    phase::{Before, Phase},
    processes::Processes,
    record::Recorder,
    workload::{Workload, workloads},
};
use crate::{
    End, print,
    trainer::{build, program},
};

const AFTER: &str = "\
Workloads: training (a checkpoint after every step), images (read from files first), study (`reproduce --jobs 2`), shards (two \
processes train one study, as tasks of a cluster do). After each kill all files must be whole, and at the end all must equal the \
undisturbed ones, byte for byte, except for measured times and memory. One in eight disturbances is a request to stop (SIGINT, \
SIGTERM, SIGHUP or SIGUSR1) instead, which must leave a checkpoint. If something differs, the folder is kept and named. \
Exit codes: 0 nothing differs, 1 something does, 2 wrong usage, 130 interrupted.";

/// How often the phase of a process is checked.
const PERIOD: Duration = Duration::from_micros(200);
/// A process in the phase aimed at is killed at most this long after the phase began.
const LATE: Duration = Duration::from_millis(4);
/// Shares of all disturbances.
const REQUESTS: f64 = 0.125;
const AIMED: f64 = 0.7;
/// After at most this many kills a workload is left alone, so that it is finished and compared.
const KILLS_AT_ONCE: f64 = 12.0;
/// The exit codes of a trainer that was asked to stop, and of one whose run another process is working on.
const INTERRUPTED: i32 = 130;
const IN_USE: i32 = 6;

/// The options, as typed.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// The number of kills, in all workloads together.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    kills: u32,
    /// The seed of the random moments.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Repeat the quick study for this many minutes instead: later rounds must take neither more time nor more memory than the first ones.
    #[arg(long = "loop", value_name = "MINUTES", conflicts_with_all = ["kills", "seed"], value_parser = clap::value_parser!(u32).range(1..=10_000))]
    minutes: Option<u32>,
    /// Append the results to this file, as lines of JSON.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Use this trainer instead of building one.
    #[arg(long, value_name = "FILE")]
    trainer: Option<PathBuf>,
    /// Work in a new folder within this one [default: that of temporary files].
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// The result of a workload: a line of a record.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Tally {
    workload: String,
    kills: u32,
    /// The phases in which it was killed, and how often.
    killed_in: BTreeMap<Phase, u32>,
    /// Which processes were killed, and how often.
    killed: BTreeMap<Target, u32>,
    /// Requests to stop, by a signal.
    requests: u32,
    /// Starts that continued what an earlier process had left.
    resumes: u32,
    /// How often it was finished, and compared with the undisturbed one.
    finished: u32,
    /// Files that were compared.
    compared: usize,
    /// Temporary files that a kill left in a study, next to those that they were to replace.
    left_over: usize,
    seconds: f64,
    /// A sentence each.
    differences: Vec<String>,
}

/// Which processes are killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Target {
    /// All at once, as by a loss of power.
    All,
    /// Those that we started, not their children.
    Parents,
    /// One of their children.
    Child,
}

/// When and how an attempt is disturbed.
#[derive(Debug)]
struct Disturbance {
    after: Duration,
    /// And then at the next beginning of this phase.
    at: Option<Phase>,
    /// And then this long.
    late: Duration,
    /// `None` for a kill.
    request: Option<Signal>,
    target: Target,
}

/// The facts about a workload that is not disturbed.
struct Undisturbed {
    seconds: Duration,
    /// Until it writes to its first run.
    preparation: Duration,
    files: Files,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<End> {
    let stop = Stop::watch().context("signals cannot be watched")?;
    let trainer = match &args.trainer {
        Some(path) => program(path),
        None => build(None, &stop),
    };
    if stop.requested() {
        return Ok(End::Interrupted);
    }
    let trainer = trainer?;
    let mut folder = tempfile::Builder::new();
    folder.prefix("torture-");
    let folder = match &args.folder {
        Some(parent) => folder.tempdir_in(parent),
        None => folder.tempdir(),
    };
    let folder = folder.context("no working folder can be made: name another place with --folder")?;
    let command = match args.minutes {
        Some(minutes) => format!("cargo xtask torture --loop {minutes}"),
        None => format!("cargo xtask torture --kills {} --seed {}", args.kills, args.seed),
    };
    let record = Recorder::begin(args.record.as_deref(), command)?;
    let end = match args.minutes {
        Some(minutes) => endurance::run(&trainer, folder.path(), minutes, &stop, &record)?,
        None => {
            Torture { trainer: &trainer, folder: folder.path(), stop: &stop, draws: Draws::new(args.seed) }
                .run(args.kills, &record)?
        }
    };
    if end == End::Bad {
        note!("the folder is kept: {}", folder.keep().display());
    }
    Ok(end)
}

struct Torture<'a> {
    trainer: &'a Path,
    folder: &'a Path,
    stop: &'a Stop,
    draws: Draws,
}

impl Torture<'_> {
    fn run(&mut self, kills: u32, record: &Recorder<'_>) -> anyhow::Result<End> {
        let workloads = workloads(self.folder)?;
        let (mut total, mut differences, mut met) = (0, 0, BTreeSet::new());
        for (number, workload) in workloads.iter().enumerate() {
            let share = match number + 1 == workloads.len() {
                true => kills - total.min(kills),
                false => (kills * workload.share).div_ceil(100).min(kills - total),
            };
            let tally = self.torture(workload, share)?;
            total += tally.kills;
            differences += tally.differences.len();
            met.extend(tally.killed_in.keys().copied());
            print(&(told(&tally) + "\n"))?;
            record.write(&tally)?;
            for difference in &tally.differences {
                note!("error: {}: {difference}", workload.name);
            }
            if self.stop.requested() {
                return Ok(End::Interrupted);
            }
        }
        let not_met: Vec<&str> =
            Phase::ALL.iter().filter(|phase| !met.contains(phase)).map(|phase| phase.name()).collect();
        if !not_met.is_empty() {
            note!("nothing was killed in {}: try more --kills or another --seed", not_met.join(", "));
        }
        print(&format!("{total} kills, {differences} differences\n"))?;
        Ok(if differences == 0 { End::Good } else { End::Bad })
    }

    /// Kills a workload this many times, and finishes it; ends with the first difference.
    fn torture(&mut self, workload: &Workload, kills: u32) -> anyhow::Result<Tally> {
        let start = Instant::now();
        let mut tally = Tally { workload: workload.name.to_owned(), ..Tally::default() };
        let undisturbed = self.undisturbed(workload)?;
        while tally.kills < kills && tally.differences.is_empty() && !self.stop.requested() {
            self.finish(workload, kills, &undisturbed, &mut tally)?;
        }
        tally.seconds = start.elapsed().as_secs_f64();
        Ok(tally)
    }

    /// Runs a workload to its end, and checks it like the disturbed ones.
    fn undisturbed(&mut self, workload: &Workload) -> anyhow::Result<Undisturbed> {
        let start = Instant::now();
        let before = Before::of(&workload.out, &workload.shape);
        let mut processes = self.start(workload, "killed")?;
        let mut preparation = None;
        let ended = loop {
            if preparation.is_none() {
                let phase = workload.shape.phase(&workload.out, &before);
                preparation =
                    (![Phase::Preparation, Phase::StudyFiles].contains(&phase)).then(|| start.elapsed());
            }
            if let Some(ended) = processes.ended()? {
                break ended;
            }
            if self.stop.requested() {
                bail!("interrupted");
            }
            thread::sleep(PERIOD);
        };
        let seconds = start.elapsed();
        if !ended.iter().all(ExitStatus::success) {
            bail!("{} does not even succeed undisturbed: {}", workload.name, processes.said());
        }
        let (files, difference) = self.conclude(workload)?;
        if let Some(difference) = difference {
            bail!("{}: {difference}, although nothing disturbed it", workload.name);
        }
        fs::rename(&workload.out, self.folder.join(format!("{}-undisturbed", workload.name)))
            .context("a folder cannot be renamed")?;
        Ok(Undisturbed { seconds, preparation: preparation.unwrap_or(seconds), files })
    }

    /// Runs a workload once from start to end, with kills on the way, and compares it.
    fn finish(
        &mut self,
        workload: &Workload,
        kills: u32,
        undisturbed: &Undisturbed,
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        let goal = kills.min(tally.kills + 1 + (self.draws.fraction() * KILLS_AT_ONCE) as u32);
        let mut is_resumed = false;
        loop {
            if self.stop.requested() {
                return Ok(());
            }
            tally.resumes += u32::from(is_resumed);
            let disturbance = (tally.kills < goal).then(|| self.draw(workload, undisturbed));
            let is_last = disturbance.is_none();
            let outcome = self.attempt(workload, disturbance, tally)?;
            is_resumed = true;
            if let Err(difference) = outcome {
                tally.differences.push(difference);
                return Ok(());
            }
            if let Some(half) = broken(&workload.out, &workload.shape) {
                tally.differences.push(half);
                return Ok(());
            }
            if outcome == Ok(true) {
                break;
            }
            if is_last {
                tally.differences.push("it did not finish although nothing disturbed it".to_owned());
                return Ok(());
            }
        }
        tally.left_over += left_over(&workload.out);
        let (files, difference) = self.conclude(workload)?;
        tally.differences.extend(difference);
        tally.differences.extend(differences(&undisturbed.files, &files));
        tally.finished += 1;
        tally.compared += files.len();
        if tally.differences.is_empty() {
            fs::remove_dir_all(&workload.out).context("a folder cannot be removed")?;
        }
        Ok(())
    }

    fn draw(&mut self, workload: &Workload, undisturbed: &Undisturbed) -> Disturbance {
        let draws = &mut self.draws;
        let request = draws
            .chance(REQUESTS)
            .then(|| draws.one_of(&[Signal::INT, Signal::TERM, Signal::HUP, Signal::USR1]));
        let targets = [Target::All, Target::All, Target::Parents, Target::Child];
        let target = if workload.shape.is_study { draws.one_of(&targets) } else { Target::All };
        // Early moments are more likely: a continued workload has less work left.
        let any = undisturbed.seconds.mul_f64(draws.fraction() * draws.fraction());
        let at = draws.chance(AIMED).then(|| draws.one_of(workload.phases));
        let late = if draws.chance(0.5) { Duration::ZERO } else { draws.duration(LATE) };
        match at {
            // This phase begins with the process.
            Some(Phase::Preparation) => {
                let after = draws.duration(undisturbed.preparation);
                Disturbance { after, at: None, late: Duration::ZERO, request, target }
            }
            Some(Phase::StudyFiles | Phase::Report) => {
                Disturbance { after: Duration::ZERO, at, late, request, target }
            }
            _ => Disturbance { after: any, at, late, request, target },
        }
    }

    fn start(&mut self, workload: &Workload, name: &str) -> anyhow::Result<Processes> {
        let threads = self.draws.one_of(&[1, 2]);
        Processes::start(workload.commands(self.trainer, threads), self.folder, name)
    }

    /// Starts or continues a workload and disturbs it; returns whether it is finished. The inner error is a sentence about what is wrong.
    fn attempt(
        &mut self,
        workload: &Workload,
        disturbance: Option<Disturbance>,
        tally: &mut Tally,
    ) -> anyhow::Result<Result<bool, String>> {
        let before = Before::of(&workload.out, &workload.shape);
        let phase = || workload.shape.phase(&workload.out, &before);
        let mut processes = self.start(workload, "killed")?;
        if let Some(disturbance) = &disturbance
            && wait_for_moment(&mut processes, disturbance, phase)?
        {
            if let Some(signal) = disturbance.request {
                tally.requests += 1;
                return requested(workload, &mut processes, signal, &before);
            }
            let mut target = disturbance.target;
            match target {
                Target::Child if processes.kill_child(|pids| self.draws.one_of(pids)) => {}
                Target::Parents => processes.kill_parents(),
                Target::All | Target::Child => {
                    target = Target::All;
                    processes.kill_all();
                }
            }
            let phase = phase();
            // If only the study was killed, its trainings end by themselves: meanwhile it may already be continued.
            if target == Target::Parents && self.draws.chance(0.5) {
                let mut next = self.start(workload, "beside")?;
                for status in next.wait()? {
                    if !matches!(status.code(), Some(0 | IN_USE)) {
                        return Ok(Err(unexpected(status, &next, "started while trainings end")));
                    }
                }
                tally.resumes += 1;
            }
            let ended = processes.wait()?;
            let is_killed = |status: &ExitStatus| status.signal() == Some(Signal::KILL.as_raw());
            match target {
                Target::Child => {
                    for status in ended {
                        // A study reports that its trainer was killed, unless that had already ended.
                        if !matches!(status.code(), Some(0 | 1)) {
                            return Ok(Err(unexpected(status, &processes, "whose trainer was killed")));
                        }
                    }
                }
                _ if !ended.iter().any(is_killed) => return Ok(Ok(ended.iter().all(ExitStatus::success))),
                _ => {}
            }
            tally.kills += 1;
            *tally.killed_in.entry(phase).or_default() += 1;
            *tally.killed.entry(target).or_default() += 1;
            return Ok(Ok(false));
        }
        let ended = processes.wait()?;
        Ok(match ended.iter().find(|status| !status.success()) {
            Some(status) => Err(unexpected(*status, &processes, "that nothing disturbed")),
            None => Ok(true),
        })
    }

    /// The files of a finished workload, with all measured values made equal, and what is wrong with a study's tables.
    fn conclude(&self, workload: &Workload) -> anyhow::Result<(Files, Option<String>)> {
        let mut difference = None;
        if let Some(mut report) = workload.report(self.trainer) {
            // The tables of the killed process must be those of its runs. Shards make none.
            let left = files(&workload.out)?;
            succeed(&mut report)?;
            let made = files(&workload.out)?;
            let has_report = left.contains_key(Path::new("report.html"));
            difference =
                has_report.then(|| differences(&made, &left)).and_then(|list| list.into_iter().next());
        }
        level(&workload.out, &workload.shape)?;
        if let Some(mut report) = workload.report(self.trainer) {
            succeed(&mut report)?;
        }
        Ok((files(&workload.out)?, difference))
    }
}

/// Waits until it is time; false if all have ended before.
fn wait_for_moment(
    processes: &mut Processes,
    disturbance: &Disturbance,
    phase: impl Fn() -> Phase,
) -> anyhow::Result<bool> {
    let start = Instant::now();
    let mut since = None;
    loop {
        if processes.ended()?.is_some() {
            return Ok(false);
        }
        let is_so = || disturbance.at.is_none_or(|wanted| wanted == phase());
        if since.is_none() && start.elapsed() >= disturbance.after && is_so() {
            since = Some(Instant::now());
        }
        if since.is_some_and(|since| since.elapsed() >= disturbance.late) {
            return Ok(true);
        }
        thread::sleep(PERIOD);
    }
}

/// Asks all processes to stop, which they must do properly.
fn requested(
    workload: &Workload,
    processes: &mut Processes,
    signal: Signal,
    before: &Before,
) -> anyhow::Result<Result<bool, String>> {
    let phase = workload.shape.phase(&workload.out, before);
    processes.signal(signal);
    let ended = processes.wait()?;
    for status in &ended {
        // Before it watches for signals, one ends it; it has then written nothing. A study whose runs are all finished is in the report phase
        // from the start.
        let is_early = matches!(phase, Phase::Preparation | Phase::StudyFiles | Phase::Report)
            && status.signal() == Some(signal.as_raw());
        if !matches!(status.code(), Some(0 | INTERRUPTED)) && !is_early {
            return Ok(Err(unexpected(*status, processes, "that was asked to stop")));
        }
    }
    Ok(Ok(ended.iter().all(ExitStatus::success)))
}

fn unexpected(status: ExitStatus, processes: &Processes, what: &str) -> String {
    format!("a process {what} ended with {status}: {}", processes.said())
}

fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output();
    let failed = || format!("{} cannot be started", command.get_program().display());
    let output = output.with_context(failed)?;
    if !output.status.success() {
        bail!("a report of finished runs fails: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// In one line.
fn told(tally: &Tally) -> String {
    let phases: Vec<String> =
        tally.killed_in.iter().map(|(phase, count)| format!("{} {count}", phase.name())).collect();
    format!(
        "{}: {} kills ({}), {} requests, {} resumes, {} finished, {} files compared, {} differences, {:.0} s",
        tally.workload,
        tally.kills,
        phases.join(", "),
        tally.requests,
        tally.resumes,
        tally.finished,
        tally.compared,
        tally.differences.len(),
        tally.seconds
    )
}
