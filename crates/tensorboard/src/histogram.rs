//! Histograms in buckets that grow with the distance from zero.

use pointwise_protobuf::Message;

/// Ratio of a bucket's limits.
const GROWTH: f64 = 1.1;
/// The limit of the innermost bucket on either side of zero.
const SMALLEST: f64 = 1e-12;
/// The last limit: nothing finite in `f32` lies beyond.
const LARGEST: f64 = 1e39;

/// Counts of values in TensorFlow's buckets: on both sides of zero, from 1e-12 on, each a tenth wider than the last.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    min: f64,
    max: f64,
    count: f64,
    sum: f64,
    sum_squares: f64,
    /// Upper limit of each bucket, ascending; empty outer buckets are left out.
    limits: Vec<f64>,
    counts: Vec<f64>,
}

impl Histogram {
    /// Counts values; those that are not finite are left out, since no bucket holds them.
    #[must_use]
    pub fn of(values: impl IntoIterator<Item = f32>) -> Self {
        let limits = limits();
        let mut counts = vec![0.0; limits.len()];
        let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
        let (mut sum, mut sum_squares) = (0.0, 0.0);
        for value in values.into_iter().filter(|value| value.is_finite()).map(f64::from) {
            counts[limits.partition_point(|limit| *limit <= value)] += 1.0;
            (min, max) = (min.min(value), max.max(value));
            sum += value;
            sum_squares += value * value;
        }
        let count = counts.iter().sum();
        // One empty bucket is left before the first: its limit is where the first begins.
        let first = counts.iter().position(|count| *count > 0.0).unwrap_or(0).saturating_sub(1);
        let end = counts.iter().rposition(|count| *count > 0.0).map_or(1, |last| last + 1);
        if count == 0.0 {
            (min, max) = (0.0, 0.0);
        }
        Self {
            min,
            max,
            count,
            sum,
            sum_squares,
            limits: limits[first..end].to_vec(),
            counts: counts[first..end].to_vec(),
        }
    }

    /// `HistogramProto`.
    pub(crate) fn message(&self) -> Message {
        let mut message = Message::default();
        let figures = [self.min, self.max, self.count, self.sum, self.sum_squares];
        for (field, value) in (1..).zip(figures) {
            message.double(field, value);
        }
        message.doubles(6, &self.limits);
        message.doubles(7, &self.counts);
        message
    }
}

/// Upper limits of all buckets, ascending.
fn limits() -> Vec<f64> {
    let positive: Vec<f64> = std::iter::successors(Some(SMALLEST), |limit| Some(limit * GROWTH))
        .take_while(|limit| *limit < LARGEST)
        .chain([LARGEST])
        .collect();
    let negative = positive.iter().rev().map(|limit| -limit);
    negative.chain([0.0]).chain(positive.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_its_bucket() {
        let values = [-2.5f32, -1e-3, 0.0, 0.0, 1e-20, 3.0, 3.1, f32::MAX, f32::MIN];
        let histogram = Histogram::of(values);
        assert_eq!(histogram.count, 9.0);
        assert_eq!(histogram.counts.iter().sum::<f64>(), 9.0);
        for (at, count) in histogram.counts.iter().enumerate() {
            let from = if at == 0 { f64::NEG_INFINITY } else { histogram.limits[at - 1] };
            let inside = |value: &&f32| (from..histogram.limits[at]).contains(&f64::from(**value));
            assert_eq!(values.iter().filter(inside).count() as f64, *count, "below {}", histogram.limits[at]);
        }
        assert!(histogram.limits.is_sorted());
    }

    #[test]
    fn figures_of_a_small_one() {
        let histogram = Histogram::of([1.0, -3.0, f32::NAN, f32::INFINITY]);
        assert_eq!((histogram.min, histogram.max, histogram.count), (-3.0, 1.0, 2.0));
        assert_eq!((histogram.sum, histogram.sum_squares), (-2.0, 10.0));
        let empty = Histogram::of([]);
        assert_eq!((empty.min, empty.max, empty.count, empty.counts.len()), (0.0, 0.0, 0.0, 1));
    }
}
