//! The networks that come with the program.

use crate::error::NetworkError;
use crate::family::NinVariation;
use crate::network::Network;

/// The files of `data/networks`, the study's networks first.
const FILES: &[(&str, &str)] = &[
    ("alexnet_plain", include_str!("../../../data/networks/alexnet_plain.toml")),
    ("alexnet", include_str!("../../../data/networks/alexnet.toml")),
    ("nin", include_str!("../../../data/networks/nin.toml")),
    ("lenet", include_str!("../../../data/networks/lenet.toml")),
    ("vgg16", include_str!("../../../data/networks/vgg16.toml")),
    ("resnet20", include_str!("../../../data/networks/resnet20.toml")),
    ("resnet18", include_str!("../../../data/networks/resnet18.toml")),
    ("mobilenetv2", include_str!("../../../data/networks/mobilenetv2.toml")),
    ("densenet_bc_100_12", include_str!("../../../data/networks/densenet_bc_100_12.toml")),
    ("senet18", include_str!("../../../data/networks/senet18.toml")),
    ("googlenet", include_str!("../../../data/networks/googlenet.toml")),
];

impl Network {
    /// The names of the published study's networks, from the largest to the smallest.
    pub const STUDY: [&'static str; 3] = ["alexnet_plain", "alexnet", "nin"];

    /// The dropout probability of the study's `alexnet_plain`.
    pub const DROPOUT: f64 = 0.5;

    /// The names of all networks that come with the program: those described in files, then the variations of `nin`.
    pub fn shipped() -> impl Iterator<Item = &'static str> {
        let variations =
            NinVariation::ALL.iter().map(|variation| variation.name).filter(|name| *name != "nin");
        FILES.iter().map(|(name, _)| *name).chain(variations)
    }

    /// The file of a shipped network, with its comments; of a variation of `nin`, what its rule makes.
    ///
    /// # Errors
    /// [`NetworkError::UnknownName`].
    pub fn shipped_toml(name: &str) -> Result<String, NetworkError> {
        if let Some((_, text)) = FILES.iter().find(|(file, _)| *file == name) {
            return Ok((*text).to_owned());
        }
        match NinVariation::ALL.iter().find(|variation| variation.name == name) {
            Some(variation) => Ok(variation.network().to_toml()),
            None => {
                let known: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
                Err(NetworkError::UnknownName { name: name.to_owned(), known: known.join(", ") })
            }
        }
    }

    /// The shipped network of that name.
    ///
    /// # Errors
    /// [`NetworkError::UnknownName`].
    pub fn by_name(name: &str) -> Result<Self, NetworkError> {
        Self::from_toml(&Self::shipped_toml(name)?)
    }
}
