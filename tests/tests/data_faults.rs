//! Images and data folders with common faults, through the real binary: one sentence names what is wrong, and a request to stop is obeyed
//! whatever the network does.

use image::{Rgb, RgbImage};
#[cfg(unix)]
use pointwise_tests::training::wait_until;
use pointwise_tests::{command, fail, run, succeed, write_binary_layout};
use std::fs;
#[cfg(unix)]
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path is UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A picture with enough detail that half of its file is half of the picture.
fn picture(path: &Path) {
    fs::create_dir_all(path.parent().expect("it is in a folder")).expect("the folder can be made");
    RgbImage::from_fn(64, 64, |x, y| Rgb([(x * x + 7 * y) as u8, (x * y) as u8, (x + 3 * y * y) as u8]))
        .save(path)
        .expect("the folder can be written");
}

fn cut(path: &Path) {
    let bytes = fs::read(path).expect("the file is there");
    fs::write(path, &bytes[..bytes.len() / 2]).expect("the folder can be written");
}

/// `train` for one epoch on the images of a folder.
fn train(data: &Path, run: &Path) -> Vec<String> {
    [
        "train",
        "--model",
        "nin",
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--data-dir",
        text(data),
        "--run-dir",
        text(run),
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Weights after one step of training.
fn weights(folder: &Path) -> PathBuf {
    let run = folder.join("weights");
    succeed([
        "train",
        "--model",
        "nin",
        "--data",
        "synthetic",
        "--limit-train",
        "2",
        "--limit-test",
        "2",
        "--epochs",
        "1",
        "--quiet",
        "--run-dir",
        text(&run),
    ]);
    run.join("checkpoints/best.safetensors")
}

#[test]
fn damaged_images_are_refused_by_name() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    for file in ["train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png"] {
        picture(&data.join(file));
    }
    succeed(["data", "stats", "--data-dir", text(&data)]);
    for name in ["cut.jpg", "cut.webp", "cut.png"] {
        let path = data.join("train/cat").join(name);
        picture(&path);
        cut(&path);
        let message = fail(1, ["data", "stats", "--data-dir", text(&data)]);
        let start = format!("error: cannot decode the image {}: ", path.display());
        assert!(message.starts_with(&start) && message.ends_with("; replace or remove it"), "{message}");
        // The cause is given once.
        let parts: Vec<&str> = message[start.len()..].split([':', ';']).map(str::trim).collect();
        assert!((1..parts.len()).all(|at| !parts[..at].contains(&parts[at])), "{message}");
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn predict_reads_pipes_and_names_what_it_cannot_use() {
    let temp = tempfile::tempdir().unwrap();
    let weights = weights(temp.path());
    let (good, half, large) =
        (temp.path().join("good.jpg"), temp.path().join("half.jpg"), temp.path().join("large.png"));
    picture(&good);
    picture(&half);
    cut(&half);
    // The header of a png of 12,000 x 9,000 pixels.
    let mut header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    header.extend([12_000_u32.to_be_bytes(), 9_000_u32.to_be_bytes()].concat());
    header.extend([8, 2, 0, 0, 0]);
    let mut crc = crc32(&header[12..]).to_be_bytes().to_vec();
    header.append(&mut crc);
    header.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
    fs::write(&large, header).unwrap();

    let output = run(["predict", "--checkpoint", text(&weights), text(&half), text(&good), text(&large)]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("half.jpg: it is cut short; replace or remove it"), "{said}");
    assert!(said.contains("large.png: it has 12000 x 9000 pixels and the limit is 10000 a side"), "{said}");
    assert!(said.contains("error: 2 of 3 images could not be read\n"), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 2);

    #[cfg(unix)]
    {
        let class = |output: Output| {
            assert!(output.status.success(), "{}", stderr(&output));
            let table = String::from_utf8(output.stdout).unwrap();
            table.lines().last().unwrap().split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
        };
        let mut cat = Command::new("cat").arg(&good).stdout(Stdio::piped()).spawn().unwrap();
        let piped = command(["predict", "--checkpoint", text(&weights), "/dev/stdin"])
            .stdin(cat.stdout.take().unwrap())
            .output()
            .unwrap();
        cat.wait().unwrap();
        assert_eq!(class(piped), class(run(["predict", "--checkpoint", text(&weights), text(&good)])));
    }
}

/// The checksum of a png's chunk, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 * (crc & 1)))
    })
}

#[test]
fn classes_without_images_are_named() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    for file in ["train/cat/1.png", "train/dog/1.png", "test/cat/1.png"] {
        picture(&data.join(file));
    }
    fs::create_dir(data.join("train/bird")).unwrap();
    let output = run(train(&data, &temp.path().join("run")));
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("has no training images of airplane, automobile, bird, deer, frog, horse"),
        "{said}"
    );
    assert!(
        said.contains("has no test images of airplane, automobile, bird, deer, dog, frog, horse"),
        "{said}"
    );

    let checkpoint = temp.path().join("run/checkpoints/best.safetensors");
    let output = run(["eval", "--checkpoint", text(&checkpoint), "--data-dir", text(&data)]);
    assert!(
        output.status.success() && stderr(&output).contains("has no test images of airplane"),
        "{output:?}"
    );

    let none = temp.path().join("none");
    fs::remove_dir_all(data.join("train/cat")).unwrap();
    let message = fail(1, train(&data, &none));
    assert!(message.contains("all of one class"), "{message}");
    picture(&data.join("train/ship/1.png"));
    let message = fail(1, train(&data, &none));
    assert!(message.contains("no class of image folder") && message.contains("both"), "{message}");
    assert!(!none.exists(), "a run was begun");
}

