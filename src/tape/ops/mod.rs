//! The forward and backward pass of each operation, one file for each.

mod attention;
mod cross_entropy;
mod dropout;
mod embedding;
mod layernorm;
mod linear;
mod linear_cross_entropy;
mod squared_error;

pub use cross_entropy::LossOptions;
pub use linear::{Affine, Weight};

use super::Tape;
use crate::device::ops::Access;
use crate::tensor::Tensor;

/// A recorded forward operation.
pub(super) trait Recorded {
    /// Calls `visit` for all operands of the operation.
    fn operands(&mut self, visit: &mut dyn FnMut(&mut Tensor, Access));

    /// Records the backward pass of the operation: adds to the gradients of its inputs.
    fn backward(self, tape: &mut Tape);
}

macro_rules! nodes {
    ($($name:ident($node:ty),)+) => {
        /// A node of the computation graph.
        #[derive(Clone, Copy)]
        pub(super) enum Node { $($name($node)),+ }

        impl Recorded for Node {
            fn operands(&mut self, visit: &mut dyn FnMut(&mut Tensor, Access)) {
                match self { $(Node::$name(node) => node.operands(visit)),+ }
            }

            fn backward(self, tape: &mut Tape) {
                match self { $(Node::$name(node) => node.backward(tape)),+ }
            }
        }
    };
}

nodes! {
    Attention(attention::AttentionNode),
    CrossEntropy(cross_entropy::CrossEntropyNode),
    Dropout(dropout::DropoutNode),
    Embedding(embedding::EmbeddingNode),
    LayerNorm(layernorm::LayerNormNode),
    Linear(linear::LinearNode),
    LinearCrossEntropy(linear_cross_entropy::Head),
    SquaredError(squared_error::SquaredErrorNode),
}
