//! One allocation of a host device.

use crate::error::{Error, Result};
use crate::memory;
use std::ptr::NonNull;

/// Cache lines, and the widest vector load.
const ALIGNMENT: usize = 64;

/// Zeros at first, then what operations wrote. Freed when dropped.
pub struct Arena {
    start: NonNull<u8>,
    bytes: usize,
    /// Owns the memory.
    _pages: pages::Pages,
}

// SAFETY: an arena owns its allocation as a `Vec<u8>` does, and gives out no reference to it, only its address.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// # Errors
    /// Out of memory.
    pub fn new(bytes: usize) -> Result<Self> {
        if bytes > isize::MAX as usize {
            return Err(Error::new(format!(
                "an arena of {bytes} bytes is beyond any memory; use a smaller batch or model"
            )));
        }
        memory::require(bytes)?;
        let (start, pages) = pages::zeros(bytes).ok_or_else(|| memory::refused(bytes))?;
        Ok(Arena { start, bytes, _pages: pages })
    }

    /// Of the first byte. It lives as long as the arena, wherever that is moved.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(not(any(miri, heap_arenas)))]
mod pages {
    use super::ALIGNMENT;
    use memmap2::MmapMut;
    use std::ptr::NonNull;

    pub type Pages = MmapMut;

    /// Smaller arenas gain nothing by large pages.
    #[cfg(target_os = "linux")]
    const LARGE_PAGE: usize = 2 << 20;

    /// In pages as large as the system gives: fewer faults at first touch, fewer misses of the translation buffer.
    pub fn zeros(bytes: usize) -> Option<(NonNull<u8>, Pages)> {
        let mut pages = MmapMut::map_anon(bytes.max(ALIGNMENT)).ok()?;
        #[cfg(target_os = "linux")]
        if bytes >= LARGE_PAGE {
            // A wish: a system without large pages goes on with small ones.
            let _ = pages.advise(memmap2::Advice::HugePage);
        }
        Some((NonNull::new(pages.as_mut_ptr())?, pages))
    }
}

/// For Miri, which has no such mappings, and AddressSanitizer: both see accesses past the end of an allocation of exactly this size.
#[cfg(any(miri, heap_arenas))]
mod pages {
    use super::ALIGNMENT;
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::ptr::NonNull;

    pub struct Pages(NonNull<u8>, Layout);

    pub fn zeros(bytes: usize) -> Option<(NonNull<u8>, Pages)> {
        let layout = Layout::from_size_align(bytes.max(1), ALIGNMENT).ok()?;
        // SAFETY: the layout has a size above zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some((start, Pages(start, layout)))
    }

    impl Drop for Pages {
        fn drop(&mut self) {
            // SAFETY: allocated in `zeros` with this layout.
            unsafe { dealloc(self.0.as_ptr(), self.1) }
        }
    }
}
