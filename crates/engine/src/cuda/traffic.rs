//! What each kernel moves between the GPU's memory and its processors.

use super::launch::{
    BatchMoments, BlockShape, BnActBackward, BnActForward, BnBackwardCoefficients, BnBackwardReduce,
    BnEvalScaleShift, BnFinalize, ClipGradients, CopyChannels, CrossEntropyRows, CrossEntropyTotal,
    DropoutPass, ElementsPass, GateBackward, GatherAugmentBatch, GradientNorm, GroupedConv,
    GroupedConvFilter, Lookahead, MapPass, MergeFilterPartials, MultiplyPass, NchwToNhwc, PoolPass, RowLoss,
    SetRate, SwapAverage, Tiles, Update,
};

const F32: usize = size_of::<f32>();
const BF16: usize = 2;
/// Bytes of the vectors in which maps are read and written.
const VECTOR: usize = 16;

/// The arguments of a kernel.
pub(super) trait Traffic {
    /// Bytes that are read and written, each counted once, if a value of a map or of its gradient takes `element` bytes. Vectors of
    /// channels, and anything smaller, do not count.
    fn bytes(&self, element: usize) -> usize;
}

fn product<const N: usize>(factors: [u32; N]) -> usize {
    factors.iter().map(|factor| *factor as usize).product()
}

impl Tiles {
    fn bytes(&self) -> usize {
        F32 * self.partials()
    }
}

impl BlockShape {
    /// Values of the results, and of the outputs.
    fn lens(&self) -> [usize; 2] {
        [self.results(), self.outputs()].map(|pixels| pixels * self.channels as usize)
    }
}

impl Traffic for SetRate {
    fn bytes(&self, _: usize) -> usize {
        0
    }
}

impl Traffic for GatherAugmentBatch {
    fn bytes(&self, element: usize) -> usize {
        let pixels = product([self.n, self.height, self.width]);
        pixels * (self.channels as usize + self.padded as usize * element)
    }
}

impl Traffic for NchwToNhwc {
    fn bytes(&self, element: usize) -> usize {
        product([self.n, self.pixels]) * (self.channels as usize * F32 + self.padded as usize * element)
    }
}

impl Traffic for BatchMoments {
    fn bytes(&self, element: usize) -> usize {
        product([self.tiles.rows, self.tiles.channels]) * element + self.tiles.bytes()
    }
}

impl Traffic for BnFinalize {
    fn bytes(&self, _: usize) -> usize {
        self.tiles.bytes()
    }
}

impl Traffic for BnEvalScaleShift {
    fn bytes(&self, _: usize) -> usize {
        0
    }
}

impl Traffic for BnActForward {
    fn bytes(&self, element: usize) -> usize {
        let [results, outputs] = self.shape.lens();
        (results + outputs) * element
    }
}

impl Traffic for BnBackwardReduce {
    fn bytes(&self, element: usize) -> usize {
        let [results, outputs] = self.shape.lens();
        (results + outputs) * element + self.tiles.bytes()
    }
}

impl Traffic for BnBackwardCoefficients {
    fn bytes(&self, _: usize) -> usize {
        self.tiles.bytes()
    }
}

impl Traffic for BnActBackward {
    fn bytes(&self, element: usize) -> usize {
        let [results, outputs] = self.shape.lens();
        (2 * results + outputs) * element
    }
}

impl Traffic for MapPass {
    fn bytes(&self, element: usize) -> usize {
        (product([self.n, self.pixels, self.padded]) + product([self.n, self.vector])) * element
    }
}

impl Traffic for DropoutPass {
    fn bytes(&self, element: usize) -> usize {
        2 * product([self.n, self.pixels, self.padded]) * element
    }
}

impl Traffic for CrossEntropyRows {
    fn bytes(&self, element: usize) -> usize {
        let maps = if self.gradient == 0 { 1 } else { 2 };
        maps * product([self.n, self.padded]) * element + self.n as usize * size_of::<RowLoss>()
    }
}

impl Traffic for CrossEntropyTotal {
    fn bytes(&self, _: usize) -> usize {
        self.n as usize * size_of::<RowLoss>()
    }
}

