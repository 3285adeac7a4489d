//! Formats measurements as tables and as lines of JSON.

use super::Request;
use super::measure::Measured;
use super::roofline::Roofline;
use super::shapes::{Shape, Subject};
use super::step::Steps;
use super::table::{Table, milliseconds, significant};
use crate::config::Precision;
use crate::device::ops::Cost;
use serde_json::{Value, json};

/// The request and the roofline, which all measurements of a command share.
pub struct Setting<'a> {
    pub request: &'a Request,
    /// `None` on the emulator, whose times are meaningless.
    pub roofline: Option<Roofline>,
}

const MIB: f64 = 1_048_576.0;

impl Setting<'_> {
    fn precision(&self) -> &'static str {
        match self.request.precision {
            _ if self.request.device == "reference" => "f64",
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }

    /// Returns the line with the device and its roofline.
    pub fn head(&self, roofline: &Roofline) -> String {
        let Request { device, threads, .. } = self.request;
        let threads = if device == "cuda" { String::new() } else { format!(", {threads} threads") };
        format!(
            "{device}{threads}, {}; roofline: {} GB/s ({what}; copy {}), {} GFLOP/s (GEMM {side} x {side} x {side})\n",
            self.precision(),
            significant(roofline.bytes / 1e9),
            significant(roofline.copy / 1e9),
            significant(roofline.flops / 1e9),
            what = if roofline.add > roofline.copy { "sum" } else { "copy" },
            side = roofline.side
        )
    }

    /// Returns the table of a shape, with warnings about doubtful measurements.
    pub fn table(&self, shape: &Shape, all: &[Measured]) -> String {
        let head = ["shape", "case", "variant", "ms", "best", "spread", "GFLOP/s", "GB/s", "roofline", "by", "runs"];
        let mut table = Table::new(&head, 3);
        for m in all {
            let Cost { flops, bytes } = m.cost;
            let rate = |count: u64| significant(count as f64 / m.summary.median / 1e9);
            let (percent, bound) = match &self.roofline {
                Some(r) => (format!("{:.0} %", r.percent(m.cost, m.summary.median)), r.least(m.cost).1.name()),
                None => ("-".into(), "-"),
            };
            table.row(vec![
                shape.name.clone(),
                m.case.into(),
                m.peer.as_ref().map_or(m.variant.unwrap_or("-"), |(peer, _)| peer.name()).into(),
                milliseconds(m.summary.median),
                milliseconds(m.summary.best),
                format!("{:.1} %", 100.0 * m.summary.spread),
                rate(flops),
                rate(bytes),
                percent,
                bound.into(),
                m.summary.runs.to_string(),
            ]);
        }
        let warnings = all.iter().filter_map(|m| {
            let percent = self.roofline.map_or(0.0, |r| r.percent(m.cost, m.summary.median));
            warning(&format!("{} {}", shape.name, m.case), percent, m.summary.spread)
        });
        table.text() + &warnings.collect::<String>()
    }

    /// Returns the keys that all lines have.
    fn common(&self, subject: Subject, shape: &Shape) -> Value {
        json!({
            "bench": subject.name(),
            "peer": format!("vcycle_{}", self.precision()),
            "label": self.request.label,
            "version": env!("CARGO_PKG_VERSION"),
            "device": self.request.device,
            "shape": shape.name,
            "sizes": shape.sizes,
            "mark": shape.mark,
            "threads": self.request.threads,
            "precision": self.precision(),
            "times_mean_nothing": self.roofline.is_none(),
            "roofline_gb_per_s": self.roofline.map(|r| r.bytes / 1e9),
            "copy_gb_per_s": self.roofline.map(|r| r.copy / 1e9),
            "roofline_gflops": self.roofline.map(|r| r.flops / 1e9),
        })
    }

    /// Returns the line of one measurement of an operation.
    pub fn json(&self, shape: &Shape, m: &Measured) -> Value {
        let rate = |count: u64| count as f64 / m.summary.median / 1e9;
        let own = json!({
            "case": m.case,
            "variant": m.variant,
            "runs": m.summary.runs,
            "sets": m.sets,
            "ms_median": m.summary.median * 1e3,
            "ms_best": m.summary.best * 1e3,
            "spread": m.summary.spread,
            "flops": m.cost.flops,
            "bytes": m.cost.bytes,
            "gflops": rate(m.cost.flops),
            "gb_per_s": rate(m.cost.bytes),
            "percent_of_roofline": self.roofline.map(|r| r.percent(m.cost, m.summary.median)),
            "bound": self.roofline.map(|r| r.least(m.cost).1.name()),
        });
        let theirs = m.peer.as_ref().map(
            |(peer, version)| json!({ "peer": format!("{}_{}", peer.name(), self.precision()), "version": version }),
        );
        let ours = merged(self.common(self.request.subject, shape), own);
        theirs.map_or(ours.clone(), |theirs| merged(ours, theirs))
    }

    /// Returns the tables of a step: its time, and the time of each operation.
    pub fn step_text(&self, shape: &Shape, s: &Steps) -> String {
        let median = s.summary.median;
        let mut table = Table::new(
            &[
                "shape", "device", "ms", "best", "spread", "tokens/s", "GFLOP/s", "of GEMM", "MiB", "at start", "J",
                "loss", "steps",
            ],
            2,
        );
        let rate = s.flops as f64 / median;
        table.row(vec![
            shape.name.clone(),
            self.request.device.clone(),
            milliseconds(median),
            milliseconds(s.summary.best),
            format!("{:.1} %", 100.0 * s.summary.spread),
            format!("{:.0}", s.tokens as f64 / median),
            significant(rate / 1e9),
            self.roofline.map_or("-".into(), |r| format!("{:.0} %", 100.0 * rate / r.flops)),
            format!("{:.0}", s.resident.1 as f64 / MIB),
            format!("{:.0}", s.resident.0 as f64 / MIB),
            s.joules.map_or("-".into(), significant),
            format!("{:.4}", s.loss),
            s.summary.runs.to_string(),
        ]);
        let mut apart = Table::new(&["operation", "ms/step", "share"], 1);
        let all: f64 = s.operations.iter().map(|o| o.1).sum();
        for (name, seconds) in &s.operations {
            let part = format!("{:.1} %", 100.0 * seconds / all.max(f64::MIN_POSITIVE));
            apart.row(vec![(*name).into(), milliseconds(*seconds), part]);
        }
        let head = self.roofline.map_or(String::new(), |r| self.head(&r));
        let percent = self.roofline.map_or(0.0, |r| 100.0 * rate / r.flops);
        let warning = warning(&shape.name, percent, s.summary.spread).unwrap_or_default();
        format!("{head}\n{}{warning}\n{}", table.text(), apart.text())
    }

    /// Returns the line of the measurement of a step.
    pub fn step_json(&self, shape: &Shape, s: &Steps) -> Value {
        let median = s.summary.median;
        let rate = |flops: u64| flops as f64 / median / 1e9;
        let operations = s.operations.iter().map(|(name, seconds)| ((*name).to_string(), json!(seconds * 1e3)));
        let own = json!({
            "params": s.params,
            "steps": s.summary.runs,
            "ms_median": median * 1e3,
            "ms_best": s.summary.best * 1e3,
            "spread": s.summary.spread,
            "tokens_per_s": (s.tokens as f64 / median).round(),
            "gflops": rate(s.flops),
            "rss_mb": (s.resident.1 as f64 / MIB).round(),
            "rss_at_start_mb": (s.resident.0 as f64 / MIB).round(),
            "loss": s.loss,
            "joules_per_step": s.joules,
            "flops": s.flops,
            "model_flops": s.counted.model,
            "hardware_flops": s.counted.hardware,
            "activation_mb": s.activations as f64 / MIB,
            "percent_of_products": self.roofline.map(|r| 100.0 * s.flops as f64 / median / r.flops),
            "ms_by_operation": serde_json::Map::from_iter(operations),
        });
        merged(self.common(Subject::Step, shape), own)
    }
}

