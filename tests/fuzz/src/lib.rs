//! What the targets share: a folder for parsers that take paths, and the checks of every error.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// This process's folder, which run.sh puts into memory.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("pointwise-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for inputs");
        folder
    })
}

/// A file of that name in the folder, with these contents.
pub fn file(name: &str, contents: &[u8]) -> PathBuf {
    let path = folder().join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("a folder for inputs");
    }
    fs::write(&path, contents).expect("an input is written");
    path
}

/// An error is one line of bounded length that gives a reason.
pub fn check_error(error: &impl Display) {
    let message = error.to_string();
    assert!(!message.trim().is_empty(), "an empty error");
    assert!(message.len() < 4000, "an error of {} bytes: {}", message.len(), &message[..400]);
    assert!(!message.contains('\n'), "an error of several lines: {message}");
}

/// As [`check_error`], for a file: it is named.
pub fn check_file_error(path: &Path, error: &impl Display) {
    check_error(error);
    let (message, path) = (error.to_string(), path.display().to_string());
    assert!(message.contains(&path), "{path} is not named: {message}");
}
