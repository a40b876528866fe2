//! Initial values computed from training images.

/// The weights of a convolution with uncorrelated outputs of variance 1, followed by their negatives: `(2 C K L, C, K, L)` for kernels of `K`
/// rows and `L` columns (Jordan 2024).
///
/// They are the eigenvectors of `E[p p^T]` over all patches `p` of the images, each divided by the root of its eigenvalue plus `eps`, the
/// largest eigenvalue first. Of each eigenvector and its negative, the one whose largest component is positive comes first.
///
/// `images` are normalised, `(N, C, H, W)` with `[C, H, W]` as `shape`; `kernel` is no larger than an image.
#[must_use]
pub fn whitening_weights(images: &[f32], shape: [usize; 3], kernel: [usize; 2], eps: f64) -> Vec<f32> {
    let n = shape[0] * kernel[0] * kernel[1];
    let (values, vectors) = eigen(second_moments(images, shape, kernel), n);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    let mut weights = Vec::with_capacity(2 * n * n);
    for sign in [1.0, -1.0] {
        for &column in &order {
            let vector = || (0..n).map(|row| vectors[row * n + column]);
            let largest = vector().fold(0.0f64, |most, x| if x.abs() > most.abs() { x } else { most });
            let scale = sign * largest.signum() / (values[column].max(0.0) + eps).sqrt();
            weights.extend(vector().map(|x| (scale * x) as f32));
        }
    }
    weights
}

/// `E[p p^T]` over the patches of all images, row by row.
fn second_moments(
    images: &[f32],
    [channels, height, width]: [usize; 3],
    [rows, columns]: [usize; 2],
) -> Vec<f64> {
    let taps: Vec<usize> = (0..channels)
        .flat_map(|channel| (0..rows).map(move |row| (channel * height + row) * width))
        .flat_map(|start| (0..columns).map(move |column| start + column))
        .collect();
    let n = taps.len();
    let [down, across] = [height - rows + 1, width - columns + 1];
    let mut sums = vec![0.0; n * n];
    for image in images.chunks_exact(channels * height * width) {
        for (at, a) in taps.iter().enumerate() {
            for (beside, b) in taps.iter().enumerate().skip(at) {
                let row_sum = |row: usize| -> f64 {
                    let line = |tap: usize| &image[tap + row * width..][..across];
                    line(*a).iter().zip(line(*b)).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
                };
                sums[at * n + beside] += (0..down).map(row_sum).sum::<f64>();
            }
        }
    }
    let patches = (images.len() / (channels * height * width) * down * across).max(1) as f64;
    for at in 0..n {
        for beside in at..n {
            let mean = sums[at * n + beside] / patches;
            (sums[at * n + beside], sums[beside * n + at]) = (mean, mean);
        }
    }
    sums
}

