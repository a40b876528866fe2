//! The trait of a kind of layer, and helpers that several of them need.

use super::pair::Pair;
use crate::initial::Initial;
use crate::limits::MAX_SIZE;

/// A parameter of a layer, under its name in PyTorch's layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerParameter {
    /// `weight` or `bias`.
    pub name: &'static str,
    /// PyTorch's shape.
    pub shape: Vec<usize>,
    /// Its values before training unless the network has a rule for them: PyTorch's default.
    pub initial: Initial,
}

/// A kind of layer. Shapes are those of one image: `[channels, rows, columns]` or `[features]`.
pub trait LayerKind {
    /// The shape of the layer's output.
    ///
    /// # Errors
    /// The reason why it cannot take the input, as the second half of a sentence.
    fn output(&self, input: &[usize]) -> Result<Vec<usize>, String>;

    /// The layer in a few words, such as `Conv2d 64->128 k3 p1`.
    fn describe(&self, input: &[usize]) -> String;

    /// The trained parameters, for an input that [`LayerKind::output`] takes.
    fn parameters(&self, input: &[usize]) -> Vec<LayerParameter> {
        let _ = input;
        Vec::new()
    }

    /// Multiply-accumulates of one forward pass of one image, of convolutions and linear layers; products with padding count.
    fn macs(&self, input: &[usize], output: &[usize]) -> usize {
        let _ = (input, output);
        0
    }
}

/// The channels, rows and columns of a map.
pub(super) fn map(input: &[usize]) -> Result<[usize; 3], String> {
    match *input {
        [channels, height, width] => Ok([channels, height, width]),
        _ => Err("it takes a map of [channels, rows, columns]; put it before the Flatten".to_owned()),
    }
}

/// Refuses an argument outside `low..=MAX_SIZE`.
pub(super) fn check(what: &str, value: usize, low: usize) -> Result<usize, String> {
    if (low..=MAX_SIZE).contains(&value) {
        Ok(value)
    } else {
        Err(format!("{what} is {value}; give a number from {low} to {MAX_SIZE}"))
    }
}

/// Outputs along one axis, for windows of `kernel` values every `stride` over `size` values with `padding` zeros on both sides: PyTorch's
/// `floor((size + 2 padding - kernel) / stride) + 1`.
pub(super) fn windows(size: usize, kernel: usize, stride: usize, padding: usize) -> Result<usize, String> {
    check("kernel_size", kernel, 1)?;
    check("stride", stride, 1)?;
    check("padding", padding, 0)?;
    match (size + 2 * padding).checked_sub(kernel) {
        Some(rest) => Ok(rest / stride + 1),
        None => Err(format!(
            "a kernel of {kernel} is larger than the {} pixels with padding; give a smaller kernel_size or more padding",
            size + 2 * padding
        )),
    }
}

/// ` k3`, or ` k1x7`; nothing for the value `silent` along both axes.
pub(super) fn pair_text(letter: &str, pair: Pair, silent: usize) -> String {
    match pair {
        Pair([a, b]) if a == b && a == silent => String::new(),
        Pair([a, b]) if a == b => format!(" {letter}{a}"),
        Pair([a, b]) => format!(" {letter}{a}x{b}"),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
pub(super) fn is_true(value: &bool) -> bool {
    *value
}

pub(super) fn yes() -> bool {
    true
}
