//! The state of a network in host memory, by PyTorch's names.

use crate::WeightsError;
use pointwise_network::{Graph, Initial, Network, whitening_weights};
use std::collections::BTreeMap;

/// A tensor in host memory, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Its shape; the product is the number of values.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f32>,
}

/// Everything that the next training step depends on. Engines and devices exchange it, checkpoints hold it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct State {
    /// The trained values: `features.0.weight`, ...
    pub parameters: BTreeMap<String, Array>,
    /// BatchNorm's `running_mean` and `running_var`.
    pub statistics: BTreeMap<String, Array>,
    /// BatchNorm's `num_batches_tracked`: training steps since the start of the statistics.
    pub batches_tracked: BTreeMap<String, i64>,
    /// The optimizer's state; `None` before the first step of a training.
    pub optimizer: Option<OptimizerState>,
    /// Averaged weights, by a recipe with `ema`, or the slow ones of `lookahead`; `None` before the first step of a training.
    pub average: Option<Average>,
}

/// The state of an optimizer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OptimizerState {
    /// By PyTorch's name of the buffer (`Optimizer::buffers` of `pointwise-recipe`), an array for each parameter.
    pub buffers: BTreeMap<String, BTreeMap<String, Array>>,
    /// Steps taken.
    pub step: u64,
}

/// Exponential moving averages, or slow weights (`Ema` and `Lookahead` of `pointwise-recipe`).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Average {
    /// Of the parameters.
    pub parameters: BTreeMap<String, Array>,
    /// Of BatchNorm's running statistics.
    pub statistics: BTreeMap<String, Array>,
}

impl State {
    /// The state before the first step: initial values by the description, drawn from `seed`.
    #[must_use]
    pub fn initial(graph: &Graph, seed: u64) -> Self {
        let parameters = graph.parameters().iter().zip(0..).map(|(own, ordinal)| {
            let values = own.initial.values(&own.shape, seed, ordinal);
            (own.name.clone(), Array { shape: own.shape.clone(), values })
        });
        let statistics = graph.statistics().into_iter().map(|own| {
            (own.name, Array { shape: vec![own.channels], values: vec![own.initial; own.channels] })
        });
        Self { parameters: parameters.collect(), statistics: statistics.collect(), ..Self::default() }
    }

    /// How many of the first training images [`State::set_from_images`] uses; `None` if no initial value is computed from images.
    #[must_use]
    pub fn images_wanted(graph: &Graph) -> Option<usize> {
        let images = graph.parameters().iter().filter_map(|own| match own.initial {
            Initial::Whitening { of, .. } => Some(of.images as usize),
            _ => None,
        });
        images.max()
    }

    /// Replaces the parameters whose initial values are computed from training images. `images` are normalised, `(N, C, H, W)`: the first
    /// [`State::images_wanted`], or all if there are fewer.
    pub fn set_from_images(&mut self, graph: &Graph, input: [usize; 3], images: &[f32]) {
        let len: usize = input.iter().product();
        for own in graph.parameters() {
            let (Initial::Whitening { of, .. }, [.., rows, columns]) = (own.initial, &own.shape[..]) else {
                continue;
            };
            let first = &images[..images.len().min(of.images as usize * len)];
            let weights = whitening_weights(first, input, [*rows, *columns], of.eps);
            if let Some(array) = self.parameters.get_mut(&own.name) {
                array.values[..weights.len()].copy_from_slice(&weights);
            }
        }
    }

    /// Checks that this is a complete state of `network`: the same names, each with its shape.
    ///
    /// `num_batches_tracked` affects no result and is not compared: a missing one counts from 0, as in state dictionaries of PyTorch before
    /// 0.4.1, and an extra one is ignored.
    ///
    /// # Errors
    /// [`WeightsError::Misfit`] listing what does not fit, by name: all of it, or the first few and how many more.
    pub fn check(&self, network: &Network) -> Result<(), WeightsError> {
        let graph = network.graph()?;
        let parameters: BTreeMap<String, Vec<usize>> =
            graph.parameters().iter().map(|own| (own.name.clone(), own.shape.clone())).collect();
        let statistics: BTreeMap<String, Vec<usize>> =
            graph.statistics().into_iter().map(|own| (own.name, vec![own.channels])).collect();
        let mut misfits = Misfits::default();
        misfits.compare(&self.parameters, &parameters, "");
        misfits.compare(&self.statistics, &statistics, "");
        for (buffer, arrays) in self.optimizer.iter().flat_map(|optimizer| &optimizer.buffers) {
            misfits.compare(arrays, &parameters, &format!("{buffer} of "));
        }
        if let Some(average) = &self.average {
            misfits.compare(&average.parameters, &parameters, "average of ");
            misfits.compare(&average.statistics, &statistics, "average of ");
        }
        match misfits.sentence() {
            Some(reason) => Err(WeightsError::Misfit { network: network.name.clone(), reason }),
            None => Ok(()),
        }
    }
}

/// The differences between a state and a network.
#[derive(Debug, Default)]
struct Misfits {
    missing: Vec<String>,
    unknown: Vec<String>,
    /// Complete statements.
    different: Vec<String>,
}

impl Misfits {
    fn compare(
        &mut self,
        arrays: &BTreeMap<String, Array>,
        expected: &BTreeMap<String, Vec<usize>>,
        what: &str,
    ) {
        for (name, shape) in expected {
            let len: usize = shape.iter().product();
            match arrays.get(name) {
                None => self.missing.push(format!("{what}`{name}`")),
                Some(array) if &array.shape != shape => {
                    self.different.push(format!("{what}`{name}` has shape {:?}, not {shape:?}", array.shape));
                }
                Some(array) if array.values.len() != len => {
                    self.different
                        .push(format!("{what}`{name}` has {} values, not {len}", array.values.len()));
                }
                Some(_) => {}
            }
        }
        let unknown = arrays.keys().filter(|name| !expected.contains_key(*name));
        self.unknown.extend(unknown.map(|name| format!("{what}`{name}`")));
    }

    fn sentence(&self) -> Option<String> {
        let parts = [
            listed(&self.missing).map(|names| match self.missing.len() {
                1 => format!("{names} is missing"),
                _ => format!("{names} are missing"),
            }),
            listed(&self.unknown).map(|names| format!("the network has no {names}")),
            listed(&self.different),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

/// The first few, and how many more.
fn listed(all: &[String]) -> Option<String> {
    const SHOWN: usize = 4;
    match all {
        [] => None,
        _ if all.len() <= SHOWN => Some(all.join(", ")),
        _ => Some(format!("{} and {} more", all[..SHOWN - 1].join(", "), all.len() - SHOWN + 1)),
    }
}
