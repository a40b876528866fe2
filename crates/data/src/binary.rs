//! CIFAR-10's binary version: files of records, each a label byte and 3072 pixel bytes.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::files::{Kind, kind, reading};
use crate::{CLASSES, Error, IMAGE_BYTES, Images, Progress, Unit};

/// The folder in the official archive.
pub(crate) const FOLDER: &str = "cifar-10-batches-bin";
/// Training files in order; the official archive has all five.
pub(crate) const TRAIN_FILES: [&str; 5] =
    ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
/// The file of test images.
pub(crate) const TEST_FILE: &str = "test_batch.bin";
/// A label and an image.
pub(crate) const RECORD_BYTES: usize = 1 + IMAGE_BYTES;

/// The binary files of a folder: `test_batch.bin` and `data_batch_1.bin` up to some number, at most 5, without a gap.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) folder: PathBuf,
    pub(crate) train: Vec<PathBuf>,
    pub(crate) test: PathBuf,
}

impl Layout {
    /// Looks in `path` and in its folder `cifar-10-batches-bin`; `None` if neither has any of the files, an error if neither is
    /// complete.
    pub(crate) fn find(path: &Path) -> Result<Option<Self>, Error> {
        match Self::find_in(path) {
            Ok(None) => Self::find_in(&path.join(FOLDER)),
            Err(missing @ Error::MissingFile { .. }) => match Self::find_in(&path.join(FOLDER)) {
                Ok(Some(layout)) => Ok(Some(layout)),
                _ => Err(missing),
            },
            found => found,
        }
    }

    /// Whether these are all six files, each with as many records (if that is known).
    pub(crate) fn is_whole(&self, records: Option<u64>) -> Result<bool, Error> {
        for file in self.files() {
            let bytes = file.metadata().map_err(reading(file))?.len();
            let whole = bytes > 0 && bytes.is_multiple_of(RECORD_BYTES as u64);
            if !whole || records.is_some_and(|records| bytes != records * RECORD_BYTES as u64) {
                return Ok(false);
            }
        }
        Ok(self.train.len() == TRAIN_FILES.len())
    }

    fn find_in(folder: &Path) -> Result<Option<Self>, Error> {
        let missing = |file: &str| Error::MissingFile { folder: folder.to_owned(), file: file.to_owned() };
        let there = |file: &str| Ok(kind(&folder.join(file))? == Kind::File);

        let test = there(TEST_FILE)?;
        let train = TRAIN_FILES.map(there).into_iter().collect::<Result<Vec<bool>, Error>>()?;
        let Some(last) = train.iter().rposition(|&there| there) else {
            return if test { Err(missing(TRAIN_FILES[0])) } else { Ok(None) };
        };
        if let Some(gap) = train[..last].iter().position(|&there| !there) {
            return Err(missing(TRAIN_FILES[gap]));
        }
        if !test {
            return Err(missing(TEST_FILE));
        }
        Ok(Some(Self {
            folder: folder.to_owned(),
            train: TRAIN_FILES[..=last].iter().map(|file| folder.join(file)).collect(),
            test: folder.join(TEST_FILE),
        }))
    }

    /// All files, training first.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.train.iter().chain([&self.test])
    }

    /// Reads the training and the test images.
    pub(crate) fn load(&self, progress: &dyn Progress) -> Result<(Images, Images), Error> {
        let mut total = 0;
        for file in self.files() {
            total += file.metadata().map_err(reading(file))?.len();
        }
        progress.start("reading CIFAR-10", Some(total), Unit::Bytes);
        let mut position = 0;
        let mut train = Records::default();
        for file in &self.train {
            train.read_file(file, &mut position, progress)?;
        }
        let mut test = Records::default();
        test.read_file(&self.test, &mut position, progress)?;
        progress.finish();
        Ok((train.into_images()?, test.into_images()?))
    }
}

/// Records read so far.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

impl Records {
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
    /// `name` names it in errors about its contents, `path` in errors of the system; `advance` hears the bytes read so far.
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

