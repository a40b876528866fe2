//! Descriptions as TOML files, read and written.

use crate::entry::{Branch, Entry, Part};
use crate::error::NetworkError;
use crate::layer::Layer;
use crate::network::Network;
use serde::Serialize;
use std::fmt::Write as _;

impl Network {
    /// Reads a description, and checks that it fits together.
    ///
    /// # Errors
    /// [`NetworkError`]: a syntax error or an unknown name with its line, or what does not fit.
    pub fn from_toml(text: &str) -> Result<Self, NetworkError> {
        let network: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            // A span may end in the middle of a line that the message is about; what counts is where it begins.
            let before = text.get(..start).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |at| at + 1);
            NetworkError::Syntax {
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
                message: error.message().lines().collect::<Vec<_>>().join(" "),
            }
        })?;
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

/// A value on one line.
fn inline(value: &impl Serialize) -> String {
    let mut text = String::new();
    match value.serialize(toml::ser::ValueSerializer::new(&mut text)) {
        Ok(_) => text,
        Err(error) => unreachable!("a description has strings, numbers and tables alone: {error}"),
    }
}

/// The arguments of a layer.
struct Arguments<'a>(&'a Layer);

impl Serialize for Arguments<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.write(serializer)
    }
}

/// An array of entries, one a line, each `depth + 1` steps in.
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