impl Traffic for GradientNorm {
    fn bytes(&self, element: usize) -> usize {
        gradients([self.weights, self.length], element)
    }
}

impl Traffic for ClipGradients {
    fn bytes(&self, _: usize) -> usize {
        0
    }
}

/// The gradients of weights, and of `length` parameters in total.
fn gradients([weights, length]: [u32; 2], element: usize) -> usize {
    weights as usize * element + (length - weights) as usize * F32
}

impl Traffic for Update {
    fn bytes(&self, element: usize) -> usize {
        let Self { first, second, average, copies, weights, length, statistics_length, .. } = *self;
        let buffers = 1 + [first, second, average].iter().filter(|buffer| **buffer != 0).count();
        let averaged = if average == 0 { 0 } else { statistics_length as usize };
        let copied = if copies == 0 { 0 } else { weights as usize };
        2 * F32 * buffers * length as usize
            + gradients([weights, length], element)
            + BF16 * copied
            + 3 * F32 * averaged
    }
}

impl Traffic for SwapAverage {
    fn bytes(&self, _: usize) -> usize {
        let copied = if self.copies == 0 { 0 } else { self.weights as usize };
        4 * F32 * (self.length + self.statistics_length) as usize + BF16 * copied
    }
}

impl Traffic for Lookahead {
    fn bytes(&self, _: usize) -> usize {
        let copied = if self.copies == 0 { 0 } else { self.weights as usize };
        4 * F32 * (self.length + self.statistics_length) as usize + BF16 * copied
    }
}

impl Traffic for ElementsPass {
    fn bytes(&self, _: usize) -> usize {
        let maps = if self.b == 0 { 2 } else { 3 };
        maps * self.vectors as usize * VECTOR
    }
}

impl MultiplyPass {
    /// Values of a map, and of a gate.
    fn lens(&self) -> [usize; 2] {
        [product([self.n, self.pixels, self.padded]), product([self.n, self.padded])]
    }

    /// Values of one factor, and of the other.
    fn factors(&self) -> usize {
        let [map, gate] = self.lens();
        [self.a_is_gate, self.b_is_gate].map(|is_gate| if is_gate == 0 { map } else { gate }).iter().sum()
    }
}

impl Traffic for MultiplyPass {
    fn bytes(&self, element: usize) -> usize {
        (self.factors() + self.lens()[0]) * element
    }
}

impl Traffic for GateBackward {
    fn bytes(&self, element: usize) -> usize {
        (self.0.factors() + self.0.lens()[1]) * element
    }
}

impl Traffic for CopyChannels {
    fn bytes(&self, element: usize) -> usize {
        self.pixels as usize * (self.channels + self.span) as usize * element
    }
}

impl Traffic for PoolPass {
    fn bytes(&self, element: usize) -> usize {
        let (inputs, outputs) = (self.windows.inputs(), self.windows.outputs());
        let read = if self.x == 0 { 0 } else { inputs };
        let others = if self.gradient == 0 { outputs } else { outputs + inputs };
        (read + others) * self.padded as usize * element
    }
}

impl GroupedConv {
    /// Values of both maps.
    fn maps(&self) -> usize {
        self.windows.inputs() * self.in_padded as usize + self.windows.outputs() * self.out_padded as usize
    }
}

impl Traffic for GroupedConv {
    fn bytes(&self, element: usize) -> usize {
        let [rows, columns] = self.windows.kernel;
        (self.maps() + product([rows, columns, self.in_group, self.out_padded])) * element
    }
}

impl Traffic for GroupedConvFilter {
    fn bytes(&self, element: usize) -> usize {
        let chunks = self.convolution.windows.outputs().div_ceil(self.chunk as usize);
        self.convolution.maps() * element + chunks * self.weights as usize * F32
    }
}

#[cfg(test)]
impl Traffic for super::launch::Sizes {
    fn bytes(&self, _: usize) -> usize {
        0
    }
}

impl Traffic for MergeFilterPartials {
    fn bytes(&self, element: usize) -> usize {
        self.weights as usize * (self.chunks as usize * F32 + element)
    }
}
