//! What the verdict is of studies whose truth is known, because they were drawn: how often a faithful reproduction is called
//! different, and how often one that is off is.

mod runs;

use pointwise_random::{Purpose, Stream, unit_f32};
use pointwise_report::{Published, Record as StudyRecord, Study, Verdict};
use pointwise_runs::{Record, Run};
use runs::{facts, published, run};

const STUDIES: u64 = 2_000;

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
fn verdict(study: u64, seeds: u64, deviations: [f64; 3], shift: f64) -> Verdict {
    let mut normal = Normal(Stream::new(study, Purpose::Synthetic, 0));
    let truth = published();
    let mut published: Published = truth.clone();
    let mut ours: Vec<Run> = Vec::new();
    for (network, deviation) in published.networks.iter_mut().zip(deviations) {
        for seed in 0..seeds {
            let moves = Moves::draw(&mut normal, deviation);
            ours.push(moved(run(&network.name, seed, shift * deviation), &moves));
        }
        let moves = Moves::draw(&mut normal, deviation);
        for (index, epoch) in network.epochs.iter_mut().enumerate() {
            epoch.test_acc += 100.0 * moves.test[index];
            epoch.test_loss -= moves.test[index];
            epoch.train_acc += 100.0 * moves.train[index];
            epoch.train_loss -= moves.train[index];
        }
        (network.final_acc, network.final_loss) = (network.epochs[9].test_acc, network.epochs[9].test_loss);
    }
    let record = StudyRecord { networks: Vec::new(), precision: "f32".into() };
    Study::judged(&ours, &facts(), &published, &record).expect("a study").verdict
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
fn called_different(seeds: u64, deviations: [f64; 3], shift: f64) -> f64 {
    let different = |study| matches!(verdict(study, seeds, deviations, shift), Verdict::Different { .. });
    (0..STUDIES).filter(|&study| different(study)).count() as f64 / STUDIES as f64
}

#[test]
fn at_most_six_percent_of_faithful_reproductions_are_called_different() {
    for (seeds, deviations) in [(5, [1.0, 1.0, 1.0]), (5, [0.5, 1.0, 2.0]), (10, [0.5, 1.0, 1.0])] {
        let share = called_different(seeds, deviations, 0.0);
        println!("{seeds} seeds, deviations {deviations:?}: {share} called different");
        assert!(share <= 0.06, "{seeds} seeds, deviations {deviations:?}: {share}");
        // A test that never finds anything would pass, too.
        assert!(share >= 0.01, "{seeds} seeds, deviations {deviations:?}: {share}");
    }
}

#[test]
fn at_least_four_of_five_that_are_off_by_three_deviations_are_called_different() {
    let share = called_different(5, [1.0, 1.0, 1.0], 3.0);
    println!("{share} called different");
    assert!(share >= 0.8, "{share}");
}
