//! Initial values that are computed from training images.

use crate::{Splits, TrainingError};
use pointwise_data::{Draw, Transform};
use pointwise_engine::State;
use pointwise_network::Network;
use pointwise_recipe::Augment;

/// The state that a training of this network begins with, if some of its initial values are computed from training images; `None` if none
/// are, so that an engine has all of them from the start.
///
/// # Errors
/// [`TrainingError`] for an inconsistent network, or a normalisation for another number of channels.
pub fn state_from_images(
    network: &Network,
    seed: u64,
    splits: &Splits,
) -> Result<Option<State>, TrainingError> {
    let graph = network.graph().map_err(pointwise_engine::EngineError::from)?;
    let Some(wanted) = State::images_wanted(&graph) else { return Ok(None) };
    let images = &splits.train;
    let transform = Transform::new(images.shape(), Augment::NONE, &splits.normalisation)?;
    let len = images.image_bytes();
    let mut values = vec![0.0; images.len().min(wanted) * len];
    for (place, values) in values.chunks_exact_mut(len).enumerate() {
        transform.apply(images.image(place), Draw::default(), values);
    }
    let mut state = State::initial(&graph, seed);
    state.set_from_images(&graph, network.input, &values);
    Ok(Some(state))
}
