//! Convolutions of any kernel, stride and padding by gathering patches a channel at a time: the first layer, whose few channels are not
//! worth a transform, and whatever the other methods do not cover.

use crate::algorithm::{Algorithm, Backward, Output, Source, Weights};
use crate::gemm::{PANEL, Product, transpose_panels};
use crate::memory::Shared;
use crate::parallel::for_each;
use crate::shape::{ConvShape, inside, padded};
use crate::simd::Isa;
use crate::sums::{GROUP, partial_len, sum_over_groups};
use crate::workspace::{Workspace, WorkspaceNeed, aligned, carve};

pub(crate) struct Im2col {
    isa: Isa,
    shape: ConvShape,
    inputs: usize,
    outputs: usize,
    /// Values of a patch, `(in, tap)`, and their padded number.
    patch: usize,
    patch_rows: usize,
}

impl Im2col {
    pub(crate) fn new(isa: Isa, shape: ConvShape) -> Self {
        let patch = shape.in_channels * shape.taps();
        Self {
            isa,
            shape,
            inputs: padded(shape.in_channels),
            outputs: padded(shape.out_channels),
            patch,
            patch_rows: padded(patch),
        }
    }

    /// The patches of an image as `[in][tap][pixel]`; `planes` is room for the image as `[in][row][column]`.
    fn gather(&self, image: &[f32], planes: &mut [f32], patches: &mut [f32]) {
        let ConvShape { height, width, in_channels, kernel, stride, .. } = self.shape;
        let (rows, columns) = self.shape.stored_map();
        let padding = self.shape.stored_padding();
        for (channel, plane) in planes.chunks_exact_mut(height * width).take(in_channels).enumerate() {
            for (target, pixel) in plane.iter_mut().zip(image.chunks_exact(self.inputs)) {
                *target = pixel[channel];
            }
        }
        for (at, patch) in patches.chunks_exact_mut(rows * columns).take(self.patch).enumerate() {
            let (channel, dy, dx) =
                (at / (kernel[0] * kernel[1]), at / kernel[1] % kernel[0], at % kernel[1]);
            let plane = &planes[channel * height * width..(channel + 1) * height * width];
            let inside_rows = inside(height, rows, stride[0], padding[0], dy);
            let inside_columns = inside(width, columns, stride[1], padding[1], dx);
            for (row, target) in patch.chunks_exact_mut(columns).enumerate() {
                target.fill(0.0);
                if inside_rows.contains(&row) && !inside_columns.is_empty() {
                    let y = row * stride[0] + dy - padding[0];
                    let from = y * width + inside_columns.start * stride[1] + dx - padding[1];
                    let target = &mut target[inside_columns.clone()];
                    if stride[1] == 1 {
                        target.copy_from_slice(&plane[from..from + target.len()]);
                    } else {
                        for (target, x) in target.iter_mut().zip(plane[from..].iter().step_by(stride[1])) {
                            *target = *x;
                        }
                    }
                }
            }
        }
    }

    /// Adds patches `[pixel][in, tap]` to the image that they would be gathered from.
    fn scatter(&self, patches: &[f32], image: &mut [f32]) {
        let ConvShape { height, width, kernel, stride, .. } = self.shape;
        let (_, columns) = self.shape.stored_map();
        let padding = self.shape.stored_padding();
        for (pixel, patch) in patches.chunks_exact(self.patch_rows).enumerate() {
            let (row, column) = (pixel / columns * stride[0], pixel % columns * stride[1]);
            for (at, x) in patch[..self.patch].iter().enumerate() {
                let (channel, dy, dx) =
                    (at / (kernel[0] * kernel[1]), at / kernel[1] % kernel[0], at % kernel[1]);
                let (y, x_at) = (row + dy, column + dx);
                if (padding[0]..height + padding[0]).contains(&y)
                    && (padding[1]..width + padding[1]).contains(&x_at)
                {
                    let at = (y - padding[0]) * width + x_at - padding[1];
                    image[at * self.inputs + channel] += x;
                }
            }
        }
    }

    /// Parts of a worker's memory: image, planes, patches, gradient of the output.
    fn parts(&self) -> [usize; 4] {
        let planes = self.shape.height * self.shape.width * self.shape.in_channels;
        [
            aligned(self.shape.input_len()),
            aligned(planes),
            aligned(self.patch_rows * self.shape.stored_pixels()),
            aligned(self.shape.output_len()),
        ]
    }
}

impl Algorithm for Im2col {
    fn weight_len(&self) -> usize {
        self.patch_rows * self.outputs
    }

