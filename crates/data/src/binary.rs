//! The binary version of CIFAR-10 and CIFAR-100: files of records, each one or two label bytes and 3072 pixel bytes.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::dataset::reserve_more;
use crate::file_spec::FileSpec;
use crate::files::{Kind, kind, reading};
use crate::{Error, Images, Progress, Unit};

/// Bytes of an image: 3 x 32 x 32.
pub(crate) const IMAGE_BYTES: usize = 3072;

/// A data set of the CIFAR family, in its binary version.
#[derive(Debug)]
pub(crate) struct Cifar {
    pub(crate) name: &'static str,
    /// The folder in the official archive.
    pub(crate) folder: &'static str,
    /// The name of the archive.
    pub(crate) archive: &'static str,
    /// Training files in order; the official archive has all of them.
    pub(crate) train: &'static [&'static str],
    /// The file of test images.
    pub(crate) test: &'static str,
    /// Records of each training file and of the test file in the official archive.
    records: [u64; 2],
    /// How many classes each label byte of a record tells apart.
    labels: &'static [u8],
    /// Size and MD5 of the official archive.
    official: (u64, &'static str),
}

pub(crate) static CIFAR10: Cifar = Cifar {
    name: "CIFAR-10",
    folder: "cifar-10-batches-bin",
    archive: "cifar-10-binary.tar.gz",
    train: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
    ],
    test: "test_batch.bin",
    records: [10_000, 10_000],
    labels: &[10],
    official: (170_052_171, "c32a1d4ab5d03f1284b67883e8d87530"),
};

/// Each record has a coarse label and then a fine one.
pub(crate) static CIFAR100: Cifar = Cifar {
    name: "CIFAR-100",
    folder: "cifar-100-binary",
    archive: "cifar-100-binary.tar.gz",
    train: &["train.bin"],
    test: "test.bin",
    records: [50_000, 10_000],
    labels: &[20, 100],
    official: (168_513_733, "03b5dce01913d631647c71ecec9e9cb8"),
};

impl Cifar {
    /// Labels and an image.
    pub(crate) fn record_bytes(&self) -> usize {
        self.labels.len() + IMAGE_BYTES
    }

    /// Name, size and MD5 of the archive as published.
    pub(crate) fn official(&self) -> FileSpec {
        let (bytes, md5) = self.official;
        FileSpec { name: self.archive, bytes, md5: md5.to_owned() }
    }

    /// All files, training first.
    pub(crate) fn files(&self) -> impl Iterator<Item = &'static str> + Clone {
        self.train.iter().copied().chain([self.test])
    }

    /// Bytes of a file of the official archive.
    pub(crate) fn largest(&self, file: &str) -> u64 {
        let [train, test] = self.records;
        (if file == self.test { test } else { train }) * self.record_bytes() as u64
    }

    /// What a folder needs, as text for users.
    fn needed(&self) -> String {
        match self.train {
            [first, second, ..] => format!("{} and {first}, {second}, ... without a gap", self.test),
            train => format!("{} and {}", train.join(", "), self.test),
        }
    }

    pub(crate) fn wrong_size(&self, file: &str, bytes: u64) -> Error {
        let (labels, record) = (self.labels.len(), self.record_bytes());
        Error::FileSize { file: file.to_owned(), bytes, labels, record, dataset: self.name }
    }

    /// Labels of a record, a byte each.
    pub(crate) fn label_bytes(&self) -> usize {
        self.labels.len()
    }

    /// The error if label number `number` of a record is too large.
    pub(crate) fn check_label(&self, number: usize, label: u8, file: &str, record: u64) -> Result<(), Error> {
        let classes = self.labels[number];
        if label < classes {
            return Ok(());
        }
        let (file, last) = (file.to_owned(), classes - 1);
        Err(Error::RecordLabel { file, record, label, dataset: self.name, last })
    }
}

/// The binary files of a folder: the file of test images and training files up to some number without a gap.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) cifar: &'static Cifar,
    pub(crate) folder: PathBuf,
    pub(crate) train: Vec<PathBuf>,
    pub(crate) test: PathBuf,
}

