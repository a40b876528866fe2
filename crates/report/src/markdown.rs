//! A study as text: `report.md`, and the table for a terminal.

use crate::{
    Claim, Comparison, EpochReport, Figure, NetworkReport, Outcome, Sample, Spread, SpreadSource, Study,
    Unit, Verdict,
    figure::Measure as EpochMeasure,
    judgement::{p_is, show_p},
    number::{decimals, duration, percent, signed, thousands},
    statistics::SEEDS_FOR_SPREAD,
    table::{
        Align::{Left, Right},
        Table,
    },
};

/// How a kind of figure is shown.
#[derive(Clone, Copy)]
struct Measure {
    name: &'static str,
    /// What one stands for in the table: 100 turns fractions into percent.
    scale: f64,
    places: usize,
}

const ACCURACY: Measure = Measure { name: "accuracy %", scale: 100.0, places: 2 };
const LOSS: Measure = Measure { name: "loss", scale: 1.0, places: 4 };

impl Measure {
    fn show(self, value: f64) -> String {
        decimals(value * self.scale, self.places)
    }

    /// `78.58 ± 0.31`, or the mean alone.
    fn sample(self, sample: &Sample) -> String {
        match sample.deviation {
            Some(deviation) => format!("{} ± {}", self.show(sample.mean), self.show(deviation)),
            None => self.show(sample.mean),
        }
    }
}

/// What stands where there is no number.
const NONE: &str = "-";

impl Study {
    /// The study as Markdown.
    pub fn to_markdown(&self) -> String {
        if self.verdict == Verdict::NotJudged {
            return self.ablation_markdown();
        }
        let mut text = format!("# The study beside its published figures\n\n**{}**\n\n", self.headline());
        let finding = self.finding().join(" ");
        if !finding.is_empty() {
            text += &format!("{finding}\n\n");
        }
        text += &self.data_paragraph();
        for note in &self.notes {
            text += &format!("\n{note}\n");
        }
        text += "\n## Parameters\n\n";
        text += &self.parameters().markdown();
        text += "\n## Final test accuracy and loss\n\n";
        text += &self.finals_section();
        text += "\n## The published conclusion\n\n";
        text += &self.claims_section();
        text += "\n## The best epoch against the last\n\n";
        text += &self.selection_section();
        text += "\n## Cost\n\n";
        text += &self.cost_section();
        text += "\n## Epoch by epoch\n\n";
        text += &self.curves_section();
        text += "\n## Runs\n\n";
        text += &self.runs_table().markdown();
        text
    }

    /// Counts and final figures, one line a network and aligned with spaces: for a terminal.
    pub fn to_table(&self) -> String {
        if self.verdict == Verdict::NotJudged {
            return self.ablation_table().plain();
        }
        let mut table = Table::new([
            ("network", Left),
            ("parameters", Right),
            ("published", Right),
            ("seeds", Right),
            ("test accuracy %", Right),
            ("published", Right),
            ("test loss", Right),
            ("published", Right),
        ]);
        for network in &self.networks {
            let ours = |figure: &Option<Figure>, measure: Measure| {
                figure.as_ref().map_or(NONE.into(), |figure| measure.sample(&figure.ours))
            };
            // Beside accuracies of made-up images the published ones would mislead.
            let theirs = |figure: &Option<Figure>, measure: Measure| {
                let published =
                    figure.as_ref().filter(|_| !self.data.synthetic).and_then(|figure| figure.published);
                published.map_or(NONE.into(), |published| measure.show(published))
            };
            table.row([
                network.name.clone(),
                count(network.parameters),
                count(network.published_parameters),
                network.seeds.len().to_string(),
                ours(&network.accuracy, ACCURACY),
                theirs(&network.accuracy, ACCURACY),
                ours(&network.loss, LOSS),
                theirs(&network.loss, LOSS),
            ]);
        }
        table.plain()
    }

