//! Data sets in their authors' formats, and folders with their own classes, through the real binary.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use image::{Rgb, RgbImage};
use pointwise_tests::{command, fail, succeed};
use serde_json::Value;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

/// An idx file.
fn idx(dimensions: &[u32], values: impl Iterator<Item = u8>) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
    dimensions.iter().for_each(|side| bytes.extend(side.to_be_bytes()));
    bytes.extend(values);
    bytes
}

/// MNIST's four files with this many images; image i is the digit `i % 10`.
fn write_mnist(folder: &Path, train: u32, test: u32) {
    fs::create_dir_all(folder).unwrap();
    for (set, count) in [("train", train), ("t10k", test)] {
        let image = |i: u32| (0..784u32).map(move |place| (place * (i % 10 + 3) + 41 * i) as u8);
        let images = idx(&[count, 28, 28], (0..count).flat_map(image));
        fs::write(folder.join(format!("{set}-images-idx3-ubyte")), images).unwrap();
        let labels = idx(&[count], (0..count).map(|i| (i % 10) as u8));
        fs::write(folder.join(format!("{set}-labels-idx1-ubyte")), labels).unwrap();
    }
}

/// CIFAR-100's two files; record i has the coarse label `i % 20` and the fine one `i % 100`.
fn write_cifar100(folder: &Path, train: usize, test: usize) {
    fs::create_dir_all(folder).unwrap();
    for (name, count) in [("train.bin", train), ("test.bin", test)] {
        let record = |i: usize| {
            let pixels = (0..3072).map(move |place| (place * (i % 7 + 3) + 41 * i) as u8);
            [(i % 20) as u8, (i % 100) as u8].into_iter().chain(pixels)
        };
        fs::write(folder.join(name), (0..count).flat_map(record).collect::<Vec<u8>>()).unwrap();
    }
}

/// A small network for images of that shape.
fn network(folder: &Path, shape: [usize; 3], classes: usize) -> PathBuf {
    let path = folder.join(format!("net-{classes}.toml"));
    let text = format!(
        r#"
name = "small"
input = {shape:?}
layers = [
    {{ name = "conv", Conv2d = {{ out_channels = 8, kernel_size = 3, padding = 1 }} }}, "ReLU",
    "AdaptiveAvgPool2d", "Flatten", {{ name = "fc", Linear = {{ out_features = {classes} }} }},
]
"#
    );
    fs::write(&path, text).unwrap();
    path
}

/// The rows of a table of classes: name, training and test images.
fn class_table(stats: &str) -> Vec<(String, u32, u32)> {
    let rows = stats.lines().skip_while(|line| !line.starts_with("class ")).skip(1);
    rows.map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name @ .., train, test] = &words[..] else { panic!("{line}") };
        (name.join(" "), train.parse().unwrap(), test.parse().unwrap())
    })
    .collect()
}

#[test]
fn mnist_is_described_verified_and_trained_on() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    write_mnist(&data.join("MNIST/raw"), 40, 20);
    let of = |command: &str| {
        let command = command.to_owned();
        let data = text(&data).to_owned();
        move |kind: &str| ["data", &command, "--data", kind, "--data-dir", &data].map(str::to_owned)
    };
    let stats = succeed(of("stats")("mnist"));
    assert!(stats.starts_with("source       MNIST files in "), "{stats}");
    assert!(stats.contains("images       40 train, 20 test\ngrey         mean 0."), "{stats}");
    assert_eq!(stats.lines().filter(|line| line.ends_with(" 2")).count(), 10, "{stats}");
    let report = succeed(of("verify")("mnist"));
    assert_eq!(report.matches("-ubyte ").count(), 4, "{report}");
    assert!(report.ends_with("every file is whole and valid\n"), "{report}");

    let (model, run) = (network(temp.path(), [1, 28, 28], 10), temp.path().join("run"));
    let line = ["train", "--model", text(&model), "--data", "mnist", "--data-dir", text(&data)];
    succeed(line.into_iter().chain(["--epochs", "1", "--batch-size", "8", "--run-dir", text(&run)]));
    let config = fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("0.1307") && config.contains("0.3081"), "{config}");

    // The message names the faulty file, and says how to get it again.
    let labels = data.join("MNIST/raw/t10k-labels-idx1-ubyte");
    fs::write(&labels, idx(&[19], (0..19).map(|i| i % 10))).unwrap();
    let message = fail(1, of("stats")("mnist"));
    assert!(message.contains("t10k-labels-idx1-ubyte has 19 labels: copy or fetch both again"), "{message}");
    let fetch = format!("`trainer data fetch --data mnist --data-dir {}`", data.display());
    assert!(message.contains(&fetch), "{message}");
    let message = fail(1, of("verify")("mnist"));
    assert!(message.contains("t10k-labels-idx1-ubyte has 19 labels"), "{message}");
    fs::remove_file(&labels).unwrap();
    let message = fail(1, of("stats")("fashion-mnist"));
    assert!(message.contains("no Fashion-MNIST in "), "{message}");
}

