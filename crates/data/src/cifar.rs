//! Where CIFAR-10 and CIFAR-100 lie in a folder, and how they get there.

#[cfg(test)]
mod killed;

use std::fs;
use std::path::{Path, PathBuf};

use crate::archive;
use crate::binary::{CIFAR10, Cifar, Layout};
use crate::download::{Patience, download};
use crate::file_spec::FileSpec;
use crate::files::{Kind, kind, lock, writing};
use crate::image_folder::{self, Classes};
use crate::published::Published;
use crate::{Error, Images, Progress};

/// One of them, with the requested labels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Labelled {
    pub(crate) cifar: &'static Cifar,
    /// Which label of a record is used.
    pub(crate) label: usize,
}

/// Where the images came from, as text for users, and the training and test images.
pub(crate) type Loaded = (String, (Images, Images));

/// Reads them from a cache, which is completed first.
pub(crate) fn load_cached(
    data: Labelled,
    cache: &Path,
    addresses: &[String],
    progress: &dyn Progress,
) -> Result<Loaded, Error> {
    // An image folder that somebody put there is used as it is.
    let folder = match find(data.cifar, cache) {
        Ok(Some(Found::ImageFolder)) => cache.to_owned(),
        _ => fetch(data.cifar, cache, addresses, progress)?,
    };
    load(data, &folder, progress)
}

/// Reads them from a folder or an archive.
pub(crate) fn load(data: Labelled, path: &Path, progress: &dyn Progress) -> Result<Loaded, Error> {
    load_path(data, path, &data.cifar.official(), progress)
}

/// Ensures that the binary files are in the folder `cache`, and returns where.
pub(crate) fn fetch(
    cifar: &'static Cifar,
    cache: &Path,
    addresses: &[String],
    progress: &dyn Progress,
) -> Result<PathBuf, Error> {
    fetch_patiently(cifar, cache, addresses, &cifar.official(), &Patience::default(), progress)
}

fn fetch_patiently(
    cifar: &'static Cifar,
    cache: &Path,
    addresses: &[String],
    spec: &FileSpec,
    patience: &Patience,
    progress: &dyn Progress,
) -> Result<PathBuf, Error> {
    if let Some(folder) = complete(cifar, cache, spec)? {
        return Ok(folder);
    }
    fs::create_dir_all(cache).map_err(writing(cache))?;
    // Held until the end of this function; the system releases it if the process dies.
    let _lock = lock(cache, progress)?;
    if let Some(folder) = complete(cifar, cache, spec)? {
        // Another process was faster.
        return Ok(folder);
    }
    let archive = cache.join(cifar.archive);
    if kind(&archive)? == Kind::File {
        match archive::check(&archive, spec, progress) {
            Ok(checked) => return checked.unpack(cifar, cache, progress),
            Err(error @ (Error::ArchiveSize { .. } | Error::ArchiveDigest { .. })) => {
                progress.note(&archive::explained(cifar, &archive, error).to_string());
            }
            Err(error) => return Err(error),
        }
    }
    download(&archive, addresses, spec, cifar.name, patience, progress)?;
    archive::check(&archive, spec, progress)?.unpack(cifar, cache, progress)
}

