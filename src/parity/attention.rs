use super::harness::{ALIGNED, BF16_ROUNDING, EPS, Gap, Harness, dot};
use super::{Size, Stem};
use crate::device::ops::{Attention, AttentionBackward, Mask, Op, Operation, StepState};
use crate::tensor::{DType, Tensor};

pub const STEMS: &[Stem] = &[
    Stem { name: Attention::NAME, cases, sample },
    Stem { name: AttentionBackward::NAME, cases, sample: sample_backward },
];

/// Batch, queries, keys, heads, head size.
type Sizes = (usize, usize, usize, usize, usize);

/// Ones, primes, block sizes of 64 queries plus and minus one, fewer queries than keys, and head sizes in use.
const SIZES: [Sizes; 15] = [
    (1, 1, 1, 1, 1),
    (1, 1, 7, 1, 2),
    (2, 5, 5, 3, 3),
    (1, 3, 11, 2, 5),
    (2, 13, 13, 2, 32),
    (1, 63, 63, 1, 3),
    (1, 64, 64, 2, 4),
    (1, 65, 65, 1, 64),
    (1, 17, 66, 2, 80),
    (1, 64, 129, 1, 8),
    (2, 130, 131, 1, 5),
    (1, 7, 5, 1, 4),
    (1, 33, 33, 1, 96),
    (1, 31, 33, 1, 128),
    (1, 17, 17, 12, 64),
];

/// For `cpu`, which splits longer sequences into chunks of 480 keys and larger heads into chunks of 512 elements: sizes
/// around and above these.
const CPU_CHUNKS: [Sizes; 6] = [
    (1, 100, 500, 1, 5),
    (1, 13, 481, 1, 3),
    (1, 481, 481, 1, 4),
    (2, 30, 970, 1, 3),
    (1, 5, 9, 1, 513),
    (1, 13, 14, 1, 1030),
];

/// Sequence lengths of GPT-2, BERT and DeiT, with fewer heads, because all heads are alike; a head larger than any
/// tile; and more than three heads per SM of a GPU, for persistent blocks.
const FULL: [Sizes; 9] = [
    (1, 1024, 1024, 2, 64),
    (2, 512, 512, 2, 64),
    (2, 197, 197, 3, 64),
    (1, 256, 256, 2, 160),
    (2, 128, 128, 3, 64),
    (1, 256, 256, 3, 64),
    (2, 128, 128, 2, 128),
    (100, 7, 7, 12, 8),
    (40, 130, 130, 12, 8),
];

/// For bf16 kernels with tiles of 128 or 64 rows, which loop over the other operand 128, 64 or 32 rows at a time and
/// access 16 bytes at a time. The first, the eighth and the ninth have several tiles for each persistent block, the
/// last has more tiles of queries than pipeline stages.
const TILES: [Sizes; 20] = [
    (3, 5, 7, 4, 8),
    (1, 2, 650, 1, 8),
    (1, 20, 140, 1, 8),
    (1, 100, 20, 1, 8),
    (2, 20, 140, 2, 8),
    (1, 32, 130, 1, 8),
    (1, 130, 32, 1, 8),
    (3, 40, 150, 3, 8),
    (3, 5, 7, 4, 72),
    (2, 20, 70, 1, 8),
    (1, 33, 97, 1, 16),
    (1, 129, 129, 1, 32),
    (2, 65, 200, 2, 24),
    (1, 127, 193, 1, 64),
    (1, 130, 130, 2, 40),
    (1, 66, 130, 1, 80),
    (1, 131, 66, 1, 72),
    (1, 65, 131, 1, 96),
    (1, 65, 131, 1, 128),
    (1, 330, 8, 1, 8),
];

/// For bf16 kernels that keep all keys, at most 256, in shared memory, in one or two parts of 128. A persistent block
/// processes ten heads of the first size, six of the second, three of the third (with two tiles of queries each) and of
/// the fifth, and four of the fourth and the sixth.
const SHORT: [Sizes; 16] = [
    (4, 3, 9, 5, 8),
    (3, 2, 130, 4, 8),
    (2, 130, 5, 3, 8),
    (1, 1, 127, 7, 80),
    (2, 1, 130, 3, 72),
    (7, 1, 1, 1, 32),
    (1, 64, 64, 3, 32),
    (1, 128, 128, 2, 64),
    (1, 256, 256, 1, 64),
    (1, 127, 127, 1, 80),
    (1, 129, 129, 1, 64),
    (1, 197, 197, 1, 64),
    (1, 130, 128, 1, 128),
    (1, 256, 256, 1, 128),
    (1, 300, 192, 1, 16),
    (2, 3, 5, 2, 8),
];

/// Tolerance for the relative error of a sum of attention weights that are rounded to bf16: half of the largest error
/// of a single weight, because the errors have either sign.
const WEIGHT_ROUNDING: f64 = BF16_ROUNDING / 2.0;

