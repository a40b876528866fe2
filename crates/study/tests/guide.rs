//! `docs/own-study.md`: its files can be read, and its table has every key.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_network::Network;
use pointwise_study::Study;
use std::fs;

const GUIDE: &str = include_str!("../../../docs/own-study.md");

/// The guide's files: a network, a study, and parts that may follow it.
fn files() -> Vec<&'static str> {
    GUIDE.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn its_files_are_a_network_and_a_study() {
    let folder = tempfile::tempdir().unwrap();
    let (network, rest) = files().split_first().map(|(first, rest)| (*first, rest.to_vec())).unwrap();
    fs::write(folder.path().join("mine.toml"), network).unwrap();
    let study = Study::from_toml(rest[0], folder.path()).unwrap_or_else(|error| panic!("{error}"));
    let parameters = |network: &Network| network.graph().unwrap().parameter_count() as u64;
    let [mine, lenet] = &study.arms[..] else { panic!("{} networks", study.arms.len()) };
    assert_eq!(mine.published.parameters, Some(parameters(&mine.network)));
    // `lenet` is adapted to three classes before it is counted.
    let ratio = parameters(&lenet.network.clone().with_classes(3)) as f64 / parameters(&mine.network) as f64;
    assert!((study.claims[1].published.unwrap() - ratio).abs() < 0.05, "{ratio}");

    let adam = Study::from_toml(&[rest[0], rest[1]].concat(), folder.path()).unwrap();
    assert_eq!(adam.arms[2].name, "mine-adam");
    // A varied study has no published figures.
    let (start, _) = rest[0].split_once("[[networks]]").unwrap();
    let varied = Study::from_toml(&[start, rest[2]].concat(), folder.path()).unwrap();
    let names: Vec<&str> = varied.arms.iter().map(|arm| arm.name.as_str()).collect();
    assert_eq!((names.len(), names[0], names[5]), (6, "resnet20-lr0.1-plain", "resnet20-lr0.001-cropped"));
    let compared = Study::from_toml(&[start, rest[2], rest[3]].concat(), folder.path()).unwrap();
    assert_eq!(compared.effects[0].pairs.len(), 3);
    assert_eq!(rest.len(), 4);
}

#[test]
fn its_table_has_every_key() {
    let schema = Study::json_schema();
    let table = GUIDE.split_once("## All keys").unwrap().1;
    let keys = |schema: &serde_json::Value| -> Vec<String> {
        schema["properties"].as_object().unwrap().keys().cloned().collect()
    };
    let mut all = keys(&schema);
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        let own = [
            "Grid",
            "Vary",
            "FilePublished",
            "FileFigure",
            "FileClaim",
            "FileEffect",
            "Primary",
            "Curves",
            "Source",
            "DataSource",
        ];
        if own.contains(&name.as_str()) {
            all.extend(keys(definition));
        }
    }
    all.extend(["network", "name", "dropout", "recipe"].map(str::to_owned));
    assert!(all.len() > 40, "{all:?}");
    let quoted = |key: &String| [format!("`{key}`"), format!("[{key}]"), format!(".{key}]")];
    let missing: Vec<&String> =
        all.iter().filter(|key| !quoted(key).iter().any(|key| table.contains(key.as_str()))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
