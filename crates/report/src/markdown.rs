//! A study as text: `report.md`, and the table for a terminal.

use pointwise_study::Metric;

use crate::{
    EpochReport, Figure, NetworkReport, Sample, Spread, SpreadSource, StudyReport, Verdict, effect,
    figure::{FigureId, places, scale},
    judgement::{p_is, show_p},
    number::{decimals, duration, percent, signed, thousands},
    statistics::SEEDS_FOR_SPREAD,
    table::{
        Align::{Left, Right},
        Table,
    },
};

/// A value of ours in a table.
fn show(metric: Metric, value: f64) -> String {
    decimals(value * scale(metric), places(metric))
}

/// `78.58 ± 0.31`, or the mean alone.
fn show_sample(metric: Metric, sample: &Sample) -> String {
    match sample.deviation {
        Some(deviation) => format!("{} ± {}", show(metric, sample.mean), show(metric, deviation)),
        None => show(metric, sample.mean),
    }
}

/// Shown where there is no number.
const NONE: &str = "-";

impl StudyReport {
    /// The study as Markdown.
    pub fn to_markdown(&self) -> String {
        let mut text = format!("# {}\n\n**{}**\n\n", self.study.title, self.headline());
        for finding in self.findings() {
            text += &format!("* {finding}\n");
        }
        if !self.findings().is_empty() {
            text.push('\n');
        }
        text += &self.about();
        text += &self.data_paragraph();
        for note in &self.notes {
            text += &format!("\n{note}\n");
        }
        if self.verdict == Verdict::NotJudged {
            text += "\n## Accuracy and cost\n\n";
            text += &self.beside_table().markdown();
            text += "\nAccuracy and loss are on the test set after the last epoch: the mean over the seeds ± standard deviation. MACs: \
                     multiply-accumulates of one forward pass of one image. Seconds: training and evaluation of one epoch, mean over \
                     the runs; where they ran is told below.\n";
        } else {
            if self.has_counts() {
                text += "\n## Parameters\n\n";
                text += &self.parameters().markdown();
            }
            text += "\n## Final test accuracy and loss\n\n";
            text += &self.finals_section();
        }
        if !self.claims.is_empty() {
            text += match self.verdict {
                Verdict::NotJudged => "\n## Claims\n\n",
                _ => "\n## The published conclusion\n\n",
            };
            text += &self.claims_section();
        }
        if !self.effects.is_empty() {
            text += "\n## Effects\n\n";
            text += &self.effects_section();
        }
        if self.verdict != Verdict::NotJudged {
            text += "\n## The best epoch against the last\n\n";
            text += &self.selection_section();
            text += "\n## Cost\n\n";
            text += &self.cost_section();
        }
        text += "\n## Epoch by epoch\n\n";
        text += &self.curves_section();
        text += "\n## Runs\n\n";
        text += &self.runs_table().markdown();
        text
    }

    /// Counts and final figures, one line a network and aligned with spaces: for a terminal.
    pub fn to_table(&self) -> String {
        if self.verdict == Verdict::NotJudged {
            return self.beside_table().plain();
        }
        let mut columns = vec![
            ("network", Left),
            ("parameters", Right),
            ("published", Right),
            ("seeds", Right),
            ("test accuracy %", Right),
            ("published", Right),
            ("test loss", Right),
            ("published", Right),
        ];
        if self.has_views() {
            columns.extend([(WITH_VIEWS, Right), ("published", Right)]);
        }
        let mut table = Table::new(columns);
        for network in &self.networks {
            let ours = |figure: &Option<Figure>, metric: Metric| {
                figure.as_ref().map_or(NONE.into(), |figure| show_sample(metric, &figure.ours))
            };
            // Next to accuracies on synthetic images, the published ones would mislead.
            let theirs = |figure: &Option<Figure>, metric: Metric| {
                let figure = figure.as_ref().filter(|_| !self.data.stand_in);
                figure.and_then(|figure| figure.show_published(metric)).unwrap_or_else(|| NONE.into())
            };
            let mut row = vec![
                network.name.clone(),
                count(network.parameters),
                count(network.published_parameters),
                network.seeds.len().to_string(),
                ours(&network.accuracy, Metric::TestAcc),
                theirs(&network.accuracy, Metric::TestAcc),
                ours(&network.loss, Metric::TestLoss),
                theirs(&network.loss, Metric::TestLoss),
            ];
            if self.has_views() {
                let (metric, figure) = (Metric::TtaTestAcc, &network.tta_accuracy);
                row.extend([ours(figure, metric), theirs(figure, metric)]);
            }
            table.row(row);
        }
        table.plain()
    }

