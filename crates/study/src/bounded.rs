//! Programs of a scheduler, which may be missing, refuse, or wait for a server that does not answer.

use std::{
    fs::File,
    io::{self, Read, Seek},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{Error, Result};

const PERIOD: Duration = Duration::from_millis(20);

/// How a program ended.
pub(crate) struct Answer {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    /// On one line, without the name of the program at its beginning.
    pub(crate) stderr: String,
}

/// Runs a program to its end, for at most this long.
///
/// # Errors
/// [`Error::Scheduler`] if it cannot be started, or was killed at the time limit.
pub(crate) fn answer(command: &mut Command, limit: Duration) -> Result<Answer> {
    let name = command.get_program().to_string_lossy().into_owned();
    let failed = |cause: io::Error| match cause.kind() {
        io::ErrorKind::NotFound => Error::Scheduler(format!(
            "`{name}` was not found: Slurm's commands must be installed and in PATH"
        )),
        _ => Error::Scheduler(format!("`{name}` cannot be run ({cause})")),
    };
    // Files, not pipes: its child processes may keep them open after its end, and they need no reader.
    let mut stdout = tempfile::tempfile().map_err(failed)?;
    let mut stderr = tempfile::tempfile().map_err(failed)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone().map_err(failed)?)
        .stderr(stderr.try_clone().map_err(failed)?)
        .spawn()
        .map_err(failed)?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if start.elapsed() >= limit {
            // A process that has just ended cannot be killed and need not be.
            let _ = child.kill();
            child.wait().map_err(failed)?;
            return Err(Error::Scheduler(format!("`{name}` gave no answer in {} s", limit.as_secs_f32())));
        }
        thread::sleep(PERIOD);
    };
    let stdout = text(&mut stdout).map_err(failed)?;
    let stderr = one_line(&name, &text(&mut stderr).map_err(failed)?);
    Ok(Answer { status, stdout, stderr })
}

fn text(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The lines of a message as one, without the `NAME: error: ` with which Slurm's commands begin each.
fn one_line(name: &str, message: &str) -> String {
    let part = |line: &str| {
        let line = line.trim();
        let line = line.strip_prefix(name).and_then(|line| line.strip_prefix(": ")).unwrap_or(line);
        line.strip_prefix("error: ").unwrap_or(line).to_owned()
    };
    let parts: Vec<String> = message.lines().map(part).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() { "it said nothing".to_owned() } else { parts.join("; ") }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Result<Answer> {
        answer(Command::new("sh").args(["-c", script]), limit)
    }

    #[test]
    fn a_program_is_heard_or_given_up() {
        let long = Duration::from_secs(60);
        let said =
            shell("echo result; echo 'sh: error: no way' >&2; echo 'try later' >&2; exit 3", long).unwrap();
        assert_eq!((said.status.code(), said.stdout.as_str()), (Some(3), "result\n"));
        assert_eq!(said.stderr, "no way; try later");
        assert_eq!(shell("exit 1", long).unwrap().stderr, "it said nothing");
        let error = shell("sleep 60", Duration::ZERO).err().unwrap().to_string();
        assert_eq!(error, "`sh` gave no answer in 0 s");
        let error = answer(&mut Command::new("no-such-scheduler"), long).err().unwrap().to_string();
        assert_eq!(
            error,
            "`no-such-scheduler` was not found: Slurm's commands must be installed and in PATH"
        );
    }
}
