//! The processes that train: one for each run, or one for all runs that are trained at once, each on its own thread.
//!
//! On a CPU each run has a process: a run that ends, however it does, affects no other, and the computing threads of a process are one pool. On
//! a GPU the runs that are trained at once share a process. There they share one context, so that kernels of one run fill the gaps between
//! another's (a GPU computes for one process at a time), and images are loaded once. [`Plan::new`] decides which of the two it is.
//!
//! A process of several runs receives each run as a line on its stdin, an [`Order`], and reports a run's end as a line on its stdout, an
//! [`Answer`]. Other lines there are ignored, as are those of a trainer of one run. The end of its stdin asks it to stop, as for any trainer.

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

/// A run for a trainer of several runs to train.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The number by which its end is reported.
    pub run: usize,
    /// The arguments of a trainer of this run alone.
    pub arguments: Vec<OsString>,
}

/// The report of a trainer of several runs that a run has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The run's number.
    pub run: usize,
    /// The exit code of a trainer of this run alone.
    pub code: u8,
    /// Its error; if there is none, the last output of the process is shown.
    pub said: Option<String>,
}

/// The end of a run's training.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The index of its job.
    pub(crate) job: usize,
    /// `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    /// In the system's words.
    pub(crate) status: String,
    /// The last output.
    pub(crate) said: String,
}

/// The running trainers. They end with us, however we end.
#[derive(Debug)]
pub(crate) struct Trainers<'a> {
    program: &'a Path,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// With the indices of their jobs.
    OneEach(Vec<(usize, Process)>),
    /// `Some` from the first run on.
    Several(Option<Several>),
}

/// A process that trains several runs.
#[derive(Debug)]
struct Several {
    process: Process,
    /// The jobs that it is working on.
    jobs: Vec<usize>,
    answers: Receiver<Answer>,
}

impl<'a> Trainers<'a> {
    pub(crate) fn of(plan: &Plan, program: &'a Path) -> Self {
        let work = if plan.in_one_process { Work::Several(None) } else { Work::OneEach(Vec::new()) };
        Self { program, work }
    }

    /// Starts the training of a job by a trainer's arguments. `threads` are those of its process, if not as many as in the environment.
    pub(crate) fn start(&mut self, job: usize, arguments: Vec<OsString>, threads: Option<u32>) -> Result<()> {
        let mut command = Command::new(self.program);
        // If this is part of a Slurm job, we put it back into the queue.
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

    /// The trainings that have ended since the last call.
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

    /// Asks the trainers to write checkpoints and stop, as our own end would.
    pub(crate) fn stop(&mut self) {
        self.for_each(|process| drop(process.child.stdin.take()));
    }

    /// A run survives a kill at any moment.
    pub(crate) fn kill(&mut self) {
        // A process that has just ended cannot be killed and need not be.
        self.for_each(|process| drop(process.child.kill()));
    }

    /// Waits for processes that have no runs left.
    pub(crate) fn finish(mut self, stop: &Stop) -> Result<()> {
        if let Work::Several(Some(Several { process, .. })) = &mut self.work {
            drop(process.child.stdin.take());
            // Runs that have ended lose nothing, however it ends.
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
                    // After an error of ours there is no receiver.
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
        // If it no longer reads, its end reports that.
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
                // The process has ended, and all its runs with it.
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
    /// An unnamed file: its output matters only if it fails.
    stderr: File,
}

impl Process {
    /// Starts it in its own process group, so that a Ctrl-C reaches only us, and tied to us, so that it stops even if we end without time to ask
    /// it.
    fn start(mut command: Command) -> Result<Self> {
        let temporary = tempfile::tempfile().and_then(|file| Ok((file.try_clone()?, file)));
        let (kept, stderr) =
            temporary.map_err(|cause| system("a temporary file cannot be created", cause))?;
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

    /// The end of its output, without the word `error`.
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
        // It is still running only after an error of ours.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
