//! What a signal handler needs to know when a kernel may have crashed the process: which kernel runs on this thread,
//! and whether any kernel has run without checks. Reading it takes no lock and allocates nothing.
//!
//! The handler needs a stack of its own, because an emulated thread may have used up its stack: [`begin`] installs one.

use super::block::Block;
use super::ffi;
use super::operands::{self, Place};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The kernel that runs on a host thread.
#[derive(Clone, Copy)]
pub struct Running {
    /// Name and variant of the operation that launched it; empty if it was launched outside of an operation.
    pub operation: [&'static str; 2],
    /// The `extern "C"` name of the kernel.
    pub kernel: &'static str,
    /// Whether every access is checked before it is made.
    pub checks: bool,
    block: *const Block,
}

thread_local! {
    static RUNNING: Cell<Option<Running>> = const { Cell::new(None) };
    static HANDLER_STACK: HandlerStack = HandlerStack::new();
}

/// The name of the last kernel that ran without checks, NUL-terminated; null if there was none.
static UNCHECKED: AtomicPtr<c_char> = AtomicPtr::new(null_mut());

/// Size of the handler's stack in bytes: enough for the saved registers of any x86 CPU and for writing a message.
const STACK: usize = 64 << 10;

/// Size in bytes of the guard at the end of an emulated thread's stack: at least one page.
const GUARD: usize = 4 << 10;

/// A stack for signal handlers on this thread.
struct HandlerStack(*mut c_void);

impl HandlerStack {
    fn new() -> Self {
        // SAFETY: maps new memory and installs it as this thread's signal stack. It replaces the one of Rust's runtime,
        // on which no handler is running.
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
        // SAFETY: this thread is ending, and no handler uses the memory once the signal stack is disabled.
        unsafe {
            let none = libc::stack_t { ss_sp: null_mut(), ss_flags: libc::SS_DISABLE, ss_size: STACK };
            libc::sigaltstack(&raw const none, null_mut());
            libc::munmap(self.0, STACK);
        }
    }
}

/// Marks a kernel as running on this thread until it is dropped.
pub struct Guard(Option<Running>);

impl Drop for Guard {
    fn drop(&mut self) {
        RUNNING.set(self.0);
    }
}

/// Marks the kernel of `block` as running on this thread, and gives the thread a stack for signal handlers.
///
/// # Safety
/// `block` outlives the guard.
pub unsafe fn begin(operation: [&'static str; 2], block: *const Block, kernel: &super::Kernel, checks: bool) -> Guard {
    HANDLER_STACK.with(|_| ());
    if !checks {
        // The name was made from a `CStr`, so a NUL follows it.
        UNCHECKED.store(kernel.name.as_ptr().cast_mut().cast(), Ordering::Release);
    }
    Guard(RUNNING.replace(Some(Running { operation, kernel: kernel.name, checks, block })))
}

/// Returns the kernel that runs on this thread.
pub fn running() -> Option<Running> {
    RUNNING.get()
}

/// Returns the name of the last kernel that ran without checks in this process.
pub fn unchecked() -> Option<&'static CStr> {
    let name = UNCHECKED.load(Ordering::Acquire);
    // SAFETY: null, or a string literal of a kernel's source (`registry`), which is NUL-terminated and never freed.
    (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) })
}

/// What an address that a kernel should not have accessed is close to.
pub enum Outside {
    /// The guard at the end of the emulated thread's stack.
    Stack,
    /// The operand of this name.
    Operand(&'static str, Place),
    /// Neither a stack guard nor near any operand.
    Unknown,
}

impl Running {
    /// Returns the block index and the thread index of the emulated thread that is running, or was the last to run.
    pub fn thread(&self) -> [[u32; 3]; 2] {
        ffi::coordinates()
    }

    /// Finds what an address is close to. This follows pointers that the kernel may have corrupted.
    pub fn outside(&self, address: u64) -> Outside {
        // SAFETY: the block is alive (`begin`), and the thread that could change it is the one that has stopped here.
        let block = unsafe { &*self.block };
        // SAFETY: the memory outlives its blocks.
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
