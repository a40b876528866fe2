//! Where the data is, and how it gets into memory.

use std::path::{Path, PathBuf};

use crate::binary::{CIFAR10, CIFAR100};
use crate::cifar::{self, Labelled};
#[cfg(feature = "huggingface")]
use crate::huggingface;
use crate::idx::{self, FASHION_MNIST, Idx, MNIST};
use crate::image_folder::{self, Classes};
use crate::verify::{self, FileReport};
use crate::{Dataset, DatasetSpec, Error, Place, Progress, Published, TestSplit, synthetic};

/// Where the data is.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A published data set.
    ///
    /// For the CIFARs, the first of these that exists is used:
    ///
    /// 1. the binary files, of any number of records, in the folder or in its subfolder with the archive's name (for CIFAR-10 the test file and
    ///    `data_batch_1.bin` to at most `data_batch_5.bin` without a gap);
    /// 2. the official archive, read without being unpacked;
    /// 3. for CIFAR-10, folders `train` and `test` with one folder of images for each class, named after it in any case, read as those of
    ///    [`Source::Folder`].
    ///
    /// For MNIST and Fashion-MNIST, the four idx files, gzipped or not, in the folder, in its subfolder `raw`, or where torchvision keeps them
    /// (`MNIST/raw`, `FashionMNIST/raw`).
    Published {
        /// Which one.
        dataset: Published,
        /// Where it is.
        place: Place,
    },
    /// Folders `train` and `test` with one folder of png, jpeg or webp images for each class, named after the class in any UTF-8.
    ///
    /// Classes are those of `train`, in the byte order of their names; images come in the order of their classes and then in the byte order of their
    /// file names. An image of another size is resized with a Catmull-Rom filter; transparency is dropped; with one channel, colours become grey by
    /// Rec. 709's weights. Hidden files and what file managers and archivers leave behind are skipped; text files are left out with a
    /// [note](Progress::note).
    Folder {
        /// The folder.
        path: PathBuf,
        /// Channels, height and width that images are to have.
        shape: [usize; 3],
        /// How many training images are the test set, where there is no folder `test`.
        test_split: Option<TestSplit>,
        /// Seed of their choice.
        seed: u64,
    },
    /// A dataset of the Hugging Face Hub with the columns of `uoft-cs/cifar10`; needs the feature `huggingface`.
    HuggingFace {
        /// Its name, `owner/name`.
        dataset: String,
    },
    /// Images drawn by a program, for tests and machines without a network.
    ///
    /// Image i of a set is a function of the seed, the set, the classes, the shape and i alone: a smaller set is the beginning of a
    /// larger one.
    Synthetic {
        /// Seed of the drawings.
        seed: u64,
        /// Number of training images.
        train: usize,
        /// Number of test images.
        test: usize,
        /// Number of classes, from 2 to 65,536.
        classes: usize,
        /// Channels, height and width.
        shape: [usize; 3],
    },
}

impl Source {
    /// What is known before an image is read: a folder is searched for its classes.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] and [`Error::Classes`] for what is not supported; for a folder, [`Error::NoSuchPath`], [`Error::MissingSet`], [`Error::Read`]
    /// and those of the names of its classes.
    pub fn spec(&self) -> Result<DatasetSpec, Error> {
        match self {
            Self::Published { dataset, .. } => Ok(dataset.spec()),
            Self::Folder { path, shape, .. } => image_folder::spec(path, *shape),
            Self::HuggingFace { .. } => Ok(Published::Cifar10.spec()),
            Self::Synthetic { classes, shape, .. } => synthetic::spec(*classes, *shape),
        }
    }
}

