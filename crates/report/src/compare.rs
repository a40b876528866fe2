//! What must hold before runs are combined, and before they are compared with the published ones.

use pointwise_network::Network;
use pointwise_recipe::DataKind;
use pointwise_runs::{Difference, Run, RunConfig, RunResult};
use pointwise_study::{Arm, Study};

use crate::{Error, NetworkFacts, Result, number::thousands};

/// Refuses runs that are not observations of one study: different data or configurations, the same seed twice. Runs of one arm share
/// their configuration; arms may differ in network and recipe.
pub(crate) fn check_one_study(runs: &[&Run], facts: &[NetworkFacts], study: &Study) -> Result<()> {
    let first = *runs.first().ok_or(Error::NoRuns)?;
    for (index, &run) in runs.iter().enumerate() {
        let model = &run.config.model;
        if study.arm(model).is_none() {
            return Err(Error::UnknownNetwork { path: run.path.clone(), model: model.clone() });
        }
        let expected = facts.iter().find(|facts| facts.model == *model).map(|facts| facts.parameters);
        if let Some(expected) = expected
            && expected != run.environment.parameters
        {
            let (path, model, found) = (run.path.clone(), model.clone(), run.environment.parameters);
            return Err(Error::OtherNetwork { path, model, found, expected });
        }
        let same_arm = |other: &&&Run| other.config.model == *model;
        let of_arm = runs[..index].iter().copied().find(|other| other.config.model == *model);
        for (other, is_same_arm) in [(Some(first), false), (of_arm, true)] {
            let Some(other) = other else { continue };
            let compared = as_other(&run.config, &other.config, is_same_arm);
            if let Some(difference) = compared.difference(&other.config) {
                let (first, second) = (other.path.clone(), run.path.clone());
                let (name, ours, theirs) = (difference.name, difference.theirs, difference.ours);
                return Err(Error::MixedConfigurations { first, second, name, ours, theirs });
            }
        }
        let (ours, theirs) = (&first.environment.data_fingerprint, &run.environment.data_fingerprint);
        if ours != theirs {
            let (first, second) = (first.path.clone(), run.path.clone());
            return Err(Error::MixedData { first, second, ours: ours.clone(), theirs: theirs.clone() });
        }
        let same_seed = |other: &&&Run| same_arm(other) && other.config.seed == run.config.seed;
        if let Some(other) = runs[..index].iter().find(same_seed) {
            return Err(Error::SameSeed { first: other.path.clone(), second: run.path.clone() });
        }
    }
    Ok(())
}

/// The configuration, with everything that may differ within a study taken from `other`: network and seed; engine, device and precision,
/// which the report distinguishes; how often steps are logged; where CIFAR-10 came from; and between arms how they are trained.
fn as_other(config: &RunConfig, other: &RunConfig, is_same_arm: bool) -> RunConfig {
    let mut config = RunConfig {
        model: other.model.clone(),
        seed: other.seed,
        engine: other.engine,
        device: other.device,
        precision: other.precision,
        deterministic: other.deterministic,
        log_every: other.log_every,
        ..config.clone()
    };
    if is_cifar10(config.data) && is_cifar10(other.data) {
        config.data = other.data;
    }
    if !is_same_arm {
        config.network.clone_from(&other.network);
        config.dropout = other.dropout;
        config.recipe.clone_from(&other.recipe);
        // Equal images have equal statistics; which of them normalise the images is part of the recipe.
        config.dataset.clone_from(&other.dataset);
    }
    config
}

/// The same images, wherever they were downloaded from.
fn is_cifar10(kind: DataKind) -> bool {
    matches!(kind, DataKind::Cifar10 | DataKind::Huggingface)
}

/// Whether synthetic images stand in for a study's own: accuracies then say nothing about those.
pub(crate) fn is_stand_in(run: &Run, study: &Study) -> bool {
    run.environment.data_synthetic && study.data.kind != DataKind::Synthetic
}

