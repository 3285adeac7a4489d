//! Pieces of the factors of a product, packed for its tiles. Rows and columns that do not exist are packed as zeros.

use super::{Matrix, PITCH, VECTORS};
use pulp::Simd;
use std::ops::Range;

/// Loads a cache line early, where the machine can.
#[inline(always)]
pub fn prefetch(at: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; no address is wrong.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Loads a cache line early into the second-level cache, where the machine can.
#[inline(always)]
pub fn prefetch_far(at: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; no address is wrong.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Loads `n` elements of each of some rows into the second-level cache.
#[inline(always)]
pub fn fetch_rows(from: Matrix, rows: usize, n: usize) {
    fetch(from.start, from, rows, 0..n);
}

/// Loads a part of the rows of `a` from `next` on into the second-level cache: `ahead` of their run of k.
#[inline(always)]
pub fn fetch(next: *const f32, a: Matrix, rows: usize, ahead: Range<usize>) {
    if rows == 0 {
    } else if a.row == 1 {
        ahead.for_each(|k| prefetch_far(next.wrapping_add(k * a.column)));
    } else {
        // 16 floats a line.
        (0..rows).for_each(|r| ahead.clone().step_by(16).for_each(|k| prefetch_far(next.wrapping_add(r * a.row + k))));
    }
}

/// `depth` elements of `height` rows, each row in one piece, [`PITCH`] apart.
///
/// # Safety
/// `a` has them, side by side in a row.
#[inline(always)]
pub unsafe fn along<const MR: usize>(a: Matrix, height: usize, depth: usize, to: &mut [f32]) {
    for (r, row) in to.chunks_exact_mut(PITCH).take(MR).enumerate() {
        let row = &mut row[..depth];
        if r < height {
            // SAFETY: the caller's promise.
            row.copy_from_slice(unsafe { std::slice::from_raw_parts(a.start.add(r * a.row), depth) });
        } else {
            row.fill(0.0);
        }
    }
}

/// For each of `depth` k, the elements of `height` rows side by side, `MR` apart.
///
/// # Safety
/// `a` has them, those of one k side by side.
#[inline(always)]
pub unsafe fn across<const MR: usize>(a: Matrix, height: usize, depth: usize, to: &mut [f32]) {
    for (k, to) in to.as_chunks_mut::<MR>().0[..depth].iter_mut().enumerate() {
        let from = a.start.wrapping_add(k * a.column);
        if height == MR {
            // SAFETY: the caller's promise.
            *to = unsafe { from.cast::<[f32; MR]>().read_unaligned() };
        } else {
            // SAFETY: as above.
            to[..height].copy_from_slice(unsafe { std::slice::from_raw_parts(from, height) });
            to[height..].fill(0.0);
        }
    }
}

/// `depth` rows of `width` columns as panels as wide as a tile, one after another, each row by row.
///
/// # Safety
/// `b` has them; one of its distances is 1. `to` holds them, the width rounded up to panels.
#[inline(always)]
pub unsafe fn strip<S: Simd>(b: Matrix, depth: usize, width: usize, to: &mut [f32]) {
    let nr = VECTORS * S::F32_LANES;
    for (p, panel) in to.chunks_exact_mut(depth * nr).take(width.div_ceil(nr)).enumerate() {
        let columns = nr.min(width - p * nr);
        // SAFETY: the caller's promise.
        let from = unsafe { b.at(0, p * nr) };
        if b.column != 1 {
            // SAFETY: as above.
            unsafe { turned::<S>(from, depth, columns, panel) };
            continue;
        }
        for (k, to) in panel.chunks_exact_mut(nr).enumerate() {
            let from = from.start.wrapping_add(k * b.row);
            if columns == nr {
                for v in 0..VECTORS {
                    let to = to.as_mut_ptr().cast::<S::f32s>().wrapping_add(v);
                    // SAFETY: the caller's promise.
                    unsafe { to.write_unaligned(from.cast::<S::f32s>().add(v).read_unaligned()) };
                }
            } else {
                // SAFETY: as above.
                to[..columns].copy_from_slice(unsafe { std::slice::from_raw_parts(from, columns) });
                to[columns..].fill(0.0);
            }
        }
    }
}

/// A panel whose columns lie in memory each in one piece, in squares of 8.
///
/// # Safety
/// As [`strip`].
#[inline(always)]
unsafe fn turned<S: Simd>(b: Matrix, depth: usize, columns: usize, panel: &mut [f32]) {
    let nr = VECTORS * S::F32_LANES;
    for c in (0..nr).step_by(8) {
        let there = columns.saturating_sub(c).min(8);
        let squares = if there == 8 { depth / 8 * 8 } else { 0 };
        for k in (0..squares).step_by(8) {
            // SAFETY: eight columns and eight k exist.
            unsafe { square::<S>(b.at(k, c), panel.as_mut_ptr().add(k * nr + c), nr) };
        }
        for k in squares..depth {
            for (x, to) in panel[k * nr + c..(k + 1) * nr].iter_mut().take(8).enumerate() {
                // SAFETY: the element exists.
                *to = if x < there { unsafe { *b.at(k, c + x).start } } else { 0.0 };
            }
        }
    }
}

/// Eight columns of eight elements become eight rows.
///
/// # Safety
/// They exist on both sides.
#[inline(always)]
unsafe fn square<S: Simd>(b: Matrix, to: *mut f32, pitch: usize) {
    #[cfg(target_arch = "x86_64")]
    if S::F32_LANES >= 8 {
        // SAFETY: the caller's promise; vectors of 8 or 16 are AVX's.
        unsafe { square_avx(b, to, pitch) };
        return;
    }
    for k in 0..8 {
        for c in 0..8 {
            // SAFETY: the caller's promise.
            unsafe { *to.add(k * pitch + c) = *b.at(k, c).start };
        }
    }
}

/// [`square`] by 24 shuffles. Written out, because compilers make gathers or single loads of the plain loop.
///
/// # Safety
/// As [`square`], and the machine has AVX.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
#[inline]
unsafe fn square_avx(b: Matrix, to: *mut f32, pitch: usize) {
    use std::arch::x86_64::{
        _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps,
        _mm256_unpacklo_ps,
    };
    // SAFETY: the caller's promise.
    let load = |c: usize| unsafe { _mm256_loadu_ps(b.at(0, c).start) };
    // Four columns: k 0 and 4, 1 and 5, 2 and 6, 3 and 7 of the result.
    let half = |c: usize| {
        let (x, y, z, w) = (load(c), load(c + 1), load(c + 2), load(c + 3));
        let (low, high) = (_mm256_unpacklo_ps(x, y), _mm256_unpackhi_ps(x, y));
        let (low2, high2) = (_mm256_unpacklo_ps(z, w), _mm256_unpackhi_ps(z, w));
        [
            _mm256_shuffle_ps::<0x44>(low, low2),
            _mm256_shuffle_ps::<0xee>(low, low2),
            _mm256_shuffle_ps::<0x44>(high, high2),
            _mm256_shuffle_ps::<0xee>(high, high2),
        ]
    };
    for (k, (left, right)) in half(0).into_iter().zip(half(4)).enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            _mm256_storeu_ps(to.add(k * pitch), _mm256_permute2f128_ps::<0x20>(left, right));
            _mm256_storeu_ps(to.add((k + 4) * pitch), _mm256_permute2f128_ps::<0x31>(left, right));
        }
    }
}
