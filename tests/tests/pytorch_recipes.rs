//! Recipes against PyTorch's optimizers, schedulers, groups, loss, clipping, averages and slow weights, step by step:
//! `tests/pytorch/recipes.json` has recipes next to the numbers of handwritten PyTorch programs.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

#[expect(dead_code, reason = "each test of the golden values needs a part of it")]
mod golden;

use golden::*;
use pointwise_engine::{Array, Batch, Engine, EngineKind, State, Totals};
use pointwise_network::Network;
use pointwise_recipe::{Adam, AdamW, Augment, Optimizer, Recipe, Schedule, Sgd, Span};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::Range;

/// Differences between PyTorch's variants, and under noise of f32's rounding in every layer; with Winograd's filtering, also under noise of its size.
const DEVIATIONS: [&str; 3] = ["dev_f32", "dev_f64", "dev_rounding"];
const DEVIATIONS_WINOGRAD: [&str; 4] = ["dev_f32", "dev_f64", "dev_rounding", "dev_noise"];

struct Golden {
    value: Value,
    network: Network,
    steps_per_epoch: u64,
}

impl Golden {
    fn read() -> Self {
        let value = golden("recipes");
        let network = Network::from_toml(value["network"].as_str().unwrap()).unwrap();
        let steps_per_epoch = value["steps_per_epoch"].as_u64().unwrap();
        Self { value, network, steps_per_epoch }
    }

    fn cases(&self) -> Vec<Case<'_>> {
        let cases = self.value["cases"].as_array().unwrap();
        assert!(cases.len() >= 30);
        cases.iter().map(|record| Case::new(self, record)).collect()
    }
}

struct Case<'a> {
    golden: &'a Golden,
    record: &'a Value,
    name: &'a str,
    /// Its own, if it has one.
    network: Network,
    recipe: Recipe,
    /// The batches of an epoch.
    images: Vec<Vec<f32>>,
    labels: Vec<Vec<u16>>,
}

impl<'a> Case<'a> {
    fn new(golden: &'a Golden, record: &'a Value) -> Self {
        let name = record["name"].as_str().unwrap();
        let recipe = Recipe::from_toml(record["recipe"].as_str().unwrap())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let network = match record.get("network") {
            Some(own) => Network::from_toml(own.as_str().unwrap()).unwrap(),
            None => golden.network.clone(),
        };
        let batch = recipe.batch_size as usize;
        let len = batch * network.input.iter().product::<usize>();
        let classes = network.graph().unwrap().classes() as u32;
        let images = (0..golden.steps_per_epoch).map(|number| {
            let tensor = format!("recipe{}.{number}", record["images"]);
            uniform(&tensor).take(len).map(|u| 2.0 * u).collect()
        });
        let labels = (0..golden.steps_per_epoch).map(|number| {
            words(&format!("labels.{number}")).take(batch).map(|z| (z % classes) as u16).collect()
        });
        Self { golden, record, name, images: images.collect(), labels: labels.collect(), network, recipe }
    }

