//! The network of a command: one that comes with the program, by its name, or one that a file describes.

use anyhow::{Context, ensure};
use pointwise_data::DatasetSpec;
use pointwise_network::Network;
use pointwise_runs::RunConfig;
use pointwise_study::Arm;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// A network by its name, or by the file that describes it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Model {
    network: Arc<Network>,
    /// Whether it was named, not described: then it is adapted to the images it is given.
    is_named: bool,
}

/// The largest file that is read as a description: far larger than that of any valid network.
const MAX_BYTES: u64 = 4 << 20;

impl Model {
    /// The network.
    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.network.name
    }

    /// A network that comes with the program.
    pub(crate) fn shipped(name: &str) -> anyhow::Result<Self> {
        Ok(Self { network: Arc::new(Network::by_name(name)?), is_named: true })
    }

    /// The network of an arm.
    pub(crate) fn of_arm(arm: &Arm) -> Self {
        Self { network: Arc::new(arm.network.clone()), is_named: arm.is_shipped }
    }

    /// The value of an option `--model`.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let is_file = text.ends_with(".toml") || text.contains(['/', '\\']);
        if is_file { Self::read(Path::new(text)) } else { Self::shipped(text) }
    }

    /// The network of a description.
    pub(crate) fn from_toml(text: &str) -> anyhow::Result<Self> {
        Ok(Self { network: Arc::new(Network::from_toml(text)?), is_named: false })
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        // Opening a pipe would wait for a writer.
        let metadata =
            fs::metadata(path).with_context(|| format!("{shown} cannot be read: check the path"))?;
        ensure!(metadata.is_file(), "{shown} is not a file: give one that describes a network");
        let mut text = String::new();
        let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
        read.with_context(|| format!("{shown} cannot be read as text"))?;
        ensure!(text.len() as u64 <= MAX_BYTES, "{shown} is too large to be the description of a network");
        Self::from_toml(&text).with_context(|| shown.to_string())
    }

    /// The network for the images and classes of a data set: one that comes with the program gets their input shape and number of
    /// outputs, one from a file has to fit.
    pub(crate) fn for_data(&self, spec: &DatasetSpec) -> anyhow::Result<Self> {
        let (shape, classes) = (spec.shape, spec.classes.len());
        if self.is_named {
            let network = self.network().clone().with_input(shape).with_classes(classes);
            network.graph().with_context(|| {
                format!("`{}` cannot take the images of {}, {shape:?}", self.name(), spec.name)
            })?;
            return Ok(Self { network: Arc::new(network), ..self.clone() });
        }
        self.check_fits(spec)?;
        Ok(self.clone())
    }

    /// Refuses a network that does not fit a data set's images and classes.
    pub(crate) fn check_fits(&self, spec: &DatasetSpec) -> anyhow::Result<()> {
        let network = self.network();
        let (name, classes) = (&spec.name, spec.classes.len());
        ensure!(
            network.input == spec.shape,
            "`{}` takes images of shape {:?}, and those of {name} are {:?}: give it that input",
            self.name(),
            network.input,
            spec.shape
        );
        let outputs = network.graph()?.classes();
        ensure!(
            outputs == classes,
            "`{}` ends in {outputs} values, and {name} has {classes} classes: give its last layer {classes} outputs",
            self.name()
        );
        Ok(())
    }

    /// The network with that probability in every dropout.
    pub(crate) fn with_dropout(&self, p: f64) -> Self {
        Self { network: Arc::new(self.network().clone().with_dropout(p)), ..self.clone() }
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

    /// The description, if the name and the probability of the first dropout would give another network.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::study_config;

    #[test]
    fn what_a_run_records_makes_its_network_again() {
        let file = "name = \"nin\"\ninput = [1, 2, 2]\nlayers = [\"Flatten\", { Dropout = { p = 0.2 } }, { Dropout = { p = 0.3 } }]";
        let models = [
            Model::shipped("alexnet_plain").unwrap(),
            Model::shipped("alexnet_plain").unwrap().with_dropout(0.1),
            Model::shipped("nin-nopad").unwrap(),
            // A file with the name of another network, which comes with the program.
            Model::from_toml(file).unwrap(),
        ];
        let mut recorded = Vec::new();
        for model in models {
            let (dropout, network) = (model.network().dropout().unwrap_or(0.5), model.recorded());
            recorded.push((dropout, network.is_some()));
            let config = RunConfig { dropout, network, ..study_config(model.name()).unwrap() };
            assert_eq!(Model::of_run(&config).unwrap().network(), model.network());
        }
        assert_eq!(recorded, [(0.5, false), (0.1, false), (0.5, false), (0.2, true)]);
    }

    #[test]
    fn a_named_network_is_made_for_its_data_and_a_described_one_has_to_fit() {
        let spec = DatasetSpec {
            name: "my pictures".to_owned(),
            shape: [1, 28, 28],
            classes: ["a", "b", "c"].map(str::to_owned).into(),
            mean_std: None,
        };
        let named = Model::shipped("nin").unwrap();
        let fitted = named.for_data(&spec).unwrap();
        assert_eq!((fitted.network().input, fitted.network().graph().unwrap().classes()), (spec.shape, 3));
        assert!(named.recorded().is_none() && fitted.recorded().is_some());
        // What a run records of it fits, and does not change.
        let described = Model::from_toml(&fitted.recorded().unwrap()).unwrap();
        assert_eq!(described.for_data(&spec).unwrap(), described);
        let other = Model::from_toml(&named.network().to_toml()).unwrap();
        let error = other.for_data(&spec).unwrap_err().to_string();
        assert_eq!(
            error,
            "`nin` takes images of shape [3, 32, 32], and those of my pictures are [1, 28, 28]: give it that input"
        );
        let error =
            other.check_fits(&DatasetSpec { shape: [3, 32, 32], ..spec.clone() }).unwrap_err().to_string();
        assert!(error.contains("my pictures has 3 classes: give its last layer 3 outputs"), "{error}");
        // Too small for the poolings.
        let named = Model::shipped("alexnet").unwrap();
        let error = named.for_data(&DatasetSpec { shape: [3, 4, 4], ..spec }).unwrap_err();
        assert!(
            format!("{error:#}").starts_with("`alexnet` cannot take the images of my pictures, [3, 4, 4]: "),
            "{error:#}"
        );
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
