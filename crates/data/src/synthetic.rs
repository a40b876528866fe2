//! Ten classes of images drawn by a program.
//!
//! Each image shows one figure (a disc, a ring, ... ; see [`Figure`]) of random place, size, rotation and colours before a
//! background with a gradient, blotches, lines and dots, under noise. A class has a favourite colour that it shares with
//! another class and mostly does not wear, so that colour helps a little and only the form tells. The mirror image of a
//! figure is the same figure: training with flips is right.
//!
//! Everything is computed with operations that IEEE 754 defines to the bit (no sine, no power), so that the images are the
//! same on every machine.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use pointwise_random::{Purpose, Stream, permutation};
use rand::RngExt;

use crate::{CHANNELS, CLASSES, Error, IMAGE_BYTES, Images, Progress, SIDE, Unit};

/// The sets are told apart by the highest bits of the random stream, images by the others.
const TRAIN: u32 = 0;
const TEST: u32 = 1 << 30;
/// Added for the order of the labels.
const LABELS: u32 = 1 << 31;
/// Images that one set can have.
const MOST: usize = 1 << 30;

/// Draws `train` and `test` images. Image i is a function of the seed, its set and i alone.
pub(crate) fn draw(
    seed: u64,
    train: usize,
    test: usize,
    progress: &dyn Progress,
) -> Result<(Images, Images), Error> {
    progress.start("drawing synthetic images", Some(train.saturating_add(test) as u64), Unit::Images);
    let done = AtomicU64::new(0);
    let images = (set(seed, TRAIN, train, &done, progress)?, set(seed, TEST, test, &done, progress)?);
    progress.finish();
    Ok(images)
}

fn set(seed: u64, set: u32, n: usize, done: &AtomicU64, progress: &dyn Progress) -> Result<Images, Error> {
    /// Images between two reports of progress.
    const REPORT: usize = 500;

    let bytes = n.saturating_mul(IMAGE_BYTES);
    let memory = || Error::Memory { file: format!("{n} synthetic images"), bytes: bytes as u64 };
    let mut pixels = Vec::new();
    if n > MOST || pixels.try_reserve_exact(bytes).is_err() {
        return Err(memory());
    }
    pixels.resize(bytes, 0);
    let labels = labels(seed, set, n);

    // Each image is its own function of its place, so any division of the work gives the same bytes.
    let share = n.div_ceil(thread::available_parallelism().map_or(1, NonZero::get)).max(1);
    thread::scope(|scope| {
        for (i, (pixels, labels)) in
            pixels.chunks_mut(share * IMAGE_BYTES).zip(labels.chunks(share)).enumerate()
        {
            scope.spawn(move || {
                for (j, (image, &label)) in pixels.chunks_exact_mut(IMAGE_BYTES).zip(labels).enumerate() {
                    let place = (i * share + j) as u32;
                    draw_one(&mut Stream::new(seed, Purpose::Synthetic, set | place), label, image);
                    if j % REPORT == REPORT - 1 {
                        progress.advance(done.fetch_add(REPORT as u64, Ordering::Relaxed) + REPORT as u64);
                    }
                }
            });
        }
    });
    Images::new(pixels, labels)
}

/// Each ten images show the ten classes, in an order of their own.
fn labels(seed: u64, set: u32, n: usize) -> Vec<u8> {
    let tens = 0..n.div_ceil(CLASSES) as u32;
    let order = |ten| permutation(seed, Purpose::Synthetic, LABELS | set | ten, CLASSES as u32);
    tens.flat_map(order).map(|label| label as u8).take(n).collect()
}

/// A point of the plane, or red, green and blue from 0 to 1.
type Colour = [f32; CHANNELS];

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
const CELL: usize = SIDE / CELLS;

struct Scene {
    pose: Pose,
    figure: Colour,
    background: [Colour; 2],
    /// Direction and length of the gradient: 1 from end to end of the image.
    gradient: [f32; 2],
    blotches: [[f32; CELLS + 1]; CELLS + 1],
    lines: Vec<Line>,
    dots: Vec<Dot>,
    noise: f32,
}

