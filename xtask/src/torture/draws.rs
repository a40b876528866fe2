//! Random numbers from a seed, so that the same moments can be aimed at again.

use std::time::Duration;

/// SplitMix64.
#[derive(Debug)]
pub(super) struct Draws(u64);

impl Draws {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// Uniform in [0, 1).
    pub(super) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True with this probability.
    pub(super) fn chance(&mut self, share: f64) -> bool {
        self.fraction() < share
    }

    /// Up to `longest`.
    pub(super) fn duration(&mut self, longest: Duration) -> Duration {
        longest.mul_f64(self.fraction())
    }

    /// One of several, of which there is at least one.
    pub(super) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[(self.fraction() * choices.len() as f64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_the_seeds_and_cover_their_range() {
        let draw = |seed| {
            let mut draws = Draws::new(seed);
            (0..1000).map(|_| draws.fraction()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let mean = draw(1).iter().sum::<f64>() / 1000.0;
        assert!((mean - 0.5).abs() < 0.05, "{mean}");
        assert!(draw(3).iter().all(|value| (0.0..1.0).contains(value)));
        let mut draws = Draws::new(4);
        let mut seen = [false; 3];
        (0..100).for_each(|_| seen[draws.one_of(&[0, 1, 2])] = true);
        assert_eq!(seen, [true; 3]);
        assert!(draws.duration(Duration::from_secs(2)) < Duration::from_secs(2));
    }
}
