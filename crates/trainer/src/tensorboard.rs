//! `train --tensorboard`: what TensorBoard shows of a run, as event files in its folder.

use image::{ImageFormat, Rgb, RgbImage};
use pointwise_data::{BatchSettings, Images, training_batches};
use pointwise_engine::Array;
use pointwise_process::note;
use pointwise_runs::Analysis;
use pointwise_tensorboard::{EventWriter, Value};
use pointwise_training::{FinishedEpoch, Last, Observer, StepProgress, TrainingError};
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Images of a batch that are shown.
const SHOWN: usize = 36;

/// Follows a training and writes it down. The first error ends the writing, not the training: it is reported on stderr.
pub(crate) struct TensorBoard<'a> {
    folder: PathBuf,
    images: &'a Arc<Images>,
    settings: BatchSettings,
    writer: Option<EventWriter>,
    failed: bool,
    /// Of the newest recorded step.
    recorded: Instant,
    /// Images since then.
    since: usize,
}

impl<'a> TensorBoard<'a> {
    pub(crate) fn new(folder: PathBuf, images: &'a Arc<Images>, settings: BatchSettings) -> Self {
        let recorded = Instant::now();
        Self { folder, images, settings, writer: None, failed: false, recorded, since: 0 }
    }

    /// Adds events. The file is created at the first step seen, which is not the run's first if the run was resumed.
    fn write(&mut self, step: u64, values: anyhow::Result<Vec<(String, Value)>>) {
        if self.failed {
            return;
        }
        let written = values.and_then(|values| {
            let writer = match &mut self.writer {
                Some(writer) => writer,
                none => none.insert(EventWriter::create(&self.folder, step)?),
            };
            let values: Vec<_> = values.iter().map(|(tag, value)| (tag.as_str(), value.clone())).collect();
            Ok(writer.write(step, &values)?)
        });
        if let Err(error) = written {
            self.failed = true;
            note!(
                "{}: no more events for TensorBoard, the training continues: {error:#}",
                self.folder.display()
            );
        }
    }

    /// The first images of an epoch as the network sees them.
    fn batch(&self, epoch: u32) -> anyhow::Result<Vec<(String, Value)>> {
        let Some(batch) = training_batches(self.images, &self.settings, epoch, 0)?.next() else {
            return Ok(Vec::new());
        };
        let [channels, height, width] = self.images.shape();
        let (mean, std) = (&self.settings.normalisation.mean, &self.settings.normalisation.std);
        let byte = |channel: usize, value: f32| (value * std[channel] + mean[channel]) * 255.0;
        let images = batch.images.chunks_exact(channels * height * width).take(SHOWN);
        let tiles: Vec<Tile> = images.map(|image| tile(image, [channels, height, width], byte)).collect();
        Ok(vec![("batch/augmented".to_owned(), grid(&tiles, [height, width], 6, 2)?)])
    }
}

impl Observer for TensorBoard<'_> {
    fn step(&mut self, at: &StepProgress) {
        self.since += at.images;
        // With the epoch's first step; a file that begins later shows its epoch's images, too.
        if at.batch == 1 || self.writer.is_none() {
            let values = self.batch(at.epoch);
            self.write(at.step, values);
        }
        if let Some(loss) = at.loss {
            let rate = self.since as f64 / self.recorded.elapsed().as_secs_f64();
            (self.recorded, self.since) = (Instant::now(), 0);
            let figures = [
                ("step/loss", Some(loss)),
                ("step/accuracy", at.accuracy),
                ("step/images_per_second", Some(rate)),
            ];
            self.write(at.step, Ok(scalars(&figures)));
        }
    }

    fn evaluating(&mut self, _: usize, _: usize) {}

    fn epoch(&mut self, epoch: &FinishedEpoch<'_>) {
        let record = epoch.record;
        let values = epoch.parameters().map_err(anyhow::Error::from).and_then(|parameters| {
            let mut values = scalars(&[
                ("epoch/train_loss", Some(record.train_loss)),
                ("epoch/train_accuracy", Some(record.train_acc)),
                ("epoch/test_loss", record.test_loss),
                ("epoch/test_accuracy", record.test_acc),
                ("epoch/validation_loss", record.val_loss),
                ("epoch/validation_accuracy", record.val_acc),
                ("epoch/ema_loss", record.ema_loss),
                ("epoch/ema_accuracy", record.ema_acc),
                ("epoch/train_seconds", Some(record.train_seconds)),
            ]);
            if let Some(weight) = parameters.values().find(|array| is_first_layer(array)) {
                values.push(("filters/first_layer".to_owned(), filters(weight)?));
            }
            values.extend(
                parameters
                    .into_iter()
                    .map(|(name, array)| (format!("parameters/{name}"), Value::histogram(array.values))),
            );
            Ok(values)
        });
        self.write(record.step, values);
        // An evaluation lies between the steps.
        (self.recorded, self.since) = (Instant::now(), 0);
    }
}

/// Two observers of the same training.
pub(crate) struct Both<'a>(pub(crate) &'a mut dyn Observer, pub(crate) &'a mut dyn Observer);

