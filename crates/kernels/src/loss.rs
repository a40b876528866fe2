//! Softmax cross-entropy.

/// Mean over rows of the cross-entropy of softmax against the label, in nats, and its gradient; in `f64` inside.
///
/// A share of `smoothing`, in `[0, 1)`, of each label is spread evenly over all classes (Szegedy et al. 2016, arXiv:1512.00567), as in
/// `torch.nn.CrossEntropyLoss(label_smoothing=...)`: with `nll(class) = ln(sum(exp(logits))) - logits[class]` the loss of a row is
/// `(1 - smoothing) * nll(label)` and `smoothing` times the mean of `nll` over the classes.
///
/// `logits` and `gradient` are rows of `stride` floats of which the first `classes` count; the gradient of the others is zero.
///
/// # Panics
/// When a label is not below `classes`, or a slice is too short for the labels.
pub fn softmax_cross_entropy(
    logits: &[f32],
    stride: usize,
    classes: usize,
    labels: &[u16],
    smoothing: f64,
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
        let nll = f64::ln(sum) + f64::from(largest) - f64::from(logits[label]);
        // Apart, because a logit of minus infinity makes the mean infinite.
        total += if smoothing == 0.0 {
            nll
        } else {
            let mean = logits.iter().map(|logit| f64::from(*logit)).sum::<f64>() / classes as f64;
            (1.0 - smoothing) * nll + smoothing * (f64::ln(sum) + f64::from(largest) - mean)
        };
        if let Some(gradient) = &mut gradient {
            let gradient = &mut gradient[row * stride..(row + 1) * stride];
            gradient[classes..].fill(0.0);
            for (class, (gradient, weight)) in gradient.iter_mut().zip(&weights).enumerate() {
                let own = if class == label { 1.0 - smoothing } else { 0.0 };
                let target = own + smoothing / classes as f64;
                *gradient = ((weight / sum - target) / rows) as f32;
            }
        }
    }
    total / rows
}
