use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// A size along rows and one along columns; in a file, one number stands for both: `3` or `[1, 7]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair(pub [usize; 2]);

impl From<usize> for Pair {
    fn from(both: usize) -> Self {
        Self([both; 2])
    }
}

impl From<[usize; 2]> for Pair {
    fn from(pair: [usize; 2]) -> Self {
        Self(pair)
    }
}

impl Pair {
    /// 1 and 1.
    pub const ONE: Self = Self([1, 1]);
    /// 0 and 0.
    pub const ZERO: Self = Self([0, 0]);

    /// The schema of a pair of sizes that cannot be 0.
    pub(super) fn positive(_: &mut SchemaGenerator) -> Schema {
        schema(1)
    }

    pub(super) fn one() -> Self {
        Self::ONE
    }

    pub(super) fn zero() -> Self {
        Self::ZERO
    }

    pub(super) fn is_one(&self) -> bool {
        *self == Self::ONE
    }

    pub(super) fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }
}

impl Serialize for Pair {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            [a, b] if a == b => serializer.serialize_u64(a as u64),
            pair => pair.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Pair {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairVisitor;

        impl<'de> Visitor<'de> for PairVisitor {
            type Value = Pair;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number from 0, or two as [rows, columns]")
            }

            fn visit_u64<E: Error>(self, both: u64) -> Result<Pair, E> {
                Ok(Pair([usize::try_from(both).unwrap_or(usize::MAX); 2]))
            }

            fn visit_i64<E: Error>(self, both: i64) -> Result<Pair, E> {
                match u64::try_from(both) {
                    Ok(both) => self.visit_u64(both),
                    Err(_) => Err(E::invalid_value(serde::de::Unexpected::Signed(both), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Pair, A::Error> {
                let mut next =
                    |index| values.next_element()?.ok_or_else(|| A::Error::invalid_length(index, &self));
                let pair = [next(0)?, next(1)?];
                match values.next_element::<usize>()? {
                    None => Ok(Pair(pair)),
                    Some(_) => Err(A::Error::invalid_length(3, &self)),
                }
            }
        }

        deserializer.deserialize_any(PairVisitor)
    }
}

impl JsonSchema for Pair {
    fn schema_name() -> Cow<'static, str> {
        "Pair".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schema(0)
    }
}

fn schema(minimum: usize) -> Schema {
    let number = json_schema!({ "type": "integer", "minimum": minimum, "maximum": crate::limits::MAX_SIZE });
    json_schema!({
        "description": "One number for rows and columns, or [rows, columns]",
        "anyOf": [number, { "type": "array", "items": number, "minItems": 2, "maxItems": 2 }],
    })
}
