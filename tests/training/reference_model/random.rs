//! Counter-based random numbers, keyed by their purpose: Philox for weights and dropout, splitmix64 for data.

use std::f64::consts::TAU;

const WORD: f64 = 4_294_967_296.0;

/// Philox4x32 with ten rounds (Salmon et al., SC 2011).
pub fn philox(seed: u64, mut c: [u32; 4]) -> [u32; 4] {
    for round in 0..10 {
        let k = [(seed, 0x9e37_79b9), (seed >> 32, 0xbb67_ae85)]
            .map(|(k, step)| (k as u32).wrapping_add(u32::wrapping_mul(step, round)));
        let [a, b] =
            [(0xd251_1f53, c[0]), (0xcd9e_8d57, c[2])].map(|(factor, word): (u64, u32)| factor * u64::from(word));
        c = [(b >> 32) as u32 ^ c[1] ^ k[0], b as u32, (a >> 32) as u32 ^ c[3] ^ k[1], a as u32];
    }
    c
}

/// Returns a standard normal number (Box-Muller) from 53 and 32 random bits: the initial value of an element of a
/// parameter, before scaling.
pub fn normal(seed: u64, param: usize, element: usize) -> f64 {
    let [a, b, c, _] = philox(seed, [element as u32, 0, param as u32, u32::MAX]);
    let uniform = ((u64::from(a) << 21 | u64::from(b) >> 11) as f64 + 1.0) / 2f64.powi(53);
    (-2.0 * uniform.ln()).sqrt() * (TAU * f64::from(c) / WORD).cos()
}

/// Returns the unnormalised random share of a member of a group.
pub fn part(seed: u64, param: usize, unit: usize, member: usize) -> f64 {
    0.5 + f64::from(philox(seed, [unit as u32, param as u32, member as u32, u32::MAX - 1])[0]) / WORD
}

/// Returns the factor that dropout multiplies an element by. The key is the seed, the micro-batch within the stage, and
/// the site in the model.
pub fn dropped(((seed, pass), site): ((u64, u32), u32), index: usize, p: f32) -> f64 {
    let word = philox(seed, [(index / 4) as u32, 0, site, pass])[index % 4];
    if f64::from(word) < f64::from(p) * WORD { 0.0 } else { 1.0 / (1.0 - f64::from(p)) }
}

/// Returns a number below `choices`: splitmix64 (Steele, Lea and Flood 2014), chained over `numbers`.
pub fn choice(seed: u64, numbers: [u64; 3], choices: usize) -> usize {
    let mix = |x: u64| {
        let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let bits = numbers.iter().fold(mix(seed), |state, n| mix(state ^ n));
    ((u128::from(bits) * choices as u128) >> 64) as usize
}
