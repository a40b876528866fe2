//! Descriptions of networks.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointwise_fuzz::check_error;
use pointwise_network::Network;

fuzz_target!(|input: &str| {
    match Network::from_toml(input) {
        Ok(network) => {
            let graph = network.graph().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(graph.table().len() + 1, graph.nodes.len());
            assert!(graph.macs() >= graph.table().iter().map(|row| row.macs).max().unwrap_or(0));
            assert_eq!(Network::from_toml(&network.to_toml()), Ok(network));
        }
        Err(error) => check_error(&error),
    }
});
