//! Batches, prepared ahead on another thread.

use std::iter::FusedIterator;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread::JoinHandle;

use pointwise_random::{Purpose, permutation};
use pointwise_recipe::{Augment, PaddingMode, TestTimeAugmentation, View};

use crate::transform::check_views;
use crate::{Draw, Error, Images, Normalisation, Transform};

/// Batches that wait to be used; one more is being prepared.
const AHEAD: usize = 2;
/// Batches that exist as long as used ones are given back: those, and the one in use.
const BUFFERS: usize = AHEAD + 2;

/// How training batches are made.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchSettings {
    /// Seed of the order and of the augmentation.
    pub seed: u64,
    /// Images in a batch (the last of an epoch may have fewer); 0 counts as 1.
    pub batch_size: usize,
    /// Whether an epoch leaves out the batch that would have fewer.
    pub drop_last: bool,
    /// Whether each epoch has its own random order; otherwise images come in the order of the dataset.
    pub shuffle: bool,
    /// What is done to the images.
    pub augment: Augment,
    /// How their values are normalised.
    pub normalisation: Normalisation,
}

/// Normalised images with their labels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// `(N, C, H, W)` f32, normalised.
    pub images: Vec<f32>,
    /// N labels, below the number of classes.
    pub labels: Vec<u16>,
}

/// Bytes of all batches in memory at a time, each of so many images of that shape.
#[must_use]
pub fn batch_bytes(images: usize, shape: [usize; 3]) -> u64 {
    shape
        .into_iter()
        .fold(images as u64, |bytes, side| bytes.saturating_mul(side as u64))
        .saturating_mul((size_of::<f32>() * BUFFERS) as u64)
}

impl Batch {
    /// An empty batch with room for so many images.
    fn with_room(images: usize, image_values: usize) -> Result<Self, Error> {
        let values = images.saturating_mul(image_values);
        let mut batch = Self::default();
        let reserved = batch.images.try_reserve_exact(values);
        let reserved = reserved.and_then(|()| batch.labels.try_reserve_exact(images));
        let bytes = (values as u64).saturating_mul(4 * BUFFERS as u64);
        reserved.map_err(|_| Error::BatchMemory { images, bytes })?;
        Ok(batch)
    }
}

/// The batches of one training epoch (1-based), from batch number `first` (0-based) on, to resume in the middle of an epoch.
///
/// All images come once, except those of a short last batch if the settings leave it out. The result is a pure function of the arguments: nothing
/// depends on time or threads, and batch k is the same whatever `first` is.
///
/// # Errors
///
/// Those of [`Transform::new`]; [`Error::BatchMemory`]; [`Error::Thread`].
pub fn training_batches(
    images: &Arc<Images>,
    settings: &BatchSettings,
    epoch: u32,
    first: usize,
) -> Result<Batches, Error> {
    let transform = Transform::new(images.shape(), settings.augment, &settings.normalisation)?;
    let BatchSettings { seed, batch_size, drop_last, shuffle, .. } = *settings;
    let draws = Draws::Random { seed, epoch };
    let order = if shuffle { Order::Shuffled { seed, epoch } } else { Order::AsIs };
    Batches::start(images, Plan { batch_size, drop_last, order, draws, transform }, first)
}

/// All images in the order of the data set, normalised and otherwise unchanged; a `batch_size` of 0 counts as 1.
///
/// # Errors
///
/// [`Error::Channels`] if the figures are for another number of channels; [`Error::BatchMemory`]; [`Error::Thread`].
pub fn evaluation_batches(
    images: &Arc<Images>,
    batch_size: usize,
    normalisation: &Normalisation,
) -> Result<Batches, Error> {
    let transform = Transform::new(images.shape(), Augment::NONE, normalisation)?;
    Batches::start(images, Plan::of_all(batch_size, Draw::default(), transform), 0)
}

