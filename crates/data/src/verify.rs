//! A report on every file of a data set, without stopping at the first fault.

use std::fs::File;
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};
use sha2::Sha256;

use crate::archive;
use crate::binary::{Cifar, Layout};
use crate::cifar::{no_such_path, not_an_archive, not_found};
use crate::file_spec::FileSpec;
use crate::files::{Kind, hex, in_chunks, kind, reading};
use crate::{Error, Progress, Unit};

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

/// Examines the files of a CIFAR in `path` or in its subfolder with the archive's name, and the archive in it (or the one that `path` is).
pub(crate) fn cifar(
    cifar: &'static Cifar,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Vec<FileReport>, Error> {
    let (layout, archive) = match kind(path)? {
        Kind::Nothing => return Err(no_such_path(cifar, path)),
        Kind::File => (None, path.to_owned()),
        Kind::Other => return Err(not_an_archive(cifar, path)),
        Kind::Folder => (Layout::find(cifar, path)?, path.join(cifar.archive)),
    };
    let mut reports = Vec::new();
    for file in layout.iter().flat_map(Layout::files) {
        reports.push(binary(cifar, file, progress)?);
    }
    if kind(&archive)? == Kind::File {
        reports.push(official(cifar, &archive, &cifar.official(), progress)?);
    }
    if reports.is_empty() {
        return Err(not_found(cifar, path)?);
    }
    Ok(reports)
}

fn binary(cifar: &Cifar, path: &Path, progress: &dyn Progress) -> Result<FileReport, Error> {
    let (record_bytes, name) = (cifar.record_bytes() as u64, path.display().to_string());
    let mut first_bad: Option<Error> = None;
    let (bytes, sha256) = examine(path, progress, |chunk, start| {
        // Labels are at the start of records; each label byte is checked in place, as records do not end where chunks do.
        for number in 0..cifar.label_bytes() {
            let record = start.saturating_sub(number as u64).div_ceil(record_bytes);
            let offset = (record * record_bytes + number as u64 - start) as usize;
            let labels = chunk.iter().skip(offset).step_by(record_bytes as usize);
            let bad = (record..)
                .zip(labels)
                .find_map(|(record, &label)| cifar.check_label(number, label, &name, record).err());
            if first_bad.is_none() {
                first_bad = bad;
            }
        }
    })?;
    let problem = if bytes == 0 || !bytes.is_multiple_of(record_bytes) {
        Some(cifar.wrong_size(&name, bytes))
    } else {
        None
    };
    let labels_valid = Some(first_bad.is_none());
    Ok(FileReport {
        path: path.to_owned(),
        bytes,
        records: Some(bytes / record_bytes),
        sha256,
        labels_valid,
        problem: problem.or(first_bad).map(|problem| problem.to_string()),
    })
}

fn official(
    cifar: &Cifar,
    path: &Path,
    spec: &FileSpec,
    progress: &dyn Progress,
) -> Result<FileReport, Error> {
    let mut md5 = Md5::new();
    let (bytes, sha256) = examine(path, progress, |chunk, _| md5.update(chunk))?;
    let problem = spec.problem(path, bytes, hex(&md5.finalize()));
    Ok(FileReport {
        path: path.to_owned(),
        bytes,
        records: None,
        sha256,
        labels_valid: None,
        problem: problem.map(|problem| archive::explained(cifar, path, problem).to_string()),
    })
}

