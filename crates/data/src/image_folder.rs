//! Folders of images, one for each class.

use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use image::imageops::{FilterType, resize};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, ImageResult, Limits};
use pointwise_recipe::one_line;

use crate::dataset::{check_shape, reserve};
use crate::files::{Kind, kind, reading};
use crate::panics::without_panic;
use crate::spec::image_bytes;
use crate::{DatasetSpec, Error, Images, Progress, TestSplit, Unit, jpeg, test_split};

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
pub(crate) const LARGEST_SIDE: u32 = 10_000;
const DECODING_BYTES: u64 = 512 << 20;

/// Whether `path` has a folder `train` or `test`.
pub(crate) fn is_one(path: &Path) -> Result<bool, Error> {
    Ok(kind(&path.join(TRAIN))? == Kind::Folder || kind(&path.join(TEST))? == Kind::Folder)
}

/// Which classes the folders of images may have.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Classes<'a> {
    /// These, in this order, in any case.
    Known(&'a [String]),
    /// Those of the training images.
    Own,
}

/// What a folder of images holds.
pub(crate) struct ImageFolder {
    pub(crate) spec: DatasetSpec,
    /// Training and test images.
    pub(crate) images: (Images, Images),
}

/// What is known of a folder with classes of its own before an image is read.
pub(crate) fn spec(path: &Path, shape: [usize; 3]) -> Result<DatasetSpec, Error> {
    check_shape(shape)?;
    let classes = ClassList::find(path, Classes::Own, &mut Vec::new())?;
    Ok(spec_of(classes.names, shape))
}

fn spec_of(classes: Vec<String>, shape: [usize; 3]) -> DatasetSpec {
    DatasetSpec { name: "image folder".to_owned(), shape, classes, mean_std: None }
}

/// Reads the training and the test images, the latter taken from the former if `split` is given, with its seed.
pub(crate) fn load(
    path: &Path,
    classes: Classes<'_>,
    shape: [usize; 3],
    split: Option<(TestSplit, u64)>,
    progress: &dyn Progress,
) -> Result<ImageFolder, Error> {
    check_shape(shape)?;
    let mut left_out = Vec::new();
    let list = ClassList::find(path, classes, &mut left_out)?;
    let mut train = list.files(&list.train, &mut left_out)?;
    if train.is_empty() {
        return Err(Error::NoImages { path: path.join(TRAIN) });
    }
    let test = match split {
        None => {
            let test = list.files(&list.test_folders(path, &mut left_out)?, &mut left_out)?;
            if test.is_empty() {
                return Err(Error::NoImages { path: path.join(TEST) });
            }
            if list.is_own {
                list.check_trained(path, &train, &test)?;
            }
            test
        }
        Some((split, seed)) => {
            if kind(&path.join(TEST))? != Kind::Nothing {
                let cause =
                    format!("is given, and {} has a folder test: leave the option out", path.display());
                return Err(Error::TestSplit { cause });
            }
            test_split::take(split, seed, list.names.len(), &mut train)?
        }
    };
    if let Some(first) = left_out.first() {
        progress.note(&match left_out.len() {
            1 => format!("{} is not an image and is left out", first.display()),
            n => format!("{n} files are not images and are left out, such as {}", first.display()),
        });
    }
    progress.start("reading images", Some((train.len() + test.len()) as u64), Unit::Images);
    let mut done = 0;
    let mut read_all = |files: Vec<(PathBuf, u16)>| {
        let what = || format!("{} images", files.len());
        let mut pixels = reserve(what, files.len().saturating_mul(image_bytes(shape)))?;
        let mut labels = reserve(what, files.len())?;
        for (file, label) in &files {
            append_planes(read(file)?, shape, &mut pixels);
            labels.push(*label);
            done += 1;
            progress.advance(done);
        }
        Images::new(shape, list.names.len(), pixels, labels)
    };
    let images = (read_all(train)?, read_all(test)?);
    progress.finish();
    Ok(ImageFolder { spec: spec_of(list.names, shape), images })
}

/// The classes of a folder of images.
struct ClassList {
    /// In the order of labels.
    names: Vec<String>,
    /// Whether they are the folder's own.
    is_own: bool,
    /// The folders of training images with their labels, in the order of labels.
    train: Vec<(PathBuf, u16)>,
}

