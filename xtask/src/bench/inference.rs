//! `cargo xtask bench --inference`: images in host memory to logits in host memory, ours compared with ONNX Runtime, OpenVINO, PyTorch and candle.
//!
//! All contenders get the same networks, numbers of images and of threads, in f32. Only figures of the same round are compared; in a round one
//! contender runs after the other. An interrupted record is continued where it ends.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use pointwise_process::note;
use pointwise_recipe::Adam;
use pointwise_report::{Align, Table};
use pointwise_runs::{operating_system, processor_name, replace_file, timestamp};
use serde::{Deserialize, Serialize};

use crate::origin::Origin;

use super::{
    cells::{NONE, count, times},
    contender::{Answer, Entrant, PEER_FLAGS},
    network::{Network, Networks, shown},
    plan::order,
    question::{Contender, Device, Phase, Question, Rates},
    record::{Entry, Lacking, Skipped, date, slug},
    summary::median,
};

/// The folder of records, in the workspace.
pub(super) const FOLDER: &str = "data/benchmarks/inference";

/// Multiply-accumulates that a contender is timed for in a round...
const WORK: f64 = 40e9;

/// ...within these numbers of calls.
const CALLS: [f64; 2] = [3.0, 100.0];

/// What is measured.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) threads: Vec<u32>,
    pub(super) batches: Vec<u32>,
    pub(super) rounds: u32,
    pub(super) models: Vec<String>,
    pub(super) contenders: Vec<Contender>,
    pub(super) by_name: bool,
    /// Required by peers that can train.
    pub(super) adam: Adam,
}

impl Plan {
    pub(super) const BATCHES: [u32; 3] = [1, 8, 126];
    pub(super) const THREADS: [u32; 2] = [1, 2];

    /// The contenders if none are named.
    pub(super) const CONTENDERS: [Contender; 5] = [
        Contender::Pointwise,
        Contender::Onnxruntime,
        Contender::Openvino,
        Contender::Pytorch,
        Contender::Candle,
    ];

    /// The command for this plan, without the paths of this machine.
    pub(super) fn command(&self) -> String {
        let list = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let models: Vec<String> = self.models.iter().map(|model| shown(model)).collect();
        let only: Vec<&str> = self.contenders.iter().map(|contender| contender.name()).collect();
        let mut command = format!("cargo xtask bench --inference --rounds {}", self.rounds);
        for (option, list, usual) in [
            ("--threads", list(&self.threads), list(&Self::THREADS)),
            ("--batch", list(&self.batches), list(&Self::BATCHES)),
        ] {
            if list != usual {
                command += &format!(" {option} {list}");
            }
        }
        command += &format!(" --models {}", models.join(","));
        if self.by_name {
            command += &format!(" --only {}", only.join(","));
        }
        command
    }
}

/// What was measured, as it is written to disk: `data/benchmarks/inference/<date>-<processor>.json`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct Record {
    /// The command that repeats it.
    command: String,
    /// The commit that was built.
    commit: Option<String>,
    /// Whether there were changes on top of the commit.
    dirty: bool,
    /// RFC 3339 UTC.
    started: String,
    processor: String,
    /// Operating system and architecture.
    os: String,
    /// Logical processors.
    cores: u32,
    rounds: u32,
    /// Whether it was interrupted: rows are missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unfinished: bool,
    rustc: Option<String>,
    /// The compiler's flags for the peer in Rust; ours is built without.
    peer_flags: String,
    skipped: Vec<Skipped>,
    /// Networks that a contender's library cannot express.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lacking: Vec<Lacking>,
    /// A sentence for each measurement that failed.
    failures: Vec<String>,
    rows: Vec<Entry>,
}

impl Record {
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let bytes = fs::read(path).with_context(|| format!("{shown} cannot be read"))?;
        serde_json::from_slice(&bytes)
            .with_context(|| format!("{shown} is not a record of an inference benchmark"))
    }

    fn write(&self, path: &Path) -> anyhow::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)
                .with_context(|| format!("the folder {} cannot be created", folder.display()))?;
        }
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(replace_file(path, &bytes)?)
    }

    /// Whether a measurement failed.
    pub(super) fn failed(&self) -> bool {
        !self.failures.is_empty()
    }

    fn file_name(&self) -> String {
        let date = date(&self.started);
        format!("{date}-{}.json", slug(&self.processor))
    }

    /// Whether a question has been answered, by a row or by what the library lacks.
    fn has(&self, round: u32, contender: Contender, model: &str, batch: u32, threads: u32) -> bool {
        let lacks = self.lacking.iter().any(|lacking| lacking.is_of(contender, model));
        lacks
            || self.rows.iter().any(|entry| {
                let row = &entry.row;
                entry.round == round
                    && row.contender == contender
                    && row.model == model
                    && (row.batch, row.threads) == (batch, threads)
            })
    }
}

