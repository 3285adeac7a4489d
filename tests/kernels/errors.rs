//! Operands that do not fit are refused with a message that names the operation, and never cause a panic. Every operand
//! of every operation is changed in every way that a mistake could change it.

use vcycle::device::ops::{
    Access, Accumulate, Activation, ActivationBackward, ColumnSum, CrossEntropy, Dropout, Embedding, Epilogue,
    LayerNorm, Linear, Mask, Multilevel, Op, SquaredError, StepState,
};
use vcycle::parity::harness::Harness;
use vcycle::parity::{Size, stems};
use vcycle::tensor::{DType, Place, Tensor};

/// Checks that all devices refuse an operation with a message that contains all `words`.
fn refused(harness: &mut Harness, op: &Op, words: &[&str]) {
    harness.refuses(op, words);
    harness.finish().expect("a refusal with these words");
}

fn operands(op: &Op) -> Vec<(Tensor, Access)> {
    let mut all = Vec::new();
    { *op }.operands(&mut |t, access| all.push((*t, access)));
    all
}

/// Returns the operation with operand `number` changed.
fn with(op: &Op, number: usize, change: impl Fn(&mut Tensor)) -> Op {
    let (mut op, mut i) = (*op, 0);
    op.operands(&mut |t, _| {
        if i == number {
            change(t);
        }
        i += 1;
    });
    op
}

/// Calls `each` with a small sample of every operation.
fn for_all(mut each: impl FnMut(&mut Harness, Op)) {
    let harnesses = [
        Harness::cpu(&[2], true),
        #[cfg(emulated)]
        crate::emulated::harness(),
    ];
    for mut harness in harnesses {
        for stem in stems() {
            let op = (stem.sample)(&mut harness, Size::Small);
            each(&mut harness, op);
            harness.clear();
        }
        harness.finish().expect("samples are accepted");
    }
}

#[test]
fn samples_are_accepted() {
    for_all(|harness, op| harness.check(op, |_, _| f64::INFINITY));
}

#[test]
fn a_buffer_without_a_place() {
    for_all(|harness, op| {
        for i in 0..operands(&op).len() {
            refused(harness, &with(&op, i, |t| *t = t.with_place(Place::Buffer(i as u32))), &[op.name(), "no place"]);
        }
    });
}

#[test]
fn outside_of_the_arena() {
    for_all(|harness, op| {
        for i in 0..operands(&op).len() {
            refused(harness, &with(&op, i, |t| *t = t.with_offset(t.offset() + 100_000)), &[op.name(), "byte"]);
            refused(harness, &with(&op, i, |t| *t = t.with_place(Place::Arena(9_999))), &[op.name(), "freed"]);
        }
    });
}

#[test]
fn another_type() {
    for_all(|harness, op| {
        for (i, (t, _)) in operands(&op).iter().enumerate() {
            let other = if t.dtype().is_float() { DType::I32 } else { DType::F32 };
            refused(harness, &with(&op, i, |t| *t = t.with_dtype(other)), &[op.name()]);
            let signed = if t.dtype() == DType::I32 { DType::U32 } else { DType::I32 };
            refused(harness, &with(&op, i, |t| *t = t.with_dtype(signed)), &[op.name()]);
        }
    });
}

/// Returns the operation with all floats in f64, which only the reference supports.
fn doubles(op: &Op) -> Op {
    let mut op = *op;
    op.operands(&mut |t, _| *t = t.with_dtype(if t.dtype().is_float() { DType::F64 } else { t.dtype() }));
    op
}

#[test]
fn floats_of_another_device() {
    for_all(|harness, op| {
        let refusal = harness.devices().next().map(|d| d.run(&doubles(&op)));
        assert!(refusal.is_some_and(|r| r.is_err_and(|e| e.to_string().contains(op.name()))), "{op:?}");
    });
}

#[test]
fn a_shape_that_does_not_fit() {
    // Operands that may have any size: the output of fill, the input of the norm (as long as it has as many blocks),
    // and the source of multilevel.
    let free = |name: &str, i: usize| matches!((name, i), ("fill" | "global_norm" | "multilevel", 0));
    for_all(|harness, op| {
        for (i, (t, _)) in operands(&op).iter().enumerate() {
            let last = t.shape().last();
            let resized =
                |size: usize| with(&op, i, |t| *t = Tensor::new(t.place(), t.dtype(), t.offset(), &changed(t, size)));
            if free(op.name(), i) {
                continue;
            }
            refused(harness, &resized(last + 1), &[op.name()]);
            if last > 1 {
                refused(harness, &resized(last - 1), &[op.name()]);
            }
            let flat = with(&op, i, |t| *t = Tensor::new(t.place(), t.dtype(), t.offset(), &[t.numel(), 1, 1]));
            if t.numel() > 1 {
                refused(harness, &flat, &[op.name()]);
            }
        }
    });
}

