//! Test-time augmentation.

use crate::TrainingError;
use pointwise_data::{Images, Normalisation, view_batches};
use pointwise_engine::{Engine, Totals};
use pointwise_recipe::TestTimeAugmentation;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Loss and accuracy by the mean of each image's logits over its views, taken in f64 and in the order of the views; `None` if `stop`
/// was set meanwhile. Changes nothing in the engine; `evaluating` gets the number of images done, and their total.
pub(crate) fn evaluate_views(
    engine: &mut dyn Engine,
    images: &Arc<Images>,
    normalisation: &Normalisation,
    batch_size: usize,
    views: TestTimeAugmentation,
    stop: &AtomicBool,
    mut evaluating: impl FnMut(usize, usize),
) -> Result<Option<Totals>, TrainingError> {
    let all = views.views();
    let (mut done, total) = (0, all.len() * images.len());
    let mut means = Vec::new();
    for view in all {
        let mut first = 0;
        let mut prepared = view_batches(images, batch_size, normalisation, views, view)?;
        while let Some(batch) = prepared.next() {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let logits = engine.logits(&batch.images)?;
            let end = first + logits.len();
            if means.len() < end {
                means.resize(end, 0.0);
            }
            for (mean, logit) in means[first..end].iter_mut().zip(&logits) {
                *mean += view.weight * f64::from(*logit);
            }
            first = end;
            done += batch.labels.len();
            evaluating(done, total);
            prepared.recycle(batch);
        }
    }
    Ok(Some(totals(&means, images.labels())))
}

/// The totals of one row of logits for each label.
fn totals(logits: &[f64], labels: &[u16]) -> Totals {
    let mut totals = Totals::default();
    let classes = (logits.len() / labels.len().max(1)).max(1);
    for (row, label) in logits.chunks_exact(classes).zip(labels) {
        let label = usize::from(*label);
        let mut best = 0;
        for (class, value) in row.iter().enumerate() {
            // The first of equal logits, as in `Totals::correct`.
            if *value > row[best] {
                best = class;
            }
        }
        let sum: f64 = row.iter().map(|value| (value - row[best]).exp()).sum();
        totals.add(sum.ln() + row[best] - row[label], u64::from(best == label), 1);
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_and_accuracy_are_those_of_the_rows() {
        let logits = [0.0, 0.0, 1.0, 1.0, 800.0, 0.0];
        let two = totals(&logits, &[0, 1, 0]);
        assert_eq!((two.correct, two.samples), (2, 3));
        assert!((two.loss() - 2.0 * 2.0f64.ln() / 3.0).abs() < 1e-15, "{two:?}");
        let wrong = totals(&[800.0, 0.0], &[1]);
        assert_eq!((wrong.correct, wrong.loss()), (0, 800.0));
        let three = totals(&[1.0, 2.0, 3.0], &[1]);
        let expected = (1.0f64.exp() + 2.0f64.exp() + 3.0f64.exp()).ln() - 2.0;
        assert!((three.loss() - expected).abs() < 1e-12, "{three:?}");
    }
}
