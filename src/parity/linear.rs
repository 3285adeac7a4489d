use super::Size;
use super::harness::{EPS, Gap, Harness, WHOLE, dot};
use crate::device::ops::{Activation, Epilogue, Linear, Op};
use crate::tensor::{DType, Tensor};

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

/// Neighbours of the tiles for tensor cores (32 of K; 64, 128 outputs), K that is no multiple of 8, more of K than is on the way
/// at one time.
const TILES: [Sizes; 10] = [
    (33, 31, 32),
    (31, 65, 33),
    (64, 64, 64),
    (65, 9, 31),
    (8, 40, 129),
    (17, 1, 200),
    (127, 20, 97),
    (129, 7, 13),
    (10, 128, 65),
    (20, 129, 39),
];

/// Few outputs and a long K, which is cut in parts.
const DEEP: [Sizes; 4] = [(16, 16, 512), (5, 27, 701), (24, 3, 900), (8, 9, 2000)];

/// Several tiles for a block that stays, and a longer K than is on the way at one time.
const TURNS: [Sizes; 4] = [(257, 1, 420), (9, 520, 840), (258, 9, 840), (515, 1, 270)];

/// So, where there are more multiprocessors.
const FULL_TURNS: [Sizes; 2] = [(17_030, 9, 840), (9, 17_030, 840)];

/// Few outputs and a long K, with several tiles of outputs.
const DEEP_TILES: Sizes = (130, 129, 517);

/// Batches, of single elements to several tiles of each kernel.
const BATCHES: [(usize, Sizes); 5] =
    [(2, (1, 1, 1)), (3, (5, 7, 3)), (2, (9, 70, 35)), (3, (66, 6, 24)), (2, (131, 3, 40))];

/// A batch of long K.
const DEEP_BATCH: (usize, Sizes) = (2, (4, 9, 513));

/// What surrounds the product.
#[derive(Clone, Copy, PartialEq)]
enum Around {
    Nothing,
    Bias,
    /// An activation, whether its input is kept, and a residual.
    Activate(Activation, bool, bool),
    /// The derivative of an activation, whether bias and residual are there, and where the activation goes again.
    Gradient(Activation, bool, Again),
    Residual,
    InPlace,
    Accumulate,
    /// A wide output, which may be added to.
    Wide(bool),
    /// A wide output and all that can surround it.
    WideActivate,
}

/// Where an activation goes that is made again beside its derivative.
#[derive(Clone, Copy, PartialEq)]
enum Again {
    Nowhere,
    Apart,
    InPlace,
}

const TANH: Activation = Activation::GeluTanh;
const ERF: Activation = Activation::GeluErf;

const AROUND: [Around; 16] = [
    Around::Nothing,
    Around::Bias,
    Around::Activate(TANH, false, false),
    Around::Activate(ERF, true, false),
    Around::Activate(TANH, true, true),
    Around::Activate(ERF, false, true),
    Around::Gradient(TANH, false, Again::Nowhere),
    Around::Gradient(ERF, true, Again::Nowhere),
    Around::Gradient(ERF, false, Again::InPlace),
    Around::Gradient(TANH, true, Again::Apart),
    Around::Residual,
    Around::InPlace,
    Around::Accumulate,
    Around::Wide(false),
    Around::Wide(true),
    Around::WideActivate,
];

const TRANSPOSES: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

