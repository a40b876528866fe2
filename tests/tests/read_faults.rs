//! Every file that is read, damaged: cut at every length, every bit of its beginning flipped, its lengths made huge, and garbage. Each is read
//! with a sane result or refused by an error that names it and says why, in bounded memory; nothing panics. The seeds of the fuzz targets
//! (`tests/fuzz`) get the same tests.
//!
//! Official archives and gzip, whose checksums no damaged file passes, have such tests in `crates/data`.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_data::{NoProgress, Place, Published, Source, load, read_image};
use pointwise_network::Network;
use pointwise_random::{Purpose, Stream, below};
use pointwise_recipe::Recipe;
use pointwise_runs::{Run, RunConfig, RunFolder, peak_memory};
use pointwise_study::Study;
use pointwise_training::read_weights;
use pointwise_weights::checkpoint;
use std::fs;
use std::path::{Path, PathBuf};

/// The memory limit of a test, whatever a file claims: an image may decode to 512 MiB.
const MEMORY: u64 = 1 << 30;

fn repository() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("..")
}

/// The files of a folder by name.
fn files_of(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = repository().join(folder);
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// Calls `look` with a file as it is, and with each damage; bits are flipped in the first `header` bytes, where also numbers of two, four
/// and eight bytes are made the largest. The words describe the damage.
fn damage(whole: &[u8], header: usize, mut look: impl FnMut(&str, &[u8])) {
    look("whole", whole);
    for len in 0..whole.len() {
        look(&format!("cut at {len}"), &whole[..len]);
    }
    let header = header.min(whole.len());
    for bit in 0..8 * header {
        let mut changed = whole.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        look(&format!("bit {bit} flipped"), &changed);
    }
    for at in 0..header {
        for size in [2, 4, 8] {
            for byte in [0x00, 0x7F, 0xFF] {
                let mut changed = whole.to_vec();
                let end = whole.len().min(at + size);
                changed[at..end].fill(byte);
                look(&format!("{size} bytes from {at} are {byte:#04x}"), &changed);
            }
        }
    }
    let mut words = Stream::new(whole.len() as u64, Purpose::Synthetic, 0);
    let mut below = |end: usize| below(words.word(), end.max(1) as u32) as usize;
    for number in 0..300 {
        let garbage: Vec<u8> = (0..below(2000)).map(|_| below(256) as u8).collect();
        look(&format!("garbage {number}"), &garbage);
        let start = below(whole.len());
        let end = start + below(whole.len() - start);
        let changed = [&whole[..start], &garbage[..garbage.len() / 8], &whole[end..]].concat();
        look(&format!("garbage {number} for {start}..{end}"), &changed);
    }
}

/// An error is a line that says why.
fn check_message(what: &str, message: &str) {
    assert!(!message.trim().is_empty() && message.len() < 4000, "{what}: {message}");
    assert!(!message.contains('\n'), "{what}: {message}");
}

/// As [`check_message`], and it names the file.
fn check_error(what: &str, path: &Path, message: &str) {
    check_message(what, message);
    assert!(message.contains(&path.display().to_string()), "{what}: {message}");
}

fn check_memory() {
    if let Some(peak) = peak_memory() {
        assert!(peak < MEMORY, "{} MiB were held", peak >> 20);
    }
}

#[test]
fn images() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image.png");
    for (name, whole) in files_of("tests/fuzz/seeds/image") {
        damage(&whole, 200, |damage, bytes| {
            let what = format!("{name}, {damage}");
            fs::write(&path, bytes).unwrap();
            match read_image(&path, [3, 4, 5]) {
                Ok(pixels) => assert_eq!(pixels.len(), 60, "{what}"),
                Err(error) => check_error(&what, &path, &error.to_string()),
            }
        });
    }
    check_memory();
}

#[test]
fn binary_batches() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::Named(folder.path().to_owned());
    let source = Source::Published { dataset: Published::Cifar100, place };
    let record = [&[1, 2][..], &[3; 3072]].concat();
    for (damaged, other) in [("train.bin", "test.bin"), ("test.bin", "train.bin")] {
        fs::write(folder.path().join(other), &record).unwrap();
        damage(&record, 8, |damage, bytes| {
            let path = folder.path().join(damaged);
            fs::write(&path, bytes).unwrap();
            match load(&source, &NoProgress) {
                Ok(dataset) => {
                    assert_eq!((dataset.train.len(), dataset.test.len()), (1, 1), "{damage}");
                    assert!(bytes.len() == record.len() && bytes[0] < 20 && bytes[1] < 100, "{damage}");
                }
                Err(error) => check_error(damage, &path, &error.to_string()),
            }
        });
    }
}

