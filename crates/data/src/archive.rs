//! The official archive, checked before it is used and never unpacked to the paths it holds.

use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use md5::{Digest, Md5};
use pointwise_recipe::one_line;

use crate::binary::{Cifar, Records};
use crate::file_spec::FileSpec;
use crate::files::{
    Kind, hex, in_chunks, is_start_of, kind, put_in_place, reading, remove_if_there, set_aside, sync_folder,
    writing,
};
use crate::image_folder::entries;
use crate::{Error, Images, Progress, Unit};

/// An archive whose size and checksum are right; it stays open, so what was checked is what is read.
pub(crate) struct Checked {
    path: PathBuf,
    file: File,
    bytes: u64,
}

/// Opens `path` and checks its size and its MD5.
pub(crate) fn check(path: &Path, spec: &FileSpec, progress: &dyn Progress) -> Result<Checked, Error> {
    let mut file = File::open(path).map_err(reading(path))?;
    let bytes = file.metadata().map_err(reading(path))?.len();
    if bytes != spec.bytes {
        let problem = spec.problem(path, bytes, String::new());
        return problem.map_or_else(|| unreachable!("sizes differ"), Err);
    }
    progress.start(&format!("checking {}", path.display()), Some(bytes), Unit::Bytes);
    let mut hash = Md5::new();
    in_chunks(&mut file, |chunk, position| {
        hash.update(chunk);
        progress.advance(position);
    })
    .map_err(reading(path))?;
    progress.finish();
    if let Some(problem) = spec.problem(path, bytes, hex(&hash.finalize())) {
        return Err(problem);
    }
    file.rewind().map_err(reading(path))?;
    Ok(Checked { path: path.to_owned(), file, bytes })
}

/// The error that says what a file is that was mistaken for the archive, if that can be recognised; otherwise `error`, the original one.
pub(crate) fn explained(cifar: &Cifar, path: &Path, error: Error) -> Error {
    if !matches!(error, Error::ArchiveSize { .. } | Error::ArchiveDigest { .. }) {
        return error;
    }
    let path = path.to_owned();
    match contents(cifar, &path) {
        Err(error) => error,
        Ok(Contents::Version(version)) => version_error(cifar, path, version),
        Ok(Contents::Foreign(what)) => Error::NoArchive { path, name: cifar.archive, what },
        Ok(Contents::Archive) => error,
        Ok(Contents::Unknown) => Error::NotAnArchive { path, name: cifar.archive, dataset: cifar.name },
    }
}

fn version_error(cifar: &Cifar, path: PathBuf, version: &str) -> Error {
    let wanted = format!("the binary version of {}, {}", cifar.name, cifar.archive);
    Error::OtherVersion { path, version: version.to_owned(), wanted }
}

/// A version that the authors publish.
#[derive(Debug, Clone, Copy)]
struct Version {
    what: &'static str,
    /// The folder in its archive.
    folder: &'static str,
    /// The name of its archive, without extensions.
    archive: &'static str,
    /// The size of its archive, where it is known.
    bytes: Option<u64>,
    /// The files that identify its folder.
    files: &'static [&'static str],
}

const VERSIONS: [Version; 6] = [
    Version {
        what: "the binary version of CIFAR-10",
        folder: "cifar-10-batches-bin",
        archive: "cifar-10-binary",
        bytes: Some(170_052_171),
        files: &["data_batch_1.bin", "test_batch.bin"],
    },
    Version {
        what: "the Python version of CIFAR-10",
        folder: "cifar-10-batches-py",
        archive: "cifar-10-python",
        bytes: Some(170_498_071),
        files: &["data_batch_1"],
    },
    Version {
        what: "the MATLAB version of CIFAR-10",
        folder: "cifar-10-batches-mat",
        archive: "cifar-10-matlab",
        bytes: None,
        files: &["data_batch_1.mat"],
    },
    Version {
        what: "the Python version of CIFAR-100",
        folder: "cifar-100-python",
        archive: "cifar-100-python",
        bytes: Some(169_001_437),
        files: &["train", "test", "meta"],
    },
    Version {
        what: "the MATLAB version of CIFAR-100",
        folder: "cifar-100-matlab",
        archive: "cifar-100-matlab",
        bytes: None,
        files: &["train.mat", "test.mat"],
    },
    Version {
        what: "the binary version of CIFAR-100",
        folder: "cifar-100-binary",
        archive: "cifar-100-binary",
        bytes: Some(168_513_733),
        files: &["train.bin", "test.bin"],
    },
];