/// The environment of a command that can download nothing, because nothing listens at its proxy's address.
fn without_network(command: &mut Command) -> &mut Command {
    for variable in
        ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy", "https_proxy", "NO_PROXY", "no_proxy"]
    {
        command.env_remove(variable);
    }
    command.env("HTTPS_PROXY", "http://127.0.0.1:1")
}

#[test]
fn fetch_does_not_mind_what_else_is_in_the_folder() {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path();
    let fetch = || {
        let output =
            without_network(&mut command(["data", "fetch", "--data-dir", text(data)])).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        stderr(&output)
    };
    // With each of these in the folder, the download is tried nevertheless.
    fs::create_dir_all(data.join("cifar-10-batches-py")).unwrap();
    fs::write(data.join("cifar-10-batches-py/data_batch_1"), "").unwrap();
    assert!(fetch().contains("error: could not download cifar-10-binary.tar.gz ("), "{}", fetch());
    fs::create_dir_all(data.join("train/tiger")).unwrap();
    assert!(fetch().contains("error: could not download cifar-10-binary.tar.gz ("), "{}", fetch());
    write_binary_layout(data, 3);
    fs::remove_file(data.join("data_batch_4.bin")).unwrap();
    assert!(fetch().contains("error: could not download cifar-10-binary.tar.gz ("), "{}", fetch());
    assert_eq!(fs::metadata(data.join("data_batch_1.bin")).unwrap().len(), 3 * 3073);

    // `train` also completes its cache, and for a folder it says how to complete it.
    let cache = temp.path().join("cache");
    fs::create_dir_all(cache.join("pointwise/cifar10/cifar-10-batches-bin")).unwrap();
    fs::write(cache.join("pointwise/cifar10/cifar-10-batches-bin/data_batch_1.bin"), vec![0; 30_730])
        .unwrap();
    let run = temp.path().join("run");
    let line = ["train", "--model", "nin", "--run-dir", text(&run)];
    let output = without_network(command(line).env("XDG_CACHE_HOME", &cache)).output().unwrap();
    assert!(stderr(&output).contains("error: could not download"), "{}", stderr(&output));
    let message = fail(1, train(data, &temp.path().join("run")));
    let expected = format!("data_batch_4.bin is missing in {}", data.display());
    assert!(message.contains(&expected), "{message}");
    assert!(message.contains(&format!("`trainer data fetch --data-dir {}`", data.display())), "{message}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_cache_that_cannot_be_written_is_said_with_the_ways_out() {
    let line = ["train", "--model", "nin", "--run-dir", "never"];
    // Not even root may write there.
    let output = without_network(command(line).env_remove("XDG_CACHE_HOME").env("HOME", "/proc/nobody"))
        .output()
        .unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for words in ["/proc/nobody", "--data-dir", "XDG_CACHE_HOME"] {
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(said.matches("os error").count(), 1, "{said}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_that_cannot_be_kept_is_refused_before_anything_is_read() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join(OsStr::from_bytes(b"d\xe9"));
    fs::create_dir(&data).unwrap();
    write_binary_layout(&data, 3);
    let run = temp.path().join("run");
    let mut line: Vec<_> = train(Path::new("."), &run).into_iter().map(std::ffi::OsString::from).collect();
    line[8].clone_from(&data.clone().into_os_string());
    let message = fail(1, &line);
    assert!(message.contains("error: --data-dir ") && message.contains("is not UTF-8"), "{message}");
    assert!(!run.exists());
    // A link works, and commands that keep no configuration accept the name itself.
    let link = temp.path().join("link");
    std::os::unix::fs::symlink(&data, &link).unwrap();
    succeed(train(&link, &run));
    let renamed = temp.path().join(OsStr::from_bytes(b"run\xe9"));
    fs::rename(&run, &renamed).unwrap();
    let compared = succeed(["compare".as_ref(), "--json".as_ref(), renamed.as_os_str()]);
    assert!(compared.contains("/run\u{fffd}\""), "{compared}");
    assert!(succeed(["runs", "--json", text(temp.path())]).contains("/run\u{fffd}\""));
    succeed(["data".as_ref(), "stats".as_ref(), "--data-dir".as_ref(), data.as_os_str()]);
}

#[cfg(unix)]
#[test]
fn a_stop_ends_a_download_from_a_server_that_says_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let weights = weights(temp.path());
    let run = temp.path().join("run");
    let lines: [&[&str]; 4] = [
        &["train", "--model", "nin", "--run-dir", text(&run)],
        &["eval", "--checkpoint", text(&weights), "--data", "cifar10"],
        &["data", "fetch"],
        &["data", "stats"],
    ];
    for (number, line) in lines.into_iter().enumerate() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        server.set_nonblocking(true).unwrap();
        let mut command = command(line);
        without_network(&mut command)
            .env("HTTPS_PROXY", format!("http://{}", server.local_addr().unwrap()))
            .env("XDG_CACHE_HOME", temp.path().join("cache"))
            .stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let mut connection = None;
        wait_until("it asks for the images", || {
            connection = server.accept().ok();
            connection.is_some()
        });
        let signal = ["-TERM", "-INT"][number % 2];
        let status = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
        assert!(status.success());
        // The server is silent until the end; without a stop the download fails after 20 seconds, with exit code 1.
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{line:?}: {}", stderr(&output));
        drop(connection);
    }
    assert!(!run.exists());
}
