//! Files: inspecting, reading, putting in place.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::{Error, Progress};

/// Bytes read at a time: enough that a progress report for each is not too many.
pub(crate) const CHUNK: usize = 1 << 18;

/// `map_err` for reading `path`.
pub(crate) fn reading(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    |cause| Error::Read { path: path.to_owned(), cause }
}

/// `map_err` for writing `path`.
pub(crate) fn writing(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    |cause| Error::Write { path: path.to_owned(), cause }
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    /// A pipe, a socket or a device.
    Other,
    Nothing,
}

/// Unlike `Path::is_file`, tells a missing file from one that may not be accessed.
pub(crate) fn kind(path: &Path) -> Result<Kind, Error> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => Ok(Kind::Folder),
        Ok(metadata) if metadata.is_file() => Ok(Kind::File),
        Ok(_) => Ok(Kind::Other),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Kind::Nothing)
        }
        Err(error) => Err(reading(path)(error)),
    }
}

/// Reads to the end in chunks: `each` gets every chunk and the number of bytes so far.
pub(crate) fn in_chunks(mut reader: impl Read, mut each: impl FnMut(&[u8], u64)) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut position = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(position),
            Ok(n) => {
                position += n as u64;
                each(&buffer[..n], position);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Renames `from` to `to` and flushes the folder, so that the name survives a crash.
pub(crate) fn put_in_place(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(writing(to))?;
    sync_folder(to)
}

/// Whether `old` holds nothing that `new` does not: it is missing, or the beginning of `new`.
pub(crate) fn is_start_of(old: &Path, new: &Path) -> Result<bool, Error> {
    match kind(old)? {
        Kind::Nothing => Ok(true),
        Kind::File => {
            let old = fs::read(old).map_err(reading(old))?;
            Ok(fs::read(new).map_err(reading(new))?.starts_with(&old))
        }
        Kind::Folder | Kind::Other => Ok(false),
    }
}

/// Renames what is at `path`, if anything, so that the path is free and nothing is lost.
pub(crate) fn set_aside(path: &Path, progress: &dyn Progress) -> Result<(), Error> {
    if kind(path)? == Kind::Nothing {
        return remove_if_there(path);
    }
    let mut number = 1;
    let aside = loop {
        let mut name = path.as_os_str().to_owned();
        name.push(if number == 1 { ".old".to_owned() } else { format!(".old{number}") });
        if fs::symlink_metadata(&name).is_err() {
            break PathBuf::from(name);
        }
        number += 1;
    };
    put_in_place(path, &aside)?;
    progress.note(&format!("renamed {} to {}", path.display(), aside.display()));
    Ok(())
}

/// Waits for the lock on the folder.
pub(crate) fn lock(cache: &Path, progress: &dyn Progress) -> Result<Option<File>, Error> {
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
        // Some network file systems have no locks: there, users themselves have to take turns.
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
        Err(error) => Err(writing(&path)(error)),
    }
}

/// Flushes the folder that holds `path`.
pub(crate) fn sync_folder(path: &Path) -> Result<(), Error> {
    // Only Unix can open a folder to flush it.
    if cfg!(unix)
        && let Some(folder) = path.parent()
    {
        // The parent of a bare name is "", which stands for the current folder.
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(writing(folder))?;
    }
    Ok(())
}

/// Removes a file that may be missing.
pub(crate) fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(writing(path)(error)),
        _ => Ok(()),
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
