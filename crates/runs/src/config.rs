//! The configuration of a run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{fmt, num::NonZeroU32, num::NonZeroU64};

use pointwise_recipe::{DataKind, DeviceName, EngineKind, Precision, Recipe, line_and_column, one_line};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::{Error, Result, error::MAX_THREADS};

/// The resolved configuration of a run: everything that decides its numbers, and how it is recorded. With a checkpoint, nothing else
/// is needed to resume the run, or to evaluate and use the trained network.
///
/// Written as `config.toml` with kebab-case keys; an unknown key is an error, an absent option is left out.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RunConfig {
    /// The network's name.
    pub model: String,
    /// What computes the steps.
    pub engine: EngineKind,
    /// The device, resolved.
    pub device: DeviceName,
    /// The number format of convolutions and linear layers.
    #[serde(default)]
    pub precision: Precision,
    /// Whether the same seed must give the same bits; on a CPU it always does.
    #[serde(default)]
    pub deterministic: bool,
    /// Where the images come from.
    pub data: DataKind,
    /// The folder that holds the data set, where it was given. Does not decide numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// The seed of synthetic images.
    pub data_seed: u64,
    /// The images split off for testing from a data set without a test set: their share or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_split: Option<String>,
    /// Probability of dropping a unit, in [0, 1).
    pub dropout: f64,
    /// The seed of initialisation, order, augmentation and dropout.
    pub seed: u64,
    /// Training images held out for choosing the best epoch; 0 is the published protocol, which chooses on the test set.
    pub val_split: u32,
    /// Parameters to start from instead of drawing them. The path does not decide numbers, the file's content does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// SHA-256 of the file `init`, lower-case hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_sha256: Option<String>,
    /// Use only this many training images, where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_train: Option<NonZeroU32>,
    /// Use only this many test images, where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_test: Option<NonZeroU32>,
    /// Stop after this many steps, where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<NonZeroU64>,
    /// Worker threads; absent means all cores. Does not decide numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<NonZeroU32>,
    /// Steps from one record to the next.
    pub log_every: NonZeroU32,
    /// Seconds between checkpoints within an epoch; absent means at the end of an epoch only. Does not decide numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<u64>,
    /// The description of the network as TOML, unless it is the one that the program ships under the name `model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// How the network is trained.
    pub recipe: Recipe,
    /// The data. Absent before the images are known, and in runs of versions that supported CIFAR-10 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetConfig>,
}

/// What must be known of the training images to use a network on other images.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DatasetConfig {
    /// Shape of an image: channels, rows, columns.
    pub shape: [usize; 3],
    /// The names of the classes, in the order of their labels.
    pub classes: Vec<String>,
    /// What was subtracted from the values of each channel, in units of [0, 1].
    pub mean: Vec<f32>,
    /// What they were then divided by.
    pub std: Vec<f32>,
}

/// Keys that do not decide the record of a run. For `init`, `init-sha256` does.
const NOT_DECIDING: [&str; 4] = ["threads", "checkpoint-every", "data-dir", "init"];

/// A field in which two configurations differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key in `config.toml`, with dots between the keys of nested tables, and without `recipe`.
    pub name: String,
    /// The value in the configuration that `differences` was called on, or `none`.
    pub ours: String,
    /// The value in the other one, or `none`.
    pub theirs: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {} here and {} there", self.name, self.ours, self.theirs)
    }
}

impl RunConfig {
    /// The most computing threads.
    pub const MAX_THREADS: u32 = MAX_THREADS;
    /// More bytes than any file of a run has, except its metrics: also a `config.toml` with a network's description and the names of
    /// 65,536 classes.
    pub const MAX_BYTES: u64 = 64 << 20;
    /// The largest integer of TOML.
    pub const MAX_SEED: u64 = i64::MAX as u64;

