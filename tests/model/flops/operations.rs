//! The cost of every operation. All sizes differ, so that a missing, swapped or doubled factor is detected.

use vcycle::device::ops::{
    Accumulate, Activation, ActivationBackward, AdamW, Attention, AttentionBackward, ColumnSum, Cost, CrossEntropy,
    Dropout, Embedding, EmbeddingBackward, Epilogue, Fill, GlobalNorm, Item, LayerNorm, LayerNormBackward, Linear,
    Mask, Mix, Multilevel, Op, SquaredError, StepState,
};
use vcycle::tensor::{DType, Place, Tensor};

/// Creates tensors, each in its own arena.
#[derive(Default)]
struct Memory {
    arenas: u32,
}

impl Memory {
    fn of(&mut self, dtype: DType, dims: &[usize]) -> Tensor {
        self.arenas += 1;
        Tensor::new(Place::Arena(self.arenas), dtype, 0, dims)
    }

    fn f32(&mut self, dims: &[usize]) -> Tensor {
        self.of(DType::F32, dims)
    }

    fn i32(&mut self, dims: &[usize]) -> Tensor {
        self.of(DType::I32, dims)
    }

    fn mask(&mut self) -> Mask {
        Mask { p: 0.5, site: 1, state: self.of(DType::U32, &[StepState::WORDS]) }
    }
}

/// Returns the cost of an operation, after checking its operands.
fn cost(op: impl Into<Op>) -> Cost {
    let op = op.into();
    op.check().expect("operands that fit");
    op.cost()
}

fn flops(op: impl Into<Op>) -> u64 {
    cost(op).flops
}

#[test]
fn pointwise_operations_and_sums() {
    for [n, c] in [[3, 5], [7, 11]] {
        let m = &mut Memory::default();
        let elements = (n * c) as u64;
        let (x, out) = (m.f32(&[n, c]), m.f32(&[n, c]));
        // One addition for each element; a copy computes nothing.
        let add = Accumulate { x, out, add: true };
        assert_eq!(cost(add), Cost { flops: elements, bytes: 3 * 4 * elements }, "x is read, out is read and written");
        assert_eq!(cost(Accumulate { add: false, ..add }), Cost { flops: 0, bytes: 2 * 4 * elements });
        // From f32 to bf16: 4 bytes in, 2 out.
        let narrow = Accumulate { out: m.of(DType::BF16, &[n, c]), add: false, ..add };
        assert_eq!(cost(narrow), Cost { flops: 0, bytes: (4 + 2) * elements });
        // Ten FLOPs per element by definition, for every activation function.
        for kind in [Activation::GeluTanh, Activation::GeluErf, Activation::Tanh] {
            let op = ActivationBackward { kind, dout: x, pre: m.f32(&[n, c]), dx: out };
            assert_eq!(cost(op), Cost { flops: 10 * elements, bytes: 3 * 4 * elements });
        }
        // One addition for each element of x, whether or not the sums are added to the previous contents of `out`.
        for (accumulate, moves) in [(false, 1), (true, 2)] {
            let op = ColumnSum { x, out: m.f32(&[c]), accumulate };
            assert_eq!(cost(op), Cost { flops: elements, bytes: 4 * (elements + moves * c as u64) });
        }
        // One multiplication, and one addition with a residual. Computing the mask is not counted.
        let drop = Dropout { x, residual: None, out, mask: m.mask(), unit: 1 };
        assert_eq!(flops(drop), elements);
        assert_eq!(flops(Dropout { unit: c, ..drop }), elements);
        assert_eq!(flops(Dropout { residual: Some(m.f32(&[n, c])), ..drop }), 2 * elements);
        assert_eq!(cost(Fill { out, value: 1.5 }), Cost { flops: 0, bytes: 4 * elements });
        // Difference, square, sum; with a gradient one more multiplication.
        let error = SquaredError { x, targets: m.f32(&[n, c]), scored: None, loss: m.f32(&[1]), dx: None, weight: 0.5 };
        assert_eq!(cost(error), Cost { flops: 3 * elements, bytes: 4 * (2 * elements + 1) });
        let graded = SquaredError { dx: Some(out), ..error };
        assert_eq!(cost(graded), Cost { flops: 4 * elements, bytes: 4 * (3 * elements + 1) });
    }
}

