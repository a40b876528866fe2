//! Names and prose from a file, which end up in paths, on terminals and in pages.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

/// The longest name of a study or an arm.
pub(crate) const MAX_NAME: usize = 64;

/// What [`is_name`] accepts, as a regular expression.
pub(crate) const NAME_PATTERN: &str = "^[A-Za-z0-9]([A-Za-z0-9_.+=-]{0,62}[A-Za-z0-9_+=-])?$";

/// Whether a text can be a folder's name on every system.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && !name.ends_with('.')
        && name.chars().all(is_name_character)
}

pub(crate) fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.+=".contains(c)
}

/// What a name may be, for an error.
pub(crate) fn name_rule() -> String {
    format!(
        "1 to {MAX_NAME} letters, digits and -_.+= that begin with a letter or digit and do not end with a dot"
    )
}

/// A text from somebody else's file, on one line and not too long.
pub(crate) fn shown(text: &str) -> String {
    let start: String = text.chars().take(MAX_NAME).collect();
    let dots = if start.len() < text.len() { "..." } else { "" };
    format!("{}{dots}", start.escape_debug())
}

/// The first names of a list, for an error.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const FEW: usize = 30;
    let names: Vec<&str> = names.into_iter().collect();
    let more = names.len().saturating_sub(FEW);
    let list = names[..names.len() - more].join(", ");
    if more == 0 { list } else { format!("{list} and {more} more") }
}

/// `, perhaps for` the name that was probably meant, or nothing.
pub(crate) fn perhaps<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let found = nearest(name, known).map(|nearest| format!(", perhaps for `{nearest}`"));
    found.unwrap_or_default()
}

/// The nearest of the names, if it differs by at most a third of its letters; `-`, `_` and case do not count.
fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let fold = |text: &str| text.to_lowercase().replace('_', "-");
    let name = fold(name);
    let distances = known
        .into_iter()
        .filter(|known| known.len().abs_diff(name.len()) <= MAX_NAME / 3)
        .map(|known| (distance(&name, &fold(known)), known));
    let (distance, nearest) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= nearest.chars().count().div_ceil(3).min(3) && distance < name.chars().count())
        .then_some(nearest)
}

/// The distance of two texts in inserted, deleted and replaced letters (Levenshtein 1965).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// A text on one line.
pub(crate) fn line<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.chars().any(char::is_control) {
        return Err(D::Error::custom("the text has line breaks or control characters; write it on one line"));
    }
    Ok(text)
}

/// A text on one line that is not empty.
pub(crate) fn filled_line<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = line(deserializer)?;
    if text.trim().is_empty() {
        return Err(D::Error::custom("the text is empty"));
    }
    Ok(text)
}

/// A text of several lines.
pub(crate) fn prose<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err(D::Error::custom("the text has control characters; leave them out"));
    }
    Ok(text)
}

/// A web address, or nothing.
pub(crate) fn link<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = line(deserializer)?;
    if !(text.is_empty() || text.starts_with("https://") || text.starts_with("http://")) {
        return Err(D::Error::custom(format!(
            "`{}` is not a web address; begin it with https://",
            shown(&text)
        )));
    }
    Ok(text)
}

/// A text, or a number as a text.
pub(crate) fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct AnyVisitor(PhantomData<()>);

    impl Visitor<'_> for AnyVisitor {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number")
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<String, E> {
            Ok(value.to_string())
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<String, E> {
            Ok(value.to_string())
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
    }

    let text = deserializer.deserialize_any(AnyVisitor(PhantomData))?;
    let is_share = text.parse::<f64>().is_ok_and(|share| share > 0.0 && share < 1.0);
    if !(is_share || text.parse::<u32>().is_ok_and(|count| count > 0)) {
        return Err(D::Error::custom(format!(
            "`{}` is neither a share of the images above 0 and below 1, such as 0.2, nor a number of images, such as 500",
            shown(&text)
        )));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_probably_meant_is_found() {
        let keys = ["epochs", "batch-size", "optimizer", "nin", "alexnet"];
        for (name, expected) in [
            ("epoch", Some("epochs")),
            ("batch_size", Some("batch-size")),
            ("Optimiser", Some("optimizer")),
            ("nln", Some("nin")),
            ("alexnett", Some("alexnet")),
            ("x", None),
            ("momentum", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, keys), expected, "{name}");
        }
        assert_eq!(nearest(&"a".repeat(1000), keys), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn names_are_those_of_folders() {
        for name in ["a", "nin-nopad-relu-r2", "Net_2.1+x=3", "9", &"x".repeat(64)] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a\\b",
            ".a",
            "-a",
            "_a",
            "a.",
            "a b",
            "ä",
            "a\n",
            "a:b",
            &"x".repeat(65),
        ] {
            assert!(!is_name(name), "{name}");
        }
    }
}
