//! Which network a command is about: one that comes with the program, by its name, or one that a file describes.

use anyhow::{Context, ensure};
use pointwise_data::{CHANNELS, CLASSES, SIDE};
use pointwise_network::{Network, NinVariation};
use pointwise_runs::RunConfig;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// A network by its name, or by the file that describes it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Model(Arc<Network>);

/// The largest file that is read as a description: far beyond any network that a description may have.
const MAX_BYTES: u64 = 4 << 20;

impl Model {
    /// The network.
    pub(crate) fn network(&self) -> &Network {
        &self.0
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// One that comes with the program.
    pub(crate) fn shipped(name: &str) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Network::by_name(name)?)))
    }

    /// The value of an option `--model`.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let is_file = text.ends_with(".toml") || text.contains(['/', '\\']);
        if is_file { Self::read(Path::new(text)) } else { Self::shipped(text) }
    }

    /// Of a description.
    pub(crate) fn from_toml(text: &str) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Network::from_toml(text)?)))
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        // Opening a pipe would wait for whoever writes into it.
        let metadata =
            fs::metadata(path).with_context(|| format!("{shown} cannot be read: check the path"))?;
        ensure!(metadata.is_file(), "{shown} is not a file: give one that describes a network");
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
        read.with_context(|| format!("{shown} cannot be read as text"))?;
        ensure!(text.len() as u64 <= MAX_BYTES, "{shown} is too large to be the description of a network");
        Self::from_toml(&text).with_context(|| shown.to_string())
    }

    /// Refuses a network that is not for CIFAR-10's images and classes.
    pub(crate) fn check_fits_data(&self) -> anyhow::Result<()> {
        let network = self.network();
        let wanted = [CHANNELS, SIDE, SIDE];
        ensure!(
            network.input == wanted,
            "`{}` takes images of shape {:?}, and the data set's are {wanted:?}: give it that input",
            self.name(),
            network.input
        );
        let classes = network.graph()?.classes();
        ensure!(
            classes == CLASSES,
            "`{}` ends in {classes} values, and the data set has {CLASSES} classes: give its last layer {CLASSES} outputs",
            self.name()
        );
        Ok(())
    }

    /// With that probability in every dropout.
    pub(crate) fn with_dropout(&self, p: f64) -> Self {
        Self(Arc::new(self.network().clone().with_dropout(p)))
    }

    /// The network of a run.
    pub(crate) fn of_run(config: &RunConfig) -> anyhow::Result<Self> {
        match &config.network {
            Some(text) => {
                Self::from_toml(text).context("the description of the network in config.toml cannot be used")
            }
            None => Ok(Self::shipped(&config.model)?.with_dropout(config.dropout)),
        }
    }

    /// The description, where the program would make another network of the name and of the probability of the first dropout.
    pub(crate) fn recorded(&self) -> Option<String> {
        let network = self.network();
        let known = Network::by_name(self.name()).map(|known| match network.dropout() {
            Some(p) => known.with_dropout(p),
            None => known,
        });
        let is_known = known.is_ok_and(|known| known == *network);
        (!is_known).then(|| network.to_toml())
    }
}

/// The value parser of an option `--model`; an error is a sentence.
pub(crate) fn parse_model(text: &str) -> Result<Model, String> {
    Model::parse(text).map_err(|error| format!("{error:#}"))
}

/// Networks that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Family {
    /// The published study's networks.
    Study,
    /// `alexnet`, `nin`, and variations of `nin`'s pointwise layers: padding, ReLU, reduction.
    Pointwise,
    /// All that come with the program.
    All,
}

impl Family {
    pub(crate) fn names(self) -> Vec<&'static str> {
        match self {
            Self::Study => Network::STUDY.into(),
            Self::Pointwise => NinVariation::family().collect(),
            Self::All => Network::shipped().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_records_makes_its_network_again() {
        let file = "name = \"nin\"\ninput = [1, 2, 2]\nlayers = [\"Flatten\", { Dropout = { p = 0.2 } }, { Dropout = { p = 0.3 } }]";
        let models = [
            Model::shipped("alexnet_plain").unwrap(),
            Model::shipped("alexnet_plain").unwrap().with_dropout(0.1),
            Model::shipped("nin-nopad").unwrap(),
            // A file of a name that the program knows for another network.
            Model::from_toml(file).unwrap(),
        ];
        let mut recorded = Vec::new();
        for model in models {
            let (dropout, network) = (model.network().dropout().unwrap_or(0.5), model.recorded());
            recorded.push((dropout, network.is_some()));
            let text = "engine = 'cpu'\ndevice = 'cpu'\ndata = 'synthetic'\ndata-seed = 0\nepochs = 1\nbatch-size = 1\nlr = 1.0\n\
                        weight-decay = 0.0\nmodel = 'nin'\ndropout = 0.5\nseed = 1\nval-split = 0\naugment = 'none'\n\
                        shuffle = true\nlog-every = 1";
            let config = RunConfig::from_toml(text).unwrap();
            let config = RunConfig { dropout, network, model: model.name().to_owned(), ..config };
            assert_eq!(Model::of_run(&config).unwrap(), model);
        }
        assert_eq!(recorded, [(0.5, false), (0.1, false), (0.5, false), (0.2, true)]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let directory = folder.path().join("directory.toml");
        fs::create_dir(&directory).unwrap();
        for (text, expected) in [
            ("vgg".to_owned(), "there is no model `vgg`"),
            ("./missing.toml".to_owned(), "./missing.toml cannot be read: check the path"),
            (directory.to_str().unwrap().to_owned(), "is not a file"),
            (file("a.toml", b"name = 3"), "line 1, column 8"),
            (file("b.toml", &[0xff, 0xfe]), "cannot be read as text"),
            (file("c.toml", &vec![b'#'; 5 << 20]), "too large"),
        ] {
            let error = parse_model(&text).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
