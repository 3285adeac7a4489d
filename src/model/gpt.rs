//! GPT-2 (Radford et al., 2019): pre-LN, tanh GELU, learned positions, and a head that is tied to the token embeddings
//! unless the configuration unties it.
//!
//! Parameter names and layout are those of Hugging Face's `GPT2LMHeadModel`: weights are `[in, out]`.

use super::params::{Axis, Fan, Init, Kind, Param, ParamTable, Role};
use super::{BatchShape, EachLoss, Family, Input, Losses, Model, check_sizes};
use crate::device::ops::Activation;
use crate::error::Result;
use crate::tape::{Affine, Tape, Var, Weight};

/// Sizes and constants of a GPT-2.
#[derive(Clone, Debug, PartialEq)]
pub struct GptConfig {
    /// V: vocabulary size.
    pub vocab: usize,
    /// Longest sequence in tokens.
    pub context: usize,
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
    /// Standard deviation of initial weights; divided by sqrt(2 L) for residual projections.
    pub init_std: f64,
    /// Dropout rate of the embeddings.
    pub dropout_embedding: f32,
    /// Dropout rate of the attention weights.
    pub dropout_attention: f32,
    /// Dropout rate of the residual branches.
    pub dropout_residual: f32,
    /// Id of the beginning-of-text token, if any. Not used here, only passed on to checkpoints.
    pub bos: Option<u64>,
    /// Id of the end-of-text token, if any. Not used here, only passed on to checkpoints.
    pub eos: Option<u64>,
    /// Whether the head shares the weight of the token embeddings, as published.
    pub tied: bool,
}

impl Default for GptConfig {
    /// GPT-2 as published (124M parameters).
    fn default() -> Self {
        GptConfig {
            vocab: 50_257,
            context: 1024,
            width: 768,
            heads: 12,
            layers: 12,
            ffn: 3072,
            eps: 1e-5,
            init_std: 0.02,
            dropout_embedding: 0.1,
            dropout_attention: 0.1,
            dropout_residual: 0.1,
            bos: Some(50_256),
            eos: Some(50_256),
            tied: true,
        }
    }
}

/// A GPT-2: its configuration and parameter table.
pub struct Gpt {
    /// Sizes and constants.
    pub config: GptConfig,
    table: ParamTable,
}

/// Number of parameters per block.
const PER_BLOCK: usize = 12;
/// Number of parameters before the first block.
const BEFORE: usize = 2;

impl Gpt {
    /// Builds the parameter table.
    ///
    /// # Errors
    /// A size is zero, the heads do not divide the width, or there are too many parameters.
    pub fn new(config: GptConfig) -> Result<Self> {
        let GptConfig { vocab, context, width, heads, layers, ffn, .. } = config;
        check_sizes(&[("vocabulary", vocab), ("context", context)], (layers, heads, width, ffn))?;
        let table = ParamTable::new(params(&config), heads, width / heads, layers)?;
        Ok(Gpt { config, table })
    }

    /// Records the forward pass up to the head: ids `[B, T]` -> hidden states `[B, T, C]`. `each` is called with the
    /// residual stream before every block.
    pub fn hidden(
        &self,
        t: &mut Tape,
        p: &[Var],
        ids: Var,
        recompute: bool,
        mut each: impl FnMut(&mut Tape, Var),
    ) -> Var {
        let c = &self.config;
        let x = t.embedding(ids, p[0], Some(p[1])); // [B, T, C]
        let mut x = t.dropout(x, None, c.dropout_embedding);
        for block in p[BEFORE..BEFORE + PER_BLOCK * c.layers].chunks_exact(PER_BLOCK) {
            each(t, x);
            x = if recompute { t.segment(|t| self.block(t, block, x)) } else { self.block(t, block, x) };
        }
        let norm = BEFORE + PER_BLOCK * c.layers;
        t.layernorm(x, p[norm], p[norm + 1], c.eps) // [B, T, C]
    }

    /// Records one block: `[B, T, C]` -> `[B, T, C]`.
    fn block(&self, t: &mut Tape, p: &[Var], x: Var) -> Var {
        let c = &self.config;
        let &[ln_1_w, ln_1_b, attn_w, attn_b, proj_w, proj_b, ln_2_w, ln_2_b, fc_w, fc_b, out_w, out_b] = p else {
            unreachable!("a block has {PER_BLOCK} parameters")
        };
        let a = t.layernorm(x, ln_1_w, ln_1_b, c.eps); // [B, T, C]
        let a = t.linear(a, attn_w, Affine::bias(attn_b)); // [B, T, 3 C]: queries, keys, values
        let a = t.attention(a, c.heads, true, None, c.dropout_attention); // [B, T, C]
        let x = self.add(t, a, proj_w, proj_b, x); // [B, T, C]
        let m = t.layernorm(x, ln_2_w, ln_2_b, c.eps); // [B, T, C]
        let m = t.linear(m, fc_w, Affine::bias(fc_b).activation(Activation::GeluTanh)); // [B, T, F]
        self.add(t, m, out_w, out_b, x) // [B, T, C]
    }

    /// Records `x + dropout(branch W + b)`. Without dropout, the sum is fused into the GEMM's epilogue.
    fn add(&self, t: &mut Tape, branch: Var, w: Var, b: Var, x: Var) -> Var {
        let p = self.config.dropout_residual;
        if p == 0.0 || !t.is_training() {
            return t.linear(branch, w, Affine::bias(b).residual(x));
        }
        let branch = t.linear(branch, w, Affine::bias(b));
        t.dropout(branch, Some(x), p)
    }

