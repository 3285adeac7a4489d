use super::harness::{ALIGNED, EPS, Gap, Harness, dot};
use super::{Size, Stem};
use crate::device::ops::{Activation, Epilogue, Linear, Op, Operation};
use crate::tensor::{DType, Tensor};

pub const STEMS: &[Stem] = &[Stem { name: Linear::NAME, cases, sample }];

/// M, N, K.
type Sizes = (usize, usize, usize);

/// Ones, primes, multiples of 48 (blocks of `cpu`) and of 16 (tiles) plus and minus one; tall, wide and deep matrices.
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

/// Several blocks of 2 MFLOPs, along rows and along columns.
const LARGE: [Sizes; 2] = [(241, 97, 101), (97, 241, 101)];

/// Inner sizes of real models, with one or two tiles of rows and columns, plus and minus one.
const REAL: [Sizes; 4] = [(128, 127, 768), (65, 64, 3072), (63, 129, 768), (64, 128, 2304)];

/// The layers and logits of GPT-2, with few tokens where the reference, which runs on one thread in f64, would take
/// minutes.
const FULL: [Sizes; 5] = [(1024, 768, 768), (256, 2304, 768), (256, 3072, 768), (256, 768, 3072), (64, 50_257, 768)];

/// Tile sizes for tensor cores (32 along K; 64 and 128 outputs) plus and minus one, K not a multiple of 8, and longer K
/// than the pipeline holds.
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

/// Few outputs and a long K, which is split.
const DEEP: [Sizes; 4] = [(16, 16, 512), (5, 27, 701), (24, 3, 900), (8, 9, 2000)];

/// Several tiles for each persistent block, and a longer K than the pipeline holds.
const PERSISTENT: [Sizes; 4] = [(257, 1, 420), (9, 520, 840), (258, 9, 840), (515, 1, 270)];

/// The same for GPUs with more SMs.
const FULL_PERSISTENT: [Sizes; 2] = [(17_030, 9, 840), (9, 17_030, 840)];

/// A split K with several tiles of outputs.
const DEEP_TILES: Sizes = (130, 129, 517);

/// Batches, from single elements to several tiles of each kernel.
const BATCHES: [(usize, Sizes); 5] =
    [(2, (1, 1, 1)), (3, (5, 7, 3)), (2, (9, 70, 35)), (3, (66, 6, 24)), (2, (131, 3, 40))];

/// A batch with a long K.
const DEEP_BATCH: (usize, Sizes) = (2, (4, 9, 513));

/// What is fused into the matmul.
#[derive(Clone, Copy, PartialEq)]
enum Fused {
    Nothing,
    Bias,
    /// A bias and an activation; whether the pre-activation is saved, and whether there is a residual.
    Activate(Activation, bool, bool),
    /// The derivative of an activation; whether there are bias and residual, and where the recomputed activation is
    /// written.
    Gradient(Activation, bool, Recompute),
    Residual,
    /// A bias, and a residual that the output overwrites.
    InPlace,
    Accumulate,
    /// An output of the accumulator type, and whether it is added to.
    Wide(bool),
    /// An output of the accumulator type, with bias, activation and residual.
    WideActivate,
}

/// Where the activation is written if it is recomputed along with its derivative.
#[derive(Clone, Copy, PartialEq)]
enum Recompute {
    Nowhere,
    Apart,
    InPlace,
}

const TANH: Activation = Activation::GeluTanh;
const ERF: Activation = Activation::GeluErf;

const FUSED: [Fused; 16] = [
    Fused::Nothing,
    Fused::Bias,
    Fused::Activate(TANH, false, false),
    Fused::Activate(ERF, true, false),
    Fused::Activate(TANH, true, true),
    Fused::Activate(ERF, false, true),
    Fused::Gradient(TANH, false, Recompute::Nowhere),
    Fused::Gradient(ERF, true, Recompute::Nowhere),
    Fused::Gradient(ERF, false, Recompute::InPlace),
    Fused::Gradient(TANH, true, Recompute::Apart),
    Fused::Residual,
    Fused::InPlace,
    Fused::Accumulate,
    Fused::Wide(false),
    Fused::Wide(true),
    Fused::WideActivate,
];

const TRANSPOSES: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

