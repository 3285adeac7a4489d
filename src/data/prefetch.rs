//! Batches read ahead by a thread of their own, so that training never waits for the disk.
//!
//! A ring of buffers goes round between the two threads: the reader fills those of the next steps, the trainer takes the
//! one of its step and gives the one before back. Nothing is allocated once both run. What a step gets does not depend on
//! any of this: it is [`Source::training_batch`] of that step.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::batch::{Field, Source};
use crate::bail;
use crate::error::{Error, Result};

/// Batches ahead of the trainer. A step takes far longer than a batch, so a few even out a slow disk.
const AHEAD: usize = 4;

/// See the module.
pub struct Prefetch {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
    current: Vec<Field>,
    waited: Duration,
}

struct Shared {
    ring: Mutex<Ring>,
    changed: Condvar,
}

struct Batch {
    step: u64,
    buffers: Vec<Field>,
    read: Result<()>,
}

struct Ring {
    /// In the order of their steps.
    full: VecDeque<Batch>,
    empty: Vec<Vec<Field>>,
    /// The step to read next.
    next: u64,
    /// The step that is being read, if it is still wanted.
    reading: Option<u64>,
    /// The trainer has gone, or the reader has.
    stop: bool,
}

impl Shared {
    /// A thread that panicked left the ring as it was: every change to it is one assignment or one push.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, ring: MutexGuard<'a, Ring>) -> MutexGuard<'a, Ring> {
        self.changed.wait(ring).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prefetch {
    /// Starts to read the batches from step `first` on, of `rows` examples each.
    ///
    /// # Errors
    /// Out of memory; when the system starts no thread. What is wrong with the data comes out of [`Prefetch::next`].
    pub fn new(source: Arc<dyn Source>, rows: usize, first: u64) -> Result<Self> {
        let empty = (0..AHEAD).map(|_| source.room(rows)).collect::<Result<_>>()?;
        let current = source.room(rows)?;
        let ring = Ring { full: VecDeque::with_capacity(AHEAD), empty, next: first, reading: None, stop: false };
        let shared = Arc::new(Shared { ring: Mutex::new(ring), changed: Condvar::new() });
        let of_reader = Stops(Arc::clone(&shared));
        let read = move || {
            let Stops(shared) = &of_reader;
            read_ahead(shared, |step, fields| source.training_batch(step, fields));
        };
        let reader = std::thread::Builder::new().name("prefetch".to_owned()).spawn(read);
        let reader = reader.map_err(|e| Error::new(format!("cannot start a thread that reads ahead: {e}")))?;
        Ok(Prefetch { shared, reader: Some(reader), current, waited: Duration::ZERO })
    }

    /// The batch of `step`. Steps are best asked for one after another; any other order gives the same batches, without the
    /// head start.
    ///
    /// # Errors
    /// As [`Source::training_batch`].
    pub fn next(&mut self, step: u64) -> Result<&[Field]> {
        let begin = Instant::now();
        let mut ring = self.shared.ring();
        let batch = loop {
            let comes = match ring.full.front() {
                Some(batch) => batch.step == step,
                None => ring.reading.unwrap_or(ring.next) == step,
            };
            if !comes {
                while let Some(batch) = ring.full.pop_front() {
                    ring.empty.push(batch.buffers);
                }
                // What is being read now is thrown away when it comes.
                (ring.reading, ring.next) = (None, step);
                self.shared.changed.notify_all();
            }
            if let Some(batch) = ring.full.pop_front() {
                break batch;
            }
            if ring.stop {
                bail!("the thread that reads ahead has ended; start again");
            }
            ring = self.shared.wait(ring);
        };
        ring.empty.push(std::mem::replace(&mut self.current, batch.buffers));
        self.shared.changed.notify_all();
        drop(ring);
        self.waited += begin.elapsed();
        batch.read?;
        Ok(&self.current)
    }

    /// How long [`Prefetch::next`] took, all calls together: time that the trainer waited for data.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.shared.ring().stop = true;
        self.shared.changed.notify_all();
        if let Some(reader) = self.reader.take() {
            // It has nothing to say: errors came with their batches.
            let _ = reader.join();
        }
    }
}

/// Tells the trainer that the reader is gone, on whichever way out.
struct Stops(Arc<Shared>);

impl Drop for Stops {
    fn drop(&mut self) {
        self.0.ring().stop = true;
        self.0.changed.notify_all();
    }
}

/// What the reader's thread does.
fn read_ahead(shared: &Shared, read: impl Fn(u64, &mut [Field]) -> Result<()>) {
    let mut ring = shared.ring();
    while !ring.stop {
        let Some(mut buffers) = ring.empty.pop() else {
            ring = shared.wait(ring);
            continue;
        };
        let step = ring.next;
        (ring.reading, ring.next) = (Some(step), step.wrapping_add(1));
        drop(ring);
        let read = read(step, &mut buffers);
        ring = shared.ring();
        if ring.reading == Some(step) {
            ring.reading = None;
            ring.full.push_back(Batch { step, buffers, read });
            shared.changed.notify_all();
        } else {
            ring.empty.push(buffers);
        }
    }
}
