//! `trainer report`, and the report on a study.

use crate::End;
use crate::args::ReportArgs;
use crate::data::spec;
use crate::model::Model;
use anyhow::Context;
use pointwise_network::LayerSummary;
use pointwise_process::note;
use pointwise_report::{LayerFacts, NetworkFacts, Page, StudyReport, Verdict};
use pointwise_runs::{Run, replace_file};
use pointwise_study::{Arm, DataSource, Published, Study};
use std::path::Path;

pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<()> {
    let runs = args.runs.iter().map(Run::read).collect::<Result<Vec<_>, _>>()?;
    let study = match &args.study {
        Some(study) => study.clone(),
        None => study_of(&runs)?,
    };
    let (report, facts) = judged(&study, &runs)?;
    let page = Page::read(&report, &runs, &facts, &study)?.html();
    replace_file(&args.out, page.as_bytes())?;
    note!("{}", report.headline());
    Ok(crate::print(&args.out.display().to_string())?)
}

/// The study that runs belong to: that of their folder, or one that comes with the program and has all their networks, or else one that
/// lists them side by side.
fn study_of(runs: &[Run]) -> anyhow::Result<Study> {
    let has_all = |study: &Study| runs.iter().all(|run| study.arm(&run.config.model).is_some());
    if let Some(file) = runs.first().and_then(|run| Some(run.path.parent()?.parent()?.join("study.toml")))
        && file.is_file()
    {
        let study = Study::read(&file)?;
        if has_all(&study) {
            return Ok(study);
        }
    }
    for name in Study::shipped() {
        let study = Study::by_name(name)?;
        if has_all(&study) {
            return Ok(study);
        }
    }
    beside_each_other(runs)
}

/// A study made up of these runs.
fn beside_each_other(runs: &[Run]) -> anyhow::Result<Study> {
    let first = runs.first().context("there are no runs to report on: train at least one network")?;
    let mut arms: Vec<Arm> = Vec::new();
    for run in runs {
        if arms.iter().all(|arm| arm.name != run.config.model) {
            arms.push(Arm {
                name: run.config.model.clone(),
                network: Model::of_run(&run.config)?.network().clone(),
                is_shipped: run.config.network.is_none(),
                recipe: run.config.recipe.clone(),
                published: Published::default(),
            });
        }
    }
    let mut seeds: Vec<u64> = runs.iter().map(|run| run.config.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let config = &first.config;
    Ok(Study {
        name: "runs".to_owned(),
        title: "Networks side by side".to_owned(),
        question: String::new(),
        conclusion: String::new(),
        source: None,
        data: DataSource {
            kind: config.data,
            dir: config.data_dir.clone(),
            test_split: config.test_split.clone(),
            val_split: config.val_split,
            data_seed: Some(config.data_seed),
            limit_train: config.limit_train,
            limit_test: config.limit_test,
            train_images: None,
            test_images: None,
        },
        recipe: config.recipe.clone(),
        seeds,
        arms,
        primary: Vec::new(),
        claims: Vec::new(),
        effects: Vec::new(),
        record: None,
    })
}

/// Writes the report on a study into its folder, and prints its conclusion.
pub(crate) fn conclude(study: &Study, runs: &[Run], out: &Path) -> anyhow::Result<End> {
    let (report, facts) = judged(study, runs)?;
    report.write(out)?;
    let page = out.join("report.html");
    replace_file(&page, Page::read(&report, runs, &facts, study)?.html().as_bytes())?;
    let text = out.join("report.md");
    let text = format!(
        "\n{}\n{}\n\n{} (for a browser) and {}",
        report.to_table(),
        report.headline(),
        page.display(),
        text.display()
    );
    match crate::print(&text) {
        // The reader has closed the output; the verdict is the exit code nevertheless.
        Err(error) if !error.is_reader_gone() => return Err(error.into()),
        _ => {}
    }
    Ok(end_of(&report))
}

/// A quick study cannot be compared; it can show that counts and ratios are as published.
fn end_of(report: &StudyReport) -> End {
    match &report.verdict {
        Verdict::NotJudged => End::Done,
        _ if report.data.stand_in => {
            if report.counts_as_published {
                End::Done
            } else {
                End::Different
            }
        }
        Verdict::Reproduced => End::Done,
        Verdict::Different { .. } => End::Different,
        Verdict::NotComparable { .. } => End::NotComparable,
        Verdict::Undecided { .. } => End::Undecided,
    }
}

/// Counts need no training: they are known for networks without runs, too.
pub(crate) fn judged(study: &Study, runs: &[Run]) -> anyhow::Result<(StudyReport, Vec<NetworkFacts>)> {
    let facts = study.arms.iter().map(|arm| facts_of(arm, runs)).collect::<anyhow::Result<Vec<_>>>()?;
    Ok((StudyReport::new(runs, &facts, study)?, facts))
}

/// The facts of an arm's network, as its runs trained it, or would train it on the images of the other runs.
fn facts_of(arm: &Arm, runs: &[Run]) -> anyhow::Result<NetworkFacts> {
    if let Some(run) = runs.iter().find(|run| run.config.model == arm.name) {
        return facts(&Model::of_run(&run.config)?);
    }
    let model = Model::of_arm(arm);
    match runs.iter().find_map(|run| run.config.dataset.as_ref()) {
        Some(data) if arm.is_shipped => facts(&model.for_data(&spec(data))?),
        _ => facts(&model),
    }
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
