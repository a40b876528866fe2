//! Softmax cross-entropy.

/// Mean over rows of `ln(sum(exp(logits))) - logits[label]`, in nats, and its gradient; in `f64` inside.
///
/// `logits` and `gradient` are rows of `stride` floats of which the first `classes` count; the gradient of the others is zero.
///
/// # Panics
/// When a label is not below `classes`, or a slice is shorter than the labels say.
pub fn softmax_cross_entropy(
    logits: &[f32],
    stride: usize,
    classes: usize,
    labels: &[u8],
    mut gradient: Option<&mut [f32]>,
) -> f64 {
    let rows = labels.len() as f64;
    let mut total = 0.0;
    let mut weights = vec![0.0; classes];
    for (row, label) in labels.iter().map(|label| usize::from(*label)).enumerate() {
        let logits = &logits[row * stride..][..classes];
        let largest = logits.iter().fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a });
        let mut sum = 0.0;
        for (weight, logit) in weights.iter_mut().zip(logits) {
            *weight = (f64::from(*logit) - f64::from(largest)).exp();
            sum += *weight;
        }
        total += f64::ln(sum) + f64::from(largest) - f64::from(logits[label]);
        if let Some(gradient) = &mut gradient {
            let gradient = &mut gradient[row * stride..(row + 1) * stride];
            gradient[classes..].fill(0.0);
            for (class, (gradient, weight)) in gradient.iter_mut().zip(&weights).enumerate() {
                let target = f64::from(u8::from(class == label));
                *gradient = ((weight / sum - target) / rows) as f32;
            }
        }
    }
    total / rows
}