    /// A training of a network by a recipe, with seed 42, on CIFAR-10 and the CPU, and with PyTorch's default for dropout.
    #[must_use]
    pub fn new(model: &str, recipe: Recipe) -> Self {
        const TEN: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);
        Self {
            model: model.to_owned(),
            engine: EngineKind::Cpu,
            device: DeviceName::Cpu,
            precision: Precision::F32,
            deterministic: false,
            data: DataKind::Cifar10,
            data_dir: None,
            data_seed: 42,
            test_split: None,
            dropout: 0.5,
            seed: 42,
            val_split: 0,
            init: None,
            init_sha256: None,
            limit_train: None,
            limit_test: None,
            max_steps: None,
            threads: None,
            log_every: TEN,
            checkpoint_every: None,
            network: None,
            recipe,
            dataset: None,
        }
    }

    /// All fields that decide the record of a run and differ between two configurations that should be the same, in the order of the file.
    ///
    /// Fields that do not decide it are ignored: `threads`, `checkpoint-every`, `data-dir`, and the path `init` (`init-sha256` counts).
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        // As tables, so that a new field is compared automatically.
        let [ours, theirs] = [self, other].map(as_value);
        let mut found = Vec::new();
        compare("", &ours, &theirs, &mut found);
        found
    }

    /// The first of [`RunConfig::differences`].
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<Difference> {
        self.differences(other).into_iter().next()
    }

    /// All keys with their values as text, sorted by name; names are as in [`Difference::name`].
    #[must_use]
    pub fn values(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        collect("", &as_value(self), &mut found);
        found
    }

    /// The configuration without the fields that do not decide the record of a run.
    #[must_use]
    pub fn deciding(&self) -> Self {
        Self { threads: None, checkpoint_every: None, data_dir: None, init: None, ..self.clone() }
    }

    /// Checks every value against the bounds of its option.
    ///
    /// # Errors
    /// [`Error::Config`] naming a key whose value is out of bounds.
    pub fn check(&self) -> Result<()> {
        let wrong = |key: &str, value: &dyn fmt::Display, wanted: &str| {
            Err(Error::Config { cause: format!("{key} is {value}, not {wanted}") })
        };
        for (key, value) in [("data-seed", self.data_seed), ("seed", self.seed)] {
            if value > Self::MAX_SEED {
                return wrong(key, &value, &format!("a whole number from 0 to {}", Self::MAX_SEED));
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return wrong("dropout", &self.dropout, "a number from 0 to below 1");
        }
        let is_sha256 = |text: &str| {
            text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        if let Some(text) = self.init_sha256.as_deref().filter(|text| !is_sha256(text)) {
            return wrong("init-sha256", &format!("{:?}", one_line(text)), "a SHA-256 of 64 digits");
        }
        if let Some(steps) = self.max_steps.filter(|steps| steps.get() > Self::MAX_SEED) {
            return wrong("max-steps", &steps, &format!("a whole number from 1 to {}", Self::MAX_SEED));
        }
        if let Some(threads) = self.threads.filter(|threads| threads.get() > Self::MAX_THREADS) {
            return wrong("threads", &threads, &format!("a whole number from 1 to {}", Self::MAX_THREADS));
        }
        if self.recipe.early_stopping.is_some() && self.val_split == 0 {
            return wrong("val-split", &0, "a number of images to hold out, which early-stopping needs");
        }
        self.dataset.as_ref().map_or(Ok(()), DatasetConfig::check)?;
        self.recipe.check().map_err(|error| Error::Config { cause: error.to_string() })
    }

    /// The text of `config.toml`.
    ///
    /// # Errors
    /// As [`RunConfig::check`]: what is written is read back.
    pub fn to_toml(&self) -> Result<String> {
        self.check()?;
        let refuse = |error: toml::ser::Error| Error::Config { cause: error.to_string() };
        let whole = toml::to_string_pretty(self).map_err(refuse)?;
        // Tables come after everything else. In those of the recipe and the data set, each key takes a line.
        let (top, _) = whole.rsplit_once("\n[recipe]\n").unwrap_or((&whole, ""));
        let mut text = format!("{top}\n[recipe]\n{}", self.recipe.to_toml());
        if let Some(dataset) = &self.dataset {
            text += &format!("\n[dataset]\n{}", toml::to_string(dataset).map_err(refuse)?);
        }
        Ok(text)
    }

    /// Reads the text of a `config.toml`, also one of a version before there were recipes.
    ///
    /// # Errors
    /// [`Error::Config`] if it is not TOML, lacks a key, has an unknown one, or one whose value [`RunConfig::check`] refuses.
    pub fn from_toml(text: &str) -> Result<Self> {
        let parsed = match toml::from_str::<Table>(text) {
            // A file in the present form is read unchanged, so that the lines in messages are right.
            Ok(table) if !is_before_recipes(&table) => toml::from_str(text),
            Ok(table) => with_recipe(table).try_into(),
            Err(error) => Err(error),
        };
        let config: Self = parsed.map_err(|error| {
            let message = one_line(error.message());
            // The parser's message names no key; the line shows it, unless the span is the whole file.
            let cause = match error.span() {
                Some(span) => {
                    let (number, _) = line_and_column(text, span.start);
                    let line = text.lines().nth(number - 1).unwrap_or_default().trim();
                    // A span may begin and end inside a character.
                    let is_whole = line.is_empty()
                        || text.as_bytes().get(span).is_none_or(|shown| shown.contains(&b'\n'));
                    let shown = if is_whole { String::new() } else { format!(", `{}`", shown_line(line)) };
                    format!("line {number}{shown}: {message}")
                }
                None => message,
            };
            Error::Config { cause }
        })?;
        config.check()?;
        Ok(config)
    }
}

impl DatasetConfig {
    fn check(&self) -> Result<()> {
        let wrong =
            |key: &str, wanted: &str| Err(Error::Config { cause: format!("dataset.{key} is not {wanted}") });
        let [channels, height, width] = self.shape;
        if !matches!(channels, 1 | 3) || height == 0 || width == 0 {
            return wrong("shape", "[channels, rows, columns] with 1 or 3 channels");
        }
        if !(1..=65_536).contains(&self.classes.len()) {
            return wrong("classes", "an array of 1 to 65536 names");
        }
        let is_finite =
            |values: &[f32]| values.len() == channels && values.iter().all(|value| value.is_finite());
        if !is_finite(&self.mean) {
            return wrong("mean", "a number for each channel");
        }
        if !is_finite(&self.std) || self.std.iter().any(|value| *value <= 0.0) {
            return wrong("std", "a number above 0 for each channel");
        }
        Ok(())
    }
}

fn as_value(config: &RunConfig) -> Value {
    match Value::try_from(config) {
        Ok(value) => value,
        Err(error) => unreachable!("a configuration has only strings, numbers and tables: {error}"),
    }
}

/// A line of a file, cut if it is long.
fn shown_line(line: &str) -> String {
    const SHOWN: usize = 100;
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => one_line(&format!("{}...", &line[..end])),
        None => one_line(line),
    }
}

