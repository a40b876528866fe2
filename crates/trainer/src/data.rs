//! `trainer data`, and where the other commands get their images from.

use crate::args::{DataArgs, DataCommand, DataSource};
use crate::display::LoadingDisplay;
use crate::recipe::study_config;
use crate::threads::cause;
use crate::{End, print, stop_flag};
use anyhow::{anyhow, bail};
use etcetera::BaseStrategy;
use pointwise_data::{
    Dataset, DatasetSpec, Error, FileReport, NoProgress, Place, Progress, Published, Source, TestSplit,
    fetch, find_whole, load, statistics, verify,
};
use pointwise_network::Network;
use pointwise_recipe::DataKind;
use pointwise_report::{Align, Table};
use pointwise_runs::{DatasetConfig, RunConfig};
use std::fmt::Write;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Size of the synthetic dataset unless limited: as CIFAR-10's.
const SYNTHETIC_TRAIN: usize = 50_000;
const SYNTHETIC_TEST: usize = 10_000;

pub(crate) fn run(args: &DataArgs) -> anyhow::Result<End> {
    let stop = stop_flag()?;
    let Some(text) = (match args.command.clone() {
        DataCommand::Fetch { data, data_dir } => {
            let kind = data.unwrap_or(DataKind::Cifar10);
            let Some(dataset) = Published::of(kind) else { bail!("{}", not_fetched(kind)) };
            let named = named_folder(data_dir.as_deref(), kind);
            let is_named = named.is_some();
            let folder = named.map_or_else(|| cache(dataset), Ok)?;
            unless_stopped(&stop, move || {
                fetched(dataset, &folder).map_err(|error| with_way_out(error, is_named))
            })?
        }
        DataCommand::Verify(source) => verified(&source, &stop)?,
        DataCommand::Stats { source, model } => {
            let images = match &model {
                Some(model) => Images::of_weights(&source, None, model.network())?,
                None => Images::from_args(&source),
            };
            let dataset = load_dataset(&images, None, None, false, &stop)?;
            dataset.map(|dataset| describe(&dataset)).transpose()?
        }
    }) else {
        return Ok(End::Interrupted);
    };
    print(&text)?;
    Ok(End::Done)
}

/// Fetches a data set, and returns a line that says where it is. Files that exist, in any layout that we read, are not fetched again.
fn fetched(dataset: Published, folder: &Path) -> Result<String, Error> {
    let (display, name) = (LoadingDisplay::default(), dataset.name());
    if let Some(source) = find_whole(dataset, folder, &display)? {
        return Ok(format!("{name} is complete: {source}"));
    }
    let place = fetch(dataset, folder, &dataset.addresses(), &display)?;
    Ok(format!("{name} is now in {}", place.display()))
}

/// Why a data set is not fetched.
fn not_fetched(kind: DataKind) -> &'static str {
    match kind {
        DataKind::Synthetic => "synthetic images are drawn whenever they are used: there is nothing to fetch",
        DataKind::Huggingface => {
            "data of the Hugging Face Hub is fetched when it is used: there is nothing to fetch beforehand"
        }
        _ => {
            "a folder of images is your own: put them into train/<class> and test/<class>, and name it with --data-dir"
        }
    }
}

/// Prints what the files of a data set contain, and returns a line that says that they are valid; `None` if stopped.
fn verified(source: &DataSource, stop: &AtomicBool) -> anyhow::Result<Option<String>> {
    let images = Images::from_args(source);
    if images.kind == DataKind::Synthetic {
        bail!("synthetic images are drawn whenever they are used: there is nothing to verify");
    }
    let Some(dataset) = Published::of(images.kind) else {
        // Reading all of it is the only check there is.
        let dataset = load_dataset(&images, None, None, false, stop)?;
        return Ok(dataset.map(|dataset| {
            let (train, test) = (dataset.train.len(), dataset.test.len());
            let classes = dataset.spec.classes.len();
            format!(
                "{train} training and {test} test images of {classes} classes: every file is whole and valid"
            )
        }));
    };
    let folder = images.folder.map_or_else(|| cache(dataset), Ok)?;
    let reports = unless_stopped(stop, move || verify(dataset, &folder, &LoadingDisplay::default()))?;
    let Some(reports) = reports else { return Ok(None) };
    let columns =
        [("file", Align::Left), ("records", Align::Right), ("bytes", Align::Right), ("SHA-256", Align::Left)];
    let mut table = Table::new(columns);
    for FileReport { path, bytes, records, sha256, .. } in &reports {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let records = records.map_or_else(String::new, |records| records.to_string());
        table.row([&*name, &records, &bytes.to_string(), sha256]);
    }
    print(table.plain().trim_end())?;
    let problems: Vec<&str> = reports.iter().filter_map(|report| report.problem.as_deref()).collect();
    if !problems.is_empty() {
        bail!("{}", problems.join("; "));
    }
    Ok(Some("every file is whole and valid".to_owned()))
}

