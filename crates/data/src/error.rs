//! Everything that can go wrong, each in one sentence that names the thing and the fix.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why there is no dataset. A message holds the underlying cause, which is therefore not repeated as a `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder or file given does not exist.
    #[error("{} does not exist: give the folder or the archive that holds CIFAR-10", path.display())]
    NoSuchPath {
        /// What was given.
        path: PathBuf,
    },

    /// The folder exists and holds nothing that could be loaded.
    #[error(
        "no CIFAR-10 in {}: looked for data_batch_1.bin to data_batch_5.bin and test_batch.bin in it and in its folder \
         cifar-10-batches-bin, for the archive cifar-10-binary.tar.gz, and for folders train and test with one folder of \
         images for each class, and found {}",
        path.display(),
        in_short(found)
    )]
    NotFound {
        /// The folder that was searched.
        path: PathBuf,
        /// The names of what is in it.
        found: Vec<String>,
    },

    /// A file was given that is no archive.
    #[error("{} is neither a folder nor cifar-10-binary.tar.gz: give the folder that holds CIFAR-10", path.display())]
    NotAnArchive {
        /// What was given.
        path: PathBuf,
    },

    /// Another version of CIFAR-10, or CIFAR-100, was given.
    #[error("{} is {version}: give the binary version of CIFAR-10, cifar-10-binary.tar.gz", path.display())]
    OtherVersion {
        /// The file or folder.
        path: PathBuf,
        /// Which version it is, "the Python version of CIFAR-10".
        version: &'static str,
    },

    /// A file or folder cannot be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },

    /// A file or folder cannot be written.
    #[error("cannot write {}: {cause}{}", path.display(), advice(cause))]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },

    /// One of the binary files is missing.
    #[error(
        "{file} is missing in {}: the folder needs test_batch.bin and data_batch_1.bin, data_batch_2.bin, ... without a gap",
        folder.display()
    )]
    MissingFile {
        /// The folder.
        folder: PathBuf,
        /// The name of the missing file.
        file: String,
    },

    /// A binary file is empty or does not consist of whole records.
    #[error(
        "{file} has {bytes} bytes, which is not one or more records of 3073 bytes (a label and 3072 pixels): it is cut short \
         or no CIFAR-10 binary file, so copy or fetch it again"
    )]
    FileSize {
        /// The file, or the archive and its member.
        file: String,
        /// Its size.
        bytes: u64,
    },

    /// A record of a binary file has a label above 9.
    #[error(
        "record {record} of {file} has label {label}, but the labels of CIFAR-10 are 0 to 9: copy or fetch the file again"
    )]
    RecordLabel {
        /// The file, or the archive and its member.
        file: String,
        /// Number of the record, from 0 on.
        record: u64,
        /// Its label.
        label: u8,
    },

    /// A source has more images than fit in memory.
    #[error("{bytes} bytes of {file} do not fit in memory: use a smaller file or a larger machine")]
    Memory {
        /// The file, or the archive and its member.
        file: String,
        /// Its size.
        bytes: u64,
    },

    /// Pixels and labels do not go together.
    #[error(
        "{pixels} bytes of pixels do not go with {labels} labels: every image has 3072 bytes and one label"
    )]
    Lengths {
        /// Number of bytes.
        pixels: usize,
        /// Number of labels.
        labels: usize,
    },

    /// A label is outside 0 to 9.
    #[error("image {image} has label {label}, but the labels of CIFAR-10 are 0 to 9")]
    LabelValue {
        /// Place of the image, from 0 on.
        image: usize,
        /// Its label.
        label: i64,
    },

    /// The archive has another size than the official one.
    #[error(
        "{} has {actual} bytes instead of {expected}: it is cut short, or it is not cifar-10-binary.tar.gz",
        path.display()
    )]
    ArchiveSize {
        /// The archive.
        path: PathBuf,
        /// Its size in bytes.
        actual: u64,
        /// The official size in bytes.
        expected: u64,
    },

    /// The archive has another checksum than the official one.
    #[error(
        "the MD5 of {} is {actual} instead of {expected}: it is damaged, or it is not cifar-10-binary.tar.gz",
        path.display()
    )]
    ArchiveDigest {
        /// The archive.
        path: PathBuf,
        /// Its MD5, hexadecimal.
        actual: String,
        /// The official MD5, hexadecimal.
        expected: String,
    },

    /// A file that is named as an archive is something else.
    #[error("{} is {what}, not the archive cifar-10-binary.tar.gz", path.display())]
    NoArchive {
        /// The file.
        path: PathBuf,
        /// What it is, "a web page".
        what: &'static str,
    },

    /// The archive has the right checksum (or was not checked) and still cannot be used.
    #[error("{} cannot be unpacked, {cause}: fetch cifar-10-binary.tar.gz again", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },

    /// No address gave the archive.
    #[error(
        "could not download {file} ({}): give a folder that holds CIFAR-10 with --data-dir, or use synthetic data",
        listed(failures)
    )]
    Download {
        /// The name of the file.
        file: String,
        /// Why each address failed, in the order in which they were tried.
        failures: Vec<AddressFailure>,
    },

    /// One of the two sets of an image folder is missing.
    #[error(
        "{} has no folder {set}: {}images are taken from train/<class> and test/<class>",
        path.display(),
        meant.as_ref().map_or_else(String::new, |meant| format!("rename {meant} to {set}, because "))
    )]
    MissingSet {
        /// The image folder.
        path: PathBuf,
        /// The missing folder, `train` or `test`.
        set: &'static str,
        /// A folder that may be meant for it, such as `val`.
        meant: Option<String>,
    },

    /// A folder of images is no class of CIFAR-10.
    #[error(
        "the folder {} is not named after a class of CIFAR-10: rename it to one of airplane, automobile, bird, cat, deer, \
         dog, frog, horse, ship, truck, or move it away",
        path.display()
    )]
    ClassFolder {
        /// The folder.
        path: PathBuf,
    },

    /// An image lies among the folders of the classes.
    #[error(
        "the image {} lies in no folder of a class: put it into one that is named after its class, as in train/cat/1.png",
        path.display()
    )]
    LooseImage {
        /// The image.
        path: PathBuf,
    },

    /// A file lies among the folders of the classes.
    #[error("{} is not the folder of a class: move it away", path.display())]
    NotAClass {
        /// The file.
        path: PathBuf,
    },

    /// Two folders stand for one class, as `Cat` and `cat` would.
    #[error("{} and another folder beside it are both named {class}: put their images into one folder", path.display())]
    ClassTwice {
        /// The second folder.
        path: PathBuf,
        /// The class.
        class: &'static str,
    },

    /// An image folder has something else than images where images are expected.
    #[error("{} is not a png, jpg, jpeg or webp file: convert it or move it out of the image folder", path.display())]
    NotAnImage {
        /// The file or folder.
        path: PathBuf,
    },

    /// An image folder has no images.
    #[error("no png, jpg, jpeg or webp file in {}: put images into a folder for each class, as in train/cat/1.png", path.display())]
    NoImages {
        /// The folder of the training or test images.
        path: PathBuf,
    },

    /// An image cannot be decoded.
    #[error("cannot decode the image {}: {cause}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        cause: String,
    },

    /// The Hugging Face Hub was asked for in a build without it.
    #[error(
        "this build cannot read {dataset} from the Hugging Face Hub: build it with `--features huggingface`"
    )]
    HuggingFaceDisabled {
        /// The dataset that was asked for.
        dataset: String,
    },

    /// The Hugging Face Hub did not give the dataset.
    #[error(
        "cannot get {dataset} from the Hugging Face Hub, {cause}: check the name and the network, or give a folder that \
         holds CIFAR-10 with --data-dir"
    )]
    HuggingFace {
        /// The dataset that was asked for.
        dataset: String,
        /// What went wrong.
        cause: String,
    },

    /// A parquet file is not as CIFAR-10's are.
    #[error(
        "{file} is no parquet file of CIFAR-10, {cause}: use another dataset or delete the file from the cache of the Hub"
    )]
    Parquet {
        /// The file.
        file: String,
        /// What is wrong with it, and in which row.
        cause: String,
    },
}