/// The name of a key in the table at that path.
fn inner(path: &str, key: &str) -> String {
    match path {
        "" | "recipe" => key.to_owned(),
        _ => format!("{path}.{key}"),
    }
}

/// Adds the values of a table, or a value.
fn collect(path: &str, value: &Value, found: &mut BTreeMap<String, String>) {
    match value {
        Value::Table(table) if !table.is_empty() => {
            for (key, value) in table {
                collect(&inner(path, key), value, found);
            }
        }
        value => {
            found.insert(path.to_owned(), text(Some(value)));
        }
    }
}

/// Adds the differences of two tables, or of two values at the same place.
fn compare(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<Difference>) {
    let difference = |name: String, ours, theirs| Difference { name, ours: text(ours), theirs: text(theirs) };
    let tables = match (ours, theirs) {
        // Tables without a common key are different kinds, and are compared as a whole.
        (Value::Table(first), Value::Table(second)) if first.keys().any(|key| second.contains_key(key)) => {
            Some((first, second))
        }
        _ => None,
    };
    let Some((first, second)) = tables else {
        if ours != theirs {
            found.push(difference(path.to_owned(), Some(ours), Some(theirs)));
        }
        return;
    };
    let keys = first.keys().chain(second.keys().filter(|key| !first.contains_key(*key)));
    for key in keys.filter(|key| !(path.is_empty() && NOT_DECIDING.contains(&key.as_str()))) {
        let name = inner(path, key);
        match (first.get(key), second.get(key)) {
            (Some(ours), Some(theirs)) => compare(&name, ours, theirs, found),
            (ours, theirs) => found.push(difference(name, ours, theirs)),
        }
    }
}

/// A value for people; numbers as they are written elsewhere, 1 and not 1.0.
fn text(value: Option<&Value>) -> String {
    match value {
        None => "none".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Float(number)) => number.to_string(),
        Some(value) => value.to_string(),
    }
}

