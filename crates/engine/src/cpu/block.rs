//! A convolution or linear layer and what follows it.

use super::parameters::Parameters;
use pointwise_kernels::{
    Activation, Affine, BatchStatistics, Buffer, Convolution, Epilogue, GradientAffine, InputGradient, Isa,
    MOMENT_ROWS, OutOfMemory, Source, Weights, Workspace, elementwise, image_moments,
};
use pointwise_network::NormLayer;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Convolution, then BatchNorm or bias, then ReLU, then pooling; each may be missing.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) isa: Isa,
    pub(super) convolution: Option<Weighted>,
    pub(super) norm: Option<Norm>,
    pub(super) epilogue: Epilogue,
    /// The convolution's results without bias, `(N, rows, columns, channels)`; empty if they are another node's output.
    pub(super) results: Buffer,
    /// The node whose stored output is the input of a block without a convolution.
    pub(super) results_of: Option<usize>,
    /// The range of its weights, [`Block::kept_len`] floats, among those that evaluation keeps.
    pub(super) kept: Range<usize>,
    /// Scale and shift of the output: from BatchNorm, with the batch's statistics in training and the running ones in evaluation, or from
    /// the bias.
    scale: Vec<f32>,
    shift: Vec<f32>,
    /// The batch's mean, which centres the sums of BatchNorm's gradient.
    center: Vec<f32>,
    /// Each image's share of the batch's statistics and of the gradient's sums. (Each lock is taken once per pass.)
    moments: Vec<Mutex<Vec<f32>>>,
    sums: Vec<Mutex<Vec<f32>>>,
    statistics: BatchStatistics,
    /// Whether scale, shift and the weights kept for evaluation are up to date with the current parameters.
    is_folded: bool,
    /// Whether the results are read only once, by the next stage, so that all such blocks can share one buffer.
    pub(super) is_passing: bool,
}

/// The input of a block in a pass.
#[derive(Clone, Copy)]
pub(super) struct BlockInput<'a> {
    /// Number of images.
    pub(super) images: usize,
    pub(super) source: Source<'a>,
    /// The stored output of the node [`Block::results_of`], if there is one.
    pub(super) others: Option<&'a [f32]>,
}

/// A convolution and the location of its parameters.
#[derive(Debug)]
pub(super) struct Weighted {
    pub(super) convolution: Arc<Convolution>,
    pub(super) weight: Range<usize>,
    /// `None` without a bias.
    pub(super) bias: Option<Range<usize>>,
}

impl Weighted {
    /// The bias of a padded channel, 0 if there is none.
    fn bias(&self, parameters: &Parameters, channel: usize) -> f32 {
        self.bias.as_ref().map_or(0.0, |bias| parameters.values[bias.start + channel])
    }
}

/// BatchNorm's parameters and running statistics.
#[derive(Debug)]
pub(super) struct Norm {
    pub(super) layer: NormLayer,
    pub(super) weight: Option<Range<usize>>,
    pub(super) bias: Option<Range<usize>>,
    pub(super) running_mean: Vec<f32>,
    pub(super) running_var: Vec<f32>,
    pub(super) batches_tracked: i64,
}

impl Norm {
    /// The weight of a padded channel, 1 if there is none.
    fn weight(&self, parameters: &Parameters, channel: usize) -> f64 {
        match &self.weight {
            Some(weight) => f64::from(parameters.values[weight.start + channel]),
            // Padding channels stay zero.
            None => f64::from(u8::from(channel < self.layer.channels)),
        }
    }

    /// The bias of a padded channel, 0 if there is none.
    fn bias(&self, parameters: &Parameters, channel: usize) -> f64 {
        self.bias.as_ref().map_or(0.0, |bias| f64::from(parameters.values[bias.start + channel]))
    }
}

