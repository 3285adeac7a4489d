use super::{
    Access, Operation, Visit, expect_accumulator, expect_contiguous, expect_dtype, expect_floats, expect_rows,
    expect_shape,
};
use crate::bail;
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Embedding look-up, `out[b, t] (+)= table[ids[b, t]] + positions[t]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Embedding {
    /// Row numbers in the table, `[B, T]`, I32, contiguous, each in `0..V`.
    pub ids: Tensor,
    /// Embedding table, `[V, C]`.
    pub table: Tensor,
    /// Position embeddings, `[P, C]` with `P >= T`. The first `T` rows are used.
    pub positions: Option<Tensor>,
    /// Output, `[B, T, C]`.
    pub out: Tensor,
    /// Adds to the contents of `out` instead of overwriting them, for a second look-up such as BERT's token types.
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

/// Backward pass of [`Embedding`]: `dtable[ids[b, t]] (+)= dout[b, t]` and
/// `dpositions[t] (+)= sum over b of dout[b, t]`.
///
/// Additions to a row of the table happen in the order of `(b, t)`. Sums are computed in the accumulator type and
/// rounded once, when they are written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EmbeddingBackward {
    /// Row numbers of the forward look-up, `[B, T]`, I32, contiguous.
    pub ids: Tensor,
    /// Gradient of the forward output, `[B, T, C]`.
    pub dout: Tensor,
    /// Output: gradient of the table, `[V, C]`. Accumulator type if the table is a parameter; the type of `dout` if the
    /// table is an activation whose rows were gathered.
    pub dtable: Option<Tensor>,
    /// Output: gradient of the position embeddings, `[P, C]`, accumulator type.
    pub dpositions: Option<Tensor>,
    /// Adds to the contents of `dtable`. Otherwise `dtable` is overwritten, and rows that no id selects become zero.
    pub accumulate_table: bool,
    /// Adds to the contents of `dpositions`. Otherwise it is overwritten, and rows from `T` on become zero.
    pub accumulate_positions: bool,
    /// An id whose look-ups contribute no gradient to `dtable` (`padding_idx` in PyTorch, used by BERT).
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
            expect_accumulator(&self.dout, &[(what, t)])?;
        }
        Ok(())
    }

    fn flops(&self) -> u64 {
        let adds = usize::from(self.dtable.is_some()) + usize::from(self.dpositions.is_some());
        (adds * self.dout.numel()) as u64
    }
}

/// Checks the ids, the output (or its gradient), the table and the positions, which both passes have.
fn check(ids: &Tensor, out: &Tensor, table: (&str, Option<&Tensor>), positions: (&str, Option<&Tensor>)) -> Result<()> {
    expect_dtype("ids", ids, DType::I32)?;
    let &[batch, time] = ids.dims() else { bail!("ids is {:?} but must be [batch, time]", ids.shape()) };
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
            bail!("{what} has {} rows but {time} positions are needed", t.dims()[0]);
        }
    }
    Ok(())
}
