//! A study as one page for a browser. Nothing is fetched: styles, script, pictures and numbers are in it.
//!
//! Charts are drawn here; the script only adds conveniences: values at the pointer, images in a window. Every string
//! that comes from a run goes through [`text::escape`].

mod chart;
mod classes;
mod cost;
mod curves;
mod figure;
mod provenance;
mod results;
mod text;

use pointwise_runs::{Analysis, Run};
use pointwise_study::{Arm, Metric, PublishedFigure, Study};

use crate::{LayerFacts, NetworkFacts, NetworkReport, Result, StudyReport, compare::is_complete};

/// The pictures of further networks are left out once those before have this many bytes: a page should stay under 3 MB.
const PICTURE_BYTES: usize = 1_900_000;

/// Each run beyond [`NAMED`] of them leaves this many bytes less for pictures.
const RUN_BYTES: usize = 30_000;

/// With more networks than this, names at their lines and marks would overlap: they are in a key, and at the pointer.
const NAMED: usize = 12;

/// The page, `report.html`.
pub struct Page<'a> {
    report: &'a StudyReport,
    study: &'a Study,
    networks: Vec<Shown<'a>>,
}

/// A network that has runs.
struct Shown<'a> {
    /// Its index in the study; decides colour and shape.
    index: usize,
    report: &'a NetworkReport,
    /// What was published of it, if the runs can be compared with that.
    published: Option<&'a Arm>,
    layers: &'a [LayerFacts],
    /// By seed, unfinished ones too.
    runs: Vec<&'a Run>,
    /// The analyses of the complete runs that have one, with their seeds.
    analyses: Vec<(u64, Analysis)>,
    /// Whether the pictures of the first analysis are on the page.
    pictures: bool,
}

impl Shown<'_> {
    fn name(&self) -> &str {
        &self.report.name
    }

    /// The style of what belongs to the network.
    fn class(&self) -> String {
        format!("n{}", self.index % 8)
    }

    fn complete(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().copied().filter(|run| is_complete(run))
    }

    /// The published values of a metric, by epoch from 1, in the unit of tables and charts.
    fn published_curve(&self, metric: Metric) -> Vec<(u32, &PublishedFigure)> {
        let Some(arm) = self.published else { return Vec::new() };
        let figures = arm.published.figures.iter().filter(|it| it.metric == metric && !it.at_least);
        let mut curve: Vec<(u32, &PublishedFigure)> =
            figures.map(|figure| (figure.epoch.unwrap_or(arm.recipe.epochs), figure)).collect();
        curve.sort_by_key(|(epoch, _)| *epoch);
        curve.dedup_by_key(|(epoch, _)| *epoch);
        curve
    }

    /// As in the tables: mean of the final test accuracies in percent.
    fn accuracy(&self) -> Option<f64> {
        self.report.accuracy.as_ref().map(|figure| 100.0 * figure.ours.mean)
    }
}

impl<'a> Page<'a> {
    /// Puts a page together; the runs' analyses are read from their folders, where they have one.
    ///
    /// # Errors
    /// [`Error::Write`](crate::Error::Write) naming an analysis that cannot be read.
    pub fn read(
        report: &'a StudyReport,
        runs: &'a [Run],
        facts: &'a [NetworkFacts],
        study: &'a Study,
    ) -> Result<Self> {
        let mut analyses = Vec::new();
        for run in runs.iter().filter(|run| is_complete(run)) {
            if let Some(analysis) = run.analysis()? {
                analyses.push((run, analysis));
            }
        }
        Ok(Self::new(report, runs, facts, analyses, study))
    }

    /// From analyses at hand, each with its run.
    #[must_use]
    pub fn new(
        report: &'a StudyReport,
        runs: &'a [Run],
        facts: &'a [NetworkFacts],
        analyses: Vec<(&Run, Analysis)>,
        study: &'a Study,
    ) -> Self {
        // Next to accuracies on synthetic images, the published ones would mislead.
        let comparable = !report.data.stand_in;
        let most = PICTURE_BYTES.saturating_sub(RUN_BYTES * runs.len().saturating_sub(NAMED));
        let mut spent = 0;
        let mut networks = Vec::new();
        for (index, network) in report.networks.iter().enumerate() {
            let mut of_network: Vec<&Run> =
                runs.iter().filter(|run| run.config.model == network.name).collect();
            of_network.sort_by_key(|run| run.config.seed);
            if of_network.is_empty() {
                continue;
            }
            let mut analyses: Vec<(u64, Analysis)> = analyses
                .iter()
                .filter(|(run, _)| run.config.model == network.name)
                .map(|(run, analysis)| (run.config.seed, analysis.clone()))
                .collect();
            analyses.sort_by_key(|(seed, _)| *seed);
            let bytes =
                analyses.first().and_then(|(_, it)| it.sheet.as_ref()).map_or(0, |sheet| sheet.jpeg.len());
            let pictures = bytes > 0 && spent + bytes <= most;
            spent += if pictures { bytes } else { 0 };
            let arm = study.arm(&network.name).filter(|arm| !arm.published.figures.is_empty());
            networks.push(Shown {
                index,
                report: network,
                published: arm.filter(|_| comparable),
                layers: facts
                    .iter()
                    .find(|facts| facts.model == network.name)
                    .map_or(&[], |facts| &facts.layers),
                runs: of_network,
                analyses,
                pictures,
            });
        }
        Self { report, study, networks }
    }

    /// The page as text. The same runs give the same page, byte for byte.
    pub fn html(&self) -> String {
        let sections = [
            ("results", self.results_title(), self.results()),
            ("cost", "Accuracy against cost", self.cost()),
            ("curves", "How they learned", self.curves()),
            ("classes", "What they get right, and wrong", self.classes()),
            ("layers", "Where parameters and work sit", self.layers()),
            ("speed", "Speed", self.speed()),
            ("rerun", "How to repeat it", self.provenance()),
        ];
        let mut body = String::new();
        let mut contents = String::new();
        for (id, title, content) in sections {
            if !content.is_empty() {
                contents += &format!("<li><a href=\"#{id}\">{title}</a></li>");
                body += &format!(
                    "<section id=\"{id}\" aria-labelledby=\"h-{id}\"><h2 id=\"h-{id}\">{title}</h2>{content}</section>"
                );
            }
        }
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
             content=\"width=device-width, initial-scale=1\">\n<meta http-equiv=\"Content-Security-Policy\" \
             content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{}: {}</title>\n\
             <style>\n{}{}</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#results\">Skip to the results</a>\n\
             <header>{}</header>\n<nav aria-label=\"Contents\"><ol>{contents}</ol></nav>\n<main>{body}</main>\n\
             <footer><p>Written by Pointwise from the runs alone: it fetches nothing, and the same runs give the same page.</p></footer>\n\
             <dialog id=\"window\" aria-labelledby=\"window-title\"><form method=\"dialog\"><h2 id=\"window-title\"></h2>\
             <button aria-label=\"Close\">\u{d7}</button></form><div id=\"window-body\"></div></dialog>\n\
             <div id=\"tip\" role=\"status\" aria-live=\"polite\" hidden></div>\n<script>\n{}</script>\n</body>\n</html>\n",
            text::escape(&self.study.title),
            text::escape(self.verdict_word().1),
            include_str!("page.css"),
            self.picture_styles(),
            self.opening(),
            include_str!("page.js")
        )
    }
}
