//! How precisely products are computed.

use crate::error::EngineError;
use std::fmt;
use std::str::FromStr;

/// The numbers of convolutions and linear layers. Parameters, their moments, BatchNorm's statistics and sums are `f32` or wider in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// IEEE single precision, on every device.
    #[default]
    F32,
    /// Single precision whose factors are rounded to 10 bits behind the point, on an NVIDIA GPU's tensor cores: PyTorch's default for
    /// convolutions there.
    Tf32,
    /// Maps, weights and their gradients of 16 bits, 7 behind the point, products summed in single precision.
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

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self, EngineError> {
        Self::ALL
            .into_iter()
            .find(|precision| precision.name() == name)
            .ok_or_else(|| EngineError::UnknownPrecision(name.to_owned()))
    }
}
