//! Weights files: safetensors with PyTorch's names.
//!
//! `best.safetensors` holds what PyTorch's `state_dict()` of the same network holds, name for name, dtype for dtype and shape for shape.
//! `last.safetensors` also holds the optimizer's buffers, as `optimizer.BUFFER.NAME` by PyTorch's name of the buffer, and the moving averages of
//! a recipe with `ema` or the slow weights of one with `lookahead`, as `average.NAME`. Everything else that a run needs to be resumed is in the
//! file's metadata, as JSON ([`Meta`]) under the one key `pointwise`: one, because the format's writer orders several arbitrarily, and equal
//! states must give equal bytes.
//!
//! A checkpoint never contains a time, for the same reason.

use crate::dictionary::{self, AVERAGE, Data, OPTIMIZER, without_wrappers};
use crate::foreign::{self, LARGEST_HEADER};
use crate::{Array, State, WeightsError};
use pointwise_memory::{lacking, shown};
use pointwise_recipe::one_line;
use pointwise_runs::{Checkpoint, Difference, RunConfig, holds_run};
use safetensors::tensor::{Dtype, Metadata, SafeTensors, View};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

const META_KEY: &str = "pointwise";

/// The metadata of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Meta {
    /// The network's name.
    pub model: String,
    /// Dropout probability of the run, where the network has dropout.
    pub dropout: f64,
    /// The run's seed.
    pub seed: u64,
    /// The epoch at whose end or during which it was written, from 1.
    pub epoch: u32,
    /// Training steps taken.
    pub step: u64,
    /// The best epoch so far and its accuracy, if an epoch has been completed.
    pub best: Option<Best>,
    /// In `last`, where to continue.
    pub position: Option<Position>,
    /// The configuration that determines the run's record: all that is needed to resume the run, and to evaluate and use the weights. Absent in
    /// files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunConfig>,
    /// The origin of weights that were not trained by a run of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<Imported>,
    /// CRC-32C of the tensors, set by [`encode`]. Absent in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32c: Option<u32>,
}

/// The metadata of imported weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// The description of the network, as TOML.
    pub network: String,
    /// SHA-256 of the file that they came from, in lower-case hexadecimal.
    pub sha256: String,
}

impl Meta {
    /// The first key in which `config` differs from the configuration of the training, except where the run ends, which may change when it is
    /// resumed.
    #[must_use]
    pub fn difference(&self, config: &RunConfig) -> Option<Difference> {
        let Some(own) = &self.run else {
            // A file of an earlier version has only these.
            let own = RunConfig {
                model: self.model.clone(),
                dropout: self.dropout,
                seed: self.seed,
                ..config.clone()
            };
            return own.difference(config);
        };
        let is_free = |name: &str| match name {
            "max-steps" => true,
            // Values that depend on the length of the training would have been different from the start.
            "epochs" => !config.recipe.depends_on_length(),
            _ => false,
        };
        own.differences(config).into_iter().find(|difference| !is_free(&difference.name))
    }
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
    /// Norm of its gradients, where they are clipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_gradient_norm: Option<f64>,
}

/// A tensor as it is written.
enum Tensor<'a> {
    Floats(&'a Array),
    Count(i64),
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Self::Floats(_) => Dtype::F32,
            Self::Count(_) => Dtype::I64,
        }
    }

    fn shape(&self) -> &[usize] {
        match self {
            Self::Floats(array) => &array.shape,
            Self::Count(_) => &[],
        }
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Floats(array) => dictionary::little_endian(&array.values),
            Self::Count(count) => count.to_le_bytes().to_vec().into(),
        }
    }

    fn data_len(&self) -> usize {
        match self {
            Self::Floats(array) => size_of_val(&array.values[..]),
            Self::Count(count) => size_of_val(count),
        }
    }
}

