//! Writes recorded spans as a file for `chrome://tracing` or <https://ui.perfetto.dev>, and totals as a table.
//!
//! The file is in the Trace Event Format: complete events (`"ph": "X"`) with times in microseconds, on two tracks: the
//! phases of the run, and below them the operations of the device.

use crate::device::timing::{Span, Timings, Work};
use crate::error::Result;
use crate::files::write_atomic;
use serde::Serialize;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

/// Most spans in a profile: about 3,000 steps of a small model, 30 MB of JSON.
pub const SPANS: usize = 200_000;

const RUN: u32 = 1;
const DEVICE: u32 = 2;

#[derive(Serialize)]
struct Event {
    name: &'static str,
    cat: &'static str,
    ph: &'static str,
    ts: f64,
    dur: f64,
    pid: u32,
    tid: u32,
    args: Args,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Args {
    Operation {
        shape: Vec<usize>,
        flops: u64,
        gflops_per_second: f64,
    },
    Mark {
        number: u64,
    },
    /// The name of a track.
    Track {
        name: &'static str,
    },
}

fn track(tid: u32, name: &'static str) -> Event {
    Event { name: "thread_name", cat: "track", ph: "M", ts: 0.0, dur: 0.0, pid: 1, tid, args: Args::Track { name } }
}

fn event(span: &Span) -> Event {
    let micros = |t: Duration| t.as_nanos() as f64 / 1e3;
    let (cat, tid, args) = match span.work {
        Work::Operation { flops, shape } => {
            // FLOPs per nanosecond are GFLOP/s. A span of zero length counts as one nanosecond.
            let rate = flops as f64 / span.length.as_nanos().max(1) as f64;
            (
                "operation",
                DEVICE,
                Args::Operation { shape: shape.dims().to_vec(), flops, gflops_per_second: (rate * 1e3).round() / 1e3 },
            )
        }
        Work::Mark { number } => ("run", RUN, Args::Mark { number }),
    };
    Event { name: span.name, cat, ph: "X", ts: micros(span.start), dur: micros(span.length), pid: 1, tid, args }
}

/// Writes the recorded spans atomically.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, timings: &Timings) -> Result<()> {
    let (spans, left_out) = timings.spans();
    let line = |out: &mut dyn Write, event: &Event, end: &[u8]| -> io::Result<()> {
        serde_json::to_writer(&mut *out, event)?;
        out.write_all(end)
    };
    write_atomic(path, |out| {
        writeln!(out, "{{\"displayTimeUnit\": \"ms\", \"otherData\": {{\"spans_left_out\": {left_out}}},")?;
        out.write_all(b"\"traceEvents\": [\n")?;
        line(out, &track(RUN, "run"), b",\n")?;
        line(out, &track(DEVICE, "device"), if spans.is_empty() { b"\n" } else { b",\n" })?;
        for (i, span) in spans.iter().enumerate() {
            line(out, &event(span), if i + 1 == spans.len() { b"\n" } else { b",\n" })?;
        }
        out.write_all(b"]}\n")
    })
}

/// Formats the totals as a table, the slowest operation first; operations that never ran are left out.
pub struct Table<'a>(pub &'a Timings);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: Vec<_> = self.0.totals().filter(|t| t.calls > 0).collect();
        rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let all: f64 = rows.iter().map(|t| t.seconds).sum();
        write!(f, "  {:<20} {:>10} {:>10} {:>7} {:>10}", "operation", "calls", "seconds", "%", "GFLOP/s")?;
        for t in rows {
            let (share, rate) = (100.0 * t.seconds / all, t.flops as f64 / t.seconds.max(1e-9) / 1e9);
            write!(f, "\n  {:<20} {:>10} {:>10.3} {share:>7.1} {rate:>10.2}", t.name, t.calls, t.seconds)?;
        }
        Ok(())
    }
}
