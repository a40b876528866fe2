//! Studies as written in TOML files.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use pointwise_network::Network;
use pointwise_recipe::{Recipe, RecipeError};
use pointwise_runs::RunConfig;
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::{Spanned, Table, Value};

use crate::number::Decimal;
use crate::text::{NAME_PATTERN, perhaps};
use crate::{
    ClaimKind, Curves, DataSource, Error, Metric, Primary, Quantity, Result, Source, Study, number, text,
};

/// The largest file that is read: far beyond any study, network or record.
const MAX_BYTES: u64 = 16 << 20;

/// A study as written in a file.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(title = "Study")]
pub(crate) struct StudyFile {
    /// Its name on command lines and of folders: letters, digits and `-_.+=`.
    #[schemars(with = "String", regex(pattern = NAME_PATTERN))]
    pub(crate) name: Spanned<String>,
    /// Its title.
    #[serde(deserialize_with = "text::filled_line")]
    #[schemars(length(min = 1))]
    pub(crate) title: String,
    /// Its question, for readers who do not know it.
    #[serde(default, deserialize_with = "text::prose")]
    pub(crate) question: String,
    /// What was concluded, in a sentence or two.
    #[serde(default, deserialize_with = "text::prose")]
    pub(crate) conclusion: String,
    /// Where it was published.
    #[serde(default)]
    pub(crate) source: Option<Source>,
    /// The images.
    #[schemars(with = "DataSource")]
    pub(crate) data: Spanned<DataSource>,
    /// How its networks are trained.
    #[schemars(with = "Recipe")]
    pub(crate) recipe: Spanned<Recipe>,
    /// Seeds, and what is varied.
    #[serde(default)]
    pub(crate) grid: Grid,
    /// What is trained.
    #[schemars(with = "Vec<Entry>", length(min = 1))]
    pub(crate) networks: Spanned<Vec<Entry>>,
    /// The figures that decide.
    #[serde(default)]
    #[schemars(with = "Vec<Primary>")]
    pub(crate) primary: Vec<Spanned<Primary>>,
    /// What was published about the networks.
    #[serde(default)]
    pub(crate) published: Vec<FilePublished>,
    /// What was concluded.
    #[serde(default)]
    #[schemars(with = "Vec<FileClaim>")]
    pub(crate) claims: Vec<Spanned<FileClaim>>,
    /// Changes whose effect is measured over pairs of networks.
    #[serde(default)]
    #[schemars(with = "Vec<FileEffect>")]
    pub(crate) effects: Vec<Spanned<FileEffect>>,
    /// The `study.json` of an earlier reproduction, relative to the folder of this file.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(crate) record: Option<Spanned<PathBuf>>,
}

/// Seeds, and what is varied: every combination is trained with every seed.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct Grid {
    /// Seeds of initial values, order, augmentation and dropout; only 42 if none are given.
    #[schemars(
        with = "Option<Vec<u64>>",
        length(min = 1),
        inner(range(max = RunConfig::MAX_SEED)),
        extend("uniqueItems" = true)
    )]
    pub(crate) seeds: Option<Spanned<Vec<u64>>>,
    /// What is varied.
    pub(crate) vary: Vec<Vary>,
}

/// A part of recipe or network that takes several values.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Vary {
    /// Its path: `recipe.optimizer.SGD.lr`, `network.layers.0.Conv2d.out_channels`, or `network.dropout` for every dropout.
    #[schemars(with = "String")]
    pub(crate) key: Spanned<String>,
    /// What it is called in the names of networks, before the value; the last part of the key if not given.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(crate) label: Option<Spanned<String>>,
    /// What is appended to the names of networks for each value, in place of label and value.
    #[serde(default)]
    #[schemars(with = "Option<Vec<String>>")]
    pub(crate) names: Option<Spanned<Vec<String>>>,
    /// Its values.
    #[schemars(with = "Vec<serde_json::Value>", length(min = 1))]
    pub(crate) values: Spanned<Vec<Value>>,
}

/// A network of the study.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Entry {
    /// A network that comes with the program, the path of a file that describes one, relative to the folder of this file, or the description.
    #[schemars(with = "NetworkSource")]
    pub(crate) network: Spanned<NetworkSource>,
    /// Its name in this study, if it is not the network's own.
    #[serde(default)]
    #[schemars(with = "Option<String>", regex(pattern = NAME_PATTERN))]
    pub(crate) name: Option<Spanned<String>>,
    /// Probability of every dropout, if it is not the description's.
    #[serde(default, deserialize_with = "number::maybe_dropout")]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub(crate) dropout: Option<f64>,
    /// Keys of the recipe that differ for this network; `false` removes one that the study's recipe has.
    #[serde(default)]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub(crate) recipe: Option<Spanned<Table>>,
}

/// What was published about a network.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct FilePublished {
    /// Its name in this study.
    #[schemars(with = "String")]
    pub(crate) network: Spanned<String>,
    /// Trainable parameters.
    #[serde(default)]
    pub(crate) parameters: Option<u64>,
    /// Runs that the figures come from, unless a figure says otherwise.
    #[serde(default = "one", deserialize_with = "number::count")]
    #[schemars(range(min = 1))]
    pub(crate) runs: u32,
    /// Single figures.
    #[serde(default)]
    #[schemars(with = "Vec<FileFigure>")]
    pub(crate) figures: Vec<Spanned<FileFigure>>,
    /// Values of each epoch.
    #[serde(default)]
    #[schemars(with = "Option<Curves>")]
    pub(crate) curves: Option<Spanned<Curves>>,
}

