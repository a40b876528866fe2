//! A recipe's effect on a step: the engines agree, and each part does what it says.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

mod networks;

use networks::{
    device_settings, distance, engines, graph_networks, images, labels, moved_state, odd_networks,
    study_recipe, study_settings, tiny,
};
use pointwise_engine::cpu::{Cpu, training_memory};
use pointwise_engine::{Array, Batch, Engine, EngineError, EngineKind, Settings, State, Totals, create};
use pointwise_network::Network;
use pointwise_recipe::{
    Adam, AdamW, Ema, Lookahead, OneCycleLr, Optimizer, ParameterGroup, Rate, Recipe, Schedule, Sgd, Span,
};
use std::collections::BTreeMap;

/// Images in a batch.
const IMAGES: usize = 8;

/// Steps of a training.
const STEPS: u64 = 20;

fn make(kind: EngineKind, network: &Network, recipe: &Recipe) -> Box<dyn Engine> {
    create(kind, network, &Settings { recipe: recipe.clone(), ..device_settings(kind) }).unwrap()
}

/// Smooth, so that rounding decides nothing, and without a bias before a norm, whose gradient is nothing but rounding. Channels do not fill
/// vectors.
fn smooth() -> Network {
    Network::from_toml(
        r#"
        name = "smooth"
        input = [3, 8, 8]
        layers = [
            { name = "a", Conv2d = { out_channels = 19, kernel_size = 3, padding = 1, bias = false } },
            { name = "norm", BatchNorm2d = {} }, "SiLU", { AvgPool2d = { kernel_size = 2 } },
            { name = "b", Conv2d = { out_channels = 9, kernel_size = 3 } }, "Tanh", "Flatten",
            { Dropout = { p = 0.2 } }, { name = "head", Linear = { out_features = 5 } },
        ]
        "#,
    )
    .unwrap()
}

/// Every optimizer, in every way. Adam's `eps` keeps it from dividing rounding by rounding.
fn optimizers() -> Vec<Optimizer> {
    let sgd = Sgd { lr: 0.05, ..Sgd::default() };
    let heavy = Sgd { momentum: 0.9, weight_decay: 5e-3, ..sgd.clone() };
    vec![
        Adam { weight_decay: 5e-3, eps: 1e-5, ..Adam::default() }.into(),
        AdamW { weight_decay: 0.1, eps: 1e-5, ..AdamW::default() }.into(),
        sgd.into(),
        heavy.clone().into(),
        Sgd { nesterov: true, ..heavy }.into(),
    ]
}

fn group(names: Option<&str>, max_dims: Option<usize>, lr_factor: f64, decay: Option<f64>) -> ParameterGroup {
    ParameterGroup {
        names: names.map(str::to_owned),
        max_dims,
        lr_factor,
        weight_decay: decay,
        frozen_after: None,
    }
}

/// Groups of [`smooth`] of which some are not side by side.
fn groups() -> Vec<ParameterGroup> {
    vec![
        group(Some("head.*"), None, 0.5, Some(0.3)),
        group(None, Some(1), 1.0, Some(0.0)),
        group(Some("b.weight"), None, 2.0, None),
    ]
}

/// Every optimizer, with all that a step can have.
fn full_recipes() -> Vec<Recipe> {
    let full = |optimizer| Recipe {
        optimizer,
        parameter_groups: groups(),
        label_smoothing: 0.1,
        clip_norm: Some(0.5),
        ema: Some(Ema { decay: 0.8 }),
        ..study_recipe()
    };
    optimizers().into_iter().map(full).collect()
}

/// Every optimizer, with slow weights, and with groups frozen from the start, after one epoch and after two.
fn returning_recipes() -> Vec<Recipe> {
    let recipe = |optimizer| Recipe {
        optimizer,
        lookahead: Some(Lookahead { every: 3, decay: 0.9, power: 2.0 }),
        ..freezing(groups())
    };
    optimizers().into_iter().map(recipe).collect()
}

/// Groups of which the first is frozen after one epoch, the next from the start, and others after two epochs.
fn freezing(mut parameter_groups: Vec<ParameterGroup>) -> Recipe {
    for (group, epochs) in parameter_groups.iter_mut().zip([1, 0, 2]) {
        group.frozen_after = Some(epochs);
    }
    Recipe { parameter_groups, ..study_recipe() }
}

/// Every optimizer with and without each part of a step.
fn recipes() -> Vec<Recipe> {
    let parts = full_recipes().into_iter().flat_map(|whole| (0..16).map(move |parts| (whole.clone(), parts)));
    let some = |(whole, parts): (Recipe, i32)| {
        let has = |part: i32| parts & part != 0;
        Recipe {
            parameter_groups: if has(1) { groups() } else { Vec::new() },
            label_smoothing: if has(2) { whole.label_smoothing } else { 0.0 },
            clip_norm: whole.clip_norm.filter(|_| has(4)),
            ema: whole.ema.filter(|_| has(8)),
            ..whole
        }
    };
    parts.map(some).chain(returning_recipes()).collect()
}

