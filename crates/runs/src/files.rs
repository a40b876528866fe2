use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
    time::{Duration, SystemTime},
};

use pointwise_recipe::one_line;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Error, Result, RunConfig};

/// The ending of temporary siblings; their names start with a dot.
const TEMPORARY: &str = ".tmp";
/// No writer takes this long for a file.
const LONG: Duration = Duration::from_secs(3600);

/// Replaces the content of a file as a whole, or creates it: a reader sees the old content or the new, also after a loss of
/// power. A kill leaves at most a temporary sibling, `.NAME.*.tmp`.
///
/// # Errors
/// [`Error::Write`] naming the file; it then has its old content.
pub fn replace_file(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    replace(path, bytes).map_err(|cause| Error::Write { path: path.into(), cause })
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let name =
        path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let prefix = format!(".{}.", name.to_string_lossy());
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(TEMPORARY);
    // A temporary file is private by default; this one becomes an ordinary file, subject to the umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    // To the file itself: the writer of `NamedTempFile` wraps errors, and loses their numbers.
    file.as_file_mut().write_all(bytes)?;
    synced(file.as_file().sync_all())?;
    file.persist(path).map_err(|error| error.error)?;
    sync_folder(folder)
}

/// Makes the names in a folder durable, where possible: only Unix opens a folder as a file, and only if it may be listed.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder) {
        Ok(folder) if cfg!(unix) => synced(folder.sync_all()),
        _ => Ok(()),
    }
}

/// The outcome of flushing to disk; that a file system cannot do it, as some network file systems, is not an error.
pub(crate) fn synced(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput) => {
            Ok(())
        }
        outcome => outcome,
    }
}

/// Removes what a killed writer left. Only the holder of the folder's lock may call this.
pub(crate) fn sweep(folder: &Path) {
    sweep_if(folder, |_| true);
}

/// Removes what killed writers left in a folder that several processes may write to: temporary files not modified for an hour.
pub fn sweep_old_files(folder: impl AsRef<Path>) {
    let now = SystemTime::now();
    sweep_if(folder.as_ref(), |file| {
        let modified = file.metadata().and_then(|file| file.modified());
        modified.is_ok_and(|time| now.duration_since(time).is_ok_and(|age| age > LONG))
    });
}

/// Whether a file is a temporary sibling, meant to replace another: see [`replace_file`].
pub fn is_temporary(path: impl AsRef<Path>) -> bool {
    path.as_ref().file_name().is_some_and(|name| {
        let name = name.to_string_lossy();
        name.starts_with('.') && name.ends_with(TEMPORARY)
    })
}

fn sweep_if(folder: &Path, goes: impl Fn(&fs::DirEntry) -> bool) {
    // A leftover does no harm, so failing to remove one is not an error.
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if is_temporary(entry.path()) && goes(&entry) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::Write { path: path.into(), cause: error.into() })?;
    bytes.push(b'\n');
    replace_file(path, &bytes)
}

/// The content of a file of at most `most` bytes.
pub(crate) fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let malformed = |cause: String| Error::Malformed { path: path.into(), cause };
    let failed = |cause| Error::Read { path: path.into(), cause };
    // Opening a pipe would wait for a writer.
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(malformed("it is not a file".to_owned()));
    }
    if metadata.len() > most {
        return Err(malformed(format!("it has more than {most} bytes")));
    }
    let mut bytes = Vec::new();
    // More may be appended in the meantime.
    File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)).map_err(failed)?;
    Ok(bytes)
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = read(path, RunConfig::MAX_BYTES)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::Malformed { path: path.into(), cause: one_line(&error.to_string()) })
}

/// As [`read_json`], but a file that does not exist is `None`.
pub(crate) fn read_json_if_exists<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match read_json(path) {
        Err(Error::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        replace_file(&path, b"longer than the next").unwrap();
        replace_file(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let text = replace_file(folder.path().join("no/such"), b"").unwrap_err().to_string();
        assert!(text.contains("no/such cannot be written"), "{text}");
    }

    #[test]
    fn what_killed_writers_left_is_swept_once_nobody_can_be_at_work_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, age: Duration| {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        let names = || {
            let entries = fs::read_dir(folder.path()).unwrap();
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        put(".a.json.x.tmp", 2 * LONG);
        put(".b.json.x.tmp", LONG / 2);
        put("c.tmp", 2 * LONG);
        put(".d.json", 2 * LONG);
        sweep_old_files(folder.path());
        assert_eq!(names(), [".b.json.x.tmp", ".d.json", "c.tmp"]);
        sweep(folder.path());
        assert_eq!(names(), [".d.json", "c.tmp"]);
        sweep_old_files(folder.path().join("none"));
    }

    #[cfg(unix)]
    #[test]
    fn a_replaced_file_is_an_ordinary_one() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        fs::write(folder.path().join("plain"), b"").unwrap();
        replace_file(folder.path().join("replaced"), b"").unwrap();
        assert_eq!(mode("replaced"), mode("plain"));
    }
}
