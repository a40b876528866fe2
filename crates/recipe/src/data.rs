use serde::{Deserialize, Serialize};
use std::fmt;

/// The data sets by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataKind {
    /// CIFAR-10.
    Cifar10,
    /// CIFAR-100 with its 100 fine labels.
    Cifar100,
    /// CIFAR-100 with its 20 coarse labels.
    Cifar100Coarse,
    /// MNIST: 28x28 grey digits.
    Mnist,
    /// Fashion-MNIST: 28x28 grey clothes.
    FashionMnist,
    /// A folder of images for each class.
    Folder,
    /// Generated on the fly.
    Synthetic,
    /// CIFAR-10 from the Hugging Face Hub.
    Huggingface,
}

impl DataKind {
    /// All of them, in the order in which they are listed.
    pub const ALL: [Self; 8] = [
        Self::Cifar10,
        Self::Cifar100,
        Self::Cifar100Coarse,
        Self::Mnist,
        Self::FashionMnist,
        Self::Folder,
        Self::Synthetic,
        Self::Huggingface,
    ];

    /// The name on command lines and in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
            Self::Cifar100Coarse => "cifar100-coarse",
            Self::Mnist => "mnist",
            Self::FashionMnist => "fashion-mnist",
            Self::Folder => "folder",
            Self::Synthetic => "synthetic",
            Self::Huggingface => "huggingface",
        }
    }
}

impl fmt::Display for DataKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
