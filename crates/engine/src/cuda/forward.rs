//! A forward pass through the network, and the loss.

use super::blas::{Product, Read};
use super::dnn::{Convolution2d, Forward, Operands};
use super::driver::Kernel;
use super::launch::{
    Address, BatchMoments, BnActForward, BnEvalScaleShift, BnFinalize, CopyChannels, CrossEntropyRows,
    CrossEntropyTotal, DropoutPass, ElementsPass, GatherAugmentBatch, Grid, GroupedConv, MapPass,
    MultiplyPass, NchwToNhwc, PoolPass, Tiles,
};
use super::memory::{F32, Row, unit};
use super::pass::{Libraries, Origin, Pass};
use super::plan::{Block, Convolution, Kind, Method, Node, windows};
use crate::error::EngineError;
use pointwise_network::{Map, Window};

impl Pass<'_> {
    /// Copies images to the network's input, and their labels.
    pub(super) fn load(&self, from: Origin) -> Result<(), EngineError> {
        let Pass { plan, kernels, arenas, sets, settings, .. } = *self;
        self.gpu.enter("images");
        let (input, padded) = (plan.input, plan.padded(plan.input.channels) as u32);
        let grid = Grid::linear(self.n * input.pixels());
        let out = self.room.input.address();
        match from {
            Origin::Staged => self.start(
                &kernels.nchw_to_nhwc,
                grid,
                NchwToNhwc {
                    images: self.room.staged.address(),
                    out,
                    n: self.n as u32,
                    channels: input.channels as u32,
                    pixels: input.pixels() as u32,
                    padded,
                },
            ),
            Origin::Set { index, ordered, margin } => {
                let set = &sets[index];
                self.start(
                    &kernels.gather_augment_batch,
                    grid,
                    GatherAugmentBatch {
                        images: set.images.address(),
                        labels: set.labels.address(),
                        order: if ordered { set.order.address() } else { 0 },
                        values: set.values.address(),
                        control: arenas.control.address(),
                        out,
                        out_labels: self.room.labels.address(),
                        seed: settings.seed,
                        n: self.n as u32,
                        channels: input.channels as u32,
                        height: input.height as u32,
                        width: input.width as u32,
                        padded,
                        margin,
                    },
                )
            }
        }
    }

    pub(super) fn forward(&self, training: bool) -> Result<(), EngineError> {
        let Pass { plan, kernels, .. } = *self;
        if !training && plan.norms().next().is_some() {
            self.evaluation()?;
        }
        for (at, node) in plan.nodes.iter().enumerate() {
            self.gpu.enter(&node.name);
            let (from, to) = (self.room.source(node.sources[0]), self.room.outputs[at].address());
            match node.kind {
                Kind::Block(ref block) => self.block(at, node, block, training)?,
                Kind::Average => {
                    let vectors = self.n * plan.padded(node.output.channels) / self.lane();
                    self.start(
                        &kernels.global_avg_pool_forward,
                        Grid::linear(vectors),
                        self.map_pass(from, to, node),
                    )?;
                }
                Kind::Flatten => {
                    let grid = Grid::linear(self.n * plan.len(node.output));
                    self.start(&kernels.flatten, grid, self.map_pass(from, to, node))?;
                }
                Kind::Dropout { p, layer } => {
                    self.dropout(from, to, node, if training { p } else { 0.0 }, layer)?;
                }
                Kind::MaxPool(window) => {
                    self.pool(&kernels.max_pool_forward, node, window, true, [from, 0, to])?;
                }
                Kind::AveragePool { window, include_padding } => {
                    self.pool(&kernels.avg_pool_forward, node, window, include_padding, [from, 0, to])?;
                }
                Kind::Scale(factor) => self.scale(from, to, node, factor)?,
                Kind::PadChannels { before } => {
                    let (map, to_map) = (node.inputs[0], node.output);
                    let span = plan.padded(to_map.channels);
                    self.channels((from, map, 0), (to, to_map, 0), [before, map.channels, span])?;
                }
                Kind::Sum { relu } => self.sum(node, to, relu)?,
                Kind::Concat => self.concat(node, to)?,
                Kind::Multiply => {
                    let factors = self.factors(node, None);
                    self.product(node, &factors, to)?;
                }
            }
        }
        Ok(())
    }

    /// A pool or its gradient, for each vector of its result; the addresses are those of the input (if it is read), the gradient, and the
    /// result.
    pub(super) fn pool(
        &self,
        kernel: &Kernel<PoolPass>,
        node: &Node,
        window: Window,
        include_padding: bool,
        [x, gradient, out]: [Address; 3],
    ) -> Result<(), EngineError> {
        let windows = windows(window, self.n, node.inputs[0], node.output);
        let padded = self.plan.padded(node.output.channels);
        let pixels = if gradient == 0 { windows.outputs() } else { windows.inputs() };
        let grid = Grid::linear(pixels * padded / self.lane());
        let include_padding = u32::from(include_padding);
        self.start(
            kernel,
            grid,
            PoolPass { x, gradient, out, windows, padded: padded as u32, include_padding },
        )
    }

    pub(super) fn scale(
        &self,
        a: Address,
        out: Address,
        node: &Node,
        factor: f32,
    ) -> Result<(), EngineError> {
        let vectors = self.vectors(node.output);
        let pass = ElementsPass { a, b: 0, out, factor, vectors: vectors as u32, relu: 0 };
        self.start(&self.kernels.scale, Grid::linear(vectors), pass)
    }

    /// Vectors of a map of the batch.
    pub(super) fn vectors(&self, map: Map) -> usize {
        self.n * self.plan.len(map) / self.lane()
    }

    /// `out = a + b` for maps of this shape, or `out = a` without a `b`.
    pub(super) fn add(
        &self,
        map: Map,
        [a, b]: [Address; 2],
        out: Address,
        relu: bool,
    ) -> Result<(), EngineError> {
        let vectors = self.vectors(map);
        let pass = ElementsPass { a, b, out, factor: 1.0, vectors: vectors as u32, relu: u32::from(relu) };
        self.start(&self.kernels.add, Grid::linear(vectors), pass)
    }

    /// The sum of a node's inputs, two at a time.
    pub(super) fn sum(&self, node: &Node, out: Address, relu: bool) -> Result<(), EngineError> {
        let inputs: Vec<Address> = node.sources.iter().map(|source| self.room.source(*source)).collect();
        let [first, others @ ..] = &inputs[..] else { return Ok(()) };
        let mut so_far = *first;
        for (which, other) in others.iter().enumerate() {
            let last = which + 1 == others.len();
            self.add(node.output, [so_far, *other], out, relu && last)?;
            so_far = out;
        }
        Ok(())
    }

    /// Copies channels between maps with the same pixels, each starting at its own channel; `[before, channels, span]` as in the kernel.
    pub(super) fn channels(
        &self,
        (from, from_map, from_first): (Address, Map, usize),
        (to, to_map, to_first): (Address, Map, usize),
        [before, channels, span]: [usize; 3],
    ) -> Result<(), EngineError> {
        let Pass { plan, kernels, .. } = *self;
        let pixels = self.n * to_map.pixels();
        self.start(
            &kernels.copy_channels,
            Grid::linear(pixels * span.div_ceil(self.lane())),
            CopyChannels {
                from,
                to,
                pixels: pixels as u32,
                from_padded: plan.padded(from_map.channels) as u32,
                from_first: from_first as u32,
                to_padded: plan.padded(to_map.channels) as u32,
                to_first: to_first as u32,
                before: before as u32,
                channels: channels as u32,
                span: span as u32,
            },
        )
    }

    pub(super) fn concat(&self, node: &Node, to: Address) -> Result<(), EngineError> {
        let padded = self.plan.padded(node.output.channels);
        let mut first = 0;
        for (which, (source, map)) in node.sources.iter().zip(&node.inputs).enumerate() {
            // The last one also writes the padding.
            let last = which + 1 == node.inputs.len();
            let span = if last { padded - first } else { map.channels };
            let from = (self.room.source(*source), *map, 0);
            self.channels(from, (to, node.output, first), [0, map.channels, span])?;
            first += map.channels;
        }
        Ok(())
    }

    /// Inputs of a product, except one that is left out, and whether each is one pixel that is broadcast to all.
    pub(super) fn factors(&self, node: &Node, left_out: Option<usize>) -> Vec<(Address, bool)> {
        let all = node.sources.iter().zip(&node.inputs).enumerate();
        all.filter(|(which, _)| Some(*which) != left_out)
            .map(|(_, (source, map))| (self.room.source(*source), *map != node.output))
            .collect()
    }

    /// The product of factors, two at a time.
    pub(super) fn product(
        &self,
        node: &Node,
        factors: &[(Address, bool)],
        out: Address,
    ) -> Result<(), EngineError> {
        let [first, others @ ..] = factors else { return Ok(()) };
        let mut so_far = *first;
        for other in others {
            self.multiply(node.output, so_far, *other, out)?;
            so_far = (out, false);
        }
        Ok(())
    }

    pub(super) fn multiply(
        &self,
        map: Map,
        a: (Address, bool),
        b: (Address, bool),
        out: Address,
    ) -> Result<(), EngineError> {
        let grid = Grid::linear(self.vectors(map));
        self.start(&self.kernels.multiply, grid, self.multiply_pass(map, a, b, out))
    }

    pub(super) fn multiply_pass(
        &self,
        map: Map,
        (a, a_is_gate): (Address, bool),
        (b, b_is_gate): (Address, bool),
        out: Address,
    ) -> MultiplyPass {
        MultiplyPass {
            a,
            b,
            out,
            n: self.n as u32,
            pixels: map.pixels() as u32,
            padded: self.plan.padded(map.channels) as u32,
            a_is_gate: u32::from(a_is_gate),
            b_is_gate: u32::from(b_is_gate),
        }
    }

    /// Computes scale and shift of every block from the running statistics.
    pub(super) fn evaluation(&self) -> Result<(), EngineError> {
        let Pass { plan, kernels, arenas, .. } = *self;
        let (values, channels) = (&arenas.values, plan.channels);
        self.start(
            &kernels.bn_eval_scale_shift,
            Grid::linear(channels),
            BnEvalScaleShift {
                weight: values.at(plan.norm_weights(), F32),
                bias: values.at(plan.norm_biases(), F32),
                convolution_bias: values.at(plan.biases(), F32),
                running_mean: arenas.statistics.address(),
                running_var: arenas.statistics.at(channels, F32),
                scale: arenas.affine.at(Row::Scale as usize * channels, F32),
                shift: arenas.affine.at(Row::Shift as usize * channels, F32),
                eps: arenas.eps.address(),
                units: arenas.units.address(),
                channels: channels as u32,
            },
        )
    }

    pub(super) fn block(
        &self,
        at: usize,
        node: &Node,
        block: &Block,
        training: bool,
    ) -> Result<(), EngineError> {
        let Pass { plan, kernels, .. } = *self;
        let shape = block.shape(self.n, self.lane());
        let y = self.room.results_of(plan, at);
        if let Some(convolution) = block.convolution {
            self.convolve(at, node, convolution, block.results)?;
        }
        if let Some(norm) = block.norm.as_ref().filter(|_| training) {
            let (tiles, grid) = Tiles::new(shape.results(), shape.channels as usize, self.lane());
            let partials = self.room.partials.address();
            self.start(&kernels.batch_moments, grid, BatchMoments { y, partials, tiles })?;
            let convolution_bias = if block.has_bias() { self.vector(plan.biases(), block) } else { 0 };
            self.start(
                &kernels.bn_finalize,
                Grid::merging(shape.channels),
                BnFinalize {
                    partials,
                    weight: self.vector(plan.norm_weights(), block),
                    bias: self.vector(plan.norm_biases(), block),
                    convolution_bias,
                    running_mean: self.statistic(0, block),
                    running_var: self.statistic(1, block),
                    scale: self.affine(Row::Scale, block),
                    shift: self.affine(Row::Shift, block),
                    mean: self.affine(Row::Mean, block),
                    inv_std: self.affine(Row::InvStd, block),
                    zeros: (shape.count() - shape.results()) as f64,
                    eps: norm.eps,
                    momentum: norm.momentum,
                    unit: unit(norm.weight),
                    tiles,
                },
            )?;
        }
        let (scale, shift) = self.scale_and_shift(block);
        let out = self.room.outputs[at].address();
        debug_assert_eq!(shape.outputs() * shape.channels as usize, self.n * plan.len(node.output));
        let grid = Grid::linear(shape.outputs() * shape.channels as usize / self.lane());
        self.start(kernels.bn_act_forward.of(&shape), grid, BnActForward { y, out, scale, shift, shape })
    }

    /// The scale and shift of a block's results; none at address 0.
    pub(super) fn scale_and_shift(&self, block: &Block) -> (Address, Address) {
        if block.norm.is_some() {
            (self.affine(Row::Scale, block), self.affine(Row::Shift, block))
        } else if block.has_bias() {
            (0, self.vector(self.plan.biases(), block))
        } else {
            (0, 0)
        }
    }

    pub(super) fn convolve(
        &self,
        at: usize,
        node: &Node,
        convolution: Convolution,
        results: Map,
    ) -> Result<(), EngineError> {
        let Pass { gpu, main: Libraries { blas, dnn }, arenas, plan, kernels, convolutions, .. } = *self;
        let (x, w) = (self.room.source(node.sources[0]), arenas.weight(convolution.weight));
        let y = self.room.results_of(plan, at);
        match convolution.method {
            Method::Product => blas.product(
                gpu,
                &Product {
                    a: (x, Read::AsIs),
                    b: (w, Read::Transposed),
                    c: y,
                    rows: self.n * results.pixels(),
                    columns: convolution.out_channels,
                    depth: convolution.in_channels,
                },
            ),
            Method::Library if self.convolution(at)?.has::<Forward>() => {
                let workspace = &convolutions.workspaces[0];
                self.convolution(at)?.run::<Forward>(gpu, dnn, Operands { x, w, y }, workspace)
            }
            _ => {
                let grid = Grid::linear(self.vectors(results));
                self.start(
                    &kernels.grouped_conv_forward,
                    grid,
                    self.grouped(node, convolution, results, [x, w, 0, y]),
                )
            }
        }
    }

    /// A convolution by our own kernels; the addresses are those of the input, the weights, the gradient of the results, and what is
    /// computed from two of them.
    pub(super) fn grouped(
        &self,
        node: &Node,
        convolution: Convolution,
        results: Map,
        [x, w, y, out]: [Address; 4],
    ) -> GroupedConv {
        GroupedConv {
            x,
            w,
            y,
            out,
            windows: windows(convolution.window, self.n, node.inputs[0], results),
            in_padded: convolution.in_channels as u32,
            out_padded: convolution.out_channels as u32,
            in_group: convolution.in_group as u32,
            out_group: convolution.out_group as u32,
            outputs: convolution.outputs as u32,
            depthwise: u32::from(convolution.method == Method::Depthwise),
        }
    }

    pub(super) fn convolution(&self, at: usize) -> Result<&Convolution2d, EngineError> {
        self.convolutions.get(at, self.n)
    }

    pub(super) fn map_pass(&self, from: Address, to: Address, node: &Node) -> MapPass {
        let plan = &self.plan;
        let input = node.inputs[0];
        MapPass {
            from,
            to,
            n: self.n as u32,
            pixels: input.pixels() as u32,
            channels: input.channels as u32,
            padded: plan.padded(input.channels) as u32,
            vector: plan.len(node.output) as u32,
        }
    }

    pub(super) fn dropout(
        &self,
        from: Address,
        to: Address,
        node: &Node,
        p: f64,
        layer: u32,
    ) -> Result<(), EngineError> {
        let Pass { plan, kernels, arenas, settings, .. } = *self;
        let map = node.output;
        let grid = Grid::linear(self.n * plan.len(map) / self.lane());
        self.start(
            &kernels.dropout,
            grid,
            DropoutPass {
                from,
                to,
                control: arenas.control.address(),
                seed: settings.seed,
                layer,
                threshold: p as f32,
                scale: (1.0 / (1.0 - p)) as f32,
                n: self.n as u32,
                pixels: map.pixels() as u32,
                channels: map.channels as u32,
                padded: plan.padded(map.channels) as u32,
            },
        )
    }

    /// Adds the batch to the totals; in training also computes the logits' gradient.
    pub(super) fn loss(&self, training: bool) -> Result<(), EngineError> {
        let Pass { plan, kernels, arenas, settings, classes, update, .. } = *self;
        let rows = self.room.partials.address();
        self.gpu.enter("loss");
        self.start(
            &kernels.cross_entropy_rows,
            CrossEntropyRows::grid(self.n, classes),
            CrossEntropyRows {
                logits: self.room.logits().address(),
                labels: self.room.labels.address(),
                gradient: if training { self.room.gradients[0].address() } else { 0 },
                rows,
                smoothing: if training { settings.recipe.label_smoothing } else { 0.0 },
                n: self.n as u32,
                classes: classes as u32,
                padded: plan.len(plan.output()) as u32,
            },
        )?;
        let (groups, constants, group_count) = update.groups();
        let (kind, optimizer) = update.optimizer();
        self.start(
            &kernels.cross_entropy_total,
            Grid::linear(1),
            CrossEntropyTotal {
                rows,
                control: arenas.control.address(),
                groups: if training { groups } else { 0 },
                constants,
                optimizer,
                kind,
                group_count: group_count as u32,
                n: self.n as u32,
            },
        )
    }
}
