//! What is exported.

use crate::data::{cifar10, spec};
use crate::eval::{Weights, weights};
use crate::import::of_network;
use crate::model::Model;
use crate::options::sha256;
use pointwise_data::DatasetSpec;
use pointwise_network::Network;
use pointwise_runs::Checkpoint;
use pointwise_weights::checkpoint::{self, Meta};
use pointwise_weights::{Array, State};
use safetensors::tensor::{Dtype, TensorView};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// A network with its weights, and what they say about themselves.
pub(super) struct Exported {
    pub(super) network: Network,
    pub(super) state: State,
    /// What the weights say about themselves, without what is of no use elsewhere.
    pub(super) meta: Option<Meta>,
    /// The images and classes that they are for, if they say so.
    pub(super) data: Option<DatasetSpec>,
    /// The file.
    pub(super) file: PathBuf,
}

impl Exported {
    pub(super) fn read(path: &Path, model: Option<&Model>) -> anyhow::Result<Self> {
        let Weights { network, state, run } = weights(path, model)?;
        let state = of_network(state, &network)?;
        let file = checkpoint::weights_file(path)?;
        let meta = checkpoint::read_meta(&file).map(public);
        let data = match run.and_then(|run| run.dataset) {
            Some(data) => Some(spec(&data)),
            // Versions whose checkpoints did not name their data supported CIFAR-10 only.
            None => meta.as_ref().filter(|meta| meta.imported.is_none()).map(|_| cifar10()),
        };
        Ok(Self { network, state, meta, data, file })
    }

    /// The bytes of a safetensors file, which says what the weights say about themselves.
    pub(super) fn safetensors(&self, path: &Path) -> anyhow::Result<Vec<u8>> {
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
    pub(super) fn sha256(&self) -> anyhow::Result<String> {
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
