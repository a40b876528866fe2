use std::{
    io::{self, Read},
    process::{Command, Stdio},
    thread,
};

/// Set for a process that is tied to the one that started it.
const TIED: &str = "POINTWISE_STOP_WITH_STDIN";

/// Makes a program that calls [`watch_parent`], or otherwise stops at the end of its stdin, stop when this process ends, even if it is killed: the
/// program's stdin is a pipe that the system closes with this process. Keep the child, with its `stdin`.
pub fn tie(command: &mut Command) {
    command.stdin(Stdio::piped()).env(TIED, "1");
}

/// In a process that was [tied](tie), calls `act` once the process that started it has ended.
///
/// # Errors
/// If the operating system refuses a thread.
pub fn watch_parent(act: impl FnOnce() + Send + 'static) -> io::Result<()> {
    if std::env::var_os(TIED).is_none() {
        return Ok(());
    }
    thread::Builder::new().name("parent".to_owned()).spawn(move || {
        let mut byte = [0];
        while !matches!(io::stdin().read(&mut byte), Ok(0) | Err(_)) {}
        act();
    })?;
    Ok(())
}
