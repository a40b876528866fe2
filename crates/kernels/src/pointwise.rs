//! 1x1 convolutions, and linear layers, which are 1x1 convolutions of 1x1 maps: matrix products over the pixels.
//!
//! Padding adds a border to the output in which every product is zero. It is not stored, and since its input is zero and the input drops
//! its gradient, it enters neither gradient: all three passes run over the inner map only.
//!
//! With a stride, the product runs over the sampled pixels. They are compacted as soon as an image is available; the gradient of the input
//! is zero between them.

use crate::algorithm::{Algorithm, Backward, Output, Source, Weights};
use crate::elementwise::add_assign;
use crate::gemm::{PANEL, Product, TransposedProduct, transpose_panels};
use crate::memory::Shared;
use crate::parallel::{for_each, for_each_task};
use crate::shape::{ConvShape, padded};
use crate::simd::Isa;
use crate::sums::{GROUP, partial_len, sum_over_groups};
use crate::workspace::{Workspace, WorkspaceNeed, aligned, carve};

/// Rows that one product of a gradient should have: with fewer, the sums are read and written too often.
const ROWS: usize = 256;

pub(crate) struct Pointwise {
    isa: Isa,
    shape: ConvShape,
    inputs: usize,
    outputs: usize,
}

impl Pointwise {
    pub(crate) fn new(isa: Isa, shape: ConvShape) -> Self {
        Self { isa, shape, inputs: padded(shape.in_channels), outputs: padded(shape.out_channels) }
    }

    /// Pixels that the product runs over.
    fn pixels(&self) -> usize {
        self.shape.stored_pixels()
    }

    /// Whether it is a linear layer: the work is divided by columns, as there may be more columns than images.
    fn is_linear(&self) -> bool {
        self.shape.height * self.shape.width == 1
    }

    /// Floats of an image's pixels that the product runs over.
    fn sampled_len(&self) -> usize {
        self.pixels() * self.inputs
    }

    /// The offsets of the sampled pixels in an image, in order.
    fn samples(&self) -> impl Iterator<Item = usize> + use<> {
        let (rows, columns) = self.shape.stored_map();
        let ([down, across], width, inputs) = (self.shape.stride, self.shape.width, self.inputs);
        (0..rows).flat_map(move |row| {
            (0..columns).map(move |column| (row * down * width + column * across) * inputs)
        })
    }

    /// Compacts the sampled pixels of an image at its beginning.
    fn sample(&self, image: &mut [f32]) {
        if self.shape.stride != [1, 1] {
            for (pixel, from) in self.samples().enumerate() {
                image.copy_within(from..from + self.inputs, pixel * self.inputs);
            }
        }
    }

    /// Adds the sampled pixels to those of an image: the adjoint of [`Pointwise::sample`].
    fn spread(&self, pixels: &[f32], image: &mut [f32]) {
        for (pixel, to) in pixels.chunks_exact(self.inputs).zip(self.samples()) {
            add_assign(self.isa, &mut image[to..to + self.inputs], pixel);
        }
    }

    /// Floats for the sampled pixels of `images` images, which are sampled one after the other.
    fn rows_len(&self, images: usize) -> usize {
        aligned((images - 1) * self.sampled_len() + self.shape.input_len())
    }

    /// Images of a [`GROUP`] that go into one product.
    fn run(&self) -> usize {
        ROWS.div_ceil(self.pixels()).clamp(1, GROUP)
    }
}

/// Fills `rows` with images, one after the other.
fn gather(images: usize, len: usize, source: Source<'_>, rows: &mut [f32]) {
    let rows = Shared::new(&mut rows[..images * len]);
    for_each_task(images, |image| {
        // SAFETY: every image belongs to one task.
        source(image, unsafe { rows.part(image * len..(image + 1) * len) });
    });
}

/// Cuts `units` into about four shares for each worker.
fn shares(units: usize, workers: usize) -> usize {
    (4 * workers).min(units).max(1)
}

/// The part of `units` that belongs to a share.
fn share(units: usize, shares: usize, share: usize) -> std::ops::Range<usize> {
    share * units / shares..(share + 1) * units / shares
}

impl Algorithm for Pointwise {
    fn weight_len(&self) -> usize {
        self.inputs * self.outputs
    }

    /// `[out / 16][in][16]`
    fn weight_index(&self, out: usize, input: usize, _: usize) -> usize {
        (out / PANEL * self.inputs + input) * PANEL + out % PANEL
    }

    fn panel_rows(&self) -> usize {
        self.inputs
    }