#[test]
fn gradient_norm_and_adamw() {
    for n in [64, 192] {
        let m = &mut Memory::default();
        let x = m.f32(&[n]);
        // A multiply-add for each element.
        let norm = GlobalNorm { x, partials: m.f32(&[1]), norm: m.f32(&[1]) };
        assert_eq!(cost(norm), Cost { flops: 2 * n as u64, bytes: 4 * (n as u64 + 1 + 1) });
        // Fourteen FLOPs per element, by definition: clipping, decay, two averages, and the step.
        let adamw = AdamW {
            params: m.f32(&[n]),
            grads: x,
            m: m.f32(&[n]),
            v: m.f32(&[n]),
            copy: None,
            decay_mask: m.of(DType::U8, &[n / 64]),
            norm: m.f32(&[1]),
            state: m.of(DType::U32, &[8]),
            beta1: 0.9,
            beta2: 0.99,
            eps: 1e-8,
            weight_decay: 0.1,
            max_norm: 1.0,
        };
        // Gradients are read; parameters and two moments are read and written; one byte of the mask per 64 elements,
        // the norm, and 32 bytes of state.
        let bytes = 4 * (1 + 2 * 3) * n as u64 + n as u64 / 64 + 4 + 32;
        assert_eq!(cost(adamw), Cost { flops: 14 * n as u64, bytes });
        let copying = AdamW { copy: Some(m.of(DType::BF16, &[n])), ..adamw };
        assert_eq!(cost(copying), Cost { flops: 14 * n as u64, bytes: bytes + 2 * n as u64 });
    }
    // Two blocks of 16,384 elements have one partial sum each; adding the partial sums is not counted.
    let m = &mut Memory::default();
    let norm = GlobalNorm { x: m.f32(&[16_448]), partials: m.f32(&[2]), norm: m.f32(&[1]) };
    assert_eq!(flops(norm), 32_896);
}

#[test]
fn matmuls() {
    for (m, n, k) in [(3u64, 5, 7), (11, 2, 13)] {
        let [rows, cols, inner] = [m, n, k].map(|size| size as usize);
        for batch in [1usize, 4] {
            for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
                let mem = &mut Memory::default();
                let a = if ta { [batch * inner, rows] } else { [batch * rows, inner] };
                let b = if tb { [batch * cols, inner] } else { [batch * inner, cols] };
                let (a, b, out) = (mem.f32(&a), mem.f32(&b), mem.f32(&[batch * rows, cols]));
                let z = batch as u64;
                // k multiply-adds for each of the m n elements.
                let bare = Linear::product(a, b, out, (ta, tb)).batched(batch);
                let bytes = 4 * z * (m * k + k * n + m * n);
                assert_eq!(cost(bare), Cost { flops: 2 * z * m * n * k, bytes }, "{ta} {tb} {batch}");
                // When accumulating, the same multiply-adds, and `out` is read as well.
                let sum = Linear { accumulate: true, ..bare };
                assert_eq!(cost(sum), Cost { flops: 2 * z * m * n * k, bytes: bytes + 4 * z * m * n });
                // A bias and a residual are initial values of the sums: the first multiply-add includes them.
                let added =
                    Linear { bias: Some(mem.f32(&[cols])), residual: Some(mem.f32(&[batch * rows, cols])), ..bare };
                assert_eq!(flops(added), 2 * z * m * n * k);
                // Ten FLOPs per element by definition for an activation, its derivative, or both together.
                let (pre, value) = (mem.f32(&[batch * rows, cols]), mem.f32(&[batch * rows, cols]));
                for kind in [Activation::GeluTanh, Activation::GeluErf, Activation::Tanh] {
                    for epilogue in [
                        Epilogue::Activate { kind, pre: None },
                        Epilogue::Activate { kind, pre: Some(pre) },
                        Epilogue::ActivateGrad { kind, pre, value: None },
                        Epilogue::ActivateGrad { kind, pre, value: Some(value) },
                    ] {
                        assert_eq!(flops(Linear { epilogue, ..bare }), z * (2 * m * n * k + 10 * m * n));
                    }
                }
            }
        }
    }
    // In bf16 with the gradient of a weight in f32: 2 (3 x 7 + 7 x 5) + 4 (3 x 5) bytes.
    let m = &mut Memory::default();
    let (a, b) = (m.of(DType::BF16, &[3, 7]), m.of(DType::BF16, &[7, 5]));
    assert_eq!(cost(Linear::product(a, b, m.f32(&[3, 5]), (false, false))), Cost { flops: 210, bytes: 112 + 60 });
}

/// Returns the costs of attention forward and backward for sizes `[B, Tq, Tk, H, D]`.
fn attention([b, tq, tk, h, d]: [usize; 5], causal: bool) -> [Cost; 2] {
    let m = &mut Memory::default();
    let forward = Attention {
        q: m.f32(&[b, tq, h, d]),
        k: m.f32(&[b, tk, h, d]),
        v: m.f32(&[b, tk, h, d]),
        out: m.f32(&[b, tq, h, d]),
        lse: m.f32(&[b, h, tq]),
        key_mask: None,
        causal,
        scale: 0.5,
        dropout: None,
    };
    let backward = AttentionBackward {
        forward,
        dout: m.f32(&[b, tq, h, d]),
        dq: m.f32(&[b, tq, h, d]),
        dk: m.f32(&[b, tk, h, d]),
        dv: m.f32(&[b, tk, h, d]),
        delta: m.f32(&[b, h, tq]),
    };
    // Pairs that are masked or dropped depend on the data, so they are counted as if they were visible.
    let masked = Attention { key_mask: Some(m.i32(&[b, tk])), dropout: Some(m.mask()), ..forward };
    assert_eq!(flops(masked), flops(forward));
    assert_eq!(flops(AttentionBackward { forward: masked, ..backward }), flops(backward));
    [cost(forward), cost(backward)]
}

