//! MNIST and Fashion-MNIST: four files in the idx format, gzipped as their authors publish them or unpacked.
//!
//! An idx file begins with two zeros, the type of its values (8: bytes), the number of its dimensions, and each of these as four bytes, most
//! significant first; the values follow.

use std::fs::{self, File};
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use crate::archive;
use crate::dataset::reserve;
use crate::download::{Patience, download};
use crate::file_spec::FileSpec;
use crate::files::{Kind, kind, lock, reading, writing};
use crate::image_folder::names;
use crate::verify::{FileReport, examine};
use crate::{Error, Images, NoProgress, Progress, Unit};

const SIDE: usize = 28;
const CLASSES: u8 = 10;

/// The files: training images and labels, test images and labels.
const FILES: [&str; 4] = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
];
const GZIPPED: [&str; 4] = [
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
];

/// A data set of the MNIST family.
#[derive(Debug)]
pub(crate) struct Idx {
    pub(crate) name: &'static str,
    /// Folders in which other tools keep the files.
    folders: [&'static str; 2],
    /// Training and test images.
    counts: [u32; 2],
    /// Size and MD5 of each gzipped file.
    official: [(u64, &'static str); 4],
}

pub(crate) static MNIST: Idx = Idx {
    name: "MNIST",
    folders: ["MNIST/raw", "raw"],
    counts: [60_000, 10_000],
    official: [
        (9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        (28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
        (1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
        (4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
    ],
};

pub(crate) static FASHION_MNIST: Idx = Idx {
    name: "Fashion-MNIST",
    folders: ["FashionMNIST/raw", "raw"],
    counts: [60_000, 10_000],
    official: [
        (26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        (29_515, "25c81989df183df01b3e8a0aad5dffbe"),
        (4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
        (5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
    ],
};

/// All of the family, which must be told apart. A test in `source.rs` checks that none is missing.
pub(crate) const ALL: [&Idx; 2] = [&MNIST, &FASHION_MNIST];

impl Idx {
    fn spec(&self, file: usize) -> FileSpec {
        let (bytes, md5) = self.official[file];
        FileSpec { name: GZIPPED[file], bytes, md5: md5.to_owned() }
    }

    /// Images or labels that file number `file` has in the official data set.
    fn count(&self, file: usize) -> u32 {
        self.counts[file / 2]
    }

    fn bad(&self, path: &Path, cause: String) -> Error {
        Error::Idx { path: path.to_owned(), dataset: self.name, cause }
    }
}

/// Where the images came from, as text for users, and the training and test images.
pub(crate) fn load(
    idx: &'static Idx,
    path: &Path,
    progress: &dyn Progress,
) -> Result<(String, (Images, Images)), Error> {
    let found = Layout::complete(idx, path)?;
    let mut total = 0;
    for file in &found.files {
        total += file.metadata().map_err(reading(file))?.len();
    }
    progress.start(&format!("reading {}", idx.name), Some(total), Unit::Bytes);
    let mut position = 0;
    let mut set = |images: usize| {
        let [pixels, labels] = [images, images + 1].map(|number| {
            let file = &found.files[number];
            let values = read(idx, number, file, &|bytes| progress.advance(position + bytes));
            position += file.metadata().map_or(0, |metadata| metadata.len());
            values
        });
        let (pixels, labels) = (pixels?, labels?);
        let count = pixels.len() / (SIDE * SIDE);
        if count != labels.len() {
            let [images, labels_file] = [images, images + 1].map(|number| found.files[number].clone());
            return Err(Error::Counts { images, count, labels_file, labels: labels.len() });
        }
        let labels = labels.into_iter().map(u16::from).collect();
        Images::new([1, SIDE, SIDE], CLASSES.into(), pixels, labels)
    };
    let images = (set(0)?, set(2)?);
    progress.finish();
    Ok((format!("{} files in {}", idx.name, found.folder.display()), images))
}

/// Reads them from a cache, which is completed first.
pub(crate) fn load_cached(
    idx: &'static Idx,
    cache: &Path,
    addresses: &[String],
    progress: &dyn Progress,
) -> Result<(String, (Images, Images)), Error> {
    let folder = fetch(idx, cache, addresses, progress)?;
    load(idx, &folder, progress)
}

/// Downloads those of the four files that are missing or not as published, and returns where they are.
pub(crate) fn fetch(
    idx: &'static Idx,
    cache: &Path,
    addresses: &[String],
    progress: &dyn Progress,
) -> Result<PathBuf, Error> {
    fetch_patiently(idx, cache, addresses, &Patience::default(), progress)
}

fn fetch_patiently(
    idx: &'static Idx,
    cache: &Path,
    addresses: &[String],
    patience: &Patience,
    progress: &dyn Progress,
) -> Result<PathBuf, Error> {
    let (folder, lacking) = lacking(idx, cache, progress)?;
    if lacking.is_empty() {
        return Ok(folder);
    }
    fs::create_dir_all(cache).map_err(writing(cache))?;
    // Held until the end of this function; the system releases it if the process dies.
    let _lock = lock(cache, progress)?;
    // Another process may have been faster.
    let (folder, lacking) = self::lacking(idx, cache, progress)?;
    for number in lacking {
        let spec = idx.spec(number);
        let addresses: Vec<String> =
            addresses.iter().map(|base| format!("{}/{}", base.trim_end_matches('/'), spec.name)).collect();
        download(&folder.join(spec.name), &addresses, &spec, idx.name, patience, progress)?;
    }
    Ok(folder)
}

/// The numbers of the files that are missing or not as published, and where they belong.
fn lacking(idx: &Idx, cache: &Path, progress: &dyn Progress) -> Result<(PathBuf, Vec<usize>), Error> {
    let Some((folder, files)) = find(idx, cache)? else { return Ok((cache.to_owned(), vec![0, 1, 2, 3])) };
    let mut lacking = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let whole = match file {
            None => false,
            Some(path) => match check(idx, number, path, progress) {
                Ok(()) => true,
                Err(error @ (Error::Read { .. } | Error::Memory { .. })) => return Err(error),
                Err(error) => {
                    progress.note(&error.to_string());
                    false
                }
            },
        };
        if !whole {
            lacking.push(number);
        }
    }
    Ok((folder, lacking))
}

/// An error unless a file is the published one: by its digest if it is gzipped, by its contents otherwise.
fn check(idx: &Idx, number: usize, path: &Path, progress: &dyn Progress) -> Result<(), Error> {
    if is_gzipped(path)? {
        return archive::check(path, &idx.spec(number), progress).map(drop);
    }
    let values = read(idx, number, path, &|_| ())?;
    let (count, expected) = (values.len() / value_bytes(number), idx.count(number) as usize);
    if count != expected {
        return Err(idx.bad(path, format!("has {count} of the {expected} {}", what(number))));
    }
    Ok(())
}

/// What `path` holds, read and checked, if that makes [`fetch`] unnecessary.
pub(crate) fn find_whole(
    idx: &'static Idx,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Option<String>, Error> {
    match kind(path)? {
        Kind::Nothing => return Ok(None),
        Kind::Folder => {}
        Kind::File | Kind::Other => {
            return Err(Error::NotAFolder { path: path.to_owned(), dataset: idx.name });
        }
    }
    let (folder, lacking) = lacking(idx, path, progress)?;
    if lacking.is_empty() { load(idx, &folder, progress).map(|(source, _)| Some(source)) } else { Ok(None) }
}

/// A report on each of the four files.
pub(crate) fn verify(
    idx: &'static Idx,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Vec<FileReport>, Error> {
    let found = Layout::complete(idx, path)?;
    let mut reports = Vec::new();
    for (number, path) in found.files.iter().enumerate() {
        let (bytes, sha256) = examine(path, progress, |_, _| ())?;
        let (records, problem) = match read(idx, number, path, &|_| ()) {
            Ok(values) => (Some((values.len() / value_bytes(number)) as u64), None),
            Err(error @ (Error::Read { .. } | Error::Memory { .. })) => return Err(error),
            Err(error) => (None, Some(error)),
        };
        let is_label = |error: &Error| matches!(error, Error::RecordLabel { .. });
        let labels_valid = (number % 2 == 1).then(|| !problem.as_ref().is_some_and(is_label));
        let problem = problem.map(|problem| problem.to_string());
        reports.push(FileReport { path: path.clone(), bytes, records, sha256, labels_valid, problem });
    }
    let [train, train_labels, test, test_labels] = &mut reports[..] else { return Ok(reports) };
    for (images, labels) in [(train, train_labels), (test, test_labels)] {
        if let (Some(count), Some(found)) = (images.records, labels.records)
            && count != found
        {
            let (images, labels_file) = (images.path.clone(), labels.path.clone());
            let error = Error::Counts { images, count: count as usize, labels_file, labels: found as usize };
            labels.problem = Some(error.to_string());
        }
    }
    Ok(reports)
}

/// The four files of a folder.
struct Layout {
    folder: PathBuf,
    files: [PathBuf; 4],
}

impl Layout {
    fn complete(idx: &Idx, path: &Path) -> Result<Self, Error> {
        match kind(path)? {
            Kind::Nothing => {
                let wanted = format!("the folder that holds {}", idx.name);
                return Err(Error::NoSuchPath { path: path.to_owned(), wanted });
            }
            Kind::Folder => {}
            Kind::File | Kind::Other => {
                return Err(Error::NotAFolder { path: path.to_owned(), dataset: idx.name });
            }
        }
        let Some((folder, files)) = find(idx, path)? else {
            let looked_for = format!(
                "{}, gzipped or not, in it and in its folders {} and {}",
                FILES.join(", "),
                idx.folders[0],
                idx.folders[1]
            );
            let found = names(path)?;
            return Err(Error::NotFound { path: path.to_owned(), dataset: idx.name, looked_for, found });
        };
        let [Some(a), Some(b), Some(c), Some(d)] = files else {
            let missing = files.iter().position(Option::is_none).unwrap_or_default();
            let needed = format!("{}, each gzipped or not", FILES.join(", "));
            return Err(Error::MissingFile { folder, file: FILES[missing].to_owned(), needed });
        };
        Ok(Self { folder, files: [a, b, c, d] })
    }
}

/// The first folder with all files, or else the first with some.
type FoundFiles = (PathBuf, [Option<PathBuf>; 4]);

fn find(idx: &Idx, path: &Path) -> Result<Option<FoundFiles>, Error> {
    let mut first = None;
    for inner in ["", idx.folders[0], idx.folders[1]] {
        let folder = if inner.is_empty() { path.to_owned() } else { path.join(inner) };
        let mut files = [const { None }; 4];
        for (number, file) in files.iter_mut().enumerate() {
            // A gzipped file itself shows whether it is complete.
            for name in [GZIPPED[number], FILES[number]] {
                let path = folder.join(name);
                if file.is_none() && kind(&path)? == Kind::File {
                    *file = Some(path);
                }
            }
        }
        if files.iter().all(Option::is_some) {
            return Ok(Some((folder, files)));
        }
        if first.is_none() && files.iter().any(Option::is_some) {
            first = Some((folder, files));
        }
    }
    Ok(first)
}

/// Bytes of an image or a label.
fn value_bytes(number: usize) -> usize {
    if number.is_multiple_of(2) { SIDE * SIDE } else { 1 }
}

fn what(number: usize) -> &'static str {
    if number.is_multiple_of(2) { "images" } else { "labels" }
}

fn is_gzipped(path: &Path) -> Result<bool, Error> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(reading(path))?;
    file.take(2).read_to_end(&mut start).map_err(reading(path))?;
    Ok(start == [0x1F, 0x8B])
}

/// The values of file number `number`, checked. `advance` receives the number of bytes read from the file so far.
///
/// No more is read, and no more memory taken, than the header says, which may say no more than the data set has.
pub(crate) fn read(idx: &Idx, number: usize, path: &Path, advance: &dyn Fn(u64)) -> Result<Vec<u8>, Error> {
    refuse_other(idx, number, path)?;
    let gzipped = is_gzipped(path)?;
    let file = File::open(path).map_err(reading(path))?;
    let reader = Watched { inner: BufReader::with_capacity(1 << 16, file), position: 0, advance };
    let reader: Box<dyn Read + '_> =
        if gzipped { Box::new(GzDecoder::new(reader)) } else { Box::new(reader) };
    let mut reader = Reader { inner: reader, idx, path };

    let dimensions: &[usize] = if number.is_multiple_of(2) { &[SIDE, SIDE] } else { &[] };
    let mut magic = [0; 4];
    let n = reader.fill(&mut magic)?;
    let wanted = [0, 0, 8, 1 + dimensions.len() as u8];
    if magic != wanted || n < 4 {
        return Err(idx.bad(path, not_idx(&magic[..n], wanted)));
    }
    let mut number_of = || {
        let mut bytes = [0; 4];
        match reader.fill(&mut bytes)? {
            4 => Ok(u32::from_be_bytes(bytes)),
            _ => Err(idx.bad(path, "ends within its header".to_owned())),
        }
    };
    let count = number_of()?;
    for &side in dimensions {
        let found = number_of()?;
        if found as usize != side {
            return Err(idx.bad(path, format!("has images of another size than {SIDE} x {SIDE} pixels")));
        }
    }
    let (what, most) = (what(number), idx.count(number));
    if count == 0 || count > most {
        return Err(idx.bad(path, format!("says that it has {count} {what}, and the data set has {most}")));
    }
    let bytes = count as usize * value_bytes(number);
    let mut values: Vec<u8> = reserve(|| path.display().to_string(), bytes)?;
    values.resize(bytes, 0);
    let n = reader.fill(&mut values)?;
    if n < bytes {
        return Err(idx.bad(path, format!("ends after {n} of {bytes} bytes of {what}")));
    }
    // Of a gzipped file, this also reads the checksum at its end.
    if reader.fill(&mut [0])? > 0 {
        return Err(idx.bad(path, format!("continues after the {count} {what} that its header announces")));
    }
    if number % 2 == 1
        && let Some(record) = values.iter().position(|&label| label >= CLASSES)
    {
        return Err(Error::RecordLabel {
            file: path.display().to_string(),
            record: record as u64,
            label: values[record],
            dataset: idx.name,
            last: CLASSES - 1,
        });
    }
    Ok(values)
}

/// An error if a file belongs to another data set of the family: all have the same file names and headers.
fn refuse_other(idx: &Idx, number: usize, path: &Path) -> Result<(), Error> {
    others(idx).try_for_each(|other| refuse_file_of(other, idx, number, path))
}

/// The published data sets of the family, without this one.
fn others(idx: &Idx) -> impl Iterator<Item = &'static Idx> {
    ALL.into_iter().filter(|other| other.name != idx.name)
}

fn refuse_file_of(other: &Idx, idx: &Idx, number: usize, path: &Path) -> Result<(), Error> {
    // Whatever has another size is not read.
    match archive::check(path, &other.spec(number), &NoProgress) {
        Ok(_) => Err(Error::OtherVersion {
            path: path.to_owned(),
            version: format!("a file of {}", other.name),
            wanted: format!("the folder that holds {}", idx.name),
        }),
        Err(error @ Error::Read { .. }) => Err(error),
        Err(_) => Ok(()),
    }
}

/// What is wrong with a file that begins differently.
fn not_idx(start: &[u8], wanted: [u8; 4]) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    match start {
        [] => "is empty".to_owned(),
        [b'<', ..] => "is a web page".to_owned(),
        [b'P', b'K', 3, 4] => "is a zip archive".to_owned(),
        start => format!("begins with the bytes {} instead of {}", hex(start), hex(&wanted)),
    }
}

/// Reads with errors that name the file.
struct Reader<'a> {
    inner: Box<dyn Read + 'a>,
    idx: &'a Idx,
    path: &'a Path,
}

impl Reader<'_> {
    /// Fills `buffer` as far as the file goes; returns the number of bytes read.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        let mut n = 0;
        while n < buffer.len() {
            match self.inner.read(&mut buffer[n..]) {
                Ok(0) => break,
                Ok(read) => n += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    return Err(self.idx.bad(self.path, "is cut short".to_owned()));
                }
                // What unpacking reports for bytes that are not packed.
                Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData) => {
                    return Err(self.idx.bad(self.path, format!("cannot be unpacked ({error})")));
                }
                Err(error) => return Err(reading(self.path)(error)),
            }
        }
        Ok(n)
    }
}

