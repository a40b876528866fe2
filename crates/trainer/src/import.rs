//! `trainer import`.

use crate::args::ImportArgs;
use crate::eval::check_weights;
use crate::options::sha256;
use crate::{End, print};
use anyhow::bail;
use pointwise_network::Network;
use pointwise_runs::{Checkpoint, replace_file};
use pointwise_training::read_weights;
use pointwise_weights::State;
use pointwise_weights::checkpoint::{self, Imported, Meta};

pub(crate) fn run(args: &ImportArgs) -> anyhow::Result<End> {
    let (file, out, network) = (args.file.display(), args.out.display(), args.network.network());
    if args.out.exists() {
        bail!("{out} exists already: name another file with --out");
    }
    let (state, meta) = read_weights(&args.file)?;
    if let Some(meta) = meta {
        bail!("{file} is a checkpoint already, of `{}`: use it as it is", meta.model);
    }
    check_weights(&args.file, &state, network)?;
    let state = of_network(state, network)?;
    let bytes = checkpoint::read_bytes(&checkpoint::weights_file(&args.file)?)?;
    let meta = Meta {
        model: network.name.clone(),
        dropout: network.dropout().unwrap_or_default(),
        seed: 0,
        epoch: 0,
        step: 0,
        best: None,
        position: None,
        run: None,
        imported: Some(Imported { network: network.to_toml(), sha256: sha256(&bytes) }),
        crc32c: None,
    };
    replace_file(&args.out, &checkpoint::encode(&args.out, Checkpoint::Best, &state, &meta)?)?;
    let count = network.graph()?.parameter_count();
    print(&format!("{out}: {count} parameters of `{}`, from {file}", network.name))?;
    Ok(End::Done)
}

/// The state with exactly what a `state_dict` of the network has, among it a count of steps for each BatchNorm.
pub(crate) fn of_network(mut state: State, network: &Network) -> anyhow::Result<State> {
    let found = std::mem::take(&mut state.batches_tracked);
    for statistic in network.graph()?.statistics() {
        if let Some(path) = statistic.name.strip_suffix(".running_mean") {
            let name = format!("{path}.num_batches_tracked");
            let tracked = found.get(&name).copied().unwrap_or_default();
            state.batches_tracked.insert(name, tracked);
        }
    }
    (state.optimizer, state.average) = (None, None);
    Ok(state)
}