/// All but the one that is read.
fn other_versions(cifar: &Cifar) -> impl Iterator<Item = &'static Version> + Clone {
    let folder = cifar.folder;
    VERSIONS.iter().filter(move |version| version.folder != folder)
}

/// The error for a folder that holds another version than the one that is read, if it does.
pub(crate) fn other_version(cifar: &Cifar, folder: &Path) -> Result<Option<Error>, Error> {
    for version in other_versions(cifar) {
        let mut all = true;
        for file in version.files {
            all &= kind(&folder.join(file))? == Kind::File;
        }
        if all {
            return Ok(Some(version_error(cifar, folder.to_owned(), version.what)));
        }
        let inner = folder.join(version.folder);
        if kind(&inner)? == Kind::Folder {
            return Ok(Some(version_error(cifar, inner, version.what)));
        }
    }
    for path in entries(folder)? {
        if looks_packed(&path)
            && kind(&path)? == Kind::File
            && let Contents::Version(version) = contents(cifar, &path)?
        {
            return Ok(Some(version_error(cifar, path, version)));
        }
    }
    Ok(None)
}

fn lower_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().to_lowercase()
}

fn looks_packed(path: &Path) -> bool {
    let name = lower_name(path);
    [".tar.gz", ".tgz", ".tar"].iter().any(|extension| name.ends_with(extension))
}

