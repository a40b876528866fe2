//! A record as Markdown, and the parts of docs/benchmarks.md that show records: the newest of the CPU and of a GPU, and those that the page names.

use std::path::Path;

use anyhow::{Context, bail};
use pointwise_report::{Align, Table};

use super::{
    cells::{NONE, count, made_by, step, times},
    gpu,
    question::{Contender, Device},
    record::{Record, date},
    summary::{Figures, Group, groups, layers},
};

/// The page that shows records.
pub(crate) const PAGE: &str = "docs/benchmarks.md";

/// The marker lines around its part on inference.
pub(crate) const INFERENCE_MARKERS: [&str; 2] =
    ["<!-- benchmark inference -->", "<!-- /benchmark inference -->"];

/// The marker lines around a device's part of docs/benchmarks.md.
pub(crate) fn markers(device: Device) -> [&'static str; 2] {
    match device {
        Device::Cpu => ["<!-- benchmark -->", "<!-- /benchmark -->"],
        Device::Cuda => ["<!-- benchmark cuda -->", "<!-- /benchmark cuda -->"],
    }
}

/// The records that a page names in its marker lines, as paths in [`FOLDER`](super::record::FOLDER): `<!-- benchmark training/FILE.json -->`.
pub(crate) fn named(page: &str) -> Vec<&str> {
    page.lines()
        .filter_map(|line| line.strip_prefix("<!-- benchmark ")?.strip_suffix(" -->"))
        .filter(|name| name.ends_with(".json"))
        .collect()
}

/// The marker lines around the part that shows a record that the page names.
pub(crate) fn markers_of(name: &str) -> [String; 2] {
    [format!("<!-- benchmark {name} -->"), format!("<!-- /benchmark {name} -->")]
}

/// A record of one phase on the CPU in one table: our figures, and the ratio and memory of each other contender that was timed.
///
/// # Errors
/// If it is of a GPU or of several phases, for which [`markdown`] has tables.
pub(crate) fn short(record: &Record, file: &str) -> anyhow::Result<String> {
    let groups = groups(record);
    let phase = groups.first().map(|group| group.phase).with_context(|| format!("{file} has no rows"))?;
    if record.card.is_some() || groups.iter().any(|group| group.phase != phase) {
        bail!(
            "{file} is shown in short, for which it must be of the CPU and of one phase: choose it by --phases"
        );
    }
    let peers: Vec<Contender> = record
        .contenders
        .iter()
        .map(|entered| entered.contender)
        .filter(|contender| *contender != Contender::Pointwise)
        .collect();
    let titles = ["ms", "fastest, slowest round", "images/s", "memory"];
    let titles = titles.into_iter().chain(peers.iter().map(|peer| peer.title()));
    let titles = titles.map(|title| (title, Align::Right));
    let mut table = Table::new([("network", Align::Left)].into_iter().chain(titles));
    for group in &groups {
        let of = |contender| group.figures.iter().find(|figures| figures.contender == contender);
        let ours = of(Contender::Pointwise)
            .with_context(|| format!("{file} has no times of ours of {}", group.model))?;
        let with_memory = |text: String, figures: &Figures| match figures.peak_memory_bytes {
            Some(bytes) => format!("{text}, {}", memory(bytes)),
            None => text,
        };
        let mut cells = vec![
            format!("`{}`", group.model),
            milliseconds(ours.seconds),
            format!("{}, {}", milliseconds(ours.least), milliseconds(ours.most)),
            format!("{:.0}", ours.images_per_second),
            ours.peak_memory_bytes.map_or(NONE.into(), memory),
        ];
        cells.extend(peers.iter().map(|&peer| {
            let theirs = of(peer).and_then(|figures| Some(with_memory(times(figures.ratio?), figures)));
            theirs.unwrap_or(NONE.into())
        }));
        table.row(cells);
    }
    let date = date(&record.started);
    let what = step(phase);
    let others = match peers.is_empty() {
        true => "",
        false => {
            "The columns of other programs say how many times as long they take in the same round, and their memory. "
        }
    };
    Ok(format!(
        "{}\n{}{} in batches of {}. {}, {}, {} for every program, {date}; medians over {} of medians over steps. {others}{}",
        table.markdown(),
        what[..1].to_uppercase(),
        &what[1..],
        record.batch,
        record.processor,
        record.os,
        count(record.threads, "thread"),
        count(record.rounds, "round"),
        made_by(record, file)
    ))
}

