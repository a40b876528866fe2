//! The values of parameters before training.

use pointwise_random::{Purpose, block, unit_f32};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;

/// The initial values of a parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Initial {
    /// Uniform in `[-bound, bound)`.
    Uniform {
        /// Half the width of the range.
        bound: f32,
    },
    /// Normal around zero.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// The same value everywhere.
    Constant(f32),
    /// A convolution that returns its input's channels, as far as there are outputs (`torch.nn.init.dirac_`).
    Dirac {
        /// Groups of channels, each with its own identity.
        groups: usize,
    },
    /// As [`Initial::Dirac`] for the first outputs, as many as there are inputs; the others uniform in `[-bound, bound)`.
    PartialDirac {
        /// Half the width of the range.
        bound: f32,
    },
    /// The first outputs computed from training images: see [`whitening_weights`](crate::whitening_weights). The others, and all of them while
    /// there are no images, uniform in `[-bound, bound)`.
    Whitening {
        /// The arguments of the rule.
        of: Whitening,
        /// Half the width of the range.
        bound: f32,
    },
}

/// The fan by which a [`Rule`] preserves the variance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fan {
    /// Inputs of one output: the forward pass.
    #[default]
    FanIn,
    /// Outputs of one input: the backward pass.
    FanOut,
}

/// The nonlinearity whose gain a [`Rule`] applies (`torch.nn.init.calculate_gain`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Nonlinearity {
    /// 1.
    Linear,
    /// 1.
    Sigmoid,
    /// 5/3.
    Tanh,
    /// The root of 2.
    Relu,
    /// The root of `2 / (1 + a^2)`.
    #[default]
    LeakyRelu,
}

/// The arguments of the Kaiming rules.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Kaiming {
    /// Slope of the leaky ReLU on the negative side.
    pub a: f64,
    /// `"fan_in"` or `"fan_out"`.
    pub mode: Fan,
    /// The nonlinearity that follows the layer.
    pub nonlinearity: Nonlinearity,
}

impl Kaiming {
    fn gain(self) -> f64 {
        match self.nonlinearity {
            Nonlinearity::Linear | Nonlinearity::Sigmoid => 1.0,
            Nonlinearity::Tanh => 5.0 / 3.0,
            Nonlinearity::Relu => 2f64.sqrt(),
            Nonlinearity::LeakyRelu => (2.0 / (1.0 + self.a * self.a)).sqrt(),
        }
    }

    fn std(self, fans: Fans) -> f64 {
        let fan = match self.mode {
            Fan::FanIn => fans.fan_in,
            Fan::FanOut => fans.fan_out,
        };
        self.gain() / (fan as f64).sqrt()
    }
}

/// The arguments of the rule that whitens patches of images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Whitening {
    /// Added to the eigenvalues before their root is taken, above 0.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub eps: f64,
    /// How many training images to use, from the first; at least 1.
    #[schemars(range(min = 1))]
    pub images: u32,
}

impl Default for Whitening {
    /// Those of Jordan (2024): 5e-4 and 5,000.
    fn default() -> Self {
        Self { eps: 5e-4, images: 5000 }
    }
}

/// A rule for initial values, by the name of PyTorch's function in `torch.nn.init` without its final underscore.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// 0.
    Zeros,
    /// 1.
    Ones,
    /// This value.
    Constant(f64),
    /// Normal around 0 with this standard deviation.
    Normal(f64),
    /// Identity, for convolutions.
    Dirac,
    /// Identity for the first outputs of a convolution, as many as there are inputs, and PyTorch's default for the others (Jordan,
    /// *94% on CIFAR-10 in 3.29 seconds on a single GPU*, 2024). PyTorch has no function of this name.
    PartialDirac,
    /// Uncorrelated outputs of variance 1 and their negatives, for a convolution of the images with at least twice as many outputs as its kernel
    /// has values; PyTorch's default for the other outputs (the same paper). PyTorch has no function of this name.
    Whitening(Whitening),
    /// Normal, after He et al., *Delving deep into rectifiers* (2015).
    KaimingNormal(Kaiming),
    /// Uniform, after the same paper.
    KaimingUniform(Kaiming),
    /// Uniform with the bound `sqrt(6 / (fan_in + fan_out))`: Glorot and Bengio (2010), and Keras's default.
    XavierUniform,
    /// Normal with the standard deviation `sqrt(2 / (fan_in + fan_out))`.
    XavierNormal,
}

