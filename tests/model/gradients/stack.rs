//! A small transformer for tests of whole steps.

use vcycle::device::ops::Activation;
use vcycle::tape::{Affine, LossOptions, Tape, Var, Weight};

#[derive(Clone, Copy)]
pub struct Stack {
    pub layers: usize,
    pub heads: usize,
    pub width: usize,
    pub vocab: usize,
    pub time: usize,
    pub dropout: f32,
    /// Whether each layer is a segment.
    pub segments: bool,
}

/// Number of parameters before those of the layers.
const FRONT: usize = 4;
/// Number of parameters of a layer.
const LAYER: usize = 12;

impl Stack {
    /// Returns the dimensions of all parameters.
    pub fn params(&self) -> Vec<Vec<usize>> {
        let c = self.width;
        let mut all = vec![vec![self.vocab, c], vec![self.time, c], vec![c], vec![c]];
        for _ in 0..self.layers {
            all.extend([vec![c], vec![c], vec![c, 3 * c], vec![3 * c], vec![c, c], vec![c]]);
            all.extend([vec![c], vec![c], vec![c, 4 * c], vec![4 * c], vec![4 * c, c], vec![c]]);
        }
        all
    }

    /// Records the step and returns its loss. Calls `each` for every intermediate value. Allocates nothing itself.
    pub fn loss(&self, t: &mut Tape, p: &[Var], ids: Var, labels: Var, each: &dyn Fn(&mut Tape, Var)) -> Var {
        let mut x = t.embedding(ids, p[0], Some(p[1]));
        each(t, x);
        for l in 0..self.layers {
            let weights = &p[FRONT + l * LAYER..][..LAYER];
            x = if self.segments {
                t.segment(|t| self.layer(t, weights, x, each))
            } else {
                self.layer(t, weights, x, each)
            };
        }
        let y = t.layernorm(x, p[2], p[3], 1e-5);
        each(t, y);
        let logits = t.linear(y, p[0], Affine { weight: Weight::OutIn, pad: 16, ..Affine::default() });
        each(t, logits);
        t.cross_entropy(logits, labels, LossOptions::default())
    }

    fn layer(&self, t: &mut Tape, w: &[Var], x: Var, each: &dyn Fn(&mut Tape, Var)) -> Var {
        let h = t.layernorm(x, w[0], w[1], 1e-5);
        let qkv = t.linear(h, w[2], Affine::bias(w[3]));
        let a = t.attention(qkv, self.heads, true, None, self.dropout);
        let projected = t.linear(a, w[4], Affine::bias(w[5]));
        let dropped = t.dropout(projected, None, self.dropout);
        let (sum, g) = t.residual_layernorm(dropped, x, w[6], w[7], 1e-5);
        let f = t.linear(g, w[8], Affine::bias(w[9]).activation(Activation::GeluTanh));
        let out = t.linear(f, w[10], Affine::bias(w[11]));
        let y = t.dropout(out, Some(sum), self.dropout);
        [h, qkv, a, projected, dropped, sum, g, f, out, y].into_iter().for_each(|var| each(t, var));
        y
    }
}