    fn batch(&self, step: u64) -> Batch<'_> {
        let number = (step % self.golden.steps_per_epoch) as usize;
        Batch { images: &self.images[number], labels: &self.labels[number] }
    }

    fn span(&self) -> Span {
        let images = self.golden.steps_per_epoch as usize * self.recipe.batch_size as usize;
        self.recipe.span(images)
    }

    fn engine(&self, kind: EngineKind, recipe: &Recipe) -> Box<dyn Engine> {
        engine_by(kind, &self.network, recipe.clone())
    }

    /// Takes steps by a recipe, which may differ from the case's, and returns the totals after each.
    fn train(&self, engine: &mut dyn Engine, recipe: &Recipe, steps: Range<u64>) -> Vec<Totals> {
        steps
            .map(|step| {
                engine.set_rate(recipe.rate(step, self.span())).unwrap();
                engine.train_step(self.batch(step)).unwrap_or_else(|error| panic!("{}: {error}", self.name));
                if let Some(decay) = recipe.lookahead.and_then(|it| it.decay_after(step + 1, self.span())) {
                    engine.lookahead(decay).unwrap();
                }
                engine.totals().unwrap()
            })
            .collect()
    }

    /// The state after all steps by the case's own recipe.
    fn trained(&self, kind: EngineKind) -> State {
        let mut engine = self.engine(kind, &self.recipe);
        self.train(engine.as_mut(), &self.recipe, 0..self.span().steps);
        engine.state().unwrap()
    }

    /// Compares a training by a recipe, which may differ from the case's, with PyTorch's by the case's.
    fn compare(&self, kind: EngineKind, recipe: &Recipe) -> Report {
        let mut subject = Subject {
            deviations: match kind {
                EngineKind::Cpu => &DEVIATIONS_WINOGRAD,
                EngineKind::Reference | EngineKind::Cuda => &DEVIATIONS,
            },
            name: self.name,
            report: Report::default(),
        };
        let record = self.record;
        let mut engine = self.engine(kind, recipe);
        let totals = self.train(engine.as_mut(), recipe, 0..self.span().steps);
        let losses: Vec<f64> = totals.iter().map(|totals| totals.last_loss).collect();
        subject.steps("loss", &losses, &record["losses"]);
        let norms: Vec<f64> = totals.iter().filter_map(|totals| totals.last_gradient_norm).collect();
        match record.get("norms") {
            Some(expected) if norms.len() == losses.len() => subject.steps("norm", &norms, expected),
            Some(_) => subject.report.failures.push(format!("{}: no norms", self.name)),
            None if norms.is_empty() => {}
            None => subject.report.failures.push(format!("{}: norms without clipping", self.name)),
        }

        let state = engine.state().unwrap();
        subject.tensors("parameter", &state.parameters, &record["parameters"]);
        subject.tensors("statistic", &state.statistics, &record["statistics"]);
        let optimizer = state.optimizer.as_ref().unwrap();
        assert_eq!(optimizer.step, self.span().steps, "{}", self.name);
        assert!(state.batches_tracked.values().all(|count| *count == optimizer.step as i64), "{}", self.name);
        for (buffer, expected) in record["buffers"].as_object().unwrap() {
            match optimizer.buffers.get(buffer) {
                Some(found) => subject.tensors(buffer, found, expected),
                None => subject.report.failures.push(format!("{}: no {buffer}", self.name)),
            }
        }
        self.evaluate(&mut subject, engine.as_mut(), "logits", &record["logits"]);
        // After the last step the trained weights are the slow ones.
        let slow = state.average.as_ref().filter(|_| recipe.lookahead.is_some());
        if let Some(slow) = slow {
            assert_eq!(slow.parameters, state.parameters, "{}", self.name);
            assert_eq!(slow.statistics, state.statistics, "{}", self.name);
        }
        match (record.get("average"), state.average.as_ref().filter(|_| slow.is_none())) {
            (Some(expected), Some(average)) => {
                subject.tensors("average", &average.parameters, &expected["parameters"]);
                subject.tensors("average", &average.statistics, &expected["statistics"]);
                engine.use_average(true).unwrap();
                self.evaluate(&mut subject, engine.as_mut(), "logits of the average", &expected["logits"]);
                assert_eq!(engine.state().unwrap(), state, "{}: on the average", self.name);
                engine.use_average(false).unwrap();
                self.evaluate(&mut subject, engine.as_mut(), "logits again", &record["logits"]);
            }
            (None, None) => {}
            (expected, _) => {
                subject.report.failures.push(format!("{}: an average, {}", self.name, expected.is_some()));
            }
        }
        subject.report
    }

    /// Logits of the first batch, and its evaluation loss, which is never smoothed.
    fn evaluate(&self, subject: &mut Subject<'_>, engine: &mut dyn Engine, what: &str, expected: &Value) {
        let batch = self.batch(0);
        let logits = engine.logits(batch.images).unwrap();
        subject.tensor(what, &logits, expected);
        engine.set_totals(Totals::default()).unwrap();
        engine.evaluate(batch).unwrap();
        let loss = engine.totals().unwrap().loss();
        let expected_loss = cross_entropy(&numbers(&expected["values"]), batch.labels);
        // A loss changes by at most twice as much as the logits.
        let tolerance = 2.0 * tolerance(expected, subject.deviations);
        let what = format!("{}, loss of {what}", self.name);
        subject.report.compare(&what, &[loss], &[expected_loss], tolerance);
    }
}

/// The mean over images, in nats.
fn cross_entropy(logits: &[f64], labels: &[u16]) -> f64 {
    let classes = logits.len() / labels.len();
    let of_image = |(row, label): (&[f64], &u16)| {
        row.iter().map(|logit| logit.exp()).sum::<f64>().ln() - row[usize::from(*label)]
    };
    logits.chunks(classes).zip(labels).map(of_image).sum::<f64>() / labels.len() as f64
}

/// The subject of a comparison, and its tolerance.
struct Subject<'a> {
    deviations: &'a [&'a str],
    name: &'a str,
    report: Report,
}

