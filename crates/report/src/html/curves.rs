//! Figures epoch by epoch, and speed over time.

use pointwise_runs::{EpochRecord, Run};
use pointwise_study::Metric;

use super::{
    NAMED, Page, Shown,
    chart::{Chart, around},
    figure::{Data, figure},
};
use crate::{number::decimals, statistics::Sample};

/// With more networks than these, seeds and published curves would hide each other.
const FEW: usize = 4;

/// Points in the chart of speed, over all runs.
const POINTS: usize = 1200;

/// One of the four figures of an epoch.
struct Measure {
    title: &'static str,
    note: &'static str,
    ours: fn(&EpochRecord) -> Option<f64>,
    metric: Metric,
    places: usize,
}

const MEASURES: [Measure; 4] = [
    Measure {
        title: "Test accuracy, %",
        note: "after the epoch",
        ours: |epoch| epoch.test_acc.map(|acc| 100.0 * acc),
        metric: Metric::TestAcc,
        places: 2,
    },
    Measure {
        title: "Training accuracy, %",
        note: "as the epoch goes",
        ours: |epoch| Some(100.0 * epoch.train_acc),
        metric: Metric::TrainAcc,
        places: 2,
    },
    Measure {
        title: "Test loss",
        note: "after the epoch",
        ours: |epoch| epoch.test_loss,
        metric: Metric::TestLoss,
        places: 4,
    },
    Measure {
        title: "Training loss",
        note: "as the epoch goes",
        ours: |epoch| Some(epoch.train_loss),
        metric: Metric::TrainLoss,
        places: 4,
    },
];

