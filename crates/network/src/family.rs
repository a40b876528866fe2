//! Variations of the study's `nin`, between it and `alexnet`: what do its pointwise layers owe to what?

use crate::entry::Entry;
use crate::layer::{AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Flatten, MaxPool2d, Relu};
use crate::network::Network;

/// A variation of `nin`: blocks of one 3x3 convolution and two pointwise ones, each with BatchNorm, and ReLU and pool at the end.
///
/// All hand on what the convolutions of `alexnet` hand on: 64, 192, 384 and at last 256 channels. Where `alexnet` has a
/// 3x3 convolution alone, a member has one of at most 256 channels and leaves the depth to pointwise layers:
///
/// | block | `alexnet` | member; `r` is the reduction |
/// |---|---|---|
/// | 1 | 3->64 3x3 | 3->64 3x3 |
/// | 2 | 64->192 3x3 | 64->128 3x3, 128->128/r 1x1, 128/r->192 1x1 |
/// | 3 | 192->384 3x3 | 192->256 3x3, 256->256/r 1x1, 256/r->384 1x1 |
/// | 4 | 384->256 3x3, 256->256 3x3 | 384->256/r 1x1, 256/r->256 3x3, 256->256 1x1 |
///
/// The reduction is that of a bottleneck: the first pointwise layer of a block has `1/r` of its channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NinVariation {
    /// Its name on command lines and in files.
    pub name: &'static str,
    /// Whether pointwise layers pad by one, as published: maps grow around them, and their border is zeros before the bias.
    pub padding: bool,
    /// Whether every convolution is followed by a ReLU; as published, only the last one of a block is.
    pub relu: bool,
    /// What the channels of the first pointwise layer of a block are divided by; 1 as published.
    pub reduction: usize,
}

impl NinVariation {
    /// `nin` as published.
    pub const NIN: Self = Self::member("nin", true, false, 1);

    /// All members, `nin` first: every padding with every ReLU with every reduction.
    pub const ALL: [Self; 12] = [
        Self::NIN,
        Self::member("nin-r2", true, false, 2),
        Self::member("nin-r4", true, false, 4),
        Self::member("nin-relu", true, true, 1),
        Self::member("nin-relu-r2", true, true, 2),
        Self::member("nin-relu-r4", true, true, 4),
        Self::member("nin-nopad", false, false, 1),
        Self::member("nin-nopad-r2", false, false, 2),
        Self::member("nin-nopad-r4", false, false, 4),
        Self::member("nin-nopad-relu", false, true, 1),
        Self::member("nin-nopad-relu-r2", false, true, 2),
        Self::member("nin-nopad-relu-r4", false, true, 4),
    ];

    const fn member(name: &'static str, padding: bool, relu: bool, reduction: usize) -> Self {
        Self { name, padding, relu, reduction }
    }

    /// The names of the whole family: `alexnet`, which has no pointwise layers between its others, then the members.
    pub fn family() -> impl Iterator<Item = &'static str> {
        ["alexnet"].into_iter().chain(Self::ALL.iter().map(|member| member.name))
    }

    /// The member as a network.
    #[must_use]
    pub fn network(&self) -> Network {
        let reduced = |channels: usize| channels / self.reduction;
        // Channels in and out, and the kernel.
        let blocks: [&[(usize, usize, usize)]; 4] = [
            &[(3, 64, 3)],
            &[(64, 128, 3), (128, reduced(128), 1), (reduced(128), 192, 1)],
            &[(192, 256, 3), (256, reduced(256), 1), (reduced(256), 384, 1)],
            &[(384, reduced(256), 1), (reduced(256), 256, 3), (256, 256, 1)],
        ];
        let mut features: Vec<Entry> = Vec::new();
        for block in blocks {
            for (index, &(_, out_channels, kernel)) in block.iter().enumerate() {
                let padding = if kernel == 1 { usize::from(self.padding) } else { 1 };
                features.push(Conv2d::new(out_channels, kernel).padding(padding).into());
                features.push(BatchNorm2d::default().into());
                if self.relu || index + 1 == block.len() {
                    features.push(Relu {}.into());
                }
            }
            features.push(MaxPool2d::new(2).into());
        }
        let head = [Conv2d::new(10, 1).into(), AdaptiveAvgPool2d::default().into(), Flatten {}.into()];
        let layers = [Entry::sequential(features).named("features"), Entry::sequential(head).named("head")];
        Network::new(self.name, [3, 32, 32], layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Layer;

    /// By the formulas of a convolution with bias and BatchNorm, over maps worked out on paper, and as the numbers they give.
    #[test]
    fn parameters_and_macs_of_every_member() {
        // r, parameters with and without padding; MACs with padding, without.
        let expected = [
            (1, 1_485_386, 172_456_448, 81_995_776),
            (2, 1_037_962, 122_665_472, 66_004_992),
            (4, 814_250, 97_769_984, 58_009_600),
        ];
        for member in NinVariation::ALL {
            let graph = member.network().graph().unwrap();
            let &(r, parameters, padded, plain) =
                expected.iter().find(|row| row.0 == member.reduction).unwrap();
            let macs = if member.padding { padded } else { plain };
            // Sides of the maps: what the 3x3 convolutions, then the two pointwise ones, give out.
            let sides = match member.padding {
                true => [[16, 18, 20], [10, 12, 14], [9, 9, 11], [5, 5, 5]],
                false => [[16, 16, 16], [8, 8, 8], [4, 4, 4], [2, 2, 2]],
            };
            // In channels, out channels, kernel, side of the output.
            let convolutions = [
                (3, 64, 3, 32),
                (64, 128, 3, sides[0][0]),
                (128, 128 / r, 1, sides[0][1]),
                (128 / r, 192, 1, sides[0][2]),
                (192, 256, 3, sides[1][0]),
                (256, 256 / r, 1, sides[1][1]),
                (256 / r, 384, 1, sides[1][2]),
                (384, 256 / r, 1, sides[2][0]),
                (256 / r, 256, 3, sides[2][1]),
                (256, 256, 1, sides[2][2]),
            ];
            let (mut count, mut products) = (10 * 257, 10 * 256 * sides[3][0] * sides[3][0]);
            for (c_in, c_out, k, side) in convolutions {
                // Weights and bias; BatchNorm's weight and bias.
                count += c_out * (c_in * k * k + 1) + 2 * c_out;
                products += side * side * c_out * c_in * k * k;
            }
            let found = (graph.parameter_count(), graph.macs());
            assert_eq!(found, (count, products), "{}", member.name);
            assert_eq!(found, (parameters, macs), "{}", member.name);
        }
    }

    #[test]
    fn names_say_what_a_member_is() {
        for member in NinVariation::ALL {
            let name = format!(
                "nin{}{}{}",
                if member.padding { "" } else { "-nopad" },
                if member.relu { "-relu" } else { "" },
                if member.reduction == 1 { String::new() } else { format!("-r{}", member.reduction) }
            );
            assert_eq!(name, member.name);
            let network = Network::by_name(member.name).unwrap();
            // `nin` has a file with a sentence about it.
            assert_eq!(network.layers, member.network().layers);
            let graph = network.graph().unwrap();
            let relus = graph.layers().filter(|(_, layer, _)| matches!(layer, Layer::Relu(_))).count();
            assert_eq!(relus, if member.relu { 10 } else { 4 }, "{name}");
        }
        let family: Vec<&str> = NinVariation::family().collect();
        assert_eq!((family.len(), family[0], family[1]), (13, "alexnet", "nin"));
        assert!(family.iter().all(|name| Network::by_name(name).is_ok()));
    }
}
