use crate::limits::{MAX_NAME, MAX_NETWORK_NAME, MAX_PARTS, MAX_SIZE, MAX_VALUES};

/// Why a description is not a network.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NetworkError {
    /// No network has this name.
    #[error(
        "there is no model `{}`; the models are {known}, or give a file that describes one, such as ./my_network.toml",
        shown(name)
    )]
    UnknownName {
        /// The name.
        name: String,
        /// The known names.
        known: String,
    },
    /// A file that is not a description.
    #[error("line {line}, column {column}: {message}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// A network's name that is empty, too long or not on one line.
    #[error(
        "`{}` cannot be a network's name; give 1 to {MAX_NETWORK_NAME} characters, all on one line",
        shown(name)
    )]
    NetworkName {
        /// The name.
        name: String,
    },
    /// An input that is not an image.
    #[error(
        "the input of `{network}` is {input:?}; give [channels, rows, columns], each from 1 to {MAX_SIZE}, of at most \
         {MAX_VALUES} values"
    )]
    Input {
        /// The network.
        network: String,
        /// Its input.
        input: Vec<usize>,
    },
    /// A network that does not end in a vector of logits.
    #[error(
        "`{network}` ends in a map of shape {output:?}; add a Flatten, so that it ends in a vector of one value per class"
    )]
    Output {
        /// The network.
        network: String,
        /// The shape of its output.
        output: Vec<usize>,
    },
    /// A layer that has invalid arguments or cannot take its input.
    #[error("layer {path} of `{network}` ({layer}, input {input:?}): {reason}")]
    Layer {
        /// The network.
        network: String,
        /// The layer's path, such as `features.4`.
        path: String,
        /// The layer.
        layer: String,
        /// The shape of its input, without the batch dimension.
        input: Vec<usize>,
        /// The reason.
        reason: String,
    },
    /// Branches that do not fit together.
    #[error("the branches of {path} in `{network}` have shapes {}: {reason}", listed(shapes))]
    Composition {
        /// The network.
        network: String,
        /// The composition's path, such as `layer1.0.sum`.
        path: String,
        /// The shapes of its branches.
        shapes: Vec<Vec<usize>>,
        /// The reason.
        reason: String,
    },
    /// Two layers with parameters share a path.
    #[error("two layers of `{network}` are called {path}; give one of them another name")]
    SamePath {
        /// The network.
        network: String,
        /// The path.
        path: String,
    },
    /// A name that cannot be part of a path.
    #[error(
        "`{}` in `{network}` cannot be a layer's name; give 1 to {MAX_NAME} letters, digits, _ and -",
        shown(name)
    )]
    Name {
        /// The network.
        network: String,
        /// The name.
        name: String,
    },
    /// A name for something repeated.
    #[error(
        "entry {path} of `{network}` has a name and is repeated; give the name to a Sequential around it"
    )]
    RepeatedName {
        /// The network.
        network: String,
        /// The path.
        path: String,
    },
    /// A number of repetitions out of range.
    #[error("entry {path} of `{network}` is repeated {repeat} times; give a number from 1 to {MAX_PARTS}")]
    Repeat {
        /// The network.
        network: String,
        /// The path.
        path: String,
        /// The number of repetitions.
        repeat: usize,
    },
    /// More layers than any small network has.
    #[error("`{network}` has more than {limit} layers, sequences and branches; repeat less")]
    TooLarge {
        /// The network.
        network: String,
        /// The limit.
        limit: usize,
    },
    /// Sequences nested too deeply.
    #[error(
        "entry {path} of `{network}` lies in more than {limit} sequences and compositions; nest them less"
    )]
    TooDeep {
        /// The network.
        network: String,
        /// The path.
        path: String,
        /// The limit.
        limit: usize,
    },
    /// A rule for initial values that does not suit a parameter.
    #[error("the rule for the initial values of {parameter} in `{network}` does not suit it: {reason}")]
    Rule {
        /// The network.
        network: String,
        /// The parameter.
        parameter: String,
        /// The reason.
        reason: String,
    },
    /// A rule that matches no parameter.
    #[error(
        "rule {rule} of `initial` in `{network}` matches no parameter; check its layer, parameter and path"
    )]
    UnusedRule {
        /// The network.
        network: String,
        /// Its number, from 1.
        rule: usize,
    },
}

/// A name from somebody else's file, on one line and not too long.
pub(crate) fn shown(name: &str) -> String {
    let start: String = name.chars().take(MAX_NETWORK_NAME).collect();
    let dots = if start.len() < name.len() { "..." } else { "" };
    format!("{}{dots}", start.escape_debug())
}

/// The first few shapes.
fn listed(shapes: &[Vec<usize>]) -> String {
    const FEW: usize = 8;
    match shapes.len().checked_sub(FEW) {
        None | Some(0) => format!("{shapes:?}"),
        Some(more) => format!("{:?} and {more} more", &shapes[..FEW]),
    }
}