/// Percentage of the roofline above which a measurement is doubtful. A little above 100 % is noise.
const BEYOND: f64 = 110.0;
/// Spread, as a fraction of the median, above which times are not worth comparing.
const SPREAD: f64 = 0.5;

/// Returns a warning that says why a measurement is doubtful, if it is.
fn warning(what: &str, percent: f64, spread: f64) -> Option<String> {
    let beyond = (percent > BEYOND).then(|| {
        format!(
            "{percent:.0} % of the roofline: the operands stay in cache, or the clock changed since the roofline was \
             measured"
        )
    });
    let wide = (spread > SPREAD).then(|| {
        format!(
            "a spread of {:.0} %: other programs use the machine, or there are too few runs; measure again",
            100.0 * spread
        )
    });
    let causes: Vec<String> = beyond.into_iter().chain(wide).collect();
    if causes.is_empty() { None } else { Some(format!("warning: {what}: {}\n", causes.join("; "))) }
}

/// Merges two objects; keys of the second win.
fn merged(mut all: Value, own: Value) -> Value {
    if let (Value::Object(all), Value::Object(own)) = (&mut all, own) {
        all.extend(own);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::warning;

    #[test]
    fn doubtful_measurements_are_said() {
        assert_eq!(warning("x", 109.0, 0.5), None);
        assert!(warning("3x4 forward", 111.0, 0.1).is_some_and(|w| w.starts_with("warning: 3x4 forward: 111 % of")));
        assert!(warning("x", 0.0, 0.51).is_some_and(|w| w.contains("spread of 51 %")));
        assert!(warning("x", 200.0, 2.0).is_some_and(|w| w.contains("roofline") && w.contains("spread")));
    }
}
