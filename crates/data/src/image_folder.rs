//! Folders of images, one for each class.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Seek};
use std::path::{Path, PathBuf};

use image::error::{LimitError, LimitErrorKind};
use image::imageops::{FilterType, resize};
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, Limits, RgbImage};

use crate::files::{Kind, kind, reading};
use crate::{CHANNELS, CLASS_NAMES, Error, IMAGE_BYTES, Images, Progress, SIDE};

const TRAIN: &str = "train";
const TEST: &str = "test";
const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];
/// Largest height and width of an image in pixels, and memory for decoding it: a small file can claim to be a large image.
const LARGEST_SIDE: u32 = 10_000;
const DECODING_BYTES: u64 = 512 << 20;

/// Whether `path` has a folder `train` or `test`.
pub(crate) fn is_one(path: &Path) -> Result<bool, Error> {
    Ok(kind(&path.join(TRAIN))? == Kind::Folder || kind(&path.join(TEST))? == Kind::Folder)
}

/// Reads the training and the test images.
pub(crate) fn load(path: &Path, progress: &dyn Progress) -> Result<(Images, Images), Error> {
    let train = list(&path.join(TRAIN))?;
    let test = list(&path.join(TEST))?;
    progress.start("reading images", Some((train.len() + test.len()) as u64));
    let mut done = 0;
    let mut read_all = |files: Vec<(PathBuf, u8)>| {
        let mut pixels = Vec::with_capacity(files.len() * IMAGE_BYTES);
        let mut labels = Vec::with_capacity(files.len());
        for (file, label) in files {
            let image = read(&file)?;
            append_planes(&image, &mut pixels);
            labels.push(label);
            done += 1;
            progress.advance(done);
        }
        Images::new(pixels, labels)
    };
    let images = (read_all(train)?, read_all(test)?);
    progress.finish();
    Ok(images)
}

/// The images of one set with their labels, by class and then by name.
fn list(set: &Path) -> Result<Vec<(PathBuf, u8)>, Error> {
    let mut classes: [Option<PathBuf>; CLASS_NAMES.len()] = Default::default();
    for folder in entries(set)? {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let Some(label) = CLASS_NAMES.iter().position(|class| *class == name) else {
            return Err(Error::ClassFolder { path: folder });
        };
        if kind(&folder)? != Kind::Folder {
            return Err(Error::ClassFolder { path: folder });
        }
        if classes[label].is_some() {
            return Err(Error::ClassTwice { path: folder, class: CLASS_NAMES[label] });
        }
        classes[label] = Some(folder);
    }
    let mut images = Vec::new();
    for (label, folder) in classes.into_iter().enumerate() {
        for file in folder.map_or_else(|| Ok(Vec::new()), |folder| entries(&folder))? {
            let extension = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
            if !EXTENSIONS.contains(&extension.as_str()) || kind(&file)? != Kind::File {
                return Err(Error::NotAnImage { path: file });
            }
            images.push((file, label as u8));
        }
    }
    if images.is_empty() {
        return Err(Error::NoImages { path: set.to_owned() });
    }
    Ok(images)
}

/// What is in a folder, hidden files apart, sorted: the system lists them in any order.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(reading(folder))? {
        let entry = entry.map_err(reading(folder))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Reads a png, jpeg or webp file of any size, up to 10,000 pixels a side, as an image folder's files are read: turned upright
/// as its EXIF data says, transparency left out, resized to 32x32 whatever its proportions (Catmull-Rom). Gives red, green and
/// blue planes, row by row, [`IMAGE_BYTES`] in all.
///
/// # Errors
/// [`Error::Read`] or [`Error::Decode`], each of which names the file.
pub fn read_image(path: &Path) -> Result<Vec<u8>, Error> {
    let mut pixels = Vec::with_capacity(IMAGE_BYTES);
    append_planes(&read(path)?, &mut pixels);
    Ok(pixels)
}

/// Reads an image of any size as 32x32 RGB.
fn read(path: &Path) -> Result<RgbImage, Error> {
    let file = File::open(path).map_err(reading(path))?;
    let image =
        decode(BufReader::new(file)).map_err(|source| Error::Decode { path: path.to_owned(), source })?;
    let side = SIDE as u32;
    Ok(if image.dimensions() == (side, side) {
        image
    } else {
        resize(&image, side, side, FilterType::CatmullRom)
    })
}

