//! The everyday tools around a run, through the real binary: configuration files, predictions, lists, comparisons, watching.

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use pointwise_tests::{checkpoint, command, fail, metrics, run, succeed};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

/// A short training: 2 epochs of 3 steps on synthetic images.
const SHORT: &str = "data = \"synthetic\"\nlimit-train = 10\nlimit-test = 6\nbatch-size = 4\nepochs = 2\nlog-every = 1\nseed = 7\n";

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

/// Trains `alexnet` from a configuration file, with more options typed.
fn short_run(folder: &Path, more: &[&str]) {
    let file = folder.with_extension("toml");
    fs::write(&file, SHORT).expect("the folder can be written");
    let line = ["train", "--model", "alexnet", "--config", text(&file), "--run-dir", text(folder)];
    succeed(line.iter().chain(more));
}

#[test]
fn a_run_is_repeated_from_its_written_configuration() {
    let temp = tempfile::tempdir().unwrap();
    let (first, again) = (temp.path().join("first"), temp.path().join("again"));
    short_run(&first, &["--lr", "0.01", "--shuffle", "false"]);
    let written = first.join("config.toml");
    assert!(fs::read_to_string(&written).unwrap().contains("lr = 0.01,"));
    succeed(["train", "--config", text(&written), "--run-dir", text(&again)]);
    for name in ["best", "last"] {
        assert!(checkpoint(&first, name) == checkpoint(&again, name), "{name}.safetensors differs");
    }
    assert_eq!(metrics(&first), metrics(&again));
    assert_eq!(fs::read(&written).unwrap(), fs::read(again.join("config.toml")).unwrap());

    // Typed options win.
    let other = temp.path().join("other");
    succeed(["train", "--config", text(&written), "--run-dir", text(&other), "--seed", "8"]);
    assert!(checkpoint(&first, "last") != checkpoint(&other, "last"));

    // An initial checkpoint is checked against its recorded hash.
    let (started, weights) = (temp.path().join("started"), temp.path().join("start.safetensors"));
    fs::copy(first.join("checkpoints/best.safetensors"), &weights).unwrap();
    short_run(&started, &["--init", text(&weights)]);
    fs::copy(first.join("checkpoints/last.safetensors"), &weights).unwrap();
    let config = started.join("config.toml");
    let message = fail(1, ["train", "--config", text(&config), "--run-dir", text(&temp.path().join("no"))]);
    assert!(message.contains("start.safetensors is not the file that init-sha256 identifies"), "{message}");
}

#[test]
fn a_wrong_configuration_is_one_sentence() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("wrong.toml");
    for (content, words) in [
        ("colour = 1", "there is no option `colour`"),
        ("epochs = 0", "epochs = 0 is not valid"),
        ("epochs = true", "give a whole number"),
    ] {
        fs::write(&file, content).unwrap();
        let message = fail(1, ["train", "--model", "nin", "--config", text(&file)]);
        assert!(message.contains(words) && message.contains("wrong.toml"), "{message}");
    }
    let message = fail(1, ["train", "--model", "nin", "--config", "no/such.toml"]);
    assert!(message.contains("no/such.toml cannot be read"), "{message}");
}

/// Files that users have, and what is wrong with the bad ones.
fn images(folder: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let path = |name: &str| folder.join(name);
    let photo =
        RgbImage::from_fn(1600, 1200, |x, y| Rgb([(x / 7) as u8, (y / 5) as u8, ((x + y) / 11) as u8]));
    let alpha = RgbaImage::from_fn(300, 40, |x, y| Rgba([x as u8, y as u8, 9, (x / 2) as u8]));
    let grey = GrayImage::from_fn(50, 70, |x, y| Luma([(2 * x + y) as u8]));
    photo.save(path("a large photo.jpg")).expect("the folder can be written");
    alpha.save(path("alpha.png")).expect("the folder can be written");
    grey.save(path("grey.png")).expect("the folder can be written");
    DynamicImage::from(photo.clone())
        .save_with_format(path("photo.webp"), ImageFormat::WebP)
        .expect("the folder can be written");
    photo.save(path("cut.png")).expect("the folder can be written");
    let whole = fs::read(path("cut.png")).expect("the folder can be written");
    fs::write(path("cut.png"), &whole[..whole.len() / 2]).expect("the folder can be written");
    fs::write(path("text.png"), "no image").expect("the folder can be written");
    (
        ["a large photo.jpg", "alpha.png", "grey.png", "photo.webp"].map(path).into(),
        ["cut.png", "text.png", "missing.png"].map(path).into(),
    )
}

