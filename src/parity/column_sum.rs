use super::harness::{ALIGNED, Gap, Harness, dot};
use super::{Size, Stem};
use crate::device::ops::{ColumnSum, Op, Operation};

pub const STEMS: &[Stem] = &[Stem { name: ColumnSum::NAME, cases, sample }];

fn cases(harness: &mut Harness) {
    for (rows, width) in
        [(1, 1), (1, 65), (2, 63), (17, 64), (129, 3), (1000, 130), (65, 8), (200, 136), (65, 264), (1000, 24)]
    {
        for (accumulate, gap) in [(false, Gap::None), (true, Gap::None), (false, Gap::Elements(1)), (true, ALIGNED)] {
            let pitch = harness.pitch(width, gap);
            let x = harness.input((&[rows, width], pitch));
            let out = if accumulate {
                harness.accumulator_input((&[width], 0))
            } else {
                harness.accumulator_output((&[width], 0))
            };
            harness.check(ColumnSum { x, out, accumulate }, |_, _| dot(rows + 1));
            harness.clear();
        }
    }
    let (x, out) = (harness.input((&[2, 3, 5], 8)), harness.accumulator_output((&[5], 0)));
    harness.check(ColumnSum { x, out, accumulate: false }, |_, _| dot(6));
}

fn sample(harness: &mut Harness, size: Size) -> Op {
    let dims = &[100, if size == Size::Large { 1000 } else { 5 }];
    ColumnSum { x: harness.input((dims, 1001)), out: harness.accumulator_input((&dims[1..], 0)), accumulate: true }
        .into()
}
