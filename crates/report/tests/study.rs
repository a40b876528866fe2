//! Studies of made-up runs: what is concluded, what is refused, what is said.

use pointwise_report::{Error, NetworkFacts, Published, SpreadSource, Study, Verdict};
use pointwise_runs::{Environment, EpochRecord, Record, Run, RunConfig, RunResult};

fn published() -> Published {
    Published::load().expect("the figures built in")
}

fn facts() -> Vec<NetworkFacts> {
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
fn run(model: &str, seed: u64, offset: f64) -> Run {
    let published = published();
    let network = published.networks.iter().find(|network| network.name == model).expect("a network");
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
            best_acc: 0.9,
            best_epoch: 10,
            train_seconds: 50.0,
            eval_seconds: 10.0,
            seconds: 60.0 * f64::from(number),
        })
    });
    Run {
        path: format!("somewhere/{model}-seed{seed}").into(),
        config: RunConfig {
            model: model.into(),
            engine: "cpu".into(),
            device: "cpu".into(),
            precision: "f32".into(),
            deterministic: false,
            data: "cifar10".into(),
            data_dir: None,
            data_seed: 0,
            epochs: 10,
            batch_size: 126,
            lr: 0.001,
            weight_decay: 5e-4,
            dropout: 0.5,
            seed,
            val_split: 0,
            augment: "crop-flip".into(),
            shuffle: true,
            init: None,
            init_sha256: None,
            limit_train: None,
            limit_test: None,
            max_steps: None,
            threads: None,
            log_every: 50,
            checkpoint_every: None,
        },
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
            epochs: 10,
            steps: 3970,
            seconds: 610.0,
            train_seconds: 500.0,
            eval_seconds: 100.0,
            peak_memory_bytes: Some(1 << 30),
        }),
    }
}

/// Three seeds of each network, each moved by `shift` and spread by 0.5 around that.
fn runs(shift: f64) -> Vec<Run> {
    let mut runs = Vec::new();
    for model in ["nin", "alexnet", "alexnet_plain"] {
        for (seed, offset) in [(44, 0.5), (42, -0.5), (43, 0.0)] {
            runs.push(run(model, seed, shift + offset));
        }
    }
    runs
}

fn change(mut runs: Vec<Run>, change: impl Fn(&mut Run)) -> Vec<Run> {
    runs.iter_mut().for_each(change);
    runs
}

#[test]
fn the_published_figures_reproduce_themselves() {
    let study = Study::new(&runs(0.1), &facts()).unwrap();
    assert_eq!(study.verdict, Verdict::Reproduced);
    assert!(study.counts_as_published && study.headline().starts_with("Reproduced: "));
    let nin = &study.networks[2];
    assert_eq!((nin.name.as_str(), nin.seeds.as_slice()), ("nin", [42, 43, 44].as_slice()));
    let figure = nin.accuracy.as_ref().unwrap();
    let comparison = figure.comparison.as_ref().unwrap();
    assert!((figure.ours.deviation.unwrap() - 0.005).abs() < 1e-12);
    assert!((comparison.difference - 0.001).abs() < 1e-12);
    assert_eq!(comparison.spread_from, SpreadSource::Seeds);
    // Half a point, t = 4.303 for two degrees of freedom, three seeds.
    let half = 0.005 * 4.303 * (4.0_f64 / 3.0).sqrt();
    assert!((comparison.high - figure.ours.mean - half).abs() < 1e-9);
    assert!((nin.selection_gap.as_ref().unwrap().mean - 0.005).abs() < 1e-12);
    assert_eq!(nin.seconds_per_epoch, Some(60.0));
    assert_eq!(nin.curve.len(), 10);
}

