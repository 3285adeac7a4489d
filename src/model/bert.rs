//! BERT as published (Devlin et al., 2019): post-LN, erf GELU, learned positions, token types, a head for masked tokens
//! that is tied to the embeddings.
//!
//! Names and layout are those of Hugging Face's `BertForMaskedLM` and its relatives: weights `[out, in]`. Queries, keys and
//! values, three tensors there, are one weight here. With [`Norm::Pre`] the norms stand before the branches, as in GPT-2,
//! and one more at the end (Xiong et al., arXiv 2002.04745).

mod heads;
mod table;

use super::params::ParamTable;
use super::{BatchShape, EachLoss, Family, Input, Losses, Model, Scores, check_sizes};
use crate::device::ops::Activation;
use crate::error::Result;
use crate::tape::{Affine, Tape, Var, Weight};

/// Where the norms of a layer stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Norm {
    /// After each sum, as published.
    #[default]
    Post,
    /// Before each branch.
    Pre,
}

/// What is made of the hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BertHead {
    /// Nothing (`BertModel` without its pooler).
    None,
    /// The pooled first token (`BertModel`).
    Pooler,
    /// Scores of masked tokens (`BertForMaskedLM`).
    Masked,
    /// Scores of masked tokens, and whether the second segment follows the first (`BertForPreTraining`).
    Pretraining,
    /// Scores of so many classes of the pooled first token (`BertForSequenceClassification`). Of one "class": a number to be
    /// approximated, as there.
    Classify { labels: usize },
}

/// Sizes and constants.
#[derive(Clone, Debug, PartialEq)]
pub struct BertConfig {
    /// V: tokens of the vocabulary.
    pub vocab: usize,
    /// Longest sequence.
    pub context: usize,
    /// Token types, usually 2.
    pub types: usize,
    /// C: size of the residual stream.
    pub width: usize,
    /// H.
    pub heads: usize,
    /// L.
    pub layers: usize,
    /// F: inner size of the feed-forward block, usually 4 C.
    pub ffn: usize,
    pub eps: f64,
    /// Standard deviation of initial weights.
    pub init_std: f64,
    pub dropout_hidden: f32,
    pub dropout_attention: f32,
    /// The token of padding: looking it up gives no gradient.
    pub pad: u32,
    pub norm: Norm,
    pub head: BertHead,
}

/// The model: its sizes and its table.
pub struct Bert {
    pub config: BertConfig,
    table: ParamTable,
}

/// Parameters of a layer, and before the first one.
const PER_LAYER: usize = 12;
const BEFORE: usize = 5;

/// What enters the encoder, each `[B, T]`.
#[derive(Clone, Copy, Debug)]
pub struct Tokens {
    pub ids: Var,
    pub types: Var,
    /// 0 hides a token.
    pub mask: Var,
}

impl Bert {
    /// # Errors
    /// Sizes of zero, a width that the heads do not divide, too many parameters.
    pub fn new(config: BertConfig) -> Result<Self> {
        let BertConfig { vocab, context, types, width, heads, layers, ffn, .. } = config;
        let labels = if let BertHead::Classify { labels } = config.head { labels } else { 1 };
        let sizes = [("vocabulary", vocab), ("context", context), ("token types", types), ("classes", labels)];
        check_sizes(&sizes, (layers, heads, width, ffn))?;
        let table = ParamTable::new(table::params(&config), heads, width / heads, layers)?;
        Ok(Bert { config, table })
    }

    /// Hidden states: `[B, T, C]`. `each` sees the stream before every layer.
    pub fn hidden(
        &self,
        t: &mut Tape,
        p: &[Var],
        tokens: Tokens,
        recompute: bool,
        mut each: impl FnMut(&mut Tape, Var),
    ) -> Var {
        let c = &self.config;
        let tables = [(tokens.ids, p[0]), (tokens.types, p[2])];
        let x = t.embeddings(&tables, Some(p[1]), Some(c.pad)); // [B, T, C]
        let x = t.layernorm(x, p[3], p[4], c.eps); // [B, T, C]
        let mut x = t.dropout(x, None, c.dropout_hidden);
        for layer in p[BEFORE..BEFORE + PER_LAYER * c.layers].chunks_exact(PER_LAYER) {
            each(t, x);
            let mask = tokens.mask;
            x = if recompute { t.segment(|t| self.layer(t, layer, x, mask)) } else { self.layer(t, layer, x, mask) };
        }
        match (c.norm, &p[BEFORE + PER_LAYER * c.layers..]) {
            (Norm::Pre, &[norm_w, norm_b, ..]) => t.layernorm(x, norm_w, norm_b, c.eps), // [B, T, C]
            _ => x,
        }
    }