#[derive(Clone, Copy)]
struct Options {
    causal: bool,
    key_mask: bool,
    dropout: f32,
    /// Q, K and V are columns of one buffer.
    fused: bool,
    /// The gap after the heads of each position.
    gap: Gap,
}

fn of(harness: &mut Harness, (batch, tq, tk, heads, d): Sizes, with: Options) -> Attention {
    let [like_q, like_k] = [[batch, tq, heads, d], [batch, tk, heads, d]];
    let [q, k, v] = if with.fused {
        let [batch, time, heads, d] = like_q;
        split(rows(harness, [batch, time, 3, heads * d], with.gap, false), heads)
    } else {
        [like_q, like_k, like_k].map(|dims| rows(harness, dims, with.gap, false))
    };
    let out = rows(harness, like_q, with.gap, true);
    let lse = harness.accumulator_output((&[batch, heads, tq], 0));
    let key_mask = with.key_mask.then(|| {
        let mut seen = harness.random.ids(batch * tk, 3);
        // The last sequence has no key at all: its outputs are zeros, and its log-sum-exp is -infinity.
        seen[(batch - 1) * tk..].fill(if batch > 1 { 0 } else { 1 });
        let pitch = harness.pitch(tk, with.gap).max(tk);
        harness.rows_of_integers((&[batch, tk], pitch), &seen)
    });
    let dropout = (with.dropout > 0.0).then(|| {
        let state = harness.state(&StepState { step: 5, ..StepState::with_seed(77) });
        Mask { p: with.dropout, site: 2, state }
    });
    let scale = 1.0 / (d as f64).sqrt();
    Attention { q, k, v, out, lse, key_mask, causal: with.causal, scale, dropout }
}

/// Creates a tensor `[B, T, H, D]` with a gap after the heads of each position. `poison`: filled with NaN.
fn rows(harness: &mut Harness, [batch, time, heads, d]: [usize; 4], gap: Gap, poison: bool) -> Tensor {
    let pitch = harness.pitch(heads * d, gap);
    let shape = (&[batch, time, heads * d][..], pitch);
    let t = if poison { harness.output(shape) } else { harness.input(shape) };
    t.reshape(&[batch, time, heads, d])
}

/// Splits a buffer into Q, K and V.
fn split(fused: Tensor, heads: usize) -> [Tensor; 3] {
    let &[batch, time, _, width] = fused.dims() else { return [fused; 3] };
    let fused = fused.reshape(&[batch, time, 3 * width]);
    std::array::from_fn(|i| fused.columns(i * width, width).reshape(&[batch, time, heads, width / heads]))
}

fn backward(harness: &mut Harness, sizes: Sizes, forward: Attention, with: Options) -> AttentionBackward {
    let (batch, tq, tk, heads, d) = sizes;
    let [like_q, like_k] = [[batch, tq, heads, d], [batch, tk, heads, d]];
    // The rows of a fused buffer have gaps, so the other operands have gaps, too.
    let gap = if with.fused && with.gap == Gap::None { ALIGNED } else { with.gap };
    let dout = rows(harness, like_q, gap, false);
    let [dq, dk, dv] = if with.fused {
        split(rows(harness, [batch, tq, 3, heads * d], gap, true), heads)
    } else {
        [like_q, like_k, like_k].map(|dims| rows(harness, dims, gap, true))
    };
    AttentionBackward { forward, dout, dq, dk, dv, delta: harness.accumulator_output((&[batch, heads, tq], 0)) }
}

fn check(harness: &mut Harness, sizes: Sizes, with: Options) {
    let (_, tq, tk, _, d) = sizes;
    let op = of(harness, sizes, with);
    // Attention weights are rounded before a matmul on tensor cores.
    let weight = if harness.float == DType::BF16 { WEIGHT_ROUNDING } else { 0.0 };
    // A score is scale times a sum of D products, and below sqrt(D). The exponential turns its error into a relative
    // error of the probability (counted twice, because it affects the total as well); add 4 roundings and the sum over
    // Tk / 16 steps of 16 lanes.
    let score = op.scale * dot(d) + EPS * (d as f64).sqrt();
    let probability = 2.0 * score + EPS * (4.0 + (tk as f64 / 16.0).sqrt());
    let kept = 1.0 / (1.0 - f64::from(with.dropout));
    // Probabilities sum to one and |v| <= 1, so the output has the same error, plus the rounding of the sum over keys.
    let out = kept * (probability + weight + EPS * (tk as f64).sqrt());
    harness.check(op, |t, _| if *t == op.lse { probability + 4.0 * EPS } else { out });
    let back = backward(harness, sizes, op, with);
    // dP is a sum of D products below 2 sqrt(D), and so is delta, which is computed from the rounded output.
    // dS = P (dP - delta).
    let size = kept * 2.0 * (d as f64).sqrt();
    let delta = (out + kept * weight) * (d as f64).sqrt();
    let ds = kept * 2.0 * dot(d) + kept * delta + 2.0 * size * (probability + weight + EPS);
    // dQ sums dS over keys, where probabilities sum to one. dK and dV sum over queries, where probabilities sum to at
    // most Tq, and to about Tq / Tk with many keys.
    let column = 1.0 + tq as f64 / (tk as f64).sqrt();
    harness.check(back, |t, _| match *t {
        t if t == back.dq => op.scale * (ds + size * EPS * (tk as f64).sqrt()),
        t if t == back.dk => column * op.scale * (ds + size * EPS),
        _ => column * kept * (probability + weight + 2.0 * EPS),
    });
    harness.clear();
}

