//! The committed records: the study's tables are made from its runs, and README.md and the pages in `docs/` show what the records say.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_report::{Figure, NetworkFacts, StudyReport, Verdict};
use pointwise_study::{Metric, Study};
use pointwise_tests::committed_runs;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn committed() -> PathBuf {
    root().join("data/study")
}

/// A page of the repository.
fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

#[test]
fn the_studys_tables_are_made_from_its_runs() {
    let study = Study::by_name("pointwise").unwrap();
    let facts: Vec<NetworkFacts> = study
        .arms
        .iter()
        .map(|arm| {
            let graph = arm.network.graph().unwrap();
            NetworkFacts {
                model: arm.name.clone(),
                parameters: graph.parameter_count() as u64,
                macs: graph.macs() as u64,
                layers: Vec::new(),
            }
        })
        .collect();
    let runs = committed_runs();
    for arm in &study.arms {
        assert!(runs.iter().any(|run| run.config.model == arm.name), "{}", arm.name);
    }
    let report = StudyReport::new(&runs, &facts, &study).unwrap();
    assert_eq!(fs::read_to_string(committed().join("report.md")).unwrap(), report.to_markdown());
    let json = serde_json::to_value(&report).unwrap();
    let committed = fs::read_to_string(committed().join("study.json")).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&committed).unwrap(), json);
}

#[test]
fn the_page_of_results_shows_the_committed_study() {
    let study = fs::read_to_string(committed().join("report.md")).unwrap();
    let results = page("docs/results.md");
    let part = results.split_once("<!-- study -->\n").unwrap().1.split_once("<!-- /study -->").unwrap().0;
    let section = study.split_once("## Final test accuracy and loss\n\n").unwrap().1;
    let tables: Vec<&str> = section.lines().take_while(|line| !line.starts_with("Ours is")).collect();
    assert_eq!(part.trim(), tables.join("\n").trim());
    let headline = study.lines().nth(2).unwrap();
    assert!(results.contains(headline), "docs/results.md lacks: {headline}");
}

#[test]
fn the_committed_study_names_no_folder_of_a_machine() {
    for run in committed_runs() {
        let folder = run.config.data_dir.unwrap_or_default();
        assert!(folder.components().count() <= 1, "{}", folder.display());
        assert!(!run.environment.data_source.contains(['/', '\\']), "{}", run.environment.data_source);
    }
}

/// The other completed studies, each with its record: the report matches the record, and the page of results has a line of it.
#[test]
fn the_page_of_results_tells_what_the_other_studies_came_to() {
    let results = page("docs/results.md");
    let mut told = Vec::new();
    for name in Study::shipped().skip(1) {
        let study = Study::by_name(name).unwrap();
        let Some(record) = &study.record else { continue };
        let report: StudyReport = serde_json::from_str(record).unwrap();
        let text = fs::read_to_string(root().join("data/records").join(name).join("report.md")).unwrap();
        assert_eq!(text, report.to_markdown(), "{name}");
        let verdict = match &report.verdict {
            Verdict::Reproduced => "reproduced",
            Verdict::Different { .. } => "different",
            Verdict::Undecided { .. } => "undecided",
            Verdict::NotComparable { .. } | Verdict::NotJudged => panic!("{name}: {:?}", report.verdict),
        };
        let metric = study.primary[0].metric;
        for network in &report.networks {
            let published = study.arm(&network.name).unwrap().published.figure(metric, None).unwrap();
            let claim = if published.at_least { "over " } else { "" };
            let ours = match metric {
                Metric::TtaTestAcc => &network.tta_accuracy,
                _ => &network.accuracy,
            };
            let ours = &ours.as_ref().unwrap().ours;
            // A single run has no deviation.
            let deviation = ours.deviation.map(|deviation| format!(" \u{b1} {:.2}", 100.0 * deviation));
            let line = format!(
                "| [`{name}`](../data/records/{name}/report.md) | `{}` | {claim}{} | {:.2}{} | {} | {verdict} |",
                network.name,
                published.shown(),
                100.0 * ours.mean,
                deviation.unwrap_or_default(),
                network.seeds.len(),
            );
            assert!(results.contains(&line), "docs/results.md lacks: {line}");
            told.push(name);
        }
    }
    assert!(told.len() >= 2, "{told:?}");
}

/// A study without published figures has tables and no verdict.
#[test]
fn the_page_of_results_shows_the_ablation() {
    let folder = root().join("data/records/pointwise-ablation");
    let json = fs::read_to_string(folder.join("study.json")).unwrap();
    let report: StudyReport = serde_json::from_str(&json).unwrap();
    let text = fs::read_to_string(folder.join("report.md")).unwrap();
    assert_eq!(text, report.to_markdown());
    let study = Study::by_name("pointwise-ablation").unwrap();
    assert!(report.networks.iter().all(|network| !network.seeds.is_empty()), "a network was not run");
    assert_eq!(report.networks.len(), study.arms.len());
    assert_eq!(report.effects.len(), study.effects.len());
    let table = |heading: &str| {
        let section = text.split_once(heading).unwrap().1;
        section.lines().skip_while(|line| line.is_empty()).take_while(|line| line.starts_with('|')).collect()
    };
    let tables: [Vec<&str>; 2] = ["## Accuracy and cost", "## Effects"].map(table);
    let results = page("docs/results.md");
    let part =
        results.split_once("<!-- ablation -->\n").unwrap().1.split_once("<!-- /ablation -->").unwrap().0;
    assert_eq!(part.trim(), tables.map(|table| table.join("\n")).join("\n\n"));
}