fn of(harness: &mut Harness, batch: usize, (m, n, k): Sizes, (ta, tb): (bool, bool), gap: Gap, fused: Fused) -> Linear {
    let mut matrix = |t: bool, rows: usize, columns: usize| -> Tensor {
        let dims = if t { [batch * columns, rows] } else { [batch * rows, columns] };
        let pitch = harness.pitch(dims[1], gap);
        harness.input((&dims, pitch))
    };
    let (a, b) = (matrix(ta, m, k), matrix(tb, k, n));
    let [of_out, of_residual, of_pre, of_value] = std::array::from_fn(|_| harness.pitch(n, gap));
    let dims = &[batch * m, n];
    let mut op = Linear::product(a, b, a, (ta, tb)).batched(batch);
    match fused {
        Fused::Nothing | Fused::Wide(false) => {}
        Fused::Bias => op.bias = Some(harness.input((&[n], 0))),
        Fused::WideActivate => {
            op.bias = Some(harness.input((&[n], 0)));
            op.epilogue = Epilogue::Activate { kind: TANH, pre: Some(harness.output((dims, of_pre))) };
            op.residual = Some(harness.input((dims, of_residual)));
        }
        Fused::Activate(kind, save, residual) => {
            op.bias = Some(harness.input((&[n], 0)));
            let pre = save.then(|| harness.output((dims, of_pre)));
            op.epilogue = Epilogue::Activate { kind, pre };
            op.residual = residual.then(|| harness.input((dims, of_residual)));
        }
        Fused::Gradient(kind, rest, recompute) => {
            let pre = harness.input((dims, of_pre));
            let value = match recompute {
                Recompute::Nowhere => None,
                Recompute::Apart => Some(harness.output((dims, of_value))),
                Recompute::InPlace => Some(pre),
            };
            op.epilogue = Epilogue::ActivateGrad { kind, pre, value };
            op.bias = rest.then(|| harness.input((&[n], 0)));
            op.residual = rest.then(|| harness.input((dims, of_residual)));
        }
        Fused::Residual => op.residual = Some(harness.input((dims, of_residual))),
        Fused::InPlace => {
            op.bias = Some(harness.input((&[n], 0)));
            op.residual = Some(harness.input((dims, of_residual)));
        }
        Fused::Accumulate | Fused::Wide(true) => op.accumulate = true,
    }
    op.out = match fused {
        Fused::Accumulate => harness.input((dims, of_out)),
        Fused::Wide(true) => harness.accumulator_input((dims, of_out)),
        Fused::Wide(false) | Fused::WideActivate => harness.accumulator_output((dims, of_out)),
        Fused::InPlace => op.residual.expect("given above"),
        _ => harness.output((dims, of_out)),
    };
    op
}

fn check(harness: &mut Harness, sizes: Sizes, transposes: (bool, bool), gap: Gap, fused: Fused) {
    check_batch(harness, 1, sizes, transposes, gap, fused);
}

fn check_batch(harness: &mut Harness, batch: usize, sizes: Sizes, transposes: (bool, bool), gap: Gap, fused: Fused) {
    let op = of(harness, batch, sizes, transposes, gap, fused);
    // The error of the matmul with bias and residual; the slopes of both activations are below 1.13. An activation
    // itself adds an error of a few eps times z, a sum of K products in -1..1 that is below 2 sqrt(K) + 3.
    let z = 2.0 * (sizes.2 as f64).sqrt() + 3.0;
    let product = dot(sizes.2 + 2);
    let pointwise = if op.epilogue == Epilogue::None { 0.0 } else { 0.13 * product + 4.0 * EPS * z };
    let recomputed = value(&op);
    // A recomputed activation does not depend on a sum, but on an input in -1..1.
    harness.check(op, |t, _| if Some(*t) == recomputed { 4.0 * EPS } else { product + pointwise });
    harness.clear();
}

/// Returns the output for the recomputed activation.
fn value(op: &Linear) -> Option<Tensor> {
    match op.epilogue {
        Epilogue::ActivateGrad { value, .. } => value,
        _ => None,
    }
}

/// Tests activations far into both tails. A matmul with 1 produces any z; a derivative takes any pre-activation.
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
            // z times a factor in 0..1 whose absolute error is 2 eps; the pre-activation is exact.
            harness.check(op, |_, want| 2.0 * EPS * want.abs().max(6.0));
            harness.clear();
        }
        let (a, b, out) = (harness.input((dims, 0)), harness.input((&[1, 1], 0)), harness.output((dims, 0)));
        let (pre, recomputed) = (harness.floats((dims, 0), &z), Some(harness.output((dims, 0))));
        let epilogue = Epilogue::ActivateGrad { kind, pre, value: recomputed };
        let op = Linear { epilogue, ..Linear::product(a, b, out, (false, false)) };
        // The derivative is a sum of two terms, which are at most 6 where neither is negligible, each with that many
        // eps of error.
        harness.check(op, |t, want| 2.0 * EPS * if Some(*t) == recomputed { want.abs().max(6.0) } else { 6.0 });
        harness.clear();
    }
}

