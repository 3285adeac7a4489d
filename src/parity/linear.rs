use super::Size;
use super::lab::{EPS, Lab, dot};
use crate::device::ops::{Activation, Epilogue, Linear, Op};
use crate::tensor::Tensor;

/// M, N, K.
type Sizes = (usize, usize, usize);

/// Ones, primes, the neighbours of multiples of 48 (blocks of `cpu`) and of 16 (tiles), tall, wide and deep.
const SIZES: [Sizes; 14] = [
    (1, 1, 1),
    (1, 7, 5),
    (5, 1, 3),
    (7, 3, 1),
    (2, 5, 2),
    (13, 17, 11),
    (47, 48, 49),
    (48, 49, 47),
    (49, 47, 48),
    (95, 16, 33),
    (15, 97, 31),
    (1, 130, 64),
    (131, 1, 64),
    (3, 2, 1100),
];

/// Several blocks of 2 MFLOP, along rows and along columns.
const LARGE: [Sizes; 2] = [(241, 97, 101), (97, 241, 101)];

/// Inner sizes of real models, by two tiles of rows and columns and their neighbours.
const REAL: [Sizes; 4] = [(128, 127, 768), (65, 64, 3072), (63, 129, 768), (64, 128, 2304)];

/// GPT-2's layers, and its logits; few tokens where the reference, one thread in f64, would take minutes.
const FULL: [Sizes; 5] = [(1024, 768, 768), (256, 2304, 768), (256, 3072, 768), (256, 768, 3072), (64, 50_257, 768)];

/// What surrounds the product.
#[derive(Clone, Copy, PartialEq)]
enum Around {
    Nothing,
    Bias,
    /// An activation, whether its input is kept, and a residual.
    Activate(Activation, bool, bool),
    /// The derivative of an activation, and bias and residual.
    Gradient(Activation, bool),
    Residual,
    InPlace,
    Accumulate,
    /// A wide output, which may be added to.
    Wide(bool),
}

const TANH: Activation = Activation::GeluTanh;
const ERF: Activation = Activation::GeluErf;

const AROUND: [Around; 13] = [
    Around::Nothing,
    Around::Bias,
    Around::Activate(TANH, false, false),
    Around::Activate(ERF, true, false),
    Around::Activate(TANH, true, true),
    Around::Activate(ERF, false, true),
    Around::Gradient(TANH, false),
    Around::Gradient(ERF, true),
    Around::Residual,
    Around::InPlace,
    Around::Accumulate,
    Around::Wide(false),
    Around::Wide(true),
];

fn of(lab: &mut Lab, (m, n, k): Sizes, (ta, tb): (bool, bool), pad: usize, around: Around) -> Linear {
    // Each matrix with a padding of its own.
    let pitch = |width: usize, more: usize| if pad == 0 { 0 } else { width + pad + more };
    let mut matrix = |t: bool, rows: usize, columns: usize, more: usize| -> Tensor {
        let dims = if t { [columns, rows] } else { [rows, columns] };
        lab.input((&dims, pitch(dims[1], more)))
    };
    let (a, b) = (matrix(ta, m, k, 0), matrix(tb, k, n, 1));
    let dims = &[m, n];
    let mut op = Linear::product(a, b, a, (ta, tb));
    match around {
        Around::Nothing | Around::Wide(false) => {}
        Around::Bias => op.bias = Some(lab.input((&[n], 0))),
        Around::Activate(kind, keep, residual) => {
            op.bias = Some(lab.input((&[n], 0)));
            let pre = keep.then(|| lab.output((dims, pitch(n, 4))));
            op.epilogue = Epilogue::Activate { kind, pre };
            op.residual = residual.then(|| lab.input((dims, pitch(n, 2))));
        }
        Around::Gradient(kind, rest) => {
            op.epilogue = Epilogue::ActivateGrad { kind, pre: lab.input((dims, pitch(n, 4))) };
            op.bias = rest.then(|| lab.input((&[n], 0)));
            op.residual = rest.then(|| lab.input((dims, 0)));
        }
        Around::Residual => op.residual = Some(lab.input((dims, pitch(n, 2)))),
        Around::InPlace => {
            op.bias = Some(lab.input((&[n], 0)));
            op.residual = Some(lab.input((dims, pitch(n, 2))));
        }
        Around::Accumulate | Around::Wide(true) => op.accumulate = true,
    }
    op.out = match around {
        Around::Accumulate => lab.input((dims, pitch(n, 3))),
        Around::Wide(true) => lab.wide_input((dims, pitch(n, 3))),
        Around::Wide(false) => lab.wide_output((dims, pitch(n, 3))),
        Around::InPlace => op.residual.expect("given above"),
        _ => lab.output((dims, pitch(n, 3))),
    };
    op
}

