//! CIFAR-10 from the Hugging Face Hub, as png images in parquet files.
//!
//! `candle_datasets::hub::from_hub` fetches the files; their contents are read here. Its own `candle_datasets::vision::cifar::load` gives transposed
//! images, leaves out rows that it cannot read and panics on an image that it cannot decode.

use std::path::PathBuf;

use candle_datasets::hub::{FileReader, from_hub};
use hf_hub::{HFClientSync, HFError, HFRepositorySync, HFResult, RepoTypeDataset, split_id};
use pointwise_recipe::one_line;

use crate::panics::without_panic;
use crate::parquet_file::{self, CLASSES, Decoded, SHAPE};
use crate::{Error, Images, Progress, Unit};

/// Where the Hub keeps the parquet version of every dataset, and where `from_hub` looks.
const REVISION: &str = "refs/convert/parquet";

/// Fetches what is not in this machine's cache of the Hub, and decodes it all.
pub(crate) fn load(dataset: &str, progress: &dyn Progress) -> Result<(Images, Images), Error> {
    let client = HFClientSync::new().map_err(|error| failed(dataset, error))?;
    load_with(&client, dataset, progress)
}

fn failed(dataset: &str, cause: impl ToString) -> Error {
    Error::HuggingFace { dataset: dataset.to_owned(), cause: one_line(&cause.to_string()) }
}

fn load_with(
    client: &HFClientSync,
    dataset: &str,
    progress: &dyn Progress,
) -> Result<(Images, Images), Error> {
    // `from_hub` gives readers without the names that tell training from test images. They come in the order of the
    // listing: if that is the same before and after, it was the same in between.
    let (owner, name) = split_id(dataset);
    let repository = client.dataset(owner, name);
    let listing = Listing::ask(&repository).map_err(|error| failed(dataset, error))?;
    progress.start(&format!("fetching {dataset}"), None, Unit::Bytes);
    // Into the cache, where `from_hub` finds them, but not before they have been checked.
    for name in &listing.files {
        let path = fetch(&repository, name).map_err(|error| failed(dataset, error))?;
        parquet_file::check(name, &path)?;
    }
    let readers = without_panic(|| from_hub(client, dataset.to_owned()))
        .ok_or_else(|| failed(dataset, "its parquet files are damaged"))?
        .map_err(|error| failed(dataset, error))?;
    progress.finish();
    let listed_now = Listing::ask(&repository).map_err(|error| failed(dataset, error))?;
    if readers.len() != listing.files.len() || listed_now != listing {
        return Err(failed(dataset, "it was changed while it was read"));
    }

    let mut files = Vec::new();
    for (name, reader) in listing.files.iter().zip(&readers) {
        let set =
            Set::of(name).ok_or_else(|| failed(dataset, format!("its file {name} is of neither set")))?;
        files.push((set, name, reader));
    }
    // 0000.parquet before 0001.parquet.
    files.sort_by_key(|&(set, name, _)| (set, name));

    let rows = |set| files.iter().filter(move |file| file.0 == set);
    let total = readers.iter().map(|reader| reader.metadata().file_metadata().num_rows() as u64).sum();
    progress.start("decoding images", Some(total), Unit::Images);
    let mut done = 0;
    let mut images = |set| {
        let mut decoded = Decoded::default();
        for (_, name, reader) in rows(set) {
            decoded.read(name, *reader, || {
                done += 1;
                progress.advance(done);
            })?;
        }
        if decoded.labels.is_empty() {
            return Err(failed(dataset, format!("it has no {} images", set.name())));
        }
        Images::new(SHAPE, CLASSES.into(), decoded.pixels, decoded.labels)
    };
    let result = (images(Set::Train)?, images(Set::Test)?);
    progress.finish();
    Ok(result)
}

/// Fetches a file unless it is in the cache, and returns where it lies.
fn fetch(repository: &HFRepositorySync<RepoTypeDataset>, name: &str) -> HFResult<PathBuf> {
    let file = repository.download_file().filename(name).revision(REVISION);
    match file.clone().local_files_only(true).send() {
        Err(HFError::LocalEntryNotFound { .. }) => file.send(),
        cached => cached,
    }
}

/// The parquet files of a dataset, and their commit.
#[derive(PartialEq)]
struct Listing {
    commit: Option<String>,
    files: Vec<String>,
}

