//! The studies that come with the program.

use std::path::Path;

use pointwise_network::Network;
use pointwise_recipe::{Adam, Augment, Optimizer, Recipe, Span};
use pointwise_study::{Metric, Study};

fn study(name: &str) -> Study {
    Study::by_name(name).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn every_file_is_a_study_of_its_name() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/studies");
    let mut files: Vec<String> = std::fs::read_dir(&folder)
        .expect("the folder")
        .map(|entry| {
            entry.expect("a file").path().file_stem().expect("a name").to_string_lossy().into_owned()
        })
        .collect();
    files.sort();
    let mut shipped: Vec<&str> = Study::shipped().collect();
    assert_eq!(shipped[0], "pointwise");
    for name in &shipped {
        let study = study(name);
        assert_eq!(study.name, *name);
        assert_eq!(
            Study::shipped_toml(name).ok(),
            std::fs::read_to_string(folder.join(format!("{name}.toml"))).ok().as_deref()
        );
        assert!(study.question.len() > 200 && !study.title.is_empty(), "{name}");
        // Published figures have a source, and deciding ones a reason.
        assert_eq!(study.is_published(), study.source.is_some(), "{name}");
        assert_eq!(study.is_published(), !study.primary.is_empty(), "{name}");
        assert!(study.primary.iter().all(|primary| !primary.reason.is_empty()), "{name}");
        for arm in &study.arms {
            assert!(arm.is_shipped, "{name}: {}", arm.name);
            let parameters = arm.network.graph().expect("a network").parameter_count() as u64;
            assert!(
                arm.published.parameters.is_none_or(|published| published == parameters),
                "{name}: {}",
                arm.name
            );
        }
    }
    shipped.sort_unstable();
    assert_eq!(shipped, files);
}

#[test]
fn pointwise_is_the_published_study() {
    let study = study("pointwise");
    let names: Vec<&str> = study.arms.iter().map(|arm| arm.name.as_str()).collect();
    assert_eq!(names, ["alexnet_plain", "alexnet", "nin"]);
    let adam = Adam { weight_decay: 5e-4, ..Adam::default() };
    let recipe = Recipe { augment: Augment::CROP_FLIP, ..Recipe::new(10, 126, adam) };
    assert!(study.arms.iter().all(|arm| arm.recipe == recipe));
    assert_eq!(study.seeds, [42]);
    assert_eq!(Study::first_shipped().ok(), Some(study.clone()));
    let published = &study.arm("nin").expect("nin").published;
    // Four metrics, of ten epochs and at the end.
    assert_eq!((published.parameters, published.figures.len()), (Some(1_485_386), 44));
    let last = published.figure(Metric::TestAcc, None).expect("the last accuracy");
    assert_eq!((last.value, last.decimals, last.runs, last.at_least), (74.27, 2, 1, false));
    let first = study.arms[0].published.figure(Metric::TestAcc, Some(1)).expect("the first accuracy");
    assert_eq!((first.value, first.decimals), (56.2, 2));
    assert_eq!(study.claims.len(), 7);
    assert!(study.record.is_some());
}

#[test]
fn the_ablation_has_all_variations_of_nin_and_alexnet() {
    let study = study("pointwise-ablation");
    let names: Vec<&str> = study.arms.iter().map(|arm| arm.name.as_str()).collect();
    let nin = Network::shipped().filter(|name| name.starts_with("nin"));
    assert_eq!(names, ["alexnet"].into_iter().chain(nin).collect::<Vec<_>>());
    assert_eq!((names.len(), study.seeds.as_slice()), (13, &[42, 43, 44][..]));
    let recipe = Study::by_name("pointwise").expect("the study").recipe;
    assert!(study.arms.iter().all(|arm| arm.recipe == recipe));
}