fn check(lab: &mut Lab, sizes: Sizes, transposes: (bool, bool), pad: usize, around: Around) {
    let op = of(lab, sizes, transposes, pad, around);
    // The product with bias and residual; slopes of both activations stay below 1.13. An activation itself is off by a few
    // units of z, a sum of K products in -1..1 that is below 2 sqrt(K) + 3.
    let z = 2.0 * (sizes.2 as f64).sqrt() + 3.0;
    let product = dot(sizes.2 + 2);
    let pointwise = if op.epilogue == Epilogue::None { 0.0 } else { 0.13 * product + 4.0 * EPS * z };
    lab.check(op, |_, _| product + pointwise);
    lab.clear();
}

/// Activations far into both tails: a product with 1 puts any z there.
fn tails(lab: &mut Lab) {
    let z: Vec<f64> = (-120..=120).map(|i| f64::from(i) / 2.0).collect();
    let dims = &[z.len(), 1];
    for kind in [TANH, ERF] {
        for pre in [false, true] {
            let (a, b, out) = (lab.floats((dims, 0), &z), lab.floats((&[1, 1], 0), &[1.0]), lab.output((dims, 0)));
            let pre = pre.then(|| lab.output((dims, 0)));
            let op =
                Linear { epilogue: Epilogue::Activate { kind, pre }, ..Linear::product(a, b, out, (false, false)) };
            // z times a factor in 0..1 whose absolute error is two units; the pre-activation is exact.
            lab.check(op, |_, want| 2.0 * EPS * want.abs().max(6.0));
            lab.clear();
        }
    }
}

pub fn cases(lab: &mut Lab) {
    tails(lab);
    let transposes = [(false, false), (false, true), (true, false), (true, true)];
    for sizes in SIZES {
        for transposes in transposes {
            for (i, around) in AROUND.into_iter().enumerate() {
                check(lab, sizes, transposes, [0, 3, 5][i % 3], around);
            }
        }
    }
    for sizes in LARGE {
        for (i, around) in AROUND.into_iter().enumerate() {
            check(lab, sizes, transposes[i % 4], 3, around);
        }
    }
    let full = if lab.full() { &FULL[..] } else { &[] };
    for (s, &sizes) in REAL.iter().chain(full).enumerate() {
        for (i, transposes) in transposes.into_iter().enumerate() {
            check(lab, sizes, transposes, 0, AROUND[(3 * s + i) % AROUND.len()]);
        }
    }
    batched(lab);
}

/// Outer dimensions count as rows, and a column block of a wider buffer is a matrix.
fn batched(lab: &mut Lab) {
    let wide = lab.input((&[2, 7, 30], 32));
    let (a, b) = (wide.columns(5, 10), lab.input((&[10, 6], 0)));
    let fused = lab.output((&[2, 7, 18], 0));
    lab.check(Linear::product(a, b, fused.columns(6, 6), (false, false)), |_, _| dot(10));
    lab.clear();
}

pub fn sample(lab: &mut Lab, size: Size) -> Op {
    let sizes = if size == Size::Large { (300, 200, 150) } else { (3, 5, 7) };
    of(lab, sizes, (false, true), 3, Around::Activate(TANH, true, true)).into()
}
