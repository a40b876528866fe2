//! "One step of this network on this device".
//!
//! An [`Engine`] owns the parameters, BatchNorm's statistics and the optimizer's state of one network, and takes training and
//! evaluation steps on batches that the caller prepares. It keeps its own running [`Totals`], so that a step needs no answer
//! from the device: an engine whose step is a graph of kernels on preallocated buffers reads them back only when asked.
//!
//! The [`reference`](mod@reference) engine is candle autograd over the candle-nn modules of `pointwise-models`, on any candle device: slow,
//! obvious, and what every other engine is compared with.
//!
//! ```no_run
//! use pointwise_engine::{Batch, Engine, EngineKind, Settings, create};
//! use pointwise_models::Network;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut engine = create(EngineKind::Reference, &Network::nin(), &Settings::default())?;
//! let images = vec![0.0; 2 * 3 * 32 * 32];
//! engine.train_step(Batch { images: &images, labels: &[3, 8] })?;
//! println!("loss {}", engine.totals()?.last_loss);
//! # Ok(())
//! # }
//! ```

mod adam;
mod chain;
pub mod cpu;
#[cfg(any(feature = "cuda", test))]
pub mod cuda;
mod device;
mod error;
pub mod memory;
pub mod ops;
mod precision;
pub mod reference;
mod resident;
mod state;

pub use adam::Adam;
pub use device::{DeviceChoice, DeviceName};
pub use error::EngineError;
pub use precision::Precision;
pub use resident::{ResidentEpoch, ResidentImages, ResidentSet};
pub use state::{Array, Moments, State};

use pointwise_models::Network;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// Images and their labels, in host memory.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// `(N, C, H, W)` f32, normalised; its length is `N` times the network's input.
    pub images: &'a [f32],
    /// `N` class numbers, each below the network's number of classes.
    pub labels: &'a [u8],
}

/// Sums over the batches since [`Engine::set_totals`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Totals {
    /// Sum over batches of mean loss times batch size, in nats.
    pub loss_sum: f64,
    /// Images whose largest logit (the first of equals) is the label's.
    pub correct: u64,
    /// Images seen.
    pub samples: u64,
    /// Mean loss of the newest batch, in nats.
    pub last_loss: f64,
}

impl Totals {
    /// Adds a batch.
    pub fn add(&mut self, mean_loss: f64, correct: u64, samples: u64) {
        self.loss_sum += mean_loss * samples as f64;
        self.correct += correct;
        self.samples += samples;
        self.last_loss = mean_loss;
    }

    /// Loss per image, in nats; NaN when no image was seen.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.loss_sum / self.samples as f64
    }

    /// Share of correct images, 0 to 1; NaN when no image was seen.
    #[must_use]
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.samples as f64
    }
}

