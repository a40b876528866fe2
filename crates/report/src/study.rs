use std::path::Path;

use pointwise_runs::{EpochRecord, Run, RunResult, replace_file};
use serde::{Deserialize, Serialize};

use crate::{
    Comparison, Published, PublishedNetwork, Result, Sample, SpreadSource,
    compare::{check_one_study, deviations, is_complete},
    number::{decimals, percent, thousands},
};

/// What the trainer says of a network: an entry of `trainer summary --json`.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct NetworkFacts {
    /// Its name.
    pub model: String,
    /// Trainable parameters.
    pub parameters: u64,
    /// Multiply-accumulate operations of one forward pass of one image.
    pub macs: u64,
}

/// A study: our runs beside the published ones. Accuracies are fractions in [0, 1], losses are in nats.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Study {
    /// The conclusion.
    pub verdict: Verdict,
    /// Whether all parameter counts, and with them their ratios, are the published ones. Needs no training.
    pub counts_as_published: bool,
    /// The images behind the accuracies.
    pub data: Data,
    /// In the published order, or the family's; a network without runs has its counts only.
    pub networks: Vec<NetworkReport>,
    /// The numbers in the published conclusion; none of an ablation.
    pub claims: Vec<Claim>,
    /// By network in the same order, then by seed.
    pub runs: Vec<RunSummary>,
}

/// The conclusion of a study. A reason is part of a sentence.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Verdict {
    /// Counts are equal, and every published final figure lies in the prediction interval of our runs.
    Reproduced,
    /// A count is not equal, or a published figure lies outside.
    Different {
        /// What differs.
        reason: String,
    },
    /// The runs are not of the published experiment, or not all of it.
    NotComparable {
        /// What is missing or other.
        reason: String,
    },
    /// An ablation: a family of networks beside each other, which nobody has published figures of as a whole.
    NotJudged,
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

/// A network's part of a study.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct NetworkReport {
    /// Its name.
    pub name: String,
    /// Trainable parameters of ours, where the trainer knows the network.
    pub parameters: Option<u64>,
    /// Trainable parameters as published, of a network of the study.
    pub published_parameters: Option<u64>,
    /// Multiply-accumulate operations of one forward pass of one image.
    pub macs: Option<u64>,
    /// Of the complete runs, ascending. The samples below have one value for each.
    pub seeds: Vec<u64>,
    /// Test accuracy after the last epoch.
    pub accuracy: Option<Figure>,
    /// Test loss after the last epoch.
    pub loss: Option<Figure>,
    /// Test accuracy of the best epoch minus that of the last.
    pub selection_gap: Option<Sample>,
    /// Mean seconds of an epoch, training and evaluation.
    pub seconds_per_epoch: Option<f64>,
    /// Means over the seeds, epoch by epoch.
    pub curve: Vec<EpochMeans>,
}

/// A final figure of ours beside the published one.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Figure {
    /// Ours.
    pub ours: Sample,
    /// The published one, of a network of the study.
    pub published: Option<f64>,
    /// The judgement; `None` where the runs are not of the published experiment, and in an ablation.
    pub comparison: Option<Comparison>,
}

/// Means over the seeds of one epoch; `None` where a run has no such figure.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct EpochMeans {
    /// Counted from 1.
    pub epoch: u32,
    /// In training mode.
    pub train_loss: Option<f64>,
    /// In training mode.
    pub train_acc: Option<f64>,
    /// After the epoch.
    pub test_loss: Option<f64>,
    /// After the epoch.
    pub test_acc: Option<f64>,
}

/// A number in the published conclusion.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Claim {
    /// What the number is.
    pub text: String,
    /// Its unit.
    pub unit: Unit,
    /// Ours; `None` where it cannot be had from these runs.
    pub ours: Option<f64>,
    /// The published one.
    pub published: f64,
}

/// The unit of a claim's number.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A fraction, shown in per cent.
    Share,
    /// A ratio.
    Times,
    /// A difference of accuracies, shown in percentage points.
    Points,
}

