//! Studies: grids, arms, figures and claims.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointwise_fuzz::{check_error, file, folder};
use pointwise_study::Study;

fuzz_target!(|input: &str| {
    file("small.toml", include_bytes!("../small.toml"));
    match Study::from_toml(input, folder()) {
        Ok(study) => assert!(!study.arms.is_empty()),
        Err(error) => check_error(&error),
    }
});
