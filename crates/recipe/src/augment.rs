use crate::RecipeError;
use crate::error::shown;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// Augmentation of training images.
///
/// In a file `"none"`, `"crop-flip"`, or a table such as `{ crop = 4, flip = "random", cutout = 8 }`, in which a key left out means no such
/// augmentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Augment {
    /// Pixels added on each side before a random crop of the image's size; 0 for no crop.
    pub crop: u32,
    /// What the added pixels are.
    pub padding_mode: PaddingMode,
    /// Whether images are flipped horizontally.
    pub flip: Flip,
    /// Side in pixels of a square around a random pixel that is set to the mean, which is 0 once normalised (DeVries and Taylor 2017);
    /// parts of it outside of the image are cut off. 0 for none.
    pub cutout: u32,
}

/// The pixels around an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PaddingMode {
    /// Black, before normalisation (`torchvision.transforms.RandomCrop(padding_mode="constant")`).
    #[default]
    Zeros,
    /// The image, mirrored at its outermost pixels, which are not repeated (`padding_mode="reflect"`).
    Reflect,
}

/// Horizontal flips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Flip {
    /// Never.
    #[default]
    None,
    /// In every epoch with probability 1/2.
    Random,
    /// With probability 1/2 in the first epoch, then alternately flipped and not, so that both sides are seen equally often (Jordan 2024).
    Alternating,
}

/// The table in a file.
#[derive(Serialize, Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, default)]
struct Table {
    /// Pixels added on each side before a random crop of the image's size; 0 for no crop.
    #[schemars(range(max = Augment::MOST))]
    crop: u32,
    padding_mode: PaddingMode,
    flip: Flip,
    /// Side in pixels of a square around a random pixel that is set to the mean; 0 for none.
    #[schemars(range(max = Augment::MOST))]
    cutout: u32,
}

impl Augment {
    /// No augmentation.
    pub const NONE: Self = Self { crop: 0, padding_mode: PaddingMode::Zeros, flip: Flip::None, cutout: 0 };
    /// A random crop after 4 black pixels on each side, then a flip with probability 1/2.
    pub const CROP_FLIP: Self = Self { crop: 4, flip: Flip::Random, ..Self::NONE };

    const NAMES: [(&'static str, Self); 2] = [("crop-flip", Self::CROP_FLIP), ("none", Self::NONE)];
    /// More pixels than any image has.
    const MOST: u32 = 4096;

    pub(crate) fn check(&self) -> Result<(), RecipeError> {
        let wanted = format!("a whole number from 0 to {}", Self::MOST);
        for (key, value) in [("augment.crop", self.crop), ("augment.cutout", self.cutout)] {
            RecipeError::unless(value <= Self::MOST, key, &value, &wanted)?;
        }
        Ok(())
    }
}

impl Serialize for Augment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match Self::NAMES.iter().find(|(_, named)| named == self) {
            Some((name, _)) => serializer.serialize_str(name),
            None => {
                let Self { crop, padding_mode, flip, cutout } = *self;
                Table { crop, padding_mode, flip, cutout }.serialize(serializer)
            }
        }
    }
}

impl<'de> Deserialize<'de> for Augment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AugmentVisitor;

        impl<'de> Visitor<'de> for AugmentVisitor {
            type Value = Augment;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("crop-flip, none, or a table such as { crop = 4, flip = \"random\" }")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Augment, E> {
                let found = Augment::NAMES.iter().find(|(known, _)| *known == name);
                found.map(|(_, named)| *named).ok_or_else(|| {
                    let shown = shown(name);
                    E::custom(format!(
                        "there is no augmentation `{shown}`; give crop-flip, none, or a table such as {{ crop = 4, flip = \"random\" }}"
                    ))
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Augment, A::Error> {
                let Table { crop, padding_mode, flip, cutout } =
                    Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Augment { crop, padding_mode, flip, cutout })
            }
        }

        deserializer.deserialize_any(AugmentVisitor)
    }
}

impl JsonSchema for Augment {
    fn schema_name() -> Cow<'static, str> {
        "Augment".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let names = Self::NAMES.map(|(name, _)| name);
        let table = Table::json_schema(generator);
        json_schema!({ "description": "Augmentation of training images", "anyOf": [{ "enum": names }, table] })
    }
}
