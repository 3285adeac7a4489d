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
    Accumulate {
        "naive" [F32, BF16] => ["accumulate_f32", "accumulate_bf16", "accumulate_f32_bf16", "accumulate_bf16_f32"],
            |_| true, accumulate::naive;
        "vector" [F32, BF16] => [
            "accumulate_vector_f32", "accumulate_vector_bf16", "accumulate_vector_f32_bf16", "accumulate_vector_bf16_f32"
        ], accumulate::is_whole, accumulate::vector;
    }
    ActivationBackward {
        "naive" [F32, BF16] => ["activation_backward_f32", "activation_backward_bf16"], |_| true, activation::naive;
        "vector" [F32, BF16] => ["activation_backward_vector_f32", "activation_backward_vector_bf16"],
            activation::is_whole, activation::vector;
    }
    AdamW {
        "naive" [F32, BF16] => ["adamw_f32"], adamw::fits_copy, adamw::naive;
        "vector" [F32, BF16] => ["adamw_vector_f32"], adamw::is_whole, adamw::vector;
    }
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
        "naive" [F32, BF16] => ["column_sum_naive_f32", "column_sum_naive_bf16"], |_| true, column_sum::naive;
        "tiled" [F32, BF16] => ["column_sum_tiled_f32", "column_sum_tiled_bf16"], |_| true, column_sum::tiled;
        "vector" [F32, BF16] => ["column_sum_vector_f32", "column_sum_vector_bf16", "column_sum_tiled_f32"],
            column_sum::is_whole, column_sum::vector, column_sum::workspace;
    }
    CrossEntropy {
        "naive" [F32, BF16] => [
            "cross_entropy_count", "cross_entropy_naive_f32", "cross_entropy_naive_bf16", "cross_entropy_loss_f32"
        ], |_| true, cross_entropy::naive;
        "block" [F32, BF16] => [
            "cross_entropy_count", "cross_entropy_block_f32", "cross_entropy_block_bf16", "cross_entropy_loss_f32"
        ], |_| true, cross_entropy::block;
        "vector" [F32, BF16] => [
            "cross_entropy_count", "cross_entropy_loss_f32",
            "cross_entropy_vector_128_f32", "cross_entropy_vector_128_bf16",
            "cross_entropy_vector_512_f32", "cross_entropy_vector_512_bf16"
        ], cross_entropy::is_aligned, cross_entropy::vector;
    }
    Dropout {
        "naive" [F32, BF16] => ["dropout_f32", "dropout_bf16"], |_| true, dropout::naive;
        "vector" [F32, BF16] => ["dropout_vector_f32", "dropout_vector_bf16"], dropout::is_whole, dropout::vector;
    }
    Embedding {
        "naive" [F32, BF16] => ["embedding_f32", "embedding_bf16"], |_| true, embedding::naive;
        "vector" [F32, BF16] => ["embedding_vector_f32", "embedding_vector_bf16"],
            embedding::is_whole, embedding::vector;
    }
    EmbeddingBackward {
        "naive" [F32, BF16] => [
            "embedding_backward_naive_f32", "embedding_backward_naive_bf16",
            "embedding_positions_f32", "embedding_positions_bf16"
        ], |_| true, embedding::backward_naive;
        "owner" [F32, BF16] => [
            "embedding_clear_f32", "embedding_backward_owner_f32", "embedding_backward_owner_bf16",
            "embedding_positions_f32", "embedding_positions_bf16"
        ], |_| true, embedding::backward_owner;
    }
    Fill {
        "naive" [F32, BF16] => ["fill_f32", "fill_bf16"], |_| true, fill::naive;
        "vector" [F32, BF16] => ["fill_vector_f32", "fill_vector_bf16"], fill::is_whole, fill::vector;
    }
    GlobalNorm { "block" [F32] => ["global_norm_partials_f32", "global_norm_finish_f32"], |_| true, global_norm::block; }
    LayerNorm {
        "naive" [F32, BF16] => ["layernorm_naive_f32", "layernorm_naive_bf16"], |_| true, layernorm::naive;
        "warp" [F32, BF16] => ["layernorm_warp_f32", "layernorm_warp_bf16"], |_| true, layernorm::warp;
        "vector" [F32, BF16] => [
            "layernorm_vector_512_f32", "layernorm_vector_1024_f32",
            "layernorm_vector_4096_f32", "layernorm_vector_8192_f32",
            "layernorm_vector_512_bf16", "layernorm_vector_1024_bf16",
            "layernorm_vector_4096_bf16", "layernorm_vector_8192_bf16"
        ], layernorm::fits_registers, layernorm::vector;
    }
    LayerNormBackward {
        "naive" [F32, BF16] => [
            "layernorm_dx_naive_f32", "layernorm_dx_naive_bf16",
            "layernorm_partials_naive_f32", "layernorm_partials_naive_bf16", "layernorm_finish_f32"
        ], |_| true, layernorm::backward_naive;
        "warp" [F32, BF16] => ["layernorm_backward_warp_f32", "layernorm_backward_warp_bf16", "layernorm_finish_f32"],
            layernorm::fits_shared, layernorm::backward_warp;
        "vector" [F32, BF16] => [
            "layernorm_backward_vector_f32", "layernorm_backward_vector_bf16", "layernorm_finish_tiled_f32"
        ], layernorm::fits_block, layernorm::backward_vector, layernorm::workspace;
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