    fn need(&self, batch: usize) -> WorkspaceNeed {
        if self.is_linear() {
            return WorkspaceNeed {
                shared: self.weight_len() + batch * (self.inputs + self.outputs),
                worker: 0,
            };
        }
        let run = self.run();
        WorkspaceNeed {
            shared: self.weight_len() + partial_len(batch, GROUP, self.weight_len()),
            worker: self.rows_len(run) + aligned(run * self.shape.output_len()),
        }
    }

    fn forward(
        &self,
        weights: Weights<'_>,
        images: usize,
        source: Source<'_>,
        output: Output<'_>,
        workspace: &mut Workspace,
    ) {
        let weights = weights.values();
        let values = Shared::new(output.values);
        if self.is_linear() {
            let rows = &mut workspace.shared[..images * self.inputs];
            gather(images, self.inputs, source, rows);
            let rows = &*rows;
            let panels = self.outputs / PANEL;
            let parts = shares(panels, workspace.workers.len());
            for_each_task(parts, |part| {
                let panels = share(panels, parts, part);
                let product = Product::<false> {
                    m: images,
                    n: panels.len() * PANEL,
                    k: self.inputs,
                    a: rows.as_ptr(),
                    lda: self.inputs,
                    b: weights[panels.start * self.inputs * PANEL..].as_ptr(),
                    ldb: PANEL,
                    b_panel: self.inputs * PANEL,
                    c: values.at(panels.start * PANEL),
                    ldc: self.outputs,
                    c_panel: PANEL,
                    accumulate: false,
                };
                // SAFETY: `images` rows on both sides, and every task has its own columns.
                unsafe { product.run_on(self.isa) };
            });
            for_each_task(images, |image| {
                // SAFETY: every image belongs to one task.
                (output.finished)(image, unsafe {
                    values.part(image * self.outputs..(image + 1) * self.outputs)
                });
            });
            return;
        }
        let (input_len, output_len) = (self.shape.input_len(), self.shape.output_len());
        for_each(images, &mut workspace.workers, |memory, image| {
            let [rows] = carve(memory, [input_len]);
            source(image, rows);
            self.sample(rows);
            // SAFETY: every image belongs to one task.
            let target = unsafe { values.part(image * output_len..(image + 1) * output_len) };
            let product = Product::<false> {
                m: self.pixels(),
                n: self.outputs,
                k: self.inputs,
                a: rows.as_ptr(),
                lda: self.inputs,
                b: weights.as_ptr(),
                ldb: PANEL,
                b_panel: self.inputs * PANEL,
                c: target.as_mut_ptr(),
                ldc: self.outputs,
                c_panel: PANEL,
                accumulate: false,
            };
            // SAFETY: an image of pixels on both sides.
            unsafe { product.run_on(self.isa) };
            (output.finished)(image, target);
        });
    }

    fn backward(&self, weights: &[f32], gradient: Backward<'_>, workspace: &mut Workspace) {
        if self.is_linear() {
            self.backward_linear(weights, gradient, workspace);
        } else {
            self.backward_map(weights, gradient, workspace);
        }
    }
}

