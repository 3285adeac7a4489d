use super::{
    Access, Operation, Visit, expect_contiguous, expect_dtype, expect_floats, expect_rows, expect_shape, expect_wide,
};
use crate::bail;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// `out[b, t] (+)= table[ids[b, t]] + positions[t]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Embedding {
    /// `[B, T]`, each in `0..V`.
    pub ids: Tensor,
    /// `[V, C]`.
    pub table: Tensor,
    /// `[P, C]` with P >= T.
    pub positions: Option<Tensor>,
    /// `[B, T, C]`.
    pub out: Tensor,
    /// Adds to what `out` holds: a second look-up, such as BERT's token types.
    pub accumulate: bool,
}

impl Operation for Embedding {
    const NAME: &'static str = "embedding";

    fn named_operands(&mut self, visit: Visit) {
        visit("ids", &mut self.ids, Access::Read);
        visit("table", &mut self.table, Access::Read);
        if let Some(t) = &mut self.positions {
            visit("positions", t, Access::Read);
        }
        visit("out", &mut self.out, if self.accumulate { Access::Update } else { Access::Write });
    }

    fn check(&self) -> Result<()> {
        check(&self.ids, &self.out, ("table", Some(&self.table)), ("positions", self.positions.as_ref()))?;
        for (what, t) in [("table", Some(&self.table)), ("positions", self.positions.as_ref())] {
            t.map_or(Ok(()), |t| expect_floats(&[("out", &self.out), (what, t)]))?;
        }
        Ok(())
    }

    fn flops(&self) -> u64 {
        let adds = usize::from(self.positions.is_some()) + usize::from(self.accumulate);
        (adds * self.out.numel()) as u64
    }
}

/// `dtable[ids[b, t]] (+)= dout[b, t]` in the order of (b, t), and `dpositions[t] (+)= sum over b of dout[b, t]`. Sums are wide and
/// rounded once, when they are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmbeddingBackward {
    /// `[B, T]`.
    pub ids: Tensor,
    /// `[B, T, C]`.
    pub dout: Tensor,
    /// `[V, C]`; wide, the gradient of a parameter, or of the type of `dout`: of rows of activations.
    pub dtable: Option<Tensor>,
    /// `[P, C]`, wide.
    pub dpositions: Option<Tensor>,
    /// Adds to what the gradient holds; otherwise rows that no token uses become zero.
    pub accumulate_table: bool,
    pub accumulate_positions: bool,
    /// An id whose look-ups give no gradient (PyTorch's `padding_idx`, as in BERT).
    pub padding: Option<u32>,
}

impl Operation for EmbeddingBackward {
    const NAME: &'static str = "embedding_backward";

    fn named_operands(&mut self, visit: Visit) {
        visit("ids", &mut self.ids, Access::Read);
        visit("dout", &mut self.dout, Access::Read);
        if let Some(t) = &mut self.dtable {
            visit("dtable", t, if self.accumulate_table { Access::Update } else { Access::Write });
        }
        if let Some(t) = &mut self.dpositions {
            visit("dpositions", t, if self.accumulate_positions { Access::Update } else { Access::Write });
        }
    }

    fn check(&self) -> Result<()> {
        check(&self.ids, &self.dout, ("dtable", self.dtable.as_ref()), ("dpositions", self.dpositions.as_ref()))?;
        expect_floats(&[("dout", &self.dout)])?;
        let table = self.dtable.iter().filter(|t| t.dtype() != self.dout.dtype()).map(|t| ("dtable", t));
        for (what, t) in table.chain(self.dpositions.iter().map(|t| ("dpositions", t))) {
            expect_wide(&self.dout, &[(what, t)])?;
        }
        Ok(())
    }

    fn flops(&self) -> u64 {
        let adds = usize::from(self.dtable.is_some()) + usize::from(self.dpositions.is_some());
        (adds * self.dout.numel()) as u64
    }
}

fn check(ids: &Tensor, out: &Tensor, table: (&str, Option<&Tensor>), positions: (&str, Option<&Tensor>)) -> Result<()> {
    expect_dtype("ids", ids, DType::I32)?;
    let &[batch, time] = ids.dims() else { bail!("ids is {:?} but [batch, time] is needed", ids.shape()) };
    expect_contiguous("ids", ids)?;
    let width = out.shape().last();
    expect_shape("out", out, &[batch, time, width])?;
    expect_rows("out", out, batch * time, width)?;
    if let (what, Some(t)) = table {
        expect_rows(what, t, t.dims()[0], width)?;
        if t.dims()[0] == 0 && ids.numel() > 0 {
            bail!("{what} has no rows, but {} ids are looked up", ids.numel());
        }
    }
    if let (what, Some(t)) = positions {
        expect_rows(what, t, t.dims()[0], width)?;
        if t.dims()[0] < time {
            bail!("{time} positions are needed but {what} has {}", t.dims()[0]);
        }
    }
    Ok(())
}
