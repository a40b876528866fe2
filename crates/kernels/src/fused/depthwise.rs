//! Depthwise convolutions for inference.

use super::finish::FinishMap;
use super::pass::{Fused, Pass, Rows, parts};
use super::shape::{Constants, FusedShape};
use crate::algorithm::Algorithm;
use crate::depthwise::{Depthwise, MapKernel};
use crate::gemm::Keep;
use crate::memory::Buffer;
use crate::shape::padded;
use crate::simd::Isa;
use crate::team::Team;
use crate::workspace::{Workspace, WorkspaceNeed, aligned};

/// Floats of unfinished results that a thread works on.
const PIECE_FLOATS: usize = 64 << 10;

pub(super) struct FusedDepthwise {
    isa: Isa,
    shape: FusedShape,
    plan: Depthwise,
    channels: usize,
    weights: Buffer,
    constants: Constants,
}

impl FusedDepthwise {
    pub(super) fn new(isa: Isa, shape: FusedShape, weight: &[f32], constants: Constants) -> Self {
        let conv = shape.convolution;
        let plan = Depthwise::new(isa, conv);
        let mut weights = Buffer::new(plan.weight_len());
        for out in 0..conv.out_channels {
            for tap in 0..conv.taps() {
                weights[plan.weight_index(out, 0, tap)] = weight[out * conv.taps() + tap];
            }
        }
        Self { isa, shape, plan, channels: padded(conv.out_channels), weights, constants }
    }

    fn image_parts(&self, images: usize, threads: usize) -> usize {
        let (rows, _) = self.shape.output_map();
        let results = if self.shape.is_direct() { 0 } else { self.shape.convolution.output_len() };
        parts(images, threads, results.div_ceil(PIECE_FLOATS), rows)
    }
}

impl Fused for FusedDepthwise {
    fn need(&self, images: usize, _: usize) -> WorkspaceNeed {
        if self.shape.is_direct() {
            return WorkspaceNeed::default();
        }
        let (rows, _) = self.shape.output_map();
        let (_, columns) = self.shape.convolution.stored_map();
        let most = rows.div_ceil(self.image_parts(images.max(1), 1));
        let stored = (if self.shape.pool { 2 } else { 1 }) * most;
        WorkspaceNeed { shared: 0, worker: aligned(stored * columns * self.channels) }
    }

    fn run(&self, team: &mut Team<'_>, pass: Pass<'_>, workspace: &mut Workspace) {
        let parts = self.image_parts(pass.images, team.threads());
        let (_, columns) = self.shape.convolution.stored_map();
        pass.for_each_rows(&self.shape, team, &mut workspace.workers, parts, |memory, task| {
            let Rows { image, rows, addend, target } = task;
            let (pass, weights) = (self.plan.output(), &self.weights);
            if self.shape.is_direct() {
                let clamp = self.constants.clamp(self.shape.activation, 0, addend, 0);
                self.isa.run(MapKernel::of_rows(pass, weights, image, rows, target, clamp));
                return;
            }
            let stored = self.shape.stored_rows(&rows);
            let results = &mut memory[..stored.len() * columns * self.channels];
            self.isa.run(MapKernel::of_rows(pass, weights, image, stored, results, Keep));
            FinishMap::run_rows(self.isa, &self.shape, &self.constants, results, rows, target);
        });
    }
}
