//! Memory for one call of a convolution.

use crate::memory::{Buffer, OutOfMemory};

/// Memory for what lives no longer than one call, shared by all convolutions of a network.
#[derive(Debug)]
pub struct Workspace {
    pub(crate) shared: Buffer,
    pub(crate) workers: Vec<Buffer>,
}

impl Workspace {
    /// Room for every one of `needs`, with as many workers as the current rayon pool has threads.
    ///
    /// # Panics
    /// When there is not enough memory: see [`Workspace::try_new`].
    #[must_use]
    pub fn new(needs: impl IntoIterator<Item = WorkspaceNeed>) -> Self {
        Self::try_new(needs).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`Workspace::new`].
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn try_new(needs: impl IntoIterator<Item = WorkspaceNeed>) -> Result<Self, OutOfMemory> {
        let need = WorkspaceNeed::largest(needs);
        let worker = |_| Buffer::try_new(need.worker);
        let workers = (0..rayon::current_num_threads()).map(worker).collect::<Result<_, _>>()?;
        Ok(Self { shared: Buffer::try_new(need.shared)?, workers })
    }

    /// Bytes that a workspace for every one of `needs` takes.
    #[must_use]
    pub fn bytes_of(needs: impl IntoIterator<Item = WorkspaceNeed>) -> usize {
        let need = WorkspaceNeed::largest(needs);
        let workers = rayon::current_num_threads().saturating_mul(Buffer::bytes_of(need.worker));
        workers.saturating_add(Buffer::bytes_of(need.shared))
    }

    pub(crate) fn check(&self, need: WorkspaceNeed) {
        let worker = self.workers.iter().map(|worker| worker.len()).min().unwrap_or(0);
        assert!(
            self.shared.len() >= need.shared && worker >= need.worker,
            "the workspace was not made for this convolution and so many images"
        );
    }
}

/// Floats of [`Workspace`] that a call needs.
#[derive(Debug, Clone, Copy, Default)]
pub struct WorkspaceNeed {
    pub(crate) shared: usize,
    pub(crate) worker: usize,
}

impl WorkspaceNeed {
    fn largest(needs: impl IntoIterator<Item = Self>) -> Self {
        needs.into_iter().fold(Self::default(), |a, b| Self {
            shared: a.shared.max(b.shared),
            worker: a.worker.max(b.worker),
        })
    }
}

/// Cuts `slice` into consecutive parts of these lengths.
pub(crate) fn carve<const N: usize>(mut slice: &mut [f32], lengths: [usize; N]) -> [&mut [f32]; N] {
    lengths.map(|length| {
        let (part, rest) = std::mem::take(&mut slice).split_at_mut(length);
        slice = rest;
        part
    })
}

/// Rounds a length up to whole cache lines, so that carved parts begin on one.
pub(crate) const fn aligned(len: usize) -> usize {
    len.next_multiple_of(16)
}