#[test]
fn a_figure_outside_of_the_interval_is_named() {
    // The interval reaches 2.48 points either side: 0.5 * 4.303 * sqrt(4/3).
    for (shift, reproduced) in [(2.45, true), (2.52, false), (-2.52, false)] {
        let verdict = Study::new(&runs(shift), &facts()).unwrap().verdict;
        assert_eq!(verdict == Verdict::Reproduced, reproduced, "{shift}: {verdict:?}");
    }
    let mut runs = runs(0.0);
    for run in runs.iter_mut().filter(|run| run.config.model == "nin") {
        run.result.as_mut().unwrap().final_loss += 1.0;
    }
    let headline = Study::new(&runs, &facts()).unwrap().headline();
    assert!(
        headline.starts_with("Different: the published test loss of nin (0.7516) lies outside"),
        "{headline}"
    );
    assert!(!headline.contains("accuracy") && !headline.contains("alexnet"), "{headline}");
}

#[test]
fn another_count_is_a_difference_whatever_was_trained() {
    let mut facts = facts();
    facts[0].parameters += 1;
    let runs = change(runs(0.0), |run| {
        if run.config.model == "alexnet_plain" {
            run.environment.parameters += 1;
        }
    });
    let study = Study::new(&runs, &facts).unwrap();
    assert!(!study.counts_as_published);
    let headline = study.headline();
    assert!(
        headline.contains("alexnet_plain has 6,979,147 parameters, not the published 6,979,146"),
        "{headline}"
    );
}

#[test]
fn one_seed_borrows_its_spread_and_the_text_says_so() {
    let runs: Vec<Run> = ["alexnet_plain", "alexnet", "nin"].map(|model| run(model, 42, 0.3)).into();
    let study = Study::new(&runs, &facts()).unwrap();
    assert_eq!(study.verdict, Verdict::Reproduced);
    let comparison = study.networks[2].accuracy.as_ref().unwrap().comparison.as_ref().unwrap();
    assert_eq!((comparison.spread_from, comparison.degrees_of_freedom), (SpreadSource::PublishedCurve, 4));
    // nin's last six: 65.69 68.04 69.52 65.16 67.89 74.27; least squares by hand in Python.
    assert!((100.0 * comparison.spread - 2.881_47).abs() < 1e-4, "{}", comparison.spread);
    assert!(study.headline().contains("too few seeds"));
    let text = study.to_markdown();
    assert!(text.contains("**not from our runs**") && !text.contains("Spread *seeds*"), "{text}");
}

#[test]
fn what_is_not_the_published_experiment_is_not_comparable() {
    type Change = fn(&mut Run);
    let cases: [(Change, &str); 12] = [
        (|run| run.config.batch_size = 64, "batch-size 64 instead of 126"),
        (|run| run.config.lr = 0.0005, "lr 0.0005 instead of 0.001"),
        (|run| run.config.weight_decay = 0.0, "weight-decay 0 instead of 0.0005"),
        (|run| run.config.dropout = 0.0, "dropout 0 instead of 0.5"),
        (|run| run.config.augment = "none".into(), "augment none instead of crop-flip"),
        (|run| run.config.shuffle = false, "shuffle false instead of true"),
        (|run| run.config.val_split = 5000, "val-split 5000 instead of 0"),
        (|run| run.config.init_sha256 = Some("ab".into()), "training started from given parameters"),
        (|run| run.environment.train_images = 504, "504 training images instead of 50,000"),
        (|run| run.environment.test_images = 252, "252 test images instead of 10,000"),
        (|run| run.environment.data_synthetic = true, "the images are synthetic"),
        (
            |run| {
                run.config.epochs = 2;
                run.result.as_mut().unwrap().epochs = 2;
            },
            "epochs 2 instead of 10",
        ),
    ];
    for (how, expected) in cases {
        let study = Study::new(&change(runs(0.0), how), &facts()).unwrap();
        let Verdict::NotComparable { reason } = &study.verdict else {
            panic!("{expected}: {:?}", study.verdict)
        };
        assert_eq!(reason, expected);
        assert!(study.networks.iter().all(|network| network.accuracy.as_ref().unwrap().comparison.is_none()));
        assert!(study.counts_as_published, "counts do not depend on training");
    }
}