    /// One layer: `[B, T, C]` -> `[B, T, C]`.
    fn layer(&self, t: &mut Tape, p: &[Var], x: Var, mask: Var) -> Var {
        let c = &self.config;
        let &[qkv_w, qkv_b, proj_w, proj_b, ln_1_w, ln_1_b, fc_w, fc_b, out_w, out_b, ln_2_w, ln_2_b] = p else {
            unreachable!("a layer has {PER_LAYER} parameters")
        };
        let pre = c.norm == Norm::Pre;
        let a = if pre { t.layernorm(x, ln_1_w, ln_1_b, c.eps) } else { x }; // [B, T, C]
        let a = t.linear(a, qkv_w, dense(qkv_b)); // [B, T, 3 C]: queries, keys, values
        let a = t.attention(a, c.heads, false, Some(mask), c.dropout_attention); // [B, T, C]
        let x = self.add(t, a, proj_w, proj_b, x); // [B, T, C]
        let x = if pre { x } else { t.layernorm(x, ln_1_w, ln_1_b, c.eps) }; // [B, T, C]
        let m = if pre { t.layernorm(x, ln_2_w, ln_2_b, c.eps) } else { x }; // [B, T, C]
        let m = t.linear(m, fc_w, dense(fc_b).activation(Activation::GeluErf)); // [B, T, F]
        let x = self.add(t, m, out_w, out_b, x); // [B, T, C]
        if pre { x } else { t.layernorm(x, ln_2_w, ln_2_b, c.eps) } // [B, T, C]
    }

    /// `x + dropout(branch W^T + b)`, in the product's epilogue where nothing is dropped.
    fn add(&self, t: &mut Tape, branch: Var, w: Var, b: Var, x: Var) -> Var {
        let p = self.config.dropout_hidden;
        if p == 0.0 || !t.is_training() {
            return t.linear(branch, w, dense(b).residual(x));
        }
        let branch = t.linear(branch, w, dense(b));
        t.dropout(branch, Some(x), p)
    }

    fn find(&self, stem: &str) -> usize {
        self.table.find(stem, None).unwrap_or_else(|| unreachable!("the table of this head has {stem}"))
    }
}

/// With a weight as Hugging Face stores it.
fn dense(bias: Var) -> Affine {
    Affine { weight: Weight::OutIn, ..Affine::bias(bias) }
}

impl Model for Bert {
    fn table(&self) -> &ParamTable {
        &self.table
    }

    fn family(&self) -> Family<'_> {
        Family::Bert(&self.config)
    }

    fn resized(&self, layers: usize, heads: usize) -> Result<Box<dyn Model>> {
        let c = &self.config;
        let (width, ffn) = super::resized((c.width, c.ffn), c.heads, heads)?;
        Ok(Box::new(Bert::new(BertConfig { layers, heads, width, ffn, ..c.clone() })?))
    }

    fn inputs(&self, BatchShape { batch, time, scored }: BatchShape) -> Vec<Input> {
        let mut all: Vec<Input> =
            ["ids", "token types", "mask"].iter().map(|name| Input::ints(name, &[batch, time])).collect();
        if self.is_masked() {
            all.push(Input::ints("positions", &[batch, scored]));
            all.push(Input::ints("labels", &[batch, scored]).labels_of(&[0]));
        }
        if self.has_classes() {
            all.push(match self.config.head {
                BertHead::Classify { labels: 1 } => Input::wide("values", &[batch]).labels_of(&[0]),
                BertHead::Classify { .. } => Input::ints("classes", &[batch]).labels_of(&[0]),
                _ => Input::ints("classes", &[batch]).labels_of(&[1]),
            });
            let first = (0..batch).map(|b| (b * time) as i32).collect();
            all.push(Input::fixed("first rows", &[batch, 1], first));
        }
        all
    }

    fn loss(&self, t: &mut Tape, p: &[Var], inputs: &[Var], options: EachLoss, recompute: bool) -> Losses {
        self.forward(t, p, inputs, options, recompute).0
    }

    fn evaluation(&self, t: &mut Tape, p: &[Var], inputs: &[Var]) -> (Losses, Scores) {
        self.forward(t, p, inputs, EachLoss::default(), false)
    }
}

impl Bert {
    fn is_masked(&self) -> bool {
        matches!(self.config.head, BertHead::Masked | BertHead::Pretraining)
    }

    fn has_classes(&self) -> bool {
        matches!(self.config.head, BertHead::Pretraining | BertHead::Classify { .. })
    }
}
