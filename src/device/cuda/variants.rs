//! The table of kernel variants. The device, `kernels list`, `kernels check` and the tests all iterate it.
//!
//! The variants of an operation are ordered from the slowest and most readable to the fastest. The device runs the
//! variant that the environment requests (`VCYCLE_VARIANT_linear=naive`) if it supports the operands, else the
//! supporting variant with the shortest predicted time. Variants with a nondeterministic order of summation run only on
//! request.
//!
//! The time models in the table are rooflines. In `gpu.memory(bytes(*op), 0.7, 1)`, for instance, 0.7 is the efficiency
//! (the fraction of the peak bandwidth that the kernel is expected to reach) and 1 is the number of launches: see
//! [`GpuSpec::memory`] and [`GpuSpec::arithmetic`]. Tensor-core variants have models of their own, next to their launch
//! code.

use super::gpu_spec::GpuSpec;
use super::launch::addresses::Addresses;
use super::launch::sm90::linear::{
    CLUSTER2_128X256, TMA_STORE_64X256, TMA_STORE_128X128, TMA_STORE_128X192, TMA_STORE_128X256, WGMMA_128X128,
    WGMMA_128X256,
};
use super::launch::{
    Launch, accumulate, activation, adamw, attention, attention_backward, column_sum, cross_entropy, dropout,
    embedding, fill, global_norm, layernorm, linear, multilevel, sm80, sm90, squared_error, update,
};
use crate::bail;
use crate::device::ops::{NAMES, Op};
use crate::error::Result;
use crate::tensor::DType;

/// One way to run an operation.
///
/// Other crates cannot construct one, because a device runs the launches without checking the addresses in them.
#[non_exhaustive]
pub struct Variant {
    /// The name of its operation.
    pub operation: &'static str,
    /// Its name, unique within the operation: `naive`, `tiled`, ...
    pub name: &'static str,
    /// The element types that it supports.
    pub floats: &'static [DType],
    /// All kernels that it may launch, by their `extern "C"` names.
    pub kernels: &'static [&'static str],
    /// The GPU architecture that its instructions need.
    pub arch: Arch,
    /// Rows and columns of the output tile of a block, for matmuls.
    pub tile: Option<[usize; 2]>,
    /// Blocks per cluster; 1 without clusters.
    pub cluster: usize,
    /// Whether the order of summation depends on shapes alone, so that results are bit-identical from run to run.
    pub deterministic: bool,
    /// The run on a GPU in which it was last checked and timed. `None` if it has never run on a GPU.
    pub measured: Option<Measured>,
    /// Returns whether it supports the operation with these operands.
    pub supports: fn(&Op) -> bool,
    /// The time model: the seconds that it predicts on a GPU that can run the variant. [`Variant::seconds`] uses it.
    pub model: fn(&Op, &GpuSpec) -> f64,
    /// Returns the bytes of [`Addresses::workspace`] that it needs for this operation.
    pub workspace: fn(&Op) -> usize,
    /// Appends the launches, in order.
    pub launch: fn(&Op, &Addresses, &mut Vec<Launch>),
}

/// The architecture that a variant is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    /// CUDA C++ without special instructions.
    Portable,
    /// `mma.sync`, `ldmatrix` and `cp.async`: Ampere and later.
    Sm80,
    /// `wgmma`, TMA and clusters: Hopper only.
    Sm90,
}

/// A run on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The GPU.
    pub gpu: &'static str,
    /// The date, `YYYY-MM-DD`.
    pub date: &'static str,
}

/// The run whose figures are in `docs/benchmarks.md`.
const H100: Measured = Measured { gpu: "H100 80GB HBM3", date: "2026-11-28" };

