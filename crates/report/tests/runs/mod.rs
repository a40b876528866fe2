//! Made-up runs of the published experiment.

use std::sync::LazyLock;

use pointwise_report::NetworkFacts;
use pointwise_runs::{Environment, EpochRecord, Record, Run, RunConfig, RunResult};
use pointwise_study::{Arm, Metric, Study};

static STUDY: LazyLock<Study> = LazyLock::new(|| Study::by_name("pointwise").expect("the published study"));

pub(crate) fn study() -> Study {
    STUDY.clone()
}

pub(crate) fn facts_of(study: &Study) -> Vec<NetworkFacts> {
    let facts = |arm: &Arm| {
        let graph = arm.network.graph().expect("a network");
        NetworkFacts {
            model: arm.name.clone(),
            parameters: graph.parameter_count() as u64,
            macs: graph.macs() as u64,
            layers: Vec::new(),
        }
    };
    study.arms.iter().map(facts).collect()
}

/// A run of the published experiment that found the published figures, moved by `offset` points of accuracy and hundredths of
/// loss.
pub(crate) fn run(model: &str, seed: u64, offset: f64) -> Run {
    run_of(STUDY.arm(model).expect("a network"), seed, offset)
}

/// Of a network with published curves.
fn run_of(arm: &Arm, seed: u64, offset: f64) -> Run {
    let published = |metric, epoch| arm.published.figure(metric, epoch).expect("a figure").value;
    let (acc, loss) = (offset / 100.0, offset / 100.0);
    let final_acc = published(Metric::TestAcc, None) / 100.0 + acc;
    let final_loss = published(Metric::TestLoss, None) + loss;
    let epochs = (1..=10).map(|number| {
        let published = |metric| published(metric, Some(number));
        Record::Epoch(EpochRecord {
            epoch: number,
            step: 397 * u64::from(number),
            train_loss: published(Metric::TrainLoss),
            train_acc: published(Metric::TrainAcc) / 100.0,
            test_loss: Some(published(Metric::TestLoss) + loss),
            test_acc: Some(published(Metric::TestAcc) / 100.0 + acc),
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
        path: format!("somewhere/{}-seed{seed}", arm.name).into(),
        config: RunConfig { seed, data_seed: 0, ..RunConfig::new(&arm.name, arm.recipe.clone()) },
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
            parameters: arm.published.parameters.expect("a published count"),
            macs_per_image: 1_234_567,
        },
        records: epochs.collect(),
        progress: None,
        result: Some(RunResult {
            final_loss,
            final_acc,
            best_acc: final_acc + 0.005,
            best_epoch: 8,
            best_test_acc: None,
            best_test_loss: None,
            ema_test_acc: None,
            ema_test_loss: None,
            tta_test_acc: None,
            tta_test_loss: None,
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
