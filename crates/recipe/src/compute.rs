//! Engines, devices and precisions, by name.

use crate::RecipeError;
use crate::error::shown;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// The implementations of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// candle autograd, the reference for the others.
    Reference,
    /// A compiled plan over our own CPU kernels.
    Cpu,
    /// A compiled plan on an NVIDIA GPU, in builds with the feature `cuda`.
    Cuda,
}

impl EngineKind {
    /// All kinds, in the order in which they are listed.
    pub const ALL: [Self; 3] = [Self::Reference, Self::Cpu, Self::Cuda];

    /// The name on command lines and in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }

    /// The engine to use on a device if none is given: the fastest for that device.
    #[must_use]
    pub fn default_for(device: DeviceName) -> Self {
        match device {
            DeviceName::Cpu => Self::Cpu,
            DeviceName::Cuda(_) => Self::Cuda,
        }
    }
}

/// The number format of convolutions and linear layers. Parameters, the optimizer's state, BatchNorm's statistics and sums are `f32` or wider
/// with each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE single precision, on every device.
    #[default]
    F32,
    /// Single precision with factors rounded to 10 fraction bits, on an NVIDIA GPU's tensor cores: PyTorch's default for convolutions there.
    Tf32,
    /// Maps, weights and their gradients with 16 bits, 7 of them fraction bits; products are summed in single precision.
    Bf16,
}

impl Precision {
    /// All of them, the most precise first.
    pub const ALL: [Self; 3] = [Self::F32, Self::Tf32, Self::Bf16];

    /// The name on command lines and in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }
}

/// A device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor.
    Cpu,
    /// The NVIDIA GPU of this number, from 0.
    Cuda(usize),
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

fn unknown(what: &'static str, name: &str, known: &[&str]) -> RecipeError {
    RecipeError::Unknown { what, name: shown(name), known: known.join(", ") }
}

impl FromStr for EngineKind {
    type Err = RecipeError;

    fn from_str(name: &str) -> Result<Self, RecipeError> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| unknown("engine", name, &Self::ALL.map(Self::name)))
    }
}

impl FromStr for Precision {
    type Err = RecipeError;

    fn from_str(name: &str) -> Result<Self, RecipeError> {
        let found = Self::ALL.into_iter().find(|precision| precision.name() == name);
        found.ok_or_else(|| unknown("precision", name, &Self::ALL.map(Self::name)))
    }
}

impl FromStr for DeviceName {
    type Err = RecipeError;

    fn from_str(name: &str) -> Result<Self, RecipeError> {
        if name == "cpu" {
            return Ok(Self::Cpu);
        }
        let ordinal = name.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok());
        ordinal.map(Self::Cuda).ok_or_else(|| unknown("device", name, &["cpu", "cuda:N"]))
    }
}

impl Serialize for DeviceName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
