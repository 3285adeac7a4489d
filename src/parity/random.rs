//! Random numbers for the cases.

use crate::device::ops::philox;

/// A generator whose numbers depend only on the seed.
pub struct Random {
    seed: u64,
    next: u64,
    /// Return zeros instead, for runs that do not use the numbers.
    zeros: bool,
}

impl Random {
    /// Creates a generator.
    pub fn new(seed: u64) -> Self {
        Random { seed, next: 0, zeros: false }
    }

    /// Creates a generator of zeros.
    pub fn zeros() -> Self {
        Random { zeros: true, ..Random::new(0) }
    }

    fn bits(&mut self) -> u32 {
        self.next += 1;
        philox::word([self.seed as u32, (self.seed >> 32) as u32], 0, 0, self.next)
    }

    /// Returns a number uniform in -1..1, never zero, that f32 represents exactly: every device starts from the same
    /// numbers.
    pub fn float(&mut self) -> f64 {
        f64::from((self.bits() >> 8) | 1) / f64::from(1 << 23) - 1.0
    }

    /// Returns `n` numbers like [`Random::float`].
    pub fn floats(&mut self, n: usize) -> Vec<f64> {
        if self.zeros { vec![0.0; n] } else { (0..n).map(|_| self.float()).collect() }
    }

    /// Returns `n` integers in 0..`below`.
    pub fn ids(&mut self, n: usize, below: usize) -> Vec<i32> {
        if self.zeros {
            return vec![0; n];
        }
        (0..n).map(|_| (self.bits() % below as u32) as i32).collect()
    }
}
