//! A table that becomes Markdown or HTML.

use crate::report::page::Page;
use crate::report::text::printable;

/// Cells under a head; the first columns are words, the others numbers.
pub struct Grid {
    pub caption: &'static str,
    pub head: Vec<String>,
    pub words: usize,
    pub rows: Vec<Vec<String>>,
    /// What the columns mean.
    pub hint: String,
}

impl Grid {
    /// Columns that say nothing are left out. Padded, so that it is a table for terminals too.
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

    pub fn html(&self, page: &mut Page) {
        page.heading(self.caption);
        page.table("", &self.head.iter().map(String::as_str).collect::<Vec<_>>(), &self.rows);
        page.hint(&self.hint);
    }
}

/// Text as Markdown shows it as it is, in one line.
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
