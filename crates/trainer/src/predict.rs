//! `trainer predict`.

use crate::args::{Compute, PredictArgs};
use crate::data::{cifar10, spec};
use crate::eval::{Weights, engine_and_settings, usual, weights};
use crate::{End, print, threads};
use anyhow::bail;
use pointwise_data::{Draw, Transform, read_image};
use pointwise_engine::{DeviceChoice, Engine, create};
use pointwise_inference::{Images, Layout, Model, Options};
use pointwise_network::Network;
use pointwise_process::note;
use pointwise_recipe::{Augment, DeviceName, Precision};
use pointwise_report::{Align, Table};
use pointwise_weights::State;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The network's prediction for one image.
#[derive(Serialize)]
struct Prediction {
    image: String,
    class: String,
    /// Of each class; the sum is 1.
    probabilities: BTreeMap<String, f64>,
}

/// Images that are read, then predicted together.
const BATCH: usize = 32;

/// Predicts the images. One that cannot be read is named and does not keep the others from being predicted.
///
/// # Errors
/// If the weights cannot be used; at the end, if an image could not be read.
pub(crate) fn run(args: &PredictArgs) -> anyhow::Result<End> {
    let Weights { network, state, run } = weights(&args.checkpoint, args.model.as_ref())?;
    // Weights that do not say what they are for are taken to be for CIFAR-10.
    let spec = run.and_then(|run| run.dataset).map_or_else(cifar10, |data| spec(&data));
    if network.input != spec.shape || network.graph()?.classes() != spec.classes.len() {
        bail!(
            "{} does not say what its classes are called: give a checkpoint of a run",
            args.checkpoint.display()
        );
    }
    let transform = Transform::new(spec.shape, Augment::NONE, &usual(&spec)?)?;
    threads::start(args.compute.threads)?;
    let mut network = Compiled::new(&args.compute, &network, &state)?;

    let mut predictions = Vec::with_capacity(args.images.len());
    let mut failures = 0;
    for paths in args.images.chunks(BATCH) {
        let (mut pixels, mut readable) = (Vec::new(), Vec::new());
        for path in paths {
            match read_image(path, spec.shape) {
                Ok(image) => {
                    pixels.extend(image);
                    readable.push(path);
                }
                Err(error) => {
                    failures += 1;
                    note!("{:#}: left out", anyhow::Error::from(error));
                }
            }
        }
        let logits = network.logits(&pixels, &transform)?;
        for (path, logits) in readable.into_iter().zip(logits.chunks_exact(spec.classes.len())) {
            match prediction(path, logits, &spec.classes) {
                Ok(prediction) => predictions.push(prediction),
                Err(error) => {
                    failures += 1;
                    note!("{error:#}: left out");
                }
            }
        }
    }
    if args.json {
        print(&serde_json::to_string_pretty(&predictions)?)?;
    } else if !predictions.is_empty() {
        print(table(&predictions, &spec.classes).trim_end())?;
    }
    if failures > 0 {
        bail!("{failures} of {} images could not be read", args.images.len());
    }
    Ok(End::Done)
}

/// What computes the logits.
enum Compiled {
    /// The default, unless an engine, a device or a precision was requested.
    Model(Box<Model>),
    Engine(Box<dyn Engine>),
}

impl Compiled {
    fn new(compute: &Compute, network: &Network, state: &State) -> anyhow::Result<Self> {
        let on_cpu = compute.device.is_none_or(|device| device == DeviceChoice::Only(DeviceName::Cpu));
        let in_f32 = compute.precision.is_none_or(|precision| precision == Precision::F32);
        if compute.engine.is_none() && on_cpu && in_f32 {
            // For one image, however many there are: the batch size decides how convolutions are computed, and an image's last digits
            // would depend on how many others are on the command line.
            return Ok(Self::Model(Box::new(Model::new(network, state, &Options::default())?)));
        }
        let (kind, settings) = engine_and_settings(compute)?;
        let mut engine = create(kind, network, &settings)?;
        engine.load_state(state)?;
        Ok(Self::Engine(engine))
    }

    /// The logits of images, given as planes of bytes.
    fn logits(&mut self, pixels: &[u8], transform: &Transform) -> anyhow::Result<Vec<f32>> {
        match self {
            Self::Model(model) => {
                let images = Images::Bytes { pixels, layout: Layout::Planar, values: transform.table() };
                Ok(model.logits(images)?)
            }
            Self::Engine(engine) => {
                let len = transform.shape().iter().product();
                let mut logits = Vec::new();
                let mut values = vec![0.0; len];
                for image in pixels.chunks_exact(len) {
                    transform.apply(image, Draw::default(), &mut values);
                    logits.extend(engine.logits(&values)?);
                }
                Ok(logits)
            }
        }
    }
}

fn prediction(path: &Path, logits: &[f32], classes: &[String]) -> anyhow::Result<Prediction> {
    if let Some(value) = logits.iter().find(|value| !value.is_finite()) {
        bail!("{}: the network answers {value}, so its weights are unusable", path.display());
    }
    let probabilities = softmax(logits);
    let best = (0..probabilities.len())
        .fold(0, |best, class| if probabilities[class] > probabilities[best] { class } else { best });
    Ok(Prediction {
        image: path.display().to_string(),
        class: classes[best].clone(),
        probabilities: classes.iter().cloned().zip(probabilities).collect(),
    })
}

/// Probabilities of the classes; the largest logit is subtracted first, so that no exponential overflows.
pub(crate) fn softmax(logits: &[f32]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|logit| f64::from(logit - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// A row for each image: its class, and the probabilities in percent, of all classes where there are few, else of the class alone.
fn table(predictions: &[Prediction], classes: &[String]) -> String {
    const FEW: usize = 20;
    let columns = [("image", Align::Left), ("class", Align::Left)];
    let shown: Vec<&str> = match classes.len() {
        0..=FEW => classes.iter().map(String::as_str).collect(),
        _ => vec!["probability"],
    };
    let mut table = Table::new(columns.into_iter().chain(shown.iter().map(|class| (*class, Align::Right))));
    for Prediction { image, class, probabilities } in predictions {
        let percents = shown.iter().map(|shown| {
            let of = if classes.len() <= FEW { *shown } else { class };
            format!("{:.1} %", 100.0 * probabilities[of])
        });
        table.row([image.clone(), class.clone()].into_iter().chain(percents));
    }
    table.plain()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_whatever_the_scale() {
        for logits in [[0.0f32, 1.0, -2.0], [1e30, 0.0, -1e30], [-900.0, -901.0, -899.0]] {
            let probabilities = softmax(&logits);
            assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{probabilities:?}");
        }
        let two_to_one = softmax(&[2f32.ln(), 0.0]);
        assert!((two_to_one[0] - 2.0 / 3.0).abs() < 1e-7, "{two_to_one:?}");
    }
}
