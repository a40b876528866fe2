//! How long-running work reports its progress.

/// What the progress of a piece of work is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of files.
    Bytes,
    /// Images.
    Images,
}

/// Receives the progress of long work: reading, downloading, unpacking, drawing.
///
/// One piece of work runs at a time: [`start`](Progress::start), any number of [`advance`](Progress::advance) and
/// [`note`](Progress::note), [`finish`](Progress::finish). Work that ends in an error is not finished; the next `start`
/// replaces it.
pub trait Progress: Send + Sync {
    /// Work `what` ("reading CIFAR-10", ...) begins; `total` is its size in `unit`s, if known.
    fn start(&self, what: &str, total: Option<u64>, unit: Unit);

    /// This much of the work is done, in that unit; it may fall back when a download starts again.
    fn advance(&self, position: u64);

    /// The work is done.
    fn finish(&self);

    /// One sentence for the user: an address that is tried, or why one failed.
    fn note(&self, message: &str);
}

/// Progress that nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn start(&self, _what: &str, _total: Option<u64>, _unit: Unit) {}

    fn advance(&self, _position: u64) {}

    fn finish(&self) {}

    fn note(&self, _message: &str) {}
}
