//! Replaces `cublaslt.rs` in a build without the feature `cublaslt`.

use crate::device::cuda::cublaslt::Product;
use crate::error::{Error, Result};
use cudarc::driver::CudaStream;
use std::sync::Arc;

/// Matmuls of cuBLASLt. Without the feature, none can exist.
pub enum Products {}

/// Checks that cuBLASLt is available.
///
/// # Errors
/// Always fails. The message says how to build with cuBLASLt.
pub fn admit() -> Result<()> {
    Err(without())
}

fn without() -> Error {
    Error::new("this build does not include cuBLASLt; build with `cargo build --release --features cublaslt`")
}

impl Products {
    /// Prepares matmuls.
    ///
    /// # Errors
    /// Always fails, like [`admit`].
    pub fn new(_: &Arc<CudaStream>, _: &[Product]) -> Result<Self> {
        Err(without())
    }

    /// Returns the version of the library.
    pub fn version(&self) -> String {
        match *self {}
    }

    /// Returns the stream that the matmuls run on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        match *self {}
    }

    /// Returns the number of matmuls.
    pub fn len(&self) -> usize {
        match *self {}
    }

    /// Returns whether there are no matmuls.
    pub fn is_empty(&self) -> bool {
        match *self {}
    }

    /// Launches a matmul.
    ///
    /// # Safety
    /// None, since it can never be called.
    ///
    /// # Errors
    /// Never fails.
    pub unsafe fn start(&self, _: usize) -> Result<()> {
        match *self {}
    }
}
