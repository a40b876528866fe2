//! How large a description may be: far beyond any small network, yet small enough that products of a few sizes fit their types.

/// The largest number of layers, sequences, compositions and branches, repetitions included: with nested repetitions, a few bytes of text could
/// exhaust memory.
pub(crate) const MAX_PARTS: usize = 10_000;

/// How deeply sequences and compositions may be nested: as deeply as the TOML parser goes with three arrays and tables for each.
pub(crate) const MAX_DEPTH: usize = 24;

/// The longest name of a layer. It is part of the path of everything in it.
pub(crate) const MAX_NAME: usize = 64;

/// The largest number of channels or features, kernel side, stride, padding and map side that a description may have: far beyond any small
/// network, yet small enough that products of a few of them fit their types.
pub const MAX_SIZE: usize = 1 << 16;

/// The largest number of values of one layer's output for one image.
pub const MAX_VALUES: usize = 1 << 31;

/// The longest name of a network.
pub(crate) const MAX_NETWORK_NAME: usize = 64;
