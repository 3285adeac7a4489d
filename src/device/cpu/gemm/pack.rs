//! Packs parts of the factors of a product for its tiles. Rows and columns beyond the matrix are packed as zeros.

use super::{Matrix, PITCH, VECTORS};
use pulp::Simd;
use std::ops::Range;

/// Prefetches a cache line into L1, on x86-64.
#[inline(always)]
pub fn prefetch(at: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is only a hint and accepts any address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Prefetches a cache line into L2, on x86-64.
#[inline(always)]
pub fn prefetch_far(at: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is only a hint and accepts any address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Prefetches the first `n` elements of each of `rows` rows into L2.
#[inline(always)]
pub fn fetch_rows(from: Matrix, rows: usize, n: usize) {
    fetch(from.start, from, rows, 0..n);
}

/// Prefetches the range `ahead` of k into L2, for the `rows` rows of `a` from `next` on.
#[inline(always)]
pub fn fetch(next: *const f32, a: Matrix, rows: usize, ahead: Range<usize>) {
    if rows == 0 {
    } else if a.row == 1 {
        ahead.for_each(|k| prefetch_far(next.wrapping_add(k * a.column)));
    } else {
        // A cache line has 16 floats.
        (0..rows).for_each(|r| ahead.clone().step_by(16).for_each(|k| prefetch_far(next.wrapping_add(r * a.row + k))));
    }
}

/// Packs `depth` elements of `height` rows so that each row is contiguous and rows are [`PITCH`] apart.
///
/// # Safety
/// `a` must be row-major and have these elements.
#[inline(always)]
pub unsafe fn along<const MR: usize>(a: Matrix, height: usize, depth: usize, to: &mut [f32]) {
    for (r, row) in to.chunks_exact_mut(PITCH).take(MR).enumerate() {
        let row = &mut row[..depth];
        if r < height {
            // SAFETY: guaranteed by the caller.
            row.copy_from_slice(unsafe { std::slice::from_raw_parts(a.start.add(r * a.row), depth) });
        } else {
            row.fill(0.0);
        }
    }
}

/// Packs `depth` elements of `height` rows so that the elements of all rows for one k are adjacent, `MR` elements for
/// each k.
///
/// # Safety
/// `a` must be column-major and have these elements.
#[inline(always)]
pub unsafe fn across<const MR: usize>(a: Matrix, height: usize, depth: usize, to: &mut [f32]) {
    for (k, to) in to.as_chunks_mut::<MR>().0[..depth].iter_mut().enumerate() {
        let from = a.start.wrapping_add(k * a.column);
        if height == MR {
            // SAFETY: guaranteed by the caller.
            *to = unsafe { from.cast::<[f32; MR]>().read_unaligned() };
        } else {
            // SAFETY: as above.
            to[..height].copy_from_slice(unsafe { std::slice::from_raw_parts(from, height) });
            to[height..].fill(0.0);
        }
    }
}

/// Packs `depth` rows of `width` columns into panels of the width of a tile. Panels follow each other, and each is
/// row-major.
///
/// # Safety
/// `b` must have these elements, and one of its strides must be 1. `to` must have space for them, with the width
/// rounded up to whole panels.
#[inline(always)]
pub unsafe fn strip<S: Simd>(b: Matrix, depth: usize, width: usize, to: &mut [f32]) {
    let nr = VECTORS * S::F32_LANES;
    for (p, panel) in to.chunks_exact_mut(depth * nr).take(width.div_ceil(nr)).enumerate() {
        let columns = nr.min(width - p * nr);
        // SAFETY: guaranteed by the caller.
        let from = unsafe { b.at(0, p * nr) };
        if b.column != 1 {
            // SAFETY: as above.
            unsafe { transposed::<S>(from, depth, columns, panel) };
            continue;
        }
        for (k, to) in panel.chunks_exact_mut(nr).enumerate() {
            let from = from.start.wrapping_add(k * b.row);
            if columns == nr {
                for v in 0..VECTORS {
                    let to = to.as_mut_ptr().cast::<S::f32s>().wrapping_add(v);
                    // SAFETY: guaranteed by the caller.
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

/// Packs a panel of a column-major matrix, transposing blocks of 8 x 8 elements.
///
/// # Safety
/// As for [`strip`].
#[inline(always)]
unsafe fn transposed<S: Simd>(b: Matrix, depth: usize, columns: usize, panel: &mut [f32]) {
    let nr = VECTORS * S::F32_LANES;
    for c in (0..nr).step_by(8) {
        let there = columns.saturating_sub(c).min(8);
        let squares = if there == 8 { depth / 8 * 8 } else { 0 };
        for k in (0..squares).step_by(8) {
            // SAFETY: eight columns exist for eight values of k.
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

/// Transposes a block of 8 x 8 elements: eight columns of `b` become eight rows of `to`, `pitch` apart.
///
/// # Safety
/// `b` and `to` must have these elements.
#[inline(always)]
unsafe fn square<S: Simd>(b: Matrix, to: *mut f32, pitch: usize) {
    #[cfg(target_arch = "x86_64")]
    if S::F32_LANES >= 8 {
        // SAFETY: guaranteed by the caller; vectors of 8 or 16 floats imply AVX.
        unsafe { square_avx(b, to, pitch) };
        return;
    }
    for k in 0..8 {
        for c in 0..8 {
            // SAFETY: guaranteed by the caller.
            unsafe { *to.add(k * pitch + c) = *b.at(k, c).start };
        }
    }
}

/// [`square`] with 24 shuffles. It is written with intrinsics because compilers turn the simple loop into gathers or
/// scalar loads.
///
/// # Safety
/// As for [`square`], and the machine must have AVX.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
#[inline]
unsafe fn square_avx(b: Matrix, to: *mut f32, pitch: usize) {
    use std::arch::x86_64::{
        _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps,
        _mm256_unpacklo_ps,
    };
    // SAFETY: guaranteed by the caller.
    let load = |c: usize| unsafe { _mm256_loadu_ps(b.at(0, c).start) };
    // Transposes four columns. Result i holds the elements for k = i in its low half and for k = i + 4 in its high
    // half.
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
        // SAFETY: guaranteed by the caller.
        unsafe {
            _mm256_storeu_ps(to.add(k * pitch), _mm256_permute2f128_ps::<0x20>(left, right));
            _mm256_storeu_ps(to.add((k + 4) * pitch), _mm256_permute2f128_ps::<0x31>(left, right));
        }
    }
}
