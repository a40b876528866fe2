//! Weights files: safetensors with PyTorch's names.
//!
//! `best.safetensors` holds what PyTorch's `state_dict()` of the same network holds, name for name, dtype for dtype and shape for
//! shape. `last.safetensors` holds Adam's moments besides, as `optimizer.exp_avg.NAME` and `optimizer.exp_avg_sq.NAME`. What else
//! a run needs to go on stands in the file's metadata, as JSON ([`Meta`]) under the one key `pointwise`: one, because the
//! format's writer puts several in an order that changes, and equal states shall be equal bytes.
//!
//! Time never gets into a checkpoint, for the same reason.

use crate::TrainingError;
use pointwise_engine::{Array, Moments, State, Totals};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

const META_KEY: &str = "pointwise";
const FIRST_MOMENT: &str = "optimizer.exp_avg.";
const SECOND_MOMENT: &str = "optimizer.exp_avg_sq.";
const BATCHES_TRACKED: &str = ".num_batches_tracked";
const STATISTICS: [&str; 2] = [".running_mean", ".running_var"];

/// What a checkpoint says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// The network's name.
    pub model: String,
    /// Dropout probability of the run, where the network has dropout.
    pub dropout: f64,
    /// The run's seed.
    pub seed: u64,
    /// Epoch whose end this is, or in which it lies, from 1.
    pub epoch: u32,
    /// Training steps taken.
    pub step: u64,
    /// The best epoch so far and its accuracy, if an epoch has been completed.
    pub best: Option<Best>,
    /// In `last`, where to go on.
    pub position: Option<Position>,
}

/// The best epoch so far, by test accuracy or, with `val_split`, by validation accuracy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The epoch, from 1.
    pub epoch: u32,
    /// Its accuracy, 0 to 1.
    pub accuracy: f64,
    /// Its loss on the same images, in nats.
    pub loss: f64,
}

/// A place in the middle of a run: the running totals of the epoch up to it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Batches of the epoch that have been trained on.
    pub batch: usize,
    /// Sum of loss times batch size so far.
    pub loss_sum: f64,
    /// Correct predictions so far.
    pub correct: u64,
    /// Images so far.
    pub samples: u64,
    /// Loss of the newest batch.
    pub last_loss: f64,
}

impl Position {
    /// The totals of an epoch after `batch` batches.
    #[must_use]
    pub fn new(batch: usize, totals: &Totals) -> Self {
        Self {
            batch,
            loss_sum: totals.loss_sum,
            correct: totals.correct,
            samples: totals.samples,
            last_loss: totals.last_loss,
        }
    }

    /// The totals, to set an engine to.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            loss_sum: self.loss_sum,
            correct: self.correct,
            samples: self.samples,
            last_loss: self.last_loss,
        }
    }
}

/// The bytes of a weights file. Equal states and metadata give equal bytes.
///
/// # Errors
/// [`TrainingError::Checkpoint`] when the format refuses (an array whose values do not fill its shape).
pub fn encode(path: &Path, state: &State, meta: &Meta) -> Result<Vec<u8>, TrainingError> {
    let refuse = |reason: String| TrainingError::Checkpoint { path: path.to_owned(), reason };
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut floats = |prefix: &str, arrays: &BTreeMap<String, Array>| {
        for (name, array) in arrays {
            let bytes = array.values.iter().flat_map(|value| value.to_le_bytes()).collect();
            tensors.push((format!("{prefix}{name}"), Dtype::F32, array.shape.clone(), bytes));
        }
    };
    floats("", &state.parameters);
    floats("", &state.statistics);
    if let Some(moments) = &state.moments {
        floats(FIRST_MOMENT, &moments.first);
        floats(SECOND_MOMENT, &moments.second);
    }
    for (name, tracked) in &state.batches_tracked {
        tensors.push((name.clone(), Dtype::I64, vec![], tracked.to_le_bytes().to_vec()));
    }
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|error| refuse(error.to_string()))?;
    let meta = serde_json::to_string(meta).map_err(|error| refuse(error.to_string()))?;
    let metadata = HashMap::from([(META_KEY.to_owned(), meta)]);
    safetensors::serialize(views, Some(metadata)).map_err(|error| refuse(error.to_string()))
}

/// Reads a weights file: one of ours, or a `state_dict` of PyTorch, which has no [`Meta`].
///
/// The state is not checked against a network: [`State::check`] and `load_state` do that.
///
/// # Errors
/// [`TrainingError::Read`]; [`TrainingError::Checkpoint`] for anything that is not such a file: truncated, corrupt, of another
/// type than f32, or with moments for only a part of the parameters.
pub fn read(path: &Path) -> Result<(State, Option<Meta>), TrainingError> {
    let bytes = std::fs::read(path).map_err(|cause| TrainingError::Read { path: path.to_owned(), cause })?;
    decode(&bytes).map_err(|reason| TrainingError::Checkpoint { path: path.to_owned(), reason })
}

