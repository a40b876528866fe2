//! From the bytes of an image to the numbers that a network sees, in one pass.
//!
//! The pass is torchvision's `RandomCrop(32, padding=4)`, `RandomHorizontalFlip`, `ToTensor`, `Normalize` to the bit: each
//! value is `(byte as f32 / 255.0 - mean) / std` in `f32`, looked up in a table of the 3 x 256 values there are.

use pointwise_random::{Purpose, below, block};

use crate::{CHANNELS, IMAGE_BYTES, MEAN, SIDE, STD};

/// Black pixels added on each side before a random crop.
const PADDING: usize = 4;
/// Bytes of one channel.
const PLANE: usize = SIDE * SIDE;

/// The normalised value of every byte in every channel.
static NORMALISED: [[f32; 256]; CHANNELS] = normalised();

/// The value that a network sees for each byte of each channel, as [`augment_into`] writes it.
#[must_use]
pub fn normalised_values() -> &'static [[f32; 256]; CHANNELS] {
    &NORMALISED
}

const fn normalised() -> [[f32; 256]; CHANNELS] {
    let mut table = [[0.0; 256]; CHANNELS];
    let mut channel = 0;
    while channel < CHANNELS {
        let mut byte = 0;
        while byte < 256 {
            table[channel][byte] = (byte as f32 / 255.0 - MEAN[channel]) / STD[channel];
            byte += 1;
        }
        channel += 1;
    }
    table
}

/// What is done to training images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Augmentation {
    /// Random crop after 4 pixels of black padding on each side, then a horizontal flip with probability 1/2.
    CropFlip,
    /// The images as they are.
    None,
}

/// Which part of the padded 40x40 image is taken, and whether it is mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Crop {
    /// First row of the crop in the padded image, `0..=8`.
    pub dy: u8,
    /// First column of the crop in the padded image, `0..=8`.
    pub dx: u8,
    /// Left and right exchanged, after the crop.
    pub flip: bool,
}

impl Crop {
    /// Black pixels added on each side before a random crop.
    pub const MARGIN: u32 = PADDING as u32;

    /// The image as it is.
    pub const CENTRE: Self = Self { dy: PADDING as u8, dx: PADDING as u8, flip: false };

    /// The draw for a sample (its place in the dataset) in an epoch (1-based): a pure function of its arguments.
    #[must_use]
    #[inline]
    pub fn draw(seed: u64, epoch: u32, sample: u32) -> Self {
        let words = block(seed, Purpose::Augment, epoch, u64::from(sample));
        let offsets = 2 * PADDING as u32 + 1;
        Self {
            dy: below(words[0], offsets) as u8,
            dx: below(words[1], offsets) as u8,
            flip: words[2] >> 31 == 1,
        }
    }
}

