use std::{io::ErrorKind, path::Path};

use pointwise_recipe::one_line;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, files::read};

/// An analysis of the final parameters: `analysis.json`. It is computed on the test images after the last epoch.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Analysis {
    /// [`Analysis::VERSION`].
    pub version: u32,
    /// Names of the classes, in the order of the labels.
    pub classes: Vec<String>,
    /// Number of test images of a class (row) that were classified as a class (column); empty if there are more than
    /// [`Analysis::MAX_CONFUSED`] classes.
    pub confusion: Vec<Vec<u32>>,
    /// Misclassified test images: a few of each kind, the most confident first, then the most confident of all. An image occurs
    /// once.
    pub mistakes: Vec<Mistake>,
    /// The pictures of `mistakes`; absent if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sheet: Option<Sheet>,
    /// The filters of the first convolution; absent where it does not read red, green and blue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filters: Option<Filters>,
}

/// A misclassified test image.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Mistake {
    /// Its index in the test set, counted from 0.
    pub image: u32,
    /// Its class.
    pub label: u16,
    /// The predicted class.
    pub predicted: u16,
    /// The probability that the network gave to `predicted`, in [0, 1].
    pub confidence: f64,
}

/// Square pictures of one size, in rows of one picture file.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Sheet {
    /// Height and width of a picture, in pixels.
    pub side: u32,
    /// Pictures in a row; the one of `mistakes[i]` is in row `i / columns`, column `i % columns`.
    pub columns: u32,
    /// A JPEG file in base64.
    pub jpeg: String,
}

/// The weights of a convolution of red, green and blue.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Filters {
    /// PyTorch's name of the parameter.
    pub name: String,
    /// Height and width of a filter.
    pub side: u32,
    /// Filter by filter, each `(3, side, side)`.
    pub values: Vec<f32>,
}

impl Analysis {
    /// The version of the file that this crate writes and reads.
    pub const VERSION: u32 = 1;

    /// With more classes there is no confusion matrix: it would be unreadable.
    pub const MAX_CONFUSED: usize = 100;

    /// A file above this size is not read: the trainer writes about 400 kB.
    pub const MAX_BYTES: u64 = 8 << 20;

    /// Checks that everything in it is consistent, so that readers need no further checks.
    ///
    /// # Errors
    /// What is not, as part of a sentence.
    pub fn check(&self) -> Result<(), String> {
        let Self { version, classes, confusion, mistakes, sheet, filters } = self;
        let demand = |good: bool, what: &str| if good { Ok(()) } else { Err(what.to_owned()) };
        demand(*version == Self::VERSION, &format!("it is of version {version}, not {}", Self::VERSION))?;
        let n = classes.len();
        demand((1..=65_536).contains(&n), "it has no classes, or more than 65536")?;
        let rows = if n <= Self::MAX_CONFUSED { n } else { 0 };
        demand(
            confusion.len() == rows && confusion.iter().all(|row| row.len() == n),
            "its confusion matrix is not one row and one column for each class",
        )?;
        let total: u64 = confusion.iter().flatten().map(|&count| u64::from(count)).sum();
        demand(total <= u64::from(u32::MAX), "its confusion matrix counts too many images")?;
        demand(mistakes.len() <= 10_000, "it has more than 10,000 mistakes")?;
        for Mistake { image, label, predicted, confidence } in mistakes {
            demand(
                usize::from(*label) < n && usize::from(*predicted) < n && label != predicted,
                &format!("the classes of image {image} are not a mistake"),
            )?;
            demand(
                (0.0..=1.0).contains(confidence),
                &format!("the confidence of image {image} is not a probability"),
            )?;
        }
        if let Some(Sheet { side, columns, jpeg }) = sheet {
            demand(
                (1..=256).contains(side) && (1..=1000).contains(columns),
                "its pictures have no usable size",
            )?;
            let base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
            demand(jpeg.bytes().all(base64), "its pictures are not base64")?;
        }
        if let Some(Filters { side, values, .. }) = filters {
            demand((1..=32).contains(side), "its filters have no usable size")?;
            let filter = 3 * (*side as usize).pow(2);
            demand(
                !values.is_empty() && values.len().is_multiple_of(filter) && values.len() / filter <= 4096,
                "its filters are incomplete",
            )?;
            demand(values.iter().all(|value| value.is_finite()), "a filter has a value that is not finite")?;
        }
        Ok(())
    }
}

