//! Images of folders and of `predict`: png, jpeg and webp.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointwise_data::read_image;
use pointwise_fuzz::{allow_allocations_of, check_file_error, file};

fuzz_target!(|input: &[u8]| {
    // An image may decode to 512 MiB, whatever it claims.
    allow_allocations_of(640 << 20);
    let path = file("image.png", input);
    for shape in [[3, 8, 8], [1, 5, 7]] {
        match read_image(&path, shape) {
            Ok(pixels) => assert_eq!(pixels.len(), shape.iter().product::<usize>()),
            Err(error) => return check_file_error(&path, &error),
        }
    }
});
