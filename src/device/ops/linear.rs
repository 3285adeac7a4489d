use super::{Access, Activation, Operation, Visit, expect_floats, expect_shape, expect_wide};
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
    ///
    /// `value` gets f(pre) again, for the gradient of the next weight: then nobody has to keep what the forward pass made of
    /// it, and where pre dies here it may be `pre` itself. Both come of one exponential, so it costs a write.
    ///
    /// In f32 it has the bits of the forward pass. In bf16 that computed f of z before z was rounded to `pre`, with or
    /// without a backward pass to come; here it is f of `pre`, at the same point as the derivative: off by half a unit of
    /// `pre` more, as the derivative is, and rounded as often.
    ActivateGrad {
        kind: Activation,
        pre: Tensor,
        value: Option<Tensor>,
    },
}

/// A matrix product with its surroundings: `out (+)= epilogue(op(a) op(b) + bias) + residual`.
///
/// Forward, the gradient of the input and the gradient of the weight are all this operation, by transposes:
/// y = x W is NN, dx = dy W^T is NT, dW = x^T dy is TN.
///
/// Products come in batches: `batch` pairs of matrices that lie one after another as blocks of rows. All rows of an operand
/// keep one pitch, so its matrix z begins z times the rows of one further. They share the bias.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Linear {
    /// `[batch x M, K]`, or `[batch x K, M]` when `ta`. Outer dimensions count as rows.
    pub a: Tensor,
    /// `[batch x K, N]`, or `[batch x N, K]` when `tb`.
    pub b: Tensor,
    /// `[batch x M, N]`; of the type of `a`, or wide: the gradient of a weight.
    pub out: Tensor,
    pub ta: bool,
    pub tb: bool,
    /// Products, each of its own matrices.
    pub batch: usize,
    /// `[N]`.
    pub bias: Option<Tensor>,
    pub epilogue: Epilogue,
    /// As `out`; may be `out` itself when there is no epilogue.
    pub residual: Option<Tensor>,
    /// Adds to what `out` holds; then without bias, epilogue and residual.
    pub accumulate: bool,
}

impl Linear {
    /// A bare product.
    pub fn product(a: Tensor, b: Tensor, out: Tensor, (ta, tb): (bool, bool)) -> Self {
        Linear { a, b, out, ta, tb, batch: 1, bias: None, epilogue: Epilogue::None, residual: None, accumulate: false }
    }

    /// As many products, of matrices that lie one after another.
    #[must_use]
    pub fn batched(self, batch: usize) -> Self {
        Linear { batch, ..self }
    }

    /// `(M, N, K)` of one product.
    pub fn sizes(&self) -> (usize, usize, usize) {
        let matrix = |t: &Tensor| (self.rows(t), t.width());
        let (m, k) = if self.ta { swap(matrix(&self.a)) } else { matrix(&self.a) };
        let n = if self.tb { matrix(&self.b).0 } else { matrix(&self.b).1 };
        (m, n, k)
    }

    /// Rows of one matrix of an operand.
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
            bail!("a batch of no products; a single one is a batch of 1");
        }
        for (what, t) in [("a", &self.a), ("b", &self.b)] {
            if !t.rows().is_multiple_of(self.batch) {
                bail!("a batch of {} products does not divide the {} rows of {what}", self.batch, t.rows());
            }
        }
        let (m, n, k) = self.sizes();
        let inner = if self.tb { self.b.width() } else { self.rows(&self.b) };
        if inner != k {
            bail!("the inner sizes differ: {k} and {inner} (a {:?}, b {:?})", self.a.shape(), self.b.shape());
        }
        let surroundings = [("residual", self.residual.as_ref()), ("pre", self.pre()), ("value", self.value())];
        let Some(all) = self.batch.checked_mul(m) else {
            bail!("{} products of {m} rows are beyond any memory", self.batch)
        };
        for (what, t) in [("out", Some(&self.out))].into_iter().chain(surroundings) {
            if let Some(t) = t
                && (t.rows(), t.width()) != (all, n)
            {
                bail!("{what} is {:?} but [{all}, {n}] is needed", t.shape());
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
        if self.out.dtype() != self.a.dtype() {
            expect_wide(&self.a, &[("out", &self.out)])?;
        }
        for t in [self.bias.as_ref(), self.residual.as_ref(), self.pre(), self.value()].into_iter().flatten() {
            expect_floats(&[first, ("operand", t)])?;
        }
        Ok(())
    }

    fn flops(&self) -> u64 {
        let (m, n, k) = self.sizes();
        // A `value` beside the derivative is one multiplication of the ten.
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
