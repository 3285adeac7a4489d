//! Attention, LayerNorm and cross-entropy.

use super::{Case, Prepared, case};
use crate::bench::inputs::OperandAllocator;
use crate::device::ops::{
    Accumulate, Attention, AttentionBackward, CrossEntropy, LayerNorm, LayerNormBackward, Op, Operation,
};
use crate::error::Result;
use crate::tensor::Tensor;

/// Batch, heads, time, head size.
type Sizes = [usize; 4];

/// Returns the cases of attention: forward and backward.
pub fn attention(sizes: Sizes, causal: bool) -> Vec<Case> {
    vec![
        case("forward", Attention::NAME, move |maker| Ok(Op::from(forward(maker, sizes, causal)?).into())),
        case("backward", AttentionBackward::NAME, move |maker| backward(maker, sizes, causal)),
    ]
}

/// Splits one buffer by columns into Q, K and V, or into their gradients.
fn split(fused: Tensor, [batch, heads, time, size]: Sizes) -> [Tensor; 3] {
    std::array::from_fn(|i| fused.columns(i * heads * size, heads * size).reshape(&[batch, time, heads, size]))
}

fn forward(maker: &mut OperandAllocator, sizes: Sizes, causal: bool) -> Result<Attention> {
    let [batch, heads, time, size] = sizes;
    let width = heads * size;
    let [q, k, v] = split(maker.input(&[batch, time, 3 * width], 8)?, sizes);
    let out = maker.output(&[batch, time, width], 8)?.reshape(&[batch, time, heads, size]);
    let lse = maker.accumulator_output(&[batch, heads, time], 1)?;
    let scale = 1.0 / (size as f64).sqrt();
    Ok(Attention { q, k, v, out, lse, key_mask: None, causal, scale, dropout: None })
}

fn backward(maker: &mut OperandAllocator, sizes: Sizes, causal: bool) -> Result<Prepared> {
    let [batch, heads, time, size] = sizes;
    let forward = forward(maker, sizes, causal)?;
    // The backward pass reads the output and log-sum-exp of the forward pass.
    maker.device.run(&forward.into())?;
    let dout = maker.input(&[batch, time, heads * size], 8)?.reshape(&[batch, time, heads, size]);
    let [dq, dk, dv] = split(maker.output(&[batch, time, 3 * heads * size], 8)?, sizes);
    let delta = maker.accumulator_output(&[batch, heads, time], 1)?;
    Ok(Op::from(AttentionBackward { forward, dout, dq, dk, dv, delta }).into())
}

/// Returns the cases of LayerNorm: forward and backward.
pub fn layernorm(rows: usize, width: usize) -> Vec<Case> {
    vec![
        case("forward", LayerNorm::NAME, move |maker| Ok(Op::from(norm(maker, rows, width)?).into())),
        case("backward", LayerNormBackward::NAME, move |maker| norm_backward(maker, rows, width)),
    ]
}

fn norm(maker: &mut OperandAllocator, rows: usize, width: usize) -> Result<LayerNorm> {
    let x = maker.input(&[rows, width], 8)?;
    let (weight, bias) = (maker.input(&[width], 1)?, maker.input(&[width], 1)?);
    let out = maker.output(&[rows, width], 8)?;
    let (mean, rstd) = (maker.accumulator_output(&[rows], 1)?, maker.accumulator_output(&[rows], 1)?);
    Ok(LayerNorm { x, residual: None, sum: None, weight, bias, out, mean, rstd, eps: 1e-5 })
}

fn norm_backward(maker: &mut OperandAllocator, rows: usize, width: usize) -> Result<Prepared> {
    let forward = norm(maker, rows, width)?;
    maker.device.run(&forward.into())?;
    let LayerNorm { x, weight, mean, rstd, .. } = forward;
    let (dout, dx) = (maker.input(&[rows, width], 8)?, maker.input(&[rows, width], 8)?);
    let (dweight, dbias) = (maker.accumulator_output(&[width], 1)?, maker.accumulator_output(&[width], 1)?);
    let partials = maker.accumulator_output(&[LayerNormBackward::partials(rows), 2 * width], 1)?;
    let op = LayerNormBackward {
        dout,
        x,
        weight,
        mean,
        rstd,
        dx,
        accumulate_dx: true,
        dweight,
        dbias,
        accumulate: false,
        partials,
    };
    Ok(Op::from(op).into())
}

/// Returns the case of cross-entropy. The gradient overwrites the logits, so a copy restores them before each run.
pub fn cross_entropy(rows: usize, vocab: usize) -> Vec<Case> {
    vec![case("loss and gradient", CrossEntropy::NAME, move |maker| {
        let (fresh, logits) = (maker.input(&[rows, vocab], 128)?, maker.output(&[rows, vocab], 128)?);
        let labels = maker.integers(rows, vocab)?;
        let (losses, loss) = (maker.accumulator_output(&[rows], 1)?, maker.accumulator_output(&[1], 1)?);
        let (dlogits, ignore) = (Some(logits), -100);
        let op = CrossEntropy {
            logits,
            labels,
            mix: None,
            scored: None,
            losses,
            loss,
            first: 0,
            dlogits,
            ignore,
            smoothing: 0.0,
            weight: 1.0,
        };
        let before = Some(Op::from(Accumulate { x: fresh, out: logits, add: false }));
        Ok(Prepared { before, op: op.into() })
    })]
}
