//! Philox4x32-10, a counter-based random number generator (Salmon et al., SC 2011): random bits are a pure function of
//! the seed, step, site and element.
//!
//! Kernels compute the same function (`kernels/common/philox.cuh`). Dropout masks are never stored; the backward pass
//! generates them again.

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Returns four random words for a key and a counter.
#[inline]
pub fn philox(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let ([mut k0, mut k1], mut c) = (key, counter);
    for _ in 0..10 {
        let p0 = u64::from(MULTIPLIER[0]) * u64::from(c[0]);
        let p1 = u64::from(MULTIPLIER[1]) * u64::from(c[2]);
        c = [(p1 >> 32) as u32 ^ c[1] ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k1, p0 as u32];
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    c
}

/// Returns the random word of one element: word `index % 4` of block `index / 4`, for a step and a site (one dropout of
/// the model).
#[inline]
pub fn word(seed: [u32; 2], step: u32, site: u32, index: u64) -> u32 {
    let block = index / 4;
    philox(seed, [block as u32, (block >> 32) as u32, site, step])[(index % 4) as usize]
}

/// Returns whether an element with this random word is kept, which has probability `1 - p`: the word must be at least
/// `p 2^32`.
#[inline]
pub fn keeps(word: u32, p: f32) -> bool {
    f64::from(word) >= f64::from(p) * 4_294_967_296.0
}

#[cfg(test)]
mod tests {
    use super::philox;

    /// Known answers from the authors' Random123 distribution (kat_vectors, philox4x32 with 10 rounds).
    #[test]
    fn known_answers() {
        assert_eq!(philox([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 2], [u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }
}
