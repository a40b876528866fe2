//! CIFAR-10 from the Hugging Face Hub, as png images in parquet files.
//!
//! `candle_datasets::hub::from_hub` fetches the files; their contents are read here. Its own `candle_datasets::vision::cifar::load` gives transposed
//! images, leaves out rows that it cannot read and panics on an image that it cannot decode.

use candle_datasets::hub::{FileReader, from_hub};
use hf_hub::{HFClientSync, split_id};
use parquet::record::{Field, Row};
use pointwise_recipe::one_line;

use crate::image_folder::{append_planes, decode};
use crate::panics::without_panic;
use crate::{Error, Images, Progress, Unit};

const SHAPE: [usize; 3] = [3, 32, 32];
const CLASSES: u16 = 10;

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
    let listing = Listing::ask(client, dataset)?;
    progress.start(&format!("fetching {dataset}"), None, Unit::Bytes);
    let readers = without_panic(|| from_hub(client, dataset.to_owned()))
        .ok_or_else(|| failed(dataset, "its parquet files are damaged"))?
        .map_err(|error| failed(dataset, error))?;
    progress.finish();
    if readers.len() != listing.files.len() || Listing::ask(client, dataset)? != listing {
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

/// The parquet files of a dataset, and their commit.
#[derive(PartialEq)]
struct Listing {
    commit: Option<String>,
    files: Vec<String>,
}

impl Listing {
    fn ask(client: &HFClientSync, dataset: &str) -> Result<Self, Error> {
        let (owner, name) = split_id(dataset);
        let info = client.dataset(owner, name).info().revision(REVISION).send();
        let info = info.map_err(|error| failed(dataset, error))?;
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

#[derive(Default)]
struct Decoded {
    pixels: Vec<u8>,
    labels: Vec<u16>,
}

impl Decoded {
    /// Appends the images and labels of a file.
    fn read(&mut self, name: &str, reader: &dyn FileReader, mut advance: impl FnMut()) -> Result<(), Error> {
        let bad = |cause| Error::Parquet { file: name.to_owned(), cause };
        let fails = "its decoder fails on it";
        let mut rows = without_panic(|| reader.get_row_iter(None))
            .ok_or_else(|| bad(fails.to_owned()))?
            .map_err(|error| bad(error.to_string()))?;
        for number in 0_usize.. {
            let row = without_panic(|| rows.next()).ok_or_else(|| bad(format!("row {number}: {fails}")))?;
            let Some(row) = row else { break };
            let row = row.map_err(|error| bad(format!("row {number}: {error}")))?;
            self.append(&row).map_err(|cause| bad(format!("row {number} {cause}")))?;
            advance();
        }
        Ok(())
    }

    /// Appends a row; the error continues "row 7 ...".
    fn append(&mut self, row: &Row) -> Result<(), String> {
        let (mut encoded, mut label) = (None, None);
        for (name, field) in row.get_column_iter() {
            match field {
                Field::Long(value) if name == "label" => label = Some(*value),
                Field::Group(group) => {
                    for (name, field) in group.get_column_iter() {
                        if let (Field::Bytes(bytes), "bytes") = (field, name.as_str()) {
                            encoded = Some(bytes);
                        }
                    }
                }
                _ => {}
            }
        }
        let encoded = encoded.ok_or("has no column with the bytes of an image")?;
        let label = label.ok_or("has no column label with a number")?;
        let label = u16::try_from(label).ok().filter(|&label| label < CLASSES);
        let label = label.ok_or("has a label outside 0 to 9")?;
        let image = decode(encoded.data()).map_err(|cause| format!("has a bad image ({cause})"))?;
        let (width, height) = (image.width(), image.height());
        if (width, height) != (32, 32) {
            return Err(format!("has an image of {width}x{height} pixels instead of 32x32"));
        }
        append_planes(image, SHAPE, &mut self.pixels);
        self.labels.push(label);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoProgress;
    use crate::binary::{CIFAR10, Layout};
    use crate::testing::{noise, records, write_files};
    use hf_hub::HFClient;
    use image::{ImageFormat, RgbImage};
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::reader::SerializedFileReader;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use std::collections::HashMap;
    use std::fs::{self, File};
    use std::io::{BufRead, BufReader, Cursor, Write};
    use std::net::{TcpListener, TcpStream};
    use std::path::Path;
    use std::sync::Arc;
    use std::thread;
    use tempfile::TempDir;

    const IMAGE_BYTES: usize = 3072;

    /// The columns of `uoft-cs/cifar10`.
    const SCHEMA: &str = "message schema {
        optional group img { optional binary bytes; optional binary path (STRING); }
        optional int64 label;
    }";

    /// An encoded image and its label; an empty image is a null.
    type TestRow = (Vec<u8>, i64);

    fn write_parquet(path: &Path, rows: &[TestRow]) {
        let schema = Arc::new(parse_message_type(SCHEMA).unwrap());
        let mut writer =
            SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();

        let images = rows.iter().filter(|(image, _)| !image.is_empty());
        let images: Vec<ByteArray> = images.map(|(image, _)| ByteArray::from(image.clone())).collect();
        let levels: Vec<i16> = rows.iter().map(|(image, _)| if image.is_empty() { 0 } else { 2 }).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&images, Some(&levels), None).unwrap();
        column.close().unwrap();

        let paths: Vec<ByteArray> = images.iter().map(|_| ByteArray::from("x.png")).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&paths, Some(&levels), None).unwrap();
        column.close().unwrap();

        let labels: Vec<i64> = rows.iter().map(|row| row.1).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&labels, Some(&vec![1; labels.len()]), None).unwrap();
        column.close().unwrap();

        group.close().unwrap();
        writer.close().unwrap();
    }

    /// Noise of the size given: nothing about it is symmetric.
    fn png(seed: u64, width: u32, height: u32) -> Vec<u8> {
        let image = RgbImage::from_raw(width, height, noise(seed, (3 * width * height) as usize)).unwrap();
        let mut encoded = Cursor::new(Vec::new());
        image.write_to(&mut encoded, ImageFormat::Png).unwrap();
        encoded.into_inner()
    }

    /// The bytes of `png(seed, 32, 32)` in the order of the binary files: R, G, B planes, row by row.
    fn planes(seed: u64) -> Vec<u8> {
        let raw = noise(seed, IMAGE_BYTES);
        (0..IMAGE_BYTES).map(|i| raw[i % 1024 * 3 + i / 1024]).collect()
    }

    fn read(path: &Path) -> Result<Decoded, Error> {
        let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
        let mut decoded = Decoded::default();
        decoded.read("0000.parquet", &reader, || ())?;
        Ok(decoded)
    }

    #[test]
    fn images_are_oriented_as_in_the_binary_files() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("0000.parquet");
        write_parquet(&path, &[(png(1, 32, 32), 9), (png(2, 32, 32), 0), (png(3, 32, 32), 4)]);
        let decoded = read(&path).unwrap();
        assert_eq!(decoded.labels, [9, 0, 4]);
        assert!(decoded.pixels == [planes(1), planes(2), planes(3)].concat());

        // The same images as binary files, through the other reader.
        let record = |label: u8, seed| [vec![label], planes(seed)].concat();
        let train = [record(9, 1), record(0, 2), record(4, 3)].concat();
        write_files(folder.path(), &[("data_batch_1.bin", train), ("test_batch.bin", records(1, 1))]);
        let (binary, _) =
            Layout::find(&CIFAR10, folder.path()).unwrap().unwrap().load(0, &NoProgress).unwrap();
        assert_eq!(Images::new(SHAPE, 10, decoded.pixels, decoded.labels).unwrap(), binary);
    }

    #[test]
    fn a_bad_row_is_an_error_that_names_it() {
        let mut cut = png(1, 32, 32);
        cut.truncate(1500);
        let cases = [
            ((cut, 1), "row 1 has a bad image ("),
            ((b"no image".to_vec(), 1), "row 1 has a bad image ("),
            ((png(1, 31, 32), 1), "row 1 has an image of 31x32 pixels instead of 32x32"),
            ((png(1, 32, 32), 10), "row 1 has a label outside 0 to 9"),
            ((png(1, 32, 32), -1), "row 1 has a label outside 0 to 9"),
            ((Vec::new(), 1), "row 1 has no column with the bytes of an image"),
        ];
        for (row, expected) in cases {
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("0000.parquet");
            write_parquet(&path, &[(png(2, 32, 32), 3), row, (png(3, 32, 32), 3)]);
            let error = read(&path).err().expect(expected).to_string();
            assert!(
                error.starts_with(&format!(
                    "0000.parquet is not a parquet file of CIFAR-10, since {expected}"
                )),
                "{error}"
            );
        }
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("0000.parquet");
        write_parquet(&path, &[(png(2, 32, 32), 3), (png(3, 32, 32), 3)]);
        let mut bytes = fs::read(&path).unwrap();
        // The footer stays whole, so that the reader opens; pages begin after the four magic bytes.
        bytes[4..40].fill(0xff);
        fs::write(&path, bytes).unwrap();
        assert!(matches!(read(&path), Err(Error::Parquet { .. })));
    }

    /// Even if the parquet reader panics, as it does on some of these.
    #[test]
    fn a_file_cut_or_changed_anywhere_is_read_or_refused_in_a_sentence() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("0000.parquet");
        write_parquet(&path, &[(png(2, 32, 32), 3)]);
        let whole = fs::read(&path).unwrap();
        let sound = read(&path).unwrap();
        let mut refused = 0;
        let mut check = |bytes: &[u8], what: &str| {
            fs::write(&path, bytes).unwrap();
            let reader = without_panic(|| SerializedFileReader::new(File::open(&path).unwrap()));
            let Some(Ok(reader)) = reader else {
                refused += 1;
                return;
            };
            let mut decoded = Decoded::default();
            match decoded.read("0000.parquet", &reader, || ()) {
                Err(error) => {
                    let error = error.to_string();
                    assert!(
                        error.starts_with("0000.parquet is not a parquet file of CIFAR-10, since "),
                        "{what}: {error}"
                    );
                    assert!(!error.contains('\n'), "{what}: {error}");
                    refused += 1;
                }
                Ok(()) => {
                    assert_eq!(decoded.pixels.len(), decoded.labels.len() * sound.pixels.len(), "{what}");
                }
            }
        };
        // Not every byte of the image itself: its own tests cover that.
        let image = 200..whole.len() - 1000;
        let places = (0..whole.len()).filter(|n| !image.contains(n) || n % 50 == 0);
        for n in places {
            check(&whole[..n], &format!("{n} bytes"));
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[n] ^= 1 << bit;
                check(&changed, &format!("bit {bit} of byte {n}"));
            }
        }
        assert!(refused > whole.len(), "{refused} of them are refused");
    }

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
            let cache = TempDir::new().unwrap();
            let path = cache.path().join("served.parquet");
            let contents = files.iter().map(|(name, rows)| {
                write_parquet(&path, rows);
                ((*name).to_owned(), fs::read(&path).unwrap())
            });
            let contents: HashMap<String, Vec<u8>> = contents.collect();
            let siblings: Vec<String> =
                files.iter().map(|(name, _)| format!(r#"{{"rfilename":"{name}"}}"#)).collect();
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
