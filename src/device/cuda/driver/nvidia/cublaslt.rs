//! cuBLASLt: descriptions of products made once, and started on the driver's stream. It is column-major, where a row-major
//! matrix is its own transpose: `out^T = op(b)^T op(a)^T` has both operands in the other order and nothing else changed.

use super::failed;
use crate::bail;
use crate::device::cuda::cublaslt::{Matrix, Product};
use crate::error::{Error, Result};
use crate::tensor::DType;
use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;
use cudarc::driver::CudaStream;
use cudarc::driver::result as driver;
use std::ffi::c_void;
use std::ptr::{self, null_mut};
use std::sync::Arc;

/// Bytes of scratch memory, as NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;

/// The library is on this machine.
///
/// # Errors
/// Says how to get it.
pub fn admit() -> Result<()> {
    // SAFETY: only opens the library and closes it again; its initialisers are NVIDIA's own.
    if !unsafe { sys::is_culib_present() } {
        bail!(
            "libcublasLt.so or libcublasLt.so.12 is in no folder that is searched. It comes with the CUDA toolkit and with \
             `pip install nvidia-cublas-cu12`; add its folder to LD_LIBRARY_PATH"
        );
    }
    Ok(())
}

/// Products, ready to be started.
pub struct Products {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    stream: Arc<CudaStream>,
    plans: Vec<Plan>,
}

/// One product: null where a description is still to be made.
struct Plan {
    product: Product,
    desc: sys::cublasLtMatmulDesc_t,
    /// Of the first operand there, which is our second; of the second; of the output.
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    algorithm: Option<sys::cublasLtMatmulAlgo_t>,
}

fn refused(action: &str) -> impl Fn(CublasError) -> Error {
    move |error| Error::new(format!("{action}: {error}"))
}

fn data_type(dtype: DType) -> Result<sys::cudaDataType> {
    match dtype {
        DType::F32 => Ok(sys::cudaDataType::CUDA_R_32F),
        DType::BF16 => Ok(sys::cudaDataType::CUDA_R_16BF),
        other => bail!("no products of {other:?}"),
    }
}

impl Products {
    /// # Errors
    /// No library; what it refuses.
    pub fn new(stream: &Arc<CudaStream>, products: &[Product]) -> Result<Self> {
        admit()?;
        let handle = result::create_handle().map_err(refused("starting"))?;
        let mut this = Products { handle, workspace: 0, stream: stream.clone(), plans: Vec::new() };
        // SAFETY: plain memory, which nobody reads before cuBLASLt has written it.
        this.workspace = unsafe { driver::malloc_sync(WORKSPACE) }.map_err(failed("allocating scratch memory"))?;
        for product in products {
            let mut plan = Plan { product: *product, desc: null_mut(), layouts: [null_mut(); 3], algorithm: None };
            plan.make(handle)?;
            this.plans.push(plan);
        }
        Ok(this)
    }

    /// As `12.8.4`.
    pub fn version(&self) -> String {
        // SAFETY: only returns a number; the library is there.
        let n = unsafe { sys::cublasLtGetVersion() };
        format!("{}.{}.{}", n / 10_000, n / 100 % 100, n % 100)
    }

    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    pub fn len(&self) -> usize {
        self.plans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }

    /// Starts a product on the stream.
    ///
    /// # Safety
    /// Its matrices lie in memory of the GPU that is there until the work has ended.
    ///
    /// # Errors
    /// What cuBLASLt refuses.
    pub unsafe fn start(&self, number: usize) -> Result<()> {
        let Some(Plan { product: Product { a, b, out, .. }, desc, layouts, algorithm: Some(algorithm) }) =
            self.plans.get(number)
        else {
            bail!("there is no product {number}")
        };
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: descriptions live as long as this value. The matrices are the caller's promise; alpha and beta are read before
        // the call returns.
        unsafe {
            result::matmul(
                self.handle,
                *desc,
                ptr::from_ref(&one).cast(),
                ptr::from_ref(&zero).cast(),
                b.address as *const c_void,
                layouts[0],
                a.address as *const c_void,
                layouts[1],
                out.address as *const c_void,
                layouts[2],
                out.address as *mut c_void,
                layouts[2],
                algorithm,
                self.workspace as *mut c_void,
                WORKSPACE,
                self.stream.cu_stream().cast(),
            )
        }
        .map_err(refused("starting a product"))
    }
}

impl Plan {
    fn make(&mut self, handle: sys::cublasLtHandle_t) -> Result<()> {
        let Product { a, b, out, ta, tb } = self.product;
        // Without TF32, and sums in f32: as our kernels.
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let desc = result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F);
        self.desc = desc.map_err(refused("describing a product"))?;
        let sides = [
            (sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA, tb),
            (sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB, ta),
        ];
        for (attribute, transposed) in sides {
            // CUBLAS_OP_N and CUBLAS_OP_T.
            let operation = i32::from(transposed);
            // SAFETY: the description was just made; the value is copied from 4 bytes that live on.
            unsafe {
                result::set_matmul_desc_attribute(
                    self.desc,
                    attribute,
                    ptr::from_ref(&operation).cast(),
                    size_of::<i32>(),
                )
            }
            .map_err(refused("describing a product"))?;
        }
        for (layout, matrix) in self.layouts.iter_mut().zip([b, a, out]) {
            let Matrix { dtype, rows, width, pitch, .. } = matrix;
            let made = result::create_matrix_layout(data_type(dtype)?, width as u64, rows as u64, pitch as i64);
            *layout = made.map_err(refused("describing a matrix"))?;
        }
        self.algorithm = Some(self.choose(handle)?);
        Ok(())
    }

    /// The algorithm that the heuristics put first.
    fn choose(&self, handle: sys::cublasLtHandle_t) -> Result<sys::cublasLtMatmulAlgo_t> {
        let preference = result::create_matmul_pref().map_err(refused("describing a preference"))?;
        let [b, a, out] = self.layouts;
        let attribute = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: all descriptions were just made, and the preference is destroyed once; the value is copied from 8 bytes.
        let found = unsafe {
            let bytes = WORKSPACE as u64;
            let set = result::set_matmul_pref_attribute(
                preference,
                attribute,
                ptr::from_ref(&bytes).cast(),
                size_of::<u64>(),
            );
            let found =
                set.and_then(|()| result::get_matmul_algo_heuristic(handle, self.desc, b, a, out, out, preference));
            let _ = result::destroy_matmul_pref(preference);
            found
        };
        found.map(|found| found.algo).map_err(refused("choosing an algorithm"))
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: made in `make`, where not null, and destroyed here alone. What fails has nobody to be told.
        unsafe {
            for layout in self.layouts.into_iter().filter(|layout| !layout.is_null()) {
                let _ = result::destroy_matrix_layout(layout);
            }
            if !self.desc.is_null() {
                let _ = result::destroy_matmul_desc(self.desc);
            }
        }
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        let _ = self.stream.context().bind_to_thread();
        let _ = self.stream.synchronize();
        self.plans.clear();
        // SAFETY: made in `new`; no work is in flight. An address of 0 was never allocated.
        unsafe {
            if self.workspace != 0 {
                let _ = driver::free_sync(self.workspace);
            }
            let _ = result::destroy_handle(self.handle);
        }
    }
}
