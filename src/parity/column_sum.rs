use super::Size;
use super::harness::{Gap, Lab, WHOLE, dot};
use crate::device::ops::{ColumnSum, Op};

pub fn cases(lab: &mut Lab) {
    for (rows, width) in
        [(1, 1), (1, 65), (2, 63), (17, 64), (129, 3), (1000, 130), (65, 8), (200, 136), (65, 264), (1000, 24)]
    {
        for (accumulate, gap) in [(false, Gap::None), (true, Gap::None), (false, Gap::Elements(1)), (true, WHOLE)] {
            let pitch = lab.pitch(width, gap);
            let x = lab.input((&[rows, width], pitch));
            let out = if accumulate { lab.wide_input((&[width], 0)) } else { lab.wide_output((&[width], 0)) };
            lab.check(ColumnSum { x, out, accumulate }, |_, _| dot(rows + 1));
            lab.clear();
        }
    }
    let (x, out) = (lab.input((&[2, 3, 5], 8)), lab.wide_output((&[5], 0)));
    lab.check(ColumnSum { x, out, accumulate: false }, |_, _| dot(6));
}

pub fn sample(lab: &mut Lab, size: Size) -> Op {
    let dims = &[100, if size == Size::Large { 1000 } else { 5 }];
    ColumnSum { x: lab.input((dims, 1001)), out: lab.wide_input((&dims[1..], 0)), accumulate: true }.into()
}
