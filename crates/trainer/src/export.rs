//! `trainer export`: weights for other programs.

mod card;
mod exported;
mod hub;
mod onnx;
mod pickle;
mod pytorch;

use crate::args::{Cli, ExportArgs, Format};
use anyhow::{Context, bail};
use clap::CommandFactory;
use clap::error::ErrorKind;
use exported::Exported;
use pointwise_runs::replace_file;

pub(crate) fn run(args: &ExportArgs) -> anyhow::Result<()> {
    check_usage(args);
    check_free(args)?;
    let exported = Exported::read(&args.checkpoint, args.model.as_ref())?;
    match args.format {
        Format::Pytorch => replace_file(&args.out, &pytorch::encode(&exported.network, &exported.state)?)?,
        Format::Safetensors => replace_file(&args.out, &exported.safetensors(&args.out)?)?,
        Format::Onnx => replace_file(&args.out, &onnx::encode(&exported, args)?)?,
        Format::Hub => hub::write(&exported, &args.out)?,
    }
    Ok(crate::print(&args.out.display().to_string())?)
}

/// Options of one format mean nothing to another: ends the process as any wrong usage does.
fn check_usage(args: &ExportArgs) {
    let options = [
        ("--fold", args.fold),
        ("--preprocess", args.preprocess),
        ("--softmax", args.softmax),
        ("--opset", args.opset.is_some()),
    ];
    if let Some((option, _)) = options.iter().find(|(_, given)| *given && args.format != Format::Onnx) {
        let message = format!("{option} is an option of --format onnx: leave it out, or choose that format");
        Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
    }
}

/// Refuses to overwrite anything: it might be the weights themselves.
fn check_free(ExportArgs { out, format, .. }: &ExportArgs) -> anyhow::Result<()> {
    let path = out.display();
    match format {
        Format::Hub if out.is_dir() => {
            let mut entries = out.read_dir().with_context(|| format!("{path} cannot be read"))?;
            if entries.next().is_some() {
                bail!("{path} is a folder that is not empty: give a new or empty one");
            }
        }
        Format::Hub if out.exists() => bail!("{path} is a file: give a folder"),
        _ if out.exists() => bail!("{path} exists already: give another name, or remove it"),
        _ => {}
    }
    Ok(())
}
