//! `cargo xtask reproduce`: builds the trainer and passes the arguments on. `trainer reproduce` runs the study itself.

use std::{ffi::OsString, path::PathBuf, process::Command};

use anyhow::Context;
use clap::{CommandFactory, error::ErrorKind};
use pointwise_process::{Stop, note};

use crate::{
    End,
    trainer::{build, program},
};

const AFTER: &str = "\
Everything else is handed on to `trainer reproduce`, such as --help, which lists it.";

/// The options, as typed.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true, after_help = AFTER)]
pub(crate) struct Args {
    /// What `trainer reproduce` takes, and our own options: `--trainer PATH`, to use this trainer instead of building one; `--features LIST`,
    /// features to build the trainer with; `--ablation pointwise`, for the study `pointwise-ablation`.
    #[arg(value_name = "ARGUMENTS", num_args = 0.., trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

/// Our own arguments, and those that are passed on.
#[derive(Debug, Default, PartialEq)]
struct Split {
    trainer: Option<PathBuf>,
    features: Option<String>,
    rest: Vec<OsString>,
}

/// Takes our options out; an error is a sentence about what was typed.
fn split(words: &[OsString]) -> Result<Split, String> {
    let mut split = Split::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        let (name, inline) = match text.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (&*text, None),
        };
        if !["--trainer", "--features", "--ablation"].contains(&name) {
            split.rest.push(word.clone());
            continue;
        }
        let value = inline.or_else(|| words.next().cloned());
        let value = value.ok_or_else(|| format!("{name} needs a value"))?;
        let plain = value.to_string_lossy().into_owned();
        match name {
            "--trainer" => split.trainer = Some(value.into()),
            "--features" => split.features = Some(plain),
            _ if plain == "pointwise" => split.rest.push("pointwise-ablation".into()),
            _ => return Err(format!("there is no ablation `{plain}`: give pointwise")),
        }
    }
    if split.trainer.is_some() && split.features.is_some() {
        return Err("--features is for building a trainer: leave out --trainer or --features".to_owned());
    }
    Ok(split)
}

pub(crate) fn run(args: &Args) -> anyhow::Result<End> {
    let Split { trainer, features, rest } = match split(&args.words) {
        Ok(split) => split,
        Err(message) => crate::Cli::command().error(ErrorKind::InvalidValue, message).exit(),
    };
    let stop = Stop::watch().context("signals cannot be watched")?;
    let trainer = match &trainer {
        Some(path) => program(path),
        None => build(features.as_deref(), &stop),
    };
    // A program that was interrupted with us also fails: that is no error.
    if stop.requested() {
        note!("interrupted: the same command continues where this one stopped");
        return Ok(End::Interrupted);
    }
    let mut command = Command::new(trainer?);
    command.arg("reproduce").args(rest);
    become_it(command)
}

/// The trainer replaces this process, and so has its terminal, signals and exit code.
#[cfg(unix)]
fn become_it(mut command: Command) -> anyhow::Result<End> {
    let cause = std::os::unix::process::CommandExt::exec(&mut command);
    Err(cause).with_context(|| format!("{} cannot be started", command.get_program().display()))
}

/// It shares the terminal with us, and ends with us.
#[cfg(not(unix))]
fn become_it(mut command: Command) -> anyhow::Result<End> {
    pointwise_process::tie(&mut command);
    let name = command.get_program().to_owned();
    let failed = || format!("{} cannot be started", name.display());
    let status = command.spawn().and_then(|mut child| child.wait()).with_context(failed)?;
    std::process::exit(status.code().unwrap_or(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn what_is_ours_is_taken_out_wherever_it_stands() {
        let found =
            split(&words("--quick --trainer a/b my.toml --seeds 1,2 --ablation=pointwise --help")).unwrap();
        let rest = words("--quick my.toml --seeds 1,2 pointwise-ablation --help");
        assert_eq!(found, Split { trainer: Some("a/b".into()), features: None, rest });
        let found = split(&words("--features=cuda --jobs 3")).unwrap();
        assert_eq!((found.features.as_deref(), found.rest), (Some("cuda"), words("--jobs 3")));
        for (line, says) in [
            ("--quick --trainer", "--trainer needs a value"),
            ("--ablation depth", "no ablation `depth`"),
            ("--features cuda --trainer x", "leave out"),
        ] {
            assert!(split(&words(line)).unwrap_err().contains(says), "{line}");
        }
    }
}