/// FLOPs per visible pair of a query and a key. Forward: 2 D for the score, 2 D for the weighted sum of V, and 5 for
/// the softmax (scale, maximum, difference, exponential, sum). Backward: 2 D each for dP, dV, dQ and dK, and 8 for the
/// gradient of the softmax. The scores that kernels recompute in the backward pass are not counted.
#[test]
fn attention_counts_only_visible_pairs() {
    // B = 2, H = 3, D = 7, every query sees every key: 2 x 3 x 4 x 5 pairs, or 2 x 3 x 6 x 6.
    let of = |pairs: u64, d: u64| [pairs * (4 * d + 5), pairs * (8 * d + 8)];
    assert_eq!(attention([2, 4, 5, 3, 7], false).map(|c| c.flops), of(120, 7));
    assert_eq!(attention([2, 5, 4, 3, 7], false).map(|c| c.flops), of(120, 7), "more queries than keys");
    assert_eq!(attention([2, 6, 6, 3, 7], false).map(|c| c.flops), of(216, 7));
    // Causal, with as many keys as queries: 1 + 2 + .. + 6 = 21 of the 36 pairs.
    assert_eq!(attention([2, 6, 6, 3, 7], true).map(|c| c.flops), of(2 * 3 * 21, 7));
    // Causal, with two earlier keys: queries 1 to 4 see 3, 4, 5 and 6 keys.
    assert_eq!(attention([2, 4, 6, 3, 7], true).map(|c| c.flops), of(2 * 3 * 18, 7));
    assert_eq!(attention([5, 4, 6, 1, 11], true).map(|c| c.flops), of(5 * 18, 11));
    assert_eq!(attention([5, 4, 6, 1, 11], false).map(|c| c.flops), of(5 * 24, 11));
    // One query after 9 keys, as in generation, sees all of them.
    assert_eq!(attention([1, 1, 9, 2, 3], true).map(|c| c.flops), of(2 * 9, 3));
    // Q and out have 2 x 4 x 3 x 7 elements, K and V 2 x 6 x 3 x 7, and there is a log-sum-exp for each of 2 x 3 x 4
    // rows. The backward pass reads these five tensors and dout, and writes dQ, dK, dV and the row sums.
    let [forward, backward] = attention([2, 4, 6, 3, 7], true).map(|c| c.bytes);
    assert_eq!(forward, 4 * (2 * 168 + 2 * 252 + 24));
    assert_eq!(backward, 4 * ((2 * 168 + 2 * 252 + 24) + 168 + (168 + 2 * 252) + 24));
}

#[test]
fn cross_entropy() {
    for [n, v] in [[3, 7], [10, 13]] {
        let m = &mut Memory::default();
        let elements = (n * v) as u64;
        let (logits, dlogits) = (m.f32(&[n, v]), m.f32(&[n, v]));
        let loss = CrossEntropy {
            logits,
            labels: m.i32(&[n]),
            mix: None,
            scored: None,
            losses: m.f32(&[n]),
            loss: m.f32(&[1]),
            first: 0,
            dlogits: None,
            ignore: -100,
            smoothing: 0.0,
            weight: 1.0,
        };
        // Maximum, difference, exponential, sum. The gradient adds a scaling and a subtraction of the target.
        assert_eq!(cost(loss), Cost { flops: 4 * elements, bytes: 4 * (elements + 2 * n as u64 + 1) });
        let graded = CrossEntropy { dlogits: Some(dlogits), ..loss };
        assert_eq!(cost(graded), Cost { flops: 6 * elements, bytes: 4 * (2 * elements + 2 * n as u64 + 1) });
        // The kind of target does not matter.
        let mix = Some(Mix { labels: m.i32(&[n]), share: m.f32(&[n]) });
        assert_eq!(flops(CrossEntropy { mix, smoothing: 0.1, weight: 0.5, ..graded }), 6 * elements);
        // A strip counts its own rows: two of n.
        let strip = CrossEntropy { logits: m.f32(&[2, v]), first: 1, dlogits: Some(m.f32(&[2, v])), ..loss };
        assert_eq!(flops(strip), 6 * 2 * v as u64);
    }
}

