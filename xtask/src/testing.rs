//! A made-up run, shared by unit tests and by `tests/reproduce.rs`.

use pointwise_runs::{Environment, EpochRecord, Record, Run, RunConfig, RunResult};

/// A finished run of the published experiment that took `seconds`.
pub(crate) fn run(model: &str, seed: u64, seconds: f64) -> Run {
    let published = pointwise_report::Published::load().expect("the published figures");
    let network = published.network(model).expect("a network of the study");
    let recipe = &published.recipe;
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
            best_acc: acc,
            best_epoch: 10,
            train_seconds: seconds / 10.0,
            eval_seconds: 0.0,
            seconds: seconds / 10.0 * f64::from(number),
        })
    });
    Run {
        path: format!("{model}-seed{seed}").into(),
        config: RunConfig {
            model: model.into(),
            engine: "cpu".into(),
            device: "cpu".into(),
            precision: "f32".into(),
            deterministic: false,
            data: "cifar10".into(),
            data_dir: None,
            data_seed: 42,
            epochs: recipe.epochs,
            batch_size: recipe.batch_size,
            lr: recipe.lr,
            weight_decay: recipe.weight_decay,
            dropout: recipe.dropout,
            seed,
            val_split: 0,
            augment: recipe.augment.clone(),
            shuffle: recipe.shuffle,
            init: None,
            init_sha256: None,
            limit_train: None,
            limit_test: None,
            max_steps: None,
            threads: None,
            log_every: 10,
            checkpoint_every: None,
            network: None,
        },
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
            train_images: recipe.train_images,
            validation_images: 0,
            test_images: recipe.test_images,
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
            epochs: recipe.epochs,
            steps: 10,
            seconds,
            train_seconds: seconds,
            eval_seconds: 0.0,
            peak_memory_bytes: None,
        }),
    }
}