#[test]
fn images_that_people_have_are_predicted_and_bad_ones_named() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("run");
    short_run(&folder, &[]);
    let weights = folder.join("checkpoints/best.safetensors");
    let (good, bad) = images(temp.path());

    let line = ["predict", "--json", "--checkpoint", text(&weights)];
    let json = succeed(line.into_iter().chain(good.iter().map(|path| text(path))));
    let predictions: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(predictions.len(), good.len());
    for (prediction, path) in predictions.iter().zip(&good) {
        assert_eq!(prediction["image"], text(path));
        let probabilities = prediction["probabilities"].as_object().unwrap();
        let of = |class: &str| probabilities[class].as_f64().unwrap();
        assert_eq!(probabilities.len(), 10);
        assert!((probabilities.keys().map(|class| of(class)).sum::<f64>() - 1.0).abs() < 1e-9);
        let most = of(prediction["class"].as_str().unwrap());
        assert!(probabilities.keys().all(|class| of(class) <= most), "{prediction}");
    }
    // The same picture, lossless in one file and with little loss in the other.
    let [photo, webp] = [0, 3].map(|i: usize| predictions[i]["probabilities"]["disc"].as_f64().unwrap());
    assert!((photo - webp).abs() < 0.02, "{photo} {webp}");
    assert_ne!(predictions[0]["probabilities"], predictions[1]["probabilities"]);

    let output = run(line.into_iter().chain(bad.iter().chain(&good).map(|path| text(path))));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), json, "the good ones are predicted nevertheless");
    let stderr = String::from_utf8(output.stderr).unwrap();
    for path in &bad {
        assert!(stderr.lines().any(|line| line.contains(text(path))), "{stderr}");
    }
    assert!(
        stderr.contains("error: 3 of 7 images could not be read") && !stderr.contains("panicked"),
        "{stderr}"
    );

    let table = succeed(["predict", "--checkpoint", text(&weights), text(&good[2])]);
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(table.contains("two discs") && table.contains("grey.png"), "{table}");
}

