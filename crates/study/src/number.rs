//! Numbers from a file, with their ranges checked as they are read.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// A number with its count of decimals.
#[derive(Clone, Copy, JsonSchema)]
#[schemars(with = "NumberOrText")]
pub(crate) struct Decimal {
    pub(crate) value: f64,
    pub(crate) decimals: u32,
}

#[derive(JsonSchema)]
#[schemars(untagged, inline)]
#[expect(dead_code, reason = "the schema of a decimal")]
enum NumberOrText {
    Number(f64),
    Text(#[schemars(regex(pattern = "^[0-9]+([.][0-9]+)?$"))] String),
}

impl Decimal {
    /// The most decimals: more than an `f64` has.
    const MAX_DECIMALS: u32 = 20;

    fn new<E: Error>(value: f64, decimals: u32) -> Result<Self, E> {
        if decimals > Self::MAX_DECIMALS {
            let most = Self::MAX_DECIMALS;
            return Err(E::custom(format!("the number has {decimals} decimals; give at most {most}")));
        }
        Ok(Self { value, decimals })
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DecimalVisitor;

        impl Visitor<'_> for DecimalVisitor {
            type Value = Decimal;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Decimal, E> {
                if !value.is_finite() {
                    return Err(E::invalid_value(Unexpected::Float(value), &"a finite number"));
                }
                Decimal::new(value, decimals(value))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Decimal, E> {
                Ok(Decimal { value: value as f64, decimals: 0 })
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Decimal, E> {
                let (whole, behind) = text.split_once('.').unwrap_or((text, "0"));
                let is_digits =
                    |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
                let value = text.parse().ok().filter(|_| is_digits(whole) && is_digits(behind));
                let value = value.filter(|value: &f64| value.is_finite()).ok_or_else(|| {
                    E::custom("the text is not a number; write digits and a point, such as \"56.20\"")
                })?;
                Decimal::new(value, text.split_once('.').map_or(0, |(_, digits)| digits.len() as u32))
            }
        }

        deserializer.deserialize_any(DecimalVisitor)
    }
}

/// Decimals of the shortest text for this number.
pub(crate) fn decimals(value: f64) -> u32 {
    value.to_string().split_once('.').map_or(0, |(_, digits)| digits.len() as u32)
}

/// An error unless a number is in its range.
fn held<E: Error>(value: f64, is_good: bool, wanted: &str) -> Result<f64, E> {
    if is_good { Ok(value) } else { Err(E::invalid_value(Unexpected::Float(value), &wanted)) }
}

pub(crate) fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    held(value, value.is_finite() && value > 0.0, "a number above 0")
}

pub(crate) fn maybe_positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    positive(deserializer).map(Some)
}

pub(crate) fn maybe_not_negative<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<f64>, D::Error> {
    let value = f64::deserialize(deserializer)?;
    held(value, value.is_finite() && value >= 0.0, "a number from 0").map(Some)
}

pub(crate) fn maybe_finite<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let value = f64::deserialize(deserializer)?;
    held(value, value.is_finite(), "a finite number").map(Some)
}

/// A probability of dropout.
pub(crate) fn maybe_dropout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let value = f64::deserialize(deserializer)?;
    held(value, (0.0..1.0).contains(&value), "a number from 0 to below 1").map(Some)
}

/// A number of epochs or images.
pub(crate) fn maybe_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let value = u32::deserialize(deserializer)?;
    if value == 0 {
        return Err(D::Error::invalid_value(Unexpected::Unsigned(0), &"a whole number from 1"));
    }
    Ok(Some(value))
}

pub(crate) fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    maybe_count(deserializer).map(Option::unwrap_or_default)
}

/// Percent.
pub(crate) fn accuracies<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    struct Accuracy(f64);

    impl<'de> Deserialize<'de> for Accuracy {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let value = f64::deserialize(deserializer)?;
            held(value, (0.0..=100.0).contains(&value), "an accuracy from 0 to 100").map(Self)
        }
    }

    let values = Vec::<Accuracy>::deserialize(deserializer)?;
    Ok(values.into_iter().map(|Accuracy(value)| value).collect())
}

/// Nats.
pub(crate) fn losses<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    struct Loss(f64);

    impl<'de> Deserialize<'de> for Loss {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let value = f64::deserialize(deserializer)?;
            held(value, value.is_finite() && value >= 0.0, "a loss from 0").map(Self)
        }
    }

    let values = Vec::<Loss>::deserialize(deserializer)?;
    Ok(values.into_iter().map(|Loss(value)| value).collect())
}
