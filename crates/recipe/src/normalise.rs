use crate::RecipeError;
use crate::error::{listed, shown};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// Normalisation of a pixel's value `v` in `[0, 1]` in each channel: `(v - mean) / std`.
///
/// In a file `"dataset"`, `"measured"`, or a table such as `{ mean = [0.5, 0.5, 0.5], std = [0.5, 0.5, 0.5] }`; `mean = [0]`
/// and `std = [1]` leave values as they are. One value stands for all channels.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Normalise {
    /// The usual figures of the data set; measured where there are none.
    #[default]
    Dataset,
    /// Mean and standard deviation of the images that are trained on.
    Measured,
    /// These.
    Given {
        /// Of each channel, or one for all.
        mean: Vec<f32>,
        /// Of each channel, or one for all; above 0.
        std: Vec<f32>,
    },
}

/// The table in a file.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Table {
    /// Of each channel, or one for all.
    #[schemars(extend("anyOf" = [{ "minItems": 1, "maxItems": 1 }, { "minItems": 3, "maxItems": 3 }]))]
    mean: Vec<f32>,
    /// Of each channel, or one for all; above 0.
    #[schemars(extend("items" = { "type": "number", "exclusiveMinimum": 0 }))]
    #[schemars(extend("anyOf" = [{ "minItems": 1, "maxItems": 1 }, { "minItems": 3, "maxItems": 3 }]))]
    std: Vec<f32>,
}

impl Normalise {
    pub(crate) fn check(&self) -> Result<(), RecipeError> {
        let Self::Given { mean, std } = self else { return Ok(()) };
        let is_mean = matches!(mean.len(), 1 | 3) && mean.iter().all(|value| value.is_finite());
        RecipeError::unless(
            is_mean,
            "normalise.mean",
            &listed(mean),
            "one number, or one for each of three channels",
        )?;
        let is_std = matches!(std.len(), 1 | 3) && std.iter().all(|value| value.is_finite() && *value > 0.0);
        RecipeError::unless(
            is_std,
            "normalise.std",
            &listed(std),
            "one number above 0, or one for each of three channels",
        )
    }
}

impl Serialize for Normalise {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Dataset => serializer.serialize_str("dataset"),
            Self::Measured => serializer.serialize_str("measured"),
            Self::Given { mean, std } => Table { mean: mean.clone(), std: std.clone() }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Normalise {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NormaliseVisitor;

        impl<'de> Visitor<'de> for NormaliseVisitor {
            type Value = Normalise;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("dataset, measured, or a table such as { mean = [0.5], std = [0.5] }")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Normalise, E> {
                match name {
                    "dataset" => Ok(Normalise::Dataset),
                    "measured" => Ok(Normalise::Measured),
                    _ => {
                        let shown = shown(name);
                        Err(E::custom(format!(
                            "there is no normalisation `{shown}`; give dataset, measured, or a table such as {{ mean = [0.5], std = [0.5] }}"
                        )))
                    }
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Normalise, A::Error> {
                let Table { mean, std } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Normalise::Given { mean, std })
            }
        }

        deserializer.deserialize_any(NormaliseVisitor)
    }
}

impl JsonSchema for Normalise {
    fn schema_name() -> Cow<'static, str> {
        "Normalise".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = Table::json_schema(generator);
        json_schema!({
            "description": "What is subtracted from pixels in [0, 1], and what they are divided by",
            "anyOf": [{ "enum": ["dataset", "measured"] }, table],
        })
    }
}
