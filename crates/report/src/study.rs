use std::path::Path;

use pointwise_recipe::DataKind;
use pointwise_runs::{EpochRecord, Run, RunResult, replace_file};
use pointwise_study::{Arm, Metric, Study};
use serde::{Deserialize, Serialize};

use crate::{
    Bound, Claim, Comparison, CurveCheck, Effect, EpochReport, Figure, Homogeneity, NetworkFacts,
    NetworkReport, Record, Result, RunSummary, Sample, SpreadSource, Verdict,
    claim::claims,
    compare::{check_one_study, deviations, is_complete, is_stand_in, seconds_per_epoch},
    effect::effects,
    figure::{FigureId, scale},
    judgement::{judge, sample, verdict},
    number::{decimals, points},
};

/// Runs of a study compared with what was published of it. Accuracies are fractions in [0, 1], losses are in nats.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct StudyReport {
    /// The study.
    pub study: About,
    /// The conclusion.
    pub verdict: Verdict,
    /// Whether all parameter counts, and with them their ratios, are the published ones. Needs no training.
    pub counts_as_published: bool,
    /// The images behind the accuracies.
    pub data: Data,
    /// The precision of the runs that count, as in [`RunConfig::precision`](pointwise_runs::RunConfig::precision).
    pub precision: String,
    /// What a reader must know of how the runs were trained: sentences.
    pub notes: Vec<String>,
    /// The study's arms in their order; one without runs has its counts only.
    pub networks: Vec<NetworkReport>,
    /// How alike the spreads of the networks are, for each figure that decides and has three seeds of two networks.
    pub homogeneity: Vec<Homogeneity>,
    /// The figures that do not decide, together; `None` where nothing is compared.
    pub curve: Option<CurveCheck>,
    /// The networks and seeds of the record that spreads were taken from; empty where all are from the runs themselves.
    pub record: Vec<RecordSeeds>,
    /// The conclusion, judged.
    pub claims: Vec<Claim>,
    /// The effects of changes between the networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effects: Vec<Effect>,
    /// By network in the same order, then by seed.
    pub runs: Vec<RunSummary>,
}

/// What a study is, in its own words.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Its name on command lines and of folders.
    pub name: String,
    /// Its title.
    pub title: String,
    /// What it asks: paragraphs separated by empty lines.
    pub question: String,
    /// What was concluded.
    pub conclusion: String,
    /// Where it was published: author, title, year, link and licence, as far as they are known.
    pub source: String,
    /// What else a reader must know of the published figures.
    pub note: String,
    /// The name of its images.
    pub images: String,
}

impl About {
    fn new(study: &Study) -> Self {
        let source = study.source.clone().unwrap_or_default();
        let year = source.year.map(|year| year.to_string()).unwrap_or_default();
        let parts = [source.author, source.title, year, source.link, source.licence];
        let known: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        let images = match study.data.kind {
            DataKind::Cifar10 | DataKind::Huggingface => "CIFAR-10",
            DataKind::Cifar100 => "CIFAR-100",
            DataKind::Cifar100Coarse => "CIFAR-100 with its coarse labels",
            DataKind::Mnist => "MNIST",
            DataKind::FashionMnist => "Fashion-MNIST",
            DataKind::Folder => "the study's images",
            DataKind::Synthetic => "synthetic images",
        };
        Self {
            name: study.name.clone(),
            title: study.title.clone(),
            question: study.question.trim().to_owned(),
            conclusion: study.conclusion.trim().to_owned(),
            source: known.join(", "),
            note: source.note.trim().to_owned(),
            images: images.to_owned(),
        }
    }
}

/// A network of the record whose spread judged a study with few seeds.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct RecordSeeds {
    /// The network.
    pub network: String,
    /// The seeds of its runs in the record.
    pub seeds: Vec<u64>,
}

