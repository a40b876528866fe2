//! From rows to figures: medians, spreads, and ratios within the same round.

use std::collections::BTreeMap;

use super::{
    question::{Contender, Phase, Precision},
    record::{Entry, Floor, LayerTime, Record},
};

/// All contenders on one network and phase, on a GPU in one precision.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Group {
    pub(crate) model: String,
    pub(crate) phase: Phase,
    pub(crate) precision: Option<Precision>,
    /// The floor of our time, if it was reported.
    pub(crate) floor: Option<Floor>,
    /// In the record's order.
    pub(crate) figures: Vec<Figures>,
}

/// One contender on one network and phase.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figures {
    pub(crate) contender: Contender,
    /// Seconds of a step: the median over rounds of each round's median over steps.
    pub(crate) seconds: f64,
    /// The fastest round's median.
    pub(crate) least: f64,
    /// The slowest round's median.
    pub(crate) most: f64,
    pub(crate) images_per_second: f64,
    /// Its seconds divided by ours of the same round, the median over rounds; `None` if no round has both.
    pub(crate) ratio: Option<f64>,
    /// The largest resident set of its processes.
    pub(crate) peak_memory_bytes: Option<u64>,
    /// 1e9 operations a second, counted as direct convolution; `None` if no row has the multiply-accumulates.
    pub(crate) gflops: Option<f64>,
    /// As a share of the measured peak.
    pub(crate) share_of_peak: Option<f64>,
}

/// A layer's median over all of its group's processes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LayerFigures {
    pub(crate) path: String,
    pub(crate) method: Option<String>,
    pub(crate) forward_seconds: f64,
    pub(crate) backward_seconds: Option<f64>,
    pub(crate) gflop: Option<f64>,
}

/// The key of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key<'a> {
    model: &'a str,
    phase: Phase,
    precision: Option<Precision>,
}

impl Key<'_> {
    /// Whether a row belongs to the group. A contender whose precision cannot be chosen belongs to the groups of all precisions.
    fn holds(&self, entry: &Entry) -> bool {
        let row = &entry.row;
        let same_step = row.model == self.model && row.phase == self.phase;
        same_step && (row.precision.is_none() || row.precision == self.precision)
    }
}

/// The figures of a record, network by network.
pub(crate) fn groups(record: &Record) -> Vec<Group> {
    let mut keys: Vec<Key<'_>> = Vec::new();
    for Entry { row, .. } in &record.rows {
        let key = Key { model: &row.model, phase: row.phase, precision: row.precision };
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let all = keys.clone();
    let told = |key: &Key<'_>| {
        all.iter()
            .any(|other| (other.model, other.phase) == (key.model, key.phase) && other.precision.is_some())
    };
    keys.retain(|key| key.precision.is_some() || !told(key));
    // By network and phase in the order of the first round, then by precision.
    keys.sort_by_key(|key| {
        let first = all.iter().position(|other| (other.model, other.phase) == (key.model, key.phase));
        (first, key.precision)
    });
    let group = |key: Key<'_>| {
        let ours = rounds(record, key, Contender::Pointwise);
        let figures = record.contenders.iter().filter_map(|entered| {
            let theirs = rounds(record, key, entered.contender);
            figures(record, key, entered.contender, &ours, &theirs)
        });
        let Key { model, phase, precision } = key;
        let floor = floor(record, key);
        Group { model: model.to_owned(), phase, precision, floor, figures: figures.collect() }
    };
    keys.into_iter().map(group).collect()
}

/// The median of a figure over the processes of a group.
fn floor(record: &Record, key: Key<'_>) -> Option<Floor> {
    let told = || record.rows.iter().filter(|entry| key.holds(entry)).filter_map(|entry| entry.row.floor);
    Some(Floor {
        gflop: median(told().map(|floor| floor.gflop))?,
        gbytes: median(told().map(|floor| floor.gbytes))?,
        seconds: median(told().map(|floor| floor.seconds))?,
    })
}

/// The median step of each round.
fn rounds(record: &Record, key: Key<'_>, contender: Contender) -> BTreeMap<u32, f64> {
    let rows = record.rows.iter().filter(|entry| entry.row.contender == contender && key.holds(entry));
    rows.filter_map(|entry| Some((entry.round, median(entry.row.seconds.iter().copied())?))).collect()
}

fn figures(
    record: &Record,
    key: Key<'_>,
    contender: Contender,
    ours: &BTreeMap<u32, f64>,
    theirs: &BTreeMap<u32, f64>,
) -> Option<Figures> {
    let seconds = median(theirs.values().copied())?;
    let in_group = || record.rows.iter().filter(|entry| key.holds(entry)).map(|entry| &entry.row);
    let macs = record.rows.iter().filter(|entry| entry.row.model == key.model);
    let macs = macs.filter_map(|entry| entry.row.macs_per_image).next();
    let gflops = macs.map(|macs| {
        let operations = 2.0 * macs as f64 * f64::from(record.batch) * key.phase.passes();
        operations / seconds / 1e9
    });
    let peak = peak_gflops(record, key.precision);
    Some(Figures {
        contender,
        seconds,
        least: theirs.values().copied().fold(f64::INFINITY, f64::min),
        most: theirs.values().copied().fold(0.0, f64::max),
        images_per_second: f64::from(record.batch) / seconds,
        ratio: ratio(ours, theirs),
        peak_memory_bytes: in_group()
            .filter(|row| row.contender == contender)
            .filter_map(|row| row.peak_memory_bytes)
            .max(),
        gflops,
        share_of_peak: gflops.zip(peak).map(|(gflops, peak)| gflops / peak),
    })
}

