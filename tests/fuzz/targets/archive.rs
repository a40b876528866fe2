//! The official archives, as if the authors had published these bytes: a tar, gzipped here (a checksum stops any change of gzipped bytes), or the
//! gzipped bytes themselves.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointwise_data::fuzzing;
use pointwise_fuzz::{check_file_error, file};

fuzz_target!(|input: &[u8]| {
    let packed = fuzzing::gzipped(input);
    let path = file("cifar-100-binary.tar.gz", &packed);
    match fuzzing::archive(&path) {
        Ok((train, test)) => {
            assert!(train.len() > 0 && test.len() > 0);
            assert!(train.labels().iter().all(|label| *label < 100));
        }
        Err(error) => check_file_error(&path, &error),
    }
});
