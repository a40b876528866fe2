//! A training that continues until it is stopped.

use crate::command;
use pointwise_runs::{Activity, Run};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The longest wait.
const PATIENCE: Duration = Duration::from_secs(120);

/// Arguments of a training of many quick steps, which does not end by itself within a test.
pub fn endless(folder: &Path) -> Vec<String> {
    let text = "train --model alexnet --data synthetic --limit-train 16 --limit-test 4 --batch-size 4 --epochs 100000 \
                --log-every 1 --seed 7";
    let mut arguments: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    arguments.extend(["--run-dir".to_owned(), folder.display().to_string()]);
    arguments
}

/// Waits until a condition holds.
///
/// # Panics
/// When that takes too long.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A training process, which is killed if a test fails.
#[derive(Debug)]
pub struct Training {
    /// The process.
    pub child: Child,
    folder: PathBuf,
    stderr: Option<BufReader<ChildStderr>>,
}

impl Training {
    /// Starts an [`endless`] one.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(folder: &Path) -> Self {
        Self::of(command(endless(folder)), folder)
    }

    /// Starts one by the given command.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn of(mut command: Command, folder: &Path) -> Self {
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the command can be started");
        let stderr = child.stderr.take().map(BufReader::new);
        Self { child, folder: folder.to_owned(), stderr }
    }

    /// Waits until it has recorded this many more steps and epochs.
    ///
    /// # Panics
    /// When it does not.
    pub fn advance(&mut self, lines: usize) {
        let path = self.folder.join("metrics.jsonl");
        let count = || fs::read_to_string(&path).unwrap_or_default().lines().count();
        let goal = count() + lines;
        wait_until("the training is further", || {
            let ended = self.child.try_wait().expect("a child can be asked");
            assert!(ended.is_none(), "the training has ended: {ended:?}");
            count() >= goal
        });
    }

    /// Sends a signal by its name, as often as asked, without a pause.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn signal(&self, name: &str, times: usize) {
        send(self.child.id(), name, times);
    }

    /// Waits for a line on stderr that contains these words.
    ///
    /// # Panics
    /// When there is none.
    pub fn hear(&mut self, words: &str) {
        let stderr = self.stderr.as_mut().expect("stderr is a pipe");
        let heard = stderr.lines().map_while(Result::ok).any(|line| line.contains(words));
        assert!(heard, "it never said {words:?}");
    }

    /// Closes stderr, which then has no reader.
    pub fn forget(&mut self) {
        self.stderr = None;
    }

    /// Waits for the end; returns the exit code, unless a signal ended it, and the rest of stderr.
    ///
    /// # Panics
    /// When it does not end.
    pub fn end(mut self) -> (Option<i32>, String) {
        let mut status = None;
        wait_until("the training ends", || {
            status = self.child.try_wait().expect("a child can be asked");
            status.is_some()
        });
        let mut said = String::new();
        if let Some(mut stderr) = self.stderr.take() {
            stderr.read_to_string(&mut said).expect("stderr is UTF-8");
        }
        (status.and_then(|status| status.code()), said)
    }
}

impl Drop for Training {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal by its name to a process, as often as asked, without a pause.
///
/// # Panics
/// When it cannot be sent.
pub fn send(process: u32, name: &str, times: usize) {
    let script = format!("kill -{name} {process}\n").repeat(times);
    // One that has ended at the first signal cannot be sent another.
    let sent = Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status();
    let sent = sent.expect("a shell can be started");
    assert!(sent.success() || times > 1, "kill failed: {sent}");
}

/// The state of the run in a folder.
///
/// # Panics
/// When it cannot be read.
pub fn activity(folder: &Path) -> Activity {
    Run::read(folder).expect("the run can be read").activity()
}
