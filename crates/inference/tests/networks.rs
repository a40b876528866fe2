//! Every shipped network, and compositions that none of them has, compared with the engine `cpu`.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_engine::{EngineKind, Settings, create};
use pointwise_inference::{Images, Layout, Model, Options, byte_values};
use pointwise_network::Network;
use pointwise_random::{Purpose, Stream};
use pointwise_weights::State;

/// Largest difference of two logits over the largest logit: both round differently, and compositions round once more.
const TOLERANCE: f32 = 2e-4;

/// From 0 to 1.
fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut stream = Stream::new(seed, Purpose::Synthetic, 0);
    (0..len).map(|_| stream.word() as f32 / (1u64 << 32) as f32).collect()
}

/// A state in which BatchNorm is not the identity.
fn state(network: &Network) -> State {
    let mut state = State::initial(&network.graph().unwrap(), 7);
    for (number, (name, array)) in state.statistics.iter_mut().enumerate() {
        let values = uniform(number as u64, array.values.len());
        let is_mean = name.ends_with("running_mean");
        array.values = values.iter().map(|x| if is_mean { x - 0.5 } else { 0.5 + x }).collect();
    }
    for (number, (name, array)) in state.parameters.iter_mut().enumerate() {
        if name.ends_with("bias") {
            array.values =
                uniform(1000 + number as u64, array.values.len()).iter().map(|x| x - 0.5).collect();
        }
    }
    state
}

fn engine_logits(network: &Network, state: &State, images: &[f32]) -> Vec<f32> {
    let study = pointwise_study::Study::first_shipped().unwrap();
    let mut engine = create(EngineKind::Cpu, network, &Settings::new(study.recipe)).unwrap();
    engine.load_state(state).unwrap();
    engine.logits(images).unwrap()
}

fn close(what: &str, got: &[f32], expected: &[f32]) {
    let largest = expected.iter().fold(0.0f32, |a, b| a.max(b.abs()));
    assert!(largest > 0.0 && got.len() == expected.len(), "{what}");
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got - expected).abs() / largest;
        assert!(error <= TOLERANCE, "{what}: {got} at {at}, not {expected}, of at most {largest}");
    }
}

fn check(network: &Network, batches: &[usize]) {
    let state = state(network);
    let len = network.input.iter().product::<usize>();
    let images: Vec<f32> = uniform(3, 3 * len).iter().map(|x| 4.0 * x - 2.0).collect();
    let expected = engine_logits(network, &state, &images);
    for &batch in batches {
        let options = Options { batch, ..Options::default() };
        let mut model = Model::new(network, &state, &options).unwrap();
        let logits = model.logits(Images::Normalised(&images)).unwrap();
        close(&format!("{} compiled for {batch}", network.name), &logits, &expected);
        // A result is bit-identical whatever else is in the call.
        let classes = model.classes();
        let alone = model.logits(Images::Normalised(&images[len..2 * len])).unwrap();
        assert_eq!(alone, logits[classes..2 * classes], "{} compiled for {batch}", network.name);
        let options = Options { threads: Some(1), ..options };
        let by_one =
            Model::new(network, &state, &options).unwrap().logits(Images::Normalised(&images)).unwrap();
        close(&format!("{} on one thread", network.name), &by_one, &logits);
    }
}

#[test]
fn shipped_networks() {
    for name in Network::shipped() {
        check(&Network::by_name(name).unwrap(), &[1, 100]);
    }
}