enum Contents {
    Version(&'static str),
    /// Something else that has the name of an archive.
    Foreign(&'static str),
    /// Some archive.
    Archive,
    Unknown,
}

/// What a file is, by its first bytes, its size and its name, in this order.
fn contents(cifar: &Cifar, path: &Path) -> Result<Contents, Error> {
    let mut file = File::open(path).map_err(reading(path))?;
    let bytes = file.metadata().map_err(reading(path))?.len();
    let mut start = Vec::new();
    Read::by_ref(&mut file).take(512).read_to_end(&mut start).map_err(reading(path))?;
    file.rewind().map_err(reading(path))?;
    let zipped = start.starts_with(&[0x1F, 0x8B]);
    let first = if zipped {
        first_member(GzDecoder::new(file).take(FIRST_MEMBER))
    } else {
        first_member(file.take(FIRST_MEMBER))
    };

    let name = lower_name(path);
    let by_first = |version: &&Version| first.as_ref().is_some_and(|first| first.starts_with(version.folder));
    let by_size = |version: &&Version| version.bytes == Some(bytes);
    let by_name = |version: &&Version| name.starts_with(version.archive);
    let mut versions = other_versions(cifar);
    let version = versions.clone().find(by_first);
    let version = version.or_else(|| versions.clone().find(by_size)).or_else(|| versions.find(by_name));
    if let Some(version) = version {
        return Ok(Contents::Version(version.what));
    }
    Ok(match start.trim_ascii_start() {
        [] if bytes == 0 => Contents::Foreign("empty"),
        [b'<', ..] => Contents::Foreign("a web page"),
        [b'P', b'K', 3, 4, ..] => Contents::Foreign("a zip archive"),
        [b'P', b'A', b'R', b'1', ..] => Contents::Foreign("a parquet file"),
        [b'{', ..] => Contents::Foreign("a JSON file"),
        text if text.starts_with(b"version https://git-lfs") => Contents::Foreign("a pointer of Git LFS"),
        _ if zipped || first.is_some() || looks_packed(path) => Contents::Archive,
        _ => Contents::Unknown,
    })
}

/// How much of an archive is searched for the name of its first member: a long name, which precedes the member, may claim any length.
const FIRST_MEMBER: u64 = 1 << 20;

/// The name of an archive's first member, if it is an archive.
fn first_member(tar: impl Read) -> Option<String> {
    let mut archive = tar::Archive::new(tar);
    let first = archive.entries().ok()?.next()?.ok()?;
    let name = String::from_utf8_lossy(&first.path_bytes()).into_owned();
    Some(name.trim_start_matches("./").to_owned())
}

impl Checked {
    /// Reads the training and the test images without writing anything.
    ///
    /// Of each record, label number `label` is used.
    pub(crate) fn load(
        self,
        cifar: &'static Cifar,
        label: usize,
        progress: &dyn Progress,
    ) -> Result<(Images, Images), Error> {
        let path = self.path.clone();
        let mut members: Vec<Option<Records>> = cifar.files().map(|_| None).collect();
        self.each_member(cifar, "reading", progress, |place, file, bytes, member| {
            let mut records = Records::new(cifar, label);
            records.read(&format!("{file} in {}", path.display()), &path, member, bytes, |_| ())?;
            members[place] = Some(records);
            Ok(())
        })?;
        let test = members.pop().flatten().unwrap_or_else(|| Records::new(cifar, label));
        let mut all = Records::new(cifar, label);
        for records in members.into_iter().flatten() {
            all.append(records)?;
        }
        Ok((all.into_images()?, test.into_images()?))
    }

    /// Unpacks the files into their folder in `cache`, which gets all of them or stays as it is.
    ///
    /// The caller ensures that no other process unpacks there at the same time.
    pub(crate) fn unpack(
        self,
        cifar: &'static Cifar,
        cache: &Path,
        progress: &dyn Progress,
    ) -> Result<PathBuf, Error> {
        let folder = cache.join(cifar.folder);
        // A fixed name: what a killed process left is overwritten instead of piling up.
        let partial = cache.join(format!("{}.part", cifar.folder));
        fs::create_dir_all(&partial).map_err(writing(&partial))?;
        let archive = self.path.clone();
        self.each_member(cifar, "unpacking", progress, |_, name, bytes, member| {
            // Whole members (154 MB at most) in memory keep the errors of reading and of writing apart.
            let mut contents = Vec::new();
            let cause = match member.read_to_end(&mut contents) {
                Ok(n) if n as u64 == bytes => None,
                Ok(n) => Some(format!("its member {name} ends after {n} of {bytes} bytes")),
                Err(error) => Some(error.to_string()),
            };
            if let Some(cause) = cause {
                return Err(Error::Archive { path: archive.clone(), cause: one_line(&cause) });
            }
            let path = partial.join(name);
            let mut file = File::create(&path).map_err(writing(&path))?;
            file.write_all(&contents).and_then(|()| file.sync_all()).map_err(writing(&path))
        })?;
        sync_folder(&partial.join(cifar.test))?;
        if kind(&folder)? == Kind::Nothing {
            put_in_place(&partial, &folder)?;
        } else {
            // The folder exists but was not complete. Without the test file it does not count as complete: that file is removed first and added last.
            let names = cifar.files().map(|name| (partial.join(name), folder.join(name)));
            for (new, old) in names.clone() {
                if !is_start_of(&old, &new)? {
                    set_aside(&old, progress)?;
                }
            }
            remove_if_there(&folder.join(cifar.test))?;
            for (new, old) in names {
                put_in_place(&new, &old)?;
            }
            // Something foreign in it does no harm.
            let _ = fs::remove_dir(&partial);
        }
        Ok(folder)
    }

    /// Calls `each` with the place (the test file is the last), name, size and contents of each of the files, in the order of the archive. All other
    /// members are skipped.
    ///
    /// Of an archive at most twice the bytes of its files are unpacked, and of a member no more are read than the published file has.
    fn each_member(
        self,
        cifar: &'static Cifar,
        what: &str,
        progress: &dyn Progress,
        mut each: impl FnMut(usize, &'static str, u64, &mut dyn Read) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let bad = |cause: String| Error::Archive { path: self.path.clone(), cause: one_line(&cause) };
        progress.start(&format!("{what} {}", self.path.display()), Some(self.bytes), Unit::Bytes);
        let reader = Watched { inner: BufReader::with_capacity(1 << 18, &self.file), position: 0, progress };
        let most = 2 * cifar.files().map(|file| cifar.largest(file)).sum::<u64>();
        let mut archive = tar::Archive::new(GzDecoder::new(reader).take(most));
        let mut seen: Vec<bool> = cifar.files().map(|_| false).collect();
        for entry in archive.entries().map_err(|error| bad(error.to_string()))? {
            let mut entry = entry.map_err(|error| bad(error.to_string()))?;
            let Some((place, name)) = known(cifar, &entry.path_bytes()) else {
                continue;
            };
            if !entry.header().entry_type().is_file() {
                return Err(bad(format!("its member {name} is not a plain file")));
            }
            if std::mem::replace(&mut seen[place], true) {
                return Err(bad(format!("its member {name} occurs twice")));
            }
            let bytes = entry.size();
            let largest = cifar.largest(name);
            if bytes > largest {
                return Err(bad(format!(
                    "its member {name} has {bytes} bytes, and the published one {largest}"
                )));
            }
            each(place, name, bytes, &mut entry)?;
        }
        if let Some((name, _)) = cifar.files().zip(seen).find(|(_, seen)| !seen) {
            return Err(bad(format!("its member {name} is missing")));
        }
        progress.finish();
        Ok(())
    }
}

/// The place and name of the file that a member is, if it is one of those that are read.
fn known(cifar: &Cifar, member: &[u8]) -> Option<(usize, &'static str)> {
    let name = member.strip_prefix(cifar.folder.as_bytes())?.strip_prefix(b"/")?;
    cifar.files().enumerate().find(|(_, file)| file.as_bytes() == name)
}

/// Reports how far a reader is.
struct Watched<'a, R> {
    inner: R,
    position: u64,
    progress: &'a dyn Progress,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.position += n as u64;
        self.progress.advance(self.position);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoProgress;
    use crate::binary::{CIFAR10, Layout};
    use crate::testing::{Watcher, archive_of, md5_hex, six_files, small_archive, write_files};
    use pointwise_runs::peak_memory;
    use tempfile::TempDir;

    /// A folder with the archive in it.
    fn with_archive(bytes: &[u8]) -> (TempDir, PathBuf) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(CIFAR10.archive);
        fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn named(files: Vec<(&'static str, Vec<u8>)>) -> Vec<(String, Vec<u8>)> {
        files.into_iter().map(|(name, bytes)| (format!("cifar-10-batches-bin/{name}"), bytes)).collect()
    }

    fn pack(members: &[(String, Vec<u8>)]) -> (Vec<u8>, FileSpec) {
        archive_of(&members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect::<Vec<_>>())
    }

    /// Everything below a folder, with its size.
    fn tree(folder: &Path) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(tree(&path));
            } else {
                found.push((path.clone(), path.metadata().unwrap().len()));
            }
        }
        found.sort();
        found
    }

