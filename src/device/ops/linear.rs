use super::{Access, Activation, Operation, Visit, expect_accumulator, expect_floats, expect_shape};
use crate::bail;
use crate::error::Result;
use crate::tensor::Tensor;

/// What is applied to a matrix product `z` before the residual is added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Epilogue {
    /// Nothing.
    None,
    /// An activation, `f(z)`.
    Activate {
        /// The activation function `f`.
        kind: Activation,
        /// Output: saves the pre-activation `z` for the backward pass, `[batch x M, N]`.
        pre: Option<Tensor>,
    },
    /// The gradient through an activation, `z * f'(pre)`, fused into the matrix product that computes the gradient of
    /// its output.
    ///
    /// With `value`, the activation `f(pre)` is recomputed for the gradient of the next weight, so that the forward
    /// pass need not save it. The value and the derivative share one exponential, so this costs only a write.
    ///
    /// In f32, `value` has exactly the bits of the forward pass. In bf16 it may differ: the forward pass computes
    /// `f(z)` before `z` is rounded to `pre` (whether or not a backward pass follows), while `value` is `f(pre)`,
    /// evaluated at the same point as the derivative. So it carries the additional rounding error of `pre`, half a unit
    /// in the last place, like the derivative does; the result is rounded as often as in the forward pass.
    ActivateGrad {
        /// The activation function `f`.
        kind: Activation,
        /// Pre-activation saved by the forward pass, `[batch x M, N]`.
        pre: Tensor,
        /// Output: the recomputed activation `f(pre)`, `[batch x M, N]`. May be the same view as `pre` if `pre` is not
        /// needed afterwards.
        value: Option<Tensor>,
    },
}

/// Matrix product with a fused epilogue (GEMM): `out (+)= epilogue(op(a) op(b) + bias) + residual`, where `op`
/// optionally transposes.
///
/// The forward pass, the gradient of the input and the gradient of the weight differ only in their transposes:
/// `y = x W` is NN, `dx = dy W^T` is NT, `dW = x^T dy` is TN.
///
/// Products may be batched: every operand then holds `batch` matrices one after another as blocks of rows. All rows of
/// an operand have the same pitch, so matrix `z` starts `z` times the rows of one matrix after the first. All products
/// share the bias.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// Left factor, `[batch x M, K]`, or `[batch x K, M]` if `ta`. All but the last dimension count as rows.
    pub a: Tensor,
    /// Right factor, `[batch x K, N]`, or `[batch x N, K]` if `tb`.
    pub b: Tensor,
    /// Output, `[batch x M, N]`, of the type of `a`, or of the accumulator type for the gradient of a weight.
    pub out: Tensor,
    /// Whether `a` is transposed.
    pub ta: bool,
    /// Whether `b` is transposed.
    pub tb: bool,
    /// Number of independent products, at least 1.
    pub batch: usize,
    /// Added to every row of the product, `[N]`.
    pub bias: Option<Tensor>,
    /// Applied to the product after the bias.
    pub epilogue: Epilogue,
    /// Added after the epilogue, `[batch x M, N]`. May be the same view as `out` if there is no epilogue.
    pub residual: Option<Tensor>,
    /// Adds to the contents of `out` instead of overwriting them. Excludes bias, epilogue and residual.
    pub accumulate: bool,
}

impl Linear {
    /// Returns a single product without bias, epilogue or residual.
    pub fn product(a: Tensor, b: Tensor, out: Tensor, (ta, tb): (bool, bool)) -> Self {
        Linear { a, b, out, ta, tb, batch: 1, bias: None, epilogue: Epilogue::None, residual: None, accumulate: false }
    }

    /// Returns the operation with `batch` products, whose matrices lie one after another.
    #[must_use]
    pub fn batched(self, batch: usize) -> Self {
        Linear { batch, ..self }
    }

    /// Returns `(M, N, K)` of one product.
    pub fn sizes(&self) -> (usize, usize, usize) {
        let matrix = |t: &Tensor| (self.rows(t), t.width());
        let (m, k) = if self.ta { swap(matrix(&self.a)) } else { matrix(&self.a) };
        let n = if self.tb { matrix(&self.b).0 } else { matrix(&self.b).1 };
        (m, n, k)
    }