#[test]
fn missing_and_unfinished_runs_leave_the_rest_compared() {
    let mut some: Vec<Run> = runs(0.0).into_iter().filter(|run| run.config.model != "nin").collect();
    some[0].result = None;
    some[1].result.as_mut().unwrap().epochs = 9;
    let study = Study::new(&some, &facts()).unwrap();
    let Verdict::NotComparable { reason } = &study.verdict else { panic!("{:?}", study.verdict) };
    for part in ["no complete run of nin", "alexnet-seed44 is not complete", "alexnet-seed42 is not complete"]
    {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    assert_eq!(study.networks[1].seeds, [43], "only the complete one counts");
    assert!(study.networks[0].accuracy.as_ref().unwrap().comparison.is_some());
    assert!(study.networks[2].accuracy.is_none() && study.networks[2].curve.is_empty());
    assert_eq!(study.claims[0].ours, study.claims[1].ours.map(|_| 1.0 - 1_485_386.0 / 2_256_458.0));
    assert_eq!(study.claims[3].ours, None, "no accuracy of nin");
    study.to_markdown();
}

#[test]
fn runs_that_are_not_of_one_study_are_refused() {
    let of = |how: fn(&mut Run)| {
        let mut runs = runs(0.0);
        how(&mut runs[4]);
        Study::new(&runs, &facts()).unwrap_err()
    };
    let error = of(|run| run.environment.data_fingerprint = "beef".into());
    assert!(matches!(error, Error::MixedData { .. }), "{error}");
    let error = of(|run| run.config.lr = 0.002).to_string();
    assert!(error.contains("alexnet-seed42") && error.contains("lr is 0.001 and 0.002"), "{error}");
    let error = of(|run| run.config.seed = 43);
    assert!(matches!(error, Error::SameSeed { .. }), "{error}");
    let error = of(|run| run.environment.parameters = 7);
    assert!(matches!(error, Error::OtherNetwork { found: 7, expected: 2_256_458, .. }), "{error}");
    let error = of(|run| run.config.model = "vgg".into());
    assert!(matches!(error, Error::UnknownNetwork { .. }), "{error}");
    assert!(matches!(Study::new(&[], &facts()), Err(Error::NoRuns)));
    // Another engine computes the same numbers.
    Study::new(&change(runs(0.0), |run| run.config.engine = format!("e{}", run.config.seed)), &facts())
        .unwrap();
}

#[test]
fn synthetic_accuracies_stand_alone() {
    let study =
        Study::new(&change(runs(0.0), |run| run.environment.data_synthetic = true), &facts()).unwrap();
    let text = study.to_markdown();
    assert_eq!(
        study.headline(),
        "The parameter counts and their ratios are as published; the accuracies are of synthetic images, say nothing about \
         CIFAR-10 and are not compared."
    );
    for absent in ["pub.", "95 %", "+2.56"] {
        assert!(!text.contains(absent), "{absent} in\n{text}");
    }
    for present in ["34.2 %", "4.70x", "1,485,386", "**synthetic**"] {
        assert!(text.contains(present), "{present} not in\n{text}");
    }
    assert!(study.claims[2].ours.is_none() && study.claims[0].ours.is_some());
}

#[test]
fn the_report_is_written_and_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let study = Study::new(&runs(0.1), &facts()).unwrap();
    study.write(folder.path()).unwrap();
    let json = std::fs::read_to_string(folder.path().join("study.json")).unwrap();
    assert_eq!(serde_json::from_str::<Study>(&json).unwrap(), study);
    let text = std::fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert_eq!(text, study.to_markdown());
    assert!(!text.contains("somewhere/"), "no paths of this machine");
    for line in [
        "| nin           | 1,485,386 | 1,485,386 | yes   |",
        "| nin           |     3 | 74.37 ± 0.50 |     74.27 |      +0.10 | 71.89 to 76.85 | yes              | seeds  |",
        "| nin           |     3 | 0.7526 ± 0.0050 |    0.7516 |    +0.0010 | 0.7278 to 0.7774 | yes              | seeds  |",
    ] {
        assert!(text.contains(line), "{line} not in\n{text}");
    }
    assert!(study.to_table().contains("74.37 ± 0.50"), "{}", study.to_table());
    // Every table is aligned: all lines of a table are equally long.
    for block in text.split("\n\n").filter(|block| block.starts_with('|')) {
        let widths: Vec<usize> = block.lines().map(|line| line.chars().count()).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{block}");
    }
}

