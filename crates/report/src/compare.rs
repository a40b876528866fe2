//! What must hold before runs are put together, and before they are held against the published ones.

use pointwise_runs::{Difference, Run, RunConfig};

use crate::{Error, NetworkFacts, Published, Result, number::thousands};

/// Refuses runs that are not observations of one study: other data, other configurations, the same seed twice.
pub(crate) fn check_one_study(runs: &[&Run], facts: &[NetworkFacts], names: &[&str]) -> Result<()> {
    let first = *runs.first().ok_or(Error::NoRuns)?;
    for (index, &run) in runs.iter().enumerate() {
        let model = &run.config.model;
        if !names.contains(&model.as_str()) {
            return Err(Error::UnknownNetwork { path: run.path.clone(), model: model.clone() });
        }
        let expected = facts.iter().find(|facts| facts.model == *model).map(|facts| facts.parameters);
        if let Some(expected) = expected
            && expected != run.environment.parameters
        {
            let (path, model, found) = (run.path.clone(), model.clone(), run.environment.parameters);
            return Err(Error::OtherNetwork { path, model, found, expected });
        }
        let paths = || (first.path.clone(), run.path.clone());
        if let Some(difference) = as_first(&run.config, &first.config).difference(&first.config) {
            let (first, second) = paths();
            let (name, ours, theirs) = (difference.name, difference.theirs, difference.ours);
            return Err(Error::MixedConfigurations { first, second, name, ours, theirs });
        }
        let (ours, theirs) = (&first.environment.data_fingerprint, &run.environment.data_fingerprint);
        if ours != theirs {
            let (first, second) = paths();
            return Err(Error::MixedData { first, second, ours: ours.clone(), theirs: theirs.clone() });
        }
        let same = |other: &&&Run| other.config.model == *model && other.config.seed == run.config.seed;
        if let Some(other) = runs[..index].iter().find(same) {
            return Err(Error::SameSeed { first: other.path.clone(), second: run.path.clone() });
        }
    }
    Ok(())
}

/// The configuration with what may differ within a study made equal: network and seed; engine, device and precision, which the study
/// tells apart; how densely steps are logged.
fn as_first(config: &RunConfig, first: &RunConfig) -> RunConfig {
    RunConfig {
        model: first.model.clone(),
        seed: first.seed,
        engine: first.engine,
        device: first.device,
        precision: first.precision,
        deterministic: first.deterministic,
        log_every: first.log_every,
        ..config.clone()
    }
}

/// What about the runs, which are of one study, is not as in the published one: each a part of a sentence.
pub(crate) fn deviations(run: &Run, published: &Published) -> Vec<String> {
    let (config, environment) = (&run.config, &run.environment);
    let expected = RunConfig {
        recipe: published.recipe.clone(),
        dropout: published.dropout,
        val_split: 0,
        ..config.clone()
    };
    let differences = config.differences(&expected).into_iter();
    let mut found: Vec<String> = differences
        .map(|Difference { name, ours, theirs }| format!("{name} {ours} instead of {theirs}"))
        .collect();
    let mut images = |name: &str, ours: u32, theirs: u32| {
        if ours != theirs {
            let (ours, theirs) = (thousands(ours.into()), thousands(theirs.into()));
            found.push(format!("{ours} {name} images instead of {theirs}"));
        }
    };
    images("training", environment.train_images + environment.validation_images, published.train_images);
    images("test", environment.test_images, published.test_images);
    if config.init.is_some() || config.init_sha256.is_some() {
        found.push("training started from given parameters".into());
    }
    if environment.data_synthetic {
        found.insert(0, "the images are synthetic".into());
    }
    found
}

/// Whether the run has gone through all of its epochs.
pub(crate) fn is_complete(run: &Run) -> bool {
    run.result
        .as_ref()
        .is_some_and(|result| result.epochs == run.config.recipe.epochs || result.stopped_early)
}