#[test]
fn the_tutorials_have_ten_runs_by_their_recipes() {
    let keras = study("keras-cnn");
    let Optimizer::Adam(adam) = &keras.recipe.optimizer else { panic!("{:?}", keras.recipe) };
    assert_eq!((adam.lr, adam.eps, adam.weight_decay), (0.001, 1e-7, 0.0));
    assert_eq!((keras.recipe.batch_size, keras.recipe.epochs, keras.seeds.len()), (32, 10, 10));
    let figure = keras.arms[0].published.figure(Metric::TestAcc, None).expect("the accuracy");
    assert_eq!((figure.value, figure.decimals, figure.at_least), (70.0, 0, true));

    let pytorch = study("pytorch-classifier");
    let Optimizer::Sgd(sgd) = &pytorch.recipe.optimizer else { panic!("{:?}", pytorch.recipe) };
    assert_eq!((sgd.lr, sgd.momentum, sgd.weight_decay, sgd.nesterov), (0.001, 0.9, 0.0, false));
    assert_eq!((pytorch.recipe.batch_size, pytorch.recipe.epochs, pytorch.seeds.len()), (4, 2, 10));
    let figure = pytorch.arms[0].published.figure(Metric::TestAcc, None).expect("the accuracy");
    assert_eq!((figure.value, figure.decimals, figure.at_least), (55.0, 0, false));
}

/// The constants of its code, in which the loss is a sum over the batch: `lr`, `wd` and `lr_biases` of its optimizer, `lr_schedule`, and which
/// parameters it trains for how long.
#[test]
fn airbench94_is_trained_as_by_its_code() {
    let study = study("airbench94");
    let recipe = &study.recipe;
    let span = recipe.span(50_000);
    assert_eq!((span.steps_per_epoch, span.steps), (50_000 / 1024, (48.0 * 9.9f64).ceil() as u64));
    let kilostep_scale = 1024.0 * (1.0 + 1.0 / (1.0 - 0.85));
    let lr = 11.5 / kilostep_scale;
    let wd = 0.0153 * 1024.0 / kilostep_scale;
    let near =
        |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-12, "{found} {expected}");
    let Optimizer::Sgd(sgd) = &recipe.optimizer else { panic!("{recipe:?}") };
    assert_eq!((sgd.momentum, sgd.nesterov), (0.85, true));
    let peak = (0.23 * 476.0f64).floor();
    for step in [0, 1, 50, 109, 110, 300, 475] {
        let at = step as f64;
        let factor = match at <= peak {
            true => 0.2 + 0.8 * at / peak,
            false => 1.0 - 0.93 * (at - peak) / (476.0 - peak),
        };
        // A mean has a 1024th of the gradient.
        near(recipe.rate(step, span).lr / 1024.0, lr * factor);
    }
    let graph = Network::by_name("airbench94").unwrap().graph().unwrap();
    for parameter in graph.parameters() {
        let group = recipe.group(&parameter.name, parameter.shape.len());
        let factor = if parameter.name.contains("norm") { 64.0 } else { 1.0 };
        let frozen_after = match parameter.name.as_str() {
            "0.weight" => Some(0),
            "0.bias" => Some(3),
            _ => None,
        };
        assert_eq!((group.lr_factor, group.frozen_after), (factor, frozen_after), "{}", parameter.name);
        near(group.weight_decay * 1024.0, wd / (lr * factor));
    }
    let lookahead = recipe.lookahead.expect("it looks ahead");
    near(lookahead.decay_after(475, span).unwrap(), 0.95f64.powi(5) * (475.0f64 / 476.0).powi(3));
    assert_eq!(recipe.test_time_augmentation.map(|views| views.views().len()), Some(6));
    let figure = study.arms[0].published.figure(Metric::TtaTestAcc, None).expect("the accuracy");
    assert_eq!((figure.value, figure.decimals, figure.runs, study.seeds.len()), (94.01, 2, 1000, 5));
}

/// 64,000 iterations, with a tenth of the rate from 32,000 and a hundredth from 48,000 on.
#[test]
fn resnet20_is_trained_as_in_the_paper() {
    let study = study("resnet20");
    let recipe = &study.recipe;
    let span = Span::of_epochs(50_000_u64.div_ceil(128), recipe.epochs);
    assert_eq!(span.steps / 1000, 64);
    for (step, lr) in
        [(0, 0.1), (31_999, 0.1), (32_000, 0.01), (47_999, 0.01), (48_000, 0.001), (64_123, 0.001)]
    {
        assert!((recipe.rate(step, span).lr / lr - 1.0).abs() < 1e-12, "{step}");
    }
    let figure = study.arms[0].published.figure(Metric::TestAcc, None).expect("the accuracy");
    assert_eq!((figure.value, figure.decimals), (91.25, 2));
}
