//! Recipes as TOML files, read and written.

use crate::named::Named;
use crate::{Recipe, RecipeError, line_and_column};
use serde::Serialize;
use std::fmt::Write as _;

impl Recipe {
    /// Reads a recipe.
    ///
    /// # Errors
    /// [`RecipeError`]: a text that cannot be read, with the line, or a value out of range, with its key.
    pub fn from_toml(text: &str) -> Result<Self, RecipeError> {
        let recipe: Self = toml::from_str(text).map_err(|error| RecipeError::syntax(text, &error))?;
        recipe.check()?;
        Ok(recipe)
    }

    /// The recipe as a file, one key per line, which [`Recipe::from_toml`] reads back if it passes [`Recipe::check`].
    #[must_use]
    pub fn to_toml(&self) -> String {
        // Every key is named here, so that none can be forgotten.
        let Self {
            epochs,
            last_epoch,
            batch_size,
            drop_last,
            optimizer,
            schedule,
            warmup,
            parameter_groups,
            label_smoothing,
            clip_norm,
            ema,
            lookahead,
            early_stopping,
            augment,
            shuffle,
            normalise,
            test_time_augmentation,
        } = self;
        let groups = (!parameter_groups.is_empty()).then(|| {
            let groups = parameter_groups.iter().map(|group| format!("    {},\n", inline(group)));
            format!("[\n{}]", groups.collect::<String>())
        });
        let lines = [
            ("epochs", Some(inline(epochs))),
            ("last-epoch", last_epoch.as_ref().map(inline)),
            ("batch-size", Some(inline(batch_size))),
            ("drop-last", Some(inline(drop_last))),
            ("optimizer", Some(kind(optimizer))),
            ("schedule", Some(kind(schedule))),
            ("warmup", warmup.as_ref().map(inline)),
            ("parameter-groups", groups),
            ("label-smoothing", Some(inline(label_smoothing))),
            ("clip-norm", clip_norm.as_ref().map(inline)),
            ("ema", ema.as_ref().map(inline)),
            ("lookahead", lookahead.as_ref().map(inline)),
            ("early-stopping", early_stopping.as_ref().map(inline)),
            ("augment", Some(inline(augment))),
            ("shuffle", Some(inline(shuffle))),
            ("normalise", Some(inline(normalise))),
            ("test-time-augmentation", test_time_augmentation.as_ref().map(inline)),
        ];
        let mut text = String::new();
        for (key, value) in lines {
            if let Some(value) = value {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        text
    }
}

/// A value on one line.
fn inline(value: &impl Serialize) -> String {
    let mut text = String::new();
    match value.serialize(toml::ser::ValueSerializer::new(&mut text)) {
        Ok(_) => text,
        Err(error) => unreachable!("a recipe has only strings, numbers, arrays and tables: {error}"),
    }
}

/// A name, or a table of it and its arguments.
fn kind<T: Named>(value: &T) -> String {
    struct Arguments<'a, T>(&'a T);

    impl<T: Named> Serialize for Arguments<'_, T> {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.write(serializer)
        }
    }

    let arguments = inline(&Arguments(value));
    match arguments.as_str() {
        "{}" => inline(&value.name()),
        _ => format!("{{ {} = {arguments} }}", value.name()),
    }
}

impl RecipeError {
    /// The TOML parser's error about a file that holds a recipe, with its place in the text.
    #[must_use]
    pub fn syntax(text: &str, error: &toml::de::Error) -> Self {
        let start = error.span().map_or(0, |span| span.start);
        // Only the start of the span counts: it may end in the middle of a line.
        let (line, column) = line_and_column(text, start);
        Self::Syntax { line, column, message: plain(error.message()) }
    }
}

/// The TOML parser's error on one line, for somebody who knows TOML but not Rust.
fn plain(message: &str) -> String {
    /// The longest message, in characters. Ours are shorter, but the names that they quote may not be.
    const LONGEST: usize = 500;
    /// Beginnings of the parser's errors that are replaced altogether.
    const SENTENCES: [(&str, &str); 5] = [
        ("floating-point number overflowed", "the number is too large"),
        ("wanted string or table", "expected a name, in quotation marks"),
        ("duplicate key", "the key is given twice; remove one of them"),
        ("integer number overflowed", "the number is too large"),
        ("cannot recurse further", "arrays and tables are nested too deeply; nest them less"),
    ];
    const BEGINNINGS: [(&str, &str); 5] = [
        ("invalid type: map", "invalid type: table"),
        ("invalid type: sequence", "invalid type: array"),
        ("missing field ", "missing key "),
        ("unknown field ", "unknown key "),
        ("unknown variant ", "unknown value "),
    ];
    const ENDS: [(&str, &str); 8] = [
        ("expected u32", "expected a whole number from 0 to 4294967295"),
        ("expected u64", "expected a whole number from 0"),
        ("expected usize", "expected a whole number from 0"),
        ("expected f32", "expected a number"),
        ("expected f64", "expected a number"),
        ("expected a sequence", "expected an array"),
        ("expected a boolean", "expected true or false"),
        (", there are no fields", "; this table takes none"),
    ];
    if let Some((_, sentence)) = SENTENCES.iter().find(|(theirs, _)| message.starts_with(theirs)) {
        return (*sentence).to_owned();
    }
    let mut text = message.trim_end().replace(char::is_control, " ");
    for (theirs, ours) in BEGINNINGS {
        if let Some(rest) = text.strip_prefix(theirs) {
            text = format!("{ours}{rest}");
        }
    }
    for (theirs, ours) in ENDS {
        if let Some(start) = text.strip_suffix(theirs) {
            text = format!("{start}{ours}");
        }
    }
    if let Some((start, _)) = text.rsplit_once("expected struct ") {
        text = format!("{start}expected a table");
    }
    if text.chars().count() > LONGEST {
        text = text.chars().take(LONGEST).chain("...".chars()).collect();
    }
    text
}
