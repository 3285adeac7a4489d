use crate::gradients::rig::{Rig, loss_of};
use vcycle::tape::Affine;

/// Parameters: x `[B, T, C]`, the fused projection `[C, 3 C]`, its bias, and the head. Inputs: labels and a key mask.
fn rig(batch: usize, time: usize, width: usize) -> Rig {
    let mut rig = Rig::with(1, &[&[batch, time, width], &[width, 3 * width], &[3 * width], &[width, 4]]);
    rig.ids(&[batch, time], 4);
    let mask: Vec<i32> = (0..batch * time).map(|i| i32::from(i % 3 != 1)).collect();
    rig.integers(&[batch, time], &mask);
    rig
}

#[test]
fn causal_full_masked_and_dropped() {
    for (batch, time, heads, head) in [(2, 4, 2, 3), (1, 1, 1, 2), (1, 5, 1, 4)] {
        for (causal, masked, p) in [
            (true, false, 0.0),
            (false, false, 0.0),
            (false, true, 0.0),
            (true, true, 0.0),
            (true, false, 0.3),
            (false, true, 0.3),
        ] {
            // If the only key is dropped, there is no gradient to test.
            if time == 1 && p > 0.0 {
                continue;
            }
            rig(batch, time, heads * head).check(|t, v, i| {
                let qkv = t.linear(v[0], v[1], Affine::bias(v[2]));
                let y = t.attention(qkv, heads, causal, masked.then_some(i[1]), p);
                // x is added to the result, so that a row that sees no key still affects the loss.
                let y = t.dropout(y, Some(v[0]), 0.0);
                vec![loss_of(t, y, v[3], i[0])]
            });
        }
    }
}

/// A sequence whose keys are all hidden gives zeros and no gradient.
#[test]
fn nothing_to_see() {
    let mut rig = rig(2, 3, 4);
    rig.integers(&[2, 3], &[0, 0, 0, 1, 1, 1]);
    rig.check(|t, v, i| {
        let qkv = t.linear(v[0], v[1], Affine::bias(v[2]));
        let y = t.attention(qkv, 2, false, Some(i[2]), 0.0);
        let y = t.dropout(y, Some(v[0]), 0.0);
        vec![loss_of(t, y, v[3], i[0])]
    });
}

/// A second attention and a head read the same projection. Another attention reads a parameter.
#[test]
fn a_projection_with_several_consumers() {
    let mut rig = rig(1, 3, 4);
    rig.param(&[12, 4], 0);
    rig.param(&[1, 3, 12], 0);
    rig.check(|t, v, i| {
        let qkv = t.linear(v[0], v[1], Affine::bias(v[2]));
        let (once, twice) = (t.attention(qkv, 2, true, None, 0.0), t.attention(qkv, 1, false, None, 0.0));
        let third = t.attention(v[5], 2, true, None, 0.0);
        let sum = t.dropout(once, Some(twice), 0.0);
        let sum = t.dropout(sum, Some(third), 0.0);
        vec![loss_of(t, qkv, v[4], i[0]), loss_of(t, sum, v[3], i[0])]
    });
}
