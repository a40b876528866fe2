//! All parameters side by side, so that the optimizer is one pass over memory.

use pointwise_kernels::{Buffer, OutOfMemory, padded};
use std::ops::Range;

/// Values, gradients and moments of every parameter, each in the layout of the layer that uses it.
///
/// Layouts pad with zeros whose gradients are zero: Adam leaves them zero.
#[derive(Debug)]
pub(super) struct Parameters {
    len: usize,
    pub(super) values: Buffer,
    pub(super) gradients: Buffer,
    pub(super) first: Buffer,
    pub(super) second: Buffer,
}

impl Default for Parameters {
    fn default() -> Self {
        let empty = Buffer::empty;
        Self { len: 0, values: empty(), gradients: empty(), first: empty(), second: empty() }
    }
}

impl Parameters {
    /// A place for `len` floats, on a cache-line boundary.
    pub(super) fn place(&mut self, len: usize) -> Range<usize> {
        let start = self.len;
        self.len += padded(len);
        start..start + len
    }

    /// Allocates all places, with zeros.
    pub(super) fn allocate(&mut self) -> Result<(), OutOfMemory> {
        let all = || Buffer::try_new(self.len);
        (self.values, self.gradients, self.first, self.second) = (all()?, all()?, all()?, all()?);
        Ok(())
    }

    /// Bytes of all places.
    pub(super) fn bytes(&self) -> usize {
        4 * Buffer::bytes_of(self.len)
    }
}
