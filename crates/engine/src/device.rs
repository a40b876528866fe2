//! The devices that a user can choose, by name.

use crate::codes::explained;
use crate::error::EngineError;
use crate::error::message;
use candle_core::Device;
use pointwise_recipe::DeviceName;
use std::str::FromStr;

/// The user's choice of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if one can be used, else the CPU.
    Auto,
    /// This device and no other.
    Only(DeviceName),
}

impl FromStr for DeviceChoice {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self, EngineError> {
        match name {
            "auto" => Ok(Self::Auto),
            "cuda" => Ok(Self::Only(DeviceName::Cuda(0))),
            _ => name.parse().map(Self::Only).map_err(|_| EngineError::UnknownDevice(name.to_owned())),
        }
    }
}

impl DeviceChoice {
    /// The device to use; an error when it was requested by name and cannot be used.
    ///
    /// # Errors
    /// [`EngineError::DeviceUnavailable`].
    pub fn resolve(self) -> Result<DeviceName, EngineError> {
        match self {
            Self::Auto => Ok(match look_for(DeviceName::Cuda(0)) {
                Ok(()) => DeviceName::Cuda(0),
                Err(_) => DeviceName::Cpu,
            }),
            Self::Only(name) => look_for(name).map(|()| name),
        }
    }
}

/// Checks that a device can be used: that NVIDIA's driver has that GPU and the libraries are installed. It opens nothing, because that
/// takes seconds.
fn look_for(name: DeviceName) -> Result<(), EngineError> {
    let found = match name {
        DeviceName::Cpu => return Ok(()),
        #[cfg(feature = "cuda")]
        DeviceName::Cuda(ordinal) => crate::cuda::look_for(ordinal),
        #[cfg(not(feature = "cuda"))]
        DeviceName::Cuda(_) => Err(EngineError::Device(WITHOUT_CUDA.to_owned())),
    };
    found.map_err(|error| error.of_device(name))
}

const WITHOUT_CUDA: &str = "this build has no CUDA (it needs the feature `cuda`)";

/// candle's device of that name.
///
/// # Errors
/// [`EngineError::DeviceUnavailable`].
pub(crate) fn open(name: DeviceName) -> Result<Device, EngineError> {
    match name {
        DeviceName::Cpu => Ok(Device::Cpu),
        DeviceName::Cuda(ordinal) => Device::new_cuda(ordinal).map_err(|error| {
            let reason =
                if cfg!(feature = "cuda") { explained(&message(&error)) } else { WITHOUT_CUDA.to_owned() };
            EngineError::DeviceUnavailable { device: name.to_string(), reason }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accelerator;

    #[cfg(feature = "cuda")]
    #[test]
    fn without_a_gpu_auto_is_the_cpu_and_the_reason_is_a_sentence() {
        match open(DeviceName::Cuda(0)) {
            Ok(_) => eprintln!("skipped: this machine has a GPU"),
            Err(error) => {
                let error = error.to_string();
                assert!(crate::codes::CODES.iter().any(|(_, meaning)| error.contains(meaning)), "{error}");
                assert_eq!(DeviceChoice::Auto.resolve().unwrap(), DeviceName::Cpu);
            }
        }
    }

    #[test]
    fn only_a_gpu_is_an_accelerator() {
        assert_eq!(accelerator(DeviceName::Cpu), None);
        // With a driver, the GPU has a name.
        assert!(accelerator(DeviceName::Cuda(0)).is_some_and(|name| !name.is_empty()));
    }

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
