//! Sequences of layers and branches, as they stand in a file.

use crate::layer::{KINDS, Layer};
use serde::de::value::{MapAccessDeserializer, MapDeserializer};
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// One step of a sequence: a layer, a sequence of its own, or branches that run side by side.
///
/// In a file it is a table of one kind, with a `name` and a number of times to `repeat` it where wanted, or the kind alone where all
/// its arguments have defaults: `"ReLU"`, `{ name = "conv1", Conv2d = { out_channels = 64, kernel_size = 3 } }`.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name in the paths of parameters; without one, its place in the sequence, from 0.
    pub name: Option<String>,
    /// How often it stands here, at least once, each time with parameters of its own.
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
    /// The branches' outputs one after the other along the channels; their maps are of one size.
    Concat(Vec<Branch>),
    /// The product of the branches' outputs; one of a single pixel multiplies every pixel of the others.
    Multiply(Vec<Branch>),
}

/// A sequence that begins with the input of its [`Part::Sum`], [`Part::Concat`] or [`Part::Multiply`]; an empty one is the identity.
///
/// In a file, an array, or one entry.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Branch(pub Vec<Entry>);

impl Entry {
    /// An entry without a name, once.
    #[must_use]
    pub fn new(part: Part) -> Self {
        Self { name: None, repeat: 1, part }
    }

    /// With that name.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    /// That many times.
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
        let none = MapDeserializer::<_, E>::new(std::iter::empty::<(&str, &str)>());
        Layer::read(class, none).map(Entry::from)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let (mut name, mut repeat, mut part) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "name" => name = Some(map.next_value()?),
                "repeat" => repeat = Some(map.next_value()?),
                _ if part.is_some() => {
                    let what = format!("a second kind `{key}` in one table; give it a table of its own");
                    return Err(A::Error::custom(what));
                }
                "Sequential" => part = Some(Part::Sequential(map.next_value()?)),
                "Sum" => part = Some(Part::Sum(map.next_value()?)),
                "Concat" => part = Some(Part::Concat(map.next_value()?)),
                "Multiply" => part = Some(Part::Multiply(map.next_value()?)),
                class => part = Some(Part::Layer(map.next_value_seed(Arguments(class))?)),
            }
        }
        let part =
            part.ok_or_else(|| A::Error::custom("a table without a layer; give it one, such as ReLU = {}"))?;
        Ok(Entry { name, repeat: repeat.unwrap_or(1), part })
    }
}

/// The arguments of a class whose name is known.
struct Arguments<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Arguments<'_> {
    type Value = Layer;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Layer, D::Error> {
        if KINDS.contains(&self.0) {
            Layer::read(self.0, deserializer)
        } else {
            Err(D::Error::unknown_field(self.0, KINDS))
        }
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
