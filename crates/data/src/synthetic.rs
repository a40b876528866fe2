//! Images drawn by a program, with classes named after what they show.
//!
//! Each image shows one figure (a disc, a ring, ...) of random place, size, rotation and colours in front of a background with a gradient, blotches,
//! lines and dots, under noise. With up to ten classes, the figure is the class. It has a favourite colour that it shares with another figure and
//! mostly does not have, so that colour helps a little and only the form is decisive. The mirror image of a figure is the same figure: training with
//! flips is valid. With more classes, colours, places and a strip of cells tell them apart as well, and with more than 60 (for grey images, 20) flips
//! are no longer valid.
//!
//! Everything is computed with operations that IEEE 754 defines to the bit (no sine, no power), so that the images are the
//! same on every machine.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use pointwise_random::{Purpose, Stream, permutation};
use rand::RngExt;

use crate::dataset::{check_shape, reserve};
use crate::published::CIFAR10_FIGURES;
use crate::{DatasetSpec, Error, Images, Progress, Unit};

/// Side of the square in which scenes are defined; images of other sizes show it stretched.
const SIDE: f32 = 32.0;

/// The figures, in the order of their labels.
const FIGURES: [&str; 10] = [
    "disc",
    "ring",
    "square",
    "triangle",
    "cross",
    "crescent",
    "stripes",
    "chequers",
    "two discs",
    "half disc",
];
/// Colours of figures, hues from 0 in steps of a sixth, where ten classes are not enough.
const COLOURS: [&str; 6] = ["red", "yellow", "green", "cyan", "blue", "magenta"];
/// The same for grey images.
const SHADES: [&str; 2] = ["dark", "light"];
/// Places of figures, row by row, where colours are not enough either.
const PLACES: [&str; 9] =
    ["top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right"];

/// What is drawn.
pub(crate) fn spec(classes: usize, shape: [usize; 3]) -> Result<DatasetSpec, Error> {
    check_shape(shape)?;
    if !(2..=DatasetSpec::MAX_CLASSES).contains(&classes) {
        return Err(Error::SyntheticClasses { classes });
    }
    let catalogue = Catalogue::new(classes, shape[0]);
    Ok(DatasetSpec {
        name: "synthetic images".to_owned(),
        shape,
        classes: (0..classes).map(|class| catalogue.name(class)).collect(),
        // They stand in for CIFAR-10.
        mean_std: (shape[0] == 3).then(|| CIFAR10_FIGURES.map(Vec::from).into()),
    })
}

/// What tells the classes apart: figures; with more classes than figures also their colours; with more than these also their places;
/// with yet more a strip of black and white cells at the bottom, which is the rest of the label in binary.
#[derive(Clone, Copy)]
struct Catalogue {
    classes: usize,
    colours: &'static [&'static str],
    /// Cells of the strip.
    cells: u32,
}

/// What an image of a class shows; what is `None` varies within the class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Design {
    figure: usize,
    colour: Option<usize>,
    place: Option<usize>,
    code: Option<usize>,
}

impl Catalogue {
    fn new(classes: usize, channels: usize) -> Self {
        let colours: &[&str] = if channels == 1 { &SHADES } else { &COLOURS };
        let codes = classes.div_ceil(FIGURES.len() * colours.len() * PLACES.len());
        Self { classes, colours, cells: usize::BITS - (codes - 1).leading_zeros() }
    }

    fn design(&self, class: usize) -> Design {
        let (figure, rest) = (class % FIGURES.len(), class / FIGURES.len());
        let (colour, rest) = (rest % self.colours.len(), rest / self.colours.len());
        let (place, code) = (rest % PLACES.len(), rest / PLACES.len());
        let colours = FIGURES.len() * self.colours.len();
        Design {
            figure,
            colour: (self.classes > FIGURES.len()).then_some(colour),
            place: (self.classes > colours).then_some(place),
            code: (self.cells > 0).then_some(code),
        }
    }

    fn name(&self, class: usize) -> String {
        let Design { figure, colour, place, code } = self.design(class);
        let mut name = FIGURES[figure].to_owned();
        if let Some(colour) = colour {
            name = format!("{} {name}", self.colours[colour]);
        }
        if let Some(place) = place {
            name += &format!(", {}", PLACES[place]);
        }
        if let Some(code) = code {
            name += &format!(", code {code:0cells$b}", cells = self.cells as usize);
        }
        name
    }
}

