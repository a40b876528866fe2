//! All parameters in contiguous memory, so that the optimizer is one pass over it.

use crate::optimizer::{Step, clip_factor};
use pointwise_kernels::{Buffer, Isa, OutOfMemory, adam, adamw, average, l2_norm, padded, scale_all, sgd};
use pointwise_recipe::{Group, Recipe};
use std::ops::Range;

/// The values, gradients and optimizer buffers of every parameter, each in the layout of the layer that uses it.
///
/// Layouts pad with zeros whose gradients are zero: every optimizer leaves them zero.
#[derive(Debug)]
pub(super) struct Parameters {
    len: usize,
    pub(super) values: Buffer,
    pub(super) gradients: Buffer,
    /// The optimizer's buffers, in the order of [`Optimizer::buffers`](pointwise_recipe::Optimizer::buffers).
    pub(super) buffers: Vec<Buffer>,
    /// The moving average of the values, or the slow ones of `lookahead`; `None` without either.
    pub(super) average: Option<Buffer>,
    /// Contiguous parameters of one group.
    groups: Vec<(Range<usize>, Group)>,
}

impl Parameters {
    /// No places yet, but all the buffers that training by the recipe needs.
    pub(super) fn new(recipe: &Recipe) -> Self {
        Self {
            len: 0,
            values: Buffer::empty(),
            gradients: Buffer::empty(),
            buffers: recipe.optimizer.buffers().iter().map(|_| Buffer::empty()).collect(),
            average: recipe.averages().then(Buffer::empty),
            groups: Vec::new(),
        }
    }

    /// Assigns a place for `len` floats, on a cache-line boundary.
    pub(super) fn place(&mut self, len: usize) -> Range<usize> {
        let start = self.len;
        self.len += padded(len);
        start..start + len
    }

    /// Sets the group of each place, in the order in which the places were assigned.
    pub(super) fn set_groups(&mut self, groups: impl Iterator<Item = (Range<usize>, Group)>) {
        self.groups.clear();
        for (place, group) in groups {
            let whole = place.start..place.start + padded(place.len());
            match self.groups.last_mut() {
                Some((range, last)) if *last == group && range.end == whole.start => range.end = whole.end,
                _ => self.groups.push((whole, group)),
            }
        }
    }

    /// Allocates all places, zeroed.
    pub(super) fn allocate(&mut self) -> Result<(), OutOfMemory> {
        let len = self.len;
        let own = [&mut self.values, &mut self.gradients].into_iter();
        for buffer in own.chain(&mut self.buffers).chain(&mut self.average) {
            *buffer = Buffer::try_new(len)?;
        }
        Ok(())
    }

    /// The number of buffers that hold all places: values, gradients, the optimizer's, the average.
    pub(super) fn arenas(&self) -> usize {
        2 + self.buffers.len() + usize::from(self.average.is_some())
    }

    /// Bytes of all places.
    pub(super) fn bytes(&self) -> usize {
        self.arenas() * Buffer::bytes_of(self.len)
    }

    /// Takes a step; `constants` returns the constants of a group, `None` for a frozen one.
    pub(super) fn step(&mut self, isa: Isa, constants: impl Fn(Group) -> Option<Step>) {
        let Self { values, gradients, buffers, groups, .. } = self;
        for (range, group) in groups {
            let Some(step) = constants(*group) else { continue };
            let (values, gradients) = (&mut values[range.clone()], &gradients[range.clone()]);
            match (step, &mut buffers[..]) {
                (Step::Adam(step), [first, second]) => {
                    adam(isa, step, values, gradients, &mut first[range.clone()], &mut second[range.clone()]);
                }
                (Step::AdamW(step), [first, second]) => {
                    adamw(
                        isa,
                        step,
                        values,
                        gradients,
                        &mut first[range.clone()],
                        &mut second[range.clone()],
                    );
                }
                (Step::Sgd(step), [buffer]) => sgd(isa, step, values, gradients, &mut buffer[range.clone()]),
                // Lists every optimizer, so that the compiler reports a new one as missing.
                (step @ (Step::Adam(_) | Step::AdamW(_) | Step::Sgd(_)), buffers) => {
                    unreachable!("{} buffers for {step:?}", buffers.len())
                }
            }
        }
    }

    /// The norm of all gradients. Those of padding are zero.
    pub(super) fn gradient_norm(&self, isa: Isa) -> f64 {
        l2_norm(isa, &self.gradients)
    }

    /// Scales gradients of this norm down so that it is at most `most`.
    pub(super) fn clip(&mut self, isa: Isa, norm: f64, most: f64) {
        let factor = clip_factor(norm, most) as f32;
        if factor < 1.0 {
            scale_all(isa, factor, &mut self.gradients);
        }
    }

    /// Updates the average after a step; after the first step it equals the values.
    pub(super) fn take_average(&mut self, isa: Isa, decay: f64, is_first: bool) {
        let Some(target) = &mut self.average else { return };
        match is_first {
            true => target.copy_from_slice(&self.values),
            false => average(isa, decay, &self.values, target),
        }
    }

    /// Averages the values into the slow ones, and sets the values to the result.
    pub(super) fn lookahead(&mut self, isa: Isa, decay: f64) {
        let Some(slow) = &mut self.average else { return };
        average(isa, decay, &self.values, slow);
        self.values.copy_from_slice(slow);
    }
}
