//! Models: a table of parameters, and forward code that records on a tape. Nothing here computes or trains.

pub mod bert;
pub mod deit;
pub mod feed;
pub mod gpt;
mod inputs;
pub mod params;
pub mod store;

pub use inputs::{BatchShape, Content, Input};

use crate::bail;
use crate::error::Result;
use crate::tape::{LossOptions, Tape, Var};
use params::ParamTable;

/// A model's configuration, by family.
#[derive(Clone, Copy, Debug)]
pub enum Family<'a> {
    Gpt(&'a gpt::GptConfig),
    Bert(&'a bert::BertConfig),
    Deit(&'a deit::DeitConfig),
}

/// A loss, `[1]`, and a second one of models that learn two things at once: what is minimised is their sum.
pub type Losses = (Var, Option<Var>);

/// The options of the first loss and of the second.
pub type EachLoss = [LossOptions; 2];

/// What the heads of a model give each example: of every head `[B, 1, classes]`, or one number `[B, 1, 1]`.
pub type Scores = [Option<Var>; 2];

/// What the trainer needs of a model, whatever its family.
pub trait Model {
    /// Parameters in forward order.
    fn table(&self) -> &ParamTable;

    /// Its sizes, by family: what a checkpoint stores beside the weights.
    fn family(&self) -> Family<'_>;

    /// The same model with other numbers of layers and heads, at the same head size.
    ///
    /// # Errors
    /// Sizes that do not fit.
    fn resized(&self, layers: usize, heads: usize) -> Result<Box<dyn Model>>;

    /// What [`Model::loss`] takes, in its order.
    fn inputs(&self, shape: BatchShape) -> Vec<Input>;

    /// Records the forward pass and the loss of `inputs`, as [`Model::inputs`] lists them; `params` beside the table, `options` of
    /// each loss. `recompute`: blocks are segments of the tape, so only their inputs are kept for the backward pass.
    fn loss(&self, tape: &mut Tape, params: &[Var], inputs: &[Var], options: EachLoss, recompute: bool) -> Losses;

    /// Records an evaluation: as [`Model::loss`], with the scores that the labels are compared with, where examples have labels.
    fn evaluation(&self, tape: &mut Tape, params: &[Var], inputs: &[Var]) -> (Losses, Scores) {
        (self.loss(tape, params, inputs, EachLoss::default(), false), [None; 2])
    }
}

/// Ten times the deepest transformer that anybody published; tables of more would take gigabytes before any weight.
const MOST_LAYERS: usize = 10_000;

/// What every family asks of its sizes: of `layers`, `heads`, `width` and `ffn`, and of `others` by name.
fn check_sizes(others: &[(&str, usize)], (layers, heads, width, ffn): (usize, usize, usize, usize)) -> Result<()> {
    let sizes = [("heads", heads), ("width", width), ("layers", layers), ("ffn", ffn)];
    for (what, size) in others.iter().chain(&sizes) {
        if *size == 0 || *size >= 1 << 31 {
            bail!("{what} is {size}; it must be at least 1 and below 2^31");
        }
    }
    if !width.is_multiple_of(heads) || !ffn.is_multiple_of(heads) {
        bail!("{heads} heads do not divide a width of {width} and an inner size of {ffn}; choose a multiple");
    }
    if layers > MOST_LAYERS {
        bail!("{layers} layers are beyond reason; use at most {MOST_LAYERS}");
    }
    Ok(())
}

/// `(width, ffn)` for `to` heads in place of `from`; head size and the inner size per head stay.
///
/// # Errors
/// More heads than a width can hold.
fn resized((width, ffn): (usize, usize), from: usize, to: usize) -> Result<(usize, usize)> {
    let per_head = |size: usize| (size / from).checked_mul(to);
    match (per_head(width), per_head(ffn)) {
        (Some(width), Some(ffn)) => Ok((width, ffn)),
        _ => bail!("{to} heads are beyond reason; use fewer"),
    }
}