impl ClassList {
    /// Lists the folders of training images. Text files among them are added to `left_out`.
    fn find(path: &Path, classes: Classes<'_>, left_out: &mut Vec<PathBuf>) -> Result<Self, Error> {
        if kind(path)? == Kind::Nothing {
            let wanted = "the folder that holds train/<class> and test/<class>".to_owned();
            return Err(Error::NoSuchPath { path: path.to_owned(), wanted });
        }
        let folders = class_folders(path, TRAIN, matches!(classes, Classes::Own), left_out)?;
        match classes {
            Classes::Known(names) => {
                let train = known(names, folders)?;
                Ok(Self { names: names.to_vec(), is_own: false, train })
            }
            Classes::Own => {
                if folders.is_empty() {
                    return Err(Error::NoImages { path: path.join(TRAIN) });
                }
                if folders.len() > DatasetSpec::MAX_CLASSES {
                    return Err(Error::Classes { classes: folders.len() });
                }
                let names = folders.iter().map(|folder| class_name(folder)).collect::<Result<_, _>>()?;
                let train = folders.into_iter().enumerate();
                let train = train.map(|(label, folder)| (folder, label as u16)).collect();
                Ok(Self { names, is_own: true, train })
            }
        }
    }

    /// The folders of test images with their labels, in the order of labels.
    fn test_folders(&self, path: &Path, left_out: &mut Vec<PathBuf>) -> Result<Vec<(PathBuf, u16)>, Error> {
        let folders = class_folders(path, TEST, self.is_own, left_out)?;
        if !self.is_own {
            return known(&self.names, folders);
        }
        let labelled = folders.into_iter().map(|folder| {
            let name = class_name(&folder)?;
            // The names are sorted by their bytes.
            match self.names.binary_search(&name) {
                Ok(label) => Ok((folder, label as u16)),
                Err(_) => Err(test_only(path, &name)),
            }
        });
        labelled.collect()
    }

    /// An error for a class whose folder of training images is empty while that of test images is not.
    fn check_trained(
        &self,
        path: &Path,
        train: &[(PathBuf, u16)],
        test: &[(PathBuf, u16)],
    ) -> Result<(), Error> {
        let mut is_trained = vec![false; self.names.len()];
        train.iter().for_each(|(_, label)| is_trained[usize::from(*label)] = true);
        match test.iter().find(|(_, label)| !is_trained[usize::from(*label)]) {
            Some((_, label)) => Err(test_only(path, &self.names[usize::from(*label)])),
            None => Ok(()),
        }
    }

    /// The images of folders with their labels, by class and then by name. Text files among them are added to `left_out`.
    fn files(
        &self,
        folders: &[(PathBuf, u16)],
        left_out: &mut Vec<PathBuf>,
    ) -> Result<Vec<(PathBuf, u16)>, Error> {
        let mut images = Vec::new();
        for (folder, label) in folders {
            for file in entries(folder)? {
                let extension = extension(&file);
                match kind(&file)? {
                    // A link that leads nowhere is an image that cannot be read.
                    Kind::File | Kind::Nothing if EXTENSIONS.contains(&extension.as_str()) => {
                        images.push((file, *label));
                    }
                    Kind::File if TEXTS.contains(&extension.as_str()) => left_out.push(file),
                    _ => return Err(Error::NotAnImage { path: file }),
                }
            }
        }
        Ok(images)
    }
}

fn test_only(path: &Path, class: &str) -> Error {
    Error::TestOnlyClass { path: path.join(TEST).join(class), train: path.join(TRAIN).join(class) }
}

/// The folders in a set, sorted by the bytes of their names.
fn class_folders(
    path: &Path,
    name: &'static str,
    can_split: bool,
    left_out: &mut Vec<PathBuf>,
) -> Result<Vec<PathBuf>, Error> {
    let set = path.join(name);
    if kind(&set)? != Kind::Folder {
        return Err(missing_set(path, name, can_split));
    }
    let mut folders = Vec::new();
    for entry in entries(&set)? {
        if kind(&entry)? == Kind::Folder {
            folders.push(entry);
            continue;
        }
        match extension(&entry).as_str() {
            image if EXTENSIONS.contains(&image) => return Err(Error::LooseImage { path: entry }),
            text if TEXTS.contains(&text) => left_out.push(entry),
            _ => return Err(Error::NotAClass { path: entry }),
        }
    }
    Ok(folders)
}

