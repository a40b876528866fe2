//! The commit that a trainer records is the one that it was built from: what its build script prints, and when cargo runs it again.

#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A repository with a worktree, and the build script as a program.
struct Repository {
    temp: tempfile::TempDir,
    script: PathBuf,
}

impl Repository {
    fn new() -> Self {
        let temp = tempfile::tempdir().expect("a folder can be made");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/trainer/build.rs");
        let script = temp.path().join("script");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let built = Command::new(rustc).args(["--edition", "2024", source, "-o"]).arg(&script).status();
        assert!(built.expect("the program can be started").success());
        let main = temp.path().join("main");
        fs::create_dir_all(main.join("crates/trainer")).expect("the folder can be written");
        fs::copy(source, main.join("crates/trainer/build.rs")).expect("the folder can be written");
        fs::write(main.join("README.md"), "one").expect("the folder can be written");
        let repository = Self { temp, script };
        repository.git("main", &["init", "--quiet", "--initial-branch", "trunk"]);
        repository.commit("main");
        repository
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn git(&self, folder: &str, arguments: &[&str]) {
        let configured = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
        let mut git = Command::new("git");
        git.current_dir(self.path(folder))
            .args(configured)
            .args(arguments)
            .env("GIT_CONFIG_GLOBAL", "/dev/null");
        let output = git.output().expect("the program can be started");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn commit(&self, folder: &str) {
        self.git(folder, &["add", "."]);
        self.git(folder, &["commit", "--quiet", "--allow-empty", "-m", "more"]);
    }

    /// The commit that the script has the trainer record, and the paths that cargo watches, with their content.
    fn run(&self, folder: &str) -> (Option<String>, BTreeMap<PathBuf, Vec<u8>>) {
        let at = self.path(folder).join("crates/trainer");
        let output =
            Command::new(&self.script).current_dir(&at).output().expect("the program can be started");
        assert!(output.status.success());
        let said = String::from_utf8(output.stdout).expect("UTF-8");
        let values = |key: &str| -> Vec<String> {
            said.lines().filter_map(|line| line.strip_prefix(key)).map(str::to_owned).collect()
        };
        let watched = values("cargo::rerun-if-changed=").into_iter().map(|path| at.join(path));
        (
            values("cargo::rustc-env=POINTWISE_COMMIT=").pop(),
            watched.map(|path| (path.clone(), content(&path))).collect(),
        )
    }
}

/// The bytes of a file, or of all files in a folder: cargo checks their times, which change with them.
fn content(path: &Path) -> Vec<u8> {
    match fs::read_dir(path) {
        Ok(entries) => {
            let mut names: Vec<PathBuf> =
                entries.map(|entry| entry.expect("the folder can be listed").path()).collect();
            names.sort();
            names
                .iter()
                .flat_map(|path| [path.to_string_lossy().as_bytes(), &content(path)].concat())
                .collect()
        }
        Err(_) => fs::read(path).unwrap_or_default(),
    }
}

#[test]
fn a_new_commit_and_a_change_of_a_known_file_are_noticed() {
    let repository = Repository::new();
    repository.git("main", &["worktree", "add", "--quiet", "-b", "some/branch", "../worktree"]);
    repository.git("main", &["worktree", "add", "--quiet", "--detach", "../detached"]);
    for (folder, prepare) in [
        ("main", &[][..]),
        ("worktree", &[]),
        ("detached", &[]),
        // Only the reference changes.
        ("worktree", &["config", "core.logAllRefUpdates", "false"]),
        ("worktree", &["pack-refs", "--all"]),
    ] {
        if !prepare.is_empty() {
            repository.git(folder, prepare);
            if prepare[0] == "config" {
                fs::remove_dir_all(repository.path("main/.git/worktrees/worktree/logs")).unwrap();
            }
        }
        let same_content = |watched: &BTreeMap<PathBuf, Vec<u8>>| {
            watched.iter().all(|(path, before)| content(path) == *before)
        };
        let (first, watched) = repository.run(folder);
        let first = first.unwrap();
        assert!(first.len() == 40, "{folder}: {first}");
        // For a missing path cargo would run the script every time.
        assert!(watched.keys().all(|path| path.exists()), "{folder}: {watched:?}");
        assert!(same_content(&watched), "{folder}");

        repository.commit(folder);
        assert!(!same_content(&watched), "{folder}, {prepare:?}: a commit goes unnoticed");
        let (second, watched) = repository.run(folder);
        let second = second.unwrap();
        assert!(second.len() == 40 && second != first, "{folder}: {second}");

        fs::write(repository.path(folder).join("README.md"), format!("after {second}")).unwrap();
        assert!(!same_content(&watched), "{folder}: a change goes unnoticed");
        assert_eq!(repository.run(folder).0, Some(format!("{second} with changes")), "{folder}");
        repository.commit(folder);
    }
}

#[test]
fn sources_without_a_repository_or_within_another_one_have_no_commit() {
    let repository = Repository::new();
    fs::create_dir_all(repository.path("main/vendored/crates/trainer")).unwrap();
    assert_eq!(repository.run("main/vendored").0, None);
    fs::create_dir_all(repository.path("alone/crates/trainer")).unwrap();
    assert_eq!(repository.run("alone").0, None);
}
