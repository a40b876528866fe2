//! `trainer report`.

use crate::args::ReportArgs;
use crate::model::Model;
use pointwise_network::{LayerSummary, Network};
use pointwise_process::note;
use pointwise_report::{LayerFacts, NetworkFacts, Page, Study};
use pointwise_runs::{Run, replace_file};

pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let runs = args.runs.iter().map(Run::read).collect::<Result<Vec<_>, _>>()?;
    let mut models: Vec<Model> = Vec::new();
    for run in &runs {
        if !models.iter().any(|model| model.name() == run.config.model) {
            models.push(Model::of_run(&run.config)?);
        }
    }
    // The counts of the study need no training: those of its other networks are known, too.
    if models.iter().all(|model| Network::STUDY.contains(&model.name())) {
        models = Network::STUDY.into_iter().map(Model::shipped).collect::<anyhow::Result<_>>()?;
    }
    let facts = models.iter().map(facts).collect::<anyhow::Result<Vec<_>>>()?;
    let study = Study::of(&runs, &facts)?;
    let page = Page::read(&study, &runs, &facts)?.html();
    replace_file(&args.out, page.as_bytes())?;
    note!("{}", study.headline());
    Ok(crate::print(&args.out.display().to_string())?)
}

fn facts(model: &Model) -> anyhow::Result<NetworkFacts> {
    let graph = model.network().graph()?;
    let layers =
        graph.table().into_iter().map(|LayerSummary { path, layer, output, parameters, macs }| LayerFacts {
            path,
            layer,
            output: output.into_iter().map(|side| side as u64).collect(),
            parameters: parameters as u64,
            macs: macs as u64,
        });
    Ok(NetworkFacts {
        model: model.name().to_owned(),
        parameters: graph.parameter_count() as u64,
        macs: graph.macs() as u64,
        layers: layers.collect(),
    })
}
