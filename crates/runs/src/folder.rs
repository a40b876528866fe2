use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use pointwise_recipe::one_line;

use crate::{
    Analysis, Environment, Error, Progress, Record, Result, RunConfig, RunResult,
    files::{read, read_json, read_json_if_exists, replace_file, sweep, sync_folder, synced, write_json},
};

pub(crate) const CONFIG: &str = "config.toml";
pub(crate) const ENVIRONMENT: &str = "environment.json";
pub(crate) const METRICS: &str = "metrics.jsonl";
pub(crate) const PROGRESS: &str = "progress.json";
pub(crate) const ANALYSIS: &str = "analysis.json";
pub(crate) const RESULT: &str = "result.json";
const LOCK: &str = "run.lock";
/// More bytes than the metrics of any run have: some ten million steps.
pub(crate) const MAX_METRICS: u64 = 1 << 30;
const CHECKPOINTS: &str = "checkpoints";
/// A reader that checks whether a lock is held holds it itself for a moment.
const LOCK_ATTEMPTS: u32 = 5;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Which checkpoint of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// The parameters of the best epoch: `checkpoints/best.safetensors`.
    Best,
    /// Everything that is needed to resume the run: `checkpoints/last.safetensors`.
    Last,
    /// The averaged weights after the newest epoch, if the recipe averages: `checkpoints/ema.safetensors`.
    Ema,
}

impl Checkpoint {
    /// The path of the file in the run folder.
    pub fn file_name(self) -> &'static str {
        match self {
            Checkpoint::Best => "checkpoints/best.safetensors",
            Checkpoint::Last => "checkpoints/last.safetensors",
            Checkpoint::Ema => "checkpoints/ema.safetensors",
        }
    }
}

/// Whether a folder holds a run, finished or not: whether it has a `config.toml`.
pub fn holds_run(path: impl AsRef<Path>) -> bool {
    path.as_ref().join(CONFIG).is_file()
}

/// The one writer of a run folder. It holds an OS lock on `run.lock` until it is dropped or its process ends in any way, where the
/// file system has locks: see [`unlocked`](Self::unlocked).
///
/// ```no_run
/// # fn example(config: &pointwise_runs::RunConfig, environment: &pointwise_runs::Environment) -> pointwise_runs::Result<()> {
/// use pointwise_runs::{Checkpoint, Record, RunFolder, StepRecord, holds_run};
///
/// let mut folder = if holds_run("runs/nin") {
///     let (mut folder, stored) = RunFolder::resume("runs/nin")?;
///     // ... compare `stored` with `config`, read the last checkpoint, and give its step and completed epochs:
///     folder.rewind(397, 1)?;
///     folder.reopen(config, environment)?;
///     folder
/// } else {
///     RunFolder::create("runs/nin", config, environment)?
/// };
/// folder.append(&Record::Step(StepRecord { epoch: 2, step: 398, loss: 1.5, gradient_norm: None, seconds: 200.0 }))?;
/// folder.write_checkpoint(Checkpoint::Last, b"...")?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Opened for appending.
    metrics: File,
    lock: Lock,
}

/// The open `run.lock`; closing it unlocks.
#[derive(Debug)]
struct Lock {
    _file: File,
    /// Why it is not locked.
    refused: Option<io::Error>,
}

impl RunFolder {
    /// Starts a run in a folder, which is created if necessary. It may exist if it holds no run.
    ///
    /// `config.toml` is written last: a kill before leaves a folder without a run, which `create` accepts again; a kill after
    /// leaves a run, which [`resume`](Self::resume) accepts.
    ///
    /// # Errors
    /// [`Error::HoldsRun`], [`Error::HoldsRemains`] or [`Error::InUse`] if the folder belongs to a run,
    /// [`Error::NotAFolder`] or [`Error::NotWritable`] if it cannot hold one, [`Error::Config`] if `config` cannot be
    /// written as TOML.
    pub fn create(path: impl AsRef<Path>, config: &RunConfig, environment: &Environment) -> Result<Self> {
        let path = path.as_ref();
        let config = config.to_toml()?;
        // Before the lock, so that nothing changes in a folder that holds another run.
        let refuse_run = || match holds_run(path) {
            // Reports instead that the run is in use, if it is under way.
            true => lock(path).and_then(|_| Err(Error::HoldsRun { path: path.into() })),
            false => Ok(()),
        };
        refuse_run()?;
        if path.is_file() {
            return Err(Error::NotAFolder { path: path.into() });
        }
        fs::create_dir_all(path).map_err(|cause| Error::NotWritable { path: path.into(), cause })?;
        let remains = [Checkpoint::Best.file_name(), Checkpoint::Last.file_name(), RESULT];
        let mut remains: Vec<&str> = remains.into_iter().filter(|file| path.join(file).exists()).collect();
        if fs::metadata(path.join(METRICS)).is_ok_and(|metrics| metrics.len() > 0) {
            remains.push(METRICS);
        }
        if let Some(&file) = remains.first() {
            // Or the files belong to a run that another process has just begun.
            refuse_run()?;
            return Err(Error::HoldsRemains { path: path.into(), file });
        }
        let lock = lock(path)?;
        // Another process may have created and left a run between the check and the lock.
        if holds_run(path) {
            return Err(Error::HoldsRun { path: path.into() });
        }
        prepare(path)?;
        write_json(&path.join(ENVIRONMENT), environment)?;
        let metrics = open_metrics(path)?;
        replace_file(path.join(CONFIG), config.as_bytes())?;
        Ok(Self { path: path.into(), metrics, lock })
    }

