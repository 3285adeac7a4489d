//! The functions that kernels and the compiler's instrumentation call. They run on a coroutine's stack and suspend the
//! coroutine if the thread must wait. They must not unwind.

mod hopper;

use super::barriers::{Then, Words};
use super::block::Block;
use super::clocks::Actor;
use super::reload;
use super::report::{At, Here, Pc, undefined};
use super::shadow::How;
use super::shared::Declared;
use corosensei::Yielder;
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;

#[repr(C)]
#[derive(Clone, Copy)]
struct Dim3 {
    x: u32,
    y: u32,
    z: u32,
}

/// The running thread and block, with the layout of `Current` in `kernels/emulator/hooks.c`.
#[repr(C)]
pub struct Current {
    thread: Dim3,
    block: Dim3,
    block_dim: Dim3,
    grid_dim: Dim3,
    checks: c_int,
    fuel: i64,
}

unsafe extern "C" {
    fn emu_current() -> *mut Current;
}

thread_local! {
    static BLOCK: Cell<*mut Block> = const { Cell::new(null_mut()) };
}

/// Makes `block` the block whose kernel runs on this host thread. Returns the previous one, for [`leave`].
pub fn enter(block: *mut Block) -> *mut Block {
    BLOCK.replace(block)
}

/// Restores the previous block, and stops the checks of instrumented code outside of kernels.
pub fn leave(outer: *mut Block) {
    BLOCK.set(outer);
    // SAFETY: thread-local.
    let current = unsafe { &mut *emu_current() };
    (current.checks, current.fuel) = (0, i64::MAX);
}

/// Returns the indices of the block and of the thread that [`identify`] was last called for.
pub fn coordinates() -> [[u32; 3]; 2] {
    // SAFETY: thread-local.
    let Current { thread, block, .. } = unsafe { &*emu_current() };
    [block, thread].map(|at| [at.x, at.y, at.z])
}

/// Tells the instrumentation which thread runs next, the block's current one, and how many accesses it may make.
pub fn identify(block: &Block, fuel: i64) {
    let dim = |[x, y, z]: [u32; 3]| Dim3 { x, y, z };
    // SAFETY: thread-local.
    let current = unsafe { &mut *emu_current() };
    *current = Current {
        thread: dim(block.coordinates(block.current)),
        block: dim(block.id(block.current)),
        block_dim: dim(block.block),
        grid_dim: dim(block.grid),
        checks: c_int::from(block.options.checks),
        fuel,
    };
}

/// Records the yielder of a coroutine that has just started.
pub fn started(yielder: &Yielder<(), ()>) {
    // SAFETY: as in `with`. It cannot be called here, because a thread without a yielder cannot be suspended.
    let block = unsafe { &mut *BLOCK.get() };
    let current = block.current;
    block.threads[current].yielder = yielder;
}

/// Calls `f` with the block that is running. The reference ends before another coroutine runs. A panic cannot unwind
/// through a kernel, which is not Rust: it is reported as a fault, and the thread never returns from here.
fn with<R>(f: impl FnOnce(&mut Block) -> R) -> R {
    let block = BLOCK.get();
    // SAFETY: set by `enter` for as long as kernels run, and coroutines run one at a time.
    let done = catch_unwind(AssertUnwindSafe(|| f(unsafe { &mut *block })));
    done.unwrap_or_else(|panic| {
        // SAFETY: as above.
        unsafe { &mut *block }.panicked(&*panic);
        loop {
            suspend();
        }
    })
}

/// Suspends the current thread so that others can run.
fn suspend() {
    let block = BLOCK.get();
    // SAFETY: as in `with`.
    let yielder = unsafe { (&(*block).threads)[(*block).current].yielder };
    // SAFETY: the yielder of this coroutine, which lives on its stack.
    unsafe { (*yielder).suspend(()) }
}

/// Suspends the current thread if it must wait. A thread that was reported is never resumed.
fn then(then: Then) {
    if then == Then::Wait {
        suspend();
    }
}

