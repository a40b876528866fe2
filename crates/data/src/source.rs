//! Where the data is, and how it gets into memory.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::archive::{self, ARCHIVE, ArchiveSpec};
use crate::binary::Layout;
use crate::download::{Patience, download};
use crate::files::{Kind, kind, writing};
#[cfg(feature = "huggingface")]
use crate::huggingface;
use crate::{Dataset, Error, Images, Progress, image_folder, synthetic};

/// Where the data is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A folder (or the archive itself). The first of these that is there is taken:
    ///
    /// 1. `data_batch_1.bin` to at most `data_batch_5.bin` without a gap and `test_batch.bin`, of any number of records,
    ///    in the folder or in its folder `cifar-10-batches-bin`;
    /// 2. the official archive `cifar-10-binary.tar.gz`, read without being unpacked;
    /// 3. folders `train` and `test` with one folder of png or jpeg images for each class, named after it in any case. An
    ///    image of another size than 32x32 is resized with a Catmull-Rom filter; transparency is dropped. Images come in
    ///    the order of their classes and then of the bytes of their file names. Hidden files and what file managers and
    ///    archivers leave behind are passed over; texts are left out with a [note](Progress::note).
    Directory(PathBuf),
    /// CIFAR-10 from a folder that is filled from the network if need be.
    Cifar10 {
        /// The folder; see [`fetch`] for what it holds.
        cache: PathBuf,
        /// Addresses of the official archive, tried in order; see [`default_addresses`].
        addresses: Vec<String>,
    },
    /// A dataset of the Hugging Face Hub with the columns of `uoft-cs/cifar10`; needs the feature `huggingface`.
    HuggingFace {
        /// Its name, `owner/name`.
        dataset: String,
    },
    /// Images drawn by a program: ten classes of shapes and textures, for tests and machines without a network.
    ///
    /// Image i of a set is a function of the seed, the set and i alone: a smaller set is the beginning of a larger one.
    Synthetic {
        /// Seed of the drawings.
        seed: u64,
        /// Number of training images.
        train: usize,
        /// Number of test images.
        test: usize,
    },
}

