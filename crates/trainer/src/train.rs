//! `trainer train`: from the command line and the run folder to one resolved configuration, and from there to the training.

use crate::analysis::Analyst;
use crate::args::TrainArgs;
use crate::data::{Images, check_classes, load_dataset, named_folder, spec, user_cache};
use crate::display::{TrainingDisplay, final_lines};
use crate::environment::{DataDescription, describe};
use crate::eval::check_weights;
use crate::model::Model;
use crate::options::{self, sha256};
use crate::recipe::{study_config, typed};
use crate::tensorboard::{Both, TensorBoard};
use crate::{End, print, stop_flag, threads};
use anyhow::{anyhow, bail};
use pointwise_data::{DatasetSpec, Normalisation, TestSplit, batch_bytes, check_augment, check_views};
use pointwise_engine::{DeviceChoice, EngineError, EngineKind, Settings, State, create};
use pointwise_network::Network;
use pointwise_process::note;
use pointwise_recipe::{Normalise, Recipe};
use pointwise_runs::{Checkpoint, DatasetConfig, Difference, Record, Run, RunConfig, RunFolder, holds_run};
use pointwise_training::{
    Job, Outcome, ResumePoint, Splits, batch_settings, check_configuration, fit, read_weights,
    state_from_images,
};
use pointwise_weights::checkpoint;
use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

/// How a run shares the process that trains it.
pub(crate) enum Host<'a> {
    /// The process is the run's alone: it handles signals and starts the computing threads.
    Own,
    /// Other runs are trained in the same process.
    Shared {
        /// Stops all runs.
        stop: Arc<AtomicBool>,
        /// The images of the runs so far.
        images: &'a PreparedImages,
    },
}

