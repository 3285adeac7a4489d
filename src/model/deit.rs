//! DeiT (Touvron et al., arXiv 2012.12877): a vision transformer (Dosovitskiy et al., arXiv 2010.11929) with a class
//! token and, if distilled, a distillation token, which usually has its own head. Pre-LN, erf GELU, learned positions,
//! stochastic depth.
//!
//! Parameter names and layout are those of timm's `VisionTransformer`: weights are `[out, in]`.
//!
//! The patch embedding, a convolution whose stride equals its kernel size, is computed as a GEMM. The input rows of
//! special tokens are zero. What is added to each row comes from one lookup table: the convolution's bias for patches,
//! the class token, and the distillation token.

mod table;

use super::params::ParamTable;
use super::{BatchShape, EachLoss, Family, Input, Losses, Model, Scores, check_sizes};
use crate::bail;
use crate::device::ops::Activation;
use crate::error::Result;
use crate::tape::{Affine, LossOptions, Tape, Var, Weight};

/// Sizes and constants of a DeiT.
#[derive(Clone, Debug, PartialEq)]
pub struct DeitConfig {
    /// S: height and width of an image.
    pub image: usize,
    /// p: height and width of a patch.
    pub patch: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Number of classes.
    pub classes: usize,
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
    /// The distillation token.
    pub distillation: Distillation,
    /// Dropout rate of the embeddings and of the residual branches.
    pub dropout: f32,
    /// Stochastic-depth rate of the last layer. Layer l of L, counted from 0, has l / (L - 1) of it.
    pub drop_path: f32,
}

impl Default for DeitConfig {
    /// DeiT-S as published (22M parameters), without distillation.
    fn default() -> Self {
        DeitConfig {
            image: 224,
            patch: 16,
            channels: 3,
            classes: 1000,
            width: 384,
            heads: 6,
            layers: 12,
            ffn: 1536,
            eps: 1e-6,
            init_std: 0.02,
            distillation: Distillation::None,
            dropout: 0.0,
            drop_path: 0.1,
        }
    }
}

/// The distillation token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distillation {
    /// There is no distillation token.
    #[default]
    None,
    /// There is one without a head: it only takes part in attention.
    Token,
    /// There is one with its own head.
    Head,
}

/// A DeiT: its configuration and parameter table.
pub struct Deit {
    /// Sizes and constants.
    pub config: DeitConfig,
    table: ParamTable,
}

/// Number of parameters per layer.
const PER_BLOCK: usize = 12;
/// Number of parameters before the first layer.
const BEFORE: usize = 3;

impl DeitConfig {
    /// Returns the number of special tokens: the class token and the distillation token, if any.
    pub fn specials(&self) -> usize {
        1 + usize::from(self.distillation != Distillation::None)
    }

    /// Returns the number of special tokens with a head. They come first.
    pub fn heads_of_classes(&self) -> usize {
        1 + usize::from(self.distillation == Distillation::Head)
    }

    /// Returns N, the number of tokens: special tokens and patches.
    pub fn tokens(&self) -> usize {
        self.specials() + (self.image / self.patch.max(1)).pow(2)
    }

    /// Returns K, the number of values in a patch.
    pub fn pixels(&self) -> usize {
        self.channels * self.patch * self.patch
    }
}

impl Deit {
    /// Builds the parameter table.
    ///
    /// # Errors
    /// A size is zero or too large, the patch size does not divide the image size, the heads do not divide the width,
    /// or there are too many parameters.
    pub fn new(config: DeitConfig) -> Result<Self> {
        let DeitConfig { image, patch, channels, classes, width, heads, layers, ffn, .. } = config;
        let sizes = [("image", image), ("patch", patch), ("channels", channels), ("classes", classes)];
        check_sizes(&sizes, (layers, heads, width, ffn))?;
        if !image.is_multiple_of(patch) || image >= 1 << 15 || channels > 1 << 10 {
            bail!(
                "cannot cut {channels} channels of {image} x {image} into patches of {patch} x {patch}; use at most \
                 1024 channels and an image size below 32768 that the patch size divides"
            );
        }
        let table = ParamTable::new(table::params(&config), heads, width / heads, layers)?;
        Ok(Deit { config, table })
    }