/// Trains and evaluates one network on one device.
pub trait Engine {
    /// One step: forward in training mode, cross-entropy, gradients, Adam. Adds to the totals.
    ///
    /// # Errors
    /// [`EngineError::Batch`] for a batch that does not fit; [`EngineError::NotFinite`] when the loss is NaN or infinite (an engine
    /// that works ahead may say so at the next [`Engine::totals`]); [`EngineError::MissingGradient`]; [`EngineError::Device`].
    fn train_step(&mut self, batch: Batch<'_>) -> Result<(), EngineError>;

    /// Forward in evaluation mode. Adds to the totals and changes nothing else.
    ///
    /// # Errors
    /// As [`Engine::train_step`].
    fn evaluate(&mut self, batch: Batch<'_>) -> Result<(), EngineError>;

    /// Logits in evaluation mode, `(N, classes)` row by row, of `(N, C, H, W)` normalised images. Changes nothing.
    ///
    /// # Errors
    /// [`EngineError::Batch`], [`EngineError::Device`].
    fn logits(&mut self, images: &[f32]) -> Result<Vec<f32>, EngineError>;

    /// The sums so far; waits for the device.
    ///
    /// # Errors
    /// [`EngineError::NotFinite`], [`EngineError::Device`].
    fn totals(&mut self) -> Result<Totals, EngineError>;

    /// Sets the sums: to zero before an epoch or an evaluation, to a checkpoint's when one goes on.
    ///
    /// # Errors
    /// [`EngineError::Device`].
    fn set_totals(&mut self, totals: Totals) -> Result<(), EngineError>;

    /// Everything that the next step depends on, by PyTorch's names.
    ///
    /// # Errors
    /// [`EngineError::Device`].
    fn state(&self) -> Result<State, EngineError>;

    /// Replaces everything that the next step depends on. A state without moments starts the optimizer anew.
    ///
    /// # Errors
    /// [`EngineError::State`] when a name or a shape is not the network's; then nothing was changed.
    fn load_state(&mut self, state: &State) -> Result<(), EngineError>;

    /// Makes room for batches of up to `batch` images, which otherwise the first of them does.
    ///
    /// # Errors
    /// [`EngineError::Memory`] when there is not as much memory as that takes; then nothing was changed.
    fn prepare(&mut self, batch: usize) -> Result<(), EngineError> {
        let _ = batch;
        Ok(())
    }

    /// Keeps images on the device, if the engine does that; then whole epochs need none from the host. `None` if it does not: then the
    /// other methods for resident images are errors.
    ///
    /// # Errors
    /// [`EngineError::Batch`] for images that do not fit; [`EngineError::Device`].
    fn reside(&mut self, images: ResidentImages<'_>) -> Result<Option<ResidentSet>, EngineError> {
        let _ = images;
        Ok(None)
    }

    /// Says how the images of a training epoch come, before its first [`Engine::train_resident`].
    ///
    /// # Errors
    /// [`EngineError::Batch`] for an order that is none; [`EngineError::Device`].
    fn begin_epoch(&mut self, set: ResidentSet, epoch: ResidentEpoch<'_>) -> Result<(), EngineError> {
        let _ = (set, epoch);
        Err(not_resident())
    }

    /// [`Engine::train_step`] on the images in `range` of the epoch's order.
    ///
    /// # Errors
    /// As [`Engine::train_step`]; [`EngineError::Batch`] before [`Engine::begin_epoch`].
    fn train_resident(&mut self, set: ResidentSet, range: Range<usize>) -> Result<(), EngineError> {
        let _ = (set, range);
        Err(not_resident())
    }

    /// [`Engine::evaluate`] on the images in `range` as they lie, normalised and otherwise as they are.
    ///
    /// # Errors
    /// As [`Engine::evaluate`].
    fn evaluate_resident(&mut self, set: ResidentSet, range: Range<usize>) -> Result<(), EngineError> {
        let _ = (set, range);
        Err(not_resident())
    }
}

fn not_resident() -> EngineError {
    EngineError::Batch("this engine keeps no images".to_owned())
}

/// The implementations of [`Engine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// candle autograd; see [`reference`](mod@reference).
    Reference,
    /// A compiled plan over own CPU kernels; see [`cpu`].
    Cpu,
    /// A compiled plan on an NVIDIA GPU, in builds with the feature `cuda`.
    Cuda,
}

impl EngineKind {
    /// All kinds, in the order of [`EngineKind::name`]s shown to users.
    pub const ALL: [Self; 3] = [Self::Reference, Self::Cpu, Self::Cuda];

    /// The engine to use on a device when none is named: the fastest that computes there.
    #[must_use]
    pub fn default_for(device: DeviceName) -> Self {
        match device {
            DeviceName::Cpu => Self::Cpu,
            DeviceName::Cuda(_) => Self::Cuda,
        }
    }

    /// The name on command lines and in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EngineKind {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self, EngineError> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| EngineError::UnknownEngine(name.to_owned()))
    }
}

/// What an engine needs to know beside the network.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Seed of the initial values and of dropout.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceName,
    /// The optimizer's constants.
    pub adam: Adam,
    /// How precisely products are computed; the engines `reference` and `cpu` compute in [`Precision::F32`] only.
    pub precision: Precision,
    /// Whether the same seed must give the same bits every time. The engines on the CPU always do that.
    pub deterministic: bool,
}

impl Default for Settings {
    /// The study's: seed 42, on the CPU, in f32.
    fn default() -> Self {
        Self {
            seed: 42,
            device: DeviceName::Cpu,
            adam: Adam::default(),
            precision: Precision::F32,
            deterministic: false,
        }
    }
}

