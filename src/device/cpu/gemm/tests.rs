use super::{COLUMNS, DEPTH, Finish, Matrix, Product, ROWS, SCRATCH, STRIP};
use pulp::Arch;
use std::cell::RefCell;
use std::ops::Range;

/// Returns `n` numbers from -1 to 1, from a linear congruential generator.
fn random(n: usize, seed: &mut u32) -> Vec<f32> {
    let mut next = || {
        *seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*seed >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Counts how often each element was finished. The second field is the width of the rows.
struct Times<'a>(&'a RefCell<Vec<usize>>, usize);

impl Finish for Times<'_> {
    unsafe fn begin(&self, rows: Range<usize>, columns: Range<usize>) {
        let times = self.0.borrow();
        rows.for_each(|r| {
            columns.clone().for_each(|c| assert_eq!(times[r * self.1 + c], 0, "begin is called before finish"))
        });
    }

    unsafe fn finish(&self, rows: Range<usize>, columns: Range<usize>) {
        rows.for_each(|r| columns.clone().for_each(|c| self.0.borrow_mut()[r * self.1 + c] += 1));
    }
}

struct Case {
    sizes: (usize, usize, usize),
    ta: bool,
    tb: bool,
    add: bool,
    scale: f32,
}

impl Case {
    /// Computes the product in blocks of this many rows and columns. Returns the result, and for each element the exact
    /// value and the largest error allowed.
    fn run(&self, arch: Arch, (rows, columns): (usize, usize)) -> (Vec<f32>, Vec<(f64, f64)>) {
        let (m, n, k) = self.sizes;
        let mut seed = (m * 7 + n * 3 + k) as u32;
        // The padding between rows is NaN, because nothing may be read there.
        let padded = |rows: usize, width: usize, seed: &mut u32| {
            let pitch = width + 3;
            let mut all = random(rows * pitch, seed);
            all.chunks_exact_mut(pitch).for_each(|row| row[width..].fill(f32::NAN));
            (all, pitch)
        };
        let (mut a, pitch_a) = if self.ta { padded(k, m, &mut seed) } else { padded(m, k, &mut seed) };
        let (mut b, pitch_b) = if self.tb { padded(n, k, &mut seed) } else { padded(k, n, &mut seed) };
        let (mut c, pitch_c) = padded(m, n, &mut seed);
        let before = c.clone();
        let oriented = |start: *mut f32, pitch, transpose| {
            let rows = Matrix::rows(start, pitch);
            if transpose { rows.transposed() } else { rows }
        };
        let (ma, mb) = (oriented(a.as_mut_ptr(), pitch_a, self.ta), oriented(b.as_mut_ptr(), pitch_b, self.tb));
        let mc = Matrix::rows(c.as_mut_ptr(), pitch_c);
        let mut scratch = vec![f32::NAN; SCRATCH];
        let finished = RefCell::new(vec![0; m * n]);
        for top in (0..m).step_by(rows) {
            for left in (0..n).step_by(columns) {
                let block = Product {
                    rows: top..(top + rows).min(m),
                    columns: left..(left + columns).min(n),
                    k,
                    a: ma,
                    b: mb,
                    c: mc,
                    add: self.add,
                    scale: self.scale,
                    finish: Times(&finished, n),
                };
                // SAFETY: the matrices have these sizes, and there is a single thread.
                unsafe { block.run(arch, &mut scratch) };
            }
        }
        assert!(finished.borrow().iter().all(|&times| times == 1), "every element is finished once");
        let at = |all: &[f32], pitch, transpose, r: usize, c: usize| {
            f64::from(if transpose { all[c * pitch + r] } else { all[r * pitch + c] })
        };
        let truth = (0..m * n).map(|i| {
            let (r, c) = (i / n, i % n);
            let terms = (0..k).map(|k| at(&a, pitch_a, self.ta, r, k) * at(&b, pitch_b, self.tb, k, c));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
            let old = if self.add { f64::from(before[r * pitch_c + c]) } else { 0.0 };
            let scale = f64::from(self.scale);
            // There are k + 3 roundings, or twice as many without fused multiply-adds, each of at most half an ulp of
            // the sum of absolute values.
            let bound = f64::from(f32::EPSILON) * (k + 3) as f64 * (size * scale.abs() + old.abs());
            (scale * sum + old, bound)
        });
        let truth: Vec<(f64, f64)> = truth.collect();
        for (r, row) in c.chunks_exact(pitch_c).enumerate() {
            assert!(row[n..].iter().all(|x| x.is_nan()), "row {r}: nothing is written beyond the width");
        }
        (c.chunks_exact(pitch_c).flat_map(|row| row[..n].to_vec()).collect(), truth)
    }
}

fn cases() -> Vec<Case> {
    let sizes = [
        (1, 1, 1),
        (ROWS, COLUMNS, 8),
        (ROWS + 1, COLUMNS + 1, 9),
        (5, 100, 17),
        (61, STRIP + 5, 3),
        (14, 2 * STRIP + 1, DEPTH + 3),
        (30, 33, DEPTH + 1),
        (13, 50, 2 * DEPTH + 7),
        (7, 5, 0),
    ];
    let mut cases = Vec::new();
    for sizes in sizes {
        for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
            for (add, scale) in [(false, 1.0), (true, 1.0), (false, -0.37), (true, 0.125)] {
                cases.push(Case { sizes, ta, tb, add, scale });
            }
        }
    }
    cases
}

/// Returns the SIMD instruction sets of this machine to test.
fn units() -> Vec<Arch> {
    let mut units = vec![Arch::new(), Arch::Scalar];
    #[cfg(target_arch = "x86_64")]
    units.extend(pulp::x86::V3::try_new().map(Arch::V3));
    units
}

fn bits(all: &[f32]) -> Vec<u32> {
    all.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn products_are_right_for_all_transposes_and_ragged_sizes() {
    for (case, arch) in cases().iter().flat_map(|case| units().into_iter().map(move |arch| (case, arch))) {
        let (got, truth) = case.run(arch, (usize::MAX, usize::MAX));
        for (i, (got, (want, bound))) in got.iter().zip(truth).enumerate() {
            let error = (f64::from(*got) - want).abs();
            let Case { sizes, ta, tb, .. } = case;
            assert!(
                error <= bound,
                "{sizes:?} {ta} {tb} {arch:?}: element {i} is {got}, not {want} (within {bound:e})"
            );
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_partition_into_blocks() {
    for case in cases() {
        let (whole, _) = case.run(Arch::new(), (usize::MAX, usize::MAX));
        for block in [(1, 7), (5, COLUMNS), (ROWS, STRIP)] {
            let cut = case.run(Arch::new(), block).0;
            assert_eq!(bits(&whole), bits(&cut), "{:?} in blocks of {block:?}", case.sizes);
        }
    }
}

/// Holds on all machines with fused multiply-adds.
#[cfg(target_arch = "x86_64")]
#[test]
fn bits_do_not_depend_on_the_width_of_vectors() {
    let Some(narrow) = pulp::x86::V3::try_new() else { return };
    for case in cases() {
        let (wide, _) = case.run(Arch::new(), (usize::MAX, usize::MAX));
        let (narrow, _) = case.run(Arch::V3(narrow), (usize::MAX, usize::MAX));
        assert_eq!(bits(&wide), bits(&narrow), "{:?}", case.sizes);
    }
}
