//! From figures to a verdict: comparisons and corrections. This knows figures of networks and the published ones, but no particular
//! study.

use pointwise_runs::RunResult;
use pointwise_study::{Arm, Metric, Study};
use serde::{Deserialize, Serialize};

use crate::{
    Bound, Comparison, NetworkReport, Outcome, Record, Sample, Spread, SpreadSource, Verdict,
    figure::{FigureId, reported, scale, show, show_published},
    number::{decimals, thousands},
    statistics::{LEVEL, SEEDS_FOR_SPREAD, bartlett, combined, holm, moderated, own_spread},
};

/// Below this p value of [`CurveCheck`] the published curve is not one of ours. Separate from the level of the primary figures, so
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

/// Whether the published curves could be curves of our runs: all figures that do not decide, together.
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

/// The joint result of the comparisons of a study's figures.
#[derive(Default)]
pub(crate) struct Judged {
    pub(crate) homogeneity: Vec<Homogeneity>,
    pub(crate) curve: Option<CurveCheck>,
}

/// How a published figure decides.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deciding {
    /// As a result that ours must not differ from.
    Result,
    /// As a claim that ours must reach.
    Bound,
}

/// How the published figure of an arm decides; `None` if it is only shown, or there is none.
fn deciding(study: &Study, arm: &Arm, figure: FigureId) -> Option<Deciding> {
    let published = figure.published(arm)?;
    if published.at_least {
        return Some(Deciding::Bound);
    }
    primary(study, arm, figure).map(|_| Deciding::Result)
}

/// The study's primary figure that this figure of an arm corresponds to.
fn primary<'a>(study: &'a Study, arm: &Arm, figure: FigureId) -> Option<&'a pointwise_study::Primary> {
    study.primary.iter().find(|it| FigureId { metric: it.metric, epoch: it.epoch }.of(arm) == figure)
}

/// The figures of an arm that decide, primary ones first.
fn deciding_figures(study: &Study, arm: &Arm) -> Vec<(FigureId, Deciding)> {
    let primary = study.primary.iter().map(|it| FigureId { metric: it.metric, epoch: it.epoch });
    let published = arm.published.figures.iter().map(|it| FigureId { metric: it.metric, epoch: it.epoch });
    let mut found: Vec<(FigureId, Deciding)> = Vec::new();
    for figure in primary.chain(published).map(|figure| figure.of(arm)) {
        let is_new = found.iter().all(|(known, _)| *known != figure);
        found.extend(deciding(study, arm, figure).filter(|_| is_new).map(|how| (figure, how)));
    }
    found
}

/// Compares every figure of the networks, which are the study's arms, with the published one, and corrects the p values of those
/// that decide for their number.
///
/// A network with fewer than [`SEEDS_FOR_SPREAD`] runs takes its spread from `record`.
pub(crate) fn judge(networks: &mut [NetworkReport], study: &Study, record: Option<&Record>) -> Judged {
    let mut judged = Judged::default();
    let by_arm: Vec<_> = study.arms.iter().map(|arm| deciding_figures(study, arm)).collect();
    let decisive = by_arm.iter().map(Vec::len).sum();
    let mut figures: Vec<FigureId> = Vec::new();
    for (figure, _) in by_arm.iter().flatten() {
        if !figures.contains(figure) {
            figures.push(*figure);
        }
    }
    for figure in figures {
        let own: Vec<Option<&Sample>> = samples(networks, figure);
        judged.homogeneity.extend(bartlett(&own).map(|p| Homogeneity { figure: figure.name(), p }));
        let spreads = shared_spreads(&own, networks, figure, record);
        for ((network, arm), spread) in networks.iter_mut().zip(&study.arms).zip(spreads) {
            let (Some(spread), Some(how)) = (spread, deciding(study, arm, figure)) else { continue };
            compare(network, arm, figure, spread, how, decisive);
        }
    }
    correct(networks, &by_arm);
    judged.curve = curve_check(networks, study, record);
    judged
}

fn samples(networks: &[NetworkReport], figure: FigureId) -> Vec<Option<&Sample>> {
    networks.iter().map(|network| network.figure(figure).map(|figure| &figure.ours)).collect()
}

