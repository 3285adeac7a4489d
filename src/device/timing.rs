//! Time spent on a device. Calls, seconds and FLOPs are always totalled by operation name; on request, every single
//! operation is also recorded as a span. Adding a measurement allocates nothing.

use super::ops::{Access, NAMES, Op};
use crate::tensor::Shape;
use std::time::{Duration, Instant};

/// Totals over all operations of one name.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Total {
    /// Name of the operation, one of [`NAMES`].
    pub name: &'static str,
    /// Number of times it ran.
    pub calls: u64,
    /// Total time in seconds.
    pub seconds: f64,
    /// Total FLOPs ([`Op::cost`]).
    pub flops: u64,
}

/// What ran during a [`Span`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// An operation.
    Operation {
        /// FLOPs by definition ([`Op::cost`]).
        flops: u64,
        /// Shape of the first operand that it writes.
        shape: Shape,
    },
    /// A part of a run, such as step 7 ([`Timings::mark`]).
    Mark {
        /// Number of the part, such as the 7 of step 7.
        number: u64,
    },
}

/// A time span during which an operation, or a part of a run, was running.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Name of the operation or of the mark.
    pub name: &'static str,
    /// Start, measured from the call of [`Timings::record`].
    pub start: Duration,
    /// Duration.
    pub length: Duration,
    /// What ran.
    pub work: Work,
}

/// Recorded spans.
struct Recorder {
    origin: Instant,
    /// Never grows beyond its initial capacity.
    spans: Vec<Span>,
    /// Number of spans that did not fit.
    left_out: u64,
}

impl Recorder {
    fn push(&mut self, name: &'static str, (begin, end): (Instant, Instant), work: Work) {
        if self.spans.len() == self.spans.capacity() {
            self.left_out += 1;
            return;
        }
        let start = begin.saturating_duration_since(self.origin);
        self.spans.push(Span { name, start, length: end.saturating_duration_since(begin), work });
    }
}

/// Time spent on a device: the device adds measurements, the user of the device reads them.
pub struct Timings {
    /// Calls, time and FLOPs by operation, in the order of [`NAMES`].
    totals: [(u64, Duration, u64); NAMES.len()],
    recorder: Option<Recorder>,
}

impl Default for Timings {
    fn default() -> Self {
        Timings { totals: [(0, Duration::ZERO, 0); NAMES.len()], recorder: None }
    }
}

impl Timings {
    /// Adds an operation of `flops` FLOPs that ran from `begin` until now. Returns the current time, at which the next
    /// operation begins.
    pub fn add(&mut self, op: &Op, flops: u64, begin: Instant) -> Instant {
        let end = Instant::now();
        self.add_span(op, flops, begin, end.saturating_duration_since(begin));
        end
    }

    /// Adds an operation of `flops` FLOPs that ran for `length` from `begin` on.
    pub fn add_span(&mut self, op: &Op, flops: u64, begin: Instant, length: Duration) {
        let (calls, time, all) = &mut self.totals[op.number()];
        *calls += 1;
        *time += length;
        *all += flops;
        if let Some(recorder) = &mut self.recorder {
            recorder.push(op.name(), (begin, begin + length), Work::Operation { flops, shape: written(op) });
        }
    }

    /// Returns whether spans are being recorded.
    pub fn is_recording(&self) -> bool {
        self.recorder.is_some()
    }

    /// Records a span for a part of a run, such as a step or an evaluation, that ran from `begin` until now. Totals do
    /// not include it; without [`Timings::record`] it is ignored.
    pub fn mark(&mut self, name: &'static str, number: u64, begin: Instant) {
        if let Some(recorder) = &mut self.recorder {
            recorder.push(name, (begin, Instant::now()), Work::Mark { number });
        }
    }

    /// Starts to record up to `most` spans, for which it allocates memory now, and discards those recorded before.
    pub fn record(&mut self, most: usize) {
        self.recorder = Some(Recorder { origin: Instant::now(), spans: Vec::with_capacity(most), left_out: 0 });
    }

    /// Returns the recorded spans in the order in which they ended, and the number of spans that did not fit.
    pub fn spans(&self) -> (&[Span], u64) {
        self.recorder.as_ref().map_or((&[], 0), |r| (&r.spans, r.left_out))
    }

    /// Returns the totals of all operations, in the order of [`NAMES`].
    pub fn totals(&self) -> impl Iterator<Item = Total> {
        let all = NAMES.iter().zip(&self.totals);
        all.map(|(name, (calls, time, flops))| Total {
            name,
            calls: *calls,
            seconds: time.as_secs_f64(),
            flops: *flops,
        })
    }

    /// Resets the totals to zero. Recorded spans stay.
    pub fn reset(&mut self) {
        self.totals = Timings::default().totals;
    }
}

/// Returns the shape of the first operand that is written.
fn written(op: &Op) -> Shape {
    let (mut shape, mut op) = (None, *op);
    op.operands(&mut |t, access| {
        if access != Access::Read && shape.is_none() {
            shape = Some(t.shape());
        }
    });
    shape.unwrap_or(Shape::new(&[]))
}