pub(crate) fn read_analysis(path: &Path) -> Result<Option<Analysis>> {
    let malformed = |cause: String| Error::Malformed { path: path.into(), cause };
    let bytes = match read(path, Analysis::MAX_BYTES) {
        Err(Error::Read { cause, .. }) if cause.kind() == ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    let analysis: Analysis =
        serde_json::from_slice(&bytes).map_err(|error| malformed(one_line(&error.to_string())))?;
    analysis.check().map_err(malformed)?;
    Ok(Some(analysis))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::fs;

    pub(crate) fn analysis() -> Analysis {
        Analysis {
            version: 1,
            classes: vec!["cat".into(), "dog".into()],
            confusion: vec![vec![3, 1], vec![0, 4]],
            mistakes: vec![Mistake { image: 7, label: 0, predicted: 1, confidence: 0.75 }],
            sheet: Some(Sheet { side: 32, columns: 20, jpeg: "/9j/4A==".into() }),
            filters: Some(Filters {
                name: "features.0.weight".into(),
                side: 1,
                values: vec![0.5, -0.25, 0.0],
            }),
        }
    }

    type Change = fn(&mut Analysis);

    #[test]
    fn what_does_not_fit_together_is_refused_by_name() {
        analysis().check().unwrap();
        let cases: [(Change, &str); 12] = [
            (|it| it.version = 2, "version 2"),
            (|it| it.classes.clear(), "no classes"),
            (|it| it.confusion[0].push(1), "confusion matrix"),
            (|it| it.confusion = vec![vec![u32::MAX; 2]; 2], "too many"),
            (|it| it.mistakes[0].predicted = 2, "image 7"),
            (|it| it.mistakes[0].predicted = 0, "not a mistake"),
            (|it| it.mistakes[0].confidence = f64::NAN, "not a probability"),
            (|it| it.mistakes = vec![it.mistakes[0].clone(); 10_001], "10,000"),
            (|it| it.sheet.as_mut().unwrap().columns = 0, "usable size"),
            (|it| it.sheet.as_mut().unwrap().jpeg = "\");}<script>".into(), "not base64"),
            (|it| it.filters.as_mut().unwrap().values.push(1.0), "incomplete"),
            (|it| it.filters.as_mut().unwrap().values[0] = f32::INFINITY, "finite"),
        ];
        for (change, named) in cases {
            let mut changed = analysis();
            change(&mut changed);
            let said = changed.check().unwrap_err();
            assert!(said.contains(named), "{said:?} should name {named}");
        }
    }

    #[test]
    fn a_file_is_read_or_refused_in_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("analysis.json");
        assert_eq!(read_analysis(&path).unwrap(), None);
        fs::write(&path, serde_json::to_vec(&analysis()).unwrap()).unwrap();
        assert_eq!(read_analysis(&path).unwrap(), Some(analysis()));
        for text in ["", "{}", "[1", r#"{"version":1,"surprise":2}"#, "\u{0}"] {
            fs::write(&path, text).unwrap();
            let error = read_analysis(&path).unwrap_err().to_string();
            assert!(error.contains("analysis.json is not valid") && !error.contains('\n'), "{error}");
        }
        fs::File::create(&path).unwrap().set_len(Analysis::MAX_BYTES + 1).unwrap();
        let error = read_analysis(&path).unwrap_err().to_string();
        assert!(error.contains("it has more than 8388608 bytes"), "{error}");
    }
}
