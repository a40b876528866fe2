use std::str::FromStr;

/// Values of an option, separated by commas: at least one, none twice.
#[derive(Clone, Debug, PartialEq)]
pub struct List<T>(pub Vec<T>);

impl FromStr for List<String> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        List::parse(text, |part| match part {
            "" => Err("`` is not a name".to_owned()),
            _ => Ok(part.to_owned()),
        })
    }
}

impl<T: PartialEq + ToString> List<T> {
    /// Parses such a list; `parse` says what is wrong with a value.
    ///
    /// # Errors
    /// What `parse` says, or which value is given twice.
    pub fn parse(text: &str, parse: impl Fn(&str) -> Result<T, String>) -> Result<Self, String> {
        let mut values = Vec::new();
        for part in text.split(',').map(str::trim) {
            let value = parse(part)?;
            if values.contains(&value) {
                return Err(format!("{} is given twice", value.to_string()));
            }
            values.push(value);
        }
        Ok(Self(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_taken_apart_and_checked() {
        assert_eq!("nin, alexnet".parse(), Ok(List(vec!["nin".to_owned(), "alexnet".to_owned()])));
        for (text, says) in [("nin,", "`` is not a name"), ("nin,nin", "nin is given twice"), ("", "``")] {
            let error = text.parse::<List<String>>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