/// Decodes a png, jpeg or webp image (by its contents: a jpeg named png is common), within limits.
pub(crate) fn decode(encoded: impl BufRead + Seek) -> Result<RgbImage, ImageError> {
    let mut reader = ImageReader::new(encoded).with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(LARGEST_SIDE);
    limits.max_image_height = Some(LARGEST_SIDE);
    limits.max_alloc = Some(DECODING_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    if decoder.total_bytes() > DECODING_BYTES {
        return Err(ImageError::Limits(LimitError::from_kind(LimitErrorKind::InsufficientMemory)));
    }
    // Cameras store what they saw sideways, and say so.
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// Appends an image as the binary files have it: red, green and blue planes, row by row.
pub(crate) fn append_planes(image: &RgbImage, pixels: &mut Vec<u8>) {
    for channel in 0..CHANNELS {
        pixels.extend(image.as_raw().iter().skip(channel).step_by(CHANNELS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoProgress;
    use crate::testing::noise;
    use image::{ImageFormat, Rgb};
    use tempfile::TempDir;

    fn random_image(seed: u64, width: u32, height: u32) -> RgbImage {
        RgbImage::from_raw(width, height, noise(seed, (width * height * 3) as usize)).unwrap()
    }

    fn save(image: &RgbImage, path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image.save(path).unwrap();
    }

    /// A folder that can be loaded, with one image in each set.
    fn folder() -> TempDir {
        let folder = TempDir::new().unwrap();
        save(&random_image(1, 32, 32), &folder.path().join("train/cat/a.png"));
        save(&random_image(2, 32, 32), &folder.path().join("test/dog/a.png"));
        folder
    }

    fn error(folder: &TempDir) -> String {
        load(folder.path(), &NoProgress).unwrap_err().to_string()
    }

    #[test]
    fn pixels_are_planes_row_by_row_in_the_order_of_classes_and_names() {
        let folder = folder();
        let path = folder.path().join("train");
        let files = ["AIRPLANE/z.png", "cat/10.png", "cat/9.PNG", "truck/0.png"];
        for (i, file) in files.iter().enumerate() {
            save(&random_image(10 + i as u64, 32, 32), &path.join(file));
        }
        fs::write(path.join("cat/.hidden"), "no image").unwrap();
        fs::create_dir(path.join(".git")).unwrap();
        let (train, test) = load(folder.path(), &NoProgress).unwrap();
        assert_eq!(train.labels(), [0, 3, 3, 3, 9]);
        assert_eq!(test.labels(), [5]);
        for (i, seed) in [10, 11, 12, 1, 13].into_iter().enumerate() {
            let image = random_image(seed, 32, 32);
            for (place, &byte) in train.image(i).iter().enumerate() {
                let (channel, y, x) = (place / 1024, place % 1024 / 32, place % 32);
                assert_eq!(
                    byte,
                    image.get_pixel(x as u32, y as u32)[channel],
                    "image {i}: {channel} {y} {x}"
                );
            }
        }
    }

    #[test]
    fn other_sizes_are_resized_and_keep_their_orientation() {
        let folder = folder();
        // Red above, blue below on the left; green on the right.
        let image = RgbImage::from_fn(100, 60, |x, y| match (x < 50, y < 30) {
            (true, true) => Rgb([255, 0, 0]),
            (true, false) => Rgb([0, 0, 255]),
            (false, _) => Rgb([0, 255, 0]),
        });
        save(&image, &folder.path().join("train/cat/0.png"));
        let (train, _) = load(folder.path(), &NoProgress).unwrap();
        let pixel = |y: usize, x: usize| [0, 1, 2].map(|channel| train.image(0)[channel * 1024 + y * 32 + x]);
        assert_eq!(
            [pixel(3, 3), pixel(28, 3), pixel(3, 28), pixel(28, 28)],
            [[255, 0, 0], [0, 0, 255], [0, 255, 0], [0, 255, 0]]
        );
    }

    #[test]
    fn jpeg_is_read_and_contents_count_more_than_names() {
        let folder = folder();
        let gray = RgbImage::from_pixel(32, 32, Rgb([90, 90, 90]));
        save(&gray, &folder.path().join("train/bird/a.jpg"));
        save(&gray, &folder.path().join("train/bird/b.jpeg"));
        gray.save_with_format(folder.path().join("train/bird/c.png"), ImageFormat::Jpeg).unwrap();
        let (train, _) = load(folder.path(), &NoProgress).unwrap();
        assert_eq!(train.labels(), [2, 2, 2, 3]);
        assert!(train.pixels()[..3 * IMAGE_BYTES].iter().all(|byte| byte.abs_diff(90) <= 2));
    }

    #[test]
    fn what_is_no_image_of_a_class_is_named() {
        let cases: [(&str, &[u8], &str); 6] = [
            (
                "train/tiger/a.png",
                b"",
                "tiger is not named after a class of CIFAR-10: rename it to one of airplane, ",
            ),
            ("train/notes.txt", b"", "notes.txt is not named after a class"),
            ("train/ship", b"", "ship is not named after a class"),
            ("train/cat/readme.txt", b"", "readme.txt is not a png, jpg, jpeg or webp file: remove it"),
            ("train/cat/b.png/c", b"", "b.png is not a png, jpg, jpeg or webp file: remove it"),
            ("test/ship/a.png", b"\x89PNG\r\n\x1a\nbroken", "cannot decode the image "),
        ];
        for (file, contents, expected) in cases {
            let folder = folder();
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, contents).unwrap();
            let error = error(&folder);
            assert!(error.contains(expected), "{file}: {error}");
            assert!(error.contains(&folder.path().display().to_string()), "{file}: {error}");
        }
    }

    #[test]
    fn a_set_without_images_is_named() {
        let first = folder();
        fs::remove_file(first.path().join("test/dog/a.png")).unwrap();
        let expected = format!("no png, jpg, jpeg or webp file in {}", first.path().join("test").display());
        assert!(error(&first).starts_with(&expected), "{}", error(&first));
        let second = folder();
        fs::remove_dir_all(second.path().join("test")).unwrap();
        assert!(error(&second).contains("cannot read"), "{}", error(&second));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn two_folders_of_one_class_are_refused() {
        let folder = folder();
        save(&random_image(1, 32, 32), &folder.path().join("train/Cat/a.png"));
        assert!(error(&folder).contains("are both named cat"), "{}", error(&folder));
    }

    /// A png of a few bytes that says it is 60,000 x 60,000 pixels (10.8 GB) large.
    #[test]
    fn an_image_that_claims_to_be_huge_is_refused() {
        let folder = folder();
        let path = folder.path().join("train/cat/a.png");
        let mut png = fs::read(&path).unwrap();
        png[16..20].copy_from_slice(&60_000u32.to_be_bytes());
        png[20..24].copy_from_slice(&60_000u32.to_be_bytes());
        let mut crc = flate2::Crc::new();
        crc.update(&png[12..29]);
        png[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        fs::write(&path, png).unwrap();
        let error = error(&folder);
        assert!(error.contains("cannot decode") && error.to_lowercase().contains("limit"), "{error}");
    }
}