/// The spread of a figure of each network; networks that are alike share theirs.
fn shared_spreads(
    own: &[Option<&Sample>],
    networks: &[NetworkReport],
    figure: FigureId,
    record: Option<&Record>,
) -> Vec<Option<Spread>> {
    let recorded = record.map_or(&[][..], |record| &record.networks);
    let samples: Vec<Option<&Sample>> = recorded.iter().map(|network| network.sample(figure)).collect();
    let borrowed = moderated(&samples, SpreadSource::Record);
    let of_record = |name: &str| borrowed[recorded.iter().position(|recorded| recorded.name == name)?];
    moderated(own, SpreadSource::Seeds)
        .into_iter()
        .zip(networks)
        .map(|(own, network)| own.or_else(|| of_record(&network.name)))
        .collect()
}

/// Fills in the judgement of a figure. `decisive` is the number of figures that decide together.
fn compare(
    network: &mut NetworkReport,
    arm: &Arm,
    id: FigureId,
    spread: Spread,
    how: Deciding,
    decisive: usize,
) {
    let (Some(figure), Some(published)) = (network.figure_mut(id), id.published(arm)) else { return };
    let theirs = reported(published);
    match how {
        Deciding::Result => {
            figure.comparison = Some(Comparison::new(&figure.ours, spread, &theirs, decisive));
        }
        Deciding::Bound => {
            let above = id.metric.is_accuracy();
            figure.bound = Some(Bound::new(&figure.ours, spread, theirs.value, above));
        }
    }
}

/// Holm's correction over everything that could call the study different.
fn correct(networks: &mut [NetworkReport], by_arm: &[Vec<(FigureId, Deciding)>]) {
    let judged = |network: &NetworkReport, id: FigureId, how: Deciding| {
        let figure = network.figure(id)?;
        match how {
            Deciding::Result => figure.comparison.as_ref().map(|it| it.p),
            Deciding::Bound => figure.bound.as_ref().map(|it| it.short),
        }
    };
    let mut p = Vec::new();
    for (network, figures) in networks.iter().zip(by_arm) {
        p.extend(figures.iter().filter_map(|(id, how)| judged(network, *id, *how)));
    }
    let mut corrected = holm(&p).into_iter();
    for (network, figures) in networks.iter_mut().zip(by_arm) {
        for (id, how) in figures {
            if judged(network, *id, *how).is_none() {
                continue;
            }
            let Some(figure) = network.figure_mut(*id) else { continue };
            match (how, &mut figure.comparison, &mut figure.bound) {
                (Deciding::Result, Some(comparison), _) => comparison.corrected = corrected.next(),
                (Deciding::Bound, _, Some(bound)) => bound.corrected = corrected.next().unwrap_or(1.0),
                _ => {}
            }
        }
    }
}

/// Fills in the comparisons of all figures that do not decide, and judges them together. For these many figures each network uses
/// its own spread, which keeps their small p values honest.
fn curve_check(networks: &mut [NetworkReport], study: &Study, record: Option<&Record>) -> Option<CurveCheck> {
    let (mut p, mut outside, mut farthest): (Vec<f64>, u32, Option<(f64, String)>) = (Vec::new(), 0, None);
    for (network, arm) in networks.iter_mut().zip(&study.arms) {
        let recorded = record.and_then(|record| record.networks.iter().find(|it| it.name == network.name));
        let epochs = (1..=network.epochs.len() as u32).map(Some);
        let ids: Vec<FigureId> = epochs
            .chain([None])
            .flat_map(|epoch| Metric::ALL.map(|metric| FigureId { metric, epoch }))
            .collect();
        for id in ids {
            let is_decisive = deciding(study, arm, id.of(arm)).is_some();
            // The last epoch's figures are the final ones: shown twice, they count once.
            let again = id != id.of(arm);
            let Some(published) = id.published(arm).filter(|it| !it.at_least) else { continue };
            let name = network.name.clone();
            let Some(figure) = network.figure_mut(id).filter(|_| again || !is_decisive) else { continue };
            let own = own_spread(&figure.ours, SpreadSource::Seeds);
            let spread = own.or_else(|| own_spread(recorded?.sample(id)?, SpreadSource::Record));
            let Some(spread) = spread else { continue };
            let found = Comparison::new(&figure.ours, spread, &reported(published), 1);
            if !again {
                p.push(found.p);
                outside += u32::from(!found.within());
                if farthest.as_ref().is_none_or(|(least, _)| found.p < *least) {
                    farthest = Some((found.p, format!("{name}, {}", id.name())));
                }
            }
            figure.comparison = Some(found);
        }
    }
    combined(&p).zip(farthest).map(|(all, (_, farthest))| CurveCheck {
        figures: p.len() as u32,
        outside,
        p: all,
        farthest,
    })
}

