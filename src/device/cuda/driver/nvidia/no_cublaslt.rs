//! In place of `cublaslt.rs` in a build without that feature.

use crate::device::cuda::cublaslt::Product;
use crate::error::{Error, Result};
use cudarc::driver::CudaStream;
use std::sync::Arc;

/// There are none.
pub enum Products {}

/// # Errors
/// Always: says how to build with it.
pub fn admit() -> Result<()> {
    Err(without())
}

fn without() -> Error {
    Error::new("this build is without cuBLASLt; build with `cargo build --release --features cublaslt`")
}

impl Products {
    /// # Errors
    /// Always.
    pub fn new(_: &Arc<CudaStream>, _: &[Product]) -> Result<Self> {
        Err(without())
    }

    pub fn version(&self) -> String {
        match *self {}
    }

    pub fn stream(&self) -> &Arc<CudaStream> {
        match *self {}
    }

    pub fn len(&self) -> usize {
        match *self {}
    }

    pub fn is_empty(&self) -> bool {
        match *self {}
    }

    /// # Safety
    /// Never called.
    ///
    /// # Errors
    /// Never.
    pub unsafe fn start(&self, _: usize) -> Result<()> {
        match *self {}
    }
}
