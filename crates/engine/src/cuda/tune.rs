//! The cuDNN convolutions of a network, and their algorithms.

use super::choices::{Choices, Machine};
use super::dnn::{
    Choice, Convolution2d, ConvolutionShape, Data, Direction, Dnn, Filter, Forward, MOST_WORKSPACE, Operands,
    Tried, dnn_version,
};
use super::driver::{Buffer, Gpu, driver_version};
use super::memory::{Arenas, Room};
use super::plan::{Block, Convolution, Kind, Method, Node, Plan};
use crate::error::EngineError;
use crate::settings::Settings;
use pointwise_network::Map;
use std::collections::BTreeMap;

/// The convolutions of a plan, by node and batch size.
#[derive(Debug)]
pub(super) struct Convolutions {
    nodes: Vec<BTreeMap<usize, Convolution2d>>,
    choices: Choices,
    /// For the main stream and the side stream; as large as the most demanding algorithm needs.
    pub(super) workspaces: [Buffer; 2],
}

/// What an algorithm is tried on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) dnn: &'a Dnn,
    pub(super) plan: &'a Plan,
    pub(super) arenas: &'a Arenas,
    pub(super) room: &'a Room,
}

/// Operands of a convolution's directions; `None` for one that is not computed.
#[derive(Debug, Clone, Copy)]
struct Directions {
    forward: Operands,
    data: Option<Operands>,
    filter: Option<Operands>,
}

impl Site<'_> {
    /// Nodes that cuDNN may compute.
    fn nodes(&self) -> impl Iterator<Item = (usize, &Node, &Block, Convolution)> {
        self.plan.nodes.iter().enumerate().filter_map(|(at, node)| {
            let Kind::Block(block) = &node.kind else { return None };
            let convolution = block.convolution.filter(|own| own.method == Method::Library)?;
            Some((at, node, block, convolution))
        })
    }

    fn directions(&self, at: usize, block: &Block, convolution: Convolution, trains: bool) -> Directions {
        let Self { plan, arenas, room, .. } = self;
        let x = room.source(plan.nodes[at].sources[0]);
        let w = arenas.weight(convolution.weight);
        let gradients = room.gradients_around(plan, at, block).filter(|_| trains);
        Directions {
            forward: Operands { x, w, y: room.results_of(plan, at) },
            data: gradients.and_then(|(y, x)| Some(Operands { x: x?, w, y })),
            filter: gradients.map(|(y, _)| Operands { x, w: arenas.weight_gradient(convolution.weight), y }),
        }
    }
}

/// What choosing a convolution's algorithms needs.
struct Tuning<'a> {
    gpu: &'a Gpu,
    dnn: &'a Dnn,
    choice: Choice,
    /// The same convolution for a larger batch.
    larger: Option<&'a Convolution2d>,
    workspace: &'a Buffer,
    choices: &'a mut Choices,
}

impl Tuning<'_> {
    fn choose<D: Direction>(&mut self, own: &mut Convolution2d, at: Operands) -> Result<(), EngineError> {
        let key = format!("{} {}", own.key(), D::KERNEL);
        let known = match self.choice {
            Choice::Measured => {
                self.larger.and_then(Convolution2d::chosen::<D>).or_else(|| self.choices.get(&key))
            }
            Choice::Deterministic => None,
        };
        own.choose::<D>((self.gpu, self.dnn), self.choice, known, at, self.workspace)?;
        if let Some(numbers) = own.chosen::<D>()
            && self.choice == Choice::Measured
        {
            self.choices.set(key, numbers);
        }
        Ok(())
    }
}

impl Convolutions {
    /// No convolutions yet; measurements are kept in the settings' cache folder.
    pub(super) fn new(gpu: &Gpu, plan: &Plan, settings: &Settings) -> Result<Self, EngineError> {
        let nodes = plan.nodes.iter().map(|_| BTreeMap::new()).collect();
        let machine = Machine {
            card: gpu.name(),
            versions: [driver_version(), dnn_version().unwrap_or(0)],
            precision: settings.precision.name(),
        };
        let choices = Choices::open(settings.cache.as_deref(), &machine);
        Ok(Self { nodes, choices, workspaces: [gpu.allocate(0)?, gpu.allocate(0)?] })
    }

