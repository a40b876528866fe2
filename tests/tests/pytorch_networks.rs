//! The shipped networks, besides those of the study, against PyTorch modules of the usual implementations.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

#[expect(dead_code, reason = "each test of the golden values needs a part of it")]
mod golden;

use golden::*;
use pointwise_engine::{Array, Batch, Engine, EngineKind, State, Totals};
use pointwise_network::{Layer, Network};
use serde_json::Value;
use std::collections::BTreeMap;

/// As `DEVIATIONS_AFTER_ADAM` everywhere: in networks this deep, chance decides which kinks PyTorch's few variants cross.
const DEVIATIONS: [&str; 3] = ["dev_f32", "dev_f64", "dev_noise"];

/// Multiply-accumulates an image from which a network counts as large.
const LARGE: usize = 200_000_000;

/// Some of the tensors by name.
fn some_sampled(report: &mut Report, what: &str, got: &BTreeMap<String, Array>, records: &Value) {
    for record in records.as_array().unwrap() {
        report.sampled(what, &got[record["name"].as_str().unwrap()], record, &DEVIATIONS);
    }
}

/// Logits, loss and number of correct images in evaluation mode.
fn evaluate(report: &mut Report, what: &str, engine: &mut dyn Engine, batch: Batch<'_>, record: &Value) {
    let logits = engine.logits(batch.images).unwrap();
    report.whole(&format!("{what} logits"), &logits, &record["logits"], &DEVIATIONS);
    engine.set_totals(Totals::default()).unwrap();
    engine.evaluate(batch).unwrap();
    let totals = engine.totals().unwrap();
    report.whole(&format!("{what} loss"), &[totals.loss() as f32], &record["loss"], &DEVIATIONS);
    if let Some(correct) = record["correct"].as_u64() {
        assert_eq!(totals.correct, correct, "{what}");
    }
}

/// The state by the formula with something added to every BatchNorm's bias, so that few ReLUs are near their corner.
fn away_from_corners(network: &Network, bias: f32) -> State {
    let mut state = formula_state(network);
    for (node, layer, _) in network.graph().unwrap().layers() {
        if matches!(layer, Layer::BatchNorm2d(_)) {
            let array = state.parameters.get_mut(&format!("{}.bias", node.path)).unwrap();
            array.values.iter_mut().for_each(|value| *value += bias);
        }
    }
    state
}

