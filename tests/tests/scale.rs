//! `docs/scale.md`: its figures match the benchmark's record, the committed runs and the networks.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_network::Network;
use pointwise_tests::committed_runs;
use serde_json::Value;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const RECORD: &str = "data/benchmarks/2026-11-27-amd-epyc-2threads.json";
/// Ten epochs of 50,000 images in batches of 126.
const TRAINING_STEPS: f64 = 3970.0;
/// 10,000 images, after each epoch and for the mistakes.
const EVALUATION_STEPS: f64 = 11.0 * 80.0;
/// Values and two moments in `last`, values in `best`.
const BYTES_PER_PARAMETER: f64 = 16.0;
/// Of all files but checkpoints.
const OTHER_BYTES: f64 = 0.3e6;
/// Nine files and two folders.
const FILES: usize = 11;
/// Of a network of 10 Gbit/s.
const BYTES_PER_SECOND: f64 = 1.25e9;

struct Cost {
    name: &'static str,
    parameters: f64,
    step: f64,
    seconds: f64,
    memory: f64,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

fn costs() -> Vec<Cost> {
    let record: Value = serde_json::from_slice(&fs::read(root().join(RECORD)).unwrap()).unwrap();
    let runs = committed_runs();
    let cost = |name: &'static str| {
        let rows: Vec<&Value> = record["rows"].as_array().unwrap().iter().collect();
        let rows: Vec<&Value> =
            rows.into_iter().filter(|row| row["contender"] == "pointwise" && row["model"] == name).collect();
        let seconds = |phase: &str| {
            let steps = rows.iter().filter(|row| row["phase"] == phase);
            let numbers = |row: &Value| {
                row["seconds"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect()
            };
            median(steps.map(|row| median(numbers(row))).collect())
        };
        // Not the benchmark's, which has no images in memory and writes no checkpoints.
        let peaks = runs
            .iter()
            .filter(|run| run.config.model == name)
            .map(|run| run.result.as_ref().unwrap().peak_memory_bytes.unwrap());
        let memory = peaks.max().unwrap() as f64;
        let (step, evaluation) = (seconds("train"), seconds("eval"));
        Cost {
            name,
            parameters: Network::by_name(name).unwrap().graph().unwrap().parameter_count() as f64,
            step,
            seconds: TRAINING_STEPS * step + EVALUATION_STEPS * evaluation,
            memory,
        }
    };
    ["alexnet_plain", "alexnet", "nin"].map(cost).into()
}

fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// With a decimal where the number is small.
fn short(number: f64) -> String {
    match number {
        n if n < 0.01 => format!("{n:.3}"),
        n if n < 10.0 => format!("{n:.1}"),
        n => thousands(n),
    }
}

/// A table's rows in the page.
fn assert_shown(name: &str, rows: &str) {
    let page = fs::read_to_string(root().join("docs/scale.md")).unwrap();
    let part = page.split_once(&format!("<!-- {name} -->\n")).unwrap().1;
    let part = part.split_once(&format!("<!-- /{name} -->")).unwrap().0;
    let shown: String = part.lines().skip(2).map(|line| format!("{line}\n")).collect();
    assert_eq!(shown, rows, "docs/scale.md, {name}");
}

#[test]
fn what_a_run_costs() {
    let mut rows = String::new();
    for Cost { name, parameters, seconds, memory, .. } in costs() {
        let (minutes, disk) = (seconds / 60.0, BYTES_PER_PARAMETER * parameters / 1e6);
        let parameters = thousands(parameters);
        writeln!(
            rows,
            "| `{name}` | {parameters} | {minutes:.0} | {:.0} MiB | {disk:.1} MB |",
            memory / 1_048_576.0
        )
        .unwrap();
    }
    assert_shown("runs", &rows);
}

#[test]
fn what_many_runs_cost() {
    let costs = costs();
    let mean = |of: fn(&Cost) -> f64| costs.iter().map(of).sum::<f64>() / costs.len() as f64;
    let hours = mean(|cost| cost.seconds) / 3600.0;
    let bytes = mean(|cost| BYTES_PER_PARAMETER * cost.parameters);
    let mut rows = String::new();
    for runs in [10_usize, 1000, 100_000] {
        let n = runs as f64;
        // No run is faster on more than its two cores.
        let parallel = (n * hours / 500.0).max(hours);
        writeln!(
            rows,
            "| {} | {} | {} | {} GB | {} GB | {} |",
            thousands(n),
            short(n * hours),
            short(parallel),
            short(n * bytes / 1e9),
            short(n * OTHER_BYTES / 1e9),
            thousands((runs * FILES) as f64)
        )
        .unwrap();
    }
    assert_shown("studies", &rows);
}

#[test]
fn what_splitting_a_run_would_bring() {
    let mut rows = String::new();
    for Cost { name, parameters, step, .. } in costs() {
        let transfer = |workers: f64| 2.0 * (workers - 1.0) / workers * 4.0 * parameters / BYTES_PER_SECOND;
        let (computing, gradients) = (step / 8.0, transfer(8.0));
        writeln!(
            rows,
            "| `{name}` | {:.0} ms | {:.0} ms | {:.0} ms | {:.1} | {:.1} |",
            step * 1e3,
            computing * 1e3,
            gradients * 1e3,
            step / (computing + gradients),
            step / (8.0 * parameters / BYTES_PER_SECOND)
        )
        .unwrap();
    }
    assert_shown("parallel", &rows);
}
