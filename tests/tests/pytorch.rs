//! PyTorch's numbers, for every engine: see `tests/pytorch/README.md` for what the files hold and how they were made.
//!
//! **Tolerances.** PyTorch's own implementations differ by rounding: memory layouts, threads, oneDNN or not, f32 or f64. Each
//! golden value comes with what it was seen to differ by. An engine may differ by [`SLACK`] times that, and by [`FLOOR`] of the
//! value besides, where PyTorch's variants happen to agree by chance.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_engine::{
    Adam, Array, Batch, DeviceChoice, DeviceName, Engine, EngineKind, Settings, State, Totals, create,
};
use pointwise_network::{Layer, Network};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Those of every build; or `cuda`, in a build with that feature where a GPU can be opened, such as an emulator's.
fn engines() -> Vec<EngineKind> {
    if cfg!(feature = "cuda") {
        match DeviceChoice::Only(DeviceName::Cuda(0)).resolve() {
            Ok(_) => return vec![EngineKind::Cuda],
            // Whoever names libraries wants them tested.
            Err(error) => assert!(std::env::var_os("POINTWISE_CUDA_LIBRARIES").is_none(), "{error}"),
        }
    }
    vec![EngineKind::Reference, EngineKind::Cpu]
}

/// How many times PyTorch's own differences are allowed.
const SLACK: f64 = 4.0;

/// Share of a value that is allowed in any case: some twenty roundings of f32.
const FLOOR: f64 = 2e-6;

/// An engine that convolves by Winograd's filtering rounds differently from PyTorch's direct sums: it may differ like PyTorch under
/// noise of 3e-6 in each convolution (`dev_noise`), what F(4x4, 3x3) was measured to differ by.
///
/// After a step of Adam differences have grown by orders of magnitude, since a gradient is divided by its own size: small ones
/// count like large ones. So there the differences under noise are allowed for every engine.
const DEVIATIONS: [&str; 2] = ["dev_f32", "dev_f64"];
const DEVIATIONS_WINOGRAD: [&str; 3] = ["dev_f32", "dev_f64", "dev_noise"];
const DEVIATIONS_AFTER_ADAM: [&str; 3] = ["dev_f32", "dev_f64", "dev_noise"];

/// Share of a parameter's norm that is allowed after Adam in any case. The bias of a convolution under BatchNorm has a gradient
/// of rounding noise, and how much of it Adam turns into movement differs more than PyTorch's few variants show.
const FLOOR_AFTER_ADAM: f64 = 1e-5;

/// A gradient that is zero but for rounding, of the bias of a convolution under BatchNorm, is at most this.
const ZERO: f64 = 1e-5;

fn golden(name: &str) -> Value {
    // As cargo tells while the test runs: a bundle's programs run where the checkout is not.
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let path = Path::new(&folder).join("pytorch").join(name).with_extension("json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().map(|value| value.as_f64().unwrap()).collect(),
        one => vec![one.as_f64().unwrap()],
    }
}

fn floats(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|value| value as f32).collect()
}