    /// What the study asks, who published it, and what it concluded, each a paragraph.
    fn about(&self) -> String {
        let about = &self.study;
        let mut text = String::new();
        for paragraph in about.question.split("\n\n").filter(|paragraph| !paragraph.trim().is_empty()) {
            text += &format!("{}\n\n", paragraph.trim());
        }
        if !about.conclusion.is_empty() {
            text += &format!("Conclusion: {}\n\n", about.conclusion);
        }
        if !about.source.is_empty() {
            text += &format!("Published: {}.", about.source);
            text += if about.note.is_empty() { "\n\n" } else { " " };
        }
        if !about.note.is_empty() {
            text += &format!("{}\n\n", about.note);
        }
        text
    }

    /// The networks side by side.
    fn beside_table(&self) -> Table {
        let mut columns =
            vec![("network", Left), ("seeds", Right), ("test accuracy %", Right), ("test loss", Right)];
        if self.has_views() {
            columns.push((WITH_VIEWS, Right));
        }
        columns.extend([("parameters", Right), ("MACs per image", Right), ("seconds per epoch", Right)]);
        let mut table = Table::new(columns);
        for network in &self.networks {
            let ours = |figure: &Option<Figure>, metric: Metric| {
                figure.as_ref().map_or(NONE.into(), |figure| show_sample(metric, &figure.ours))
            };
            let mut row = vec![
                network.name.clone(),
                network.seeds.len().to_string(),
                ours(&network.accuracy, Metric::TestAcc),
                ours(&network.loss, Metric::TestLoss),
            ];
            if self.has_views() {
                row.push(ours(&network.tta_accuracy, Metric::TtaTestAcc));
            }
            row.extend([
                count(network.parameters),
                count(network.macs),
                network.seconds_per_epoch.map_or(NONE.into(), |seconds| decimals(seconds, 1)),
            ]);
            table.row(row);
        }
        table
    }

