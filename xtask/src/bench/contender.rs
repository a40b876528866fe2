//! The contenders: finding them, and asking them for a measurement.

use std::{
    cell::RefCell,
    env::consts::EXE_SUFFIX,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, anyhow, bail};
use cargo_metadata::MetadataCommand;
use pointwise_process::{Stop, note};

use super::{
    question::{Contender, Device, Phase, Question},
    record::{Row, Skipped},
    server::Server,
};
use crate::trainer::{built, cargo, workspace_manifest};

/// How the Rust peers are compiled. candle and burn choose kernels at compile time; ours are chosen for the processor at run time.
pub(crate) const PEER_FLAGS: &str = "-C target-cpu=native";

/// The command that installs packages where they are looked for.
const INSTALL: &str = "python3 -m venv target/torch && target/torch/bin/pip install";

/// The exit code of a contender whose library cannot express the network; the last line on its stderr says what it lacks.
const LACKS: i32 = 3;

/// The command that builds the Rust peers.
const BUILD_PEERS: &str = "cargo xtask bench --build-peers";

/// The answer to a question.
#[derive(Debug)]
pub(crate) enum Answer {
    Row(Box<Row>),
    /// The library cannot express the network: what it lacks, in a sentence.
    Lacks(String),
}

/// What a contender printed, or what it lacks.
type Printed = Result<Vec<u8>, String>;

/// A contender that was found.
#[derive(Debug)]
pub(crate) struct Entrant {
    pub(crate) contender: Contender,
    program: PathBuf,
    /// Arguments before the options that all contenders understand.
    arguments: Vec<OsString>,
    /// How it is asked.
    way: Way,
}

/// How a contender is asked.
#[derive(Debug)]
enum Way {
    /// A process for each question.
    Process,
    /// One process for all questions, which keeps its state: on a GPU PyTorch takes ten seconds to load and to choose its kernels, to time
    /// milliseconds.
    Server(RefCell<Option<Server>>),
}

impl Entrant {
    /// Asks, and returns the measurement.
    ///
    /// # Errors
    /// If it fails, or answers another question. The outermost message can be published; causes may hold paths.
    pub(crate) fn measure(&self, question: &Question<'_>) -> anyhow::Result<Answer> {
        let Question { network, phase, precision, threads, .. } = question;
        let model = &network.name;
        let of = precision.map_or(String::new(), |precision| format!(", {precision}"));
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        // Libraries that the contenders use read these.
        for variable in ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"] {
            command.env(variable, threads.to_string());
        }
        let answer = match &self.way {
            Way::Process => self.answer_of_a_process(command, question),
            Way::Server(server) => {
                let mut server = server.borrow_mut();
                let answer = match server.as_mut() {
                    Some(server) => server.ask(&self.options(question)),
                    None => Server::start(&mut command)
                        .and_then(|started| server.insert(started).ask(&self.options(question))),
                };
                if answer.is_err() {
                    // The next question starts a new one.
                    *server = None;
                }
                answer.map(Ok)
            }
        };
        let answer: Printed =
            answer.with_context(|| format!("{} failed on {model}, {phase}{of}", self.contender))?;
        let answer = match answer {
            Ok(answer) => answer,
            Err(lacks) => return Ok(Answer::Lacks(lacks)),
        };
        let mut row = Row::parse(&answer).with_context(|| {
            format!("what {} printed for {model}, {phase}{of}, is not a row", self.contender)
        })?;
        if row.phase == self.phase(*phase) {
            row.phase = *phase;
        }
        row.check(self.contender, question)?;
        row.settle(question);
        Ok(Answer::Row(Box::new(row)))
    }

    /// The phase to ask the contender for: candle's inference is its evaluation, whose loss costs next to nothing.
    fn phase(&self, phase: Phase) -> Phase {
        if self.contender == Contender::Candle && phase == Phase::Infer { Phase::Eval } else { phase }
    }

    /// The options that every contender understands, except that ours takes the network by name and knows the recipe.
    fn options(&self, question: &Question<'_>) -> Vec<String> {
        let Question { device, network, phase, precision, batch, adam, threads, steps, rates } = question;
        let (warmup, steps) = self.contender.steps(*steps, *device);
        let (option, value) = match self.contender {
            Contender::Pointwise => ("--model", network.asked.clone()),
            _ => ("--graph", network.graph.to_string_lossy().into_owned()),
        };
        let mut options = vec!["--json".to_owned(), option.to_owned(), value];
        options.extend(["--phase", self.phase(*phase).name()].map(String::from));
        for (option, value) in
            [("--batch", *batch), ("--threads", *threads), ("--warmup", warmup), ("--steps", steps)]
        {
            options.extend([option.to_owned(), value.to_string()]);
        }
        options
            .extend(precision.iter().flat_map(|precision| ["--precision".to_owned(), precision.to_string()]));
        // Ours reads these from the study's recipe, and no other measures the machine.
        let more = match self.contender {
            Contender::Pointwise => {
                [("--peak-gflops", rates.peak_gflops), ("--bandwidth-gb", rates.bandwidth_gb)]
            }
            Contender::Candle | Contender::Burn => {
                [("--lr", Some(adam.lr)), ("--weight-decay", Some(adam.weight_decay))]
            }
            _ if *phase == Phase::Infer => [("--lr", None), ("--weight-decay", None)],
            _ => [("--lr", Some(adam.lr)), ("--weight-decay", Some(adam.weight_decay))],
        };
        for (option, value) in more {
            options.extend(value.iter().flat_map(|value| [option.to_owned(), value.to_string()]));
        }
        options
    }

    fn answer_of_a_process(&self, mut command: Command, question: &Question<'_>) -> anyhow::Result<Printed> {
        let output = command.args(self.options(question)).output().context("it cannot be started")?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let last = stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
            let last = last.strip_prefix("error: ").unwrap_or(last);
            if output.status.code() == Some(LACKS) && self.contender != Contender::Pointwise {
                return Ok(Err(last.to_owned()));
            }
            return Err(anyhow!("{last} ({})", output.status));
        }
        Ok(Ok(output.stdout))
    }
}