/// The record for docs/benchmarks.md: our figures with the ratios, every contender's figures, and how everything was measured.
pub(crate) fn markdown(record: &Record, file: &str) -> String {
    if let Some(card) = &record.card {
        return gpu::markdown(record, card, file);
    }
    let groups = groups(record);
    let mut text = ours(&groups).markdown();
    text += "\n";
    text += &everybody(record, &groups).markdown();
    text += "\n";
    text += &provenance(record, file);
    text
}

/// A line for each network and phase: our time, and how many times as long the others take.
fn ours(groups: &[Group]) -> Table {
    let peers = &Contender::on(Device::Cpu)[1..];
    let with_peak =
        groups.iter().flat_map(|group| &group.figures).any(|figures| figures.share_of_peak.is_some());
    let mut titles = vec![
        ("network".to_owned(), Align::Left),
        ("step".to_owned(), Align::Left),
        ("ms".to_owned(), Align::Right),
        ("fastest, slowest round".to_owned(), Align::Right),
        ("images/s".to_owned(), Align::Right),
        ("GF/s".to_owned(), Align::Right),
    ];
    if with_peak {
        titles.push(("of peak".to_owned(), Align::Right));
    }
    titles.push(("memory".to_owned(), Align::Right));
    titles.extend(peers.iter().map(|peer| (peer.title().to_owned(), Align::Right)));
    let mut table = Table::new(titles.iter().map(|(title, align)| (title.as_str(), *align)));
    for group in groups {
        let of = |contender| group.figures.iter().find(|figures| figures.contender == contender);
        let ours = of(Contender::Pointwise);
        let show = |figure: &dyn Fn(&Figures) -> Option<String>| ours.and_then(figure).unwrap_or(NONE.into());
        let mut cells = vec![
            format!("`{}`", group.model),
            step(group.phase).to_owned(),
            show(&|ours| Some(milliseconds(ours.seconds))),
            show(&|ours| Some(format!("{}, {}", milliseconds(ours.least), milliseconds(ours.most)))),
            show(&|ours| Some(format!("{:.0}", ours.images_per_second))),
            show(&|ours| Some(format!("{:.0}", ours.gflops?))),
        ];
        if with_peak {
            cells.push(show(&|ours| Some(format!("{:.0} %", 100.0 * ours.share_of_peak?))));
        }
        cells.push(show(&|ours| Some(memory(ours.peak_memory_bytes?))));
        cells.extend(peers.iter().map(|&peer| {
            let ratio = of(peer).and_then(|figures| figures.ratio);
            ratio.map_or(NONE.into(), times)
        }));
        table.row(cells);
    }
    table
}

/// A line for each network and phase: milliseconds and memory of every contender.
fn everybody(record: &Record, groups: &[Group]) -> Table {
    let entered =
        |contender: &Contender| record.contenders.iter().any(|entered| entered.contender == *contender);
    let contenders: Vec<Contender> = Contender::ALL.into_iter().filter(entered).collect();
    let fixed = [("network", Align::Left), ("step", Align::Left)];
    let titles = contenders.iter().map(|contender| (contender.title(), Align::Right));
    let mut table = Table::new(fixed.into_iter().chain(titles));
    for group in groups {
        let mut cells = vec![format!("`{}`", group.model), step(group.phase).to_owned()];
        cells.extend(contenders.iter().map(|&contender| {
            let Some(figures) = group.figures.iter().find(|figures| figures.contender == contender) else {
                return NONE.into();
            };
            let seconds = format!("{} ms", milliseconds(figures.seconds));
            figures.peak_memory_bytes.map_or(seconds.clone(), |bytes| format!("{seconds}, {}", memory(bytes)))
        }));
        table.row(cells);
    }
    table
}