#[test]
fn runs_are_listed_with_their_states_and_compared() {
    let temp = tempfile::tempdir().unwrap();
    let folder = |name: &str| temp.path().join("all/deeper").join(name);
    fs::create_dir_all(folder("")).unwrap();
    short_run(&folder("done"), &[]);
    short_run(&folder("stopped"), &["--max-steps", "4", "--lr", "0.01"]);
    // Killed: its last progress says that it is running.
    short_run(&folder("killed"), &["--max-steps", "2"]);
    let progress = folder("killed").join("progress.json");
    fs::write(&progress, fs::read_to_string(&progress).unwrap().replace("limited", "running")).unwrap();
    short_run(&folder("broken"), &[]);
    fs::write(folder("broken").join("config.toml"), "colour = 1").unwrap();

    let output = run(["runs", text(temp.path())]);
    assert!(output.status.success());
    let table = String::from_utf8(output.stdout.clone()).unwrap();
    for (name, state) in
        [("done", "finished"), ("stopped", "limited"), ("killed", "stale"), ("broken", "broken")]
    {
        let row = table.lines().find(|line| line.contains(name)).expect(name);
        assert!(row.contains(state), "{table}");
    }
    assert!(String::from_utf8_lossy(&output.stderr).contains("config.toml is not valid"), "{output:?}");
    let rows: Vec<serde_json::Value> =
        serde_json::from_str(&succeed(["runs", text(temp.path()), "--json"])).unwrap();
    assert_eq!(
        rows.iter().map(|row| row["epoch"].as_u64()).collect::<Vec<_>>(),
        [None, Some(2), Some(0), Some(1)]
    );

    let line = ["compare", text(&folder("done")), text(&folder("stopped"))].map(str::to_owned);
    let table = succeed(&line);
    let row = |name: &str| table.lines().find(|line| line.starts_with(name)).expect(name).to_owned();
    assert!(
        row("optimizer.Adam.lr").contains("0.001") && row("optimizer.Adam.lr").contains("0.01"),
        "{table}"
    );
    assert!(!table.contains("batch-size"), "only differences are shown: {table}");
    let accuracy = metrics(&folder("done"))[7]["test_acc"].as_f64().unwrap();
    assert!(row("final test accuracy %").contains(&format!("{:.2}", 100.0 * accuracy)), "{table}");
    let csv = succeed(line.iter().map(String::as_str).chain(["--csv"]));
    assert_eq!(csv.lines().count(), 1 + 2 + 1, "a title, two epochs and one: {csv}");
    let json: serde_json::Value =
        serde_json::from_str(&succeed(line.iter().map(String::as_str).chain(["--json"]))).unwrap();
    assert_eq!(json["differences"]["max-steps"], serde_json::json!(["-", "4"]));

    let message = fail(1, line.iter().map(String::as_str).chain([text(&folder("broken"))]));
    assert!(message.contains("1 of 3 runs could not be read"), "{message}");
}

#[test]
fn a_run_of_another_process_is_watched_to_its_end() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("run");
    let file = temp.path().join("run.toml");
    fs::write(&file, SHORT.replace("limit-train = 10", "limit-train = 200")).unwrap();
    let line =
        ["train", "--model", "alexnet", "--config", text(&file), "--run-dir", text(&folder), "--quiet"];
    let mut child = command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !folder.join("config.toml").is_file() {
        assert!(child.try_wait().unwrap().is_none(), "the training ended before it began");
        thread::sleep(Duration::from_millis(10));
    }
    let watched = run(["watch", text(&folder)]);
    let trained = child.wait_with_output().unwrap();
    assert!(watched.status.success(), "{watched:?}");
    assert_eq!(watched.stdout, trained.stdout, "the same lines");
    assert_eq!(watched.stdout.iter().filter(|byte| **byte == b'\n').count(), 3);
    assert!(!String::from_utf8_lossy(&trained.stderr).contains("images/s"), "quiet: {trained:?}");
    // No colours and no cursor movements in a pipe.
    assert!(!watched.stdout.contains(&0x1b) && !watched.stderr.contains(&0x1b));

    let stopped = temp.path().join("stopped");
    short_run(&stopped, &["--max-steps", "1"]);
    let watched = run(["watch", text(&stopped)]);
    let said = String::from_utf8_lossy(&watched.stderr).into_owned();
    assert!(watched.status.success() && said.contains("stopped at --max-steps"), "as was asked: {said}");
    assert!(fail(1, ["watch", text(temp.path())]).contains("holds no run"));
}

/// A photograph as a camera held on its side writes it: EXIF data before the pixels says how to turn it.
fn camera_photo(upright: &RgbImage) -> Vec<u8> {
    // A quarter turn to the right is the sixth orientation.
    let lying = image::imageops::rotate270(upright);
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 95).encode_image(&lying).expect("an image can be encoded");
    let tiff: &[u8] = &[
        b'M', b'M', 0, 42, 0, 0, 0, 8, // big-endian, the first directory follows
        0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, 6, 0, 0, // one entry: orientation, a short, 6
        0, 0, 0, 0, // no further directory
    ];
    let length = (2 + 6 + tiff.len()) as u16;
    let segment = [&[0xff, 0xe1][..], &length.to_be_bytes(), b"Exif\0\0", tiff].concat();
    [&jpeg[..2], &segment, &jpeg[2..]].concat()
}

