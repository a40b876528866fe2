//! Where the pixels of a channels-last image lie in a planar one.

use pointwise_kernels::{padded, to_channels_last, to_planar};
use std::ops::Range;

/// Pixel `(i, j)` of a channels-last image `(rows, columns, padded channels)` is pixel `step * (i, j) + offset` of a planar one,
/// `(channels, rows, columns)`, if it exists there. Pairs are of rows and columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lattice {
    pub(crate) channels: usize,
    /// Sides of the channels-last image.
    pub(crate) map: [usize; 2],
    /// Sides of the planar image.
    pub(crate) planar: [usize; 2],
    pub(crate) step: [usize; 2],
    pub(crate) offset: [isize; 2],
}

impl Lattice {
    /// Whether every pixel of the one image is the same pixel of the other.
    fn is_whole(&self) -> bool {
        self.map == self.planar && self.step == [1, 1] && self.offset == [0, 0]
    }

    /// The rows or columns of the channels-last image that the planar one has.
    fn inside(&self, axis: usize) -> Range<usize> {
        let (step, offset) = (self.step[axis] as isize, self.offset[axis]);
        // The first `i` with `step * i + offset >= limit`.
        let from = |limit: isize| (limit - offset).max(0) as usize;
        let first = from(0).div_ceil(step as usize).min(self.map[axis]);
        let end = from(self.planar[axis] as isize).div_ceil(step as usize).clamp(first, self.map[axis]);
        first..end
    }

    /// Calls `visit` with each channel's places in the planar and in the channels-last image.
    fn each(&self, mut visit: impl FnMut(usize, usize)) {
        let [rows, columns] = [self.inside(0), self.inside(1)];
        let place = |axis: usize, i: usize| (self.step[axis] * i).wrapping_add_signed(self.offset[axis]);
        let stride = padded(self.channels);
        for channel in 0..self.channels {
            for row in rows.clone() {
                let planar = (channel * self.planar[0] + place(0, row)) * self.planar[1];
                for column in columns.clone() {
                    visit(planar + place(1, column), (row * self.map[1] + column) * stride + channel);
                }
            }
        }
    }

    /// Fills a channels-last image, with zeros where the planar one has no pixel.
    pub(crate) fn gather(&self, planar: &[f32], image: &mut [f32]) {
        if self.is_whole() {
            return to_channels_last(planar, self.channels, image);
        }
        image.fill(0.0);
        self.each(|from, to| image[to] = planar[from]);
    }

    /// Writes those pixels of a channels-last image that the planar one has.
    pub(crate) fn scatter(&self, image: &[f32], planar: &mut [f32]) {
        if self.is_whole() {
            return to_planar(image, self.channels, planar);
        }
        self.each(|to, from| planar[to] = image[from]);
    }
}
