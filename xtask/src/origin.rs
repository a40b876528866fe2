//! What the programs were built from.

use std::{fs, io, path::Path, process::Command};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

/// A file in the folder of a bundle, which has neither a repository nor a compiler.
const FILE: &str = "built.json";

/// The commit and the compiler.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) commit: Option<String>,
    /// Whether there were changes on top of the commit.
    pub(crate) dirty: bool,
    pub(crate) rustc: Option<String>,
}

impl Origin {
    /// As the bundle in `root` says, else as git and the compiler say of the checkout.
    ///
    /// # Errors
    /// If the bundle's file cannot be understood.
    pub(crate) fn of(root: &Path) -> anyhow::Result<Self> {
        let file = root.join(FILE);
        match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} does not say what was built", file.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::of_checkout(root)),
            Err(error) => bail!("{} cannot be read: {error}", file.display()),
        }
    }

    fn of_checkout(root: &Path) -> Self {
        let git = |arguments: &[&str]| said(Command::new("git").arg("-C").arg(root).args(arguments));
        let changes = git(&["status", "--porcelain"]);
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        Self {
            commit: git(&["rev-parse", "HEAD"]),
            dirty: changes.is_none_or(|changes| !changes.is_empty()),
            rustc: said(Command::new(rustc).arg("--version")),
        }
    }
}

/// The output of a program, if it succeeds.
pub(crate) fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_says_what_it_was_built_from() {
        let folder = tempfile::tempdir().unwrap();
        let written = Origin { commit: Some("abc".into()), dirty: true, rustc: None };
        fs::write(folder.path().join(FILE), serde_json::to_vec(&written).unwrap()).unwrap();
        assert_eq!(Origin::of(folder.path()).unwrap(), written);
        fs::write(folder.path().join(FILE), "{}").unwrap();
        let error = Origin::of(folder.path()).unwrap_err().to_string();
        assert!(error.contains("built.json does not say what was built"), "{error}");
    }
}
