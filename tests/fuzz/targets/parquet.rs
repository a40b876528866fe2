//! Parquet files with the images of CIFAR-10. The crate parquet panics on some; that is an error of the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointwise_data::fuzzing;
use pointwise_fuzz::{check_file_error, file};

fuzz_target!(|input: &[u8]| {
    let path = file("0000.parquet", input);
    match fuzzing::parquet(&path) {
        Ok((pixels, labels)) => {
            assert_eq!(pixels.len(), labels.len() * 3072);
            assert!(labels.iter().all(|label| *label < 10));
        }
        Err(error) => check_file_error(&path, &error),
    }
});
