//! Models: a table of parameters, and forward code that records on a tape. Nothing here computes or trains.

pub mod bert;
pub mod deit;
pub mod gpt;
pub mod params;
pub mod store;

use crate::error::Result;
use crate::tape::{LossOptions, Tape, Var};
use params::ParamTable;

/// A model's configuration, by family.
#[derive(Clone, Copy, Debug)]
pub enum Family<'a> {
    Gpt(&'a gpt::GptConfig),
}

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

    /// Records the forward pass and the loss: ids and labels `[B, T]`, `params` beside the table, the result `[1]`.
    /// `recompute`: blocks are segments of the tape, so only their inputs are kept for the backward pass.
    fn loss(
        &self,
        tape: &mut Tape,
        params: &[Var],
        ids: Var,
        labels: Var,
        options: LossOptions,
        recompute: bool,
    ) -> Var;
}
