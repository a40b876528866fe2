//! CIFAR-10 from many sources into memory, and seeded, augmented batches from there.
//!
//! A [`Source`] says where the data is: a folder (binary files, the official archive, or folders of images), the network,
//! the Hugging Face Hub, or nowhere at all, drawn by [`Source::Synthetic`]. [`load`] checks every byte that it can and gives
//! a [`Dataset`]: all images as `u8` in memory, 184 MB for CIFAR-10. [`training_batches`] and [`evaluation_batches`] turn
//! them into normalised `f32` batches on a thread of their own.
//!
//! Every random draw is a pure function of `(seed, purpose, epoch, sample)` (crate `pointwise-random`), so that a training
//! can be resumed in the middle of an epoch and sees the same batches, bit for bit.
//!
//! ```
//! use std::sync::Arc;
//! use pointwise_data::{Augmentation, BatchSettings, NoProgress, Source, load, training_batches};
//!
//! # fn main() -> Result<(), pointwise_data::Error> {
//! let dataset = load(&Source::Synthetic { seed: 42, train: 300, test: 100 }, &NoProgress)?;
//! let train = Arc::new(dataset.train);
//! let settings =
//!     BatchSettings { seed: 42, batch_size: 126, shuffle: true, augmentation: Augmentation::CropFlip };
//! let sizes: Vec<usize> = training_batches(&train, settings, 1, 0).map(|batch| batch.labels.len()).collect();
//! assert_eq!(sizes, [126, 126, 48]);
//! # Ok(())
//! # }
//! ```

mod archive;
mod augment;
mod batches;
mod binary;
mod dataset;
mod download;
mod error;
mod files;
#[cfg(feature = "huggingface")]
mod huggingface;
mod image_folder;
mod jpeg;
mod progress;
mod source;
mod synthetic;
#[cfg(test)]
mod testing;
mod verify;

pub use archive::ArchiveSpec;
pub use augment::{Augmentation, Crop, augment_into, normalised_values};
pub use batches::{Batch, BatchSettings, Batches, evaluation_batches, training_batches, training_order};
pub use dataset::{Dataset, Images, Statistics, split, statistics};
pub use error::{AddressFailure, Error};
pub use image_folder::read_image;
pub use progress::{NoProgress, Progress, Unit};
pub use source::{Source, default_addresses, fetch, fetch_archive, find_whole, load};
pub use verify::{FileReport, verify};

/// Height and width of an image in pixels.
pub const SIDE: usize = 32;
/// Red, green and blue.
pub const CHANNELS: usize = 3;
/// Bytes (and normalised values) of an image.
pub const IMAGE_BYTES: usize = CHANNELS * SIDE * SIDE;
/// Number of classes.
pub const CLASSES: usize = 10;
/// The classes in the order of their labels, 0 to 9.
pub const CLASS_NAMES: [&str; CLASSES] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
/// Mean of each channel that is subtracted, with values in `[0, 1]`: the study's figures for CIFAR-10.
pub const MEAN: [f32; CHANNELS] = [0.4914, 0.4822, 0.4465];
/// Standard deviation of each channel that is divided by, with values in `[0, 1]`: the study's figures for CIFAR-10.
pub const STD: [f32; CHANNELS] = [0.2470, 0.2435, 0.2616];
