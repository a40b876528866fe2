//! A network as the chain of steps that a compiled plan takes.
//!
//! Nearly all are blocks: a convolution or linear layer with what follows it.

use pointwise_models::{Layer, Network, NetworkError, PlacedLayer};

/// A map of one image: rows, columns, channels. A vector is a map of one pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Map {
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
}

impl Map {
    pub(crate) fn of(shape: &[usize]) -> Self {
        match *shape {
            [channels, height, width] => Self { height, width, channels },
            _ => Self { height: 1, width: 1, channels: shape.iter().product() },
        }
    }

    pub(crate) fn pixels(self) -> usize {
        self.height * self.width
    }
}

/// A step of the chain.
#[derive(Debug)]
pub(crate) struct Link {
    /// The layers' paths, such as `features.0-3`.
    pub(crate) name: String,
    pub(crate) kind: LinkKind,
    pub(crate) input: Map,
    pub(crate) output: Map,
    /// Multiply-accumulates forward of one image by the definition of the convolution.
    pub(crate) macs: usize,
}

#[derive(Debug)]
pub(crate) enum LinkKind {
    Block(BlockLayers),
    Dropout {
        p: f64,
        /// Number of the dropout layer in its network, from 0.
        layer: u32,
    },
    Average,
    /// From a map of several pixels to a vector in `(C, H, W)` order.
    Flatten,
}

/// Convolution, then BatchNorm, then ReLU, then pooling; each may be missing.
#[derive(Debug, Default)]
pub(crate) struct BlockLayers {
    pub(crate) convolution: Option<ConvolutionLayer>,
    pub(crate) norm: Option<NormLayer>,
    pub(crate) relu: bool,
    pub(crate) pool: bool,
}

/// A convolution, or a linear layer as a 1x1 convolution of one pixel.
#[derive(Debug)]
pub(crate) struct ConvolutionLayer {
    pub(crate) path: String,
    pub(crate) in_channels: usize,
    pub(crate) out_channels: usize,
    pub(crate) kernel: usize,
    pub(crate) padding: usize,
    pub(crate) linear: bool,
}

#[derive(Debug)]
pub(crate) struct NormLayer {
    pub(crate) path: String,
    pub(crate) channels: usize,
}

/// A block while its layers are collected.
#[derive(Debug)]
struct Pending {
    first: String,
    last: String,
    layers: BlockLayers,
    input: Map,
    output: Map,
    macs: usize,
    /// How many of the four kinds of layers, in their order, can no longer be added.
    closed: usize,
}

/// Groups the layers; the last step's output is a vector.
pub(crate) fn chain(network: &Network) -> Result<Vec<Link>, NetworkError> {
    let mut links = Vec::new();
    let mut pending: Option<Pending> = None;
    let mut dropouts = 0;
    let mut last = Map::of(&network.input);
    for placed in network.layers()? {
        let (input, output) = (Map::of(&placed.input), Map::of(&placed.output));
        last = output;
        // The place of a layer in a block; `None` for a step of its own.
        let rank = match placed.layer {
            Layer::Conv2d { .. } | Layer::Linear { .. } => Some(0),
            Layer::BatchNorm2d { .. } => Some(1),
            Layer::Relu => Some(2),
            Layer::MaxPool2d => Some(3),
            Layer::Dropout { .. } | Layer::GlobalAvgPool | Layer::Flatten => None,
        };
        if let Some(rank) = rank {
            if pending.as_ref().is_some_and(|pending| rank < pending.closed) {
                links.extend(pending.take().map(Pending::close));
            }
            let block = pending.get_or_insert_with(|| Pending {
                first: placed.path.clone(),
                last: String::new(),
                layers: BlockLayers::default(),
                input,
                output,
                macs: 0,
                closed: 0,
            });
            block.add(rank, &placed, output);
            continue;
        }
        links.extend(pending.take().map(Pending::close));
        let kind = match placed.layer {
            Layer::Dropout { p } => {
                dropouts += 1;
                LinkKind::Dropout { p, layer: dropouts - 1 }
            }
            Layer::GlobalAvgPool => LinkKind::Average,
            // A single pixel is flat already.
            _ if input.pixels() == 1 => continue,
            _ => LinkKind::Flatten,
        };
        links.push(Link { name: placed.path, kind, input, output, macs: 0 });
    }
    links.extend(pending.take().map(Pending::close));
    if last.pixels() > 1 {
        let output = Map { height: 1, width: 1, channels: last.pixels() * last.channels };
        links.push(Link { name: "output".to_owned(), kind: LinkKind::Flatten, input: last, output, macs: 0 });
    }
    Ok(links)
}

impl Pending {
    /// Adds a layer whose place among the four kinds is `rank`.
    fn add(&mut self, rank: usize, placed: &PlacedLayer, output: Map) {
        self.last.clone_from(&placed.path);
        self.output = output;
        self.macs += placed.macs();
        self.closed = rank + 1;
        let path = placed.path.clone();
        match placed.layer {
            Layer::Conv2d { in_channels, out_channels, kernel, padding } => {
                self.layers.convolution = Some(ConvolutionLayer {
                    path,
                    in_channels,
                    out_channels,
                    kernel,
                    padding,
                    linear: false,
                });
            }
            Layer::Linear { in_features, out_features } => {
                self.layers.convolution = Some(ConvolutionLayer {
                    path,
                    in_channels: in_features,
                    out_channels: out_features,
                    kernel: 1,
                    padding: 0,
                    linear: true,
                });
            }
            Layer::BatchNorm2d { channels } => self.layers.norm = Some(NormLayer { path, channels }),
            Layer::Relu => self.layers.relu = true,
            Layer::MaxPool2d => self.layers.pool = true,
            Layer::Dropout { .. } | Layer::GlobalAvgPool | Layer::Flatten => {}
        }
    }

    fn close(self) -> Link {
        let name = if self.first == self.last {
            self.first
        } else {
            format!("{}-{}", self.first, self.last.rsplit('.').next().unwrap_or_default())
        };
        Link {
            name,
            kind: LinkKind::Block(self.layers),
            input: self.input,
            output: self.output,
            macs: self.macs,
        }
    }
}