/// Makes an engine with the network's initial values.
///
/// # Errors
/// [`EngineError::Network`] when the description does not fit together, [`EngineError::Unavailable`] when this build has no such
/// engine, [`EngineError::Unsupported`] when it does not compute as the settings ask, [`EngineError::Device`] when the device
/// fails.
pub fn create(
    kind: EngineKind,
    network: &Network,
    settings: &Settings,
) -> Result<Box<dyn Engine>, EngineError> {
    if kind != EngineKind::Cuda && settings.precision != Precision::F32 {
        return Err(EngineError::Unsupported {
            engine: kind,
            what: format!("in {}", settings.precision),
            mend: "leave --precision out, or use `--engine cuda`".to_owned(),
        });
    }
    match kind {
        EngineKind::Reference => Ok(Box::new(reference::Reference::new(network, settings)?)),
        EngineKind::Cpu => Ok(Box::new(cpu::Cpu::new(network, settings)?)),
        #[cfg(feature = "cuda")]
        EngineKind::Cuda => Ok(Box::new(cuda::Cuda::new(network, settings)?)),
        #[cfg(not(feature = "cuda"))]
        EngineKind::Cuda => Err(EngineError::Unavailable(kind)),
    }
}

/// Number of rows of `(N, classes)` logits whose first largest value is the label's.
#[must_use]
pub fn count_correct(logits: &[f32], labels: &[u8], classes: usize) -> u64 {
    logits
        .chunks_exact(classes)
        .zip(labels)
        .filter(|(row, label)| {
            let mut best = 0;
            for (class, value) in row.iter().enumerate() {
                if *value > row[best] {
                    best = class;
                }
            }
            best == usize::from(**label)
        })
        .count() as u64
}

/// Checks that a batch fits `input` and `classes`; gives its number of images.
///
/// # Errors
/// [`EngineError::Batch`], saying what does not fit.
pub(crate) fn check_batch(batch: Batch<'_>, input: [usize; 3], classes: usize) -> Result<usize, EngineError> {
    let image: usize = input.iter().product();
    let n = batch.labels.len();
    if n == 0 || batch.images.len() != n * image {
        return Err(EngineError::Batch(format!(
            "{n} labels came with {} values of images, {image} for each image",
            batch.images.len()
        )));
    }
    match batch.labels.iter().position(|label| usize::from(*label) >= classes) {
        Some(place) => Err(EngineError::Batch(format!(
            "label {} of image {place} is not one of the {classes} classes",
            batch.labels[place]
        ))),
        None => Ok(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_logits_counts() {
        let logits = [0.0, 1.0, 1.0, 3.0, 2.0, 1.0];
        assert_eq!(count_correct(&logits, &[1, 0], 3), 2);
        assert_eq!(count_correct(&logits, &[2, 1], 3), 0);
    }

    #[test]
    fn totals_weigh_batches_by_size() {
        let mut totals = Totals::default();
        totals.add(2.0, 1, 3);
        totals.add(1.0, 1, 1);
        assert_eq!(totals.loss(), 1.75);
        assert_eq!(totals.accuracy(), 0.5);
        assert_eq!(totals.last_loss, 1.0);
    }

    #[test]
    fn batches_that_do_not_fit_are_refused() {
        let images = vec![0.0; 2 * 12];
        let cases: [(&[f32], &[u8], &str); 4] = [
            (&images, &[0], "1 labels came with 24 values of images, 12 for each image"),
            (&images[..23], &[0, 1], "2 labels came with 23 values of images, 12 for each image"),
            (&[], &[], "0 labels came with 0 values of images, 12 for each image"),
            (&images, &[0, 10], "label 10 of image 1 is not one of the 10 classes"),
        ];
        for (images, labels, expected) in cases {
            let error = check_batch(Batch { images, labels }, [3, 2, 2], 10).unwrap_err();
            assert_eq!(error.to_string(), format!("a batch does not fit the network: {expected}"));
        }
        assert_eq!(check_batch(Batch { images: &images, labels: &[0, 9] }, [3, 2, 2], 10).unwrap(), 2);
    }

    #[test]
    fn kinds_have_names() {
        for kind in EngineKind::ALL {
            assert_eq!(kind.name().parse::<EngineKind>().unwrap(), kind);
        }
        assert!("torch".parse::<EngineKind>().is_err());
    }
}
