//! Everything that can go wrong, each in one sentence that names the thing and the fix.

use std::fmt;
use std::io;
use std::path::PathBuf;

use pointwise_memory::Available;

use crate::DatasetSpec;

/// Why there is no dataset. A message holds the underlying cause, which is therefore not repeated as a `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder or file given does not exist.
    #[error("{} does not exist: give {wanted}", path.display())]
    NoSuchPath {
        /// What was given.
        path: PathBuf,
        /// What is to be given: "the folder or the archive that holds CIFAR-10".
        wanted: String,
    },

    /// The folder exists but holds nothing that can be loaded.
    #[error(
        "no {dataset} in {}: looked for {looked_for}, and found {}",
        path.display(),
        in_short(found)
    )]
    NotFound {
        /// The folder that was searched.
        path: PathBuf,
        /// The data set.
        dataset: &'static str,
        /// What was not found.
        looked_for: String,
        /// The names of what is in it.
        found: Vec<String>,
    },

    /// The given file is not an archive.
    #[error("{} is neither a folder nor {name}: give the folder that holds {dataset}", path.display())]
    NotAnArchive {
        /// What was given.
        path: PathBuf,
        /// The name of the archive.
        name: &'static str,
        /// The data set.
        dataset: &'static str,
    },

    /// A folder is needed, and something else was given.
    #[error("{} is not a folder: give the folder that holds {dataset}", path.display())]
    NotAFolder {
        /// What was given.
        path: PathBuf,
        /// What it should hold.
        dataset: &'static str,
    },

    /// Another version of the data set, or another data set, was given.
    #[error("{} is {version}: give {wanted}", path.display())]
    OtherVersion {
        /// The file or folder.
        path: PathBuf,
        /// What it is: "the Python version of CIFAR-10".
        version: String,
        /// What is read: "the binary version of CIFAR-10, cifar-10-binary.tar.gz".
        wanted: String,
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
        "{file} is missing in {}: the folder needs {needed}",
        folder.display()
    )]
    MissingFile {
        /// The folder.
        folder: PathBuf,
        /// The name of the missing file.
        file: String,
        /// All that is needed.
        needed: String,
    },

    /// A binary file is empty or does not consist of whole records.
    #[error(
        "{file} has {bytes} bytes, which is not one or more records of {record} bytes ({} and 3072 pixels): it is cut short \
         or not a {dataset} binary file, so copy or fetch it again",
        if *labels == 1 { "a label".to_owned() } else { format!("{labels} labels") }
    )]
    FileSize {
        /// The file, or the archive and its member.
        file: String,
        /// Its size.
        bytes: u64,
        /// Labels of a record.
        labels: usize,
        /// Size of a record.
        record: usize,
        /// The data set.
        dataset: &'static str,
    },

    /// A record of a file has a label that is too large.
    #[error(
        "record {record} of {file} has label {label}, but the labels of {dataset} are 0 to {last}: copy or fetch the file again"
    )]
    RecordLabel {
        /// The file, or the archive and its member.
        file: String,
        /// Number of the record, from 0 on.
        record: u64,
        /// Its label.
        label: u8,
        /// The data set.
        dataset: &'static str,
        /// The largest label.
        last: u8,
    },

    /// A file is not an idx file of the data set.
    #[error("{} {cause}: it is not an idx file of {dataset}, so copy or fetch it again", path.display())]
    Idx {
        /// The file.
        path: PathBuf,
        /// The data set.
        dataset: &'static str,
        /// What is wrong with it: "is cut short".
        cause: String,
    },

    /// A file of images and its file of labels do not go together.
    #[error(
        "{} has {count} images, and {} has {labels} labels: copy or fetch both again",
        images.display(),
        labels_file.display()
    )]
    Counts {
        /// The file of images.
        images: PathBuf,
        /// How many it has.
        count: usize,
        /// The file of labels.
        labels_file: PathBuf,
        /// How many it has.
        labels: usize,
    },

    /// A source has more images than fit in memory.
    #[error(
        "{} of {file} do not fit in memory{}: use fewer images or a larger machine",
        pointwise_memory::shown(*bytes),
        available.map_or_else(String::new, |available| format!(", of which {available}"))
    )]
    Memory {
        /// The file, or the archive and its member.
        file: String,
        /// Its size.
        bytes: u64,
        /// How much there is, where that is known.
        available: Option<Available>,
    },

    /// Images of a shape that is not supported.
    #[error(
        "images of shape {} x {} x {} are not supported: give 1 or 3 channels, and a height and width from 1 to {}",
        shape[0], shape[1], shape[2], DatasetSpec::MAX_SIDE
    )]
    Shape {
        /// Channels, height and width.
        shape: [usize; 3],
    },

    /// More classes than there can be, or none.
    #[error("data sets of {classes} classes are not supported: give 1 to {}", DatasetSpec::MAX_CLASSES)]
    Classes {
        /// Number of classes.
        classes: usize,
    },

    /// A number of classes that synthetic data cannot have.
    #[error("synthetic data has 2 to {} classes, not {classes}", DatasetSpec::MAX_CLASSES)]
    SyntheticClasses {
        /// Number of classes.
        classes: usize,
    },

    /// Pixels and labels do not go together.
    #[error(
        "{pixels} bytes of pixels do not go with {labels} labels: every image has {image} bytes and one label"
    )]
    Lengths {
        /// Number of bytes.
        pixels: usize,
        /// Number of labels.
        labels: usize,
        /// Bytes of an image.
        image: usize,
    },

    /// A label is too large.
    #[error("image {image} has label {label}, but the labels are 0 to {}", classes - 1)]
    LabelValue {
        /// Place of the image, from 0 on.
        image: usize,
        /// Its label.
        label: u16,
        /// Number of classes.
        classes: usize,
    },

    /// An augmentation, or the views of a test, do not suit the images.
    #[error("{cause}")]
    Augment {
        /// What is wrong and what to do.
        cause: String,
    },

    /// Mean or standard deviation are given for another number of channels.
    #[error(
        "normalise has figures for {given} channels, and the images have {channels}: give one figure for each channel, or one for all"
    )]
    Channels {
        /// Number of figures.
        given: usize,
        /// Channels of the images.
        channels: usize,
    },

    /// There is no deviation to divide by.
    #[error(
        "the training images have the same value everywhere in channel {channel} of {channels}, so that no standard deviation can \
         be measured: give normalise a mean and std"
    )]
    Constant {
        /// The channel, from 0 on.
        channel: usize,
        /// Number of channels.
        channels: usize,
    },

    /// Batches do not fit in memory.
    #[error("{bytes} bytes for batches of {images} images do not fit in memory: give a smaller batch size")]
    BatchMemory {
        /// Images in a batch.
        images: usize,
        /// Bytes of all batches in memory at a time.
        bytes: u64,
    },

    /// No thread can be started.
    #[error("cannot start the thread that {what}: {cause}")]
    Thread {
        /// What it is for: "prepares batches".
        what: &'static str,
        /// What the system says.
        cause: io::Error,
    },

    /// The archive has another size than the official one.
    #[error(
        "{} has {actual} bytes instead of {expected}: it is cut short, or it is not {name}",
        path.display()
    )]
    ArchiveSize {
        /// The archive.
        path: PathBuf,
        /// Its size in bytes.
        actual: u64,
        /// The official size in bytes.
        expected: u64,
        /// The name of the archive.
        name: &'static str,
    },

    /// The archive has another checksum than the official one.
    #[error(
        "the MD5 of {} is {actual} instead of {expected}: it is damaged, or it is not {name}",
        path.display()
    )]
    ArchiveDigest {
        /// The archive.
        path: PathBuf,
        /// Its MD5, hexadecimal.
        actual: String,
        /// The official MD5, hexadecimal.
        expected: String,
        /// The name of the archive.
        name: &'static str,
    },

    /// A file with an archive's name is something else.
    #[error("{} is {what}, not the archive {name}", path.display())]
    NoArchive {
        /// The file.
        path: PathBuf,
        /// The name of the archive.
        name: &'static str,
        /// What it is, "a web page".
        what: &'static str,
    },

    /// The archive has the right checksum (or was not checked) and still cannot be used.
    #[error("{} cannot be unpacked, {cause}: fetch it again", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },

    /// No address gave the archive.
    #[error(
        "could not download {file} ({}): give a folder that holds {dataset} with --data-dir, or use synthetic data",
        listed(failures)
    )]
    Download {
        /// The name of the file.
        file: String,
        /// The data set.
        dataset: &'static str,
        /// Why each address failed, in the order in which they were tried.
        failures: Vec<AddressFailure>,
    },

    /// One of the two sets of an image folder is missing.
    #[error(
        "{} has no folder {set}: {}images are taken from train/<class> and test/<class>{}",
        path.display(),
        meant.as_ref().map_or_else(String::new, |meant| format!("rename {meant} to {set}, because ")),
        if *can_split { "; or split some of the training images off for the test with --test-split" } else { "" }
    )]
    MissingSet {
        /// The image folder.
        path: PathBuf,
        /// The missing folder, `train` or `test`.
        set: &'static str,
        /// A folder that may be meant for it, such as `val`.
        meant: Option<String>,
        /// Whether training images can take its place.
        can_split: bool,
    },

    /// The name of a folder cannot be a class name.
    #[error("the class folder {:?} has {cause} in its name: rename it", path)]
    ClassName {
        /// The folder.
        path: PathBuf,
        /// "bytes that are not UTF-8"
        cause: &'static str,
    },

    /// A class has test images and no training images.
    #[error(
        "the class folder {} has no matching training images: put some into {}, or move it away",
        path.display(),
        train.display()
    )]
    TestOnlyClass {
        /// The folder of test images.
        path: PathBuf,
        /// The folder that is missing or empty.
        train: PathBuf,
    },

    /// Test images cannot be split off as requested.
    #[error("--test-split {cause}")]
    TestSplit {
        /// What is wrong and what to do.
        cause: String,
    },

    /// A folder of images is no class of CIFAR-10.
    #[error(
        "the folder {} is not named after a class of CIFAR-10: rename it to one of {classes}, or move it away; for other classes \
         use --data folder",
        path.display()
    )]
    ClassFolder {
        /// The folder.
        path: PathBuf,
        /// The names of the classes.
        classes: String,
    },

    /// An image lies among the class folders.
    #[error(
        "the image {} is not in a class folder: put it into one that is named after its class, as in train/cat/1.png",
        path.display()
    )]
    LooseImage {
        /// The image.
        path: PathBuf,
    },

    /// A file lies among the class folders.
    #[error("{} is not a class folder: move it away", path.display())]
    NotAClass {
        /// The file.
        path: PathBuf,
    },

    /// Two folders stand for one class, as `Cat` and `cat` would.
    #[error("{} and another folder next to it are both named {class}: put their images into one folder", path.display())]
    ClassTwice {
        /// The second folder.
        path: PathBuf,
        /// The class.
        class: String,
    },

    /// An image folder holds something other than images where images are expected.
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

    /// The Hugging Face Hub was requested in a build without it.
    #[error(
        "this build cannot read {dataset} from the Hugging Face Hub: build it with `--features huggingface`"
    )]
    HuggingFaceDisabled {
        /// The requested dataset.
        dataset: String,
    },

    /// The Hugging Face Hub did not provide the dataset.
    #[error(
        "cannot get {dataset} from the Hugging Face Hub ({cause}): check the name and the network, or give a folder that \
         holds CIFAR-10 with --data-dir"
    )]
    HuggingFace {
        /// The requested dataset.
        dataset: String,
        /// What went wrong.
        cause: String,
    },

    /// A parquet file does not have the format of CIFAR-10's.
    #[error(
        "{file} is not a parquet file of CIFAR-10, since {cause}: use another dataset or delete the file from the cache of the Hub"
    )]
    Parquet {
        /// The file.
        file: String,
        /// What is wrong with it, and in which row.
        cause: String,
    },
}

impl Error {
    /// Whether [`fetch`](crate::fetch) into the given folder fixes this.
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
                | Self::Idx { .. }
                | Self::Counts { .. }
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
