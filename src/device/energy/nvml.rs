//! The NVIDIA Management Library, which comes with the driver. Loaded at run time. See
//! <https://docs.nvidia.com/deploy/nvml-api/>.

use libloading::Library;
use std::ffi::{CString, c_char, c_int, c_ulonglong, c_void};

/// Its name on Linux.
const LIBRARY: &str = "libnvidia-ml.so.1";

const SUCCESS: c_int = 0;

type Handle = *mut c_void;
type Init = unsafe extern "C" fn() -> c_int;
type HandleByBus = unsafe extern "C" fn(*const c_char, *mut Handle) -> c_int;
type TotalEnergy = unsafe extern "C" fn(Handle, *mut c_ulonglong) -> c_int;

/// The counter of a GPU (Volta and later), in millijoules; the driver renews it some ten times a second or more.
pub struct Gpu {
    library: Library,
    handle: Handle,
    /// When it was opened.
    start: u64,
}

// SAFETY: NVML may be called from any thread, and its handles are no thread's own.
unsafe impl Send for Gpu {}

impl Gpu {
    /// The counter of the GPU at this address of the PCI bus, from now on. `None` where the library, the GPU or its counter is
    /// missing.
    pub fn open(bus: &str) -> Option<Self> {
        // SAFETY: the dynamic linker finds NVIDIA's library by this name, or none.
        unsafe { Self::open_library(LIBRARY, bus) }
    }

    /// As [`Gpu::open`], of a library elsewhere.
    ///
    /// # Safety
    /// The library runs sound code when it is loaded, and what it has of NVML's functions is of the types in nvml.h.
    pub unsafe fn open_library(library: &str, bus: &str) -> Option<Self> {
        let bus = CString::new(bus).ok()?;
        // SAFETY: the caller's promise.
        let library = unsafe { Library::new(library) }.ok()?;
        let mut handle: Handle = std::ptr::null_mut();
        // SAFETY: the types are those of nvml.h: the caller's promise, here and below. NVML counts how often it is initialised; `drop` shuts it down as often.
        let initialised = unsafe { library.get::<Init>("nvmlInit_v2").is_ok_and(|init| init() == SUCCESS) };
        if !initialised {
            return None;
        }
        let mut gpu = Gpu { library, handle, start: 0 };
        // SAFETY: as above; reads a string that ends in zero, and writes one handle.
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

    /// Joules since then.
    pub fn joules(&self) -> Option<f64> {
        Some(self.millijoules()?.saturating_sub(self.start) as f64 / 1e3)
    }

    /// Since the driver was loaded.
    fn millijoules(&self) -> Option<u64> {
        let mut energy: c_ulonglong = 0;
        // SAFETY: the type is that of nvml.h (`open_library`), the handle is of this library and initialised; writes one number.
        let read = unsafe {
            let total = self.library.get::<TotalEnergy>("nvmlDeviceGetTotalEnergyConsumption");
            total.is_ok_and(|total| total(self.handle, &raw mut energy) == SUCCESS)
        };
        read.then_some(energy)
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: as for `Init`; no handle is used any more.
        let _ = unsafe { self.library.get::<Init>("nvmlShutdown").map(|shutdown| shutdown()) };
    }
}