/// The record that was started last; `None` if there is none.
pub(super) fn newest(folder: &Path) -> anyhow::Result<Option<PathBuf>> {
    let mut found: Option<(String, PathBuf)> = None;
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.with_context(|| format!("{} cannot be listed", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            found = found.max(Some((Record::read(&path)?.started, path)));
        }
    }
    Ok(found.map(|(_, path)| path))
}

/// Measures, or continues where the record at `out` was interrupted.
pub(super) fn measure(
    plan: &Plan,
    root: &Path,
    networks: &Networks,
    entrants: &[Entrant],
    skipped: Vec<Skipped>,
    out: Option<&Path>,
) -> anyhow::Result<(Record, PathBuf)> {
    let Origin { commit, dirty, rustc } = Origin::of(root)?;
    let mut record = Record {
        command: plan.command(),
        commit,
        dirty,
        started: timestamp(),
        processor: processor_name(),
        os: operating_system(),
        cores: std::thread::available_parallelism().map_or(1, usize::from) as u32,
        rounds: plan.rounds,
        unfinished: true,
        rustc,
        peer_flags: PEER_FLAGS.to_owned(),
        skipped,
        lacking: Vec::new(),
        failures: Vec::new(),
        rows: Vec::new(),
    };
    let path = out.map_or_else(|| root.join(FOLDER).join(record.file_name()), Path::to_path_buf);
    if path.exists() {
        let begun = Record::read(&path)?;
        if !begun.unfinished {
            bail!("{} is a finished record: give another file with --out", path.display());
        }
        if (&begun.command, &begun.commit, &begun.processor)
            != (&record.command, &record.commit, &record.processor)
        {
            bail!(
                "{} was begun by another command, at another commit or on another processor: give another file with --out",
                path.display()
            );
        }
        record = begun;
    }
    for round in 1..=plan.rounds {
        for network in &networks.list {
            for (&threads, &batch) in
                plan.threads.iter().flat_map(|threads| plan.batches.iter().map(move |batch| (threads, batch)))
            {
                for (place, index) in (1..).zip(order(entrants.len(), round)) {
                    let entrant = &entrants[index];
                    if record.has(round, entrant.contender, &network.name, batch, threads) {
                        continue;
                    }
                    ask(&mut record, &plan.adam, entrant, network, (batch, threads), (round, place))?;
                    record.write(&path)?;
                }
            }
        }
    }
    record.unfinished = false;
    record.write(&path)?;
    Ok((record, path))
}

fn ask(
    record: &mut Record,
    adam: &Adam,
    entrant: &Entrant,
    network: &Network,
    (batch, threads): (u32, u32),
    (round, place): (u32, u32),
) -> anyhow::Result<()> {
    let contender = entrant.contender;
    let [least, most] = CALLS;
    let steps = (WORK / (network.macs as f64 * f64::from(batch))).clamp(least, most) as u32;
    let (device, phase) = (Device::Cpu, Phase::Infer);
    let rates = Rates::default();
    let question = Question { device, network, phase, precision: None, batch, adam, threads, steps, rates };
    let model = &network.name;
    match entrant.measure(&question) {
        Ok(Answer::Row(row)) => {
            let milliseconds = 1e3 * median(row.seconds.iter().copied()).unwrap_or(f64::NAN);
            note!(
                "round {round}: {model}, {batch}, {}, {contender}: {milliseconds:.3} ms",
                count(threads, "thread")
            );
            record.rows.push(Entry { round, place, row: *row });
        }
        Ok(Answer::Lacks(reason)) => {
            note!("{contender} is left out of {model}: {reason}");
            record.lacking.push(Lacking { contender, model: model.clone(), reason });
        }
        Err(error) if contender == Contender::Pointwise => return Err(error),
        Err(error) => {
            note!("error: {error:#}");
            record.failures.push(format!("round {round}: {error}"));
        }
    }
    Ok(())
}

/// A network, a number of images and one of threads.
type Key<'a> = (&'a str, u32, u32);

