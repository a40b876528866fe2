//! What is different on a GPU: the card's name, and tables by precision with the floor next to each figure.

use std::{fs, process::Command};

use pointwise_report::{Align, Table};

use crate::origin::said;

use super::{
    cells::{NONE, count, made_by, step, times},
    question::{Contender, Precision},
    record::{Card, Record, StudyTime, date},
    summary::{Figures, Group, bandwidth_gb, groups, median, peak_gflops},
};

/// The card that is CUDA's first, and its driver, as nvidia-smi reports them.
pub(super) fn card() -> Card {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let first = visible.split(',').next().filter(|first| !first.is_empty()).unwrap_or("0");
    let query = ["--query-gpu=name,driver_version", "--format=csv,noheader", "--id", first];
    let told = said(Command::new("nvidia-smi").args(query)).unwrap_or_default();
    match told.split_once(", ") {
        Some((name, driver)) => Card { name: name.to_owned(), driver: Some(driver.to_owned()) },
        None => Card { name: "unknown GPU".to_owned(), driver: driver() },
    }
}

/// As the kernel reports it: `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul ...`.
fn driver() -> Option<String> {
    let version = fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let numbered = |word: &&str| word.contains('.') && word.starts_with(|first: char| first.is_ascii_digit());
    version.split_whitespace().find(numbered).map(str::to_owned)
}

/// The record for docs/benchmarks.md: our figures with floor and ratios, every contender's times, whole studies, and how everything was measured.
pub(super) fn markdown(record: &Record, card: &Card, file: &str) -> String {
    let groups = groups(record);
    let mut text = ours(record, &groups).markdown();
    text += "\n";
    text += &everybody(record, &groups).markdown();
    if !record.studies.is_empty() {
        text += "\n";
        text += &studies(record).markdown();
    }
    text += "\n";
    text += &provenance(record, card, file);
    text
}

/// The contenders that were timed, ours first.
fn entered(record: &Record) -> Vec<Contender> {
    let entered =
        |contender: &Contender| record.contenders.iter().any(|entered| entered.contender == *contender);
    Contender::ALL.into_iter().filter(entered).collect()
}

/// A line for each network, phase and precision: our time, its floor, and how many times as long the others take.
fn ours(record: &Record, groups: &[Group]) -> Table {
    let peers: Vec<Contender> =
        entered(record).into_iter().filter(|contender| *contender != Contender::Pointwise).collect();
    let words = ["network", "step", "precision"].map(|title| (title, Align::Left));
    let figures = ["ms", "fastest, slowest round", "images/s", "GFLOP", "GB", "floor, ms", "floor of time"];
    let titles = figures.into_iter().chain(peers.iter().map(|peer| peer.title()));
    let mut table = Table::new(words.into_iter().chain(titles.map(|title| (title, Align::Right))));
    for group in groups {
        let of = |contender| group.figures.iter().find(|figures| figures.contender == contender);
        let ours = of(Contender::Pointwise);
        let show = |figure: &dyn Fn(&Figures) -> Option<String>| ours.and_then(figure).unwrap_or(NONE.into());
        let floor = |figure: &dyn Fn(f64, f64, f64) -> String| {
            group.floor.map_or(NONE.into(), |floor| figure(floor.gflop, floor.gbytes, floor.seconds))
        };
        let mut cells = key(group);
        cells.extend([
            show(&|ours| Some(milliseconds(ours.seconds))),
            show(&|ours| Some(format!("{}, {}", milliseconds(ours.least), milliseconds(ours.most)))),
            show(&|ours| Some(format!("{:.0}", ours.images_per_second))),
            floor(&|gflop, _, _| three(gflop)),
            floor(&|_, gbytes, _| three(gbytes)),
            floor(&|_, _, seconds| milliseconds(seconds)),
            show(&|ours| Some(format!("{:.0} %", 100.0 * group.floor?.seconds / ours.seconds))),
        ]);
        cells.extend(peers.iter().map(|&peer| {
            let ratio = of(peer).and_then(|figures| figures.ratio);
            ratio.map_or(NONE.into(), times)
        }));
        table.row(cells);
    }
    table
}

/// A line for each network, phase and precision: milliseconds of every contender.
fn everybody(record: &Record, groups: &[Group]) -> Table {
    let contenders = entered(record);
    let words = ["network", "step", "precision"].map(|title| (title, Align::Left));
    let titles = contenders.iter().map(|contender| (contender.title(), Align::Right));
    let mut table = Table::new(words.into_iter().chain(titles));
    for group in groups {
        let mut cells = key(group);
        cells.extend(contenders.iter().map(|&contender| {
            let figures = group.figures.iter().find(|figures| figures.contender == contender);
            figures.map_or(NONE.into(), |figures| format!("{} ms", milliseconds(figures.seconds)))
        }));
        table.row(cells);
    }
    table
}

fn key(group: &Group) -> Vec<String> {
    let precision = group.precision.map_or(NONE, Precision::name);
    vec![format!("`{}`", group.model), step(group.phase).to_owned(), precision.to_owned()]
}