    /// What the six files give when they lie in a folder.
    fn expected() -> (Images, Images) {
        let folder = TempDir::new().unwrap();
        write_files(folder.path(), &six_files());
        Layout::find(&CIFAR10, folder.path()).unwrap().unwrap().load(0, &NoProgress).unwrap()
    }

    #[test]
    fn loads_what_the_unpacked_files_hold_in_their_order() {
        let (bytes, spec) = small_archive();
        let (folder, path) = with_archive(&bytes);
        let loaded = check(&path, &spec, &NoProgress).unwrap().load(&CIFAR10, 0, &NoProgress).unwrap();
        assert_eq!(loaded, expected());
        assert_eq!(tree(folder.path()), [(path, spec.bytes)], "loading writes nothing");
    }

    #[test]
    fn unpacks_the_six_files_and_nothing_else() {
        let (bytes, spec) = small_archive();
        let (folder, path) = with_archive(&bytes);
        // Left by a killed process.
        write_files(&folder.path().join("cifar-10-batches-bin.part"), &[("data_batch_1.bin", vec![1; 5])]);
        let unpacked =
            check(&path, &spec, &NoProgress).unwrap().unpack(&CIFAR10, folder.path(), &NoProgress).unwrap();
        assert_eq!(unpacked, folder.path().join(CIFAR10.folder));
        for (name, contents) in six_files() {
            assert_eq!(fs::read(unpacked.join(name)).unwrap(), contents, "{name}");
        }
        assert_eq!(tree(folder.path()).len(), 7);
        assert!(!folder.path().join("cifar-10-batches-bin.part").exists());
    }

