//! A contender that keeps running: a question is a line of JSON on its stdin, the answer a line on its stdout.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

/// How long it may take to end after the last question: it waits for its loader processes.
const GRACE: Duration = Duration::from_secs(5);

/// The running process, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Server {
    /// Starts it. It shares our stderr.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().context("it cannot be started")?;
        let questions = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("it has no stdout")?);
        Ok(Self { child, questions, answers })
    }

    /// Asks by command-line options, and waits for the answer.
    ///
    /// # Errors
    /// If it ends instead.
    pub(super) fn ask(&mut self, options: &[String]) -> anyhow::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(options)?;
        line.push(b'\n');
        // Writing may succeed even if it has ended: the missing answer shows that.
        let asked = self.questions.as_mut().map(|questions| questions.write_all(&line));
        let mut answer = Vec::new();
        self.answers.read_until(b'\n', &mut answer).context("its answer cannot be read")?;
        if answer.is_empty() || !matches!(asked, Some(Ok(()))) {
            let status = self.child.wait().context("it cannot be waited for")?;
            bail!("it ended before it answered, see its message above ({status})");
        }
        Ok(answer)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // No more questions: it ends by itself.
        drop(self.questions.take());
        let since = Instant::now();
        while since.elapsed() < GRACE {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(20)),
                _ => return,
            }
        }
        // Nothing can be done about a process that does not die.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Server {
        Server::start(Command::new("sh").args(["-c", script])).expect("a shell")
    }

    #[test]
    fn questions_are_answered_by_one_process() {
        let mut server = shell("n=0; while read -r line; do n=$((n + 1)); echo \"$n $line\"; done");
        assert_eq!(server.ask(&["--model".into(), "nin".into()]).unwrap(), b"1 [\"--model\",\"nin\"]\n");
        assert_eq!(server.ask(&[]).unwrap(), b"2 []\n");
    }

    #[test]
    fn one_that_ends_is_an_error() {
        let error = shell("read -r line; exit 3").ask(&[]).unwrap_err().to_string();
        assert!(error.contains("ended before it answered") && error.contains("exit status: 3"), "{error}");
        let error = shell("exit 4").ask(&[]).unwrap_err().to_string();
        assert!(error.contains("exit status: 4"), "{error}");
    }
}