#[test]
fn photographs_are_turned_upright_and_odd_kinds_of_pixels_read() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("run");
    short_run(&folder, &[]);
    let weights = folder.join("checkpoints/best.safetensors");
    // Wide, with a different colour in each corner.
    let photo = RgbImage::from_fn(641, 427, |x, y| {
        Rgb([(x / 3) as u8, (y / 2) as u8, if x > 320 && y < 200 { 220 } else { 30 }])
    });
    let path = |name: &str| temp.path().join(name);
    photo.save(path("upright.png")).unwrap();
    fs::write(path("camera.jpg"), camera_photo(&photo)).unwrap();
    image::imageops::rotate270(&photo).save(path("lying.png")).unwrap();
    // The same picture with an alpha channel that hides half of it, and with 16 bits a channel.
    let with_alpha = RgbaImage::from_fn(641, 427, |x, y| {
        let Rgb([r, g, b]) = *photo.get_pixel(x, y);
        Rgba([r, g, b, if x < 300 { 0 } else { 255 }])
    });
    with_alpha.save(path("alpha.png")).unwrap();
    DynamicImage::from(photo.clone()).into_rgb16().save(path("deep.png")).unwrap();
    // Grey, once as such and once with three equal channels; one pixel; very wide.
    let grey = GrayImage::from_fn(90, 33, |x, y| Luma([(2 * x + y) as u8]));
    grey.save(path("grey.jpg")).unwrap();
    DynamicImage::from(DynamicImage::from(grey).into_rgb8()).save(path("grey.png")).unwrap();
    RgbImage::from_pixel(1, 1, Rgb([9, 99, 199])).save(path("pixel.png")).unwrap();
    RgbImage::from_fn(3000, 2, |x, _| Rgb([x as u8, 0, 0])).save(path("strip.webp")).unwrap();

    let names = [
        "upright.png",
        "camera.jpg",
        "lying.png",
        "alpha.png",
        "deep.png",
        "grey.jpg",
        "grey.png",
        "pixel.png",
        "strip.webp",
    ];
    let line = ["predict", "--json", "--checkpoint", text(&weights)].map(str::to_owned);
    let json = succeed(line.into_iter().chain(names.map(|name| text(&path(name)).to_owned())));
    let predictions: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    let distance = |a: &str, b: &str| {
        let of = |name: &str| {
            let index = names.iter().position(|other| *other == name).unwrap();
            predictions[index]["probabilities"].as_object().unwrap()
        };
        of(a)
            .iter()
            .map(|(class, p)| (p.as_f64().unwrap() - of(b)[class].as_f64().unwrap()).abs())
            .fold(0.0, f64::max)
    };
    // JPEG at quality 95 moves pixels by a few of 255.
    let [turned, not_turned] = [distance("upright.png", "camera.jpg"), distance("upright.png", "lying.png")];
    assert!(turned < 0.02 && not_turned > 3.0 * turned, "{turned} {not_turned}");
    assert_eq!(distance("upright.png", "alpha.png"), 0.0, "transparency is left out");
    assert!(distance("upright.png", "deep.png") < 1e-3);
    assert!(distance("grey.jpg", "grey.png") < 0.02);
}

