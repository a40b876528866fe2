//! What every engine must do, and that the engines agree.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

mod networks;

use networks::{
    conv, device_settings, distance, drawn_network, engines, graph_networks, images, labels, moved_state,
    network, norm, odd_networks, study, study_settings, tiny,
};
use pointwise_engine::cpu::Cpu;
use pointwise_engine::reference::Reference;
use pointwise_engine::{
    Array, Batch, DeviceName, Engine, EngineError, EngineKind, OptimizerState, Settings, State, Totals,
    count_correct, create,
};
use pointwise_kernels::Isa;
use pointwise_network::{AvgPool2d, Layer, MaxPool2d, Network};
use std::collections::BTreeMap;

fn make(kind: EngineKind, network: &Network) -> Box<dyn Engine> {
    create(kind, network, &device_settings(kind)).unwrap()
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
    let (network, settings) = (tiny(0.0), study_settings());
    gradients_are_finite_differences(&mut Reference::new(&network, &settings).unwrap());
    for isa in Isa::available() {
        gradients_are_finite_differences(&mut Cpu::with_isa(&network, &settings, isa).unwrap());
    }
}

/// Where the engine `cpu` is further than `tolerance` from the reference, on every instruction set: before, in and after a step.
fn disagreements(network: &Network, n: usize, tolerance: f32) -> Vec<String> {
    let settings = study_settings();
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
fn the_cpu_engine_agrees_with_the_reference_on_graphs() {
    const TOLERANCE: f32 = 5e-5;
    let mut failures = Vec::new();
    for network in graph_networks() {
        // As below, where rounding decides what a kink does.
        let mut last = Vec::new();
        let agrees = [3, 14, 2].into_iter().filter(|n| {
            let found = disagreements(&network, *n, TOLERANCE);
            last.extend(found.iter().cloned());
            found.is_empty()
        });
        if agrees.count() < 2 {
            failures.extend(last);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_cpu_engine_agrees_with_the_reference_on_networks_drawn_at_random() {
    // Deep networks accumulate rounding, above all in biases whose gradients almost cancel. A wrong value is off by a large fraction.
    const TOLERANCE: f32 = 1e-3;
    let failures: Vec<String> =
        (0..200).flat_map(|seed| disagreements(&drawn_network(seed), 4, TOLERANCE)).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_cpu_engine_agrees_with_the_reference_on_variations_of_nin() {
    const TOLERANCE: f32 = 5e-5;
    let mut failures = Vec::new();
    for name in ["nin-r4", "nin-relu", "nin-nopad", "nin-nopad-relu-r2"] {
        let network = Network::by_name(name).unwrap();
        // Where rounding decides which of two values a pool takes, or the side of a ReLU, gradients change by several percent. That happens
        // to a batch now and then; a wrong engine agrees on none.
        let mut last = Vec::new();
        let agrees = [2, 3, 4, 5, 6].into_iter().any(|n| {
            last = disagreements(&network, n, TOLERANCE);
            last.is_empty()
        });
        failures.extend(if agrees { Vec::new() } else { last });
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn room_left_from_a_larger_batch_changes_nothing() {
    let network = &odd_networks()[4];
    let (images, labels) = (images(network, 9), labels(network, 9));
    let part = network.input.iter().product::<usize>() * 4;
    let small = Batch { images: &images[..part], labels: &labels[..4] };
    let mut fresh = Cpu::new(network, &study_settings()).unwrap();
    let expected = (fresh.logits(small.images).unwrap(), fresh.differentiate(small));
    let mut used = Cpu::new(network, &study_settings()).unwrap();
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
    for kind in engines() {
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
        assert_eq!(state.optimizer.as_ref().unwrap().step, 61);
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
    for kind in engines() {
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
    for kind in engines() {
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
        for kind in engines() {
            let mut engine = make(kind, &network);
            engine.load_state(&state).unwrap();
            assert_eq!(engine.state().unwrap(), state, "{} on {kind}", network.name);
        }
    }
}

#[test]
fn a_state_of_another_network_is_refused_and_changes_nothing() {
    type Break = fn(&mut State);
    let breakages: [(&str, Break); 6] = [
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
        (
            "`features.0.bias`, `features.0.weight` are missing; the network has no `a`, `b`, `c` and 2 more",
            |s| {
                let array = s.parameters.remove("features.0.bias").unwrap();
                s.parameters.remove("features.0.weight");
                let extra = ["d", "c", "e", "a", "b"].map(|name| (name.to_owned(), array.clone()));
                s.parameters.extend(extra);
            },
        ),
        ("exp_avg of `features.0.bias` is missing", |s| {
            let mut first = s.parameters.clone();
            first.remove("features.0.bias");
            let buffers = [("exp_avg", first), ("exp_avg_sq", s.parameters.clone())];
            let buffers = buffers.map(|(name, arrays)| (name.to_owned(), arrays)).into();
            s.optimizer = Some(OptimizerState { buffers, step: 1 });
        }),
    ];
    for kind in engines() {
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
    for kind in engines() {
        let mut engine = make(kind, &network);
        let mut images = images(&network, 2);
        images[0] = f32::NAN;
        // An asynchronous engine reports it later.
        let step = engine.train_step(Batch { images: &images, labels: &[0, 1] });
        let error = step.and_then(|()| engine.totals().map(drop)).unwrap_err();
        assert!(matches!(error, EngineError::NotFinite { step: 1, .. }), "{kind}: {error}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn memory_that_is_not_there_is_refused_before_it_is_taken() {
    for kind in [EngineKind::Reference, EngineKind::Cpu] {
        let network = tiny(0.0);
        let mut engine = make(kind, &network);
        let before = engine.state().unwrap();
        for training in [true, false] {
            let error = engine.prepare(1 << 34, training, 0).unwrap_err();
            assert!(matches!(error, EngineError::Memory { .. }), "{kind}: {error}");
            assert!(error.to_string().contains("give a smaller --batch-size"), "{kind}: {error}");
        }
        // Nor is what the caller needs in addition.
        let error = engine.prepare(2, true, 1 << 50).unwrap_err();
        assert!(matches!(error, EngineError::Memory { .. }), "{kind}: {error}");
        // It can be used as before.
        engine.prepare(2, true, 0).unwrap();
        assert_eq!(engine.state().unwrap(), before);
        engine.train_step(Batch { images: &images(&network, 2), labels: &[0, 1] }).unwrap();
    }
}

#[test]
fn a_nan_passes_a_pool_on_every_engine() {
    let stride = |layer: MaxPool2d, stride: usize, padding: usize| MaxPool2d {
        stride: Some(stride.into()),
        padding: padding.into(),
        ..layer
    };
    let max = |layer: MaxPool2d| network("maximum", [1, 4, 4], vec![layer.into()]);
    // The kernel of the convolution takes the maximum, too.
    let behind = |layer: Layer| network("behind a convolution", [1, 4, 4], vec![conv(1, 1, 0), layer]);
    let mean = |layer: AvgPool2d| network("mean", [1, 4, 4], vec![layer.into()]);
    // How many outputs have a place of the upper left corner in their window.
    for (network, places) in [
        (max(MaxPool2d::new(2)), [(0, 1), (1, 1), (4, 1), (5, 1)]),
        (max(stride(MaxPool2d::new(3), 1, 1)), [(0, 4), (1, 6), (4, 6), (5, 9)]),
        (max(stride(MaxPool2d::new(3), 2, 1)), [(0, 1), (1, 2), (4, 2), (5, 4)]),
        (behind(MaxPool2d::new(2).into()), [(0, 1), (1, 1), (4, 1), (5, 1)]),
        (mean(AvgPool2d::new(2)), [(0, 1), (1, 1), (4, 1), (5, 1)]),
        (behind(AvgPool2d::new(2).into()), [(0, 1), (1, 1), (4, 1), (5, 1)]),
    ] {
        for (place, count) in places {
            let mut images = vec![1.0; 16];
            images[place] = f32::NAN;
            for kind in engines() {
                let mut engine = make(kind, &network);
                let mut state = engine.state().unwrap();
                for (name, array) in &mut state.parameters {
                    array.values.fill(if name.ends_with("weight") { 1.0 } else { 0.0 });
                }
                engine.load_state(&state).unwrap();
                let logits = engine.logits(&images).unwrap();
                let (nans, others): (Vec<f32>, Vec<f32>) = logits.iter().partition(|x| x.is_nan());
                assert_eq!(nans.len(), count, "{kind}, {}, {place}: {logits:?}", network.name);
                assert!(others.iter().all(|x| *x == 1.0), "{kind}, {place}: {logits:?}");
                if !state.parameters.is_empty() {
                    let step = engine.train_step(Batch { images: &images, labels: &[0] });
                    let error = step.and_then(|()| engine.totals().map(drop)).unwrap_err();
                    assert!(
                        matches!(error, EngineError::NotFinite { step: 1, .. }),
                        "{kind}, {place}: {error}"
                    );
                }
            }
        }
    }
}

#[test]
fn batches_that_cannot_be_computed_are_refused() {
    for kind in engines() {
        let network = tiny(0.0);
        let mut engine = make(kind, &network);
        for images in [&[][..], &[0.0; 71]] {
            assert!(matches!(engine.logits(images), Err(EngineError::Batch(_))), "{kind}");
        }
        let error = engine.train_step(Batch { images: &[0.0; 72], labels: &[4] }).unwrap_err().to_string();
        assert!(error.contains("label 4"), "{kind}: {error}");
    }
    // A variance of one value.
    let flat = network("flat", [3, 1, 1], vec![conv(16, 1, 0), norm()]);
    for kind in [EngineKind::Cpu, EngineKind::Reference] {
        let mut engine = make(kind, &flat);
        let error = engine.train_step(Batch { images: &[0.0; 3], labels: &[1] }).unwrap_err().to_string();
        assert!(error.contains("BatchNorm at features.") && error.contains("larger batch"), "{error}");
    }
    let cuda = Settings { device: DeviceName::Cuda(0), ..study_settings() };
    let error = create(EngineKind::Cpu, &flat, &cuda).err().unwrap().to_string();
    assert!(error.contains("cuda:0") && error.contains("--device cpu"), "{error}");
}

/// Steps and an evaluation of each network give the same bytes for 1, 2, 3 and 5 threads: twenty steps of the published networks, in which
/// they begin to learn, and five of networks with every kind of layer.
#[test]
fn threads_change_no_bit() {
    // Enough for several groups of images in every layer, the last of them short.
    const IMAGES: usize = 26;
    let published = study().arms.into_iter().map(|arm| (arm.network, 20));
    for (network, steps) in published.chain(graph_networks().into_iter().map(|all| (all, 5))) {
        let name = &network.name;
        let (images, labels) = (images(&network, IMAGES), labels(&network, IMAGES));
        let batch = Batch { images: &images, labels: &labels };
        let train = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut engine = make(EngineKind::Cpu, &network);
                for _ in 0..steps {
                    engine.train_step(batch).unwrap();
                }
                let logits = engine.logits(&images).unwrap();
                (engine.state().unwrap(), engine.totals().unwrap(), logits)
            })
        };
        let one = train(1);
        assert!(
            steps < 20 || one.1.last_loss < 2.0,
            "{name} has not begun to learn 26 images: {}",
            one.1.last_loss
        );
        for threads in [2, 3, 5] {
            assert!(train(threads) == one, "{name}: {threads} threads differ from one");
        }
    }
}
