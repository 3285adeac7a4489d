//! Pieces of the factors of a product, packed for its tiles. Rows and columns that do not exist are packed as zeros.

use super::{DEPTH, Matrix, VECTORS};
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

/// Loads a part of the rows of `a` from `next` on into the second-level cache: `ahead` of their run of k.
#[inline(always)]
pub fn fetch(next: *const f32, a: Matrix, rows: usize, ahead: Range<usize>) {
    let line = |at: *const f32| {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint; no address is wrong.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T1>(at.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    };
    if rows == 0 {
    } else if a.row == 1 {
        ahead.for_each(|k| line(next.wrapping_add(k * a.column)));
    } else {
        // 16 floats a line.
        (0..rows).for_each(|r| ahead.clone().step_by(16).for_each(|k| line(next.wrapping_add(r * a.row + k))));
    }
}

/// `depth` elements of `height` rows, each row in one piece, [`DEPTH`] apart.
///
/// # Safety
/// `a` has them, side by side in a row.
#[inline(always)]
pub unsafe fn along<const MR: usize>(a: Matrix, height: usize, depth: usize, to: &mut [f32]) {
    for (r, row) in to.chunks_exact_mut(DEPTH).take(MR).enumerate() {
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
            unsafe { turned(from, depth, columns, nr, panel) };
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
unsafe fn turned(b: Matrix, depth: usize, columns: usize, nr: usize, panel: &mut [f32]) {
    for c in (0..nr).step_by(8) {
        let there = columns.saturating_sub(c).min(8);
        let squares = if there == 8 { depth / 8 * 8 } else { 0 };
        for k in (0..squares).step_by(8) {
            // SAFETY: eight columns and eight k exist.
            unsafe { square(b.at(k, c), panel.as_mut_ptr().add(k * nr + c), nr) };
        }
        for k in squares..depth {
            for (x, to) in panel[k * nr + c..(k + 1) * nr].iter_mut().take(8).enumerate() {
                // SAFETY: the element exists.
                *to = if x < there { unsafe { *b.at(k, c + x).start } } else { 0.0 };
            }
        }
    }
}

/// Eight columns of eight elements become eight rows. The steps are the shuffles of 256-bit vectors, which compilers find.
///
/// # Safety
/// They exist on both sides.
#[inline(always)]
unsafe fn square(b: Matrix, to: *mut f32, pitch: usize) {
    type Row = [f32; 8];
    // SAFETY: the caller's promise.
    let r: [Row; 8] = std::array::from_fn(|i| unsafe { b.at(0, i).start.cast::<Row>().read_unaligned() });
    let low = |a: Row, b: Row| [a[0], b[0], a[1], b[1], a[4], b[4], a[5], b[5]];
    let high = |a: Row, b: Row| [a[2], b[2], a[3], b[3], a[6], b[6], a[7], b[7]];
    let first = |a: Row, b: Row| [a[0], a[1], b[0], b[1], a[4], a[5], b[4], b[5]];
    let second = |a: Row, b: Row| [a[2], a[3], b[2], b[3], a[6], a[7], b[6], b[7]];
    let lower = |a: Row, b: Row| [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]];
    let upper = |a: Row, b: Row| [a[4], a[5], a[6], a[7], b[4], b[5], b[6], b[7]];
    // Four columns a half: rows 0 and 4, 1 and 5, 2 and 6, 3 and 7 of the result.
    let half = |r: [Row; 4]| {
        let (p, q) = ((low(r[0], r[1]), high(r[0], r[1])), (low(r[2], r[3]), high(r[2], r[3])));
        [first(p.0, q.0), second(p.0, q.0), first(p.1, q.1), second(p.1, q.1)]
    };
    let (left, right) = (half([r[0], r[1], r[2], r[3]]), half([r[4], r[5], r[6], r[7]]));
    for i in 0..4 {
        // SAFETY: as above.
        unsafe {
            to.add(i * pitch).cast::<Row>().write_unaligned(lower(left[i], right[i]));
            to.add((i + 4) * pitch).cast::<Row>().write_unaligned(upper(left[i], right[i]));
        }
    }
}