/// The words of the closed formula behind every parameter and input; see `golden.py`.
fn words(name: &str) -> impl Iterator<Item = u32> {
    let hash =
        name.bytes().fold(0x811C_9DC5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (0..).map(move |i: u32| {
        let mut z = hash.wrapping_add(i.wrapping_mul(0x9E37_79B9));
        z = (z ^ (z >> 16)).wrapping_mul(0x7FEB_352D);
        z = (z ^ (z >> 15)).wrapping_mul(0x846C_A68B);
        z ^ (z >> 16)
    })
}

/// Uniform in [-1, 1).
fn uniform(name: &str) -> impl Iterator<Item = f32> {
    words(name).map(|z| (z >> 8) as f32 * (1.0 / (1 << 23) as f32) - 1.0)
}

fn input(name: &str, images: usize) -> Vec<f32> {
    uniform(name).take(images * 3072).map(|u| 2.0 * u).collect()
}

fn labels(images: usize) -> Vec<u8> {
    words("labels").take(images).map(|z| (z % 10) as u8).collect()
}

/// The description, which drops nothing: golden values of networks are made without dropout.
fn network(name: &str) -> Network {
    Network::by_name(name).unwrap().with_dropout(0.0)
}

/// Parameters and statistics by the formula.
fn formula_state(network: &Network) -> State {
    let graph = network.graph().unwrap();
    let norms: BTreeSet<&str> = graph
        .layers()
        .filter(|(_, layer, _)| matches!(layer, Layer::BatchNorm2d(_)))
        .map(|(node, _, _)| node.path.as_str())
        .collect();
    let mut state = State::default();
    for own in graph.parameters() {
        let (path, field) = own.name.rsplit_once('.').unwrap();
        let weight = format!("{path}.weight");
        // A bias has the bound of its weight.
        let fan_in = graph.parameters().iter().find(|other| other.name == weight);
        let values = uniform(&own.name).take(own.shape.iter().product());
        let values = match (norms.contains(path), field) {
            (true, "weight") => values.map(|u| 1.0 + 0.25 * u).collect(),
            (true, _) => values.map(|u| 0.1 * u).collect(),
            (false, _) => {
                let bound = bound(fan_in.unwrap().shape[1..].iter().product());
                values.map(|u| u * bound).collect()
            }
        };
        state.parameters.insert(own.name.clone(), Array { shape: own.shape.clone(), values });
    }
    for own in graph.statistics() {
        let values = uniform(&own.name).take(own.channels);
        let values = match own.name.ends_with("running_var") {
            true => values.map(|u| 1.0 + 0.25 * u).collect(),
            false => values.map(|u| 0.1 * u).collect(),
        };
        state.statistics.insert(own.name, Array { shape: vec![own.channels], values });
    }
    state
}

fn bound(fan_in: usize) -> f32 {
    (1.0 / (fan_in as f64).sqrt()) as f32
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

/// Collects what differs by more than it may, so that a failing test shows all of it.
#[derive(Default)]
struct Report {
    compared: usize,
    failures: Vec<String>,
}

impl Report {
    fn compare(&mut self, what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
        assert_eq!(got.len(), expected.len(), "{what}");
        self.compared += 1;
        let worst = got
            .iter()
            .zip(expected)
            .map(|(got, expected)| {
                let allowed = tolerance + FLOOR * expected.abs();
                // A NaN is beyond every tolerance.
                let excess = if got == expected { 0.0 } else { (got - expected).abs() / allowed };
                (if excess.is_nan() { f64::INFINITY } else { excess }, got, expected, allowed)
            })
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((excess, got, expected, allowed)) = worst
            && excess > 1.0
        {
            self.failures.push(format!("{what}: {got}, expected {expected} within {allowed:.3e}"));
        }
    }

    /// A scalar or whole tensor of the golden file.
    fn whole(&mut self, what: &str, got: &[f32], record: &Value, deviations: &[&str]) {
        let expected = numbers(record.get("values").unwrap_or(&record["value"]));
        let got: Vec<f64> = got.iter().map(|value| f64::from(*value)).collect();
        self.compare(what, &got, &expected, tolerance(record, deviations));
    }

    /// A sampled tensor: its norm and samples.
    fn sampled(&mut self, what: &str, got: &Array, record: &Value, deviations: &[&str]) {
        let name = record["name"].as_str().unwrap();
        let shape: Vec<usize> = numbers(&record["shape"]).into_iter().map(|side| side as usize).collect();
        assert_eq!(got.shape, shape, "{what} {name}");
        if record["noise"] == true {
            let largest =
                got.values.iter().fold(0.0f64, |largest, value| largest.max(f64::from(value.abs())));
            self.compared += 1;
            if largest.is_nan() || largest > ZERO {
                self.failures.push(format!("{what} {name}: {largest}, expected zero but for rounding"));
            }
            return;
        }
        let samples: Vec<f64> = numbers(&record["indices"])
            .into_iter()
            .map(|index| f64::from(got.values[index as usize]))
            .collect();
        let expected = numbers(&record["samples"]);
        self.compare(&format!("{what} {name}"), &samples, &expected, tolerance(record, deviations));
        let of_norm = &record["norm"];
        let expected = numbers(&of_norm["value"]);
        let what = format!("{what} norm of {name}");
        self.compare(&what, &[norm(&got.values)], &expected, tolerance(of_norm, deviations));
    }

    fn all_sampled(
        &mut self,
        what: &str,
        got: &BTreeMap<String, Array>,
        records: &Value,
        deviations: &[&str],
    ) {
        let records = records.as_array().unwrap();
        assert_eq!(got.len(), records.len(), "{what}");
        for record in records {
            self.sampled(what, &got[record["name"].as_str().unwrap()], record, deviations);
        }
    }

    fn finish(self, what: &str, at_least: usize) {
        assert!(
            self.failures.is_empty(),
            "{what}: {} of {}:\n{}",
            self.failures.len(),
            self.compared,
            self.failures.join("\n")
        );
        assert!(self.compared >= at_least, "{what}: only {} comparisons", self.compared);
    }
}

fn tolerance(record: &Value, deviations: &[&str]) -> f64 {
    SLACK * deviations.iter().map(|key| record[*key].as_f64().unwrap()).fold(0.0, f64::max)
}

fn engine(kind: EngineKind, network: &Network, weight_decay: f64) -> Box<dyn Engine> {
    let device = if kind == EngineKind::Cuda { DeviceName::Cuda(0) } else { DeviceName::Cpu };
    let settings = Settings { device, adam: Adam { weight_decay, ..Adam::default() }, ..Settings::default() };
    let mut engine = create(kind, network, &settings).unwrap();
    engine.load_state(&formula_state(network)).unwrap();
    engine
}

/// Adam's first moment after one step from zero, without weight decay, is the gradient times 0.1.
fn gradients(state: State) -> BTreeMap<String, Array> {
    let factor = (1.0 / (1.0 - Adam::default().beta1)) as f32;
    let mut first = state.moments.unwrap().first;
    first.values_mut().flat_map(|array| &mut array.values).for_each(|value| *value *= factor);
    first
}

#[test]
fn the_formula_is_the_scripts() {
    for name in Network::STUDY {
        let state = formula_state(&network(name));
        for (tensor, expected) in golden(name)["first"].as_object().unwrap() {
            let expected = floats(expected);
            let got = match tensor.as_str() {
                "input" => input("input", 1)[..4].to_vec(),
                "labels" => labels(8).into_iter().map(f32::from).collect(),
                other => {
                    let array = state.parameters.get(other).unwrap_or_else(|| &state.statistics[other]);
                    array.values[..4].to_vec()
                }
            };
            assert_eq!(got, expected, "{name} {tensor}");
        }
    }
}

fn whole_network(name: &str) {
    let golden = golden(name);
    let network = network(name);
    let (images, labels) = (input("input", 8), labels(8));
    let batch = Batch { images: &images, labels: &labels };
    for kind in engines() {
        let mut report = Report::default();
        let deviations = match kind {
            EngineKind::Cpu => &DEVIATIONS_WINOGRAD[..],
            EngineKind::Reference | EngineKind::Cuda => &DEVIATIONS,
        };
        let mut evaluate = |engine: &mut dyn Engine, record: &Value, what: &str, deviations: &[&str]| {
            let logits = engine.logits(&images).unwrap();
            report.whole(&format!("{what} logits"), &logits, &record["logits"], deviations);
            engine.set_totals(Totals::default()).unwrap();
            engine.evaluate(batch).unwrap();
            let totals = engine.totals().unwrap();
            report.whole(&format!("{what} loss"), &[totals.loss() as f32], &record["loss"], deviations);
            assert_eq!(totals.correct, record["correct"].as_u64().unwrap(), "{name} {what}");
        };
        let mut subject = engine(kind, &network, 0.0);
        evaluate(subject.as_mut(), &golden["eval"], "eval", deviations);

        // One step in training mode, without weight decay.
        subject.set_totals(Totals::default()).unwrap();
        subject.train_step(batch).unwrap();
        let totals = subject.totals().unwrap();
        let train = &golden["train"];
        report.whole("train loss", &[totals.last_loss as f32], &train["loss"], deviations);
        assert_eq!(totals.correct, train["correct"].as_u64().unwrap());
        let state = subject.state().unwrap();
        report.all_sampled("after one pass", &state.statistics, &train["statistics"], deviations);

        // Gradients, on the batch that is clear of ReLUs and pools that rounding could turn.
        let smooth = &golden["smooth"];
        let smooth_images = input(smooth["input"].as_str().unwrap(), 2);
        let mut subject = engine(kind, &network, 0.0);
        subject.train_step(Batch { images: &smooth_images, labels: &labels[..2] }).unwrap();
        let loss = subject.totals().unwrap().last_loss as f32;
        report.whole("smooth loss", &[loss], &smooth["loss"], deviations);
        let gradients = gradients(subject.state().unwrap());
        report.all_sampled("gradient", &gradients, &smooth["grads"], deviations);

        // Twenty steps of the study's Adam.
        let adam = &golden["adam"];
        let mut subject = engine(kind, &network, adam["weight_decay"].as_f64().unwrap());
        for step in 0..adam["steps"].as_u64().unwrap() as usize {
            subject.train_step(batch).unwrap();
            let loss = subject.totals().unwrap().last_loss;
            let deviations = if step == 0 { deviations } else { &DEVIATIONS_AFTER_ADAM };
            let deviation = deviations
                .iter()
                .map(|key| adam[format!("losses_{key}")][step].as_f64().unwrap())
                .fold(0.0, f64::max);
            let expected = numbers(&adam["losses"][step]);
            report.compare(&format!("loss of step {}", step + 1), &[loss], &expected, SLACK * deviation);
        }
        let state = subject.state().unwrap();
        let tracked = adam["num_batches_tracked"].as_i64().unwrap();
        assert!(state.batches_tracked.values().all(|count| *count == tracked));
        report.all_sampled("after Adam", &state.statistics, &adam["statistics"], &DEVIATIONS_AFTER_ADAM);
        for record in adam["parameters"].as_array().unwrap() {
            let parameter = &state.parameters[record["name"].as_str().unwrap()];
            let what = format!("norm after Adam of {}", record["name"]);
            let expected = numbers(&record["norm"]["value"]);
            let tolerance =
                tolerance(&record["norm"], &DEVIATIONS_AFTER_ADAM) + FLOOR_AFTER_ADAM * expected[0];
            report.compare(&what, &[norm(&parameter.values)], &expected, tolerance);
        }
        report.finish(&format!("{name} on {kind}"), 60);
    }
}

#[test]
fn alexnet_plain() {
    whole_network("alexnet_plain");
}

#[test]
fn alexnet() {
    whole_network("alexnet");
}

#[test]
fn nin() {
    whole_network("nin");
}

#[test]
fn training_mode_logits() {
    // Only the reference engine shows them.
    for name in Network::STUDY {
        let network = network(name);
        let mut engine = pointwise_engine::reference::Reference::new(&network, &Settings::default()).unwrap();
        engine.load_state(&formula_state(&network)).unwrap();
        let logits = engine.training_logits(&input("input", 8)).unwrap();
        let mut report = Report::default();
        report.whole(name, &logits, &golden(name)["train"]["logits"], &DEVIATIONS);
        report.finish(name, 1);
    }
}

#[test]
fn names_shapes_and_initial_bounds() {
    use pointwise_network::Initial;
    let golden = golden("init");
    for name in Network::STUDY {
        let network = Network::by_name(name).unwrap();
        let graph = network.graph().unwrap();
        let expected = &golden["nets"][name];
        assert_eq!(graph.parameter_count() as u64, expected["parameter_count"].as_u64().unwrap());
        let mut engine = create(EngineKind::Reference, &network, &Settings::default()).unwrap();
        let state = engine.state().unwrap();
        // The whole state dictionary, types included.
        let mut ours: Vec<(String, Vec<usize>, &str)> = Vec::new();
        for (name, array) in state.parameters.iter().chain(&state.statistics) {
            ours.push((name.clone(), array.shape.clone(), "F32"));
        }
        ours.extend(state.batches_tracked.keys().map(|name| (name.clone(), vec![], "I64")));
        ours.sort();
        let mut theirs: Vec<(String, Vec<usize>, &str)> = expected["state_dict"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| {
                let shape = numbers(&entry["shape"]).into_iter().map(|side| side as usize).collect();
                (entry["name"].as_str().unwrap().to_owned(), shape, entry["dtype"].as_str().unwrap())
            })
            .collect();
        theirs.sort();
        assert_eq!(ours, theirs, "{name}");
        engine.load_state(&state).unwrap();

        let specs = graph.parameters();
        let records = expected["parameters"].as_array().unwrap();
        assert_eq!(specs.len(), records.len());
        for record in records {
            let spec = specs.iter().find(|spec| record["name"] == spec.name.as_str()).unwrap();
            let values = &state.parameters[&spec.name].values;
            match spec.initial {
                Initial::Constant(value) => {
                    assert_eq!(f64::from(value), record["constant"].as_f64().unwrap(), "{}", spec.name);
                }
                Initial::Uniform { bound } => {
                    assert_eq!(bound, record["bound"].as_f64().unwrap() as f32, "{}", spec.name);
                    // Both draws are uniform: within the bounds, and close to the same spread. Six standard errors of a
                    // standard deviation of n uniform values, sqrt(1/5 / n) of it.
                    let n = values.len() as f64;
                    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
                    let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
                    let theirs = record["std"].as_f64().unwrap();
                    let tolerance = 6.0 * (0.4 / n).sqrt() + 1.0 / n;
                    assert!((variance.sqrt() / theirs - 1.0).abs() < tolerance, "{}", spec.name);
                    assert!(values.iter().all(|value| value.abs() <= bound), "{}", spec.name);
                }
                other => panic!("{} begins by {other:?}", spec.name),
            }
        }
    }
}

#[test]
fn adam_alone() {
    use candle_core::{Device, Tensor, Var};
    let golden = golden("adam");
    let grads = golden["grads"].as_array().unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let adam = Adam { weight_decay: case["weight_decay"].as_f64().unwrap(), ..Adam::default() };
        let var = |values: Vec<f32>| Var::from_vec(values, 16, &Device::Cpu).unwrap();
        let parameter = var(floats(&golden["param0"]));
        let (first, second) = (var(vec![0.0; 16]), var(vec![0.0; 16]));
        let mut report = Report::default();
        for (step, gradient) in grads.iter().enumerate() {
            let gradient = Tensor::from_vec(floats(gradient), 16, &Device::Cpu).unwrap();
            adam.update(&parameter, &gradient, &first, &second, step as u64 + 1).unwrap();
            for (key, var) in [("param", &parameter), ("exp_avg", &first), ("exp_avg_sq", &second)] {
                let got = var.to_vec1::<f32>().unwrap();
                for element in 0..16 {
                    let deviation = DEVIATIONS
                        .iter()
                        .map(|which| case[format!("{key}_{which}")][step][element].as_f64().unwrap())
                        .fold(0.0, f64::max);
                    let expected = numbers(&case[key][step][element]);
                    // A moment is a sum that can cancel: its rounding is of the size of what went in.
                    let largest = (0..=step)
                        .map(|step| case[key][step][element].as_f64().unwrap().abs())
                        .fold(0.0, f64::max);
                    let what = format!("{key} {element} after step {}", step + 1);
                    let tolerance = SLACK * deviation + FLOOR * largest;
                    report.compare(&what, &[f64::from(got[element])], &expected, tolerance);
                }
            }
        }
        report.finish("layers", 10 * 16 * 3);
    }
}

#[test]
fn crop_flip_and_normalise() {
    use pointwise_data::{Crop, augment_into};
    fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
        bytes
            .into_iter()
            .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
    }
    let golden = golden("augment");
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 12);
    for case in cases {
        let name = case["image"].as_str().unwrap();
        let image: Vec<u8> = words(name).take(3072).map(|z| z as u8).collect();
        let crop = Crop {
            dy: case["dy"].as_u64().unwrap() as u8,
            dx: case["dx"].as_u64().unwrap() as u8,
            flip: case["flip"].as_bool().unwrap(),
        };
        let mut out = vec![0.0; 3072];
        augment_into(&image, crop, &mut out);
        for sample in case["samples"].as_array().unwrap() {
            let index = sample[0].as_u64().unwrap() as usize;
            assert_eq!(out[index], sample[1].as_f64().unwrap() as f32, "{name} at {index}");
        }
        let hash = format!("{:016x}", fnv1a(out.iter().flat_map(|value| value.to_le_bytes())));
        assert_eq!(hash, case["fnv1a_64"].as_str().unwrap(), "{name}: all values, to the bit");
    }
}

