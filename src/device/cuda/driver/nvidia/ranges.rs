//! NVTX ranges for Nsight Systems and other profilers, if libnvToolsExt is installed (it comes with CUDA 12 and older).

use cudarc::nvtx::sys;
use std::ffi::CString;

/// Emits NVTX ranges, or does nothing without the library.
#[derive(Clone, Copy)]
pub struct Ranges {
    present: bool,
}

impl Ranges {
    /// Looks for the library once.
    pub fn new() -> Self {
        // SAFETY: only opens and closes NVIDIA's library, which runs NVIDIA's own initialisers.
        Ranges { present: unsafe { sys::is_culib_present() } }
    }

    /// Begins a range. Ranges nest.
    pub fn begin(self, name: &str) {
        if let (true, Ok(name)) = (self.present, CString::new(name)) {
            // SAFETY: the library is present, and copies the name.
            unsafe { sys::nvtxRangePushA(name.as_ptr()) };
        }
    }

    /// Ends the innermost range.
    pub fn end(self) {
        if self.present {
            // SAFETY: the library is present.
            unsafe { sys::nvtxRangePop() };
        }
    }
}