/// Size and SHA-256 of a file; `each` gets its chunks and where they start.
pub(crate) fn examine(
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
    use crate::binary::CIFAR10;
    use crate::files::CHUNK;
    use crate::testing::RECORD_BYTES;
    use crate::testing::{md5_hex, records, six_files, small_archive, write_files};
    use std::fs;
    use tempfile::TempDir;

    #[test]
    fn good_files_have_no_problem() {
        let folder = TempDir::new().unwrap();
        let files = six_files();
        write_files(&folder.path().join("cifar-10-batches-bin"), &files);
        let reports = super::cifar(&CIFAR10, folder.path(), &NoProgress).unwrap();
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
        let reports = super::cifar(&CIFAR10, folder.path(), &NoProgress).unwrap();
        let bad: Vec<usize> = (0..6).filter(|&i| reports[i].problem.is_some()).collect();
        assert_eq!(bad, [1, 4]);
        assert!(reports[1].problem.as_ref().unwrap().contains("data_batch_2.bin has 3000 bytes"));
        assert_eq!((reports[1].records, reports[1].labels_valid), (Some(0), Some(true)));
        assert!(reports[4].problem.as_ref().unwrap().starts_with("record 1 of "));
        assert_eq!(reports[4].labels_valid, Some(false));
    }

    /// Records do not end where chunks do: labels must be found nevertheless, and pixels not be taken for labels.
    #[test]
    fn labels_are_found_in_every_chunk() {
        let count = 3 * CHUNK / RECORD_BYTES;
        for bad in [0, 1, CHUNK / RECORD_BYTES, CHUNK / RECORD_BYTES + 1, count - 1] {
            let folder = TempDir::new().unwrap();
            let mut contents = records(1, count);
            contents[bad * RECORD_BYTES] = 10;
            write_files(folder.path(), &[("data_batch_1.bin", contents), ("test_batch.bin", records(2, 1))]);
            let reports = super::cifar(&CIFAR10, folder.path(), &NoProgress).unwrap();
            let problem = reports[0].problem.clone().unwrap_or_default();
            assert!(problem.starts_with(&format!("record {bad} of ")), "{bad}: {problem}");
        }
    }

    /// Both label bytes of a record are checked, in every chunk.
    #[test]
    fn both_labels_of_cifar100_are_found_in_every_chunk() {
        use crate::binary::CIFAR100;
        const RECORD: usize = 3074;
        let count = 3 * CHUNK / RECORD;
        // The record, its label, and a value that is too large for it.
        for (bad, number, value) in
            [(0, 1, 100), (1, 0, 20), (CHUNK / RECORD, 0, 255), (CHUNK / RECORD, 1, 100), (count - 1, 1, 200)]
        {
            let folder = TempDir::new().unwrap();
            let mut train = vec![0; count * RECORD];
            // The largest labels that are good.
            train.chunks_mut(RECORD).for_each(|record| record[..2].copy_from_slice(&[19, 99]));
            train[bad * RECORD + number] = value;
            write_files(folder.path(), &[("train.bin", train), ("test.bin", vec![0; RECORD])]);
            let reports = super::cifar(&CIFAR100, folder.path(), &NoProgress).unwrap();
            let problem = reports[0].problem.clone().unwrap_or_default();
            let expected = format!("record {bad} of ");
            assert!(
                problem.starts_with(&expected) && problem.contains(&format!("label {value}")),
                "{problem}"
            );
            assert_eq!((reports[1].problem.as_ref(), reports[0].records), (None, Some(count as u64)));
        }
    }

    #[test]
    fn an_archive_is_compared_with_the_official_one() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(CIFAR10.archive);
        let (mut bytes, spec) = small_archive();
        fs::write(&path, &bytes).unwrap();
        for given in [folder.path(), &path] {
            let reports = super::cifar(&CIFAR10, given, &NoProgress).unwrap();
            let [report] = &reports[..] else { panic!("{reports:?}") };
            assert!(report.problem.as_ref().unwrap().contains("instead of 170052171"), "{report:?}");
        }
        assert_eq!(official(&CIFAR10, &path, &spec, &NoProgress).unwrap().problem, None);
        bytes[99] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let problem = official(&CIFAR10, &path, &spec, &NoProgress).unwrap().problem.unwrap();
        assert!(problem.contains(&md5_hex(&bytes)), "{problem}");
    }

    #[test]
    fn nothing_to_verify_is_an_error() {
        let folder = TempDir::new().unwrap();
        assert!(matches!(super::cifar(&CIFAR10, folder.path(), &NoProgress), Err(Error::NotFound { .. })));
        assert!(matches!(
            super::cifar(&CIFAR10, &folder.path().join("x"), &NoProgress),
            Err(Error::NoSuchPath { .. })
        ));
    }
}
