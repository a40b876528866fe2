//! `trainer data`, and where the other commands get their images from.

use crate::args::{DataArgs, DataCommand, DataKind, DataSource};
use crate::display::LoadingDisplay;
use crate::print;
use anyhow::{Context, anyhow, bail};
use etcetera::BaseStrategy;
use pointwise_data::{
    CLASS_NAMES, Dataset, Error, Progress, Source, default_addresses, fetch, load, statistics, verify,
};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Size of the synthetic dataset unless limited: as CIFAR-10's.
const SYNTHETIC_TRAIN: usize = 50_000;
const SYNTHETIC_TEST: usize = 10_000;

pub(crate) fn run(args: &DataArgs) -> anyhow::Result<()> {
    let display = LoadingDisplay::default();
    match &args.command {
        DataCommand::Fetch { data_dir } => {
            let folder = folder_or_cache(data_dir.as_deref())?;
            // What is there already, in any layout that we read, is not fetched again.
            match load(&Source::Directory(folder.clone()), &display) {
                Ok(dataset) => Ok(print(&format!("CIFAR-10 is there: {}", dataset.source))?),
                Err(Error::NotFound { .. } | Error::NoSuchPath { .. }) => {
                    let place = fetch(&folder, &default_addresses(), &display)?;
                    Ok(print(&format!("CIFAR-10 is now in {}", place.display()))?)
                }
                Err(error) => Err(error.into()),
            }
        }
        DataCommand::Verify { data_dir } => {
            let folder = folder_or_cache(data_dir.as_deref())?;
            let reports = verify(&folder, &display)?;
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
            Ok(print("every file is whole and valid")?)
        }
        DataCommand::Stats(source) => {
            let dataset = load_dataset(&Images::from_args(source), None, None, &display)?;
            Ok(print(&describe(&dataset)?)?)
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

/// Loads images; `limit_train` and `limit_test` only save the drawing of synthetic ones that will not be used.
pub(crate) fn load_dataset(
    images: &Images,
    limit_train: Option<u32>,
    limit_test: Option<u32>,
    progress: &dyn Progress,
) -> anyhow::Result<Dataset> {
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
    load(&source, progress).map_err(|error| match error {
        Error::NotFound { .. } | Error::NoSuchPath { .. } => anyhow!(
            "{error}; name a folder that holds it with --data-dir, download it with `trainer data fetch`, or use --data synthetic"
        ),
        error => error.into(),
    })
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
    let base = etcetera::choose_base_strategy()
        .context("the home folder is not known; say with --data-dir where the data is")?;
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
