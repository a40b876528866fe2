//! Depthwise convolutions of inference.

use super::finish::FinishMap;
use super::pass::{Fused, Pass, parts, share};
use super::shape::{Constants, FusedShape};
use crate::algorithm::Algorithm;
use crate::depthwise::{Depthwise, MapKernel};
use crate::gemm::Keep;
use crate::memory::{Buffer, Shared};
use crate::shape::padded;
use crate::simd::Isa;
use crate::team::Team;
use crate::workspace::{Workspace, WorkspaceNeed, aligned};

/// Floats of results before they are finished, that a thread works on.
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
        let Pass { images, input, addend, output } = pass;
        let parts = self.image_parts(images, team.threads());
        let (rows, columns) = self.shape.output_map();
        let (_, stored_columns) = self.shape.convolution.stored_map();
        let (image_len, output_len) = (self.shape.convolution.input_len(), self.shape.output_len());
        let values = Shared::new(output);
        team.for_each_with(&mut workspace.workers, images * parts, |memory, task| {
            let (image, rows) = (task / parts, share(rows, parts, task % parts));
            let at = |row: usize| image * output_len + row * columns * self.channels;
            // SAFETY: every task has its own rows.
            let target = unsafe { values.part(at(rows.start)..at(rows.end)) };
            let source = &input[image * image_len..(image + 1) * image_len];
            let (pass, weights) = (self.plan.output(), &self.weights);
            if self.shape.is_direct() {
                let clamp = self.constants.clamp(self.shape.activation, 0, addend, at(rows.start));
                self.isa.run(MapKernel::of_rows(pass, weights, source, rows, target, clamp));
                return;
            }
            let stored = self.shape.stored_rows(&rows);
            let results = &mut memory[..stored.len() * stored_columns * self.channels];
            self.isa.run(MapKernel::of_rows(pass, weights, source, stored, results, Keep));
            let finish = FinishMap {
                shape: &self.shape,
                constants: &self.constants,
                results,
                block: self.channels,
                rows,
                channels: 0..self.channels,
                target: target.as_mut_ptr(),
                pixel: self.channels,
            };
            // SAFETY: the rows of the output.
            unsafe { finish.run_on(self.isa) };
        });
    }
}
