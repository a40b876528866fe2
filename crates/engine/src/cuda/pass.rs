//! What a step is, and what a pass through the network uses.

use super::blas::Blas;
use super::dnn::Dnn;
use super::driver::{Gpu, Kernel};
use super::functions::Kernels;
use super::launch::{Address, Grid};
use super::memory::{Arenas, F32, Room, Row, Set};
use super::plan::{Block, Plan};
use super::traffic::Traffic;
use super::tune::Convolutions;
use super::update::Update;
use crate::error::EngineError;
use crate::settings::Settings;

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    Train,
    /// As `Train`, without the optimizer.
    Differentiate,
    Evaluate,
    /// As `Evaluate`, without labels.
    Infer,
}

impl Mode {
    pub(super) fn trains(self) -> bool {
        matches!(self, Self::Train | Self::Differentiate)
    }
}

/// Where a step's images are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// In the staging buffer.
    Staged,
    /// In a resident set, in the order of an epoch or as stored, with a margin for crops or, below zero, none.
    Set { index: usize, ordered: bool, margin: i32 },
}

/// Steps of one kind run the same kernels on the same addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Step {
    pub(super) mode: Mode,
    pub(super) from: Origin,
    pub(super) n: usize,
}

/// NVIDIA's libraries on one stream.
#[derive(Debug)]
pub(super) struct Libraries {
    pub(super) blas: Blas,
    pub(super) dnn: Dnn,
}

/// One pass of `n` images through the network.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) gpu: &'a Gpu,
    /// The libraries of the main stream, and of the side stream.
    pub(super) main: &'a Libraries,
    pub(super) side: &'a Libraries,
    pub(super) kernels: &'a Kernels,
    pub(super) plan: &'a Plan,
    pub(super) settings: &'a Settings,
    pub(super) arenas: &'a Arenas,
    pub(super) update: &'a Update,
    pub(super) sets: &'a [Set],
    pub(super) convolutions: &'a Convolutions,
    pub(super) room: &'a Room,
    /// Images.
    pub(super) n: usize,
    pub(super) classes: usize,
}

impl Pass<'_> {
    pub(super) fn start<P: Copy + Traffic>(
        &self,
        kernel: &Kernel<P>,
        grid: Grid,
        parameters: P,
    ) -> Result<(), EngineError> {
        self.gpu.launch(kernel, grid, parameters)
    }

    pub(super) fn lane(&self) -> usize {
        self.plan.lane
    }

    pub(super) fn affine(&self, row: Row, block: &Block) -> Address {
        self.arenas.affine.at(row as usize * self.plan.channels + block.at, F32)
    }

    /// A running statistic: row 0 has the means, row 1 the variances.
    pub(super) fn statistic(&self, row: usize, block: &Block) -> Address {
        self.arenas.statistics.at(row * self.plan.channels + block.at, F32)
    }

    /// A vector of parameters; `start` is that of its row.
    pub(super) fn vector(&self, start: usize, block: &Block) -> Address {
        self.arenas.values.at(start + block.at, F32)
    }

    pub(super) fn vector_gradient(&self, start: usize, block: &Block) -> Address {
        self.arenas.vector_gradients.at(start - self.plan.weights + block.at, F32)
    }
}