/// The images that all runs of a study share.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// Where they came from.
    pub source: String,
    /// Hash of images and labels.
    pub fingerprint: String,
    /// Whether they are synthetic.
    pub synthetic: bool,
    /// Whether they stand in for the study's own: accuracies then say nothing about those.
    pub stand_in: bool,
    /// Images trained on.
    pub train_images: u32,
    /// Images held out.
    pub validation_images: u32,
    /// Images tested on.
    pub test_images: u32,
}

impl StudyReport {
    /// Combines the runs of a study and judges them by what was published of it. If there are too few seeds, the spread between them is
    /// that of the study's record. Runs that are under way or were cut short are listed but not counted.
    ///
    /// # Errors
    /// If the runs are not observations of the study: see [`Error`](crate::Error).
    pub fn new(runs: &[Run], facts: &[NetworkFacts], study: &Study) -> Result<Self> {
        let mut report = Self::side_by_side(runs, facts, study)?;
        let runs = sorted(runs, study);
        report.effects = effects(&report.networks, &report.runs, study);
        let mut not_comparable = deviations(&runs, study);
        let comparable = not_comparable.is_empty();
        if !study.is_published() {
            if !comparable && !report.data.stand_in {
                report.notes.push(format!(
                    "These runs are not as the study describes them: {}.",
                    not_comparable.join(", ")
                ));
            }
            report.claims = claims(&report.networks, study, !report.data.stand_in);
            return Ok(report);
        }
        for run in runs.iter().filter(|run| !is_complete(run)) {
            not_comparable.push(format!("the run {} is not complete", name(run)));
        }
        if comparable {
            let record = study.record.as_deref().map(Record::parse).transpose()?;
            // Another precision has another spread.
            let record = record.filter(|record| record.precision == report.precision);
            let judged = judge(&mut report.networks, study, record.as_ref());
            (report.homogeneity, report.curve) = (judged.homogeneity, judged.curve);
            report.record = record.map_or_else(Vec::new, |record| report.borrowed(&record));
        }
        report.verdict = verdict(&report.networks, study, report.curve.as_ref(), not_comparable);
        report.claims = claims(&report.networks, study, comparable);
        Ok(report)
    }

    /// A report without verdict, comparisons and claims.
    fn side_by_side(runs: &[Run], facts: &[NetworkFacts], study: &Study) -> Result<Self> {
        let runs = sorted(runs, study);
        check_one_study(&runs, facts, study)?;
        let first = runs[0];
        let (precision, notes) = settings(&runs);
        let networks: Vec<_> = study
            .arms
            .iter()
            .map(|arm| {
                let counts = |run: &&Run| {
                    run.config.model == arm.name
                        && is_complete(run)
                        && run.config.precision.name() == precision
                };
                let of_network: Vec<&Run> = runs.iter().copied().filter(counts).collect();
                let facts = facts.iter().find(|facts| facts.model == arm.name);
                report_network(arm, facts, &of_network)
            })
            .collect();
        let environment = &first.environment;
        let data = Data {
            source: environment.data_source.clone(),
            fingerprint: environment.data_fingerprint.clone(),
            synthetic: environment.data_synthetic,
            stand_in: is_stand_in(first, study),
            train_images: environment.train_images,
            validation_images: environment.validation_images,
            test_images: environment.test_images,
        };
        Ok(Self {
            study: About::new(study),
            verdict: Verdict::NotJudged,
            counts_as_published: networks.iter().all(NetworkReport::counts_as_published),
            data,
            precision,
            notes,
            networks,
            homogeneity: Vec::new(),
            curve: None,
            record: Vec::new(),
            claims: Vec::new(),
            effects: Vec::new(),
            runs: runs.into_iter().map(summarise).collect(),
        })
    }

    /// The networks whose spread is the record's, with its seeds. Where networks share their spreads, all of them count.
    fn borrowed(&self, record: &Record) -> Vec<RecordSeeds> {
        let mut spreads = self.comparisons().map(|it| it.spread).chain(self.bounds().map(|it| it.spread));
        if !spreads.any(|spread| spread.source == SpreadSource::Record) {
            return Vec::new();
        }
        let seeds = |network: &crate::RecordedNetwork| RecordSeeds {
            network: network.name.clone(),
            seeds: network.seeds.clone(),
        };
        record.networks.iter().map(seeds).collect()
    }

