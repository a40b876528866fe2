//! A study as one page for a browser. Nothing is fetched: styles, script, pictures and numbers are in it.
//!
//! Charts are drawn here; the script adds what reading does without: values at the pointer, images in a window. Every string
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

use crate::{
    LayerFacts, NetworkFacts, NetworkReport, Published, PublishedNetwork, Result, Study, compare::is_complete,
};

/// Pictures are left out of further networks when those before have so many bytes: a page is to stay under 3 MB.
const PICTURE_BYTES: usize = 1_900_000;

/// The page, `report.html`.
pub struct Page<'a> {
    study: &'a Study,
    networks: Vec<Shown<'a>>,
}

/// A network of which there are runs.
struct Shown<'a> {
    /// In the study; decides colour and shape.
    index: usize,
    report: &'a NetworkReport,
    published: Option<PublishedNetwork>,
    layers: &'a [LayerFacts],
    /// By seed, unfinished ones too.
    runs: Vec<&'a Run>,
    /// With their seeds, of the complete runs that have one.
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

    /// As in the tables: mean of the final test accuracies in per cent.
    fn accuracy(&self) -> Option<f64> {
        self.report.accuracy.as_ref().map(|figure| 100.0 * figure.ours.mean)
    }
}

impl<'a> Page<'a> {
    /// Puts a page together; the runs' analyses are read from their folders, where they have one.
    ///
    /// # Errors
    /// [`Error::Write`](crate::Error::Write) naming an analysis that cannot be read.
    pub fn read(study: &'a Study, runs: &'a [Run], facts: &'a [NetworkFacts]) -> Result<Self> {
        let mut analyses = Vec::new();
        for run in runs.iter().filter(|run| is_complete(run)) {
            if let Some(analysis) = run.analysis()? {
                analyses.push((run, analysis));
            }
        }
        Self::new(study, runs, facts, analyses)
    }

    /// From analyses at hand, each with its run.
    ///
    /// # Errors
    /// If the published figures cannot be read.
    pub fn new(
        study: &'a Study,
        runs: &'a [Run],
        facts: &'a [NetworkFacts],
        analyses: Vec<(&Run, Analysis)>,
    ) -> Result<Self> {
        let published = Published::load()?;
        // Beside accuracies of made-up images the published ones would mislead.
        let comparable = !study.data.synthetic;
        let mut spent = 0;
        let mut networks = Vec::new();
        for (index, report) in study.networks.iter().enumerate() {
            let mut of_network: Vec<&Run> =
                runs.iter().filter(|run| run.config.model == report.name).collect();
            of_network.sort_by_key(|run| run.config.seed);
            if of_network.is_empty() {
                continue;
            }
            let mut analyses: Vec<(u64, Analysis)> = analyses
                .iter()
                .filter(|(run, _)| run.config.model == report.name)
                .map(|(run, analysis)| (run.config.seed, analysis.clone()))
                .collect();
            analyses.sort_by_key(|(seed, _)| *seed);
            let bytes =
                analyses.first().and_then(|(_, it)| it.sheet.as_ref()).map_or(0, |sheet| sheet.jpeg.len());
            let pictures = bytes > 0 && spent + bytes <= PICTURE_BYTES;
            spent += if pictures { bytes } else { 0 };
            let theirs = published.network(&report.name);
            networks.push(Shown {
                index,
                report,
                published: theirs.filter(|_| comparable).cloned(),
                layers: facts
                    .iter()
                    .find(|facts| facts.model == report.name)
                    .map_or(&[], |facts| &facts.layers),
                runs: of_network,
                analyses,
                pictures,
            });
        }
        Ok(Self { study, networks })
    }

    /// The page as text. The same runs give the same page, byte for byte.
    pub fn html(&self) -> String {
        let sections = [
            ("results", "The results, beside the published ones", self.results()),
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
                let title = if id == "results" && self.study.data.synthetic { "The results" } else { title };
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
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>Pointwise convolutions: {}</title>\n\
             <style>\n{}{}</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#results\">Skip to the results</a>\n\
             <header>{}</header>\n<nav aria-label=\"Contents\"><ol>{contents}</ol></nav>\n<main>{body}</main>\n\
             <footer><p>Written by Pointwise from the runs alone: it fetches nothing, and the same runs give the same page.</p></footer>\n\
             <dialog id=\"window\" aria-labelledby=\"window-title\"><form method=\"dialog\"><h2 id=\"window-title\"></h2>\
             <button aria-label=\"Close\">\u{d7}</button></form><div id=\"window-body\"></div></dialog>\n\
             <div id=\"tip\" role=\"status\" aria-live=\"polite\" hidden></div>\n<script>\n{}</script>\n</body>\n</html>\n",
            text::escape(self.verdict_word().1),
            include_str!("page.css"),
            self.picture_styles(),
            self.opening(),
            include_str!("page.js")
        )
    }
}