#[test]
fn as_much_is_told_as_is_asked_for() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("options.toml");
    fs::write(&file, SHORT).unwrap();
    let mut number = 0;
    let mut stderr = |options: &[&str], variables: &[(&str, &str)]| {
        number += 1;
        let folder = temp.path().join(format!("run{number}"));
        let output = command(["train", "--model", "alexnet", "--config", text(&file)])
            .args(["--run-dir", text(&folder)])
            .args(options)
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 3, "results are the same");
        assert!(!output.stderr.contains(&0x1b) && !output.stdout.contains(&0x1b), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let told = |text: &str| {
        ["engine cpu on cpu with ", "checkpoints/last.safetensors after step", "step 6 done: batch 3 of 3"]
            .map(|what| text.contains(what))
    };
    assert_eq!(told(&stderr(&[], &[])), [false, false, false]);
    assert_eq!(told(&stderr(&["-v"], &[])), [true, false, false]);
    assert_eq!(told(&stderr(&["-vv"], &[("RUST_LOG", "error")])), [true, true, false], "what is typed wins");
    assert_eq!(told(&stderr(&["--verbose", "-vv"], &[])), [true, true, true]);
    assert_eq!(told(&stderr(&[], &[("RUST_LOG", "pointwise_training=debug")])), [false, true, false]);
    let plain = stderr(&[], &[("NO_COLOR", "1")]);
    assert!(plain.starts_with("drawing synthetic images"), "{plain}");
    let quiet = stderr(&["--quiet"], &[]);
    assert_eq!(quiet.lines().count(), 1, "{quiet}");
    assert!(quiet.starts_with("the run is in "), "{quiet}");
}

#[test]
fn events_for_tensorboard_change_nothing_else() {
    let temp = tempfile::tempdir().unwrap();
    let (plain, shown, blocked) =
        (temp.path().join("plain"), temp.path().join("shown"), temp.path().join("blocked"));
    short_run(&plain, &[]);
    short_run(&shown, &["--tensorboard"]);
    assert_eq!(metrics(&plain), metrics(&shown));
    assert!(checkpoint(&plain, "last") == checkpoint(&shown, "last"));
    let files: Vec<_> = fs::read_dir(shown.join("tensorboard")).unwrap().map(|file| file.unwrap()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    // Two epochs with a histogram of each parameter, and pictures.
    assert!(files[0].metadata().unwrap().len() > 20_000);

    // If events cannot be written, the training continues and says so once.
    fs::create_dir_all(&blocked).unwrap();
    fs::write(blocked.join("tensorboard"), "").unwrap();
    let file = blocked.with_extension("toml");
    fs::write(&file, SHORT).unwrap();
    let output = command(["train", "--model", "alexnet", "--config", text(&file), "--tensorboard"])
        .args(["--run-dir", text(&blocked)])
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    assert_eq!(
        message.matches("no more events for TensorBoard, the training continues").count(),
        1,
        "{message}"
    );
    assert_eq!(metrics(&plain), metrics(&blocked));
}

#[test]
fn a_report_is_one_page_and_what_is_wrong_is_one_sentence() {
    let temp = tempfile::tempdir().unwrap();
    let config = temp.path().join("short.toml");
    fs::write(&config, SHORT).unwrap();
    let folder = temp.path().join("run");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    succeed(["train", "--quiet", "--model", "nin", "--config", &text(&config), "--run-dir", &text(&folder)]);
    let page = temp.path().join("page.html");
    succeed(["report", &text(&folder), "--out", &text(&page)]);
    let html = fs::read_to_string(&page).unwrap();
    for part in ["The quick check passed", "class=\"matrix", "3\u{d7}3, 3 \u{2192} 64"] {
        assert!(html.contains(part), "{part}");
    }

    let nowhere = temp.path().join("nowhere");
    let stderr = fail(1, ["report", &text(&nowhere)]);
    assert!(stderr.contains("nowhere holds no run") && stderr.trim().lines().count() == 1, "{stderr}");
    let stderr = fail(1, ["report", &text(&folder), &text(&folder)]);
    assert!(stderr.contains("same network and seed") && stderr.trim().lines().count() == 1, "{stderr}");
    fs::write(folder.join("analysis.json"), "{").unwrap();
    let stderr = fail(1, ["report", &text(&folder), "--out", &text(&page)]);
    assert!(stderr.contains("analysis.json is not valid"), "{stderr}");
    assert_eq!(fs::read_to_string(&page).unwrap(), html, "the old page stays");
}
