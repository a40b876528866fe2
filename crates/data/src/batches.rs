//! Batches, prepared ahead on another thread.

use std::iter::FusedIterator;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread::JoinHandle;

use pointwise_random::{Purpose, permutation};

use crate::{Augmentation, Crop, IMAGE_BYTES, Images, augment_into};

/// Batches that wait for their use; one more is in the making.
const AHEAD: usize = 2;

/// How training batches are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSettings {
    /// Seed of the order and of the augmentation.
    pub seed: u64,
    /// Images in a batch (the last of an epoch may have fewer); 0 counts as 1.
    pub batch_size: usize,
    /// Whether each epoch has a random order of its own; otherwise images come in the order of the dataset.
    pub shuffle: bool,
    /// What is done to the images.
    pub augmentation: Augmentation,
}

/// Normalised images with their labels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// `(N, 3, 32, 32)` f32, normalised with [`MEAN`](crate::MEAN) and [`STD`](crate::STD).
    pub images: Vec<f32>,
    /// N labels, 0 to 9.
    pub labels: Vec<u8>,
}

/// The batches of one training epoch (1-based), from batch number `first` (0-based) on, to resume in the middle of an epoch.
///
/// All images come once; the short last batch is included. The result is a pure function of the arguments: nothing depends
/// on time or threads, and batch k is the same whatever `first` is.
#[must_use]
pub fn training_batches(images: &Arc<Images>, settings: BatchSettings, epoch: u32, first: usize) -> Batches {
    Batches::start(images, Plan { settings, epoch }, first)
}

/// All images in the order of the dataset, normalised and otherwise as they are; 0 counts as a `batch_size` of 1.
#[must_use]
pub fn evaluation_batches(images: &Arc<Images>, batch_size: usize) -> Batches {
    let settings = BatchSettings { seed: 0, batch_size, shuffle: false, augmentation: Augmentation::None };
    Batches::start(images, Plan { settings, epoch: 0 }, 0)
}

/// The places of the dataset in the order of a training epoch (1-based): what [`training_batches`] goes through.
#[must_use]
pub fn training_order(len: usize, settings: BatchSettings, epoch: u32) -> Vec<u32> {
    Plan { settings, epoch }.order(len)
}

/// Which images make which batch.
#[derive(Clone, Copy)]
struct Plan {
    settings: BatchSettings,
    epoch: u32,
}

impl Plan {
    fn batch_size(&self) -> usize {
        self.settings.batch_size.max(1)
    }

    /// The places of the dataset in the order of this epoch.
    fn order(&self, len: usize) -> Vec<u32> {
        // `Images` has checked that the length fits.
        let len = len as u32;
        if self.settings.shuffle {
            permutation(self.settings.seed, Purpose::Shuffle, self.epoch, len)
        } else {
            (0..len).collect()
        }
    }

    fn fill(&self, images: &Images, places: &[u32], batch: &mut Batch) {
        batch.labels.clear();
        batch.labels.extend(places.iter().map(|&place| images.labels()[place as usize]));
        batch.images.resize(places.len() * IMAGE_BYTES, 0.0);
        for (&place, out) in places.iter().zip(batch.images.chunks_exact_mut(IMAGE_BYTES)) {
            let crop = match self.settings.augmentation {
                Augmentation::CropFlip => Crop::draw(self.settings.seed, self.epoch, place),
                Augmentation::None => Crop::CENTRE,
            };
            augment_into(images.image(place as usize), crop, out);
        }
    }
}

/// An iterator over [`Batch`]es that another thread prepares ahead.
///
/// Dropping it stops and joins the thread. A batch given back by [`recycle`](Batches::recycle) is filled again instead of a
/// new one (48 KiB x batch size), which costs the system's zeroing of fresh memory.
#[derive(Debug)]
pub struct Batches {
    remaining: usize,
    /// `None` once stopped.
    ready: Option<Receiver<Batch>>,
    used: Sender<Batch>,
    worker: Option<JoinHandle<()>>,
}

impl Batches {
    fn start(images: &Arc<Images>, plan: Plan, first: usize) -> Self {
        let remaining = images.len().div_ceil(plan.batch_size()).saturating_sub(first);
        let (ready_sender, ready) = sync_channel(AHEAD);
        let (used, used_receiver) = channel::<Batch>();
        let images = Arc::clone(images);
        let worker = std::thread::spawn(move || {
            if remaining == 0 {
                return;
            }
            let order = plan.order(images.len());
            for places in order.chunks(plan.batch_size()).skip(first) {
                let mut batch = used_receiver.try_recv().unwrap_or_default();
                plan.fill(&images, places, &mut batch);
                if ready_sender.send(batch).is_err() {
                    // Nobody wants more.
                    return;
                }
            }
        });
        Self { remaining, ready: Some(ready), used, worker: Some(worker) }
    }

    /// Gives the buffers of a used batch back.
    pub fn recycle(&self, batch: Batch) {
        // After the last batch nobody receives: then the buffers are simply freed.
        let _ = self.used.send(batch);
    }
}

