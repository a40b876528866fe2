//! `trainer eval`.

use crate::args::{Compute, EvalArgs, Split};
use crate::data::{Images, check_classes_of, load_dataset, spec, user_cache};
use crate::model::Model;
use crate::recipe::study_recipe;
use crate::{End, print, stop_flag, threads};
use anyhow::{Context, anyhow, bail};
use pointwise_data::{DatasetSpec, Normalisation, batch_bytes, statistics};
use pointwise_engine::{DeviceChoice, EngineError, EngineKind, Settings, State, create};
use pointwise_network::Network;
use pointwise_runs::RunConfig;
use pointwise_training::{FinishedEpoch, Observer, StepProgress, TrainingError, evaluate, read_weights};
use pointwise_weights::checkpoint::Meta;
use std::path::Path;
use std::sync::Arc;

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<End> {
    let Weights { network, state, run } = weights(&args.checkpoint, args.model.as_ref())?;
    threads::start(args.compute.threads)?;
    let (kind, settings) = engine_and_settings(&args.compute)?;
    let mut engine = create(kind, &network, &settings)?;
    engine.load_state(&state)?;

    let stop = stop_flag()?;
    let (limit_train, limit_test) = match args.split {
        Split::Test => (Some(1), args.limit),
        Split::Train => (args.limit, Some(1)),
    };
    let images = Images::of_weights(&args.data, run.as_ref(), &network)?;
    let Some(dataset) = load_dataset(&images, limit_train, limit_test, false, &stop)? else {
        return Ok(End::Interrupted);
    };
    let normalisation = trained_with(&dataset.spec, run.as_ref(), &network, &args.checkpoint)?;
    if !dataset.synthetic {
        let found = statistics(&dataset);
        match args.split {
            Split::Test => check_classes_of(&dataset, "test", &found.test_classes),
            Split::Train => check_classes_of(&dataset, "training", &found.train_classes),
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
    let batch_size = args.batch_size.unwrap_or(settings.recipe.batch_size);
    let batch_size = (batch_size as usize).min(images.len());
    engine.prepare(batch_size, false, batch_bytes(batch_size, network.input))?;
    let totals = match evaluate(engine.as_mut(), &images, &normalisation, batch_size, &stop, &mut Silent) {
        Ok(Some(totals)) => totals,
        Ok(None) => return Ok(End::Interrupted),
        Err(TrainingError::Engine(EngineError::NotFinite { value, .. })) => bail!(
            "the loss of {} is {value}: these weights are unusable, give those of another epoch or run",
            args.checkpoint.display()
        ),
        Err(error) => return Err(error.into()),
    };
    let (loss, accuracy) = (totals.loss(), totals.accuracy());
    print(&if args.json {
        let figures = serde_json::json!({
            "model": network.name,
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

/// The normalisation for images that fit the network of these weights: the run's, or the usual one.
fn trained_with(
    images: &DatasetSpec,
    run: Option<&RunConfig>,
    network: &Network,
    file: &Path,
) -> anyhow::Result<Normalisation> {
    let (shape, classes) = (network.input, network.graph()?.classes());
    if images.shape != shape || images.classes.len() != classes {
        bail!(
            "{} takes images of shape {shape:?} in {classes} classes, and those of {} are {:?} in {}: give the data that it was \
             trained for",
            file.display(),
            images.name,
            images.shape,
            images.classes.len()
        );
    }
    let Some(dataset) = run.and_then(|run| run.dataset.as_ref()) else { return usual(images) };
    if let Some((ours, theirs)) =
        dataset.classes.iter().zip(&images.classes).find(|(ours, theirs)| ours != theirs)
    {
        bail!(
            "{} was trained for classes of other names than those of {}, {ours:?} where these have {theirs:?}: give the data that it was \
             trained for",
            file.display(),
            images.name
        );
    }
    Ok(Normalisation { mean: dataset.mean.clone(), std: dataset.std.clone() })
}

/// The normalisation that is usual for a data set, for weights that do not say theirs.
pub(crate) fn usual(spec: &DatasetSpec) -> anyhow::Result<Normalisation> {
    match &spec.mean_std {
        Some((mean, std)) => Ok(Normalisation { mean: mean.clone(), std: std.clone() }),
        None => bail!(
            "the weights do not say by which mean and deviation their images were normalised, and there are no usual ones for {}: give \
             a checkpoint of a run",
            spec.name
        ),
    }
}

/// A network with its weights.
pub(crate) struct Weights {
    pub(crate) network: Network,
    pub(crate) state: State,
    /// The run that trained them, if the file says so.
    pub(crate) run: Option<RunConfig>,
}

/// A network with its weights, from a file or a run folder. What the file does not say of the network, `model` says.
pub(crate) fn weights(file: &Path, model: Option<&Model>) -> anyhow::Result<Weights> {
    let (mut state, meta) = read_weights(file)?;
    // Only further steps would need them.
    (state.optimizer, state.average) = (None, None);
    let path = file.display();
    let run = meta.as_ref().and_then(|meta| meta.run.clone());
    let model = match (model, meta) {
        (Some(model), Some(meta)) if model.name() != meta.model => {
            bail!("{path} holds weights of `{}`, not of `{}`; leave --model out", meta.model, model.name())
        }
        // The run's network was adapted to its data.
        (Some(model), Some(meta)) => match meta.run.as_ref().and_then(|run| run.dataset.as_ref()) {
            Some(data) => model.for_data(&spec(data))?,
            None => model.clone(),
        },
        (Some(model), None) => model.clone(),
        (None, Some(Meta { run: Some(run), .. })) => {
            Model::of_run(&run).with_context(|| format!("{path} cannot be used"))?
        }
        (None, Some(Meta { imported: Some(imported), .. })) => Model::from_toml(&imported.network)
            .with_context(|| format!("{path} cannot be used: the description of its network"))?,
        (None, Some(meta)) => Model::shipped(&meta.model)?,
        (None, None) => match whose(&state) {
            Some(model) => bail!(
                "{path} does not name its network, but the weights fit `{model}`; give it with --model {model}"
            ),
            None => bail!("{path} does not name its network; give it with --model"),
        },
    };
    check_weights(file, &state, model.network())?;
    Ok(Weights { network: model.network().clone(), state, run })
}

/// Checks that weights fit the network; the error names a network that they do fit, if there is one.
pub(crate) fn check_weights(file: &Path, state: &State, network: &Network) -> anyhow::Result<()> {
    state.check(network).map_err(|error| {
        let path = file.display();
        match whose(state) {
            Some(model) => anyhow!("{path} cannot be used: {error}; it fits `{model}`"),
            None => anyhow!("{path} cannot be used: {error}"),
        }
    })
}

/// The first network that a state fits.
fn whose(state: &State) -> Option<&'static str> {
    let fits = |name: &str| Network::by_name(name).is_ok_and(|network| state.check(&network).is_ok());
    Network::shipped().find(|name| fits(name))
}

/// The requested engine and its settings, or the defaults; a training step is one of the study's.
pub(crate) fn engine_and_settings(compute: &Compute) -> anyhow::Result<(EngineKind, Settings)> {
    let device = compute.device.unwrap_or(DeviceChoice::Auto).resolve()?;
    let kind = compute.engine.unwrap_or_else(|| EngineKind::default_for(device));
    let settings = Settings {
        device,
        precision: compute.precision.unwrap_or_default(),
        deterministic: compute.deterministic,
        cache: user_cache(),
        ..Settings::new(study_recipe()?)
    };
    Ok((kind, settings))
}

/// An evaluation is short enough to need no display.
struct Silent;

impl Observer for Silent {
    fn step(&mut self, _: &StepProgress) {}
    fn evaluating(&mut self, _: usize, _: usize) {}
    fn epoch(&mut self, _: &FinishedEpoch<'_>) {}
}