        let wrong_size = |bytes| Error::FileSize { file: name.to_owned(), bytes };
        let records = bytes / RECORD_BYTES as u64;
        if records == 0 || !bytes.is_multiple_of(RECORD_BYTES as u64) {
            return Err(wrong_size(bytes));
        }
        let memory = || Error::Memory { file: name.to_owned(), bytes };
        let pixels = usize::try_from(records).ok().and_then(|records| records.checked_mul(IMAGE_BYTES));
        self.pixels.try_reserve_exact(pixels.ok_or_else(memory)?).map_err(|_| memory())?;
        self.labels.try_reserve_exact(records as usize).map_err(|_| memory())?;

        let mut buffer = [0; RECORD_BYTES];
        for record in 0..records {
            reader.read_exact(&mut buffer).map_err(|error| match error.kind() {
                // It has shrunk since its size was asked.
                ErrorKind::UnexpectedEof => wrong_size(record * RECORD_BYTES as u64),
                _ => reading(path)(error),
            })?;
            let (&label, pixels) = buffer.split_first().expect("a record is not empty");
            if usize::from(label) >= CLASSES {
                return Err(Error::RecordLabel { file: name.to_owned(), record, label });
            }
            self.labels.push(label);
            self.pixels.extend_from_slice(pixels);
            if (record + 1) % REPORT == 0 || record + 1 == records {
                advance((record + 1) * RECORD_BYTES as u64);
            }
        }
        Ok(())
    }

    /// Appends the records of `other`.
    pub(crate) fn append(&mut self, mut other: Self) {
        if self.labels.is_empty() {
            *self = other;
        } else {
            self.pixels.append(&mut other.pixels);
            self.labels.append(&mut other.labels);
        }
    }

    pub(crate) fn into_images(self) -> Result<Images, Error> {
        Images::new(self.pixels, self.labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoProgress;
    use crate::testing::{records, six_files, write_files};
    use std::fs;
    use tempfile::TempDir;

    fn load(folder: &Path) -> Result<Option<(Images, Images)>, Error> {
        Layout::find(folder)?.map(|layout| layout.load(&NoProgress)).transpose()
    }

    /// The records one after the other, without a reader.
    fn images(files: &[(&str, Vec<u8>)]) -> Images {
        let records: Vec<&[u8]> = files.iter().flat_map(|(_, bytes)| bytes.chunks(RECORD_BYTES)).collect();
        let pixels = records.iter().flat_map(|record| record[1..].to_vec()).collect();
        Images::new(pixels, records.iter().map(|record| record[0]).collect()).unwrap()
    }

    #[test]
    fn any_number_of_records_and_of_training_files() {
        let files = six_files();
        for count in 1..=5 {
            for inner in ["", FOLDER] {
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
        assert!(Layout::find(folder.path()).unwrap().is_none());
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
            let error = Layout::find(folder.path()).unwrap_err().to_string();
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
        let error = Records::default()
            .read("x.bin", Path::new("x.bin"), contents.as_slice(), contents.len() as u64, |_| ())
            .unwrap_err();
        assert!(matches!(error, Error::RecordLabel { record: 7, label: 11, .. }), "{error}");
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_is_an_error() {
        let contents = records(1, 2);
        let error = Records::default()
            .read("x.bin", Path::new("x.bin"), &contents[..4000], contents.len() as u64, |_| ())
            .unwrap_err();
        assert!(matches!(error, Error::FileSize { bytes: 3073, .. }), "{error}");
    }

    #[test]
    fn progress_ends_at_the_size_of_all_files() {
        let folder = TempDir::new().unwrap();
        write_files(folder.path(), &six_files());
        let watcher = crate::testing::Watcher::default();
        Layout::find(folder.path()).unwrap().unwrap().load(&watcher).unwrap();
        assert_eq!(watcher.last_position(), 21 * RECORD_BYTES as u64);
    }
}