#[test]
fn idx_files() {
    let folder = tempfile::tempdir().unwrap();
    let source =
        Source::Published { dataset: Published::Mnist, place: Place::Named(folder.path().to_owned()) };
    let images = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28][..], &[7; 2 * 784]].concat();
    let labels = [0, 0, 8, 1, 0, 0, 0, 2, 4, 9];
    let names = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"];
    let others = ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];
    for (image, label) in [(names[0], names[1]), (others[0], others[1])] {
        fs::write(folder.path().join(image), &images).unwrap();
        fs::write(folder.path().join(label), labels).unwrap();
    }
    assert_eq!(load(&source, &NoProgress).unwrap().train.len(), 2);
    for (name, whole) in [(names[0], &images[..]), (names[1], &labels)] {
        damage(whole, 16, |damage, bytes| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            match load(&source, &NoProgress) {
                Ok(dataset) => assert_eq!((dataset.train.len(), bytes.len()), (2, whole.len()), "{damage}"),
                Err(error) => check_error(damage, &path, &error.to_string()),
            }
        });
        fs::write(folder.path().join(name), whole).unwrap();
    }
    check_memory();
}

/// What is read is complete and finite; otherwise the error names the file. `header` as in [`damage`].
fn weights(name: &str, whole: &[u8], header: usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    damage(whole, header, |damage, bytes| {
        let what = format!("{name}, {damage}");
        fs::write(&path, bytes).unwrap();
        // A reader of the header alone must agree.
        let meta = checkpoint::read_meta(&path);
        match read_weights(&path) {
            Ok((state, read)) => {
                assert_eq!(read, meta, "{what}");
                for array in state.parameters.values().chain(state.statistics.values()) {
                    assert_eq!(array.values.len(), array.shape.iter().product::<usize>(), "{what}");
                    assert!(array.values.iter().all(|value| value.is_finite()), "{what}");
                }
            }
            Err(error) => check_error(&what, &path, &error.to_string()),
        }
    });
    check_memory();
}

#[test]
fn safetensors_files() {
    for (name, whole) in files_of("tests/fuzz/seeds/safetensors") {
        weights(&name, &whole, 600);
    }
}

#[test]
fn files_of_torch_save() {
    // An archive, and a file from before PyTorch 1.6, which has no checksums.
    for (name, header) in [("parallel.pth", 300), ("views_legacy.pt", 600)] {
        weights(name, &fs::read(repository().join("tests/pytorch/weights").join(name)).unwrap(), header);
    }
}

#[test]
fn run_records() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    fs::create_dir(&run).unwrap();
    let files = files_of("tests/fuzz/run");
    assert_eq!(files.len(), 6);
    for (name, whole) in &files {
        fs::write(run.join(name), whole).unwrap();
    }
    let read = |path: &Path| Run::read(path).and_then(|run| run.analysis().map(|_| run));
    assert_eq!(read(&run).unwrap().records.len(), 3);
    for (name, whole) in &files {
        let path = run.join(name);
        damage(whole, 120, |damage, bytes| {
            let what = format!("{name}, {damage}");
            fs::write(&path, bytes).unwrap();
            match read(&run) {
                Ok(run) => {
                    let text = run.config.to_toml().unwrap();
                    assert_eq!(RunConfig::from_toml(&text).unwrap().differences(&run.config), [], "{what}");
                }
                Err(error) => check_error(&what, &path, &error.to_string()),
            }
        });
        for bytes in [b"[".repeat(1 << 20), b"{\"a\":".repeat(1 << 18), b"a=[".repeat(1 << 18)] {
            fs::write(&path, [&bytes[..], b"\n"].concat()).unwrap();
            check_error("nested", &path, &read(&run).unwrap_err().to_string());
        }
        fs::write(&path, whole).unwrap();
    }
    // Resuming a run reads the same file.
    let path = run.join("metrics.jsonl");
    fs::write(&path, "{\"kind\":\"step\"}\n").unwrap();
    let (mut folder, _) = RunFolder::resume(&run).unwrap();
    check_error("rewound", &path, &folder.rewind(1, 1).unwrap_err().to_string());
    check_memory();
}

/// Texts: what is not UTF-8 is refused when the file is read.
fn texts(seeds: &str, read: impl Fn(&str) -> Result<(), String>) {
    for (name, whole) in files_of(seeds) {
        damage(&whole, 300, |damage, bytes| {
            if let Ok(text) = std::str::from_utf8(bytes)
                && let Err(message) = read(text)
            {
                check_message(&format!("{name}, {damage}"), &message);
            }
        });
    }
    for nested in ["a = [", "a.", "a = {b = ", "[[a.", "layers = [{Sequential = "] {
        let message = read(&nested.repeat(1 << 18)).unwrap_err();
        check_message(nested, &message);
    }
    check_memory();
}

#[test]
fn networks() {
    texts("tests/fuzz/seeds/network", |text| {
        Network::from_toml(text).map(drop).map_err(|error| error.to_string())
    });
}

#[test]
fn recipes() {
    texts("tests/fuzz/seeds/recipe", |text| {
        Recipe::from_toml(text).map(drop).map_err(|error| error.to_string())
    });
}

#[test]
fn studies() {
    let folder = repository().join("tests/fuzz");
    texts("tests/fuzz/seeds/study", |text| {
        Study::from_toml(text, &folder).map(drop).map_err(|error| error.to_string())
    });
}