/// The sets are told apart by the highest bits of the random stream, images by the others.
const TRAIN: u32 = 0;
const TEST: u32 = 1 << 30;
/// Added for the order of the labels.
const LABELS: u32 = 1 << 31;
/// Images that one set can have.
const MOST: usize = 1 << 30;

/// Draws `train` and `test` images. Image i is a function of the seed, its set, the spec's classes and shape, and i alone.
pub(crate) fn draw(
    seed: u64,
    train: usize,
    test: usize,
    spec: &DatasetSpec,
    progress: &dyn Progress,
) -> Result<(Images, Images), Error> {
    progress.start("drawing synthetic images", Some(train.saturating_add(test) as u64), Unit::Images);
    let done = AtomicU64::new(0);
    let set = |set, n| draw_set(seed, set, n, spec, &done, progress);
    let images = (set(TRAIN, train)?, set(TEST, test)?);
    progress.finish();
    Ok(images)
}

fn draw_set(
    seed: u64,
    set: u32,
    n: usize,
    spec: &DatasetSpec,
    done: &AtomicU64,
    progress: &dyn Progress,
) -> Result<Images, Error> {
    /// Images between two reports of progress.
    const REPORT: usize = 500;

    let (image_bytes, classes) = (spec.image_bytes(), spec.classes.len());
    let bytes = n.saturating_mul(image_bytes);
    let what = || format!("{n} synthetic images");
    if n > MOST {
        return Err(Error::Memory { file: what(), bytes: bytes as u64, available: None });
    }
    let mut pixels: Vec<u8> = reserve(what, bytes)?;
    pixels.resize(bytes, 0);
    let labels = labels(seed, set, n, classes)?;
    let catalogue = Catalogue::new(classes, spec.shape[0]);

    // Each image is its own function of its place, so any division of the work gives the same bytes.
    let share = n.div_ceil(thread::available_parallelism().map_or(1, NonZero::get)).max(1);
    thread::scope(|scope| {
        for (i, (pixels, labels)) in
            pixels.chunks_mut(share * image_bytes).zip(labels.chunks(share)).enumerate()
        {
            let work = move || {
                let mut canvas = Canvas::new(spec.shape);
                for (j, (image, &label)) in pixels.chunks_exact_mut(image_bytes).zip(labels).enumerate() {
                    let place = (i * share + j) as u32;
                    let mut rng = Stream::new(seed, Purpose::Synthetic, set | place);
                    canvas.draw(&mut rng, label.into(), &catalogue, image);
                    if j % REPORT == REPORT - 1 {
                        progress.advance(done.fetch_add(REPORT as u64, Ordering::Relaxed) + REPORT as u64);
                    }
                }
            };
            let spawned = thread::Builder::new().spawn_scoped(scope, work);
            spawned.map_err(|cause| Error::Thread { what: "draws images", cause })?;
        }
        Ok(())
    })?;
    Images::new(spec.shape, classes, pixels, labels)
}

/// Every group of as many images as there are classes shows each class once, in its own order.
fn labels(seed: u64, set: u32, n: usize, classes: usize) -> Result<Vec<u16>, Error> {
    let mut labels = reserve(|| format!("{n} labels"), n)?;
    let rounds = 0..n.div_ceil(classes) as u32;
    let order = |round| permutation(seed, Purpose::Synthetic, LABELS | set | round, classes as u32);
    labels.extend(rounds.flat_map(order).map(|label| label as u16).take(n));
    Ok(labels)
}

/// Red, green and blue from 0 to 1.
type Colour = [f32; 3];

/// Half of the plane's band: pixels nearer to the line than `half_width` are covered.
struct Line {
    normal: [f32; 2],
    offset: f32,
    half_width: f32,
    colour: Colour,
}

struct Dot {
    centre: [f32; 2],
    radius: f32,
    colour: Colour,
}

/// Where the figure is: pixels are mapped to its own coordinates, in which it has a radius of about 1.
struct Pose {
    centre: [f32; 2],
    direction: [f32; 2],
    size: f32,
}

/// Coarse random brightness, interpolated between the corners of its cells.
const CELLS: usize = 4;
const CELL: f32 = SIDE / CELLS as f32;

/// Black and white cells at the bottom.
#[derive(Clone, Copy)]
struct Strip {
    code: usize,
    cells: u32,
}

impl Strip {
    /// Its upper edge.
    const TOP: f32 = 28.0;

