//! Loads data sets from many sources into memory, and makes seeded, augmented batches from them.
//!
//! A [`Source`] says where the data is: a [`Published`] data set in a folder or on the network, a folder of images for each class, the Hugging Face
//! Hub, or nowhere at all: [`Source::Synthetic`] draws it. [`load`] checks every byte that it can and gives a [`Dataset`]: all images as `u8` in
//! memory, and a [`DatasetSpec`] that says what they are. [`training_batches`] and [`evaluation_batches`] turn them into normalised `f32` batches on
//! a separate thread.
//!
//! Every random draw is a pure function of `(seed, purpose, epoch, sample)` (crate `pointwise-random`), so that a training
//! can be resumed in the middle of an epoch and sees the same batches, bit for bit.
//!
//! ```
//! use std::sync::Arc;
//! use pointwise_data::{BatchSettings, NoProgress, Normalisation, Source, load, training_batches};
//! use pointwise_recipe::{Augment, Normalise};
//!
//! # fn main() -> Result<(), pointwise_data::Error> {
//! let source = Source::Synthetic { seed: 42, train: 300, test: 100, classes: 10, shape: [3, 32, 32] };
//! let dataset = load(&source, &NoProgress)?;
//! let train = Arc::new(dataset.train);
//! let normalisation = Normalisation::resolve(&Normalise::Measured, &dataset.spec, &train)?;
//! let augment = Augment::CROP_FLIP;
//! let settings = BatchSettings { seed: 42, batch_size: 126, drop_last: false, shuffle: true, augment, normalisation };
//! let sizes: Vec<usize> = training_batches(&train, &settings, 1, 0)?.map(|batch| batch.labels.len()).collect();
//! assert_eq!(sizes, [126, 126, 48]);
//! # Ok(())
//! # }
//! ```

mod archive;
mod batches;
mod binary;
mod cifar;
mod dataset;
mod download;
mod error;
mod file_spec;
mod files;
#[cfg(fuzzing)]
pub mod fuzzing;
#[cfg(feature = "huggingface")]
mod huggingface;
mod idx;
mod image_folder;
mod jpeg;
mod normalisation;
mod panics;
#[cfg(any(feature = "huggingface", all(fuzzing, feature = "parquet")))]
mod parquet_check;
#[cfg(any(feature = "huggingface", all(fuzzing, feature = "parquet")))]
mod parquet_file;
mod progress;
mod published;
mod source;
mod spec;
mod synthetic;
mod test_split;
#[cfg(test)]
mod testing;
mod transform;
mod verify;

pub use batches::{
    Batch, BatchSettings, Batches, batch_bytes, evaluation_batches, training_batches, training_order,
    view_batches,
};
pub use dataset::{Dataset, Images, Statistics, split, statistics};
pub use error::{AddressFailure, Error};
pub use image_folder::read_image;
pub use normalisation::Normalisation;
pub use panics::without_panic;
pub use progress::{NoProgress, Progress, Unit};
pub use published::{Place, Published};
pub use source::{Source, fetch, find_whole, load, verify};
pub use spec::DatasetSpec;
pub use test_split::TestSplit;
pub use transform::{Draw, Transform, check_augment, check_views};
pub use verify::FileReport;