impl Scene {
    fn draw(rng: &mut Stream, label: u8) -> Self {
        let figure_hue = hue(rng, FAVOURITE_FIGURE, label % 5);
        let figure = colour(figure_hue, rng.random_range(0.4..0.95), rng.random_range(0.3..0.95));
        let background_hue = hue(rng, FAVOURITE_BACKGROUND, label / 2);
        let mut background = [background_hue, background_hue + rng.random_range(-0.1..0.1)]
            .map(|hue| colour(hue, rng.random_range(0.0..0.7), rng.random_range(0.1..0.95)));
        // A figure of the colour of its background could not be seen by anyone: make one of them lighter.
        let contrast = brightness(figure) - (brightness(background[0]) + brightness(background[1])) / 2.0;
        if contrast.abs() < LEAST_CONTRAST {
            let shift = if contrast > 0.0 { contrast - LEAST_CONTRAST } else { contrast + LEAST_CONTRAST };
            background = background.map(|colour| colour.map(|value| value + shift));
        }
        let gradient = unit(rng).map(|value| value / SIDE as f32);
        let strength = rng.random_range(0.0..0.25);
        let mut blotches = [[0.0; CELLS + 1]; CELLS + 1];
        for corner in blotches.as_flattened_mut() {
            *corner = rng.random_range(-1.0..1.0) * strength;
        }
        let pose = Pose {
            centre: [rng.random_range(10.0..22.0), rng.random_range(10.0..22.0)],
            direction: unit(rng),
            size: rng.random_range(6.0..12.0),
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
        Self { pose, figure, background, gradient, blotches, lines, dots, noise: rng.random_range(0.03..0.2) }
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
        // Hues slightly below 0 are welcome.
        let k = (shift + (hue + 1.0) * 6.0) % 6.0;
        value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)
    })
}

