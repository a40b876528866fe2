//! A `state_dict`: tensors by PyTorch's names, as a file holds them, and their conversion to a [`State`].
//!
//! Files that PyTorch loads as equal are equal here, whatever their format: numbers of another precision are converted, what wrappers of modules
//! add to names is removed, and a single number that is not a parameter is kept apart.

use crate::{Array, Average, OptimizerState, State};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

pub use safetensors::tensor::Dtype;

/// The prefix of the names of the optimizer's buffers.
pub(crate) const OPTIMIZER: &str = "optimizer.";

/// The prefix of the names of averages.
pub(crate) const AVERAGE: &str = "average.";

const BATCHES_TRACKED: &str = ".num_batches_tracked";
const STATISTICS: [&str; 2] = [".running_mean", ".running_var"];

/// A tensor as a file holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor<'a> {
    /// The type of its values.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, as many as the shape requires.
    pub data: Data<'a>,
}

/// The values of a [`Tensor`], row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum Data<'a> {
    /// Of any type, little-endian.
    Bytes(Cow<'a, [u8]>),
    /// Of the type [`Dtype::F32`], in the machine's byte order.
    Floats(Vec<f32>),
}

impl Data<'_> {
    /// The bytes of the values, little-endian.
    pub(crate) fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Bytes(bytes) => bytes.as_ref().into(),
            Self::Floats(values) => little_endian(values),
        }
    }
}

impl From<Vec<u8>> for Data<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl<'a> From<TensorView<'a>> for Tensor<'a> {
    fn from(view: TensorView<'a>) -> Self {
        Self { dtype: view.dtype(), shape: view.shape().to_vec(), data: Data::Bytes(view.data().into()) }
    }
}

/// The bytes of values in a file.
pub(crate) fn little_endian(values: &[f32]) -> Cow<'_, [u8]> {
    if cfg!(target_endian = "little") {
        bytemuck::cast_slice(values).into()
    } else {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
}

/// Tensors by name.
///
/// # Errors
/// A sentence naming the first duplicate name, which may arise when wrappers are removed.
pub fn unique<'a>(
    tensors: impl IntoIterator<Item = (String, Tensor<'a>)>,
) -> Result<BTreeMap<String, Tensor<'a>>, String> {
    let mut sorted = BTreeMap::new();
    for (name, tensor) in tensors {
        if sorted.contains_key(&name) {
            return Err(format!("it has `{name}` twice, from a wrapped and from a plain module"));
        }
        sorted.insert(name, tensor);
    }
    Ok(sorted)
}

/// The state that these tensors form, and the names of single numbers that are not parameters. `step` is the optimizer's count of steps, needed
/// if its buffers are among them.
///
/// # Errors
/// A sentence naming the first tensor that cannot be a weight: of another type, with values that are not finite, with a negative
/// variance; or saying that there is an optimizer's state without a count of its steps.
pub fn state(
    tensors: BTreeMap<String, Tensor<'_>>,
    step: Option<u64>,
) -> Result<(State, Vec<String>), String> {
    let mut state = State::default();
    let mut optimizer = OptimizerState::default();
    let mut average = Average::default();
    let mut ignored = Vec::new();
    let names: BTreeSet<String> = tensors.keys().cloned().collect();
    for (name, tensor) in tensors {
        if name.ends_with(BATCHES_TRACKED) {
            let count = count(&name, tensor)?;
            state.batches_tracked.insert(name, count);
        } else if is_lone_number(&name, &tensor) {
            ignored.push(name);
        } else {
            let array = float_array(&name, tensor)?;
            let is_statistic = STATISTICS.iter().any(|suffix| name.ends_with(suffix));
            // The tensors of a layer called `average` or `optimizer` are not the average or buffer of any other tensor.
            let is_there = |of: &&str| names.contains(*of);
            let buffer = name.strip_prefix(OPTIMIZER).and_then(|rest| rest.split_once('.'));
            let (name, arrays) = if let Some((buffer, of)) = buffer.filter(|(_, of)| is_there(of)) {
                (of, optimizer.buffers.entry(buffer.to_owned()).or_default())
            } else if let Some(of) = name.strip_prefix(AVERAGE).filter(is_there) {
                (of, if is_statistic { &mut average.statistics } else { &mut average.parameters })
            } else {
                (name.as_str(), if is_statistic { &mut state.statistics } else { &mut state.parameters })
            };
            arrays.insert(name.to_owned(), array);
        }
    }
    if !optimizer.buffers.is_empty() {
        optimizer.step = step.ok_or("it has an optimizer's state but no count of its steps")?;
        state.optimizer = Some(optimizer);
    }
    state.average = (average != Average::default()).then_some(average);
    Ok((state, ignored))
}

