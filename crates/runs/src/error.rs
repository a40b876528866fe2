use std::{io, path::PathBuf};

/// See `RunConfig::MAX_THREADS`.
pub(crate) const MAX_THREADS: u32 = 1024;

/// What can go wrong with a run folder. Every message is one sentence that names the thing and the fix; it holds the
/// underlying cause, which is therefore not repeated as a `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A new run was requested where one exists.
    #[error("{} already holds a run: continue it with --resume or choose another --run-dir", path.display())]
    HoldsRun {
        /// The run folder.
        path: PathBuf,
    },
    /// A new run was requested where files of another one remain without their `config.toml`.
    #[error("{} holds {file} of a run without its config.toml: move it away or choose another --run-dir", path.display())]
    HoldsRemains {
        /// The run folder.
        path: PathBuf,
        /// The file that was found.
        file: &'static str,
    },
    /// There is no `config.toml`.
    #[error("{} holds no run (it has no config.toml): check the path, or start a new run there", path.display())]
    NotARun {
        /// The supposed run folder.
        path: PathBuf,
    },
    /// The path is a file.
    #[error("{} is a file, not a folder: choose another --run-dir", path.display())]
    NotAFolder {
        /// The path as given.
        path: PathBuf,
    },
    /// The folder cannot be created or written.
    #[error("the run folder {} cannot be written ({cause}): choose another --run-dir or fix its permissions", path.display())]
    NotWritable {
        /// The run folder.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// Another process writes to the folder.
    #[error("{} is in use by another process: wait for it to end or choose another --run-dir", path.display())]
    InUse {
        /// The run folder.
        path: PathBuf,
    },
    /// A file could not be read.
    #[error("{} cannot be read: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// A file could not be written.
    #[error("{} cannot be written ({cause}): {}", path.display(), advice(cause))]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// A file has invalid content.
    #[error("{} is not valid ({cause}): it was changed by hand or by another version, so restore it or start a new run", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser said, in one line.
        cause: String,
    },
    /// A line of `metrics.jsonl` is not a record.
    #[error("{}, line {line}, is not a record ({cause}): restore the file or start a new run", path.display())]
    MalformedLine {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the parser said.
        cause: String,
    },
    /// A configuration cannot be read from or written as TOML.
    #[error("the configuration is not valid ({cause}): correct that key")]
    Config {
        /// What the parser or writer said, in one line.
        cause: String,
    },
    /// The variable `RAYON_NUM_THREADS` does not hold a number of threads.
    #[error(
        "invalid value '{value}' for the variable RAYON_NUM_THREADS: give a whole number from 1 to {}, or unset it",
        MAX_THREADS
    )]
    Threads {
        /// What it holds.
        value: String,
    },
    /// A number that must be finite is not. JSON cannot represent NaN or infinity, and a run never records one silently.
    #[error("{name} is {value} where a finite number is needed: lower the learning rate or check the data")]
    NotFinite {
        /// The field's name in the file.
        name: &'static str,
        /// NaN or an infinity.
        value: f64,
    },
}

fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound => "its folder is gone, so restore it or choose another one",
        io::ErrorKind::FileTooLarge => "raise the limit on file sizes (ulimit -f)",
        io::ErrorKind::ReadOnlyFilesystem => {
            "it was made read-only, so make it writable again or choose another folder"
        }
        _ if is_io_error(cause) => {
            "the disk or its connection fails, so check the system's log and continue with a copy of the folder elsewhere"
        }
        _ => "check free space and permissions",
    }
}

/// Whether a device reported a failure: EIO, which has the same number on every Unix, and no [`io::ErrorKind`].
fn is_io_error(cause: &io::Error) -> bool {
    cfg!(unix) && cause.raw_os_error() == Some(5)
}
