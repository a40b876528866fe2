use super::kind::LayerKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an activation layer computes, element by element.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x` where it is positive, else `negative_slope * x`.
    LeakyRelu {
        /// Factor of values that are not positive.
        negative_slope: f64,
    },
    /// `x P(X <= x)` for a standard normal `X`, by the error function.
    Gelu,
    /// GELU by its approximation with a hyperbolic tangent.
    GeluTanh,
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
}

/// Defines activations without arguments.
macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident = $class:literal,)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
            #[serde(deny_unknown_fields)]
            pub struct $name {}

            impl LayerKind for $name {
                fn output(&self, input: &[usize]) -> Result<Vec<usize>, String> {
                    Ok(input.to_vec())
                }

                fn describe(&self, _: &[usize]) -> String {
                    $class.to_owned()
                }
            }
        )*
    };
}

plain! {
    /// `max(x, 0)` (`torch.nn.ReLU`); the gradient at zero is zero.
    Relu = "ReLU",
    /// `min(max(x, 0), 6)` (`torch.nn.ReLU6`); the gradient at zero and at six is zero.
    Relu6 = "ReLU6",
    /// `x / (1 + exp(-x))` (`torch.nn.SiLU`, also called swish).
    Silu = "SiLU",
    /// `1 / (1 + exp(-x))` (`torch.nn.Sigmoid`).
    Sigmoid = "Sigmoid",
    /// Hyperbolic tangent (`torch.nn.Tanh`).
    Tanh = "Tanh",
}

/// `x` where it is positive, else `negative_slope * x` (`torch.nn.LeakyReLU`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LeakyRelu {
    /// Factor of values that are not positive.
    pub negative_slope: f64,
}

impl Default for LeakyRelu {
    /// PyTorch's: 0.01.
    fn default() -> Self {
        Self { negative_slope: 0.01 }
    }
}

impl LayerKind for LeakyRelu {
    fn output(&self, input: &[usize]) -> Result<Vec<usize>, String> {
        if (self.negative_slope as f32).is_finite() {
            Ok(input.to_vec())
        } else {
            Err(format!("negative_slope is {:?}; give a finite number", self.negative_slope))
        }
    }

    fn describe(&self, _: &[usize]) -> String {
        format!("LeakyReLU {:?}", self.negative_slope)
    }
}

/// How [`Gelu`] is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GeluApproximation {
    /// By the error function.
    #[default]
    None,
    /// `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`.
    Tanh,
}

/// Gaussian error linear unit (`torch.nn.GELU`; Hendrycks and Gimpel 2016).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Gelu {
    /// `"none"` or `"tanh"`.
    #[serde(skip_serializing_if = "is_exact")]
    pub approximate: GeluApproximation,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_exact(approximate: &GeluApproximation) -> bool {
    *approximate == GeluApproximation::None
}

impl LayerKind for Gelu {
    fn output(&self, input: &[usize]) -> Result<Vec<usize>, String> {
        Ok(input.to_vec())
    }

    fn describe(&self, _: &[usize]) -> String {
        match self.approximate {
            GeluApproximation::None => "GELU".to_owned(),
            GeluApproximation::Tanh => "GELU, tanh".to_owned(),
        }
    }
}
