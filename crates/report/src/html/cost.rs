//! Accuracy against parameters, work and time; and where parameters and work sit.

use super::{
    NAMED, Page, Shown,
    chart::{self, Chart, WIDTH, around},
    figure::{Data, figure},
    results::axis_of_counts,
    text::{escape, short},
};
use crate::{
    LayerFacts,
    number::{decimals, thousands},
};

type Cost = fn(&Shown<'_>) -> Option<f64>;

const COSTS: [(&str, &str, &str, bool, Cost); 3] = [
    ("Accuracy and parameters", "parameters", "numbers to store and to learn", true, |network| {
        network.report.parameters.map(|count| count as f64)
    }),
    (
        "Accuracy and work",
        "multiply-accumulates for an image (MACs)",
        "what computing takes",
        true,
        |network| network.report.macs.map(|count| count as f64),
    ),
    ("Accuracy and time", "seconds for an epoch", "measured, where these runs ran", false, |network| {
        network.report.seconds_per_epoch
    }),
];

impl Page<'_> {
    pub(super) fn cost(&self) -> String {
        if self.networks.iter().all(|network| network.accuracy().is_none()) {
            return "<p>No run is finished yet: there is no accuracy to compare with the cost.</p>".into();
        }
        let mut html = String::from("<p>The upper left is best: accurate and cheap.");
        if self.networks.len() > 1 {
            html += " The grey steps are the best that these networks offer for each price (the <em>Pareto front</em>); a network \
                     below them is beaten by another one on both counts.";
        }
        if self.networks.iter().any(|network| network.report.seeds.len() > 1) {
            html += " Small marks are single seeds.";
        }
        if self.networks.iter().any(|network| network.published.is_some()) {
            html += " Hollow marks are published.";
        }
        html += "</p>";
        html += &self.key();
        html += "<div class=\"charts\">";
        for (title, axis, note, theirs, cost) in COSTS {
            html += &self.trade(title, axis, note, theirs, cost);
        }
        html += "<div class=\"words\">";
        html += &self.cost_words();
        html += "</div></div>";
        let mut data =
            Data::new(["network", "test accuracy %", "parameters", "MACs per image", "seconds per epoch"]);
        for network in &self.networks {
            let none = String::new;
            data.rows.push(vec![
                network.name().into(),
                network.accuracy().map_or_else(none, |acc| decimals(acc, 2)),
                network.report.parameters.map_or_else(none, |count| count.to_string()),
                network.report.macs.map_or_else(none, |count| count.to_string()),
                network.report.seconds_per_epoch.map_or_else(none, |seconds| decimals(seconds, 1)),
            ]);
        }
        html + &data.details("accuracy and cost", "cost")
    }

    fn cost_words(&self) -> String {
        let values: Vec<f64> =
            self.networks.iter().filter_map(|network| network.report.macs.map(|macs| macs as f64)).collect();
        let (low, high) =
            values.iter().fold((f64::INFINITY, 0.0f64), |(low, high), it| (low.min(*it), high.max(*it)));
        if values.len() < 2 || low <= 0.0 {
            return String::new();
        }
        let apart = 100.0 * (high / low - 1.0);
        let counts: Vec<f64> = self
            .networks
            .iter()
            .filter_map(|network| network.report.parameters.map(|it| it as f64))
            .collect();
        let (least, most) =
            counts.iter().fold((f64::INFINITY, 0.0f64), |(low, high), it| (low.min(*it), high.max(*it)));
        format!(
            "<p>Parameters are not work. The largest of these networks has {} times the parameters of the smallest; the most \
             expensive takes {} % more multiply-accumulates than the cheapest. A linear layer uses each of its parameters once \
             for an image; a convolution uses them at every position of the map.</p><p>Seconds are training and evaluation of one \
             epoch on the machine of these runs.</p>",
            decimals(most / least, 2),
            decimals(apart, if apart < 10.0 { 1 } else { 0 })
        )
    }

    fn trade(&self, title: &str, axis: &str, note: &str, theirs: bool, cost: Cost) -> String {
        let shown: Vec<(&Shown<'_>, f64, f64)> = self
            .networks
            .iter()
            .filter_map(|network| Some((network, cost(network)?, network.accuracy()?)))
            .filter(|(_, cost, _)| cost.is_finite() && *cost >= 0.0)
            .collect();
        if shown.is_empty() {
            return String::new();
        }
        let seeds = |network: &Shown<'_>| -> Vec<f64> {
            network
                .report
                .accuracy
                .iter()
                .flat_map(|figure| &figure.ours.values)
                .map(|acc| 100.0 * acc)
                .collect()
        };
        let published = |network: &Shown<'_>| {
            let figure = network.report.accuracy.as_ref().filter(|it| theirs && !it.at_least);
            figure.filter(|_| network.published.is_some())?.published.map(|it| 100.0 * it)
        };
        let values = shown
            .iter()
            .flat_map(|(network, _, acc)| seeds(network).into_iter().chain(published(network)).chain([*acc]));
        let y = around(values, 0.6);
        let most = shown.iter().fold(0.0f64, |most, (_, cost, _)| most.max(*cost));
        let show: fn(f64) -> String = |value| decimals(value, if value.fract().abs() < 1e-9 { 0 } else { 1 });
        let description = format!("{title}: a mark for each network");
        let mut chart = Chart::new(&description, (0.0, most * 1.12), y, axis, (axis_of_counts, show), 0);
        let mut front: Vec<(f64, f64)> = shown.iter().map(|&(_, cost, acc)| (cost, acc)).collect();
        front.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
        let mut best = f64::NEG_INFINITY;
        front.retain(|(_, acc)| {
            let good = *acc > best;
            best = best.max(*acc);
            good
        });
        let mut steps = vec![front[0]];
        for &(cost, acc) in &front[1..] {
            let before = steps[steps.len() - 1].1;
            steps.extend([(cost, before), (cost, acc)]);
        }
        steps.push((most * 1.12, best));
        chart.line("front", &steps);
        let mut labels = Vec::new();
        for (network, cost, acc) in &shown {
            let (class, name) = (network.class(), network.name());
            let seeds = seeds(network);
            if seeds.len() > 1 {
                for seed in &seeds {
                    let says = format!("{name}, one seed: {} %", decimals(*seed, 2));
                    chart.point(&format!("faint {class}"), network.index, 2.4, (*cost, *seed), &says);
                }
            }
            if let Some(theirs) = published(network) {
                chart.segment(&format!("tie {class}"), (*cost, theirs), (*cost, *acc));
                let says = format!("{name}, published: {} %", decimals(theirs, 2));
                chart.point(&format!("hollow {class}"), network.index, 5.0, (*cost, theirs), &says);
            }
            let price = if *cost >= 1000.0 { short(*cost) } else { decimals(*cost, 1) };
            let says = format!(
                "{name}: {} %, {price} {}",
                decimals(*acc, 2),
                axis.split(" (").next().unwrap_or(axis)
            );
            chart.point(&format!("solid {class}"), network.index, 5.5, (*cost, *acc), &says);
            labels.push((*cost, *acc, name, class));
        }
        if labels.len() <= NAMED {
            chart.labels(&labels);
        }
        figure(&format!("{title}, %"), note, &chart.svg())
    }

    pub(super) fn layers(&self) -> String {
        let shown: Vec<&Shown<'_>> =
            self.networks.iter().filter(|network| !network.layers.is_empty()).collect();
        if shown.is_empty() {
            return String::new();
        }
        let rows: Vec<(&Shown<'_>, Vec<Bar>)> =
            shown.iter().map(|&network| (network, bars(network.layers))).collect();
        let most = |value: fn(&Bar) -> u64| {
            rows.iter().flat_map(|(_, bars)| bars).map(value).max().unwrap_or(1).max(1)
        };
        let (most_parameters, most_macs) = (most(|bar| bar.parameters), most(|bar| bar.macs));
        let mut html = String::from(
            "<p>Layer by layer, from the image at the top to the answer at the bottom, all networks to the same scale. \
             <strong>Full colour: pointwise</strong> (1\u{d7}1) convolutions; pale: all others. BatchNorm counts with its convolution.\
             </p><div class=\"charts three\">",
        );
        let mut data = Data::new(["network", "layer", "what", "output", "parameters", "MACs"]);
        for (network, bars) in &rows {
            html += &figure(
                network.name(),
                &format!(
                    "{} parameters, {} MACs",
                    network.report.parameters.map_or(String::new(), |it| short(it as f64)),
                    network.report.macs.map_or(String::new(), |it| short(it as f64))
                ),
                &layer_chart(network, bars, most_parameters, most_macs),
            );
            for layer in network.layers {
                let output: Vec<String> = layer.output.iter().map(u64::to_string).collect();
                data.rows.push(vec![
                    network.name().into(),
                    layer.path.clone(),
                    layer.layer.clone(),
                    output.join(" x "),
                    thousands(layer.parameters),
                    thousands(layer.macs),
                ]);
            }
        }
        html + "</div>" + &data.details("every layer", "layers")
    }
}