    /// The convolution of a node for a batch of `n`.
    pub(super) fn get(&self, at: usize, n: usize) -> Result<&Convolution2d, EngineError> {
        let prepared = self.nodes[at].get(&n);
        prepared.ok_or_else(|| EngineError::Device("a convolution was not prepared".to_owned()))
    }

    /// Chooses the algorithms of a step's convolutions that have none yet. Returns the bytes of a workspace for all of them.
    pub(super) fn choose(
        &mut self,
        site: Site<'_>,
        n: usize,
        trains: bool,
        choice: Choice,
    ) -> Result<usize, EngineError> {
        let Site { gpu, dnn, .. } = site;
        let mut scratch = None;
        let mut needed = 0;
        for (at, node, block, convolution) in site.nodes() {
            let chosen = &mut self.nodes[at];
            let mut own = match chosen.remove(&n) {
                Some(own) => own,
                None => Convolution2d::new(gpu, dnn, shape(node, convolution, block.results, n))?,
            };
            // The choice for a larger batch is good enough for a last, smaller one.
            let larger = chosen.range(n..).next().map(|(_, larger)| larger);
            let Directions { forward, data, filter } = site.directions(at, block, convolution, trains);
            let open = [
                !own.was_asked::<Forward>(),
                data.is_some() && !own.was_asked::<Data>(),
                filter.is_some() && !own.was_asked::<Filter>(),
            ];
            if open.contains(&true) {
                let workspace = match &mut scratch {
                    Some(workspace) => &*workspace,
                    None => scratch.insert(gpu.allocate(MOST_WORKSPACE)?),
                };
                let mut tuning = Tuning { gpu, dnn, choice, larger, workspace, choices: &mut self.choices };
                if open[0] {
                    tuning.choose::<Forward>(&mut own, forward)?;
                }
                if let Some(data) = data.filter(|_| open[1]) {
                    tuning.choose::<Data>(&mut own, data)?;
                }
                if let Some(filter) = filter.filter(|_| open[2]) {
                    tuning.choose::<Filter>(&mut own, filter)?;
                }
            }
            needed = own.workspace().max(needed);
            chosen.insert(n, own);
        }
        self.choices.save();
        Ok(needed)
    }

    /// Tries every algorithm of every layer and direction on a batch of `n` for which all algorithms were chosen: returns the layer's name,
    /// and the result.
    pub(super) fn survey(
        &self,
        site: Site<'_>,
        n: usize,
        choice: Choice,
    ) -> Result<Vec<(String, Tried)>, EngineError> {
        let on = (site.gpu, site.dnn);
        let workspace = site.gpu.allocate(MOST_WORKSPACE)?;
        let mut all = Vec::new();
        for (at, node, block, convolution) in site.nodes() {
            let own = self.get(at, n)?;
            let Directions { forward, data, filter } = site.directions(at, block, convolution, true);
            let mut tried = own.survey::<Forward>(on, choice, forward, &workspace)?;
            if let Some(data) = data {
                tried.extend(own.survey::<Data>(on, choice, data, &workspace)?);
            }
            if let Some(filter) = filter {
                tried.extend(own.survey::<Filter>(on, choice, filter, &workspace)?);
            }
            all.extend(tried.into_iter().map(|tried| (node.name.clone(), tried)));
        }
        Ok(all)
    }
}

/// The sizes of a convolution for a batch.
fn shape(node: &Node, convolution: Convolution, results: Map, n: usize) -> ConvolutionShape {
    let (input, window) = (node.inputs[0], convolution.window);
    ConvolutionShape {
        n,
        height: input.height,
        width: input.width,
        in_channels: convolution.in_channels,
        out_height: results.height,
        out_width: results.width,
        out_channels: convolution.out_channels,
        kernel: window.kernel,
        stride: window.stride,
        padding: window.padding,
        groups: convolution.groups,
    }
}
