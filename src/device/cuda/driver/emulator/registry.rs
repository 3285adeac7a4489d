//! The kernels compiled by the host's compiler. Their static constructors register them in a linked list.

use super::reload;
use std::ffi::{CStr, c_char, c_int, c_uchar, c_void};
use std::ptr;

/// A node of the list, with the layout of `emu::Kernel` in `kernels/emulator/shim.h`.
#[repr(C)]
struct Raw {
    name: *const c_char,
    file: *const c_char,
    line: c_int,
    threads: c_int,
    cluster: c_int,
    parameters: c_int,
    sizes: *const c_uchar,
    run: unsafe extern "C" fn(*const *const c_void),
    next: *const Raw,
}

unsafe extern "C" {
    static emu_kernels: *const Raw;
}

/// A kernel that the emulator can run.
#[derive(Clone, Copy)]
pub struct Kernel {
    /// The `extern "C"` name, such as `accumulate_f32`.
    pub name: &'static str,
    /// The source file of its definition, as the compiler's `__FILE__`.
    pub file: &'static str,
    /// The line of its definition in `file`, counted from 1.
    pub line: u32,
    /// The largest number of threads per block.
    pub threads: u32,
    /// Blocks per cluster, along x; 1 without clusters.
    pub cluster: u32,
    /// The size of each parameter in bytes.
    pub sizes: &'static [u8],
    /// Runs the kernel for the current thread. The argument is an array of the parameters' addresses.
    pub run: unsafe extern "C" fn(*const *const c_void),
}

/// Returns the head of the list, to be compared with later ones.
pub(super) fn head() -> *const c_void {
    // SAFETY: written only by static constructors, which run before `main` and in `reload`.
    unsafe { emu_kernels }.cast()
}

/// Iterates over all kernels, in no particular order. Where a kernel was compiled again because its source has changed,
/// this is the new one.
pub fn kernels() -> impl Iterator<Item = Kernel> {
    // If it failed, `Emulator::check` returns the error.
    let reloaded = reload::changed().unwrap_or_default();
    let mut old = reloaded.is_none();
    let mut next: *const Raw = head().cast();
    std::iter::from_fn(move || {
        // SAFETY: null, or a static variable of a kernel's file.
        let raw = unsafe { next.as_ref() }?;
        old |= reloaded.is_some_and(|r| ptr::eq(r.before as *const Raw, raw));
        next = raw.next;
        Some((raw, old))
    })
    .filter(move |(raw, old)| {
        // SAFETY: a string literal.
        let file = unsafe { CStr::from_ptr(raw.file) };
        !(*old && reloaded.is_some_and(|r| r.files.iter().any(|name| name.as_bytes() == file.to_bytes())))
    })
    .map(|(raw, _)| {
        // SAFETY: string literals, and a static array of `parameters` elements.
        let (name, file, sizes) = unsafe {
            (
                CStr::from_ptr(raw.name),
                CStr::from_ptr(raw.file),
                std::slice::from_raw_parts(raw.sizes, raw.parameters as usize),
            )
        };
        Kernel {
            name: name.to_str().unwrap_or_default(),
            file: file.to_str().unwrap_or_default(),
            line: raw.line.unsigned_abs(),
            threads: raw.threads.unsigned_abs(),
            cluster: raw.cluster.unsigned_abs(),
            sizes,
            run: raw.run,
        }
    })
}

/// Finds a kernel by name.
pub fn find(name: &str) -> Option<Kernel> {
    kernels().find(|kernel| kernel.name == name)
}
