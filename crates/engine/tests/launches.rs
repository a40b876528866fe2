//! What a step of the engine `cuda` asks of NVIDIA's libraries, as the emulator of `tests/cuda` writes it down. On a GPU nothing is
//! tested here.
#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_engine::{
    DeviceChoice, DeviceName, EngineKind, ResidentEpoch, ResidentImages, Settings, create,
};
use pointwise_models::{Layer, Network, Section};
use std::process::Command;
use std::{env, fs};

/// A convolution with BatchNorm, ReLU and a pool, a pointwise one with BatchNorm, dropout, two linear layers.
fn network() -> Network {
    let conv =
        |in_channels, out_channels, kernel| Layer::Conv2d { in_channels, out_channels, kernel, padding: 1 };
    let norm = |channels| Layer::BatchNorm2d { channels };
    let linear = |in_features, out_features| Layer::Linear { in_features, out_features };
    let features = vec![conv(2, 4, 3), norm(4), Layer::Relu, Layer::MaxPool2d, conv(4, 3, 1), norm(3)];
    let classifier = vec![Layer::Dropout { p: 0.5 }, linear(75, 5), Layer::Relu, linear(5, 4)];
    let section =
        |name: &str, flatten_input, layers| Section { name: name.to_owned(), flatten_input, layers };
    Network {
        name: "small".to_owned(),
        input: [2, 6, 6],
        sections: vec![section("features", false, features), section("classifier", true, classifier)],
    }
}

/// Set in the process that trains.
const TRAINS: &str = "POINTWISE_TEST_TRAINS";

/// What this says and what the emulator writes is looked at by the tests below: the emulator reads its variables once.
#[test]
fn a_process_that_trains() {
    if env::var_os(TRAINS).is_none() {
        return;
    }
    let network = network();
    let settings = Settings { device: DeviceName::Cuda(0), deterministic: true, ..Settings::default() };
    let mut engine = create(EngineKind::Cuda, &network, &settings).unwrap();
    let images: Vec<u8> = (0..12 * 72).map(|i| (i * 7919 % 251) as u8).collect();
    let labels: Vec<u8> = (0..12).map(|i| i % 4).collect();
    let values: Vec<f32> = (0..2 * 256).map(|i| (i % 256) as f32 / 128.0 - 1.0).collect();
    let images = ResidentImages { images: &images, labels: &labels, values: &values };
    let set = engine.reside(images).unwrap().unwrap();
    let order: Vec<u32> = (0..12).rev().collect();
    for epoch in 1..3 {
        engine.begin_epoch(set, ResidentEpoch { epoch, order: &order, margin: Some(1) }).unwrap();
        for first in [0, 4, 8] {
            engine.train_resident(set, first..first + 4).unwrap();
        }
    }
    println!("STATE {:?}", engine.state().unwrap());
}

/// The emulator's log of such a process and its last state; `None` where there is no emulator.
fn trained(order: &str) -> Option<(Vec<String>, String)> {
    if let Err(error) = DeviceChoice::Only(DeviceName::Cuda(0)).resolve() {
        eprintln!("skipped: {error}");
        return None;
    }
    let log = env::temp_dir().join(format!("pointwise-{}-{order}.log", std::process::id()));
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "a_process_that_trains", "--nocapture"])
        .env(TRAINS, "1")
        .env("POINTWISE_EMULATOR_LOG", &log)
        .env("POINTWISE_EMULATOR_ORDER", order)
        .output()
        .unwrap();
    let (said, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{stderr}");
    let state = said.split("STATE ").nth(1).unwrap().lines().next().unwrap().to_owned();
    let Ok(lines) = fs::read_to_string(&log) else {
        eprintln!("skipped: a GPU writes no log");
        return None;
    };
    fs::remove_file(&log).unwrap();
    Some((lines.lines().map(str::to_owned).collect(), state))
}

#[test]
fn a_training_step_is_recorded_once_and_is_one_launch_from_then_on() {
    let Some((log, _)) = trained("forward") else { return };
    let begin = log.iter().position(|line| line == "capture begin").unwrap();
    let end = log.iter().position(|line| line.starts_with("capture end")).unwrap();
    // Between them there is nothing that waits, copies or allocates.
    let recorded: Vec<String> = log[begin + 1..end]
        .iter()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["record", "launch", kernel, ..] => kernel.to_owned(),
                ["record", what @ ("gemm" | "convolution"), how, ..] => format!("{what} {how}"),
                _ => panic!("{line}"),
            }
        })
        .collect();
    let forward = [
        "assemble_f32",
        "convolution forward",
        "moments_f32",
        "normalise",
        "apply_f32",
        "gemm tn",
        "moments_f32",
        "normalise",
        "apply_f32",
        "flatten_f32",
        "dropout_f32",
        "gemm tn",
        "apply_f32",
        "gemm tn",
        "apply_f32",
    ];
    let backward = [
        "loss_f32",
        "reduce_f32",
        "coefficients",
        "gemm nt",
        "gemm nn",
        "reduce_f32",
        "coefficients",
        "gradient_f32",
        "gemm nt",
        "gemm nn",
        "dropout_f32",
        "unflatten_f32",
        "reduce_f32",
        "coefficients",
        "gradient_f32",
        "gemm nt",
        "gemm nn",
        "reduce_f32",
        "coefficients",
        "gradient_f32",
        "convolution filter",
        "adam_f32",
    ];
    assert_eq!(recorded, [&forward[..], &backward].concat());
    let launch = format!("graph launch nodes={}", recorded.len());
    assert_eq!(log[end], format!("capture end nodes={}", recorded.len()));
    // Two steps of the first epoch, and all three of the second.
    assert_eq!(log[end + 1..end + 3], [launch.as_str(), &launch]);
    assert_eq!(log.iter().filter(|line| **line == launch).count(), 5);
    assert!(log.windows(3).any(|lines| lines.iter().all(|line| *line == launch)));
    assert_eq!(log.iter().filter(|line| line.starts_with("capture")).count(), 2);
    assert!(log[end..].iter().all(|line| !line.starts_with("launch") && !line.starts_with("alloc")));
}

#[test]
fn the_order_of_blocks_and_threads_changes_no_bit() {
    let Some((_, forward)) = trained("forward") else { return };
    let Some((_, reverse)) = trained("reverse") else { return };
    assert!(forward == reverse, "{forward}\n{reverse}");
}