    /// Returns the rows of one matrix of the operand `t`.
    pub fn rows(&self, t: &Tensor) -> usize {
        t.rows().checked_div(self.batch).unwrap_or(0)
    }
}

fn swap((a, b): (usize, usize)) -> (usize, usize) {
    (b, a)
}

impl Operation for Linear {
    const NAME: &'static str = "linear";

    fn named_operands(&mut self, visit: Visit) {
        visit("a", &mut self.a, Access::Read);
        visit("b", &mut self.b, Access::Read);
        if let Some(t) = &mut self.bias {
            visit("bias", t, Access::Read);
        }
        match &mut self.epilogue {
            Epilogue::None | Epilogue::Activate { pre: None, .. } => {}
            Epilogue::Activate { pre: Some(pre), .. } => visit("pre", pre, Access::Write),
            Epilogue::ActivateGrad { pre, value, .. } => {
                visit("pre", pre, Access::Read);
                if let Some(t) = value {
                    visit("value", t, Access::Write);
                }
            }
        }
        if let Some(t) = &mut self.residual {
            visit("residual", t, Access::Read);
        }
        visit("out", &mut self.out, if self.accumulate { Access::Update } else { Access::Write });
    }

    fn check(&self) -> Result<()> {
        if self.batch == 0 {
            bail!("a batch of no products; use a batch of 1 for a single product");
        }
        for (what, t) in [("a", &self.a), ("b", &self.b)] {
            if !t.rows().is_multiple_of(self.batch) {
                bail!("a batch of {} products does not divide the {} rows of {what}", self.batch, t.rows());
            }
        }
        let (m, n, k) = self.sizes();
        let inner = if self.tb { self.b.width() } else { self.rows(&self.b) };
        if inner != k {
            bail!(
                "the inner sizes differ: a has {k} and b has {inner} (a is {:?}, b is {:?})",
                self.a.shape(),
                self.b.shape()
            );
        }
        let epilogue = [("residual", self.residual.as_ref()), ("pre", self.pre()), ("value", self.value())];
        let Some(all) = self.batch.checked_mul(m) else {
            bail!("{} products of {m} rows exceed the address space", self.batch)
        };
        for (what, t) in [("out", Some(&self.out))].into_iter().chain(epilogue) {
            if let Some(t) = t
                && (t.rows(), t.width()) != (all, n)
            {
                bail!("{what} is {:?} but must be [{all}, {n}]", t.shape());
            }
        }
        if let Some(bias) = &self.bias {
            expect_shape("bias", bias, &[n])?;
        }
        if self.accumulate && (self.bias.is_some() || self.residual.is_some() || self.epilogue != Epilogue::None) {
            bail!("an accumulating product cannot have a bias, epilogue or residual");
        }
        let first = ("a", &self.a);
        expect_floats(&[first, ("b", &self.b)])?;
        if self.out.dtype() != self.a.dtype() {
            expect_accumulator(&self.a, &[("out", &self.out)])?;
        }
        for t in [self.bias.as_ref(), self.residual.as_ref(), self.pre(), self.value()].into_iter().flatten() {
            expect_floats(&[first, ("operand", t)])?;
        }
        Ok(())
    }

    fn flops(&self) -> u64 {
        let (m, n, k) = self.sizes();
        // The ten FLOPs of the epilogue include the one multiplication that a recomputed `value` adds to the
        // derivative.
        let pointwise = match self.epilogue {
            Epilogue::None => 0,
            _ => 10 * m * n,
        };
        (self.batch * (2 * m * n * k + pointwise)) as u64
    }

    fn in_place(&self) -> Option<(Tensor, Tensor)> {
        match self.epilogue {
            Epilogue::None => self.residual.map(|residual| (residual, self.out)),
            Epilogue::Activate { .. } => None,
            Epilogue::ActivateGrad { pre, value, .. } => value.map(|value| (pre, value)),
        }
    }
}

impl Linear {
    fn pre(&self) -> Option<&Tensor> {
        match &self.epilogue {
            Epilogue::None => None,
            Epilogue::Activate { pre, .. } => pre.as_ref(),
            Epilogue::ActivateGrad { pre, .. } => Some(pre),
        }
    }

    fn value(&self) -> Option<&Tensor> {
        match &self.epilogue {
            Epilogue::ActivateGrad { value, .. } => value.as_ref(),
            _ => None,
        }
    }
}