fn whole_network(name: &str) {
    let golden = golden(name);
    let network = network(name);
    let graph = network.graph().unwrap();
    assert_eq!(graph.parameter_count() as u64, golden["parameter_count"].as_u64().unwrap());

    let n = golden["batch"].as_u64().unwrap() as usize;
    let (images, labels) = (input("input", n), labels(n));
    let batch = Batch { images: &images, labels: &labels };
    for kind in engines() {
        let mut report = Report::default();
        let mut subject = engine(kind, &network, 0.0);

        // The whole state dictionary.
        let state = subject.state().unwrap();
        let shapes = state.parameters.iter().chain(&state.statistics);
        let mut ours: BTreeMap<&str, Vec<u64>> = shapes
            .map(|(name, array)| (name.as_str(), array.shape.iter().map(|side| *side as u64).collect()))
            .collect();
        ours.extend(state.batches_tracked.keys().map(|name| (name.as_str(), Vec::new())));
        let theirs = golden["state_dict"].as_object().unwrap().iter();
        let theirs: BTreeMap<&str, Vec<u64>> = theirs
            .map(|(name, shape)| {
                let shape = shape.as_array().unwrap().iter().map(|side| side.as_u64().unwrap());
                (name.as_str(), shape.collect())
            })
            .collect();
        assert_eq!(ours, theirs, "{name} on {kind}");

        evaluate(&mut report, "eval", subject.as_mut(), batch, &golden["eval"]);
        // Variances with which images do not fade in deep networks.
        let lively = &golden["lively"];
        let mut scaled = formula_state(&network);
        let scale = lively["variance_scale"].as_f64().unwrap() as f32;
        for (name, array) in &mut scaled.statistics {
            if name.ends_with("running_var") {
                array.values.iter_mut().for_each(|value| *value *= scale);
            }
        }
        subject.load_state(&scaled).unwrap();
        evaluate(&mut report, "lively", subject.as_mut(), batch, lively);

        // One step in training mode, without weight decay.
        let train = &golden["train"];
        subject.load_state(&formula_state(&network)).unwrap();
        subject.set_totals(Totals::default()).unwrap();
        subject.train_step(batch).unwrap();
        let loss = subject.totals().unwrap().last_loss as f32;
        report.whole("train loss", &[loss], &train["loss"], &DEVIATIONS);
        let state = subject.state().unwrap();
        some_sampled(&mut report, "after one pass", &state.statistics, &train["statistics"]);

        // Gradients, away from kinks that rounding could cross.
        let smooth = &golden["smooth"];
        let smooth_images = input(smooth["input"].as_str().unwrap(), 2);
        let bias = smooth["norm_bias"].as_f64().unwrap() as f32;
        subject.load_state(&away_from_corners(&network, bias)).unwrap();
        subject.train_step(Batch { images: &smooth_images, labels: &labels[..2] }).unwrap();
        let loss = subject.totals().unwrap().last_loss as f32;
        report.whole("smooth loss", &[loss], &smooth["loss"], &DEVIATIONS);
        let gradients = gradients(subject.state().unwrap());
        assert_eq!(gradients.len(), smooth["grads"].as_array().unwrap().len());
        some_sampled(&mut report, "gradient", &gradients, &smooth["grads"]);

        // Ten steps of the study's Adam. The reference engine takes minutes for a large network.
        if kind == EngineKind::Reference && graph.macs() > LARGE {
            report.finish(&format!("{name} on {kind}, without Adam"), 20);
            continue;
        }
        let adam = &golden["adam"];
        let mut subject = engine(kind, &network, adam["weight_decay"].as_f64().unwrap());
        for step in 0..adam["steps"].as_u64().unwrap() as usize {
            subject.train_step(batch).unwrap();
            let loss = subject.totals().unwrap().last_loss;
            let deviation = |key: &&str| adam[format!("losses_{key}")][step].as_f64().unwrap();
            let deviation = DEVIATIONS.iter().map(deviation).fold(0.0, f64::max);
            let expected = numbers(&adam["losses"][step]);
            report.compare(&format!("loss of step {}", step + 1), &[loss], &expected, SLACK * deviation);
        }
        let state = subject.state().unwrap();
        let tracked = adam["num_batches_tracked"].as_i64().unwrap();
        assert!(state.batches_tracked.values().all(|count| *count == tracked));
        for record in adam["parameters"].as_array().unwrap() {
            let parameter = &state.parameters[record["name"].as_str().unwrap()];
            let what = format!("norm after Adam of {}", record["name"]);
            let Some(expected) = record["norm"]["value"].as_f64() else { continue };
            let tolerance = tolerance(&record["norm"], &DEVIATIONS) + FLOOR_AFTER_ADAM * expected;
            report.compare(&what, &[norm(&parameter.values)], &[expected], tolerance);
        }
        report.finish(&format!("{name} on {kind}"), 20);
    }
}

#[test]
fn lenet() {
    whole_network("lenet");
}

#[test]
fn vgg16() {
    whole_network("vgg16");
}

#[test]
fn resnet20() {
    whole_network("resnet20");
}

#[test]
fn resnet18() {
    whole_network("resnet18");
}

#[test]
fn mobilenetv2() {
    whole_network("mobilenetv2");
}

#[test]
fn densenet_bc_100_12() {
    whole_network("densenet_bc_100_12");
}

#[test]
fn senet18() {
    whole_network("senet18");
}

#[test]
fn googlenet() {
    whole_network("googlenet");
}
