//! The environment of a run.

use pointwise_data::Dataset;
use pointwise_engine::{DeviceName, accelerator};
use pointwise_network::Network;
use pointwise_runs::{Environment, operating_system, processor_name, timestamp};
use pointwise_training::Splits;

/// Describes this build, this machine and the data. `fingerprint` is the whole dataset's.
pub(crate) fn describe(
    network: &Network,
    device: DeviceName,
    dataset: &DataDescription,
    splits: &Splits,
) -> anyhow::Result<Environment> {
    let graph = network.graph()?;
    Ok(Environment {
        pointwise: env!("CARGO_PKG_VERSION").to_owned(),
        candle: option_env!("POINTWISE_CANDLE").map(str::to_owned),
        rustc: option_env!("POINTWISE_RUSTC").map(str::to_owned),
        commit: option_env!("POINTWISE_COMMIT").map(str::to_owned),
        processor: processor_name(),
        accelerator: accelerator(device),
        cores: std::thread::available_parallelism().map_or(1, usize::from) as u32,
        threads: rayon::current_num_threads() as u32,
        os: operating_system(),
        started: timestamp(),
        data_source: dataset.source.clone(),
        data_fingerprint: dataset.fingerprint.clone(),
        data_synthetic: dataset.synthetic,
        train_images: splits.train.len() as u32,
        validation_images: splits.validation.as_ref().map_or(0, |images| images.len()) as u32,
        test_images: splits.test.len() as u32,
        parameters: graph.parameter_count() as u64,
        macs_per_image: graph.macs() as u64,
    })
}

/// What is kept of a dataset once its images are in the splits.
#[derive(Debug, Clone)]
pub(crate) struct DataDescription {
    source: String,
    pub(crate) fingerprint: String,
    synthetic: bool,
}

impl From<&Dataset> for DataDescription {
    fn from(dataset: &Dataset) -> Self {
        Self {
            source: dataset.source.clone(),
            fingerprint: dataset.fingerprint(),
            synthetic: dataset.synthetic,
        }
    }
}