impl Variant {
    /// Returns the predicted time in seconds, infinity on a GPU that cannot run it. It is a model, not a measurement, and
    /// only ranks the variants of one operation. A Hopper variant that has never been measured counts twice, so that it
    /// runs only on request.
    pub fn seconds(&self, op: &Op, gpu: &GpuSpec) -> f64 {
        match (self.arch, self.measured) {
            (Arch::Sm90, _) if !gpu.hopper => f64::INFINITY,
            (Arch::Sm90, None) => 2.0 * (self.model)(op, gpu),
            _ => (self.model)(op, gpu),
        }
    }

    /// Describes the variant in words: `sm_90a, tile 128 x 256, clusters of 2, never measured`.
    pub fn description(&self) -> String {
        let arch = match self.arch {
            Arch::Portable => "any GPU",
            Arch::Sm80 => "sm_80",
            Arch::Sm90 => "sm_90a",
        };
        let tile = self.tile.map(|[rows, columns]| format!(", tile {rows} x {columns}"));
        let cluster = (self.cluster > 1).then(|| format!(", clusters of {}", self.cluster));
        let order = if self.deterministic { "" } else { ", nondeterministic: runs only if requested" };
        let measured = match self.measured {
            Some(Measured { gpu, date }) => format!(", last on a GPU {date} ({gpu})"),
            None => ", never on a GPU".to_owned(),
        };
        format!("{arch}{}{}{order}{measured}", tile.unwrap_or_default(), cluster.unwrap_or_default())
    }
}

/// The value that a table entry gives, or else the default.
macro_rules! or {
    ($default:expr) => {
        $default
    };
    ($default:expr, nondeterministic) => {
        false
    };
    ($default:expr, $given:expr) => {
        $given
    };
}

/// The names of a matmul's kernels for a family such as `mma_64x64`: nn, nt, tn, tt by the transposes of `a` and `b`, with
/// bf16 outputs, then the same with f32 outputs.
macro_rules! matmul {
    ($family:literal) => {
        [
            concat!("linear_", $family, "_nn_bf16"),
            concat!("linear_", $family, "_nt_bf16"),
            concat!("linear_", $family, "_tn_bf16"),
            concat!("linear_", $family, "_tt_bf16"),
            concat!("linear_", $family, "_nn_bf16_f32"),
            concat!("linear_", $family, "_nt_bf16_f32"),
            concat!("linear_", $family, "_tn_bf16_f32"),
            concat!("linear_", $family, "_tt_bf16_f32"),
        ]
    };
}
pub(in crate::device::cuda) use matmul;

/// Builds the table: `variants!(OpName { "name" ATTRIBUTES [types] => [kernels], supports, launch, model (, workspace); ... }
/// ...)`. The attributes, in this order and each optional: `on Sm90`, `tile(128 x 256)`,
/// `cluster(2)`, `sums(nondeterministic)`, and `gpu(H100)` for a variant that has run on one: see [`Measured`].
macro_rules! variants {
    ($($operation:ident { $(
        $name:literal $(on $arch:ident)? $(tile($rows:literal x $columns:literal))? $(cluster($cluster:literal))?
            $(sums($order:ident))? $(gpu($measured:ident))? [$($float:ident),+] => $kernels:expr, $supports:expr, $launch:expr, $seconds:expr
            $(, $workspace:expr)?;
    )+ })+) => {
        /// All variants of all operations. Those of one operation go from the slowest and most readable to the fastest.
        pub const VARIANTS: &[Variant] = &[$($(Variant {
            operation: <crate::device::ops::$operation as crate::device::ops::Operation>::NAME,
            name: $name,
            floats: &[$(DType::$float),+],
            kernels: &$kernels,
            arch: or!(Arch::Portable $(, Arch::$arch)?),
            tile: or!(None $(, Some([$rows, $columns]))?),
            cluster: or!(1 $(, $cluster)?),
            deterministic: or!(true $(, $order)?),
            measured: or!(None $(, Some($measured))?),
            supports: |op| match op {
                Op::$operation(inner) => {
                    op.float().is_none_or(|float| [$(DType::$float),+].contains(&float))
                        && ($supports as fn(&crate::device::ops::$operation) -> bool)(inner)
                }
                _ => false,
            },
            model: |op, gpu| match op {
                Op::$operation(op) => ($seconds as fn(&crate::device::ops::$operation, &GpuSpec) -> f64)(op, gpu),
                _ => f64::INFINITY,
            },
            workspace: |op| match op {
                $(Op::$operation(op) => ($workspace as fn(&crate::device::ops::$operation) -> usize)(op),)?
                _ => { let _ = op; 0 }
            },
            launch: |op, addresses, out| if let Op::$operation(op) = op {
                ($launch as fn(&crate::device::ops::$operation, &Addresses, &mut Vec<Launch>))(op, addresses, out)
            },
        }),+),+];
    };
}

