//! What must be equal, whatever happened on the way: all files of a run or a study, byte for byte, except for measured values.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use pointwise_runs::{Run, holds_run, is_temporary};
use serde_json::Value;

use super::phase::Shape;

/// Measured values, which may differ between two equal runs.
const MEASURED: [&str; 8] = [
    "seconds",
    "train_seconds",
    "eval_seconds",
    "peak_memory_bytes",
    "images_per_second",
    "started",
    "updated",
    // Not measured, but it does not affect results either.
    "threads",
];

/// The files of a folder, by their paths in it.
pub(super) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// The files of a folder of finished runs, without locks and the temporary files that a kill has left.
pub(super) fn files(folder: &Path) -> anyhow::Result<Files> {
    let mut files = Files::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inner) = folders.pop() {
        let failed = || format!("{} cannot be read", inner.display());
        for entry in fs::read_dir(&inner).with_context(failed)? {
            let path = entry.with_context(failed)?.path();
            if path.is_dir() {
                folders.push(path);
            } else if !is_temporary(&path) && path.file_name().is_none_or(|name| name != "run.lock") {
                let bytes = fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
                files.insert(path.strip_prefix(folder).unwrap_or(&path).to_owned(), bytes);
            }
        }
    }
    Ok(files)
}

/// The number of temporary files in a folder that were to replace others.
pub(super) fn left_over(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.map(|path| if path.is_dir() { left_over(&path) } else { usize::from(is_temporary(&path)) }).sum()
}

/// A sentence for each file that is not equal.
pub(super) fn differences(expected: &Files, found: &Files) -> Vec<String> {
    let mut differences = Vec::new();
    for (path, bytes) in expected {
        match found.get(path) {
            None => differences.push(format!("{} is missing", path.display())),
            Some(other) if other != bytes => {
                let at = bytes.iter().zip(other).take_while(|(a, b)| a == b).count();
                differences.push(format!("{} differs from byte {at} on", path.display()));
            }
            Some(_) => {}
        }
    }
    let more = found.keys().filter(|path| !expected.contains_key(*path));
    differences.extend(more.map(|path| format!("{} should not be there", path.display())));
    differences
}

/// Replaces every measured value in the files of finished runs by the same one.
pub(super) fn level(folder: &Path, shape: &Shape) -> anyhow::Result<()> {
    for run in shape.runs.iter().map(|run| folder.join(run)) {
        for name in ["metrics.jsonl", "result.json", "environment.json", "progress.json"] {
            let path = run.join(name);
            let text =
                fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
            let values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
            let mut levelled = String::new();
            for value in values {
                let mut value = value.with_context(|| format!("{} is no JSON", path.display()))?;
                level_value(&mut value);
                levelled += &format!("{value}\n");
            }
            fs::write(&path, levelled).with_context(|| format!("{} cannot be written", path.display()))?;
        }
    }
    Ok(())
}

fn level_value(value: &mut Value) {
    let fields = value.as_object_mut().into_iter().flatten();
    for (_, field) in fields.filter(|(name, _)| MEASURED.contains(&name.as_str())) {
        match field {
            Value::Number(_) => *field = 1.into(),
            Value::String(time) => "2026-01-01T00:00:00Z".clone_into(time),
            _ => {}
        }
    }
}

/// What is only half written after a kill, as a sentence. All files of a run are whole at any time, except for the last line of its metrics.
pub(super) fn broken(folder: &Path, shape: &Shape) -> Option<String> {
    let runs = shape.runs.iter().map(|run| folder.join(run));
    for path in runs.filter(|run| holds_run(run)) {
        let read = Run::read(&path).and_then(|run| run.analysis().map(|_| run));
        if let Err(error) = read {
            return Some(error.to_string());
        }
        for name in ["best", "last", "ema"] {
            let file = path.join(format!("checkpoints/{name}.safetensors"));
            if let Ok(bytes) = fs::read(&file)
                && !is_whole(&bytes)
            {
                return Some(format!("{} is cut short", file.display()));
            }
        }
    }
    None
}

/// Whether a file in the format of safetensors ends where its header says.
fn is_whole(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk() else { return false };
    let length = u64::from_le_bytes(*length) as usize;
    let Some((header, data)) = rest.split_at_checked(length) else { return false };
    let Ok(Value::Object(tensors)) = serde_json::from_slice(header) else { return false };
    let ends = tensors.values().filter_map(|tensor| tensor["data_offsets"][1].as_u64());
    ends.max().is_some_and(|end| end == data.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named() {
        let files = |list: &[(&str, &str)]| -> Files {
            list.iter().map(|(path, text)| (path.into(), text.as_bytes().to_vec())).collect()
        };
        let expected = files(&[("a", "same"), ("b", "one"), ("c", "")]);
        assert_eq!(differences(&expected, &expected), Vec::<String>::new());
        let found = files(&[("a", "same"), ("b", "oxe"), ("d", "")]);
        assert_eq!(
            differences(&expected, &found),
            ["b differs from byte 1 on", "c is missing", "d should not be there"]
        );
    }

    #[test]
    fn only_what_was_measured_is_levelled() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path();
        for name in ["result.json", "environment.json", "progress.json"] {
            fs::write(folder.join(name), "{\n \"started\": \"now\",\n \"final_loss\": 0.25\n}").unwrap();
        }
        let line = "{\"loss\":0.1,\"seconds\":2.5}\n";
        fs::write(folder.join("metrics.jsonl"), line.repeat(2)).unwrap();
        let shape = Shape { runs: vec![PathBuf::new()], is_study: false, epochs: 1, steps: 1 };
        level(folder, &shape).unwrap();
        fs::write(folder.join("run.lock"), "").unwrap();
        fs::write(folder.join(".a.x.tmp"), "").unwrap();
        let found = files(folder).unwrap();
        assert_eq!(found.len(), 4);
        assert_eq!(left_over(folder), 1);
        assert_eq!(
            found[Path::new("metrics.jsonl")],
            "{\"loss\":0.1,\"seconds\":1}\n".repeat(2).into_bytes()
        );
        assert_eq!(
            found[Path::new("result.json")],
            b"{\"final_loss\":0.25,\"started\":\"2026-01-01T00:00:00Z\"}\n"
        );
    }

    #[test]
    fn a_checkpoint_ends_where_it_says() {
        let header = br#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend([0; 4]);
        assert!(is_whole(&bytes));
        for length in 0..bytes.len() {
            assert!(!is_whole(&bytes[..length]), "{length}");
        }
    }
}
