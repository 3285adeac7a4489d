use super::harness::{EPS, Harness};
use super::{Size, Stem};
use crate::device::ops::{GlobalNorm, Op, Operation};

pub const STEMS: &[Stem] = &[Stem { name: GlobalNorm::NAME, cases, sample }];

fn of(harness: &mut Harness, n: usize) -> GlobalNorm {
    let x = harness.input((&[n], 0));
    let partials = harness.output((&[GlobalNorm::partials(n)], 0));
    GlobalNorm { x, partials, norm: harness.output((&[1], 0)) }
}

fn cases(harness: &mut Harness) {
    const BLOCK: usize = GlobalNorm::BLOCK;
    for n in [1, 2, 15, 16, 17, 997, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 100] {
        let op = of(harness, n);
        // A block is summed in 16 lanes of 1024 squares each. Each addition rounds by eps / 2 of a lane's sum, a random
        // walk of sqrt(1024) eps / 2, at most twice that; the root halves it. The remaining 4 eps are for other
        // roundings.
        harness.check(op, |_, want| 20.0 * EPS * want);
        harness.clear();
    }
}

fn sample(harness: &mut Harness, size: Size) -> Op {
    of(harness, if size == Size::Large { 10 * GlobalNorm::BLOCK + 5 } else { 70 }).into()
}
