//! The studies that come with the program.

use std::path::Path;

use crate::{Error, Result, Study};

/// A study of `data/studies`.
struct Shipped {
    name: &'static str,
    file: &'static str,
    /// The `study.json` of its runs, if it was run.
    record: Option<&'static str>,
}

const STUDIES: &[Shipped] = &[
    Shipped {
        name: "pointwise",
        file: include_str!("../studies/pointwise.toml"),
        record: Some(include_str!("../records/pointwise.json")),
    },
    Shipped {
        name: "pointwise-ablation",
        file: include_str!("../studies/pointwise-ablation.toml"),
        record: None,
    },
    Shipped {
        name: "keras-cnn",
        file: include_str!("../studies/keras-cnn.toml"),
        record: Some(include_str!("../records/keras-cnn.json")),
    },
    Shipped {
        name: "pytorch-classifier",
        file: include_str!("../studies/pytorch-classifier.toml"),
        record: Some(include_str!("../records/pytorch-classifier.json")),
    },
    Shipped {
        name: "airbench94",
        file: include_str!("../studies/airbench94.toml"),
        record: Some(include_str!("../records/airbench94.json")),
    },
    Shipped {
        name: "resnet20",
        file: include_str!("../studies/resnet20.toml"),
        record: Some(include_str!("../records/resnet20.json")),
    },
];

impl Study {
    /// The names of all studies that come with the program; the first one is reproduced if none is named.
    pub fn shipped() -> impl Iterator<Item = &'static str> {
        STUDIES.iter().map(|study| study.name)
    }

    /// The file of a study that comes with the program, with its comments.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn shipped_toml(name: &str) -> Result<&'static str> {
        Ok(shipped(name)?.file)
    }

    /// The study of this name that comes with the program.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn by_name(name: &str) -> Result<Self> {
        let shipped = shipped(name)?;
        let study = Self::from_toml(shipped.file, Path::new("."))?;
        Ok(Self { record: shipped.record.map(str::to_owned), ..study })
    }

    /// The study that is used if none is named, and whose values are the defaults of a training: the first of [`Study::shipped`].
    ///
    /// # Errors
    /// If its file has an error.
    pub fn first_shipped() -> Result<Self> {
        Self::by_name(STUDIES[0].name)
    }
}

fn shipped(name: &str) -> Result<&'static Shipped> {
    STUDIES
        .iter()
        .find(|study| study.name == name)
        .ok_or_else(|| Error::Unknown { name: name.to_owned(), known: Study::shipped().collect() })
}
