//! The plan of a reproduction: which runs it has, how each is started, and which of them exist already.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use pointwise_network::{Network, NetworkError};
use pointwise_recipe::{DataKind, EngineKind, Precision};
use pointwise_runs::{Run, RunConfig, holds_run, sweep_old_files};
use toml::{Table, Value};

use crate::write::{put, study_in};
use crate::{Arm, DataSource, Error, Result, Shard, Study};

/// The seed of synthetic images, and of splits, if a study gives none.
const DATA_SEED: u64 = 42;

/// The data of a quick study: enough for a network to learn visibly, in about a minute on two cores.
struct Quick {
    /// Synthetic images to train on: sixteen full batches of the first study.
    train_images: NonZeroU32,
    /// Synthetic images to test on.
    test_images: NonZeroU32,
    /// Eighty of its steps in all.
    epochs: u32,
}

const QUICK: Quick = Quick {
    train_images: NonZeroU32::MIN.saturating_add(2015),
    test_images: NonZeroU32::MIN.saturating_add(503),
    epochs: 5,
};

/// Options of a reproduction. `Default` is what the study itself says.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Other seeds.
    pub seeds: Option<Vec<u64>>,
    /// The names of the arms to train; `None` for all.
    pub arms: Option<Vec<String>>,
    /// A small study on synthetic images instead.
    pub quick: bool,
    /// Other passes over the training images.
    pub epochs: Option<u32>,
    /// Another folder with the images.
    pub data_dir: Option<PathBuf>,
    /// The trainer's engine.
    pub engine: Option<EngineKind>,
    /// The trainer's device, as typed.
    pub device: Option<String>,
    /// The trainer's precision.
    pub precision: Option<Precision>,
    /// Whether the trainer must give the same bits every time.
    pub deterministic: bool,
    /// Whether the trainer computes on a GPU, where runs at once are threads of one process.
    pub on_gpu: bool,
    /// Computing threads of all runs that are trained at once.
    pub threads: Option<u32>,
    /// Runs at once; 0 for [`Options::GPU_JOBS`] on a GPU, or fewer if there are fewer runs, and 1 elsewhere.
    pub jobs: u32,
    /// The folder for runs and report.
    pub out: Option<PathBuf>,
    /// A part of the runs; `None` for all.
    pub shard: Option<Shard>,
}

impl Options {
    /// Runs at once on a GPU: while one starts, evaluates or writes, others compute, and small kernels of one fill the gaps of
    /// another.
    pub const GPU_JOBS: u32 = 3;
}

/// The runs of a reproduction, and how each is started.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The study as in its file.
    pub study: Study,
    /// The arms that are trained, with the recipes used.
    pub arms: Vec<Arm>,
    /// The seeds of each.
    pub seeds: Vec<u64>,
    /// What they are trained on.
    pub data: DataSource,
    /// Whether it is a small study on synthetic images.
    pub quick: bool,
    /// Where runs and report are.
    pub out: PathBuf,
    pub(crate) threads: Option<u32>,
    pub(crate) jobs: u32,
    /// Whether the runs that are trained at once are threads of one process: see `trainers.rs`.
    pub(crate) in_one_process: bool,
    options: Vec<OsString>,
    asked: Asked,
    shard: Option<Shard>,
}

/// What a run must compute with; `None` is left to the trainer.
#[derive(Clone, Debug)]
struct Asked {
    engine: Option<EngineKind>,
    device: Option<String>,
    precision: Option<Precision>,
    deterministic: bool,
}

/// One run of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The index of its arm in [`Plan::arms`].
    pub arm: usize,
    /// The name of its arm.
    pub name: String,
    /// Its seed.
    pub seed: u64,
    /// Its folder.
    pub folder: PathBuf,
}

impl Job {
    /// In words.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{}, seed {}", self.name, self.seed)
    }
}

