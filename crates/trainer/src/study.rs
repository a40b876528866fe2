//! `trainer study`: lists studies, and the progress of their runs.

use crate::args::StudyCommand;
use crate::{End, print, report};
use anyhow::{Context, bail};
use pointwise_process::note;
use pointwise_report::{Align, Table, thousands};
use pointwise_study::{Options, Plan, RunStatus, Study, add_queue, default_out, finished, status, study_in};
use serde::Serialize;
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) fn run(command: StudyCommand) -> anyhow::Result<End> {
    match command {
        StudyCommand::List { json } => list(json)?,
        StudyCommand::Show { schema: true, .. } => {
            print(&serde_json::to_string_pretty(&Study::json_schema())?)?;
        }
        StudyCommand::Show { study, plan, .. } => show(study.as_deref(), plan)?,
        StudyCommand::Status { study, out, json } => {
            let (study, out) = located(study.as_deref(), out)?;
            show_status(study, out, json)?;
        }
        StudyCommand::Report { study, out } => {
            let (study, out) = located(study.as_deref(), out)?;
            return judge(&study, &out);
        }
    }
    Ok(End::Done)
}

/// A line of the list.
#[derive(Serialize)]
struct Entry {
    name: String,
    title: String,
    networks: usize,
    seeds: usize,
    runs: usize,
    published: bool,
}

fn list(json: bool) -> anyhow::Result<()> {
    let mut entries = Vec::new();
    for name in Study::shipped() {
        let study = Study::by_name(name)?;
        entries.push(Entry {
            networks: study.arms.len(),
            seeds: study.seeds.len(),
            runs: study.arms.len() * study.seeds.len(),
            published: study.is_published(),
            name: study.name,
            title: study.title,
        });
    }
    if json {
        return Ok(print(&serde_json::to_string_pretty(&entries)?)?);
    }
    let mut table = Table::new([
        ("study", Align::Left),
        ("networks", Align::Right),
        ("seeds", Align::Right),
        ("runs", Align::Right),
        ("published", Align::Left),
        ("title", Align::Left),
    ]);
    for Entry { name, title, networks, seeds, runs, published } in entries {
        let published = if published { "yes" } else { "no" };
        let [networks, seeds, runs] = [networks, seeds, runs].map(|number| number.to_string());
        table.row([name, networks, seeds, runs, published.to_owned(), title]);
    }
    Ok(print(table.plain().trim_end())?)
}

fn show(study: Option<&str>, plan: bool) -> anyhow::Result<()> {
    let found = named(study)?;
    if plan {
        return show_plan(&found);
    }
    let text = match study.map(Path::new).filter(|path| path.is_file()) {
        Some(path) => {
            fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?
        }
        None => Study::shipped_toml(&found.name)?.to_owned(),
    };
    Ok(print(text.trim_end())?)
}

fn show_plan(study: &Study) -> anyhow::Result<()> {
    let right = ["parameters", "MACs", "epochs", "batch"].map(|title| (title, Align::Right));
    let mut table = Table::new([("network", Align::Left)].into_iter().chain(right));
    for arm in &study.arms {
        let graph = arm.network.graph()?;
        table.row([
            arm.name.clone(),
            thousands(graph.parameter_count() as u64),
            thousands(graph.macs() as u64),
            arm.recipe.epochs.to_string(),
            arm.recipe.batch_size.to_string(),
        ]);
    }
    let seeds: Vec<String> = study.seeds.iter().map(u64::to_string).collect();
    let (arms, runs) = (study.arms.len(), study.arms.len() * study.seeds.len());
    let total = format!("{runs} runs: {arms} networks, seeds {}", seeds.join(", "));
    Ok(print(&format!("{}\n{total}", table.plain().trim_end()))?)
}

fn named(study: Option<&str>) -> anyhow::Result<Study> {
    match study {
        Some(study) => Ok(Study::find(study)?),
        None => Ok(Study::first_shipped()?),
    }
}