impl Iterator for Batches {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        if self.remaining == 0 {
            return None;
        }
        match self.ready.as_ref()?.recv() {
            Ok(batch) => {
                self.remaining -= 1;
                Some(batch)
            }
            Err(_) => {
                // The thread ended too early: it has panicked. Ending the epoch in silence would falsify it.
                self.ready = None;
                if let Some(Err(panic)) = self.worker.take().map(JoinHandle::join) {
                    resume_unwind(panic);
                }
                None
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl ExactSizeIterator for Batches {}

impl FusedIterator for Batches {}

impl Drop for Batches {
    fn drop(&mut self) {
        // The thread may wait for a place in the channel: without a receiver it stops.
        self.ready = None;
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CLASSES;

    /// Image `i` starts with the bytes of `i`, and has noise otherwise.
    fn images(n: usize) -> Arc<Images> {
        let mut pixels = Vec::with_capacity(n * IMAGE_BYTES);
        let mut words = pointwise_random::Stream::new(9, Purpose::Synthetic, 1);
        for _ in 0..n {
            pixels.extend((0..IMAGE_BYTES).map(|_| words.word() as u8));
        }
        let labels = (0..n).map(|i| (i % CLASSES) as u8).collect();
        Arc::new(Images::new(pixels, labels).unwrap())
    }

    const SETTINGS: BatchSettings =
        BatchSettings { seed: 42, batch_size: 16, shuffle: true, augmentation: Augmentation::CropFlip };

    /// What `training_batches` is defined to give, without threads or buffers.
    fn naive(images: &Images, settings: BatchSettings, epoch: u32) -> Vec<Batch> {
        let order = permutation(settings.seed, Purpose::Shuffle, epoch, images.len() as u32);
        let batch = |places: &[u32]| {
            let mut batch = Batch::default();
            for &place in places {
                let mut out = vec![0.0; IMAGE_BYTES];
                let crop = Crop::draw(settings.seed, epoch, place);
                augment_into(images.image(place as usize), crop, &mut out);
                batch.images.extend(out);
                batch.labels.push(images.labels()[place as usize]);
            }
            batch
        };
        order.chunks(settings.batch_size).map(batch).collect()
    }

    #[test]
    fn an_epoch_is_its_definition_for_sizes_around_the_batch() {
        for n in [0, 1, 15, 16, 17, 31, 32, 33, 100] {
            let images = images(n);
            let batches = training_batches(&images, SETTINGS, 3, 0);
            assert_eq!(batches.len(), n.div_ceil(16));
            assert_eq!(batches.collect::<Vec<_>>(), naive(&images, SETTINGS, 3), "{n} images");
        }
    }

    #[test]
    fn resuming_gives_the_rest_of_the_epoch() {
        let images = images(100);
        let whole = naive(&images, SETTINGS, 2);
        for first in 0..9 {
            let batches = training_batches(&images, SETTINGS, 2, first);
            assert_eq!(batches.len(), 7usize.saturating_sub(first));
            assert_eq!(batches.collect::<Vec<_>>(), whole[first.min(7)..], "from batch {first}");
        }
    }

    #[test]
    fn recycled_buffers_change_nothing() {
        let images = images(100);
        // From full to short batches and back: the stale end of a recycled buffer must not show.
        let mut batches = training_batches(&images, SETTINGS, 1, 0);
        for (i, expected) in naive(&images, SETTINGS, 1).into_iter().enumerate() {
            let batch = batches.next().unwrap();
            assert_eq!(batch, expected, "batch {i}");
            batches.recycle(batch);
            batches.recycle(Batch { images: vec![f32::NAN; 40 * IMAGE_BYTES], labels: vec![99; 40] });
        }
        assert!(batches.next().is_none() && batches.next().is_none());
        batches.recycle(Batch::default());
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let images = images(64);
        let labels = |settings, epoch| {
            training_batches(&images, settings, epoch, 0).flat_map(|batch| batch.labels).collect::<Vec<_>>()
        };
        assert_ne!(labels(SETTINGS, 1), labels(SETTINGS, 2));
        assert_ne!(labels(SETTINGS, 1), labels(BatchSettings { seed: 43, ..SETTINGS }, 1));
        let in_order = labels(BatchSettings { shuffle: false, ..SETTINGS }, 1);
        assert_eq!(in_order, images.labels());
    }

    #[test]
    fn evaluation_is_in_order_and_centred() {
        let images = images(21);
        let batches: Vec<Batch> = evaluation_batches(&images, 10).collect();
        assert_eq!(batches.iter().map(|batch| batch.labels.len()).collect::<Vec<_>>(), [10, 10, 1]);
        for i in 0..images.len() {
            let mut expected = vec![0.0; IMAGE_BYTES];
            augment_into(images.image(i), Crop::CENTRE, &mut expected);
            let batch = &batches[i / 10];
            assert_eq!(batch.images[i % 10 * IMAGE_BYTES..][..IMAGE_BYTES], expected, "image {i}");
            assert_eq!(batch.labels[i % 10], images.labels()[i]);
        }
    }

    #[test]
    fn dropping_early_ends_the_thread() {
        let images = images(200);
        for taken in [0, 1, 5] {
            let mut batches = training_batches(&images, SETTINGS, 1, 0);
            for _ in 0..taken {
                batches.next().unwrap();
            }
            drop(batches);
            // The thread held the second reference: it is gone when drop returns.
            assert_eq!(Arc::strong_count(&images), 1, "after {taken} batches");
        }
    }

    #[test]
    fn a_batch_size_of_zero_is_one() {
        let images = images(3);
        assert_eq!(
            evaluation_batches(&images, 0).map(|batch| batch.labels.len()).collect::<Vec<_>>(),
            [1, 1, 1]
        );
    }
}
