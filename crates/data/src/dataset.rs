//! Images in memory.

use pointwise_random::{Purpose, permutation};
use sha2::{Digest, Sha256};

use crate::files::hex;
use crate::{CHANNELS, CLASSES, Error, IMAGE_BYTES};

/// N images of 3x32x32 bytes with their labels.
///
/// Pixels are planar as in CIFAR-10's binary files: for each image 1024 red, 1024 green and 1024 blue bytes, each plane row
/// by row. Labels are 0 to 9.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Images {
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

impl Images {
    /// Takes `pixels` (N * 3072 bytes, `(N, C, H, W)`) and `labels` (N).
    ///
    /// # Errors
    ///
    /// [`Error::Lengths`] if there are not 3072 bytes for each label, [`Error::LabelValue`] if a label is above 9.
    pub fn new(pixels: Vec<u8>, labels: Vec<u8>) -> Result<Self, Error> {
        // Places are u32 everywhere; more would be 13 TB.
        if Some(pixels.len()) != labels.len().checked_mul(IMAGE_BYTES) || u32::try_from(labels.len()).is_err()
        {
            return Err(Error::Lengths { pixels: pixels.len(), labels: labels.len() });
        }
        if let Some(image) = labels.iter().position(|&label| usize::from(label) >= CLASSES) {
            return Err(Error::LabelValue { image, label: i64::from(labels[image]) });
        }
        Ok(Self { pixels, labels })
    }

    /// Number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// All bytes, `(N, C, H, W)`.
    #[must_use]
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// All labels, 0 to 9.
    #[must_use]
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// The 3072 bytes of image `i`, `(C, H, W)`.
    ///
    /// # Panics
    ///
    /// If there is no image `i`, as indexing a slice does.
    #[must_use]
    pub fn image(&self, i: usize) -> &[u8] {
        &self.pixels[i * IMAGE_BYTES..(i + 1) * IMAGE_BYTES]
    }

    /// The first `n` images, or all if there are fewer.
    #[must_use]
    pub fn truncated(mut self, n: usize) -> Self {
        let n = n.min(self.len());
        self.labels.truncate(n);
        self.pixels.truncate(n * IMAGE_BYTES);
        self
    }

    /// The images at `places`, in that order.
    ///
    /// # Panics
    ///
    /// If a place is not below [`len`](Self::len), as indexing a slice does.
    #[must_use]
    pub fn subset(&self, places: &[u32]) -> Self {
        let mut pixels = Vec::with_capacity(places.len() * IMAGE_BYTES);
        let mut labels = Vec::with_capacity(places.len());
        for &place in places {
            pixels.extend_from_slice(self.image(place as usize));
            labels.push(self.labels[place as usize]);
        }
        Self { pixels, labels }
    }

    /// How many images each class has.
    fn class_counts(&self) -> [u64; CLASSES] {
        let mut counts = [0; CLASSES];
        for &label in &self.labels {
            counts[usize::from(label)] += 1;
        }
        counts
    }
}

/// A training and a test set.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The images to train on, in the order of their source.
    pub train: Images,
    /// The images to test on, in the order of their source.
    pub test: Images,
    /// Where the images are from, for people: "CIFAR-10 binary files in data/cifar-10-batches-bin".
    pub source: String,
    /// Whether the images were drawn by a program instead of photographed: no figure of theirs is CIFAR-10's.
    pub synthetic: bool,
}

impl Dataset {
    /// SHA-256 (hexadecimal) over the number of images, the pixels and the labels, of the training set and then of the test
    /// set.
    ///
    /// Equal for equal images in equal order, whatever the source. To identify the source, take it before
    /// [`Images::truncated`]. Numbers are hashed as 8 bytes, least significant first.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for images in [&self.train, &self.test] {
            hash.update((images.len() as u64).to_le_bytes());
            hash.update(&images.pixels);
            hash.update(&images.labels);
        }
        hex(&hash.finalize())
    }
}

/// What a dataset looks like, in numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    /// Mean of each channel over the training images, in units of `[0, 1]`; NaN if there are none.
    pub mean: [f64; CHANNELS],
    /// Standard deviation (of the population) of each channel over the training images, in units of `[0, 1]`; NaN if there
    /// are none.
    pub std: [f64; CHANNELS],
    /// Number of training images of each class.
    pub train_classes: [u64; CLASSES],
    /// Number of test images of each class.
    pub test_classes: [u64; CLASSES],
}

/// Counts the classes and measures the channels of the training images.
#[must_use]
pub fn statistics(dataset: &Dataset) -> Statistics {
    // Sums of integers are exact: no order of summation to worry about.
    let mut sums = [0u64; CHANNELS];
    let mut squares = [0u64; CHANNELS];
    for image in dataset.train.pixels.chunks_exact(IMAGE_BYTES) {
        for (channel, plane) in image.chunks_exact(IMAGE_BYTES / CHANNELS).enumerate() {
            // 1024 * 255^2 fits in 32 bits, which vectorise.
            sums[channel] += u64::from(plane.iter().map(|&byte| u32::from(byte)).sum::<u32>());
            squares[channel] += u64::from(plane.iter().map(|&byte| u32::from(byte).pow(2)).sum::<u32>());
        }
    }
    let count = (dataset.train.pixels.len() / CHANNELS) as f64;
    let mean = sums.map(|sum| sum as f64 / count / 255.0);
    let std = std::array::from_fn(|channel| {
        let square = squares[channel] as f64 / count / (255.0 * 255.0);
        (square - mean[channel] * mean[channel]).max(0.0).sqrt()
    });
    Statistics {
        mean: if count > 0.0 { mean } else { [f64::NAN; CHANNELS] },
        std: if count > 0.0 { std } else { [f64::NAN; CHANNELS] },
        train_classes: dataset.train.class_counts(),
        test_classes: dataset.test.class_counts(),
    }
}

