//! Recipes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pointwise_fuzz::check_error;
use pointwise_recipe::{Recipe, Span};

fuzz_target!(|input: &str| {
    match Recipe::from_toml(input) {
        Ok(recipe) => {
            assert_eq!(Recipe::from_toml(&recipe.to_toml()), Ok(recipe.clone()));
            for (steps_per_epoch, step) in [(1, 0), (7, 9), (u64::MAX, u64::MAX), (1 << 53, 1 << 60)] {
                let rate = recipe.rate(step, Span::of_epochs(steps_per_epoch, recipe.epochs));
                assert!(rate.lr.is_finite() && rate.lr >= 0.0, "{rate:?}");
            }
        }
        Err(error) => check_error(&error),
    }
});
