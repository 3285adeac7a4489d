//! Scratch memory for chunks. One buffer for each thread is allocated before an operation starts, so that it does not
//! depend on scheduling in which step memory is allocated.

use super::pool::lock;
use std::sync::Mutex;

/// Buffers that are not in use.
#[derive(Default)]
pub struct Scratch(Mutex<Vec<Vec<f32>>>);

impl Scratch {
    /// Ensures that there is a buffer of at least `n` floats for each of `threads` threads. No buffer may be in use.
    pub fn reserve(&self, threads: usize, n: usize) {
        let mut pieces = lock(&self.0);
        let count = threads.max(pieces.len());
        pieces.resize_with(count, Vec::new);
        for piece in pieces.iter_mut().filter(|p| p.len() < n) {
            piece.resize(n, 0.0);
        }
    }

    /// Takes a buffer, which is returned on drop. It is not passed to a closure instead, because the loops in such a
    /// closure would be compiled as a separate function, without the SIMD instructions selected at run time.
    pub fn take(&self) -> Lent<'_> {
        Lent { memory: lock(&self.0).pop().unwrap_or_default(), from: self }
    }
}

/// A scratch buffer in use.
pub struct Lent<'a> {
    memory: Vec<f32>,
    from: &'a Scratch,
}

impl Lent<'_> {
    /// Returns `n` floats that start at a multiple of 64 bytes. The buffer must have 16 more floats for the alignment.
    pub fn aligned(&mut self, n: usize) -> &mut [f32] {
        let skip = self.memory.as_ptr().align_offset(64);
        &mut self.memory[skip..skip + n]
    }

    /// Returns the first `n` floats, with whatever earlier chunks left in them.
    #[inline(always)]
    pub fn slice(&mut self, n: usize) -> &mut [f32] {
        &mut self.memory[..n]
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        lock(&self.from.0).push(std::mem::take(&mut self.memory));
    }
}
