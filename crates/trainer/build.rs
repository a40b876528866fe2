//! Tells the binary what it was built from: the commit, and the versions of candle and of the compiler.

use std::path::Path;
use std::process::Command;

fn main() {
    let root = Path::new("../..");
    for path in [".git/logs/HEAD", "Cargo.lock", "crates"] {
        if root.join(path).exists() {
            println!("cargo::rerun-if-changed={}", root.join(path).display());
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
    if let Some(commit) = output("git", &["rev-parse", "HEAD"]) {
        let changed = output("git", &["status", "--porcelain"]).is_none_or(|changes| !changes.is_empty());
        println!("cargo::rustc-env=POINTWISE_COMMIT={commit}{}", if changed { " with changes" } else { "" });
    }
    if let Some(version) =
        std::fs::read_to_string(root.join("Cargo.lock")).ok().and_then(|lock| candle(&lock))
    {
        println!("cargo::rustc-env=POINTWISE_CANDLE={version}");
    }
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    if let Some(version) = output(&rustc, &["--version"]) {
        println!("cargo::rustc-env=POINTWISE_RUSTC={version}");
    }
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