/// Tests tanh and its derivative as the epilogue: for each kernel, with each transpose, whole and partial tiles, and a
/// long K.
fn tanh(harness: &mut Harness) {
    const KIND: Activation = Activation::Tanh;
    const FUSED: [Fused; 4] = [
        Fused::Activate(KIND, true, true),
        Fused::Activate(KIND, false, false),
        Fused::Gradient(KIND, false, Recompute::Apart),
        Fused::Gradient(KIND, true, Recompute::InPlace),
    ];
    for (s, (sizes, gap)) in
        [((5, 17, 33), Gap::Elements(3)), ((70, 66, 24), ALIGNED), ((16, 16, 512), ALIGNED)].into_iter().enumerate()
    {
        for (i, transposes) in TRANSPOSES.into_iter().enumerate() {
            check(harness, sizes, transposes, gap, FUSED[(s + i) % 4]);
        }
    }
}

fn cases(harness: &mut Harness) {
    tails(harness);
    tanh(harness);
    const GAPS: [Gap; 3] = [Gap::None, Gap::Elements(3), Gap::Elements(5)];
    for (s, sizes) in SIZES.into_iter().enumerate() {
        for (i, transposes) in TRANSPOSES.into_iter().enumerate() {
            // Over all sizes, every epilogue occurs at least twice with every transpose.
            for more in 0..3 {
                check(
                    harness,
                    sizes,
                    transposes,
                    GAPS[(s + i + more) % 3],
                    FUSED[(3 * s + i + 5 * more) % FUSED.len()],
                );
            }
        }
    }
    for (s, sizes) in LARGE.into_iter().enumerate() {
        for (i, fused) in FUSED.into_iter().skip(s).step_by(2).enumerate() {
            check(harness, sizes, TRANSPOSES[i % 4], GAPS[1], fused);
        }
    }
    let full = if harness.full() { &FULL[..] } else { &[] };
    let step = if harness.full() { 1 } else { 2 };
    for (s, &sizes) in REAL.iter().chain(full).enumerate() {
        for (i, transposes) in TRANSPOSES.into_iter().enumerate().skip((s + 1) % step).step_by(step) {
            check(harness, sizes, transposes, GAPS[0], FUSED[(3 * s + i) % FUSED.len()]);
        }
    }
    if harness.float == DType::BF16 {
        tiles(harness);
    }
    exact(harness);
    batches(harness);
    outer_dimensions(harness);
    column_blocks(harness);
}

fn batches(harness: &mut Harness) {
    for (s, (batch, sizes)) in BATCHES.into_iter().enumerate() {
        for (i, transposes) in TRANSPOSES.into_iter().enumerate() {
            // Every epilogue, each with two transposes; some factors are not aligned for tensor cores.
            for (gap, more) in [(ALIGNED, 0), (if i == s % 4 { Gap::Elements(3) } else { ALIGNED }, 8)] {
                check_batch(harness, batch, sizes, transposes, gap, FUSED[(s + 3 * i + more) % FUSED.len()]);
            }
        }
    }
    for (i, transposes) in TRANSPOSES.into_iter().enumerate() {
        check_batch(harness, DEEP_BATCH.0, DEEP_BATCH.1, transposes, ALIGNED, FUSED[(12 + i) % FUSED.len()]);
    }
    // Rows without gaps.
    check_batch(harness, 2, (16, 8, 24), (false, true), Gap::None, Fused::Activate(TANH, true, true));
    // On `cpu`: a matmul of several blocks, and a block of several matmuls.
    check_batch(harness, 3, (97, 40, 50), (true, false), Gap::Elements(5), Fused::InPlace);
    check_batch(harness, 50, (7, 5, 9), (false, false), ALIGNED, Fused::Bias);
}

fn tiles(harness: &mut Harness) {
    for (s, sizes) in TILES.into_iter().chain(DEEP).enumerate() {
        for (i, transposes) in TRANSPOSES.into_iter().enumerate() {
            // Over all sizes, every epilogue occurs with every transpose.
            for more in 0..if s < TILES.len() { 2 } else { 1 } {
                check(harness, sizes, transposes, ALIGNED, FUSED[(3 * s + i + 5 * more) % FUSED.len()]);
            }
        }
    }
    let full = if harness.full() { &FULL_PERSISTENT[..] } else { &[] };
    for (s, &sizes) in PERSISTENT.iter().chain(full).enumerate() {
        for (i, transposes) in TRANSPOSES.into_iter().enumerate() {
            check(harness, sizes, transposes, ALIGNED, FUSED[(5 * s + 3 * i) % FUSED.len()]);
        }
    }
    check(harness, DEEP_TILES, (false, true), ALIGNED, Fused::Activate(TANH, true, true));
    check(harness, DEEP_TILES, (true, false), ALIGNED, Fused::Wide(true));
    check(harness, DEEP_TILES, (false, true), ALIGNED, Fused::Gradient(ERF, true, Recompute::InPlace));
}

