use super::Size;
use super::harness::{EPS, Gap, Lab, WHOLE};
use crate::device::ops::{Accumulate, Op};

pub fn cases(lab: &mut Lab) {
    // 4104: a vector more than a block takes at once, in f32 and in bf16.
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
            (false, WHOLE, Gap::None),
            (true, Gap::None, WHOLE),
            (true, WHOLE, WHOLE),
        ] {
            let (px, po) = (lab.pitch(width, of_x), lab.pitch(width, of_out));
            let x = lab.input((dims, px));
            let out = if add { lab.input((dims, po)) } else { lab.output((dims, po)) };
            // One addition, rounded once; a copy not at all.
            let rounding = if add { EPS } else { 0.0 };
            lab.check(Accumulate { x, out, add }, |_, want| rounding * want.abs());
            lab.clear();
        }
    }
    // Rows that begin beside a multiple of 16 bytes.
    let (x, out) = (lab.input((&[3, 17], 24)).columns(1, 16), lab.output((&[3, 16], 0)));
    lab.check(Accumulate { x, out, add: false }, |_, _| 0.0);
    lab.clear();
    mixed(lab);
}

/// From one type to another.
fn mixed(lab: &mut Lab) {
    let (float, wide) = (lab.float, lab.float.wide());
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
                let (px, po) = (lab.pitch(width, of_x), lab.pitch(width, of_out));
                let x = lab.input_of(from, (dims, px));
                let out = if add { lab.input_of(to, (dims, po)) } else { lab.output_of(to, (dims, po)) };
                let rounding = if add { EPS } else { 0.0 };
                lab.check(Accumulate { x, out, add }, |_, want| rounding * want.abs());
                lab.clear();
            }
        }
    }
    // Rows that begin beside a multiple of four elements.
    for (from, to) in [(float, wide), (wide, float)] {
        let (x, out) = (lab.input_of(from, (&[3, 10], 12)).columns(2, 8), lab.output_of(to, (&[3, 8], 0)));
        lab.check(Accumulate { x, out, add: false }, |_, _| 0.0);
        lab.clear();
    }
}

pub fn sample(lab: &mut Lab, size: Size) -> Op {
    let rows = if size == Size::Large { 999 } else { 3 };
    Accumulate { x: lab.input((&[rows, 101], 0)), out: lab.input((&[rows, 101], 103)), add: true }.into()
}
