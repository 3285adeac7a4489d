use super::harness::{ALIGNED, EPS, Gap, Harness};
use super::{Size, Stem};
use crate::device::ops::{Embedding, EmbeddingBackward, Op, Operation};
use crate::tensor::DType;

pub const STEMS: &[Stem] = &[
    Stem { name: Embedding::NAME, cases, sample },
    Stem { name: EmbeddingBackward::NAME, cases: cases_backward, sample: sample_backward },
];

/// Batch, time, width, vocabulary.
type Sizes = (usize, usize, usize, usize);

const SIZES: [Sizes; 8] = [
    (1, 1, 1, 1),
    (1, 5, 3, 2),
    (2, 3, 64, 7),
    (3, 7, 65, 5),
    (2, 33, 130, 11),
    (4, 16, 63, 1),
    (1, 3, 8, 2),
    // One vector more than a warp processes at once.
    (1, 5, 520, 3),
];

fn of(
    harness: &mut Harness,
    (batch, time, width, vocab): Sizes,
    gap: Gap,
    with_positions: bool,
    add: bool,
) -> Embedding {
    let ids = harness.random.ids(batch * time, vocab);
    let ids = harness.integers(&[batch, time], &ids);
    let [of_table, of_positions, of_out] = std::array::from_fn(|_| harness.pitch(width, gap));
    let table = harness.input((&[vocab, width], of_table));
    // The table has more positions than are used.
    let positions = with_positions.then(|| harness.input((&[time + 2, width], of_positions)));
    let out = (&[batch, time, width][..], of_out);
    let out = if add { harness.input(out) } else { harness.output(out) };
    Embedding { ids, table, positions, out, accumulate: add }
}

fn cases(harness: &mut Harness) {
    for sizes in SIZES {
        for (with_positions, add) in [(false, false), (true, false), (false, true), (true, true)] {
            for gap in [Gap::None, Gap::Elements(3), ALIGNED] {
                let op = of(harness, sizes, gap, with_positions, add);
                // At most two additions of numbers up to 3; a plain lookup is a copy.
                let rounding = if with_positions || add { 3.0 * EPS } else { 0.0 };
                harness.check(op, |_, _| rounding);
                harness.clear();
            }
        }
    }
}

fn backward(
    harness: &mut Harness,
    (batch, time, width, vocab): Sizes,
    gap: Gap,
    (table, positions): (bool, bool),
    (accumulate_table, accumulate_positions): (bool, bool),
    padding: Option<u32>,
    of_activations: bool,
) -> EmbeddingBackward {
    let ids = harness.random.ids(batch * time, vocab);
    let ids = harness.integers(&[batch, time], &ids);
    let pitch = harness.pitch(width, gap);
    let dout = harness.input((&[batch, time, width], pitch));
    let wide = harness.float.accumulator();
    let mut target = |dtype: DType, rows: usize, add: bool| {
        let pitch = harness.pitch(width, gap);
        let rows = (&[rows, width][..], pitch);
        if add { harness.input_of(dtype, rows) } else { harness.output_of(dtype, rows) }
    };
    let dtable = table.then(|| target(if of_activations { dout.dtype() } else { wide }, vocab, accumulate_table));
    let dpositions = positions.then(|| target(wide, time + 2, accumulate_positions));
    EmbeddingBackward { ids, dout, dtable, dpositions, accumulate_table, accumulate_positions, padding }
}

fn cases_backward(harness: &mut Harness) {
    for sizes in SIZES {
        for which in [(true, false), (false, true), (true, true)] {
            for add in [(false, false), (true, false), (false, true), (true, true)] {
                for (gap, padding) in [(Gap::None, None), (Gap::Elements(3), Some(0)), (Gap::None, Some(99))] {
                    // In f32 both targets have the same type.
                    for of_activations in
                        [false, true].into_iter().take(if harness.float == DType::BF16 { 2 } else { 1 })
                    {
                        let op = backward(harness, sizes, gap, which, add, padding, of_activations);
                        // An element is the sum of at most batch x time numbers in -1..1.
                        harness.check(op, |_, _| super::harness::dot(sizes.0 * sizes.1));
                        harness.clear();
                    }
                }
            }
        }
    }
}

fn sample(harness: &mut Harness, size: Size) -> Op {
    let sizes = if size == Size::Large { (4, 100, 301, 50) } else { (2, 3, 5, 7) };
    of(harness, sizes, Gap::None, true, true).into()
}

fn sample_backward(harness: &mut Harness, size: Size) -> Op {
    let sizes = if size == Size::Large { (4, 100, 301, 50) } else { (2, 3, 5, 7) };
    backward(harness, sizes, Gap::None, (true, true), (false, true), None, false).into()
}