/// The folder of the binary files, if all exist and are complete.
fn complete(cifar: &'static Cifar, cache: &Path, spec: &FileSpec) -> Result<Option<PathBuf>, Error> {
    match Layout::find(cifar, cache) {
        Ok(Some(layout)) => Ok(layout.is_whole(*spec == cifar.official())?.then_some(layout.folder)),
        // Fetching completes this.
        Ok(None) | Err(Error::MissingFile { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What `path` holds, read and checked, if that makes [`fetch`] unnecessary: all of the files, or an image folder.
pub(crate) fn find_whole(
    data: Labelled,
    path: &Path,
    progress: &dyn Progress,
) -> Result<Option<String>, Error> {
    let cifar = data.cifar;
    let spec = cifar.official();
    let loaded = match kind(path)? {
        Kind::Nothing => return Ok(None),
        Kind::Folder => match find(cifar, path) {
            Ok(Some(Found::Binary(_))) if complete(cifar, path, &spec)?.is_none() => return Ok(None),
            Ok(Some(found)) => load_found(data, found, path, &spec, progress),
            Ok(None) | Err(Error::MissingFile { .. }) => return Ok(None),
            Err(error) => return Err(error),
        },
        Kind::File | Kind::Other => {
            return load_path(data, path, &spec, progress).map(|(source, _)| Some(source));
        }
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

/// What a folder holds.
enum Found {
    Binary(Layout),
    Archive(PathBuf),
    ImageFolder,
}

fn find(cifar: &'static Cifar, path: &Path) -> Result<Option<Found>, Error> {
    let layout = Layout::find(cifar, path);
    if let Ok(Some(layout)) = layout {
        return Ok(Some(Found::Binary(layout)));
    }
    // The archive also holds what an interrupted unpacking did not write.
    let archive = path.join(cifar.archive);
    if kind(&archive)? == Kind::File {
        return Ok(Some(Found::Archive(archive)));
    }
    layout?;
    if has_image_folders(cifar) && image_folder::is_one(path)? {
        return Ok(Some(Found::ImageFolder));
    }
    Ok(None)
}

/// CIFAR-10 may also be images in folders named after its classes, as some tools export it.
fn has_image_folders(cifar: &Cifar) -> bool {
    cifar.name == CIFAR10.name
}

fn load_path(data: Labelled, path: &Path, spec: &FileSpec, progress: &dyn Progress) -> Result<Loaded, Error> {
    match kind(path)? {
        Kind::Nothing => Err(no_such_path(data.cifar, path)),
        Kind::File => load_found(data, Found::Archive(path.to_owned()), path, spec, progress),
        Kind::Other => Err(not_an_archive(data.cifar, path)),
        Kind::Folder => match find(data.cifar, path)? {
            Some(found) => load_found(data, found, path, spec, progress),
            None => Err(not_found(data.cifar, path)?),
        },
    }
}

fn load_found(
    data: Labelled,
    found: Found,
    path: &Path,
    spec: &FileSpec,
    progress: &dyn Progress,
) -> Result<Loaded, Error> {
    let Labelled { cifar, label } = data;
    let name = cifar.name;
    Ok(match found {
        Found::Binary(layout) => {
            (format!("{name} binary files in {}", layout.folder.display()), layout.load(label, progress)?)
        }
        Found::Archive(archive) => (
            format!("{name} archive {}", archive.display()),
            archive::check(&archive, spec, progress)
                .map_err(|error| archive::explained(cifar, &archive, error))?
                .load(cifar, label, progress)?,
        ),
        Found::ImageFolder => {
            let spec = Published::Cifar10.spec();
            let folder = image_folder::load(path, Classes::Known(&spec.classes), spec.shape, None, progress)?;
            (format!("image folder {}", path.display()), folder.images)
        }
    })
}

pub(crate) fn no_such_path(cifar: &Cifar, path: &Path) -> Error {
    let wanted = format!("the folder or the archive that holds {}", cifar.name);
    Error::NoSuchPath { path: path.to_owned(), wanted }
}

pub(crate) fn not_an_archive(cifar: &Cifar, path: &Path) -> Error {
    Error::NotAnArchive { path: path.to_owned(), name: cifar.archive, dataset: cifar.name }
}

/// The error for a folder without data, which is most often another version: the authors offer three side by side.
pub(crate) fn not_found(cifar: &Cifar, path: &Path) -> Result<Error, Error> {
    if let Some(error) = archive::other_version(cifar, path)? {
        return Ok(error);
    }
    let files = match cifar.train {
        [first, .., last] => format!("{first} to {last} and {}", cifar.test),
        train => format!("{} and {}", train.join(", "), cifar.test),
    };
    let Cifar { folder, archive, .. } = cifar;
    let looked_for = if has_image_folders(cifar) {
        format!(
            "{files} in it and in its folder {folder}, for the archive {archive}, and for folders train and test with one folder \
             of images for each class"
        )
    } else {
        format!("{files} in it and in its folder {folder}, and for the archive {archive}")
    };
    let found = image_folder::names(path)?;
    Ok(Error::NotFound { path: path.to_owned(), dataset: cifar.name, looked_for, found })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoProgress;
    use crate::binary::CIFAR100;
    use crate::testing::{
        FileServer, Reply, Server, Watcher, archive_of, cifar100_archive, cifar100_files, six_files,
        small_archive, write_files,
    };
    use std::time::Duration;
    use tempfile::TempDir;

    fn patience() -> Patience {
        Patience { pause: Duration::ZERO, proxy: None, ..Patience::default() }
    }

    const DATA: Labelled = Labelled { cifar: &CIFAR10, label: 0 };
    const ARCHIVE: &str = "cifar-10-binary.tar.gz";

    fn fetch_small(cache: &Path, servers: &[&Server], watcher: &Watcher) -> Result<PathBuf, Error> {
        let addresses: Vec<String> = servers.iter().map(|server| server.address()).collect();
        fetch_patiently(&CIFAR10, cache, &addresses, &small_archive().1, &patience(), watcher)
    }

    fn message(path: &Path) -> String {
        load(DATA, path, &NoProgress).unwrap_err().to_string()
    }

    #[test]
    fn fetch_downloads_checks_and_unpacks_once() {
        let cache = TempDir::new().unwrap();
        let cache = cache.path().join("not/yet/there");
        let server = Server::new(&small_archive().0, [Reply::CutAfter(500), Reply::Whole]);
        let folder = fetch_small(&cache, &[&server], &Watcher::default()).unwrap();
        assert_eq!(folder, cache.join("cifar-10-batches-bin"));
        assert_eq!(server.ranges(), [None, Some(500)]);

        // No server is contacted again, and load agrees with the files.
        let again = fetch_small(&cache, &[], &Watcher::default()).unwrap();
        assert_eq!(again, folder);
        let (_, images) = load(DATA, &cache, &NoProgress).unwrap();
        assert_eq!((images.0.len(), images.1.len()), (15, 6));
        let (source, direct) = load(DATA, &folder, &NoProgress).unwrap();
        assert_eq!(direct, images);
        assert_eq!(source, format!("CIFAR-10 binary files in {}", folder.display()));
    }

    #[test]
    fn fetch_unpacks_an_archive_that_is_there() {
        let cache = TempDir::new().unwrap();
        fs::write(cache.path().join(ARCHIVE), small_archive().0).unwrap();
        fetch_small(cache.path(), &[], &Watcher::default()).unwrap();
        assert!(Layout::find(&CIFAR10, cache.path()).unwrap().is_some());
    }

    #[test]
    fn fetch_completes_a_folder_with_a_gap() {
        let cache = TempDir::new().unwrap();
        let mut files = six_files();
        files.remove(2);
        write_files(&cache.path().join("cifar-10-batches-bin"), &files);
        let server = Server::new(&small_archive().0, [Reply::Whole]);
        fetch_small(cache.path(), &[&server], &Watcher::default()).unwrap();
        assert_eq!(Layout::find(&CIFAR10, cache.path()).unwrap().unwrap().train.len(), 5);
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
            let layout = Layout::find(&CIFAR10, cache.path()).unwrap().unwrap();
            assert!(layout.is_whole(false).unwrap(), "case {number}");
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
        let (_, (train, test)) = load_path(DATA, folder.path(), &spec, &NoProgress).unwrap();
        assert_eq!((train.len(), test.len()), (15, 6));
    }

    #[test]
    fn only_all_of_cifar10_makes_fetching_needless() {
        let folder = TempDir::new().unwrap();
        assert_eq!(find_whole(DATA, folder.path(), &NoProgress).unwrap(), None);
        write_files(folder.path(), &six_files());
        assert_eq!(find_whole(DATA, folder.path(), &NoProgress).unwrap(), None);
        let file = folder.path().join("data_batch_1.bin");
        assert!(
            find_whole(DATA, &file, &NoProgress).unwrap_err().to_string().contains("neither a folder nor")
        );

        let folder = TempDir::new().unwrap();
        for set in ["train", "test"] {
            let class = folder.path().join(set).join("cat");
            fs::create_dir_all(&class).unwrap();
            image::RgbImage::new(3, 4).save(class.join("1.png")).unwrap();
        }
        let found = find_whole(DATA, folder.path(), &NoProgress).unwrap();
        assert_eq!(found, Some(format!("image folder {}", folder.path().display())));
        fs::create_dir(folder.path().join("train/tiger")).unwrap();
        assert_eq!(find_whole(DATA, folder.path(), &NoProgress).unwrap(), None);
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
                let error = message(&path);
                let expected =
                    format!("{} is {version}: give the binary version of CIFAR-10", path.display());
                assert!(error.starts_with(&expected), "{error}");
            }
            for (name, found) in [("cifar-10-binary.tar.gz", true), ("some.tgz", true), ("data", false)] {
                let error = message(folder.path());
                assert_eq!(error.contains(&format!("{name} is {version}")), found, "{error}");
                fs::remove_file(folder.path().join(name)).unwrap();
            }
            fs::create_dir(folder.path().join(inner)).unwrap();
            let error = message(folder.path());
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
            let error = message(&path);
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
            let error = message(&path);
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
        let at_work = watchers.iter().filter(|watcher| !watcher.started().is_empty());
        assert_eq!(at_work.count(), 1, "and one unpacks it");
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
        let error = message(&path);
        assert_eq!(
            error,
            format!("{} does not exist: give the folder or the archive that holds CIFAR-10", path.display())
        );

        let error = message(folder.path());
        assert!(
            error.starts_with(&format!("no CIFAR-10 in {}: looked for ", folder.path().display())),
            "{error}"
        );
        for part in ["data_batch_1.bin", "test_batch.bin", "cifar-10-batches-bin", ARCHIVE, "train", "test"] {
            assert!(error.contains(part), "{error}");
        }

        let path = folder.path().join("data_batch_1");
        fs::write(&path, "precious").unwrap();
        let error = message(&path);
        assert!(error.starts_with(&format!("{} is neither a folder nor ", path.display())), "{error}");

        let error = message(folder.path());
        assert!(error.contains("Python version"), "{error}");
    }

    #[test]
    fn an_archive_that_is_not_the_official_one_is_refused() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(ARCHIVE);
        fs::write(&path, small_archive().0).unwrap();
        for given in [&path, folder.path()] {
            let error = message(given);
            assert!(error.contains("bytes instead of 170052171"), "{error}");
        }
        let (_, spec) = small_archive();
        let (source, (train, _)) = load_path(DATA, &path, &spec, &NoProgress).unwrap();
        assert_eq!((source, train.len()), (format!("CIFAR-10 archive {}", path.display()), 15));
    }

    #[test]
    fn no_address_and_no_data_is_an_error_that_tells_what_to_do() {
        let cache = TempDir::new().unwrap();
        let error = load_cached(DATA, cache.path(), &[], &NoProgress).unwrap_err().to_string();
        assert_eq!(
            error,
            "could not download cifar-10-binary.tar.gz (no address was given): give a folder that holds CIFAR-10 with \
             --data-dir, or use synthetic data"
        );
    }

    const FINE: Labelled = Labelled { cifar: &CIFAR100, label: 1 };
    const COARSE: Labelled = Labelled { cifar: &CIFAR100, label: 0 };

    #[test]
    fn cifar100_is_fetched_and_read_with_either_label() {
        let (archive, spec) = cifar100_archive();
        let cache = TempDir::new().unwrap();
        let server = FileServer::new(&[("cifar-100-binary.tar.gz", archive.clone())]);
        let addresses = [format!("{}cifar-100-binary.tar.gz", server.address)];
        let fetch =
            || fetch_patiently(&CIFAR100, cache.path(), &addresses, &spec, &patience(), &Watcher::default());
        let folder = fetch().unwrap();
        assert_eq!(folder, cache.path().join("cifar-100-binary"));
        fetch().unwrap();
        assert_eq!(server.asked(), ["cifar-100-binary.tar.gz"]);
        // The archive is still there: lost files are restored from it.
        fs::remove_file(folder.join("train.bin")).unwrap();
        fetch().unwrap();
        assert!(server.asked().is_empty());

        let labels = |n: usize, step: usize, classes: usize| {
            (0..n).map(|i| (i * step % classes) as u16).collect::<Vec<_>>()
        };
        for (path, what) in [(cache.path().to_owned(), "binary files in"), (folder, "binary files in")] {
            for (data, step, classes) in [(FINE, 13, 100), (COARSE, 1, 20)] {
                let (source, (train, test)) = load(data, &path, &NoProgress).unwrap();
                assert!(source.starts_with(&format!("CIFAR-100 {what}")), "{source}");
                assert_eq!((train.classes(), test.classes()), (classes, classes));
                assert_eq!(train.labels(), labels(200, step, classes));
                assert_eq!(test.labels(), labels(6, step, classes));
                assert_eq!(test.image(5), &crate::testing::noise(2, 6 * 3072)[5 * 3072..]);
            }
        }
        // The archive itself.
        let file = cache.path().join(CIFAR100.archive);
        let (_, (train, _)) = load_path(FINE, &file, &spec, &NoProgress).unwrap();
        assert_eq!(train.labels(), labels(200, 13, 100));
    }

    #[test]
    fn bad_files_of_cifar100_are_refused_by_name() {
        let with = |number: usize, change: &dyn Fn(&mut Vec<u8>)| {
            let folder = TempDir::new().unwrap();
            let mut files = cifar100_files();
            change(&mut files[number].1);
            write_files(folder.path(), &files);
            load(FINE, folder.path(), &NoProgress).unwrap_err().to_string()
        };
        let error = with(0, &|bytes| bytes[2 * 3074 + 1] = 100);
        assert!(error.starts_with("record 2 of ") && error.contains("train.bin has label 100"), "{error}");
        assert!(error.contains("the labels of CIFAR-100 are 0 to 99"), "{error}");
        let error = with(1, &|bytes| bytes[3074] = 20);
        assert!(error.contains("test.bin has label 20, but the labels of CIFAR-100 are 0 to 19"), "{error}");
        let error = with(1, &|bytes| bytes.truncate(3073));
        assert!(
            error.contains("not one or more records of 3074 bytes (2 labels and 3072 pixels)"),
            "{error}"
        );
        assert!(error.contains("not a CIFAR-100 binary file"), "{error}");
        let folder = TempDir::new().unwrap();
        write_files(folder.path(), &cifar100_files()[1..]);
        let error = load(FINE, folder.path(), &NoProgress).unwrap_err().to_string();
        assert!(error.starts_with("train.bin is missing in "), "{error}");
        assert!(error.ends_with("the folder needs train.bin and test.bin"), "{error}");
    }

    /// The two are easily confused.
    #[test]
    fn the_other_cifar_is_named() {
        let folder = TempDir::new().unwrap();
        write_files(&folder.path().join("cifar-10-batches-bin"), &six_files());
        let error = load(FINE, folder.path(), &NoProgress).unwrap_err().to_string();
        assert!(
            error.contains(
                "cifar-10-batches-bin is the binary version of CIFAR-10: give the binary version of CIFAR-100"
            ),
            "{error}"
        );
        let folder = TempDir::new().unwrap();
        write_files(folder.path(), &cifar100_files());
        let error = message(folder.path());
        assert!(
            error.contains("is the binary version of CIFAR-100: give the binary version of CIFAR-10"),
            "{error}"
        );
        let error = load(FINE, TempDir::new().unwrap().path(), &NoProgress).unwrap_err().to_string();
        assert!(
            error.contains("looked for train.bin and test.bin in it and in its folder cifar-100-binary"),
            "{error}"
        );
        assert!(!error.contains("images"), "{error}");
    }
}
