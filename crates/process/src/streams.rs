use std::{
    fmt,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
};

/// Bytes of a program's last output that are kept for a message.
const TAIL: u64 = 4096;

/// A result that did not reach stdout.
#[derive(Debug, thiserror::Error)]
#[error("stdout cannot be written: {0}")]
pub struct OutputError(io::Error);

impl OutputError {
    /// Whether the reader has gone: it has read enough, which is no failure.
    pub fn is_reader_gone(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Writes a result to stdout, where a line feed ends it.
///
/// # Errors
/// [`OutputError`], also if the reader has gone.
pub fn print(text: &str) -> Result<(), OutputError> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(OutputError)
}

/// Writes a line of progress or a message to stderr, if it can be written: a missing reader is no reason to stop. See [`note!`](crate::note!).
pub fn note(line: fmt::Arguments<'_>) {
    // In one piece: other processes may write there as well.
    let _ = io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

/// Writes a line to stderr as `eprintln!` does, but without a panic if the reader has gone or the disk is full.
#[macro_export]
macro_rules! note {
    ($($argument:tt)*) => {
        $crate::note(::std::format_args!($($argument)*))
    };
}

/// The end of a file of a program's messages; empty if it cannot be read.
#[must_use]
pub fn tail(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file.metadata().and_then(|about| {
        file.seek(SeekFrom::Start(about.len().saturating_sub(TAIL)))?;
        file.read_to_end(&mut bytes)
    });
    read.map_or(String::new(), |_| String::from_utf8_lossy(&bytes).into_owned())
}