variants! {
    Accumulate {
        "naive" gpu(H100) [F32, BF16] => ["accumulate_f32", "accumulate_bf16", "accumulate_f32_bf16", "accumulate_bf16_f32"],
            |_| true, accumulate::naive, |op, gpu| gpu.memory(bytes(*op), 0.7, 1);
        "vec16" gpu(H100) [F32, BF16] => [
            "accumulate_vec16_f32", "accumulate_vec16_bf16",
            "accumulate_vec16_f32_bf16", "accumulate_vec16_bf16_f32"
        ], accumulate::is_whole, accumulate::vector, |op, gpu| gpu.memory(bytes(*op), 0.9, 1);
    }
    ActivationBackward {
        "naive" gpu(H100) [F32, BF16] => ["activation_backward_f32", "activation_backward_bf16"],
            |_| true, activation::naive, |op, gpu| gpu.memory(bytes(*op), 0.7, 1);
        "vec16" gpu(H100) [F32, BF16] => ["activation_backward_vec16_f32", "activation_backward_vec16_bf16"],
            activation::is_whole, activation::vector, |op, gpu| gpu.memory(bytes(*op), 0.9, 1);
    }
    AdamW {
        "naive" gpu(H100) [F32, BF16] => ["adamw_f32"],
            adamw::fits_copy, adamw::naive, |op, gpu| gpu.memory(bytes(*op), 0.7, 1);
        "vec16" gpu(H100) [F32, BF16] => ["adamw_vec16_f32"],
            adamw::is_whole, adamw::vector, |op, gpu| gpu.memory(bytes(*op), 0.9, 1);
    }
    Attention {
        "naive" gpu(H100) [F32, BF16] => ["attention_naive_f32", "attention_naive_bf16"],
            |_| true, attention::naive, attention::naive_seconds;
        "tiled" gpu(H100) [F32] => ["attention_tiled_32_f32", "attention_tiled_64_f32", "attention_tiled_128_f32"],
            attention::fits_tile, attention::tiled, attention::tiled_seconds;
        "flash" on Sm80 gpu(H100) [BF16] => [
            "attention_flash_32_bf16", "attention_flash_64_bf16", "attention_flash_80_bf16", "attention_flash_96_bf16",
            "attention_flash_128_bf16"
        ], sm80::attention::supports, sm80::attention::flash, sm80::attention::seconds;
        "wgmma" on Sm90 [BF16] => ["attention_wgmma_64_bf16", "attention_wgmma_128_bf16"],
            sm80::attention::supports, sm90::attention::wgmma, sm90::attention::seconds;
        "single_pass_kv" on Sm90 [BF16] => [
            "attention_single_pass_kv_64_128_bf16", "attention_single_pass_kv_64_256_bf16",
            "attention_single_pass_kv_128_128_bf16", "attention_single_pass_kv_128_256_bf16"
        ], sm90::attention_single_pass::supports, sm90::attention_single_pass::resident, sm90::attention::seconds;
    }
    AttentionBackward {
        "naive" gpu(H100) [F32, BF16] => [
            "attention_delta_f32", "attention_dq_naive_f32", "attention_dkdv_naive_f32",
            "attention_delta_bf16", "attention_dq_naive_bf16", "attention_dkdv_naive_bf16"
        ], |_| true, attention_backward::naive, attention_backward::naive_seconds;
        "tiled" gpu(H100) [F32] => [
            "attention_delta_f32",
            "attention_dq_tiled_32_f32", "attention_dq_tiled_64_f32", "attention_dq_tiled_128_f32",
            "attention_dkdv_tiled_32_f32", "attention_dkdv_tiled_64_f32", "attention_dkdv_tiled_128_f32"
        ], attention_backward::fits_tile, attention_backward::tiled, attention_backward::tiled_seconds;
        "flash" on Sm80 gpu(H100) [BF16] => [
            "attention_dq_flash_32_bf16", "attention_dq_flash_64_bf16", "attention_dq_flash_80_bf16",
            "attention_dq_flash_96_bf16", "attention_dq_flash_128_bf16",
            "attention_dkdv_flash_32_bf16", "attention_dkdv_flash_64_bf16", "attention_dkdv_flash_80_bf16",
            "attention_dkdv_flash_96_bf16", "attention_dkdv_flash_128_bf16"
        ], sm80::attention_backward::supports, sm80::attention_backward::flash, sm80::attention_backward::seconds;
        "wgmma" on Sm90 [BF16] => [
            "attention_dq_wgmma_64_bf16", "attention_dkdv_wgmma_64_bf16",
            "attention_dq_wgmma_128_bf16", "attention_dkdv_wgmma_128_bf16"
        ], sm80::attention_backward::supports, sm90::attention_backward::wgmma, sm90::attention_backward::seconds;
        "fused_dq_atomic" on Sm90 sums(nondeterministic) [BF16] => [
            "attention_delta_bf16", "fill_vec16_f32", "attention_dkdvdq_wgmma_64_bf16", "attention_dkdvdq_wgmma_128_bf16",
            "attention_dq_round_bf16"
        ], sm80::attention_backward::supports, sm90::attention_backward::reduce, sm90::attention_backward::seconds,
            sm90::attention_backward::workspace_reduce;
    }
    ColumnSum {
        "naive" gpu(H100) [F32, BF16] => ["column_sum_naive_f32", "column_sum_naive_bf16"],
            |_| true, column_sum::naive, |op, gpu| gpu.memory(bytes(*op), 0.1, 1);
        "tiled" gpu(H100) [F32, BF16] => ["column_sum_tiled_f32", "column_sum_tiled_bf16"],
            |_| true, column_sum::tiled, |op, gpu| gpu.memory(bytes(*op), 0.5 * column_sum::occupied(op, gpu), 1);
        "vec16" gpu(H100) [F32, BF16] => ["column_sum_vec16_f32", "column_sum_vec16_bf16", "column_sum_tiled_f32"],
            column_sum::is_whole, column_sum::vector, |op, gpu| gpu.memory(bytes(*op), 0.85, 2),
            column_sum::workspace;
    }
    CrossEntropy {
        "naive" gpu(H100) [F32, BF16] => [
            "cross_entropy_count", "cross_entropy_naive_f32", "cross_entropy_naive_bf16", "cross_entropy_loss_f32"
        ], |_| true, cross_entropy::naive, |op, gpu| gpu.memory(bytes(*op), 0.05, 3);
        "block" gpu(H100) [F32, BF16] => [
            "cross_entropy_count", "cross_entropy_block_f32", "cross_entropy_block_bf16", "cross_entropy_loss_f32"
        ], |_| true, cross_entropy::block, |op, gpu| gpu.memory(bytes(*op), 0.6, 3);
        "vec16" gpu(H100) [F32, BF16] => [
            "cross_entropy_count", "cross_entropy_loss_f32",
            "cross_entropy_vec16_128_f32", "cross_entropy_vec16_128_bf16",
            "cross_entropy_vec16_512_f32", "cross_entropy_vec16_512_bf16"
        ], cross_entropy::is_aligned, cross_entropy::vector, |op, gpu| gpu.memory(bytes(*op), 0.85, 3);
    }
    Dropout {
        "naive" gpu(H100) [F32, BF16] => ["dropout_f32", "dropout_bf16", "dropout_unit_f32", "dropout_unit_bf16"],
            |_| true, dropout::naive, |op, gpu| gpu.memory(bytes(*op), 0.5, 1);
        "vec16" gpu(H100) [F32, BF16] => [
            "dropout_vec16_f32", "dropout_vec16_bf16", "dropout_unit_vec16_f32", "dropout_unit_vec16_bf16"
        ], dropout::is_whole, dropout::vector, |op, gpu| gpu.memory(bytes(*op), 0.8, 1);
    }
    Embedding {
        "naive" gpu(H100) [F32, BF16] => ["embedding_f32", "embedding_bf16"],
            |_| true, embedding::naive, |op, gpu| gpu.memory(bytes(*op), 0.5, 1);
        "vec16" gpu(H100) [F32, BF16] => ["embedding_vec16_f32", "embedding_vec16_bf16"],
            embedding::is_whole, embedding::vector, |op, gpu| gpu.memory(bytes(*op), 0.85, 1);
    }
    EmbeddingBackward {
        "naive" gpu(H100) [F32, BF16] => [
            "embedding_backward_naive_f32", "embedding_backward_naive_bf16", "embedding_backward_naive_bf16_f32",
            "embedding_positions_f32", "embedding_positions_bf16"
        ], |_| true, embedding::backward_naive, |op, gpu| gpu.memory(bytes(*op), 0.02, 2);
        "owner" gpu(H100) [F32, BF16] => [
            "embedding_clear_f32", "embedding_clear_bf16",
            "embedding_backward_owner_f32", "embedding_backward_owner_bf16", "embedding_backward_owner_bf16_f32",
            "embedding_positions_f32", "embedding_positions_bf16"
        ], |_| true, embedding::backward_owner, |op, gpu| gpu.memory(bytes(*op), 0.2, 3);
    }
    Fill {
        "naive" gpu(H100) [F32, BF16] => ["fill_f32", "fill_bf16"],
            |_| true, fill::naive, |op, gpu| gpu.memory(bytes(*op), 0.7, 1);
        "vec16" gpu(H100) [F32, BF16] => ["fill_vec16_f32", "fill_vec16_bf16"],
            fill::is_whole, fill::vector, |op, gpu| gpu.memory(bytes(*op), 0.9, 1);
    }
    GlobalNorm { "block" gpu(H100) [F32] => ["global_norm_partials_f32", "global_norm_finish_f32"], |_| true, global_norm::block, |op, gpu| gpu.memory(bytes(*op), 0.7, 2); }
    LayerNorm {
        "naive" gpu(H100) [F32, BF16] => ["layernorm_naive_f32", "layernorm_naive_bf16"],
            |_| true, layernorm::naive, |op, gpu| gpu.memory(bytes(*op), 0.05, 1);
        "warp" gpu(H100) [F32, BF16] => ["layernorm_warp_f32", "layernorm_warp_bf16"],
            |_| true, layernorm::warp, |op, gpu| gpu.memory(bytes(*op), 0.5, 1);
        "vec16" gpu(H100) [F32, BF16] => [
            "layernorm_vec16_512_f32", "layernorm_vec16_1024_f32",
            "layernorm_vec16_4096_f32", "layernorm_vec16_8192_f32",
            "layernorm_vec16_512_bf16", "layernorm_vec16_1024_bf16",
            "layernorm_vec16_4096_bf16", "layernorm_vec16_8192_bf16"
        ], layernorm::fits_registers, layernorm::vector, |op, gpu| gpu.memory(bytes(*op), 0.9, 1);
    }
    LayerNormBackward {
        "naive" gpu(H100) [F32, BF16] => [
            "layernorm_dx_naive_f32", "layernorm_dx_naive_bf16",
            "layernorm_partials_naive_f32", "layernorm_partials_naive_bf16", "layernorm_finish_f32"
        ], |_| true, layernorm::backward_naive, |op, gpu| gpu.memory(bytes(*op), 0.03, 3);
        "warp" gpu(H100) [F32, BF16] => ["layernorm_backward_warp_f32", "layernorm_backward_warp_bf16", "layernorm_finish_f32"],
            layernorm::fits_shared, layernorm::backward_warp, |op, gpu| gpu.memory(bytes(*op), 0.3, 2);
        "vec16" gpu(H100) [F32, BF16] => [
            "layernorm_backward_vec16_f32", "layernorm_backward_vec16_bf16", "layernorm_finish_tiled_f32"
        ], layernorm::fits_block, layernorm::backward_vector, |op, gpu| gpu.memory(bytes(*op), 0.8, 2),
            layernorm::workspace;
    }
    Linear {
        "naive" gpu(H100) [F32, BF16] => ["linear_naive_f32", "linear_naive_bf16", "linear_naive_bf16_f32"],
            |_| true, linear::naive, |op, gpu| arithmetic(*op, gpu, 0.05, 1);
        "shared" gpu(H100) [F32] => ["linear_shared_f32"], |_| true, linear::shared, |op, gpu| arithmetic(*op, gpu, 0.15, 1);
        "tiled" gpu(H100) [F32] => ["linear_tiled_nn_f32", "linear_tiled_nt_f32", "linear_tiled_tn_f32", "linear_tiled_tt_f32"],
            |op| op.sizes().2 > 0, linear::tiled, |op, gpu| arithmetic(*op, gpu, 0.5, 1);
        "mma_64x64" on Sm80 tile(64 x 64) gpu(H100) [BF16] => matmul!("mma_64x64"), sm80::linear::aligned, sm80::linear::mma_64x64, sm80::linear::seconds_mma_64x64;
        "mma_128x128" on Sm80 tile(128 x 128) gpu(H100) [BF16] => matmul!("mma_128x128"), sm80::linear::aligned, sm80::linear::mma_128x128, sm80::linear::seconds_mma_128x128;
        "splitk" on Sm80 tile(128 x 128) gpu(H100) [BF16] => matmul!("mma_128x128"), sm80::linear::divided, sm80::linear::splitk, sm80::linear::seconds_splitk, sm80::linear::workspace;
        "tma_store_64x256" on Sm90 tile(64 x 256) [BF16] => *TMA_STORE_64X256.kernels, sm90::linear::supports_boxes,
            |op, addresses, out| TMA_STORE_64X256.launch(op, addresses, out), |op, gpu| TMA_STORE_64X256.seconds(op, gpu), |op| TMA_STORE_64X256.workspace(op);
        "tma_store_128x128" on Sm90 tile(128 x 128) [BF16] => *TMA_STORE_128X128.kernels, sm90::linear::supports_boxes,
            |op, addresses, out| TMA_STORE_128X128.launch(op, addresses, out), |op, gpu| TMA_STORE_128X128.seconds(op, gpu), |op| TMA_STORE_128X128.workspace(op);
        "tma_store_128x192" on Sm90 tile(128 x 192) [BF16] => *TMA_STORE_128X192.kernels, sm90::linear::supports_boxes,
            |op, addresses, out| TMA_STORE_128X192.launch(op, addresses, out), |op, gpu| TMA_STORE_128X192.seconds(op, gpu), |op| TMA_STORE_128X192.workspace(op);
        "tma_store_128x256" on Sm90 tile(128 x 256) [BF16] => *TMA_STORE_128X256.kernels, sm90::linear::supports_boxes,
            |op, addresses, out| TMA_STORE_128X256.launch(op, addresses, out), |op, gpu| TMA_STORE_128X256.seconds(op, gpu), |op| TMA_STORE_128X256.workspace(op);
        "cluster2_128x256" on Sm90 tile(128 x 256) cluster(2) [BF16] => *CLUSTER2_128X256.kernels, sm90::linear::supports_boxes,
            |op, addresses, out| CLUSTER2_128X256.launch(op, addresses, out), |op, gpu| CLUSTER2_128X256.seconds(op, gpu), |op| CLUSTER2_128X256.workspace(op);
        "wgmma_128x256" on Sm90 tile(128 x 256) gpu(H100) [BF16] => *WGMMA_128X256.kernels, sm90::linear::supports,
            |op, addresses, out| WGMMA_128X256.launch(op, addresses, out), |op, gpu| WGMMA_128X256.seconds(op, gpu), |op| WGMMA_128X256.workspace(op);
        "wgmma_128x128" on Sm90 tile(128 x 128) gpu(H100) [BF16] => *WGMMA_128X128.kernels, sm90::linear::supports,
            |op, addresses, out| WGMMA_128X128.launch(op, addresses, out), |op, gpu| WGMMA_128X128.seconds(op, gpu), |op| WGMMA_128X128.workspace(op);
    }
    Multilevel {
        "naive" gpu(H100) [F32] => ["multilevel_naive_f32"], |_| true, multilevel::naive, multilevel::seconds_naive;
        "block_per_row" gpu(H100) [F32] => ["multilevel_block_per_row_f32"], |_| true, multilevel::row, multilevel::seconds_row;
        "vec16" [F32] => ["multilevel_vec16_f32", "multilevel_vec16_base_f32"],
            multilevel::counts_tiles, multilevel::vector, multilevel::seconds_vector;
    }
    SquaredError {
        "block" [F32, BF16] => ["squared_error_f32", "squared_error_bf16"],
            |_| true, squared_error::block, |op, gpu| gpu.memory(bytes(*op), 0.005, 1);
    }
    Update {
        "interpreted" [F32, BF16] => ["update_f32"], update::fits_copy, update::interpreted, update::seconds;
    }
}

