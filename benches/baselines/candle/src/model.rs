//! nanoGPT's architecture: pre-LN, tied head, tanh GELU, biases.

use candle_core::{D, DType, Device, Module, Result, Tensor, Var};
use candle_nn::Linear;

/// Sizes of a step.
#[derive(Clone, Copy)]
pub struct Shape {
    pub layers: usize,
    pub heads: usize,
    pub width: usize,
    pub time: usize,
    pub batch: usize,
    pub vocab: usize,
}

impl Shape {
    /// By name or by six numbers.
    ///
    /// # Errors
    /// Neither, or sizes that make no model.
    pub fn named(name: &str) -> std::result::Result<Self, String> {
        let sizes = match name {
            "char" => "6,6,384,256,8,65",
            "small" => "4,4,256,128,16,8192",
            "gpt2" => "12,12,768,512,1,50257",
            other => other,
        };
        let numbers: Vec<usize> = sizes.split(',').filter_map(|n| n.parse().ok()).collect();
        let &[layers, heads, width, time, batch, vocab] = numbers.as_slice() else {
            return Err(format!("--shape {name}: char, small, gpt2, or six sizes L,H,C,T,B,V"));
        };
        if numbers.contains(&0) || !width.is_multiple_of(heads) {
            return Err(format!("--shape {name}: sizes are at least 1, and the width is a multiple of the heads"));
        }
        Ok(Shape { layers, heads, width, time, batch, vocab })
    }

    pub fn sizes(self) -> [usize; 6] {
        [self.layers, self.heads, self.width, self.time, self.batch, self.vocab]
    }

    pub fn params(self) -> usize {
        let c = self.width;
        (self.vocab + self.time) * c + self.layers * (12 * c * c + 13 * c) + 2 * c
    }
}

struct Norm {
    weight: Var,
    bias: Var,
}

struct Block {
    norms: [Norm; 2],
    /// Q, K and V.
    attn: [Linear; 3],
    proj: Linear,
    fc: Linear,
    out: Linear,
}

pub struct Gpt {
    shape: Shape,
    wte: Var,
    wpe: Var,
    blocks: Vec<Block>,
    norm: Norm,
    /// `[T, T]`: minus infinity beyond the diagonal.
    mask: Tensor,
}

/// Makes parameters and remembers them.
struct OperandAllocator(Vec<Var>);

impl OperandAllocator {
    fn normal(&mut self, dims: (usize, usize)) -> Result<Var> {
        self.keep(Var::randn(0f32, 0.02, dims, &Device::Cpu)?)
    }

    fn constant(&mut self, value: f32, n: usize) -> Result<Var> {
        self.keep(Var::from_tensor(&Tensor::full(value, n, &Device::Cpu)?)?)
    }

    fn keep(&mut self, var: Var) -> Result<Var> {
        self.0.push(var.clone());
        Ok(var)
    }

    fn linear(&mut self, from: usize, to: usize) -> Result<Linear> {
        let (weight, bias) = (self.normal((to, from))?, self.constant(0.0, to)?);
        Ok(Linear::new(weight.as_tensor().clone(), Some(bias.as_tensor().clone())))
    }

    fn norm(&mut self, n: usize) -> Result<Norm> {
        Ok(Norm { weight: self.constant(1.0, n)?, bias: self.constant(0.0, n)? })
    }

    fn block(&mut self, c: usize) -> Result<Block> {
        let mut linear = |from, to| self.linear(from, to);
        let attn = [linear(c, c)?, linear(c, c)?, linear(c, c)?];
        let (proj, fc, out) = (linear(c, c)?, linear(c, 4 * c)?, linear(4 * c, c)?);
        Ok(Block { norms: [self.norm(c)?, self.norm(c)?], attn, proj, fc, out })
    }
}

/// `x - max(x)` along the last axis, without the maximum's gradient: it cancels.
fn below_maximum(x: &Tensor) -> Result<Tensor> {
    x.broadcast_sub(&x.detach().max_keepdim(D::Minus1)?)
}