/// A layer that computes, with the parameters of those after it that do not.
struct Bar {
    label: String,
    pointwise: bool,
    parameters: u64,
    macs: u64,
}

fn bars(layers: &[LayerFacts]) -> Vec<Bar> {
    let mut bars: Vec<Bar> = Vec::new();
    for layer in layers {
        match bars.last_mut() {
            _ if layer.macs > 0 => bars.push(Bar {
                label: label(&layer.layer),
                pointwise: layer.layer.contains(" k1 "),
                parameters: layer.parameters,
                macs: layer.macs,
            }),
            Some(bar) => bar.parameters += layer.parameters,
            None => {}
        }
    }
    bars
}

/// `Conv2d 64->192 k3 p1` as `3×3, 64 → 192`.
fn label(layer: &str) -> String {
    let words: Vec<&str> = layer.split(' ').collect();
    let arrow = |text: &str| text.replace("->", " \u{2192} ");
    match words.as_slice() {
        ["Conv2d", channels, kernel, ..] => {
            let side = kernel.trim_start_matches('k');
            format!("{side}\u{d7}{side}, {}", arrow(channels))
        }
        ["Linear", features] => format!("linear, {}", arrow(features)),
        _ => arrow(layer),
    }
}

fn layer_chart(network: &Shown<'_>, bars: &[Bar], most_parameters: u64, most_macs: u64) -> String {
    const ROW: f64 = 23.0;
    const NAMES: f64 = 146.0;
    const BAR: f64 = 84.0;
    let columns = [NAMES, NAMES + BAR + 54.0];
    let mut svg = format!(
        "<text class=\"axis\" x=\"{}\" y=\"13\">parameters</text><text class=\"axis\" x=\"{}\" y=\"13\">MACs</text>",
        columns[0], columns[1]
    );
    let class = network.class();
    for (row, bar) in bars.iter().enumerate() {
        let y = 22.0 + ROW * row as f64;
        svg += &format!(
            "<text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            NAMES - 8.0,
            y + 12.5,
            escape(&bar.label)
        );
        for (x, value, most, unit) in [
            (columns[0], bar.parameters, most_parameters, "parameters"),
            (columns[1], bar.macs, most_macs, "MACs"),
        ] {
            let length = (BAR * value as f64 / most as f64).max(1.0);
            let kind = if bar.pointwise { "" } else { " other" };
            svg += &format!(
                "<rect class=\"pt bar {class}{kind}\" data-x=\"{:.1}\" data-y=\"{:.1}\" x=\"{x}\" y=\"{y:.1}\" width=\"{length:.1}\" \
                 height=\"16\"><title>{}</title></rect><text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                x + length / 2.0,
                y + 8.0,
                escape(&format!("{}, {}: {} {unit}", network.name(), bar.label, thousands(value))),
                x + length + 5.0,
                y + 12.5,
                short(value as f64)
            );
        }
    }
    debug_assert!(columns[1] + BAR < WIDTH);
    chart::frame(
        &format!("Parameters and multiply-accumulates of the layers of {}", network.name()),
        26.0 + ROW * bars.len() as f64,
        &svg,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_named_for_people() {
        assert_eq!(label("Conv2d 64->192 k3 p1"), "3\u{d7}3, 64 \u{2192} 192");
        assert_eq!(label("Linear 4096->1024"), "linear, 4096 \u{2192} 1024");
        assert_eq!(label("something else"), "something else");
    }

    #[test]
    fn what_does_not_compute_counts_with_the_layer_before() {
        let layer = |layer: &str, parameters, macs| LayerFacts {
            path: String::new(),
            layer: layer.into(),
            output: vec![],
            parameters,
            macs,
        };
        let found = bars(&[
            layer("Conv2d 3->4 k1 p0", 16, 9),
            layer("BatchNorm2d 4", 8, 0),
            layer("Linear 4->2", 10, 8),
        ]);
        let seen: Vec<(u64, bool)> = found.iter().map(|bar| (bar.parameters, bar.pointwise)).collect();
        assert_eq!(seen, [(24, true), (10, false)]);
    }
}
