//! Which gradient lies in which buffer, and until when: planned before anything runs, so that buffers are few and allocated once.

use crate::stage::{Source, Stage, StageKind};

/// How the gradient of a stage's output reaches one of its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Nothing before it is trained.
    None,
    /// Written into a buffer. Here as below, `last` says whether the input's gradient is then complete.
    Write { into: usize, last: bool },
    /// Written into a buffer, and what other readers of the input have given is added to it from another; or added to that where it is,
    /// which is then both.
    Add { into: usize, from: usize, last: bool },
    /// It is the gradient of the output itself, in the same buffer.
    Share { last: bool },
}

/// The gradients around a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StageGradients {
    /// The buffer with the gradient of the output; `None` where nobody needs it.
    pub(crate) output: Option<usize>,
    /// Where it is copied before a sum's ReLU is taken out of it, if another stage still reads it as it is.
    pub(crate) copy: Option<usize>,
    /// For each input.
    pub(crate) inputs: Vec<Flow>,
}

/// The gradients of a network's stages.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    /// Floats for each image of each buffer.
    pub(crate) buffers: Vec<usize>,
    pub(crate) stages: Vec<StageGradients>,
}

impl Schedule {
    /// Plans the backward pass; `lens` are the floats of an image of each stage's output. With `in_place`, a stage can add its share of a
    /// gradient to that of others where it lies; otherwise it writes it into a buffer of its own.
    pub(crate) fn new(stages: &[Stage], lens: &[usize], in_place: bool) -> Self {
        let mut trained: Vec<bool> = Vec::new();
        for stage in stages {
            let own = matches!(&stage.kind, StageKind::Block(layers) if !layers.parameters().is_empty());
            trained.push(own || stage.sources.iter().any(|source| is_trained(*source, &trained)));
        }
        // How many readers of each stage have not given their share yet.
        let mut readers = vec![0; stages.len()];
        for (stage, _) in stages.iter().zip(&trained).filter(|(_, trained)| **trained) {
            for source in &stage.sources {
                if let Source::Stage(before) = *source {
                    readers[before] += 1;
                }
            }
        }
        let mut pool = Pool::default();
        let mut gradients: Vec<Option<usize>> = vec![None; stages.len()];
        if let Some(last) = stages.len().checked_sub(1) {
            gradients[last] = Some(pool.take(lens[last]));
        }
        let mut planned = Vec::new();
        for (at, stage) in stages.iter().enumerate().rev() {
            let output = gradients[at].filter(|_| trained[at]);
            let changed = matches!(stage.kind, StageKind::Sum { relu: true });
            let copy = output.filter(|own| changed && pool.is_shared(*own)).map(|own| {
                let copy = pool.take(lens[at]);
                pool.release(own);
                copy
            });
            let mut flow = |source: Source| {
                let (Some(own), Source::Stage(before)) = (copy.or(output), source) else { return Flow::None };
                readers[before] -= 1;
                let last = readers[before] == 0;
                if !trained[before] {
                    return Flow::None;
                }
                match gradients[before] {
                    None if matches!(stage.kind, StageKind::Sum { .. }) => {
                        pool.share(own);
                        gradients[before] = Some(own);
                        Flow::Share { last }
                    }
                    None => {
                        let into = pool.take(lens[before]);
                        gradients[before] = Some(into);
                        Flow::Write { into, last }
                    }
                    Some(from) if in_place && !pool.is_shared(from) => Flow::Add { into: from, from, last },
                    Some(from) => {
                        let into = pool.take(lens[before]);
                        gradients[before] = Some(into);
                        pool.release(from);
                        Flow::Add { into, from, last }
                    }
                }
            };
            let inputs = stage.sources.iter().map(|source| flow(*source)).collect();
            if let Some(own) = copy.or(output) {
                pool.release(own);
            }
            planned.push(StageGradients { output, copy, inputs });
        }
        planned.reverse();
        Self { buffers: pool.lens, stages: planned }
    }
}

fn is_trained(source: Source, trained: &[bool]) -> bool {
    match source {
        Source::Images => false,
        Source::Stage(before) => trained[before],
    }
}

/// Buffers and how many gradients lie in each.
#[derive(Debug, Default)]
struct Pool {
    lens: Vec<usize>,
    holders: Vec<usize>,
}

impl Pool {
    /// A free buffer, the one that has to grow least, and of those the smallest; or a new one.
    fn take(&mut self, len: usize) -> usize {
        let free = (0..self.lens.len()).filter(|buffer| self.holders[*buffer] == 0);
        let best = free.min_by_key(|buffer| (len.saturating_sub(self.lens[*buffer]), self.lens[*buffer]));
        let buffer = best.unwrap_or_else(|| {
            self.lens.push(0);
            self.holders.push(0);
            self.lens.len() - 1
        });
        self.lens[buffer] = self.lens[buffer].max(len);
        self.holders[buffer] = 1;
        buffer
    }

    fn share(&mut self, buffer: usize) {
        self.holders[buffer] += 1;
    }

    fn is_shared(&self, buffer: usize) -> bool {
        self.holders[buffer] > 1
    }

    fn release(&mut self, buffer: usize) {
        self.holders[buffer] -= 1;
    }
}