/// The peak of the machine's arithmetic. It is one figure for all steps, so that a few disturbed measurements of it do not affect one line of a
/// table.
pub(crate) fn peak_gflops(record: &Record, precision: Option<Precision>) -> Option<f64> {
    let rows = record.rows.iter().map(|entry| &entry.row).filter(|row| row.precision == precision);
    median(rows.filter_map(|row| row.peak_gflops))
}

/// The measured bandwidth of a GPU's memory, 1e9 bytes read and written a second.
pub(crate) fn bandwidth_gb(record: &Record) -> Option<f64> {
    median(record.rows.iter().filter_map(|entry| entry.row.bandwidth_gb))
}

/// The median of the ratios within each round: what slowed a round down slowed both.
fn ratio(ours: &BTreeMap<u32, f64>, theirs: &BTreeMap<u32, f64>) -> Option<f64> {
    median(theirs.iter().filter_map(|(round, theirs)| Some(theirs / ours.get(round)?)))
}

/// The layers of our engine, in its order; empty if it did not time them.
pub(crate) fn layers(record: &Record, model: &str, phase: Phase) -> Vec<LayerFigures> {
    let rows: Vec<&[LayerTime]> = record
        .rows
        .iter()
        .map(|entry| &entry.row)
        .filter(|row| row.contender == Contender::Pointwise && row.model == model && row.phase == phase)
        .filter_map(|row| row.layers.as_deref())
        .collect();
    let Some(first) = rows.first() else { return Vec::new() };
    let of = |path: &str| -> Vec<&LayerTime> {
        rows.iter().flat_map(|row| row.iter()).filter(|layer| layer.path == path).collect()
    };
    let figures = |layer: &LayerTime| {
        let times = of(&layer.path);
        Some(LayerFigures {
            path: layer.path.clone(),
            method: layer.method.clone(),
            forward_seconds: median(times.iter().map(|time| time.forward_seconds))?,
            backward_seconds: median(times.iter().filter_map(|time| time.backward_seconds)),
            gflop: median(times.iter().filter_map(|time| time.gflop)),
        })
    };
    first.iter().filter_map(figures).collect()
}

/// The middle value, or the mean of the middle two; `None` if there are no values.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::testing::record;

    #[test]
    fn medians() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0]), Some(3.0));
        assert_eq!(median([9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([9.0, 1.0, 2.0, 4.0]), Some(3.0));
    }

    /// The ratio of the medians is 6 here; every round that has both says 2.
    #[test]
    fn a_ratio_is_of_the_same_round() {
        let ours = BTreeMap::from([(1, 1.0), (2, 2.0), (3, 10.0)]);
        let theirs = BTreeMap::from([(1, 2.0), (3, 20.0), (2, 4.0), (4, 100.0)]);
        assert_eq!(ratio(&ours, &theirs), Some(2.0));
        assert_eq!(median(theirs.into_values()).unwrap() / 2.0, 6.0);
        assert_eq!(ratio(&ours, &BTreeMap::from([(7, 1.0)])), None);
    }

    #[test]
    fn figures_of_a_record() {
        let record = record();
        let groups = groups(&record);
        let keys: Vec<_> = groups.iter().map(|group| (group.model.as_str(), group.phase)).collect();
        assert_eq!(keys, [("alexnet", Phase::Train), ("alexnet", Phase::Eval)]);
        let [ours, theirs] = groups[0].figures.as_slice() else { panic!("{groups:?}") };

        // Rounds 0.2, 0.4, 0.3, each the median of its steps.
        assert_eq!((ours.seconds, ours.least, ours.most), (0.3, 0.2, 0.4));
        assert_eq!((ours.ratio, ours.images_per_second), (Some(1.0), 420.0));
        // 2 * 1e9 * 126 * 3 operations in 0.3 seconds, of a measured 5040.
        assert_eq!((ours.gflops, ours.share_of_peak), (Some(2520.0), Some(0.5)));
        assert_eq!(ours.peak_memory_bytes, Some(200 << 20));
        // 1.0 / 0.2, 1.2 / 0.4, 1.2 / 0.3.
        assert_eq!((theirs.contender, theirs.ratio), (Contender::Pytorch, Some(4.0)));
        assert_eq!(theirs.peak_memory_bytes, None);
        // Evaluation is one pass.
        assert_eq!(groups[1].figures[0].gflops, Some(2.0 * 126.0 / 0.1));

        // One disturbed measurement of the peak, the only one of its group, changes nothing.
        let mut disturbed = record;
        disturbed.rows[2].row.peak_gflops = Some(1.0);
        assert_eq!(super::groups(&disturbed), groups);
    }

    #[test]
    fn layers_are_medians_over_processes() {
        let record = record();
        let layers = layers(&record, "alexnet", Phase::Train);
        assert_eq!(layers.len(), 2);
        assert_eq!((layers[0].path.as_str(), layers[0].forward_seconds), ("features.0", 0.02));
        assert_eq!((layers[0].backward_seconds, layers[1].backward_seconds), (Some(0.04), None));
        assert_eq!(super::layers(&record, "alexnet", Phase::Eval), []);
    }
}
