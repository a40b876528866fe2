//! A study that no part of the program knows: its networks, images and claims come from a text, and its report mentions no others.

use std::path::Path;

use pointwise_report::{Outcome, Page, StudyReport, Unit, Verdict};
use pointwise_runs::{Record, Run, RunConfig};
use pointwise_study::Study;

mod runs;

use runs::study as published;

const STUDY: &str = r#"
name = "pets"
title = "Cats and dogs"
question = """
Is a photograph of a cat or of a dog?

Nobody knew."""
conclusion = "More units help."

[source]
author = "A. Nonymous"
title = "On pets"
year = 2019
link = "https://example.org/pets"
licence = "CC BY 4.0"
note = "Accuracies were printed in whole percent."

[data]
kind = "folder"
dir = "pets"
train-images = 800
test-images = 200

[recipe]
epochs = 10
batch-size = 20
optimizer = { SGD = { lr = 0.01 } }

[grid]
seeds = [1, 2, 3, 4]

[[networks]]
network = { name = "few", input = [3, 8, 8], layers = ["Flatten", { Linear = { out_features = 2 } }] }

[[networks]]
network = { name = "many", input = [3, 8, 8], layers = ["Flatten", { Linear = { out_features = 20 } }, "ReLU", { Linear = { out_features = 2 } }] }
recipe = { batch-size = 10 }

[[primary]]
metric = "test-acc"
margin = 4.0

[[published]]
network = "few"
figures = [{ metric = "test-acc", value = 55 }]

[[published]]
network = "many"
figures = [{ metric = "test-acc", value = 70, at-least = true }]

[[claims]]
kind = "ratio"
of = "test-loss"
network = "many"
to = "few"
published = 0.8

[[claims]]
kind = "ratio"
of = "parameters"
network = "many"
to = "few"
published = 10.1

[[claims]]
kind = "difference"
of = "test-acc"
network = "many"
to = "few"
margin = 30
text = "Both are pets"
"#;

fn study() -> Study {
    Study::from_toml(STUDY, Path::new(".")).expect("a study")
}

/// Four seeds of each network, around 55.2 % and 74 %.
fn trained(study: &Study) -> Vec<Run> {
    let mut all = Vec::new();
    for (arm, (acc, loss)) in study.arms.iter().zip([(0.552, 0.7), (0.74, 0.55)]) {
        for (seed, moved) in (1..).zip([-0.006, -0.002, 0.002, 0.006]) {
            let mut run = runs::run("nin", seed, 0.0);
            run.path = format!("{}-seed{seed}", arm.name).into();
            run.config = RunConfig {
                seed,
                data: study.data.kind,
                dropout: 0.5,
                network: Some(arm.network.to_toml()),
                recipe: arm.recipe.clone(),
                ..RunConfig::new(&arm.name, arm.recipe.clone())
            };
            let environment = &mut run.environment;
            environment.data_source = "a folder of images, pets".into();
            (environment.train_images, environment.test_images) = (800, 200);
            environment.parameters = arm.network.graph().expect("a network").parameter_count() as u64;
            let result = run.result.as_mut().expect("a result");
            (result.final_acc, result.final_loss) = (acc + moved, loss - moved);
            for record in &mut run.records {
                if let Record::Epoch(epoch) = record {
                    (epoch.test_acc, epoch.test_loss) = (Some(acc + moved), Some(loss - moved));
                }
            }
            all.push(run);
        }
    }
    all
}

#[test]
fn a_study_of_ones_own_is_judged_and_told_in_its_own_words() {
    let study = study();
    let (facts, runs) = (runs::facts_of(&study), trained(&study));
    let report = StudyReport::new(&runs, &facts, &study).expect("a report");
    assert_eq!(report.verdict, Verdict::Reproduced, "{}", report.headline());
    let headline = report.headline();
    for part in [
        "Reproduced: no published final test accuracy differs from ours",
        "what was claimed to be reached at least is reached, and of differences of",
    ] {
        assert!(headline.contains(part), "{headline}");
    }
    assert!(!headline.contains("parameter"), "no counts were published: {headline}");
    // (193 * 20 + 21 * 2) / (193 * 2) = 10.1; 0.55 / 0.7 is below one.
    let [loss, parameters, accuracy] = report.claims.as_slice() else { panic!("{:?}", report.claims) };
    assert_eq!((loss.outcome, loss.unit), (Outcome::Holds, Unit::Times));
    assert!(loss.interval.is_some_and(|(low, high)| low < 0.55 / 0.7 && 0.55 / 0.7 < high && high < 0.82));
    assert_eq!((parameters.outcome, parameters.published), (Outcome::Holds, Some(10.1)));
    assert_eq!((accuracy.outcome, accuracy.text.as_str()), (Outcome::Holds, "Both are pets"));

    let text = report.to_markdown();
    for part in [
        "# Cats and dogs\n",
        "Is a photograph of a cat or of a dog?\n\nNobody knew.\n\nConclusion: More units help.\n\n",
        "Published: A. Nonymous, On pets, 2019, https://example.org/pets, CC BY 4.0. Accuracies were printed in whole percent.",
        "|        55 |",
        "| \u{2265} 70 |",
        "Data: a folder of images, pets; 800 training images, 200 test images",
        "| test loss of `many` below that of `few` ",
        "`many` has 10.11 times the parameters of `few`",
        "| Both are pets ",
    ] {
        assert!(text.contains(part), "{part} not in\n{text}");
    }
    let html = Page::new(&report, &runs, &facts, Vec::new(), &study).html();
    for part in [
        "<title>Cats and dogs: Reproduced</title>",
        "<p>Is a photograph of a cat or of a dog?</p><p>Nobody knew.</p>",
        "<a href=\"https://example.org/pets\" rel=\"noopener noreferrer nofollow\">https://example.org/pets</a>",
        "trainer reproduce study.toml --seeds 1,2,3,4<",
        "many: published \u{2265} 70, not refuted",
        "few: published 55, inside our interval",
    ] {
        assert!(html.contains(part), "{part}");
    }
    for other in ["CIFAR", "pointwise convolution", "alexnet", "nin"].map(|word| format!(" {word} ")) {
        assert!(!text.contains(&other) && !html.contains(&other), "{other}");
    }
    assert!(!text.contains("CIFAR") && !html.contains("CIFAR"), "{text}");
}

#[test]
fn images_of_another_number_and_made_up_ones_are_not_the_studys() {
    let study = study();
    let (facts, mut runs) = (runs::facts_of(&study), trained(&study));
    for run in &mut runs {
        run.environment.data_synthetic = true;
    }
    let report = StudyReport::new(&runs, &facts, &study).expect("a report");
    let Verdict::NotComparable { reason } = &report.verdict else { panic!("{:?}", report.verdict) };
    assert_eq!(reason, "the images are synthetic");
    let html = Page::new(&report, &runs, &facts, Vec::new(), &study).html();
    assert!(html.contains("say nothing about the study&#39;s images") && html.contains("study.toml --quick"));
    let error = StudyReport::new(&runs, &facts, &published()).unwrap_err().to_string();
    assert!(error.contains("is a run of `few`, which is none of the study's networks"), "{error}");
    // For a study of synthetic images, they are its own.
    let mut own = study.clone();
    own.data.kind = pointwise_recipe::DataKind::Synthetic;
    for run in &mut runs {
        run.config.data = own.data.kind;
    }
    let report = StudyReport::new(&runs, &facts, &own).expect("a report");
    assert_eq!(report.verdict, Verdict::Reproduced);
}
