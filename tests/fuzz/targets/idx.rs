//! Files of MNIST, gzipped or not: the first byte says which of the four it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointwise_data::fuzzing;
use pointwise_fuzz::{check_file_error, file};

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else { return };
    let number = usize::from(*first) % 4;
    let contents = if first & 0x80 == 0 { rest.to_vec() } else { fuzzing::gzipped(rest) };
    let path = file("idx", &contents);
    match fuzzing::idx(number, &path) {
        Ok(values) if number % 2 == 0 => assert!(values.len() % 784 == 0 && !values.is_empty()),
        Ok(values) => assert!(values.iter().all(|label| *label < 10) && !values.is_empty()),
        Err(error) => check_file_error(&path, &error),
    }
});