fn one() -> u32 {
    1
}

/// A published number.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct FileFigure {
    /// What it measures.
    pub(crate) metric: Metric,
    /// Of this epoch, from 1; after the last one if not given.
    #[serde(default, deserialize_with = "number::maybe_count")]
    #[schemars(range(min = 1))]
    pub(crate) epoch: Option<u32>,
    /// Percent of accuracy, or nats of loss; in quotation marks to keep a trailing zero.
    #[schemars(with = "Decimal")]
    pub(crate) value: Spanned<Decimal>,
    /// Runs that it is the mean of.
    #[serde(default, deserialize_with = "number::maybe_count")]
    #[schemars(range(min = 1))]
    pub(crate) runs: Option<u32>,
    /// Standard deviation between those runs.
    #[serde(default, deserialize_with = "number::maybe_not_negative")]
    #[schemars(range(min = 0))]
    pub(crate) deviation: Option<f64>,
    /// Whether it was claimed that the result is this or better.
    #[serde(default)]
    pub(crate) at_least: bool,
}

/// A part of the conclusion.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct FileClaim {
    /// How two networks are compared.
    pub(crate) kind: ClaimKind,
    /// The quantity compared.
    pub(crate) of: Quantity,
    /// The network that the claim is about.
    #[schemars(with = "String")]
    pub(crate) network: Spanned<String>,
    /// The one that it is compared with.
    #[schemars(with = "String")]
    pub(crate) to: Spanned<String>,
    /// What was published; if not given, what follows from the published figures of the two.
    #[serde(default, deserialize_with = "number::maybe_finite")]
    pub(crate) published: Option<f64>,
    /// For two that are claimed to be comparable: how far apart they may be.
    #[serde(default, deserialize_with = "number::maybe_positive")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub(crate) margin: Option<f64>,
    /// Why this margin.
    #[serde(default, deserialize_with = "text::prose")]
    pub(crate) reason: String,
    /// The claim in words.
    #[serde(default, deserialize_with = "text::prose")]
    pub(crate) text: String,
}

/// A change, and the networks that differ only in it.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct FileEffect {
    /// The change, in a few words.
    #[serde(deserialize_with = "text::filled_line")]
    #[schemars(length(min = 1))]
    pub(crate) name: String,
    /// Networks with the change.
    #[schemars(with = "Vec<String>", length(min = 1))]
    pub(crate) networks: Vec<Spanned<String>>,
    /// Each one's counterpart without it, in the same order.
    #[schemars(with = "Vec<String>", length(min = 1))]
    pub(crate) to: Vec<Spanned<String>>,
}

/// Where a network comes from.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub(crate) enum NetworkSource {
    /// A name, or the path of a file.
    Named(String),
    /// A description.
    Described(Box<Network>),
}

impl<'de> Deserialize<'de> for NetworkSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SourceVisitor;

        impl<'de> Visitor<'de> for SourceVisitor {
            type Value = NetworkSource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a network, the path of its file, or a table that describes it")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<NetworkSource, E> {
                Ok(NetworkSource::Named(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<NetworkSource, A::Error> {
                let network = Network::deserialize(MapAccessDeserializer::new(map))?;
                Ok(NetworkSource::Described(Box::new(network)))
            }
        }

        deserializer.deserialize_any(SourceVisitor)
    }
}

impl Study {
    /// The JSON Schema of a study's file, for editors.
    #[must_use]
    pub fn json_schema() -> serde_json::Value {
        schemars::schema_for!(StudyFile).to_value()
    }
}

/// The TOML parser's error, without the place.
pub(crate) fn message(error: &toml::de::Error) -> String {
    let message = match RecipeError::syntax("", error) {
        RecipeError::Syntax { message, .. } => message,
        error => error.to_string(),
    };
    let message = message.replace("expected a nonzero u32", "expected a whole number from 1");
    // unknown key `epoch`, expected one of `epochs`, ...
    let is_unknown = message.starts_with("unknown key `") || message.starts_with("unknown value `");
    match message.split_once("`, expected ").filter(|_| is_unknown) {
        Some((start, expected)) => {
            let name = start.split_once('`').map_or("", |(_, name)| name);
            let perhaps = perhaps(name, expected.split('`').skip(1).step_by(2));
            format!("{start}`{perhaps}, expected {expected}")
        }
        None => message,
    }
}

/// Reads a text file of limited size.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let wrong = |cause: String| Error::File { path: path.to_owned(), cause };
    // Opening a pipe would wait for its writer.
    let metadata =
        path.metadata().map_err(|error| wrong(format!("it cannot be read ({error}): check the path")))?;
    if !metadata.is_file() {
        return Err(wrong("it is not a file: give the path of one".to_owned()));
    }
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text))
        .map_err(|error| wrong(format!("it cannot be read as text ({error})")))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(wrong(format!("it has more than {} MiB: give a smaller file", MAX_BYTES >> 20)));
    }
    Ok(text)
}
