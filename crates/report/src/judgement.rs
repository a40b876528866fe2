//! From figures to a verdict: comparisons, corrections, claims. Knows figures of networks and what is published of them, and no
//! study in particular.

use pointwise_runs::RunResult;
use serde::{Deserialize, Serialize};

use crate::{
    Comparison, Figure, NetworkReport, Published, PublishedClaim, Record, Sample, Spread, SpreadSource,
    Verdict,
    figure::{FigureId, Measure},
    number::{decimals, thousands},
    statistics::{Contrast, LEVEL, SEEDS_FOR_SPREAD, bartlett, combined, holm, moderated, own_spread},
};

/// Below this p value of [`CurveCheck`] the published curve is not one of ours. Kept apart from the level of the primary figures, so
/// that forty figures that do not decide take nothing from the three that do.
const CURVE_LEVEL: f64 = 0.01;

/// How alike the spreads of the networks are.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Homogeneity {
    /// Of which figure: `final test accuracy`.
    pub figure: String,
    /// The p value of Bartlett's test that all networks have one variance.
    pub p: f64,
}

/// Whether the published curves are curves that our runs could have drawn: all figures that do not decide, together.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct CurveCheck {
    /// How many figures went into it.
    pub figures: u32,
    /// How many of them lie outside of their own 95 % interval; one in twenty does by chance.
    pub outside: u32,
    /// The p value of all together, however they depend on each other (Benjamini and Yekutieli).
    pub p: f64,
    /// The figure with the smallest p value of its own: `nin, training loss of epoch 1`.
    pub farthest: String,
}

impl CurveCheck {
    /// Whether the published curves are not ours.
    pub fn differs(&self) -> bool {
        self.p < CURVE_LEVEL
    }
}

/// What the comparisons of a study's figures add up to.
#[derive(Default)]
pub(crate) struct Judged {
    pub(crate) homogeneity: Vec<Homogeneity>,
    pub(crate) curve: Option<CurveCheck>,
}

/// Holds every figure of the networks against the published one, and corrects those that decide for their number.
///
/// A network with fewer than [`SEEDS_FOR_SPREAD`] runs takes its spread from `record`.
pub(crate) fn judge(
    networks: &mut [NetworkReport],
    published: &Published,
    record: Option<&Record>,
) -> Judged {
    let primary: Vec<FigureId> = published.primary.iter().map(|it| it.metric.into()).collect();
    let epochs = networks.iter().map(|network| network.epochs.len()).max().unwrap_or(0);
    let secondary = (0..epochs)
        .flat_map(|epoch| Measure::ALL.map(|measure| FigureId::Epoch(epoch, measure)))
        .chain([FigureId::FinalAccuracy, FigureId::FinalLoss])
        .filter(|figure| !primary.contains(figure));

    let mut judged = Judged::default();
    let decisive = networks.len() * primary.len();
    for &figure in &primary {
        let own = networks
            .iter()
            .map(|network| network.figure(figure).map(|figure| &figure.ours))
            .collect::<Vec<_>>();
        judged.homogeneity.extend(bartlett(&own).map(|p| Homogeneity { figure: figure.name(), p }));
        compare(networks, figure, published, record, Some(decisive));
    }
    correct(networks, &primary);

    let (mut p, mut outside, mut farthest): (Vec<f64>, u32, Option<(f64, String)>) = (Vec::new(), 0, None);
    for figure in secondary {
        compare(networks, figure, published, record, None);
        // The last epoch is tested once: its test figures are the final ones.
        let again = matches!(figure, FigureId::Epoch(epoch, Measure::TestLoss | Measure::TestAccuracy) if epoch + 1 == epochs);
        if again {
            continue;
        }
        for network in networks.iter() {
            let Some(found) = network.figure(figure).and_then(|figure| figure.comparison.as_ref()) else {
                continue;
            };
            p.push(found.p);
            outside += u32::from(!found.within());
            if farthest.as_ref().is_none_or(|(least, _)| found.p < *least) {
                farthest = Some((found.p, format!("{}, {}", network.name, figure.name())));
            }
        }
    }
    judged.curve = combined(&p).zip(farthest).map(|(all, (_, farthest))| CurveCheck {
        figures: p.len() as u32,
        outside,
        p: all,
        farthest,
    });
    judged
}

