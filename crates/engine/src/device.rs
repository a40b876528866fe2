//! What a user may ask for, and the devices behind the names.

use crate::error::EngineError;
use crate::error::message;
use candle_core::Device;
use pointwise_recipe::DeviceName;
use std::str::FromStr;

/// What a user may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if there is one that can be used, else the CPU.
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
    /// The device to use; says so with an error when it was asked for by name and cannot be used.
    ///
    /// # Errors
    /// [`EngineError::DeviceUnavailable`].
    pub fn resolve(self) -> Result<DeviceName, EngineError> {
        match self {
            Self::Auto => Ok(match open(DeviceName::Cuda(0)) {
                Ok(_) => DeviceName::Cuda(0),
                Err(_) => DeviceName::Cpu,
            }),
            Self::Only(name) => open(name).map(|_| name),
        }
    }
}

/// candle's device of that name.
///
/// # Errors
/// [`EngineError::DeviceUnavailable`].
pub(crate) fn open(name: DeviceName) -> Result<Device, EngineError> {
    match name {
        DeviceName::Cpu => Ok(Device::Cpu),
        DeviceName::Cuda(ordinal) => Device::new_cuda(ordinal).map_err(|error| {
            let reason = if cfg!(feature = "cuda") {
                explained(&message(&error))
            } else {
                "this build has no CUDA (it needs the feature `cuda`)".to_owned()
            };
            EngineError::DeviceUnavailable { device: name.to_string(), reason }
        }),
    }
}

/// What codes of NVIDIA's libraries mean to the user of this program; candle passes them on by name, inside its message.
const CODES: [(&str, &str); 8] = [
    // The code of the stand-ins that a build without CUDA links.
    ("CUDA_ERROR_STUB_LIBRARY", "NVIDIA's driver, libcuda.so.1, is not installed or cannot be loaded"),
    ("CUDA_ERROR_NO_DEVICE", "NVIDIA's driver finds no GPU"),
    ("CUDA_ERROR_INVALID_DEVICE", "there is no GPU of that number"),
    ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "NVIDIA's driver and libcuda.so.1 are of different versions"),
    ("CUDA_ERROR_OUT_OF_MEMORY", "the GPU has no memory left"),
    ("CUBLAS_STATUS_NOT_INITIALIZED", "cuBLAS is not installed or cannot be loaded"),
    ("CUDNN_STATUS_NOT_INITIALIZED", "cuDNN is not installed or cannot be loaded"),
    ("CURAND_STATUS_INITIALIZATION_FAILED", "cuRAND is not installed or cannot be loaded"),
];

/// The message, or what it means where that is known.
pub(crate) fn explained(message: &str) -> String {
    let known = CODES.iter().find(|(code, _)| message.contains(code));
    known.map_or_else(|| message.to_owned(), |(code, meaning)| format!("{meaning} ({code})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accelerator;

    #[test]
    fn codes_are_explained_and_other_messages_kept() {
        assert_eq!(
            explained("DriverError(CUDA_ERROR_NO_DEVICE, \"no CUDA-capable device is detected\")"),
            "NVIDIA's driver finds no GPU (CUDA_ERROR_NO_DEVICE)"
        );
        assert_eq!(explained("something else"), "something else");
    }

    #[cfg(feature = "cuda")]
    #[test]
    fn without_a_gpu_auto_is_the_cpu_and_the_reason_is_a_sentence() {
        match open(DeviceName::Cuda(0)) {
            Ok(_) => eprintln!("skipped: this machine has a GPU"),
            Err(error) => {
                let error = error.to_string();
                assert!(CODES.iter().any(|(_, meaning)| error.contains(meaning)), "{error}");
                assert_eq!(DeviceChoice::Auto.resolve().unwrap(), DeviceName::Cpu);
            }
        }
    }

    #[test]
    fn only_a_gpu_is_an_accelerator() {
        assert_eq!(accelerator(DeviceName::Cpu), None);
        // With a driver it has a name of its own.
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
