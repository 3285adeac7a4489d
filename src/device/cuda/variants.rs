//! The one table of kernel variants, which the device, `kernels list`, `kernels check` and the tests iterate.
//!
//! For every operation a ladder, slowest and most readable first. The device takes the last one that supports the operation.

use super::launch::Launch;
use super::places::Places;
use super::{accumulate, activation, adamw, attention, attention_backward, column_sum, cross_entropy, dropout};
use super::{embedding, fill, global_norm, layernorm, linear, multilevel};
use crate::device::ops::{NAMES, Op};
use crate::tensor::DType;

/// One way to run an operation.
pub struct Variant {
    /// The stem of its operation.
    pub operation: &'static str,
    /// `naive`, `tiled`, ...
    pub name: &'static str,
    /// Types in which it computes.
    pub floats: &'static [DType],
    /// All kernels that it may launch.
    pub kernels: &'static [&'static str],
    /// Whether it runs this operation.
    pub supports: fn(&Op) -> bool,
    /// Bytes of [`Places::workspace`] that it needs for this operation.
    pub workspace: fn(&Op) -> usize,
    /// The launches, in order.
    pub launch: fn(&Op, &Places, &mut Vec<Launch>),
}

/// `variants!(OpName { "name" [types] => [kernels], supports, launch (, workspace); ... } ...)`.
macro_rules! variants {
    ($($operation:ident { $(
        $name:literal [$($float:ident),+] => [$($kernel:literal),+], $supports:expr, $launch:path $(, $workspace:path)?;
    )+ })+) => {
        /// The table.
        pub const VARIANTS: &[Variant] = &[$($(Variant {
            operation: <crate::device::ops::$operation as crate::device::ops::Operation>::NAME,
            name: $name,
            floats: &[$(DType::$float),+],
            kernels: &[$($kernel),+],
            supports: |op| match op {
                Op::$operation(inner) => {
                    op.float().is_none_or(|float| [$(DType::$float),+].contains(&float))
                        && ($supports as fn(&crate::device::ops::$operation) -> bool)(inner)
                }
                _ => false,
            },
            workspace: |op| match op {
                $(Op::$operation(op) => $workspace(op),)?
                _ => { let _ = op; 0 }
            },
            launch: |op, places, out| if let Op::$operation(op) = op { $launch(op, places, out) },
        }),+),+];
    };
}

variants! {
    Accumulate { "naive" [F32] => ["accumulate_f32"], |_| true, accumulate::naive; }
    ActivationBackward { "naive" [F32] => ["activation_backward_f32"], |_| true, activation::naive; }
    AdamW { "naive" [F32] => ["adamw_f32"], |_| true, adamw::naive; }
    Attention {
        "naive" [F32] => ["attention_naive_f32"], |_| true, attention::naive;
        "tiled" [F32] => ["attention_tiled_32_f32", "attention_tiled_64_f32", "attention_tiled_128_f32"],
            attention::fits_tile, attention::tiled;
    }
    AttentionBackward {
        "naive" [F32] => ["attention_delta_f32", "attention_dq_naive_f32", "attention_dkdv_naive_f32"],
            |_| true, attention_backward::naive;
        "tiled" [F32] => [
            "attention_delta_f32",
            "attention_dq_tiled_32_f32", "attention_dq_tiled_64_f32", "attention_dq_tiled_128_f32",
            "attention_dkdv_tiled_32_f32", "attention_dkdv_tiled_64_f32", "attention_dkdv_tiled_128_f32"
        ], attention_backward::fits_tile, attention_backward::tiled;
    }
    ColumnSum {
        "naive" [F32] => ["column_sum_naive_f32"], |_| true, column_sum::naive;
        "tiled" [F32] => ["column_sum_tiled_f32"], |_| true, column_sum::tiled;
    }
    CrossEntropy {
        "naive" [F32] => ["cross_entropy_count", "cross_entropy_naive_f32", "cross_entropy_loss_f32"],
            |_| true, cross_entropy::naive;
        "block" [F32] => ["cross_entropy_count", "cross_entropy_block_f32", "cross_entropy_loss_f32"],
            |_| true, cross_entropy::block;
    }
    Dropout { "naive" [F32] => ["dropout_f32"], |_| true, dropout::naive; }
    Embedding { "naive" [F32] => ["embedding_f32"], |_| true, embedding::naive; }
    EmbeddingBackward {
        "naive" [F32] => ["embedding_backward_naive_f32", "embedding_positions_f32"], |_| true, embedding::backward_naive;
        "owner" [F32] => ["embedding_clear_f32", "embedding_backward_owner_f32", "embedding_positions_f32"],
            |_| true, embedding::backward_owner;
    }
    Fill { "naive" [F32] => ["fill_f32"], |_| true, fill::naive; }
    GlobalNorm { "block" [F32] => ["global_norm_partials_f32", "global_norm_finish_f32"], |_| true, global_norm::block; }
    LayerNorm {
        "naive" [F32] => ["layernorm_naive_f32"], |_| true, layernorm::naive;
        "warp" [F32] => ["layernorm_warp_f32"], |_| true, layernorm::warp;
    }
    LayerNormBackward {
        "naive" [F32] => ["layernorm_dx_naive_f32", "layernorm_partials_naive_f32", "layernorm_finish_f32"],
            |_| true, layernorm::backward_naive;
        "warp" [F32] => ["layernorm_backward_warp_f32", "layernorm_finish_f32"],
            layernorm::fits_shared, layernorm::backward_warp;
    }
    Linear {
        "naive" [F32] => ["linear_naive_f32"], |_| true, linear::naive;
        "shared" [F32] => ["linear_shared_f32"], |_| true, linear::shared;
        "tiled" [F32] => ["linear_tiled_nn_f32", "linear_tiled_nt_f32", "linear_tiled_tn_f32", "linear_tiled_tt_f32"],
            |op| op.sizes().2 > 0, linear::tiled;
    }
    Multilevel {
        "naive" [F32] => ["multilevel_naive_f32"], |_| true, multilevel::naive;
        "row" [F32] => ["multilevel_row_f32"], |_| true, multilevel::row;
    }
}

/// All variants of an operation, from the most readable to the one that the device prefers.
pub fn ladder(operation: &str) -> impl DoubleEndedIterator<Item = &'static Variant> {
    VARIANTS.iter().filter(move |v| v.operation == operation)
}

/// The variant that runs this operation: the last of its ladder that supports it.
pub fn choose(op: &Op) -> Option<&'static Variant> {
    ladder(NAMES[op.number()]).rev().find(|v| (v.supports)(op))
}