/// The sentences needed to interpret the figures.
fn provenance(record: &Record, file: &str) -> String {
    let date = date(&record.started);
    let mut text = format!(
        "A step is a whole batch of {}, in training with loss and optimizer. {}, {}, {} for every program, {date}. Each figure is \
         a median over {} of medians over steps; in a round every program runs once, in an order that rotates. \
         The columns of other programs say how many times as long they take in the same round. GF/s count direct \
         convolutions: two operations for each multiply-accumulate, three passes in training; Winograd's method needs \
         fewer, so that more than the measured peak is possible. Memory is the largest resident set of \
         the whole process, libraries included.\n\n",
        record.batch,
        record.processor,
        record.os,
        count(record.threads, "thread"),
        count(record.rounds, "round")
    );
    text += &made_by(record, file);
    text
}

/// The layers of our engine, for a terminal.
pub(crate) fn layer_tables(record: &Record) -> String {
    let mut text = String::new();
    for Group { model, phase, .. } in groups(record) {
        // No engine on a GPU times its layers.
        let layers = layers(record, &model, phase);
        if layers.is_empty() {
            continue;
        }
        let right = |title| (title, Align::Right);
        let titles = [right("forward ms"), right("backward ms"), right("GFLOP"), right("GF/s")];
        let words = [("layer", Align::Left), ("method", Align::Left)];
        let mut table = Table::new(words.into_iter().chain(titles));
        for layer in layers {
            let seconds = layer.forward_seconds + layer.backward_seconds.unwrap_or(0.0);
            table.row([
                layer.path,
                layer.method.unwrap_or(NONE.into()),
                format!("{:.2}", 1e3 * layer.forward_seconds),
                layer.backward_seconds.map_or(NONE.into(), |seconds| format!("{:.2}", 1e3 * seconds)),
                layer.gflop.map_or(NONE.into(), |gflop| format!("{gflop:.2}")),
                layer.gflop.map_or(NONE.into(), |gflop| format!("{:.0}", gflop / seconds)),
            ]);
        }
        text += &format!("{model}, {}\n{}\n", step(phase), table.plain());
    }
    text
}

fn milliseconds(seconds: f64) -> String {
    let milliseconds = 1e3 * seconds;
    let decimals = match milliseconds {
        ..0.995 => 2,
        ..9.95 => 1,
        _ => 0,
    };
    format!("{milliseconds:.decimals$}")
}

fn memory(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}

/// The page's text with the part between the markers replaced.
///
/// # Errors
/// If there is not exactly one pair of markers.
pub(crate) fn replace_part(readme: &str, markers: [&str; 2], part: &str) -> anyhow::Result<String> {
    let [start, end] = markers;
    let Some((before, _, after)) = split(readme, markers)? else {
        bail!("{PAGE} has no place for the table: add the lines `{start}` and `{end}`");
    };
    Ok(format!("{before}{start}\n\n{part}\n{end}{after}"))
}

/// The text before, between and after the markers; `None` if there are none.
pub(crate) fn split<'a>(
    readme: &'a str,
    [start, end]: [&str; 2],
) -> anyhow::Result<Option<(&'a str, &'a str, &'a str)>> {
    if readme.matches(start).count() > 1 || readme.matches(end).count() > 1 {
        bail!("{PAGE} has `{start}` or `{end}` more than once: leave one of each");
    }
    let Some((before, rest)) = readme.split_once(start) else {
        match readme.contains(end) {
            true => bail!("{PAGE} has `{end}` without `{start}`: add it"),
            false => return Ok(None),
        }
    };
    let (part, after) = rest
        .split_once(end)
        .with_context(|| format!("{PAGE} has `{start}` without `{end}` after it: add it"))?;
    Ok(Some((before, part, after)))
}