/// How a published data set is kept.
enum Family {
    Cifar(Labelled),
    Mnist(&'static Idx),
}

fn family(dataset: Published) -> Family {
    match dataset {
        Published::Cifar10 => Family::Cifar(Labelled { cifar: &CIFAR10, label: 0 }),
        Published::Cifar100Coarse => Family::Cifar(Labelled { cifar: &CIFAR100, label: 0 }),
        Published::Cifar100 => Family::Cifar(Labelled { cifar: &CIFAR100, label: 1 }),
        Published::Mnist => Family::Mnist(&MNIST),
        Published::FashionMnist => Family::Mnist(&FASHION_MNIST),
    }
}

/// Reads (or draws, or fetches first) all images of a source.
///
/// # Errors
///
/// Whatever keeps the data set from being complete and valid: nothing is silently left out.
pub fn load(source: &Source, progress: &dyn Progress) -> Result<Dataset, Error> {
    let (spec, source, (train, test)) = match source {
        Source::Published { dataset, place } => {
            let (source, images) = match (family(*dataset), place) {
                (Family::Cifar(data), Place::Named(path)) => cifar::load(data, path, progress)?,
                (Family::Cifar(data), Place::Cache { folder, addresses }) => {
                    cifar::load_cached(data, folder, addresses, progress)?
                }
                (Family::Mnist(idx), Place::Named(path)) => idx::load(idx, path, progress)?,
                (Family::Mnist(idx), Place::Cache { folder, addresses }) => {
                    idx::load_cached(idx, folder, addresses, progress)?
                }
            };
            (dataset.spec(), source, images)
        }
        Source::Folder { path, shape, test_split, seed } => {
            let split = test_split.map(|split| (split, *seed));
            let folder = image_folder::load(path, Classes::Own, *shape, split, progress)?;
            let mut source = format!("image folder {}", path.display());
            if test_split.is_some() {
                source += &format!(", {} of whose training images are the test", folder.images.1.len());
            }
            (folder.spec, source, folder.images)
        }
        #[cfg(not(feature = "huggingface"))]
        Source::HuggingFace { dataset } => {
            return Err(Error::HuggingFaceDisabled { dataset: dataset.clone() });
        }
        #[cfg(feature = "huggingface")]
        Source::HuggingFace { dataset } => (
            Published::Cifar10.spec(),
            format!("{dataset} of the Hugging Face Hub"),
            huggingface::load(dataset, progress)?,
        ),
        Source::Synthetic { seed, train, test, classes, shape } => {
            let spec = synthetic::spec(*classes, *shape)?;
            let (train, test) = synthetic::draw(*seed, *train, *test, &spec, progress)?;
            let source = format!("synthetic images, seed {seed}");
            return Ok(Dataset { train, test, spec, source, synthetic: true });
        }
    };
    Ok(Dataset { train, test, spec, source, synthetic: false })
}

/// Ensures that the files of a published data set are in a folder, and returns where.
///
/// For the CIFARs: unless all of the binary files are in it or in its subfolder with the archive's name, complete, they are unpacked from the
/// official archive in it, which is downloaded first if need be. Files of these names that hold something else are renamed, with `.old` appended;
/// everything else in the folder stays as it is. For MNIST and Fashion-MNIST: those of the four files that are missing or not as published are
/// downloaded.
///
/// A process that is killed midway leaves nothing that counts as complete, and the next call continues the download. Several processes may fetch into
/// one folder: they take turns.
///
/// # Errors
///
/// [`Error::Download`] if no address gives a file; [`Error::Read`] and [`Error::Write`].
pub fn fetch(
    dataset: Published,
    folder: &Path,
    addresses: &[String],
    progress: &dyn Progress,
) -> Result<PathBuf, Error> {
    match family(dataset) {
        Family::Cifar(data) => cifar::fetch(data.cifar, folder, addresses, progress),
        Family::Mnist(idx) => idx::fetch(idx, folder, addresses, progress),
    }
}

/// What `path` holds, read and checked, if that makes [`fetch`] unnecessary: all of a published data set, or, for CIFAR-10, an image folder.
///
/// # Errors
///
/// [`Error::Read`]; if `path` is a file instead of a folder, whatever else is wrong with it.
pub fn find_whole(dataset: Published, path: &Path, progress: &dyn Progress) -> Result<Option<String>, Error> {
    match family(dataset) {
        Family::Cifar(data) => cifar::find_whole(data, path, progress),
        Family::Mnist(idx) => idx::find_whole(idx, path, progress),
    }
}

/// Examines the files of a published data set in `path` or in its usual subfolder, and the archive, as far as they exist.
///
/// # Errors
///
/// [`Error::NoSuchPath`], [`Error::NotAnArchive`], [`Error::NotFound`] if there is none of them, [`Error::MissingFile`] if some are missing,
/// [`Error::Read`]. A file with wrong contents is not an error but has a [`problem`](FileReport::problem).
pub fn verify(dataset: Published, path: &Path, progress: &dyn Progress) -> Result<Vec<FileReport>, Error> {
    match family(dataset) {
        Family::Cifar(data) => verify::cifar(data.cifar, path, progress),
        Family::Mnist(idx) => idx::verify(idx, path, progress),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoProgress;

    #[test]
    fn the_data_sets_of_a_family_know_each_other() {
        let names = Published::ALL.into_iter().filter_map(|dataset| match family(dataset) {
            Family::Mnist(idx) => Some(idx.name),
            Family::Cifar(_) => None,
        });
        assert!(names.eq(idx::ALL.map(|idx| idx.name)));
    }

    fn message(source: &Source) -> String {
        load(source, &NoProgress).unwrap_err().to_string()
    }

    #[cfg(not(feature = "huggingface"))]
    #[test]
    fn without_its_feature_the_hub_is_an_error() {
        assert_eq!(
            message(&Source::HuggingFace { dataset: "uoft-cs/cifar10".to_owned() }),
            "this build cannot read uoft-cs/cifar10 from the Hugging Face Hub: build it with `--features huggingface`"
        );
    }

    #[test]
    fn synthetic_data_says_so() {
        let dataset = load(
            &Source::Synthetic { seed: 5, train: 30, test: 20, classes: 10, shape: [3, 32, 32] },
            &NoProgress,
        )
        .unwrap();
        assert_eq!((dataset.train.len(), dataset.test.len()), (30, 20));
        assert!(dataset.synthetic);
        assert_eq!(dataset.source, "synthetic images, seed 5");
    }

    #[test]
    fn synthetic_data_larger_than_memory_is_an_error() {
        let error = message(&Source::Synthetic {
            seed: 5,
            train: usize::MAX,
            test: 20,
            classes: 10,
            shape: [3, 32, 32],
        });
        assert!(error.contains("do not fit in memory"), "{error}");
    }
}
