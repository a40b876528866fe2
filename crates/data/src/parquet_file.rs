//! Images of CIFAR-10 in a parquet file, encoded as png: a column with a group that holds the bytes, and one with the label.

use std::fs::File;
use std::path::Path;

use parquet::errors::ParquetError;
use parquet::file::reader::FileReader;
use parquet::record::{Field, Row};
use pointwise_recipe::one_line;

use crate::files::reading;
use crate::image_folder::{append_planes, decode};
use crate::panics::without_panic;
use crate::{Error, parquet_check};

const SIDE: u32 = 32;
pub(crate) const SHAPE: [usize; 3] = [3, SIDE as usize, SIDE as usize];
pub(crate) const CLASSES: u16 = 10;

/// What has been decoded.
#[derive(Default)]
pub(crate) struct Decoded {
    /// Planes of red, green and blue, image by image.
    pub(crate) pixels: Vec<u8>,
    pub(crate) labels: Vec<u16>,
}

impl Decoded {
    /// Appends the images and labels of a file.
    pub(crate) fn read(
        &mut self,
        name: &str,
        reader: &dyn FileReader,
        mut advance: impl FnMut(),
    ) -> Result<(), Error> {
        let bad = |cause| Error::Parquet { file: name.to_owned(), cause };
        let columns = reader.metadata().file_metadata().schema_descr().columns();
        if let Some(lists) = columns.iter().find(|column| column.max_rep_level() > 0) {
            return Err(bad(format!("its column {} has lists", one_line(&lists.path().string()))));
        }
        let mut rows = decoded(|| reader.get_row_iter(None)).map_err(bad)?;
        for number in 0_usize.. {
            let row =
                decoded(|| rows.next().transpose()).map_err(|cause| bad(format!("row {number}: {cause}")))?;
            let Some(row) = row else { break };
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
        let image = decode(encoded.data(), SIDE).map_err(|cause| format!("has a bad image ({cause})"))?;
        let (width, height) = (image.width(), image.height());
        if (width, height) != (SIDE, SIDE) {
            return Err(format!("has an image of {width}x{height} pixels instead of {SIDE}x{SIDE}"));
        }
        append_planes(image, SHAPE, &mut self.pixels);
        self.labels.push(label);
        Ok(())
    }
}

/// Checks what a file declares, before the crate parquet opens it. The name is for the error.
pub(crate) fn check(name: &str, path: &Path) -> Result<(), Error> {
    let file = File::open(path).map_err(reading(path))?;
    parquet_check::check(&file).map_err(|cause| Error::Parquet { file: name.to_owned(), cause })
}

/// Reads a file by itself.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_file(name: &str, path: &Path) -> Result<Decoded, Error> {
    check(name, path)?;
    let file = File::open(path).map_err(reading(path))?;
    let reader = decoded(|| parquet::file::reader::SerializedFileReader::new(file))
        .map_err(|cause| Error::Parquet { file: name.to_owned(), cause })?;
    let mut decoded = Decoded::default();
    decoded.read(name, &reader, || ())?;
    Ok(decoded)
}

/// What the crate parquet returns, or what is wrong with the file, in one line; also if it panics.
fn decoded<T>(decode: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    without_panic(decode)
        .ok_or_else(|| "its decoder fails on it".to_owned())?
        .map_err(|error| one_line(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binary::{CIFAR10, Layout};
    use crate::testing::parquet::{planes, png, write_parquet};
    use crate::testing::{records, write_files};
    use crate::{Images, NoProgress};
    use std::fs;
    use tempfile::TempDir;

    fn read(path: &Path) -> Result<Decoded, Error> {
        read_file("0000.parquet", path)
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
            ((png(1, 33, 32), 1), "row 1 has a bad image (it has 33 x 32 pixels and the limit is 32 a side"),
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

    /// The seeds of the fuzz target, written by another program: all compressions, many encodings, both versions of pages.
    #[test]
    fn files_of_other_programs_are_read() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/seeds/parquet");
        let mut read_whole = 0;
        for entry in fs::read_dir(seeds).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let outcome = read(&path).map_err(|error| error.to_string());
            let reason = match name {
                "null" => "row 1 has no column with the bytes of an image",
                "bad_label" => "row 0 has a label outside 0 to 9",
                "bad_size" => "row 0 has an image of 31x32 pixels",
                "huge_dictionary" => "a number in it has more than 64 bits",
                "gzip" => "it is compressed by gzip (",
                "brotli" => "it is compressed by Brotli (",
                "deltas" => "a page has the encoding ",
                _ => {
                    let decoded = outcome.unwrap();
                    assert_eq!(decoded.labels, [0, 9, 0], "{name}");
                    let red = [0, 3072, 6144].map(|at| decoded.pixels[at]);
                    assert_eq!(red, [1, 200, 1], "{name}");
                    read_whole += 1;
                    continue;
                }
            };
            let error = outcome.err().unwrap();
            assert!(error.contains(reason), "{name}: {error}");
        }
        assert!(read_whole >= 7, "{read_whole}");
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
            match read(&path) {
                Err(error) => {
                    let error = error.to_string();
                    assert!(
                        error.starts_with("0000.parquet is not a parquet file of CIFAR-10, since "),
                        "{what}: {error}"
                    );
                    assert!(!error.contains('\n'), "{what}: {error}");
                    refused += 1;
                }
                Ok(decoded) => {
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
}
