//! Counter-based random numbers.
//!
//! Every draw of a run is a pure function of `(seed, purpose, stream, index)`: the seed of the run, what the number is for,
//! and where it is used (an epoch and a sample, a step and a layer, ...). Nothing depends on the number of threads, on the
//! order of work or on what was drawn before, so a resumed run needs no generator state and a GPU draws the same numbers as
//! a CPU.
//!
//! The generator is Philox 4x32-10 of Salmon, Moraes, Dror and Shaw, *Parallel random numbers: as easy as 1, 2, 3* (SC 2011),
//! the one that cuRAND, PyTorch and JAX offer as well.
//!
//! ```
//! use pointwise_random::{Purpose, Stream, block, permutation};
//!
//! // Four words for the augmentation of sample 7 in epoch 3.
//! let words = block(42, Purpose::Augment, 3, 7);
//! assert_eq!(words, block(42, Purpose::Augment, 3, 7));
//!
//! // A stream of words is a generator of the `rand` family.
//! use rand_core::Rng;
//! let mut stream = Stream::new(42, Purpose::Synthetic, 0);
//! let _ = stream.next_u64();
//!
//! let order = permutation(42, Purpose::Shuffle, 1, 50_000);
//! assert_eq!(order.len(), 50_000);
//! ```

mod dropout;

pub use dropout::Dropout;

use rand_core::{Infallible, TryRng};

/// What a random number is for. Numbers for different purposes are independent.
///
/// The discriminants are part of the definition of every run: a new purpose takes a new number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Purpose {
    /// Initial values of a parameter; stream: the parameter, index: the element / 4.
    Initialisation = 1,
    /// Order of the training images; stream: the epoch.
    Shuffle = 2,
    /// Crop and flip; stream: the epoch, index: the sample's place in the dataset.
    Augment = 3,
    /// Dropout masks; stream: the step, index: `layer << 32 | element / 4`.
    Dropout = 4,
    /// Choice of the training images that are held out for validation; stream: 0.
    Split = 5,
    /// Synthetic images; stream: the split, or the image.
    Synthetic = 6,
    /// Choice of the training images that become the test set of a folder without one; stream: the class.
    TestSplit = 7,
}

/// Four independent words, uniform over `u32`, for one place of use.
#[must_use]
#[inline]
pub fn block(seed: u64, purpose: Purpose, stream: u32, index: u64) -> [u32; 4] {
    philox4x32_10(
        [index as u32, (index >> 32) as u32, stream, purpose as u32],
        [seed as u32, (seed >> 32) as u32],
    )
}

/// Philox 4x32 with ten rounds: the bijection of the counter under the key.
#[must_use]
#[inline]
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    // Multipliers and Weyl increments from the paper's Table 2 and section 3.4.
    const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const INCREMENTS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(INCREMENTS[0]), key[1].wrapping_add(INCREMENTS[1])];
        }
        let [c0, c1, c2, c3] = counter;
        let p0 = MULTIPLIERS[0] * u64::from(c0);
        let p1 = MULTIPLIERS[1] * u64::from(c2);
        counter = [(p1 >> 32) as u32 ^ c1 ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ c3 ^ key[1], p0 as u32];
    }
    counter
}

/// Maps a word to `[0, 1)`, in steps of 2^-24: every value is exact in `f32`.
#[must_use]
#[inline]
pub fn unit_f32(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / (1 << 24) as f32)
}

/// Maps a word to `0..bound` by the high half of the product (Lemire 2019).
///
/// Without rejection, so that one word is always enough: a value's probability is off by at most 2^-32.
#[must_use]
#[inline]
pub fn below(word: u32, bound: u32) -> u32 {
    ((u64::from(word) * u64::from(bound)) >> 32) as u32
}

/// A random order of `0..len` (Fisher-Yates, from the last place down), one word per place.
#[must_use]
pub fn permutation(seed: u64, purpose: Purpose, stream: u32, len: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..len).collect();
    let mut words = Stream::new(seed, purpose, stream);
    for last in (1..len).rev() {
        order.swap(last as usize, below(words.word(), last + 1) as usize);
    }
    order
}

/// The words of consecutive blocks, from index 0 on, as a generator of the `rand` family.
#[derive(Debug, Clone)]
pub struct Stream {
    seed: u64,
    purpose: Purpose,
    stream: u32,
    next_index: u64,
    buffer: [u32; 4],
    used: usize,
}

impl Stream {
    /// Starts at index 0.
    #[must_use]
    pub fn new(seed: u64, purpose: Purpose, stream: u32) -> Self {
        Self { seed, purpose, stream, next_index: 0, buffer: [0; 4], used: 4 }
    }

    /// The next word.
    #[inline]
    pub fn word(&mut self) -> u32 {
        if self.used == 4 {
            self.buffer = block(self.seed, self.purpose, self.stream, self.next_index);
            self.next_index += 1;
            self.used = 0;
        }
        self.used += 1;
        self.buffer[self.used - 1]
    }
}

impl TryRng for Stream {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.word())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        rand_core::utils::next_u64_via_u32(self)
    }

    fn try_fill_bytes(&mut self, destination: &mut [u8]) -> Result<(), Infallible> {
        rand_core::utils::fill_bytes_via_next_word(destination, || self.try_next_u32())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::Rng;

    /// Known answers published with the reference implementation (Random123, `kat_vectors`, philox4x32 10).
    #[test]
    fn known_answers() {
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32_10(counter, key), expected, "counter {counter:x?}");
        }
    }

    #[test]
    fn every_part_of_the_place_matters() {
        let base = block(42, Purpose::Augment, 3, 7);
        for other in [
            block(43, Purpose::Augment, 3, 7),
            block(42 + (1 << 32), Purpose::Augment, 3, 7),
            block(42, Purpose::Dropout, 3, 7),
            block(42, Purpose::Augment, 4, 7),
            block(42, Purpose::Augment, 3, 8),
            block(42, Purpose::Augment, 3, 7 + (1 << 32)),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn unit_is_half_open_and_exact() {
        assert_eq!(unit_f32(0), 0.0);
        assert_eq!(unit_f32(255), 0.0);
        assert_eq!(unit_f32(256), 2f32.powi(-24));
        assert_eq!(unit_f32(u32::MAX), 1.0 - 2f32.powi(-24));
    }

    #[test]
    fn below_covers_its_range_evenly() {
        let mut counts = [0u32; 9];
        let mut words = Stream::new(1, Purpose::Augment, 0);
        for _ in 0..90_000 {
            counts[below(words.word(), 9) as usize] += 1;
        }
        // Six standard deviations of a binomial with n = 90,000 and p = 1/9 around its mean of 10,000.
        const SPREAD: u32 = 6 * 95;
        for count in counts {
            assert!(count.abs_diff(10_000) < SPREAD, "{counts:?}");
        }
    }

    #[test]
    fn permutation_is_one_and_depends_on_the_epoch() {
        for len in [0, 1, 2, 3, 1000] {
            let order = permutation(42, Purpose::Shuffle, 1, len);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..len).collect::<Vec<_>>());
        }
        assert_ne!(permutation(42, Purpose::Shuffle, 1, 1000), permutation(42, Purpose::Shuffle, 2, 1000));
    }

    #[test]
    fn stream_yields_the_blocks_in_order() {
        let mut stream = Stream::new(5, Purpose::Synthetic, 9);
        let words: Vec<u32> = (0..8).map(|_| stream.next_u32()).collect();
        assert_eq!(words[..4], block(5, Purpose::Synthetic, 9, 0));
        assert_eq!(words[4..], block(5, Purpose::Synthetic, 9, 1));
    }
}