/// As [`evaluation_batches`], with one of the [views](TestTimeAugmentation::views) of each image.
///
/// # Errors
///
/// That of [`check_views`](crate::check_views), and those of [`evaluation_batches`].
pub fn view_batches(
    images: &Arc<Images>,
    batch_size: usize,
    normalisation: &Normalisation,
    views: TestTimeAugmentation,
    view: View,
) -> Result<Batches, Error> {
    check_views(views, images.shape())?;
    let mirrored = Augment { crop: views.translate, padding_mode: PaddingMode::Reflect, ..Augment::NONE };
    let transform = Transform::new(images.shape(), mirrored, normalisation)?;
    let first = view.corner as i32 - views.translate as i32;
    let draw = Draw { top: first, left: first, flip: view.flip, cutout: None };
    Batches::start(images, Plan::of_all(batch_size, draw, transform), 0)
}

/// Indices into the data set in the order of a training epoch (1-based), as [`training_batches`] goes through them.
#[must_use]
pub fn training_order(len: usize, settings: &BatchSettings, epoch: u32) -> Vec<u32> {
    let seed = settings.seed;
    if settings.shuffle { Order::Shuffled { seed, epoch } } else { Order::AsIs }.places(len)
}

/// The order of images.
#[derive(Debug, Clone, Copy)]
enum Order {
    AsIs,
    Shuffled { seed: u64, epoch: u32 },
}

impl Order {
    fn places(self, len: usize) -> Vec<u32> {
        // `Images` has checked that the length fits.
        let len = len as u32;
        match self {
            Self::AsIs => (0..len).collect(),
            Self::Shuffled { seed, epoch } => permutation(seed, Purpose::Shuffle, epoch, len),
        }
    }
}

/// What is done to the images.
#[derive(Clone, Copy)]
enum Draws {
    /// The same to all.
    Same(Draw),
    /// What a training epoch draws for each.
    Random { seed: u64, epoch: u32 },
}

/// Which images make which batch.
struct Plan {
    batch_size: usize,
    drop_last: bool,
    order: Order,
    draws: Draws,
    transform: Transform,
}

impl Plan {
    /// All images in the order of the data set.
    fn of_all(batch_size: usize, draw: Draw, transform: Transform) -> Self {
        Self { batch_size, drop_last: false, order: Order::AsIs, draws: Draws::Same(draw), transform }
    }

    fn batch_size(&self) -> usize {
        self.batch_size.max(1)
    }

    /// Batches of so many images.
    fn batches(&self, images: usize) -> usize {
        let batch_size = self.batch_size();
        if self.drop_last { images / batch_size } else { images.div_ceil(batch_size) }
    }

    fn fill(&self, images: &Images, places: &[u32], batch: &mut Batch) {
        batch.labels.clear();
        batch.labels.extend(places.iter().map(|&place| images.labels()[place as usize]));
        let len = images.image_bytes();
        batch.images.resize(places.len() * len, 0.0);
        for (&place, out) in places.iter().zip(batch.images.chunks_exact_mut(len)) {
            let draw = match self.draws {
                Draws::Same(draw) => draw,
                Draws::Random { seed, epoch } => self.transform.draw(seed, epoch, place),
            };
            self.transform.apply(images.image(place as usize), draw, out);
        }
    }
}

/// An iterator over [`Batch`]es that another thread prepares ahead.
///
/// Dropping it stops and joins the thread. A batch given back by [`recycle`](Batches::recycle) is filled again; a new one (4 bytes a value) would
/// cost the system's zeroing of fresh memory.
#[derive(Debug)]
pub struct Batches {
    remaining: usize,
    /// `None` once stopped.
    ready: Option<Receiver<Batch>>,
    used: Sender<Batch>,
    worker: Option<JoinHandle<()>>,
}

