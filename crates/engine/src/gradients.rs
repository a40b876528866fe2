//! Which gradient lies in which buffer, and for how long: planned before anything runs, so that buffers are few and allocated once.

use pointwise_network::{Source, Stage, StageKind};
use std::cmp::Reverse;
use std::ops::RangeInclusive;

/// How the gradient of a stage's output reaches one of its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Nothing before it is trained.
    None,
    /// Written into a buffer. Here and below, `last` says whether the input's gradient is then complete.
    Write { into: usize, last: bool },
    /// Written into a buffer, plus the other readers' contributions from a second buffer; or accumulated into theirs, when both are the
    /// same buffer.
    Add { into: usize, from: usize, last: bool },
    /// The gradient of the output itself, in the same buffer.
    Share { last: bool },
}

/// The gradients around a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StageGradients {
    /// The buffer with the gradient of the output; `None` if nothing needs it.
    pub(crate) output: Option<usize>,
    /// Where it is copied before the backward pass of a sum's ReLU changes it, if another stage still reads the original.
    pub(crate) copy: Option<usize>,
    /// For each input.
    pub(crate) inputs: Vec<Flow>,
}

/// The gradients of a network's stages.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    /// Floats per image of each buffer; the gradient of the last stage's output is in the first.
    pub(crate) buffers: Vec<usize>,
    pub(crate) stages: Vec<StageGradients>,
}

impl Schedule {
    /// Plans the backward pass; `lens` are the floats per image of each stage's output. With `in_place`, a stage can accumulate its share
    /// of a gradient into that of others; otherwise it writes it into its own buffer.
    pub(crate) fn new(stages: &[Stage], lens: &[usize], in_place: bool) -> Self {
        let mut trained: Vec<bool> = Vec::new();
        for stage in stages {
            let own = matches!(&stage.kind, StageKind::Block(layers) if !layers.parameters().is_empty());
            trained.push(own || stage.sources.iter().any(|source| is_trained(*source, &trained)));
        }
        // How many readers of each stage have not contributed their share yet.
        let mut readers = vec![0; stages.len()];
        for (stage, _) in stages.iter().zip(&trained).filter(|(_, trained)| **trained) {
            for source in &stage.sources {
                if let Source::Stage(before) = *source {
                    readers[before] += 1;
                }
            }
        }
        let mut values = Values::default();
        let mut gradients: Vec<Option<usize>> = vec![None; stages.len()];
        if let Some(last) = stages.len().checked_sub(1) {
            values.now = last;
            gradients[last] = Some(values.take(lens[last]));
        }
        let mut planned = Vec::new();
        for (at, stage) in stages.iter().enumerate().rev() {
            values.now = at;
            let output = gradients[at].filter(|_| trained[at]);
            let changed = matches!(stage.kind, StageKind::Sum { relu: true });
            let copy = output.filter(|own| changed && values.is_shared(*own)).map(|own| {
                let copy = values.take(lens[at]);
                values.release(own);
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
                        values.share(own);
                        gradients[before] = Some(own);
                        Flow::Share { last }
                    }
                    None => {
                        let into = values.take(lens[before]);
                        gradients[before] = Some(into);
                        Flow::Write { into, last }
                    }
                    Some(from) if in_place && !values.is_shared(from) => Flow::Add { into: from, from, last },
                    Some(from) => {
                        let into = values.take(lens[before]);
                        gradients[before] = Some(into);
                        values.release(from);
                        Flow::Add { into, from, last }
                    }
                }
            };
            let inputs = stage.sources.iter().map(|source| flow(*source)).collect();
            if let Some(own) = copy.or(output) {
                values.release(own);
            }
            planned.push(StageGradients { output, copy, inputs });
        }
        planned.reverse();
        let (buffers, places) = values.places();
        for stage in &mut planned {
            stage.place(&places);
        }
        Self { buffers, stages: planned }
    }
}

