//! The verdict in plain words, and our figures beside the published ones.

use super::{
    Page, Shown,
    chart::{self, WIDTH, around, marker},
    figure::{Data, figure},
    text::{escape, short},
};
use crate::{
    Comparison, Figure, Unit, Verdict,
    figure::Measure,
    judgement::{p_is, show_p},
    number::{decimals, percent, signed, thousands},
};

const ASKS: &str = "A convolutional network looks for patterns in small squares of an image, in many channels at once. A \
    <em>pointwise</em> convolution is the smallest of them: a square of one pixel. It sees no shapes; it only mixes channels, and so \
    can make a network wider or narrower for few parameters. The study asks whether that is a good bargain. It trains three networks \
    by one recipe on CIFAR-10 (small photographs of ten kinds of things) and compares how large they are with how often they name an \
    image they have never seen.";

impl Page<'_> {
    /// A style, and the verdict in a word or two.
    pub(super) fn verdict_word(&self) -> (&'static str, &'static str) {
        match &self.study.verdict {
            Verdict::Reproduced
            | Verdict::Undecided { .. }
            | Verdict::NotComparable { .. }
            | Verdict::Different { .. }
                if self.study.data.synthetic =>
            {
                match self.study.counts_as_published {
                    true => ("good", "Quick check passed"),
                    false => ("bad", "Quick check failed"),
                }
            }
            Verdict::Reproduced => ("good", "Reproduced"),
            Verdict::Different { .. } => ("bad", "Different"),
            Verdict::Undecided { .. } => ("open", "Undecided"),
            Verdict::NotComparable { .. } => ("open", "Not comparable"),
            Verdict::NotJudged => ("open", "No verdict"),
        }
    }

    pub(super) fn opening(&self) -> String {
        let synthetic = self.study.data.synthetic;
        let (title, plain) = match &self.study.verdict {
            Verdict::NotJudged => (
                "Networks beside each other",
                "These networks were trained by the study's recipe. There are no published figures for all of them, so this page \
                 compares them with each other.",
            ),
            _ if synthetic && self.study.counts_as_published => (
                "The quick check passed",
                "The networks have exactly the published numbers of parameters, and the whole path from images to this page \
                 works. The images were drawn by a program to save a download: what is learned from them says nothing about \
                 photographs, so accuracies are not compared.",
            ),
            _ if synthetic => (
                "The quick check failed",
                "The numbers of parameters are not all the published ones. The images were drawn by a program, so accuracies are \
                 not compared.",
            ),
            Verdict::Reproduced => (
                "The published results hold up",
                "We trained the networks again by the published recipe. Their numbers of parameters are exactly the published ones, \
                 no published final accuracy differs from ours by more than chance explains, and these runs were enough to notice a \
                 difference that matters.",
            ),
            Verdict::Different { .. } => (
                "Our results differ from the published ones",
                "We trained the networks again by the published recipe, and what was published is not what chance alone would make of \
                 our results.",
            ),
            Verdict::Undecided { .. } if self.study.decisive().next().is_none() => (
                "These runs cannot tell",
                "We trained the networks again by the published recipe, but not often enough to know how far chance alone moves a \
                 result.",
            ),
            Verdict::Undecided { .. } => (
                "These runs cannot tell",
                "We trained the networks again by the published recipe. No published figure differs from ours by more than chance \
                 explains, but chance explains a lot here: a difference that matters could have been missed.",
            ),
            Verdict::NotComparable { .. } => (
                "These runs cannot be compared with the published study",
                "They are not the published experiment, or not all of it. What they found is shown nevertheless.",
            ),
        };
        let (class, word) = self.verdict_word();
        let finding = self.finding();
        let finding = if finding.is_empty() { finding } else { format!("<p>{finding}</p>") };
        format!(
            "<p class=\"kicker\">Pointwise convolutions on CIFAR-10</p><h1>{title}</h1><p class=\"badge {class}\">{word}</p>\
             <p class=\"lede\">{plain}</p>{finding}<p class=\"exact\">In full: {}</p>\
             <h2 class=\"small\">What the study asks</h2><p>{ASKS}</p>",
            escape(&self.study.headline())
        )
    }

    /// The study's conclusion in our numbers.
    fn finding(&self) -> String {
        let of = |name: &str| self.study.networks.iter().find(|network| network.name == name);
        let counts = |name: &str| of(name)?.parameters;
        let (Some(nin), Some(alexnet), Some(plain)) =
            (counts("nin"), counts("alexnet"), counts("alexnet_plain"))
        else {
            return String::new();
        };
        if matches!(self.study.verdict, Verdict::NotJudged) {
            return String::new();
        }
        let mut text = format!(
            "<strong>nin</strong>, the network built on pointwise convolutions, has {} parameters: {}\u{a0}% fewer than \
             <strong>alexnet</strong> and {} times fewer than <strong>alexnet_plain</strong>.",
            thousands(nin),
            decimals(100.0 * (1.0 - nin as f64 / alexnet as f64), 1),
            decimals(plain as f64 / nin as f64, 2)
        );
        let accuracy = |name: &str| Some(percent(of(name)?.accuracy.as_ref()?.ours.mean));
        if let (false, Some(nin), Some(alexnet), Some(plain)) =
            (self.study.data.synthetic, accuracy("nin"), accuracy("alexnet"), accuracy("alexnet_plain"))
        {
            text += &format!(
                " Of the test images it names {nin}\u{a0}% rightly; alexnet names {alexnet}\u{a0}% and alexnet_plain {plain}\u{a0}%."
            );
        }
        for sentence in self.study.finding() {
            text += " ";
            text += &escape(&sentence);
        }
        text
    }

    pub(super) fn results(&self) -> String {
        let mut html = String::new();
        if self.study.data.synthetic {
            html += "<p class=\"warning\">Synthetic images: the accuracies below are of drawn pictures. They are neither CIFAR-10's \
                     nor compared with published ones.</p>";
        }
        for note in &self.study.notes {
            html += &format!("<p>{}</p>", escape(note));
        }
        html += &self.finals(true).table("Size, and accuracy after the last epoch");
        html += &self.finals(false).table("Loss after the last epoch");
        let judged = |pick: Pick| {
            self.networks
                .iter()
                .any(|network| pick(network).is_some_and(|figure| figure.comparison.is_some()))
        };
        if judged(accuracy) {
            html += "<div class=\"charts\">";
            html += &figure(
                "Test accuracy, %",
                "bar: where the published figure falls in 95 of 100 faithful reproductions",
                &self.forest("Test accuracy in per cent with intervals", accuracy, 100.0, 2),
            );
            html += &figure(
                "Test loss",
                "lower is better",
                &self.forest("Test loss with intervals", loss, 1.0, 4),
            );
            html += "</div><p class=\"key\"><span class=\"swatch solid\"></span> ours, mean over the seeds \
                     <span class=\"swatch hollow\"></span> published</p>";
            html += "<p>A published figure inside the bar does not differ from ours: training the same network again with another \
                     seed moves the result about that much.";
            html += &if self.study.record.is_empty() {
                " The movement is measured between our own seeds.".to_owned()
            } else {
                format!(
                    " There are too few seeds to measure that movement, so it is taken from an earlier record of the same study ({}).",
                    escape(&self.study.record_seeds())
                )
            };
            let largest = self.study.detectable();
            if largest > 0.0 {
                html += &format!(
                    " A difference of {} points of accuracy would have been noticed in 8 of 10 cases, whichever network it is in; \
                     a smaller one could have been missed.",
                    decimals(100.0 * largest, 1)
                );
            }
            html += "</p>";
            if let Some(curve) = &self.study.curve {
                html += &format!(
                    "<p>The {} other published figures, of every epoch, taken together {} curves of ours ({}; {} lie \
                     outside of their own intervals, where 1 in 20 does by chance).</p>",
                    curve.figures,
                    if curve.differs() { "are <strong>not</strong>" } else { "could be" },
                    escape(&p_is(curve.p)),
                    curve.outside
                );
                html += &self.secondary().details("the other figures, each with its interval", "figures");
            }
        }
        html + &self.conclusion()
    }

    /// Every figure of every epoch beside the published one.
    fn secondary(&self) -> Data {
        let mut data =
            Data::new(["network", "epoch", "figure", "ours", "published", "95 % interval", "p", "inside"]);
        for network in &self.networks {
            for epoch in &network.report.epochs {
                for measure in Measure::ALL {
                    let Some(figure) = epoch.figure(measure) else { continue };
                    let Some(comparison) = &figure.comparison else { continue };
                    let show = |value: f64| measure.show(value);
                    data.rows.push(vec![
                        network.name().into(),
                        epoch.epoch.to_string(),
                        measure.name().into(),
                        show(figure.ours.mean),
                        figure.published.map_or_else(String::new, show),
                        format!("{} to {}", show(comparison.low), show(comparison.high)),
                        show_p(comparison.p),
                        if comparison.within() { "yes" } else { "no" }.into(),
                    ]);
                }
            }
        }
        data
    }

    /// The published conclusion, claim by claim.
    fn conclusion(&self) -> String {
        let mut data = Data::new(["claim", "ours", "interval", "published", "judgement"]);
        for claim in &self.study.claims {
            if self.study.data.synthetic && claim.unit == Unit::Points {
                continue;
            }
            let none = || "\u{2013}".to_owned();
            data.rows.push(vec![
                claim.text.replace('`', ""),
                claim.ours.map_or_else(none, |ours| claim.show(ours)),
                claim.show_interval().unwrap_or_else(none),
                claim.show(claim.published),
                claim.judgement().replace('-', "\u{2013}"),
            ]);
        }
        if data.rows.is_empty() { String::new() } else { data.table("The published conclusion, judged") }
    }

    /// Of the accuracies, or of the losses.
    fn finals(&self, accuracies: bool) -> Data {
        let compare = self.networks.iter().any(|network| network.published.is_some());
        let (title, scale, places) =
            if accuracies { ("test accuracy %", 100.0, 2) } else { ("test loss", 1.0, 4) };
        let mut columns = vec!["network", "parameters", "seeds", title];
        if !accuracies {
            columns.remove(1);
        }
        if compare {
            columns.extend(["published", "difference", "95 % interval", "p", "detectable"]);
        }
        let none = || "\u{2013}".to_owned();
        let mut data = Data::new(columns);
        for network in &self.networks {
            let report = network.report;
            let mut row = vec![report.name.clone()];
            if accuracies {
                row.push(report.parameters.map_or_else(none, thousands));
            }
            row.push(report.seeds.len().to_string());
            let figure = if accuracies { report.accuracy.as_ref() } else { report.loss.as_ref() };
            let theirs =
                network.published.as_ref().map(|it| if accuracies { it.final_acc } else { it.final_loss });
            let ours = figure.map(|figure| &figure.ours);
            let show = |value: f64| decimals(value * scale, places);
            row.push(ours.map_or_else(none, |ours| match ours.deviation {
                Some(deviation) => format!("{} \u{b1} {}", show(ours.mean), show(deviation)),
                None => show(ours.mean),
            }));
            if compare {
                row.push(theirs.map_or_else(none, |theirs| decimals(theirs, places)));
                let difference = ours.zip(theirs).map(|(ours, theirs)| ours.mean * scale - theirs);
                row.push(difference.map_or_else(none, |difference| signed(difference, places)));
                let interval = figure.and_then(|figure| figure.comparison.as_ref());
                row.push(interval.map_or_else(none, |Comparison { low, high, .. }| {
                    format!("{} to {}", show(*low), show(*high))
                }));
                row.push(interval.and_then(|it| it.corrected).map_or_else(none, show_p));
                row.push(interval.map_or_else(none, |it| show(it.detectable)));
            }
            data.rows.push(row);
        }
        data
    }

    /// A row for each network: interval, our mean, the published figure.
    fn forest(&self, description: &str, pick: Pick, scale: f64, places: usize) -> String {
        const ROW: f64 = 44.0;
        let rows: Vec<(&Shown<'_>, &Figure, &Comparison)> = self
            .networks
            .iter()
            .filter_map(|network| {
                let figure = pick(network)?;
                Some((network, figure, figure.comparison.as_ref()?))
            })
            .collect();
        let (low, high) = around(rows.iter().flat_map(|(_, _, it)| [it.low * scale, it.high * scale]), 0.0);
        let at = |value: f64| 12.0 + (value * scale - low) / (high - low) * (WIDTH - 24.0);
        let height = ROW * rows.len() as f64 + 30.0;
        let mut svg = String::new();
        for tick in chart::ticks(low, high, 6.0) {
            let x = at(tick / scale);
            svg += &format!(
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"4\" y2=\"{:.1}\"/><text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" \
                 text-anchor=\"middle\">{}</text>",
                height - 24.0,
                height - 8.0,
                decimals(tick, if scale > 1.0 { 0 } else { 1 })
            );
        }
        for (row, (network, figure, comparison)) in rows.into_iter().enumerate() {
            let y = ROW * row as f64 + 30.0;
            let class = network.class();
            let name = network.name();
            let show = |value: f64| decimals(value * scale, places);
            svg += &format!(
                "<text class=\"name {class}\" x=\"{:.1}\" y=\"{:.1}\">{}</text><line class=\"interval {class}\" x1=\"{:.1}\" \
                 x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                at(comparison.low),
                y - 11.0,
                escape(name),
                at(comparison.low),
                at(comparison.high)
            );
            let says = format!(
                "{name}: ours {}, 95 % interval {} to {}",
                show(figure.ours.mean),
                show(comparison.low),
                show(comparison.high)
            );
            svg += &marker(&format!("solid {class}"), network.index, 5.5, at(figure.ours.mean), y, &says);
            let theirs = figure.ours.mean - comparison.difference;
            let says = format!(
                "{name}: published {}, {} our interval",
                show(theirs),
                if comparison.within() { "inside" } else { "outside of" }
            );
            svg += &marker(&format!("hollow {class}"), network.index, 5.5, at(theirs), y, &says);
        }
        chart::frame(description, height, &svg)
    }
}

/// A figure of a network.
type Pick = for<'a> fn(&'a Shown<'_>) -> Option<&'a Figure>;

fn accuracy<'a>(network: &'a Shown<'_>) -> Option<&'a Figure> {
    network.report.accuracy.as_ref()
}

fn loss<'a>(network: &'a Shown<'_>) -> Option<&'a Figure> {
    network.report.loss.as_ref()
}

/// On an axis of counts: `2 M`.
pub(super) fn axis_of_counts(value: f64) -> String {
    let text = short(value);
    match text.split_once(' ') {
        Some((number, unit)) if number.contains('.') => {
            format!("{}\u{a0}{unit}", number.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}
