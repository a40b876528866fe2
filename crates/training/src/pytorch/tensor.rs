//! A tensor of a pickle: a view of a storage, of which a row-major copy is made.

use super::files::{Storages, dtype_of};
use candle_core::pickle::Object;
use pointwise_weights::dictionary::{Dtype, Tensor, shown};

/// More dimensions than any parameter has.
const MAX_DIMS: usize = 8;

/// A function that torch.save writes in front of its arguments.
fn called(object: &Object) -> Option<(&str, &str, &[Object])> {
    let Object::Reduce { callable, args } = object else { return None };
    match (&**callable, &**args) {
        (Object::Class { module_name, class_name }, Object::Tuple(arguments)) => {
            Some((module_name, class_name, arguments))
        }
        _ => None,
    }
}

/// Whether an object is a tensor of any kind.
pub(super) fn is_tensor(object: &Object) -> bool {
    called(object).is_some_and(|(module, function, _)| {
        matches!(module, "torch._utils" | "torch._tensor") && function.starts_with("_rebuild_")
    })
}

/// A view of a storage.
struct Layout<'a> {
    dtype: Dtype,
    key: &'a str,
    /// Elements that the storage has.
    len: usize,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

/// A copy of a tensor, row-major. `left` is how many more elements may be copied.
///
/// # Errors
/// A sentence naming the tensor, and what is wrong with it.
pub(super) fn copy(
    name: &str,
    object: &Object,
    storages: &mut Storages<'_>,
    left: &mut usize,
) -> Result<Tensor<'static>, String> {
    let Layout { dtype, key, len, offset, shape, strides } = layout(name, object)?;
    let size = dtype.bitsize() / 8;
    let storage = storages.get(key)?;
    if len.checked_mul(size) != Some(storage.len()) {
        return Err(format!(
            "it is damaged (the storage of `{name}` has {} bytes, not {len} values of {size}): fetch the file itself again",
            storage.len()
        ));
    }
    let count = shape.iter().try_fold(1usize, |count, size| count.checked_mul(*size));
    let count = count.and_then(|count| left.checked_sub(count).map(|rest| (count, rest)));
    let Some((count, rest)) = count else {
        return Err(format!(
            "its tensors up to `{name}`, of shape {shape:?}, have more values than the file has bytes: save contiguous copies"
        ));
    };
    *left = rest;
    if count == 0 {
        return Ok(Tensor { dtype, shape, data: Vec::new().into() });
    }
    let furthest = shape
        .iter()
        .zip(&strides)
        .try_fold(offset, |place, (size, stride)| place.checked_add((size - 1).checked_mul(*stride)?));
    if furthest.is_none_or(|furthest| furthest >= len) {
        return Err(format!(
            "it is damaged (`{name}` reaches beyond its storage of {len} values): fetch the file itself again"
        ));
    }
    let mut data = Vec::with_capacity(count * size);
    if is_contiguous(&shape, &strides) {
        data.extend_from_slice(&storage[offset * size..][..count * size]);
    } else {
        let mut index = vec![0; shape.len()];
        let mut place = offset;
        for _ in 0..count {
            data.extend_from_slice(&storage[place * size..][..size]);
            for dim in (0..shape.len()).rev() {
                index[dim] += 1;
                place += strides[dim];
                if index[dim] < shape[dim] {
                    break;
                }
                place -= strides[dim] * shape[dim];
                index[dim] = 0;
            }
        }
    }
    Ok(Tensor { dtype, shape, data: data.into() })
}

/// Whether elements are contiguous, row-major; the stride of a dimension of size 1 does not count.
fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(size, stride)| {
        let is_next = *size == 1 || *stride == expected;
        expected *= size;
        is_next
    })
}

/// What the pickle says of a tensor.
fn layout<'a>(name: &str, object: &'a Object) -> Result<Layout<'a>, String> {
    let damaged =
        || format!("it is damaged (`{name}` is not described as a tensor): fetch the file itself again");
    let (module, function, arguments) = called(object).ok_or_else(damaged)?;
    let (module, function, arguments) = match (module, function, arguments) {
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state", [inner, ..]) => {
            called(inner).ok_or_else(damaged)?
        }
        // A tensor with attributes: the function, the class, and what the function is called with.
        (
            "torch._tensor",
            "_rebuild_from_type_v2",
            [Object::Class { module_name, class_name }, _, Object::Tuple(arguments), ..],
        ) => (module_name.as_str(), class_name.as_str(), &arguments[..]),
        plain => plain,
    };
    if (module, function) != ("torch._utils", "_rebuild_tensor_v2") {
        return Err(format!(
            "`{name}` is not a plain tensor (it is made by `{}`): save a dense copy in float32",
            shown(&format!("{module}.{function}"))
        ));
    }
    let [Object::PersistentLoad(id), offset, shape, strides, ..] = arguments else { return Err(damaged()) };
    let Object::Tuple(id) = &**id else { return Err(damaged()) };
    let [_, Object::Class { class_name, .. }, Object::Unicode(key), _, len, view @ ..] = &id[..] else {
        return Err(damaged());
    };
    if !matches!(view, [] | [Object::None]) {
        return Err(format!(
            "`{name}` is a view of a storage as PyTorch before 0.4 saved it: load and save it again"
        ));
    }
    let dtype = dtype_of(class_name).ok_or_else(|| {
        format!("`{name}` is of a `{}`, and weights must be F32, F16, BF16 or F64", shown(class_name))
    })?;
    let [shape, strides] = [shape, strides].map(|object| match object {
        Object::Tuple(parts) if parts.len() <= MAX_DIMS => {
            parts.iter().map(number).collect::<Option<Vec<_>>>()
        }
        _ => None,
    });
    let layout = (number(offset), number(len), shape, strides);
    let (Some(offset), Some(len), Some(shape), Some(strides)) = layout else { return Err(damaged()) };
    if shape.len() != strides.len() {
        return Err(damaged());
    }
    Ok(Layout { dtype, key, len, offset, shape, strides })
}

fn number(object: &Object) -> Option<usize> {
    match object {
        Object::Int(number) => usize::try_from(*number).ok(),
        Object::Long(number) => usize::try_from(*number).ok(),
        _ => None,
    }
}