/// The single operations of the reference engine.
mod operations {
    use super::{DEVIATIONS, Report, SLACK, floats, golden, numbers};
    use candle_core::{Device, Module, Tensor, Var};
    use candle_nn::{BatchNorm, Conv2d, Conv2dConfig, Linear, ModuleT};
    use pointwise_models::ops;
    use pointwise_network::MaxPool2d;
    use serde_json::Value;
    use std::collections::BTreeMap;

    type Vars = BTreeMap<String, Var>;

    fn shape(record: &Value) -> Vec<usize> {
        numbers(&record["shape"]).into_iter().map(|side| side as usize).collect()
    }

    /// Runs `operation` on each case's inputs and compares its output, the inputs' gradients and whatever else it returns.
    fn cases(name: &str, operation: impl Fn(&Value, &Vars) -> (Tensor, BTreeMap<String, Tensor>)) {
        let golden = golden("ops");
        let mut report = Report::default();
        for case in golden[name].as_array().unwrap() {
            let given = case["given"].as_object().unwrap();
            let tensor = |record: &Value| {
                Tensor::from_vec(floats(&record["values"]), shape(record), &Device::Cpu).unwrap()
            };
            let vars: Vars = given
                .iter()
                .filter(|(key, _)| *key != "grad_output")
                .map(|(key, record)| (key.clone(), Var::from_tensor(&tensor(record)).unwrap()))
                .collect();
            let (output, mut results) = operation(case, &vars);
            let weighted = (&output * tensor(&given["grad_output"])).unwrap().sum_all().unwrap();
            let gradients = weighted.backward().unwrap();
            for (key, var) in &vars {
                if let Some(gradient) = gradients.get(var) {
                    results.insert(format!("grad_{key}"), gradient.clone());
                }
            }
            results.insert("output".to_owned(), output);
            for (key, record) in case["expected"].as_object().unwrap() {
                let what = format!("{name}, {}: {key}", case["case"]);
                let got: Vec<f32> = results[key].flatten_all().unwrap().to_vec1().unwrap();
                let got: Vec<f64> = got.into_iter().map(f64::from).collect();
                let expected = numbers(&record["values"]);
                let deviation = record[DEVIATIONS[1]].as_f64().unwrap();
                // Sums of a few values of size one cancel: their rounding is of the values' size.
                let scale = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
                report.compare(&what, &got, &expected, SLACK * deviation + super::FLOOR * scale);
            }
        }
        report.finish("Adam", 2);
    }

