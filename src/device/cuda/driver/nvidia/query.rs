//! What the driver tells about itself, a GPU and a kernel.

use crate::device::cuda::gpu_spec::GpuSpec;
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::{self, CUdevice_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaFunction};

/// Returns the sizes of a kernel's parameters in bytes; `None` for drivers older than CUDA 12.4, which cannot report
/// them.
pub fn parameters(function: &CudaFunction, driver: i32) -> Option<Vec<u8>> {
    if driver < 12_040 {
        return None;
    }
    let mut sizes = Vec::new();
    let (mut offset, mut size) = (0, 0);
    // SAFETY: the function is loaded, and the driver (which has this call since 12.4) writes one number through each
    // pointer. Past the last parameter it returns an error and writes nothing.
    while unsafe { sys::cuFuncGetParamInfo(function.cu_function(), sizes.len(), &raw mut offset, &raw mut size) }
        == CUresult::CUDA_SUCCESS
    {
        sizes.push(u8::try_from(size).unwrap_or(u8::MAX));
    }
    Some(sizes)
}

/// Queries the peak rates of the GPU for the time models.
pub fn gpu_spec(context: &CudaContext, capability: (i32, i32)) -> Result<GpuSpec, DriverError> {
    let ask = |what| context.attribute(what).map(f64::from);
    let sms = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let clock = 1e3 * ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?;
    let memory = 1e3 * ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?;
    let width = ask(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)? / 8.0;
    // Virtual and integrated GPUs may not report their clocks.
    if sms * clock * memory * width == 0.0 {
        return Ok(GpuSpec::A100);
    }
    // Double data rate: two transfers per clock.
    Ok(GpuSpec::of(sms as usize, clock, 2.0 * memory * width, capability))
}

/// Returns the newest CUDA version that the driver supports, as 1000 x major + 10 x minor; 0 if it does not report it.
pub fn driver_version() -> i32 {
    let mut version = 0;
    // SAFETY: writes one int, and may be called at any time once libcuda is loaded.
    let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    if asked == CUresult::CUDA_SUCCESS { version } else { 0 }
}