/// Crops, flips, scales and normalises `image` (3072 bytes, CHW) into `out` (3072 values, CHW).
///
/// What lies outside the image, for any `crop`, is black.
///
/// # Panics
///
/// If `image` or `out` is not [`IMAGE_BYTES`] long.
pub fn augment_into(image: &[u8], crop: Crop, out: &mut [f32]) {
    assert_eq!((image.len(), out.len()), (IMAGE_BYTES, IMAGE_BYTES), "an image has 3 x 32 x 32 values");
    // Columns of `out` (before the flip) that show image columns: out[x] = image[x + dx - PADDING].
    let dx = usize::from(crop.dx);
    let first = PADDING.saturating_sub(dx).min(SIDE);
    let end = (SIDE + PADDING).saturating_sub(dx).min(SIDE).max(first);
    let source = first + dx - PADDING.min(first + dx);

    for (channel, (plane, out)) in image.chunks_exact(PLANE).zip(out.chunks_exact_mut(PLANE)).enumerate() {
        let table = &NORMALISED[channel];
        let black = table[0];
        for (y, row) in out.chunks_exact_mut(SIDE).enumerate() {
            let Some(pixels) = (y + usize::from(crop.dy))
                .checked_sub(PADDING)
                .and_then(|y| plane.get(y * SIDE..(y + 1) * SIDE))
                .and_then(|pixels| pixels.get(source..source + (end - first)))
            else {
                row.fill(black);
                continue;
            };
            if crop.flip {
                row[..SIDE - end].fill(black);
                row[SIDE - first..].fill(black);
                for (value, &byte) in row[SIDE - end..SIDE - first].iter_mut().rev().zip(pixels) {
                    *value = table[usize::from(byte)];
                }
            } else {
                row[..first].fill(black);
                row[end..].fill(black);
                for (value, &byte) in row[first..end].iter_mut().zip(pixels) {
                    *value = table[usize::from(byte)];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointwise_random::Stream;

    /// The four steps one after the other, as torchvision has them.
    fn naive(image: &[u8], crop: Crop) -> Vec<f32> {
        const PADDED: usize = SIDE + 2 * PADDING;
        let mut padded = vec![0u8; CHANNELS * PADDED * PADDED];
        for c in 0..CHANNELS {
            for y in 0..SIDE {
                for x in 0..SIDE {
                    padded[(c * PADDED + y + PADDING) * PADDED + x + PADDING] =
                        image[(c * SIDE + y) * SIDE + x];
                }
            }
        }
        let mut cropped = vec![0u8; IMAGE_BYTES];
        for c in 0..CHANNELS {
            for y in 0..SIDE {
                for x in 0..SIDE {
                    let (from_y, from_x) = (y + usize::from(crop.dy), x + usize::from(crop.dx));
                    cropped[(c * SIDE + y) * SIDE + x] = padded[(c * PADDED + from_y) * PADDED + from_x];
                }
            }
        }
        let mut flipped = cropped.clone();
        if crop.flip {
            for (from, to) in cropped.chunks(SIDE).zip(flipped.chunks_mut(SIDE)) {
                for x in 0..SIDE {
                    to[x] = from[SIDE - 1 - x];
                }
            }
        }
        let scaled: Vec<f32> = flipped.iter().map(|&byte| f32::from(byte) / 255.0).collect();
        scaled.iter().enumerate().map(|(i, &value)| (value - MEAN[i / PLANE]) / STD[i / PLANE]).collect()
    }

    fn noise(seed: u64) -> Vec<u8> {
        let mut stream = Stream::new(seed, Purpose::Synthetic, 0);
        (0..IMAGE_BYTES).map(|_| stream.word() as u8).collect()
    }

    fn assert_same_bits(actual: &[f32], expected: &[f32], what: &str) {
        for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
            let place = (i / PLANE, i % PLANE / SIDE, i % SIDE);
            assert_eq!(a.to_bits(), e.to_bits(), "{what}: {a} instead of {e} at (c, y, x) = {place:?}");
        }
    }

    #[test]
    fn every_crop_equals_the_separate_steps_to_the_bit() {
        let image = noise(3);
        for dy in 0..=8 {
            for dx in 0..=8 {
                for flip in [false, true] {
                    let crop = Crop { dy, dx, flip };
                    let mut out = vec![f32::NAN; IMAGE_BYTES];
                    augment_into(&image, crop, &mut out);
                    assert_same_bits(&out, &naive(&image, crop), &format!("{crop:?}"));
                }
            }
        }
    }

    #[test]
    fn the_centre_crop_is_the_normalised_image() {
        let image = noise(4);
        let mut out = vec![f32::NAN; IMAGE_BYTES];
        augment_into(&image, Crop::CENTRE, &mut out);
        let expected: Vec<f32> = image
            .iter()
            .enumerate()
            .map(|(i, &byte)| (f32::from(byte) / 255.0 - MEAN[i / PLANE]) / STD[i / PLANE])
            .collect();
        assert_same_bits(&out, &expected, "centre");
    }

    #[test]
    fn offsets_beyond_the_padding_show_black() {
        let image = noise(5);
        for (dy, dx) in [(36, 4), (4, 36), (255, 255), (35, 35), (0, 200)] {
            for flip in [false, true] {
                let mut out = vec![f32::NAN; IMAGE_BYTES];
                augment_into(&image, Crop { dy, dx, flip }, &mut out);
                assert!(out.iter().all(|value| value.is_finite()));
                let last = if flip { 0 } else { SIDE - 1 };
                assert_eq!(out[PLANE - SIDE + last], NORMALISED[0][0], "({dy}, {dx}, {flip})");
            }
        }
    }

    /// Values of `torchvision.transforms.Normalize(MEAN, STD)(ToTensor()(image))` for an image of one byte value:
    /// `((torch.tensor(byte, dtype=torch.uint8).float().div(255)) - mean) / std`, printed as the bits of the f32.
    #[test]
    fn values_are_those_of_torchvision() {
        let cases: [(u8, [u32; 3]); 6] = [
            (0, [0xbffe_a713, 0xbffd_7a10, 0xbfda_7891]),
            (1, [0xbffc_9ed3, 0xbffb_6a55, 0xbfd8_8d5a]),
            (77, [0xbf44_5784, 0xbf3d_7de2, 0xbf0d_71f2]),
            (128, [0x3d2f_2140, 0x3da6_33ae, 0x3e59_1825]),
            (254, [0x4002_c452, 0x4007_1088, 0x4006_7415]),
            (255, [0x4003_c873, 0x4008_1864, 0x4007_69b1]),
        ];
        for (byte, expected) in cases {
            let mut out = vec![f32::NAN; IMAGE_BYTES];
            augment_into(&[byte; IMAGE_BYTES], Crop::CENTRE, &mut out);
            let bits = [out[0], out[PLANE], out[2 * PLANE]].map(f32::to_bits);
            assert_eq!(bits, expected, "byte {byte}: {bits:x?}");
        }
    }

    #[test]
    fn draws_are_uniform_and_depend_on_their_place() {
        let mut counts = [[0u32; 9]; 2];
        let mut flips = 0u32;
        const DRAWS: u32 = 90_000;
        for sample in 0..DRAWS {
            let crop = Crop::draw(42, 1, sample);
            counts[0][usize::from(crop.dy)] += 1;
            counts[1][usize::from(crop.dx)] += 1;
            flips += u32::from(crop.flip);
        }
        // Six standard deviations of binomials with n = 90,000 and p = 1/9 (94.3) and p = 1/2 (150).
        assert!(counts.iter().flatten().all(|count| count.abs_diff(DRAWS / 9) < 6 * 95), "{counts:?}");
        assert!(flips.abs_diff(DRAWS / 2) < 6 * 150, "{flips} flips");

        // The definition, by which the same crops can be drawn elsewhere.
        let words = block(42, Purpose::Augment, 7, 49_999);
        let expected =
            Crop { dy: below(words[0], 9) as u8, dx: below(words[1], 9) as u8, flip: words[2] >= 1 << 31 };
        assert_eq!(Crop::draw(42, 7, 49_999), expected);

        let draws = |seed, epoch| (0..100).map(|sample| Crop::draw(seed, epoch, sample)).collect::<Vec<_>>();
        assert_eq!(draws(42, 1), draws(42, 1));
        assert_ne!(draws(42, 1), draws(42, 2));
        assert_ne!(draws(42, 1), draws(43, 1));
    }
}
