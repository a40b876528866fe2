//! From bytes to the values that a network sees.

use pointwise_recipe::Normalise;

use crate::dataset::channel_statistics;
use crate::{DatasetSpec, Error, Images};

/// Mean and standard deviation of each channel, with values in `[0, 1]`: `(value - mean) / std` is what a network sees.
#[derive(Debug, Clone, PartialEq)]
pub struct Normalisation {
    /// What is subtracted, for each channel.
    pub mean: Vec<f32>,
    /// What is divided by, for each channel; above 0.
    pub std: Vec<f32>,
}

impl Normalisation {
    /// Resolves `normalise` for a data set whose training images (those that are trained on, without held-out ones) are `train`.
    ///
    /// # Errors
    ///
    /// [`Error::Channels`] if figures are given for another number of channels; [`Error::Constant`] if the images to be measured have the same value
    /// everywhere in a channel.
    pub fn resolve(normalise: &Normalise, spec: &DatasetSpec, train: &Images) -> Result<Self, Error> {
        let channels = spec.shape[0];
        let (mean, std) = match (normalise, &spec.mean_std) {
            (Normalise::Given { mean, std }, _) => (mean.clone(), std.clone()),
            (Normalise::Dataset, Some((mean, std))) => (mean.clone(), std.clone()),
            (Normalise::Dataset, None) | (Normalise::Measured, _) => measure(train)?,
        };
        let normalisation =
            Self { mean: for_each_channel(mean, channels), std: for_each_channel(std, channels) };
        normalisation.check(channels)?;
        Ok(normalisation)
    }

    /// Checks the figures against the number of channels.
    pub(crate) fn check(&self, channels: usize) -> Result<(), Error> {
        for figures in [&self.mean, &self.std] {
            if figures.len() != channels {
                return Err(Error::Channels { given: figures.len(), channels });
            }
        }
        Ok(())
    }

    /// The value for each byte of each channel: `(byte / 255 - mean) / std`, each operation rounded to `f32`, as torchvision's
    /// `ToTensor` and `Normalize` have it.
    #[must_use]
    pub fn table(&self) -> Vec<[f32; 256]> {
        let value = |byte: usize, mean: f32, std: f32| (byte as f32 / 255.0 - mean) / std;
        let row = |(&mean, &std)| std::array::from_fn(|byte| value(byte, mean, std));
        self.mean.iter().zip(&self.std).map(row).collect()
    }
}

/// One figure stands for all channels.
fn for_each_channel(figures: Vec<f32>, channels: usize) -> Vec<f32> {
    match figures[..] {
        [one] => vec![one; channels],
        _ => figures,
    }
}

fn measure(train: &Images) -> Result<(Vec<f32>, Vec<f32>), Error> {
    let (mean, std) = channel_statistics(train);
    // Where there are no images, they are NaN.
    if let Some(channel) = std.iter().position(|&std| std.is_nan() || std == 0.0) {
        return Err(Error::Constant { channel, channels: std.len() });
    }
    let rounded = |values: Vec<f64>| values.into_iter().map(|value| value as f32).collect();
    Ok((rounded(mean), rounded(std)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(shape: [usize; 3], mean_std: Option<(Vec<f32>, Vec<f32>)>) -> DatasetSpec {
        DatasetSpec { name: "test".to_owned(), shape, classes: vec!["a".into(), "b".into()], mean_std }
    }

    fn images(shape: [usize; 3], pixels: Vec<u8>) -> Images {
        let n = pixels.len() / shape.iter().product::<usize>();
        Images::new(shape, 2, pixels, vec![0; n]).unwrap()
    }

    #[test]
    fn the_figures_are_those_asked_for() {
        let usual = (vec![0.5, 0.25, 0.125], vec![1.0, 2.0, 4.0]);
        let train = images([3, 1, 2], vec![0, 255, 0, 51, 51, 102]);
        let known = spec([3, 1, 2], Some(usual.clone()));
        let resolve = |normalise: &Normalise, spec: &DatasetSpec| {
            Normalisation::resolve(normalise, spec, &train).unwrap()
        };
        let found = resolve(&Normalise::Dataset, &known);
        assert_eq!((found.mean, found.std), usual);
        // Two bytes a channel: the mean and half the difference.
        for found in
            [resolve(&Normalise::Measured, &known), resolve(&Normalise::Dataset, &spec([3, 1, 2], None))]
        {
            assert_eq!(found.mean, [0.5, 0.1, 0.3].map(|value: f64| value as f32));
            for (std, expected) in found.std.iter().zip([0.5, 0.1, 0.1]) {
                assert!((std - expected).abs() < 1e-7, "{std} {expected}");
            }
        }
        let given = Normalise::Given { mean: vec![0.5], std: vec![0.1, 0.2, 0.3] };
        let found = resolve(&given, &known);
        assert_eq!((found.mean, found.std), (vec![0.5; 3], vec![0.1, 0.2, 0.3]));
    }

    #[test]
    fn figures_that_cannot_be_used_are_named() {
        let grey = images([1, 1, 2], vec![7, 7]);
        let given = Normalise::Given { mean: vec![0.5; 3], std: vec![0.5] };
        let error = Normalisation::resolve(&given, &spec([1, 1, 2], None), &grey).unwrap_err().to_string();
        assert!(error.contains("3 channels") && error.contains("have 1"), "{error}");
        let error = Normalisation::resolve(&Normalise::Measured, &spec([1, 1, 2], None), &grey).unwrap_err();
        assert!(error.to_string().contains("have the same value everywhere"), "{error}");
        let none = images([1, 1, 2], Vec::new());
        assert!(Normalisation::resolve(&Normalise::Measured, &spec([1, 1, 2], None), &none).is_err());
    }

    #[test]
    fn the_table_is_torchvisions_arithmetic() {
        let table = Normalisation { mean: vec![0.1307], std: vec![0.3081] }.table();
        assert_eq!(table.len(), 1);
        for byte in [0u8, 1, 128, 255] {
            let expected = (f32::from(byte) / 255.0 - 0.1307) / 0.3081;
            assert_eq!(table[0][usize::from(byte)].to_bits(), expected.to_bits());
        }
    }
}
