//! Sequences of layers and branches, as written in a file.

use crate::error::shown;
use crate::layer::Layer;
use serde::de::value::{MapAccessDeserializer, MapDeserializer};
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// The names of the kinds that are not layers.
pub(crate) const COMPOSITIONS: &[&str] = &["Sequential", "Sum", "Concat", "Multiply"];

/// One step of a sequence: a layer, a nested sequence, or parallel branches.
///
/// In a file it is a table with one kind and, optionally, a `name` and a number of times to `repeat` it, or the kind alone where all its
/// arguments have defaults: `"ReLU"`, `{ name = "conv1", Conv2d = { out_channels = 64, kernel_size = 3 } }`.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name in the paths of parameters; without one, its index in the sequence, from 0. A [`Part::Sum`], [`Part::Concat`] or
    /// [`Part::Multiply`] without a name takes no index and appears in no path: its contents take the path of the sequence around it.
    pub name: Option<String>,
    /// The number of repetitions, at least 1, each with its own parameters.
    pub repeat: usize,
    /// What it is.
    pub part: Part,
}

/// What an [`Entry`] is.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// A layer.
    Layer(Layer),
    /// One after the other; `torch.nn.Sequential`.
    Sequential(Vec<Entry>),
    /// The sum of the branches' outputs, which have one shape.
    Sum(Vec<Branch>),
    /// The branches' outputs, concatenated along the channels; their maps have one size.
    Concat(Vec<Branch>),
    /// The product of the branches' outputs; an output of a single pixel multiplies every pixel of the others.
    Multiply(Vec<Branch>),
}

/// A sequence that reads the input of its [`Part::Sum`], [`Part::Concat`] or [`Part::Multiply`]; an empty one is the identity.
///
/// In a file, an array or a single entry.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Branch(pub Vec<Entry>);

impl Entry {
    /// An entry without a name or repetition.
    #[must_use]
    pub fn new(part: Part) -> Self {
        Self { name: None, repeat: 1, part }
    }

    /// With this name.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    /// Repeated this many times.
    #[must_use]
    pub fn repeat(self, repeat: usize) -> Self {
        Self { repeat, ..self }
    }

    /// One after the other.
    #[must_use]
    pub fn sequential(entries: impl IntoIterator<Item = Entry>) -> Self {
        Self::new(Part::Sequential(entries.into_iter().collect()))
    }
}

impl<L: Into<Layer>> From<L> for Entry {
    fn from(layer: L) -> Self {
        Self::new(Part::Layer(layer.into()))
    }
}

impl<const N: usize> From<[Entry; N]> for Branch {
    fn from(entries: [Entry; N]) -> Self {
        Self(entries.into())
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a layer, or a table such as { Linear = { out_features = 10 } }")
    }

    fn visit_str<E: Error>(self, class: &str) -> Result<Entry, E> {
        if COMPOSITIONS.contains(&class) {
            return Err(E::custom(format!("{class} cannot stand alone; write {{ {class} = [...] }}")));
        }
        let Some(class) = Layer::CLASSES.iter().find(|known| **known == class) else {
            return Err(E::custom(unknown(class)));
        };
        let none = MapDeserializer::<_, E>::new(std::iter::empty::<(&str, &str)>());
        // The only possible error is a missing argument.
        Layer::read(class, none).map(Entry::from).map_err(|missing| {
            let missing = missing.to_string();
            let argument = missing.split('`').nth(1).unwrap_or("...");
            E::custom(format!("{class} cannot stand alone; write {{ {class} = {{ {argument} = ... }} }}"))
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let (mut name, mut repeat, mut part) = (None, None, None);
        let mut kind = None;
        while let Some(key) = map.next_key_seed(KeySeed(kind))? {
            match key {
                Key::Name => name = Some(map.next_value()?),
                Key::Repeat => repeat = Some(map.next_value()?),
                Key::Kind(new) => {
                    kind = Some(new);
                    part = Some(match new {
                        "Sequential" => Part::Sequential(map.next_value()?),
                        "Sum" => Part::Sum(map.next_value()?),
                        "Concat" => Part::Concat(map.next_value()?),
                        "Multiply" => Part::Multiply(map.next_value()?),
                        class => Part::Layer(map.next_value_seed(Arguments(class))?),
                    });
                }
            }
        }
        let part =
            part.ok_or_else(|| A::Error::custom("a table without a layer; give it one, such as ReLU = {}"))?;
        Ok(Entry { name, repeat: repeat.unwrap_or(1), part })
    }
}

/// A key of an entry's table.
enum Key {
    Name,
    Repeat,
    Kind(&'static str),
}

/// Reads a key of an entry's table, given the kind read before it, if any.
struct KeySeed(Option<&'static str>);

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`name`, `repeat` or a layer")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Key, E> {
        let mut kinds = Layer::CLASSES.iter().chain(COMPOSITIONS);
        match (key, kinds.find(|kind| **kind == key), self.0) {
            ("name", ..) => Ok(Key::Name),
            ("repeat", ..) => Ok(Key::Repeat),
            (_, Some(kind), None) => Ok(Key::Kind(kind)),
            (_, Some(kind), Some(first)) => {
                Err(E::custom(format!("{first} and {kind} in one table; give each a table of its own")))
            }
            (_, None, Some(first)) => Err(E::custom(format!(
                "unknown key `{key}` next to {first}; arguments go into its table, {{ {first} = {{ {key} = ... }} }}"
            ))),
            (_, None, None) => Err(E::custom(unknown(key))),
        }
    }
}

/// The message for an unknown kind, with the nearest name or all of them.
fn unknown(kind: &str) -> String {
    let kinds: Vec<&str> = Layer::CLASSES.iter().chain(COMPOSITIONS).copied().collect();
    let shown = shown(kind);
    let nearest = kinds.iter().map(|known| (distance(known, &shown), known)).min();
    match nearest {
        Some((distance, nearest)) if distance <= shown.len() / 3 => {
            format!("there is no layer `{shown}`; did you mean {nearest}?")
        }
        _ => format!("there is no layer `{shown}`; give one of {}", kinds.join(", ")),
    }
}

/// The Levenshtein distance of two texts, ignoring case.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_lowercase(), b.to_lowercase());
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[row.len() - 1]
}

/// The arguments of a class.
struct Arguments(&'static str);

impl<'de> DeserializeSeed<'de> for Arguments {
    type Value = Layer;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Layer, D::Error> {
        Layer::read(self.0, deserializer)
    }
}

impl<'de> Deserialize<'de> for Branch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BranchVisitor;

        impl<'de> Visitor<'de> for BranchVisitor {
            type Value = Branch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of layers, empty for the identity, or one layer")
            }

            fn visit_str<E: Error>(self, class: &str) -> Result<Branch, E> {
                EntryVisitor.visit_str(class).map(|entry| Branch(vec![entry]))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Branch, A::Error> {
                Entry::deserialize(MapAccessDeserializer::new(map)).map(|entry| Branch(vec![entry]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Branch, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = sequence.next_element()? {
                    entries.push(entry);
                }
                Ok(Branch(entries))
            }
        }

        deserializer.deserialize_any(BranchVisitor)
    }
}
