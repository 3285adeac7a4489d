//! The heads of BERT: scores and losses.

use super::{Bert, BertHead, Tokens, dense};
use crate::device::ops::Activation;
use crate::model::{EachLoss, Losses, Scores};
use crate::tape::{Affine, Tape, Var, Weight};

impl Bert {
    /// Records the transform before the projection to masked-token scores: hidden `[.., C]` -> `[.., C]`.
    fn transform(&self, t: &mut Tape, p: &[Var], hidden: Var) -> Var {
        let at = self.find("cls.predictions.transform.dense.weight");
        let x = t.linear(hidden, p[at], dense(p[at + 1]).activation(Activation::GeluErf)); // [.., C]
        t.layernorm(x, p[at + 2], p[at + 3], self.config.eps) // [.., C]
    }

    /// Records the logits at every position: hidden `[B, T, C]` -> `[B, T, V]`. In memory, rows are padded to a
    /// multiple of 128.
    pub fn logits(&self, t: &mut Tape, p: &[Var], hidden: Var) -> Var {
        let x = self.transform(t, p, hidden); // [B, T, C]
        let bias = p[self.find("cls.predictions.bias")];
        t.linear(x, p[0], Affine { weight: Weight::OutIn, pad: 128, ..Affine::bias(bias) })
    }

    /// Records the pooled first token of each sequence: hidden `[B, T, C]` and the rows of the first tokens `[B, 1]` ->
    /// `[B, 1, C]`.
    pub fn pooled(&self, t: &mut Tape, p: &[Var], hidden: Var, first: Var) -> Var {
        let at = self.find("bert.pooler.dense.weight");
        let x = t.rows(hidden, first); // [B, 1, C]
        t.linear(x, p[at], dense(p[at + 1]).activation(Activation::Tanh)) // [B, 1, C]
    }

    /// Records the scores of the classes, or of whether the second segment follows the first: inputs as for
    /// [`Bert::pooled`] -> `[B, 1, classes]`.
    pub fn classes(&self, t: &mut Tape, p: &[Var], hidden: Var, first: Var) -> Var {
        let x = self.pooled(t, p, hidden, first); // [B, 1, C]
        let x = t.dropout(x, None, self.config.dropout_hidden);
        let pretraining = self.config.head == BertHead::Pretraining;
        let at = self.find(if pretraining { "cls.seq_relationship.weight" } else { "classifier.weight" });
        t.linear(x, p[at], dense(p[at + 1])) // [B, 1, classes]
    }

    /// Records the losses `[1]` and, for models of labelled examples, the scores `[B, 1, classes]`.
    pub(super) fn forward(
        &self,
        t: &mut Tape,
        p: &[Var],
        inputs: &[Var],
        [options, of_next]: EachLoss,
        recompute: bool,
    ) -> (Losses, Scores) {
        let (tokens, rest) = inputs.split_at(3);
        let tokens = Tokens { ids: tokens[0], types: tokens[1], mask: tokens[2] };
        let hidden = self.hidden(t, p, tokens, recompute, |_, _| {}); // [B, T, C]
        let masked = |t: &mut Tape, positions, labels| {
            let x = t.rows(hidden, positions); // [B, S, C]
            let x = self.transform(t, p, x); // [B, S, C]
            let bias = p[self.find("cls.predictions.bias")];
            t.linear_cross_entropy(x, p[0], Some(bias), labels, options) // [1]
        };
        match (self.config.head, rest) {
            (BertHead::Masked, &[positions, labels]) => ((masked(t, positions, labels), None), [None; 2]),
            (BertHead::Pretraining, &[positions, labels, next, first]) => {
                let loss = masked(t, positions, labels);
                let scores = self.classes(t, p, hidden, first); // [B, 1, 2]
                ((loss, Some(t.cross_entropy(scores, next, of_next))), [None; 2])
            }
            (BertHead::Classify { labels }, &[given, first]) => {
                let scores = self.classes(t, p, hidden, first); // [B, 1, classes]
                let loss = match labels {
                    1 => t.squared_error(scores, given, options),
                    _ => t.cross_entropy(scores, given, options),
                };
                ((loss, None), [Some(scores), None])
            }
            _ => unreachable!("heads without a loss are refused before training"),
        }
    }
}
