//! Arms derived from an arm: one for each combination of the varied values.

use std::collections::HashSet;

use pointwise_network::Network;
use toml::{Spanned, Table, Value};

use crate::file::Vary;
use crate::reader::{Reader, as_table};
use crate::text::{MAX_NAME, is_name, is_name_character, name_rule, shown};
use crate::{Arm, Error, Result};

/// A part of network or recipe, and the values that it takes.
pub(crate) struct Variation {
    key: Spanned<String>,
    /// Each value, with what is appended to the names of arms.
    values: Vec<(String, Value)>,
}

impl Variation {
    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }
}

impl Reader<'_> {
    /// Checks what can be checked without a network.
    pub(crate) fn variation(&self, vary: Vary) -> Result<Variation> {
        let Vary { key, label, names, values } = vary;
        let place = key.get_ref();
        if !["recipe.", "network."].iter().any(|start| place.starts_with(start)) {
            let message = format!("`{}` begins with neither `recipe.` nor `network.`", shown(place));
            return Err(self.wrong(key.span(), message));
        }
        if place == "network.name" {
            return Err(self
                .wrong(key.span(), "a network's name follows from the varied values; vary something else"));
        }
        if values.get_ref().is_empty() {
            return Err(self.wrong(values.span(), "there is no value; give at least one"));
        }
        let names = match (label, names) {
            (Some(label), Some(_)) => {
                return Err(self.wrong(label.span(), "`names` replace the `label`; leave one of the two out"));
            }
            (None, Some(names)) => {
                let (found, wanted) = (names.get_ref().len(), values.get_ref().len());
                if found != wanted {
                    let message = format!("there are {found} names for {wanted} values; give one for each");
                    return Err(self.wrong(names.span(), message));
                }
                if let Some(name) = names.get_ref().iter().find(|name| !is_part(name)) {
                    let message = format!("`{}` cannot be part of a name; give {}", shown(name), part_rule());
                    return Err(self.wrong(names.span(), message));
                }
                names.into_inner()
            }
            (label, None) => {
                let last = || place.rsplit('.').next().unwrap_or_default().to_owned();
                if let Some(label) = label.as_ref().filter(|label| !is_part(label.get_ref())) {
                    let message = format!(
                        "`{}` cannot be part of a name; give {}",
                        shown(label.get_ref()),
                        part_rule()
                    );
                    return Err(self.wrong(label.span(), message));
                }
                let label = label.map_or_else(last, Spanned::into_inner);
                let numbered = (1..).zip(values.get_ref());
                numbered.map(|(number, value)| format!("{label}{}", named(value, number))).collect()
            }
        };
        Ok(Variation { key, values: names.into_iter().zip(values.into_inner()).collect() })
    }

    /// Refuses a key that is varied twice.
    pub(crate) fn check_variations(&self, variations: &[Variation]) -> Result<()> {
        let mut seen = HashSet::new();
        match variations.iter().find(|variation| !seen.insert(variation.key.get_ref())) {
            None => Ok(()),
            Some(Variation { key, .. }) => Err(self
                .wrong(key.span(), format!("`{}` is varied above; join the values", shown(key.get_ref())))),
        }
    }

    /// An arm for each combination of values; the arm itself where nothing is varied.
    pub(crate) fn varied(&self, arm: Arm, variations: &[Variation]) -> Result<Vec<Arm>> {
        let mut arms = vec![arm];
        for variation in variations {
            let mut next = Vec::with_capacity(arms.len() * variation.len());
            for arm in &arms {
                for (name, value) in &variation.values {
                    next.push(self.with_value(arm, variation, name, value)?);
                }
            }
            arms = next;
        }
        Ok(arms)
    }

    fn with_value(&self, arm: &Arm, variation: &Variation, name: &str, value: &Value) -> Result<Arm> {
        let key = &variation.key;
        let wrong = |message: String| self.wrong(key.span(), message);
        let mut varied = arm.clone();
        if key.get_ref() == "network.dropout" {
            let p = value.as_float().or_else(|| value.as_integer().map(|p| p as f64));
            let p = p.filter(|p| (0.0..1.0).contains(p)).ok_or_else(|| {
                wrong(format!(
                    "{} is not a dropout probability; give numbers from 0 to below 1",
                    shown(&value.to_string())
                ))
            })?;
            if arm.network.dropout().is_none() {
                return Err(wrong(format!("`{}` has no layer Dropout", arm.name)));
            }
            varied.network = varied.network.with_dropout(p);
        } else if let Some(place) = key.get_ref().strip_prefix("network.") {
            let table = varied.network.to_toml().parse().map_err(|error: toml::de::Error| {
                wrong(format!("`{}` cannot be varied: {}", arm.name, error.message()))
            })?;
            let table = self.with_part(table, place, value, arm, key)?;
            varied.network =
                Network::from_toml(&table.to_string()).map_err(|error| wrong(reason(&error, arm)))?;
        } else if let Some(place) = key.get_ref().strip_prefix("recipe.") {
            let table = self.with_part(as_table(&varied.recipe), place, value, arm, key)?;
            varied.recipe = self.recipe(table, key.span())?;
        }
        varied.name = format!("{}-{name}", arm.name);
        if !is_name(&varied.name) {
            return Err(wrong(format!(
                "`{}` cannot be the name of a network; shorten its parts by a `label` or by `names`: give {}",
                shown(&varied.name),
                name_rule()
            )));
        }
        varied.network.name.clone_from(&varied.name);
        varied.is_shipped = false;
        Ok(varied)
    }

    /// A description with another value in one place.
    fn with_part(
        &self,
        table: Table,
        place: &str,
        value: &Value,
        arm: &Arm,
        key: &Spanned<String>,
    ) -> Result<Table> {
        let parts: Vec<&str> = place.split('.').collect();
        let mut whole = Value::Table(table);
        match (set(&mut whole, &parts, value), whole) {
            (Some(()), Value::Table(table)) => Ok(table),
            _ => Err(self.missing(arm, key)),
        }
    }

    fn missing(&self, arm: &Arm, key: &Spanned<String>) -> Error {
        self.wrong(key.span(), format!("`{}` has no `{}`", arm.name, shown(key.get_ref())))
    }
}

