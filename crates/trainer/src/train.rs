//! `trainer train`: from the command line and the run folder to one resolved configuration, and from there to the training.

use crate::analysis::Analyst;
use crate::args::{Augment, DataKind, Model, TrainArgs};
use crate::data::{DATA_SEED, Images, check_classes, load_dataset, named_folder};
use crate::display::{TrainingDisplay, final_line};
use crate::environment::{DataDescription, describe};
use crate::options::{self, sha256};
use crate::tensorboard::{Both, TensorBoard};
use crate::{End, print, set_threads, stop_flag};
use anyhow::{Context, bail};
use pointwise_engine::{Adam, DeviceChoice, EngineKind, Precision, Settings, State, create};
use pointwise_models::Network;
use pointwise_process::note;
use pointwise_runs::{Checkpoint, Run, RunConfig, RunFolder, holds_run};
use pointwise_training::{Job, Outcome, Splits, batch_settings, checkpoint, fit};
use std::path::{Path, PathBuf};

pub(crate) fn run(args: &TrainArgs) -> anyhow::Result<End> {
    let merged = options::resolve(args)?;
    let args = merged.as_ref().unwrap_or(args);
    let Some(folder) = run_folder(args) else {
        bail!("no network was named; say with --model which one to train")
    };
    let resuming = holds_run(&folder);
    if resuming && !args.resume {
        // Said before the images are loaded; creating the folder would say the same.
        return Err(pointwise_runs::Error::HoldsRun { path: folder }.into());
    }
    let (mut run, stored) = if resuming {
        let (run, stored) = RunFolder::resume(&folder)?;
        (Some(run), Some(stored))
    } else {
        (None, None)
    };
    let config = resolve(args, stored.as_ref())?;
    for (option, path) in [("--data-dir", &config.data_dir), ("--init", &config.init)] {
        if let Some(path) = path.as_ref().filter(|path| path.to_str().is_none()) {
            bail!(
                "{option} {} has a name that is not UTF-8, and so cannot be kept in config.toml: rename it, or give a link to it",
                path.display()
            );
        }
    }
    let mut best = None;
    if let Some(stored) = &stored {
        check_same_run(&folder, stored, &config)?;
        let past = Run::read(&folder)?;
        let done = past.epochs().last().map_or(0, |epoch| epoch.epoch);
        best = past.epochs().last().map(|epoch| epoch.best_acc);
        if done > config.epochs {
            bail!(
                "the run in {} has {done} epochs behind it; give --epochs {done} or more",
                folder.display()
            );
        }
        if let Some(result) = past.result
            && result.epochs == config.epochs
        {
            note!("{} holds a finished run", folder.display());
            print(&final_line(&config.model, result.final_acc, result.final_loss))?;
            return Ok(End::Done);
        }
    }
    let network = Network::by_name(&config.model, config.dropout)?;
    // A checkpoint of the run takes the place of what it was started from.
    let has_checkpoint = run.as_ref().is_some_and(|run| run.checkpoint_path(Checkpoint::Last).exists());
    let init = match &config.init {
        Some(path) if !has_checkpoint => Some(initial_state(path, &network, &config)?),
        _ => None,
    };
    set_threads(&args.compute)?;
    let stop = stop_flag()?;

    let images = Images {
        kind: DataKind::ALL.into_iter().find(|kind| kind.name() == config.data).unwrap_or(DataKind::Cifar10),
        folder: config.data_dir.clone(),
        seed: config.data_seed,
    };
    let loaded = load_dataset(&images, config.limit_train, config.limit_test, args.quiet, &stop)?;
    let Some(dataset) = loaded else { return Ok(End::Interrupted) };
    if !dataset.synthetic {
        check_classes(&dataset)?;
    }
    let description = DataDescription::from(&dataset);
    log::info!("data: {} (fingerprint {})", dataset.source, description.fingerprint);
    let splits = Splits::new(dataset, &config)?;
    let kind: EngineKind = config.engine.parse()?;
    let device = config.device.parse::<DeviceChoice>()?.resolve()?;
    let environment = describe(&network, device, &description, &splits)?;
    let settings = Settings {
        seed: config.seed,
        device,
        adam: Adam { lr: config.lr, weight_decay: config.weight_decay, ..Adam::default() },
        precision: config.precision.parse()?,
        deterministic: config.deterministic,
    };
    let mut engine = create(kind, &network, &settings)?;
    log::info!(
        "engine {} on {} with {} threads: {}, {} parameters",
        config.engine,
        config.device,
        environment.threads,
        config.model,
        environment.parameters
    );
    if let Some(state) = &init {
        engine.load_state(state)?;
    }
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
            run.reopen(&config, &environment)?;
            run
        }
        None => run.insert(RunFolder::create(&folder, &config, &environment)?),
    };
    log::info!("the run is in {}", folder.display());
    if let Some(cause) = run.unlocked() {
        note!(
            "warning: the file system of {} has no locks ({cause}): see to it that nothing else trains there",
            folder.display()
        );
    }
    let outcome = {
        let mut display = TrainingDisplay::new(config.epochs, best, args.quiet);
        let job = Job { config: &config, splits: &splits, stop: &stop };
        if args.tensorboard {
            let last = run.checkpoint_path(Checkpoint::Last);
            let settings = batch_settings(&config);
            let mut events = TensorBoard::new(folder.join("tensorboard"), last, &splits.train, settings);
            let mut both = Both(&mut events, &mut Analyst);
            fit(job, engine.as_mut(), run, &mut Both(&mut display, &mut both))
        } else {
            fit(job, engine.as_mut(), run, &mut Both(&mut display, &mut Analyst))
        }
    };
    let shown = folder.display();
    match outcome {
        Ok(Outcome::Finished(result)) => {
            let printed = print(&final_line(&config.model, result.final_acc, result.final_loss));
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
fn run_folder(args: &TrainArgs) -> Option<PathBuf> {
    args.run_dir.clone().or_else(|| {
        let model = args.model?.name();
        Some(Path::new("runs").join(format!("{model}-seed{}", args.seed.unwrap_or(SEED))))
    })
}

const SEED: u64 = 42;

/// What was typed, over what the run was started with, over the study's values.
fn resolve(args: &TrainArgs, stored: Option<&RunConfig>) -> anyhow::Result<RunConfig> {
    let mut config = match (stored, args.model) {
        (Some(stored), _) => stored.clone(),
        (None, Some(model)) => study(model),
        (None, None) => bail!("no network was named; say with --model which one to train"),
    };
    let set = |field: &mut String, value: Option<&str>| {
        if let Some(value) = value {
            value.clone_into(field);
        }
    };
    set(&mut config.model, args.model.map(Model::name));
    set(&mut config.engine, args.compute.engine.map(EngineKind::name));
    set(&mut config.precision, args.compute.precision.map(Precision::name));
    config.deterministic |= args.compute.deterministic;
    set(&mut config.data, args.data.data.map(DataKind::name));
    set(&mut config.augment, args.augment.map(Augment::name));
    config.epochs = args.epochs.unwrap_or(config.epochs);
    config.batch_size = args.batch_size.unwrap_or(config.batch_size);
    config.lr = args.lr.unwrap_or(config.lr);
    config.weight_decay = args.weight_decay.unwrap_or(config.weight_decay);
    config.dropout = args.dropout.unwrap_or(config.dropout);
    config.seed = args.seed.unwrap_or(config.seed);
    config.val_split = args.val_split.unwrap_or(config.val_split);
    config.shuffle = args.shuffle.unwrap_or(config.shuffle);
    config.data_seed = args.data.data_seed.unwrap_or(config.data_seed);
    config.data_dir = named_folder(args.data.data_dir.as_deref()).or(config.data_dir);
    config.limit_train = args.limit_train.or(config.limit_train);
    config.limit_test = args.limit_test.or(config.limit_test);
    config.log_every = args.log_every.unwrap_or(config.log_every);
    // These belong to this call, not to the run.
    config.max_steps = args.max_steps;
    config.threads = args.compute.threads;
    config.checkpoint_every = Some(args.checkpoint_every);
    if let Some(path) = &args.init {
        let bytes = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        config.init_sha256 = Some(sha256(&bytes));
        config.init = Some(path.clone());
    }
    if args.compute.device.is_some() || stored.is_none() {
        let device = args.compute.device.unwrap_or(DeviceChoice::Auto).resolve()?;
        config.device = device.to_string();
        if stored.is_none() && args.compute.engine.is_none() {
            EngineKind::default_for(device).name().clone_into(&mut config.engine);
        }
    }
    Ok(config)
}

/// The study's configuration.
fn study(model: Model) -> RunConfig {
    let adam = Adam::default();
    RunConfig {
        model: model.name().to_owned(),
        engine: EngineKind::Cpu.name().to_owned(),
        device: "cpu".to_owned(),
        precision: Precision::default().name().to_owned(),
        deterministic: false,
        data: DataKind::Cifar10.name().to_owned(),
        data_dir: None,
        data_seed: DATA_SEED,
        epochs: 10,
        batch_size: 126,
        lr: adam.lr,
        weight_decay: adam.weight_decay,
        dropout: Network::DROPOUT,
        seed: SEED,
        val_split: 0,
        augment: Augment::CropFlip.name().to_owned(),
        shuffle: true,
        init: None,
        init_sha256: None,
        limit_train: None,
        limit_test: None,
        max_steps: None,
        threads: None,
        log_every: 10,
        checkpoint_every: None,
    }
}

/// A run goes on with what it was started with; only the number of epochs may grow.
fn check_same_run(folder: &Path, stored: &RunConfig, config: &RunConfig) -> anyhow::Result<()> {
    let asked = RunConfig { epochs: stored.epochs, max_steps: stored.max_steps, ..config.clone() };
    if let Some(difference) = stored.difference(&asked) {
        bail!(
            "the run in {} was started with {} {}, not {}; leave the option out, or give another --run-dir",
            folder.display(),
            difference.name,
            difference.ours,
            difference.theirs
        );
    }
    Ok(())
}

/// The weights to start from: parameters and BatchNorm's statistics, without an optimizer's state.
fn initial_state(path: &Path, network: &Network, config: &RunConfig) -> anyhow::Result<State> {
    let (mut state, meta) = checkpoint::read(path)?;
    if let Some(meta) = meta
        && meta.model != config.model
    {
        bail!("{} holds weights of `{}`, not of `{}`", path.display(), meta.model, config.model);
    }
    state.check(network).with_context(|| format!("{} cannot be used", path.display()))?;
    state.moments = None;
    Ok(state)
}
