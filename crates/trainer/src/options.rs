//! Options of `train` from a TOML file: a key for each option, by the option's long name. The command line wins.
//!
//! Keys and values go through the same parser as the command line, so that both know the same options and ranges. A run's own
//! `config.toml` is such a file.

use crate::args::{Cli, Command, TrainArgs};
use crate::model::Model;
use anyhow::{Context, anyhow, bail, ensure};
use clap::builder::ValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, CommandFactory, Parser};
use pointwise_recipe::{line_and_column, one_line};
use pointwise_runs::RunConfig;
use pointwise_weights::checkpoint;
use sha2::{Digest, Sha256};
use std::any::TypeId;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// In a run's `config.toml`, the hash of the file `init`: not an option, but checked.
const INIT_SHA256: &str = "init-sha256";

/// In a run's `config.toml`, the description of a network that the program does not know by its name: not an option, but used.
const NETWORK: &str = "network";

/// In a run's `config.toml`, the table of the data.
const DATASET: &str = "dataset";

/// In a run's `config.toml`, the table of the recipe.
const RECIPE: &str = "recipe";

/// The options of a file alone.
///
/// # Errors
/// If the file cannot be read, or a key is unknown, of another type or out of range: one sentence with the file and the key.
pub(crate) fn of_file(file: &Path) -> anyhow::Result<TrainArgs> {
    merged(["trainer", "train"].map(OsString::from).into(), file)
}

/// The options of a whole `trainer train` command line, plus those of the file that the line does not give itself.
fn merged(line: Vec<OsString>, file: &Path) -> anyhow::Result<TrainArgs> {
    let shown = file.display();
    let mut text = String::new();
    let read =
        File::open(file).and_then(|file| file.take(RunConfig::MAX_BYTES + 1).read_to_string(&mut text));
    read.with_context(|| format!("the configuration {shown} cannot be read: check the path after --config"))?;
    ensure!(text.len() as u64 <= RunConfig::MAX_BYTES, "{shown} is too large to be a configuration");
    let mut table: Table = toml::from_str(&text).map_err(|error: toml::de::Error| {
        let (line, _) = line_and_column(&text, error.span().map_or(0, |span| span.start));
        anyhow!("{shown}, line {line}, is not TOML ({}): correct that line", one_line(error.message()))
    })?;
    // A run's recipe has its own table; what the run recorded of its data is determined anew.
    table.remove(DATASET);
    if let Some(recipe) = table.remove(RECIPE) {
        let Value::Table(recipe) = recipe else { bail!("{shown}: {RECIPE} is not valid: give a table") };
        for (key, value) in recipe {
            if table.insert(key.clone(), value).is_some() {
                bail!("{shown}: {key} is given twice, inside and outside of {RECIPE}: remove one");
            }
        }
    }
    let expected_sha256 = table.remove(INIT_SHA256);
    let init = table.get("init").cloned();
    let described = match table.remove(NETWORK) {
        Some(Value::String(text)) => {
            table.remove("model");
            Some(Model::from_toml(&text).with_context(|| format!("{shown}: the network cannot be used"))?)
        }
        Some(_) => bail!("{shown}: {NETWORK} is not valid: give the description as a text"),
        None => None,
    };

    let top = Cli::command();
    let train = top.find_subcommand("train").context("there is no command `train`")?.clone();
    let matches = top.try_get_matches_from(&line)?;
    let typed = matches.subcommand_matches("train").context("the command is not `train`")?;
    let mut whole = line;
    for (key, value) in &table {
        let option = train
            .get_arguments()
            .find(|option| option.get_long() == Some(key) && !["config", "help"].contains(&key.as_str()))
            .ok_or_else(|| anyhow!("{shown}: there is no option `{key}`{}", similar(&train, key)))?;
        let Some(word) = as_typed(option, value)
            .map_err(|wanted| anyhow!("{shown}: {key} = {value} is not valid: give {wanted}"))?
        else {
            continue;
        };
        check(&train, option, &word)
            .map_err(|reason| anyhow!("{shown}: {key} = {value} is not valid: {reason}"))?;
        if typed.value_source(option.get_id().as_str()) != Some(ValueSource::CommandLine) {
            whole.push(word.into());
        }
    }
    let mut args = match Cli::try_parse_from(whole)?.command {
        Command::Train(args) => *args,
        _ => bail!("the command is not `train`"),
    };
    args.model = args.model.or(described);
    if let (Some(expected), Some(_)) = (expected_sha256, init)
        && typed.value_source("init") != Some(ValueSource::CommandLine)
        && let Some(path) = &args.init
    {
        let bytes = checkpoint::read_bytes(&checkpoint::weights_file(path)?)?;
        if expected.as_str() != Some(&sha256(&bytes)) {
            bail!(
                "{shown}: {} is not the file that {INIT_SHA256} identifies; restore it, or remove {INIT_SHA256}",
                path.display()
            );
        }
    }
    Ok(args)
}