    fn brightness(self, x: f32) -> f32 {
        let cell = ((x / SIDE * self.cells as f32) as u32).min(self.cells - 1);
        // The most significant bit comes first.
        if self.code >> (self.cells - 1 - cell) & 1 == 1 { 0.95 } else { 0.05 }
    }
}

struct Scene {
    pose: Pose,
    figure: Colour,
    background: [Colour; 2],
    /// Direction and length of the gradient: 1 from end to end of the image.
    gradient: [f32; 2],
    blotches: [[f32; CELLS + 1]; CELLS + 1],
    lines: Vec<Line>,
    dots: Vec<Dot>,
    strip: Option<Strip>,
    noise: f32,
}

impl Scene {
    fn draw(rng: &mut Stream, design: Design, catalogue: &Catalogue) -> Self {
        let label = design.figure as u8;
        let is_grey = catalogue.colours.len() == SHADES.len();
        let figure = match design.colour {
            None => {
                let hue = hue(rng, FAVOURITE_FIGURE, label % 5);
                colour(hue, rng.random_range(0.4..0.95), rng.random_range(0.3..0.95))
            }
            Some(shade) if is_grey => [shade as f32 * 0.85 + rng.random_range(0.0..0.15); 3],
            Some(hue) => {
                let hue = hue as f32 / COLOURS.len() as f32 + rng.random_range(-0.03..0.03);
                colour(hue, rng.random_range(0.75..1.0), rng.random_range(0.7..1.0))
            }
        };
        let background_hue = hue(rng, FAVOURITE_BACKGROUND, label / 2);
        // Neither dark nor light, where that tells classes apart.
        let values = if is_grey && design.colour.is_some() { 0.35..0.65 } else { 0.1..0.95 };
        let mut background = [background_hue, background_hue + rng.random_range(-0.1..0.1)]
            .map(|hue| colour(hue, rng.random_range(0.0..0.7), rng.random_range(values.clone())));
        // A figure in the colour of its background would be invisible: make one of them lighter.
        let contrast = brightness(figure) - (brightness(background[0]) + brightness(background[1])) / 2.0;
        if contrast.abs() < LEAST_CONTRAST {
            let shift = if contrast > 0.0 { contrast - LEAST_CONTRAST } else { contrast + LEAST_CONTRAST };
            background = background.map(|colour| colour.map(|value| value + shift));
        }
        let gradient = unit(rng).map(|value| value / SIDE);
        let strength = rng.random_range(0.0..0.25);
        let mut blotches = [[0.0; CELLS + 1]; CELLS + 1];
        for corner in blotches.as_flattened_mut() {
            *corner = rng.random_range(-1.0..1.0) * strength;
        }
        let strip = design.code.map(|code| Strip { code, cells: catalogue.cells });
        let pose = match design.place {
            None => Pose {
                centre: [rng.random_range(10.0..22.0), rng.random_range(10.0..22.0)],
                direction: unit(rng),
                size: rng.random_range(6.0..12.0),
            },
            Some(place) => {
                let height = if strip.is_some() { Strip::TOP } else { SIDE };
                let at = |number: usize, side: f32| side / 2.0 + (number as f32 - 1.0) * (side * 0.3);
                Pose {
                    centre: [at(place % 3, SIDE), at(place / 3, height)]
                        .map(|centre| centre + rng.random_range(-1.5..1.5)),
                    direction: unit(rng),
                    size: rng.random_range(3.5..5.0),
                }
            }
        };
        let lines = (0..rng.random_range(0..3))
            .map(|_| Line {
                normal: unit(rng),
                offset: rng.random_range(-14.0..14.0),
                half_width: rng.random_range(0.4..1.2),
                colour: random_colour(rng),
            })
            .collect();
        let dots = (0..rng.random_range(0..4))
            .map(|_| Dot {
                centre: [rng.random_range(0.0..32.0), rng.random_range(0.0..32.0)],
                radius: rng.random_range(1.0..3.0),
                colour: random_colour(rng),
            })
            .collect();
        let noise = rng.random_range(0.03..0.2);
        Self { pose, figure, background, gradient, blotches, lines, dots, strip, noise }
    }
}

/// Probability that a figure has the favourite hue of its class, which one other class shares.
const FAVOURITE_FIGURE: f64 = 0.5;
/// Probability that a background has the favourite hue of its class, which one other class shares.
const FAVOURITE_BACKGROUND: f64 = 0.4;
/// Difference in brightness between a figure and the middle of its background.
const LEAST_CONTRAST: f32 = 0.15;

