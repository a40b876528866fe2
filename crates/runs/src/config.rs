use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, error::MAX_THREADS};

/// The resolved configuration of a run: everything that decides its numbers, and how it is recorded.
///
/// Written as `config.toml` with kebab-case keys; an unknown key is an error, an absent option is left out.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RunConfig {
    /// The network's name.
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
    /// Record every so many steps, from 1.
    pub log_every: u32,
    /// Seconds between checkpoints within an epoch; absent means at the end of an epoch only. Does not decide numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<u64>,
    /// The description of the network as TOML, where it is not the one that the program ships under the name `model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
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
    /// The most passes over the training images.
    pub const MAX_EPOCHS: u32 = 1_000_000;
    /// The most images in a batch.
    pub const MAX_BATCH_SIZE: u32 = 65_536;
    /// The most computing threads.
    pub const MAX_THREADS: u32 = MAX_THREADS;
    /// The largest integer of TOML.
    pub const MAX_SEED: u64 = i64::MAX as u64;
    /// What `engine` may be.
    pub const ENGINES: [&'static str; 3] = ["reference", "cpu", "cuda"];
    /// What `precision` may be.
    pub const PRECISIONS: [&'static str; 3] = ["f32", "tf32", "bf16"];
    /// What `data` may be.
    pub const DATA: [&'static str; 3] = ["cifar10", "synthetic", "huggingface"];
    /// What `augment` may be.
    pub const AUGMENT: [&'static str; 2] = ["crop-flip", "none"];

    /// What decides the record of a run, in the order of the file: each key with its value as text, where it has one.
    ///
    /// What does not decide it is left out: `threads`, `checkpoint-every`, `data-dir`, and the path `init` (`init-sha256` counts).
    #[must_use]
    pub fn deciding(&self) -> [(&'static str, Option<String>); 22] {
        // Taken apart by name, so that a new field does not compile until it is listed or ignored here.
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
            network,
        } = self;
        fn text(value: &impl fmt::Display) -> Option<String> {
            Some(value.to_string())
        }
        [
            ("model", text(model)),
            ("engine", text(engine)),
            ("device", text(device)),
            ("precision", text(precision)),
            ("deterministic", text(deterministic)),
            ("data", text(data)),
            ("data-seed", text(data_seed)),
            ("epochs", text(epochs)),
            ("batch-size", text(batch_size)),
            ("lr", text(lr)),
            ("weight-decay", text(weight_decay)),
            ("dropout", text(dropout)),
            ("seed", text(seed)),
            ("val-split", text(val_split)),
            ("augment", text(augment)),
            ("shuffle", text(shuffle)),
            ("init-sha256", init_sha256.clone()),
            ("limit-train", limit_train.as_ref().and_then(text)),
            ("limit-test", limit_test.as_ref().and_then(text)),
            ("max-steps", max_steps.as_ref().and_then(text)),
            ("log-every", text(log_every)),
            ("network", network.clone()),
        ]
    }

    /// The first field of [`RunConfig::deciding`] in which two configurations of what should be the same run differ.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<Difference> {
        let or_none = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
        self.deciding().into_iter().zip(other.deciding()).find_map(|((name, ours), (_, theirs))| {
            (ours != theirs).then(|| Difference { name, ours: or_none(ours), theirs: or_none(theirs) })
        })
    }

    /// Holds every value to the bounds of its option.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key, in the order of the file, whose value is outside of them.
    pub fn check(&self) -> Result<()> {
        fn whole<T: PartialOrd + fmt::Display>(value: T, least: T, most: T) -> Option<String> {
            let wrong = value < least || value > most;
            wrong.then(|| format!("{value}, not a whole number from {least} to {most}"))
        }
        fn number(value: f64, wanted: &str, is_good: bool) -> Option<String> {
            (!is_good).then(|| format!("{value}, not {wanted}"))
        }
        fn name(value: &str, known: &[&str]) -> Option<String> {
            (!known.contains(&value)).then(|| format!("{value:?}, not one of {}", known.join(", ")))
        }
        let ordinal = self.device.strip_prefix("cuda:").map(str::parse::<u32>);
        let is_device = self.device == "cpu" || matches!(ordinal, Some(Ok(_)));
        let is_sha256 = |text: &String| {
            text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let hash = self.init_sha256.as_ref().filter(|text| !is_sha256(text));
        let (lr, decay, dropout) = (self.lr, self.weight_decay, self.dropout);
        let wrong = [
            ("engine", name(&self.engine, &Self::ENGINES)),
            ("device", (!is_device).then(|| format!("{:?}, not cpu or cuda:N", self.device))),
            ("precision", name(&self.precision, &Self::PRECISIONS)),
            ("data", name(&self.data, &Self::DATA)),
            ("data-seed", whole(self.data_seed, 0, Self::MAX_SEED)),
            ("epochs", whole(self.epochs, 1, Self::MAX_EPOCHS)),
            ("batch-size", whole(self.batch_size, 1, Self::MAX_BATCH_SIZE)),
            ("lr", number(lr, "a number above 0", lr > 0.0 && lr.is_finite())),
            ("weight-decay", number(decay, "a number from 0 up", decay >= 0.0 && decay.is_finite())),
            ("dropout", number(dropout, "a number from 0 to below 1", (0.0..1.0).contains(&dropout))),
            ("seed", whole(self.seed, 0, Self::MAX_SEED)),
            ("augment", name(&self.augment, &Self::AUGMENT)),
            ("init-sha256", hash.map(|text| format!("{text:?}, not a SHA-256 of 64 digits"))),
            ("limit-train", self.limit_train.and_then(|limit| whole(limit, 1, u32::MAX))),
            ("limit-test", self.limit_test.and_then(|limit| whole(limit, 1, u32::MAX))),
            ("max-steps", self.max_steps.and_then(|limit| whole(limit, 1, Self::MAX_SEED))),
            ("threads", self.threads.and_then(|threads| whole(threads, 1, Self::MAX_THREADS))),
            ("log-every", whole(self.log_every, 1, u32::MAX)),
        ];
        match wrong.into_iter().find_map(|(key, wrong)| Some((key, wrong?))) {
            Some((key, wrong)) => Err(Error::Config { cause: format!("{key} is {wrong}") }),
            None => Ok(()),
        }
    }

    /// The text of `config.toml`.
    ///
    /// # Errors
    /// As [`RunConfig::check`]: what is written is read back.
    pub fn to_toml(&self) -> Result<String> {
        self.check()?;
        toml::to_string_pretty(self).map_err(|error| Error::Config { cause: error.to_string() })
    }

    /// Reads the text of a `config.toml`.
    ///
    /// # Errors
    /// [`Error::Config`] if it is not TOML, lacks a key, has an unknown one, or one whose value [`RunConfig::check`] refuses.
    pub fn from_toml(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let message = error.message().replace('\n', " ");
            // The parser's message names no key; the line does, unless it is the first of a whole file.
            let cause = match error.span() {
                Some(span) => {
                    let number = text[..span.start].matches('\n').count() + 1;
                    let line = text.lines().nth(number - 1).unwrap_or_default().trim();
                    let is_whole = line.is_empty() || text[span].contains('\n');
                    let shown = if is_whole { String::new() } else { format!(", `{line}`") };
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
            network: None,
        }
    }

    #[test]
    fn a_configuration_survives_toml() {
        let full = RunConfig {
            data_dir: Some("somewhere".into()),
            init: Some("start.safetensors".into()),
            init_sha256: Some("ab".repeat(32)),
            limit_train: Some(504),
            limit_test: Some(252),
            max_steps: Some(7),
            threads: Some(2),
            checkpoint_every: Some(60),
            network: Some("name = \"mine\"\nlayers = [\n    'ReLU',\n]\n".to_owned()),
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
    fn values_that_no_option_takes_are_refused_with_their_key() {
        let text = config().to_toml().unwrap();
        for (line, changed, named) in [
            ("batch-size = 126", "batch-size = 0", "batch-size is 0, not a whole number from 1 to 65536"),
            ("batch-size = 126", "batch-size = 65537", "batch-size is 65537"),
            ("batch-size = 126", "batch-size = -1", "line 9, `batch-size = -1`: "),
            ("batch-size = 126", "batch-size = \"126\"", "line 9, `batch-size = \"126\"`: "),
            (
                "epochs = 10",
                "epochs = 4294967295",
                "epochs is 4294967295, not a whole number from 1 to 1000000",
            ),
            ("epochs = 10", "epochs = 99999999999999999999", "line 8, `epochs = 99999999999999999999`: "),
            ("epochs = 10", "epochs = 2.5", "`epochs = 2.5`"),
            ("lr = 0.001", "lr = nan", "lr is NaN, not a number above 0"),
            ("lr = 0.001", "lr = 0.0", "lr is 0, not a number above 0"),
            ("lr = 0.001", "lr = inf", "lr is inf"),
            ("weight-decay = 0.0005", "weight-decay = -1.0", "weight-decay is -1, not a number from 0 up"),
            ("dropout = 0.5", "dropout = 1.0", "dropout is 1, not a number from 0 to below 1"),
            (
                "augment = \"crop-flip\"",
                "augment = \"flip\"",
                "augment is \"flip\", not one of crop-flip, none",
            ),
            (
                "data = \"cifar10\"",
                "data = \"mnist\"",
                "data is \"mnist\", not one of cifar10, synthetic, huggingface",
            ),
            (
                "engine = \"cpu\"",
                "engine = \"torch\"",
                "engine is \"torch\", not one of reference, cpu, cuda",
            ),
            ("device = \"cpu\"", "device = \"auto\"", "device is \"auto\", not cpu or cuda:N"),
            (
                "precision = \"f32\"",
                "precision = \"f16\"",
                "precision is \"f16\", not one of f32, tf32, bf16",
            ),
            ("shuffle = true", "shuffle = 1", "`shuffle = 1`"),
            ("log-every = 50", "log-every = 0", "log-every is 0"),
            (
                "log-every = 50",
                "log-every = 50\nthreads = 0",
                "threads is 0, not a whole number from 1 to 1024",
            ),
            ("log-every = 50", "log-every = 50\nlimit-train = 0", "limit-train is 0"),
            ("log-every = 50", "log-every = 50\nmax-steps = 0", "max-steps is 0"),
            ("log-every = 50", "log-every = 50\ninit-sha256 = \"x\"", "init-sha256 is \"x\""),
        ] {
            let changed_text = text.replace(line, changed);
            assert_ne!(text, changed_text, "{line}");
            let message = RunConfig::from_toml(&changed_text).unwrap_err().to_string();
            assert!(message.contains(named) && !message.contains('\n'), "{changed}: {message}");
        }
        // Nor is such a file written.
        assert!(RunConfig { epochs: 0, ..config() }.to_toml().is_err());
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
            init_sha256: Some("ab".repeat(32)),
            limit_train: Some(504),
            limit_test: Some(252),
            max_steps: Some(7),
            network: Some("name = \"mine\"".to_owned()),
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
        assert_eq!(table.len(), 22);
    }
}
