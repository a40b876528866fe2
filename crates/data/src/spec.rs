//! The description of a data set.

/// What is known of a data set before its images are read.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetSpec {
    /// Its name, for people: "CIFAR-10".
    pub name: String,
    /// Channels (1: grey; 3: red, green and blue), height and width of every image.
    pub shape: [usize; 3],
    /// The names of the classes in the order of their labels, from 0 on.
    pub classes: Vec<String>,
    /// Its usual mean and standard deviation of each channel, with values in `[0, 1]`.
    pub mean_std: Option<(Vec<f32>, Vec<f32>)>,
}

impl DatasetSpec {
    /// Largest number of classes: a label has 16 bits.
    pub const MAX_CLASSES: usize = 65_536;
    /// Largest height and width of an image in pixels.
    pub const MAX_SIDE: usize = 4096;

    /// Bytes (and normalised values) of an image.
    #[must_use]
    pub fn image_bytes(&self) -> usize {
        image_bytes(self.shape)
    }
}

pub(crate) fn image_bytes([channels, height, width]: [usize; 3]) -> usize {
    channels * height * width
}