/// One of five hues, from 0 to 1, with some spread and the probability given, and otherwise any.
fn hue(rng: &mut Stream, probability: f64, favourite: u8) -> f32 {
    if rng.random_bool(probability) {
        f32::from(favourite) / 5.0 + rng.random_range(0.0..0.1)
    } else {
        rng.random_range(0.0..1.0)
    }
}

fn random_colour(rng: &mut Stream) -> Colour {
    colour(rng.random_range(0.0..1.0), rng.random_range(0.0..0.7), rng.random_range(0.1..0.95))
}

/// Hue (a full turn is 1), saturation and value, from 0 to 1, as a colour.
fn colour(hue: f32, saturation: f32, value: f32) -> Colour {
    [5.0, 3.0, 1.0].map(|shift| {
        // Hues slightly below 0 are allowed.
        let k = (shift + (hue + 1.0) * 6.0) % 6.0;
        value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)
    })
}

fn brightness(colour: Colour) -> f32 {
    colour.iter().sum::<f32>() / 3.0
}

/// A random direction, without a sine: a point of the disc, scaled.
fn unit(rng: &mut Stream) -> [f32; 2] {
    loop {
        let [x, y] = [rng.random_range(-1.0f32..1.0), rng.random_range(-1.0f32..1.0)];
        let square = x * x + y * y;
        if (0.01..1.0).contains(&square) {
            let length = square.sqrt();
            return [x / length, y / length];
        }
    }
}

/// Images of one shape, a row at a time.
struct Canvas {
    shape: [usize; 3],
    /// The scene's pixels that one of the image has, vertically and horizontally.
    scale: [f32; 2],
    /// The image's pixels that one of the scene has, along its shorter side: edges are as wide as one of these.
    sharpness: f32,
    /// Red, green and blue.
    row: [Vec<f32>; 3],
    /// The part of each pixel that is covered.
    covered: Vec<f32>,
    words: Vec<u32>,
}

impl Canvas {
    fn new(shape: [usize; 3]) -> Self {
        let [_, height, width] = shape;
        Self {
            shape,
            scale: [height, width].map(|side| SIDE / side as f32),
            sharpness: height.min(width) as f32 / SIDE,
            row: [const { Vec::new() }; 3].map(|_: Vec<f32>| vec![0.0; width]),
            covered: vec![0.0; width],
            words: vec![0; width],
        }
    }