/// Trains the run that a command line describes; `args` are its options.
pub(crate) fn run(args: &TrainArgs, line: Vec<OsString>, host: Host<'_>) -> anyhow::Result<End> {
    let merged = options::resolve(args, line)?;
    let args = merged.as_ref().unwrap_or(args);
    let Some(folder) = run_folder(args)? else {
        bail!("no network was named; give the one to train with --model")
    };
    let resuming = holds_run(&folder);
    if resuming && !args.resume {
        // Reported before the images are loaded; creating the folder would report the same.
        return Err(pointwise_runs::Error::HoldsRun { path: folder }.into());
    }
    let (mut run, stored) = if resuming {
        let (run, stored) = RunFolder::resume(&folder)?;
        (Some(run), Some(stored))
    } else {
        (None, None)
    };
    let (mut config, model) = resolve(args, stored.as_ref())?;
    for (option, path) in [("--data-dir", &config.data_dir), ("--init", &config.init)] {
        if let Some(path) = path.as_ref().filter(|path| path.to_str().is_none()) {
            bail!(
                "{option} {} has a name that is not UTF-8 and cannot be kept in config.toml: rename it, or give a link to it",
                path.display()
            );
        }
    }
    let mut best = None;
    if let (Some(run), Some(stored)) = (&run, &stored) {
        check_same_run(&folder, stored, &config)?;
        check_configuration(run, &config)?;
        let past = Run::read(&folder)?;
        let done = past.epochs().last().map_or(0, |epoch| epoch.epoch);
        best = past.epochs().last().map(|epoch| epoch.best_acc);
        if done > config.recipe.epochs {
            bail!(
                "the run in {} has completed {done} epochs; give --epochs {done} or more",
                folder.display()
            );
        }
        if let Some(result) = &past.result
            && (result.epochs == config.recipe.epochs || result.stopped_early)
        {
            note!("{} holds a finished run", folder.display());
            print(&final_lines(&config.model, result))?;
            return Ok(End::Done);
        }
        check_last(run, &past)?;
    }
    // Whatever can be refused is refused before the images are loaded, which may take long.
    let is_resumed = resuming.then_some(&folder);
    let device = DeviceChoice::Only(config.device).resolve().map_err(|error| elsewhere(is_resumed, error))?;
    let images = Images::of_run(&config, model.network())?;
    let known = images.spec()?;
    check_augment(config.recipe.augment, known.shape)?;
    if let Some(views) = config.recipe.test_time_augmentation {
        check_views(views, known.shape)?;
    }
    let model = model.for_data(&known)?;
    let network = model.network().clone();
    config.network = model.recorded();
    // A checkpoint of the run takes the place of what it was started from.
    let has_checkpoint = run.as_ref().is_some_and(|run| run.checkpoint_path(Checkpoint::Last).exists());
    let init = match &config.init {
        Some(path) if !has_checkpoint => Some(initial_state(path, &network, &config)?),
        _ => None,
    };
    let (stop, loaded) = match host {
        Host::Own => {
            // Its thread is started first: the computing threads may take what is left of the address space.
            let stop = stop_flag()?;
            threads::start(args.compute.threads)?;
            (stop, &PreparedImages::default())
        }
        Host::Shared { stop, images } => (stop, images),
    };
    let settings = Settings {
        seed: config.seed,
        device,
        recipe: config.recipe.clone(),
        precision: config.precision,
        deterministic: config.deterministic,
        cache: user_cache(),
    };
    let mut engine =
        create(config.engine, &network, &settings).map_err(|error| elsewhere(is_resumed, error))?;

    let prepared = loaded.get(images, &config, args.quiet, &stop)?;
    let Some(PreparedSplits { description, dataset, splits }) = prepared else {
        return Ok(End::Interrupted);
    };
    // Images that another run prepared were checked against that run's recipe.
    splits.check(&config.recipe)?;
    splits.check_batches(&config.recipe, &network.graph()?)?;
    config.dataset = Some(dataset);

    let environment = describe(&network, settings.device, &description, &splits)?;
    log::info!(
        "engine {} on {} with {} threads: {}, {} parameters",
        config.engine,
        config.device,
        environment.threads,
        config.model,
        environment.parameters
    );
    let batch = (config.recipe.batch_size as usize).min(splits.largest());
    engine.prepare(batch, true, batch_bytes(batch, network.input))?;
    let made = || state_from_images(&network, config.seed, &splits);
    if let Some(state) = if has_checkpoint || init.is_some() { init } else { made()? } {
        engine.load_state(&state)?;
    }
    let mut from = None;
    let run = match &mut run {
        Some(run) => {
            let before = run.environment()?.data_fingerprint;
            if before != description.fingerprint {
                bail!(
                    "the run in {} was started on other data (fingerprint {before}, now {}); give it the data it was started on",
                    folder.display(),
                    description.fingerprint
                );
            }
            if let Some(stored) = stored {
                // An earlier version recorded nothing of the data.
                let dataset = stored.dataset.clone().or(config.dataset.clone());
                check_same_run(&folder, &RunConfig { dataset, ..stored }, &config)?;
            }
            // Before anything in the folder changes.
            from = ResumePoint::load(run, &config, &splits, engine.as_mut())?;
            run.reopen(&config, &environment)?;
            run
        }
        None => {
            let created = RunFolder::create(&folder, &config, &environment);
            run.insert(created.map_err(|error| match error {
                // Another process began the run while the images were loaded; that it has left the run already is a coincidence.
                pointwise_runs::Error::HoldsRun { path } if args.resume => {
                    pointwise_runs::Error::InUse { path }
                }
                error => error,
            })?)
        }
    };
    log::info!("the run is in {}", folder.display());
    if let Some(cause) = run.unlocked() {
        note!(
            "warning: the file system of {} has no locks ({cause}): make sure that nothing else trains there",
            folder.display()
        );
    }
    let outcome = {
        let mut display = TrainingDisplay::new(config.recipe.epochs, best, args.quiet);
        let classes = config.dataset.as_ref().map(|data| data.classes.clone()).unwrap_or_default();
        let mut analyst = Analyst { classes };
        let job = Job { config: &config, splits: &splits, stop: &stop };
        if args.tensorboard {
            let settings = batch_settings(&config, &splits.normalisation);
            let mut events = TensorBoard::new(folder.join("tensorboard"), &splits.train, settings);
            let mut both = Both(&mut events, &mut analyst);
            fit(job, from, engine.as_mut(), run, &mut Both(&mut display, &mut both))
        } else {
            fit(job, from, engine.as_mut(), run, &mut Both(&mut display, &mut analyst))
        }
    };
    let shown = folder.display();
    match outcome {
        Ok(Outcome::Finished(result)) => {
            let printed = print(&final_lines(&config.model, &result));
            note!("the run is in {shown}");
            printed?;
            Ok(End::Done)
        }
        Ok(Outcome::StepLimit { step, last_loss }) => {
            let printed = print(&format!("Stopped after step {step} (loss {last_loss:.4})"));
            note!("the run is in {shown}; --resume without --max-steps continues it");
            printed?;
            Ok(End::Done)
        }
        Ok(Outcome::Interrupted { step }) => {
            note!("interrupted after step {step}; --resume --run-dir {shown} continues it");
            Ok(End::Interrupted)
        }
        Err(error) => Err(error.into()),
    }
}

