//! The data sets that others publish: what is known about them without reading a byte.

use std::path::PathBuf;

use pointwise_recipe::DataKind;

use crate::DatasetSpec;

/// A data set with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// CIFAR-10.
    Cifar10,
    /// CIFAR-100 with its 100 fine labels.
    Cifar100,
    /// CIFAR-100 with its 20 coarse labels.
    Cifar100Coarse,
    /// MNIST.
    Mnist,
    /// Fashion-MNIST.
    FashionMnist,
}

/// Where a published data set is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A folder that the user named, or the archive itself. Nothing is written there.
    Named(PathBuf),
    /// A folder that is filled from the network if need be, see [`fetch`](crate::fetch).
    Cache {
        /// The folder.
        folder: PathBuf,
        /// Where the files are, tried in order: see [`Published::addresses`].
        addresses: Vec<String>,
    },
}

const CIFAR10: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
const CIFAR100: [&str; 100] = [
    "apple",
    "aquarium_fish",
    "baby",
    "bear",
    "beaver",
    "bed",
    "bee",
    "beetle",
    "bicycle",
    "bottle",
    "bowl",
    "boy",
    "bridge",
    "bus",
    "butterfly",
    "camel",
    "can",
    "castle",
    "caterpillar",
    "cattle",
    "chair",
    "chimpanzee",
    "clock",
    "cloud",
    "cockroach",
    "couch",
    "crab",
    "crocodile",
    "cup",
    "dinosaur",
    "dolphin",
    "elephant",
    "flatfish",
    "forest",
    "fox",
    "girl",
    "hamster",
    "house",
    "kangaroo",
    "keyboard",
    "lamp",
    "lawn_mower",
    "leopard",
    "lion",
    "lizard",
    "lobster",
    "man",
    "maple_tree",
    "motorcycle",
    "mountain",
    "mouse",
    "mushroom",
    "oak_tree",
    "orange",
    "orchid",
    "otter",
    "palm_tree",
    "pear",
    "pickup_truck",
    "pine_tree",
    "plain",
    "plate",
    "poppy",
    "porcupine",
    "possum",
    "rabbit",
    "raccoon",
    "ray",
    "road",
    "rocket",
    "rose",
    "sea",
    "seal",
    "shark",
    "shrew",
    "skunk",
    "skyscraper",
    "snail",
    "snake",
    "spider",
    "squirrel",
    "streetcar",
    "sunflower",
    "sweet_pepper",
    "table",
    "tank",
    "telephone",
    "television",
    "tiger",
    "tractor",
    "train",
    "trout",
    "tulip",
    "turtle",
    "wardrobe",
    "whale",
    "willow_tree",
    "wolf",
    "woman",
    "worm",
];
const CIFAR100_COARSE: [&str; 20] = [
    "aquatic_mammals",
    "fish",
    "flowers",
    "food_containers",
    "fruit_and_vegetables",
    "household_electrical_devices",
    "household_furniture",
    "insects",
    "large_carnivores",
    "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes",
    "large_omnivores_and_herbivores",
    "medium_mammals",
    "non-insect_invertebrates",
    "people",
    "reptiles",
    "small_mammals",
    "trees",
    "vehicles_1",
    "vehicles_2",
];
const MNIST: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
const FASHION_MNIST: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// Mean and standard deviation of CIFAR-10's channels, as the study has them.
pub(crate) const CIFAR10_FIGURES: [[f32; 3]; 2] = [[0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]];
const CIFAR100_FIGURES: [[f32; 3]; 2] = [[0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]];

impl Published {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Cifar10, Self::Cifar100, Self::Cifar100Coarse, Self::Mnist, Self::FashionMnist];

    /// The published data set of that kind, if it is one.
    #[must_use]
    pub fn of(kind: DataKind) -> Option<Self> {
        Some(match kind {
            DataKind::Cifar10 => Self::Cifar10,
            DataKind::Cifar100 => Self::Cifar100,
            DataKind::Cifar100Coarse => Self::Cifar100Coarse,
            DataKind::Mnist => Self::Mnist,
            DataKind::FashionMnist => Self::FashionMnist,
            DataKind::Folder | DataKind::Synthetic | DataKind::Huggingface => return None,
        })
    }

    /// Its name, as text for users.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cifar10 => "CIFAR-10",
            Self::Cifar100 => "CIFAR-100",
            Self::Cifar100Coarse => "CIFAR-100 with coarse labels",
            Self::Mnist => "MNIST",
            Self::FashionMnist => "Fashion-MNIST",
        }
    }

    /// The name of its folder in a cache. Fine and coarse labels are in the same files.
    #[must_use]
    pub fn cache_name(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar10",
            Self::Cifar100 | Self::Cifar100Coarse => "cifar100",
            Self::Mnist => "mnist",
            Self::FashionMnist => "fashion-mnist",
        }
    }

    /// Where its files are: for the CIFARs the archive, for the others the folder with the four files.
    #[must_use]
    pub fn addresses(self) -> Vec<String> {
        let addresses: &[&str] = match self {
            Self::Cifar10 => &[
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                "https://storage.googleapis.com/mirror.tensorflow.org/www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            ],
            Self::Cifar100 | Self::Cifar100Coarse => {
                &["https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz"]
            }
            Self::Mnist => &[
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ],
            Self::FashionMnist => &[
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            ],
        };
        addresses.iter().map(|address| (*address).to_owned()).collect()
    }

    /// Shape, classes and usual figures.
    #[must_use]
    pub fn spec(self) -> DatasetSpec {
        let (shape, classes): (_, &[&str]) = match self {
            Self::Cifar10 => ([3, 32, 32], &CIFAR10),
            Self::Cifar100 => ([3, 32, 32], &CIFAR100),
            Self::Cifar100Coarse => ([3, 32, 32], &CIFAR100_COARSE),
            Self::Mnist => ([1, 28, 28], &MNIST),
            Self::FashionMnist => ([1, 28, 28], &FASHION_MNIST),
        };
        let [mean, std] = match self {
            Self::Cifar10 => CIFAR10_FIGURES.map(Vec::from),
            Self::Cifar100 | Self::Cifar100Coarse => CIFAR100_FIGURES.map(Vec::from),
            Self::Mnist => [vec![0.1307], vec![0.3081]],
            Self::FashionMnist => [vec![0.2860], vec![0.3530]],
        };
        DatasetSpec {
            name: self.name().to_owned(),
            shape,
            classes: classes.iter().map(|class| (*class).to_owned()).collect(),
            mean_std: Some((mean, std)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_those_that_can_be_named() {
        let named: Vec<Published> = DataKind::ALL.into_iter().filter_map(Published::of).collect();
        assert_eq!(named, Published::ALL);
    }

    #[test]
    fn figures_are_of_each_channel_and_addresses_are_there() {
        for dataset in Published::ALL {
            let spec = dataset.spec();
            let (mean, std) = spec.mean_std.unwrap();
            assert_eq!((mean.len(), std.len()), (spec.shape[0], spec.shape[0]), "{dataset:?}");
            assert!(!dataset.addresses().is_empty(), "{dataset:?}");
        }
    }
}
