//! Layers and optimizers against PyTorch's numbers: `tests/pytorch/operators.json` and `ops.json`, made by the scripts beside them.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use crate::common::host;
use candle_core::{Device, Module, ModuleT, Tensor, Var};
use candle_nn::{Conv2dConfig, Optimizer, VarMap};
use pointwise_candle::{
    Adam, AdamW, AvgPool2d, BatchNorm, Conv2d, MaxPool2d, ParamsAdam, ParamsAdamW, ParamsSgd, Rule, Sgd,
    Stateful,
};
use serde_json::Value;
use std::collections::BTreeMap;

/// How many times PyTorch's own difference between f32 and f64 is allowed, and a share of the largest value besides: some forty roundings, or
/// those of Winograd's filtering of small maps.
const SLACK: f64 = 4.0;
const FLOOR: f64 = 5e-6;

fn golden(name: &str) -> Value {
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let path = std::path::Path::new(&folder).join("../../tests/pytorch").join(name).with_extension("json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|number| number as f32).collect()
}

fn usize_of(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

/// Rows and columns.
fn sides(value: &Value) -> (usize, usize) {
    (usize_of(&value[0]), usize_of(&value[1]))
}

fn var(record: &Value) -> Var {
    let shape: Vec<usize> = record["shape"].as_array().unwrap().iter().map(usize_of).collect();
    Var::from_vec(floats(&record["values"]), shape, &Device::Cpu).unwrap()
}

fn compare(what: &str, got: &[f64], expected: &[f64], deviation: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    let tolerance = SLACK * deviation + FLOOR * largest;
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!(
            (got - expected).abs() <= tolerance,
            "{what}: {got} at {at}, not {expected} ± {tolerance:.1e}"
        );
    }
}

type Given = BTreeMap<String, Var>;

/// Runs `operation` on each case's inputs, and compares its output, the inputs' gradients and what else it gives.
fn cases(
    file: &str,
    name: &str,
    operation: impl Fn(&Value, &Given) -> (Tensor, Vec<(&'static str, Tensor)>),
) {
    let golden = golden(file);
    let records = golden[name].as_array().unwrap();
    assert!(records.len() > 2, "{file}, {name}");
    for record in records {
        let given: Given = record["given"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, record)| (key.clone(), var(record)))
            .collect();
        let (output, more) = operation(record, &given);
        let weighted = (&output * given["grad_output"].as_tensor()).unwrap().sum_all().unwrap();
        let gradients = weighted.backward().unwrap();
        let mut results: BTreeMap<String, Tensor> =
            more.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
        for (key, var) in &given {
            if let Some(gradient) = gradients.get(var) {
                results.insert(format!("grad_{key}"), gradient.clone());
            }
        }
        results.insert("output".to_owned(), output);
        for (key, expected) in record["expected"].as_object().unwrap() {
            let what = format!("{name}, {}: {key}", record["case"]);
            let deviation = expected["dev_f64"].as_f64().unwrap();
            compare(&what, &host(&results[key]), &numbers(&expected["values"]), deviation);
        }
    }
}

fn tensor(given: &Given, name: &str) -> Tensor {
    given[name].as_tensor().clone()
}

#[test]
fn convolutions() {
    cases("operators", "conv2d", |record, given| {
        let config = Conv2dConfig {
            stride: usize_of(&record["stride"]),
            padding: usize_of(&record["padding"]),
            dilation: usize_of(&record["dilation"]),
            groups: usize_of(&record["groups"]),
            ..Conv2dConfig::default()
        };
        let bias = given.get("bias").map(|bias| bias.as_tensor().clone());
        (Conv2d::new(tensor(given, "weight"), bias, config).forward(&given["x"]).unwrap(), vec![])
    });
}

#[test]
fn maximum_pools() {
    cases("operators", "max_pool2d", |record, given| {
        let pool = MaxPool2d::new(sides(&record["kernel"]))
            .with_stride(sides(&record["stride"]))
            .with_padding(sides(&record["padding"]));
        (pool.forward(&given["x"]).unwrap(), vec![])
    });
    cases("ops", "max_pool2d", |_, given| (MaxPool2d::new(2).forward(&given["x"]).unwrap(), vec![]));
}

#[test]
fn average_pools() {
    cases("operators", "avg_pool2d", |record, given| {
        let pool = AvgPool2d::new(sides(&record["kernel"]))
            .with_stride(sides(&record["stride"]))
            .with_padding(sides(&record["padding"]))
            .with_count_include_pad(record["count_include_pad"].as_bool().unwrap());
        (pool.forward(&given["x"]).unwrap(), vec![])
    });
}

#[test]
fn batch_norms() {
    for file in ["operators", "ops"] {
        cases(file, "batch_norm", |record, given| {
            // Copies: the layer takes a variable as its own, and moves it.
            let copy = |name| tensor(given, name).copy().unwrap().detach();
            let norm = BatchNorm::new_with_momentum(
                given["weight"].elem_count(),
                copy("running_mean"),
                copy("running_var"),
                tensor(given, "weight"),
                tensor(given, "bias"),
                record["eps"].as_f64().unwrap(),
                record["momentum"].as_f64().unwrap(),
            )
            .unwrap();
            let y = norm.forward_t(&given["x"], record["train"].as_bool().unwrap()).unwrap();
            let after = |running: &Tensor| running.copy().unwrap();
            let (mean, variance) = (after(norm.running_mean()), after(norm.running_var()));
            (y, vec![("running_mean_after", mean), ("running_var_after", variance)])
        });
    }
}

/// Takes the steps of a record, and compares parameter and buffers after each.
fn steps<R: Rule>(record: &Value, rule: R) {
    let what = format!("{} {}", record["optimizer"], record["momentum"]);
    let start = Tensor::new(floats(&record["param0"]), &Device::Cpu).unwrap();
    let variables = VarMap::new();
    let parameter = Var::from_tensor(&start).unwrap();
    variables.data().lock().unwrap().insert("p".to_owned(), parameter.clone());
    let mut optimizer = Stateful::new(vec![parameter.clone()], rule).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    for (step, gradient) in record["grads"].as_array().unwrap().iter().enumerate() {
        let gradient = Tensor::new(floats(gradient), &Device::Cpu).unwrap();
        let loss = (parameter.as_tensor() * gradient).unwrap().sum_all().unwrap();
        optimizer.backward_step(&loss).unwrap();
        let deviation = |key: &str| record[format!("{key}_dev_f64")][step].as_f64().unwrap();
        compare(&what, &host(&parameter), &numbers(&record["param"][step]), deviation("param"));
        optimizer.save(&variables, &path).unwrap();
        let state = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        for buffer in R::BUFFERS {
            // PyTorch keeps none for descent without momentum.
            if let Some(expected) = record.get(buffer) {
                let got = host(&state[&format!("optimizer.{buffer}.p")]);
                compare(&format!("{what} {buffer}"), &got, &numbers(&expected[step]), deviation(buffer));
            }
        }
    }
}

#[test]
fn optimizers() {
    let golden = golden("operators");
    let records = golden["optimizers"].as_array().unwrap();
    assert_eq!(records.len(), 6);
    for record in records {
        let number =
            |key: &str, default: f64| record.get(key).map_or(default, |value| value.as_f64().unwrap());
        let (lr, weight_decay, eps) = (number("lr", 0.0), number("weight_decay", 0.0), number("eps", 1e-8));
        let [beta1, beta2] =
            record.get("betas").map_or([0.9, 0.999], |betas| [0, 1].map(|i| betas[i].as_f64().unwrap()));
        match record["optimizer"].as_str().unwrap() {
            "sgd" => {
                let nesterov = record.get("nesterov").is_some();
                steps(record, ParamsSgd { lr, momentum: number("momentum", 0.0), weight_decay, nesterov });
            }
            "adam" => steps(record, ParamsAdam { lr, beta1, beta2, eps, weight_decay }),
            "adamw" => steps(record, ParamsAdamW { lr, beta1, beta2, eps, weight_decay }),
            other => panic!("{other}"),
        }
    }
    // The defaults are PyTorch's, of AdamW candle's, which are the same.
    let none = Vec::new;
    assert_eq!(Sgd::empty(ParamsSgd::default()).unwrap().learning_rate(), 0.001);
    assert_eq!(Adam::new(none(), ParamsAdam::default()).unwrap().params().weight_decay, 0.0);
    assert_eq!(AdamW::new(none(), ParamsAdamW::default()).unwrap().params().weight_decay, 0.01);
}
