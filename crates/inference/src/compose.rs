//! Pointwise convolutions merged into the preceding convolution: with at most BatchNorm between them, the two together are linear.
//!
//! With the weights `A` (mid, in, tap) and `B` (out, mid), the product has `sum over mid of B A`. A padded pointwise convolution adds a
//! border in which its input is zero; the values there are constants, one for each ring, and are propagated through what follows.

use crate::choose::seconds;
use crate::nodes::{Convolution, Nodes, Work};
use pointwise_kernels::{
    Activation, ConvShape, FusedConvolution, FusedMethod, FusedParameters, FusedShape, Isa, Team, Workspace,
    padded,
};
use pointwise_network::Source;

/// Merges pairs of convolutions where one takes less time than two, for this number of images and threads.
pub(crate) fn compose(nodes: &mut Nodes<'_>, isa: Isa, images: usize, threads: usize) {
    for at in 0..nodes.list.len() {
        let readers = nodes.readers();
        let [Source::Stage(before)] = nodes.list[at].inputs[..] else { continue };
        let (Work::Convolution(first), Work::Convolution(second)) =
            (&nodes.list[before].work, &nodes.list[at].work)
        else {
            continue;
        };
        let (a, b) = (&first.shape, &second.shape);
        let is_linear = a.activation == Activation::Identity && !a.pool && a.convolution.groups == 1;
        let is_pointwise = b.convolution.kernel == [1, 1]
            && b.convolution.stride == [1, 1]
            && b.convolution.padding == [0, 0]
            && b.convolution.groups == 1;
        if !is_linear || !is_pointwise || readers[before] != 1 {
            continue;
        }
        let joined = ConvShape { out_channels: b.convolution.out_channels, ..a.convolution };
        // The second one's map includes the first one's border.
        let time = |shape: &ConvShape| seconds(shape, images, threads);
        if time(&joined) >= time(&a.convolution) + time(&b.convolution) {
            continue;
        }
        let product = product(first, second, isa, threads);
        let input = nodes.list[before].inputs[0];
        let name = format!("{}, {}", nodes.list[before].name, nodes.list[at].name);
        let node = &mut nodes.list[at];
        (node.name, node.work, node.inputs) = (name, Work::Convolution(Box::new(product)), vec![input]);
    }
}

/// The second convolution applied to the first.
fn product(
    first: &Convolution<'_>,
    second: &Convolution<'_>,
    isa: Isa,
    threads: usize,
) -> Convolution<'static> {
    let (a, b) = (&first.shape.convolution, &second.shape.convolution);
    let (middle, outputs) = (a.out_channels, b.out_channels);
    let values = a.weight_len() / middle;
    // Computed as a pointwise convolution itself, of a map with a pixel for each tap of each input.
    let shape = FusedShape {
        convolution: ConvShape::square([values, 1], [middle, outputs], 1, 0),
        border: 0,
        activation: Activation::Identity,
        pool: false,
    };
    let zeros = vec![0.0; outputs];
    let parameters = FusedParameters { weight: &second.weight, bias: &zeros, rings: &[] };
    let fused = FusedConvolution::new(isa, shape, FusedMethod::Product, parameters);
    let mut map = vec![0.0; values * padded(middle)];
    for (channel, weight) in first.weight.chunks_exact(values).enumerate() {
        for (pixel, x) in map.chunks_exact_mut(padded(middle)).zip(weight) {
            pixel[channel] = *x;
        }
    }
    let mut result = vec![0.0; shape.output_len()];
    let mut workspace = Workspace::new([fused.need(1, threads)]);
    Team::gather(threads, |team| fused.run(team, 1, &map, None, &mut result, &mut workspace));
    let mut weight = vec![0.0; outputs * values];
    for (value, pixel) in result.chunks_exact(padded(outputs)).enumerate() {
        for (out, x) in pixel[..outputs].iter().enumerate() {
            weight[out * values + value] = *x;
        }
    }
    let through = |values: &Vec<f32>| -> Vec<f32> {
        let filters = second.weight.chunks_exact(middle).zip(&second.bias);
        filters
            .map(|(filter, bias)| {
                let products = filter.iter().zip(values).map(|(w, x)| f64::from(*w) * f64::from(*x));
                (products.sum::<f64>() + f64::from(*bias)) as f32
            })
            .collect()
    };
    Convolution {
        shape: FusedShape {
            convolution: ConvShape { out_channels: outputs, ..*a },
            border: first.shape.border + second.shape.border,
            ..second.shape
        },
        weight: weight.into(),
        bias: through(&first.bias),
        rings: second.rings.iter().cloned().chain(first.rings.iter().map(through)).collect(),
    }
}
