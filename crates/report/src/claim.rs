//! The conclusion of a study, claim by claim, compared with our runs.

use pointwise_study::{ClaimKind, Metric, Quantity, Study};
use serde::{Deserialize, Serialize};

use crate::{
    NetworkReport, Outcome, Sample,
    figure::{FigureId, metric_name, scale},
    number::{decimals, signed, thousands},
    statistics::{Contrast, LEVEL, RatioContrast},
};

/// A part of the published conclusion, compared with our runs.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Claim {
    /// The claim, in the study's words or in ours.
    pub text: String,
    /// What our runs say of it, as a sentence; empty if they say nothing.
    #[serde(default)]
    pub finding: String,
    /// The network that it is about.
    pub network: String,
    /// The network that it is compared with.
    pub other: String,
    /// For a claim that two networks are comparable: the largest difference that is (a fraction for accuracies, nats for losses, a
    /// number for counts), or the largest ratio, above 1; `None` for other claims.
    pub margin: Option<f64>,
    /// Its unit.
    pub unit: Unit,
    /// Whether it is about counts of the networks, not about measurements of runs.
    #[serde(default)]
    pub counted: bool,
    /// Our number; `None` if these runs do not give one.
    pub ours: Option<f64>,
    /// The interval of our number: 95 %, or 90 % if it serves two one-sided tests; `None` for counts.
    pub interval: Option<(f64, f64)>,
    /// The published one, where it is known.
    pub published: Option<f64>,
    /// What our runs say of it.
    pub outcome: Outcome,
    /// Our errors of the first network over those of the second one, where accuracies are compared.
    pub error_ratio: Option<f64>,
}

/// The unit of a claim's number.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// The fraction by which there is less, shown in percent.
    Share,
    /// A ratio.
    Times,
    /// A difference of accuracies, shown in percentage points.
    Points,
    /// A difference of losses.
    Nats,
    /// A difference of counts.
    Count,
}

impl Unit {
    /// A number with its unit.
    fn show(self, number: f64) -> String {
        match self {
            Self::Share => decimals(100.0 * number, 1) + " %",
            Self::Times => decimals(number, 2) + "x",
            Self::Points => signed(100.0 * number, 2) + " points",
            Self::Nats => signed(number, 4) + " nats",
            Self::Count => {
                let sign = if number < 0.0 { "-" } else { "+" };
                sign.to_owned() + &thousands(number.abs().round() as u64)
            }
        }
    }
}

impl Claim {
    pub(crate) fn judgement(&self) -> &'static str {
        match self.outcome {
            Outcome::Holds => "holds",
            Outcome::Fails => "does not hold",
            Outcome::Undecided => "undecided",
            Outcome::NotJudged => "-",
        }
    }

    pub(crate) fn show(&self, number: f64) -> String {
        self.unit.show(number)
    }

    /// The interval in the unit of the claim; only for measurements.
    pub(crate) fn show_interval(&self) -> Option<String> {
        let (low, high) = self.interval?;
        let show = |number: f64| match self.unit {
            Unit::Points => signed(100.0 * number, 2),
            Unit::Nats => signed(number, 4),
            Unit::Share => decimals(100.0 * number, 1),
            Unit::Times if number.is_infinite() => "\u{221e}".to_owned(),
            Unit::Times | Unit::Count => decimals(number, 2),
        };
        Some(format!("{} to {}", show(low), show(high)))
    }
}

/// Judges the conclusion of a study. `comparable` says whether the measurements are of the published experiment.
pub(crate) fn claims(networks: &[NetworkReport], study: &Study, comparable: bool) -> Vec<Claim> {
    let judge = |claim| Pair::new(claim, networks, study, comparable).map(|pair| pair.judge());
    study.claims.iter().filter_map(judge).collect()
}

/// The two networks of a claim.
struct Pair<'a> {
    claim: &'a pointwise_study::Claim,
    ours: [&'a NetworkReport; 2],
    /// The published numbers of the two, in the unit of ours.
    theirs: Option<[f64; 2]>,
    comparable: bool,
}