#[test]
fn embeddings() {
    // Sizes B, T, C, V. Only additions count.
    for [b, t, c, v] in [[2, 3, 5, 7], [4, 6, 11, 9]] {
        let m = &mut Memory::default();
        let rows = (b * t * c) as u64;
        let (ids, table, positions) = (m.i32(&[b, t]), m.f32(&[v, c]), m.f32(&[t + 1, c]));
        let look_up = Embedding { ids, table, positions: None, out: m.f32(&[b, t, c]), accumulate: false };
        assert_eq!(flops(look_up), 0, "a copy");
        assert_eq!(flops(Embedding { positions: Some(positions), ..look_up }), rows);
        assert_eq!(flops(Embedding { accumulate: true, ..look_up }), rows);
        assert_eq!(flops(Embedding { positions: Some(positions), accumulate: true, ..look_up }), 2 * rows);
        // Every row of dout is added to a row of each gradient.
        let back = EmbeddingBackward {
            ids,
            dout: m.f32(&[b, t, c]),
            dtable: Some(m.f32(&[v, c])),
            dpositions: None,
            accumulate_table: false,
            accumulate_positions: false,
            padding: None,
        };
        assert_eq!(flops(back), rows);
        assert_eq!(flops(EmbeddingBackward { padding: Some(0), accumulate_table: true, ..back }), rows);
        let both = EmbeddingBackward { dpositions: Some(m.f32(&[t + 1, c])), ..back };
        assert_eq!(flops(both), 2 * rows);
        assert_eq!(flops(EmbeddingBackward { dtable: None, ..both }), rows);
    }
}

#[test]
fn layernorm() {
    for [n, c] in [[3, 5], [33, 7]] {
        let m = &mut Memory::default();
        let elements = (n * c) as u64;
        let (weight, bias) = (m.f32(&[c]), m.f32(&[c]));
        let norm = LayerNorm {
            x: m.f32(&[n, c]),
            residual: None,
            sum: None,
            weight,
            bias,
            out: m.f32(&[n, c]),
            mean: m.f32(&[n]),
            rstd: m.f32(&[n]),
            eps: 1e-5,
        };
        // The sum (1); the difference, its square and their sum (3); times rstd, times weight, plus bias (3).
        assert_eq!(cost(norm), Cost { flops: 7 * elements, bytes: 4 * (2 * elements + 2 * c as u64 + 2 * n as u64) });
        let with = LayerNorm { residual: Some(m.f32(&[n, c])), sum: Some(m.f32(&[n, c])), ..norm };
        assert_eq!(flops(with), 8 * elements);
        let back = LayerNormBackward {
            dout: m.f32(&[n, c]),
            x: norm.x,
            weight,
            mean: norm.mean,
            rstd: norm.rstd,
            dx: m.f32(&[n, c]),
            accumulate_dx: false,
            dweight: m.f32(&[c]),
            dbias: m.f32(&[c]),
            accumulate: false,
            // A partial sum for every 32 rows.
            partials: m.f32(&[n.div_ceil(32), 2 * c]),
        };
        // h (2), g (1), the means of g (1) and g h (2), dx (4) and its accumulation (1, always counted), dweight (2),
        // dbias (1).
        assert_eq!(flops(back), 14 * elements);
        assert_eq!(flops(LayerNormBackward { accumulate_dx: true, accumulate: true, ..back }), 14 * elements);
    }
}

#[test]
fn multilevel_operators() {
    // A multiply-add for each element of the larger tensor. Interpolation adds two multiplications and an addition for
    // each element that is written.
    for [src, dst] in [[64, 192], [320, 128]] {
        let m = &mut Memory::default();
        let larger = src.max(dst) as u64;
        let out = m.f32(&[dst]);
        let map = Multilevel {
            src: m.f32(&[src]),
            dst: out,
            base: None,
            alpha: 1.0,
            items: m.of(DType::U32, &[3, Item::WORDS]),
            index: m.of(DType::U32, &[17]),
            weight: m.f32(&[17]),
        };
        let tables = 3 * 12 + 17 + 17;
        let both = (src + dst) as u64;
        assert_eq!(cost(map), Cost { flops: 2 * larger, bytes: 4 * (both + tables) });
        let mixed = 2 * larger + 3 * dst as u64;
        let apart = Multilevel { base: Some(m.f32(&[dst])), alpha: 0.25, ..map };
        assert_eq!(cost(apart), Cost { flops: mixed, bytes: 4 * (both + dst as u64 + tables) });
        // In place: the base is overwritten.
        let in_place = Multilevel { base: Some(out), alpha: 0.25, ..map };
        assert_eq!(cost(in_place), Cost { flops: mixed, bytes: 4 * (both + dst as u64 + tables) });
    }
}