    /// Opens an existing run to continue it and gives its stored configuration. A torn last line of `metrics.jsonl` is cut
    /// off. Call [`rewind`](Self::rewind) next, with the position of the checkpoint to resume from.
    ///
    /// # Errors
    /// [`Error::NotARun`] if there is none, [`Error::InUse`] if another process writes it, [`Error::Malformed`] if its
    /// configuration cannot be read.
    pub fn resume(path: impl AsRef<Path>) -> Result<(Self, RunConfig)> {
        let path = path.as_ref();
        if path.is_file() {
            return Err(Error::NotAFolder { path: path.into() });
        }
        if !holds_run(path) {
            return Err(Error::NotARun { path: path.into() });
        }
        let lock = lock(path)?;
        let config = read_config(path)?;
        prepare(path)?;
        let folder = Self { path: path.into(), metrics: open_metrics(path)?, lock };
        folder.cut_torn_line()?;
        Ok((folder, config))
    }

    /// The run folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The operating system's error if the file system has no locks, as some network file systems: then nothing keeps a second writer out
    /// of the folder.
    pub fn unlocked(&self) -> Option<&io::Error> {
        self.lock.refused.as_ref()
    }

    /// Appends one line to `metrics.jsonl`, in one write.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a number is NaN or infinite, [`Error::Write`].
    pub fn append(&mut self, record: &Record) -> Result<()> {
        record.check()?;
        let written = serde_json::to_vec(record).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            self.metrics.write_all(&line)
        });
        written.map_err(|cause| self.write_error(METRICS, cause))
    }

    /// Drops what comes after a checkpoint: step records with a step above `step`, epoch records with an epoch above
    /// `epochs_done`, and a torn last line. The other lines stay byte for byte.
    ///
    /// # Errors
    /// [`Error::MalformedLine`] if a complete line is not a record, [`Error::Read`], [`Error::Write`].
    pub fn rewind(&mut self, step: u64, epochs_done: u32) -> Result<()> {
        let path = self.path.join(METRICS);
        let bytes = read(&path, MAX_METRICS)?;
        let mut kept = Vec::with_capacity(bytes.len());
        for (index, line) in complete_lines(&bytes).enumerate() {
            let stays = match parse_line(&path, index, line)? {
                Record::Step(record) => record.step <= step,
                Record::Epoch(record) => record.epoch <= epochs_done,
            };
            if stays {
                kept.extend_from_slice(line);
            }
        }
        if kept != bytes {
            replace_file(&path, &kept)?;
            // The file that was open has been replaced.
            self.metrics = open_metrics(&self.path)?;
        }
        Ok(())
    }

    /// The path of a checkpoint, which need not exist.
    pub fn checkpoint_path(&self, which: Checkpoint) -> PathBuf {
        self.path.join(which.file_name())
    }

    /// Replaces a checkpoint, after the metrics up to it have reached the disk: a checkpoint is never ahead of its records.
    ///
    /// # Errors
    /// [`Error::Write`]; the old checkpoint is then kept.
    pub fn write_checkpoint(&mut self, which: Checkpoint, bytes: &[u8]) -> Result<()> {
        self.sync_metrics()?;
        replace_file(self.checkpoint_path(which), bytes)
    }

    /// Replaces `progress.json`.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn write_progress(&self, progress: &Progress) -> Result<()> {
        let finite = |value: f64| if value.is_finite() { value } else { 0.0 };
        let progress = Progress {
            seconds: finite(progress.seconds),
            images_per_second: finite(progress.images_per_second),
            ..progress.clone()
        };
        write_json(&self.path.join(PROGRESS), &progress)
    }

    /// Writes `analysis.json`.
    ///
    /// # Errors
    /// [`Error::Write`], also if the analysis could not be read back.
    pub fn write_analysis(&self, analysis: &Analysis) -> Result<()> {
        analysis
            .check()
            .map_err(|cause| self.write_error(ANALYSIS, io::Error::new(io::ErrorKind::InvalidData, cause)))?;
        let mut bytes =
            serde_json::to_vec(analysis).map_err(|cause| self.write_error(ANALYSIS, cause.into()))?;
        bytes.push(b'\n');
        replace_file(self.path.join(ANALYSIS), &bytes)
    }

    /// Records that the run continues, perhaps on another machine, and with options that may change, such as more epochs. A result
    /// and an analysis are removed, since the run is no longer finished.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::Config`].
    pub fn reopen(&mut self, config: &RunConfig, environment: &Environment) -> Result<()> {
        let config = config.to_toml()?;
        // The result first: it marks the analysis as complete.
        for file in [RESULT, ANALYSIS] {
            match fs::remove_file(self.path.join(file)) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                    return Err(self.write_error(file, cause));
                }
                _ => {}
            }
        }
        write_json(&self.path.join(ENVIRONMENT), environment)?;
        replace_file(self.path.join(CONFIG), config.as_bytes())
    }

    /// The stored environment, from the start or from the last resume.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Malformed`].
    pub fn environment(&self) -> Result<Environment> {
        read_json(&self.path.join(ENVIRONMENT))
    }

    /// The result, if the run is finished.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Malformed`].
    pub fn result(&self) -> Result<Option<RunResult>> {
        read_json_if_exists(&self.path.join(RESULT))
    }

    /// Writes `result.json`, after the metrics have reached the disk. The run is finished.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a number is NaN or infinite, [`Error::Write`].
    pub fn finish(&mut self, result: &RunResult) -> Result<()> {
        result.check()?;
        self.sync_metrics()?;
        write_json(&self.path.join(RESULT), result)
    }

    fn sync_metrics(&self) -> Result<()> {
        synced(self.metrics.sync_data()).map_err(|cause| self.write_error(METRICS, cause))
    }

    fn cut_torn_line(&self) -> Result<()> {
        let path = self.path.join(METRICS);
        let bytes = read(&path, MAX_METRICS)?;
        let whole: usize = complete_lines(&bytes).map(<[u8]>::len).sum();
        if whole < bytes.len() {
            self.metrics.set_len(whole as u64).map_err(|cause| self.write_error(METRICS, cause))?;
        }
        Ok(())
    }

    fn write_error(&self, file: &str, cause: io::Error) -> Error {
        Error::Write { path: self.path.join(file), cause }
    }
}

