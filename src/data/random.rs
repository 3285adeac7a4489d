//! Random numbers of data: a function of what they are for, on any machine.

/// What splitmix64 steps by.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// One step of splitmix64 (Steele, Lea and Flood 2014), a bijection on 64 bits.
pub(in crate::data) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(STEP);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// 64 random bits for these numbers.
pub(super) fn hash(seed: u64, numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(mix(seed), |state, number| mix(state ^ number))
}

/// Maps 64 random bits to `0..choices`, with a bias below choices / 2^64; 0 when there is no choice.
pub(super) fn scale(bits: u64, choices: usize) -> usize {
    ((u128::from(bits) * choices as u128) >> 64) as usize
}

/// As many random numbers as are asked for, one after another: splitmix64.
#[derive(Clone, Copy, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64, numbers: impl IntoIterator<Item = u64>) -> Self {
        Random(hash(seed, numbers))
    }

    pub fn bits(&mut self) -> u64 {
        let bits = mix(self.0);
        self.0 = self.0.wrapping_add(STEP);
        bits
    }

    /// Uniform in `0..choices`; 0 when there is no choice.
    pub fn below(&mut self, choices: usize) -> usize {
        scale(self.bits(), choices)
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-53.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / 9_007_199_254_740_992.0
    }
}

/// Where `index` of `0..count` goes in the `round`-th random order of those numbers.
pub(super) fn shuffled(seed: u64, round: u64, index: u64, count: u64) -> u64 {
    // A Feistel network permutes the numbers of so many bits; steps that leave the range are walked on until one comes back.
    let half = (64 - count.saturating_sub(1).leading_zeros()).div_ceil(2).max(1);
    let low = (1u64 << half) - 1;
    let mut at = index;
    loop {
        for stage in 0..4 {
            let (left, right) = (at >> half, at & low);
            at = right << half | (left ^ hash(seed, [round, stage, right]) & low);
        }
        if at < count {
            return at;
        }
    }
}