/// Four epochs; slow weights are not averaged automatically after the last step.
fn span() -> Span {
    Span::of_epochs(STEPS / 4, 4)
}

/// The rate of a step: it changes, and the momentum with it.
fn rate(recipe: &Recipe, step: u64) -> Rate {
    let schedule = Schedule::OneCycle(OneCycleLr::default());
    Recipe { schedule, ..recipe.clone() }.rate(step, span())
}

/// Takes steps `from` to `to` of a training on one batch.
fn train(engine: &mut dyn Engine, network: &Network, recipe: &Recipe, from: u64, to: u64) {
    let (images, labels) = (images(network, IMAGES), labels(network, IMAGES));
    for step in from..to {
        engine.set_rate(rate(recipe, step)).unwrap();
        engine.train_step(Batch { images: &images, labels: &labels }).unwrap();
        if let Some(decay) = recipe.lookahead.and_then(|it| it.decay_after(step + 1, span())) {
            engine.lookahead(decay).unwrap();
        }
    }
}

/// All arrays of a state, by kind and name.
fn arrays(state: &State) -> BTreeMap<String, &Array> {
    let average = state.average.iter().flat_map(|average| [&average.parameters, &average.statistics]);
    let buffers = state.optimizer.iter().flat_map(|optimizer| &optimizer.buffers);
    let sets = [("", &state.parameters), ("", &state.statistics)].into_iter();
    let sets = sets.chain(average.map(|arrays| ("average", arrays)));
    let sets = sets.chain(buffers.map(|(buffer, arrays)| (buffer.as_str(), arrays)));
    sets.flat_map(|(what, arrays)| arrays.iter().map(move |(name, array)| (format!("{what} {name}"), array)))
        .collect()
}

#[test]
fn every_engine_agrees_with_the_reference_on_every_recipe() {
    // Twenty steps of a small network whose rounding has nowhere to grow.
    const TOLERANCE: f32 = 1e-4;
    let network = smooth();
    let images = images(&network, IMAGES);
    let mut failures = Vec::new();
    let others = || engines().into_iter().filter(|kind| *kind != EngineKind::Reference);
    for (recipe, other) in recipes().iter().flat_map(|recipe| others().map(move |kind| (recipe, kind))) {
        let [expected, got] = [EngineKind::Reference, other].map(|kind| {
            let mut engine = make(kind, &network, recipe);
            engine.load_state(&moved_state(&network)).unwrap();
            train(&mut *engine, &network, recipe, 0, STEPS);
            let mut logits = vec![engine.logits(&images).unwrap()];
            if recipe.ema.is_some() {
                engine.use_average(true).unwrap();
                logits.push(engine.logits(&images).unwrap());
                assert_ne!(logits[0], logits[1]);
            }
            (engine.state().unwrap(), engine.totals().unwrap(), logits)
        });
        let mut check = |what: &str, distance: f32| {
            if distance > TOLERANCE {
                failures.push(format!("{other}: {what} is {distance:.1e} away with {recipe:?}"));
            }
        };
        let (ours, theirs) = (arrays(&got.0), arrays(&expected.0));
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
        for (name, array) in ours {
            assert_eq!(array.shape, theirs[&name].shape, "{name}");
            check(&name, distance(&array.values, &theirs[&name].values, 1e-2));
        }
        for (got, expected) in got.2.iter().zip(&expected.2) {
            check("a logit", distance(got, expected, 0.1));
        }
        assert_eq!(got.0.optimizer.as_ref().unwrap().step, STEPS);
        assert_eq!(got.1.last_gradient_norm.is_some(), recipe.clip_norm.is_some());
        let numbers = |totals: &Totals| {
            [totals.loss_sum, totals.last_loss, totals.last_gradient_norm.unwrap_or(0.0)].map(|x| x as f32)
        };
        check("the totals", distance(&numbers(&got.1), &numbers(&expected.1), 0.1));
    }
    assert!(failures.is_empty(), "{}:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn threads_change_no_bit_with_any_optimizer() {
    // Enough parameters for several runs of the optimizer.
    let network = Network::from_toml(
        r#"
        name = "wide"
        input = [3, 8, 8]
        layers = [
            { name = "a", Conv2d = { out_channels = 33, kernel_size = 3, padding = 1 } },
            { name = "norm", BatchNorm2d = {} }, "ReLU", "Flatten",
            { name = "b", Linear = { out_features = 40 } }, "ReLU", { name = "head", Linear = { out_features = 7 } },
        ]
        "#,
    )
    .unwrap();
    for recipe in full_recipes() {
        let trained = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut engine = make(EngineKind::Cpu, &network, &recipe);
                train(&mut *engine, &network, &recipe, 0, 5);
                engine.use_average(true).unwrap();
                let logits = engine.logits(&images(&network, IMAGES)).unwrap();
                (engine.state().unwrap(), engine.totals().unwrap(), logits)
            })
        };
        let one = trained(1);
        for threads in [2, 3, 5] {
            assert!(trained(threads) == one, "{threads} threads differ from one with {recipe:?}");
        }
    }
}