impl Batches {
    fn start(images: &Arc<Images>, plan: Plan, first: usize) -> Result<Self, Error> {
        let batches = plan.batches(images.len());
        let remaining = batches.saturating_sub(first);
        let (ready_sender, ready) = sync_channel(AHEAD);
        let (used, used_receiver) = channel::<Batch>();
        // Memory is checked before it is taken: on the thread, too little could only be an abort.
        for _ in 0..BUFFERS.min(remaining) {
            let batch = Batch::with_room(plan.batch_size().min(images.len()), images.image_bytes())?;
            // The receiver is here.
            let _ = used.send(batch);
        }
        let images = Arc::clone(images);
        let work = move || {
            if remaining == 0 {
                return;
            }
            let order = plan.order.places(images.len());
            for places in order.chunks(plan.batch_size()).take(batches).skip(first) {
                let mut batch = used_receiver.try_recv().unwrap_or_default();
                plan.fill(&images, places, &mut batch);
                if ready_sender.send(batch).is_err() {
                    // Nobody wants more.
                    return;
                }
            }
        };
        let worker = std::thread::Builder::new().name("batches".to_owned()).spawn(work);
        let worker = worker.map_err(|cause| Error::Thread { what: "prepares batches", cause })?;
        Ok(Self { remaining, ready: Some(ready), used, worker: Some(worker) })
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

    const SHAPE: [usize; 3] = [3, 6, 5];
    const IMAGE_BYTES: usize = 90;

    /// Noise of 300 classes.
    fn images(n: usize) -> Arc<Images> {
        let mut pixels = Vec::with_capacity(n * IMAGE_BYTES);
        let mut words = pointwise_random::Stream::new(9, Purpose::Synthetic, 1);
        for _ in 0..n {
            pixels.extend((0..IMAGE_BYTES).map(|_| words.word() as u8));
        }
        let labels = (0..n).map(|i| (i * 7 % 300) as u16).collect();
        Arc::new(Images::new(SHAPE, 300, pixels, labels).unwrap())
    }

    fn normalisation() -> Normalisation {
        Normalisation { mean: vec![0.5, 0.25, 0.125], std: vec![0.25, 0.5, 2.0] }
    }

    fn settings() -> BatchSettings {
        let augment = Augment { cutout: 3, ..Augment::CROP_FLIP };
        BatchSettings {
            seed: 42,
            batch_size: 16,
            drop_last: false,
            shuffle: true,
            augment,
            normalisation: normalisation(),
        }
    }

    fn batches(images: &Arc<Images>, settings: &BatchSettings, epoch: u32, first: usize) -> Batches {
        training_batches(images, settings, epoch, first).unwrap()
    }

    /// What `training_batches` is defined to give, without threads or buffers.
    fn naive(images: &Images, settings: &BatchSettings, epoch: u32) -> Vec<Batch> {
        let transform = Transform::new(SHAPE, settings.augment, &settings.normalisation).unwrap();
        let order = permutation(settings.seed, Purpose::Shuffle, epoch, images.len() as u32);
        let batch = |places: &[u32]| {
            let mut batch = Batch::default();
            for &place in places {
                let mut out = vec![0.0; IMAGE_BYTES];
                let draw = transform.draw(settings.seed, epoch, place);
                transform.apply(images.image(place as usize), draw, &mut out);
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
            let batches = batches(&images, &settings(), 3, 0);
            assert_eq!(batches.len(), n.div_ceil(16));
            assert_eq!(batches.collect::<Vec<_>>(), naive(&images, &settings(), 3), "{n} images");
        }
    }

    #[test]
    fn resuming_gives_the_rest_of_the_epoch() {
        let images = images(100);
        let whole = naive(&images, &settings(), 2);
        for first in 0..9 {
            let batches = batches(&images, &settings(), 2, first);
            assert_eq!(batches.len(), 7usize.saturating_sub(first));
            assert_eq!(batches.collect::<Vec<_>>(), whole[first.min(7)..], "from batch {first}");
        }
    }

    #[test]
    fn a_short_last_batch_is_left_out_where_that_is_asked_for() {
        let settings = BatchSettings { drop_last: true, ..settings() };
        for n in [0, 1, 15, 16, 17, 31, 32, 33, 100] {
            let images = images(n);
            let whole = naive(&images, &settings, 2);
            for first in [0, 1, 5, 9] {
                let batches = batches(&images, &settings, 2, first);
                assert_eq!(batches.len(), (n / 16).saturating_sub(first));
                let expected = &whole[first.min(n / 16)..n / 16];
                assert_eq!(batches.collect::<Vec<_>>(), expected, "{n} images from batch {first}");
            }
        }
    }

    #[test]
    fn views_are_moved_and_mirrored() {
        let images = images(5);
        let [channels, height, width] = SHAPE;
        // After -2 -1 comes 0 1 2: the outermost pixels are not repeated.
        let mirrored = |at: i64, len: usize| {
            let last = len as i64 - 1;
            (last - (last - at.abs()).abs()) as usize
        };
        for translate in [0, 1, 4] {
            let views = TestTimeAugmentation { flip: true, translate };
            for view in views.views() {
                let batches: Vec<Batch> =
                    view_batches(&images, 2, &normalisation(), views, view).unwrap().collect();
                assert_eq!(batches.len(), 3);
                let shift = i64::from(view.corner) - i64::from(translate);
                let mut expected = Vec::new();
                for image in 0..images.len() {
                    for c in 0..channels {
                        for y in 0..height {
                            for x in 0..width {
                                let x = if view.flip { width - 1 - x } else { x };
                                let row = mirrored(y as i64 + shift, height);
                                let column = mirrored(x as i64 + shift, width);
                                let byte = images.image(image)[(c * height + row) * width + column];
                                expected.push(normalisation().table()[c][usize::from(byte)]);
                            }
                        }
                    }
                }
                let shown: Vec<f32> = batches.iter().flat_map(|batch| batch.images.clone()).collect();
                assert_eq!(shown, expected, "{view:?}");
                let labels: Vec<u16> = batches.iter().flat_map(|batch| batch.labels.clone()).collect();
                assert_eq!(labels, images.labels());
            }
        }
        let views = TestTimeAugmentation { flip: false, translate: 5 };
        let error = view_batches(&images, 2, &normalisation(), views, views.views()[0]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "test-time-augmentation.translate is 5, and images of 6 x 5 pixels can be moved by at most 4, since the pixels that \
             come in are mirrored: give a smaller one"
        );
    }

    #[test]
    fn recycled_buffers_change_nothing() {
        let images = images(100);
        // From full to short batches and back: the stale end of a recycled buffer must not show.
        let mut batches = batches(&images, &settings(), 1, 0);
        for (i, expected) in naive(&images, &settings(), 1).into_iter().enumerate() {
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
        let labels = |settings: BatchSettings, epoch| {
            batches(&images, &settings, epoch, 0).flat_map(|batch| batch.labels).collect::<Vec<_>>()
        };
        assert_ne!(labels(settings(), 1), labels(settings(), 2));
        assert_ne!(labels(settings(), 1), labels(BatchSettings { seed: 43, ..settings() }, 1));
        let in_order = labels(BatchSettings { shuffle: false, ..settings() }, 1);
        assert_eq!(in_order, images.labels());
    }

    #[test]
    fn evaluation_is_in_order_and_centred() {
        let images = images(21);
        let batches: Vec<Batch> = evaluation_batches(&images, 10, &normalisation()).unwrap().collect();
        let transform = Transform::new(SHAPE, Augment::NONE, &normalisation()).unwrap();
        assert_eq!(batches.iter().map(|batch| batch.labels.len()).collect::<Vec<_>>(), [10, 10, 1]);
        for i in 0..images.len() {
            let mut expected = vec![0.0; IMAGE_BYTES];
            transform.apply(images.image(i), Draw::default(), &mut expected);
            let batch = &batches[i / 10];
            assert_eq!(batch.images[i % 10 * IMAGE_BYTES..][..IMAGE_BYTES], expected, "image {i}");
            assert_eq!(batch.labels[i % 10], images.labels()[i]);
        }
    }

    #[test]
    fn dropping_early_ends_the_thread() {
        let images = images(200);
        for taken in [0, 1, 5] {
            let mut batches = batches(&images, &settings(), 1, 0);
            for _ in 0..taken {
                batches.next().unwrap();
            }
            drop(batches);
            // The thread held the second reference: it is gone when drop returns.
            assert_eq!(Arc::strong_count(&images), 1, "after {taken} batches");
        }
    }

    #[test]
    fn batches_larger_than_memory_are_refused() {
        let error = Batch::with_room(1 << 20, 1 << 50).unwrap_err().to_string();
        assert!(
            error.contains("for batches of 1048576 images do not fit in memory: give a smaller batch size"),
            "{error}"
        );
        // No more is asked for than there are images.
        let images = images(3);
        assert_eq!(evaluation_batches(&images, usize::MAX, &normalisation()).unwrap().count(), 1);
    }

    #[test]
    fn a_batch_size_of_zero_is_one() {
        let images = images(3);
        assert_eq!(
            evaluation_batches(&images, 0, &normalisation())
                .unwrap()
                .map(|batch| batch.labels.len())
                .collect::<Vec<_>>(),
            [1, 1, 1]
        );
    }
}