    #[test]
    fn an_incomplete_folder_is_completed() {
        let (bytes, spec) = small_archive();
        let (folder, path) = with_archive(&bytes);
        let unpacked = folder.path().join(CIFAR10.folder);
        // One cut short, one of something else, and one of something else set aside before.
        let cut = six_files()[1].1[..2000].to_vec();
        let there =
            [("data_batch_1.bin", vec![1; 5]), ("data_batch_1.bin.old", vec![3]), ("mine.txt", vec![2])];
        write_files(&unpacked, &there);
        write_files(&unpacked, &[("data_batch_2.bin", cut)]);
        let watcher = Watcher::default();
        check(&path, &spec, &NoProgress).unwrap().unpack(&CIFAR10, folder.path(), &watcher).unwrap();
        assert_eq!(
            Layout::find(&CIFAR10, &unpacked).unwrap().unwrap().load(0, &NoProgress).unwrap(),
            expected()
        );
        let aside = unpacked.join("data_batch_1.bin.old2");
        let old = unpacked.join("data_batch_1.bin");
        assert_eq!(watcher.notes(), [format!("renamed {} to {}", old.display(), aside.display())]);
        assert_eq!(fs::read(aside).unwrap(), [1; 5]);
        assert_eq!(fs::read(unpacked.join("data_batch_1.bin.old")).unwrap(), [3]);
        assert_eq!(fs::read(unpacked.join("mine.txt")).unwrap(), [2]);
        assert_eq!(tree(&unpacked).len(), 9);
        assert!(!folder.path().join("cifar-10-batches-bin.part").exists());
    }

    #[test]
    fn any_flipped_byte_is_found_before_anything_is_used() {
        let (bytes, spec) = small_archive();
        for place in [0, bytes.len() / 2, bytes.len() - 1] {
            let mut flipped = bytes.clone();
            flipped[place] ^= 4;
            let (folder, path) = with_archive(&flipped);
            let error = check(&path, &spec, &NoProgress).err().expect("the archive is damaged").to_string();
            let expected = format!(
                "the MD5 of {} is {} instead of {}: it is damaged, or it is not cifar-10-binary.tar.gz",
                path.display(),
                md5_hex(&flipped),
                spec.md5
            );
            assert_eq!(error, expected);
            assert_eq!(tree(folder.path()).len(), 1);
        }
    }