#[test]
fn a_loaded_state_goes_on_to_the_same_bits_with_any_optimizer() {
    let network = tiny(0.5);
    for (kind, recipe) in
        engines().into_iter().flat_map(|kind| full_recipes().into_iter().map(move |all| (kind, all)))
    {
        // The recipes' groups belong to another network.
        let recipe = Recipe { parameter_groups: vec![group(None, Some(1), 0.5, Some(0.0))], ..recipe };
        let mut whole = make(kind, &network, &recipe);
        train(&mut *whole, &network, &recipe, 0, 3);
        let middle = whole.state().unwrap();
        train(&mut *whole, &network, &recipe, 3, 6);
        let expected = whole.state().unwrap();
        for in_use in [false, true] {
            let mut resumed = make(kind, &network, &recipe);
            // What it did before must not show; a state may be loaded while the averaged weights are in use.
            train(&mut *resumed, &network, &recipe, 0, 2);
            resumed.use_average(in_use).unwrap();
            resumed.load_state(&middle).unwrap();
            assert!(resumed.state().unwrap() == middle, "{kind}, {in_use}: {recipe:?}");
            resumed.use_average(false).unwrap();
            train(&mut *resumed, &network, &recipe, 3, 6);
            assert!(resumed.state().unwrap() == expected, "{kind}, {in_use}: {recipe:?}");
        }
    }
}

/// At a step after which weights are averaged, and between two; into an engine that has trained differently.
#[test]
fn slow_weights_and_frozen_groups_go_on_to_the_same_bits() {
    let network = smooth();
    for (kind, recipe) in
        engines().into_iter().flat_map(|kind| returning_recipes().into_iter().map(move |all| (kind, all)))
    {
        let mut engine = make(kind, &network, &recipe);
        let states = (0..9).map(|step| {
            let state = engine.state().unwrap();
            train(&mut *engine, &network, &recipe, step, step + 1);
            state
        });
        let whole: Vec<State> = states.collect();
        for (step, state) in whole.iter().enumerate() {
            assert_eq!(state.average.is_some(), step > 0, "{kind}, {step}");
            if let Some(slow) = &state.average {
                let returned = step.is_multiple_of(3);
                assert_eq!(state.parameters == slow.parameters, returned, "{kind}, {step}");
                assert_eq!(state.statistics == slow.statistics, returned, "{kind}, {step}");
            }
        }
        for middle in [0, 1, 3, 5] {
            let mut resumed = make(kind, &network, &recipe);
            train(&mut *resumed, &network, &recipe, 0, 4);
            resumed.load_state(&whole[middle]).unwrap();
            assert!(resumed.state().unwrap() == whole[middle], "{kind}, {middle}: {recipe:?}");
            train(&mut *resumed, &network, &recipe, middle as u64, 8);
            assert!(resumed.state().unwrap() == whole[8], "{kind}, {middle}: {recipe:?}");
        }
    }
}