/// A slot is always written as a whole, so a panic elsewhere leaves nothing half-written in it.
fn lock(slot: &Mutex<Vec<f32>>) -> MutexGuard<'_, Vec<f32>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Block {
    pub(super) fn new(
        isa: Isa,
        convolution: Option<Weighted>,
        norm: Option<Norm>,
        epilogue: Epilogue,
        results_of: Option<usize>,
    ) -> Self {
        let channels = epilogue.shape().padded_channels();
        Self {
            isa,
            convolution,
            norm,
            epilogue,
            results: Buffer::empty(),
            results_of,
            kept: 0..0,
            scale: vec![1.0; channels],
            shift: vec![0.0; channels],
            center: vec![0.0; channels],
            moments: Vec::new(),
            sums: Vec::new(),
            statistics: BatchStatistics::default(),
            is_folded: false,
            is_passing: false,
        }
    }

    /// Allocates the buffers for a batch.
    pub(super) fn reserve(&mut self, batch: usize) -> Result<(), OutOfMemory> {
        let shape = *self.epilogue.shape();
        self.results = Buffer::try_new(batch * self.own_results())?;
        let slots =
            |rows: usize| (0..batch).map(|_| Mutex::new(vec![0.0; rows * shape.padded_channels()])).collect();
        self.moments = slots(MOMENT_ROWS);
        self.sums = slots(2);
        Ok(())
    }

    /// Frees the buffers for a batch.
    pub(super) fn release(&mut self) {
        self.results = Buffer::empty();
        self.moments = Vec::new();
        self.sums = Vec::new();
    }

    /// Floats of an image's results in the block's own memory.
    fn own_results(&self) -> usize {
        if self.results_of.is_some() || self.is_passing { 0 } else { self.epilogue.shape().input_len() }
    }

    /// Whether at most a bias follows the convolution: the backward pass then needs no results.
    pub(super) fn is_plain(&self) -> bool {
        let shape = self.epilogue.shape();
        let nothing = shape.activation == Activation::Identity && !shape.pool && shape.border == 0;
        self.convolution.is_some() && self.norm.is_none() && nothing
    }

    /// Floats of the weights that evaluation keeps in another form: transformed, or with BatchNorm's scale in them.
    pub(super) fn kept_len(&self) -> usize {
        let Some(Weighted { convolution, .. }) = &self.convolution else { return 0 };
        let folded = self.norm.as_ref().map(|_| convolution.weight_len());
        convolution.transformed_len().or(folded).unwrap_or(0)
    }

    /// Temporary floats for folding BatchNorm's scale into the weights, before they are transformed.
    pub(super) fn folding_len(&self) -> usize {
        match &self.convolution {
            Some(Weighted { convolution, .. }) if self.norm.is_some() => {
                convolution.transformed_len().map_or(0, |_| convolution.weight_len())
            }
            _ => 0,
        }
    }

    /// Bytes of activations of a batch.
    pub(super) fn bytes(&self, batch: usize) -> usize {
        let slots = (MOMENT_ROWS + 2) * self.epilogue.shape().padded_channels() * size_of::<f32>();
        Buffer::bytes_of(batch.saturating_mul(self.own_results())).saturating_add(batch.saturating_mul(slots))
    }

    pub(super) fn weights_changed(&mut self) {
        self.is_folded = false;
    }

    /// The result of an image, which may lie in `others`, the output of the node [`Block::results_of`].
    fn result<'a>(&'a self, others: Option<&'a [f32]>, image: usize) -> &'a [f32] {
        let len = self.epilogue.shape().input_len();
        &others.unwrap_or(&self.results)[image * len..(image + 1) * len]
    }

    fn affine(&self) -> Affine<'_> {
        Affine { scale: &self.scale, shift: &self.shift }
    }

    /// The output of an image. `others` is the output of the node [`Block::results_of`], here and below.
    pub(super) fn output(&self, others: Option<&[f32]>, image: usize, output: &mut [f32]) {
        self.epilogue.apply(self.affine(), self.result(others, image), output);
    }

    pub(super) fn forward_train(
        &mut self,
        parameters: &Parameters,
        BlockInput { images, source, others }: BlockInput<'_>,
        workspace: &mut Workspace,
    ) {
        let channels = self.epilogue.shape().padded_channels();
        let mut results = std::mem::replace(&mut self.results, Buffer::empty());
        let finished = |image: usize, result: &[f32]| {
            if self.norm.is_some() {
                image_moments(self.isa, channels, result, &mut lock(&self.moments[image]));
            }
        };
        match &mut self.convolution {
            Some(weighted) => {
                let weights = &parameters.values[weighted.weight.clone()];
                let weights = Weights::Plain(weights);
                weighted.convolution.forward(weights, images, source, &mut results, &finished, workspace);
            }
            None => {
                let len = self.epilogue.shape().input_len();
                match others {
                    Some(others) => others[..images * len]
                        .par_chunks_exact(len)
                        .enumerate()
                        .for_each(|(image, result)| finished(image, result)),
                    None => {
                        let finished = |image: usize, result: &mut [f32]| finished(image, result);
                        copy(len, images, source, &mut results, &finished);
                    }
                }
            }
        }
        self.results = results;
        self.is_folded = false;
        self.normalise_batch(parameters, images);
    }

    /// Scale and shift from the batch's statistics, and the update of the running ones.
    fn normalise_batch(&mut self, parameters: &Parameters, images: usize) {
        let shape = *self.epilogue.shape();
        let bias = |channel: usize| match &self.convolution {
            Some(weighted) => weighted.bias(parameters, channel),
            None => 0.0,
        };
        let Some(norm) = &mut self.norm else {
            self.scale.fill(1.0);
            for (channel, shift) in self.shift.iter_mut().enumerate() {
                *shift = bias(channel);
            }
            return;
        };
        let border = shape.map().0 * shape.map().1 - shape.height * shape.width;
        let moments: Vec<_> = self.moments[..images].iter().map(lock).collect();
        let statistics = BatchStatistics::merge(
            shape.padded_channels(),
            shape.height * shape.width,
            border,
            moments.iter().map(|moments| moments.as_slice()),
        );
        let unbiased = statistics.count / (statistics.count - 1.0);
        for channel in 0..shape.padded_channels() {
            let (mean, variance) = (statistics.mean[channel], statistics.variance[channel]);
            let scale = norm.weight(parameters, channel) / (variance + norm.layer.eps).sqrt();
            self.scale[channel] = scale as f32;
            self.shift[channel] = (norm.bias(parameters, channel) - mean * scale) as f32;
            self.center[channel] = mean as f32;
            let momentum = norm.layer.momentum;
            let update = |running: &mut f32, new: f64| {
                let old = f64::from(*running);
                *running = (old + momentum * (new - old)) as f32;
            };
            // The stored results lack the bias, which BatchNorm cancels everywhere except here.
            update(&mut norm.running_mean[channel], mean + f64::from(bias(channel)));
            update(&mut norm.running_var[channel], variance * unbiased);
        }
        norm.batches_tracked += 1;
        self.statistics = statistics;
    }

    /// Forward pass with BatchNorm's running statistics: its scale is folded into the weights, its shift and the bias into one.
    ///
    /// `kept` has [`Block::kept_len`] floats, which nothing else changes until the weights change, and `folding` at least
    /// [`Block::folding_len`].
    pub(super) fn forward_evaluate(
        &mut self,
        parameters: &Parameters,
        BlockInput { images, source, others }: BlockInput<'_>,
        kept: &mut [f32],
        folding: &mut [f32],
        workspace: &mut Workspace,
    ) {
        if !self.is_folded {
            self.fold(parameters, kept, folding);
            self.is_folded = true;
        }
        let finished = |_: usize, _: &[f32]| ();
        match &self.convolution {
            Some(Weighted { convolution, weight, .. }) => {
                let weights = match (kept.is_empty(), convolution.transformed_len()) {
                    (true, _) => Weights::Plain(&parameters.values[weight.clone()]),
                    (false, None) => Weights::Plain(kept),
                    (false, Some(_)) => Weights::Transformed(kept),
                };
                convolution.forward(weights, images, source, &mut self.results, &finished, workspace);
            }
            None if others.is_some() => {}
            None => copy(self.epilogue.shape().input_len(), images, source, &mut self.results, &|_, _| ()),
        }
    }

    /// See [`Block::forward_evaluate`].
    fn fold(&mut self, parameters: &Parameters, kept: &mut [f32], folding: &mut [f32]) {
        for channel in 0..self.scale.len() {
            let bias = match &self.convolution {
                Some(weighted) => f64::from(weighted.bias(parameters, channel)),
                None => 0.0,
            };
            let (scale, shift) = match &self.norm {
                Some(norm) => {
                    let variance = f64::from(norm.running_var[channel]);
                    let scale = norm.weight(parameters, channel) / (variance + norm.layer.eps).sqrt();
                    let mean = f64::from(norm.running_mean[channel]);
                    (scale, norm.bias(parameters, channel) + (bias - mean) * scale)
                }
                None => (1.0, bias),
            };
            (self.scale[channel], self.shift[channel]) = (scale as f32, shift as f32);
        }
        let Some(Weighted { convolution, weight, .. }) = &self.convolution else { return };
        let weights = &parameters.values[weight.clone()];
        let is_transformed = convolution.transformed_len().is_some();
        match (self.norm.is_some(), is_transformed) {
            (false, false) => {}
            (false, true) => convolution.transform(weights, kept),
            (true, false) => convolution.scale_outputs(weights, &self.scale, kept),
            (true, true) => {
                let folded = &mut folding[..weights.len()];
                convolution.scale_outputs(weights, &self.scale, folded);
                convolution.transform(folded, kept);
            }
        }
        if self.norm.is_some() {
            self.scale.fill(1.0);
        }
    }

    /// What the backward pass reads as an image's result. If the result is no longer stored, the gradient stands in for it: it is only
    /// multiplied by zero.
    fn result_or<'a>(&'a self, others: Option<&'a [f32]>, image: usize, gradient: &'a [f32]) -> &'a [f32] {
        if self.is_passing { gradient } else { self.result(others, image) }
    }

    /// Computes an image's share of the gradient's sums, once the gradient of its output is known.
    pub(super) fn gradient_finished(&self, others: Option<&[f32]>, image: usize, gradient: &[f32]) {
        let mut sums = lock(&self.sums[image]);
        sums.fill(0.0);
        let result = self.result_or(others, image, gradient);
        self.epilogue.reduce(self.affine(), &self.center, result, gradient, &mut sums);
    }

    /// Gradients of the parameters, and of the input if requested. `gradient` is the output's, one image after the other, each already
    /// passed to [`Block::gradient_finished`].
    pub(super) fn backward(
        &mut self,
        parameters: &mut Parameters,
        BlockInput { images, source, others }: BlockInput<'_>,
        gradient: &[f32],
        input_gradient: Option<InputGradient<'_>>,
        workspace: &mut Workspace,
    ) {
        let [a, b, c] = self.gradient_affine(parameters, images);
        let back = GradientAffine { a: &a, b: &b, c: &c };
        let len = self.epilogue.shape().output_len();
        let output_gradient = |image: usize, dy: &mut [f32]| {
            let gradient = &gradient[image * len..(image + 1) * len];
            self.epilogue.backward(
                self.affine(),
                back,
                self.result_or(others, image, gradient),
                gradient,
                dy,
            );
        };
        match &self.convolution {
            Some(Weighted { convolution, weight, .. }) => convolution.backward(
                &parameters.values[weight.clone()],
                images,
                source,
                &output_gradient,
                input_gradient,
                &mut parameters.gradients[weight.clone()],
                workspace,
            ),
            None => {
                if let Some(InputGradient { values, add, finished }) = input_gradient {
                    let len = self.epilogue.shape().input_len();
                    if add {
                        let image_of = || vec![0.0; len];
                        values[..images * len].par_chunks_exact_mut(len).enumerate().for_each_init(
                            image_of,
                            |own, (image, target)| {
                                output_gradient(image, own);
                                elementwise::add_assign(self.isa, target, own);
                                finished(image, target);
                            },
                        );
                    } else {
                        copy(len, images, &output_gradient, values, finished);
                    }
                }
            }
        }
    }

    /// The gradient of the results as `a * dz + b * y + c`, and the gradients of BatchNorm's parameters or of the bias.
    ///
    /// With `s` and `q` the sums over the `n` values of a channel of `dz` and of `dz * (y - mean)`, and `r = 1 / sqrt(variance + eps)`:
    /// `dy = weight * r * (dz - s / n - (y - mean) * r^2 * q / n)`.
    fn gradient_affine(&mut self, parameters: &mut Parameters, images: usize) -> [Vec<f32>; 3] {
        let channels = self.scale.len();
        let mut sums = vec![0.0; 2 * channels];
        for slot in &self.sums[..images] {
            for (sum, x) in sums.iter_mut().zip(&*lock(slot)) {
                *sum += f64::from(*x);
            }
        }
        let (mut a, mut b, mut c) = (vec![1.0; channels], vec![0.0; channels], vec![0.0; channels]);
        for channel in 0..channels {
            let (s, q) = (sums[channel], sums[channels + channel]);
            match &self.norm {
                Some(norm) => {
                    let (n, mean) = (self.statistics.count, self.statistics.mean[channel]);
                    let root = 1.0 / (self.statistics.variance[channel] + norm.layer.eps).sqrt();
                    let scale = norm.weight(parameters, channel) * root;
                    let slope = -scale * root * root * q / n;
                    a[channel] = scale as f32;
                    b[channel] = slope as f32;
                    c[channel] = (-scale * s / n - slope * mean) as f32;
                    if let Some(weight) = &norm.weight {
                        parameters.gradients[weight.start + channel] = (q * root) as f32;
                    }
                    if let Some(bias) = &norm.bias {
                        parameters.gradients[bias.start + channel] = s as f32;
                    }
                }
                None => {
                    if let Some(Weighted { bias: Some(bias), .. }) = &self.convolution {
                        parameters.gradients[bias.start + channel] = s as f32;
                    }
                }
            }
        }
        [a, b, c]
    }
}

/// A block without a convolution: its results are its input.
fn copy(
    len: usize,
    images: usize,
    source: Source<'_>,
    target: &mut [f32],
    finished: &(dyn Fn(usize, &mut [f32]) + Sync),
) {
    target[..images * len].par_chunks_exact_mut(len).enumerate().for_each(|(image, target)| {
        source(image, target);
        finished(image, target);
    });
}
