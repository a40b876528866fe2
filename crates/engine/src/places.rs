//! Where a compiled plan keeps its network's state: import and export by PyTorch's names.

use crate::engine::Snapshot;
use crate::error::EngineError;
use pointwise_weights::{Array, Average, OptimizerState, State};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A parameter: PyTorch's name and shape, and where the plan keeps its values.
#[derive(Debug)]
pub(crate) struct Place<L> {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) at: L,
}

/// The location of each parameter.
#[derive(Debug)]
pub(crate) struct Places<L>(Vec<Place<L>>);

impl<L> Default for Places<L> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<L> Places<L> {
    pub(crate) fn add(&mut self, name: String, shape: Vec<usize>, at: L) {
        self.0.push(Place { name, shape, at });
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Place<L>> {
        self.0.iter()
    }

    /// All parameters by name; `read` returns the values of one in PyTorch's order.
    pub(crate) fn export(&self, read: impl Fn(&Place<L>) -> Vec<f32>) -> BTreeMap<String, Array> {
        let export = |place: &Place<L>| {
            (place.name.clone(), Array { shape: place.shape.clone(), values: read(place) })
        };
        self.0.iter().map(export).collect()
    }

    /// The inverse of [`Places::export`], for checked arrays; `write` stores the values of one.
    pub(crate) fn import(&self, arrays: &BTreeMap<String, Array>, mut write: impl FnMut(&Place<L>, &[f32])) {
        for place in &self.0 {
            write(place, &arrays[&place.name].values);
        }
    }
}

/// The running statistics of a BatchNorm, without padding.
#[derive(Debug)]
pub(crate) struct RunningStatistics<'a> {
    /// The layer's path.
    pub(crate) path: &'a str,
    pub(crate) mean: Vec<f32>,
    pub(crate) variance: Vec<f32>,
    pub(crate) batches_tracked: i64,
}

/// Running statistics and batches tracked, by PyTorch's names.
pub(crate) fn export_statistics<'a>(
    all: impl Iterator<Item = RunningStatistics<'a>>,
) -> (BTreeMap<String, Array>, BTreeMap<String, i64>) {
    let (mut statistics, mut tracked) = (BTreeMap::new(), BTreeMap::new());
    for RunningStatistics { path, mean, variance, batches_tracked } in all {
        for (name, values) in [("running_mean", mean), ("running_var", variance)] {
            statistics.insert(format!("{path}.{name}"), Array { shape: vec![values.len()], values });
        }
        tracked.insert(format!("{path}.num_batches_tracked"), batches_tracked);
    }
    (statistics, tracked)
}

/// The running mean, the running variance and the batches tracked of the BatchNorm at a path, from checked arrays.
pub(crate) fn import_statistics<'a>(
    path: &str,
    statistics: &'a BTreeMap<String, Array>,
    tracked: &BTreeMap<String, i64>,
) -> (&'a [f32], &'a [f32], i64) {
    let values = |name: &str| statistics[&format!("{path}.{name}")].values.as_slice();
    let batches = tracked.get(&format!("{path}.num_batches_tracked")).copied().unwrap_or(0);
    (values("running_mean"), values("running_var"), batches)
}

/// Converts the values of a plan's arena to PyTorch's names and layouts.
pub(crate) type Export = Arc<dyn Fn(&[f32]) -> BTreeMap<String, Array> + Send + Sync>;

/// An optimizer's buffers by PyTorch's names.
pub(crate) type Buffers<T> = Vec<(&'static str, T)>;

/// The state of a compiled plan: copies of its arenas, not yet converted to PyTorch's layouts.
pub(crate) struct Arenas {
    pub(crate) export: Export,
    pub(crate) parameters: Vec<f32>,
    pub(crate) statistics: BTreeMap<String, Array>,
    pub(crate) batches_tracked: BTreeMap<String, i64>,
    /// The buffers by PyTorch's names, and the steps taken.
    pub(crate) optimizer: Option<(Buffers<Vec<f32>>, u64)>,
    /// Of parameters and statistics.
    pub(crate) average: Option<(Vec<f32>, BTreeMap<String, Array>)>,
}

impl Snapshot for Arenas {
    fn state(self: Box<Self>) -> Result<State, EngineError> {
        let Self { export, parameters, statistics, batches_tracked, optimizer, average } = *self;
        // Each copy is freed as soon as it is exported, so that the whole state is never in memory twice.
        let export = |arena: Vec<f32>| export(&arena);
        Ok(State {
            parameters: export(parameters),
            statistics,
            batches_tracked,
            optimizer: optimizer.map(|(buffers, step)| {
                let buffers = buffers.into_iter().map(|(name, arena)| (name.to_owned(), export(arena)));
                OptimizerState { buffers: buffers.collect(), step }
            }),
            average: average
                .map(|(parameters, statistics)| Average { parameters: export(parameters), statistics }),
        })
    }
}
