//! Text on its way into the page.

use crate::number::decimals;

/// Text as HTML, in an element or in an attribute between quotation marks. Every string that comes from a run goes through here.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            // A browser does not show these.
            character if character.is_control() && character != '\n' => escaped.push('\u{fffd}'),
            character => escaped.push(character),
        }
    }
    escaped
}

/// A sentence with names in backquotes, which are set apart.
pub(super) fn named(sentence: &str) -> String {
    let parts: Vec<String> = sentence.split('`').map(escape).collect();
    if parts.len().is_multiple_of(2) {
        return escape(sentence);
    }
    let mut html = String::new();
    for (index, part) in parts.into_iter().enumerate() {
        html += &if index % 2 == 1 { format!("<strong>{part}</strong>") } else { part };
    }
    html
}

/// Prose of several paragraphs, which empty lines separate.
pub(super) fn paragraphs(text: &str) -> String {
    let mut html = String::new();
    let mut paragraph = String::new();
    for line in text.lines().chain([""]) {
        if !line.trim().is_empty() {
            paragraph += if paragraph.is_empty() { "" } else { " " };
            paragraph += line.trim();
        } else if !paragraph.is_empty() {
            html += &format!("<p>{}</p>", escape(&paragraph));
            paragraph.clear();
        }
    }
    html
}

/// A file in a link: `data:text/csv,...`.
pub(super) fn data_link(kind: &str, content: &str) -> String {
    let mut link = format!("data:{kind};charset=utf-8,");
    for byte in content.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b',' => {
                link.push(char::from(byte));
            }
            _ => link += &format!("%{byte:02X}"),
        }
    }
    link
}

/// Three digits and a unit: `6.98 M`, `38.4 k`, `640`.
pub(super) fn short(number: f64) -> String {
    let (value, unit) = match number.abs() {
        value if value >= 999.5e6 => (number / 1e9, " G"),
        value if value >= 999.5e3 => (number / 1e6, " M"),
        value if value >= 999.5 => (number / 1e3, " k"),
        _ => return decimals(number, if number.fract() == 0.0 { 0 } else { 1 }),
    };
    let places = if value.abs() < 9.995 { 2 } else { usize::from(value.abs() < 99.95) };
    decimals(value, places) + unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_its_place() {
        assert_eq!(escape("<script>'\"&\u{1b}"), "&lt;script&gt;&#39;&quot;&amp;\u{fffd}");
        assert_eq!(data_link("text/csv", "a b\"<\n"), "data:text/csv;charset=utf-8,a%20b%22%3C%0A");
    }

    #[test]
    fn prose_is_text_in_paragraphs() {
        assert_eq!(paragraphs("\n one\ntwo <b>\n \n\nthree\n"), "<p>one two &lt;b&gt;</p><p>three</p>");
        assert_eq!(named("`a<b` has 2"), "<strong>a&lt;b</strong> has 2");
        assert_eq!(named("one ` alone"), "one ` alone");
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0.0, "0"),
            (640.0, "640"),
            (38_400.0, "38.4 k"),
            (6_979_146.0, "6.98 M"),
            (171_643_904.0, "172 M"),
        ] {
            assert_eq!(short(number), text);
        }
    }
}