/// Slow weights follow the formula from the trained ones, which are then equal to them; nothing else changes.
#[test]
fn lookahead_averages_into_the_slow_weights_and_returns_to_them() {
    let network = smooth();
    let images = images(&network, IMAGES);
    for (kind, decay) in
        engines().into_iter().flat_map(|kind| [0.0, 0.3, 0.5, 0.95, 1.0].map(|decay| (kind, decay)))
    {
        let recipe = Recipe { lookahead: Some(Lookahead::default()), ..study_recipe() };
        let mut engine = make(kind, &network, &recipe);
        engine.load_state(&moved_state(&network)).unwrap();
        let mut slow = engine.state().unwrap();
        // By hand: the recipe's own steps are not used.
        let own = Recipe { lookahead: None, ..recipe };
        for turn in 0..3 {
            train(&mut *engine, &network, &own, 2 * turn, 2 * turn + 2);
            let before = engine.state().unwrap();
            let average = before.average.as_ref().unwrap();
            assert_eq!(average.parameters, slow.parameters, "{kind}, {decay}: a step moves no slow weight");
            assert_eq!(average.statistics, slow.statistics, "{kind}, {decay}");
            // The transformed weights that evaluation keeps are those of the old ones.
            let trained = engine.logits(&images).unwrap();
            engine.lookahead(decay).unwrap();
            let after = engine.state().unwrap();
            for (got, [old, new]) in [
                (&after.parameters, [&slow.parameters, &before.parameters]),
                (&after.statistics, [&slow.statistics, &before.statistics]),
            ] {
                for (name, array) in got {
                    let both = old[name].values.iter().zip(&new[name].values);
                    let expected: Vec<f32> = both
                        .map(|(old, new)| (decay * f64::from(*old) + (1.0 - decay) * f64::from(*new)) as f32)
                        .collect();
                    let far = distance(&array.values, &expected, 1e-3);
                    // Both ends are met exactly.
                    let most = if decay == 0.0 || decay == 1.0 { 0.0 } else { 1e-6 };
                    assert!(far <= most, "{kind}, {decay}: {name} is {far:.1e} away");
                }
            }
            let average = after.average.as_ref().unwrap();
            assert_eq!(average.parameters, after.parameters, "{kind}, {decay}");
            assert_eq!(average.statistics, after.statistics, "{kind}, {decay}");
            assert_eq!(after.optimizer, before.optimizer, "{kind}, {decay}");
            assert_eq!(after.batches_tracked, before.batches_tracked, "{kind}, {decay}");
            let mut other = make(kind, &network, &study_recipe());
            other.load_state(&State { optimizer: None, average: None, ..after.clone() }).unwrap();
            let logits = engine.logits(&images).unwrap();
            assert_eq!(logits, other.logits(&images).unwrap(), "{kind}, {decay}");
            assert_eq!(logits == trained, decay == 0.0, "{kind}, {decay}");
            slow = after;
        }
        for share in [-0.1, 1.1, f64::NAN] {
            let error = engine.lookahead(share).unwrap_err().to_string();
            assert_eq!(error, "the kept fraction of the slow weights must be from 0 to 1");
        }
        for on in [true, false] {
            let error = engine.use_average(on).unwrap_err().to_string();
            assert_eq!(error, "there are no averaged weights: give the recipe an `ema`", "{kind}");
        }
        for ema in [None, Some(Ema::default())] {
            let mut other = make(kind, &network, &Recipe { ema, ..study_recipe() });
            let error = other.lookahead(0.5).unwrap_err().to_string();
            assert_eq!(error, "there are no slow weights: give the recipe a `lookahead`", "{kind}");
        }
    }
}

/// From its epoch on, including its optimizer state, whatever else is part of a step; BatchNorm's statistics continue.
#[test]
fn a_frozen_group_stands_still_to_the_bit() {
    let network = smooth();
    let bits = |arrays: &BTreeMap<String, Array>, name: &str| -> Vec<u32> {
        arrays[name].values.iter().map(|value| value.to_bits()).collect()
    };
    for (kind, optimizer) in
        engines().into_iter().flat_map(|kind| optimizers().into_iter().map(move |all| (kind, all)))
    {
        // As many steps as an epoch has, and then some, for each.
        let recipe = Recipe { optimizer, ..freezing(groups()) };
        let mut engine = make(kind, &network, &recipe);
        let mut start = moved_state(&network);
        // A negative zero is not a positive one.
        start.parameters.values_mut().for_each(|array| array.values[0] = -0.0);
        engine.load_state(&start).unwrap();
        let mut before = engine.state().unwrap();
        for step in 0..14 {
            train(&mut *engine, &network, &recipe, step, step + 1);
            let after = engine.state().unwrap();
            let epoch = (step / 5) as u32;
            for name in after.parameters.keys() {
                let group = recipe.group(name, after.parameters[name].shape.len());
                let frozen = group.frozen_after.is_some_and(|epochs| epoch >= epochs);
                let what = format!("{kind}: {name} in epoch {epoch} with {recipe:?}");
                let still = bits(&after.parameters, name) == bits(&before.parameters, name);
                assert_eq!(still, frozen, "{what}");
                let (before, after) = (before.optimizer.as_ref(), after.optimizer.as_ref().unwrap());
                for (buffer, arrays) in &after.buffers {
                    match before {
                        Some(before) if frozen => {
                            let old = bits(&before.buffers[buffer], name);
                            assert!(bits(arrays, name) == old, "{what}: {buffer}");
                        }
                        None if frozen => {
                            assert!(arrays[name].values.iter().all(|x| *x == 0.0), "{what}: {buffer}");
                        }
                        _ => {}
                    }
                }
            }
            assert!(after.statistics != before.statistics, "{kind}: statistics of step {step}");
            before = after;
        }
    }
}

