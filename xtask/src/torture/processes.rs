//! Processes that are started to be killed, with all their children.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// The longest wait.
const PATIENCE: Duration = Duration::from_secs(120);
const PERIOD: Duration = Duration::from_micros(200);

/// Some processes, killed when they are dropped.
#[derive(Debug, Default)]
pub(super) struct Processes {
    children: Vec<Child>,
    /// Their children, as far as seen.
    others: Vec<Pid>,
    /// The output of each.
    said: Vec<PathBuf>,
}

impl Processes {
    /// Starts them, with stdout and stderr in files of this folder whose names begin with `name`.
    pub(super) fn start(commands: Vec<Command>, folder: &Path, name: &str) -> anyhow::Result<Self> {
        let mut processes = Self::default();
        for (number, mut command) in commands.into_iter().enumerate() {
            let said = folder.join(format!("{name}-{number}.log"));
            let file =
                File::create(&said).with_context(|| format!("{} cannot be written", said.display()))?;
            let same = file.try_clone().context("a file cannot be used twice")?;
            command.stdin(Stdio::null()).stdout(file).stderr(same);
            let child = command.spawn();
            let failed = || format!("{} cannot be started", command.get_program().display());
            processes.children.push(child.with_context(failed)?);
            processes.said.push(said);
        }
        Ok(processes)
    }

    /// The exit statuses of those that we started, once all have ended.
    pub(super) fn ended(&mut self) -> anyhow::Result<Option<Vec<ExitStatus>>> {
        self.children
            .iter_mut()
            .map(|child| child.try_wait().context("a process cannot be waited for"))
            .collect()
    }

    /// Waits for all of them, and for what they started.
    pub(super) fn wait(&mut self) -> anyhow::Result<Vec<ExitStatus>> {
        let start = Instant::now();
        loop {
            if let Some(ended) = self.ended()?
                && !self.others.iter().any(|process| is_alive(*process))
            {
                return Ok(ended);
            }
            if start.elapsed() > PATIENCE {
                bail!("a process does not end within {} s: {}", PATIENCE.as_secs(), self.said());
            }
            thread::sleep(PERIOD);
        }
    }

    /// Sends a signal to those that we started, not to their children.
    pub(super) fn signal(&mut self, signal: Signal) {
        for child in &self.children {
            // One that has ended has not been waited for yet, so the process id is still its own.
            send(pid(child), signal);
        }
    }

    /// Kills those that we started, and leaves their children alone.
    pub(super) fn kill_parents(&mut self) {
        self.look();
        self.signal(Signal::KILL);
    }

    /// Kills one of their children; returns whether there is one.
    pub(super) fn kill_child(&mut self, pick: impl FnOnce(&[Pid]) -> Pid) -> bool {
        self.look();
        let is_there = !self.others.is_empty();
        if is_there {
            send(pick(&self.others), Signal::KILL);
        }
        is_there
    }

    /// Kills all at once, first those that could notice the end of the others.
    pub(super) fn kill_all(&mut self) {
        self.look();
        self.signal(Signal::KILL);
        for other in &self.others {
            send(*other, Signal::KILL);
        }
    }

    /// Their output, in one line.
    pub(super) fn said(&self) -> String {
        let texts = self.said.iter().map(|file| fs::read_to_string(file).unwrap_or_default());
        texts.map(|text| text.trim().replace('\n', " / ")).collect::<Vec<_>>().join(" // ")
    }

    /// Finds their children.
    fn look(&mut self) {
        self.others = self.children.iter().flat_map(|child| children(child.id())).collect();
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        if !matches!(self.ended(), Ok(Some(_))) {
            self.kill_all();
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn send(process: Pid, signal: Signal) {
    // It may just have ended.
    let _ = kill_process(process, signal);
}

/// Whether a process is still running. One that has ended counts as ended even if its parent has not waited for it.
fn is_alive(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_pid())).unwrap_or_default();
    // After the name, which may hold anything.
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The processes started by any thread of a process.
fn children(process: u32) -> Vec<Pid> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let lists = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    let numbers = lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    numbers.filter_map(|number| Pid::from_raw(number.parse().ok()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_a_process_has_started_is_killed_with_it_or_alone() {
        let temp = tempfile::tempdir().unwrap();
        let start = || {
            let mut processes =
                Processes::start(vec![shell("echo here; sleep 1000; echo gone")], temp.path(), "shell")
                    .unwrap();
            while processes.others.is_empty() {
                processes.look();
            }
            processes
        };
        let mut processes = start();
        assert_eq!(processes.ended().unwrap(), None);
        processes.kill_all();
        assert_eq!(processes.wait().unwrap()[0].signal(), Some(9));
        assert_eq!(processes.said(), "here");

        let mut processes = start();
        assert!(processes.kill_child(|pids| pids[0]));
        assert_eq!(processes.wait().unwrap()[0].code(), Some(0));
        // Some shells report that it was killed.
        let said = processes.said();
        assert!(said.starts_with("here / ") && said.ends_with("/ gone"), "{said}");

        let mut processes = start();
        processes.kill_parents();
        let orphan = processes.others[0];
        assert!(is_alive(orphan));
        send(orphan, Signal::KILL);
        assert_eq!(processes.wait().unwrap()[0].signal(), Some(9));
    }
}
