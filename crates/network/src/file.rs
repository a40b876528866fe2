//! Descriptions as TOML files, read and written.

use crate::entry::{Branch, Entry, Part};
use crate::error::NetworkError;
use crate::layer::Layer;
use crate::limits::MAX_NETWORK_NAME;
use crate::network::Network;
use serde::Serialize;
use std::fmt::Write as _;

impl Network {
    /// Reads a description, and checks that it fits together.
    ///
    /// # Errors
    /// [`NetworkError`]: a text that cannot be read, with the line, or a part that does not fit, with its path.
    pub fn from_toml(text: &str) -> Result<Self, NetworkError> {
        let network: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            // Only the start of the span counts: it may end in the middle of a line.
            let before = text.get(..start).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |at| at + 1);
            NetworkError::Syntax {
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
                message: plain(error.message()),
            }
        })?;
        let length = network.name.chars().count();
        if !(1..=MAX_NETWORK_NAME).contains(&length) || network.name.chars().any(char::is_control) {
            return Err(NetworkError::NetworkName { name: network.name });
        }
        network.graph()?;
        Ok(network)
    }

    /// The description as a file, which [`Network::from_toml`] reads back.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut line = |key: &str, value: &str| {
            let _ = writeln!(text, "{key} = {value}");
        };
        line("name", &inline(&self.name));
        if !self.about.is_empty() {
            line("about", &inline(&self.about));
        }
        line("input", &inline(&self.input));
        line("layers", &sequence(&self.layers, 0));
        if !self.initial.is_empty() {
            let rules = self.initial.iter().map(|rule| format!("    {},\n", inline(rule)));
            line("initial", &format!("[\n{}]", rules.collect::<String>()));
        }
        text
    }
}

/// The TOML parser's error on one line, for somebody who knows TOML but not Rust.
fn plain(message: &str) -> String {
    /// The longest message, in characters. Ours are shorter, but the names that they quote may not be.
    const LONGEST: usize = 500;
    /// Beginnings of the parser's errors that are replaced altogether.
    const SENTENCES: [(&str, &str); 6] = [
        ("duplicate key", "the key is given twice; remove one of them"),
        ("integer number overflowed", "the number is too large"),
        ("cannot recurse further", "arrays and tables are nested too deeply; nest them less"),
        (
            "invalid type: unit variant",
            "the rule has arguments; write it as a table, such as { kaiming_normal = {} } or { constant = 0.1 }",
        ),
        ("wanted string or table", "expected a string or a table"),
        ("wanted exactly 1 element", "expected a table with exactly one key"),
    ];
    const BEGINNINGS: [(&str, &str); 5] = [
        ("invalid type: map", "invalid type: table"),
        ("invalid type: sequence", "invalid type: array"),
        ("missing field ", "missing key "),
        ("unknown field ", "unknown key "),
        ("unknown variant ", "unknown value "),
    ];
    const ENDS: [(&str, &str); 5] = [
        ("expected usize", "expected a whole number from 0"),
        ("expected f64", "expected a number"),
        ("expected a sequence", "expected an array"),
        ("expected a boolean", "expected true or false"),
        (", there are no fields", "; this table takes none"),
    ];
    if let Some((_, sentence)) = SENTENCES.iter().find(|(theirs, _)| message.starts_with(theirs)) {
        return (*sentence).to_owned();
    }
    let mut text = message.trim_end().replace(char::is_control, " ");
    for (theirs, ours) in BEGINNINGS {
        if let Some(rest) = text.strip_prefix(theirs) {
            text = format!("{ours}{rest}");
        }
    }
    for (theirs, ours) in ENDS {
        if let Some(start) = text.strip_suffix(theirs) {
            text = format!("{start}{ours}");
        }
    }
    if let Some((start, _)) = text.rsplit_once("expected struct ") {
        text = format!("{start}expected a table");
    }
    if text.chars().count() > LONGEST {
        text = text.chars().take(LONGEST).chain("...".chars()).collect();
    }
    text
}

/// A value on one line.
fn inline(value: &impl Serialize) -> String {
    let mut text = String::new();
    match value.serialize(toml::ser::ValueSerializer::new(&mut text)) {
        Ok(_) => text,
        Err(error) => unreachable!("a description has only strings, numbers and tables: {error}"),
    }
}

/// The arguments of a layer.
struct Arguments<'a>(&'a Layer);

impl Serialize for Arguments<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.write(serializer)
    }
}

/// An array of entries, one per line, each indented by `depth + 1` steps.
fn sequence(entries: &[Entry], depth: usize) -> String {
    array(entries.iter().map(|entry| written(entry, depth + 1)), depth)
}

fn array(items: impl Iterator<Item = String>, depth: usize) -> String {
    let indent = "    ".repeat(depth);
    let items: String = items.map(|item| format!("{indent}    {item},\n")).collect();
    if items.is_empty() { "[]".to_owned() } else { format!("[\n{items}{indent}]") }
}

fn written(entry: &Entry, depth: usize) -> String {
    let branches = |branches: &[Branch]| {
        array(branches.iter().map(|Branch(entries)| sequence(entries, depth + 1)), depth)
    };
    let (kind, value) = match &entry.part {
        Part::Layer(layer) => {
            let arguments = inline(&Arguments(layer));
            if entry.name.is_none() && entry.repeat == 1 && arguments == "{}" {
                return inline(&layer.class());
            }
            (layer.class(), arguments)
        }
        Part::Sequential(entries) => ("Sequential", sequence(entries, depth)),
        Part::Sum(inner) => ("Sum", branches(inner)),
        Part::Concat(inner) => ("Concat", branches(inner)),
        Part::Multiply(inner) => ("Multiply", branches(inner)),
    };
    let name = entry.name.as_ref().map_or_else(String::new, |name| format!("name = {}, ", inline(name)));
    let repeat = if entry.repeat == 1 { String::new() } else { format!("repeat = {}, ", entry.repeat) };
    format!("{{ {name}{repeat}{kind} = {value} }}")
}
