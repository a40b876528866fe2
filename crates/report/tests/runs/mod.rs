//! Made-up runs of the published experiment.

use pointwise_report::{NetworkFacts, Published};
use pointwise_runs::{Environment, EpochRecord, Record, Run, RunConfig, RunResult};

pub(crate) fn published() -> Published {
    Published::load().expect("the figures built in")
}

pub(crate) fn facts() -> Vec<NetworkFacts> {
    let facts = |network: &pointwise_report::PublishedNetwork| NetworkFacts {
        model: network.name.clone(),
        parameters: network.parameters,
        macs: 1_234_567,
        layers: Vec::new(),
    };
    published().networks.iter().map(facts).collect()
}

/// A run of the published experiment that found the published figures, moved by `offset` points of accuracy and hundredths of
/// loss.
pub(crate) fn run(model: &str, seed: u64, offset: f64) -> Run {
    let published = published();
    let network = published.network(model).expect("a network");
    let (acc, loss) = (offset / 100.0, offset / 100.0);
    let epochs = network.epochs.iter().zip(1..).map(|(epoch, number)| {
        Record::Epoch(EpochRecord {
            epoch: number,
            step: 397 * u64::from(number),
            train_loss: epoch.train_loss,
            train_acc: epoch.train_acc / 100.0,
            test_loss: Some(epoch.test_loss + loss),
            test_acc: Some(epoch.test_acc / 100.0 + acc),
            val_loss: None,
            val_acc: None,
            ema_loss: None,
            ema_acc: None,
            best_acc: 0.9,
            best_epoch: 10,
            train_seconds: 50.0,
            eval_seconds: 10.0,
            seconds: 60.0 * f64::from(number),
        })
    });
    Run {
        path: format!("somewhere/{model}-seed{seed}").into(),
        config: RunConfig { seed, data_seed: 0, ..RunConfig::new(model) },
        environment: Environment {
            pointwise: "0.1.0".into(),
            candle: None,
            rustc: None,
            commit: Some("0123456789abcdef".into()),
            processor: "a processor".into(),
            accelerator: None,
            cores: 2,
            threads: 2,
            os: "linux x86_64".into(),
            started: "2026-01-01T00:00:00Z".into(),
            data_source: "CIFAR-10".into(),
            data_fingerprint: "f00d".into(),
            data_synthetic: false,
            train_images: 50_000,
            validation_images: 0,
            test_images: 10_000,
            parameters: network.parameters,
            macs_per_image: 1_234_567,
        },
        records: epochs.collect(),
        progress: None,
        result: Some(RunResult {
            final_loss: network.final_loss + loss,
            final_acc: network.final_acc / 100.0 + acc,
            best_acc: network.final_acc / 100.0 + acc + 0.005,
            best_epoch: 8,
            best_test_acc: None,
            best_test_loss: None,
            ema_test_acc: None,
            ema_test_loss: None,
            stopped_early: false,
            epochs: 10,
            steps: 3970,
            seconds: 610.0,
            train_seconds: 500.0,
            eval_seconds: 100.0,
            peak_memory_bytes: Some(1 << 30),
        }),
    }
}
