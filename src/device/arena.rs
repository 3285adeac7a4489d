//! A single allocation of a host device.

use crate::error::{Error, Result};
use crate::memory;
use std::ptr::NonNull;

/// Bytes of a cache line, and of the widest vector load.
const ALIGNMENT: usize = 64;

/// A block of memory, initialised to zeros and freed when dropped.
pub struct Arena {
    start: NonNull<u8>,
    bytes: usize,
    /// Owner of the memory, which frees it.
    _pages: pages::Pages,
}

// SAFETY: an arena owns its allocation like a `Vec<u8>`, and hands out only its address, never a reference.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Allocates `bytes` zeros.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn new(bytes: usize) -> Result<Self> {
        if bytes > isize::MAX as usize {
            return Err(Error::new(format!(
                "an arena of {bytes} bytes exceeds the address space; use a smaller batch or model"
            )));
        }
        memory::require(bytes)?;
        let (start, pages) = pages::zeros(bytes).ok_or_else(|| memory::refused(bytes))?;
        Ok(Arena { start, bytes, _pages: pages })
    }

    /// Returns the address of the first byte. It stays valid while the arena lives, even when the arena is moved.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Returns the size in bytes.
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

    /// Size of a large page in bytes. Smaller arenas gain nothing from large pages.
    #[cfg(target_os = "linux")]
    const LARGE_PAGE: usize = 2 << 20;

    /// Maps zeros, on large pages if the system has them: fewer page faults at first touch and fewer TLB misses.
    pub fn zeros(bytes: usize) -> Option<(NonNull<u8>, Pages)> {
        let mut pages = MmapMut::map_anon(bytes.max(ALIGNMENT)).ok()?;
        #[cfg(target_os = "linux")]
        if bytes >= LARGE_PAGE {
            // Only a hint: a system without large pages uses small ones.
            let _ = pages.advise(memmap2::Advice::HugePage);
        }
        Some((NonNull::new(pages.as_mut_ptr())?, pages))
    }
}

/// For Miri, which does not support anonymous mappings, and AddressSanitizer. Both detect accesses past the end of a
/// heap allocation of the exact size.
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
            // SAFETY: `zeros` allocated it with this layout.
            unsafe { dealloc(self.0.as_ptr(), self.1) }
        }
    }
}
