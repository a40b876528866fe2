//! The closer look at a run's final parameters: what it takes for what, with pictures, and the filters of its first layer.

use crate::predict::softmax;
use crate::tensorboard::is_first_layer;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use image::{Rgb, RgbImage, codecs::jpeg::JpegEncoder};
use pointwise_data::{CHANNELS, CLASS_NAMES, CLASSES, IMAGE_BYTES, Images, SIDE};
use pointwise_engine::State;
use pointwise_runs::{Analysis, EpochRecord, Filters, Mistake, Sheet};
use pointwise_training::{Last, Observer, StepProgress, TrainingError};

/// Images that are kept of each kind of mistake.
const OF_A_KIND: usize = 4;
/// The most confident mistakes of all that are kept.
const MOST_CONFIDENT: usize = 24;
/// Pictures in a row of the sheet.
const COLUMNS: usize = 20;
/// Of the JPEG: a picture takes about 900 bytes, and the eye sees no difference.
const QUALITY: u8 = 88;

/// Looks at the final parameters when a training ends.
pub(crate) struct Analyst;

impl Observer for Analyst {
    fn step(&mut self, _: &StepProgress) {}
    fn evaluating(&mut self, _: usize, _: usize) {}
    fn epoch(&mut self, _: &EpochRecord) {}

    fn last(&mut self, last: &mut Last<'_>) -> Result<Option<Analysis>, TrainingError> {
        let Some(logits) = last.logits()? else { return Ok(None) };
        Ok(Some(analyse(&logits, last.images, &last.state()?)))
    }
}

/// From the `(N, classes)` logits of the test images. The same numbers give the same analysis, byte for byte.
fn analyse(logits: &[f32], images: &Images, state: &State) -> Analysis {
    let mut confusion = vec![vec![0; CLASSES]; CLASSES];
    let mut mistakes = Vec::new();
    for (image, (row, &label)) in logits.chunks_exact(CLASSES).zip(images.labels()).enumerate() {
        // The first of equals, as everywhere.
        let predicted = (1..CLASSES).fold(0, |best, class| if row[class] > row[best] { class } else { best });
        confusion[usize::from(label)][predicted] += 1;
        if predicted != usize::from(label) {
            let confidence = softmax(row)[predicted];
            mistakes.push(Mistake { image: image as u32, label, predicted: predicted as u8, confidence });
        }
    }
    // The order of the test set among equals.
    mistakes.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    let mut kept = vec![0; CLASSES * CLASSES];
    let mut rank = 0;
    mistakes.retain(|mistake| {
        let kind = &mut kept[usize::from(mistake.label) * CLASSES + usize::from(mistake.predicted)];
        (*kind, rank) = (*kind + 1, rank + 1);
        *kind <= OF_A_KIND || rank <= MOST_CONFIDENT
    });
    Analysis {
        version: Analysis::VERSION,
        classes: CLASS_NAMES.map(str::to_owned).into(),
        confusion,
        sheet: sheet(images, &mistakes),
        mistakes,
        filters: state.parameters.iter().find(|(_, array)| is_first_layer(array)).map(|(name, array)| {
            Filters { name: name.clone(), side: array.shape[3] as u32, values: array.values.clone() }
        }),
    }
}

/// The pictures of the mistakes. Their side is a multiple of JPEG's blocks of 8, so that no picture bleeds into the next.
fn sheet(images: &Images, mistakes: &[Mistake]) -> Option<Sheet> {
    if mistakes.is_empty() {
        return None;
    }
    let rows = mistakes.len().div_ceil(COLUMNS);
    let mut picture = RgbImage::new((COLUMNS * SIDE) as u32, (rows * SIDE) as u32);
    let plane = IMAGE_BYTES / CHANNELS;
    for (number, mistake) in mistakes.iter().enumerate() {
        let pixels = images.image(mistake.image as usize);
        let (left, top) = (number % COLUMNS * SIDE, number / COLUMNS * SIDE);
        for at in 0..plane {
            let pixel = Rgb([pixels[at], pixels[plane + at], pixels[2 * plane + at]]);
            picture.put_pixel((left + at % SIDE) as u32, (top + at / SIDE) as u32, pixel);
        }
    }
    let mut jpeg = Vec::new();
    // Writing to memory fails for sizes beyond JPEG's 65,535 pixels alone; without pictures there is still a report.
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY).encode_image(&picture).ok()?;
    Some(Sheet { side: SIDE as u32, columns: COLUMNS as u32, jpeg: STANDARD.encode(jpeg) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointwise_engine::Array;

    /// Logits that say `predicted`, the more so the larger `by` is.
    fn say(predicted: usize, by: f32) -> [f32; CLASSES] {
        std::array::from_fn(|class| if class == predicted { by } else { 0.0 })
    }

    #[test]
    fn mistakes_are_counted_and_the_most_confident_are_kept() {
        // 40 cats: 10 are seen, 30 taken for dogs, with growing confidence.
        let labels = vec![3; 40];
        let pixels = (0..40).flat_map(|image| [image * 6; IMAGE_BYTES]).collect();
        let images = Images::new(pixels, labels).unwrap();
        let logits: Vec<f32> = (0..40)
            .flat_map(|image| if image < 10 { say(3, 1.0) } else { say(5, 0.1 * image as f32) })
            .collect();
        let mut state = State::default();
        let weight = Array { shape: vec![2, 3, 1, 1], values: vec![0.5; 6] };
        state.parameters.insert("features.0.weight".into(), weight);
        let found = analyse(&logits, &images, &state);
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
        assert_eq!(analyse(&logits, &images, &state), found);
    }

    #[test]
    fn rare_kinds_of_mistakes_are_kept_beside_the_confident_ones() {
        let mut labels = vec![0; 50];
        labels.extend([1; 6]);
        let images = Images::new(vec![0; 56 * IMAGE_BYTES], labels).unwrap();
        let sure = (0..50).flat_map(|_| say(2, 9.0));
        let unsure = (0..6).flat_map(|_| say(2, 0.5));
        let found = analyse(&sure.chain(unsure).collect::<Vec<_>>(), &images, &State::default());
        let of = |label| found.mistakes.iter().filter(|mistake| mistake.label == label).count();
        assert_eq!((of(0), of(1)), (24, 4));
        assert_eq!(found.mistakes[0].image, 0, "equals in the order of the test set");
        assert_eq!(found.filters, None);
    }

    #[test]
    fn a_network_without_mistakes_has_no_pictures() {
        let images = Images::new(vec![0; IMAGE_BYTES], vec![4]).unwrap();
        let found = analyse(&say(4, 1.0), &images, &State::default());
        found.check().unwrap();
        assert!(found.mistakes.is_empty() && found.sheet.is_none());
    }
}
