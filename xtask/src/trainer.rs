//! Builds and finds the program `trainer`.

use std::{
    io::{self, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, bail};
use cargo_metadata::Message;
use pointwise_process::{Stop, outside_cargo};

/// The cargo that called us, else the one in the path.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    outside_cargo(&mut command);
    command
}

/// The manifest of the workspace. Cargo says where our package is; the current folder may be another.
pub(crate) fn workspace_manifest() -> PathBuf {
    match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(folder) => Path::new(&folder).join("..").join("Cargo.toml"),
        None => "Cargo.toml".into(),
    }
}

/// The workspace's folder.
pub(crate) fn workspace_root() -> PathBuf {
    let manifest = workspace_manifest();
    // That of a plain name is empty.
    let folder = manifest.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).to_owned()
}

/// Builds the trainer and returns the path of the program. Cargo's messages go to stderr.
pub(crate) fn build(features: Option<&str>, stop: &Stop) -> anyhow::Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--release", "--package", "trainer"]);
    command.arg("--manifest-path").arg(workspace_manifest());
    if let Some(features) = features {
        command.args(["--features", features]);
    }
    built(&mut command, "trainer", stop)
}

/// Runs a `cargo build` and returns the path of the program of this name.
pub(crate) fn built(command: &mut Command, name: &str, stop: &Stop) -> anyhow::Result<PathBuf> {
    command.arg("--message-format=json-render-diagnostics");
    let mut child = command.stdout(Stdio::piped()).spawn().context("cargo cannot be started")?;
    let stdout = child.stdout.take().context("cargo has no stdout")?;
    let (status, program) = thread::scope(|scope| {
        let program = scope.spawn(|| executable(stdout, name));
        (stop.wait_for(&mut child), program.join())
    });
    if !status.context("cargo cannot be waited for")?.success() {
        bail!("`{name}` cannot be built: see cargo's messages above");
    }
    let program = program.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    program.with_context(|| format!("cargo built no program named `{name}`: is that package a binary?"))
}

/// The path of the program of this name in cargo's messages, which are read to their end.
fn executable(messages: impl io::Read, name: &str) -> anyhow::Result<Option<PathBuf>> {
    let mut program = None;
    for message in Message::parse_stream(BufReader::new(messages)) {
        if let Message::CompilerArtifact(artifact) = message.context("cargo's messages cannot be read")?
            && artifact.target.name == name
            && let Some(path) = artifact.executable
        {
            program = Some(path.into_std_path_buf());
        }
    }
    Ok(program)
}

/// A path that a child process does not mistake for a name to look up.
pub(crate) fn program(path: &Path) -> anyhow::Result<PathBuf> {
    if !path.is_file() {
        bail!(
            "{} is not a file: give the path of a built trainer to --trainer, or leave that out",
            path.display()
        );
    }
    std::path::absolute(path).with_context(|| format!("{} cannot be resolved", path.display()))
}
