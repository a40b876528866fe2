//! `trainer data`, and where the other commands get their images from.

use crate::args::{DataArgs, DataCommand, DataKind, DataSource};
use crate::display::LoadingDisplay;
use crate::{End, print, stop_flag};
use anyhow::{anyhow, bail};
use etcetera::BaseStrategy;
use pointwise_data::{
    CLASS_NAMES, CLASSES, Dataset, Error, NoProgress, Progress, Source, default_addresses, fetch, find_whole,
    load, statistics, verify,
};
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
        DataCommand::Fetch { data_dir } => {
            let folder = folder_or_cache(data_dir.as_deref())?;
            let named = named_folder(data_dir.as_deref()).is_some();
            unless_stopped(&stop, move || fetched(&folder).map_err(|error| with_way_out(error, named)))?
        }
        DataCommand::Verify { data_dir } => {
            let folder = folder_or_cache(data_dir.as_deref())?;
            let Some(reports) = unless_stopped(&stop, move || verify(&folder, &LoadingDisplay::default()))?
            else {
                return Ok(End::Interrupted);
            };
            let mut table = format!("{:<24} {:>8} {:>12}  SHA-256", "file", "records", "bytes");
            for report in &reports {
                let name = report.path.file_name().unwrap_or_default().to_string_lossy();
                let records = report.records.map_or_else(String::new, |records| records.to_string());
                write!(table, "\n{name:<24} {records:>8} {:>12}  {}", report.bytes, report.sha256)?;
            }
            print(&table)?;
            let problems: Vec<&str> = reports.iter().filter_map(|report| report.problem.as_deref()).collect();
            if !problems.is_empty() {
                bail!("{}", problems.join("; "));
            }
            Some("every file is whole and valid".to_owned())
        }
        DataCommand::Stats(source) => {
            let dataset = load_dataset(&Images::from_args(&source), None, None, false, &stop)?;
            dataset.map(|dataset| describe(&dataset)).transpose()?
        }
    }) else {
        return Ok(End::Interrupted);
    };
    print(&text)?;
    Ok(End::Done)
}

/// Fetches CIFAR-10, and tells where it is. What is there already, in any layout that we read, is not fetched again.
fn fetched(folder: &Path) -> Result<String, Error> {
    let display = LoadingDisplay::default();
    if let Some(source) = find_whole(folder, &display)? {
        return Ok(format!("CIFAR-10 is there: {source}"));
    }
    let place = fetch(folder, &default_addresses(), &display)?;
    Ok(format!("CIFAR-10 is now in {}", place.display()))
}

