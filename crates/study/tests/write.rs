//! Studies written into the folder of their runs, and read back.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use std::fs;
use std::path::Path;

use pointwise_study::Study;

/// Written and read back.
fn again(study: &Study) -> Study {
    let folder = tempfile::tempdir().unwrap();
    study.write(folder.path()).unwrap();
    Study::read(&folder.path().join("study.toml"))
        .unwrap_or_else(|error| panic!("{error}\n{}", study.to_toml()))
}

#[test]
fn every_shipped_study_is_read_back_as_it_was() {
    for name in Study::shipped() {
        let study = Study::by_name(name).unwrap();
        assert_eq!(again(&study), study, "{name}");
    }
}

/// Everything that a file may hold, and text that is hard to write.
const ODD: &str = r#"
    name = "odd"
    title = "A \"title\" of \\ ' and \u00e4"
    question = """
One paragraph.

Another, with a "quotation", a \\ and three quotes: \"\"\"
"""
    conclusion = "It ends\nin two lines"
    record = "old.json"
    [source]
    title = "T"
    author = "A"
    year = 1999
    link = "https://example.org/?a=1&b=%20"
    licence = "CC BY 4.0"
    note = "\tA tab"
    [data]
    kind = "folder"
    dir = "my images"
    test-split = "500"
    val-split = 100
    data-seed = 7
    limit-train = 1000
    limit-test = 100
    train-images = 900
    test-images = 100
    [recipe]
    epochs = 3
    batch-size = 4
    optimizer = { SGD = { lr = 1e-7, momentum = 0.9 } }
    schedule = { MultiStepLR = { milestones = [1, 2] } }
    warmup = { steps = 5 }
    early-stopping = { patience = 2 }
    parameter-groups = [{ max_dims = 1, weight_decay = 0 }]
    normalise = { mean = [0.1, 0.2, 0.3], std = [1, 1, 1] }
    [grid]
    seeds = [9223372036854775807, 0, 3]
    [[grid.vary]]
    key = "recipe.augment"
    values = ["none", { crop = 2 }]
    [[networks]]
    network = "alexnet_plain"
    dropout = 0.123
    [[networks]]
    network = "nin"
    name = "A.b_c+d=e-9"
    recipe = { epochs = 5, label-smoothing = 0.1, warmup = false, parameter-groups = [] }
    [[networks]]
    [networks.network]
    name = "own"
    about = "A network\nof \"two\" lines"
    input = [3, 8, 8]
    layers = [
        { name = "block", repeat = 1, Sequential = [{ Conv2d = { out_channels = 4, kernel_size = [1, 3] } }, "BatchNorm2d"] },
        { Sum = [[], [{ name = "x", Conv2d = { out_channels = 4, kernel_size = 1 } }]] },
        "Flatten",
        { Linear = { out_features = 3 } },
    ]
    initial = [{ layer = "Linear", parameter = "weight", rule = { normal = 0.01 } }]
    [[primary]]
    metric = "test-acc"
    margin = 0.5
    reason = "R"
    [[primary]]
    metric = "train-loss"
    epoch = 2
    margin = 1e-3
    [[published]]
    network = "own-augmentnone"
    parameters = 123
    runs = 3
    figures = [
        { metric = "test-acc", value = "70.00", deviation = 0.25 },
        { metric = "test-acc", epoch = 2, value = 69.5, runs = 1 },
        { metric = "test-loss", value = "0.30000000000000004000", at-least = true },
        { metric = "train-loss", epoch = 2, value = 0 },
    ]
    curves = { train-acc = [1, 2, 3], test-acc = [60.5, 69.25], test-loss = [] }
    [[published]]
    network = "A.b_c+d=e-9-augmentcrop2"
    curves = { test-loss = [1e-5, 0.5, 2, 1, 0.1] }
    [[published]]
    network = "alexnet_plain-augmentnone"
    parameters = 4
    [[claims]]
    kind = "ratio"
    of = "parameters"
    network = "own-augmentnone"
    to = "alexnet_plain-augmentnone"
    [[claims]]
    kind = "difference"
    of = "train-loss"
    network = "own-augmentnone"
    to = "own-augmentcrop2"
    published = -0.25
    margin = 0.1
    reason = "R"
    text = "T"
    [[effects]]
    name = "a \"change\""
    networks = ["own-augmentnone", "own-augmentcrop2"]
    to = ["alexnet_plain-augmentnone", "alexnet_plain-augmentcrop2"]
