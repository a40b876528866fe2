//! Writes studies as TOML files.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use pointwise_network::Network;
use pointwise_runs::replace_file;
use serde::Serialize;
use toml::{Table, Value};

use crate::read::on_curves;
use crate::reader::as_table;
use crate::{
    Arm, Claim, Curves, DataSource, Effect, Primary, Published, PublishedFigure, Result, Source, Study,
};

/// The file of a study in the folder of its runs, and that of its record next to it.
const STUDY: &str = "study.toml";
const RECORD: &str = "record.json";

impl Study {
    /// The study as a file that needs no other files except a record: networks of the program are given by name, all others in full, and the
    /// combinations of a grid one by one. A record is the file `record.json` in the same folder.
    ///
    /// [`Study::from_toml`] reads a study that came from a file back unchanged.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let Self {
            name,
            title,
            question,
            conclusion,
            source,
            data,
            recipe,
            seeds,
            arms,
            primary,
            claims,
            effects,
            record,
        } = self;
        let mut file = TomlText::default();
        file.line("name", name);
        file.line("title", title);
        file.unless_empty("question", question);
        file.unless_empty("conclusion", conclusion);
        if record.is_some() {
            file.line("record", RECORD);
        }
        if let Some(source) = source {
            file.source(source);
        }
        file.data(data);
        file.header("[recipe]");
        file.0.push_str(&recipe.to_toml());
        file.header("[grid]");
        file.line("seeds", seeds);
        let common = as_table(recipe);
        for arm in arms {
            file.arm(arm, &common);
        }
        for primary in primary {
            file.primary(primary);
        }
        for arm in arms.iter().filter(|arm| arm.published != Published::default()) {
            file.published(arm);
        }
        for claim in claims {
            file.claim(claim);
        }
        for Effect { name, pairs } in effects {
            file.header("[[effects]]");
            file.line("name", name);
            for (key, side) in [("networks", 0), ("to", 1)] {
                file.line(key, pairs.iter().map(|pair| &pair[side]).collect::<Vec<_>>());
            }
        }
        file.0
    }

    /// Writes the study into a folder, as `study.toml` and, where it has a record, `record.json`. Files with the same content are left alone; no
    /// other process sees a partly written one.
    ///
    /// # Errors
    /// [`Error::Run`](crate::Error::Run) naming the file.
    pub fn write(&self, folder: &Path) -> Result<()> {
        // The study names its record.
        if let Some(record) = &self.record {
            put(&folder.join(RECORD), record)?;
        }
        put(&folder.join(STUDY), &self.to_toml())
    }
}

/// The study whose runs are in this folder; `None` if the folder does not say.
///
/// # Errors
/// If its file cannot be read.
pub fn study_in(out: &Path) -> Result<Option<Study>> {
    let file = out.join(STUDY);
    if file.is_file() { Study::read(&file).map(Some) } else { Ok(None) }
}

/// Writes a text to a file, unless it is there already.
pub(crate) fn put(path: &Path, text: &str) -> Result<()> {
    if fs::read(path).is_ok_and(|found| found == text.as_bytes()) {
        return Ok(());
    }
    Ok(replace_file(path, text.as_bytes())?)
}

/// A file under construction.
#[derive(Default)]
struct TomlText(String);

impl TomlText {
    fn header(&mut self, header: &str) {
        let _ = writeln!(self.0, "\n{header}");
    }

    fn line(&mut self, key: &str, value: impl Serialize) {
        let _ = writeln!(self.0, "{key} = {}", inline(&value));
    }

