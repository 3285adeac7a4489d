use super::{
    Access, Mask, Operation, Visit, expect_contiguous, expect_dtype, expect_floats, expect_shape, expect_wide,
};
use crate::bail;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Scaled dot-product attention: `out = dropout(softmax(scale Q K^T + mask)) V`, head by head.
///
/// The T x T matrix exists nowhere: only the log-sum-exp of each row is kept (Dao et al., arXiv 2205.14135). With `causal`,
/// query i sees keys j <= i + Tk - Tq. A row without any visible key gives zeros and lse = -infinity. The index of a
/// probability for dropout is `((b H + h) Tq + i) Tk + j`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// `[B, Tq, H, D]`.
    pub q: Tensor,
    /// `[B, Tk, H, D]`.
    pub k: Tensor,
    pub v: Tensor,
    /// `[B, Tq, H, D]`.
    pub out: Tensor,
    /// `[B, H, Tq]`, wide.
    pub lse: Tensor,
    /// `[B, Tk]`: 0 hides a key.
    pub key_mask: Option<Tensor>,
    pub causal: bool,
    /// Usually 1 / sqrt(D).
    pub scale: f64,
    pub dropout: Option<Mask>,
}

/// With P the probabilities, dP = dout V^T and delta = rowsum(dout out): `dV = P^T dout`, `dS = P (dP - delta)`,
/// `dQ = scale dS K`, `dK = scale dS^T Q`; dropout masks P and dP alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionBackward {
    /// The forward operation.
    pub forward: Attention,
    /// `[B, Tq, H, D]`.
    pub dout: Tensor,
    pub dq: Tensor,
    /// `[B, Tk, H, D]`.
    pub dk: Tensor,
    pub dv: Tensor,
    /// Workspace `[B, H, Tq]`, wide.
    pub delta: Tensor,
}

impl Attention {
    /// `(B, Tq, Tk, H, D)`.
    pub fn sizes(&self) -> (usize, usize, usize, usize, usize) {
        match (self.q.dims(), self.k.dims()) {
            (&[b, tq, h, d], &[_, tk, ..]) => (b, tq, tk, h, d),
            _ => (0, 0, 0, 0, 0),
        }
    }

    /// Keys that query `i` may see, before any key mask.
    pub fn visible(&self, i: usize) -> usize {
        let (_, tq, tk, ..) = self.sizes();
        if self.causal { (i + 1 + tk - tq).min(tk) } else { tk }
    }

    /// Pairs of query and key that are computed.
    fn pairs(&self) -> usize {
        let (b, tq, _, h, _) = self.sizes();
        b * h * (0..tq).map(|i| self.visible(i)).sum::<usize>()
    }

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
            bail!("q is {:?} and k {:?} but [batch, time, heads, head size] is needed", self.q.shape(), self.k.shape())
        };
        for (what, t, time) in [("q", &self.q, tq), ("k", &self.k, tk), ("v", &self.v, tk), ("out", &self.out, tq)] {
            expect_shape(what, t, &[b, time, h, d])?;
            expect_floats(&[("q", &self.q), (what, t)])?;
            if t.width() != h * d && !t.is_contiguous() {
                bail!("the rows of {what} must hold all heads");
            }
        }
        if b * tq * tk * h * d == 0 {
            bail!("q is {:?} and k {:?}: nothing to attend to", self.q.shape(), self.k.shape());
        }
        expect_shape("lse", &self.lse, &[b, h, tq])?;
        expect_contiguous("lse", &self.lse)?;
        expect_wide(&self.q, &[("lse", &self.lse)])?;
        if self.causal && tk < tq {
            bail!("causal attention of {tq} queries needs at least as many keys, not {tk}");
        }
        if let Some(mask) = &self.key_mask {
            expect_shape("key_mask", mask, &[b, tk])?;
            expect_dtype("key_mask", mask, DType::I32)?;
        }
        self.dropout.map_or(Ok(()), |mask| mask.check())
    }

    fn flops(&self) -> u64 {
        // Two products, and five for the softmax of a score.
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
                bail!("the rows of {what} must hold all heads");
            }
        }
        expect_shape("delta", &self.delta, f.lse.dims())?;
        expect_contiguous("delta", &self.delta)?;
        expect_wide(&f.q, &[("delta", &self.delta)])
    }

    fn flops(&self) -> u64 {
        // Four products: dP, dV, dQ, dK. The scores, which kernels compute once more, were counted forward.
        (self.forward.pairs() * (8 * self.forward.sizes().4 + 8)) as u64
    }
}
