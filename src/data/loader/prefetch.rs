//! Prefetches batches on worker threads, so that training never waits for the disk or for augmentation.
//!
//! A few batches are being filled or are ready, in a ring of buffers that are reused. If a source can fill chunks of
//! rows independently ([`Source::chunk_rows`]), workers share a batch: each fills a chunk in a buffer of its own and copies
//! it into the batch. So the memory is that of a few batches whatever the number of workers, and all workers together
//! fill the first batch. Otherwise each worker fills whole batches. The trainer receives the batches in the order of
//! their steps. Nothing is allocated once all workers run. The content of a batch does not depend on any of this: it is
//! [`Source::training_batch`] of its step.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::batch::{Field, Source};
use crate::bail;
use crate::error::{Error, Result};
use crate::memory;

/// The number of batches that are prefetched. A step takes far longer than filling a batch, so a few even out a slow
/// disk.
const AHEAD: usize = 4;

/// The largest number of workers. More are a mistake: no machine has that many cores to spare.
pub const MOST_WORKERS: usize = 256;

/// What to do if the system refuses to start a thread, for error messages.
pub const MORE_THREADS: &str = "give the process more memory (ulimit -v) or threads (ulimit -u)";

/// Returns the default number of workers: half of the cores, because the training step needs some as well, but at most
/// 16, which is enough for the fastest device.
pub fn usual_workers() -> usize {
    (std::thread::available_parallelism().map_or(1, usize::from) / 2).clamp(1, 16)
}

/// Prefetches the training batches of a source.
pub struct Prefetch {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// The batch that [`Prefetch::next`] returned last.
    current: Vec<Field>,
    waited: Duration,
}

/// The state shared by the trainer and the workers.
struct Shared {
    source: Arc<dyn Source>,
    /// The number of rows of a batch.
    rows: usize,
    /// The number of rows of a chunk, which one worker fills. The last chunk of a batch may have fewer.
    chunk_rows: usize,
    /// The numbers per example, by field.
    each: Vec<usize>,
    ring: Mutex<Ring>,
    /// Signals the workers that there may be work.
    work_available: Condvar,
    /// Signals the trainer that a batch is complete.
    batch_ready: Condvar,
}

/// The buffers of a batch, which are reused for later batches.
struct Slot {
    /// The number of the batch that they belong to now. A chunk of another batch came too late and is dropped.
    batch: u64,
    fields: Vec<Field>,
}

struct Batch {
    number: u64,
    step: u64,
    slot: Arc<Mutex<Slot>>,
    /// The number of chunks that workers have taken.
    taken: usize,
    /// The number of chunks that are not finished.
    missing: usize,
    /// The first chunk that failed, by its number in the batch rather than by time.
    failed: Option<(usize, Error)>,
}

struct Ring {
    /// The batches that are being filled or are ready, in the order of their steps. Only the last one may have chunks
    /// that are not taken.
    ahead: VecDeque<Batch>,
    empty: Vec<Arc<Mutex<Slot>>>,
    /// The step of the next batch to start.
    next: u64,
    /// The number of the last batch that was started.
    number: u64,
    /// Set when the trainer or a worker has ended.
    stop: bool,
}

/// A chunk of a batch for a worker to fill.
struct Chunk {
    batch: u64,
    step: u64,
    slot: Arc<Mutex<Slot>>,
    /// Its number in its batch.
    number: usize,
}

/// Locks a mutex even if a thread panicked while holding it. The data is consistent then: every change is a single
/// assignment or push, and partly written rows belong to a chunk that is not finished.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a>(changed: &Condvar, ring: MutexGuard<'a, Ring>) -> MutexGuard<'a, Ring> {
    changed.wait(ring).unwrap_or_else(PoisonError::into_inner)
}