/// Folders with their labels in the order of labels, by their names in any case.
fn known(names: &[String], folders: Vec<PathBuf>) -> Result<Vec<(PathBuf, u16)>, Error> {
    let mut classes: Vec<Option<PathBuf>> = vec![None; names.len()];
    for folder in folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let Some(label) = names.iter().position(|class| *class == name) else {
            return Err(Error::ClassFolder { path: folder, classes: names.join(", ") });
        };
        if classes[label].is_some() {
            return Err(Error::ClassTwice { path: folder, class: names[label].clone() });
        }
        classes[label] = Some(folder);
    }
    let labelled = classes.into_iter().enumerate();
    Ok(labelled.filter_map(|(label, folder)| Some((folder?, label as u16))).collect())
}

/// The class that a folder is named after.
fn class_name(folder: &Path) -> Result<String, Error> {
    let bad = |cause| Err(Error::ClassName { path: folder.to_owned(), cause });
    match folder.file_name().and_then(|name| name.to_str()) {
        None => bad("bytes that are not UTF-8"),
        // They would break every table and file that names the class.
        Some(name) if name.contains(char::is_control) => bad("a control character"),
        Some(name) => Ok(name.to_owned()),
    }
}

/// The error for a folder that has one set and lacks the other, with a folder that may be meant for it.
fn missing_set(path: &Path, set: &'static str, can_split: bool) -> Error {
    let aliases: &[&str] = if set == TRAIN { &TRAIN_ALIASES } else { &TEST_ALIASES };
    let names = names(path).unwrap_or_default();
    let meant = names.iter().find(|name| aliases.contains(&name.to_lowercase().as_str())).cloned();
    let can_split = can_split && set == TEST;
    Error::MissingSet { path: path.to_owned(), set, meant, can_split }
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

/// The names of what is in a folder, as [`entries`] gives it.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let name = |entry: &PathBuf| entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(entries(folder)?.iter().map(name).collect())
}

/// Reads a png, jpeg or webp file of any size, up to 10,000 pixels a side, as the files of an image folder are read: rotated upright according to its
/// EXIF data, transparency dropped, resized to the height and width of `shape` regardless of its proportions (Catmull-Rom). Returns the plane of each
/// channel, row by row; that of a grey image weights the colours by Rec. 709. The file may be a pipe.
///
/// # Errors
/// [`Error::Shape`]; [`Error::Read`] or [`Error::Decode`], each of which names the file.
pub fn read_image(path: &Path, shape: [usize; 3]) -> Result<Vec<u8>, Error> {
    check_shape(shape)?;
    let mut pixels = Vec::with_capacity(image_bytes(shape));
    append_planes(read(path)?, shape, &mut pixels);
    Ok(pixels)
}

fn read(path: &Path) -> Result<DynamicImage, Error> {
    let mut encoded = Vec::new();
    let file = File::open(path).map_err(reading(path))?;
    // A device may have no end.
    file.take(DECODING_BYTES + 1).read_to_end(&mut encoded).map_err(reading(path))?;
    decode(&encoded, LARGEST_SIDE).map_err(|cause| Error::Decode { path: path.to_owned(), cause })
}