fn cases(harness: &mut Harness) {
    let chunks = if harness.on("cpu") { &CPU_CHUNKS[..] } else { &[] };
    for sizes in SIZES.iter().chain(chunks).copied() {
        let (_, tq, tk, ..) = sizes;
        for (i, dropout) in [0.0, 0.2].into_iter().enumerate() {
            for (causal, key_mask) in [(false, false), (true, false), (false, true), (true, true)] {
                if !causal || tq <= tk {
                    let gap = [Gap::None, Gap::Elements(3)][(i + usize::from(causal)) % 2];
                    check(harness, sizes, Options { causal, key_mask, dropout, fused: tq == tk, gap });
                }
            }
        }
    }
    let (tiles, short) = if harness.float == DType::BF16 { (&TILES[..], &SHORT[..]) } else { (&[][..], &[][..]) };
    for (i, sizes) in tiles.iter().enumerate().chain(short.iter().enumerate()) {
        let (_, tq, tk, ..) = *sizes;
        // Small sizes get all options, for test runs that skip the larger ones.
        let some = if i < 8 { 4 } else { 2 };
        let options = [(true, false), (false, true), (false, false), (true, true)];
        for (n, (causal, key_mask)) in options.into_iter().enumerate().take(some) {
            if !causal || tq <= tk {
                let (dropout, gap) = ([0.0, 0.2][(i + n + n / 2) % 2], [Gap::None, ALIGNED][n % 2]);
                check(harness, *sizes, Options { causal, key_mask, dropout, fused: tq == tk, gap });
            }
        }
    }
    for sizes in if harness.full() { &FULL[..] } else { &[] } {
        for (causal, key_mask, dropout) in [(true, false, 0.0), (false, true, 0.1)] {
            check(harness, *sizes, Options { causal, key_mask, dropout, fused: true, gap: Gap::None });
        }
    }
}

fn sample_sizes(size: Size) -> Sizes {
    if size == Size::Large { (3, 140, 140, 5, 16) } else { (2, 3, 3, 2, 5) }
}

const ALL: Options = Options { causal: true, key_mask: true, dropout: 0.1, fused: true, gap: Gap::Elements(1) };

fn sample(harness: &mut Harness, size: Size) -> Op {
    of(harness, sample_sizes(size), ALL).into()
}

fn sample_backward(harness: &mut Harness, size: Size) -> Op {
    let forward = of(harness, sample_sizes(size), ALL);
    harness.prepare(forward);
    backward(harness, sample_sizes(size), forward, ALL).into()
}

#[cfg(test)]
mod tests {
    use super::{Options, of};
    use crate::parity::harness::{Gap, Harness};

    /// Checks the dropout mask itself: if V is the identity, the output is the matrix of probabilities after dropout.
    #[test]
    fn both_devices_drop_the_same_probabilities() {
        let mut harness = Harness::cpu(&[1, 2], true);
        let (time, heads) = (67, 3);
        let with = Options { causal: true, key_mask: false, dropout: 0.5, fused: false, gap: Gap::None };
        let mut op = of(&mut harness, (2, time, time, heads, time), with);
        let identity = |i: usize| if (i / (heads * time)) % time == i % time { 1.0 } else { 0.0 };
        let ones: Vec<f64> = (0..2 * time * heads * time).map(identity).collect();
        op.v = harness.floats((&[2, time, heads, time], 0), &ones);
        // Probabilities are above e^(-2 sqrt(D)) / 67 > 1e-9; dropped ones are zero.
        harness.check(op, |t, want| if *t == op.lse { f64::INFINITY } else { 1e-4 * want.abs() });
        let dropped = harness.values(&op.out).iter().filter(|p| **p == 0.0).count();
        let visible = 2 * heads * time * (time + 1) / 2;
        let dropped = dropped - (2 * heads * time * time - visible);
        let sigma = (visible as f64 / 4.0).sqrt();
        assert!((dropped as f64 - visible as f64 / 2.0).abs() < 5.0 * sigma, "{dropped} of {visible} are dropped");
    }
}