/// What `work` gives, or `None` once `stop` is set: then `work`, which may be waiting for a server that says nothing, is left to
/// itself, and ends with the process.
fn unless_stopped<T, E>(
    stop: &AtomicBool,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> anyhow::Result<Option<T>>
where
    T: Send + 'static,
    E: Into<anyhow::Error> + Send + 'static,
{
    /// Between looks at `stop`.
    const PERIOD: Duration = Duration::from_millis(20);

    let (sender, receiver) = mpsc::channel();
    let worker = thread::Builder::new().name("data".to_owned()).spawn(move || {
        // After a stop nobody listens any more.
        let _ = sender.send(work());
    });
    let worker = worker.map_err(|cause| anyhow!("no thread can be started to load the images: {cause}"))?;
    loop {
        match receiver.recv_timeout(PERIOD) {
            Ok(result) => return result.map(Some).map_err(Into::into),
            Err(RecvTimeoutError::Timeout) if stop.load(Ordering::Relaxed) => {
                LoadingDisplay::default().note("interrupted before the images were there");
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

/// Which images: the part of a configuration that says so.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Images {
    pub(crate) kind: DataKind,
    pub(crate) folder: Option<PathBuf>,
    pub(crate) seed: u64,
}

/// Seed of the synthetic images unless given: the same images for every seed of a run.
pub(crate) const DATA_SEED: u64 = 42;

impl Images {
    pub(crate) fn from_args(source: &DataSource) -> Self {
        Self {
            kind: source.data.unwrap_or(DataKind::Cifar10),
            folder: named_folder(source.data_dir.as_deref()),
            seed: source.data_seed.unwrap_or(DATA_SEED),
        }
    }
}

/// Loads images, unless `stop` is set before they are there; `limit_train` and `limit_test` only save the drawing of synthetic ones
/// that will not be used.
pub(crate) fn load_dataset(
    images: &Images,
    limit_train: Option<u32>,
    limit_test: Option<u32>,
    quiet: bool,
    stop: &AtomicBool,
) -> anyhow::Result<Option<Dataset>> {
    let source = match (images.kind, &images.folder) {
        (DataKind::Cifar10, Some(folder)) => Source::Directory(folder.clone()),
        (DataKind::Cifar10, None) => Source::Cifar10 { cache: cache()?, addresses: default_addresses() },
        (DataKind::Huggingface, _) => Source::HuggingFace { dataset: "uoft-cs/cifar10".to_owned() },
        (DataKind::Synthetic, _) => Source::Synthetic {
            seed: images.seed,
            train: limit_train.map_or(SYNTHETIC_TRAIN, |limit| limit as usize),
            test: limit_test.map_or(SYNTHETIC_TEST, |limit| limit as usize),
        },
    };
    let folder = images.folder.clone();
    unless_stopped(stop, move || {
        let progress: &dyn Progress = if quiet { &NoProgress } else { &LoadingDisplay::default() };
        load(&source, progress).map_err(|error| match &folder {
            Some(folder) if error.is_fetchable() => {
                // Into a file nothing can be fetched.
                let place = if folder.is_file() { String::new() } else { format!(" --data-dir {}", folder.display()) };
                anyhow!(
                    "{error}; fetch it with `trainer data fetch{place}`, name another folder with --data-dir, or use \
                     --data synthetic"
                )
            }
            folder => with_way_out(error, folder.is_some()),
        })
    })
}

/// Adds how to name another folder where images cannot be written to this one.
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
    let (train, test) = (without_images(&found.train_classes), without_images(&found.test_classes));
    let source = &dataset.source;
    if train.len() + 1 >= CLASSES {
        bail!(
            "the training images of {source} are all of one class, so that nothing can be learnt: add other classes"
        );
    }
    if CLASS_NAMES.iter().all(|name| train.contains(name) || test.contains(name)) {
        bail!(
            "no class of {source} has both training and test images: give both sets images of the same classes"
        );
    }
    warn_of_classes(source, "training", &train);
    warn_of_classes(source, "test", &test);
    Ok(())
}

/// Warns of classes without images in the set (`training` or `test`) of which there are so many images of each class.
pub(crate) fn check_classes_of(source: &str, set: &str, counts: &[u64; CLASSES]) {
    warn_of_classes(source, set, &without_images(counts));
}

fn warn_of_classes(source: &str, set: &str, without: &[&str]) {
    if !without.is_empty() {
        let names = without.join(", ");
        LoadingDisplay::default().note(&format!(
            "warning: {source} has no {set} images of {names}: the accuracy says nothing about them"
        ));
    }
}

fn without_images(counts: &[u64; CLASSES]) -> Vec<&'static str> {
    CLASS_NAMES.into_iter().zip(counts).filter(|(_, count)| **count == 0).map(|(name, _)| name).collect()
}

/// The folder that the command line names, or else the variable `CIFAR10_DIR`, where an empty one names none.
pub(crate) fn named_folder(folder: Option<&Path>) -> Option<PathBuf> {
    let variable = || std::env::var_os("CIFAR10_DIR").filter(|value| !value.is_empty()).map(PathBuf::from);
    folder.map(Path::to_owned).or_else(variable)
}

fn folder_or_cache(folder: Option<&Path>) -> anyhow::Result<PathBuf> {
    named_folder(folder).map_or_else(cache, Ok)
}

/// `pointwise/cifar10` in the user's cache folder.
fn cache() -> anyhow::Result<PathBuf> {
    // The variable will do without a home folder, which etcetera asks for first.
    let variable = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(base) = variable.filter(|_| cfg!(unix)) {
        return Ok(base.join("pointwise").join("cifar10"));
    }
    let base = etcetera::choose_base_strategy().map_err(|_| {
        anyhow!(
            "the home folder, in which images would be kept, is not known: say with --data-dir where the images are, or set \
             XDG_CACHE_HOME to a folder for them"
        )
    })?;
    Ok(base.cache_dir().join("pointwise").join("cifar10"))
}

fn describe(dataset: &Dataset) -> anyhow::Result<String> {
    let found = statistics(dataset);
    let mut text = String::new();
    writeln!(text, "source       {}", dataset.source)?;
    writeln!(text, "fingerprint  {}", dataset.fingerprint())?;
    writeln!(text, "images       {} train, {} test", dataset.train.len(), dataset.test.len())?;
    for (channel, name) in ["red", "green", "blue"].iter().enumerate() {
        writeln!(
            text,
            "{name:<12} mean {:.5}, standard deviation {:.5}",
            found.mean[channel], found.std[channel]
        )?;
    }
    write!(text, "{:<12} {:>6} {:>6}", "class", "train", "test")?;
    for (class, name) in CLASS_NAMES.iter().enumerate() {
        write!(text, "\n{name:<12} {:>6} {:>6}", found.train_classes[class], found.test_classes[class])?;
    }
    Ok(text)
}
