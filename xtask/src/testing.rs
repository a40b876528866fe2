//! A made-up run, shared by unit tests and by `tests/reproduce.rs`.

use pointwise_runs::{Environment, EpochRecord, Record, Run, RunConfig, RunResult};

/// A finished run of the published experiment that took `seconds`.
pub(crate) fn run(model: &str, seed: u64, seconds: f64) -> Run {
    let published = pointwise_report::Published::load().expect("the published figures");
    let network = published.network(model).expect("a network of the study");
    // Seeds 42, 43, 44 spread around the published figures.
    let offset = (seed as f64 - 43.0) / 200.0;
    let (loss, acc) = (network.final_loss + offset, network.final_acc / 100.0 + offset);
    let epochs = network.epochs.iter().zip(1..).map(|(epoch, number)| {
        Record::Epoch(EpochRecord {
            epoch: number,
            step: u64::from(number),
            train_loss: epoch.train_loss,
            train_acc: epoch.train_acc / 100.0,
            test_loss: Some(epoch.test_loss),
            test_acc: Some(epoch.test_acc / 100.0),
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
        config: RunConfig { seed, recipe: published.recipe.clone(), ..RunConfig::new(model) },
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
            train_images: published.train_images,
            validation_images: 0,
            test_images: published.test_images,
            parameters: network.parameters,
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
            stopped_early: false,
            epochs: published.recipe.epochs,
            steps: 10,
            seconds,
            train_seconds: seconds,
            eval_seconds: 0.0,
            peak_memory_bytes: None,
        }),
    }
}