/// A line for each precision: a whole study, and each network's share.
fn studies(record: &Record) -> Table {
    let models: Vec<&str> = record.studies[0].networks.iter().map(|network| network.model.as_str()).collect();
    let titles: Vec<String> = models.iter().map(|model| format!("`{model}`, s")).collect();
    let fixed = [
        ("whole study", Align::Left),
        ("precision", Align::Left),
        ("s", Align::Right),
        ("fastest, slowest", Align::Right),
    ];
    let titles = titles.iter().map(|title| (title.as_str(), Align::Right));
    let mut table = Table::new(fixed.into_iter().chain(titles));
    for precision in Precision::ALL {
        let of: Vec<&StudyTime> =
            record.studies.iter().filter(|study| study.precision == precision).collect();
        let seconds = || of.iter().map(|study| study.seconds);
        let Some(middle) = median(seconds()) else { continue };
        let least = seconds().fold(f64::INFINITY, f64::min);
        let most = seconds().fold(0.0, f64::max);
        let mut cells = vec![
            format!("{}, {}", count(models.len() as u32, "network"), count(of[0].epochs, "epoch")),
            precision.name().to_owned(),
            format!("{middle:.2}"),
            format!("{least:.2}, {most:.2}"),
        ];
        cells.extend(models.iter().map(|model| {
            let shares = of.iter().flat_map(|study| &study.networks);
            let shares = shares.filter(|network| network.model == *model).map(|network| network.seconds);
            median(shares).map_or(NONE.into(), |seconds| format!("{seconds:.2}"))
        }));
        table.row(cells);
    }
    table
}

/// The sentences needed to interpret the figures.
fn provenance(record: &Record, card: &Card, file: &str) -> String {
    let date = date(&record.started);
    let driver = card.driver.as_deref().map_or(String::new(), |driver| format!(", driver {driver}"));
    let mut text = format!(
        "A step is a whole batch of {}, drawn and made ready, in training with loss and optimizer. {}{driver}; {}, {}, {}, {date}. Each \
         figure is a median over {} of medians over steps; in a round every program runs once, in an order that rotates. The \
         columns of other programs say how many times as long they take in the same round.",
        record.batch,
        card.name,
        record.processor,
        record.os,
        count(record.threads, "thread"),
        count(record.rounds, "round"),
    );
    let rates: Vec<String> = Precision::ALL
        .into_iter()
        .filter_map(|precision| {
            let gflops = peak_gflops(record, Some(precision))?;
            Some(format!("{} in {precision}", three(gflops / 1e3)))
        })
        .collect();
    if let (false, Some(bandwidth)) = (rates.is_empty(), bandwidth_gb(record)) {
        text += &format!(
            " The floor is the longer of a step's operations and its bytes at the rates that this card was measured to have: TFLOP/s \
             {} for large matrix products, and {bandwidth:.0} GB/s read and written.",
            rates.join(", ")
        );
    }
    if let Some(study) = record.studies.first() {
        let data = match study.synthetic {
            true => "on images that each program draws anew",
            false => "on CIFAR-10",
        };
        text += &format!(
            " A whole study is {} one after the other {data}, from the start of the first to the end of the last: \
             reading, training, an evaluation after every epoch, checkpoints.",
            count(study.networks.len() as u32, "program")
        );
    }
    text += "\n\n";
    text += &made_by(record, file);
    text
}

/// Milliseconds with three digits: steps on a GPU take about one.
fn milliseconds(seconds: f64) -> String {
    three(1e3 * seconds)
}

/// Three digits, more before the point.
fn three(value: f64) -> String {
    let decimals = match value {
        value if value < 0.9995 => 3,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::testing::gpu_record;

    fn cells(line: &str) -> Vec<&str> {
        line.trim_matches('|').split('|').map(str::trim).collect()
    }

    #[test]
    fn a_record_of_a_gpu_is_three_tables_by_precision() {
        let record = gpu_record();
        let text = markdown(&record, record.card.as_ref().unwrap(), "a.json");
        let lines: Vec<&str> = text.lines().collect();
        let titles = "network|step|precision|ms|fastest, slowest round|images/s|GFLOP|GB|floor, ms|floor of time|PyTorch, CUDA graph|the notebook";
        assert_eq!(cells(lines[0]).join("|"), titles);
        // 1.0 and 1.2 ms in the rounds; the graph takes 2.2 / 1.0 and 2.4 / 1.2, the notebook 11 / 1.0 and 12 / 1.2.
        let first = "`alexnet`|training|f32|1.10|1.00, 1.20|114545|300|1.00|0.500|45 %|2.10x|10.5x";
        assert_eq!(cells(lines[2]).join("|"), first);
        let second = "`alexnet`|training|bf16|0.500|0.500, 0.500|252000|300|0.500|0.250|50 %|-|23.0x";
        assert_eq!(cells(lines[3]).join("|"), second);
        assert_eq!(cells(lines[7]).join("|"), "`alexnet`|training|f32|1.10 ms|2.30 ms|11.5 ms");
        assert_eq!(cells(lines[12]).join("|"), "2 networks, 10 epochs|f32|12.00|11.00, 13.00|5.00|7.00");
        for part in [
            "Some GPU 80GB, driver 580.1; Some CPU, linux x86_64, 2 threads, 2026-02-28",
            "TFLOP/s 60.0 in f32, 800 in bf16 for large matrix products, and 3000 GB/s read and written",
            "2 programs one after the other on CIFAR-10",
            "at commit 0123456.",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("Winograd"), "{text}");
    }

    #[test]
    fn numbers_have_three_digits() {
        let values = [0.012_34, 0.9996, 9.994, 9.996, 99.96, 1234.5];
        assert_eq!(values.map(three), ["0.012", "1.00", "9.99", "10.0", "100", "1234"]);
    }
}