/// Layers and compositions in places where no shipped network has them.
#[test]
fn what_no_shipped_network_has() {
    let layers = [
        // Groups, padded pointwise convolutions in a row, activations that do not map zero to zero.
        r#"{ Conv2d = { out_channels = 24, kernel_size = 3, padding = 1 } }, "BatchNorm2d",
           { Conv2d = { out_channels = 40, kernel_size = 1, padding = 1 } }, "BatchNorm2d",
           { Conv2d = { out_channels = 36, kernel_size = 1, padding = 2 } }, "Sigmoid", { MaxPool2d = { kernel_size = 2 } },
           { Conv2d = { out_channels = 48, kernel_size = 3, stride = 2, groups = 4 } }, "GELU",
           "AdaptiveAvgPool2d", "Flatten", { Linear = { out_features = 5 } }"#,
        // Images that are read twice, and a sum of them.
        r#"{ Sum = [[{ Conv2d = { out_channels = 3, kernel_size = 3, padding = 1 } }], []] }, "Tanh",
           { AvgPool2d = { kernel_size = 3, stride = 2, padding = 1 } }, "Flatten", { Linear = { out_features = 7 } }"#,
        // Sums of three, two of them convolutions; BatchNorm and an activation first.
        r#""BatchNorm2d", "ReLU", { name = "conv0", Conv2d = { out_channels = 32, kernel_size = 1 } },
           { Sum = [[{ name = "conv1", Conv2d = { out_channels = 32, kernel_size = 3, padding = 1 } }],
                    [{ name = "conv2", Conv2d = { out_channels = 32, kernel_size = 1 } }], []] }, "ReLU",
           { Sum = [[{ name = "conv3", Conv2d = { out_channels = 32, kernel_size = 3, padding = 1 } }, { name = "norm", BatchNorm2d = {} }],
                    [{ name = "conv4", Conv2d = { out_channels = 32, kernel_size = 1 } }]] }, "ReLU",
           { MaxPool2d = { kernel_size = 3, stride = 2, padding = 1 } }, "Flatten", { Linear = { out_features = 9 } }"#,
    ];
    for (number, layers) in layers.into_iter().enumerate() {
        let text = format!("name = \"case{number}\"\ninput = [3, 12, 14]\nlayers = [{layers}]");
        check(&Network::from_toml(&text).unwrap(), &[1, 16]);
    }
}

#[test]
fn bytes_are_normalised_in_either_order() {
    let network = Network::by_name("lenet").unwrap();
    let mut model = Model::new(&network, &state(&network), &Options::default()).unwrap();
    let planar: Vec<u8> = (0..2 * 3072).map(|at| (at * 31 % 256) as u8).collect();
    let values = byte_values(&[0.4, 0.5, 0.6], &[0.2, 0.25, 0.3]);
    let normalised: Vec<f32> =
        planar.iter().enumerate().map(|(at, byte)| values[at / 1024 % 3][usize::from(*byte)]).collect();
    let expected = model.logits(Images::Normalised(&normalised)).unwrap();
    let mut interleaved = vec![0; planar.len()];
    for (at, byte) in planar.iter().enumerate() {
        interleaved[at / 3072 * 3072 + at % 1024 * 3 + at / 1024 % 3] = *byte;
    }
    for (pixels, layout) in [(&planar, Layout::Planar), (&interleaved, Layout::Interleaved)] {
        let got = model.logits(Images::Bytes { pixels, layout, values: &values }).unwrap();
        assert_eq!(got, expected, "{layout:?}");
    }
}

/// A call may have any number of images up to the number that a model was compiled for.
#[test]
fn fewer_images_have_room_too() {
    let network = Network::by_name("alexnet_plain").unwrap();
    let state = state(&network);
    for batch in [6, 50] {
        let options = Options { batch, threads: Some(2), ..Options::default() };
        let mut model = Model::new(&network, &state, &options).unwrap();
        for images in 1..=batch.min(18) {
            let logits = model.logits(Images::Normalised(&uniform(1, images * 3072))).unwrap();
            assert_eq!(logits.len(), images * 10);
        }
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let network = Network::by_name("lenet").unwrap();
    let mut good = state(&network);
    let mut model = Model::new(&network, &good, &Options::default()).unwrap();
    let error = model.logits(Images::Normalised(&[0.0; 3071])).unwrap_err().to_string();
    assert!(error.contains("3071 values") && error.contains("[3, 32, 32]"), "{error}");
    let bytes =
        Images::Bytes { pixels: &[0; 3072], layout: Layout::Planar, values: &byte_values(&[0.0], &[1.0]) };
    let error = model.logits(bytes).unwrap_err().to_string();
    assert!(error.contains("1 channels, but images of 3"), "{error}");
    assert!(model.logits(Images::Normalised(&[])).unwrap().is_empty());
    good.parameters.remove("conv1.weight");
    let error = Model::new(&network, &good, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("conv1.weight"), "{error}");
}
