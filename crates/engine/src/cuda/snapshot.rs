//! Copies of the state in GPU memory, which another thread fetches while the engine continues training.

use super::driver::{Buffer, Fetcher, Gpu};
use super::memory::Arenas;
use super::plan::Plan;
use super::update::Update;
use crate::engine::Snapshot;
use crate::error::EngineError;
use crate::places::{self, Export, RunningStatistics, export_statistics};
use pointwise_weights::{Array, State};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers for a state, and what fetches it.
#[derive(Debug)]
struct Copies {
    parameters: Buffer,
    statistics: Buffer,
    /// The optimizer's.
    buffers: Vec<Buffer>,
    /// The averages of parameters and statistics.
    average: Option<(Buffer, Buffer)>,
    fetcher: Fetcher,
}

/// Buffers of a fetched snapshot, for the next one.
#[derive(Debug, Clone, Default)]
pub(super) struct Spare(Arc<Mutex<Option<Copies>>>);

impl Spare {
    fn take(&self) -> Option<Copies> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, copies: Copies) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(copies);
    }
}

/// The state of an engine, copied.
pub(super) struct Copied {
    plan: Arc<Plan>,
    copies: Copies,
    spare: Spare,
    /// The optimizer's buffers' names and the steps taken, if they are part of it.
    pub(super) optimizer: Option<(&'static [&'static str], u64)>,
    /// For each BatchNorm's path.
    pub(super) batches_tracked: BTreeMap<String, i64>,
}

impl Copied {
    /// Starts to copy; without `whole`, only parameters and statistics. Steps started later do not affect it, but it can be fetched only
    /// when everything started before is done.
    pub(super) fn start(
        gpu: &Gpu,
        plan: &Arc<Plan>,
        arenas: &Arenas,
        update: &Update,
        spare: &Spare,
        whole: bool,
    ) -> Result<Self, EngineError> {
        let like = |buffer: &Buffer| gpu.allocate(buffer.bytes());
        let averages = update.average.as_ref();
        let copies = match spare.take() {
            Some(copies) => copies,
            None => Copies {
                parameters: like(&arenas.values)?,
                statistics: like(&arenas.statistics)?,
                buffers: update.buffers.iter().map(like).collect::<Result<_, _>>()?,
                average: averages
                    .map(|average| {
                        Ok::<_, EngineError>((like(&average.parameters)?, like(&average.statistics)?))
                    })
                    .transpose()?,
                fetcher: Fetcher::new(gpu)?,
            },
        };
        let mut trained = (&arenas.values, &arenas.statistics);
        let averaged = averages.map(|average| {
            let mut averaged = (&average.parameters, &average.statistics);
            if average.is_used {
                std::mem::swap(&mut trained, &mut averaged);
            }
            averaged
        });
        gpu.copy(trained.0, &copies.parameters)?;
        gpu.copy(trained.1, &copies.statistics)?;
        if whole {
            for (from, to) in update.buffers.iter().zip(&copies.buffers) {
                gpu.copy(from, to)?;
            }
            if let (Some(from), Some(to)) = (averaged, &copies.average) {
                gpu.copy(from.0, &to.0)?;
                gpu.copy(from.1, &to.1)?;
            }
        }
        Ok(Self {
            plan: Arc::clone(plan),
            copies,
            spare: spare.clone(),
            optimizer: None,
            batches_tracked: BTreeMap::new(),
        })
    }
}

impl Snapshot for Copied {
    fn state(self: Box<Self>) -> Result<State, EngineError> {
        let Self { plan, copies, spare, optimizer, batches_tracked } = *self;
        let values = |buffer: &Buffer| copies.fetcher.fetch(buffer, plan.parameters());
        let statistics = |buffer: &Buffer| {
            let rows = copies.fetcher.fetch(buffer, plan.statistics())?;
            Ok::<_, EngineError>(named(&plan, &rows, &batches_tracked))
        };
        let parameters = values(&copies.parameters)?;
        let (trained, batches_tracked) = statistics(&copies.statistics)?;
        let (mut fetched, mut average) = (None, None);
        if let Some((names, step)) = optimizer {
            let buffers = names.iter().zip(&copies.buffers);
            let buffers = buffers.map(|(name, buffer)| Ok((*name, values(buffer)?)));
            fetched = Some((buffers.collect::<Result<_, EngineError>>()?, step));
            if let Some((parameters, of_average)) = &copies.average {
                average = Some((values(parameters)?, statistics(of_average)?.0));
            }
        }
        spare.put(copies);
        let export: Export = Arc::new(move |arena| plan.export(arena));
        let optimizer = fetched;
        Box::new(places::Arenas {
            export,
            parameters,
            statistics: trained,
            batches_tracked,
            optimizer,
            average,
        })
        .state()
    }
}

/// Rows of running means and variances, by name, and batches tracked.
fn named(
    plan: &Plan,
    rows: &[f32],
    batches_tracked: &BTreeMap<String, i64>,
) -> (BTreeMap<String, Array>, BTreeMap<String, i64>) {
    export_statistics(plan.norms().map(|(norm, at)| {
        let row = |row: usize| {
            let start = row * plan.channels + at;
            rows[start..start + norm.channels].to_vec()
        };
        let batches_tracked = batches_tracked.get(&norm.path).copied().unwrap_or(0);
        RunningStatistics { path: &norm.path, mean: row(0), variance: row(1), batches_tracked }
    }))
}
