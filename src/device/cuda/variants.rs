//! The one table of kernel variants, which the device, `kernels list`, `kernels check` and the tests iterate.
//!
//! For every operation a ladder, slowest and most readable first. The device takes the last one that supports the operation.

use super::launch::Launch;
use super::places::Places;
use super::{accumulate, activation, adamw, attention, attention_backward, column_sum, cross_entropy, dropout};
use super::{embedding, fill, global_norm, layernorm, linear, multilevel};
use crate::device::ops::{NAMES, Op};

/// One way to run an operation.
pub struct Variant {
    /// The stem of its operation.
    pub operation: &'static str,
    /// `naive`, `tiled`, ...
    pub name: &'static str,
    /// All kernels that it may launch.
    pub kernels: &'static [&'static str],
    /// Whether it runs this operation.
    pub supports: fn(&Op) -> bool,
    /// The launches, in order.
    pub launch: fn(&Op, &Places, &mut Vec<Launch>),
}

/// `variants!(stem: OpName { "naive" => [kernels], supports, launch; ... } ...)`.
macro_rules! variants {
    ($($operation:ident { $($name:literal => [$($kernel:literal),+], $supports:expr, $launch:path;)+ })+) => {
        /// The table.
        pub const VARIANTS: &[Variant] = &[$($(Variant {
            operation: <crate::device::ops::$operation as crate::device::ops::Operation>::NAME,
            name: $name,
            kernels: &[$($kernel),+],
            supports: |op| match op {
                Op::$operation(op) => ($supports as fn(&crate::device::ops::$operation) -> bool)(op),
                _ => false,
            },
            launch: |op, places, out| if let Op::$operation(op) = op { $launch(op, places, out) },
        }),+),+];
    };
}

variants! {
    Accumulate { "naive" => ["accumulate_f32"], |_| true, accumulate::naive; }
    ActivationBackward { "naive" => ["activation_backward_f32"], |_| true, activation::naive; }
    AdamW { "naive" => ["adamw_f32"], |_| true, adamw::naive; }
    Attention {
        "naive" => ["attention_naive_f32"], |_| true, attention::naive;
        "tiled" => ["attention_tiled_32_f32", "attention_tiled_64_f32", "attention_tiled_128_f32"],
            attention::fits_tile, attention::tiled;
    }
    AttentionBackward {
        "naive" => ["attention_delta_f32", "attention_dq_naive_f32", "attention_dkdv_naive_f32"],
            |_| true, attention_backward::naive;
        "tiled" => [
            "attention_delta_f32",
            "attention_dq_tiled_32_f32", "attention_dq_tiled_64_f32", "attention_dq_tiled_128_f32",
            "attention_dkdv_tiled_32_f32", "attention_dkdv_tiled_64_f32", "attention_dkdv_tiled_128_f32"
        ], attention_backward::fits_tile, attention_backward::tiled;
    }
    ColumnSum {
        "naive" => ["column_sum_naive_f32"], |_| true, column_sum::naive;
        "tiled" => ["column_sum_tiled_f32"], |_| true, column_sum::tiled;
    }
    CrossEntropy {
        "naive" => ["cross_entropy_count", "cross_entropy_naive_f32", "cross_entropy_loss_f32"],
            |_| true, cross_entropy::naive;
        "block" => ["cross_entropy_count", "cross_entropy_block_f32", "cross_entropy_loss_f32"],
            |_| true, cross_entropy::block;
    }
    Dropout { "naive" => ["dropout_f32"], |_| true, dropout::naive; }
    Embedding { "naive" => ["embedding_f32"], |_| true, embedding::naive; }
    EmbeddingBackward {
        "naive" => ["embedding_backward_naive_f32", "embedding_positions_f32"], |_| true, embedding::backward_naive;
        "owner" => ["embedding_clear_f32", "embedding_backward_owner_f32", "embedding_positions_f32"],
            |_| true, embedding::backward_owner;
    }
    Fill { "naive" => ["fill_f32"], |_| true, fill::naive; }
    GlobalNorm { "block" => ["global_norm_partials_f32", "global_norm_finish_f32"], |_| true, global_norm::block; }
    LayerNorm {
        "naive" => ["layernorm_naive_f32"], |_| true, layernorm::naive;
        "warp" => ["layernorm_warp_f32"], |_| true, layernorm::warp;
    }
    LayerNormBackward {
        "naive" => ["layernorm_dx_naive_f32", "layernorm_partials_naive_f32", "layernorm_finish_f32"],
            |_| true, layernorm::backward_naive;
        "warp" => ["layernorm_backward_warp_f32", "layernorm_finish_f32"],
            layernorm::fits_shared, layernorm::backward_warp;
    }
    Linear {
        "naive" => ["linear_naive_f32"], |_| true, linear::naive;
        "shared" => ["linear_shared_f32"], |_| true, linear::shared;
        "tiled" => ["linear_tiled_nn_f32", "linear_tiled_nt_f32", "linear_tiled_tn_f32", "linear_tiled_tt_f32"],
            |op| op.sizes().2 > 0, linear::tiled;
    }
    Multilevel {
        "naive" => ["multilevel_naive_f32"], |_| true, multilevel::naive;
        "row" => ["multilevel_row_f32"], |_| true, multilevel::row;
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