/// The folder named, or one after the model and the seed; `None` when neither is known.
fn run_folder(args: &TrainArgs) -> anyhow::Result<Option<PathBuf>> {
    if args.run_dir.is_some() {
        return Ok(args.run_dir.clone());
    }
    let Some(model) = &args.model else { return Ok(None) };
    let seed = args.seed.map_or_else(|| Ok(study_config(model.name())?.seed), anyhow::Ok)?;
    Ok(Some(Path::new("runs").join(format!("{}-seed{seed}", model.name()))))
}

/// The images that were prepared last in this process, for the next run that needs the same.
#[derive(Debug, Default)]
pub(crate) struct PreparedImages(Mutex<Option<(Wanted, PreparedSplits)>>);

/// What determines a run's images.
#[derive(Debug, PartialEq)]
struct Wanted {
    images: Images,
    limits: [Option<NonZeroU32>; 2],
    val_split: u32,
    /// Of the held-out images, if there are any.
    seed: Option<u64>,
    normalise: Normalise,
}

/// A run's images, and what its configuration and its environment say of them.
#[derive(Debug, Clone)]
struct PreparedSplits {
    description: DataDescription,
    dataset: DatasetConfig,
    splits: Splits,
}

impl PreparedImages {
    /// The images of a run; `None` if `stop` was set before they were loaded. A run that needs images being loaded for another one waits
    /// for them.
    fn get(
        &self,
        images: Images,
        config: &RunConfig,
        quiet: bool,
        stop: &AtomicBool,
    ) -> anyhow::Result<Option<PreparedSplits>> {
        let wanted = Wanted {
            images,
            limits: [config.limit_train, config.limit_test],
            val_split: config.val_split,
            seed: (config.val_split > 0).then_some(config.seed),
            normalise: config.recipe.normalise.clone(),
        };
        // The value is complete, even if the thread that left it has panicked.
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((there, prepared)) = &*newest
            && *there == wanted
        {
            return Ok(Some(prepared.clone()));
        }
        let prepared = prepare(&wanted.images, config, quiet, stop)?;
        if let Some(prepared) = &prepared {
            *newest = Some((wanted, prepared.clone()));
        }
        Ok(prepared)
    }
}

/// Loads and splits the images of a run, unless `stop` is set before.
fn prepare(
    images: &Images,
    config: &RunConfig,
    quiet: bool,
    stop: &AtomicBool,
) -> anyhow::Result<Option<PreparedSplits>> {
    let [limit_train, limit_test] =
        [config.limit_train, config.limit_test].map(|limit| limit.map(NonZeroU32::get));
    let loaded = load_dataset(images, limit_train, limit_test, quiet, stop)?;
    let Some(dataset) = loaded else { return Ok(None) };
    if !dataset.synthetic {
        check_classes(&dataset)?;
    }
    let description = DataDescription::from(&dataset);
    log::info!("data: {} (fingerprint {})", dataset.source, description.fingerprint);
    let DatasetSpec { shape, classes, .. } = dataset.spec.clone();
    let splits = Splits::new(dataset, config)?;
    let Normalisation { mean, std } = splits.normalisation.clone();
    let dataset = DatasetConfig { shape, classes, mean, std };
    Ok(Some(PreparedSplits { description, dataset, splits }))
}