impl Layout {
    /// Looks in `path` and in its subfolder with the archive's name; `None` if neither has any of the files, an error if neither is complete.
    pub(crate) fn find(cifar: &'static Cifar, path: &Path) -> Result<Option<Self>, Error> {
        let inner = path.join(cifar.folder);
        match Self::find_in(cifar, path) {
            Ok(None) => Self::find_in(cifar, &inner),
            Err(missing @ Error::MissingFile { .. }) => match Self::find_in(cifar, &inner) {
                Ok(Some(layout)) => Ok(Some(layout)),
                _ => Err(missing),
            },
            found => found,
        }
    }

    /// Whether these are all files, each of whole records, and, if the data set `is_official`, of as many as the official file has.
    pub(crate) fn is_whole(&self, is_official: bool) -> Result<bool, Error> {
        let record = self.cifar.record_bytes() as u64;
        let name = |file: &Path| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for file in self.files() {
            let bytes = file.metadata().map_err(reading(file))?.len();
            let whole = bytes > 0 && bytes.is_multiple_of(record);
            if !whole || (is_official && bytes != self.cifar.largest(&name(file))) {
                return Ok(false);
            }
        }
        Ok(self.train.len() == self.cifar.train.len())
    }

    fn find_in(cifar: &'static Cifar, folder: &Path) -> Result<Option<Self>, Error> {
        let missing = |file: &str| Error::MissingFile {
            folder: folder.to_owned(),
            file: file.to_owned(),
            needed: cifar.needed(),
        };
        let there = |file: &str| Ok(kind(&folder.join(file))? == Kind::File);

        let test = there(cifar.test)?;
        let train = cifar.train.iter().map(|file| there(file)).collect::<Result<Vec<bool>, Error>>()?;
        let Some(last) = train.iter().rposition(|&there| there) else {
            return if test { Err(missing(cifar.train[0])) } else { Ok(None) };
        };
        if let Some(gap) = train[..last].iter().position(|&there| !there) {
            return Err(missing(cifar.train[gap]));
        }
        if !test {
            return Err(missing(cifar.test));
        }
        Ok(Some(Self {
            cifar,
            folder: folder.to_owned(),
            train: cifar.train[..=last].iter().map(|file| folder.join(file)).collect(),
            test: folder.join(cifar.test),
        }))
    }

    /// All files, training first.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.train.iter().chain([&self.test])
    }

    /// Reads the training and the test images; of each record, label number `label` is used.
    pub(crate) fn load(&self, label: usize, progress: &dyn Progress) -> Result<(Images, Images), Error> {
        let mut total = 0;
        for file in self.files() {
            total += file.metadata().map_err(reading(file))?.len();
        }
        progress.start(&format!("reading {}", self.cifar.name), Some(total), Unit::Bytes);
        let mut position = 0;
        let mut train = Records::new(self.cifar, label);
        for file in &self.train {
            train.read_file(file, &mut position, progress)?;
        }
        let mut test = Records::new(self.cifar, label);
        test.read_file(&self.test, &mut position, progress)?;
        progress.finish();
        Ok((train.into_images()?, test.into_images()?))
    }
}

/// Records read so far.
#[derive(Debug)]
pub(crate) struct Records {
    cifar: &'static Cifar,
    /// Which label is used.
    label: usize,
    pixels: Vec<u8>,
    labels: Vec<u16>,
}

impl Records {
    pub(crate) fn new(cifar: &'static Cifar, label: usize) -> Self {
        Self { cifar, label, pixels: Vec::new(), labels: Vec::new() }
    }

    fn read_file(&mut self, path: &Path, position: &mut u64, progress: &dyn Progress) -> Result<(), Error> {
        let file = File::open(path).map_err(reading(path))?;
        let bytes = file.metadata().map_err(reading(path))?.len();
        let reader = BufReader::with_capacity(1 << 20, file);
        self.read(&path.display().to_string(), path, reader, bytes, |done| {
            progress.advance(*position + done);
        })?;
        *position += bytes;
        Ok(())
    }