impl Prefetch {
    /// Starts `workers` threads (at least one) that fill batches of `rows` examples from step `first` on.
    ///
    /// # Errors
    /// Fails if there is not enough memory or a thread cannot be started. Errors in the data are returned by
    /// [`Prefetch::next`].
    pub fn new(source: Arc<dyn Source>, rows: usize, first: u64, workers: usize) -> Result<Self> {
        let slot = |_| Ok(Arc::new(Mutex::new(Slot { batch: 0, fields: source.allocate(rows)? })));
        let empty = (0..AHEAD).map(slot).collect::<Result<_>>()?;
        let current = source.allocate(rows)?;
        let chunk_rows = source.chunk_rows().map_or(rows, |chunk| chunk.min(rows)).max(1);
        let ring = Ring { ahead: VecDeque::with_capacity(AHEAD), empty, next: first, number: 0, stop: false };
        let each = current.iter().map(|field| field.len() / rows.max(1)).collect();
        let (work_available, batch_ready) = (Condvar::new(), Condvar::new());
        let ring = Mutex::new(ring);
        let shared = Arc::new(Shared { source, rows, chunk_rows, each, ring, work_available, batch_ready });
        let mut all = Prefetch { shared, workers: Vec::with_capacity(workers.max(1)), current, waited: Duration::ZERO };
        for _ in 0..workers.max(1) {
            all.start()?;
        }
        Ok(all)
    }

    fn start(&mut self) -> Result<()> {
        let mut buffers = self.shared.source.allocate(self.shared.chunk_rows.min(self.shared.rows))?;
        let guard = StopOnDrop(Arc::clone(&self.shared));
        let (started, wait) = mpsc::channel();
        let work = move || {
            let _ = started.send(());
            guard.0.work(&mut buffers);
        };
        let worker = memory::require_thread()
            .and_then(|()| std::thread::Builder::new().name("prefetch".to_owned()).spawn(work))
            .map_err(|e| Error::new(format!("cannot start a thread to prefetch batches: {e}; {MORE_THREADS}")))?;
        self.workers.push(worker);
        // A thread allocates memory when it starts. If it starts late, another allocation may have taken the memory.
        wait.recv().map_err(|_| Error::new(format!("a thread to prefetch batches ended early; {MORE_THREADS}")))
    }

    /// Returns the batch of `step`. Request the steps one after another: any other order gives the same batches, but
    /// they are not prefetched.
    ///
    /// # Errors
    /// Fails on errors and panics of [`Source::training_batch`].
    pub fn next(&mut self, step: u64) -> Result<&[Field]> {
        let begin = Instant::now();
        let mut ring = lock(&self.shared.ring);
        let batch = loop {
            if ring.ahead.front().map_or(ring.next, |batch| batch.step) != step {
                ring.restart_at(step);
                self.shared.work_available.notify_all();
            }
            if ring.ahead.front().is_some_and(|batch| batch.missing == 0)
                && let Some(batch) = ring.ahead.pop_front()
            {
                break batch;
            }
            if ring.stop {
                bail!("a thread that prefetches batches has ended; start again");
            }
            ring = wait(&self.shared.batch_ready, ring);
        };
        std::mem::swap(&mut self.current, &mut lock(&batch.slot).fields);
        ring.empty.push(batch.slot);
        drop(ring);
        // Stop the clock before waking the workers: one may take this thread's core, and that is not waiting for data.
        self.waited += begin.elapsed();
        self.shared.work_available.notify_all();
        match batch.failed {
            Some((_, error)) => Err(error),
            None => Ok(&self.current),
        }
    }

    /// Returns the total time that calls of [`Prefetch::next`] waited for a batch.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.shared.stop();
        for worker in self.workers.drain(..) {
            // Ignore the result: errors were returned with their batches.
            let _ = worker.join();
        }
    }
}

