//! Ranges for Nsight Systems and other tools, where NVIDIA's library for them is installed: libnvToolsExt, which comes with CUDA 12
//! and older.

use cudarc::nvtx::sys;
use std::ffi::CString;

/// Whether ranges can be shown.
#[derive(Clone, Copy)]
pub struct Ranges {
    present: bool,
}

impl Ranges {
    /// Looks for the library once.
    pub fn new() -> Self {
        // SAFETY: opens and closes NVIDIA's library, whose initialisers are its own.
        Ranges { present: unsafe { sys::is_culib_present() } }
    }

    pub fn begin(self, name: &str) {
        if let (true, Ok(name)) = (self.present, CString::new(name)) {
            // SAFETY: the library is there, and copies the name.
            unsafe { sys::nvtxRangePushA(name.as_ptr()) };
        }
    }

    pub fn end(self) {
        if self.present {
            // SAFETY: the library is there.
            unsafe { sys::nvtxRangePop() };
        }
    }
}
