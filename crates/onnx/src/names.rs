//! Unique names.

use std::collections::BTreeSet;

/// The names that are taken.
#[derive(Debug, Default)]
pub(crate) struct Names {
    taken: BTreeSet<String>,
}

impl Names {
    /// Reserves a name.
    pub(crate) fn reserve(&mut self, name: &str) {
        self.taken.insert(name.to_owned());
    }

    /// Releases a reserved name.
    pub(crate) fn release(&mut self, name: &str) {
        self.taken.remove(name);
    }

    /// The wanted name, with a number appended if it is taken.
    pub(crate) fn unique(&mut self, wanted: &str) -> String {
        let numbered = (2..).map(|number| format!("{wanted}_{number}"));
        for name in std::iter::once(wanted.to_owned()).chain(numbered) {
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
        unreachable!("there are more numbers than names")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_given_twice() {
        let mut names = Names::default();
        names.reserve("logits");
        let given = ["a", "a", "a_2", "logits", "a"].map(|wanted| names.unique(wanted));
        assert_eq!(given, ["a", "a_2", "a_2_2", "logits_2", "a_3"]);
        names.release("logits");
        assert_eq!(["logits", "logits"].map(|wanted| names.unique(wanted)), ["logits", "logits_3"]);
    }
}
