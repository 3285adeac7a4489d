use super::{
    Access, Mask, Operation, Visit, expect_accumulator, expect_contiguous, expect_dtype, expect_floats, expect_shape,
};
use crate::bail;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Scaled dot-product attention: `out = dropout(softmax(scale Q K^T + mask)) V` for every head.
///
/// The `Tq x Tk` matrix of probabilities is never stored; for the backward pass only the log-sum-exp of each of its
/// rows is saved (FlashAttention, Dao et al., arXiv 2205.14135). A row without any visible key gives zeros and `lse` =
/// -infinity.
///
/// In memory, the rows of `q`, `k`, `v` and `out` (and of their gradients) hold all `H D` elements of one token; rows
/// may be padded. So `q`, `k` and `v` may be column blocks of one fused QKV buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Queries, `[B, Tq, H, D]`.
    pub q: Tensor,
    /// Keys, `[B, Tk, H, D]`.
    pub k: Tensor,
    /// Values, `[B, Tk, H, D]`.
    pub v: Tensor,
    /// Output, `[B, Tq, H, D]`.
    pub out: Tensor,
    /// Output: log-sum-exp of every row of scaled and masked scores, `[B, H, Tq]`, contiguous, accumulator type.
    pub lse: Tensor,
    /// `[B, Tk]`, I32: keys with a 0 are hidden from all queries of the sequence.
    pub key_mask: Option<Tensor>,
    /// Whether query `i` sees only the keys `j <= i + Tk - Tq`. Requires `Tk >= Tq`.
    pub causal: bool,
    /// Factor of the scores, usually `1 / sqrt(D)`.
    pub scale: f64,
    /// Dropout of the probabilities. The index of a probability in the mask is `((b H + h) Tq + i) Tk + j`, for
    /// sequence `b`, head `h`, query `i` and key `j`.
    pub dropout: Option<Mask>,
}

/// Backward pass of [`Attention`].
///
/// With the probabilities `P` recomputed from `lse`, `dP = dout V^T` and `delta = rowsum(dout * out)`: `dV = P^T dout`,
/// `dS = P * (dP - delta)`, `dQ = scale dS K`, `dK = scale dS^T Q`. Dropout is applied to `dP` and, for `dV`, to `P`,
/// with the mask of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionBackward {
    /// The forward operation. All of its operands, including the outputs `out` and `lse`, are read here.
    pub forward: Attention,
    /// Gradient of `out`, `[B, Tq, H, D]`.
    pub dout: Tensor,
    /// Output: gradient of `q`, `[B, Tq, H, D]`.
    pub dq: Tensor,
    /// Output: gradient of `k`, `[B, Tk, H, D]`.
    pub dk: Tensor,
    /// Output: gradient of `v`, `[B, Tk, H, D]`.
    pub dv: Tensor,
    /// Workspace for `delta`, `[B, H, Tq]`, contiguous, accumulator type.
    pub delta: Tensor,
}

impl Attention {
    /// Returns `(B, Tq, Tk, H, D)`, or zeros if `q` or `k` does not have four dimensions.
    pub fn sizes(&self) -> (usize, usize, usize, usize, usize) {
        match (self.q.dims(), self.k.dims()) {
            (&[b, tq, h, d], &[_, tk, ..]) => (b, tq, tk, h, d),
            _ => (0, 0, 0, 0, 0),
        }
    }

    /// Returns the number of leading keys that query `i` sees, before any key mask is applied.
    pub fn visible(&self, i: usize) -> usize {
        let (_, tq, tk, ..) = self.sizes();
        if self.causal { (i + 1 + tk - tq).min(tk) } else { tk }
    }

    /// Returns the number of (query, key) pairs that are computed, over all heads and sequences.
    fn pairs(&self) -> usize {
        let (b, tq, _, h, _) = self.sizes();
        b * h * (0..tq).map(|i| self.visible(i)).sum::<usize>()
    }