fn of(
    harness: &mut Harness,
    batch: usize,
    (m, n, k): Sizes,
    (ta, tb): (bool, bool),
    gap: Gap,
    around: Around,
) -> Linear {
    let mut matrix = |t: bool, rows: usize, columns: usize| -> Tensor {
        let dims = if t { [batch * columns, rows] } else { [batch * rows, columns] };
        let pitch = harness.pitch(dims[1], gap);
        harness.input((&dims, pitch))
    };
    let (a, b) = (matrix(ta, m, k), matrix(tb, k, n));
    let [of_out, of_residual, of_pre, of_value] = std::array::from_fn(|_| harness.pitch(n, gap));
    let dims = &[batch * m, n];
    let mut op = Linear::product(a, b, a, (ta, tb)).batched(batch);
    match around {
        Around::Nothing | Around::Wide(false) => {}
        Around::Bias => op.bias = Some(harness.input((&[n], 0))),
        Around::WideActivate => {
            op.bias = Some(harness.input((&[n], 0)));
            op.epilogue = Epilogue::Activate { kind: TANH, pre: Some(harness.output((dims, of_pre))) };
            op.residual = Some(harness.input((dims, of_residual)));
        }
        Around::Activate(kind, keep, residual) => {
            op.bias = Some(harness.input((&[n], 0)));
            let pre = keep.then(|| harness.output((dims, of_pre)));
            op.epilogue = Epilogue::Activate { kind, pre };
            op.residual = residual.then(|| harness.input((dims, of_residual)));
        }
        Around::Gradient(kind, rest, again) => {
            let pre = harness.input((dims, of_pre));
            let value = match again {
                Again::Nowhere => None,
                Again::Apart => Some(harness.output((dims, of_value))),
                Again::InPlace => Some(pre),
            };
            op.epilogue = Epilogue::ActivateGrad { kind, pre, value };
            op.bias = rest.then(|| harness.input((&[n], 0)));
            op.residual = rest.then(|| harness.input((dims, of_residual)));
        }
        Around::Residual => op.residual = Some(harness.input((dims, of_residual))),
        Around::InPlace => {
            op.bias = Some(harness.input((&[n], 0)));
            op.residual = Some(harness.input((dims, of_residual)));
        }
        Around::Accumulate | Around::Wide(true) => op.accumulate = true,
    }
    op.out = match around {
        Around::Accumulate => harness.input((dims, of_out)),
        Around::Wide(true) => harness.f32_input((dims, of_out)),
        Around::Wide(false) | Around::WideActivate => harness.f32_output((dims, of_out)),
        Around::InPlace => op.residual.expect("given above"),
        _ => harness.output((dims, of_out)),
    };
    op
}

fn check(harness: &mut Harness, sizes: Sizes, transposes: (bool, bool), gap: Gap, around: Around) {
    check_batch(harness, 1, sizes, transposes, gap, around);
}

fn check_batch(harness: &mut Harness, batch: usize, sizes: Sizes, transposes: (bool, bool), gap: Gap, around: Around) {
    let op = of(harness, batch, sizes, transposes, gap, around);
    // The product with bias and residual; slopes of both activations stay below 1.13. An activation itself is off by a few
    // units of z, a sum of K products in -1..1 that is below 2 sqrt(K) + 3.
    let z = 2.0 * (sizes.2 as f64).sqrt() + 3.0;
    let product = dot(sizes.2 + 2);
    let pointwise = if op.epilogue == Epilogue::None { 0.0 } else { 0.13 * product + 4.0 * EPS * z };
    let again = value(&op);
    // An activation made again comes of no sum, but of an input in -1..1.
    harness.check(op, |t, _| if Some(*t) == again { 4.0 * EPS } else { product + pointwise });
    harness.clear();
}

/// What is made again beside a derivative.
fn value(op: &Linear) -> Option<Tensor> {
    match op.epilogue {
        Epilogue::ActivateGrad { value, .. } => value,
        _ => None,
    }
}

/// Activations far into both tails: a product with 1 puts any z there, and beside a derivative any input will do.
fn tails(harness: &mut Harness) {
    let z: Vec<f64> = (-120..=120).map(|i| f64::from(i) / 2.0).collect();
    let dims = &[z.len(), 1];
    for kind in [TANH, ERF, Activation::Tanh] {
        for pre in [false, true] {
            let (a, b, out) =
                (harness.floats((dims, 0), &z), harness.floats((&[1, 1], 0), &[1.0]), harness.output((dims, 0)));
            let pre = pre.then(|| harness.output((dims, 0)));
            let op =
                Linear { epilogue: Epilogue::Activate { kind, pre }, ..Linear::product(a, b, out, (false, false)) };
            // z times a factor in 0..1 whose absolute error is two units; the pre-activation is exact.
            harness.check(op, |_, want| 2.0 * EPS * want.abs().max(6.0));
            harness.clear();
        }
        let (a, b, out) = (harness.input((dims, 0)), harness.input((&[1, 1], 0)), harness.output((dims, 0)));
        let (pre, again) = (harness.floats((dims, 0), &z), Some(harness.output((dims, 0))));
        let epilogue = Epilogue::ActivateGrad { kind, pre, value: again };
        let op = Linear { epilogue, ..Linear::product(a, b, out, (false, false)) };
        // The derivative's two terms, of 6 and less where they are not the one alone, are off by as many units.
        harness.check(op, |t, want| 2.0 * EPS * if Some(*t) == again { want.abs().max(6.0) } else { 6.0 });
        harness.clear();
    }
}

