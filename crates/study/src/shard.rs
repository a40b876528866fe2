//! A part of a study, for schedulers that start the same command many times, each with its own number.

use std::{fmt, num::NonZeroU32, str::FromStr};

/// Variables in which a scheduler says which of several equal tasks a process is: Slurm's job arrays, and Kubernetes' indexed jobs.
const VARIABLES: [&str; 2] = ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX"];

/// One of several parts of a study: of the runs in the study's order, every `count`th from `index` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    count: NonZeroU32,
}

impl Shard {
    /// Whether the run of this number, from 0, is in this part.
    #[must_use]
    pub fn holds(self, run: usize) -> bool {
        run % self.count.get() as usize == self.index as usize
    }

    /// `I/N`, or `/N` with I from the variable of a scheduler.
    fn parse(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let form =
            || format!("`{text}` is not of the form I/N, such as 0/8: which of how many parts, from 0");
        let (index, count) = text.split_once('/').ok_or_else(form)?;
        let count: NonZeroU32 = count.parse().map_err(|_| form())?;
        let index: u32 = if index.is_empty() {
            let (name, value) =
                VARIABLES.iter().find_map(|name| Some((name, variable(name)?))).ok_or_else(|| {
                    format!(
                        "`{text}` has no number before its slash, and neither {} is set",
                        VARIABLES.join(" nor ")
                    )
                })?;
            value.parse().map_err(|_| format!("{name} is `{value}`, which is not a number from 0"))?
        } else {
            index.parse().map_err(|_| form())?
        };
        if index >= count.get() {
            return Err(format!(
                "there is no part {index} of {count}: they are numbered from 0 to {}",
                count.get() - 1
            ));
        }
        Ok(Self { index, count })
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, |name| std::env::var(name).ok())
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_is_of_one_part() {
        for count in 1..=7 {
            let shards: Vec<Shard> =
                (0..count).map(|index| format!("{index}/{count}").parse().unwrap()).collect();
            for run in 0..20 {
                let holders: Vec<&Shard> = shards.iter().filter(|shard| shard.holds(run)).collect();
                assert_eq!(holders.len(), 1, "run {run} of {count}: {holders:?}");
            }
        }
    }

    #[test]
    fn a_part_is_named_or_told_by_a_scheduler() {
        let parse = |text: &str, set: &[(&str, &str)]| {
            let value =
                |name: &str| set.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
            Shard::parse(text, value).map(|shard| shard.to_string())
        };
        let (slurm, kubernetes) = (("SLURM_ARRAY_TASK_ID", "2"), ("JOB_COMPLETION_INDEX", "3"));
        assert_eq!(parse("1/4", &[slurm]).unwrap(), "1/4");
        assert_eq!(parse("/4", &[slurm]).unwrap(), "2/4");
        assert_eq!(parse("/4", &[kubernetes]).unwrap(), "3/4");
        for (text, set, says) in [
            ("", &[][..], "form I/N"),
            ("3", &[], "form I/N"),
            ("1/0", &[], "form I/N"),
            ("-1/3", &[], "form I/N"),
            ("x/3", &[], "form I/N"),
            ("3/3", &[], "there is no part 3 of 3: they are numbered from 0 to 2"),
            ("/4", &[], "neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set"),
            ("/2", &[slurm], "no part 2 of 2"),
            ("/2", &[("SLURM_ARRAY_TASK_ID", "")], "SLURM_ARRAY_TASK_ID is ``"),
        ] {
            let error = parse(text, set).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