fn brightness(colour: Colour) -> f32 {
    colour.iter().sum::<f32>() / CHANNELS as f32
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

fn draw_one(rng: &mut Stream, label: u8, image: &mut [u8]) {
    let scene = Scene::draw(rng, label);
    // One loop for each figure, so that the compiler sees through the distance. Negative inside, in units of the size.
    match label {
        // A disc.
        0 => paint(&scene, rng, image, |u, v| radius(u, v) - 0.9),
        // A ring.
        1 => paint(&scene, rng, image, |u, v| (radius(u, v) - 0.75).abs() - 0.22),
        // A square.
        2 => paint(&scene, rng, image, |u, v| u.abs().max(v.abs()) - 0.8),
        // A triangle of equal sides.
        3 => paint(&scene, rng, image, |u, v| (0.866 * u.abs() + 0.5 * v).max(-v) - 0.55),
        // A cross.
        4 => paint(&scene, rng, image, |u, v| {
            let (u, v) = (u.abs(), v.abs());
            (u - 0.28).max(v - 1.0).min((u - 1.0).max(v - 0.28))
        }),
        // A crescent.
        5 => paint(&scene, rng, image, |u, v| (radius(u, v) - 1.0).max(0.8 - radius(u - 0.45, v))),
        // Stripes in a disc.
        6 => paint(&scene, rng, image, |u, v| stripes(u).max(radius(u, v) - 1.1)),
        // A chequered disc.
        7 => paint(&scene, rng, image, |u, v| {
            let (a, b) = (stripes(u), stripes(v));
            // Inside where exactly one of the two is inside.
            a.max(-b).min(b.max(-a)).max(radius(u, v) - 1.1)
        }),
        // Two discs.
        8 => paint(&scene, rng, image, |u, v| radius(u.abs() - 0.58, v) - 0.45),
        // Half a disc.
        _ => paint(&scene, rng, image, |u, v| (radius(u, v) - 1.1).max(-v - 0.1)),
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

/// Covers `below` with `above` to the part that `distance` (in pixels, negative inside) says.
fn cover(below: &mut [f32; SIDE], above: f32, coverage: &[f32; SIDE]) {
    for (value, part) in below.iter_mut().zip(coverage) {
        *value += (above - *value) * part;
    }
}

/// The part of each pixel of a row that is inside, from its distance in pixels.
fn coverage(distance: impl Fn(f32) -> f32) -> [f32; SIDE] {
    std::array::from_fn(|x| (0.5 - distance(x as f32 + 0.5)).clamp(0.0, 1.0))
}

fn paint(scene: &Scene, rng: &mut Stream, image: &mut [u8], distance: impl Fn(f32, f32) -> f32) {
    let Pose { centre: [cx, cy], direction: [cos, sin], size } = scene.pose;
    let middle = SIDE as f32 / 2.0;
    for y in 0..SIDE {
        let py = y as f32 + 0.5;
        let mut row = background(scene, y);
        for dot in &scene.dots {
            let covered = coverage(|px| radius(px - dot.centre[0], py - dot.centre[1]) - dot.radius);
            row.iter_mut().zip(dot.colour).for_each(|(plane, colour)| cover(plane, colour, &covered));
        }
        let covered = coverage(|px| {
            let (x, y) = ((px - cx) / size, (py - cy) / size);
            distance(x * cos + y * sin, y * cos - x * sin) * size
        });
        row.iter_mut().zip(scene.figure).for_each(|(plane, colour)| cover(plane, colour, &covered));
        for line in &scene.lines {
            let across = (py - middle) * line.normal[1] - line.offset;
            let covered = coverage(|px| ((px - middle) * line.normal[0] + across).abs() - line.half_width);
            row.iter_mut().zip(line.colour).for_each(|(plane, colour)| cover(plane, colour, &covered));
        }
        // Ten bits of one word for each channel.
        let words: [u32; SIDE] = std::array::from_fn(|_| rng.word());
        for (channel, plane) in row.iter().enumerate() {
            let out = &mut image[(channel * SIDE + y) * SIDE..][..SIDE];
            for ((byte, value), word) in out.iter_mut().zip(plane).zip(words) {
                let noise = (word >> (10 * channel) & 1023) as f32 / 511.5 - 1.0;
                // The cast saturates at 0 and 255.
                *byte = ((value + noise * scene.noise) * 255.0 + 0.5) as u8;
            }
        }
    }
}

/// A row of the gradient with the blotches.
fn background(scene: &Scene, y: usize) -> [[f32; SIDE]; CHANNELS] {
    let middle = SIDE as f32 / 2.0;
    let down = (y % CELL) as f32 / CELL as f32;
    let (above, below) = (&scene.blotches[y / CELL], &scene.blotches[y / CELL + 1]);
    let corners: [f32; CELLS + 1] = std::array::from_fn(|i| above[i] + (below[i] - above[i]) * down);
    let blotches: [f32; SIDE] = std::array::from_fn(|x| {
        let along = (x % CELL) as f32 / CELL as f32;
        corners[x / CELL] + (corners[x / CELL + 1] - corners[x / CELL]) * along
    });
    let position: [f32; SIDE] = std::array::from_fn(|x| {
        let across = (x as f32 + 0.5 - middle) * scene.gradient[0];
        (across + (y as f32 + 0.5 - middle) * scene.gradient[1] + 0.5).clamp(0.0, 1.0)
    });
    let [from, to] = scene.background;
    std::array::from_fn(|channel| {
        std::array::from_fn(|x| from[channel] + (to[channel] - from[channel]) * position[x] + blotches[x])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoProgress;
    use crate::files::hex;
    use sha2::{Digest, Sha256};

    fn images(seed: u64, train: usize, test: usize) -> (Images, Images) {
        draw(seed, train, test, &NoProgress).unwrap()
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

    /// Nobody may change what a seed draws without noticing: figures of runs on synthetic data depend on it.
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
}