    /// A family of networks beside each other.
    fn ablation_markdown(&self) -> String {
        let mut text = format!("# Networks beside each other\n\n**{}**\n\n", self.headline());
        text += &self.data_paragraph();
        text += "\n## Accuracy and cost\n\n";
        text += &self.ablation_table().markdown();
        text += "\nAccuracy and loss are on the test set after the last epoch: the mean over the seeds ± standard deviation. MACs: \
                 multiply-accumulates of one forward pass of one image. Seconds: training and evaluation of one epoch, mean over \
                 the runs; where they ran is told below.\n\n## Epoch by epoch\n\n";
        text += &self.curves_section();
        text += "\n## Runs\n\n";
        text += &self.runs_table().markdown();
        text
    }

    fn ablation_table(&self) -> Table {
        let mut table = Table::new([
            ("network", Left),
            ("seeds", Right),
            ("test accuracy %", Right),
            ("test loss", Right),
            ("parameters", Right),
            ("MACs per image", Right),
            ("seconds per epoch", Right),
        ]);
        for network in &self.networks {
            let ours = |figure: &Option<Figure>, measure: Measure| {
                figure.as_ref().map_or(NONE.into(), |figure| measure.sample(&figure.ours))
            };
            table.row([
                network.name.clone(),
                network.seeds.len().to_string(),
                ours(&network.accuracy, ACCURACY),
                ours(&network.loss, LOSS),
                count(network.parameters),
                count(network.macs),
                network.seconds_per_epoch.map_or(NONE.into(), |seconds| decimals(seconds, 1)),
            ]);
        }
        table
    }

    fn data_paragraph(&self) -> String {
        let data = &self.data;
        let held_out = match data.validation_images {
            0 => String::new(),
            images => format!(", {} held out", thousands(images.into())),
        };
        let warning = if data.synthetic {
            let shown = match self.verdict {
                Verdict::NotJudged => "",
                _ => "the networks are the published ones and that ",
            };
            format!(
                "\n\nThe images are **synthetic**: made up, easy, and not CIFAR-10. What this study can show is that {shown}the \
                 whole path from images to report works."
            )
        } else {
            String::new()
        };
        format!(
            "Data: {}; {} training images{held_out}, {} test images (fingerprint `{}`).{warning}\n",
            data.source,
            thousands(data.train_images.into()),
            thousands(data.test_images.into()),
            data.fingerprint
        )
    }

    fn parameters(&self) -> Table {
        let mut table =
            Table::new([("network", Left), ("ours", Right), ("published", Right), ("equal", Left)]);
        for network in &self.networks {
            let equal = match network.parameters {
                None => NONE,
                Some(_) if network.counts_as_published() => "yes",
                Some(_) => "no",
            };
            table.row([
                network.name.clone(),
                count(network.parameters),
                count(network.published_parameters),
                equal.into(),
            ]);
        }
        table
    }

    fn finals_section(&self) -> String {
        let mut text = String::new();
        for (measure, figure) in [
            (ACCURACY, (|network| network.accuracy.as_ref()) as fn(&NetworkReport) -> Option<&Figure>),
            (LOSS, |network| network.loss.as_ref()),
        ] {
            if self.data.synthetic {
                text += &own_finals(&self.networks, measure, figure).markdown();
            } else {
                text += &finals(&self.networks, measure, figure).markdown();
            }
            text.push('\n');
        }
        if self.data.synthetic {
            return text
                + "Figures are the mean over the seeds ± standard deviation, on synthetic images; they have no published counterpart.\n";
        }
        text += "Ours is the mean over the seeds ± standard deviation; difference is ours minus published.";
        let comparisons: Vec<&Comparison> = self.comparisons().collect();
        if comparisons.is_empty() {
            return text
                + if matches!(self.verdict, Verdict::NotComparable { .. }) {
                    " These runs are not of the published experiment, so there is no interval to judge by.\n"
                } else {
                    " There are too few seeds for an interval, here and in the record.\n"
                };
        }
        text += " The interval is where the published figure falls in 95 of 100 faithful reproductions: m ± t s √(1/n + 1/k), for n \
                 seeds with mean m and k published runs. *Detectable* is the smallest difference that these runs would have called \
                 significant in 8 of 10 cases. p is Holm's, over all figures that decide; - where a figure does not.";
        if comparisons.iter().any(|comparison| comparison.spread.source == SpreadSource::Seeds) {
            text += " Spread *seeds*: s is the standard deviation from seed to seed of our runs, drawn towards that of the other \
                     networks by as much as they are alike (moderated variance, Smyth 2004); in brackets its degrees of freedom.";
        }
        if !self.record.is_empty() {
            text += &format!(
                " Spread *record*: there are fewer than {SEEDS_FOR_SPREAD} seeds, so s is **not from these runs**, but from the \
                 repository's record of the study ({}).",
                self.record_seeds()
            );
        }
        for homogeneity in &self.homogeneity {
            text += &format!(
                " That all networks have one spread of the {} has {} (Bartlett).",
                homogeneity.figure,
                p_is(homogeneity.p)
            );
        }
        text += "\n\n";
        if let Some(curve) = &self.curve {
            text += &format!(
                "The {} other figures together, test loss and every epoch's: {} of them lie outside of their 95 % intervals (1 in 20 \
                 does by chance, and neighbours move together), farthest {}. Together {} (Benjamini and Yekutieli), so the \
                 published curves {}.\n\n",
                curve.figures,
                curve.outside,
                curve.farthest,
                p_is(curve.p),
                if curve.differs() { "are **not** curves of ours" } else { "could be curves of ours" }
            );
        }
        text += &format!(
            "The sampling noise of {} test images is about {} points; it is not added to the interval, because the published \
             figure is measured on the same images. It does apply to any of these accuracies as an estimate for other images.\n",
            thousands(self.data.test_images.into()),
            decimals(100.0 * self.sampling_noise(), 1)
        );
        text
    }

