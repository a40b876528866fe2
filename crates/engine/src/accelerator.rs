//! What a device is called by its maker.

use crate::device::DeviceName;

impl DeviceName {
    /// The name of the card; `None` of the processor.
    #[must_use]
    pub fn accelerator(self) -> Option<String> {
        match self {
            Self::Cpu => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(ordinal) => Some(crate::cuda::card_name(ordinal).unwrap_or_else(|_| self.to_string())),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => Some(self.to_string()),
        }
    }
}
