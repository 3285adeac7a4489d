//! What is drawn for a row of a batch, and the order of an epoch: functions of their arguments, without state.

use crate::data::random::mix;

/// Increment of splitmix64's counter.
const NEXT: u64 = 0x9e37_79b9_7f4a_7c15;

/// Random numbers in a row: splitmix64 from a start of its own.
#[derive(Clone, Debug)]
pub struct Draws {
    state: u64,
}

impl Draws {
    /// The numbers that belong to `seed` and `words`, as step, row and purpose. Other words, other numbers.
    pub fn new(seed: u64, words: [u64; 3]) -> Self {
        Draws { state: words.into_iter().fold(mix(seed), |state, word| mix(state ^ word)) }
    }

    fn bits(&mut self) -> u64 {
        let bits = mix(self.state);
        self.state = self.state.wrapping_add(NEXT);
        bits
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [`low`, `high`).
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform in 0..`count`; 0 when that is empty.
    pub fn below(&mut self, count: usize) -> usize {
        ((u128::from(self.bits()) * count as u128) >> 64) as usize
    }

    /// True with the probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// From Beta(`alpha`, `alpha`), `alpha` > 0: the share of one of two Gamma variates in both.
    pub fn beta(&mut self, alpha: f64) -> f64 {
        let (one, other) = (self.log_gamma(alpha), self.log_gamma(alpha));
        1.0 / (1.0 + (other - one).exp())
    }

    /// The logarithm of a Gamma(`shape`, 1) variate (Marsaglia and Tsang 2000); below shape 1 the variate itself may be too
    /// small for a number.
    fn log_gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            return self.log_gamma(shape + 1.0) + (1.0 - self.unit()).ln() / shape;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && (1.0 - self.unit()).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return (d * v).ln();
            }
        }
    }
}

/// What stands at `index` of `0..count`, shuffled for this epoch: for each epoch a permutation.
///
/// A Feistel network permutes the next power of four; what it takes outside is permuted on until it is inside.
pub fn shuffled(seed: u64, epoch: u64, index: usize, count: usize) -> usize {
    debug_assert!(index < count);
    let bits = usize::BITS - count.saturating_sub(1).leading_zeros();
    let half = bits.div_ceil(2).max(1);
    let mask = (1u64 << half) - 1;
    let key = mix(mix(seed) ^ epoch);
    let mut at = index as u64;
    loop {
        let (mut left, mut right) = (at >> half, at & mask);
        for round in 0..8 {
            (left, right) = (right, left ^ (mix(mix(key ^ round) ^ right) & mask));
        }
        at = left << half | right;
        if at < count as u64 {
            return at as usize;
        }
    }
}
