//! How much memory a plan takes.

/// What a plan takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Parameters, their gradients, the optimizer's buffers and the moving average or slow weights.
    pub parameters: usize,
    /// What evaluation keeps of the convolutions' weights in other forms, as far as it does not fit where training has its gradients.
    pub weights: usize,
    /// Results of the forward pass that the backward pass reads, and buffers of gradients.
    pub activations: usize,
    /// Scratch memory, shared by all layers.
    pub workspace: usize,
}

impl Memory {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> usize {
        self.activations.saturating_add(self.workspace).saturating_add(self.parameters + self.weights)
    }
}