impl Plan {
    /// Resolves the options for a study.
    ///
    /// # Errors
    /// [`Error::UnknownArm`].
    pub fn new(study: Study, options: Options) -> Result<Self> {
        let Options {
            seeds,
            arms: names,
            quick,
            epochs,
            data_dir,
            engine,
            device,
            precision,
            deterministic,
            on_gpu,
            threads,
            jobs,
            out,
            shard,
        } = options;
        let mut arms = Vec::new();
        for name in names.unwrap_or_else(|| study.arms.iter().map(|arm| arm.name.clone()).collect()) {
            let known = || study.arms.iter().map(|arm| arm.name.as_str()).collect::<Vec<_>>().join(", ");
            let arm =
                study.arm(&name).ok_or_else(|| Error::UnknownArm { name: name.clone(), known: known() })?;
            arms.push(arm.clone());
        }
        for arm in &mut arms {
            if quick {
                // No images are held out from so few.
                arm.recipe.early_stopping = None;
                arm.recipe.epochs = QUICK.epochs;
            }
            arm.recipe.epochs = epochs.unwrap_or(arm.recipe.epochs);
        }
        let data = if quick { quick_data() } else { study.data.clone() };
        if quick {
            fit_to_each_other(&mut arms);
        }
        let seeds = match seeds {
            Some(seeds) => seeds,
            None if quick => study.seeds[..1].into(),
            None => study.seeds.clone(),
        };
        let mut words: Vec<OsString> = Vec::new();
        let mut add = |name: &str, value: OsString| words.extend([name.into(), value]);
        if let Some(folder) = &data_dir {
            add("--data-dir", folder.into());
        }
        if let Some(engine) = engine {
            add("--engine", engine.name().into());
        }
        if let Some(device) = &device {
            add("--device", device.into());
        }
        if let Some(precision) = precision {
            add("--precision", precision.name().into());
        }
        let is_ours = |index: &usize| shard.is_none_or(|shard| shard.holds(*index));
        let runs = (0..arms.len() * seeds.len()).filter(is_ours).count() as u32;
        let jobs = match jobs {
            0 if on_gpu => runs.clamp(1, Options::GPU_JOBS),
            0 => 1,
            jobs => jobs,
        };
        // Each of several runs gets its share through the environment, which leaves no trace in its configuration.
        if let Some(threads) = threads.filter(|_| jobs == 1) {
            add("--threads", threads.to_string().into());
        }
        if deterministic {
            words.push("--deterministic".into());
        }
        let out = out.unwrap_or_else(|| default_out(&study, quick));
        let asked = Asked { engine, device, precision, deterministic };
        Ok(Self {
            study,
            arms,
            seeds,
            data,
            quick,
            out,
            threads,
            jobs,
            in_one_process: on_gpu && jobs > 1,
            options: words,
            asked,
            shard,
        })
    }

    /// Arm by arm; only those of the shard, if one is given.
    #[must_use]
    pub fn jobs(&self) -> Vec<Job> {
        let runs = runs_folder(&self.out);
        let job = |arm: usize, seed: u64| {
            let name = self.arms[arm].name.clone();
            let folder = runs.join(format!("{name}-seed{seed}"));
            Job { arm, name, seed, folder }
        };
        let all = (0..self.arms.len()).flat_map(|arm| self.seeds.iter().map(move |&seed| job(arm, seed)));
        let is_ours = |(index, _): &(usize, Job)| self.shard.is_none_or(|shard| shard.holds(*index));
        all.enumerate().filter(is_ours).map(|(_, job)| job).collect()
    }

    /// The arguments of `trainer` for a run. With `--resume` the same call starts, continues or confirms it. The file that they name exists only
    /// after [`Plan::write`].
    #[must_use]
    pub fn train_arguments(&self, job: &Job) -> Vec<OsString> {
        let mut words: Vec<OsString> = ["train", "--resume", "--quiet", "--config"].map(Into::into).into();
        words.push(self.config_path(&self.arms[job.arm]).into());
        words.extend([
            "--seed".into(),
            job.seed.to_string().into(),
            "--run-dir".into(),
            job.folder.clone().into(),
        ]);
        words.extend_from_slice(&self.options);
        words
    }

    /// Multiply-accumulates of a run of each arm, apart from the number of images, which they share: their relative durations.
    #[must_use]
    pub fn weights(&self) -> Vec<f64> {
        let weight = |arm: &Arm| {
            let macs = arm.network.graph().map_or(1, |graph| graph.macs().max(1));
            macs as f64 * f64::from(arm.recipe.epochs)
        };
        self.arms.iter().map(weight).collect()
    }

