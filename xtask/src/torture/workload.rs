//! The workloads that are killed: trainings and studies of different kinds that take a second or two.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use super::phase::{Phase, Shape};

/// A network of layers whose state a checkpoint has to hold: running statistics, random masks.
const NETWORK: &str = r#"name = "small"
input = [3, SIDE, SIDE]
layers = [{ Conv2d = { out_channels = 32, kernel_size = 3, padding = 1 } }, "BatchNorm2d", "ReLU", { MaxPool2d = { kernel_size = SIDE } }, "Flatten", { Dropout = { p = 0.3 } }, { Linear = { out_features = 10 } }]"#;

/// Averages and momenta of the weights, and images that are cropped and flipped.
const RECIPE: &str = r#"
epochs = EPOCHS
batch-size = 8
optimizer = { SGD = { lr = 0.05, momentum = 0.9 } }
ema = { decay = 0.9 }
augment = "crop-flip"
"#;

/// A record of CIFAR-10's binary files.
const RECORD: usize = 3073;
/// In each of the files: enough for a kill to hit while they are read.
const RECORDS: usize = 4000;

/// A workload to be killed and continued until it is finished.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    /// Its share of a hundred kills.
    pub(super) share: u32,
    pub(super) shape: Shape,
    /// The phases that are aimed at; all others are hit now and then.
    pub(super) phases: &'static [Phase],
    /// The arguments of each process.
    arguments: Vec<Vec<OsString>>,
    /// Its folder of results, with the same path for all attempts, because some files hold the path.
    pub(super) out: PathBuf,
}

impl Workload {
    /// The processes of one attempt.
    pub(super) fn commands(&self, trainer: &Path, threads: u32) -> Vec<Command> {
        let command = |arguments: &Vec<OsString>| {
            let mut command = plain(trainer);
            command.args(arguments).env("RAYON_NUM_THREADS", threads.to_string());
            command
        };
        self.arguments.iter().map(command).collect()
    }

    /// The command that makes a study's tables and page from its runs.
    pub(super) fn report(&self, trainer: &Path) -> Option<Command> {
        let mut command = plain(trainer);
        command.args(["study", "report"]).arg(&self.out);
        self.shape.is_study.then_some(command)
    }
}

/// The trainer, in an environment without the user's variables.
fn plain(trainer: &Path) -> Command {
    let mut command = Command::new(trainer);
    for name in ["CIFAR10_DIR", "RUST_LOG", "SLURM_JOB_ID"] {
        command.env_remove(name);
    }
    command
}

/// Writes the inputs of the workloads into a folder, and returns the workloads, which write into it as well.
pub(super) fn workloads(folder: &Path) -> anyhow::Result<Vec<Workload>> {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))?;
        anyhow::Ok(path)
    };
    let network = |side: u32| NETWORK.replace("SIDE", &side.to_string());
    let recipe = |epochs: u32| RECIPE.replace("EPOCHS", &epochs.to_string());
    // As a table in another file.
    let inline = format!("{{ {} }}", network(8).replace('\n', ", "));
    let (small, large) = (write("small.toml", &network(8))?, write("large.toml", &network(32))?);
    let study = write(
        "study.toml",
        &format!(
            "name = \"killed\"\ntitle = \"Two networks that are killed\"\n\
             [data]\nkind = \"synthetic\"\nlimit-train = 80\nlimit-test = 32\n\
             [recipe]{}\n[grid]\nseeds = [1, 2]\n\
             [[networks]]\nnetwork = {}\n\
             [[networks]]\nname = \"smoothed\"\nnetwork = {}\nrecipe = {{ label-smoothing = 0.1 }}\n",
            recipe(3),
            inline,
            inline
        ),
    )?;
    let images = folder.join("images");
    write_images(&images).with_context(|| format!("{} cannot be written", images.display()))?;
    let words = |text: &str, paths: &[(&str, &Path)]| -> Vec<OsString> {
        let mut words: Vec<OsString> = text.split_whitespace().map(OsString::from).collect();
        words.extend(paths.iter().flat_map(|(option, path)| [OsString::from(option), path.into()]));
        words
    };
    let config = |name: &str, model: &Path, epochs: u32, data: &str| {
        let text = format!(
            "model = {model:?}\nlog-every = 1\nlimit-test = 32\nval-split = 16\n{data}{}",
            recipe(epochs)
        );
        write(name, &text)
    };
    let run = config("run.toml", &small, 3, "data = \"synthetic\"\nlimit-train = 96\n")?;
    let prepared = config("prepared.toml", &large, 2, "data = \"cifar10\"\nlimit-train = 56\n")?;
    let runs = ["small-seed1", "small-seed2", "smoothed-seed1", "smoothed-seed2"];
    let runs = runs.map(|name| Path::new("runs").join(name)).to_vec();
    let alone = vec![PathBuf::new()];
    let out = |name: &str| folder.join(format!("out-{name}"));
    Ok(vec![
        Workload {
            name: "training",
            share: 40,
            shape: Shape { runs: alone.clone(), is_study: false, epochs: 3, steps: 10 },
            phases: &[
                Phase::Preparation,
                Phase::Checkpoint,
                Phase::Checkpoint,
                Phase::Evaluation,
                Phase::Evaluation,
                Phase::RunFiles,
                Phase::Training,
                Phase::Conclusion,
            ],
            arguments: vec![words(
                "train --quiet --resume --checkpoint-every 0",
                &[("--config", &run), ("--run-dir", &out("training"))],
            )],
            out: out("training"),
        },
        Workload {
            name: "images",
            share: 15,
            shape: Shape { runs: alone, is_study: false, epochs: 2, steps: 5 },
            phases: &[Phase::Preparation, Phase::Preparation, Phase::Evaluation, Phase::Conclusion],
            arguments: vec![words(
                "train --quiet --resume",
                &[("--config", &prepared), ("--data-dir", &images), ("--run-dir", &out("images"))],
            )],
            out: out("images"),
        },
        Workload {
            name: "study",
            share: 30,
            shape: Shape { runs: runs.clone(), is_study: true, epochs: 3, steps: 10 },
            phases: &[
                Phase::StudyFiles,
                Phase::RunFiles,
                Phase::Evaluation,
                Phase::Conclusion,
                Phase::Report,
            ],
            arguments: vec![{
                let mut words = words("reproduce --quiet --jobs 2 --threads 2", &[("--out", &out("study"))]);
                words.push(study.clone().into());
                words
            }],
            out: out("study"),
        },
        Workload {
            name: "shards",
            share: 15,
            shape: Shape { runs, is_study: true, epochs: 3, steps: 10 },
            phases: &[Phase::StudyFiles, Phase::RunFiles, Phase::Evaluation, Phase::Conclusion],
            arguments: (0..2)
                .map(|shard| {
                    let mut words = words("reproduce --quiet", &[("--out", &out("shards"))]);
                    words.extend(["--shard".into(), format!("{shard}/2").into(), study.clone().into()]);
                    words
                })
                .collect(),
            out: out("shards"),
        },
    ])
}

/// Made-up images, in CIFAR-10's binary files.
fn write_images(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    for file in 0..6 {
        let mut bytes = Vec::with_capacity(RECORDS * RECORD);
        for record in 0..RECORDS {
            let label = (file + record) % 10;
            bytes.push(label as u8);
            bytes.extend((1..RECORD).map(|place| (place * (label + 3) + 41 * record + file) as u8));
        }
        let name =
            if file == 5 { "test_batch.bin".to_owned() } else { format!("data_batch_{}.bin", file + 1) };
        fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}