    /// All figures, the final ones first.
    fn figures(&self) -> impl Iterator<Item = (Metric, &Figure)> {
        self.networks.iter().flat_map(|network| {
            let last = Metric::ALL.into_iter().map(|metric| (metric, network.figure(FigureId::last(metric))));
            let epochs = network
                .epochs
                .iter()
                .flat_map(|epoch| Metric::OF_EPOCHS.map(|metric| (metric, epoch.figure(metric))));
            last.chain(epochs).filter_map(|(metric, figure)| Some((metric, figure?)))
        })
    }

    pub(crate) fn comparisons(&self) -> impl Iterator<Item = &Comparison> {
        self.figures().filter_map(|(_, figure)| figure.comparison.as_ref())
    }

    /// The judgements of claims that a result is a given value or better.
    pub(crate) fn bounds(&self) -> impl Iterator<Item = &Bound> {
        self.figures().filter_map(|(_, figure)| figure.bound.as_ref())
    }

    /// The comparisons of the figures that decide.
    pub(crate) fn decisive(&self) -> impl Iterator<Item = (Metric, &Comparison)> {
        let decisive =
            |figure: &'_ Figure| figure.comparison.as_ref().is_some_and(|it| it.corrected.is_some());
        self.figures()
            .filter(move |(_, figure)| decisive(figure))
            .filter_map(|(metric, figure)| Some((metric, figure.comparison.as_ref()?)))
    }

    /// Whether anything was judged that decides.
    pub(crate) fn is_decided(&self) -> bool {
        self.decisive().next().is_some() || self.bounds().next().is_some()
    }

    /// The smallest difference that would have been noticed in 8 of 10 cases in any deciding accuracy, in points, and loss, in nats:
    /// parts of a sentence.
    pub(crate) fn detectable(&self) -> Vec<String> {
        let largest = |accuracies: bool| {
            self.decisive()
                .filter(|(metric, _)| metric.is_accuracy() == accuracies)
                .map(|(metric, comparison)| scale(metric) * comparison.detectable)
                .reduce(f64::max)
        };
        let points = largest(true).map(points);
        let nats = largest(false).map(|it| format!("{} nats", decimals(it, 4)));
        points.into_iter().chain(nats).collect()
    }

    /// Whether any parameter count was published.
    pub(crate) fn has_counts(&self) -> bool {
        self.networks.iter().any(|network| network.published_parameters.is_some())
    }

    /// Whether our counts are the published ones: part of a sentence, empty if none were published.
    fn counts(&self) -> String {
        let published = self.networks.iter().filter(|network| network.published_parameters.is_some()).count();
        match (published, self.counts_as_published) {
            (0, _) => String::new(),
            (1, true) => "the parameter count is as published".to_owned(),
            (_, true) => "the parameter counts and their ratios are as published".to_owned(),
            (1, false) => "the parameter count is not as published".to_owned(),
            (_, false) => "the parameter counts are not all as published".to_owned(),
        }
    }

