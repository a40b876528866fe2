//! No result of the engine `cuda` depends on the order of blocks and threads, which the emulator of `tests/cuda` can reverse: a missing
//! barrier shows.
#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

mod networks;

use networks::has_gpu;
use pointwise_engine::{DeviceName, EngineKind, ResidentEpoch, ResidentImages, Settings, create};
use pointwise_network::Network;
use pointwise_recipe::Recipe;
use std::env;
use std::process::Command;

/// A convolution with BatchNorm, ReLU and a pool, a pointwise one with BatchNorm, dropout, two linear layers.
fn network() -> Network {
    Network::from_toml(
        r#"
        name = "small"
        input = [2, 6, 6]
        layers = [
            { Conv2d = { out_channels = 4, kernel_size = 3, padding = 1 } }, "BatchNorm2d", "ReLU",
            { MaxPool2d = { kernel_size = 2 } },
            { Conv2d = { out_channels = 3, kernel_size = 1, padding = 1 } }, "BatchNorm2d",
            "Flatten", "Dropout", { Linear = { out_features = 5 } }, "ReLU", { Linear = { out_features = 4 } },
        ]
        "#,
    )
    .unwrap()
}

/// What the kernels of the network above do not cover: groups of one channel and of several, an overlapping pool, sums, products, an
/// activation other than ReLU, runs of channels that begin within a vector, classes that several threads share.
fn graph() -> Network {
    Network::from_toml(
        r#"
        name = "graph"
        input = [2, 6, 6]
        layers = [
            { Conv2d = { out_channels = 9, kernel_size = 3, padding = 1, stride = 2 } }, "SiLU",
            { name = "sum", Sum = [[{ name = "a", Conv2d = { out_channels = 9, kernel_size = 3, padding = 1, groups = 9 } }], []] },
            "ReLU",
            { name = "concat", Concat = [[{ name = "b", Conv2d = { out_channels = 6, kernel_size = 1, groups = 3 } }], []] },
            { MaxPool2d = { kernel_size = 2, stride = 1 } },
            { name = "gate", Multiply = [["AdaptiveAvgPool2d", "Sigmoid"], []] }, "BatchNorm2d",
            { AvgPool2d = { kernel_size = 2 } }, "Flatten", { Linear = { out_features = 40 } },
        ]
        "#,
    )
    .unwrap()
}

/// Set in the process that trains.
const TRAINS: &str = "POINTWISE_TEST_TRAINS";

/// Prints the result.
#[test]
fn a_process_that_trains() {
    if env::var_os(TRAINS).is_none() {
        return;
    }
    let (network, optimizer) = match env::var(TRAINS).unwrap().as_str() {
        "graph" => (graph(), "SGD = { momentum = 0.9, nesterov = true }"),
        _ => (network(), "AdamW = {}"),
    };
    let recipe = Recipe::from_toml(&format!(
        "epochs = 2\nbatch-size = 4\noptimizer = {{ {optimizer} }}\nlabel-smoothing = 0.1\nclip-norm = 0.5\nema = {{ decay = 0.9 }}\n\
         parameter-groups = [{{ max_dims = 1, weight_decay = 0.0 }}]"
    ))
    .unwrap();
    let settings = Settings { device: DeviceName::Cuda(0), deterministic: true, ..Settings::new(recipe) };
    let mut engine = create(EngineKind::Cuda, &network, &settings).unwrap();
    let images: Vec<u8> = (0..12 * 72).map(|i| (i * 7919 % 251) as u8).collect();
    let labels: Vec<u16> = (0..12).map(|i| i % 4).collect();
    let values: Vec<f32> = (0..2 * 256).map(|i| (i % 256) as f32 / 128.0 - 1.0).collect();
    let images = ResidentImages { images: &images, labels: &labels, values: &values };
    let set = engine.reside(images).unwrap().unwrap();
    let order: Vec<u32> = (0..12).rev().collect();
    for epoch in 1..3 {
        let epoch = ResidentEpoch { epoch, order: &order, margin: Some(1) };
        let begun = engine.begin_epoch(set, epoch).unwrap();
        for first in [0, 4, 8] {
            engine.train_resident(begun, first..first + 4).unwrap();
        }
    }
    println!("STATE {:?} {:?}", engine.state().unwrap(), engine.totals().unwrap());
}

/// The result of a process that trains this network in this order; `None` without a GPU.
fn trained(network: &str, order: &str) -> Option<String> {
    if !has_gpu() {
        return None;
    }
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "a_process_that_trains", "--nocapture"])
        .env(TRAINS, network)
        .env("POINTWISE_EMULATOR_ORDER", order)
        .output()
        .unwrap();
    let (said, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{stderr}");
    Some(said.split("STATE ").nth(1).unwrap().lines().next().unwrap().to_owned())
}

#[test]
fn the_order_of_blocks_and_threads_changes_no_bit() {
    for network in ["sequence", "graph"] {
        let both = (trained(network, "forward"), trained(network, "reverse"));
        let (Some(forward), Some(reverse)) = both else { return };
        assert!(forward == reverse, "{network}: {forward}\n{reverse}");
    }
}