    fn unless_empty(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            self.line(key, text);
        }
    }

    fn if_some(&mut self, key: &str, value: Option<impl Serialize>) {
        if let Some(value) = value {
            self.line(key, value);
        }
    }

    fn source(&mut self, source: &Source) {
        let Source { title, author, year, link, licence, note } = source;
        self.header("[source]");
        self.unless_empty("title", title);
        self.unless_empty("author", author);
        self.if_some("year", *year);
        self.unless_empty("link", link);
        self.unless_empty("licence", licence);
        self.unless_empty("note", note);
    }

    fn data(&mut self, data: &DataSource) {
        let DataSource {
            kind,
            dir,
            test_split,
            val_split,
            data_seed,
            limit_train,
            limit_test,
            train_images,
            test_images,
        } = data;
        self.header("[data]");
        self.line("kind", kind);
        self.if_some("dir", dir.as_ref().map(|dir| dir.to_string_lossy()));
        self.if_some("test-split", test_split.as_ref());
        if *val_split > 0 {
            self.line("val-split", val_split);
        }
        self.if_some("data-seed", *data_seed);
        self.if_some("limit-train", *limit_train);
        self.if_some("limit-test", *limit_test);
        self.if_some("train-images", *train_images);
        self.if_some("test-images", *test_images);
    }

    fn arm(&mut self, arm: &Arm, common: &Table) {
        let Arm { name, network, is_shipped, recipe, published: _ } = arm;
        self.header("[[networks]]");
        if *is_shipped {
            self.line("network", name);
            let own = Network::by_name(name).ok().and_then(|network| network.dropout());
            self.if_some("dropout", network.dropout().filter(|p| Some(*p) != own));
        }
        let all = as_table(recipe);
        let less = common.keys().filter(|key| !all.contains_key(*key));
        let mut own: Vec<(String, Value)> = less.map(|key| (key.clone(), Value::Boolean(false))).collect();
        own.extend(all.into_iter().filter(|(key, value)| common.get(key) != Some(value)));
        if !own.is_empty() {
            self.header("[networks.recipe]");
            for (key, value) in own {
                self.line(&key, value);
            }
        }
        if !is_shipped {
            self.header("[networks.network]");
            self.0.push_str(&network.to_toml());
        }
    }

    fn primary(&mut self, primary: &Primary) {
        let Primary { metric, epoch, margin, reason } = primary;
        self.header("[[primary]]");
        self.line("metric", metric);
        self.if_some("epoch", *epoch);
        self.line("margin", margin);
        self.unless_empty("reason", reason);
    }

    fn published(&mut self, arm: &Arm) {
        let Published { parameters, figures, curves } = &arm.published;
        self.header("[[published]]");
        self.line("network", &arm.name);
        self.if_some("parameters", *parameters);
        let epochs = arm.recipe.epochs;
        // Figures that follow from the curves have the number of runs given once for all.
        let runs = figures.last().map_or(1, |figure| figure.runs);
        let all = on_curves(curves, epochs, runs, &[]);
        let own: Vec<PublishedFigure> =
            figures.iter().filter(|figure| !all.contains(figure)).cloned().collect();
        let follows = on_curves(curves, epochs, runs, &own);
        let is_whole = own.iter().chain(&follows).eq(figures);
        if runs != 1 {
            self.line("runs", runs);
        }
        let figures = if is_whole { &own } else { figures };
        if !figures.is_empty() {
            self.0.push_str("figures = [\n");
            for figure in figures {
                let _ = writeln!(self.0, "    {},", figure_text(figure, runs));
            }
            self.0.push_str("]\n");
        }
        if *curves != Curves::default() {
            let Curves { train_loss, train_acc, test_loss, test_acc } = curves;
            self.header("[published.curves]");
            for (key, values) in [
                ("train-loss", train_loss),
                ("train-acc", train_acc),
                ("test-loss", test_loss),
                ("test-acc", test_acc),
            ] {
                if !values.is_empty() {
                    self.line(key, values);
                }
            }
        }
    }

    fn claim(&mut self, claim: &Claim) {
        let Claim { kind, of, network, to, published, margin, reason, text } = claim;
        self.header("[[claims]]");
        self.line("kind", kind);
        self.line("of", of);
        self.line("network", network);
        self.line("to", to);
        self.if_some("published", *published);
        self.if_some("margin", *margin);
        self.unless_empty("reason", reason);
        self.unless_empty("text", text);
    }
}

fn figure_text(figure: &PublishedFigure, common_runs: u32) -> String {
    let PublishedFigure { metric, epoch, value, decimals, runs, deviation, at_least } = figure;
    let epoch = epoch.map_or_else(String::new, |epoch| format!("epoch = {epoch}, "));
    let runs = if *runs == common_runs { String::new() } else { format!(", runs = {runs}") };
    let deviation =
        deviation.map_or_else(String::new, |deviation| format!(", deviation = {}", inline(&deviation)));
    let at_least = if *at_least { ", at-least = true" } else { "" };
    let decimals = *decimals as usize;
    format!("{{ metric = \"{metric}\", {epoch}value = \"{value:.decimals$}\"{runs}{deviation}{at_least} }}")
}

/// A value on one line.
fn inline(value: &impl Serialize) -> String {
    let mut text = String::new();
    match value.serialize(toml::ser::ValueSerializer::new(&mut text)) {
        Ok(_) => text,
        Err(error) => unreachable!("a study has only strings, numbers, arrays and tables: {error}"),
    }
}
