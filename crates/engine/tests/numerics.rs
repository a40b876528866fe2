//! Unplanned cases in training: images of one value, one class, a batch of one image. The expected values are PyTorch's.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_engine::cpu::Cpu;
use pointwise_engine::reference::Reference;
use pointwise_engine::{Array, Batch, Engine, EngineError, EngineKind, Settings, State, create};
use pointwise_network::Network;
use pointwise_recipe::Recipe;
use std::collections::BTreeMap;

/// For sums of absolute values, whose terms are f32 in PyTorch's own order.
const TOLERANCE: f64 = 2e-5;

/// A gradient that is zero except for rounding, which a variance of zero divides by the root of `eps`: the bias and the weights before the
/// norm.
const ROUNDING: f64 = 1e-3;

fn network() -> Network {
    Network::from_toml(
        "name = \"small\"\ninput = [3, 6, 6]\nlayers = [{ Conv2d = { out_channels = 4, kernel_size = 3 } }, \"BatchNorm2d\", \"ReLU\", \
         \"AdaptiveAvgPool2d\", \"Flatten\", { Linear = { out_features = 3 } }]",
    )
    .unwrap()
}

fn settings(lr: f64) -> Settings {
    let recipe = format!("epochs = 1\nbatch-size = 4\noptimizer = {{ SGD = {{ lr = {lr:?} }} }}");
    Settings::new(Recipe::from_toml(&recipe).unwrap())
}

/// Arbitrary-looking values that PyTorch can compute, too: `torch.sin(i * 0.7 + k) * 0.3` of `torch.arange` in f64.
fn values(len: usize, k: usize) -> impl Iterator<Item = f32> {
    (0..len).map(move |i| ((i as f64 * 0.7 + k as f64).sin() * 0.3) as f32)
}

fn state(network: &Network) -> State {
    let mut state = State::initial(&network.graph().unwrap(), 0);
    for (k, (name, array)) in state.parameters.iter_mut().enumerate() {
        let one = if name == "1.weight" { 1.0 } else { 0.0 };
        let len = array.values.len();
        array.values = values(len, k).map(|value| value + one).collect();
    }
    state
}

/// Loss, sums of absolute gradients in the order of names, running variance of the first channel.
struct Case {
    name: &'static str,
    images: Vec<f32>,
    labels: &'static [u16],
    loss: f64,
    gradients: [f64; 6],
    running_var: f64,
}

/// ```python
/// m = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
/// loss = nn.functional.cross_entropy(m(x), y)
/// loss.backward()
/// [p.grad.abs().sum() for n, p in sorted(m.named_parameters())]
/// ```
fn cases() -> [Case; 3] {
    [
        Case {
            name: "constant images",
            images: vec![0.5; 4 * 108],
            labels: &[0, 1, 2, 1],
            loss: 1.076_465_010_6,
            gradients: [0.0, 0.0, 0.139_019_2, 0.0, 0.266_117_1, 0.106_714_2],
            running_var: 0.9,
        },
        Case {
            name: "one class",
            images: values(4 * 108, 9).collect(),
            labels: &[1, 1, 1, 1],
            loss: 0.825_196_564_2,
            gradients: [0.0, 0.355_091_8, 0.368_779, 0.349_868_4, 1.123_614_3, 1.703_685_3],
            running_var: 0.914_481_759,
        },
        Case {
            name: "a batch of one image",
            images: values(108, 9).collect(),
            labels: &[2],
            loss: 1.339_354_157_4,
            gradients: [0.0, 0.098_158_5, 0.258_649, 0.307_992_1, 1.475_970_3, 2.221_7],
            running_var: 0.915_207_087,
        },
    ]
}

