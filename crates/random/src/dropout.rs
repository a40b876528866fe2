//! Dropout's draws: the same on every engine.

use crate::{Purpose, block, unit_f32};

/// Where a dropout mask is used: the same place draws the same mask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability of zeroing an element, in `[0, 1)`.
    pub p: f64,
    /// Seed of the run.
    pub seed: u64,
    /// Training step, from 0.
    pub step: u64,
    /// Number of the dropout layer in its network, from 0.
    pub layer: u32,
}

impl Dropout {
    /// Fills in the factors, 0 or `1 / (1 - p)`, of the elements from number `first` on, counted through the batch in `(N, C, H, W)` order.
    ///
    /// Element `i` is kept when word `i % 4` of block `layer << 32 | i / 4` of stream `step`, as a number in `[0, 1)`, is at least
    /// `p`.
    pub fn factors(&self, first: usize, factors: &mut [f32]) {
        let scale = (1.0 / (1.0 - self.p)) as f32;
        let threshold = self.p as f32;
        let factor = |word: u32| if unit_f32(word) >= threshold { scale } else { 0.0 };
        let words = |group: usize| {
            let index = u64::from(self.layer) << 32 | group as u64;
            block(self.seed, Purpose::Dropout, self.step as u32, index)
        };
        let head = (first.next_multiple_of(4) - first).min(factors.len());
        let (begin, rest) = factors.split_at_mut(head);
        for (i, target) in begin.iter_mut().enumerate() {
            *target = factor(words(first / 4)[(first + i) % 4]);
        }
        for (i, targets) in rest.chunks_mut(4).enumerate() {
            for (target, word) in targets.iter_mut().zip(words((first + head) / 4 + i)) {
                *target = factor(word);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Dropout = Dropout { p: 0.3, seed: 42, step: 7, layer: 2 };

    fn factors(place: Dropout, len: usize) -> Vec<f32> {
        let mut factors = vec![f32::NAN; len];
        place.factors(0, &mut factors);
        factors
    }

    #[test]
    fn draws_depend_on_the_place_alone() {
        let whole = factors(PLACE, 1003);
        let scale = (1.0f64 / 0.7) as f32;
        for (i, factor) in whole.iter().enumerate() {
            let word = block(42, Purpose::Dropout, 7, 2 << 32 | (i / 4) as u64)[i % 4];
            assert_eq!(*factor, if unit_f32(word) >= 0.3 { scale } else { 0.0 }, "{i}");
        }
        // In whatever pieces.
        for (first, len) in [(0, 1), (1, 2), (3, 1), (2, 9), (501, 502), (4, 4), (1003, 0)] {
            let mut part = vec![f32::NAN; len];
            PLACE.factors(first, &mut part);
            assert_eq!(part, whole[first..first + len], "{first}");
        }
        for other in
            [Dropout { step: 8, ..PLACE }, Dropout { layer: 0, ..PLACE }, Dropout { seed: 43, ..PLACE }]
        {
            assert_ne!(factors(other, 64), whole[..64], "{other:?}");
        }
    }

    #[test]
    fn the_share_kept_is_that_asked_for() {
        let len = 100_001;
        for p in [0.1, 0.5, 0.9] {
            let factors = factors(Dropout { p, ..PLACE }, len);
            let kept = factors.iter().filter(|factor| **factor != 0.0).count() as f64;
            // Six standard deviations of the binomial.
            let tolerance = 6.0 * (len as f64 * p * (1.0 - p)).sqrt();
            assert!((kept - len as f64 * (1.0 - p)).abs() < tolerance, "{kept} of {len} kept at {p}");
            assert!(factors.iter().all(|factor| *factor == 0.0 || *factor == (1.0 / (1.0 - p)) as f32));
        }
    }
}
