//! A report on every file of a folder, without stopping at the first fault.

use std::fs::File;
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};
use sha2::Sha256;

use crate::archive::{self, ARCHIVE, ArchiveSpec};
use crate::binary::{Layout, RECORD_BYTES};
use crate::files::{Kind, hex, in_chunks, kind, reading};
use crate::source::not_found;
use crate::{CLASSES, Error, Progress, Unit};

/// What a file is and whether it can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Whole records (label and image) in a binary file; `None` for the archive.
    pub records: Option<u64>,
    /// SHA-256 of the whole file, hexadecimal.
    pub sha256: String,
    /// Whether every label is 0 to 9; `None` for the archive.
    pub labels_valid: Option<bool>,
    /// Why the file cannot be used, if so: one sentence.
    pub problem: Option<String>,
}

/// Examines the binary files in `path` or in its folder `cifar-10-batches-bin`, and the archive `cifar-10-binary.tar.gz` in
/// it (or that `path` is), whatever of them is there.
///
/// # Errors
///
/// [`Error::NoSuchPath`], [`Error::NotAnArchive`], [`Error::NotFound`] if there is none of them, [`Error::MissingFile`] if binary files are missing,
/// [`Error::Read`]. A file with wrong contents is no error but has a [`problem`](FileReport::problem).
pub fn verify(path: &Path, progress: &dyn Progress) -> Result<Vec<FileReport>, Error> {
    let (layout, archive) = match kind(path)? {
        Kind::Nothing => return Err(Error::NoSuchPath { path: path.to_owned() }),
        Kind::File => (None, path.to_owned()),
        Kind::Other => return Err(Error::NotAnArchive { path: path.to_owned() }),
        Kind::Folder => (Layout::find(path)?, path.join(ARCHIVE)),
    };
    let mut reports = Vec::new();
    for file in layout.iter().flat_map(Layout::files) {
        reports.push(binary(file, progress)?);
    }
    if kind(&archive)? == Kind::File {
        reports.push(official(&archive, &ArchiveSpec::official(), progress)?);
    }
    if reports.is_empty() {
        return Err(not_found(path)?);
    }
    Ok(reports)
}

fn binary(path: &Path, progress: &dyn Progress) -> Result<FileReport, Error> {
    let mut first_bad: Option<(u64, u8)> = None;
    let (bytes, sha256) = examine(path, progress, |chunk, start| {
        // Labels are at multiples of the record size; the first in this chunk:
        let record = start.div_ceil(RECORD_BYTES as u64);
        let offset = (record * RECORD_BYTES as u64 - start) as usize;
        let labels = chunk.iter().skip(offset).step_by(RECORD_BYTES);
        let bad = (record..).zip(labels).find(|&(_, &label)| usize::from(label) >= CLASSES);
        first_bad = first_bad.or(bad.map(|(record, &label)| (record, label)));
    })?;
    let file = path.display().to_string();
    let problem = if bytes == 0 || !bytes.is_multiple_of(RECORD_BYTES as u64) {
        Some(Error::FileSize { file, bytes })
    } else {
        first_bad.map(|(record, label)| Error::RecordLabel { file, record, label })
    };
    Ok(FileReport {
        path: path.to_owned(),
        bytes,
        records: Some(bytes / RECORD_BYTES as u64),
        sha256,
        labels_valid: Some(first_bad.is_none()),
        problem: problem.map(|problem| problem.to_string()),
    })
}

fn official(path: &Path, spec: &ArchiveSpec, progress: &dyn Progress) -> Result<FileReport, Error> {
    let mut md5 = Md5::new();
    let (bytes, sha256) = examine(path, progress, |chunk, _| md5.update(chunk))?;
    let actual = hex(&md5.finalize());
    let problem = if bytes != spec.bytes {
        Some(Error::ArchiveSize { path: path.to_owned(), actual: bytes, expected: spec.bytes })
    } else if actual != spec.md5 {
        Some(Error::ArchiveDigest { path: path.to_owned(), actual, expected: spec.md5.clone() })
    } else {
        None
    };
    Ok(FileReport {
        path: path.to_owned(),
        bytes,
        records: None,
        sha256,
        labels_valid: None,
        problem: problem.map(|problem| archive::explained(path, problem).to_string()),
    })
}

