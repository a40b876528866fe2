//! PyTorch's numbers and the formula behind them, for the tests that compare with them.
//!
//! **Tolerances.** PyTorch's own implementations differ by rounding: memory layouts, threads, oneDNN or not, f32 or f64. Each golden value comes
//! with its observed deviations. An engine may differ by [`SLACK`] times these, plus [`FLOOR`] of the value, because PyTorch's variants may agree
//! by chance.

use pointwise_engine::{Array, DeviceChoice, DeviceName, Engine, EngineKind, Settings, State, create};
use pointwise_network::{Layer, Network};
use pointwise_recipe::{Adam, Recipe};
use pointwise_study::Study;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The engines of every build; or `cuda`, in a build with that feature if a GPU can be opened, such as the emulator's.
pub(crate) fn engines() -> Vec<EngineKind> {
    if cfg!(feature = "cuda") {
        match DeviceChoice::Only(DeviceName::Cuda(0)).resolve() {
            Ok(_) => return vec![EngineKind::Cuda],
            // A user who names libraries wants them tested.
            Err(error) => assert!(std::env::var_os("POINTWISE_CUDA_LIBRARIES").is_none(), "{error}"),
        }
    }
    vec![EngineKind::Reference, EngineKind::Cpu]
}

/// Allowed difference, as a multiple of PyTorch's own differences.
pub(crate) const SLACK: f64 = 4.0;

/// Share of a value that is always allowed: some twenty roundings of f32.
pub(crate) const FLOOR: f64 = 2e-6;

/// An engine that convolves by Winograd's filtering rounds differently from PyTorch's direct sums: it may differ like PyTorch under
/// noise of 3e-6 in each convolution (`dev_noise`), the measured difference of F(4x4, 3x3).
///
/// After a step of Adam differences have grown by orders of magnitude, since a gradient is divided by its own size: small ones
/// count like large ones. So there the differences under noise are allowed for every engine.
pub(crate) const DEVIATIONS: [&str; 2] = ["dev_f32", "dev_f64"];
pub(crate) const DEVIATIONS_WINOGRAD: [&str; 3] = ["dev_f32", "dev_f64", "dev_noise"];
pub(crate) const DEVIATIONS_AFTER_ADAM: [&str; 3] = ["dev_f32", "dev_f64", "dev_noise"];

/// Share of a parameter's norm that is always allowed after Adam. The bias of a convolution under BatchNorm has a gradient
/// of rounding noise, and how much of it Adam turns into movement differs more than PyTorch's few variants show.
pub(crate) const FLOOR_AFTER_ADAM: f64 = 1e-5;

/// A gradient that is zero but for rounding, of the bias of a convolution under BatchNorm, is at most this.
pub(crate) const ZERO: f64 = 1e-5;

pub(crate) fn golden(name: &str) -> Value {
    // As cargo sets it while the test runs: a bundle's programs run without the checkout.
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let path = Path::new(&folder).join("pytorch").join(name).with_extension("json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().map(|value| value.as_f64().unwrap()).collect(),
        one => vec![one.as_f64().unwrap()],
    }
}

pub(crate) fn floats(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|value| value as f32).collect()
}

/// The 32-bit words of the closed formula for every parameter and input; see `golden.py`.
pub(crate) fn words(name: &str) -> impl Iterator<Item = u32> {
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
pub(crate) fn uniform(name: &str) -> impl Iterator<Item = f32> {
    words(name).map(|z| (z >> 8) as f32 * (1.0 / (1 << 23) as f32) - 1.0)
}

pub(crate) fn input(name: &str, images: usize) -> Vec<f32> {
    uniform(name).take(images * 3072).map(|u| 2.0 * u).collect()
}

pub(crate) fn labels(images: usize) -> Vec<u16> {
    words("labels").take(images).map(|z| (z % 10) as u16).collect()
}

/// The description without dropout, as in the golden values of networks.
pub(crate) fn network(name: &str) -> Network {
    Network::by_name(name).unwrap().with_dropout(0.0)
}

/// Parameters and statistics by the formula.
pub(crate) fn formula_state(network: &Network) -> State {
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

pub(crate) fn bound(fan_in: usize) -> f32 {
    (1.0 / (fan_in as f64).sqrt()) as f32
}

pub(crate) fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

/// Collects what differs by more than it may, so that a failing test shows all of it.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) compared: usize,
    pub(crate) failures: Vec<String>,
}

impl Report {
    pub(crate) fn compare(&mut self, what: &str, got: &[f64], expected: &[f64], tolerance: f64) {
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
    pub(crate) fn whole(&mut self, what: &str, got: &[f32], record: &Value, deviations: &[&str]) {
        let expected = numbers(record.get("values").unwrap_or(&record["value"]));
        let got: Vec<f64> = got.iter().map(|value| f64::from(*value)).collect();
        self.compare(what, &got, &expected, tolerance(record, deviations));
    }

    /// A sampled tensor: its norm and samples.
    pub(crate) fn sampled(&mut self, what: &str, got: &Array, record: &Value, deviations: &[&str]) {
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
        // A norm changes by no more than the tensor; how much less is chance.
        let moved = match record["rel_noise"].as_f64() {
            Some(moved) if deviations.contains(&"dev_noise") => SLACK * moved * expected[0],
            _ => 0.0,
        };
        let tolerance = tolerance(of_norm, deviations).max(moved);
        self.compare(&what, &[norm(&got.values)], &expected, tolerance);
    }

    pub(crate) fn all_sampled(
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

    pub(crate) fn finish(self, what: &str, at_least: usize) {
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

pub(crate) fn tolerance(record: &Value, deviations: &[&str]) -> f64 {
    SLACK * deviations.iter().map(|key| record[*key].as_f64().unwrap()).fold(0.0, f64::max)
}

/// The published study.
pub(crate) fn study() -> Study {
    Study::by_name("pointwise").unwrap()
}

/// By its recipe, on the CPU.
pub(crate) fn study_settings() -> Settings {
    Settings::new(study().recipe)
}

/// By Adam with that weight decay.
pub(crate) fn engine(kind: EngineKind, network: &Network, weight_decay: f64) -> Box<dyn Engine> {
    let optimizer = Adam { weight_decay, ..Adam::default() }.into();
    engine_by(kind, network, Recipe { optimizer, ..study().recipe })
}

/// By a recipe, from the formula's state.
pub(crate) fn engine_by(kind: EngineKind, network: &Network, recipe: Recipe) -> Box<dyn Engine> {
    let device = if kind == EngineKind::Cuda { DeviceName::Cuda(0) } else { DeviceName::Cpu };
    // A GPU guarantees the same bits only on request.
    let settings = Settings { device, deterministic: true, ..Settings::new(recipe) };
    let mut engine = create(kind, network, &settings).unwrap();
    engine.load_state(&formula_state(network)).unwrap();
    engine
}

/// Adam's first moment after one step from zero, without weight decay, is the gradient times 0.1.
pub(crate) fn gradients(state: State) -> BTreeMap<String, Array> {
    let factor = (1.0 / (1.0 - Adam::default().betas[0])) as f32;
    let mut first = state.optimizer.unwrap().buffers.remove("exp_avg").unwrap();
    first.values_mut().flat_map(|array| &mut array.values).for_each(|value| *value *= factor);
    first
}