impl Error {
    /// Whether [`fetch`](crate::fetch) into the folder that was given makes this good.
    #[must_use]
    pub fn is_fetchable(&self) -> bool {
        matches!(
            self,
            Self::NoSuchPath { .. }
                | Self::NotFound { .. }
                | Self::OtherVersion { .. }
                | Self::MissingFile { .. }
                | Self::FileSize { .. }
                | Self::RecordLabel { .. }
                | Self::ArchiveSize { .. }
                | Self::ArchiveDigest { .. }
                | Self::NoArchive { .. }
                | Self::Archive { .. }
        )
    }
}

/// Why one address failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressFailure {
    /// The address.
    pub address: String,
    /// What went wrong, in a few words.
    pub cause: String,
}

impl fmt::Display for AddressFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.cause)
    }
}

/// The first few names.
fn in_short(names: &[String]) -> String {
    const SHOWN: usize = 5;
    match names.len() {
        0 => "nothing".to_owned(),
        n if n <= SHOWN => names.join(", "),
        n => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
    }
}

fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free some space",
        _ => "",
    }
}

fn listed(failures: &[AddressFailure]) -> String {
    if failures.is_empty() {
        return "no address was given".to_owned();
    }
    failures.iter().map(AddressFailure::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn a_cause_is_told_once() {
        let cause = || io::Error::from(io::ErrorKind::StorageFull);
        for error in [
            Error::Read { path: "x".into(), cause: cause() },
            Error::Write { path: "x".into(), cause: cause() },
            Error::Decode { path: "x".into(), cause: cause().to_string() },
        ] {
            assert!(error.to_string().contains(&cause().to_string()), "{error}");
            assert!(error.source().is_none(), "{error}");
        }
        let message = Error::Write { path: "x".into(), cause: cause() }.to_string();
        assert!(message.ends_with("; free some space"), "{message}");
    }
}