#[derive(Clone, Copy)]
struct Fans {
    fan_in: usize,
    fan_out: usize,
}

impl Initial {
    /// PyTorch's default for convolutions and linear layers, weights and biases: bound `1 / sqrt(fan_in)`.
    #[must_use]
    pub fn fan_in_uniform(fan_in: usize) -> Self {
        Self::Uniform { bound: (1.0 / (fan_in as f64).sqrt()) as f32 }
    }

    /// By a rule, for a parameter of this shape.
    ///
    /// # Errors
    /// The reason why the rule does not suit the shape.
    pub(crate) fn by_rule(rule: Rule, shape: &[usize], groups: usize) -> Result<Self, String> {
        // `torch.nn.init._calculate_fan_in_and_fan_out`.
        let fans = match shape {
            [out_channels, in_channels, taps @ ..] => {
                let taps: usize = taps.iter().product();
                Ok(Fans { fan_in: in_channels * taps, fan_out: out_channels * taps })
            }
            _ => Err("it is for weights of convolutions and linear layers".to_owned()),
        };
        let finite = |value: f64| match value as f32 {
            finite if finite.is_finite() => Ok(finite),
            _ => Err(format!("{value:?} is not a finite number")),
        };
        let kaiming_std = |kaiming: Kaiming| match kaiming.std(fans.clone()?) {
            std if std > 0.0 => Ok(std),
            _ => Err(format!("its a is {:?}; give a finite number", kaiming.a)),
        };
        let xavier = |fans: Fans| (2.0 / (fans.fan_in + fans.fan_out) as f64).sqrt();
        Ok(match rule {
            Rule::Zeros => Self::Constant(0.0),
            Rule::Ones => Self::Constant(1.0),
            Rule::Constant(value) => Self::Constant(finite(value)?),
            Rule::Normal(std) if std >= 0.0 => Self::Normal { std: finite(std)? },
            Rule::Normal(std) => return Err(format!("{std:?} is not a standard deviation; give 0 or more")),
            Rule::Dirac if shape.len() == 4 => Self::Dirac { groups },
            Rule::Dirac => return Err("it is for weights of convolutions".to_owned()),
            Rule::PartialDirac | Rule::Whitening(_) if shape.len() != 4 || groups != 1 => {
                return Err("it is for weights of convolutions in one group".to_owned());
            }
            Rule::PartialDirac => Self::PartialDirac { bound: default_bound(shape) },
            Rule::Whitening(of) => {
                let values: usize = shape.iter().skip(1).product();
                if shape[0] < 2 * values {
                    return Err(format!(
                        "its kernel has {values} values for each output; give the convolution {} outputs or more",
                        2 * values
                    ));
                }
                if !(of.eps > 0.0 && of.eps.is_finite()) {
                    return Err(format!(
                        "its eps is {:?}; give a small number above 0, such as 5e-4",
                        of.eps
                    ));
                }
                if of.images == 0 {
                    return Err("its images is 0; give a number from 1, such as 5000".to_owned());
                }
                Self::Whitening { of, bound: default_bound(shape) }
            }
            Rule::KaimingNormal(kaiming) => Self::Normal { std: finite(kaiming_std(kaiming)?)? },
            Rule::KaimingUniform(kaiming) => {
                Self::Uniform { bound: finite(3f64.sqrt() * kaiming_std(kaiming)?)? }
            }
            Rule::XavierUniform => Self::Uniform { bound: finite(3f64.sqrt() * xavier(fans?))? },
            Rule::XavierNormal => Self::Normal { std: finite(xavier(fans?))? },
        })
    }

    /// The values of a parameter of this shape. They depend only on the seed and on `ordinal`, its index among the network's parameters sorted
    /// by name.
    #[must_use]
    pub fn values(self, shape: &[usize], seed: u64, ordinal: u32) -> Vec<f32> {
        let len: usize = shape.iter().product();
        let blocks =
            (0..len.div_ceil(4) as u64).map(|index| block(seed, Purpose::Initialisation, ordinal, index));
        let mut values: Vec<f32> = match self {
            Self::Constant(value) => return vec![value; len],
            Self::Dirac { groups } => return dirac(shape, groups),
            Self::Uniform { bound } | Self::PartialDirac { bound } | Self::Whitening { bound, .. } => {
                blocks.flatten().map(|word| bound * (2.0 * unit_f32(word) - 1.0)).collect()
            }
            Self::Normal { std } => blocks
                .flat_map(|[a, b, c, d]| {
                    let ([a, b], [c, d]) = (normal_pair(a, b), normal_pair(c, d));
                    [a, b, c, d]
                })
                .map(|x| (f64::from(std) * x) as f32)
                .collect(),
        };
        values.truncate(len);
        if let (Self::PartialDirac { .. }, [out_channels, in_channels, ..]) = (self, shape) {
            let square = [&[*out_channels.min(in_channels)], &shape[1..]].concat();
            let identity = dirac(&square, 1);
            values[..identity.len()].copy_from_slice(&identity);
        }
        values
    }
}

