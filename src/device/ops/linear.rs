use super::{Access, Activation, Operation, expect_floats, expect_shape, expect_wide};
use crate::bail;
use crate::error::Result;
use crate::tensor::Tensor;

/// What happens to a product before the residual is added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Epilogue {
    None,
    /// `f(z)`; `pre` keeps z for the backward pass.
    Activate {
        kind: Activation,
        pre: Option<Tensor>,
    },
    /// `z * f'(pre)`: the gradient through an activation, fused with the product that makes it.
    ActivateGrad {
        kind: Activation,
        pre: Tensor,
    },
}

/// A matrix product with its surroundings: `out (+)= epilogue(op(a) op(b) + bias) + residual`.
///
/// Forward, the gradient of the input and the gradient of the weight are all this operation, by transposes:
/// y = x W is NN, dx = dy W^T is NT, dW = x^T dy is TN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// `[M, K]`, or `[K, M]` when `ta`. Outer dimensions count as rows.
    pub a: Tensor,
    /// `[K, N]`, or `[N, K]` when `tb`.
    pub b: Tensor,
    /// `[M, N]`; of the type of `a`, or wide: the gradient of a weight.
    pub out: Tensor,
    pub ta: bool,
    pub tb: bool,
    /// `[N]`.
    pub bias: Option<Tensor>,
    pub epilogue: Epilogue,
    /// `[M, N]`; may be `out` itself when there is no epilogue.
    pub residual: Option<Tensor>,
    /// Adds to what `out` holds; then without bias, epilogue and residual.
    pub accumulate: bool,
}

impl Linear {
    /// A bare product.
    pub fn product(a: Tensor, b: Tensor, out: Tensor, (ta, tb): (bool, bool)) -> Self {
        Linear { a, b, out, ta, tb, bias: None, epilogue: Epilogue::None, residual: None, accumulate: false }
    }

    /// `(M, N, K)`.
    pub fn sizes(&self) -> (usize, usize, usize) {
        let matrix = |t: &Tensor| (t.rows(), t.width);
        let (m, k) = if self.ta { swap(matrix(&self.a)) } else { matrix(&self.a) };
        let n = if self.tb { matrix(&self.b).0 } else { matrix(&self.b).1 };
        (m, n, k)
    }
}

fn swap((a, b): (usize, usize)) -> (usize, usize) {
    (b, a)
}

impl Operation for Linear {
    const NAME: &'static str = "linear";

    fn operands(&mut self, visit: &mut dyn FnMut(&mut Tensor, Access)) {
        visit(&mut self.a, Access::Read);
        visit(&mut self.b, Access::Read);
        if let Some(t) = &mut self.bias {
            visit(t, Access::Read);
        }
        match &mut self.epilogue {
            Epilogue::None | Epilogue::Activate { pre: None, .. } => {}
            Epilogue::Activate { pre: Some(pre), .. } => visit(pre, Access::Write),
            Epilogue::ActivateGrad { pre, .. } => visit(pre, Access::Read),
        }
        if let Some(t) = &mut self.residual {
            visit(t, Access::Read);
        }
        visit(&mut self.out, if self.accumulate { Access::Update } else { Access::Write });
    }

    fn check(&self) -> Result<()> {
        let (m, n, k) = self.sizes();
        let inner = if self.tb { self.b.width } else { self.b.rows() };
        if inner != k {
            bail!("the inner sizes differ: {k} and {inner} (a {:?}, b {:?})", self.a.shape, self.b.shape);
        }
        for (what, t) in [("out", Some(&self.out)), ("residual", self.residual.as_ref()), ("pre", self.pre())] {
            if let Some(t) = t
                && (t.rows(), t.width) != (m, n)
            {
                bail!("{what} is {:?} but [{m}, {n}] is needed", t.shape);
            }
        }
        if let Some(bias) = &self.bias {
            expect_shape("bias", bias, &[n])?;
        }
        if self.accumulate && (self.bias.is_some() || self.residual.is_some() || self.epilogue != Epilogue::None) {
            bail!("an accumulating product has no bias, epilogue or residual");
        }
        let first = ("a", &self.a);
        expect_floats(&[first, ("b", &self.b)])?;
        if self.out.dtype != self.a.dtype {
            expect_wide(&self.a, &[("out", &self.out)])?;
        }
        for t in [self.bias.as_ref(), self.residual.as_ref(), self.pre()].into_iter().flatten() {
            expect_floats(&[first, ("operand", t)])?;
        }
        Ok(())
    }

    fn flops(&self) -> u64 {
        let (m, n, k) = self.sizes();
        let pointwise = match self.epilogue {
            Epilogue::None => 0,
            _ => 10 * m * n,
        };
        (2 * m * n * k + pointwise) as u64
    }

    fn in_place(&self) -> Option<(Tensor, Tensor)> {
        self.residual.filter(|_| self.epilogue == Epilogue::None).map(|residual| (residual, self.out))
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
}
