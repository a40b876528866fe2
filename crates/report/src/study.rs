use std::path::Path;

use pointwise_runs::{EpochRecord, Run, RunResult, replace_file};
use serde::{Deserialize, Serialize};

use crate::{
    Claim, Comparison, CurveCheck, EpochReport, Figure, Homogeneity, NetworkFacts, NetworkReport, Published,
    PublishedNetwork, Record, Result, RunSummary, Sample, SpreadSource, Verdict,
    compare::{check_one_study, deviations, is_complete},
    figure::{FigureId, Measure},
    judgement::{Outcome, claims, in_points, judge, sample, verdict},
    number::decimals,
};

/// A study: our runs beside the published ones. Accuracies are fractions in [0, 1], losses are in nats.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Study {
    /// The conclusion.
    pub verdict: Verdict,
    /// Whether all parameter counts, and with them their ratios, are the published ones. Needs no training.
    pub counts_as_published: bool,
    /// The images behind the accuracies.
    pub data: Data,
    /// The precision of the runs that count, as in [`RunConfig::precision`](pointwise_runs::RunConfig::precision).
    pub precision: String,
    /// What a reader must know of how the runs were made: sentences.
    pub notes: Vec<String>,
    /// In the published order, or the family's; a network without runs has its counts only.
    pub networks: Vec<NetworkReport>,
    /// How alike the spreads of the networks are, for each primary figure that has three seeds of two networks.
    pub homogeneity: Vec<Homogeneity>,
    /// The figures that do not decide, together; `None` where nothing is compared.
    pub curve: Option<CurveCheck>,
    /// The networks and seeds of the record that spreads were taken from; empty where all are from the runs themselves.
    pub record: Vec<RecordSeeds>,
    /// The published conclusion, judged; none of an ablation.
    pub claims: Vec<Claim>,
    /// By network in the same order, then by seed.
    pub runs: Vec<RunSummary>,
}

/// Whose spread a study with few seeds was judged by.
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
    /// Whether they are made up: accuracies then say nothing about CIFAR-10.
    pub synthetic: bool,
    /// Images trained on.
    pub train_images: u32,
    /// Images held out.
    pub validation_images: u32,
    /// Images tested on.
    pub test_images: u32,
}

impl Study {
    /// Puts runs of the published networks together and judges them by the figures and the record that are built in. Runs that are
    /// under way or were cut short are listed but not counted.
    ///
    /// # Errors
    /// If the runs are not observations of one study: see [`Error`](crate::Error).
    pub fn new(runs: &[Run], facts: &[NetworkFacts]) -> Result<Self> {
        Self::judged(runs, facts, &Published::load()?, &Record::load()?)
    }

    /// As [`Study::new`], by given figures and with the spread of a given record where there are too few seeds.
    ///
    /// # Errors
    /// As [`Study::new`].
    pub fn judged(
        runs: &[Run],
        facts: &[NetworkFacts],
        published: &Published,
        record: &Record,
    ) -> Result<Self> {
        let names: Vec<&str> = published.networks.iter().map(|network| network.name.as_str()).collect();
        let mut study = Self::beside_each_other(runs, facts, &names, published)?;
        let runs = sorted(runs, &names);
        let mut not_comparable = deviations(runs[0], published);
        let comparable = not_comparable.is_empty();
        for run in runs.iter().filter(|run| !is_complete(run)) {
            not_comparable.push(format!("the run {} is not complete", name(run)));
        }
        if comparable {
            // The spread of another precision is another spread.
            let record = Some(record).filter(|record| record.precision == study.precision);
            let judged = judge(&mut study.networks, published, record);
            (study.homogeneity, study.curve) = (judged.homogeneity, judged.curve);
            study.record = record.map_or_else(Vec::new, |record| study.borrowed(record));
        }
        study.verdict = verdict(&study.networks, published, study.curve.as_ref(), not_comparable);
        study.claims = claims(&study.networks, published, comparable);
        Ok(study)
    }

    /// [`Study::new`] if all networks are published ones, else [`Study::ablation`].
    ///
    /// # Errors
    /// As [`Study::new`].
    pub fn of(runs: &[Run], facts: &[NetworkFacts]) -> Result<Self> {
        let published = Published::load()?;
        let is_published = |run: &Run| published.network(&run.config.model).is_some();
        if runs.iter().all(is_published) { Self::new(runs, facts) } else { Self::ablation(runs, facts) }
    }

