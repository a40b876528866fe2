//! Charts as SVG: axes, lines, points, labels that do not overlap. Lengths are in units of a chart that is
//! [`WIDTH`] wide; a browser scales it.

use super::text::escape;

pub(super) const WIDTH: f64 = 420.0;
pub(super) const HEIGHT: f64 = 262.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 42.0;
const LEFT: f64 = 46.0;
/// Distance between the baselines of two labels.
const LINE: f64 = 13.5;
/// Average width of a character of a label.
const CHARACTER: f64 = 7.6;

/// A straight map from values to places.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub(super) low: f64,
    pub(super) high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    pub(super) fn at(&self, value: f64) -> f64 {
        let span = self.high - self.low;
        let share = if span > 0.0 { (value - self.low) / span } else { 0.5 };
        self.from + share * (self.to - self.from)
    }
}

/// Round numbers within a range: about `count` of them.
pub(super) fn ticks(low: f64, high: f64, count: f64) -> Vec<f64> {
    let rough = (high - low) / count;
    if !rough.is_finite() || rough <= 0.0 {
        return vec![low];
    }
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|index| index as f64 * step).collect()
}

/// A range with a margin around the values.
pub(super) fn around(values: impl IntoIterator<Item = f64>, least: f64) -> (f64, f64) {
    let (low, high) = values
        .into_iter()
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return (0.0, 1.0);
    }
    let air = (0.08 * (high - low)).max(least);
    (low - air, high + air)
}

/// A chart under construction.
pub(super) struct Chart {
    pub(super) x: Scale,
    pub(super) y: Scale,
    /// What is drawn under everything that has a value.
    back: String,
    front: String,
    /// Labels of line ends: position, text, class.
    ends: Vec<(f64, String, String)>,
    description: String,
}

/// How ticks are written.
type Show = fn(f64) -> String;

impl Chart {
    /// A chart with axes. The right side is kept free for labels of `room` characters.
    pub(super) fn new(
        description: &str,
        (x_low, x_high): (f64, f64),
        (y_low, y_high): (f64, f64),
        x_title: &str,
        (show_x, show_y): (Show, Show),
        room: usize,
    ) -> Self {
        let right = if room == 0 { 14.0 } else { 12.0 + CHARACTER * room.min(20) as f64 };
        let x = Scale { low: x_low, high: x_high, from: LEFT, to: WIDTH - right };
        let y = Scale { low: y_low, high: y_high, from: HEIGHT - BOTTOM, to: TOP };
        let mut back = String::new();
        for tick in ticks(y_low, y_high, 5.0) {
            let at = y.at(tick);
            back += &format!(
                "<line class=\"grid\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text class=\"tick\" x=\"{:.1}\" \
                 y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                x.from,
                x.to,
                LEFT - 7.0,
                at + 4.0,
                escape(&show_y(tick))
            );
        }
        for tick in ticks(x_low, x_high, 6.0) {
            let at = x.at(tick);
            back += &format!(
                "<text class=\"tick\" x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - BOTTOM + 17.0,
                escape(&show_x(tick))
            );
        }
        back += &format!(
            "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            (x.from + x.to) / 2.0,
            HEIGHT - 6.0,
            escape(x_title)
        );
        Self { x, y, back, front: String::new(), ends: Vec::new(), description: description.into() }
    }

    /// A line through points in order.
    pub(super) fn line(&mut self, class: &str, points: &[(f64, f64)]) {
        if points.len() > 1 {
            self.back += &format!("<path class=\"line {class}\" d=\"{}\"/>", self.path(points));
        }
    }

    fn path(&self, points: &[(f64, f64)]) -> String {
        let mut path = String::new();
        for (index, &(x, y)) in points.iter().enumerate() {
            path += &format!("{}{:.1} {:.1}", if index == 0 { "M" } else { "L" }, self.x.at(x), self.y.at(y));
        }
        path
    }

    /// A band between two curves: positions with the lower and the upper value.
    pub(super) fn band(&mut self, class: &str, points: &[(f64, f64, f64)]) {
        if points.len() > 1 {
            let lower = points.iter().map(|&(x, low, _)| (x, low));
            let upper = points.iter().rev().map(|&(x, _, high)| (x, high));
            let outline = self.path(&lower.chain(upper).collect::<Vec<_>>());
            self.back += &format!("<path class=\"band {class}\" d=\"{outline}Z\"/>");
        }
    }

    /// A straight line between two points.
    pub(super) fn segment(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        self.back += &format!(
            "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
            self.x.at(x1),
            self.y.at(y1),
            self.x.at(x2),
            self.y.at(y2)
        );
    }

    /// A value that hovering and the arrow keys show.
    pub(super) fn point(&mut self, class: &str, shape: usize, size: f64, (x, y): (f64, f64), says: &str) {
        self.front += &marker(class, shape, size, self.x.at(x), self.y.at(y), says);
    }

    /// Names a line at its end, next to the last value.
    pub(super) fn end(&mut self, class: &str, y: f64, text: &str) {
        self.ends.push((self.y.at(y), text.into(), class.into()));
    }

