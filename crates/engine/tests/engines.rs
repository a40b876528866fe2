//! What every engine must do, and that the engines agree.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_engine::cpu::Cpu;
use pointwise_engine::reference::Reference;
use pointwise_engine::{
    Array, Batch, DeviceName, Engine, EngineError, EngineKind, Settings, State, Totals, count_correct, create,
};
use pointwise_kernels::Isa;
use pointwise_models::{Layer, Network, Pointwise, Section};
use pointwise_random::{Purpose, Stream};
use std::collections::BTreeMap;

const ENGINES: [EngineKind; 2] = [EngineKind::Reference, EngineKind::Cpu];

fn network(name: &str, input: [usize; 3], layers: Vec<Layer>) -> Network {
    let section = Section { name: "features".to_owned(), flatten_input: false, layers };
    Network { name: name.to_owned(), input, sections: vec![section] }
}

fn conv(in_channels: usize, out_channels: usize, kernel: usize, padding: usize) -> Layer {
    Layer::Conv2d { in_channels, out_channels, kernel, padding }
}

fn norm(channels: usize) -> Layer {
    Layer::BatchNorm2d { channels }
}

fn linear(in_features: usize, out_features: usize) -> Layer {
    Layer::Linear { in_features, out_features }
}

/// Small enough for finite differences: every kind of layer once.
fn tiny(dropout: f64) -> Network {
    let mut network = network(
        "tiny",
        [2, 6, 6],
        vec![conv(2, 4, 3, 1), norm(4), Layer::Relu, Layer::MaxPool2d, conv(4, 3, 1, 1), norm(3)],
    );
    network.sections.push(Section {
        name: "classifier".to_owned(),
        flatten_input: true,
        layers: vec![Layer::Dropout { p: dropout }, linear(3 * 25, 5), Layer::Relu, linear(5, 4)],
    });
    network
}

/// Descriptions that no published network has: ragged channels, other orders of layers, blocks without a convolution, without a norm.
fn odd_networks() -> Vec<Network> {
    use Layer::{Dropout, Flatten, GlobalAvgPool, MaxPool2d, Relu};
    vec![
        tiny(0.25),
        network(
            "ragged channels",
            [17, 10, 9],
            vec![
                conv(17, 20, 3, 1),
                norm(20),
                Relu,
                conv(20, 33, 3, 1),
                norm(33),
                Flatten,
                linear(33 * 90, 3),
            ],
        ),
        network(
            "without norms",
            [3, 8, 8],
            vec![
                conv(3, 18, 5, 2),
                Relu,
                MaxPool2d,
                conv(18, 17, 3, 1),
                Relu,
                conv(17, 5, 1, 1),
                GlobalAvgPool,
                Flatten,
            ],
        ),
        network(
            "norm first, odd pool, padded pointwise pairs",
            [16, 7, 7],
            vec![
                norm(16),
                conv(16, 24, 1, 1),
                norm(24),
                conv(24, 16, 1, 1),
                norm(16),
                Relu,
                MaxPool2d,
                MaxPool2d,
                Flatten,
                linear(64, 5),
            ],
        ),
        network(
            "pool before ReLU, dropout of maps, im2col inside",
            [3, 12, 12],
            vec![
                conv(3, 16, 3, 1),
                MaxPool2d,
                Relu,
                norm(16),
                Dropout { p: 0.2 },
                conv(16, 20, 2, 0),
                Relu,
                Dropout { p: 0.1 },
                GlobalAvgPool,
                conv(20, 6, 1, 0),
                Flatten,
                Relu,
                linear(6, 6),
            ],
        ),
        network("one linear layer", [1, 1, 40], vec![Flatten, linear(40, 7)]),
    ]
}

fn uniform(seed: u64, len: usize) -> Vec<f32> {
    let mut stream = Stream::new(seed, Purpose::Synthetic, 0);
    (0..len).map(|_| stream.word() as f32 / (1u64 << 31) as f32 - 1.0).collect()
}

fn images(network: &Network, n: usize) -> Vec<f32> {
    uniform(77 + n as u64, n * network.input.iter().product::<usize>())
}

fn labels(network: &Network, n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 5 % network.classes().unwrap()) as u8).collect()
}

fn make(kind: EngineKind, network: &Network) -> Box<dyn Engine> {
    create(kind, network, &Settings::default()).unwrap()
}

type Gradients = BTreeMap<String, Array>;

