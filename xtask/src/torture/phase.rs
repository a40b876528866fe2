//! The phase that a process was in when it was killed, as its files show.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use pointwise_runs::is_temporary;
use serde::{Deserialize, Serialize};

/// The phase of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// It reads its arguments and prepares the images, and has not yet written to a run.
    Preparation,
    Training,
    /// A checkpoint is being written.
    Checkpoint,
    /// At the end of an epoch.
    Evaluation,
    /// Another file of a run is being written: configuration, progress, metrics.
    RunFiles,
    /// After the last epoch of a run: the analysis, and its result.
    Conclusion,
    /// The files of a study are being written: its copy, configurations.
    StudyFiles,
    /// All runs of a study are finished: its tables and its page.
    Report,
}

impl Phase {
    pub(super) const ALL: [Self; 8] = [
        Self::Preparation,
        Self::Training,
        Self::Checkpoint,
        Self::Evaluation,
        Self::RunFiles,
        Self::Conclusion,
        Self::StudyFiles,
        Self::Report,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Preparation => "preparation",
            Self::Training => "training",
            Self::Checkpoint => "checkpoint",
            Self::Evaluation => "evaluation",
            Self::RunFiles => "run-files",
            Self::Conclusion => "conclusion",
            Self::StudyFiles => "study-files",
            Self::Report => "report",
        }
    }
}

/// What a finished folder holds, a run's or a study's.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// The runs' folders in it; empty for the folder itself.
    pub(super) runs: Vec<PathBuf>,
    pub(super) is_study: bool,
    pub(super) epochs: u32,
    /// Of an epoch.
    pub(super) steps: u64,
}

/// The content of a folder before a process was started, to tell what that process has written.
#[derive(Debug)]
pub(super) struct Before {
    /// When each run was begun or continued, by its folder.
    begun: BTreeMap<PathBuf, SystemTime>,
    temporary: BTreeSet<PathBuf>,
}

impl Before {
    pub(super) fn of(folder: &Path, shape: &Shape) -> Self {
        let mut temporary = BTreeSet::new();
        for folder in shape.folders(folder) {
            temporary.extend(temporary_files(&folder));
        }
        let begun = shape.runs.iter().filter_map(|run| Some((run.clone(), begun(&folder.join(run))?)));
        Self { begun: begun.collect(), temporary }
    }

    fn is_writing(&self, folder: &Path) -> bool {
        temporary_files(folder).any(|path| !self.temporary.contains(&path))
    }
}

impl Shape {
    /// All folders whose files are replaced.
    pub(super) fn folders(&self, folder: &Path) -> Vec<PathBuf> {
        let mut folders = vec![folder.to_owned()];
        if self.is_study {
            folders.extend(["configs", "networks"].map(|name| folder.join(name)));
        }
        for run in &self.runs {
            folders.push(folder.join(run));
            folders.push(folder.join(run).join("checkpoints"));
        }
        folders
    }

    /// The phase of a process that was started when the folder was as in `before`. With several runs it is the rarest of their phases.
    pub(super) fn phase(&self, folder: &Path, before: &Before) -> Phase {
        if self.is_study {
            let own = [folder.to_owned(), folder.join("configs"), folder.join("networks")];
            let is_finished = |run: &PathBuf| folder.join(run).join("result.json").is_file();
            if self.runs.iter().all(is_finished) {
                return Phase::Report;
            }
            if !folder.join("study.toml").is_file() || own.iter().any(|folder| before.is_writing(folder)) {
                return Phase::StudyFiles;
            }
        }
        let of_run = |run: &PathBuf| self.phase_of_run(run, &folder.join(run), before);
        let rarity = [
            Phase::Conclusion,
            Phase::RunFiles,
            Phase::Evaluation,
            Phase::Checkpoint,
            Phase::Training,
            Phase::Preparation,
        ];
        let phases: BTreeSet<Phase> = self.runs.iter().filter_map(of_run).collect();
        rarity.into_iter().find(|phase| phases.contains(phase)).unwrap_or(Phase::Preparation)
    }

