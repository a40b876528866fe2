//! A complete study.

use std::num::NonZeroU32;
use std::path::PathBuf;

use pointwise_recipe::{DataKind, Recipe};
use pointwise_runs::RunConfig;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{Arm, Claim, Effect, Primary, number, text};

/// A study.
#[derive(Clone, Debug, PartialEq)]
pub struct Study {
    /// Its name on command lines and of folders: letters, digits and `-_.+=`.
    pub name: String,
    /// Its title.
    pub title: String,
    /// Its question, for readers who do not know it: paragraphs separated by empty lines.
    pub question: String,
    /// What was concluded, in a sentence or two.
    pub conclusion: String,
    /// Where it was published; `None` for a study of your own.
    pub source: Option<Source>,
    /// The images.
    pub data: DataSource,
    /// How its networks are trained, unless an arm says otherwise.
    pub recipe: Recipe,
    /// The seeds, unless others are requested; at least one.
    pub seeds: Vec<u64>,
    /// What is compared, in the order of the file; at least one.
    pub arms: Vec<Arm>,
    /// The figures that decide whether the study was reproduced; the others are only shown. Empty if nothing was published.
    pub primary: Vec<Primary>,
    /// The conclusions, each judged separately.
    pub claims: Vec<Claim>,
    /// The effects of changes between its arms, for a study that compares them with each other.
    pub effects: Vec<Effect>,
    /// The `study.json` of an earlier reproduction: if there are too few seeds to measure a spread, it is taken from there.
    pub record: Option<String>,
}

/// Where a study was published.
#[derive(Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Source {
    /// The title of what was published.
    #[serde(deserialize_with = "text::line")]
    pub title: String,
    /// Who published it.
    #[serde(deserialize_with = "text::line")]
    pub author: String,
    /// When.
    pub year: Option<u32>,
    /// Where it can be read.
    #[serde(deserialize_with = "text::link")]
    #[schemars(extend("pattern" = "^(https?://.*)?$"))]
    pub link: String,
    /// Under which licence.
    #[serde(deserialize_with = "text::line")]
    pub licence: String,
    /// What else a reader must know about the figures: how many runs they come from, how they were rounded, what was not stated.
    #[serde(deserialize_with = "text::prose")]
    pub note: String,
}

/// The images of a study.
#[derive(Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DataSource {
    /// Which.
    #[schemars(with = "String", extend("enum" = DataKind::ALL.map(DataKind::name)))]
    pub kind: DataKind,
    /// The folder that holds them, in a file relative to the file's own folder; if not given, the one that a download fills.
    #[serde(default)]
    pub dir: Option<PathBuf>,
    /// The test set to split off images that have none: a share or a number of them.
    #[serde(default, deserialize_with = "text::text_or_number")]
    #[schemars(with = "Option<StringOrNumber>")]
    pub test_split: Option<String>,
    /// Training images held out to choose the best epoch.
    #[serde(default)]
    pub val_split: u32,
    /// The seed of synthetic images, and of splits.
    #[serde(default)]
    #[schemars(range(max = RunConfig::MAX_SEED))]
    pub data_seed: Option<u64>,
    /// Only this many training images.
    #[serde(default)]
    pub limit_train: Option<NonZeroU32>,
    /// Only this many test images.
    #[serde(default)]
    pub limit_test: Option<NonZeroU32>,
    /// Images that the published networks were trained on, held-out ones included. Runs on another number are not comparable.
    #[serde(default, deserialize_with = "number::maybe_count")]
    #[schemars(range(min = 1))]
    pub train_images: Option<u32>,
    /// Images that the published networks were tested on.
    #[serde(default, deserialize_with = "number::maybe_count")]
    #[schemars(range(min = 1))]
    pub test_images: Option<u32>,
}

#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "the schema of a share or number")]
enum StringOrNumber {
    Text(String),
    Number(#[schemars(extend("exclusiveMinimum" = 0))] f64),
}

impl Study {
    /// The arm of this name.
    #[must_use]
    pub fn arm(&self, name: &str) -> Option<&Arm> {
        self.arms.iter().find(|arm| arm.name == name)
    }

    /// Whether anything was published with which runs can be compared; without it there is no verdict.
    #[must_use]
    pub fn is_published(&self) -> bool {
        self.arms.iter().any(|arm| arm.published.parameters.is_some() || !arm.published.figures.is_empty())
    }
}
