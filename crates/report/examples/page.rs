//! The page about the committed study, for viewing and for the test in a browser:
//! `cargo run -p pointwise-report --example page -- OUT.html [--made-up]`.
//!
//! With `--made-up` two more seeds and mistakes are invented, so that every part of the page has something to show. Such a page
//! is only for testing.

use std::{fs, path::Path};

use pointwise_report::{NetworkFacts, Page, StudyReport};
use pointwise_runs::{Analysis, Filters, Mistake, Record, Run, Sheet};
use pointwise_study::Study;

/// A grey JPEG of one pixel, which a browser stretches.
const GREY: &str = "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAP//////////////////////////////////////////////////////////////////////////////////////\
wgALCAABAAEBAREA/8QAFBABAAAAAAAAAAAAAAAAAAAAAP/aAAgBAQABPxA=";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let out = arguments.first().ok_or("say where to write the page")?;
    let made_up = arguments.iter().any(|argument| argument == "--made-up");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/study");
    let mut runs = Vec::new();
    for entry in fs::read_dir(folder.join("runs"))? {
        runs.push(Run::read(entry?.path())?);
    }
    runs.sort_by(|a, b| a.path.cmp(&b.path));
    let facts: Vec<NetworkFacts> = serde_json::from_str(include_str!("../tests/summary.json"))?;
    if made_up {
        // Whatever other seeds the record has.
        runs.retain(|run| run.config.seed == 42);
        let more: Vec<Run> = runs.iter().flat_map(|run| [43, 44].map(|seed| other_seed(run, seed))).collect();
        runs.extend(more);
    }
    let study = Study::by_name("pointwise")?;
    let report = StudyReport::new(&runs, &facts, &study)?;
    let analyses = if made_up { runs.iter().map(|run| (run, mistakes(run))).collect() } else { Vec::new() };
    fs::write(out, Page::new(&report, &runs, &facts, analyses, &study).html())?;
    Ok(())
}

fn other_seed(run: &Run, seed: u64) -> Run {
    let mut other = run.clone();
    other.config.seed = seed;
    other.path = run.path.with_file_name(format!("{}-seed{seed}", run.config.model));
    let move_by = |step: u32| ((seed * 7 + u64::from(step) * 5) % 11) as f64 / 500.0 - 0.01;
    for record in &mut other.records {
        if let Record::Epoch(epoch) = record {
            epoch.test_acc = epoch.test_acc.map(|acc| acc + move_by(epoch.epoch));
            epoch.test_loss = epoch.test_loss.map(|loss| loss - move_by(epoch.epoch));
        }
    }
    if let Some(result) = &mut other.result {
        result.final_acc += move_by(10);
        result.final_loss -= move_by(10);
    }
    other
}

fn mistakes(run: &Run) -> Analysis {
    let classes = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    let count = |label: usize, predicted: usize| match label == predicted {
        true => 700 + ((label * 37 + run.config.model.len() * 11) % 200) as u32,
        false => ((label * 13 + predicted * 29) % 37) as u32,
    };
    let kinds = (0..10).flat_map(|label| (0..10).map(move |predicted| (label, predicted)));
    let wrong: Vec<Mistake> = kinds
        .filter(|&(label, predicted)| label != predicted && count(label, predicted) > 0)
        .enumerate()
        .map(|(image, (label, predicted))| Mistake {
            image: image as u32,
            label: label as u16,
            predicted: predicted as u16,
            confidence: 1.0 - image as f64 / 200.0,
        })
        .collect();
    Analysis {
        version: Analysis::VERSION,
        classes: classes.map(str::to_owned).into(),
        confusion: (0..10).map(|label| (0..10).map(|predicted| count(label, predicted)).collect()).collect(),
        mistakes: wrong,
        sheet: Some(Sheet { side: 32, columns: 20, jpeg: GREY.into() }),
        filters: Some(Filters {
            name: "features.0.weight".into(),
            side: 3,
            values: (0..64 * 27).map(|at| ((at * 31 % 97) as f32 - 48.0) / 48.0).collect(),
        }),
    }
}
