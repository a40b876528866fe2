//! The verdicts on simulated studies, whose truth is known: how often a faithful reproduction is called different, and how often
//! one that deviates is.

mod runs;

use std::sync::LazyLock;

use pointwise_random::{Purpose, Stream, unit_f32};
use pointwise_report::{NetworkFacts, Outcome, StudyReport, Verdict};
use pointwise_runs::{Record, Run};
use pointwise_study::{Metric, Published, PublishedFigure, Study};
use runs::{facts_of, run, study};

const STUDIES: u64 = 2_000;

fn facts() -> Vec<NetworkFacts> {
    static FACTS: LazyLock<Vec<NetworkFacts>> = LazyLock::new(|| facts_of(&study()));
    FACTS.clone()
}

/// Normally distributed numbers (Box and Muller), the same ones for the same seed.
struct Normal(Stream);

impl Normal {
    fn draw(&mut self) -> f64 {
        let mut uniform = || f64::from(unit_f32(self.0.word()));
        let (radius, angle) = ((-2.0 * (1.0 - uniform()).ln()).sqrt(), std::f64::consts::TAU * uniform());
        radius * angle.cos()
    }
}

/// The accuracies and losses of a run, moved: by the network's `deviation` in points of final accuracy, by as much in the test
/// figures before, and by a tenth of it in the training figures, where each epoch remembers half of the epoch before.
struct Moves {
    test: [f64; 10],
    train: [f64; 10],
}

impl Moves {
    fn draw(normal: &mut Normal, deviation: f64) -> Self {
        let mut series = |deviation: f64| {
            let mut last = normal.draw();
            std::array::from_fn(|_| {
                last = 0.5 * last + 0.75_f64.sqrt() * normal.draw();
                deviation * last
            })
        };
        Self { test: series(deviation / 100.0), train: series(deviation / 1000.0) }
    }
}

/// A study of which all runs, ours and the published ones, are drawn from one process; ours are then moved by `shift` deviations.
/// What is published is rounded to `decimals`, where they are given.
fn verdict(number: u64, seeds: u64, deviations: [f64; 3], shift: f64, decimals: Option<u32>) -> Verdict {
    let mut normal = Normal(Stream::new(number, Purpose::Synthetic, 0));
    let mut published = Study { record: None, claims: Vec::new(), ..study() };
    let mut ours: Vec<Run> = Vec::new();
    for (arm, deviation) in published.arms.iter_mut().zip(deviations) {
        for seed in 0..seeds {
            let moves = Moves::draw(&mut normal, deviation);
            ours.push(moved(run(&arm.name, seed, shift * deviation), &moves));
        }
        let moves = Moves::draw(&mut normal, deviation);
        for figure in &mut arm.published.figures {
            let epoch = figure.epoch.unwrap_or(10) as usize - 1;
            figure.value += match figure.metric {
                Metric::TestAcc => 100.0 * moves.test[epoch],
                Metric::TestLoss => -moves.test[epoch],
                Metric::TrainAcc => 100.0 * moves.train[epoch],
                Metric::TrainLoss => -moves.train[epoch],
                Metric::TtaTestAcc => continue,
            };
            if let Some(decimals) = decimals.filter(|_| figure.metric == Metric::TestAcc) {
                let unit = 0.1_f64.powi(decimals as i32);
                (figure.value, figure.decimals) = ((figure.value / unit).round() * unit, decimals);
            }
        }
    }
    StudyReport::new(&ours, &facts(), &published).expect("a report").verdict
}

/// A study that claims of each network that its test accuracy is at least the true one plus `ahead` deviations of a run.
fn claimed(number: u64, seeds: u64, deviation: f64, ahead: f64) -> StudyReport {
    let mut normal = Normal(Stream::new(number, Purpose::Synthetic, 1));
    let mut claimed = Study { record: None, claims: Vec::new(), primary: Vec::new(), ..study() };
    let mut ours: Vec<Run> = Vec::new();
    for arm in &mut claimed.arms {
        for seed in 0..seeds {
            ours.push(moved(run(&arm.name, seed, 0.0), &Moves::draw(&mut normal, deviation)));
        }
        let figure = arm.published.figure(Metric::TestAcc, None).expect("a figure").clone();
        let value = figure.value + ahead * deviation;
        arm.published = Published {
            figures: vec![PublishedFigure { value, at_least: true, ..figure }],
            ..Published::default()
        };
    }
    StudyReport::new(&ours, &facts(), &claimed).expect("a report")
}

