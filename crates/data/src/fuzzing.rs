//! What the fuzz targets (`tests/fuzz`) call: the parsers behind checks that no generated input passes. Only in builds with `--cfg fuzzing`.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use md5::{Digest, Md5};

use crate::archive;
use crate::binary::CIFAR100;
use crate::file_spec::FileSpec;
use crate::files::{hex, reading};
use crate::idx::{self, MNIST};
#[cfg(feature = "parquet")]
use crate::parquet_file;
use crate::{Error, Images, NoProgress};

/// Bytes in gzip format, without compression.
pub fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    // Only memory is written.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// Reads an archive of CIFAR-100 as if it were the published one, and says what it is if it is not.
///
/// # Errors
/// Those of the archive.
pub fn archive(path: &Path) -> Result<(Images, Images), Error> {
    let bytes = fs::read(path).map_err(reading(path))?;
    let md5 = hex(&Md5::digest(&bytes));
    let spec = FileSpec { name: CIFAR100.archive, bytes: bytes.len() as u64, md5 };
    let other = FileSpec { bytes: spec.bytes + 1, ..spec.clone() };
    if let Err(error) = archive::check(path, &other, &NoProgress) {
        // One line, whatever the file is.
        assert!(!archive::explained(&CIFAR100, path, error).to_string().contains('\n'));
    }
    archive::check(path, &spec, &NoProgress)?.load(&CIFAR100, 1, &NoProgress)
}

/// Reads a file of MNIST: training images, training labels, test images or test labels, by `number`.
///
/// # Errors
/// Those of the file.
pub fn idx(number: usize, path: &Path) -> Result<Vec<u8>, Error> {
    idx::read(&MNIST, number, path, &|_| ())
}

/// Reads a parquet file of CIFAR-10: planes of pixels, and labels.
///
/// # Errors
/// Those of the file.
#[cfg(feature = "parquet")]
pub fn parquet(path: &Path) -> Result<(Vec<u8>, Vec<u16>), Error> {
    let decoded = parquet_file::read_file(&path.display().to_string(), path)?;
    Ok((decoded.pixels, decoded.labels))
}
