//! Studies of made-up runs: what is concluded, what is refused, what is said.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

mod runs;

use pointwise_network::Network;
use pointwise_recipe::{Augment, DeviceName, EngineKind, Precision};
use pointwise_report::{Error, NetworkFacts, Outcome, SpreadSource, StudyReport, Verdict};
use pointwise_runs::{Record, Run};
use pointwise_study::{Arm, Effect, Metric, Published, PublishedFigure, Study};
use runs::{facts_of, run, study};

fn facts() -> Vec<NetworkFacts> {
    facts_of(&study())
}

/// Three seeds of each network, each moved by `shift` and spread by 0.5 around that.
fn three_seeds(shift: f64) -> Vec<Run> {
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

fn report_of(runs: &[Run]) -> StudyReport {
    StudyReport::new(runs, &facts(), &study()).unwrap()
}

/// The study with a record whose runs have the spread of [`three_seeds`].
fn with_record() -> Study {
    let record = serde_json::to_string(&report_of(&three_seeds(0.0))).unwrap();
    Study { record: Some(record), ..study() }
}

fn judged(runs: &[Run]) -> StudyReport {
    StudyReport::new(runs, &facts(), &with_record()).unwrap()
}

#[test]
fn the_published_figures_reproduce_themselves() {
    let study = report_of(&three_seeds(0.1));
    assert_eq!(study.verdict, Verdict::Reproduced);
    let headline = study.headline();
    assert!(study.counts_as_published && headline.starts_with("Reproduced: "), "{headline}");
    assert!(headline.contains("of differences of 2.6 points at least 8 in 10"), "{headline}");
    let nin = &study.networks[2];
    assert_eq!((nin.name.as_str(), nin.seeds.as_slice()), ("nin", [42, 43, 44].as_slice()));
    let figure = nin.accuracy.as_ref().unwrap();
    let comparison = figure.comparison.as_ref().unwrap();
    assert!((figure.ours.deviation.unwrap() - 0.005).abs() < 1e-12);
    assert!((comparison.difference - 0.001).abs() < 1e-12);
    // All three have the same spread: two degrees of freedom and three quarters of the four others'.
    assert_eq!(comparison.spread.source, SpreadSource::Seeds);
    assert!((comparison.spread.degrees_of_freedom - 5.0).abs() < 1e-9);
    // Half a point, t = 2.5706 for five degrees of freedom, three seeds and a published one, printed in hundredths of a percent.
    let half = 2.570_581_836 * (0.005_f64.powi(2) * 4.0 / 3.0 + 0.0001_f64.powi(2) / 12.0).sqrt();
    assert!((comparison.high - figure.ours.mean - half).abs() < 1e-9);
    assert!((nin.selection_gap.as_ref().unwrap().mean - 0.005).abs() < 1e-12);
    assert_eq!(nin.seconds_per_epoch, Some(60.0));
    assert_eq!(nin.epochs.len(), 10);
    assert!(study.record.is_empty() && study.notes.is_empty());
    assert_eq!(study.curve.as_ref().unwrap().figures, 3 * (1 + 38));
}

#[test]
fn a_figure_that_differs_is_named() {
    // All three by as much: Holm's first step is t = 3.5341 (5 % / 3) of 0.5774 points, and the rounding.
    for (shift, reproduced) in [(2.03, true), (2.06, false), (-2.06, false)] {
        let verdict = judged(&three_seeds(shift)).verdict;
        assert_eq!(verdict == Verdict::Reproduced, reproduced, "{shift}: {verdict:?}");
    }
    let mut runs = three_seeds(0.0);
    for run in runs.iter_mut().filter(|run| run.config.model == "nin") {
        run.result.as_mut().unwrap().final_acc += 0.05;
    }
    let study = judged(&runs);
    let headline = study.headline();
    assert!(
        headline.starts_with(
            "Different: the published final test accuracy of nin (74.27 %) differs from ours (79.27 %, 95 % interval"
        ),
        "{headline}"
    );
    assert!(!headline.contains("alexnet"), "{headline}");
    let corrected: Vec<f64> = study
        .networks
        .iter()
        .map(|network| network.accuracy.as_ref().unwrap().comparison.as_ref().unwrap().corrected.unwrap())
        .collect();
    assert!(corrected[0] == 1.0 && corrected[1] == 1.0 && corrected[2] < 0.05, "{corrected:?}");
    // Loss does not decide by itself, but is one of the figures that must be possible together.
    let mut runs = three_seeds(0.0);
    for run in runs.iter_mut().filter(|run| run.config.model == "nin") {
        run.result.as_mut().unwrap().final_loss += 10.0;
    }
    let headline = judged(&runs).headline();
    assert!(headline.contains("the published curves are not ones of ours"), "{headline}");
    assert!(headline.contains("farthest nin, final test loss"), "{headline}");
}

#[test]
fn a_table_with_networks_exchanged_is_not_reproduced() {
    let runs = three_seeds(0.0);
    let figures = with_record();
    for order in [[1, 0, 2], [0, 2, 1], [2, 1, 0], [1, 2, 0], [2, 0, 1]] {
        let mut permuted = figures.clone();
        for (arm, from) in permuted.arms.iter_mut().zip(order) {
            let parameters = arm.published.parameters;
            // The counts alone would show it; here the trained results must.
            arm.published = Published { parameters, ..figures.arms[from].published.clone() };
        }
        let report = StudyReport::new(&runs, &facts(), &permuted).unwrap();
        assert!(matches!(report.verdict, Verdict::Different { .. }), "{order:?}: {:?}", report.verdict);
    }
}

#[test]
fn runs_that_could_not_have_told_are_undecided() {
    // Two points from seed to seed: 2 sqrt(4/3) (3.5341 + 0.9195), for five degrees of freedom.
    let wide = change(three_seeds(0.0), |run| {
        let moved = (run.config.seed as f64 - 43.0) * 0.015;
        run.result.as_mut().unwrap().final_acc += moved;
    });
    let study = judged(&wide);
    let Verdict::Undecided { reason } = &study.verdict else { panic!("{:?}", study.verdict) };
    for part in
        ["a difference of up to 10.3 points in the final test accuracy of nin", "from 3.4 points on matter"]
    {
        assert!(reason.contains(part), "{reason}");
    }
    assert!(study.headline().starts_with(
        "Undecided: the parameter counts and their ratios are as published, no published figure differs"
    ));
    // What is far off is noticed nevertheless.
    let far = change(wide, |run| run.result.as_mut().unwrap().final_acc -= 0.15);
    assert!(matches!(judged(&far).verdict, Verdict::Different { .. }));
}

#[test]
fn the_conclusion_is_judged() {
    let study = judged(&three_seeds(0.0));
    let outcomes: Vec<Outcome> = study.claims.iter().map(|claim| claim.outcome).collect();
    use Outcome::{Fails, Holds};
    assert_eq!(outcomes, [Holds, Holds, Holds, Holds, Holds, Fails, Fails]);
    let findings = study.findings();
    assert_eq!(findings.len(), 7);
    assert_eq!(findings[0], "`nin` has 34.2 % fewer parameters than `alexnet`.");
    assert_eq!(findings[1], "`alexnet_plain` has 4.70 times the parameters of `nin`.");
    // (100 - 74.27) / (100 - 81.14) errors; half a point of spread on both sides, t = 2.1318 for four degrees of freedom.
    assert_eq!(
        findings[5],
        "The test accuracy of `nin` is 6.9 points below that of `alexnet` (90 % interval 6.0 to 7.7), with 1.36 times its errors: not \
         comparable, to 2 points."
    );
    // Two networks with the same figures are comparable; their difference is not above zero.
    let equal = change(three_seeds(0.0), |run| {
        run.result.as_mut().unwrap().final_acc = 0.78 + (run.config.seed as f64 - 43.0) * 0.005;
    });
    let outcomes: Vec<Outcome> = judged(&equal).claims.iter().map(|claim| claim.outcome).collect();
    use Outcome::Undecided;
    assert_eq!(outcomes, [Holds, Holds, Undecided, Undecided, Undecided, Holds, Holds]);
    // One seed says nothing about either.
    let one: Vec<Run> = three_seeds(0.0).into_iter().filter(|run| run.config.seed == 42).collect();
    let study = judged(&one);
    assert_eq!(study.claims[3].outcome, Outcome::NotJudged);
    assert!(study.claims[3].ours.is_some() && study.findings().len() == 2);
}

#[test]
fn runs_in_another_precision_are_named_and_not_counted() {
    let mut runs = three_seeds(0.0);
    let mut other = run("nin", 45, 9.0);
    other.config.precision = Precision::Bf16;
    (other.config.engine, other.config.device) = (EngineKind::Cuda, DeviceName::Cuda(0));
    runs.push(other);
    let study = judged(&runs);
    assert_eq!(study.networks[2].seeds, [42, 43, 44]);
    assert_eq!((study.runs.len(), study.precision.as_str()), (10, "f32"));
    let notes = study.notes.join(" ");
    for part in ["f32 (9), bf16 (1): only those in f32 are counted, not nin-seed45", "cpu (9), cuda (1)"] {
        assert!(notes.contains(part), "{notes}");
    }
    assert!(study.to_markdown().contains(&study.notes[0]));
    // No spread in bf16 is known: the record's is for f32.
    let one: Vec<Run> = ["alexnet_plain", "alexnet", "nin"].map(|model| run(model, 42, 0.3)).into();
    let study = judged(&change(one, |run| run.config.precision = Precision::Bf16));
    assert!(study.networks.iter().all(|network| network.accuracy.as_ref().unwrap().comparison.is_none()));
    assert!(matches!(study.verdict, Verdict::Undecided { .. }));
}

#[test]
fn another_count_is_a_difference_whatever_was_trained() {
    let mut facts = facts();
    facts[0].parameters += 1;
    let runs = change(three_seeds(0.0), |run| {
        if run.config.model == "alexnet_plain" {
            run.environment.parameters += 1;
        }
    });
    let study = StudyReport::new(&runs, &facts, &self::study()).unwrap();
    assert!(!study.counts_as_published);
    let headline = study.headline();
    assert!(
        headline.contains("alexnet_plain has 6,979,147 parameters, not the published 6,979,146"),
        "{headline}"
    );
}

#[test]
fn one_seed_takes_its_spread_from_the_record_and_never_reproduces() {
    let one = |offset| -> Vec<Run> {
        ["alexnet_plain", "alexnet", "nin"].map(|model| run(model, 42, offset)).into()
    };
    let study = judged(&one(0.3));
    let Verdict::Undecided { reason } = &study.verdict else { panic!("{:?}", study.verdict) };
    assert!(
        reason.starts_with(
            "there are too few seeds (1 of alexnet_plain, 1 of alexnet, 1 of nin) to say that a study is reproduced"
        ),
        "{reason}"
    );
    let comparison = study.networks[2].accuracy.as_ref().unwrap().comparison.as_ref().unwrap();
    assert_eq!(comparison.spread.source, SpreadSource::Record);
    assert!((comparison.spread.deviation - 0.005).abs() < 1e-9, "{:?}", comparison.spread);
    let text = study.to_markdown();
    for part in ["**not from these runs**", "nin 42, 43, 44", "record: 0.50 (5.0)"] {
        assert!(text.contains(part) && !text.contains("Spread *seeds*"), "{text}");
    }
    // What is far off is different even with one seed; and two are no better than one.
    assert!(matches!(judged(&one(5.0)).verdict, Verdict::Different { .. }));
    let two: Vec<Run> = three_seeds(0.0).into_iter().filter(|run| run.config.seed != 42).collect();
    assert!(matches!(judged(&two).verdict, Verdict::Undecided { .. }));
    // Without a record there is nothing to judge by, and that is said.
    let study = StudyReport::new(&one(5.0), &facts(), &Study { record: None, ..self::study() }).unwrap();
    assert!(matches!(study.verdict, Verdict::Undecided { .. }), "{:?}", study.verdict);
}

#[test]
fn more_runs_behind_a_published_figure_narrow_the_interval() {
    let mut many = study();
    for figure in many.arms.iter_mut().flat_map(|arm| &mut arm.published.figures) {
        (figure.runs, figure.deviation) = (1000, Some(0.5));
    }
    let interval = |study: &Study| {
        let report = StudyReport::new(&three_seeds(0.0), &facts(), study).unwrap();
        let comparison = report.networks[2].accuracy.as_ref().unwrap().comparison.clone().unwrap();
        comparison.high - comparison.low
    };
    // Mostly the 1/m of one published run.
    let ratio = interval(&many) / interval(&study());
    assert!((0.45..0.55).contains(&ratio), "{ratio}");
}

#[test]
fn what_is_not_the_published_experiment_is_not_comparable() {
    type Change = fn(&mut Run);
    let cases: [(Change, &str); 13] = [
        (|run| run.config.recipe.batch_size = 64, "batch-size 64 instead of 126"),
        (
            |run| run.config.recipe.optimizer = run.config.recipe.optimizer.clone().with_lr(0.0005),
            "optimizer.Adam.lr 0.0005 instead of 0.001",
        ),
        (
            |run| run.config.recipe.optimizer = run.config.recipe.optimizer.clone().with_weight_decay(0.0),
            "optimizer.Adam.weight_decay 0 instead of 0.0005",
        ),
        (|run| run.config.recipe.label_smoothing = 0.1, "label-smoothing 0.1 instead of 0"),
        (|run| run.config.dropout = 0.0, "dropout 0 instead of 0.5 in alexnet_plain"),
        (|run| run.config.recipe.augment = Augment::NONE, "augment none instead of crop-flip"),
        (|run| run.config.recipe.shuffle = false, "shuffle false instead of true"),
        (|run| run.config.val_split = 5000, "val-split 5000 instead of 0"),
        (|run| run.config.init_sha256 = Some("ab".into()), "training started from given parameters"),
        (|run| run.environment.train_images = 504, "504 training images instead of 50,000"),
        (|run| run.environment.test_images = 252, "252 test images instead of 10,000"),
        (|run| run.environment.data_synthetic = true, "the images are synthetic"),
        (
            |run| {
                run.config.recipe.epochs = 2;
                run.result.as_mut().unwrap().epochs = 2;
            },
            "epochs 2 instead of 10",
        ),
    ];
    for (how, expected) in cases {
        let study = report_of(&change(three_seeds(0.0), how));
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
    let mut some: Vec<Run> = three_seeds(0.0).into_iter().filter(|run| run.config.model != "nin").collect();
    some[0].result = None;
    some[1].result.as_mut().unwrap().epochs = 9;
    let study = report_of(&some);
    let Verdict::NotComparable { reason } = &study.verdict else { panic!("{:?}", study.verdict) };
    for part in ["no complete run of nin", "alexnet-seed44 is not complete", "alexnet-seed42 is not complete"]
    {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    assert_eq!(study.networks[1].seeds, [43], "only the complete one counts");
    assert!(study.networks[0].accuracy.as_ref().unwrap().comparison.is_some());
    assert!(study.networks[2].accuracy.is_none() && study.networks[2].epochs.is_empty());
    assert_eq!(study.claims[0].ours, study.claims[1].ours.map(|_| 1.0 - 1_485_386.0 / 2_256_458.0));
    assert_eq!(study.claims[3].ours, None, "no accuracy of nin");
    study.to_markdown();
}

#[test]
fn runs_that_are_not_of_one_study_are_refused() {
    let of = |how: fn(&mut Run)| {
        let mut runs = three_seeds(0.0);
        how(&mut runs[4]);
        StudyReport::new(&runs, &facts(), &study()).unwrap_err()
    };
    let error = of(|run| run.environment.data_fingerprint = "beef".into());
    assert!(matches!(error, Error::MixedData { .. }), "{error}");
    let error = of(|run| run.config.recipe.label_smoothing = 0.2).to_string();
    assert!(error.contains("alexnet-seed42") && error.contains("label-smoothing is 0.2 and 0"), "{error}");
    let error = of(|run| run.config.seed = 43);
    assert!(matches!(error, Error::SameSeed { .. }), "{error}");
    let error = of(|run| run.environment.parameters = 7);
    assert!(matches!(error, Error::OtherNetwork { found: 7, expected: 2_256_458, .. }), "{error}");
    let error = of(|run| run.config.model = "vgg".into());
    assert!(matches!(error, Error::UnknownNetwork { .. }), "{error}");
    assert!(matches!(StudyReport::new(&[], &facts(), &study()), Err(Error::NoRuns)));
    // Another engine computes the same numbers.
    report_of(&change(three_seeds(0.0), |run| {
        run.config.engine = EngineKind::ALL[run.config.seed as usize % 3];
    }));
}

#[test]
fn synthetic_accuracies_stand_alone() {
    let study = report_of(&change(three_seeds(0.0), |run| run.environment.data_synthetic = true));
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
    let study = report_of(&three_seeds(0.1));
    study.write(folder.path()).unwrap();
    let json = std::fs::read_to_string(folder.path().join("study.json")).unwrap();
    assert_eq!(serde_json::from_str::<StudyReport>(&json).unwrap(), study);
    let text = std::fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert_eq!(text, study.to_markdown());
    assert!(!text.contains("somewhere/"), "no paths of this machine");
    for line in [
        "| nin           | 1,485,386 | 1,485,386 | yes   |",
        "| nin           |     3 | 74.37 ± 0.50 |     74.27 |      +0.10 | 72.89 to 75.85 | 1.00 |       2.57 | seeds: 0.50 (5.0) |",
        "| nin           |     3 | 0.7526 ± 0.0050 |    0.7516 |    +0.0010 | 0.7278 to 0.7774 |   - |     0.0310 | seeds: 0.0050 (2.0) |",
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
    let arm = |name: &str, of: &str| {
        let mut arm = study().arm(of).unwrap().clone();
        (arm.name, arm.network.name) = (name.to_owned(), name.to_owned());
        (arm.is_shipped, arm.published) = (name == of, Published::default());
        arm
    };
    let arms: Vec<Arm> =
        [("first", "alexnet_plain"), ("nin", "nin"), ("alexnet", "alexnet"), ("last", "nin")]
            .map(|(name, of)| arm(name, of))
            .into();
    let relabelled = change(three_seeds(0.1), |run| {
        if run.config.model == "alexnet_plain" {
            run.config.model = "first".into();
            run.config.network = Some(arms[0].network.to_toml());
        }
    });
    let own =
        Study { title: "Networks of mine".into(), arms, primary: Vec::new(), claims: Vec::new(), ..study() };
    let facts: Vec<NetworkFacts> =
        [("first", 6_979_146), ("nin", 1_485_386), ("alexnet", 2_256_458), ("last", 1_485_386)]
            .map(|(model, parameters)| NetworkFacts {
                model: model.into(),
                parameters,
                macs: 122_665_472,
                layers: Vec::new(),
            })
            .into();
    let study = StudyReport::new(&relabelled, &facts, &own).unwrap();
    assert_eq!(study.verdict, Verdict::NotJudged);
    assert_eq!(study.headline(), "4 networks side by side, 9 runs; there is no verdict.");
    let names: Vec<&str> = study.networks.iter().map(|network| network.name.as_str()).collect();
    assert_eq!(names, ["first", "nin", "alexnet", "last"], "in the order of the study");
    let figures = study.networks.iter().filter_map(|network| network.accuracy.as_ref());
    assert!(figures.clone().count() == 3 && figures.clone().all(|figure| figure.published.is_none()));
    assert_eq!((study.networks[0].published_parameters, study.networks[3].seeds.len()), (None, 0));
    assert!(study.notes.is_empty(), "{:?}", study.notes);

    let folder = tempfile::tempdir().unwrap();
    study.write(folder.path()).unwrap();
    let json = std::fs::read_to_string(folder.path().join("study.json")).unwrap();
    assert_eq!(serde_json::from_str::<StudyReport>(&json).unwrap(), study);
    let text = study.to_markdown();
    // The runs have the accuracies of alexnet_plain, moved.
    let row = "| first   |     3 |    78.68 ± 0.50 | 0.6434 ± 0.0050 |  6,979,146 |    122,665,472 |              60.0 |";
    assert!(
        text.starts_with("# Networks of mine\n") && text.contains(row) && text.contains("### first"),
        "{text}"
    );
    for absent in ["95 %", "Reproduced", "pub.", "claim"] {
        assert!(!text.contains(absent), "{absent} in\n{text}");
    }
    assert!(study.to_table().contains("first    "), "{}", study.to_table());

    // A deviation from the study's training is reported.
    let other = change(relabelled.clone(), |run| run.config.recipe.batch_size = 64);
    let study = StudyReport::new(&other, &facts, &own).unwrap();
    let expected = "These runs are not as the study describes them: batch-size 64 instead of 126.";
    assert_eq!(study.notes, [expected]);
    let error = StudyReport::new(&relabelled, &facts, &self::study()).unwrap_err();
    assert!(matches!(error, Error::UnknownNetwork { .. }), "{error}");
}

#[test]
fn networks_may_be_trained_as_their_arms_say_and_not_otherwise() {
    let mut study = study();
    study.arms[1].recipe.batch_size = 64;
    let runs = |batch_size: u32| {
        change(three_seeds(0.0), |run| {
            if run.config.model == "alexnet" {
                run.config.recipe.batch_size = batch_size;
            }
        })
    };
    let report = StudyReport::new(&runs(64), &facts(), &study).unwrap();
    assert_eq!(report.verdict, Verdict::Reproduced);
    let report = StudyReport::new(&runs(126), &facts(), &study).unwrap();
    let Verdict::NotComparable { reason } = &report.verdict else { panic!("{:?}", report.verdict) };
    assert_eq!(reason, "batch-size 126 instead of 64 in alexnet");
    // All runs of one arm are trained alike.
    let mut mixed = runs(64);
    mixed.iter_mut().find(|run| run.config.model == "alexnet").unwrap().config.recipe.batch_size = 126;
    let error = StudyReport::new(&mixed, &facts(), &study).unwrap_err();
    assert!(matches!(error, Error::MixedConfigurations { .. }), "{error}");
    // Another network under the name of one of the study's.
    let other = Network { name: "nin".into(), ..study.arms[1].network.clone() };
    let runs = change(runs(64), |run| {
        if run.config.model == "nin" {
            run.config.network = Some(other.to_toml());
        }
    });
    let report = StudyReport::new(&runs, &facts(), &study).unwrap();
    let Verdict::NotComparable { reason } = &report.verdict else { panic!("{:?}", report.verdict) };
    assert_eq!(reason, "another network than the study describes in nin");
}

/// The published study with one figure instead of its own in each network, which alone decides.
fn with_figure(figure: impl Fn(&Arm) -> PublishedFigure) -> Study {
    let mut study = Study { claims: Vec::new(), ..with_record() };
    for arm in &mut study.arms {
        let figure = figure(arm);
        arm.published = Published { figures: vec![figure], ..Published::default() };
    }
    study
}

#[test]
fn any_figure_can_decide() {
    for (metric, epoch, name) in [
        (Metric::TrainLoss, None, "final training loss"),
        (Metric::TestAcc, Some(3), "test accuracy of epoch 3"),
        (Metric::TestLoss, Some(10), "final test loss"),
    ] {
        let accuracy = metric.is_accuracy();
        let study = |moved: f64| {
            let mut study = with_figure(|arm| {
                let published = arm.published.figure(metric, epoch).unwrap().clone();
                let moved = if arm.name == "nin" { moved } else { 0.0 };
                PublishedFigure { value: published.value + moved, ..published }
            });
            study.primary[0].metric = metric;
            study.primary[0].epoch = epoch;
            study.primary[0].margin = if accuracy { 5.0 } else { 0.5 };
            study
        };
        // Training figures of these runs do not differ from seed to seed.
        let report = StudyReport::new(&three_seeds(0.0), &facts(), &study(0.0)).unwrap();
        assert_eq!(report.verdict, Verdict::Reproduced, "{name}");
        assert!(report.headline().contains(&format!("no published {name} differs")), "{}", report.headline());
        let moved = if accuracy { 20.0 } else { 2.0 };
        let report = StudyReport::new(&three_seeds(0.0), &facts(), &study(moved)).unwrap();
        let Verdict::Different { reason } = &report.verdict else { panic!("{name}: {:?}", report.verdict) };
        assert!(reason.starts_with(&format!("the published {name} of nin (")), "{reason}");
        let text = report.to_markdown();
        assert!(text.contains("| nin           |     3 |") && text.contains("detectable"), "{text}");
    }
}

/// With runs that have such an accuracy, which is two points above the plain one.
#[test]
fn an_accuracy_over_views_decides_and_is_shown() {
    let runs = change(three_seeds(0.0), |run| {
        let result = run.result.as_mut().unwrap();
        result.tta_test_acc = Some(result.final_acc + 0.02);
    });
    let study = |moved: f64| {
        let mut study = with_figure(|arm| {
            let plain = arm.published.figure(Metric::TestAcc, None).unwrap().clone();
            let moved = if arm.name == "nin" { moved } else { 0.0 };
            PublishedFigure { metric: Metric::TtaTestAcc, value: plain.value + 2.0 + moved, ..plain }
        });
        (study.primary[0].metric, study.primary[0].margin) = (Metric::TtaTestAcc, 5.0);
        study
    };
    let report = StudyReport::new(&runs, &facts(), &study(0.0)).unwrap();
    assert_eq!(report.verdict, Verdict::Reproduced);
    let name = "final test accuracy with test-time augmentation";
    assert!(report.headline().contains(&format!("no published {name} differs")), "{}", report.headline());
    let nin = &report.networks[2];
    let (plain, views) = (nin.accuracy.as_ref().unwrap(), nin.tta_accuracy.as_ref().unwrap());
    assert!((views.ours.mean - plain.ours.mean - 0.02).abs() < 1e-12);
    let text = report.to_markdown();
    assert!(text.contains("| TTA test accuracy % |") && text.contains(" TTA acc % |"), "{text}");
    // Nothing was published of the plain accuracy.
    assert!(plain.published.is_none() && report.to_table().contains("TTA test accuracy %"), "{text}");
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<StudyReport>(&json).unwrap(), report);
    // As a record it gives one run its spread.
    let record = Study { record: Some(json), ..study(0.0) };
    let one: Vec<Run> = runs.iter().filter(|run| run.config.seed == 42).cloned().collect();
    let borrowed = StudyReport::new(&one, &facts(), &record).unwrap();
    let figure = borrowed.networks[2].tta_accuracy.as_ref().unwrap();
    assert_eq!(figure.comparison.as_ref().unwrap().spread.source, SpreadSource::Record);

    let report = StudyReport::new(&runs, &facts(), &study(20.0)).unwrap();
    let Verdict::Different { reason } = &report.verdict else { panic!("{:?}", report.verdict) };
    assert!(reason.starts_with(&format!("the published {name} of nin (")), "{reason}");

    // For runs without it, it is not mentioned.
    let text = report_of(&three_seeds(0.0)).to_markdown();
    assert!(!text.contains("TTA") && !text.contains("augmentation"), "{text}");
}

#[test]
fn a_claim_to_reach_a_figure_holds_fails_or_is_open() {
    let judged = |claimed: f64| {
        let study = with_figure(|arm| PublishedFigure {
            metric: Metric::TestAcc,
            epoch: None,
            value: if arm.name == "nin" { claimed } else { 50.0 },
            decimals: 0,
            runs: 1,
            deviation: None,
            at_least: true,
        });
        StudyReport::new(&three_seeds(0.0), &facts(), &Study { primary: Vec::new(), ..study }).unwrap()
    };
    // 74.27 of three seeds with 0.5: t = 2.015 for five degrees of freedom, so 0.58 points.
    let report = judged(73.0);
    assert_eq!(report.verdict, Verdict::Reproduced);
    assert_eq!(report.headline(), "Reproduced: what was claimed to be reached at least is reached.");
    let report = judged(74.0);
    let Verdict::Undecided { reason } = &report.verdict else { panic!("{:?}", report.verdict) };
    assert_eq!(
        reason,
        "whether the final test accuracy of nin is at least 74 % cannot be told (90 % interval 73.69 % to 74.85 %)"
    );
    let report = judged(76.0);
    let Verdict::Different { reason } = &report.verdict else { panic!("{:?}", report.verdict) };
    assert_eq!(
        reason,
        "the final test accuracy of nin is 74.27 % (95 % sure to be at most 74.85 %), not at least 76 %"
    );
    let text = report.to_markdown();
    assert!(text.contains("\u{2265} 76 |") && text.contains("73.69 to 74.85 (90 %)"), "{text}");
}

#[test]
fn kinds_of_processor_are_named_with_what_they_do_to_the_numbers() {
    let mut runs = three_seeds(0.0);
    assert!(report_of(&runs).notes.is_empty());
    runs[3].environment.processor = "another".into();
    let notes = report_of(&runs).notes;
    assert!(notes.len() == 1 && notes[0].contains("a processor (8), another (1)"), "{notes:?}");
    assert!(notes[0].contains("instruction set") && !notes[0].contains("cuda"), "{notes:?}");
    runs[4].environment.accelerator = Some("a GPU".into());
    assert!(report_of(&runs).notes[0].contains("on the engine cuda they depend on the device"));
}

#[test]
fn an_older_record_is_read_and_a_broken_one_is_named() {
    let old = r#"{"networks": [{"name": "nin", "seeds": [1, 2, 3], "loss": null, "accuracy": {"published": 0.7427, "comparison": null,
        "ours": {"values": [0.73, 0.74, 0.75], "mean": 0.74, "deviation": 0.01}}}]}"#;
    let one: Vec<Run> = three_seeds(0.0).into_iter().filter(|run| run.config.seed == 42).collect();
    let with = |record: &str| {
        StudyReport::new(&one, &facts(), &Study { record: Some(record.to_owned()), ..study() })
    };
    let report = with(old).unwrap();
    let comparison = report.networks[2].accuracy.as_ref().unwrap().comparison.as_ref().unwrap();
    assert_eq!(comparison.spread.source, SpreadSource::Record);
    let error = with("{}").unwrap_err();
    assert!(matches!(error, Error::Record { .. }), "{error}");
}