/// Records a site and returns whether it does nothing because it is the one to drop.
fn dropped(block: &mut Block, site: &Here) -> bool {
    block.sites.insert(*site);
    block.options.drop.as_ref().is_some_and(|drop| site.is(drop))
}

/// Calls `f`, unless the site is the one to drop.
///
/// # Safety
/// `file` is a string literal of a kernel's source.
unsafe fn reach(file: *const c_char, line: c_int, f: impl FnOnce(&mut Block)) {
    // SAFETY: guaranteed by the caller.
    let site = unsafe { Here::new(file, line) };
    with(|block| {
        if !dropped(block, &site) {
            f(block);
        }
    });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_access(address: *const c_void, bytes: usize, write: c_int, pc: *const u8) {
    let how = if write != 0 { How::Write } else { How::Read };
    let fine = with(|block| {
        let address = address as usize;
        // The compiler's own checks cover local arrays.
        if block.threads[block.current].stack.contains(&address) {
            return block.touch(address, write != 0, Pc::new(pc));
        }
        constant(address) && write == 0 || block.access(Actor::Thread, (address as u64, bytes as u64), how, Pc::new(pc))
    });
    if !fine {
        suspend();
    }
}

unsafe extern "C" {
    static __executable_start: u8;
    static _end: u8;
}

/// Returns whether an address lies in the program's own data, where constants are.
fn constant(address: usize) -> bool {
    (&raw const __executable_start as usize..&raw const _end as usize).contains(&address) || reload::contains(address)
}

#[unsafe(no_mangle)]
extern "C" fn emu_watchdog(pc: *const u8) {
    with(|block| {
        let what = "an endless loop: the thread neither waits for others nor returns".to_string();
        block.report(At::Access(Pc::new(pc)), what);
    });
    suspend();
}

#[unsafe(no_mangle)]
extern "C" fn emu_undefined(kind: c_int, pc: *const u8) {
    with(|block| block.report(At::Access(Pc::new(pc)), undefined(kind)));
    suspend();
}

#[unsafe(no_mangle)]
extern "C" fn emu_cluster_rank() -> c_uint {
    with(|block| block.rank(block.current) as c_uint)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_cluster_barrier(file: *const c_char, line: c_int) {
    // SAFETY: called by kernels with literals.
    let site = unsafe { Here::new(file, line) };
    then(with(|block| if dropped(block, &site) { Then::GoOn } else { block.cluster_barrier(site) }));
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_shared_static(
    name: *const c_char,
    bytes: c_uint,
    align: c_uint,
    element: c_uint,
    columns: c_uint,
) -> *mut u8 {
    let [bytes, align, element, columns] = [bytes, align, element, columns].map(|n| n as usize);
    // SAFETY: called by kernels with literals, which live as long as the program.
    let name = unsafe { CStr::from_ptr::<'static>(name) };
    let declared = Declared { name, bytes, align, element, columns };
    let array = with(|block| {
        let rank = block.rank(block.current);
        // At the same shared address in all blocks of the cluster.
        let each = block.shared.iter_mut().map(|one| one.array(declared));
        let arrays = each.collect::<Result<Vec<_>, _>>();
        arrays.map(|all| all[rank]).map_err(|what| block.report(At::Kernel, format!("too much shared memory: {what}")))
    });
    array.unwrap_or_else(|()| {
        suspend();
        null_mut()
    })
}

#[unsafe(no_mangle)]
extern "C" fn emu_shared_dynamic() -> *mut u8 {
    with(|block| block.own().dynamic())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_barrier(file: *const c_char, line: c_int, id: c_int, threads: c_int) {
    // SAFETY: called by kernels with literals.
    let site = unsafe { Here::new(file, line) };
    then(with(|block| if dropped(block, &site) { Then::GoOn } else { block.barrier(site, id, threads) }));
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_syncwarp(file: *const c_char, line: c_int, mask: c_uint) {
    // SAFETY: called by kernels with literals.
    let site = unsafe { Here::new(file, line) };
    then(with(|block| match dropped(block, &site) {
        true => Then::GoOn,
        false => block.warp(site, mask, "__syncwarp", None),
    }));
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_fence(file: *const c_char, line: c_int) {
    let fence = |block: &mut Block| {
        let current = block.current;
        if let Some(clocks) = &mut block.clocks {
            clocks.fence(current);
        }
    };
    // SAFETY: called by kernels with literals.
    unsafe { reach(file, line, fence) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_exchange(
    file: *const c_char,
    line: c_int,
    mask: c_uint,
    what: *const c_char,
    bits: u64,
    out: *mut u64,
) {
    // SAFETY: one word, which lives until the call returns; the caller guarantees the rest.
    unsafe { emu_exchange_words(file, line, mask, what, &raw const bits, 1, out) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_exchange_words(
    file: *const c_char,
    line: c_int,
    mask: c_uint,
    what: *const c_char,
    mine: *const u64,
    words: c_int,
    all: *mut u64,
) {
    // SAFETY: called by kernels with literals, which live as long as the program.
    let (site, what) = unsafe { (Here::new(file, line), CStr::from_ptr::<'static>(what)) };
    let count = (words.unsigned_abs() as usize).min(Words::MOST);
    let words = Words { mine, count, all };
    then(with(|block| block.warp(site, mask, what.to_str().unwrap_or("shuffle"), Some(words))));
}

#[unsafe(no_mangle)]
extern "C" fn emu_is_shared(address: *const c_void) -> c_int {
    with(|block| c_int::from(block.own().contains(address as u64)))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_bad_address(file: *const c_char, line: c_int, in_shared: c_int, bytes: c_int) {
    // SAFETY: called by kernels with literals.
    let at = unsafe { Here::new(file, line) }.at();
    let what = match in_shared {
        0 => "the address of a row is not in shared memory".to_string(),
        _ => format!("misaligned: the address of a row must be a multiple of {bytes}"),
    };
    with(|block| block.report(at, what));
    suspend();
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_bad_lane(file: *const c_char, line: c_int, mask: c_uint, lane: c_int) {
    // SAFETY: called by kernels with literals.
    let at = unsafe { Here::new(file, line) }.at();
    with(|block| block.report(at, format!("a shuffle reads lane {lane}, which is not in its mask {mask:#010x}")));
    suspend();
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_atomic_at(
    file: *const c_char,
    line: c_int,
    address: *mut c_void,
    operation: c_int,
    value: u32,
    compare: u32,
    pc: *const u8,
) -> u32 {
    // SAFETY: called by kernels with literals.
    let place = (unsafe { Here::new(file, line) }, Pc::new(pc));
    let done = with(|block| block.atomic(place, address as u64, operation, value, compare));
    match done {
        Some((old, next)) => {
            then(next);
            old
        }
        None => {
            suspend();
            0
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_cp_async_at(
    file: *const c_char,
    line: c_int,
    shared: *mut u8,
    global: *const u8,
    bytes: c_int,
    from_global: c_int,
    pc: *const u8,
) {
    // SAFETY: called by kernels with literals.
    let place = (unsafe { Here::new(file, line) }, Pc::new(pc));
    if !with(|block| block.copy(place, shared, global, bytes as usize, from_global as usize)) {
        suspend();
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_cp_async_commit(file: *const c_char, line: c_int) {
    // SAFETY: called by kernels with literals.
    unsafe { reach(file, line, Block::commit) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_cp_async_wait(file: *const c_char, line: c_int, in_flight: c_int) {
    // SAFETY: called by kernels with literals.
    unsafe { reach(file, line, |block| block.wait(in_flight.unsigned_abs())) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn emu_trap(file: *const c_char, line: c_int) {
    // SAFETY: called by kernels with literals.
    let at = unsafe { Here::new(file, line) }.at();
    with(|block| block.report(at, "the kernel executed __trap"));
    suspend();
}

#[cfg(test)]
mod tests;