    /// Appends the records of a file (or member of an archive) of so many `bytes`.
    ///
    /// `name` names it in errors about its contents, `path` in errors of the system; `advance` receives the number of bytes read so far.
    pub(crate) fn read(
        &mut self,
        name: &str,
        path: &Path,
        mut reader: impl Read,
        bytes: u64,
        advance: impl Fn(u64),
    ) -> Result<(), Error> {
        /// Records between two reports of progress.
        const REPORT: u64 = 256;

        let cifar = self.cifar;
        let wrong_size = |bytes| cifar.wrong_size(name, bytes);
        let record_bytes = cifar.record_bytes() as u64;
        let records = bytes / record_bytes;
        if records == 0 || !bytes.is_multiple_of(record_bytes) {
            return Err(wrong_size(bytes));
        }
        let count = usize::try_from(records).unwrap_or(usize::MAX);
        reserve_more(|| name.to_owned(), &mut self.pixels, count.saturating_mul(IMAGE_BYTES))?;
        reserve_more(|| name.to_owned(), &mut self.labels, count)?;

        let mut buffer = vec![0; cifar.record_bytes()];
        for record in 0..records {
            reader.read_exact(&mut buffer).map_err(|error| match error.kind() {
                // It has shrunk since its size was read.
                ErrorKind::UnexpectedEof => wrong_size(record * record_bytes),
                _ => reading(path)(error),
            })?;
            let (labels, pixels) = buffer.split_at(cifar.labels.len());
            for (number, &label) in labels.iter().enumerate() {
                cifar.check_label(number, label, name, record)?;
            }
            self.labels.push(labels[self.label].into());
            self.pixels.extend_from_slice(pixels);
            if (record + 1) % REPORT == 0 || record + 1 == records {
                advance((record + 1) * record_bytes);
            }
        }
        Ok(())
    }

    /// Appends the records of `other`.
    pub(crate) fn append(&mut self, mut other: Self) -> Result<(), Error> {
        if self.labels.is_empty() {
            *self = other;
            return Ok(());
        }
        let archive = || self.cifar.archive.to_owned();
        reserve_more(archive, &mut self.pixels, other.pixels.len())?;
        reserve_more(archive, &mut self.labels, other.labels.len())?;
        self.pixels.append(&mut other.pixels);
        self.labels.append(&mut other.labels);
        Ok(())
    }

