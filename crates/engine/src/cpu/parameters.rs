//! All parameters side by side, so that the optimizer is one pass over memory.

use crate::optimizer::{Step, clip_factor};
use pointwise_kernels::{Buffer, Isa, OutOfMemory, adam, adamw, average, l2_norm, padded, scale_all, sgd};
use pointwise_recipe::{Group, Recipe};
use std::ops::Range;

/// Values and gradients of every parameter, and what the optimizer keeps for it, each in the layout of the layer that uses it.
///
/// Layouts pad with zeros whose gradients are zero: every optimizer leaves them zero.
#[derive(Debug)]
pub(super) struct Parameters {
    len: usize,
    pub(super) values: Buffer,
    pub(super) gradients: Buffer,
    /// The optimizer's, in the order of [`Optimizer::buffers`](pointwise_recipe::Optimizer::buffers).
    pub(super) buffers: Vec<Buffer>,
    /// The moving average of the values, or the slow ones of `lookahead`; `None` without either.
    pub(super) average: Option<Buffer>,
    /// Parameters of one group that lie side by side.
    groups: Vec<(Range<usize>, Group)>,
}

impl Parameters {
    /// No places yet; with what a training by the recipe keeps.
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

    /// A place for `len` floats, on a cache-line boundary.
    pub(super) fn place(&mut self, len: usize) -> Range<usize> {
        let start = self.len;
        self.len += padded(len);
        start..start + len
    }

    /// Says which group each place is of, in the order in which they were given out.
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

    /// Allocates all places, with zeros.
    pub(super) fn allocate(&mut self) -> Result<(), OutOfMemory> {
        let len = self.len;
        let own = [&mut self.values, &mut self.gradients].into_iter();
        for buffer in own.chain(&mut self.buffers).chain(&mut self.average) {
            *buffer = Buffer::try_new(len)?;
        }
        Ok(())
    }

    /// Buffers of all places: values, gradients, the optimizer's, the average.
    pub(super) fn arenas(&self) -> usize {
        2 + self.buffers.len() + usize::from(self.average.is_some())
    }

    /// Bytes of all places.
    pub(super) fn bytes(&self) -> usize {
        self.arenas() * Buffer::bytes_of(self.len)
    }

    /// Takes a step; `constants` gives those of a group, `None` for one that stands still.
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
                // Each is named, so that the compiler asks for a new one.
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

    /// Scales gradients of that norm down so that it is at most `most`.
    pub(super) fn clip(&mut self, isa: Isa, norm: f64, most: f64) {
        let factor = clip_factor(norm, most) as f32;
        if factor < 1.0 {
            scale_all(isa, factor, &mut self.gradients);
        }
    }

    /// Moves the average on after a step, the first of which it is equal to.
    pub(super) fn take_average(&mut self, isa: Isa, decay: f64, is_first: bool) {
        let Some(target) = &mut self.average else { return };
        match is_first {
            true => target.copy_from_slice(&self.values),
            false => average(isa, decay, &self.values, target),
        }
    }

    /// Averages the values into the slow ones, and sets them to these.
    pub(super) fn lookahead(&mut self, isa: Isa, decay: f64) {
        let Some(slow) = &mut self.average else { return };
        average(isa, decay, &self.values, slow);
        self.values.copy_from_slice(slow);
    }
}
