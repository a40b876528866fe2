//! `trainer compare`: shows runs side by side.

use crate::args::CompareArgs;
use crate::print;
use anyhow::bail;
use pointwise_process::note;
use pointwise_report::{Align, Table, duration};
use pointwise_runs::{EpochRecord, Run};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Shows the runs that can be read.
///
/// # Errors
/// If none can be read; at the end, if one could not.
pub(crate) fn run(args: &CompareArgs) -> anyhow::Result<()> {
    let mut runs = Vec::new();
    for path in &args.runs {
        match Run::read(path) {
            Ok(run) => runs.push(run),
            Err(error) => note!("{error}: left out"),
        }
    }
    if !runs.is_empty() {
        print(
            if args.csv {
                csv(&runs)
            } else if args.json {
                serde_json::to_string_pretty(&as_json(&runs)?)?
            } else {
                text(&runs)?
            }
            .trim_end(),
        )?;
    }
    match args.runs.len() - runs.len() {
        0 => Ok(()),
        broken => bail!("{broken} of {} runs could not be read: give run folders", args.runs.len()),
    }
}

/// The keys of `config.toml` in which the runs differ, each with the runs' values; `-` where one has none.
fn differences(runs: &[Run]) -> Vec<(String, Vec<String>)> {
    let values: Vec<BTreeMap<String, String>> = runs.iter().map(|run| run.config.values()).collect();
    let keys: BTreeSet<&String> = values.iter().flat_map(BTreeMap::keys).collect();
    let row = |key: &String| {
        let value =
            |values: &BTreeMap<String, String>| values.get(key).map_or("-", String::as_str).to_owned();
        (key.clone(), values.iter().map(value).collect::<Vec<_>>())
    };
    keys.into_iter().map(row).filter(|(_, values)| values.iter().any(|value| *value != values[0])).collect()
}

/// The cell of an epoch in a table of curves.
type Curve = fn(&EpochRecord) -> Option<String>;

/// The accuracy that chooses the best epoch: on held-out images, or on the test set.
fn accuracy(epoch: &EpochRecord) -> Option<f64> {
    epoch.val_acc.or(epoch.test_acc)
}

fn text(runs: &[Run]) -> anyhow::Result<String> {
    // Columns are numbered: folders' names are long.
    let numbers: Vec<String> = (1..=runs.len()).map(|number| format!("run {number}")).collect();
    let columns = |first: &'static str| {
        let runs = numbers.iter().map(|number| (number.as_str(), Align::Right));
        std::iter::once((first, Align::Left)).chain(runs).collect::<Vec<_>>()
    };
    let mut text = String::new();
    for (number, run) in numbers.iter().zip(runs) {
        text += &format!("{number}: {} ({})\n", run.path.display(), run.activity().name());
    }

    let mut table = Table::new(columns("configuration"));
    let differences = differences(runs);
    for (key, values) in &differences {
        table.row(std::iter::once(key).chain(values).cloned());
    }
    text += &match differences.is_empty() {
        true => "\nThe configurations are the same.\n".to_owned(),
        false => format!("\n{}", table.plain()),
    };
    let fingerprint = |run: &Run| run.environment.data_fingerprint.clone();
    if runs.iter().any(|run| fingerprint(run) != fingerprint(&runs[0])) {
        text += "\nThe runs saw different images: their figures cannot be compared.\n";
    }

    let mut table = Table::new(columns("result"));
    let mut row = |name: &str, cell: &dyn Fn(&Run) -> Option<String>| {
        let cells = runs.iter().map(|run| cell(run).unwrap_or_else(|| "-".to_owned()));
        table.row(std::iter::once(name.to_owned()).chain(cells));
    };
    let percent = |fraction: f64| format!("{:.2}", 100.0 * fraction);
    row("parameters", &|run| Some(run.environment.parameters.to_string()));
    row("MACs an image", &|run| Some(run.environment.macs_per_image.to_string()));
    row("epochs done", &|run| Some(run.epochs().count().to_string()));
    row("final test accuracy %", &|run| run.result.as_ref().map(|result| percent(result.final_acc)));
    row("final test loss", &|run| run.result.as_ref().map(|result| format!("{:.4}", result.final_loss)));
    if runs.iter().any(|run| by_views(run).is_some()) {
        row("TTA test accuracy %", &|run| by_views(run).map(percent));
    }
    row("best accuracy %", &|run| run.epochs().last().map(|epoch| percent(epoch.best_acc)));
    row("best epoch", &|run| run.epochs().last().map(|epoch| epoch.best_epoch.to_string()));
    row("time", &|run| run.epochs().last().map(|epoch| duration(epoch.seconds)));
    text += &format!("\n{}", table.plain());

    let curves: [(&'static str, Curve); 2] = [
        ("accuracy % of epoch", |epoch| accuracy(epoch).map(|fraction| format!("{:.2}", 100.0 * fraction))),
        ("training loss of epoch", |epoch| Some(format!("{:.4}", epoch.train_loss))),
    ];
    let last = runs.iter().flat_map(Run::epochs).map(|epoch| epoch.epoch).max().unwrap_or(0);
    for (title, cell) in curves {
        let mut table = Table::new(columns(title));
        for number in 1..=last {
            let value = |run: &Run| run.epochs().find(|epoch| epoch.epoch == number).and_then(cell);
            let cells = runs.iter().map(|run| value(run).unwrap_or_else(|| "-".to_owned()));
            table.row(std::iter::once(number.to_string()).chain(cells));
        }
        text += &format!("\n{}", table.plain());
    }
    Ok(text)
}

/// A line for each run and epoch; a figure that was not measured is empty.
fn csv(runs: &[Run]) -> String {
    let mut text =
        "run,model,seed,epoch,train_loss,train_acc,test_loss,test_acc,val_loss,val_acc,ema_loss,ema_acc,seconds\n".to_owned();
    let optional = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    for run in runs {
        // Quoted for CSV: quotation marks around, and doubled within.
        let path = run.path.display().to_string().replace('"', "\"\"");
        for epoch in run.epochs() {
            text += &format!(
                "\"{path}\",{},{},{},{},{},{},{},{},{},{},{},{}\n",
                run.config.model,
                run.config.seed,
                epoch.epoch,
                epoch.train_loss,
                epoch.train_acc,
                optional(epoch.test_loss),
                optional(epoch.test_acc),
                optional(epoch.val_loss),
                optional(epoch.val_acc),
                optional(epoch.ema_loss),
                optional(epoch.ema_acc),
                epoch.seconds
            );
        }
    }
    text
}

/// The final test accuracy with test-time augmentation.
fn by_views(run: &Run) -> Option<f64> {
    run.result.as_ref()?.tta_test_acc
}

fn as_json(runs: &[Run]) -> anyhow::Result<Value> {
    let differences: serde_json::Map<String, Value> =
        differences(runs).into_iter().map(|(key, values)| (key, values.into())).collect();
    let runs: Vec<Value> = runs
        .iter()
        .map(|run| {
            json!({
                "path": run.path.display().to_string(),
                "state": run.activity().name(),
                "config": run.config,
                "parameters": run.environment.parameters,
                "macs_per_image": run.environment.macs_per_image,
                "epochs": run.epochs().collect::<Vec<_>>(),
                "result": run.result,
            })
        })
        .collect();
    Ok(json!({ "differences": differences, "runs": runs }))
}