fn moved(mut run: Run, moves: &Moves) -> Run {
    for record in &mut run.records {
        if let Record::Epoch(epoch) = record {
            let (test, train) = (moves.test[epoch.epoch as usize - 1], moves.train[epoch.epoch as usize - 1]);
            epoch.test_acc = epoch.test_acc.map(|acc| acc + test);
            epoch.test_loss = epoch.test_loss.map(|loss| loss - test);
            epoch.train_acc += train;
            epoch.train_loss -= train;
        }
    }
    if let Some(result) = &mut run.result {
        result.final_acc += moves.test[9];
        result.final_loss -= moves.test[9];
    }
    run
}

/// The share of studies that are called different.
fn called_different(seeds: u64, deviations: [f64; 3], shift: f64, decimals: Option<u32>) -> f64 {
    let different =
        |study| matches!(verdict(study, seeds, deviations, shift, decimals), Verdict::Different { .. });
    (0..STUDIES).filter(|&study| different(study)).count() as f64 / STUDIES as f64
}

/// Checks that at most 6 % of faithful reproductions are called different.
fn check_faithful(seeds: u64, deviations: [f64; 3], decimals: Option<u32>) {
    let share = called_different(seeds, deviations, 0.0, decimals);
    println!("{seeds} seeds, deviations {deviations:?}, decimals {decimals:?}: {share} called different");
    assert!(share <= 0.06, "{seeds} seeds, deviations {deviations:?}: {share}");
    // A test that never finds anything would pass, too; where rounding is all that moves, it never goes far.
    assert!(decimals.is_some() || share >= 0.01, "{seeds} seeds, deviations {deviations:?}: {share}");
}

#[test]
fn at_most_six_percent_of_faithful_reproductions_are_called_different() {
    for (seeds, deviations) in [(5, [1.0, 1.0, 1.0]), (5, [0.5, 1.0, 2.0]), (10, [0.5, 1.0, 1.0])] {
        check_faithful(seeds, deviations, None);
    }
}

#[test]
fn nor_are_more_of_those_whose_figures_were_printed_in_whole_percent() {
    for deviation in [0.5, 0.2] {
        check_faithful(5, [deviation; 3], Some(0));
    }
}

#[test]
fn at_least_four_of_five_that_are_off_by_three_deviations_are_called_different() {
    let share = called_different(5, [1.0, 1.0, 1.0], 3.0, None);
    println!("{share} called different");
    assert!(share >= 0.8, "{share}");
}

#[test]
fn claims_that_are_just_true_are_seldom_called_failed_and_just_false_ones_seldom_reached() {
    for seeds in [3, 5] {
        let (mut different, mut holds, mut judged) = (0, 0, 0);
        for number in 0..STUDIES {
            // The claim is exactly the truth: the hardest case for both sides.
            let report = claimed(number, seeds, 1.0, 0.0);
            different += u32::from(matches!(report.verdict, Verdict::Different { .. }));
            for network in &report.networks {
                let bound =
                    network.accuracy.as_ref().and_then(|figure| figure.bound.as_ref()).expect("a bound");
                judged += 1;
                holds += u32::from(bound.outcome() == Outcome::Holds);
            }
        }
        let (different, holds) =
            (f64::from(different) / STUDIES as f64, f64::from(holds) / f64::from(judged));
        println!("{seeds} seeds: {different} called different, {holds} of claims called reached");
        assert!((0.01..=0.066).contains(&different), "{seeds} seeds: {different}");
        assert!((0.01..=0.06).contains(&holds), "{seeds} seeds: {holds}");
    }
}

#[test]
fn claims_that_are_off_by_three_deviations_are_told() {
    let share = |ahead: f64, is: fn(&Verdict) -> bool| {
        (0..200).filter(|number| is(&claimed(*number, 5, 1.0, ahead).verdict)).count() as f64 / 200.0
    };
    let failed = share(3.0, |verdict| matches!(verdict, Verdict::Different { .. }));
    let reached = share(-3.0, |verdict| *verdict == Verdict::Reproduced);
    println!("{failed} called different, {reached} reproduced");
    assert!(failed >= 0.95 && reached >= 0.95, "{failed} {reached}");
}
