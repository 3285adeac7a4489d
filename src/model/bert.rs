//! BERT (Devlin et al., 2019): post-LN, erf GELU, learned positions, token types, and a head for masked tokens that is
//! tied to the token embeddings.
//!
//! Parameter names and layout are those of Hugging Face's `BertForMaskedLM` and related classes: weights are
//! `[out, in]`. The weights of queries, keys and values, three tensors there, are fused here. With [`Norm::Pre`] the
//! norms are before the branches, as in GPT-2, with one more at the end (Xiong et al., arXiv 2002.04745).

mod heads;
mod table;

use super::params::ParamTable;
use super::{BatchShape, EachLoss, Family, Input, Losses, Model, Scores, check_sizes};
use crate::device::ops::Activation;
use crate::error::Result;
use crate::tape::{Affine, Tape, Var, Weight};

/// Position of the layer norms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Norm {
    /// After each residual sum, as published.
    #[default]
    Post,
    /// Before each branch, and once at the end.
    Pre,
}

/// The head on top of the hidden states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BertHead {
    /// No head (`BertModel` without its pooler).
    None,
    /// The pooled first token (`BertModel`).
    Pooler,
    /// Scores of masked tokens (`BertForMaskedLM`).
    Masked,
    /// Scores of masked tokens, and of whether the second segment follows the first (`BertForPreTraining`).
    Pretraining,
    /// Class scores of the pooled first token (`BertForSequenceClassification`). With one label, the score is the
    /// prediction of a regression, as there.
    Classify {
        /// Number of classes; 1 for regression.
        labels: usize,
    },
}

/// Sizes and constants of a BERT.
#[derive(Clone, Debug, PartialEq)]
pub struct BertConfig {
    /// V: vocabulary size.
    pub vocab: usize,
    /// Longest sequence in tokens.
    pub context: usize,
    /// Number of token types, usually 2.
    pub types: usize,
    /// C: size of the residual stream.
    pub width: usize,
    /// H: number of attention heads.
    pub heads: usize,
    /// L: number of layers.
    pub layers: usize,
    /// F: inner size of the feed-forward block, usually 4 C.
    pub ffn: usize,
    /// Epsilon of the layer norms.
    pub eps: f64,
    /// Standard deviation of initial weights.
    pub init_std: f64,
    /// Dropout rate of the embeddings, the residual branches and the pooled token.
    pub dropout_hidden: f32,
    /// Dropout rate of the attention weights.
    pub dropout_attention: f32,
    /// Id of the padding token. Its embedding gets no gradient from lookups.
    pub pad: u32,
    /// Position of the layer norms.
    pub norm: Norm,
    /// The head.
    pub head: BertHead,
}

impl Default for BertConfig {
    /// BERT-Base, uncased, as published (110M parameters), with the heads of its pretraining.
    fn default() -> Self {
        BertConfig {
            vocab: 30_522,
            context: 512,
            types: 2,
            width: 768,
            heads: 12,
            layers: 12,
            ffn: 3072,
            eps: 1e-12,
            init_std: 0.02,
            dropout_hidden: 0.1,
            dropout_attention: 0.1,
            pad: 0,
            norm: Norm::Post,
            head: BertHead::Pretraining,
        }
    }
}

/// A BERT: its configuration and parameter table.
pub struct Bert {
    /// Sizes and constants.
    pub config: BertConfig,
    table: ParamTable,
}

/// Number of parameters per layer.
const PER_LAYER: usize = 12;
/// Number of parameters before the first layer.
const BEFORE: usize = 5;

/// The inputs of the encoder, each `[B, T]`.
#[derive(Clone, Copy, Debug)]
pub struct Tokens {
    /// Token ids.
    pub ids: Var,
    /// Token types.
    pub types: Var,
    /// Attention mask: 0 hides a token.
    pub mask: Var,
}

impl Bert {
    /// Builds the parameter table.
    ///
    /// # Errors
    /// A size is zero, the heads do not divide the width, or there are too many parameters.
    pub fn new(config: BertConfig) -> Result<Self> {
        let BertConfig { vocab, context, types, width, heads, layers, ffn, .. } = config;
        let labels = if let BertHead::Classify { labels } = config.head { labels } else { 1 };
        let sizes = [("vocabulary", vocab), ("context", context), ("token types", types), ("classes", labels)];
        check_sizes(&sizes, (layers, heads, width, ffn))?;
        let table = ParamTable::new(table::params(&config), heads, width / heads, layers)?;
        Ok(Bert { config, table })
    }

    /// Records the encoder. Returns the hidden states `[B, T, C]`. `each` is called with the residual stream before
    /// every layer.
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

    /// Records one layer: `[B, T, C]` -> `[B, T, C]`.
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

    /// Records `x + dropout(branch W^T + b)`. Without dropout, the sum is fused into the GEMM's epilogue.
    fn add(&self, t: &mut Tape, branch: Var, w: Var, b: Var, x: Var) -> Var {
        let p = self.config.dropout_hidden;
        if p == 0.0 || !t.is_training() {
            return t.linear(branch, w, dense(b).residual(x));
        }
        let branch = t.linear(branch, w, dense(b));
        t.dropout(branch, Some(x), p)
    }

    /// Returns the index of a parameter outside the layers.
    fn find(&self, stem: &str) -> usize {
        self.table.find(stem, None).unwrap_or_else(|| unreachable!("the table of this head has {stem}"))
    }
}

/// Returns the options of a linear layer with a bias and a weight `[out, in]`, as Hugging Face stores it.
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
    /// Whether the model has a head for masked tokens.
    fn is_masked(&self) -> bool {
        matches!(self.config.head, BertHead::Masked | BertHead::Pretraining)
    }

    /// Whether the model has a head on the pooled token.
    fn has_classes(&self) -> bool {
        matches!(self.config.head, BertHead::Pretraining | BertHead::Classify { .. })
    }
}
