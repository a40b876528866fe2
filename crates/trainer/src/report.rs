//! `trainer report`.

use crate::args::ReportArgs;
use pointwise_models::{Network, Row};
use pointwise_process::note;
use pointwise_report::{LayerFacts, NetworkFacts, Page, Study};
use pointwise_runs::{Run, replace_file};

pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let runs = args.runs.iter().map(Run::read).collect::<Result<Vec<_>, _>>()?;
    let mut names: Vec<&str> = Vec::new();
    for run in &runs {
        if !names.contains(&run.config.model.as_str()) {
            names.push(&run.config.model);
        }
    }
    // The counts of the study need no training: those of its other networks are known, too.
    if names.iter().all(|name| Network::NAMES.contains(name)) {
        names = Network::NAMES.into();
    }
    let facts = names.into_iter().map(facts).collect::<anyhow::Result<Vec<_>>>()?;
    let study = Study::of(&runs, &facts)?;
    let page = Page::read(&study, &runs, &facts)?.html();
    replace_file(&args.out, page.as_bytes())?;
    note!("{}", study.headline());
    Ok(crate::print(&args.out.display().to_string())?)
}

fn facts(name: &str) -> anyhow::Result<NetworkFacts> {
    let network = Network::by_name(name, Network::DROPOUT)?;
    let layers =
        network.table()?.into_iter().map(|Row { path, layer, output, parameters, macs }| LayerFacts {
            path,
            layer,
            output: output.into_iter().map(|side| side as u64).collect(),
            parameters: parameters as u64,
            macs: macs as u64,
        });
    Ok(NetworkFacts {
        model: name.to_owned(),
        parameters: network.parameter_count()? as u64,
        macs: network.macs()? as u64,
        layers: layers.collect(),
    })
}
