//! AdamW and the multi-level operators.

use super::{Case, Prepared, case};
use crate::bail;
use crate::bench::inputs::OperandAllocator;
use crate::bench::workload::gpt;
use crate::device::ops::{ALIGN, AdamW, Multilevel, Op, Operation, StepState};
use crate::error::Result;
use crate::model::Model;
use crate::model::store::Store;
use crate::multilevel::operators::Placed;
use crate::multilevel::{Rules, Scheme};

/// Returns the case of an AdamW update of `count` parameters.
pub fn adamw(count: usize) -> Vec<Case> {
    vec![case("update", AdamW::NAME, move |maker| {
        let n = count.next_multiple_of(ALIGN);
        let params = maker.accumulator_input(&[n], |x| 0.1 * x)?;
        let grads = maker.accumulator_input(&[n], |x| 0.01 * x)?;
        let m = maker.accumulator_input(&[n], |x| 0.01 * x)?;
        // Second moments are means of squares, so not negative.
        let v = maker.accumulator_input(&[n], |x| 1e-4 * x * x)?;
        let copy = match maker.float == maker.float.accumulator() {
            true => None,
            false => Some(maker.output(&[n], 1)?),
        };
        let decay_mask = maker.mask(n / ALIGN)?;
        let norm = maker.accumulator_input(&[1], |x| 2.0 + x)?;
        let (beta1, beta2) = (0.9, 0.95);
        let correction = |beta: f64| (1.0 - beta.powi(10)) as f32;
        let state =
            StepState { lr: 1e-4, bias1: correction(beta1), bias2: correction(beta2), ..StepState::with_seed(1) };
        let state = maker.state(&state)?;
        let (eps, weight_decay, max_norm) = (1e-8, 0.1, 1.0);
        let op =
            AdamW { params, grads, m, v, copy, decay_mask, norm, state, beta1, beta2, eps, weight_decay, max_norm };
        Ok(Op::from(op).into())
    })]
}

/// Layers, heads, width, context, vocabulary.
type Sizes = [usize; 5];

/// Returns the cases of the multi-level operators on a GPT and one of half its layers and heads.
pub fn multilevel(sizes: Sizes) -> Vec<Case> {
    vec![
        case("coalesce", Multilevel::NAME, move |maker| operator(maker, sizes, None)),
        case("interpolate", Multilevel::NAME, move |maker| operator(maker, sizes, Some(0.25))),
    ]
}

fn operator(
    maker: &mut OperandAllocator,
    [layers, heads, width, context, vocab]: Sizes,
    alpha: Option<f64>,
) -> Result<Prepared> {
    if !layers.is_multiple_of(2) || !heads.is_multiple_of(2) {
        bail!("{layers} layers and {heads} heads: both are halved, so both must be even");
    }
    let big = gpt([layers, heads, width, context, vocab])?;
    let small = big.resized(layers / 2, heads / 2)?;
    let big = store(maker, big.table().clone())?;
    let small = store(maker, small.table().clone())?;
    let placed = Placed::new(maker.device, (&big, &small), alpha, &Scheme::default(), &Rules::default())?;
    let op = placed.op;
    placed.tables().for_each(|t| {
        maker.adopt(t);
    });
    Ok(op.into())
}

/// Allocates parameters with random values; regular initial values would be partly zeros.
fn store(maker: &mut OperandAllocator, table: crate::model::params::ParamTable) -> Result<Store> {
    let store = Store::new(table, maker.device)?;
    let flat = maker.adopt(store.flat());
    maker.fill(&flat, |x| 0.1 * x)?;
    Ok(store)
}