    /// `alexnet 42, 43, 44; nin 42`.
    pub(crate) fn record_seeds(&self) -> String {
        let network = |record: &crate::RecordSeeds| {
            let seeds: Vec<String> = record.seeds.iter().map(u64::to_string).collect();
            format!("{} {}", record.network, seeds.join(", "))
        };
        self.record.iter().map(network).collect::<Vec<_>>().join("; ")
    }

    /// Standard deviation of an accuracy around the ones found, over the choice of test images.
    fn sampling_noise(&self) -> f64 {
        let accuracies: Vec<f64> = self
            .networks
            .iter()
            .filter_map(|network| network.accuracy.as_ref())
            .map(|figure| figure.ours.mean)
            .collect();
        let p = accuracies.iter().sum::<f64>() / accuracies.len() as f64;
        (p * (1.0 - p) / f64::from(self.data.test_images)).sqrt()
    }

    fn claims_section(&self) -> String {
        let mut table = Table::new([
            ("claim", Left),
            ("ours", Right),
            ("interval", Right),
            ("published", Right),
            ("judgement", Left),
        ]);
        for claim in self.claims.iter().filter(|claim| !(self.data.synthetic && claim.unit == Unit::Points)) {
            table.row([
                claim.text.clone(),
                claim.ours.map_or(NONE.into(), |number| claim.show(number)),
                claim.show_interval().unwrap_or_else(|| NONE.into()),
                claim.show(claim.published),
                claim.judgement().into(),
            ]);
        }
        let note = if self.data.synthetic {
            "\nThe ratios need no training. Differences of accuracy on synthetic images say nothing about the conclusion and are left \
             out.\n"
        } else {
            "\nThe published conclusion is that pointwise convolutions control channel depth with few parameters, at comparable \
             accuracy. Counts are compared exactly. A difference holds where its 95 % interval (Welch) lies on the published side of \
             zero. Networks are as accurate as each other where the 90 % interval lies within the margin (two one-sided tests at 5 %), \
             and not where it lies beyond. These judgements are one by one, without a correction for their number.\n"
        };
        table.markdown() + note
    }

