//! PyTorch's numbers for the study's networks, Adam and single operations, for every engine: `tests/pytorch/README.md` says what the files hold
//! and how they were made.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

mod golden;

use golden::*;
use pointwise_engine::{Batch, Engine, EngineKind, Totals, create};
use pointwise_network::Network;
use serde_json::Value;

#[test]
fn the_formula_is_the_scripts() {
    for name in study().arms.iter().map(|arm| arm.name.as_str()) {
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

        // Gradients, on the batch without ReLU inputs and pool windows that rounding could switch.
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
    for name in study().arms.iter().map(|arm| arm.name.as_str()) {
        let network = network(name);
        let mut engine = pointwise_engine::reference::Reference::new(&network, &study_settings()).unwrap();
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
    for name in study().arms.iter().map(|arm| arm.name.as_str()) {
        let network = Network::by_name(name).unwrap();
        let graph = network.graph().unwrap();
        let expected = &golden["nets"][name];
        assert_eq!(graph.parameter_count() as u64, expected["parameter_count"].as_u64().unwrap());
        let mut engine = create(EngineKind::Reference, &network, &study_settings()).unwrap();
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
    use pointwise_engine::optimizer::Step;
    use pointwise_recipe::{Adam, Group, Optimizer, Rate};
    let golden = golden("adam");
    let grads = golden["grads"].as_array().unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let optimizer = Optimizer::from(Adam::default());
        let rate = Rate::new(optimizer.lr());
        let weight_decay = case["weight_decay"].as_f64().unwrap();
        let group = Group { lr_factor: 1.0, weight_decay, frozen_after: None };
        let var = |values: Vec<f32>| Var::from_vec(values, 16, &Device::Cpu).unwrap();
        let parameter = var(floats(&golden["param0"]));
        let (first, second) = (var(vec![0.0; 16]), var(vec![0.0; 16]));
        let mut report = Report::default();
        for (step, gradient) in grads.iter().enumerate() {
            let gradient = Tensor::from_vec(floats(gradient), 16, &Device::Cpu).unwrap();
            Step::new(&optimizer, rate, group, step as u64 + 1)
                .update(&parameter, &gradient, &[&first, &second])
                .unwrap();
            for (key, var) in [("param", &parameter), ("exp_avg", &first), ("exp_avg_sq", &second)] {
                let got = var.to_vec1::<f32>().unwrap();
                for element in 0..16 {
                    let deviation = DEVIATIONS
                        .iter()
                        .map(|which| case[format!("{key}_{which}")][step][element].as_f64().unwrap())
                        .fold(0.0, f64::max);
                    let expected = numbers(&case[key][step][element]);
                    // A moment is a sum that can cancel: its rounding is relative to the size of its terms.
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
    use pointwise_data::{Draw, Normalisation, Published, Transform};
    use pointwise_recipe::Augment;
    fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
        bytes
            .into_iter()
            .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
    }
    let golden = golden("augment");
    let spec = Published::Cifar10.spec();
    let (mean, std) = spec.mean_std.unwrap();
    let transform = Transform::new(spec.shape, Augment::CROP_FLIP, &Normalisation { mean, std }).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 12);
    for case in cases {
        let name = case["image"].as_str().unwrap();
        let image: Vec<u8> = words(name).take(3072).map(|z| z as u8).collect();
        // The record counts from the corner of the padding.
        let offset = |key: &str| case[key].as_i64().unwrap() as i32 - 4;
        let flip = case["flip"].as_bool().unwrap();
        let draw = Draw { top: offset("dy"), left: offset("dx"), flip, cutout: None };
        let mut out = vec![0.0; 3072];
        transform.apply(&image, draw, &mut out);
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
    use pointwise_candle::composed::{self, Windows};
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
                // Sums of a few values of size one cancel: their rounding is relative to the values' size.
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
        let windows = Windows { kernel: [2, 2], stride: [2, 2], padding: [0, 0] };
        cases("max_pool2d", |_, vars| plain(composed::max_pool2d(&get(vars, "x"), &windows).unwrap()));
    }

    #[test]
    fn relu() {
        cases("relu", |_, vars| plain(composed::relu(&get(vars, "x")).unwrap()));
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