/// Fills in the comparison of a figure of every network. `decisive` is the number of figures that decide together, if this is one
/// of them: then networks that are alike share their spreads. Of the many other figures each network answers for itself, which keeps
/// their small p values honest.
fn compare(
    networks: &mut [NetworkReport],
    figure: FigureId,
    published: &Published,
    record: Option<&Record>,
    decisive: Option<usize>,
) {
    let samples: Vec<Option<&Sample>> =
        networks.iter().map(|network| network.figure(figure).map(|figure| &figure.ours)).collect();
    let own = spreads(&samples, decisive.is_some(), SpreadSource::Seeds);
    let recorded = record.map_or(&[][..], |record| &record.networks);
    let samples: Vec<Option<&Sample>> = recorded.iter().map(|network| network.sample(figure)).collect();
    let borrowed = spreads(&samples, decisive.is_some(), SpreadSource::Record);
    for (network, own) in networks.iter_mut().zip(own) {
        let at = || recorded.iter().position(|recorded| recorded.name == network.name);
        let spread = own.or_else(|| borrowed[at()?]);
        let reported = published.network(&network.name).and_then(|network| figure.reported(network));
        if let (Some(spread), Some(reported)) = (spread, reported)
            && let Some(figure) = network.figure_mut(figure)
        {
            figure.comparison = Some(Comparison::new(&figure.ours, spread, &reported, decisive.unwrap_or(1)));
        }
    }
}

fn spreads(samples: &[Option<&Sample>], shared: bool, source: SpreadSource) -> Vec<Option<Spread>> {
    if shared {
        moderated(samples, source)
    } else {
        samples.iter().map(|sample| own_spread((*sample)?, source)).collect()
    }
}

/// Holm's correction over all comparisons of the primary figures.
fn correct(networks: &mut [NetworkReport], primary: &[FigureId]) {
    let mut found: Vec<&mut Comparison> = Vec::new();
    for network in networks {
        let NetworkReport { accuracy, loss, .. } = network;
        for (figure, slot) in [(FigureId::FinalAccuracy, accuracy), (FigureId::FinalLoss, loss)] {
            if primary.contains(&figure) {
                found.extend(slot.as_mut().and_then(|figure| figure.comparison.as_mut()));
            }
        }
    }
    let p: Vec<f64> = found.iter().map(|comparison| comparison.p).collect();
    for (comparison, corrected) in found.into_iter().zip(holm(&p)) {
        comparison.corrected = Some(corrected);
    }
}

/// The verdict of figures that [`judge`] has compared. `not_comparable` is what keeps the runs from being compared at all.
pub(crate) fn verdict(
    networks: &[NetworkReport],
    published: &Published,
    curve: Option<&CurveCheck>,
    mut not_comparable: Vec<String>,
) -> Verdict {
    let (mut different, mut undecided) = (Vec::new(), Vec::new());
    let mut few: Vec<String> = Vec::new();
    for network in networks {
        if network.seeds.is_empty() {
            not_comparable.push(format!("there is no complete run of {}", network.name));
            continue;
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
        if network.seeds.len() < SEEDS_FOR_SPREAD {
            few.push(format!("{} of {}", network.seeds.len(), network.name));
        }
        for primary in &published.primary {
            let id = FigureId::from(primary.metric);
            let Some(figure) = network.figure(id) else {
                not_comparable.push(format!("{} has no usable {}", network.name, id.name()));
                continue;
            };
            let Some(comparison) = &figure.comparison else { continue };
            if comparison.corrected.is_some_and(|p| p < LEVEL) {
                different.push(format!(
                    "the published {} of {} ({}) differs from ours ({}, 95 % interval {} to {})",
                    id.name(),
                    network.name,
                    id.show(figure.ours.mean - comparison.difference),
                    id.show(figure.ours.mean),
                    id.show(comparison.low),
                    id.show(comparison.high)
                ));
            }
            let margin = primary.margin / if id.is_accuracy() { 100.0 } else { 1.0 };
            if comparison.detectable > margin {
                undecided.push(format!(
                    "a difference of up to {} in the {} of {} could have been missed",
                    id.show_difference(comparison.detectable),
                    id.name(),
                    network.name
                ));
            }
        }
    }
    if let Some(curve) = curve.filter(|curve| curve.differs()) {
        different.push(format!(
            "the published curves are not ones of ours ({}; {} of {} figures lie outside of their 95 % intervals, farthest {})",
            p_is(curve.p),
            curve.outside,
            curve.figures,
            curve.farthest
        ));
    }
    if !few.is_empty() {
        undecided.insert(
            0,
            format!("there are too few seeds ({}) to say that a study is reproduced", few.join(", ")),
        );
    } else if let Some(margin) = published.primary.first().filter(|_| !undecided.is_empty()) {
        let unit = if FigureId::from(margin.metric).is_accuracy() { "points" } else { "nats" };
        undecided.push(format!("differences from {} {unit} on matter", margin.margin));
    }
    match (not_comparable.is_empty(), different.is_empty(), undecided.is_empty()) {
        (false, ..) => Verdict::NotComparable { reason: not_comparable.join(", ") },
        (true, false, _) => Verdict::Different { reason: different.join(", ") },
        (true, true, false) => Verdict::Undecided { reason: undecided.join(", ") },
        (true, true, true) => Verdict::Reproduced,
    }
}

/// A part of the published conclusion beside our runs.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Claim {
    /// What the number is.
    pub text: String,
    /// The network that it is about.
    pub network: String,
    /// The one that it is held against.
    pub other: String,
    /// Of two networks that are said to be comparable, the largest difference that is, a fraction; `None` of other claims.
    pub margin: Option<f64>,
    /// Its unit.
    pub unit: Unit,
    /// Ours; `None` where these runs do not tell.
    pub ours: Option<f64>,
    /// The interval of ours: 95 % of a difference, 90 % where two one-sided tests are made of it; `None` of what is exact.
    pub interval: Option<(f64, f64)>,
    /// The published one.
    pub published: f64,
    /// What our runs say of it.
    pub outcome: Outcome,
    /// Our errors of the first network over those of the second one, where accuracies are compared.
    pub error_ratio: Option<f64>,
}

