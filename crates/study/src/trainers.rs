//! The processes that train: one for each run, or one for all runs that are trained at once, each on a thread of its own.
//!
//! On a CPU each run has a process: one run's end, however it comes about, is that run's alone, and the computing threads of a process are
//! one pool. On a GPU the runs that are trained at once share a process. There they share one context, so that kernels of one run fill the gaps
//! between another's (of several processes a GPU computes one at a time), and images that are loaded once. [`Plan::new`] decides
//! which of the two it is.
//!
//! The process of several is told of a run by a line on its stdin, an [`Order`], and tells of a run's end by a line on its stdout, an
//! [`Answer`]. Other lines there are for nobody, as are those of a trainer of one run. The end of its stdin asks it to stop, as it does any trainer.

use std::{
    ffi::OsString,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, TryRecvError},
    thread,
};

use pointwise_process::{Stop, tail};
use serde::{Deserialize, Serialize};

use crate::{Error, Plan, Result, SlurmJob};

/// The command of `trainer` that trains several runs in one process.
pub const TRAIN_SEVERAL: &str = "train-several";

/// A run that a trainer of several is to train.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// By which number its end is told.
    pub run: usize,
    /// The arguments of a trainer of this run alone.
    pub arguments: Vec<OsString>,
}

/// That a trainer of several is done with a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The run's number.
    pub run: usize,
    /// The exit code of a trainer of this run alone.
    pub code: u8,
    /// Its error; without one, what the process said last is of interest.
    pub said: Option<String>,
}

/// How the training of a run has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The index of its job.
    pub(crate) job: usize,
    /// `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    /// As the system calls it.
    pub(crate) status: String,
    /// What was said last.
    pub(crate) said: String,
}

/// The trainers at work. They are ended with us, whatever ends us.
#[derive(Debug)]
pub(crate) struct Trainers<'a> {
    program: &'a Path,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// With the indices of their jobs.
    OneEach(Vec<(usize, Process)>),
    /// From the first run on.
    Several(Option<Several>),
}

/// A process that trains several runs.
#[derive(Debug)]
struct Several {
    process: Process,
    /// The jobs that it is at work on.
    jobs: Vec<usize>,
    answers: Receiver<Answer>,
}

impl<'a> Trainers<'a> {
    pub(crate) fn of(plan: &Plan, program: &'a Path) -> Self {
        let work = if plan.in_one_process { Work::Several(None) } else { Work::OneEach(Vec::new()) };
        Self { program, work }
    }

    /// Starts the training of a job by a trainer's arguments. `threads` are those of its process, where it is not as many as the
    /// environment says.
    pub(crate) fn start(&mut self, job: usize, arguments: Vec<OsString>, threads: Option<u32>) -> Result<()> {
        let mut command = Command::new(self.program);
        // A Slurm job that this is a part of is ours to put back into the queue.
        command.env_remove(SlurmJob::VARIABLE);
        if let Some(threads) = threads {
            command.env("RAYON_NUM_THREADS", threads.to_string());
        }
        match &mut self.work {
            Work::OneEach(processes) => {
                command.args(arguments).stdout(Stdio::null());
                processes.push((job, Process::start(command)?));
            }
            Work::Several(several) => {
                let several = match several {
                    Some(several) => several,
                    None => several.insert(Several::start(command)?),
                };
                several.order(job, arguments);
            }
        }
        Ok(())
    }

    /// The trainings that have ended since it was last asked.
    pub(crate) fn ended(&mut self) -> Result<Vec<Ended>> {
        match &mut self.work {
            Work::OneEach(processes) => {
                let mut ended = Vec::new();
                let mut index = 0;
                while index < processes.len() {
                    let Some(status) = processes[index].1.status()? else {
                        index += 1;
                        continue;
                    };
                    let (job, mut process) = processes.swap_remove(index);
                    ended.push(Ended::with(job, status, process.said()));
                }
                Ok(ended)
            }
            Work::Several(several) => several.as_mut().map_or(Ok(Vec::new()), Several::ended),
        }
    }

    /// Asks for checkpoints and an end, as our own end would.
    pub(crate) fn stop(&mut self) {
        self.for_each(|process| drop(process.child.stdin.take()));
    }

    /// A run survives a kill at any moment.
    pub(crate) fn kill(&mut self) {
        // One that has just ended cannot be killed, and need not.
        self.for_each(|process| drop(process.child.kill()));
    }