#[test]
fn cifar100_has_fine_and_coarse_labels() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    write_cifar100(&data.join("cifar-100-binary"), 200, 100);
    let stats =
        |kind: &str| class_table(&succeed(["data", "stats", "--data", kind, "--data-dir", text(&data)]));
    let fine = stats("cifar100");
    assert_eq!((fine.len(), &fine[0]), (100, &("apple".to_owned(), 2, 1)));
    assert_eq!((fine[30].0.as_str(), fine[99].0.as_str()), ("dolphin", "worm"));
    let coarse = stats("cifar100-coarse");
    assert_eq!((coarse.len(), &coarse[0]), (20, &("aquatic_mammals".to_owned(), 10, 5)));
    assert_eq!(coarse[19].0, "vehicles_2");
    succeed(["data", "verify", "--data", "cifar100-coarse", "--data-dir", text(&data)]);
    let message = fail(1, ["data", "stats", "--data-dir", text(&data)]);
    assert!(message.contains("cifar-100-binary is the binary version of CIFAR-100"), "{message}");
}

const CLASSES: [&str; 7] = ["Zebra", "cat", "chow chow", "été d'or", "кошка", "собака", "犬"];

/// A folder with this many images of seven classes.
fn write_folder(folder: &Path, sets: &[(&str, u32)]) {
    for (set, count) in sets {
        for (class, name) in CLASSES.iter().enumerate() {
            fs::create_dir_all(folder.join(set).join(name)).unwrap();
            for i in 0..*count {
                let shade = (30 * class) as u8;
                let image = RgbImage::from_fn(20 + i, 17, |x, y| {
                    Rgb([shade, (x * 7 + i) as u8, (y * 9).wrapping_sub(i) as u8])
                });
                image.save(folder.join(set).join(name).join(format!("{i}.png"))).unwrap();
            }
        }
    }
}

#[test]
fn a_folder_of_seven_classes_in_three_scripts_trains_reports_and_predicts_with_its_own_names() {
    let temp = tempfile::tempdir().unwrap();
    let (data, run) = (temp.path().join("my pictures"), temp.path().join("run"));
    write_folder(&data, &[("train", 4), ("test", 2)]);
    let model = network(temp.path(), [3, 12, 14], 7);
    let source = ["--data", "folder", "--data-dir", text(&data)];
    let stats = succeed(["data", "stats"].iter().chain(&source).chain(&["--model", text(&model)]));
    let expected: Vec<_> = CLASSES.iter().map(|name| ((*name).to_owned(), 4, 2)).collect();
    assert_eq!(class_table(&stats), expected);
    let verified = succeed(["data", "verify"].iter().chain(&source));
    assert!(verified.starts_with("28 training and 14 test images of 7 classes: "), "{verified}");

    let line =
        ["train", "--model", text(&model), "--epochs", "2", "--batch-size", "7", "--run-dir", text(&run)];
    succeed(line.iter().chain(&source));
    let best = run.join("checkpoints/best.safetensors");
    succeed(["eval", "--checkpoint", text(&best)].iter().chain(&source));
    let image = data.join("test/犬/1.png");
    let said = succeed(["predict", "--checkpoint", text(&best), text(&image), "--json"]);
    let said: Value = serde_json::from_str(&said).unwrap();
    let probabilities = said[0]["probabilities"].as_object().unwrap();
    let mut names: Vec<&str> = probabilities.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, CLASSES);
    assert!(CLASSES.contains(&said[0]["class"].as_str().unwrap()), "{said}");
    let table = succeed(["predict", "--checkpoint", text(&best), text(&image)]);
    assert!(CLASSES.iter().all(|name| table.contains(name)), "{table}");
    let page = temp.path().join("report.html");
    succeed(["report", text(&run), "--out", text(&page)]);
    let page = fs::read_to_string(page).unwrap();
    for name in CLASSES.map(|name| name.replace('\'', "&#39;")) {
        assert!(page.contains(&name), "{name} is not in the report");
    }
    let config = fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(CLASSES.iter().all(|name| config.contains(name)), "{config}");
}

