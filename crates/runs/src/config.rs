use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The resolved configuration of a run: everything that decides its numbers, and how it is recorded.
///
/// Written as `config.toml` with kebab-case keys; an unknown key is an error, an absent option is left out.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RunConfig {
    /// The network: `alexnet_plain`, `alexnet` or `nin`.
    pub model: String,
    /// What computes the steps: `reference`, `cpu` or `cuda`.
    pub engine: String,
    /// The device, resolved: `cpu`, `cuda:0`, ...
    pub device: String,
    /// The numbers of convolutions and linear layers: `f32`, `tf32` or `bf16`.
    #[serde(default = "single")]
    pub precision: String,
    /// Whether the same seed must give the same bits; on a CPU it always does.
    #[serde(default)]
    pub deterministic: bool,
    /// Where the images come from: `cifar10`, `synthetic` or `huggingface`.
    pub data: String,
    /// The folder that holds the data set, where it was given. Does not decide numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// The seed of synthetic images.
    pub data_seed: u64,
    /// How often the training images are gone through, from 1.
    pub epochs: u32,
    /// Images in a batch, from 1; the last batch of an epoch may be smaller.
    pub batch_size: u32,
    /// Adam's step size.
    pub lr: f64,
    /// Coupled L2 weight decay.
    pub weight_decay: f64,
    /// Probability of dropping a unit, in [0, 1).
    pub dropout: f64,
    /// The seed of initialisation, order, augmentation and dropout.
    pub seed: u64,
    /// Training images held out for choosing the best epoch; 0 is the published protocol, which chooses on the test set.
    pub val_split: u32,
    /// `crop-flip` or `none`.
    pub augment: String,
    /// Whether the training order changes every epoch.
    pub shuffle: bool,
    /// Parameters to start from instead of drawing them. The path does not decide numbers, its content does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// SHA-256 of the file `init`, lower-case hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_sha256: Option<String>,
    /// Only so many training images, where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_train: Option<u32>,
    /// Only so many test images, where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_test: Option<u32>,
    /// Stop after so many steps, where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Worker threads; absent means all cores. Does not decide numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Record every so many steps; 0 records epochs only.
    pub log_every: u32,
    /// Seconds between checkpoints within an epoch; absent means at the end of an epoch only. Does not decide numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<u64>,
}

/// What runs computed in before they could choose.
fn single() -> String {
    "f32".to_owned()
}

/// A field in which two configurations differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key in `config.toml`.
    pub name: &'static str,
    /// The value in the configuration that was asked, or `none`.
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
    /// The first field, in the order of the file, in which two configurations of what should be the same run differ.
    ///
    /// What does not decide the record of a run is ignored: `threads`, `checkpoint-every`, `data-dir`, and the path `init`
    /// (`init-sha256` counts).
    pub fn difference(&self, other: &Self) -> Option<Difference> {
        // Taken apart by name, so that a new field does not compile until it is compared or ignored here.
        let Self {
            model,
            engine,
            device,
            precision,
            deterministic,
            data,
            data_dir: _,
            data_seed,
            epochs,
            batch_size,
            lr,
            weight_decay,
            dropout,
            seed,
            val_split,
            augment,
            shuffle,
            init: _,
            init_sha256,
            limit_train,
            limit_test,
            max_steps,
            threads: _,
            log_every,
            checkpoint_every: _,
        } = self;
        field("model", model, &other.model)
            .or_else(|| field("engine", engine, &other.engine))
            .or_else(|| field("device", device, &other.device))
            .or_else(|| field("precision", precision, &other.precision))
            .or_else(|| field("deterministic", deterministic, &other.deterministic))
            .or_else(|| field("data", data, &other.data))
            .or_else(|| field("data-seed", data_seed, &other.data_seed))
            .or_else(|| field("epochs", epochs, &other.epochs))
            .or_else(|| field("batch-size", batch_size, &other.batch_size))
            .or_else(|| field("lr", lr, &other.lr))
            .or_else(|| field("weight-decay", weight_decay, &other.weight_decay))
            .or_else(|| field("dropout", dropout, &other.dropout))
            .or_else(|| field("seed", seed, &other.seed))
            .or_else(|| field("val-split", val_split, &other.val_split))
            .or_else(|| field("augment", augment, &other.augment))
            .or_else(|| field("shuffle", shuffle, &other.shuffle))
            .or_else(|| option("init-sha256", init_sha256, &other.init_sha256))
            .or_else(|| option("limit-train", limit_train, &other.limit_train))
            .or_else(|| option("limit-test", limit_test, &other.limit_test))
            .or_else(|| option("max-steps", max_steps, &other.max_steps))
            .or_else(|| field("log-every", log_every, &other.log_every))
    }

    /// The text of `config.toml`.
    ///
    /// # Errors
    /// [`Error::Config`] if a number is beyond TOML's 64-bit signed integers.
    pub fn to_toml(&self) -> Result<String> {
        // The writer's own message names no key.
        for (name, value) in
            [("seed", self.seed), ("data-seed", self.data_seed), ("max-steps", self.max_steps.unwrap_or(0))]
        {
            if i64::try_from(value).is_err() {
                return Err(Error::Config {
                    cause: format!("{name} is {value}, TOML holds up to {}", i64::MAX),
                });
            }
        }
        toml::to_string(self).map_err(|error| Error::Config { cause: error.to_string() })
    }

    /// Reads the text of a `config.toml`.
    ///
    /// # Errors
    /// [`Error::Config`] if it is not TOML, lacks a key, or has an unknown one.
    pub fn from_toml(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map(|span| text.as_bytes()[..span.start].iter().filter(|&&b| b == b'\n').count() + 1);
            let message = error.message().replace('\n', " ");
            let cause = match line {
                Some(line) => format!("line {line}: {message}"),
                None => message,
            };
            Error::Config { cause }
        })
    }
}