/// The bytes of a checkpoint of a state: all of it in `last`, the trained values in `best`, and their average in `ema`, under the names of the
/// trained values. Equal states and metadata give equal bytes.
///
/// # Errors
/// [`WeightsError::Checkpoint`] for an array whose values do not fill its shape, and for `ema` of a state without averages.
pub fn encode<'a>(
    path: &Path,
    which: Checkpoint,
    state: &'a State,
    meta: &Meta,
) -> Result<Vec<u8>, WeightsError> {
    let refuse = |reason: String| WeightsError::Checkpoint { path: path.to_owned(), reason };
    let mut tensors: Vec<(String, Tensor<'a>)> = Vec::new();
    let mut floats = |prefix: &str, arrays: &'a BTreeMap<String, Array>| {
        for (name, array) in arrays {
            tensors.push((format!("{prefix}{name}"), Tensor::Floats(array)));
        }
    };
    let trained = (&state.parameters, &state.statistics);
    let average = state.average.as_ref().map(|average| (&average.parameters, &average.statistics));
    let (parameters, statistics) = match which {
        Checkpoint::Best | Checkpoint::Last => trained,
        Checkpoint::Ema => average.ok_or_else(|| refuse("there are no averages to write".to_owned()))?,
    };
    floats("", parameters);
    floats("", statistics);
    if which == Checkpoint::Last {
        for (buffer, arrays) in state.optimizer.iter().flat_map(|optimizer| &optimizer.buffers) {
            floats(&format!("{OPTIMIZER}{buffer}."), arrays);
        }
        if let Some((parameters, statistics)) = average {
            floats(AVERAGE, parameters);
            floats(AVERAGE, statistics);
        }
    }
    for (name, tracked) in &state.batches_tracked {
        tensors.push((name.clone(), Tensor::Count(*tracked)));
    }
    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut crc32c = 0;
    for (name, tensor) in &tensors {
        let (shape, bytes) = (tensor.shape(), tensor.data());
        if shape.iter().product::<usize>() * tensor.dtype().bitsize() != 8 * bytes.len() {
            return Err(refuse(format!(
                "`{name}` has {} bytes, too many or too few for {shape:?}",
                bytes.len()
            )));
        }
        crc32c = checksum(crc32c, name, &bytes);
    }
    let meta = Meta { crc32c: Some(crc32c), ..meta.clone() };
    let meta = serde_json::to_string(&meta).map_err(|error| refuse(error.to_string()))?;
    let metadata = HashMap::from([(META_KEY.to_owned(), meta)]);
    safetensors::serialize(tensors, Some(metadata)).map_err(|error| refuse(error.to_string()))
}

/// Continues a checksum over a tensor.
fn checksum(crc: u32, name: &str, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc, name.as_bytes()), bytes)
}

/// The most bytes read from a source of unknown length, such as a pipe: more than any weights file of these networks has.
const LARGEST_STREAM: u64 = 1 << 30;

/// The weights file that a path names: the file itself or, for a run folder, the parameters of its best epoch.
///
/// # Errors
/// [`WeightsError::Folder`] for a folder without such a file.
pub fn weights_file(path: &Path) -> Result<PathBuf, WeightsError> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let [best, last] = [Checkpoint::Best, Checkpoint::Last].map(|which| path.join(which.file_name()));
    let refuse = |reason: String| Err(WeightsError::Folder { path: path.to_owned(), reason });
    if best.is_file() {
        return Ok(best);
    }
    if last.is_file() {
        return refuse(format!("is the folder of a run without a best epoch yet: name {}", last.display()));
    }
    if holds_run(path) {
        return refuse("is the folder of a run without a checkpoint yet: give another".to_owned());
    }
    let mut files: Vec<String> = std::fs::read_dir(path)
        .map(|entries| {
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        })
        .unwrap_or_default();
    files.retain(|name| [".safetensors", ".pt", ".pth"].iter().any(|end| name.ends_with(end)));
    files.sort_unstable();
    match &files[..] {
        [] => refuse("is a folder without weights: name a safetensors file or a run folder".to_owned()),
        [file, ..] => refuse(format!("is a folder, not a file: name a file in it, such as {file}")),
    }
}

