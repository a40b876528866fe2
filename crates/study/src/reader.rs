//! Places in a file, and recipes as written in it.

use std::ops::Range;
use std::path::Path;

use pointwise_recipe::{Recipe, line_and_column};
use toml::Table;

use crate::file::message;
use crate::{Error, Result};

/// The keys of a recipe that may be left out and have no value with the same meaning.
const OPTIONAL: [&str; 8] = [
    "last-epoch",
    "warmup",
    "parameter-groups",
    "clip-norm",
    "ema",
    "lookahead",
    "early-stopping",
    "test-time-augmentation",
];

/// Builds a study from the content of a file.
pub(crate) struct Reader<'a> {
    pub(crate) text: &'a str,
    /// The folder of the file.
    pub(crate) folder: &'a Path,
}

impl Reader<'_> {
    /// An error about the place of a span.
    pub(crate) fn wrong(&self, span: Range<usize>, message: impl Into<String>) -> Error {
        let (line, column) = line_and_column(self.text, span.start);
        Error::Syntax { line, column, message: message.into() }
    }

    /// A recipe from a table, in which `false` stands for a key left out.
    pub(crate) fn recipe(&self, mut table: Table, span: Range<usize>) -> Result<Recipe> {
        table.retain(|key, value| {
            OPTIONAL.iter().all(|optional| key != *optional) || value.as_bool() != Some(false)
        });
        let recipe: Recipe = table.try_into().map_err(|error| self.wrong(span.clone(), message(&error)))?;
        recipe.check().map_err(|error| self.wrong(span, error.to_string()))?;
        Ok(recipe)
    }
}

/// A recipe as its table in a file.
pub(crate) fn as_table(recipe: &Recipe) -> Table {
    match recipe.to_toml().parse() {
        Ok(table) => table,
        Err(error) => unreachable!("a recipe is written as TOML: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointwise_recipe::Adam;

    #[test]
    fn every_key_that_a_recipe_may_lack_is_known() {
        let written = as_table(&Recipe::new(1, 1, Adam::default()));
        let schema = Recipe::json_schema();
        let keys = schema["properties"].as_object().map(|keys| keys.keys().map(String::as_str));
        let mut lacking: Vec<&str> =
            keys.into_iter().flatten().filter(|key| !written.contains_key(*key)).collect();
        lacking.sort_unstable();
        let mut optional = OPTIONAL;
        optional.sort_unstable();
        assert_eq!(lacking, optional);
    }
}