/// An engine that shows its gradients.
trait Differentiable: Engine {
    fn differentiate(&mut self, batch: Batch<'_>) -> (f64, Gradients);
}

impl Differentiable for Reference {
    fn differentiate(&mut self, batch: Batch<'_>) -> (f64, Gradients) {
        self.gradients(batch).unwrap()
    }
}

impl Differentiable for Cpu {
    fn differentiate(&mut self, batch: Batch<'_>) -> (f64, Gradients) {
        self.gradients(batch).unwrap()
    }
}

/// Initial values, moved: with biases of zero, BatchNorm gives the border of a padded pointwise convolution and the map inside the
/// same mean, and which of two equal values a pool takes would be left to rounding.
fn moved_state(network: &Network) -> State {
    let mut state = make(EngineKind::Reference, network).state().unwrap();
    for (seed, array) in (1..).zip(state.parameters.values_mut()) {
        let moves = uniform(seed, array.values.len());
        for (value, u) in array.values.iter_mut().zip(moves) {
            *value += 0.1 * u;
        }
    }
    state
}

/// The largest distance over the largest value, at least `floor`: a gradient of rounding noise counts as zero.
fn distance(a: &[f32], b: &[f32], floor: f32) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(floor, |largest, x| largest.max(x.abs()));
    a.iter().zip(b).fold(0.0, |worst: f32, (a, b)| {
        let distance = (a - b).abs() / largest;
        if distance.is_nan() { f32::INFINITY } else { worst.max(distance) }
    })
}

fn gradients_are_finite_differences(engine: &mut dyn Differentiable) {
    // Central differences of an f32 loss: the error is the rounding of the loss over the step, about 1e-7 / 1e-3, plus the
    // curvature's share.
    const STEP: f32 = 1e-3;
    const TOLERANCE: f64 = 2e-3;
    let images: Vec<f32> = (0..4 * 72).map(|i| ((i * 7919) % 1013) as f32 / 506.0 - 1.0).collect();
    let batch = Batch { images: &images, labels: &[0, 1, 2, 3] };
    let state = engine.state().unwrap();
    let (_, gradients) = engine.differentiate(batch);
    let mut checked = 0;
    for (name, gradient) in &gradients {
        for place in [0, gradient.values.len() / 2, gradient.values.len() - 1] {
            let mut loss_at = |delta: f32| {
                let mut moved = state.clone();
                moved.parameters.get_mut(name).unwrap().values[place] += delta;
                engine.load_state(&moved).unwrap();
                engine.differentiate(batch).0
            };
            let difference = (loss_at(STEP) - loss_at(-STEP)) / (2.0 * f64::from(STEP));
            let got = f64::from(gradient.values[place]);
            assert!(
                (got - difference).abs() < TOLERANCE,
                "{name}[{place}]: gradient {got}, difference {difference}"
            );
            checked += usize::from(got.abs() > TOLERANCE);
        }
    }
    assert!(checked > 10, "only {checked} gradients are larger than the tolerance");
}

#[test]
fn gradients_are_finite_differences_on_every_engine() {
    let (network, settings) = (tiny(0.0), Settings::default());
    gradients_are_finite_differences(&mut Reference::new(&network, &settings).unwrap());
    for isa in Isa::available() {
        gradients_are_finite_differences(&mut Cpu::with_isa(&network, &settings, isa).unwrap());
    }
}