"#;

#[test]
fn an_odd_study_is_read_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("old.json"), "{ \"a\": [1] }\n").unwrap();
    let study = Study::from_toml(ODD, folder.path()).unwrap();
    assert_eq!(study.arms.len(), 6);
    assert!(study.arms[2].recipe.warmup.is_none() && study.recipe.warmup.is_some());
    let copy = again(&study);
    for (copied, arm) in copy.arms.iter().zip(&study.arms) {
        assert_eq!(copied, arm);
    }
    assert_eq!(copy, study);
    // And the copy of a copy.
    assert_eq!(copy.to_toml(), study.to_toml());
}

#[test]
fn a_file_without_anything_is_read_back_as_it_was() {
    let text = "name = \"a\"\ntitle = \"A\"\ndata = { kind = \"synthetic\" }\nrecipe = { epochs = 1, batch-size = 1, optimizer = \"SGD\" }\nnetworks = [{ network = \"nin\" }]";
    let study = Study::from_toml(text, Path::new(".")).unwrap();
    assert_eq!(again(&study), study);
    let folder = tempfile::tempdir().unwrap();
    study.write(folder.path()).unwrap();
    assert!(!folder.path().join("record.json").exists());
}

/// The copy needs only the files next to it, wherever it is taken.
#[test]
fn a_copy_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("there")).unwrap();
    fs::write(path("net.toml"), "name = \"net\"\ninput = [3, 2, 2]\nlayers = [\"Flatten\"]").unwrap();
    fs::write(
        path("study.toml"),
        "name = \"a\"\ntitle = \"A\"\ndata = { kind = \"folder\", dir = \"images\" }\nrecipe = { epochs = 1, batch-size = 1, optimizer = \"SGD\" }\nnetworks = [{ network = \"net.toml\" }]",
    )
    .unwrap();
    let study = Study::read(&path("study.toml")).unwrap();
    study.write(&path("there")).unwrap();
    fs::remove_file(path("net.toml")).unwrap();
    assert_eq!(Study::read(&path("there/study.toml")).unwrap(), study);
}

#[test]
fn what_is_there_already_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let study = Study::by_name("pointwise").unwrap();
    study.write(folder.path()).unwrap();
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(), ["record.json", "study.toml"]);
    let before: Vec<_> = ["record.json", "study.toml"]
        .map(|name| fs::metadata(folder.path().join(name)).unwrap().modified().unwrap())
        .into();
    #[cfg(unix)]
    let inodes = || {
        use std::os::unix::fs::MetadataExt;
        ["record.json", "study.toml"].map(|name| fs::metadata(folder.path().join(name)).unwrap().ino())
    };
    #[cfg(unix)]
    let first = inodes();
    study.write(folder.path()).unwrap();
    #[cfg(unix)]
    assert_eq!(inodes(), first);
    let after: Vec<_> = ["record.json", "study.toml"]
        .map(|name| fs::metadata(folder.path().join(name)).unwrap().modified().unwrap())
        .into();
    assert_eq!(after, before);
    // And one with other content is replaced.
    Study { title: "Another".to_owned(), ..study.clone() }.write(folder.path()).unwrap();
    assert_eq!(Study::read(&folder.path().join("study.toml")).unwrap().title, "Another");
    let error = study.write(&folder.path().join("none")).unwrap_err().to_string();
    assert!(error.contains("none"), "{error}");
}
