use crate::TrainingError;
use pointwise_data::{Dataset, Images, Normalisation, split};
use pointwise_network::{Graph, norm_of_one_value, stages};
use pointwise_recipe::Recipe;
use pointwise_runs::RunConfig;
use std::num::NonZeroU32;
use std::sync::Arc;

/// The images of a run: limited, and with the validation images held out.
#[derive(Debug, Clone)]
pub struct Splits {
    /// Images to train on.
    pub train: Arc<Images>,
    /// Images held out of the training set to choose the best epoch by, with `val_split`.
    pub validation: Option<Arc<Images>>,
    /// Images for the test; without `val_split` they also choose the best epoch, as in the study.
    pub test: Arc<Images>,
    /// The normalisation of their pixels.
    pub normalisation: Normalisation,
}

impl Splits {
    /// Images in the largest of them: no batch has more.
    #[must_use]
    pub fn largest(&self) -> usize {
        let validation = self.validation.as_ref().map_or(0, |images| images.len());
        self.train.len().max(validation).max(self.test.len())
    }

    /// The first `limit_train` and `limit_test` images, and `val_split` of those training images, drawn by the seed.
    ///
    /// # Errors
    /// [`TrainingError::Configuration`] if `val_split` leaves no image to train on, and that of [`Splits::check`];
    /// [`TrainingError::Data`] for a normalisation for another number of channels.
    pub fn new(dataset: Dataset, config: &RunConfig) -> Result<Self, TrainingError> {
        let limit = |images: Images, limit: Option<NonZeroU32>| match limit {
            Some(limit) => images.truncated(limit.get() as usize),
            None => images,
        };
        let train = limit(dataset.train, config.limit_train);
        let test = Arc::new(limit(dataset.test, config.limit_test));
        let normalise =
            |train: &Images| Normalisation::resolve(&config.recipe.normalise, &dataset.spec, train);
        if config.val_split == 0 {
            let normalisation = normalise(&train)?;
            let splits = Self { train: Arc::new(train), validation: None, test, normalisation };
            splits.check(&config.recipe)?;
            return Ok(splits);
        }
        let len = train.len() as u32;
        if config.val_split >= len {
            return Err(TrainingError::Configuration(format!(
                "--val-split {} leaves none of the {len} training images to train on; give a smaller number",
                config.val_split
            )));
        }
        let (kept, held_out) = split(len, config.val_split, config.seed);
        let (kept, held_out) = (train.subset(&kept)?, train.subset(&held_out)?);
        let normalisation = normalise(&kept)?;
        let splits =
            Self { train: Arc::new(kept), validation: Some(Arc::new(held_out)), test, normalisation };
        splits.check(&config.recipe)?;
        Ok(splits)
    }

    /// Checks that there is a batch to train on.
    ///
    /// # Errors
    /// [`TrainingError::Configuration`] if the recipe drops incomplete batches, and the training images do not fill one.
    pub fn check(&self, recipe: &Recipe) -> Result<(), TrainingError> {
        let images = self.train.len();
        if recipe.drop_last && recipe.steps_per_epoch(images) == 0 {
            return Err(TrainingError::Configuration(format!(
                "with drop-last no batch is left to train on, since {images} training images are fewer than the batch-size {}; give \
                 a batch-size of at most {images}, or drop-last = false",
                recipe.batch_size
            )));
        }
        Ok(())
    }

    /// Checks that each batch of an epoch is large enough for the network's BatchNorms, which the last one may not be.
    ///
    /// # Errors
    /// [`TrainingError::Configuration`] naming the layer and the ways out.
    pub fn check_batches(&self, recipe: &Recipe, graph: &Graph) -> Result<(), TrainingError> {
        let (images, batch) = (self.train.len(), recipe.batch_size.max(1) as usize);
        let last = match images % batch {
            0 => batch,
            _ if recipe.drop_last => batch,
            rest => rest,
        };
        let stages = stages(graph);
        let Some(path) = norm_of_one_value(&stages, last) else { return Ok(()) };
        let fix = if last < batch && images > batch {
            "leave such a batch out with drop-last = true, or give another batch-size"
        } else {
            "give more images, or a larger batch-size"
        };
        Err(TrainingError::Configuration(format!(
            "of {images} training images in batches of {batch} the last batch has 1, and BatchNorm at {path} needs more than one value \
             for each channel; {fix}"
        )))
    }
}