/// One run, as a row of the report.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct RunSummary {
    /// Name of the run folder.
    pub name: String,
    /// Its network.
    pub model: String,
    /// Its seed.
    pub seed: u64,
    /// What computed it.
    pub engine: String,
    /// On which device.
    pub device: String,
    /// The processor's name.
    pub processor: String,
    /// Worker threads.
    pub threads: u32,
    /// The commit of the program.
    pub commit: Option<String>,
    /// The outcome; `None` while it is under way.
    pub result: Option<RunResult>,
}

impl Study {
    /// Puts runs of the published networks together and judges them. Runs that are under way or were cut short are listed but not
    /// counted.
    ///
    /// # Errors
    /// If the runs are not observations of one study: see [`Error`](crate::Error).
    pub fn new(runs: &[Run], facts: &[NetworkFacts]) -> Result<Self> {
        let published = Published::load()?;
        let names: Vec<&str> = published.networks.iter().map(|network| network.name.as_str()).collect();
        let mut study = Self::beside_each_other(runs, facts, &names, &published, true)?;
        let runs = sorted(runs, &names);
        study.verdict = verdict(&runs, &study.networks, deviations(runs[0], &published));
        study.claims = claims(&study.networks, &published, study.data.synthetic);
        Ok(study)
    }

    /// Puts runs of any networks together, beside each other and without a verdict. The networks are those of `facts`, in that
    /// order.
    ///
    /// # Errors
    /// As [`Study::new`].
    pub fn ablation(runs: &[Run], facts: &[NetworkFacts]) -> Result<Self> {
        let names: Vec<&str> = facts.iter().map(|facts| facts.model.as_str()).collect();
        Self::beside_each_other(runs, facts, &names, &Published::load()?, false)
    }

    /// Without verdict and claims; `judged` says whether figures are to be held against published ones.
    fn beside_each_other(
        runs: &[Run],
        facts: &[NetworkFacts],
        names: &[&str],
        published: &Published,
        judged: bool,
    ) -> Result<Self> {
        let runs = sorted(runs, names);
        check_one_study(&runs, facts, names)?;
        let first = runs[0];
        let comparable = judged && deviations(first, published).is_empty();
        let networks: Vec<_> = names
            .iter()
            .map(|&name| {
                let of_network: Vec<&Run> =
                    runs.iter().copied().filter(|run| run.config.model == name && is_complete(run)).collect();
                let facts = facts.iter().find(|facts| facts.model == name);
                let published = published.networks.iter().find(|network| network.name == name);
                report_network(name, published, facts, &of_network, comparable)
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
            claims: Vec::new(),
            networks,
            data,
            runs: runs.into_iter().map(summarise).collect(),
        })
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
            Verdict::Reproduced => format!(
                "Reproduced: {counts}, and the published final test accuracy and loss of every network lie in the 95 % prediction \
                 intervals of our runs{}.",
                if self.borrows_spread() {
                    " (wide ones: there are too few seeds to measure the spread between them)"
                } else {
                    ""
                }
            ),
            Verdict::Different { reason } => format!("Different: {reason}."),
            Verdict::NotComparable { reason } => format!("Not comparable: {reason}; {counts}."),
            Verdict::NotJudged => String::new(),
        }
    }

    /// Whether an interval rests on the published curve's scatter, not on our seeds.
    fn borrows_spread(&self) -> bool {
        self.networks
            .iter()
            .flat_map(|network| [&network.accuracy, &network.loss])
            .filter_map(|figure| figure.as_ref()?.comparison.as_ref())
            .any(|comparison| comparison.spread_from == SpreadSource::PublishedCurve)
    }

    /// Writes `study.json` and `study.md` into a folder that exists.
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
        replace_file(folder.join("study.md"), self.to_markdown().as_bytes())?;
        Ok(())
    }
}

impl NetworkReport {
    /// Whether our count is the published one, where there is one.
    pub fn counts_as_published(&self) -> bool {
        self.published_parameters.is_none_or(|published| self.parameters == Some(published))
    }
}

/// The published figures have four decimals (accuracies as fractions).
const ROUNDING: f64 = 0.000_05;