    /// Records the forward pass up to the heads: patches `[B, N, K]` and the kind of each token `[B, N]` -> hidden
    /// states `[B, N, C]`. `each` is called with the residual stream before every layer and before the last norm.
    pub fn hidden(
        &self,
        t: &mut Tape,
        p: &[Var],
        (patches, kinds): (Var, Var),
        recompute: bool,
        mut each: impl FnMut(&mut Tape, Var),
    ) -> Var {
        let c = &self.config;
        let &[tokens, positions, patch_w] = &p[..BEFORE] else { unreachable!("{BEFORE} parameters come first") };
        let x = t.embedding(kinds, tokens, Some(positions)); // [B, N, C]
        let x = t.linear(patches, patch_w, Affine { weight: Weight::OutIn, ..Affine::default() }.residual(x)); // [B, N, C]
        let mut x = t.dropout(x, None, c.dropout);
        for (number, block) in p[BEFORE..BEFORE + PER_BLOCK * c.layers].chunks_exact(PER_BLOCK).enumerate() {
            each(t, x);
            x = if recompute {
                t.segment(|t| self.block(t, block, x, number))
            } else {
                self.block(t, block, x, number)
            };
        }
        each(t, x);
        let norm = BEFORE + PER_BLOCK * c.layers;
        t.layernorm(x, p[norm], p[norm + 1], c.eps) // [B, N, C]
    }

    /// Records layer `number`, counted from 0: `[B, N, C]` -> `[B, N, C]`.
    fn block(&self, t: &mut Tape, p: &[Var], x: Var, number: usize) -> Var {
        let c = &self.config;
        let &[ln_1_w, ln_1_b, qkv_w, qkv_b, proj_w, proj_b, ln_2_w, ln_2_b, fc_w, fc_b, out_w, out_b] = p else {
            unreachable!("a block has {PER_BLOCK} parameters")
        };
        let a = t.layernorm(x, ln_1_w, ln_1_b, c.eps); // [B, N, C]
        let a = t.linear(a, qkv_w, dense(qkv_b)); // [B, N, 3 C]: queries, keys, values
        let a = t.attention(a, c.heads, false, None, 0.0); // [B, N, C]
        let x = self.add(t, (a, proj_w, proj_b), x, number); // [B, N, C]
        let m = t.layernorm(x, ln_2_w, ln_2_b, c.eps); // [B, N, C]
        let m = t.linear(m, fc_w, dense(fc_b).activation(Activation::GeluErf)); // [B, N, F]
        self.add(t, (m, out_w, out_b), x, number) // [B, N, C]
    }

    /// Records `x + drop(branch W^T + b)`. Without dropout and stochastic depth, the sum is fused into the GEMM's
    /// epilogue.
    fn add(&self, t: &mut Tape, (branch, w, b): (Var, Var, Var), x: Var, number: usize) -> Var {
        let DeitConfig { layers, dropout, drop_path, .. } = self.config;
        let path = drop_path * number as f32 / layers.saturating_sub(1).max(1) as f32;
        if !t.is_training() || (dropout == 0.0 && path == 0.0) {
            return t.linear(branch, w, dense(b).residual(x));
        }
        let branch = t.linear(branch, w, dense(b));
        match path == 0.0 {
            true => t.dropout(branch, Some(x), dropout),
            false => {
                let branch = t.dropout(branch, None, dropout);
                t.drop_path(branch, Some(x), path)
            }
        }
    }

