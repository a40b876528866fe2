//! The verdict in plain words, and our figures next to the published ones.

use pointwise_study::Metric;

use super::{
    NAMED, Page, Shown,
    chart::{self, WIDTH, around, marker},
    figure::{Data, figure},
    text::{escape, named, paragraphs, short},
};
use crate::{
    Figure, Verdict, effect,
    figure::{FigureId, metric_name, places, scale, show},
    judgement::{p_is, show_p},
    number::{decimals, signed, thousands},
};

impl Page<'_> {
    /// A style, and the verdict in a word or two.
    pub(super) fn verdict_word(&self) -> (&'static str, &'static str) {
        let report = self.report;
        match &report.verdict {
            Verdict::NotJudged => ("open", "No verdict"),
            _ if report.data.stand_in && report.counts_as_published => ("good", "Quick check passed"),
            _ if report.data.stand_in => ("bad", "Quick check failed"),
            Verdict::Reproduced => ("good", "Reproduced"),
            Verdict::Different { .. } => ("bad", "Different"),
            Verdict::Undecided { .. } => ("open", "Undecided"),
            Verdict::NotComparable { .. } => ("open", "Not comparable"),
        }
    }

    pub(super) fn results_title(&self) -> &'static str {
        if self.networks.iter().any(|network| network.published.is_some()) {
            "The results, next to the published ones"
        } else {
            "The results"
        }
    }

    pub(super) fn opening(&self) -> String {
        let report = self.report;
        let (title, plain) = self.verdict_in_plain_words();
        let (class, word) = self.verdict_word();
        let mut html = format!(
            "<p class=\"kicker\">{}</p><h1>{title}</h1><p class=\"badge {class}\">{word}</p><p class=\"lede\">{plain}</p>",
            escape(&report.study.title)
        );
        let findings = report.findings();
        if !findings.is_empty() {
            html += "<ul class=\"findings\">";
            for finding in findings {
                html += &format!("<li>{}</li>", named(finding));
            }
            html += "</ul>";
        }
        html += &format!("<p class=\"exact\">In full: {}</p>", escape(&report.headline()));
        if !report.study.question.is_empty() {
            html += &format!(
                "<h2 class=\"small\">What the study asks</h2>{}",
                paragraphs(&report.study.question)
            );
        }
        html + &self.source()
    }

    /// What was published, by whom, and what it concluded.
    fn source(&self) -> String {
        let about = &self.report.study;
        let mut html = String::new();
        if !about.conclusion.is_empty() {
            html += &format!("<h2 class=\"small\">What it concluded</h2>{}", paragraphs(&about.conclusion));
        }
        let source = self.study.source.clone().unwrap_or_default();
        let year = source.year.map(|year| year.to_string()).unwrap_or_default();
        // Only a reader follows a link; anything else stays text.
        let is_link = ["http://", "https://"].iter().any(|scheme| source.link.starts_with(scheme));
        let link = match escape(&source.link) {
            link if is_link => format!("<a href=\"{link}\" rel=\"noopener noreferrer nofollow\">{link}</a>"),
            link => link,
        };
        let parts = [escape(&source.author), escape(&source.title), year, link, escape(&source.licence)];
        let known: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        if !known.is_empty() {
            html += &format!("<p class=\"exact\">Published: {}.</p>", known.join(", "));
        }
        if !about.note.is_empty() {
            html += &paragraphs(&about.note).replace("<p>", "<p class=\"exact\">");
        }
        html
    }

    fn verdict_in_plain_words(&self) -> (&'static str, String) {
        let report = self.report;
        let counts = match (report.has_counts(), report.counts_as_published) {
            (false, _) => "",
            (true, true) => " The networks have exactly the published numbers of parameters.",
            (true, false) => " The numbers of parameters are not all the published ones.",
        };
        let (title, plain) = match &report.verdict {
            Verdict::NotJudged if report.data.stand_in => (
                "Networks side by side",
                "The whole path from images to this page works. The images were drawn by a program to save a download: what is learned \
                 from them says nothing about the study's own.",
            ),
            Verdict::NotJudged if report.networks.len() == 1 => (
                "What a network learned",
                "Nothing was published to compare these runs with, so this page shows what they found.",
            ),
            Verdict::NotJudged => (
                "Networks side by side",
                "Nothing was published to compare these runs with, so this page compares the networks with each other.",
            ),
            _ if report.data.stand_in => (
                if report.counts_as_published { "The quick check passed" } else { "The quick check failed" },
                "The whole path from images to this page works. The images were drawn by a program to save a download: what is learned \
                 from them says nothing about the study's own, so accuracies are not compared.",
            ),
            Verdict::Reproduced => (
                "The published results hold up",
                "We trained the networks again by the published recipe. No deciding figure differs from ours by more than chance \
                 explains, and these runs were enough to notice a difference that matters.",
            ),
            Verdict::Different { .. } => (
                "Our results differ from the published ones",
                "We trained the networks again by the published recipe, and chance alone does not explain how the published results \
                 differ from ours.",
            ),
            Verdict::Undecided { .. } if !report.is_decided() => (
                "These runs cannot tell",
                "We trained the networks again by the published recipe, but not often enough to know how far chance alone moves a \
                 result.",
            ),
            Verdict::Undecided { .. } => (
                "These runs cannot tell",
                "We trained the networks again by the published recipe. Nothing that was published differs from ours by more than chance \
                 explains, but chance explains a lot here: a difference that matters could have been missed.",
            ),
            Verdict::NotComparable { .. } => (
                "These runs cannot be compared with the published study",
                "They are not the published experiment, or not all of it. What they found is shown nevertheless.",
            ),
        };
        let counts = if matches!(report.verdict, Verdict::Different { .. } | Verdict::NotJudged) {
            ""
        } else {
            counts
        };
        (title, format!("{plain}{counts}"))
    }

    /// The key to the marks of the networks, if there are too many to name each at its mark; otherwise empty.
    pub(super) fn key(&self) -> String {
        if self.networks.len() <= NAMED {
            return String::new();
        }
        let mut html = String::from("<p class=\"key marks\">");
        for network in &self.networks {
            let mark =
                marker(&format!("solid {}", network.class()), network.index, 5.0, 8.0, 8.0, network.name());
            html += &format!(
                "<span><svg class=\"mark\" viewBox=\"0 0 16 16\" aria-hidden=\"true\">{mark}</svg> {}</span> ",
                escape(network.name())
            );
        }
        html + "</p>"
    }

    pub(super) fn results(&self) -> String {
        let mut html = String::new();
        if self.report.data.stand_in {
            html += &format!(
                "<p class=\"warning\">Synthetic images: the accuracies below are of drawn pictures. They say nothing about {}, and are \
                 not compared with published ones.</p>",
                escape(&self.report.study.images)
            );
        }
        for note in &self.report.notes {
            html += &format!("<p>{}</p>", escape(note));
        }
        let shown = self.report.shown_figures();
        for id in &shown {
            html += &self.finals(*id).table(&caption(*id));
        }
        let judged = |id: &&FigureId| self.figures(**id).any(|(_, figure)| figure.interval().is_some());
        let judged: Vec<FigureId> = shown.iter().filter(judged).copied().collect();
        if !judged.is_empty() {
            html += "<div class=\"charts\">";
            for id in judged {
                let (title, note) = if id.metric.is_accuracy() {
                    (
                        format!("{}, %", capital(&id.name())),
                        "bar: where the published figure falls in 95 of 100 faithful reproductions",
                    )
                } else {
                    (capital(&id.name()), "lower is better")
                };
                html += &figure(&title, note, &self.forest(id));
            }
            html += "</div><p class=\"key\"><span class=\"swatch solid\"></span> ours, mean over the seeds \
                     <span class=\"swatch hollow\"></span> published</p>";
            html += &self.how_judged();
        }
        html + &self.conclusion() + &self.effects()
    }

    /// What the intervals of the charts mean, and what they rest on.
    fn how_judged(&self) -> String {
        let report = self.report;
        let mut html = String::from("<p>");
        if report.comparisons().next().is_some() {
            html += "A published figure inside the bar does not differ from ours: training the same network again with another seed \
                     moves the result about that much.";
        }
        if report.bounds().next().is_some() {
            html += " For a figure that was claimed to be reached at least, the bar is where our mean lies with 90 % confidence: the \
                     claim holds if the whole bar is beyond the figure, and fails if none of it is.";
        }
        html += &if report.record.is_empty() {
            " The movement is measured between our own seeds.".to_owned()
        } else {
            format!(
                " There are too few seeds to measure that movement, so it is taken from an earlier record of the same study ({}).",
                escape(&report.record_seeds())
            )
        };
        let detectable = report.detectable();
        if !detectable.is_empty() {
            html += &format!(
                " A difference of {} would have been noticed in 8 of 10 cases, whichever network it is in; a smaller one could have \
                 been missed.",
                detectable.join(" or of ")
            );
        }
        html += "</p>";
        if let Some(curve) = &report.curve {
            html += &format!(
                "<p>The {} other published figures taken together {} figures of ours ({}; {} lie outside of their own intervals, where \
                 1 in 20 does by chance).</p>",
                curve.figures,
                if curve.differs() { "are <strong>not</strong>" } else { "could be" },
                escape(&p_is(curve.p)),
                curve.outside
            );
            html += &self.secondary().details("the other figures, each with its interval", "figures");
        }
        html
    }

    /// A figure of each network that has it.
    fn figures(&self, id: FigureId) -> impl Iterator<Item = (&Shown<'_>, &Figure)> {
        self.networks.iter().filter_map(move |network| Some((network, network.report.figure(id)?)))
    }

    /// Every figure of every epoch, next to the published one.
    fn secondary(&self) -> Data {
        let mut data =
            Data::new(["network", "epoch", "figure", "ours", "published", "95 % interval", "p", "inside"]);
        for network in &self.networks {
            for epoch in &network.report.epochs {
                for metric in Metric::OF_EPOCHS {
                    let Some(figure) = epoch.figure(metric) else { continue };
                    let Some(comparison) = &figure.comparison else { continue };
                    let show = |value: f64| show(metric, value);
                    data.rows.push(vec![
                        network.name().into(),
                        epoch.epoch.to_string(),
                        metric_name(metric).into(),
                        show(figure.ours.mean),
                        figure.show_published(metric).unwrap_or_default()
                            + if metric.is_accuracy() { " %" } else { "" },
                        format!("{} to {}", show(comparison.low), show(comparison.high)),
                        show_p(comparison.p),
                        if comparison.within() { "yes" } else { "no" }.into(),
                    ]);
                }
            }
        }
        data
    }

    /// The conclusion, claim by claim.
    fn conclusion(&self) -> String {
        let mut data = Data::new(["claim", "ours", "interval", "published", "judgement"]);
        for claim in &self.report.claims {
            if self.report.data.stand_in && !claim.counted {
                continue;
            }
            let none = || "\u{2013}".to_owned();
            data.rows.push(vec![
                claim.text.replace('`', ""),
                claim.ours.map_or_else(none, |ours| claim.show(ours)),
                claim.show_interval().unwrap_or_else(none),
                claim.published.map_or_else(none, |published| claim.show(published)),
                claim.judgement().replace('-', "\u{2013}"),
            ]);
        }
        let caption = match self.report.verdict {
            Verdict::NotJudged => "The claims of the study",
            _ => "The published conclusion, judged",
        };
        if data.rows.is_empty() { String::new() } else { data.table(caption) }
    }

    /// The effects of changes between the networks.
    fn effects(&self) -> String {
        if self.report.effects.is_empty() {
            return String::new();
        }
        let mut data = Data::new(effect::COLUMNS);
        data.rows.extend(self.report.effects.iter().map(|effect| effect.row("\u{2013}")));
        let note = format!("<p class=\"exact\">{}</p>", escape(effect::NOTE));
        data.table("Effects of changes between the networks") + &note
    }

    /// A figure of every network; the first such table also has the networks' sizes.
    fn finals(&self, id: FigureId) -> Data {
        let compare = self.networks.iter().any(|network| {
            let of = |figure: &Figure| figure.published.is_some();
            network.published.is_some() && network.report.figure(id).is_some_and(of)
        });
        let with_size = id == FigureId::last(Metric::TestAcc);
        let title = if id.metric.is_accuracy() {
            format!("{} %", metric_name(id.metric))
        } else {
            metric_name(id.metric).to_owned()
        };
        let mut columns = vec!["network"];
        if with_size {
            columns.push("parameters");
        }
        columns.extend(["seeds", title.as_str()]);
        if compare {
            columns.extend(["published", "difference", "95 % interval", "p", "detectable"]);
        }
        let none = || "\u{2013}".to_owned();
        let (scale, places) = (scale(id.metric), places(id.metric));
        let show = |value: f64| decimals(value * scale, places);
        let mut data = Data::new(columns);
        for network in &self.networks {
            let report = network.report;
            let mut row = vec![report.name.clone()];
            if with_size {
                row.push(report.parameters.map_or_else(none, thousands));
            }
            row.push(report.seeds.len().to_string());
            let figure = report.figure(id);
            row.push(figure.map_or_else(none, |figure| match figure.ours.deviation {
                Some(deviation) => format!("{} \u{b1} {}", show(figure.ours.mean), show(deviation)),
                None => show(figure.ours.mean),
            }));
            if compare {
                let theirs = figure.filter(|_| network.published.is_some());
                row.push(theirs.and_then(|it| it.show_published(id.metric)).unwrap_or_else(none));
                let difference = theirs.and_then(|it| Some(it.ours.mean - it.published?));
                row.push(difference.map_or_else(none, |it| signed(scale * it, places)));
                let interval = |figure: &Figure| {
                    let (low, high) = figure.interval()?;
                    let level = if figure.bound.is_some() { " (90 %)" } else { "" };
                    Some(format!("{} to {}{level}", show(low), show(high)))
                };
                row.push(theirs.and_then(interval).unwrap_or_else(none));
                row.push(theirs.and_then(Figure::corrected).map_or_else(none, show_p));
                let comparison = theirs.and_then(|it| it.comparison.as_ref());
                row.push(comparison.map_or_else(none, |it| show(it.detectable)));
            }
            data.rows.push(row);
        }
        data
    }

    /// A row for each network: interval, our mean, the published figure.
    fn forest(&self, id: FigureId) -> String {
        const ROW: f64 = 44.0;
        let (scale, places) = (scale(id.metric), places(id.metric));
        let rows: Vec<(&Shown<'_>, &Figure, (f64, f64), f64)> = self
            .figures(id)
            .filter_map(|(network, figure)| Some((network, figure, figure.interval()?, figure.published?)))
            .collect();
        let ends = rows.iter().flat_map(|(_, figure, (low, high), theirs)| {
            [*low * scale, *high * scale, figure.ours.mean * scale, theirs * scale]
        });
        let (low, high) = around(ends, 0.1_f64.powi(places as i32));
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
                decimals(tick, tick_places(high - low))
            );
        }
        for (row, (network, figure, (low, high), theirs)) in rows.into_iter().enumerate() {
            let y = ROW * row as f64 + 30.0;
            let class = network.class();
            let name = network.name();
            let show = |value: f64| decimals(value * scale, places);
            svg += &format!(
                "<text class=\"name {class}\" x=\"{:.1}\" y=\"{:.1}\">{}</text><line class=\"interval {class}\" x1=\"{:.1}\" \
                 x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                at(low).min(WIDTH - 120.0),
                y - 11.0,
                escape(name),
                at(low),
                at(high)
            );
            let level = if figure.bound.is_some() { "90" } else { "95" };
            let says = format!(
                "{name}: ours {}, {level} % interval {} to {}",
                show(figure.ours.mean),
                show(low),
                show(high)
            );
            svg += &marker(&format!("solid {class}"), network.index, 5.5, at(figure.ours.mean), y, &says);
            let where_it_is = match (&figure.bound, figure.is_possible()) {
                (None, true) => "inside our interval",
                (None, false) => "outside of our interval",
                (Some(_), true) => "not refuted",
                (Some(_), false) => "not reached",
            };
            let published = figure.show_published(id.metric).unwrap_or_default();
            let says = format!("{name}: published {published}, {where_it_is}");
            svg += &marker(&format!("hollow {class}"), network.index, 5.5, at(theirs), y, &says);
        }
        chart::frame(&format!("{} with intervals", capital(&id.name())), height, &svg)
    }
}

/// `Size, and accuracy after the last epoch`.
fn caption(id: FigureId) -> String {
    let what = if id.metric.is_accuracy() { "accuracy" } else { "loss" };
    match (id.epoch, id.metric) {
        (None, Metric::TestAcc) => "Size, and accuracy after the last epoch".to_owned(),
        (None, Metric::TestLoss) => "Loss after the last epoch".to_owned(),
        (None, Metric::TtaTestAcc) => "Accuracy with test-time augmentation after the last epoch".to_owned(),
        (None, _) => format!("Training {what} of the last epoch"),
        (Some(_), _) => capital(&id.name()),
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + letters.as_str())
}

/// Decimals that distinguish about six ticks over a range.
fn tick_places(range: f64) -> usize {
    let step = range / 6.0;
    if step >= 1.0 || step <= 0.0 { 0 } else { (-step.log10()).ceil().min(6.0) as usize }
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