/// How much longer a change makes a training step: the geometric mean over the pairs that differ in it, of the medians in the record of steps.
#[test]
fn the_page_of_results_tells_what_changes_do_to_a_step() {
    let record = fs::read_to_string(
        root().join("data/benchmarks/training/2026-11-27-ablation-amd-epyc-2threads.json"),
    );
    let record: serde_json::Value = serde_json::from_str(&record.unwrap()).unwrap();
    let median = |network: &str| {
        let rows = record["rows"].as_array().unwrap().iter().filter(|row| row["model"] == network);
        let rounds: Vec<f64> = rows
            .map(|row| {
                let seconds = row["seconds"].as_array().unwrap().iter();
                middle(seconds.map(|value| value.as_f64().unwrap()).collect())
            })
            .collect();
        assert!(rounds.len() > 1, "{network}");
        middle(rounds)
    };
    let results = page("docs/results.md");
    for effect in Study::by_name("pointwise-ablation").unwrap().effects {
        let logs: f64 =
            effect.pairs.iter().map(|[with, without]| (median(with) / median(without)).ln()).sum();
        let ratio = (logs / effect.pairs.len() as f64).exp();
        let line = format!("| {} | x {ratio:.2} |", effect.name);
        assert!(results.contains(&line), "docs/results.md lacks: {line}");
    }
}

/// The median.
fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    (values[half] + values[(values.len() - 1) / 2]) / 2.0
}

/// Steps of airbench94 here and in PyTorch, in rounds: the median of each round's steps, and the median over rounds.
#[test]
fn the_readme_tells_how_long_94_percent_take() {
    let record =
        fs::read_to_string(root().join("data/records/2026-11-26-airbench94-steps-amd-epyc-2threads.jsonl"));
    let rows: Vec<serde_json::Value> =
        record.unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rounds = |side: &str| -> Vec<f64> {
        let of_side = rows.iter().filter(|row| row["side"] == side);
        let seconds = of_side.map(|row| row["seconds"].as_array().unwrap());
        let steps: Vec<Vec<f64>> =
            seconds.map(|list| list.iter().map(|value| value.as_f64().unwrap()).collect()).collect();
        assert_eq!(steps.iter().map(Vec::len).sum::<usize>(), 100, "{side}");
        steps.into_iter().map(middle).collect()
    };
    let (ours, theirs) = (rounds("pointwise"), rounds("pytorch"));
    let ratio = middle(theirs.iter().zip(&ours).map(|(theirs, ours)| theirs / ours).collect());
    let minutes = |seconds: Vec<f64>| middle(seconds) * 476.0 / 60.0;
    let sentence = format!(
        "The 476 steps take {:.1} minutes on two threads, and {:.1} in PyTorch, {ratio:.1} times as long",
        minutes(ours),
        minutes(theirs)
    );
    let lines_joined = |path: &str| page(path).split_whitespace().collect::<Vec<_>>().join(" ");
    let readme = lines_joined("README.md");
    let record = Study::by_name("airbench94").unwrap().record.unwrap();
    let report: StudyReport = serde_json::from_str(&record).unwrap();
    let [network] = &report.networks[..] else { panic!("one network") };
    let [plain, views] = [&network.accuracy, &network.tta_accuracy].map(|figure| figure.as_ref().unwrap());
    let shown = |figure: &Figure| {
        format!("{:.2} \u{b1} {:.2} %", 100.0 * figure.ours.mean, 100.0 * figure.ours.deviation.unwrap())
    };
    let detectable = 100.0 * views.comparison.as_ref().unwrap().detectable;
    for sentence in [
        sentence,
        format!("a mean accuracy of {} over five seeds", shown(views)),
        format!("in 8 of 10 cases five runs would have shown a difference of {detectable:.2} points"),
    ] {
        assert!(readme.contains(&sentence), "README.md lacks: {sentence}");
    }
    let sentence = format!("without them ours is {}", shown(plain));
    assert!(lines_joined("docs/results.md").contains(&sentence), "docs/results.md lacks: {sentence}");
}

/// The cells of the line of a table that begins with these, after a heading.
fn cells(page: &str, heading: &str, first: &[&str]) -> Vec<String> {
    let behind = page.split_once(heading).unwrap().1;
    let lines = behind.lines().filter(|line| line.starts_with('|'));
    let rows =
        lines.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect());
    rows.into_iter().find(|row: &Vec<String>| first.iter().zip(row).all(|(cell, own)| cell == own)).unwrap()
}

