//! The analysis of a run's final parameters: which classes are confused, with pictures, and the filters of the first layer.

use crate::predict::softmax;
use crate::tensorboard::is_first_layer;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use image::{Rgb, RgbImage, codecs::jpeg::JpegEncoder};
use pointwise_data::Images;
use pointwise_engine::State;
use pointwise_runs::{Analysis, Filters, Mistake, Sheet};
use pointwise_training::{FinishedEpoch, Last, Observer, StepProgress, TrainingError};
use std::collections::HashMap;

/// Images kept of each kind of mistake.
const OF_A_KIND: usize = 4;
/// Most confident mistakes kept, whatever their kind.
const MOST_CONFIDENT: usize = 24;
/// Limit of the other mistakes kept: some of each kind for ten classes, but not for thousands of kinds.
const MOST_RARE: usize = 400;
/// Pictures in a row of the sheet.
const COLUMNS: usize = 20;
/// Largest side of a picture, in pixels.
const LARGEST_SIDE: usize = 64;
/// JPEG quality: a picture takes about 900 bytes, and the eye sees no difference.
const QUALITY: u8 = 88;

/// Looks at the final parameters when a training ends.
pub(crate) struct Analyst {
    /// The names of the classes.
    pub(crate) classes: Vec<String>,
}

impl Observer for Analyst {
    fn step(&mut self, _: &StepProgress) {}
    fn evaluating(&mut self, _: usize, _: usize) {}
    fn epoch(&mut self, _: &FinishedEpoch<'_>) {}

    fn last(&mut self, last: &mut Last<'_>) -> Result<Option<Analysis>, TrainingError> {
        let Some(logits) = last.logits()? else { return Ok(None) };
        Ok(Some(analyse(&logits, last.images, &self.classes, &last.state()?)))
    }
}

/// From the `(N, classes)` logits of the test images. The same numbers give the same analysis, byte for byte.
fn analyse(logits: &[f32], images: &Images, names: &[String], state: &State) -> Analysis {
    let classes = names.len();
    let rows = if classes <= Analysis::MAX_CONFUSED { classes } else { 0 };
    let mut confusion = vec![vec![0; classes]; rows];
    let mut mistakes = Vec::new();
    for (image, (row, &label)) in logits.chunks_exact(classes).zip(images.labels()).enumerate() {
        // The first of equal logits, as everywhere.
        let predicted = (1..classes).fold(0, |best, class| if row[class] > row[best] { class } else { best });
        if let Some(row) = confusion.get_mut(usize::from(label)) {
            row[predicted] += 1;
        }
        if predicted != usize::from(label) {
            let confidence = softmax(row)[predicted];
            mistakes.push(Mistake { image: image as u32, label, predicted: predicted as u16, confidence });
        }
    }
    // Equals keep the order of the test set.
    mistakes.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    let mut kept: HashMap<(u16, u16), usize> = HashMap::new();
    let (mut rank, mut rare) = (0, 0);
    mistakes.retain(|mistake| {
        rank += 1;
        let kind = kept.entry((mistake.label, mistake.predicted)).or_default();
        *kind += 1;
        if rank <= MOST_CONFIDENT {
            return true;
        }
        rare += usize::from(*kind <= OF_A_KIND);
        *kind <= OF_A_KIND && rare <= MOST_RARE
    });
    Analysis {
        version: Analysis::VERSION,
        classes: names.to_vec(),
        confusion,
        sheet: sheet(images, &mistakes),
        mistakes,
        filters: state.parameters.iter().find(|(_, array)| is_first_layer(array)).map(|(name, array)| {
            Filters { name: name.clone(), side: array.shape[3] as u32, values: array.values.clone() }
        }),
    }
}

/// The pictures of the mistakes, each in the middle of a square. Their side is a multiple of JPEG's blocks of 8, so that no picture
/// bleeds into the next. Images larger than [`LARGEST_SIDE`] are subsampled.
fn sheet(images: &Images, mistakes: &[Mistake]) -> Option<Sheet> {
    if mistakes.is_empty() {
        return None;
    }
    let [channels, height, width] = images.shape();
    let every = height.max(width).div_ceil(LARGEST_SIDE);
    let (rows, columns) = (height.div_ceil(every), width.div_ceil(every));
    let side = rows.max(columns).next_multiple_of(8);
    let (above, before) = ((side - rows) / 2, (side - columns) / 2);
    let mut picture =
        RgbImage::new((COLUMNS * side) as u32, (mistakes.len().div_ceil(COLUMNS) * side) as u32);
    let plane = height * width;
    for (number, mistake) in mistakes.iter().enumerate() {
        let pixels = images.image(mistake.image as usize);
        let (left, top) = (number % COLUMNS * side + before, number / COLUMNS * side + above);
        for (y, x) in (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))) {
            let at = y * every * width + x * every;
            // Grey in all three, or red, green and blue.
            let pixel = Rgb(std::array::from_fn(|color| pixels[color.min(channels - 1) * plane + at]));
            picture.put_pixel((left + x) as u32, (top + y) as u32, pixel);
        }
    }
    let mut jpeg = Vec::new();
    // Writing to memory fails only for sizes beyond JPEG's 65,535 pixels; without pictures there is still a report.
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY).encode_image(&picture).ok()?;
    Some(Sheet { side: side as u32, columns: COLUMNS as u32, jpeg: STANDARD.encode(jpeg) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointwise_engine::Array;

    const CLASSES: usize = 10;
    const SHAPE: [usize; 3] = [3, 32, 32];
    const IMAGE_BYTES: usize = 3 * SIDE * SIDE;
    const SIDE: usize = 32;

    fn names() -> Vec<String> {
        (0..CLASSES).map(|class| format!("class {class}")).collect()
    }

    /// Logits that predict `predicted`, the more confidently the larger `by` is.
    fn say(predicted: usize, by: f32) -> [f32; CLASSES] {
        std::array::from_fn(|class| if class == predicted { by } else { 0.0 })
    }

    #[test]
    fn mistakes_are_counted_and_the_most_confident_are_kept() {
        // 40 cats: 10 are recognised, 30 taken for dogs, with growing confidence.
        let labels = vec![3; 40];
        let pixels = (0..40).flat_map(|image| [image * 6; IMAGE_BYTES]).collect();
        let images = Images::new(SHAPE, CLASSES, pixels, labels).unwrap();
        let logits: Vec<f32> = (0..40)
            .flat_map(|image| if image < 10 { say(3, 1.0) } else { say(5, 0.1 * image as f32) })
            .collect();
        let mut state = State::default();
        let weight = Array { shape: vec![2, 3, 1, 1], values: vec![0.5; 6] };
        state.parameters.insert("features.0.weight".into(), weight);
        let found = analyse(&logits, &images, &names(), &state);
        found.check().unwrap();
        assert_eq!((found.confusion[3][3], found.confusion[3][5]), (10, 30));
        let kept: Vec<u32> = found.mistakes.iter().map(|mistake| mistake.image).collect();
        assert_eq!(kept, (16..40).rev().collect::<Vec<_>>(), "the 24 most confident of all");
        assert!((found.mistakes[0].confidence - softmax(&say(5, 3.9))[5]).abs() < 1e-12);
        assert_eq!(found.filters.as_ref().unwrap().values, [0.5; 6]);

        let sheet = found.sheet.clone().unwrap();
        let picture = image::load_from_memory(&STANDARD.decode(sheet.jpeg).unwrap()).unwrap().into_rgb8();
        assert_eq!((picture.width(), picture.height()), (640, 64));
        // JPEG keeps a grey square to a step or two of 255.
        for (number, mistake) in found.mistakes.iter().enumerate() {
            let (x, y) = ((number % COLUMNS * SIDE + 31) as u32, (number / COLUMNS * SIDE + 31) as u32);
            let off = i32::from(picture.get_pixel(x, y)[0]) - mistake.image as i32 * 6;
            assert!(off.abs() <= 2, "{mistake:?}: {off}");
        }
        assert_eq!(analyse(&logits, &images, &names(), &state), found);
    }

    #[test]
    fn rare_kinds_of_mistakes_are_kept_beside_the_confident_ones() {
        let mut labels = vec![0; 50];
        labels.extend([1; 6]);
        let images = Images::new(SHAPE, CLASSES, vec![0; 56 * IMAGE_BYTES], labels).unwrap();
        let sure = (0..50).flat_map(|_| say(2, 9.0));
        let unsure = (0..6).flat_map(|_| say(2, 0.5));
        let found = analyse(&sure.chain(unsure).collect::<Vec<_>>(), &images, &names(), &State::default());
        let of = |label| found.mistakes.iter().filter(|mistake| mistake.label == label).count();
        assert_eq!((of(0), of(1)), (24, 4));
        assert_eq!(found.mistakes[0].image, 0, "equals in the order of the test set");
        assert_eq!(found.filters, None);
    }

    #[test]
    fn a_network_without_mistakes_has_no_pictures() {
        let images = Images::new(SHAPE, CLASSES, vec![0; IMAGE_BYTES], vec![4]).unwrap();
        let found = analyse(&say(4, 1.0), &images, &names(), &State::default());
        found.check().unwrap();
        assert!(found.mistakes.is_empty() && found.sheet.is_none());
    }

    #[test]
    fn images_of_any_shape_and_number_of_classes_are_shown() {
        for (shape, classes, side) in [([1, 28, 28], 10, 32), ([3, 20, 100], 300, 56), ([1, 5, 3], 2, 8)] {
            let names: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
            let pixels = vec![200; 2 * shape.iter().product::<usize>()];
            let images = Images::new(shape, classes, pixels, vec![0, classes as u16 - 1]).unwrap();
            let logits: Vec<f32> =
                (0..2 * classes).map(|place| if place % classes == 1 { 2.0 } else { 0.0 }).collect();
            let found = analyse(&logits, &images, &names, &State::default());
            found.check().unwrap();
            assert_eq!(found.confusion.len(), if classes > 100 { 0 } else { classes });
            let sheet = found.sheet.unwrap();
            assert_eq!(sheet.side, side, "{shape:?}");
            let picture = image::load_from_memory(&STANDARD.decode(sheet.jpeg).unwrap()).unwrap().into_rgb8();
            let middle = picture.get_pixel(side / 2, side / 2).0;
            assert!(middle.iter().all(|value| value.abs_diff(200) <= 8), "{shape:?}: {middle:?}");
        }
    }
}
