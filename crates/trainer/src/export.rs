//! `trainer export`: weights for other programs.

mod card;
mod hub;
mod onnx;
mod pickle;
mod pytorch;

use crate::args::{Cli, ExportArgs, ExportFormat};
use crate::data::{cifar10, spec};
use crate::eval::{Weights, weights};
use crate::import::of_network;
use crate::model::Model;
use crate::options::sha256;
use anyhow::{Context, bail};
use clap::CommandFactory;
use clap::error::ErrorKind;
use pointwise_data::DatasetSpec;
use pointwise_network::Network;
use pointwise_runs::{Checkpoint, replace_file};
use pointwise_weights::checkpoint::{self, Meta};
use pointwise_weights::{Array, State};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// What is exported.
struct Exported {
    network: Network,
    state: State,
    /// What the weights say about themselves, without what is of no use elsewhere.
    meta: Option<Meta>,
    /// Images and classes that they are for, where they say it.
    data: Option<DatasetSpec>,
    /// The file.
    file: PathBuf,
}

pub(crate) fn run(args: &ExportArgs) -> anyhow::Result<()> {
    check_usage(args);
    check_free(args)?;
    let exported = Exported::read(&args.checkpoint, args.model.as_ref())?;
    match args.format {
        ExportFormat::Pytorch => write(&args.out, &pytorch::encode(&exported.network, &exported.state)?)?,
        ExportFormat::Safetensors => write(&args.out, &exported.safetensors(&args.out)?)?,
        ExportFormat::Onnx => write(&args.out, &onnx::encode(&exported, args)?)?,
        ExportFormat::Hub => hub::write(&exported, &args.out)?,
    }
    Ok(crate::print(&args.out.display().to_string())?)
}

/// Options of one format mean nothing to another: ends the process like any wrong usage.
fn check_usage(args: &ExportArgs) {
    let options = [
        ("--fold", args.fold),
        ("--preprocess", args.preprocess),
        ("--softmax", args.softmax),
        ("--opset", args.opset.is_some()),
    ];
    if let Some((option, _)) = options.iter().find(|(_, given)| *given && args.format != ExportFormat::Onnx) {
        let message = format!("{option} is an option of --format onnx: leave it out, or choose that format");
        Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
    }
}

/// Nothing that is there is overwritten: it might be the weights themselves.
fn check_free(ExportArgs { out, format, .. }: &ExportArgs) -> anyhow::Result<()> {
    let path = out.display();
    match format {
        ExportFormat::Hub if out.is_dir() => {
            let mut entries = out.read_dir().with_context(|| format!("{path} cannot be read"))?;
            if entries.next().is_some() {
                bail!("{path} is a folder with something in it: give a new one, or an empty one");
            }
        }
        ExportFormat::Hub if out.exists() => bail!("{path} is a file: give a folder"),
        _ if out.exists() => bail!("{path} is there already: give another name, or remove it"),
        _ => {}
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    Ok(replace_file(path, bytes)?)
}

impl Exported {
    fn read(path: &Path, model: Option<&Model>) -> anyhow::Result<Self> {
        let Weights { network, state, run } = weights(path, model)?;
        let state = of_network(state, &network)?;
        let file = checkpoint::weights_file(path)?;
        let meta = checkpoint::read_meta(&file).map(public);
        let data = match run.and_then(|run| run.dataset) {
            Some(data) => Some(spec(&data)),
            // Versions whose checkpoints did not say their data knew CIFAR-10 only.
            None => meta.as_ref().filter(|meta| meta.imported.is_none()).map(|_| cifar10()),
        };
        Ok(Self { network, state, meta, data, file })
    }

    /// The bytes of a safetensors file. Where the weights say what they are of, this one does, too.
    fn safetensors(&self, path: &Path) -> anyhow::Result<Vec<u8>> {
        if let Some(meta) = &self.meta {
            return Ok(checkpoint::encode(path, Checkpoint::Best, &self.state, meta)?);
        }
        let floats = self.state.parameters.iter().chain(&self.state.statistics);
        let mut bytes: BTreeMap<&str, (Dtype, &[usize], Vec<u8>)> = floats
            .map(|(name, Array { shape, values })| {
                let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                (name.as_str(), (Dtype::F32, &shape[..], bytes))
            })
            .collect();
        for (name, count) in &self.state.batches_tracked {
            bytes.insert(name, (Dtype::I64, &[], count.to_le_bytes().to_vec()));
        }
        let mut views = Vec::with_capacity(bytes.len());
        for (name, (dtype, shape, bytes)) in &bytes {
            views.push((*name, TensorView::new(*dtype, shape.to_vec(), bytes)?));
        }
        // What the libraries of the Hub look for.
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        Ok(safetensors::serialize(views, Some(metadata))?)
    }

    /// SHA-256 of the weights file, lower-case hexadecimal.
    fn sha256(&self) -> anyhow::Result<String> {
        Ok(sha256(&checkpoint::read_bytes(&self.file)?))
    }
}

/// Without folders of this machine, and without what only the training needs to continue.
fn public(meta: Meta) -> Meta {
    let mut meta = Meta { position: None, ..meta };
    if let Some(run) = &mut meta.run {
        (run.data_dir, run.init, run.threads, run.checkpoint_every) = (None, None, None, None);
    }
    meta
}
