//! `--format onnx`.

use super::exported::Exported;
use crate::args::ExportArgs;
use anyhow::{Context, bail};
use pointwise_onnx::{OPSETS, Options, Preprocessing};
use serde_json::json;
use std::collections::BTreeMap;

pub(super) fn encode(exported: &Exported, args: &ExportArgs) -> anyhow::Result<Vec<u8>> {
    let normalisation = exported.data.as_ref().and_then(|data| data.mean_std.clone());
    let preprocessing = match (args.preprocess, normalisation) {
        (true, Some((mean, std))) => Some(Preprocessing { mean, std }),
        (true, None) => bail!(
            "{} does not say by which mean and deviation its images were normalised: leave --preprocess out, or give a checkpoint \
             of a run",
            exported.file.display()
        ),
        (false, _) => None,
    };
    let options = Options {
        opset: args.opset.unwrap_or(*OPSETS.end()),
        fold: args.fold,
        preprocessing,
        softmax: args.softmax,
        metadata: metadata(exported)?,
    };
    let model = pointwise_onnx::encode(&exported.network, &exported.state, &options);
    model.with_context(|| format!("{} cannot be exported", exported.file.display()))
}

/// What the model says about itself: JSON by the keys that `docs/export.md` lists.
fn metadata(exported: &Exported) -> anyhow::Result<BTreeMap<String, String>> {
    let mut metadata = BTreeMap::new();
    let mut put = |key: &str, value: serde_json::Value| {
        metadata.insert(key.to_owned(), value.to_string());
    };
    if let Some(data) = &exported.data {
        put("classes", json!(data.classes));
        if let Some((mean, std)) = &data.mean_std {
            put("normalisation", json!({ "mean": mean, "std": std }));
        }
    }
    put(
        "provenance",
        json!({
            "program": concat!("pointwise ", env!("CARGO_PKG_VERSION")),
            "commit": option_env!("POINTWISE_COMMIT"),
            "network": exported.network.name,
            "weights_sha256": exported.sha256()?,
            "checkpoint": exported.meta,
        }),
    );
    Ok(metadata)
}
