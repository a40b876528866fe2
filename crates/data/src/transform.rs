//! From the bytes of an image to the numbers that a network sees, in one pass.
//!
//! The pass is torchvision's `RandomCrop(side, padding)`, `RandomHorizontalFlip`, `ToTensor`, `Normalize` to the bit, and then
//! Cutout as its authors have it (DeVries and Taylor 2017).

use pointwise_random::{Purpose, below, block};
use pointwise_recipe::{Augment, Flip, PaddingMode, TestTimeAugmentation};

use crate::spec::image_bytes;
use crate::{DatasetSpec, Error, Normalisation};

/// What is drawn for one image; the default leaves it as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Draw {
    /// Row of the image that becomes the first one; below 0 or beyond the last one in the padding.
    pub top: i32,
    /// Column of the image that becomes the first one.
    pub left: i32,
    /// Left and right exchanged, after the crop.
    pub flip: bool,
    /// Row and column of the result around which Cutout cuts.
    pub cutout: Option<[u32; 2]>,
}

/// Crops, flips, normalises and cuts out images of one shape.
#[derive(Debug, Clone)]
pub struct Transform {
    shape: [usize; 3],
    augment: Augment,
    table: Vec<[f32; 256]>,
}

impl Transform {
    /// For images of `shape` (C, H, W).
    ///
    /// # Errors
    ///
    /// [`Error::Augment`] if the padding or the cutout is larger than any image, or if reflections need more pixels than an image has;
    /// [`Error::Channels`] if the figures are for another number of channels.
    pub fn new(shape: [usize; 3], augment: Augment, normalisation: &Normalisation) -> Result<Self, Error> {
        check_augment(augment, shape)?;
        normalisation.check(shape[0])?;
        Ok(Self { shape, augment, table: normalisation.table() })
    }

    /// What is done to a sample (its place in the data set) in an epoch (from 1): a pure function of the arguments.
    ///
    /// Of the block of four words for epoch and sample, the first decides the rows, the second the columns, the highest bit of the third the flip,
    /// and the fourth the centre of the cutout. An alternating flip is decided in epoch 1.
    #[must_use]
    #[inline]
    pub fn draw(&self, seed: u64, epoch: u32, sample: u32) -> Draw {
        let Augment { crop, flip, cutout, .. } = self.augment;
        let [_, height, width] = self.shape;
        let words_of = |epoch| block(seed, Purpose::Augment, epoch, u64::from(sample));
        let words = words_of(epoch);
        let offset = |word| below(word, 2 * crop + 1) as i32 - crop as i32;
        Draw {
            top: offset(words[0]),
            left: offset(words[1]),
            flip: match flip {
                Flip::None => false,
                Flip::Random => words[2] >> 31 == 1,
                Flip::Alternating => (words_of(1)[2] >> 31 == 1) ^ epoch.is_multiple_of(2),
            },
            cutout: (cutout > 0).then(|| {
                let pixel = below(words[3], (height * width) as u32);
                [pixel / width as u32, pixel % width as u32]
            }),
        }
    }

    /// Transforms `image` (C * H * W bytes) into `out` (as many values, normalised). What is cut out becomes 0.
    ///
    /// Padding that `draw` reaches beyond what reflections can show is black.
    ///
    /// # Panics
    ///
    /// If `image` or `out` has another length.
    pub fn apply(&self, image: &[u8], draw: Draw, out: &mut [f32]) {
        let [_, height, width] = self.shape;
        let len = image_bytes(self.shape);
        assert_eq!((image.len(), out.len()), (len, len), "an image has C x H x W values");
        let [rows, columns] = match draw.cutout {
            Some([row, column]) => [self.cut(row, height), self.cut(column, width)],
            None => [0..0, 0..0],
        };
        let planes = image.chunks_exact(height * width).zip(out.chunks_exact_mut(height * width));
        for ((plane, out), table) in planes.zip(&self.table) {
            for (y, row) in out.chunks_exact_mut(width).enumerate() {
                match self.source(y as i64 + i64::from(draw.top), height) {
                    Some(y) => self.fill_row(&plane[y * width..][..width], draw.left, table, row),
                    None => row.fill(table[0]),
                }
                if draw.flip {
                    row.reverse();
                }
            }
            for row in out.chunks_exact_mut(width).take(rows.end).skip(rows.start) {
                row[columns.clone()].fill(0.0);
            }
        }
    }

