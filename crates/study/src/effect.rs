//! Changes between networks that are otherwise alike.

/// A change that several pairs of arms share. Its effect is the mean of their differences, the *main effect* of a factor in a designed
/// experiment (Box, Hunter and Hunter, *Statistics for Experimenters*, chapter 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The change, in a few words.
    pub name: String,
    /// Pairs of arms: with the change, and without it. At least one; no pair twice.
    pub pairs: Vec<[String; 2]>,
}