/// Where the official archive is: its authors' page, and a mirror of it.
#[must_use]
pub fn default_addresses() -> Vec<String> {
    [
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "https://storage.googleapis.com/mirror.tensorflow.org/www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Reads (or draws, or fetches first) all images of a source.
///
/// # Errors
///
/// Whatever keeps the dataset from being complete and valid: nothing is left out in silence.
pub fn load(source: &Source, progress: &dyn Progress) -> Result<Dataset, Error> {
    let (source, (train, test)) = match source {
        Source::Directory(path) => load_path(path, &ArchiveSpec::official(), progress)?,
        Source::Cifar10 { cache, addresses } => {
            // An image folder that somebody put there is used as it is.
            let source = match find(cache) {
                Ok(Some(Found::ImageFolder)) => cache.clone(),
                _ => fetch(cache, addresses, progress)?,
            };
            load_path(&source, &ArchiveSpec::official(), progress)?
        }
        #[cfg(not(feature = "huggingface"))]
        Source::HuggingFace { dataset } => {
            return Err(Error::HuggingFaceDisabled { dataset: dataset.clone() });
        }
        #[cfg(feature = "huggingface")]
        Source::HuggingFace { dataset } => {
            (format!("{dataset} of the Hugging Face Hub"), huggingface::load(dataset, progress)?)
        }
        Source::Synthetic { seed, train, test } => {
            let images = synthetic::draw(*seed, *train, *test, progress)?;
            return Ok(Dataset {
                train: images.0,
                test: images.1,
                source: format!("synthetic images, seed {seed}"),
                synthetic: true,
            });
        }
    };
    Ok(Dataset { train, test, source, synthetic: false })
}

/// Sees to it that CIFAR-10's binary files are in the folder `cache`, and tells where.
///
/// If all six are not in it or in its folder `cifar-10-batches-bin`, whole, they are unpacked from `cifar-10-binary.tar.gz` in
/// it, which is downloaded first if need be. Files of these names that hold something else are renamed, with `.old` behind
/// their names; everything else in the folder stays as it is. A process that is killed on the way leaves nothing that is
/// taken for complete, and the next call continues the download. Several processes may fetch into one folder: they take turns.
///
/// # Errors
///
/// [`Error::Download`] if no address gives the archive; [`Error::Read`] and [`Error::Write`].
pub fn fetch(cache: &Path, addresses: &[String], progress: &dyn Progress) -> Result<PathBuf, Error> {
    fetch_archive(cache, addresses, &ArchiveSpec::official(), progress)
}

/// [`fetch`] for an archive of another size and checksum than the official one.
///
/// # Errors
///
/// As for [`fetch`].
pub fn fetch_archive(
    cache: &Path,
    addresses: &[String],
    spec: &ArchiveSpec,
    progress: &dyn Progress,
) -> Result<PathBuf, Error> {
    fetch_patiently(cache, addresses, spec, &Patience::default(), progress)
}

pub(crate) fn fetch_patiently(
    cache: &Path,
    addresses: &[String],
    spec: &ArchiveSpec,
    patience: &Patience,
    progress: &dyn Progress,
) -> Result<PathBuf, Error> {
    if let Some(folder) = complete(cache, spec)? {
        return Ok(folder);
    }
    fs::create_dir_all(cache).map_err(writing(cache))?;
    // Held until the end of this function; the system releases it if the process dies.
    let _lock = lock(cache, progress)?;
    if let Some(folder) = complete(cache, spec)? {
        // Somebody else was faster.
        return Ok(folder);
    }
    let archive = cache.join(ARCHIVE);
    if kind(&archive)? == Kind::File {
        match archive::check(&archive, spec, progress) {
            Ok(checked) => return checked.unpack(cache, progress),
            Err(error @ (Error::ArchiveSize { .. } | Error::ArchiveDigest { .. })) => {
                progress.note(&archive::explained(&archive, error).to_string());
            }
            Err(error) => return Err(error),
        }
    }
    download(&archive, addresses, spec, patience, progress)?;
    archive::check(&archive, spec, progress)?.unpack(cache, progress)
}

/// The folder of the binary files, if all six are there and whole.
fn complete(cache: &Path, spec: &ArchiveSpec) -> Result<Option<PathBuf>, Error> {
    /// Of each file of the official archive.
    const RECORDS: u64 = 10_000;

    let records = (*spec == ArchiveSpec::official()).then_some(RECORDS);
    match Layout::find(cache) {
        Ok(Some(layout)) => Ok(layout.is_whole(records)?.then_some(layout.folder)),
        // Fetching completes this.
        Ok(None) | Err(Error::MissingFile { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What `path` holds, read and checked, if that makes [`fetch`] needless: all of CIFAR-10, or an image folder.
///
/// # Errors
///
/// [`Error::Read`]; whatever else is wrong with a file, if `path` is one and no folder.
pub fn find_whole(path: &Path, progress: &dyn Progress) -> Result<Option<String>, Error> {
    let spec = ArchiveSpec::official();
    let loaded = match kind(path)? {
        Kind::Nothing => return Ok(None),
        Kind::Folder => match find(path) {
            Ok(Some(Found::Binary(_))) if complete(path, &spec)?.is_none() => return Ok(None),
            Ok(Some(found)) => load_found(found, path, &spec, progress),
            Ok(None) | Err(Error::MissingFile { .. }) => return Ok(None),
            Err(error) => return Err(error),
        },
        Kind::File | Kind::Other => return load_path(path, &spec, progress).map(|(source, _)| Some(source)),
    };
    match loaded {
        Ok((source, _)) => Ok(Some(source)),
        Err(error @ (Error::Read { .. } | Error::Memory { .. })) => Err(error),
        Err(error) => {
            progress.note(&error.to_string());
            Ok(None)
        }
    }
}

/// Waits for the right to change the folder.
fn lock(cache: &Path, progress: &dyn Progress) -> Result<Option<File>, Error> {
    let path = cache.join(".fetch.lock");
    let file = File::create(&path).map_err(writing(&path))?;
    let result = match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            progress.note(&format!("waiting for another process that fetches into {}", cache.display()));
            file.lock()
        }
        Err(TryLockError::Error(error)) => Err(error),
        Ok(()) => Ok(()),
    };
    match result {
        Ok(()) => Ok(Some(file)),
        // Some network file systems have no locks: the user of such a one has to take turns alone.
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
        Err(error) => Err(writing(&path)(error)),
    }
}

/// What a folder holds.
enum Found {
    Binary(Layout),
    Archive(PathBuf),
    ImageFolder,
}

fn find(path: &Path) -> Result<Option<Found>, Error> {
    let layout = Layout::find(path);
    if let Ok(Some(layout)) = layout {
        return Ok(Some(Found::Binary(layout)));
    }
    // It holds also what is missing where unpacking it was interrupted.
    let archive = path.join(ARCHIVE);
    if kind(&archive)? == Kind::File {
        return Ok(Some(Found::Archive(archive)));
    }
    layout?;
    if image_folder::is_one(path)? {
        return Ok(Some(Found::ImageFolder));
    }
    Ok(None)
}

fn load_path(
    path: &Path,
    spec: &ArchiveSpec,
    progress: &dyn Progress,
) -> Result<(String, (Images, Images)), Error> {
    match kind(path)? {
        Kind::Nothing => Err(Error::NoSuchPath { path: path.to_owned() }),
        Kind::File => load_found(Found::Archive(path.to_owned()), path, spec, progress),
        Kind::Other => Err(Error::NotAnArchive { path: path.to_owned() }),
        Kind::Folder => match find(path)? {
            Some(found) => load_found(found, path, spec, progress),
            None => Err(not_found(path)?),
        },
    }
}

fn load_found(
    found: Found,
    path: &Path,
    spec: &ArchiveSpec,
    progress: &dyn Progress,
) -> Result<(String, (Images, Images)), Error> {
    Ok(match found {
        Found::Binary(layout) => {
            (format!("CIFAR-10 binary files in {}", layout.folder.display()), layout.load(progress)?)
        }
        Found::Archive(archive) => (
            format!("CIFAR-10 archive {}", archive.display()),
            archive::check(&archive, spec, progress)
                .map_err(|error| archive::explained(&archive, error))?
                .load(progress)?,
        ),
        Found::ImageFolder => {
            (format!("image folder {}", path.display()), image_folder::load(path, progress)?)
        }
    })
}

/// The error for a folder without data, which is most often another version of CIFAR-10: the authors offer three side by side.
pub(crate) fn not_found(path: &Path) -> Result<Error, Error> {
    if let Some(error) = archive::other_version(path)? {
        return Ok(error);
    }
    let entries = image_folder::entries(path)?;
    let name = |entry: &PathBuf| entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Error::NotFound { path: path.to_owned(), found: entries.iter().map(name).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoProgress;
    use crate::testing::{Reply, Server, Watcher, archive_of, six_files, small_archive, write_files};
    use std::time::Duration;
    use tempfile::TempDir;

    fn patience() -> Patience {
        Patience { pause: Duration::ZERO, proxy: None, ..Patience::default() }
    }

    fn fetch_small(cache: &Path, servers: &[&Server], watcher: &Watcher) -> Result<PathBuf, Error> {
        let addresses: Vec<String> = servers.iter().map(|server| server.address()).collect();
        fetch_patiently(cache, &addresses, &small_archive().1, &patience(), watcher)
    }

    fn message(source: Source) -> String {
        load(&source, &NoProgress).unwrap_err().to_string()
    }

    #[test]
    fn fetch_downloads_checks_and_unpacks_once() {
        let cache = TempDir::new().unwrap();
        let cache = cache.path().join("not/yet/there");
        let server = Server::new(&small_archive().0, [Reply::CutAfter(500), Reply::Whole]);
        let folder = fetch_small(&cache, &[&server], &Watcher::default()).unwrap();
        assert_eq!(folder, cache.join("cifar-10-batches-bin"));
        assert_eq!(server.ranges(), [None, Some(500)]);

        // Now nobody is asked any more, and load agrees with what is there.
        let again = fetch_small(&cache, &[], &Watcher::default()).unwrap();
        assert_eq!(again, folder);
        let dataset = load(&Source::Directory(cache.clone()), &NoProgress).unwrap();
        assert_eq!((dataset.train.len(), dataset.test.len()), (15, 6));
        assert!(!dataset.synthetic);
        let direct = load(&Source::Directory(folder.clone()), &NoProgress).unwrap();
        assert_eq!(dataset.fingerprint(), direct.fingerprint());
        assert_eq!(direct.source, format!("CIFAR-10 binary files in {}", folder.display()));
    }

    #[test]
    fn fetch_unpacks_an_archive_that_is_there() {
        let cache = TempDir::new().unwrap();
        fs::write(cache.path().join(ARCHIVE), small_archive().0).unwrap();
        fetch_small(cache.path(), &[], &Watcher::default()).unwrap();
        assert!(Layout::find(cache.path()).unwrap().is_some());
    }

    #[test]
    fn fetch_completes_a_folder_with_a_gap() {
        let cache = TempDir::new().unwrap();
        let mut files = six_files();
        files.remove(2);
        write_files(&cache.path().join("cifar-10-batches-bin"), &files);
        let server = Server::new(&small_archive().0, [Reply::Whole]);
        fetch_small(cache.path(), &[&server], &Watcher::default()).unwrap();
        assert_eq!(Layout::find(cache.path()).unwrap().unwrap().train.len(), 5);
    }

    #[test]
    fn fetch_completes_what_is_cut_short_or_missing() {
        let (archive, _) = small_archive();
        let (mut fewer, mut cut) = (six_files(), six_files());
        fewer.remove(4);
        cut[5].1.truncate(4000);
        for (number, files) in [fewer, cut, Vec::new()].into_iter().enumerate() {
            let cache = TempDir::new().unwrap();
            write_files(&cache.path().join("cifar-10-batches-bin"), &files);
            for other in ["cifar-10-batches-py", "train/foo"] {
                fs::create_dir_all(cache.path().join(other)).unwrap();
            }
            let server = Server::new(&archive, [Reply::Whole]);
            fetch_small(cache.path(), &[&server], &Watcher::default()).unwrap();
            let layout = Layout::find(cache.path()).unwrap().unwrap();
            assert!(layout.is_whole(None).unwrap(), "case {number}");
            assert!(cache.path().join("train/foo").exists());
        }
    }

    #[test]
    fn a_damaged_archive_is_set_aside_once_there_is_another() {
        let cache = TempDir::new().unwrap();
        let path = cache.path().join(ARCHIVE);
        fs::write(&path, "<html>").unwrap();
        let watcher = Watcher::default();
        fetch_small(cache.path(), &[&Server::closed()], &watcher).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"<html>");
        let expected = format!("{} is a web page, not the archive cifar-10-binary.tar.gz", path.display());
        assert_eq!(watcher.notes()[0], expected);
        let server = Server::new(&small_archive().0, [Reply::Whole]);
        fetch_small(cache.path(), &[&server], &watcher).unwrap();
        assert_eq!(fs::read(cache.path().join("cifar-10-binary.tar.gz.old")).unwrap(), b"<html>");
    }

    #[test]
    fn unpacking_that_was_interrupted_does_not_hide_the_archive() {
        let folder = TempDir::new().unwrap();
        let (archive, spec) = small_archive();
        fs::write(folder.path().join(ARCHIVE), archive).unwrap();
        write_files(&folder.path().join("cifar-10-batches-bin"), &six_files()[..2]);
        let (_, (train, test)) = load_path(folder.path(), &spec, &NoProgress).unwrap();
        assert_eq!((train.len(), test.len()), (15, 6));
    }

    #[test]
    fn only_all_of_cifar10_makes_fetching_needless() {
        let folder = TempDir::new().unwrap();
        assert_eq!(find_whole(folder.path(), &NoProgress).unwrap(), None);
        write_files(folder.path(), &six_files());
        assert_eq!(find_whole(folder.path(), &NoProgress).unwrap(), None);
        let file = folder.path().join("data_batch_1.bin");
        assert!(find_whole(&file, &NoProgress).unwrap_err().to_string().contains("neither a folder nor"));

        let folder = TempDir::new().unwrap();
        for set in ["train", "test"] {
            let class = folder.path().join(set).join("cat");
            fs::create_dir_all(&class).unwrap();
            image::RgbImage::new(3, 4).save(class.join("1.png")).unwrap();
        }
        let found = find_whole(folder.path(), &NoProgress).unwrap();
        assert_eq!(found, Some(format!("image folder {}", folder.path().display())));
        fs::create_dir(folder.path().join("train/tiger")).unwrap();
        assert_eq!(find_whole(folder.path(), &NoProgress).unwrap(), None);
    }

    #[test]
    fn other_versions_are_named_whatever_they_are_called() {
        let versions = [
            ("cifar-10-batches-py", "the Python version of CIFAR-10"),
            ("cifar-10-batches-mat", "the MATLAB version of CIFAR-10"),
            ("cifar-100-python", "the Python version of CIFAR-100"),
            ("cifar-100-matlab", "the MATLAB version of CIFAR-100"),
            ("cifar-100-binary", "the binary version of CIFAR-100"),
        ];
        for (inner, version) in versions {
            let folder = TempDir::new().unwrap();
            let (archive, _) = archive_of(&[(&format!("{inner}/readme.html"), vec![1; 700])]);
            for name in ["cifar-10-binary.tar.gz", "some.tgz", "data"] {
                let path = folder.path().join(name);
                fs::write(&path, &archive).unwrap();
                let error = message(Source::Directory(path.clone()));
                let expected =
                    format!("{} is {version}: give the binary version of CIFAR-10", path.display());
                assert!(error.starts_with(&expected), "{error}");
            }
            for (name, found) in [("cifar-10-binary.tar.gz", true), ("some.tgz", true), ("data", false)] {
                let error = message(Source::Directory(folder.path().to_owned()));
                assert_eq!(error.contains(&format!("{name} is {version}")), found, "{error}");
                fs::remove_file(folder.path().join(name)).unwrap();
            }
            fs::create_dir(folder.path().join(inner)).unwrap();
            let error = message(Source::Directory(folder.path().to_owned()));
            assert!(error.contains(&format!("{inner} is {version}")), "{error}");
        }
        // By its name and by its size.
        let folder = TempDir::new().unwrap();
        for (name, bytes, version) in [
            ("cifar-10-matlab.tar.gz", 10, "MATLAB version of CIFAR-10"),
            ("x", 170_498_071, "Python version"),
        ] {
            let path = folder.path().join(name);
            fs::File::create(&path).unwrap().set_len(bytes).unwrap();
            let error = message(Source::Directory(path));
            assert!(error.contains(version), "{error}");
        }
    }

    #[test]
    fn what_is_no_archive_is_said_to_be_what_it_is() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(ARCHIVE);
        let cases: [(&[u8], &str); 6] = [
            (b"", "is empty, not the archive"),
            (b"\r\n<!DOCTYPE html>", "is a web page, not the archive"),
            (b"PK\x03\x04zip", "is a zip archive, not the archive"),
            (b"version https://git-lfs.github.com/spec/v1", "is a pointer of Git LFS, not the archive"),
            (&small_archive().0[..500], "has 500 bytes instead of 170052171: it is cut short, or it is not "),
            (b"anything", "has 8 bytes instead of 170052171"),
        ];
        for (contents, expected) in cases {
            fs::write(&path, contents).unwrap();
            let error = message(Source::Directory(path.clone()));
            assert!(error.contains(expected) && !error.contains("delete"), "{error}");
        }
    }

    #[test]
    fn fetches_into_one_folder_take_turns() {
        let cache = TempDir::new().unwrap();
        let server = Server::new(&small_archive().0, [Reply::Whole]);
        let watchers: [Watcher; 4] = Default::default();
        std::thread::scope(|scope| {
            for watcher in &watchers {
                scope.spawn(|| fetch_small(cache.path(), &[&server], watcher).unwrap());
            }
        });
        assert_eq!(server.ranges(), [None], "one download is enough");
    }

    #[test]
    fn a_folder_that_others_hold_is_waited_for() {
        let cache = TempDir::new().unwrap();
        let watcher = Watcher::default();
        let held = lock(cache.path(), &NoProgress).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| lock(cache.path(), &watcher).unwrap());
            while watcher.notes().is_empty() {
                std::thread::yield_now();
            }
            drop(held);
        });
        let expected = format!("waiting for another process that fetches into {}", cache.path().display());
        assert_eq!(watcher.notes(), [expected]);
    }

    #[test]
    fn what_is_not_there_is_named() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("nowhere");
        let error = message(Source::Directory(path.clone()));
        assert_eq!(
            error,
            format!("{} does not exist: give the folder or the archive that holds CIFAR-10", path.display())
        );

        let error = message(Source::Directory(folder.path().to_owned()));
        assert!(
            error.starts_with(&format!("no CIFAR-10 in {}: looked for ", folder.path().display())),
            "{error}"
        );
        for part in ["data_batch_1.bin", "test_batch.bin", "cifar-10-batches-bin", ARCHIVE, "train", "test"] {
            assert!(error.contains(part), "{error}");
        }

        let path = folder.path().join("data_batch_1");
        fs::write(&path, "precious").unwrap();
        let error = message(Source::Directory(path.clone()));
        assert!(error.starts_with(&format!("{} is neither a folder nor ", path.display())), "{error}");

        let error = message(Source::Directory(folder.path().to_owned()));
        assert!(error.contains("Python version"), "{error}");
    }

    #[test]
    fn an_archive_that_is_not_the_official_one_is_refused() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(ARCHIVE);
        fs::write(&path, small_archive().0).unwrap();
        for source in [Source::Directory(path.clone()), Source::Directory(folder.path().to_owned())] {
            let error = message(source);
            assert!(error.contains("bytes instead of 170052171"), "{error}");
        }
        let (_, spec) = small_archive();
        let (source, (train, _)) = load_path(&path, &spec, &NoProgress).unwrap();
        assert_eq!((source, train.len()), (format!("CIFAR-10 archive {}", path.display()), 15));
    }

    #[test]
    fn no_address_and_no_data_is_an_error_that_tells_what_to_do() {
        let cache = TempDir::new().unwrap();
        let error = message(Source::Cifar10 { cache: cache.path().to_owned(), addresses: Vec::new() });
        assert_eq!(
            error,
            "could not download cifar-10-binary.tar.gz (no address was given): give a folder that holds CIFAR-10 with \
             --data-dir, or use synthetic data"
        );
    }

    #[cfg(not(feature = "huggingface"))]
    #[test]
    fn without_its_feature_the_hub_is_an_error() {
        assert_eq!(
            message(Source::HuggingFace { dataset: "uoft-cs/cifar10".to_owned() }),
            "this build cannot read uoft-cs/cifar10 from the Hugging Face Hub: build it with `--features huggingface`"
        );
    }

    #[test]
    fn synthetic_data_says_so() {
        let dataset = load(&Source::Synthetic { seed: 5, train: 30, test: 20 }, &NoProgress).unwrap();
        assert_eq!((dataset.train.len(), dataset.test.len()), (30, 20));
        assert!(dataset.synthetic);
        assert_eq!(dataset.source, "synthetic images, seed 5");
    }

    #[test]
    fn synthetic_data_larger_than_memory_is_an_error() {
        let error = message(Source::Synthetic { seed: 5, train: usize::MAX, test: 20 });
        assert!(error.contains("do not fit in memory"), "{error}");
    }
}
