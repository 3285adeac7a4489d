//! What a handler of signals asks when a kernel may have ended the process: which one runs on this thread, and whether any has
//! run without checks. Reading it takes no lock and no memory.
//!
//! A handler needs a stack of its own, because an emulated thread may have used up its own: see [`begin`].

use super::block::Block;
use super::ffi;
use super::operands::{self, Place};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The kernel that runs on a thread of the host.
#[derive(Clone, Copy)]
pub struct Running {
    /// Name and variant of the operation that it belongs to; empty where a kernel was started without one.
    pub operation: [&'static str; 2],
    pub kernel: &'static str,
    /// Every access is checked before it is made.
    pub checks: bool,
    block: *const Block,
}

thread_local! {
    static RUNNING: Cell<Option<Running>> = const { Cell::new(None) };
    static HANDLER_STACK: HandlerStack = HandlerStack::new();
}

/// The last kernel that has run without checks: its name, which ends in a zero.
static UNCHECKED: AtomicPtr<c_char> = AtomicPtr::new(null_mut());

/// Bytes of a handler's stack: the registers of any x86 CPU, and room to write a message.
const STACK: usize = 64 << 10;

/// Bytes at the end of an emulated thread's stack that nobody may touch: a page, or more.
const GUARD: usize = 4 << 10;

/// A stack for signal handlers on this thread.
struct HandlerStack(*mut c_void);

impl HandlerStack {
    fn new() -> Self {
        // SAFETY: asks for new memory, and makes it this thread's; the old stack is Rust's own, which nobody is on.
        unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let start = libc::mmap(null_mut(), STACK, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
            if start == libc::MAP_FAILED {
                return HandlerStack(null_mut());
            }
            let stack = libc::stack_t { ss_sp: start, ss_flags: 0, ss_size: STACK };
            libc::sigaltstack(&raw const stack, null_mut());
            HandlerStack(start)
        }
    }
}

impl Drop for HandlerStack {
    fn drop(&mut self) {
        if self.0.is_null() {
            return;
        }
        // SAFETY: this thread ends; no handler uses the memory from here on.
        unsafe {
            let none = libc::stack_t { ss_sp: null_mut(), ss_flags: libc::SS_DISABLE, ss_size: STACK };
            libc::sigaltstack(&raw const none, null_mut());
            libc::munmap(self.0, STACK);
        }
    }
}

/// A kernel runs on this thread until this is dropped.
pub struct Guard(Option<Running>);

impl Drop for Guard {
    fn drop(&mut self) {
        RUNNING.set(self.0);
    }
}

/// This block's kernel runs on this thread from now on.
///
/// # Safety
/// `block` lives longer than the guard.
pub unsafe fn begin(operation: [&'static str; 2], block: *const Block, kernel: &super::Kernel, checks: bool) -> Guard {
    HANDLER_STACK.with(|_| ());
    if !checks {
        // Made from a `CStr`, so the zero is there.
        UNCHECKED.store(kernel.name.as_ptr().cast_mut().cast(), Ordering::Release);
    }
    Guard(RUNNING.replace(Some(Running { operation, kernel: kernel.name, checks, block })))
}

/// What runs on this thread.
pub fn running() -> Option<Running> {
    RUNNING.get()
}

/// The last kernel that has run without checks in this process.
pub fn unchecked() -> Option<&'static CStr> {
    let name = UNCHECKED.load(Ordering::Acquire);
    // SAFETY: a literal of a kernel's source (`Registry`), or none.
    (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) })
}

/// Where an address lies that a kernel has accessed and should not have.
pub enum Outside {
    /// Where the stack of the emulated thread ends.
    Stack,
    Operand(&'static str, Place),
    Unknown,
}

impl Running {
    /// Coordinates of the block and of the thread in it that runs, or was the last to.
    pub fn thread(&self) -> [[u32; 3]; 2] {
        ffi::coordinates()
    }

    /// What an address is near to. It follows pointers that the kernel may have damaged.
    pub fn outside(&self, address: u64) -> Outside {
        // SAFETY: the block lives (`begin`), and the thread that would change it is the one that stopped here.
        let block = unsafe { &*self.block };
        // SAFETY: memory outlives its blocks.
        let (state, memory) = (block.threads.get(block.current), unsafe { block.memory.as_ref() });
        let end = state.map(|state| state.stack.start..state.stack.start + GUARD);
        if end.is_some_and(|end| end.contains(&(address as usize))) {
            return Outside::Stack;
        }
        match operands::nearest(memory.regions(), address, true) {
            Some((region, place)) => Outside::Operand(region.name, place),
            None => Outside::Unknown,
        }
    }
}