/// Decodes a whole png, jpeg or webp image (by its contents: a jpeg named png is common), within limits, of which the side in pixels is one. An
/// error says what is wrong with it and what to do.
pub(crate) fn decode(encoded: &[u8], largest_side: u32) -> Result<DynamicImage, String> {
    if encoded.is_empty() {
        return Err(damaged("it is empty"));
    }
    if encoded.len() as u64 > DECODING_BYTES {
        return Err(format!("it has more than the limit of {} MiB", DECODING_BYTES >> 20));
    }
    let mut reader = guarded(|| Ok(ImageReader::new(Cursor::new(encoded)).with_guessed_format()?))?;
    let format = reader.format();
    if format == Some(ImageFormat::Jpeg) {
        jpeg::check_scans(encoded).map_err(damaged)?;
    }
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(DECODING_BYTES);
    reader.limits(limits);
    let mut decoder = guarded(|| reader.into_decoder())?;
    let (width, height) = decoder.dimensions();
    if width.max(height) > largest_side {
        return Err(format!(
            "it has {width} x {height} pixels and the limit is {largest_side} a side; make it smaller"
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
    // Cameras store images sideways, and say so.
    let orientation = guarded(|| decoder.orientation())?;
    let mut image = guarded(|| DynamicImage::from_decoder(decoder))?;
    match format {
        Some(ImageFormat::Jpeg) => jpeg::check(encoded, (width, height)).map_err(damaged)?,
        Some(ImageFormat::Png) if !encoded.windows(PNG_END.len()).any(|bytes| bytes == PNG_END) => {
            return Err(damaged("it is cut short"));
        }
        Some(ImageFormat::WebP) if encoded.len() < webp_length(encoded) => {
            return Err(damaged("it is cut short"));
        }
        _ => {}
    }
    image.apply_orientation(orientation);
    Ok(image)
}

/// The result of the image library. Its decoders panic on some damaged images.
fn guarded<T>(decode: impl FnOnce() -> ImageResult<T>) -> Result<T, String> {
    match without_panic(decode) {
        Some(Ok(decoded)) => Ok(decoded),
        Some(Err(error)) => Err(damaged(&one_line(&error.to_string()))),
        None => Err(damaged("its decoder fails on it")),
    }
}

/// What to do about a damaged image.
fn damaged(cause: &str) -> String {
    format!("{cause}; replace or remove it")
}

/// The last chunk of a png file, from its name on. The decoder does not require it.
const PNG_END: &[u8] = b"IEND\xAE\x42\x60\x82";

/// How long a webp file says it is.
fn webp_length(encoded: &[u8]) -> usize {
    // After "RIFF" comes the number of bytes that follow.
    let length = encoded.get(4..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
    length as usize + 8
}

/// Appends an image in another shape: the plane of each channel, row by row.
pub(crate) fn append_planes(
    image: DynamicImage,
    [channels, height, width]: [usize; 3],
    pixels: &mut Vec<u8>,
) {
    let (width, height) = (width as u32, height as u32);
    if channels == 1 {
        let image = image.into_luma8();
        if image.dimensions() == (width, height) {
            pixels.extend(image.as_raw());
        } else {
            pixels.extend(resize(&image, width, height, FilterType::CatmullRom).as_raw());
        }
        return;
    }
    let mut image = image.into_rgb8();
    if image.dimensions() != (width, height) {
        image = resize(&image, width, height, FilterType::CatmullRom);
    }
    for channel in 0..channels {
        pixels.extend(image.as_raw().iter().skip(channel).step_by(channels));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoProgress;
    use crate::Published;
    use crate::testing::{Watcher, noise};
    use image::{ImageFormat, Rgb, RgbImage};
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

    const SHAPE: [usize; 3] = [3, 32, 32];
    const IMAGE_BYTES: usize = 3072;

    /// With CIFAR-10's classes.
    fn load(path: &Path, progress: &dyn Progress) -> Result<(Images, Images), Error> {
        let classes = Published::Cifar10.spec().classes;
        Ok(super::load(path, Classes::Known(&classes), SHAPE, None, progress)?.images)
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
            [format!("2 files are not images and are left out, such as {}", first.display())]
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
            ("train/notes.pdf", b"", "notes.pdf is not a class folder"),
            ("train/ship", b"", "ship is not a class folder"),
            ("test/1.PNG", b"", "1.PNG is not in a class folder"),
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
            assert!(
                decode(&whole, LARGEST_SIDE).is_ok()
                    && decode(&[&whole, b"more".as_slice()].concat(), LARGEST_SIDE).is_ok()
            );
            for n in 0..whole.len() {
                let error = decode(&whole[..n], LARGEST_SIDE).expect_err("it is cut");
                let what = format!("{format:?}, {n} of {} bytes: {error:?}", whole.len());
                assert!(!error.contains(char::is_control), "{what}");
            }
        }
    }

    /// Found by fuzzing: the png decoder panics on a palette that does not end with a whole colour.
    #[test]
    fn an_image_at_which_the_decoder_panics_is_refused() {
        let chunk = |name: &[u8; 4], data: &[u8]| {
            let contents = [name.as_slice(), data].concat();
            let mut crc = flate2::Crc::new();
            crc.update(&contents);
            [&(data.len() as u32).to_be_bytes(), contents.as_slice(), &crc.sum().to_be_bytes()].concat()
        };
        // One pixel: an index of eight bits into the palette, after the row's filter.
        let header = [0, 0, 0, 1, 0, 0, 0, 1, 8, 3, 0, 0, 0];
        let mut pixels = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut pixels, &[0, 0]).unwrap();
        let pixels = chunk(b"IDAT", &pixels.finish().unwrap());
        let with = |palette: &[u8]| {
            let chunks =
                [chunk(b"IHDR", &header), chunk(b"PLTE", palette), pixels.clone(), chunk(b"IEND", &[])];
            decode(&[b"\x89PNG\r\n\x1a\n", chunks.concat().as_slice()].concat(), LARGEST_SIDE)
        };
        assert_eq!(with(&[1, 2, 3]).unwrap().into_rgb8().into_raw(), [1, 2, 3]);
        assert_eq!(with(&[1, 2, 3, 4]).unwrap_err(), "its decoder fails on it; replace or remove it");
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

    /// Seven classes with names in three scripts, sorted by their bytes; image i of a class is of one colour.
    const OWN: [&str; 7] = ["Zebra", "chow chow", "cat", "犬", "кошка", "собака", "été d'or"];

    fn own_folder(sets: &[(&str, usize)]) -> TempDir {
        let folder = TempDir::new().unwrap();
        for (set, count) in sets {
            for (class, name) in OWN.iter().enumerate() {
                for i in 0..*count {
                    let image =
                        RgbImage::from_pixel(9, 7, Rgb([20 * class as u8, 10 * i as u8, set.len() as u8]));
                    save(&image, &folder.path().join(set).join(name).join(format!("{i:03}.png")));
                }
            }
        }
        folder
    }

    fn load_own(folder: &TempDir, split: Option<TestSplit>) -> Result<ImageFolder, Error> {
        super::load(folder.path(), Classes::Own, [3, 5, 6], split.map(|split| (split, 42)), &NoProgress)
    }

    fn own_error(folder: &TempDir, split: Option<TestSplit>) -> String {
        load_own(folder, split).err().expect("it is refused").to_string()
    }

    #[test]
    fn a_folder_may_have_classes_of_its_own_in_any_script() {
        let folder = own_folder(&[("train", 2), ("test", 1)]);
        fs::create_dir(folder.path().join("train/.cache")).unwrap();
        let found = load_own(&folder, None).unwrap();
        let mut sorted = OWN.map(str::to_owned);
        sorted.sort();
        assert_eq!(found.spec.classes, sorted);
        assert_eq!(sorted, ["Zebra", "cat", "chow chow", "été d'or", "кошка", "собака", "犬"]);
        assert_eq!(found.spec, spec(folder.path(), [3, 5, 6]).unwrap());
        let (train, test) = found.images;
        assert_eq!((train.shape(), train.classes()), ([3, 5, 6], 7));
        assert_eq!(train.labels(), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]);
        assert_eq!(test.labels(), [0, 1, 2, 3, 4, 5, 6]);
        for i in 0..14 {
            let class = OWN.iter().position(|name| *name == sorted[i / 2]).unwrap();
            let expected = [20 * class as u8, 10 * (i % 2) as u8, 5];
            let planes = train.image(i).chunks(30).zip(expected);
            assert!(planes.into_iter().all(|(plane, byte)| plane.iter().all(|value| *value == byte)), "{i}");
        }
    }

    #[test]
    fn images_become_grey_by_the_weights_of_their_colours() {
        let folder = own_folder(&[("train", 1), ("test", 1)]);
        let found = super::load(folder.path(), Classes::Own, [1, 7, 9], None, &NoProgress).unwrap();
        let (train, _) = found.images;
        assert_eq!(train.shape(), [1, 7, 9]);
        for (label, name) in found.spec.classes.iter().enumerate() {
            let class = OWN.iter().position(|known| known == name).unwrap();
            // Rec. 709: 0.2126 R + 0.7152 G + 0.0722 B.
            let expected = 0.2126 * 20.0 * class as f64 + 0.0722 * 5.0;
            assert!(
                train.image(label).iter().all(|&byte| (f64::from(byte) - expected).abs() < 1.0),
                "{name}"
            );
        }
        let path = folder.path().join("train/cat/000.png");
        assert_eq!(read_image(&path, [1, 7, 9]).unwrap(), train.image(1));
        assert_eq!(read_image(&path, [3, 2, 2]).unwrap(), [[40; 4], [0; 4], [5; 4]].concat());
    }

    #[test]
    fn a_missing_test_folder_is_split_off_by_class() {
        let folder = own_folder(&[("train", 10)]);
        let error = own_error(&folder, None);
        assert!(error.contains("has no folder test") && error.contains("--test-split"), "{error}");
        let found = load_own(&folder, Some(TestSplit::Share(0.2))).unwrap();
        let (train, test) = found.images;
        assert_eq!((train.len(), test.len()), (56, 14));
        assert_eq!((train.class_counts(), test.class_counts()), (vec![8; 7], vec![2; 7]));
        // Every image once: of a class, green is 0, 10, ..., 90.
        for class in 0..7u16 {
            let green = |images: &Images| -> Vec<u8> {
                let of_class = (0..images.len()).filter(|i| images.labels()[*i] == class);
                of_class.map(|i| images.image(i)[30]).collect()
            };
            let mut all = [green(&train), green(&test)].concat();
            all.sort_unstable();
            assert_eq!(all, (0..10).map(|i| 10 * i).collect::<Vec<u8>>());
        }
        let again = load_own(&folder, Some(TestSplit::Count(14))).unwrap().images;
        assert_eq!(again, (train, test));

        let whole = own_folder(&[("train", 2), ("test", 1)]);
        let error = own_error(&whole, Some(TestSplit::Share(0.5)));
        assert!(
            error.starts_with("--test-split is given, and ") && error.contains("has a folder test"),
            "{error}"
        );
        let error = own_error(&folder, Some(TestSplit::Count(64)));
        assert!(error.contains("can be 1 to 63"), "{error}");
    }

    #[test]
    fn classes_of_the_test_alone_are_refused_and_of_the_training_alone_are_not() {
        let folder = own_folder(&[("train", 1), ("test", 1)]);
        fs::remove_dir_all(folder.path().join("test/犬")).unwrap();
        let found = load_own(&folder, None).unwrap();
        assert_eq!(found.images.1.class_counts(), [1, 1, 1, 1, 1, 1, 0]);
        // An empty training folder is like a missing one: the class exists, but nothing is known of it.
        fs::remove_file(folder.path().join("train/cat/000.png")).unwrap();
        let error = own_error(&folder, None);
        assert!(error.contains("test/cat has no matching training images"), "{error}");
        fs::remove_dir(folder.path().join("train/cat")).unwrap();
        let error = own_error(&folder, None);
        assert!(error.contains("test/cat has no matching training images"), "{error}");
        assert!(error.contains(&folder.path().join("train/cat").display().to_string()), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn names_that_cannot_be_shown_are_refused() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        for (name, expected) in [
            (&b"caf\xe9"[..], "has bytes that are not UTF-8 in its name"),
            (b"a\nb", "has a control character in its name"),
        ] {
            for set in ["train", "test"] {
                let folder = own_folder(&[("train", 1), ("test", 1)]);
                fs::create_dir(folder.path().join(set).join(OsStr::from_bytes(name))).unwrap();
                let error = own_error(&folder, None);
                assert!(error.contains(expected) && !error.contains('\n'), "{error}");
            }
        }
    }

    #[test]
    fn a_folder_without_classes_or_images_is_named() {
        let folder = TempDir::new().unwrap();
        let error = own_error(&folder, None);
        assert!(error.contains("has no folder train: images are taken from"), "{error}");
        assert!(!error.contains("--test-split"), "{error}");
        fs::create_dir_all(folder.path().join("train")).unwrap();
        assert!(
            own_error(&folder, None).starts_with("no png, jpg, jpeg or webp file in "),
            "{}",
            own_error(&folder, None)
        );
        fs::create_dir_all(folder.path().join("train/cat")).unwrap();
        assert!(
            own_error(&folder, None).starts_with("no png, jpg, jpeg or webp file in "),
            "{}",
            own_error(&folder, None)
        );
        let error = spec(&folder.path().join("x"), [3, 5, 6]).unwrap_err().to_string();
        assert!(
            error.ends_with("does not exist: give the folder that holds train/<class> and test/<class>"),
            "{error}"
        );
        let error = spec(folder.path(), [2, 5, 6]).unwrap_err().to_string();
        assert!(error.starts_with("images of shape 2 x 5 x 6 are not supported"), "{error}");
    }
}
