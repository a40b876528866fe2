//! Images that an engine keeps on its device, so that a step needs none from the host.

#[cfg(any(feature = "cuda", test))]
use crate::error::EngineError;

/// A data set for [`Engine::reside`](crate::Engine::reside).
#[derive(Debug, Clone, Copy)]
pub struct ResidentImages<'a> {
    /// `(N, C, H, W)` bytes.
    pub images: &'a [u8],
    /// `N` class numbers, each below the network's number of classes.
    pub labels: &'a [u16],
    /// `(C, 256)`: the network's input value for each byte.
    pub values: &'a [f32],
}

/// A handle to images that an engine keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResidentSet(pub(crate) usize);

/// An epoch of [`Engine::begin_epoch`](crate::Engine::begin_epoch).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BegunEpoch {
    pub(crate) set: ResidentSet,
    /// How many epochs have begun on the set, this one included.
    pub(crate) count: u64,
}

/// The order and augmentation of a training epoch's images.
#[derive(Debug, Clone, Copy)]
pub struct ResidentEpoch<'a> {
    /// The epoch, from 1.
    pub epoch: u32,
    /// Each index of the data set once, in this epoch's order.
    pub order: &'a [u32],
    /// Black pixels added on each side before a random crop, followed by a horizontal flip with probability 1/2; `None` for neither. The
    /// draws are those of [`Purpose::Augment`](pointwise_random::Purpose::Augment) for the engine's seed: words 0 and 1
    /// [`below`](pointwise_random::below) `2 * margin + 1` are the first row and column, the highest bit of word 2 is the flip.
    pub margin: Option<u32>,
}

/// Checks images against an input and a number of classes, and returns their number.
#[cfg(any(feature = "cuda", test))]
pub(crate) fn check_images(
    images: ResidentImages<'_>,
    input: [usize; 3],
    classes: usize,
) -> Result<usize, EngineError> {
    let ([channels, ..], image) = (input, input.iter().product::<usize>());
    let n = images.labels.len();
    if n == 0 || images.images.len() != n * image || u32::try_from(n).is_err() {
        return Err(EngineError::Batch(format!(
            "{n} labels came with {} image bytes, {image} per image",
            images.images.len()
        )));
    }
    if images.values.len() != channels * 256 {
        return Err(EngineError::Batch(format!(
            "there are {} values for the bytes of {channels} channels, not 256 per channel",
            images.values.len()
        )));
    }
    match images.labels.iter().position(|label| usize::from(*label) >= classes) {
        Some(place) => Err(EngineError::Batch(format!(
            "label {} of image {place} is not one of the {classes} classes",
            images.labels[place]
        ))),
        None => Ok(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_do_not_fit_are_refused() {
        let (bytes, values) = (vec![0; 2 * 12], vec![0.0; 3 * 256]);
        let check = |images: &[u8], labels: &[u16], values: &[f32]| {
            check_images(ResidentImages { images, labels, values }, [3, 2, 2], 10)
                .map_err(|error| error.to_string())
        };
        assert_eq!(check(&bytes, &[0, 9], &values), Ok(2));
        for (images, labels, values, expected) in [
            (&bytes[..], &[1][..], &values[..], "1 labels came with 24 image bytes"),
            (&[], &[], &values, "0 labels"),
            (&bytes, &[0, 1], &values[1..], "767 values for the bytes of 3 channels"),
            (&bytes, &[0, 10], &values, "label 10 of image 1"),
        ] {
            let error = check(images, labels, values).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