/// The content of a file that may be a weights file.
///
/// # Errors
/// [`WeightsError::Read`]; [`WeightsError::Checkpoint`] for a file that is larger than memory.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>, WeightsError> {
    let read = |cause| WeightsError::Read { path: path.to_owned(), cause };
    let refuse = |reason| Err(WeightsError::Checkpoint { path: path.to_owned(), reason });
    let file = File::open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    let most = if metadata.is_file() { metadata.len() } else { LARGEST_STREAM };
    if metadata.is_file() {
        // The values are created while the bytes are still in memory.
        check_memory(path, most, 2)?;
    }
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > most {
        return refuse(match metadata.is_file() {
            true => "it grows while it is read: wait until it is complete".to_owned(),
            false => format!("it has more than {most} bytes, which only a regular file may have"),
        });
    }
    Ok(bytes)
}

/// Checks that `times` times the `length` of a file fits in memory.
fn check_memory(path: &Path, length: u64, times: u64) -> Result<(), WeightsError> {
    let Some(available) = lacking(length.saturating_mul(times)) else { return Ok(()) };
    let reason = format!(
        "reading its {} takes {} memory, and {available}: free memory, or check whether it is the right file",
        shown(length),
        if times == 1 { "as much" } else { "twice as much" },
    );
    Err(WeightsError::Checkpoint { path: path.to_owned(), reason })
}

/// The content of a safetensors file, with its F32 tensors read straight into place: half the memory of [`decode`], and half the time for a file
/// of some size. `None` for a file that is not safetensors or not complete, for which [`decode`] says what is wrong.
fn read_tensors(path: &Path) -> Result<Option<Result<Contents, String>>, WeightsError> {
    let read = |cause| WeightsError::Read { path: path.to_owned(), cause };
    let mut file = File::open(path).map_err(read)?;
    let metadata = file.metadata().map_err(read)?;
    let mut start = [0; 9];
    if !metadata.is_file() || metadata.len() < start.len() as u64 {
        return Ok(None);
    }
    file.read_exact(&mut start).map_err(read)?;
    let [length @ .., first] = start;
    let header_end = u64::from_le_bytes(length).saturating_add(8);
    // The first byte of the header has been read already.
    if first != b'{' || !(start.len() as u64..=metadata.len().min(LARGEST_HEADER)).contains(&header_end) {
        return Ok(None);
    }
    let mut text = start.to_vec();
    file.by_ref().take(header_end - start.len() as u64).read_to_end(&mut text).map_err(read)?;
    let Ok(header) = serde_json::from_slice::<Metadata>(&text[8..]) else { return Ok(None) };
    if header_end.saturating_add(header.data_len() as u64) != metadata.len() {
        return Ok(None);
    }
    check_memory(path, metadata.len(), 1)?;
    let mut tensors = Vec::new();
    // In the order of the file.
    for name in header.offset_keys() {
        let Some(info) = header.info(&name) else { return Ok(None) };
        let (dtype, shape, bytes) =
            (info.dtype, info.shape.clone(), info.data_offsets.1 - info.data_offsets.0);
        let data = if dtype == Dtype::F32 && cfg!(target_endian = "little") {
            let mut values = vec![0.0_f32; bytes / size_of::<f32>()];
            file.read_exact(bytemuck::cast_slice_mut(&mut values)).map_err(read)?;
            Data::Floats(values)
        } else {
            let mut data = vec![0; bytes];
            file.read_exact(&mut data).map_err(read)?;
            data.into()
        };
        tensors.push((name, dictionary::Tensor { dtype, shape, data }));
    }
    Ok(Some(contents(&header, tensors)))
}