    /// The verdict as one sentence.
    pub fn headline(&self) -> String {
        let counts = self.counts();
        let images = &self.study.images;
        if self.verdict == Verdict::NotJudged {
            let number = |count: usize, one: &str| {
                if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
            };
            let side_by_side = if self.networks.len() == 1 { "" } else { " side by side" };
            let (networks, runs) = (number(self.networks.len(), "network"), number(self.runs.len(), "run"));
            let warning = if self.data.stand_in {
                format!(" on synthetic images, which say nothing about {images}")
            } else {
                String::new()
            };
            return format!("{networks}{side_by_side}, {runs}{warning}; there is no verdict.");
        }
        // Other reasons why such a study cannot be compared do not matter then.
        if self.data.stand_in {
            let sentence = if counts.is_empty() { counts } else { format!("{counts}; ") };
            let sentence = format!(
                "{sentence}the accuracies are of synthetic images, say nothing about {images} and are not compared."
            );
            return sentence.replacen('t', "T", 1);
        }
        match &self.verdict {
            Verdict::Reproduced => {
                let mut parts: Vec<String> = Some(counts).filter(|it| !it.is_empty()).into_iter().collect();
                if self.decisive().next().is_some() {
                    parts.push(format!(
                        "no published {} differs from ours (Holm's correction, 5 %)",
                        self.deciding_name()
                    ));
                }
                if self.bounds().next().is_some() {
                    parts.push("what was claimed to be reached at least is reached".to_owned());
                }
                let detectable = self.detectable();
                if !detectable.is_empty() {
                    parts.push(format!(
                        "of differences of {} at least 8 in 10 would have been noticed",
                        detectable.join(" or ")
                    ));
                }
                let last = parts.pop().unwrap_or_default();
                let before = parts.join(", ");
                let before = if before.is_empty() { before } else { before + ", and " };
                format!("Reproduced: {before}{last}.")
            }
            Verdict::Different { reason } => format!("Different: {reason}."),
            Verdict::Undecided { reason } => {
                let mut known = counts;
                if self.decisive().next().is_some() {
                    known += if known.is_empty() { "" } else { ", " };
                    known += "no published figure differs from ours by more than chance explains";
                }
                let known = if known.is_empty() { known } else { known + "; but " };
                format!("Undecided: {known}{reason}.")
            }
            Verdict::NotComparable { reason } => {
                let counts = if counts.is_empty() { counts } else { format!("; {counts}") };
                format!("Not comparable: {reason}{counts}.")
            }
            Verdict::NotJudged => String::new(),
        }
    }

    /// The figures shown next to the published ones: accuracy and loss on the test set at the end, the accuracy with test-time
    /// augmentation if there is one, and whatever else decides.
    pub(crate) fn shown_figures(&self) -> Vec<FigureId> {
        let mut shown = vec![FigureId::last(Metric::TestAcc), FigureId::last(Metric::TestLoss)];
        if self.has_views() {
            shown.push(FigureId::last(Metric::TtaTestAcc));
        }
        for network in &self.networks {
            let epochs = network.epochs.iter().map(|it| Some(it.epoch));
            for epoch in std::iter::once(None).chain(epochs) {
                for id in Metric::ALL.map(|metric| FigureId { metric, epoch }) {
                    if network.figure(id).is_some_and(Figure::decides) && !shown.contains(&id) {
                        shown.push(id);
                    }
                }
            }
        }
        shown
    }

    /// Whether any network was tested with test-time augmentation.
    pub(crate) fn has_views(&self) -> bool {
        self.networks.iter().any(|network| network.tta_accuracy.is_some())
    }

    /// `final test accuracy` where all that decides is that, else `figure that decides`.
    fn deciding_name(&self) -> String {
        let is_decisive = |id: FigureId| {
            let of = |network: &NetworkReport| {
                network
                    .figure(id)
                    .and_then(|it| it.comparison.as_ref())
                    .is_some_and(|it| it.corrected.is_some())
            };
            self.networks.iter().any(of)
        };
        let names: Vec<String> =
            self.shown_figures().into_iter().filter(|id| is_decisive(*id)).map(FigureId::name).collect();
        match names.as_slice() {
            [only] => only.clone(),
            _ => "figure that decides".to_owned(),
        }
    }

    /// What these runs say of the conclusion: a sentence for each claim that they say something of, with names in backquotes.
    pub fn findings(&self) -> Vec<&str> {
        self.claims.iter().map(|claim| claim.finding.as_str()).filter(|it| !it.is_empty()).collect()
    }

    /// Writes `study.json` and `report.md` into a folder that exists.
    ///
    /// # Errors
    /// [`Error::Write`](crate::Error::Write).
    pub fn write(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        let path = folder.join("study.json");
        let mut json = serde_json::to_string_pretty(self)
            .map_err(|error| pointwise_runs::Error::Write { path: path.clone(), cause: error.into() })?;
        json.push('\n');
        replace_file(path, json.as_bytes())?;
        replace_file(folder.join("report.md"), self.to_markdown().as_bytes())?;
        Ok(())
    }
}