    fn data_paragraph(&self) -> String {
        let data = &self.data;
        let held_out = match data.validation_images {
            0 => String::new(),
            images => format!(", {} held out", thousands(images.into())),
        };
        let warning = if data.stand_in {
            let shown = if self.has_counts() { "the networks are the published ones and that " } else { "" };
            format!(
                "\n\nThe images are **synthetic**: made up, easy, and not {}. What these runs can show is that {shown}the whole path \
                 from images to report works.",
                self.study.images
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
        for id in self.shown_figures() {
            let table =
                if self.data.stand_in { own_finals(&self.networks, id) } else { finals(&self.networks, id) };
            text += &table.markdown();
            text.push('\n');
        }
        if self.data.stand_in {
            return text
                + "Figures are the mean over the seeds ± standard deviation, on synthetic images; they have no published counterpart.\n";
        }
        text += "Ours is the mean over the seeds ± standard deviation; difference is ours minus published.";
        let spreads: Vec<Spread> =
            self.comparisons().map(|it| it.spread).chain(self.bounds().map(|it| it.spread)).collect();
        if spreads.is_empty() {
            return text
                + if matches!(self.verdict, Verdict::NotComparable { .. }) {
                    " These runs are not of the published experiment, so there is no interval to judge by.\n"
                } else {
                    " There are too few seeds for an interval, here and in the record.\n"
                };
        }
        if self.comparisons().next().is_some() {
            text += " The interval is where the published figure falls in 95 of 100 faithful reproductions: m ± t √(s²/n + s²/k + \
                     u²/12), for n seeds with mean m, k published runs and a figure printed in units of u. *Detectable* is the smallest \
                     difference that these runs would have called significant in 8 of 10 cases. p is Holm's, over all figures that \
                     decide; - where a figure does not.";
        }
        if self.bounds().next().is_some() {
            text += " Of a figure that was claimed to be reached (≥, of losses ≤) the interval is that of our mean, m ± t s/√n with \
                     90 %: the claim holds where all of it is beyond, and fails where none of it is and p, Holm's too, is below 5 %.";
        }
        if spreads.iter().any(|spread| spread.source == SpreadSource::Seeds) {
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
                "The {} other figures together: {} of them lie outside of their 95 % intervals (1 in 20 \
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
        let shown = || self.claims.iter().filter(|claim| claim.counted || !self.data.stand_in);
        for claim in shown() {
            table.row([
                claim.text.clone(),
                claim.ours.map_or(NONE.into(), |number| claim.show(number)),
                claim.show_interval().unwrap_or_else(|| NONE.into()),
                claim.published.map_or(NONE.into(), |number| claim.show(number)),
                claim.judgement().into(),
            ]);
        }
        let mut notes: Vec<&str> = Vec::new();
        if shown().any(|claim| claim.counted) {
            notes.push("Counts are compared exactly, or as far as a published number was rounded.");
        }
        if shown().any(|claim| !claim.counted && claim.margin.is_none()) {
            notes.push(
                "A difference holds where its 95 % interval (Welch) lies on the published side of zero, a ratio where its interval \
                 (Fieller) lies on the published side of one.",
            );
        }
        if shown().any(|claim| !claim.counted && claim.margin.is_some()) {
            notes.push(
                "Networks are comparable where the 90 % interval lies within the margin (two one-sided tests at 5 %), and not where it \
                 lies beyond.",
            );
        }
        if shown().any(|claim| !claim.counted) {
            notes.push("These judgements are one by one, without a correction for their number.");
        }
        if self.data.stand_in {
            notes.push(
                "What is measured on synthetic images says nothing about the conclusion and is left out.",
            );
        }
        format!("{}\n{}\n", table.markdown(), notes.join(" "))
    }

    fn effects_section(&self) -> String {
        let align = |column: usize| if column == 0 { Left } else { Right };
        let mut table =
            Table::new(effect::COLUMNS.into_iter().enumerate().map(|(at, name)| (name, align(at))));
        for effect in &self.effects {
            table.row(effect.row(NONE));
        }
        format!("{}\n{}\n", table.markdown(), effect::NOTE)
    }

    fn selection_section(&self) -> String {
        let mut table = Table::new([("network", Left), ("gap, points", Right), ("best epoch by seed", Left)]);
        for network in &self.networks {
            let gap = network.selection_gap.as_ref().map_or(NONE.into(), |gap| match gap.deviation {
                Some(deviation) => {
                    format!("{} ± {}", signed(100.0 * gap.mean, 2), decimals(100.0 * deviation, 2))
                }
                None => signed(100.0 * gap.mean, 2),
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
            text += &curve(network, !self.data.stand_in).markdown();
            text.push('\n');
        }
        if text.is_empty() {
            return "No run has completed an epoch.\n".into();
        }
        let has = |what: fn(&Figure) -> bool| {
            let of = |epoch: &EpochReport| {
                Metric::OF_EPOCHS.iter().any(|metric| epoch.figure(*metric).is_some_and(what))
            };
            self.networks.iter().flat_map(|network| &network.epochs).any(of)
        };
        text + if self.data.stand_in {
            "Means over the seeds, on synthetic images.\n"
        } else if has(|figure| figure.comparison.is_some()) {
            "Means over the seeds, the published figures (pub.), and the 95 % intervals that they should lie in; * where one does \
             not, as 1 in 20 does by chance.\n"
        } else if has(|figure| figure.published.is_some()) {
            "Means over the seeds, and the published figures (pub.).\n"
        } else {
            "Means over the seeds.\n"
        }
    }

    fn runs_table(&self) -> Table {
        let has_views =
            self.runs.iter().filter_map(|run| run.result.as_ref()).any(|it| it.tta_test_acc.is_some());
        let mut columns = vec![("run", Left), ("final acc %", Right), ("loss", Right)];
        if has_views {
            columns.push(("TTA acc %", Right));
        }
        columns.extend([
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
        let mut table = Table::new(columns);
        for run in &self.runs {
            let result = |show: &dyn Fn(&pointwise_runs::RunResult) -> String| {
                run.result.as_ref().map_or(NONE.into(), show)
            };
            let memory = |bytes: Option<u64>| bytes.map_or(NONE.into(), |bytes| thousands(bytes >> 20));
            let mut row = vec![
                run.name.clone(),
                result(&|result| percent(result.final_acc)),
                result(&|result| decimals(result.final_loss, 4)),
            ];
            if has_views {
                row.push(result(&|result| result.tta_test_acc.map_or(NONE.into(), percent)));
            }
            row.extend([
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
            table.row(row);
        }
        table
    }
}

/// The title of accuracies with test-time augmentation.
const WITH_VIEWS: &str = "TTA test accuracy %";

fn count(number: Option<u64>) -> String {
    number.map_or(NONE.into(), thousands)
}

/// `accuracy %` of the final test accuracy, and the like.
fn title(id: FigureId) -> String {
    let unit = if id.metric.is_accuracy() { " %" } else { "" };
    match (id.epoch, id.metric) {
        (None, Metric::TestAcc) => "accuracy %".to_owned(),
        (None, Metric::TestLoss) => "loss".to_owned(),
        (None, Metric::TtaTestAcc) => WITH_VIEWS.to_owned(),
        _ => id.name() + unit,
    }
}

fn finals(networks: &[NetworkReport], id: FigureId) -> Table {
    let (metric, title) = (id.metric, title(id));
    let mut table = Table::new([
        ("network", Left),
        ("seeds", Right),
        (title.as_str(), Right),
        ("published", Right),
        ("difference", Right),
        ("95 % interval", Right),
        ("p", Right),
        ("detectable", Right),
        ("spread", Left),
    ]);
    for network in networks {
        let seeds = network.seeds.len().to_string();
        let Some(figure) = network.figure(id) else {
            table.row([network.name.as_str(), &seeds, NONE, NONE, NONE, NONE, NONE, NONE, NONE]);
            continue;
        };
        let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.into());
        let spread = match (&figure.comparison, &figure.bound) {
            (Some(comparison), _) => Some(comparison.spread),
            (None, bound) => bound.as_ref().map(|bound| bound.spread),
        };
        let level = if figure.bound.is_some() { " (90 %)" } else { "" };
        table.row([
            network.name.clone(),
            seeds,
            show_sample(metric, &figure.ours),
            or_none(figure.show_published(metric)),
            or_none(
                figure
                    .published
                    .map(|theirs| signed((figure.ours.mean - theirs) * scale(metric), places(metric))),
            ),
            or_none(
                figure
                    .interval()
                    .map(|(low, high)| format!("{} to {}{level}", show(metric, low), show(metric, high))),
            ),
            or_none(figure.corrected().map(show_p)),
            or_none(figure.comparison.as_ref().map(|comparison| show(metric, comparison.detectable))),
            or_none(spread.map(|spread| spread.show(metric))),
        ]);
    }
    table
}

impl Spread {
    /// `seeds: 0.81 (8.7)`.
    fn show(&self, metric: Metric) -> String {
        let source = match self.source {
            SpreadSource::Seeds => "seeds",
            SpreadSource::Record => "record",
        };
        format!("{source}: {} ({})", show(metric, self.deviation), decimals(self.degrees_of_freedom, 1))
    }
}

/// Our final figures, without published ones.
fn own_finals(networks: &[NetworkReport], id: FigureId) -> Table {
    let title = title(id);
    let mut table = Table::new([("network", Left), ("seeds", Right), (title.as_str(), Right)]);
    for network in networks {
        let value = network.figure(id).map_or(NONE.into(), |figure| show_sample(id.metric, &figure.ours));
        table.row([network.name.clone(), network.seeds.len().to_string(), value]);
    }
    table
}

fn curve(network: &NetworkReport, beside_published: bool) -> Table {
    let titles = ["train loss", "train acc %", "test loss", "test acc %"];
    let has = |what: fn(&Figure) -> bool| {
        let figures =
            |epoch: &EpochReport| Metric::OF_EPOCHS.iter().any(|it| epoch.figure(*it).is_some_and(what));
        beside_published && network.epochs.iter().any(figures)
    };
    let (published, intervals) =
        (has(|figure| figure.published.is_some()), has(|figure| figure.interval().is_some()));
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
        for metric in Metric::OF_EPOCHS {
            let figure = epoch.figure(metric);
            let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.into());
            row.push(or_none(figure.map(|figure| show(metric, figure.ours.mean))));
            if published {
                let mark = if figure.is_some_and(|it| !it.is_possible()) { "*" } else { "" };
                let theirs = figure.and_then(|figure| figure.show_published(metric));
                row.push(or_none(theirs.map(|theirs| format!("{mark}{theirs}"))));
            }
            if intervals {
                row.push(or_none(
                    figure
                        .and_then(Figure::interval)
                        .map(|(low, high)| format!("{} to {}", show(metric, low), show(metric, high))),
                ));
            }
        }
        table.row(row);
    }
    table
}