/// README.md's figures of speed are in the tables of the benchmarks page, which are checked against their records.
#[test]
fn the_readme_tells_what_the_benchmarks_say() {
    let benchmarks = page("docs/benchmarks.md");
    let readme = page("README.md").split_whitespace().collect::<Vec<_>>().join(" ");
    let training = cells(&benchmarks, "<!-- benchmark -->", &["`alexnet`", "training"]);
    let times = |cell: &str| cell.trim_end_matches('x').to_owned();
    let steps = format!(
        "steps of the study's `alexnet` take {} ms; PyTorch takes {} times as long, and {} times in its channels_last",
        training[2],
        times(&training[8]),
        times(&training[9]),
    );
    let inference = cells(
        benchmarks.split_once("<!-- benchmark inference -->").unwrap().1,
        "| 126 images",
        &["`alexnet`"],
    );
    let images = format!(
        "126 images take the same network {} ms; ONNX Runtime takes {} times as long, and OpenVINO {} times",
        inference[1],
        times(&inference[2]),
        times(&inference[3]),
    );
    for sentence in [steps, images] {
        assert!(readme.contains(&sentence), "README.md lacks: {sentence}");
    }
}

/// The lines of a record of trainings in candle, each with the step size of its command.
fn trainings(name: &str) -> Vec<(f64, serde_json::Value)> {
    let record = fs::read_to_string(root().join("data/records").join(name)).unwrap();
    let mut rate = f64::NAN;
    let mut trainings = Vec::new();
    for line in record.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        match line["sgd_rate"].as_f64() {
            Some(of_command) => rate = of_command,
            None => trainings.push((rate, line)),
        }
    }
    trainings
}

#[test]
fn the_guide_for_candle_shows_its_records() {
    let guide = fs::read_to_string(root().join("docs/candle.md")).unwrap();

    let steps = trainings("2026-11-26-candle-mnist-steps-amd-epyc-2threads.jsonl");
    let milliseconds = |layers: &str| -> Vec<f64> {
        let of_layers = steps.iter().filter(|(_, line)| line["layers"] == layers);
        of_layers.map(|(_, line)| line["ms_per_step"].as_f64().unwrap()).collect()
    };
    for (layers, shown) in [
        ("candle", "candle 0.11.1"),
        ("right-pool", "candle 0.11.1 with this crate's maximum pool"),
        ("pointwise", "this crate"),
    ] {
        let cells: Vec<String> = milliseconds(layers).iter().map(|time| format!("{time:.0}")).collect();
        let row = format!("| {shown} | {} |", cells.join(" | "));
        assert!(guide.contains(&row), "{row}");
    }
    let (theirs, ours) = (milliseconds("candle"), milliseconds("pointwise"));
    let ratios: Vec<f64> = theirs.iter().zip(&ours).map(|(theirs, ours)| theirs / ours).collect();
    let (least, most) = ratios.iter().fold((f64::MAX, 0.0f64), |(a, b), x| (a.min(*x), b.max(*x)));
    let sentence = format!("{least:.1} to {most:.1} times as fast");
    assert!(guide.contains(&sentence), "{sentence}");

    let accuracy = trainings("2026-11-26-candle-mnist-accuracy.jsonl");
    for (layers, shown) in [("candle", "candle's pool"), ("right-pool", "the right pool")] {
        let cell = |optimizer: &str, rate: f64| {
            let is_it = |(of, line): &&(f64, serde_json::Value)| {
                *of == rate && line["layers"] == layers && line["optimizer"] == optimizer
            };
            let line = &accuracy.iter().find(is_it).unwrap().1;
            let value = |key: &str| line[key].as_f64().unwrap();
            format!("{:.1} %, {:.2}", 100.0 * value("test_accuracy"), value("loss_of_last_epoch"))
        };
        let cells = [cell("adam-w", 0.01), cell("sgd", 0.01), cell("sgd", 0.002)];
        let row = format!("| {shown} | {} |", cells.join(" | "));
        assert!(guide.contains(&row), "{row}");
    }
}

#[test]
fn the_comparison_with_pytorch_shows_its_record() {
    let shown = fs::read_to_string(root().join("tests/pytorch/README.md")).unwrap();
    let record = fs::read_to_string(root().join("data/records/2026-11-26-recipe.jsonl")).unwrap();
    let rows: Vec<serde_json::Value> =
        record.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for model in ["alexnet_plain", "alexnet", "nin"] {
        for figure in ["train_loss_1", "train_loss_2", "train_loss_3", "test_loss", "test_acc"] {
            let of = |side: &str| {
                let of_side = rows.iter().filter(|row| row["model"] == model && row["side"] == side);
                let values: Vec<f64> = of_side.map(|row| row[figure].as_f64().unwrap()).collect();
                assert_eq!(values.len(), 10, "{model} {side}");
                let mean = values.iter().sum::<f64>() / 10.0;
                let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
                format!("{mean:.4} ± {:.4}", (squares / 9.0).sqrt())
            };
            let cells = format!("| {} | {} |", of("pointwise"), of("pytorch"));
            assert!(shown.contains(&cells), "{model} {figure}: {cells}");
        }
    }
}