fn check(case: &Case, engine: &str, loss: f64, gradients: &BTreeMap<String, Array>, after: &State) {
    let at = format!("{}, {engine}", case.name);
    assert!((loss - case.loss).abs() < TOLERANCE, "{at}: loss {loss} instead of {}", case.loss);
    assert_eq!(gradients.len(), case.gradients.len());
    for ((name, gradient), expected) in gradients.iter().zip(case.gradients) {
        let sum: f64 = gradient.values.iter().map(|value| f64::from(value.abs())).sum();
        let tolerance = if expected == 0.0 { ROUNDING } else { TOLERANCE };
        assert!((sum - expected).abs() < tolerance, "{at}: {name} {sum} instead of {expected}");
    }
    let running = f64::from(after.statistics["1.running_var"].values[0]);
    assert!((running - case.running_var).abs() < TOLERANCE, "{at}: running variance {running}");
}

#[test]
fn constant_images_one_class_and_one_image_are_as_in_pytorch() {
    let (network, settings) = (network(), settings(0.1));
    for case in cases() {
        let batch = Batch { images: &case.images, labels: case.labels };
        let mut cpu = Cpu::new(&network, &settings).unwrap();
        cpu.load_state(&state(&network)).unwrap();
        let (loss, gradients) = cpu.gradients(batch).unwrap();
        check(&case, "cpu", loss, &gradients, &cpu.state().unwrap());
        let mut reference = Reference::new(&network, &settings).unwrap();
        reference.load_state(&state(&network)).unwrap();
        let (loss, gradients) = reference.gradients(batch).unwrap();
        check(&case, "reference", loss, &gradients, &reference.state().unwrap());
    }
}

/// Where PyTorch says "Expected more than 1 value per channel when training".
#[test]
fn a_norm_of_one_value_is_refused_and_of_one_image_with_pixels_is_not() {
    let flat = Network::from_toml(
        "name = \"flat\"\ninput = [3, 6, 6]\nlayers = [{ Conv2d = { out_channels = 4, kernel_size = 6 } }, \"BatchNorm2d\", \"ReLU\", \
         \"Flatten\", { Linear = { out_features = 3 } }]",
    )
    .unwrap();
    let images: Vec<f32> = values(216, 9).collect();
    for kind in [EngineKind::Cpu, EngineKind::Reference] {
        let mut engine = create(kind, &flat, &settings(0.1)).unwrap();
        engine.train_step(Batch { images: &images, labels: &[0, 1] }).unwrap();
        let before = engine.state().unwrap();
        let error = engine.train_step(Batch { images: &images[..108], labels: &[0] }).unwrap_err();
        assert!(error.to_string().contains("needs more than one value for each channel"), "{kind}: {error}");
        assert_eq!(engine.state().unwrap(), before, "{kind}");
        // Evaluation uses running statistics.
        engine.evaluate(Batch { images: &images[..108], labels: &[0] }).unwrap();
        let mut engine = create(kind, &network(), &settings(0.1)).unwrap();
        engine.train_step(Batch { images: &images[..108], labels: &[0] }).unwrap();
    }
}

#[test]
fn a_loss_that_explodes_names_its_step_and_leaves_the_weights_of_the_step_before() {
    let images: Vec<f32> = values(4 * 108, 9).collect();
    for kind in [EngineKind::Cpu, EngineKind::Reference] {
        let mut engine = create(kind, &network(), &settings(1e38)).unwrap();
        let batch = Batch { images: &images, labels: &[0, 1, 2, 1] };
        let mut steps = 0;
        let (error, before) = loop {
            let before = engine.state().unwrap();
            match engine.train_step(batch) {
                Ok(()) => steps += 1,
                Err(error) => break (error, before),
            }
            assert!(steps < 10, "{kind}: it does not explode");
        };
        assert!(
            matches!(error, EngineError::NotFinite { step, quantity: "loss", .. } if step == steps + 1),
            "{kind}: {error}"
        );
        assert!(error.to_string().contains("smaller --lr"), "{error}");
        assert_eq!(engine.state().unwrap().parameters.len(), before.parameters.len());
        for (name, array) in &engine.state().unwrap().parameters {
            let same = array.values.iter().zip(&before.parameters[name].values);
            assert!(same.clone().all(|(now, then)| now.to_bits() == then.to_bits()), "{kind}: {name}");
        }
    }
}
