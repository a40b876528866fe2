//! Images in memory.

use pointwise_memory::lacking;
use pointwise_random::{Purpose, permutation};
use sha2::{Digest, Sha256};

use crate::files::hex;
use crate::spec::image_bytes;
use crate::{DatasetSpec, Error};

/// Checks that the shape of images (C, H, W) is supported.
pub(crate) fn check_shape(shape: [usize; 3]) -> Result<(), Error> {
    let sides = 1..=DatasetSpec::MAX_SIDE;
    if matches!(shape[0], 1 | 3) && sides.contains(&shape[1]) && sides.contains(&shape[2]) {
        return Ok(());
    }
    Err(Error::Shape { shape })
}

/// An empty vector with room for `len` bytes of what is named, or an error.
pub(crate) fn reserve<T>(what: impl FnOnce() -> String, len: usize) -> Result<Vec<T>, Error> {
    let mut values = Vec::new();
    reserve_more(what, &mut values, len)?;
    Ok(values)
}

/// As [`reserve`], for `len` values more in a vector.
pub(crate) fn reserve_more<T>(
    what: impl FnOnce() -> String,
    values: &mut Vec<T>,
    len: usize,
) -> Result<(), Error> {
    let bytes = (len as u64).saturating_mul(size_of::<T>() as u64);
    // The system would promise more than it has, and end the process that writes there.
    let available = lacking(bytes);
    if available.is_some() || values.try_reserve_exact(len).is_err() {
        return Err(Error::Memory { file: what(), bytes, available });
    }
    Ok(())
}

/// N images of one shape with their labels.
///
/// Pixels are planar: for each image the plane of each channel, row by row. Labels are below the number of classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    shape: [usize; 3],
    classes: usize,
    pixels: Vec<u8>,
    labels: Vec<u16>,
}

impl Images {
    /// Takes `pixels` (`(N, C, H, W)` with that `shape` of an image) and `labels` (N, below `classes`).
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] if there are no such images, [`Error::Classes`] for more than 65,536 classes or none, [`Error::Lengths`] if
    /// pixels and labels do not go together, [`Error::LabelValue`] if a label is too large.
    pub fn new(shape: [usize; 3], classes: usize, pixels: Vec<u8>, labels: Vec<u16>) -> Result<Self, Error> {
        check_shape(shape)?;
        if !(1..=DatasetSpec::MAX_CLASSES).contains(&classes) {
            return Err(Error::Classes { classes });
        }
        let image = image_bytes(shape);
        // Places are u32 everywhere.
        if Some(pixels.len()) != labels.len().checked_mul(image) || u32::try_from(labels.len()).is_err() {
            return Err(Error::Lengths { pixels: pixels.len(), labels: labels.len(), image });
        }
        if let Some(image) = labels.iter().position(|&label| usize::from(label) >= classes) {
            return Err(Error::LabelValue { image, label: labels[image], classes });
        }
        Ok(Self { shape, classes, pixels, labels })
    }

    /// Channels, height and width of each image.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Number of classes: labels are below it.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Bytes (and normalised values) of an image.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        image_bytes(self.shape)
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

    /// All labels.
    #[must_use]
    pub fn labels(&self) -> &[u16] {
        &self.labels
    }

    /// The bytes of image `i`, `(C, H, W)`.
    ///
    /// # Panics
    ///
    /// If there is no image `i`, as indexing a slice does.
    #[must_use]
    pub fn image(&self, i: usize) -> &[u8] {
        let len = self.image_bytes();
        &self.pixels[i * len..(i + 1) * len]
    }

    /// The first `n` images, or all if there are fewer.
    #[must_use]
    pub fn truncated(mut self, n: usize) -> Self {
        let n = n.min(self.len());
        self.labels.truncate(n);
        self.pixels.truncate(n * image_bytes(self.shape));
        self
    }

    /// The images at `places`, in that order.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`] if they do not fit in memory next to these.
    ///
    /// # Panics
    ///
    /// If a place is not below [`len`](Self::len), as indexing a slice does.
    pub fn subset(&self, places: &[u32]) -> Result<Self, Error> {
        let what = || format!("{} images", places.len());
        let mut pixels = reserve(what, places.len().saturating_mul(self.image_bytes()))?;
        let mut labels = reserve(what, places.len())?;
        for &place in places {
            pixels.extend_from_slice(self.image(place as usize));
            labels.push(self.labels[place as usize]);
        }
        Ok(Self { pixels, labels, ..*self })
    }

    /// How many images each class has.
    #[must_use]
    pub fn class_counts(&self) -> Vec<u64> {
        let mut counts = vec![0; self.classes];
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
    /// Shape, classes and usual figures; shape and classes are those of both sets.
    pub spec: DatasetSpec,
    /// Where the images are from, as text for users: "CIFAR-10 binary files in data/cifar-10-batches-bin".
    pub source: String,
    /// Whether the images were drawn by a program instead of photographed: none of their figures is a real data set's.
    pub synthetic: bool,
}