/// The median step of each round of a contender.
fn rounds(record: &Record, contender: Contender, key: Key<'_>) -> BTreeMap<u32, f64> {
    let rows = record.rows.iter().filter(|entry| {
        let row = &entry.row;
        row.contender == contender && (row.model.as_str(), row.batch, row.threads) == key
    });
    rows.filter_map(|entry| Some((entry.round, median(entry.row.seconds.iter().copied())?))).collect()
}

/// Our seconds: the median over rounds.
fn seconds(record: &Record, key: Key<'_>) -> Option<f64> {
    median(rounds(record, Contender::Pointwise, key).into_values())
}

/// How many times as long a contender takes: the median of the ratios within each round.
pub(super) fn ratio(record: &Record, contender: Contender, key: Key<'_>) -> Option<f64> {
    let ours = rounds(record, Contender::Pointwise, key);
    let theirs = rounds(record, contender, key);
    median(theirs.into_iter().filter_map(|(round, theirs)| Some(theirs / ours.get(&round)?)))
}

fn distinct<T: PartialEq + Clone>(values: impl Iterator<Item = T>) -> Vec<T> {
    values.fold(Vec::new(), |mut seen, value| {
        if !seen.contains(&value) {
            seen.push(value);
        }
        seen
    })
}

/// The record for docs/benchmarks.md: a table for each number of images.
pub(super) fn markdown(record: &Record, file: &str) -> String {
    let rows = || record.rows.iter().map(|entry| &entry.row);
    let models = distinct(rows().map(|row| row.model.as_str()));
    let mut batches = distinct(rows().map(|row| row.batch));
    batches.sort_unstable();
    let mut threads = distinct(rows().map(|row| row.threads));
    threads.sort_unstable();
    threads.reverse();
    let peers: Vec<Contender> = Plan::CONTENDERS[1..]
        .iter()
        .copied()
        .filter(|contender| rows().any(|row| row.contender == *contender))
        .collect();
    let mut text = String::new();
    for batch in batches {
        let mut titles = vec![(count(batch, "image"), Align::Left)];
        for threads in &threads {
            titles.push((format!("ms, {}", count(*threads, "thread")), Align::Right));
            titles.extend(peers.iter().map(|peer| (peer.title().to_owned(), Align::Right)));
        }
        let mut table = Table::new(titles.iter().map(|(title, align)| (title.as_str(), *align)));
        for model in &models {
            let mut cells = vec![format!("`{model}`")];
            for threads in &threads {
                let key = (*model, batch, *threads);
                cells.push(seconds(record, key).map_or(NONE.into(), milliseconds));
                cells.extend(peers.iter().map(|peer| ratio(record, *peer, key).map_or(NONE.into(), times)));
            }
            table.row(cells);
        }
        text += &table.markdown();
        text += "\n";
    }
    text + &provenance(record, file)
}

/// Three digits.
fn milliseconds(seconds: f64) -> String {
    let milliseconds = 1e3 * seconds;
    match milliseconds {
        ..0.995 => format!("{milliseconds:.3}"),
        ..9.95 => format!("{milliseconds:.2}"),
        ..99.5 => format!("{milliseconds:.1}"),
        _ => format!("{milliseconds:.0}"),
    }
}

