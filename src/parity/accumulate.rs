use super::harness::{ALIGNED, EPS, Gap, Harness};
use super::{Size, Stem};
use crate::device::ops::{Accumulate, Op, Operation};

pub const STEMS: &[Stem] = &[Stem { name: Accumulate::NAME, cases, sample }];

fn cases(harness: &mut Harness) {
    // 4104: one vector more than a block processes at once, in f32 and in bf16.
    for dims in
        [&[1usize][..], &[1, 1], &[3, 5], &[7, 64], &[2, 3, 17], &[129, 131], &[8], &[4104], &[3, 24], &[2, 4104]]
    {
        let width = dims[dims.len() - 1];
        for (add, of_x, of_out) in [
            (false, Gap::None, Gap::None),
            (true, Gap::None, Gap::None),
            (false, Gap::Elements(3), Gap::None),
            (true, Gap::None, Gap::Elements(5)),
            (true, Gap::Elements(3), Gap::Elements(3)),
            (false, ALIGNED, Gap::None),
            (true, Gap::None, ALIGNED),
            (true, ALIGNED, ALIGNED),
        ] {
            let (px, po) = (harness.pitch(width, of_x), harness.pitch(width, of_out));
            let x = harness.input((dims, px));
            let out = if add { harness.input((dims, po)) } else { harness.output((dims, po)) };
            // An addition is rounded once; a copy is exact.
            let rounding = if add { EPS } else { 0.0 };
            harness.check(Accumulate { x, out, add }, |_, want| rounding * want.abs());
            harness.clear();
        }
    }
    // Rows that are not aligned to 16 bytes.
    let (x, out) = (harness.input((&[3, 17], 24)).columns(1, 16), harness.output((&[3, 16], 0)));
    harness.check(Accumulate { x, out, add: false }, |_, _| 0.0);
    harness.clear();
    mixed(harness);
}

/// Accumulating and copying between types.
fn mixed(harness: &mut Harness) {
    let (float, wide) = (harness.float, harness.float.accumulator());
    if float == wide {
        return;
    }
    for dims in [&[1usize][..], &[3, 5], &[7, 64], &[129, 136], &[4], &[2052], &[3, 2052]] {
        let width = dims[dims.len() - 1];
        for (from, to) in [(float, wide), (wide, float)] {
            for (add, of_x, of_out) in [
                (false, Gap::None, Gap::None),
                (true, Gap::None, Gap::None),
                (true, Gap::Elements(1), Gap::None),
                (true, Gap::Elements(1), Gap::Elements(1)),
                (false, Gap::None, Gap::UpTo(4)),
                (true, Gap::UpTo(4), Gap::None),
                (true, Gap::UpTo(4), Gap::UpTo(4)),
            ] {
                let (px, po) = (harness.pitch(width, of_x), harness.pitch(width, of_out));
                let x = harness.input_of(from, (dims, px));
                let out = if add { harness.input_of(to, (dims, po)) } else { harness.output_of(to, (dims, po)) };
                let rounding = if add { EPS } else { 0.0 };
                harness.check(Accumulate { x, out, add }, |_, want| rounding * want.abs());
                harness.clear();
            }
        }
    }
    // Rows that are not aligned to four elements.
    for (from, to) in [(float, wide), (wide, float)] {
        let (x, out) = (harness.input_of(from, (&[3, 10], 12)).columns(2, 8), harness.output_of(to, (&[3, 8], 0)));
        harness.check(Accumulate { x, out, add: false }, |_, _| 0.0);
        harness.clear();
    }
}

fn sample(harness: &mut Harness, size: Size) -> Op {
    let rows = if size == Size::Large { 999 } else { 3 };
    Accumulate { x: harness.input((&[rows, 101], 0)), out: harness.input((&[rows, 101], 103)), add: true }.into()
}
