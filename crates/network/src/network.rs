//! The description of a network.

use crate::entry::{Branch, Entry, Part};
use crate::initial::Rule;
use crate::layer::{Dropout, Layer};
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use wildmatch::WildMatch;

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
    /// Rules for initial values. Where several apply, the last one counts; where none does, PyTorch's defaults.
    #[serde(default)]
    pub initial: Vec<InitialRule>,
}

/// Exactly three numbers: serde's own array leaves the rest of a longer one unread.
fn three<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[usize; 3], D::Error> {
    let numbers = Vec::<usize>::deserialize(deserializer)?;
    <[usize; 3]>::try_from(numbers).map_err(|numbers| {
        D::Error::custom(format!(
            "the input has {} numbers; give three, [channels, rows, columns]",
            numbers.len()
        ))
    })
}

/// A rule for initial values, and the parameters that it applies to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct InitialRule {
    /// The class of the layer, such as `Conv2d`; any if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = Layer::CLASSES))]
    pub layer: Option<String>,
    /// `weight` or `bias`.
    #[schemars(extend("enum" = ["weight", "bias"]))]
    pub parameter: String,
    /// The layer's path, in which `*` stands for anything, such as `layer*.bn2`; any if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The rule.
    pub rule: Rule,
}

impl InitialRule {
    pub(crate) fn matches(&self, class: &str, parameter: &str, path: &str) -> bool {
        self.parameter == parameter
            && self.layer.as_ref().is_none_or(|layer| layer == class)
            && self.path.as_ref().is_none_or(|pattern| WildMatch::new(pattern).matches(path))
    }
}

impl Network {
    /// A network with these layers and PyTorch's initial values.
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

    /// The network with this probability in every dropout.
    #[must_use]
    pub fn with_dropout(mut self, p: f64) -> Self {
        set_dropout(&mut self.layers, p);
        self
    }

    /// The network for images of another shape, `[channels, rows, columns]`.
    #[must_use]
    pub fn with_input(self, input: [usize; 3]) -> Self {
        Self { input, ..self }
    }

    /// The network with this many outputs of its last convolution or linear layer; unchanged where that is not the last layer with weights, lies
    /// in branches or is repeated.
    #[must_use]
    pub fn with_classes(mut self, classes: usize) -> Self {
        if let Some(outputs) = last_outputs(&mut self.layers) {
            *outputs = classes;
        }
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

/// The number of outputs of the last layer with weights, where it can be chosen.
fn last_outputs(entries: &mut [Entry]) -> Option<&mut usize> {
    let has_weights = |entry: &Entry| match &entry.part {
        Part::Layer(layer) => matches!(layer, Layer::Conv2d(_) | Layer::Linear(_) | Layer::BatchNorm2d(_)),
        _ => true,
    };
    let last = entries.iter_mut().rev().find(|entry| has_weights(entry)).filter(|entry| entry.repeat == 1)?;
    match &mut last.part {
        Part::Layer(Layer::Conv2d(convolution)) if convolution.groups == 1 => {
            Some(&mut convolution.out_channels)
        }
        Part::Layer(Layer::Linear(linear)) => Some(&mut linear.out_features),
        Part::Sequential(entries) => last_outputs(entries),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_network_takes_other_images_and_classes() {
        for name in Network::shipped() {
            let network = Network::by_name(name).unwrap();
            let own = network.graph().unwrap();
            let other = network.clone().with_classes(7).with_input([1, 64, 48]);
            let graph = other.graph().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(graph.classes(), 7, "{name}");
            assert_eq!(graph.parameters().len(), own.parameters().len(), "{name}");
            // And back again.
            assert_eq!(other.with_classes(own.classes()).with_input(network.input), network);
        }
    }

    #[test]
    fn outputs_that_are_no_layers_own_stay() {
        for (layers, expected) in [
            ("[\"Flatten\", { Linear = { out_features = 3 } }]", 7),
            ("[\"Flatten\", { Linear = { out_features = 3 } }, \"ReLU\", { Scale = { factor = 0.1 } }]", 7),
            (
                "[{ Conv2d = { out_channels = 3, kernel_size = 1 } }, \"BatchNorm2d\", \"AdaptiveAvgPool2d\", \"Flatten\"]",
                3,
            ),
            ("[\"Flatten\", { repeat = 2, Linear = { out_features = 3 } }]", 3),
            (
                "[\"Flatten\", { name = \"a\", Sum = [[{ Linear = { out_features = 3 } }], [{ name = \"b\", Linear = { out_features = 3 } }]] }]",
                3,
            ),
        ] {
            let text = format!("name = \"a\"\ninput = [3, 4, 4]\nlayers = {layers}");
            let network = Network::from_toml(&text).unwrap().with_classes(7);
            assert_eq!(network.graph().unwrap().classes(), expected, "{layers}");
        }
    }
}