fn field<T: PartialEq + fmt::Display>(name: &'static str, ours: &T, theirs: &T) -> Option<Difference> {
    (ours != theirs).then(|| Difference { name, ours: ours.to_string(), theirs: theirs.to_string() })
}

fn option<T: PartialEq + fmt::Display>(
    name: &'static str,
    ours: &Option<T>,
    theirs: &Option<T>,
) -> Option<Difference> {
    let text = |value: &Option<T>| value.as_ref().map_or("none".into(), T::to_string);
    (ours != theirs).then(|| Difference { name, ours: text(ours), theirs: text(theirs) })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn config() -> RunConfig {
        RunConfig {
            model: "nin".into(),
            engine: "cpu".into(),
            device: "cpu".into(),
            precision: "f32".into(),
            deterministic: false,
            data: "cifar10".into(),
            data_dir: None,
            data_seed: 0,
            epochs: 10,
            batch_size: 126,
            lr: 0.001,
            weight_decay: 5e-4,
            dropout: 0.5,
            seed: 42,
            val_split: 0,
            augment: "crop-flip".into(),
            shuffle: true,
            init: None,
            init_sha256: None,
            limit_train: None,
            limit_test: None,
            max_steps: None,
            threads: None,
            log_every: 50,
            checkpoint_every: None,
        }
    }

    #[test]
    fn a_configuration_survives_toml() {
        let full = RunConfig {
            data_dir: Some("somewhere".into()),
            init: Some("start.safetensors".into()),
            init_sha256: Some("ab".into()),
            limit_train: Some(504),
            limit_test: Some(252),
            max_steps: Some(7),
            threads: Some(2),
            checkpoint_every: Some(60),
            lr: 0.1 + 0.2,
            seed: i64::MAX as u64,
            ..config()
        };
        for config in [config(), full] {
            let text = config.to_toml().unwrap();
            assert_eq!(RunConfig::from_toml(&text).unwrap(), config, "{text}");
        }
        assert!(config().to_toml().unwrap().contains("batch-size = 126\n"));
        // A file from before there was a choice.
        let text = config().to_toml().unwrap();
        let old = text.replace("precision = \"f32\"\n", "").replace("deterministic = false\n", "");
        assert!(old.len() < text.len() && RunConfig::from_toml(&old).unwrap() == config());
    }

    #[test]
    fn what_is_wrong_with_a_configuration_is_named() {
        let unknown = config().to_toml().unwrap() + "colour = 1\n";
        let missing = config().to_toml().unwrap().replace("epochs = 10\n", "");
        let too_big = RunConfig { data_seed: u64::MAX, ..config() };
        for (error, named) in [
            (RunConfig::from_toml(&unknown).unwrap_err(), "colour"),
            (RunConfig::from_toml(&unknown).unwrap_err(), "line 18"),
            (RunConfig::from_toml(&missing).unwrap_err(), "epochs"),
            (too_big.to_toml().unwrap_err(), "data-seed"),
        ] {
            let text = error.to_string();
            assert!(text.contains(named) && !text.contains('\n'), "{text:?} should name {named}");
        }
    }

    #[test]
    fn a_difference_is_found_and_what_does_not_matter_is_ignored() {
        let ours = config();
        let mut theirs = RunConfig {
            threads: Some(1),
            checkpoint_every: Some(5),
            data_dir: Some("x".into()),
            init: Some("y".into()),
            ..config()
        };
        assert_eq!(ours.difference(&theirs), None);
        theirs.limit_train = Some(504);
        let found = ours.difference(&theirs).unwrap();
        assert_eq!(found.to_string(), "limit-train is none here and 504 there");
        theirs.epochs = 2;
        assert_eq!(ours.difference(&theirs).unwrap().name, "epochs", "the first in the order of the file");
    }

    #[test]
    fn every_field_that_decides_numbers_is_compared() {
        // Through the file form: change one key at a time, whatever the keys are.
        let full = RunConfig {
            init_sha256: Some("ab".into()),
            limit_train: Some(504),
            limit_test: Some(252),
            max_steps: Some(7),
            ..config()
        };
        let table = toml::Table::try_from(&full).unwrap();
        for (key, value) in &table {
            let mut changed = table.clone();
            changed[key] = match value {
                toml::Value::String(text) => format!("{text}x").into(),
                toml::Value::Integer(number) => (number + 1).into(),
                toml::Value::Float(number) => (number + 1.0).into(),
                toml::Value::Boolean(truth) => (!truth).into(),
                other => panic!("{key} = {other}"),
            };
            let other: RunConfig = changed.try_into().unwrap();
            assert_eq!(full.difference(&other).map(|d| d.name), Some(key.as_str()));
        }
        assert_eq!(table.len(), 21);
    }
}
