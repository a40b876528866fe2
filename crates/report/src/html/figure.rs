//! A chart with its caption and its numbers.

use super::text::{data_link, escape};

/// Numbers behind a chart.
pub(super) struct Data {
    pub(super) columns: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

impl Data {
    pub(super) fn new<T: Into<String>>(columns: impl IntoIterator<Item = T>) -> Self {
        Self { columns: columns.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// As a table; the first column heads the rows.
    pub(super) fn table(&self, caption: &str) -> String {
        let mut html = format!(
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\"><table><caption>{0}</caption><thead><tr>",
            escape(caption)
        );
        for column in &self.columns {
            html += &format!("<th scope=\"col\">{}</th>", escape(column));
        }
        html += "</tr></thead><tbody>";
        for row in &self.rows {
            html += "<tr>";
            for (index, cell) in row.iter().enumerate() {
                html += &match index {
                    0 => format!("<th scope=\"row\">{}</th>", escape(cell)),
                    _ => format!("<td>{}</td>", escape(cell)),
                };
            }
            html += "</tr>";
        }
        html + "</tbody></table></div>"
    }

    fn csv(&self) -> String {
        let line = |cells: &Vec<String>| {
            let quoted: Vec<String> = cells
                .iter()
                .map(|cell| match cell.contains([',', '"', '\n', '\r']) {
                    true => format!("\"{}\"", cell.replace('"', "\"\"")),
                    false => cell.clone(),
                })
                .collect();
            quoted.join(",") + "\r\n"
        };
        std::iter::once(&self.columns).chain(&self.rows).map(line).collect()
    }

    /// Collapsed, with a file to download.
    pub(super) fn details(&self, title: &str, file: &str) -> String {
        format!(
            "<details class=\"data\"><summary>The numbers: {}</summary>{}<p><a download=\"{file}.csv\" href=\"{}\">Download as CSV</a></p></details>",
            escape(title),
            self.table(title),
            data_link("text/csv", &self.csv())
        )
    }
}

/// A chart under its title.
pub(super) fn figure(title: &str, note: &str, svg: &str) -> String {
    let note = if note.is_empty() { String::new() } else { format!("<span>{}</span>", escape(note)) };
    format!("<figure class=\"chart\"><figcaption>{}{note}</figcaption>{svg}</figure>", escape(title))
}
