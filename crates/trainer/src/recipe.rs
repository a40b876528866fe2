//! `trainer recipe`.

use crate::args::{RecipeArgs, TrainArgs};
use crate::{options, print};
use pointwise_recipe::Recipe;
use pointwise_runs::RunConfig;
use pointwise_study::Study;

pub(crate) fn run(args: &RecipeArgs) -> anyhow::Result<()> {
    if args.schema {
        return Ok(print(&serde_json::to_string_pretty(&Recipe::json_schema())?)?);
    }
    let recipe = match &args.config {
        Some(file) => typed(&options::of_file(file)?, study_recipe()?),
        None => study_recipe()?,
    };
    recipe.check()?;
    Ok(print(recipe.to_toml().trim_end())?)
}

/// The default recipe: that of the default study.
pub(crate) fn study_recipe() -> anyhow::Result<Recipe> {
    Ok(Study::first_shipped()?.recipe)
}

/// A run of a network with the values of the default study: its recipe, its images, its first seed. A study that comes with the program
/// has no folder of images.
pub(crate) fn study_config(model: &str) -> anyhow::Result<RunConfig> {
    let Study { recipe, seeds, data, .. } = Study::first_shipped()?;
    let config = RunConfig::new(model, recipe);
    Ok(RunConfig {
        seed: seeds.first().copied().unwrap_or(config.seed),
        data: data.kind,
        data_seed: data.data_seed.unwrap_or(config.data_seed),
        val_split: data.val_split,
        limit_train: data.limit_train,
        limit_test: data.limit_test,
        ..config
    })
}

/// A recipe with the options of the command line.
pub(crate) fn typed(args: &TrainArgs, from: Recipe) -> Recipe {
    let mut optimizer = args.optimizer.clone().unwrap_or(from.optimizer);
    if let Some(lr) = args.lr {
        optimizer = optimizer.with_lr(lr);
    }
    if let Some(decay) = args.weight_decay {
        optimizer = optimizer.with_weight_decay(decay);
    }
    Recipe {
        epochs: args.epochs.unwrap_or(from.epochs),
        last_epoch: args.last_epoch.or(from.last_epoch),
        batch_size: args.batch_size.unwrap_or(from.batch_size),
        drop_last: args.drop_last.unwrap_or(from.drop_last),
        optimizer,
        schedule: args.schedule.clone().unwrap_or(from.schedule),
        warmup: args.warmup.clone().or(from.warmup),
        parameter_groups: args.parameter_groups.clone().unwrap_or(from.parameter_groups),
        label_smoothing: args.label_smoothing.unwrap_or(from.label_smoothing),
        clip_norm: args.clip_norm.or(from.clip_norm),
        ema: args.ema.or(from.ema),
        lookahead: args.lookahead.or(from.lookahead),
        early_stopping: args.early_stopping.or(from.early_stopping),
        augment: args.augment.unwrap_or(from.augment),
        shuffle: args.shuffle.unwrap_or(from.shuffle),
        normalise: args.normalise.clone().unwrap_or(from.normalise),
        test_time_augmentation: args.test_time_augmentation.or(from.test_time_augmentation),
    }
}
