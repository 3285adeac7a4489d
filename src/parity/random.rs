//! Random numbers for cases.

use crate::device::ops::philox;

/// Numbers that depend on the seed alone.
pub struct Random {
    seed: u64,
    next: u64,
    /// Zeros instead, where nobody looks at the numbers.
    zeros: bool,
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Random { seed, next: 0, zeros: false }
    }

    pub fn zeros() -> Self {
        Random { zeros: true, ..Random::new(0) }
    }

    fn bits(&mut self) -> u32 {
        self.next += 1;
        philox::word([self.seed as u32, (self.seed >> 32) as u32], 0, 0, self.next)
    }

    /// Uniform in -1..1, never zero, on a grid that f32 holds exactly: every device starts from the same numbers.
    pub fn float(&mut self) -> f64 {
        f64::from((self.bits() >> 8) | 1) / f64::from(1 << 23) - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f64> {
        if self.zeros { vec![0.0; n] } else { (0..n).map(|_| self.float()).collect() }
    }

    pub fn ids(&mut self, n: usize, below: usize) -> Vec<i32> {
        if self.zeros {
            return vec![0; n];
        }
        (0..n).map(|_| (self.bits() % below as u32) as i32).collect()
    }
}