    /// Puts runs of any networks together, beside each other and without a verdict. The networks are those of `facts`, in that
    /// order.
    ///
    /// # Errors
    /// As [`Study::new`].
    pub fn ablation(runs: &[Run], facts: &[NetworkFacts]) -> Result<Self> {
        let names: Vec<&str> = facts.iter().map(|facts| facts.model.as_str()).collect();
        Self::beside_each_other(runs, facts, &names, &Published::load()?)
    }

    /// Without verdict, comparisons and claims.
    fn beside_each_other(
        runs: &[Run],
        facts: &[NetworkFacts],
        names: &[&str],
        published: &Published,
    ) -> Result<Self> {
        let runs = sorted(runs, names);
        check_one_study(&runs, facts, names)?;
        let first = runs[0];
        let (precision, notes) = settings(&runs);
        let networks: Vec<_> = names
            .iter()
            .map(|&name| {
                let counts = |run: &&Run| {
                    run.config.model == name && is_complete(run) && run.config.precision.name() == precision
                };
                let of_network: Vec<&Run> = runs.iter().copied().filter(counts).collect();
                let facts = facts.iter().find(|facts| facts.model == name);
                report_network(name, published.network(name), facts, &of_network)
            })
            .collect();
        let environment = &first.environment;
        let data = Data {
            source: environment.data_source.clone(),
            fingerprint: environment.data_fingerprint.clone(),
            synthetic: environment.data_synthetic,
            train_images: environment.train_images,
            validation_images: environment.validation_images,
            test_images: environment.test_images,
        };
        Ok(Self {
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
            runs: runs.into_iter().map(summarise).collect(),
        })
    }

    /// The networks whose spread is the record's, with its seeds. Where networks share their spreads, all of them count.
    fn borrowed(&self, record: &Record) -> Vec<RecordSeeds> {
        if !self.comparisons().any(|comparison| comparison.spread.source == SpreadSource::Record) {
            return Vec::new();
        }
        let seeds = |network: &crate::RecordedNetwork| RecordSeeds {
            network: network.name.clone(),
            seeds: network.seeds.clone(),
        };
        record.networks.iter().map(seeds).collect()
    }

    /// Of the final figures.
    pub(crate) fn comparisons(&self) -> impl Iterator<Item = &Comparison> {
        self.networks
            .iter()
            .flat_map(|network| [&network.accuracy, &network.loss])
            .filter_map(|figure| figure.as_ref()?.comparison.as_ref())
    }

    /// Of the figures that decide.
    pub(crate) fn decisive(&self) -> impl Iterator<Item = &Comparison> {
        self.comparisons().filter(|comparison| comparison.corrected.is_some())
    }

    /// The smallest difference that would have been noticed in 8 of 10 cases whichever deciding figure it is in; 0 where none is
    /// compared.
    pub(crate) fn detectable(&self) -> f64 {
        self.decisive().map(|comparison| comparison.detectable).fold(0.0, f64::max)
    }

    /// The verdict as one sentence.
    pub fn headline(&self) -> String {
        let counts = if self.counts_as_published {
            "the parameter counts and their ratios are as published"
        } else {
            "the parameter counts are not all as published"
        };
        if self.verdict == Verdict::NotJudged {
            let (networks, runs) = (self.networks.len(), self.runs.len());
            let warning = if self.data.synthetic {
                " on synthetic images, which say nothing about CIFAR-10"
            } else {
                ""
            };
            return format!(
                "{networks} networks beside each other, {runs} runs{warning}; there is no verdict."
            );
        }
        // Whatever else keeps such a study from being compared does not matter beside this.
        if self.data.synthetic {
            let counts = counts.replacen("the", "The", 1);
            return format!(
                "{counts}; the accuracies are of synthetic images, say nothing about CIFAR-10 and are not compared."
            );
        }
        match &self.verdict {
            Verdict::Reproduced => {
                format!(
                    "Reproduced: {counts}, no published final test accuracy differs from ours (Holm's correction, 5 %), and of \
                     differences of {} points at least 8 in 10 would have been noticed.",
                    decimals(100.0 * self.detectable(), 1)
                )
            }
            Verdict::Different { reason } => format!("Different: {reason}."),
            Verdict::Undecided { reason } => {
                let compared = if self.decisive().next().is_some() {
                    ", no published figure differs from ours by more than chance explains"
                } else {
                    ""
                };
                format!("Undecided: {counts}{compared}; but {reason}.")
            }
            Verdict::NotComparable { reason } => format!("Not comparable: {reason}; {counts}."),
            Verdict::NotJudged => String::new(),
        }
    }

