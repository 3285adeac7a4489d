//! Ownership of gradients: along a residual stream one buffer is passed on, and copied only where it is written.

use crate::gradients::linear::count;
use crate::gradients::rig::{Rig, loss_of};
use vcycle::device::ops::Activation;
use vcycle::tape::{Affine, Tape, Var};

/// x is an input of a matrix product, the residual of the same product, and the residual of another one.
#[test]
fn a_value_used_three_times() {
    let mut rig = Rig::with(1, &[&[3, 4], &[4, 4], &[4, 4], &[4, 4], &[4, 5]]);
    rig.ids(&[3], 5);
    rig.check(|t, p, i| {
        let x = t.linear(p[0], p[1], Affine::default());
        let y = t.linear(x, p[2], Affine::default().residual(x));
        let z = t.linear(y, p[3], Affine::default().activation(Activation::GeluErf).residual(x));
        vec![loss_of(t, z, p[4], i[0])]
    });
    assert!(count(&rig, "accumulate") > 0, "a shared gradient is copied before it is added to");
}

/// x is used by three losses, so its gradient is a sum of three.
#[test]
fn a_value_with_three_losses() {
    let mut rig = Rig::with(2, &[&[3, 4], &[4, 4], &[4, 5], &[4, 5], &[4, 5]]);
    rig.ids(&[3], 5);
    rig.check(|t, p, i| {
        let x = t.linear(p[0], p[1], Affine::default());
        (2..5).map(|head| loss_of(t, x, p[head], i[0])).collect()
    });
}

/// Both inputs of the fused norm share the gradient of the sum. x is itself a matrix product with a residual, with or
/// without an activation whose backward operation overwrites its gradient in place.
#[test]
fn the_norm_of_a_product_with_residual() {
    for activation in [None, Some(Activation::GeluTanh)] {
        let mut rig = Rig::with(3, &[&[3, 4], &[4, 4], &[4], &[4, 4], &[4], &[4], &[4, 5]]);
        rig.ids(&[3], 5);
        rig.check(|t, p, i| {
            let stream = t.linear(p[0], p[1], Affine::default());
            let x = t.linear(stream, p[3], Affine { activation, ..Affine::bias(p[2]) }.residual(stream));
            let (sum, y) = t.residual_layernorm(x, stream, p[4], p[5], 1e-2);
            let more = t.linear(y, p[3], Affine::default().residual(sum));
            vec![loss_of(t, more, p[6], i[0])]
        });
        assert!(count(&rig, "accumulate") > 0);
    }
}

/// The norm and the sum of one fused norm are x and residual of the next, so both get the same gradient. The backward
/// operation of the first norm then writes one while it reads the other.
#[test]
fn the_norm_of_a_norm() {
    let mut rig = Rig::with(4, &[&[3, 4], &[3, 4], &[4], &[4], &[4], &[4], &[4, 5]]);
    rig.ids(&[3], 5);
    rig.check(|t, p, i| {
        let (sum, y) = t.residual_layernorm(p[0], p[1], p[2], p[3], 1e-2);
        let (sum, y) = t.residual_layernorm(y, sum, p[4], p[5], 1e-2);
        let both = t.dropout(y, Some(sum), 0.3);
        vec![loss_of(t, both, p[6], i[0])]
    });
}

/// x + x, in every operation that adds.
#[test]
fn the_same_value_on_both_sides() {
    let mut rig = Rig::with(5, &[&[3, 4], &[4, 4], &[4], &[4], &[4, 5]]);
    rig.ids(&[3], 5);
    rig.check(|t, p, i| {
        let x = t.linear(p[0], p[1], Affine::default());
        let (sum, y) = t.residual_layernorm(x, x, p[2], p[3], 1e-2);
        let twice = t.dropout(sum, Some(sum), 0.0);
        let z = t.linear(y, p[1], Affine::default().residual(twice));
        vec![loss_of(t, z, p[4], i[0])]
    });
    // The same in evaluation, where nothing is saved for the backward pass and memory is shared as much as possible.
    // The loss must be that of the training step.
    let record = |t: &mut Tape, p: &[Var], i: &[Var]| {
        let x = t.linear(p[0], p[1], Affine::default());
        let (sum, y) = t.residual_layernorm(x, x, p[2], p[3], 1e-2);
        let square = t.linear(sum, p[1], Affine::default().residual(sum));
        let twice = t.dropout(square, Some(square), 0.0);
        let z = t.linear(y, p[1], Affine::default().residual(twice));
        vec![loss_of(t, z, p[4], i[0])]
    };
    assert_eq!(rig.evaluate(&record), rig.outcome(&record).loss);
}

/// Parameters in place of activations: as a residual, and as both inputs of a norm.
#[test]
fn parameters_in_the_stream() {
    let mut rig = Rig::with(6, &[&[3, 4], &[3, 4], &[4], &[4], &[4, 4], &[4, 5]]);
    rig.ids(&[3], 5);
    rig.check(|t, p, i| {
        let (sum, y) = t.residual_layernorm(p[0], p[1], p[2], p[3], 1e-2);
        let z = t.linear(y, p[4], Affine::default().residual(p[0]));
        let (again, w) = t.residual_layernorm(z, p[0], p[2], p[3], 1e-2);
        let all = t.dropout(again, Some(sum), 0.0);
        let all = t.dropout(w, Some(all), 0.0);
        vec![loss_of(t, all, p[5], i[0])]
    });
}

/// A parameter that no loss depends on has gradient zero, whatever its memory held before.
#[test]
fn a_parameter_that_is_not_used() {
    let mut rig = Rig::with(11, &[&[3, 4], &[4, 5], &[2, 7]]);
    rig.ids(&[3], 5);
    let gradients = rig.outcome(&|t: &mut Tape, p: &[Var], i: &[Var]| vec![loss_of(t, p[0], p[1], i[0])]).gradients;
    assert_eq!(gradients[2], vec![0.0; 14]);
}