    /// An archive that begins with a GNU tar header for a name of 4 GiB, of which only so many megabytes follow.
    fn long_name(megabytes: usize) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_path("././@LongLink").unwrap();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(4 << 30);
        header.set_cksum();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(header.as_bytes()).unwrap();
        for _ in 0..megabytes {
            packed.write_all(&[b'x'; 1 << 20]).unwrap();
        }
        packed.finish().unwrap()
    }

    /// The tar reader quotes the name of a member in its errors.
    #[test]
    fn an_error_about_a_member_with_any_name_is_a_line() {
        let mut header = tar::Header::new_old();
        let name = b"a\nb\x1b[1m\xff";
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_size(0);
        header.as_old_mut().cksum.fill(b'x');
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(header.as_bytes()).unwrap();
        let bytes = packed.finish().unwrap();
        let spec = FileSpec { name: CIFAR10.archive, bytes: bytes.len() as u64, md5: md5_hex(&bytes) };
        let (_folder, path) = with_archive(&bytes);
        let checked = check(&path, &spec, &NoProgress).unwrap();
        let error = checked.load(&CIFAR10, 0, &NoProgress).unwrap_err().to_string();
        assert!(error.contains("numeric field was not a number"), "{error}");
        assert!(!error.contains(char::is_control), "{error:?}");
    }

    #[test]
    fn a_name_as_long_as_memory_is_not_read() {
        let before = peak_memory();
        let bytes = long_name(1200);
        let (_folder, path) = with_archive(&bytes);
        // As a file that may be an archive, and as the published one, of which no member can be that large.
        let spec = FileSpec { name: CIFAR10.archive, bytes: bytes.len() as u64, md5: md5_hex(&bytes) };
        let other = FileSpec { bytes: spec.bytes + 1, ..spec.clone() };
        let error = check(&path, &other, &NoProgress).err().expect("it has another size");
        assert!(explained(&CIFAR10, &path, error).to_string().contains(&path.display().to_string()));
        let checked = check(&path, &spec, &NoProgress).unwrap();
        let error = checked.load(&CIFAR10, 0, &NoProgress).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
        if let (Some(before), Some(after)) = (before, peak_memory()) {
            assert!(after - before < 1 << 30, "{} MiB were taken", (after - before) >> 20);
        }
    }

    #[test]
    fn a_member_larger_than_the_published_one_is_refused_before_memory_is_taken() {
        for bytes in [3073 * 10_001, 1 << 40, u64::MAX / 2] {
            let mut header = tar::Header::new_gnu();
            header.set_path("cifar-10-batches-bin/data_batch_1.bin").unwrap();
            header.set_size(bytes);
            header.set_cksum();
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packed.write_all(header.as_bytes()).unwrap();
            let packed = packed.finish().unwrap();
            let spec = FileSpec { name: CIFAR10.archive, bytes: packed.len() as u64, md5: md5_hex(&packed) };
            let (folder, path) = with_archive(&packed);
            let checked = || check(&path, &spec, &NoProgress).unwrap();
            let loaded = checked().load(&CIFAR10, 0, &NoProgress).unwrap_err();
            let unpacked = checked().unpack(&CIFAR10, folder.path(), &NoProgress).unwrap_err();
            for error in [loaded, unpacked].map(|error| error.to_string()) {
                let expected =
                    format!("its member data_batch_1.bin has {bytes} bytes, and the published one 30730000");
                assert!(error.contains(&expected), "{error}");
            }
        }
    }

    /// With a correct checksum, every bit of the first header, every length of its block, and the fields that say how long something is.
    #[test]
    fn damaged_headers_are_told_or_passed_over() {
        let (bytes, _) = small_archive();
        let mut tar = Vec::new();
        GzDecoder::new(&bytes[..]).read_to_end(&mut tar).unwrap();
        let flipped = (0..512 * 8).map(|bit| {
            let mut changed = tar.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            // Headers have their own checksum.
            if !(148..156).contains(&(bit / 8)) {
                let mut header = tar::Header::new_old();
                header.as_mut_bytes().copy_from_slice(&changed[..512]);
                header.set_cksum();
                changed[..512].copy_from_slice(header.as_bytes());
            }
            changed
        });
        let cut = (0..1024).map(|len| tar[..len].to_vec());
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(CIFAR10.archive);
        for contents in flipped.chain(cut) {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
            packed.write_all(&contents).unwrap();
            let packed = packed.finish().unwrap();
            fs::write(&path, &packed).unwrap();
            let spec = FileSpec { name: CIFAR10.archive, bytes: packed.len() as u64, md5: md5_hex(&packed) };
            if let Err(error) = check(&path, &spec, &NoProgress).unwrap().load(&CIFAR10, 0, &NoProgress) {
                let error = error.to_string();
                assert!(error.contains(&path.display().to_string()) && !error.contains('\n'), "{error}");
            }
        }
    }

    #[test]
    fn another_size_is_found_without_reading() {
        let (bytes, spec) = small_archive();
        let (_folder, path) = with_archive(&bytes[..100]);
        let error = check(&path, &spec, &NoProgress).err().expect("the archive is cut").to_string();
        let expected = format!(
            "{} has 100 bytes instead of {}: it is cut short, or it is not cifar-10-binary.tar.gz",
            path.display(),
            bytes.len()
        );
        assert_eq!(error, expected);
    }

    #[test]
    fn names_of_members_never_become_paths() {
        let foreign =
            ["../data_batch_1.bin", "/data_batch_1.bin", "cifar-10-batches-bin/../../test_batch.bin"];
        let mut members: Vec<(String, Vec<u8>)> =
            foreign.iter().map(|name| ((*name).to_owned(), vec![7; 3073])).collect();
        members.extend(named(six_files()));
        let (bytes, spec) = pack(&members);
        let outer = TempDir::new().unwrap();
        let cache = outer.path().join("a/b");
        fs::create_dir_all(&cache).unwrap();
        let path = outer.path().join("archive.tar.gz");
        fs::write(&path, bytes).unwrap();
        check(&path, &spec, &NoProgress).unwrap().unpack(&CIFAR10, &cache, &NoProgress).unwrap();
        let outside: Vec<_> = tree(outer.path())
            .into_iter()
            .filter(|(path, _)| !path.starts_with(cache.join(CIFAR10.folder)))
            .collect();
        assert_eq!(outside, [(path.clone(), spec.bytes)]);
        assert_eq!(
            check(&path, &spec, &NoProgress).unwrap().load(&CIFAR10, 0, &NoProgress).unwrap(),
            expected()
        );
    }

    #[test]
    fn archives_with_the_wrong_members_are_errors_that_name_them() {
        let mut missing = named(six_files());
        missing.remove(2);
        let mut twice = named(six_files());
        twice.push(twice[1].clone());
        let mut ragged = named(six_files());
        ragged[3].1.push(0);
        let mut label = named(six_files());
        label[4].1[0] = 77;
        let cases = [
            (missing, "its member data_batch_3.bin is missing"),
            (twice, "its member data_batch_2.bin occurs twice"),
            (ragged, "data_batch_4.bin in "),
            (label, "record 0 of data_batch_5.bin in "),
        ];
        for (members, expected) in cases {
            let (bytes, spec) = pack(&members);
            let (_folder, path) = with_archive(&bytes);
            let error = check(&path, &spec, &NoProgress)
                .unwrap()
                .load(&CIFAR10, 0, &NoProgress)
                .unwrap_err()
                .to_string();
            assert!(error.contains(expected) && error.contains(&path.display().to_string()), "{error}");
        }
    }

    #[test]
    fn a_member_that_is_a_link_is_refused() {
        let mut tar =
            tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, "cifar-10-batches-bin/data_batch_1.bin", "/etc/hostname").unwrap();
        let bytes = tar.into_inner().unwrap().finish().unwrap();
        let spec = FileSpec { name: CIFAR10.archive, bytes: bytes.len() as u64, md5: md5_hex(&bytes) };
        let (folder, path) = with_archive(&bytes);
        let error = check(&path, &spec, &NoProgress)
            .unwrap()
            .unpack(&CIFAR10, folder.path(), &NoProgress)
            .unwrap_err();
        assert!(error.to_string().contains("its member data_batch_1.bin is not a plain file"), "{error}");
        assert!(!folder.path().join(CIFAR10.folder).exists());
    }

    /// An archive with the right checksum may nevertheless be cut, if it was published that way.
    #[test]
    fn a_cut_archive_leaves_no_folder() {
        let (bytes, _) = small_archive();
        for n in [0, 10, bytes.len() / 3, bytes.len() / 2] {
            let cut = &bytes[..n];
            let spec = FileSpec { name: CIFAR10.archive, bytes: n as u64, md5: md5_hex(cut) };
            let (folder, path) = with_archive(cut);
            let error = check(&path, &spec, &NoProgress)
                .unwrap()
                .unpack(&CIFAR10, folder.path(), &NoProgress)
                .unwrap_err();
            assert!(matches!(error, Error::Archive { .. }), "{n} bytes: {error}");
            assert!(!folder.path().join(CIFAR10.folder).exists());
            assert!(
                check(&path, &spec, &NoProgress).unwrap().load(&CIFAR10, 0, &NoProgress).is_err(),
                "{n} bytes"
            );
        }
    }
}