/// The sentences needed to interpret the figures.
fn provenance(record: &Record, file: &str) -> String {
    let entered: Vec<String> = Plan::CONTENDERS
        .iter()
        .filter_map(|contender| {
            record.rows.iter().map(|entry| &entry.row).find(|row| row.contender == *contender)
        })
        .map(|row| {
            let version = row.version.as_deref().unwrap_or("of unknown version");
            format!("{} {version} ({})", row.contender.title(), row.detail)
        })
        .collect();
    let date = date(&record.started);
    let mut text = format!(
        "From images in memory to logits in memory, in f32. {}, {}, {date}. Milliseconds are ours, a median over {} of medians over \
         calls; the columns of other programs say how many times as long they take in the same round. Timed: {}. ",
        record.processor,
        record.os,
        count(record.rounds, "round"),
        entered.join(", ")
    );
    if !record.skipped.is_empty() {
        let skipped: Vec<&str> = record.skipped.iter().map(|skipped| skipped.contender.title()).collect();
        text += &format!("Not there: {}. ", skipped.join(", "));
    }
    for Lacking { contender, model, reason } in &record.lacking {
        text += &format!("{} is left out of `{model}`: {reason}. ", contender.title());
    }
    if record.unfinished {
        text += "Cut off before its end. ";
    }
    if !record.failures.is_empty() {
        text += &format!("Measurements that failed: {}. ", record.failures.len());
    }
    let commit = record.commit.as_deref().map_or("an unknown commit".to_owned(), |commit| {
        let short = commit.get(..7).unwrap_or(commit);
        format!("commit {short}{}", if record.dirty { " with changes" } else { "" })
    });
    let compiler = record.rustc.as_deref().unwrap_or("an unknown rustc");
    text += &format!(
        "Built by {compiler}, candle with `{}`. Every row: [{FOLDER}/{file}](../{FOLDER}/{file}), by `{}` at {commit}.\n",
        record.peer_flags, record.command
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{record::Row, root, table};

    fn row(contender: Contender, seconds: &[f64]) -> Row {
        let entry = super::super::testing::record().rows.remove(0);
        Row { contender, phase: Phase::Infer, batch: 8, seconds: seconds.into(), ..entry.row }
    }

    fn record() -> Record {
        let entry = |round, row| Entry { round, place: 1, row };
        Record {
            command: "cargo xtask bench --inference".into(),
            commit: Some("0123456789".into()),
            dirty: false,
            started: "2026-01-31T00:00:00Z".into(),
            processor: "Some CPU".into(),
            os: "linux x86_64".into(),
            cores: 2,
            rounds: 3,
            unfinished: false,
            rustc: Some("rustc 1".into()),
            peer_flags: "-C target-cpu=native".into(),
            skipped: vec![Skipped { contender: Contender::Candle, reason: "it is not built".into() }],
            lacking: Vec::new(),
            failures: Vec::new(),
            rows: vec![
                entry(1, row(Contender::Pointwise, &[0.001, 0.002, 0.003])),
                entry(2, row(Contender::Pointwise, &[0.001])),
                entry(1, row(Contender::Onnxruntime, &[0.006])),
                entry(2, row(Contender::Onnxruntime, &[0.002])),
                entry(3, row(Contender::Onnxruntime, &[9.0])),
            ],
        }
    }

    /// 3 and 2 in the two rounds that have both.
    #[test]
    fn a_ratio_is_of_the_same_round() {
        assert_eq!(ratio(&record(), Contender::Onnxruntime, ("alexnet", 8, 2)), Some(2.5));
        assert_eq!(ratio(&record(), Contender::Onnxruntime, ("alexnet", 1, 2)), None);
        assert_eq!(ratio(&record(), Contender::Openvino, ("alexnet", 8, 2)), None);
    }

    #[test]
    fn a_record_is_a_table_for_each_number_of_images() {
        let text = markdown(&record(), "a.json");
        let cells: Vec<Vec<&str>> =
            text.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
        assert_eq!(cells[0][1..4], ["8 images", "ms, 2 threads", "onnxruntime"], "{text}");
        assert_eq!(cells[2][1..4], ["`alexnet`", "1.50", "2.50x"], "{text}");
        assert!(text.contains("Not there: candle.") && text.contains("at commit 0123456.\n"), "{text}");
    }

    #[test]
    fn a_question_is_answered_once() {
        let record = record();
        assert!(record.has(3, Contender::Onnxruntime, "alexnet", 8, 2));
        for (round, contender, batch, threads) in [
            (3, Contender::Pointwise, 8, 2),
            (1, Contender::Pointwise, 1, 2),
            (1, Contender::Pointwise, 8, 1),
        ] {
            assert!(!record.has(round, contender, "alexnet", batch, threads));
        }
    }

    #[test]
    fn the_page_shows_the_newest_record_of_inference() {
        let readme = fs::read_to_string(root().join(table::PAGE)).unwrap();
        let [start, end] = table::INFERENCE_MARKERS;
        let shown = table::split(&readme, [start, end]).unwrap();
        let Some(path) = newest(&root().join(FOLDER)).unwrap() else {
            let shown = shown.map_or("", |(_, shown, _)| shown);
            assert!(!shown.contains('|'), "{} shows a table without a record", table::PAGE);
            return;
        };
        let file = table::file_name(&path);
        let record = Record::read(&path).unwrap();
        assert_eq!(record.file_name(), file);
        let expected = format!("\n\n{}\n", markdown(&record, &file));
        let (_, shown, _) = shown.unwrap();
        assert!(shown == expected, "run `cargo xtask bench --inference --update-docs`");
        assert!(!fs::read_to_string(&path).unwrap().contains("/root/"));
    }
}
