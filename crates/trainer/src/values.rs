//! Values of options that are more than a word or a number.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use pointwise_engine::DeviceChoice;
use pointwise_process::List;
use pointwise_recipe::{DataKind, RecipeError};
use pointwise_runs::RunConfig;
use pointwise_study::Study;
use serde::de::DeserializeOwned;
use toml::de::ValueDeserializer;

/// A value as after `=` in a TOML file: a table, an array, or a name, which needs no quotation marks here.
///
/// # Errors
/// What is wrong with it, on one line.
pub(crate) fn table<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let is_name = text.starts_with(char::is_alphabetic);
    let value = if is_name { toml::Value::from(text).to_string() } else { text.to_owned() };
    let parsed = ValueDeserializer::parse(&value).and_then(T::deserialize);
    parsed.map_err(|error| match RecipeError::syntax(&value, &error) {
        RecipeError::Syntax { message, .. } => message,
        other => other.to_string(),
    })
}

/// The data sets by name.
pub(crate) fn data_kind() -> impl TypedValueParser<Value = DataKind> {
    let about = |kind| match kind {
        DataKind::Cifar10 => "CIFAR-10 from a folder, or downloaded once",
        DataKind::Cifar100 => "CIFAR-100 with its 100 fine labels",
        DataKind::Cifar100Coarse => "CIFAR-100 with its 20 coarse labels",
        DataKind::Mnist => "MNIST: 28x28 grey digits",
        DataKind::FashionMnist => "Fashion-MNIST: 28x28 grey clothes",
        DataKind::Folder => "a folder of images for each class, in train/ and test/ of --data-dir",
        DataKind::Synthetic => "generated on the spot: no download",
        DataKind::Huggingface => {
            "CIFAR-10 from the Hugging Face Hub (needs a build with the feature `huggingface`)"
        }
    };
    let values = DataKind::ALL.map(|kind| PossibleValue::new(kind.name()).help(about(kind)));
    PossibleValuesParser::new(values).try_map(|name| {
        let kind = DataKind::ALL.into_iter().find(|kind| kind.name() == name);
        kind.ok_or("no data set has this name")
    })
}

/// A study by its name, or by the file that describes it.
///
/// # Errors
/// Why the text names no study, in a sentence.
pub(crate) fn parse_study(text: &str) -> Result<Study, String> {
    Study::find(text).map_err(|error| error.to_string())
}

/// Seeds, separated by commas.
///
/// # Errors
/// Which one is not a seed.
pub(crate) fn seeds(text: &str) -> Result<List<u64>, String> {
    List::parse(text, |part| {
        part.parse().ok().filter(|seed| *seed <= RunConfig::MAX_SEED).ok_or_else(|| {
            format!("`{part}` is not a seed, a whole number from 0 to {}", RunConfig::MAX_SEED)
        })
    })
}

/// A device as typed, to be passed on.
///
/// # Errors
/// Why the text names no device.
pub(crate) fn device(text: &str) -> Result<String, String> {
    let choice: Result<DeviceChoice, _> = text.parse();
    choice.map(|_| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_checked() {
        assert_eq!(seeds("42, 43"), Ok(List(vec![42, 43])));
        assert_eq!(seeds("9223372036854775807"), Ok(List(vec![RunConfig::MAX_SEED])));
        for (text, says) in [
            ("", "`` is not a seed"),
            ("1,", "`` is not a seed"),
            ("1,1", "1 is given twice"),
            ("-1", "`-1` is not"),
            ("1,9223372036854775808", "`9223372036854775808` is not a seed"),
            ("99999999999999999999", "from 0 to 9223372036854775807"),
        ] {
            let error = seeds(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
