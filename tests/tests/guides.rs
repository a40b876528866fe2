//! The pages in `docs/` for readers who do not program: the commands that they show are run.

use pointwise_tests::{command, succeed};
use std::fs;
use std::path::Path;

/// The code blocks of a language in a page.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let text = fs::read_to_string(file).expect("the page is there");
    let fence = format!("```{language}\n");
    let parts = text.split(&fence).skip(1);
    parts.map(|part| part.split("```").next().expect("a block ends").to_owned()).collect()
}

/// The lines of a page's shell blocks that call the trainer, as words.
fn calls(page: &str) -> Vec<Vec<String>> {
    let lines = blocks(page, "sh").concat();
    let calls = lines.lines().filter(|line| line.starts_with("trainer "));
    let calls = calls.map(|line| line.replace("--epochs 30", "--epochs 3"));
    calls.map(|line| line.split_whitespace().skip(1).map(str::to_owned).collect()).collect()
}

/// Runs a line in a folder; it must succeed. A redirection is applied.
fn type_in(folder: &Path, words: &[String], more: &[&str]) -> String {
    type_for(folder, words, more, &[0])
}

/// As [`type_in`]; it must end with one of these exit codes.
fn type_for(folder: &Path, words: &[String], more: &[&str], codes: &[i32]) -> String {
    let (words, target) = match words.iter().position(|word| word == ">") {
        Some(at) => (&words[..at], words.get(at + 1)),
        None => (words, None),
    };
    let line = words.iter().map(String::as_str).chain(more.iter().copied());
    let output = command(line).current_dir(folder).output().expect("trainer can be started");
    let is_expected = output.status.code().is_some_and(|code| codes.contains(&code));
    assert!(is_expected, "{words:?}: {}, {}", output.status, String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("stdout is UTF-8");
    if let Some(target) = target {
        fs::write(folder.join(target), &text).expect("the folder can be written");
    }
    text
}

#[test]
fn a_network_of_ones_own() {
    /// In place of the download that the page describes.
    const DATA: [&str; 6] = ["--data", "synthetic", "--limit-train", "300", "--limit-test", "50"];

    let temp = tempfile::tempdir().unwrap();
    let files = blocks("own-network.md", "toml");
    let [network, recipe] = &files[..] else { panic!("a network and a recipe, not {}", files.len()) };
    fs::write(temp.path().join("sketch.toml"), network).unwrap();
    // Two epochs show the same as thirty.
    fs::write(temp.path().join("recipe.toml"), recipe.replace("epochs = 30", "epochs = 2")).unwrap();
    let calls = calls("own-network.md");
    assert!(calls.len() >= 4, "{calls:?}");
    for call in &calls {
        let more: &[&str] = if call[0] == "train" { &DATA } else { &[] };
        type_in(temp.path(), call, more);
    }
    let config = fs::read_to_string(temp.path().join("runs/sketch-sgd/config.toml")).unwrap();
    assert!(config.contains("nesterov = true") && config.contains("max_dims = 1"), "{config}");
    // The last paragraph.
    let again =
        ["train", "--config", "runs/sketch/config.toml", "--run-dir", "runs/again"].map(str::to_owned);
    type_in(temp.path(), &again, &[]);
    let weights = |run: &str| fs::read(temp.path().join(run).join("checkpoints/best.safetensors")).unwrap();
    assert!(weights("runs/sketch") == weights("runs/again"));
}

#[test]
fn the_whole_way() {
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("first.toml"), &blocks("guide.md", "toml")[0]).unwrap();
    let calls = calls("guide.md");
    assert!(calls.len() >= 8, "{calls:?}");
    for call in &calls {
        type_in(temp.path(), call, &[]);
    }
    let page = fs::read_to_string(temp.path().join("first.html")).unwrap();
    assert!(page.contains("first"), "{page}");
    for file in ["first.onnx", "first.pt"] {
        assert!(temp.path().join(file).is_file(), "{file}");
    }
}