    fn selection_section(&self) -> String {
        let mut table = Table::new([("network", Left), ("gap, points", Right), ("best epoch by seed", Left)]);
        for network in &self.networks {
            let gap = network.selection_gap.as_ref().map_or(NONE.into(), |gap| {
                let measure = Measure { name: "gap", scale: 100.0, places: 2 };
                match gap.deviation {
                    Some(deviation) => {
                        format!("{} ± {}", signed(100.0 * gap.mean, 2), measure.show(deviation))
                    }
                    None => signed(100.0 * gap.mean, 2),
                }
            });
            let best: Vec<String> = network
                .seeds
                .iter()
                .filter_map(|&seed| {
                    let run = self.runs.iter().find(|run| run.model == network.name && run.seed == seed)?;
                    Some(format!("{} ({seed})", run.result.as_ref()?.best_epoch))
                })
                .collect();
            table.row([
                network.name.clone(),
                gap,
                if best.is_empty() { NONE.into() } else { best.join(", ") },
            ]);
        }
        let note = if self.data.validation_images == 0 {
            "The best epoch was chosen by the accuracy on the test set itself, as the study does, so its accuracy is too good by \
             part of this gap."
        } else {
            "The best epoch was chosen by held-out images, so its test accuracy is an honest one and the gap can be negative."
        };
        format!("{}\nTest accuracy of the best epoch minus that of the last. {note}\n", table.markdown())
    }

    fn cost_section(&self) -> String {
        let mut table = Table::new([
            ("network", Left),
            ("parameters", Right),
            ("MACs per image", Right),
            ("seconds per epoch", Right),
        ]);
        for network in &self.networks {
            let seconds = network.seconds_per_epoch.map_or(NONE.into(), |seconds| decimals(seconds, 1));
            table.row([network.name.clone(), count(network.parameters), count(network.macs), seconds]);
        }
        format!(
            "{}\nMACs: multiply-accumulates of one forward pass. Seconds: training and evaluation of one epoch, mean over the \
             runs; where they ran is told below.\n",
            table.markdown()
        )
    }

    fn curves_section(&self) -> String {
        let mut text = String::new();
        for network in self.networks.iter().filter(|network| !network.epochs.is_empty()) {
            text += &format!("### {}\n\n", network.name);
            text += &curve(network, !self.data.synthetic).markdown();
            text.push('\n');
        }
        if text.is_empty() {
            return "No run has completed an epoch.\n".into();
        }
        text + if self.data.synthetic {
            "Means over the seeds, on synthetic images.\n"
        } else if self.verdict == Verdict::NotJudged {
            "Means over the seeds; beside those of the study's networks the published figures (pub.).\n"
        } else {
            "Means over the seeds, the published figures (pub.), and the 95 % intervals that they should lie in; * where one does \
             not, as 1 in 20 does by chance.\n"
        }
    }

    fn runs_table(&self) -> Table {
        let mut table = Table::new([
            ("run", Left),
            ("final acc %", Right),
            ("loss", Right),
            ("best acc %", Right),
            ("epoch", Right),
            ("time", Right),
            ("memory MiB", Right),
            ("engine", Left),
            ("device", Left),
            ("precision", Left),
            ("threads", Right),
            ("processor", Left),
            ("commit", Left),
        ]);
        for run in &self.runs {
            let result = |show: &dyn Fn(&pointwise_runs::RunResult) -> String| {
                run.result.as_ref().map_or(NONE.into(), show)
            };
            let memory = |bytes: Option<u64>| bytes.map_or(NONE.into(), |bytes| thousands(bytes >> 20));
            table.row([
                run.name.clone(),
                result(&|result| percent(result.final_acc)),
                result(&|result| decimals(result.final_loss, 4)),
                result(&|result| percent(result.best_acc)),
                result(&|result| result.best_epoch.to_string()),
                result(&|result| duration(result.seconds)),
                result(&|result| memory(result.peak_memory_bytes)),
                run.engine.clone(),
                run.device.clone(),
                run.precision.clone(),
                run.threads.to_string(),
                run.processor.clone(),
                run.commit.as_deref().unwrap_or(NONE).chars().take(10).collect(),
            ]);
        }
        table
    }
}

impl Claim {
    pub(crate) fn judgement(&self) -> &'static str {
        match self.outcome {
            Outcome::Holds => "holds",
            Outcome::Fails => "does not hold",
            Outcome::Undecided => "undecided",
            Outcome::NotJudged => NONE,
        }
    }

    /// In points; only differences of accuracies have an interval.
    pub(crate) fn show_interval(&self) -> Option<String> {
        let (low, high) = self.interval?;
        Some(format!("{} to {}", signed(100.0 * low, 2), signed(100.0 * high, 2)))
    }

    pub(crate) fn show(&self, number: f64) -> String {
        match self.unit {
            Unit::Share => decimals(100.0 * number, 1) + " %",
            Unit::Times => decimals(number, 2) + "x",
            Unit::Points => signed(100.0 * number, 2) + " points",
        }
    }
}