/// In the order of the names, then by seed; runs of other networks first.
fn sorted<'a>(runs: &'a [Run], names: &[&str]) -> Vec<&'a Run> {
    let rank = |run: &Run| names.iter().position(|name| *name == run.config.model);
    let mut runs: Vec<&Run> = runs.iter().collect();
    runs.sort_by_key(|run| (rank(run), run.config.seed));
    runs
}

fn report_network(
    name: &str,
    published: Option<&PublishedNetwork>,
    facts: Option<&NetworkFacts>,
    runs: &[&Run],
    comparable: bool,
) -> NetworkReport {
    let results: Vec<&RunResult> = runs.iter().filter_map(|run| run.result.as_ref()).collect();
    let sample =
        |value: fn(&RunResult) -> f64| Sample::new(results.iter().map(|result| value(result)).collect());
    let figure = |value, published: Option<f64>, curve: Vec<f64>| {
        sample(value).map(|ours| Figure {
            comparison: published
                .filter(|_| comparable)
                .and_then(|published| Comparison::new(&ours, published, ROUNDING, &curve)),
            ours,
            published,
        })
    };
    let epochs = || published.into_iter().flat_map(|network| &network.epochs);
    let test_accs = epochs().map(|epoch| epoch.test_acc / 100.0).collect();
    let test_losses = epochs().map(|epoch| epoch.test_loss).collect();
    let (final_acc, final_loss) =
        (published.map(|network| network.final_acc / 100.0), published.map(|network| network.final_loss));
    let gaps = runs.iter().filter_map(|run| {
        let result = run.result.as_ref()?;
        // Without held-out images the accuracy that chose the epoch is its test accuracy.
        let best = result.best_test_acc.or((run.config.val_split == 0).then_some(result.best_acc))?;
        Some(best - result.final_acc)
    });
    let per_epoch =
        |result: &RunResult| (result.train_seconds + result.eval_seconds) / f64::from(result.epochs);
    NetworkReport {
        name: name.into(),
        parameters: facts
            .map(|facts| facts.parameters)
            .or(runs.first().map(|run| run.environment.parameters)),
        published_parameters: published.map(|network| network.parameters),
        macs: facts.map(|facts| facts.macs).or(runs.first().map(|run| run.environment.macs_per_image)),
        seeds: runs.iter().map(|run| run.config.seed).collect(),
        accuracy: figure(|result| result.final_acc, final_acc, test_accs),
        loss: figure(|result| result.final_loss, final_loss, test_losses),
        selection_gap: Sample::new(gaps.collect()),
        seconds_per_epoch: sample(per_epoch).map(|sample| sample.mean),
        curve: curve(runs),
    }
}

fn curve(runs: &[&Run]) -> Vec<EpochMeans> {
    let epochs = runs.iter().flat_map(|run| run.epochs()).map(|record| record.epoch).max().unwrap_or(0);
    (1..=epochs)
        .map(|epoch| {
            let records: Vec<Option<&EpochRecord>> =
                runs.iter().map(|run| run.epochs().find(|record| record.epoch == epoch)).collect();
            // A mean over some of the seeds would not be one over the same runs as its neighbours.
            let mean = |value: fn(&EpochRecord) -> Option<f64>| {
                let values: Option<Vec<f64>> = records.iter().map(|record| value((*record)?)).collect();
                values.and_then(Sample::new).map(|sample| sample.mean)
            };
            EpochMeans {
                epoch,
                train_loss: mean(|record| Some(record.train_loss)),
                train_acc: mean(|record| Some(record.train_acc)),
                test_loss: mean(|record| record.test_loss),
                test_acc: mean(|record| record.test_acc),
            }
        })
        .collect()
}

