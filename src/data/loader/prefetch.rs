//! Batches made ahead by threads of their own, the workers, so that training never waits for the disk or for augmentation.
//!
//! A few batches, whose buffers go round, are in the making or made. Where a source can fill rows apart from others
//! ([`Source::grain`]), workers share a batch: each fills a few rows in a buffer of its own and copies them to their place.
//! So the memory is that of a few batches, however many workers there are, and a first batch comes as soon as all of them
//! together can make it. Else a worker makes whole batches. The trainer gets them in the order of their steps. Nothing is
//! allocated once all run. What a step gets does not depend on any of this: it is [`Source::training_batch`] of that step.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::batch::{Field, Source};
use crate::bail;
use crate::error::{Error, Result};

/// Batches ahead of the trainer. A step takes far longer than a batch, so a few even out a slow disk.
const AHEAD: usize = 4;

/// More workers are a mistake: no machine has as many cores to spare.
pub const MOST_WORKERS: usize = 256;

/// What to do where the system starts no more threads.
pub const MORE_THREADS: &str = "give the process more memory (ulimit -v) or threads (ulimit -u)";

/// Workers where nobody says how many: half of the cores, since the step and its device want some as well, and no more than the
/// fastest device could want.
pub fn usual_workers() -> usize {
    (std::thread::available_parallelism().map_or(1, usize::from) / 2).clamp(1, 16)
}

/// See the module.
pub struct Prefetch {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    current: Vec<Field>,
    waited: Duration,
}

struct Shared {
    source: Arc<dyn Source>,
    /// Of a batch, and of a part of it that one worker fills; the last part may have fewer.
    rows: usize,
    grain: usize,
    /// Numbers of an example, by field.
    each: Vec<usize>,
    ring: Mutex<Ring>,
    /// There may be something to do, for the workers.
    room: Condvar,
    /// A batch is whole, for the trainer.
    made: Condvar,
}

/// A batch's buffers, which are some other batch's later.
struct Slot {
    /// Whose they are: parts of others come too late.
    batch: u64,
    fields: Vec<Field>,
}

struct Batch {
    number: u64,
    step: u64,
    slot: Arc<Mutex<Slot>>,
    /// Parts that workers have taken, and those that are not made yet.
    taken: usize,
    missing: usize,
    /// The first part that could not be made, whatever the order in which they were tried.
    failed: Option<(usize, Error)>,
}

struct Ring {
    /// In the order of their steps. Of all but the last one every part is taken.
    ahead: VecDeque<Batch>,
    empty: Vec<Arc<Mutex<Slot>>>,
    /// The step of the next batch to begin with, and the batch's number.
    next: u64,
    number: u64,
    /// The trainer has gone, or a worker has.
    stop: bool,
}

/// What a worker has to do.
struct Part {
    batch: u64,
    step: u64,
    slot: Arc<Mutex<Slot>>,
    /// Its number in its batch.
    number: usize,
}

/// A thread that panicked left what it had locked as it was: every change to it is one assignment or one push, and rows half
/// written belong to a part that is not made.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a>(changed: &Condvar, ring: MutexGuard<'a, Ring>) -> MutexGuard<'a, Ring> {
    changed.wait(ring).unwrap_or_else(PoisonError::into_inner)
}

impl Prefetch {
    /// Starts to make the batches from step `first` on, of `rows` examples each, on so many threads, at least one.
    ///
    /// # Errors
    /// Out of memory; when the system starts no thread. What is wrong with the data comes out of [`Prefetch::next`].
    pub fn new(source: Arc<dyn Source>, rows: usize, first: u64, workers: usize) -> Result<Self> {
        let room = |_| Ok(Arc::new(Mutex::new(Slot { batch: 0, fields: source.room(rows)? })));
        let empty = (0..AHEAD).map(room).collect::<Result<_>>()?;
        let current = source.room(rows)?;
        let grain = source.grain().map_or(rows, |grain| grain.min(rows)).max(1);
        let ring = Ring { ahead: VecDeque::with_capacity(AHEAD), empty, next: first, number: 0, stop: false };
        let each = current.iter().map(|field| field.len() / rows.max(1)).collect();
        let (room, made) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { source, rows, grain, each, ring: Mutex::new(ring), room, made });
        let mut all = Prefetch { shared, workers: Vec::with_capacity(workers.max(1)), current, waited: Duration::ZERO };
        for _ in 0..workers.max(1) {
            all.start()?;
        }
        Ok(all)
    }

    fn start(&mut self) -> Result<()> {
        let mut own = self.shared.source.room(self.shared.grain.min(self.shared.rows))?;
        let stops = Stops(Arc::clone(&self.shared));
        let work = move || stops.0.work(&mut own);
        let worker = std::thread::Builder::new().name("prefetch".to_owned()).spawn(work);
        self.workers.push(
            worker.map_err(|e| Error::new(format!("cannot start a thread that makes batches: {e}; {MORE_THREADS}")))?,
        );
        Ok(())
    }

    /// The batch of `step`. Steps are best asked for one after another; any other order gives the same batches, without the
    /// head start.
    ///
    /// # Errors
    /// As [`Source::training_batch`]; when that panicked.
    pub fn next(&mut self, step: u64) -> Result<&[Field]> {
        let begin = Instant::now();
        let mut ring = lock(&self.shared.ring);
        let batch = loop {
            if ring.ahead.front().map_or(ring.next, |batch| batch.step) != step {
                ring.go_on_at(step);
                self.shared.room.notify_all();
            }
            if ring.ahead.front().is_some_and(|batch| batch.missing == 0)
                && let Some(batch) = ring.ahead.pop_front()
            {
                break batch;
            }
            if ring.stop {
                bail!("a thread that makes batches has ended; start again");
            }
            ring = wait(&self.shared.made, ring);
        };
        std::mem::swap(&mut self.current, &mut lock(&batch.slot).fields);
        ring.empty.push(batch.slot);
        drop(ring);
        // A worker that wakes up may take this thread's core, which is no lack of data.
        self.waited += begin.elapsed();
        self.shared.room.notify_all();
        match batch.failed {
            Some((_, error)) => Err(error),
            None => Ok(&self.current),
        }
    }

    /// How long the batches of [`Prefetch::next`] were waited for, all calls together.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.shared.stop();
        for worker in self.workers.drain(..) {
            // It has nothing to say: errors came with their batches.
            let _ = worker.join();
        }
    }
}