impl<'a> Pair<'a> {
    fn new(
        claim: &'a pointwise_study::Claim,
        networks: &'a [NetworkReport],
        study: &Study,
        comparable: bool,
    ) -> Option<Self> {
        let of = |name: &str| networks.iter().find(|network| network.name == name);
        let theirs = |name: &str| {
            let arm = study.arm(name)?;
            match claim.of.metric() {
                Some(metric) => {
                    let figure = FigureId::last(metric).published(arm).filter(|it| !it.at_least)?;
                    Some(figure.value / scale(metric))
                }
                None if claim.of == Quantity::Parameters => arm.published.parameters.map(|it| it as f64),
                None => None,
            }
        };
        let theirs = theirs(&claim.network).zip(theirs(&claim.to)).map(|(a, b)| [a, b]);
        Some(Self { claim, ours: [of(&claim.network)?, of(&claim.to)?], theirs, comparable })
    }

    fn judge(&self) -> Claim {
        match self.claim.of.metric() {
            None => self.counted(),
            Some(metric) => self.measured(metric),
        }
    }

    /// Difference or ratio of two numbers.
    fn relate(&self, [a, b]: [f64; 2]) -> f64 {
        match self.claim.kind {
            ClaimKind::Difference => a - b,
            ClaimKind::Ratio => a / b,
        }
    }

    /// Judges counts: exactly, or as far as a published number was rounded.
    fn counted(&self) -> Claim {
        let count = |network: &NetworkReport| match self.claim.of {
            Quantity::Macs => network.macs,
            _ => network.parameters,
        };
        let counts = count(self.ours[0]).zip(count(self.ours[1]));
        let ours = counts.map(|(a, b)| self.relate([a as f64, b as f64])).filter(|it| it.is_finite());
        let published = self.claim.published.or(self.theirs.map(|theirs| self.relate(theirs)));
        let outcome = match (ours, published, self.claim.margin) {
            (Some(ours), _, Some(margin)) => {
                let is_close = match self.claim.kind {
                    ClaimKind::Difference => ours.abs() <= margin,
                    ClaimKind::Ratio => (1.0 / margin..=margin).contains(&ours),
                };
                if is_close { Outcome::Holds } else { Outcome::Fails }
            }
            (Some(ours), Some(published), None) => {
                let is_equal = match self.claim.published {
                    Some(given) => (ours - given).abs() <= half_unit(given),
                    // Both are made from counts by the same operations.
                    None => ours == published,
                };
                if is_equal { Outcome::Holds } else { Outcome::Fails }
            }
            _ => Outcome::NotJudged,
        };
        let is_less = |number: f64| self.claim.kind == ClaimKind::Ratio && number < 1.0;
        let is_share = published.or(ours).is_some_and(is_less) && self.claim.margin.is_none();
        let (unit, shown): (Unit, fn(f64) -> f64) = match self.claim.kind {
            ClaimKind::Difference => (Unit::Count, |it| it),
            ClaimKind::Ratio if is_share => (Unit::Share, |ratio| 1.0 - ratio),
            ClaimKind::Ratio => (Unit::Times, |it| it),
        };
        Claim {
            text: self
                .text(|| published.or(ours).map_or_else(String::new, |number| self.counts_as_words(number))),
            finding: ours.map_or_else(String::new, |number| self.counts_as_words(number) + "."),
            unit,
            counted: true,
            ours: ours.map(shown),
            published: published.map(shown),
            outcome,
            ..self.nothing()
        }
    }

    /// `nin has 34.2 % fewer parameters than alexnet`, with the names in backquotes.
    fn counts_as_words(&self, number: f64) -> String {
        let (network, to) = (&self.claim.network, &self.claim.to);
        let what = if self.claim.of == Quantity::Macs { "multiply-accumulates" } else { "parameters" };
        match self.claim.kind {
            _ if number == (if self.claim.kind == ClaimKind::Ratio { 1.0 } else { 0.0 }) => {
                format!("`{network}` has as many {what} as `{to}`")
            }
            ClaimKind::Ratio if number < 1.0 => {
                format!("`{network}` has {} % fewer {what} than `{to}`", decimals(100.0 * (1.0 - number), 1))
            }
            ClaimKind::Ratio => format!("`{network}` has {} times the {what} of `{to}`", decimals(number, 2)),
            ClaimKind::Difference => {
                let more = if number < 0.0 { "fewer" } else { "more" };
                let count = thousands(number.abs().round() as u64);
                format!("`{network}` has {count} {more} {what} than `{to}`")
            }
        }
    }