    /// Waits for processes that are at work on no run any more.
    pub(crate) fn finish(mut self, stop: &Stop) -> Result<()> {
        if let Work::Several(Some(Several { process, .. })) = &mut self.work {
            drop(process.child.stdin.take());
            // Of runs that have ended nothing is lost, however it ends.
            stop.wait_for(&mut process.child).map_err(|cause| system(WAIT_FAILED, cause))?;
        }
        Ok(())
    }

    fn for_each(&mut self, act: impl Fn(&mut Process)) {
        match &mut self.work {
            Work::OneEach(processes) => processes.iter_mut().for_each(|(_, process)| act(process)),
            Work::Several(several) => several.iter_mut().for_each(|several| act(&mut several.process)),
        }
    }
}

impl Ended {
    fn with(job: usize, status: ExitStatus, said: String) -> Self {
        Self { job, code: status.code(), status: status.to_string(), said }
    }
}

impl Several {
    fn start(mut command: Command) -> Result<Self> {
        command.arg(TRAIN_SEVERAL).stdout(Stdio::piped());
        let mut process = Process::start(command)?;
        let (sender, answers) = mpsc::channel();
        if let Some(stdout) = process.child.stdout.take() {
            let listen = thread::Builder::new().name("answers".to_owned());
            let listening = listen.spawn(move || {
                for answer in read_answers(stdout) {
                    // Nobody listens any more after an error of ours.
                    if sender.send(answer).is_err() {
                        break;
                    }
                }
            });
            listening.map_err(|cause| system("a thread cannot be started", cause))?;
        }
        Ok(Self { process, jobs: Vec::new(), answers })
    }

    fn order(&mut self, job: usize, arguments: Vec<OsString>) {
        self.jobs.push(job);
        let order = serde_json::to_string(&Order { run: job, arguments }).unwrap_or_default();
        // That it reads nothing any more is told by its end.
        let _ =
            self.process.child.stdin.as_mut().map(|stdin| stdin.write_all(format!("{order}\n").as_bytes()));
    }

    fn ended(&mut self) -> Result<Vec<Ended>> {
        let mut ended = Vec::new();
        loop {
            match self.answers.try_recv() {
                Ok(Answer { run, code, said }) => {
                    self.jobs.retain(|job| *job != run);
                    let said = said.unwrap_or_else(|| self.process.said());
                    let status = format!("exit status: {code}");
                    ended.push(Ended { job: run, code: Some(code.into()), status, said });
                }
                Err(TryRecvError::Empty) => break,
                // It has ended, and all its runs with it.
                Err(TryRecvError::Disconnected) => {
                    if !self.jobs.is_empty()
                        && let Some(status) = self.process.status()?
                    {
                        let said = self.process.said();
                        ended.extend(self.jobs.drain(..).map(|job| Ended::with(job, status, said.clone())));
                    }
                    break;
                }
            }
        }
        Ok(ended)
    }
}

fn read_answers(stdout: ChildStdout) -> impl Iterator<Item = Answer> {
    let lines = BufReader::new(stdout).lines().map_while(|line| line.ok());
    lines.filter_map(|line| serde_json::from_str(&line).ok())
}

const WAIT_FAILED: &str = "a trainer cannot be waited for";

fn system(what: &str, cause: std::io::Error) -> Error {
    Error::System { what: what.to_owned(), cause }
}

/// A process of `trainer`.
#[derive(Debug)]
struct Process {
    child: Child,
    /// A file without a name: what it says is of interest only if it fails.
    stderr: File,
}

impl Process {
    /// Starts it in a process group of its own, so that a Ctrl-C reaches us alone; and tied to us, so that it stops when we end in a way
    /// that leaves us no time to ask it.
    fn start(mut command: Command) -> Result<Self> {
        let temporary = tempfile::tempfile().and_then(|file| Ok((file.try_clone()?, file)));
        let (kept, stderr) = temporary.map_err(|cause| system("a temporary file cannot be made", cause))?;
        command.stderr(kept);
        pointwise_process::tie(&mut command);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let name = command.get_program().to_owned();
        let failed = |cause| system(&format!("{} cannot be started", Path::new(&name).display()), cause);
        let child = command.spawn().map_err(failed)?;
        Ok(Self { child, stderr })
    }

    fn status(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(|cause| system(WAIT_FAILED, cause))
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

impl Drop for Process {
    fn drop(&mut self) {
        // Only after an error of ours is it still at work.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
