//! Launch code of bf16 attention by Hopper's `wgmma` for heads whose keys and values all fit into shared memory:
//! `kernels/sm90/attention_single_pass.cu`.

use super::attention::{GROUP_ROWS, THREADS, heads, map, width};
use crate::device::cuda::launch::Launch;
use crate::device::cuda::launch::addresses::Addresses;
use crate::device::cuda::launch::attention::pair_parameters;
use crate::device::cuda::launch::sm80::attention;
use crate::device::ops::Attention;

/// Keys of a tile: `kPart` in the kernel.
const PART: usize = 128;

/// Dynamic shared memory in bytes: the sum of `kForQueries` and `kForKeys` in the kernel.
const SHARED: usize = 192 * 1024;

/// Returns whether the variant supports the operation: [`attention::supports`] holds and there are at most 256 keys. A
/// warpgroup holds all scores of its queries in registers, 64 per thread for every 128 keys.
pub fn supports(op: &Attention) -> bool {
    op.sizes().2 <= 2 * PART && attention::supports(op)
}

/// Variant `resident`: persistent blocks, one per SM. A work item is a head, whose keys and values are loaded once.
pub fn resident(op: &Attention, addresses: &Addresses, out: &mut Vec<Launch>) {
    let (batch, _, tk, all, _) = op.sizes();
    let kernel = match (width(op), tk <= PART) {
        (64, true) => "attention_single_pass_kv_64_128_bf16",
        (64, false) => "attention_single_pass_kv_64_256_bf16",
        (_, true) => "attention_single_pass_kv_128_128_bf16",
        (_, false) => "attention_single_pass_kv_128_256_bf16",
    };
    let launch = Launch::new(kernel, (batch * all).min(addresses.sms), THREADS).shared(SHARED);
    let map = |t, rows| map(op, addresses, t, rows);
    let launch =
        launch.map(map(&op.q, GROUP_ROWS)).map(map(&op.k, PART)).map(map(&op.v, PART)).map(map(&op.out, GROUP_ROWS));
    out.push(heads(op, pair_parameters(op, addresses, launch.ptr(addresses.ptr(&op.lse))).float(op.scale)));
}

#[cfg(test)]
mod tests {
    use crate::device::cuda::gpu_spec::GpuSpec;
    use crate::device::cuda::variants::{choose, variants_of};
    use crate::device::ops::{Attention, Op};
    use crate::tensor::{DType, Place, Tensor};

    fn of(tq: usize, tk: usize, d: usize) -> Op {
        let t = |time| Tensor::new(Place::Arena(0), DType::BF16, 0, &[8, time, 12, d]);
        let lse = Tensor::new(Place::Arena(0), DType::F32, 0, &[8, 12, tq]);
        let (causal, scale, dropout, key_mask) = (false, 0.125, None, None);
        Attention { q: t(tq), k: t(tk), v: t(tk), out: t(tq), lse, key_mask, causal, scale, dropout }.into()
    }

    #[test]
    fn only_keys_that_fit_are_taken() {
        let variant = variants_of("attention").find(|v| v.name == "single_pass_kv").expect("the variant");
        let takes = |tq, tk, d| (variant.supports)(&of(tq, tk, d));
        for (tq, tk, d) in
            [(1, 1, 8), (128, 128, 128), (197, 197, 64), (256, 256, 128), (1000, 256, 32), (1000, 256, 80)]
        {
            assert!(takes(tq, tk, d), "{tq} {tk} {d}");
        }
        for (tq, tk, d) in [(1, 257, 64), (512, 512, 64), (1, 257, 72), (128, 128, 60), (128, 128, 136)] {
            assert!(!takes(tq, tk, d), "{tq} {tk} {d}");
        }
    }

    /// The variant runs on request only until it has been measured on a GPU.
    #[test]
    fn nothing_chooses_it_by_itself() {
        for gpu in [GpuSpec::A100, GpuSpec::H100] {
            for time in [64, 128, 197, 256] {
                assert_eq!(choose(&of(time, time, 64), &gpu).map(|v| v.name), Some("flash"), "{time}");
            }
        }
    }
}
