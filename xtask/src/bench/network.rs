//! The networks that are timed, as the trainer describes them to all contenders.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use tempfile::TempDir;

/// A network.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    /// Its own name, which may differ from its file's.
    pub(crate) name: String,
    /// What the trainer knows it by: its name, or the path of its file.
    pub(crate) asked: String,
    /// Number of trainable values.
    pub(crate) parameters: u64,
    /// Multiply-accumulates of one image.
    pub(crate) macs: u64,
    /// The file of the resolved network as JSON, for the programs that are not ours.
    pub(crate) graph: PathBuf,
}

/// Networks, and the folder of their files, which is removed with this.
#[derive(Debug)]
pub(crate) struct Networks {
    pub(crate) list: Vec<Network>,
    _folder: TempDir,
}

/// The part of a graph that is used here.
#[derive(Deserialize)]
struct Facts {
    name: String,
    parameters: u64,
    macs: u64,
}

impl Networks {
    /// Asks the trainer for the graph of each network.
    ///
    /// # Errors
    /// If it does not know one, or two of them have one name: rows could not be told apart.
    pub(crate) fn ask(trainer: &Path, models: &[String]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("no folder can be made for the descriptions of networks")?;
        let mut list: Vec<Network> = Vec::new();
        for (number, model) in models.iter().enumerate() {
            let output = Command::new(trainer)
                .args(["summary", "--model", model, "--graph"])
                .stderr(Stdio::inherit())
                .output()
                .with_context(|| format!("{} cannot be started", trainer.display()))?;
            if !output.status.success() {
                bail!("`trainer summary` failed on {model} ({}): see its message above", output.status);
            }
            let Facts { name, parameters, macs } = serde_json::from_slice(&output.stdout)
                .with_context(|| format!("the output of `trainer summary` for {model} is not a graph"))?;
            ensure!(
                list.iter().all(|other| other.name != name),
                "two of the networks are called {name}: give one of them another name"
            );
            let graph = folder.path().join(format!("{number}.json"));
            fs::write(&graph, &output.stdout).context("the description of a network cannot be written")?;
            list.push(Network { name, asked: model.clone(), parameters, macs, graph });
        }
        Ok(Self { list, _folder: folder })
    }
}

/// A network as a published command names it: without the folders of this machine.
pub(crate) fn shown(model: &str) -> String {
    Path::new(model).file_name().map_or_else(|| model.to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_shown_without_their_folders() {
        assert_eq!(["nin", "nin-r2", "../mine/net.toml"].map(shown), ["nin", "nin-r2", "net.toml"]);
    }
}