    fn draw(&mut self, rng: &mut Stream, class: usize, catalogue: &Catalogue, image: &mut [u8]) {
        let design = catalogue.design(class);
        let scene = Scene::draw(rng, design, catalogue);
        // One loop for each figure, so that the compiler can inline the distance. Negative inside, in units of the size.
        match design.figure {
            // A disc.
            0 => self.paint(&scene, rng, image, |u, v| radius(u, v) - 0.9),
            // A ring.
            1 => self.paint(&scene, rng, image, |u, v| (radius(u, v) - 0.75).abs() - 0.22),
            // A square.
            2 => self.paint(&scene, rng, image, |u, v| u.abs().max(v.abs()) - 0.8),
            // A triangle of equal sides.
            3 => self.paint(&scene, rng, image, |u, v| (0.866 * u.abs() + 0.5 * v).max(-v) - 0.55),
            // A cross.
            4 => self.paint(&scene, rng, image, |u, v| {
                let (u, v) = (u.abs(), v.abs());
                (u - 0.28).max(v - 1.0).min((u - 1.0).max(v - 0.28))
            }),
            // A crescent.
            5 => self.paint(&scene, rng, image, |u, v| (radius(u, v) - 1.0).max(0.8 - radius(u - 0.45, v))),
            // Stripes in a disc.
            6 => self.paint(&scene, rng, image, |u, v| stripes(u).max(radius(u, v) - 1.1)),
            // A chequered disc.
            7 => self.paint(&scene, rng, image, |u, v| {
                let (a, b) = (stripes(u), stripes(v));
                // Inside where exactly one of the two is inside.
                a.max(-b).min(b.max(-a)).max(radius(u, v) - 1.1)
            }),
            // Two discs.
            8 => self.paint(&scene, rng, image, |u, v| radius(u.abs() - 0.58, v) - 0.45),
            // Half a disc.
            _ => self.paint(&scene, rng, image, |u, v| (radius(u, v) - 1.1).max(-v - 0.1)),
        }
    }
    fn paint(
        &mut self,
        scene: &Scene,
        rng: &mut Stream,
        image: &mut [u8],
        distance: impl Fn(f32, f32) -> f32,
    ) {
        let [channels, height, width] = self.shape;
        let Pose { centre: [cx, cy], direction: [cos, sin], size } = scene.pose;
        let middle = SIDE / 2.0;
        for y in 0..height {
            let py = (y as f32 + 0.5) * self.scale[0];
            self.background(scene, y);
            for dot in &scene.dots {
                self.cover(dot.colour, |px| radius(px - dot.centre[0], py - dot.centre[1]) - dot.radius);
            }
            self.cover(scene.figure, |px| {
                let (x, y) = ((px - cx) / size, (py - cy) / size);
                distance(x * cos + y * sin, y * cos - x * sin) * size
            });
            for line in &scene.lines {
                let across = (py - middle) * line.normal[1] - line.offset;
                self.cover(line.colour, |px| {
                    ((px - middle) * line.normal[0] + across).abs() - line.half_width
                });
            }
            if let Some(strip) = scene.strip
                && py >= Strip::TOP
            {
                for (x, covered) in self.covered.iter_mut().enumerate() {
                    *covered = strip.brightness((x as f32 + 0.5) * self.scale[1]);
                }
                self.row.iter_mut().for_each(|plane| plane.copy_from_slice(&self.covered));
            }
            if channels == 1 {
                let [grey, green, blue] = &mut self.row;
                for ((grey, green), blue) in grey.iter_mut().zip(green).zip(blue) {
                    *grey = brightness([*grey, *green, *blue]);
                }
            }
            // Ten bits of one word for each channel.
            self.words.fill_with(|| rng.word());
            for (channel, plane) in self.row.iter().take(channels).enumerate() {
                let out = &mut image[(channel * height + y) * width..][..width];
                for ((byte, value), word) in out.iter_mut().zip(plane).zip(&self.words) {
                    let noise = (word >> (10 * channel) & 1023) as f32 / 511.5 - 1.0;
                    // The cast saturates at 0 and 255.
                    *byte = ((value + noise * scene.noise) * 255.0 + 0.5) as u8;
                }
            }
        }
    }

    /// Covers the row with a colour where `distance` (in the scene's pixels, negative inside) says.
    fn cover(&mut self, colour: Colour, distance: impl Fn(f32) -> f32) {
        for (x, covered) in self.covered.iter_mut().enumerate() {
            let distance = distance((x as f32 + 0.5) * self.scale[1]) * self.sharpness;
            *covered = (0.5 - distance).clamp(0.0, 1.0);
        }
        for (plane, colour) in self.row.iter_mut().zip(colour) {
            for (value, part) in plane.iter_mut().zip(&self.covered) {
                *value += (colour - *value) * part;
            }
        }
    }

    /// Makes the row that of the gradient with the blotches.
    fn background(&mut self, scene: &Scene, y: usize) {
        let middle = SIDE / 2.0;
        // The cell of a pixel, and how far along it is.
        let cell = |at: usize, scale: f32| {
            let cells = at as f32 * scale / CELL;
            let cell = (cells as usize).min(CELLS - 1);
            (cell, cells - cell as f32)
        };
        let (cell_y, down) = cell(y, self.scale[0]);
        let (above, below) = (&scene.blotches[cell_y], &scene.blotches[cell_y + 1]);
        let corners: [f32; CELLS + 1] = std::array::from_fn(|i| above[i] + (below[i] - above[i]) * down);
        let [red, green, blue] = &mut self.row;
        let [from, to] = scene.background;
        let down = ((y as f32 + 0.5) * self.scale[0] - middle) * scene.gradient[1];
        for (x, ((red, green), blue)) in red.iter_mut().zip(green).zip(blue).enumerate() {
            let (cell_x, along) = cell(x, self.scale[1]);
            let blotch = corners[cell_x] + (corners[cell_x + 1] - corners[cell_x]) * along;
            let across = ((x as f32 + 0.5) * self.scale[1] - middle) * scene.gradient[0];
            let position = (across + down + 0.5).clamp(0.0, 1.0);
            for (channel, value) in [red, green, blue].into_iter().enumerate() {
                *value = from[channel] + (to[channel] - from[channel]) * position + blotch;
            }
        }
    }
}

