//! A thread pool whose threads share the chunks of one operation at a time. Starting a job allocates nothing.

use crate::memory;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

type Job = dyn Fn(usize) + Sync;

/// Flag in the low half of `state`: the job is open and workers may join it. The bits below count the workers that have
/// joined.
const OPEN: u64 = 1 << 31;
/// Number of polls for a job before a worker sleeps: some tens of microseconds, about the gap between two operations.
const SPINS: u32 = 4_000;

/// State shared by all threads of a pool.
struct Shared {
    /// The job number in the high half; [`OPEN`] and the number of workers that have joined in the low half.
    state: AtomicU64,
    /// The current job.
    job: Mutex<Option<&'static Job>>,
    /// Next chunk to run.
    next: AtomicUsize,
    /// Number of chunks.
    end: AtomicUsize,
    /// Whether a job is running.
    busy: AtomicBool,
    /// Whether a worker panicked in the current job.
    panicked: AtomicBool,
    /// Tells the workers to exit.
    stop: AtomicBool,
    /// Number of workers that have started.
    started: AtomicUsize,
    /// Number of workers that wait on `wake`.
    sleepers: Mutex<usize>,
    wake: Condvar,
}

/// A fixed set of worker threads. The thread that starts a job also works on it.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts a pool of `threads` threads, including the caller's; 0 means one for each core.
    pub fn new(threads: usize) -> Self {
        let threads = if threads == 0 { thread::available_parallelism().map_or(1, usize::from) } else { threads };
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: Mutex::new(None),
            next: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            started: AtomicUsize::new(0),
            sleepers: Mutex::new(0),
            wake: Condvar::new(),
        });
        let workers: Vec<_> = (1..threads)
            .map_while(|_| {
                let shared = shared.clone();
                let work = move || {
                    shared.started.fetch_add(1, Ordering::Release);
                    work(&shared);
                };
                memory::require_thread().ok()?;
                thread::Builder::new().name("vcycle-cpu".into()).spawn(work).ok()
            })
            .collect();
        // A thread allocates memory when it starts. Wait for all of them here: on a busy machine they may start late,
        // and training steps must not allocate.
        while shared.started.load(Ordering::Acquire) < workers.len() {
            thread::yield_now();
        }
        Pool { shared, workers }
    }

    /// Returns the number of threads, including the caller's.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f` once for each chunk in `0..chunks`, on any thread, and returns when all calls have returned.
    ///
    /// # Panics
    /// When `f` panics, or another job of this pool is running.
    pub fn run<F: Fn(usize) + Sync>(&self, chunks: usize, f: F) {
        if self.workers.is_empty() || chunks <= 1 {
            return (0..chunks).for_each(f);
        }
        let shared = &*self.shared;
        // One job at a time: a second job, from within a chunk or from another thread, would replace the first one.
        assert!(!shared.busy.swap(true, Ordering::Acquire), "the pool runs one job at a time");
        let job: &(dyn Fn(usize) + Sync) = &f;
        // SAFETY: only the lifetime changes. Workers use the reference only between joining an open job and leaving it.
        // This function closes the job and waits until all workers have left it, even when `f` panics.
        let job: &'static Job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static Job>(job) };
        *lock(&shared.job) = Some(job);
        shared.next.store(0, Ordering::Relaxed);
        shared.end.store(chunks, Ordering::Relaxed);
        let number = (shared.state.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        shared.state.store(number << 32 | OPEN, Ordering::SeqCst);
        if *lock(&shared.sleepers) > 0 {
            shared.wake.notify_all();
        }
        let mine = catch_unwind(AssertUnwindSafe(|| shared.take_chunks(job)));
        shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut rounds = 0u32;
        while shared.state.load(Ordering::Acquire) & (OPEN - 1) != 0 {
            rounds += 1;
            if rounds > SPINS { thread::yield_now() } else { std::hint::spin_loop() }
        }
        *lock(&shared.job) = None;
        let theirs = shared.panicked.swap(false, Ordering::Relaxed);
        shared.busy.store(false, Ordering::Release);
        if let Err(panic) = mine {
            resume_unwind(panic);
        }
        assert!(!theirs, "a worker thread of the cpu device panicked");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.sleepers));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // Workers catch the panics of jobs, so joining does not fail.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Runs chunks until none is left.
    fn take_chunks(&self, job: &Job) {
        let end = self.end.load(Ordering::Relaxed);
        loop {
            let chunk = self.next.fetch_add(1, Ordering::Relaxed);
            if chunk >= end {
                return;
            }
            job(chunk);
        }
    }

    /// Joins the current job if it is open and not the one that this worker joined last. Returns whether it did.
    fn join(&self, last: &mut u64) -> bool {
        let state = self.state.load(Ordering::SeqCst);
        if state & OPEN == 0 || state >> 32 == *last {
            return false;
        }
        if self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        *last = state >> 32;
        true
    }
}

/// The loop of a worker thread.
fn work(shared: &Shared) {
    let mut last = 0;
    loop {
        let mut rounds = 0;
        while !shared.join(&mut last) {
            if shared.stop.load(Ordering::SeqCst) {
                return;
            }
            rounds += 1;
            if rounds < SPINS {
                std::hint::spin_loop();
                continue;
            }
            rounds = 0;
            let mut sleepers = lock(&shared.sleepers);
            // A job that was opened before this lock was taken does not wake us: check again under the lock.
            let state = shared.state.load(Ordering::SeqCst);
            let missed = state & OPEN != 0 && state >> 32 != last;
            if !missed && !shared.stop.load(Ordering::SeqCst) {
                *sleepers += 1;
                let (mut guard, _) =
                    shared.wake.wait_timeout(sleepers, Duration::from_secs(1)).unwrap_or_else(PoisonError::into_inner);
                *guard -= 1;
            }
        }
        let job = *lock(&shared.job);
        let done = catch_unwind(AssertUnwindSafe(|| job.into_iter().for_each(|job| shared.take_chunks(job))));
        if done.is_err() {
            shared.panicked.store(true, Ordering::Relaxed);
        }
        shared.state.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Locks a mutex, even if it is poisoned.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicPtr;

    #[test]
    fn every_chunk_runs_once() {
        let pool = Pool::new(4);
        // Miri needs long for each round, and tries other schedules with other seeds.
        for round in 0..if cfg!(miri) { 20 } else { 2_000 } {
            let chunks = round % 37;
            let hits: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(chunks, |i| {
                hits[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
        }
    }

    /// When `run` returns, what the chunks wrote is visible, and data that the job borrowed may be dropped.
    #[test]
    fn chunks_write_what_the_caller_lends() {
        let pool = Pool::new(3);
        for round in 0..if cfg!(miri) { 10 } else { 500 } {
            let mut values = vec![0usize; 8];
            let start = AtomicPtr::new(values.as_mut_ptr());
            // SAFETY: each chunk writes its own element of a vector that outlives the job.
            pool.run(8, |i| unsafe { *start.load(Ordering::Relaxed).add(i) = round + i });
            assert!(values.iter().enumerate().all(|(i, v)| *v == round + i));
        }
    }

    /// Only one job may run at a time: the second one is refused, and the first one ends.
    #[test]
    fn a_job_within_a_job_is_refused() {
        let pool = Pool::new(2);
        let inner = catch_unwind(AssertUnwindSafe(|| pool.run(4, |_| pool.run(4, |_| ()))));
        assert!(inner.is_err());
        pool.run(4, |_| ());
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        let panicked = catch_unwind(AssertUnwindSafe(|| pool.run(50, |i| assert!(i != 20, "chunk 20"))));
        assert!(panicked.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(10, |i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }
}
