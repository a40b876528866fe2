//! `--format hub`: a folder for the Hugging Face Hub.

use super::card::{self, Measured};
use super::exported::Exported;
use crate::report::judged;
use anyhow::{Context, bail};
use pointwise_report::StudyReport;
use pointwise_runs::{Checkpoint, Run, RunResult, holds_run, replace_file};
use pointwise_study::{Options, Plan, finished, study_in};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Writes weights, configuration, network and model card into a new folder.
pub(super) fn write(exported: &Exported, folder: &Path) -> anyhow::Result<()> {
    let (run, measured) = measured(exported)?;
    let study = verdict(&run)?;
    let weights = folder.join("model.safetensors");
    let files = [
        ("model.safetensors", exported.safetensors(&weights)?),
        ("config.json", format!("{:#}\n", config(exported, &run, &measured)?).into_bytes()),
        ("network.toml", exported.network.to_toml().into_bytes()),
        ("README.md", card::text(exported, &run, &measured, study.as_ref())?.into_bytes()),
    ];
    std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be created", folder.display()))?;
    for (name, bytes) in files {
        replace_file(folder.join(name), &bytes)?;
    }
    Ok(())
}

/// The run of the weights, and what its result says of them.
fn measured(exported: &Exported) -> anyhow::Result<(Run, Measured)> {
    let file = std::path::absolute(&exported.file)?;
    let path = exported.file.display();
    let folder = file.parent().and_then(Path::parent);
    let of_run = folder.filter(|folder| holds_run(folder)).and_then(|folder| {
        let all = [Checkpoint::Best, Checkpoint::Last, Checkpoint::Ema];
        let which = all.into_iter().find(|which| folder.join(which.file_name()) == file)?;
        Some((folder, which))
    });
    let Some((folder, which)) = of_run else {
        bail!(
            "{path} is not a checkpoint in a run folder, so its accuracy is not known: give a run folder, or choose another format"
        );
    };
    let run = Run::read(folder)?;
    let Some(result) = &run.result else {
        bail!(
            "{} is a run without a result, which the model card needs: let it finish with `trainer train --resume`",
            folder.display()
        );
    };
    let measured = Measured::new(which, result, run.config.val_split > 0);
    // A folder assembled from two runs would have the numbers of one and the weights of the other.
    let is_same = exported.meta.as_ref().is_some_and(|meta| {
        let is_as_old = match which {
            Checkpoint::Best => meta.epoch == result.best_epoch,
            // After the last step, the next one would belong to another epoch.
            Checkpoint::Last | Checkpoint::Ema => meta.step == result.steps,
        };
        meta.model == run.config.model && meta.seed == run.config.seed && is_as_old
    });
    if !is_same {
        bail!(
            "{path} is not of epoch {} of `{}` with seed {}, whose result is in {}: give the checkpoint of that run",
            measured.epoch,
            run.config.model,
            run.config.seed,
            folder.join("result.json").display()
        );
    }
    Ok((run, measured))
}

impl Measured {
    fn new(which: Checkpoint, result: &RunResult, is_validated: bool) -> Self {
        let (epoch, accuracy, loss) = match which {
            Checkpoint::Best => (result.best_epoch, result.best_test_acc, result.best_test_loss),
            Checkpoint::Last => (result.epochs, Some(result.final_acc), Some(result.final_loss)),
            Checkpoint::Ema => (result.epochs, result.ema_test_acc, result.ema_test_loss),
        };
        let choice = match which {
            Checkpoint::Best if is_validated => {
                "the epoch with the best accuracy on held-out images, so the test images played no part in the choice"
            }
            Checkpoint::Best => {
                "the epoch with the best accuracy on the test images themselves, so the figure is somewhat too good"
            }
            Checkpoint::Last => "the last epoch",
            Checkpoint::Ema => "the moving average of the weights after the last epoch",
        };
        let tta_accuracy = result.tta_test_acc.filter(|_| which == Checkpoint::Last);
        Self { choice, epoch, accuracy, loss, tta_accuracy }
    }
}

/// The report on the study in whose folder a run lies, if it lies in one.
fn verdict(run: &Run) -> anyhow::Result<Option<StudyReport>> {
    let Some(folder) = run.path.parent().and_then(Path::parent) else { return Ok(None) };
    let Some(study) = study_in(folder)? else { return Ok(None) };
    if study.arm(&run.config.model).is_none() {
        return Ok(None);
    }
    let plan = Plan::new(study.clone(), Options { out: Some(folder.to_owned()), ..Options::default() })?;
    let (runs, _) = finished(&plan)?;
    Ok(Some(judged(&study, &runs)?.0))
}

/// What programs need to use the weights, under the names that are usual on the Hub.
fn config(exported: &Exported, run: &Run, measured: &Measured) -> anyhow::Result<Value> {
    let graph = exported.network.graph()?;
    let data = exported.data.as_ref();
    let classes = data.map_or(&[][..], |data| &data.classes);
    let labels: Map<String, Value> =
        classes.iter().enumerate().map(|(label, class)| (label.to_string(), json!(class))).collect();
    let numbers: Map<String, Value> =
        classes.iter().enumerate().map(|(label, class)| (class.clone(), json!(label))).collect();
    let normalisation = data.and_then(|data| data.mean_std.as_ref());
    Ok(json!({
        "library_name": "pointwise",
        "library_version": env!("CARGO_PKG_VERSION"),
        "architecture": exported.network.name,
        "network": "network.toml",
        "input_shape": exported.network.input,
        "num_classes": graph.classes(),
        "num_parameters": graph.parameter_count(),
        "id2label": labels,
        "label2id": numbers,
        "normalisation": normalisation.map(|(mean, std)| json!({ "mean": mean, "std": std })),
        "epoch": measured.epoch,
        "test_accuracy": measured.accuracy,
        "test_loss": measured.loss,
        "seed": run.config.seed,
        "weights_sha256": exported.sha256()?,
        "run": exported.meta.as_ref().and_then(|meta| meta.run.as_ref()),
    }))
}
