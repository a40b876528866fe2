//! What the targets share: a folder for parsers that take paths, the checks of every error, and a limit of allocations.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Display;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// Stops the target at an allocation that is larger than the limit. libFuzzer's own limit (`-malloc_limit_mb`) needs a sanitizer.
struct Limited;

/// Bytes.
static LONGEST: AtomicUsize = AtomicUsize::new(256 << 20);

#[global_allocator]
static ALLOCATOR: Limited = Limited;

/// Allows single allocations of so many bytes, of 256 MiB unless this is called.
pub fn allow_allocations_of(bytes: usize) {
    LONGEST.store(bytes, Ordering::Relaxed);
}

/// SIGABRT, which libFuzzer reports with the input.
fn check_allocation(bytes: usize) {
    if bytes > LONGEST.load(Ordering::Relaxed) {
        // Without a message that would itself be allocated.
        let _ = std::io::stderr().write_all(b"an allocation larger than the limit\n");
        std::process::abort();
    }
}

// SAFETY: everything is passed on to the system's allocator, as it came.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check_allocation(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check_allocation(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check_allocation(size);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
