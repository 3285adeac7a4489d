//! Errors of the NVIDIA driver, for a person.

use crate::error::Error;
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::CUresult;

/// What to do without a GPU.
pub const ELSEWHERE: &str = "--device cpu and --device emulator need no GPU";

/// Whether a kernel did it. The context is lost with it.
pub fn is_fault(code: CUresult) -> bool {
    matches!(
        code,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
    )
}

/// Why there is no context.
pub fn unopened(error: &DriverError) -> Error {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES");
    let remedy = match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE | CUresult::CUDA_ERROR_INVALID_DEVICE => match visible {
            Ok(list) => format!("no GPU is visible with CUDA_VISIBLE_DEVICES={list:?}"),
            Err(_) => "the NVIDIA driver finds no GPU".into(),
        },
        CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "the libcuda found is a toolkit's stub for linking; take its folder out of LD_LIBRARY_PATH".into()
        }
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "libcuda and the driver in the kernel are of different versions; restart, or install one of them anew"
                .into()
        }
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            "the GPU's memory is full; stop other programs on it (nvidia-smi lists them)".into()
        }
        CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => "another program has the GPU for itself".into(),
        _ => "the driver does not start; nvidia-smi may say more, and a container needs --gpus all".into(),
    };
    Error::new(format!("--device cuda: {remedy}: {}. {ELSEWHERE}", told(error)))
}

/// The error of a call that fails by itself.
pub fn failed(action: &str) -> impl Fn(DriverError) -> Error {
    move |error| Error::new(format!("{action}: {}", told(&error)))
}

/// `out of memory (CUDA_ERROR_OUT_OF_MEMORY)`.
pub fn told(error: &DriverError) -> String {
    match error.error_string() {
        Ok(text) => format!("{} ({:?})", text.to_string_lossy(), error.0),
        Err(_) => format!("{:?}", error.0),
    }
}

/// For a person.
pub fn gib(bytes: usize) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}