/// The bound of PyTorch's default for the weight of a convolution of this shape.
fn default_bound(shape: &[usize]) -> f32 {
    let fan_in: usize = shape.iter().skip(1).product();
    (1.0 / (fan_in as f64).sqrt()) as f32
}

/// Two independent standard normal values (Box and Muller 1958). The square of the radius is at most `-2 ln 2^-33`: 6.8 deviations.
fn normal_pair(a: u32, b: u32) -> [f64; 2] {
    let unit = |word: u32| (f64::from(word) + 0.5) / (1u64 << 32) as f64;
    let radius = (-2.0 * unit(a).ln()).sqrt();
    let (sin, cos) = (TAU * unit(b)).sin_cos();
    [radius * cos, radius * sin]
}

fn dirac(shape: &[usize], groups: usize) -> Vec<f32> {
    let [out_channels, in_channels, rows, columns] = *shape else {
        unreachable!("`by_rule` accepts only the weights of convolutions")
    };
    let mut values = vec![0.0; out_channels * in_channels * rows * columns];
    let of_group = out_channels / groups;
    for out in 0..out_channels {
        let input = out % of_group;
        if input < in_channels {
            values[((out * in_channels + input) * rows + rows / 2) * columns + columns / 2] = 1.0;
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(values: &[f32]) -> [f64; 3] {
        let n = values.len() as f64;
        let power = |k| values.iter().map(|x| f64::from(*x).powi(k)).sum::<f64>() / n;
        [power(1), power(2), power(4)]
    }

    #[test]
    fn normal_values_have_a_normal_distributions_moments() {
        let values = Initial::Normal { std: 0.5 }.values(&[100, 1001], 42, 3);
        let [mean, square, fourth] = moments(&values);
        let n = values.len() as f64;
        // Six standard errors: the variances of x, x^2 and x^4 are 1, 2 and 96 for a standard normal x.
        assert!(mean.abs() < 6.0 * 0.5 / n.sqrt(), "{mean}");
        assert!((square / 0.25 - 1.0).abs() < 6.0 * (2.0 / n).sqrt(), "{square}");
        assert!((fourth / 0.0625 - 3.0).abs() < 6.0 * (96.0 / n).sqrt(), "{fourth}");
        assert_eq!(values, Initial::Normal { std: 0.5 }.values(&[100, 1001], 42, 3));
        assert_ne!(values, Initial::Normal { std: 0.5 }.values(&[100, 1001], 43, 3));
        assert_ne!(values, Initial::Normal { std: 0.5 }.values(&[100, 1001], 42, 4));
    }

    /// The bounds and deviations that `torch.nn.init` computes: its formulas, worked out for a `(64, 32, 3, 3)` weight.
    #[test]
    fn rules_are_pytorchs_formulas() {
        let shape = [64, 32, 3, 3];
        let kaiming = |a, mode, nonlinearity| Kaiming { a, mode, nonlinearity };
        let relu = Nonlinearity::Relu;
        let uniform = |bound: f64| Initial::Uniform { bound: bound as f32 };
        let normal = |std: f64| Initial::Normal { std: std as f32 };
        let cases = [
            (Rule::KaimingNormal(kaiming(0.0, Fan::FanIn, relu)), normal((2.0 / 288.0f64).sqrt())),
            (Rule::KaimingNormal(kaiming(0.0, Fan::FanOut, relu)), normal((2.0 / 576.0f64).sqrt())),
            // PyTorch's reset_parameters: kaiming_uniform_(a=sqrt(5)) is 1 / sqrt(fan_in).
            (
                Rule::KaimingUniform(kaiming(5f64.sqrt(), Fan::FanIn, Nonlinearity::LeakyRelu)),
                uniform(1.0 / 288f64.sqrt()),
            ),
            (
                Rule::KaimingNormal(kaiming(0.0, Fan::FanIn, Nonlinearity::Tanh)),
                normal(5.0 / 3.0 / 288f64.sqrt()),
            ),
            (Rule::XavierUniform, uniform((6.0 / 864.0f64).sqrt())),
            (Rule::XavierNormal, normal((2.0 / 864.0f64).sqrt())),
            (Rule::Constant(0.25), Initial::Constant(0.25)),
        ];
        for (rule, expected) in cases {
            let found = Initial::by_rule(rule, &shape, 1).unwrap();
            let close = match (found, expected) {
                (Initial::Uniform { bound: a }, Initial::Uniform { bound: b })
                | (Initial::Normal { std: a }, Initial::Normal { std: b }) => (a / b - 1.0).abs() < 1e-6,
                _ => found == expected,
            };
            assert!(close, "{rule:?}: {found:?}, not {expected:?}");
        }
        for rule in [Rule::XavierUniform, Rule::Dirac, Rule::KaimingNormal(Kaiming::default())] {
            assert!(Initial::by_rule(rule, &[64], 1).is_err(), "{rule:?}");
        }
        assert!(Initial::by_rule(Rule::Normal(-1.0), &shape, 1).is_err());
        assert!(Initial::by_rule(Rule::Constant(1e300), &shape, 1).is_err());
    }

    /// airbench94 sets `dirac_(w[:w.size(1)])` on PyTorch's default values.
    #[test]
    fn a_partial_dirac_leaves_the_other_outputs_as_they_are_by_default() {
        for (shape, identities) in [([5, 2, 3, 3], 2), ([3, 3, 3, 3], 3), ([2, 4, 1, 1], 2)] {
            let initial = Initial::by_rule(Rule::PartialDirac, &shape, 1).unwrap();
            let fan_in: usize = shape[1..].iter().product();
            let default = Initial::fan_in_uniform(fan_in).values(&shape, 7, 1);
            let values = initial.values(&shape, 7, 1);
            assert_eq!(values[identities * fan_in..], default[identities * fan_in..]);
            let dirac =
                Initial::Dirac { groups: 1 }.values(&[identities, shape[1], shape[2], shape[3]], 7, 1);
            assert_eq!(values[..identities * fan_in], dirac);
        }
        assert!(Initial::by_rule(Rule::PartialDirac, &[4, 1, 3, 3], 2).is_err());
        assert!(Initial::by_rule(Rule::PartialDirac, &[4, 3], 1).is_err());
    }

    #[test]
    fn whitening_is_for_as_many_outputs_as_it_has() {
        let rule = |of| Initial::by_rule(Rule::Whitening(of), &[24, 3, 2, 2], 1);
        let of = Whitening::default();
        let initial = rule(of).unwrap();
        assert_eq!(initial, Initial::Whitening { of, bound: (1.0 / 12f64.sqrt()) as f32 });
        // While there are no images.
        let default = Initial::fan_in_uniform(12).values(&[24, 3, 2, 2], 1, 2);
        assert_eq!(initial.values(&[24, 3, 2, 2], 1, 2), default);
        for (shape, groups, reason) in
            [([23, 3, 2, 2], 1, "24 outputs or more"), ([24, 1, 2, 2], 3, "in one group")]
        {
            let found = Initial::by_rule(Rule::Whitening(of), &shape, groups).unwrap_err();
            assert!(found.contains(reason), "{found}");
        }
        for wrong in
            [Whitening { eps: 0.0, ..of }, Whitening { eps: f64::NAN, ..of }, Whitening { images: 0, ..of }]
        {
            assert!(rule(wrong).is_err(), "{wrong:?}");
        }
    }

    /// `torch.nn.init.dirac_(torch.empty(4, 2, 3, 3), groups=2)` has ones at (0,0), (1,1), (2,0), (3,1) in the middle.
    #[test]
    fn dirac_is_pytorchs() {
        let values = Initial::Dirac { groups: 2 }.values(&[4, 2, 3, 3], 1, 0);
        let ones: Vec<usize> = (0..values.len()).filter(|i| values[*i] == 1.0).collect();
        assert_eq!(ones, [4, 18 + 9 + 4, 36 + 4, 54 + 9 + 4]);
        assert_eq!(values.iter().filter(|x| **x != 0.0).count(), 4);
    }
}
