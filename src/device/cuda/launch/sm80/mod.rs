//! Launch code of the bf16 tensor-core variants for Ampere and later (sm_80): `mma.sync` fed by `ldmatrix`, with tiles
//! loaded by `cp.async`.
//!
//! The kernels are in `kernels/sm80/`. The time models of the variants are here, too.

pub(crate) mod attention;
pub(crate) mod attention_backward;
pub(crate) mod linear;
