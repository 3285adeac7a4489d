//! Plain-text tables.

/// A header and rows of cells. The first `words` columns hold text, the others numbers.
pub struct Table {
    rows: Vec<Vec<String>>,
    words: usize,
}

impl Table {
    /// Makes a table with a header.
    pub fn new(head: &[&str], words: usize) -> Self {
        Table { rows: vec![head.iter().map(|cell| (*cell).to_string()).collect()], words }
    }

    /// Appends a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Returns the table with text left-aligned and numbers right-aligned.
    pub fn text(&self) -> String {
        let count = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |i: usize| self.rows.iter().filter_map(|row| row.get(i)).map(|c| c.chars().count()).max();
        let widths: Vec<_> = (0..count).map(|i| width(i).unwrap_or(0)).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).enumerate();
            let cells = cells.map(|(i, (cell, &w))| match i < self.words {
                true => format!("{cell:<w$}"),
                false => format!("{cell:>w$}"),
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_string() + "\n"
        };
        self.rows.iter().map(line).collect()
    }
}

/// Formats seconds as milliseconds with four significant digits.
pub fn milliseconds(seconds: f64) -> String {
    significant(seconds * 1e3)
}

/// Formats a number with four significant digits, without an exponent and with at most nine decimals.
pub fn significant(x: f64) -> String {
    let digits = if x > 0.0 { 3 - x.log10().floor() as i32 } else { 0 };
    format!("{x:.*}", digits.clamp(0, 9) as usize)
}

#[cfg(test)]
mod tests {
    use super::{Table, milliseconds, significant};

    #[test]
    fn words_left_numbers_right() {
        let mut table = Table::new(&["case", "ms"], 1);
        table.row(vec!["a".into(), "10.5".into()]);
        table.row(vec!["longer".into(), "1".into()]);
        assert_eq!(table.text(), "case      ms\na       10.5\nlonger     1\n");
    }

    #[test]
    fn four_digits() {
        assert_eq!(milliseconds(0.0123456), "12.35");
        let all = [(0.0, "0"), (1234567.0, "1234567"), (123.456, "123.5"), (0.00123456, "0.001235")];
        all.iter().for_each(|(x, text)| assert_eq!(significant(*x), *text));
    }
}