#[test]
fn held_out_images_are_reported_as_such() {
    let runs = change(three_seeds(0.0), |run| {
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
    let study = report_of(&runs);
    let Verdict::NotComparable { reason } = &study.verdict else { panic!() };
    assert_eq!(reason, "val-split 5000 instead of 0");
    let gap = study.networks[2].selection_gap.as_ref().unwrap();
    assert!((gap.mean - (0.7 - 0.7427)).abs() < 1e-12, "of the test accuracies, not of the held-out ones");
    assert_eq!(study.networks[2].epochs[0].test_acc, None);
    assert!(study.to_markdown().contains("5,000 held out"));
}

/// A factorial experiment: with and without a ReLU, padded or not, in both of two networks.
#[test]
fn effects_are_means_over_pairs_with_the_pooled_spread() {
    let names = ["a", "a-relu", "b", "b-relu"];
    let template = study().arms[2].clone();
    let arms: Vec<Arm> = names
        .map(|name| {
            let mut arm = template.clone();
            (arm.name, arm.network.name) = (name.into(), name.into());
            (arm.is_shipped, arm.published) = (false, Published::default());
            arm
        })
        .into();
    let pair = |one: &str, other: &str| [one.to_owned(), other.to_owned()];
    let effects = vec![
        Effect { name: "a ReLU".into(), pairs: vec![pair("a-relu", "a"), pair("b-relu", "b")] },
        Effect { name: "b".into(), pairs: vec![pair("b", "a")] },
        Effect { name: "what nobody ran".into(), pairs: vec![pair("b", "a"), pair("c", "a")] },
    ];
    let mut arms = arms;
    arms.push(Arm { name: "c".into(), ..arms[0].clone() });
    let own = Study { arms: arms.clone(), primary: Vec::new(), claims: Vec::new(), effects, ..study() };
    let facts: Vec<NetworkFacts> =
        [("a", 100, 40), ("a-relu", 100, 40), ("b", 50, 10), ("b-relu", 200, 10), ("c", 1, 1)]
            .map(|(model, parameters, macs)| NetworkFacts {
                model: model.into(),
                parameters,
                macs,
                layers: Vec::new(),
            })
            .into();
    // Of a the accuracies 70, 71 and 72 %; a ReLU adds 3 points to it and 1 to b, which is 2 points worse.
    let accuracies = [
        ("a", [0.70, 0.71, 0.72]),
        ("a-relu", [0.73, 0.74, 0.75]),
        ("b", [0.68, 0.69, 0.70]),
        ("b-relu", [0.69, 0.70, 0.71]),
    ];
    let made = |seeds: usize| {
        let mut runs = Vec::new();
        for (index, (name, values)) in accuracies.into_iter().enumerate() {
            for (seed, accuracy) in (42..).zip(values).take(seeds) {
                let mut run = run("nin", seed, 0.0);
                run.config.model = name.into();
                run.config.network = Some(arms[index].network.to_toml());
                run.environment.parameters = facts[index].parameters;
                let result = run.result.as_mut().unwrap();
                result.final_acc = accuracy;
                // A ReLU takes a quarter more time, seed by seed alike.
                let factor = if name.ends_with("relu") { 1.25 } else { 1.0 };
                (result.train_seconds, result.eval_seconds) = (factor * 500.0, factor * 100.0);
                runs.push(run);
            }
        }
        runs
    };
    let report = StudyReport::new(&made(3), &facts, &own).unwrap();
    let [relu, b] = &report.effects[..] else { panic!("{:?}", report.effects) };
    assert_eq!((relu.name.as_str(), relu.pairs.len(), relu.runs), ("a ReLU", 2, 12));
    let accuracy = relu.accuracy.unwrap();
    // s = 0.01 from 8 degrees of freedom, so the standard error is 0.01 sqrt(4 / 4 / 3); t = 2.306004.
    let half = 2.306_004_135_204_17 * 0.01 / 3.0_f64.sqrt();
    for (got, expected) in [
        (accuracy.value, 0.02),
        (accuracy.low, 0.02 - half),
        (accuracy.high, 0.02 + half),
        (accuracy.deviation, 0.01),
        (accuracy.degrees_of_freedom, 8.0),
        (relu.parameters.unwrap(), 2.0),
        (relu.macs.unwrap(), 1.0),
        (relu.log_seconds.unwrap().value.exp(), 1.25),
        (b.accuracy.unwrap().value, -0.02),
        (b.macs.unwrap(), 0.25),
    ] {
        assert!((got - expected).abs() < 1e-9, "{got} instead of {expected}");
    }
    assert!(accuracy.p < 0.05 && accuracy.corrected >= accuracy.p);
    let text = report.to_markdown();
    let row = "| a ReLU |     2 |   12 |                 +2.00 | +0.67 to +3.33 |";
    assert!(text.contains("## Effects") && text.contains(row), "{text}");
    // One run of each network gives no spread, and nothing is known of a network without runs.
    let report = StudyReport::new(&made(1), &facts, &own).unwrap();
    assert!(report.effects.len() == 2 && report.effects.iter().all(|effect| effect.accuracy.is_none()));
    assert!((report.effects[0].difference.unwrap() - 0.02).abs() < 1e-9);
    let text = report.to_markdown();
    assert!(
        text.contains("| a ReLU |     2 |    4 |                 +2.00 |             - |   - |"),
        "{text}"
    );
    assert_eq!(report.effects[0].parameters, Some(2.0));
    // The effects survive the way through a file.
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<StudyReport>(&json).unwrap(), report);
    assert!(!serde_json::to_string(&report_of(&three_seeds(0.1))).unwrap().contains("effects"));
}
