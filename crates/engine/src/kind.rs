//! The engines by name.

use std::fmt;
use std::str::FromStr;

/// The implementations of [`Engine`](crate::Engine).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// candle autograd; see [`reference`](mod@crate::reference).
    Reference,
    /// A compiled plan over own CPU kernels; see [`cpu`](crate::cpu).
    Cpu,
    /// A compiled plan on an NVIDIA GPU, in builds with the feature `cuda`.
    Cuda,
}

impl EngineKind {
    /// All kinds, in the order of [`EngineKind::name`]s shown to users.
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
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No engine has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no engine `{0}`; the engines are reference, cpu and cuda")]
pub struct UnknownEngine(String);

impl FromStr for EngineKind {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, UnknownEngine> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| UnknownEngine(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_names() {
        for kind in EngineKind::ALL {
            assert_eq!(kind.name().parse::<EngineKind>().unwrap(), kind);
        }
        assert!("torch".parse::<EngineKind>().is_err());
    }
}