#[test]
fn a_folder_without_test_images_has_some_split_off() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    write_folder(&data, &[("train", 5)]);
    let stats = |more: &[&str]| {
        let line = ["data", "stats", "--data", "folder", "--data-dir", text(&data)];
        line.iter().chain(more).map(|word| (*word).to_owned()).collect::<Vec<_>>()
    };
    let message = fail(1, stats(&[]));
    assert!(message.contains("has no folder test") && message.contains("--test-split"), "{message}");
    let expected: Vec<_> = CLASSES.iter().map(|name| ((*name).to_owned(), 4, 1)).collect();
    assert_eq!(class_table(&succeed(stats(&["--test-split", "0.2"]))), expected);
    let first = succeed(stats(&["--test-split", "7"]));
    assert_eq!(class_table(&first), expected);
    assert_eq!(succeed(stats(&["--test-split", "0.2", "--data-seed", "42"])), first);
    assert_ne!(succeed(stats(&["--test-split", "0.2", "--data-seed", "43"])), first);
    let message = fail(1, stats(&["--test-split", "29"]));
    assert!(message.contains("can be 1 to 28"), "{message}");
    let message = fail(2, stats(&["--test-split", "1.5"]));
    assert!(message.contains("a share of the images above 0 and below 1"), "{message}");
    let message = fail(1, ["data", "stats", "--data", "synthetic", "--test-split", "0.2"]);
    assert!(message.contains("--test-split is for --data folder"), "{message}");
    let message = fail(1, ["data", "stats", "--data", "folder"]);
    assert!(message.contains("--data-dir"), "{message}");
}

#[test]
fn what_is_not_fetched_says_so_and_each_data_set_has_a_cache_of_its_own() {
    for (kind, expected) in [
        ("folder", "put them into train/<class> and test/<class>"),
        ("synthetic", "there is nothing to fetch"),
        ("huggingface", "is fetched when it is used"),
    ] {
        let message = fail(1, ["data", "fetch", "--data", kind]);
        assert!(message.contains(expected), "{message}");
    }
    let message = fail(1, ["data", "verify", "--data", "synthetic"]);
    assert!(message.contains("there is nothing to verify"), "{message}");

    // Nothing listens at the proxy's address.
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap();
    let cache = tempfile::tempdir().unwrap();
    for (kind, folder, file) in [
        ("cifar100", "cifar100", "cifar-100-binary.tar.gz"),
        ("cifar100-coarse", "cifar100", "cifar-100-binary.tar.gz"),
        ("mnist", "mnist", "train-images-idx3-ubyte.gz"),
        ("fashion-mnist", "fashion-mnist", "train-images-idx3-ubyte.gz"),
    ] {
        let mut command = command(["data", "fetch", "--data", kind]);
        for variable in
            ["all_proxy", "HTTP_PROXY", "http_proxy", "https_proxy", "HTTPS_PROXY", "NO_PROXY", "no_proxy"]
        {
            command.env_remove(variable);
        }
        command.env("ALL_PROXY", format!("http://{closed}")).env("XDG_CACHE_HOME", cache.path());
        // It is for CIFAR-10 alone.
        let output = command.env("CIFAR10_DIR", "/nowhere").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("error: could not download {file} (http")), "{said}");
        assert!(cache.path().join("pointwise").join(folder).is_dir(), "{kind}");
    }
}

#[test]
fn synthetic_classes_are_named_after_what_is_drawn() {
    let temp = tempfile::tempdir().unwrap();
    let stats = |model: &Path| succeed(["data", "stats", "--data", "synthetic", "--model", text(model)]);
    let names = |table: &str| class_table(table).into_iter().map(|(name, ..)| name).collect::<Vec<_>>();
    let ten = names(&succeed(["data", "stats", "--data", "synthetic"]));
    assert_eq!((ten.len(), ten[2].as_str()), (10, "square"));
    let thirty = names(&stats(&network(temp.path(), [1, 9, 8], 30)));
    assert_eq!((thirty.len(), thirty[12].as_str()), (30, "light square, top left"));
}

#[cfg(target_os = "linux")]
#[test]
fn files_that_claim_more_than_there_is_take_no_memory() {
    use pointwise_tests::{clean, trainer};
    use std::io::Write;
    use std::process::Command;

    let temp = tempfile::tempdir().unwrap();
    let data = temp.path();
    write_mnist(data, 20, 10);
    // Two gigabytes of zeros after a header that declares 20 images, compressed to two megabytes.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&idx(&[20, 28, 28], std::iter::empty())).unwrap();
    for _ in 0..2048 {
        encoder.write_all(&[0; 1 << 20]).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    let cases: [(&str, Vec<u8>, &str); 3] = [
        (
            "train-images-idx3-ubyte",
            idx(&[u32::MAX, 28, 28], std::iter::empty()),
            "says that it has 4294967295 images",
        ),
        (
            "t10k-images-idx3-ubyte",
            idx(&[10, u32::MAX, u32::MAX], std::iter::empty()),
            "has images of another size",
        ),
        ("train-images-idx3-ubyte.gz", bomb, "continues after the 20 images"),
    ];
    for (name, contents, expected) in cases {
        fs::write(data.join(name), contents).unwrap();
        let mut shell = Command::new("timeout");
        shell.args(["60", "sh", "-c", "ulimit -v 400000 && exec \"$@\"", "sh"]).arg(trainer());
        let output =
            clean(shell, ["data", "stats", "--data", "mnist", "--data-dir", text(data)]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(expected) && !said.contains("panicked"), "{said}");
        write_mnist(data, 20, 10);
    }
}
