use crate::gradients::rig::{Rig, loss_of};
use crate::gradients::support::floats;
use vcycle::tape::Affine;

#[test]
fn of_a_parameter() {
    for (rows, width) in [(1, 2), (3, 5), (35, 3)] {
        let mut rig = Rig::with(1, &[&[rows, width], &[width], &[width], &[width, 4]]);
        rig.ids(&[rows], 4);
        rig.check(|t, p, i| {
            let y = t.layernorm(p[0], p[1], p[2], 1e-2);
            vec![loss_of(t, y, p[3], i[0])]
        });
    }
}

/// Both results of the fused operation are used, or only one of them.
#[test]
fn with_residual() {
    for (use_sum, use_norm) in [(true, true), (true, false), (false, true)] {
        let mut rig = Rig::with(2, &[&[3, 5], &[3, 5], &[5, 6]]);
        if use_norm {
            rig.param(&[5], 0);
            rig.param(&[5], 0);
        }
        let (weight, bias) = if use_norm { (3, 4) } else { (0, 0) };
        rig.ids(&[3], 6);
        // If the norm is not used, its weights have no gradient, so they are inputs.
        let vectors = floats(&mut rig.device, &[5], &[1.0; 5]);
        rig.inputs.push(vectors);
        rig.check(|t, p, i| {
            let (w, b) = if use_norm { (p[weight], p[bias]) } else { (i[1], i[1]) };
            let (sum, y) = t.residual_layernorm(p[0], p[1], w, b, 1e-2);
            let mut losses = Vec::new();
            if use_sum {
                losses.push(loss_of(t, sum, p[2], i[0]));
            }
            if use_norm {
                losses.push(loss_of(t, y, p[2], i[0]));
            }
            losses
        });
    }
}

/// Norms that share the weight, the bias, both or neither: the gradients of one may be added to and those of the other
/// overwritten.
#[test]
fn shared_weights() {
    for shared in [(1, 2, 1, 2), (1, 2, 1, 3), (1, 2, 3, 2), (1, 2, 3, 4)] {
        let mut rig = Rig::with(3, &[&[3, 4], &[4], &[4], &[4, 3]]);
        let extra = [shared.2, shared.3].iter().filter(|n| **n > 2).count();
        (0..extra).for_each(|_| rig.param(&[4], 0));
        rig.ids(&[3], 3);
        let at = |n: usize| if n > 2 { n + 1 } else { n };
        rig.check(|t, p, i| {
            let once = t.layernorm(p[0], p[at(shared.0)], p[at(shared.1)], 1e-2);
            let mixed = t.linear(once, p[3], Affine::default());
            let loss = t.cross_entropy(mixed, i[0], Default::default());
            let twice = t.layernorm(once, p[at(shared.2)], p[at(shared.3)], 1e-2);
            vec![loss, loss_of(t, twice, p[3], i[0])]
        });
    }
}