/// Reports how far a file is read.
struct Watched<'a, R> {
    inner: R,
    position: u64,
    advance: &'a dyn Fn(u64),
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.position += n as u64;
        (self.advance)(self.position);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FileServer, Watcher, gzip, idx_file, md5_hex, noise, write_files};
    use std::time::Duration;
    use tempfile::TempDir;

    const COUNTS: [u32; 2] = [7, 4];

    /// The four files unpacked, with labels 0, 1, ..., 6 and 0, ..., 3.
    fn unpacked() -> Vec<(&'static str, Vec<u8>)> {
        let mut files = Vec::new();
        for (set, count) in COUNTS.into_iter().enumerate() {
            let pixels = noise(set as u64, count as usize * SIDE * SIDE);
            let labels: Vec<u8> = (0..count as u8).collect();
            files.push((FILES[2 * set], idx_file(&[count, 28, 28], &pixels)));
            files.push((FILES[2 * set + 1], idx_file(&[count], &labels)));
        }
        files
    }

    fn gzipped() -> Vec<(&'static str, Vec<u8>)> {
        GZIPPED.into_iter().zip(unpacked()).map(|(name, (_, bytes))| (name, gzip(&bytes))).collect()
    }

    /// A data set of which these are the official files.
    fn small() -> &'static Idx {
        let files: Vec<_> = gzipped().iter().map(|(_, bytes)| (bytes.len() as u64, md5_hex(bytes))).collect();
        let official = std::array::from_fn(|i| (files[i].0, &*files[i].1.clone().leak()));
        Box::leak(Box::new(Idx {
            name: "Small-MNIST",
            folders: ["MNIST/raw", "raw"],
            counts: COUNTS,
            official,
        }))
    }

    fn folder_of(files: &[(&'static str, Vec<u8>)]) -> TempDir {
        let folder = TempDir::new().unwrap();
        write_files(folder.path(), files);
        folder
    }

    fn expected() -> (Images, Images) {
        let images = |set: usize| {
            let count = COUNTS[set] as usize;
            let pixels = noise(set as u64, count * SIDE * SIDE);
            Images::new([1, 28, 28], 10, pixels, (0..count as u16).collect()).unwrap()
        };
        (images(0), images(1))
    }

    fn error(files: &[(&'static str, Vec<u8>)]) -> String {
        load(&MNIST, folder_of(files).path(), &NoProgress).unwrap_err().to_string()
    }

    #[test]
    fn files_are_read_gzipped_or_not_wherever_torchvision_keeps_them() {
        for files in [gzipped(), unpacked()] {
            for inner in ["", "MNIST/raw", "raw"] {
                let folder = TempDir::new().unwrap();
                write_files(&folder.path().join(inner), &files);
                let (source, images) = load(&MNIST, folder.path(), &NoProgress).unwrap();
                assert_eq!(images, expected());
                assert!(source.starts_with("MNIST files in "), "{source}");
            }
        }
        // Both, and half here and all there.
        let folder = folder_of(&unpacked()[..2]);
        write_files(&folder.path().join("raw"), &[gzipped(), unpacked()].concat());
        assert_eq!(load(&MNIST, folder.path(), &NoProgress).unwrap().1, expected());
    }

    #[test]
    fn progress_ends_at_the_size_of_all_files() {
        let watcher = Watcher::default();
        load(&MNIST, folder_of(&gzipped()).path(), &watcher).unwrap();
        let total: usize = gzipped().iter().map(|(_, bytes)| bytes.len()).sum();
        assert_eq!(watcher.last_position(), total as u64);
    }

    #[test]
    fn bad_files_are_refused_by_name() {
        let pixels = |n: usize| vec![7; n * SIDE * SIDE];
        let cases: Vec<(usize, Vec<u8>, &str)> = vec![
            (0, Vec::new(), "train-images-idx3-ubyte is empty: it is not an idx file of MNIST"),
            (0, b"<!doctype html>".to_vec(), "train-images-idx3-ubyte is a web page"),
            (
                2,
                idx_file(&[4], &[0, 1, 2, 3]),
                "t10k-images-idx3-ubyte begins with the bytes 00 00 08 01 instead of 00 00 08 03",
            ),
            (
                1,
                idx_file(&[7, 28, 28], &pixels(7)),
                "begins with the bytes 00 00 08 03 instead of 00 00 08 01",
            ),
            (0, vec![0, 0, 8, 3, 0, 0], "ends within its header"),
            (0, idx_file(&[7, 32, 28], &pixels(7)), "has images of another size than 28 x 28 pixels"),
            (0, idx_file(&[0, 28, 28], &[]), "says that it has 0 images, and the data set has 60000"),
            (
                0,
                idx_file(&[u32::MAX, 28, 28], &pixels(1)),
                "says that it has 4294967295 images, and the data set has 60000",
            ),
            (1, idx_file(&[60_001], &[0]), "says that it has 60001 labels, and the data set has 60000"),
            (0, idx_file(&[7, 28, 28], &pixels(6)), "ends after 4704 of 5488 bytes of images"),
            (0, idx_file(&[7, 28, 28], &pixels(8)), "continues after the 7 images that its header announces"),
            (
                3,
                idx_file(&[4], &[0, 1, 10, 255]),
                "t10k-labels-idx1-ubyte has label 10, but the labels of MNIST are 0 to 9",
            ),
            (1, idx_file(&[6], &[0; 6]), "train-labels-idx1-ubyte has 6 labels: copy or fetch both again"),
            (2, idx_file(&[3, 28, 28], &pixels(3)), "t10k-images-idx3-ubyte has 3 images, and "),
        ];
        for (number, contents, expected) in cases {
            for packed in [false, true] {
                if packed && (contents.is_empty() || contents.starts_with(b"<")) {
                    continue;
                }
                let mut files = unpacked();
                if packed {
                    files[number] = (GZIPPED[number], gzip(&contents));
                } else {
                    files[number].1.clone_from(&contents);
                }
                let error = error(&files);
                let expected =
                    if packed { expected.replace("ubyte ", "ubyte.gz ") } else { expected.to_owned() };
                assert!(error.contains(&expected), "{error}");
                assert!(!error.contains('\n'), "{error}");
            }
        }
    }

    #[test]
    fn a_gzipped_file_cut_or_changed_anywhere_is_refused() {
        let whole = gzipped()[1].1.clone();
        for n in 2..whole.len() {
            let mut files = gzipped();
            files[1].1.truncate(n);
            let error = error(&files);
            assert!(error.contains("train-labels-idx1-ubyte.gz"), "{n} bytes: {error}");
        }
        let mut files = gzipped();
        let last = files[0].1.len() - 6;
        // In the checksum.
        files[0].1[last] ^= 1;
        assert!(
            error(&files).contains("train-images-idx3-ubyte.gz cannot be unpacked ("),
            "{}",
            error(&files)
        );
    }

    /// A gigabyte of zeros, as a megabyte.
    #[test]
    fn what_unpacks_to_more_than_it_says_is_not_unpacked() {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&idx_file(&[7, 28, 28], &[])).unwrap();
        for _ in 0..1024 {
            encoder.write_all(&[0; 1 << 20]).unwrap();
        }
        let mut files = gzipped();
        files[0].1 = encoder.finish().unwrap();
        let folder = folder_of(&files);
        let read_so_far = std::cell::Cell::new(0);
        let result = read(&MNIST, 0, &folder.path().join(GZIPPED[0]), &|bytes| read_so_far.set(bytes));
        assert!(result.unwrap_err().to_string().contains("continues after the 7 images"));
        let (read, all) = (read_so_far.get(), files[0].1.len() as u64);
        assert!(read < all / 2, "{read} of {all} bytes were read");
    }

    #[test]
    fn missing_files_are_named() {
        for (missing, name) in FILES.into_iter().enumerate() {
            let mut files = gzipped();
            files.remove(missing);
            let error = error(&files);
            assert!(error.starts_with(&format!("{name} is missing in ")), "{error}");
        }
        let empty = TempDir::new().unwrap();
        let path = empty.path();
        let error = load(&MNIST, path, &NoProgress).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("no MNIST in {}: looked for train-images", path.display())),
            "{error}"
        );
        let error = load(&MNIST, &path.join("x"), &NoProgress).unwrap_err().to_string();
        assert!(error.ends_with("does not exist: give the folder that holds MNIST"), "{error}");
        let file = path.join("mnist.npz");
        fs::write(&file, "").unwrap();
        let error = load(&MNIST, &file, &NoProgress).unwrap_err().to_string();
        assert!(error.ends_with("is not a folder: give the folder that holds MNIST"), "{error}");
    }

    #[test]
    fn the_files_of_the_other_data_set_are_not_taken_for_these() {
        let folder = folder_of(&gzipped());
        let path = folder.path().join(GZIPPED[0]);
        let error = refuse_file_of(small(), &MNIST, 0, &path).unwrap_err().to_string();
        assert!(error.ends_with("is a file of Small-MNIST: give the folder that holds MNIST"), "{error}");
        assert!(refuse_file_of(small(), &MNIST, 2, &path).is_ok());
        assert!(refuse_file_of(&FASHION_MNIST, &MNIST, 0, &path).is_ok());
        let named = |name: &str, idx| others(idx).any(|other| other.name == name);
        assert!(named("MNIST", &FASHION_MNIST) && named("Fashion-MNIST", small()));
        assert!(!named("MNIST", &MNIST));
    }

    fn fetch_small(cache: &Path, addresses: &[String], watcher: &Watcher) -> Result<PathBuf, Error> {
        let patience = Patience { pause: Duration::ZERO, proxy: None, ..Patience::default() };
        fetch_patiently(small(), cache, addresses, &patience, watcher)
    }

    #[test]
    fn fetch_gets_what_is_missing_or_wrong_and_nothing_else() {
        let server = FileServer::new(&gzipped());
        let addresses = [server.address.clone()];
        let cache = TempDir::new().unwrap();
        let cache = cache.path().join("not/yet");
        let watcher = Watcher::default();
        assert_eq!(fetch_small(&cache, &addresses, &watcher).unwrap(), cache);
        assert_eq!(server.asked(), GZIPPED);
        assert_eq!(load(small(), &cache, &NoProgress).unwrap().1, expected());
        fetch_small(&cache, &addresses, &watcher).unwrap();
        assert!(server.asked().is_empty());

        // One is missing, one cut short, one of the right size changed, and one unpacked by somebody.
        fs::remove_file(cache.join(GZIPPED[0])).unwrap();
        fs::write(cache.join(GZIPPED[1]), &gzipped()[1].1[..20]).unwrap();
        let mut changed = gzipped()[2].1.clone();
        changed[500] ^= 1;
        fs::write(cache.join(GZIPPED[2]), &changed).unwrap();
        fs::remove_file(cache.join(GZIPPED[3])).unwrap();
        fs::write(cache.join(FILES[3]), &unpacked()[3].1).unwrap();
        fetch_small(&cache, &addresses, &watcher).unwrap();
        assert_eq!(server.asked(), GZIPPED[..3]);
        assert_eq!(load(small(), &cache, &NoProgress).unwrap().1, expected());
        // Nothing is lost.
        assert_eq!(fs::read(cache.join(format!("{}.old", GZIPPED[2]))).unwrap(), changed);
        // An unpacked file with only some of its values is not complete.
        fs::write(cache.join(FILES[3]), idx_file(&[3], &[0, 1, 2])).unwrap();
        fetch_small(&cache, &addresses, &watcher).unwrap();
        assert_eq!(server.asked(), GZIPPED[3..]);
    }

    #[test]
    fn fetch_completes_the_folder_that_has_some_and_tries_the_next_address() {
        let cache = TempDir::new().unwrap();
        let inner = cache.path().join("MNIST/raw");
        write_files(&inner, &gzipped()[..2]);
        let (empty, server) = (FileServer::new(&[]), FileServer::new(&gzipped()));
        let without_slash = server.address.trim_end_matches('/').to_owned();
        let addresses = [empty.address.clone(), without_slash];
        assert_eq!(fetch_small(cache.path(), &addresses, &Watcher::default()).unwrap(), inner);
        assert_eq!(
            (empty.asked().len(), server.asked()),
            (2, GZIPPED[2..].iter().map(|&x| x.to_owned()).collect())
        );
        assert!(find_whole(small(), cache.path(), &NoProgress).unwrap().is_some());

        let error = fetch_small(
            &TempDir::new().unwrap().path().join("x"),
            std::slice::from_ref(&empty.address),
            &Watcher::default(),
        );
        let error = error.unwrap_err().to_string();
        assert!(
            error.starts_with("could not download train-images-idx3-ubyte.gz (http://127.0.0.1:"),
            "{error}"
        );
        assert!(error.contains("give a folder that holds Small-MNIST with --data-dir"), "{error}");
    }

    #[test]
    fn every_bad_file_is_reported() {
        let mut files = gzipped();
        files[0].1.truncate(100);
        files[3] = (GZIPPED[3], gzip(&idx_file(&[4], &[0, 1, 10, 3])));
        files[1] = (FILES[1], unpacked()[1].1.clone());
        let folder = folder_of(&files);
        let reports = verify(&MNIST, folder.path(), &NoProgress).unwrap();
        let bad: Vec<usize> = (0..4).filter(|&i| reports[i].problem.is_some()).collect();
        assert_eq!(bad, [0, 3]);
        assert_eq!((reports[1].records, reports[1].labels_valid), (Some(7), Some(true)));
        assert_eq!((reports[2].records, reports[2].labels_valid), (Some(4), None));
        assert_eq!(reports[3].labels_valid, Some(false));
        // Each is good, but they do not go together.
        let mut files = gzipped();
        files[1].1 = gzip(&idx_file(&[6], &[0; 6]));
        let reports = verify(&MNIST, folder_of(&files).path(), &NoProgress).unwrap();
        assert!(reports[1].problem.as_ref().unwrap().contains("has 6 labels"), "{reports:?}");
    }
}
