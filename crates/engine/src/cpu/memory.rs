//! How much memory a plan needs.

/// A plan's memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Parameters, their gradients, the optimizer's buffers and the moving average or slow weights.
    pub parameters: usize,
    /// The transformed convolution weights that evaluation keeps, as far as they do not fit into the memory of training's gradients.
    pub weights: usize,
    /// Results of the forward pass that the backward pass reads, and buffers of gradients.
    pub activations: usize,
    /// Scratch memory, shared by all layers.
    pub workspace: usize,
}

impl Memory {
    /// The sum of all parts.
    #[must_use]
    pub fn total(&self) -> usize {
        self.activations.saturating_add(self.workspace).saturating_add(self.parameters + self.weights)
    }
}