    /// Visits the operands that both passes read.
    fn inputs(&mut self, visit: Visit) {
        visit("q", &mut self.q, Access::Read);
        visit("k", &mut self.k, Access::Read);
        visit("v", &mut self.v, Access::Read);
        if let Some(t) = &mut self.key_mask {
            visit("key_mask", t, Access::Read);
        }
        if let Some(mask) = &mut self.dropout {
            visit("state", &mut mask.state, Access::Read);
        }
    }
}

impl Operation for Attention {
    const NAME: &'static str = "attention";

    fn named_operands(&mut self, visit: Visit) {
        self.inputs(visit);
        visit("out", &mut self.out, Access::Write);
        visit("lse", &mut self.lse, Access::Write);
    }

    fn check(&self) -> Result<()> {
        let (&[b, tq, h, d], &[_, tk, ..]) = (self.q.dims(), self.k.dims()) else {
            bail!(
                "q is {:?} and k is {:?} but both must be [batch, time, heads, head size]",
                self.q.shape(),
                self.k.shape()
            )
        };
        for (what, t, time) in [("q", &self.q, tq), ("k", &self.k, tk), ("v", &self.v, tk), ("out", &self.out, tq)] {
            expect_shape(what, t, &[b, time, h, d])?;
            expect_floats(&[("q", &self.q), (what, t)])?;
            if t.width() != h * d && !t.is_contiguous() {
                bail!("{what} must be contiguous or have rows of all heads, {} elements", h * d);
            }
        }
        if b * tq * tk * h * d == 0 {
            bail!("q is {:?} and k is {:?} but no dimension may be 0", self.q.shape(), self.k.shape());
        }
        expect_shape("lse", &self.lse, &[b, h, tq])?;
        expect_contiguous("lse", &self.lse)?;
        expect_accumulator(&self.q, &[("lse", &self.lse)])?;
        if self.causal && tk < tq {
            bail!("causal attention with {tq} queries needs at least {tq} keys, not {tk}");
        }
        if let Some(mask) = &self.key_mask {
            expect_shape("key_mask", mask, &[b, tk])?;
            expect_dtype("key_mask", mask, DType::I32)?;
        }
        self.dropout.map_or(Ok(()), |mask| mask.check())
    }

    fn flops(&self) -> u64 {
        // Two matrix products, and five FLOPs for the softmax of each score.
        (self.pairs() * (4 * self.sizes().4 + 5)) as u64
    }
}

impl Operation for AttentionBackward {
    const NAME: &'static str = "attention_backward";

    fn named_operands(&mut self, visit: Visit) {
        self.forward.inputs(visit);
        visit("out", &mut self.forward.out, Access::Read);
        visit("lse", &mut self.forward.lse, Access::Read);
        visit("dout", &mut self.dout, Access::Read);
        visit("dq", &mut self.dq, Access::Write);
        visit("dk", &mut self.dk, Access::Write);
        visit("dv", &mut self.dv, Access::Write);
        visit("delta", &mut self.delta, Access::Write);
    }

    fn check(&self) -> Result<()> {
        self.forward.check()?;
        let f = &self.forward;
        for (what, t, like) in
            [("dout", &self.dout, &f.q), ("dq", &self.dq, &f.q), ("dk", &self.dk, &f.k), ("dv", &self.dv, &f.v)]
        {
            expect_shape(what, t, like.dims())?;
            expect_floats(&[("q", &f.q), (what, t)])?;
            if t.width() != like.dims()[2] * like.dims()[3] && !t.is_contiguous() {
                let all = like.dims()[2] * like.dims()[3];
                bail!("{what} must be contiguous or have rows of all heads, {all} elements");
            }
        }
        expect_shape("delta", &self.delta, f.lse.dims())?;
        expect_contiguous("delta", &self.delta)?;
        expect_accumulator(&f.q, &[("delta", &self.delta)])
    }

    fn flops(&self) -> u64 {
        // Four matrix products: dP, dV, dQ, dK. Recomputing the scores is not counted; they count in the forward pass.
        (self.forward.pairs() * (8 * self.forward.sizes().4 + 8)) as u64
    }
}
