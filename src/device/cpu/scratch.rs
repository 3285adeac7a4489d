//! Scratch memory for chunks. It is made before an operation's threads start, one piece for each, so that which thread takes
//! which chunk does not decide in which step something is allocated.

use super::pool::lock;
use std::sync::Mutex;

/// Pieces that no chunk holds.
#[derive(Default)]
pub struct Scratch(Mutex<Vec<Vec<f32>>>);

impl Scratch {
    /// Makes one piece of at least `n` floats for each of `threads`. Nobody holds a piece meanwhile.
    pub fn reserve(&self, threads: usize, n: usize) {
        let mut pieces = lock(&self.0);
        let count = threads.max(pieces.len());
        pieces.resize_with(count, Vec::new);
        for piece in pieces.iter_mut().filter(|p| p.len() < n) {
            piece.resize(n, 0.0);
        }
    }

    /// Lends a piece until dropped. Not a closure's argument: the loops over it would be compiled apart, without the vector
    /// instructions that were chosen at run time.
    pub fn take(&self) -> Lent<'_> {
        Lent { memory: lock(&self.0).pop().unwrap_or_default(), from: self }
    }
}

/// A piece of scratch memory.
pub struct Lent<'a> {
    memory: Vec<f32>,
    from: &'a Scratch,
}

impl Lent<'_> {
    /// `n` floats that begin at a multiple of 64 bytes, of a piece of 16 more.
    pub fn aligned(&mut self, n: usize) -> &mut [f32] {
        let skip = self.memory.as_ptr().align_offset(64);
        &mut self.memory[skip..skip + n]
    }

    /// The first `n` floats, with what earlier chunks left there.
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
