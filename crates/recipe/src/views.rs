use crate::RecipeError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The views of a test image whose logits are averaged (test-time augmentation).
///
/// With both keys they are the six of Jordan (2024): the image with weight 1/2, and the image moved by `translate` pixels towards the lower
/// right and towards the upper left with 1/4 each; half of each weight goes to the view as it is and half to the flipped view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TestTimeAugmentation {
    /// Whether each view is also seen flipped horizontally.
    pub flip: bool,
    /// Pixels by which two views are moved along rows and columns; the pixels from outside are the image mirrored at its outermost pixels. 0 for
    /// no such views.
    #[schemars(range(max = TestTimeAugmentation::MOST))]
    pub translate: u32,
}

/// One view of an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View {
    /// The first row and column of the view in the image with `translate` more pixels on each side.
    pub corner: u32,
    /// Whether it is flipped horizontally.
    pub flip: bool,
    /// Its share of the average.
    pub weight: f64,
}

impl TestTimeAugmentation {
    /// More pixels than any image has.
    const MOST: u32 = 4096;

    /// The views; their weights sum to 1.
    #[must_use]
    pub fn views(&self) -> Vec<View> {
        let places = match self.translate {
            0 => vec![(0, 1.0)],
            translate => vec![(translate, 0.5), (0, 0.25), (2 * translate, 0.25)],
        };
        let sides: &[bool] = if self.flip { &[false, true] } else { &[false] };
        let views = places.into_iter().flat_map(|(corner, weight)| {
            sides.iter().map(move |flip| View { corner, flip: *flip, weight: weight / sides.len() as f64 })
        });
        views.collect()
    }

    pub(crate) fn check(&self) -> Result<(), RecipeError> {
        let wanted = format!("a whole number from 0 to {}", Self::MOST);
        let is_size = self.translate <= Self::MOST;
        RecipeError::unless(is_size, "test-time-augmentation.translate", &self.translate, &wanted)?;
        if *self == Self::default() {
            let text = "test-time-augmentation has no view but the image itself; give it flip = true or translate, or leave it out";
            return Err(RecipeError::Combination(text.to_owned()));
        }
        Ok(())
    }
}
