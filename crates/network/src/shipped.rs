//! The networks that come with the program.

use crate::error::NetworkError;
use crate::network::Network;

/// The files of `data/networks`.
const FILES: &[(&str, &str)] = &[
    ("alexnet_plain", include_str!("../networks/alexnet_plain.toml")),
    ("alexnet", include_str!("../networks/alexnet.toml")),
    ("nin", include_str!("../networks/nin.toml")),
    ("lenet", include_str!("../networks/lenet.toml")),
    ("vgg16", include_str!("../networks/vgg16.toml")),
    ("resnet20", include_str!("../networks/resnet20.toml")),
    ("resnet18", include_str!("../networks/resnet18.toml")),
    ("mobilenetv2", include_str!("../networks/mobilenetv2.toml")),
    ("densenet_bc_100_12", include_str!("../networks/densenet_bc_100_12.toml")),
    ("senet18", include_str!("../networks/senet18.toml")),
    ("googlenet", include_str!("../networks/googlenet.toml")),
    ("airbench94", include_str!("../networks/airbench94.toml")),
    ("keras_cnn", include_str!("../networks/keras_cnn.toml")),
    ("nin-r2", include_str!("../networks/nin-r2.toml")),
    ("nin-r4", include_str!("../networks/nin-r4.toml")),
    ("nin-relu", include_str!("../networks/nin-relu.toml")),
    ("nin-relu-r2", include_str!("../networks/nin-relu-r2.toml")),
    ("nin-relu-r4", include_str!("../networks/nin-relu-r4.toml")),
    ("nin-nopad", include_str!("../networks/nin-nopad.toml")),
    ("nin-nopad-r2", include_str!("../networks/nin-nopad-r2.toml")),
    ("nin-nopad-r4", include_str!("../networks/nin-nopad-r4.toml")),
    ("nin-nopad-relu", include_str!("../networks/nin-nopad-relu.toml")),
    ("nin-nopad-relu-r2", include_str!("../networks/nin-nopad-relu-r2.toml")),
    ("nin-nopad-relu-r4", include_str!("../networks/nin-nopad-relu-r4.toml")),
];

impl Network {
    /// The names of all networks that come with the program.
    pub fn shipped() -> impl Iterator<Item = &'static str> {
        FILES.iter().map(|(name, _)| *name)
    }

    /// The file of a shipped network, with its comments.
    ///
    /// # Errors
    /// [`NetworkError::UnknownName`].
    pub fn shipped_toml(name: &str) -> Result<&'static str, NetworkError> {
        let file = FILES.iter().find(|(file, _)| *file == name);
        file.map(|(_, text)| *text).ok_or_else(|| {
            let known: Vec<&str> = Self::shipped().collect();
            NetworkError::UnknownName { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// The shipped network of that name.
    ///
    /// # Errors
    /// [`NetworkError::UnknownName`].
    pub fn by_name(name: &str) -> Result<Self, NetworkError> {
        Self::from_toml(Self::shipped_toml(name)?)
    }
}