/// Whether a text can be a parameter's name. Messages about a tensor name it, on one line.
#[must_use]
pub fn is_name(text: &str) -> bool {
    /// In bytes; the names of any network are shorter.
    const MOST: usize = 1024;
    text.len() <= MOST && !text.contains(char::is_control)
}

/// A text of the file on one line, and not too long.
#[must_use]
pub fn shown(text: &str) -> String {
    const SHOWN: usize = 100;
    let mut start: String = text.chars().take(SHOWN).collect();
    if start.len() < text.len() {
        start.push_str("...");
    }
    start.escape_debug().to_string()
}

/// A parameter's name without the parts that PyTorch's wrappers of modules add, at any level.
#[must_use]
pub fn without_wrappers(name: &str) -> String {
    const WRAPPERS: [&str; 4] = ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];
    let parts: Vec<&str> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    parts.join(".")
}

/// Whether a tensor is a single number that is not a parameter of a layer: an epoch, a step, an accuracy.
fn is_lone_number(name: &str, tensor: &Tensor<'_>) -> bool {
    const OF_LAYERS: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];
    let last = name.rsplit('.').next().unwrap_or(name);
    tensor.shape.iter().product::<usize>() <= 1 && !OF_LAYERS.contains(&last)
}

/// The values as `f32`.
fn float_array(name: &str, Tensor { dtype, shape, data }: Tensor<'_>) -> Result<Array, String> {
    let values: Vec<f32> = match data {
        Data::Floats(values) => values,
        Data::Bytes(data) => match dtype {
            Dtype::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            Dtype::F64 => data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect(),
            Dtype::F16 => {
                data.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()
            }
            Dtype::BF16 => {
                data.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()
            }
            other => return Err(format!("`{name}` is {other:?}, and weights must be F32, F16, BF16 or F64")),
        },
    };
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        return Err(format!("`{name}` holds {value}, and weights must be finite"));
    }
    if name.ends_with(".running_var")
        && let Some(value) = values.iter().find(|value| **value < 0.0)
    {
        return Err(format!("`{name}` holds {value}, and a variance is not negative"));
    }
    Ok(Array { shape, values })
}

/// One whole number from 0 up, of any type.
fn count(name: &str, tensor: Tensor<'_>) -> Result<i64, String> {
    let wrong = format!("`{name}` is {:?} of shape {:?}, not one whole number", tensor.dtype, tensor.shape);
    let value = match tensor.dtype {
        Dtype::I64 => tensor.data.bytes().as_ref().try_into().ok().map(i64::from_le_bytes),
        Dtype::I32 => {
            tensor.data.bytes().as_ref().try_into().ok().map(|bytes| i32::from_le_bytes(bytes).into())
        }
        Dtype::F32 | Dtype::F64 | Dtype::F16 | Dtype::BF16 => match float_array(name, tensor)?.values[..] {
            [value] if value.fract() == 0.0 => Some(value as i64),
            _ => None,
        },
        _ => None,
    };
    value.filter(|value| *value >= 0).ok_or(wrong)
}
