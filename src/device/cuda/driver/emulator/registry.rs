//! The kernels that the host's compiler has built, as their static constructors registered them.

use std::ffi::{CStr, c_char, c_int, c_uchar, c_void};

/// As `emu::Kernel` in `kernels/emulator/shim.h`.
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

/// A kernel that can be run.
#[derive(Clone, Copy)]
pub struct Kernel {
    pub name: &'static str,
    /// The file and the line that it stands in.
    pub file: &'static str,
    pub line: u32,
    /// The most threads of a block.
    pub threads: u32,
    /// Blocks of a cluster, along x.
    pub cluster: u32,
    /// Size in bytes of each parameter.
    pub sizes: &'static [u8],
    /// Calls it for the current thread, with the address of each parameter.
    pub run: unsafe extern "C" fn(*const *const c_void),
}

/// All of them, in no particular order.
pub fn kernels() -> impl Iterator<Item = Kernel> {
    // SAFETY: written by static constructors before `main` alone.
    let mut next = unsafe { emu_kernels };
    std::iter::from_fn(move || {
        // SAFETY: null or a static of a kernel's file.
        let raw = unsafe { next.as_ref() }?;
        next = raw.next;
        // SAFETY: string literals and a static array of that length.
        let (name, file, sizes) = unsafe {
            (
                CStr::from_ptr(raw.name),
                CStr::from_ptr(raw.file),
                std::slice::from_raw_parts(raw.sizes, raw.parameters as usize),
            )
        };
        Some(Kernel {
            name: name.to_str().unwrap_or_default(),
            file: file.to_str().unwrap_or_default(),
            line: raw.line.unsigned_abs(),
            threads: raw.threads.unsigned_abs(),
            cluster: raw.cluster.unsigned_abs(),
            sizes,
            run: raw.run,
        })
    })
}

/// The kernel of this name.
pub fn find(name: &str) -> Option<Kernel> {
    kernels().find(|kernel| kernel.name == name)
}
