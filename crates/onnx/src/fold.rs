//! BatchNorm as part of the convolution before it.

use pointwise_network::{BatchNorm2d, Graph, Layer, Operation};

/// For each node, the BatchNorms that are folded into its weights, in order; only convolutions have any.
#[derive(Debug)]
pub(crate) struct Folds {
    norms: Vec<Vec<usize>>,
    folded: Vec<bool>,
}

impl Folds {
    /// Nothing is folded.
    pub(crate) fn none(graph: &Graph) -> Self {
        Self { norms: vec![Vec::new(); graph.nodes.len()], folded: vec![false; graph.nodes.len()] }
    }

    /// Every BatchNorm is folded into the convolution before it, if nothing else reads the values between them.
    pub(crate) fn all(graph: &Graph) -> Self {
        let mut readers = vec![0; graph.nodes.len()];
        graph.nodes.iter().flat_map(|node| &node.inputs).for_each(|input| readers[*input] += 1);
        let mut folds = Self::none(graph);
        // The convolution whose results each node outputs, apart from BatchNorm.
        let mut convolution: Vec<Option<usize>> = vec![None; graph.nodes.len()];
        for (at, node) in graph.nodes.iter().enumerate() {
            let behind =
                node.inputs.first().and_then(|input| convolution[*input].filter(|_| readers[*input] == 1));
            convolution[at] = match &node.operation {
                Operation::Layer(Layer::Conv2d(_)) => Some(at),
                Operation::Layer(Layer::Dropout(_)) => behind,
                Operation::Layer(Layer::BatchNorm2d(_)) => {
                    if let Some(convolution) = behind {
                        folds.norms[convolution].push(at);
                        folds.folded[at] = true;
                    }
                    behind
                }
                _ => None,
            };
        }
        folds
    }

    /// The BatchNorms that become part of a convolution.
    pub(crate) fn norms_of(&self, convolution: usize) -> &[usize] {
        &self.norms[convolution]
    }

    /// Whether a node is folded into a convolution before it.
    pub(crate) fn is_folded(&self, node: usize) -> bool {
        self.folded[node]
    }
}

/// BatchNorm's parameters and statistics, a value for each channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchNormValues<'a> {
    pub(crate) weight: Option<&'a [f32]>,
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) running_mean: &'a [f32],
    pub(crate) running_var: &'a [f32],
}

/// A convolution's weights (the outputs one after the other) and bias, in double precision: roundings of several BatchNorms would add up.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Folded {
    weight: Vec<f64>,
    bias: Vec<f64>,
}

impl Folded {
    pub(crate) fn new(weight: &[f32], bias: Option<&[f32]>, outputs: usize) -> Self {
        let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect();
        Self { weight: wide(weight), bias: bias.map_or_else(|| vec![0.0; outputs], wide) }
    }

    /// Folds in a BatchNorm after the convolution: `y = (x - mean) / sqrt(var + eps) * weight + bias`.
    pub(crate) fn batch_norm(&mut self, layer: &BatchNorm2d, values: BatchNormValues<'_>) {
        let size = self.weight.len() / self.bias.len();
        for (channel, bias) in self.bias.iter_mut().enumerate() {
            let of = |values: &[f32]| f64::from(values[channel]);
            let scale = values.weight.map_or(1.0, of) / (of(values.running_var) + layer.eps).sqrt();
            self.weight[channel * size..][..size].iter_mut().for_each(|weight| *weight *= scale);
            *bias = (*bias - of(values.running_mean)) * scale + values.bias.map_or(0.0, of);
        }
    }

    /// Weights and bias.
    pub(crate) fn rounded(&self) -> [Vec<f32>; 2] {
        [&self.weight, &self.bias].map(|values| values.iter().map(|value| *value as f32).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointwise_network::Network;

    fn folds(layers: &str) -> Vec<Vec<usize>> {
        let toml = format!("name = \"a\"\ninput = [2, 4, 4]\nlayers = [{layers}, \"Flatten\"]");
        let graph = Network::from_toml(&toml).unwrap().graph().unwrap();
        let folds = Folds::all(&graph);
        let folded: usize = folds.norms.iter().map(Vec::len).sum();
        assert_eq!((0..graph.nodes.len()).filter(|node| folds.is_folded(*node)).count(), folded);
        folds.norms
    }

    #[test]
    fn batch_norm_goes_into_the_convolution_before_it_alone() {
        const CONV: &str = "{ Conv2d = { out_channels = 2, kernel_size = 1 } }";
        let into = |layers: &str, convolution: usize| folds(layers)[convolution].clone();
        assert_eq!(into(&format!("{CONV}, \"BatchNorm2d\""), 1), [2]);
        assert_eq!(into(&format!("{CONV}, \"BatchNorm2d\", \"Dropout\", \"BatchNorm2d\""), 1), [2, 4]);
        let none = folds(&format!("{CONV}, \"ReLU\", \"BatchNorm2d\""));
        assert!(none.iter().all(Vec::is_empty), "{none:?}");
        // The shortcut reads the convolution's results too.
        let shared = folds(&format!("{CONV}, {{ Sum = [[{{ name = \"bn\", BatchNorm2d = {{}} }}], []] }}"));
        assert!(shared.iter().all(Vec::is_empty), "{shared:?}");
        assert_eq!(into(&format!("{{ Sum = [[{CONV}, \"BatchNorm2d\"], []] }}"), 1), [2]);
    }

    /// Compared with the formula on single numbers.
    #[test]
    fn folded_weights_compute_what_both_layers_compute() {
        let (weight, bias) = ([0.5f32, -1.0, 2.0, 0.25], [0.1f32, -0.2]);
        let norm = BatchNormValues {
            weight: Some(&[1.5, -0.5]),
            bias: Some(&[0.3, 0.0]),
            running_mean: &[0.7, -0.1],
            running_var: &[2.0, 0.0],
        };
        let layer = BatchNorm2d { eps: 0.25, ..BatchNorm2d::default() };
        let plain = BatchNormValues { weight: None, bias: None, ..norm };
        let x = [3.0f64, -2.0];
        for (bias, norms) in [(Some(&bias[..]), vec![norm]), (None, vec![norm, plain])] {
            let mut folded = Folded::new(&weight, bias, 2);
            norms.iter().for_each(|norm| folded.batch_norm(&layer, *norm));
            for channel in 0..2 {
                let of = |values: &[f32]| f64::from(values[channel]);
                let rows = [&weight[..2], &weight[2..]];
                let mut y = f64::from(rows[channel][0]) * x[0] + f64::from(rows[channel][1]) * x[1];
                y += bias.map_or(0.0, of);
                for norm in &norms {
                    y = (y - of(norm.running_mean)) / (of(norm.running_var) + 0.25).sqrt();
                    y = y * norm.weight.map_or(1.0, of) + norm.bias.map_or(0.0, of);
                }
                let [weight, bias] = folded.rounded();
                let got = f64::from(weight[2 * channel]) * x[0] + f64::from(weight[2 * channel + 1]) * x[1];
                let got = got + f64::from(bias[channel]);
                assert!((got - y).abs() < 1e-5, "{channel}: {got}, {y}");
            }
        }
    }
}