    pub(crate) fn into_images(self) -> Result<Images, Error> {
        Images::new([3, 32, 32], self.cifar.labels[self.label].into(), self.pixels, self.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoProgress;
    use crate::testing::{RECORD_BYTES, records, six_files, write_files};
    use std::fs;
    use tempfile::TempDir;

    fn load(folder: &Path) -> Result<Option<(Images, Images)>, Error> {
        Layout::find(&CIFAR10, folder)?.map(|layout| layout.load(0, &NoProgress)).transpose()
    }

    /// The records one after the other, without a reader.
    fn images(files: &[(&str, Vec<u8>)]) -> Images {
        let records: Vec<&[u8]> = files.iter().flat_map(|(_, bytes)| bytes.chunks(RECORD_BYTES)).collect();
        let pixels = records.iter().flat_map(|record| record[1..].to_vec()).collect();
        Images::new([3, 32, 32], 10, pixels, records.iter().map(|record| record[0].into()).collect()).unwrap()
    }

    #[test]
    fn any_number_of_records_and_of_training_files() {
        let files = six_files();
        for count in 1..=5 {
            for inner in ["", CIFAR10.folder] {
                let folder = TempDir::new().unwrap();
                write_files(&folder.path().join(inner), &files[..count]);
                write_files(&folder.path().join(inner), &files[5..]);
                let (train, test) = load(folder.path()).unwrap().unwrap();
                assert_eq!(train, images(&files[..count]), "{count} training files");
                assert_eq!(test, images(&files[5..]), "{count} training files");
            }
        }
    }

    #[test]
    fn a_file_longer_than_the_buffers() {
        let folder = TempDir::new().unwrap();
        let files = [("data_batch_1.bin", records(1, 1000)), ("test_batch.bin", records(2, 257))];
        write_files(folder.path(), &files);
        let (train, test) = load(folder.path()).unwrap().unwrap();
        assert_eq!((train, test), (images(&files[..1]), images(&files[1..])));
    }

    #[test]
    fn a_folder_without_any_of_the_files_is_no_layout() {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("readme.html"), "").unwrap();
        assert!(Layout::find(&CIFAR10, folder.path()).unwrap().is_none());
    }

    #[test]
    fn missing_files_are_named() {
        let files = six_files();
        // Which of the six are there, and which is missed.
        let cases: [(&[usize], &str); 5] = [
            (&[0, 1, 2, 3, 4], "test_batch.bin"),
            (&[5], "data_batch_1.bin"),
            (&[1, 5], "data_batch_1.bin"),
            (&[0, 1, 4, 5], "data_batch_3.bin"),
            (&[4], "data_batch_1.bin"),
        ];
        for (there, missing) in cases {
            let folder = TempDir::new().unwrap();
            let files: Vec<_> = there.iter().map(|&i| files[i].clone()).collect();
            write_files(folder.path(), &files);
            let error = Layout::find(&CIFAR10, folder.path()).unwrap_err().to_string();
            let expected = format!("{missing} is missing in {}: ", folder.path().display());
            assert!(error.starts_with(&expected), "{there:?}: {error}");
        }
    }

    #[test]
    fn sizes_that_are_no_records_and_wrong_labels_are_named() {
        let mut label = records(1, 9);
        label[7 * RECORD_BYTES] = 10;
        let cases: [(Vec<u8>, &str); 6] = [
            (Vec::new(), "data_batch_2.bin has 0 bytes, which is not one or more records of 3073 bytes"),
            (vec![0; 1], "data_batch_2.bin has 1 bytes, which is not"),
            (vec![0; 3072], "data_batch_2.bin has 3072 bytes, which is not"),
            (vec![0; 3074], "data_batch_2.bin has 3074 bytes, which is not"),
            (label, "data_batch_2.bin has label 10, but the labels of CIFAR-10 are 0 to 9"),
            (vec![255; 3073], "data_batch_2.bin has label 255"),
        ];
        for (contents, expected) in cases {
            let folder = TempDir::new().unwrap();
            let mut files = six_files();
            files[1].1 = contents;
            write_files(folder.path(), &files);
            let error = load(folder.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(error.contains(&folder.path().display().to_string()), "{error}");
        }
    }

    #[test]
    fn the_record_with_the_wrong_label_is_counted_from_zero() {
        let mut contents = records(1, 9);
        contents[7 * RECORD_BYTES] = 11;
        let error = Records::new(&CIFAR10, 0)
            .read("x.bin", Path::new("x.bin"), contents.as_slice(), contents.len() as u64, |_| ())
            .unwrap_err();
        assert!(matches!(error, Error::RecordLabel { record: 7, label: 11, .. }), "{error}");
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_is_an_error() {
        let contents = records(1, 2);
        let error = Records::new(&CIFAR10, 0)
            .read("x.bin", Path::new("x.bin"), &contents[..4000], contents.len() as u64, |_| ())
            .unwrap_err();
        assert!(matches!(error, Error::FileSize { bytes: 3073, .. }), "{error}");
    }

    #[test]
    fn progress_ends_at_the_size_of_all_files() {
        let folder = TempDir::new().unwrap();
        write_files(folder.path(), &six_files());
        let watcher = crate::testing::Watcher::default();
        Layout::find(&CIFAR10, folder.path()).unwrap().unwrap().load(0, &watcher).unwrap();
        assert_eq!(watcher.last_position(), 21 * RECORD_BYTES as u64);
    }
}
