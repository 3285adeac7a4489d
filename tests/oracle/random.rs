//! Random numbers as functions of what they are for: Philox for weights and dropout, splitmix64 for data.

/// Philox4x32 with ten rounds (Salmon et al., SC 2011).
pub fn philox(key: [u32; 2], mut c: [u32; 4]) -> [u32; 4] {
    for round in 0..10u32 {
        let k = [0, 1].map(|i| key[i].wrapping_add(round.wrapping_mul([0x9e37_79b9, 0xbb67_ae85][i])));
        let wide = |factor: u64, word: u32| (factor * u64::from(word), (factor * u64::from(word) >> 32) as u32);
        let ((low, high), (low_2, high_2)) = (wide(0xd251_1f53, c[0]), wide(0xcd9e_8d57, c[2]));
        c = [high_2 ^ c[1] ^ k[0], low_2 as u32, high ^ c[3] ^ k[1], low as u32];
    }
    c
}

/// The two words of a 64-bit number, the low one first.
pub fn words(n: u64) -> [u32; 2] {
    [n as u32, (n >> 32) as u32]
}

/// A standard normal number (Box and Muller): the initial value of an element of a parameter, before its scale.
pub fn normal(seed: u64, param: u32, element: u64) -> f64 {
    let [low, high] = words(element);
    let [a, b, c, _] = philox(words(seed), [low, high, param, u32::MAX]);
    // 53 bits in (0, 1], and 32 bits of an angle.
    let uniform = ((u64::from(a) * (1 << 21) + u64::from(b >> 11)) as f64 + 1.0) / 2f64.powi(53);
    let angle = std::f64::consts::TAU * f64::from(c) / 2f64.powi(32);
    (-2.0 * uniform.ln()).sqrt() * angle.cos()
}

/// What dropout multiplies an element with: 0, or 1 / (1 - p). `key`: seed, micro-batch of the stage, site in the model.
pub fn dropped((seed, pass, site): (u64, u32, u32), index: u64, p: f32) -> f64 {
    if p == 0.0 {
        return 1.0;
    }
    let [low, high] = words(index / 4);
    let word = philox(words(seed), [low, high, site, pass])[(index % 4) as usize];
    if f64::from(word) / 2f64.powi(32) < f64::from(p) { 0.0 } else { 1.0 / (1.0 - f64::from(p)) }
}

/// One number out of `choices` for these: splitmix64 (Steele, Lea and Flood 2014) over them, one after another.
pub fn choice(seed: u64, numbers: [u64; 3], choices: usize) -> usize {
    let mix = |x: u64| {
        let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let bits = numbers.iter().fold(mix(seed), |state, n| mix(state ^ n));
    (u128::from(bits) * choices as u128 >> 64) as usize
}