/// Reads weights: a file of ours, or a `state_dict` of PyTorch, which has no [`Meta`]; or the best ones of a run folder.
///
/// Files that PyTorch loads as equal are equal here. Numbers of another precision are converted, what `torch.compile` and `DataParallel` add to
/// names is removed, and a single number that is not a parameter, such as an epoch, is ignored with a warning.
///
/// The state is not checked against a network: [`State::check`] does that.
///
/// # Errors
/// [`WeightsError::Read`]; [`WeightsError::Folder`]; [`WeightsError::Checkpoint`] for anything that is not such a file: of another format,
/// truncated, corrupt, with values that are not finite, or with an optimizer's state and no count of its steps.
pub fn read(path: &Path) -> Result<(State, Option<Meta>), WeightsError> {
    read_with(path, decode)
}

/// As [`read`], with a decoder that may know more formats; its errors are sentences without the file's name, like those of [`decode`].
///
/// # Errors
/// As [`read`].
pub fn read_with(
    path: &Path,
    decode: impl FnOnce(&[u8]) -> Result<Contents, String>,
) -> Result<(State, Option<Meta>), WeightsError> {
    let path = weights_file(path)?;
    let contents = match read_tensors(&path)? {
        Some(contents) => contents,
        None => decode(&read_bytes(&path)?),
    };
    let Contents { state, meta, ignored } =
        contents.map_err(|reason| WeightsError::Checkpoint { path: path.clone(), reason })?;
    for name in ignored {
        log::warn!("{}: `{name}` is a single number, not a parameter: ignored", path.display());
    }
    Ok((state, meta))
}

/// The metadata of a file of ours, without reading its tensors; `None` if it has none or cannot be read, for which [`read`] has the reason.
#[must_use]
pub fn read_meta(path: &Path) -> Option<Meta> {
    let mut file = File::open(path).ok()?;
    // The file begins with the length of the header, then the header, a JSON object.
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let mut text = Vec::new();
    file.take(u64::from_le_bytes(length).min(LARGEST_HEADER)).read_to_end(&mut text).ok()?;
    let header: Header = serde_json::from_slice(&text).ok()?;
    header.metadata.get(META_KEY).and_then(|text| parse_meta(text).ok())
}

/// The part of a header that we use; it may list anything else.
#[derive(Deserialize)]
struct Header {
    #[serde(rename = "__metadata__", default)]
    metadata: HashMap<String, String>,
}

fn meta_of(header: &Metadata) -> Result<Option<Meta>, String> {
    let text = header.metadata().as_ref().and_then(|all| all.get(META_KEY));
    text.map(|text| parse_meta(text)).transpose()
}

/// The metadata of a file of ours, with a run configuration that has been checked.
fn parse_meta(text: &str) -> Result<Meta, String> {
    let damaged = |error: &dyn Display| format!("its metadata is damaged ({})", one_line(&error.to_string()));
    let meta: Meta = serde_json::from_str(text).map_err(|error| damaged(&error))?;
    meta.run.as_ref().map_or(Ok(()), RunConfig::check).map_err(|error| damaged(&error))?;
    Ok(meta)
}

/// The result of [`decode`].
#[derive(Debug)]
pub struct Contents {
    /// The state.
    pub state: State,
    /// Its metadata; a file of PyTorch has none.
    pub meta: Option<Meta>,
    /// Names of tensors of one value that are not parameters.
    pub ignored: Vec<String>,
}

/// The content of a safetensors file, of ours or a `state_dict` of PyTorch, as [`read`] reads it.
///
/// # Errors
/// A sentence without the file's name: what the bytes are, or the first error in them.
pub fn decode(bytes: &[u8]) -> Result<Contents, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| foreign::explain(bytes, &error))?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    contents(&header, file.iter().map(|(name, view)| (name.to_owned(), view.into())))
}