    fn plain(output: Tensor) -> (Tensor, BTreeMap<String, Tensor>) {
        (output, BTreeMap::new())
    }

    fn get(vars: &Vars, name: &str) -> Tensor {
        vars[name].as_tensor().clone()
    }

    #[test]
    fn max_pool2d() {
        cases("max_pool2d", |_, vars| plain(ops::max_pool2d(&get(vars, "x"), &MaxPool2d::new(2)).unwrap()));
    }

    #[test]
    fn relu() {
        cases("relu", |_, vars| plain(ops::relu(&get(vars, "x")).unwrap()));
    }

    #[test]
    fn adaptive_avg_pool2d() {
        cases("adaptive_avg_pool2d", |_, vars| plain(get(vars, "x").mean_keepdim((2, 3)).unwrap()));
    }

    #[test]
    fn cross_entropy() {
        cases("cross_entropy", |case, vars| {
            let labels: Vec<u32> = numbers(&case["labels"]).into_iter().map(|label| label as u32).collect();
            let labels = Tensor::new(labels, &Device::Cpu).unwrap();
            plain(candle_nn::loss::cross_entropy(&get(vars, "x"), &labels).unwrap())
        });
    }

    #[test]
    fn conv2d() {
        cases("conv2d", |case, vars| {
            let config =
                Conv2dConfig { padding: case["padding"].as_u64().unwrap() as usize, ..Default::default() };
            let conv = Conv2d::new(get(vars, "weight"), Some(get(vars, "bias")), config);
            plain(conv.forward(&get(vars, "x")).unwrap())
        });
    }

    #[test]
    fn linear() {
        cases("linear", |_, vars| {
            let linear = Linear::new(get(vars, "weight"), Some(get(vars, "bias")));
            plain(linear.forward(&get(vars, "input")).unwrap())
        });
    }

    #[test]
    fn batch_norm() {
        cases("batch_norm", |case, vars| {
            let channels = vars["weight"].dims()[0];
            let (mean, var) = (get(vars, "running_mean"), get(vars, "running_var"));
            let (weight, bias) = (get(vars, "weight"), get(vars, "bias"));
            let norm =
                BatchNorm::new(channels, mean, var, weight, bias, case["eps"].as_f64().unwrap()).unwrap();
            let output = norm.forward_t(&get(vars, "x"), case["train"].as_bool().unwrap()).unwrap();
            let after = BTreeMap::from([
                ("running_mean_after".to_owned(), norm.running_mean().copy().unwrap()),
                ("running_var_after".to_owned(), norm.running_var().copy().unwrap()),
            ]);
            (output, after)
        });
    }
}
