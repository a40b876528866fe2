//! A model card: the README.md of a folder on the Hub. Every number in it is counted here, or comes from the run's result.

use super::exported::Exported;
use pointwise_recipe::DataKind;
use pointwise_report::{StudyReport, duration, thousands};
use pointwise_runs::Run;
use serde_json::{Value, json};
use std::fmt::Write;

/// What a run's result says of the exported weights.
pub(super) struct Measured {
    /// Which weights they are.
    pub(super) choice: &'static str,
    /// From 1.
    pub(super) epoch: u32,
    /// On the test images, 0 to 1.
    pub(super) accuracy: Option<f64>,
    /// On the test images, in nats.
    pub(super) loss: Option<f64>,
    /// With test-time augmentation, where the run measured it with these weights.
    pub(super) tta_accuracy: Option<f64>,
}

pub(super) fn text(
    exported: &Exported,
    run: &Run,
    measured: &Measured,
    study: Option<&StudyReport>,
) -> anyhow::Result<String> {
    let mut text = String::new();
    front_matter(&mut text, exported, run, measured)?;
    let network = &exported.network;
    writeln!(text, "# `{}` on {}\n", network.name, data_name(run))?;
    if !network.about.is_empty() {
        writeln!(text, "{}\n", network.about)?;
    }
    if run.environment.data_synthetic {
        writeln!(text, "**The images are synthetic: the figures say nothing about real ones.**\n")?;
    }
    figures(&mut text, exported, run, measured)?;
    training(&mut text, run)?;
    if let Some(study) = study {
        verdict(&mut text, study)?;
    }
    usage(&mut text, exported)?;
    Ok(text)
}

/// What the Hub reads: YAML, of which JSON is a subset.
fn front_matter(
    text: &mut String,
    exported: &Exported,
    run: &Run,
    measured: &Measured,
) -> anyhow::Result<()> {
    let dataset = hub_dataset(run.config.data);
    let mut lines: Vec<(&str, Value)> = vec![
        ("library_name", json!("pointwise")),
        ("pipeline_tag", json!("image-classification")),
        ("tags", json!(["image-classification", "convolutional-network", "pointwise"])),
    ];
    if let Some(dataset) = dataset {
        lines.push(("datasets", json!([dataset])));
    }
    if let Some(accuracy) = measured.accuracy {
        lines.push(("metrics", json!(["accuracy"])));
        let result = json!({
            "task": { "type": "image-classification" },
            "dataset": { "name": data_name(run), "type": dataset.unwrap_or("imagefolder"), "split": "test" },
            "metrics": [{ "type": "accuracy", "value": accuracy, "name": "Test accuracy" }],
        });
        lines.push(("model-index", json!([{ "name": exported.network.name, "results": [result] }])));
    }
    writeln!(text, "---")?;
    for (key, value) in lines {
        writeln!(text, "{key}: {value}")?;
    }
    Ok(writeln!(text, "---\n")?)
}

fn figures(text: &mut String, exported: &Exported, run: &Run, measured: &Measured) -> anyhow::Result<()> {
    let graph = exported.network.graph()?;
    let [channels, rows, columns] = exported.network.input;
    writeln!(text, "## Figures\n\n| | |\n|---|---:|")?;
    let mut row = |what: &str, value: String| writeln!(text, "| {what} | {value} |");
    if let Some(accuracy) = measured.accuracy {
        row("accuracy on the test images", format!("{:.2} %", 100.0 * accuracy))?;
    }
    if let Some(loss) = measured.loss {
        row("loss on the test images", format!("{loss:.4}"))?;
    }
    if let Some(accuracy) = measured.tta_accuracy {
        row("accuracy with test-time augmentation", format!("{:.2} %", 100.0 * accuracy))?;
    }
    row("test images", thousands(run.environment.test_images.into()))?;
    row("parameters", thousands(graph.parameter_count() as u64))?;
    row("multiply-accumulates per image", thousands(graph.macs() as u64))?;
    row("input", format!("{channels} x {rows} x {columns}"))?;
    row("classes", graph.classes().to_string())?;
    Ok(writeln!(text, "\nThe weights are of epoch {}: {}.\n", measured.epoch, measured.choice)?)
}

fn training(text: &mut String, run: &Run) -> anyhow::Result<()> {
    let environment = &run.environment;
    writeln!(
        text,
        "## Training\n\nWith Pointwise {}, seed {}, on {} images{}, by this recipe:\n",
        environment.pointwise,
        run.config.seed,
        thousands(environment.train_images.into()),
        match environment.validation_images {
            0 => String::new(),
            images => format!(", {} held out", thousands(images.into())),
        },
    )?;
    writeln!(text, "```toml\n{}\n```\n", run.config.recipe.to_toml().trim_end())?;
    let device = environment.accelerator.as_ref().unwrap_or(&environment.processor);
    let seconds = run.result.as_ref().map_or(0.0, |result| result.seconds);
    Ok(writeln!(
        text,
        "It took {} with the engine `{}` in {} on {device}.\n",
        duration(seconds),
        run.config.engine,
        run.config.precision,
    )?)
}

fn verdict(text: &mut String, study: &StudyReport) -> anyhow::Result<()> {
    writeln!(
        text,
        "## The study\n\nThe run is one of {} of a study: {}.",
        study.runs.len(),
        study.study.title
    )?;
    if !study.study.source.is_empty() {
        writeln!(text, "Source: {}.", study.study.source.trim_end_matches('.'))?;
    }
    writeln!(text, "\n> {}\n", study.headline())?;
    for finding in study.findings() {
        writeln!(text, "* {finding}")?;
    }
    if !study.findings().is_empty() {
        writeln!(text)?;
    }
    Ok(())
}

fn usage(text: &mut String, exported: &Exported) -> anyhow::Result<()> {
    writeln!(
        text,
        "## Use\n\n```\ntrainer predict --checkpoint model.safetensors photo.png\n```\n\n\
         In PyTorch, the names are those of a module with the layers of `network.toml`:\n\n\
         ```python\nfrom safetensors.torch import load_file\n\n\
         module.load_state_dict(load_file(\"model.safetensors\"), strict=True)\n```\n"
    )?;
    if let Some((mean, std)) = exported.data.as_ref().and_then(|data| data.mean_std.as_ref()) {
        writeln!(
            text,
            "Images are scaled to [0, 1] and normalised by channel: mean {mean:?}, standard deviation {std:?}.\n"
        )?;
    }
    Ok(())
}

/// The usual name of the images.
fn data_name(run: &Run) -> &'static str {
    match run.config.data {
        DataKind::Cifar10 | DataKind::Huggingface => "CIFAR-10",
        DataKind::Cifar100 => "CIFAR-100",
        DataKind::Cifar100Coarse => "CIFAR-100 (coarse labels)",
        DataKind::Mnist => "MNIST",
        DataKind::FashionMnist => "Fashion-MNIST",
        DataKind::Folder => "custom images",
        DataKind::Synthetic => "synthetic images",
    }
}

/// The name of a data set on the Hub.
fn hub_dataset(kind: DataKind) -> Option<&'static str> {
    match kind {
        DataKind::Cifar10 | DataKind::Huggingface => Some("uoft-cs/cifar10"),
        DataKind::Cifar100 | DataKind::Cifar100Coarse => Some("uoft-cs/cifar100"),
        DataKind::Mnist => Some("ylecun/mnist"),
        DataKind::FashionMnist => Some("zalando-datasets/fashion_mnist"),
        DataKind::Folder | DataKind::Synthetic => None,
    }
}
