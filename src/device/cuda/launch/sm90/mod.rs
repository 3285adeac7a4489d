//! Launch code of the bf16 tensor-core variants for Hopper (sm_90a): `wgmma` by warpgroups, with tiles loaded and
//! stored by TMA.
//!
//! The kernels are in `kernels/sm90/`. The matmul and attention kernels are persistent and warp-specialized: each
//! SM runs one block of 384 threads, a producer warpgroup that issues TMA loads and two consumer warpgroups that
//! compute, and the block processes tile after tile. Matrices reach a kernel as [`TensorMap`](super::TensorMap)
//! parameters. The time models of the variants are here, too.

pub(crate) mod attention;
pub(crate) mod attention_backward;
pub(crate) mod attention_single_pass;
pub(crate) mod linear;
