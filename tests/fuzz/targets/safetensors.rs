//! Weights files: checkpoints and other safetensors files, checked against a small network.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use pointwise_fuzz::{check_error, check_file_error, file};
use pointwise_network::Network;
use pointwise_weights::checkpoint;

fn network() -> &'static Network {
    static NETWORK: OnceLock<Network> = OnceLock::new();
    NETWORK.get_or_init(|| {
        Network::from_toml(include_str!("../small.toml")).unwrap_or_else(|error| panic!("{error}"))
    })
}

fuzz_target!(|input: &[u8]| {
    let path = file("weights.safetensors", input);
    let meta = checkpoint::read_meta(&path);
    match checkpoint::read(&path) {
        Ok((state, read)) => {
            assert_eq!(meta, read);
            let values = state.parameters.values().chain(state.statistics.values());
            for array in values {
                assert_eq!(array.values.len(), array.shape.iter().product::<usize>());
                assert!(array.values.iter().all(|value| value.is_finite()));
            }
            if let Err(error) = state.check(network()) {
                check_error(&error);
            }
        }
        Err(error) => check_file_error(&path, &error),
    }
});
