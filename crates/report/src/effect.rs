//! The effects of changes between networks.

use std::collections::BTreeMap;

use pointwise_study::Study;
use serde::{Deserialize, Serialize};

use crate::{
    Combination, NetworkReport, RunSummary, Sample,
    compare::seconds_per_epoch,
    judgement::show_p,
    number::{decimals, signed},
    statistics::holm,
};

/// The effect of a change on networks, over all pairs that differ only in it.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Effect {
    /// The change.
    pub name: String,
    /// Pairs of networks: with the change, and without it.
    pub pairs: Vec<[String; 2]>,
    /// Runs of these networks.
    pub runs: usize,
    /// Difference of the test accuracy after the last epoch, a fraction.
    pub difference: Option<f64>,
    /// The same with its interval; `None` if there are too few runs for a spread.
    pub accuracy: Option<Combination>,
    /// Natural logarithm of the ratio of the seconds of an epoch, training and evaluation.
    pub log_seconds: Option<Combination>,
    /// Ratio of the trainable parameters: the geometric mean over the pairs.
    pub parameters: Option<f64>,
    /// Likewise, of the multiply-accumulates of one forward pass.
    pub macs: Option<f64>,
}

/// The effects of a study; one without runs of all its networks is left out.
pub(crate) fn effects(networks: &[NetworkReport], runs: &[RunSummary], study: &Study) -> Vec<Effect> {
    // Over the runs of the network's samples.
    let log_seconds = |network: &NetworkReport| {
        let counts = |run: &&RunSummary| run.model == network.name && network.seeds.contains(&run.seed);
        let results = runs.iter().filter(counts).filter_map(|run| run.result.as_ref());
        Sample::new(results.map(|result| seconds_per_epoch(result).ln()).collect())
    };
    let find = |name: &String| networks.iter().find(|network| network.name == *name);
    let mut effects: Vec<Effect> = Vec::new();
    for pointwise_study::Effect { name, pairs } in &study.effects {
        let found: Option<Vec<[&NetworkReport; 2]>> =
            pairs.iter().map(|[one, other]| Some([find(one)?, find(other)?])).collect();
        let Some(found) = found.filter(|pairs| pairs.as_flattened().iter().all(|it| !it.seeds.is_empty()))
        else {
            continue;
        };
        let share = 1.0 / found.len() as f64;
        // A network may be in several pairs.
        let mut coefficients: BTreeMap<&str, (f64, &NetworkReport)> = BTreeMap::new();
        for (sign, network) in found.iter().flat_map(|[one, other]| [(share, *one), (-share, *other)]) {
            coefficients.entry(&network.name).or_insert((0.0, network)).0 += sign;
        }
        let combination = |sample: &dyn Fn(&NetworkReport) -> Option<Sample>| {
            let samples: Option<Vec<(f64, Sample)>> =
                coefficients.values().map(|(c, network)| Some((*c, sample(network)?))).collect();
            let samples = samples?;
            Combination::new(&samples.iter().map(|(c, sample)| (*c, sample)).collect::<Vec<_>>())
        };
        let difference: Option<f64> =
            coefficients.values().map(|(c, network)| Some(c * network.accuracy.as_ref()?.ours.mean)).sum();
        let mean_ratio = |count: fn(&NetworkReport) -> Option<u64>| {
            let logs: Option<Vec<f64>> = found
                .iter()
                .map(|[one, other]| Some((count(one)? as f64 / count(other)? as f64).ln()))
                .collect();
            // Zero counts have no ratio.
            Some((logs?.iter().sum::<f64>() * share).exp()).filter(|ratio| ratio.is_normal())
        };
        effects.push(Effect {
            name: name.clone(),
            pairs: pairs.clone(),
            runs: coefficients.values().map(|(_, network)| network.seeds.len()).sum(),
            difference,
            accuracy: combination(&|network| network.accuracy.as_ref().map(|figure| figure.ours.clone())),
            log_seconds: combination(&log_seconds),
            parameters: mean_ratio(|network| network.parameters),
            macs: mean_ratio(|network| network.macs),
        });
    }
    correct(effects.iter_mut().filter_map(|effect| effect.accuracy.as_mut()).collect());
    correct(effects.iter_mut().filter_map(|effect| effect.log_seconds.as_mut()).collect());
    effects
}

/// Corrects p values for their number.
fn correct(judged: Vec<&mut Combination>) {
    let corrected = holm(&judged.iter().map(|it| it.p).collect::<Vec<_>>());
    for (combination, corrected) in judged.into_iter().zip(corrected) {
        combination.corrected = corrected;
    }
}

/// The columns of a table of effects.
pub(crate) const COLUMNS: [&str; 9] = [
    "change",
    "pairs",
    "runs",
    "test accuracy, points",
    "95 % interval",
    "p",
    "parameters",
    "MACs",
    "time of an epoch",
];

impl Effect {
    /// Its row in a table; `none` stands where there is no number.
    pub(crate) fn row(&self, none: &str) -> Vec<String> {
        let times = |ratio: f64| format!("x {}", decimals(ratio, 2));
        let accuracy = self.accuracy.as_ref();
        let or_none = |text: Option<String>| text.unwrap_or_else(|| none.to_owned());
        let points = |value: f64| signed(100.0 * value, 2);
        vec![
            self.name.clone(),
            self.pairs.len().to_string(),
            self.runs.to_string(),
            or_none(self.difference.map(points)),
            or_none(accuracy.map(|it| format!("{} to {}", points(it.low), points(it.high)))),
            or_none(accuracy.map(|it| show_p(it.corrected))),
            or_none(self.parameters.map(times)),
            or_none(self.macs.map(times)),
            or_none(self.log_seconds.as_ref().map(|it| {
                let [value, low, high] = [it.value, it.low, it.high].map(|log| decimals(log.exp(), 2));
                format!("x {value} ({low} to {high})")
            })),
        ]
    }
}

/// The note below such a table.
pub(crate) const NOTE: &str = "Each number is the mean over the pairs of networks that differ in the change alone, with it compared to without \
    it: a difference of accuracies after the last epoch, a ratio of counts and of times. The intervals hold the true value in 95 of 100 cases, \
    by Student's distribution with the spread from seed to seed pooled over the networks of the pairs; p is Holm's, over the changes. Time is \
    that of training and evaluation where the runs took place.";
