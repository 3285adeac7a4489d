use super::harness::Harness;
use super::{Size, Stem};
use crate::device::ops::{Fill, Op, Operation};

pub const STEMS: &[Stem] = &[Stem { name: Fill::NAME, cases, sample }];

fn cases(harness: &mut Harness) {
    for (dims, pitch) in [
        (&[1usize][..], 0),
        (&[3, 5], 0),
        (&[7, 13], 16),
        (&[2, 3, 17], 19),
        (&[700, 65], 72),
        (&[8], 0),
        (&[8200], 0),
        (&[3, 24], 32),
        (&[2, 8200], 8208),
        (&[3, 24], 25),
    ] {
        for value in [0.0, -1.5] {
            let out = harness.output((dims, pitch));
            // Both types represent both values exactly.
            harness.check(Fill { out, value }, |_, _| 0.0);
            harness.clear();
        }
    }
}

fn sample(harness: &mut Harness, size: Size) -> Op {
    let rows = if size == Size::Large { 999 } else { 3 };
    Fill { out: harness.output((&[rows, 101], 103)), value: 2.0 }.into()
}
