//! Two numbers in a file: serde's own arrays would ignore any that follow.

use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// Reads two numbers.
pub(crate) fn pair<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[f64; 2], D::Error> {
    Pair::deserialize(deserializer).map(|Pair(pair)| pair)
}

/// Reads a list of pairs of numbers.
pub(crate) fn pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<[f64; 2]>, D::Error> {
    let pairs = Vec::<Pair>::deserialize(deserializer)?;
    Ok(pairs.into_iter().map(|Pair(pair)| pair).collect())
}

struct Pair([f64; 2]);

impl<'de> Deserialize<'de> for Pair {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let values = Vec::<f64>::deserialize(deserializer)?;
        <[f64; 2]>::try_from(values).map(Self).map_err(|values| {
            D::Error::custom(format!("an array of length {}; give two numbers", values.len()))
        })
    }
}
