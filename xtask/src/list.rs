//! Lists on the command line.

use std::str::FromStr;

use pointwise_runs::RunConfig;

/// Values separated by commas: at least one, none twice.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct List<T>(pub(crate) Vec<T>);

impl FromStr for List<u64> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let seed = |part: &str| part.parse().ok().filter(|seed| *seed <= RunConfig::MAX_SEED);
        list(text, |part| {
            seed(part).ok_or_else(|| {
                format!("`{part}` is not a seed, a whole number from 0 to {}", RunConfig::MAX_SEED)
            })
        })
    }
}

impl FromStr for List<String> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        list(text, |part| match part {
            "" => Err("`` is not a name".to_owned()),
            _ => Ok(part.to_owned()),
        })
    }
}

/// Takes such a list apart; `parse` says what is wrong with a part.
pub(crate) fn list<T: PartialEq + ToString>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<List<T>, String> {
    let mut values = Vec::new();
    for part in text.split(',').map(str::trim) {
        let value = parse(part)?;
        if values.contains(&value) {
            return Err(format!("{} is given twice", value.to_string()));
        }
        values.push(value);
    }
    Ok(List(values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_taken_apart_and_checked() {
        assert_eq!("42, 43".parse(), Ok(List(vec![42_u64, 43])));
        assert_eq!("9223372036854775807".parse(), Ok(List(vec![RunConfig::MAX_SEED])));
        assert_eq!("nin,alexnet".parse(), Ok(List(vec!["nin".to_owned(), "alexnet".to_owned()])));
        for (text, says) in [
            ("", "`` is not a seed"),
            ("1,", "`` is not a seed"),
            ("1,1", "1 is given twice"),
            ("-1", "`-1` is not"),
            ("1,9223372036854775808", "`9223372036854775808` is not a seed"),
            ("99999999999999999999", "from 0 to 9223372036854775807"),
        ] {
            let error = text.parse::<List<u64>>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        for (text, says) in [("nin,", "`` is not a name"), ("nin,nin", "nin is given twice"), ("", "``")] {
            let error = text.parse::<List<String>>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