impl Page<'_> {
    pub(super) fn curves(&self) -> String {
        if self.networks.iter().all(|network| network.runs.iter().all(|run| run.epochs().next().is_none())) {
            return "<p>No run has completed an epoch yet.</p>".into();
        }
        let published = self.shows_published();
        let mut html = String::from("<p>One point an epoch: a pass over all training images.");
        if self.networks.iter().any(|network| network.runs.len() > 1) {
            html += " Thick lines are means over the seeds, the band is one standard deviation either side";
            html += if self.networks.len() <= FEW { ", thin lines are single seeds." } else { "." };
        }
        if published {
            html += " Dashed, or small marks alone: published.";
        }
        html += "</p>";
        html += &self.key();
        html += "<div class=\"charts\">";
        for measure in &MEASURES {
            html += &self.measure(measure, published);
        }
        html + "</div>" + &self.numbers().details("every epoch", "curves")
    }

    fn shows_published(&self) -> bool {
        self.networks.len() <= FEW && self.networks.iter().any(|network| network.published.is_some())
    }

    /// Characters that are kept free for names at the ends of lines.
    fn room(&self) -> usize {
        if self.networks.len() > NAMED {
            return 0;
        }
        self.networks.iter().map(|network| network.name().chars().count()).max().unwrap_or(0)
    }

    fn measure(&self, measure: &Measure, published: bool) -> String {
        let mut values = Vec::new();
        let mut last = 1;
        for network in &self.networks {
            for epoch in network.runs.iter().flat_map(|run| run.epochs()) {
                values.extend((measure.ours)(epoch));
                last = last.max(epoch.epoch);
            }
            if published {
                let theirs = network.published_curve(measure.metric);
                values.extend(theirs.iter().map(|(_, figure)| figure.value));
                last = theirs.last().map_or(last, |(epoch, _)| last.max(*epoch));
            }
        }
        let show: fn(f64) -> String =
            if measure.places > 2 { |value| decimals(value, 1) } else { |value| decimals(value, 0) };
        let whole: fn(f64) -> String =
            |value| if value.fract() == 0.0 { decimals(value, 0) } else { String::new() };
        let x = (1.0, f64::from(last).max(2.0));
        let mut chart =
            Chart::new(measure.title, x, around(values, 0.01), "epoch", (whole, show), self.room());
        for network in &self.networks {
            let (class, name) = (network.class(), network.name());
            if published {
                let theirs = network.published_curve(measure.metric);
                let points: Vec<(f64, f64)> =
                    theirs.iter().map(|(epoch, figure)| (f64::from(*epoch), figure.value)).collect();
                chart.line(&format!("dashed {class}"), &points);
                for ((epoch, figure), point) in theirs.into_iter().zip(points) {
                    let says = format!("{name}, published, epoch {epoch}: {}", figure.shown());
                    chart.point(&format!("faint {class}"), network.index, 2.0, point, &says);
                }
            }
            let means = means(network, measure);
            for run in &network.runs {
                if self.networks.len() <= FEW && (network.runs.len() > 1 || means.is_empty()) {
                    let points: Vec<(f64, f64)> = run
                        .epochs()
                        .filter_map(|epoch| Some((f64::from(epoch.epoch), (measure.ours)(epoch)?)))
                        .collect();
                    chart.line(&format!("thin {class}"), &points);
                }
            }
            let band: Vec<(f64, f64, f64)> = means
                .iter()
                .filter_map(|(at, sample)| {
                    Some((*at, sample.mean - sample.deviation?, sample.mean + sample.deviation?))
                })
                .collect();
            chart.band(&class, &band);
            let line: Vec<(f64, f64)> = means.iter().map(|(at, sample)| (*at, sample.mean)).collect();
            chart.line(&class, &line);
            for (at, sample) in &means {
                let spread = sample.deviation.map_or(String::new(), |deviation| {
                    format!(" \u{b1} {} ({} seeds)", decimals(deviation, measure.places), sample.values.len())
                });
                let says = format!("{name}, epoch {at}: {}{spread}", decimals(sample.mean, measure.places));
                chart.point(&format!("solid {class}"), network.index, 2.8, (*at, sample.mean), &says);
            }
            if let Some((_, value)) = line.last().filter(|_| self.networks.len() <= NAMED) {
                chart.end(&class, *value, name);
            }
        }
        figure(measure.title, measure.note, &chart.svg())
    }

    fn numbers(&self) -> Data {
        let mut data = Data::new([
            "network",
            "seed",
            "epoch",
            "train loss",
            "train acc %",
            "test loss",
            "test acc %",
            "seconds",
        ]);
        let optional =
            |value: Option<f64>, places| value.map_or(String::new(), |value| decimals(value, places));
        for network in &self.networks {
            for run in &network.runs {
                for epoch in run.epochs() {
                    data.rows.push(vec![
                        network.name().into(),
                        run.config.seed.to_string(),
                        epoch.epoch.to_string(),
                        decimals(epoch.train_loss, 4),
                        decimals(100.0 * epoch.train_acc, 2),
                        optional(epoch.test_loss, 4),
                        optional(epoch.test_acc.map(|acc| 100.0 * acc), 2),
                        decimals(epoch.train_seconds + epoch.eval_seconds, 1),
                    ]);
                }
            }
            let theirs = Metric::OF_EPOCHS.map(|metric| network.published_curve(metric));
            let mut epochs: Vec<u32> =
                theirs.iter().flat_map(|curve| curve.iter().map(|(epoch, _)| *epoch)).collect();
            epochs.sort_unstable();
            epochs.dedup();
            for epoch in epochs {
                let mut row = vec![network.name().into(), "published".into(), epoch.to_string()];
                row.extend(theirs.iter().map(|curve| {
                    let figure = curve.iter().find(|(at, _)| *at == epoch);
                    figure.map_or_else(String::new, |(_, figure)| figure.shown())
                }));
                row.push(String::new());
                data.rows.push(row);
            }
        }
        data
    }

    /// Images a second over the run.
    pub(super) fn speed(&self) -> String {
        let runs: usize = self.networks.iter().map(|network| network.runs.len()).sum();
        let most_points = (POINTS / runs.max(1)).clamp(10, 100);
        let lines: Vec<(&Shown<'_>, &Run, Rates)> = self
            .networks
            .iter()
            .flat_map(|network| network.runs.iter().map(move |run| (network, *run, rates(run, most_points))))
            .filter(|(.., rates)| rates.len() > 1)
            .collect();
        if lines.is_empty() {
            return String::new();
        }
        let mut data = Data::new(["network", "seed", "epoch", "images/s"]);
        let last = lines.iter().flat_map(|(.., rates)| rates).fold(1.0, |last: f64, (at, _)| last.max(*at));
        let most =
            lines.iter().flat_map(|(.., rates)| rates).fold(0.0, |most: f64, (_, rate)| most.max(*rate));
        let show: fn(f64) -> String = |value| decimals(value, 0);
        let mut chart = Chart::new(
            "Images trained a second, over the epochs",
            (0.0, last),
            (0.0, most * 1.08),
            "epochs trained",
            (show, super::results::axis_of_counts),
            self.room(),
        );
        let mut named = Vec::new();
        for (network, run, rates) in &lines {
            let class = network.class();
            chart.line(&format!("thin {class}"), rates);
            for (at, rate) in rates {
                let says = format!(
                    "{}, seed {}, after {} epochs: {} images/s",
                    network.name(),
                    run.config.seed,
                    decimals(*at, 1),
                    decimals(*rate, 0)
                );
                chart.point(&format!("faint {class}"), network.index, 1.8, (*at, *rate), &says);
                data.rows.push(vec![
                    network.name().into(),
                    run.config.seed.to_string(),
                    decimals(*at, 2),
                    decimals(*rate, 1),
                ]);
            }
            let is_new = self.networks.len() <= NAMED && !named.contains(&network.index);
            if let Some((_, rate)) = rates.last().filter(|_| is_new) {
                chart.end(&class, *rate, network.name());
                named.push(network.index);
            }
        }
        format!(
            "<div class=\"beside\">{}<div><p>Images trained a second, evaluation left out. A dip means that the machine had other \
             work; the numbers depend on that, not only on the network.</p>{}</div></div>",
            figure("Throughput, images/s", "each run a line", &chart.svg()),
            data.details("throughput", "throughput")
        )
    }
}