/// What `work` returns, or `None` once `stop` is set: then `work`, which may be waiting for a silent server, is abandoned, and ends with
/// the process.
fn unless_stopped<T, E>(
    stop: &AtomicBool,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> anyhow::Result<Option<T>>
where
    T: Send + 'static,
    E: Into<anyhow::Error> + Send + 'static,
{
    /// Between checks of `stop`.
    const PERIOD: Duration = Duration::from_millis(20);

    let (sender, receiver) = mpsc::channel();
    let worker = thread::Builder::new().name("data".to_owned()).spawn(move || {
        // After a stop, nobody receives this.
        let _ = sender.send(work());
    });
    let worker = worker.map_err(|error| {
        anyhow!("no thread can be started to load the images ({}): raise the limit", cause(&error))
    })?;
    loop {
        match receiver.recv_timeout(PERIOD) {
            Ok(result) => return result.map(Some).map_err(Into::into),
            Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => {
                LoadingDisplay::default().note("interrupted before the images were loaded");
                return Ok(None);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => match worker.join() {
                Err(panic) => resume_unwind(panic),
                Ok(()) => bail!("the images were not loaded"),
            },
        }
    }
}

/// The part of a configuration that selects the images.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Images {
    kind: DataKind,
    folder: Option<PathBuf>,
    /// Of synthetic images, and of the images split off.
    seed: u64,
    test_split: Option<TestSplit>,
    /// Channels, rows and columns, and the number of classes, where the data set leaves them open.
    shape: [usize; 3],
    classes: usize,
}

/// Seed of the synthetic images unless given: the same images for every seed of a run.
pub(crate) const DATA_SEED: u64 = 42;

impl Images {
    /// The images of the command line's options, without a network to fit.
    pub(crate) fn from_args(source: &DataSource) -> Self {
        let kind = source.data.unwrap_or(DataKind::Cifar10);
        Self {
            kind,
            folder: named_folder(source.data_dir.as_deref(), kind),
            seed: source.data_seed.unwrap_or(DATA_SEED),
            test_split: source.test_split,
            shape: [3, 32, 32],
            classes: 10,
        }
    }

    /// The images that a run of that network trains on.
    pub(crate) fn of_run(config: &RunConfig, network: &Network) -> anyhow::Result<Self> {
        let test_split = config.test_split.as_deref().map(str::parse).transpose();
        Ok(Self {
            kind: config.data,
            folder: config.data_dir.clone(),
            seed: config.data_seed,
            test_split: test_split.map_err(|error| anyhow!("test-split: {error}"))?,
            shape: network.input,
            classes: network.graph()?.classes(),
        })
    }

    /// The images of a study, from its folder or another one, for a network.
    pub(crate) fn of_study(
        data: &pointwise_study::DataSource,
        folder: Option<&Path>,
        network: &Network,
    ) -> anyhow::Result<Self> {
        let test_split = data.test_split.as_deref().map(str::parse).transpose();
        Ok(Self {
            kind: data.kind,
            folder: named_folder(folder.or(data.dir.as_deref()), data.kind),
            seed: data.data_seed.unwrap_or(DATA_SEED),
            test_split: test_split.map_err(|error| anyhow!("test-split: {error}"))?,
            shape: network.input,
            classes: network.graph()?.classes(),
        })
    }

    /// The images that weights are evaluated on: the options of the command line, over those of the training.
    pub(crate) fn of_weights(
        source: &DataSource,
        run: Option<&RunConfig>,
        network: &Network,
    ) -> anyhow::Result<Self> {
        let mut config = run.cloned().map_or_else(|| study_config(&network.name), Ok)?;
        // Data of another kind lies elsewhere.
        if source.data.is_some_and(|kind| kind != config.data) {
            (config.data_dir, config.test_split) = (None, None);
        }
        config.data = source.data.unwrap_or(config.data);
        config.data_dir = named_folder(source.data_dir.as_deref(), config.data).or(config.data_dir);
        config.data_seed = source.data_seed.unwrap_or(config.data_seed);
        config.test_split = source.test_split.as_ref().map(TestSplit::to_string).or(config.test_split);
        Self::of_run(&config, network)
    }

    /// What is known of the images before they are loaded.
    pub(crate) fn spec(&self) -> anyhow::Result<DatasetSpec> {
        Ok(self.source(None, None)?.spec()?)
    }

    fn source(&self, limit_train: Option<u32>, limit_test: Option<u32>) -> anyhow::Result<Source> {
        let published = |dataset: Published| {
            let place = match &self.folder {
                Some(folder) => Place::Named(folder.clone()),
                None => Place::Cache { folder: cache(dataset)?, addresses: dataset.addresses() },
            };
            Ok(Source::Published { dataset, place })
        };
        if self.test_split.is_some() && self.kind != DataKind::Folder {
            bail!("--test-split is for --data folder: `{}` has its own test images", self.kind);
        }
        match (self.kind, Published::of(self.kind)) {
            (_, Some(dataset)) => published(dataset),
            (DataKind::Folder, _) => match &self.folder {
                Some(path) => Ok(Source::Folder {
                    path: path.clone(),
                    shape: self.shape,
                    test_split: self.test_split,
                    seed: self.seed,
                }),
                None => bail!("the folder of the images is not known: give it with --data-dir"),
            },
            (DataKind::Huggingface, _) => Ok(Source::HuggingFace { dataset: "uoft-cs/cifar10".to_owned() }),
            _ => Ok(Source::Synthetic {
                seed: self.seed,
                train: limit_train.map_or(SYNTHETIC_TRAIN, |limit| limit as usize),
                test: limit_test.map_or(SYNTHETIC_TEST, |limit| limit as usize),
                classes: self.classes,
                shape: self.shape,
            }),
        }
    }
}

/// What a run knows of the data set that it was trained on.
pub(crate) fn spec(data: &DatasetConfig) -> DatasetSpec {
    let DatasetConfig { shape, classes, mean, std } = data.clone();
    DatasetSpec { name: "the run's data set".to_owned(), shape, classes, mean_std: Some((mean, std)) }
}

/// The data assumed for weights that do not name theirs.
pub(crate) fn cifar10() -> DatasetSpec {
    Published::Cifar10.spec()
}

/// Loads images, unless `stop` is set before that is done; `limit_train` and `limit_test` only avoid drawing synthetic images that will
/// not be used.
pub(crate) fn load_dataset(
    images: &Images,
    limit_train: Option<u32>,
    limit_test: Option<u32>,
    quiet: bool,
    stop: &AtomicBool,
) -> anyhow::Result<Option<Dataset>> {
    let source = images.source(limit_train, limit_test)?;
    let (folder, kind) = (images.folder.clone(), images.kind);
    unless_stopped(stop, move || {
        let progress: &dyn Progress = if quiet { &NoProgress } else { &LoadingDisplay::default() };
        load(&source, progress).map_err(|error| match &folder {
            Some(folder) if error.is_fetchable() && Published::of(kind).is_some() => {
                let data = if kind == DataKind::Cifar10 { String::new() } else { format!(" --data {kind}") };
                // Nothing can be fetched into a file.
                let place = if folder.is_file() { String::new() } else { format!(" --data-dir {}", folder.display()) };
                anyhow!(
                    "{error}; fetch it with `trainer data fetch{data}{place}`, name another folder with --data-dir, or use \
                     --data synthetic"
                )
            }
            folder => with_way_out(error, folder.is_some()),
        })
    })
}

/// Adds how to name another folder, if images cannot be written to this one.
fn with_way_out(error: Error, named: bool) -> anyhow::Error {
    match error {
        Error::Write { .. } if named => anyhow!("{error}; name another folder with --data-dir"),
        Error::Write { .. } => {
            anyhow!(
                "{error}; name a folder for the images with --data-dir, or one for all caches with XDG_CACHE_HOME"
            )
        }
        error => error.into(),
    }
}

/// Warns of classes without images, about which the figures of a training say nothing.
///
/// # Errors
/// If nothing can be learnt at all.
pub(crate) fn check_classes(dataset: &Dataset) -> anyhow::Result<()> {
    let found = statistics(dataset);
    let names = &dataset.spec.classes;
    let (train, test) =
        (without_images(names, &found.train_classes), without_images(names, &found.test_classes));
    let source = &dataset.source;
    if train.len() + 1 >= names.len() {
        bail!(
            "the training images of {source} are all of one class, so that nothing can be learnt: add other classes"
        );
    }
    if names.iter().all(|name| train.contains(&name.as_str()) || test.contains(&name.as_str())) {
        bail!(
            "no class of {source} has both training and test images: give both sets images of the same classes"
        );
    }
    warn_of_classes(source, "training", &train);
    warn_of_classes(source, "test", &test);
    Ok(())
}

/// Warns of classes without images in the set (`training` or `test`); `counts` holds its number of images of each class.
pub(crate) fn check_classes_of(dataset: &Dataset, set: &str, counts: &[u64]) {
    warn_of_classes(&dataset.source, set, &without_images(&dataset.spec.classes, counts));
}

fn warn_of_classes(source: &str, set: &str, without: &[&str]) {
    const FEW: usize = 10;
    if !without.is_empty() {
        let names = match without.len().checked_sub(FEW) {
            None | Some(0) => without.join(", "),
            Some(more) => format!("{} and {more} more", without[..FEW].join(", ")),
        };
        LoadingDisplay::default().note(&format!(
            "warning: {source} has no {set} images of {names}: the accuracy says nothing about them"
        ));
    }
}

fn without_images<'a>(names: &'a [String], counts: &[u64]) -> Vec<&'a str> {
    let names = names.iter().zip(counts).filter(|(_, count)| **count == 0);
    names.map(|(name, _)| name.as_str()).collect()
}

