//! Tables of text, aligned for Markdown and for a terminal.

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// As words.
    Left,
    /// As numbers.
    Right,
}

/// A table with a title over each column.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new<'a>(columns: impl IntoIterator<Item = (&'a str, Align)>) -> Self {
        let columns = columns.into_iter().map(|(title, align)| (title.to_owned(), align)).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        let mut cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// With pipes; each line ends in a line feed.
    pub fn markdown(&self) -> String {
        let escape = |text: &str| text.replace('|', "\\|").replace(['\r', '\n'], " ");
        let titles: Vec<String> = self.columns.iter().map(|(title, _)| escape(title)).collect();
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|row| row.iter().map(|cell| escape(cell)).collect()).collect();
        let widths = self.widths(&titles, &rows, 3);
        let line = |cells: &[String]| format!("| {} |\n", self.pad(cells, &widths).join(" | "));
        let rule: Vec<String> = widths
            .iter()
            .zip(&self.columns)
            .map(|(&width, &(_, align))| match align {
                Align::Left => "-".repeat(width),
                Align::Right => "-".repeat(width - 1) + ":",
            })
            .collect();
        let mut text = line(&titles);
        text += &format!("| {} |\n", rule.join(" | "));
        rows.iter().for_each(|row| text += &line(row));
        text
    }

    /// With spaces; each line ends in a line feed.
    pub fn plain(&self) -> String {
        let titles: Vec<String> = self.columns.iter().map(|(title, _)| title.clone()).collect();
        let widths = self.widths(&titles, &self.rows, 0);
        std::iter::once(&titles)
            .chain(&self.rows)
            .map(|row| self.pad(row, &widths).join("  ").trim_end().to_owned() + "\n")
            .collect()
    }

    fn widths(&self, titles: &[String], rows: &[Vec<String>], least: usize) -> Vec<usize> {
        let width = |text: &String| text.chars().count();
        (0..self.columns.len())
            .map(|column| {
                let cells = rows.iter().map(|row| width(&row[column]));
                cells.chain([width(&titles[column]), least]).max().unwrap_or(0)
            })
            .collect()
    }

    fn pad(&self, cells: &[String], widths: &[usize]) -> Vec<String> {
        cells
            .iter()
            .zip(widths)
            .zip(&self.columns)
            .map(|((cell, &width), &(_, align))| match align {
                Align::Left => format!("{cell:<width$}"),
                Align::Right => format!("{cell:>width$}"),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new([("network", Align::Left), ("n", Align::Right)]);
        table.row(["nin", "1,485,386"]);
        table.row(["a|b ± c"]);
        assert_eq!(
            table.markdown(),
            "| network  |         n |\n| -------- | --------: |\n| nin      | 1,485,386 |\n| a\\|b ± c |           |\n"
        );
        assert_eq!(table.plain(), "network          n\nnin      1,485,386\na|b ± c\n");
    }
}