/// Whether the verdict needs runs of an arm: something was published of it.
fn is_judged(arm: &Arm) -> bool {
    arm.published.parameters.is_some() || !arm.published.figures.is_empty()
}

/// The verdict of figures that [`judge`] has compared. `not_comparable` holds the reasons why the runs cannot be compared at all.
pub(crate) fn verdict(
    networks: &[NetworkReport],
    study: &Study,
    curve: Option<&CurveCheck>,
    mut not_comparable: Vec<String>,
) -> Verdict {
    let (mut different, mut undecided, mut missed) = (Vec::new(), Vec::new(), Vec::new());
    let mut few: Vec<String> = Vec::new();
    let mut decides = false;
    for (network, arm) in networks.iter().zip(&study.arms).filter(|(_, arm)| is_judged(arm)) {
        let figures = deciding_figures(study, arm);
        decides |= !figures.is_empty();
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
        if arm.published.figures.is_empty() {
            continue;
        }
        if network.seeds.is_empty() {
            not_comparable.push(format!("there is no complete run of {}", network.name));
            continue;
        }
        if network.seeds.len() < SEEDS_FOR_SPREAD {
            few.push(format!("{} of {}", network.seeds.len(), network.name));
        }
        for (id, how) in figures {
            let Some(figure) = network.figure(id) else {
                not_comparable.push(format!("{} has no usable {}", network.name, id.name()));
                continue;
            };
            let of = format!("{} of {}", id.name(), network.name);
            let show = |value: f64| show(id.metric, value);
            let unit = if id.metric.is_accuracy() { " %" } else { "" };
            match how {
                Deciding::Result => {
                    let Some(comparison) = &figure.comparison else { continue };
                    if comparison.corrected.is_some_and(|p| p < LEVEL) {
                        different.push(format!(
                            "the published {of} ({}{unit}) differs from ours ({}, 95 % interval {} to {})",
                            figure.show_published(id.metric).unwrap_or_default(),
                            show(figure.ours.mean),
                            show(comparison.low),
                            show(comparison.high)
                        ));
                    }
                    let Some(primary) = primary(study, arm, id) else { continue };
                    if comparison.detectable > primary.margin / scale(id.metric) {
                        undecided.push(format!(
                            "a difference of up to {} in the {of} could have been missed",
                            id.show_difference(comparison.detectable)
                        ));
                        let unit = if id.metric.is_accuracy() { "points" } else { "nats" };
                        let matters = format!("differences from {} {unit} on matter", primary.margin);
                        if !missed.contains(&matters) {
                            missed.push(matters);
                        }
                    }
                }
                Deciding::Bound => {
                    let (Some(bound), Some(claimed)) = (&figure.bound, figure.published) else { continue };
                    let claimed = show_published(id.metric, claimed, figure.decimals, false);
                    let best = if id.metric.is_accuracy() { bound.high } else { bound.low };
                    let (most, least) = if id.metric.is_accuracy() {
                        ("at most", "at least")
                    } else {
                        ("at least", "at most")
                    };
                    match bound.outcome() {
                        Outcome::Fails => different.push(format!(
                            "the {of} is {} (95 % sure to be {most} {}), not {least} {claimed}{unit}",
                            show(figure.ours.mean),
                            show(best),
                        )),
                        Outcome::Undecided | Outcome::NotJudged => undecided.push(format!(
                            "whether the {of} is {least} {claimed}{unit} cannot be told (90 % interval {} to {})",
                            show(bound.low),
                            show(bound.high)
                        )),
                        Outcome::Holds => {}
                    }
                }
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
    } else {
        undecided.append(&mut missed);
    }
    if !decides && study.arms.iter().any(|arm| !arm.published.figures.is_empty()) {
        undecided.push("no published figure is one that decides".to_owned());
    }
    match (not_comparable.is_empty(), different.is_empty(), undecided.is_empty()) {
        (false, ..) => Verdict::NotComparable { reason: not_comparable.join(", ") },
        (true, false, _) => Verdict::Different { reason: different.join(", ") },
        (true, true, false) => Verdict::Undecided { reason: undecided.join(", ") },
        (true, true, true) => Verdict::Reproduced,
    }
}

/// A p value for display: `0.03`, `< 0.0001`.
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