    /// Writes the study, and for each arm the options of its runs and its network, unless that comes with the program. An existing file is not
    /// changed.
    ///
    /// # Errors
    /// [`Error::Unwritable`], [`Error::NotUtf8`], or [`Error::OtherStudy`] if the folder is that of another study.
    pub fn write(&self) -> Result<()> {
        for folder in ["runs", "configs", "networks"].map(|name| self.out.join(name)) {
            fs::create_dir_all(&folder).map_err(|cause| Error::Unwritable { path: folder, cause })?;
        }
        if let Some(there) = study_in(&self.out)?.filter(|there| there.name != self.study.name) {
            let (theirs, ours) = (there.name, self.study.name.clone());
            return Err(Error::OtherStudy { path: self.out.clone(), theirs, ours });
        }
        // With the requested seeds, so that the folder alone says which runs it should have.
        let mut study = Study { seeds: self.seeds.clone(), ..self.study.clone() };
        if let Some(dir) = &mut study.data.dir {
            *dir = utf8(&absolute(dir)?)?.into();
        }
        for folder in [self.out.clone(), self.out.join("configs"), self.out.join("networks")] {
            sweep_old_files(folder);
        }
        study.write(&self.out)?;
        for arm in &self.arms {
            let mut config = self.config(arm)?;
            if !arm.is_shipped {
                let path = self.network_path(arm);
                put(&path, &arm.network.to_toml())?;
                config.insert("model".to_owned(), utf8(&absolute(&path)?)?.into());
            }
            let recipe = arm.recipe.to_toml();
            put(&self.config_path(arm), &format!("{config}\n[recipe]\n{recipe}"))?;
        }
        Ok(())
    }

    /// Where [`Plan::write`] puts the description of an arm's network, unless that comes with the program.
    #[must_use]
    pub fn network_path(&self, arm: &Arm) -> PathBuf {
        self.out.join("networks").join(format!("{}.toml", arm.name))
    }

    fn config_path(&self, arm: &Arm) -> PathBuf {
        self.out.join("configs").join(format!("{}.toml", arm.name))
    }

    /// The options of an arm's runs except the recipe.
    fn config(&self, arm: &Arm) -> Result<Table> {
        let DataSource { kind, dir, test_split, val_split, data_seed, limit_train, limit_test, .. } =
            &self.data;
        let mut table = Table::new();
        let mut add = |key: &str, value: Value| table.insert(key.to_owned(), value);
        add("model", arm.name.clone().into());
        add("data", kind.name().into());
        if let Some(dir) = dir {
            add("data-dir", utf8(&absolute(dir)?)?.into());
        }
        if let Some(split) = test_split {
            add("test-split", split.clone().into());
        }
        add("val-split", i64::from(*val_split).into());
        add("data-seed", (data_seed.unwrap_or(DATA_SEED) as i64).into());
        if let Some(limit) = limit_train {
            add("limit-train", i64::from(limit.get()).into());
        }
        if let Some(limit) = limit_test {
            add("limit-test", i64::from(limit.get()).into());
        }
        // A description has its own.
        if let Some(p) = arm.dropout().filter(|_| arm.is_shipped) {
            let is_own = Network::by_name(&arm.name).is_ok_and(|network| network == arm.network);
            if !is_own {
                add("dropout", p.into());
            }
        }
        Ok(table)
    }

    /// The existing runs of all jobs, finished or not.
    ///
    /// # Errors
    /// If one cannot be read or is not the run that this plan would train.
    pub fn existing(&self) -> Result<Vec<Option<Run>>> {
        self.jobs().iter().map(|job| self.existing_run(job)).collect()
    }

    fn existing_run(&self, job: &Job) -> Result<Option<Run>> {
        if !holds_run(&job.folder) {
            return Ok(None);
        }
        let run = Run::read(&job.folder)?;
        let asked = self.asked(job, &run.config);
        if let Some(difference) = asked.difference(&run.config) {
            return Err(Error::OtherRun {
                path: job.folder.clone(),
                name: difference.name,
                theirs: difference.theirs,
                ours: difference.ours,
            });
        }
        let is_same = network_of(&run.config).is_ok_and(|network| network == self.network(job, &run.config));
        if !is_same {
            return Err(Error::OtherNetwork { path: job.folder.clone(), name: job.name.clone() });
        }
        Ok(Some(run))
    }

    /// The configuration that the plan requests. What it leaves to the trainer, and what does not affect the figures, is as stored; so is the
    /// network, which is compared by its content.
    fn asked(&self, job: &Job, stored: &RunConfig) -> RunConfig {
        let arm = &self.arms[job.arm];
        let device = self.asked.device.as_deref().and_then(|device| device.parse().ok());
        RunConfig {
            model: arm.name.clone(),
            engine: self.asked.engine.unwrap_or(stored.engine),
            device: device.unwrap_or(stored.device),
            precision: self.asked.precision.unwrap_or(stored.precision),
            deterministic: self.asked.deterministic || stored.deterministic,
            data: match (self.data.kind, stored.data) {
                // The same images, wherever they came from: the report compares their fingerprints.
                (DataKind::Cifar10, DataKind::Huggingface) => DataKind::Huggingface,
                (kind, _) => kind,
            },
            data_seed: self.data.data_seed.unwrap_or(DATA_SEED),
            test_split: self.data.test_split.as_deref().map(plain_number),
            recipe: arm.recipe.clone(),
            dropout: arm.dropout().unwrap_or(stored.dropout),
            seed: job.seed,
            val_split: self.data.val_split,
            init: None,
            init_sha256: None,
            limit_train: self.data.limit_train,
            limit_test: self.data.limit_test,
            ..stored.clone()
        }
    }