/// Where to look for contenders.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// The folder of the workspace.
    pub(crate) root: PathBuf,
    /// A built trainer.
    pub(crate) trainer: PathBuf,
    /// The trainer's engine.
    pub(crate) engine: String,
    pub(crate) device: Device,
    /// The Python named by an option.
    pub(crate) python: Option<PathBuf>,
    /// Whether inference is timed.
    pub(crate) inference: bool,
}

/// Finds the contenders. One that is named must be installed; any other may be missing, and then the reason says how to install it.
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
    let process = |program: PathBuf, arguments: Vec<OsString>| {
        Ok(Ok(Entrant { contender, program, arguments, way: Way::Process }))
    };
    let mut python_arguments: Vec<OsString> = vec![places.root.join("xtask/peers/torch_peer.py").into()];
    let mut add = |arguments: &[&str]| python_arguments.extend(arguments.iter().map(OsString::from));
    let settings = match contender {
        Contender::Pointwise => {
            let arguments = ["bench", "--engine", &places.engine, "--device", places.device.name()];
            return process(places.trainer.clone(), arguments.map(OsString::from).into());
        }
        Contender::Candle | Contender::Burn => {
            let target = target()?;
            if !peer_program(contender, &target).is_file() {
                return Ok(Err(format!("it is not built; `{BUILD_PEERS}` builds it")));
            }
            // Cargo does nothing if the program is up to date.
            return process(build_peer(contender, &places.root, &target)?, Vec::new());
        }
        Contender::Pytorch | Contender::Onnxruntime | Contender::Openvino if places.inference => {
            return find_library(contender, places);
        }
        Contender::Pytorch => {
            add(&["--memory-format", "contiguous"]);
            None
        }
        Contender::Onnxruntime | Contender::Openvino => bail!("{contender} is timed only in inference"),
        Contender::PytorchChannelsLast => {
            add(&["--memory-format", "channels_last"]);
            None
        }
        Contender::PytorchGraph => Some("graph"),
        Contender::PytorchCompile => Some("compile"),
        Contender::PytorchNotebook => Some("notebook"),
    };
    let program = match python(places, "torch", "torch numpy")? {
        Ok(program) => program,
        Err(reason) => return Ok(Err(reason)),
    };
    Ok(Ok(match settings {
        None => Entrant { contender, program, arguments: python_arguments, way: Way::Process },
        Some(settings) => {
            add(&["--device", places.device.name(), "--settings", settings, "--serve"]);
            Entrant { contender, program, arguments: python_arguments, way: Way::Server(RefCell::default()) }
        }
    }))
}