/// The file name of a record, for links.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{
        question::Phase,
        record::{FOLDER, newest},
        root,
        testing::record,
    };

    #[test]
    fn a_record_is_two_tables_and_what_was_measured() {
        let text = markdown(&record(), "a.json");
        let lines: Vec<&str> = text.lines().collect();
        let cells =
            |line: &str| -> Vec<String> { line.split('|').map(|cell| cell.trim().to_owned()).collect() };
        assert_eq!(
            cells(lines[0])[1..13],
            [
                "network",
                "step",
                "ms",
                "fastest, slowest round",
                "images/s",
                "GF/s",
                "of peak",
                "memory",
                "PyTorch",
                "PyTorch channels_last",
                "candle",
                "burn"
            ]
        );
        assert_eq!(
            cells(lines[2])[1..13],
            [
                "`alexnet`",
                "training",
                "300",
                "200, 400",
                "420",
                "2520",
                "50 %",
                "200 MiB",
                "4.00x",
                "-",
                "-",
                "-"
            ]
        );
        assert_eq!(
            cells(lines[3])[1..13],
            [
                "`alexnet`",
                "evaluation",
                "100",
                "100, 100",
                "1260",
                "2520",
                "50 %",
                "90 MiB",
                "2.50x",
                "-",
                "-",
                "-"
            ]
        );
        assert_eq!(cells(lines[7])[1..5], ["`alexnet`", "training", "300 ms, 200 MiB", "1200 ms"]);
        for part in [
            "a whole batch of 126",
            "Some CPU, linux x86_64, 2 threads for every program, 2026-01-31",
            "median over 3 rounds",
            "pointwise 1.2.3 (a detail; 2 + 3 steps), PyTorch 1.2.3 (a detail; 2 + 1 steps)",
            "Not there: burn. candle is left out of `alexnet`: it has no pools.",
            "[data/benchmarks/a.json](../data/benchmarks/a.json)",
            "at commit 0123456.",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let mut other = record();
        other.dirty = true;
        other.rows.iter_mut().for_each(|entry| entry.row.peak_gflops = None);
        let text = markdown(&other, "a.json");
        assert!(text.contains("at commit 0123456 with changes.") && !text.contains("of peak"), "{text}");
    }

    #[test]
    fn a_record_of_one_phase_is_one_table() {
        let error = short(&record(), "a.json").unwrap_err().to_string();
        assert!(error.contains("of the CPU and of one phase"), "{error}");
        let mut training = record();
        training.rows.retain(|entry| entry.row.phase == Phase::Train);
        let text = short(&training, "training/a.json").unwrap();
        let rows: Vec<Vec<&str>> =
            text.lines().take(3).map(|line| line.split('|').map(str::trim).collect()).collect();
        let others: Vec<&str> =
            record().contenders[1..].iter().map(|entered| entered.contender.title()).collect();
        assert_eq!(rows[0][1..6], ["network", "ms", "fastest, slowest round", "images/s", "memory"]);
        assert_eq!(rows[0][6..rows[0].len() - 1], others);
        assert_eq!(rows[2][1..7], ["`alexnet`", "300", "200, 400", "420", "200 MiB", "4.00x"]);
        for part in ["Training in batches of 126.", "3 rounds", "[data/benchmarks/training/a.json]"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        training.rows.retain(|entry| entry.row.contender != Contender::Pointwise);
        assert!(short(&training, "a.json").is_err());
    }

    #[test]
    fn a_page_names_records() {
        let [start, end] = markers_of("training/a.json");
        let page = format!(
            "a\n<!-- benchmark -->\n<!-- /benchmark -->\n{start}\nold\n{end}\n<!-- benchmark cuda -->\n"
        );
        assert_eq!(named(&page), ["training/a.json"]);
        let shown =
            replace_part(&page, markers_of("training/a.json").each_ref().map(String::as_str), "new\n")
                .unwrap();
        assert!(shown.contains(&format!("{start}\n\nnew\n\n{end}\n")), "{shown}");
    }

    #[test]
    fn layers_are_shown_where_they_were_timed() {
        assert_eq!(
            layer_tables(&record()),
            "alexnet, training\n\
             layer       method   forward ms  backward ms  GFLOP  GF/s\n\
             features.0  patches       20.00        40.00  12.00   200\n\
             features.2  -              1.00            -      -     -\n\n"
        );
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(
            [0.000_287, 0.000_996, 0.001_23, 0.009_96, 1.2345].map(milliseconds),
            ["0.29", "1.0", "1.2", "10", "1234"]
        );
        assert_eq!([0.5, 9.94, 9.96, 31.26].map(times), ["0.50x", "9.94x", "10.0x", "31.3x"]);
    }

    #[test]
    fn only_the_part_between_the_markers_is_replaced() {
        let [start, end] = markers(Device::Cpu);
        let [gpu_start, gpu_end] = markers(Device::Cuda);
        let gpu = format!("{gpu_start}\nold\n{gpu_end}\n");
        let readme = format!("a\n{start}\nold\n{end}\nb\n{gpu}");
        let once = replace_part(&readme, markers(Device::Cpu), "new\n").unwrap();
        assert_eq!(once, format!("a\n{start}\n\nnew\n\n{end}\nb\n{gpu}"));
        assert_eq!(replace_part(&once, markers(Device::Cpu), "new\n").unwrap(), once);
        let both = replace_part(&once, markers(Device::Cuda), "card\n").unwrap();
        assert!(both.ends_with(&format!("\nb\n{gpu_start}\n\ncard\n\n{gpu_end}\n")), "{both}");
        for (readme, says) in [
            ("a".to_owned(), "no place for the table"),
            (format!("{start}\n"), "without `<!-- /benchmark -->` after it"),
            (format!("{end}\n{start}\n"), "without `<!-- /benchmark -->` after it"),
            (format!("{end}\n"), "without `<!-- benchmark -->`"),
            (format!("{start}{end}{start}{end}"), "more than once"),
        ] {
            let error = replace_part(&readme, markers(Device::Cpu), "new").unwrap_err().to_string();
            assert!(error.contains(says), "{readme}: {error}");
        }
    }

    #[test]
    fn the_page_shows_the_newest_records() {
        let readme = std::fs::read_to_string(root().join(PAGE)).unwrap();
        for (device, update) in [
            (Device::Cpu, "run `cargo xtask bench --update-docs`"),
            (Device::Cuda, "run `cargo xtask bench --device cuda --update-docs`"),
        ] {
            let newest = newest(&root().join(FOLDER), device).unwrap();
            let (Some((_, shown, _)), Some(path)) = (split(&readme, markers(device)).unwrap(), newest) else {
                // Without a record no figure may be shown.
                let shown = split(&readme, markers(device)).unwrap().map_or("", |(_, shown, _)| shown);
                assert!(!shown.contains('|'), "{PAGE} shows a table without a record");
                continue;
            };
            let expected = format!("\n\n{}\n", markdown(&Record::read(&path).unwrap(), &file_name(&path)));
            let drifted = shown.lines().zip(expected.lines()).find(|(shown, expected)| shown != expected);
            assert_eq!(drifted, None, "{update}");
            assert_eq!(shown.len(), expected.len(), "{update}");
        }
    }

    #[test]
    fn the_page_shows_the_records_that_it_names() {
        let page = std::fs::read_to_string(root().join(PAGE)).unwrap();
        let names = named(&page);
        for name in &names {
            let markers = markers_of(name);
            let (_, shown, _) = split(&page, markers.each_ref().map(String::as_str)).unwrap().unwrap();
            let record = Record::read(&root().join(FOLDER).join(name)).unwrap();
            let update = "run `cargo xtask bench --update-docs`";
            assert_eq!(shown, format!("\n\n{}\n", short(&record, name).unwrap()), "{name}: {update}");
        }
        // Each record of the folder is shown.
        for entry in std::fs::read_dir(root().join(FOLDER).join("training")).unwrap() {
            let name = format!("training/{}", file_name(&entry.unwrap().path()));
            assert!(names.contains(&name.as_str()), "{PAGE} does not show {name}");
        }
    }

    /// A record says nothing about the machine but its processor, its card and its system.
    #[test]
    fn committed_records_are_readable_and_name_no_paths() {
        let folders = [root().join(FOLDER), root().join(FOLDER).join("training")];
        for entry in folders.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten()) {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let record = Record::read(&path).unwrap();
                // The machine's part of the name, where the name says also what was timed.
                let own = record.file_name();
                let (date, machine) = own.split_at(10);
                let name = file_name(&path);
                assert!(name.starts_with(date) && name.ends_with(machine), "{name}");
                let text = std::fs::read_to_string(&path).unwrap();
                for part in ["/home/", "/root/", "/Users/", "/tmp/", "\\\\Users"] {
                    assert!(!text.contains(part), "{} holds {part}", path.display());
                }
            }
        }
    }
}