    /// The network of a job; one that comes with the program is adapted to the images of the stored run.
    fn network(&self, job: &Job, stored: &RunConfig) -> Network {
        let arm = &self.arms[job.arm];
        match &stored.dataset {
            Some(data) if arm.is_shipped => {
                arm.network.clone().with_input(data.shape).with_classes(data.classes.len())
            }
            _ => arm.network.clone(),
        }
    }
}

/// The network that a run trains.
fn network_of(config: &RunConfig) -> Result<Network, NetworkError> {
    match &config.network {
        Some(text) => Network::from_toml(text),
        None => Ok(Network::by_name(&config.model)?.with_dropout(config.dropout)),
    }
}

/// A share or a number of images as in a run: without redundant characters.
fn plain_number(text: &str) -> String {
    match (text.parse::<u32>(), text.parse::<f64>()) {
        (Ok(number), _) => number.to_string(),
        (_, Ok(share)) => share.to_string(),
        _ => text.to_owned(),
    }
}

fn quick_data() -> DataSource {
    DataSource {
        kind: DataKind::Synthetic,
        dir: None,
        test_split: None,
        val_split: 0,
        data_seed: None,
        limit_train: Some(QUICK.train_images),
        limit_test: Some(QUICK.test_images),
        train_images: None,
        test_images: None,
    }
}

/// Synthetic images have the shape and classes that a network takes. All networks must see the same ones: those that come with the program are
/// adapted to the first network that a file describes.
fn fit_to_each_other(arms: &mut [Arm]) {
    let Some(described) = arms.iter().find(|arm| !arm.is_shipped) else { return };
    let Ok(classes) = described.network.graph().map(|graph| graph.classes()) else { return };
    let input = described.network.input;
    for arm in arms.iter_mut().filter(|arm| arm.is_shipped) {
        let fitted = arm.network.clone().with_input(input).with_classes(classes);
        if fitted != arm.network && fitted.graph().is_ok() {
            (arm.network, arm.is_shipped) = (fitted, false);
        }
    }
}

/// Where a study's runs and report are, unless another folder is given.
#[must_use]
pub fn default_out(study: &Study, quick: bool) -> PathBuf {
    let is_default = Study::shipped().next() == Some(&study.name);
    let name = if is_default { "study".to_owned() } else { format!("study-{}", study.name) };
    if quick { format!("{name}-quick").into() } else { name.into() }
}

/// Where the runs of a study are in its folder.
pub(crate) fn runs_folder(out: &Path) -> PathBuf {
    out.join("runs")
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|cause: io::Error| Error::Unwritable { path: path.to_owned(), cause })
}

fn utf8(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| Error::NotUtf8 { path: path.to_owned() })
}

/// Seconds that a run of an arm takes, from the `known` arms and the seconds that a run of them took: of the same arm, else of the others by
/// their weights (see [`Plan::weights`]). `None` while nothing is known.
pub(crate) fn estimate(arm: usize, known: &[(usize, f64)], weights: &[f64]) -> Option<f64> {
    let mean =
        |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
    let own = known.iter().filter(|(other, _)| *other == arm).map(|(_, seconds)| *seconds).collect();
    mean(own).or_else(|| {
        let by_weight = known.iter().map(|(other, seconds)| seconds / weights[*other]).collect();
        Some(mean(by_weight)? * weights[arm])
    })
}

/// Seconds until the last run ends, where `slots` runs are trained at once: `running` are the seconds left, `waiting` the seconds that the
/// waiting runs take, each of which starts when a slot becomes free.
pub(crate) fn schedule(running: &[f64], waiting: &[f64], slots: usize) -> f64 {
    let mut ends = running.to_vec();
    ends.resize(slots.max(running.len()).max(1), 0.0);
    for seconds in waiting {
        let free = (0..ends.len()).min_by(|a, b| ends[*a].total_cmp(&ends[*b])).unwrap_or(0);
        ends[free] += seconds;
    }
    ends.into_iter().fold(0.0, f64::max)
}

