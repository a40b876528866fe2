//! Folders of images, one for each class.

use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use image::imageops::{FilterType, resize};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use crate::files::{Kind, kind, reading};
use crate::{CHANNELS, CLASS_NAMES, Error, IMAGE_BYTES, Images, Progress, SIDE, Unit, jpeg};

const TRAIN: &str = "train";
const TEST: &str = "test";
/// What others call the two sets, in lower case.
const TRAIN_ALIASES: [&str; 3] = [TRAIN, "training", "trainset"];
const TEST_ALIASES: [&str; 7] = [TEST, "testing", "testset", "val", "valid", "validation", "eval"];
const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];
/// Extensions of files that cannot be images.
const TEXTS: [&str; 12] =
    ["csv", "html", "json", "log", "md", "names", "toml", "tsv", "txt", "xml", "yaml", "yml"];
/// What file managers, archivers and network drives leave in folders, in lower case; and whatever is hidden.
const STRAYS: [&str; 8] = [
    "__macosx",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "@eadir",
    "$recycle.bin",
    "system volume information",
    "lost+found",
];
/// Largest height and width of an image in pixels, and memory for decoding it: a small file can claim to be a large image.
const LARGEST_SIDE: u32 = 10_000;
const DECODING_BYTES: u64 = 512 << 20;

/// Whether `path` has a folder `train` or `test`.
pub(crate) fn is_one(path: &Path) -> Result<bool, Error> {
    Ok(kind(&path.join(TRAIN))? == Kind::Folder || kind(&path.join(TEST))? == Kind::Folder)
}

