//! Errors of the NVIDIA driver as messages with remedies.

use crate::error::Error;
use cudarc::driver::result::DriverError;
use cudarc::driver::sys::CUresult;

/// The end of messages that say why `--device cuda` cannot run.
pub const ELSEWHERE: &str = "--device cpu and --device emulator need no GPU";

/// Returns whether the error is a kernel fault. The context cannot be used after one.
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

/// Returns the error for a context that cannot be created, with the likely cause.
pub fn open_error(error: &DriverError) -> Error {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES");
    let remedy = match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE | CUresult::CUDA_ERROR_INVALID_DEVICE => match visible {
            Ok(list) => format!("no GPU is visible with CUDA_VISIBLE_DEVICES={list:?}"),
            Err(_) => "the NVIDIA driver finds no GPU".into(),
        },
        CUresult::CUDA_ERROR_STUB_LIBRARY => {
            "the libcuda that was found is the toolkit's stub for linking; remove its folder from LD_LIBRARY_PATH"
                .into()
        }
        CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH | CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => {
            "libcuda and the kernel driver have different versions; reboot, or reinstall the driver".into()
        }
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            "the GPU's memory is full; stop other programs on it (nvidia-smi lists them)".into()
        }
        CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE => "another program uses the GPU exclusively".into(),
        _ => "the driver cannot be initialized; nvidia-smi may say more, and a container needs --gpus all".into(),
    };
    Error::new(format!("--device cuda: {remedy}: {}. {ELSEWHERE}", describe(error)))
}

/// Returns the error for the number of a GPU that is not there.
pub fn no_such_gpu(gpu: usize, count: usize) -> Error {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").map(|list| format!(" (with CUDA_VISIBLE_DEVICES={list:?})"));
    let there = match count {
        1 => "1 GPU, cuda:0".into(),
        _ => format!("{count} GPUs, cuda:0 to cuda:{}", count.saturating_sub(1)),
    };
    Error::new(format!(
        "--device cuda:{gpu}: there is no such GPU; this machine has {there}{}",
        visible.unwrap_or_default()
    ))
}

/// Returns a function that turns the error of a driver call into a message starting with `action`.
pub fn failed(action: &str) -> impl Fn(DriverError) -> Error {
    move |error| Error::new(format!("{action}: {}", describe(&error)))
}

/// Formats a driver error, such as `out of memory (CUDA_ERROR_OUT_OF_MEMORY)`.
pub fn describe(error: &DriverError) -> String {
    match error.error_string() {
        Ok(text) => format!("{} ({:?})", text.to_string_lossy(), error.0),
        Err(_) => format!("{:?}", error.0),
    }
}

/// Formats a number of bytes in GiB.
pub fn gib(bytes: usize) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}
