//! Measured algorithm choices, kept in a file.
//!
//! A line is a convolution's shape, its direction, and cuDNN's numbers for the algorithm and its arithmetic. A line is only a proposal,
//! which cuDNN must list and which must run: a wrong or unreadable line costs a measurement.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// cuDNN's numbers for an algorithm and its arithmetic.
pub(super) type Numbers = (u32, u32);

/// What choices depend on, besides the convolution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Machine<'a> {
    pub(super) card: &'a str,
    /// The driver's and cuDNN's versions.
    pub(super) versions: [usize; 2],
    pub(super) precision: &'a str,
}

impl Machine<'_> {
    fn file_name(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let card: String = self.card.chars().map(plain).collect();
        let [driver, dnn] = self.versions;
        format!("cudnn-{card}-driver{driver}-cudnn{dnn}-{}.txt", self.precision)
    }
}

/// Choices by shape and direction.
#[derive(Debug, Default)]
pub(super) struct Choices {
    /// `None` if nothing is kept.
    path: Option<PathBuf>,
    known: BTreeMap<String, Numbers>,
    is_changed: bool,
}

impl Choices {
    /// Reads a machine's choices from the file in that folder; none without such a file or without a folder.
    pub(super) fn open(folder: Option<&Path>, machine: &Machine<'_>) -> Self {
        let path = folder.map(|folder| folder.join(machine.file_name()));
        let known = path.as_deref().map(read).unwrap_or_default();
        Self { path, known, is_changed: false }
    }

    pub(super) fn get(&self, convolution: &str) -> Option<Numbers> {
        self.known.get(convolution).copied()
    }

    pub(super) fn set(&mut self, convolution: String, numbers: Numbers) {
        if self.path.is_some() && self.known.insert(convolution, numbers) != Some(numbers) {
            self.is_changed = true;
        }
    }

    /// Writes the file if there is something new. What other processes wrote meanwhile stays; a failed write costs only time.
    pub(super) fn save(&mut self) {
        let Some(path) = self.path.as_deref().filter(|_| self.is_changed) else { return };
        let mut all = read(path);
        all.extend(self.known.iter().map(|(convolution, numbers)| (convolution.clone(), *numbers)));
        let lines =
            all.iter().map(|(convolution, (algorithm, math))| format!("{convolution} {algorithm} {math}\n"));
        // Engines of one process may save at the same time.
        static SAVED: AtomicU64 = AtomicU64::new(0);
        let number = SAVED.fetch_add(1, Ordering::Relaxed);
        let partial = path.with_extension(format!("{}-{number}.part", std::process::id()));
        let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
            fs::write(&partial, lines.collect::<String>())?;
            fs::rename(&partial, path)
        });
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        self.is_changed = false;
    }
}

/// Far more than the convolutions of any network that is trained here.
const MOST_BYTES: u64 = 1 << 20;

/// The lines of a file that can be understood.
fn read(path: &Path) -> BTreeMap<String, Numbers> {
    match fs::metadata(path) {
        Ok(about) if about.is_file() && about.len() <= MOST_BYTES => {}
        _ => return BTreeMap::new(),
    }
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = |line: &str| {
        let (rest, math) = line.rsplit_once(' ')?;
        let (convolution, algorithm) = rest.rsplit_once(' ')?;
        Some((convolution.to_owned(), (algorithm.parse().ok()?, math.parse().ok()?)))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine<'_> =
        Machine { card: "NVIDIA H100 80GB/../x", versions: [13000, 91900], precision: "tf32" };

    #[test]
    fn what_was_chosen_is_there_the_next_time_beside_what_others_chose() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("made");
        let mut first = Choices::open(Some(&inside), &MACHINE);
        let mut second = Choices::open(Some(&inside), &MACHINE);
        first.set("3x3 forward".to_owned(), (1, 3));
        second.set("5x5 data".to_owned(), (0, 2));
        first.save();
        second.save();
        let third = Choices::open(Some(&inside), &MACHINE);
        assert_eq!(third.get("3x3 forward"), Some((1, 3)));
        assert_eq!(third.get("5x5 data"), Some((0, 2)));
        assert_eq!(third.get("5x5 forward"), None);
        let files: Vec<_> = fs::read_dir(&inside).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(files, ["cudnn-nvidia-h100-80gb----x-driver13000-cudnn91900-tf32.txt"]);
        for other in [
            Machine { card: "NVIDIA A100", ..MACHINE },
            Machine { versions: [13000, 91901], ..MACHINE },
            Machine { versions: [13010, 91900], ..MACHINE },
            Machine { precision: "f32", ..MACHINE },
        ] {
            assert_eq!(Choices::open(Some(&inside), &other).get("3x3 forward"), None, "{other:?}");
        }
    }

    #[test]
    fn lines_that_are_not_understood_and_folders_that_cannot_be_used_do_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(MACHINE.file_name());
        fs::write(&path, "\n \nx\nx y\na -1 2\nb 1 2\nc 99999999999 1\nd e 3 4").unwrap();
        let choices = Choices::open(Some(folder.path()), &MACHINE);
        assert_eq!(choices.known, BTreeMap::from([("b".to_owned(), (1, 2)), ("d e".to_owned(), (3, 4))]));
        fs::write(&path, vec![b'\n'; MOST_BYTES as usize + 1]).unwrap();
        assert!(Choices::open(Some(folder.path()), &MACHINE).known.is_empty());
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(Choices::open(Some(folder.path()), &MACHINE).known.is_empty());
        // A file in place of the folder.
        let mut nowhere = Choices::open(Some(&path), &MACHINE);
        nowhere.set("x".to_owned(), (1, 1));
        nowhere.save();
        let mut unkept = Choices::open(None, &MACHINE);
        unkept.set("x".to_owned(), (1, 1));
        unkept.save();
        assert_eq!(unkept.get("x"), None);
    }
}