/// A Python library that is timed in inference.
fn find_library(contender: Contender, places: &Places) -> anyhow::Result<Result<Entrant, String>> {
    // All of them get their networks from PyTorch.
    let (modules, packages) = match contender {
        Contender::Onnxruntime => ("torch, onnx, onnxruntime", "torch numpy onnx onnxruntime"),
        Contender::Openvino => ("torch, onnx, openvino", "torch numpy onnx openvino"),
        _ => ("torch", "torch numpy"),
    };
    let program = match python(places, modules, packages)? {
        Ok(program) => program,
        Err(reason) => return Ok(Err(reason)),
    };
    let script = places.root.join("xtask/peers/inference_peer.py");
    let arguments = [script.into(), "--library".into(), contender.name().into(), "--serve".into()];
    Ok(Ok(Entrant { contender, program, arguments: arguments.into(), way: Way::Server(RefCell::default()) }))
}

/// A Python that has these modules, which these packages install. A named one must have them.
fn python(places: &Places, modules: &str, packages: &str) -> anyhow::Result<Result<PathBuf, String>> {
    let imports = |python: &Path| {
        let import = format!("import {modules}");
        Command::new(python).args(["-c", &import]).output().map(|output| output.status.success())
    };
    if let Some(python) = &places.python {
        let shown = python.display();
        return match imports(python) {
            Ok(true) => Ok(Ok(python.clone())),
            Ok(false) => bail!("{shown} lacks {modules}: install it there with `pip install {packages}`"),
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
        _ => Err(format!("target/torch lacks {modules}; `{INSTALL} {packages}` installs it")),
    })
}

/// Builds the peers written in Rust.
///
/// # Errors
/// If cargo fails.
pub(crate) fn build_peers(contenders: &[Contender], root: &Path) -> anyhow::Result<()> {
    let target = target()?;
    for &contender in contenders {
        if matches!(contender, Contender::Candle | Contender::Burn) {
            note!("building the peer {contender} with {PEER_FLAGS}");
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

/// A folder for each peer, because they are built with other flags than our own crates.
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
    built(&mut command, &format!("{contender}-peer"), &Stop::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{network::Network, question::Rates};
    use pointwise_recipe::Adam;

    #[test]
    fn a_missing_contender_is_skipped_unless_it_was_named() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places {
            root: folder.path().into(),
            trainer: "trainer".into(),
            engine: "cpu".into(),
            device: Device::Cpu,
            python: None,
            inference: false,
        };
        let contenders = [Contender::Pointwise, Contender::Pytorch];
        let (entrants, skipped) = enter(&contenders, false, &places).unwrap();
        assert_eq!(entrants.len(), 1);
        assert_eq!(skipped[0].contender, Contender::Pytorch);
        assert!(skipped[0].reason.contains(INSTALL), "{}", skipped[0].reason);
        let error = enter(&contenders, true, &places).unwrap_err().to_string();
        assert!(error.starts_with("pytorch cannot be timed: ") && error.contains(INSTALL), "{error}");

        // A named Python is never skipped.
        let places = Places { python: Some(folder.path().join("python")), ..places };
        let error = enter(&contenders, false, &places).unwrap_err().to_string();
        assert!(error.contains("cannot be started") && error.contains("--python"), "{error}");
    }

    /// It has no other word for it.
    #[test]
    fn candle_is_asked_for_evaluation_where_others_are_for_inference() {
        let network = Network {
            name: "nin".into(),
            asked: "nin".into(),
            parameters: 1_485_386,
            macs: 172_456_448,
            graph: "nin.json".into(),
        };
        let question = Question {
            device: Device::Cpu,
            network: &network,
            phase: Phase::Infer,
            precision: None,
            batch: 8,
            adam: &Adam::default(),
            threads: 2,
            steps: 4,
            rates: Rates::default(),
        };
        for (contender, phase) in [(Contender::Candle, "eval"), (Contender::Pointwise, "infer")] {
            let entrant =
                Entrant { contender, program: "peer".into(), arguments: Vec::new(), way: Way::Process };
            let options = entrant.options(&question);
            assert!(options.windows(2).any(|pair| pair == ["--phase", phase]), "{contender}: {options:?}");
        }
    }
}
