use crate::gradients::rig::{Rig, loss_of};
use vcycle::device::ops::Activation;
use vcycle::tape::{Affine, Weight};

/// x `[2, 3, 5]`, weight in both layouts, bias `[4]`, residual `[2, 3, 4]`, head `[4, 7]`.
fn rig(weight: Weight, pad: usize) -> Rig {
    let mut rig = Rig::new(1);
    let w: &[usize] = if weight == Weight::InOut { &[5, 4] } else { &[4, 5] };
    for dims in [&[2, 3, 5][..], w, &[4], &[2, 3, 4], &[4, 7]] {
        rig.param(dims, if dims.len() > 1 { pad } else { 0 });
    }
    rig.ids(&[2, 3], 7);
    rig
}

const ACTIVATIONS: [Option<Activation>; 4] =
    [None, Some(Activation::GeluTanh), Some(Activation::GeluErf), Some(Activation::Tanh)];

#[test]
fn with_bias_activation_and_residual() {
    for (weight, pad) in [(Weight::InOut, 0), (Weight::OutIn, 3)] {
        for activation in ACTIVATIONS {
            rig(weight, pad).check(|t, p, i| {
                let with = Affine { bias: Some(p[2]), activation, residual: Some(p[3]), weight, pad };
                let y = t.linear(p[0], p[1], with);
                vec![loss_of(t, y, p[4], i[0])]
            });
        }
    }
}

/// If a matrix product is the only consumer, its backward pass computes the derivative of the activation in an
/// epilogue.
#[test]
fn an_activation_with_one_consumer() {
    for activation in ACTIVATIONS {
        for weight in [Weight::InOut, Weight::OutIn] {
            let mut rig =
                Rig::with(2, &[&[3, 5], if weight == Weight::InOut { &[5, 6] } else { &[6, 5] }, &[6], &[6, 4]]);
            rig.ids(&[3], 4);
            rig.check(|t, p, i| {
                let y = t.linear(p[0], p[1], Affine { activation, weight, ..Affine::bias(p[2]) });
                vec![loss_of(t, y, p[3], i[0])]
            });
            assert_eq!(count(&rig, "activation"), 0, "the derivative is fused");
        }
    }
}

/// With two consumers, their gradients are added first, and the activation has a separate backward operation.
#[test]
fn an_activation_with_two_consumers() {
    for kind in [Activation::GeluTanh, Activation::GeluErf, Activation::Tanh] {
        let mut rig = Rig::with(3, &[&[3, 5], &[5, 6], &[6], &[6, 4], &[6, 3]]);
        rig.ids(&[3], 3);
        rig.check(|t, p, i| {
            let y = t.linear(p[0], p[1], Affine::bias(p[2]).activation(kind));
            vec![loss_of(t, y, p[3], i[0]), loss_of(t, y, p[4], i[0])]
        });
        assert_eq!(count(&rig, "activation"), 1);
    }
}

/// A weight is used twice, and a value is both input and residual.
#[test]
fn a_weight_and_a_value_used_twice() {
    let mut rig = Rig::with(4, &[&[3, 5], &[5, 5], &[5], &[5, 4]]);
    rig.ids(&[3], 4);
    rig.check(|t, p, i| {
        let once = t.linear(p[0], p[1], Affine::bias(p[2]).residual(p[0]));
        let twice = t.linear(once, p[1], Affine::bias(p[2]).activation(Activation::GeluTanh).residual(once));
        vec![loss_of(t, twice, p[3], i[0])]
    });
}

/// Matrices of one element, one row and one column.
#[test]
fn sizes_of_one() {
    for (m, n, k) in [(1, 1, 1), (1, 3, 1), (4, 1, 2)] {
        let mut rig = Rig::with(5, &[&[m, k], &[k, n], &[n], &[n, 3]]);
        rig.ids(&[m], 3);
        rig.check(|t, p, i| {
            let y = t.linear(p[0], p[1], Affine::bias(p[2]).activation(Activation::GeluErf));
            vec![loss_of(t, y, p[3], i[0])]
        });
    }
}

/// Returns the number of operations of this name in the step that ran last.
pub fn count(rig: &Rig, name: &str) -> usize {
    rig.tape.placed_ops().iter().filter(|op| op.name() == name).count()
}
