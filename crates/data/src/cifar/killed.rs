//! A fetch that is killed at any point is completed by the next, to the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{Layout, fetch_patiently};
use crate::binary::CIFAR10;
use crate::download::Patience;
use crate::testing::{Reply, Server, small_archive};
use crate::{Progress, Unit};

/// The folder that a separate process fetches into, and the progress call at which it dies.
const CACHE: &str = "POINTWISE_TEST_FETCH_INTO";
const DIES_AT: &str = "POINTWISE_TEST_DIES_AT";

/// Ends the process at a call, without any notice, as a kill does.
struct Mortal {
    calls_left: AtomicU32,
}

impl Mortal {
    fn call(&self) {
        if self.calls_left.fetch_sub(1, Ordering::Relaxed) == 0 {
            std::process::abort();
        }
    }
}

impl Progress for Mortal {
    fn start(&self, _what: &str, _total: Option<u64>, _unit: Unit) {
        self.call();
    }

    fn advance(&self, _position: u64) {
        self.call();
    }

    fn finish(&self) {
        self.call();
    }

    fn note(&self, _message: &str) {
        self.call();
    }
}

/// What the killed processes do; without the variables, nothing.
#[test]
fn fetches_where_it_is_told() {
    let Some(cache) = std::env::var_os(CACHE) else { return };
    let dies_at = std::env::var(DIES_AT).unwrap().parse().unwrap();
    let (archive, spec) = small_archive();
    let server = Server::new(&archive, [Reply::Whole]);
    let patience = Patience { pause: Duration::ZERO, proxy: None, ..Patience::default() };
    let progress = Mortal { calls_left: AtomicU32::new(dies_at) };
    fetch_patiently(&CIFAR10, Path::new(&cache), &[server.address()], &spec, &patience, &progress).unwrap();
}

/// A process that fetches, and dies by itself at one of its calls, or is killed after some time; whether it completed.
fn fetch_in_a_process(cache: &Path, dies_at: u32, killed_after: Option<Duration>) -> bool {
    let start = Instant::now();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cifar::killed::fetches_where_it_is_told"])
        .env(CACHE, cache)
        .env(DIES_AT, dies_at.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    if let Some(time) = killed_after {
        thread::sleep(time.saturating_sub(start.elapsed()));
        let _ = child.kill();
    }
    child.wait().unwrap().success()
}

/// All files but the lock, with their contents.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.extension().is_none_or(|extension| extension != "lock") {
            files.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    files
}

#[test]
fn fetching_that_is_killed_anywhere_is_completed_by_the_next() {
    let temp = tempfile::tempdir().unwrap();
    let cache = temp.path().join("cache");
    let start = Instant::now();
    assert!(fetch_in_a_process(&cache, u32::MAX, None));
    let length = start.elapsed();
    let expected = files(&cache);
    assert!(Layout::find(&CIFAR10, &cache).unwrap().unwrap().is_whole(false).unwrap());
    let completes = |what: &str| {
        assert!(fetch_in_a_process(&cache, u32::MAX, None), "{what}");
        let found = files(&cache);
        assert!(found.keys().eq(expected.keys()), "{what}: {:?} {:?}", found.keys(), expected.keys());
        assert!(found == expected, "{what}: a file differs");
        fs::remove_dir_all(&cache).unwrap();
    };
    fs::remove_dir_all(&cache).unwrap();
    // At every call of its progress, and once more on what that left.
    let mut call = 0;
    while !fetch_in_a_process(&cache, call, None) {
        fetch_in_a_process(&cache, call / 2, None);
        completes(&format!("dead at call {call}"));
        call += 1;
    }
    assert!(call > 5, "there are only {call} calls");
    fs::remove_dir_all(&cache).unwrap();
    // And at any other moment.
    for part in 0..20 {
        for _ in 0..2 {
            fetch_in_a_process(&cache, u32::MAX, Some(length.mul_f64(f64::from(part) / 16.0)));
        }
        completes(&format!("killed after {part}/16 of its time"));
    }
}
