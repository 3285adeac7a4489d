//! Matrix products of linear layers.

use super::{Case, Prepared, case};
use crate::bench::inputs::OperandAllocator;
use crate::device::ops::{Linear, Op, Operation};
use crate::error::Result;

/// Sizes of `y[M, N] = x[M, K] W[K, N]`. If `tied`, W is stored as `[N, K]`.
#[derive(Clone, Copy)]
pub struct Gemm {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub tied: bool,
}

/// Padding of rows of activations and weights, as in a model.
const ROWS: usize = 8;
/// Padding of rows of logits, as in a model.
const LOGITS: usize = 128;

/// Returns the cases of a linear layer without bias or epilogue: forward, gradient of the input, gradient of the
/// weight.
pub fn cases(gemm: Gemm) -> Vec<Case> {
    let name = Linear::NAME;
    vec![
        case("forward", name, move |maker| gemm.forward(maker)),
        case("dx", name, move |maker| gemm.dx(maker)),
        case("dw", name, move |maker| gemm.dw(maker)),
    ]
}

impl Gemm {
    fn pad(self) -> usize {
        if self.tied { LOGITS } else { ROWS }
    }

    fn weight(self) -> [usize; 2] {
        if self.tied { [self.n, self.k] } else { [self.k, self.n] }
    }

    fn forward(self, maker: &mut OperandAllocator) -> Result<Prepared> {
        let (x, w) = (maker.input(&[self.m, self.k], ROWS)?, maker.input(&self.weight(), ROWS)?);
        let y = maker.output(&[self.m, self.n], self.pad())?;
        Ok(Op::from(Linear::product(x, w, y, (false, self.tied))).into())
    }

    fn dx(self, maker: &mut OperandAllocator) -> Result<Prepared> {
        let (dy, w) = (maker.input(&[self.m, self.n], self.pad())?, maker.input(&self.weight(), ROWS)?);
        let dx = maker.output(&[self.m, self.k], ROWS)?;
        Ok(Op::from(Linear::product(dy, w, dx, (false, !self.tied))).into())
    }

    fn dw(self, maker: &mut OperandAllocator) -> Result<Prepared> {
        let (x, dy) = (maker.input(&[self.m, self.k], ROWS)?, maker.input(&[self.m, self.n], self.pad())?);
        let dw = maker.accumulator_output(&self.weight(), ROWS)?;
        let (a, b) = if self.tied { (dy, x) } else { (x, dy) };
        Ok(Op::from(Linear::product(a, b, dw, (true, false))).into())
    }
}
