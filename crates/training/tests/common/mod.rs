//! A run folder whose environment is made up.

use pointwise_engine::Engine;
use pointwise_runs::{Environment, RunConfig, RunFolder, timestamp};
use pointwise_training::{ResumePoint, Splits, TrainingError};
use std::path::Path;

/// The run of a folder and where it stands, or a new one.
pub(crate) fn resume_or_create(
    folder: &Path,
    config: &RunConfig,
    splits: &Splits,
    engine: &mut dyn Engine,
) -> Result<(RunFolder, Option<ResumePoint>), TrainingError> {
    if pointwise_runs::holds_run(folder) {
        let (run, _) = RunFolder::resume(folder)?;
        let from = ResumePoint::load(&run, config, splits, engine)?;
        return Ok((run, from));
    }
    let environment = Environment {
        pointwise: "0.1.0".into(),
        candle: None,
        rustc: None,
        commit: None,
        processor: "a processor".into(),
        accelerator: None,
        cores: 2,
        threads: 2,
        os: "linux x86_64".into(),
        started: timestamp(),
        data_source: "synthetic".into(),
        data_fingerprint: "ab".into(),
        data_synthetic: true,
        train_images: splits.train.len() as u32,
        validation_images: 0,
        test_images: splits.test.len() as u32,
        parameters: 18,
        macs_per_image: 1,
    };
    Ok((RunFolder::create(folder, config, &environment)?, None))
}
