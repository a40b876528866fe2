//! A network as its description says it.

use crate::entry::{Branch, Entry, Part};
use crate::initial::Rule;
use crate::layer::{Dropout, Layer};
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// A network: the shape of its input, and its layers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Its name on command lines and in files.
    pub name: String,
    /// What it is and where it comes from, in a sentence or two.
    #[serde(default)]
    pub about: String,
    /// Shape of one input, `[channels, rows, columns]`.
    #[serde(deserialize_with = "three")]
    pub input: [usize; 3],
    /// The layers, in order.
    pub layers: Vec<Entry>,
    /// Rules for initial values; where none applies they are PyTorch's defaults, and of several the last holds.
    #[serde(default)]
    pub initial: Vec<InitialRule>,
}

/// Three numbers, no more and no fewer: serde's own array leaves the rest of a longer one unread.
fn three<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[usize; 3], D::Error> {
    let numbers = Vec::<usize>::deserialize(deserializer)?;
    <[usize; 3]>::try_from(numbers).map_err(|numbers| {
        D::Error::custom(format!(
            "the input has {} numbers; give three, [channels, rows, columns]",
            numbers.len()
        ))
    })
}

/// Which parameters begin by which rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InitialRule {
    /// The class of the layer, such as `Conv2d`; any without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = Layer::CLASSES))]
    pub layer: Option<String>,
    /// `weight` or `bias`.
    #[schemars(extend("enum" = ["weight", "bias"]))]
    pub parameter: String,
    /// The layer's path, in which `*` stands for anything, such as `layer*.bn2`; any without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The rule.
    pub rule: Rule,
}

impl InitialRule {
    pub(crate) fn matches(&self, class: &str, parameter: &str, path: &str) -> bool {
        self.parameter == parameter
            && self.layer.as_ref().is_none_or(|layer| layer == class)
            && self.path.as_ref().is_none_or(|pattern| glob(pattern, path))
    }
}

/// Whether `text` is `pattern`, in which `*` stands for anything.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        // The earliest place leaves the most for what follows.
        match rest.find(part) {
            Some(place) => rest = &rest[place + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

impl Network {
    /// A network of that description.
    #[must_use]
    pub fn new(name: &str, input: [usize; 3], layers: impl IntoIterator<Item = Entry>) -> Self {
        let layers = layers.into_iter().collect();
        Self { name: name.to_owned(), about: String::new(), input, layers, initial: Vec::new() }
    }

    /// The probability of the first dropout; `None` without one.
    #[must_use]
    pub fn dropout(&self) -> Option<f64> {
        first_dropout(&self.layers)
    }

    /// The network with that probability in every dropout.
    #[must_use]
    pub fn with_dropout(mut self, p: f64) -> Self {
        set_dropout(&mut self.layers, p);
        self
    }
}

fn first_dropout(entries: &[Entry]) -> Option<f64> {
    entries.iter().find_map(|entry| match &entry.part {
        Part::Layer(Layer::Dropout(Dropout { p })) => Some(*p),
        Part::Layer(_) => None,
        Part::Sequential(entries) => first_dropout(entries),
        Part::Sum(branches) | Part::Concat(branches) | Part::Multiply(branches) => {
            branches.iter().find_map(|Branch(entries)| first_dropout(entries))
        }
    })
}

fn set_dropout(entries: &mut [Entry], p: f64) {
    for entry in entries {
        match &mut entry.part {
            Part::Layer(Layer::Dropout(dropout)) => *dropout = Dropout { p },
            Part::Layer(_) => {}
            Part::Sequential(entries) => set_dropout(entries, p),
            Part::Sum(branches) | Part::Concat(branches) | Part::Multiply(branches) => {
                branches.iter_mut().for_each(|Branch(entries)| set_dropout(entries, p));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::glob;

    #[test]
    fn stars_stand_for_anything() {
        let cases = [
            ("layer1.0.bn2", "layer1.0.bn2", true),
            ("layer*.bn2", "layer1.0.bn2", true),
            ("*", "anything", true),
            ("*.bn2", "layer1.0.bn2", true),
            ("*.bn2", "layer1.0.bn1", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXcYb", false),
            ("ab*b", "ab", false),
            ("features", "features.0", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }
}