    /// Labels next to points, on the side where there is room.
    pub(super) fn labels(&mut self, labels: &[(f64, f64, &str, String)]) {
        let middle = (self.x.from + self.x.to) / 2.0;
        for left in [false, true] {
            let mut side: Vec<(f64, f64, &str, &str)> = labels
                .iter()
                .map(|(x, y, text, class)| (self.x.at(*x), self.y.at(*y), *text, class.as_str()))
                .filter(|(x, ..)| (*x > middle) == left)
                .collect();
            side.sort_by(|a, b| a.1.total_cmp(&b.1));
            let places = spread(side.iter().map(|(_, y, ..)| *y), TOP + 6.0, HEIGHT - BOTTOM - 4.0);
            for ((x, y, text, class), at) in side.into_iter().zip(places) {
                let (offset, anchor) = if left { (-10.0, "end") } else { (10.0, "start") };
                if (at - y).abs() > 5.0 {
                    self.back += &format!(
                        "<line class=\"leader\" x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\"/>",
                        x + offset * 0.9
                    );
                }
                self.front += &format!(
                    "<text class=\"name {class}\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                    x + offset,
                    at + 4.0,
                    escape(text)
                );
            }
        }
    }

    pub(super) fn svg(mut self) -> String {
        self.ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        let places = spread(self.ends.iter().map(|end| end.0), TOP + 4.0, HEIGHT - BOTTOM);
        for ((_, text, class), at) in self.ends.iter().zip(places) {
            let text: String = text.chars().take(20).collect();
            self.front += &format!(
                "<text class=\"name {class}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                self.x.to + 8.0,
                at + 4.0,
                escape(&text)
            );
        }
        frame(&self.description, HEIGHT, &(self.back + &self.front))
    }
}

/// The element around a chart's content.
pub(super) fn frame(description: &str, height: f64, content: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" tabindex=\"0\" aria-label=\"{}\">{content}</svg>",
        escape(description)
    )
}

/// A circle, square, triangle, diamond, inverted triangle or cross, which distinguishes networks together with their colour. With eight
/// colours, no two of 48 networks look the same.
pub(super) fn marker(class: &str, index: usize, size: f64, x: f64, y: f64, says: &str) -> String {
    let s = size;
    let path = match (index + 5 * (index / 8)) % 6 {
        0 => format!("M{:.1} {y:.1}a{s} {s} 0 1 0 {} 0a{s} {s} 0 1 0 -{} 0", x - s, 2.0 * s, 2.0 * s),
        1 => {
            let side = 1.76 * s;
            format!("M{:.1} {:.1}h{side:.2}v{side:.2}h-{side:.2}z", x - 0.88 * s, y - 0.88 * s)
        }
        2 => {
            format!("M{x:.1} {:.1}L{:.1} {:.1}H{:.1}z", y - 1.15 * s, x + 1.1 * s, y + 0.85 * s, x - 1.1 * s)
        }
        3 => format!(
            "M{x:.1} {:.1}L{:.1} {y:.1}L{x:.1} {:.1}L{:.1} {y:.1}z",
            y - 1.25 * s,
            x + 1.25 * s,
            y + 1.25 * s,
            x - 1.25 * s
        ),
        4 => {
            format!("M{x:.1} {:.1}L{:.1} {:.1}H{:.1}z", y + 1.15 * s, x + 1.1 * s, y - 0.85 * s, x - 1.1 * s)
        }
        _ => {
            let (arm, long) = (0.8 * s, 0.75 * s);
            format!(
                "M{:.1} {:.1}h{arm:.2}v{long:.2}h{long:.2}v{arm:.2}h-{long:.2}v{long:.2}h-{arm:.2}v-{long:.2}h-{long:.2}v-{arm:.2}\
                 h{long:.2}z",
                x - arm / 2.0,
                y - arm / 2.0 - long
            )
        }
    };
    format!(
        "<path class=\"pt {class}\" data-x=\"{x:.1}\" data-y=\"{y:.1}\" d=\"{path}\"><title>{}</title></path>",
        escape(says)
    )
}

/// Moves ascending positions apart, as little as necessary, until each has its own line, between `low` and `high`.
fn spread(places: impl IntoIterator<Item = f64>, low: f64, high: f64) -> Vec<f64> {
    let mut spread: Vec<f64> = Vec::new();
    for place in places {
        let least = spread.last().map_or(low, |last| last + LINE);
        spread.push(place.max(least));
    }
    let mut most = high;
    for place in spread.iter_mut().rev() {
        *place = place.min(most);
        most = *place - LINE;
    }
    spread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(ticks(0.0, 10.0, 5.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        let found = ticks(0.47, 1.63, 5.0);
        assert!(found.len() >= 3 && found.iter().all(|tick| (0.47..=1.63).contains(tick)), "{found:?}");
        assert_eq!(ticks(3.0, 3.0, 5.0), [3.0]);
        assert_eq!(ticks(0.0, f64::NAN, 5.0), [0.0]);
    }

    #[test]
    fn labels_keep_apart() {
        let found = spread([10.0, 11.0, 12.0, 200.0], 0.0, 205.0);
        assert!(found.windows(2).all(|pair| pair[1] - pair[0] >= LINE - 1e-9), "{found:?}");
        let found = spread([203.0, 204.0], 0.0, 205.0);
        assert!(found[1] <= 205.0 && found[1] - found[0] >= LINE - 1e-9, "{found:?}");
    }

    #[test]
    fn what_a_point_says_is_escaped() {
        let mut chart =
            Chart::new("<d>", (0.0, 1.0), (0.0, 1.0), "x", (|v| v.to_string(), |v| v.to_string()), 3);
        chart.point("n0", 1, 3.0, (0.5, 0.5), "<script>");
        chart.end("n0", 0.5, "<b>");
        let svg = chart.svg();
        assert!(!svg.contains("<script>") && !svg.contains("<b>") && !svg.contains("<d>"), "{svg}");
    }
}
