//! Batches, and running totals over them.

use crate::error::EngineError;

/// Images and their labels, in host memory.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// `(N, C, H, W)` f32, normalised; its length is `N` times the network's input.
    pub images: &'a [f32],
    /// `N` class numbers, each below the network's number of classes.
    pub labels: &'a [u16],
}

/// Sums over the batches since [`Engine::set_totals`](crate::Engine::set_totals).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Totals {
    /// Sum over batches of mean loss times batch size, in nats.
    pub loss_sum: f64,
    /// Images whose largest logit (the first of equals) is the label's.
    pub correct: u64,
    /// Images seen.
    pub samples: u64,
    /// Mean loss of the newest batch, in nats.
    pub last_loss: f64,
    /// With `clip_norm`, the joint L2 norm of all gradients of the newest training step, before clipping.
    pub last_gradient_norm: Option<f64>,
}

impl Totals {
    /// Adds a batch.
    pub fn add(&mut self, mean_loss: f64, correct: u64, samples: u64) {
        self.loss_sum += mean_loss * samples as f64;
        self.correct += correct;
        self.samples += samples;
        self.last_loss = mean_loss;
    }

    /// Loss per image, in nats; NaN when no image was seen.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.samples as f64
    }

    /// Fraction of correct images, 0 to 1; NaN when no image was seen.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.samples as f64
    }
}

/// Number of rows of `(N, classes)` logits whose first largest value is the label's.
#[must_use]
pub fn count_correct(logits: &[f32], labels: &[u16], classes: usize) -> u64 {
    logits
        .chunks_exact(classes)
        .zip(labels)
        .filter(|(row, label)| {
            let mut best = 0;
            for (class, value) in row.iter().enumerate() {
                if *value > row[best] {
                    best = class;
                }
            }
            best == usize::from(**label)
        })
        .count() as u64
}

/// Checks that a batch fits `input` and `classes` and returns its number of images.
///
/// # Errors
/// [`EngineError::Batch`], saying what does not fit.
pub(crate) fn check_batch(batch: Batch<'_>, input: [usize; 3], classes: usize) -> Result<usize, EngineError> {
    let image: usize = input.iter().product();
    let n = batch.labels.len();
    if n == 0 || batch.images.len() != n * image {
        return Err(EngineError::Batch(format!(
            "{n} labels came with {} image values, {image} per image",
            batch.images.len()
        )));
    }
    match batch.labels.iter().position(|label| usize::from(*label) >= classes) {
        Some(place) => Err(EngineError::Batch(format!(
            "label {} of image {place} is not one of the {classes} classes",
            batch.labels[place]
        ))),
        None => Ok(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_logits_counts() {
        let logits = [0.0, 1.0, 1.0, 3.0, 2.0, 1.0];
        assert_eq!(count_correct(&logits, &[1, 0], 3), 2);
        assert_eq!(count_correct(&logits, &[2, 1], 3), 0);
    }

    #[test]
    fn totals_weigh_batches_by_size() {
        let mut totals = Totals::default();
        totals.add(2.0, 1, 3);
        totals.add(1.0, 1, 1);
        assert_eq!(totals.loss(), 1.75);
        assert_eq!(totals.accuracy(), 0.5);
        assert_eq!(totals.last_loss, 1.0);
    }

    #[test]
    fn batches_that_do_not_fit_are_refused() {
        let images = vec![0.0; 2 * 12];
        let cases: [(&[f32], &[u16], &str); 4] = [
            (&images, &[0], "1 labels came with 24 image values, 12 per image"),
            (&images[..23], &[0, 1], "2 labels came with 23 image values, 12 per image"),
            (&[], &[], "0 labels came with 0 image values, 12 per image"),
            (&images, &[0, 10], "label 10 of image 1 is not one of the 10 classes"),
        ];
        for (images, labels, expected) in cases {
            let error = check_batch(Batch { images, labels }, [3, 2, 2], 10).unwrap_err();
            assert_eq!(error.to_string(), format!("a batch does not fit the network: {expected}"));
        }
        assert_eq!(check_batch(Batch { images: &images, labels: &[0, 9] }, [3, 2, 2], 10).unwrap(), 2);
    }
}