    /// `[out / 16][in, tap][16]`
    fn weight_index(&self, out: usize, input: usize, tap: usize) -> usize {
        let row = input * self.shape.taps() + tap;
        (out / PANEL * self.patch_rows + row) * PANEL + out % PANEL
    }

    fn panel_rows(&self) -> usize {
        self.patch_rows
    }

    fn need(&self, batch: usize) -> WorkspaceNeed {
        WorkspaceNeed {
            shared: self.weight_len() + partial_len(batch, GROUP, self.weight_len()),
            worker: self.parts().iter().sum(),
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
        let (input_len, output_len) = (self.shape.input_len(), self.shape.output_len());
        let pixels = self.shape.stored_pixels();
        let values = Shared::new(output.values);
        for_each(images, &mut workspace.workers, |memory, image| {
            let [input, planes, patches, _] = carve(memory, self.parts());
            source(image, &mut input[..input_len]);
            self.gather(&input[..input_len], planes, patches);
            // SAFETY: every image belongs to one task.
            let target = unsafe { values.part(image * output_len..(image + 1) * output_len) };
            let product = Product::<true> {
                m: pixels,
                n: self.outputs,
                k: self.patch,
                a: patches.as_ptr(),
                lda: pixels,
                b: weights.as_ptr(),
                ldb: PANEL,
                b_panel: self.patch_rows * PANEL,
                c: target.as_mut_ptr(),
                ldc: self.outputs,
                c_panel: PANEL,
                accumulate: false,
            };
            // SAFETY: `patch` rows of pixels, and an image of the output.
            unsafe { product.run_on(self.isa) };
            (output.finished)(image, target);
        });
    }

    fn backward(&self, weights: &[f32], gradient: Backward<'_>, workspace: &mut Workspace) {
        let Backward { images, input, output_gradient, input_gradient, weight_gradient } = gradient;
        let [turned, partial] =
            carve(&mut workspace.shared, [self.weight_len(), partial_len(images, GROUP, self.weight_len())]);
        if input_gradient.is_some() {
            transpose_panels(1, self.patch_rows, self.outputs, weights, turned);
        }
        let turned = &*turned;
        let workers = &mut workspace.workers;
        let (input_len, output_len) = (self.shape.input_len(), self.shape.output_len());
        let pixels = self.shape.stored_pixels();
        let add = input_gradient.as_ref().is_some_and(|gradient| gradient.add);
        let input_gradient = input_gradient.map(|gradient| (Shared::new(gradient.values), gradient.finished));
        sum_over_groups(images, GROUP, partial, weight_gradient, |groups, partial| {
            // The rows beyond the patch's values have no gradient.
            partial.fill(0.0);
            let partial = Shared::new(partial);
            for_each(groups.len(), workers, |memory, slot| {
                let group = groups.start + slot;
                let [image, planes, patches, gradients] = carve(memory, self.parts());
                // SAFETY: every group has its own sums.
                let sums = unsafe { partial.part(slot * self.weight_len()..(slot + 1) * self.weight_len()) };
                for i in group * GROUP..images.min((group + 1) * GROUP) {
                    input(i, &mut image[..input_len]);
                    self.gather(&image[..input_len], planes, patches);
                    output_gradient(i, &mut gradients[..output_len]);
                    let product = Product::<false> {
                        m: self.patch,
                        n: self.outputs,
                        k: pixels,
                        a: patches.as_ptr(),
                        lda: pixels,
                        b: gradients.as_ptr(),
                        ldb: self.outputs,
                        b_panel: PANEL,
                        c: sums.as_mut_ptr(),
                        ldc: PANEL,
                        c_panel: self.patch_rows * PANEL,
                        accumulate: true,
                    };
                    // SAFETY: `patch` rows of pixels, and pixels of the gradient.
                    unsafe { product.run_on(self.isa) };
                    if let Some((values, finished)) = &input_gradient {
                        let product = Product::<false> {
                            m: pixels,
                            n: self.patch_rows,
                            k: self.outputs,
                            a: gradients.as_ptr(),
                            lda: self.outputs,
                            b: turned.as_ptr(),
                            ldb: PANEL,
                            b_panel: self.outputs * PANEL,
                            c: patches.as_mut_ptr(),
                            ldc: self.patch_rows,
                            c_panel: PANEL,
                            accumulate: false,
                        };
                        // SAFETY: pixels of the gradient and of the patches.
                        unsafe { product.run_on(self.isa) };
                        // SAFETY: every image belongs to one task.
                        let target = unsafe { values.part(i * input_len..(i + 1) * input_len) };
                        if !add {
                            target.fill(0.0);
                        }
                        self.scatter(&patches[..pixels * self.patch_rows], target);
                        finished(i, target);
                    }
                }
            });
        });
    }
}