    /// Judges measurements: by intervals.
    fn measured(&self, metric: Metric) -> Claim {
        let sample = |network: &'a NetworkReport| -> Option<&'a Sample> {
            Some(&network.figure(FigureId::last(metric)).filter(|_| self.comparable)?.ours)
        };
        let both = sample(self.ours[0]).zip(sample(self.ours[1]));
        let unit = match self.claim.kind {
            ClaimKind::Ratio => Unit::Times,
            ClaimKind::Difference if metric.is_accuracy() => Unit::Points,
            ClaimKind::Difference => Unit::Nats,
        };
        let in_unit = match self.claim.kind {
            ClaimKind::Ratio => 1.0,
            ClaimKind::Difference => scale(metric),
        };
        let published = self.claim.published.map(|it| it / in_unit);
        let published = published.or(self.theirs.map(|theirs| self.relate(theirs)));
        let margin = self.claim.margin.map(|it| it / in_unit);
        let level = if margin.is_some() { 0.9 } else { 0.95 };
        let judged = both.and_then(|(a, b)| match self.claim.kind {
            ClaimKind::Difference => {
                let contrast = Contrast::new(a, b)?;
                let outcome = match margin {
                    Some(margin) => tested(contrast.equivalence(margin), contrast.beyond(margin)),
                    None => sided(contrast.interval(level), 0.0, published),
                };
                Some((contrast.interval(level), outcome))
            }
            ClaimKind::Ratio => {
                let contrast = RatioContrast::new(a, b)?;
                let outcome = match margin {
                    Some(margin) => tested(contrast.equivalence(margin), contrast.beyond(margin)),
                    None => sided(contrast.interval(level), 1.0, published),
                };
                Some((contrast.interval(level), outcome))
            }
        });
        let ours = both.map(|(a, b)| self.relate([a.mean, b.mean]));
        let error_ratio = both
            .filter(|(_, b)| matches!(metric, Metric::TestAcc | Metric::TtaTestAcc) && b.mean < 1.0)
            .map(|(a, b)| (1.0 - a.mean) / (1.0 - b.mean));
        let mut claim = Claim {
            text: self.text(|| self.measured_as_words(metric, published)),
            margin,
            unit,
            ours: ours.filter(|it| it.is_finite()),
            // JSON has no infinity.
            interval: judged
                .map(|(interval, _)| interval)
                .filter(|(low, high)| low.is_finite() && high.is_finite()),
            published,
            outcome: judged.map_or(Outcome::NotJudged, |(_, outcome)| outcome),
            error_ratio,
            ..self.nothing()
        };
        claim.finding = self.measured_finding(metric, &claim);
        claim
    }

    fn measured_as_words(&self, metric: Metric, published: Option<f64>) -> String {
        let (network, to, name) = (&self.claim.network, &self.claim.to, metric_name(metric));
        if let Some(margin) = self.claim.margin {
            let margin = self.show_margin(metric, margin);
            return format!("{name} of `{network}` comparable to that of `{to}`, {margin}");
        }
        let level = if self.claim.kind == ClaimKind::Ratio { 1.0 } else { 0.0 };
        let side = match published {
            Some(published) if published < level => "below",
            Some(_) => "above",
            None => "beside",
        };
        format!("{name} of `{network}` {side} that of `{to}`")
    }

    /// `to 2 points`, `to a factor of 1.1`.
    fn show_margin(&self, metric: Metric, margin: f64) -> String {
        match self.claim.kind {
            ClaimKind::Ratio => format!("to a factor of {margin}"),
            ClaimKind::Difference if metric.is_accuracy() => format!("to {margin} points"),
            ClaimKind::Difference => format!("to {margin} nats"),
        }
    }