/// tanh in front of and behind a product: for each kernel, with each transpose, whole tiles and parts of them, a long K.
fn tanh(harness: &mut Harness) {
    const KIND: Activation = Activation::Tanh;
    const AROUND: [Around; 4] = [
        Around::Activate(KIND, true, true),
        Around::Activate(KIND, false, false),
        Around::Gradient(KIND, false, Again::Apart),
        Around::Gradient(KIND, true, Again::InPlace),
    ];
    for (s, (sizes, gap)) in
        [((5, 17, 33), Gap::Elements(3)), ((70, 66, 24), WHOLE), ((16, 16, 512), WHOLE)].into_iter().enumerate()
    {
        for (i, transposes) in TRANSPOSES.into_iter().enumerate() {
            check(harness, sizes, transposes, gap, AROUND[(s + i) % 4]);
        }
    }
}

pub fn cases(harness: &mut Harness) {
    tails(harness);
    tanh(harness);
    const GAPS: [Gap; 3] = [Gap::None, Gap::Elements(3), Gap::Elements(5)];
    for (s, sizes) in SIZES.into_iter().enumerate() {
        for (i, transposes) in TRANSPOSES.into_iter().enumerate() {
            // Over all sizes, every surrounding at least twice with every transpose.
            for more in 0..3 {
                check(
                    harness,
                    sizes,
                    transposes,
                    GAPS[(s + i + more) % 3],
                    AROUND[(3 * s + i + 5 * more) % AROUND.len()],
                );
            }
        }
    }
    for (s, sizes) in LARGE.into_iter().enumerate() {
        for (i, around) in AROUND.into_iter().skip(s).step_by(2).enumerate() {
            check(harness, sizes, TRANSPOSES[i % 4], GAPS[1], around);
        }
    }
    let full = if harness.full() { &FULL[..] } else { &[] };
    let step = if harness.full() { 1 } else { 2 };
    for (s, &sizes) in REAL.iter().chain(full).enumerate() {
        for (i, transposes) in TRANSPOSES.into_iter().enumerate().skip((s + 1) % step).step_by(step) {
            check(harness, sizes, transposes, GAPS[0], AROUND[(3 * s + i) % AROUND.len()]);
        }
    }
    if harness.float == DType::BF16 {
        tiles(harness);
    }
    exact(harness);
    batches(harness);
    outer_dimensions(harness);
    apart(harness);
}

fn batches(harness: &mut Harness) {
    for (s, (batch, sizes)) in BATCHES.into_iter().enumerate() {
        for (i, transposes) in TRANSPOSES.into_iter().enumerate() {
            // Every surrounding, each with two transposes; some factors are not as tensor cores want them.
            for (gap, more) in [(WHOLE, 0), (if i == s % 4 { Gap::Elements(3) } else { WHOLE }, 8)] {
                check_batch(harness, batch, sizes, transposes, gap, AROUND[(s + 3 * i + more) % AROUND.len()]);
            }
        }
    }
    for (i, transposes) in TRANSPOSES.into_iter().enumerate() {
        check_batch(harness, DEEP_BATCH.0, DEEP_BATCH.1, transposes, WHOLE, AROUND[(12 + i) % AROUND.len()]);
    }
    // Rows back to back.
    check_batch(harness, 2, (16, 8, 24), (false, true), Gap::None, Around::Activate(TANH, true, true));
    // On `cpu`, several blocks of a product and several products of a block.
    check_batch(harness, 3, (97, 40, 50), (true, false), Gap::Elements(5), Around::InPlace);
    check_batch(harness, 50, (7, 5, 9), (false, false), WHOLE, Around::Bias);
}

fn tiles(harness: &mut Harness) {
    for (s, sizes) in TILES.into_iter().chain(DEEP).enumerate() {
        for (i, transposes) in TRANSPOSES.into_iter().enumerate() {
            // Every surrounding with every transpose, over all sizes.
            for more in 0..if s < TILES.len() { 2 } else { 1 } {
                check(harness, sizes, transposes, WHOLE, AROUND[(3 * s + i + 5 * more) % AROUND.len()]);
            }
        }
    }
    let full = if harness.full() { &FULL_TURNS[..] } else { &[] };
    for (s, &sizes) in TURNS.iter().chain(full).enumerate() {
        for (i, transposes) in TRANSPOSES.into_iter().enumerate() {
            check(harness, sizes, transposes, WHOLE, AROUND[(5 * s + 3 * i) % AROUND.len()]);
        }
    }
    check(harness, DEEP_TILES, (false, true), WHOLE, Around::Activate(TANH, true, true));
    check(harness, DEEP_TILES, (true, false), WHOLE, Around::Wide(true));
    check(harness, DEEP_TILES, (false, true), WHOLE, Around::Gradient(ERF, true, Again::InPlace));
}

