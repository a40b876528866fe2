//! Gradients of every parameter, from the logits' gradient.

use super::blas::{Product, Read};
use super::dnn::{Data, Filter, Operands};
use super::launch::{
    Address, BnActBackward, BnBackwardCoefficients, BnBackwardReduce, Chunks, ElementsPass, GateBackward,
    Grid, GroupedConv, GroupedConvFilter, MergeFilterPartials, Tiles,
};
use super::memory::{Row, unit};
use super::pass::Pass;
use super::plan::{Block, Convolution, Kind, Method, Node};
use crate::error::EngineError;
use crate::gradients::Flow;

impl Pass<'_> {
    /// Gradients of every parameter, from the logits' gradient.
    pub(super) fn backward(&self) -> Result<(), EngineError> {
        let plan = self.plan;
        for (at, node) in plan.nodes.iter().enumerate().rev() {
            let gradients = &plan.schedule.stages[at];
            let Some(own) = gradients.output else { continue };
            self.gpu.enter(&node.name);
            let mut gradient = self.room.gradients[own].address();
            match &node.kind {
                Kind::Block(block) => self.block_backward(at, node, block, gradient)?,
                Kind::Sum { relu: true } => {
                    let a = gradient;
                    if let Some(copy) = gradients.copy {
                        gradient = self.room.gradients[copy].address();
                    }
                    let vectors = self.vectors(node.output);
                    let pass = ElementsPass {
                        a,
                        b: self.room.outputs[at].address(),
                        out: gradient,
                        factor: 1.0,
                        vectors: vectors as u32,
                        relu: 0,
                    };
                    self.start(&self.kernels.relu_backward, Grid::linear(vectors), pass)?;
                }
                _ => {}
            }
            for (which, flow) in gradients.inputs.iter().enumerate() {
                let map = node.inputs[which];
                let (into, from) = match *flow {
                    Flow::None | Flow::Share { .. } => continue,
                    Flow::Write { into, .. } => (into, None),
                    Flow::Add { into, from, .. } => (into, Some(self.room.gradients[from].address())),
                };
                let into = self.room.gradients[into].address();
                match (&node.kind, from) {
                    // Its contribution to each input is the gradient itself.
                    (Kind::Sum { .. }, from) => {
                        self.add(map, [gradient, from.unwrap_or(0)], into, false)?;
                        continue;
                    }
                    // Its contribution has been written above.
                    (Kind::Block(_), _) => {}
                    _ => self.layer_backward(at, node, which, gradient, into)?,
                }
                if let Some(from) = from {
                    self.add(map, [into, from], into, false)?;
                }
            }
        }
        Ok(())
    }

    /// Writes a layer's contribution to the gradient of one of its inputs.
    fn layer_backward(
        &self,
        at: usize,
        node: &Node,
        which: usize,
        gradient: Address,
        into: Address,
    ) -> Result<(), EngineError> {
        let Pass { plan, kernels, .. } = *self;
        let map = node.inputs[which];
        let x = self.room.source(node.sources[which]);
        match node.kind {
            Kind::Average => {
                let grid = Grid::linear(self.vectors(map));
                self.start(&kernels.global_avg_pool_backward, grid, self.map_pass(gradient, into, node))
            }
            Kind::Flatten => {
                let grid = Grid::linear(self.n * plan.len(map));
                self.start(&kernels.unflatten, grid, self.map_pass(gradient, into, node))
            }
            Kind::Dropout { p, layer } => self.dropout(gradient, into, node, p, layer),
            Kind::MaxPool(window) => {
                self.pool(&kernels.max_pool_backward, node, window, true, [x, gradient, into])
            }
            Kind::AveragePool { window, include_padding } => {
                let addresses = [0, gradient, into];
                self.pool(&kernels.avg_pool_backward, node, window, include_padding, addresses)
            }
            Kind::Scale(factor) => self.scale(gradient, into, node, factor),
            Kind::PadChannels { before } => {
                let span = plan.padded(map.channels);
                self.channels((gradient, node.output, before), (into, map, 0), [0, map.channels, span])
            }
            Kind::Concat => {
                let first = node.inputs[..which].iter().map(|map| map.channels).sum();
                let span = plan.padded(map.channels);
                self.channels((gradient, node.output, first), (into, map, 0), [0, map.channels, span])
            }
            Kind::Multiply => {
                let mut others = self.factors(node, Some(which));
                if others.len() > 1 {
                    let product = self.room.scratch.address();
                    self.product(node, &others, product)?;
                    others = vec![(product, false)];
                }
                let whole = (gradient, false);
                if map == node.output {
                    return self.multiply(map, whole, others[0], into);
                }
                let pass = self.multiply_pass(node.output, whole, others[0], into);
                self.start(&kernels.gate_backward, Grid::linear(self.vectors(map)), GateBackward(pass))
            }
            Kind::Block(_) | Kind::Sum { .. } => {
                Err(EngineError::Device(format!("{} has a gradient of its own at {at}", node.name)))
            }
        }
    }

    /// Gradients of a block's parameters and, if requested, of its input, from that of its output.
    fn block_backward(
        &self,
        at: usize,
        node: &Node,
        block: &Block,
        gradient: Address,
    ) -> Result<(), EngineError> {
        let Pass { plan, kernels, gpu, main, arenas, .. } = *self;
        let shape = block.shape(self.n, self.lane());
        let y = self.room.results_of(plan, at);
        let (scale, shift) = self.scale_and_shift(block);
        let normed = |row| if block.norm.is_some() { self.affine(row, block) } else { 0 };
        let mean = normed(Row::Mean);
        if block.sums_gradient() {
            let (tiles, grid) = Tiles::new(shape.outputs(), shape.channels as usize, self.lane());
            let partials = self.room.partials.address();
            let kernel = kernels.bn_act_backward_reduce.of(&shape);
            self.start(
                kernel,
                grid,
                BnBackwardReduce { y, gradient, scale, shift, mean, partials, tiles, shape },
            )?;
            let to = |has: bool, start: usize| if has { self.vector_gradient(start, block) } else { 0 };
            let (weight, unit, weight_gradient, bias_gradient) = match &block.norm {
                Some(norm) => (
                    self.vector(plan.norm_weights(), block),
                    unit(norm.weight),
                    to(norm.weight, plan.norm_weights()),
                    to(norm.bias, plan.norm_biases()),
                ),
                None => (0, 0.0, 0, to(true, plan.biases())),
            };
            self.start(
                &kernels.bn_backward_coefficients,
                Grid::merging(shape.channels),
                BnBackwardCoefficients {
                    partials,
                    weight,
                    inv_std: normed(Row::InvStd),
                    a: normed(Row::A),
                    b: normed(Row::B),
                    c: normed(Row::C),
                    weight_gradient,
                    bias_gradient,
                    count: shape.count() as f64,
                    unit,
                    tiles,
                },
            )?;
        }
        let wanted = self.room.target(plan.schedule.stages[at].inputs[0]);
        let pass = |out| {
            let [a, b, c] = [Row::A, Row::B, Row::C].map(normed);
            let grid = Grid::linear(shape.windows() * shape.channels as usize / self.lane());
            let kernel = kernels.bn_act_backward.of(&shape);
            self.start(kernel, grid, BnActBackward { y, gradient, out, scale, shift, mean, a, b, c, shape })
        };
        let Some(convolution) = block.convolution else {
            return wanted.map_or(Ok(()), pass);
        };
        let mut dy = gradient;
        if block.changes_gradient() {
            dy = self.room.scratch.address();
            pass(dy)?;
        }
        let x = self.room.source(node.sources[0]);
        let (w, dw) = (arenas.weight(convolution.weight), arenas.weight_gradient(convolution.weight));
        let Convolution { in_channels, out_channels, .. } = convolution;
        let library = match convolution.method {
            Method::Library => Some(self.convolution(at)?),
            _ => None,
        };
        // The weights' gradient runs concurrently with the input's: neither reads what the other writes. Our own kernels share the buffer
        // for partial sums.
        let beside = match convolution.method {
            Method::Product => true,
            _ => library.is_some_and(|library| library.has::<Filter>()),
        };
        let is_beside = wanted.is_some() && beside && gpu.fork()?;
        let on = if is_beside { self.side } else { main };
        let [main_workspace, side_workspace] = &self.convolutions.workspaces;
        let own = |operands| self.grouped(node, convolution, block.results, operands);
        match (convolution.method, library.filter(|library| library.has::<Filter>())) {
            (Method::Product, _) => on.blas.product(
                gpu,
                &Product {
                    a: (dy, Read::Transposed),
                    b: (x, Read::AsIs),
                    c: dw,
                    rows: out_channels,
                    columns: in_channels,
                    depth: shape.results(),
                },
            )?,
            (_, Some(library)) => {
                let workspace = if is_beside { side_workspace } else { main_workspace };
                library.run::<Filter>(gpu, &on.dnn, Operands { x, w: dw, y: dy }, workspace)?;
            }
            (_, None) => self.grouped_filter(convolution, own([x, 0, dy, 0]), dw)?,
        }
        let Some(dx) = wanted else { return Ok(()) };
        match (convolution.method, library.filter(|library| library.has::<Data>())) {
            (Method::Product, _) => main.blas.product(
                gpu,
                &Product {
                    a: (dy, Read::AsIs),
                    b: (w, Read::AsIs),
                    c: dx,
                    rows: shape.results(),
                    columns: in_channels,
                    depth: out_channels,
                },
            )?,
            (_, Some(library)) => {
                library.run::<Data>(gpu, &main.dnn, Operands { x: dx, w, y: dy }, main_workspace)?;
            }
            (_, None) => {
                let grid = Grid::linear(self.vectors(node.inputs[0]));
                self.start(&kernels.grouped_conv_backward_data, grid, own([0, w, dy, dx]))?;
            }
        }
        if is_beside { gpu.join() } else { Ok(()) }
    }

    /// The gradient of a convolution's weights by our own kernels.
    fn grouped_filter(
        &self,
        convolution: Convolution,
        pass: GroupedConv,
        out: Address,
    ) -> Result<(), EngineError> {
        let kernels = self.kernels;
        let (weights, partials) = (convolution.len(), self.room.partials.address());
        let (Chunks { chunk, chunks }, grid) = Chunks::new(weights, pass.windows.outputs());
        let weights = weights as u32;
        self.start(
            &kernels.grouped_conv_backward_filter,
            grid,
            GroupedConvFilter { convolution: pass, partials, weights, chunk },
        )?;
        let grid = Grid::linear(weights as usize);
        self.start(
            &kernels.merge_filter_partials,
            grid,
            MergeFilterPartials { partials, out, weights, chunks },
        )
    }
}