pub(crate) fn read_config(folder: &Path) -> Result<RunConfig> {
    let path = folder.join(CONFIG);
    let text = String::from_utf8(read(&path, RunConfig::MAX_BYTES)?).map_err(|error| Error::Malformed {
        path: path.clone(),
        cause: format!("it is not UTF-8 after the first {} bytes", error.utf8_error().valid_up_to()),
    })?;
    RunConfig::from_toml(&text).map_err(|error| match error {
        Error::Config { cause } => Error::Malformed { path, cause },
        other => other,
    })
}

/// Creates the folder of the checkpoints and removes what a killed writer left. Only the holder of the lock may call this.
fn prepare(path: &Path) -> Result<()> {
    let checkpoints = path.join(CHECKPOINTS);
    fs::create_dir_all(&checkpoints)
        .map_err(|cause| Error::NotWritable { path: checkpoints.clone(), cause })?;
    sweep(path);
    sweep(&checkpoints);
    Ok(())
}

/// The lines that end in a line feed, which is included.
pub(crate) fn complete_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"))
}

/// Parses a line of `metrics.jsonl`; `index` counts from 0.
pub(crate) fn parse_line(path: &Path, index: usize, line: &[u8]) -> Result<Record> {
    serde_json::from_slice(line).map_err(|error| Error::MalformedLine {
        path: path.into(),
        line: index + 1,
        cause: one_line(&error.to_string()),
    })
}

fn lock(path: &Path) -> Result<Lock> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join(LOCK))
        .map_err(|cause| Error::NotWritable { path: path.into(), cause })?;
    for _ in 0..LOCK_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(Lock { _file: file, refused: None }),
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(cause)) if cause.kind() == io::ErrorKind::Interrupted => {}
            // The file could be opened for writing, so any error concerns locks.
            Err(TryLockError::Error(cause)) => return Ok(Lock { _file: file, refused: Some(cause) }),
        }
    }
    Err(Error::InUse { path: path.into() })
}

/// Whether a process writes to a run folder.
pub(crate) enum Writer {
    AtWork,
    None,
    /// The file system has no locks.
    Unknown,
}

/// Checks whether the folder's lock is held. The check holds the lock itself for a moment; a writer that starts waits for that.
pub(crate) fn writer(path: &Path) -> Writer {
    let Ok(file) = File::open(path.join(LOCK)) else { return Writer::None };
    match file.try_lock_shared() {
        Ok(()) => Writer::None,
        Err(TryLockError::WouldBlock) => Writer::AtWork,
        Err(TryLockError::Error(_)) => Writer::Unknown,
    }
}

fn open_metrics(folder: &Path) -> Result<File> {
    let path = folder.join(METRICS);
    let open = || -> io::Result<File> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        sync_folder(folder)?;
        Ok(file)
    };
    open().map_err(|cause| Error::Write { path: path.clone(), cause })
}
