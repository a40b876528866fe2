use crate::layer::MAX_SIZE;

/// Why a description is not a network.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NetworkError {
    /// No network has this name.
    #[error(
        "there is no model `{name}`; the models are {known} and the variations of nin, from nin-r2 to nin-nopad-relu-r4, or \
         a file that describes one, such as ./my_network.toml"
    )]
    UnknownName {
        /// The name.
        name: String,
        /// The names that there are.
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
    /// An input that is not an image.
    #[error(
        "the input of `{network}` is {input:?}; give [channels, rows, columns], each from 1 to {max}",
        max = MAX_SIZE
    )]
    Input {
        /// The network.
        network: String,
        /// Its input.
        input: Vec<usize>,
    },
    /// A network that does not end in a vector of logits.
    #[error(
        "`{network}` ends in a map of shape {output:?}; let it end in a vector, one value a class, by a Flatten"
    )]
    Output {
        /// The network.
        network: String,
        /// The shape of its output.
        output: Vec<usize>,
    },
    /// A layer cannot take what the layer before it gives.
    #[error("layer {path} ({layer}) of `{network}` cannot take an input of shape {input:?}: {reason}")]
    Layer {
        /// The network.
        network: String,
        /// The layer's place, such as `features.4`.
        path: String,
        /// The layer.
        layer: String,
        /// The shape that it was given, without the batch dimension.
        input: Vec<usize>,
        /// Why not.
        reason: String,
    },
    /// Branches that do not fit together.
    #[error("{path} of `{network}` cannot take branches of shapes {shapes:?}: {reason}")]
    Composition {
        /// The network.
        network: String,
        /// The composition's place, such as `layer1.0.sum`.
        path: String,
        /// The shapes of its branches.
        shapes: Vec<Vec<usize>>,
        /// Why not.
        reason: String,
    },
    /// Two layers with parameters have one path.
    #[error("two layers of `{network}` are called {path}; give one of them a name")]
    SamePath {
        /// The network.
        network: String,
        /// The path.
        path: String,
    },
    /// A name that cannot be part of a path.
    #[error("`{name}` in `{network}` cannot be a layer's name; use letters, digits, _ and -")]
    Name {
        /// The network.
        network: String,
        /// The name.
        name: String,
    },
    /// A name for something repeated.
    #[error(
        "{path} of `{network}` has a name and is repeated; leave the name out, or put it around as a Sequential"
    )]
    RepeatedName {
        /// The network.
        network: String,
        /// The path.
        path: String,
    },
    /// A repetition that is none.
    #[error("{path} of `{network}` is repeated {repeat} times; give a number from 1 to 10000")]
    Repeat {
        /// The network.
        network: String,
        /// The path.
        path: String,
        /// How often.
        repeat: usize,
    },
    /// More layers than any small network has.
    #[error("`{network}` has more than {nodes} layers")]
    TooLarge {
        /// The network.
        network: String,
        /// The limit.
        nodes: usize,
    },
    /// A rule for initial values that does not suit a parameter.
    #[error("the rule for the initial values of {parameter} in `{network}` does not suit it: {reason}")]
    Rule {
        /// The network.
        network: String,
        /// The parameter.
        parameter: String,
        /// Why not.
        reason: String,
    },
    /// A rule that no parameter falls under.
    #[error(
        "rule {rule} of `initial` in `{network}` is for no parameter; check its layer, parameter and path"
    )]
    UnusedRule {
        /// The network.
        network: String,
        /// Its place, from 1.
        rule: usize,
    },
}
