//! Model definitions: parameter tables, and forward code that is recorded on a tape.
//!
//! [`gpt`], [`bert`] and [`deit`] are the families. [`params`] describes parameters and their roles, [`store`] holds
//! parameters in device memory, and [`feed`] copies batches to the device.

pub mod bert;
pub mod deit;
pub mod feed;
pub mod gpt;
mod inputs;
pub mod params;
pub mod pass;
pub mod store;

pub use inputs::{BatchShape, Content, Input};

use crate::bail;
use crate::error::Result;
use crate::tape::{LossOptions, Tape, Var};
use params::ParamTable;

/// The configuration of a model, by family.
#[derive(Clone, Copy, Debug)]
pub enum Family<'a> {
    /// A GPT-2.
    Gpt(&'a gpt::GptConfig),
    /// A BERT.
    Bert(&'a bert::BertConfig),
    /// A DeiT.
    Deit(&'a deit::DeitConfig),
}

/// The loss `[1]`, and a second loss for models that learn two tasks at once. Training minimises their sum.
pub type Losses = (Var, Option<Var>);

/// The options of the first and of the second loss.
pub type EachLoss = [LossOptions; 2];

/// The scores that the heads of a model give each example: per head `[B, 1, classes]`, or `[B, 1, 1]` for regression.
pub type Scores = [Option<Var>; 2];

/// A model of any family, as training and evaluation use it.
pub trait Model {
    /// Returns the table of parameters, in forward order.
    fn table(&self) -> &ParamTable;

    /// Returns the configuration, which checkpoints store next to the weights.
    fn family(&self) -> Family<'_>;

    /// Returns the same model with another number of layers and heads. The head size and the ffn size per head stay.
    ///
    /// # Errors
    /// The sizes are invalid or too large.
    fn resized(&self, layers: usize, heads: usize) -> Result<Box<dyn Model>>;

    /// Returns the inputs of [`Model::loss`], in order.
    fn inputs(&self, shape: BatchShape) -> Vec<Input>;

    /// Records the forward pass and the loss. `params` are in the order of [`Model::table`], `inputs` in that of
    /// [`Model::inputs`]. With `recompute`, each block is a segment of the tape, so that only its input is saved for
    /// the backward pass.
    fn loss(&self, tape: &mut Tape, params: &[Var], inputs: &[Var], options: EachLoss, recompute: bool) -> Losses;

    /// Records an evaluation: [`Model::loss`] and, for models of labelled examples, the scores to compare with the
    /// labels.
    fn evaluation(&self, tape: &mut Tape, params: &[Var], inputs: &[Var]) -> (Losses, Scores) {
        (self.loss(tape, params, inputs, EachLoss::default(), false), [None; 2])
    }
}

/// Ten times the depth of the deepest published transformer. For more layers, the parameter table alone would take
/// gigabytes.
const MOST_LAYERS: usize = 10_000;

/// Checks the sizes of a model: `layers`, `heads`, `width`, `ffn`, and `others` by name.
///
/// # Errors
/// A size is zero or too large, or the heads do not divide the width and the ffn size.
fn check_sizes(others: &[(&str, usize)], (layers, heads, width, ffn): (usize, usize, usize, usize)) -> Result<()> {
    let sizes = [("heads", heads), ("width", width), ("layers", layers), ("ffn", ffn)];
    for (what, size) in others.iter().chain(&sizes) {
        if *size == 0 || *size >= 1 << 31 {
            bail!("{what} is {size}; it must be at least 1 and below 2^31");
        }
    }
    if !width.is_multiple_of(heads) || !ffn.is_multiple_of(heads) {
        bail!("width {width} and ffn size {ffn} must be multiples of the {heads} heads; change one of them");
    }
    if layers > MOST_LAYERS {
        bail!("{layers} layers are too many; use at most {MOST_LAYERS}");
    }
    Ok(())
}

/// Returns `(width, ffn)` for `to` heads instead of `from`. The head size and the ffn size per head stay.
///
/// # Errors
/// The sizes overflow.
fn resized((width, ffn): (usize, usize), from: usize, to: usize) -> Result<(usize, usize)> {
    let per_head = |size: usize| (size / from).checked_mul(to);
    match (per_head(width), per_head(ffn)) {
        (Some(width), Some(ffn)) => Ok((width, ffn)),
        _ => bail!("{to} heads are too many; use fewer"),
    }
}