    /// Channels, rows and columns of an image.
    #[must_use]
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The value for each byte of each channel, as [`Normalisation::table`] has it.
    #[must_use]
    pub fn table(&self) -> &[[f32; 256]] {
        &self.table
    }

    /// The part of `0..len` that is cut out around `centre`: `cutout` pixels, beginning half of them before it.
    fn cut(&self, centre: u32, len: usize) -> std::ops::Range<usize> {
        let start = i64::from(centre) - i64::from(self.augment.cutout / 2);
        let within = |at: i64| at.clamp(0, len as i64) as usize;
        within(start)..within(start + i64::from(self.augment.cutout))
    }

    /// The row (or column) of an image of `len` that shows at `at`; `None` where it is black.
    fn source(&self, at: i64, len: usize) -> Option<usize> {
        let last = len as i64 - 1;
        let at = match self.augment.padding_mode {
            PaddingMode::Reflect if at < 0 => -at,
            PaddingMode::Reflect if at > last => 2 * last - at,
            _ => at,
        };
        usize::try_from(at).ok().filter(|at| *at < len)
    }

    fn fill_row(&self, pixels: &[u8], left: i32, table: &[f32; 256], row: &mut [f32]) {
        let (width, left) = (row.len(), i64::from(left));
        // Columns of the row that show the image itself: row[x] = pixels[x + left].
        let first = (-left).clamp(0, width as i64) as usize;
        let end = (width as i64 - left).clamp(first as i64, width as i64) as usize;
        for x in (0..first).chain(end..width) {
            let pixel = self.source(x as i64 + left, width).map_or(0, |x| pixels[x]);
            row[x] = table[usize::from(pixel)];
        }
        if first < end {
            let pixels = &pixels[(first as i64 + left) as usize..];
            for (value, &byte) in row[first..end].iter_mut().zip(pixels) {
                *value = table[usize::from(byte)];
            }
        }
    }
}

/// Whether images of `shape` (C, H, W) can be augmented this way.
///
/// # Errors
///
/// [`Error::Augment`] if the padding or the cutout is larger than any image, or if reflections need more pixels than an image has.
pub fn check_augment(augment: Augment, shape: [usize; 3]) -> Result<(), Error> {
    let [_, height, width] = shape;
    let Augment { crop, padding_mode, cutout, .. } = augment;
    let refused = |cause| Err(Error::Augment { cause });
    for (key, value) in [("crop", crop), ("cutout", cutout)] {
        if value as usize > DatasetSpec::MAX_SIDE {
            return refused(format!(
                "augment.{key} is {value}: give a number from 0 to {}",
                DatasetSpec::MAX_SIDE
            ));
        }
    }
    if padding_mode == PaddingMode::Reflect && crop as usize >= height.min(width) && crop > 0 {
        return refused(format!(
            "augment.crop is {crop} with reflections, of which images of {height} x {width} pixels have only {}: give a smaller \
             crop, or padding_mode = \"zeros\"",
            height.min(width) - 1
        ));
    }
    Ok(())
}