fn softmax(x: &Tensor) -> Result<Tensor> {
    let exp = below_maximum(x)?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

/// The mean of `log(sum(exp(x))) - x[label]`, so that no second matrix of that size is made.
fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    let x = below_maximum(logits)?;
    let of_labels = x.gather(&labels.unsqueeze(1)?, 1)?.squeeze(1)?;
    (x.exp()?.sum(D::Minus1)?.log()? - of_labels)?.mean_all()
}

/// `x sigmoid(2 z)` with z the argument of GELU's tanh form: the same function, and no powers in the backward pass, which
/// candle's own `gelu` takes element by element.
fn gelu(x: &Tensor) -> Result<Tensor> {
    let scale = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
    x * candle_nn::ops::sigmoid(&(x * x.sqr()?.affine(0.044715 * scale, scale)?)?)?
}

impl Norm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        candle_nn::ops::layer_norm_slow(x, &self.weight, &self.bias, 1e-5)
    }
}

impl Block {
    fn forward(&self, x: &Tensor, mask: &Tensor, shape: Shape) -> Result<Tensor> {
        let Shape { heads, width, time, batch, .. } = shape;
        let normed = self.norms[0].forward(x)?;
        let heads_of = |linear: &Linear| {
            linear.forward(&normed)?.reshape((batch, time, heads, width / heads))?.transpose(1, 2)?.contiguous()
        };
        let [q, k, v] = &self.attn;
        // Scaling q takes fewer passes than scaling the scores.
        let q = (heads_of(q)? * (1.0 / ((width / heads) as f64).sqrt()))?;
        let scores = q.matmul(&heads_of(k)?.t()?)?.broadcast_add(mask)?;
        let y = softmax(&scores)?.matmul(&heads_of(v)?)?;
        let y = y.transpose(1, 2)?.contiguous()?.reshape((batch * time, width))?;
        let x = (x + self.proj.forward(&y)?)?;
        let hidden = self.fc.forward(&self.norms[1].forward(&x)?)?;
        let hidden = gelu(&hidden)?;
        x + self.out.forward(&hidden)?
    }
}

impl Gpt {
    /// The model, and its parameters.
    ///
    /// # Errors
    /// Those of candle.
    pub fn new(shape: Shape) -> Result<(Self, Vec<Var>)> {
        let Shape { layers, width, time, vocab, .. } = shape;
        let mut maker = OperandAllocator(Vec::new());
        let (wte, wpe) = (maker.normal((vocab, width))?, maker.normal((time, width))?);
        let blocks = (0..layers).map(|_| maker.block(width)).collect::<Result<_>>()?;
        let norm = maker.norm(width)?;
        let beyond = |row: usize| (0..time).map(move |column| if column > row { f32::NEG_INFINITY } else { 0.0 });
        let mask = Tensor::from_vec((0..time).flat_map(beyond).collect::<Vec<_>>(), (time, time), &Device::Cpu)?;
        Ok((Gpt { shape, wte, wpe, blocks, norm, mask }, maker.0))
    }

    /// The mean cross-entropy of ids and labels, both `[batch * time]`.
    ///
    /// # Errors
    /// Those of candle.
    pub fn loss(&self, ids: &Tensor, labels: &Tensor) -> Result<Tensor> {
        let Shape { width, time, batch, .. } = self.shape;
        let tokens = self.wte.index_select(ids, 0)?.reshape((batch, time, width))?;
        let mut x = tokens.broadcast_add(&self.wpe)?.reshape((batch * time, width))?;
        for block in &self.blocks {
            x = block.forward(&x, &self.mask, self.shape)?;
        }
        let logits = self.norm.forward(&x)?.matmul(&self.wte.t()?)?;
        cross_entropy(&logits, labels)?.to_dtype(DType::F32)
    }
}
