//! Energy of a GPU from the NVIDIA Management Library (NVML), which comes with the driver and is loaded at run time.
//! See <https://docs.nvidia.com/deploy/nvml-api/>.

use libloading::Library;
use std::ffi::{CString, c_char, c_int, c_ulonglong, c_void};

/// The name of the library on Linux.
const LIBRARY: &str = "libnvidia-ml.so.1";

const SUCCESS: c_int = 0;

type Handle = *mut c_void;
type Init = unsafe extern "C" fn() -> c_int;
type HandleByBus = unsafe extern "C" fn(*const c_char, *mut Handle) -> c_int;
type TotalEnergy = unsafe extern "C" fn(Handle, *mut c_ulonglong) -> c_int;

/// The energy counter of a GPU (Volta or later). The driver updates it about ten times a second or more often.
pub struct Gpu {
    library: Library,
    handle: Handle,
    /// The counter when it was opened, in millijoules.
    start: u64,
}

// SAFETY: NVML may be called from any thread, and its handles are not bound to a thread.
unsafe impl Send for Gpu {}

impl Gpu {
    /// Opens the counter of the GPU at a PCI address. It counts from now on. `None` if the library, the GPU or its
    /// counter is missing.
    pub fn open(bus: &str) -> Option<Self> {
        // SAFETY: by this name, the dynamic linker finds either NVIDIA's library or nothing.
        unsafe { Self::open_library(LIBRARY, bus) }
    }

    /// Does the same as [`Gpu::open`] with another library.
    ///
    /// # Safety
    /// Loading the library must not run unsound code, and the NVML functions that it exports must have the types in
    /// nvml.h.
    pub unsafe fn open_library(library: &str, bus: &str) -> Option<Self> {
        let bus = CString::new(bus).ok()?;
        // SAFETY: guaranteed by the caller.
        let library = unsafe { Library::new(library) }.ok()?;
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: the caller guarantees the types of nvml.h, here and below. NVML counts its initialisations, and
        // `drop` balances this one.
        let initialised = unsafe { library.get::<Init>("nvmlInit_v2").is_ok_and(|init| init() == SUCCESS) };
        if !initialised {
            return None;
        }
        let mut gpu = Gpu { library, handle, start: 0 };
        // SAFETY: as above; reads a NUL-terminated string and writes one handle.
        let found = unsafe {
            let by_bus = gpu.library.get::<HandleByBus>("nvmlDeviceGetHandleByPciBusId_v2");
            by_bus.is_ok_and(|by_bus| by_bus(bus.as_ptr(), &raw mut handle) == SUCCESS)
        };
        if !found {
            return None;
        }
        gpu.handle = handle;
        gpu.start = gpu.millijoules()?;
        Some(gpu)
    }

    /// Returns the joules since the counter was opened; `None` if it can no longer be read.
    pub fn joules(&self) -> Option<f64> {
        Some(self.millijoules()?.saturating_sub(self.start) as f64 / 1e3)
    }

    /// Returns the raw counter: millijoules since the driver was loaded.
    fn millijoules(&self) -> Option<u64> {
        let mut energy: c_ulonglong = 0;
        // SAFETY: the type is that of nvml.h (see `open_library`), and the handle is a valid one of this library;
        // writes one number.
        let read = unsafe {
            let total = self.library.get::<TotalEnergy>("nvmlDeviceGetTotalEnergyConsumption");
            total.is_ok_and(|total| total(self.handle, &raw mut energy) == SUCCESS)
        };
        read.then_some(energy)
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: the type is that of nvml.h (see `open_library`), and the handle is not used any more.
        let _ = unsafe { self.library.get::<Init>("nvmlShutdown").map(|shutdown| shutdown()) };
    }
}