/// Where the engine `cpu` is further than `tolerance` from the reference, on every instruction set: before, in and after a step.
fn disagreements(network: &Network, n: usize, tolerance: f32) -> Vec<String> {
    let settings = Settings::default();
    let mut found = Vec::new();
    let (images, labels) = (images(network, n), labels(network, n));
    let batch = Batch { images: &images, labels: &labels };
    let mut reference = Reference::new(network, &settings).unwrap();
    let state = moved_state(network);
    reference.load_state(&state).unwrap();
    let expected_logits = reference.logits(&images).unwrap();
    let (expected_loss, expected) = reference.differentiate(batch);
    let expected_state = reference.state().unwrap();
    let after = reference.logits(&images).unwrap();
    for isa in Isa::available() {
        let mut cpu = Cpu::with_isa(network, &settings, isa).unwrap();
        cpu.load_state(&state).unwrap();
        let mut check = |what: &str, distance: f32| {
            if distance > tolerance {
                found.push(format!("{} x{n} on {isa}: {what} is {distance:.1e} away", network.name));
            }
        };
        check("evaluation", distance(&cpu.logits(&images).unwrap(), &expected_logits, 0.1));
        let (loss, gradients) = cpu.differentiate(batch);
        check("loss", ((loss - expected_loss) / expected_loss).abs() as f32);
        assert_eq!(gradients.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (name, gradient) in &gradients {
            assert_eq!(gradient.shape, expected[name].shape);
            check(name, distance(&gradient.values, &expected[name].values, 5e-2));
        }
        let state = cpu.state().unwrap();
        assert_eq!(state.batches_tracked, expected_state.batches_tracked);
        for (name, statistic) in &state.statistics {
            check(name, distance(&statistic.values, &expected_state.statistics[name].values, 0.1));
        }
        check("evaluation after", distance(&cpu.logits(&images).unwrap(), &after, 0.1));
    }
    found
}

#[test]
fn the_cpu_engine_agrees_with_the_reference_on_any_network() {
    // Both round in f32, in different orders; the logits of these networks are of the size of one.
    const TOLERANCE: f32 = 5e-5;
    let failures: Vec<String> = odd_networks()
        .iter()
        .flat_map(|network| [3, 14, 2].map(|n| disagreements(network, n, TOLERANCE)))
        .flatten()
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_cpu_engine_agrees_with_the_reference_on_variations_of_nin() {
    const TOLERANCE: f32 = 5e-5;
    let mut failures = Vec::new();
    for member in Pointwise::ALL {
        if ["nin-r4", "nin-relu", "nin-nopad", "nin-nopad-relu-r2"].contains(&member.name) {
            // Where rounding decides which of two values a pool takes, or the side of a ReLU, gradients move by per cents. That
            // happens to a batch now and then; an engine that is wrong agrees on none.
            let mut last = Vec::new();
            let agrees = [2, 3, 4, 5, 6].into_iter().any(|n| {
                last = disagreements(&member.network(), n, TOLERANCE);
                last.is_empty()
            });
            failures.extend(if agrees { Vec::new() } else { last });
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn room_left_from_a_larger_batch_changes_nothing() {
    let network = &odd_networks()[4];
    let (images, labels) = (images(network, 9), labels(network, 9));
    let part = network.input.iter().product::<usize>() * 4;
    let small = Batch { images: &images[..part], labels: &labels[..4] };
    let mut fresh = Cpu::new(network, &Settings::default()).unwrap();
    let expected = (fresh.logits(small.images).unwrap(), fresh.differentiate(small));
    let mut used = Cpu::new(network, &Settings::default()).unwrap();
    let before = used.state().unwrap();
    used.train_step(Batch { images: &images, labels: &labels }).unwrap();
    used.load_state(&before).unwrap();
    assert_eq!((used.logits(small.images).unwrap(), used.differentiate(small)), expected);
}

#[test]
fn training_lowers_the_loss_and_evaluation_changes_nothing() {
    let network = tiny(0.5);
    let images = images(&network, 8);
    let batch = Batch { images: &images, labels: &[0, 1, 2, 3, 3, 2, 1, 0] };
    for kind in ENGINES {
        let mut engine = make(kind, &network);
        engine.train_step(batch).unwrap();
        let first = engine.totals().unwrap();
        assert_eq!(first.samples, 8);
        for _ in 0..60 {
            engine.train_step(batch).unwrap();
        }
        let last = engine.totals().unwrap();
        assert!(
            last.last_loss < 0.9 * first.last_loss,
            "{kind}: {} after {}",
            last.last_loss,
            first.last_loss
        );
        let state = engine.state().unwrap();
        assert_eq!(state.moments.as_ref().unwrap().step, 61);
        assert!(state.batches_tracked.values().all(|tracked| *tracked == 61));
        engine.set_totals(Totals::default()).unwrap();
        engine.evaluate(batch).unwrap();
        assert_eq!(state, engine.state().unwrap());
        let logits = engine.logits(&images).unwrap();
        assert_eq!(engine.totals().unwrap().correct, count_correct(&logits, batch.labels, 4));
    }
}

#[test]
fn evaluation_between_steps_changes_no_bit() {
    let network = tiny(0.5);
    let images = images(&network, 8);
    let batch = Batch { images: &images, labels: &[0, 1, 2, 3, 3, 2, 1, 0] };
    for kind in ENGINES {
        let (mut plain, mut watched) = (make(kind, &network), make(kind, &network));
        for _ in 0..3 {
            plain.train_step(batch).unwrap();
            watched.evaluate(batch).unwrap();
            watched.train_step(batch).unwrap();
        }
        assert_eq!(plain.state().unwrap(), watched.state().unwrap(), "{kind}");
    }
}

#[test]
fn a_loaded_state_goes_on_to_the_same_bits() {
    let network = tiny(0.5);
    let images = images(&network, 8);
    let batch = Batch { images: &images, labels: &[0, 1, 2, 3, 3, 2, 1, 0] };
    for kind in ENGINES {
        let mut whole = make(kind, &network);
        for _ in 0..3 {
            whole.train_step(batch).unwrap();
        }
        let middle = whole.state().unwrap();
        for _ in 0..3 {
            whole.train_step(batch).unwrap();
        }
        let mut resumed = make(kind, &network);
        resumed.load_state(&middle).unwrap();
        for _ in 0..3 {
            resumed.train_step(batch).unwrap();
        }
        assert_eq!(whole.state().unwrap(), resumed.state().unwrap(), "{kind}");
    }
}

#[test]
fn a_state_passes_between_engines_unchanged() {
    for network in odd_networks() {
        let (images, labels) = (images(&network, 6), labels(&network, 6));
        let mut reference = make(EngineKind::Reference, &network);
        reference.train_step(Batch { images: &images, labels: &labels }).unwrap();
        let state = reference.state().unwrap();
        let mut cpu = make(EngineKind::Cpu, &network);
        cpu.load_state(&state).unwrap();
        assert_eq!(cpu.state().unwrap(), state, "{}", network.name);
    }
}

#[test]
fn a_state_of_another_network_is_refused_and_changes_nothing() {
    type Break = fn(&mut State);
    let breakages: [(&str, Break); 5] = [
        ("`features.0.bias` is missing", |s| drop(s.parameters.remove("features.0.bias"))),
        ("the network has no `extra`", |s| {
            let array = s.parameters["features.0.bias"].clone();
            s.parameters.insert("extra".to_owned(), array);
        }),
        ("`features.1.running_var` has shape [5], not [4]", |s| {
            s.statistics.get_mut("features.1.running_var").unwrap().shape = vec![5];
        }),
        ("`features.0.bias` has 3 values, not 4", |s| {
            s.parameters.get_mut("features.0.bias").unwrap().values.pop();
        }),
        ("the network has no `features.9.num_batches_tracked`", |s| {
            s.batches_tracked.insert("features.9.num_batches_tracked".to_owned(), 1);
        }),
    ];
    for kind in ENGINES {
        let mut engine = make(kind, &tiny(0.0));
        let before = engine.state().unwrap();
        for (expected, break_it) in breakages {
            let mut state = before.clone();
            break_it(&mut state);
            let error = engine.load_state(&state).unwrap_err().to_string();
            assert_eq!(error, format!("the state is not one of `tiny`: {expected}"), "{kind}");
            assert_eq!(engine.state().unwrap(), before);
        }
    }
}

#[test]
fn a_loss_that_is_not_finite_stops() {
    let network = tiny(0.0);
    for kind in ENGINES {
        let mut engine = make(kind, &network);
        let mut images = images(&network, 2);
        images[0] = f32::NAN;
        let error = engine.train_step(Batch { images: &images, labels: &[0, 1] }).unwrap_err();
        assert!(matches!(error, EngineError::NotFinite { step: 1, .. }), "{kind}: {error}");
    }
}

#[test]
fn batches_that_cannot_be_computed_are_refused() {
    for kind in ENGINES {
        let network = tiny(0.0);
        let mut engine = make(kind, &network);
        for images in [&[][..], &[0.0; 71]] {
            assert!(matches!(engine.logits(images), Err(EngineError::Batch(_))), "{kind}");
        }
        let error = engine.train_step(Batch { images: &[0.0; 72], labels: &[4] }).unwrap_err().to_string();
        assert!(error.contains("label 4"), "{kind}: {error}");
    }
    // A variance of one value.
    let flat = network("flat", [3, 1, 1], vec![conv(3, 16, 1, 0), norm(16), Layer::Flatten]);
    let mut engine = make(EngineKind::Cpu, &flat);
    let error = engine.train_step(Batch { images: &[0.0; 3], labels: &[1] }).unwrap_err().to_string();
    assert!(error.contains("features.0-1") && error.contains("larger batch"), "{error}");
    let cuda = Settings { device: DeviceName::Cuda(0), ..Settings::default() };
    let error = create(EngineKind::Cpu, &flat, &cuda).err().unwrap().to_string();
    assert!(error.contains("cuda:0") && error.contains("--device cpu"), "{error}");
}

/// Twenty steps and an evaluation of each network give the same bytes for 1, 2, 3 and 5 threads.
#[test]
fn threads_change_no_bit() {
    // Enough for several groups of images in every layer, the last of them short.
    const IMAGES: usize = 26;
    for name in Network::NAMES {
        let network = Network::by_name(name, 0.5).unwrap();
        let (images, labels) = (images(&network, IMAGES), labels(&network, IMAGES));
        let batch = Batch { images: &images, labels: &labels };
        let train = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut engine = make(EngineKind::Cpu, &network);
                for _ in 0..20 {
                    engine.train_step(batch).unwrap();
                }
                let logits = engine.logits(&images).unwrap();
                (engine.state().unwrap(), engine.totals().unwrap(), logits)
            })
        };
        let one = train(1);
        assert!(one.1.last_loss < 2.0, "{name} has not begun to learn 26 images: {}", one.1.last_loss);
        for threads in [2, 3, 5] {
            assert!(train(threads) == one, "{name}: {threads} threads give other bits than one");
        }
    }
}
