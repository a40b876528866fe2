//! The vendor's name of a device.

use pointwise_recipe::DeviceName;

/// The name of the GPU; `None` for the CPU.
#[must_use]
pub fn accelerator(device: DeviceName) -> Option<String> {
    match device {
        DeviceName::Cpu => None,
        #[cfg(feature = "cuda")]
        DeviceName::Cuda(ordinal) => {
            Some(crate::cuda::card_name(ordinal).unwrap_or_else(|_| device.to_string()))
        }
        #[cfg(not(feature = "cuda"))]
        DeviceName::Cuda(_) => Some(device.to_string()),
    }
}
