/// The largest number that is not a count: what the `f32` of an engine holds, in three digits.
pub(crate) const MAX_NUMBER: f64 = 3.4e38;

/// The largest count of steps or epochs: all whole numbers up to it are exact in `f64`, and in JSON.
pub(crate) const MAX_STEPS: u64 = 1 << 53;

/// Why something is not a recipe.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RecipeError {
    /// A text that is not a recipe's.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// A value outside of its range.
    #[error("{key} is {found}, not {wanted}")]
    Value {
        /// Its place in the recipe, such as `optimizer.SGD.momentum`.
        key: String,
        /// The value.
        found: String,
        /// What it may be.
        wanted: String,
    },
    /// Keys that exclude each other, or one that needs another.
    #[error("{0}")]
    Combination(String),
    /// An unknown name.
    #[error("there is no {what} `{name}`; give one of {known}")]
    Unknown {
        /// `engine`, `device`, ...
        what: &'static str,
        /// The name.
        name: String,
        /// The known names.
        known: String,
    },
}

/// Line and column, both from 1, of the byte `start` of a text, which may lie within a character.
#[must_use]
pub fn line_and_column(text: &str, start: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(start)];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// A library's message about a file, which it may quote, on one line and not too long.
#[must_use]
pub fn one_line(message: &str) -> String {
    const LONGEST: usize = 400;
    let clean = message.replace(char::is_control, " ");
    let line = clean.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

impl RecipeError {
    /// An error unless `is_good`.
    pub(crate) fn unless(
        is_good: bool,
        key: &str,
        found: &dyn std::fmt::Display,
        wanted: &str,
    ) -> Result<(), Self> {
        if is_good {
            return Ok(());
        }
        Err(Self::Value { key: key.to_owned(), found: found.to_string(), wanted: wanted.to_owned() })
    }

    /// An error unless `is_good`, with the number as written in a file.
    pub(crate) fn unless_number(is_good: bool, key: &str, found: f64, wanted: &str) -> Result<(), Self> {
        let found = format!("{found:?}").to_lowercase();
        Self::unless(is_good, key, &found, wanted)
    }

    /// An error unless `value` is above 0, and no more than an `f32` holds.
    pub(crate) fn positive(key: &str, value: f64) -> Result<(), Self> {
        Self::unless_number(
            value.is_nan() || value <= MAX_NUMBER,
            key,
            value,
            &format!("a number of at most {MAX_NUMBER:.1e}"),
        )?;
        Self::unless_number(value > 0.0, key, value, "a number above 0")
    }

    /// An error unless `value` is 0 or more, and no more than an `f32` holds.
    pub(crate) fn not_negative(key: &str, value: f64) -> Result<(), Self> {
        Self::unless_number(
            value.is_nan() || value <= MAX_NUMBER,
            key,
            value,
            &format!("a number of at most {MAX_NUMBER:.1e}"),
        )?;
        Self::unless_number(value >= 0.0, key, value, "a number from 0 up")
    }

    /// An error unless `value` is in `[0, 1)`.
    pub(crate) fn share(key: &str, value: f64) -> Result<(), Self> {
        Self::unless_number((0.0..1.0).contains(&value), key, value, "a number from 0 to below 1")
    }

    /// An error unless `value` counts steps or epochs, from 1.
    pub(crate) fn count(key: &str, value: u64) -> Result<(), Self> {
        Self::unless(value <= MAX_STEPS, key, &value, &format!("a number of at most {MAX_STEPS}"))?;
        Self::unless(value > 0, key, &value, "a whole number from 1")
    }
}

/// A name from somebody else's file, on one line and not too long.
pub(crate) fn shown(name: &str) -> String {
    const MOST: usize = 64;
    let start: String = name.chars().take(MOST).collect();
    let dots = if start.len() < name.len() { "..." } else { "" };
    format!("{}{dots}", start.escape_debug())
}

/// A list in an error: the first few of its values.
pub(crate) fn listed(values: &[impl std::fmt::Debug]) -> String {
    const FEW: usize = 8;
    match values.len().checked_sub(FEW) {
        None | Some(0) => format!("{values:?}"),
        Some(more) => format!("{:?} and {more} more", &values[..FEW]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_a_line_and_a_column_wherever_it_lies() {
        let text = "a\n\u{e9}b\nc";
        // The first line, the two bytes of a character, what follows it, the last line, and beyond.
        for (start, expected) in
            [(0, (1, 1)), (2, (2, 1)), (3, (2, 1)), (4, (2, 2)), (6, (3, 1)), (99, (3, 2))]
        {
            assert_eq!(line_and_column(text, start), expected, "{start}");
        }
    }
}