/// The threads of the next of several runs: `free` threads, divided over the `places` where a run can start now, or over the waiting runs if
/// those are fewer. At least one.
pub(crate) fn share(free: u32, places: usize, waiting: usize) -> u32 {
    (free / places.min(waiting).max(1) as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(options: Options) -> Plan {
        let arms = Some(vec!["nin".to_owned(), "alexnet".to_owned()]);
        let seeds = options.seeds.clone().or(Some(vec![42, 43]));
        let options = Options { arms, seeds, out: Some("out".into()), ..options };
        Plan::new(Study::by_name("pointwise").unwrap(), options).unwrap()
    }

    fn line(plan: &Plan) -> String {
        let arguments = plan.train_arguments(&plan.jobs()[1]);
        arguments.join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn options_reach_the_trainer() {
        let plain =
            "train --resume --quiet --config out/configs/nin.toml --seed 43 --run-dir out/runs/nin-seed43";
        assert_eq!(line(&plan(Options::default())), plain);
        let full = Options {
            data_dir: Some("a b".into()),
            engine: Some(EngineKind::Cpu),
            device: Some("auto".into()),
            precision: Some(Precision::Tf32),
            deterministic: true,
            threads: Some(2),
            ..Options::default()
        };
        let options =
            "--data-dir a b --engine cpu --device auto --precision tf32 --threads 2 --deterministic";
        assert_eq!(line(&plan(full)), format!("{plain} {options}"));
        // Several runs share the threads.
        assert_eq!(line(&plan(Options { threads: Some(2), jobs: 2, ..Options::default() })), plain);
    }

    #[test]
    fn runs_at_once_are_of_one_process_on_a_gpu_alone() {
        let at_once = |on_gpu, jobs, seeds: &[u64], shard: Option<&str>| {
            let shard = shard.map(|shard| shard.parse().unwrap());
            let options = Options { on_gpu, jobs, seeds: Some(seeds.into()), shard, ..Options::default() };
            let plan = plan(options);
            (plan.jobs, plan.in_one_process)
        };
        assert_eq!(at_once(false, 0, &[1, 2], None), (1, false));
        assert_eq!(at_once(false, 3, &[1, 2], None), (3, false));
        assert_eq!(at_once(true, 0, &[1, 2], None), (3, true));
        assert_eq!(at_once(true, 0, &[1], None), (2, true), "no more than there are runs");
        assert_eq!(at_once(true, 0, &[1], Some("0/2")), (1, false));
        assert_eq!(at_once(true, 1, &[1, 2], None), (1, false));
        assert_eq!(at_once(true, 8, &[1, 2], None), (8, true));
    }

    #[test]
    fn every_arm_is_run_with_every_seed() {
        let jobs: Vec<_> =
            plan(Options::default()).jobs().into_iter().map(|job| (job.name, job.seed)).collect();
        let job = |arm: &str, seed| (arm.to_owned(), seed);
        assert_eq!(jobs, [job("nin", 42), job("nin", 43), job("alexnet", 42), job("alexnet", 43)]);
    }

    #[test]
    fn an_arm_that_is_none_is_named() {
        let options = Options { arms: Some(vec!["vgg".into()]), ..Options::default() };
        let error = Plan::new(Study::by_name("pointwise").unwrap(), options).unwrap_err().to_string();
        assert_eq!(error, "`vgg` is not a network of the study: choose from alexnet_plain, alexnet, nin");
    }

    #[test]
    fn an_estimate_is_of_the_same_arm_or_scaled() {
        let weights = [256.0, 128.0];
        assert_eq!(estimate(0, &[], &weights), None);
        let alexnet = [(1, 10.0), (1, 20.0)];
        assert_eq!(estimate(1, &alexnet, &weights), Some(15.0));
        assert_eq!(estimate(0, &alexnet, &weights), Some(30.0));
    }

    #[test]
    fn runs_fill_the_places_that_become_free() {
        assert_eq!(schedule(&[], &[], 2), 0.0);
        assert_eq!(schedule(&[5.0], &[10.0, 20.0], 1), 35.0);
        // The second place takes 10, then 3; the first one 8, then 1.
        assert_eq!(schedule(&[8.0], &[10.0, 1.0, 3.0], 2), 12.0);
    }

    #[test]
    fn threads_are_shared_out_and_never_oversubscribed() {
        for total in 1..=9_u32 {
            for places in 1..=total as usize {
                for waiting in 1..=12_usize {
                    let (mut free, mut given) = (total, Vec::new());
                    for started in 0..places.min(waiting) {
                        let threads = share(free, places - started, waiting - started);
                        free -= threads;
                        given.push(threads);
                    }
                    assert_eq!(free, 0, "{total} {places} {waiting}: {given:?}");
                    let (least, most) = (given.iter().min(), given.iter().max());
                    assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{given:?}");
                }
            }
        }
    }
}
