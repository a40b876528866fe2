//! What a device is called by its maker.

use pointwise_recipe::DeviceName;

/// The name of the card; `None` of the processor.
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