/// The folder named on the command line, else, for CIFAR-10, the one in the variable `CIFAR10_DIR` unless that is empty.
pub(crate) fn named_folder(folder: Option<&Path>, kind: DataKind) -> Option<PathBuf> {
    let variable = || std::env::var_os("CIFAR10_DIR").filter(|value| !value.is_empty()).map(PathBuf::from);
    folder.map(Path::to_owned).or_else(|| (kind == DataKind::Cifar10).then(variable).flatten())
}

/// `pointwise/NAME` in the user's cache folder.
fn cache(dataset: Published) -> anyhow::Result<PathBuf> {
    let folder = user_cache().ok_or_else(|| {
        anyhow!(
            "the home folder, in which images would be kept, is not known: say with --data-dir where the images are, or set \
             XDG_CACHE_HOME to a folder for them"
        )
    })?;
    Ok(folder.join(dataset.cache_name()))
}

/// `pointwise` in the user's cache folder; `None` where the home folder is not known.
pub(crate) fn user_cache() -> Option<PathBuf> {
    // The variable works without a home folder, which etcetera requires first.
    let variable = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(base) = variable.filter(|_| cfg!(unix)) {
        return Some(base.join("pointwise"));
    }
    etcetera::choose_base_strategy().ok().map(|base| base.cache_dir().join("pointwise"))
}

fn describe(dataset: &Dataset) -> anyhow::Result<String> {
    let found = statistics(dataset);
    let mut text = String::new();
    writeln!(text, "source       {}", dataset.source)?;
    writeln!(text, "fingerprint  {}", dataset.fingerprint())?;
    writeln!(text, "images       {} train, {} test", dataset.train.len(), dataset.test.len())?;
    let names: &[&str] = if found.mean.len() == 1 { &["grey"] } else { &["red", "green", "blue"] };
    for (channel, name) in names.iter().enumerate() {
        writeln!(
            text,
            "{name:<12} mean {:.5}, standard deviation {:.5}",
            found.mean[channel], found.std[channel]
        )?;
    }
    let mut table = Table::new([("class", Align::Left), ("train", Align::Right), ("test", Align::Right)]);
    for (class, name) in dataset.spec.classes.iter().enumerate() {
        let counts = [found.train_classes[class], found.test_classes[class]];
        table.row([name.clone()].into_iter().chain(counts.map(|count| count.to_string())));
    }
    Ok(text + table.plain().trim_end())
}