#[test]
fn networks_that_nobody_published_stand_beside_each_other_without_a_verdict() {
    let relabelled = change(runs(0.1), |run| {
        if run.config.model == "alexnet_plain" {
            run.config.model = "nin-r2".into();
            run.environment.parameters = 1_037_962;
        }
    });
    let facts: Vec<NetworkFacts> =
        [("nin-r2", 1_037_962), ("nin", 1_485_386), ("alexnet", 2_256_458), ("nin-r4", 7)]
            .map(|(model, parameters)| NetworkFacts {
                model: model.into(),
                parameters,
                macs: 122_665_472,
                layers: Vec::new(),
            })
            .into();
    let study = Study::ablation(&relabelled, &facts).unwrap();
    assert_eq!(study.verdict, Verdict::NotJudged);
    assert_eq!(study.headline(), "4 networks beside each other, 9 runs; there is no verdict.");
    let names: Vec<&str> = study.networks.iter().map(|network| network.name.as_str()).collect();
    assert_eq!(names, ["nin-r2", "nin", "alexnet", "nin-r4"], "in the order of the facts");
    let [r2, nin] = [0, 1].map(|index: usize| study.networks[index].accuracy.as_ref().unwrap());
    assert_eq!((r2.published, nin.published), (None, Some(74.27 / 100.0)));
    assert!(r2.comparison.is_none() && nin.comparison.is_none() && study.claims.is_empty());
    assert_eq!((study.networks[0].published_parameters, study.networks[3].seeds.len()), (None, 0));

    let folder = tempfile::tempdir().unwrap();
    study.write(folder.path()).unwrap();
    let json = std::fs::read_to_string(folder.path().join("study.json")).unwrap();
    assert_eq!(serde_json::from_str::<Study>(&json).unwrap(), study);
    let text = study.to_markdown();
    // The runs have the accuracies of alexnet_plain, moved.
    let row = "| nin-r2  |     3 |    78.68 ± 0.50 | 0.6434 ± 0.0050 |  1,037,962 |    122,665,472 |              60.0 |";
    assert!(text.contains(row) && text.contains("### nin-r2"), "{text}");
    for absent in ["95 %", "Reproduced", "published within", "claim"] {
        assert!(!text.contains(absent), "{absent} in\n{text}");
    }
    assert!(study.to_table().contains("nin-r2   "), "{}", study.to_table());

    let error = Study::new(&relabelled, &facts).unwrap_err();
    assert!(matches!(error, Error::UnknownNetwork { .. }), "{error}");
    let error = Study::ablation(&relabelled, &facts[1..]).unwrap_err();
    assert!(matches!(error, Error::UnknownNetwork { .. }), "{error}");
}

#[test]
fn held_out_images_are_reported_as_such() {
    let runs = change(runs(0.0), |run| {
        run.config.val_split = 5000;
        run.environment.train_images = 45_000;
        run.environment.validation_images = 5_000;
        run.result.as_mut().unwrap().best_test_acc = Some(0.7);
        for record in &mut run.records {
            if let Record::Epoch(epoch) = record {
                (epoch.val_acc, epoch.test_acc, epoch.test_loss) = (epoch.test_acc, None, None);
            }
        }
    });
    let study = Study::new(&runs, &facts()).unwrap();
    let Verdict::NotComparable { reason } = &study.verdict else { panic!() };
    assert_eq!(reason, "val-split 5000 instead of 0");
    let gap = study.networks[2].selection_gap.as_ref().unwrap();
    assert!((gap.mean - (0.7 - 0.7427)).abs() < 1e-12, "of the test accuracies, not of the held-out ones");
    assert_eq!(study.networks[2].curve[0].test_acc, None);
    assert!(study.to_markdown().contains("5,000 held out"));
}