/// The options of the command line, over those that the run was started with, over the values of the study's file; without the data, which is
/// not loaded yet; and the network as it was named or described.
fn resolve(args: &TrainArgs, stored: Option<&RunConfig>) -> anyhow::Result<(RunConfig, Model)> {
    let (mut config, mut model) = match (stored, &args.model) {
        (Some(stored), None) => (stored.clone(), Model::of_run(stored)?),
        (Some(stored), Some(model)) => (stored.clone(), model.clone()),
        (None, Some(model)) => (study_config(model.name())?, model.clone()),
        (None, None) => bail!("no network was named; give the one to train with --model"),
    };
    if let Some(p) = args.dropout {
        model = model.with_dropout(p);
    }
    // The run's network was adapted to its data.
    if let Some(data) = stored.and_then(|stored| stored.dataset.as_ref()) {
        model = model.for_data(&spec(data))?;
    }
    model.name().clone_into(&mut config.model);
    config.network = model.recorded();
    // For a network without dropout, the value given is recorded nevertheless.
    config.dropout = model.network().dropout().or(args.dropout).unwrap_or(config.dropout);
    config.engine = args.compute.engine.unwrap_or(config.engine);
    config.precision = args.compute.precision.unwrap_or(config.precision);
    config.deterministic |= args.compute.deterministic;
    config.data = args.data.data.unwrap_or(config.data);
    config.seed = args.seed.unwrap_or(config.seed);
    config.val_split = args.val_split.unwrap_or(config.val_split);
    config.data_seed = args.data.data_seed.unwrap_or(config.data_seed);
    config.test_split = args.data.test_split.as_ref().map(TestSplit::to_string).or(config.test_split);
    config.data_dir = named_folder(args.data.data_dir.as_deref(), config.data).or(config.data_dir);
    config.limit_train = args.limit_train.or(config.limit_train);
    config.limit_test = args.limit_test.or(config.limit_test);
    config.log_every = args.log_every.unwrap_or(config.log_every);
    config.recipe = typed(args, config.recipe);
    // These belong to this call, not to the run.
    config.max_steps = args.max_steps;
    config.threads = args.compute.threads.and_then(NonZeroU32::new);
    config.checkpoint_every = Some(args.checkpoint_every);
    config.dataset = stored.and_then(|stored| stored.dataset.clone());
    if let Some(path) = &args.init {
        let path = checkpoint::weights_file(path)?;
        config.init_sha256 = Some(sha256(&checkpoint::read_bytes(&path)?));
        config.init = Some(path);
    }
    match args.compute.device {
        // For a resumed run, whether it computed there is checked before whether this machine can.
        Some(DeviceChoice::Only(device)) if stored.is_some() => config.device = device,
        None if stored.is_some() => {}
        choice => {
            let device = choice.unwrap_or(DeviceChoice::Auto).resolve()?;
            config.device = device;
            if stored.is_none() && args.compute.engine.is_none() {
                config.engine = EngineKind::default_for(device);
            }
        }
    }
    if config.recipe.early_stopping.is_some() && config.val_split == 0 {
        bail!(
            "--early-stopping needs held-out images, since stopping by the test set would make its accuracy too good: give \
             --val-split, such as 5000"
        );
    }
    config.check()?;
    Ok((config, model))
}

/// A run is resumed with the options it was started with; only the number of epochs may grow.
fn check_same_run(folder: &Path, stored: &RunConfig, config: &RunConfig) -> anyhow::Result<()> {
    // If the recipe depends on the length of the training, a longer one would have differed from the start.
    let epochs = match stored.recipe.depends_on_length() {
        true => config.recipe.epochs,
        false => stored.recipe.epochs,
    };
    let recipe = Recipe { epochs, ..config.recipe.clone() };
    let asked = RunConfig { recipe, max_steps: stored.max_steps, ..config.clone() };
    let Some(Difference { name, ours, theirs }) = stored.difference(&asked) else { return Ok(()) };
    let way = match name.as_str() {
        // On another machine there may be no choice.
        "engine" | "device" | "precision" => {
            format!("leave the option out, or continue from its weights: {}", continuation(folder))
        }
        _ => "leave the option out, or give another --run-dir".to_owned(),
    };
    if name == "network" {
        bail!(
            "the run in {} was started with another description of `{}`; {way}",
            folder.display(),
            stored.model
        );
    }
    bail!("the run in {} was started with {name} {ours}, not {theirs}; {way}", folder.display())
}

