//! GPT-2 as published (Radford et al., 2019): pre-LN, tanh GELU, learned positions, head tied to the embeddings.
//!
//! Names and layout are those of Hugging Face's `GPT2LMHeadModel`: weights `[in, out]`.

use super::params::{Axis, Init, Kind, Param, ParamTable, Role, Side};
use super::{Family, Model};
use crate::bail;
use crate::device::ops::Activation;
use crate::error::Result;
use crate::tape::{Affine, LossOptions, Tape, Var, Weight};

/// Sizes and constants.
#[derive(Clone, Debug, PartialEq)]
pub struct GptConfig {
    /// V: tokens of the vocabulary.
    pub vocab: usize,
    /// Longest sequence.
    pub context: usize,
    /// C: size of the residual stream.
    pub width: usize,
    /// H.
    pub heads: usize,
    /// L.
    pub layers: usize,
    /// F: inner size of the feed-forward block, usually 4 C.
    pub ffn: usize,
    pub eps: f64,
    /// Standard deviation of initial weights; residual projections have it over sqrt(2 L).
    pub init_std: f64,
    pub dropout_embedding: f32,
    pub dropout_attention: f32,
    pub dropout_residual: f32,
    /// Ids of the tokens that begin and end a text, where the vocabulary has such: kept for who reads the checkpoint.
    pub bos: Option<u64>,
    pub eos: Option<u64>,
}

/// The model: its sizes and its table.
pub struct Gpt {
    pub config: GptConfig,
    table: ParamTable,
}

/// Ten times the deepest transformer that anybody published; tables of more would take gigabytes before any weight.
const MOST_LAYERS: usize = 10_000;

/// Parameters of a block, and before the first one.
const PER_BLOCK: usize = 12;
const BEFORE: usize = 2;

impl Gpt {
    /// # Errors
    /// Sizes of zero, a width that the heads do not divide, too many parameters.
    pub fn new(config: GptConfig) -> Result<Self> {
        let GptConfig { vocab, context, width, heads, layers, ffn, .. } = config;
        for (what, size) in [
            ("vocabulary", vocab),
            ("context", context),
            ("heads", heads),
            ("width", width),
            ("layers", layers),
            ("ffn", ffn),
        ] {
            if size == 0 || size >= 1 << 31 {
                bail!("{what} is {size}; it must be at least 1 and below 2^31");
            }
        }
        if !width.is_multiple_of(heads) || !ffn.is_multiple_of(heads) {
            bail!("{heads} heads do not divide a width of {width} and an inner size of {ffn}; choose a multiple");
        }
        if layers > MOST_LAYERS {
            bail!("{layers} layers are beyond reason; use at most {MOST_LAYERS}");
        }
        let table = ParamTable::new(params(&config), heads, width / heads, layers)?;
        Ok(Gpt { config, table })
    }

    /// Hidden states before the head: ids `[B, T]` -> `[B, T, C]`. `each` sees the stream before every block.
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
        t.layernorm(x, p[p.len() - 2], p[p.len() - 1], c.eps) // [B, T, C]
    }

    /// One layer: `[B, T, C]` -> `[B, T, C]`.
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

    /// `x + dropout(branch W + b)`, in the product's epilogue where nothing is dropped.
    fn add(&self, t: &mut Tape, branch: Var, w: Var, b: Var, x: Var) -> Var {
        let p = self.config.dropout_residual;
        if p == 0.0 || !t.is_training() {
            return t.linear(branch, w, Affine::bias(b).residual(x));
        }
        let branch = t.linear(branch, w, Affine::bias(b));
        t.dropout(branch, Some(x), p)
    }

    /// Scores of the next token: hidden `[B, T, C]` -> `[B, T, V]`, rows padded to 128 in memory.
    pub fn logits(&self, t: &mut Tape, p: &[Var], hidden: Var) -> Var {
        t.linear(hidden, p[0], Affine { weight: Weight::OutIn, pad: 128, ..Affine::default() })
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

    fn loss(&self, t: &mut Tape, p: &[Var], ids: Var, labels: Var, options: LossOptions, recompute: bool) -> Var {
        let hidden = self.hidden(t, p, ids, recompute, |_, _| {}); // [B, T, C]
        t.linear_cross_entropy(hidden, p[0], None, labels, options) // [1]
    }
}

impl GptConfig {
    /// The same with other numbers of layers and heads; head size and the inner size per head stay.
    ///
    /// # Errors
    /// More heads than a width can hold.
    pub fn resized(&self, layers: usize, heads: usize) -> Result<Self> {
        let per_head = |size: usize| (size / self.heads).checked_mul(heads);
        match (per_head(self.width), per_head(self.ffn)) {
            (Some(width), Some(ffn)) => Ok(GptConfig { layers, heads, width, ffn, ..self.clone() }),
            _ => bail!("{heads} heads are beyond reason; use fewer"),
        }
    }
}

/// The table, in forward order.
fn params(config: &GptConfig) -> Vec<Param> {
    let &GptConfig { vocab, context, width, layers, ffn, init_std, .. } = config;
    let (out, input) =
        (|role, size| Axis::new(Side::Out, &[(role, size)]), |role, size| Axis::new(Side::In, &[(role, size)]));
    let qkv = || Axis::new(Side::Out, &[(Role::QueryKey, width), (Role::QueryKey, width), (Role::Value, width)]);
    let embed = || out(Role::Embed, width);
    let (normal, scaled) = (Init::Normal(init_std), Init::Normal(init_std / (2.0 * layers as f64).sqrt()));
    let (zero, one) = (Init::Constant(0.0), Init::Constant(1.0));
    let param = |stem: &str, axes: Vec<Axis>, kind, init| Param {
        stem: format!("transformer.{stem}"),
        layer: None,
        decay: axes.len() > 1,
        axes,
        kind,
        init,
    };
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
    all.push(param("ln_f.weight", vec![embed()], Kind::HeadNorm, one));
    all.push(param("ln_f.bias", vec![embed()], Kind::HeadNorm, zero));
    all
}
