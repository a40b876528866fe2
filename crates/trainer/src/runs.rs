//! `trainer runs`: lists the runs in a folder.

use crate::args::RunsArgs;
use crate::print;
use anyhow::{Context, bail};
use pointwise_process::note;
use pointwise_report::{Align, Table};
use pointwise_runs::{Run, holds_run};
use serde::{Serialize, Serializer};
use std::fs;
use std::path::{Path, PathBuf};

/// How deep to search for runs: `study/runs/nin-seed42` is three levels under `.`.
const DEPTH: usize = 3;

/// A row of the list. What is not known of a broken run is `None`.
#[derive(Serialize)]
struct Row {
    #[serde(serialize_with = "as_shown")]
    path: PathBuf,
    state: &'static str,
    model: Option<String>,
    seed: Option<u64>,
    /// Epochs done, and to do.
    epoch: Option<u32>,
    epochs: Option<u32>,
    /// A fraction, of the images that choose the best epoch.
    best_acc: Option<f64>,
    /// When the run was last heard of, RFC 3339 UTC.
    updated: Option<String>,
    /// Why a broken run cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub(crate) fn run(args: &RunsArgs) -> anyhow::Result<()> {
    let folder = &args.folder;
    fs::read_dir(folder)
        .with_context(|| format!("{} cannot be listed: give a folder that holds runs", folder.display()))?;
    let mut folders = Vec::new();
    find(folder, DEPTH, &mut folders);
    folders.sort();
    let rows: Vec<Row> = folders.into_iter().map(describe).collect();
    if args.json {
        return Ok(print(&serde_json::to_string_pretty(&rows)?)?);
    }
    if rows.is_empty() {
        bail!("there are no runs in {}: give another folder, or train with --run-dir", folder.display());
    }
    print(table(&rows).trim_end())?;
    for error in rows.iter().filter_map(|row| row.error.as_deref()) {
        note!("{error}");
    }
    Ok(())
}

/// A name that is not UTF-8 has no other way into JSON.
fn as_shown<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// Collects the run folders at or under a folder; one that holds a run is not searched further. Folders that cannot be listed, and links,
/// are skipped.
fn find(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    // A folder with metrics and without a configuration was a run.
    if holds_run(folder) || folder.join("metrics.jsonl").is_file() {
        found.push(folder.to_owned());
    } else if depth > 0 {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                find(&entry.path(), depth - 1, found);
            }
        }
    }
}

fn describe(path: PathBuf) -> Row {
    match Run::read(&path) {
        Ok(run) => Row {
            path,
            state: run.activity().name(),
            epoch: Some(run.epochs().last().map_or(0, |epoch| epoch.epoch)),
            epochs: Some(run.config.recipe.epochs),
            best_acc: run.epochs().last().map(|epoch| epoch.best_acc),
            updated: Some(match &run.progress {
                Some(progress) => progress.updated.clone(),
                None => run.environment.started.clone(),
            }),
            model: Some(run.config.model),
            seed: Some(run.config.seed),
            error: None,
        },
        Err(error) => Row {
            path,
            state: "broken",
            model: None,
            seed: None,
            epoch: None,
            epochs: None,
            best_acc: None,
            updated: None,
            error: Some(error.to_string()),
        },
    }
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new([
        ("run", Align::Left),
        ("state", Align::Left),
        ("model", Align::Left),
        ("seed", Align::Right),
        ("epoch", Align::Right),
        ("best accuracy %", Align::Right),
        ("last heard of", Align::Left),
    ]);
    for row in rows {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        table.row([
            row.path.display().to_string(),
            row.state.to_owned(),
            or_dash(row.model.clone()),
            or_dash(row.seed.map(|seed| seed.to_string())),
            or_dash(row.epoch.zip(row.epochs).map(|(epoch, epochs)| format!("{epoch}/{epochs}"))),
            or_dash(row.best_acc.map(|accuracy| format!("{:.2}", 100.0 * accuracy))),
            or_dash(row.updated.clone()),
        ]);
    }
    table.plain()
}