fn is_trained(source: Source, trained: &[bool]) -> bool {
    match source {
        Source::Images => false,
        Source::Stage(before) => trained[before],
    }
}

impl StageGradients {
    /// Replaces values with their buffers.
    fn place(&mut self, places: &[usize]) {
        for value in self.output.iter_mut().chain(&mut self.copy) {
            *value = places[*value];
        }
        for flow in &mut self.inputs {
            match flow {
                Flow::None | Flow::Share { .. } => {}
                Flow::Write { into, .. } => *into = places[*into],
                Flow::Add { into, from, .. } => (*into, *from) = (places[*into], places[*from]),
            }
        }
    }
}

/// A value in memory for part of the backward pass: the gradient of one output, or of several.
#[derive(Debug)]
struct Value {
    len: usize,
    /// How many gradients share it.
    holders: usize,
    /// The stages during which it is live; the backward pass goes from the last to the first.
    stages: RangeInclusive<usize>,
}

#[derive(Debug, Default)]
struct Values {
    /// The stage whose gradients are planned.
    now: usize,
    values: Vec<Value>,
}

impl Values {
    /// A new value, live from the current stage on.
    fn take(&mut self, len: usize) -> usize {
        self.values.push(Value { len, holders: 1, stages: 0..=self.now });
        self.values.len() - 1
    }

    fn share(&mut self, value: usize) {
        self.values[value].holders += 1;
    }

    fn is_shared(&self, value: usize) -> bool {
        self.values[value].holders > 1
    }

    fn release(&mut self, value: usize) {
        let now = self.now;
        let value = &mut self.values[value];
        value.holders -= 1;
        if value.holders == 0 {
            value.stages = now..=*value.stages.end();
        }
    }

    /// The lengths of buffers for all values, and the buffer of each value, the first value's first: values placed in order, which needs
    /// the fewest buffers, or largest first, whichever takes less memory.
    fn places(&self) -> (Vec<usize>, Vec<usize>) {
        let in_order: Vec<usize> = (0..self.values.len()).collect();
        let mut by_len = in_order.clone();
        by_len.sort_by_key(|value| Reverse(self.values[*value].len));
        let plans = [in_order, by_len].map(|order| self.place(&order));
        let [first, second] = plans;
        let total = |plan: &(Vec<usize>, Vec<usize>)| plan.0.iter().sum::<usize>();
        let (mut lens, mut places) = if total(&second) < total(&first) { second } else { first };
        if let Some(first) = places.first().copied() {
            lens.swap(0, first);
            for place in &mut places {
                *place = match *place {
                    0 => first,
                    place if place == first => 0,
                    place => place,
                };
            }
        }
        (lens, places)
    }

