//! Access to tensors' floats.

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, StorageRef, Tensor, Var, bail};
use std::cell::Cell;
use std::ops::{Deref, Range};

/// Whether the kernels can take all of these: f32 on the CPU.
pub(crate) fn native<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> bool {
    tensors.into_iter().all(|tensor| tensor.dtype() == DType::F32 && tensor.device().is_cpu())
}

/// The elements of a contiguous f32 tensor on the CPU.
pub(crate) fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    Ok(&storage.as_slice::<f32>()?[range(layout)?])
}

fn range(layout: &Layout) -> Result<Range<usize>> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(from..to),
        None => bail!("a contiguous tensor is needed"),
    }
}

/// The elements of a contiguous f32 tensor on the CPU, locked against writing.
pub(crate) struct Elements<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> Elements<'a> {
    pub(crate) fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let range = range(layout)?;
        match &*storage {
            Storage::Cpu(CpuStorage::F32(_)) => Ok(Self { storage, range }),
            _ => bail!("a tensor of f32 on the CPU is needed"),
        }
    }
}

impl Deref for Elements<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            // Checked in `of`, and nothing changes it under the lock.
            _ => &[],
        }
    }
}

/// Runs `work` on the elements of a variable, in place.
pub(crate) fn with_elements(var: &Var, work: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<()> {
    var.inplace_op1(&InPlace(Cell::new(Some(work))))
}

struct InPlace<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut [f32]) -> Result<()>> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "pointwise-in-place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match (storage, self.0.take()) {
            (CpuStorage::F32(values), Some(work)) => work(&mut values[range(layout)?]),
            _ => bail!("a tensor of f32 on the CPU is needed"),
        }
    }
}

/// Partial sums that are kept apart: enough for every vector width, and so many that no addition waits for the previous one.
const LANES: usize = 16;

/// The sum of `value(i)` over the elements of `a` and `b`, slices of equal length, in `f32` by lanes and then in `f64`.
pub(crate) fn sum_by_lanes(a: &[f32], b: &[f32], value: impl Fn(f32, f32) -> f32) -> f64 {
    let (a_rows, a_rest) = a.as_chunks::<LANES>();
    let (b_rows, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a_rows.iter().zip(b_rows) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += value(*a, *b);
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane += value(*a, *b);
    }
    lanes.iter().map(|lane| f64::from(*lane)).sum()
}

/// The sum of a slice: see [`sum_by_lanes`].
pub(crate) fn sum(values: &[f32]) -> f64 {
    sum_by_lanes(values, values, |value, _| value)
}
