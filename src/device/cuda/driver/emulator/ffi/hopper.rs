//! The functions behind Hopper's instructions: mbarriers, TMA, wgmma.

use super::{dropped, reach, suspend, then, with};
use crate::device::cuda::driver::emulator::barriers::{Then, Words};
use crate::device::cuda::driver::emulator::block::Block;
use crate::device::cuda::driver::emulator::report::{Here, Pc};
use crate::device::cuda::driver::emulator::wgmma::Operands;
use crate::device::cuda::launch::TensorMap;
use std::ffi::{c_char, c_int, c_uint, c_void};

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_mbarrier_init_at(
    file: *const c_char,
    line: c_int,
    barrier: *mut c_void,
    count: c_uint,
    pc: *const u8,
) {
    // SAFETY: called by kernels with literals.
    let place = (unsafe { Here::new(file, line) }, Pc::new(pc));
    if !with(|block| dropped(block, &place.0) || block.mbarrier_init(place, barrier as u64, count)) {
        suspend();
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_mbarrier_fence(file: *const c_char, line: c_int) {
    // SAFETY: called by kernels with literals.
    unsafe { reach(file, line, Block::mbarrier_fence) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_mbarrier_arrive_at(
    file: *const c_char,
    line: c_int,
    barrier: *mut c_void,
    bytes: c_uint,
    rank: c_int,
    pc: *const u8,
) {
    // SAFETY: called by kernels with literals.
    let place = (unsafe { Here::new(file, line) }, Pc::new(pc));
    let arrive = |block: &mut Block| {
        let rank = usize::try_from(rank).unwrap_or(block.rank(block.current));
        dropped(block, &place.0) || block.mbarrier_arrive(place, (barrier as u64, rank), bytes)
    };
    if !with(arrive) {
        suspend();
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_mbarrier_wait_at(
    file: *const c_char,
    line: c_int,
    barrier: *mut c_void,
    parity: c_uint,
    pc: *const u8,
) {
    // SAFETY: called by kernels with literals.
    let place = (unsafe { Here::new(file, line) }, Pc::new(pc));
    while with(|block| !dropped(block, &place.0) && block.mbarrier_wait(place, barrier as u64, parity) == Then::Wait) {
        suspend();
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_tma_load_at(
    file: *const c_char,
    line: c_int,
    shared: *mut c_void,
    map: *const TensorMap,
    barrier: *mut c_void,
    column: c_int,
    row: c_int,
    head: c_int,
    batch: c_int,
    blocks: c_uint,
    pc: *const u8,
) {
    // SAFETY: called by kernels with literals, and with one of their parameters.
    let (place, map) = unsafe { ((Here::new(file, line), Pc::new(pc)), *map) };
    let ends = (shared as u64, barrier as u64);
    if !with(|block| block.tma_load(place, ends, blocks, map, [batch, head, row, column])) {
        suspend();
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_shared_address(file: *const c_char, line: c_int, address: *const c_void) -> c_uint {
    // SAFETY: called by kernels with literals.
    let site = unsafe { Here::new(file, line) };
    let offset = with(|block| {
        let offset = block.own().offset(address as u64);
        if offset.is_none() {
            block.report(site.at(), "the address of a tile is not in shared memory");
        }
        offset
    });
    offset.map_or_else(
        || {
            suspend();
            0
        },
        |offset| offset as c_uint,
    )
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_wgmma_at(
    file: *const c_char,
    line: c_int,
    d: *mut f32,
    shape: c_uint,
    a: u64,
    b: u64,
    pc: *const u8,
) {
    // SAFETY: called by kernels with literals.
    let (site, pc) = (unsafe { Here::new(file, line) }, Pc::new(pc));
    let mine = [a, b, d as u64, u64::from(shape)];
    let mut all = [0; 128];
    let words = Words { mine: mine.as_ptr(), count: mine.len(), all: all.as_mut_ptr() };
    let mut next = with(|block| block.warp(site, u32::MAX, "wgmma", Some(words)));
    if next == Then::GoOn && !with(|block| block.issue_wgmma(&Operands { site, pc, words: &all })) {
        next = Then::Wait;
    }
    then(next);
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_wgmma_fence(file: *const c_char, line: c_int) {
    // SAFETY: called by kernels with literals.
    unsafe { reach(file, line, Block::wgmma_fence) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_wgmma_commit(file: *const c_char, line: c_int) {
    // SAFETY: called by kernels with literals.
    unsafe { reach(file, line, Block::wgmma_commit) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_wgmma_wait(file: *const c_char, line: c_int, in_flight: c_int) {
    // SAFETY: called by kernels with literals.
    unsafe { reach(file, line, |block| block.wgmma_wait(in_flight.unsigned_abs())) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_fence_async(file: *const c_char, line: c_int) {
    let fence = |block: &mut Block| {
        let current = block.current;
        if let Some(clocks) = &mut block.clocks {
            clocks.fence_async(current);
        }
    };
    // SAFETY: called by kernels with literals.
    unsafe { reach(file, line, fence) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_tma_store_at(
    file: *const c_char,
    line: c_int,
    adds: c_int,
    shared: *const c_void,
    map: *const TensorMap,
    column: c_int,
    row: c_int,
    head: c_int,
    batch: c_int,
    pc: *const u8,
) {
    // SAFETY: called by kernels with literals, and with one of their parameters.
    let (place, map) = unsafe { ((Here::new(file, line), Pc::new(pc)), *map) };
    if !with(|block| block.tma_store(place, adds != 0, shared as u64, map, [batch, head, row, column])) {
        suspend();
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_tma_store_commit(file: *const c_char, line: c_int) {
    // SAFETY: called by kernels with literals.
    unsafe { reach(file, line, Block::tma_store_commit) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_tma_store_wait(file: *const c_char, line: c_int, in_flight: c_int, complete: c_int) {
    // SAFETY: called by kernels with literals.
    unsafe { reach(file, line, |block| block.tma_store_wait(in_flight.unsigned_abs(), complete != 0)) }
}
