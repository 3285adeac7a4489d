//! DeiT (Touvron et al., arXiv 2012.12877): a vision transformer (Dosovitskiy et al., arXiv 2010.11929) with a class token
//! and, distilled, a second token, mostly with a head of its own. Pre-LN, erf GELU, learned positions, stochastic
//! depth.
//!
//! Names and layout are those of timm's `VisionTransformer`: weights `[out, in]`.
//!
//! The convolution that makes tokens of patches is a product: its stride is its size. Rows of the input that stand for
//! special tokens are zero, and what is added to a row comes from one table of look-ups: the convolution's bias for
//! patches, the class token, the distillation token.

mod table;

use super::params::ParamTable;
use super::{BatchShape, EachLoss, Family, Input, Losses, Model, Scores, check_sizes};
use crate::bail;
use crate::device::ops::Activation;
use crate::error::Result;
use crate::tape::{Affine, LossOptions, Tape, Var, Weight};

/// Sizes and constants.
#[derive(Clone, Debug, PartialEq)]
pub struct DeitConfig {
    /// S: height and width of an image.
    pub image: usize,
    /// p: height and width of a patch.
    pub patch: usize,
    pub channels: usize,
    pub classes: usize,
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
    pub distillation: Distillation,
    /// Of the sum of tokens and positions, and of what branches add.
    pub dropout: f32,
    /// Stochastic depth of the last layer; that of layer l of L is l / (L - 1) of it.
    pub drop_path: f32,
}

/// The second special token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Distillation {
    /// There is none.
    #[default]
    None,
    /// It takes part in attention, and no head reads it.
    Token,
    /// It has a head of its own.
    Head,
}

/// The model: its sizes and its table.
pub struct Deit {
    pub config: DeitConfig,
    table: ParamTable,
}

/// Parameters of a layer, and before the first one.
const PER_BLOCK: usize = 12;
const BEFORE: usize = 3;

impl DeitConfig {
    /// Class token, and distillation token where there is one.
    pub fn specials(&self) -> usize {
        1 + usize::from(self.distillation != Distillation::None)
    }

    /// Special tokens that a head reads: the first ones.
    pub fn heads_of_classes(&self) -> usize {
        1 + usize::from(self.distillation == Distillation::Head)
    }

    /// N: special tokens and patches.
    pub fn tokens(&self) -> usize {
        self.specials() + (self.image / self.patch.max(1)).pow(2)
    }

    /// K: numbers of a patch.
    pub fn pixels(&self) -> usize {
        self.channels * self.patch * self.patch
    }
}

impl Deit {
    /// # Errors
    /// Sizes of zero, patches that do not divide an image, a width that the heads do not divide, too many parameters.
    pub fn new(config: DeitConfig) -> Result<Self> {
        let DeitConfig { image, patch, channels, classes, width, heads, layers, ffn, .. } = config;
        let sizes = [("image", image), ("patch", patch), ("channels", channels), ("classes", classes)];
        check_sizes(&sizes, (layers, heads, width, ffn))?;
        if !image.is_multiple_of(patch) || image >= 1 << 15 || channels > 1 << 10 {
            bail!(
                "patches of {patch} x {patch} do not divide {channels} channels of {image} x {image}; choose a divisor"
            );
        }
        let table = ParamTable::new(table::params(&config), heads, width / heads, layers)?;
        Ok(Deit { config, table })
    }

    /// Hidden states: patches `[B, N, K]`, the kind of each token `[B, N]` -> `[B, N, C]`. `each` sees the stream before
    /// every block, and before the last norm.
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

    /// Layer `number`: `[B, N, C]` -> `[B, N, C]`.
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

    /// `x + drop(branch W^T + b)`, in the product's epilogue where nothing is dropped.
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

    /// Scores of the classes: hidden `[B, N, C]`, the rows of the tokens with a head `[B, 1]` each -> `[B, 1, classes]`
    /// of the class token and, where it has a head, of the other one.
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

/// With a weight as timm stores it.
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
    /// The losses, and the scores of [`Deit::scores`].
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
        // Both heads learn the labels, as without a teacher.
        let heads = self.config.heads_of_classes() as f64;
        let mut loss = |scores, options: LossOptions| {
            let options = LossOptions { weight: options.weight / heads, ..options };
            t.cross_entropy_mixed(scores, labels, (others, share), options) // [1]
        };
        ((loss(class, of_class), distilled.map(|scores| loss(scores, of_distilled))), (class, distilled))
    }
}