fn changed(t: &Tensor, last: usize) -> Vec<usize> {
    t.shape().with_last(last).dims().to_vec()
}

#[test]
fn an_output_over_another_operand() {
    for_all(|harness, op| {
        let all = operands(&op);
        for (i, (out, _)) in all.iter().enumerate().filter(|(_, (_, access))| *access != Access::Read) {
            for (_, (other, _)) in all.iter().enumerate().filter(|(j, _)| *j != i) {
                let size = out.dtype().bytes();
                let start = other.byte_range().start / size;
                let to = |offset: usize| with(&op, i, |t| *t = t.with_place(other.place()).with_offset(offset));
                // Operations in place are allowed only with exactly the same view.
                if op.in_place().is_none_or(|pair| pair != (*other, *out)) || !same_rows(other, out) {
                    refused(harness, &to(start), &[op.name(), "overlaps"]);
                }
                if other.byte_range().len() > size {
                    refused(harness, &to(start + 1), &[op.name(), "overlaps"]);
                }
            }
        }
    });
}

fn same_rows(a: &Tensor, b: &Tensor) -> bool {
    (a.width(), a.pitch()) == (b.width(), b.pitch())
}

#[test]
fn ids_and_labels_out_of_range() {
    for name in ["embedding", "embedding_backward", "cross_entropy"] {
        for id in [-1, 9, i32::MIN, i32::MAX] {
            let mut harness = Harness::cpu(&[2], true);
            let stem = stems().find(|s| s.name == name).expect("a stem");
            let op = (stem.sample)(&mut harness, Size::Small);
            // The ids or labels are the only integers; a loss may have two.
            let all = operands(&op);
            let integers = || all.iter().enumerate().filter(|(_, (t, _))| t.dtype() == DType::I32);
            let mut right = op;
            for (i, (ids, _)) in integers() {
                let ones = harness.integers(ids.dims(), &vec![1; ids.numel()]);
                right = with(&right, i, |t| *t = ones);
            }
            for (i, (ids, _)) in integers() {
                let mut values = vec![1; ids.numel()];
                values[2] = id;
                let wrong = harness.integers(ids.dims(), &values);
                refused(&mut harness, &with(&right, i, |t| *t = wrong), &[name, &id.to_string(), "2"]);
            }
        }
    }
}

/// An operation that overwrites an input in place must not read the same memory through another operand.
#[test]
fn in_place_with_a_third_operand() {
    let mut harness = Harness::cpu(&[2], true);
    let (x, w, out) = (harness.input((&[4, 4], 0)), harness.input((&[4, 4], 0)), harness.output((&[4, 4], 0)));
    let state = harness.state(&StepState::default());
    let [row, vector] = [&[4][..], &[4]].map(|dims| harness.input((dims, 0)));
    let (mean, rstd) = (harness.output((&[4], 0)), harness.output((&[4], 0)));
    let mask = Mask { p: 0.5, site: 1, state };
    let gradient = |pre: Tensor| Epilogue::ActivateGrad { kind: Activation::GeluTanh, pre, value: Some(x) };
    let product = Linear::product(w, w, out, (false, false));
    let ops: [Op; 7] = [
        Dropout { x, residual: Some(x), out: x, mask, unit: 1 }.into(),
        Linear { residual: Some(x), ..Linear::product(x, w, x, (false, false)) }.into(),
        Linear { epilogue: gradient(x), residual: Some(x), ..product }.into(),
        Linear { epilogue: gradient(x), ..Linear::product(x, w, out, (false, false)) }.into(),
        // `value` may overwrite `pre` and nothing else.
        Linear { epilogue: gradient(w), residual: Some(x), ..product }.into(),
        ActivationBackward { kind: Activation::GeluErf, dout: x, pre: x, dx: x }.into(),
        LayerNorm { x, residual: Some(x), sum: Some(x), weight: row, bias: vector, out, mean, rstd, eps: 1e-5 }.into(),
    ];
    for op in ops {
        refused(&mut harness, &op, &[op.name(), "overlaps"]);
    }
}