/// Eigenvalues of a symmetric matrix of `n` rows, and its eigenvectors as columns, by Jacobi's method: rotations that each make one element
/// zero, until all off the diagonal are (Golub and Van Loan, *Matrix Computations*, section 8.5).
fn eigen(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    /// It takes five or six; the convergence is quadratic.
    const SWEEPS: usize = 50;
    let mut vectors = vec![0.0; n * n];
    (0..n).for_each(|at| vectors[at * n + at] = 1.0);
    for _ in 0..SWEEPS {
        let beside: f64 =
            (0..n).flat_map(|p| (0..p).map(move |q| (p, q))).map(|(p, q)| a[p * n + q].powi(2)).sum();
        let whole: f64 = a.iter().map(|x| x * x).sum();
        if beside <= f64::EPSILON * f64::EPSILON * whole {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                let apq = a[p * n + q];
                if apq == 0.0 {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * apq);
                let tangent = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let cos = 1.0 / tangent.hypot(1.0);
                let sin = tangent * cos;
                let rotate = |x: &mut f64, y: &mut f64| (*x, *y) = (cos * *x - sin * *y, sin * *x + cos * *y);
                for k in 0..n {
                    let (mut x, mut y) = (a[k * n + p], a[k * n + q]);
                    rotate(&mut x, &mut y);
                    (a[k * n + p], a[k * n + q]) = (x, y);
                }
                for k in 0..n {
                    let (mut x, mut y) = (a[p * n + k], a[q * n + k]);
                    rotate(&mut x, &mut y);
                    (a[p * n + k], a[q * n + k]) = (x, y);
                    let (mut x, mut y) = (vectors[k * n + p], vectors[k * n + q]);
                    rotate(&mut x, &mut y);
                    (vectors[k * n + p], vectors[k * n + q]) = (x, y);
                }
            }
        }
    }
    ((0..n).map(|at| a[at * n + at]).collect(), vectors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointwise_random::{Purpose, Stream};

    fn noise(len: usize) -> Vec<f64> {
        let mut words = Stream::new(5, Purpose::Synthetic, 0);
        (0..len).map(|_| f64::from(words.word()) / f64::from(u32::MAX) - 0.5).collect()
    }

    #[test]
    fn eigenvectors_give_the_matrix_back() {
        for n in [1, 2, 5, 12, 27] {
            let half = noise(n * n);
            let matrix: Vec<f64> = (0..n * n).map(|at| half[at] + half[at % n * n + at / n]).collect();
            let (values, vectors) = eigen(matrix.clone(), n);
            for row in 0..n {
                for column in 0..n {
                    let sum = |term: &dyn Fn(usize) -> f64| (0..n).map(term).sum::<f64>();
                    let back = sum(&|k| vectors[row * n + k] * values[k] * vectors[column * n + k]);
                    assert!((back - matrix[row * n + column]).abs() < 1e-12, "{n}: {back}");
                    let identity = sum(&|k| vectors[k * n + row] * vectors[k * n + column]);
                    assert!((identity - f64::from(u8::from(row == column))).abs() < 1e-12, "{n}: {identity}");
                }
            }
        }
        // Equal eigenvalues, and zeros off the diagonal.
        let (values, vectors) = eigen(vec![2.0, 0.0, 0.0, 2.0], 2);
        assert_eq!((values, vectors), (vec![2.0, 2.0], vec![1.0, 0.0, 0.0, 1.0]));
    }

    /// What the weights are for: outputs of variance 1 that are uncorrelated.
    #[test]
    fn outputs_are_white() {
        let (shape, kernel) = ([3, 9, 8], [2, 3]);
        let [channels, height, width] = shape;
        // Neighbouring values are correlated, as pixels are.
        let mut images: Vec<f32> = noise(7 * channels * height * width).iter().map(|x| *x as f32).collect();
        (1..images.len()).for_each(|at| images[at] += 0.8 * images[at - 1]);
        let weights = whitening_weights(&images, shape, kernel, 0.0);
        let n = 18;
        assert_eq!(weights.len(), 2 * n * n);
        let mut products = vec![0.0; n * n];
        let mut patches = 0.0;
        for image in images.chunks_exact(channels * height * width) {
            for (row, column) in (0..8).flat_map(|row| (0..6).map(move |column| (row, column))) {
                let outputs: Vec<f64> = (0..n)
                    .map(|out| {
                        let tap = |at: usize| {
                            let (channel, i, j) = (at / 6, at / 3 % 2, at % 3);
                            image[(channel * height + row + i) * width + column + j]
                        };
                        (0..n).map(|at| f64::from(weights[out * n + at]) * f64::from(tap(at))).sum()
                    })
                    .collect();
                (0..n * n).for_each(|at| products[at] += outputs[at / n] * outputs[at % n]);
                patches += 1.0;
            }
        }
        for (at, product) in products.iter().enumerate() {
            let expected = f64::from(u8::from(at / n == at % n));
            assert!((product / patches - expected).abs() < 1e-3, "{at}: {}", product / patches);
        }
        // The negatives follow.
        assert!(weights[..n * n].iter().zip(&weights[n * n..]).all(|(a, b)| *a == -*b));
        // The direction of the largest variance first: its weights are the smallest.
        let norm = |out: usize| weights[out * n..][..n].iter().map(|w| f64::from(w * w)).sum::<f64>();
        assert!((1..n).all(|out| norm(out - 1) < norm(out)));
        assert!((0..n).all(|out| {
            let own = &weights[out * n..][..n];
            own.iter().fold(0.0f32, |most, x| if x.abs() > most.abs() { *x } else { most }) > 0.0
        }));
    }

    #[test]
    fn images_without_contrast_give_finite_weights() {
        for images in [vec![0.0; 3 * 16], vec![1.0; 3 * 16], Vec::new()] {
            let weights = whitening_weights(&images, [3, 4, 4], [2, 2], 5e-4);
            assert_eq!(weights.len(), 24 * 12);
            assert!(weights.iter().all(|w| w.is_finite()));
        }
    }
}
