use crate::note;
use clap::Parser;
use std::{io, process::ExitCode};

/// Parses the command line. If it is wrong or requests help, prints the error or the help and returns the exit code: 2, 0, or 1 for help that did not
/// reach stdout.
///
/// # Errors
/// The exit code.
pub fn parse<C: Parser>() -> Result<C, ExitCode> {
    C::try_parse().map_err(|error| match error.print() {
        Err(cause) if !error.use_stderr() && cause.kind() != io::ErrorKind::BrokenPipe => {
            note!("error: stdout cannot be written: {cause}");
            ExitCode::FAILURE
        }
        _ => ExitCode::from(error.exit_code() as u8),
    })
}