/// SHA-256 in lower-case hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The option as a word of a command line; `None` for a switch that is off. The error says what the option takes.
fn as_typed(option: &Arg, value: &Value) -> Result<Option<String>, &'static str> {
    let key = option.get_long().unwrap_or_default();
    let is = |types: &[TypeId]| {
        let parser: &ValueParser = option.get_value_parser();
        types.iter().any(|wanted| parser.type_id() == *wanted)
    };
    let whole =
        [TypeId::of::<u32>(), TypeId::of::<u64>(), TypeId::of::<NonZeroU32>(), TypeId::of::<NonZeroU64>()];
    let text = match (option.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(on)) => return Ok(on.then(|| format!("--{key}"))),
        (ArgAction::SetTrue, _) => return Err("true or false"),
        (ArgAction::Count, _) => return Err("it on the command line"),
        (_, Value::Boolean(truth)) if is(&[TypeId::of::<bool>()]) => truth.to_string(),
        _ if is(&[TypeId::of::<bool>()]) => return Err("true or false"),
        (_, Value::Integer(number @ 0..)) if is(&whole) => number.to_string(),
        _ if is(&whole) => return Err("a whole number from 0 up"),
        (_, Value::Float(number)) if is(&[TypeId::of::<f64>()]) => number.to_string(),
        (_, Value::Integer(number)) if is(&[TypeId::of::<f64>()]) => number.to_string(),
        _ if is(&[TypeId::of::<f64>()]) => return Err("a number"),
        (_, Value::String(text)) => text.clone(),
        (_, Value::Table(_) | Value::Array(_)) if !is(&[TypeId::of::<PathBuf>(), TypeId::of::<String>()]) => {
            value.to_string()
        }
        _ => return Err("a text in quotation marks"),
    };
    Ok(Some(format!("--{key}={text}")))
}

/// Checks that the option's own parser accepts the word; the error is the parser's reason.
fn check(train: &clap::Command, option: &Arg, word: &str) -> Result<(), String> {
    let alone = train.clone().try_get_matches_from(["train", word]);
    let Err(error) = alone else { return Ok(()) };
    let values: Vec<String> =
        option.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    if !values.is_empty() {
        return Err(format!("give one of {}", values.join(", ")));
    }
    // The first line of clap's message ends with the reason.
    let message = error.to_string();
    let first = message.lines().next().unwrap_or_default();
    Err(match first.rsplit_once(">': ") {
        Some((_, reason)) => reason.to_owned(),
        None => "see `trainer train --help` for what it takes".to_owned(),
    })
}

/// The option that an unknown key may mean.
fn similar(train: &clap::Command, key: &str) -> String {
    let plain = |name: &str| name.replace(['-', '_'], "").to_lowercase();
    let known = train.get_arguments().filter_map(Arg::get_long);
    match known.into_iter().find(|name| plain(name) == plain(key)) {
        Some(name) => format!("; it is called `{name}`"),
        None => "; remove this key, `trainer train --help` lists the options".to_owned(),
    }
}

/// The options of a command line, plus those of the file that its `--config` names; `None` without `--config`.
///
/// # Errors
/// As [`of_file`].
pub(crate) fn resolve(args: &TrainArgs, line: Vec<OsString>) -> anyhow::Result<Option<TrainArgs>> {
    args.config.as_deref().map(|file| merged(line, file)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(typed: &[&str], text: &str) -> Result<TrainArgs, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("options.toml");
        std::fs::write(&file, text).unwrap();
        let line = ["trainer", "train"].iter().chain(typed).map(OsString::from).collect();
        merged(line, &file).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_typed_wins_over_the_file() {
        let text =
            "model = \"nin\"\nlr = 1\nepochs = 3\nshuffle = false\nresume = true\ncheckpoint-every = 7\n";
        let args = parse(&["--epochs", "5", "--checkpoint-every", "300"], text).unwrap();
        assert_eq!(args.model.as_ref().map(Model::name), Some("nin"));
        assert_eq!((args.lr, args.epochs, args.shuffle), (Some(1.0), Some(5), Some(false)));
        assert!(args.resume);
        // The default value, but given on the command line.
        assert_eq!(args.checkpoint_every, 300);
        assert_eq!(parse(&[], text).unwrap().checkpoint_every, 7);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_fix() {
        let cases = [
            ("colour = 1", "there is no option `colour`"),
            ("batch_size = 4", "it is called `batch-size`"),
            ("config = \"a.toml\"", "there is no option `config`"),
            ("epochs = \"3\"", "epochs = \"3\" is not valid: give a whole number"),
            ("epochs = 0", "epochs = 0 is not valid: 0 is not in 1..=1000000"),
            ("seed = -1", "seed = -1 is not valid: give a whole number from 0 up"),
            ("lr = true", "give a number"),
            ("lr = nan", "lr = nan is not valid: give a number above 0"),
            ("shuffle = \"yes\"", "give true or false"),
            ("resume = 1", "give true or false"),
            ("data-dir = 3", "give a text in quotation marks"),
            ("model = \"vgg\"", "there is no model `vgg`"),
            ("engine = \"torch\"", "engine = \"torch\" is not valid: "),
            ("[lr]\nx = 1", "give a number"),
            ("epochs = ", "line 1, is not TOML"),
        ];
        for (text, expected) in cases {
            let message = parse(&[], text).expect_err(text);
            assert!(message.contains(expected) && message.contains("options.toml"), "{text}: {message}");
            assert!(!message.contains('\n'), "{message}");
        }
        // A wrong value is named even if the command line overrides it.
        assert!(parse(&["--epochs", "2"], "epochs = 0").is_err());
    }
}