/// Whether this was written when a recipe was a few top-level keys.
fn is_before_recipes(table: &Table) -> bool {
    !table.contains_key("recipe") && table.contains_key("lr")
}

/// Such a file in the present form: its optimizer was Adam.
fn with_recipe(mut table: Table) -> Table {
    let mut recipe = Table::new();
    for key in ["epochs", "batch-size", "augment", "shuffle"] {
        recipe.extend(table.remove(key).map(|value| (key.to_owned(), value)));
    }
    let mut adam = Table::new();
    for (key, argument) in [("lr", "lr"), ("weight-decay", "weight_decay")] {
        adam.extend(table.remove(key).map(|value| (argument.to_owned(), value)));
    }
    recipe.insert("optimizer".to_owned(), Table::from_iter([("Adam".to_owned(), adam.into())]).into());
    table.insert("recipe".to_owned(), recipe.into());
    table
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use pointwise_recipe::{Adam, Augment, Sgd};

    pub(crate) fn config() -> RunConfig {
        let adam = Adam { weight_decay: 0.1, ..Adam::default() };
        let recipe = Recipe { augment: Augment::CROP_FLIP, ..Recipe::new(8, 32, adam) };
        RunConfig { data_seed: 0, ..RunConfig::new("nin", recipe) }
    }

    fn dataset() -> DatasetConfig {
        let classes = ["cat", "Hund", "\u{9ce5} \"bird\""].map(str::to_owned).into();
        DatasetConfig { shape: [1, 28, 28], classes, mean: vec![0.1307], std: vec![0.3081] }
    }

    /// A configuration with every key.
    fn full() -> RunConfig {
        let recipe = Recipe::from_toml(
            r#"
            epochs = 3
            batch-size = 7
            optimizer = { SGD = { lr = 0.30000000000000004, momentum = 0.9, nesterov = true } }
            schedule = { MultiStepLR = { milestones = [1, 2] } }
            warmup = { steps = 5 }
            parameter-groups = [{ max_dims = 1, weight_decay = 0.0 }]
            label-smoothing = 0.1
            clip-norm = 1.5
            ema = { decay = 0.99 }
            early-stopping = { patience = 2 }
            augment = { crop = 2, cutout = 3 }
            shuffle = false
            normalise = "measured"
            "#,
        );
        RunConfig {
            data_dir: Some("somewhere".into()),
            test_split: Some("0.2".into()),
            val_split: 100,
            init: Some("start.safetensors".into()),
            init_sha256: Some("ab".repeat(32)),
            limit_train: NonZeroU32::new(504),
            limit_test: NonZeroU32::new(252),
            max_steps: NonZeroU64::new(7),
            threads: NonZeroU32::new(2),
            checkpoint_every: Some(60),
            network: Some("name = \"mine\"\nlayers = [\n    'ReLU',\n]\n".to_owned()),
            seed: i64::MAX as u64,
            recipe: recipe.unwrap(),
            dataset: Some(dataset()),
            ..config()
        }
    }

    #[test]
    fn a_configuration_survives_toml_and_json() {
        for config in [config(), full()] {
            let text = config.to_toml().unwrap();
            assert_eq!(RunConfig::from_toml(&text).unwrap(), config, "{text}");
            let json = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<RunConfig>(&json).unwrap(), config, "{json}");
        }
        assert!(config().to_toml().unwrap().contains("batch-size = 32\n"));
        // A file of a version without these options.
        let text = config().to_toml().unwrap();
        let old = text.replace("precision = \"f32\"\n", "").replace("deterministic = false\n", "");
        assert!(old.len() < text.len() && RunConfig::from_toml(&old).unwrap() == config());
    }

    #[test]
    fn a_file_from_before_recipes_is_read() {
        let old = "model = \"nin\"\nengine = \"cpu\"\ndevice = \"cpu\"\ndata = \"cifar10\"\ndata-seed = 0\nepochs = 4\nbatch-size = 32\n\
                   lr = 0.01\nweight-decay = 0.1\ndropout = 0.5\nseed = 42\nval-split = 0\naugment = \"none\"\nshuffle = false\n\
                   log-every = 10\n";
        let adam = Adam { lr: 0.01, weight_decay: 0.1, ..Adam::default() };
        let recipe = Recipe { shuffle: false, ..Recipe::new(4, 32, adam) };
        let expected = RunConfig { recipe, ..config() };
        assert_eq!(RunConfig::from_toml(old).unwrap(), expected);
        for (line, changed, named) in [
            ("lr = 0.01", "lr = \"fast\"", "invalid type: string"),
            ("augment = \"none\"", "augment = \"flip\"", "there is no augmentation `flip`"),
            ("epochs = 4", "epochs = 0", "epochs is 0"),
            ("epochs = 4\n", "", "missing field `epochs`"),
            ("seed = 42", "colour = 1\nseed = 42", "unknown field `colour`"),
        ] {
            let message = RunConfig::from_toml(&old.replace(line, changed)).unwrap_err().to_string();
            assert!(message.contains(named) && !message.contains('\n'), "{changed}: {message}");
        }
    }

    #[test]
    fn values_that_no_option_takes_are_refused_with_their_key() {
        let text = config().to_toml().unwrap();
        let top = |line: &str| text.replacen("log-every", &format!("{line}\nlog-every"), 1);
        let change = |line: &str, changed: &str| {
            assert!(text.contains(line), "{line} in {text}");
            text.replacen(line, changed, 1)
        };
        for (text, named) in [
            (
                change("batch-size = 32", "batch-size = 0"),
                "batch-size is 0, not a whole number from 1 to 65536",
            ),
            (change("batch-size = 32", "batch-size = -1"), "`batch-size = -1`: "),
            (change("batch-size = 32", "batch-size = \"32\""), "`batch-size = \"32\"`: "),
            (
                change("epochs = 8", "epochs = 4294967295"),
                "epochs is 4294967295, not a whole number from 1 to 1000000",
            ),
            (change("epochs = 8", "epochs = 99999999999999999999"), "`epochs = 99999999999999999999`: "),
            (change("epochs = 8", "epochs = 2.5"), "`epochs = 2.5`"),
            (change("epochs = 8\n", ""), "missing field `epochs`"),
            (change("lr = 0.001", "lr = nan"), "lr is nan, not a number above 0"),
            (change("lr = 0.001", "lr = 0.0"), "lr is 0.0, not a number above 0"),
            (change("lr = 0.001", "lr = inf"), "lr is inf"),
            (
                change("weight_decay = 0.1", "weight_decay = -1.0"),
                "weight_decay is -1.0, not a number from 0 up",
            ),
            (change("dropout = 0.5", "dropout = 1.0"), "dropout is 1, not a number from 0 to below 1"),
            (change("augment = \"crop-flip\"", "augment = \"flip\""), "there is no augmentation `flip`"),
            (
                change("data = \"cifar10\"", "data = \"cats\""),
                "unknown variant `cats`, expected one of `cifar10`",
            ),
            (change("engine = \"cpu\"", "engine = \"torch\""), "unknown variant `torch`"),
            (
                change("device = \"cpu\"", "device = \"auto\""),
                "there is no device `auto`; give one of cpu, cuda:N",
            ),
            (change("precision = \"f32\"", "precision = \"f16\""), "unknown variant `f16`"),
            (change("shuffle = true", "shuffle = 1"), "`shuffle = 1`"),
            (change("log-every = 10", "log-every = 0"), "`log-every = 0`"),
            (top("threads = 0"), "`threads = 0`"),
            (top("threads = 1025"), "threads is 1025, not a whole number from 1 to 1024"),
            (top("limit-train = 0"), "`limit-train = 0`"),
            (top("max-steps = 0"), "`max-steps = 0`"),
            (top("init-sha256 = \"x\""), "init-sha256 is \"x\""),
            (top("colour = 1"), "unknown field `colour`"),
            (change("shuffle = true", "shuffle = true\nearly-stopping = { patience = 2 }"), "val-split is 0"),
            (
                text.clone()
                    + "[dataset]\nshape = [2, 32, 32]\nclasses = [\"a\"]\nmean = [0.0, 0.0]\nstd = [1.0, 1.0]",
                "dataset.shape",
            ),
            (
                text.clone() + "[dataset]\nshape = [1, 32, 32]\nclasses = []\nmean = [0.0]\nstd = [1.0]",
                "dataset.classes",
            ),
            (
                text.clone()
                    + "[dataset]\nshape = [1, 32, 32]\nclasses = [\"a\"]\nmean = [0.0, 0.0]\nstd = [1.0]",
                "dataset.mean",
            ),
            (
                text.clone() + "[dataset]\nshape = [1, 32, 32]\nclasses = [\"a\"]\nmean = [0.0]\nstd = [0.0]",
                "dataset.std",
            ),
        ] {
            let message = RunConfig::from_toml(&text).unwrap_err().to_string();
            assert!(message.contains(named) && !message.contains('\n'), "{named}: {message}");
        }
        // Nor is such a file written.
        assert!(RunConfig { data_seed: u64::MAX, ..config() }.to_toml().is_err());
    }

    #[test]
    fn a_difference_is_found_and_what_does_not_matter_is_ignored() {
        let ours = config();
        let mut theirs = RunConfig {
            threads: NonZeroU32::new(1),
            checkpoint_every: Some(5),
            data_dir: Some("x".into()),
            init: Some("y".into()),
            ..config()
        };
        assert_eq!(ours.difference(&theirs), None);
        theirs.limit_train = NonZeroU32::new(504);
        let found = ours.difference(&theirs).unwrap();
        assert_eq!(found.to_string(), "limit-train is none here and 504 there");
        theirs.recipe.epochs = 2;
        theirs.recipe.optimizer = theirs.recipe.optimizer.with_lr(0.01);
        let names: Vec<String> = ours.differences(&theirs).into_iter().map(|found| found.name).collect();
        assert_eq!(names, ["epochs", "optimizer.Adam.lr", "limit-train"]);
        theirs.recipe.optimizer = Sgd::default().into();
        let found = ours.differences(&theirs).into_iter().find(|found| found.name == "optimizer").unwrap();
        assert!(found.ours.contains("Adam") && found.theirs.contains("SGD"), "{found}");
    }

    #[test]
    fn every_field_that_decides_numbers_is_compared() {
        fn leaves(path: &str, table: &Table, found: &mut Vec<String>) {
            for (key, value) in table {
                match value {
                    Value::Table(inner) => leaves(&format!("{path}{key}."), inner, found),
                    _ => found.push(format!("{path}{key}")),
                }
            }
        }
        // In the file's form: change one key at a time, whatever the keys are.
        let full = full();
        let table = Table::try_from(&full).unwrap();
        let mut paths = Vec::new();
        leaves("", &table, &mut paths);
        let mut compared = 0;
        for path in &paths {
            let mut changed = Value::Table(table.clone());
            let value = path.split('.').fold(&mut changed, |value, key| &mut value[key]);
            *value = match value.clone() {
                Value::String(text) => match path.as_str() {
                    "engine" => "cuda".into(),
                    "device" => "cuda:3".into(),
                    "precision" => "bf16".into(),
                    "data" => "mnist".into(),
                    "recipe.normalise" => "dataset".into(),
                    "recipe.augment.flip" => "random".into(),
                    "recipe.augment.padding_mode" => "reflect".into(),
                    "recipe.schedule.MultiStepLR.by" => "step".into(),
                    _ => format!("{text}x").into(),
                },
                Value::Integer(0) => 1.into(),
                Value::Integer(number) => (number - 1).into(),
                Value::Float(number) => (number / 2.0 + 0.01).into(),
                Value::Boolean(truth) => (!truth).into(),
                Value::Array(mut values) => {
                    let last = values.pop().unwrap();
                    values.extend([last.clone(), last]);
                    if path == "dataset.shape" { vec![3, 28, 28].into() } else { values.into() }
                }
                other => panic!("{path} = {other}"),
            };
            let other: RunConfig = changed.try_into().unwrap_or_else(|error| panic!("{path}: {error}"));
            let name = path.strip_prefix("recipe.").unwrap_or(path);
            if NOT_DECIDING.contains(&name) {
                assert_eq!(full.difference(&other), None, "{path}");
            } else {
                assert_eq!(full.difference(&other).map(|found| found.name).as_deref(), Some(name));
                compared += 1;
            }
            assert_eq!(full.deciding() == other.deciding(), NOT_DECIDING.contains(&name), "{path}");
        }
        assert!(compared >= 40, "{compared}: {paths:?}");
    }
}
