//! Where a device's time goes: calls, seconds and FLOPs of every kind of operation, always; each single operation as a
//! span, when asked for. Timing allocates nothing.

use super::ops::{Access, NAMES, Op};
use crate::tensor::Shape;
use std::time::{Duration, Instant};

/// All operations of one name.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Total {
    pub name: &'static str,
    pub calls: u64,
    pub seconds: f64,
    pub flops: u64,
}

/// What a [`Span`] is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Work {
    /// An operation: its FLOPs and the shape of what it writes.
    Operation { flops: u64, shape: Shape },
    /// A part of a run, such as step 7: see [`Timings::mark`].
    Mark { number: u64 },
}

/// From when to when something ran.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub name: &'static str,
    /// Since [`Timings::record`].
    pub start: Duration,
    pub length: Duration,
    pub work: Work,
}

struct Recorder {
    origin: Instant,
    /// Never grows beyond the capacity that it began with.
    spans: Vec<Span>,
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

/// See the module. A device adds to it; who runs the device reads it.
pub struct Timings {
    /// Beside [`NAMES`].
    totals: [(u64, Duration, u64); NAMES.len()],
    recorder: Option<Recorder>,
}

impl Default for Timings {
    fn default() -> Self {
        Timings { totals: [(0, Duration::ZERO, 0); NAMES.len()], recorder: None }
    }
}

impl Timings {
    /// An operation of so many FLOPs ran from `begin` until now. Returns now, where the next one begins.
    pub fn add(&mut self, op: &Op, flops: u64, begin: Instant) -> Instant {
        let end = Instant::now();
        self.add_span(op, flops, begin, end.saturating_duration_since(begin));
        end
    }

    /// An operation of so many FLOPs ran for `length`.
    pub fn add_span(&mut self, op: &Op, flops: u64, begin: Instant, length: Duration) {
        let (calls, time, all) = &mut self.totals[op.number()];
        *calls += 1;
        *time += length;
        *all += flops;
        if let Some(recorder) = &mut self.recorder {
            recorder.push(op.name(), (begin, begin + length), Work::Operation { flops, shape: written(op) });
        }
    }

    /// Whether single operations are wanted as spans.
    pub fn is_recording(&self) -> bool {
        self.recorder.is_some()
    }

    /// Something else that ran from `begin` until now: a step, an evaluation. Only recorded spans know of it.
    pub fn mark(&mut self, name: &'static str, number: u64, begin: Instant) {
        if let Some(recorder) = &mut self.recorder {
            recorder.push(name, (begin, Instant::now()), Work::Mark { number });
        }
    }

    /// From now on keeps the first `most` spans, for which it takes memory at once; forgets those of before.
    pub fn record(&mut self, most: usize) {
        self.recorder = Some(Recorder { origin: Instant::now(), spans: Vec::with_capacity(most), left_out: 0 });
    }

    /// Recorded spans in the order in which they ended, and how many more there was no room for.
    pub fn spans(&self) -> (&[Span], u64) {
        self.recorder.as_ref().map_or((&[], 0), |r| (&r.spans, r.left_out))
    }

    /// One for each name, in the order of [`NAMES`].
    pub fn totals(&self) -> impl Iterator<Item = Total> {
        let all = NAMES.iter().zip(&self.totals);
        all.map(|(name, (calls, time, flops))| Total {
            name,
            calls: *calls,
            seconds: time.as_secs_f64(),
            flops: *flops,
        })
    }

    /// Totals start again at zero; recorded spans stay.
    pub fn reset(&mut self) {
        self.totals = Timings::default().totals;
    }
}

/// Shape of the first operand that is written.
fn written(op: &Op) -> Shape {
    let (mut shape, mut op) = (None, *op);
    op.operands(&mut |t, access| {
        if access != Access::Read && shape.is_none() {
            shape = Some(t.shape());
        }
    });
    shape.unwrap_or(Shape::new(&[]))
}
