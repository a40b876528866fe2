//! The dropout layer.

use crate::composed::dropout;
use candle_core::{ModuleT, Result, Tensor, bail};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Dropout, as [`candle_nn::Dropout`], with masks that a seed can determine: in training, it zeroes elements with a probability and scales the others
/// up, which keeps the expected value.
///
/// Masks are a function of the layer's seed and of the number of its passes in training so far, whatever the device, the number of threads or the
/// order of work: see [`pointwise_random::Dropout`]. [`Dropout::new`] takes a random seed, as candle does.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use pointwise_candle::Dropout;
///
/// # fn main() -> candle_core::Result<()> {
/// let x = Tensor::ones((4, 100), DType::F32, &Device::Cpu)?;
/// let masks = |layer: Dropout| Ok::<_, candle_core::Error>(layer.forward(&x, true)?.to_vec2::<f32>()?);
/// assert_eq!(masks(Dropout::new(0.5).with_seed(42))?, masks(Dropout::new(0.5).with_seed(42))?);
/// // The next pass has another mask; a resumed training sets the number of passes.
/// let layer = Dropout::new(0.5).with_seed(42);
/// layer.forward(&x, true)?;
/// let second = layer.forward(&x, true)?.to_vec2::<f32>()?;
/// let resumed = Dropout::new(0.5).with_seed(42);
/// resumed.set_passes(1);
/// assert_eq!(masks(resumed)?, second);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Dropout {
    drop_p: f32,
    seed: u64,
    /// Passes in training so far, of the layer and its clones.
    passes: Arc<AtomicU64>,
}

impl Dropout {
    /// Dropout of elements with a probability in `[0, 1)`, and a seed that is different each time.
    #[must_use]
    pub fn new(drop_p: f32) -> Self {
        // The standard library seeds its hash keys with the system's random numbers.
        Self { drop_p, seed: RandomState::new().hash_one(0), passes: Arc::default() }
    }

    /// With a seed. Layers of one network need different seeds: equal seeds give equal masks.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Passes in training so far; clones of a layer count together.
    #[must_use]
    pub fn passes(&self) -> u64 {
        self.passes.load(Ordering::Relaxed)
    }

    /// Sets the number of passes in training so far.
    pub fn set_passes(&self, passes: u64) {
        self.passes.store(passes, Ordering::Relaxed);
    }

    /// Drops elements when `train` is set; otherwise returns `x` unchanged. Any shape, any float type.
    ///
    /// # Errors
    /// When the probability is not in `[0, 1)`, or the device fails.
    pub fn forward(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        if !train {
            return Ok(x.clone());
        }
        if !(0. ..1.).contains(&self.drop_p) {
            bail!("a dropout's probability has to be in [0, 1), not {}", self.drop_p)
        }
        let step = self.passes.fetch_add(1, Ordering::Relaxed);
        let p = f64::from(self.drop_p);
        dropout(x, pointwise_random::Dropout { p, seed: self.seed, step, layer: 0 })
    }
}

impl ModuleT for Dropout {
    fn forward_t(&self, x: &Tensor, train: bool) -> Result<Tensor> {
        self.forward(x, train)
    }
}