/// An engine's error; for a run that is resumed where its device is missing, with the way to continue.
fn elsewhere(resumed: Option<&PathBuf>, error: EngineError) -> anyhow::Error {
    let (missing, reason) = match &error {
        EngineError::DeviceUnavailable { device, reason } => (format!("the device {device}"), reason.clone()),
        EngineError::Unavailable(kind) => {
            (format!("the engine `{kind}`"), "it is not part of this build".to_owned())
        }
        _ => return error.into(),
    };
    match resumed {
        Some(folder) => anyhow!(
            "the run in {} needs {missing}, which cannot be used here ({reason}); resume it where it can, or continue from its \
             weights: {}",
            folder.display(),
            continuation(folder)
        ),
        None => error.into(),
    }
}

/// How a new run starts from another one's weights.
fn continuation(folder: &Path) -> String {
    let [best, last] = [Checkpoint::Best, Checkpoint::Last].map(|which| folder.join(which.file_name()));
    let weights = if last.exists() { last } else { best };
    format!("--init {} in another --run-dir, without --resume", weights.display())
}

/// An error if the run has lost its `last` checkpoint; a warning if it may never have had one.
fn check_last(run: &RunFolder, past: &Run) -> anyhow::Result<()> {
    let last = run.checkpoint_path(Checkpoint::Last);
    let Some(newest) = past.records.last().filter(|_| !last.exists()) else { return Ok(()) };
    // The checkpoint of the first epoch is written right after its record.
    let is_lost = past.result.is_some()
        || match newest {
            Record::Step(step) => step.epoch > 1,
            Record::Epoch(epoch) => epoch.epoch > 1,
        };
    if is_lost {
        bail!(
            "{} is missing, so the run cannot be resumed: restore it from a copy, or continue from its best weights: {}",
            last.display(),
            continuation(run.path())
        );
    }
    log::warn!("{} has no checkpoint yet: the run starts again from its beginning", run.path().display());
    Ok(())
}

/// The weights to start from: parameters and BatchNorm's statistics, without an optimizer's state.
fn initial_state(path: &Path, network: &Network, config: &RunConfig) -> anyhow::Result<State> {
    let (mut state, meta) = read_weights(path)?;
    if let Some(meta) = meta
        && meta.model != config.model
    {
        bail!("{} holds weights of `{}`, not of `{}`", path.display(), meta.model, config.model);
    }
    check_weights(path, &state, network)?;
    state.optimizer = None;
    state.average = None;
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;
    use pointwise_study::Study;

    fn typed(options: &[&str]) -> Box<TrainArgs> {
        let line = ["trainer", "train", "--model", "nin", "--device", "cpu"];
        match Cli::try_parse_from(line.iter().chain(options)).unwrap().command {
            Command::Train(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_typed_is_the_studys() {
        let study = Study::first_shipped().unwrap();
        let (config, _) = resolve(&typed(&[]), None).unwrap();
        assert_eq!(config.recipe, study.recipe);
        assert_eq!((config.seed, config.data), (study.seeds[0], study.data.kind));
        assert_eq!(config.val_split, study.data.val_split);
        let folder = |args: &TrainArgs| run_folder(args).unwrap().unwrap();
        assert_eq!(folder(&typed(&[])), Path::new("runs").join(format!("nin-seed{}", study.seeds[0])));

        let args = typed(&["--seed", "7", "--epochs", "3", "--data", "mnist"]);
        let (config, _) = resolve(&args, None).unwrap();
        assert_eq!(config.recipe, Recipe { epochs: 3, ..study.recipe });
        assert_eq!((config.seed, config.data), (7, pointwise_recipe::DataKind::Mnist));
        assert_eq!(folder(&args), Path::new("runs/nin-seed7"));
    }
}
