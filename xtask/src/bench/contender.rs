//! Who is timed, and how each is asked.

use std::{
    env::consts::EXE_SUFFIX,
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use anyhow::{Context, anyhow, bail};
use cargo_metadata::MetadataCommand;
use serde::{Deserialize, Serialize};

use super::record::{Row, Skipped};
use crate::{
    list::{List, list},
    trainer::{built, cargo, workspace_manifest},
};

/// How the Rust peers are compiled. candle and burn choose kernels at compile time where ours look at the processor they run on.
pub(crate) const PEER_FLAGS: &str = "-C target-cpu=native";

/// What installs PyTorch where it is looked for.
const INSTALL_TORCH: &str = "python3 -m venv target/torch && target/torch/bin/pip install torch numpy";

/// What builds the Rust peers.
const BUILD_PEERS: &str = "cargo xtask bench --build-peers";

/// A program that is timed. The names are those of `--only` and of records.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// Our engine.
    Pointwise,
    /// PyTorch as the notebook runs it.
    Pytorch,
    /// PyTorch with weights and images in its faster layout.
    PytorchChannelsLast,
    /// candle-nn as it comes.
    Candle,
    /// burn on the fastest of its CPU backends.
    Burn,
}

impl Contender {
    pub(crate) const ALL: [Self; 5] =
        [Self::Pointwise, Self::Pytorch, Self::PytorchChannelsLast, Self::Candle, Self::Burn];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pointwise => "pointwise",
            Self::Pytorch => "pytorch",
            Self::PytorchChannelsLast => "pytorch-channels-last",
            Self::Candle => "candle",
            Self::Burn => "burn",
        }
    }

    /// For people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Pytorch => "PyTorch",
            Self::PytorchChannelsLast => "PyTorch channels_last",
            other => other.name(),
        }
    }

    /// Warm-up steps and timed steps of one process. candle takes seconds a step: two a round are what can be waited for.
    pub(crate) fn steps(self, asked: u32) -> (u32, u32) {
        match self {
            Self::Candle => (1, 1),
            _ => (2, asked),
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for List<Contender> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        list(text, |part| {
            Contender::ALL.into_iter().find(|contender| contender.name() == part).ok_or_else(|| {
                let known = Contender::ALL.map(Contender::name);
                format!("`{part}` is not a contender: choose from {}", known.join(", "))
            })
        })
    }
}

/// What a step is.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    Train,
    Eval,
}

impl Phase {
    pub(crate) const ALL: [Self; 2] = [Self::Train, Self::Eval];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Eval => "eval",
        }
    }

    /// Passes through the network, each of as much work as the forward one: the gradients of inputs and of weights are two.
    pub(crate) fn passes(self) -> f64 {
        match self {
            Self::Train => 3.0,
            Self::Eval => 1.0,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for List<Phase> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        list(text, |part| {
            Phase::ALL
                .into_iter()
                .find(|phase| phase.name() == part)
                .ok_or_else(|| format!("`{part}` is not a phase: choose from train, eval"))
        })
    }
}

/// What a contender is asked to time.
#[derive(Clone, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) model: &'a str,
    pub(crate) phase: Phase,
    pub(crate) batch: u32,
    pub(crate) threads: u32,
    /// Timed steps of a contender that is not slow.
    pub(crate) steps: u32,
}

/// A contender that is there.
#[derive(Clone, Debug)]
pub(crate) struct Entrant {
    pub(crate) contender: Contender,
    program: PathBuf,
    /// What comes before the options that all contenders understand.
    arguments: Vec<OsString>,
}