fn radius(u: f32, v: f32) -> f32 {
    (u * u + v * v).sqrt()
}

/// Distance to stripes as wide as their gaps.
fn stripes(u: f32) -> f32 {
    const PERIOD: f32 = 0.7;
    // The distance to the nearest multiple of the period; the cast truncates, so it must not see negative numbers.
    let turns = u / PERIOD + 64.5;
    let phase = turns - (turns as i32) as f32 - 0.5;
    (phase.abs() - 0.25) * PERIOD
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoProgress;
    use crate::files::hex;
    use sha2::{Digest, Sha256};

    const CLASSES: usize = 10;
    const IMAGE_BYTES: usize = 3072;

    fn images(seed: u64, train: usize, test: usize) -> (Images, Images) {
        draw(seed, train, test, &spec(10, [3, 32, 32]).unwrap(), &NoProgress).unwrap()
    }

    #[test]
    fn a_smaller_set_is_the_beginning_of_a_larger_one() {
        let (train, test) = images(42, 97, 53);
        for n in [0, 1, 9, 10, 11, 52] {
            let (smaller_train, smaller_test) = images(42, n, n);
            assert_eq!(smaller_train, train.clone().truncated(n));
            assert_eq!(smaller_test, test.clone().truncated(n));
        }
    }

    #[test]
    fn sets_and_seeds_differ() {
        let (train, test) = images(42, 20, 20);
        let (other, _) = images(43, 20, 0);
        for i in 0..20 {
            assert_ne!(train.image(i), test.image(i));
            assert_ne!(train.image(i), other.image(i));
        }
        assert_ne!(train.labels(), test.labels());
    }

    #[test]
    fn labels_are_balanced_and_mixed() {
        let (train, _) = images(7, 1003, 0);
        for label in 0..CLASSES {
            let count = train.labels().iter().filter(|&&l| usize::from(l) == label).count();
            assert!((100..=101).contains(&count), "class {label}: {count}");
        }
        assert_ne!(train.labels()[..10], train.labels()[10..20]);
    }

    /// What a seed draws must not change unnoticed: figures of runs on synthetic data depend on it.
    #[test]
    fn the_images_of_a_seed_stay_as_they_are() {
        let (train, _) = images(42, 100, 0);
        let hash = hex(&Sha256::digest(train.pixels()));
        assert_eq!(hash, "82506510997185fbc7a0358f2d68f13798dbccadd07a942e06fc39e66851e4ed");
    }

    /// Distance to the mean image of each class is the simplest linear classifier: it must find something to learn from,
    /// and leave much to better ones.
    #[test]
    fn nearest_class_mean_is_better_than_chance_and_far_from_perfect() {
        let (train, test) = images(42, 4000, 1000);
        let mut means = vec![[0.0f64; IMAGE_BYTES]; CLASSES];
        for i in 0..train.len() {
            for (mean, &byte) in means[usize::from(train.labels()[i])].iter_mut().zip(train.image(i)) {
                *mean += f64::from(byte) / (train.len() / CLASSES) as f64;
            }
        }
        let right = (0..test.len())
            .filter(|&i| {
                let distance = |mean: &[f64; IMAGE_BYTES]| -> f64 {
                    mean.iter().zip(test.image(i)).map(|(mean, &byte)| (mean - f64::from(byte)).powi(2)).sum()
                };
                let nearest =
                    (0..CLASSES).min_by(|&a, &b| distance(&means[a]).total_cmp(&distance(&means[b])));
                nearest == Some(usize::from(test.labels()[i]))
            })
            .count();
        let accuracy = right as f64 / test.len() as f64;
        println!("nearest class mean: {:.1} %", accuracy * 100.0);
        assert!((0.15..0.70).contains(&accuracy), "{accuracy}");
    }

    #[test]
    fn classes_are_told_apart_and_named_after_what_they_show() {
        for (channels, classes) in [
            (3, 2),
            (3, 10),
            (3, 11),
            (3, 60),
            (3, 61),
            (3, 540),
            (3, 541),
            (3, 65_536),
            (1, 20),
            (1, 21),
            (1, 65_536),
        ] {
            let spec = spec(classes, [channels, 8, 8]).unwrap();
            let mut names = spec.classes.clone();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), classes);
        }
        let name =
            |classes, channels, class: usize| spec(classes, [channels, 8, 8]).unwrap().classes[class].clone();
        assert_eq!(name(10, 3, 2), "square");
        assert_eq!(name(12, 3, 2), "red square");
        assert_eq!(name(12, 3, 11), "yellow ring");
        assert_eq!(name(61, 3, 60), "red disc, top");
        assert_eq!(name(1000, 3, 540), "red disc, top left, code 1");
        assert_eq!(name(65_536, 3, 0), "red disc, top left, code 0000000");
        assert_eq!(name(21, 1, 11), "light ring, top left");
        for classes in [0, 1, 65_537] {
            let error = spec(classes, [3, 8, 8]).unwrap_err().to_string();
            assert_eq!(error, format!("synthetic data has 2 to 65536 classes, not {classes}"));
        }
    }

    #[test]
    fn every_shape_and_number_of_classes_is_drawn() {
        for (classes, shape) in [
            (2, [1, 1, 1]),
            (3, [3, 5, 2]),
            (10, [1, 28, 28]),
            (30, [1, 64, 9]),
            (100, [3, 32, 32]),
            (700, [3, 96, 100]),
            (65_536, [1, 16, 16]),
        ] {
            let spec = spec(classes, shape).unwrap();
            let n = if classes > 1000 { 100 } else { 2 * classes };
            let (train, test) = draw(42, n, 3, &spec, &NoProgress).unwrap();
            assert_eq!((train.shape(), train.classes(), train.len(), test.len()), (shape, classes, n, 3));
            if n == 2 * classes {
                assert!(train.class_counts().iter().all(|count| *count == 2), "{classes} classes");
            }
            let (smaller, _) = draw(42, n - 1, 0, &spec, &NoProgress).unwrap();
            assert_eq!(smaller, train.truncated(n - 1));
        }
    }

    /// The mean over images of a class, in `0..1`: noise and backgrounds average out, and what the name says is left.
    fn mean_image(classes: usize, shape: [usize; 3], class: usize) -> Vec<f64> {
        const N: u32 = 300;
        let mut mean = vec![0.0; shape.iter().product()];
        let (mut canvas, catalogue) = (Canvas::new(shape), Catalogue::new(classes, shape[0]));
        let mut image = vec![0; mean.len()];
        for place in 0..N {
            canvas.draw(&mut Stream::new(1, Purpose::Synthetic, place), class, &catalogue, &mut image);
            let pixels = mean.iter_mut().zip(&image);
            pixels.for_each(|(mean, &byte)| *mean += f64::from(byte) / 255.0 / f64::from(N));
        }
        mean
    }

    #[test]
    fn colours_places_and_codes_are_those_of_the_name() {
        let plane = 32 * 32;
        let names = spec(60, [3, 32, 32]).unwrap().classes;
        for (class, name) in names.iter().enumerate().filter(|(class, _)| class % 10 == 0) {
            let mean = mean_image(60, [3, 32, 32], class);
            let centre = [0, 1, 2].map(|channel| mean[channel * plane + 16 * 32 + 16]);
            let most = centre.iter().copied().fold(0.0, f64::max);
            let bright: Vec<bool> = centre.iter().map(|&value| value > most - 0.15).collect();
            let expected = match name.split(' ').next().unwrap() {
                "red" => [true, false, false],
                "yellow" => [true, true, false],
                "green" => [false, true, false],
                "cyan" => [false, true, true],
                "blue" => [false, false, true],
                _ => [true, false, true],
            };
            assert_eq!(bright, expected, "{name}: {centre:?}");
        }
        // Grey: the light disc of each place is where it is said to be.
        let names = spec(180, [1, 30, 30]).unwrap().classes;
        for place in 0..9 {
            let class = 10 + 20 * place;
            let mean = mean_image(180, [1, 30, 30], class);
            let brightness = |cell: usize| mean[(cell / 3 * 10 + 5) * 30 + cell % 3 * 10 + 5];
            let found = (0..9).max_by(|&a, &b| brightness(a).total_cmp(&brightness(b))).unwrap();
            assert!(names[class].ends_with(&format!("light disc, {}", PLACES[found])), "{}", names[class]);
        }
        let class = 540 * 5;
        assert!(spec(540 * 8, [3, 32, 32]).unwrap().classes[class].ends_with("code 101"));
        let mean = mean_image(540 * 8, [3, 32, 32], class);
        let bits = [5, 16, 27].map(|x| mean[31 * 32 + x] > 0.5);
        assert_eq!(bits, [true, false, true]);
    }
}