/// Whatever becomes of the engine, and on whichever thread it is converted to names.
#[test]
fn a_snapshot_is_the_state_as_it_was() {
    let network = tiny(0.5);
    for (kind, recipe) in
        engines().into_iter().flat_map(|kind| full_recipes().into_iter().map(move |all| (kind, all)))
    {
        // The recipes' groups belong to another network.
        let recipe = Recipe { parameter_groups: vec![group(None, Some(1), 0.5, Some(0.0))], ..recipe };
        let mut engine = make(kind, &network, &recipe);
        for (from, to) in [(0, 0), (0, 3)] {
            train(&mut *engine, &network, &recipe, from, to);
            let state = engine.state().unwrap();
            assert_eq!((state.optimizer.is_some(), state.average.is_some()), (to > 0, to > 0));
            for in_use in [false, true] {
                engine.use_average(in_use).unwrap();
                let snapshots = [true, false].map(|optimizer| engine.snapshot(optimizer).unwrap());
                engine.use_average(false).unwrap();
                train(&mut *engine, &network, &recipe, to, to + 2);
                let [whole, weights] = snapshots
                    .map(|snapshot| std::thread::spawn(|| snapshot.state().unwrap()).join().unwrap());
                assert!(whole == state, "{kind}, {in_use}: {recipe:?}");
                let expected = State { optimizer: None, average: None, ..state.clone() };
                assert!(weights == expected, "{kind}, {in_use}: {recipe:?}");
                engine.load_state(&state).unwrap();
            }
        }
    }
}

#[test]
fn a_state_passes_between_engines_with_any_optimizer() {
    let network = smooth();
    for recipe in full_recipes() {
        let pairs = |kind| [[EngineKind::Reference, kind], [kind, EngineKind::Reference]];
        for [from, to] in engines().into_iter().flat_map(pairs) {
            let mut first = make(from, &network, &recipe);
            train(&mut *first, &network, &recipe, 0, 2);
            let state = first.state().unwrap();
            let mut second = make(to, &network, &recipe);
            second.load_state(&state).unwrap();
            assert!(second.state().unwrap() == state, "{from} to {to}: {recipe:?}");
        }
    }
}

#[test]
fn the_average_is_that_of_every_step() {
    let network = smooth();
    let (images, labels) = (images(&network, IMAGES), labels(&network, IMAGES));
    let batch = Batch { images: &images, labels: &labels };
    for (kind, decay) in engines().into_iter().flat_map(|kind| [0.0, 0.3, 0.9].map(|decay| (kind, decay))) {
        let recipe = Recipe { ema: Some(Ema { decay }), ..study_recipe() };
        let mut engine = make(kind, &network, &recipe);
        let mut plain = make(kind, &network, &study_recipe());
        // Before the first step it equals the weights.
        let initial = engine.logits(&images).unwrap();
        engine.use_average(true).unwrap();
        assert_eq!(engine.logits(&images).unwrap(), initial);
        assert_eq!(engine.state().unwrap().average, None);
        engine.use_average(false).unwrap();
        let mut expected: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for step in 0..4 {
            engine.train_step(batch).unwrap();
            plain.train_step(batch).unwrap();
            let state = engine.state().unwrap();
            // Averaging does not change the training.
            assert_eq!(State { average: None, ..state.clone() }, plain.state().unwrap());
            let trained = state.parameters.iter().chain(&state.statistics);
            for (name, array) in trained {
                let new = array.values.iter().map(|x| f64::from(*x));
                let old = expected.entry(name.clone()).or_default();
                *old = match step {
                    0 => new.collect(),
                    _ => old.iter().zip(new).map(|(old, new)| decay * old + (1.0 - decay) * new).collect(),
                };
            }
            let average = state.average.clone().unwrap();
            assert_eq!(
                average.parameters.keys().collect::<Vec<_>>(),
                state.parameters.keys().collect::<Vec<_>>()
            );
            assert_eq!(
                average.statistics.keys().collect::<Vec<_>>(),
                state.statistics.keys().collect::<Vec<_>>()
            );
            for (name, array) in average.parameters.iter().chain(&average.statistics) {
                let expected: Vec<f32> = expected[name].iter().map(|x| *x as f32).collect();
                assert!(distance(&array.values, &expected, 1e-3) < 1e-6, "{kind}, {decay}: {name}");
            }
            // What evaluation computes with.
            let raw = engine.logits(&images).unwrap();
            engine.use_average(true).unwrap();
            assert!(engine.state().unwrap() == state, "{kind}");
            let averaged = engine.logits(&images).unwrap();
            let mut other = make(kind, &network, &study_recipe());
            other
                .load_state(&State {
                    parameters: average.parameters,
                    statistics: average.statistics,
                    ..State::default()
                })
                .unwrap();
            assert_eq!(averaged, other.logits(&images).unwrap(), "{kind}");
            engine.use_average(true).unwrap();
            assert_eq!(engine.logits(&images).unwrap(), averaged, "{kind}");
            let error = engine.train_step(batch).unwrap_err().to_string();
            assert_eq!(error, "the averaged weights are in use: switch back to the trained ones to train");
            engine.use_average(false).unwrap();
            engine.use_average(false).unwrap();
            assert_eq!(engine.logits(&images).unwrap(), raw, "{kind}");
            assert!(engine.state().unwrap() == state, "{kind}");
        }
        for on in [true, false] {
            let error = plain.use_average(on).unwrap_err().to_string();
            assert_eq!(error, "there are no averaged weights: give the recipe an `ema`");
        }
    }
}