/// In the order of the arms, then by seed; runs of other networks first.
fn sorted<'a>(runs: &'a [Run], study: &Study) -> Vec<&'a Run> {
    let rank = |run: &Run| study.arms.iter().position(|arm| arm.name == run.config.model);
    let mut runs: Vec<&Run> = runs.iter().collect();
    runs.sort_by_key(|run| (rank(run), run.config.seed));
    runs
}

/// The precision that most complete runs have (f32 where none is ahead), and what differs between the runs, as sentences.
fn settings(runs: &[&Run]) -> (String, Vec<String>) {
    let complete = || runs.iter().filter(|run| is_complete(run));
    let values = |value: fn(&Run) -> String| {
        let mut counts: Vec<(String, usize)> = Vec::new();
        for run in complete() {
            let value = value(run);
            match counts.iter_mut().find(|(known, _)| *known == value) {
                Some((_, count)) => *count += 1,
                None => counts.push((value, 1)),
            }
        }
        counts
    };
    let precisions = values(|run| run.config.precision.to_string());
    let most = precisions.iter().max_by_key(|(precision, count)| (*count, precision == "f32"));
    let precision =
        most.map_or_else(|| runs[0].config.precision.to_string(), |(precision, _)| precision.clone());
    let list = |counts: &[(String, usize)]| {
        counts.iter().map(|(value, count)| format!("{value} ({count})")).collect::<Vec<_>>().join(", ")
    };
    let mut notes = Vec::new();
    if precisions.len() > 1 {
        let others: Vec<String> =
            complete().filter(|run| run.config.precision.name() != precision).map(|run| name(run)).collect();
        notes.push(format!(
            "The runs are of several precisions, {}: only those in {precision} are counted, not {}.",
            list(&precisions),
            others.join(", ")
        ));
    }
    let counted = |value: fn(&Run) -> String| {
        let mut found = values(value);
        found.sort();
        Some(found).filter(|found| found.len() > 1)
    };
    if let Some(engines) = counted(|run| run.config.engine.to_string()) {
        notes.push(format!(
            "The runs are of several engines, {}: they agree with each other within rounding and are counted together.",
            list(&engines)
        ));
    }
    // `cuda:0` and `cuda:1` are devices of one kind.
    let kind = |run: &Run| run.config.device.to_string().split(':').next().unwrap_or_default().to_owned();
    if let Some(devices) = counted(kind) {
        notes.push(format!("The runs are of several kinds of device, {}.", list(&devices)));
    }
    notes.extend(processors(runs));
    (precision, notes)
}

/// Which kinds of processor took part, if there are several, and how that affects the numbers.
fn processors(runs: &[&Run]) -> Option<String> {
    let mut kinds: Vec<(&str, usize)> = Vec::new();
    for run in runs {
        let kind = run.environment.accelerator.as_ref().unwrap_or(&run.environment.processor);
        match kinds.iter_mut().find(|(known, _)| known == kind) {
            Some((_, count)) => *count += 1,
            None => kinds.push((kind, 1)),
        }
    }
    if kinds.len() < 2 {
        return None;
    }
    kinds.sort_unstable();
    let kinds: Vec<String> = kinds.into_iter().map(|(kind, count)| format!("{kind} ({count})")).collect();
    let mut parts = Vec::new();
    if runs.iter().any(|run| run.environment.accelerator.is_none()) {
        parts.push(
            "on the engine cpu the last bits depend on the instruction set (AVX2 and AVX-512 give the same ones, processors without \
             them others)",
        );
    }
    if runs.iter().any(|run| run.environment.accelerator.is_some()) {
        parts.push("on the engine cuda they depend on the device");
    }
    Some(format!(
        "The runs took place on several kinds of processor, {}: {}. Only the name of a processor is recorded.",
        kinds.join(", "),
        parts.join(", and ")
    ))
}

