//! Matrix products and sums over rows.

use super::Reference;
use super::pointwise::{activate, activate_grad};
use crate::device::ops::{ColumnSum, Epilogue, Linear};
use crate::error::Result;

impl Reference {
    pub(super) fn linear(&self, op: &Linear) -> Result<()> {
        let (m, n, k) = op.sizes();
        let (a, b, out) = (self.f(&op.a)?, self.f(&op.b)?, self.f(&op.out)?);
        let (bias, residual) = (self.maybe(&op.bias)?, self.maybe(&op.residual)?);
        let pre = match op.epilogue {
            Epilogue::Activate { pre, .. } => self.maybe(&pre)?,
            Epilogue::ActivateGrad { pre, .. } => Some(self.f(&pre)?),
            Epilogue::None => None,
        };
        let value = match op.epilogue {
            Epilogue::ActivateGrad { value, .. } => self.maybe(&value)?,
            _ => None,
        };
        // `i` counts the rows of all matrices of `out`.
        for i in 0..op.batch * m {
            let (matrix, row) = (i / m, i % m);
            let (a_first, b_first) = (matrix * op.rows(&op.a), matrix * op.rows(&op.b));
            for j in 0..n {
                let mut z = 0.0;
                for l in 0..k {
                    let left = if op.ta { a.get(a_first + l, row) } else { a.get(a_first + row, l) };
                    let right = if op.tb { b.get(b_first + j, l) } else { b.get(b_first + l, j) };
                    z += left * right;
                }
                z += bias.map_or(0.0, |b| b.get(0, j));
                match op.epilogue {
                    Epilogue::None => {}
                    Epilogue::Activate { kind, .. } => {
                        if let Some(pre) = pre {
                            pre.set(i, j, z);
                        }
                        z = activate(kind, z);
                    }
                    Epilogue::ActivateGrad { kind, .. } => {
                        let x = pre.map_or(0.0, |p| p.get(i, j));
                        z *= activate_grad(kind, x);
                        if let Some(value) = value {
                            value.set(i, j, activate(kind, x));
                        }
                    }
                }
                z += residual.map_or(0.0, |r| r.get(i, j));
                out.set(i, j, if op.accumulate { out.get(i, j) + z } else { z });
            }
        }
        Ok(())
    }

    pub(super) fn column_sum(&self, op: &ColumnSum) -> Result<()> {
        let (x, out) = (self.f(&op.x)?, self.f(&op.out)?);
        for c in 0..x.width() {
            let start = if op.accumulate { out.get(0, c) } else { 0.0 };
            out.set(0, c, (0..x.rows()).fold(start, |sum, r| sum + x.get(r, c)));
        }
        Ok(())
    }
}
