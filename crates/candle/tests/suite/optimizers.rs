//! Optimizers: in place against composed, saved and loaded, and what is refused.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use crate::common::{assert_close, host, in_type, values};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Optimizer, VarMap};
use pointwise_candle::{Adam, AdamW, ParamsAdam, ParamsAdamW, ParamsSgd, Rule, Sgd, Stateful};
use std::collections::HashMap;
use std::path::Path;

/// Error of f32 against f64 over a few steps, relative to the largest value.
const TOLERANCE: f64 = 1e-5;

const SGD: ParamsSgd = ParamsSgd { lr: 0.05, momentum: 0.9, weight_decay: 0.1, nesterov: true };

/// Shapes with and without whole vectors.
const SHAPES: [&[usize]; 4] = [&[16], &[5, 7], &[3], &[2, 3, 4, 4]];

fn variables(dtype: DType) -> VarMap {
    let map = VarMap::new();
    let mut data = map.data().lock().unwrap();
    for (number, shape) in SHAPES.iter().enumerate() {
        let name = format!("layer.{number}");
        data.insert(name.clone(), in_type(&values(&name, shape), dtype));
    }
    drop(data);
    map
}

/// A loss with gradients that are different at every step; the variable `skipped` gets none.
fn loss(map: &VarMap, step: usize, skipped: Option<&str>) -> Tensor {
    let mut losses = Vec::new();
    for (name, var) in map.data().lock().unwrap().iter().filter(|(name, _)| Some(name.as_str()) != skipped) {
        let factor = in_type(&values(&format!("{name} {step}"), var.dims()), var.dtype());
        losses.push((var.as_tensor() * factor.as_tensor()).unwrap().sqr().unwrap().sum_all().unwrap());
    }
    losses.into_iter().reduce(|a, b| (a + b).unwrap()).unwrap()
}