    /// How far the two are from each other in these runs, and what that says of the claim; empty without an interval.
    fn measured_finding(&self, metric: Metric, claim: &Claim) -> String {
        let (Some(ours), Some((low, high))) = (claim.ours, claim.interval) else { return String::new() };
        let (network, to, name) = (&self.claim.network, &self.claim.to, metric_name(metric));
        let level = if claim.margin.is_some() { 90 } else { 95 };
        let mut text = match self.claim.kind {
            ClaimKind::Ratio => format!(
                "The {name} of `{network}` is {} times that of `{to}` ({level} % interval {} to {})",
                decimals(ours, 2),
                decimals(low, 2),
                decimals(high, 2)
            ),
            ClaimKind::Difference => {
                let (side, low, high) =
                    if ours < 0.0 { ("below", -high, -low) } else { ("above", low, high) };
                let show: fn(f64) -> String =
                    if metric.is_accuracy() { |it| decimals(100.0 * it, 1) } else { |it| decimals(it, 4) };
                let unit = if metric.is_accuracy() { "points" } else { "nats" };
                format!(
                    "The {name} of `{network}` is {} {unit} {side} that of `{to}` ({level} % interval {} to {})",
                    show(ours.abs()),
                    show(low),
                    show(high)
                )
            }
        };
        if let Some(ratio) = claim.error_ratio.filter(|_| claim.margin.is_some()) {
            text += &format!(", with {} times its errors", decimals(ratio, 2));
        }
        let margin = self.claim.margin.map(|margin| self.show_margin(metric, margin));
        text + &match (margin, claim.outcome) {
            (Some(margin), Outcome::Holds) => format!(": comparable, {margin}."),
            (Some(margin), Outcome::Fails) => format!(": not comparable, {margin}."),
            (Some(margin), _) => format!(": whether that is comparable, {margin}, these runs cannot tell."),
            (None, Outcome::Holds) => ": as published.".to_owned(),
            (None, Outcome::Fails) => {
                format!(": the other way round than published ({}).", self.published(claim))
            }
            (None, Outcome::Undecided) => ": which of the two is ahead, these runs cannot tell.".to_owned(),
            (None, Outcome::NotJudged) => ".".to_owned(),
        }
    }

    fn published(&self, claim: &Claim) -> String {
        claim.published.map_or_else(String::new, |published| claim.show(published))
    }

    /// The study's own words, or ours.
    fn text(&self, ours: impl FnOnce() -> String) -> String {
        if self.claim.text.is_empty() { ours() } else { self.claim.text.clone() }
    }

    fn nothing(&self) -> Claim {
        Claim {
            text: String::new(),
            finding: String::new(),
            network: self.claim.network.clone(),
            other: self.claim.to.clone(),
            margin: self.claim.margin,
            unit: Unit::Points,
            counted: false,
            ours: None,
            interval: None,
            published: None,
            outcome: Outcome::NotJudged,
            error_ratio: None,
        }
    }
}

/// Half a unit of the last decimal that a number has.
fn half_unit(number: f64) -> f64 {
    let text = number.to_string();
    let decimals = text.split_once('.').map_or(0, |(_, digits)| digits.len());
    // Slightly more, for numbers that are not exact in binary.
    0.5 * 0.1_f64.powi(decimals as i32) * (1.0 + 1e-9)
}

/// Whether the interval is on the same side of `level` as the published number.
fn sided((low, high): (f64, f64), level: f64, published: Option<f64>) -> Outcome {
    let Some(published) = published.filter(|published| *published != level) else {
        return Outcome::NotJudged;
    };
    match (low > level, high < level) {
        (false, false) => Outcome::Undecided,
        (above, _) if above == (published > level) => Outcome::Holds,
        _ => Outcome::Fails,
    }
}

fn tested(equivalence: f64, beyond: f64) -> Outcome {
    if equivalence < LEVEL {
        Outcome::Holds
    } else if beyond < LEVEL {
        Outcome::Fails
    } else {
        Outcome::Undecided
    }
}