impl Observer for Both<'_> {
    fn step(&mut self, progress: &StepProgress) {
        self.0.step(progress);
        self.1.step(progress);
    }

    fn evaluating(&mut self, done: usize, total: usize) {
        self.0.evaluating(done, total);
        self.1.evaluating(done, total);
    }

    fn epoch(&mut self, epoch: &FinishedEpoch<'_>) {
        self.0.epoch(epoch);
        self.1.epoch(epoch);
    }

    fn last(&mut self, last: &mut Last<'_>) -> Result<Option<Analysis>, TrainingError> {
        Ok(self.0.last(last)?.or(self.1.last(last)?))
    }
}

/// The figures that were measured.
fn scalars(figures: &[(&str, Option<f64>)]) -> Vec<(String, Value)> {
    let measured = figures.iter().filter_map(|(tag, value)| Some((*tag, (*value)?)));
    measured.map(|(tag, value)| (tag.to_owned(), Value::Scalar(value as f32))).collect()
}

/// Whether an array is the weight of a convolution of red, green and blue.
pub(crate) fn is_first_layer(array: &Array) -> bool {
    matches!(array.shape[..], [_, 3, height, width] if height == width)
}

/// Each filter of the first layer as a picture: grey is zero, and the largest weight of all is at the end of the scale.
fn filters(weight: &Array) -> anyhow::Result<Value> {
    let side = weight.shape[3];
    let largest = weight.values.iter().fold(f32::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
    let tiles: Vec<Tile> = weight
        .values
        .chunks_exact(3 * side * side)
        .map(|filter| tile(filter, [3, side, side], |_, value| 127.5 + 127.5 * value / largest))
        .collect();
    grid(&tiles, [side, side], 8, 8)
}

/// A rectangle of pixels, row by row.
type Tile = Vec<Rgb<u8>>;

/// From planes of red, green and blue, or a grey one, each value mapped to `0..=255` by `byte(channel, value)`.
fn tile(planes: &[f32], [channels, height, width]: [usize; 3], byte: impl Fn(usize, f32) -> f32) -> Tile {
    let plane = height * width;
    // The conversion saturates.
    let value = |channel: usize, at: usize| byte(channel, planes[channel * plane + at]).round() as u8;
    let pixel = |at: usize| Rgb(std::array::from_fn(|color| value(color.min(channels - 1), at)));
    (0..plane).map(pixel).collect()
}

/// A grid of tiles with a black pixel in between, each pixel drawn `scale` times as large.
fn grid(tiles: &[Tile], [rows, row]: [usize; 2], columns: usize, scale: usize) -> anyhow::Result<Value> {
    let (down, right) = (rows * scale + 1, row * scale + 1);
    let columns = columns.min(tiles.len()).max(1);
    let (width, height) = ((columns * right) as u32, (tiles.len().div_ceil(columns) * down) as u32);
    let mut picture = RgbImage::new(width, height);
    for (number, tile) in tiles.iter().enumerate() {
        let (left, top) = (number % columns * right, number / columns * down);
        for y in 0..rows * scale {
            for x in 0..row * scale {
                let pixel = tile[y / scale * row + x / scale];
                picture.put_pixel((left + x) as u32, (top + y) as u32, pixel);
            }
        }
    }
    let mut png = Cursor::new(Vec::new());
    picture.write_to(&mut png, ImageFormat::Png)?;
    Ok(Value::Image { width, height, png: png.into_inner() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_lie_in_rows() {
        // A red pixel, a green one, and three tiles in two columns.
        let tiles: Vec<Tile> = [[2.0, 0.0, 0.0], [0.0, 300.0, 0.0], [0.0, 0.0, -5.0]]
            .map(|planes| tile(&planes, [3, 1, 1], |_, value| value))
            .into();
        let Value::Image { width, height, png } = grid(&tiles, [1, 1], 2, 2).unwrap() else {
            panic!("no image")
        };
        let picture = image::load_from_memory(&png).unwrap().into_rgb8();
        assert_eq!((picture.width(), picture.height()), (width, height));
        assert_eq!((width, height), (6, 6));
        let pixel = |x, y| picture.get_pixel(x, y).0;
        assert_eq!((pixel(0, 0), pixel(1, 1), pixel(2, 2)), ([2, 0, 0], [2, 0, 0], [0, 0, 0]));
        // Values out of range are clamped.
        assert_eq!((pixel(3, 0), pixel(0, 3), pixel(5, 5)), ([0, 255, 0], [0, 0, 0], [0, 0, 0]));
    }

    #[test]
    fn zero_is_grey_in_filters() {
        let mut values = vec![0.0; 2 * 27];
        values[9] = -2.0;
        let Value::Image { png, .. } = filters(&Array { shape: vec![2, 3, 3, 3], values }).unwrap() else {
            panic!("no image")
        };
        let picture = image::load_from_memory(&png).unwrap().into_rgb8();
        // The first value of the green plane.
        assert_eq!(picture.get_pixel(0, 0).0, [128, 0, 128]);
        assert_eq!(picture.get_pixel(8, 0).0, [128, 128, 128]);
    }
}
