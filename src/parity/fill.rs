use super::Size;
use super::harness::Lab;
use crate::device::ops::{Fill, Op};

pub fn cases(lab: &mut Lab) {
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
            let out = lab.output((dims, pitch));
            // Both values are floats of either type: exact.
            lab.check(Fill { out, value }, |_, _| 0.0);
            lab.clear();
        }
    }
}

pub fn sample(lab: &mut Lab, size: Size) -> Op {
    let rows = if size == Size::Large { 999 } else { 3 };
    Fill { out: lab.output((&[rows, 101], 103)), value: 2.0 }.into()
}
