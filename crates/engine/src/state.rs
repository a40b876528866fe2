//! The state of a network in host memory, by PyTorch's names.

use crate::EngineError;
use pointwise_models::Network;
use std::collections::BTreeMap;

/// A tensor in host memory, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Its shape; the product is the number of values.
    pub shape: Vec<usize>,
    /// Its values.
    pub values: Vec<f32>,
}

/// What the next training step depends on: engines and devices exchange it, checkpoints hold it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct State {
    /// The trained values: `features.0.weight`, ...
    pub parameters: BTreeMap<String, Array>,
    /// BatchNorm's `running_mean` and `running_var`.
    pub statistics: BTreeMap<String, Array>,
    /// BatchNorm's `num_batches_tracked`: training steps since the statistics began.
    pub batches_tracked: BTreeMap<String, i64>,
    /// The optimizer's state; `None` before the first step of a training.
    pub moments: Option<Moments>,
}

/// Adam's state.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Moments {
    /// Decaying mean of the gradient of each parameter (`exp_avg`).
    pub first: BTreeMap<String, Array>,
    /// Decaying mean of its square (`exp_avg_sq`).
    pub second: BTreeMap<String, Array>,
    /// Steps taken.
    pub step: u64,
}

impl State {
    /// Checks that this is a whole state of `network`: the same names, each with its shape.
    ///
    /// Missing `num_batches_tracked` are no error: they count from 0, as in state dictionaries of PyTorch before 0.4.1.
    ///
    /// # Errors
    /// [`EngineError::State`] naming the first thing that does not fit.
    pub fn check(&self, network: &Network) -> Result<(), EngineError> {
        let wrong = |reason| EngineError::State { network: network.name.clone(), reason };
        let parameters: BTreeMap<String, Vec<usize>> =
            network.parameters()?.into_iter().map(|spec| (spec.name, spec.shape)).collect();
        let statistics: BTreeMap<String, Vec<usize>> =
            network.buffers()?.into_iter().map(|spec| (spec.name, vec![spec.channels])).collect();
        same_shapes(&self.parameters, &parameters, "").map_err(wrong)?;
        same_shapes(&self.statistics, &statistics, "").map_err(wrong)?;
        for name in self.batches_tracked.keys() {
            let mean = name.strip_suffix("num_batches_tracked").map(|path| format!("{path}running_mean"));
            if !mean.is_some_and(|mean| statistics.contains_key(&mean)) {
                return Err(wrong(format!("the network has no `{name}`")));
            }
        }
        if let Some(moments) = &self.moments {
            same_shapes(&moments.first, &parameters, "first moment of ").map_err(wrong)?;
            same_shapes(&moments.second, &parameters, "second moment of ").map_err(wrong)?;
        }
        Ok(())
    }
}

fn same_shapes(
    arrays: &BTreeMap<String, Array>,
    expected: &BTreeMap<String, Vec<usize>>,
    what: &str,
) -> Result<(), String> {
    for (name, shape) in expected {
        let Some(array) = arrays.get(name) else { return Err(format!("{what}`{name}` is missing")) };
        if &array.shape != shape {
            return Err(format!("{what}`{name}` has shape {:?}, not {shape:?}", array.shape));
        }
        let len: usize = shape.iter().product();
        if array.values.len() != len {
            return Err(format!("{what}`{name}` has {} values, not {len}", array.values.len()));
        }
    }
    match arrays.keys().find(|name| !expected.contains_key(*name)) {
        Some(name) => Err(format!("the network has no {what}`{name}`")),
        None => Ok(()),
    }
}