/// Returns all variants of an operation, from the slowest and most readable to the fastest.
pub fn variants_of(operation: &str) -> impl DoubleEndedIterator<Item = &'static Variant> {
    VARIANTS.iter().filter(move |v| v.operation == operation)
}

/// Returns the minimum bytes of memory traffic of an operation: every operand moves once.
fn bytes(op: impl Into<Op>) -> u64 {
    op.into().cost().bytes
}

/// Returns the predicted seconds of an f32 matmul without tensor cores that reaches the fraction `efficiency` of the
/// peak f32 rate.
fn arithmetic(op: impl Into<Op>, gpu: &GpuSpec, efficiency: f64, launches: usize) -> f64 {
    let cost = op.into().cost();
    gpu.arithmetic(cost.flops, cost.bytes, efficiency, launches)
}

/// Returns the deterministic variant that supports the operation and has the shortest predicted time. The later one in
/// the table wins a tie.
pub fn choose(op: &Op, gpu: &GpuSpec) -> Option<&'static Variant> {
    let supporting = variants_of(NAMES[op.number()]).filter(|v| v.deterministic && (v.supports)(op)).rev();
    supporting.min_by(|a, b| a.seconds(op, gpu).total_cmp(&b.seconds(op, gpu)))
}

/// The prefix of the environment variables that request a variant. The name of the operation follows.
pub const VARIABLE: &str = "VCYCLE_VARIANT_";

/// Returns the variants that the environment requests.
///
/// # Errors
/// Fails on a variable for an unknown operation or variant. The message lists the valid ones.
pub fn requested() -> Result<Vec<&'static Variant>> {
    let mut all = Vec::new();
    for (name, value) in std::env::vars_os() {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        let Some(operation) = name.strip_prefix(VARIABLE) else { continue };
        let names: Vec<_> = variants_of(operation).map(|v| v.name).collect();
        if names.is_empty() {
            bail!("{name}: there is no operation {operation:?}; choose one of {}", NAMES.join(", "));
        }
        let Some(variant) = variants_of(operation).find(|v| v.name == value) else {
            bail!("{name}: {operation} has no variant {value:?}; choose one of {}", names.join(", "));
        };
        all.push(variant);
    }
    Ok(all)
}