impl Dataset {
    /// SHA-256 (hexadecimal) over the number of images, the pixels and the labels, of the training set and then of the test
    /// set.
    ///
    /// Equal for equal images in equal order, whatever the source. To identify the source, take it before
    /// [`Images::truncated`]. Numbers are hashed as 8 bytes, least significant first. Labels are hashed as a byte each; with more than 256
    /// classes as 2 bytes, least significant first. For images of another shape than 3x32x32, channels, height and width are hashed
    /// before the rest of each set.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        for images in [&self.train, &self.test] {
            if images.shape != [3, 32, 32] {
                images.shape.iter().for_each(|side| hash.update((*side as u64).to_le_bytes()));
            }
            hash.update((images.len() as u64).to_le_bytes());
            hash.update(&images.pixels);
            let bytes = if images.classes > 256 { 2 } else { 1 };
            for labels in images.labels.chunks(4096) {
                let labels: Vec<u8> =
                    labels.iter().flat_map(|label| label.to_le_bytes().into_iter().take(bytes)).collect();
                hash.update(labels);
            }
        }
        hex(&hash.finalize())
    }
}

/// What a data set looks like, in numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    /// Mean of each channel over the training images, in units of `[0, 1]`; NaN if there are none.
    pub mean: Vec<f64>,
    /// Standard deviation (of the population) of each channel over the training images, in units of `[0, 1]`; NaN if there
    /// are none.
    pub std: Vec<f64>,
    /// Number of training images of each class.
    pub train_classes: Vec<u64>,
    /// Number of test images of each class.
    pub test_classes: Vec<u64>,
}

/// Counts the classes and measures the channels of the training images.
#[must_use]
pub fn statistics(dataset: &Dataset) -> Statistics {
    let (mean, std) = channel_statistics(&dataset.train);
    let (train_classes, test_classes) = (dataset.train.class_counts(), dataset.test.class_counts());
    Statistics { mean, std, train_classes, test_classes }
}