impl Subject<'_> {
    /// A value a step.
    fn steps(&mut self, what: &str, got: &[f64], record: &Value) {
        let expected = numbers(&record["values"]);
        assert_eq!(got.len(), expected.len());
        for (step, (got, expected)) in got.iter().zip(expected).enumerate() {
            let deviation = |key: &&str| record[*key][step].as_f64().unwrap();
            let deviation = self.deviations.iter().map(deviation).fold(0.0, f64::max);
            let what = format!("{}, {what} of step {}", self.name, step + 1);
            self.report.compare(&what, &[*got], &[expected], SLACK * deviation);
        }
    }

    fn tensor(&mut self, what: &str, got: &[f32], record: &Value) {
        let expected = numbers(&record["values"]);
        let got: Vec<f64> = got.iter().map(|value| f64::from(*value)).collect();
        // Sums of a few values of size one cancel: their rounding is relative to the values' size.
        let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        let tolerance = tolerance(record, self.deviations) + FLOOR * largest;
        self.report.compare(&format!("{}, {what}", self.name), &got, &expected, tolerance);
    }

    /// All tensors of a list, which has every one of `got`.
    fn tensors(&mut self, what: &str, got: &BTreeMap<String, Array>, records: &Value) {
        let records = records.as_array().unwrap();
        assert_eq!(got.len(), records.len(), "{}: {what}", self.name);
        for record in records {
            let name = record["name"].as_str().unwrap();
            self.tensor(&format!("{what} {name}"), &got[name].values, record);
        }
    }
}

#[test]
fn every_recipe() {
    let golden = Golden::read();
    for kind in engines() {
        let mut whole = Report::default();
        for case in golden.cases() {
            let report = case.compare(kind, &case.recipe);
            whole.compared += report.compared;
            whole.failures.extend(report.failures);
        }
        whole.finish(&format!("recipes on {kind}"), 1800);
    }
}

/// A training that is continued in another engine, from the state after some steps, is the one without a break, to the bit.
#[test]
fn resumed_to_the_same_bytes() {
    let golden = Golden::read();
    for kind in engines() {
        for case in golden.cases() {
            let whole = case.trained(kind);
            let steps = case.span().steps;
            for middle in [1, 7] {
                let mut first = case.engine(kind, &case.recipe);
                case.train(first.as_mut(), &case.recipe, 0..middle);
                let mut second = case.engine(kind, &case.recipe);
                // The other engine has trained differently before.
                case.train(second.as_mut(), &case.recipe, 0..2);
                second.load_state(&first.state().unwrap()).unwrap();
                case.train(second.as_mut(), &case.recipe, middle..steps);
                let resumed = second.state().unwrap();
                assert!(same_bytes(&resumed, &whole), "{} on {kind}, resumed after {middle}", case.name);
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let golden = Golden::read();
    // A GPU's threads are not ours to choose.
    for kind in engines().into_iter().filter(|kind| *kind != EngineKind::Cuda) {
        for case in golden.cases() {
            let states = [1, 2, 3, 5].map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| case.trained(kind))
            });
            for (state, threads) in states.iter().zip([1, 2, 3, 5]) {
                assert!(same_bytes(state, &states[0]), "{} on {kind} by {threads} threads", case.name);
            }
        }
    }
}

/// Also checks the sign of zeros, which `==` ignores.
fn same_bytes(a: &State, b: &State) -> bool {
    fn bits(state: &State) -> Vec<u32> {
        let optimizer = state.optimizer.iter().flat_map(|optimizer| optimizer.buffers.values());
        let average = state.average.iter().flat_map(|average| [&average.parameters, &average.statistics]);
        [&state.parameters, &state.statistics]
            .into_iter()
            .chain(optimizer)
            .chain(average)
            .flat_map(|arrays| {
                arrays.values().flat_map(|array| array.values.iter().map(|value| value.to_bits()))
            })
            .collect()
    }
    a == b && bits(a) == bits(b)
}

/// The comparison notices every key of a recipe: a changed one does not give PyTorch's numbers.
#[test]
fn a_wrong_recipe_is_noticed() {
    let golden = Golden::read();
    let mut tried = 0;
    for case in golden.cases() {
        for (what, wrong) in wrong_recipes(&case.recipe) {
            tried += 1;
            let report = case.compare(EngineKind::Cpu, &wrong);
            assert!(!report.failures.is_empty(), "{}: {what}", case.name);
        }
    }
    assert!(tried > 150, "{tried}");
}