    /// Records the logits of the next token: hidden `[B, T, C]` -> `[B, T, V]`. In memory, rows are padded to a
    /// multiple of 128.
    pub fn logits(&self, t: &mut Tape, p: &[Var], hidden: Var) -> Var {
        t.linear(hidden, p[self.head()], Affine { weight: Weight::OutIn, pad: 128, ..Affine::default() })
    }

    /// Returns the index of the head's weight `[V, C]`, which is that of the token embeddings if the head is tied.
    fn head(&self) -> usize {
        if self.config.tied { 0 } else { self.table.params.len() - 1 }
    }
}

impl Model for Gpt {
    fn table(&self) -> &ParamTable {
        &self.table
    }

    fn family(&self) -> Family<'_> {
        Family::Gpt(&self.config)
    }

    fn resized(&self, layers: usize, heads: usize) -> Result<Box<dyn Model>> {
        Ok(Box::new(Gpt::new(self.config.resized(layers, heads)?)?))
    }

    fn inputs(&self, BatchShape { batch, time, .. }: BatchShape) -> Vec<Input> {
        vec![Input::ints("ids", &[batch, time]), Input::ints("labels", &[batch, time]).labels_of(&[0])]
    }

    fn loss(&self, t: &mut Tape, p: &[Var], inputs: &[Var], [options, _]: EachLoss, recompute: bool) -> Losses {
        let &[ids, labels] = inputs else { unreachable!("the inputs of this model") };
        let hidden = self.hidden(t, p, ids, recompute, |_, _| {}); // [B, T, C]
        (t.linear_cross_entropy(hidden, p[self.head()], None, labels, options), None) // [1]
    }
}

impl GptConfig {
    /// Returns the same configuration with another number of layers and heads. The head size and the ffn size per head
    /// stay.
    ///
    /// # Errors
    /// The sizes overflow.
    pub fn resized(&self, layers: usize, heads: usize) -> Result<Self> {
        let (width, ffn) = super::resized((self.width, self.ffn), self.heads, heads)?;
        Ok(GptConfig { layers, heads, width, ffn, ..self.clone() })
    }
}

/// Returns the parameters in forward order.
fn params(config: &GptConfig) -> Vec<Param> {
    let &GptConfig { vocab, context, width, layers, ffn, init_std, .. } = config;
    let (out, input) =
        (|role, size| Axis::new(Fan::Out, &[(role, size)]), |role, size| Axis::new(Fan::In, &[(role, size)]));
    let qkv = || Axis::new(Fan::Out, &[(Role::QueryKey, width), (Role::QueryKey, width), (Role::Value, width)]);
    let embed = || out(Role::Embed, width);
    let (normal, scaled) = (Init::Normal(init_std), Init::Normal(init_std / (2.0 * layers as f64).sqrt()));
    let (zero, one) = (Init::Constant(0.0), Init::Constant(1.0));
    let param = |stem: &str, axes: Vec<Axis>, kind, init| Param::new(&format!("transformer.{stem}"), axes, kind, init);
    let block = |layer: usize| {
        [
            param("h.{}.ln_1.weight", vec![embed()], Kind::Plain, one),
            param("h.{}.ln_1.bias", vec![embed()], Kind::Plain, zero),
            param("h.{}.attn.c_attn.weight", vec![input(Role::Embed, width), qkv()], Kind::Plain, normal),
            param("h.{}.attn.c_attn.bias", vec![qkv()], Kind::Plain, zero),
            param("h.{}.attn.c_proj.weight", vec![input(Role::Value, width), embed()], Kind::BranchOutput, scaled),
            param("h.{}.attn.c_proj.bias", vec![embed()], Kind::BranchOutput, zero),
            param("h.{}.ln_2.weight", vec![embed()], Kind::Plain, one),
            param("h.{}.ln_2.bias", vec![embed()], Kind::Plain, zero),
            param("h.{}.mlp.c_fc.weight", vec![input(Role::Embed, width), out(Role::Ffn, ffn)], Kind::Plain, normal),
            param("h.{}.mlp.c_fc.bias", vec![out(Role::Ffn, ffn)], Kind::Plain, zero),
            param("h.{}.mlp.c_proj.weight", vec![input(Role::Ffn, ffn), embed()], Kind::BranchOutput, scaled),
            param("h.{}.mlp.c_proj.bias", vec![embed()], Kind::BranchOutput, zero),
        ]
        .map(|p| Param { layer: Some(layer), ..p })
    };
    let table = |role, rows| vec![out(role, rows), embed()];
    let mut all = vec![
        param("wte.weight", table(Role::Vocab, vocab), Kind::Embedding, normal),
        param("wpe.weight", table(Role::Position, context), Kind::Embedding, normal),
    ];
    all.extend((0..layers).flat_map(block));
    let last = if config.tied { Kind::HeadNorm } else { Kind::Plain };
    all.push(param("ln_f.weight", vec![embed()], last, one));
    all.push(param("ln_f.bias", vec![embed()], last, zero));
    if !config.tied {
        let axes = vec![out(Role::Vocab, vocab), input(Role::Embed, width)];
        all.push(Param::new("lm_head.weight", axes, Kind::Plain, normal));
    }
    all
}
