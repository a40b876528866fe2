//! A made-up run, shared by unit tests and by `tests/runner.rs`.

use pointwise_runs::{Environment, EpochRecord, Record, Run, RunConfig, RunResult};
use pointwise_study::{Metric, Study};

/// A finished run of the published experiment that took `seconds`.
pub(crate) fn run(model: &str, seed: u64, seconds: f64) -> Run {
    let study = Study::by_name("pointwise").expect("the published study");
    let arm = study.arm(model).expect("a network of the study");
    let published = |metric, epoch| arm.published.figure(metric, epoch).expect("a published figure").value;
    // Seeds 42, 43, 44 spread around the published figures.
    let offset = (seed as f64 - 43.0) / 200.0;
    let (loss, acc) =
        (published(Metric::TestLoss, None) + offset, published(Metric::TestAcc, None) / 100.0 + offset);
    let epochs = (1..=study.recipe.epochs).map(|number| {
        let published = |metric| published(metric, Some(number));
        Record::Epoch(EpochRecord {
            epoch: number,
            step: u64::from(number),
            train_loss: published(Metric::TrainLoss),
            train_acc: published(Metric::TrainAcc) / 100.0,
            test_loss: Some(published(Metric::TestLoss)),
            test_acc: Some(published(Metric::TestAcc) / 100.0),
            val_loss: None,
            val_acc: None,
            ema_loss: None,
            ema_acc: None,
            best_acc: acc,
            best_epoch: 10,
            train_seconds: seconds / 10.0,
            eval_seconds: 0.0,
            seconds: seconds / 10.0 * f64::from(number),
        })
    });
    Run {
        path: format!("{model}-seed{seed}").into(),
        config: RunConfig { seed, ..RunConfig::new(model, study.recipe.clone()) },
        environment: Environment {
            pointwise: "0.1.0".into(),
            candle: None,
            rustc: None,
            commit: None,
            processor: "a processor".into(),
            accelerator: None,
            cores: 2,
            threads: 2,
            os: "linux".into(),
            started: "2026-01-01T00:00:00Z".into(),
            data_source: "CIFAR-10".into(),
            data_fingerprint: "f00d".into(),
            data_synthetic: false,
            train_images: 50_000,
            validation_images: 0,
            test_images: 10_000,
            parameters: arm.published.parameters.expect("a published count"),
            macs_per_image: 1,
        },
        records: epochs.collect(),
        progress: None,
        result: Some(RunResult {
            final_loss: loss,
            final_acc: acc,
            best_acc: acc,
            best_epoch: 10,
            best_test_acc: Some(acc),
            best_test_loss: Some(loss),
            ema_test_acc: None,
            ema_test_loss: None,
            tta_test_acc: None,
            tta_test_loss: None,
            stopped_early: false,
            epochs: study.recipe.epochs,
            steps: 10,
            seconds,
            train_seconds: seconds,
            eval_seconds: 0.0,
            peak_memory_bytes: None,
        }),
    }
}