impl Entrant {
    /// Runs a process of its own and gives what it measured.
    ///
    /// # Errors
    /// If it fails, or answers something else than it was asked. The outermost message can be published; causes may hold paths.
    pub(crate) fn measure(&self, question: &Question<'_>) -> anyhow::Result<Row> {
        let Question { model, phase, batch, threads, steps } = question;
        let (warmup, steps) = self.contender.steps(*steps);
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(["--json", "--model", model, "--phase", phase.name()]);
        for (option, value) in
            [("--batch", *batch), ("--threads", *threads), ("--warmup", warmup), ("--steps", steps)]
        {
            command.arg(option).arg(value.to_string());
        }
        // Libraries below the contenders ask these.
        for variable in ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"] {
            command.env(variable, threads.to_string());
        }
        let output = command.output().with_context(|| format!("{} cannot be started", self.contender))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let last = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
            let last = last.strip_prefix("error: ").unwrap_or(last);
            let cause = anyhow!("{last} ({})", output.status);
            return Err(cause.context(format!("{} failed on {model}, {phase}", self.contender)));
        }
        let row = Row::parse(&output.stdout)
            .with_context(|| format!("what {} printed for {model}, {phase}, is not a row", self.contender))?;
        row.check(self.contender, question)?;
        Ok(row)
    }
}

/// Where contenders are looked for.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// The folder of the workspace.
    pub(crate) root: PathBuf,
    /// A trainer that is built.
    pub(crate) trainer: PathBuf,
    /// The trainer's engine.
    pub(crate) engine: String,
    /// A Python that was named.
    pub(crate) python: Option<PathBuf>,
}

/// Finds the contenders. One that was asked for by name must be there; any other may be missing, and then it is said how it is
/// installed.
///
/// # Errors
/// If a named one is missing or cannot be brought up to date.
pub(crate) fn enter(
    contenders: &[Contender],
    by_name: bool,
    places: &Places,
) -> anyhow::Result<(Vec<Entrant>, Vec<Skipped>)> {
    let (mut entrants, mut skipped) = (Vec::new(), Vec::new());
    for &contender in contenders {
        match find(contender, places)? {
            Ok(entrant) => entrants.push(entrant),
            Err(reason) if by_name => bail!("{contender} cannot be timed: {reason}"),
            Err(reason) => skipped.push(Skipped { contender, reason }),
        }
    }
    Ok((entrants, skipped))
}

/// A contender, or why it is not there.
fn find(contender: Contender, places: &Places) -> anyhow::Result<Result<Entrant, String>> {
    let (program, arguments): (PathBuf, Vec<OsString>) = match contender {
        Contender::Pointwise => {
            let arguments = ["bench", "--engine", &places.engine, "--device", "cpu"];
            (places.trainer.clone(), arguments.map(OsString::from).into())
        }
        Contender::Pytorch | Contender::PytorchChannelsLast => match python(places)? {
            Ok(python) => {
                let format = match contender {
                    Contender::Pytorch => "contiguous",
                    _ => "channels_last",
                };
                let script = places.root.join("xtask/peers/torch_peer.py");
                (python, vec![script.into(), "--memory-format".into(), format.into()])
            }
            Err(reason) => return Ok(Err(reason)),
        },
        Contender::Candle | Contender::Burn => {
            let target = target()?;
            if !peer_program(contender, &target).is_file() {
                return Ok(Err(format!("it is not built; `{BUILD_PEERS}` builds it")));
            }
            // Cargo does nothing where the program is up to date.
            (build_peer(contender, &places.root, &target)?, Vec::new())
        }
    };
    Ok(Ok(Entrant { contender, program, arguments }))
}

/// A Python with PyTorch. A named one must have it.
fn python(places: &Places) -> anyhow::Result<Result<PathBuf, String>> {
    let imports = |python: &Path| {
        Command::new(python).args(["-c", "import torch"]).output().map(|output| output.status.success())
    };
    if let Some(python) = &places.python {
        let shown = python.display();
        return match imports(python) {
            Ok(true) => Ok(Ok(python.clone())),
            Ok(false) => bail!("{shown} has no PyTorch: install it there with `pip install torch numpy`"),
            Err(error) => {
                bail!("{shown} cannot be started ({error}): name a Python that has PyTorch by --python")
            }
        };
    }
    let own = match cfg!(windows) {
        true => "target/torch/Scripts/python.exe",
        false => "target/torch/bin/python",
    };
    let own = places.root.join(own);
    Ok(match imports(&own) {
        Ok(true) => Ok(own),
        _ => Err(format!("there is no PyTorch in target/torch; `{INSTALL_TORCH}` installs it")),
    })
}

