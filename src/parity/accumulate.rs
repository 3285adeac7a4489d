use super::Size;
use super::lab::{EPS, Lab};
use crate::device::ops::{Accumulate, Op};

pub fn cases(lab: &mut Lab) {
    for dims in [&[1usize][..], &[1, 1], &[3, 5], &[7, 64], &[2, 3, 17], &[129, 131]] {
        let width = dims[dims.len() - 1];
        for (add, px, po) in
            [(false, 0, 0), (true, 0, 0), (false, width + 3, 0), (true, 0, width + 5), (true, width, width)]
        {
            let x = lab.input((dims, px));
            let out = if add { lab.input((dims, po)) } else { lab.output((dims, po)) };
            // One addition, rounded once; a copy not at all.
            let rounding = if add { EPS } else { 0.0 };
            lab.check(Accumulate { x, out, add }, |_, want| rounding * want.abs());
            lab.clear();
        }
    }
    mixed(lab);
}

/// From one type to another.
fn mixed(lab: &mut Lab) {
    let (float, wide) = (lab.float, lab.float.wide());
    if float == wide {
        return;
    }
    for dims in [&[1usize][..], &[3, 5], &[7, 64], &[129, 136]] {
        for (from, to) in [(float, wide), (wide, float)] {
            for add in [false, true] {
                let x = lab.input_of(from, (dims, 0));
                let out = if add { lab.input_of(to, (dims, 0)) } else { lab.output_of(to, (dims, 0)) };
                let rounding = if add { EPS } else { 0.0 };
                lab.check(Accumulate { x, out, add }, |_, want| rounding * want.abs());
                lab.clear();
            }
        }
    }
}

pub fn sample(lab: &mut Lab, size: Size) -> Op {
    let rows = if size == Size::Large { 999 } else { 3 };
    Accumulate { x: lab.input((&[rows, 101], 0)), out: lab.input((&[rows, 101], 103)), add: true }.into()
}