/// What our runs say of a claim.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It holds: equal counts; a difference whose interval lies on the published side of zero; accuracies closer than the margin.
    Holds,
    /// It does not: other counts; an interval on the other side of zero; accuracies farther apart than the margin.
    Fails,
    /// Our runs cannot tell.
    Undecided,
    /// There is nothing to tell by.
    NotJudged,
}

/// The unit of a claim's number.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A fraction, shown in percent.
    Share,
    /// A ratio.
    Times,
    /// A difference of accuracies, shown in percentage points.
    Points,
}

/// Judges the published conclusion. Counts are compared exactly, differences by Welch's interval, equivalence by two one-sided
/// tests. `comparable` says whether accuracies are of the published experiment.
pub(crate) fn claims(networks: &[NetworkReport], published: &Published, comparable: bool) -> Vec<Claim> {
    published.claims.iter().filter_map(|claim| judge_claim(claim, networks, published, comparable)).collect()
}

fn judge_claim(
    claim: &PublishedClaim,
    networks: &[NetworkReport],
    published: &Published,
    comparable: bool,
) -> Option<Claim> {
    let (PublishedClaim::FewerParameters { network, than: other }
    | PublishedClaim::TimesTheParameters { network, of: other }
    | PublishedClaim::AccuracyAbove { network, over: other }
    | PublishedClaim::ComparableAccuracy { network, to: other, .. }) = claim;
    let (theirs_a, theirs_b) = (published.network(network)?, published.network(other)?);
    let report = |name: &str| networks.iter().find(|network| network.name == name);
    let counts = || Some((report(network)?.parameters?, report(other)?.parameters?));
    let nothing = Claim {
        text: String::new(),
        network: network.clone(),
        other: other.clone(),
        margin: None,
        unit: Unit::Points,
        ours: None,
        interval: None,
        published: 0.0,
        outcome: Outcome::NotJudged,
        error_ratio: None,
    };
    let exact = |text: String, unit: Unit, number: fn(u64, u64) -> f64| {
        let (ours, published) =
            (counts().map(|(a, b)| number(a, b)), number(theirs_a.parameters, theirs_b.parameters));
        let outcome = match ours {
            // Both are made from counts by the same operations.
            Some(ours) if ours == published => Outcome::Holds,
            Some(_) => Outcome::Fails,
            None => Outcome::NotJudged,
        };
        Claim { text, unit, ours, published, outcome, ..nothing.clone() }
    };
    Some(match claim {
        PublishedClaim::FewerParameters { .. } => {
            let text = format!("fewer parameters in `{network}` than in `{other}`");
            exact(text, Unit::Share, |a, b| 1.0 - a as f64 / b as f64)
        }
        PublishedClaim::TimesTheParameters { .. } => {
            let text = format!("parameters of `{network}` over those of `{other}`");
            exact(text, Unit::Times, |a, b| a as f64 / b as f64)
        }
        PublishedClaim::AccuracyAbove { .. } | PublishedClaim::ComparableAccuracy { .. } => {
            let sample = |name: &str| {
                report(name)?.accuracy.as_ref().filter(|_| comparable).map(|figure| &figure.ours)
            };
            let both = sample(network).zip(sample(other));
            let contrast = both.and_then(|(a, b)| Contrast::new(a, b));
            let difference = (theirs_a.final_acc - theirs_b.final_acc) / 100.0;
            let margin = match claim {
                PublishedClaim::ComparableAccuracy { margin, .. } => Some(margin / 100.0),
                _ => None,
            };
            let (text, level, outcome) = match margin {
                Some(margin) => (
                    format!("`{network}` as accurate as `{other}`, to {} points", in_points(margin)),
                    0.9,
                    contrast.map(|it| comparable_outcome(&it, margin)),
                ),
                None => (
                    format!("test accuracy of `{network}` above `{other}`"),
                    0.95,
                    contrast.map(|it| above_outcome(&it, difference)),
                ),
            };
            Claim {
                text,
                margin,
                ours: both.map(|(a, b)| a.mean - b.mean),
                interval: contrast.map(|contrast| contrast.interval(level)),
                published: difference,
                outcome: outcome.unwrap_or(Outcome::NotJudged),
                error_ratio: both.map(|(a, b)| (1.0 - a.mean) / (1.0 - b.mean)),
                ..nothing
            }
        }
    })
}