/// Tests small integers, all of whose sums bf16 represents exactly: nothing is rounded, so every order gives the same
/// bits.
fn exact(harness: &mut Harness) {
    // A NaN tolerance allows no difference.
    const EXACTLY: f64 = f64::NAN;
    const SIMPLE: [Fused; 5] =
        [Fused::Nothing, Fused::Residual, Fused::Accumulate, Fused::Wide(false), Fused::Wide(true)];
    for (batch, m, n, k) in [(1, 70, 66, 77), (2, 9, 130, 100), (3, 40, 5, 161), (2, 16, 17, 530)] {
        for (i, (ta, tb)) in TRANSPOSES.into_iter().enumerate() {
            for more in 0..2 {
                let fused = SIMPLE[(i + 2 * more + batch) % SIMPLE.len()];
                let mut integers = |wide: bool, rows: usize, columns: usize| {
                    let rows = batch * rows;
                    let values: Vec<f64> =
                        harness.random.floats(rows * columns).iter().map(|v| (1.9 * v).trunc()).collect();
                    let dtype = if wide { harness.float.accumulator() } else { harness.float };
                    let pitch = harness.pitch(columns, ALIGNED);
                    harness.floats_of(dtype, (&[rows, columns], pitch), &values)
                };
                let a = if ta { integers(false, k, m) } else { integers(false, m, k) };
                let b = if tb { integers(false, n, k) } else { integers(false, k, n) };
                let wide = matches!(fused, Fused::Wide(_));
                let accumulate = matches!(fused, Fused::Accumulate | Fused::Wide(true));
                let residual = (fused == Fused::Residual).then(|| integers(false, m, n));
                let out = integers(wide, m, n);
                let product = Linear::product(a, b, out, (ta, tb)).batched(batch);
                harness.check(Linear { accumulate, residual, ..product }, |_, _| EXACTLY);
                harness.clear();
            }
        }
    }
}

/// Tests factors that are aligned for tensor cores, and others that are not.
fn column_blocks(harness: &mut Harness) {
    let (m, n, k) = (20, 24, 40);
    for begin in [0, 1, 8] {
        for fused in
            [Fused::Activate(TANH, true, true), Fused::Gradient(ERF, true, Recompute::Apart), Fused::Accumulate]
        {
            let mut op = of(harness, 1, (m, n, k), (false, true), ALIGNED, fused);
            // Columns of wider buffers: `out` anywhere, the factors aligned to 16 bytes or not.
            let (a, b) = (harness.input((&[m, k + 8], 56)), harness.input((&[n, k + 8], 64)));
            (op.a, op.b) = (a.columns(begin, k), b.columns(8, k));
            let (out, pre) = (harness.input((&[m, n + 3], 40)), harness.input((&[m, n + 8], 32)));
            (op.out, op.residual) =
                (out.columns(3, n), op.residual.map(|_| harness.input((&[m, n + 1], 48)).columns(1, n)));
            match &mut op.epilogue {
                Epilogue::Activate { pre: saved, .. } => *saved = Some(pre.columns(8, n)),
                Epilogue::ActivateGrad { pre: saved, value, .. } => {
                    *saved = pre.columns(8, n);
                    *value = Some(harness.input((&[m, n + 5], 72)).columns(5, n));
                }
                Epilogue::None => {}
            }
            harness.check(op, |_, _| 1.13 * dot(k + 2) + 4.0 * EPS * 16.0);
            harness.clear();
        }
    }
}

/// Tests that outer dimensions count as rows, and that a column block of a wider buffer is a matrix.
fn outer_dimensions(harness: &mut Harness) {
    let wide = harness.input((&[2, 7, 30], 32));
    let (a, b) = (wide.columns(5, 10), harness.input((&[10, 6], 0)));
    let fused = harness.output((&[2, 7, 18], 0));
    harness.check(Linear::product(a, b, fused.columns(6, 6), (false, false)), |_, _| dot(10));
    harness.clear();
}

fn sample(harness: &mut Harness, size: Size) -> Op {
    let sizes = if size == Size::Large { (300, 200, 150) } else { (3, 5, 7) };
    of(harness, 1, sizes, (false, true), Gap::Elements(3), Fused::Activate(TANH, true, true)).into()
}
