//! Reports on measurements by vcycle and its peers, as tables, pictures and an HTML page. The input is lines of JSON
//! from `vcycle bench --json` and from the peers in `benches/baselines/`; `docs/benchmarks.md` describes keys and
//! figures.

mod case;
mod grid;
mod line;
mod operations;
mod roofline;
mod tables;

use crate::error::Result;
use crate::files::write_atomic;
use crate::report::canvas::Drawing;
use crate::report::page::Page;
use grid::Grid;
pub use line::{LONGEST, MOST_BYTES};
use operations::Operations;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The tables and pictures of a report.
pub struct Report {
    tables: Vec<Grid>,
    /// The table of operations, which is shown next to its picture.
    operations: Option<Grid>,
    roofline: Option<Drawing>,
    step: Option<Drawing>,
    /// Notes on the whole report.
    notes: Vec<String>,
}

const TITLE: &str = "vcycle bench report";
const ROOFLINE: &str = "Operations under the roofline";
/// Explanation of the roofline picture.
const ROOFLINE_HINT: &str = "Names are followed by GFLOP/s. FLOPs and bytes are as counted by the operations; the roof \
                             is the best measured in all files. Points above the roof had operands partly in cache.";

impl Report {
    /// Reads lines of JSON and builds the report.
    ///
    /// # Errors
    /// If a file cannot be read, a line is not a valid measurement (the message has its file and number), or there are
    /// more lines or peers than a report can hold.
    pub fn of(paths: &[PathBuf]) -> Result<Self> {
        let cases = case::gather(paths)?;
        let operations = Operations::of(&cases);
        let contenders = || cases.iter().flat_map(case::Case::contenders);
        let lines = || contenders().flat_map(case::Contender::lines);
        let measured: BTreeSet<String> = lines()
            .map(|line| format!("{} {}", line.who(), line.version.as_deref().unwrap_or("of unknown version")))
            .collect();
        let mut notes = vec![format!("Measured: {}.", measured.into_iter().collect::<Vec<_>>().join(", "))];
        if contenders().any(|contender| !contender.is_timed()) {
            notes.push("Times of the emulator say nothing about speed.".to_string());
        }
        Ok(Report {
            tables: tables::ratios(&cases).into_iter().chain([tables::figures(&cases)]).collect(),
            operations: tables::operations(&operations),
            roofline: roofline::drawing(&cases)?,
            step: operations.drawing()?,
            notes,
        })
    }

    /// Returns all tables in Markdown.
    pub fn markdown(&self) -> String {
        self.document(false)
    }

    fn document(&self, pictures: bool) -> String {
        let mut text = format!("# {TITLE}\n");
        self.tables.iter().for_each(|table| text += &format!("\n{}", table.markdown()));
        if pictures && self.roofline.is_some() {
            text += &format!("\n## {ROOFLINE}\n\n![{ROOFLINE}](roofline.svg)\n\n{ROOFLINE_HINT}\n");
        }
        if let Some(table) = &self.operations {
            text += &format!("\n{}", table.markdown());
        }
        if pictures && self.step.is_some() {
            text += "\n![Where a step's time goes](step.svg)\n";
        }
        self.notes.iter().for_each(|note| text += &format!("\n{}\n", grid::markdown(note)));
        text
    }

    /// Returns the report as one self-contained HTML page.
    pub fn html(&self) -> String {
        let mut page = Page::new(TITLE);
        page.raw(&format!("<h1>{TITLE}</h1>\n"));
        self.tables.iter().for_each(|table| table.html(&mut page));
        if let Some(roofline) = &self.roofline {
            page.heading(ROOFLINE);
            page.picture(roofline);
            page.hint(ROOFLINE_HINT);
        }
        self.operations.iter().for_each(|table| table.html(&mut page));
        self.step.iter().for_each(|step| page.picture(step));
        self.notes.iter().for_each(|note| page.hint(note));
        page.finish()
    }

    /// Writes `report.md`, `report.html` and, if they exist, the pictures `roofline.svg` and `step.svg`.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let pictures = [("roofline.svg", &self.roofline), ("step.svg", &self.step)];
        let pictures = pictures.into_iter().filter_map(|(name, drawing)| Some((name, drawing.as_ref()?.svg())));
        let texts = [("report.md", self.document(true)), ("report.html", self.html())];
        for (name, text) in pictures.chain(texts) {
            write_atomic(&folder.join(name), |out| out.write_all(text.as_bytes()))?;
        }
        Ok(())
    }
}
