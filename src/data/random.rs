//! Reproducible random numbers and permutations for data.
//!
//! They are pure functions of the seed and of what they are used for (step, row, purpose), and the same on every
//! machine.

/// The increment of splitmix64.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// One step of splitmix64 (Steele, Lea and Flood 2014), a bijection on 64 bits.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(STEP);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Returns 64 random bits that depend on the seed and on `numbers`.
pub(super) fn hash(seed: u64, numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(mix(seed), |state, number| mix(state ^ number))
}

/// Maps 64 random bits to `0..choices`, with a bias below choices / 2^64. Returns 0 if `choices` is 0.
pub(super) fn scale(bits: u64, choices: usize) -> usize {
    ((u128::from(bits) * choices as u128) >> 64) as usize
}

/// A stream of random numbers: splitmix64 from a hashed starting state.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Returns the stream for `seed` and `numbers` (a step, a row and a purpose, say). Different `numbers` give
    /// independent streams.
    pub fn new(seed: u64, numbers: impl IntoIterator<Item = u64>) -> Self {
        Random(hash(seed, numbers))
    }

    /// Returns the next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let bits = mix(self.0);
        self.0 = self.0.wrapping_add(STEP);
        bits
    }

    /// Returns a uniform integer in `0..choices`, or 0 if `choices` is 0.
    pub fn below(&mut self, choices: usize) -> usize {
        scale(self.bits(), choices)
    }

    /// Returns a uniform number in `[0, 1)`, a multiple of 2^-53.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / 9_007_199_254_740_992.0
    }

    /// Returns a uniform number from `low` (inclusive) to `high` (exclusive).
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Returns true with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// Returns a standard normal variate (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Returns a Beta(`alpha`, `alpha`) variate, `alpha` > 0: x / (x + y) for two Gamma(`alpha`, 1) variates x and y.
    pub fn beta(&mut self, alpha: f64) -> f64 {
        let (one, other) = (self.log_gamma(alpha), self.log_gamma(alpha));
        1.0 / (1.0 + (other - one).exp())
    }

    /// Returns the logarithm of a Gamma(`shape`, 1) variate (Marsaglia and Tsang 2000). The logarithm, because for
    /// shapes below 1 the variate itself may underflow.
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

/// Stages of the Feistel network of [`shuffled`] for texts. Changing it would change the order of the data in existing
/// runs.
pub(super) const TEXT_STAGES: u64 = 4;
/// Stages of the Feistel network of [`shuffled`] for images; see [`TEXT_STAGES`].
pub(super) const IMAGE_STAGES: u64 = 8;

/// Returns the element at position `index` of a random permutation of `0..count`; each `round` has its own permutation.
///
/// A Feistel network of `stages` stages permutes the next power of four. A result outside of `0..count` is permuted
/// again until it is inside (cycle walking).
pub(super) fn shuffled(seed: u64, round: u64, index: usize, count: usize, stages: u64) -> usize {
    debug_assert!(index < count);
    let half = (usize::BITS - count.saturating_sub(1).leading_zeros()).div_ceil(2).max(1);
    let low = (1u64 << half) - 1;
    let mut at = index as u64;
    loop {
        for stage in 0..stages {
            let (left, right) = (at >> half, at & low);
            at = right << half | (left ^ hash(seed, [round, stage, right]) & low);
        }
        if at < count as u64 {
            return at as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_and_permutations_never_change() {
        // Resumed runs rely on it.
        let mut random = Random::new(7, [1, 2, 3]);
        assert_eq!([random.bits(), random.bits()], [0xab41_cd08_4dcb_e7bf, 0x4126_dc95_9994_f5dd]);
        let order = |stages| [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map(|index| shuffled(7, 3, index, 10, stages));
        assert_eq!(order(TEXT_STAGES), [6, 8, 7, 9, 4, 5, 3, 0, 2, 1]);
        assert_eq!(order(IMAGE_STAGES), [7, 3, 0, 8, 4, 1, 5, 9, 6, 2]);
        let far = |stages| [0, 1, 59_999].map(|index| shuffled(1, 0, index, 60_000, stages));
        assert_eq!([far(TEXT_STAGES), far(IMAGE_STAGES)], [[14_929, 4_572, 7_430], [38_548, 551, 59_729]]);
    }
}
