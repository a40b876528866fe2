//! Values of options that are more than a word or a number.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use pointwise_recipe::{DataKind, RecipeError};
use serde::de::DeserializeOwned;
use toml::de::ValueDeserializer;

/// What stands behind `=` in a TOML file: a table, an array, or a name, which needs no quotation marks here.
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
        DataKind::Synthetic => "drawn on the spot: no download",
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