impl Listing {
    fn ask(repository: &HFRepositorySync<RepoTypeDataset>) -> HFResult<Self> {
        let info = repository.info().revision(REVISION).send()?;
        let files = info.siblings.unwrap_or_default().into_iter().map(|file| file.rfilename);
        Ok(Self { commit: info.sha, files: files.filter(|name| name.ends_with(".parquet")).collect() })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Set {
    Train,
    Test,
}

impl Set {
    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }

    /// By the folder, as in `plain_text/train/0000.parquet`, or by the start of the name, as in
    /// `train-00000-of-00001.parquet`.
    fn of(path: &str) -> Option<Self> {
        let (folders, file) = path.rsplit_once('/').unwrap_or(("", path));
        [Self::Train, Self::Test].into_iter().find(|set| {
            folders.split('/').any(|folder| folder == set.name())
                || file.split(['-', '.']).next() == Some(set.name())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoProgress;
    use crate::binary::{CIFAR10, Layout};
    use crate::testing::parquet::{IMAGE_BYTES, TestRow, planes, png, write_parquet};
    use crate::testing::{records, write_files};
    use hf_hub::HFClient;
    use std::collections::HashMap;
    use std::fs;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::path::Path;
    use std::thread;
    use tempfile::TempDir;

    #[test]
    fn sets_are_known_by_their_names() {
        let cases = [
            ("plain_text/train/0000.parquet", Some(Set::Train)),
            ("plain_text/test/0000.parquet", Some(Set::Test)),
            ("data/train-00000-of-00001.parquet", Some(Set::Train)),
            ("test-00000-of-00001.parquet", Some(Set::Test)),
            ("test.parquet", Some(Set::Test)),
            ("plain_text/validation/0000.parquet", None),
            ("latest/0000.parquet", None),
        ];
        for (path, set) in cases {
            assert_eq!(Set::of(path), set, "{path}");
        }
    }

    /// A Hub with one dataset: the answers that `hf-hub` needs, taken from the Hub's interface.
    struct Hub {
        endpoint: String,
        cache: TempDir,
    }

    impl Hub {
        fn new(files: &[(&str, Vec<TestRow>)]) -> Self {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("served.parquet");
            let contents = files.iter().map(|(name, rows)| {
                write_parquet(&path, rows);
                (*name, fs::read(&path).unwrap())
            });
            Self::serving(contents.collect())
        }

        fn serving(files: Vec<(&str, Vec<u8>)>) -> Self {
            let cache = TempDir::new().unwrap();
            let siblings: Vec<String> =
                files.iter().map(|(name, _)| format!(r#"{{"rfilename":"{name}"}}"#)).collect();
            let contents: HashMap<String, Vec<u8>> =
                files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
            let listing = format!(
                r#"{{"id":"owner/name","sha":"{COMMIT}","siblings":[{{"rfilename":"README.md"}},{}]}}"#,
                siblings.join(",")
            );
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let _ = answer(&stream.unwrap(), &listing, &contents);
                }
            });
            Self { endpoint, cache }
        }

        fn load(&self) -> Result<(Images, Images), Error> {
            let client = HFClient::builder()
                .endpoint(&self.endpoint)
                .cache_dir(self.cache.path().join("cache"))
                .retry_max_attempts(0)
                .build()
                .unwrap();
            load_with(&HFClientSync::from_inner(client).unwrap(), "owner/name", &NoProgress)
        }
    }

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn answer(
        mut stream: &TcpStream,
        listing: &str,
        contents: &HashMap<String, Vec<u8>>,
    ) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
        let (method, path) = request.split_once(' ').unwrap_or_default();
        let path = path.split(' ').next().unwrap_or_default();
        let file = contents.iter().find(|(name, _)| path.ends_with(&format!("/{name}")));
        let (status, body): (&str, &[u8]) = match file {
            Some((_, bytes)) if path.starts_with("/datasets/owner/name/resolve/") => ("200 OK", bytes),
            _ if path.starts_with("/api/datasets/owner/name/revision/") => ("200 OK", listing.as_bytes()),
            _ => ("404 Not Found", b"{}"),
        };
        let etag = file.map_or_else(String::new, |(_, bytes)| crate::testing::md5_hex(bytes));
        write!(
            stream,
            "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\nETag: \"{etag}\"\r\nX-Repo-Commit: \
             {COMMIT}\r\n\r\n",
            body.len()
        )?;
        if method == "HEAD" { Ok(()) } else { stream.write_all(body) }
    }

    fn rows(seeds: std::ops::Range<u64>) -> Vec<TestRow> {
        seeds.map(|seed| (png(seed, 32, 32), seed as i64 % 10)).collect()
    }

    #[test]
    fn a_dataset_comes_from_the_hub_with_its_sets_told_apart() {
        // Test before training images, as the Hub lists them, and parts in the wrong order.
        let hub = Hub::new(&[
            ("plain_text/test/0000.parquet", rows(7..10)),
            ("plain_text/train/0001.parquet", rows(5..7)),
            ("plain_text/train/0000.parquet", rows(0..5)),
        ]);
        let (train, test) = hub.load().unwrap();
        assert_eq!(train.labels(), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(test.labels(), [7, 8, 9]);
        assert!(train.pixels() == (0..7).flat_map(planes).collect::<Vec<u8>>());
        assert!(test.pixels() == (7..10).flat_map(planes).collect::<Vec<u8>>());
    }

    #[test]
    fn a_dataset_without_a_set_or_with_another_is_an_error() {
        let error =
            Hub::new(&[("plain_text/train/0000.parquet", rows(0..2))]).load().unwrap_err().to_string();
        assert!(error.contains("owner/name") && error.contains("it has no test images"), "{error}");
        let hub = Hub::new(&[("train/0000.parquet", rows(0..2)), ("more/0000.parquet", rows(2..3))]);
        let error = hub.load().unwrap_err().to_string();
        assert!(error.contains("its file more/0000.parquet is of neither set"), "{error}");
    }

    #[test]
    fn a_file_is_checked_before_it_is_opened() {
        let gzipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds/parquet/gzip");
        let hub = Hub::serving(vec![("train/0000.parquet", fs::read(gzipped).unwrap())]);
        let error = hub.load().unwrap_err().to_string();
        assert!(error.starts_with("train/0000.parquet is not a parquet file of CIFAR-10"), "{error}");
        assert!(error.contains("it is compressed by gzip"), "{error}");
    }

    #[test]
    fn a_hub_that_does_not_answer_is_an_error_that_names_the_dataset() {
        let hub = Hub { endpoint: "http://127.0.0.1:1".to_owned(), cache: TempDir::new().unwrap() };
        let error = hub.load().unwrap_err().to_string();
        assert!(error.starts_with("cannot get owner/name from the Hugging Face Hub ("), "{error}");
        assert!(error.ends_with("--data-dir"), "{error}");
    }

    /// candle's own reader of the binary files, which insists on 10,000 records per file, agrees with ours.
    #[test]
    fn candle_reads_the_same_binary_files() {
        let folder = TempDir::new().unwrap();
        let file = |seed: u64| records(seed, 10_000);
        let files: Vec<(&str, Vec<u8>)> = CIFAR10.train.iter().copied().zip((1..).map(file)).collect();
        write_files(folder.path(), &files);
        write_files(folder.path(), &[("test_batch.bin", file(9))]);
        let (train, test) =
            Layout::find(&CIFAR10, folder.path()).unwrap().unwrap().load(0, &NoProgress).unwrap();
        let candle = candle_datasets::vision::cifar::load_dir(folder.path()).unwrap();
        for (ours, images, labels) in [
            (train, candle.train_images, candle.train_labels),
            (test, candle.test_images, candle.test_labels),
        ] {
            assert_eq!(images.dims(), [ours.len(), 3, 32, 32]);
            let labels: Vec<u16> = labels.to_vec1::<u8>().unwrap().into_iter().map(u16::from).collect();
            assert_eq!(labels, ours.labels());
            // A part at a time: all at once would be 600 MB.
            for start in (0..ours.len()).step_by(5_000) {
                let part = images.narrow(0, start, 5_000).unwrap().flatten_all().unwrap();
                let part = part.to_vec1::<f32>().unwrap();
                let ours = &ours.pixels()[start * IMAGE_BYTES..][..5_000 * IMAGE_BYTES];
                // candle multiplies by 1/255, which rounds differently from dividing.
                let same =
                    part.iter().zip(ours).all(|(theirs, &byte)| (theirs * 255.0).round() == f32::from(byte));
                assert!(same, "images from {start} on");
            }
        }
    }
}
