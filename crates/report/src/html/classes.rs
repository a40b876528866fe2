//! Which classes the final networks confuse: by class, as confusion matrices with their images; and the first layer's filters.

use std::fmt::Write;

use pointwise_runs::{Analysis, Filters, Mistake};

use super::{
    Page, Shown,
    chart::{WIDTH, around, frame, marker, ticks},
    figure::{Data, figure},
    text::escape,
};
use crate::number::decimals;

/// The most classes for which a whole confusion matrix is shown.
const WHOLE_MATRIX: usize = 20;
/// The number of confusions shown if there are more classes.
const CONFUSIONS: usize = 15;
/// The number of most confident mistakes shown for a network.
const WORST: usize = 24;

impl Page<'_> {
    /// The sheets of pictures, once each.
    pub(super) fn picture_styles(&self) -> String {
        let mut css = String::new();
        for network in self.networks.iter().filter(|network| network.pictures) {
            if let Some(sheet) = network.analyses.first().and_then(|(_, analysis)| analysis.sheet.as_ref()) {
                // Checked when it was read: it is only base64.
                let _ = writeln!(
                    css,
                    ".s{}{{--columns:{};background-image:url(\"data:image/jpeg;base64,{}\")}}",
                    network.index, sheet.columns, sheet.jpeg
                );
            }
        }
        css
    }

    pub(super) fn classes(&self) -> String {
        let shown: Vec<&Shown<'_>> =
            self.networks.iter().filter(|network| !network.analyses.is_empty()).collect();
        let Some((_, first)) = shown.first().and_then(|network| network.analyses.first()) else {
            return "<p>These runs have no file <code>analysis.json</code>, which a training writes at its end unless its version is \
                    too old: mistakes, images and filters are left out.</p>"
                .into();
        };
        // Runs of one study have one data set, and so the same classes.
        let classes = &first.classes;
        let mut html = String::from(
            "<p>All of this is for the final parameters, as in the figures at the top, on the test images. If a network has several \
             seeds, the classes are averaged over them; matrices, images and filters are those of its first seed.</p>",
        );
        if first.confusion.is_empty() {
            let _ = write!(
                html,
                "<p>Tables of {} classes by {0} would be unreadable: they are left out.</p>",
                classes.len()
            );
        } else {
            html += &self.class_by_class(&shown, classes);
        }
        html += "<h3>Most confident mistakes</h3><p>Where a network was surest and still wrong.</p>";
        for network in &shown {
            html += &worst(network);
        }
        let filters: Vec<(&Shown<'_>, &Filters)> = shown
            .iter()
            .filter_map(|network| Some((*network, network.analyses[0].1.filters.as_ref()?)))
            .collect();
        if !filters.is_empty() {
            html += "<h3>What the first layer looks for</h3><p>Each square is a filter of the first convolution: the pattern of colours \
                     that it responds to. Grey is zero.</p><div class=\"charts three\">";
            for (network, filters) in filters {
                html += &figure(network.name(), &filters.name, &filter_chart(network, filters));
            }
            html += "</div>";
        }
        html
    }

    /// Rates, matrices and the images behind their cells.
    fn class_by_class(&self, shown: &[&Shown<'_>], classes: &[String]) -> String {
        let mut html = String::from("<h3>Class by class</h3>");
        html += &self.per_class(shown, classes);
        if classes.len() > WHOLE_MATRIX {
            html += "<h3>Confusions</h3><p>The most frequent ones.</p><div class=\"charts three\">";
            for network in shown {
                html += &confusions(network);
            }
            return html + "</div>";
        }
        html += "<h3>Confusions</h3><p>A row is what an image shows, a column what the network took it for; the diagonal is correct. \
                 <span class=\"only-script\">Choose a number to see such images.</span></p><div class=\"charts three\">";
        for network in shown {
            html += &matrix(network);
        }
        html += "</div>";
        html += &gallery(shown);
        html
    }

    /// A row for each class, a mark for each network.
    fn per_class(&self, shown: &[&Shown<'_>], classes: &[String]) -> String {
        const ROW: f64 = 25.0;
        /// Characters of a name in the chart; the table below shows the whole name.
        const LONGEST: usize = 24;
        const LETTER: f64 = 7.0;
        let short = |class: usize| {
            let name = &classes[class];
            match name.char_indices().nth(LONGEST) {
                Some((end, _)) => format!("{}\u{2026}", &name[..end]),
                None => name.clone(),
            }
        };
        let longest = (0..classes.len()).map(|class| short(class).chars().count()).max().unwrap_or(0);
        let names = (longest as f64 * LETTER).max(92.0);
        let rates: Vec<(&Shown<'_>, Vec<Option<f64>>)> =
            shown.iter().map(|network| (*network, class_rates(network, classes.len()))).collect();
        let mean = |class: usize| {
            let values: Vec<f64> = rates.iter().filter_map(|(_, rates)| rates[class]).collect();
            values.iter().sum::<f64>() / values.len().max(1) as f64
        };
        let mut order: Vec<usize> = (0..classes.len()).collect();
        order.sort_by(|a, b| mean(*b).total_cmp(&mean(*a)));
        let all = rates.iter().flat_map(|(_, rates)| rates.iter().flatten().copied());
        let (low, high) = around(all, 1.0);
        let (low, high) = (low.max(0.0), high.min(100.0).max(low + 1.0));
        let at = |value: f64| names + 10.0 + (value - low) / (high - low) * (WIDTH - names - 24.0);
        let bottom = 8.0 + ROW * classes.len() as f64;
        let mut svg = String::new();
        for tick in ticks(low, high, 6.0) {
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"4\" y2=\"{bottom:.1}\"/><text class=\"tick\" x=\"{0:.1}\" \
                 y=\"{1:.1}\" text-anchor=\"middle\">{2}</text>",
                at(tick),
                bottom + 16.0,
                decimals(tick, 0)
            );
        }
        let mut columns = vec!["class".to_owned()];
        columns.extend(rates.iter().map(|(network, _)| format!("{} %", network.name())));
        let mut data = Data::new(columns);
        for (row, &class) in order.iter().enumerate() {
            let y = 8.0 + ROW * (row as f64 + 0.5);
            let values: Vec<f64> = rates.iter().filter_map(|(_, rates)| rates[class]).collect();
            let (least, most) =
                values.iter().fold((high, low), |(least, most), it| (it.min(least), it.max(most)));
            let _ = write!(
                svg,
                "<text class=\"tick\" x=\"{names}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><line class=\"leader\" x1=\"{:.1}\" \
                 x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                y + 4.0,
                escape(&short(class)),
                at(least),
                at(most.max(least))
            );
            let mut cells = vec![classes[class].clone()];
            for (network, rates) in &rates {
                cells.push(rates[class].map_or(String::new(), |rate| decimals(rate, 1)));
                if let Some(rate) = rates[class] {
                    let says = format!("{}, {}: {} %", network.name(), classes[class], decimals(rate, 1));
                    svg += &marker(
                        &format!("solid {}", network.class()),
                        network.index,
                        4.6,
                        at(rate),
                        y,
                        &says,
                    );
                }
            }
            data.rows.push(cells);
        }
        let mut key = String::from("<p class=\"key\">");
        for network in shown {
            let _ = write!(
                key,
                "<span><svg class=\"mark\" viewBox=\"0 0 16 16\" aria-hidden=\"true\">{}</svg> {}</span> ",
                marker(&format!("solid {}", network.class()), network.index, 5.5, 8.0, 8.0, "")
                    .replace("pt ", ""),
                escape(network.name())
            );
        }
        let words = match (order.first(), order.last()) {
            (Some(&best), Some(&worst)) => format!(
                "<p>Easiest is <em>{}</em> ({}\u{a0}% on average), hardest <em>{}</em> ({}\u{a0}%).</p>",
                escape(&classes[best]),
                decimals(mean(best), 1),
                escape(&classes[worst]),
                decimals(mean(worst), 1)
            ),
            _ => String::new(),
        };
        let chart =
            frame("Share of each class's test images that are classified correctly", bottom + 22.0, &svg);
        format!(
            "<div class=\"beside\">{}<div>{key}</p>{words}{}</div></div>",
            figure("Classified correctly, % of a class", "", &chart),
            data.details("class by class", "classes")
        )
    }
}

/// Mean over the seeds, in percent; `None` for a class without images.
fn class_rates(network: &Shown<'_>, classes: usize) -> Vec<Option<f64>> {
    (0..classes)
        .map(|class| {
            let rates: Option<Vec<f64>> = network
                .analyses
                .iter()
                .map(|(_, analysis)| {
                    let row = analysis.confusion.get(class)?;
                    let all: u32 = row.iter().sum();
                    (all > 0).then(|| 100.0 * f64::from(row[class]) / f64::from(all))
                })
                .collect();
            let rates = rates?;
            (!rates.is_empty()).then(|| rates.iter().sum::<f64>() / rates.len() as f64)
        })
        .collect()
}

/// The id of the images of a kind of mistake in the page.
fn kind_id(network: &Shown<'_>, label: usize, predicted: usize) -> String {
    format!("m{}-{label}-{predicted}", network.index)
}

fn of_kind(analysis: &Analysis, label: usize, predicted: usize) -> Vec<(usize, &Mistake)> {
    let of_kind = |mistake: &&Mistake| {
        (usize::from(mistake.label), usize::from(mistake.predicted)) == (label, predicted)
    };
    analysis.mistakes.iter().enumerate().filter(|(_, mistake)| of_kind(mistake)).take(4).collect()
}

fn matrix(network: &Shown<'_>) -> String {
    let (seed, analysis) = &network.analyses[0];
    let classes = &analysis.classes;
    let off =
        |row: usize| analysis.confusion[row].iter().enumerate().filter(move |(column, _)| *column != row);
    let most = (0..classes.len()).flat_map(off).map(|(_, count)| *count).max().unwrap_or(1).max(1);
    let mut html = format!(
        "<figure class=\"matrix {}\"><figcaption>{name}<span>seed {seed}</span></figcaption><table><caption class=\"hidden\">Confusion \
         matrix of {name}: rows are what images show, columns what they were taken for</caption><thead><tr><td></td>",
        network.class(),
        name = escape(network.name())
    );
    for class in classes {
        let _ = write!(html, "<th scope=\"col\"><span>{}</span></th>", escape(class));
    }
    html += "</tr></thead><tbody>";
    for (row, class) in classes.iter().enumerate() {
        let _ = write!(html, "<tr><th scope=\"row\">{}</th>", escape(class));
        for (column, &count) in analysis.confusion[row].iter().enumerate() {
            if row == column {
                let _ = write!(html, "<td class=\"right\">{count}</td>");
                continue;
            }
            let depth = (f64::from(count) / f64::from(most)).sqrt() * 45.0;
            let style = if count == 0 { String::new() } else { format!(" style=\"--depth:{depth:.0}%\"") };
            let has_images = network.pictures && !of_kind(analysis, row, column).is_empty();
            let cell = match (count, has_images) {
                (0, _) => String::new(),
                (_, true) => format!(
                    "<a href=\"#{}\" aria-label=\"{count} of {} taken for {}: show images\">{count}</a>",
                    kind_id(network, row, column),
                    escape(class),
                    escape(&classes[column])
                ),
                (_, false) => count.to_string(),
            };
            let _ = write!(html, "<td{style}>{cell}</td>");
        }
        html += "</tr>";
    }
    html + "</tbody></table></figure>"
}

/// The most frequent confusions, for more classes than a matrix can show.
fn confusions(network: &Shown<'_>) -> String {
    let (seed, analysis) = &network.analyses[0];
    let rows = analysis.confusion.iter().enumerate();
    let mut all: Vec<(u32, usize, usize)> = rows
        .flat_map(|(label, row)| {
            row.iter().enumerate().map(move |(predicted, count)| (*count, label, predicted))
        })
        .filter(|(count, label, predicted)| *count > 0 && label != predicted)
        .collect();
    all.sort_by_key(|(count, label, predicted)| (std::cmp::Reverse(*count), *label, *predicted));
    let mut html = format!(
        "<figure class=\"{}\"><figcaption>{}<span>seed {seed}</span></figcaption><table><thead><tr><th scope=\"col\">shows</th><th \
         scope=\"col\">taken for</th><th scope=\"col\">images</th></tr></thead><tbody>",
        network.class(),
        escape(network.name())
    );
    for (count, label, predicted) in all.iter().take(CONFUSIONS) {
        let [label, predicted] = [label, predicted].map(|class| escape(&analysis.classes[*class]));
        let _ = write!(html, "<tr><td>{label}</td><td>{predicted}</td><td>{count}</td></tr>");
    }
    html + "</tbody></table></figure>"
}

/// A picture of a mistake, by its place in the sheet.
fn picture(network: &Shown<'_>, analysis: &Analysis, place: usize, mistake: &Mistake) -> String {
    let columns = analysis.sheet.as_ref().map_or(1, |sheet| sheet.columns.max(1) as usize);
    let class = |label: u16| escape(&analysis.classes[usize::from(label)]);
    let (label, predicted) = (class(mistake.label), class(mistake.predicted));
    let sure = decimals(100.0 * mistake.confidence, 0);
    // A record may be kept without its images.
    let image = match &analysis.sheet {
        Some(_) => format!(
            "<span class=\"pic s{}\" style=\"--x:{};--y:{}\" role=\"img\" aria-label=\"{label}, test image {}\"></span>",
            network.index,
            place % columns,
            place / columns,
            mistake.image
        ),
        None => format!("<span>test image {}</span>", mistake.image),
    };
    format!(
        "<figure class=\"picture\">{image}<figcaption>{label} <b>as {predicted}</b> <span>{sure} % sure</span></figcaption></figure>"
    )
}

/// The images behind the matrices' cells. The script shows them in a window; without it a cell leads here.
fn gallery(shown: &[&Shown<'_>]) -> String {
    let mut html = String::new();
    for network in shown {
        let (_, analysis) = &network.analyses[0];
        if !network.pictures {
            continue;
        }
        let _ = write!(
            html,
            "<details class=\"data gallery\"><summary>All kinds of mistakes of {}</summary>",
            escape(network.name())
        );
        for (row, class) in analysis.classes.iter().enumerate() {
            for (column, predicted) in analysis.classes.iter().enumerate() {
                let examples = of_kind(analysis, row, column);
                if examples.is_empty() {
                    continue;
                }
                let count = analysis.confusion[row][column];
                let title = format!("{} taken for {}", escape(class), escape(predicted));
                let _ = write!(
                    html,
                    "<div class=\"kind\" id=\"{}\" data-title=\"{}: {title}\"><h4>{title} <span>{count} in all, {} shown</span></h4><div \
                     class=\"pictures\">",
                    kind_id(network, row, column),
                    escape(network.name()),
                    examples.len()
                );
                for (place, mistake) in examples {
                    html += &picture(network, analysis, place, mistake);
                }
                html += "</div></div>";
            }
        }
        html += "</details>";
    }
    html
}

fn worst(network: &Shown<'_>) -> String {
    let (seed, analysis) = &network.analyses[0];
    let mut html = format!("<h4>{} <span>seed {seed}</span></h4>", escape(network.name()));
    if analysis.mistakes.is_empty() {
        return html + "<p>It made no mistake.</p>";
    }
    if !network.pictures {
        return html + "<p>The pictures are left out: the page would be too large.</p>";
    }
    html += "<div class=\"pictures\">";
    // They are kept in order of confidence.
    for (place, mistake) in analysis.mistakes.iter().enumerate().take(WORST) {
        html += &picture(network, analysis, place, mistake);
    }
    html + "</div>"
}

fn filter_chart(network: &Shown<'_>, filters: &Filters) -> String {
    let side = filters.side as usize;
    let (plane, pitch) = (side * side, side + 1);
    let largest = filters.values.iter().fold(f32::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
    let count = filters.values.len() / (3 * plane);
    let columns = 16.min(count);
    let mut svg = String::new();
    for (number, filter) in filters.values.chunks_exact(3 * plane).enumerate() {
        for at in 0..plane {
            let byte =
                |channel: usize| (127.5 + 127.5 * filter[channel * plane + at] / largest).round() as u8;
            let _ = write!(
                svg,
                "<rect x=\"{}\" y=\"{}\" width=\"1\" height=\"1\" fill=\"#{:02x}{:02x}{:02x}\"/>",
                number % columns * pitch + at % side,
                number / columns * pitch + at / side,
                byte(0),
                byte(1),
                byte(2)
            );
        }
    }
    format!(
        "<svg class=\"filters\" viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{count} filters of the first layer of {}\">{svg}</svg>",
        columns * pitch - 1,
        count.div_ceil(columns) * pitch - 1,
        escape(network.name())
    )
}