#[test]
fn images_of_ones_own() {
    let temp = tempfile::tempdir().unwrap();
    // Five kinds of photographs, as in the page; each has a colour, and a size of its own.
    let classes = ["apple", "pear", "Birne im Korb", "\u{6843}", "\u{441}\u{43b}\u{438}\u{432}\u{430}"];
    for (number, class) in classes.iter().enumerate() {
        let folder = temp.path().join("photos/train").join(class);
        fs::create_dir_all(&folder).unwrap();
        for image in 0..15_u32 {
            let shade = |phase: usize| ((number * 50 + phase * 80) % 256) as u8;
            let picture = image::RgbImage::from_fn(40 + image, 60 - image, |x, y| {
                let noise = ((x * 7 + y * 13 + image * 29) % 32) as u8;
                image::Rgb([0, 1, 2].map(|phase| shade(phase).saturating_add(noise)))
            });
            picture.save(folder.join(format!("IMG_{image:04}.jpg"))).unwrap();
        }
    }
    let unknown = temp.path().join("photos/train/apple/IMG_0000.jpg");
    for name in ["photo1.jpg", "photo2.png"] {
        image::open(&unknown).unwrap().save(temp.path().join(name)).unwrap();
    }
    let calls = calls("own-images.md");
    assert!(calls.len() >= 4, "{calls:?}");
    let mut said = String::new();
    for call in &calls {
        let more: &[&str] = if call[0] == "train" { &["--batch-size", "10"] } else { &[] };
        said += &type_in(temp.path(), call, more);
    }
    let page = fs::read_to_string(temp.path().join("fruit.html")).unwrap();
    for class in classes {
        assert!(said.contains(class) && page.contains(class), "{class} in {said}");
    }
    // The network with larger images.
    let toml = succeed(["summary", "--model", "resnet20", "--toml"]);
    let larger = toml.replace("[3, 32, 32]", "[3, 64, 64]").replace("out_features = 10", "out_features = 5");
    fs::write(temp.path().join("mine.toml"), larger).unwrap();
    let line =
        "train --model ./mine.toml --data folder --data-dir photos --test-split 0.2 --run-dir runs/larger";
    let line: Vec<String> = line.split(' ').map(str::to_owned).collect();
    type_in(temp.path(), &line, &["--epochs", "1", "--batch-size", "10"]);
}

#[test]
fn a_study_of_ones_own() {
    let temp = tempfile::tempdir().unwrap();
    let files = blocks("own-study.md", "toml");
    fs::write(temp.path().join("mine.toml"), &files[0]).unwrap();
    fs::write(temp.path().join("my-study.toml"), &files[1]).unwrap();
    for (number, class) in ["apples", "pears", "plums"].iter().enumerate() {
        for (set, images) in [("train", 0..8_u32), ("test", 8..12)] {
            let folder = temp.path().join("photos").join(set).join(class);
            fs::create_dir_all(&folder).unwrap();
            for image in images {
                let picture = image::RgbImage::from_fn(32, 32, |x, y| {
                    let noise = ((x * 7 + y * 13 + image * 29) % 64) as u8;
                    image::Rgb([0, 1, 2].map(|colour| if colour == number { 180 } else { noise }))
                });
                picture.save(folder.join(format!("{image}.png"))).unwrap();
            }
        }
    }
    // A few coloured images cannot match the page's published figures: other epochs are not comparable, and the study differs.
    let codes = |call: &[String]| match call.iter().any(|word| word == "--epochs") {
        true => 4,
        false if call[0] == "reproduce" || call[1] == "report" => 3,
        false => 0,
    };
    let calls = calls("own-study.md");
    assert!(calls.len() >= 5, "{calls:?}");
    let mut said = String::new();
    for call in &calls {
        said += &type_for(temp.path(), call, &[], &[codes(call)]);
    }
    assert!(said.contains("10 runs: 2 networks, seeds 1, 2, 3, 4, 5"), "{said}");
    assert!(said.contains("10 runs: 10 finished") && said.contains("Different: "), "{said}");
    // The folder can be moved, without the files that it came from.
    let page = fs::read_to_string(temp.path().join("fruit/report.html")).unwrap();
    for text in
        ["Two small networks on photographs of fruit", "A. Gardener", "Our network is better than LeNet-5"]
    {
        assert!(page.contains(text), "{text}");
    }
    let elsewhere = tempfile::tempdir().unwrap();
    fs::rename(temp.path().join("fruit"), elsewhere.path().join("moved")).unwrap();
    drop(temp);
    let again = ["study", "report", "moved"].map(str::to_owned);
    type_for(elsewhere.path(), &again, &[], &[3]);
    assert!(page == fs::read_to_string(elsewhere.path().join("moved/report.html")).unwrap());
}

#[test]
fn weights_for_other_programs() {
    let temp = tempfile::tempdir().unwrap();
    let train = "train --model nin --data synthetic --limit-train 8 --limit-test 4 --batch-size 4 --epochs 1 --run-dir runs/nin";
    type_in(temp.path(), &train.split(' ').map(str::to_owned).collect::<Vec<_>>(), &[]);
    for call in calls("export.md") {
        type_in(temp.path(), &call, &[]);
    }
    for file in ["nin.pt", "nin.safetensors", "nin.onnx", "nin-hub/README.md"] {
        assert!(temp.path().join(file).is_file(), "{file}");
    }
}
