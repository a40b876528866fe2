//! The error codes of NVIDIA's libraries in words.

/// What error codes of NVIDIA's libraries mean to the user; candle's messages contain them by name.
pub(crate) const CODES: [(&str, &str); 8] = [
    // The code of the stand-ins that a build without CUDA links.
    ("CUDA_ERROR_STUB_LIBRARY", "NVIDIA's driver, libcuda.so.1, is not installed or cannot be loaded"),
    ("CUDA_ERROR_NO_DEVICE", "NVIDIA's driver finds no GPU"),
    ("CUDA_ERROR_INVALID_DEVICE", "there is no GPU with that number"),
    ("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "NVIDIA's driver and libcuda.so.1 have different versions"),
    ("CUDA_ERROR_OUT_OF_MEMORY", "the GPU has no memory left"),
    ("CUBLAS_STATUS_NOT_INITIALIZED", "cuBLAS is not installed or cannot be loaded"),
    ("CUDNN_STATUS_NOT_INITIALIZED", "cuDNN is not installed or cannot be loaded"),
    ("CURAND_STATUS_INITIALIZATION_FAILED", "cuRAND is not installed or cannot be loaded"),
];

/// What the message means if that is known, else the message.
pub(crate) fn explained(message: &str) -> String {
    let known = CODES.iter().find(|(code, _)| message.contains(code));
    known.map_or_else(|| message.to_owned(), |(code, meaning)| format!("{meaning} ({code})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_explained_and_other_messages_kept() {
        assert_eq!(
            explained("DriverError(CUDA_ERROR_NO_DEVICE, \"no CUDA-capable device is detected\")"),
            "NVIDIA's driver finds no GPU (CUDA_ERROR_NO_DEVICE)"
        );
        assert_eq!(explained("something else"), "something else");
    }
}
