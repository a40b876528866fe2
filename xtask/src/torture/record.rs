//! The results, in lines of JSON: where, when and with what they were obtained, and then the lines of the caller.

use std::{fs::OpenOptions, io::Write, path::Path, thread};

use anyhow::Context;
use pointwise_runs::{operating_system, processor_name, timestamp};
use serde::Serialize;

use crate::{origin::Origin, trainer::workspace_root};

/// The first line.
#[derive(Debug, Serialize)]
struct Head {
    command: String,
    commit: Option<String>,
    /// Whether there were changes on top of the commit.
    dirty: bool,
    rustc: Option<String>,
    /// RFC 3339 UTC.
    started: String,
    processor: String,
    os: String,
    cores: usize,
}

/// Appends lines to a record, if one is wanted.
#[derive(Debug)]
pub(super) struct Recorder<'a> {
    file: Option<&'a Path>,
}

impl<'a> Recorder<'a> {
    /// Writes the first line; `command` repeats the run.
    pub(super) fn begin(file: Option<&'a Path>, command: String) -> anyhow::Result<Self> {
        let recorder = Self { file };
        let Origin { commit, dirty, rustc } = Origin::of(&workspace_root())?;
        recorder.write(&Head {
            command,
            commit,
            dirty,
            rustc,
            started: timestamp(),
            processor: processor_name(),
            os: operating_system(),
            cores: thread::available_parallelism().map_or(1, usize::from),
        })?;
        Ok(recorder)
    }

    pub(super) fn write(&self, line: &impl Serialize) -> anyhow::Result<()> {
        let Some(path) = self.file else { return Ok(()) };
        let mut line = serde_json::to_vec(line).context("a record cannot be written as JSON")?;
        line.push(b'\n');
        let file = OpenOptions::new().create(true).append(true).open(path);
        let written = file.and_then(|mut file| file.write_all(&line));
        written.with_context(|| format!("{} cannot be written", path.display()))
    }
}