fn count(number: Option<u64>) -> String {
    number.map_or(NONE.into(), thousands)
}

type Pick = fn(&NetworkReport) -> Option<&Figure>;

fn finals(networks: &[NetworkReport], measure: Measure, figure: Pick) -> Table {
    let mut table = Table::new([
        ("network", Left),
        ("seeds", Right),
        (measure.name, Right),
        ("published", Right),
        ("difference", Right),
        ("95 % interval", Right),
        ("p", Right),
        ("detectable", Right),
        ("spread", Left),
    ]);
    for network in networks {
        let seeds = network.seeds.len().to_string();
        let Some(figure) = figure(network) else {
            table.row([network.name.as_str(), &seeds, NONE, NONE, NONE, NONE, NONE, NONE, NONE]);
            continue;
        };
        let mut row = vec![
            network.name.clone(),
            seeds,
            measure.sample(&figure.ours),
            figure.published.map_or(NONE.into(), |published| measure.show(published)),
            figure.published.map_or(NONE.into(), |published| {
                signed((figure.ours.mean - published) * measure.scale, measure.places)
            }),
        ];
        match &figure.comparison {
            Some(comparison) => row.extend([
                format!("{} to {}", measure.show(comparison.low), measure.show(comparison.high)),
                comparison.corrected.map_or(NONE.into(), show_p),
                measure.show(comparison.detectable),
                comparison.spread.show(measure),
            ]),
            None => row.extend([NONE; 4].map(String::from)),
        }
        table.row(row);
    }
    table
}

impl Spread {
    /// `seeds: 0.81 (8.7)`.
    fn show(&self, measure: Measure) -> String {
        let source = match self.source {
            SpreadSource::Seeds => "seeds",
            SpreadSource::Record => "record",
        };
        format!("{source}: {} ({})", measure.show(self.deviation), decimals(self.degrees_of_freedom, 1))
    }
}

/// Without published figures beside them.
fn own_finals(networks: &[NetworkReport], measure: Measure, figure: Pick) -> Table {
    let mut table = Table::new([("network", Left), ("seeds", Right), (measure.name, Right)]);
    for network in networks {
        let value = figure(network).map_or(NONE.into(), |figure| measure.sample(&figure.ours));
        table.row([network.name.clone(), network.seeds.len().to_string(), value]);
    }
    table
}

fn curve(network: &NetworkReport, beside_published: bool) -> Table {
    let titles = ["train loss", "train acc %", "test loss", "test acc %"];
    let has = |what: fn(&Figure) -> bool| {
        let figures =
            |epoch: &EpochReport| EpochMeasure::ALL.iter().any(|&it| epoch.figure(it).is_some_and(what));
        beside_published && network.epochs.iter().any(figures)
    };
    let (published, intervals) =
        (has(|figure| figure.published.is_some()), has(|figure| figure.comparison.is_some()));
    let mut columns = vec![("epoch", Right)];
    for title in titles {
        columns.push((title, Right));
        if published {
            columns.push(("pub.", Right));
        }
        if intervals {
            columns.push(("interval", Right));
        }
    }
    let mut table = Table::new(columns);
    for epoch in &network.epochs {
        let mut row = vec![epoch.epoch.to_string()];
        for (which, measure) in EpochMeasure::ALL.into_iter().zip([LOSS, ACCURACY, LOSS, ACCURACY]) {
            let figure = epoch.figure(which);
            let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.into());
            row.push(or_none(figure.map(|figure| measure.show(figure.ours.mean))));
            let comparison = figure.and_then(|figure| figure.comparison.as_ref());
            if published {
                let mark = if comparison.is_some_and(|it| !it.within()) { "*" } else { "" };
                let theirs = figure.and_then(|figure| figure.published);
                row.push(or_none(theirs.map(|theirs| format!("{mark}{}", measure.show(theirs)))));
            }
            if intervals {
                row.push(or_none(
                    comparison.map(|it| format!("{} to {}", measure.show(it.low), measure.show(it.high))),
                ));
            }
        }
        table.row(row);
    }
    table
}