    /// `None` if no process is working on it, as far as can be told.
    fn phase_of_run(&self, run: &Path, folder: &Path, before: &Before) -> Option<Phase> {
        if self.is_study && folder.join("result.json").is_file() {
            return None;
        }
        if before.is_writing(&folder.join("checkpoints")) {
            return Some(Phase::Checkpoint);
        }
        if before.is_writing(folder) {
            return Some(Phase::RunFiles);
        }
        let is_begun = begun(folder).is_some_and(|time| before.begun.get(run) != Some(&time));
        if !is_begun || !folder.join("config.toml").is_file() {
            return None;
        }
        match last_line(&folder.join("metrics.jsonl")) {
            Some(Line::Epoch { epoch }) if epoch >= self.epochs => Some(Phase::Conclusion),
            Some(Line::Step { step }) if step % self.steps == 0 => Some(Phase::Evaluation),
            _ => Some(Phase::Training),
        }
    }
}

/// When the run was begun or last continued.
fn begun(run: &Path) -> Option<SystemTime> {
    fs::metadata(run.join("environment.json")).and_then(|file| file.modified()).ok()
}

/// The temporary files in a folder that are to replace others.
pub(super) fn temporary_files(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| is_temporary(path))
}

/// A line of `metrics.jsonl`.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case", tag = "kind")]
enum Line {
    Step { step: u64 },
    Epoch { epoch: u32 },
}

/// The last complete line.
fn last_line(metrics: &Path) -> Option<Line> {
    let text = fs::read_to_string(metrics).ok()?;
    let line = text.split_inclusive('\n').rfind(|line| line.ends_with('\n'))?;
    serde_json::from_str(line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, text: &str) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn files_tell_what_a_run_is_at() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path();
        let shape = Shape { runs: vec![PathBuf::new()], is_study: false, epochs: 2, steps: 3 };
        let before = Before::of(folder, &shape);
        let phase = || shape.phase(folder, &before);
        assert_eq!(phase(), Phase::Preparation);
        write(folder, ".config.toml.x.tmp", "");
        assert_eq!(phase(), Phase::RunFiles);
        fs::remove_file(folder.join(".config.toml.x.tmp")).unwrap();
        write(folder, "environment.json", "");
        write(folder, "config.toml", "");
        assert_eq!(phase(), Phase::Training);
        write(folder, "checkpoints/.last.safetensors.x.tmp", "");
        assert_eq!(phase(), Phase::Checkpoint);
        // The next process finds the file there.
        let before = Before::of(folder, &shape);
        assert_eq!(shape.phase(folder, &before), Phase::Preparation);
        std::thread::sleep(std::time::Duration::from_millis(20));
        write(folder, "environment.json", "");
        let step = |step| format!("{{\"kind\":\"step\",\"epoch\":1,\"step\":{step}}}\n");
        for (text, expected) in [
            (step(2), Phase::Training),
            (step(2) + "{\"kind", Phase::Training),
            (step(3), Phase::Evaluation),
            ("{\"kind\":\"epoch\",\"epoch\":1}\n".to_owned(), Phase::Training),
            ("{\"kind\":\"epoch\",\"epoch\":2}\n".to_owned(), Phase::Conclusion),
        ] {
            write(folder, "metrics.jsonl", &text);
            assert_eq!(shape.phase(folder, &before), expected, "{text}");
        }
    }

    #[test]
    fn files_tell_what_a_study_is_at() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path();
        let runs = ["runs/a", "runs/b"].map(PathBuf::from).to_vec();
        let shape = Shape { runs, is_study: true, epochs: 2, steps: 3 };
        let before = Before::of(folder, &shape);
        let phase = || shape.phase(folder, &before);
        assert_eq!(phase(), Phase::StudyFiles);
        write(folder, "study.toml", "");
        assert_eq!(phase(), Phase::Preparation);
        write(folder, "configs/.a.toml.x.tmp", "");
        assert_eq!(phase(), Phase::StudyFiles);
        fs::remove_file(folder.join("configs/.a.toml.x.tmp")).unwrap();
        for name in ["runs/a/environment.json", "runs/a/config.toml"] {
            write(folder, name, "");
        }
        assert_eq!(phase(), Phase::Training);
        write(folder, "runs/a/result.json", "");
        assert_eq!(phase(), Phase::Preparation);
        write(folder, "runs/b/result.json", "");
        assert_eq!(phase(), Phase::Report);
    }
}
