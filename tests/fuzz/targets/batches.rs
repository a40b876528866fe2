//! Binary files of CIFAR-100: the first byte says how many of the others are test images.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointwise_data::{NoProgress, Place, Published, Source, load};
use pointwise_fuzz::{check_error, file, folder};

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else { return };
    let (test, train) = rest.split_at(rest.len() * usize::from(*first) / 255);
    file("train.bin", train);
    file("test.bin", test);
    let place = Place::Named(folder().to_owned());
    match load(&Source::Published { dataset: Published::Cifar100, place }, &NoProgress) {
        Ok(dataset) => {
            assert_eq!(dataset.train.len(), train.len() / 3074);
            assert_eq!(dataset.test.len(), test.len() / 3074);
        }
        Err(error) => {
            check_error(&error);
            let message = error.to_string();
            assert!(message.contains(&folder().display().to_string()), "no file is named: {message}");
        }
    }
});
