//! Learning rates and momenta, step by step, against PyTorch's schedulers: `tests/pytorch/schedules.json`, made by the script beside it.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic, too")]

use pointwise_recipe::{
    Anneal, CosineAnnealingLr, MultiStepLr, OneCycleLr, Rate, Recipe, Schedule, Span, Unit, Warmup,
};
use serde_json::Value;

/// Relative. PyTorch multiplies up from step to step what we compute in closed form.
const TOLERANCE: f64 = 1e-12;

/// Of the optimizer's rate, where a difference of rates all but cancels: towards the end of a line to 0, and of a cosine.
const FLOOR: f64 = 1e-15;

fn golden() -> Value {
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let path = std::path::Path::new(&folder).join("../../tests/pytorch/schedules.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// Steps whose learning rate or momentum is not that of the file, each with what it should be.
fn differences(case: &Value, lr: f64, recipe: &Recipe) -> Vec<String> {
    let steps_per_epoch = case["steps_per_epoch"].as_u64().unwrap();
    let span = Span::of_epochs(steps_per_epoch, recipe.epochs);
    let rates = numbers(&case["lr"]);
    let momenta = case.get("momentum").map(numbers);
    assert_eq!(rates.len() as u64, span.steps);
    let is_near = |got: f64, expected: f64| (got - expected).abs() <= TOLERANCE * expected.abs() + FLOOR * lr;
    let mut differences = Vec::new();
    for (step, expected) in rates.into_iter().enumerate() {
        let got = recipe.rate(step as u64, span);
        let momentum = momenta.as_ref().map(|momenta| momenta[step]);
        let epoch = (step as u64 / steps_per_epoch) as u32;
        let expected = Rate { lr: expected, momentum, epoch };
        let is_momentum = match (got.momentum, expected.momentum) {
            (Some(got), Some(expected)) => is_near(got, expected),
            (got, expected) => got == expected,
        };
        if !is_near(got.lr, expected.lr) || !is_momentum {
            differences.push(format!("step {step}: {got:?}, expected {expected:?}"));
        }
    }
    differences
}

fn recipe(case: &Value, lr: f64, momentum: f64) -> Recipe {
    let warmup =
        case.get("warmup").map_or(String::new(), |text| format!("warmup = {}\n", text.as_str().unwrap()));
    let text = format!(
        "epochs = {}\nbatch-size = 1\noptimizer = {{ SGD = {{ lr = {lr}, momentum = {momentum} }} }}\nschedule = {}\n{warmup}",
        case["epochs"],
        case["schedule"].as_str().unwrap(),
    );
    Recipe::from_toml(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn every_step_is_pytorchs() {
    let golden = golden();
    let [lr, momentum] = ["lr", "momentum"].map(|key| golden[key].as_f64().unwrap());
    let cases = golden["cases"].as_array().unwrap();
    let mut wrong = Vec::new();
    let mut classes = std::collections::BTreeSet::new();
    for case in cases {
        let recipe = recipe(case, lr, momentum);
        classes.insert(recipe.schedule.class());
        let differences = differences(case, lr, &recipe);
        if let Some(first) = differences.first() {
            let warmup = case.get("warmup").unwrap_or(&Value::Null);
            wrong.push(format!(
                "{}, warm-up {warmup}, {} epochs of {}: {first} and {} more",
                case["schedule"],
                case["epochs"],
                case["steps_per_epoch"],
                differences.len() - 1,
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() > 400, "only {} cases", cases.len());
    assert_eq!(classes.len(), 5, "{classes:?}");
}

/// The comparison notices each argument: another value of it gives other rates in some case.
#[test]
fn a_wrong_argument_is_noticed() {
    let golden = golden();
    let [lr, momentum] = ["lr", "momentum"].map(|key| golden[key].as_f64().unwrap());
    /// A little more.
    const MORE: f64 = 1.0 + 1e-9;
    type Change = fn(&mut Schedule);
    let changes: [(&str, Change); 16] = [
        ("milestones", |schedule| {
            if let Schedule::MultiStep(it) = schedule {
                it.milestones[0] += 1;
            }
        }),
        ("gamma", |schedule| {
            if let Schedule::MultiStep(it) = schedule {
                it.gamma *= MORE;
            }
        }),
        ("by", |schedule| {
            if let Schedule::MultiStep(it) = schedule {
                it.by = other(it.by);
            }
        }),
        ("T_max", |schedule| {
            if let Schedule::Cosine(it) = schedule {
                it.t_max = it.t_max.map(|t_max| t_max + 1);
            }
        }),
        ("T_max that is left out", |schedule| {
            if let Schedule::Cosine(it) = schedule {
                it.t_max.get_or_insert(50);
            }
        }),
        ("eta_min", |schedule| {
            if let Schedule::Cosine(it) = schedule {
                it.eta_min *= MORE;
            }
        }),
        ("by of a cosine", |schedule| {
            if let Schedule::Cosine(it) = schedule {
                it.by = other(it.by);
            }
        }),
        ("total_steps", |schedule| {
            if let Schedule::OneCycle(it) = schedule {
                it.total_steps = Some(100);
            }
        }),
        ("pct_start", |schedule| {
            if let Schedule::OneCycle(it) = schedule {
                it.pct_start += 0.02;
            }
        }),
        ("anneal_strategy", |schedule| {
            if let Schedule::OneCycle(it) = schedule {
                let is_cos = it.anneal_strategy == Anneal::Cos;
                it.anneal_strategy = if is_cos { Anneal::Linear } else { Anneal::Cos };
            }
        }),
        ("cycle_momentum", |schedule| {
            if let Schedule::OneCycle(it) = schedule {
                it.cycle_momentum ^= true;
            }
        }),
        ("base_momentum", |schedule| {
            if let Schedule::OneCycle(it) = schedule {
                it.base_momentum *= MORE;
            }
        }),
        ("max_momentum", |schedule| {
            if let Schedule::OneCycle(it) = schedule {
                it.max_momentum *= MORE;
            }
        }),
        ("div_factor", |schedule| {
            if let Schedule::OneCycle(it) = schedule {
                it.div_factor *= MORE;
            }
        }),
        ("final_div_factor", |schedule| {
            if let Schedule::OneCycle(it) = schedule {
                it.final_div_factor *= MORE;
            }
        }),
        ("points", |schedule| {
            if let Schedule::Piecewise(it) = schedule {
                it.points[0][1] *= MORE;
            }
        }),
    ];
    let is_noticed = |change: &dyn Fn(&mut Recipe)| {
        golden["cases"].as_array().unwrap().iter().any(|case| {
            let mut recipe = recipe(case, lr, momentum);
            change(&mut recipe);
            !differences(case, lr, &recipe).is_empty()
        })
    };
    for (name, change) in changes {
        assert!(is_noticed(&|recipe| change(&mut recipe.schedule)), "{name}");
    }
    assert!(is_noticed(&|recipe| recipe.warmup.iter_mut().for_each(|warmup| warmup.start_factor /= MORE)));
    assert!(is_noticed(&|recipe| recipe.warmup = None));
}

fn other(unit: Unit) -> Unit {
    if unit == Unit::Epoch { Unit::Step } else { Unit::Epoch }
}

/// Spans, steps and arguments that no check has seen: rates may be of no use, but there is one.
#[test]
fn lengths_beyond_all_measure() {
    let numbers = [0, 1, 3, u64::MAX - 1, u64::MAX];
    let warmups = numbers.map(|steps| Warmup { steps: Some(steps), epochs: None, start_factor: 0.5 });
    let more = [1e-300, 0.5, 1e300, f64::INFINITY, f64::NAN].map(|epochs| Warmup {
        steps: None,
        epochs: Some(epochs),
        start_factor: 0.5,
    });
    let warmups: Vec<Option<Warmup>> = warmups.into_iter().chain(more).map(Some).chain([None]).collect();
    for number in numbers {
        for by in [Unit::Epoch, Unit::Step] {
            let schedules: [Schedule; 4] = [
                MultiStepLr { milestones: vec![number], gamma: 0.1, by }.into(),
                CosineAnnealingLr { t_max: Some(number), eta_min: 0.0, by }.into(),
                CosineAnnealingLr { t_max: None, eta_min: 0.0, by }.into(),
                OneCycleLr { total_steps: Some(number), ..OneCycleLr::default() }.into(),
            ];
            for (schedule, warmup) in
                schedules.iter().flat_map(|it| warmups.iter().map(move |warmup| (it, warmup)))
            {
                for (step, steps_per_epoch) in numbers.iter().flat_map(|a| numbers.map(|b| (*a, b))) {
                    for epochs in [0, 1, u32::MAX] {
                        let span = Span::of_epochs(steps_per_epoch, epochs);
                        let rate = schedule.rate(0.1, warmup.as_ref(), step, span);
                        assert!(
                            (0.0..=0.1 + 1e-9).contains(&rate.lr),
                            "{rate:?}, {schedule:?}, {warmup:?}, {step}, {span:?}"
                        );
                    }
                }
            }
        }
    }
}

/// Halves are rounded up, and no warm-up comes to nothing.
#[test]
fn warmups_are_whole_steps() {
    let length = |epochs: f64, steps_per_epoch| {
        let warmup = Warmup { steps: None, epochs: Some(epochs), start_factor: 0.5 };
        let span = Span::of_epochs(steps_per_epoch, 10);
        let is_warm = |step: &u64| Schedule::default().rate(1.0, Some(&warmup), *step, span).lr < 1.0;
        (0..span.steps).take_while(is_warm).count()
    };
    assert_eq!(length(2.0, 7), 14);
    assert_eq!(length(0.5, 7), 4);
    assert_eq!(length(0.49, 7), 3);
    assert_eq!(length(0.001, 7), 1);
    assert_eq!(length(1e-300, 1), 1);
}