/// Reads the training and the test images.
pub(crate) fn load(path: &Path, progress: &dyn Progress) -> Result<(Images, Images), Error> {
    let mut left_out = Vec::new();
    let train = list(path, TRAIN, &mut left_out)?;
    let test = list(path, TEST, &mut left_out)?;
    if let Some(first) = left_out.first() {
        progress.note(&match left_out.len() {
            1 => format!("{} is no image and is left out", first.display()),
            n => format!("{n} files are no images and are left out, such as {}", first.display()),
        });
    }
    progress.start("reading images", Some((train.len() + test.len()) as u64), Unit::Images);
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

/// The images of one set with their labels, by class and then by name. Texts that lie among them are added to `left_out`.
fn list(path: &Path, name: &'static str, left_out: &mut Vec<PathBuf>) -> Result<Vec<(PathBuf, u8)>, Error> {
    let set = path.join(name);
    if kind(&set)? != Kind::Folder {
        return Err(missing_set(path, name));
    }
    let mut classes: [Option<PathBuf>; CLASS_NAMES.len()] = Default::default();
    for entry in entries(&set)? {
        if kind(&entry)? != Kind::Folder {
            match extension(&entry).as_str() {
                image if EXTENSIONS.contains(&image) => return Err(Error::LooseImage { path: entry }),
                text if TEXTS.contains(&text) => left_out.push(entry),
                _ => return Err(Error::NotAClass { path: entry }),
            }
            continue;
        }
        let name = entry.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let Some(label) = CLASS_NAMES.iter().position(|class| *class == name) else {
            return Err(Error::ClassFolder { path: entry });
        };
        if classes[label].is_some() {
            return Err(Error::ClassTwice { path: entry, class: CLASS_NAMES[label] });
        }
        classes[label] = Some(entry);
    }
    let mut images = Vec::new();
    for (label, folder) in classes.into_iter().enumerate() {
        for file in folder.map_or_else(|| Ok(Vec::new()), |folder| entries(&folder))? {
            let extension = extension(&file);
            match kind(&file)? {
                // A link that leads nowhere is an image that cannot be read.
                Kind::File | Kind::Nothing if EXTENSIONS.contains(&extension.as_str()) => {
                    images.push((file, label as u8));
                }
                Kind::File if TEXTS.contains(&extension.as_str()) => left_out.push(file),
                _ => return Err(Error::NotAnImage { path: file }),
            }
        }
    }
    if images.is_empty() {
        return Err(Error::NoImages { path: set });
    }
    Ok(images)
}

/// The error for a folder that has one set and lacks the other, with what may be meant for it.
fn missing_set(path: &Path, set: &'static str) -> Error {
    let aliases: &[&str] = if set == TRAIN { &TRAIN_ALIASES } else { &TEST_ALIASES };
    let names: Vec<String> = entries(path)
        .unwrap_or_default()
        .iter()
        .map(|entry| entry.file_name().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    let meant = names.iter().find(|name| aliases.contains(&name.to_lowercase().as_str())).cloned();
    Error::MissingSet { path: path.to_owned(), set, meant }
}

fn extension(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

/// What is in a folder, sorted, because the system lists it in any order; without hidden files and [`STRAYS`].
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(reading(folder))? {
        let entry = entry.map_err(reading(folder))?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        if !name.starts_with('.') && !STRAYS.contains(&name.as_str()) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Reads a png, jpeg or webp file of any size, up to 10,000 pixels a side, as an image folder's files are read: turned upright
/// as its EXIF data says, transparency left out, resized to 32x32 whatever its proportions (Catmull-Rom). Gives red, green and
/// blue planes, row by row, [`IMAGE_BYTES`] in all. A pipe will do for a file.
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
    let mut encoded = Vec::new();
    let file = File::open(path).map_err(reading(path))?;
    // A device may have no end.
    file.take(DECODING_BYTES + 1).read_to_end(&mut encoded).map_err(reading(path))?;
    let image = decode(&encoded).map_err(|cause| Error::Decode { path: path.to_owned(), cause })?;
    let side = SIDE as u32;
    Ok(if image.dimensions() == (side, side) {
        image
    } else {
        resize(&image, side, side, FilterType::CatmullRom)
    })
}

/// Decodes a whole png, jpeg or webp image (by its contents: a jpeg named png is common), within limits. An error says what is
/// wrong with it and what to do.
pub(crate) fn decode(encoded: &[u8]) -> Result<RgbImage, String> {
    let damaged = |cause: &str| format!("{cause}; replace or remove it");
    let failed = |error: image::ImageError| damaged(&error.to_string());
    if encoded.is_empty() {
        return Err(damaged("it is empty"));
    }
    if encoded.len() as u64 > DECODING_BYTES {
        return Err(format!("it has more than the limit of {} MiB", DECODING_BYTES >> 20));
    }
    let mut reader =
        ImageReader::new(Cursor::new(encoded)).with_guessed_format().map_err(|error| failed(error.into()))?;
    let format = reader.format();
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(DECODING_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(failed)?;
    let (width, height) = decoder.dimensions();
    if width.max(height) > LARGEST_SIDE {
        return Err(format!(
            "it has {width} x {height} pixels and the limit is {LARGEST_SIDE} a side; make it smaller"
        ));
    }
    let bytes = decoder.total_bytes();
    if bytes > DECODING_BYTES {
        return Err(format!(
            "its {width} x {height} pixels of {} bits take {} MiB and the limit is {} MiB; make it smaller",
            decoder.color_type().bits_per_pixel(),
            bytes >> 20,
            DECODING_BYTES >> 20
        ));
    }
    // Cameras store what they saw sideways, and say so.
    let orientation = decoder.orientation().map_err(failed)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(failed)?;
    match format {
        Some(ImageFormat::Jpeg) => jpeg::check(encoded).map_err(damaged)?,
        Some(ImageFormat::Png) if !encoded.windows(PNG_END.len()).any(|bytes| bytes == PNG_END) => {
            return Err(damaged("it is cut short"));
        }
        Some(ImageFormat::WebP) if encoded.len() < webp_length(encoded) => {
            return Err(damaged("it is cut short"));
        }
        _ => {}
    }
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

/// The last chunk of a png file, from its name on. The decoder does not ask for it.
const PNG_END: &[u8] = b"IEND\xAE\x42\x60\x82";

/// How long a webp file says it is.
fn webp_length(encoded: &[u8]) -> usize {
    // Behind "RIFF" is the number of bytes that follow it.
    let length = encoded.get(4..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
    length as usize + 8
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
    use crate::testing::{Watcher, noise};
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
        for stray in ["cat/.hidden", "cat/Thumbs.db", "desktop.ini", "labels.csv", "cat/README.txt"] {
            fs::write(path.join(stray), "no image").unwrap();
        }
        for stray in [".git", "__MACOSX", "cat/@eaDir", "cat/.ipynb_checkpoints"] {
            fs::create_dir(path.join(stray)).unwrap();
        }
        let watcher = Watcher::default();
        let (train, test) = load(folder.path(), &watcher).unwrap();
        let first = path.join("labels.csv");
        assert_eq!(
            watcher.notes(),
            [format!("2 files are no images and are left out, such as {}", first.display())]
        );
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
        let cases: [(&str, &[u8], &str); 8] = [
            (
                "train/tiger/a.png",
                b"",
                "tiger is not named after a class of CIFAR-10: rename it to one of airplane, ",
            ),
            ("train/notes.pdf", b"", "notes.pdf is not the folder of a class"),
            ("train/ship", b"", "ship is not the folder of a class"),
            ("test/1.PNG", b"", "1.PNG lies in no folder of a class"),
            ("train/cat/2.bmp", b"", "2.bmp is not a png, jpg, jpeg or webp file: convert it"),
            ("train/cat/b.png/c", b"", "b.png is not a png, jpg, jpeg or webp file: convert it"),
            ("train/cat/0.png", b"", "it is empty; replace or remove it"),
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
        let expected = format!("{} has no folder test: images are taken from ", second.path().display());
        assert!(error(&second).starts_with(&expected), "{}", error(&second));
        for alias in ["val", "Test"] {
            fs::create_dir(second.path().join(alias)).unwrap();
            let expected =
                format!("has no folder test: rename {alias} to test, because images are taken from ");
            assert!(error(&second).contains(&expected), "{}", error(&second));
            fs::remove_dir(second.path().join(alias)).unwrap();
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn two_folders_of_one_class_are_refused() {
        let folder = folder();
        save(&random_image(1, 32, 32), &folder.path().join("train/Cat/a.png"));
        assert!(error(&folder).contains("are both named cat"), "{}", error(&folder));
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let image = random_image(1, 20, 20);
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            let mut whole = Cursor::new(Vec::new());
            image.write_to(&mut whole, format).unwrap();
            let whole = whole.into_inner();
            assert!(decode(&whole).is_ok() && decode(&[&whole, b"more".as_slice()].concat()).is_ok());
            for n in 0..whole.len() {
                assert!(decode(&whole[..n]).is_err(), "{format:?}: {n} of {} bytes", whole.len());
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_nowhere_and_pipes_are_named() {
        let folder = folder();
        let path = folder.path().join("train/cat/b.png");
        for target in ["nowhere", "b.png"] {
            std::os::unix::fs::symlink(target, &path).unwrap();
            assert!(error(&folder).contains("b.png"), "{}", error(&folder));
            fs::remove_file(&path).unwrap();
        }
        // Nobody ever writes to it.
        let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(error(&folder).contains("b.png is not a png"), "{}", error(&folder));
        drop(socket);
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
        let expected = "a.png: it has 60000 x 60000 pixels and the limit is 10000 a side; make it smaller";
        assert!(error.ends_with(expected), "{error}");
    }
}