/// A study and the folder of its runs, given either of them.
fn located(study: Option<&str>, out: Option<PathBuf>) -> anyhow::Result<(Study, PathBuf)> {
    if let Some(folder) = study.map(Path::new).filter(|path| out.is_none() && path.is_dir())
        && let Some(study) = study_in(folder)?
    {
        return Ok((study, folder.to_owned()));
    }
    let found = named(study).map_err(|error| match study.map(Path::new).filter(|path| path.is_dir()) {
        Some(folder) => {
            error.context(format!("{} is not the folder of a study: it has no study.toml", folder.display()))
        }
        None => error,
    })?;
    let out = out.unwrap_or_else(|| default_out(&found, false));
    match study_in(&out)? {
        // With the seeds that were requested.
        Some(there) if there.name == found.name => Ok((there, out)),
        Some(there) => bail!(
            "{} holds the study `{}`, not `{}`: choose another --out",
            out.display(),
            there.name,
            found.name
        ),
        None => Ok((found, out)),
    }
}

fn show_status(study: Study, out: PathBuf, json: bool) -> anyhow::Result<()> {
    let title = format!("{}: {}, in {}", study.name, study.title, out.display());
    let plan = Plan::new(study, Options { out: Some(out), ..Options::default() })?;
    let mut runs = status(&plan);
    // If the queue does not answer, the folders still do.
    if let Err(error) = add_queue(&plan.out, &mut runs) {
        note!("{error}");
    }
    if json {
        return Ok(print(&serde_json::to_string_pretty(&runs)?)?);
    }
    print(&format!("{title}\n{}\n{}", table(&runs).trim_end(), totals(&runs)))?;
    for error in runs.iter().filter_map(|run| run.error.as_deref()) {
        note!("{error}");
    }
    Ok(())
}

fn table(runs: &[RunStatus]) -> String {
    let is_queued = runs.iter().any(|run| run.queue.is_some());
    let columns = [
        ("network", Align::Left),
        ("seed", Align::Right),
        ("state", Align::Left),
        ("epoch", Align::Right),
        ("accuracy %", Align::Right),
        ("last heard of", Align::Left),
    ];
    let mut table = Table::new(columns.into_iter().chain(is_queued.then_some(("queue", Align::Left))));
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for run in runs {
        let folder = run.folder.file_name().map(|name| name.to_string_lossy().into_owned());
        let row = [
            or_dash(run.network.clone().or(folder)),
            or_dash(run.seed.map(|seed| seed.to_string())),
            run.state.to_owned(),
            or_dash(run.epochs.map(|epochs| format!("{}/{epochs}", run.epoch))),
            or_dash(run.accuracy.map(|accuracy| format!("{:.2}", 100.0 * accuracy))),
            or_dash(run.updated.clone()),
        ];
        table.row(row.into_iter().chain(is_queued.then(|| or_dash(run.queue.clone()))));
    }
    table.plain()
}

/// `9 runs: 3 finished, 1 running, 5 waiting`.
fn totals(runs: &[RunStatus]) -> String {
    let states = ["finished", "running", "interrupted", "limited", "failed", "stale", "broken", "waiting"];
    let count = |state: &str| runs.iter().filter(|run| run.state == state).count();
    let parts = states.map(|state| (count(state), state));
    let parts: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, state)| format!("{count} {state}"))
        .collect();
    format!("{} runs: {}", runs.len(), parts.join(", "))
}

fn judge(study: &Study, out: &Path) -> anyhow::Result<End> {
    let plan = Plan::new(study.clone(), Options { out: Some(out.to_owned()), ..Options::default() })?;
    let (runs, missing) = finished(&plan)?;
    if runs.is_empty() {
        bail!(
            "there is no finished run of the study `{}` in {}: train it with `trainer reproduce`, or name its folder with --out",
            study.name,
            out.display()
        );
    }
    if missing > 0 {
        note!("{missing} runs of the study are not finished and are left out");
    }
    report::conclude(study, &runs, out)
}