/// Over the complete runs, epoch by epoch, where all of them have the figure. Without a complete run, over the only run there is.
fn means(network: &Shown<'_>, measure: &Measure) -> Vec<(f64, Sample)> {
    let mut runs: Vec<&Run> = network.complete().collect();
    if let (true, [only]) = (runs.is_empty(), network.runs.as_slice()) {
        runs.push(only);
    }
    let last = runs.iter().flat_map(|run| run.epochs()).map(|epoch| epoch.epoch).max().unwrap_or(0);
    (1..=last)
        .filter_map(|number| {
            let value = |run: &&Run| {
                run.epochs().find(|epoch| epoch.epoch == number).and_then(|epoch| (measure.ours)(epoch))
            };
            let values: Option<Vec<f64>> = runs.iter().map(value).collect();
            Some((f64::from(number), Sample::new(values?)?))
        })
        .collect()
}

/// Epochs trained so far, and images a second.
type Rates = Vec<(f64, f64)>;

/// The rates at about ten points of each epoch, and at no more than `most` points.
fn rates(run: &Run, most: usize) -> Rates {
    let batch = f64::from(run.config.recipe.batch_size);
    let steps = (run.config.recipe.steps_per_epoch(run.environment.train_images as usize) as f64).max(1.0);
    let least = (steps / 10.0).ceil();
    let mut rates = Vec::new();
    let mut from = None;
    for step in run.steps() {
        // Between two steps of an epoch there is no evaluation.
        match from {
            Some((epoch, at, seconds)) if epoch == step.epoch => {
                let (taken, time) = (step.step.saturating_sub(at) as f64, step.seconds - seconds);
                if taken >= least && time > 0.0 {
                    rates.push((step.step as f64 / steps, taken * batch / time));
                    from = Some((step.epoch, step.step, step.seconds));
                }
            }
            _ => from = Some((step.epoch, step.step, step.seconds)),
        }
    }
    // A long run has more than a line can show.
    let every = rates.len().div_ceil(most).max(1);
    rates
        .chunks(every)
        .map(|part| {
            let (at, rate) = part.iter().fold((0.0, 0.0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
            (at / part.len() as f64, rate / part.len() as f64)
        })
        .collect()
}
