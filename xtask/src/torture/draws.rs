//! Random numbers from a seed, so that the same moments can be aimed at again.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::SmallRng};

/// A generator whose sequence the seed determines.
#[derive(Debug)]
pub(super) struct Draws(SmallRng);

impl Draws {
    pub(super) fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// Uniform in [0, 1).
    pub(super) fn fraction(&mut self) -> f64 {
        self.0.random()
    }

    /// True with this probability.
    pub(super) fn chance(&mut self, share: f64) -> bool {
        self.0.random_bool(share)
    }

    /// Up to `longest`.
    pub(super) fn duration(&mut self, longest: Duration) -> Duration {
        longest.mul_f64(self.fraction())
    }

    /// One of several, of which there is at least one.
    pub(super) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.0.random_range(..choices.len())]
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
