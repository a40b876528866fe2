//! `trainer eval`.

use crate::args::{Compute, EvalArgs, Model, Split};
use crate::data::{Images, check_classes_of, load_dataset};
use crate::{End, print, set_threads, stop_flag};
use anyhow::{Context, bail};
use pointwise_data::statistics;
use pointwise_engine::{DeviceChoice, EngineError, EngineKind, Settings, create};
use pointwise_models::Network;
use pointwise_runs::EpochRecord;
use pointwise_training::checkpoint;
use pointwise_training::{Observer, StepProgress, evaluate};
use std::sync::Arc;

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<End> {
    let (state, meta) = checkpoint::read(&args.checkpoint)?;
    let path = args.checkpoint.display();
    let name = match (args.model.map(Model::name), meta.as_ref()) {
        (Some(model), Some(meta)) if model != meta.model => {
            bail!("{path} holds weights of `{}`, not of `{model}`; leave --model out", meta.model)
        }
        (Some(model), _) => model.to_owned(),
        (None, Some(meta)) => meta.model.clone(),
        (None, None) => bail!("{path} does not say which network it is of; say so with --model"),
    };
    let network = Network::by_name(&name, Network::DROPOUT)?;
    state.check(&network).with_context(|| format!("{path} cannot be used"))?;
    set_threads(&args.compute)?;
    let (kind, settings) = engine_and_settings(&args.compute)?;
    let mut engine = create(kind, &network, &settings)?;
    engine.load_state(&state)?;

    let stop = stop_flag()?;
    let (limit_train, limit_test) = match args.split {
        Split::Test => (Some(1), args.limit),
        Split::Train => (args.limit, Some(1)),
    };
    let images = Images::from_args(&args.data);
    let Some(dataset) = load_dataset(&images, limit_train, limit_test, false, &stop)? else {
        return Ok(End::Interrupted);
    };
    if !dataset.synthetic {
        let found = statistics(&dataset);
        match args.split {
            Split::Test => check_classes_of(&dataset.source, "test", &found.test_classes),
            Split::Train => check_classes_of(&dataset.source, "training", &found.train_classes),
        }
    }
    let (images, split) = match args.split {
        Split::Test => (dataset.test, "Test"),
        Split::Train => (dataset.train, "Train"),
    };
    let images = Arc::new(match args.limit {
        Some(limit) => images.truncated(limit as usize),
        None => images,
    });
    let Some(totals) = evaluate(engine.as_mut(), &images, args.batch_size as usize, &stop, &mut Silent)?
    else {
        return Ok(End::Interrupted);
    };
    let (loss, accuracy) = (totals.loss(), totals.accuracy());
    print(&if args.json {
        let figures = serde_json::json!({
            "model": name,
            "split": split.to_lowercase(),
            "images": totals.samples,
            "correct": totals.correct,
            "accuracy": accuracy,
            "loss": loss,
        });
        serde_json::to_string_pretty(&figures)?
    } else {
        let (correct, samples) = (totals.correct, totals.samples);
        format!("{split} Loss {loss:.4} Acc {:.2}% ({correct} of {samples})", 100.0 * accuracy)
    })?;
    Ok(End::Done)
}

/// The engine asked for and how it is to compute, or the defaults.
pub(crate) fn engine_and_settings(compute: &Compute) -> Result<(EngineKind, Settings), EngineError> {
    let device = compute.device.unwrap_or(DeviceChoice::Auto).resolve()?;
    let kind = compute.engine.unwrap_or_else(|| EngineKind::default_for(device));
    let settings = Settings {
        device,
        precision: compute.precision.unwrap_or_default(),
        deterministic: compute.deterministic,
        ..Settings::default()
    };
    Ok((kind, settings))
}

/// An evaluation is over soon enough without a display.
struct Silent;

impl Observer for Silent {
    fn step(&mut self, _: &StepProgress) {}
    fn evaluating(&mut self, _: usize, _: usize) {}
    fn epoch(&mut self, _: &EpochRecord) {}
}