/// Whether images of `shape` (C, H, W) can have these views.
///
/// # Errors
///
/// [`Error::Augment`] if they would move by more pixels than reflections can show.
pub fn check_views(views: TestTimeAugmentation, shape: [usize; 3]) -> Result<(), Error> {
    let [_, height, width] = shape;
    let translate = views.translate;
    if translate > 0 && translate as usize >= height.min(width) {
        let most = height.min(width).saturating_sub(1);
        return Err(Error::Augment {
            cause: format!(
                "test-time-augmentation.translate is {translate}, and images of {height} x {width} pixels can be moved by at most \
                 {most}, since the pixels that come in are mirrored: give a smaller one"
            ),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    /// The steps one after the other, as torchvision has them, and Cutout's.
    fn naive(
        shape: [usize; 3],
        augment: Augment,
        figures: &Normalisation,
        image: &[u8],
        draw: Draw,
    ) -> Vec<f32> {
        let [channels, height, width] = shape;
        let pad = augment.crop as usize;
        let (tall, wide) = (height + 2 * pad, width + 2 * pad);
        let mut padded = vec![0u8; channels * tall * wide];
        // After -2 -1 comes 0 1 2 ...: the edge is not repeated.
        let mirrored = |at: usize, len: usize| {
            let at = at as i64 - pad as i64;
            let at = at.abs();
            if at < len as i64 { at } else { 2 * (len as i64 - 1) - at }
        };
        for c in 0..channels {
            for y in 0..tall {
                for x in 0..wide {
                    let inside = (pad..pad + height).contains(&y) && (pad..pad + width).contains(&x);
                    if inside || augment.padding_mode == PaddingMode::Reflect {
                        let (from_y, from_x) = (mirrored(y, height) as usize, mirrored(x, width) as usize);
                        padded[(c * tall + y) * wide + x] = image[(c * height + from_y) * width + from_x];
                    }
                }
            }
        }
        let mut out = Vec::new();
        for c in 0..channels {
            for y in 0..height {
                for x in 0..width {
                    let from_x = if draw.flip { width - 1 - x } else { x };
                    let from_y = (y as i64 + i64::from(draw.top) + pad as i64) as usize;
                    let from_x = (from_x as i64 + i64::from(draw.left) + pad as i64) as usize;
                    let byte = padded[(c * tall + from_y) * wide + from_x];
                    let value = (f32::from(byte) / 255.0 - figures.mean[c]) / figures.std[c];
                    // y1 = clip(y - length // 2, 0, h); y2 = clip(y + length // 2, 0, h), for even lengths.
                    let within = |at: usize, centre: u32| {
                        let half = i64::from(augment.cutout / 2);
                        (i64::from(centre) - half..i64::from(centre) + half).contains(&(at as i64))
                    };
                    let cut = draw.cutout.is_some_and(|[row, column]| within(y, row) && within(x, column));
                    out.push(if cut { 0.0 } else { value });
                }
            }
        }
        out
    }

    fn figures(channels: usize) -> Normalisation {
        let [mean, std] = crate::published::CIFAR10_FIGURES;
        Normalisation { mean: mean[..channels].to_vec(), std: std[..channels].to_vec() }
    }

    fn applied(shape: [usize; 3], augment: Augment, image: &[u8], draw: Draw) -> Vec<f32> {
        let mut out = vec![f32::NAN; image.len()];
        Transform::new(shape, augment, &figures(shape[0])).unwrap().apply(image, draw, &mut out);
        out
    }

    fn assert_same_bits(actual: &[f32], expected: &[f32], what: &str) {
        for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
            assert_eq!(a.to_bits(), e.to_bits(), "{what}: {a} instead of {e} at {i}");
        }
    }

    #[test]
    fn every_crop_flip_and_cutout_equals_the_separate_steps_to_the_bit() {
        for (shape, crop) in [([3, 7, 5], 4), ([1, 5, 9], 2), ([1, 1, 1], 0), ([3, 2, 6], 1)] {
            let image = noise(3, image_bytes(shape));
            for padding_mode in [PaddingMode::Zeros, PaddingMode::Reflect] {
                for cutout in [0, 2, 4, 20] {
                    let augment = Augment { crop, padding_mode, flip: Flip::Random, cutout };
                    let margin = crop as i32;
                    for top in -margin..=margin {
                        for left in -margin..=margin {
                            for flip in [false, true] {
                                let pixel = [(top + margin) as u32 % 5, (left + margin) as u32];
                                let draw = Draw { top, left, flip, cutout: (cutout > 0).then_some(pixel) };
                                let expected = naive(shape, augment, &figures(shape[0]), &image, draw);
                                let what = format!("{shape:?} {augment:?} {draw:?}");
                                assert_same_bits(&applied(shape, augment, &image, draw), &expected, &what);
                            }
                        }
                    }
                }
            }
        }
    }

    /// `numpy.pad(row, 3, mode="reflect")` and torchvision's `RandomCrop(padding_mode="reflect")`: 3 2 1 | 0 1 2 3 4 | 3 2 1.
    #[test]
    fn reflections_do_not_repeat_the_edge() {
        let augment = Augment { crop: 3, padding_mode: PaddingMode::Reflect, ..Augment::NONE };
        let normalisation = Normalisation { mean: vec![0.0], std: vec![1.0 / 255.0] };
        let transform = Transform::new([1, 4, 5], augment, &normalisation).unwrap();
        let image: Vec<u8> = (0..4).flat_map(|y| (0..5).map(move |x| 10 * y + x)).collect();
        let row = |draw| {
            let mut out = vec![0.0; 20];
            transform.apply(&image, draw, &mut out);
            out[..5].iter().map(|value| value.round() as i32).collect::<Vec<_>>()
        };
        assert_eq!(row(Draw { left: -3, ..Draw::default() }), [3, 2, 1, 0, 1]);
        assert_eq!(row(Draw { left: 3, ..Draw::default() }), [3, 4, 3, 2, 1]);
        assert_eq!(row(Draw { top: -2, flip: true, ..Draw::default() }), [24, 23, 22, 21, 20]);
        assert_eq!(row(Draw { top: 3, left: 1, ..Draw::default() }), [31, 32, 33, 34, 33]);
    }

    /// An odd side is as long as it says, and one longer than the image takes all of it.
    #[test]
    fn what_is_cut_out_is_the_mean() {
        let zeros = |cutout, pixel| {
            let augment = Augment { cutout, ..Augment::NONE };
            let draw = Draw { cutout: Some(pixel), ..Draw::default() };
            let out = applied([3, 6, 6], augment, &noise(1, 108), draw);
            let zero = |i: &usize| out[*i] == 0.0 && out[36 + i] == 0.0 && out[72 + i] == 0.0;
            (0..36).filter(zero).collect::<Vec<_>>()
        };
        assert_eq!(zeros(1, [2, 3]), [15]);
        assert_eq!(zeros(3, [0, 5]), [4, 5, 10, 11]);
        assert_eq!(zeros(2, [1, 1]), [0, 1, 6, 7]);
        assert_eq!(zeros(12, [0, 0]).len(), 36);
    }

    #[test]
    fn draws_far_outside_show_black() {
        let augment = Augment { crop: 2, padding_mode: PaddingMode::Reflect, ..Augment::NONE };
        for augment in [augment, Augment::CROP_FLIP] {
            for (top, left) in [(6, 0), (i32::MAX, 0), (0, i32::MIN), (-40, 7), (0, 300)] {
                for flip in [false, true] {
                    let draw = Draw { top, left, flip, cutout: Some([u32::MAX, u32::MAX]) };
                    let out = applied([1, 3, 4], augment, &noise(5, 12), draw);
                    assert!(out.iter().all(|value| value.is_finite()), "{draw:?}");
                }
            }
        }
    }

    /// Values of `torchvision.transforms.Normalize(mean, std)(ToTensor()(image))` for an image of one byte value:
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
            let out = applied([3, 1, 1], Augment::NONE, &[byte; 3], Draw::default());
            let bits: Vec<u32> = out.into_iter().map(f32::to_bits).collect();
            assert_eq!(bits, expected, "byte {byte}: {bits:x?}");
        }
    }

    fn transform(shape: [usize; 3], augment: Augment) -> Transform {
        Transform::new(shape, augment, &figures(shape[0])).unwrap()
    }

    #[test]
    fn draws_are_uniform_and_depend_on_their_place() {
        let transform = transform([3, 3, 4], Augment { cutout: 1, ..Augment::CROP_FLIP });
        let mut counts = [[0u32; 9]; 2];
        let (mut flips, mut pixels) = (0u32, [0u32; 12]);
        const DRAWS: u32 = 90_000;
        for sample in 0..DRAWS {
            let Draw { top, left, flip, cutout } = transform.draw(42, 1, sample);
            counts[0][(top + 4) as usize] += 1;
            counts[1][(left + 4) as usize] += 1;
            flips += u32::from(flip);
            let [row, column] = cutout.unwrap();
            pixels[(4 * row + column) as usize] += 1;
        }
        // Six standard deviations of binomials with n = 90,000 and p = 1/9 (94.3), p = 1/2 (150) and p = 1/12 (82.9).
        assert!(counts.iter().flatten().all(|count| count.abs_diff(DRAWS / 9) < 6 * 95), "{counts:?}");
        assert!(flips.abs_diff(DRAWS / 2) < 6 * 150, "{flips} flips");
        assert!(pixels.iter().all(|count| count.abs_diff(DRAWS / 12) < 6 * 83), "{pixels:?}");

        let draws =
            |seed, epoch| (0..100).map(|sample| transform.draw(seed, epoch, sample)).collect::<Vec<_>>();
        assert_eq!(draws(42, 1), draws(42, 1));
        assert_ne!(draws(42, 1), draws(42, 2));
        assert_ne!(draws(42, 1), draws(43, 1));
    }

    /// The definition, by which the same crops are drawn on a GPU.
    #[test]
    fn the_draws_of_crop_and_flip_are_the_first_three_words() {
        let transform = transform([3, 32, 32], Augment::CROP_FLIP);
        for sample in 49_990..50_000 {
            let words = block(42, Purpose::Augment, 7, sample);
            let expected = Draw {
                top: below(words[0], 9) as i32 - 4,
                left: below(words[1], 9) as i32 - 4,
                flip: words[2] >= 1 << 31,
                cutout: None,
            };
            assert_eq!(transform.draw(42, 7, sample as u32), expected);
        }
        // Cutout uses the fourth.
        let cutout = self::transform([3, 5, 7], Augment { cutout: 2, ..Augment::NONE });
        let pixel = below(block(42, Purpose::Augment, 7, 9)[3], 35);
        let expected = Draw { cutout: Some([pixel / 7, pixel % 7]), ..Draw::default() };
        assert_eq!(cutout.draw(42, 7, 9), expected);
        let none = self::transform([3, 32, 32], Augment::NONE);
        assert_eq!(none.draw(42, 7, 3), Draw::default());
    }

    #[test]
    fn alternating_flips_show_both_sides_equally_often() {
        let alternating = transform([1, 2, 2], Augment { flip: Flip::Alternating, ..Augment::NONE });
        let random = transform([1, 2, 2], Augment { flip: Flip::Random, ..Augment::NONE });
        let mut first = 0;
        for sample in 0..1000 {
            let flips: Vec<bool> = (1..=6).map(|epoch| alternating.draw(42, epoch, sample).flip).collect();
            assert!(flips.windows(2).all(|pair| pair[0] != pair[1]), "{flips:?}");
            assert_eq!(flips[0], random.draw(42, 1, sample).flip);
            first += u32::from(flips[0]);
        }
        // Six standard deviations of a binomial with n = 1,000 and p = 1/2.
        assert!(first.abs_diff(500) < 95, "{first}");
    }

    #[test]
    fn what_images_cannot_have_done_is_refused() {
        let reflect = |crop| Augment { crop, padding_mode: PaddingMode::Reflect, ..Augment::NONE };
        assert!(check_augment(reflect(4), [3, 5, 8]).is_ok());
        assert!(check_augment(reflect(0), [3, 1, 1]).is_ok());
        assert!(check_augment(Augment { crop: 40, ..Augment::NONE }, [3, 5, 8]).is_ok());
        for (augment, expected) in [
            (reflect(5), "augment.crop is 5 with reflections, of which images of 5 x 8 pixels have only 4"),
            (Augment { crop: 5000, ..Augment::NONE }, "augment.crop is 5000: give a number from 0 to 4096"),
            (
                Augment { cutout: 4097, ..Augment::NONE },
                "augment.cutout is 4097: give a number from 0 to 4096",
            ),
        ] {
            let error = Transform::new([3, 5, 8], augment, &figures(3)).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        let error = Transform::new([1, 5, 8], Augment::NONE, &figures(3)).unwrap_err().to_string();
        assert!(error.contains("3 channels"), "{error}");
    }
}