/// Why a network with another value is not valid, without a line number, since the text is generated.
fn reason(error: &pointwise_network::NetworkError, arm: &Arm) -> String {
    match error {
        pointwise_network::NetworkError::Syntax { message, .. } => format!("`{}`: {message}", arm.name),
        error => error.to_string(),
    }
}

/// Puts a value into its place; `None` where there is no such place.
fn set(at: &mut Value, place: &[&str], value: &Value) -> Option<()> {
    let Some((first, rest)) = place.split_first() else {
        *at = value.clone();
        return Some(());
    };
    // A kind given by its name alone has all its defaults.
    if at.as_str() == Some(first) {
        *at = Value::Table(Table::from_iter([((*first).to_owned(), Value::Table(Table::new()))]));
    }
    match at {
        Value::Table(table) if rest.is_empty() => {
            table.insert((*first).to_owned(), value.clone());
            Some(())
        }
        Value::Table(table) => set(table.get_mut(*first)?, rest, value),
        Value::Array(values) => set(values.get_mut(first.parse::<usize>().ok()?)?, rest, value),
        _ => None,
    }
}

/// A value in a name: as it is, tables and arrays by their parts, and its `number` if that would be long.
fn named(value: &Value, number: usize) -> String {
    /// Enough for two or three arguments of an optimizer.
    const LONGEST: usize = 32;

    let text: String = spelt(value).chars().map(|c| if is_name_character(c) { c } else { '-' }).collect();
    if text.len() > LONGEST { number.to_string() } else { text.trim_end_matches(['.', '-']).to_owned() }
}

fn spelt(value: &Value) -> String {
    match value {
        Value::Float(value) => format!("{value:?}"),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(spelt).collect::<Vec<_>>().join("-"),
        Value::Table(table) => {
            let parts = table.iter().map(|(key, value)| match value {
                Value::Table(_) => format!("{key}-{}", spelt(value)),
                value => format!("{key}{}", spelt(value)),
            });
            parts.collect::<Vec<_>>().join("-")
        }
        value => value.to_string(),
    }
}

/// Whether a text can be appended to a name.
fn is_part(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_NAME && text.chars().all(is_name_character)
}

fn part_rule() -> String {
    format!("1 to {MAX_NAME} letters, digits and -_.+=")
}