fn verdict(runs: &[&Run], networks: &[NetworkReport], deviations: Vec<String>) -> Verdict {
    let mut not_comparable = deviations;
    for run in runs.iter().filter(|run| !is_complete(run)) {
        not_comparable.push(format!("the run {} is not complete", name(run)));
    }
    for network in networks.iter().filter(|network| network.seeds.is_empty()) {
        not_comparable.push(format!("there is no complete run of {}", network.name));
    }
    let mut different = Vec::new();
    for network in networks {
        let judged =
            |figure: &Option<Figure>| figure.as_ref().is_some_and(|figure| figure.comparison.is_some());
        if not_comparable.is_empty() && !(judged(&network.accuracy) && judged(&network.loss)) {
            not_comparable.push(format!("{} has no usable final figures", network.name));
        }
        if let (Some(parameters), Some(published)) = (network.parameters, network.published_parameters)
            && parameters != published
        {
            different.push(format!(
                "{} has {} parameters, not the published {}",
                network.name,
                thousands(parameters),
                thousands(published)
            ));
        }
        let mut judge = |what: &str, figure: &Option<Figure>, show: fn(f64) -> String| {
            let Some(figure) = figure else { return };
            match &figure.comparison {
                Some(comparison) if !comparison.within => different.push(format!(
                    "the published {what} of {} ({}) lies outside of our 95 % interval ({} to {})",
                    network.name,
                    figure.published.map_or("-".into(), show),
                    show(comparison.low),
                    show(comparison.high)
                )),
                _ => {}
            }
        };
        judge("test accuracy", &network.accuracy, |fraction| percent(fraction) + " %");
        judge("test loss", &network.loss, |loss| decimals(loss, 4));
    }
    match (not_comparable.is_empty(), different.is_empty()) {
        (false, _) => Verdict::NotComparable { reason: not_comparable.join(", ") },
        (true, false) => Verdict::Different { reason: different.join(", ") },
        (true, true) => Verdict::Reproduced,
    }
}

/// The numbers of the published conclusion, and of its unsaid other half: how far the accuracies are apart.
const CLAIMS: [(&str, Unit); 5] = [
    ("fewer parameters in `nin` than in `alexnet`", Unit::Share),
    ("parameters of `alexnet_plain` over those of `nin`", Unit::Times),
    ("test accuracy of `alexnet` above `alexnet_plain`", Unit::Points),
    ("test accuracy of `alexnet` above `nin`", Unit::Points),
    ("test accuracy of `alexnet_plain` above `nin`", Unit::Points),
];

/// In the order of [`CLAIMS`], from each network's number of parameters and accuracy.
fn claimed(
    parameters: impl Fn(&str) -> Option<u64>,
    accuracy: impl Fn(&str) -> Option<f64>,
) -> [Option<f64>; CLAIMS.len()] {
    let ratio = |a, b| Some(parameters(a)? as f64 / parameters(b)? as f64);
    let above = |a, b| Some(accuracy(a)? - accuracy(b)?);
    [
        ratio("nin", "alexnet").map(|ratio| 1.0 - ratio),
        ratio("alexnet_plain", "nin"),
        above("alexnet", "alexnet_plain"),
        above("alexnet", "nin"),
        above("alexnet_plain", "nin"),
    ]
}

fn claims(networks: &[NetworkReport], published: &Published, synthetic: bool) -> Vec<Claim> {
    let report = |name: &str| networks.iter().find(|network| network.name == name);
    let original = |name: &str| published.networks.iter().find(|network| network.name == name);
    let ours = claimed(
        |name| report(name)?.parameters,
        |name| report(name)?.accuracy.as_ref().filter(|_| !synthetic).map(|figure| figure.ours.mean),
    );
    let theirs =
        claimed(|name| Some(original(name)?.parameters), |name| Some(original(name)?.final_acc / 100.0));
    CLAIMS
        .iter()
        .zip(ours)
        .zip(theirs)
        .filter_map(|((&(text, unit), ours), published)| {
            Some(Claim { text: text.into(), unit, ours, published: published? })
        })
        .collect()
}

fn name(run: &Run) -> String {
    run.path.file_name().unwrap_or(run.path.as_os_str()).to_string_lossy().into_owned()
}

fn summarise(run: &Run) -> RunSummary {
    RunSummary {
        name: name(run),
        model: run.config.model.clone(),
        seed: run.config.seed,
        engine: run.config.engine.clone(),
        device: run.config.device.clone(),
        processor: run.environment.processor.clone(),
        threads: run.environment.threads,
        commit: run.environment.commit.clone(),
        result: run.result.clone(),
    }
}