/// Builds the peers that are written in Rust.
///
/// # Errors
/// If cargo fails.
pub(crate) fn build_peers(contenders: &[Contender], root: &Path) -> anyhow::Result<()> {
    let target = target()?;
    for &contender in contenders {
        if matches!(contender, Contender::Candle | Contender::Burn) {
            eprintln!("building the peer {contender} with {PEER_FLAGS}");
            build_peer(contender, root, &target)?;
        }
    }
    Ok(())
}

/// The folder that cargo builds in.
fn target() -> anyhow::Result<PathBuf> {
    let mut command = MetadataCommand::new();
    command.manifest_path(workspace_manifest()).cargo_path(cargo().get_program()).no_deps();
    Ok(command.exec().context("`cargo metadata` failed")?.target_directory.into_std_path_buf())
}

/// A folder for each peer, because they are not built as our own crates are.
fn peer_folder(contender: Contender, target: &Path) -> PathBuf {
    target.join("peers").join(contender.name())
}

fn peer_program(contender: Contender, target: &Path) -> PathBuf {
    peer_folder(contender, target).join("release").join(format!("{contender}-peer{EXE_SUFFIX}"))
}

fn build_peer(contender: Contender, root: &Path, target: &Path) -> anyhow::Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--release", "--locked", "--manifest-path"]);
    command.arg(root.join("xtask/peers").join(contender.name()).join("Cargo.toml"));
    command.arg("--target-dir").arg(peer_folder(contender, target));
    // The second one would win over the first.
    command.env("RUSTFLAGS", PEER_FLAGS).env_remove("CARGO_ENCODED_RUSTFLAGS");
    built(&mut command, &format!("{contender}-peer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_and_phases_have_the_names_of_options_and_records() {
        for contender in Contender::ALL {
            let written = serde_json::to_value(contender).unwrap();
            assert_eq!(written, contender.name());
            assert_eq!(contender.name().parse::<List<Contender>>().unwrap().0, [contender]);
        }
        for phase in Phase::ALL {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.name());
            assert_eq!(phase.name().parse::<List<Phase>>().unwrap().0, [phase]);
        }
        let error = "pointwise,jax".parse::<List<Contender>>().unwrap_err();
        assert!(error.starts_with("`jax` is not a contender: choose from pointwise, pytorch,"), "{error}");
        assert!("train,train".parse::<List<Phase>>().unwrap_err().contains("given twice"));
    }

    #[test]
    fn a_missing_contender_is_skipped_unless_it_was_named() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places {
            root: folder.path().into(),
            trainer: "trainer".into(),
            engine: "cpu".into(),
            python: None,
        };
        let contenders = [Contender::Pointwise, Contender::Pytorch];
        let (entrants, skipped) = enter(&contenders, false, &places).unwrap();
        assert_eq!(entrants.len(), 1);
        assert_eq!(skipped[0].contender, Contender::Pytorch);
        assert!(skipped[0].reason.contains(INSTALL_TORCH), "{}", skipped[0].reason);
        let error = enter(&contenders, true, &places).unwrap_err().to_string();
        assert!(error.starts_with("pytorch cannot be timed: ") && error.contains(INSTALL_TORCH), "{error}");

        // A Python that was named is never passed over.
        let places = Places { python: Some(folder.path().join("python")), ..places };
        let error = enter(&contenders, false, &places).unwrap_err().to_string();
        assert!(error.contains("cannot be started") && error.contains("--python"), "{error}");
    }
}