fn report_network(arm: &Arm, facts: Option<&NetworkFacts>, runs: &[&Run]) -> NetworkReport {
    let results: Vec<&RunResult> = runs.iter().filter_map(|run| run.result.as_ref()).collect();
    let figure = |metric: Metric, epoch: Option<u32>, ours: Option<Sample>| {
        let published = FigureId { metric, epoch }.published(arm);
        ours.map(|ours| Figure {
            ours,
            published: published.map(|it| it.value / scale(metric)),
            decimals: published.map_or(0, |it| it.decimals),
            at_least: published.is_some_and(|it| it.at_least),
            comparison: None,
            bound: None,
        })
    };
    let gaps = runs.iter().filter_map(|run| {
        let result = run.result.as_ref()?;
        // Without held-out images the accuracy that chose the epoch is its test accuracy.
        let best = result.best_test_acc.or((run.config.val_split == 0).then_some(result.best_acc))?;
        Some(best - result.final_acc)
    });
    let epochs = runs.iter().flat_map(|run| run.epochs()).map(|record| record.epoch).max().unwrap_or(0);
    let epochs = (1..=epochs).map(|epoch| {
        let records: Vec<Option<&EpochRecord>> =
            runs.iter().map(|run| run.epochs().find(|record| record.epoch == epoch)).collect();
        let of = |metric: Metric, value: fn(&EpochRecord) -> Option<f64>| {
            let values: Option<Vec<f64>> = records.iter().map(|record| value((*record)?)).collect();
            figure(metric, Some(epoch), values.and_then(Sample::new))
        };
        EpochReport {
            epoch,
            train_loss: of(Metric::TrainLoss, |record| Some(record.train_loss)),
            train_acc: of(Metric::TrainAcc, |record| Some(record.train_acc)),
            test_loss: of(Metric::TestLoss, |record| record.test_loss),
            test_acc: of(Metric::TestAcc, |record| record.test_acc),
        }
    });
    // In the last epoch of each run, which may differ between runs if training can stop early.
    let trained = |value: fn(&EpochRecord) -> f64| {
        let values: Option<Vec<f64>> = runs.iter().map(|run| run.epochs().last().map(value)).collect();
        values.and_then(Sample::new)
    };
    let by_views: Option<Vec<f64>> = results.iter().map(|result| result.tta_test_acc).collect();
    let last = |metric: Metric, ours: Option<Sample>| figure(metric, None, ours);
    NetworkReport {
        name: arm.name.clone(),
        parameters: facts
            .map(|facts| facts.parameters)
            .or(runs.first().map(|run| run.environment.parameters)),
        published_parameters: arm.published.parameters,
        macs: facts.map(|facts| facts.macs).or(runs.first().map(|run| run.environment.macs_per_image)),
        seeds: runs.iter().map(|run| run.config.seed).collect(),
        accuracy: last(Metric::TestAcc, sample(&results, |result| result.final_acc)),
        tta_accuracy: last(Metric::TtaTestAcc, by_views.and_then(Sample::new)),
        loss: last(Metric::TestLoss, sample(&results, |result| result.final_loss)),
        train_accuracy: last(Metric::TrainAcc, trained(|record| record.train_acc)),
        train_loss: last(Metric::TrainLoss, trained(|record| record.train_loss)),
        selection_gap: Sample::new(gaps.collect()),
        seconds_per_epoch: sample(&results, seconds_per_epoch).map(|sample| sample.mean),
        epochs: epochs.collect(),
    }
}

fn name(run: &Run) -> String {
    run.path.file_name().unwrap_or(run.path.as_os_str()).to_string_lossy().into_owned()
}

fn summarise(run: &Run) -> RunSummary {
    RunSummary {
        name: name(run),
        model: run.config.model.clone(),
        seed: run.config.seed,
        engine: run.config.engine.to_string(),
        device: run.config.device.to_string(),
        precision: run.config.precision.to_string(),
        processor: run.environment.accelerator.as_ref().unwrap_or(&run.environment.processor).clone(),
        threads: run.environment.threads,
        commit: run.environment.commit.clone(),
        result: run.result.clone(),
    }
}