fn above_outcome(contrast: &Contrast, published: f64) -> Outcome {
    let (low, high) = contrast.interval(0.95);
    match (low > 0.0, high < 0.0) {
        (false, false) => Outcome::Undecided,
        (above, _) if above == (published > 0.0) => Outcome::Holds,
        _ => Outcome::Fails,
    }
}

fn comparable_outcome(contrast: &Contrast, margin: f64) -> Outcome {
    if contrast.equivalence(margin) < LEVEL {
        Outcome::Holds
    } else if contrast.beyond(margin) < LEVEL {
        Outcome::Fails
    } else {
        Outcome::Undecided
    }
}

/// A margin in points, without the rounding of its fraction: `3.4`.
pub(crate) fn in_points(margin: f64) -> f64 {
    (1000.0 * margin).round() / 10.0
}

/// A p value as people read it: `0.03`, `< 0.0001`.
pub(crate) fn show_p(p: f64) -> String {
    if p < 0.0001 { "< 0.0001".into() } else { decimals(p, if p < 0.01 { 4 } else { 2 }) }
}

/// The same in a sentence: `p = 0.03`, `p < 0.0001`.
pub(crate) fn p_is(p: f64) -> String {
    let shown = show_p(p);
    if shown.starts_with('<') { format!("p {shown}") } else { format!("p = {shown}") }
}

/// A figure of results, as a sample over runs.
pub(crate) fn sample(results: &[&RunResult], value: fn(&RunResult) -> f64) -> Option<Sample> {
    Sample::new(results.iter().map(|result| value(result)).collect())
}

impl NetworkReport {
    /// A figure of this network, where its runs have it.
    pub(crate) fn figure(&self, figure: FigureId) -> Option<&Figure> {
        match figure {
            FigureId::FinalAccuracy => self.accuracy.as_ref(),
            FigureId::FinalLoss => self.loss.as_ref(),
            FigureId::Epoch(epoch, measure) => self.epochs.get(epoch)?.figure(measure),
        }
    }

    fn figure_mut(&mut self, figure: FigureId) -> Option<&mut Figure> {
        match figure {
            FigureId::FinalAccuracy => self.accuracy.as_mut(),
            FigureId::FinalLoss => self.loss.as_mut(),
            FigureId::Epoch(epoch, measure) => {
                let epoch = self.epochs.get_mut(epoch)?;
                match measure {
                    Measure::TrainLoss => epoch.train_loss.as_mut(),
                    Measure::TrainAccuracy => epoch.train_acc.as_mut(),
                    Measure::TestLoss => epoch.test_loss.as_mut(),
                    Measure::TestAccuracy => epoch.test_acc.as_mut(),
                }
            }
        }
    }
}