/// Chooses `validation` of `len` training images to be held out: the places that stay and the places that are held out,
/// both ascending.
///
/// A pure function of its arguments. If `validation` is above `len`, all are held out.
#[must_use]
pub fn split(len: u32, validation: u32, seed: u64) -> (Vec<u32>, Vec<u32>) {
    let mut held_out = permutation(seed, Purpose::Split, 0, len);
    let mut kept = held_out.split_off(validation.min(len) as usize);
    kept.sort_unstable();
    held_out.sort_unstable();
    (kept, held_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Image `i` is of class `i % 10` and has the byte `i` everywhere.
    fn images(n: u8) -> Images {
        let pixels = (0..n).flat_map(|i| [i; IMAGE_BYTES]).collect();
        Images::new(pixels, (0..n).map(|i| i % 10).collect()).unwrap()
    }

    fn dataset(train: Images, test: Images) -> Dataset {
        Dataset { train, test, source: String::new(), synthetic: true }
    }

    #[test]
    fn lengths_and_labels_are_checked() {
        let error = Images::new(vec![0; IMAGE_BYTES], vec![0, 1]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "3072 bytes of pixels do not go with 2 labels: every image has 3072 bytes and one label"
        );
        let error = Images::new(vec![0; 2 * IMAGE_BYTES], vec![9, 10]).unwrap_err();
        assert_eq!(error.to_string(), "image 1 has label 10, but the labels of CIFAR-10 are 0 to 9");
        assert!(Images::new(Vec::new(), Vec::new()).unwrap().is_empty());
    }

    #[test]
    fn truncated_and_subset_keep_pixels_and_labels_together() {
        let all = images(25);
        assert_eq!(all.subset(&[3, 21, 3]).labels(), [3, 1, 3]);
        assert_eq!(all.subset(&[3, 21, 3]).image(1), [21; IMAGE_BYTES]);
        assert_eq!(all.clone().truncated(7), all.subset(&[0, 1, 2, 3, 4, 5, 6]));
        assert_eq!(all.clone().truncated(26), all);
        assert!(all.subset(&[]).is_empty());
    }

    #[test]
    fn fingerprint_sees_every_part() {
        let base = dataset(images(4), images(2));
        let mut seen = vec![base.fingerprint()];
        assert_eq!(seen[0].len(), 64);
        assert_eq!(seen[0], dataset(images(4), images(2)).fingerprint());
        let mut label = images(4);
        label.labels[3] = 9;
        let mut pixel = images(4);
        pixel.pixels[4 * IMAGE_BYTES - 1] ^= 1;
        for other in [
            dataset(images(2), images(4)),
            dataset(images(3), images(2)),
            dataset(images(4), images(1)),
            dataset(label, images(2)),
            dataset(pixel, images(2)),
            dataset(images(4), images(2).subset(&[1, 0])),
        ] {
            seen.push(other.fingerprint());
        }
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn statistics_of_a_known_set() {
        // Red is 0 in one image and 255 in the other, green 51 in both, blue 0 and 51.
        let plane = IMAGE_BYTES / CHANNELS;
        let image = |bytes: [u8; 3]| bytes.into_iter().flat_map(move |byte| vec![byte; plane]);
        let pixels = image([0, 51, 0]).chain(image([255, 51, 51])).collect();
        let statistics = statistics(&dataset(Images::new(pixels, vec![7, 0]).unwrap(), images(12)));
        for (actual, expected) in
            statistics.mean.iter().chain(&statistics.std).zip([0.5, 0.2, 0.1, 0.5, 0.0, 0.1])
        {
            // Cancellation: a variance of 0 may come out as 1e-17, its root as 3e-9.
            assert!((actual - expected).abs() < 1e-8, "{statistics:?}");
        }
        assert_eq!(statistics.train_classes, [1, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(statistics.test_classes, [2, 2, 1, 1, 1, 1, 1, 1, 1, 1]);
    }

    #[test]
    fn split_is_a_seeded_partition() {
        for (len, validation) in [(0, 0), (1, 0), (1, 1), (10, 3), (5, 9), (50_000, 5_000)] {
            let (kept, held_out) = split(len, validation, 42);
            assert_eq!(held_out.len(), validation.min(len) as usize);
            assert!(kept.is_sorted() && held_out.is_sorted());
            let mut all = [kept, held_out].concat();
            all.sort_unstable();
            assert_eq!(all, (0..len).collect::<Vec<_>>());
        }
        assert_eq!(split(100, 10, 1), split(100, 10, 1));
        assert_ne!(split(100, 10, 1), split(100, 10, 2));
        // Held-out images come from everywhere, not from one end: the mean place of 5,000 of 50,000 has a standard
        // deviation of 50,000 / sqrt(12 * 5,000) = 204.
        let (_, held_out) = split(50_000, 5_000, 42);
        let mean = held_out.iter().map(|&place| f64::from(place)).sum::<f64>() / 5_000.0;
        assert!((mean - 25_000.0).abs() < 6.0 * 204.0, "{mean}");
    }
}