/// Stops all threads when a worker ends, also by a panic.
struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Ring {
    /// Drops the prefetched batches and continues at `step`. Chunks of dropped batches that workers are still filling
    /// are ignored.
    fn restart_at(&mut self, step: u64) {
        while let Some(batch) = self.ahead.pop_front() {
            self.empty.push(batch.slot);
        }
        self.next = step;
    }

    /// Takes the next chunk to fill; each batch has `chunks` of them. Returns `None` if enough batches are prefetched.
    fn take(&mut self, chunks: usize) -> Option<Chunk> {
        if self.ahead.back().is_none_or(|batch| batch.taken == chunks) {
            let slot = self.empty.pop()?;
            self.number += 1;
            lock(&slot).batch = self.number;
            let (number, step) = (self.number, self.next);
            self.ahead.push_back(Batch { number, step, slot, taken: 0, missing: chunks, failed: None });
            self.next = step.wrapping_add(1);
        }
        let batch = self.ahead.back_mut()?;
        batch.taken += 1;
        let slot = Arc::clone(&batch.slot);
        Some(Chunk { batch: batch.number, step: batch.step, slot, number: batch.taken - 1 })
    }

    /// Records that a chunk was filled or failed. Returns whether it was the last of its batch.
    fn finish(&mut self, chunk: &Chunk, filled: Result<()>) -> bool {
        let Some(batch) = self.ahead.iter_mut().find(|batch| batch.number == chunk.batch) else { return false };
        batch.missing -= 1;
        if let Err(error) = filled
            && batch.failed.as_ref().is_none_or(|(first, _)| chunk.number < *first)
        {
            batch.failed = Some((chunk.number, error));
        }
        batch.missing == 0
    }
}

impl Shared {
    fn stop(&self) {
        lock(&self.ring).stop = true;
        self.work_available.notify_all();
        self.batch_ready.notify_all();
    }

    /// Runs a worker. `buffers` have space for a chunk.
    fn work(&self, buffers: &mut Vec<Field>) {
        // A batch without rows has one chunk, too, whose error says what is wrong.
        let chunks = self.rows.div_ceil(self.chunk_rows).max(1);
        let mut ring = lock(&self.ring);
        while !ring.stop {
            let Some(chunk) = ring.take(chunks) else {
                ring = wait(&self.work_available, ring);
                continue;
            };
            drop(ring);
            let filled = self.fill(&chunk, buffers);
            if filled.is_ok() {
                self.store(&chunk, buffers);
            }
            ring = lock(&self.ring);
            if ring.finish(&chunk, filled) {
                self.batch_ready.notify_all();
            }
        }
    }

    /// Returns the first row of a chunk and its number of rows.
    fn span(&self, chunk: &Chunk) -> (usize, usize) {
        let first = chunk.number * self.chunk_rows;
        (first, self.chunk_rows.min(self.rows - first))
    }

    /// Fills `buffers` with a chunk.
    fn fill(&self, chunk: &Chunk, buffers: &mut [Field]) -> Result<()> {
        let ((first, rows), step) = (self.span(chunk), chunk.step);
        let fill = || match rows == self.rows {
            true => self.source.training_batch(step, buffers),
            false => {
                buffers.iter_mut().zip(&self.each).for_each(|(field, each)| field.resize(rows * each));
                self.source.training_rows(step, self.rows, first, buffers)
            }
        };
        // The buffers are overwritten for every chunk, so what a panic left in them is never used.
        catch_unwind(AssertUnwindSafe(fill)).unwrap_or_else(|panic| {
            let (last, from, why) = (first + rows, self.source.describe(), reason(&*panic));
            bail!("rows {first}..{last} of the batch of step {step}, from {from}: filling them panicked: {why}")
        })
    }

    /// Copies a chunk into its batch, unless the slot belongs to another batch by now.
    fn store(&self, chunk: &Chunk, buffers: &mut Vec<Field>) {
        let (first, rows) = self.span(chunk);
        let mut slot = lock(&chunk.slot);
        if slot.batch != chunk.batch {
            return;
        }
        match rows == self.rows {
            true => std::mem::swap(&mut slot.fields, buffers),
            false => {
                let fields = slot.fields.iter_mut().zip(&mut *buffers).zip(&self.each);
                fields.for_each(|((to, from), each)| to.put(first * each, from));
            }
        }
    }
}

/// Returns the message of a panic.
fn reason(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