/// Small integers, of which every sum is one that bf16 has: no rounding anywhere, so any order gives the same bits.
fn exact(harness: &mut Harness) {
    // No difference is within this.
    const EXACTLY: f64 = f64::NAN;
    const SIMPLE: [Around; 5] =
        [Around::Nothing, Around::Residual, Around::Accumulate, Around::Wide(false), Around::Wide(true)];
    for (batch, m, n, k) in [(1, 70, 66, 77), (2, 9, 130, 100), (3, 40, 5, 161), (2, 16, 17, 530)] {
        for (i, (ta, tb)) in TRANSPOSES.into_iter().enumerate() {
            for more in 0..2 {
                let around = SIMPLE[(i + 2 * more + batch) % SIMPLE.len()];
                let mut integers = |wide: bool, rows: usize, columns: usize| {
                    let rows = batch * rows;
                    let values: Vec<f64> =
                        harness.random.floats(rows * columns).iter().map(|v| (1.9 * v).trunc()).collect();
                    let dtype = if wide { harness.float.wide() } else { harness.float };
                    let pitch = harness.pitch(columns, WHOLE);
                    harness.floats_of(dtype, (&[rows, columns], pitch), &values)
                };
                let a = if ta { integers(false, k, m) } else { integers(false, m, k) };
                let b = if tb { integers(false, n, k) } else { integers(false, k, n) };
                let wide = matches!(around, Around::Wide(_));
                let accumulate = matches!(around, Around::Accumulate | Around::Wide(true));
                let residual = (around == Around::Residual).then(|| integers(false, m, n));
                let out = integers(wide, m, n);
                let product = Linear::product(a, b, out, (ta, tb)).batched(batch);
                harness.check(Linear { accumulate, residual, ..product }, |_, _| EXACTLY);
                harness.clear();
            }
        }
    }
}

/// Factors that begin and lie as tensor cores want them, among others that do not.
fn apart(harness: &mut Harness) {
    let (m, n, k) = (20, 24, 40);
    for begin in [0, 1, 8] {
        for around in
            [Around::Activate(TANH, true, true), Around::Gradient(ERF, true, Again::Apart), Around::Accumulate]
        {
            let mut op = of(harness, 1, (m, n, k), (false, true), WHOLE, around);
            // Columns of wider buffers: `out` at any place, the factors at multiples of 16 bytes or beside them.
            let (a, b) = (harness.input((&[m, k + 8], 56)), harness.input((&[n, k + 8], 64)));
            (op.a, op.b) = (a.columns(begin, k), b.columns(8, k));
            let (out, pre) = (harness.input((&[m, n + 3], 40)), harness.input((&[m, n + 8], 32)));
            (op.out, op.residual) =
                (out.columns(3, n), op.residual.map(|_| harness.input((&[m, n + 1], 48)).columns(1, n)));
            match &mut op.epilogue {
                Epilogue::Activate { pre: kept, .. } => *kept = Some(pre.columns(8, n)),
                Epilogue::ActivateGrad { pre: kept, value, .. } => {
                    *kept = pre.columns(8, n);
                    *value = Some(harness.input((&[m, n + 5], 72)).columns(5, n));
                }
                Epilogue::None => {}
            }
            harness.check(op, |_, _| 1.13 * dot(k + 2) + 4.0 * EPS * 16.0);
            harness.clear();
        }
    }
}

/// Outer dimensions count as rows, and a column block of a wider buffer is a matrix.
fn outer_dimensions(harness: &mut Harness) {
    let wide = harness.input((&[2, 7, 30], 32));
    let (a, b) = (wide.columns(5, 10), harness.input((&[10, 6], 0)));
    let fused = harness.output((&[2, 7, 18], 0));
    harness.check(Linear::product(a, b, fused.columns(6, 6), (false, false)), |_, _| dot(10));
    harness.clear();
}

pub fn sample(harness: &mut Harness, size: Size) -> Op {
    let sizes = if size == Size::Large { (300, 200, 150) } else { (3, 5, 7) };
    of(harness, 1, sizes, (false, true), Gap::Elements(3), Around::Activate(TANH, true, true)).into()
}