/// The content of a file with this header and these tensors.
fn contents<'a>(
    header: &Metadata,
    tensors: impl IntoIterator<Item = (String, dictionary::Tensor<'a>)>,
) -> Result<Contents, String> {
    let meta = meta_of(header)?;
    if let Some(name) = header.offset_keys().iter().find(|name| !dictionary::is_name(name)) {
        return Err(format!(
            "`{}` in it cannot be the name of a parameter: save the weights by PyTorch's names",
            dictionary::shown(name)
        ));
    }
    let named =
        |(name, tensor): (String, _)| (if meta.is_some() { name } else { without_wrappers(&name) }, tensor);
    let tensors = dictionary::unique(tensors.into_iter().map(named))?;
    if let Some(expected) = meta.as_ref().and_then(|meta| meta.crc32c) {
        let crc = tensors.iter().fold(0, |crc, (name, tensor)| checksum(crc, name, &tensor.data.bytes()));
        if crc != expected {
            return Err(
                "its tensors are not those that were written: it is damaged, or was changed".to_owned()
            );
        }
    }
    let (state, ignored) = dictionary::state(tensors, meta.as_ref().map(|meta| meta.step))?;
    Ok(Contents { state, meta, ignored })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Average, OptimizerState};
    use half::{bf16, f16};
    use pointwise_recipe::{Adam, Recipe};
    use pointwise_runs::DatasetConfig;
    use safetensors::tensor::TensorView;

    /// The result of [`super::decode`], which must equal that of reading a file of these bytes.
    fn decode(bytes: &[u8]) -> Result<Contents, String> {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        std::fs::write(&path, bytes).unwrap();
        let decoded = super::decode(bytes);
        match (read_tensors(&path).unwrap(), &decoded) {
            (Some(Ok(read)), Ok(decoded)) => {
                assert_eq!(
                    (&read.state, &read.meta, &read.ignored),
                    (&decoded.state, &decoded.meta, &decoded.ignored)
                );
            }
            (Some(Err(read)), Err(decoded)) => assert_eq!(&read, decoded),
            // Left to `decode`.
            (None, Err(_)) => {}
            (read, decoded) => panic!("{read:?} of a file, and {decoded:?} of its bytes"),
        }
        decoded
    }

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
            optimizer: Some(OptimizerState {
                buffers: BTreeMap::from([
                    ("exp_avg".to_owned(), one(&[0.1, 0.2, 0.3])),
                    ("exp_avg_sq".to_owned(), one(&[0.4, 0.5, 0.6])),
                ]),
                step: 7,
            }),
            average: None,
        };
        let position = Position {
            batch: 4,
            loss_sum: 0.1 + 0.2,
            correct: 3,
            samples: 10,
            last_loss: 2.0 / 3.0,
            last_gradient_norm: None,
        };
        let meta = Meta {
            model: "nin".to_owned(),
            dropout: 0.5,
            seed: u64::MAX,
            epoch: 2,
            step: 7,
            best: Some(Best { epoch: 1, accuracy: 1.0 / 3.0, loss: 1.1 }),
            position: Some(position),
            run: Some(RunConfig::new("nin", Recipe::new(3, 32, Adam::default()))),
            imported: None,
            crc32c: None,
        };
        (state, meta)
    }

    #[test]
    fn what_is_written_is_read_to_the_bit() {
        let (state, meta) = sample();
        let bytes = encode(Path::new("x"), Checkpoint::Last, &state, &meta).unwrap();
        assert_eq!(bytes, encode(Path::new("x"), Checkpoint::Last, &state, &meta).unwrap());
        let Contents { state: read_state, meta: read_meta, ignored } = decode(&bytes).unwrap();
        assert_eq!(read_state, state);
        let read_meta = read_meta.unwrap();
        assert_eq!(Meta { crc32c: None, ..read_meta }, meta);
        assert!(ignored.is_empty());
        assert_eq!(encode(Path::new("x"), Checkpoint::Last, &read_state, &meta).unwrap(), bytes);
    }

    /// With averages, which need a recipe with `ema`, and the optimizer's only buffer.
    fn averaged() -> (State, Meta) {
        let (mut state, mut meta) = sample();
        let moved = |arrays: &BTreeMap<String, Array>| {
            let mut arrays = arrays.clone();
            arrays.values_mut().flat_map(|array| &mut array.values).for_each(|value| *value += 1.0);
            arrays
        };
        let average = Average { parameters: moved(&state.parameters), statistics: moved(&state.statistics) };
        let buffers = BTreeMap::from([("momentum_buffer".to_owned(), moved(&average.parameters))]);
        state.average = Some(average);
        state.optimizer = Some(OptimizerState { buffers, step: 7 });
        meta.position = Some(Position { last_gradient_norm: Some(0.1), ..meta.position.unwrap() });
        (state, meta)
    }

    #[test]
    fn buffers_and_averages_have_names_of_their_own() {
        let names = |(state, meta): (State, Meta)| {
            let bytes = encode(Path::new("x"), Checkpoint::Last, &state, &meta).unwrap();
            let read = decode(&bytes).unwrap();
            assert_eq!(read.state, state);
            assert_eq!(read.meta.unwrap().position, meta.position);
            let file = SafeTensors::deserialize(&bytes).unwrap();
            let mut names: Vec<String> = file.names().into_iter().map(ToOwned::to_owned).collect();
            names.sort_unstable();
            names
        };
        let plain = [
            "features.0.bias",
            "features.1.num_batches_tracked",
            "features.1.running_mean",
            "features.1.running_var",
        ];
        let adam = ["optimizer.exp_avg.features.0.bias", "optimizer.exp_avg_sq.features.0.bias"];
        assert_eq!(names(sample()), [&plain[..], &adam].concat());
        let averages =
            ["average.features.0.bias", "average.features.1.running_mean", "average.features.1.running_var"];
        let sgd = ["optimizer.momentum_buffer.features.0.bias"];
        assert_eq!(names(averaged()), [&averages[..], &plain, &sgd].concat());
        assert_eq!(averaged().1.position.unwrap().last_gradient_norm, Some(0.1));
    }

    #[test]
    fn a_layer_may_be_called_as_what_else_is_kept() {
        let (mut state, meta) = averaged();
        let array = state.parameters["features.0.bias"].clone();
        let average = state.average.as_mut().unwrap();
        let buffers = state.optimizer.as_mut().unwrap().buffers.values_mut();
        for arrays in [&mut state.parameters, &mut average.parameters].into_iter().chain(buffers) {
            for name in ["average.weight", "average.average.bias", "optimizer.momentum_buffer.weight"] {
                arrays.insert(name.to_owned(), array.clone());
            }
        }
        for (optimizer, average) in [(state.optimizer.clone(), state.average.clone()), (None, None)] {
            let state = State { optimizer, average, ..state.clone() };
            assert_eq!(
                decode(&encode(Path::new("x"), Checkpoint::Last, &state, &meta).unwrap()).unwrap().state,
                state
            );
        }
    }

    #[test]
    fn damaged_files_are_refused_in_a_sentence() {
        let (state, meta) = sample();
        let bytes = encode(Path::new("x"), Checkpoint::Last, &state, &meta).unwrap();
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "cut at {len} of {}", bytes.len());
        }
        let mut flipped = bytes.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(decode(&flipped).unwrap_err().contains("its tensors are not those that were written"));
        let mut huge = bytes.clone();
        huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(decode(&huge).is_err());
        for declared in [0, 1, u64::MAX - 8, u64::MAX] {
            assert!(decode(&[&declared.to_le_bytes()[..], b"{}"].concat()).is_err(), "{declared}");
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains("\"F32\""), "{text}");
    }

    /// A file as PyTorch writes it.
    fn file(tensors: &[(&str, Dtype, &[usize], &[u8])]) -> Vec<u8> {
        let views = tensors.iter().map(|(name, dtype, shape, data)| {
            (*name, TensorView::new(*dtype, shape.to_vec(), data).unwrap())
        });
        safetensors::serialize(views, None).unwrap()
    }

    #[test]
    fn what_cannot_be_a_weight_is_named() {
        let float = |value: f32| value.to_le_bytes().to_vec();
        for (name, dtype, data, expected) in [
            ("w.weight", Dtype::I8, vec![0], "`w.weight` is I8, and weights must be F32, F16, BF16 or F64"),
            ("w.weight", Dtype::F32, float(f32::NAN), "`w.weight` holds NaN, and weights must be finite"),
            ("w.bias", Dtype::F32, float(f32::INFINITY), "`w.bias` holds inf, and weights must be finite"),
            ("w.bias", Dtype::F64, 1e300f64.to_le_bytes().to_vec(), "`w.bias` holds inf"),
            ("w.bias", Dtype::F16, vec![0, 0x7e], "`w.bias` holds NaN"),
            ("w.bias", Dtype::BF16, vec![0x80, 0xff], "`w.bias` holds -inf"),
            (
                "w.running_var",
                Dtype::F32,
                float(-1.0),
                "`w.running_var` holds -1, and a variance is not negative",
            ),
            (
                "a.num_batches_tracked",
                Dtype::F32,
                float(0.5),
                "`a.num_batches_tracked` is F32 of shape [1], not one",
            ),
            (
                "a.num_batches_tracked",
                Dtype::I64,
                vec![255; 8],
                "`a.num_batches_tracked` is I64 of shape [1], not one",
            ),
        ] {
            let message = decode(&file(&[(name, dtype, &[1], &data)])).unwrap_err();
            assert!(message.contains(expected), "{expected}: {message}");
        }
        // With several errors, the first by name is reported.
        let nan = float(f32::NAN);
        let names = ["e.weight", "b.weight", "d.weight", "a.weight", "c.weight"];
        let bytes = file(&names.map(|name| (name, Dtype::F32, &[1][..], &nan[..])));
        for _ in 0..20 {
            assert_eq!(decode(&bytes).unwrap_err(), "`a.weight` holds NaN, and weights must be finite");
        }
    }

    #[test]
    fn what_pytorch_would_load_is_loaded() {
        let half = |x: f32| f16::from_f32(x).to_le_bytes().to_vec();
        let brain = |x: f32| bf16::from_f32(x).to_le_bytes().to_vec();
        // Also below any normal number of 16 bits.
        let small = 6.0e-8f32;
        let cases = [
            (Dtype::F16, [half(1.5), half(small), half(-65504.0)].concat(), [1.5, 5.9604645e-8, -65504.0]),
            (Dtype::BF16, [brain(1.5), brain(-3.0e38), brain(0.0)].concat(), [1.5, -3.0040553e38, 0.0]),
            (Dtype::F64, [0.1f64, 1.0, -2.0].map(f64::to_le_bytes).concat(), [0.1, 1.0, -2.0]),
        ];
        for (dtype, data, expected) in cases {
            for prefix in ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.module."] {
                let name = format!("{prefix}features.0.weight");
                let contents = decode(&file(&[(&name, dtype, &[3], &data)])).unwrap();
                let array = &contents.state.parameters["features.0.weight"];
                assert_eq!(array.shape, [3]);
                for (got, expected) in array.values.iter().zip(expected) {
                    assert!((got - expected).abs() <= 1e-3 * expected.abs(), "{dtype:?}: {got}, {expected}");
                }
            }
        }
        let one = 1.0f32.to_le_bytes();
        let contents = decode(&file(&[
            ("epoch", Dtype::I64, &[], &[9, 0, 0, 0, 0, 0, 0, 0]),
            ("best_acc", Dtype::F32, &[1], &one),
            ("features.module.0.bias", Dtype::F32, &[1], &one),
            ("features.1.num_batches_tracked", Dtype::I32, &[], &[7, 0, 0, 0]),
            ("features.4.num_batches_tracked", Dtype::F32, &[], &one),
            ("num_batches_tracked", Dtype::I64, &[], &[9, 0, 0, 0, 0, 0, 0, 0]),
        ]))
        .unwrap();
        assert_eq!(contents.ignored, ["best_acc", "epoch", "num_batches_tracked"]);
        assert_eq!(contents.state.parameters.keys().collect::<Vec<_>>(), ["features.0.bias"]);
        let tracked: Vec<i64> = contents.state.batches_tracked.values().copied().collect();
        assert_eq!(tracked, [7, 1]);
        let twice =
            file(&[("a.weight", Dtype::F32, &[1], &one), ("module.a.weight", Dtype::F32, &[1], &one)]);
        assert!(decode(&twice).unwrap_err().contains("`a.weight` twice"));
    }

    #[test]
    fn names_that_no_parameter_has_are_refused_on_a_line() {
        let long = "x".repeat(2000);
        for name in ["a\nb.weight", "\u{1b}[31m", &long] {
            let error = decode(&file(&[(name, Dtype::F32, &[1], &f32::NAN.to_le_bytes())])).unwrap_err();
            assert!(error.contains("cannot be the name of a parameter: save"), "{error}");
            assert!(error.len() < 300 && !error.contains(char::is_control), "{error}");
        }
        let text = |meta: &str| {
            let meta = HashMap::from([(META_KEY.to_owned(), meta.to_owned())]);
            let one = TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap();
            decode(&safetensors::serialize([("w.weight", one)], Some(meta)).unwrap()).unwrap_err()
        };
        let error = text(&format!("{{\"model\": 3, \"{long}\": \"\\n\"}}"));
        assert!(error.len() < 500 && !error.contains(char::is_control), "{error}");
    }

    #[test]
    fn a_run_that_cannot_have_been_is_refused() {
        let (state, meta) = sample();
        let encoded = |meta: &Meta| encode(Path::new("x"), Checkpoint::Best, &state, meta).unwrap();
        let run = meta.run.clone().unwrap();
        let changed = |run: RunConfig| decode(&encoded(&Meta { run: Some(run), ..meta.clone() }));
        assert!(changed(run.clone()).is_ok());
        let dropout = changed(RunConfig { dropout: 2.0, ..run.clone() }).unwrap_err();
        assert!(dropout.starts_with("its metadata is damaged (") && dropout.contains("dropout"), "{dropout}");
        let recipe = Recipe { batch_size: 0, ..run.recipe.clone() };
        assert!(changed(RunConfig { recipe, ..run.clone() }).unwrap_err().contains("batch-size"));
        let dataset =
            DatasetConfig { shape: [3, 32, 32], classes: Vec::new(), mean: vec![0.5; 3], std: vec![0.0; 3] };
        let dataset = changed(RunConfig { dataset: Some(dataset), ..run }).unwrap_err();
        assert!(dataset.contains("dataset.classes"), "{dataset}");
    }

    #[test]
    fn what_a_file_says_of_itself_is_read_without_the_rest_of_its_header() {
        let (state, meta) = sample();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let bytes = encode(&path, Checkpoint::Last, &state, &meta).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read_meta(&path), decode(&bytes).unwrap().meta);
        // A long header that lists only numbers, and a nested one.
        let header = [&b"{\"a\": ["[..], &b"0,".repeat(1 << 20), b"0]}"].concat();
        for header in [header, b"[".repeat(1 << 20)] {
            std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], &header].concat()).unwrap();
            assert_eq!(read_meta(&path), None);
            assert!(read(&path).unwrap_err().to_string().contains("x.safetensors"));
        }
    }

    #[test]
    fn a_folder_stands_for_its_runs_best_weights() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path();
        let refused = || weights_file(folder).unwrap_err().to_string();
        assert!(refused().contains("is a folder without weights"), "{}", refused());
        std::fs::write(folder.join("model.safetensors"), b"").unwrap();
        assert!(refused().contains("such as model.safetensors"), "{}", refused());
        std::fs::write(folder.join("config.toml"), b"").unwrap();
        assert!(refused().contains("without a checkpoint"), "{}", refused());
        std::fs::create_dir(folder.join("checkpoints")).unwrap();
        std::fs::write(folder.join("checkpoints/last.safetensors"), b"").unwrap();
        assert!(refused().contains("last.safetensors"), "{}", refused());
        std::fs::write(folder.join("checkpoints/best.safetensors"), b"").unwrap();
        assert_eq!(weights_file(folder).unwrap(), folder.join("checkpoints/best.safetensors"));
    }
}
