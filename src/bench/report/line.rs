//! Reads measurements: lines of JSON by `vcycle bench --json` or by a peer with the same keys.

use crate::bail;
use crate::bench::shapes::Subject;
use crate::error::{At, Error, Result};
use crate::files;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// One measurement; `docs/benchmarks.md` describes the keys. Unknown keys are ignored, and `null` counts as missing.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    pub bench: String,
    pub peer: String,
    pub device: String,
    pub shape: String,
    pub threads: u64,
    pub ms_median: f64,
    pub case: Option<String>,
    pub version: Option<String>,
    pub precision: Option<String>,
    pub variant: Option<String>,
    pub label: Option<String>,
    pub round: Option<u64>,
    pub tokens_per_s: Option<f64>,
    pub gflops: Option<f64>,
    pub gb_per_s: Option<f64>,
    pub flops: Option<f64>,
    pub bytes: Option<f64>,
    pub percent_of_roofline: Option<f64>,
    /// For a step, instead: FLOP/s as a percentage of those of the best matrix product.
    pub percent_of_products: Option<f64>,
    pub roofline_gflops: Option<f64>,
    pub roofline_gb_per_s: Option<f64>,
    pub params: Option<f64>,
    pub rss_mb: Option<f64>,
    pub rss_at_start_mb: Option<f64>,
    pub joules_per_step: Option<f64>,
    pub ms_by_operation: Option<BTreeMap<String, f64>>,
    #[serde(default)]
    pub times_mean_nothing: bool,
}

/// Largest file in bytes: about 60,000 lines.
pub const MOST_BYTES: u64 = 1 << 26;
/// Longest name in characters.
pub const LONGEST: usize = 200;
/// Valid milliseconds: from a picosecond to 30 years.
const MILLISECONDS: std::ops::RangeInclusive<f64> = 1e-9..=1e12;
/// Largest valid count or rate.
const MOST: f64 = 1e24;

/// Reads the lines of a file, skipping empty ones.
///
/// # Errors
/// If the file cannot be read or is empty, or a line is not a valid measurement (the message has its file and number).
pub fn read(path: &Path) -> Result<Vec<Line>> {
    let text = files::read_text(path, MOST_BYTES)?;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = format!("{}, line {}", path.display(), number + 1);
        lines.push(Line::parse(line).at(place)?);
    }
    if lines.is_empty() {
        bail!("{} holds no lines; `vcycle bench ... --json FILE` writes them", path.display());
    }
    Ok(lines)
}

impl Line {
    fn parse(text: &str) -> Result<Self> {
        let wanted = "expected a line of `vcycle bench --json`, or of a peer with the same keys";
        let value: Value =
            serde_json::from_str(text).map_err(|e| Error::new(format!("not valid JSON: {e}; {wanted}")))?;
        if !value.is_object() {
            bail!("not a JSON object; {wanted}");
        }
        let mut line: Line = serde_json::from_value(value).map_err(|e| Error::new(format!("{e}; {wanted}")))?;
        line.check()?;
        line.complete()?;
        Ok(line)
    }

    fn check(&self) -> Result<()> {
        let names = [
            ("bench", Some(&self.bench)),
            ("peer", Some(&self.peer)),
            ("device", Some(&self.device)),
            ("shape", Some(&self.shape)),
            ("case", self.case.as_ref()),
            ("version", self.version.as_ref()),
            ("precision", self.precision.as_ref()),
            ("variant", self.variant.as_ref()),
            ("label", self.label.as_ref()),
        ];
        for (key, name) in names.iter().filter_map(|(key, name)| Some((key, name.as_ref()?))) {
            if name.trim().is_empty() || name.chars().count() > LONGEST {
                bail!("{key} has {} characters; expected a name of 1 to {LONGEST}", name.chars().count());
            }
        }
        if !MILLISECONDS.contains(&self.ms_median) {
            bail!("ms_median is {:e}; expected milliseconds from 1e-9 to 1e12", self.ms_median);
        }
        let numbers = [
            ("tokens_per_s", self.tokens_per_s),
            ("gflops", self.gflops),
            ("gb_per_s", self.gb_per_s),
            ("flops", self.flops),
            ("bytes", self.bytes),
            ("percent_of_roofline", self.percent_of_roofline),
            ("percent_of_products", self.percent_of_products),
            ("roofline_gflops", self.roofline_gflops),
            ("roofline_gb_per_s", self.roofline_gb_per_s),
            ("params", self.params),
            ("rss_mb", self.rss_mb),
            ("rss_at_start_mb", self.rss_at_start_mb),
            ("joules_per_step", self.joules_per_step),
        ];
        let apart = self.ms_by_operation.iter().flatten().map(|(_, &ms)| ("ms_by_operation", Some(ms)));
        for (key, number) in numbers.into_iter().chain(apart).filter_map(|(key, n)| Some((key, n?))) {
            if !(0.0..=MOST).contains(&number) {
                bail!("{key} is {number:e}; expected a number from 0 to {MOST:e}");
            }
        }
        Ok(())
    }

    /// Derives a missing precision from the name of the peer, and normalizes the form of the shape.
    fn complete(&mut self) -> Result<()> {
        if !Subject::names().any(|name| name == self.bench) {
            let known: Vec<_> = Subject::names().collect();
            bail!("bench is {:?}; expected one of {}", self.bench, known.join(", "));
        }
        if self.precision.is_none() {
            let of_peer = self.peer.rsplit_once('_').map(|(_, last)| last);
            let Some(precision) = of_peer.filter(|last| ["f32", "bf16", "f64"].contains(last)) else {
                bail!(
                    "precision is missing, and the peer {:?} does not end in one, as torch_eager_f32 does",
                    self.peer
                );
            };
            self.precision = Some(precision.to_string());
        }
        // Sizes may be separated by commas or x.
        if self.shape.starts_with(|c: char| c.is_ascii_digit()) {
            self.shape = self.shape.replace(',', "x");
        }
        Ok(())
    }

    /// Returns whether vcycle itself was measured.
    pub fn is_ours(&self) -> bool {
        self.peer == OURS || self.peer.starts_with("vcycle_")
    }

    /// Returns the name of the peer without the precision, which has its own column.
    pub fn who(&self) -> &str {
        let precision = self.precision.as_deref().unwrap_or("");
        let name = self.peer.strip_suffix(precision).and_then(|name| name.strip_suffix('_'));
        name.filter(|name| !name.is_empty()).unwrap_or(&self.peer)
    }
}

/// The name of vcycle among its peers.
pub const OURS: &str = "vcycle";