impl Pointwise {
    fn backward_map(&self, weights: &[f32], gradient: Backward<'_>, workspace: &mut Workspace) {
        let Backward { images, input, output_gradient, input_gradient, weight_gradient } = gradient;
        let [turned, partial] =
            carve(&mut workspace.shared, [self.weight_len(), partial_len(images, GROUP, self.weight_len())]);
        if input_gradient.is_some() {
            transpose_panels(1, self.inputs, self.outputs, weights, turned);
        }
        let turned = &*turned;
        let workers = &mut workspace.workers;
        let (input_len, output_len) = (self.shape.input_len(), self.shape.output_len());
        let (sampled_len, is_sampled) = (self.sampled_len(), self.shape.stride != [1, 1]);
        let add = input_gradient.as_ref().is_some_and(|gradient| gradient.add);
        let input_gradient = input_gradient.map(|gradient| (Shared::new(gradient.values), gradient.finished));
        let run = self.run();
        sum_over_groups(images, GROUP, partial, weight_gradient, |groups, partial| {
            let partial = Shared::new(partial);
            for_each(groups.len(), workers, |memory, slot| {
                let group = groups.start + slot;
                let [rows, gradients] = carve(memory, [self.rows_len(run), aligned(run * output_len)]);
                let end = images.min((group + 1) * GROUP);
                for first in (group * GROUP..end).step_by(run) {
                    let count = run.min(end - first);
                    for i in 0..count {
                        output_gradient(first + i, &mut gradients[i * output_len..(i + 1) * output_len]);
                        let image = &mut rows[i * sampled_len..i * sampled_len + input_len];
                        input(first + i, image);
                        self.sample(image);
                    }
                    let product = TransposedProduct {
                        m: self.inputs,
                        n: self.outputs,
                        k: count * self.pixels(),
                        a: rows.as_ptr(),
                        lda: self.inputs,
                        b: gradients.as_ptr(),
                        ldb: self.outputs,
                        c: partial.at(slot * self.weight_len()),
                        c_panel: self.inputs * PANEL,
                        accumulate: first > group * GROUP,
                    };
                    partial.at((slot + 1) * self.weight_len());
                    // SAFETY: `count` images of pixels, and every group has its own sums.
                    unsafe { product.run_on(self.isa) };
                    if let Some((values, finished)) = &input_gradient {
                        // SAFETY: every image belongs to one task.
                        let target = unsafe { values.part(first * input_len..(first + count) * input_len) };
                        let product = Product::<false> {
                            m: count * self.pixels(),
                            n: self.inputs,
                            k: self.outputs,
                            a: gradients.as_ptr(),
                            lda: self.outputs,
                            b: turned.as_ptr(),
                            ldb: PANEL,
                            b_panel: self.outputs * PANEL,
                            c: if is_sampled { rows.as_mut_ptr() } else { target.as_mut_ptr() },
                            ldc: self.inputs,
                            c_panel: PANEL,
                            accumulate: add && !is_sampled,
                        };
                        // SAFETY: `count` images of pixels on both sides; the sampled pixels have been read.
                        unsafe { product.run_on(self.isa) };
                        for i in 0..count {
                            let target = &mut target[i * input_len..(i + 1) * input_len];
                            if is_sampled {
                                if !add {
                                    target.fill(0.0);
                                }
                                self.spread(&rows[i * sampled_len..(i + 1) * sampled_len], target);
                            }
                            finished(first + i, target);
                        }
                    }
                }
            });
        });
    }

    fn backward_linear(&self, weights: &[f32], gradient: Backward<'_>, workspace: &mut Workspace) {
        let Backward { images, input, output_gradient, input_gradient, weight_gradient } = gradient;
        let [turned, rows, gradients] =
            carve(&mut workspace.shared, [self.weight_len(), images * self.inputs, images * self.outputs]);
        gather(images, self.inputs, input, rows);
        gather(images, self.outputs, output_gradient, gradients);
        let (rows, gradients) = (&*rows, &*gradients);
        let workers = workspace.workers.len();
        let panels = self.inputs / PANEL;
        let parts = shares(panels, workers);
        let target = Shared::new(weight_gradient);
        for_each_task(parts, |part| {
            let own = share(panels, parts, part);
            let first = own.start * PANEL;
            target.at((self.outputs / PANEL - 1) * self.inputs * PANEL + own.end * PANEL * PANEL);
            let product = TransposedProduct {
                m: own.len() * PANEL,
                n: self.outputs,
                k: images,
                a: rows[first..].as_ptr(),
                lda: self.inputs,
                b: gradients.as_ptr(),
                ldb: self.outputs,
                c: target.at(first * PANEL),
                c_panel: self.inputs * PANEL,
                accumulate: false,
            };
            // SAFETY: every task has its own rows of the gradient.
            unsafe { product.run_on(self.isa) };
        });
        if let Some(input_gradient) = input_gradient {
            transpose_panels(1, self.inputs, self.outputs, weights, turned);
            let turned = &*turned;
            let values = Shared::new(input_gradient.values);
            for_each_task(parts, |part| {
                let own = share(panels, parts, part);
                let product = Product::<false> {
                    m: images,
                    n: own.len() * PANEL,
                    k: self.outputs,
                    a: gradients.as_ptr(),
                    lda: self.outputs,
                    b: turned[own.start * self.outputs * PANEL..].as_ptr(),
                    ldb: PANEL,
                    b_panel: self.outputs * PANEL,
                    c: values.at(own.start * PANEL),
                    ldc: self.inputs,
                    c_panel: PANEL,
                    accumulate: input_gradient.add,
                };
                // SAFETY: `images` rows on both sides, and every task has its own columns.
                unsafe { product.run_on(self.isa) };
            });
            for_each_task(images, |image| {
                // SAFETY: every image belongs to one task.
                let row = unsafe { values.part(image * self.inputs..(image + 1) * self.inputs) };
                (input_gradient.finished)(image, row);
            });
        }
    }
}
