//! Tells the binary what it was built from: the commit, and the versions of candle and of the compiler.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let root = Path::new("../..");
    println!("cargo::rerun-if-changed=build.rs");
    // Sources unpacked inside another repository do not belong to its commit.
    if git(&["ls-files", "--error-unmatch", "build.rs"]).is_some()
        && let Some(commit) = git(&["rev-parse", "HEAD"])
    {
        // Untracked files do not count: nothing is built from them until a tracked file names them.
        let changed = git(&["-C", "../..", "status", "--porcelain", "--untracked-files=no", "."])
            .is_none_or(|changes| !changes.is_empty());
        println!("cargo::rustc-env=POINTWISE_COMMIT={commit}{}", if changed { " with changes" } else { "" });
        for path in commit_files().into_iter().chain(known_files(root)) {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    let lock = root.join("Cargo.lock");
    if let Ok(text) = std::fs::read_to_string(&lock) {
        println!("cargo::rerun-if-changed={}", lock.display());
        if let Some(version) = candle(&text) {
            println!("cargo::rustc-env=POINTWISE_CANDLE={version}");
        }
    }
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    if let Some(version) = output(&rustc, &["--version"]) {
        println!("cargo::rustc-env=POINTWISE_RUSTC={version}");
    }
}

/// The files that git changes when another commit is checked out. Git says where they are, which in a worktree is not under `.git`; the
/// log of HEAD may be turned off, and a branch may have its own file or a line in a shared one.
fn commit_files() -> Vec<PathBuf> {
    let place = |name: &str| git(&["rev-parse", "--git-path", name]).map(PathBuf::from);
    let mut files: Vec<PathBuf> =
        ["HEAD", "logs/HEAD", "packed-refs", "reftable"].into_iter().filter_map(place).collect();
    files.retain(|file| file.exists());
    if let Some(mut branch) = git(&["symbolic-ref", "--quiet", "HEAD"]).as_deref().and_then(place) {
        // A branch without a file gets one with its next commit, which changes the folder.
        while !branch.exists() && branch.pop() {}
        files.push(branch);
    }
    files
}

/// Every tracked file. A missing one makes cargo run this script each time until the file is back.
fn known_files(root: &Path) -> Vec<PathBuf> {
    let list = git(&["-C", "../..", "ls-files", "-z"]).unwrap_or_default();
    list.split('\0').filter(|name| !name.is_empty()).map(|name| root.join(name)).collect()
}

fn git(arguments: &[&str]) -> Option<String> {
    output("git", arguments)
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The version of candle-core in a lock file.
fn candle(lock: &str) -> Option<String> {
    let mut lines = lock.lines().skip_while(|line| *line != "name = \"candle-core\"");
    let version = lines.nth(1)?.strip_prefix("version = ")?;
    Some(version.trim_matches('"').to_owned())
}
