//! Tables in Markdown and HTML.

use crate::report::page::Page;
use crate::report::text::printable;

/// A table whose first `words` columns hold text and the others numbers.
pub struct Grid {
    /// Heading.
    pub caption: &'static str,
    /// Names of the columns.
    pub head: Vec<String>,
    /// Number of text columns.
    pub words: usize,
    /// Cells.
    pub rows: Vec<Vec<String>>,
    /// Explanation of the columns.
    pub hint: String,
}

impl Grid {
    /// Returns the table in Markdown, padded for reading in a terminal. Empty columns are left out.
    pub fn markdown(&self) -> String {
        let columns: Vec<usize> =
            (0..self.head.len()).filter(|&column| self.rows.iter().any(|row| !row[column].is_empty())).collect();
        let cells = |row: &Vec<String>| columns.iter().map(|&column| markdown(&row[column])).collect::<Vec<_>>();
        let head = cells(&self.head);
        let rows: Vec<Vec<String>> = self.rows.iter().map(cells).collect();
        let width = |i: usize| rows.iter().chain([&head]).map(|row| row[i].chars().count()).max().unwrap_or(0).max(2);
        let widths: Vec<usize> = (0..columns.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let padded = row.iter().enumerate().map(|(i, cell)| match columns[i] < self.words {
                true => format!(" {cell:<0$} |", widths[i]),
                false => format!(" {cell:>0$} |", widths[i]),
            });
            format!("|{}\n", padded.collect::<String>())
        };
        let rule = columns.iter().zip(&widths).map(|(&column, &width)| match column < self.words {
            true => format!("{}|", "-".repeat(width + 2)),
            false => format!("{}:|", "-".repeat(width + 1)),
        });
        let rule = rule.collect::<String>();
        let body: String = rows.iter().map(line).collect();
        format!("## {}\n\n{}|{rule}\n{body}\n{}\n", self.caption, line(&head), self.hint)
    }

    /// Appends the table to a page.
    pub fn html(&self, page: &mut Page) {
        page.heading(self.caption);
        page.table("", &self.head.iter().map(String::as_str).collect::<Vec<_>>(), &self.rows);
        page.hint(&self.hint);
    }
}

/// Escapes text for one line of Markdown.
pub fn markdown(text: &str) -> String {
    let mut out = String::new();
    for c in printable(text).chars() {
        match c {
            '\n' | '\t' => out.push(' '),
            '\\' | '|' | '<' | '>' | '&' | '`' | '*' | '[' | ']' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}
