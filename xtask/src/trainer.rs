//! The trainer, as a program: built, found and asked.

use std::{
    io::{self, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use cargo_metadata::Message;
use pointwise_process::SIGINT;
use pointwise_report::NetworkFacts;

/// So much time has a program that gets a Ctrl-C from the terminal.
const GRACE: Duration = Duration::from_secs(5);

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
pub(crate) fn build(features: Option<&str>, stop: &Stop) -> anyhow::Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--release", "--package", "trainer"]);
    command.arg("--manifest-path").arg(workspace_manifest());
    if let Some(features) = features {
        command.args(["--features", features]);
    }
    built(&mut command, "trainer", stop)
}

/// Runs a `cargo build` and gives the path of the program that it makes under this name.
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
    program.with_context(|| format!("cargo built no program of the name `{name}`: is that package a binary?"))
}

/// The program of a name in cargo's messages, which are read to their end.
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

/// What `trainer summary --json` says of a family of networks.
pub(crate) fn summary(trainer: &Path, family: &str) -> anyhow::Result<Vec<NetworkFacts>> {
    let output = Command::new(trainer)
        .args(["summary", "--json", "--family", family])
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
#[derive(Debug, Default)]
pub(crate) struct Stop {
    /// The first signal; 0 before.
    signal: Arc<AtomicI32>,
    at_once: Arc<AtomicBool>,
}

impl Stop {
    /// From now on a signal does not end this process.
    pub(crate) fn watch() -> anyhow::Result<Self> {
        let stop = Self::default();
        let (first, at_once) = (Arc::clone(&stop.signal), Arc::clone(&stop.at_once));
        pointwise_process::watch(move |request| {
            // Those after the first one say nothing new.
            let _ = first.compare_exchange(0, request.signal, Ordering::Relaxed, Ordering::Relaxed);
            at_once.fetch_or(request.at_once, Ordering::Relaxed);
        })
        .context("signals cannot be watched")?;
        Ok(stop)
    }

    /// Whether there was a signal.
    pub(crate) fn requested(&self) -> bool {
        self.signal.load(Ordering::Relaxed) != 0
    }

    /// Whether the end must not wait for anything: after a second Ctrl-C.
    pub(crate) fn at_once(&self) -> bool {
        self.at_once.load(Ordering::Relaxed)
    }

    /// Waits for a program that shares our terminal, and ends it if we are to stop. A Ctrl-C reaches it from the terminal as it does us:
    /// then it has a little time to end in its own way.
    pub(crate) fn wait_for(&self, child: &mut Child) -> io::Result<ExitStatus> {
        let mut since: Option<Instant> = None;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if self.requested() {
                let time = since.get_or_insert_with(Instant::now).elapsed();
                let grace =
                    if self.signal.load(Ordering::Relaxed) == SIGINT { GRACE } else { Duration::ZERO };
                if time >= grace || self.at_once() {
                    child.kill()?;
                    return child.wait();
                }
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}