    /// What these runs say of networks that are said to be comparable, faced: how many points the less accurate one loses, and how
    /// many times the errors that is. Empty where no such claim was judged.
    pub fn finding(&self) -> Vec<String> {
        self.claims
            .iter()
            .filter_map(|claim| {
                let (Claim { network, other, outcome, .. }, margin) = (claim, claim.margin?);
                let (ours, (low, high), ratio) = (claim.ours?, claim.interval?, claim.error_ratio?);
                let verb = if ours < 0.0 { "loses" } else { "gains" };
                let (low, high) = if ours < 0.0 { (-high, -low) } else { (low, high) };
                let points = |value: f64| decimals(100.0 * value, 1);
                let margin = format!("to {} points", in_points(margin));
                let judgement = match outcome {
                    Outcome::Holds => format!("comparable, {margin}"),
                    Outcome::Fails => format!("not comparable, {margin}"),
                    Outcome::Undecided | Outcome::NotJudged => {
                        format!("whether that is comparable, {margin}, these runs cannot tell")
                    }
                };
                Some(format!(
                    "{network} {verb} {} points of test accuracy to {other} (90 % interval {} to {}), {} times its errors: {judgement}.",
                    points(ours.abs()),
                    points(low),
                    points(high),
                    decimals(ratio, 2)
                ))
            })
            .collect()
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

/// In the order of the names, then by seed; runs of other networks first.
fn sorted<'a>(runs: &'a [Run], names: &[&str]) -> Vec<&'a Run> {
    let rank = |run: &Run| names.iter().position(|name| *name == run.config.model);
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
    (precision, notes)
}

fn report_network(
    name: &str,
    published: Option<&PublishedNetwork>,
    facts: Option<&NetworkFacts>,
    runs: &[&Run],
) -> NetworkReport {
    let results: Vec<&RunResult> = runs.iter().filter_map(|run| run.result.as_ref()).collect();
    let theirs = |figure: FigureId| Some(figure.reported(published?)?.value);
    let figure = |id: FigureId, ours: Option<Sample>| {
        ours.map(|ours| Figure { ours, published: theirs(id), comparison: None })
    };
    let gaps = runs.iter().filter_map(|run| {
        let result = run.result.as_ref()?;
        // Without held-out images the accuracy that chose the epoch is its test accuracy.
        let best = result.best_test_acc.or((run.config.val_split == 0).then_some(result.best_acc))?;
        Some(best - result.final_acc)
    });
    let per_epoch =
        |result: &RunResult| (result.train_seconds + result.eval_seconds) / f64::from(result.epochs);
    let epochs = runs.iter().flat_map(|run| run.epochs()).map(|record| record.epoch).max().unwrap_or(0);
    let epochs = (1..=epochs).map(|epoch| {
        let records: Vec<Option<&EpochRecord>> =
            runs.iter().map(|run| run.epochs().find(|record| record.epoch == epoch)).collect();
        let of = |measure: Measure, value: fn(&EpochRecord) -> Option<f64>| {
            let values: Option<Vec<f64>> = records.iter().map(|record| value((*record)?)).collect();
            figure(FigureId::Epoch(epoch as usize - 1, measure), values.and_then(Sample::new))
        };
        EpochReport {
            epoch,
            train_loss: of(Measure::TrainLoss, |record| Some(record.train_loss)),
            train_acc: of(Measure::TrainAccuracy, |record| Some(record.train_acc)),
            test_loss: of(Measure::TestLoss, |record| record.test_loss),
            test_acc: of(Measure::TestAccuracy, |record| record.test_acc),
        }
    });
    NetworkReport {
        name: name.into(),
        parameters: facts
            .map(|facts| facts.parameters)
            .or(runs.first().map(|run| run.environment.parameters)),
        published_parameters: published.map(|network| network.parameters),
        macs: facts.map(|facts| facts.macs).or(runs.first().map(|run| run.environment.macs_per_image)),
        seeds: runs.iter().map(|run| run.config.seed).collect(),
        accuracy: figure(FigureId::FinalAccuracy, sample(&results, |result| result.final_acc)),
        loss: figure(FigureId::FinalLoss, sample(&results, |result| result.final_loss)),
        selection_gap: Sample::new(gaps.collect()),
        seconds_per_epoch: sample(&results, per_epoch).map(|sample| sample.mean),
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