    /// Places values in this order: each in a buffer that is free during all of its stages, the one that has to grow least (the smallest
    /// among equals), or in a new one.
    fn place(&self, order: &[usize]) -> (Vec<usize>, Vec<usize>) {
        let mut lens: Vec<usize> = Vec::new();
        let mut held: Vec<Vec<usize>> = Vec::new();
        let mut places = vec![0; self.values.len()];
        for value in order {
            let Value { len, stages, .. } = &self.values[*value];
            let is_free = |buffer: &usize| {
                held[*buffer].iter().all(|other| {
                    let other = &self.values[*other].stages;
                    stages.end() < other.start() || other.end() < stages.start()
                })
            };
            let free = (0..lens.len()).filter(is_free);
            let best = free.min_by_key(|buffer| (len.saturating_sub(lens[*buffer]), lens[*buffer]));
            let buffer = best.unwrap_or_else(|| {
                lens.push(0);
                held.push(Vec::new());
                lens.len() - 1
            });
            lens[buffer] = lens[buffer].max(*len);
            held[buffer].push(*value);
            places[*value] = buffer;
        }
        (lens, places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pointwise_network::Network;
    use pointwise_network::stages;

    /// Runs a schedule symbolically: when a gradient is used, its buffer must hold every reader's share and nothing else.
    fn check(network: &Network, in_place: bool) {
        let stages = stages(&network.graph().unwrap());
        let lens: Vec<usize> =
            stages.iter().map(|stage| stage.output.pixels() * stage.output.channels).collect();
        let Schedule { buffers, stages: planned } = Schedule::new(&stages, &lens, in_place);
        let readers = |of: usize| {
            let trained = |at: &usize| planned[*at].output.is_some();
            let reads =
                |at: &usize| stages[*at].sources.iter().filter(|from| **from == Source::Stage(of)).count();
            (0..stages.len()).filter(trained).flat_map(|at| vec![at; reads(&at)]).collect::<Vec<_>>()
        };
        // The gradients whose sum is in each buffer, each as the stage and the reader that gave it.
        let mut held: Vec<Vec<(usize, usize)>> = vec![Vec::new(); buffers.len()];
        let last = stages.len() - 1;
        assert_eq!(planned[last].output, Some(0), "{}", network.name);
        for at in (0..stages.len()).rev() {
            let StageGradients { output, copy, inputs } = &planned[at];
            let Some(output) = *output else { continue };
            let what = format!("{} {}, in place: {in_place}", network.name, stages[at].name);
            assert!(buffers[output] >= lens[at], "{what}: room");
            if at != last {
                let mut given: Vec<usize> =
                    held[output].iter().filter(|(of, _)| *of == at).map(|(_, reader)| *reader).collect();
                given.sort_unstable();
                assert_eq!(given, readers(at), "{what}: shares");
            }
            let own = copy.unwrap_or(output);
            held[own] = held[output].clone();
            if matches!(stages[at].kind, StageKind::Sum { relu: true }) {
                // It is changed in place, whatever else it holds.
                held[own].retain(|(of, _)| *of == at);
            }
            for (source, flow) in stages[at].sources.iter().zip(inputs) {
                let Source::Stage(before) = *source else { continue };
                match *flow {
                    Flow::None => {
                        assert!(planned[before].output.is_none(), "{what}: a gradient is not handed back");
                    }
                    Flow::Write { into, .. } => {
                        assert!(into != own && buffers[into] >= lens[before], "{what}");
                        held[into] = vec![(before, at)];
                    }
                    Flow::Add { into, from, .. } => {
                        assert!(into != own && buffers[into] >= lens[before], "{what}");
                        let mut sum: Vec<_> =
                            held[from].iter().copied().filter(|(of, _)| *of == before).collect();
                        sum.push((before, at));
                        held[into] = sum;
                    }
                    Flow::Share { .. } => held[own].push((before, at)),
                }
            }
        }
    }

    /// Sums that share their gradient with several stages, with and without a ReLU, and maps that both sums and convolutions read.
    const SUMS: &str = r#"
        name = "sums"
        input = [3, 8, 8]
        layers = [
            { Conv2d = { out_channels = 4, kernel_size = 3, padding = 1 } },
            { Sum = [[{ name = "a", Conv2d = { out_channels = 4, kernel_size = 3, padding = 1 } }], []] },
            { Sum = [
                [{ name = "b", Conv2d = { out_channels = 4, kernel_size = 1 } }],
                [],
                [{ name = "c", Conv2d = { out_channels = 4, kernel_size = 1 } }],
            ] },
            "ReLU",
            { Sum = [
                [
                    { Sum = [[{ name = "d", Conv2d = { out_channels = 4, kernel_size = 1 } }], []] },
                    { name = "e", ReLU = {} },
                ],
                [],
            ] },
            "Flatten",
            { Linear = { out_features = 10 } },
        ]
    "#;

    #[test]
    fn every_gradient_is_whole_when_it_is_used() {
        let shipped = Network::shipped().map(|name| Network::by_name(name).unwrap());
        for network in shipped.chain([Network::from_toml(SUMS).unwrap()]) {
            for in_place in [false, true] {
                check(&network, in_place);
            }
        }
    }
}