/// How the runs, which are of one study, deviate from the study's description: each a part of a sentence.
pub(crate) fn deviations(runs: &[&Run], study: &Study) -> Vec<String> {
    let mut arms: Vec<(&Arm, Vec<String>)> = Vec::new();
    for arm in &study.arms {
        // Runs of an arm share their configuration.
        if let Some(run) = runs.iter().find(|run| run.config.model == arm.name) {
            arms.push((arm, of_arm(run, arm, study)));
        }
    }
    let mut found: Vec<String> = Vec::new();
    for (arm, deviations) in &arms {
        for deviation in deviations {
            let is_common = arms.iter().all(|(_, others)| others.contains(deviation));
            let sentence = if is_common { deviation.clone() } else { format!("{deviation} in {}", arm.name) };
            if !found.contains(&sentence) {
                found.push(sentence);
            }
        }
    }
    if runs.first().is_some_and(|run| is_stand_in(run, study)) {
        found.insert(0, "the images are synthetic".to_owned());
    }
    found
}

/// How a run of an arm deviates from the study's description.
fn of_arm(run: &Run, arm: &Arm, study: &Study) -> Vec<String> {
    let (config, environment, data) = (&run.config, &run.environment, &study.data);
    let kind = if is_cifar10(config.data) && is_cifar10(data.kind) { config.data } else { data.kind };
    // Synthetic images differ in everything; that is reported once.
    let stand_in = is_stand_in(run, study);
    let expected = RunConfig {
        recipe: arm.recipe.clone(),
        val_split: data.val_split,
        data: if stand_in { config.data } else { kind },
        data_seed: data.data_seed.unwrap_or(config.data_seed),
        test_split: if stand_in { config.test_split.clone() } else { data.test_split.clone() },
        limit_train: if stand_in { config.limit_train } else { data.limit_train },
        limit_test: if stand_in { config.limit_test } else { data.limit_test },
        max_steps: None,
        ..config.clone()
    };
    let differences = config.differences(&expected).into_iter();
    let mut found: Vec<String> = differences
        .map(|Difference { name, ours, theirs }| format!("{name} {ours} instead of {theirs}"))
        .collect();
    found.extend(other_network(config, arm));
    let mut images = |name: &str, ours: u32, theirs: Option<u32>| {
        if let Some(theirs) = theirs.filter(|theirs| *theirs != ours) {
            let (ours, theirs) = (thousands(ours.into()), thousands(theirs.into()));
            found.push(format!("{ours} {name} images instead of {theirs}"));
        }
    };
    images("training", environment.train_images + environment.validation_images, data.train_images);
    images("test", environment.test_images, data.test_images);
    if config.init.is_some() || config.init_sha256.is_some() {
        found.push("training started from given parameters".into());
    }
    found
}

/// How the network of a run differs from its arm's.
fn other_network(config: &RunConfig, arm: &Arm) -> Option<String> {
    let dropout = arm.dropout().unwrap_or(config.dropout);
    let other_dropout = || Some(format!("dropout {} instead of {dropout}", config.dropout));
    let theirs = match &config.network {
        None if arm.is_shipped => return other_dropout().filter(|_| config.dropout != dropout),
        Some(text) => Network::from_toml(text).ok(),
        None => Network::by_name(&config.model).ok().map(|network| network.with_dropout(config.dropout)),
    };
    let Some(theirs) = theirs else { return Some("a network that this version does not know".to_owned()) };
    let mut ours = arm.network.clone();
    // A network that comes with the program is adapted to the images it is given.
    if let Some(graph) = theirs.graph().ok().filter(|_| arm.is_shipped) {
        ours = ours.with_input(theirs.input).with_classes(graph.classes());
    }
    let same = |ours: &Network, theirs: &Network| {
        (&ours.layers, &ours.initial, ours.input) == (&theirs.layers, &theirs.initial, theirs.input)
    };
    if same(&ours, &theirs) {
        return None;
    }
    if config.dropout != dropout && same(&ours, &theirs.with_dropout(dropout)) {
        return other_dropout();
    }
    Some("another network than the study describes".to_owned())
}

/// Seconds of an epoch of a run, training and evaluation.
pub(crate) fn seconds_per_epoch(result: &RunResult) -> f64 {
    (result.train_seconds + result.eval_seconds) / f64::from(result.epochs)
}

/// Whether the run has gone through all of its epochs.
pub(crate) fn is_complete(run: &Run) -> bool {
    run.result
        .as_ref()
        .is_some_and(|result| result.epochs == run.config.recipe.epochs || result.stopped_early)
}