/// Each with one thing changed, a little or a lot.
fn wrong_recipes(recipe: &Recipe) -> Vec<(&'static str, Recipe)> {
    type Change = fn(&mut Recipe);
    let changes: [(&str, Change); 21] = [
        ("another rate", |it| it.optimizer = it.optimizer.clone().with_lr(it.optimizer.lr() * 1.01)),
        ("no decay", |it| it.optimizer = it.optimizer.clone().with_weight_decay(0.0)),
        ("a little decay", |it| {
            let decay = it.optimizer.weight_decay() + 1e-3;
            it.optimizer = it.optimizer.clone().with_weight_decay(decay);
        }),
        ("decay of the other kind", |it| {
            it.optimizer = match it.optimizer.clone() {
                Optimizer::Adam(Adam { lr, betas, eps, weight_decay }) if weight_decay > 0.0 => {
                    AdamW { lr, betas, eps, weight_decay }.into()
                }
                Optimizer::AdamW(AdamW { lr, betas, eps, weight_decay }) => {
                    Adam { lr, betas, eps, weight_decay }.into()
                }
                other => other,
            };
        }),
        ("betas or momentum", |it| match &mut it.optimizer {
            Optimizer::Adam(Adam { betas, .. }) | Optimizer::AdamW(AdamW { betas, .. }) => betas[1] -= 0.01,
            Optimizer::Sgd(Sgd { momentum, .. }) if it.schedule == Schedule::default() => *momentum += 0.01,
            Optimizer::Sgd(_) => {}
        }),
        ("eps", |it| match &mut it.optimizer {
            Optimizer::Adam(Adam { eps, .. }) | Optimizer::AdamW(AdamW { eps, .. }) => *eps *= 1e3,
            Optimizer::Sgd(_) => {}
        }),
        ("Nesterov", |it| match &mut it.optimizer {
            Optimizer::Sgd(Sgd { nesterov, momentum, .. }) if *momentum > 0.0 => *nesterov ^= true,
            _ => {}
        }),
        ("no schedule", |it| it.schedule = Schedule::default()),
        ("no warm-up", |it| it.warmup = None),
        ("no groups", |it| it.parameter_groups.clear()),
        ("a group less", |it| {
            it.parameter_groups.pop();
        }),
        ("no smoothing", |it| it.label_smoothing = 0.0),
        ("no clipping", |it| it.clip_norm = None),
        ("clipping", |it| it.clip_norm = Some(it.clip_norm.map_or(0.9, |norm| norm * 1.01))),
        ("the average", |it| it.ema.iter_mut().for_each(|ema| ema.decay -= 0.01)),
        ("no slow weights", |it| it.lookahead = None),
        ("more of the slow weights", |it| it.lookahead.iter_mut().for_each(|slow| slow.decay += 0.01)),
        ("a step more between averages", |it| it.lookahead.iter_mut().for_each(|slow| slow.every += 1)),
        ("slow weights of another power", |it| it.lookahead.iter_mut().for_each(|slow| slow.power += 0.5)),
        ("nothing is frozen", |it| {
            it.parameter_groups.iter_mut().for_each(|group| group.frozen_after = None);
        }),
        ("frozen an epoch later", |it| {
            it.parameter_groups
                .iter_mut()
                .filter_map(|group| group.frozen_after.as_mut())
                .for_each(|it| *it += 1);
        }),
    ];
    let changed = changes.into_iter().map(|(what, change)| {
        let mut wrong = recipe.clone();
        change(&mut wrong);
        (what, wrong)
    });
    changed.filter(|(_, wrong)| wrong != recipe && wrong.check().is_ok()).collect()
}

/// Keys that an engine does not read make no difference: it gets the rate and the images.
#[test]
fn the_rest_of_a_recipe_is_not_the_engines() {
    let golden = Golden::read();
    let cases = golden.cases();
    let case = cases.iter().find(|case| case.name == "All together, SGD").unwrap();
    let expected = case.trained(EngineKind::Cpu);
    let other = Recipe {
        epochs: 1,
        batch_size: 1000,
        schedule: Schedule::default(),
        warmup: None,
        early_stopping: None,
        augment: Augment::CROP_FLIP,
        shuffle: false,
        ..case.recipe.clone()
    };
    let mut engine = engine_by(EngineKind::Cpu, &golden.network, other);
    case.train(engine.as_mut(), &case.recipe, 0..case.span().steps);
    assert!(same_bytes(&engine.state().unwrap(), &expected));
}