/// The norm of all values.
fn norm<'a>(arrays: impl Iterator<Item = &'a Array>) -> f64 {
    arrays.flat_map(|array| &array.values).map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// Of the padded gradients, that is: padding adds nothing.
#[test]
fn the_norm_is_that_of_all_gradients() {
    for network in odd_networks().into_iter().chain(graph_networks()).chain([smooth()]) {
        let (images, labels) = (images(&network, 5), labels(&network, 5));
        let batch = Batch { images: &images, labels: &labels };
        let recipe = Recipe { clip_norm: Some(1e9), ..study_recipe() };
        let settings = Settings { recipe, ..study_settings() };
        let state = moved_state(&network);
        let mut engine = Cpu::new(&network, &settings).unwrap();
        engine.load_state(&state).unwrap();
        let (_, gradients) = engine.gradients(batch).unwrap();
        let expected = norm(gradients.values());
        engine.load_state(&state).unwrap();
        // A second step: what the first left in the padding would show.
        for _ in 0..2 {
            engine.train_step(batch).unwrap();
            let got = engine.totals().unwrap().last_gradient_norm.unwrap();
            engine.load_state(&state).unwrap();
            assert!((got / expected - 1.0).abs() < 1e-12, "{}: {got}, not {expected}", network.name);
        }
    }
}

#[test]
fn a_step_is_no_longer_than_clipping_allows() {
    let network = smooth();
    let (images, labels) = (images(&network, IMAGES), labels(&network, IMAGES));
    let batch = Batch { images: &images, labels: &labels };
    for kind in engines() {
        let moved_by = |clip_norm: Option<f64>| {
            let optimizer = Sgd { lr: 1.0, ..Sgd::default() }.into();
            let mut engine = make(kind, &network, &Recipe { optimizer, clip_norm, ..study_recipe() });
            let before = engine.state().unwrap().parameters;
            engine.train_step(batch).unwrap();
            let mut after = engine.state().unwrap().parameters;
            for (name, array) in &mut after {
                array.values.iter_mut().zip(&before[name].values).for_each(|(new, old)| *new -= old);
            }
            (norm(after.values()), engine.totals().unwrap().last_gradient_norm, after)
        };
        let (whole, none, free) = moved_by(None);
        assert_eq!(none, None);
        for most in [0.25 * whole, 1e-3, 2.0 * whole] {
            let (length, recorded, _) = moved_by(Some(most));
            assert!((length / whole.min(most) - 1.0).abs() < 1e-3, "{kind}, {most}: {length} of {whole}");
            assert!((recorded.unwrap() / whole - 1.0).abs() < 1e-4, "{kind}: {recorded:?}");
        }
        // A norm within the limit leaves every bit.
        assert!(moved_by(Some(2.0 * whole)).2 == free, "{kind}");
    }
}

/// A network whose loss is finite and whose gradients are as large as the factor.
fn steep(factor: f64) -> (Network, State) {
    let network = Network::from_toml(&format!(
        "name = \"steep\"\ninput = [1, 2, 2]\nlayers = [\"Flatten\", {{ name = \"head\", Linear = {{ out_features = 3 }} }}, \
         {{ Scale = {{ factor = {factor:e} }} }}]"
    ))
    .unwrap();
    let mut state = make(EngineKind::Cpu, &network, &study_recipe()).state().unwrap();
    state.parameters.values_mut().for_each(|array| array.values.fill(0.0));
    (network, state)
}

#[test]
fn a_norm_that_is_not_finite_stops_and_leaves_the_parameters() {
    let batch = Batch { images: &[100.0; 8], labels: &[0, 2] };
    let recipe = Recipe { clip_norm: Some(1.0), ema: Some(Ema::default()), ..study_recipe() };
    for kind in engines() {
        let (network, state) = steep(3e38);
        let mut engine = make(kind, &network, &recipe);
        engine.load_state(&state).unwrap();
        // An asynchronous engine reports it later.
        let error = engine.train_step(batch).and_then(|()| engine.totals().map(drop)).unwrap_err();
        assert!(
            matches!(error, EngineError::NotFinite { step: 1, quantity: "gradient norm", .. }),
            "{kind}: {error}"
        );
        assert!(error.to_string().starts_with("the gradient norm of step 1 is "), "{error}");
        assert_eq!(engine.state().unwrap(), state, "{kind}");
        if kind != EngineKind::Cuda {
            assert_eq!(engine.totals().unwrap(), Totals::default(), "{kind}");
        }
        // A norm is clipped even if only its squares are too large for f32.
        let (network, state) = steep(1e30);
        let optimizer = Sgd { lr: 1.0, ..Sgd::default() }.into();
        let mut engine = make(kind, &network, &Recipe { optimizer, ..recipe.clone() });
        engine.load_state(&state).unwrap();
        engine.train_step(batch).unwrap();
        let length = norm(engine.state().unwrap().parameters.values());
        assert!((length - 1.0).abs() < 1e-5, "{kind}: {length}");
    }
}

#[test]
fn groups_have_a_rate_and_a_decay_of_their_own() {
    let network = smooth();
    for (kind, optimizer) in
        engines().into_iter().flat_map(|kind| optimizers().into_iter().map(move |all| (kind, all)))
    {
        let parameter_groups =
            vec![group(Some("b.*"), None, 0.0, None), group(Some("head.bias"), None, 1.0, Some(50.0))];
        let recipe = Recipe { optimizer: optimizer.clone(), parameter_groups, ..study_recipe() };
        let own = Recipe { optimizer, ..study_recipe() };
        let [grouped, plain] = [&recipe, &own].map(|recipe| {
            let mut engine = make(kind, &network, recipe);
            engine.load_state(&moved_state(&network)).unwrap();
            train(&mut *engine, &network, recipe, 0, 1);
            engine.state().unwrap().parameters
        });
        let initial = moved_state(&network).parameters;
        for name in initial.keys() {
            let (frozen, decayed) = (name.starts_with("b."), name == "head.bias");
            assert_eq!(grouped[name] == initial[name], frozen, "{kind}: {name} with {recipe:?}");
            assert_eq!(grouped[name] == plain[name], !frozen && !decayed, "{kind}: {name} with {recipe:?}");
        }
    }
}

#[test]
fn evaluation_is_the_plain_cross_entropy() {
    let network = smooth();
    let (images, labels) = (images(&network, IMAGES), labels(&network, IMAGES));
    let batch = Batch { images: &images, labels: &labels };
    for kind in engines() {
        let evaluated = |label_smoothing: f64| {
            let mut engine = make(kind, &network, &Recipe { label_smoothing, ..study_recipe() });
            engine.evaluate(batch).unwrap();
            engine.totals().unwrap()
        };
        assert_eq!(evaluated(0.5), evaluated(0.0), "{kind}");
        assert_eq!(evaluated(0.5).last_gradient_norm, None);
    }
}

#[test]
fn what_no_step_can_be_taken_with_is_refused() {
    let network = smooth();
    for kind in engines() {
        let mut engine = make(kind, &network, &study_recipe());
        for (lr, momentum, expected) in [
            (-0.1, None, "the learning rate of a step cannot be -0.1"),
            (f64::NAN, None, "the learning rate of a step cannot be NaN"),
            (f64::INFINITY, Some(0.9), "the learning rate of a step cannot be inf"),
            (0.1, Some(1.0), "the momentum of a step cannot be 1"),
            (0.1, Some(f64::NAN), "the momentum of a step cannot be NaN"),
        ] {
            assert_eq!(
                engine.set_rate(Rate { momentum, ..Rate::new(lr) }).unwrap_err().to_string(),
                expected,
                "{kind}"
            );
        }
        // As from a schedule that ends at zero.
        engine.set_rate(Rate { momentum: Some(0.0), ..Rate::new(0.0) }).unwrap();
        let refused = |recipe: Recipe| {
            create(kind, &network, &Settings { recipe, ..device_settings(kind) }).err().unwrap().to_string()
        };
        let parameter_groups = vec![group(Some("haed.*"), None, 1.0, None)];
        let error = refused(Recipe { parameter_groups, ..study_recipe() });
        assert!(error.starts_with("no parameter of the network belongs to parameter group 1"), "{error}");
        let error = refused(Recipe { clip_norm: Some(0.0), ..study_recipe() });
        assert_eq!(error, "clip-norm is 0.0, not a number above 0");
    }
}

#[test]
fn a_state_of_another_recipe_is_refused_and_changes_nothing() {
    let network = smooth();
    let ema = |optimizer: Optimizer| Recipe { optimizer, ema: Some(Ema::default()), ..study_recipe() };
    let plain = |optimizer: Optimizer| Recipe { optimizer, ..study_recipe() };
    let slow =
        |optimizer: Optimizer| Recipe { optimizer, lookahead: Some(Lookahead::default()), ..study_recipe() };
    let trained = |recipe: &Recipe| {
        let mut engine = make(EngineKind::Cpu, &network, recipe);
        train(&mut *engine, &network, recipe, 0, 1);
        engine.state().unwrap()
    };
    let (adam, sgd): (Optimizer, Optimizer) = (Adam::default().into(), Sgd::default().into());
    let (of_adam, of_sgd) = (trained(&plain(adam.clone())), trained(&plain(sgd.clone())));
    let averaged = trained(&ema(adam.clone()));
    let returned = trained(&slow(adam.clone()));
    let mut half = of_adam.clone();
    half.optimizer.as_mut().unwrap().buffers.remove("exp_avg_sq");
    let mut none = of_adam.clone();
    none.optimizer.as_mut().unwrap().buffers.clear();
    let mut unnamed = of_sgd.clone();
    unnamed.optimizer.as_mut().unwrap().buffers.get_mut("momentum_buffer").unwrap().remove("head.bias");
    let mut thinner = averaged.clone();
    thinner.average.as_mut().unwrap().statistics.remove("norm.running_var");
    for (recipe, state, expected) in [
        (
            plain(sgd.clone()),
            &of_adam,
            "the state comes from another recipe: its optimizer kept exp_avg and exp_avg_sq, but SGD keeps momentum_buffer",
        ),
        (
            plain(AdamW::default().into()),
            &of_sgd,
            "the state comes from another recipe: its optimizer kept momentum_buffer, but AdamW keeps exp_avg and exp_avg_sq",
        ),
        (
            plain(adam.clone()),
            &half,
            "the state comes from another recipe: its optimizer kept exp_avg, but Adam keeps exp_avg and exp_avg_sq",
        ),
        (
            plain(adam.clone()),
            &none,
            "the state comes from another recipe: its optimizer kept nothing, but Adam keeps exp_avg and exp_avg_sq",
        ),
        (
            ema(adam.clone()),
            &of_adam,
            "the state comes from another recipe: it has no averaged weights, but the recipe has `ema`",
        ),
        (
            plain(adam.clone()),
            &averaged,
            "the state comes from another recipe: it has averaged weights, but the recipe has neither `ema` nor `lookahead`",
        ),
        (
            slow(adam.clone()),
            &of_adam,
            "the state comes from another recipe: it has no slow weights, but the recipe has `lookahead`",
        ),
        (
            plain(adam.clone()),
            &returned,
            "the state comes from another recipe: it has averaged weights, but the recipe has neither `ema` nor `lookahead`",
        ),
        (plain(sgd), &unnamed, "the state is not one of `smooth`: momentum_buffer of `head.bias` is missing"),
        (ema(adam), &thinner, "the state is not one of `smooth`: average of `norm.running_var` is missing"),
    ] {
        for kind in engines() {
            let mut engine = make(kind, &network, &recipe);
            train(&mut *engine, &network, &recipe, 0, 2);
            let before = engine.state().unwrap();
            assert_eq!(engine.load_state(state).unwrap_err().to_string(), expected, "{kind}");
            assert!(engine.state().unwrap() == before, "{kind}: {expected}");
            // Weights alone start a new training run.
            let (optimizer, average) = (None, None);
            engine.load_state(&State { optimizer, average, ..state.clone() }).unwrap();
            assert!(engine.state().unwrap().optimizer.is_none(), "{kind}");
        }
    }
}

#[test]
fn memory_is_counted_by_what_the_optimizer_keeps() {
    let network = smooth();
    let parameters = |recipe: &Recipe| training_memory(&network, recipe, 3).unwrap().parameters;
    let with =
        |optimizer: Optimizer, ema: Option<Ema>| parameters(&Recipe { optimizer, ema, ..study_recipe() });
    let adam = with(Adam::default().into(), None);
    assert!(adam.is_multiple_of(4));
    assert_eq!(with(AdamW::default().into(), None), adam);
    assert_eq!(with(Sgd::default().into(), None), adam / 4 * 3);
    assert_eq!(with(Sgd::default().into(), Some(Ema::default())), adam);
    assert_eq!(with(Adam::default().into(), Some(Ema::default())), adam / 4 * 5);
    let slow = Recipe { lookahead: Some(Lookahead::default()), ..study_recipe() };
    assert_eq!(parameters(&slow), parameters(&Recipe { ema: Some(Ema::default()), ..study_recipe() }));
    for recipe in full_recipes().into_iter().chain([slow]) {
        let settings = Settings { recipe: recipe.clone(), ..study_settings() };
        let mut engine = Cpu::new(&network, &settings).unwrap();
        assert_eq!(engine.memory(3), training_memory(&network, &recipe, 3).unwrap());
        let times = engine.take_times();
        assert_eq!(times.last().unwrap().method, recipe.optimizer.class());
    }
}