/// Tells all others that a worker is gone, on whichever way out.
struct Stops(Arc<Shared>);

impl Drop for Stops {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Ring {
    /// Forgets what is ahead. Who makes a part of it finds that it comes too late.
    fn go_on_at(&mut self, step: u64) {
        while let Some(batch) = self.ahead.pop_front() {
            self.empty.push(batch.slot);
        }
        self.next = step;
    }

    /// Takes the next of the `parts` of each batch. `None`: enough is made.
    fn take(&mut self, parts: usize) -> Option<Part> {
        if self.ahead.back().is_none_or(|batch| batch.taken == parts) {
            let slot = self.empty.pop()?;
            self.number += 1;
            lock(&slot).batch = self.number;
            let (number, step) = (self.number, self.next);
            self.ahead.push_back(Batch { number, step, slot, taken: 0, missing: parts, failed: None });
            self.next = step.wrapping_add(1);
        }
        let batch = self.ahead.back_mut()?;
        batch.taken += 1;
        let slot = Arc::clone(&batch.slot);
        Some(Part { batch: batch.number, step: batch.step, slot, number: batch.taken - 1 })
    }

    /// Notes that a part is made, or why not. Returns whether that was the last of its batch.
    fn made(&mut self, part: &Part, made: Result<()>) -> bool {
        let Some(batch) = self.ahead.iter_mut().find(|batch| batch.number == part.batch) else { return false };
        batch.missing -= 1;
        if let Err(error) = made
            && batch.failed.as_ref().is_none_or(|(first, _)| part.number < *first)
        {
            batch.failed = Some((part.number, error));
        }
        batch.missing == 0
    }
}

impl Shared {
    fn stop(&self) {
        lock(&self.ring).stop = true;
        self.room.notify_all();
        self.made.notify_all();
    }

    /// What a worker does. `own`: room for a part.
    fn work(&self, own: &mut Vec<Field>) {
        // A batch of no rows has one part too, which says what is wrong with it.
        let parts = self.rows.div_ceil(self.grain).max(1);
        let mut ring = lock(&self.ring);
        while !ring.stop {
            let Some(part) = ring.take(parts) else {
                ring = wait(&self.room, ring);
                continue;
            };
            drop(ring);
            let made = self.make(&part, own);
            if made.is_ok() {
                self.put(&part, own);
            }
            ring = lock(&self.ring);
            if ring.made(&part, made) {
                self.made.notify_all();
            }
        }
    }

    /// The first row of a part, and how many it has.
    fn span(&self, part: &Part) -> (usize, usize) {
        let first = part.number * self.grain;
        (first, self.grain.min(self.rows - first))
    }

    /// Fills `own` with a part.
    fn make(&self, part: &Part, own: &mut [Field]) -> Result<()> {
        let ((first, rows), step) = (self.span(part), part.step);
        let fill = || match rows == self.rows {
            true => self.source.training_batch(step, own),
            false => {
                own.iter_mut().zip(&self.each).for_each(|(field, each)| field.resize(rows * each));
                self.source.training_rows(step, self.rows, first, own)
            }
        };
        // Buffers are written anew for every part, so nothing that a panic left in them is ever seen.
        catch_unwind(AssertUnwindSafe(fill)).unwrap_or_else(|panic| {
            let (last, from, why) = (first + rows, self.source.reads(), reason(&*panic));
            bail!("rows {first}..{last} of the batch of step {step}, from {from}: making them panicked: {why}")
        })
    }

    /// Brings a part to its place, unless that is another batch's by now.
    fn put(&self, part: &Part, own: &mut Vec<Field>) {
        let (first, rows) = self.span(part);
        let mut slot = lock(&part.slot);
        if slot.batch != part.batch {
            return;
        }
        match rows == self.rows {
            true => std::mem::swap(&mut slot.fields, own),
            false => {
                let fields = slot.fields.iter_mut().zip(&mut *own).zip(&self.each);
                fields.for_each(|((to, from), each)| to.put(first * each, from));
            }
        }
    }
}

/// What a panic says.
fn reason(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it does not say why")
}
