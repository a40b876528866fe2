//! `trainer recipe`.

use crate::args::{RecipeArgs, TrainArgs};
use crate::{options, print};
use pointwise_recipe::Recipe;

pub(crate) fn run(args: &RecipeArgs) -> anyhow::Result<()> {
    if args.schema {
        return Ok(print(&serde_json::to_string_pretty(&Recipe::json_schema())?)?);
    }
    let recipe = match &args.config {
        Some(file) => typed(&options::of_file(file)?, Recipe::default()),
        None => Recipe::default(),
    };
    recipe.check()?;
    Ok(print(recipe.to_toml().trim_end())?)
}

/// A recipe with what was typed.
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
        batch_size: args.batch_size.unwrap_or(from.batch_size),
        optimizer,
        schedule: args.schedule.clone().unwrap_or(from.schedule),
        warmup: args.warmup.clone().or(from.warmup),
        parameter_groups: args.parameter_groups.clone().unwrap_or(from.parameter_groups),
        label_smoothing: args.label_smoothing.unwrap_or(from.label_smoothing),
        clip_norm: args.clip_norm.or(from.clip_norm),
        ema: args.ema.or(from.ema),
        early_stopping: args.early_stopping.or(from.early_stopping),
        augment: args.augment.unwrap_or(from.augment),
        shuffle: args.shuffle.unwrap_or(from.shuffle),
        normalise: args.normalise.clone().unwrap_or(from.normalise),
    }
}