fn decode(bytes: &[u8]) -> Result<(State, Option<Meta>), String> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|error| format!("it is damaged or of another format ({error})"))?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let meta: Option<Meta> = match header.metadata().as_ref().and_then(|all| all.get(META_KEY)) {
        Some(text) => {
            Some(serde_json::from_str(text).map_err(|error| format!("its metadata is damaged ({error})"))?)
        }
        None => None,
    };
    let mut state = State::default();
    let mut moments = Moments::default();
    for (name, view) in file.iter() {
        if name.ends_with(BATCHES_TRACKED) {
            state.batches_tracked.insert(name.to_owned(), scalar_i64(name, &view)?);
            continue;
        }
        let array = float_array(name, &view)?;
        if let Some(name) = name.strip_prefix(FIRST_MOMENT) {
            moments.first.insert(name.to_owned(), array);
        } else if let Some(name) = name.strip_prefix(SECOND_MOMENT) {
            moments.second.insert(name.to_owned(), array);
        } else if STATISTICS.iter().any(|suffix| name.ends_with(suffix)) {
            state.statistics.insert(name.to_owned(), array);
        } else {
            state.parameters.insert(name.to_owned(), array);
        }
    }
    if !moments.first.is_empty() || !moments.second.is_empty() {
        moments.step = meta.as_ref().ok_or("it has optimizer moments but no step count")?.step;
        state.moments = Some(moments);
    }
    Ok((state, meta))
}

fn float_array(name: &str, view: &TensorView<'_>) -> Result<Array, String> {
    if view.dtype() != Dtype::F32 {
        return Err(format!("`{name}` is {:?}, and weights must be F32", view.dtype()));
    }
    let values: Vec<f32> = view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(format!("`{name}` holds {value}, and weights must be finite")),
        None => Ok(Array { shape: view.shape().to_vec(), values }),
    }
}

fn scalar_i64(name: &str, view: &TensorView<'_>) -> Result<i64, String> {
    match (view.dtype(), <[u8; 8]>::try_from(view.data())) {
        (Dtype::I64, Ok(bytes)) => Ok(i64::from_le_bytes(bytes)),
        (dtype, _) => Err(format!("`{name}` is {dtype:?} of shape {:?}, not one I64", view.shape())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (State, Meta) {
        let array = |values: &[f32]| Array { shape: vec![values.len()], values: values.to_vec() };
        let one = |values| BTreeMap::from([("features.0.bias".to_owned(), array(values))]);
        let state = State {
            parameters: one(&[1.0, -0.0, f32::MIN_POSITIVE / 2.0]),
            statistics: BTreeMap::from([
                ("features.1.running_mean".to_owned(), array(&[0.5])),
                ("features.1.running_var".to_owned(), array(&[2.0])),
            ]),
            batches_tracked: BTreeMap::from([("features.1.num_batches_tracked".to_owned(), 7)]),
            moments: Some(Moments { first: one(&[0.1, 0.2, 0.3]), second: one(&[0.4, 0.5, 0.6]), step: 7 }),
        };
        let totals = Totals { loss_sum: 0.1 + 0.2, correct: 3, samples: 10, last_loss: 2.0 / 3.0 };
        let meta = Meta {
            model: "nin".to_owned(),
            dropout: 0.5,
            seed: u64::MAX,
            epoch: 2,
            step: 7,
            best: Some(Best { epoch: 1, accuracy: 1.0 / 3.0, loss: 1.1 }),
            position: Some(Position::new(4, &totals)),
        };
        (state, meta)
    }

    #[test]
    fn what_is_written_is_read_to_the_bit() {
        let (state, meta) = sample();
        let bytes = encode(Path::new("x"), &state, &meta).unwrap();
        assert_eq!(bytes, encode(Path::new("x"), &state, &meta).unwrap());
        let (read_state, read_meta) = decode(&bytes).unwrap();
        assert_eq!(read_state, state);
        assert_eq!(read_meta.unwrap(), meta);
        assert_eq!(encode(Path::new("x"), &read_state, &meta).unwrap(), bytes);
    }

    #[test]
    fn damaged_files_are_refused_in_a_sentence() {
        let (state, meta) = sample();
        let bytes = encode(Path::new("x"), &state, &meta).unwrap();
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "cut at {len} of {}", bytes.len());
        }
        let mut huge = bytes.clone();
        huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(decode(&huge).is_err());
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains("\"F32\""), "{text}");
    }

    #[test]
    fn other_types_and_values_that_are_not_finite_are_named() {
        let cases: [(Dtype, &[u8], &str); 3] = [
            (Dtype::F16, &[0, 0], "`w` is F16, and weights must be F32"),
            (Dtype::F32, &f32::NAN.to_le_bytes(), "`w` holds NaN, and weights must be finite"),
            (Dtype::F32, &f32::INFINITY.to_le_bytes(), "`w` holds inf, and weights must be finite"),
        ];
        for (dtype, data, expected) in cases {
            let view = TensorView::new(dtype, vec![1], data).unwrap();
            let bytes = safetensors::serialize([("w", view)], None).unwrap();
            assert_eq!(decode(&bytes).unwrap_err(), expected);
        }
        let view = TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap();
        let bytes = safetensors::serialize([("a.num_batches_tracked", view)], None).unwrap();
        assert_eq!(decode(&bytes).unwrap_err(), "`a.num_batches_tracked` is F32 of shape [1], not one I64");
    }
}