fn in_order(map: &VarMap) -> Vec<(String, Var)> {
    let data = map.data().lock().unwrap();
    let mut all: Vec<_> = data.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn bits(map: &VarMap) -> Vec<Vec<u64>> {
    in_order(map).iter().map(|(_, var)| host(var).into_iter().map(f64::to_bits).collect()).collect()
}

fn each(check: impl Fn(&dyn Fn(VarMap, usize, Option<&Path>) -> VarMap)) {
    fn run<R: Rule + Clone>(rule: R) -> impl Fn(VarMap, usize, Option<&Path>) -> VarMap {
        // Steps from 0 to `steps`; with a file, everything is saved after the second and continued by new objects.
        move |map, steps, file| {
            let mut map = map;
            let mut optimizer = Stateful::new(map.all_vars(), rule.clone()).unwrap();
            for step in 0..steps {
                optimizer.backward_step(&loss(&map, step, (step == 1).then_some("layer.1"))).unwrap();
                if let (1, Some(file)) = (step, file) {
                    optimizer.save(&map, file.join("optimizer")).unwrap();
                    map.save(file.join("weights")).unwrap();
                    map = variables(DType::F32);
                    map.load(file.join("weights")).unwrap();
                    optimizer = Stateful::new(map.all_vars(), rule.clone()).unwrap();
                    optimizer.load(&map, file.join("optimizer")).unwrap();
                    assert_eq!(optimizer.steps(), 2);
                }
            }
            map
        }
    }
    check(&run(SGD));
    check(&run(ParamsSgd { lr: 0.1, ..ParamsSgd::default() }));
    check(&run(ParamsAdam { lr: 0.05, weight_decay: 0.1, ..ParamsAdam::default() }));
    check(&run(ParamsAdamW { lr: 0.05, ..ParamsAdamW::default() }));
}

#[test]
fn in_place_steps_are_the_composed_ones() {
    each(|run| {
        let ours = run(variables(DType::F32), 5, None);
        let composed = run(variables(DType::F64), 5, None);
        for ((name, got), (_, expected)) in in_order(&ours).iter().zip(&in_order(&composed)) {
            assert_close(name, got, expected, TOLERANCE);
        }
        assert_ne!(bits(&ours), bits(&variables(DType::F32)));
    });
}

#[test]
fn what_was_saved_goes_on_to_the_same_bits() {
    each(|run| {
        let folder = tempfile::tempdir().unwrap();
        let whole = run(variables(DType::F32), 5, None);
        let resumed = run(variables(DType::F32), 5, Some(folder.path()));
        assert_eq!(bits(&whole), bits(&resumed));
        // Nothing is left next to the two files.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    });
}

#[test]
fn adamw_is_candles() {
    let params = ParamsAdamW { lr: 0.05, ..ParamsAdamW::default() };
    let [ours, theirs] = [0, 1].map(|_| variables(DType::F32));
    let mut optimizer = AdamW::new(ours.all_vars(), params.clone()).unwrap();
    let mut candles = candle_nn::AdamW::new(theirs.all_vars(), params).unwrap();
    for step in 0..5 {
        optimizer.backward_step(&loss(&ours, step, None)).unwrap();
        candles.backward_step(&loss(&theirs, step, None)).unwrap();
    }
    for ((name, got), (_, expected)) in in_order(&ours).iter().zip(&in_order(&theirs)) {
        assert_close(name, got, expected, TOLERANCE);
    }
    optimizer.set_learning_rate(0.5);
    assert_eq!((optimizer.learning_rate(), optimizer.params().lr), (0.5, 0.5));
}

#[test]
fn foreign_states_are_refused_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let map = variables(DType::F32);
    let mut optimizer = Adam::new(map.all_vars(), ParamsAdam::default()).unwrap();
    optimizer.backward_step(&loss(&map, 0, None)).unwrap();
    optimizer.save(&map, &path).unwrap();
    let good = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let bytes = std::fs::read(&path).unwrap();

    let scalar = |values: &[i64]| Tensor::new(values, &Device::Cpu).unwrap();
    type Change<'a> = &'a dyn Fn(&mut HashMap<String, Tensor>);
    let changes: [(Change<'_>, &str); 7] = [
        (&|state| drop(state.remove("optimizer.exp_avg.layer.2")), "lacks `optimizer.exp_avg.layer.2`"),
        (
            &|state| drop(state.insert("optimizer.exp_avg.other".to_owned(), scalar(&[1]))),
            "`optimizer.exp_avg.other`, which is not a buffer",
        ),
        (
            &|state| {
                let flat = state["optimizer.exp_avg_sq.layer.1"].flatten_all().unwrap();
                state.insert("optimizer.exp_avg_sq.layer.1".to_owned(), flat);
            },
            "`optimizer.exp_avg_sq.layer.1` is F32 of shape [35], not F32 of shape [5, 7]",
        ),
        (
            &|state| {
                let wide = state["optimizer.exp_avg.layer.0"].to_dtype(DType::F64).unwrap();
                state.insert("optimizer.exp_avg.layer.0".to_owned(), wide);
            },
            "is F64",
        ),
        (&|state| drop(state.remove("optimizer.step")), "not an optimizer's state"),
        (
            &|state| drop(state.insert("optimizer.step".to_owned(), scalar(&[1, 2]))),
            "not an optimizer's state",
        ),
        (&|state| drop(state.insert("optimizer.step".to_owned(), scalar(&[-1]))), "-1 steps"),
    ];
    let mut refused = Vec::new();
    for (change, words) in changes {
        let mut state = good.clone();
        change(&mut state);
        candle_core::safetensors::save(&state, &path).unwrap();
        refused.push((optimizer.load(&map, &path).unwrap_err().to_string(), words));
    }
    for damaged in [&bytes[..bytes.len() / 2], b"no tensors", b""] {
        std::fs::write(&path, damaged).unwrap();
        refused.push((optimizer.load(&map, &path).unwrap_err().to_string(), "state.safetensors"));
    }
    std::fs::remove_file(&path).unwrap();
    refused.push((optimizer.load(&map, &path).unwrap_err().to_string(), "No such file"));
    refused.push((
        optimizer.save(&map, folder.path().join("no/state")).unwrap_err().to_string(),
        "No such file",
    ));
    let others = variables(DType::F32);
    refused.push((optimizer.save(&others, &path).unwrap_err().to_string(), "not among the variables"));
    std::fs::write(&path, &bytes).unwrap();
    let mut descent = Sgd::new(map.all_vars(), SGD).unwrap();
    refused.push((
        descent.load(&map, &path).unwrap_err().to_string(),
        "lacks `optimizer.momentum_buffer.layer.",
    ));
    for (error, words) in &refused {
        assert!(error.contains(words), "{error}, not {words}");
        assert!(error.contains("state") || error.contains("among"), "the file is not named: {error}");
    }

    assert_eq!(optimizer.steps(), 1);
    optimizer.save(&map, &path).unwrap();
    let after = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    for (name, tensor) in &good {
        assert_eq!(host(&after[name]), host(tensor), "{name}");
    }
}
