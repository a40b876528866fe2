//! Every kind of layer and composition against PyTorch: `tests/pytorch/layers.json` has descriptions next to the numbers of handwritten PyTorch
//! modules.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

#[expect(dead_code, reason = "each test of the golden values needs a part of it")]
mod golden;

use golden::*;
use pointwise_engine::reference::Reference;
use pointwise_engine::{Array, Batch, Engine, EngineError, EngineKind, State};
use pointwise_network::Network;
use serde_json::Value;
use std::collections::BTreeMap;

/// Differences between PyTorch's variants, and under noise of f32's rounding in every layer; with Winograd's filtering, also under noise of its size.
const DEVIATIONS: [&str; 3] = ["dev_f32", "dev_f64", "dev_rounding"];
const DEVIATIONS_WINOGRAD: [&str; 4] = ["dev_f32", "dev_f64", "dev_rounding", "dev_noise"];

struct Case<'a> {
    record: &'a Value,
    name: &'a str,
    network: Network,
    images: Vec<f32>,
    labels: Vec<u16>,
}

impl<'a> Case<'a> {
    fn new(record: &'a Value) -> Self {
        let name = record["name"].as_str().unwrap();
        let network = Network::from_toml(record["toml"].as_str().unwrap())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let batch = record["batch"].as_u64().unwrap() as usize;
        let len = batch * network.input.iter().product::<usize>();
        let tensor = record["input"].as_str().unwrap();
        let images = match record.get("levels") {
            None => uniform(tensor).take(len).map(|u| 2.0 * u).collect(),
            Some(levels) => {
                let [low, high] = [0, 1].map(|end| levels[end].as_i64().unwrap());
                words(tensor).take(len).map(|z| (i64::from(z) % (high - low + 1) + low) as f32).collect()
            }
        };
        let outputs = network.graph().unwrap().classes() as u32;
        let labels = words("labels").take(batch).map(|z| (z % outputs).try_into().unwrap()).collect();
        Self { record, name, network, images, labels }
    }

    fn batch(&self) -> Batch<'_> {
        Batch { images: &self.images, labels: &self.labels }
    }

    /// Compares all tensors of a list, which has every one of `got`.
    fn tensors(
        &self,
        report: &mut Report,
        what: &str,
        got: &BTreeMap<String, Array>,
        records: &Value,
        deviations: &[&str],
    ) {
        let records = records.as_array().unwrap();
        assert_eq!(got.len(), records.len(), "{}: {what}", self.name);
        for record in records {
            let name = record["name"].as_str().unwrap();
            let values = &got[name].values;
            let what = format!("{}, {what} {name}", self.name);
            if record["noise"] == true {
                let zeros = vec![0.0; values.len()];
                report.compare(
                    &what,
                    &values.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(),
                    &zeros,
                    ZERO,
                );
            } else {
                self.tensor(report, &what, values, record, deviations);
            }
        }
    }

    fn tensor(&self, report: &mut Report, what: &str, got: &[f32], record: &Value, deviations: &[&str]) {
        let expected = numbers(record.get("values").unwrap_or(&record["value"]));
        let got: Vec<f64> = got.iter().map(|value| f64::from(*value)).collect();
        // Sums of a few values of size one cancel: their rounding is relative to the values' size.
        let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        report.compare(what, &got, &expected, tolerance(record, deviations) + FLOOR * largest);
    }
}

/// PyTorch's statistics after the pass in training mode.
fn after_training(case: &Case<'_>, mut state: State) -> State {
    for record in case.record["train"]["statistics"].as_array().unwrap() {
        let name = record["name"].as_str().unwrap();
        state.statistics.get_mut(name).unwrap().values = floats(&record["values"]);
    }
    state
}

#[test]
fn every_layer_and_composition() {
    let golden = golden("layers");
    let cases: Vec<Case<'_>> = golden["cases"].as_array().unwrap().iter().map(Case::new).collect();
    for kind in engines() {
        let deviations = match kind {
            EngineKind::Cpu => &DEVIATIONS_WINOGRAD[..],
            EngineKind::Reference | EngineKind::Cuda => &DEVIATIONS,
        };
        let mut report = Report::default();
        for case in &cases {
            let (train, eval) = (&case.record["train"], &case.record["eval"]);
            let mut subject = engine(kind, &case.network, 0.0);
            subject.train_step(case.batch()).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            let loss = subject.totals().unwrap().last_loss as f32;
            case.tensor(&mut report, &format!("{}, loss", case.name), &[loss], &train["loss"], deviations);
            let state = subject.state().unwrap();
            case.tensors(&mut report, "statistics", &state.statistics, &train["statistics"], deviations);
            case.tensors(&mut report, "gradient of", &gradients(state), &train["grads"], deviations);

            subject.load_state(&after_training(case, formula_state(&case.network))).unwrap();
            let logits = subject.logits(&case.images).unwrap();
            case.tensor(&mut report, &format!("{}, eval", case.name), &logits, &eval["logits"], deviations);
        }
        report.finish(&format!("layers on {kind}"), 4 * cases.len());
    }
}

#[test]
fn training_mode_outputs() -> Result<(), EngineError> {
    // Only the reference engine shows them.
    let golden = golden("layers");
    let mut report = Report::default();
    for record in golden["cases"].as_array().unwrap() {
        let case = Case::new(record);
        let mut engine = Reference::new(&case.network, &study_settings())?;
        engine.load_state(&formula_state(&case.network))?;
        let logits = engine.training_logits(&case.images)?;
        case.tensor(&mut report, case.name, &logits, &record["train"]["logits"], &DEVIATIONS);
    }
    report.finish("training mode", 250);
    Ok(())
}
