//! Recomputation does not change any bit of a gradient. It costs FLOPs, which are reported separately, and saves
//! memory.

use crate::gradients::rig::{Rig, loss_of};
use crate::gradients::stack::Stack;
use vcycle::device::ops::Activation;
use vcycle::tape::{Affine, LossOptions, StepCost, Tape, Var};

fn stack_rig(stack: &Stack) -> Rig {
    let mut rig = Rig::new(9);
    stack.params().iter().for_each(|dims| rig.param(dims, 0));
    rig.ids(&[2, stack.time], stack.vocab);
    rig.ids(&[2, stack.time], stack.vocab);
    rig
}

#[test]
fn a_deep_stack() {
    for dropout in [0.0, 0.2] {
        let plain = Stack { layers: 8, heads: 2, width: 8, vocab: 11, time: 6, dropout, segments: false };
        let run = |stack: Stack| {
            let mut rig = stack_rig(&stack);
            let outcome =
                rig.outcome(&|t: &mut Tape, p: &[Var], i: &[Var]| vec![stack.loss(t, p, i[0], i[1], &|_, _| {})]);
            (outcome, rig.tape.cost())
        };
        let (kept, cost) = run(plain);
        let (again, recomputed) = run(Stack { segments: true, ..plain });
        assert_eq!(kept, again, "the same bits with and without segments");
        assert_eq!(cost.model_flops, cost.hardware_flops);
        assert_eq!(cost.model_flops, recomputed.model_flops);
        let extra = (recomputed.hardware_flops - recomputed.model_flops) as f64 / cost.model_flops as f64;
        // The forward pass is a third of a step. Head and embedding are not in segments.
        assert!((0.15..0.34).contains(&extra), "{extra} of the step is recomputed");
        let StepCost { activation_bytes, .. } = recomputed;
        let memory = activation_bytes as f64 / cost.activation_bytes as f64;
        assert!(memory < 0.4, "with segments, eight layers need {memory} of the memory without");
    }
}

#[test]
fn finite_differences() {
    let stack = Stack { layers: 2, heads: 1, width: 4, vocab: 5, time: 3, dropout: 0.1, segments: true };
    stack_rig(&stack).check(|t, p, i| vec![stack.loss(t, p, i[0], i[1], &|_, _| {})]);
}

/// A segment in a segment, an empty segment, an activation at the end of a segment, and a loss inside one.
#[test]
fn every_kind_of_segment() {
    let record = |segments: bool| {
        move |t: &mut Tape, p: &[Var], i: &[Var]| {
            let block = |t: &mut Tape, f: &dyn Fn(&mut Tape) -> Var| if segments { t.segment(f) } else { f(t) };
            let gelu = Affine::default().activation(Activation::GeluErf);
            let x = block(t, &|t| t.linear(p[0], p[1], gelu));
            let x = block(t, &|t| {
                let inner = block(t, &|t| t.dropout(x, Some(x), 0.3));
                t.linear(inner, p[2], gelu.residual(x))
            });
            // An empty segment.
            let x = block(t, &|t| t.dropout(x, None, 0.0));
            let side = loss_of(t, x, p[3], i[0]);
            let loss = block(t, &|t| {
                let y = t.linear(x, p[2], gelu);
                let logits = t.linear(y, p[3], Affine::default());
                t.cross_entropy(logits, i[0], LossOptions { smoothing: 0.1, ..LossOptions::default() })
            });
            vec![side, loss]
        }
    };
    let rig = || {
        let mut rig = Rig::with(4, &[&[3, 5], &[5, 5], &[5, 5], &[5, 4]]);
        rig.ids(&[3], 4);
        rig
    };
    assert_eq!(rig().outcome(&record(false)), rig().outcome(&record(true)));
    rig().check(record(true));
}

/// A value inside a segment can be kept, and has the value that the forward pass computed.
#[test]
fn a_kept_value() {
    let mut rig = Rig::with(5, &[&[3, 5], &[5, 5], &[5, 4]]);
    rig.ids(&[3], 4);
    let kept = std::cell::Cell::new(None);
    rig.outcome(&|t: &mut Tape, p: &[Var], i: &[Var]| {
        let y = t.segment(|t| {
            let x = t.linear(p[0], p[1], Affine::default());
            t.keep(x);
            kept.set(Some(x));
            t.linear(x, p[1], Affine::default().activation(Activation::GeluTanh))
        });
        vec![loss_of(t, y, p[2], i[0])]
    });
    let x = rig.tape.value(kept.get().expect("recorded")).expect("kept");
    let got = vcycle::device::read_floats(&mut rig.device, &x).expect("a value");
    let [a, b] = [0, 1].map(|n| vcycle::device::read_floats(&mut rig.device, &rig.params[n].0).expect("a parameter"));
    let want = (0..15).map(|e| (0..5).map(|k| a[e / 5 * 5 + k] * b[k * 5 + e % 5]).sum::<f64>());
    assert_eq!(got, want.collect::<Vec<_>>());
}
