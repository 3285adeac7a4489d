//! Launch code of `linear` without tensor cores: `kernels/linear.cu`.

use super::Launch;
use super::activation;
use super::addresses::Addresses;
use crate::device::ops::{Epilogue, Linear};
use crate::tensor::{DType, Tensor};

/// Variant `naive`: one output per thread, in blocks of 8 x 32.
pub fn naive(op: &Linear, addresses: &Addresses, out: &mut Vec<Launch>) {
    let kernel = match (op.a.dtype(), op.out.dtype()) {
        (DType::BF16, DType::BF16) => "linear_naive_bf16",
        (DType::BF16, _) => "linear_naive_bf16_f32",
        _ => "linear_naive_f32",
    };
    out.push(parameters(op, addresses, kernel, (8, 32), 256).flag(op.ta).flag(op.tb));
}

/// Variant `shared`: tiles of 32 x 32 through shared memory.
pub fn shared(op: &Linear, addresses: &Addresses, out: &mut Vec<Launch>) {
    out.push(parameters(op, addresses, "linear_shared_f32", (32, 32), 1024).flag(op.ta).flag(op.tb));
}

/// Variant `tiled`: tiles of 64 x 64, of which each thread holds 4 x 4 outputs in registers.
pub fn tiled(op: &Linear, addresses: &Addresses, out: &mut Vec<Launch>) {
    let kernel = match (op.ta, op.tb) {
        (false, false) => "linear_tiled_nn_f32",
        (false, true) => "linear_tiled_nt_f32",
        (true, false) => "linear_tiled_tn_f32",
        (true, true) => "linear_tiled_tt_f32",
    };
    out.push(parameters(op, addresses, kernel, (64, 64), 256));
}

/// Builds a launch with the parameters `LINEAR_PARAMETERS` of the kernels, one block per tile of `block` rows and
/// columns.
fn parameters(op: &Linear, addresses: &Addresses, kernel: &'static str, block: (usize, usize), threads: u32) -> Launch {
    with_pitches([op.a.pitch(), op.b.pitch()], op, addresses, tiles(op, kernel, block, threads))
}

/// Appends `LINEAR_PARAMETERS`, with the given pitches of `a` and `b`.
pub(in crate::device::cuda) fn with_pitches(
    [a, b]: [usize; 2],
    op: &Linear,
    addresses: &Addresses,
    launch: Launch,
) -> Launch {
    let factors = launch.ptr(addresses.ptr(&op.a)).int(a).ptr(addresses.ptr(&op.b)).int(b);
    epilogue_parameters(factors, op, addresses)
}

/// Builds a launch with one block per tile of the output along x, and the matmuls of a batch along z.
pub(in crate::device::cuda) fn tiles(op: &Linear, kernel: &'static str, block: (usize, usize), threads: u32) -> Launch {
    let (m, n, _) = op.sizes();
    let tiles = m.div_ceil(block.0) * n.div_ceil(block.1);
    Launch::new(kernel, tiles, threads).grid(tiles, 1, op.batch)
}

/// Appends the part of `LINEAR_PARAMETERS` after `a` and `b`: output, epilogue operands and sizes.
pub(in crate::device::cuda) fn epilogue_parameters(launch: Launch, op: &Linear, addresses: &Addresses) -> Launch {
    let (m, n, k) = op.sizes();
    let (epilogue, kind, pre, value) = match op.epilogue {
        Epilogue::None => (0, None, None, None),
        Epilogue::Activate { kind, pre } => (1, Some(kind), pre, None),
        Epilogue::ActivateGrad { kind, pre, value } => (2, Some(kind), Some(pre), value),
    };
    let pitch = |t: &Option<Tensor>| t.as_ref().map_or(0, |t| t.pitch());
    launch
        .ptr(addresses.ptr(&op.out))
        .int(op.out.pitch())
        .ptr(addresses.maybe(&op.bias))
        .int(epilogue)
        .signed(kind.map_or(0, activation::number))
        .ptr(addresses.maybe(&pre))
        .int(pitch(&pre))
        .ptr(addresses.maybe(&value))
        .int(pitch(&value))
        .ptr(addresses.maybe(&op.residual))
        .int(pitch(&op.residual))
        .flag(op.accumulate)
        .int(m)
        .int(n)
        .int(k)
}