    /// Records the class scores: hidden `[B, N, C]` and, for each token with a head, its rows `[B, 1]` ->
    /// `[B, 1, classes]` of the class token and, if it has a head, of the distillation token.
    pub fn scores(&self, t: &mut Tape, p: &[Var], hidden: Var, rows: &[Var]) -> (Var, Option<Var>) {
        let head = BEFORE + PER_BLOCK * self.config.layers + 2;
        let mut scores = |row: Var, w: Var, b: Var| {
            let x = t.rows(hidden, row); // [B, 1, C]
            t.linear(x, w, dense(b)) // [B, 1, classes]
        };
        let class = scores(rows[0], p[head], p[head + 1]);
        (class, rows.get(1).map(|row| scores(*row, p[head + 2], p[head + 3])))
    }
}

/// Returns the options of a linear layer with a bias and a weight `[out, in]`, as timm stores it.
fn dense(bias: Var) -> Affine {
    Affine { weight: Weight::OutIn, ..Affine::bias(bias) }
}

impl Model for Deit {
    fn table(&self) -> &ParamTable {
        &self.table
    }

    fn family(&self) -> Family<'_> {
        Family::Deit(&self.config)
    }

    fn resized(&self, layers: usize, heads: usize) -> Result<Box<dyn Model>> {
        let c = &self.config;
        let (width, ffn) = super::resized((c.width, c.ffn), c.heads, heads)?;
        Ok(Box::new(Deit::new(DeitConfig { layers, heads, width, ffn, ..c.clone() })?))
    }

    fn inputs(&self, BatchShape { batch, .. }: BatchShape) -> Vec<Input> {
        let c = &self.config;
        let (tokens, specials) = (c.tokens(), c.specials());
        let kinds = (0..batch * tokens).map(|i| if i % tokens < specials { (i % tokens + 1) as i32 } else { 0 });
        let mut all = vec![
            Input::floats("patches", &[batch, tokens, c.pixels()]),
            Input::ints("labels", &[batch]).labels_of(&[0, 1][..c.heads_of_classes()]),
            Input::ints("other labels", &[batch]),
            Input::wide("share", &[batch]),
            Input::fixed("kinds of tokens", &[batch, tokens], kinds.collect()),
        ];
        let rows = |special: usize| (0..batch).map(|b| (b * tokens + special) as i32).collect();
        all.extend((0..c.heads_of_classes()).map(|s| Input::fixed("rows of special tokens", &[batch, 1], rows(s))));
        all
    }

    fn loss(&self, t: &mut Tape, p: &[Var], inputs: &[Var], options: EachLoss, recompute: bool) -> Losses {
        self.labelled(t, p, inputs, options, recompute).0
    }

    fn evaluation(&self, t: &mut Tape, p: &[Var], inputs: &[Var]) -> (Losses, Scores) {
        let (losses, scores) = self.labelled(t, p, inputs, EachLoss::default(), false);
        (losses, [Some(scores.0), scores.1])
    }
}

impl Deit {
    /// Records the losses and the scores of [`Deit::scores`].
    fn labelled(
        &self,
        t: &mut Tape,
        p: &[Var],
        inputs: &[Var],
        [of_class, of_distilled]: EachLoss,
        recompute: bool,
    ) -> (Losses, (Var, Option<Var>)) {
        let &[patches, labels, others, share, kinds, ref rows @ ..] = inputs else {
            unreachable!("the inputs of this model")
        };
        let hidden = self.hidden(t, p, (patches, kinds), recompute, |_, _| {}); // [B, N, C]
        let (class, distilled) = self.scores(t, p, hidden, rows); // [B, 1, classes]
        // Both heads learn the labels: there is no teacher.
        let heads = self.config.heads_of_classes() as f64;
        let mut loss = |scores, options: LossOptions| {
            let options = LossOptions { weight: options.weight / heads, ..options };
            t.cross_entropy_mixed(scores, labels, (others, share), options) // [1]
        };
        ((loss(class, of_class), distilled.map(|scores| loss(scores, of_distilled))), (class, distilled))
    }
}