/// Options out of range, and layouts that an operation does not support.
#[test]
fn options_and_strides() {
    let mut harness = Harness::cpu(&[2], true);
    for_all(|harness, op| {
        let wrong: Vec<(Op, &str)> = match op {
            Op::Dropout(op) => [-0.1, 1.0, f32::NAN]
                .map(|p| (Op::from(Dropout { mask: Mask { p, ..op.mask }, ..op }), "dropout probability"))
                .into_iter()
                .chain([(Dropout { unit: 0, ..op }.into(), "no elements")])
                .collect(),
            Op::CrossEntropy(op) => {
                let beyond = [1, usize::MAX].map(|first| (Op::from(CrossEntropy { first, ..op }), "beyond"));
                let wrong = [-0.1, 1.0, f64::NAN].map(|smoothing| CrossEntropy { smoothing, ..op });
                wrong.into_iter().map(|op| (op.into(), "smoothing")).chain(beyond).collect()
            }
            Op::Multilevel(op) => vec![
                (Multilevel { alpha: 1.1, ..op }.into(), "alpha"),
                (Multilevel { alpha: f64::NAN, ..op }.into(), "alpha"),
                (Multilevel { base: None, ..op }.into(), "interpolate"),
            ],
            Op::Linear(op) => vec![
                (Linear { accumulate: true, ..op }.into(), "accumulating"),
                (op.batched(0).into(), "a batch of no products"),
                (op.batched(2).into(), "does not divide the 3 rows of a"),
                // 3 divides the rows of `a` but not those of `b`.
                (op.batched(3).into(), "does not divide the 5 rows of b"),
            ],
            Op::LayerNorm(op) => vec![(LayerNorm { sum: None, ..op }.into(), "go together")],
            Op::SquaredError(op) => vec![(SquaredError { weight: f64::NAN, ..op }.into(), "weight")],
            _ => return,
        };
        wrong.iter().for_each(|(wrong, word)| refused(harness, wrong, &[op.name(), word]));
    });
    // Padded ids, and rows that span several dimensions where rows of the last dimension are required.
    let (table, out) = (harness.input((&[9, 5], 0)), harness.output((&[2, 3, 5], 0)));
    let ids = harness.integers(&[2, 4], &[1; 8]).columns(0, 3);
    refused(
        &mut harness,
        &Embedding { ids, table, positions: None, out, accumulate: false }.into(),
        &["embedding", "contiguous"],
    );
    let wide = harness.input((&[2, 15], 17)).reshape(&[2, 3, 5]);
    refused(&mut harness, &Accumulate { x: wide, out, add: false }.into(), &["accumulate", "rows"]);
    refused(
        &mut harness,
        &ColumnSum { x: wide, out: table.row_block(0, 1).reshape(&[5]), accumulate: false }.into(),
        &["column_sum", "rows"],
    );
}

/// Empty operands are accepted: sums over no rows are zero.
#[test]
fn no_rows_at_all() {
    let mut harness = Harness::cpu(&[2], true);
    let (x, more, column) = (harness.output((&[0, 5], 0)), harness.output((&[0, 5], 0)), harness.output((&[5], 0)));
    let labels = harness.integers(&[0], &[]);
    let (losses, loss) = (harness.output((&[0], 0)), harness.output((&[1], 0)));
    harness.check(Accumulate { x, out: more, add: true }, |_, _| 0.0);
    harness.check(ColumnSum { x, out: column, accumulate: false }, |_, _| 0.0);
    let (ignore, smoothing, weight) = (-100, 0.0, 1.0);
    let dlogits = Some(more);
    harness.check(
        CrossEntropy {
            logits: x,
            labels,
            mix: None,
            scored: None,
            losses,
            loss,
            first: 0,
            dlogits,
            ignore,
            smoothing,
            weight,
        },
        |_, _| 0.0,
    );
    let (targets, error) = (harness.output((&[0, 5], 0)), harness.output((&[1], 0)));
    harness.check(SquaredError { x, targets, scored: None, loss: error, dx: dlogits, weight }, |_, _| 0.0);
    assert_eq!((harness.values(&column), harness.values(&loss)), (vec![0.0; 5], vec![0.0]));
    assert_eq!(harness.values(&error), [0.0]);
}