/// Size and SHA-256 of a file; `each` gets its chunks and where they start.
fn examine(
    path: &Path,
    progress: &dyn Progress,
    mut each: impl FnMut(&[u8], u64),
) -> Result<(u64, String), Error> {
    let file = File::open(path).map_err(reading(path))?;
    let total = file.metadata().map_err(reading(path))?.len();
    progress.start(&format!("examining {}", path.display()), Some(total), Unit::Bytes);
    let mut sha256 = Sha256::new();
    let bytes = in_chunks(file, |chunk, end| {
        sha256.update(chunk);
        each(chunk, end - chunk.len() as u64);
        progress.advance(end);
    })
    .map_err(reading(path))?;
    progress.finish();
    Ok((bytes, hex(&sha256.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoProgress;
    use crate::files::CHUNK;
    use crate::testing::{md5_hex, records, six_files, small_archive, write_files};
    use std::fs;
    use tempfile::TempDir;

    #[test]
    fn good_files_have_no_problem() {
        let folder = TempDir::new().unwrap();
        let files = six_files();
        write_files(&folder.path().join("cifar-10-batches-bin"), &files);
        let reports = verify(folder.path(), &NoProgress).unwrap();
        assert_eq!(reports.len(), 6);
        for (report, (name, contents)) in reports.iter().zip(&files) {
            let expected = FileReport {
                path: folder.path().join("cifar-10-batches-bin").join(name),
                bytes: contents.len() as u64,
                records: Some((contents.len() / RECORD_BYTES) as u64),
                sha256: hex(&Sha256::digest(contents)),
                labels_valid: Some(true),
                problem: None,
            };
            assert_eq!(*report, expected);
        }
    }

    #[test]
    fn every_bad_file_is_reported() {
        let folder = TempDir::new().unwrap();
        let mut files = six_files();
        files[1].1.truncate(3000);
        files[4].1[RECORD_BYTES] = 200;
        write_files(folder.path(), &files);
        let reports = verify(folder.path(), &NoProgress).unwrap();
        let bad: Vec<usize> = (0..6).filter(|&i| reports[i].problem.is_some()).collect();
        assert_eq!(bad, [1, 4]);
        assert!(reports[1].problem.as_ref().unwrap().contains("data_batch_2.bin has 3000 bytes"));
        assert_eq!((reports[1].records, reports[1].labels_valid), (Some(0), Some(true)));
        assert!(reports[4].problem.as_ref().unwrap().starts_with("record 1 of "));
        assert_eq!(reports[4].labels_valid, Some(false));
    }

    /// Records do not end where chunks do: labels must be found all the same, and pixels not be taken for labels.
    #[test]
    fn labels_are_found_in_every_chunk() {
        let count = 3 * CHUNK / RECORD_BYTES;
        for bad in [0, 1, CHUNK / RECORD_BYTES, CHUNK / RECORD_BYTES + 1, count - 1] {
            let folder = TempDir::new().unwrap();
            let mut contents = records(1, count);
            contents[bad * RECORD_BYTES] = 10;
            write_files(folder.path(), &[("data_batch_1.bin", contents), ("test_batch.bin", records(2, 1))]);
            let reports = verify(folder.path(), &NoProgress).unwrap();
            let problem = reports[0].problem.clone().unwrap_or_default();
            assert!(problem.starts_with(&format!("record {bad} of ")), "{bad}: {problem}");
        }
    }

    #[test]
    fn an_archive_is_compared_with_the_official_one() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(ARCHIVE);
        let (mut bytes, spec) = small_archive();
        fs::write(&path, &bytes).unwrap();
        for given in [folder.path(), &path] {
            let reports = verify(given, &NoProgress).unwrap();
            let [report] = &reports[..] else { panic!("{reports:?}") };
            assert!(report.problem.as_ref().unwrap().contains("instead of 170052171"), "{report:?}");
        }
        assert_eq!(official(&path, &spec, &NoProgress).unwrap().problem, None);
        bytes[99] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let problem = official(&path, &spec, &NoProgress).unwrap().problem.unwrap();
        assert!(problem.contains(&md5_hex(&bytes)), "{problem}");
    }

    #[test]
    fn nothing_to_verify_is_an_error() {
        let folder = TempDir::new().unwrap();
        assert!(matches!(verify(folder.path(), &NoProgress), Err(Error::NotFound { .. })));
        assert!(matches!(verify(&folder.path().join("x"), &NoProgress), Err(Error::NoSuchPath { .. })));
    }
}