/// Mean and standard deviation (of the population) of each channel, in units of `[0, 1]`; NaN if there are no images.
#[must_use]
pub(crate) fn channel_statistics(images: &Images) -> (Vec<f64>, Vec<f64>) {
    /// The sum of this many values, 255^2 each, fits in 32 bits, which vectorise.
    const SUMMED: usize = 1 << 15;

    let [channels, height, width] = images.shape;
    // Sums of integers are exact: no order of summation to worry about.
    let mut sums = vec![[0u64; 2]; channels];
    for (number, plane) in images.pixels.chunks_exact(height * width).enumerate() {
        let [sum, squares] = &mut sums[number % channels];
        for part in plane.chunks(SUMMED) {
            *sum += u64::from(part.iter().map(|&byte| u32::from(byte)).sum::<u32>());
            *squares += u64::from(part.iter().map(|&byte| u32::from(byte).pow(2)).sum::<u32>());
        }
    }
    let count = (images.len() * height * width) as u64;
    let figures = |[sum, squares]: [u64; 2]| {
        let mean = sum as f64 / count as f64 / 255.0;
        // Exact until here: equal values have a deviation of 0.
        let variance = u128::from(count) * u128::from(squares) - u128::from(sum).pow(2);
        (mean, (variance as f64).sqrt() / count as f64 / 255.0)
    };
    sums.into_iter().map(figures).unzip()
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

    const CIFAR: [usize; 3] = [3, 32, 32];
    const IMAGE_BYTES: usize = 3072;

    /// Image `i` is of class `i % 10` and has the byte `i` everywhere.
    fn images(n: u8) -> Images {
        let pixels = (0..n).flat_map(|i| [i; IMAGE_BYTES]).collect();
        Images::new(CIFAR, 10, pixels, (0..n).map(|i| u16::from(i) % 10).collect()).unwrap()
    }

    fn dataset(train: Images, test: Images) -> Dataset {
        let spec = DatasetSpec {
            name: "test".to_owned(),
            shape: train.shape(),
            classes: (0..train.classes()).map(|class| class.to_string()).collect(),
            mean_std: None,
        };
        Dataset { train, test, spec, source: String::new(), synthetic: true }
    }

    #[test]
    fn lengths_and_labels_are_checked() {
        let cases = [
            (
                CIFAR,
                10,
                IMAGE_BYTES,
                vec![0, 1],
                "3072 bytes of pixels do not go with 2 labels: every image has 3072 bytes and one label",
            ),
            (CIFAR, 10, 2 * IMAGE_BYTES, vec![9, 10], "image 1 has label 10, but the labels are 0 to 9"),
            ([1, 2, 2], 300, 4, vec![300], "image 0 has label 300, but the labels are 0 to 299"),
            (
                [2, 2, 2],
                10,
                8,
                vec![0],
                "images of shape 2 x 2 x 2 are not supported: give 1 or 3 channels, and a height and width from 1 to 4096",
            ),
            (
                [3, 0, 2],
                10,
                0,
                vec![],
                "images of shape 3 x 0 x 2 are not supported: give 1 or 3 channels, and a height and width from 1 to 4096",
            ),
            (
                [3, 1, 4097],
                10,
                0,
                vec![],
                "images of shape 3 x 1 x 4097 are not supported: give 1 or 3 channels, and a height and width from 1 to 4096",
            ),
            (CIFAR, 0, 0, vec![], "data sets of 0 classes are not supported: give 1 to 65536"),
            (CIFAR, 65_537, 0, vec![], "data sets of 65537 classes are not supported: give 1 to 65536"),
        ];
        for (shape, classes, bytes, labels, expected) in cases {
            let error = Images::new(shape, classes, vec![0; bytes], labels).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        let largest = Images::new([1, 1, 1], 65_536, vec![0, 1], vec![0, 65_535]).unwrap();
        assert_eq!(largest.class_counts()[65_535], 1);
        assert!(Images::new(CIFAR, 10, Vec::new(), Vec::new()).unwrap().is_empty());
    }

    #[test]
    fn truncated_and_subset_keep_pixels_and_labels_together() {
        let all = images(25);
        assert_eq!(all.subset(&[3, 21, 3]).unwrap().labels(), [3, 1, 3]);
        assert_eq!(all.subset(&[3, 21, 3]).unwrap().image(1), [21; IMAGE_BYTES]);
        assert_eq!(all.clone().truncated(7), all.subset(&[0, 1, 2, 3, 4, 5, 6]).unwrap());
        assert_eq!(all.clone().truncated(26), all);
        assert!(all.subset(&[]).unwrap().is_empty());
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
            dataset(images(4), images(2).subset(&[1, 0]).unwrap()),
        ] {
            seen.push(other.fingerprint());
        }
        // The shape counts, and the second byte of a label.
        let small = |shape, classes, label| {
            let images = Images::new(shape, classes, vec![7; 4], vec![label]).unwrap();
            dataset(images.clone(), images).fingerprint()
        };
        seen.extend([[1, 1, 4], [1, 4, 1], [1, 2, 2]].map(|shape| small(shape, 10, 0)));
        seen.extend([0, 1, 256, 257].map(|label| small([1, 2, 2], 300, label)));
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    /// Runs and published records hold fingerprints of CIFAR-10-shaped data: a byte for each label, and no shape.
    #[test]
    fn fingerprints_of_runs_stay_valid() {
        let data = dataset(images(3), images(2));
        let mut hash = Sha256::new();
        for (n, images) in [(3u64, &data.train), (2, &data.test)] {
            hash.update(n.to_le_bytes());
            hash.update(images.pixels());
            hash.update((0..n as u8).collect::<Vec<_>>());
        }
        assert_eq!(data.fingerprint(), hex(&hash.finalize()));
    }

    #[test]
    fn statistics_of_a_known_set() {
        // Red is 0 in one image and 255 in the other, green 51 in both, blue 0 and 51.
        let plane = IMAGE_BYTES / 3;
        let image = |bytes: [u8; 3]| bytes.into_iter().flat_map(move |byte| vec![byte; plane]);
        let pixels = image([0, 51, 0]).chain(image([255, 51, 51])).collect();
        let statistics =
            statistics(&dataset(Images::new(CIFAR, 10, pixels, vec![7, 0]).unwrap(), images(12)));
        for (actual, expected) in
            statistics.mean.iter().chain(&statistics.std).zip([0.5, 0.2, 0.1, 0.5, 0.0, 0.1])
        {
            assert!((actual - expected).abs() < 1e-15, "{statistics:?}");
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
