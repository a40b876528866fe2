//! Test images taken from the training images of a folder that has no test images.

use std::fmt;
use std::str::FromStr;

use pointwise_random::{Purpose, permutation};

use crate::Error;

/// How many images are split off: a share in (0, 1), or a number from 1 on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TestSplit {
    /// A share of all images.
    Share(f64),
    /// A number of images.
    Count(u32),
}

impl fmt::Display for TestSplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(share) => write!(f, "{share}"),
            Self::Count(count) => write!(f, "{count}"),
        }
    }
}

impl FromStr for TestSplit {
    type Err = String;

    /// "0.2" or "500"; an error is a sentence.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(count @ 1..) = text.parse() {
            return Ok(Self::Count(count));
        }
        let share: Option<f64> = text.parse().ok().filter(|share| *share > 0.0 && *share < 1.0);
        share.map(Self::Share).ok_or_else(|| {
            "give a share of the images above 0 and below 1, such as 0.2, or a number of images, such as 500".to_owned()
        })
    }
}

/// Takes test images out of `images` (anything with a label below `classes`), from each class in proportion to its size and never its last one. The
/// choice is a function of the seed and of the numbers of images; both parts keep their order.
pub(crate) fn take<T>(
    split: TestSplit,
    seed: u64,
    classes: usize,
    images: &mut Vec<(T, u16)>,
) -> Result<Vec<(T, u16)>, Error> {
    let mut counts = vec![0usize; classes];
    images.iter().for_each(|(_, label)| counts[usize::from(*label)] += 1);
    let wanted = match split {
        TestSplit::Share(share) => (share * images.len() as f64).round() as usize,
        TestSplit::Count(count) => count as usize,
    };
    let most: usize = counts.iter().map(|count| count.saturating_sub(1)).sum();
    if wanted == 0 || wanted > most {
        let cause = format!(
            "{split} makes {wanted} test images of {}, and it can be 1 to {most} with a training image left in every class: \
             give another number",
            images.len()
        );
        return Err(Error::TestSplit { cause });
    }
    let taken = shares(wanted, &counts);
    // For each class, which of its images are taken.
    let mut chosen: Vec<Vec<bool>> = Vec::with_capacity(classes);
    for (class, (&count, &taken)) in counts.iter().zip(&taken).enumerate() {
        let mut goes = vec![false; count];
        let order = permutation(seed, Purpose::TestSplit, class as u32, count as u32);
        order[..taken].iter().for_each(|&place| goes[place as usize] = true);
        chosen.push(goes);
    }
    let mut seen = vec![0; classes];
    let (mut kept, mut test) = (Vec::with_capacity(images.len() - wanted), Vec::with_capacity(wanted));
    for image in images.drain(..) {
        let class = usize::from(image.1);
        if chosen[class][seen[class]] { &mut test } else { &mut kept }.push(image);
        seen[class] += 1;
    }
    *images = kept;
    Ok(test)
}

/// Distributes `wanted` in proportion to `counts`, by largest remainders, each one below its count.
fn shares(wanted: usize, counts: &[usize]) -> Vec<usize> {
    let total: usize = counts.iter().sum();
    let most = |class: usize| counts[class].saturating_sub(1);
    let exact = |class: usize| wanted as u128 * counts[class] as u128;
    let mut shares: Vec<usize> =
        (0..counts.len()).map(|class| (exact(class) / total as u128) as usize).collect();
    // The largest remainder first; of equals, the first class.
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|&class| std::cmp::Reverse(exact(class) % total as u128));
    let mut missing = wanted - shares.iter().sum::<usize>();
    while missing > 0 {
        for &class in &order {
            if missing > 0 && shares[class] < most(class) {
                shares[class] += 1;
                missing -= 1;
            }
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(counts: &[usize]) -> Vec<(usize, u16)> {
        let labels = counts.iter().enumerate().flat_map(|(class, &count)| vec![class as u16; count]);
        labels.enumerate().collect()
    }

    #[test]
    fn shares_are_in_proportion_and_leave_every_class_an_image() {
        for (wanted, counts, expected) in [
            (20, vec![50, 30, 20], vec![10, 6, 4]),
            (1, vec![3, 3, 3], vec![1, 0, 0]),
            (2, vec![1, 1, 10], vec![0, 0, 2]),
            (97, vec![50, 30, 20], vec![49, 29, 19]),
            (7, vec![5, 5, 5], vec![3, 2, 2]),
            (9, vec![100, 1, 1, 1], vec![9, 0, 0, 0]),
        ] {
            assert_eq!(shares(wanted, &counts), expected, "{wanted} of {counts:?}");
        }
    }

    #[test]
    fn the_split_is_a_seeded_partition_in_order() {
        let take = |split, seed| {
            let mut train = images(&[50, 30, 21]);
            let test = take(split, seed, 3, &mut train).unwrap();
            (train, test)
        };
        let (train, test) = take(TestSplit::Share(0.2), 1);
        assert_eq!((train.len(), test.len()), (81, 20));
        assert!(train.is_sorted() && test.is_sorted());
        let count = |class| test.iter().filter(|(_, label)| *label == class).count();
        assert_eq!([count(0), count(1), count(2)], [10, 6, 4]);
        let mut all = [train, test.clone()].concat();
        all.sort_unstable();
        assert_eq!(all, images(&[50, 30, 21]));
        assert_eq!(take(TestSplit::Count(20), 1).1, test);
        assert_ne!(take(TestSplit::Count(20), 2).1, test);
        // Not all from one end: the first class's mean place of 10 of 50 has a standard deviation of about 4.
        let mean = test[..10].iter().map(|(place, _)| *place as f64).sum::<f64>() / 10.0;
        assert!((10.0..40.0).contains(&mean), "{mean}");
    }

    #[test]
    fn a_split_that_cannot_be_is_refused() {
        for (split, expected) in [
            (TestSplit::Share(0.01), "0.01 makes 0 test images of 6, and it can be 1 to 4"),
            (TestSplit::Count(5), "5 makes 5 test images of 6, and it can be 1 to 4"),
        ] {
            let error = take(split, 1, 2, &mut images(&[3, 3])).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--test-split {expected}")), "{error}");
        }
    }

    #[test]
    fn splits_are_read_as_they_are_written() {
        for (text, expected) in [
            ("0.2", Some(TestSplit::Share(0.2))),
            ("500", Some(TestSplit::Count(500))),
            ("1", Some(TestSplit::Count(1))),
            ("0", None),
            ("1.0", None),
            ("-3", None),
            ("NaN", None),
            ("20%", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
        assert_eq!(TestSplit::Share(0.2).to_string(), "0.2");
    }
}
