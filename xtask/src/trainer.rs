//! The trainer, as a program: built, found and asked.

use std::{
    io::BufReader,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use cargo_metadata::Message;
use pointwise_report::NetworkFacts;
use signal_hook::consts::{SIGINT, SIGTERM};

/// Cargo as it called us, else the one in the path.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The manifest of the workspace. Cargo tells where it started us from; the current folder may be another.
pub(crate) fn workspace_manifest() -> PathBuf {
    match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(folder) => Path::new(&folder).join("..").join("Cargo.toml"),
        None => "Cargo.toml".into(),
    }
}

/// Builds the trainer and gives the path of the program. Cargo's messages go to stderr.
pub(crate) fn build(features: Option<&str>) -> anyhow::Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--release", "--package", "trainer"]);
    command.arg("--manifest-path").arg(workspace_manifest());
    if let Some(features) = features {
        command.args(["--features", features]);
    }
    built(&mut command, "trainer")
}

/// Runs a `cargo build` and gives the path of the program that it makes under this name.
pub(crate) fn built(command: &mut Command, name: &str) -> anyhow::Result<PathBuf> {
    command.arg("--message-format=json-render-diagnostics");
    let mut child = command.stdout(Stdio::piped()).spawn().context("cargo cannot be started")?;
    let mut program = None;
    if let Some(stdout) = child.stdout.take() {
        for message in Message::parse_stream(BufReader::new(stdout)) {
            if let Message::CompilerArtifact(artifact) = message.context("cargo's messages cannot be read")?
                && artifact.target.name == name
                && let Some(path) = artifact.executable
            {
                program = Some(path.into_std_path_buf());
            }
        }
    }
    if !child.wait().context("cargo cannot be waited for")?.success() {
        bail!("`{name}` cannot be built: see cargo's messages above");
    }
    program.with_context(|| format!("cargo built no program of the name `{name}`: is that package a binary?"))
}

/// What `trainer summary --json` says of the study's networks, or of a family.
pub(crate) fn summary(trainer: &Path, family: Option<&str>) -> anyhow::Result<Vec<NetworkFacts>> {
    let output = Command::new(trainer)
        .args(["summary", "--json"])
        .args(family.map(|family| format!("--family={family}")))
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{} cannot be started", trainer.display()))?;
    if !output.status.success() {
        bail!("`trainer summary` failed ({}): see its message above", output.status);
    }
    serde_json::from_slice(&output.stdout)
        .context("the output of `trainer summary --json` cannot be understood")
}

/// Requests to stop.
#[derive(Debug)]
pub(crate) struct Stop {
    interrupted: Arc<AtomicBool>,
    terminated: Arc<AtomicBool>,
    /// Signals that were taken notice of.
    taken: AtomicUsize,
}

impl Stop {
    /// From now on a signal does not end this process.
    pub(crate) fn watch() -> anyhow::Result<Self> {
        let stop =
            Self { interrupted: Arc::default(), terminated: Arc::default(), taken: AtomicUsize::default() };
        for (signal, flag) in [(SIGINT, &stop.interrupted), (SIGTERM, &stop.terminated)] {
            signal_hook::flag::register(signal, Arc::clone(flag)).context("signals cannot be watched")?;
        }
        Ok(stop)
    }

    /// Whether there was a signal.
    pub(crate) fn requested(&self) -> bool {
        self.signals() > 0
    }

    /// How many signals there were; two between two calls count as one.
    pub(crate) fn signals(&self) -> usize {
        let new = [&self.interrupted, &self.terminated].map(|flag| flag.swap(false, Ordering::Relaxed));
        let new = usize::from(new.contains(&true));
        self.taken.fetch_add(new, Ordering::Relaxed) + new
    }

    /// Runs a program that shares our terminal to its end. A Ctrl-C is the program's, which gets it from the terminal as we do:
    /// until it is gone we wait.
    pub(crate) fn wait_for(&self, command: &mut Command) -> anyhow::Result<ExitStatus> {
        let name = command.get_program().to_owned();
        let failed = || format!("{} cannot be run", Path::new(&name).display());
        let mut child = command.spawn().with_context(failed)?;
        loop {
            if let Some(status) = child.try_wait().with_context(failed)? {
                return Ok(status);
            }
            if self.terminated.load(Ordering::Relaxed) {
                return end(&mut child).with_context(failed);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A request to terminate is ours alone, the child does not know of it.
fn end(child: &mut Child) -> std::io::Result<ExitStatus> {
    child.kill()?;
    child.wait()
}
