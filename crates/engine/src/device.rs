//! Names of devices, and the devices behind them.

use crate::EngineError;
use crate::error::message;
use candle_core::Device;
use std::fmt;
use std::str::FromStr;

/// What a user may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if there is one that can be used, else the CPU.
    Auto,
    /// This device and no other.
    Only(DeviceName),
}

/// A device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    /// The processor.
    Cpu,
    /// The NVIDIA GPU of this number, from 0.
    Cuda(usize),
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self, EngineError> {
        let ordinal = match name {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Only(DeviceName::Cpu)),
            "cuda" => Some(0),
            _ => name.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok()),
        };
        match ordinal {
            Some(ordinal) => Ok(Self::Only(DeviceName::Cuda(ordinal))),
            None => Err(EngineError::UnknownDevice(name.to_owned())),
        }
    }
}

impl DeviceChoice {
    /// The device to use; says so with an error when it was asked for by name and cannot be used.
    ///
    /// # Errors
    /// [`EngineError::DeviceUnavailable`].
    pub fn resolve(self) -> Result<DeviceName, EngineError> {
        match self {
            Self::Auto => Ok(match DeviceName::Cuda(0).open() {
                Ok(_) => DeviceName::Cuda(0),
                Err(_) => DeviceName::Cpu,
            }),
            Self::Only(name) => name.open().map(|_| name),
        }
    }
}

impl DeviceName {
    /// candle's device of that name.
    ///
    /// # Errors
    /// [`EngineError::DeviceUnavailable`].
    pub(crate) fn open(self) -> Result<Device, EngineError> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(ordinal) => Device::new_cuda(ordinal).map_err(|error| {
                let reason = if cfg!(feature = "cuda") {
                    message(&error)
                } else {
                    "this build has no CUDA (it needs the feature `cuda`)".to_owned()
                };
                EngineError::DeviceUnavailable { device: self.to_string(), reason }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices() {
        let cuda = |ordinal| DeviceChoice::Only(DeviceName::Cuda(ordinal));
        for (name, expected) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Only(DeviceName::Cpu)),
            ("cuda", cuda(0)),
            ("cuda:3", cuda(3)),
        ] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap(), expected);
        }
        for name in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0"] {
            assert!(name.parse::<DeviceChoice>().is_err(), "{name}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_cuda_auto_is_the_cpu_and_a_gpu_is_refused_in_a_sentence() {
        assert_eq!(DeviceChoice::Auto.resolve().unwrap(), DeviceName::Cpu);
        let error = DeviceChoice::Only(DeviceName::Cuda(1)).resolve().unwrap_err().to_string();
        assert_eq!(
            error,
            "the device cuda:1 cannot be used: this build has no CUDA (it needs the feature `cuda`); use `--device cpu`"
        );
    }
}
