//! The committed study: its tables are made from its runs, and README.md shows them.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_network::Network;
use pointwise_report::{NetworkFacts, Study};
use pointwise_runs::Run;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn committed() -> PathBuf {
    root().join("data/study")
}

fn runs() -> Vec<Run> {
    let folders = fs::read_dir(committed().join("runs")).unwrap();
    let mut folders: Vec<PathBuf> = folders.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders.iter().map(|folder| Run::read(folder).unwrap()).collect()
}

#[test]
fn the_studys_tables_are_made_from_its_runs() {
    let facts: Vec<NetworkFacts> = Network::STUDY
        .iter()
        .map(|name| {
            let graph = Network::by_name(name).unwrap().graph().unwrap();
            NetworkFacts {
                model: (*name).to_owned(),
                parameters: graph.parameter_count() as u64,
                macs: graph.macs() as u64,
                layers: Vec::new(),
            }
        })
        .collect();
    let runs = runs();
    for name in Network::STUDY {
        assert!(runs.iter().any(|run| run.config.model == name), "{name}");
    }
    let study = Study::new(&runs, &facts).unwrap();
    assert_eq!(fs::read_to_string(committed().join("report.md")).unwrap(), study.to_markdown());
}

#[test]
fn the_readme_shows_the_committed_study() {
    let study = fs::read_to_string(committed().join("report.md")).unwrap();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let part = readme.split_once("<!-- study -->\n").unwrap().1.split_once("<!-- /study -->").unwrap().0;
    let section = study.split_once("## Final test accuracy and loss\n\n").unwrap().1;
    let tables: Vec<&str> = section.lines().take_while(|line| !line.starts_with("Ours is")).collect();
    assert_eq!(part.trim(), tables.join("\n").trim());
    let headline = study.lines().nth(2).unwrap();
    assert!(readme.contains(headline), "README.md lacks: {headline}");
}

#[test]
fn the_committed_study_names_no_folder_of_a_machine() {
    for run in runs() {
        let folder = run.config.data_dir.unwrap_or_default();
        assert!(folder.components().count() <= 1, "{}", folder.display());
        assert!(!run.environment.data_source.contains(['/', '\\']), "{}", run.environment.data_source);
    }
}
